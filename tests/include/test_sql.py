"""The SQL files as Airflow renders them: the right tables, values as literals, and nothing left to fill in."""

from __future__ import annotations

import itertools
import json
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2
import pytest
import sqlglot
import sqlparse
from airflow.sdk import DAG
from sqlglot import exp
from sqlglot.tokens import TokenType

import data_share
from data_share.datasets import Dataset, LoadMode
from data_share.render import export_sql
from data_share.share import Share, run_key_of
from data_share.snowflake.load import SnowflakeCopyIntoOperator
from data_share.snowflake.policies import Samples
from data_share.snowflake.sql_api import DataShareSnowflakeHook
from data_share.snowflake.verification import compared_columns, same_rows
from data_share.sql_files import COLUMNS_OF_VERSION, render_sql
from data_share.sql_text import source_name
from data_share.sync import InvalidExportPathError
from tests.shipped import left_out
from tests.source_names import NO_SOURCES, SOURCES, WITHOUT_BACKTICKS, no_paths

PROJECT = Path(__file__).resolve().parents[2]
SQL = PROJECT / "include" / "sql"
SYNC_STEPS = ("copy_into_staging", "check_staging", "publish", "finish_sync")
EXPORT_PATH = "s3://databricks-snowflake-share/dataset/shared_forecasts/20260102T030405_0a1b2c3d/1-0a1b2c3d/"
EARLIER: dict[str, Any] = {
    "run_id": 66,
    "export_path": EXPORT_PATH.replace("20260102T030405_0a1b2c3d/1", "20250102T030405_ffffffff/2"),
}
COPIED = {
    "export_path": EXPORT_PATH,
    "databricks_run_id": 77,
    "files": 2,
    "files_exported": 2,
    "rows_exported": 2,
    "rows_parsed": 2,
    "rows_loaded": 2,
    "staging_table": "staging.shared_forecasts__of_an_attempt",
    "staged_at": "2026-01-02T03:04:30",
    "columns": ["PLACE", "DATE", "DEGREES"],
    "new_columns": {},
    "created_columns": {},
    "proofs": [
        {"column": "PLACE", "form": "text", "scale": 0},
        {"column": 'Net "price"', "form": "number", "scale": 2},
        {"column": "WIND", "form": "fraction", "scale": 0},
    ],
    "unproven": {"TAGS": "no checksum is known for array<int> in VARIANT"},
    "query_ids": ["query 1", "query 2"],
    "statement_seconds": 1.5,
    "clear_number": 0,
}
MERGE: dict[str, Any] = {"load_mode": "merge", "merge_keys": ("place", "date")}
TARGET = '"SHARE_DB"."PUBLIC"."SHARED_FORECASTS"'
Render = Callable[..., Any]
MakeDag = Callable[..., DAG]


def dataset(**changes: Any) -> Dataset:
    fields = {
        "name": "shared_forecasts",
        "description": "Forecasts by place.",
        "source_table": "main.weather.forecasts",
        "target_table": "share_db.public.shared_forecasts",
        "load_mode": "replace",
        "required_columns": ("place", "degrees"),
        "checks": {"degrees_possible": "degrees BETWEEN -130 AND 140"},
    }
    return Dataset.model_validate({**fields, **changes})


@pytest.fixture
def task_context(task_context: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Make the context of a task when the steps before have run: with their XComs."""

    def make(
        task: Any = None, *, conf: dict[str, Any] | None = None, copied: dict[str, Any] | None = None, **changes: Any
    ) -> dict[str, Any]:
        context = task_context(task, conf=conf, **changes)
        xcoms = context["dag_run"].xcoms
        xcoms["copy_into_staging", "return_value"] = {**COPIED, **(copied or {})}
        xcoms["check_staging", "return_value"] = {"statement_seconds": 0.25}
        if context["params"].get("reload_run_key"):
            del xcoms["wait_for_export", "return_value"]
            xcoms["copy_into_staging", "return_value"] |= {
                "export_path": EARLIER["export_path"],
                "databricks_run_id": EARLIER["run_id"],
            }
        return context

    return make


@pytest.fixture(autouse=True)
def ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the place of the ledger, which knows one earlier sync."""
    monkeypatch.setattr(SnowflakeCopyIntoOperator, "_find_earlier_export", lambda self, run_key: EARLIER)


@pytest.fixture
def make_dag(sync_datasets: ModuleType) -> MakeDag:
    """Make the DAG of a dataset."""
    return lambda **changes: sync_datasets.sync_dag(dataset(**changes))


@pytest.fixture
def dag(make_dag: MakeDag) -> DAG:
    return make_dag()


@pytest.fixture
def key(task_context: Callable[..., dict[str, Any]]) -> str:
    return run_key_of(task_context()["dag_run"])


def statements(sql: str) -> list[str]:
    """Return the statements of a rendered file as the operators send them, in one line each."""
    return [" ".join(one.split()) for one in DataShareSnowflakeHook.split_sql_string(sql, strip_semicolon=True)]


# ---- each file


LEFT_OVER = ("{{", "}}", "{%", "{#", "None", "Undefined", "<function", "<module")
WAYS_TO_LOAD: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "replace": ({}, {}),
    "append": ({"load_mode": "append"}, {}),
    "append, full refresh": ({"load_mode": "append"}, {"full_refresh": True}),
    "merge": (MERGE, {}),
    "merge that deletes": ({**MERGE, "delete_missing": True}, {}),
    "merge, full refresh": ({**MERGE, "delete_missing": True}, {"full_refresh": True}),
    "reload": ({}, {"reload_run_key": "20250102T030405_ffffffff"}),
}
"""By name: what differs from the dataset above, and the conf."""


def test_a_rendered_file_is_complete_and_holds_statements_of_snowflake(rendered: Render, make_dag: MakeDag) -> None:
    wrong = []
    for way, (changes, conf) in WAYS_TO_LOAD.items():
        dag = make_dag(**changes)
        for task_id in SYNC_STEPS:
            for name, sql in rendered(dag, task_id, conf=conf).sql.items():
                place = f"{way}: {name} of {task_id}"
                sent = statements(sql)
                wrong += [f"{place} is empty"] if not sent else []
                wrong += [f"{place} holds {left_over}" for left_over in LEFT_OVER if left_over in sql]
                wrong += [f"{place}: {statement}" for statement in sent if not is_of_snowflake(statement)]
    assert wrong == []


def is_of_snowflake(statement: str) -> bool:
    """Say whether it can be parsed as one statement of Snowflake."""
    try:
        [parsed] = sqlglot.parse(statement, dialect="snowflake")
    except sqlglot.errors.ParseError:
        return False
    # The parser knows no plan, and the query in it is one that others have.
    return not isinstance(parsed, exp.Command) or statement.startswith("EXPLAIN SELECT * FROM ")


# What copy_into_staging adds for an export of changes.
OF_CHANGES = {
    "kinds": {"PLACE": "VARCHAR", "DATE": "DATE", "DEGREES": "NUMBER"},
    "export_mode": "feed",
    "from_version": 1,
    "source_version": 2,
    "source_table_id": "table",
    "source_rows": 2,
    "has_deletes": True,
}


