"""
The HTTP server of the Databricks emulator.

It serves the Jobs API in the versions 2.1 and 2.2, OAuth for service principals, the API of SQL warehouses, and below
``/_sandbox/`` the calls with which tests and demonstrations make runs wait or fail.
"""

from __future__ import annotations

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

from emulators.databricks import answers
from emulators.databricks.functions import Secrets
from emulators.databricks.jobs import Workspace
from emulators.databricks.oauth import Credentials, OAuthError, authorization_server, host_metadata
from emulators.databricks.records import ApiError, invalid
from emulators.databricks.sql_statements import SqlStatements

RUNS_ON_PAGE = 100
MAX_RUN_SECONDS = 3600

Body = Mapping[str, Any]


def create_app(
    *,
    state_dir: Path,
    s3_endpoint_url: str,
    token: str,
    bundle: Path,
    service_principals: Mapping[str, str] | None = None,
    secrets: Secrets | None = None,
) -> Starlette:
    """
    Create the workspace as an ASGI application. The server must run its lifespan, which stops the workers.

    :param state_dir: directory of the workspace's files; only one workspace at a time may use it.
    :param s3_endpoint_url: the emulator of S3.
    :param token: personal access token; a request must contain this token or a service principal's.
    :param bundle: asset bundle whose jobs are created.
    :param service_principals: OAuth secrets of the service principals, by client id.
    :param secrets: the secrets that the principal of the jobs may read.
    """
    workspace = Workspace(state_dir=state_dir, s3_endpoint_url=s3_endpoint_url, bundle=bundle, secrets=secrets)
    statements = SqlStatements(s3_endpoint_url)
    return _Api(workspace, statements, Credentials(state_dir, token, service_principals or {})).application()


