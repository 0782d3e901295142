"""
A small backend with one page, which has a button Sync Data for each dataset.

It has the credentials for Airflow and keeps no state: it reads what a page shows from Airflow each time. So the page
may be reloaded, and the backend restarted, while a sync runs. `README.md` says what to change before users get it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from types import FrameType
from typing import Annotated, Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi import Path as InPath
from fastapi.params import Query
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field, StringConstraints
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from examples.backend.airflow_client import (
    AirflowClient,
    AirflowUnavailableError,
    InvalidConfError,
    NotAllowedError,
    NotSignedInError,
    PausedError,
    SyncError,
    SyncTimeoutError,
    UnknownDatasetError,
    UnknownSyncError,
)
from examples.backend.overview import Overview, Overviews
from examples.backend.view import PAGE, Viewer, as_html

LOG = logging.getLogger("sync_button")

STREAM_SECONDS = 15 * 60
"""Max. duration of a stream of events; the page then opens the next one."""

MAX_STREAMS = 100
"""Open streams of one process; each asks Airflow for up to 50 syncs, several times a minute or more."""

MAX_FOLLOWED = 50
"""Max. number of syncs that a stream names; the page names those that it shows as active."""

LOOK_SECONDS = 2
"""Between two looks for syncs that others have started."""

RECONNECT_MILLISECONDS = 1_000
RECONNECT_AFTER_PROBLEM_MILLISECONDS = 5_000

# The pattern of the DAGs for `requested_by`: one line, in any script.
REQUESTED_BY = re.compile(r"^(?!\s*$)[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]{1,100}(?!\n)$")

DatasetName = Annotated[str, InPath(pattern="^[a-z][a-z0-9_]*$", max_length=200)]
RunId = Annotated[str, InPath(pattern="^[A-Za-z0-9_.~:+-]+$", max_length=250)]
Followed = Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9_]*/[A-Za-z0-9_.~:+-]+$", max_length=451)]

STATUS_OF = {
    UnknownDatasetError: 404,
    UnknownSyncError: 404,
    InvalidConfError: 400,
    PausedError: 409,
    # Not 401 or 403: Airflow refuses the backend's account, not the page's user.
    NotSignedInError: 502,
    NotAllowedError: 502,
    AirflowUnavailableError: 503,
    SyncTimeoutError: 504,
}

# For errors that the page's user cannot fix; the technical message is in the backend's log.
SENTENCE_OF = {
    NotSignedInError: "Airflow does not accept the credentials of this backend. Its administrator must correct them.",
    NotAllowedError: "The backend's account lacks a right in Airflow. Its administrator must add it.",
    AirflowUnavailableError: "Airflow does not answer. Running syncs go on there. Try again in a moment.",
}

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def sentence(error: SyncError) -> str:
    """Return the sentence for people about an error, and log the technical message."""
    LOG.warning("%s: %s", type(error).__name__, error)
    return SENTENCE_OF.get(type(error), str(error))


# ---- protection against other sites


class OwnPageOnly:
    """
    ASGI middleware: only the backend's own page may change something, and no answer may be framed or cached.

    The header ``Sec-Fetch-Site`` names the site of a call; browsers set it, and pages cannot change it. If it is
    missing (an old browser, a page without TLS), ``Origin`` must be this host. A call with neither header is refused.

    :param app: the application that the middleware protects
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        if scope["method"] in ("GET", "HEAD") or self._is_own(Headers(scope=scope)):
            await self._app(scope, receive, send_with_headers)
        else:
            refusal = JSONResponse(
                {"message": "The request did not come from the page of this backend: nothing was done."}, 403
            )
            await refusal(scope, receive, send_with_headers)

    @staticmethod
    def _is_own(headers: Headers) -> bool:
        if "sec-fetch-site" in headers:
            return headers["sec-fetch-site"] == "same-origin"
        try:
            return urlsplit(headers.get("origin", "")).netloc == headers["host"]
        except ValueError:
            # Origin is no valid address, so it was not sent by a browser.
            return False


