"""Publishing twice, at the same time, too late, or half: the target is always as one complete publish left it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from data_share import share
from data_share.dag_defaults import SHARE
from data_share.datasets import Dataset
from data_share.outcome.report import NotPublishedError
from data_share.snowflake.publish import SupersededError
from tests.sandbox.load.driver import Fault, ProcessDiedError, Reader, Row, Run, Share

pytestmark = pytest.mark.sandbox

MODES: dict[str, dict[str, Any]] = {
    "replace": {"load_mode": "replace"},
    "append": {"load_mode": "append"},
    "merge": {"load_mode": "merge", "merge_keys": ("k",), "delete_missing": True},
}
SEND_TRANSACTION = 0
"""Number of the call of ``publish`` that sends the transaction, in its first attempt."""

ROWS = 40


def generation(number: int, rows: int = ROWS) -> list[Row]:
    """Rows of which each says which generation it is of."""
    return [{"k": key, "name": "row", "amount": float(number)} for key in range(rows + number)]


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def dataset(a_share: Share, mode: str) -> Dataset:
    """A dataset whose target holds generation 1."""
    made = a_share.dataset(**MODES[mode])
    a_share.write(made, generation(1))
    a_share.sync(made)
    return made


@pytest.fixture
def sees_late(administer: Callable[[str], object]) -> Iterator[None]:
    """Let sessions see as little of what others commit after they began as Snowflake allows."""
    administer("ALTER ACCOUNT SET READ_CONSISTENCY_MODE = 'SESSION'")
    yield
    administer("ALTER ACCOUNT SET READ_CONSISTENCY_MODE = 'GLOBAL'")


def watch(share: Share, dataset: Dataset) -> Reader:
    """Count the target's rows and generations, again and again."""
    return Reader(share, f"SELECT COUNT(*), MIN(amount)::INT, MAX(amount)::INT FROM {dataset.target_table}")


def assert_whole(reader: Reader, mode: str, *generations: int) -> None:
    """Fail unless each look has shown what one complete publish leaves; they come in this order."""
    whole: list[tuple[int, int, int]] = []
    for number in generations:
        rows = len(generation(number))
        if mode == "append":
            before = whole[-1] if whole else (0, number, number)
            whole.append((before[0] + rows, before[1], number))
        else:
            whole.append((rows, number, number))
    seen = list(dict.fromkeys(reader.seen))
    assert set(seen) <= set(whole), f"a reader saw something between: {seen}"
    assert seen == [state for state in whole if state in seen], "a reader saw an older state after a newer one"
    assert seen[-1] == whole[-1]


def together(*actions: Callable[[], Any]) -> list[Future[Any]]:
    """Do several things in threads; return when all have ended."""
    with ThreadPoolExecutor(len(actions)) as threads:
        return [threads.submit(action) for action in actions]


def at_the_same_place(parties: int) -> Callable[[dict[str, Any]], None]:
    """Hold the calls that send a transaction until as many are there."""
    barrier = threading.Barrier(parties, timeout=120)

    def hold(call: dict[str, Any]) -> None:
        if "COMMIT" in (call.get("json") or {}).get("statement", ""):
            barrier.wait()

    return hold


def assert_counted_once(share: Share, dataset: Dataset, *runs: Run) -> None:
    """Fail unless the ledger has one row for each run, with the counts of what really changed."""
    rows = {row["RUN_KEY"]: row for row in share.ledger(dataset)}
    assert len(rows) == len(share.ledger(dataset))
    assert [run.key for run in runs] == list(rows)[1:], "the first is the one that the fixture did"
    before = len(generation(1))
    for run in runs:
        row = rows[run.key]
        assert before + row["ROWS_INSERTED"] - row["ROWS_DELETED"] == row["ROWS_IN_TARGET"]
        before = row["ROWS_IN_TARGET"]
    assert len(share.target(dataset)) == before


def row_of(answer: dict[str, Any]) -> dict[str, Any]:
    """What an answer says whichever attempt gave it."""
    return {name: value for name, value in answer.items() if name not in ("task_instance_id", "clear_number")}


def test_publishing_twice_changes_once(a_share: Share, dataset: Dataset, mode: str) -> None:
    a_share.write(dataset, generation(2))
    run = a_share.staged(dataset)
    with watch(a_share, dataset) as reader:
        first = a_share.step(run, "publish")
        left = a_share.everything(dataset)
        assert row_of(a_share.step(run, "publish")) == row_of(first)
    assert a_share.everything(dataset) == left
    assert_whole(reader, mode, 1, 2)
    assert_counted_once(a_share, dataset, run)


