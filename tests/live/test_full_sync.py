"""Whole syncs: the real operators, the real trigger, the real export."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_share.datasets import Dataset
from data_share.outcome.report import ShareError
from data_share.share import Share
from data_share.snowflake.sql_api import DataShareSnowflakeHook, SnowflakeStoppedError
from tests.airflow_double import SYNC, DagRun
from tests.contracts.conftest import until
from tests.live.accounts import SNOWFLAKE_CONN, Scratch
from tests.live.assumptions import NotTriedError

pytestmark = pytest.mark.live

RELOAD = ("export_to_s3", "copy_into_staging", "check_staging", "publish", "finish_sync")
SCHEMA = pa.schema({"k": pa.int64(), "name": pa.string()})


def rows(*pairs: tuple[int, str]) -> pa.Table:
    return pa.Table.from_pylist([{"k": k, "name": name} for k, name in pairs], schema=SCHEMA)


# ---- the dataset of the suite


@pytest.fixture(scope="module")
def target(hook: DataShareSnowflakeHook, scratch: Scratch, stage: str) -> str:
    """The dataset's empty target."""
    dataset = scratch.settings.dataset
    hook.run_statement(f"CREATE TABLE IF NOT EXISTS {dataset.target} ({', '.join(dataset.column_definitions)})")
    return dataset.target


@pytest.fixture(scope="module")
def exported(target: str, begin: Callable[..., DagRun]) -> DagRun:
    """A sync whose export has ended well; if it has not, there is nothing to look at."""
    run = begin(requested_by="live test")
    run.run("export_to_s3", "wait_for_export")
    return run


@pytest.fixture(scope="module")
def copied(exported: DagRun) -> dict[str, Any]:
    """What the copy into staging has answered."""
    exported.run("copy_into_staging")
    return dict(exported.xcoms["copy_into_staging", "return_value"])


@pytest.fixture(scope="module")
def synced(exported: DagRun, copied: dict[str, Any]) -> DagRun:
    """The sync, published."""
    exported.run("check_staging", "publish", "finish_sync")
    return exported


@pytest.mark.assumption("export_sql")
def test_the_sql_of_the_export_runs(
    target: str, begin: Callable[..., DagRun], scratch: Scratch, answer: Callable[[object], None]
) -> None:
    run = begin(requested_by="live test")
    run.run("export_to_s3", "wait_for_export")
    export = run.xcoms["wait_for_export", "return_value"]
    files = [path.removeprefix(scratch.url.removeprefix("s3://")) for path in scratch.files().find(scratch.url)]
    answer(f"{sum(path.endswith('.parquet') for path in files)} Parquet file(s)")
    assert export["export_path"].startswith(scratch.url)
    assert any("/manifest/" in path and path.endswith(".parquet") for path in files)


@pytest.mark.assumption("file_metadata")
def test_the_files_of_an_export_are_counted(
    exported: DagRun, copied: dict[str, Any], scratch: Scratch, answer: Callable[[object], None]
) -> None:
    export = exported.xcoms["wait_for_export", "return_value"]
    found = scratch.files().find(f"{export['export_path']}data/")
    there = sum(path.endswith(".parquet") for path in found)
    answer(f"{copied['files_exported']} in the manifest, {copied['files']} loaded with rows, {there} in S3")
    assert copied["files_exported"] == copied["files"]
    assert 1 <= copied["files"] <= there


@pytest.mark.assumption("checksums")
def test_the_checksums_of_both_sides_are_equal(
    exported: DagRun, copied: dict[str, Any], answer: Callable[[object], None]
) -> None:
    answer(f"{len(copied['proofs'])} column(s) are proven, not: {', '.join(copied['unproven']) or 'none'}")
    assert copied["proofs"]
    exported.run("check_staging")


def test_what_was_exported_is_what_is_in_the_target(
    hook: DataShareSnowflakeHook, scratch: Scratch, target: str, synced: DagRun, begin: Callable[..., DagRun]
) -> None:
    row = synced.xcoms["publish", "return_value"]
    assert row["rows_exported"] == row["rows_loaded"] == row["rows_in_target"] > 0
    assert row["export_path"].startswith(scratch.url)
    assert hook.run_statement(f"SELECT COUNT(*) AS total FROM {target}").rows == [{"TOTAL": row["rows_exported"]}]
    ledger = f"SELECT run_key FROM {scratch.share.ledger_table} WHERE dataset = '{scratch.settings.dataset.name}'"
    assert hook.run_statement(ledger).rows == [{"RUN_KEY": synced.key}]
    left = [
        r["name"] for r in hook.run_statement(f"SHOW TABLES IN SCHEMA {scratch.schema}").rows if synced.key in r["name"]
    ]
    assert left == [], "staging tables"

    again = begin(reload_run_key=synced.key, full_refresh=True)
    again.run(*RELOAD)
    assert again.xcoms["publish", "return_value"]["rows_in_target"] == row["rows_exported"]