def test_a_correlated_exists_is_a_condition_of_its_own(rendered: Render, make_dag: MakeDag) -> None:
    # Snowflake supports it only in WHERE, and not as an argument of OR (docs: operators-subquery).
    ways = {way: (make_dag(**changes), conf, {}) for way, (changes, conf) in WAYS_TO_LOAD.items()}
    ways["changes"] = (make_dag(**MERGE, delete_missing=True, incremental=True), {}, OF_CHANGES)
    found, wrong = 0, []
    for way, (dag, conf, copied) in ways.items():
        for task_id in ("check_staging", "publish"):
            for name, sql in rendered(dag, task_id, conf=conf, copied=copied).sql.items():
                for statement in statements(sql):
                    for exists in sqlglot.parse_one(statement, dialect="snowflake").find_all(exp.Exists):
                        outer = exists.parent
                        while isinstance(outer, exp.And | exp.Not | exp.Paren):
                            outer = outer.parent
                        found += 1
                        wrong += [] if isinstance(outer, exp.Where) else [f"{way}: {name}: {outer}"]
    assert (found > len(ways), wrong) == (True, [])


def test_every_file_is_used(dag: DAG) -> None:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(PROJECT / "dags", bundle_path=PROJECT)
    bag.dags["of a dataset"] = dag
    used: set[str] = set()
    for task in [task for one in bag.dags.values() for task in one.tasks]:
        task.resolve_template_files()
        if task.is_mapped:
            used.add((SQL / "snowflake" / task.partial_kwargs["sql"]).read_text())
            continue
        for field in task.template_fields:
            value = getattr(task, field)
            if field == "sql" and isinstance(value, dict):
                used.update((SQL / "snowflake" / name).read_text() for name in value.values())
            else:
                used.update(value if isinstance(value, list) else [str(value)])
    included = {*(mode.sql_file for mode in LoadMode), "check_visible.sql", "check_values.sql"}
    included |= {"differing_rows.sql"}
    included |= {"create_lock.sql", "copy_manifest.sql", "write_samples.sql"}
    steps = [path for path in (PROJECT / "plugins" / "data_share").rglob("*.py") if path.parent.name != "doctor"]
    code = "".join(path.read_text() for path in steps)
    rendered_by_steps = {f"{name}.sql" for name in re.findall(r'(?:_run_with|render_sql)\(\s*"(\w+)"', code)}
    # Airflow renders these as a rule; code does for a reload, for whoever reads a lock outside of a sync, and for an
    # export that keeps new columns back, and for the checks and the publish with a ledger of an earlier version.
    rendered_by_steps -= {"select_ledger_row.sql", "select_lock.sql", "describe_target.sql", "publish.sql"}
    rendered_by_steps -= {"check_staging.sql"}
    assert len(rendered_by_steps) == 10
    unused = {path.name for path in (SQL / "snowflake").rglob("*.sql") if path.read_text() not in used}
    # An account administrator runs those of the set-up: test_setup_snowflake.py. All files of targets are run.
    elsewhere = {path.name for folder in ("setup", "targets") for path in (SQL / "snowflake" / folder).iterdir()}
    assert unused - elsewhere == included | rendered_by_steps


def test_each_file_begins_with_what_it_is_for() -> None:
    files = [path for path in SQL.rglob("*.sql") if not left_out(str(path.parent), [path.name])]
    assert files
    assert [str(path.relative_to(SQL)) for path in files if not path.read_text().startswith("-- ")] == []


def test_a_name_that_nobody_defines_is_an_error(rendered: Render, dag: DAG) -> None:
    dag.get_task("finish_sync").sql = {"drop": "DROP TABLE {{ sync.stagin_table }}"}
    with pytest.raises(jinja2.UndefinedError, match="stagin_table"):
        rendered(dag, "finish_sync")


# ---- copy

LOCK = Share().lock_table("shared_forecasts")
STAGED = COPIED["staging_table"]


def prepared(copy: Any) -> list[str]:
    """Return the statements of the request that prepares an attempt to copy."""
    samples = Samples({"PLACE": "VARCHAR(80)", "DEGREES": "FLOAT"})
    return statements(render_sql("prepare_staging", share=Share(), sync=copy.sync, samples=samples))


def new_staging_table(copy: Any, key: str) -> str:
    """Return the staging table of an attempt of the copy step; fail unless it is one of the run's."""
    assert Share().is_staging_of_run(copy.sync.new_staging_table, "shared_forecasts", key)
    return str(copy.sync.new_staging_table)


def test_the_staging_table_of_the_manifest_is_made_like_that_of_all_manifests(
    rendered: Render, dag: DAG, key: str
) -> None:
    copy = rendered(dag, "copy_into_staging")
    table = new_staging_table(copy, key)
    # They are transient, and cost no fail-safe storage, because their schema is.
    assert f"CREATE OR REPLACE TABLE {table}__manifest LIKE {Share().manifest_table}" in prepared(copy)
    schema = (SQL / "snowflake" / "create_schemas.sql").read_text()
    assert (
        "CREATE TRANSIENT SCHEMA IF NOT EXISTS {{ share.staging_schema }}\nDATA_RETENTION_TIME_IN_DAYS = 0;" in schema
    )


def test_another_attempt_replaces_nothing_that_the_first_one_writes_to(rendered: Render, dag: DAG) -> None:
    written: list[set[str]] = []
    for attempt in (1, 2):
        copy = rendered(dag, "copy_into_staging", try_number=attempt)
        sent = [*prepared(copy), *statements(copy.sql["copy_into_staging"])]
        tables = {word.rstrip(")") for one in sent for word in one.split() if word.startswith("staging.")}
        written.append(tables - {LOCK})
        assert copy.sync.new_staging_table in written[-1]
    assert [len(tables) for tables in written] == [3, 3]
    assert written[0].isdisjoint(written[1])


def test_the_row_of_the_lock_is_that_of_the_completed_target(rendered: Render, make_dag: MakeDag) -> None:
    spellings = {
        "Shared_Forecasts": "CURRENT_DATABASE() CURRENT_SCHEMA() 'SHARED_FORECASTS'",
        "public.shared_forecasts": "CURRENT_DATABASE() 'PUBLIC' 'SHARED_FORECASTS'",
        'share_db."PUBLIC".shared_forecasts': "'SHARE_DB' 'PUBLIC' 'SHARED_FORECASTS'",
    }
    for spelling, row in spellings.items():
        copy = rendered(make_dag(target_table=spelling), "copy_into_staging")
        database, schema, name = row.split()
        condition = f"target_database = {database} AND target_schema = {schema} AND target_name = {name}"
        select_lock = statements(rendered(make_dag(target_table=spelling), "publish").sql["select_lock"])
        create, *_, read = prepared(copy)
        for select in (*select_lock, read):
            assert f"FROM {LOCK} WHERE {condition}" in select
        [insert] = statements(copy.sql["insert_lock_row"])
        assert create.startswith(f"CREATE TABLE IF NOT EXISTS {LOCK} ( target_database VARCHAR NOT NULL, ")
        mine = f"SELECT {database} AS target_database, {schema} AS target_schema, {name} AS target_name"
        assert insert.startswith(f"MERGE INTO {LOCK} AS locked USING ( {mine} ) AS mine ")
        assert "WHEN MATCHED" not in insert, "a row that is there stays as it is"
        first = transaction(rendered(make_dag(target_table=spelling), "publish"))[1]
        assert f"USING ( {mine}, MAX(source_table_id) AS source_table_id, " in first
        assert f" FROM {STAGED}__manifest ) AS manifest ) AS mine" in first


