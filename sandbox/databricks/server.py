"""
The Jobs API of a Databricks workspace over HTTP.

Both versions of the API that are in use, 2.1 and 2.2, and below ``/_sandbox/`` the orders by which tests and
demonstrations make runs wait, fail or take long.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import html
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from sandbox.databricks.jobs import (
    USER,
    ApiError,
    Job,
    Run,
    TaskRun,
    Workspace,
    invalid,
    latest_attempts,
    state_of,
    status_of,
)

WORKSPACE_ID = 900800700600
RUNS_ON_PAGE = 100

Body = Mapping[str, Any]


def create_app(*, state_dir: Path, s3_endpoint_url: str, token: str, bundle: Path) -> Starlette:
    """
    The workspace as an ASGI application. Its lifespan stops the workers, so the server has to run it.

    :param state_dir: directory of the workspace's files; one workspace at a time.
    :param s3_endpoint_url: the stand-in of S3.
    :param token: access token that requests must bear.
    :param bundle: asset bundle whose jobs the workspace has.
    """
    workspace = Workspace(state_dir=state_dir, s3_endpoint_url=s3_endpoint_url, bundle=bundle)
    return _Api(workspace, token).application()


class _Api:
    def __init__(self, workspace: Workspace, token: str) -> None:
        self._workspace = workspace
        self._token = token

    def application(self) -> Starlette:
        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            yield
            await run_in_threadpool(self._workspace.close)

        calls: list[tuple[str, str, Callable[[Request, Body], Any]]] = [
            ("POST", "jobs/create", self._create),
            ("GET", "jobs/get", self._get),
            ("GET", "jobs/list", self._list),
            ("POST", "jobs/delete", self._delete),
            ("POST", "jobs/reset", self._reset),
            ("POST", "jobs/update", self._update),
            ("POST", "jobs/run-now", self._run_now),
            ("GET", "jobs/runs/get", self._runs_get),
            ("GET", "jobs/runs/get-output", self._runs_get_output),
            ("GET", "jobs/runs/list", self._runs_list),
            ("POST", "jobs/runs/cancel", self._runs_cancel),
            ("POST", "jobs/runs/cancel-all", self._runs_cancel_all),
            ("POST", "jobs/runs/delete", self._runs_delete),
            ("POST", "jobs/runs/repair", self._runs_repair),
        ]
        orders: list[tuple[str, str, Callable[[Request, Body], Any]]] = [
            ("POST", "hold", self._hold),
            ("POST", "release", self._release),
            ("POST", "fail_next", self._fail_next),
            ("POST", "token", self._new_token),
            ("POST", "delay", self._delay),
            ("GET", "state", lambda request, body: self._workspace.counts()),
        ]
        routes = [
            Route(f"/api/{version}/{path}", self._endpoint(call), methods=[method])
            for version in ("2.1", "2.2")
            for method, path, call in calls
        ]
        routes += [Route(f"/_sandbox/{path}", self._endpoint(call), methods=[method]) for method, path, call in orders]
        routes += [Route("/healthz", self._healthz), Route("/", self._page)]
        return Starlette(
            routes=routes,
            lifespan=lifespan,
            exception_handlers={ApiError: _refuse, HTTPException: _no_such_api},
        )

    def _endpoint(self, call: Callable[[Request, Body], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            self._authenticate(request)
            content = await request.body()
            body = _json_object(content) if content or request.method != "GET" else {}
            if request.method == "GET":
                # Also from a body: Airflow's provider asks so when it waits, and the real service answers.
                body = {**body, **request.query_params}
            return JSONResponse(await run_in_threadpool(call, request, body))

        return endpoint

    def _authenticate(self, request: Request) -> None:
        scheme, _, credential = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not credential:
            raise ApiError(401, 401, "Credential was not sent or was of an unsupported type for this API.")
        if not hmac.compare_digest(credential.encode(), self._token.encode()):
            raise ApiError(403, 403, "Invalid access token.")

    # Jobs

    def _create(self, request: Request, body: Body) -> Any:
        return {"job_id": self._workspace.create_job(dict(body))}

    def _get(self, request: Request, body: Body) -> Any:
        job = self._workspace.job(_integer(body, "job_id"))
        return _job(job, tasks=True)

    def _list(self, request: Request, body: Body) -> Any:
        jobs = self._workspace.jobs()
        if name := body.get("name"):
            jobs = [job for job in jobs if job.settings["name"].lower() == name.lower()]
        tasks = _flag(body, "expand_tasks")
        return _page_of("jobs", jobs, body, request, most=100, show=lambda job: _job(job, tasks=tasks))

    def _delete(self, request: Request, body: Body) -> Any:
        self._workspace.delete_job(_integer(body, "job_id"))
        return {}

    def _reset(self, request: Request, body: Body) -> Any:
        self._workspace.replace_settings(_integer(body, "job_id"), _object(body, "new_settings"))
        return {}

    def _update(self, request: Request, body: Body) -> Any:
        job = self._workspace.job(_integer(body, "job_id"))
        settings = job.settings | _object(body, "new_settings")
        for name in body.get("fields_to_remove", []):
            settings.pop(name, None)
        self._workspace.replace_settings(job.job_id, settings)
        return {}

    # Runs

    def _run_now(self, request: Request, body: Body) -> Any:
        _only(body, "job_id", "job_parameters", "idempotency_token", "queue", "performance_target")
        token = body.get("idempotency_token", "")
        if not isinstance(token, str):
            raise _malformed("Expected a string for field 'idempotency_token'")
        queue = _object(body, "queue").get("enabled")
        run = self._workspace.run_now(_integer(body, "job_id"), _parameters(body), token=token, queue=queue)
        return {"run_id": run.run_id, "number_in_job": run.run_id}

    def _runs_get(self, request: Request, body: Body) -> Any:
        run_id = _integer(body, "run_id")

        def view() -> dict[str, Any]:
            run = self._workspace.run(run_id)
            if task := _task_of(run, run_id):
                return _task(run, task, request) | {"job_id": run.job_id, "run_type": "JOB_RUN"}
            return _run(run, request, tasks=True, history=_flag(body, "include_history"))

        return self._workspace.read(view)

    def _runs_get_output(self, request: Request, body: Body) -> Any:
        run_id = _integer(body, "run_id")

        def view() -> dict[str, Any]:
            run = self._workspace.run(run_id)
            task = _task_of(run, run_id)
            if task is None:
                raise invalid(
                    "Retrieving the output of runs with multiple tasks is not supported. Please retrieve the output of "
                    "each individual task run instead."
                )
            metadata = _task(run, task, request) | {"job_id": run.job_id, "run_type": "JOB_RUN"}
            output: dict[str, Any] = {"metadata": metadata, "sql_output": {}}
            return output | ({"error": task.error} if task.error else {})

        return self._workspace.read(view)

    def _runs_list(self, request: Request, body: Body) -> Any:
        runs = self._workspace.runs()
        if "job_id" in body:
            job_id = _integer(body, "job_id")
            runs = [run for run in runs if run.job_id == job_id]
        active, completed = _flag(body, "active_only"), _flag(body, "completed_only")
        if active and completed:
            raise invalid("active_only and completed_only cannot both be true.")
        if active or completed:
            runs = [run for run in runs if run.state.active == active]
        tasks = _flag(body, "expand_tasks")
        show = lambda run: _run(run, request, tasks=tasks)  # noqa: E731
        return self._workspace.read(lambda: _page_of("runs", runs, body, request, most=25, show=show))

    def _runs_cancel(self, request: Request, body: Body) -> Any:
        self._workspace.cancel(_integer(body, "run_id"))
        return {}

    def _runs_cancel_all(self, request: Request, body: Body) -> Any:
        queued_only = _flag(body, "all_queued_runs")
        if "job_id" not in body and not queued_only:
            raise invalid("Either job_id or all_queued_runs must be set.")
        job_id = _integer(body, "job_id") if "job_id" in body else None
        if job_id is not None:
            self._workspace.job(job_id)
        self._workspace.cancel_all(job_id, queued_only=job_id is None)
        return {}

    def _runs_delete(self, request: Request, body: Body) -> Any:
        self._workspace.delete_run(_integer(body, "run_id"))
        return {}

    def _runs_repair(self, request: Request, body: Body) -> Any:
        _only(
            body,
            "run_id",
            "rerun_tasks",
            "rerun_all_failed_tasks",
            "rerun_dependent_tasks",
            "latest_repair_id",
            "job_parameters",
        )
        tasks = body.get("rerun_tasks")
        if tasks is None and not _flag(body, "rerun_all_failed_tasks"):
            raise invalid("Either rerun_tasks or rerun_all_failed_tasks must be set.")
        if tasks is not None and not (isinstance(tasks, list) and all(isinstance(key, str) for key in tasks)):
            raise _malformed("Expected a list of strings for field 'rerun_tasks'")
        repair_id = self._workspace.repair(
            _integer(body, "run_id"),
            tasks=tasks,
            latest_repair_id=_integer(body, "latest_repair_id") if "latest_repair_id" in body else None,
            parameters=_parameters(body),
        )
        return {"repair_id": repair_id}

    # Orders

    def _hold(self, request: Request, body: Body) -> Any:
        _only(body, "at", "count")
        at = body.get("at")
        if at not in ("start", "end"):
            raise invalid("at must be start or end.")
        self._workspace.hold(at, _count(body))
        return {}

    def _release(self, request: Request, body: Body) -> Any:
        _only(body)
        self._workspace.release()
        return {}

    def _fail_next(self, request: Request, body: Body) -> Any:
        _only(body, "message", "result_state", "life_cycle_state", "count")
        self._workspace.fail_next(
            str(body.get("message", "Failed on order.")),
            str(body.get("result_state", "FAILED")),
            str(body.get("life_cycle_state", "TERMINATED")),
            _count(body),
        )
        return {}

    def _new_token(self, request: Request, body: Body) -> Any:
        _only(body, "token")
        if not isinstance(token := body.get("token"), str) or not token:
            raise invalid("token must be a string that is not empty.")
        self._token = token
        return {}

    def _delay(self, request: Request, body: Body) -> Any:
        _only(body, "seconds")
        if not isinstance(seconds := body.get("seconds"), int | float) or isinstance(seconds, bool):
            raise invalid("seconds must be a number.")
        self._workspace.delay(seconds)
        return {}

    # For people and for those who wait for the start

    async def _healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _page(self, request: Request) -> Response:
        """The runs as a page. A run's URL ends in ``#job/<id>/run/<id>``, which is the id of its row."""
        rows = []
        for run in self._workspace.runs()[:RUNS_ON_PAGE]:
            output = "\n".join(task.error for task in latest_attempts(run).values() if task.error)
            state = f"{run.state.life_cycle_state} {run.state.result_state}"
            cells = (run.settings["name"], run.run_id, state, run.state.message, output)
            columns = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
            rows.append(f'<tr id="job/{run.job_id}/run/{run.run_id}">{columns}</tr>')
        return HTMLResponse(
            "<!doctype html><title>Job runs</title><meta name=viewport content='width=device-width'>"
            "<style>body{font-family:sans-serif;margin:2em}td,th{padding:.4em 1em;text-align:left;vertical-align:top;"
            "white-space:pre-wrap}tr:target{background:#fe9}</style>"
            "<h1>Job runs</h1><p>Stand-in of a Databricks workspace.</p>"
            f"<table><tr><th>Job<th>Run<th>State<th>Message<th>Output</tr>{''.join(rows)}</table>"
        )


