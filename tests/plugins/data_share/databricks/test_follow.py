"""Following a run: one event, the reason in Databricks' words, and cancelling only what nobody else follows."""

from __future__ import annotations

import asyncio
import functools
import ssl
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import requests
from airflow.providers.databricks.exceptions import DatabricksApiError
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.module_loading import import_string
from airflow.triggers.base import TaskFailedEvent, TaskSuccessEvent

from data_share.databricks import follow
from data_share.databricks.follow import (
    DatabricksRunFailedError,
    DatabricksRunSensor,
    DatabricksRunTrigger,
    TooManyRunsError,
    cancel_exports_of,
    failed_run,
)
from data_share.databricks.hook import DataShareDatabricksHook
from data_share.outcome.codes import FailureCode
from tests.airflow_double import DagRun, TaskInstance, events_of

PAGE = "https://databricks.example/?o=1#job/2/run/77"
EXPORT_PATH = "s3://databricks-snowflake-share/dataset/tides/20260102T030405_0a1b2c3d/1-0a1b2c3d/"
FINISHED = {"run_id": 77, "run_page_url": PAGE, "export_path": EXPORT_PATH, "unchanged": False}
RUNNING = {"life_cycle_state": "RUNNING"}
SUCCESS = {"life_cycle_state": "TERMINATED", "result_state": "SUCCESS"}


def run(state: dict[str, str], **details: Any) -> dict[str, Any]:
    """Return a run as Databricks reports it."""
    return {
        "run_id": 77,
        "run_page_url": PAGE,
        "start_time": int(time.time() * 1000),
        "state": state,
        "job_parameters": [{"name": "export_path", "default": "", "value": EXPORT_PATH}],
        **details,
    }


def failed(result_state: str, message: str = "", **details: Any) -> dict[str, Any]:
    state = {"life_cycle_state": "TERMINATED", "result_state": result_state, "state_message": message}
    return run(state, **details)


@functools.cache
def hook_class() -> mock.Mock:
    """Return the stand-in of the hook's class; made once, as reading so large a class takes long."""
    return mock.create_autospec(DataShareDatabricksHook)


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[mock.Mock]:
    """Put a stand-in in the place of every Databricks hook."""
    hook_class().reset_mock()
    hook: mock.Mock = hook_class().return_value
    for asked in (hook.a_get_run, hook.a_get_run_output, hook._do_api_call):
        asked.reset_mock(return_value=True, side_effect=True)
    # A function, as the trigger takes it to another thread, which a mock object does not go to.
    hook.cancel_run = mock.create_autospec(lambda run_id: None)
    monkeypatch.setattr(follow, "DataShareDatabricksHook", hook_class())
    yield hook
    # Not for the next test: it cannot be reset like a mock object.
    del hook.cancel_run


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record how long was waited, without waiting."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return waits


def waiting() -> TaskInstance:
    """Return the attempt that waits for the export."""
    run = DagRun(dag_id="sync_tides", run_id="manual__1")
    return TaskInstance(run, "wait_for_export", in_triggerer=True)


@pytest.fixture
def xcoms() -> Iterator[dict[str, Any]]:
    """Collect what is pushed for the task."""
    with waiting().run.xcoms_of_triggers() as pushed:
        yield pushed


def trigger(run_id: str = "77", timeout_seconds: float = 3600) -> DatabricksRunTrigger:
    """Make a trigger as the triggerer does: from what is stored, then given its task."""
    class_path, kwargs = DatabricksRunTrigger("databricks_default", run_id, timeout_seconds).serialize()
    made: DatabricksRunTrigger = import_string(class_path)(**kwargs)
    made.task_instance = waiting()  # type: ignore[assignment]
    return made


