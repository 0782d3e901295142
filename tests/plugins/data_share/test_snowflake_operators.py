"""The Snowflake steps: which statements run in which order, what is counted, and when the target stays as it is."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from data_share import snowflake_operators
from data_share.share import run_key_of
from data_share.snowflake_hook import DataShareSnowflakeHook, SnowflakeStatementError, StatementResult
from data_share.snowflake_operators import (
    TARGET_UNCHANGED,
    CheckFailedError,
    ManifestError,
    NothingLoadedError,
    PublishError,
    SnowflakeCopyIntoOperator,
    SnowflakePublishOperator,
    SnowflakeStatementsOperator,
    SnowflakeTableCheckOperator,
)

KEY = "20260102T030405_0a1b2c3d"
MANIFEST = {"DATASET": "tides", "RUN_KEY": KEY, "ROW_COUNT": 5}
FILES = [
    {"file": "data/part-0.parquet", "status": "LOADED", "rows_parsed": 3, "rows_loaded": 3},
    {"file": "data/part-1.parquet", "status": "LOADED", "rows_parsed": 2, "rows_loaded": 2},
]
NO_FILES = [{"status": "Copy executed with 0 files processed."}]
EXPORT_PATH = f"s3://databricks-snowflake-share/dataset/tides/{KEY}/1/"
LEDGER_ROW = {
    "RUN_KEY": KEY,
    "EXPORT_PATH": EXPORT_PATH,
    "ROWS_LOADED": 5,
    "SHARE_OF_NULLS": Decimal("0.25"),
    "REQUESTED_BY": None,
    "PUBLISHED_AT": datetime(2026, 1, 2, 3, 5),
}
MakeContext = Callable[..., dict[str, Any]]


class Snowflake:
    """Stands in for the hook: answers statements by their text, and remembers them."""

    def __init__(self, hook_class: mock.Mock) -> None:
        self.hook_class = hook_class
        self.hook = hook_class.return_value
        self.hook.split_sql_string.side_effect = DataShareSnowflakeHook.split_sql_string
        self.hook.run_statement.side_effect = self._run_statement
        self.hook.run_transaction.side_effect = self._run_transaction
        self.answers: dict[str, list[list[dict[str, Any]] | BaseException]] = {}
        self.statements: list[str] = []
        self.request_ids: list[Any] = []

    def answer(self, statement: str, *rows: list[dict[str, Any]] | BaseException) -> None:
        """Answer a statement with these rows; several answers are given one after another."""
        self.answers[statement] = list(rows)

    def _run_statement(
        self, sql: str, *, request_id: Any, on_start: Callable[[str], None], **_: Any
    ) -> StatementResult:
        self._note(sql, request_id, on_start)
        answers = self.answers.get(sql, [[]])
        rows = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(rows, BaseException):
            raise rows
        return StatementResult(query_id=f"query {len(self.statements)}", rows=rows)

    def _run_transaction(
        self, sql: str, statement_count: int, *, request_id: Any, on_start: Callable[[str], None], **_: Any
    ) -> list[str]:
        self._note(sql, request_id, on_start)
        return [f"query {number}" for number in range(statement_count)]

    def _note(self, sql: str, request_id: Any, on_start: Callable[[str], None]) -> None:
        self.statements.append(sql)
        self.request_ids.append(request_id)
        on_start(f"query {len(self.statements)}")


@functools.cache
def hook_class() -> mock.Mock:
    """Return the stand-in of the hook's class; made once, as reading so large a class takes long."""
    return mock.create_autospec(DataShareSnowflakeHook)


@pytest.fixture
def snowflake(monkeypatch: pytest.MonkeyPatch) -> Snowflake:
    """Put the stand-in in the place of every Snowflake hook."""
    hook_class().reset_mock()
    hook_class().return_value.reset_mock(return_value=True, side_effect=True)
    monkeypatch.setattr(snowflake_operators, "DataShareSnowflakeHook", hook_class())
    return Snowflake(hook_class())


# ---- statements


def test_statements_of_all_files_run_one_by_one_in_their_order(snowflake: Snowflake, task_context: MakeContext) -> None:
    task = SnowflakeStatementsOperator(task_id="set_up", sql=["-- why\nCREATE a;\n\nCREATE b;", "CREATE c;"])
    task.execute(task_context(task))  # type: ignore[arg-type]
    assert snowflake.statements == ["CREATE a", "CREATE b", "CREATE c"]


def test_one_file_is_enough(snowflake: Snowflake, task_context: MakeContext) -> None:
    task = SnowflakeStatementsOperator(task_id="drop", sql="DROP a; DROP b;", statement_timeout=12)
    task.execute(task_context(task))  # type: ignore[arg-type]
    assert snowflake.statements == ["DROP a", "DROP b"]
    assert [call.kwargs["timeout_seconds"] for call in snowflake.hook.run_statement.call_args_list] == [12, 12]


