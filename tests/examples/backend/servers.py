"""Servers on loopback for the clients: a small Airflow made of a dict, and a gateway before the real one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from emulators.fault_injection import FaultInjection

METHODS = ["GET", "POST", "PATCH", "DELETE"]
STEPS = ("export_to_s3", "wait_for_export", "copy_into_staging", "check_staging", "publish", "finish_sync")


@contextmanager
def served(app: Starlette) -> Iterator[str]:
    """Serve an application on loopback, with fault injection; gives its address."""
    options: dict[str, Any] = {"log_level": "critical", "lifespan": "off", "timeout_graceful_shutdown": 0}
    server = uvicorn.Server(uvicorn.Config(FaultInjection(app), host="127.0.0.1", port=0, **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


class Calls:
    """The calls that a server has got, as "GET /path"."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def count(self, method: str, end_of_path: str = "") -> int:
        return sum(call.startswith(f"{method} ") and call.endswith(end_of_path) for call in self.calls)


class Gateway(Calls):
    """Hands every call on to Airflow, if ordered with another token than the client sent."""

    def __init__(self, airflow_url: str) -> None:
        super().__init__()
        self.url = ""
        self.next_token: str | None = None
        self.app = Starlette(routes=[Route("/{path:path}", self._hand_on, methods=METHODS)])
        self._airflow_url = airflow_url

    async def _hand_on(self, request: Request) -> Response:
        self.calls.append(f"{request.method} {request.url.path}")
        headers = {name: value for name, value in request.headers.items() if name not in ("host", "content-length")}
        if self.next_token is not None and "authorization" in headers:
            headers["authorization"], self.next_token = f"Bearer {self.next_token}", None
        path = request.scope["raw_path"].decode() + (f"?{request.url.query}" if request.url.query else "")
        async with httpx.AsyncClient(base_url=self._airflow_url, timeout=60) as http:
            answer = await http.request(request.method, path, headers=headers, content=await request.body())
        return Response(answer.content, answer.status_code, {"content-type": answer.headers["content-type"]})


