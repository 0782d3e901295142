"""Syncs that fail: each leaves the target as it was and says which step failed, and why."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_share.outcome.report import Failure
from data_share.share import Share
from tests.airflow_client import AirflowError
from tests.e2e.share import DAG_ID, RunningShare, wait_for

pytestmark = pytest.mark.tier("full")


def assert_failed(share: RunningShare, run_id: str, step: str, code: str, *words: str) -> None:
    """Assert that a run ended as failed, at one step, with one report in two places, whose message holds the words."""
    assert share.end_of(run_id)["state"] == "failed"
    assert list(share.failures(run_id)) == [step]
    report = share.xcom(run_id, "finish_sync", "failure")
    of_step = share.xcom(run_id, step, "failure")
    # Beside that, both say who has made them.
    told = [field.name for field in dataclasses.fields(Failure) if field.name != "databricks_run_url"]
    assert [of_step[name] for name in told] == [report[name] for name in told]
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


@pytest.mark.tier("quick")
def test_a_failing_job(share: RunningShare) -> None:
    share.databricks("POST", "/_sandbox/fail_next", {"message": "Out of memory in stage 3"})
    run_id = share.start_sync()

    assert_failed(share, run_id, "wait_for_export", "EXPORT_FAILED", "Out of memory in stage 3")


@pytest.mark.tier("nightly")
def test_an_unknown_job(share: RunningShare) -> None:
    share.airflow.set_variable(Share().export_job_variable, "4711")

    assert_failed(share, share.start_sync(), "export_to_s3", "EXPORT_JOB_REFUSED", "4711", "does not exist")


# The files on the share


def test_rows_that_break_a_rule_of_the_dataset(share: RunningShare) -> None:
    share.hold_export("end")
    run_id = share.start_sync()
    share.wait_until_held(run_id)
    path = share.data_files(run_id)[0]
    with share.s3.open(path, "rb") as file:
        table = pq.read_table(io.BytesIO(file.read()))
    off_the_earth = pa.array([91.0] * len(table))
    changed = io.BytesIO()
    pq.write_table(table.set_column(table.schema.get_field_index("latitude"), "latitude", off_the_earth), changed)
    share.s3.pipe_file(path, changed.getvalue())
    share.release_export()

    assert_failed(share, run_id, "check_staging", "CHECKS_FAILED", "latitude_on_earth", "target is as it was")
    assert share.xcom(run_id, "check_staging", "failure")["snowflake_query_id"]


# The user's side


def test_a_sync_that_is_ended_before_its_first_step_is_no_success(share: RunningShare) -> None:
    run_id = share.start_sync()
    share.airflow.ask("PATCH", f"/dags/{DAG_ID}/dagRuns/{run_id}", json={"state": "failed"})

    assert share.end_of(run_id)["state"] == "failed"
    assert share.xcom(run_id, "finish_sync", "failure")["code"] == "CANCELLED"


def test_conf_that_is_not_as_described_is_refused(share: RunningShare) -> None:
    with pytest.raises(AirflowError, match=r"400.*requested_by"):
        share.start_sync(conf={"requested_by": "ada\nlovelace"})


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