def test_a_statement_that_fails_ends_the_step(snowflake: Snowflake, task_context: MakeContext) -> None:
    snowflake.answer("CREATE a", SnowflakeStatementError("no rights"))
    task = SnowflakeStatementsOperator(task_id="set_up", sql="CREATE a; CREATE b;")
    with pytest.raises(SnowflakeStatementError, match="no rights"):
        task.execute(task_context(task))  # type: ignore[arg-type]
    assert snowflake.statements == ["CREATE a"]


def request_ids(snowflake: Snowflake, context: dict[str, Any]) -> list[Any]:
    """Run a step with the same statement at three places; return its request ids."""
    snowflake.request_ids.clear()
    task = SnowflakeStatementsOperator(task_id="set_up", sql=["CREATE a; CREATE a;", "CREATE a;"])
    task.execute(context)  # type: ignore[arg-type]
    return list(snowflake.request_ids)


def test_request_ids_are_of_the_place_and_the_attempt(snowflake: Snowflake, task_context: MakeContext) -> None:
    first = request_ids(snowflake, task_context(try_number=1))
    assert first == request_ids(snowflake, task_context(try_number=1)), "a repetition must find its statements"
    second = request_ids(snowflake, task_context(try_number=2))
    assert len({*first, *second}) == 6, "a new attempt must run its statements again"


def test_statements_are_tagged_with_where_they_come_from(snowflake: Snowflake, task_context: MakeContext) -> None:
    task = SnowflakeStatementsOperator(task_id="set_up", sql="SELECT 1", snowflake_conn_id="other")
    context = task_context(task, try_number=3)
    task.execute(context)  # type: ignore[arg-type]
    snowflake.hook_class.assert_called_once_with(
        "other",
        query_tag={
            "dag": "sync_shared_forecasts",
            "run": "manual__o'clock--1",
            "task": "set_up",
            "try": 3,
            "run_key": run_key_of(context["dag_run"]),
        },
    )