def failure_of(followed: DatabricksRunTrigger, xcoms: dict[str, Any]) -> str:
    """Run a trigger that has to fail; return what happened, from the report that it leaves."""
    assert events_of(followed) == [TaskFailedEvent()]
    assert set(xcoms) - {"databricks_run_page"} == {"failure"}
    assert xcoms["failure"]["step"] == "wait_for_export"
    # By it, the last step knows a report of the time before.
    assert xcoms["failure"]["run_id"] == followed.run_id
    assert xcoms["failure"]["databricks_run_url"] in (None, PAGE)
    return str(xcoms["failure"]["message"])


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("[ROW_LEVEL_SECURITY_COLUMN_MASK_FEATURE_NOT_SUPPORTED.DESCRIBE_HISTORY] Row level", "set pinned: false"),
        ("[COLUMN_MASKS_FEATURE_NOT_SUPPORTED.TIME_TRAVEL] Column mask", "set pinned: false"),
        ("[ROW_LEVEL_SECURITY_FEATURE_NOT_SUPPORTED.TIME_TRAVEL] Row level", "set pinned: false"),
        ("[FGAC_TIME_TRAVEL_NOT_SUPPORTED.PER_TABLE_RLS_CM] Cannot time travel", "set pinned: false"),
        ("[INSUFFICIENT_PERMISSIONS] User does not have SELECT on main.information_schema.tables", "Grant USE SCHEMA"),
        ("[INSUFFICIENT_PERMISSIONS] User does not have SELECT on main.a.b", None),
    ],
)
def test_a_source_whose_versions_cannot_be_read_is_told_with_a_way_out(reason: str, advice: str | None) -> None:
    error = failed_run(f"Task plan: {reason}", "FAILED", PAGE)
    assert reason in error.message
    assert (advice or FailureCode.EXPORT_FAILED.what_to_do) in error.what_to_do


GONE = "[FAILED_READ_FILE.DBR_FILE_NOT_EXIST] Error while reading file a. [DELTA_FILE_NOT_FOUND_DETAILED] File a"
TOO_OLD = "[DELTA_UNSUPPORTED_TIME_TRAVEL_BEYOND_DELETED_FILE_RETENTION_DURATION] Cannot time travel"
FULL_AFTER = "after a failure, it exports everything"
OPEN_PAGE = FailureCode.EXPORT_FAILED.what_to_do
VERIFY_AGAIN = FailureCode.VERIFY_IMPOSSIBLE.what_to_do
INCREMENT = '{"increment": {"load": "merge"}}'
NO_INCREMENT = '{"increment": {"load": "merge"}, "no_increment_because": "the last sync has not ended well"}'


@pytest.mark.parametrize(
    ("reason", "published", "code", "advice"),
    [
        (TOO_OLD, INCREMENT, FailureCode.EXPORT_FAILED, FULL_AFTER),
        (TOO_OLD, None, FailureCode.EXPORT_FAILED, FULL_AFTER),
        (TOO_OLD, '{"verify": "true"}', FailureCode.VERIFY_IMPOSSIBLE, VERIFY_AGAIN),
        (GONE, INCREMENT, FailureCode.EXPORT_FAILED, FULL_AFTER),
        (GONE, '{"verify": "true"}', FailureCode.VERIFY_IMPOSSIBLE, VERIFY_AGAIN),
        # Of the newest version, no file may be missing.
        *((GONE, told, FailureCode.EXPORT_FAILED, OPEN_PAGE) for told in (NO_INCREMENT, "{}", "", "[]", "{{x}}", None)),
        ("[DIVIDE_BY_ZERO] x", '{"verify": "true"}', FailureCode.EXPORT_FAILED, OPEN_PAGE),
    ],
)
def test_an_earlier_version_that_is_not_read_any_more_is_told_with_what_helps(
    hook: mock.Mock, xcoms: dict[str, Any], reason: str, published: str | None, code: FailureCode, advice: str
) -> None:
    parameters = [] if published is None else [{"name": "published", "value": published}]
    hook.a_get_run.return_value = failed("FAILED", reason, job_parameters=parameters)
    assert reason in failure_of(trigger(), xcoms)
    assert xcoms["failure"]["code"] == code.name
    assert advice in xcoms["failure"]["what_to_do"]


# ---- success


def test_a_run_that_ends_well_ends_the_task_well(hook: mock.Mock, xcoms: dict[str, Any]) -> None:
    hook.a_get_run.side_effect = [run({"life_cycle_state": "QUEUED"}, start_time=0), run(RUNNING), run(SUCCESS)]
    assert events_of(trigger()) == [TaskSuccessEvent()]
    assert xcoms == {"databricks_run_page": PAGE, "return_value": FINISHED}
    assert type(xcoms["return_value"]["run_id"]) is int
    hook.a_get_run.assert_awaited_with(77)
    hook.cancel_run.assert_not_called()


