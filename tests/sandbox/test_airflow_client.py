"""What the sandbox's commands say when Airflow does not do what they ask for."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from sandbox import airflow_client
from sandbox.airflow_client import AirflowClient, AirflowError
from sandbox.stack import Endpoints, Stack, StackError

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox]


@pytest.fixture
def nobody() -> Iterator[str]:
    """The address of a port at which nobody listens, and cannot begin to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_an_airflow_that_does_not_answer_is_told_in_a_sentence(nobody: str) -> None:
    client = AirflowClient(nobody, "admin", "secret-of-admin")
    with pytest.raises(AirflowError, match=f"^{nobody} does not answer POST /auth/token: ") as told:
        client.run("sync_tides", "run")
    client.close()
    assert "secret-of-admin" not in str(told.value)


def test_a_stack_that_cannot_be_set_up_is_told_in_a_sentence(nobody: str) -> None:
    endpoints = Endpoints(nobody, "admin", "password", nobody, nobody, "token", nobody, "no file")
    with pytest.raises(StackError, match=r"^Airflow could not be set up: "):
        Stack.set_up(endpoints)


class BusyAirflow(BaseHTTPRequestHandler):
    """Answers each call with 500 first, as Airflow does while another process holds its database."""

    seen: ClassVar[list[tuple[str, str, Any]]] = []

    def _answer(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
        if self.path == "/auth/token":
            status, told = 201, {"access_token": "token"}
        else:
            self.seen.append((self.command, self.path, body))
            status = 500 if len(self.seen) == 1 else 409 if self.command == "POST" else 200
            told = {"is_paused": False, "detail": "busy"}
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(told).encode())

    do_GET = do_POST = do_PATCH = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[AirflowClient]:
    monkeypatch.setattr(airflow_client, "_PAUSES_SECONDS", (0, 0))
    monkeypatch.setattr(BusyAirflow, "seen", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), BusyAirflow) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        client = AirflowClient(f"http://127.0.0.1:{server.server_port}", "admin", "password")
        yield client
        client.close()
        server.shutdown()


def test_a_call_to_a_busy_airflow_is_repeated_and_starts_nothing_twice(busy: AirflowClient) -> None:
    BusyAirflow.seen.append(("GET", "/the call before", None))
    run_id = busy.trigger("sync_tides")
    (_, path, body) = BusyAirflow.seen[-1]
    assert (path, body["dag_run_id"]) == ("/api/v2/dags/sync_tides/dagRuns", run_id)
    BusyAirflow.seen.clear()
    assert busy.run("sync_tides", run_id)["detail"] == "busy"
    assert [command for command, _, _ in BusyAirflow.seen] == ["GET", "GET"]


def test_the_id_of_somebody_else_is_no_success(busy: AirflowClient) -> None:
    with pytest.raises(AirflowError, match="HTTP 409"):
        busy.trigger("sync_tides", run_id="known")


class ManyRuns:
    """Answers as Airflow does that has many datasets, a hundred at a time."""

    def __init__(self, runs: dict[str, int]) -> None:
        """Take the number of runs of each DAG; the runs of the first one are the newest."""
        self.dag_ids = list(runs)
        self.runs = [
            {"dag_id": dag_id, "dag_run_id": f"{dag_id} {number}"}
            for dag_id, count in runs.items()
            for number in range(count, 0, -1)
        ]
        self.calls = 0

    def ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        self.calls += 1
        if (method, path) == ("GET", "/dags"):
            begin = options["params"]["offset"]
            found = self.dag_ids[begin : begin + options["params"]["limit"]]
            return {"dags": [{"dag_id": dag_id} for dag_id in found], "total_entries": len(self.dag_ids)}
        assert (method, path) == ("POST", "/dags/~/dagRuns/list")
        body = options["json"]
        assert body["order_by"] == "-run_after"
        found_runs = [run for run in self.runs if run["dag_id"] in body["dag_ids"]]
        return {"dag_runs": found_runs[: body["page_limit"]], "total_entries": len(found_runs)}


@pytest.mark.tier("full")
@pytest.mark.parametrize(
    ("runs", "calls"),
    [
        ({f"sync_{number:03}": number % 2 for number in range(150)}, 1),
        ({"sync_hourly": 400, "sync_daily": 30, "sync_once": 1, "sync_never": 0}, 2),
        ({"sync_hourly": 400, "sync_too": 400, "sync_once": 1}, 3),
        ({"sync_hourly": 100}, 1),
        ({"sync_never": 0}, 1),
        ({}, 0),
    ],
)
def test_the_last_runs_of_all_datasets_are_found_in_few_calls(
    monkeypatch: pytest.MonkeyPatch, runs: dict[str, int], calls: int
) -> None:
    airflow = ManyRuns(runs)
    client = AirflowClient("http://127.0.0.1:9", "admin", "password")
    monkeypatch.setattr(client, "ask", airflow.ask)
    last = {dag_id: run["dag_run_id"] for dag_id, run in client.last_runs(runs).items()}
    assert last == {dag_id: f"{dag_id} {count}" for dag_id, count in runs.items() if count}
    assert airflow.calls == calls
    assert [dag["dag_id"] for dag in client.syncs()] == sorted(runs)
    client.close()
