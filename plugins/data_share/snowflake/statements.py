"""Base operators of all steps that work in Snowflake: they run SQL files statement by statement."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any

from airflow.providers.snowflake.operators.snowflake import SnowflakeSqlApiOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from data_share import lineage
from data_share.datasets import Dataset
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError
from data_share.share import Share, run_key_of
from data_share.snowflake.links import SnowflakeQueryLink
from data_share.snowflake.sql_api import (
    STATEMENT_TIMEOUT_SECONDS,
    DataShareSnowflakeHook,
    SnowflakeStatementError,
    StatementResult,
    request_id,
)
from data_share.sql_files import COLUMNS_OF_VERSION, render_sql
from data_share.sync import SyncStep, VerifyImpossibleError

TARGET_UNCHANGED = "The target is as it was."
# Columns that the tables of an earlier version lack. Snowflake qualifies them as the statement does, or not at all.
_LATER_COLUMNS = "|".join(
    (
        *("source_choice", "source_condition", "package_version", "bytes_exported", "statement_seconds"),
        *COLUMNS_OF_VERSION,
    )
).upper()
LACKS_COLUMNS = re.compile(rf"invalid identifier '(\w+[.])*({_LATER_COLUMNS})'")
"""Matches the error of a statement on tables of an earlier version."""
# Compared by text: if one of several statements fails, the code is always 100132 and only the message has the reason.
DOES_NOT_EXIST = "does not exist or not authorized"

_log = logging.getLogger(__name__)


class TargetMissingError(ShareError, AirflowFailException):
    """
    The target does not exist, or the role of the syncs does not see it.

    :param dataset: the dataset of the target
    :param error: what Snowflake says
    """

    code = FailureCode.TARGET_MISSING

    def __init__(self, dataset: Dataset, error: SnowflakeStatementError) -> None:
        super().__init__(
            f"The target {dataset.target_table} has not been set up: it is missing, or this role may not see it: "
            f"{error.message}",
            snowflake_query_id=error.snowflake_query_id,
        )


def rows_of_target(dataset: Dataset, describe: Callable[[], StatementResult]) -> list[dict[str, Any]] | None:
    """
    Return the columns of a target; None if the sync creates it from the source, and has not yet.

    :param describe: runs ``DESCRIBE TABLE``
    :raises TargetMissingError: there is no target, and a sync does not create it
    """
    try:
        return describe().rows
    except SnowflakeStatementError as error:
        if DOES_NOT_EXIST not in str(error):
            raise
        if dataset.create_table != "from_source":
            raise TargetMissingError(dataset, error) from error
        _log.info("There is no target yet: %s", error.message)
        return None


class SnowflakeStatementsOperator(SnowflakeSqlApiOperator):
    """
    Runs a SQL file statement by statement and waits for each.

    Closes three gaps of ``SnowflakeSqlApiOperator`` (provider 6.20.0): it discards the rows that statements return, its
    ``durable`` default resumes the statements of an earlier attempt where a new attempt has to start over, and a killed
    step goes on with its next statement.

    :param share: the deployment, with the connection and the names
    :param sql: SQL file; a template
    :param statement_timeout: maximum seconds that a statement may take
    """

    template_fields: Sequence[str] = ("sql", "snowflake_conn_id")
    operator_extra_links: tuple[SnowflakeQueryLink, ...] = (SnowflakeQueryLink(),)
    shown_query_id = ""
    """The query that the step's link shows; if empty, the last query."""
    _context: Context | None = None
    _is_killed = False

    def __init__(
        self,
        *,
        share: Share,
        sql: str,
        statement_timeout: int = STATEMENT_TIMEOUT_SECONDS,
        **kwargs: Any,
    ) -> None:
        super().__init__(sql=sql, snowflake_conn_id=share.snowflake_conn_id, durable=False, **kwargs)
        self.share = share
        self.statement_timeout = statement_timeout

    @cached_property
    def _hook(self) -> DataShareSnowflakeHook:
        hook = DataShareSnowflakeHook(
            self.snowflake_conn_id, query_tag=query_tag(self._context), statement_timeout=self.statement_timeout
        )
        if self._is_killed:
            hook.stop()
        return hook

    @property
    def query_page_url(self) -> str:
        """Snowsight's page of the query that the step's link shows; empty if the step failed before its first query."""
        if self._context is None or not self._hook.query_ids:
            return ""
        return self._hook.query_page_url(self.shown_query_id or self._hook.query_ids[0])

    def on_kill(self) -> None:
        """Cancel the running statement, and submit no more: Airflow lets a killed step run for five more seconds."""
        self._is_killed = True
        if self._context is not None:
            self._hook.stop()

    def get_openlineage_facets_on_start(self) -> Any:
        """Say nothing of lineage: the provider would parse the statements, which are about staging tables."""
        return lineage.nothing()

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Say nothing of lineage: the provider would ask Snowflake for each query, also for those of the clean-up."""
        return lineage.nothing()

    def execute(self, context: Context) -> Any:
        """Run the statements one after another."""
        self._context = context
        self._run_file(str(self.sql), "sql")

    def _run_file(
        self, file: str, label: str, bindings: Sequence[str] = (), *, is_long: bool = False
    ) -> list[StatementResult]:
        """
        Run each statement of a rendered file in a request of its own.

        :param label: part of the request ids; must be unique among the requests of a task
        :param is_long: whether Snowflake must return each handle at once, so that a kill can cancel the statement
        """
        results = []
        for number, statement in enumerate(self._hook.split_sql_string(file, strip_semicolon=True)):
            result = self._hook.run_statement(
                statement, request_id=self._request_id(label, number), bindings=bindings, is_long=is_long
            )
            self.log.info("Query %s returned %s row(s): %s", result.query_id, len(result.rows), result.rows[:20])
            results.append(result)
        return results

    def _run_together(self, file: str, label: str) -> StatementResult:
        """
        Run all statements of a rendered file in one request; return the result of the last.

        :param label: as in :meth:`_run_file`
        """
        statements = self._hook.split_sql_string(file, strip_semicolon=True)
        handles = self._hook.run_statements(statements, request_id=self._request_id(label))
        result = self._hook.result_of(handles[-1])
        self.log.info("Query %s returned: %s", result.query_id, result.rows)
        return result

    def _drop_staging_tables(self, tables: Sequence[str], label: str = "") -> None:
        """
        Drop tables of the staging schema.

        :raises SnowflakeStatementError: the first error of those that Snowflake reported; all tables were tried
        """
        errors = []
        for table in tables:
            try:
                self._run_file(render_sql("drop_staging_table", share=self.share, table=table), f"drop {table} {label}")
            except SnowflakeStatementError as error:
                self.log.warning("The table %s cannot be dropped: %s", table, error.message)
                errors.append(error)
        if errors:
            raise errors[0]

    def _request_id(self, *label: object) -> uuid.UUID:
        # The attempt's id in Airflow is unique. Names and numbers are not: another Airflow, or this one after a
        # rebuild, uses them again, and Snowflake would treat a new statement as a repetition of an old one.
        return request_id(_require_context(self._context)["ti"].id, *label)


class SnowflakeSyncOperator(SyncStep, SnowflakeStatementsOperator):
    """
    Base of the steps of a sync that work in Snowflake.

    :param dataset: what is synced
    :param sql: SQL files by name; templates, which read the sync as ``sync``
    """

    sql: dict[str, str]  # type: ignore[assignment]
    template_fields_renderers = {"sql": "json"}  # noqa: RUF012 - as Airflow declares it

    def __init__(self, *, dataset: Dataset, sql: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(sql="", **kwargs)
        self.dataset = dataset
        self.sql = dict(sql)

    def _run(
        self, name: str, label: str = "", bindings: Sequence[str] = (), *, is_long: bool = False
    ) -> list[StatementResult]:
        """Run a file that Airflow has rendered; a file that a task runs twice needs two labels."""
        return self._run_file(self.sql[name], label or name, bindings, is_long=is_long)

    def _run_with(self, name: str, label: str = "", **values: Any) -> list[StatementResult]:
        """Render a file with values that are known only now, and run it."""
        return self._run_file(render_sql(name, share=self.share, sync=self.sync, **values), label or name)

    def _refuse_later_publish(self, run_key: str | None) -> None:
        """
        Refuse to verify a target to which something was published that Airflow does not know of.

        :param run_key: that of the last publish, as the target's lock row has it; None without such a row
        :raises VerifyImpossibleError: it is another publish than the one that is verified
        """
        if run_key != (verified := self.sync.verified.run_key):
            last = f"the sync {run_key} was published last" if run_key else "its lock row knows no publish"
            raise VerifyImpossibleError(
                f"{self.dataset.target_table} cannot be compared with what the sync {verified} has published: {last}. "
                f"{TARGET_UNCHANGED}"
            )

    def _drop_staging(self, label: str) -> None:
        """
        Drop the staging tables of all attempts of this run.

        :param label: part of the request ids, as a step may do this twice
        """
        try:
            rows = self._run("show_staging_tables_of_run", f"list {label}")[-1].rows
            listed = [str(row["name"]) for row in rows]
            target, key = self.dataset.target_table, self.sync.key
            self._drop_staging_tables(
                [name for name in listed if self.share.is_staging_of_run(name, target, key)], label
            )
        except Exception:
            # No reason to fail: clean_up_share drops these tables later.
            self.log.exception("The staging tables of this run are left behind")


def _require_context(context: Context | None) -> Context:
    if context is None:
        raise RuntimeError("The operator has no context before execute() is called")
    return context


def query_tag(context: Context | None) -> dict[str, Any]:
    """Return the query tag, which shows in Snowflake's query history the sync and step of a statement."""
    context = _require_context(context)
    ti = context["ti"]
    return {
        "dag": ti.dag_id,
        "run": ti.run_id,
        "task": ti.task_id,
        "try": ti.try_number,
        "run_key": run_key_of(context["dag_run"]),
    }


def json_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as JSON for an XCom: column names in lower case, times as ISO text, decimals as floats."""
    return {name.lower(): _json_value(value) for name, value in row.items()}


def _json_value(value: Any) -> Any:
    if isinstance(value, date | datetime):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value
