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

import pytest
import sqlglot
import sqlparse
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from jinja2 import UndefinedError
from sqlglot import exp

from data_share import share
from data_share.datasets import Dataset, LoadMode
from data_share.share import InvalidExportPathError, run_key_of
from data_share.snowflake_hook import DataShareSnowflakeHook

PROJECT = Path(__file__).resolve().parents[2]
SQL = PROJECT / "include" / "sql"
# Without those that an account administrator runs: test_setup_snowflake.py.
SNOWFLAKE_FILES = sorted(
    path.relative_to(SQL / "snowflake") for path in (SQL / "snowflake").rglob("*.sql") if path.parent.name != "setup"
)
SYNC_FIELDS = {
    "export_to_s3": ("select_ledger_row",),
    "copy_into_staging": ("create_staging", "copy_manifest", "select_manifest", "describe_staging", "sql"),
    "check_staging": ("sql",),
    "publish": ("sql", "select_ledger_row", "count_changes"),
    "drop_staging": ("sql",),
}
EXPORT_PATH = "s3://databricks-snowflake-share/dataset/shared_forecasts/20260102T030405_0a1b2c3d/1-0a1b2c3d/"
EARLIER = {"run_id": 66, "export_path": EXPORT_PATH.replace("20260102T030405_0a1b2c3d/1", "20250102T030405_ffffffff/2")}
COPIED = {
    "files": 2,
    "files_exported": 2,
    "rows_exported": 2,
    "rows_parsed": 2,
    "rows_loaded": 2,
    "columns": ["PLACE", "DATE", "DEGREES"],
    "new_columns": {},
    "proofs": [
        {"column": "PLACE", "form": "text", "scale": 0},
        {"column": 'Net "price"', "form": "number", "scale": 2},
        {"column": "WIND", "form": "fraction", "scale": 0},
    ],
    "unproven": {"TAGS": "no checksum is known for array<int> in VARIANT"},
    "query_ids": ["query 1", "query 2"],
}
MERGE = {"load_mode": "merge", "merge_keys": ("place", "date")}
TARGET = "share_db.public.shared_forecasts"
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
    """Make the context of a task when the steps before have run: with their XComs, and with all params of its DAG."""

    def make(
        task: Any = None, *, conf: dict[str, Any] | None = None, copied: dict[str, Any] | None = None, **changes: Any
    ) -> dict[str, Any]:
        context = task_context(task, **changes)
        defaults = task.dag.params.dump() if task else {}
        context["params"] = {**defaults, **context["params"], **(conf or {})}
        xcoms = {("copy_into_staging", "return_value"): {**COPIED, **(copied or {})}}
        if context["params"].get("reload_run_key"):
            xcoms |= {("wait_for_export", "return_value"): None, ("export_to_s3", "export"): EARLIER}
        before = context["ti"].xcom_pull

        def pull(task_ids: str, key: str = "return_value", map_indexes: int | None = None) -> Any:
            return xcoms[task_ids, key] if (task_ids, key) in xcoms else before(task_ids, key, map_indexes)

        context["ti"].xcom_pull = pull
        return context

    return make


@pytest.fixture
def make_dag(sync_datasets: ModuleType) -> MakeDag:
    """Make the DAG of a dataset; the job's id, an Airflow Variable, is left out of its rendering."""

    def make(**changes: Any) -> DAG:
        made: DAG = sync_datasets.sync_dag(dataset(**changes))
        export = made.get_task("export_to_s3")
        export.template_fields = tuple(field for field in export.template_fields if field != "job_id")
        return made

    return make


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
WAYS_TO_LOAD = [
    pytest.param({}, {}, id="replace"),
    pytest.param({"load_mode": "append"}, {}, id="append"),
    pytest.param({"load_mode": "append"}, {"full_refresh": True}, id="append, full refresh"),
    pytest.param(MERGE, {}, id="merge"),
    pytest.param({**MERGE, "delete_missing": True}, {}, id="merge that deletes"),
    pytest.param({**MERGE, "delete_missing": True}, {"full_refresh": True}, id="merge, full refresh"),
    pytest.param({}, {"reload_run_key": "20250102T030405_ffffffff"}, id="reload"),
]


@pytest.mark.parametrize(("task_id", "field"), [(task, field) for task in SYNC_FIELDS for field in SYNC_FIELDS[task]])
@pytest.mark.parametrize(("changes", "conf"), WAYS_TO_LOAD)
def test_a_rendered_file_is_complete(
    rendered: Render, make_dag: MakeDag, task_id: str, field: str, changes: dict[str, Any], conf: dict[str, Any]
) -> None:
    sql = getattr(rendered(make_dag(**changes), task_id, conf=conf), field)
    assert statements(sql)
    for left_over in LEFT_OVER:
        assert left_over not in sql


