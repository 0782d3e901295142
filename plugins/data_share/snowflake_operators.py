"""The Snowflake steps of a sync: copy into staging, check, publish."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any, NoReturn

from airflow.providers.common.sql.operators.sql import SQLTableCheckOperator
from airflow.providers.snowflake.operators.snowflake import SnowflakeSqlApiOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from data_share.share import run_key_of
from data_share.snowflake_hook import (
    STATEMENT_TIMEOUT_SECONDS,
    DataShareSnowflakeHook,
    StatementResult,
    request_id,
)

TARGET_UNCHANGED = "The target is as it was."


class NothingLoadedError(AirflowFailException):
    """COPY INTO ended well and loaded nothing."""


class ManifestError(AirflowFailException):
    """The export left no manifest, or one that does not belong to this sync."""


class CheckFailedError(AirflowFailException):
    """The staged rows are not fit to be published."""


class PublishError(AirflowException):
    """The transaction ended well, but the ledger does not show it."""


class SnowflakeStatementsOperator(SnowflakeSqlApiOperator):
    """
    Runs SQL files statement by statement and waits for each.

    Closes two gaps of ``SnowflakeSqlApiOperator`` (provider 6.20.0): it throws away the rows that statements return,
    and its ``durable`` default takes up the statements of an earlier attempt, where a new attempt has to start over.

    :param sql: SQL file, or a list of them; a template
    :param snowflake_conn_id: Airflow connection
    :param statement_timeout: seconds that a statement may take
    """

    template_fields: Sequence[str] = ("sql", "snowflake_conn_id")

    def __init__(
        self,
        *,
        sql: str | list[str],
        snowflake_conn_id: str = "snowflake_default",
        statement_timeout: int = STATEMENT_TIMEOUT_SECONDS,
        **kwargs: Any,
    ) -> None:
        super().__init__(sql=sql, snowflake_conn_id=snowflake_conn_id, durable=False, **kwargs)
        self.statement_timeout = statement_timeout
        self._context: Context | None = None

    @cached_property
    def _hook(self) -> DataShareSnowflakeHook:
        return DataShareSnowflakeHook(self.snowflake_conn_id, query_tag=_query_tag(self._context))

    def execute(self, context: Context) -> Any:
        """Run the statements of all files in their order."""
        self._context = context
        for number, file in enumerate([self.sql] if isinstance(self.sql, str) else self.sql):
            self._run_file(file, f"sql {number}")

    def _run_file(self, file: str, place: str, bindings: Sequence[str] = ()) -> list[StatementResult]:
        """Run each statement of a rendered file in a request of its own; `place` tells the requests of a task apart."""
        results = []
        for number, statement in enumerate(self._hook.split_sql_string(file, strip_semicolon=True)):
            result = self._hook.run_statement(
                statement,
                request_id=self._request_id(place, number),
                bindings=bindings,
                timeout_seconds=self.statement_timeout,
                on_start=self._remember,
            )
            self.log.info("Query %s answers %s row(s): %s", result.query_id, len(result.rows), result.rows[:20])
            results.append(result)
        return results

    def _request_id(self, *place: object) -> uuid.UUID:
        ti = _running(self._context)["ti"]
        return request_id(ti.dag_id, ti.run_id, ti.task_id, ti.try_number, *place)

    def _remember(self, query_id: str) -> None:
        # The provider's on_kill cancels these.
        self.query_ids = [query_id]


class SnowflakeCopyIntoOperator(SnowflakeStatementsOperator):
    """
    Creates the staging tables of this run, copies the manifest and the data into them, and counts.

    Takes the place of ``SnowflakeOperator``, which left the provider with version 6. The provider's own
    ``CopyFromExternalStageToSnowflakeOperator`` (6.20.0) signs in with the connector and does not return the counts.

    Returns ``files``, ``rows_exported`` (from the manifest), ``rows_parsed``, ``rows_loaded`` and ``query_ids``.

    :param create_staging: file that creates the staging tables anew
    :param copy_manifest: file with the COPY INTO of the manifest
    :param select_manifest: file that selects the manifest's ``dataset``, ``run_key`` and ``row_count``
    :param sql: file with the COPY INTO of the data; its answer is counted
    :param dataset: dataset that the manifest must be of
    :param run_key: run key that the manifest must be of; a template
    :param allow_empty: whether an export without a row is right
    """

    template_fields: Sequence[str] = (
        "create_staging",
        "copy_manifest",
        "select_manifest",
        "sql",
        "run_key",
        "snowflake_conn_id",
    )

    def __init__(
        self,
        *,
        create_staging: str,
        copy_manifest: str,
        select_manifest: str,
        sql: str,
        dataset: str,
        run_key: str,
        allow_empty: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(sql=sql, **kwargs)
        self.create_staging = create_staging
        self.copy_manifest = copy_manifest
        self.select_manifest = select_manifest
        self.dataset = dataset
        self.run_key = run_key
        self.allow_empty = allow_empty

    def execute(self, context: Context) -> dict[str, Any]:  # type: ignore[override]
        """Load the staging tables of this run."""
        self._context = context
        self._run_file(self.create_staging, "create staging")
        manifest_copy = self._run_file(self.copy_manifest, "copy manifest")[-1]
        manifest = self._run_file(self.select_manifest, "select manifest")[-1]
        rows_exported = self._rows_exported(manifest.rows)
        copy = self._run_file(str(self.sql), "copy data")[-1]
        # Without a file to load, the answer is one row with one column, `status`.
        files = [row for row in copy.rows if "rows_loaded" in row]
        counts = {name: sum(row[name] for row in files) for name in ("rows_parsed", "rows_loaded")}
        if counts["rows_loaded"] == 0 and not (self.allow_empty and rows_exported == 0):
            raise NothingLoadedError(
                f"COPY INTO loaded nothing: it found {len(files)} file(s), while the manifest counts {rows_exported} "
                f"exported row(s) (query id {copy.query_id}). {TARGET_UNCHANGED} Look at the files of the export; if "
                "the source may be empty, say allow_empty: true in the dataset file."
            )
        return {
            "files": len(files),
            "rows_exported": rows_exported,
            **counts,
            "query_ids": [manifest_copy.query_id, copy.query_id],
        }

    def _rows_exported(self, manifests: list[dict[str, Any]]) -> int:
        if len(manifests) != 1:
            raise ManifestError(
                f"The export left {len(manifests)} manifest rows instead of one: without its manifest, an export did "
                f"not finish. {TARGET_UNCHANGED} Look at the Databricks run, then start the sync again."
            )
        manifest = manifests[0]
        if (manifest["DATASET"], manifest["RUN_KEY"]) != (self.dataset, self.run_key):
            raise ManifestError(
                f"The manifest is of dataset {manifest['DATASET']!r} and run key {manifest['RUN_KEY']!r} instead of "
                f"{self.dataset!r} and {self.run_key!r}. {TARGET_UNCHANGED} Check the parameters of the export job."
            )
        return int(manifest["ROW_COUNT"])


class SnowflakeTableCheckOperator(SQLTableCheckOperator):
    """
    Checks a staging table with named conditions, all in one query.

    Closes three gaps of ``SQLTableCheckOperator`` (common-sql 2.4.0): its hook would be the connector's, its failure
    shows the whole query in place of the failed checks, and it does not cancel its query when it is killed.

    :param table: table to check; a template
    :param checks: condition by name; a template
    :param sql: file with the query; it finds the conditions in ``task.checks``; a template
    :param snowflake_conn_id: Airflow connection
    """

    conn_id_field = "snowflake_conn_id"
    # `sql` comes last: it is made of the others.
    template_fields: Sequence[str] = ("table", "checks", "snowflake_conn_id", "sql")
    template_ext: Sequence[str] = (".sql",)

    def __init__(
        self,
        *,
        table: str,
        checks: dict[str, str],
        sql: str,
        snowflake_conn_id: str = "snowflake_default",
        **kwargs: Any,
    ) -> None:
        conditions = {name: {"check_statement": condition} for name, condition in checks.items()}
        super().__init__(table=table, checks=conditions, retry_on_failure=False, **kwargs)
        self.sql = sql
        self.snowflake_conn_id = snowflake_conn_id
        self._context: Context | None = None

    @cached_property
    def _hook(self) -> DataShareSnowflakeHook:
        return DataShareSnowflakeHook(self.snowflake_conn_id, query_tag=_query_tag(self._context))

    def execute(self, context: Context) -> None:
        """Run the checks; see the provider's operator."""
        self._context = context
        super().execute(context)

    def on_kill(self) -> None:
        """Cancel the running query."""
        if self._context is not None and self._hook.query_ids:
            self._hook.cancel_queries(self._hook.query_ids)

    def _raise_exception(self, exception_string: str) -> NoReturn:
        failed = [name for name, check in self.checks.items() if not check.get("success")]
        conditions = "; ".join(f"{name}: {self.checks[name]['check_statement']}" for name in failed)
        raise CheckFailedError(
            f"{len(failed)} of {len(self.checks)} checks failed on {self.table} - {conditions}. {TARGET_UNCHANGED} "
            "Correct the source, or the dataset file if the check is wrong, and start the sync again."
        )