class LimitedStreams:
    """
    ASGI middleware: more open streams of events than the maximum are refused, as each costs calls to Airflow.

    :param app: the application
    :param maximum: number of open streams
    """

    def __init__(self, app: ASGIApp, maximum: int) -> None:
        self._app = app
        self._maximum = maximum
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one call; a stream has its place until it ends or its reader goes away."""
        if scope["type"] != "http" or scope["path"] != "/events":
            await self._app(scope, receive, send)
        elif self._open >= self._maximum:
            message = f"This backend follows syncs for {self._maximum} pages already. Syncs go on; reload in a moment."
            await JSONResponse({"message": message}, 503, {"Retry-After": "5"})(scope, receive, send)
        else:
            self._open += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._open -= 1


# ---- what the routes answer


class Shown(BaseModel):
    """A sync, or the last ones of a dataset, as the page shows them."""

    html: str = Field(description="HTML for the page: a sync is an element with the id `<dataset>/<run id>`.")


class Problem(BaseModel):
    """Why the backend does not do what was asked."""

    message: str = Field(description="A sentence for the page's user.")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the descriptions of refusals, with the reason of each status, for the routes."""
    reasons = {
        400: "Airflow refuses the request, or this is none of the backend's host names.",
        403: "The request did not come from the backend's page.",
        404: "There is no such dataset or sync.",
        409: "The dataset is paused.",
        502: "Airflow does not accept the backend's account, or its answer is not Airflow's.",
        503: "Airflow does not answer, or there are too many streams; try again.",
    }
    return {status: {"model": Problem, "description": reasons[status]} for status in statuses}


