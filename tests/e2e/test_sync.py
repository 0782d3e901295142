"""Syncs that succeed, through the REST API of a real Airflow."""

from __future__ import annotations

import datetime
import math

import psutil
import pyarrow as pa

from data_share.share import attempt_of, run_key
from tests.e2e.share import DAG_ID, RunningShare, as_rows, wait_for


def test_a_rest_call_brings_every_row_of_the_source_into_the_target(share: RunningShare) -> None:
    run_id = share.start_sync(conf={"requested_by": "ada@example.com"})
    run = share.end_of(run_id)

    assert run["state"] == "success", share.failures(run_id)
    assert len(share.target()) == 1461
    assert share.target() == as_rows(share.source())
    row = share.xcom(run_id, "publish")
    assert row["run_key"] == run_key(DAG_ID, run_id, datetime.datetime.fromisoformat(run["run_after"]))
    assert row["dag_run_id"] == run_id
    assert (row["rows_exported"], row["rows_loaded"], row["rows_in_target"]) == (1461, 1461, 1461)
    assert row["requested_by"] == "ada@example.com"
    assert row["export_path"] == share.export_path(run_id)
    assert row["databricks_run_id"] == share.databricks_run(run_id)["run_id"]
    assert share.staging_tables() == []


def test_the_steps_hand_on_counts_and_ids_and_no_row(share: RunningShare) -> None:
    run_id = share.start_sync()
    share.end_of(run_id)

    copied = share.xcom(run_id, "copy_into_staging")
    assert {name: copied[name] for name in ("files", "rows_exported", "rows_parsed", "rows_loaded")} == {
        "files": len(share.data_files(run_id)),
        "rows_exported": 1461,
        "rows_parsed": 1461,
        "rows_loaded": 1461,
    }
    assert len(copied["query_ids"]) == 2
    waited = share.xcom(run_id, "wait_for_export")
    assert waited["run_id"] == share.databricks_run(run_id)["run_id"]
    assert waited["run_page_url"].startswith(share.endpoints.databricks_url)


def test_each_sync_has_its_own_row_in_the_ledger(share: RunningShare) -> None:
    before = len(share.ledger())

    first, second = share.sync(), share.sync()

    assert first["run_key"] != second["run_key"]
    assert len(share.ledger()) == before + 2
    assert len(share.target()) == 1461


def test_added_changed_and_removed_rows_are_mirrored_exactly(share: RunningShare) -> None:
    share.sync()
    source = share.source()
    kept = source.slice(10)  # ten days are removed
    warmer = pa.array([value.as_py() + 1.5 for value in kept["forecast_temp_max_f"]])
    changed = kept.set_column(kept.schema.get_field_index("forecast_temp_max_f"), "forecast_temp_max_f", warmer)
    new_day = source.slice(0, 1).to_pylist()[0] | {
        "date": datetime.date(2016, 1, 1),
        "weather_date": datetime.date(2016, 1, 2),
        "weather": 'it\'s \\ a "test", \N{SNOWMAN}',
        "wind_mph": None,
    }
    added = pa.concat_tables([changed, pa.Table.from_pylist([new_day], schema=source.schema)])
    share.write_source(added)

    row = share.sync()

    assert row["rows_in_target"] == 1461 - 10 + 1
    assert share.target() == as_rows(share.source())
    assert math.isclose(
        share.query("SELECT SUM(forecast_temp_max_f) FROM shared_forecasts")[0][0],
        sum(value.as_py() for value in added["forecast_temp_max_f"]),
    )


def test_nothing_beside_the_data_and_no_neighbour_is_loaded(share: RunningShare) -> None:
    share.hold_export("end")
    run_id = share.start_sync()
    share.wait_until_held(run_id)
    beside = {path.rsplit("/", 1)[1].split("_")[1] for path in share.exported_files(run_id, "data") if "/_" in path}
    assert beside == {"SUCCESS", "committed", "started"}
    data = share.data_files(run_id)[0]
    path = share.export_path(run_id)
    for neighbour in (
        path.replace("shared_forecasts/", "shared_forecasts_old/") + "data/part-0.parquet",
        f"{path}data_old/part-0.parquet",
        f"{path.rstrip('/')}0/data/part-0.parquet",
    ):
        share.s3.copy(data, neighbour)
    share.release_export()

    assert share.end_of(run_id)["state"] == "success", share.failures(run_id)
    assert len(share.target()) == 1461


def test_no_task_process_exists_while_the_export_runs(share: RunningShare) -> None:
    share.hold_export("start")
    run_id = share.start_sync()
    share.wait_until_held(run_id)

    waiting = share.tasks(run_id)["wait_for_export"]
    assert waiting["trigger"] is not None
    assert waiting["pid"] is None
    # Each task runs in a child of an executor's worker, and the worker's title names it.
    wait_for(lambda: not busy_workers(share), "the worker of export_to_s3 is idle again")
    assert share.task_states(run_id)["wait_for_export"] == "deferred"

    share.release_export()
    assert share.end_of(run_id)["state"] == "success", share.failures(run_id)
    assert share.tasks(run_id)["wait_for_export"]["pid"] is None


def busy_workers(share: RunningShare) -> list[str]:
    busy = []
    for process in share.stack.processes():
        try:
            title = " ".join(process.cmdline())
            if title.startswith("airflow worker -- LocalExecutor") and (
                "<idle>" not in title or any(c.status() != psutil.STATUS_ZOMBIE for c in process.children())
            ):
                busy.append(title)
        except psutil.NoSuchProcess:
            continue
    return busy


def test_clearing_the_export_while_databricks_works_leaves_no_run_behind(share: RunningShare) -> None:
    share.hold_export("start")
    run_id = share.start_sync()
    share.wait_until_held(run_id)
    first = share.databricks_run(run_id)["run_id"]

    share.clear(run_id, "export_to_s3")
    # A run that is held does not end by itself.
    state = {"life_cycle_state": "TERMINATED", "result_state": "CANCELED"}
    wait_for(
        lambda: state.items() <= share.databricks("GET", "/api/2.2/jobs/runs/get", {"run_id": first})["state"].items(),
        "the first export is cancelled",
    )
    share.release_export()

    assert share.end_of(run_id)["state"] == "success", share.failures(run_id)
    assert share.databricks_run(run_id)["run_id"] != first
    assert share.xcom(run_id, "publish")["attempt"] == 2


def test_clearing_the_export_exports_again_to_a_new_path(share: RunningShare) -> None:
    run_id = share.start_sync()
    share.end_of(run_id)
    first_path = share.export_path(run_id)
    rows_in_ledger = len(share.ledger())
    share.write_source(share.source().slice(0, 100))

    share.clear(run_id, "export_to_s3")
    assert share.end_of(run_id)["state"] == "success", share.failures(run_id)

    assert (attempt_of(first_path), attempt_of(share.export_path(run_id))) == (1, 2)
    assert share.target() == as_rows(share.source())
    assert len(share.ledger()) == rows_in_ledger
    assert share.xcom(run_id, "publish")["export_path"] == share.export_path(run_id)


def test_setting_up_again_changes_nothing(share: RunningShare) -> None:
    share.sync()
    target, ledger = share.target(), share.ledger()

    run_id = share.airflow.trigger("set_up_snowflake")

    assert share.airflow.wait("set_up_snowflake", run_id, 60)["state"] == "success"
    assert (share.target(), share.ledger()) == (target, ledger)