class SnowflakePublishOperator(SnowflakeStatementsOperator):
    """
    Changes the target and writes the ledger row in one transaction; returns the ledger row.

    A repetition finds in the ledger that this export was published, and changes nothing.

    :param sql: file with the transaction, from BEGIN to COMMIT
    :param select_ledger_row: file that selects the ledger row; its one ``?`` is the run key
    :param run_key: run key of this sync; a template
    :param export_path: the export that is loaded; a template
    """

    template_fields: Sequence[str] = ("sql", "select_ledger_row", "run_key", "export_path", "snowflake_conn_id")

    def __init__(self, *, sql: str, select_ledger_row: str, run_key: str, export_path: str, **kwargs: Any) -> None:
        super().__init__(sql=sql, **kwargs)
        self.select_ledger_row = select_ledger_row
        self.run_key = run_key
        self.export_path = export_path

    def execute(self, context: Context) -> dict[str, Any]:  # type: ignore[override]
        """Publish, unless it has been done."""
        self._context = context
        row = self._ledger_row("ledger before")
        if row is not None and row["export_path"] == self.export_path:
            self.log.info("The ledger says that %s was published before: nothing is left to do", self.export_path)
            return row
        statements = self._hook.split_sql_string(str(self.sql), strip_semicolon=True)
        self._hook.run_transaction(
            ";\n".join(statements) + ";",
            len(statements),
            request_id=self._request_id("publish"),
            timeout_seconds=self.statement_timeout,
            on_start=self._remember,
        )
        row = self._ledger_row("ledger after")
        if row is None:
            raise PublishError(
                f"The transaction of run key {self.run_key} ended well, but the ledger has no row of it."
            )
        return row

    def _ledger_row(self, place: str) -> dict[str, Any] | None:
        rows = self._run_file(self.select_ledger_row, place, bindings=[self.run_key])[-1].rows
        return {name.lower(): _json_value(value) for name, value in rows[0].items()} if rows else None


def _running(context: Context | None) -> Context:
    if context is None:
        raise RuntimeError("This operator has to be executed first")
    return context


def _query_tag(context: Context | None) -> dict[str, Any]:
    """Say in Snowflake's query history which step of which sync a statement belongs to."""
    context = _running(context)
    ti = context["ti"]
    return {
        "dag": ti.dag_id,
        "run": ti.run_id,
        "task": ti.task_id,
        "try": ti.try_number,
        "run_key": run_key_of(context["dag_run"]),
    }


def _json_value(value: Any) -> Any:
    if isinstance(value, date | datetime):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value