def test_a_copy_states_everything(rendered: Render, dag: DAG, key: str) -> None:
    # The path is the one that the run on Databricks reports, which need not hold this run's key; the table's name does.
    for conf, path in (
        ({}, "shared_forecasts/20260102T030405_0a1b2c3d/1-0a1b2c3d"),
        ({"reload_run_key": "20250102T030405_ffffffff"}, "shared_forecasts/20250102T030405_ffffffff/2-0a1b2c3d"),
    ):
        task = rendered(dag, "copy_into_staging", conf=conf)
        for sent, suffix, folder in (
            (statements(task.sql["copy_into_staging"]), "", "data"),
            (prepared(task), "__manifest", "manifest"),
        ):
            assert [one for one in sent if one.startswith("COPY")] == [
                (
                    f"COPY INTO {new_staging_table(task, key)}{suffix} "
                    f"FROM @s3_share_stage/{path}/{folder}/ "
                    "PATTERN = '.*[.]parquet' "
                    "FILE_FORMAT = ( TYPE = PARQUET COMPRESSION = AUTO USE_VECTORIZED_SCANNER = TRUE "
                    "USE_LOGICAL_TYPE = TRUE BINARY_AS_TEXT = FALSE TRIM_SPACE = FALSE "
                    "REPLACE_INVALID_CHARACTERS = FALSE NULL_IF = () ) "
                    "MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE ON_ERROR = 'ABORT_STATEMENT' TRUNCATECOLUMNS = FALSE "
                    "FORCE = FALSE LOAD_UNCERTAIN_FILES = FALSE PURGE = FALSE RETURN_FAILED_ONLY = FALSE"
                )
            ]


# COPY INTO <table> lists them for TYPE = PARQUET: format options, copy options, and what stands beside both.
COPY_OPTIONS = """
    COMPRESSION BINARY_AS_TEXT USE_LOGICAL_TYPE TRIM_SPACE USE_VECTORIZED_SCANNER REPLACE_INVALID_CHARACTERS NULL_IF
    CLUSTER_AT_INGEST_TIME ENFORCE_LENGTH FORCE INCLUDE_METADATA LOAD_MODE LOAD_UNCERTAIN_FILES MATCH_BY_COLUMN_NAME
    ON_ERROR PURGE RETURN_FAILED_ONLY SIZE_LIMIT TRUNCATECOLUMNS FILES PATTERN VALIDATION_MODE
"""


def test_each_option_of_copy_has_its_reason_and_those_that_may_be_are_stated() -> None:
    header, _, statement = (SQL / "snowflake" / "copy_into_staging.sql").read_text().partition("\n\n")
    reasons, _, unstated = header.partition("Options left out")
    stated = set(re.findall(r"(\w+) = ", statement)) - {"FILE_FORMAT", "TYPE"}
    assert set(re.findall(r"^--\s+([A-Z_]+)(?= = | excludes)", reasons, re.M)) - {"FILE_FORMAT"} == stated
    left_out = set(re.findall(r"^--\s+([A-Z_]+) ", unstated, re.M))
    assert (stated | left_out, stated & left_out) == (set(COPY_OPTIONS.split()), set())


def test_a_copy_from_outside_of_the_dataset_cannot_be_rendered(make_dag: MakeDag, rendered: Render) -> None:
    with pytest.raises(InvalidExportPathError, match="shared_forecasts"):
        rendered(make_dag(name="other"), "copy_into_staging")


def test_the_manifest_is_dated_and_read_from_the_table_of_this_run(rendered: Render, dag: DAG, key: str) -> None:
    copy = rendered(dag, "copy_into_staging")
    table = f"{new_staging_table(copy, key)}__manifest"
    sent = prepared(copy)
    verbs = [one.split()[0] for one in sent]
    assert verbs == ["CREATE", "CREATE", "COPY", "UPDATE", "CREATE", "INSERT", "SELECT"]
    assert sent[3] == f"UPDATE {table} SET staged_at = SYSDATE()"
    assert f"FROM {table} ) AS manifest" in sent[-1]


def test_the_request_that_prepares_an_attempt_is_of_snowflake(rendered: Render, dag: DAG) -> None:
    assert [one for one in prepared(rendered(dag, "copy_into_staging")) if not is_of_snowflake(one)] == []


def test_the_columns_are_read_from_the_target(rendered: Render, dag: DAG) -> None:
    copy = rendered(dag, "copy_into_staging")
    assert statements(copy.sql["describe_target"]) == [f"DESCRIBE TABLE {TARGET}"]
    assert statements(copy.sql["explain_target"]) == [f"EXPLAIN SELECT * FROM {TARGET}"]


def test_the_manifest_must_be_of_the_export_that_is_loaded(rendered: Render, dag: DAG, key: str) -> None:
    assert rendered(dag, "copy_into_staging").sync.manifest_run_key == key
    reload = rendered(dag, "copy_into_staging", conf={"reload_run_key": "20260101T000000_eeeeeeee"})
    assert reload.sync.manifest_run_key == "20250102T030405_ffffffff"


# ---- check

RECONCILIATION = [
    "rows_match_manifest",
    "rows_parsed_match_manifest",
    "rows_loaded_match_manifest",
    "files_match_manifest",
]


def test_checks_are_one_query_that_names_each(rendered: Render, dag: DAG) -> None:
    [query] = statements(rendered(dag, "check_staging").sql["check_staging"])
    assert re.findall(r"'(\w+)' AS check_name", query) == [
        *RECONCILIATION,
        "place_not_null",
        "degrees_not_null",
        "degrees_possible",
    ]
    assert query.count("UNION ALL") == 6
    assert query.count(f"FROM {STAGED})") == 7
    assert query.count(f"FROM {STAGED} ) AS sums") == 1


def test_the_keys_of_a_merge_are_checked(rendered: Render, make_dag: MakeDag) -> None:
    [query] = statements(rendered(make_dag(**MERGE), "check_staging").sql["check_staging"])
    assert 'COUNT(*) = COUNT(DISTINCT "PLACE", "DATE")' in query
    assert {"place_not_null", "date_not_null"} <= set(re.findall(r"'(\w+)' AS check_name", query))


def test_a_check_of_a_dataset_is_sql_and_no_template(rendered: Render, make_dag: MakeDag) -> None:
    checks = {"is_json": "payload LIKE '{%'", "is_text": "payload <> '{{ conn.snowflake_default.password }}'"}
    [query] = statements(rendered(make_dag(checks=checks), "check_staging").sql["check_staging"])
    for condition in checks.values():
        assert condition in query