def create_app(
    client: AirflowClient, *, hosts: Sequence[str], user_header: str | None = None, max_streams: int = MAX_STREAMS
) -> FastAPI:
    """
    Return the backend.

    :param client: Airflow's REST API with the service account; closed together with the backend
    :param hosts: host names of the page; others are refused, so that no other site can pose as this one with its own
        name for this address
    :param user_header: header in which a proxy names the signed-in user; the proxy must set or remove it in every call.
        None: ``requested_by`` is not set.
    :param max_streams: streams of events that may be open at once
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with client:
            yield

    app = FastAPI(
        title="Sync Data",
        summary="A page with a Sync Data button for each dataset, before Airflow's REST API.",
        version="1",
        lifespan=lifespan,
        # Written to openapi.yaml, and not served.
        openapi_url=None,
    )
    # The first version that can describe a stream of events; FastAPI describes it, and names an earlier version.
    app.openapi_version = "3.2.0"
    app.state.ending = asyncio.Event()
    app.add_middleware(LimitedStreams, maximum=max_streams)
    app.state.user_header, app.state.account = user_header, client.user
    overviews = Overviews(client)
    app.add_middleware(OwnPageOnly)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)

    @app.exception_handler(SyncError)
    async def say(_: Request, error: SyncError) -> JSONResponse:
        return JSONResponse({"message": sentence(error)}, STATUS_OF.get(type(error), 502))

    @app.get("/", response_class=HTMLResponse, responses=problems(400))
    async def page(viewer: Annotated[Viewer, Depends(viewer_of)]) -> HTMLResponse:
        """Return the page, with the newest sync of each dataset; with the reason if Airflow does not show them."""
        dags: list[tuple[str, dict[str, Any]]] = []
        problem, status = None, 200
        try:
            dags = sorted((await client.dags()).items())
        except SyncError as error:
            problem, status = sentence(error), STATUS_OF.get(type(error), 502)
        found = await asyncio.gather(*(or_problem(overviews.of(dataset, dag)) for dataset, dag in dags))
        cards = [
            {"dataset": dataset, "about": about, "problem": said}
            for (dataset, _), (about, said) in zip(dags, found, strict=True)
        ]
        return HTMLResponse(as_html("page", cards=cards, problem=problem, viewer=viewer), status)

    @app.get("/page.css", include_in_schema=False)
    async def style() -> FileResponse:
        return FileResponse(PAGE / "page.css", headers={"Cache-Control": "no-cache"})

    @app.get("/page.js", include_in_schema=False)
    async def script() -> FileResponse:
        return FileResponse(PAGE / "page.js", headers={"Cache-Control": "no-cache"})

    @app.post("/datasets/{dataset}/syncs", responses=problems(400, 403, 404, 409, 502, 503))
    async def request_sync(viewer: Annotated[Viewer, Depends(viewer_of)], dataset: DatasetName) -> Shown:
        """Return a sync whose export begins after this request: one that is queued already, or a new one."""
        conf = {"requested_by": viewer.name} if viewer.name else {}
        return Shown(html=as_html("sync", sync=await client.request_sync(dataset, conf=conf), viewer=viewer))

    @app.post("/datasets/{dataset}/syncs/{run_id}/cancel", responses=problems(400, 403, 404, 502, 503))
    async def cancel(viewer: Annotated[Viewer, Depends(viewer_of)], dataset: DatasetName, run_id: RunId) -> Shown:
        """Cancel a sync, which ends seconds later; one that has ended is unchanged."""
        await client.cancel(dataset, run_id, by=viewer.name)
        return Shown(html=as_html("sync", sync=await client.sync(dataset, run_id), viewer=viewer))

    @app.get("/datasets/{dataset}/history", responses=problems(400, 404, 502, 503))
    async def history(viewer: Annotated[Viewer, Depends(viewer_of)], dataset: DatasetName) -> Shown:
        """Return the last syncs of a dataset, as a list."""
        syncs = await overviews.history(dataset)
        return Shown(html=as_html("history", syncs=syncs, dataset=dataset, viewer=viewer))

    @app.get("/events", response_class=EventSourceResponse, responses=problems(400, 503))
    async def events(
        viewer: Annotated[Viewer, Depends(viewer_of)],
        sync: Annotated[list[Followed], Query(max_length=MAX_FOLLOWED)] = [],  # noqa: B006 - FastAPI copies it
        others: bool = False,
    ) -> AsyncIterator[ServerSentEvent]:
        """
        Follow syncs, each named as `<dataset>/<run id>`, in one stream; with `others`, also those that begin later.

        Events: `sync` with `html` at each change; `about` with `html`, what the page says of the dataset beside its
        syncs, when one has ended; `problem` with `sync` and `message`, after which the browser connects again; `end`
        when all have ended.
        """
        queue: asyncio.Queue[ServerSentEvent | None] = asyncio.Queue()
        watchers: dict[str, asyncio.Task[bool]] = {}

        def put(event: str, retry: int | None = None, **data: str) -> None:
            queue.put_nowait(ServerSentEvent(event=event, data=data, retry=retry))

        def problem(error: SyncError, **about: str) -> None:
            put("problem", RECONNECT_AFTER_PROBLEM_MILLISECONDS, message=sentence(error), **about)

        def begin(name: str, task: Coroutine[Any, Any, bool]) -> None:
            watchers[name] = asyncio.create_task(task)
            # Wakes the loop below, which checks whether there is anything left to wait for.
            watchers[name].add_done_callback(lambda _: queue.put_nowait(None))

        async def watch(dataset: str, run_id: str) -> bool:
            """Send the states of a sync, and then what has become of its dataset; return whether it has ended."""
            try:
                async for state in client.follow(dataset, run_id, deadline_seconds=STREAM_SECONDS):
                    put("sync", html=as_html("sync", sync=state, viewer=viewer))
                if others:
                    put("about", html=as_html("about", about=await overviews.again(dataset)))
            except SyncTimeoutError:
                return False
            except SyncError as error:
                problem(error, sync=f"{dataset}/{run_id}")
                return False
            return True

        async def find_new() -> bool:
            """Watch the syncs that others start, until the stream is over; always return False."""
            with suppress(TimeoutError):
                async with asyncio.timeout(STREAM_SECONDS):
                    while True:
                        try:
                            found = await overviews.active()
                        except SyncError as error:
                            # Syncs that are followed outlast a restart of Airflow; so does the look for others.
                            LOG.warning("Looking for new syncs: %s", error)
                            found = []
                        for dataset, run_id in found:
                            name = f"{dataset}/{run_id}"
                            known = watchers.get(name)
                            # A queued sync that was cancelled has ended, and is queued in Airflow for a while.
                            is_followed = known is not None and (not known.done() or known.result())
                            if not is_followed:
                                begin(name, watch(dataset, run_id))
                        await asyncio.sleep(LOOK_SECONDS)
            return False

        yield ServerSentEvent(comment="the states of the syncs, as they change", retry=RECONNECT_MILLISECONDS)
        for name in dict.fromkeys(sync):
            begin(name, watch(*name.split("/")))
        if others:
            begin("", find_new())
        ending = asyncio.create_task(app.state.ending.wait())
        ending.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while not ending.done() and not (queue.empty() and all(watcher.done() for watcher in watchers.values())):
                if event := await queue.get():
                    yield event
            if not ending.done() and all([await watcher for watcher in watchers.values()]):
                # Without this event, the browser would connect again.
                yield ServerSentEvent(event="end", data={})
        finally:
            for task in (*watchers.values(), ending):
                task.cancel()

    return app


def viewer_of(request: Request) -> Viewer:
    """Return who looks at the page, as the proxy in front of the backend says."""
    header = request.app.state.user_header
    user = name_in(request.headers.get(header, "")) if header else ""
    # Leave out a name that the DAG would refuse: its owner may still start a sync.
    return Viewer(user if REQUESTED_BY.fullmatch(user) else None, request.app.state.account)


def name_in(header: str) -> str:
    """Return a header's text: servers decode headers as Latin-1, but most proxies send UTF-8."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header