class _Api:
    def __init__(self, workspace: Workspace, statements: SqlStatements, credentials: Credentials) -> None:
        self._workspace = workspace
        self._statements = statements
        self._credentials = credentials

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
            ("POST", "jobs/run-now", self._run_now),
            ("GET", "jobs/runs/get", self._runs_get),
            ("GET", "jobs/runs/get-output", self._runs_get_output),
            ("GET", "jobs/runs/list", self._runs_list),
            ("POST", "jobs/runs/cancel", self._runs_cancel),
            ("POST", "jobs/runs/cancel-all", self._runs_cancel_all),
        ]
        controls: list[tuple[str, str, Callable[[Request, Body], Any]]] = [
            ("POST", "hold", self._hold),
            ("POST", "release", self._release),
            ("POST", "fail_next", self._fail_next),
            ("POST", "run_seconds", self._run_seconds),
            ("POST", "source_changes", self._source_changes),
            ("POST", "token", self._new_token),
            ("POST", "token_lifetime", self._token_lifetime),
            ("GET", "state", self._state),
        ]
        routes = [
            Route(f"/api/{version}/{path}", self._endpoint(call), methods=[method])
            for version in ("2.1", "2.2")
            for method, path, call in calls
        ]
        routes += [
            Route("/api/2.0/sql/warehouses/{warehouse_id}", self._endpoint(self._warehouse), methods=["GET"]),
            Route("/api/2.0/sql/statements", self._endpoint(self._execute), methods=["POST"]),
            Route("/api/2.0/sql/statements/{statement_id}", self._endpoint(self._executed), methods=["GET"]),
            Route("/api/2.0/workspace/get-status", self._endpoint(self._get_status), methods=["GET"]),
        ]
        routes += [
            Route(f"/_sandbox/{path}", self._endpoint(call), methods=[method]) for method, path, call in controls
        ]
        routes += [
            Route("/.well-known/databricks-config", _document(host_metadata)),
            Route("/oidc/.well-known/oauth-authorization-server", _document(authorization_server)),
            Route("/oidc/v1/token", self._oauth_token, methods=["POST"]),
            Route("/healthz", self._healthz),
            Route("/", self._page),
        ]
        return Starlette(
            routes=routes,
            lifespan=lifespan,
            exception_handlers={ApiError: _refuse, OAuthError: _refuse_token, HTTPException: _no_such_api},
        )

    def _endpoint(self, call: Callable[[Request, Body], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            request.state.principal = self._credentials.principal(request.headers.get("Authorization", ""))
            content = await request.body()
            body = _json_object(content) if content or request.method != "GET" else {}
            if request.method == "GET":
                # Airflow's provider sends a GET's parameters in the body when it polls. The real service accepts this.
                body = {**body, **request.query_params}
            return JSONResponse(await run_in_threadpool(call, request, body))

        return endpoint

    async def _oauth_token(self, request: Request) -> Response:
        token = self._credentials.new_token(
            authorization=request.headers.get("Authorization", ""),
            content_type=request.headers.get("Content-Type", ""),
            form=await request.body(),
            base_url=str(request.base_url),
        )
        return JSONResponse(token, headers={"Cache-Control": "no-store"})

    # Jobs

    def _create(self, request: Request, body: Body) -> Any:
        return {"job_id": self._workspace.create_job(dict(body), creator=request.state.principal)}

    def _get(self, request: Request, body: Body) -> Any:
        return answers.job_answer(self._workspace.job(_integer(body, "job_id")))

    def _list(self, request: Request, body: Body) -> Any:
        jobs = self._workspace.jobs()
        if name := body.get("name"):
            jobs = [job for job in jobs if job.settings["name"].lower() == name.lower()]
        tasks = _flag(body, "expand_tasks")
        show = lambda job: answers.listed_job(job, tasks=tasks)  # noqa: E731
        return answers.page_of("jobs", jobs, **_place(body, max_limit=100), show=show)

    def _delete(self, request: Request, body: Body) -> Any:
        self._workspace.delete_job(_integer(body, "job_id"))
        return {}

    def _reset(self, request: Request, body: Body) -> Any:
        self._workspace.replace_settings(_integer(body, "job_id"), _object(body, "new_settings"))
        return {}

    # Runs

    def _run_now(self, request: Request, body: Body) -> Any:
        _only(body, "job_id", "job_parameters", "idempotency_token", "queue", "performance_target")
        queue = _object(body, "queue").get("enabled")
        if "queue" in body and not isinstance(queue, bool):
            raise invalid("queue.enabled must be true or false.")
        run = self._workspace.run_now(
            _integer(body, "job_id"),
            _parameters(body),
            token=_text(body, "idempotency_token"),
            queue=queue,
            creator=request.state.principal,
        )
        return {"run_id": run.run_id, "number_in_job": run.run_id}

    def _runs_get(self, request: Request, body: Body) -> Any:
        run_id = _integer(body, "run_id")
        base_url = str(request.base_url)

        def view() -> dict[str, Any]:
            run = self._workspace.run(run_id)
            if (task := run.task_with_id(run_id)) is not None:
                return answers.task_run_answer(run, task, base_url)
            return answers.run_answer(run, base_url, resolved=_flag(body, "include_resolved_values"))

        return self._workspace.read(view)

    def _runs_get_output(self, request: Request, body: Body) -> Any:
        run_id = _integer(body, "run_id")

        def view() -> dict[str, Any]:
            run = self._workspace.run(run_id)
            if (task := run.task_with_id(run_id)) is None:
                raise invalid(
                    "Retrieving the output of runs with multiple tasks is not supported. Please retrieve the output of "
                    "each individual task run instead."
                )
            output: dict[str, Any] = {"metadata": answers.task_run_answer(run, task, str(request.base_url))}
            if "sql_task" in task.settings:
                output["sql_output"] = answers.sql_output(task)
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
        if body.get("run_type", "JOB_RUN") != "JOB_RUN":  # the emulator starts no other type of run
            runs = []
        if "start_time_from" in body:
            earliest = _integer(body, "start_time_from")
            runs = [run for run in runs if run.created_time >= earliest]
        if "start_time_to" in body:
            latest = _integer(body, "start_time_to")
            runs = [run for run in runs if run.created_time <= latest]
        tasks, base_url = _flag(body, "expand_tasks"), str(request.base_url)
        show = lambda run: answers.listed_run(run, base_url, tasks=tasks)  # noqa: E731
        place = _place({**body, "limit": 25} if str(body.get("limit")) == "0" else body, max_limit=25)
        return self._workspace.read(lambda: answers.page_of("runs", runs, **place, show=show))

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

    # SQL warehouses, and files of the workspace

    def _warehouse(self, request: Request, body: Body) -> Any:
        return self._statements.warehouse(request.path_params["warehouse_id"])

    def _execute(self, request: Request, body: Body) -> Any:
        _only(body, "warehouse_id", "statement", "wait_timeout", "on_wait_timeout")
        return self._statements.execute(body)

    def _executed(self, request: Request, body: Body) -> Any:
        return self._statements.answer(request.path_params["statement_id"])

    def _get_status(self, request: Request, body: Body) -> Any:
        path = _text(body, "path")
        if not Path(path).is_file():
            raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", f"Path ({path}) doesn't exist.")
        return {"object_type": "FILE", "path": path, "resource_id": path}

    # Controls of tests and demonstrations

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
            str(body.get("message", "This run had to fail: fail_next.")),
            str(body.get("result_state", "FAILED")),
            str(body.get("life_cycle_state", "TERMINATED")),
            _count(body),
        )
        return {}

    def _run_seconds(self, request: Request, body: Body) -> Any:
        _only(body, "seconds")
        seconds = body.get("seconds")
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= MAX_RUN_SECONDS:
            raise invalid(f"seconds must be a number from 0 to {MAX_RUN_SECONDS}.")
        self._workspace.let_runs_last(seconds)
        return {}

    def _source_changes(self, request: Request, body: Body) -> Any:
        _only(body, "on")
        if not isinstance(body.get("on"), bool):
            raise invalid("on must be true or false.")
        self._workspace.let_sources_change(body["on"])
        return {}

    def _new_token(self, request: Request, body: Body) -> Any:
        _only(body, "token")
        if not isinstance(token := body.get("token"), str) or not token:
            raise invalid("token must be a string that is not empty.")
        self._credentials.token = token
        return {}

    def _token_lifetime(self, request: Request, body: Body) -> Any:
        _only(body, "seconds")
        self._credentials.lifetime_seconds = _integer(body, "seconds")
        return {}

    def _state(self, request: Request, body: Body) -> Any:
        return self._workspace.counts() | {"oauth_tokens": self._credentials.issued}

    # The page for people, and the health check

    async def _healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _page(self, request: Request) -> Response:
        """Show the runs on a page. A run's URL ends in ``#job/<id>/run/<id>``, which is the id of its row."""
        rows = []
        for run in self._workspace.runs()[:RUNS_ON_PAGE]:
            state = f"{run.state.life_cycle_state} {run.state.result_state}"
            errors = "\n".join(task.error for task in run.tasks if task.error)
            cells = (run.settings["name"], run.run_id, state, run.state.message, errors)
            columns = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
            rows.append(f'<tr id="job/{run.job_id}/run/{run.run_id}">{columns}</tr>')
        return HTMLResponse(
            "<!doctype html><title>Job runs</title><meta name=viewport content='width=device-width'>"
            "<style>body{font-family:sans-serif;margin:2em}td,th{padding:.4em 1em;text-align:left;vertical-align:top;"
            "white-space:pre-wrap}tr:target{background:#fe9}</style>"
            "<h1>Job runs</h1><p>Emulator of a Databricks workspace.</p>"
            f"<table><tr><th>Job<th>Run<th>State<th>Message<th>Output</tr>{''.join(rows)}</table>"
        )


def _document(make: Callable[[str], dict[str, Any]]) -> Callable[[Request], Any]:
    """Make an endpoint without authentication whose answer depends only on the workspace's URL."""

    async def endpoint(request: Request) -> Response:
        return JSONResponse(make(str(request.base_url)))

    return endpoint


# Parsing of requests


def _json_object(content: bytes) -> Body:
    try:
        body = json.loads(content or b"{}")
    except ValueError as error:
        raise _malformed("Invalid JSON given in the body of the request - failed to parse given JSON") from error
    if not isinstance(body, dict):
        raise _malformed("Expected a JSON object in the body of the request")
    return body


def _only(body: Body, *names: str) -> None:
    """Refuse unknown fields: if they were ignored, the client would not notice."""
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


def _text(body: Body, name: str) -> str:
    value = body.get(name, "")
    if not isinstance(value, str):
        raise _malformed(f"Could not parse request object: Expected a string for field '{name}'")
    return value


def _place(body: Body, *, max_limit: int) -> dict[str, Any]:
    """Return which page of a list the request asks for."""
    limit = _integer(body, "limit") if "limit" in body else 20
    if not 1 <= limit <= max_limit:
        raise invalid(f"limit must be between 1 and {max_limit}, it is {limit}.")
    offset = _integer(body, "offset") if "offset" in body else 0
    return {"limit": limit, "offset": offset, "page_token": _text(body, "page_token")}


def _flag(body: Body, name: str) -> bool:
    value = body.get(name, False)
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in {"true", "false"}:  # a query parameter of a GET
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


async def _refuse_token(request: Request, error: Exception) -> Response:
    if not isinstance(error, OAuthError):
        raise error
    headers = {"WWW-Authenticate": "Basic"} if error.status == 401 else None
    return JSONResponse({"error": error.error, "error_description": str(error)}, error.status, headers)


async def _no_such_api(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    message = f"No API found for '{request.method} {request.url.path}'"
    return JSONResponse({"error_code": "ENDPOINT_NOT_FOUND", "message": message}, 404)