@pytest.mark.parametrize(("changes", "conf"), WAYS_TO_LOAD)
def test_each_rendered_statement_is_one_of_snowflake(
    rendered: Render, make_dag: MakeDag, changes: dict[str, Any], conf: dict[str, Any]
) -> None:
    dag = make_dag(**changes)
    for task_id, field in [(task, field) for task in SYNC_FIELDS for field in SYNC_FIELDS[task]]:
        for statement in statements(getattr(rendered(dag, task_id, conf=conf), field)):
            [parsed] = sqlglot.parse(statement, dialect="snowflake")
            assert not isinstance(parsed, exp.Command), statement


def test_every_file_is_used(dag: DAG) -> None:
    bag = DagBag(PROJECT / "dags", bundle_path=PROJECT)
    bag.dags["of a dataset"] = dag
    used: set[str] = set()
    for task in [task for one in bag.dags.values() for task in one.tasks]:
        task.resolve_template_files()
        for field in task.template_fields:
            value = getattr(task, field)
            used.update(value if isinstance(value, list) else [str(value)])
    included = {Path(f"change_{mode}.sql") for mode in LoadMode}
    unused = {path for path in SNOWFLAKE_FILES if (SQL / "snowflake" / path).read_text() not in used}
    assert unused == included


@pytest.mark.parametrize("path", sorted(SQL.rglob("*.sql")), ids=lambda path: str(path.relative_to(SQL)))
def test_each_file_begins_with_what_it_is_for(path: Path) -> None:
    assert path.read_text().startswith("-- ")


def test_a_name_that_nobody_defines_is_an_error(rendered: Render, dag: DAG) -> None:
    dag.get_task("drop_staging").sql = "DROP TABLE {{ stagin_table(dag_run) }}"
    with pytest.raises(UndefinedError, match="stagin_table"):
        rendered(dag, "drop_staging")


# ---- copy

TURN = (
    "CREATE TABLE IF NOT EXISTS staging.publish_turn__shared_forecasts ( dataset VARCHAR NOT NULL, run_key VARCHAR NOT "
    "NULL, staged_at TIMESTAMP_NTZ NOT NULL, rows_inserted NUMBER(38, 0), rows_updated NUMBER(38, 0), rows_deleted "
    "NUMBER(38, 0) )"
)


def test_staging_tables_are_made_anew_like_the_target(rendered: Render, dag: DAG, key: str) -> None:
    # They are transient, and cost no fail-safe storage, because their schema is.
    assert statements(rendered(dag, "copy_into_staging").create_staging) == [
        f"CREATE OR REPLACE TABLE staging.shared_forecasts__{key}__manifest LIKE {share.MANIFEST_TABLE}",
        TURN,
        f"CREATE OR REPLACE TABLE staging.shared_forecasts__{key} LIKE {TARGET}",
    ]
    schema = (SQL / "snowflake" / "create_schemas.sql").read_text()
    assert (
        "CREATE TRANSIENT SCHEMA IF NOT EXISTS {{ share.STAGING_SCHEMA }}\nDATA_RETENTION_TIME_IN_DAYS = 0;" in schema
    )


@pytest.mark.parametrize(
    ("field", "suffix", "folder"), [("sql", "", "data"), ("copy_manifest", "__manifest", "manifest")]
)
@pytest.mark.parametrize(
    ("conf", "path"),
    [
        ({}, "shared_forecasts/20260102T030405_0a1b2c3d/1-0a1b2c3d"),
        ({"reload_run_key": "20250102T030405_ffffffff"}, "shared_forecasts/20250102T030405_ffffffff/2-0a1b2c3d"),
    ],
    ids=["own export", "reload"],
)
def test_a_copy_states_everything(
    rendered: Render, dag: DAG, key: str, field: str, suffix: str, folder: str, conf: dict[str, Any], path: str
) -> None:
    # The path is the one that the run on Databricks reports, which need not hold this run's key; the table's name does.
    assert statements(getattr(rendered(dag, "copy_into_staging", conf=conf), field)) == [
        (
            f"COPY INTO staging.shared_forecasts__{key}{suffix} "
            f"FROM @s3_share_stage/{path}/{folder}/ "
            "PATTERN = '.*[.]parquet' "
            "FILE_FORMAT = (TYPE = PARQUET USE_LOGICAL_TYPE = TRUE BINARY_AS_TEXT = FALSE) "
            "MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE "
            "ON_ERROR = 'ABORT_STATEMENT'"
        )
    ]