async def or_problem(asked: Awaitable[Overview]) -> tuple[Overview | None, str | None]:
    """Return the answer and None, or None and a sentence: an error of one dataset must not hide the others."""
    try:
        return await asked, None
    except SyncError as error:
        return None, sentence(error)


def from_environment(environment: Mapping[str, str] = os.environ) -> FastAPI:
    """
    Return the backend that the environment describes.

    ``AIRFLOW_URL``, ``AIRFLOW_USER`` and ``AIRFLOW_PASSWORD`` must be set. ``BACKEND_HOSTS`` lists the host names of
    the page, separated by commas; default: only this machine. ``BACKEND_USER_HEADER`` is the header in which the proxy
    in front of the backend names the user.

    :raises SystemExit: if a variable is missing
    """
    missing = [name for name in ("AIRFLOW_URL", "AIRFLOW_USER", "AIRFLOW_PASSWORD") if not environment.get(name)]
    if missing:
        raise SystemExit(f"Not set: {', '.join(missing)}. For the sandbox, make backend sets them.")
    client = AirflowClient(environment["AIRFLOW_URL"], environment["AIRFLOW_USER"], environment["AIRFLOW_PASSWORD"])
    hosts = environment.get("BACKEND_HOSTS", "127.0.0.1,localhost").split(",")
    return create_app(client, hosts=hosts, user_header=environment.get("BACKEND_USER_HEADER"))


def listen(port: int | None) -> socket.socket:
    """
    Return a socket on loopback: on the given port; without one, on port 8000 or any free port.

    :raises SystemExit: if the given port is taken
    """
    if port is not None:
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError as error:
            raise SystemExit(f"Port {port}: {error.strerror}") from None
    with suppress(OSError):
        return socket.create_server(("127.0.0.1", 8000))
    return socket.create_server(("127.0.0.1", 0))


class Server(uvicorn.Server):
    """Ends the event streams when it is stopped: uvicorn waits for all answers, and a stream would last."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle Ctrl-C and SIGTERM."""
        if isinstance(self.config.app, FastAPI):
            self.config.app.state.ending.set()
        super().handle_exit(sig, frame)


def main() -> None:
    """Serve the page on this machine, until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m examples.backend.app", description="The Sync Data button")
    parser.add_argument("--port", type=int, help="port to listen on; else 8000, or any free one")
    app = from_environment()
    listening = listen(parser.parse_args().port)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
    sys.stdout.write(f"The Sync Data button is at http://127.0.0.1:{listening.getsockname()[1]}  (Ctrl-C ends it)\n")
    sys.stdout.flush()
    with suppress(KeyboardInterrupt):
        Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
