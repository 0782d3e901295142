"""The ends of syncs as events: which ends have one, and what the triggerer is given to send."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from airflow.sdk import DAG

from data_share.outcome.events import on_dag_run_failed, on_dag_run_success
from data_share.outcome.webhook import event_of
from data_share.share import run_key

# Airflow's tables are imported where they are needed: to collect the tests must stay cheap.
if TYPE_CHECKING:
    from airflow.models.callback import TriggererCallback
    from airflow.models.dagrun import DagRun

AFTER = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SYNC = ("data-share", "sync")


def run(state: str, tags: tuple[str, ...] | None = SYNC, **fields: Any) -> DagRun:
    """Make a run as Airflow gives it to a listener; without tags, it has lost its DAG."""
    from airflow.models.dag import DagModel
    from airflow.models.dagrun import DagRun

    made = DagRun(dag_id="sync_tides", run_id="request-4711", run_type="manual", state=state, **fields)
    made.run_after, made.end_date, made.clear_number = AFTER, AFTER + timedelta(seconds=6), 2
    made.dag_model = DagModel(dag_id="sync_tides", bundle_name="team-sea")
    made.dag = None if tags is None else DAG("sync_tides", schedule=None, tags=tags)
    return made


def queued_by(made: DagRun, reason: str) -> list[TriggererCallback]:
    """Tell the listener of an end; return what it adds to Airflow's transaction, which has to be open still."""
    session = mock.MagicMock()
    with mock.patch("sqlalchemy.orm.object_session", autospec=True, return_value=session):
        (on_dag_run_success if made.state == "success" else on_dag_run_failed)(made, reason)
    assert not session.flush.called
    assert not session.commit.called
    return [call.args[0] for call in session.add.call_args_list]


@pytest.mark.parametrize(
    ("state", "reason", "event"),
    [
        ("success", "success", "sync_succeeded"),
        ("failed", "task_failure", "sync_failed"),
        ("failed", "timed_out", "sync_failed"),
        ("success", "Dag Run's state was manually set to `success`.", "sync_succeeded"),
        ("failed", "Dag Run's state was manually set to `failed`.", "sync_failed"),
    ],
)
def test_each_end_of_a_sync_becomes_an_event_in_the_triggerer(state: str, reason: str, event: str) -> None:
    from airflow.models.trigger import Trigger

    (callback,) = queued_by(run(state, conf={"requested_by": "ada", "dry_run": True}), reason)
    assert (callback.state, callback.bundle_name) == ("queued", "team-sea")
    assert callback.data["path"] == "data_share.outcome.webhook.WebhookNotifier"

    # The kwargs as the triggerer gets them: written to the database, and read again.
    assert callback.trigger.classpath == "airflow.triggers.callback.CallbackTrigger"
    kwargs = Trigger._decrypt_kwargs(callback.trigger.encrypted_kwargs)["callback_kwargs"]
    assert kwargs["conn_id"] == "data_share_webhook", "as the DAG says nothing else"
    with mock.patch("data_share.outcome.webhook._xcom_since_clear", autospec=True, return_value=None):
        told = event_of(kwargs["context"])
    assert told is not None
    assert (told["event"], told["state"], told["dag_run_id"]) == (event, state, "request-4711")
    assert (told["requested_by"], told["run_key"]) == ("ada", run_key("sync_tides", "request-4711", AFTER))
    assert kwargs["context"]["dag_run"]["clear_number"] == 2
    assert kwargs["context"]["reason"] == reason


def test_the_event_of_a_cancelled_run_waits_for_its_last_task() -> None:
    # The state while finish_sync has not ended; then the scheduler calls again.
    assert queued_by(run("running"), "Dag Run's state was manually set to `failed`.") == []


@pytest.mark.parametrize("tags", [None, ("sync",), ()])
def test_runs_of_other_dags_have_no_event(tags: tuple[str, ...] | None) -> None:
    assert queued_by(run("success", tags=tags), "success") == []


def test_an_error_does_not_break_airflows_transaction(caplog: pytest.LogCaptureFixture) -> None:
    # Without a session: as nothing in Airflow gives it, but an Airflow of the future may.
    on_dag_run_failed(run("failed"), "task_failure")
    assert "The event of sync_tides request-4711 could not be queued" in caplog.text
