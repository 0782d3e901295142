"""
Learns what a source has, from the export job: the one way, as Airflow's account has no right on sources.

A run of the job with ``mode=describe`` writes the manifest alone, of what an export would have now. Snowflake reads it
through the stage, as in a sync. It counts the rows of the source, so it takes the time of one query on Databricks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from airflow.sdk import Variable
from airflow.sdk.exceptions import AirflowFailException

from data_share.databricks.follow import DatabricksRunFailedError, FinishedRun, follow_run
from data_share.databricks.hook import DataShareDatabricksHook
from data_share.datasets import Dataset
from data_share.outcome.classify import failure_of
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError
from data_share.share import Share, run_key, staging_manifest
from data_share.snowflake.exported_schema import exported_columns
from data_share.snowflake.sql_api import DataShareSnowflakeHook
from data_share.sql_files import render_sql
from data_share.watermark import published_parameter

TIMEOUT_SECONDS = 900
"""Max. time of a run that describes, its time in the job's queue included; then it is cancelled."""

MAX_RUNS = 4
"""Runs at a time: the job runs ten at a time, and syncs must not wait long for this."""

# Calls in a row that may fail. With those of a sync, an outage of Databricks would take longer than the max. time.
_TRIES = 3

_log = logging.getLogger(__name__)

# What Databricks says -> what to do about it.
_ADVICE = {
    "TABLE_OR_VIEW_NOT_FOUND": "Correct source_table in the dataset file, or grant SELECT on it to the principal that "
    "exports: docs/databricks.md.",
    "The job parameter proof must be": "The export job is of a version that cannot describe a source, and has exported "
    "nothing: deploy the bundle again.",
    "The job parameter mode must be": "The export job is of another version: deploy the bundle again.",
    "another condition for the rows": "Run make render, and deploy the bundle again.",
    "The source lacks these columns": "Correct source in the dataset file.",
    "would have the same name": "Correct source.rename in the dataset file.",
    "INVALID_SECRET_LOOKUP": "Make the secret of hashes: docs/databricks.md.",
}


class SourceUnknownError(ShareError, AirflowFailException):
    """The export job has not described the source."""

    code = FailureCode.EXPORT_FAILED


@dataclass(frozen=True)
class Description:
    """
    What an export of a source would have had at one moment.

    :param dataset: name of the dataset
    :param source_table: the source
    :param rows: number of rows that would leave
    :param column_types: the columns that would leave, as a manifest has them
    :param columns_that_stay: columns of the source that would not
    :param source_condition: the condition for the rows; empty without one
    :param source_version: the version of the source that was described; None if it has none that can be read
    :param source_committed_at: when this version was committed, in UTC; None without a version
    :param export_reason: why an export would have all rows, and why the source has no version
    :param described_at: when, in UTC
    :param run_page_url: page of the run on Databricks
    """

    dataset: str
    source_table: str
    rows: int
    column_types: str
    columns_that_stay: tuple[str, ...]
    source_condition: str
    source_version: int | None
    source_committed_at: datetime | None
    export_reason: str
    described_at: datetime
    run_page_url: str

    @property
    def columns(self) -> dict[str, str]:
        """The columns that would leave, with their types in Databricks."""
        return exported_columns(self.column_types)


@dataclass
class _Request:
    """
    A run that describes a source, before and after it was started.

    :param refusal: why it could not be started
    """

    dataset: Dataset
    key: str
    body: dict[str, Any]
    run_id: int | None = None
    run_page_url: str = field(default="")
    refusal: SourceUnknownError | None = None

    async def keep_run_page(self, page: str) -> None:
        self.run_page_url = page


