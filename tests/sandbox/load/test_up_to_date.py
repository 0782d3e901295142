"""Nothing new at the source: the sync says so exactly when the target has what the source has, whatever happened."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest

from data_share.snowflake.publish import SupersededError
from tests.sandbox.load.delta_source import Source
from tests.sandbox.load.driver import Fault, ProcessDiedError, Row, Run, Share

pytestmark = [pytest.mark.sandbox, pytest.mark.tier("full")]

WHERE = "name <> 'hidden'"


# A write of the same rows is a write: nobody knows that without comparing them.
CHANGES = ("insert", "update", "delete", "overwrite", "restore", "make_again", "write_the_same")
NO_CHANGES = ("optimize", "vacuum", "set_property", "leave", "leave")
EVENTS = (
    *("sync", "sync", "sync", "full refresh", "dry run", "another file", "reload"),
    *("dies while it copies", "dies while it publishes", "an old publish is cleared"),
)


class History:
    """
    A dataset, what happens to it, and a model in plain Python of what a sync has to find.

    :param share: the emulators
    :param chance: decides what happens
    """

    def __init__(self, share: Share, chance: random.Random) -> None:
        self.share, self.chance = share, chance
        # A table that is made again may have one row, and that one hidden.
        self.dataset = share.dataset(allow_empty=True)
        share.remember(self.dataset)
        self.source = Source(share, self.dataset)
        self.source.insert()
        self.runs: list[tuple[Run, list[Row]]] = []  # those that have published, with the rows
        self.has_changed = True
        self.published_where: str | bool | None = False  # False: everything has to be exported
        self.seen: list[str] = []

    def rows(self) -> list[Row]:
        rows = self.source.rows()
        return [row for row in rows if row["name"] != "hidden"] if self.dataset.source.where else rows

    def happen(self) -> None:
        """Let something happen to the source and to the dataset, and compare with the model."""
        for _ in range(self.chance.choice([0, 1, 1, 2])):
            operation = self.chance.choice(self.chance.choice([CHANGES, NO_CHANGES]))
            self.has_changed = self.has_changed or operation in CHANGES
            self.seen.append(operation)
            getattr(self.source, operation)()
        event = self.chance.choice(EVENTS)
        self.seen.append(event)
        getattr(self, event.replace(" ", "_"))()

    @property
    def has_nothing_new(self) -> bool:
        return not self.has_changed and self.published_where == self.dataset.source.where

    def expect(self, run: Run, is_unchanged: bool) -> None:
        """Hold the end of a sync against the model: what it says, and what the target has."""
        assert (run.ledger_row.get("unchanged", False), run.states["copy_into_staging"] == "skipped") == (
            is_unchanged,
            is_unchanged,
        ), self.seen
        assert self.share.target(self.dataset) == self.rows(), self.seen
        assert run.ledger_row["source_version"] is not None
        if not is_unchanged:
            assert run.ledger_row["source_version"] == self.source.table.version(), self.seen
            assert run.ledger_row["source_rows"] == len(self.rows()), self.seen
            self.runs.append((run, self.rows()))
            self.has_changed, self.published_where = False, self.dataset.source.where
        else:
            assert len(run.asset_events) == 0, self.seen

    def sync(self, **params: Any) -> None:
        is_unchanged = self.has_nothing_new and not params
        self.expect(self.share.sync(self.dataset, **params), is_unchanged)

    def full_refresh(self) -> None:
        self.sync(full_refresh=True)

    def dry_run(self) -> None:
        before = self.share.everything(self.dataset)
        run = self.share.sync(self.dataset, dry_run=True)
        assert run.ledger_row.get("unchanged", False) == self.has_nothing_new, self.seen
        assert self.share.everything(self.dataset) == before

    def another_file(self) -> None:
        where = None if self.dataset.source.where else WHERE
        self.dataset = self.share.edit(self.dataset, source={"where": where} if where else {})
        self.sync()

    def reload(self) -> None:
        if not self.runs:
            return
        earlier, rows = self.chance.choice(self.runs)
        run = self.share.sync(self.dataset, reload_run_key=earlier.key)
        assert self.share.target(self.dataset) == rows, self.seen
        self.runs.append((run, rows))
        self.published_where = False

    def dies_while_it_copies(self) -> None:
        run = self.share.run(self.dataset)
        self.share.export(self.dataset, run)
        self.die(run, "copy_into_staging")

    def dies_while_it_publishes(self) -> None:
        run = self.share.run(self.dataset)
        self.share.export(self.dataset, run)
        for task_id in ("copy_into_staging", "check_staging"):
            if run.states.get("copy_into_staging") != "skipped":
                self.share.step(run, task_id)
        if run.states["copy_into_staging"] != "skipped" and self.die(run, "publish"):
            self.published_where = False

    def die(self, run: Run, task_id: str) -> bool:
        """Let the process of a step die at one of its calls; return whether it had so many."""
        fault = Fault(self.chance.randrange(6), self.chance.choice(["dead", "answer dead"]))
        try:
            self.share.step(run, task_id, fault)
        except ProcessDiedError:
            return True
        if task_id == "publish":
            self.expect(run, is_unchanged=False)
        return False

    def an_old_publish_is_cleared(self) -> None:
        if len(self.runs) < 2:
            return
        run, _ = self.chance.choice(self.runs[:-1])
        before = self.share.target(self.dataset)
        run.clear("publish", "finish_sync")
        # Some are refused, as something newer is published.
        with contextlib.suppress(SupersededError):
            self.share.step(run, "publish")
        assert self.share.target(self.dataset) == before
        self.published_where = False


@pytest.mark.parametrize(
    ("number", "events"),
    [(0, 6), *(pytest.param(number, 12, marks=pytest.mark.tier("nightly")) for number in range(1, 40))],
)
def test_up_to_date_means_equal_whatever_has_happened(a_share: Share, number: int, events: int) -> None:
    history = History(a_share, random.Random(number))
    for _ in range(events):
        history.happen()
    history.sync()
    # Once more: now it has to be up to date, without a request to Snowflake.
    run = a_share.run(history.dataset)
    with a_share.wire.faulty(None):
        a_share.export(history.dataset, run)
        assert a_share.wire.calls == 0
    for task_id in ("copy_into_staging", "publish", "finish_sync"):
        a_share.step(run, task_id)
        assert a_share.wire.calls == 0, task_id
    history.expect(run, is_unchanged=True)


def test_a_source_that_is_the_first_one_again_is_not_up_to_date_by_what_was_published_from_it(a_share: Share) -> None:
    first = a_share.dataset()
    a_share.remember(first)
    source = Source(a_share, first)
    source.insert()
    a_share.sync(first)
    second = a_share.edit(first, source_table=f"{first.source_table}_copy")
    Source(a_share, second).write([{"k": 70, "name": "copied", "amount": 0.5}], "append")
    a_share.sync(second)
    assert [row["k"] for row in a_share.target(second)] == [70]
    # Nothing is new at the first source, but the target has the rows of the second one.
    first = a_share.edit(second, source_table=first.source_table)
    row = a_share.sync(first).ledger_row
    assert row.get("export_reason") == "the dataset file has changed since the last publish"
    assert a_share.target(first) == source.rows()
