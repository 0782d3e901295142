"""Whatever is synced, and whatever goes wrong on the way: the target is what a model in plain Python says."""

from __future__ import annotations

import contextlib
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from data_share.datasets import Dataset, LoadMode
from data_share.outcome.report import NotPublishedError
from tests.sandbox.load.driver import STEPS, Fault, ProcessDiedError, Row, Run, Share

pytestmark = pytest.mark.sandbox

KINDS: list[dict[str, Any]] = [
    {"load_mode": "replace"},
    {"load_mode": "append"},
    {"load_mode": "merge", "merge_keys": ("k",)},
    {"load_mode": "merge", "merge_keys": ("k",), "delete_missing": True},
]
COUNTS = ("rows_exported", "rows_loaded", "rows_inserted", "rows_updated", "rows_deleted", "rows_in_target")
# A statement is two calls: one starts it, one takes its answer.
CALLS = {"copy_into_staging": 20, "check_staging": 4, "publish": 6}

NAMES = [None, "", "Ålesund", "東京", "O'Brien", "back\\slash", "two\nlines", "🌧", "NULL", "; DROP TABLE x"]
AMOUNTS = [None, 0.0, -1.5, 1e300]


Changes = dict[int, tuple[Any, Any] | None]
"""By key: a new row's other values, or None to delete the row."""


@dataclass(frozen=True)
class Trouble:
    """What goes wrong in a sync, and what is done about it."""

    task_id: str
    fault: Fault
    then: Literal["retry the task", "sync again", "give up"]


@dataclass(frozen=True)
class Round:
    """The source changes, then it is synced; `late_changes` come between the export and another one."""

    changes: Changes
    full_refresh: bool
    trouble: Trouble | None
    late_changes: Changes


values = st.tuples(st.sampled_from(NAMES), st.sampled_from(AMOUNTS))
changes = st.dictionaries(st.integers(0, 4), st.none() | values | values, max_size=4)
faults = st.sampled_from(STEPS).flatmap(
    lambda task_id: st.builds(
        Trouble,
        task_id=st.just(task_id),
        fault=st.builds(
            Fault,
            call=st.integers(0, CALLS[task_id] - 1),
            kind=st.sampled_from(["lost", "answer lost", "dead", "answer dead", "answer dead"]),
        ),
        then=st.sampled_from(["retry the task", "sync again", "give up"]),
    )
)
rounds = st.builds(
    Round,
    changes=changes,
    full_refresh=st.sampled_from([False, False, False, True]),
    trouble=st.none() | faults | faults,
    late_changes=st.just({}) | changes,
)
rows = st.dictionaries(st.integers(0, 4), values, max_size=3)


