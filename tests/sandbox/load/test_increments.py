"""
Increments: after each sync, the target is what the source is, whatever happened before; and the mode is as expected.

A model in plain Python says what a sync has to find. It reads the versions and the feed by deltalake, not by the
emulator.
"""

from __future__ import annotations

import contextlib
import copy
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from deltalake import Field
from deltalake.schema import PrimitiveType

from data_share.datasets import Dataset
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError
from tests.sandbox.load.delta_source import Source
from tests.sandbox.load.driver import SCHEMA, Fault, ProcessDiedError, Row, Run, Share

pytestmark = [pytest.mark.sandbox, pytest.mark.tier("full")]
NIGHTLY = pytest.mark.tier("nightly")

WHERE = "name <> 'hidden'"

INSERTS = ("insert", "insert", "insert", "insert_many")
CHANGES = (
    *("insert", "update", "delete", "change_keys", "swap_keys", "hide", "merge", "write_nearly_the_same"),
    *("write_the_same", "overwrite", "restore", "make_again", "add_column", "insert_many"),
)
OTHERS = ("optimize", "vacuum", "set_property", "feed_on", "feed_off", "leave", "leave", "leave", "leave")
EVENTS = (
    *(
        "sync",
        "sync",
        "sync",
        "sync",
        "sync",
        "sync",
        "full_refresh",
        "dry_run",
        "other_checks",
        "other_rows",
        "reload",
    ),
    *("dies_while_it_copies", "dies_while_it_publishes", "exports_again", "is_cleared", "loses_rows"),
)


def frozen(rows: list[Row]) -> Counter[tuple[Any, ...]]:
    return Counter(tuple(sorted(row.items())) for row in rows)


def filled(rows: list[Row]) -> list[Row]:
    """Rows without what is NULL: a target may have columns that its source has lost."""
    return sorted(
        ({name: value for name, value in row.items() if value is not None} for row in rows), key=lambda row: row["k"]
    )