def test_a_copy_from_outside_of_the_dataset_cannot_be_rendered(make_dag: MakeDag, rendered: Render) -> None:
    with pytest.raises(InvalidExportPathError, match="shared_forecasts"):
        rendered(make_dag(name="other"), "copy_into_staging")


def test_the_manifest_is_dated_and_read_from_the_table_of_this_run(rendered: Render, dag: DAG, key: str) -> None:
    table = f"staging.shared_forecasts__{key}__manifest"
    assert statements(rendered(dag, "copy_into_staging").select_manifest) == [
        f"UPDATE {table} SET staged_at = SYSDATE()",
        f"SELECT dataset, run_key, row_count, file_count, column_types FROM {table}",
    ]


def test_the_columns_are_read_from_the_staging_table_of_this_run(rendered: Render, dag: DAG, key: str) -> None:
    copy = rendered(dag, "copy_into_staging")
    assert statements(copy.describe_staging) == [f"DESCRIBE TABLE staging.shared_forecasts__{key}"]
    assert copy.staging_table == f"staging.shared_forecasts__{key}"


@pytest.mark.parametrize("reload", [None, "20260101T000000_eeeeeeee"])
def test_the_manifest_must_be_of_the_export_that_is_loaded(
    rendered: Render, dag: DAG, key: str, reload: str | None
) -> None:
    copy = rendered(dag, "copy_into_staging", conf={"reload_run_key": reload})
    assert copy.run_key == ("20250102T030405_ffffffff" if reload else key)


# ---- check

RECONCILIATION = [
    "rows_match_manifest",
    "rows_parsed_match_manifest",
    "rows_loaded_match_manifest",
    "files_match_manifest",
]


def test_checks_are_one_query_that_names_each(rendered: Render, dag: DAG, key: str) -> None:
    [query] = statements(rendered(dag, "check_staging").sql)
    assert re.findall(r"'(\w+)' AS check_name", query) == [
        *RECONCILIATION,
        "place_not_null",
        "degrees_not_null",
        "degrees_possible",
    ]
    assert query.count("UNION ALL") == 6
    assert query.count(f"FROM staging.shared_forecasts__{key})") == 7


def test_the_keys_of_a_merge_are_checked(rendered: Render, make_dag: MakeDag) -> None:
    [query] = statements(rendered(make_dag(**MERGE), "check_staging").sql)
    assert 'COUNT(*) = COUNT(DISTINCT "PLACE", "DATE")' in query
    assert {"place_not_null", "date_not_null"} <= set(re.findall(r"'(\w+)' AS check_name", query))


def test_a_check_of_a_dataset_is_sql_and_no_template(rendered: Render, make_dag: MakeDag) -> None:
    checks = {"is_json": "payload LIKE '{%'", "is_text": "payload <> '{{ conn.snowflake_default.password }}'"}
    [query] = statements(rendered(make_dag(checks=checks), "check_staging").sql)
    for condition in checks.values():
        assert condition in query


class MaxBy:
    """Snowflake's MAX_BY, for SQLite."""

    def __init__(self) -> None:
        self.rows: list[tuple[Any, Any]] = []

    def step(self, value: Any, at: Any) -> None:
        self.rows.append((at, value))

    def finalize(self) -> Any:
        return max(self.rows)[1] if self.rows else None


def failed_checks(
    query: str, key: str, rows: list[tuple[Any, Any]], ledger: list[tuple[str, int, int]] | None = None
) -> set[str]:
    """Run the query, which is plain SQL, in SQLite; a ledger row is a dataset, its rows, and when it was published."""
    with sqlite3.connect(":memory:") as database:
        database.create_aggregate("MAX_BY", 2, MaxBy)  # type: ignore[arg-type]
        database.execute("ATTACH ':memory:' AS staging")
        database.execute(f"CREATE TABLE staging.shared_forecasts__{key} (place, degrees)")
        database.execute(f"CREATE TABLE {share.LEDGER_TABLE} (dataset, rows_exported, published_at)")
        database.executemany(f"INSERT INTO staging.shared_forecasts__{key} VALUES (?, ?)", rows)
        database.executemany(f"INSERT INTO {share.LEDGER_TABLE} VALUES (?, ?, ?)", ledger or [])
        return {name for name, result in database.execute(query) if result != 1}