CHANGED = {"task_key": "changed", "condition_task": {"op": "NOT_EQUAL", "left": "nothing", "right": "nothing"}}


@pytest.mark.parametrize(
    ("tasks", "is_unchanged"),
    [
        ([{"task_key": "plan"}, {**CHANGED, "condition_task": {"outcome": "false"}}, {"task_key": "export"}], True),
        ([{"task_key": "plan"}, {**CHANGED, "condition_task": {"outcome": "true"}}, {"task_key": "export"}], False),
        ([CHANGED], False),
        ([{"task_key": "another", "condition_task": {"outcome": "false"}}], False),
        ([{"task_key": "export"}], False),
        ([], False),
    ],
    ids=["nothing new", "changed", "without an outcome", "another condition", "the job of an earlier version", "none"],
)
def test_whether_something_is_new_is_what_the_condition_of_the_job_says(
    hook: mock.Mock, xcoms: dict[str, Any], tasks: list[dict[str, Any]], is_unchanged: bool
) -> None:
    hook.a_get_run.side_effect = [run(SUCCESS, tasks=tasks)]
    assert events_of(trigger()) == [TaskSuccessEvent()]
    assert xcoms["return_value"] == {**FINISHED, "unchanged": is_unchanged}


@pytest.mark.parametrize("life_cycle_state", ["SUSPENDED", "WAITING_FOR_CAPACITY", ""])
def test_a_state_that_is_new_is_waited_out(hook: mock.Mock, xcoms: dict[str, Any], life_cycle_state: str) -> None:
    """More often than contact may be lost."""
    hook.a_get_run.side_effect = [*[run({"life_cycle_state": life_cycle_state})] * 20, run(SUCCESS)]
    assert events_of(trigger()) == [TaskSuccessEvent()]
    assert xcoms["return_value"] == FINISHED


def test_a_run_that_stays_in_a_new_state_is_cancelled_at_its_time_out(hook: mock.Mock, xcoms: dict[str, Any]) -> None:
    hook.a_get_run.return_value = run({"life_cycle_state": "SUSPENDED"}, start_time=int((time.time() - 7200) * 1000))
    assert "took longer than 60 minutes" in failure_of(trigger(), xcoms)
    hook.cancel_run.assert_called_once_with(77)


def test_a_certificate_that_is_refused_is_not_looked_at_again(hook: mock.Mock, xcoms: dict[str, Any]) -> None:
    error = requests.exceptions.SSLError(ssl.SSLCertVerificationError(1, "certificate verify failed"))
    hook.a_get_run.side_effect = [error]
    failure_of(trigger(), xcoms)
    assert (xcoms["failure"]["code"], xcoms["failure"]["retriable"]) == ("CERTIFICATE_REFUSED", False)


def test_the_export_path_is_the_one_that_the_run_really_got(hook: mock.Mock, xcoms: dict[str, Any]) -> None:
    hook.a_get_run.return_value = run(SUCCESS, job_parameters=[{"name": "export_path", "default": "s3://default/"}])
    events_of(trigger())
    assert xcoms["return_value"]["export_path"] == "s3://default/"


def test_a_run_without_parameters_reports_no_path(hook: mock.Mock, xcoms: dict[str, Any]) -> None:
    finished = run(SUCCESS)
    del finished["job_parameters"]
    hook.a_get_run.return_value = finished
    events_of(trigger())
    assert xcoms["return_value"]["export_path"] is None


@pytest.mark.parametrize(("seconds", "polls"), [(2.3, 8), (20, 30), (3600, 170)])
def test_the_end_of_an_export_is_noticed_within_a_tenth_of_its_time(
    hook: mock.Mock,
    xcoms: dict[str, Any],
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    polls: int,
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000 + sum(waits))
    hook.a_get_run.side_effect = lambda _: run(
        SUCCESS if sum(waits) >= seconds else RUNNING, start_time=1_700_000_000_000
    )
    events_of(trigger())
    assert sum(waits) - seconds <= max(0.35, min(seconds / 9, 30))
    assert waits == sorted(waits)
    assert (waits[0], max(waits) <= 30) == (0.35, True)
    assert hook.a_get_run.call_count <= polls


