"""Syncs that fail: each leaves the target as it was and says which step failed, and why."""

from __future__ import annotations

import io
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_share.share import EXPORT_JOB_VARIABLE
from sandbox.airflow_client import AirflowError
from tests.e2e.share import DAG_ID, RunningShare, wait_for


def assert_failed(share: RunningShare, run_id: str, step: str, code: str, *words: str) -> None:
    """Assert that a run ended as failed, at one step, with one report in two places, whose message holds the words."""
    assert share.end_of(run_id)["state"] == "failed"
    assert list(share.failures(run_id)) == [step]
    report = share.xcom(run_id, "drop_staging", "failure")
    of_step = share.xcom(run_id, step, "failure")
    assert {**of_step, "databricks_run_url": report["databricks_run_url"]} == report
    assert (report["step"], report["code"]) == (step, code)
    for word in words:
        assert word in report["message"], report
    if step != "export_to_s3":
        assert report["databricks_run_url"] == share.databricks_run(run_id)["run_page_url"]
    for secret in (share.endpoints.databricks_token, share.endpoints.airflow_password):
        assert secret not in str(report)


@pytest.fixture(autouse=True)
def nothing_changes(share: RunningShare) -> object:
    """Whatever happens, target and ledger stay, and no staging table is left behind."""
    if not share.target():
        share.sync()
    before = (share.target(), share.ledger())
    yield
    wait_for(lambda: share.staging_tables() == [], "the staging tables are dropped")
    assert (share.target(), share.ledger()) == before


# Databricks


def test_a_failing_job(share: RunningShare) -> None:
    share.databricks("POST", "/_sandbox/fail_next", {"message": "Out of memory in stage 3"})
    run_id = share.start_sync()

    assert_failed(share, run_id, "wait_for_export", "EXPORT_FAILED", "Out of memory in stage 3")


def test_an_export_of_a_table_that_is_gone(share: RunningShare) -> None:
    share.s3.rm("s3://unity-catalog/main/weather/forecasts", recursive=True)
    try:
        run_id = share.start_sync()
        assert_failed(share, run_id, "wait_for_export", "EXPORT_FAILED", "TABLE_OR_VIEW_NOT_FOUND", "forecasts")
    finally:
        share.restore_source()


def test_a_job_that_somebody_cancels_on_databricks(share: RunningShare) -> None:
    share.hold_export("start")
    run_id = share.start_sync()
    share.wait_until_held(run_id)
    share.databricks("POST", "/api/2.2/jobs/runs/cancel", {"run_id": share.databricks_run(run_id)["run_id"]})

    assert_failed(share, run_id, "wait_for_export", "EXPORT_CANCELED", "CANCELED")


def test_an_unknown_job(share: RunningShare) -> None:
    share.airflow.set_variable(EXPORT_JOB_VARIABLE, "4711")

    assert_failed(share, share.start_sync(), "export_to_s3", "EXPORT_JOB_REFUSED", "4711", "does not exist")


def test_a_wrong_token(share: RunningShare) -> None:
    share.databricks("POST", "/_sandbox/token", {"token": "another"})
    try:
        assert_failed(share, share.start_sync(), "export_to_s3", "DATABRICKS_SIGN_IN", "40")
    finally:
        share.databricks("POST", "/_sandbox/token", {"token": share.endpoints.databricks_token}, token="another")


# The files on the share


