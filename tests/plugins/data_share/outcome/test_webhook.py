"""Events for a receiver: what they hold, how they are signed, and how often and how long they are sent."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import pytest
import requests
from airflow.sdk import Connection, DeadlineReference
from airflow.sdk.execution_time.xcom import XCom

from data_share.datasets import Dataset
from data_share.outcome import webhook
from data_share.outcome.webhook import AlertNotSentError, Webhook, WebhookNotifier, event_of
from data_share.share import run_key

KEYS = (b"k" * 32, b"another key, 24 bytes or more")
SECRETS = ["whsec_" + base64.b64encode(key).decode() for key in KEYS]
URL = "https://backend.example.com/hooks/T0P/secret"
AFTER = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ROW = {"clear_number": 0, "dataset": "tides", "rows_loaded": 5}
FAILURE = {
    "clear_number": 0,
    "step": "check_staging",
    "code": "CHECKS_FAILED",
    "message": "2 of 9 checks failed.",
    "what_to_do": "Correct the source.",
    "databricks_run_url": None,
    "snowflake_query_id": "01b2",
    "retriable": False,
    "cause": "The loaded rows are not the exported rows.",
    "repair": None,
}
EVENT = {"event": "sync_succeeded", "dag_run_id": "manual__1"}


def connection(host: str | None = URL, password: str | None = SECRETS[0]) -> Connection:
    return Connection(conn_id="data_share_webhook", conn_type="http", host=host, password=password)


# ---- the connection


def test_a_connection_holds_the_address_and_the_secrets() -> None:
    assert Webhook.from_connection(connection(password=" ".join(SECRETS))) == Webhook(URL, KEYS)


@pytest.mark.parametrize(
    "changes",
    [
        {"host": None},
        {"host": "backend.example.com"},
        {"host": "file:///etc/passwd"},
        {"password": None},
        {"password": "hunter2 hunter2 hunter2 hunter2 hunter2"},
        {"password": base64.b64encode(KEYS[0]).decode()},
        {"password": "whsec_" + base64.b64encode(b"too short").decode()},
        {"password": "whsec_no base64 at all"},
        {"password": f"{SECRETS[0]} another"},
    ],
)
def test_a_wrong_connection_is_named_without_its_secrets(changes: dict[str, Any]) -> None:
    with pytest.raises(AlertNotSentError, match="the connection data_share_webhook") as caught:
        Webhook.from_connection(connection(**changes))
    assert SECRETS[0] not in str(caught.value)
    assert not changes.get("password") or changes["password"] not in str(caught.value)


# ---- the signature


def test_each_attempt_is_signed_with_its_time_and_with_every_secret() -> None:
    headers = Webhook(URL, KEYS).headers("the-id", b'{"a": 1}', 1700000000.9)
    assert headers["webhook-id"] == "the-id"
    assert headers["webhook-timestamp"] == "1700000000"
    expected = [
        "v1," + base64.b64encode(hmac.new(key, b'the-id.1700000000.{"a": 1}', hashlib.sha256).digest()).decode()
        for key in KEYS
    ]
    assert headers["webhook-signature"].split(" ") == expected


# ---- delivery


class Receiver:
    """Answers posts from a list, then with the last one for ever; the clock goes on while it is waited."""

    def __init__(self) -> None:
        self.answers: list[int | Exception] = [204]
        self.posts: list[dict[str, Any]] = []
        self.now = 0.0
        self.seconds_an_answer_takes = 0.0

    def post(self, url: str, **call: Any) -> Any:
        self.posts.append({"url": url, **call})
        self.now += min(self.seconds_an_answer_takes, call["timeout"])
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        response = requests.Response()
        response.status_code = answer
        return response

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return time.time()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Receiver:
    made = Receiver()
    monkeypatch.setattr(requests, "post", made.post)
    monkeypatch.setattr(webhook, "time", made)
    return made


def deliver(seconds: float = 30) -> int:
    return Webhook(URL, KEYS[:1]).deliver("the-id", EVENT, seconds)


def test_an_event_that_is_taken_is_sent_once(receiver: Receiver) -> None:
    assert deliver() == 1
    (post,) = receiver.posts
    assert post["url"] == URL
    assert json.loads(post["data"]) == EVENT
    assert post["allow_redirects"] is False


@pytest.mark.parametrize("trouble", [500, 503, 429, 408, requests.ConnectionError("reset"), requests.Timeout()])
def test_trouble_that_may_pass_is_outlived_with_the_same_event(receiver: Receiver, trouble: int | Exception) -> None:
    receiver.answers = [trouble, trouble, 200]
    assert deliver() == 3
    assert {(post["headers"]["webhook-id"], post["data"]) for post in receiver.posts} == {
        ("the-id", receiver.posts[0]["data"])
    }
    assert 0 < receiver.now < 3


@pytest.mark.parametrize("answer", [301, 400, 401, 404, 410])
def test_a_refusal_is_final(receiver: Receiver, answer: int) -> None:
    receiver.answers = [answer]
    with pytest.raises(AlertNotSentError, match=f"in 1 attempt.*HTTP {answer}"):
        deliver()
    assert len(receiver.posts) == 1


@pytest.mark.parametrize("seconds_an_answer_takes", [0, 4, 60])
def test_all_attempts_together_are_bounded(receiver: Receiver, seconds_an_answer_takes: float) -> None:
    receiver.answers = [requests.Timeout()]
    receiver.seconds_an_answer_takes = seconds_an_answer_takes
    with pytest.raises(AlertNotSentError, match="Timeout"):
        deliver(30)
    assert 10 < receiver.now <= 30
    assert 2 < len(receiver.posts) < 10


def test_an_attempt_that_hangs_beyond_its_time_outs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    gone_on = threading.Event()
    monkeypatch.setattr(requests, "post", lambda *_, **__: gone_on.wait(30))
    try:
        with pytest.raises(AlertNotSentError, match="no answer in time"):
            deliver(0.2)
    finally:
        gone_on.set()


def test_an_error_and_the_log_hold_neither_the_address_nor_the_secret(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = f"HTTPSConnectionPool: Max retries exceeded with url: {URL} ({SECRETS[0]})"
    receiver.answers = [requests.ConnectionError(told)]
    with caplog.at_level(logging.DEBUG), pytest.raises(AlertNotSentError) as caught:
        deliver()
    assert "backend.example.com" in str(caught.value)
    for text in (str(caught.value), repr(caught.value.__cause__), repr(caught.value.__context__), caplog.text):
        assert "T0P" not in text
        assert SECRETS[0] not in text


# ---- the event


@pytest.fixture
def xcoms() -> Iterator[dict[tuple[str, str], Any]]:
    """Make what the steps left."""
    left: dict[tuple[str, str], Any] = {}

    def get_one(*, key: str, dag_id: str, task_id: str, run_id: str, map_index: int) -> Any:
        assert (dag_id, run_id, map_index) == ("sync_tides", "manual__1+1", -1)
        return left.get((task_id, key))

    with mock.patch.object(XCom, "get_one", side_effect=get_one, autospec=True):
        yield left


def dag_run(**changes: Any) -> dict[str, Any]:
    """Make a run as the listener describes it."""
    return {
        "dag_id": "sync_tides",
        "run_id": "manual__1+1",
        "run_after": AFTER.isoformat(),
        "end_date": None,
        "state": "failed",
        "conf": {"requested_by": "ada@example.com"},
        "triggering_user_name": "backend",
        "clear_number": 0,
        **changes,
    }


def event(reason: str, **context: Any) -> dict[str, Any]:
    made = event_of({"reason": reason, **context})
    assert made is not None
    return made


def test_a_success_is_told_with_the_ledger_row(xcoms: dict[tuple[str, str], Any]) -> None:
    xcoms["publish", "return_value"] = ROW
    told = event("success", dag_run=dag_run(state="success"))
    assert {name: told[name] for name in set(told) - {"event_id", "sent_at"}} == {
        "event": "sync_succeeded",
        "dataset": "tides",
        "dag_id": "sync_tides",
        "dag_run_id": "manual__1+1",
        "run_key": run_key("sync_tides", "manual__1+1", AFTER),
        "state": "success",
        "requested_by": "ada@example.com",
        "result": ROW,
        "failure": None,
        "deadline": None,
        "airflow_run_url": "http://localhost:8080/dags/sync_tides/runs/manual__1%2B1",
    }


def test_a_failure_is_told_as_the_failure_report_has_it(xcoms: dict[tuple[str, str], Any]) -> None:
    xcoms["finish_sync", "failure"] = FAILURE
    told = event("task_failure", dag_run=dag_run())
    assert (told["event"], told["state"], told["result"]) == ("sync_failed", "failed", None)
    assert told["failure"] == FAILURE


def test_what_was_left_before_the_run_was_cleared_is_not_told(xcoms: dict[tuple[str, str], Any]) -> None:
    xcoms["publish", "return_value"] = ROW
    xcoms["finish_sync", "failure"] = FAILURE
    cleared = dag_run(clear_number=1)
    cleared_success = {**cleared, "state": "success"}
    told = event("success", dag_run=cleared_success)
    assert (told["event"], told["result"]) == ("sync_succeeded", None)
    assert event("task_failure", dag_run=cleared)["failure"]["code"] == "STEP_DIED"
    xcoms["publish", "return_value"] = {**ROW, "clear_number": 1}
    xcoms["finish_sync", "failure"] = {**FAILURE, "clear_number": 1}
    assert event("success", dag_run=cleared_success)["result"] == {**ROW, "clear_number": 1}
    assert event("task_failure", dag_run=cleared)["failure"]["code"] == FAILURE["code"]


@pytest.mark.usefixtures("xcoms")
@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("timed_out", "exceeded its max. time"),
        ("task_failure", "ended without a report"),
    ],
)
def test_a_failure_without_a_report_has_the_same_fields(reason: str, words: str) -> None:
    failure = event(reason, dag_run=dag_run())["failure"]
    assert words in failure["message"]
    assert {*failure, "clear_number"} == FAILURE.keys()


def test_an_end_is_told_also_when_its_details_cannot_be_read() -> None:
    with mock.patch.object(XCom, "get_one", side_effect=TypeError("Expected XComResult"), autospec=True):
        told = event("success", dag_run=dag_run(state="success"))
    assert (told["event"], told["result"]) == ("sync_succeeded", None)


def test_an_event_keeps_its_id_until_the_run_is_cleared(xcoms: dict[tuple[str, str], Any]) -> None:
    ids = [
        event("task_failure", dag_run=dag_run())["event_id"],
        event("task_failure", dag_run=dag_run())["event_id"],
        event("task_failure", dag_run=dag_run(clear_number=1))["event_id"],
        event("success", dag_run=dag_run(state="success"))["event_id"],
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def deadline(run_state: str = "running", end: str | None = None) -> dict[str, Any]:
    return {
        "dag_run": {
            "dag_id": "sync_tides",
            "dag_run_id": "manual__1+1",
            "run_after": "2026-01-02T03:04:05Z",
            "end_date": end,
            "state": run_state,
            "conf": {},
            "triggering_user_name": "backend",
        },
        "deadline": {"id": "0199", "deadline_time": "2026-01-02T03:34:05+00:00"},
    }


def test_a_missed_deadline_is_told_with_its_time() -> None:
    told = event_of(deadline())
    assert told is not None
    assert (told["event"], told["state"], told["deadline"]) == (
        "sync_deadline_missed",
        "running",
        "2026-01-02T03:34:05+00:00",
    )
    assert (told["requested_by"], told["run_key"]) == ("backend", run_key("sync_tides", "manual__1+1", AFTER))


def test_a_run_that_failed_before_its_deadline_did_not_miss_it() -> None:
    assert event_of(deadline("failed", end="2026-01-02T03:05:00Z")) is None
    assert event_of(deadline("failed", end="2026-01-02T03:40:00Z")) is not None
    assert event_of(deadline("success", end="2026-01-02T03:40:00Z")) is not None


# ---- the notifier


def notify(context: dict[str, Any]) -> None:
    """Send an event as the triggerer does."""
    asyncio.run(_awaited(context))


async def _awaited(context: dict[str, Any]) -> None:
    await WebhookNotifier(context=context)  # type: ignore[arg-type]


@pytest.fixture
def webhook_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"conn_type": "http", "host": URL, "password": SECRETS[0]}
    monkeypatch.setenv("AIRFLOW_CONN_DATA_SHARE_WEBHOOK", json.dumps(made))


@pytest.mark.usefixtures("webhook_connection")
def test_the_notifier_sends_the_event_under_its_id(receiver: Receiver, xcoms: dict[tuple[str, str], Any]) -> None:
    xcoms["finish_sync", "failure"] = FAILURE
    notify({"reason": "task_failure", "dag_run": dag_run()})
    (post,) = receiver.posts
    body = json.loads(post["data"])
    assert body["failure"] == FAILURE
    assert post["headers"]["webhook-id"] == body["event_id"]
    assert set(post["headers"].values()).isdisjoint({SECRETS[0]})


def test_without_the_connection_nobody_is_told(receiver: Receiver) -> None:
    notify({"reason": "task_failure", "dag_run": dag_run()})
    assert receiver.posts == []


@pytest.mark.usefixtures("webhook_connection")
def test_a_missed_deadline_is_sent(receiver: Receiver) -> None:
    notify(deadline())
    assert json.loads(receiver.posts[0]["data"])["event"] == "sync_deadline_missed"


@pytest.mark.usefixtures("webhook_connection", "receiver", "xcoms")
def test_a_receiver_that_hangs_holds_up_nothing_else_in_the_triggerer() -> None:
    gone_on = threading.Event()

    async def look_up_a_host() -> str:
        # What aiohttp does to look up a host name, in the threads that all triggers share.
        return await asyncio.get_running_loop().run_in_executor(None, lambda: "10.0.0.1")

    async def send_and_look_up() -> str:
        sent = [asyncio.create_task(_awaited({"reason": "task_failure", "dag_run": dag_run()})) for _ in range(100)]
        await asyncio.sleep(0.1)
        try:
            return await asyncio.wait_for(look_up_a_host(), 5)
        finally:
            gone_on.set()
            await asyncio.gather(*sent, return_exceptions=True)

    with mock.patch.object(Webhook, "deliver", autospec=True, side_effect=lambda *_: gone_on.wait(30)):
        assert asyncio.run(send_and_look_up()) == "10.0.0.1"


# ---- the DAG


TIDES = {
    "name": "tides",
    "description": "Tides by harbour.",
    "source_table": "main.sea.tides",
    "target_table": "tides",
    "load_mode": "replace",
    "required_columns": ("harbour",),
}


def test_a_dag_has_no_callbacks_unless_somebody_adds_them(sync_datasets: Any) -> None:
    dag = sync_datasets.sync_dag(Dataset(**TIDES))
    # For each run of a DAG with callbacks, the dag-processor starts a process.
    assert (dag.has_on_success_callback, dag.has_on_failure_callback) == (False, False)


def test_each_dag_has_notifiers_of_its_own(sync_datasets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_datasets, "ON_SUCCESS", [WebhookNotifier()])
    monkeypatch.setattr(sync_datasets, "ON_FAILURE", [WebhookNotifier()])
    dags = [
        sync_datasets.sync_dag(Dataset(**{**TIDES, "name": name, "target_table": name})) for name in ("tides", "waves")
    ]
    # Airflow renders the templates of a notifier in place, and runs the callbacks of several DAGs in one process.
    notifiers = [id(notifier) for dag in dags for notifier in (*dag.on_success_callback, *dag.on_failure_callback)]
    assert len(set(notifiers)) == 4


def test_a_deadline_counts_from_the_request_and_tells_the_webhook(sync_datasets: Any) -> None:
    assert sync_datasets.sync_dag(Dataset(**TIDES)).deadline is None
    dag = sync_datasets.sync_dag(Dataset(**TIDES, sync_deadline_minutes=1.5))
    (deadline_alert,) = dag.deadline
    assert deadline_alert.reference == DeadlineReference.DAGRUN_QUEUED_AT
    assert deadline_alert.interval == timedelta(seconds=90)
    assert deadline_alert.callback.path == "data_share.outcome.webhook.WebhookNotifier"