class SmallAirflow(Calls):
    """As much of Airflow's REST API as a client calls, in Airflow's form. Runs stay as a test sets them."""

    def __init__(self, user: str, password: str) -> None:
        super().__init__()
        self.credentials = {"username": user, "password": password}
        self.tokens: set[str] = set()
        self.refusal: tuple[int, dict[str, Any]] = (401, {"detail": "Token Expired"})
        self.paused = False
        self.runs: dict[str, dict[str, Any]] = {}
        self.clears: dict[str, int] = {}
        self.xcoms: dict[tuple[str, str, str], Any] = {}
        dag = "/api/v2/dags/sync_shared_forecasts"
        run = dag + "/dagRuns/{run_id}"
        routes = [
            Route("/auth/token", self._sign_in, methods=["POST"]),
            *(
                Route(path, self._for_the_signed_in(answer), methods=methods)
                for path, answer, methods in [
                    ("/api/v2/dags", self._list_dags, ["GET"]),
                    (dag, self._get_dag, ["GET"]),
                    (f"{dag}/dagRuns", self._list_runs, ["GET"]),
                    (f"{dag}/dagRuns", self._start_run, ["POST"]),
                    (run, self._get_run, ["GET"]),
                    (run, self._end_run, ["PATCH"]),
                    (f"{run}/taskInstances", self._list_tasks, ["GET"]),
                    (run + "/taskInstances/{task}/xcomEntries/{key}", self._get_xcom, ["GET"]),
                    ("/{path:path}", self._nothing, METHODS),
                ]
            ),
        ]
        self.app = Starlette(routes=routes)

    def attempt(self, run_id: str, task_id: str) -> str:
        """Return the id of the last attempt of a task."""
        return f"{self.clears.get(run_id, 0)}-{run_id}-{task_id}"

    def clear(self, run_id: str) -> None:
        """Let all tasks be attempted anew; what they have left stays until they begin."""
        self.clears[run_id] = self.clears.get(run_id, 0) + 1
        self.add_run(run_id, "queued", conf=self.runs[run_id]["conf"])

    def add_run(self, run_id: str, state: str, *, conf: Any = None, steps_done: int = 0) -> None:
        self.runs[run_id] = {
            "dag_run_id": run_id,
            "state": state,
            "start_date": None if state == "queued" else "2026-11-22T19:00:00.5Z",
            "end_date": "2026-11-22T19:00:07Z" if state in ("success", "failed") else None,
            "conf": conf,
        }
        self.set_steps(run_id, *["success"] * steps_done)

    def set_steps(self, run_id: str, *states: str | None) -> None:
        all_states = [*states, *[None] * (len(STEPS) - len(states))]
        self.runs[run_id]["tasks"] = [
            {"task_id": name, "id": self.attempt(run_id, name), "state": state, "start_date": None, "end_date": None}
            for name, state in sorted(zip(STEPS, all_states, strict=True))
        ]

    def end(self, run_id: str, state: str, *, result: Any = None, failure: Any = None) -> None:
        self.add_run(run_id, state, conf=self.runs[run_id]["conf"], steps_done=6 if state == "success" else 1)
        self.xcoms |= {(run_id, "export_to_s3", "run_page_url"): "https://dbc.example.com/#job/1/run/2"}
        left = {("publish", "return_value"): result, ("finish_sync", "failure"): failure}
        for (task_id, key), value in left.items():
            if value is not None:
                by = {"task_instance_id": self.attempt(run_id, task_id)} if isinstance(value, dict) else {}
                self.xcoms[run_id, task_id, key] = {**value, **by} if by else value

    def _for_the_signed_in(self, answer: Any) -> Any:
        async def guarded(request: Request) -> Response:
            self.calls.append(f"{request.method} {request.scope['raw_path'].decode()}")
            if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
                status, body = self.refusal
                return JSONResponse(body, status)
            response: Response = await answer(request)
            return response

        return guarded

    async def _sign_in(self, request: Request) -> Response:
        self.calls.append("POST /auth/token")
        body = await request.json()
        if body != self.credentials:
            return JSONResponse({"detail": "Invalid credentials", "input": body}, 401)
        token = f"token-{len(self.calls)}"
        self.tokens.add(token)
        return JSONResponse({"access_token": token}, 201)

    async def _list_dags(self, request: Request) -> Response:
        names = [f"sync_dataset_{number:03}" for number in range(120)]
        offset, limit = int(request.query_params["offset"]), int(request.query_params["limit"])
        page = [{"dag_id": name} for name in names[offset : offset + limit]]
        return JSONResponse({"dags": page, "total_entries": len(names)})

    async def _get_dag(self, _: Request) -> Response:
        return JSONResponse({"dag_id": "sync_shared_forecasts", "is_paused": self.paused})

    async def _list_runs(self, request: Request) -> Response:
        assert request.query_params["order_by"] == "-id"
        newest = list(reversed(self.runs.values()))[: int(request.query_params["limit"])]
        return JSONResponse({"dag_runs": newest, "total_entries": len(self.runs)})

    async def _start_run(self, request: Request) -> Response:
        body = await request.json()
        if body["dag_run_id"] in self.runs:
            return JSONResponse({"detail": {"reason": "Unique constraint violation"}}, 409)
        self.add_run(body["dag_run_id"], "queued", conf=body["conf"])
        return JSONResponse(self.runs[body["dag_run_id"]])

    async def _get_run(self, request: Request) -> Response:
        run = self.runs.get(request.path_params["run_id"])
        return JSONResponse(run) if run else await self._nothing(request)

    async def _end_run(self, request: Request) -> Response:
        body = await request.json()
        assert body.pop("state") == "failed"
        note = self.runs[request.path_params["run_id"]].get("note")
        self.end(request.path_params["run_id"], "failed")
        self.runs[request.path_params["run_id"]] |= {"note": note, **body}
        return JSONResponse(self.runs[request.path_params["run_id"]])

    async def _list_tasks(self, request: Request) -> Response:
        return JSONResponse({"task_instances": self.runs[request.path_params["run_id"]]["tasks"]})

    async def _get_xcom(self, request: Request) -> Response:
        key = (request.path_params["run_id"], request.path_params["task"], request.path_params["key"])
        return JSONResponse({"value": self.xcoms[key]}) if key in self.xcoms else await self._nothing(request)

    async def _nothing(self, _: Request) -> Response:
        return JSONResponse({"detail": "not found"}, 404)
