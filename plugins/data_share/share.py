"""The share between Databricks and Snowflake: the names of its parts, and the run key that names one sync."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from data_share.failure_codes import FailureCode
from data_share.failures import ShareError
from data_share.names import shown, table_parts

SHARE_URL = "s3://databricks-snowflake-share/dataset/"
"""Where Databricks writes and Snowflake reads. Below it: ``<dataset>/<run key>/<attempt>-<hash>/``."""

STAGE = "s3_share_stage"
"""Snowflake's external stage on ``SHARE_URL``."""

STORAGE_INTEGRATION = "s3_share_int"
"""Snowflake's way to read the bucket. An account administrator creates it once."""

STAGING_SCHEMA = "staging"
"""Schema of the staging tables of the runs; the loader's role may create tables in it."""

LEDGER_TABLE = "sync_history"
"""One row per published sync."""

MANIFEST_TABLE = "export_manifests"
"""The manifests of the published syncs."""

EXPORT_JOB_VARIABLE = "data_share_export_job_id"
"""Airflow Variable with the id of the Databricks job that exports."""


class InvalidExportPathError(ShareError, AirflowFailException):
    """The path that an export reports is not one that this dataset may be loaded from."""

    code = FailureCode.EXPORT_PATH_INVALID


def run_key(dag_id: str, run_id: str, run_after: datetime) -> str:
    """
    Return the name of one sync: the same in every task and every retry of a DAG run, and of no other.

    :param dag_id: DAG of the run
    :param run_id: the run; only its hash goes into the key, as it may hold any character
    :param run_after: the run's time, which makes keys sort by time
    """
    digest = hashlib.sha256(f"{dag_id}\n{run_id}".encode()).hexdigest()[:8]
    return f"{run_after.astimezone(UTC):%Y%m%dT%H%M%S}_{digest}"


def run_key_of(dag_run: Any) -> str:
    """Return the run key of a DAG run, as a task's context or a template holds it."""
    return run_key(dag_run.dag_id, dag_run.run_id, dag_run.run_after)


def export_path(dataset: str, key: str, attempt: int, attempt_id: object) -> str:
    """
    Return where an attempt to export writes: a new place each time, so that no file of an earlier one is loaded.

    :param attempt: its number
    :param attempt_id: Airflow's id of it. The number comes again when a run is deleted and made again, or when Airflow
        gets a new database; this does not.
    """
    digest = hashlib.sha256(str(attempt_id).encode()).hexdigest()[:8]
    return f"{SHARE_URL}{dataset}/{key}/{attempt}-{digest}/"


def attempt_of(path: str) -> int:
    """Return the number of the attempt that wrote an export."""
    return int(path.rstrip("/").rpartition("/")[2].partition("-")[0])


def path_in_stage(path: str, dataset: str) -> str:
    """
    Return an export path relative to the stage, safe to stand in a COPY statement.

    :param path: the path that the Databricks run reports
    :param dataset: dataset that is going to be loaded
    :raises InvalidExportPathError: for a path outside this dataset's folder of the share, or with unsafe characters
    """
    pattern = re.escape(f"{SHARE_URL}{dataset}/") + r"[0-9]{8}T[0-9]{6}_[0-9a-f]{8}/[0-9]+-[0-9a-f]{8}/"
    if not re.fullmatch(pattern, path):
        raise InvalidExportPathError(
            f"The Databricks run reports the export path {path!r}, which is not of the form "
            f"{SHARE_URL}{dataset}/<run key>/<attempt>-<hash>/. Nothing was loaded."
        )
    return path.removeprefix(SHARE_URL)


def staging_table(target_table: str, key: str) -> str:
    """Return the staging table of one run: its own, so that no other run can fill, empty or publish it."""
    # The run key makes it the run's own, so characters that a plain name cannot hold need not be told apart.
    table = re.sub("^(?=[0-9])|[^A-Za-z0-9_]", "_", shown(table_parts(target_table)[-1]))
    return f"{STAGING_SCHEMA}.{table}__{key}"


def staging_manifest(target_table: str, key: str) -> str:
    """Return the table that one run loads its manifest into."""
    return f"{staging_table(target_table, key)}__manifest"


def turn_table(dataset: str) -> str:
    """Return the table that publishes of a dataset lock, so that they take turns; nobody else has to wait for it."""
    return f"{STAGING_SCHEMA}.publish_turn__{dataset}"


def staged_by_run_of(table: str) -> datetime | None:
    """Return the time of the run whose staging table this is; None for a name that no run gave."""
    found = re.fullmatch(r"[A-Z0-9_]+__([0-9]{8}T[0-9]{6})_[0-9A-F]{8}(__MANIFEST)?", table)
    try:
        return datetime.strptime(found[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC) if found else None
    except ValueError:
        return None


def sql_string(value: object) -> str:
    """
    Return a value as a Snowflake string literal, or ``NULL``.

    For the few values that go into a request of several statements, which takes no bindings.
    """
    if value is None:
        return "NULL"
    # A backslash escapes in Snowflake, and what splits a file into statements does not know that it may escape itself.
    return " || CHR(92) || ".join("'" + part.replace("'", "''") + "'" for part in str(value).split("\\"))
