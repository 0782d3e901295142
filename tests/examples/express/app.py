"""The Express example as a process, and calls to it."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue

import httpx

from tests.examples.backend.clients import node

START_SECONDS = 30
OWN_PAGE = {"Sec-Fetch-Site": "same-origin"}


class App:
    """A running app: its address, and the lines that it has written."""

    def __init__(self, url: str, lines: Queue[str]) -> None:
        self.url = url
        self._lines = lines
        self._http = httpx.Client(base_url=url, timeout=30)

    def get(self, path: str, **options: object) -> httpx.Response:
        return self._http.get(path, **options)  # type: ignore[arg-type]

    def post(self, path: str, **options: object) -> httpx.Response:
        """Send what its own page sends."""
        return self._http.post(path, **{"headers": OWN_PAGE, **options})  # type: ignore[arg-type]

    def line_with(self, words: str, seconds: float = 30) -> str:
        """Wait for a line with these words; drop those before it."""
        while words not in (line := self._lines.get(timeout=seconds)):
            pass
        return line

    def lines(self) -> list[str]:
        """Return the lines that were not waited for."""
        found = []
        try:
            while True:
                found.append(self._lines.get_nowait())
        except Empty:
            return found


@contextmanager
def running(folder: Path, **environment: str) -> Iterator[App]:
    """Start a copy of the example on a free port; end it afterwards."""
    process = subprocess.Popen(
        [node(), "app.mjs"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PORT": "0", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: Queue[str] = Queue()

    def read() -> None:
        assert process.stdout
        for line in process.stdout:
            lines.put(line.rstrip())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        first = lines.get(timeout=START_SECONDS)
        address = re.search(r"http://127\.0\.0\.1:\d+", first)
        assert address, first
        yield App(address[0], lines)
    finally:
        process.terminate()
        process.wait(10)
        reader.join(10)
        assert process.stdout
        process.stdout.close()