BEFORE_AND_NOW = {
    "there was no sync before": ([], 100, True),
    "as much more as is allowed": ([100], 150, True),
    "more": ([100], 151, False),
    "as much less as is allowed": ([100], 50, True),
    "less": ([100], 49, False),
    "the last sync counts": ([1, 1000, 100], 120, True),
    "an earlier sync does not count": ([100, 1000], 120, False),
    "nothing is left": ([100], 0, False),
    "there was nothing, and is nothing": ([100, 0], 0, True),
    "there was nothing, and any number is growth without a measure": ([100, 0], 7, True),
}


class MaxBy:
    """Snowflake's MAX_BY, for SQLite."""

    def __init__(self) -> None:
        self.rows: list[tuple[Any, Any]] = []

    def step(self, value: Any, at: Any) -> None:
        self.rows.append((at, value))

    def finalize(self) -> Any:
        return max(self.rows)[1] if self.rows else None


def failed_checks(query: str, rows: int, ledger: list[tuple[str, int, int]]) -> set[str]:
    """Run the query, which is plain SQL, in SQLite; a ledger row is a dataset, its rows, and when it was published."""
    with sqlite3.connect(":memory:") as database:
        database.create_aggregate("MAX_BY", 2, MaxBy)  # type: ignore[arg-type]
        database.execute("ATTACH ':memory:' AS staging")
        database.execute(f"CREATE TABLE {STAGED} (place, degrees)")
        database.execute(f"CREATE TABLE {Share().ledger_table} (dataset, rows_exported, published_at, source_rows)")
        database.executemany(f"INSERT INTO {STAGED} VALUES (?, ?)", [("Oslo", 20)] * rows)
        database.executemany(f"INSERT INTO {Share().ledger_table} VALUES (?, ?, ?, NULL)", ledger)
        return {name for name, _, _, result in database.execute(query) if result != 1}


def test_the_row_count_is_held_against_that_of_the_last_sync(rendered: Render, make_dag: MakeDag) -> None:
    dag = make_dag(max_row_change_percent=50)
    of_another = ("another", 7, 10_000)
    failed = {}
    for case, (before, now, _) in BEFORE_AND_NOW.items():
        ledger = [of_another, *(("shared_forecasts", count, at) for at, count in enumerate(before))]
        # The checksums of the values are in the dialect of Snowflake alone.
        copied = {**dict.fromkeys(("rows_exported", "rows_parsed", "rows_loaded"), now), "proofs": []}
        query = rendered(dag, "check_staging", copied=copied).sql["check_staging"]
        failed[case] = failed_checks(query, now, ledger)
        accepted = rendered(dag, "check_staging", copied=copied, conf={"accept_row_change": True}).sql["check_staging"]
        assert failed_checks(accepted, now, ledger) == set(), case
    assert failed == {
        case: set() if passes else {"row_change_acceptable"} for case, (_, _, passes) in BEFORE_AND_NOW.items()
    }


# ---- publish

COLUMNS = '"PLACE", "DATE", "DEGREES"'


def transaction(publish: Any) -> list[str]:
    """Return the statements of the transaction as the operator counts and sends them, without the comments in them."""
    sent = statements(publish.sql["publish"])
    return [" ".join(sqlparse.format(one, strip_comments=True).split()) for one in sent]


def written_table(statement: str) -> str:
    """Return the table that a statement changes."""
    parsed = sqlglot.parse_one(statement, dialect="snowflake")
    table = parsed.this.this if isinstance(parsed.this, exp.Schema) else parsed.this
    return ".".join(part.sql("snowflake") for part in table.parts)


def changes_of_target(publish: Any) -> list[str]:
    """Return the statements that change the target."""
    beginnings = [f"{verb} {TARGET} " for verb in ("INSERT INTO", "INSERT OVERWRITE INTO", "MERGE INTO", "DELETE FROM")]
    return [one for one in transaction(publish) if one.startswith(tuple(beginnings))]


def test_publishing_is_one_transaction_without_ddl(rendered: Render, make_dag: MakeDag) -> None:
    counts = {}
    for way, (changes, conf) in WAYS_TO_LOAD.items():
        sent = transaction(rendered(make_dag(**changes), "publish", conf=conf))
        counts[way] = len(sent)
        committed = sent.index("COMMIT")
        assert sent[0] == "BEGIN TRANSACTION"
        for statement in sent[1:committed]:
            [parsed] = sqlglot.parse(statement, dialect="snowflake")
            assert isinstance(parsed, exp.Insert | exp.Delete | exp.Merge | exp.Update), statement
        # DDL would commit, so it stands behind.
        tables = [STAGED, f"{STAGED}__manifest", f"{STAGED}__samples"]
        assert sent[committed + 1 : -1] == [f"DROP TABLE IF EXISTS {table}" for table in tables]
        assert sent[-1].startswith(f"SELECT * FROM {Share().ledger_table} WHERE dataset = 'shared_forecasts'")
    # So many statements are announced to Snowflake.
    assert counts == dict.fromkeys(WAYS_TO_LOAD, 15) | {"append": 14, "merge that deletes": 17}


def test_the_lock_is_taken_first_and_what_datasets_share_is_locked_last(rendered: Render, make_dag: MakeDag) -> None:
    # Snowflake locks tables: one that is written before the target is locked for as long as the target takes.
    shared = {Share().ledger_table, Share().manifest_table}
    for way, (changes, conf) in WAYS_TO_LOAD.items():
        publish = rendered(make_dag(**changes), "publish", conf=conf)
        sent = transaction(publish)
        written = [written_table(statement) for statement in sent[1 : sent.index("COMMIT")]]
        assert [table for table, _ in itertools.groupby(written)][:2] == [LOCK, TARGET], way
        assert set(written[:2]) == {LOCK}, way
        assert set(written[written.index(TARGET) :]) == {TARGET, LOCK, *shared}, way
        assert set(written[-3:]) == shared, way


def test_replacing_leaves_exactly_the_staged_rows(rendered: Render, make_dag: MakeDag) -> None:
    replace = f"INSERT OVERWRITE INTO {TARGET} ({COLUMNS}) SELECT {COLUMNS} FROM {STAGED}"
    replaces = {
        way: changes_of_target(rendered(make_dag(**changes), "publish", conf=conf)) == [replace]
        for way, (changes, conf) in WAYS_TO_LOAD.items()
    }
    assert {way for way, is_so in replaces.items() if is_so} == {
        *("replace", "reload", "append, full refresh", "merge, full refresh")
    }


def test_appending_adds_the_staged_rows(rendered: Render, make_dag: MakeDag) -> None:
    assert changes_of_target(rendered(make_dag(load_mode="append"), "publish")) == [
        f"INSERT INTO {TARGET} ({COLUMNS}) SELECT {COLUMNS} FROM {STAGED}"
    ]


OF_LOCK = tuple(COLUMNS_OF_VERSION)
OF_MANIFEST = ("source_choice", "source_condition", "bytes_exported", *OF_LOCK)


OTHER_PATH = EXPORT_PATH.replace("/1-", "/0-")


