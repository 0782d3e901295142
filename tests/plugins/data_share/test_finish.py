"""The last step of a sync: what it leaves behind on neither side, and how it says that a sync ended."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import datetime
from typing import Any
from unittest import mock

import pytest

from data_share import finish as finish_module
from data_share import share
from data_share.databricks.follow import cancel_exports_of
from data_share.finish import FinishSyncOperator
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import Failure, NotPublishedError
from data_share.share import Share, run_key_of
from data_share.snowflake.sql_api import SnowflakeStatementError
from data_share.steps import BEFORE_FINISH
from data_share.sync import Sync
from tests.airflow_double import TaskInstance
from tests.plugins.data_share.conftest import Snowflake, tides

KEY = "20260102T030405_0a1b2c3d"
MakeContext = Callable[..., dict[str, Any]]
MakeFinish = Callable[..., tuple[FinishSyncOperator, Any]]
XComs = dict[tuple[str, str], Any]

# The run was cleared once, and began anew at 03:04:06: what says 0 is of the time before.
NOW, BEFORE = {"clear_number": 1}, {"clear_number": 0}
THIS_PATH, EARLIER_PATH, OTHER_PATH = (
    f"{Share().url}tides/{KEY}/{attempt}/" for attempt in ("2-0a1b2c3d", "1-ffffffff", "1-eeeeeeee")
)


def exported(made: dict[str, int] = NOW, run_id: int = 77, path: str = THIS_PATH) -> XComs:
    """What the steps up to the end of an export leave."""
    return {
        ("export_to_s3", "export"): {"run_id": run_id, **made},
        ("wait_for_export", "return_value"): {"run_id": run_id, "run_page_url": "page", "export_path": path},
    }


def answered(made: dict[str, int] = NOW, path: str = THIS_PATH, **more: Any) -> XComs:
    """What a publish leaves."""
    return {("publish", "return_value"): {"export_path": path, **made, **more}}


def report(step: str, made: dict[str, Any] = NOW, code: FailureCode = FailureCode.CHECKS_FAILED) -> dict[str, Any]:
    """What a step leaves that has failed by itself."""
    return {**Failure(step, code, f"{step} said so.").to_xcom(), **made}


STEPS = BEFORE_FINISH
ALL_WELL = dict.fromkeys(STEPS, "success")
TIDES = tides()


@pytest.fixture
def finish(snowflake: Snowflake, task_context: MakeContext) -> MakeFinish:
    """Make the last step of a sync whose steps have left these XComs, and ended in these states."""
    task = FinishSyncOperator(
        share=Share(),
        task_id="finish_sync",
        dataset=TIDES,
        sql={"show_staging_tables_of_run": "SHOW a;", "select_ledger_row": "SELECT row;"},
    )
    attempts = itertools.count(1)

    def make(xcoms: XComs, **states: str | None) -> tuple[FinishSyncOperator, Any]:
        context = task_context(task, try_number=next(attempts), conf={"reload_run_key": None})
        context["dag_run"].clear_number = 1
        context["dag_run"].xcoms = xcoms
        context["dag_run"].states = states
        task.sync = Sync.of(context, TIDES, Share())
        return task, context

    return make


def outcome(task: FinishSyncOperator, context: Any) -> Failure | None:
    """Execute the last step; return why the sync was not published, or None."""
    try:
        task.execute(context)
    except NotPublishedError as error:
        return error.failure
    return None


def test_the_staging_tables_of_all_attempts_of_this_run_are_dropped_and_no_others(
    snowflake: Snowflake, finish: MakeFinish, cancel_exports: mock.Mock
) -> None:
    task, context = finish(exported(), **{**ALL_WELL, "publish": "upstream_failed"})
    key = run_key_of(context["dag_run"])
    tables = [Share().staging_table("public.tides", key, attempt, f"attempt {attempt}") for attempt in (1, 2)]
    own = [
        name.partition(".")[2].upper()
        for table in tables
        for name in (table, share.staging_manifest(table), share.staging_samples(table))
    ]
    # An underscore of the pattern that they are listed by stands for any character.
    others = [own[0].replace("_", "X"), own[0].replace("TIDES", "OTHER"), own[0].replace("TIDES__", "TIDES_OF__"), "X"]
    snowflake.answer("SHOW a", [{"name": name} for name in [*own, *others]])
    assert outcome(task, context)
    assert snowflake.statements[:-1] == ["SHOW a", *(f'DROP TABLE IF EXISTS staging."{name}"' for name in own)]


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let no time pass; return how long was waited."""
    slept: list[float] = []
    monkeypatch.setattr(finish_module.time, "monotonic", lambda: sum(slept))
    monkeypatch.setattr(finish_module.time, "sleep", slept.append)
    return slept


