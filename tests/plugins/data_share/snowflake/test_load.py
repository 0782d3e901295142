from __future__ import annotations

import contextlib
from datetime import datetime

import pytest
from airflow.sdk.exceptions import AirflowFailException

from data_share.outcome.codes import FailureCode
from data_share.share import Share
from data_share.snowflake.load import ManifestError, NothingLoadedError, SnowflakeCopyIntoOperator
from data_share.snowflake.policies import PolicyFoundError, RowsHiddenError, Samples
from data_share.snowflake.schema_drift import SchemaDriftError
from data_share.snowflake.sql_api import SnowflakeStatementError
from data_share.snowflake.statements import TARGET_UNCHANGED, TargetMissingError
from data_share.snowflake.target_lock import TargetTakenError
from tests.plugins.data_share.conftest import Snowflake, known_sync, tides
from tests.plugins.data_share.snowflake.examples import EXPORT_PATH, KEY, LOCK, MakeContext

MANIFEST = {
    "MANIFESTS": 1,
    "DATASET": "tides",
    "RUN_KEY": KEY,
    "ROW_COUNT": 5,
    "FILE_COUNT": 2,
    "COLUMN_TYPES": "struct<harbour:string,depth:double>",
    "STAGED_AT": datetime(2026, 1, 2, 3, 4, 30),
}
WITH_SALINITY = {**MANIFEST, "COLUMN_TYPES": "struct<harbour:string,depth:double,salinity:decimal(5,2)>"}
COLUMNS = [
    {"name": "HARBOUR", "type": "VARCHAR(80)", "null?": "N", "default": None},
    {"name": "DEPTH", "type": "FLOAT", "default": None},
]
FILES = [
    {"file": "data/part-0.parquet", "status": "LOADED", "rows_parsed": 3, "rows_loaded": 3},
    {"file": "data/part-1.parquet", "status": "LOADED", "rows_parsed": 2, "rows_loaded": 2},
]
LOCKED = {
    f"LOCK_{name}": LOCK[name] for name in ("TARGET_DATABASE", "TARGET_SCHEMA", "TARGET_NAME", "DATASET", "RUN_KEY")
}
NO_SUMS = "the manifest has no checksums: the export was made without them, or by an older version of the export job"


@pytest.fixture
def copy(snowflake: Snowflake) -> SnowflakeCopyIntoOperator:
    """Make the copy step, with a Snowflake where everything goes well."""
    snowflake.prepared = {**MANIFEST, **LOCKED}
    snowflake.answer("DESCRIBE target", COLUMNS)
    snowflake.answer("COPY data", FILES)
    task = SnowflakeCopyIntoOperator(
        share=Share(),
        task_id="copy_into_staging",
        dataset=tides(),
        sql={
            "insert_lock_row": "MERGE lock;",
            "describe_target": "DESCRIBE target;",
            "explain_target": "EXPLAIN target;",
            "count_visible": "SHOW target; COUNT target;",
            "copy_into_staging": "COPY data;",
        },
    )
    export = {"run_id": 77, "export_path": EXPORT_PATH}
    task.sync = known_sync(task.dataset, key=KEY, found_export=export, new_staging_table="staging.tides", attempt=1)
    return task


def in_one_line(statements: list[str]) -> list[str]:
    """Leave of the request that prepares the staging only its name: tests/include/test_sql.py looks into it."""
    return ["PREPARE" if "manifest.*" in statement else statement for statement in statements]


def writes_samples(statement: str, columns: dict[str, str]) -> bool:
    samples = Samples(columns)
    return f"INSERT INTO staging.tides__samples ({samples.names}) {samples.rows}" in statement


