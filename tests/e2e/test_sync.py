"""Syncs that succeed, through the REST API of a real Airflow."""

from __future__ import annotations

import datetime
import os
import re
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from data_share.share import attempt_of, run_key
from tests.e2e.share import DAG_ID, SUBMITS, Fault, RunningShare, as_rows, wait_for
from tests.examples.express.declared import differences

pytestmark = pytest.mark.tier("full")


@pytest.mark.tier("quick")
def test_a_rest_call_brings_every_row_of_the_source_into_the_target(share: RunningShare) -> None:
    run_id = share.start_sync(conf={"requested_by": "ada@example.com"})
    run = share.end_of(run_id)

    assert run["state"] == "success", share.failures(run_id)
    assert len(share.target()) == 1461
    assert share.target() == as_rows(share.source())
    row = share.xcom(run_id, "publish")
    assert row["run_key"] == run_key(DAG_ID, run_id, datetime.datetime.fromisoformat(run["run_after"]))
    assert row["dag_run_id"] == run_id
    assert (row["rows_exported"], row["rows_loaded"], row["rows_in_target"]) == (1461, 1461, 1461)
    assert row["requested_by"] == "ada@example.com"
    assert row["export_path"] == share.export_path(run_id)
    assert row["databricks_run_id"] == share.databricks_run(run_id)["run_id"]
    assert share.staging_tables() == []
    (event,) = share.airflow.ask("GET", "/assets/events", params={"order_by": "-timestamp", "limit": 1})["asset_events"]
    assert event["uri"] == "snowflake://sandbox-datashare/data_share/public/shared_forecasts"
    assert event["extra"]["run_key"] == row["run_key"]


def test_many_requests_at_one_moment_are_all_answered(share: RunningShare) -> None:
    """Each keeps a connection to Airflow's database, and more than 15 of them stopped the api-server."""
    run_id = share.start_sync(conf={"dry_run": True})
    endpoints, clients = share.endpoints, 40
    user = {"username": endpoints.airflow_user, "password": endpoints.airflow_password}
    token = httpx.post(f"{endpoints.airflow_url}/auth/token", json=user, timeout=60).raise_for_status().json()
    signed_in = {"Authorization": f"Bearer {token['access_token']}"}
    body = {"dag_run_id": run_id, "logical_date": None, "conf": {}}
    moment = threading.Barrier(clients)

    def request_again(_: int) -> list[int]:
        with httpx.Client(base_url=endpoints.airflow_url, headers=signed_in, timeout=20) as airflow:
            airflow.get("/api/v2/version")
            moment.wait(timeout=60)
            return [airflow.post(f"/api/v2/dags/{DAG_ID}/dagRuns", json=body).status_code for _ in range(3)]

    with ThreadPoolExecutor(clients) as pool:
        codes = Counter(code for of_client in pool.map(request_again, range(clients)) for code in of_client)

    assert codes == {409: 3 * clients}
    assert share.end_of(run_id)["state"] == "success"


def snowflake_requests(share: RunningShare) -> dict[str, int]:
    counts: dict[str, int] = httpx.get(f"{share.endpoints.snowflake_url}/_sandbox/requests", timeout=30).json()
    return counts


def test_a_source_without_anything_new_is_up_to_date_without_a_request_to_snowflake(share: RunningShare) -> None:
    published = share.sync()
    share.let_sources_change(False)
    ledger, before = share.ledger(), snowflake_requests(share)
    events = share.airflow.ask("GET", "/assets/events", params={"limit": 1})["total_entries"]

    run_id = share.start_sync()
    run = share.end_of(run_id)

    assert run["state"] == "success", share.failures(run_id)
    assert snowflake_requests(share) == before
    states = dict.fromkeys(("export_to_s3", "wait_for_export", "publish", "finish_sync"), "success")
    assert share.task_states(run_id) == states | dict.fromkeys(("copy_into_staging", "check_staging"), "skipped")
    answer = share.xcom(run_id, "publish")
    same = ("run_key", "published_at", "source_version", "source_committed_at", "rows_in_target")
    assert {name: answer[name] for name in same} == {name: published[name] for name in same}
    assert answer["unchanged"] is True
    assert differences("UpToDate", answer) == []
    version = f"version {published['source_version']}"
    assert re.fullmatch(rf"nothing new at the source since [\d-]+ [\d:]+ UTC \({version}\) \(.* s\)", run["note"])
    assert share.airflow.ask("GET", "/assets/events", params={"limit": 1})["total_entries"] == events
    assert not share.s3.exists(share.export_path(run_id))
    assert share.ledger() == ledger
    assert share.sync(conf={"full_refresh": True})["export_reason"] == "full_refresh was asked for"