class History:
    """
    A dataset, what happens to it, and the model.

    :param share: the emulators
    :param chance: decides what happens
    :param fields: fields of the dataset file
    """

    def __init__(self, share: Share, chance: random.Random, **fields: Any) -> None:
        self.share, self.chance = share, chance
        merges = {"load_mode": "merge", "merge_keys": ["k"], "allow_empty": True}
        self.dataset = share.dataset(
            **{"incremental": True, "schema_drift": "add_new", "create_table": "from_source", **merges, **fields}
        )
        share.remember(self.dataset)
        self.source = Source(share, self.dataset)
        self.source.write([self.source.new_row() for _ in range(24)], "append")
        self.expected: list[Row] = []
        self.published: int | None = None  # the version of the last publish; None if everything has to be exported
        self.had_feed = False  # whether Airflow knows that the feed is on
        self.has_failed = False
        self.is_damaged = False
        self.runs: list[Run] = []
        self.seen: list[str] = []

    @property
    def version(self) -> int:
        return int(self.source.table.version())

    def chosen(self) -> list[Row]:
        rows = self.source.rows()
        return [row for row in rows if row["name"] != "hidden"] if self.dataset.source.where else rows

    def target(self) -> list[Row]:
        return self.share.target(self.dataset, order="k")

    # ---- the model

    def _feed(self) -> tuple[int, int | None]:
        """The last version that may have turned the feed off, and the first after it that shows that it is on."""
        off, on = -1, None
        for version, actions in self.source.commits().items():
            [info] = [action["commitInfo"] for action in actions if "commitInfo" in action]
            text = str(info.get("operationParameters")).lower().replace(" ", "")
            tells_on = (
                "delta.enablechangedatafeed" in text and "true" in text.split("delta.enablechangedatafeed")[1][:9]
            )
            keeps = info["operation"] in (
                *("WRITE", "DELETE", "UPDATE", "MERGE", "OPTIMIZE", "VACUUM START", "VACUUM END", "ADD COLUMN"),
                *("SET TBLPROPERTIES", "UPDATE TABLE METADATA"),
            )
            is_first = version == 0
            if tells_on or any("cdc" in action for action in actions):
                on = on if on is not None else version
            elif "delta.enablechangedatafeed" in text or not keeps or is_first:
                off, on = version, None
        return off, on

    def expect_mode(self) -> str:
        """The mode of the next export."""
        if self.published is None:
            return "full"
        commits = self.source.commits(self.published + 1)
        names = [
            action["commitInfo"]["operation"]
            for actions in commits.values()
            for action in actions
            if "commitInfo" in action
        ]
        if not set(names) - {"OPTIMIZE", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES"}:
            return "nothing"
        if self.has_failed and not self.dataset.only_appends_increments:
            return "full"
        if "ADD COLUMN" in names or "VACUUM START" in names:
            return "full"
        now = self.source.rows()
        others = 0
        off, on = self._feed()
        if (self.had_feed and off <= self.published) or (on is not None and on <= self.published + 1):
            feed = pa.table(self.source.table.load_cdf(self.published + 1, self.version).read_all())
            kinds = Counter(feed["_change_type"].to_pylist())
            others = sum(count for kind, count in kinds.items() if kind != "insert")
            count = sum(count for kind, count in kinds.items() if kind != "update_preimage")
            if count == 0:
                return "nothing"
            if others == 0 if self.dataset.only_appends_increments else 3 * count <= len(now):
                return "feed"
        before, after = frozen(self.source.rows(self.published)), frozen(now)
        changed, gone = (after - before).total(), (before - after).total()
        if not changed and not gone:
            return "nothing"
        if self.dataset.only_appends_increments:
            return "full" if gone else "compare"
        return "compare" if 3 * max(changed, gone) <= len(now) else "full"

    def ended(self, run: Run, mode: str) -> None:
        """Hold the end of a sync against the model."""
        row = run.ledger_row
        assert ("nothing" if row.get("unchanged") else row["export_mode"]) == mode, self.seen
        if mode != "nothing":
            self.put(replaces=bool(run.params["full_refresh"]))
            self.published, self.has_failed, self.is_damaged = self.version, False, False
            self.had_feed = self._feed()[1] is not None
            assert row["source_version"] == self.version
            assert row["source_rows"] == len(self.chosen())
            self.runs.append(run)
        else:
            self.has_failed = False
        if not self.is_damaged:
            assert filled(self.target()) == filled(self.expected), self.seen

    def put(self, *, replaces: bool = False) -> None:
        """What a publish makes of the target, in any mode."""
        rows = self.chosen()
        if self.dataset.delete_missing or replaces or self.dataset.only_appends_increments:
            self.expected = rows
        else:
            known = {row["k"]: row for row in self.expected} | {row["k"]: row for row in rows}
            self.expected = list(known.values())

    # ---- events

    def happen(self) -> None:
        operations = INSERTS if self.dataset.only_appends_increments and self.chance.random() < 0.9 else CHANGES
        for _ in range(self.chance.choice([0, 1, 1, 1, 2])):
            operation = self.chance.choice(self.chance.choice([operations, operations, OTHERS]))
            self.seen.append(operation)
            before = self.source.table.version()
            getattr(self.source, operation)()
            if operation == "make_again":
                assert self.source.table.version() == before
                self.published = None
        event = self.chance.choice(EVENTS)
        self.seen.append(event)
        getattr(self, event)()

    def sync(self, **params: Any) -> None:
        mode = "full" if params.get("full_refresh") else self.expect_mode()
        if mode == "full" and self.refuses_all(params):
            self.is_refused()
            return
        run = self.share.run(self.dataset, **params)
        with self.diverged(mode) as refusals:
            self.share.sync(self.dataset, run)
        if not refusals:
            self.ended(run, mode)
        elif self.dataset.only_appends_increments:
            self.sync(full_refresh=True)
        else:
            self.published = None
            self.sync()

    @contextlib.contextmanager
    def diverged(self, mode: str) -> Iterator[list[ShareError]]:
        """Allow an increment to be refused because somebody has deleted rows of the target."""
        refusals: list[ShareError] = []
        try:
            yield refusals
        except ShareError as error:
            refusals.append(error)
        if refusals:
            assert (self.is_damaged, refusals[0].code) == (True, FailureCode.TARGET_DIVERGED), (self.seen, refusals)
            assert mode in ("feed", "compare")

    def refuses_all(self, params: dict[str, Any]) -> bool:
        return self.dataset.only_appends_increments and not params.get("full_refresh") and bool(self.runs)

    def is_refused(self) -> None:
        """An append of all rows is refused; with full_refresh, it replaces them."""
        before = self.target()
        with pytest.raises(ShareError) as caught:
            self.share.sync(self.dataset)
        assert caught.value.code is FailureCode.INCREMENT_IMPOSSIBLE, self.seen
        assert self.target() == before
        self.sync(full_refresh=True)

    def full_refresh(self) -> None:
        self.sync(full_refresh=True)

    def dry_run(self) -> None:
        mode = self.expect_mode()
        if not self.runs or (mode == "full" and self.refuses_all({})):
            return
        before = self.target()
        run = self.share.sync(self.dataset, dry_run=True)
        row = run.ledger_row
        assert row.get("unchanged") or row["export_mode"] == mode, self.seen
        assert self.target() == before
        if row.get("unchanged"):
            self.has_failed = False

    def other_checks(self) -> None:
        """The dataset file changes: a merge exports everything, an append does not depend on checks."""
        self.dataset = self.share.edit(self.dataset, checks={f"check_{len(self.seen)}": "k > 0"})
        if not self.dataset.only_appends_increments:
            self.published = None
        self.sync()

    def other_rows(self) -> None:
        """The dataset file chooses other rows: everything is exported, but an append cannot add all rows again."""
        where = None if self.dataset.source.where else WHERE
        self.dataset = self.share.edit(self.dataset, source={"where": where} if where else {})
        self.published = None
        self.sync()

    def reload(self) -> None:
        if not self.runs or self.dataset.only_appends_increments:
            return
        run = self.chance.choice(self.runs)
        is_increment = run.ledger_row["export_mode"] != "full"
        again = self.share.run(self.dataset, reload_run_key=run.key)
        if is_increment and run is not self.runs[-1]:
            with pytest.raises(ShareError) as caught:
                self.share.steps(again)
            assert caught.value.code is FailureCode.TARGET_DIVERGED
        elif is_increment and not self.is_damaged:
            self.share.steps(again)
            assert filled(self.target()) == filled(self.expected), self.seen
            self.runs[-1] = again
            self.published = None

    def dies_while_it_copies(self) -> None:
        self._dies("copy_into_staging")

    def dies_while_it_publishes(self) -> None:
        self._dies("publish")

    def _dies(self, task_id: str) -> None:
        """Let the process of a step die at one of its calls; the next sync has to repair everything."""
        mode = self.expect_mode()
        if mode == "nothing" or (mode == "full" and self.refuses_all({})) or self.is_damaged:
            return
        run = self.share.run(self.dataset)
        self.share.export(self.dataset, run)
        fault = Fault(self.chance.randrange(6), self.chance.choice(["dead", "answer dead"]))
        for step in ("copy_into_staging", "check_staging", "publish"):
            try:
                self.share.step(run, step, fault if step == task_id else None)
            except ProcessDiedError:
                break
        else:
            self.ended(run, mode)
            return
        if task_id != "publish":
            self.has_failed = True
            return
        if self.chance.random() < 0.5:
            # Airflow tries the step again, which finds out whether it was published.
            self.share.step(run, "publish")
            self.ended(run, mode)
            return
        is_committed = any(row["RUN_KEY"] == run.key for row in self.share.lock(self.dataset))
        if is_committed:
            self.put()
            self.runs.append(run)
            run.xcoms["publish", "return_value"] = {"export_mode": mode}
        if not self.dataset.only_appends_increments or is_committed:
            self.published = None

    def exports_again(self) -> None:
        """The step that exports is cleared, after the source has changed once more: the range overlaps."""
        mode = self.expect_mode()
        if mode == "nothing" or (mode == "full" and self.refuses_all({})) or self.is_damaged:
            return
        run = self.share.staged(self.dataset)
        self.source.insert()
        self.has_failed = True
        mode = self.expect_mode()
        if mode == "full" and self.refuses_all({}):
            return
        run.clear()
        self.share.export(self.dataset, run)
        self.share.steps(run)
        self.ended(run, mode)

    def is_cleared(self) -> None:
        """An old run's publish is cleared: nothing of it may come back."""
        if len(self.runs) < 2:
            return
        run = self.runs[-2]
        before = self.target()
        run.clear("publish", "finish_sync")
        with contextlib.suppress(ShareError):
            self.share.step(run, "publish")
        assert frozen(self.target()) == frozen(before)
        if not self.dataset.only_appends_increments:
            self.published = None

    def loses_rows(self) -> None:
        """Somebody deletes rows of the target."""
        if not self.runs or self.expected == []:
            return
        key = self.chance.choice(self.target() or [{"k": 0}])["k"]
        self.share.query(f"DELETE FROM {self.dataset.target} WHERE k = {key}")
        self.expected = [row for row in self.expected if row["k"] != key]
        self.is_damaged = True


KINDS: dict[str, dict[str, Any]] = {
    "mirrored": {"delete_missing": True},
    "mirrored, some rows": {"delete_missing": True, "source": {"where": WHERE}},
    "kept": {},
    "kept, some rows": {"source": {"where": WHERE}},
    "appended": {"load_mode": "append", "merge_keys": []},
}


# The other kinds follow the same ways.
FIRST_KINDS = ("mirrored, some rows", "appended")


@pytest.mark.parametrize(
    "kind", [*FIRST_KINDS, *(pytest.param(kind, marks=NIGHTLY) for kind in KINDS if kind not in FIRST_KINDS)]
)
@pytest.mark.parametrize(
    ("number", "events"),
    [(0, 8), *(pytest.param(number, 15, marks=NIGHTLY) for number in range(1, 60))],
)
def test_the_target_is_what_the_source_is_whatever_has_happened(
    a_share: Share, kind: str, number: int, events: int
) -> None:
    history = History(a_share, random.Random(f"{kind} {number}"), **KINDS[kind])
    if number % 2:
        history.source.feed_on()
    for _ in range(events):
        history.happen()
    history.sync()


# ---- one by one


def merged(share: Share, **fields: Any) -> tuple[Dataset, Source]:
    """A dataset that was synced once, and its source of 24 rows."""
    of_merge = {"load_mode": "merge", "merge_keys": ["k"], "delete_missing": True}
    dataset = share.dataset(**{"incremental": True, **of_merge, **fields})
    share.remember(dataset)
    source = Source(share, dataset)
    source.write([source.new_row() for _ in range(24)], "append")
    assert share.sync(dataset).ledger_row["export_mode"] == "full"
    return dataset, source


def appended(share: Share, **fields: Any) -> tuple[Dataset, Source]:
    """A dataset whose increments are appended, that was synced once, and its source of 6 rows."""
    dataset = share.dataset(**{"load_mode": "append", "incremental": True, **fields})
    share.remember(dataset)
    source = Source(share, dataset)
    source.write([source.new_row() for _ in range(6)], "append")
    share.sync(dataset)
    return dataset, source


def counts(run: Run) -> tuple[int, int, int]:
    row = run.ledger_row
    return row["rows_inserted"], row["rows_updated"], row["rows_deleted"]


def failure(share: Share, dataset: Dataset, run: Run | None = None, **params: Any) -> ShareError:
    with pytest.raises(ShareError) as caught:
        share.sync(dataset, run, **params)
    return caught.value


def test_changes_are_counted_and_what_is_as_it_was_is_not(a_share: Share) -> None:
    dataset, source = merged(a_share)
    source.insert()
    source.table.update(updates={"amount": "amount + 1"}, predicate="k < 4")
    source.table.delete("k = 5")
    run = a_share.sync(dataset)
    assert (run.ledger_row["export_mode"], counts(run)) == ("compare", (2, 3, 1))
    assert (run.ledger_row["rows_loaded"], run.ledger_row["source_rows"]) == (6, 25)
    # A merge of all rows rewrites only those that differ, in their letters too.
    a_share.query(f"UPDATE {dataset.target} SET name = UPPER(name) WHERE k = 7")
    source.insert()
    run = a_share.sync(a_share.edit(dataset, incremental=False))
    assert (run.ledger_row["export_mode"], counts(run)) == ("full", (2, 1, 0))
    assert a_share.target(dataset) == source.rows()


@pytest.mark.others_nightly
@pytest.mark.parametrize(("version", "table"), [(99, "table_id"), (-1, "table_id"), (None, "another")])
def test_an_increment_is_refused_by_a_target_with_another_version(
    a_share: Share, version: int | None, table: str
) -> None:
    dataset, source = merged(a_share)
    source.update()
    run = a_share.staged(dataset)
    lock = a_share.names.lock_table(dataset.target_table)
    changed = "source_table_id = 'another'" if version is None else f"source_version = {version}"
    a_share.query(f"UPDATE {lock} SET {changed}")
    before = a_share.everything(dataset)
    with pytest.raises(ShareError, match="has what has changed since version 0") as caught:
        a_share.step(run, "publish")
    assert (caught.value.code, a_share.everything(dataset)) == (FailureCode.TARGET_DIVERGED, before)
    # The next sync exports everything, whatever Airflow remembers.
    run = a_share.sync(dataset)
    assert run.ledger_row["export_mode"] == "full"
    assert run.ledger_row["export_reason"] == "it is not certain what the last publish has left"
    assert a_share.target(dataset) == source.rows()


@pytest.mark.others_nightly
@pytest.mark.parametrize("feed", [True, False])
def test_an_increment_is_refused_by_a_target_that_a_forgotten_sync_has_published_to(a_share: Share, feed: bool) -> None:
    dataset, source = merged(a_share, delete_missing=False)
    if feed:
        source.feed_on()
        a_share.sync(dataset, full_refresh=True)
    known = copy.deepcopy(a_share._remembered[dataset.name])
    other = a_share.edit(dataset, source={"where": "k > 9"})
    a_share.sync(other, full_refresh=True)
    a_share._remembered[dataset.name] = known  # Airflow's database of before is restored, and the file with it
    source.update()
    dataset = a_share.edit(other, source={})
    before = a_share.everything(dataset)
    error = failure(a_share, dataset)
    assert (error.code, "has what has changed since the sync" in error.message) == (FailureCode.TARGET_DIVERGED, True)
    assert a_share.everything(dataset) == before
    assert a_share.sync(dataset).ledger_row["export_mode"] == "full"
    assert a_share.target(dataset) == source.rows()


def test_a_target_that_was_rolled_back_is_exported_anew(a_share: Share) -> None:
    for fields in ({}, {"delete_missing": False}):
        dataset, source = merged(a_share, **fields)
        a_share.query(f"DELETE FROM {dataset.target} WHERE k > 20")
        source.update()
        error = failure(a_share, dataset)
        assert error.code is FailureCode.TARGET_DIVERGED
        assert ("of which 0 are not" if not fields else "fewer rows than the 24") in error.message
        assert a_share.sync(dataset).ledger_row["export_mode"] == "full"
        assert a_share.target(dataset) == source.rows()


def test_checks_on_all_rows_see_the_target_as_it_will_be(a_share: Share) -> None:
    checks = {
        "enough": "COUNT(*) >= 24",
        "few": "COUNT(DISTINCT name) <= 2",
        "small": "amount < 1000",
        "range": "amount <= MAX(amount) OVER ()",
    }
    dataset, source = merged(a_share, checks=checks, required_columns=["k", "name"])
    source.update()
    source.insert()
    source.table.delete("k = 2")
    assert a_share.sync(dataset).ledger_row["export_mode"] == "compare"
    # A row that is gone need not pass the checks of rows; those that stay are counted.
    source.table.update(updates={"amount": "5000"}, predicate="k = 3")
    error = failure(a_share, dataset)
    assert (error.code, "small: amount < 1000. Not true for 1 row(s)" in error.message) == (
        FailureCode.CHECKS_FAILED,
        True,
    )
    source.table.delete("k = 3")
    assert a_share.sync(dataset).ledger_row["source_rows"] == 24
    source.table.delete("k = 4")
    error = failure(a_share, dataset)
    assert "enough: COUNT(*) >= 24" in error.message
    assert "1 of " in error.message


def test_the_change_of_the_row_count_is_that_of_the_source(a_share: Share) -> None:
    dataset, source = merged(a_share, max_row_change_percent=20)
    source.insert()
    assert a_share.sync(dataset).ledger_row["rows_exported"] == 2
    # From 26 rows of the source, not from 2 changes; all rows, and changes.
    source.insert()
    assert a_share.sync(dataset, full_refresh=True).ledger_row["rows_exported"] == 28
    source.table.delete("k < 9")
    error = failure(a_share, dataset)
    assert error.code is FailureCode.CHECKS_FAILED
    assert a_share.sync(dataset, accept_row_change=True).ledger_row["source_rows"] == 20


@pytest.mark.tier("nightly")
def test_the_change_of_the_row_count_is_that_of_the_source_after_the_last_increment_too(a_share: Share) -> None:
    dataset, source = merged(a_share, max_row_change_percent=20)
    source.insert()
    assert a_share.sync(dataset).ledger_row["rows_exported"] == 2
    whole = a_share.edit(dataset, incremental=False)
    source.insert()
    # A ledger of an earlier version has no increments.
    ledger = a_share.names.ledger_table
    a_share.query(f"ALTER TABLE {ledger} RENAME COLUMN source_rows TO kept_rows")
    try:
        error = failure(a_share, whole)
    finally:
        a_share.query(f"ALTER TABLE {ledger} RENAME COLUMN kept_rows TO source_rows")
    assert "row_change_acceptable" in error.message
    assert a_share.sync(whole).ledger_row["rows_exported"] == 28


def test_changes_of_rows_that_do_not_leave_are_an_export_without_rows(a_share: Share) -> None:
    dataset, source = merged(a_share, source={"where": "k < 100"})
    source.write([{"k": 200, "name": "far", "amount": 1.0}], "append")
    run = a_share.sync(dataset)
    assert (run.ledger_row["rows_exported"], counts(run)) == (0, (0, 0, 0))
    assert a_share.target(dataset) == source.rows()[:-1]
    assert a_share.sync(dataset).ledger_row["unchanged"]


@pytest.mark.others_nightly
@pytest.mark.parametrize("feed", [False, True])
def test_a_key_that_two_rows_have_is_never_published(a_share: Share, feed: bool) -> None:
    for fields in ({}, {"delete_missing": False}):
        dataset, source = merged(a_share, **fields)
        if feed:
            source.feed_on()
            a_share.sync(dataset, full_refresh=True)
        before = a_share.target(dataset)
        source.write([{"k": 5, "name": "second", "amount": 0.5}], "append")
        error = failure(a_share, dataset)
        assert ("two rows of the source have the same merge keys" in error.message) == (not fields)
        error = failure(a_share, dataset)
        assert "merge_keys_unique" in error.message
        assert a_share.target(dataset) == before


def test_an_append_is_never_added_to_rows_that_nobody_knows(a_share: Share) -> None:
    dataset, source = appended(a_share)
    before = a_share.everything(dataset)
    a_share.remember(dataset)  # Airflow's database was made anew
    error = failure(a_share, dataset)
    assert error.code is FailureCode.INCREMENT_IMPOSSIBLE
    assert "adds only new rows" in error.message
    assert a_share.everything(dataset) == before
    assert a_share.sync(dataset, full_refresh=True).ledger_row["rows_in_target"] == 6
    source.insert()
    assert counts(a_share.sync(dataset)) == (2, 0, 0)
    assert a_share.target(dataset) == source.rows()


def test_an_append_that_its_target_refuses_is_told_what_helps(a_share: Share) -> None:
    dataset, source = appended(a_share)
    source.insert()
    run = a_share.staged(dataset)
    a_share.query(f"UPDATE {a_share.names.lock_table(dataset.target_table)} SET run_key = 'later', source_version = 9")
    with pytest.raises(ShareError, match="has version 9 of the source") as caught:
        a_share.step(run, "publish")
    assert (caught.value.code, caught.value.retriable) == (FailureCode.TARGET_DIVERGED, False)
    assert "full_refresh: true" in caught.value.what_to_do
    # To start it again does not help, indeed.
    assert failure(a_share, dataset).code is FailureCode.INCREMENT_IMPOSSIBLE
    a_share.sync(dataset, full_refresh=True)
    assert a_share.target(dataset) == source.rows()


def test_an_append_of_all_rows_is_none_that_increments_may_go_on_with(a_share: Share) -> None:
    dataset = a_share.dataset(load_mode="append")
    a_share.remember(dataset)
    source = Source(a_share, dataset)
    for _ in range(2):
        source.insert()
        a_share.sync(dataset)
    assert len(a_share.target(dataset)) == 6  # the first two of them twice
    dataset = a_share.edit(dataset, incremental=True)
    source.insert()
    error = failure(a_share, dataset)
    assert (error.code, "the dataset file has changed" in error.message) == (FailureCode.INCREMENT_IMPOSSIBLE, True)
    a_share.sync(dataset, full_refresh=True)
    source.insert()
    assert counts(a_share.sync(dataset)) == (2, 0, 0)
    assert a_share.target(dataset) == source.rows()


def test_the_tables_of_an_earlier_version_are_told_before_anything_is_loaded(a_share: Share) -> None:
    dataset = a_share.dataset(load_mode="merge", merge_keys=["k"], incremental=True)
    Source(a_share, dataset).insert()
    ledger = a_share.names.manifest_table
    a_share.query(f"ALTER TABLE {ledger} DROP COLUMN source_rows")
    try:
        error = failure(a_share, dataset)
    finally:
        a_share.query(f"ALTER TABLE {ledger} ADD COLUMN source_rows NUMBER(38, 0)")
    assert "set_up_snowflake" in str(error.what_to_do)
    assert "lacks columns that a dataset with incremental: true needs" in error.message


@pytest.mark.tier("nightly")
def test_an_increment_that_leaves_no_row_is_as_an_empty_export(a_share: Share) -> None:
    dataset, source = merged(a_share, source={"where": "k < 3"})
    before = a_share.target(dataset)
    source.table.delete("k < 3")
    for _ in ("the changes", "all rows"):
        error = failure(a_share, dataset)
        assert (error.code, "set allow_empty: true" in str(error.what_to_do)) == (FailureCode.NOTHING_LOADED, True)
        assert a_share.target(dataset) == before
    dataset = a_share.edit(dataset, allow_empty=True)
    source.write([{"k": 1, "name": "back", "amount": 1.0}], "append")
    a_share.sync(dataset)
    source.table.delete("k < 3")
    assert a_share.sync(dataset).ledger_row["export_mode"] == "compare"
    assert a_share.target(dataset) == []


MIRRORED_AND_KEPT = pytest.mark.parametrize("fields", [{"delete_missing": True}, {"delete_missing": False}])


def fed(share: Share, **fields: Any) -> tuple[Dataset, Source]:
    """A dataset that was synced, whose source has a feed."""
    dataset, source = merged(share, **fields)
    source.feed_on()
    share.sync(dataset, full_refresh=True)
    return dataset, source


@pytest.mark.others_nightly
@MIRRORED_AND_KEPT
def test_the_feed_of_rows_that_the_condition_does_not_choose_says_nothing_of_a_key(
    a_share: Share, fields: dict[str, Any]
) -> None:
    # As a table with a history has it: of the rows of a key, one is current.
    dataset = a_share.dataset(
        load_mode="merge", merge_keys=["k"], incremental=True, source={"where": "name = 'current'"}, **fields
    )
    a_share.remember(dataset)
    source = Source(a_share, dataset)
    source.write([{"k": k, "name": "current", "amount": 1.0} for k in range(30)], "append")
    source.feed_on()
    a_share.sync(dataset)
    # One commit ends a row, and adds the one that is current now.
    rows = [{"k": 5, "name": "ended", "amount": 1.0}, {"k": -5, "name": "current", "amount": 2.0}]
    known = pa.Table.from_pylist(rows, schema=SCHEMA)
    merge = source.table.merge(known, "t.k = s.k", source_alias="s", target_alias="t")
    inserted = {"k": "-s.k", "name": "s.name", "amount": "s.amount"}
    merge.when_matched_update({"name": "s.name"}).when_not_matched_insert(inserted).execute()
    run = a_share.sync(dataset)
    assert (run.ledger_row["export_mode"], counts(run)) == ("feed", (0, 1, 0))
    # The current row changes before one that has ended.
    source.table.update(updates={"amount": "3.0"}, predicate="k = 5 AND name = 'current'")
    source.table.update(updates={"amount": "9.0"}, predicate="k = 5 AND name = 'ended'")
    run = a_share.sync(dataset)
    assert (run.ledger_row["export_mode"], counts(run)) == ("feed", (0, 1, 0))
    assert a_share.target(dataset) == [row for row in source.rows() if row["name"] == "current"]


@pytest.mark.others_nightly
@MIRRORED_AND_KEPT
def test_the_feed_of_a_key_that_had_two_rows_for_a_while(a_share: Share, fields: dict[str, Any]) -> None:
    dataset, source = fed(a_share, **fields)
    source.write([{"k": 5, "name": "second", "amount": 0.5}, {"k": 6, "name": "passing", "amount": 0.5}], "append")
    source.table.delete("(k = 5 AND name <> 'second') OR name = 'passing'")
    source.write([{"k": 70, "name": "passing", "amount": 0.5}], "append")
    source.table.delete("k = 70")
    run = a_share.sync(dataset)
    assert (run.ledger_row["export_mode"], counts(run)) == ("feed", (0, 1, 0))
    assert a_share.target(dataset) == source.rows()


@pytest.mark.others_nightly
@MIRRORED_AND_KEPT
def test_the_feed_of_rows_that_had_no_key_for_a_while(a_share: Share, fields: dict[str, Any]) -> None:
    dataset, source = fed(a_share, **fields)
    source.write([{"k": None, "name": name, "amount": 0.5} for name in ("nameless", "passing")], "append")
    source.table.update(updates={"k": "77"}, predicate="name = 'nameless'")
    source.table.delete("k IS NULL")
    run = a_share.sync(dataset)
    assert (run.ledger_row["export_mode"], counts(run)) == ("feed", (1, 0, 0))
    assert a_share.target(dataset) == source.rows()


@pytest.mark.others_nightly
@MIRRORED_AND_KEPT
def test_a_column_that_the_target_has_lost_is_not_filled_with_changes_alone(
    a_share: Share, fields: dict[str, Any]
) -> None:
    dataset, source = merged(a_share, schema_drift="add_new", **fields)
    a_share.query(f"ALTER TABLE {dataset.target} DROP COLUMN amount")
    source.insert()
    error = failure(a_share, dataset)
    assert (error.code, "lacks what it had after the last publish: amount" in error.message) == (
        FailureCode.TARGET_DIVERGED,
        True,
    )
    assert error.what_to_do == "Start the sync again: it exports everything."
    assert a_share.sync(dataset).ledger_row["export_mode"] == "full"
    assert a_share.target(dataset) == source.rows()


WITHOUT_AMOUNT = {"k": "NUMBER(38, 0)", "name": "VARCHAR"}


@pytest.mark.others_nightly
@MIRRORED_AND_KEPT
def test_a_column_that_the_target_has_got_is_filled_also_if_nothing_was_new_after_a_failed_sync(
    a_share: Share, fields: dict[str, Any]
) -> None:
    dataset, source = merged(a_share, columns=WITHOUT_AMOUNT, schema_drift="ignore_new", **fields)
    a_share.query(f"ALTER TABLE {dataset.target} ADD COLUMN amount DOUBLE")
    a_share.export(dataset, a_share.run(dataset))  # its sync ends here
    assert a_share.sync(dataset).ledger_row["unchanged"]
    source.insert()
    a_share.sync(dataset)
    assert a_share.target(dataset) == source.rows()
    assert a_share.sync(dataset).ledger_row["unchanged"]
    source.insert()
    assert a_share.sync(dataset).ledger_row["export_mode"] == "compare"


@pytest.mark.others_nightly
@pytest.mark.parametrize("leaves", [False, True])
def test_a_column_that_the_target_has_got_is_not_filled_with_changes_alone(
    a_share: Share, monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    fields: dict[str, Any] = {} if leaves else {"source": {"where": "k < 100"}}
    dataset, source = merged(a_share, columns=WITHOUT_AMOUNT, schema_drift="ignore_new", **fields)
    if leaves:  # as of a target with so many columns that the job cannot be told them
        monkeypatch.setattr("data_share.databricks.export.MAX_PARAMETER_BYTES", 10)
    a_share.query(f"ALTER TABLE {dataset.target} ADD COLUMN amount DOUBLE")
    source.write([{"k": 50 if leaves else 200, "name": "new", "amount": 1.0}], "append")
    error = failure(a_share, dataset)
    assert (error.code, "columns that it lacked after the last publish: amount. The" in error.message) == (
        FailureCode.TARGET_DIVERGED,
        True,
    )
    assert a_share.sync(dataset).ledger_row["export_mode"] == "full"
    assert a_share.target(dataset) == [row for row in source.rows() if row["k"] < 100]
    source.insert()
    assert a_share.sync(dataset).ledger_row["export_mode"] == "compare"
    assert a_share.target(dataset) == [row for row in source.rows() if row["k"] < 100]


@pytest.mark.tier("nightly")
def test_an_append_is_not_added_to_rows_that_lack_a_column(a_share: Share) -> None:
    dataset, source = appended(a_share, columns=WITHOUT_AMOUNT, schema_drift="ignore_new")
    a_share.query(f"ALTER TABLE {dataset.target} ADD COLUMN amount DOUBLE")
    source.insert()
    assert (
        failure(a_share, dataset).code is FailureCode.SCHEMA_DRIFT
    )  # the job was told the columns of the last publish
    error = failure(a_share, dataset)
    assert (error.code, "which replaces everything" in str(error.what_to_do)) == (
        FailureCode.INCREMENT_IMPOSSIBLE,
        True,
    )
    a_share.sync(dataset, full_refresh=True)
    source.insert()
    assert counts(a_share.sync(dataset)) == (2, 0, 0)
    assert a_share.target(dataset) == source.rows()


def test_a_dry_run_makes_up_for_no_sync_that_has_failed(a_share: Share) -> None:
    dataset, source = merged(a_share)
    a_share.query(f"DELETE FROM {dataset.target} WHERE k = 9")
    source.table.alter.add_columns([Field("later", PrimitiveType("string"))])
    assert failure(a_share, dataset).code is FailureCode.SCHEMA_DRIFT
    a_share.query(f"ALTER TABLE {dataset.target} ADD COLUMN later VARCHAR")
    assert a_share.sync(dataset, dry_run=True).ledger_row["export_mode"] == "full"
    # It asks Snowflake for the columns as well, and exports everything.
    assert a_share.sync(dataset).ledger_row["export_mode"] == "full"
    assert a_share.target(dataset) == source.rows()


@pytest.mark.others_nightly
@pytest.mark.parametrize("incremental", [False, True])
def test_a_file_that_is_edited_during_a_sync_is_not_the_one_of_its_export(a_share: Share, incremental: bool) -> None:
    dataset = a_share.dataset(load_mode="merge", merge_keys=["k"], delete_missing=True, incremental=incremental)
    a_share.remember(dataset)
    source = Source(a_share, dataset)
    source.write([source.new_row() for _ in range(24)], "append")
    run = a_share.staged(dataset)
    edited = a_share.edit(dataset, source={"where": "k > 5"})
    run.dag = a_share.run(edited).dag
    a_share.step(run, "publish")
    assert a_share.sync(edited).ledger_row["export_reason"] == "the dataset file has changed since the last publish"
    assert a_share.target(dataset) == source.rows()[5:]
    assert a_share.sync(edited).ledger_row["unchanged"]


@pytest.mark.others_nightly
@pytest.mark.parametrize("step", ["copy_into_staging", "publish"])
@pytest.mark.parametrize("fields", [{"incremental": False}, {"incremental": False, "load_mode": "replace"}])
def test_changes_are_not_loaded_as_if_they_were_all_rows(a_share: Share, step: str, fields: dict[str, Any]) -> None:
    dataset, source = merged(a_share, delete_missing=False)
    source.insert()
    run = a_share.staged(dataset) if step == "publish" else a_share.run(dataset)
    if step != "publish":
        a_share.export(dataset, run)
    before = a_share.everything(dataset)
    keys = {"merge_keys": []} if "load_mode" in fields else {"delete_missing": True}
    edited = a_share.edit(dataset, **fields, **keys)
    run.dag = a_share.run(edited).dag
    with pytest.raises(ShareError, match="was changed after this sync had exported") as caught:
        a_share.step(run, step)
    assert (caught.value.code, a_share.everything(dataset)) == (FailureCode.TARGET_DIVERGED, before)
    assert a_share.sync(edited).ledger_row["export_mode"] == "full"
    assert a_share.target(dataset) == source.rows()


def test_deleted_rows_do_not_come_back_with_changes_that_are_loaded_again(a_share: Share) -> None:
    dataset, source = merged(a_share, schema_drift="ignore_new")
    source.table.delete("k = 5")
    run = a_share.sync(dataset)
    assert counts(run) == (0, 0, 1)
    edited = a_share.edit(dataset, delete_missing=False)
    before = a_share.everything(dataset)
    error = failure(a_share, edited, reload_run_key=run.key)
    assert (error.code, error.retriable) == (FailureCode.TARGET_DIVERGED, False)
    assert "was made with another delete_missing" in error.message
    assert a_share.everything(dataset) == before
    # With the file of then, it is what the target has.
    assert counts(a_share.sync(a_share.edit(edited, delete_missing=True), reload_run_key=run.key)) == (0, 0, 0)
    assert a_share.target(dataset) == source.rows()


@pytest.mark.tier("nightly")
def test_a_key_that_people_have_inserted_twice_is_there_once_when_all_rows_are_merged(a_share: Share) -> None:
    dataset, source = merged(a_share)
    a_share.insert(dataset, [{"k": 3, "name": "x", "amount": 1.0}])
    source.insert()
    assert failure(a_share, dataset).code is FailureCode.TARGET_DIVERGED
    run = a_share.sync(dataset)
    assert (run.ledger_row["export_mode"], counts(run)) == ("full", (2, 1, 1))
    assert a_share.target(dataset) == source.rows()
    source.insert()
    assert counts(a_share.sync(dataset)) == (2, 0, 0)
