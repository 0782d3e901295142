"""Airflow's database in a stack of its own: many starts at once, and a database that is killed."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from sandbox.settings import PREFERRED_PORTS, Settings, free_ports
from sandbox.stack import Stack
from tests.e2e.share import SYNC_SECONDS, wait_for
from tests.e2e.test_commands import output_of

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.deploy]

CLIENTS = 20
POSTS = 200
SECONDS = 10


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(Settings(state=tmp_path_factory.mktemp("own") / "state", places=1, ports={}))
    with pytest.MonkeyPatch.context() as shell:
        # Not the preferred ones: another stack may start at the same time.
        for name, port in zip(PREFERRED_PORTS, free_ports(), strict=True):
            shell.setenv(f"SANDBOX_{name.upper()}_PORT", str(port))
        try:
            code, output = output_of(stack.state, "up")
            assert code == 0, output
            yield stack
        finally:
            stack.stop()


def runs(stack: Stack) -> set[str]:
    airflow = stack.airflow()
    found = airflow.ask("GET", "/dags/sync_shared_forecasts/dagRuns", params={"limit": 100})["dag_runs"]
    airflow.close()
    return {run["dag_run_id"] for run in found}


def test_each_of_many_starts_at_once_is_answered(stack: Stack) -> None:
    """Two clients ask for each run id at the same time: one starts the run, the other is told that it exists."""
    endpoints = stack.endpoints()
    signed_in = httpx.post(
        f"{endpoints.airflow_url}/auth/token",
        json={"username": endpoints.airflow_user, "password": endpoints.airflow_password},
        timeout=60,
    ).raise_for_status()
    headers = {"Authorization": f"Bearer {signed_in.json()['access_token']}"}
    began = time.monotonic()
    pairs = [threading.Barrier(2) for _ in range(CLIENTS // 2)]

    def post_in_turn(client: int) -> list[tuple[str, int]]:
        pair = client // 2
        answered = []
        with httpx.Client(headers=headers, timeout=60) as session:
            for number in range(POSTS // CLIENTS):
                time.sleep(max(0, began + number * SECONDS * CLIENTS / POSTS - time.monotonic()))
                pairs[pair].wait(timeout=240)
                run_id = f"burst-{pair}-{number}"
                body = {"dag_run_id": run_id, "logical_date": None, "conf": {"dry_run": True}}
                url = f"{endpoints.airflow_url}/api/v2/dags/sync_shared_forecasts/dagRuns"
                answered.append((run_id, session.post(url, json=body).status_code))
        return answered

    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = [answer for answered in clients.map(post_in_turn, range(CLIENTS)) for answer in answered]

    assert Counter(code for _, code in answers) == {200: POSTS // 2, 409: POSTS // 2}
    assert runs(stack) == {run_id for run_id, code in answers if code == 200}


def test_a_killed_database_is_told_and_the_next_start_has_its_runs(stack: Stack) -> None:
    airflow = stack.airflow()
    known = runs(stack)
    sync = airflow.start("city_temperatures", {"dry_run": True})
    airflow.close()
    killed = stack.processes_of("metadatabase")
    assert killed
    for process in killed:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(killed, timeout=10)

    assert stack.health()["metadatabase"] == "has ended"
    code, output = output_of(stack.state, "status")
    assert (code, "metadatabase    has ended" in output) == (1, True), output
    code, output = output_of(stack.state, "down")
    assert code == 0, output
    assert stack.processes() == []
    code, output = output_of(stack.state, "up")
    assert code == 0, output

    assert runs(stack) == known
    airflow = stack.airflow()
    try:
        # The run that was under way has survived too, and ends.
        *_, last = airflow.follow(sync, 2 * SYNC_SECONDS)
        assert last.complete
    finally:
        airflow.close()


def test_an_orderly_stop_takes_the_database_along(stack: Stack) -> None:
    database = stack.processes_of("metadatabase")
    assert {process.uids().effective for process in database} != {0}
    code, output = output_of(stack.state, "down")
    assert code == 0, output
    assert stack.processes() == []
    wait_for(lambda: not any(process.is_running() for process in database), "all processes have ended")
    log = (stack.logs / "metadatabase.log").read_text()
    assert log.rstrip().endswith("database system is shut down")
    # Nobody used the database any more when it was stopped.
    assert "terminating connection due to administrator command" not in log
    assert not (stack.state / "postgres" / "postmaster.pid").exists()
    assert json.loads(output_of(stack.state, "status", "--json")[1])["state"] == "stopped"