class Model:
    """
    A source, a target and its ledger, in plain Python.

    :param dataset: says how a sync changes the target
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.source: dict[int, Row] = {}
        self.exported: list[Row] = []
        self.target: list[Row] = []
        self.ledger: dict[str, dict[str, Any]] = {}

    def change(self, changes: Changes) -> None:
        """Insert, update and delete rows of the source."""
        for key, row in changes.items():
            if row is None:
                self.source.pop(key, None)
            else:
                self.source[key] = {"k": key, "name": row[0], "amount": row[1]}

    def export(self) -> None:
        """Take the source as it is now."""
        self.exported = [dict(row) for row in self.source.values()]

    def published(self, run: Run) -> tuple[list[Row], dict[str, dict[str, Any]]]:
        """Return target and ledger as they are after the exported rows are published."""
        mode = LoadMode.REPLACE if run.params["full_refresh"] else self.dataset.load_mode
        earlier = self.ledger.get(run.key)
        if earlier and (mode is LoadMode.APPEND or earlier["export_path"] == run.export_path):
            return self.target, self.ledger
        known = {row["k"] for row in self.target}
        exported = {row["k"] for row in self.exported}
        inserted, updated, deleted = len(exported), 0, 0
        if mode is LoadMode.APPEND:
            target = self.target + self.exported
        elif mode is LoadMode.REPLACE:
            target, deleted = self.exported, len(self.target)
        else:
            inserted -= len(known & exported)
            # A row that is as it was is not updated.
            updated = sum(1 for row in self.exported if row["k"] in known and row not in self.target)
            kept = [] if self.dataset.delete_missing else [row for row in self.target if row["k"] not in exported]
            deleted = len(known - exported) if self.dataset.delete_missing else 0
            target = kept + self.exported
        counts = (len(exported), len(exported), inserted, updated, deleted, len(target))
        row = {"load_mode": mode, "export_path": run.export_path, **dict(zip(COUNTS, counts, strict=True))}
        return target, {**self.ledger, run.key: row}


def in_order(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: [(value is not None, value) for value in row.values()])


def found(share: Share, dataset: Dataset) -> tuple[list[Row], dict[str, dict[str, Any]]]:
    """Return target and ledger as Snowflake has them; fails for a run key that is there twice."""
    rows = share.ledger(dataset)
    ledger = {
        row["RUN_KEY"]: {name: row[name.upper()] for name in ("load_mode", "export_path", *COUNTS)} for row in rows
    }
    assert len(ledger) == len(rows), "a run key counts once"
    return in_order(share.target(dataset)), ledger


def play(share: Share, model: Model, one: Round) -> None:
    """Play one round on the share and on the model, and compare them."""
    dataset, trouble = model.dataset, one.trouble
    run = share.run(dataset, full_refresh=one.full_refresh)
    changes: Changes | None = one.changes
    tasks: list[str] = []
    while tasks or changes is not None:
        if changes is not None:
            model.change(changes)
            model.export()
            share.put_export(dataset, run, model.exported)
            tasks, changes = list(STEPS), None
        here = trouble if trouble and trouble.task_id == tasks[0] else None
        try:
            share.step(run, tasks[0], here.fault if here else None)
        except ProcessDiedError:
            assert here is not None
            after = model.published(run)
            state = found(share, dataset)
            if tasks[0] == "publish" and state == (in_order(after[0]), after[1]):
                model.target, model.ledger = after
            # Never between: as before the sync, or as after all of it.
            assert state == (in_order(model.target), model.ledger)
            if here.then != "retry the task":
                tasks = []
            if here.then == "sync again":
                changes = one.late_changes
        else:
            if tasks[0] == "publish":
                model.target, model.ledger = model.published(run)
                assert run.ledger_row["run_key"] == run.key
            tasks.pop(0)
        trouble = None if here else trouble
    with contextlib.suppress(NotPublishedError):  # a sync that was given up
        share.step(run, "finish_sync")
    assert found(share, dataset) == (in_order(model.target), model.ledger)


# Two hundred sequences meet the rare ones; each kind has its share of them.
@pytest.mark.parametrize("sequences", [16, pytest.param(200, marks=pytest.mark.tier("nightly"))])
def test_the_target_is_what_the_model_says(a_share: Share, sequences: int) -> None:
    played = dict.fromkeys(range(len(KINDS)), 0)
    sequences_per_kind = math.ceil(sequences / len(KINDS))

    def kind(number: int) -> None:
        @seed(number)
        @settings(
            max_examples=sequences_per_kind, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(rows, st.lists(rounds, min_size=1, max_size=2))
        def holds(begin: dict[int, tuple[Any, Any]], sequence: list[Round]) -> None:
            model = Model(a_share.dataset(allow_empty=True, **KINDS[number]))
            model.target = [{"k": key, "name": name, "amount": amount} for key, (name, amount) in begin.items()]
            a_share.insert(model.dataset, model.target)
            for one in sequence:
                play(a_share, model, one)
            played[number] += 1

        holds()

    # A sync waits for the emulators most of the time. The kinds do not meet: each sequence has a dataset of its own.
    with ThreadPoolExecutor(len(KINDS)) as threads:
        for future in [threads.submit(kind, number) for number in played]:
            future.result()
    assert all(count >= sequences_per_kind for count in played.values())