def test_copying_creates_reads_the_manifest_compares_loads_and_counts(
    snowflake: Snowflake, copy: SnowflakeCopyIntoOperator, task_context: MakeContext
) -> None:
    context = task_context(copy)
    context["dag_run"].clear_number = 2
    assert copy.execute(context) == {  # type: ignore[arg-type]
        "export_path": EXPORT_PATH,
        "databricks_run_id": 77,
        "files": 2,
        "files_exported": 2,
        "rows_exported": 5,
        "rows_parsed": 5,
        "rows_loaded": 5,
        "staging_table": "staging.tides",
        "staged_at": "2026-01-02T03:04:30",
        "columns": ["HARBOUR", "DEPTH"],
        "kinds": {"HARBOUR": "VARCHAR", "DEPTH": "FLOAT"},
        "new_columns": {},
        "created_columns": {},
        "target_columns": ["HARBOUR", "DEPTH"],
        "proofs": [],
        "unproven": dict.fromkeys(("HARBOUR", "DEPTH"), NO_SUMS),
        "query_ids": ["query 3", "query 5"],
        "copy_attempt": 1,
        "statement_seconds": 1.235,
        "export_mode": None,
        "task_instance_id": str(context["ti"].id),
        "clear_number": 2,
    }
    assert in_one_line(snowflake.statements) == [
        "DESCRIBE target",
        "EXPLAIN target",
        "PREPARE",
        'CREATE OR REPLACE TABLE staging.tides ("HARBOUR" VARCHAR(80) NOT NULL, "DEPTH" FLOAT)',
        "COPY data",
    ]
    assert writes_samples(snowflake.statements[2], {"HARBOUR": "VARCHAR(80)", "DEPTH": "FLOAT"})
    assert len(set(snowflake.request_ids)) == 5


def test_nothing_is_loaded_of_a_target_with_policies(
    snowflake: Snowflake, copy: SnowflakeCopyIntoOperator, task_context: MakeContext
) -> None:
    policed = [COLUMNS[0], {**COLUMNS[1], "policy name": "SEC.POLICIES.DEPTHS"}]
    plan = [
        {"operation": "Result", "objects": None},
        {"operation": "DynamicSecureView", "objects": "X (+ RowAccessPolicy)"},
    ]
    for statement, rows, found in (
        ("DESCRIBE target", policed, "public.tides column DEPTH has the masking policy SEC.POLICIES.DEPTHS"),
        ("EXPLAIN target", plan, "public.tides has a row access policy"),
        ("", [], "changes DEPTH."),
    ):
        before = snowflake.answers.get(statement)
        snowflake.answer(statement, rows)
        if not statement:
            # A policy that is set through a tag masks the manifest too: it is not told as another export's.
            snowflake.prepared |= {"SAMPLE_1_0": 0, "RUN_KEY": "***"}
        with pytest.raises(PolicyFoundError) as caught:
            copy.execute(task_context(copy))  # type: ignore[arg-type]
        assert found in str(caught.value), statement
        assert TARGET_UNCHANGED in str(caught.value)
        assert "IS_ROLE_IN_SESSION('DATA_SHARE_LOADER') THEN val" in caught.value.what_to_do
        assert "policies: exempt in tides.yaml" in caught.value.what_to_do
        assert isinstance(caught.value, AirflowFailException), "another attempt would find it too"
        snowflake.answers.pop(statement)
        if before:
            snowflake.answers[statement] = before
    assert "COPY data" not in snowflake.statements


def test_of_a_target_that_exempts_the_role_the_hidden_rows_are_counted(
    snowflake: Snowflake, copy: SnowflakeCopyIntoOperator, task_context: MakeContext
) -> None:
    copy.dataset = tides(policies="exempt")
    snowflake.answer("EXPLAIN target", [{"operation": "DynamicSecureView", "objects": "TIDES (+ RowAccessPolicy)"}])
    snowflake.answer("COUNT target", [{"VISIBLE": 6}])
    for shown, hidden in (
        ([{"name": "TIDES", "rows": 7}], True),
        ([{"name": "TIDES", "rows": 6}], False),
        ([{"name": "TIDES", "rows": 5}], False),  # others have inserted meanwhile
        ([{"name": "tides", "rows": 7}, {"name": "TIDES", "rows": None}], False),
        ([], False),
    ):
        snowflake.answer("SHOW target", shown)
        if hidden:
            with pytest.raises(RowsHiddenError, match="sees 6 of 7 row") as caught:
                copy.execute(task_context(copy))  # type: ignore[arg-type]
            assert "set policies: exempt" not in caught.value.what_to_do
        else:
            copy.execute(task_context(copy))  # type: ignore[arg-type]


