"""The last step of a sync: what it leaves behind on neither side, and how it says that a sync ended."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from datetime import datetime
from typing import Any
from unittest import mock

import pytest

from data_share import finish as finish_module
from data_share import share
from data_share.databricks_run import cancel_exports_of
from data_share.failure_codes import FailureCode
from data_share.failures import Failure, NotPublishedError
from data_share.finish import FinishSyncOperator
from data_share.share import run_key_of
from tests.plugins.data_share.conftest import Snowflake

KEY = "20260102T030405_0a1b2c3d"
MakeContext = Callable[..., dict[str, Any]]
MakeFinish = Callable[..., tuple[FinishSyncOperator, Any]]


@pytest.fixture
def finish(snowflake: Snowflake, task_context: MakeContext) -> MakeFinish:
    """Make the last step of a sync whose steps have left these XComs, and ended in these states."""

    def make(xcoms: dict[tuple[str, str], Any], **states: str) -> tuple[FinishSyncOperator, Any]:
        task = FinishSyncOperator(
            task_id="drop_staging",
            sql="SHOW a;",
            target_table="public.tides",
            select_ledger_row="SELECT row;",
            steps=["export_to_s3", "wait_for_export", "check_staging", "publish"],
        )
        context = task_context(task)
        context["dag_run"].xcoms = xcoms
        context["dag_run"].states = states
        return task, context

    return make


def test_a_published_sync_ends_well_also_when_staging_tables_are_left(snowflake: Snowflake, finish: MakeFinish) -> None:
    snowflake.answer("SHOW a", RuntimeError("Snowflake is away"))
    task, context = finish({("publish", "return_value"): {"run_key": KEY}}, wait_for_export="success")
    task.execute(context)
    assert snowflake.statements == ["SHOW a"]


def test_the_staging_tables_of_all_attempts_of_this_run_are_dropped_and_no_others(
    snowflake: Snowflake, finish: MakeFinish
) -> None:
    task, context = finish({("publish", "return_value"): {"run_key": KEY}}, wait_for_export="success")
    key = run_key_of(context["dag_run"])
    tables = [share.staging_table("public.tides", key, attempt, f"attempt {attempt}") for attempt in (1, 2)]
    own = [name.partition(".")[2].upper() for table in tables for name in (table, share.staging_manifest(table))]
    # An underscore of the pattern that they are listed by stands for any character.
    others = [own[0].replace("_", "X"), own[0].replace("TIDES", "OTHER"), own[0].replace("TIDES__", "TIDES_OF__"), "X"]
    snowflake.answer("SHOW a", [{"name": name} for name in [*own, *others]])
    task.execute(context)
    assert snowflake.statements == ["SHOW a", *(f'DROP TABLE IF EXISTS staging."{name}"' for name in own)]


NO_JOB = Failure("export_to_s3", FailureCode.EXPORT_JOB_REFUSED, "No such job.").to_xcom()
CHECKS_FAILED = Failure("check_staging", FailureCode.CHECKS_FAILED, "1 of 9 checks failed.").to_xcom()


@pytest.fixture
def cancel_exports(monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    """Take the place of Databricks, which has nothing to cancel."""
    monkeypatch.setenv(f"AIRFLOW_VAR_{share.EXPORT_JOB_VARIABLE.upper()}", "4711")
    cancel = mock.create_autospec(cancel_exports_of, return_value=[])
    monkeypatch.setattr(finish_module, "cancel_exports_of", cancel)
    return cancel


STATES: dict[str, tuple[dict[str, str], bool]] = {
    "cancelled before it began": ({}, True),
    "before a retry": ({"export_to_s3": "skipped"}, True),
    "not followed": ({"export_to_s3": "success", "wait_for_export": "skipped"}, True),
    "failed": ({"export_to_s3": "success", "wait_for_export": "failed"}, True),
    "exported": ({"export_to_s3": "success", "wait_for_export": "success"}, False),
}


def test_only_an_export_that_did_not_end_well_is_looked_for_on_databricks(
    finish: MakeFinish, cancel_exports: mock.Mock
) -> None:
    for case, (states, looked_for) in STATES.items():
        cancel_exports.reset_mock()
        task, context = finish({}, **states)
        with pytest.raises(NotPublishedError):
            task.execute(context)
        expected = [("4711", run_key_of(context["dag_run"]))] if looked_for else []
        assert [call.args[1:] for call in cancel_exports.call_args_list] == expected, case


def test_a_sync_that_loads_an_earlier_export_does_not_ask_databricks(
    finish: MakeFinish, cancel_exports: mock.Mock
) -> None:
    task, context = finish({}, export_to_s3="skipped", wait_for_export="skipped", copy_into_staging="failed")
    context["params"]["reload_run_key"] = KEY
    with pytest.raises(NotPublishedError):
        task.execute(context)
    cancel_exports.assert_not_called()


def test_what_goes_wrong_while_tidying_up_hides_no_reason(
    snowflake: Snowflake, finish: MakeFinish, cancel_exports: mock.Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel_exports.side_effect = RuntimeError("Databricks is away")
    snowflake.answer("SHOW a", RuntimeError("Snowflake is away"))
    task, context = finish({("export_to_s3", "failure"): NO_JOB}, export_to_s3="failed")
    monkeypatch.setattr(context["ti"], "get_task_states", mock.Mock(side_effect=RuntimeError("Airflow is away")))
    with pytest.raises(NotPublishedError, match=r"^export_to_s3: No such job\."):
        task.execute(context)


def test_an_unknown_job_hides_no_reason(finish: MakeFinish, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(f"AIRFLOW_VAR_{share.EXPORT_JOB_VARIABLE.upper()}", raising=False)
    task, context = finish({("export_to_s3", "failure"): NO_JOB}, export_to_s3="failed")
    with pytest.raises(NotPublishedError, match=r"^export_to_s3: No such job\."):
        task.execute(context)


@pytest.mark.parametrize(
    ("state", "left", "waits"),
    [
        ({"check_staging": "failed"}, {}, True),
        ({"publish": "failed"}, {}, True),
        ({"export_to_s3": "failed"}, {}, True),
        ({"wait_for_export": "failed"}, {}, False),
        ({"check_staging": "failed"}, {("check_staging", "failure"): CHECKS_FAILED}, False),
        ({"check_staging": "success", "publish": "skipped"}, {}, False),
        ({"publish": "failed"}, {("publish", "return_value"): {"run_key": KEY}}, False),
    ],
    ids=["check", "publish", "export", "in the triggerer", "failed by itself", "skipped", "published"],
)
def test_tidying_up_waits_for_the_process_of_a_step_that_was_ended(
    snowflake: Snowflake,
    finish: MakeFinish,
    cancel_exports: mock.Mock,
    monkeypatch: pytest.MonkeyPatch,
    state: dict[str, str],
    left: dict[tuple[str, str], Any],
    waits: bool,
) -> None:
    now = [0.0]
    monkeypatch.setattr(finish_module.time, "monotonic", lambda: now[0])

    def sleep(seconds: float) -> None:
        assert snowflake.statements == ["SHOW a"], "no publish shall begin meanwhile"
        cancel_exports.assert_not_called()
        now[0] += seconds

    monkeypatch.setattr(finish_module.time, "sleep", sleep)
    task, context = finish(left, **state)
    with nullcontext() if ("publish", "return_value") in left else pytest.raises(NotPublishedError):
        task.execute(context)
    # A heartbeat of 5 s, 5 s from SIGTERM to SIGKILL, and a little more.
    assert now[0] == (pytest.approx(12, abs=0.3) if waits else 0)
    assert snowflake.statements == ["SHOW a"] * (2 if waits else 1)
    assert len(set(snowflake.request_ids)) == len(snowflake.request_ids), "the second is no repetition of the first"


def test_what_became_of_a_step_that_a_person_ended_is_not_the_reason(
    finish: MakeFinish, cancel_exports: mock.Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    xcoms: dict[tuple[str, str], Any] = {}
    monkeypatch.setattr(
        finish_module.time, "sleep", lambda _: xcoms.update({("check_staging", "failure"): CHECKS_FAILED})
    )
    task, context = finish(xcoms, check_staging="failed", publish="skipped")
    with pytest.raises(NotPublishedError) as caught:
        task.execute(context)
    assert caught.value.failure.code is FailureCode.CANCELLED


def test_a_step_that_publishes_after_all_makes_the_sync_a_success(
    snowflake: Snowflake, finish: MakeFinish, cancel_exports: mock.Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    xcoms: dict[tuple[str, str], Any] = {}
    monkeypatch.setattr(
        finish_module.time, "sleep", lambda _: xcoms.update({("publish", "return_value"): {"run_key": KEY}})
    )
    task, context = finish(xcoms, wait_for_export="success", publish="failed")
    task.execute(context)
    assert snowflake.statements == ["SHOW a", "SHOW a"]
    cancel_exports.assert_not_called()


EXPORT = {"run_id": 77, "export_path": f"{share.SHARE_URL}tides/{KEY}/1-0a1b2c3d/"}
# The run of the context began at 03:04:06.
COMMITTED = {"EXPORT_PATH": EXPORT["export_path"], "PUBLISHED_AT": datetime(2026, 1, 2, 3, 5)}
OF_ANOTHER = {**COMMITTED, "EXPORT_PATH": f"{share.SHARE_URL}tides/{KEY}/1-ffffffff/"}
OF_BEFORE = {**COMMITTED, "PUBLISHED_AT": datetime(2026, 1, 2, 3, 4)}


NOT_PUBLISHED = "It was not published; the target is as it was."


@pytest.mark.parametrize(
    ("state", "ledger", "code", "words"),
    [
        ("failed", [COMMITTED], FailureCode.ENDED_AFTER_PUBLISH, "The sync was published"),
        ("failed", [OF_ANOTHER], FailureCode.STEP_DIED, NOT_PUBLISHED),
        ("failed", [OF_BEFORE], FailureCode.STEP_DIED, NOT_PUBLISHED),
        ("failed", [], FailureCode.STEP_DIED, NOT_PUBLISHED),
        ("failed", RuntimeError("Snowflake is away"), FailureCode.STEP_DIED, "Whether it was published could not be"),
        ("skipped", [COMMITTED], FailureCode.ENDED_AFTER_PUBLISH, "The sync was published"),
        ("skipped", [], FailureCode.CANCELLED, NOT_PUBLISHED),
        ("skipped", RuntimeError("Snowflake is away"), FailureCode.CANCELLED, "Whether it was published could not be"),
    ],
    ids=[
        *("killed, committed", "killed, another export", "killed, before the run was cleared", "killed", "not known"),
        *("cancelled between two attempts, committed", "cancelled", "cancelled, not known"),
    ],
)
def test_of_a_publish_that_left_no_result_the_ledger_says_whether_it_had_committed(
    snowflake: Snowflake,
    finish: MakeFinish,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    ledger: Any,
    code: FailureCode,
    words: str,
) -> None:
    states = {"export_to_s3": "success", "wait_for_export": "success", "check_staging": "success", "publish": state}
    monkeypatch.setattr(finish_module, "wait_for_killed_steps", lambda ti, steps: (states, False))
    snowflake.answer("SELECT row", ledger)
    task, context = finish({("wait_for_export", "return_value"): EXPORT}, **states)
    context["params"]["reload_run_key"] = None
    with pytest.raises(NotPublishedError) as caught:
        task.execute(context)
    assert caught.value.failure.code is code
    assert words in caught.value.failure.message
    assert snowflake.hook.run_statement.call_args.kwargs["bindings"] == [run_key_of(context["dag_run"])]
