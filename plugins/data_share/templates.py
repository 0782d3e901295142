"""What the SQL files and the templated fields of a sync can use, beside Airflow's own variables."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from airflow.sdk.exceptions import AirflowFailException

from data_share import share
from data_share.datasets import Dataset, LoadMode
from data_share.failure_codes import FailureCode
from data_share.failures import ShareError
from data_share.names import quoted
from data_share.policies import ROWS_HIDDEN
from data_share.target_lock import is_target, target_key


def sync_macros(dataset: Dataset) -> dict[str, Any]:
    """
    Return the macros of a dataset's DAG. Each takes what templates have: ``dag_run``, ``ti`` or ``params``.

    ``dataset``, ``share``: the dataset, and the names of the share. ``lock_table``: the table whose row of the target
    decides what is published; ``target_key``: the SQL of that row's columns, by name; ``is_target``: the condition that
    finds it.

    ``run_key(dag_run)``, ``export_path(dag_run, ti)``: the names of one sync's things. ``new_staging_table(dag_run,
    ti)``, ``new_staging_manifest(dag_run, ti)``: the tables that an attempt of copy_into_staging makes.
    ``staging_table(ti)``, ``staging_manifest(ti)``: those that it has made, for the steps after it.

    ``export(ti)``, ``export_attempt(ti)``, ``path_in_stage(ti)``, ``copied(ti)``: what the steps before handed on.

    ``manifest_run_key(ti, dag_run, params)``: the run key that the loaded export was made under.

    ``load_mode(params)``: the load mode of this sync. ``columns(ti, table)``, ``keys(table)``,
    ``same_keys(left, right)``, ``assignments(ti, table)``: lists of columns for SQL.

    ``identifier(name)``: a name in quotes. ``ROWS_HIDDEN``: what a publish says that does not see all rows.
    """

    def new_staging_table(dag_run: Any, ti: Any) -> str:
        return share.staging_table(dataset.target_table, share.run_key_of(dag_run), ti.try_number, ti.id)

    def staging_table(ti: Any) -> str:
        result = copied(ti)
        if "staging_table" not in result:
            raise ResultMissingError(
                "The step copy_into_staging ran in an older version, which did not say where it loaded to. The target "
                "is as it was.",
                what_to_do="Clear copy_into_staging and what follows it.",
            )
        return str(result["staging_table"])

    def copied(ti: Any) -> dict[str, Any]:
        result: dict[str, Any] | None = _left_by(ti, "copy_into_staging")
        if result is None:
            raise ResultMissingError("The step copy_into_staging has left no counts. The target is as it was.")
        path = export_of(ti)["export_path"]
        # What a copy step of an older version has left does not say what it loaded.
        if result.get("export_path", path) != path:
            raise ResultMissingError(
                f"The step copy_into_staging has loaded {result['export_path']}, and the export of this sync is "
                f"{path}. The target is as it was."
            )
        return result

    def columns(ti: Any, table: str | None = None) -> str:
        return ", ".join(_quoted(column, table) for column in copied(ti)["columns"])

    def keys(table: str | None = None) -> str:
        return ", ".join(_quoted(key, table) for key in dataset.merge_keys)

    def same_keys(left: str, right: str) -> str:
        return " AND ".join(f"{_quoted(key, left)} = {_quoted(key, right)}" for key in dataset.merge_keys)

    def assignments(ti: Any, table: str) -> str:
        return ", ".join(
            f"{_quoted(column)} = {_quoted(column, table)}"
            for column in copied(ti)["columns"]
            if column not in dataset.merge_keys
        )

    return {
        "dataset": dataset,
        "share": share,
        "run_key": share.run_key_of,
        "export_path": lambda dag_run, ti: share.export_path(
            dataset.name, share.run_key_of(dag_run), ti.try_number, ti.id
        ),
        "new_staging_table": new_staging_table,
        "new_staging_manifest": lambda dag_run, ti: share.staging_manifest(new_staging_table(dag_run, ti)),
        "staging_table": staging_table,
        "staging_manifest": lambda ti: share.staging_manifest(staging_table(ti)),
        "lock_table": share.lock_table(dataset.target_table),
        "target_key": target_key(dataset.target_table),
        "is_target": is_target(dataset.target_table),
        "export": export_of,
        "export_attempt": lambda ti: share.attempt_of(str(export_of(ti)["export_path"])),
        "path_in_stage": lambda ti: _path_in_stage(ti, dataset),
        "copied": copied,
        "manifest_run_key": manifest_run_key,
        "load_mode": lambda params: load_mode(dataset, params),
        "columns": columns,
        "keys": keys,
        "same_keys": same_keys,
        "assignments": assignments,
        "identifier": quoted,
        "ROWS_HIDDEN": ROWS_HIDDEN,
    }


def load_mode(dataset: Dataset, params: Mapping[str, Any]) -> LoadMode:
    """Return how this sync changes the target: as the dataset says, unless its conf asks for a full refresh."""
    return LoadMode.REPLACE if params["full_refresh"] else dataset.load_mode


class ResultMissingError(ShareError, AirflowFailException):
    """A step before has left nothing: a person marked it as a success, or its XComs were deleted."""

    code = FailureCode.RESULT_MISSING


def export_of(ti: Any) -> dict[str, Any]:
    """
    Return the export that a sync loads: the one it waited for, or the earlier one that its conf names.

    :raises ResultMissingError: there is none
    """
    export = find_export(ti)
    if export is None:
        raise ResultMissingError("The step wait_for_export has left no export to load. The target is as it was.")
    return export


def find_export(ti: Any) -> dict[str, Any] | None:
    """
    Return the export that a sync loads, or None if there is none.

    Airflow never clears the XComs of ``wait_for_export``, as it starts in the triggerer: what it has left counts only
    for the run that ``export_to_s3`` has started.
    """
    # A step of an older version has left the run's id alone.
    started = _left_by(ti, "export_to_s3", "export") or {"run_id": _left_by(ti, "export_to_s3", "run_id")}
    if "export_path" in started:
        return started
    waited = _left_by(ti, "wait_for_export")
    return waited | started if waited and waited["run_id"] == started["run_id"] else None


# By attempt, task and key. One SQL file names the export and its columns many times, and each question costs a call of
# the api-server.
_found: dict[tuple[UUID, str, str], Any] = {}
_MOST_FOUND = 32


def _left_by(ti: Any, task_id: str, key: str = "return_value") -> Any:
    """Return what a step before has left, which an attempt asks for once."""
    known = (ti.id, task_id, key)
    found = _found.get(known)
    if found is None:
        found = ti.xcom_pull(task_ids=task_id, key=key)
        if len(_found) >= _MOST_FOUND:
            _found.clear()
        _found[known] = found
    return copy.deepcopy(found)


def _path_in_stage(ti: Any, dataset: Dataset) -> str:
    export = export_of(ti)
    try:
        return share.path_in_stage(str(export["export_path"]), dataset.name)
    except share.InvalidExportPathError as error:
        if "run_page_url" in export:
            raise
        # No deployment changes an export that was written long ago.
        raise share.InvalidExportPathError(
            error.message,
            what_to_do="This is the export of an earlier sync, whose place is not that of the share any more: start a "
            "sync without reload_run_key.",
        ) from None


def manifest_run_key(ti: Any, dag_run: Any, params: Mapping[str, Any]) -> str:
    """Return the run key in the manifest: that of this sync, or that of the sync that made the export loaded again."""
    if not params["reload_run_key"]:
        return share.run_key_of(dag_run)
    # Not the key in the conf: the sync that it names may itself have loaded an earlier export again.
    return str(export_of(ti)["export_path"]).split("/")[-3]


def _quoted(column: str, table: str | None = None) -> str:
    return f"{table}.{quoted(column)}" if table else quoted(column)


SQL_FILTERS: dict[str, Callable[[object], str]] = {"sql_string": share.sql_string}
"""Filters for values in SQL; see :func:`data_share.share.sql_string`."""
