"""Ends a statement early: after its timeout, or when it is cancelled."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import duckdb

from emulators.snowflake.errors import SqlError

DEFAULT_STATEMENT_TIMEOUT = 600.0
"""Seconds after which a statement is cancelled. They include its wait for a lock."""


class Stop:
    """
    Whether a statement must end early, and why.

    :param timeout: seconds after which the statement is ended.
    """

    def __init__(self, timeout: float = DEFAULT_STATEMENT_TIMEOUT) -> None:
        self.timeout = timeout
        self.deadline = time.monotonic() + timeout
        self.cancelled = threading.Event()

    def remaining(self) -> float:
        """Seconds until the timeout, at least 0."""
        return max(0.0, self.deadline - time.monotonic())

    def error(self) -> SqlError | None:
        """Return the error that the statement must end with now; None if it may go on."""
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
        """Interrupt the query that ``duck_conn`` runs as soon as the statement must end."""
        done = threading.Event()

        def interrupt() -> None:
            # Repeat the interrupt: between two queries of the same statement, DuckDB would ignore it.
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