ROW = {"dataset": "shared_forecasts", "run_key": "another", "export_path": OTHER_PATH, "staged_at": 1}
MINE = {"dataset": "shared_forecasts", "run_key": "own", "export_path": EXPORT_PATH, "staged_at": 2}
ALL = {"replace", "append", "merge"}
LOCKED: dict[str, tuple[dict[str, Any], set[str]]] = {
    "nothing was published": ({"dataset": "", "run_key": "", "export_path": "", "staged_at": 0}, ALL),
    "another sync of this dataset was published": (ROW, ALL),
    "it was staged at the same time": ({**ROW, "staged_at": 2}, ALL),
    "it was staged later": ({**ROW, "staged_at": 3}, set()),
    "it was of another dataset": ({**ROW, "dataset": "another"}, set()),
    "this export of this run was published": (MINE, set()),
    "another export of this run was published": ({**MINE, "export_path": OTHER_PATH}, {"replace", "merge"}),
    "this export was published by another run": ({**MINE, "run_key": "another"}, {"replace", "merge"}),
}
"""By name: the row of the lock, and the load modes that may publish. This sync was staged at 2."""


def test_the_row_of_the_lock_lets_through_what_may_be_published(rendered: Render, make_dag: MakeDag, key: str) -> None:
    let_through: dict[str, set[str]] = {case: set() for case in LOCKED}
    for mode in LoadMode:
        publish = rendered(make_dag(**(MERGE if mode is LoadMode.MERGE else {"load_mode": mode})), "publish")
        merge = sqlglot.parse_one(transaction(publish)[1], dialect="snowflake")
        [update] = merge.find_all(exp.Update)
        changes = {one.this.name: one.expression for one in update.expressions}
        for case, (row, _) in LOCKED.items():
            # What decides is plain SQL: SQLite runs it.
            with sqlite3.connect(":memory:") as database:
                selected = ", ".join(
                    f"({changed.sql(dialect='sqlite')}) AS {name}" for name, changed in changes.items()
                )
                row = {**row, "run_key": {"own": key}.get(row["run_key"], row["run_key"])}
                columns = ", ".join(f":{name} AS {name}" for name in row)
                mine = ", ".join(["2 AS staged_at", *(f"'{name}' AS {name}" for name in OF_LOCK)])
                query = f"SELECT {selected} FROM (SELECT {columns}) AS locked, (SELECT {mine}) AS mine"
                database.row_factory = sqlite3.Row
                after = dict(database.execute(query, row).fetchone())
            kept = after.pop("run_key")
            assert kept in (None, key)
            written = {"dataset": "shared_forecasts", "export_path": EXPORT_PATH, "attempt": 1, "staged_at": 2}
            assert after == {**written, **{name: name for name in OF_LOCK}}
            if kept == key:
                let_through[case].add(mode)
    assert let_through == {case: modes for case, (_, modes) in LOCKED.items()}


# The ledger's columns that the set-up adds.
LATER = re.findall(
    rf"{Share().ledger_table} ADD COLUMN IF NOT EXISTS (\w+)", render_sql("create_ledger", share=Share())
)


def is_kept(publish: Any, *, staged: int, ledger: list[tuple[str, str]]) -> bool:
    """Say whether the lock keeps its run key: run what decides on it, which is plain SQL, in SQLite."""
    run_key, decision = sqlglot.parse_one(count_in_lock(publish), dialect="snowflake").expressions[0].unnest_operands()
    assert run_key.name == "run_key"
    with sqlite3.connect(":memory:") as database:
        database.execute("ATTACH ':memory:' AS staging")
        database.execute(f"CREATE TABLE {STAGED} (place)")
        database.executemany(f"INSERT INTO {STAGED} VALUES (?)", [("Oslo",)] * staged)
        database.execute(f"CREATE TABLE {Share().ledger_table} (dataset, run_key, export_path, {', '.join(LATER)})")
        database.executemany(
            f"INSERT INTO {Share().ledger_table} (dataset, run_key, export_path) VALUES ('shared_forecasts', ?, ?)",
            ledger,
        )
        [(kept,)] = database.execute(f"SELECT {decision.sql(dialect='sqlite')} FROM (SELECT 'kept' AS run_key)")
    assert kept in (None, "kept")
    return bool(kept)


LEDGERS: dict[str, tuple[int, list[tuple[str, str]], set[str]]] = {
    "as the copy left it": (2, [], ALL),
    "the staging table was emptied": (0, [], set()),
    "this export was published": (2, [("own", EXPORT_PATH)], set()),
    "a new export of the same run": (2, [("own", OTHER_PATH)], {"replace", "merge"}),
    "an export that is loaded again": (2, [("another", EXPORT_PATH)], {"replace", "merge"}),
    "other syncs": (2, [("another", OTHER_PATH)], ALL),
}
"""By name: the staged rows, the ledger, and the load modes that may publish."""


def test_the_ledger_refuses_what_was_published_long_ago(rendered: Render, make_dag: MakeDag, key: str) -> None:
    let_through: dict[str, set[str]] = {case: set() for case in LEDGERS}
    for mode in LoadMode:
        publish = rendered(make_dag(**(MERGE if mode is LoadMode.MERGE else {"load_mode": mode})), "publish")
        for case, (staged, ledger, _) in LEDGERS.items():
            rows = [({"own": key}.get(run, run), path) for run, path in ledger]
            if is_kept(publish, staged=staged, ledger=rows):
                let_through[case].add(mode)
    assert let_through == {case: modes for case, (*_, modes) in LEDGERS.items()}


def merge_into_target(update: str) -> str:
    staged = ", ".join(f"staging.{column}" for column in COLUMNS.split(", "))
    return (
        f"MERGE INTO {TARGET} AS target USING {STAGED} AS staging "
        'ON target."PLACE" = staging."PLACE" AND target."DATE" = staging."DATE" '
        f"{update}WHEN NOT MATCHED THEN INSERT ({COLUMNS}) VALUES ({staged})"
    )


def test_merging_updates_inserts_and_deletes_what_is_missing_only_if_the_dataset_says_so(
    rendered: Render, make_dag: MakeDag
) -> None:
    merge = merge_into_target('WHEN MATCHED THEN UPDATE SET "DEGREES" = staging."DEGREES" ')
    delete = (
        f"DELETE FROM {TARGET} WHERE NOT EXISTS ( SELECT 1 FROM {STAGED} "
        f'WHERE "SHARED_FORECASTS"."PLACE" = shared_forecasts__of_an_attempt."PLACE" '
        f'AND "SHARED_FORECASTS"."DATE" = shared_forecasts__of_an_attempt."DATE" )'
    )
    assert changes_of_target(rendered(make_dag(**MERGE), "publish")) == [merge]
    repeated = (
        f'DELETE FROM {TARGET} WHERE EXISTS ( SELECT 1 FROM ( SELECT "PLACE", "DATE" FROM {TARGET} '
        'GROUP BY "PLACE", "DATE" HAVING COUNT(*) > 1 ) AS repeated '
        'WHERE "SHARED_FORECASTS"."PLACE" = repeated."PLACE" AND "SHARED_FORECASTS"."DATE" = repeated."DATE" )'
    )
    assert changes_of_target(rendered(make_dag(**MERGE, delete_missing=True), "publish")) == [repeated, merge, delete]