# What the API tells


def _job(job: Job, *, tasks: bool) -> dict[str, Any]:
    settings = job.settings if tasks else {key: value for key, value in job.settings.items() if key != "tasks"}
    return {
        "job_id": job.job_id,
        "creator_user_name": USER,
        "run_as_user_name": USER,
        "settings": settings,
        "created_time": job.created_time,
    }


def _run(run: Run, request: Request, *, tasks: bool, history: bool = False) -> dict[str, Any]:
    defaults = {parameter["name"]: parameter["default"] for parameter in run.settings.get("parameters", [])}
    answer: dict[str, Any] = {
        "job_id": run.job_id,
        "run_id": run.run_id,
        "number_in_job": run.run_id,
        "original_attempt_run_id": run.run_id,
        "creator_user_name": USER,
        "run_as_user_name": USER,
        "run_name": run.settings["name"],
        "run_page_url": _run_page_url(run, request),
        "run_type": "JOB_RUN",
        "trigger": "ONE_TIME",
        "format": "MULTI_TASK",
        "state": state_of(run.state),
        "status": status_of(run.state),
        "job_parameters": [
            {"name": name, **({"default": defaults[name]} if name in defaults else {}), "value": value}
            for name, value in sorted(run.job_parameters.items())
        ],
        "overriding_parameters": {},
        **_times(run.created_time, _work_start(run), run.state.end_time),
        "run_duration": max(0, run.state.end_time - run.created_time),
        "queue_duration": 0,
    }
    if tasks:
        answer["tasks"] = [_task(run, task, request) for task in run.tasks]
    if history:
        repaired = {run_id for repair in run.repairs for run_id in repair["task_run_ids"]}
        original = {
            "type": "ORIGINAL",
            "id": run.run_id,
            "start_time": run.created_time,
            "task_run_ids": [task.run_id for task in run.tasks if task.run_id not in repaired],
        }
        answer["repair_history"] = [original, *({"type": "REPAIR", **repair} for repair in run.repairs)]
    return answer