@pytest.fixture
def cancel_exports(monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    """Take the place of Databricks, which has nothing to cancel."""
    monkeypatch.setenv(f"AIRFLOW_VAR_{Share().export_job_variable.upper()}", "4711")
    cancel = mock.create_autospec(cancel_exports_of, return_value=[])
    monkeypatch.setattr(finish_module, "cancel_exports_of", cancel)
    return cancel


# ---- what counts as published

TASK_STATES = (
    *(None, "scheduled", "queued", "running", "success", "restarting", "failed", "up_for_retry", "up_for_reschedule"),
    *("upstream_failed", "skipped", "deferred", "removed", "awaiting_input"),
)
# The run began at 03:04:06.
SINCE, UNTIL = datetime(2026, 1, 2, 3, 5), datetime(2026, 1, 2, 3, 4)

# What the step that exports has left, and with it the one that waits; what the sync's export is then, if that step is
# a success.
EXPORTS: dict[str, tuple[XComs, str]] = {
    "none": ({}, "none"),
    "none, and an earlier time's was waited for": ({("wait_for_export", "return_value"): {"run_id": 66}}, "none"),
    "this time's": (exported(), "this"),
    "this time's, and an earlier one was waited for": (
        {**exported(BEFORE, 66, EARLIER_PATH), ("export_to_s3", "export"): {"run_id": 77, **NOW}},
        "none",
    ),
    "an earlier time's": (exported(BEFORE, 66, EARLIER_PATH), "earlier"),
}
ANSWERS: dict[str, XComs] = {
    "none": {},
    "this": answered(),
    "earlier": answered(BEFORE, EARLIER_PATH),
    "dry run, this": answered(dry_run=True),
    "verification, this": answered(verified=True),
    "dry run, earlier": answered(BEFORE, EARLIER_PATH, dry_run=True),
}
LEDGERS = ("has it, since", "has it, from before", "has another", "has none", "is away")
COMPLETE = "complete"
AFTER_ALL, UNKNOWN, NOT = "published, without an answer", "not known", "not published"

# The first line that fits decides. Publish: success, or not. Answer, export and ledger as above; "*": any.
DECISIONS = [
    ("success", "this", "*", "*", COMPLETE),
    ("success", "dry run, this", "*", "*", COMPLETE),
    ("success", "verification, this", "*", "*", COMPLETE),
    ("success", "dry run, earlier", "earlier", "*", COMPLETE),
    ("success", "earlier", "earlier", "has it, since", COMPLETE),
    ("success", "earlier", "earlier", "has it, from before", COMPLETE),
    # A person has ended the publish after it had committed.
    ("not", "this", "*", "has it, since", COMPLETE),
    ("not", "this", "*", "has it, from before", COMPLETE),
    ("not", "this", "*", "is away", UNKNOWN),
    ("not", "this", "*", "*", NOT),
    # There was nothing to publish, or nothing that publishes.
    ("*", "*", "none", "*", NOT),
    ("not", "dry run, this", "*", "*", NOT),
    ("not", "verification, this", "*", "*", NOT),
    # Without an answer, the ledger says it: of an export of this time, or of this time of the run.
    ("*", "*", "*", "is away", UNKNOWN),
    ("*", "*", "*", "has it, since", AFTER_ALL),
    ("*", "*", "this", "has it, from before", AFTER_ALL),
    ("*", "*", "*", "*", NOT),
]


def decided(*case: str) -> str:
    fits = (line[-1] for line in DECISIONS if all(want in ("*", is_) for want, is_ in zip(line, case, strict=False)))
    return next(fits)


def rows_of(ledger: str, path: str) -> Any:
    return {
        "has it, since": [{"EXPORT_PATH": path, "PUBLISHED_AT": SINCE}],
        "has it, from before": [{"EXPORT_PATH": path, "PUBLISHED_AT": UNTIL}],
        "has another": [{"EXPORT_PATH": OTHER_PATH, "PUBLISHED_AT": SINCE}],
        "has none": [],
        "is away": RuntimeError("Snowflake is away"),
    }[ledger]


# Two of the states in each run, as they take seconds.
@pytest.mark.parametrize(
    "publish",
    [
        pytest.param(state, marks=pytest.mark.tier("quick" if state in ("success", "failed") else "nightly"))
        for state in TASK_STATES
    ],
    ids=str,
)
def test_published_is_what_this_time_has_published(
    snowflake: Snowflake, finish: MakeFinish, cancel_exports: mock.Mock, slept: list[float], publish: str | None
) -> None:
    exports = [(state, *EXPORTS[name]) for state in TASK_STATES for name in EXPORTS]
    cases = 0
    for (state, left, kind), answer, ledger in itertools.product(exports, ANSWERS, LEDGERS):
        case = (publish, state, left, answer, ledger)
        export = kind if state == "success" else "none"
        path = EARLIER_PATH if export == "earlier" and "this" not in answer else THIS_PATH
        snowflake.answer("SELECT row", rows_of(ledger, path))
        cancel_exports.reset_mock()
        task, context = finish({**left, **ANSWERS[answer]}, **{**ALL_WELL, "export_to_s3": state, "publish": publish})
        expected = decided("success" if publish == "success" else "not", answer, export, ledger)
        assert verdict(outcome(task, context)) == expected, case
        # Nobody follows an export of a sync that was not published; of one that was, there is none.
        is_plain = publish == "success" and "this" in answer
        assert cancel_exports.called is not is_plain, case
        cases += 1
    assert cases == len(TASK_STATES) * len(EXPORTS) * len(ANSWERS) * len(LEDGERS) == 2100


def verdict(failure: Failure | None) -> str:
    if failure is None:
        return COMPLETE
    if failure.code is FailureCode.ENDED_AFTER_PUBLISH:
        return AFTER_ALL
    assert failure.code in (FailureCode.CANCELLED, FailureCode.STEP_DIED, FailureCode.RESULT_MISSING)
    if "Snowflake did not answer whether it was published" in failure.message:
        return UNKNOWN
    assert "It was not published; the target is as it was." in failure.message
    return NOT


@pytest.mark.tier("full")
@pytest.mark.parametrize("step", STEPS[1:-1])
def test_the_state_of_no_other_step_makes_a_publish_or_undoes_one(
    snowflake: Snowflake, finish: MakeFinish, cancel_exports: mock.Mock, slept: list[float], step: str
) -> None:
    """Each state of a step, with no report, one of this time and one of an earlier time."""
    cases = 0
    reports = (None, report(step, {**NOW, "run_id": "77"}), report(step, {**BEFORE, "run_id": "66"}))
    for state, left, publish, answer, ledger in itertools.product(
        TASK_STATES, reports, ("success", "upstream_failed"), ("none", "this", "earlier"), LEDGERS
    ):
        case = (step, state, left, publish, answer, ledger)
        snowflake.answer("SELECT row", rows_of(ledger, THIS_PATH))
        xcoms = {**exported(), **ANSWERS[answer], (step, "failure"): left}
        task, context = finish(xcoms, **{**ALL_WELL, step: state, "publish": publish})
        expected = decided("success" if publish == "success" else "not", answer, "this", ledger)
        failure = outcome(task, context)
        says_why = state == "failed" and left is reports[1] and expected not in (COMPLETE, AFTER_ALL)
        if says_why:
            assert failure is not None, case
            assert (failure.step, failure.message) == (step, f"{step} said so."), case
        else:
            assert verdict(failure) == expected, case
            if failure and expected is not AFTER_ALL and state == "failed":
                assert failure.step == step, "a failed step comes before one that waits for it"
        cases += 1
    assert cases == 1260


@pytest.mark.parametrize("kind", ["unchanged", "verified"])
@pytest.mark.parametrize(
    ("made", "publish", "expected"),
    [(NOW, "success", COMPLETE), (NOW, "failed", NOT), (BEFORE, "success", COMPLETE)],
    ids=["ended well", "a person has ended it at its end", "the last step alone was cleared"],
)
def test_an_answer_that_names_no_export_is_about_that_of_its_time(
    snowflake: Snowflake,
    finish: MakeFinish,
    cancel_exports: mock.Mock,
    slept: list[float],
    kind: str,
    made: dict[str, int],
    publish: str,
    expected: str,
) -> None:
    snowflake.answer("SELECT row", [])
    xcoms = {**exported(made), ("publish", "return_value"): {kind: True, **made}}
    task, context = finish(xcoms, **{**ALL_WELL, "publish": publish})
    assert verdict(outcome(task, context)) == expected


RELOADED = {("copy_into_staging", "return_value"): {"databricks_run_id": 5, "export_path": OTHER_PATH, **NOW}}


@pytest.mark.parametrize(
    ("xcoms", "publish", "row", "expected"),
    [
        ({**RELOADED, **answered(path=OTHER_PATH)}, "success", None, COMPLETE),
        (RELOADED, "failed", OTHER_PATH, AFTER_ALL),
        (RELOADED, "failed", None, NOT),
        ({**RELOADED, **answered(BEFORE, EARLIER_PATH)}, "success", EARLIER_PATH, NOT),
        ({**RELOADED, **answered(BEFORE, OTHER_PATH)}, "success", OTHER_PATH, COMPLETE),
    ],
    ids=["published", "killed after it", "killed", "an earlier answer", "the last step alone was cleared"],
)
def test_a_sync_that_loads_an_earlier_export_is_judged_by_that(
    snowflake: Snowflake,
    finish: MakeFinish,
    cancel_exports: mock.Mock,
    slept: list[float],
    xcoms: XComs,
    publish: str,
    row: str | None,
    expected: str,
) -> None:
    snowflake.answer("SELECT row", [{"EXPORT_PATH": row, "PUBLISHED_AT": SINCE}] if row else [])
    states = {**ALL_WELL, "export_to_s3": "skipped", "wait_for_export": "skipped", "publish": publish}
    task, context = finish(xcoms, **states)
    context["params"]["reload_run_key"] = KEY
    assert verdict(outcome(task, context)) == expected
    cancel_exports.assert_not_called()


def test_an_append_that_is_done_again_is_published_by_the_answer_that_names_the_first_export(
    snowflake: Snowflake, finish: MakeFinish, cancel_exports: mock.Mock
) -> None:
    # It counts a sync once: the answer is the ledger's row of the time before, given by this time's publish.
    for publish, path in (("success", None), ("failed", EARLIER_PATH)):
        snowflake.answer("SELECT row", [{"EXPORT_PATH": path, "PUBLISHED_AT": UNTIL}])
        task, context = finish({**exported(), **answered(path=EARLIER_PATH)}, **{**ALL_WELL, "publish": publish})
        assert outcome(task, context) is None


def test_a_good_sync_costs_two_questions_and_no_look_at_databricks_or_snowflake(
    snowflake: Snowflake, finish: MakeFinish, cancel_exports: mock.Mock
) -> None:
    task, context = finish({**exported(), **answered()}, **ALL_WELL)
    with (
        mock.patch.object(TaskInstance, "xcom_pull", autospec=True, side_effect=TaskInstance.xcom_pull) as pulls,
        mock.patch.object(
            TaskInstance, "get_task_states", autospec=True, side_effect=TaskInstance.get_task_states
        ) as looks,
    ):
        task.execute(context)
    assert (pulls.call_count, looks.call_count) == (1, 1)
    assert snowflake.statements == []
    cancel_exports.assert_not_called()


@pytest.mark.parametrize("kind", ["dry_run", "verified"])
def test_what_publishes_nothing_keeps_its_staging_tables_until_its_result_is_known(
    snowflake: Snowflake, finish: MakeFinish, cancel_exports: mock.Mock, kind: str
) -> None:
    xcoms = {**exported(), **answered()}
    xcoms["publish", "return_value"] = {**xcoms["publish", "return_value"], kind: True}
    task, context = finish(xcoms, **ALL_WELL)
    assert outcome(task, context) is None
    assert snowflake.statements == ["SHOW a"]
    cancel_exports.assert_not_called()


# ---- what it leaves behind on neither side


def test_the_export_of_a_sync_that_was_not_published_is_always_looked_for_on_databricks(
    finish: MakeFinish, cancel_exports: mock.Mock, slept: list[float]
) -> None:
    # A person who marks wait_for_export while no triggerer lives leaves its run, whatever the mark is.
    for export, wait in itertools.product(TASK_STATES, TASK_STATES):
        cancel_exports.reset_mock()
        task, context = finish(exported(), export_to_s3=export, wait_for_export=wait, publish="upstream_failed")
        with pytest.raises(NotPublishedError):
            task.execute(context)
        [call] = cancel_exports.call_args_list
        assert call.args[1:] == ("4711", run_key_of(context["dag_run"])), (export, wait)


def test_a_staging_table_that_cannot_be_dropped_keeps_no_other_one(
    snowflake: Snowflake, finish: MakeFinish, cancel_exports: mock.Mock
) -> None:
    task, context = finish(exported(), **{**ALL_WELL, "publish": "upstream_failed"})
    key = run_key_of(context["dag_run"])
    names = [
        Share().staging_table("public.tides", key, attempt, attempt).partition(".")[2].upper() for attempt in (1, 2)
    ]
    drops = [f'DROP TABLE IF EXISTS staging."{name}"' for name in names]
    snowflake.answer("SHOW a", [{"name": name} for name in names])
    snowflake.answer(drops[0], SnowflakeStatementError("Insufficient privileges to operate on table"))
    assert outcome(task, context)
    assert [statement for statement in snowflake.statements if statement.startswith("DROP")] == drops


def test_what_goes_wrong_while_tidying_up_hides_no_reason(
    snowflake: Snowflake, finish: MakeFinish, cancel_exports: mock.Mock
) -> None:
    cancel_exports.side_effect = RuntimeError("Databricks is away")
    snowflake.answer("SHOW a", RuntimeError("Snowflake is away"))
    task, context = finish({("check_staging", "failure"): report("check_staging")}, check_staging="failed")
    with pytest.raises(NotPublishedError, match=r"^check_staging: check_staging said so\."):
        task.execute(context)


def test_without_the_states_nothing_is_said_and_the_step_is_tried_again(
    finish: MakeFinish, cancel_exports: mock.Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, context = finish({**exported(), **answered()}, **ALL_WELL)
    monkeypatch.setattr(context["ti"], "get_task_states", mock.Mock(side_effect=ConnectionError("Airflow is away")))
    with pytest.raises(ConnectionError):
        task.execute(context)


def test_an_unknown_job_hides_no_reason(finish: MakeFinish, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(f"AIRFLOW_VAR_{Share().export_job_variable.upper()}", raising=False)
    task, context = finish({("export_to_s3", "failure"): report("export_to_s3")}, export_to_s3="failed")
    with pytest.raises(NotPublishedError, match=r"^export_to_s3: export_to_s3 said so\."):
        task.execute(context)


@pytest.mark.parametrize(
    ("state", "left", "waits"),
    [
        ({"check_staging": "failed"}, {}, True),
        ({"publish": "failed"}, {}, True),
        ({"export_to_s3": "failed"}, {}, True),
        ({"wait_for_export": "failed"}, {}, False),
        ({"check_staging": "failed"}, {("check_staging", "failure"): report("check_staging")}, False),
        ({"check_staging": "failed"}, {("check_staging", "failure"): report("check_staging", BEFORE)}, True),
        ({"copy_into_staging": "failed"}, {("copy_into_staging", "return_value"): BEFORE}, True),
        ({"copy_into_staging": "failed"}, {("copy_into_staging", "return_value"): NOW}, False),
        ({"check_staging": "success", "publish": "skipped"}, {}, False),
        ({"publish": "failed"}, answered(), False),
        ({"publish": "failed"}, answered(BEFORE), True),
    ],
    ids=[
        *("check", "publish", "export", "in the triggerer", "failed by itself", "failed in the time before"),
        *("copied in the time before", "copied", "skipped", "published", "published in the time before"),
    ],
)
def test_tidying_up_waits_for_the_process_of_a_step_that_was_ended(
    snowflake: Snowflake,
    finish: MakeFinish,
    cancel_exports: mock.Mock,
    monkeypatch: pytest.MonkeyPatch,
    state: dict[str, str],
    left: XComs,
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
    with pytest.raises(NotPublishedError):
        task.execute(context)
    # A heartbeat of 5 s, 5 s from SIGTERM to SIGKILL, and a little more.
    assert now[0] == (pytest.approx(12, abs=0.3) if waits else 0)
    dropped = [statement for statement in snowflake.statements if statement == "SHOW a"]
    assert len(dropped) == (2 if waits else 1)
    assert len(set(snowflake.request_ids)) == len(snowflake.request_ids), "the second is no repetition of the first"


def test_what_became_of_a_step_that_a_person_ended_is_not_the_reason(
    finish: MakeFinish, cancel_exports: mock.Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    xcoms: XComs = {}
    left = {("check_staging", "failure"): report("check_staging")}
    monkeypatch.setattr(finish_module.time, "sleep", lambda _: xcoms.update(left))
    task, context = finish(xcoms, check_staging="failed", publish="skipped")
    with pytest.raises(NotPublishedError) as caught:
        task.execute(context)
    assert caught.value.failure.code is FailureCode.CANCELLED


def test_a_step_that_publishes_after_all_makes_the_sync_a_success(
    snowflake: Snowflake, finish: MakeFinish, cancel_exports: mock.Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    xcoms = exported()
    monkeypatch.setattr(finish_module.time, "sleep", lambda _: xcoms.update(answered()))
    snowflake.answer("SELECT row", [{"EXPORT_PATH": THIS_PATH, "PUBLISHED_AT": SINCE}])
    task, context = finish(xcoms, **{**ALL_WELL, "publish": "failed"})
    task.execute(context)
    assert snowflake.statements == ["SHOW a", "SHOW a", "SELECT row"]
    assert snowflake.hook.run_statement.call_args.kwargs["bindings"] == [run_key_of(context["dag_run"])]


def test_a_failure_leads_to_the_page_of_the_export(
    finish: MakeFinish, cancel_exports: mock.Mock, slept: list[float]
) -> None:
    for state, page in (("success", "https://d/run/77"), ("failed", None)):
        xcoms = {**exported(), ("export_to_s3", "run_page_url"): "https://d/run/77"}
        task, context = finish(xcoms, export_to_s3=state, copy_into_staging="failed")
        failure = outcome(task, context)
        assert failure is not None
        assert failure.databricks_run_url == page, "a step that did not end well keeps that of the time before"
