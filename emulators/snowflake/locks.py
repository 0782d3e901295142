"""Locks on tables: which statement waits for which transaction, and for how long."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum

from emulators.snowflake.errors import SqlError
from emulators.snowflake.names import ObjectName
from emulators.snowflake.stop import Stop

CATALOGUE: ObjectName = ("", "", "")
"""The name of the lock on the account's objects: only one statement at a time changes them."""


class Mode(Enum):
    """The mode in which a statement locks a table."""

    INSERTS = "writes new partitions only"
    CHANGES = "UPDATE, DELETE, MERGE, TRUNCATE, INSERT OVERWRITE"
    REDEFINES = "DDL"

    def waits_for(self, held: Mode) -> bool:
        """Return whether a request for this mode waits for a lock held in the other mode."""
        # Snowflake says that most INSERT and COPY statements wait for no other, and advises against concurrent DDL.
        return Mode.REDEFINES in (self, held) or (self, held) == (Mode.CHANGES, Mode.CHANGES)


@dataclass
class _Held:
    mode: Mode
    statement: str
    since: int


class Locks:
    """Who holds which lock, and how often each table has changed. A lock is held until its transaction ends."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._held: dict[ObjectName, dict[Hashable, _Held]] = {}
        self._waits: dict[Hashable, tuple[ObjectName, Mode]] = {}
        self._versions: Counter[ObjectName] = Counter()

    def acquire(self, owner: Hashable, table: ObjectName, mode: Mode, statement: str, stop: Stop) -> None:
        """
        Wait until ``owner`` holds the lock on a table. It may hold the lock already.

        :param owner: the session.
        :param statement: the handle of its statement.

        :raises SqlError: if the statement is cancelled, reaches its timeout, or closes a deadlock.
        """
        with self._condition:
            try:
                while blockers := self._blockers(owner, table, mode):
                    stop.check()
                    self._waits[owner] = table, mode
                    if self._is_deadlock(owner):
                        raise _part_of_a_deadlock(statement, table, blockers)
                    self._condition.wait(0.02)
            finally:
                self._waits.pop(owner, None)
            holders = self._held.setdefault(table, {})
            before = holders.get(owner)
            if before is None or mode.waits_for(Mode.CHANGES):
                holders[owner] = _Held(mode, statement, time.time_ns())

    def is_waiting(self, owner: Hashable) -> bool:
        """Return whether a statement of the session waits for a lock."""
        with self._condition:
            return owner in self._waits

    def release(self, owner: Hashable, *, committed: bool) -> None:
        """
        Release all locks of a session.

        :param committed: whether its transaction was committed.
        """
        with self._condition:
            for table in [table for table, holders in self._held.items() if holders.pop(owner, None)]:
                if committed:
                    self._versions[table] += 1
                if not self._held[table]:
                    del self._held[table]
            self._condition.notify_all()

    def versions(self) -> Counter[ObjectName]:
        """Return how many committed transactions have changed each table."""
        with self._condition:
            return self._versions.copy()

    def held_by(self, owner: Hashable) -> set[ObjectName]:
        """Return the tables that a session has locked: those that its transaction has written to, or is about to."""
        with self._condition:
            return {table for table, holders in self._held.items() if owner in holders}

    def _blockers(self, owner: Hashable, table: ObjectName, mode: Mode) -> dict[Hashable, _Held]:
        holders = self._held.get(table, {})
        return {other: held for other, held in holders.items() if other is not owner and mode.waits_for(held.mode)}

    def _is_deadlock(self, owner: Hashable) -> bool:
        """Return whether a session that this session waits for waits for this session, directly or through others."""
        seen: set[Hashable] = set()
        pending = [owner]
        while pending:
            waiting = pending.pop()
            if waiting in self._waits and waiting not in seen:
                seen.add(waiting)
                # Compute the blockers now: a session whose lock has become free may not have woken up yet.
                pending += self._blockers(waiting, *self._waits[waiting])
                if owner in pending:
                    return True
        return False


def _part_of_a_deadlock(statement: str, table: ObjectName, blockers: dict[Hashable, _Held]) -> SqlError:
    held = next(iter(blockers.values()))
    return SqlError(
        625,
        "57014",
        f"Statement '{held.statement}' has locked table '{table[-1]}' in transaction {held.since} and this lock has "
        f"not yet been released.\nYour statement '{statement}' was aborted because it is part of a deadlock.",
    )