@pytest.mark.tier("quick")
def test_a_step_whose_process_is_killed_is_tried_again(share: RunningShare) -> None:
    rows_in_ledger = len(share.ledger())
    # The step waits for the answer to this statement while its process is killed.
    copied = Fault(share.endpoints.snowflake_url, path=SUBMITS, body="COPY INTO [^@]*@[^ ]*/data/", action={"delay": 5})
    run_id = share.start_sync()
    wait_for(copied.has_begun, "the rows are copied")

    os.kill(share.tasks(run_id)["copy_into_staging"]["pid"], signal.SIGKILL)

    assert share.end_of(run_id)["state"] == "success", share.failures(run_id)
    assert share.tasks(run_id)["copy_into_staging"]["try_number"] == 2
    assert share.target() == as_rows(share.source())
    assert len(share.ledger()) == rows_in_ledger + 1
    assert share.staging_tables() == []


def test_no_task_process_exists_while_the_export_runs(share: RunningShare) -> None:
    share.hold_export("start")
    run_id = share.start_sync()
    share.wait_until_held(run_id)

    waiting = share.tasks(run_id)["wait_for_export"]
    assert waiting["trigger"] is not None
    assert waiting["pid"] is None
    # Each task runs in a child of an executor's worker, and the worker's title names it.
    wait_for(lambda: not busy_workers(share), "the worker of export_to_s3 is idle again")
    assert share.task_states(run_id)["wait_for_export"] == "deferred"

    share.release_export()
    assert share.end_of(run_id)["state"] == "success", share.failures(run_id)
    assert share.tasks(run_id)["wait_for_export"]["pid"] is None


def busy_workers(share: RunningShare) -> list[str]:
    busy = []
    for process in share.stack.processes():
        try:
            title = " ".join(process.cmdline())
            if title.startswith("airflow worker -- LocalExecutor") and (
                "<idle>" not in title or any(c.status() != psutil.STATUS_ZOMBIE for c in process.children())
            ):
                busy.append(title)
        except psutil.NoSuchProcess:
            continue
    return busy


def test_clearing_the_export_while_databricks_works_leaves_no_run_behind(share: RunningShare) -> None:
    share.hold_export("start")
    run_id = share.start_sync()
    share.wait_until_held(run_id)
    first = share.databricks_run(run_id)["run_id"]

    share.clear(run_id, "export_to_s3")
    # A run that is held does not end by itself.
    state = {"life_cycle_state": "TERMINATED", "result_state": "CANCELED"}
    wait_for(
        lambda: state.items() <= share.databricks("GET", "/api/2.2/jobs/runs/get", {"run_id": first})["state"].items(),
        "the first export is cancelled",
    )
    share.release_export()

    assert share.end_of(run_id)["state"] == "success", share.failures(run_id)
    assert share.databricks_run(run_id)["run_id"] != first
    assert share.xcom(run_id, "publish")["attempt"] == 2


def test_clearing_the_export_exports_again_to_a_new_path(share: RunningShare) -> None:
    run_id = share.start_sync()
    share.end_of(run_id)
    first_path = share.export_path(run_id)
    rows_in_ledger = len(share.ledger())
    share.write_source(share.source().slice(0, 100))

    share.clear(run_id, "export_to_s3")
    assert share.end_of(run_id)["state"] == "success", share.failures(run_id)

    assert (attempt_of(first_path), attempt_of(share.export_path(run_id))) == (1, 2)
    assert share.target() == as_rows(share.source())
    assert len(share.ledger()) == rows_in_ledger
    assert share.xcom(run_id, "publish")["export_path"] == share.export_path(run_id)
