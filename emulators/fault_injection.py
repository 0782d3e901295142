"""Middleware of the emulators: it counts calls, and makes chosen calls fail, to test how their clients react."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTROL_PREFIX = "/_sandbox/"
"""No fault applies to paths with this prefix, so that tests can always inspect and clean up."""

CONTROL_PATH = CONTROL_PREFIX + "faults"
COUNTS_PATH = CONTROL_PREFIX + "requests"

# A part of a path that names one thing of many: a number, a UUID.
_ID = re.compile(r"(?<=/)[0-9a-f-]*[0-9][0-9a-f-]{6,}(?=/|$)")

_DROPS = ("before", "after")


@dataclass
class Fault:
    """
    A fault that applies to the next matching calls.

    :param path: regular expression, searched in the call's path.
    :param action: what happens: ``{"status": 503, "json": {...}, "headers": {...}}`` answers without the application,
        ``{"delay": seconds}`` waits first, ``{"drop": "before"}`` closes the connection without doing the work,
        ``{"drop": "after"}`` does the work and drops the answer.
    :param method: the HTTP method; None matches any.
    :param body: regular expression, searched in the call's body; None matches any.
    :param query: regular expression, searched in the call's query; None matches any.
    :param skip: number of matching calls that pass before the fault applies.
    :param times: number of matching calls to which the fault then applies.
    """

    path: str
    action: dict[str, Any]
    method: str | None = None
    body: str | None = None
    query: str | None = None
    skip: int = 0
    times: int = 1
    hits: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """
        Check the fault.

        :raises ValueError: if a field is invalid.
        """
        for expression in (self.path, self.body or "", self.query or ""):
            try:
                re.compile(expression)
            except (re.error, TypeError) as error:
                raise ValueError(f"{expression!r} is not a regular expression: {error}") from None
        kinds = {"status", "delay", "drop"} & set(self.action)
        if len(kinds) != 1 or set(self.action) - {"status", "json", "headers", "delay", "drop"}:
            raise ValueError(f"An action has one of status, delay or drop, not {self.action}")
        if "drop" in kinds and self.action["drop"] not in _DROPS:
            raise ValueError(f"drop is one of {', '.join(_DROPS)}, not {self.action['drop']!r}")
        if "status" in kinds and not isinstance(self.action["status"], int):
            raise ValueError("status is a number")
        if "delay" in kinds and not isinstance(self.action["delay"], (int, float)):
            raise ValueError("delay is a number of seconds")
        if not isinstance(self.skip, int) or not isinstance(self.times, int):
            raise ValueError("skip and times are numbers")

    def matches(self, method: str, path: str, query: str, body: str) -> bool:
        """Return whether the fault matches this call. ``skip`` and ``times`` are not considered."""
        return (
            (self.method is None or self.method.upper() == method)
            and re.search(self.path, path) is not None
            and (self.body is None or re.search(self.body, body) is not None)
            and (self.query is None or re.search(self.query, query) is not None)
        )

    def describe(self) -> dict[str, Any]:
        """Return the fault as JSON, with the number of calls to which it will still apply."""
        return {**asdict(self), "remaining": self.times}


class FaultInjection:
    """
    ASGI middleware that injects the faults requested at ``/_sandbox/faults``.

    ``POST`` adds a fault (the fields of :class:`Fault`), ``GET`` lists all faults, ``DELETE`` removes all. A call gets
    the first fault that matches and is not used up.

    ``GET /_sandbox/requests`` returns how many calls there were, by method and path; ``DELETE`` begins at 0 again.

    The middleware must be the outermost application: to drop a connection, it returns a value to uvicorn.

    :param app: the application that the middleware wraps.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> str | None:
        """
        Handle one call.

        :returns: None, or a text to drop the connection: uvicorn then closes the connection and logs an error.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == CONTROL_PATH:
            await (await self._control(Request(scope, receive)))(scope, receive, send)
        elif scope["path"] == COUNTS_PATH:
            await self._tell_counts(scope["method"])(scope, receive, send)
        elif scope["path"].startswith(CONTROL_PREFIX):
            await self._app(scope, receive, send)
        else:
            with self._lock:
                self._counts[f"{scope['method']} {_ID.sub('{id}', scope['path'])}"] += 1
            return await self._call(scope, receive, send)
        return None

    def _tell_counts(self, method: str) -> Response:
        with self._lock:
            if method == "DELETE":
                self._counts.clear()
                return Response(status_code=204)
            return JSONResponse(dict(self._counts))

    async def _control(self, request: Request) -> Response:
        if request.method == "POST":
            try:
                fault = Fault(**await request.json())
            except (TypeError, ValueError) as error:
                return JSONResponse({"message": str(error)}, 422)
            with self._lock:
                self._faults.append(fault)
            return JSONResponse(fault.describe(), 201)
        if request.method == "DELETE":
            with self._lock:
                self._faults.clear()
            return Response(status_code=204)
        if request.method == "GET":
            with self._lock:
                return JSONResponse([fault.describe() for fault in self._faults])
        return Response(status_code=405, headers={"Allow": "GET, POST, DELETE"})

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> str | None:
        if not self._faults:
            await self._app(scope, receive, send)
            return None
        body = await Request(scope, receive).body()
        query = scope["query_string"].decode()
        action = self._take(scope["method"], scope["path"], query, body.decode(errors="replace"))
        return await carry_out(action, self._app, scope, replay(body, receive), send)

    def _take(self, method: str, path: str, query: str, body: str) -> dict[str, Any]:
        """Return the action for a call, and update the counts of its fault; an empty dict if no fault applies."""
        with self._lock:
            for fault in self._faults:
                if fault.times <= 0 or not fault.matches(method, path, query, body):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                fault.hits += 1
                return fault.action
        return {}


async def carry_out(action: dict[str, Any], app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> str | None:
    """
    Apply a fault's action to one call.

    :param action: see :class:`Fault`; with an empty dict, the call goes to the application unchanged.
    :returns: see :meth:`FaultInjection.__call__`.
    """
    if "status" in action:
        await JSONResponse(action.get("json", {}), action["status"], action.get("headers"))(scope, receive, send)
    elif "drop" in action:
        if action["drop"] == "after":
            await app(scope, receive, _swallow)
        return "connection dropped by fault injection"
    else:
        await asyncio.sleep(action.get("delay", 0))
        await app(scope, receive, send)
    return None


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that delivers a body again that was already read."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _swallow(message: Message) -> None:
    """Drop the answer."""