def counted(rows: int, **changes: int) -> dict[str, int]:
    """Return what the copy hands on for so many rows, with these differences."""
    counts = dict.fromkeys(("rows_exported", "rows_parsed", "rows_loaded"), rows)
    return {**counts, "files": 1, "files_exported": 1, **changes}


@pytest.mark.parametrize(
    ("rows", "copied", "failed"),
    [
        pytest.param([("Oslo", 20), ("Rome", 70)], counted(2), set(), id="good rows"),
        pytest.param([("Oslo", 20)], counted(2), {"rows_match_manifest"}, id="a row is missing"),
        pytest.param([("Oslo", 20)] * 3, counted(2), {"rows_match_manifest"}, id="a row is there twice"),
        pytest.param(
            [("Oslo", 20)],
            counted(1, rows_parsed=2),
            {"rows_parsed_match_manifest"},
            id="a file had a row more",
        ),
        pytest.param(
            [("Oslo", 20)],
            counted(1, rows_loaded=0),
            {"rows_loaded_match_manifest"},
            id="a row was not loaded",
        ),
        pytest.param([("Oslo", 20)], counted(1, files=2), {"files_match_manifest"}, id="a file that was not exported"),
        pytest.param([("Oslo", 20), (None, 70)], counted(2), {"place_not_null"}, id="a required value is missing"),
        pytest.param([("Oslo", 20), ("Rome", 700)], counted(2), {"degrees_possible"}, id="one impossible value"),
        pytest.param(
            [("Oslo", None)],
            counted(1),
            {"degrees_not_null", "degrees_possible"},
            id="an unknown answer is no passed check",
        ),
        pytest.param([], counted(0), set(), id="an empty export"),
        pytest.param([], counted(0, files_exported=0), {"files_match_manifest"}, id="files without an export"),
        pytest.param([], counted(1), {"rows_match_manifest"}, id="nothing arrived"),
    ],
)
def test_checks_find_what_is_wrong(
    rendered: Render, dag: DAG, key: str, rows: list[tuple[Any, Any]], copied: dict[str, int], failed: set[str]
) -> None:
    assert failed_checks(rendered(dag, "check_staging", copied=copied).sql, key, rows) == failed


@pytest.mark.parametrize(
    ("before", "now", "passes"),
    [
        pytest.param([], 100, True, id="there was no sync before"),
        pytest.param([100], 150, True, id="as much more as is allowed"),
        pytest.param([100], 151, False, id="more"),
        pytest.param([100], 50, True, id="as much less as is allowed"),
        pytest.param([100], 49, False, id="less"),
        pytest.param([1, 1000, 100], 120, True, id="the last sync counts"),
        pytest.param([100, 1000], 120, False, id="an earlier sync does not count"),
    ],
)
def test_the_row_count_is_held_against_that_of_the_last_sync(
    rendered: Render, make_dag: MakeDag, key: str, before: list[int], now: int, passes: bool
) -> None:
    dag = make_dag(max_row_change_percent=50)
    of_another = ("another", 7, 10_000)
    ledger = [of_another, *(("shared_forecasts", count, at) for at, count in enumerate(before))]
    rows = [("Oslo", 20)] * now
    query = rendered(dag, "check_staging", copied=counted(now)).sql
    assert failed_checks(query, key, rows, ledger) == (set() if passes else {"row_change_acceptable"})
    accepted = rendered(dag, "check_staging", copied=counted(now), conf={"accept_row_change": True}).sql
    assert failed_checks(accepted, key, rows, ledger) == set()


# ---- publish

COLUMNS = '"PLACE", "DATE", "DEGREES"'


def transaction(publish: Any) -> list[str]:
    """Return the statements of the transaction as the operator counts and sends them, without the comments in them."""
    sent = statements(publish.sql)
    return [" ".join(sqlparse.format(one, strip_comments=True).split()) for one in sent]


def written_table(statement: str) -> str:
    """Return the table that a statement changes."""
    parsed = sqlglot.parse_one(statement, dialect="snowflake")
    table = parsed.this.this if isinstance(parsed.this, exp.Schema) else parsed.this
    return ".".join(part.name for part in table.parts)


def changes_of_target(publish: Any) -> list[str]:
    """Return the statements that change the target."""
    beginnings = [f"{verb} {TARGET} " for verb in ("INSERT INTO", "INSERT OVERWRITE INTO", "MERGE INTO", "DELETE FROM")]
    return [one for one in transaction(publish) if one.startswith(tuple(beginnings))]


