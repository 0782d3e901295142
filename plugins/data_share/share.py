"""The share between Databricks and Snowflake: its names, and the paths and tables that a sync creates under them."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Any

from data_share.share_file import DEFAULT, ShareNames, share_file
from data_share.sql_text import shown, sql_string, table_parts

LOCK_KEY = ("target_database", "target_schema", "target_name")
"""Columns of a lock table that name the target."""

_TIME_IN_KEY = "%Y%m%dT%H%M%S"


class Share(ShareNames):
    """
    The names of one share, and what a sync derives from them.

    A name that is not given is that of the deployment: of the share at the top of ``include/share.yaml``.

    :param name: its name in that file
    """

    name: str = DEFAULT

    def __init__(self, **names: Any) -> None:
        given = names if names.keys() >= ShareNames.model_fields.keys() else {**_deployed(DEFAULT), **names}
        super().__init__(**given)

    def export_path(self, dataset: str, key: str, attempt: int, attempt_id: object) -> str:
        """
        Return the folder of an attempt's export: a new one each time, so that no file of an earlier attempt is loaded.

        :param attempt: number of the attempt
        :param attempt_id: Airflow's id of the attempt. Unlike the number, it is never used twice: not when a run is
            deleted and created again, nor when Airflow gets a new database.
        """
        # Both were validated: the export's SQL accepts only their characters in a path.
        return f"{self.url}{dataset}/{key}/{attempt}-{_digest(attempt_id)}/"

    def path_in_stage(self, path: str, dataset: str) -> str:
        """
        Return an export path relative to the stage, safe for the text of a COPY statement.

        :param path: the path that the Databricks run reports
        :param dataset: the dataset to load
        :raises ValueError: for a path outside this dataset's folder of the share, or with unsafe characters
        """
        pattern = re.escape(f"{self.url}{dataset}/") + r"[0-9]{8}T[0-9]{6}_[0-9a-f]{8}/[0-9]+-[0-9a-f]{8}/"
        if not re.fullmatch(pattern, path):
            raise ValueError(
                f"The Databricks run reports the export path {path!r}, which is not of the form "
                f"{self.url}{dataset}/<run key>/<attempt>-<hash>/. Nothing was loaded."
            )
        return path.removeprefix(self.url)

    def owner(self, dataset: str) -> str:
        """Return the owner of a target in its lock table: the dataset, with the environment if it has a name."""
        return f"{self.environment}/{dataset}" if self.environment else dataset

    def staging_table(self, target_table: str, key: str, attempt: int, attempt_id: object) -> str:
        """
        Return the staging table of an attempt to copy. No other attempt can fill, empty or publish it.

        :param attempt: number of the attempt
        :param attempt_id: Airflow's id of the attempt, as for :meth:`export_path`
        """
        return f"{self._staging_prefix(target_table, key)}{attempt}_{_digest(attempt_id)}"

    def is_staging_of_run(self, table: str, target_table: str, key: str) -> bool:
        """
        Return whether a table is a staging table of one run.

        :param table: its name, from :meth:`staging_table` or from SHOW TABLES
        """
        name = table.lower().removeprefix(f"{self.staging_schema}.")
        prefix = self._staging_prefix(target_table, key).lower().removeprefix(f"{self.staging_schema}.")
        return re.fullmatch(re.escape(prefix) + r"[0-9]+_[0-9a-f]{8}(__manifest|__samples)?", name) is not None

    def lock_table(self, target_table: str) -> str:
        """
        Return the lock table of a target; the target's row in it decides what may be published.

        The lock table's name comes only from the last part of the target's name. So every spelling of a target leads
        to the same lock table, without asking Snowflake for an omitted database or schema. Targets of the same name in
        several schemas share a lock table, and have a row each.
        """
        name = table_parts(target_table)[-1]
        # _plain() replaces special characters; the hash distinguishes names that differ only in these.
        return f"{self.staging_schema}.publish_lock__{_plain(name)}__{_digest(name)}"

    def _staging_prefix(self, target_table: str, key: str) -> str:
        # No hash of the name is needed: the run key already belongs to one target.
        return f"{self.staging_schema}.{_plain(table_parts(target_table)[-1])}__{key}__"


def shares() -> dict[str, Share]:
    """
    Return the shares of this deployment by name.

    :raises InvalidShareFileError: ``include/share.yaml`` or the environment has an error
    """
    return {name: Share(name=name, **_deployed(name)) for name in share_file().shares}


def _deployed(name: str) -> dict[str, Any]:
    return dict(share_file().shares[name])


def run_key(dag_id: str, run_id: str, run_after: datetime) -> str:
    """
    Return the unique key of one sync, which is the same in every task and every retry of the DAG run.

    Scheduled runs of two environments have the same ids and times: the environment's name makes their keys differ.

    :param dag_id: DAG of the run
    :param run_id: the run; only its hash goes into the key, as it may contain any character
    :param run_after: time of the run; run keys sort by it
    """
    environment = share_file().shares[DEFAULT].environment
    digest = _digest(f"{dag_id}\n{run_id}" + (f"\n{environment}" if environment else ""))
    return f"{run_after.astimezone(UTC).strftime(_TIME_IN_KEY)}_{digest}"


def time_of(key: str) -> datetime:
    """Return the time in a run key: after it, its sync has begun."""
    return datetime.strptime(key.partition("_")[0], _TIME_IN_KEY).replace(tzinfo=UTC)


def run_key_of(dag_run: Any) -> str:
    """Return the run key of a DAG run, as found in a task's context or in a template."""
    return run_key(dag_run.dag_id, dag_run.run_id, dag_run.run_after)


def attempt_of(path: str) -> int:
    """Return the number of the attempt that wrote the export at a path."""
    return int(path.rstrip("/").rpartition("/")[2].partition("-")[0])


def staging_manifest(table: str) -> str:
    """Return the table into which the manifest is loaded that belongs to a staging table."""
    return f"{table}__manifest"


def staging_samples(table: str) -> str:
    """Return the table of sample values that belongs to a staging table."""
    return f"{table}__samples"


def target_key(target_table: str) -> dict[str, str]:
    """
    Return the parts of a target's full name as SQL expressions, by the columns of the lock table.

    For an omitted database or schema, the expression is the session's, as Snowflake completes the name.
    """
    given = [sql_string(part) for part in table_parts(target_table)]
    parts = [*["CURRENT_DATABASE()", "CURRENT_SCHEMA()"][: 3 - len(given)], *given]
    return dict(zip(LOCK_KEY, parts, strict=True))


def lock_condition(target_table: str) -> str:
    """Return the SQL condition for the target's row in its lock table."""
    return " AND ".join(f"{column} = {part}" for column, part in target_key(target_table).items())


def _plain(name: str) -> str:
    """Return a table name with all characters replaced that would need quotes."""
    return re.sub("^(?=[0-9])|[^A-Za-z0-9_]", "_", shown(name))


def _digest(value: object) -> str:
    return hashlib.sha256(str(value).encode()).hexdigest()[:8]


def staged_by_run_of(table: str) -> datetime | None:
    """Return the time of the run that created a staging table; None if the name is not that of a staging table."""
    key, attempt = r"([0-9]{8}T[0-9]{6})_[0-9A-F]{8}", "[0-9]+_[0-9A-F]{8}"
    # The attempt is optional: earlier versions did not write it.
    found = re.fullmatch(rf"[A-Z0-9_]+__{key}(__{attempt})?(__MANIFEST|__SAMPLES)?", table)
    try:
        return datetime.strptime(found[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC) if found else None
    except ValueError:
        return None
