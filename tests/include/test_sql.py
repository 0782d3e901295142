"""The SQL files as Airflow renders them: the right tables, values as literals, and nothing left to fill in."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlparse
from airflow.sdk import DAG
from jinja2 import UndefinedError

from data_share import share
from data_share.datasets import Dataset, LoadMode
from data_share.share import InvalidExportPathError, run_key_of
from data_share.snowflake_hook import DataShareSnowflakeHook

SQL = Path(__file__).resolve().parents[2] / "include" / "sql"
SNOWFLAKE_FILES = sorted(path.relative_to(SQL / "snowflake") for path in (SQL / "snowflake").rglob("*.sql"))
SYNC_FIELDS = {
    "copy_into_staging": ("create_staging", "copy_manifest", "select_manifest", "sql"),
    "check_staging": ("sql",),
    "publish": ("sql", "select_ledger_row"),
    "drop_staging": ("sql",),
}
Render = Callable[..., Any]


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
def dag(sync_datasets: ModuleType) -> DAG:
    made: DAG = sync_datasets.sync_dag(dataset())
    return made


@pytest.fixture
def key(task_context: Callable[..., dict[str, Any]]) -> str:
    return run_key_of(task_context()["dag_run"])


def statements(sql: str) -> list[str]:
    """Return the statements of a rendered file as the operators send them, in one line each."""
    return [" ".join(one.split()) for one in DataShareSnowflakeHook.split_sql_string(sql, strip_semicolon=True)]


# ---- each file


@pytest.mark.parametrize(("task_id", "field"), [(task, field) for task in SYNC_FIELDS for field in SYNC_FIELDS[task]])
def test_a_rendered_file_is_complete(rendered: Render, dag: DAG, task_id: str, field: str) -> None:
    sql = getattr(rendered(dag, task_id), field)
    assert statements(sql)
    for left_over in ("{{", "}}", "{%", "{#", "None", "Undefined", "<function", "<module"):
        assert left_over not in sql


def test_every_file_is_used(sync_datasets: ModuleType, dag: DAG) -> None:
    dag.resolve_template_files()
    used = {getattr(dag.get_task(task), field) for task, fields in SYNC_FIELDS.items() for field in fields}
    of_other_load_modes = {Path(f"publish_{mode}.sql") for mode in LoadMode if mode != dataset().load_mode}
    of_the_set_up = {path for path in SNOWFLAKE_FILES if path.name in SET_UP_FILES or path.parent.name == "targets"}
    unused = {path for path in SNOWFLAKE_FILES if (SQL / "snowflake" / path).read_text() not in used}
    assert unused == of_other_load_modes | of_the_set_up


SET_UP_FILES = {"create_schemas.sql", "create_stage.sql", "create_ledger.sql"}


@pytest.mark.parametrize("mode", list(LoadMode))
def test_each_load_mode_has_its_file(mode: LoadMode) -> None:
    assert Path(f"publish_{mode}.sql") in SNOWFLAKE_FILES


@pytest.mark.parametrize("path", sorted(SQL.rglob("*.sql")), ids=lambda path: str(path.relative_to(SQL)))
def test_each_file_begins_with_what_it_is_for(path: Path) -> None:
    assert path.read_text().startswith("-- ")


def test_a_name_that_nobody_defines_is_an_error(rendered: Render, dag: DAG) -> None:
    dag.get_task("drop_staging").sql = "DROP TABLE {{ stagin_table(dag_run) }}"
    with pytest.raises(UndefinedError, match="stagin_table"):
        rendered(dag, "drop_staging")


# ---- copy


def test_staging_tables_are_made_anew_like_the_target(rendered: Render, dag: DAG, key: str) -> None:
    assert statements(rendered(dag, "copy_into_staging").create_staging) == [
        f"CREATE OR REPLACE TRANSIENT TABLE staging.shared_forecasts__{key} LIKE share_db.public.shared_forecasts",
        f"CREATE OR REPLACE TRANSIENT TABLE staging.shared_forecasts__{key}__manifest LIKE {share.MANIFEST_TABLE}",
    ]


@pytest.mark.parametrize(
    ("field", "suffix", "folder"), [("sql", "", "data"), ("copy_manifest", "__manifest", "manifest")]
)
def test_a_copy_states_everything(rendered: Render, dag: DAG, key: str, field: str, suffix: str, folder: str) -> None:
    # The path is the one that the run on Databricks reports, which need not hold this run's key.
    assert statements(getattr(rendered(dag, "copy_into_staging"), field)) == [
        (
            f"COPY INTO staging.shared_forecasts__{key}{suffix} "
            f"FROM @s3_share_stage/shared_forecasts/20260102T030405_0a1b2c3d/1/{folder}/ "
            "PATTERN = '.*[.]parquet' "
            "FILE_FORMAT = (TYPE = PARQUET USE_LOGICAL_TYPE = TRUE BINARY_AS_TEXT = FALSE) "
            "MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE "
            "ON_ERROR = 'ABORT_STATEMENT'"
        )
    ]


def test_a_copy_from_outside_of_the_dataset_cannot_be_rendered(sync_datasets: ModuleType, rendered: Render) -> None:
    other = sync_datasets.sync_dag(dataset(name="other"))
    with pytest.raises(InvalidExportPathError, match="shared_forecasts"):
        rendered(other, "copy_into_staging")


def test_the_manifest_is_read_from_the_table_of_this_run(rendered: Render, dag: DAG, key: str) -> None:
    assert statements(rendered(dag, "copy_into_staging").select_manifest) == [
        f"SELECT dataset, run_key, row_count FROM staging.shared_forecasts__{key}__manifest"
    ]


# ---- check


def test_checks_are_one_query_that_names_each(rendered: Render, dag: DAG, key: str) -> None:
    [query] = statements(rendered(dag, "check_staging").sql)
    assert re.findall(r"'(\w+)' AS check_name", query) == [
        "rows_match_manifest",
        "place_not_null",
        "degrees_not_null",
        "degrees_possible",
    ]
    assert query.count("UNION ALL") == 3
    assert f"COUNT(*) = (SELECT SUM(row_count) FROM staging.shared_forecasts__{key}__manifest)" in query
    assert query.count(f"FROM staging.shared_forecasts__{key})") == 4


def results_of_checks(query: str, key: str, rows: list[tuple[Any, Any]], rows_exported: int) -> dict[str, int]:
    """Run the query, which is plain SQL, in SQLite."""
    with sqlite3.connect(":memory:") as database:
        database.execute("ATTACH ':memory:' AS staging")
        database.execute(f"CREATE TABLE staging.shared_forecasts__{key} (place, degrees)")
        database.execute(f"CREATE TABLE staging.shared_forecasts__{key}__manifest (row_count)")
        database.executemany(f"INSERT INTO staging.shared_forecasts__{key} VALUES (?, ?)", rows)
        database.execute(f"INSERT INTO staging.shared_forecasts__{key}__manifest VALUES (?)", [rows_exported])
        return dict(database.execute(query).fetchall())


@pytest.mark.parametrize(
    ("rows", "rows_exported", "failed"),
    [
        pytest.param([("Oslo", 20), ("Rome", 70)], 2, set(), id="good rows"),
        pytest.param([("Oslo", 20)], 2, {"rows_match_manifest"}, id="a row is missing"),
        pytest.param([("Oslo", 20), (None, 70)], 2, {"place_not_null"}, id="a required value is missing"),
        pytest.param([("Oslo", 20), ("Rome", 700)], 2, {"degrees_possible"}, id="one impossible value"),
        pytest.param(
            [("Oslo", None)], 1, {"degrees_not_null", "degrees_possible"}, id="an unknown answer is no passed check"
        ),
        pytest.param([], 0, set(), id="an empty export"),
        pytest.param([], 1, {"rows_match_manifest"}, id="nothing arrived"),
    ],
)
def test_checks_find_what_is_wrong(
    rendered: Render, dag: DAG, key: str, rows: list[tuple[Any, Any]], rows_exported: int, failed: set[str]
) -> None:
    results = results_of_checks(rendered(dag, "check_staging").sql, key, rows, rows_exported)
    assert {name for name, result in results.items() if result != 1} == failed
    assert len(results) == 4


# ---- publish


def test_publishing_is_one_transaction_without_ddl(rendered: Render, dag: DAG, key: str) -> None:
    transaction = statements(rendered(dag, "publish").sql)
    assert transaction[0] == "BEGIN TRANSACTION"
    assert transaction[-1] == "COMMIT"
    kinds = [sqlparse.parse(statement)[0].get_type() for statement in transaction[1:-1]]
    assert set(kinds) <= {"INSERT", "DELETE", "MERGE", "UPDATE"}
    assert f"INSERT OVERWRITE INTO share_db.public.shared_forecasts SELECT * FROM staging.shared_forecasts__{key}" in (
        transaction
    )


def ledger_insert(publish: Any) -> str:
    [insert] = [one for one in statements(publish.sql) if one.startswith(f"INSERT INTO {share.LEDGER_TABLE} ")]
    return insert


@pytest.mark.parametrize(
    ("requested_by", "literal"),
    [
        (None, "NULL"),
        ("ada@example.com", "'ada@example.com'"),
        ("O'Brien", "'O''Brien'"),
        ("'); DROP TABLE x; --", "'''); DROP TABLE x; --'"),
        ("\\'); DROP TABLE x; --", r"'\\''); DROP TABLE x; --'"),
    ],
)
def test_the_ledger_row_holds_values_as_literals(
    rendered: Render, dag: DAG, requested_by: str | None, literal: str
) -> None:
    publish = rendered(dag, "publish", requested_by=requested_by)
    values = ledger_insert(publish) if requested_by is None else publish.sql
    assert literal in values
    assert "'manual__o''clock--1'" in values
    assert "'2026-01-02 03:04:06.789000'::TIMESTAMP_NTZ" in values
    assert "'s3://databricks-snowflake-share/dataset/shared_forecasts/20260102T030405_0a1b2c3d/1/'" in values


def test_the_ledger_row_has_a_value_for_each_column(rendered: Render, dag: DAG) -> None:
    insert = ledger_insert(rendered(dag, "publish"))
    match = re.fullmatch(r"INSERT INTO \w+ \((.*?)\) SELECT (.*) FROM \S+ AS manifest", insert)
    assert match is not None
    columns = match[1].split(", ")
    values = re.sub(r"\([^()]*(\([^()]*\))?[^()]*\)", "", match[2]).split(", ")
    assert len(values) == len(columns)
    row = dict(zip(columns, values, strict=True))
    assert row["databricks_run_id"] == "77"
    assert row["load_mode"] == "'replace'"
    assert row["target_table"] == "'share_db.public.shared_forecasts'"
    assert row["requested_by"] == "NULL"


def test_the_ledger_is_asked_with_the_run_key_bound(rendered: Render, dag: DAG, key: str) -> None:
    publish = rendered(dag, "publish")
    assert statements(publish.select_ledger_row) == [f"SELECT * FROM {share.LEDGER_TABLE} WHERE run_key = ?"]
    assert publish.run_key == key
    assert publish.export_path == (
        "s3://databricks-snowflake-share/dataset/shared_forecasts/20260102T030405_0a1b2c3d/1/"
    )


# ---- drop


def test_only_the_staging_tables_of_this_run_are_dropped(rendered: Render, dag: DAG, key: str) -> None:
    assert statements(rendered(dag, "drop_staging").sql) == [
        f"DROP TABLE IF EXISTS staging.shared_forecasts__{key}",
        f"DROP TABLE IF EXISTS staging.shared_forecasts__{key}__manifest",
    ]


# ---- export


def test_the_export_uses_the_parameters_that_the_job_fills_in() -> None:
    sql = (SQL / "databricks" / "export_dataset.sql").read_text()
    body = sqlparse.format(sql, strip_comments=True)
    used = set(re.findall(r"(?<!:):(\w+)", body))
    assert used == {"source_table", "data_path", "manifest_path", "run_key", "dataset"}
    assert used == set(re.findall(r"^--   :(\w+)", sql, flags=re.MULTILINE)), "the header names all inputs"


def test_the_manifest_is_written_after_the_data() -> None:
    body = sqlparse.format((SQL / "databricks" / "export_dataset.sql").read_text(), strip_comments=True)
    assert re.findall(r"INSERT OVERWRITE DIRECTORY :(\w+)", body) == ["data_path", "manifest_path"]