def test_merging_rows_that_are_nothing_but_keys_updates_nothing(rendered: Render, make_dag: MakeDag, key: str) -> None:
    dag = make_dag(load_mode="merge", merge_keys=("place", "date", "degrees"))
    [merge] = changes_of_target(rendered(dag, "publish"))
    assert "UPDATE" not in merge


def test_new_columns_are_published_with_the_others(rendered: Render, dag: DAG) -> None:
    copied = {"columns": ["PLACE", "WIND"], "new_columns": {"WIND": "DOUBLE"}}
    publish = rendered(dag, "publish", copied=copied)
    [insert] = changes_of_target(publish)
    assert insert.count('"PLACE", "WIND"') == 2
    assert publish.sync.loaded["new_columns"] == {"WIND": "DOUBLE"}


COMPARED = {"PLACE": "VARCHAR", "DATE": "DATE", "DEGREES": "FLOAT", "TAGS": "VARIANT"}


def comparison(check: Any) -> str:
    """Return the statement that a prepared step compares the target with."""
    columns, _ = compared_columns(COMPARED, check.dataset)
    [statement] = statements(
        render_sql("compare_target", share=Share(), sync=check.sync, compared=columns, same_rows=same_rows(columns))
    )
    assert is_of_snowflake(statement)
    return statement


def test_texts_are_compared_as_they_are_stored(rendered: Render, make_dag: MakeDag) -> None:
    for fields in ({}, MERGE):
        sql = comparison(rendered(make_dag(**fields), "check_staging"))
        assert sql.count('COLLATE("PLACE", \'\') AS value_0, "DATE" AS value_1, "DEGREES" AS value_2') == 2
        assert "TAGS" not in sql


def test_rows_that_the_load_mode_keeps_are_not_compared(rendered: Render, make_dag: MakeDag) -> None:
    kept = 'EXISTS ( SELECT 1 FROM staging.shared_forecasts__of_an_attempt WHERE "SHARED_FORECASTS"."PLACE" ='
    for fields, is_mirror in (({}, True), (MERGE, False), ({**MERGE, "delete_missing": True}, True)):
        assert (kept not in comparison(rendered(make_dag(**fields), "check_staging"))) == is_mirror, fields


def test_the_ledger_counts_the_changes_as_a_preview_does(rendered: Render, make_dag: MakeDag) -> None:
    for way, (changes, conf) in WAYS_TO_LOAD.items():
        publish = rendered(make_dag(**changes), "publish", conf=conf)
        [query] = statements(publish.sql["count_changes"])
        counted = sqlglot.parse_one(query, dialect="snowflake").sql(comments=False)
        published = sqlglot.parse_one(count_in_lock(publish), dialect="snowflake")
        assert counted in {part.sql(comments=False) for part in published.find_all(exp.Select)}, way


def count_in_lock(publish: Any) -> str:
    [update] = [one for one in transaction(publish) if one.startswith(f"UPDATE {LOCK} SET run_key ")]
    return update


def test_what_the_loader_sees_is_counted_after_the_change_and_refused_without_reading_the_target(
    rendered: Render, make_dag: MakeDag
) -> None:
    seen = f"THEN (SELECT COUNT(*) FROM {TARGET}) END, keys_missing"
    for way, (changes, conf) in WAYS_TO_LOAD.items():
        sent = transaction(rendered(make_dag(**changes), "publish", conf=conf))
        place = next(number for number, one in enumerate(sent) if seen in one)
        count, refusal, ledger = sent[place], sent[place + 1], " ".join(sent[place + 2 :])
        assert sent[place - 1].split()[:2] != ["UPDATE", LOCK], way
        is_merge = "merge" in way and not conf
        # Without keys, none is missing.
        assert ("WHERE FALSE AND NOT EXISTS" in count, "WHERE NOT EXISTS" in count) == (not is_merge, is_merge), way
        assert not {TARGET, STAGED} & set(refusal.split()), way
        needed = "rows_inserted"
        if way in ("append", "merge", "merge that deletes"):
            needed = "rows_before - rows_deleted + rows_inserted"
        let_through = f"WHEN rows_after IS NULL THEN '0' WHEN keys_missing = 0 AND rows_after >= {needed} THEN '0'"
        assert f"TO_NUMBER( CASE {let_through}" in refusal, way
        assert TARGET not in ledger.replace(f"'{TARGET.lower()}'", ""), way


def ledger_insert(publish: Any) -> str:
    [insert] = [one for one in transaction(publish) if one.startswith(f"INSERT INTO {Share().ledger_table} ")]
    return insert


def test_the_ledger_row_holds_values_as_literals(rendered: Render, dag: DAG) -> None:
    literals = {
        None: "'grace' AS requested_by",
        "ada@example.com": "'ada@example.com'",
        "O'Brien": "'O''Brien'",
        "'); DROP TABLE x; --": "'''); DROP TABLE x; --'",
        "\\'); DROP TABLE x; --": "'' || CHR(92) || '''); DROP TABLE x; --'",
    }
    for requested_by, literal in literals.items():
        values = rendered(dag, "publish", requested_by=requested_by).sql["publish"]
        assert literal in values
        assert "'manual__o''clock--1'" in values
        assert "'2026-01-02 03:04:06.789000'::TIMESTAMP_NTZ" in values
        assert f"'{EXPORT_PATH}'" in values


def test_the_ledger_row_has_a_value_for_each_column(rendered: Render, make_dag: MakeDag) -> None:
    for way, (changes, conf) in WAYS_TO_LOAD.items():
        insert = sqlglot.parse_one(
            ledger_insert(rendered(make_dag(**changes), "publish", conf=conf)), dialect="snowflake"
        )
        values = {value.alias_or_name: value.unalias().sql(dialect="snowflake") for value in insert.expression.selects}
        assert list(values) == [column.name for column in insert.this.expressions], way
        reload, full_refresh = "reload_run_key" in conf, "full_refresh" in conf
        told = {
            "databricks_run_id": "66" if reload else "77",
            "attempt": "2" if reload else "1",
            "export_path": f"'{EARLIER['export_path'] if reload else EXPORT_PATH}'",
            "load_mode": f"'{'replace' if full_refresh else changes.get('load_mode', 'replace')}'",
            "target_table": "'share_db.public.shared_forecasts'",
            "rows_loaded": "2",
            "query_ids": """'["query 1", "query 2"]'""",
            "requested_by": "'grace'",
            "package_version": f"'{data_share.__version__}'",
            "statement_seconds": "1.750",
        }
        assert {name: values[name] for name in told} == told, way


def test_the_lock_says_which_state_of_the_source_was_published(rendered: Render, dag: DAG) -> None:
    publish = rendered(dag, "publish")
    [create] = [
        one
        for one in statements(render_sql("prepare_staging", share=Share(), sync=publish.sync, samples=Samples({})))
        if "publish_lock" in one and one.startswith("CREATE")
    ]
    added = statements(publish.sql["add_lock_columns"])
    lock = publish.sync.lock_table
    for name, column in zip(OF_LOCK, added, strict=True):
        kind = re.fullmatch(rf"ALTER TABLE {lock} ADD COLUMN IF NOT EXISTS {name} (.*)", column)
        assert kind is not None
        assert f", {name} {kind[1]}" in create, "new and added tables are the same"
    for is_current in (True, False):
        publish.sync.tables_are_current = is_current
        [merge] = [
            one
            for one in statements(render_sql("publish", share=Share(), sync=publish.sync))
            if one.startswith("MERGE INTO staging.publish_lock")
        ]
        written = re.findall(r"locked\.(\w+) = mine\.\1,", merge.partition("UPDATE SET")[2])
        assert written == (list(OF_LOCK) if is_current else [])