def test_a_trigger_that_takes_over_an_old_run_does_not_begin_again(
    hook: mock.Mock, xcoms: dict[str, Any], waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_700_000_100 + sum(waits))
    hook.a_get_run.side_effect = [run(RUNNING, start_time=1_700_000_000_000), run(SUCCESS)]
    events_of(trigger())
    assert waits == [10]


def test_pauses_grow_while_databricks_does_not_answer(
    hook: mock.Mock, xcoms: dict[str, Any], waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000)
    hook.a_get_run.side_effect = [OSError("away")] * 9 + [run(SUCCESS)]
    events_of(trigger())
    assert sum(waits) > 30
    assert waits == sorted(waits)


# ---- failure


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        ({"life_cycle_state": "TERMINATED", "result_state": "FAILED"}, "FAILED"),
        ({"life_cycle_state": "TERMINATED", "result_state": "CANCELED"}, "CANCELED"),
        ({"life_cycle_state": "TERMINATED", "result_state": "TIMEDOUT"}, "TIMEDOUT"),
        ({"life_cycle_state": "TERMINATED", "result_state": "SUCCESS_WITH_FAILURES"}, "SUCCESS_WITH_FAILURES"),
        ({"life_cycle_state": "TERMINATED"}, "TERMINATED"),
        ({"life_cycle_state": "INTERNAL_ERROR", "result_state": "FAILED"}, "FAILED"),
        ({"life_cycle_state": "INTERNAL_ERROR"}, "INTERNAL_ERROR"),
        ({"life_cycle_state": "SKIPPED"}, "SKIPPED"),
    ],
)
def test_every_other_end_is_a_failure_in_databricks_words(
    hook: mock.Mock, xcoms: dict[str, Any], state: dict[str, str], outcome: str
) -> None:
    hook.a_get_run.return_value = run({**state, "state_message": "It was not to be."})
    assert failure_of(trigger(), xcoms) == (f"The Databricks run 77 ended as {outcome}: It was not to be.")
    hook.cancel_run.assert_not_called()


@pytest.mark.parametrize(
    ("result", "advice"),
    [
        ("TIMEDOUT", "raise timeout_seconds in the asset bundle"),
        ("MAXIMUM_CONCURRENT_RUNS_REACHED", "Give the export job its queue back"),
        ("FAILED", FailureCode.EXPORT_FAILED.what_to_do),
    ],
)
def test_the_advice_is_for_what_ended_the_run(hook: mock.Mock, xcoms: dict[str, Any], result: str, advice: str) -> None:
    hook.a_get_run.return_value = failed(result)
    failure_of(trigger(), xcoms)
    assert advice in xcoms["failure"]["what_to_do"]


def test_a_failed_task_says_its_own_error(hook: mock.Mock, xcoms: dict[str, Any]) -> None:
    task = {"run_id": 78, "task_key": "export", "state": {"result_state": "FAILED"}}
    hook.a_get_run.return_value = failed("FAILED", "Task export failed.", tasks=[task])
    hook.a_get_run_output.return_value = {"error": "[TABLE_OR_VIEW_NOT_FOUND] main.sea.tides"}
    assert failure_of(trigger(), xcoms) == (
        "The Databricks run 77 ended as FAILED: Task export failed; "
        "task export: [TABLE_OR_VIEW_NOT_FOUND] main.sea.tides."
    )
    hook.a_get_run_output.assert_awaited_once_with(78)


@pytest.mark.parametrize("told", ["later", "later, größe, a. b", "x. Nothing was exported. y"])
def test_a_refusal_of_new_columns_is_schema_drift(hook: mock.Mock, xcoms: dict[str, Any], told: str) -> None:
    task = {"run_id": 78, "task_key": "export", "state": {"result_state": "FAILED"}}
    hook.a_get_run.return_value = failed("FAILED", "Workload failed, see run output for details", tasks=[task])
    refusal = f"The export would have columns that the target lacks: {told}. Nothing was exported."
    hook.a_get_run_output.return_value = {
        "error": f"[USER_RAISED_EXCEPTION] {refusal} Add them to the target. SQLSTATE: P0001"
    }
    message = failure_of(trigger(), xcoms)
    assert message.startswith("The export would have columns that the target lacks: ")
    assert message.endswith(". Nothing was exported. The target is as it was.")
    assert (xcoms["failure"]["code"], xcoms["failure"]["retriable"]) == ("SCHEMA_DRIFT", False)
    assert xcoms["failure"]["databricks_run_url"] == PAGE
    for remedy in ("add_new adds", "ignore_new leaves them in Databricks", "source.exclude", "RENAME COLUMN"):
        assert remedy in xcoms["failure"]["what_to_do"]


