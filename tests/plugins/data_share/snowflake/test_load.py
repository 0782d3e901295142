from __future__ import annotations

import contextlib
from datetime import datetime
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from data_share.outcome.codes import FailureCode
from data_share.share import Share
from data_share.snowflake.load import ManifestError, NothingLoadedError, SnowflakeCopyIntoOperator, TargetMissingError
from data_share.snowflake.policies import PolicyFoundError, RowsHiddenError, sample_statements
from data_share.snowflake.schema_drift import SchemaDriftError
from data_share.snowflake.sql_api import SnowflakeStatementError
from data_share.snowflake.statements import TARGET_UNCHANGED
from data_share.snowflake.target_lock import TargetTakenError
from tests.plugins.data_share.conftest import Snowflake, known_sync, tides
from tests.plugins.data_share.snowflake.examples import EXPORT_PATH, KEY, LOCK, NO_LOCK, MakeContext

MANIFEST = {
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
NO_SUMS = "the manifest has no checksums: the export was made without them, or by an older version of the export job"


@pytest.fixture
def copy(snowflake: Snowflake) -> SnowflakeCopyIntoOperator:
    """Make the copy step, with a Snowflake where everything goes well."""
    snowflake.answer("SELECT lock", [LOCK])
    snowflake.answer("SELECT manifest", [MANIFEST])
    snowflake.answer("DESCRIBE target", COLUMNS)
    snowflake.answer("COPY data", FILES)
    task = SnowflakeCopyIntoOperator(
        share=Share(),
        task_id="copy_into_staging",
        dataset=tides(),
        sql={
            "select_lock": "SELECT lock;",
            "create_lock": "CREATE lock; MERGE lock;",
            "create_staging_manifest": "CREATE staging_manifest;",
            "describe_staging_manifest": "DESCRIBE manifest;",
            "copy_manifest": "COPY manifest;",
            "select_manifest": "UPDATE manifest;\nSELECT manifest;",
            "describe_target": "DESCRIBE target;",
            "explain_target": "EXPLAIN target;",
            "count_visible": "SHOW target; COUNT target;",
            "copy_into_staging": "COPY data;",
        },
    )
    export = {"run_id": 77, "export_path": EXPORT_PATH}
    task.sync = known_sync(task.dataset, key=KEY, found_export=export, new_staging_table="staging.tides")
    return task


SAMPLES = sample_statements("staging.tides", {"HARBOUR": "VARCHAR(80)", "DEPTH": "FLOAT"})


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
        "new_columns": {},
        "created_columns": {},
        "proofs": [],
        "unproven": dict.fromkeys(("HARBOUR", "DEPTH"), NO_SUMS),
        "query_ids": ["query 9", "query 12"],
        "task_instance_id": str(context["ti"].id),
        "clear_number": 2,
    }
    assert snowflake.statements == [
        "SELECT lock",
        "DESCRIBE target",
        "EXPLAIN target",
        "CREATE staging_manifest",
        'CREATE OR REPLACE TABLE staging.tides ("HARBOUR" VARCHAR(80) NOT NULL, "DEPTH" FLOAT)',
        *SAMPLES,
        "COPY manifest",
        "UPDATE manifest",
        "SELECT manifest",
        "COPY data",
    ]
    assert len(set(snowflake.request_ids)) == 12


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
        (SAMPLES[1], [{"SAMPLE_0_0": 1, "SAMPLE_0_1": 1, "SAMPLE_1_0": 0, "SAMPLE_1_1": 1}], "changes DEPTH."),
    ):
        before = snowflake.answers.get(statement)
        snowflake.answer(statement, rows)
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
    assert not {"COPY manifest", "COPY data"} & set(snowflake.statements)


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
    for nullable, sampled in (("Y", True), ("N", False)):
        snowflake.answer("DESCRIBE target", [*COLUMNS, {**place, "null?": nullable}])
        copy.dataset = tides(target_defaults=("place",))
        snowflake.statements.clear()
        with contextlib.suppress(SchemaDriftError):
            copy.execute(task_context(copy))  # type: ignore[arg-type]
        assert (SAMPLES[0] in snowflake.statements) == sampled, nullable