def test_columns_of_types_that_are_not_known_have_no_samples(
    snowflake: Snowflake, copy: SnowflakeCopyIntoOperator, task_context: MakeContext
) -> None:
    place = {"name": "PLACE", "type": "GEOGRAPHY", "default": None}
    copy.dataset = tides(target_defaults=("place",))
    for columns, known in (([*COLUMNS, place], {"HARBOUR": "VARCHAR(80)", "DEPTH": "FLOAT"}), ([place], {})):
        snowflake.answer("DESCRIBE target", columns)
        snowflake.statements.clear()
        with contextlib.suppress(SchemaDriftError):
            copy.execute(task_context(copy))  # type: ignore[arg-type]
        prepare = snowflake.statements[2]
        assert '"PLACE"' not in prepare
        assert writes_samples(prepare, known) if known else "samples" not in prepare


def test_a_target_without_a_lock_row_gets_one_before_anything_is_loaded(
    snowflake: Snowflake, copy: SnowflakeCopyIntoOperator, task_context: MakeContext
) -> None:
    snowflake.prepared |= dict.fromkeys(LOCKED)
    copy.execute(task_context(copy))  # type: ignore[arg-type]
    assert in_one_line(snowflake.statements)[2:4] == ["PREPARE", "MERGE lock"]


def test_the_target_of_another_dataset_is_refused_before_anything_is_loaded(
    snowflake: Snowflake, copy: SnowflakeCopyIntoOperator, task_context: MakeContext
) -> None:
    snowflake.prepared["LOCK_DATASET"] = "another"
    with pytest.raises(TargetTakenError, match="is the target of the dataset another") as caught:
        copy.execute(task_context(copy))  # type: ignore[arg-type]
    assert caught.value.code is FailureCode.TARGET_TAKEN
    assert TARGET_UNCHANGED in str(caught.value)
    assert in_one_line(snowflake.statements)[-1] == "PREPARE"


def test_parsed_rows_loaded_rows_and_files_with_rows_are_counted_each(
    snowflake: Snowflake, copy: SnowflakeCopyIntoOperator, task_context: MakeContext
) -> None:
    # The manifest counts no file without rows.
    empty = {"file": "data/part-2.parquet", "status": "LOADED", "rows_parsed": 0, "rows_loaded": 0}
    snowflake.answer("COPY data", [FILES[0], {**FILES[1], "rows_loaded": 1}, empty])
    counts = copy.execute(task_context(copy))  # type: ignore[arg-type]
    assert (counts["files"], counts["rows_parsed"], counts["rows_loaded"]) == (2, 5, 4)


def test_a_column_that_keeps_its_default_is_no_column_of_staging(
    snowflake: Snowflake, copy: SnowflakeCopyIntoOperator, task_context: MakeContext
) -> None:
    loaded_at = {"name": "LOADED_AT", "type": "TIMESTAMP_NTZ(9)", "default": "CURRENT_TIMESTAMP()"}
    snowflake.answer("DESCRIBE target", [*COLUMNS, loaded_at])
    copy.dataset = tides(target_defaults=("loaded_at",))
    assert copy.execute(task_context(copy))["columns"] == ["HARBOUR", "DEPTH"]  # type: ignore[arg-type]
    assert "LOADED_AT" not in snowflake.statements[-2]


NO_TARGET = SnowflakeStatementError("Snowflake: Object 'TIDES' does not exist or not authorized. (code 002003)")