def test_the_ledger_and_the_table_of_manifests_have_the_columns_that_are_written(rendered: Render, dag: DAG) -> None:
    set_up = statements(render_sql("create_ledger", share=Share()))
    publish = rendered(dag, "publish")
    for table in (Share().ledger_table, Share().manifest_table):
        [create] = [one for one in set_up if f"CREATE TABLE IF NOT EXISTS {table} " in one]
        created = re.findall(r"(?:\( |, )([a-z_]+) [A-Z]", create)
        # Those that the set-up adds to a table of an earlier version.
        later = re.findall(rf"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS (\w+) [A-Z]", "; ".join(set_up))
        of_ledger = {"package_version", "statement_seconds"} if table == Share().ledger_table else set()
        assert set(later) == {*OF_MANIFEST, *of_ledger}
        for is_current in (True, False):
            publish.sync.tables_are_current = is_current
            sent = statements(render_sql("publish", share=Share(), sync=publish.sync))
            [written] = [columns for one in sent for columns in re.findall(rf"^INSERT INTO {table} \(([^)]*)\)", one)]
            assert sorted(written.replace(" ", "").split(",")) == sorted(
                name for name in created if is_current or name not in later
            )
            assert any(name in one for one in sent for name in later) is is_current
            # They are named before the target changes: a table without them fails the publish early.
            early = sent[2 if table == Share().ledger_table else 1]
            assert [name in early for name in later] == [is_current] * len(later)


def test_the_ledger_is_asked_for_a_sync_of_this_dataset_with_the_run_key_bound(rendered: Render, dag: DAG) -> None:
    for task_id in ("publish", "finish_sync"):
        assert statements(rendered(dag, task_id).sql["select_ledger_row"]) == [
            f"SELECT * FROM {Share().ledger_table} WHERE dataset = 'shared_forecasts' AND run_key = ?"
        ]


CONFS: list[tuple[dict[str, Any], str, str, bool]] = [
    ({}, EXPORT_PATH, "append", False),
    ({"dry_run": True}, EXPORT_PATH, "append", True),
    ({"full_refresh": True}, EXPORT_PATH, "replace", False),
    ({"reload_run_key": "20250102T030405_ffffffff"}, EARLIER["export_path"], "append", False),
]


def test_the_conf_reaches_the_publish_step(rendered: Render, make_dag: MakeDag, key: str) -> None:
    for conf, *expected in CONFS:
        sync = rendered(make_dag(load_mode="append"), "publish", conf=conf).sync
        assert sync.key == key, "a reload is a sync of its own"
        assert [sync.loaded["export_path"], sync.load_mode, sync.is_dry_run] == expected, conf
        assert sync.export_path == expected[0], conf


# ---- drop


def test_the_staging_tables_of_this_run_are_listed(rendered: Render, dag: DAG, key: str) -> None:
    drop = rendered(dag, "finish_sync")
    assert statements(drop.sql["show_staging_tables_of_run"]) == [f"SHOW TABLES LIKE '%{key}%' IN SCHEMA staging"]
    assert drop.dataset.target_table == "share_db.public.shared_forecasts"


# ---- clean up


def test_the_clean_up_lists_staging_tables_and_old_exports(rendered: Render) -> None:
    from airflow.dag_processing.dagbag import DagBag

    dag = DagBag(PROJECT / "dags" / "clean_up_share.py", bundle_path=PROJECT).dags["clean_up_share"]
    task = rendered(dag, "clean_up", conf={"keep_days": 30})
    assert statements(task.sql) == [f"SHOW TABLES IN SCHEMA {Share().staging_schema}"]
    [old_exports] = statements(task.select_old_exports)
    assert f"FROM {Share().ledger_table} WHERE published_at < DATEADD(DAY, -30, SYSDATE())" in old_exports


# ---- export


EXPORT = (SQL / "databricks" / "export_dataset.sql").read_text()
EXPORT_BODY = sqlparse.format(EXPORT, strip_comments=True)


def checked_values() -> dict[str, re.Pattern[str]]:
    """The pattern that the export's SQL holds each parameter against."""
    patterns = {}
    for name, case in re.findall(r"SET VAR (\w+) = CASE(.*?)\nEND;", EXPORT_BODY, flags=re.DOTALL):
        if match := re.search(rf":{name} RLIKE (.*?)THEN :{name}\s+ELSE RAISE_ERROR", case, flags=re.DOTALL):
            text = "".join(re.findall(r"'([^']*)'", match[1])).replace("\\\\", "\\")
            patterns[name] = re.compile(text.replace("\\z", "\\Z"))  # the same in Python's words
    return patterns


def test_the_export_uses_the_parameters_that_the_job_fills_in() -> None:
    # In quotes, markers are those of a statement that EXECUTE IMMEDIATE runs.
    used = set(re.findall(r"(?<!:):(\w+)", re.sub(r"'[^']*'", "''", EXPORT_BODY)))
    of_job = {
        "source_table",
        "data_path",
        "manifest_path",
        "run_key",
        "dataset",
        "proof",
        "source",
        "mode",
        "published",
    }
    of_plan = {"to_version", "from_version", "committed_at", "table_id", "has_feed", "export_mode", "export_reason"}
    assert used == of_job | of_plan
    listed = re.findall(r"^--   (:\w+(?:, :\w+)*)", EXPORT, flags=re.MULTILINE)
    assert used == set(re.findall(r":(\w+)", " ".join(listed))), "the header names all inputs"


def test_the_plan_takes_the_same_sources_as_the_export() -> None:
    check = re.compile(r"SET VAR source_table = CASE.*?END;", re.DOTALL)
    plan = (SQL / "databricks" / "plan_export.sql").read_text()
    assert check.findall(plan) == check.findall(EXPORT_BODY) != []


def test_the_export_takes_what_runtime_14_has() -> None:
    statements = [statement.strip() for statement in EXPORT_BODY.split(";") if statement.strip()]
    heads = {" ".join(statement.split()[:2]) for statement in statements}
    assert heads == {"DECLARE OR", "SET VAR", "EXECUTE IMMEDIATE"}
    # Before runtime 17.3: a variable as the text, variables as what is bound.
    executed = [" ".join(one.split()) for one in statements if one.startswith("EXECUTE IMMEDIATE")]
    declared = set(re.findall(r"DECLARE OR REPLACE VARIABLE (\w+) ", EXPORT_BODY))
    for statement in executed:
        text, into, using = re.fullmatch(r"EXECUTE IMMEDIATE (\w+)(?: INTO (.*?))?(?: USING (.*))?", statement).groups(
            ""
        )  # type: ignore[union-attr]
        bound = [re.fullmatch(r"(\w+) AS \w+", argument)[1] for argument in using.split(", ") if argument]  # type: ignore[index]
        assert {text, *filter(None, into.split(", ")), *bound} <= declared
    assert len(executed) == 9