def _task(run: Run, task: TaskRun, request: Request) -> dict[str, Any]:
    return {
        **task.task,
        "run_id": task.run_id,
        "attempt_number": task.attempt_number,
        "run_page_url": _run_page_url(run, request),
        "state": state_of(task.state),
        "status": status_of(task.state),
        **_times(task.state.start_time, task.state.start_time, task.state.end_time),
    }


def _times(start: int, work_start: int, end: int) -> dict[str, int]:
    """Times in milliseconds since 1970, durations in milliseconds; what has not ended has the end 0."""
    return {
        "start_time": start,
        "end_time": end,
        "setup_duration": max(0, work_start - start),
        "execution_duration": max(0, end - work_start) if work_start else 0,
        "cleanup_duration": 0,
    }


def _work_start(run: Run) -> int:
    return min((task.state.start_time for task in run.tasks if task.state.start_time), default=0)


def _run_page_url(run: Run, request: Request) -> str:
    return f"{request.base_url}?o={WORKSPACE_ID}#job/{run.job_id}/run/{run.run_id}"


def _task_of(run: Run, run_id: int) -> TaskRun | None:
    return next((task for task in run.tasks if task.run_id == run_id), None)


def _page_of(
    name: str, items: list[Any], body: Body, request: Request, *, most: int, show: Callable[[Any], Any]
) -> dict[str, Any]:
    """One page of a list. The token of a page says where it begins."""
    limit = _integer(body, "limit") if "limit" in body else 20
    if not 1 <= limit <= most:
        raise invalid(f"limit must be between 1 and {most}, it is {limit}.")
    start = _page_start(body)
    answer: dict[str, Any] = {name: [show(item) for item in items[start : start + limit]]}
    more = len(items) > start + limit
    if more:
        answer["next_page_token"] = _page_token(start + limit)
    if start:
        answer["prev_page_token"] = _page_token(max(0, start - limit))
    if request.url.path.startswith("/api/2.1/"):
        answer["has_more"] = more
    return answer


