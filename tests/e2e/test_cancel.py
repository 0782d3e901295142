"""Syncs that a person cancels: wherever that meets them, nothing goes on on either side, and nothing has changed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import snowflake.connector

from data_share.share import Share
from tests.e2e.share import DAG_ID, SUBMITS, TARGET, Fault, RunningShare, stopped, wait_for

pytestmark = pytest.mark.tier("full")

# Airflow ends a running step at its next heartbeat, which comes every five seconds, and five seconds later by force.
# The rest is for a busy machine.
CANCEL_SECONDS = 45


@pytest.fixture(autouse=True)
def nothing_is_left(share: RunningShare) -> Iterator[None]:
    """Target and ledger stay; no job, no statement and no staging table is left behind."""
    if not share.target():
        share.sync()
    before = (share.target(), share.ledger())
    yield
    assert active_exports(share) == []
    assert statements(share) == []
    assert share.staging_tables() == []
    assert (share.target(), share.ledger()) == before


@pytest.fixture(scope="module", autouse=True)
def the_next_sync_goes_well(running_share: RunningShare) -> Iterator[None]:
    yield
    running_share.reset()
    running_share.sync()


def active_exports(share: RunningShare) -> list[int]:
    listed = share.databricks("GET", "/api/2.2/jobs/runs/list", {"active_only": "true"})
    return [run["run_id"] for run in listed.get("runs", [])]


def statements(share: RunningShare) -> list[str]:
    state = httpx.get(f"{share.endpoints.snowflake_url}/_sandbox/state", timeout=30)
    running: list[str] = state.raise_for_status().json()["running"]
    return running


def cancel(share: RunningShare, run_id: str) -> float:
    """Cancel a sync, as a backend does; return when."""
    share.airflow.ask("PATCH", f"/dags/{DAG_ID}/dagRuns/{run_id}", json={"state": "failed"})
    return time.monotonic()


def cancelled(share: RunningShare, run_id: str, *codes: str) -> None:
    """Cancel a sync and wait for its end, which has one of these codes."""
    since = cancel(share, run_id)
    assert share.end_of(run_id)["state"] == "failed"
    assert time.monotonic() - since < CANCEL_SECONDS
    assert share.xcom(run_id, "publish") is None
    assert share.xcom(run_id, "finish_sync", "failure")["code"] in (codes or ("CANCELLED",))


LOCK = Share().lock_table(TARGET)


@pytest.fixture(scope="module")
def somebody(running_share: RunningShare) -> Iterator[snowflake.connector.cursor.SnowflakeCursor]:
    """Sign somebody else in, who writes to Snowflake too."""
    login = {
        name.removeprefix("SNOWFLAKE_").lower(): value
        for name, value in running_share.endpoints.as_environment().items()
        if name.startswith("SNOWFLAKE_")
    }
    with snowflake.connector.connect(**login) as connection, connection.cursor() as cursor:
        yield cursor


@contextmanager
def long_transaction(somebody: snowflake.connector.cursor.SnowflakeCursor) -> Iterator[None]:
    """Let every statement wait that changes the lock of the target."""
    somebody.execute("BEGIN")
    somebody.execute(f"DELETE FROM {LOCK} WHERE FALSE")
    try:
        yield
    finally:
        somebody.execute("ROLLBACK")


def test_while_it_is_queued(share: RunningShare) -> None:
    share.hold_export("start")
    running, queued = share.start_sync(), share.start_sync()
    share.wait_until_held(running)
    assert share.airflow.run(DAG_ID, queued)["state"] == "queued"

    cancel(share, queued)

    assert share.task_states(running)["wait_for_export"] == "deferred", "it is of another sync"
    cancelled(share, running)
    assert share.end_of(queued)["state"] == "failed"
    assert share.databricks("GET", "/_sandbox/state")["held"] == []


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(3, id="before Airflow kills the step"),
        pytest.param(14, id="after it", marks=pytest.mark.tier("nightly")),
    ],
)
def test_while_databricks_is_asked_for_a_run(share: RunningShare, seconds: float) -> None:
    # It would go on for two minutes.
    share.hold_export("start")
    asked = Fault(share.endpoints.databricks_url, path="run-now$", action={"delay": seconds})
    run_id = share.start_sync()
    wait_for(asked.has_begun, "the run is asked for")
    answered = time.monotonic() + seconds

    cancelled(share, run_id)

    wait_for(lambda: time.monotonic() > answered + 0.5, "also the call that was delayed has arrived")


@pytest.mark.tier("quick")
def test_while_an_export_is_followed(share: RunningShare) -> None:
    share.hold_export("start")
    run_id = share.start_sync()
    share.wait_until_held(run_id)

    cancelled(share, run_id)


def test_before_the_triggerer_follows_the_export(share: RunningShare) -> None:
    share.hold_export("start")
    with stopped(share, "triggerer"):
        run_id = share.start_sync()
        wait_for(lambda: share.task_states(run_id)["wait_for_export"] == "deferred", "the export is to be followed")

        cancelled(share, run_id)


@pytest.mark.others_nightly
@pytest.mark.parametrize(
    ("step", "statement"),
    [
        pytest.param("copy_into_staging", "CREATE OR REPLACE TABLE", marks=pytest.mark.tier("nightly")),
        ("copy_into_staging", "COPY INTO [^@]*@[^ ]*/data/"),
        pytest.param("check_staging", "check_name", marks=pytest.mark.tier("nightly")),
        ("publish", "BEGIN TRANSACTION"),
    ],
)
def test_while_a_statement_is_submitted(share: RunningShare, step: str, statement: str) -> None:
    submitted = Fault(share.endpoints.snowflake_url, path=SUBMITS, body=statement, action={"delay": 4})
    run_id = share.start_sync()
    wait_for(submitted.has_begun, "the statement is submitted")
    answered = time.monotonic() + 4
    assert share.task_states(run_id)[step] == "running"

    # No step after publish is skipped, and one that is killed before its call is answered cannot say why it ends.
    cancelled(share, run_id, "CANCELLED", *(["STEP_DIED"] if step == "publish" else []))

    wait_for(lambda: time.monotonic() > answered + 0.5, "also the call that was delayed has arrived")


@pytest.mark.tier("nightly")
def test_while_the_lock_is_made(share: RunningShare, somebody: snowflake.connector.cursor.SnowflakeCursor) -> None:
    # As before the first sync to this target: the step makes the row.
    somebody.execute(f"DELETE FROM {LOCK}")
    share.hold_export("end")
    run_id = share.start_sync()
    share.wait_until_held(run_id)
    with long_transaction(somebody):
        share.release_export()
        ended_while_it_runs(share, run_id, "copy_into_staging")
    assert share.end_of(run_id)["state"] == "failed"


def test_while_a_transaction_runs(share: RunningShare, somebody: snowflake.connector.cursor.SnowflakeCursor) -> None:
    # The check reads: the next that writes is the publish.
    checked = Fault(share.endpoints.snowflake_url, path=SUBMITS, body="check_name", action={"delay": 2})
    run_id = share.start_sync()
    wait_for(checked.has_begun, "the rows are checked")
    with long_transaction(somebody):
        ended_while_it_runs(share, run_id, "publish")
    assert share.end_of(run_id)["state"] == "failed"
    assert share.xcom(run_id, "publish") is None


def ended_while_it_runs(share: RunningShare, run_id: str, step: str) -> None:
    """Cancel a sync when the statement of a step waits for a lock; wait for the end of that statement."""
    seen: list[list[str]] = []

    def waits() -> bool:
        # The step's short statements come and go; the one that waits for the lock stays.
        seen.append(statements(share) if share.task_states(run_id)[step] == "running" else [])
        return seen[-1] != [] and seen[-10:] == [seen[-1]] * 10

    wait_for(waits, "the statement waits for the lock")
    (running,) = seen[-1]
    cancel(share, run_id)
    wait_for(lambda: running not in statements(share), "the statement is cancelled", CANCEL_SECONDS)
