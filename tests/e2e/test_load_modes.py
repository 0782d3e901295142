"""The load modes and the conf of a run, on a real Airflow."""

from __future__ import annotations

import datetime

import pyarrow as pa
import pytest

from sandbox.airflow_client import AirflowError
from tests.e2e.share import SOURCE, RunningShare

CITIES = "main.weather.city_temperatures"
OBSERVATIONS = "main.weather.daily_observations"


def naive_rows(table: pa.Table) -> list[tuple[object, ...]]:
    """Return the rows of a source with times as the target keeps them: UTC, without a zone."""
    return sorted(
        (
            tuple(v.replace(tzinfo=None) if isinstance(v, datetime.datetime) else v for v in row.values())
            for row in table.to_pylist()
        ),
        key=repr,
    )


def test_a_merge_updates_inserts_and_deletes_by_key(share: RunningShare) -> None:
    share.sync("city_temperatures", conf={"full_refresh": True})
    source = share.source(CITIES)
    position = source.schema.get_field_index("temperature_f")
    warmer = pa.array([value.as_py() + 1.0 for value in source["temperature_f"]])
    changed = source.set_column(position, "temperature_f", warmer).slice(8)
    new_city = changed.slice(0, 3).set_column(0, "city", pa.array(["Cork"] * 3))
    share.write_source(pa.concat_tables([changed, new_city]), CITIES)

    row = share.sync("city_temperatures")

    counts = {name: row[name] for name in ("rows_inserted", "rows_updated", "rows_deleted", "rows_in_target")}
    assert counts == {
        "rows_inserted": 3,
        "rows_updated": len(source) - 8,
        "rows_deleted": 8,
        "rows_in_target": len(source) - 5,
    }
    assert share.target("city_temperatures") == naive_rows(share.source(CITIES))


def test_an_append_adds_each_sync_once(share: RunningShare) -> None:
    share.sync("daily_observations", conf={"full_refresh": True})
    run_id = share.start_sync("daily_observations")
    assert share.end_of(run_id)["state"] == "success", share.failures(run_id)
    assert len(share.target("daily_observations")) == 2 * 365

    share.clear(run_id, "export_to_s3")

    assert share.end_of(run_id)["state"] == "success", share.failures(run_id)
    assert len(share.target("daily_observations")) == 2 * 365


def test_an_earlier_export_is_loaded_again_without_databricks(share: RunningShare) -> None:
    earlier = share.sync()
    rows = share.target()
    share.write_source(share.source().slice(0, 1200))
    share.sync()
    assert len(share.target()) == 1200
    runs_before = share.databricks("GET", "/_sandbox/state")["runs"]

    run_id = share.start_sync(conf={"reload_run_key": earlier["run_key"]})

    assert share.end_of(run_id)["state"] == "success", share.failures(run_id)
    states = share.task_states(run_id)
    assert (states["export_to_s3"], states["wait_for_export"], states["publish"]) == ("skipped", "skipped", "success")
    assert share.target() == rows
    assert share.xcom(run_id, "publish")["export_path"] == earlier["export_path"]
    assert share.databricks("GET", "/_sandbox/state")["runs"] == runs_before


def test_an_unknown_run_key_fails_before_anything_runs(share: RunningShare) -> None:
    run_id = share.start_sync(conf={"reload_run_key": "20200101T000000_00000000"})

    assert share.end_of(run_id)["state"] == "failed"
    assert list(share.failures(run_id)) == ["export_to_s3"]
    report = share.xcom(run_id, "drop_staging", "failure")
    assert report["code"] == "RUN_KEY_UNKNOWN"
    assert "no sync 20200101T000000_00000000" in report["message"]
    assert share.task_states(run_id)["copy_into_staging"] == "upstream_failed"


def test_a_dry_run_says_what_would_change_and_changes_nothing(share: RunningShare) -> None:
    share.sync()
    share.write_source(share.source().slice(0, 1400))
    before = (share.target(), share.ledger())
    events = share.airflow.ask("GET", "/assets/events")["total_entries"]

    summary = share.sync(conf={"dry_run": True})

    assert summary == {
        "dry_run": True,
        "load_mode": "replace",
        "rows_inserted": 1400,
        "rows_updated": 0,
        "rows_deleted": 1461,
    }
    assert (share.target(), share.ledger()) == before
    assert share.airflow.ask("GET", "/assets/events")["total_entries"] == events


def test_a_source_that_lost_half_its_rows_is_stopped_and_may_be_accepted(share: RunningShare) -> None:
    share.sync("city_temperatures")
    share.write_source(share.source(CITIES).slice(0, 5000), CITIES)

    run_id = share.start_sync("city_temperatures")
    assert share.end_of(run_id)["state"] == "failed"
    assert "row_change_acceptable" in share.failures(run_id)["check_staging"]

    assert share.sync("city_temperatures", conf={"accept_row_change": True})["rows_in_target"] == 5000


def test_a_new_column_of_the_source_is_named_and_not_loaded(share: RunningShare) -> None:
    source = share.source()
    share.write_source(source.append_column("humidity", pa.array([0.5] * len(source))), SOURCE)

    run_id = share.start_sync()

    assert share.end_of(run_id)["state"] == "failed"
    assert "humidity (double)" in share.failures(run_id)["copy_into_staging"]


def test_a_publish_is_told_as_an_asset_event(share: RunningShare) -> None:
    row = share.sync()

    events = share.airflow.ask("GET", "/assets/events", params={"order_by": "-timestamp", "limit": 1})["asset_events"]

    assert events[0]["uri"] == "snowflake://sandbox-datashare/data_share/public/shared_forecasts"
    assert events[0]["extra"] == {
        name: row[name] for name in ("run_key", "rows_inserted", "rows_updated", "rows_deleted", "rows_in_target")
    }


@pytest.mark.parametrize(
    "conf",
    [
        {"reload_run_key": "x' OR 1=1"},
        {"full_refresh": "yes"},
        {"dry_run": 1},
        {"accept_row_change": None},
    ],
    ids=str,
)
def test_conf_of_another_form_is_refused(share: RunningShare, conf: dict[str, object]) -> None:
    with pytest.raises(AirflowError, match=rf"400.*{next(iter(conf))}"):
        share.start_sync(conf=conf)


def test_staging_tables_of_old_runs_are_dropped(share: RunningShare) -> None:
    old, young = "T__20200101T000000_0A1B2C3D", "T__29990101T000000_0A1B2C3D"
    for name in (old, young):
        share.query(f"CREATE TABLE staging.{name} (a INT)")
    try:
        run_id = share.airflow.trigger("clean_up_share", conf={"keep_days": 30})

        assert share.airflow.wait("clean_up_share", run_id, 60)["state"] == "success"
        assert share.airflow.xcom("clean_up_share", run_id, "clean_up")["dropped_tables"] == [old]
        assert share.staging_tables() == [young]
    finally:
        share.query(f"DROP TABLE staging.{young}")
