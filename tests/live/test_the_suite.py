"""The suite itself: that it keeps to its scratch place, and leaves nothing of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.databricks.hooks.databricks import DatabricksHook

from data_share.doctor import Finding
from data_share.doctor_checks.deployment import State
from data_share.snowflake_hook import DataShareSnowflakeHook
from sandbox.s3 import s3_filesystem
from sandbox.sources import SHARE_BUCKET
from tests.contracts.conftest import Accounts
from tests.live.accounts import (
    DATABRICKS_CONN,
    SWITCH,
    LiveSettings,
    LiveSettingsError,
    OutsideScratchError,
    Scratch,
    scratch_place,
    settings_or_failure,
)
from tests.live.assumptions import as_table as assumptions_table
from tests.live.preflight import CHECKS, preflight
from tests.live.preflight import as_table as preflight_table

pytestmark = pytest.mark.tier("full")


# ---- it leaves nothing


def left(accounts: Accounts) -> dict[str, Any]:
    """Return what lies in the accounts: schemas, files of the share, jobs."""
    administrator = DataShareSnowflakeHook("snowflake_administrator")
    schemas = administrator.run_statement("SELECT schema_name AS name FROM information_schema.schemata").rows
    return {
        "schemas": sorted(row["NAME"] for row in schemas),
        "files": sorted(s3_filesystem(accounts.s3_url).find(f"{SHARE_BUCKET}/dataset")),
        "jobs": sorted(job["settings"]["name"] for job in accounts.jobs()),
    }


@pytest.mark.sandbox
@pytest.mark.skipif(os.environ.get(SWITCH) == "1", reason="the suite is on its way to real accounts")
def test_nothing_is_left_of_the_scratch_place_when_the_suite_breaks_off(
    stand_ins: Accounts, settings: LiveSettings
) -> None:
    before = left(stand_ins)
    started: list[int] = []

    def break_off() -> None:
        with scratch_place(settings) as scratch:
            scratch.put("a/part-1.parquet", b"made by a test")
            DataShareSnowflakeHook("snowflake_default").run_statement("CREATE TABLE t (n INTEGER)")
            parameters = {"source_table": settings.dataset.source_table, "export_path": f"{scratch.url}b/"}
            body = {"job_id": scratch.job_id, "job_parameters": parameters}
            started.append(DatabricksHook(DATABRICKS_CONN).run_now(body))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert left(stand_ins) == before
    assert stand_ins.on_databricks("runs/get", run_id=started[0])["state"]["result_state"] == "CANCELED"


# ---- its settings and its limits


def live_settings(**changed: str) -> LiveSettings:
    given = {
        "DATA_SHARE_LIVE_SNOWFLAKE": "{}",
        "DATA_SHARE_LIVE_DATABRICKS": "{}",
        "DATA_SHARE_LIVE_JOB_ID": "7",
        "DATA_SHARE_LIVE_S3_PREFIX": "s3://bucket/scratch/",
        "DATA_SHARE_LIVE_STORAGE_INTEGRATION": "integration",
        "DATA_SHARE_LIVE_SOURCE_SCHEMA": "main.live",
    }
    return LiveSettings.read({**given, **changed})


@pytest.fixture
def scratch() -> Scratch:
    return Scratch(live_settings(), name="data_share_live_x", job_id=8)


def test_a_suite_without_its_settings_fails_instead_of_skipping_and_names_all_that_is_missing() -> None:
    with pytest.raises(pytest.fail.Exception) as caught:
        settings_or_failure({"DATA_SHARE_LIVE_JOB_ID": "7"})
    for name in ("SNOWFLAKE", "DATABRICKS", "S3_PREFIX", "STORAGE_INTEGRATION"):
        assert f"DATA_SHARE_LIVE_{name} (" in str(caught.value)
    assert "DATA_SHARE_LIVE_JOB_ID" not in str(caught.value)


@pytest.mark.parametrize(
    "prefix", ["s3://bucket/", "s3://bucket", "bucket/scratch/", "s3://bucket/a/../b/", "s3:///a/"]
)
def test_a_whole_bucket_is_no_scratch_prefix(prefix: str) -> None:
    with pytest.raises(LiveSettingsError, match="DATA_SHARE_LIVE_S3_PREFIX"):
        live_settings(DATA_SHARE_LIVE_S3_PREFIX=prefix)


@pytest.mark.parametrize(
    ("name", "value"), [("SNOWFLAKE", "snowflake://user@account"), ("DATABRICKS", "no"), ("JOB_ID", "export")]
)
def test_a_setting_of_the_wrong_form_is_told(name: str, value: str) -> None:
    with pytest.raises(LiveSettingsError, match="not JSON, or the job id or"):
        live_settings(**{f"DATA_SHARE_LIVE_{name}": value})


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 UNION ALL SELECT 2",
        "INSERT INTO t SELECT * FROM data_share_live_x.s",
        "CREATE TRANSIENT SCHEMA DATA_SHARE_LIVE_X",
        "DROP SCHEMA IF EXISTS DATA_SHARE_LIVE_X CASCADE",
        "SHOW TABLES IN SCHEMA DATA_SHARE_LIVE_X",
        "COPY INTO DATA_SHARE_LIVE_X.t FROM @s/a/ FILE_FORMAT = (TYPE = PARQUET)",
    ],
)
def test_statements_within_the_scratch_schema_pass(scratch: Scratch, sql: str) -> None:
    scratch.check_sql(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO public.t SELECT 1",
        "SELECT * FROM production.public.t",
        "SELECT 1 UNION ALL SELECT c FROM public.t",
        "DROP SCHEMA public",
        "DROP DATABASE data_share",
        "CREATE SCHEMA other",
        "DROP TABLE IF EXISTS staging.t",
        "DROP STAGE public.s",
        "ALTER TABLE public.t ADD COLUMN c INT",
        "DELETE FROM public.t",
        "UPDATE public.t SET c = 1",
        "MERGE INTO t USING public.s AS s ON TRUE WHEN MATCHED THEN DELETE",
        "COPY INTO public.t FROM @s/a/ FILE_FORMAT = (TYPE = PARQUET)",
        "SHOW TABLES IN SCHEMA public",
        "TRUNCATE TABLE public.t",
        "USE SCHEMA public",
        "GRANT OWNERSHIP ON TABLE t TO ROLE r",
        "SELECT 1; DROP TABLE public.t",
        "CREATE WAREHOUSE w",
    ],
)
def test_statements_that_reach_beyond_it_are_not_sent(scratch: Scratch, sql: str) -> None:
    with pytest.raises(OutsideScratchError):
        scratch.check_sql(sql)


@pytest.mark.parametrize(
    "body",
    [
        {"job_id": 7, "job_parameters": {"export_path": "s3://bucket/scratch/data_share_live_x/a/"}},
        {"job_id": 8, "job_parameters": {"export_path": "s3://bucket/scratch/"}},
        {"job_id": 8, "job_parameters": {"export_path": "s3://bucket/scratch/data_share_live_xy/"}},
        {"job_id": 8},
    ],
)
def test_runs_of_other_jobs_or_to_other_places_are_not_started(scratch: Scratch, body: dict[str, Any]) -> None:
    scratch.check_run({"job_id": "8", "job_parameters": {"export_path": "s3://bucket/scratch/data_share_live_x/a/"}})
    with pytest.raises(OutsideScratchError):
        scratch.check_run(body)


@pytest.mark.parametrize(
    "call",
    [
        lambda scratch: scratch.databricks("POST", "jobs/delete", job_id=7),
        lambda scratch: scratch.databricks("POST", "jobs/runs/cancel-all", all_queued_runs=True),
        lambda scratch: scratch.put("../other.parquet", b""),
        lambda scratch: scratch.put("/other.parquet", b""),
        lambda scratch: scratch.check_body({"schema": "PUBLIC"}),
        lambda scratch: scratch.check_body({}),
    ],
)
def test_other_ways_out_are_closed(scratch: Scratch, call: Callable[[Scratch], None]) -> None:
    with pytest.raises(OutsideScratchError):
        call(scratch)


# ---- its preflight


def found(settings: LiveSettings) -> list[Finding]:
    return list(preflight(settings, {}))


@pytest.mark.sandbox
def test_with_all_rights_nothing_is_missing_and_nothing_is_left(stand_ins: Accounts, settings: LiveSettings) -> None:
    before = left(stand_ins)
    findings = found(settings)
    assert [finding.line() for finding in findings if finding.state is not State.OK] == []
    assert [finding.name for finding in findings][: len(CHECKS)] == [check.right for check in CHECKS]
    assert left(stand_ins) == before


# ---- its page


def test_the_page_has_the_rights_and_the_assumptions_as_they_are() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "live-tests.md").read_text(encoding="utf-8")
    assert preflight_table() in page
    assert assumptions_table() in page
