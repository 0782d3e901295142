"""Operators that run SQL files statement by statement: the base of every step that works in Snowflake."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any

from airflow.providers.snowflake.operators.snowflake import SnowflakeSqlApiOperator
from airflow.sdk import Context

from data_share.datasets import Dataset
from data_share.share import Share, run_key_of
from data_share.snowflake.links import SnowflakeQueryLink
from data_share.snowflake.sql_api import (
    STATEMENT_TIMEOUT_SECONDS,
    DataShareSnowflakeHook,
    SnowflakeStatementError,
    StatementResult,
    request_id,
)
from data_share.sql_files import render_sql
from data_share.sync import SyncStep

TARGET_UNCHANGED = "The target is as it was."
# In an answer to several statements, the code is 100132 whatever the reason is, and the reason is in the message.
NOT_THERE = "does not exist or not authorized"


class _SnowflakeStep:
    """What the steps have in common: a hook that tags their statements, and how they are ended from outside."""

    snowflake_conn_id: str
    shown_query_id = ""
    """The query that the step is about; when it says nothing, the last one."""
    statement_timeout = STATEMENT_TIMEOUT_SECONDS
    _context: Context | None = None
    _is_killed = False

    @cached_property
    def _hook(self) -> DataShareSnowflakeHook:
        hook = DataShareSnowflakeHook(
            self.snowflake_conn_id, query_tag=_query_tag(self._context), statement_timeout=self.statement_timeout
        )
        if self._is_killed:
            hook.stop()
        return hook

    @property
    def query_page_url(self) -> str:
        """Snowsight's page of the query that the step is about; nothing when it failed before it had one."""
        if self._context is None or not self._hook.query_ids:
            return ""
        return self._hook.query_page_url(self.shown_query_id or self._hook.query_ids[0])

    def on_kill(self) -> None:
        """Cancel the statement that runs, and submit none after it: Airflow lets the step go on for five seconds."""
        self._is_killed = True
        if self._context is not None:
            self._hook.stop()


class SnowflakeStatementsOperator(_SnowflakeStep, SnowflakeSqlApiOperator):
    """
    Runs a SQL file statement by statement and waits for each.

    Closes three gaps of ``SnowflakeSqlApiOperator`` (provider 6.20.0): it throws away the rows that statements return,
    its ``durable`` default takes up the statements of an earlier attempt, where a new attempt has to start over, and a
    step that is killed goes on with its next statement.

    :param share: whose connection and names it uses
    :param sql: SQL file; a template
    :param statement_timeout: seconds that a statement may take
    """

    template_fields: Sequence[str] = ("sql", "snowflake_conn_id")
    operator_extra_links = (SnowflakeQueryLink(),)

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

    def execute(self, context: Context) -> Any:
        """Run the statements in their order."""
        self._context = context
        self._run_file(str(self.sql), "sql")

    def _run_file(
        self, file: str, place: str, bindings: Sequence[str] = (), *, is_long: bool = False
    ) -> list[StatementResult]:
        """
        Run each statement of a rendered file in a request of its own.

        :param place: tells the requests of a task apart
        :param is_long: whether a kill must know the handle of a statement at once
        """
        results = []
        for number, statement in enumerate(self._hook.split_sql_string(file, strip_semicolon=True)):
            result = self._hook.run_statement(
                statement, request_id=self._request_id(place, number), bindings=bindings, is_long=is_long
            )
            self.log.info("Query %s answers %s row(s): %s", result.query_id, len(result.rows), result.rows[:20])
            results.append(result)
        return results

    def _drop_staging_tables(self, tables: Sequence[str], place: str = "") -> None:
        """
        Drop tables of the staging schema.

        :raises SnowflakeStatementError: the first of the refusals; all tables were tried
        """
        refusals = []
        for table in tables:
            try:
                self._run_file(render_sql("drop_staging_table", share=self.share, table=table), f"drop {table} {place}")
            except SnowflakeStatementError as error:
                self.log.warning("The table %s cannot be dropped: %s", table, error.message)
                refusals.append(error)
        if refusals:
            raise refusals[0]

    def _request_id(self, *place: object) -> uuid.UUID:
        # Airflow gives each attempt an id of its own. Names and numbers are no such thing: another Airflow, or this one
        # after a rebuild, has the same again, and Snowflake would take its statement for one that was executed before.
        return request_id(_running(self._context)["ti"].id, *place)


class SnowflakeSyncOperator(SyncStep, SnowflakeStatementsOperator):
    """
    Base of the steps of a sync that work in Snowflake.

    :param dataset: what is synced
    :param sql: SQL files by their names; templates, which find the sync in ``sync``
    """

    sql: dict[str, str]  # type: ignore[assignment]
    template_fields_renderers = {"sql": "json"}  # noqa: RUF012 - as Airflow declares it

    def __init__(self, *, dataset: Dataset, sql: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(sql="", **kwargs)
        self.dataset = dataset
        self.sql = dict(sql)

    def _run(
        self, name: str, place: str = "", bindings: Sequence[str] = (), *, is_long: bool = False
    ) -> list[StatementResult]:
        """Run a file that Airflow has rendered; `place` tells apart the requests of one that is run twice."""
        return self._run_file(self.sql[name], place or name, bindings, is_long=is_long)

    def _run_with(self, name: str, place: str = "", **values: Any) -> list[StatementResult]:
        """Run a file with values that are known only now."""
        return self._run_file(render_sql(name, share=self.share, sync=self.sync, **values), place or name)


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


def json_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of a result as JSON for an XCom: column names in small letters, times as text."""
    return {name.lower(): _json_value(value) for name, value in row.items()}


def _json_value(value: Any) -> Any:
    if isinstance(value, date | datetime):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value