def test_each_source_of_a_dataset_file_passes_the_pattern_of_the_export() -> None:
    pattern = checked_values()["source_table"]
    assert [source for source in SOURCES if not pattern.search(source_name(source))] == []
    refused = NO_SOURCES | WITHOUT_BACKTICKS
    assert {kind: source for kind, source in refused.items() if pattern.search(source)} == {}


@pytest.mark.parametrize("name", ["data_path", "manifest_path"])
def test_only_plain_directories_pass_the_patterns_of_the_export(name: str) -> None:
    pattern = checked_values()[name]
    assert pattern.search(f"{EXPORT_PATH}data/")
    assert pattern.search("/tmp/pytest-of-me/pytest-0/spark0/spark_1/data/")
    assert {kind: path for kind, path in no_paths(f"{EXPORT_PATH}data/").items() if pattern.search(path)} == {}


def test_only_checked_directories_and_the_names_of_columns_get_into_the_statements_of_the_export() -> None:
    assert set(checked_values()) == {"source_table", "data_path", "manifest_path"}
    texts = "statement|selected|chosen_rows|rows_now|rows_then|rows_kept|key_columns|same_keys|changes|newest"
    texts += "|export_query|data_files|metadata"
    made = "".join(re.findall(rf"SET VAR (?:{texts}) = .*?;", EXPORT_BODY, flags=re.DOTALL))
    # Outside of the texts. The types t are compared only; so are those after data_files.
    code = re.sub(r"'[^']*'", "''", made)
    values = set(re.findall(r"\b[a-z_]+\b", code)) - {
        *texts.split("|"),
        *(
            "with_checksums",
            "only_describes",
            "is_whole",
            "has_changes_only",
            "has_deletes",
            "export_mode",
            "load_mode",
        ),
        *("t", "types"),
    }
    # Numbers, made of digits.
    assert re.findall(r"SET VAR at_version = (.*?);", EXPORT_BODY, re.DOTALL) == [
        "COALESCE(' VERSION AS OF ' || CAST(source_version AS STRING), '')"
    ]
    assert set(re.findall(r"DECLARE OR REPLACE VARIABLE (\w+_version) (\w+);", EXPORT_BODY)) == {
        *((name, "BIGINT") for name in ("source_version", "from_version")),
        ("at_version", "STRING"),
    }
    values -= {"at_version", "source_version", "from_version"}
    of_this_file = {"condition", "secret_scope", "secret_key"}
    assert values == {"data_path", "manifest_path", "names", "n", "k", "m", "exported", "keys", "c", *of_this_file}
    # make render writes their values into these texts.
    for name in ("secret_scope", "secret_key"):
        assert re.findall(rf"SET VAR {name} = (.*?);", EXPORT_BODY, re.DOTALL) == ["''"]
    # The condition is one that this file has.
    assert re.findall(
        r"SET VAR condition = CASE\s+WHEN .*?\s+THEN (.*?)\s+ELSE RAISE_ERROR", EXPORT_BODY, re.DOTALL
    ) == ["COALESCE(TRY_ELEMENT_AT(conditions, dataset)[1], '')"]
    # Of a column of the source: how, which is compared only, two names, which were checked, and one of two texts.
    assert set(re.findall(r"c\['(\w+)'\]", made)) == {"alias", "how", "name", "stored"}
    assert re.findall(r"'stored', (.*)", EXPORT_BODY) == [
        "CASE WHEN t LIKE 'string collate %' THEN ' COLLATE UTF8_BINARY' ELSE '' END)"
    ]
    quoted = [f"'`' || REPLACE(c['{name}'], '`', '``') || '`'" for name in ("name", "alias")]
    assert made.count(quoted[0]) == made.count("c['name']") == 3
    assert made.count(quoted[1].removeprefix("'")) == made.count("c['alias']") == 4
    # The merge keys are columns of the export; their names as Airflow tells them are compared only.
    assert re.findall(r"SET VAR keys = (\w+)", EXPORT_BODY) == ["FILTER", "CASE", "ZIP_WITH"]
    assert re.findall(r"(?:\|\|) (n\b|t\b|names|types)", code) == []
    assert made.count("'`' || REPLACE(n, '`', '``') || '`'") + made.count("`' || REPLACE(n, '`', '``') || '`)'") == 2
    assert code.count("REPLACE(n") == 2
    assert not re.search(r"[$]\{", EXPORT_BODY), "Spark would replace it"


# A canary: wherever it sings, a text of a dataset file has arrived.
CANARY = "canary'\"`; DROP TABLE x; -- /* )"
RENAMED = f"renamed {CANARY}"
CONDITION = "name <> 'canary''\"`); DROP TABLE x; -- \\\\' OR `canary;` > 1"
SOURCES_WITH_A_CANARY: dict[str, dict[str, Any]] = {
    "columns": {"columns": ["place", "date", "degrees", CANARY]},
    "exclude": {"exclude": [CANARY]},
    "rename": {"rename": {CANARY: RENAMED}},
    "hash": {"hash": [CANARY]},
    "where": {"where": CONDITION},
    "all but columns": {"exclude": ["x"], "rename": {CANARY: RENAMED}, "hash": [CANARY], "where": CONDITION},
    "all but exclude": {
        "columns": ["place", "date", "degrees", CANARY],
        "rename": {CANARY: RENAMED},
        "hash": [CANARY],
        "where": CONDITION,
    },
}


@pytest.mark.tier("full")
@pytest.mark.parametrize("field", SOURCES_WITH_A_CANARY)
def test_nothing_that_source_says_gets_into_a_statement(rendered: Render, make_dag: MakeDag, field: str) -> None:
    """But the condition, which is a text in the SQL of the job; names are JSON in a parameter."""
    source = SOURCES_WITH_A_CANARY[field]
    dag = make_dag(source=source)
    for task_id in SYNC_STEPS:
        for name, sql in rendered(dag, task_id).sql.items():
            assert "canary" not in sql.lower(), name
    sent = rendered(dag, "export_to_s3").job_parameters
    assert [name for name, value in sent.items() if "canary" in value.lower()] == (
        ["source"] if field != "where" else []
    )
    names = {text for column in json.loads(sent["source"])["columns"] for text in (column["name"], column["alias"])}
    assert names - {"x", "place", "date", "degrees"} <= {CANARY, RENAMED}
    assert "DROP" not in json.dumps({**json.loads(sent["source"]), "columns": []})

    job = export_sql([dataset(source=source)], Share())
    singing = [token for token in sqlglot.tokenize(job, read="databricks") if "canary" in token.text.lower()]
    assert {token.token_type for token in singing} <= {TokenType.STRING}
    assert [token.text for token in singing] == [source[name] for name in ("where",) if name in source]


def test_the_manifest_is_written_after_the_data() -> None:
    written = re.findall(r"'INSERT OVERWRITE DIRECTORY \"', (\w+), '\"", EXPORT_BODY)
    assert written == ["data_path", "manifest_path"]
