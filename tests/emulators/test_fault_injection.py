"""Fault injection, seen by a real client of a real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from emulators.fault_injection import FaultInjection

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox]

CONTROL = "/_sandbox/faults"
calls: list[str] = []


async def work(request: Request) -> JSONResponse:
    calls.append((await request.body()).decode())
    return JSONResponse({"path": request.url.path, "body": calls[-1]})


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    routes = [Route("/{path:path}", work, methods=["GET", "POST"])]
    config = uvicorn.Config(
        FaultInjection(Starlette(routes=routes)), host="127.0.0.1", port=0, log_level="critical", lifespan="off"
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not running.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    running.should_exit = True
    thread.join(10)


@pytest.fixture
def client(server: str) -> Iterator[httpx.Client]:
    calls.clear()
    with httpx.Client(base_url=server, timeout=5) as http:
        yield http
        http.delete(CONTROL)


def order(client: httpx.Client, **fault: Any) -> None:
    assert client.post(CONTROL, json=fault).status_code == 201


def test_a_status(client: httpx.Client) -> None:
    action = {"status": 503, "json": {"message": "later"}, "headers": {"Retry-After": "1"}}
    order(client, path="^/jobs", method="POST", action=action)
    assert client.get("/jobs/1").status_code == 200
    assert client.post("/other").status_code == 200
    answer = client.post("/jobs/1")
    assert (answer.status_code, answer.json(), answer.headers["Retry-After"]) == (503, {"message": "later"}, "1")
    assert client.post("/jobs/1", content="x").json()["body"] == "x"
    assert len(calls) == 3


def test_requests_are_counted_by_kind_and_control_is_not(client: httpx.Client) -> None:
    client.delete("/_sandbox/requests")
    order(client, path="/x", action={"status": 500})
    for path in ("/x", "/statements/01b2c3d4-0000-1111-0000-00000000000a", "/statements/01ffffff-0000-1111-0000-1"):
        client.get(path)
    client.post("/api/2.1/jobs/run-now")
    counted = {"GET /x": 1, "GET /statements/{id}": 2, "POST /api/2.1/jobs/run-now": 1}
    assert client.get("/_sandbox/requests").json() == counted
    assert client.delete("/_sandbox/requests").status_code == 204
    assert client.get("/_sandbox/requests").json() == {}


def test_counts(client: httpx.Client) -> None:
    order(client, path="/x", skip=1, times=2, action={"status": 500})
    assert [client.get("/x").status_code for _ in range(5)] == [200, 500, 500, 200, 200]
    (listed,) = client.get(CONTROL).json()
    assert (listed["hits"], listed["remaining"], listed["skip"]) == (2, 0, 0)
    client.delete(CONTROL)
    assert client.get(CONTROL).json() == []


def test_the_body_decides(client: httpx.Client) -> None:
    order(client, path="/sql", body="COPY +INTO", action={"status": 429})
    assert client.post("/sql", content="SELECT 1").json()["body"] == "SELECT 1"
    assert client.post("/sql", content="COPY  INTO t").status_code == 429


def test_the_query_decides(client: httpx.Client) -> None:
    order(client, path="^/sql", query="partition=[1-9]", action={"status": 504})
    assert client.get("/sql", params={"partition": 0}).status_code == 200
    assert client.get("/sql").status_code == 200
    assert client.get("/sql", params={"partition": 1}).status_code == 504


def test_a_delay(client: httpx.Client) -> None:
    order(client, path="/slow", action={"delay": 0.2})
    start = time.monotonic()
    assert client.post("/slow", content="x").json()["body"] == "x"
    assert time.monotonic() - start >= 0.2


@pytest.mark.parametrize(("drop", "done"), [("before", 0), ("after", 1)])
def test_a_dropped_connection(client: httpx.Client, drop: str, done: int) -> None:
    order(client, path="/work", action={"drop": drop})
    with pytest.raises(httpx.RemoteProtocolError, match="disconnected without sending a response"):
        client.post("/work", content="x")
    assert len(calls) == done
    assert client.post("/work", content="x").status_code == 200


def test_control_paths_are_never_hit(client: httpx.Client) -> None:
    order(client, path=".", times=9, action={"status": 500})
    assert client.get("/_sandbox/anything").status_code == 200
    assert client.get(CONTROL).status_code == 200


@pytest.mark.parametrize(
    "fault",
    [
        {"path": "x"},
        {"path": "(", "action": {"status": 500}},
        {"path": "x", "query": "(", "action": {"status": 500}},
        {"path": "x", "action": {}},
        {"path": "x", "action": {"drop": "sometimes"}},
        {"path": "x", "action": {"status": 500, "delay": 1}},
        {"path": "x", "action": {"status": 500}, "nonsense": 1},
    ],
)
def test_orders_that_make_no_sense(client: httpx.Client, fault: dict[str, Any]) -> None:
    assert client.post(CONTROL, json=fault).status_code == 422