def test_a_target_that_is_not_there_is_to_be_created_with_the_columns_of_the_export(
    snowflake: Snowflake, copy: SnowflakeCopyIntoOperator, task_context: MakeContext
) -> None:
    snowflake.prepared |= WITH_SALINITY
    snowflake.answer("DESCRIBE target", NO_TARGET)
    copy.dataset = tides(create_table="from_source")
    copied = copy.execute(task_context(copy))  # type: ignore[arg-type]
    created = {"HARBOUR": "VARCHAR", "DEPTH": "FLOAT", "SALINITY": "NUMBER(5, 2)"}
    assert (copied["created_columns"], copied["new_columns"], copied["columns"]) == (created, {}, list(created))
    assert in_one_line(snowflake.statements[:2]) == ["DESCRIBE target", "PREPARE"]
    assert snowflake.statements[3:] == [
        'CREATE OR REPLACE TABLE staging.tides ("HARBOUR" VARCHAR, "DEPTH" FLOAT, "SALINITY" NUMBER(5, 2))',
        "COPY data",
    ]
    assert writes_samples(snowflake.statements[2], created)
    assert len(set(snowflake.request_ids)) == len(snowflake.request_ids)


def test_a_target_that_is_not_there_is_a_failure_where_nobody_said_that_it_is_created(
    snowflake: Snowflake, copy: SnowflakeCopyIntoOperator, task_context: MakeContext
) -> None:
    another = SnowflakeStatementError("Snowflake: something else (code 000001)")
    columns = {"create_table": "from_columns", "columns": {"harbour": "VARCHAR", "depth": "FLOAT"}}
    for fields, error, expected in (
        ({}, NO_TARGET, TargetMissingError),
        (columns, NO_TARGET, TargetMissingError),
        ({"create_table": "from_source"}, another, SnowflakeStatementError),
        ({}, another, SnowflakeStatementError),
    ):
        snowflake.answer("DESCRIBE target", error)
        copy.dataset = tides(**fields)
        with pytest.raises(expected) as caught:
            copy.execute(task_context(copy))  # type: ignore[arg-type]
        if expected is TargetMissingError:
            assert "Run the DAG set_up_snowflake" in caught.value.what_to_do
            assert "'TIDES' does not exist" in str(caught.value)
    assert "COPY data" not in snowflake.statements


def test_no_target_is_created_from_a_manifest_without_columns(
    snowflake: Snowflake, copy: SnowflakeCopyIntoOperator, task_context: MakeContext
) -> None:
    snowflake.prepared |= {"ROW_COUNT": 0, "COLUMN_TYPES": None}
    snowflake.answer("DESCRIBE target", NO_TARGET)
    copy.dataset = tides(create_table="from_source")
    with pytest.raises(ManifestError, match="names no columns"):
        copy.execute(task_context(copy))  # type: ignore[arg-type]


def test_loading_no_row_of_a_file_is_a_failure(
    snowflake: Snowflake, copy: SnowflakeCopyIntoOperator, task_context: MakeContext
) -> None:
    snowflake.answer("COPY data", [{**FILES[0], "rows_loaded": 0}])
    copy.dataset = tides(allow_empty=True)  # the manifest counts rows: this is not the empty export that is allowed
    with pytest.raises(NothingLoadedError) as caught:
        copy.execute(task_context(copy))  # type: ignore[arg-type]
    message = str(caught.value)
    assert "found 1 file(s), while the manifest counts 5 exported row(s) (query id query 5)" in message
    assert TARGET_UNCHANGED in message


def test_with_two_manifests_no_data_is_loaded(
    snowflake: Snowflake, copy: SnowflakeCopyIntoOperator, task_context: MakeContext
) -> None:
    snowflake.prepared["MANIFESTS"] = 2
    with pytest.raises(ManifestError, match="left 2 manifest rows instead of one") as caught:
        copy.execute(task_context(copy))  # type: ignore[arg-type]
    assert caught.value.code is FailureCode.MANIFEST_INVALID
    assert "COPY data" not in snowflake.statements