def test_killing_a_step_cancels_the_query_that_runs(snowflake: Snowflake, task_context: MakeContext) -> None:
    task = SnowflakeStatementsOperator(task_id="set_up", sql="CREATE a; CREATE b; CREATE c;")
    snowflake.answer("CREATE b", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        task.execute(task_context(task))  # type: ignore[arg-type]
    task.on_kill()
    snowflake.hook.cancel_queries.assert_called_once_with(["query 2"])


def test_killing_a_step_that_has_not_begun_cancels_nothing(snowflake: Snowflake) -> None:
    SnowflakeStatementsOperator(task_id="set_up", sql="CREATE a").on_kill()
    snowflake.hook.cancel_queries.assert_not_called()


def test_a_step_never_takes_up_the_statements_of_an_earlier_attempt() -> None:
    assert SnowflakeStatementsOperator(task_id="set_up", sql="CREATE a").durable is False


@pytest.mark.parametrize(
    "operator",
    [
        SnowflakeStatementsOperator,
        SnowflakeCopyIntoOperator,
        SnowflakeTableCheckOperator,
        SnowflakePublishOperator,
    ],
)
def test_rendered_fields_name_the_connection_and_hold_nothing_secret(operator: Any) -> None:
    assert "snowflake_conn_id" in operator.template_fields
    shown_to_users = {
        *("sql", "create_staging", "copy_manifest", "select_manifest", "select_ledger_row", "table", "checks"),
        *("run_key", "export_path", "snowflake_conn_id"),
    }
    assert set(operator.template_fields) <= shown_to_users


# ---- copy


@pytest.fixture
def copy(snowflake: Snowflake) -> SnowflakeCopyIntoOperator:
    """Make the copy step, with a Snowflake where everything goes well."""
    snowflake.answer("SELECT manifest", [MANIFEST])
    snowflake.answer("COPY data", FILES)
    return SnowflakeCopyIntoOperator(
        task_id="copy_into_staging",
        create_staging="CREATE staging; CREATE staging_manifest;",
        copy_manifest="COPY manifest;",
        select_manifest="SELECT manifest;",
        sql="COPY data;",
        dataset="tides",
        run_key=KEY,
    )


def test_copying_creates_reads_the_manifest_loads_and_counts(
    snowflake: Snowflake, copy: SnowflakeCopyIntoOperator, task_context: MakeContext
) -> None:
    assert copy.execute(task_context(copy)) == {  # type: ignore[arg-type]
        "files": 2,
        "rows_exported": 5,
        "rows_parsed": 5,
        "rows_loaded": 5,
        "query_ids": ["query 3", "query 5"],
    }
    assert snowflake.statements == [
        "CREATE staging",
        "CREATE staging_manifest",
        "COPY manifest",
        "SELECT manifest",
        "COPY data",
    ]
    assert len(set(snowflake.request_ids)) == 5


@pytest.mark.parametrize(("rows", "files"), [(NO_FILES, 0), ([{**FILES[0], "rows_loaded": 0}], 1)])
def test_loading_nothing_is_a_failure(
    snowflake: Snowflake,
    copy: SnowflakeCopyIntoOperator,
    task_context: MakeContext,
    rows: list[dict[str, Any]],
    files: int,
) -> None:
    snowflake.answer("COPY data", rows)
    copy.allow_empty = True  # the manifest counts rows: this is not the empty export that is allowed
    with pytest.raises(NothingLoadedError) as caught:
        copy.execute(task_context(copy))  # type: ignore[arg-type]
    message = str(caught.value)
    assert f"found {files} file(s), while the manifest counts 5 exported row(s) (query id query 5)" in message
    assert TARGET_UNCHANGED in message


def test_an_empty_export_is_a_failure_unless_the_dataset_allows_it(
    snowflake: Snowflake, copy: SnowflakeCopyIntoOperator, task_context: MakeContext
) -> None:
    snowflake.answer("SELECT manifest", [{**MANIFEST, "ROW_COUNT": 0}])
    snowflake.answer("COPY data", NO_FILES)
    with pytest.raises(NothingLoadedError, match="allow_empty: true"):
        copy.execute(task_context(copy))  # type: ignore[arg-type]
    copy.allow_empty = True
    counts = copy.execute(task_context(copy))  # type: ignore[arg-type]
    assert (counts["files"], counts["rows_exported"], counts["rows_loaded"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("manifests", "said"),
    [
        ([], "left 0 manifest rows instead of one"),
        ([MANIFEST, MANIFEST], "left 2 manifest rows instead of one"),
        ([{**MANIFEST, "RUN_KEY": "of another run"}], f"run key 'of another run' instead of 'tides' and '{KEY}'"),
        ([{**MANIFEST, "DATASET": "winds"}], "is of dataset 'winds'"),
        ([{**MANIFEST, "RUN_KEY": None}], "run key None"),
    ],
    ids=["missing", "two", "another run", "another dataset", "no run key"],
)
def test_without_its_own_manifest_no_data_is_loaded(
    snowflake: Snowflake,
    copy: SnowflakeCopyIntoOperator,
    task_context: MakeContext,
    manifests: list[dict[str, Any]],
    said: str,
) -> None:
    snowflake.answer("SELECT manifest", manifests)
    with pytest.raises(ManifestError) as caught:
        copy.execute(task_context(copy))  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert TARGET_UNCHANGED in str(caught.value)
    assert "COPY data" not in snowflake.statements


# ---- check


@pytest.fixture
def check() -> SnowflakeTableCheckOperator:
    checks = {"rows_match": "COUNT(*) = 5", "depth_known": "depth IS NOT NULL", "depth_possible": "depth > -12000"}
    return SnowflakeTableCheckOperator(task_id="check", table="staging.tides", checks=checks, sql="SELECT checks")


def answered(*results: int) -> list[tuple[str, int]]:
    return list(zip(["rows_match", "depth_known", "depth_possible"], results, strict=True))


def test_checks_that_hold_pass(
    snowflake: Snowflake, check: SnowflakeTableCheckOperator, task_context: MakeContext
) -> None:
    snowflake.hook.get_records.return_value = answered(1, 1, 1)
    check.execute(task_context(check))  # type: ignore[arg-type]
    snowflake.hook.get_records.assert_called_once_with("SELECT checks")
    assert snowflake.hook_class.call_args.kwargs["query_tag"]["task"] == "check"


def test_a_failed_check_is_named_with_its_condition(
    snowflake: Snowflake, check: SnowflakeTableCheckOperator, task_context: MakeContext
) -> None:
    snowflake.hook.get_records.return_value = answered(0, 1, 0)
    with pytest.raises(CheckFailedError) as caught:
        check.execute(task_context(check))  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.startswith(
        "2 of 3 checks failed on staging.tides - rows_match: COUNT(*) = 5; depth_possible: depth > -12000."
    )
    assert "depth_known" not in message
    assert TARGET_UNCHANGED in message


@pytest.mark.parametrize("records", [[], None])
def test_checks_without_an_answer_have_failed(
    snowflake: Snowflake, check: SnowflakeTableCheckOperator, task_context: MakeContext, records: Any
) -> None:
    snowflake.hook.get_records.return_value = records
    with pytest.raises(CheckFailedError, match="3 of 3 checks failed"):
        check.execute(task_context(check))  # type: ignore[arg-type]


def test_killing_the_checks_cancels_their_query(
    snowflake: Snowflake,
    check: SnowflakeTableCheckOperator,
    task_context: MakeContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def killed(_: str) -> None:
        monkeypatch.setattr(snowflake.hook, "query_ids", ["query 1"], raising=False)
        raise KeyboardInterrupt

    check.on_kill()
    snowflake.hook.get_records.side_effect = killed
    with pytest.raises(KeyboardInterrupt):
        check.execute(task_context(check))  # type: ignore[arg-type]
    check.on_kill()
    snowflake.hook.cancel_queries.assert_called_once_with(["query 1"])


@pytest.mark.parametrize("error", [NothingLoadedError, ManifestError, CheckFailedError])
def test_data_that_is_not_fit_is_not_tried_again(error: type[Exception]) -> None:
    assert issubclass(error, AirflowFailException)


# ---- publish

TRANSACTION = "BEGIN TRANSACTION;\nINSERT OVERWRITE INTO tides\nSELECT * FROM staging.tides;\nCOMMIT;"


@pytest.fixture
def publish() -> SnowflakePublishOperator:
    return SnowflakePublishOperator(
        task_id="publish",
        sql=f"-- why\n{TRANSACTION}",
        select_ledger_row="SELECT ledger;",
        run_key=KEY,
        export_path=EXPORT_PATH,
    )


def test_publishing_runs_one_transaction_and_answers_with_the_ledger_row(
    snowflake: Snowflake, publish: SnowflakePublishOperator, task_context: MakeContext
) -> None:
    snowflake.answer("SELECT ledger", [], [LEDGER_ROW])
    row = publish.execute(task_context(publish))  # type: ignore[arg-type]
    assert snowflake.statements == ["SELECT ledger", TRANSACTION, "SELECT ledger"]
    assert snowflake.hook.run_transaction.call_args.args == (TRANSACTION, 3)
    assert [call.kwargs["bindings"] for call in snowflake.hook.run_statement.call_args_list] == [[KEY], [KEY]]
    assert len(set(snowflake.request_ids)) == 3, "the second look must not be answered with the first"
    assert json.loads(json.dumps(row)) == {
        "run_key": KEY,
        "export_path": EXPORT_PATH,
        "rows_loaded": 5,
        "share_of_nulls": 0.25,
        "requested_by": None,
        "published_at": "2026-01-02T03:05:00",
    }


def test_an_export_that_is_in_the_ledger_is_not_published_again(
    snowflake: Snowflake, publish: SnowflakePublishOperator, task_context: MakeContext
) -> None:
    snowflake.answer("SELECT ledger", [LEDGER_ROW])
    row = publish.execute(task_context(publish, try_number=2))  # type: ignore[arg-type]
    assert row["rows_loaded"] == 5
    assert snowflake.statements == ["SELECT ledger"]
    snowflake.hook.run_transaction.assert_not_called()


def test_a_new_export_of_a_published_run_is_published(
    snowflake: Snowflake, publish: SnowflakePublishOperator, task_context: MakeContext
) -> None:
    earlier = {**LEDGER_ROW, "EXPORT_PATH": EXPORT_PATH.replace("/1/", "/0/"), "ROWS_LOADED": 4}
    snowflake.answer("SELECT ledger", [earlier], [LEDGER_ROW])
    row = publish.execute(task_context(publish))  # type: ignore[arg-type]
    assert row["rows_loaded"] == 5
    assert TRANSACTION in snowflake.statements


def test_a_transaction_without_a_trace_in_the_ledger_is_an_error_that_may_be_tried_again(
    snowflake: Snowflake, publish: SnowflakePublishOperator, task_context: MakeContext
) -> None:
    snowflake.answer("SELECT ledger", [])
    with pytest.raises(PublishError, match=KEY) as caught:
        publish.execute(task_context(publish))  # type: ignore[arg-type]
    assert isinstance(caught.value, AirflowException)
    assert not isinstance(caught.value, AirflowFailException)


def test_killing_a_publication_cancels_its_transaction(
    snowflake: Snowflake, publish: SnowflakePublishOperator, task_context: MakeContext
) -> None:
    def killed(*_: object, on_start: Callable[[str], None], **__: object) -> None:
        on_start("the transaction")
        raise KeyboardInterrupt

    snowflake.hook.run_transaction.side_effect = killed
    with pytest.raises(KeyboardInterrupt):
        publish.execute(task_context(publish))  # type: ignore[arg-type]
    publish.on_kill()
    snowflake.hook.cancel_queries.assert_called_once_with(["the transaction"])
