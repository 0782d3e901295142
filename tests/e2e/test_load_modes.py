"""The load modes and the conf of a run, on a real Airflow."""

from __future__ import annotations

import pytest

from tests.airflow_client import AirflowError
from tests.e2e.share import RunningShare

pytestmark = pytest.mark.tier("full")


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
    assert list(share.failures(run_id)) == ["copy_into_staging"]
    report = share.xcom(run_id, "finish_sync", "failure")
    assert report["code"] == "RUN_KEY_UNKNOWN"
    assert "no sync 20200101T000000_00000000" in report["message"]
    assert share.task_states(run_id)["check_staging"] == "upstream_failed"


@pytest.mark.parametrize(
    "conf",
    [
        {"reload_run_key": "x' OR 1=1"},
        {"dry_run": 1},
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
