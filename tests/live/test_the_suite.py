"""The suite itself: that it keeps to its scratch place, and leaves nothing of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from airflow.providers.databricks.hooks.databricks import DatabricksHook

from data_share.doctor.deployment import State
from data_share.doctor.run import Finding
from data_share.snowflake.sql_api import DataShareSnowflakeHook, SnowflakeStatementError, SnowflakeTransientError
from emulators.s3 import SHARE_BUCKET, s3_filesystem
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
from tests.live.assumptions import NotTriedError, Result
from tests.live.assumptions import as_table as assumptions_table
from tests.live.conftest import result_of
from tests.live.preflight import CHECKS, preflight
from tests.live.preflight import as_table as preflight_table
from tests.live.report import FILES, LiveReport

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
    emulators: Accounts, settings: LiveSettings
) -> None:
    before = left(emulators)
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
    assert left(emulators) == before
    assert emulators.on_databricks("runs/get", run_id=started[0])["state"]["result_state"] == "CANCELED"


# ---- its settings and its limits


def live_settings(**changed: str) -> LiveSettings:
    given = {
        "DATA_SHARE_LIVE_SNOWFLAKE": "{}",
        "DATA_SHARE_LIVE_DATABRICKS": "{}",
        "DATA_SHARE_LIVE_JOB_ID": "7",
        "DATA_SHARE_LIVE_S3_PREFIX": "s3://bucket/scratch/",
        "DATA_SHARE_LIVE_STORAGE_INTEGRATION": "integration",
        "DATA_SHARE_LIVE_SOURCE_SCHEMA": "main.live",
        "DATA_SHARE_LIVE_OTHER_ROLE": "LIVE_OTHER",
    }
    return LiveSettings.read({**given, **changed})


@pytest.fixture
def scratch() -> Scratch:
    return Scratch(live_settings(), name="data_share_live_x", job_id=8)


def test_a_suite_without_its_settings_fails_instead_of_skipping_and_names_all_that_is_missing() -> None:
    with pytest.raises(pytest.fail.Exception) as caught:
        settings_or_failure({"DATA_SHARE_LIVE_JOB_ID": "7"})
    for name in ("SNOWFLAKE", "DATABRICKS", "S3_PREFIX", "STORAGE_INTEGRATION", "SOURCE_SCHEMA"):
        assert f"DATA_SHARE_LIVE_{name} (" in str(caught.value)
    assert "DATA_SHARE_LIVE_JOB_ID" not in str(caught.value)


@pytest.mark.parametrize(
    "prefix", ["s3://bucket/", "s3://bucket", "bucket/scratch/", "s3://bucket/a/../b/", "s3:///a/"]
)
def test_a_whole_bucket_is_no_scratch_prefix(prefix: str) -> None:
    with pytest.raises(LiveSettingsError, match="DATA_SHARE_LIVE_S3_PREFIX"):
        live_settings(DATA_SHARE_LIVE_S3_PREFIX=prefix)


@pytest.mark.parametrize("schema", ["main", "main.live.t", "main.`live`", "main.live; DROP", ".live"])
def test_a_schema_for_source_tables_has_a_catalog(schema: str) -> None:
    with pytest.raises(LiveSettingsError, match="DATA_SHARE_LIVE_SOURCE_SCHEMA"):
        live_settings(DATA_SHARE_LIVE_SOURCE_SCHEMA=schema)


def test_another_role_is_a_plain_name_and_may_be_left_out() -> None:
    assert live_settings(DATA_SHARE_LIVE_OTHER_ROLE="").other_role is None
    with pytest.raises(LiveSettingsError, match="DATA_SHARE_LIVE_OTHER_ROLE"):
        live_settings(DATA_SHARE_LIVE_OTHER_ROLE="x; DROP ROLE y")


@pytest.mark.parametrize(
    ("name", "value"),
    [("RETRY_AFTER", "soon"), ("SNOWFLAKE", "snowflake://user@account"), ("DATABRICKS", "no"), ("JOB_ID", "export")],
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
        "LIST @s/a/",
        "DESCRIBE INTEGRATION integration",
        "GRANT USAGE ON SCHEMA DATA_SHARE_LIVE_X TO ROLE LIVE_OTHER",
        "GRANT SELECT, INSERT ON TABLE DATA_SHARE_LIVE_X.t TO ROLE LIVE_OTHER",
        "CREATE MASKING POLICY DATA_SHARE_LIVE_X.p AS (v VARCHAR) RETURNS VARCHAR -> 'masked'",
        "ALTER TABLE DATA_SHARE_LIVE_X.t ADD ROW ACCESS POLICY DATA_SHARE_LIVE_X.p ON (id)",
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
        "LIST @public.s/a/",
        "DESCRIBE INTEGRATION other; DROP TABLE public.t",
        "GRANT USAGE ON SCHEMA DATA_SHARE_LIVE_X TO ROLE PUBLIC",
        "GRANT USAGE ON SCHEMA public TO ROLE LIVE_OTHER",
        "GRANT OWNERSHIP ON TABLE DATA_SHARE_LIVE_X.t TO ROLE LIVE_OTHER",
        "CREATE MASKING POLICY public.p AS (v VARCHAR) RETURNS VARCHAR -> 'masked'",
        "CREATE MASKING POLICY DATA_SHARE_LIVE_X.p AS (v VARCHAR) RETURNS VARCHAR -> v; DROP TABLE public.t",
        "ALTER TABLE public.t ADD ROW ACCESS POLICY DATA_SHARE_LIVE_X.p ON (id)",
    ],
)
def test_statements_that_reach_beyond_it_are_not_sent(scratch: Scratch, sql: str) -> None:
    with pytest.raises(OutsideScratchError):
        scratch.check_sql(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM samples.nyctaxi.trips LIMIT 0",
        "CREATE TABLE main.live.data_share_live_x_1 AS SELECT * FROM parquet.`s3://bucket/scratch/data_share_live_x/a/`",
        "CREATE TABLE main.live.data_share_live_x_1 TBLPROPERTIES (delta.enableChangeDataFeed = true) AS SELECT 1 AS n",
        "ALTER TABLE main.live.data_share_live_x_1 SET TBLPROPERTIES (delta.enableChangeDataFeed = true)",
        "UPDATE main.live.data_share_live_x_1 SET v = 'new' WHERE k = 2",
        "UPDATE main.live.data_share_live_x_1 SET k = k + 100 WHERE k = 2",
        "DELETE FROM main.live.data_share_live_x_1 WHERE k = 2",
        "VACUUM main.live.data_share_live_x_1",
        "DROP TABLE IF EXISTS main.live.data_share_live_x_1",
        "INSERT OVERWRITE DIRECTORY 's3://bucket/scratch/data_share_live_x/a/' USING PARQUET SELECT 1 AS n",
    ],
)
def test_statements_for_databricks_within_the_scratch_place_pass(scratch: Scratch, sql: str) -> None:
    scratch.check_databricks_sql(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE main.live.other AS SELECT 1 AS n",
        "CREATE TABLE main.live.data_share_live_y_1 AS SELECT 1 AS n",
        "CREATE OR REPLACE TABLE main.live.data_share_live_x_1 AS SELECT 1 AS n",
        "DROP TABLE main.live.data_share_live_x_1",
        "DROP TABLE IF EXISTS main.weather.forecasts",
        "DROP SCHEMA main.live CASCADE",
        "INSERT OVERWRITE DIRECTORY 's3://bucket/scratch/other/' USING PARQUET SELECT 1 AS n",
        "INSERT OVERWRITE DIRECTORY 's3://bucket/scratch/data_share_live_x/../b/' USING PARQUET SELECT 1 AS n",
        "SELECT 1; DROP TABLE main.weather.forecasts",
        "DELETE FROM main.weather.forecasts",
        "DELETE FROM main.weather.forecasts WHERE k = 2",
        "DELETE FROM main.live.data_share_live_x_1",
        "DELETE FROM main.live.data_share_live_x_1 WHERE k = 2; DROP TABLE main.weather.forecasts",
        "DELETE FROM main.live.data_share_live_x_1 WHERE k = (SELECT MAX(k) FROM main.weather.forecasts)",
        "UPDATE main.weather.forecasts SET v = 'new' WHERE k = 2",
        "UPDATE main.live.data_share_live_y_1 SET v = 'new' WHERE k = 2",
        "UPDATE main.live.data_share_live_x_1 SET v = 'new'",
        "UPDATE main.live.data_share_live_x_1 SET v = SECRET('a', 'b') WHERE k = 2",
        "UPDATE main.live.data_share_live_x_1 SET v = 'new' WHERE k = 2 OR TRUE",
        "ALTER TABLE main.weather.forecasts SET TBLPROPERTIES (delta.enableChangeDataFeed = true)",
        "ALTER TABLE main.live.data_share_live_x_1 SET TBLPROPERTIES (delta.deletedFileRetentionDuration = '0 days')",
        "ALTER TABLE main.live.data_share_live_x_1 DROP COLUMN v",
        "CREATE TABLE main.live.data_share_live_x_1 TBLPROPERTIES (a = 1) AS SELECT 1 AS n",
        "CREATE TABLE main.live.data_share_live_x_1 LOCATION 's3://bucket/' AS SELECT 1 AS n",
        "VACUUM main.weather.forecasts",
        "VACUUM main.live.data_share_live_x_1 RETAIN 0 HOURS",
        "VACUUM main.live.data_share_live_x_1 WHERE TRUE",
        "MERGE INTO main.live.data_share_live_x_1 USING main.weather.forecasts ON TRUE WHEN MATCHED THEN DELETE",
    ],
)
def test_statements_for_databricks_that_reach_beyond_it_are_not_sent(scratch: Scratch, sql: str) -> None:
    with pytest.raises(OutsideScratchError):
        scratch.sql(sql)


def test_without_a_schema_only_the_scratch_schema_is_made_and_dropped(scratch: Scratch) -> None:
    for statement in ("CREATE TRANSIENT SCHEMA DATA_SHARE_LIVE_X", "DROP SCHEMA IF EXISTS DATA_SHARE_LIVE_X CASCADE"):
        scratch.check_body({"statement": statement})
    scratch.check_body({"schema": "DATA_SHARE_LIVE_X_MISSING", "statement": "SELECT CURRENT_SCHEMA()"})
    for statement in ("CREATE TABLE t (n INT)", "DROP SCHEMA IF EXISTS DATA_SHARE_LIVE_X; DROP TABLE t"):
        with pytest.raises(OutsideScratchError):
            scratch.check_body({"statement": statement})


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
def test_with_all_rights_nothing_is_missing_and_nothing_is_left(emulators: Accounts, settings: LiveSettings) -> None:
    before = left(emulators)
    findings = found(settings)
    assert [finding.line() for finding in findings if finding.state is not State.OK] == []
    assert [finding.name for finding in findings][: len(CHECKS)] == [check.right for check in CHECKS]
    assert left(emulators) == before


# ---- its report


CONNECTIONS = {
    "snowflake": {
        "login": "LIVE_USER",
        "extra": json.dumps({"account": "MYORG-LIVE_DEV", "private_key_content": "-----BEGIN\nTheKey==\n-----END"}),
    },
    "databricks": {"host": "https://dbc-1.cloud.databricks.com/", "password": "dapi-secret", "extra": {}},
}


def test_no_secret_and_no_name_of_an_account_is_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-secret")
    report = LiveReport()
    report.hide(CONNECTIONS, "s3://the-bucket/scratch/")
    said = (
        "live_user at myorg-live-dev.snowflakecomputing.com, MYORG-LIVE_DEV, dbc-1.cloud.databricks.com: dapi-secret, "
        "aws-secret, -----BEGIN\nTheKey==\n-----END, '-----BEGIN\\nTheKey==\\n-----END', s3://the-bucket/scratch/x/, "
        "arn:aws:iam::123456789012:role/share, Bearer ey.J-x"
    )
    report.note("empty_text", "a test", Result.DOES_NOT_HOLD, [said], 1.0)
    report.tests = {"failed": [said]}
    report.preflight = [Finding("Snowflake", "a right", "a look", State.WRONG, said)]
    report.write(tmp_path)
    for name in FILES:
        written = (tmp_path / name).read_text().lower()
        for secret in (
            "live_user",
            "myorg",
            "dbc-1",
            "dapi-secret",
            "aws-secret",
            "thekey",
            "the-bucket",
            "123456789012",
        ):
            assert secret not in written, name
        assert "does not hold" in written
        assert "bearer ***" in written


def test_of_several_tests_of_an_assumption_the_worst_counts() -> None:
    for results, told in (
        ([Result.HOLDS, Result.HOLDS], Result.HOLDS),
        ([Result.HOLDS, Result.NOT_TRIED, Result.HOLDS], Result.NOT_TRIED),
        ([Result.DOES_NOT_HOLD, Result.HOLDS, Result.NOT_TRIED], Result.DOES_NOT_HOLD),
    ):
        report = LiveReport()
        for number, result in enumerate(results):
            report.note("empty_text", f"test {number}", result, [f"answer {number}"], 0.5)
        assert report.assumptions["empty_text"].result is told
        assert len(report.assumptions["empty_text"].answers) == len(results)
        assert report.assumptions["export_sql"].result is Result.NOT_TRIED


@pytest.mark.parametrize(
    ("error", "when", "told"),
    [
        (AssertionError("1 is not 2"), "call", Result.DOES_NOT_HOLD),
        (SnowflakeStatementError("no such function"), "call", Result.DOES_NOT_HOLD),
        (NotTriedError("no policies in this edition"), "call", Result.NOT_TRIED),
        (SnowflakeTransientError("Snowflake does not answer"), "call", Result.NOT_TRIED),
        (OSError("the network is away"), "call", Result.NOT_TRIED),
        (AssertionError("what the test needs was not made"), "setup", Result.NOT_TRIED),
    ],
)
def test_only_a_test_that_got_an_answer_says_that_an_assumption_does_not_hold(
    error: Exception, when: Literal["call", "setup"], told: Result
) -> None:
    def fail() -> None:
        raise error

    result, answers = result_of(pytest.CallInfo.from_call(fail, when), ["an answer"])
    assert result is told
    assert answers[0] == "an answer"
    assert str(error) in answers[1]


# ---- its page


def test_the_page_has_the_rights_and_the_assumptions_as_they_are() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "live-tests.md").read_text(encoding="utf-8")
    assert preflight_table() in page
    assert assumptions_table() in page
