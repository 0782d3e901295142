"""The share between Databricks and Snowflake: the names of its parts, and the names of what one sync makes in it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from data_share.sql_text import shown, sql_string, table_parts

LOCK_KEY = ("target_database", "target_schema", "target_name")
"""Columns of a lock table that name the target."""

# The export's SQL has the path in its text, and takes no other characters either.
_EXPORT_PATH = re.compile(r"s3:/(/[A-Za-z0-9_=-][A-Za-z0-9_.=-]*){2,}/")


@dataclass(frozen=True)
class Share:
    """
    The names of one deployment; the defaults are those of the README.

    :param url: where Databricks writes and Snowflake reads. Below it: ``<dataset>/<run key>/<attempt>-<hash>/``.
    :param stage: Snowflake's external stage on ``url``
    :param storage_integration: Snowflake's way to read the bucket; an account administrator creates it once
    :param staging_schema: schema of the staging tables and of the locks; the loader's role may create tables in it
    :param ledger_table: one row per published sync
    :param manifest_table: the manifests of the published syncs
    :param export_job_variable: Airflow Variable with the id of the Databricks job that exports
    :param databricks_conn_id: Airflow connection of the workspace
    :param snowflake_conn_id: Airflow connection of the account
    :param webhook_conn_id: Airflow connection of whom to tell how syncs end; there may be none
    """

    url: str = "s3://databricks-snowflake-share/dataset/"
    stage: str = "s3_share_stage"
    storage_integration: str = "s3_share_int"
    staging_schema: str = "staging"
    ledger_table: str = "sync_history"
    manifest_table: str = "export_manifests"
    export_job_variable: str = "data_share_export_job_id"
    databricks_conn_id: str = "databricks_default"
    snowflake_conn_id: str = "snowflake_default"
    webhook_conn_id: str = "data_share_webhook"

    def export_path(self, dataset: str, key: str, attempt: int, attempt_id: object) -> str:
        """
        Return where an attempt to export writes: a new place each time, so that no file of an earlier one is loaded.

        :param attempt: its number
        :param attempt_id: Airflow's id of it. The number comes again when a run is deleted and made again, or when
            Airflow gets a new database; this does not.
        :raises ValueError: for a ``url`` with other characters than the export's SQL takes
        """
        path = f"{self.url}{dataset}/{key}/{attempt}-{_digest(attempt_id)}/"
        if not _EXPORT_PATH.fullmatch(path):
            raise ValueError(
                f"{path!r} is no path to export to: behind s3://, its steps consist of letters of ASCII, digits and "
                "_ . = -, and begin with no point. Change the url of the share. Nothing was exported."
            )
        return path

    def path_in_stage(self, path: str, dataset: str) -> str:
        """
        Return an export path relative to the stage, safe to stand in a COPY statement.

        :param path: the path that the Databricks run reports
        :param dataset: dataset that is going to be loaded
        :raises ValueError: for a path outside this dataset's folder of the share, or with unsafe characters
        """
        pattern = re.escape(f"{self.url}{dataset}/") + r"[0-9]{8}T[0-9]{6}_[0-9a-f]{8}/[0-9]+-[0-9a-f]{8}/"
        if not re.fullmatch(pattern, path):
            raise ValueError(
                f"The Databricks run reports the export path {path!r}, which is not of the form "
                f"{self.url}{dataset}/<run key>/<attempt>-<hash>/. Nothing was loaded."
            )
        return path.removeprefix(self.url)

    def staging_table(self, target_table: str, key: str, attempt: int, attempt_id: object) -> str:
        """
        Return the staging table of an attempt to copy: its own, so that no other one can fill, empty or publish it.

        :param attempt: number of the attempt
        :param attempt_id: Airflow's id of it, as for :meth:`export_path`
        """
        return f"{self._staging_prefix(target_table, key)}{attempt}_{_digest(attempt_id)}"

    def is_staging_of_run(self, table: str, target_table: str, key: str) -> bool:
        """Whether a name, as :meth:`staging_table` or Snowflake's list has it, is of a staging table of one run."""
        name = table.lower().removeprefix(f"{self.staging_schema}.")
        prefix = self._staging_prefix(target_table, key).lower().removeprefix(f"{self.staging_schema}.")
        return re.fullmatch(re.escape(prefix) + r"[0-9]+_[0-9a-f]{8}(__manifest)?", name) is not None

    def lock_table(self, target_table: str) -> str:
        """
        Return the table whose one row for a target decides what is published to it.

        Its name is of the last part of the target's name alone: so every spelling of a target finds the same table,
        without asking Snowflake for what the spelling leaves out. Targets of one name in several schemas share it, with
        a row each.
        """
        name = table_parts(target_table)[-1]
        # The hash tells names apart whose characters a plain name cannot hold.
        return f"{self.staging_schema}.publish_lock__{_plain(name)}__{_digest(name)}"

    def _staging_prefix(self, target_table: str, key: str) -> str:
        # The run key makes it the run's own, so characters that a plain name cannot hold need not be told apart.
        return f"{self.staging_schema}.{_plain(table_parts(target_table)[-1])}__{key}__"


def run_key(dag_id: str, run_id: str, run_after: datetime) -> str:
    """
    Return the name of one sync: the same in every task and every retry of a DAG run, and of no other.

    :param dag_id: DAG of the run
    :param run_id: the run; only its hash goes into the key, as it may hold any character
    :param run_after: the run's time, which makes keys sort by time
    """
    digest = _digest(f"{dag_id}\n{run_id}")
    return f"{run_after.astimezone(UTC):%Y%m%dT%H%M%S}_{digest}"


def run_key_of(dag_run: Any) -> str:
    """Return the run key of a DAG run, as a task's context or a template holds it."""
    return run_key(dag_run.dag_id, dag_run.run_id, dag_run.run_after)


def attempt_of(path: str) -> int:
    """Return the number of the attempt that wrote an export."""
    return int(path.rstrip("/").rpartition("/")[2].partition("-")[0])


def staging_manifest(table: str) -> str:
    """Return the table that the manifest of a staging table is loaded into."""
    return f"{table}__manifest"


def target_key(target_table: str) -> dict[str, str]:
    """
    Return the SQL of a target's full name, by the columns of its lock table.

    What a dataset file leaves out is what Snowflake takes for it: the session's database and schema.
    """
    given = [sql_string(part) for part in table_parts(target_table)]
    parts = [*["CURRENT_DATABASE()", "CURRENT_SCHEMA()"][: 3 - len(given)], *given]
    return dict(zip(LOCK_KEY, parts, strict=True))


def is_target(target_table: str) -> str:
    """Return the condition that finds the target's row in its lock table."""
    return " AND ".join(f"{column} = {part}" for column, part in target_key(target_table).items())


def _plain(name: str) -> str:
    """Return a name of a table in characters that need no quotes."""
    return re.sub("^(?=[0-9])|[^A-Za-z0-9_]", "_", shown(name))


def _digest(value: object) -> str:
    return hashlib.sha256(str(value).encode()).hexdigest()[:8]


def staged_by_run_of(table: str) -> datetime | None:
    """Return the time of the run whose staging table this is; None for a name that no run gave."""
    key, attempt = r"([0-9]{8}T[0-9]{6})_[0-9A-F]{8}", "[0-9]+_[0-9A-F]{8}"
    # Those of before carry no attempt.
    found = re.fullmatch(rf"[A-Z0-9_]+__{key}(__{attempt})?(__MANIFEST)?", table)
    try:
        return datetime.strptime(found[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC) if found else None
    except ValueError:
        return None