def describe(dataset: Dataset, share: Share, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Description:
    """
    Describe the source of one dataset.

    :param timeout_seconds: max. time of the run, its time in the job's queue included; then it is cancelled
    :raises SourceUnknownError: the run failed, was cancelled, took too long, or left no manifest
    """
    outcome = describe_all([dataset], share, timeout_seconds=timeout_seconds)[dataset.name]
    if isinstance(outcome, SourceUnknownError):
        raise outcome
    return outcome


def describe_all(
    datasets: Sequence[Dataset], share: Share, *, timeout_seconds: float = TIMEOUT_SECONDS
) -> dict[str, Description | SourceUnknownError]:
    """
    Describe the sources of datasets of one share, some at a time; return a description or the reason for each.

    What fails for one of them, e.g. a refused start or a manifest that cannot be read, is no reason for the others.
    Whatever ends this early, e.g. Ctrl-C, cancels the runs that it has started.
    """
    described: dict[str, Description | SourceUnknownError] = {}
    hook = DataShareDatabricksHook(share.databricks_conn_id, tries=_TRIES, caller="describe")
    job_id = Variable.get(share.export_job_variable)
    for begin in range(0, len(datasets), MAX_RUNS):
        requests = [_request(dataset, share, job_id) for dataset in datasets[begin : begin + MAX_RUNS]]
        try:
            for request in requests:
                _start(hook, request)
            started = [request for request in requests if request.run_id is not None]
            outcomes = _outcomes(hook, started, timeout_seconds)
            for request in requests:
                name = request.dataset.name
                described[name] = request.refusal or _answer(
                    hook, request, outcomes[name], share=share, timeout_seconds=timeout_seconds
                )
        except BaseException as error:
            _cancel(hook, requests, was_interrupted=not isinstance(error, Exception))
            raise
    return described


def _request(dataset: Dataset, share: Share, job_id: str) -> _Request:
    key = run_key(f"describe_{dataset.name}", uuid.uuid4().hex, datetime.now(UTC))
    parameters = {
        "dataset": dataset.name,
        "source_table": dataset.source_table,
        "run_key": key,
        "export_path": share.export_path(dataset.name, key, 1, key),
        "source": dataset.source_parameters()["source"],
        **published_parameter(dataset, None, None),
        "mode": "describe",
        # A job that does not know mode refuses this proof; it would export.
        "proof": "described",
    }
    return _Request(dataset, key, {"job_id": job_id, "job_parameters": parameters, "idempotency_token": key})


def _start(hook: DataShareDatabricksHook, request: _Request) -> None:
    try:
        request.run_id = hook.run_now(request.body)
    except Exception as error:
        code = failure_of(error, "describe").code
        request.refusal = SourceUnknownError(
            f"The export job cannot be started: {_text(error)}.",
            code=FailureCode.EXPORT_JOB_REFUSED if code is FailureCode.UNEXPECTED else code,
        )


def _outcomes(
    hook: DataShareDatabricksHook, started: Sequence[_Request], timeout_seconds: float
) -> dict[str, FinishedRun | Exception]:
    """Follow runs to their ends; return the run or the error of each, by dataset."""
    try:
        found = asyncio.run(_follow_all(hook, started, timeout_seconds))
    except Exception as error:
        # They could not be followed at all, e.g. as the connection is gone.
        return {request.dataset.name: error for request in started}
    outcomes: dict[str, FinishedRun | Exception] = {}
    for request, outcome in zip(started, found, strict=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
            raise outcome
        outcomes[request.dataset.name] = outcome
    return outcomes


async def _follow_all(
    hook: DataShareDatabricksHook, requests: Sequence[_Request], timeout_seconds: float
) -> list[FinishedRun | BaseException]:
    async with hook:
        return await asyncio.gather(
            *(follow_run(hook, int(each.run_id or 0), timeout_seconds, each.keep_run_page) for each in requests),
            return_exceptions=True,
        )


def _answer(
    hook: DataShareDatabricksHook,
    request: _Request,
    outcome: FinishedRun | Exception,
    *,
    share: Share,
    timeout_seconds: float,
) -> Description | SourceUnknownError:
    if isinstance(outcome, Exception):
        # It may still run, if it could not be followed.
        _cancel(hook, [request])
        if isinstance(outcome, DatabricksRunFailedError):
            return _explained(outcome, timeout_seconds)
        return SourceUnknownError(
            f"The Databricks run {request.run_id} cannot be followed: {_text(outcome)}.",
            code=failure_of(outcome, "describe").code,
            databricks_run_url=request.run_page_url or None,
        )
    try:
        return _read(request, outcome, share)
    except Exception as error:
        failure = failure_of(error, "describe")
        return SourceUnknownError(
            f"The manifest of the description cannot be read: {_text(error)}",
            code=failure.code,
            databricks_run_url=outcome.run_page_url,
            snowflake_query_id=failure.snowflake_query_id,
            what_to_do=failure.what_to_do,
        )


def _text(error: Exception) -> str:
    """Return the message of an error, without its remedy."""
    return error.message if isinstance(error, ShareError) else f"{type(error).__name__}: {error}".rstrip(".")


def _cancel(hook: DataShareDatabricksHook, requests: Sequence[_Request], *, was_interrupted: bool = False) -> None:
    """Cancel the runs of requests; of an interrupted one, whose answer is missing, the same request returns the id."""
    for request in requests:
        with contextlib.suppress(Exception):
            if request.run_id is None and request.refusal is None and was_interrupted:
                request.run_id = hook.run_now(request.body)
                was_interrupted = False  # the requests after it were not sent
            if request.run_id is not None:
                hook.cancel_run(request.run_id)


def _read(request: _Request, run: FinishedRun, share: Share) -> Description | SourceUnknownError:
    """Return the manifest at the path that the followed run reports, if it is of this request."""
    dataset = request.dataset
    reported = str(run.job_parameters.get("export_path"))
    try:
        path = share.path_in_stage(reported, dataset.name)
    except ValueError as error:
        return SourceUnknownError(str(error), code=FailureCode.EXPORT_PATH_INVALID)
    table = staging_manifest(share.staging_table(f"describe_{dataset.name}", request.key, 1, request.key))
    file = render_sql(
        "read_description", share=share, sync=SimpleNamespace(new_staging_manifest=table, path_in_stage=path)
    )
    hook = DataShareSnowflakeHook(share.snowflake_conn_id, query_tag={"task": "describe", "run_key": request.key})
    try:
        handles = hook.run_statements(hook.split_sql_string(file, strip_semicolon=True))
        rows = hook.result_of(handles[-1]).rows
    finally:
        _drop(hook, table)
    if [(row["RUN_KEY"], row["DATASET"]) for row in rows] != [(request.key, dataset.name)]:
        return SourceUnknownError(
            f"The Databricks run {run.run_id} left {len(rows)} manifest rows at {reported}, and not the one of "
            f"{dataset.name} and run key {request.key}.",
            code=FailureCode.MANIFEST_INVALID if rows else FailureCode.MANIFEST_MISSING,
            databricks_run_url=run.run_page_url,
        )
    [row] = rows
    return Description(
        dataset=dataset.name,
        source_table=row["SOURCE_TABLE"],
        rows=row["ROW_COUNT"],
        column_types=row["COLUMN_TYPES"],
        columns_that_stay=tuple(json.loads(row["COLUMNS_THAT_STAY"])),
        source_condition=row["SOURCE_CONDITION"],
        source_version=row["SOURCE_VERSION"],
        source_committed_at=row["SOURCE_COMMITTED_AT"],
        export_reason=row["EXPORT_REASON"] or "",
        described_at=row["EXPORTED_AT"],
        run_page_url=run.run_page_url,
    )


def _drop(hook: DataShareSnowflakeHook, table: str) -> None:
    try:
        hook.run_statement(f"DROP TABLE IF EXISTS {table}")
    except ShareError:
        # Without the right to create it, there is nothing to drop; else clean_up_share drops it.
        _log.warning("The table %s may be left behind", table)


def _explained(error: DatabricksRunFailedError, timeout_seconds: float) -> SourceUnknownError:
    """Return the error of a run in the words of whoever asked for a description."""
    advice = next((advice for text, advice in _ADVICE.items() if text in error.message), error.what_to_do)
    message = error.message
    if error.code is FailureCode.EXPORT_TIMED_OUT:
        # Databricks ends a run with the same code, after the time in the asset bundle; and cancelling may fail.
        if message.endswith(" and was cancelled."):
            message = (
                f"It was not described within {timeout_seconds / 60:.3g} minutes, its time in the job's queue "
                "included, and the run was cancelled."
            )
        advice = "Look at the run's page, and try again when fewer syncs run."
    elif found := re.search(r"\[USER_RAISED_EXCEPTION\] (.*?)(?: SQLSTATE: \w+)?\.?\Z", message, re.DOTALL):
        message = found[1]
    elif found := re.search(r"(\[TABLE_OR_VIEW_NOT_FOUND\].*?cannot be found)", message, re.DOTALL):
        message = f"{found[1]}."
    return SourceUnknownError(message, code=error.code, databricks_run_url=error.databricks_run_url, what_to_do=advice)