# ---- other modes, and publishes that meet


@pytest.fixture(scope="module")
def sync(
    hook: DataShareSnowflakeHook, scratch: Scratch, stage: str, begin: Callable[..., DagRun]
) -> Callable[..., DagRun]:
    """Begin a sync of rows into a target, which is made when it is missing."""

    def start(name: str, content: pa.Table, **fields: Any) -> DagRun:
        dataset = Dataset.model_validate(
            {
                "name": name,
                "description": "Made by a test.",
                "source_table": scratch.make_source(content),
                "target_table": name,
                "required_columns": ("k",),
                **fields,
            }
        )
        hook.run_statement(f"CREATE TABLE IF NOT EXISTS {dataset.target} (k NUMBER(38, 0), name VARCHAR)")
        return begin(dataset)

    return start


def in_target(hook: DataShareSnowflakeHook, name: str) -> list[tuple[int, str]]:
    return [(row["K"], row["NAME"]) for row in hook.run_statement(f"SELECT k, name FROM {name} ORDER BY k, name").rows]


def in_ledger(hook: DataShareSnowflakeHook, name: str) -> list[str]:
    sql = f"SELECT run_key FROM {Share().ledger_table} WHERE dataset = '{name}' ORDER BY published_at"
    return [row["RUN_KEY"] for row in hook.run_statement(sql).rows]


def exported_columns(scratch: Scratch, run: DagRun) -> set[str]:
    """The columns of the files of an export."""
    files = scratch.files()
    path = run.xcoms["wait_for_export", "return_value"]["export_path"]
    data = [file for file in files.find(f"{path}data/") if file.endswith(".parquet")]
    return {name for file in data for name in pq.read_schema(files.open(file)).names}


@pytest.mark.tier("nightly")
@pytest.mark.assumption("sync_modes")
def test_syncs_append_and_merge(
    hook: DataShareSnowflakeHook, sync: Callable[..., DagRun], answer: Callable[[object], None]
) -> None:
    for number in (1, 2):
        sync("appended", rows((number, "row")), load_mode="append").run(*SYNC)
    answer(f"appended: {in_target(hook, 'appended')}")
    assert in_target(hook, "appended") == [(1, "row"), (2, "row")]
    merge = {"load_mode": "merge", "merge_keys": ("k",), "delete_missing": True}
    sync("merged", rows((1, "first"), (2, "first"), (3, "")), **merge).run(*SYNC)
    second = sync("merged", rows((2, "second"), (3, ""), (4, "second")), **merge)
    second.run(*SYNC)
    changes = {
        name: second.xcoms["publish", "return_value"][f"rows_{name}"] for name in ("inserted", "updated", "deleted")
    }
    answer(f"merged: {in_target(hook, 'merged')}, {json.dumps(changes)}")
    assert in_target(hook, "merged") == [(2, "second"), (3, ""), (4, "second")]
    assert (changes["inserted"], changes["deleted"]) == (1, 1)


@pytest.mark.tier("nightly")
@pytest.mark.assumption("source_parameter")
def test_a_long_choice_arrives_as_it_was_sent(
    hook: DataShareSnowflakeHook,
    scratch: Scratch,
    sync: Callable[..., DagRun],
    answer: Callable[[object], None],
) -> None:
    # The target's columns are a part of the parameter; each has what ends a text somewhere.
    wide = [f"it's {{number}} \\\\ {number:03} {'x' * 60}" for number in range(102)]
    columns = ", ".join(f'"{name}" VARCHAR' for name in wide)
    hook.run_statement(f"CREATE TABLE wide (k NUMBER(38, 0), {columns})")
    run = sync("wide", rows((1, "stays")), load_mode="replace", source={"exclude": ["name"]})
    run.run("export_to_s3", "wait_for_export")
    told = scratch.databricks("GET", "jobs/runs/get", run_id=run.xcoms["export_to_s3", "export"]["run_id"])
    [source] = [one["value"] for one in told["job_parameters"] if one["name"] == "source"]
    answer(f"{len(source.encode())} bytes")
    # With the other parameters, and the escapes of JSON within JSON, 10,000 at most.
    assert 8_900 < len(source.encode()) <= 10_000
    assert len(json.loads(source)["known"]) == len(wide) + 1
    assert exported_columns(scratch, run) == {"k"}