def rewrite(share: RunningShare, path: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Put a changed Parquet file in the place of an exported one."""
    with share.s3.open(path, "rb") as file:
        table = pq.read_table(io.BytesIO(file.read()))
    changed = io.BytesIO()
    pq.write_table(change(table), changed)
    share.s3.pipe_file(path, changed.getvalue())


def lose_manifest(share: RunningShare, run_id: str) -> None:
    for path in share.exported_files(run_id, "manifest"):
        share.s3.rm_file(path)


def miscount(share: RunningShare, run_id: str) -> None:
    (manifest,) = [path for path in share.exported_files(run_id, "manifest") if path.endswith(".parquet")]
    rewrite(
        share,
        manifest,
        lambda table: table.set_column(
            table.schema.get_field_index("row_count"), "row_count", pa.array([1462], pa.int64())
        ),
    )


def lose_data(share: RunningShare, run_id: str) -> None:
    for path in share.data_files(run_id):
        share.s3.rm_file(path)


def damage_file(share: RunningShare, run_id: str) -> None:
    share.s3.pipe_file(share.data_files(run_id)[0], b"<html>503 Slow Down</html>")


def write_words_for_numbers(share: RunningShare, run_id: str) -> None:
    rewrite(
        share,
        share.data_files(run_id)[0],
        lambda table: table.set_column(
            table.schema.get_field_index("forecast_temp_max_f"),
            "forecast_temp_max_f",
            pa.array(["warm"] * len(table)),
        ),
    )


def rename_all_columns(share: RunningShare, run_id: str) -> None:
    rewrite(
        share,
        share.data_files(run_id)[0],
        lambda table: table.rename_columns([f"c{number}" for number in range(table.num_columns)]),
    )


def break_a_rule(share: RunningShare, run_id: str) -> None:
    rewrite(
        share,
        share.data_files(run_id)[0],
        lambda table: table.set_column(
            table.schema.get_field_index("latitude"), "latitude", pa.array([91.0] * len(table))
        ),
    )


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        pytest.param(lose_manifest, "MANIFEST_MISSING", ["manifest", "did not finish"], id="missing manifest"),
        pytest.param(miscount, "CHECKS_FAILED", ["rows_match_manifest"], id="manifest counts something else"),
        pytest.param(lose_data, "NOTHING_LOADED", ["COPY INTO loaded nothing", "0 file", "1461"], id="zero files"),
        pytest.param(
            damage_file, "SNOWFLAKE_STATEMENT_FAILED", ["Snowflake", ".parquet", "query id"], id="not a Parquet file"
        ),
        pytest.param(
            write_words_for_numbers,
            "SNOWFLAKE_STATEMENT_FAILED",
            ["Snowflake", "FORECAST_TEMP_MAX_F", "warm", "query id"],
            id="a column that does not cast",
        ),
        pytest.param(
            rename_all_columns,
            "CHECKS_FAILED",
            ["date_not_null", "forecast_temp_max_f_not_null", "target is as it was"],
            id="no column name matches",
        ),
        pytest.param(break_a_rule, "CHECKS_FAILED", ["latitude_on_earth"], id="a check of the dataset"),
    ],
)
def test_a_spoilt_export(
    share: RunningShare, spoil: Callable[[RunningShare, str], None], code: str, words: list[str]
) -> None:
    share.hold_export("end")
    run_id = share.start_sync()
    share.wait_until_held(run_id)
    spoil(share, run_id)
    share.release_export()

    step = "check_staging" if code == "CHECKS_FAILED" else "copy_into_staging"
    assert_failed(share, run_id, step, code, *words)
    assert bool(share.xcom(run_id, step, "failure")["snowflake_query_id"]) is (code != "MANIFEST_MISSING")


# The user's side


def test_ending_the_run_in_airflow_cancels_it_on_databricks(share: RunningShare) -> None:
    share.hold_export("start")
    run_id = share.start_sync()
    share.wait_until_held(run_id)

    share.airflow.ask("PATCH", f"/dags/{DAG_ID}/dagRuns/{run_id}", json={"state": "failed"})

    wait_for(
        lambda: share.databricks_run(run_id)["state"].get("result_state") == "CANCELED",
        "the run is cancelled on Databricks",
    )
    assert share.end_of(run_id)["state"] == "failed"
    report = share.xcom(run_id, "drop_staging", "failure")
    assert (report["step"], report["code"]) == ("wait_for_export", "CANCELLED")


def test_a_sync_that_is_ended_before_its_first_step_is_no_success(share: RunningShare) -> None:
    run_id = share.start_sync()
    share.airflow.ask("PATCH", f"/dags/{DAG_ID}/dagRuns/{run_id}", json={"state": "failed"})

    assert share.end_of(run_id)["state"] == "failed"
    assert share.xcom(run_id, "drop_staging", "failure")["code"] == "CANCELLED"


def test_conf_that_is_not_as_described_is_refused(share: RunningShare) -> None:
    with pytest.raises(AirflowError, match=r"400.*requested_by"):
        share.start_sync(conf={"requested_by": "ada\nlovelace"})


def test_a_conf_with_a_misspelt_key_starts_no_export(share: RunningShare) -> None:
    before = share.target()
    run_id = share.start_sync(conf={"dryrun": True})
    assert share.end_of(run_id)["state"] == "failed"
    report = share.xcom(run_id, "drop_staging", "failure")
    assert (report["step"], report["code"]) == ("export_to_s3", "CONF_UNKNOWN")
    assert "'dryrun'" in report["message"]
    assert share.target() == before


def test_an_invalid_dataset_file_stops_its_own_dag_alone(
    share: RunningShare, add_dataset_file: Callable[[str, str], object]
) -> None:
    add_dataset_file("broken", "source_table: main.weather.forecasts\ntarget_table: t\nload_mode: sometimes\n")

    def errors() -> list[dict[str, str]]:
        found: list[dict[str, str]] = share.airflow.ask("GET", "/importErrors")["import_errors"]
        return found

    wait_for(lambda: errors() != [], "the import error is shown")
    (error,) = errors()
    assert error["filename"].endswith("datasets/broken.yaml")
    assert "load_mode" in error["stack_trace"]
    assert "'sometimes'" in error["stack_trace"]
    assert share.airflow.call("GET", "/dags/sync_broken").status_code == 404
    dag = share.airflow.ask("GET", f"/dags/{DAG_ID}")
    assert (dag["has_import_errors"], dag["is_stale"]) == (False, False)