@pytest.mark.parametrize("call", [SEND_TRANSACTION, SEND_TRANSACTION + 1], ids=["submit", "result"])
def test_a_crash_between_commit_and_answer(a_share: Share, dataset: Dataset, mode: str, call: int) -> None:
    a_share.write(dataset, generation(2))
    run = a_share.staged(dataset)
    with watch(a_share, dataset) as reader:
        with pytest.raises(ProcessDiedError):
            a_share.step(run, "publish", Fault(call, "answer dead"))
        left = a_share.everything(dataset)
        assert len(left[1]) == 2, "it was committed"
        row = a_share.step(run, "publish")
    assert row["run_key"] == run.key
    assert a_share.everything(dataset) == left
    assert_whole(reader, mode, 1, 2)


def test_a_crash_before_the_transaction(a_share: Share, dataset: Dataset, mode: str) -> None:
    a_share.write(dataset, generation(2))
    run = a_share.staged(dataset)
    before = a_share.everything(dataset)
    with watch(a_share, dataset) as reader:
        with pytest.raises(ProcessDiedError):
            a_share.step(run, "publish", Fault(SEND_TRANSACTION, "dead"))
        assert a_share.everything(dataset) == before
        a_share.step(run, "publish")
    assert_whole(reader, mode, 1, 2)
    assert_counted_once(a_share, dataset, run)


def test_two_processes_of_one_run(a_share: Share, dataset: Dataset, mode: str) -> None:
    a_share.write(dataset, generation(2))
    run = a_share.staged(dataset)
    hold = at_the_same_place(2)
    with watch(a_share, dataset) as reader:
        first, second = together(*[lambda: a_share.step(run, "publish", before=hold)] * 2)
    assert row_of(first.result()) == row_of(second.result())
    assert first.result()["run_key"] == run.key
    assert len(run.asset_events) == 2, "either may be the one that Airflow hears of"
    assert_whole(reader, mode, 1, 2)
    assert_counted_once(a_share, dataset, run)


@pytest.mark.tier("nightly")
def test_two_processes_of_one_run_that_see_each_others_commits_late(
    a_share: Share, dataset: Dataset, mode: str, sees_late: None
) -> None:
    a_share.write(dataset, generation(2))
    run = a_share.staged(dataset)
    lock = SHARE.lock_table(dataset.target_table)
    # Until both wait for the lock: each session has begun before the other one commits.
    held = f"BEGIN; UPDATE {lock} SET attempt = attempt; SELECT SYSTEM$WAIT(4); ROLLBACK".split("; ")
    hold = at_the_same_place(2)
    with watch(a_share, dataset) as reader:
        *both, _ = together(*[lambda: a_share.step(run, "publish", before=hold)] * 2, lambda: a_share.transaction(held))
    assert row_of(both[0].result()) == row_of(both[1].result())
    assert both[0].result()["run_key"] == run.key
    assert_whole(reader, mode, 1, 2)
    assert_counted_once(a_share, dataset, run)


@pytest.mark.tier("nightly")
def test_two_runs_that_race(a_share: Share, dataset: Dataset, mode: str) -> None:
    a_share.write(dataset, generation(2))
    older = a_share.staged(dataset)
    a_share.write(dataset, generation(3))
    newer = a_share.staged(dataset)
    hold = at_the_same_place(2)
    with watch(a_share, dataset) as reader:
        old, new = together(*(lambda run=run: a_share.step(run, "publish", before=hold) for run in (older, newer)))
    assert new.result()["run_key"] == newer.key
    if old.exception() is None:
        assert_whole(reader, mode, 1, 2, 3)
        assert_counted_once(a_share, dataset, older, newer)
    else:
        assert isinstance(old.exception(), SupersededError)
        assert_whole(reader, mode, 1, 3)
        assert_counted_once(a_share, dataset, newer)


def test_a_zombie_of_an_older_run_is_refused(a_share: Share, dataset: Dataset, mode: str) -> None:
    a_share.write(dataset, generation(2))
    zombie = a_share.staged(dataset)
    a_share.write(dataset, generation(3))
    with watch(a_share, dataset) as reader:
        newer = a_share.sync(dataset)
        left = a_share.everything(dataset)
        with pytest.raises(SupersededError, match="staged later is published already"):
            a_share.step(zombie, "publish")
        assert a_share.everything(dataset) == left
    assert_whole(reader, mode, 1, 3)
    assert_counted_once(a_share, dataset, newer)