def _page_token(start: int) -> str:
    return base64.urlsafe_b64encode(f"from:{start}".encode()).decode()


def _page_start(body: Body) -> int:
    token = body.get("page_token") or _page_token(0)
    try:
        return int(base64.urlsafe_b64decode(token).decode().removeprefix("from:"))
    except (ValueError, binascii.Error) as error:
        raise invalid("Invalid page token.") from error


# What the API is told


def _json_object(content: bytes) -> Body:
    try:
        body = json.loads(content or b"{}")
    except ValueError as error:
        raise _malformed("Invalid JSON given in the body of the request - failed to parse given JSON") from error
    if not isinstance(body, dict):
        raise _malformed("Expected a JSON object in the body of the request")
    return body


def _only(body: Body, *names: str) -> None:
    """Refuse fields that would be ignored, which a client would not notice."""
    if unknown := sorted(set(body) - set(names)):
        raise invalid(f"Unknown or unsupported fields: {', '.join(unknown)}.")


def _integer(body: Body, name: str) -> int:
    value = body.get(name)
    if value is None:
        raise invalid(f"Missing required field: {name}")
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _malformed(f"Could not parse request object: Expected a number for field '{name}'")
    return value


def _flag(body: Body, name: str) -> bool:
    value = body.get(name, False)
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in {"true", "false"}:  # in the query of a GET
        return value.lower() == "true"
    raise _malformed(f"Could not parse request object: Expected a boolean for field '{name}'")


def _count(body: Body) -> int:
    count = _integer(body, "count") if "count" in body else 1
    if not 1 <= count <= 1000:
        raise invalid("count must be between 1 and 1000.")
    return count


def _object(body: Body, name: str) -> dict[str, Any]:
    value = body.get(name, {})
    if not isinstance(value, dict):
        raise _malformed(f"Could not parse request object: Expected an object for field '{name}'")
    return value


def _parameters(body: Body) -> dict[str, str]:
    parameters = _object(body, "job_parameters")
    if not all(isinstance(value, str) for value in parameters.values()):
        raise _malformed("Could not parse request object: Expected strings in field 'job_parameters'")
    return parameters


def _malformed(message: str) -> ApiError:
    return ApiError(400, "MALFORMED_REQUEST", message)


async def _refuse(request: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise error
    return JSONResponse({"error_code": error.error_code, "message": str(error)}, error.status)


async def _no_such_api(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    message = f"No API found for '{request.method} {request.url.path}'"
    return JSONResponse({"error_code": "ENDPOINT_NOT_FOUND", "message": message}, 404)
