"""The two clients of examples/ behind the same words, so that they pass the same tests."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import traceback
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import pytest

PROJECT = Path(__file__).resolve().parents[3]
PYTHON_CLIENT = PROJECT / "examples" / "backend" / "airflow_client.py"
NODE_CLIENT = PROJECT / "examples" / "express" / "sync.mjs"
DRIVER = Path(__file__).with_name("drive_client.mjs")
LANGUAGES = ("python", "node")
ANSWER_SECONDS = 120


class ClientError(Exception):
    """A client raised one of its own errors."""

    def __init__(self, type_: str, message: str, shown: str) -> None:
        super().__init__(f"{type_}: {message}")
        self.type = type_
        self.message = message
        self.shown = shown
        """All that a log would show of the error."""


class Client(Protocol):
    """
    A client, called by name: ``call("start", "shared_forecasts", run_id="x")``.

    Syncs are dicts with the names of the Python client.
    """

    def begin(self, name: str, *args: Any, **kwargs: Any) -> Future[Any]: ...

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any: ...

    def shown(self) -> str:
        """What a debugger or a log shows of the client."""

    def close(self) -> None: ...


def open_client(language: str, url: str, user: str, password: str, **options: Any) -> Client:
    if language == "python":
        return PythonClient(url, user, password, options)
    return NodeClient(url, user, password, options)


class PythonClient:
    """The Python client, on an event loop in a thread."""

    def __init__(self, url: str, user: str, password: str, options: dict[str, Any]) -> None:
        self._module = load_python_client()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = self._module.AirflowClient(url, user, password, **options)

    def begin(self, name: str, *args: Any, **kwargs: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(self._carry_out(name, args, kwargs), self._loop)

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self.begin(name, *args, **kwargs).result(ANSWER_SECONDS)

    def shown(self) -> str:
        return f"{self._client!r} {self._client}"

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._client.__aexit__(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _carry_out(self, name: str, args: Any, kwargs: Any) -> Any:
        try:
            if name == "follow":
                return [self._plain(sync) async for sync in self._client.follow(*args, **kwargs)]
            return self._plain(await getattr(self._client, name)(*args, **kwargs))
        except self._module.SyncError as error:
            shown = "".join(traceback.format_exception(error)) + repr(error)
            raise ClientError(type(error).__name__, str(error), shown) from None

    def _plain(self, value: Any) -> Any:
        if not isinstance(value, self._module.Sync):
            return value
        sync = dataclasses.asdict(value)
        sync |= {name: getattr(value, name) for name in ("finished", "complete", "cancelled_by")}
        if value.failure:
            sync["failure"]["sentence"] = value.failure.sentence
        return sync


class NodeClient:
    """The Node.js client, in a process that takes calls as lines of JSON."""

    def __init__(self, url: str, user: str, password: str, options: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [node(), str(DRIVER), url, user, password, json.dumps(_camel_case(options))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._waiting: dict[int, Future[Any]] = {}
        self._ids = itertools.count()
        threading.Thread(target=self._read, daemon=True).start()

    def begin(self, name: str, *args: Any, **kwargs: Any) -> Future[Any]:
        options = [_camel_case(kwargs)] if kwargs else []
        number = next(self._ids)
        # Its own name for it: the answer may come, and take it out, before the last line.
        answer: Future[Any] = Future()
        self._waiting[number] = answer
        assert self._process.stdin
        self._process.stdin.write(
            json.dumps({"id": number, "call": _in_camel_case(name), "args": [*args, *options]}) + "\n"
        )
        self._process.stdin.flush()
        return answer

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self.begin(name, *args, **kwargs).result(ANSWER_SECONDS)

    def shown(self) -> str:
        return str(self.call("inspect"))

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            answer = json.loads(line)
            future = self._waiting.pop(answer["id"])
            if error := answer.get("error"):
                future.set_exception(ClientError(error["type"], error["message"], error["shown"]))
            else:
                future.set_result(_with_pythons_names(answer["value"]))


def load_python_client() -> ModuleType:
    """Load the file as a backend does that has copied it."""
    spec = importlib.util.spec_from_file_location("copied_airflow_client", PYTHON_CLIENT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def node() -> str:
    """Return the path of Node.js; skip the test where there is none, but never in CI."""
    path = shutil.which("node")
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no Node.js on this machine")
    return str(path)


def _with_pythons_names(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_pythons_names(one) for one in value]
    if not isinstance(value, dict) or "runId" not in value:
        return value
    sync = {re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", key): one for key, one in value.items()}
    for part in (sync, *sync["steps"]):
        part |= {name: part[name] and datetime.fromisoformat(part[name]) for name in ("started", "ended")}
    sync["steps"] = tuple(sync["steps"])
    return sync


def _camel_case(options: dict[str, Any]) -> dict[str, Any]:
    return {_in_camel_case(name): value for name, value in options.items()}


def _in_camel_case(name: str) -> str:
    return re.sub("_([a-z])", lambda found: found[1].upper(), name)