@pytest.mark.parametrize(
    ("changes", "conf", "count"),
    [
        ({}, {}, 9),
        ({"load_mode": "append"}, {}, 8),
        ({"load_mode": "append"}, {"full_refresh": True}, 9),
        (MERGE, {}, 9),
        ({**MERGE, "delete_missing": True}, {}, 10),
        ({**MERGE, "delete_missing": True}, {"full_refresh": True}, 9),
    ],
    ids=["replace", "append", "append, full refresh", "merge", "merge that deletes", "merge, full refresh"],
)
def test_publishing_is_one_transaction_without_ddl(
    rendered: Render, make_dag: MakeDag, changes: dict[str, Any], conf: dict[str, Any], count: int
) -> None:
    sent = transaction(rendered(make_dag(**changes), "publish", conf=conf))
    assert len(sent) == count, "so many statements are announced to Snowflake"
    assert (sent[0], sent[-1]) == ("BEGIN TRANSACTION", "COMMIT")
    for statement in sent[1:-1]:
        [parsed] = sqlglot.parse(statement, dialect="snowflake")
        assert isinstance(parsed, exp.Insert | exp.Delete | exp.Merge | exp.Update), statement
    assert not any(statement.startswith("COMMIT") for statement in sent[:-1])


@pytest.mark.parametrize(("changes", "conf"), WAYS_TO_LOAD)
def test_the_turn_is_taken_first_and_what_datasets_share_is_locked_last(
    rendered: Render, make_dag: MakeDag, changes: dict[str, Any], conf: dict[str, Any]
) -> None:
    # Snowflake locks tables: one that is written before the target is locked for as long as the target takes.
    publish = rendered(make_dag(**changes), "publish", conf=conf)
    turn, shared = "staging.publish_turn__shared_forecasts", {share.LEDGER_TABLE, share.MANIFEST_TABLE}
    written = [written_table(statement) for statement in transaction(publish)[1:-1]]
    assert [table for table, _ in itertools.groupby(written)][:2] == [turn, TARGET]
    assert set(written[:2]) == {turn}
    assert set(written[written.index(TARGET) :]) == {TARGET, *shared}
    assert set(written[-3:]) == shared


@pytest.mark.parametrize(
    "changes", [{}, {"load_mode": "append"}, {**MERGE, "delete_missing": True}], ids=["replace", "append", "merge"]
)
@pytest.mark.parametrize("full_refresh", [False, True])
def test_replacing_leaves_exactly_the_staged_rows(
    rendered: Render, make_dag: MakeDag, key: str, changes: dict[str, Any], full_refresh: bool
) -> None:
    replaced = changes_of_target(rendered(make_dag(**changes), "publish", conf={"full_refresh": full_refresh})) == [
        f"INSERT OVERWRITE INTO {TARGET} ({COLUMNS}) SELECT {COLUMNS} FROM staging.shared_forecasts__{key}"
    ]
    assert replaced is (full_refresh or not changes)


def test_appending_adds_the_staged_rows(rendered: Render, make_dag: MakeDag, key: str) -> None:
    assert changes_of_target(rendered(make_dag(load_mode="append"), "publish")) == [
        f"INSERT INTO {TARGET} ({COLUMNS}) SELECT {COLUMNS} FROM staging.shared_forecasts__{key}"
    ]


OTHER_PATH = EXPORT_PATH.replace("/1-", "/0-")


def is_let_through(publish: Any, key: str, *, turn: str, staged: int, ledger: list[tuple[str, str]]) -> bool:
    """Say whether the turn keeps its run key: run what decides on it, which is plain SQL, in SQLite."""
    run_key, decision = sqlglot.parse_one(count_in_turn(publish), dialect="snowflake").expressions[0].unnest_operands()
    assert run_key.name == "run_key"
    with sqlite3.connect(":memory:") as database:
        database.execute("ATTACH ':memory:' AS staging")
        database.execute(f"CREATE TABLE staging.shared_forecasts__{key} (place)")
        database.executemany(f"INSERT INTO staging.shared_forecasts__{key} VALUES (?)", [("Oslo",)] * staged)
        database.execute(f"CREATE TABLE {share.LEDGER_TABLE} (dataset, run_key, export_path)")
        database.executemany(f"INSERT INTO {share.LEDGER_TABLE} VALUES ('shared_forecasts', ?, ?)", ledger)
        query = f"SELECT {decision.sql(dialect='sqlite')} FROM (SELECT '{turn}' AS run_key) AS turn"
        [(kept,)] = database.execute(query).fetchall()
    assert kept in (None, key)
    return bool(kept == key)


