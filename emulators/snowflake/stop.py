"""How a statement ends early: its timeout, or a cancel."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import duckdb

from emulators.snowflake.errors import SqlError

DEFAULT_STATEMENT_TIMEOUT = 600.0
"""Seconds after which a statement is cancelled, its wait for a lock included."""


class Stop:
    """
    The wish to end a statement early, and its reason.

    :param timeout: seconds until the statement is ended by itself.
    """

    def __init__(self, timeout: float = DEFAULT_STATEMENT_TIMEOUT) -> None:
        self.timeout = timeout
        self.deadline = time.monotonic() + timeout
        self.cancelled = threading.Event()

    def remaining(self) -> float:
        """Seconds until the timeout, at least 0."""
        return max(0.0, self.deadline - time.monotonic())

    def error(self) -> SqlError | None:
        """The error that the statement must end with now, or None if it may go on."""
        if self.cancelled.is_set():
            return SqlError(604, "57014", "SQL execution canceled")
        if self.remaining() == 0:
            return SqlError(
                630,
                "57014",
                f"Statement reached its statement or warehouse timeout of {self.timeout:g} second(s) and was canceled.",
            )
        return None

    def check(self) -> None:
        """Raise :meth:`error` if there is one."""
        if error := self.error():
            raise error

    @contextlib.contextmanager
    def watch(self, duck_conn: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Interrupt what ``duck_conn`` runs as soon as the statement must end."""
        done = threading.Event()

        def interrupt() -> None:
            # Again and again: an interrupt between two of the queries that a statement becomes would be lost.
            while not done.wait(0.02):
                if self.error():
                    duck_conn.interrupt()

        watcher = threading.Thread(target=interrupt, name="statement-watch", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