@pytest.mark.tier("nightly")
def test_a_run_that_was_overtaken_may_stage_again(a_share: Share, dataset: Dataset, mode: str) -> None:
    a_share.write(dataset, generation(2))
    overtaken = a_share.staged(dataset)
    a_share.write(dataset, generation(3))
    newer = a_share.sync(dataset)
    with watch(a_share, dataset) as reader:
        a_share.steps(overtaken)
    assert_counted_once(a_share, dataset, newer, overtaken)
    assert reader.seen[-1][0] == overtaken.ledger_row["rows_in_target"]


@pytest.mark.tier("nightly")
def test_a_copy_thought_dead_writes_to_a_table_of_its_own(a_share: Share, dataset: Dataset, mode: str) -> None:
    a_share.write(dataset, generation(2))
    run = a_share.run(dataset)
    a_share.export(dataset, run)
    thought_dead = run.prepared("copy_into_staging")
    for task_id in ("copy_into_staging", "check_staging"):
        a_share.step(run, task_id)
    filled = run.xcoms["copy_into_staging", "return_value"]
    # What it had sent is executed now; nobody hears of its end.
    thought_dead[0].execute(thought_dead[1])
    assert thought_dead[0].sync.new_staging_table != filled["staging_table"]
    with watch(a_share, dataset) as reader:
        a_share.step(run, "publish")
        a_share.step(run, "finish_sync")
    assert_whole(reader, mode, 1, 2)
    assert_counted_once(a_share, dataset, run)
    left = [str(row["name"]) for row in a_share.query(f"SHOW TABLES IN SCHEMA {SHARE.staging_schema}")]
    assert [name for name in left if run.key.upper() in name] == []