def test_a_version_that_is_gone_makes_a_verification_impossible(hook: mock.Mock, xcoms: dict[str, Any]) -> None:
    task = {"run_id": 78, "task_key": "plan", "state": {"result_state": "FAILED"}}
    hook.a_get_run.return_value = failed("FAILED", "Workload failed, see run output for details", tasks=[task])
    refusal = "The target cannot be verified: the source was dropped and made again. Nothing was exported."
    hook.a_get_run_output.return_value = {"error": f"[USER_RAISED_EXCEPTION] {refusal} SQLSTATE: P0001"}
    assert failure_of(trigger(), xcoms) == refusal
    assert (xcoms["failure"]["code"], xcoms["failure"]["databricks_run_url"]) == ("VERIFY_IMPOSSIBLE", PAGE)


def test_an_append_that_cannot_tell_which_rows_are_new_is_no_failed_export(
    hook: mock.Mock, xcoms: dict[str, Any]
) -> None:
    task = {"run_id": 78, "task_key": "plan", "state": {"result_state": "FAILED"}}
    hook.a_get_run.return_value = failed("FAILED", "Workload failed, see run output for details", tasks=[task])
    told = "An append adds only new rows, and it cannot be told which these are: rows were deleted"
    refusal = f"{told}. Nothing was exported."
    hook.a_get_run_output.return_value = {"error": f"[USER_RAISED_EXCEPTION] {refusal} SQLSTATE: P0001"}
    assert failure_of(trigger(), xcoms) == refusal
    assert (xcoms["failure"]["code"], xcoms["failure"]["databricks_run_url"]) == ("INCREMENT_IMPOSSIBLE", PAGE)
    assert "full_refresh: true" in xcoms["failure"]["what_to_do"]


@pytest.mark.parametrize(
    "condition",
    ["DELTA_CHANGE_DATA_FILE_NOT_FOUND", "DELTA_UNSUPPORTED_TIME_TRAVEL_BEYOND_DELETED_FILE_RETENTION_DURATION"],
)
def test_changes_that_are_no_longer_read_are_given_up(hook: mock.Mock, xcoms: dict[str, Any], condition: str) -> None:
    task = {"run_id": 78, "task_key": "plan", "state": {"result_state": "FAILED"}}
    hook.a_get_run.return_value = failed("FAILED", "Task plan failed.", tasks=[task])
    hook.a_get_run_output.return_value = {"error": f"[{condition}] Too late. SQLSTATE: 0AKDC"}
    failure_of(trigger(), xcoms)
    assert "after a failure, it exports everything" in xcoms["failure"]["what_to_do"]


def test_an_error_without_its_details_is_still_told(hook: mock.Mock, xcoms: dict[str, Any]) -> None:
    task = {"run_id": 78, "task_key": "export", "state": {"result_state": "FAILED"}}
    hook.a_get_run.return_value = failed("FAILED", "Task export failed.", tasks=[task])
    hook.a_get_run_output.side_effect = DatabricksApiError("gone", http_status_code=500)
    failure = failure_of(trigger(), xcoms)
    assert "ended as FAILED: Task export failed; details could not be read: gone" in failure


def test_a_failure_without_a_word_says_so(hook: mock.Mock, xcoms: dict[str, Any]) -> None:
    hook.a_get_run.return_value = failed("CANCELED")
    assert "ended as CANCELED: no reason given" in failure_of(trigger(), xcoms)


# ---- contact lost