@pytest.mark.parametrize("found", [NO_LOCK, []], ids=["no table", "no row for this target"])
def test_a_target_without_a_lock_gets_one_before_anything_is_loaded(
    snowflake: Snowflake, copy: SnowflakeCopyIntoOperator, task_context: MakeContext, found: Any
) -> None:
    snowflake.answer("SELECT lock", found)
    copy.execute(task_context(copy))  # type: ignore[arg-type]
    assert snowflake.statements[:4] == ["SELECT lock", "CREATE lock", "MERGE lock", "DESCRIBE target"]


def test_a_lock_that_cannot_be_read_is_a_failure(
    snowflake: Snowflake, copy: SnowflakeCopyIntoOperator, task_context: MakeContext
) -> None:
    snowflake.answer("SELECT lock", SnowflakeStatementError("Snowflake: something else (code 000001)"))
    with pytest.raises(SnowflakeStatementError, match="something else"):
        copy.execute(task_context(copy))  # type: ignore[arg-type]
    assert snowflake.statements == ["SELECT lock"]


def test_the_target_of_another_dataset_is_refused_before_anything_is_loaded(
    snowflake: Snowflake, copy: SnowflakeCopyIntoOperator, task_context: MakeContext
) -> None:
    snowflake.answer("SELECT lock", [{**LOCK, "DATASET": "another"}])
    with pytest.raises(TargetTakenError, match="is the target of the dataset another") as caught:
        copy.execute(task_context(copy))  # type: ignore[arg-type]
    assert caught.value.code is FailureCode.TARGET_TAKEN
    assert TARGET_UNCHANGED in str(caught.value)
    assert snowflake.statements == ["SELECT lock"]


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
    assert snowflake.statements[-2:] == ['ALTER TABLE staging.tides DROP COLUMN "LOADED_AT"', "COPY data"]


NO_TARGET = SnowflakeStatementError("Snowflake: Object 'TIDES' does not exist or not authorized. (code 002003)")


def test_a_target_that_is_not_there_is_to_be_created_with_the_columns_of_the_export(
    snowflake: Snowflake, copy: SnowflakeCopyIntoOperator, task_context: MakeContext
) -> None:
    snowflake.answer("SELECT manifest", [WITH_SALINITY])
    snowflake.answer("DESCRIBE target", NO_TARGET)
    copy.dataset = tides(create_table="from_source")
    copied = copy.execute(task_context(copy))  # type: ignore[arg-type]
    created = {"HARBOUR": "VARCHAR", "DEPTH": "FLOAT", "SALINITY": "NUMBER(5, 2)"}
    assert (copied["created_columns"], copied["new_columns"], copied["columns"]) == (created, {}, list(created))
    assert [snowflake.statements[-5], snowflake.statements[-1]] == [
        'CREATE OR REPLACE TABLE staging.tides ("HARBOUR" VARCHAR, "DEPTH" FLOAT, "SALINITY" NUMBER(5, 2))',
        "COPY data",
    ]
    assert snowflake.statements[-4:-1] == sample_statements("staging.tides", created)
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
    snowflake.answer("SELECT manifest", [{**MANIFEST, "ROW_COUNT": 0, "COLUMN_TYPES": None}])
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
    assert "found 1 file(s), while the manifest counts 5 exported row(s) (query id query 12)" in message
    assert TARGET_UNCHANGED in message


def test_with_two_manifests_no_data_is_loaded(
    snowflake: Snowflake, copy: SnowflakeCopyIntoOperator, task_context: MakeContext
) -> None:
    snowflake.answer("SELECT manifest", [MANIFEST, MANIFEST])
    with pytest.raises(ManifestError, match="left 2 manifest rows instead of one") as caught:
        copy.execute(task_context(copy))  # type: ignore[arg-type]
    assert caught.value.code is FailureCode.MANIFEST_INVALID
    assert "COPY data" not in snowflake.statements