CHANGES = {
    "emptied": "DELETE FROM {table}",
    "half": "DELETE FROM {table} WHERE k % 2 = 0",
    "without a manifest": "DELETE FROM {table}__manifest",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_staging_table_that_somebody_changes_is_not_published(
    a_share: Share, dataset: Dataset, mode: str, change: str
) -> None:
    a_share.write(dataset, generation(2))
    run = a_share.staged(dataset)
    before = a_share.everything(dataset)
    a_share.query(change.format(table=run.staging_table))
    with (
        watch(a_share, dataset) as reader,
        pytest.raises(SupersededError, match="changed after they were checked"),
    ):
        a_share.step(run, "publish")
    assert a_share.everything(dataset) == before
    assert_whole(reader, mode, 1)


@pytest.mark.parametrize("is_filled_again", [False, True], ids=["emptied", "filled again"])
def test_a_staging_table_that_is_made_anew_between_two_statements(
    a_share: Share, dataset: Dataset, mode: str, is_filled_again: bool
) -> None:
    a_share.write(dataset, generation(2))
    run = a_share.staged(dataset)
    before = a_share.everything(dataset)
    emptied = f"DELETE FROM {run.staging_table}"
    # Somebody who fills it again, and notes the time.
    staged = f"UPDATE {share.staging_manifest(run.staging_table)} SET staged_at = SYSDATE()"

    def remake_staging(call: dict[str, Any]) -> None:
        # Snowflake locks only what a transaction writes, while the emulator would hold back another session's DELETE.
        body = call.get("json") or {}
        if "COMMIT" in body.get("statement", ""):
            statements = body["statement"].split(";\n")
            place = next(number for number, text in enumerate(statements) if "changes.rows_inserted" in text) + 1
            statements.insert(place, staged if is_filled_again else emptied)
            body["statement"] = ";\n".join(statements)
            body["parameters"]["MULTI_STATEMENT_COUNT"] = str(int(body["parameters"]["MULTI_STATEMENT_COUNT"]) + 1)

    with (
        watch(a_share, dataset) as reader,
        pytest.raises(SupersededError, match="changed after they were checked"),
    ):
        a_share.step(run, "publish", before=remake_staging)
    assert a_share.everything(dataset) == before
    assert_whole(reader, mode, 1)


@pytest.mark.tier("nightly")
def test_the_row_of_the_lock_says_what_was_published_last(a_share: Share, dataset: Dataset, mode: str) -> None:
    a_share.write(dataset, generation(2))
    run = a_share.sync(dataset)
    [row] = a_share.lock(dataset)
    assert (row["TARGET_DATABASE"], row["TARGET_SCHEMA"], row["TARGET_NAME"]) == (
        *("DATA_SHARE", "PUBLIC"),
        dataset.target_table.upper(),
    )
    assert (row["DATASET"], row["RUN_KEY"], row["EXPORT_PATH"]) == (dataset.name, run.key, run.export_path)
    counts = ("ROWS_INSERTED", "ROWS_UPDATED", "ROWS_DELETED")
    assert [row[name] for name in counts] == [run.ledger_row[name.lower()] for name in counts]


@pytest.mark.tier("nightly")
def test_without_the_row_of_the_lock_nothing_is_published(a_share: Share, dataset: Dataset, mode: str) -> None:
    a_share.write(dataset, generation(2))
    run = a_share.staged(dataset)
    a_share.query(f"DELETE FROM {SHARE.lock_table(dataset.target_table)}")
    before = a_share.everything(dataset)
    with watch(a_share, dataset) as reader:
        with pytest.raises(SupersededError, match="deleted the target's row from its lock table"):
            a_share.step(run, "publish")
        assert a_share.everything(dataset) == before
        # What follows has it again.
        a_share.sync(dataset)
    assert_whole(reader, mode, 1, 2)


@pytest.mark.tier("nightly")
def test_staging_that_is_dropped_is_not_published(a_share: Share, dataset: Dataset, mode: str) -> None:
    run = a_share.staged(dataset)
    before = a_share.everything(dataset)
    with pytest.raises(NotPublishedError):
        a_share.step(run, "finish_sync")
    with watch(a_share, dataset) as reader, pytest.raises(Exception, match="does not exist"):
        a_share.step(run, "publish")
    assert a_share.everything(dataset) == before
    assert_whole(reader, mode, 1)


@pytest.mark.tier("full")
def test_a_row_without_a_key_is_missing_from_any_source(a_share: Share) -> None:
    dataset = a_share.dataset(**MODES["merge"])
    a_share.write(dataset, generation(1))
    a_share.sync(dataset)
    # Somebody else's: a sync refuses such rows.
    a_share.query(f"INSERT INTO {dataset.target_table} SELECT NULL, 'somebody', 0")
    a_share.sync(dataset)
    assert len(a_share.target(dataset)) == len(generation(1))
    assert a_share.ledger(dataset)[-1]["ROWS_DELETED"] == 1


@pytest.mark.tier("nightly")
def test_an_append_counts_a_run_once(a_share: Share) -> None:
    dataset = a_share.dataset(load_mode="append")
    a_share.write(dataset, generation(1))
    run = a_share.sync(dataset)
    left = a_share.everything(dataset)
    # All tasks are cleared: the run exports again, to another path.
    a_share.write(dataset, generation(2))
    a_share.sync(dataset, run)
    assert share.attempt_of(run.ledger_row["export_path"]) == 1
    assert a_share.everything(dataset) == left


def test_an_append_of_an_export_that_another_run_appended_is_refused(a_share: Share) -> None:
    dataset = a_share.dataset(load_mode="append")
    a_share.write(dataset, generation(1))
    first = a_share.sync(dataset)
    left = a_share.everything(dataset)
    again = a_share.run(dataset, reload_run_key=first.key)
    with pytest.raises(SupersededError, match="was appended before"):
        a_share.sync(dataset, again)
    assert a_share.everything(dataset) == left


@pytest.mark.tier("full")
def test_an_append_of_an_export_of_long_ago_is_refused(a_share: Share) -> None:
    # The row of the lock knows the last publish alone; the ledger knows all.
    dataset = a_share.dataset(load_mode="append")
    a_share.write(dataset, generation(1))
    first = a_share.sync(dataset)
    a_share.sync(dataset)
    left = a_share.everything(dataset)
    again = a_share.run(dataset, reload_run_key=first.key)
    with pytest.raises(SupersededError, match="was appended before"):
        a_share.sync(dataset, again)
    assert a_share.everything(dataset) == left


def test_a_run_that_exports_again_takes_the_place_of_its_first_export(a_share: Share) -> None:
    dataset = a_share.dataset()
    a_share.write(dataset, generation(1))
    run = a_share.sync(dataset)
    a_share.write(dataset, generation(2))
    with watch(a_share, dataset) as reader:
        a_share.sync(dataset, run)
    assert_whole(reader, "replace", 1, 2)
    [row] = a_share.ledger(dataset)
    assert share.attempt_of(row["EXPORT_PATH"]) == 2
    assert row["ROWS_LOADED"] == len(generation(2))


def test_a_publish_is_told_as_an_asset_event(a_share: Share) -> None:
    dataset = a_share.dataset()
    a_share.write(dataset, generation(1))
    run = a_share.sync(dataset)
    [event] = run.asset_events
    assert event.source_alias_name == dataset.name
    assert event.dest_asset_key.uri == f"snowflake://myorg-share/data_share/public/{dataset.target_table}"
    assert event.extra["run_key"] == run.key
    assert event.extra["rows_in_target"] == len(generation(1))