def test_a_look_that_fails_for_a_moment_is_repeated(hook: mock.Mock, xcoms: dict[str, Any]) -> None:
    broken: list[Any] = [DatabricksApiError("away", http_status_code=503)] * 9
    hook.a_get_run.side_effect = [*broken, run(RUNNING), *broken, run(SUCCESS)]
    assert events_of(trigger()) == [TaskSuccessEvent()]
    assert hook.a_get_run.await_count == 20


def test_contact_is_lost_after_ten_looks_in_a_row(hook: mock.Mock, xcoms: dict[str, Any]) -> None:
    hook.a_get_run.side_effect = ConnectionError("no route")
    failure = failure_of(trigger(), xcoms)
    assert "The Databricks run 77 cannot be followed any longer: no route" in failure
    assert "may still be running" in failure
    assert hook.a_get_run.await_count == 10
    hook.cancel_run.assert_not_called()


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_time_passes_while_databricks_does_not_answer(
    hook: mock.Mock, xcoms: dict[str, Any], monkeypatch: pytest.MonkeyPatch, is_cancelled: bool
) -> None:
    clock = [1_700_000_000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    looks: list[int] = []

    async def look(run_id: int) -> dict[str, Any]:
        looks.append(run_id)
        if len(looks) == 1:
            return run(RUNNING, start_time=1_700_000_000_000)
        clock[0] += 400
        raise DatabricksApiError("away", http_status_code=503)

    hook.a_get_run.side_effect = look
    if not is_cancelled:
        hook.cancel_run.side_effect = ConnectionError("no route")
    outcome = "was cancelled" if is_cancelled else "could not be cancelled: no route; it may still be running"
    failure = failure_of(trigger(timeout_seconds=900), xcoms)
    assert "took longer than 15 minutes" in failure
    assert failure.endswith(f"and {outcome}.")
    assert (len(looks), xcoms["failure"]["code"]) == (4, "EXPORT_TIMED_OUT")
    assert xcoms["failure"]["databricks_run_url"] == PAGE
    hook.cancel_run.assert_called_once_with(77)


@pytest.mark.parametrize(("code", "looks"), [(400, 1), (401, 2), (403, 2), (404, 1)])
def test_a_refused_look_fails_at_once_and_a_refused_sign_in_when_it_is_repeated(
    hook: mock.Mock, xcoms: dict[str, Any], code: int, looks: int
) -> None:
    hook.a_get_run.side_effect = DatabricksApiError("PERMISSION_DENIED: no", http_status_code=code)
    assert "PERMISSION_DENIED: no" in failure_of(trigger(), xcoms)
    assert hook.a_get_run.await_count == looks


def test_credentials_that_are_exchanged_while_it_waits_are_read_again(hook: mock.Mock, xcoms: dict[str, Any]) -> None:
    hook.__dict__["databricks_conn"] = "the old connection"
    hook.oauth_tokens = {"https://databricks.example": "the old token"}
    seen = []

    async def look(run_id: int) -> dict[str, Any]:
        seen.append((hook.__dict__.get("databricks_conn"), hook.oauth_tokens))
        if len(seen) in (1, 3):
            raise DatabricksApiError("Invalid access token.", http_status_code=403)
        return run(RUNNING if len(seen) < 4 else SUCCESS)

    hook.a_get_run.side_effect = look
    # Exchanged twice in one wait.
    assert events_of(trigger()) == [TaskSuccessEvent()]
    assert seen == [("the old connection", {"https://databricks.example": "the old token"}), *[(None, {})] * 3]


# ---- time


def test_a_run_that_takes_too_long_is_cancelled_once(hook: mock.Mock, xcoms: dict[str, Any]) -> None:
    an_hour_ago = int((time.time() - 3601) * 1000)
    hook.a_get_run.return_value = run(RUNNING, start_time=an_hour_ago)
    failure = failure_of(trigger(timeout_seconds=3600), xcoms)
    assert "The Databricks run 77 took longer than 60 minutes (export_timeout_minutes in the dataset file)" in failure
    assert "and was cancelled." in failure
    assert "raise export_timeout_minutes in the dataset file." in xcoms["failure"]["what_to_do"]
    hook.cancel_run.assert_called_once_with(77)


def test_the_time_counts_from_the_first_look_while_a_run_has_not_started(
    hook: mock.Mock, xcoms: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1_800_000_000, 1_900_000_000, 100))
    monkeypatch.setattr(time, "time", lambda: next(clock))
    hook.a_get_run.return_value = {**run(RUNNING), "start_time": 0}
    assert "took longer than 10 minutes" in failure_of(trigger(timeout_seconds=600), xcoms)
    assert hook.a_get_run.await_count == 7