@pytest.mark.parametrize(
    ("turn", "staged", "ledger", "let_through"),
    [
        pytest.param("own", 2, [], {"replace", "append", "merge"}, id="its turn"),
        pytest.param("another", 2, [], set(), id="another sync that was staged later had its turn"),
        pytest.param("own", 0, [], set(), id="the staging table was emptied"),
        pytest.param("own", 2, [("own", EXPORT_PATH)], set(), id="this export was published"),
        pytest.param("own", 2, [("own", OTHER_PATH)], {"replace", "merge"}, id="a new export of the same run"),
        pytest.param("own", 2, [("another", EXPORT_PATH)], {"replace", "merge"}, id="an export that is loaded again"),
        pytest.param("own", 2, [("another", OTHER_PATH)], {"replace", "append", "merge"}, id="other syncs"),
    ],
)
@pytest.mark.parametrize("load_mode", list(LoadMode))
def test_the_turn_lets_through_what_may_be_published(
    rendered: Render,
    make_dag: MakeDag,
    key: str,
    load_mode: LoadMode,
    turn: str,
    staged: int,
    ledger: list[tuple[str, str]],
    let_through: set[str],
) -> None:
    publish = rendered(make_dag(**(MERGE if load_mode is LoadMode.MERGE else {"load_mode": load_mode})), "publish")
    run_keys = {"own": key, "another": "20250102T030405_ffffffff"}
    rows = [(run_keys[who], path) for who, path in ledger]
    found = is_let_through(publish, key, turn=run_keys[turn], staged=staged, ledger=rows)
    assert found is (load_mode in let_through)


def merge_into_target(key: str, update: str) -> str:
    staged = ", ".join(f"staging.{column}" for column in COLUMNS.split(", "))
    return (
        f"MERGE INTO {TARGET} AS target USING staging.shared_forecasts__{key} AS staging "
        'ON target."PLACE" = staging."PLACE" AND target."DATE" = staging."DATE" '
        f"{update}WHEN NOT MATCHED THEN INSERT ({COLUMNS}) VALUES ({staged})"
    )


@pytest.mark.parametrize("delete_missing", [False, True])
def test_merging_updates_inserts_and_deletes_what_is_missing_only_if_the_dataset_says_so(
    rendered: Render, make_dag: MakeDag, key: str, delete_missing: bool
) -> None:
    merge = merge_into_target(key, 'WHEN MATCHED THEN UPDATE SET "DEGREES" = staging."DEGREES" ')
    delete = (
        f"DELETE FROM {TARGET} WHERE NOT EXISTS ( SELECT 1 FROM staging.shared_forecasts__{key} AS staged_row "
        'WHERE shared_forecasts."PLACE" = staged_row."PLACE" AND shared_forecasts."DATE" = staged_row."DATE" )'
    )
    publish = rendered(make_dag(**MERGE, delete_missing=delete_missing), "publish")
    assert changes_of_target(publish) == [merge, *([delete] if delete_missing else [])]


def test_merging_rows_that_are_nothing_but_keys_updates_nothing(rendered: Render, make_dag: MakeDag, key: str) -> None:
    dag = make_dag(load_mode="merge", merge_keys=("place", "date", "degrees"))
    [merge] = changes_of_target(rendered(dag, "publish"))
    assert "UPDATE" not in merge


def test_new_columns_are_published_with_the_others(rendered: Render, dag: DAG) -> None:
    copied = {"columns": ["PLACE", "WIND"], "new_columns": {"WIND": "DOUBLE"}}
    publish = rendered(dag, "publish", copied=copied)
    [insert] = changes_of_target(publish)
    assert insert.count('"PLACE", "WIND"') == 2
    assert json.loads(publish.new_columns) == {"WIND": "DOUBLE"}


def counts_of_changes(query: str, key: str, staged: list[int], present: list[int]) -> dict[str, int]:
    """Run the query, which is plain SQL, in SQLite, on tables of keys."""
    with sqlite3.connect(":memory:") as database:
        database.row_factory = sqlite3.Row
        database.execute("ATTACH ':memory:' AS staging")
        for table, keys in ((f"staging.shared_forecasts__{key}", staged), ("shared_forecasts", present)):
            database.execute(f"CREATE TABLE {table} (place, date, degrees)")
            database.executemany(f"INSERT INTO {table} VALUES (?, 1, 20)", [(value,) for value in keys])
        return dict(database.execute(query.replace(TARGET, "shared_forecasts")).fetchone())


