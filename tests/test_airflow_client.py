"""The tests' own client of Airflow: what it says, and that a repeated call starts nothing twice."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from tests import airflow_client
from tests.airflow_client import AirflowClient, AirflowError

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
