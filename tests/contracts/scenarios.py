"""What the product does with the two services, and what comes of it while they keep their contracts."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any
from unittest import mock

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.providers.databricks.exceptions import DatabricksApiError
from airflow.sdk import RetryDecision
from airflow.sdk.exceptions import AirflowException

from data_share import share
from data_share.datasets import Dataset
from data_share.outcome.classify import failure_of
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import NotPublishedError
from data_share.share import Share
from data_share.snowflake.load import NothingLoadedError
from data_share.snowflake.publish import SupersededError
from data_share.snowflake.sql_api import (
    DataShareSnowflakeHook,
    SnowflakeRefusedError,
    SnowflakeStatementError,
    SnowflakeStoppedError,
)
from data_share.snowflake.statements import SnowflakeStatementsOperator
from emulators.databricks import parquet
from emulators.databricks.jobs import Workspace
from emulators.databricks.unity_catalog import write_table
from emulators.s3 import s3_filesystem
from emulators.snowflake.sql_api import SqlApi
from tests.airflow_double import SYNC, DagRun, TriggerFailedError, events_of
from tests.contracts.conftest import SIGNED, Accounts, statement_runs, until

EXPORT = ("export_to_s3", "wait_for_export")
# As Airflow does it if nothing is new: it skips the check behind the copy, which was skipped.
WITHOUT_CHECK = tuple(step for step in SYNC if step != "check_staging")
LOAD = ("copy_into_staging", "check_staging", "publish", "finish_sync")
COLUMNS = {"k": "NUMBER(38, 0)", "name": "VARCHAR", "amount": "DOUBLE"}
KEY_AND_NAME = {"k": "NUMBER(38, 0)", "name": "VARCHAR"}
SCHEMA = pa.schema({"k": pa.int64(), "name": pa.string(), "amount": pa.float64()})
FIRST = [{"k": 1, "name": "one", "amount": 1.5}, {"k": 2, "name": "", "amount": None}]
SECOND = [
    {"k": 2, "name": "two", "amount": 2.0},
    {"k": 3, "name": None, "amount": 3.0},
    {"k": 4, "name": "4", "amount": 4.0},
]
MERGE: dict[str, Any] = {"load_mode": "merge", "merge_keys": ("k",)}
ADMINISTRATOR = "snowflake_administrator"

_numbers = itertools.count(1)


# ---- tools


def query(sql: str, connection: str = "snowflake_default", **hook: Any) -> list[dict[str, Any]]:
    return DataShareSnowflakeHook(connection, **hook).run_statement(sql).rows


def administer(*statements: str) -> None:
    for statement in statements:
        query(statement, ADMINISTRATOR)


def write(accounts: Accounts, dataset: Dataset, rows: Sequence[dict[str, Any]], schema: pa.Schema = SCHEMA) -> None:
    write_table(accounts.s3_url, dataset.source_table, pa.Table.from_pylist(list(rows), schema=schema))


def a_dataset(
    accounts: Accounts,
    rows: Sequence[dict[str, Any]] = FIRST,
    *,
    schema: pa.Schema = SCHEMA,
    columns: dict[str, str] | None = None,
    **fields: Any,
) -> Dataset:
    """A dataset that nothing else uses, its source, and its empty target."""
    name = f"broken_{next(_numbers)}"
    dataset = Dataset.model_validate(
        {
            "name": name,
            "description": "Made by a test.",
            "source_table": f"main.broken.{name}",
            "target_table": name,
            "load_mode": "replace",
            "required_columns": ("k",),
            **fields,
        }
    )
    listed = ", ".join(f'"{column.upper()}" {kind}' for column, kind in (columns or COLUMNS).items())
    query(f"CREATE TABLE {name} ({listed})")
    write(accounts, dataset, rows, schema)
    return dataset


def target(dataset: Dataset) -> list[dict[str, Any]]:
    rows = query(f"SELECT * FROM {dataset.target_table} ORDER BY 1, 2")
    return [{name.lower(): value for name, value in row.items()} for row in rows]


def ledger(dataset: Dataset) -> list[dict[str, Any]]:
    return query(f"SELECT * FROM {Share().ledger_table} WHERE dataset = '{dataset.name}' ORDER BY published_at")


def a_whole_sync(accounts: Accounts, dataset: Dataset, **params: Any) -> DagRun:
    run = accounts.begin(dataset, **params)
    run.run(*SYNC)
    return run


def exported(accounts: Accounts, dataset: Dataset, *further: str, **params: Any) -> DagRun:
    run = accounts.begin(dataset, **params)
    run.run(*EXPORT, *further)
    return run


def staged(accounts: Accounts, dataset: Dataset, **params: Any) -> DagRun:
    return exported(accounts, dataset, *LOAD[:2], **params)


@contextmanager
def after_each_statement(then: Any) -> Iterator[None]:
    """Call something with each statement that Snowflake has executed, before it executes the next one."""
    run_one = SqlApi._run_one

    def noticed(api: SqlApi, execution: Any, sql: str, *args: Any, **options: Any) -> None:
        run_one(api, execution, sql, *args, **options)
        then(api, sql)

    with mock.patch.object(SqlApi, "_run_one", noticed):
        yield


# ---- whole syncs


def a_sync(accounts: Accounts) -> None:
    dataset = a_dataset(accounts)
    run = a_whole_sync(accounts, dataset, requested_by="o'brien@example.com")
    assert target(dataset) == FIRST
    row = run.xcoms["publish", "return_value"]
    assert (row["rows_exported"], row["rows_loaded"], row["rows_in_target"]) == (2, 2, 2)
    assert (row["run_key"], row["requested_by"]) == (run.key, "o'brien@example.com")
    published = datetime.fromisoformat(row["published_at"]).replace(tzinfo=UTC)
    assert abs(published - datetime.now(UTC)) < timedelta(hours=1)


def a_source_with_nothing_new(accounts: Accounts) -> None:
    dataset = a_dataset(accounts)
    states: dict[str, dict[str, Any]] = {}
    a_whole_sync(accounts, dataset, states=states)
    [row] = ledger(dataset)
    assert (row["EXPORT_MODE"], row["EXPORT_REASON"]) == ("full", "no earlier publish is known")
    assert (row["SOURCE_VERSION"], row["SOURCE_ROWS"]) == (0, 2)
    again = accounts.begin(dataset, states=states)
    again.run(*WITHOUT_CHECK)
    assert again.xcoms["publish", "return_value"].get("unchanged") is True
    assert len(ledger(dataset)) == 1
    write(accounts, dataset, SECOND)
    a_whole_sync(accounts, dataset, states=states)
    assert target(dataset) == SECOND
    assert ledger(dataset)[-1]["EXPORT_REASON"] == "the source has changed since version 0"


def a_source_that_is_written_while_it_is_exported(accounts: Accounts) -> None:
    dataset = a_dataset(accounts)
    execute_file = Workspace._execute_file

    def written(workspace: Workspace, run: Any, task: Any, control: Any) -> None:
        execute_file(workspace, run, task, control)
        if task.key == "plan":
            write(accounts, dataset, SECOND)

    with mock.patch.object(Workspace, "_execute_file", written):
        a_whole_sync(accounts, dataset)
    assert target(dataset) == FIRST
    assert [row["SOURCE_VERSION"] for row in ledger(dataset)] == [0]


def two_syncs_of_hashed_columns(accounts: Accounts) -> None:
    dataset = a_dataset(accounts, source={"columns": ["k", "name"], "hash": ["name"]}, columns=KEY_AND_NAME)
    found = []
    for _ in range(2):
        a_whole_sync(accounts, dataset)
        found.append(target(dataset))
    assert found[0] == found[1]
    assert [len(row["name"]) for row in found[0]] == [64, 64]


def a_second_sync(accounts: Accounts) -> None:
    dataset = a_dataset(accounts)
    a_whole_sync(accounts, dataset)
    write(accounts, dataset, SECOND)
    a_whole_sync(accounts, dataset)
    assert target(dataset) == SECOND
    assert [(row["ROWS_INSERTED"], row["ROWS_DELETED"]) for row in ledger(dataset)] == [(2, 0), (3, 2)]


def syncs_that_append_or_merge(accounts: Accounts) -> None:
    appended, merged = a_dataset(accounts, load_mode="append"), a_dataset(accounts, **MERGE)
    for dataset in (appended, merged):
        a_whole_sync(accounts, dataset)
        write(accounts, dataset, SECOND)
        a_whole_sync(accounts, dataset)
    assert sorted(row["k"] for row in target(appended)) == [1, 2, 2, 3, 4]
    assert target(merged) == [FIRST[0], *SECOND]
    assert [(row["ROWS_INSERTED"], row["ROWS_UPDATED"]) for row in ledger(merged)] == [(2, 0), (2, 1)]


def values_of_each_type(accounts: Accounts) -> None:
    types = {
        "k": (pa.int64(), "NUMBER(38, 0)"),
        "flag": (pa.bool_(), "BOOLEAN"),
        "on_day": (pa.date32(), "DATE"),
        "at": (pa.timestamp("us", "UTC"), "TIMESTAMP_LTZ"),
        "utc": (pa.timestamp("us", "UTC"), "TIMESTAMP_NTZ"),
        "wall": (pa.timestamp("us"), "TIMESTAMP_NTZ"),
        "price": (pa.decimal128(10, 2), "NUMBER(10, 2)"),
        "digits": (pa.decimal128(38, 0), "NUMBER(38, 0)"),
        "label": (pa.string(), "VARCHAR"),
        "raw": (pa.binary(), "BINARY"),
        "ratio": (pa.float64(), "DOUBLE"),
    }
    instant = datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC)
    naive = instant.replace(tzinfo=None)
    price = pa.scalar("1234.50").cast(pa.decimal128(10, 2)).as_py()
    full = (1, True, date(2026, 3, 29), instant, instant, naive, price, 10**38 - 1, "", b"\x00\xff", math.nan)
    rows = [dict(zip(types, full, strict=True)), {**dict.fromkeys(types), "k": 2}]
    schema = pa.schema({name: kind for name, (kind, _) in types.items()})
    dataset = a_dataset(accounts, rows, schema=schema, columns={name: kind for name, (_, kind) in types.items()})
    a_whole_sync(accounts, dataset)
    expected = {**rows[0], "utc": naive, "raw": "00FF"}
    # As text: NaN equals nothing.
    assert [repr(list(row.values())) for row in target(dataset)] == [
        repr(list(expected.values())),
        repr(list(rows[1].values())),
    ]


def values_that_options_of_copy_change(accounts: Accounts) -> None:
    schema = pa.schema({"k": pa.int64(), "name": pa.string(), "pairs": pa.map_(pa.string(), pa.string())})
    rows = [{"k": 1, "name": "\\N", "pairs": [("a", "b"), ("c", None)]}, {"k": 2, "name": " x\t", "pairs": []}]
    dataset = a_dataset(accounts, rows, schema=schema, columns={"k": "NUMBER", "name": "VARCHAR", "pairs": "VARIANT"})
    a_whole_sync(accounts, dataset)
    assert [row["name"] for row in target(dataset)] == ["\\N", " x\t"]
    assert [json.loads(row["pairs"]) for row in target(dataset)] == [{"a": "b", "c": None}, {}]


def columns_in_another_order(accounts: Accounts) -> None:
    schema = pa.schema(reversed(list(SCHEMA)))
    dataset = a_dataset(accounts, schema=schema, schema_drift="ignore_new")
    a_whole_sync(accounts, dataset)
    assert target(dataset) == FIRST


def a_new_column_is_added(accounts: Accounts) -> None:
    dataset = a_dataset(accounts, schema_drift="add_new")
    schema = SCHEMA.append(pa.field("seen_at", pa.timestamp("us", "UTC")))
    seen = datetime(2026, 1, 1, tzinfo=UTC)
    write(accounts, dataset, [{**FIRST[0], "seen_at": seen}], schema)
    a_whole_sync(accounts, dataset)
    # An aware time: the column is a TIMESTAMP_LTZ.
    assert target(dataset) == [{**FIRST[0], "seen_at": seen}]


def an_export_without_rows(accounts: Accounts) -> None:
    dataset = a_dataset(accounts, allow_empty=True)
    a_whole_sync(accounts, dataset)
    write(accounts, dataset, [])
    run = a_whole_sync(accounts, dataset)
    assert run.xcoms["publish", "return_value"]["rows_deleted"] == 2
    assert target(dataset) == []


def an_export_of_several_files(accounts: Accounts) -> None:
    rows = [{"k": k, "name": str(k), "amount": None} for k in range(5)]
    dataset = a_dataset(accounts, rows)
    with mock.patch.object(parquet, "MAX_ROWS_PER_FILE", 2):
        run = a_whole_sync(accounts, dataset)
    assert run.xcoms["copy_into_staging", "return_value"]["files"] == 3
    assert target(dataset) == rows


def an_earlier_export_is_loaded_again(accounts: Accounts) -> None:
    dataset = a_dataset(accounts)
    first = a_whole_sync(accounts, dataset)
    write(accounts, dataset, SECOND)
    a_whole_sync(accounts, dataset)
    again = accounts.begin(dataset, reload_run_key=first.key)
    again.run("export_to_s3", *LOAD)
    assert target(dataset) == FIRST


def an_earlier_export_has_expired(accounts: Accounts) -> None:
    dataset = a_dataset(accounts)
    first = a_whole_sync(accounts, dataset)
    path = first.xcoms["wait_for_export", "return_value"]["export_path"]
    s3_filesystem(accounts.s3_url).rm(f"{path}data/", recursive=True)
    again = accounts.begin(dataset, reload_run_key=first.key)
    again.run("export_to_s3")
    with pytest.raises(NothingLoadedError, match=r"found 0 file\(s\)"):
        again.run("copy_into_staging")


def other_files_beside_the_data(accounts: Accounts) -> None:
    dataset = a_dataset(accounts)
    run = exported(accounts, dataset)
    path = run.xcoms["wait_for_export", "return_value"]["export_path"]
    s3_filesystem(accounts.s3_url).pipe_file(f"{path}data/part-00000.snappy.parquet.crc", b"no data")
    run.run(*LOAD)
    assert target(dataset) == FIRST


def statements_say_who_they_are_of(accounts: Accounts) -> None:
    run = a_whole_sync(accounts, a_dataset(accounts))
    headers = DataShareSnowflakeHook("snowflake_default").get_headers()
    executed = httpx.get(f"{accounts.snowflake_url}/_sandbox/statements", headers=headers).json()
    tags = [json.loads(statement["query_tag"] or "{}") for statement in executed]
    assert {tag.get("task") for tag in tags if tag.get("run_key") == run.key} == set(LOAD[:3])
    assert LOAD[3:] == ("finish_sync",), "which asks Snowflake nothing after a publish"


# ---- steps that are repeated


def the_load_is_repeated(accounts: Accounts) -> None:
    dataset = a_dataset(accounts)
    run = exported(accounts, dataset, *LOAD)
    run.run(*LOAD[:3])
    run.run("copy_into_staging", *LOAD)
    assert target(dataset) == FIRST
    assert len(ledger(dataset)) == 1


def the_answer_to_a_copy_is_lost(accounts: Accounts) -> None:
    dataset = a_dataset(accounts)
    run = exported(accounts, dataset)
    with accounts.fault(
        accounts.snowflake_url,
        method="POST",
        path="statements$",
        body="COPY INTO [^@]*@[^ ]*/data/",
        times=1,
        action={"drop": "after"},
    ):
        run.run("copy_into_staging")
        assert [fault["hits"] for fault in httpx.get(f"{accounts.snowflake_url}/_sandbox/faults").json()] == [1]
    run.run(*LOAD[1:])
    assert target(dataset) == FIRST


def the_answer_to_run_now_is_lost(accounts: Accounts) -> None:
    dataset = a_dataset(accounts)
    run = accounts.begin(dataset)
    with accounts.fault(accounts.databricks_url, method="POST", path="run-now$", times=1, action={"drop": "after"}):
        run.run("export_to_s3")
    # Before the wait: a second run would write to the same path, and the first could fail of it.
    runs = accounts.on_databricks("runs/list", limit=25)["runs"]
    keys = [parameter["value"] for one in runs for parameter in one["job_parameters"] if parameter["name"] == "run_key"]
    assert keys.count(run.key) == 1
    run.run("wait_for_export")


def databricks_is_busy(accounts: Accounts) -> None:
    run = accounts.begin(a_dataset(accounts))
    busy = {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "Too many requests."}
    for method, path in (("POST", "run-now$"), ("GET", "runs/get$")):
        action = {"status": 429, "json": busy, "headers": {"Retry-After": "1"}}
        with accounts.fault(accounts.databricks_url, method=method, path=path, times=1, action=action):
            run.run(EXPORT[method == "GET"])


def an_export_is_made_again(accounts: Accounts) -> None:
    dataset = a_dataset(accounts)
    absent = dataset.model_copy(update={"source_table": "main.broken.nothing"})
    run = accounts.begin(absent)
    run.run("export_to_s3")
    with pytest.raises(TriggerFailedError):
        run.run("wait_for_export")
    # The source is there, and the task is cleared: the next attempt has its own path.
    run.dag = accounts.begin(dataset).dag
    run.run(*SYNC)
    assert target(dataset) == FIRST
    assert f"/{run.key}/2-" in ledger(dataset)[0]["EXPORT_PATH"]


# ---- syncs that must fail, and change nothing


def the_source_is_absent(accounts: Accounts) -> None:
    dataset = a_dataset(accounts).model_copy(update={"source_table": "main.broken.nothing"})
    run = accounts.begin(dataset)
    run.run("export_to_s3")
    with pytest.raises(TriggerFailedError, match="TABLE_OR_VIEW_NOT_FOUND"):
        run.run("wait_for_export")


def an_export_is_cancelled(accounts: Accounts) -> None:
    run = accounts.begin(a_dataset(accounts))
    task, context = run.prepared("export_to_s3")
    accounts.order("hold", at="start", count=1)
    try:
        task.execute(context)
        run_id = run.xcoms["export_to_s3", "run_id"]
        until(lambda: accounts.on_databricks("runs/get", run_id=run_id)["state"]["life_cycle_state"] == "RUNNING")
        task.on_kill()
    finally:
        accounts.order("release")
    with pytest.raises(TriggerFailedError, match="ended as CANCELED"):
        run.run("wait_for_export")


def a_sync_ends_before_its_export_is_followed(accounts: Accounts) -> None:
    # More runs than a page has: those of other syncs are newer, and come first.
    dataset = a_dataset(accounts)
    run, *others = (accounts.begin(dataset) for _ in range(21))
    accounts.order("hold", at="start", count=1 + len(others))
    accounts.order("fail_next", message="Not cancelled.", count=1 + len(others))
    try:
        for each in (run, *others):
            each.run("export_to_s3")
        with pytest.raises(NotPublishedError):
            run.run("finish_sync")
    finally:
        accounts.order("release")
    for each, end in ((run, "ended as CANCELED"), (others[0], "Not cancelled."), (others[-1], "Not cancelled.")):
        with pytest.raises(TriggerFailedError, match=end):
            each.run("wait_for_export")


def an_export_times_out_on_databricks(accounts: Accounts) -> None:
    settings = accounts.on_databricks("get", job_id=accounts.job_id)["settings"]
    settings = {**settings, "name": "too long", "timeout_seconds": 1}
    made = httpx.post(f"{accounts.databricks_url}/api/2.2/jobs/create", json=settings, headers=SIGNED)
    run = accounts.begin(a_dataset(accounts), job_id=str(made.json()["job_id"]))
    accounts.order("hold", at="start", count=1)
    try:
        run.run("export_to_s3")
        with pytest.raises(TriggerFailedError, match="ended as TIMEDOUT"):
            run.run("wait_for_export")
    finally:
        accounts.order("release")


def more_exports_than_the_job_runs_at_once(accounts: Accounts) -> None:
    dataset = a_dataset(accounts)
    limit = accounts.on_databricks("get", job_id=accounts.job_id)["settings"]["max_concurrent_runs"]
    accounts.order("hold", at="start", count=limit)
    try:
        runs = [accounts.begin(dataset) for _ in range(limit + 1)]
        for run in runs:
            run.run("export_to_s3")
    finally:
        accounts.order("release")
    runs[-1].run("wait_for_export", *LOAD)
    assert target(dataset) == FIRST


def a_value_that_cannot_be_cast(accounts: Accounts) -> None:
    dataset = a_dataset(accounts, columns={**COLUMNS, "name": "NUMBER(38, 0)"}, casts=("name",))
    run = exported(accounts, dataset)
    with pytest.raises(SnowflakeStatementError, match='Failed to cast variant value "one"'):
        run.run("copy_into_staging")


def a_text_that_is_too_long(accounts: Accounts) -> None:
    run = exported(accounts, a_dataset(accounts, columns={**COLUMNS, "name": "VARCHAR(2)"}))
    with pytest.raises(SnowflakeStatementError, match=r"\[\"NAME\":2\]"):
        run.run("copy_into_staging")


def a_text_that_is_not_utf8(accounts: Accounts) -> None:
    run = exported(accounts, a_dataset(accounts))
    files = s3_filesystem(accounts.s3_url)
    [path] = files.glob(f"{run.xcoms['wait_for_export', 'return_value']['export_path']}data/part-*")
    raw = pa.array([b"a\xffb", b""], pa.binary())
    table = pa.table({"k": [1, 2], "name": pa.Array.from_buffers(pa.string(), 2, raw.buffers()), "amount": [1.5, None]})
    with files.open(path, "wb") as target_file:
        pq.write_table(table, target_file)
    with pytest.raises(SnowflakeStatementError, match="Invalid UTF8 detected"):
        run.run("copy_into_staging")


def a_null_that_the_target_does_not_take(accounts: Accounts) -> None:
    dataset = a_dataset(accounts, columns={**COLUMNS, "amount": "DOUBLE NOT NULL"})
    run = exported(accounts, dataset)
    with pytest.raises(SnowflakeStatementError, match="NULL result in a non-nullable column"):
        run.run("copy_into_staging")


def a_publish_that_fails_halfway(accounts: Accounts) -> None:
    dataset = a_dataset(accounts, **MERGE)
    run = staged(accounts, dataset)
    # After the check, which would have refused it.
    query(f"UPDATE {staging_table(run)} SET k = 2")
    query(f"INSERT INTO {dataset.target_table} SELECT 2, 'old', NULL")
    with pytest.raises(SnowflakeStatementError, match="Duplicate row detected"):
        run.run("publish")
    assert ledger(dataset) == []
    assert [row["name"] for row in target(dataset)] == ["old"]
    assert [row["RUN_KEY"] for row in query(f"SELECT * FROM {Share().lock_table(dataset.target_table)}")] == [""]


def staging_table(run: DagRun) -> str:
    return str(run.xcoms["copy_into_staging", "return_value"]["staging_table"])


def a_sync_was_overtaken(accounts: Accounts) -> None:
    dataset = a_dataset(accounts)
    slow = staged(accounts, dataset)
    write(accounts, dataset, SECOND)
    a_whole_sync(accounts, dataset)
    with pytest.raises(SupersededError):
        slow.run("publish")
    assert target(dataset) == SECOND
    assert len(ledger(dataset)) == 1


def two_publish_at_once(accounts: Accounts) -> None:
    dataset = a_dataset(accounts, load_mode="append")
    runs = [staged(accounts, dataset) for _ in range(2)]
    meeting = threading.Barrier(2)

    def meet(_: SqlApi, sql: str) -> None:
        if sql.startswith(f"MERGE INTO {Share().lock_table(dataset.target_table)}"):
            try:
                meeting.wait(2)
            except threading.BrokenBarrierError:
                return  # Nobody comes: the other one waits for the lock.

    with after_each_statement(meet), concurrent.futures.ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(run.run, "publish") for run in runs]
        failures = [end.exception() for end in ends if end.exception() is not None]
    # The one that was staged first may have come second.
    assert [failure for failure in failures if not isinstance(failure, SupersededError)] == []
    assert len(query(f"SELECT * FROM {Share().lock_table(dataset.target_table)}")) == 1
    assert len(ledger(dataset)) == 2 - len(failures)
    assert len(target(dataset)) == len(FIRST) * len(ledger(dataset))


def readers_look_while_a_sync_is_published(accounts: Accounts) -> None:
    dataset = a_dataset(accounts)
    a_whole_sync(accounts, dataset)
    write(accounts, dataset, SECOND)
    run = staged(accounts, dataset)
    seen: list[tuple[int, ...]] = []
    looks = (
        f"SELECT COUNT(*) FROM {dataset.target_table}",
        f"SELECT COUNT(*), SUM(rows_in_target) FROM {Share().ledger_table} WHERE dataset = '{dataset.name}'",
    )

    def look(api: SqlApi, _: str) -> None:
        reader = api._engine.connect("DATA_SHARE", "PUBLIC", warehouse="LOAD_WH")
        seen.append(tuple(int(number) for sql in looks for number in reader.cursor().execute(sql).fetchall()[0]))
        reader.close()

    with after_each_statement(look):
        run.run("publish")
    assert len(seen) > 5
    changes = [seen[0], *(after for before, after in itertools.pairwise(seen) if after != before)]
    assert changes == [(2, 1, 2), (3, 2, 5)]


# ---- names and rights


def keys_of_the_target_are_not_enforced(accounts: Accounts) -> None:
    rows = [FIRST[0], {**FIRST[0], "name": "uno"}]
    dataset = a_dataset(accounts, rows, columns={**COLUMNS, "k": "NUMBER(38, 0) PRIMARY KEY"})
    for _ in range(2):
        a_whole_sync(accounts, dataset)
        assert target(dataset) == rows


def of_others(accounts: Accounts, *rights: str, **fields: Any) -> Dataset:
    """A dataset whose target belongs to another role, which gave the loader these rights."""
    dataset = a_dataset(accounts, **fields)
    administer(
        f"GRANT OWNERSHIP ON TABLE {dataset.target_table} TO ROLE accountadmin",
        f"GRANT {', '.join(rights)} ON TABLE {dataset.target_table} TO ROLE data_share_loader",
    )
    return dataset


def may_not(run: DagRun, task_id: str, match: str) -> None:
    with pytest.raises(SnowflakeStatementError, match=match):
        run.run(task_id)


def a_target_that_may_only_be_read(accounts: Accounts) -> None:
    dataset = of_others(accounts, "SELECT", load_mode="append")
    run = staged(accounts, dataset)
    may_not(run, "publish", "Insufficient privileges to operate on table")
    assert (target(dataset), ledger(dataset)) == ([], [])


def an_integration_that_may_not_be_used(accounts: Accounts) -> None:
    run = exported(accounts, a_dataset(accounts))
    right = "USAGE ON INTEGRATION s3_share_int"
    administer(f"REVOKE {right} FROM ROLE data_share_loader")
    try:
        may_not(run, "copy_into_staging", "Insufficient privileges to operate on integration")
    finally:
        administer(f"GRANT {right} TO ROLE data_share_loader")


def a_target_that_may_not_be_replaced(accounts: Accounts) -> None:
    dataset = of_others(accounts, "SELECT", "INSERT")
    run = staged(accounts, dataset)
    may_not(run, "publish", "Insufficient privileges to operate on table")
    assert ledger(dataset) == []


def a_target_that_may_not_be_altered(accounts: Accounts) -> None:
    dataset = of_others(accounts, "SELECT", "INSERT", "DELETE", schema_drift="add_new")
    write(accounts, dataset, [{**FIRST[0], "note": "new"}], SCHEMA.append(pa.field("note", pa.string())))
    run = staged(accounts, dataset)
    may_not(run, "publish", "Insufficient privileges to operate on table")
    assert (target(dataset), ledger(dataset)) == ([], [])


def readers_keep_their_grants(accounts: Accounts) -> None:
    dataset = a_dataset(accounts)
    role = f"reader_{dataset.name}"
    administer(
        f"CREATE ROLE {role}",
        f"GRANT USAGE ON DATABASE data_share TO ROLE {role}",
        f"GRANT USAGE ON SCHEMA data_share.public TO ROLE {role}",
        f"GRANT USAGE ON WAREHOUSE load_wh TO ROLE {role}",
        f"GRANT SELECT ON TABLE {dataset.target_table} TO ROLE {role}",
        f"GRANT ROLE {role} TO USER share_svc",
    )
    a_whole_sync(accounts, dataset)
    assert len(query(f"SELECT * FROM {dataset.target_table}", role=role.upper())) == 2


def set_up_again(accounts: Accounts) -> None:
    accounts.begin_dag("set_up_snowflake").run(
        "create_schemas", "create_stage", "create_ledger", "check_targets", "list_targets", "create_target"
    )


def set_up_without_the_right_to_create(accounts: Accounts) -> None:
    right = "CREATE STAGE ON SCHEMA data_share.public"
    administer(f"REVOKE {right} FROM ROLE data_share_loader")
    try:
        may_not(accounts.begin_dag("set_up_snowflake"), "create_stage", "Insufficient privileges to operate on schema")
    finally:
        administer(f"GRANT {right} TO ROLE data_share_loader")


def clean_up_beside_tables_of_others(accounts: Accounts) -> None:
    key = share.run_key("a", f"b{next(_numbers)}", datetime(2020, 1, 1, tzinfo=UTC))
    own, others = (Share().staging_table(name, key, 1, "attempt") for name in ("own", "others"))
    query(f"CREATE TABLE {own} (n INTEGER)")
    administer(f"CREATE TABLE {others} (n INTEGER)")
    try:
        answer = accounts.begin_dag("clean_up_share", keep_days=7).task("clean_up")
        assert answer["dropped_tables"] == [own.partition(".")[2].upper()]
        assert query(f"SELECT * FROM {others}", ADMINISTRATOR) == []
    finally:
        # what a broken emulator kept from the clean-up would be one more for the next
        query(f"DROP TABLE IF EXISTS {own}")
        administer(f"DROP TABLE {others}")


# ---- signing in


def who_may_follow_an_export(accounts: Accounts) -> None:
    run = exported(accounts, a_dataset(accounts))
    for connection, said in (
        ("databricks_password", "Status Code: 401"),
        ("databricks_wrong_token", "Status Code: 403"),
        ("databricks_expired_secret", "401"),
    ):
        trigger = run.trigger(run.prepared("wait_for_export")[0])
        trigger.databricks_conn_id = connection
        with run.xcoms_of_triggers():
            events_of(trigger)
        failure = run.xcoms.pop(("wait_for_export", "failure"), {"message": "no failure", "code": ""})
        assert "cannot be followed" in failure["message"]
        assert said in failure["message"]
        assert failure["code"] == "DATABRICKS_SIGN_IN"
    task, context = run.prepared("export_to_s3")
    task.databricks_conn_id = "databricks_expired_secret"
    with pytest.raises(AirflowException, match="invalid_client") as refused:
        task.execute(context)
    assert failure_of(refused.value, "export_to_s3").code is FailureCode.DATABRICKS_SIGN_IN
    assert task.retry_policy.evaluate(refused.value, 1, 2) != RetryDecision.default()


def a_service_principal_exports(accounts: Accounts) -> None:
    run = accounts.begin(a_dataset(accounts))
    task, context = run.prepared("export_to_s3")
    task.databricks_conn_id = "databricks_principal"
    task.execute(context)
    trigger = run.trigger(run.prepared("wait_for_export")[0])
    trigger.databricks_conn_id = "databricks_principal"
    with run.xcoms_of_triggers():
        events_of(trigger)
    assert run.xcoms.get(("wait_for_export", "failure")) is None


def an_unknown_job_or_run(accounts: Accounts) -> None:
    dataset = a_dataset(accounts)
    run = accounts.begin(dataset, job_id="1234567")
    with pytest.raises(DatabricksApiError, match="does not exist"):
        run.run("export_to_s3")
    run.xcoms["export_to_s3", "run_id"] = 1234567
    with pytest.raises(TriggerFailedError, match=r"cannot be followed any longer: .*Status Code: 400"):
        run.run("wait_for_export")


def who_may_load(accounts: Accounts) -> None:
    for connection, said in (
        ("snowflake_wrong_key", r"HTTP 401: JWT token is invalid.*code 390144"),
        ("snowflake_wrong_access_token", r"HTTP 401: Programmatic access token is invalid.*code 394400"),
        ("snowflake_wrong_role", r"HTTP 400: Role 'NO_SUCH_ROLE' .*does not exist.*code 390189"),
        ("snowflake_other_role", r"HTTP 400: Role 'SYSADMIN' .*not granted.*code 390186"),
    ):
        with pytest.raises(SnowflakeRefusedError, match=said):
            query("SELECT 1", connection)


def a_load_with_a_token(accounts: Accounts) -> None:
    for connection in ("snowflake_access_token", "snowflake_oauth"):
        assert query("SELECT CURRENT_USER() AS who", connection) == [{"WHO": "SHARE_SVC"}]


# ---- the SQL API


def more_rows_than_an_answer_holds(accounts: Accounts) -> None:
    assert [row["N"] for row in query("SELECT range AS n FROM range(25000) ORDER BY 1")] == list(range(25000))


def a_statement_takes_too_long(accounts: Accounts) -> None:
    with pytest.raises(SnowflakeStatementError, match=r"timeout of 1 second\(s\).*code 000630"):
        DataShareSnowflakeHook("snowflake_default", statement_timeout=1).run_statement("SELECT SYSTEM$WAIT(5)")


def a_statement_fails(accounts: Accounts) -> None:
    with pytest.raises(
        SnowflakeStatementError, match=r"'NOTHING_HERE' does not exist.*\(code 002003, query id [0-9a-f-]{36}\)"
    ):
        query("SELECT * FROM nothing_here")


def a_statement_is_cancelled(accounts: Accounts) -> None:
    run = accounts.begin(a_dataset(accounts))
    _, context = run.prepared("finish_sync")
    task = SnowflakeStatementsOperator(share=Share(), task_id="long", sql="SELECT SYSTEM$WAIT(5)", dag=run.dag)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        executed = pool.submit(task.execute, context)
        until(lambda: statement_runs(accounts))
        task.on_kill()
        with pytest.raises(SnowflakeStoppedError, match="cancel"):
            executed.result()