@pytest.mark.parametrize(
    ("changes", "conf", "counts"),
    [
        ({}, {}, (3, 0, 4)),
        ({"load_mode": "append"}, {}, (3, 0, 0)),
        ({"load_mode": "append"}, {"full_refresh": True}, (3, 0, 4)),
        (MERGE, {}, (1, 2, 0)),
        ({**MERGE, "delete_missing": True}, {}, (1, 2, 2)),
        ({**MERGE, "delete_missing": True}, {"full_refresh": True}, (3, 0, 4)),
    ],
    ids=["replace", "append", "append, full refresh", "merge", "merge that deletes", "merge, full refresh"],
)
def test_changes_are_counted_before_they_are_made(
    rendered: Render,
    make_dag: MakeDag,
    key: str,
    changes: dict[str, Any],
    conf: dict[str, Any],
    counts: tuple[int, ...],
) -> None:
    publish = rendered(make_dag(**changes), "publish", conf=conf)
    [query] = statements(publish.count_changes)
    names = ("rows_inserted", "rows_updated", "rows_deleted")
    assert counts_of_changes(query, key, [1, 2, 9], [1, 2, 3, 4]) == dict(zip(names, counts, strict=True))
    counted = sqlglot.parse_one(query, dialect="snowflake").sql(comments=False)
    published = sqlglot.parse_one(count_in_turn(publish), dialect="snowflake")
    assert counted in {part.sql(comments=False) for part in published.find_all(exp.Select)}, "the ledger has them too"


def count_in_turn(publish: Any) -> str:
    [update] = [one for one in transaction(publish) if one.startswith("UPDATE staging.publish_turn__")]
    return update


def ledger_insert(publish: Any) -> str:
    [insert] = [one for one in transaction(publish) if one.startswith(f"INSERT INTO {share.LEDGER_TABLE} ")]
    return insert


@pytest.mark.parametrize(
    ("requested_by", "literal"),
    [
        (None, "'grace' AS requested_by"),
        ("ada@example.com", "'ada@example.com'"),
        ("O'Brien", "'O''Brien'"),
        ("'); DROP TABLE x; --", "'''); DROP TABLE x; --'"),
        ("\\'); DROP TABLE x; --", "'' || CHR(92) || '''); DROP TABLE x; --'"),
    ],
)
def test_the_ledger_row_holds_values_as_literals(
    rendered: Render, dag: DAG, requested_by: str | None, literal: str
) -> None:
    values = rendered(dag, "publish", requested_by=requested_by).sql
    assert literal in values
    assert "'manual__o''clock--1'" in values
    assert "'2026-01-02 03:04:06.789000'::TIMESTAMP_NTZ" in values
    assert f"'{EXPORT_PATH}'" in values


@pytest.mark.parametrize(("changes", "conf"), WAYS_TO_LOAD)
def test_the_ledger_row_has_a_value_for_each_column(
    rendered: Render, make_dag: MakeDag, changes: dict[str, Any], conf: dict[str, Any]
) -> None:
    insert = sqlglot.parse_one(ledger_insert(rendered(make_dag(**changes), "publish", conf=conf)), dialect="snowflake")
    values = {value.alias_or_name: value.unalias().sql(dialect="snowflake") for value in insert.expression.selects}
    assert list(values) == [column.name for column in insert.this.expressions]
    reload, full_refresh = "reload_run_key" in conf, "full_refresh" in conf
    assert values["databricks_run_id"] == ("66" if reload else "77")
    assert values["attempt"] == ("2" if reload else "1")
    assert values["export_path"] == f"'{EARLIER['export_path'] if reload else EXPORT_PATH}'"
    assert values["load_mode"] == f"'{'replace' if full_refresh else changes.get('load_mode', 'replace')}'"
    assert values["target_table"] == f"'{TARGET}'"
    assert values["rows_loaded"] == "2"
    assert values["query_ids"] == """'["query 1", "query 2"]'"""
    assert values["requested_by"] == "'grace'"


def test_the_ledger_has_the_columns_that_are_written() -> None:
    create = (SQL / "snowflake" / "create_ledger.sql").read_text().partition("CREATE TABLE")[2].partition(");")[0]
    publish = (SQL / "snowflake" / "publish.sql").read_text()
    written = re.search(r"INSERT INTO \{\{ share.LEDGER_TABLE \}\} \(([^)]*)\)", publish)
    assert written is not None
    assert re.findall(r"^  (\w+) ", create, flags=re.MULTILINE) == [one.strip() for one in written[1].split(",")]


