"""The Snowflake steps: which statements run in which order, what is counted, and when the target stays as it is."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from airflow.sdk import AssetAlias
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from airflow.sdk.execution_time.context import OutletEventAccessors

from data_share import share
from data_share.failure_codes import FailureCode
from data_share.policies import PolicyFoundError, RowsHiddenError, sample_statements
from data_share.schema_drift import SchemaDriftError
from data_share.share import Share, run_key_of
from data_share.snowflake_hook import SnowflakeStatementError, StatementResult
from data_share.snowflake_operators import (
    TARGET_UNCHANGED,
    CheckFailedError,
    ManifestError,
    NothingLoadedError,
    PublishError,
    SnowflakeCheckOperator,
    SnowflakeCleanUpOperator,
    SnowflakeCopyIntoOperator,
    SnowflakePublishOperator,
    SnowflakeStatementsOperator,
    SnowflakeTargetsCheckOperator,
    SupersededError,
    TargetMissingError,
)
from data_share.target_lock import TargetTakenError, select_lock
from tests.plugins.data_share.conftest import Snowflake, known_sync, tides

KEY = "20260102T030405_0a1b2c3d"
MANIFEST = {
    "DATASET": "tides",
    "RUN_KEY": KEY,
    "ROW_COUNT": 5,
    "FILE_COUNT": 2,
    "COLUMN_TYPES": "struct<harbour:string,depth:double>",
    "STAGED_AT": datetime(2026, 1, 2, 3, 4, 30),
}
LOCK = {
    "TARGET_DATABASE": "SHARE_DB",
    "TARGET_SCHEMA": "PUBLIC",
    "TARGET_NAME": "TIDES",
    "DATASET": "tides",
    "RUN_KEY": "20250102T030405_ffffffff",
    "EXPORT_PATH": "s3://databricks-snowflake-share/dataset/tides/20250102T030405_ffffffff/1-0a1b2c3d/",
    "STAGED_AT": datetime(2025, 1, 2, 3, 4, 30),
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
NO_SUMS = "the manifest has no checksums: the export was made without, or by a job that was deployed before"
EXPORT_PATH = f"s3://databricks-snowflake-share/dataset/tides/{KEY}/1-0a1b2c3d/"
LEDGER_ROW = {
    "RUN_KEY": KEY,
    "EXPORT_PATH": EXPORT_PATH,
    "ROWS_LOADED": 5,
    "ROWS_INSERTED": 3,
    "ROWS_UPDATED": 2,
    "ROWS_DELETED": 1,
    "ROWS_IN_TARGET": 40,
    "SHARE_OF_NULLS": Decimal("0.25"),
    "REQUESTED_BY": None,
    "PUBLISHED_AT": datetime(2026, 1, 2, 3, 5),
}
REFUSED_BY_LEDGER = SnowflakeStatementError("Snowflake: NULL result in a non-nullable column (code 100072)")
MakeContext = Callable[..., dict[str, Any]]


# ---- statements


def test_statements_run_one_by_one_in_their_order(snowflake: Snowflake, task_context: MakeContext) -> None:
    task = SnowflakeStatementsOperator(share=Share(), task_id="set_up", sql="-- why\nCREATE a;\n\nCREATE b;\nCREATE c;")
    task.execute(task_context(task))  # type: ignore[arg-type]
    assert snowflake.statements == ["CREATE a", "CREATE b", "CREATE c"]


def request_ids(snowflake: Snowflake, context: dict[str, Any]) -> list[Any]:
    """Run a step with the same statement at three places; return its request ids."""
    snowflake.request_ids.clear()
    task = SnowflakeStatementsOperator(share=Share(), task_id="set_up", sql="CREATE a; CREATE a;\nCREATE a;")
    task.execute(context)  # type: ignore[arg-type]
    return list(snowflake.request_ids)


def test_request_ids_are_of_the_place_and_the_attempt(snowflake: Snowflake, task_context: MakeContext) -> None:
    first = request_ids(snowflake, task_context(try_number=1))
    assert first == request_ids(snowflake, task_context(try_number=1)), "a repetition must find its statements"
    second = request_ids(snowflake, task_context(try_number=2))
    assert len({*first, *second}) == 6, "a new attempt must run its statements again"


def test_another_airflow_has_other_request_ids(snowflake: Snowflake, task_context: MakeContext) -> None:
    here, elsewhere = task_context(), task_context()
    elsewhere["ti"].id = uuid.uuid4()
    assert set(request_ids(snowflake, here)).isdisjoint(request_ids(snowflake, elsewhere))


def test_statements_are_tagged_with_where_they_come_from(snowflake: Snowflake, task_context: MakeContext) -> None:
    task = SnowflakeStatementsOperator(
        share=Share(snowflake_conn_id="other"), task_id="set_up", sql="DROP a; DROP b;", statement_timeout=12
    )
    context = task_context(task, try_number=3)
    task.execute(context)  # type: ignore[arg-type]
    assert snowflake.statements == ["DROP a", "DROP b"], "one file is enough"
    snowflake.hook_class.assert_called_once_with(
        "other",
        query_tag={
            "dag": "sync_shared_forecasts",
            "run": "manual__o'clock--1",
            "task": "set_up",
            "try": 3,
            "run_key": run_key_of(context["dag_run"]),
        },
        statement_timeout=12,
    )


def test_killing_a_step_cancels_the_query_that_runs(snowflake: Snowflake, task_context: MakeContext) -> None:
    task = SnowflakeStatementsOperator(share=Share(), task_id="set_up", sql="CREATE a; CREATE b; CREATE c;")
    snowflake.answer("CREATE b", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        task.execute(task_context(task))  # type: ignore[arg-type]
    snowflake.hook.stop.assert_not_called()
    task.on_kill()
    snowflake.hook.stop.assert_called_once_with()


def test_a_step_that_is_killed_before_it_begins_submits_nothing(
    snowflake: Snowflake, check: SnowflakeCheckOperator, task_context: MakeContext
) -> None:
    snowflake.hook.stop.side_effect = KeyboardInterrupt
    for task in (SnowflakeStatementsOperator(share=Share(), task_id="set_up", sql="CREATE a"), check):
        task.on_kill()
        with pytest.raises(KeyboardInterrupt):
            task.execute(task_context(task))  # type: ignore[arg-type]
    assert snowflake.hook.stop.call_count == 2
    assert snowflake.statements == []


def test_a_step_never_takes_up_the_statements_of_an_earlier_attempt() -> None:
    assert SnowflakeStatementsOperator(share=Share(), task_id="set_up", sql="CREATE a").durable is False


def test_rendered_fields_name_the_connection_and_hold_nothing_secret() -> None:
    shown_to_users = {"sql", "snowflake_conn_id", "select_old_exports"}
    for operator in (
        SnowflakeStatementsOperator,
        SnowflakeCopyIntoOperator,
        SnowflakeCheckOperator,
        SnowflakePublishOperator,
        SnowflakeCleanUpOperator,
    ):
        assert {"snowflake_conn_id"} <= set(operator.template_fields) <= shown_to_users, operator


# ---- copy


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
            assert "say policies: exempt" not in caught.value.what_to_do
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


NO_LOCK = SnowflakeStatementError("Snowflake: Object 'LOCK' does not exist or not authorized. (code 002003)")


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


# ---- the targets of all datasets


def test_all_targets_of_others_are_told_at_once(snowflake: Snowflake, task_context: MakeContext) -> None:
    datasets = [tides(name=name, target_table=f"public.{name}") for name in ("tides", "waves", "winds", "new")]
    found = [[{**LOCK, "DATASET": "a"}], [{**LOCK, "DATASET": "waves"}], [{**LOCK, "DATASET": "b"}], NO_LOCK]
    for dataset, rows in zip(datasets, found, strict=True):
        snowflake.answer(select_lock(dataset, Share()), rows)  # type: ignore[arg-type]
    task = SnowflakeTargetsCheckOperator(share=Share(), task_id="check_targets", datasets=datasets)
    with pytest.raises(TargetTakenError) as caught:
        task.execute(task_context(task))  # type: ignore[arg-type]
    assert [f"target of the dataset {name}" in caught.value.message for name in ("a", "waves", "b")] == [
        True,
        False,
        True,
    ]
    assert str(caught.value.what_to_do).count("UPDATE staging.publish_lock__") == 2
    assert len(snowflake.statements) == len(datasets)


def test_targets_that_nobody_else_publishes_to_are_right(snowflake: Snowflake, task_context: MakeContext) -> None:
    snowflake.answer(select_lock(tides(), Share()), [LOCK])
    task = SnowflakeTargetsCheckOperator(share=Share(), task_id="check_targets", datasets=[tides()])
    task.execute(task_context(task))  # type: ignore[arg-type]
    assert len(snowflake.statements) == 1


# ---- check


@pytest.fixture
def check() -> SnowflakeCheckOperator:
    task = SnowflakeCheckOperator(
        share=Share(),
        task_id="check",
        dataset=tides(),
        sql={"check_staging": "SELECT checks", "check_values": "SELECT sums"},
    )
    loaded = {"proofs": [], "unproven": {"TAGS": "no checksum is known"}}
    task.sync = known_sync(task.dataset, staging_table="staging.tides", loaded=loaded)
    return task


CHECKS = {"rows_match": "COUNT(*) = 5", "depth_known": "depth IS NOT NULL", "depth_possible": "depth > -12000"}


def answered(*results: int | None) -> list[dict[str, Any]]:
    return [
        {"CHECK_NAME": name, "CONDITION": condition, "WHAT_TO_DO": None, "CHECK_RESULT": result}
        for (name, condition), result in zip(CHECKS.items(), results, strict=True)
    ]


NOT_DEEP = "FROM staging.tides WHERE NOT COALESCE((depth > -12000), FALSE)"
NO_AGGREGATE_IN_WHERE = SnowflakeStatementError("Invalid aggregate function in where clause [COUNT(*)]")


def failure_of(check: SnowflakeCheckOperator, task_context: MakeContext) -> str:
    with pytest.raises(CheckFailedError) as caught:
        check.execute(task_context(check))  # type: ignore[arg-type]
    return caught.value.message


def test_a_failed_check_is_told_with_its_condition_and_rows_that_break_it(
    snowflake: Snowflake, check: SnowflakeCheckOperator, task_context: MakeContext
) -> None:
    snowflake.answer("SELECT checks", answered(1, 1, 0))
    snowflake.answer(f"SELECT COUNT(*) AS total {NOT_DEEP}", [{"TOTAL": 1234}])
    rows = [{"HARBOUR": "Oslo", "DEPTH": -13000.0}, {"HARBOUR": None, "DEPTH": None}]
    snowflake.answer(f"SELECT * {NOT_DEEP} LIMIT 5", rows)
    message = failure_of(check, task_context)
    assert message.startswith("1 of 3 checks failed on staging.tides.")
    assert message.endswith(
        "\n- depth_possible: depth > -12000. Not so for 1,234 row(s), e.g. "
        "HARBOUR=Oslo, DEPTH=-13000.0; HARBOUR=None, DEPTH=None"
    )
    assert TARGET_UNCHANGED in message
    assert "depth_known" not in message
    assert "SELECT checks" not in message


def test_at_most_five_rows_are_asked_for_and_none_is_shown_at_length(
    snowflake: Snowflake, check: SnowflakeCheckOperator, task_context: MakeContext
) -> None:
    snowflake.answer("SELECT checks", answered(1, 1, 0))
    snowflake.answer(f"SELECT COUNT(*) AS total {NOT_DEEP}", [{"TOTAL": 5}])
    snowflake.answer(f"SELECT * {NOT_DEEP} LIMIT 5", [{"NOTE": "x" * 10_000}] * 5)
    message = failure_of(check, task_context)
    assert [one for one in snowflake.statements if one.startswith("SELECT *")] == [f"SELECT * {NOT_DEEP} LIMIT 5"]
    assert message.count("NOTE=") == 5
    assert len(message) < 5 * 300 + 500


def test_checks_without_an_answer_have_failed(
    snowflake: Snowflake, check: SnowflakeCheckOperator, task_context: MakeContext
) -> None:
    snowflake.answer("SELECT checks", [])
    assert failure_of(check, task_context) == (
        f"The query of the checks has no answer on staging.tides. {TARGET_UNCHANGED}"
    )
    snowflake.answer("SELECT checks", answered(None, None, None))
    for condition in CHECKS.values():
        count = f"SELECT COUNT(*) AS total FROM staging.tides WHERE NOT COALESCE(({condition}), FALSE)"
        snowflake.answer(count, NO_AGGREGATE_IN_WHERE)
    assert "3 of 3 checks failed" in failure_of(check, task_context)


def test_killing_the_checks_cancels_their_query(
    snowflake: Snowflake,
    check: SnowflakeCheckOperator,
    task_context: MakeContext,
) -> None:
    snowflake.answer("SELECT checks", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        check.execute(task_context(check))  # type: ignore[arg-type]
    check.on_kill()
    snowflake.hook.stop.assert_called_once_with()


def test_data_that_is_not_fit_is_not_tried_again() -> None:
    for error in (NothingLoadedError, ManifestError, CheckFailedError, SchemaDriftError):
        assert issubclass(error, AirflowFailException)


# ---- publish

TRANSACTION = "BEGIN TRANSACTION;\nINSERT OVERWRITE INTO tides\nSELECT * FROM staging.tides;\nCOMMIT;"


def publish_step(
    load_mode: str = "replace", *, conf: dict[str, Any] | None = None, **loaded: Any
) -> SnowflakePublishOperator:
    """Make the publish step as it is after its templates are rendered, for what the steps before have loaded."""
    task = SnowflakePublishOperator(
        share=Share(),
        task_id="publish",
        dataset=tides(load_mode=load_mode),
        sql={
            "publish": f"-- why\n{TRANSACTION}",
            "select_lock": "SELECT lock;",
            "select_ledger_row": "SELECT ledger;",
            "count_changes": "-- why\nSELECT changes",
        },
    )
    known = {"export_path": EXPORT_PATH, "staged_at": "2026-01-02T03:04:30", "new_columns": {}, "created_columns": {}}
    task.sync = known_sync(task.dataset, conf=conf, key=KEY, loaded={**known, **loaded})
    return task


@pytest.fixture
def publish() -> SnowflakePublishOperator:
    return publish_step()


@pytest.fixture
def publish_context(task_context: MakeContext) -> MakeContext:
    """Make the context of the publish step, which can tell of assets."""

    def make(task: SnowflakePublishOperator, **changes: Any) -> dict[str, Any]:
        return {**task_context(task, **changes), "outlet_events": OutletEventAccessors()}

    return make


def asset_events(context: dict[str, Any]) -> list[Any]:
    return list(context["outlet_events"][AssetAlias("tides")].asset_alias_events)


def test_publishing_runs_one_transaction_and_answers_with_the_ledger_row(
    snowflake: Snowflake, publish: SnowflakePublishOperator, publish_context: MakeContext
) -> None:
    snowflake.answer("SELECT ledger", [], [LEDGER_ROW])
    context = publish_context(publish)
    row = publish.execute(context)  # type: ignore[arg-type]
    assert snowflake.statements == ["SELECT ledger", TRANSACTION, "SELECT ledger"]
    assert snowflake.hook.run_transaction.call_args.args == (TRANSACTION.removesuffix(";").split(";\n"),)
    assert publish.shown_query_id == "query 2", "its link leads to the transaction"
    assert [call.kwargs["bindings"] for call in snowflake.hook.run_statement.call_args_list] == [[KEY], [KEY]]
    assert len(set(snowflake.request_ids)) == 3, "the second look must not be answered with the first"
    assert json.loads(json.dumps(row)) == {
        "run_key": KEY,
        "export_path": EXPORT_PATH,
        "rows_loaded": 5,
        "rows_inserted": 3,
        "rows_updated": 2,
        "rows_deleted": 1,
        "rows_in_target": 40,
        "share_of_nulls": 0.25,
        "requested_by": None,
        "published_at": "2026-01-02T03:05:00",
        "task_instance_id": str(context["ti"].id),
        "clear_number": 0,
    }
    [event] = asset_events(context)
    assert event.extra == {
        "run_key": KEY,
        "rows_inserted": 3,
        "rows_updated": 2,
        "rows_deleted": 1,
        "rows_in_target": 40,
    }


def test_an_export_that_is_in_the_ledger_is_told_and_not_published_again(
    snowflake: Snowflake, publish_context: MakeContext
) -> None:
    snowflake.answer("SELECT ledger", [LEDGER_ROW])
    publish = publish_step(new_columns={"SALINITY": "NUMBER(5, 2)"})
    context = publish_context(publish, try_number=2)
    assert publish.execute(context)["rows_loaded"] == 5  # type: ignore[arg-type]
    assert snowflake.statements == ["SELECT ledger"]
    # The attempt that published may have died before Airflow knew.
    assert len(asset_events(context)) == 1


@pytest.mark.parametrize(
    ("looks", "refusal", "dry_run"),
    [
        ([[], [LEDGER_ROW]], None, False),
        ([[LEDGER_ROW]], None, False),
        ([[], [LEDGER_ROW]], REFUSED_BY_LEDGER, False),
        ([[]], None, True),
    ],
    ids=["published", "published before", "published by another process", "dry run"],
)
def test_an_answer_says_which_attempt_gave_it(
    snowflake: Snowflake, publish_context: MakeContext, looks: Any, refusal: Exception | None, dry_run: bool
) -> None:
    snowflake.answer("SELECT ledger", *looks)
    snowflake.answer("SELECT changes", [{"ROWS_INSERTED": 3}])
    snowflake.refusal = refusal
    publish = publish_step(conf={"dry_run": dry_run})
    context = publish_context(publish, try_number=3)
    context["dag_run"].clear_number = 2
    answer = publish.execute(context)  # type: ignore[arg-type]
    assert (answer["task_instance_id"], answer["clear_number"]) == (str(context["ti"].id), 2)
    assert answer["export_path"] == EXPORT_PATH


OTHER_EXPORT = {**LEDGER_ROW, "EXPORT_PATH": EXPORT_PATH.replace("/1-", "/0-"), "ROWS_LOADED": 4}


def test_a_target_is_created_before_the_transaction_and_not_in_it(
    snowflake: Snowflake, publish_context: MakeContext
) -> None:
    snowflake.answer("SELECT ledger", [], [LEDGER_ROW])
    publish = publish_step(created_columns={"HARBOUR": "VARCHAR", "DEPTH": "FLOAT"})
    publish.execute(publish_context(publish))  # type: ignore[arg-type]
    create = 'CREATE TABLE IF NOT EXISTS "PUBLIC"."TIDES" ("HARBOUR" VARCHAR, "DEPTH" FLOAT)'
    assert snowflake.statements == ["SELECT ledger", create, TRANSACTION, "SELECT ledger"]


REFUSALS: dict[str, tuple[str, list[dict[str, Any]], type[Exception], str]] = {
    "a later sync was published": (
        "replace",
        [{**LOCK, "RUN_KEY": "20260102T040000_ffffffff", "STAGED_AT": datetime(2026, 1, 2, 4)}],
        SupersededError,
        r"a sync of tides that was staged later is published already \(run key 20260102T040000_ffffffff\)\.",
    ),
    "the staging tables were changed": (
        "replace",
        [LOCK],
        SupersededError,
        "is not published: its staging tables are not as they were when they were checked",
    ),
    "perhaps it was appended long ago": (
        "append",
        [LOCK],
        SupersededError,
        "this export was appended before, or its staging tables",
    ),
    "another run has appended it": (
        "append",
        [{**LOCK, "EXPORT_PATH": EXPORT_PATH}],
        SupersededError,
        r"is not published: this export was appended before \(run key 20250102T030405_ffffffff\)\.",
    ),
    "the row of the lock is gone": ("replace", [], SupersededError, "somebody has deleted the target's row"),
    "another dataset has published": (
        "replace",
        [{**LOCK, "DATASET": "another"}],
        TargetTakenError,
        "is the target of the dataset another, whose sync",
    ),
    "it is published, and the ledger does not show it": (
        "replace",
        [{**LOCK, "RUN_KEY": KEY, "EXPORT_PATH": EXPORT_PATH}],
        PublishError,
        "is published, but the ledger has no row of it",
    ),
}
"""By case: the load mode, what the lock says afterwards, and the failure."""


@pytest.mark.parametrize(("load_mode", "locked", "kind", "message"), REFUSALS.values(), ids=REFUSALS)
def test_a_refused_transaction_says_what_it_was_refused_for(
    snowflake: Snowflake,
    publish_context: MakeContext,
    load_mode: str,
    locked: list[dict[str, Any]],
    kind: type[Exception],
    message: str,
) -> None:
    # In these modes, another export of this run is no sign of this one.
    snowflake.answer("SELECT ledger", [OTHER_EXPORT] if load_mode == "replace" and kind is SupersededError else [])
    snowflake.answer("SELECT lock", locked)
    snowflake.refusal = REFUSED_BY_LEDGER
    publish = publish_step(load_mode=load_mode)
    context = publish_context(publish)
    with pytest.raises(kind, match=message) as caught:
        publish.execute(context)  # type: ignore[arg-type]
    # Another attempt would be refused too; only the ledger may be mended.
    assert isinstance(caught.value, AirflowFailException) == (kind is not PublishError)
    assert asset_events(context) == []
    assert snowflake.statements == ["SELECT ledger", TRANSACTION, "SELECT lock", "SELECT ledger"]
    assert len(set(snowflake.request_ids)) == 4, "the second look must not be answered with the first"


def test_a_publish_that_another_process_was_faster_with_is_told_as_its_own(
    snowflake: Snowflake, publish: SnowflakePublishOperator, publish_context: MakeContext
) -> None:
    snowflake.answer("SELECT ledger", [], [LEDGER_ROW])
    snowflake.answer("SELECT lock", [{**LOCK, "RUN_KEY": KEY, "EXPORT_PATH": EXPORT_PATH}])
    snowflake.refusal = REFUSED_BY_LEDGER
    context = publish_context(publish)
    assert publish.execute(context)["run_key"] == KEY  # type: ignore[arg-type]
    assert len(asset_events(context)) == 1


def test_a_transaction_that_does_not_see_all_rows_is_told_apart(
    snowflake: Snowflake, publish: SnowflakePublishOperator, publish_context: MakeContext
) -> None:
    said = (
        'JavaScript execution error: Uncaught Execution of multiple statements failed on statement "UPDATE x" (at line '
        "1, position 75).\nDML operation to table X failed on column ROWS_AFTER with error: Numeric value 'rows hidden "
        "from the loader: 3, 1200 of 1203' is not recognized in SYSTEM$MULTISTMT"
    )
    snowflake.answer("SELECT ledger", [])
    snowflake.refusal = SnowflakeStatementError(f"Snowflake: {said} (code 100132)")
    with pytest.raises(RowsHiddenError) as caught:
        publish.execute(publish_context(publish))  # type: ignore[arg-type]
    assert "sees 1,200 row(s) in public.tides, where at least 1,203 must be, and does not find 3 of" in str(
        caught.value
    )
    assert caught.value.code is FailureCode.ROWS_HIDDEN
    assert isinstance(caught.value, AirflowFailException), "another attempt would be refused too"


def test_a_transaction_without_a_trace_in_the_ledger_is_an_error_that_may_be_tried_again(
    snowflake: Snowflake, publish: SnowflakePublishOperator, publish_context: MakeContext
) -> None:
    snowflake.answer("SELECT ledger", [])
    context = publish_context(publish)
    with pytest.raises(PublishError, match=KEY) as caught:
        publish.execute(context)  # type: ignore[arg-type]
    assert isinstance(caught.value, AirflowException)
    assert not isinstance(caught.value, AirflowFailException)
    assert asset_events(context) == []


def test_killing_a_publication_cancels_its_transaction(
    snowflake: Snowflake, publish: SnowflakePublishOperator, publish_context: MakeContext
) -> None:
    snowflake.hook.run_transaction.side_effect = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        publish.execute(publish_context(publish))  # type: ignore[arg-type]
    publish.on_kill()
    snowflake.hook.stop.assert_called_once_with()


def test_a_publication_that_is_killed_too_late_says_what_it_published(
    snowflake: Snowflake, publish: SnowflakePublishOperator, publish_context: MakeContext
) -> None:
    """The kill comes before the end of the transaction is heard of, and again while the ledger is read."""

    def commit(*_: object, **__: object) -> None:
        snowflake.hook.is_stopped = True

    def look(sql: str, **_: object) -> StatementResult:
        looks.append(snowflake.hook.is_stopped)
        publish.on_kill()
        return StatementResult(query_id="query", rows=[LEDGER_ROW] if len(looks) == 2 else [])

    looks: list[bool] = []
    snowflake.hook.is_stopped = False
    snowflake.hook.run_transaction.side_effect = commit
    snowflake.hook.run_statement.side_effect = look
    row = publish.execute(publish_context(publish))  # type: ignore[arg-type]
    assert row["run_key"] == KEY
    assert looks == [False, False]
    # Before the transaction, a kill stops the step.
    snowflake.hook.stop.assert_called_once_with()


# ---- clean up


def staged(days_ago: float, suffix: str = "") -> str:
    """Return the staging table of a run of some days ago, as Snowflake lists it."""
    run_key = share.run_key("sync_tides", "manual__1", datetime.now(UTC) - timedelta(days=days_ago))
    return f"TIDES__{run_key}{suffix}".upper()


def clean_up(
    snowflake: Snowflake,
    task_context: MakeContext,
    tables: list[str],
    created_days_ago: float = 1000,
    answer_tables: bool = True,
) -> dict[str, Any]:
    created = datetime.now(UTC) - timedelta(days=created_days_ago)
    if answer_tables:
        snowflake.answer("SHOW tables", [{"name": name, "rows": 1, "created_on": created} for name in tables])
    task = SnowflakeCleanUpOperator(
        share=Share(), task_id="clean_up", sql="SHOW tables;", select_old_exports="SELECT exports;"
    )
    return task.execute(task_context(task, conf={"keep_days": 7}))  # type: ignore[arg-type]


def dropped(snowflake: Snowflake) -> list[str]:
    return [statement for statement in snowflake.statements if statement.startswith("DROP")]


def test_only_the_staging_tables_of_old_runs_are_dropped(snowflake: Snowflake, task_context: MakeContext) -> None:
    old = [staged(7.1), staged(7.1, "__MANIFEST"), staged(400)]
    young = [staged(6.9), staged(6.9, "__MANIFEST"), staged(0), staged(-1)]
    named_by_no_run = ["TIDES", "BACKUP_2019", f"{staged(400)}__COPY"]
    result = clean_up(snowflake, task_context, [*old, *young, *named_by_no_run])
    assert result["dropped_tables"] == old
    assert dropped(snowflake) == [f'DROP TABLE IF EXISTS staging."{name}"' for name in old]
    assert len(set(snowflake.request_ids)) == len(snowflake.statements) == 5


@pytest.mark.parametrize("missing", ["SHOW tables", "SELECT exports"])
def test_before_the_set_up_there_is_nothing_to_clean_up(
    snowflake: Snowflake, task_context: MakeContext, missing: str
) -> None:
    said = "SQL compilation error: Object 'X' does not exist or not authorized. (code 002003)"
    snowflake.answer(missing, SnowflakeStatementError(said))
    tables = [] if missing == "SHOW tables" else [staged(400)]
    with pytest.raises(AirflowSkipException, match="Nothing is set up yet"):
        clean_up(snowflake, task_context, tables, answer_tables=missing != "SHOW tables")
    assert dropped(snowflake) == []


def test_another_error_of_the_clean_up_is_told(snowflake: Snowflake, task_context: MakeContext) -> None:
    snowflake.answer("SELECT exports", SnowflakeStatementError("No active warehouse selected."))
    with pytest.raises(SnowflakeStatementError, match="No active warehouse"):
        clean_up(snowflake, task_context, [])


def test_an_old_table_that_cannot_be_dropped_keeps_no_other_one_and_is_told(
    snowflake: Snowflake, task_context: MakeContext
) -> None:
    old = [staged(8), staged(9), staged(400)]
    drops = [f'DROP TABLE IF EXISTS staging."{name}"' for name in old]
    for drop in drops[:2]:
        snowflake.answer(drop, SnowflakeStatementError(f"Insufficient privileges: {drop}"))
    with pytest.raises(SnowflakeStatementError, match=drops[0]):
        clean_up(snowflake, task_context, old)
    assert dropped(snowflake) == drops


def test_the_tables_of_an_old_run_that_was_cleared_just_now_stay(
    snowflake: Snowflake, task_context: MakeContext
) -> None:
    assert clean_up(snowflake, task_context, [staged(400)], created_days_ago=0.1)["dropped_tables"] == []
    assert dropped(snowflake) == []


def test_old_exports_are_told_and_nothing_more(snowflake: Snowflake, task_context: MakeContext) -> None:
    snowflake.answer("SELECT exports", [{"DATASET": "tides", "RUN_KEY": KEY, "EXPORT_PATH": EXPORT_PATH}])
    result = clean_up(snowflake, task_context, [])
    assert result == {
        "dropped_tables": [],
        "old_exports": [{"dataset": "tides", "run_key": KEY, "export_path": EXPORT_PATH}],
    }
    assert snowflake.statements == ["SHOW tables", "SELECT exports"]