def test_a_run_that_ends_late_has_still_ended_well(hook: mock.Mock, xcoms: dict[str, Any]) -> None:
    hook.a_get_run.return_value = run(SUCCESS, start_time=1)
    assert events_of(trigger(timeout_seconds=1)) == [TaskSuccessEvent()]


def test_a_run_that_cannot_be_cancelled_still_says_that_it_took_too_long(
    hook: mock.Mock, xcoms: dict[str, Any]
) -> None:
    hook.a_get_run.return_value = run(RUNNING, start_time=1)
    hook.cancel_run.side_effect = DatabricksApiError("away", http_status_code=503)
    failure = failure_of(trigger(), xcoms)
    assert "took longer than 60 minutes" in failure
    assert "and could not be cancelled: away; it may still be running." in failure


# ---- what may go wrong before


@pytest.mark.parametrize("rendered", ["None", "", "{{ ti.xcom_pull() }}"])
def test_without_a_run_id_nothing_is_asked(hook: mock.Mock, xcoms: dict[str, Any], rendered: str) -> None:
    failure = failure_of(trigger(run_id=rendered), xcoms)
    assert f"There is no Databricks run to wait for: the step that starts the export left {rendered!r}" in failure
    hook.a_get_run.assert_not_called()
    hook.cancel_run.assert_not_called()


def test_a_missing_connection_is_told_as_a_failure(xcoms: dict[str, Any]) -> None:
    with mock.patch.object(follow, "DataShareDatabricksHook", side_effect=ValueError("conn_id is not defined")):
        assert failure_of(trigger(), xcoms) == "conn_id is not defined"


def test_failures_are_not_tried_again() -> None:
    assert issubclass(DatabricksRunFailedError, AirflowFailException)


# ---- cancelling


@pytest.mark.parametrize(("state", "cancelled"), [("failed", True), (None, True), ("deferred", False)])
def test_a_task_that_ended_cancels_its_run_and_one_that_others_follow_does_not(
    hook: mock.Mock, state: str | None, cancelled: bool
) -> None:
    states = {"manual__1": {"wait_for_export": state}}
    with mock.patch(
        "airflow.sdk.execution_time.task_runner.RuntimeTaskInstance.get_task_states", return_value=states
    ) as asked:
        asyncio.run(trigger().on_kill())
    asked.assert_called_once_with(dag_id="sync_tides", task_ids=["wait_for_export"], run_ids=["manual__1"])
    assert hook.cancel_run.call_args_list == ([mock.call(77)] if cancelled else [])


def export_run(run_id: int, run_key: str, life_cycle_state: str = "RUNNING") -> dict[str, Any]:
    """Return an active run of the export job, as Databricks lists it."""
    return {
        "run_id": run_id,
        "state": {"life_cycle_state": life_cycle_state},
        "job_parameters": [{"name": "dataset", "value": "tides"}, {"name": "run_key", "value": run_key}],
    }


def test_all_active_exports_of_a_sync_are_cancelled_and_no_others(hook: mock.Mock) -> None:
    hook._do_api_call.side_effect = [
        {"runs": [export_run(1, "mine"), export_run(2, "another")], "has_more": True, "next_page_token": "more"},
        {"runs": [export_run(3, "mine", "QUEUED"), export_run(4, "mine", "TERMINATING")], "has_more": False},
    ]
    assert cancel_exports_of(hook, "4711", "mine") == [1, 3]
    assert hook.cancel_run.call_args_list == [mock.call(1), mock.call(3)]
    asked = {"job_id": "4711", "active_only": "true"}
    assert hook._do_api_call.call_args_list == [
        mock.call(("GET", "2.2/jobs/runs/list"), asked),
        mock.call(("GET", "2.2/jobs/runs/list"), {**asked, "page_token": "more"}),
    ]