@pytest.mark.parametrize("task_id", ["export_to_s3", "publish"])
def test_the_ledger_is_asked_for_a_sync_of_this_dataset_with_the_run_key_bound(
    rendered: Render, dag: DAG, task_id: str
) -> None:
    assert statements(rendered(dag, task_id).select_ledger_row) == [
        f"SELECT * FROM {share.LEDGER_TABLE} WHERE dataset = 'shared_forecasts' AND run_key = ?"
    ]


@pytest.mark.parametrize(
    ("conf", "export_path", "load_mode", "preview"),
    [
        ({}, EXPORT_PATH, "append", "False"),
        ({"dry_run": True}, EXPORT_PATH, "append", "True"),
        ({"full_refresh": True}, EXPORT_PATH, "replace", "False"),
        ({"reload_run_key": "20250102T030405_ffffffff"}, EARLIER["export_path"], "append", "False"),
    ],
    ids=["as it is", "dry run", "full refresh", "reload"],
)
def test_the_conf_reaches_the_publish_step(
    rendered: Render, make_dag: MakeDag, key: str, conf: dict[str, Any], export_path: str, load_mode: str, preview: str
) -> None:
    publish = rendered(make_dag(load_mode="append"), "publish", conf=conf)
    assert publish.run_key == key, "a reload is a sync of its own"
    assert (publish.export_path, publish.load_mode, publish.preview) == (export_path, load_mode, preview)
    assert json.loads(publish.new_columns) == {}


# ---- drop


def test_only_the_staging_tables_of_this_run_are_dropped(rendered: Render, dag: DAG, key: str) -> None:
    assert statements(rendered(dag, "drop_staging").sql) == [
        f"DROP TABLE IF EXISTS staging.shared_forecasts__{key}",
        f"DROP TABLE IF EXISTS staging.shared_forecasts__{key}__manifest",
    ]


# ---- clean up


def test_the_clean_up_lists_staging_tables_and_old_exports(rendered: Render) -> None:
    dag = DagBag(PROJECT / "dags" / "clean_up_share.py", bundle_path=PROJECT).dags["clean_up_share"]
    task = rendered(dag, "clean_up", conf={"keep_days": 30})
    assert statements(task.sql) == [f"SHOW TABLES IN SCHEMA {share.STAGING_SCHEMA}"]
    [old_exports] = statements(task.select_old_exports)
    assert f"FROM {share.LEDGER_TABLE} WHERE published_at < DATEADD(DAY, -30, SYSDATE())" in old_exports
    assert task.keep_days == "30"


# ---- export


def test_the_export_uses_the_parameters_that_the_job_fills_in() -> None:
    sql = (SQL / "databricks" / "export_dataset.sql").read_text()
    body = sqlparse.format(sql, strip_comments=True)
    # In quotes, markers are those of a statement that EXECUTE IMMEDIATE runs.
    used = set(re.findall(r"(?<!:):(\w+)", re.sub(r"'[^']*'", "''", body)))
    assert used == {"source_table", "data_path", "manifest_path", "run_key", "dataset", "proof"}
    assert used == set(re.findall(r"^--   :(\w+)", sql, flags=re.MULTILINE)), "the header names all inputs"


def test_nothing_of_a_column_reaches_a_made_statement_but_its_name_with_doubled_backticks() -> None:
    body = sqlparse.format((SQL / "databricks" / "export_dataset.sql").read_text(), strip_comments=True)
    made = "".join(re.findall(r"SET VAR query = .*?;", body, flags=re.DOTALL))
    # Outside of the texts: the names n, the types t, which are compared only, and what takes no text of theirs.
    code = re.sub(r"'[^']*'", "''", made)
    assert re.findall(r"\|\| (n\b|t\b|names|types)", code) == []
    assert made.count("'`' || REPLACE(n, '`', '``') || '`'") + made.count("`' || REPLACE(n, '`', '``') || '`)'") == 2
    assert code.count("REPLACE(n") == 2


def test_the_manifest_is_written_after_the_data() -> None:
    body = sqlparse.format((SQL / "databricks" / "export_dataset.sql").read_text(), strip_comments=True)
    assert re.findall(r"INSERT OVERWRITE DIRECTORY :(\w+)", body) == ["data_path", "manifest_path"]