@pytest.mark.tier("nightly")
@pytest.mark.assumption("hash_secret")
def test_a_column_is_hashed_with_the_secret(
    hook: DataShareSnowflakeHook, sync: Callable[..., DagRun], answer: Callable[[object], None]
) -> None:
    values = ("a person", "a person", "another")
    run = sync("hashed", rows(*enumerate(values)), load_mode="replace", source={"hash": ["name"]})
    try:
        run.run("export_to_s3", "wait_for_export")
    except ShareError as error:
        # Not if SECRET is refused in this place, which is the question.
        if "SECRET_FUNCTION_LOOKUP_FAILED" in str(error) or "does not know the secret" in str(error):
            raise NotTriedError(f"docs/databricks.md, the secret of hashes: {error}") from error
        raise
    run.run("copy_into_staging", "check_staging", "publish", "finish_sync")
    hashes = [name for _, name in in_target(hook, "hashed")]
    answer(f"of {len(values)} values, {len(set(hashes))} hashes with {sorted(set(map(len, hashes)))} digits")
    assert [re.fullmatch("[0-9a-f]{64}", one) is not None for one in hashes] == [True] * 3
    assert [hashes[0] == one for one in hashes] == [True, True, False]
    assert hashlib.sha256(values[0].encode()).hexdigest() not in hashes, "without the secret, anybody could make it"


@contextmanager
def lock_held(scratch: Scratch, name: str) -> Iterator[None]:
    """Hold the lock of a target for a while, as another publish would."""
    holder, table = DataShareSnowflakeHook(SNOWFLAKE_CONN), scratch.share.lock_table(name)
    hold = f"SELECT SYSTEM$WAIT({scratch.settings.hold_seconds:g})"
    statements = ["BEGIN", f"UPDATE {table} SET attempt = attempt", hold, "ROLLBACK"]
    handle = holder.submit(";\n".join(statements) + ";", statement_count=len(statements))
    time.sleep(scratch.settings.hold_seconds / 4)
    try:
        yield
    finally:
        holder.wait(handle)


@pytest.mark.tier("nightly")
@pytest.mark.assumption("publish_races")
def test_of_two_publishes_of_one_export_one_changes_the_target(
    hook: DataShareSnowflakeHook, scratch: Scratch, sync: Callable[..., DagRun], answer: Callable[[object], None]
) -> None:
    run = sync("raced", rows((1, "once")), load_mode="append")
    run.run("export_to_s3", "wait_for_export", "copy_into_staging", "check_staging")
    tasks = [run.prepared("publish") for _ in range(2)]
    with lock_held(scratch, "raced"), concurrent.futures.ThreadPoolExecutor(2) as pool:
        ended = [pool.submit(task.execute, context) for task, context in tasks]
        concurrent.futures.wait(ended)
    errors = [publish.exception() for publish in ended]
    answer(
        f"in the target: {in_target(hook, 'raced')}; {sum(error is None for error in errors)} of 2 say it is published"
    )
    assert in_target(hook, "raced") == [(1, "once")]
    assert in_ledger(hook, "raced") == [run.key]
    assert all(error is None or isinstance(error, ShareError) for error in errors)


@pytest.mark.tier("nightly")
@pytest.mark.assumption("publish_cancel")
def test_a_publish_that_is_cancelled_changes_nothing(
    hook: DataShareSnowflakeHook, scratch: Scratch, sync: Callable[..., DagRun], answer: Callable[[object], None]
) -> None:
    run = sync("cancelled", rows((1, "late")), load_mode="append")
    run.run("export_to_s3", "wait_for_export", "copy_into_staging", "check_staging")
    task, context = run.prepared("publish")
    with lock_held(scratch, "cancelled"), concurrent.futures.ThreadPoolExecutor(1) as pool:
        publish = pool.submit(task.execute, context)
        # It waits for the lock in its transaction.
        until(lambda: "_hook" in vars(task) and task._hook._running_handle)
        time.sleep(scratch.settings.hold_seconds / 4)
        task.on_kill()
        with pytest.raises(SnowflakeStoppedError):
            publish.result()
    answer(f"in the target: {in_target(hook, 'cancelled')}; in the ledger: {in_ledger(hook, 'cancelled')}")
    assert (in_target(hook, "cancelled"), in_ledger(hook, "cancelled")) == ([], [])
    run.run("publish")
    assert in_target(hook, "cancelled") == [(1, "late")]