@pytest.mark.parametrize("runs", [{}, {"runs": [{"run_id": 1, "state": {"life_cycle_state": "PENDING"}}]}])
def test_runs_without_a_run_key_are_left_alone(hook: mock.Mock, runs: dict[str, Any]) -> None:
    hook._do_api_call.side_effect = [{**runs, "has_more": False}]
    assert cancel_exports_of(hook, "4711", "mine") == []
    hook.cancel_run.assert_not_called()


def test_a_list_of_runs_without_end_is_left(hook: mock.Mock) -> None:
    hook._do_api_call.side_effect = lambda *_: {"runs": [], "has_more": True, "next_page_token": "more"}
    with pytest.raises(TooManyRunsError, match="4711"):
        cancel_exports_of(hook, "4711", "mine")
    assert hook._do_api_call.call_count == 50


def test_a_run_that_cannot_be_cancelled_keeps_no_other_one_running(hook: mock.Mock) -> None:
    hook._do_api_call.return_value = {"runs": [export_run(1, "mine"), export_run(2, "mine")]}
    hook.cancel_run.side_effect = [DatabricksApiError("gone"), None]
    with pytest.raises(DatabricksApiError, match="gone"):
        cancel_exports_of(hook, "4711", "mine")
    assert [call.args for call in hook.cancel_run.call_args_list] == [(1,), (2,)]


def test_leaving_the_triggerer_cancels_nothing(hook: mock.Mock) -> None:
    asyncio.run(trigger().cleanup())
    assert hook.mock_calls == []


# ---- trigger and sensor


def test_a_trigger_comes_back_from_its_stored_form_the_same() -> None:
    first = DatabricksRunTrigger("other_conn", "{{ template }}", 12.5)
    class_path, kwargs = first.serialize()
    again = import_string(class_path)(**kwargs)
    assert type(again) is DatabricksRunTrigger
    assert again.serialize() == first.serialize()
    assert kwargs == {"databricks_conn_id": "other_conn", "run_id": "{{ template }}", "timeout_seconds": 12.5}


@pytest.fixture
def sensor() -> DatabricksRunSensor:
    return DatabricksRunSensor(
        task_id="wait_for_export", databricks_conn_id="databricks_default", run_id="{{ the_run }}", timeout_seconds=3600
    )


def test_the_sensor_starts_in_the_triggerer_with_what_the_trigger_takes(sensor: DatabricksRunSensor) -> None:
    assert sensor.start_from_trigger
    args = sensor.start_trigger_args
    assert args.trigger_kwargs
    made = import_string(args.trigger_cls)(**args.trigger_kwargs)
    assert made.serialize() == (args.trigger_cls, args.trigger_kwargs)
    assert made.run_id == "{{ the_run }}"
    assert set(sensor.template_fields) <= set(args.trigger_kwargs)


def test_airflow_ends_the_trigger_only_after_the_trigger_could_cancel_the_run(sensor: DatabricksRunSensor) -> None:
    timeout = sensor.start_trigger_args.timeout
    assert timeout is not None
    assert timeout.total_seconds() > sensor.timeout_seconds


def test_the_sensor_can_also_follow_in_its_own_process(hook: mock.Mock, sensor: DatabricksRunSensor) -> None:
    hook.a_get_run.side_effect = [run(RUNNING), run(SUCCESS)]
    sensor.run_id = "77"
    assert sensor.execute({}) == FINISHED


def test_the_sensor_fails_in_its_own_process_too(hook: mock.Mock, sensor: DatabricksRunSensor) -> None:
    hook.a_get_run.return_value = failed("FAILED", "Out of memory.")
    sensor.run_id = "77"
    with pytest.raises(DatabricksRunFailedError, match="Out of memory"):
        sensor.execute({})


def test_the_connection_of_the_sensor_is_used(hook: mock.Mock) -> None:
    hook.a_get_run.return_value = run(SUCCESS)
    DatabricksRunSensor(task_id="wait", databricks_conn_id="other", run_id="77", timeout_seconds=1).execute({})
    assert hook_class().call_args.args == ("other",)


def test_the_connection_of_the_trigger_is_used(hook: mock.Mock, xcoms: dict[str, Any]) -> None:
    hook.a_get_run.return_value = run(SUCCESS)
    followed = trigger()
    followed.databricks_conn_id = "other"
    events_of(followed)
    assert hook_class().call_args.args == ("other",)
