"""Publishes of one target, statement by statement, in many orders: each export counts once, whatever each one sees."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest

from data_share import share
from data_share.datasets import Dataset
from data_share.share import Share
from data_share.snowflake.sql_api import DataShareSnowflakeHook
from data_share.sql_files import render_sql
from emulators.s3 import s3_filesystem
from emulators.snowflake.engine import Connection, Engine
from emulators.snowflake.errors import SqlError
from emulators.snowflake.server import bootstrap
from tests.airflow_double import with_templates_compiled_once
from tests.sandbox.load.conftest import set_up_statements
from tests.sandbox.load.driver import Run

pytestmark = pytest.mark.sandbox

MODES: dict[str, dict[str, Any]] = {
    "replace": {"load_mode": "replace"},
    "append": {"load_mode": "append"},
    "merge": {"load_mode": "merge", "merge_keys": ("k",)},
}
Rows = list[tuple[int, str]]
BEFORE: Rows = [(1, "before"), (2, "before")]
STAGED: dict[str, Rows] = {"first": [(2, "first"), (3, "first")], "second": [(3, "second"), (4, "second")]}
"""The rows of two runs, of which the second was staged later."""


def changed(rows: Rows, mode: str, run: str) -> Rows:
    """Return what the target holds when a run is published on top of rows."""
    staged = STAGED[run]
    if mode == "replace":
        return sorted(staged)
    if mode == "append":
        return sorted(rows + staged)
    return sorted({**dict(rows), **dict(staged)}.items())


def statements(sql: str) -> list[str]:
    return DataShareSnowflakeHook.split_sql_string(sql, strip_semicolon=True)


def query(engine: Engine, sql: str) -> list[tuple[Any, ...]]:
    """Run one statement in a session of its own."""
    with closing(engine.connect("DATA_SHARE", "PUBLIC", warehouse="LOAD_WH")) as session:
        return list(session.cursor().execute(sql).fetchall())


@dataclass(eq=False)
class Publisher:
    """
    A process that publishes a run: a session of its own, whose statements are sent one by one.

    :param run: which run it publishes
    """

    engine: Engine
    run: str
    sql: Sequence[str]
    sent: int = 0
    error: SqlError | None = None
    is_over: bool = False
    session: Connection | None = None
    _running: Future[Any] | None = None
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def step(self) -> None:
        """Begin the session, or send its next statement; nothing when the last one waits for a lock, or all is over."""
        self.settle()
        if self.is_over or self._running is not None:
            return
        if self.session is None:
            self.session = self.engine.connect("DATA_SHARE", "PUBLIC", warehouse="LOAD_WH")
            return
        self._running = self._thread.submit(self.session.cursor().execute, self.sql[self.sent])
        self.sent += 1
        self.settle()

    def settle(self) -> None:
        """Wait until the statement that runs has ended, or waits for a lock."""
        if self._running is None or self.session is None:
            return
        while not self._running.done():
            if self.engine.locks.is_waiting(self.session):
                return
            time.sleep(0.001)
        error, self._running = self._running.exception(), None
        if error is not None and not isinstance(error, SqlError):
            raise error
        self.error = error
        if error is not None or self.sent == len(self.sql):
            # As the request of several statements does.
            self.session.close()
            self._thread.shutdown()
            self.is_over = True


class Target:
    """
    A dataset's target, and two runs that are staged.

    :param mode: its load mode
    """

    def __init__(self, engine: Engine, sync_datasets: ModuleType, mode: str) -> None:
        self.engine, self.mode = engine, mode
        self.dataset = Dataset.model_validate(
            {
                "name": f"in_{mode}",
                "description": "Made by a test.",
                "source_table": "main.load.tides",
                "target_table": f"in_{mode}",
                "required_columns": ("k",),
                **MODES[mode],
            }
        )
        self.query(f"CREATE TABLE {self.dataset.target} (k NUMBER(38, 0), name VARCHAR)")
        dag = with_templates_compiled_once(sync_datasets.sync_dag(self.dataset))
        self.runs = {name: Run(dag=dag) for name in STAGED}
        self.sql = {name: self._stage(run, STAGED[name]) for name, run in self.runs.items()}

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        return query(self.engine, sql)

    def _stage(self, run: Run, rows: Rows) -> list[str]:
        """Do what the steps before ``publish`` would; return its statements."""
        path = Share().export_path(self.dataset.name, run.key, 1, "attempt")
        run.xcoms["export_to_s3", "export"] = {"run_id": 1, "clear_number": 0}
        run.xcoms["wait_for_export", "return_value"] = {"run_id": 1, "run_page_url": "", "export_path": path}
        copy, _ = run.prepared("copy_into_staging")
        table = copy.sync.new_staging_table
        for sql in (render_sql("create_lock", share=Share(), sync=copy.sync), copy.sql["insert_lock_row"]):
            self.query(statements(sql)[0])
        self.query(f"CREATE TABLE {share.staging_manifest(table)} LIKE {Share().manifest_table}")
        self.query(f"CREATE TABLE {table} (k NUMBER(38, 0), name VARCHAR)")
        self.query(f"INSERT INTO {table} VALUES {', '.join(map(str, rows))}")
        self.query(
            f"INSERT INTO {share.staging_manifest(table)} "
            "(run_key, dataset, source_table, row_count, file_count, column_types, exported_at, staged_at) "
            f"SELECT '{run.key}', '{self.dataset.name}', 'main.load.tides', {len(rows)}, 1, NULL, SYSDATE(), SYSDATE()"
        )
        run.xcoms["copy_into_staging", "return_value"] = {
            "export_path": path,
            "databricks_run_id": 1,
            "rows_loaded": len(rows),
            "staging_table": table,
            "staged_at": "2026-01-01T00:00:00",
            "columns": ["K", "NAME"],
            "new_columns": {},
            "created_columns": {},
            "query_ids": [],
            "clear_number": 0,
        }
        sent = statements(run.prepared("publish")[0].sql["publish"])
        # Without the statements after it, which drop the staging tables: each order publishes them again.
        return sent[: sent.index("COMMIT") + 1]

    def reset(self) -> None:
        """Let the target be as it was before the first publish."""
        lock = Share().lock_table(self.dataset.target_table)
        self.query(
            f"UPDATE {lock} SET dataset = '', run_key = '', export_path = '', staged_at = '1970-01-01'::TIMESTAMP_NTZ"
        )
        for table in (self.dataset.target_table, Share().ledger_table, Share().manifest_table):
            self.query(f"DELETE FROM {table}")
        self.query(f"INSERT INTO {self.dataset.target_table} VALUES {', '.join(map(str, BEFORE))}")

    def play(self, runs: Sequence[str], order: Sequence[int]) -> list[str]:
        """
        Publish runs at the same time, and compare what is left with what may be.

        :param runs: the run that each process publishes
        :param order: the process that takes the next step; when it is at its end, they go on one after the other
        :return: the runs that were published, in their order
        """
        self.reset()
        publishers = [Publisher(self.engine, run, self.sql[run]) for run in runs]
        published: list[Publisher] = []
        deadline = time.monotonic() + 60
        steps = iter(order)
        while not all(publisher.is_over for publisher in publishers):
            assert time.monotonic() < deadline, "they wait for each other"
            number = next(steps, None)
            for publisher in publishers if number is None else [publishers[number]]:
                publisher.step()
            for publisher in publishers:
                publisher.settle()
                if publisher.is_over and publisher.error is None and publisher not in published:
                    published.append(publisher)
        for publisher in publishers:
            assert publisher.error is None or "NULL result in a non-nullable column" in publisher.error.msg
        runs_published = [publisher.run for publisher in published]
        self.check(runs_published)
        return runs_published

    def check(self, published: Sequence[str]) -> None:
        assert len(set(published)) == len(published), "a run was published twice"
        assert published in (["first"], ["second"], ["first", "second"]), "a sync undid a later one, or none was done"
        rows = BEFORE
        for run in published:
            rows = changed(rows, self.mode, run)
        found = self.query(f"SELECT k, name FROM {self.dataset.target_table} ORDER BY 1, 2")
        assert [(int(k), name) for k, name in found] == rows
        keys = [self.runs[run].key for run in published]
        assert sorted(key for (key,) in self.query(f"SELECT run_key FROM {Share().ledger_table}")) == sorted(keys)
        assert sorted(key for (key,) in self.query(f"SELECT run_key FROM {Share().manifest_table}")) == sorted(keys)
        locked = self.query(f"SELECT run_key, dataset FROM {Share().lock_table(self.dataset.target_table)}")
        assert locked == [(keys[-1], self.dataset.name)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    made = Engine(tmp_path_factory.mktemp("interleaved"), s3_filesystem("http://127.0.0.1:9"), identifier="A")
    bootstrap(made)
    with closing(made):
        for sql in set_up_statements("create_schemas", "create_ledger"):
            # A session each: CREATE SCHEMA makes the new one the current schema.
            query(made, sql)
        yield made


@pytest.fixture(scope="module")
def targets(engine: Engine, sync_datasets: ModuleType) -> dict[str, Target]:
    return {mode: Target(engine, sync_datasets, mode) for mode in MODES}


@pytest.fixture
def consistency(engine: Engine, request: pytest.FixtureRequest) -> Iterator[None]:
    """What sessions see of what others commit after they began: all, or as little as Snowflake allows."""
    with closing(engine.connect()) as administrator:
        administrator.cursor().execute(f"ALTER ACCOUNT SET READ_CONSISTENCY_MODE = '{request.param}'")
        yield
        administrator.cursor().execute("ALTER ACCOUNT SET READ_CONSISTENCY_MODE = 'GLOBAL'")


def one_inside_another(statement_count: int) -> list[list[int]]:
    """Return an order for each place in one publish in which the whole of another one may come."""
    # One step more than statements: the session begins before the first.
    return [[0] * place + [1] * (statement_count + 1) for place in range(statement_count + 2)]


@pytest.mark.parametrize("consistency", ["SESSION"], indirect=True)
def test_two_processes_append_one_export_once_also_when_they_see_late(
    targets: dict[str, Target], consistency: None
) -> None:
    target = targets["append"]
    for order in one_inside_another(len(target.sql["first"])):
        assert target.play(["first", "first"], order) == ["first"], order


@pytest.mark.tier("nightly")
@pytest.mark.parametrize("consistency", ["GLOBAL", "SESSION"], indirect=True)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("runs", [("first", "first"), ("first", "second"), ("second", "first")], ids="-".join)
def test_one_publish_inside_another(
    targets: dict[str, Target], mode: str, runs: tuple[str, str], consistency: None
) -> None:
    target = targets[mode]
    ends = {tuple(target.play(runs, order)) for order in one_inside_another(len(target.sql[runs[0]]))}
    # Both ends of two runs that race are met: no order is played in vain.
    assert ends == {("first",)} if len(set(runs)) == 1 else ends == {("second",), ("first", "second")}


@pytest.mark.tier("nightly")
@pytest.mark.parametrize("consistency", ["GLOBAL", "SESSION"], indirect=True)
@pytest.mark.parametrize("mode", MODES)
def test_three_publishes_in_any_order(targets: dict[str, Target], mode: str, consistency: None) -> None:
    target = targets[mode]
    drawn = random.Random(f"{mode} {consistency}")
    for _ in range(20):
        runs = [drawn.choice(["first", "second"]) for _ in range(3)]
        order = [drawn.randrange(3) for _ in range(24)]
        assert target.play(runs, order), (runs, order)
