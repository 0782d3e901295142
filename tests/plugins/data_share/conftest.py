"""A stand-in of the Snowflake hook, for the tests of the steps."""

from __future__ import annotations

import functools
import re
from typing import Any
from unittest import mock

import pytest

from data_share.datasets import Dataset
from data_share.share import Share
from data_share.snowflake import statements
from data_share.snowflake.sql_api import DataShareSnowflakeHook, StatementResult
from data_share.sync import Sync
from data_share.watermark import digests_of


def tides(**changes: Any) -> Dataset:
    """Make a dataset that replaces its target; `changes` are fields of its file."""
    fields = {
        "name": "tides",
        "description": "Tides by harbour.",
        "source_table": "main.sea.tides",
        "target_table": "public.tides",
        "load_mode": "replace",
        "required_columns": ("harbour",),
    }
    return Dataset.model_validate({**fields, **changes})


REQUESTED_AT = "2026-01-02T03:04:10.000123"
"""When the export of a known sync was requested, if nothing is said."""


def known_sync(dataset: Dataset, *, conf: dict[str, Any] | None = None, **known: Any) -> Sync:
    """
    Make a sync that asks nobody.

    :param conf: what differs from the conf of a sync for which nothing is said
    :param known: its values, by their names
    """
    params = dict.fromkeys(("full_refresh", "accept_row_change", "dry_run", "verify"), False) | {"reload_run_key": None}
    exported_with = {"file": digests_of(dataset, Share()), "requested_at": REQUESTED_AT}
    known = {"unchanged": None, "exported_with": exported_with, **known}
    return type("KnownSync", (Sync,), known)(dataset, Share(), dag_run=None, ti=None, params={**params, **(conf or {})})


def _in_one_line(sql: str) -> str:
    return " ".join(sql.split()).replace("( ", "(").replace(" )", ")")


class Snowflake:
    """Stands in for the hook: answers statements by their text, in one line, and remembers them."""

    def __init__(self, hook_class: mock.Mock) -> None:
        self.hook_class = hook_class
        self.hook = hook_class.return_value
        self.hook.split_sql_string.side_effect = DataShareSnowflakeHook.split_sql_string
        self.hook.run_statement.side_effect = self._run_statement
        self.hook.run_statements.side_effect = self._run_statements
        self.hook.result_of.side_effect = self._result_of
        self.hook.query_ids = []
        self.hook.asset_uri.side_effect = lambda table: f"snowflake://account/db/{table.replace('.', '/')}"
        self.hook.query_ids = ["query of the checks"]
        self.hook.role_name = "DATA_SHARE_LOADER"
        self.hook.statement_seconds = 1.23456
        self.answers: dict[str, list[list[dict[str, Any]] | BaseException]] = {}
        self.prepared: dict[str, Any] = {}
        """What ``prepare_staging.sql`` returns, besides the samples."""
        self.refusal: Exception | None = None
        self.statements: list[str] = []
        self.request_ids: list[Any] = []

    def answer(self, statement: str, *rows: list[dict[str, Any]] | BaseException) -> None:
        """Answer a statement with these rows; several answers are given one after another."""
        self.answers[_in_one_line(statement)] = list(rows)

    def _run_statement(self, sql: str, *, request_id: Any = None, **_: Any) -> StatementResult:
        sql = _in_one_line(sql)
        self._note(sql, request_id)
        return StatementResult(query_id=f"query {len(self.statements)}", rows=self._rows(sql))

    def _rows(self, sql: str) -> list[dict[str, Any]]:
        # Samples are read as they were written, unless a test says something else.
        samples = {name.upper(): 1 for name in re.findall(r"AS (sample_\d+_\d)", sql)}
        prepared = {**samples, **self.prepared} if "manifest.*" in sql else samples
        answers = self.answers.get(sql, [[prepared] if prepared else []])
        rows = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(rows, BaseException):
            raise rows
        return rows

    def _run_statements(self, statements: list[str], *, request_id: Any, is_long: bool = False) -> list[str]:
        """Several statements of one request are remembered together; the handle of each is the statement."""
        self._note("; ".join(map(_in_one_line, statements)), request_id)
        if self.refusal:
            raise self.refusal
        return [_in_one_line(statement) for statement in statements]

    def _result_of(self, handle: str) -> StatementResult:
        return StatementResult(query_id=f"query {len(self.statements)}", rows=self._rows(handle))

    def _note(self, sql: str, request_id: Any) -> None:
        self.statements.append(sql)
        self.request_ids.append(request_id)
        self.hook.query_ids = [f"query {len(self.statements)}"]


@functools.cache
def hook_class() -> mock.Mock:
    """Return the stand-in of the hook's class; made once, as reading so large a class takes long."""
    return mock.create_autospec(DataShareSnowflakeHook)


@pytest.fixture
def snowflake(monkeypatch: pytest.MonkeyPatch) -> Snowflake:
    """Put the stand-in in the place of every Snowflake hook."""
    hook_class().reset_mock()
    hook_class().return_value.reset_mock(return_value=True, side_effect=True)
    monkeypatch.setattr(statements, "DataShareSnowflakeHook", hook_class())
    return Snowflake(hook_class())
