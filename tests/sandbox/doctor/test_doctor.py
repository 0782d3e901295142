"""A deployment that is broken in one way: the one check that is about it says so, and how to mend it."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import shutil
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import requests
from airflow.sdk.observability import stats
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import data_share
from data_share.doctor import __main__ as doctor
from data_share.doctor import airflow as airflow_checks
from data_share.doctor import run
from data_share.doctor.deployment import Answer, Check, State
from data_share.doctor.run import CHECKS, DoctorOperator, ShareIsBrokenError
from data_share.share import Share
from data_share.share_file import share_file
from data_share.snowflake.sql_api import DataShareSnowflakeHook
from tests.emulators.databricks.conftest import TOKEN, WorkspaceServer
from tests.emulators.snowflake.conftest import KEY

pytestmark = pytest.mark.sandbox

Look = Callable[..., Any]
Change = Callable[..., None]
PACKAGE = Path(data_share.__file__).resolve().parent
VARIABLE = f"AIRFLOW_VAR_{Share().export_job_variable.upper()}"


def test_all_is_well(look: Look) -> None:
    examined = look()
    assert examined.named(State.OK) == [check.name for check in CHECKS], examined.told()


def test_nothing_is_left_behind(look: Look, administer: Any, snowflake_url: str) -> None:
    look("Snowflake")
    hook = DataShareSnowflakeHook("administrator")
    assert hook.run_statement("SHOW TABLES IN SCHEMA staging").rows == []
    for table in ("shared_forecasts", "city_temperatures", "daily_observations", Share().ledger_table):
        assert hook.run_statement(f"SELECT * FROM {table}").rows == []


# ---- Airflow


def test_the_version_is_told(look: Look) -> None:
    assert f"version {data_share.__version__} in {PACKAGE}, on Airflow 3." in look("Airflow").findings["package"].text


def test_a_second_copy_of_the_package(look: Look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "data_share").mkdir()
    monkeypatch.setenv("AIRFLOW__CORE__PLUGINS_FOLDER", str(tmp_path))
    examined = look("Airflow")
    assert examined.named(State.ADVICE) == ["package"]
    assert f"The copy in {tmp_path / 'data_share'} is not used: remove it" in examined.findings["package"].text


def test_the_same_copy_by_another_path_is_no_second_one(
    look: Look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "data_share").symlink_to(PACKAGE)
    monkeypatch.setenv("AIRFLOW__CORE__PLUGINS_FOLDER", str(tmp_path))
    assert look("Airflow").named(State.ADVICE) == []


def test_a_dataset_file_that_is_not_valid(look: Look, tmp_path: Path) -> None:
    shutil.copytree(share_file().datasets_folder, tmp_path / "datasets")
    (tmp_path / "datasets" / "broken.yaml").write_text("load_mode: sometimes\n")
    said = look("Airflow", datasets_folder=tmp_path / "datasets").only_wrong("dataset files")
    assert "broken.yaml" in said
    assert "load_mode" in said


def test_a_dag_file_that_cannot_be_imported(look: Look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "broken.py").write_text("import a_package_that_is_not_installed\n")
    monkeypatch.setattr(airflow_checks, "DAGS", tmp_path / "dags")
    said = look("Airflow").only_wrong("DAG files")
    assert "dags/broken.py cannot be imported: ModuleNotFoundError" in said
    assert "a_package_that_is_not_installed" in said


def test_without_local_settings_it_is_slow_and_works(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow_checks.importlib.util, "find_spec", lambda _: None)
    examined = look("Airflow")
    assert examined.named(State.WRONG) == []
    assert examined.named(State.ADVICE) == ["local settings"]
    assert "PYTHONPATH" in examined.findings["local settings"].text


@pytest.mark.parametrize("status", [None, "unhealthy"])
def test_no_triggerer(look: Look, airflow_health: dict[str, Any], status: str | None) -> None:
    airflow_health["triggerer"]["status"] = status
    said = look("Airflow").only_wrong("processes")
    assert "triggerer is not running" in said or "triggerer is unhealthy" in said
    assert "airflow triggerer" in said


def test_an_api_server_that_does_not_answer(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "http://127.0.0.1:9/execution/")
    assert "execution_api_server_url" in look("Airflow").only_wrong("processes")


# ---- connections


@pytest.mark.parametrize("side", ["Databricks", "Snowflake"])
def test_no_connection(look: Look, monkeypatch: pytest.MonkeyPatch, side: str) -> None:
    monkeypatch.delenv(f"AIRFLOW_CONN_{side.upper()}_DEFAULT")
    examined = look(side)
    said = examined.only_wrong(f"{side} connection")
    assert f"The Airflow connection {side.lower()}_default does not exist" in said
    assert f"because a check before it did not pass: {side} connection" in examined.findings[f"{side} address"].text


@pytest.mark.parametrize(
    ("change_to", "lacks"),
    [
        ({"schema": None}, "schema"),
        ({"login": None}, "login"),
        ({"extra": {"warehouse": None, "role": None}}, "extra warehouse, extra role"),
        ({"extra": {"private_key_content": None}}, "extra private_key_file or private_key_content"),
    ],
    ids=["schema", "login", "extras", "key"],
)
def test_a_snowflake_connection_that_lacks_something(
    look: Look, change: Change, change_to: dict[str, Any], lacks: str
) -> None:
    change("snowflake_default", **change_to)
    assert f"lacks: {lacks}." in look("Snowflake").only_wrong("Snowflake connection")


def test_a_databricks_connection_without_a_token(look: Look, change: Change) -> None:
    change("databricks_default", password=None)
    assert "lacks: password" in look("Databricks").only_wrong("Databricks connection")


# ---- Databricks


def test_a_workspace_that_cannot_be_reached(look: Look, change: Change) -> None:
    change("databricks_default", port=9)
    said = look("Databricks").only_wrong("Databricks address")
    assert "cannot be reached at http://127.0.0.1:9/" in said


def test_a_token_that_databricks_does_not_accept(look: Look, change: Change) -> None:
    change("databricks_default", password="dapi-of-somebody-else")
    examined = look("Databricks")
    said = examined.only_wrong("Databricks sign-in")
    assert "Databricks does not accept the sign-in" in said
    assert "dapi-of-somebody-else" not in examined.told()
    assert examined.findings["job"].state is State.UNKNOWN


def test_no_job_id(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    said = look("Databricks").only_wrong("job id")
    assert Share().export_job_variable in said


def test_a_job_id_that_is_none(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "export_dataset")
    assert "'export_dataset', which is no job id" in look("Databricks").only_wrong("job id")


def test_a_job_that_does_not_exist(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "4711")
    said = look("Databricks").only_wrong("job")
    assert "Job 4711 does not exist" in said


@contextmanager
def job(workspace: WorkspaceServer, **settings: Any) -> Iterator[None]:
    """The export job with other settings."""
    before = workspace.get("jobs/get", job_id=workspace.job_id)["settings"]
    workspace.post("jobs/reset", job_id=workspace.job_id, new_settings={**before, **settings})
    try:
        yield
    finally:
        workspace.post("jobs/reset", job_id=workspace.job_id, new_settings=before)


def test_a_job_with_other_parameters(look: Look, workspace: WorkspaceServer) -> None:
    names = ("dataset", "source_table", "run_key", "target_path")
    with job(workspace, parameters=[{"name": name, "default": ""} for name in names]):
        said = look("Databricks").only_wrong("job parameters")
    assert "lacks the parameters export_path, mode, proof," in said
    assert "has the parameters target_path" in said


def test_a_job_without_a_queue(look: Look, workspace: WorkspaceServer) -> None:
    with job(workspace, queue={"enabled": False}):
        assert "queue is not enabled" in look("Databricks").only_wrong("job queue")


def test_a_job_that_starts_no_run(look: Look, workspace: WorkspaceServer) -> None:
    with job(workspace, max_concurrent_runs=0):
        assert "starts no run" in look("Databricks").only_wrong("job queue")


def test_a_job_with_fewer_runs_than_datasets(look: Look, workspace: WorkspaceServer) -> None:
    with job(workspace, max_concurrent_runs=1):
        assert look("Databricks").named(State.ADVICE) == ["job queue"]


def test_a_task_with_other_parameters_or_another_file(look: Look, workspace: WorkspaceServer) -> None:
    tasks = workspace.get("jobs/get", job_id=workspace.job_id)["settings"]["tasks"]
    for written, instead, told in (
        (
            "export_path}}data/",
            "export_path}}",
            "The task export has '{{job.parameters.export_path}}' as its data_path",
        ),
        (
            "first_row.to_version",
            "first_row.table_id",
            "The task export has '{{tasks.plan.output.first_row.table_id}}'",
        ),
        ("job.parameters.published", "job.parameters.proof", "The task plan has '{{job.parameters.proof}}' as its pub"),
        ("export_dataset.sql", "another.sql", "The task export is not a SQL task with the file export_dataset.sql"),
        ("plan_export.sql", "old_plan_export.sql", "The task plan is not a SQL task with the file plan_export.sql"),
        ("NOT_EQUAL", "EQUAL_TO", "The task changed has 'EQUAL_TO' as its op instead of 'NOT_EQUAL'"),
        ('"right": "nothing"', '"right": "full"', "The task changed has 'full' as its right instead of 'nothing'"),
        ('"outcome": "true"', '"outcome": "false"', "The task export depends on other tasks, or on other outcomes"),
    ):
        text = json.dumps(tasks).replace(written, instead)
        with job(workspace, tasks=json.loads(text)):
            assert told in look("Databricks").only_wrong("job task")


def test_a_job_with_other_tasks(look: Look, workspace: WorkspaceServer) -> None:
    plan, changed, export = workspace.get("jobs/get", job_id=workspace.job_id)["settings"]["tasks"]
    of_plan = {name: text for name, text in export["sql_task"]["parameters"].items() if "tasks.plan" in text}
    unplanned = {**export["sql_task"]["parameters"], **dict.fromkeys(of_plan, "")}
    alone = {name: value for name, value in export.items() if name != "depends_on"}
    alone["sql_task"] = {**export["sql_task"], "parameters": unplanned}
    for tasks, told in (
        ([alone], "The job's tasks are export instead of plan, changed, export"),
        ([plan, changed], "The job's tasks are plan, changed instead of"),
        ([plan, changed, export, {**alone, "task_key": "more"}], "are plan, changed, export, more instead of"),
        ([plan, changed, {**export, "depends_on": [{"task_key": "plan"}]}], "The task export depends on other tasks"),
        ([plan, changed, {**changed, "task_key": "export"}], "The task export is not a SQL task with the file"),
    ):
        with job(workspace, tasks=tasks):
            assert told in look("Databricks").only_wrong("job task")


# ---- clocks


@pytest.mark.parametrize("side", ["Databricks", "Snowflake"])
def test_a_clock_that_is_wrong(look: Look, side: str) -> None:
    assert look(side, ahead=timedelta(seconds=30)).named(State.WRONG) == []
    said = look(side, ahead=timedelta(minutes=5)).only_wrong(f"{side} clock")
    assert "30" in said or "299" in said
    assert f"seconds ahead of that of {side}" in said
    assert "behind" in look(side, ahead=-timedelta(minutes=5)).only_wrong(f"{side} clock")


# ---- Snowflake: sign-in


def test_an_account_that_cannot_be_reached(look: Look, change: Change) -> None:
    change("snowflake_default", extra={"port": 9})
    assert "Snowflake cannot be reached" in look("Snowflake").only_wrong("Snowflake address")


def test_a_key_that_is_not_the_users(look: Look, change: Change, other_key: str) -> None:
    change("snowflake_default", extra={"private_key_content": other_key})
    examined = look("Snowflake")
    said = examined.only_wrong("Snowflake sign-in")
    assert "HTTP 401" in said
    assert "390144" in said
    assert other_key not in examined.told()
    assert examined.findings["role"].state is State.UNKNOWN


@pytest.mark.parametrize(
    ("change_to", "told"),
    [
        ({"extra": {"private_key_content": "this-is-no-key-at-all"}}, "has no line -----BEGIN PRIVATE KEY-----"),
        ({"password": "left-over"}, "not encrypted, yet the connection has a password"),
        ({"extra": {"private_key_content": None, "private_key_file": "/nowhere/a.p8"}}, "/nowhere/a.p8, is no file"),
    ],
    ids=["no key", "a password", "no file"],
)
def test_a_key_that_cannot_be_read(look: Look, change: Change, change_to: dict[str, Any], told: str) -> None:
    """A check of its own, before the address, which can be reached all the same."""
    change("snowflake_default", **change_to)
    examined = look("Snowflake")
    assert told in examined.only_wrong("Snowflake key")
    assert list(examined.findings)[:3] == ["Snowflake connection", "Snowflake key", "Snowflake address"]
    assert examined.findings["Snowflake address"].state is State.OK
    assert examined.findings["Snowflake sign-in"].state is State.UNKNOWN
    for secret in ("this-is-no-key-at-all", "left-over"):
        assert secret not in examined.told()


def test_the_key_is_told_as_snowflake_tells_it(look: Look) -> None:
    der = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    fingerprint = base64.b64encode(hashlib.sha256(der).digest()).decode()
    assert f"RSA_PUBLIC_KEY_FP SHA256:{fingerprint}" in look("Snowflake").findings["Snowflake key"].text


def test_a_sign_in_by_a_token_needs_no_key(look: Look, change: Change) -> None:
    token = {"authenticator": "programmatic_access_token", "private_key_content": None}
    change("snowflake_default", password="a-token-of-nobody", extra=token)
    examined = look("Snowflake")
    assert "HTTP 401" in examined.only_wrong("Snowflake sign-in")
    assert examined.findings["Snowflake key"].state is State.OK


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ({"host": None, "account": "my org"}, "'my org', which is no account identifier"),
        ({"host": "proxy example"}, "'proxy example', which is no host name"),
        ({"host": None, "account": "xy12345.eu-west-1", "region": "us-east-2"}, "has two regions"),
    ],
    ids=["account", "host", "region"],
)
def test_an_account_that_is_none(look: Look, change: Change, extra: dict[str, Any], told: str) -> None:
    change("snowflake_default", extra=extra)
    assert told in look("Snowflake").only_wrong("Snowflake address")


@pytest.mark.parametrize("side", ["Databricks", "Snowflake"])
def test_a_certificate_that_is_refused(look: Look, monkeypatch: pytest.MonkeyPatch, side: str) -> None:
    told = "certificate verify failed: Hostname mismatch"
    error = requests.exceptions.SSLError(ssl.SSLCertVerificationError(1, told))
    monkeypatch.setattr(requests, "get", mock.Mock(side_effect=error))
    said = look(side).only_wrong(f"{side} address")
    assert said.startswith("The certificate at http")
    assert told in said
    assert "REQUESTS_CA_BUNDLE" in said


@pytest.mark.parametrize("role", ["NOBODY", "SYSADMIN"])
def test_a_role_that_the_user_does_not_have(look: Look, change: Change, role: str) -> None:
    change("snowflake_default", extra={"role": role})
    said = look("Snowflake").only_wrong("role")
    assert role in said
    assert "GRANT ROLE" in said


@pytest.mark.parametrize(
    ("change_to", "name"),
    [({"extra": {"database": "NOWHERE"}}, "database NOWHERE"), ({"schema": "NOWHERE"}, "schema NOWHERE")],
    ids=["database", "schema"],
)
def test_a_database_or_schema_that_is_not_there(
    look: Look, change: Change, change_to: dict[str, Any], name: str
) -> None:
    change("snowflake_default", **change_to)
    assert f"The {name} does not exist" in look("Snowflake").only_wrong("database and schema")


def test_a_warehouse_that_is_not_there(look: Look, change: Change) -> None:
    change("snowflake_default", extra={"warehouse": "NONE_WH"})
    examined = look("Snowflake")
    said = examined.only_wrong("warehouse")
    assert "No active warehouse" in said
    assert examined.findings["write and read"].state is State.UNKNOWN


# ---- Snowflake: objects and rights. Each is broken by an administrator, and fixed again.

LOADER = "ROLE data_share_loader"
STAGE = "CREATE STAGE s3_share_stage URL = '{}' STORAGE_INTEGRATION = {} FILE_FORMAT = (TYPE = PARQUET)"
INTEGRATION = (
    "CREATE OR REPLACE STORAGE INTEGRATION {} TYPE = EXTERNAL_STAGE STORAGE_PROVIDER = 'S3' ENABLED = TRUE "
    "STORAGE_AWS_ROLE_ARN = 'arn:aws:iam::1:role/r' STORAGE_ALLOWED_LOCATIONS = ('{}')"
)
OWN_STAGE = f"GRANT OWNERSHIP ON STAGE s3_share_stage TO {LOADER} REVOKE CURRENT GRANTS"
MEND_STAGE = ["DROP STAGE IF EXISTS s3_share_stage", STAGE.format(Share().url, "s3_share_int"), OWN_STAGE]
OWN_TARGET = f"GRANT OWNERSHIP ON TABLE {{}} TO {LOADER} REVOKE CURRENT GRANTS"

BROKEN = {
    "the integration allows another place": (
        [
            INTEGRATION.format("s3_share_int", "s3://another-bucket/"),
            f"GRANT USAGE ON INTEGRATION s3_share_int TO {LOADER}",
        ],
        [INTEGRATION.format("s3_share_int", Share().url), f"GRANT USAGE ON INTEGRATION s3_share_int TO {LOADER}"],
        "storage integration",
        "allows s3://another-bucket/, but not s3://databricks-snowflake-share/dataset/",
    ),
    "no stage": (["DROP STAGE s3_share_stage"], MEND_STAGE, "stage", "Run the DAG set_up_snowflake"),
    "no right on the stage": (
        ["GRANT OWNERSHIP ON STAGE s3_share_stage TO ROLE accountadmin"],
        [OWN_STAGE],
        "stage",
        "GRANT USAGE ON STAGE",
    ),
    "a stage on another place": (
        ["DROP STAGE s3_share_stage", STAGE.format(f"{Share().url}old/", "s3_share_int"), OWN_STAGE],
        MEND_STAGE,
        "stage",
        "s3_share_stage is s3://databricks-snowflake-share/dataset/old/ instead of s3://databricks-snowflake-share/dataset/",
    ),
    "a stage with another integration": (
        [
            INTEGRATION.format("another_int", Share().url),
            "DROP STAGE s3_share_stage",
            STAGE.format(Share().url, "another_int"),
            OWN_STAGE,
        ],
        MEND_STAGE,
        "stage",
        "uses the integration ANOTHER_INT, not s3_share_int",
    ),
    "no staging schema": (
        ["DROP SCHEMA staging"],
        ["CREATE SCHEMA data_share.staging", f"GRANT OWNERSHIP ON SCHEMA data_share.staging TO {LOADER}"],
        "staging schema",
        "The schema STAGING does not exist",
    ),
    "no right to create staging tables": (
        ["GRANT OWNERSHIP ON SCHEMA staging TO ROLE accountadmin", f"GRANT USAGE ON SCHEMA staging TO {LOADER}"],
        [f"GRANT OWNERSHIP ON SCHEMA staging TO {LOADER} REVOKE CURRENT GRANTS"],
        "write and read",
        "GRANT USAGE, CREATE TABLE ON SCHEMA staging",
    ),
    "a tag that masks what is staged": (
        [
            "CREATE MASKING POLICY texts AS (val VARCHAR) RETURNS VARCHAR -> '***'",
            "CREATE MASKING POLICY dates AS (val DATE) RETURNS DATE -> NULL",
            "CREATE TAG secret",
            "ALTER TAG secret SET MASKING POLICY texts",
            "ALTER TAG secret SET MASKING POLICY dates",
            "ALTER SCHEMA staging SET TAG secret = 'yes'",
        ],
        [
            "ALTER SCHEMA staging UNSET TAG secret",
            "ALTER TAG secret UNSET MASKING POLICY texts",
            "ALTER TAG secret UNSET MASKING POLICY dates",
            *("DROP TAG secret", "DROP MASKING POLICY texts", "DROP MASKING POLICY dates"),
        ],
        "write and read",
        "reads other values from a table in staging than it wrote, in columns of type VARCHAR, DATE: a masking policy",
    ),
    "a target with a masked column": (
        [
            "CREATE MASKING POLICY places AS (val DOUBLE) RETURNS DOUBLE -> NULL",
            "ALTER TABLE shared_forecasts MODIFY COLUMN latitude SET MASKING POLICY places",
        ],
        ["ALTER TABLE shared_forecasts MODIFY COLUMN latitude UNSET MASKING POLICY", "DROP MASKING POLICY places"],
        "policies",
        "shared_forecasts column LATITUDE has the masking policy DATA_SHARE.PUBLIC.PLACES, which stops each sync",
    ),
    "a target with a row access policy": (
        [
            "CREATE ROW ACCESS POLICY north AS (latitude DOUBLE) RETURNS BOOLEAN -> latitude > 0",
            "ALTER TABLE shared_forecasts ADD ROW ACCESS POLICY north ON (latitude)",
        ],
        ["ALTER TABLE shared_forecasts DROP ROW ACCESS POLICY north", "DROP ROW ACCESS POLICY north"],
        "policies",
        "shared_forecasts has a row access policy, which stops each sync of shared_forecasts.yaml",
    ),
    "no ledger": (
        ["ALTER TABLE sync_history RENAME TO old_history"],
        ["ALTER TABLE old_history RENAME TO sync_history"],
        "ledger tables",
        "Object 'SYNC_HISTORY' does not exist or not authorized",
    ),
    "an old ledger": (
        ["ALTER TABLE sync_history DROP COLUMN requested_by"],
        ["ALTER TABLE sync_history ADD COLUMN requested_by VARCHAR"],
        "ledger tables",
        "sync_history has no column requested_by, which create_ledger.sql has",
    ),
    "an old ledger of an earlier version": (
        [
            "ALTER TABLE sync_history DROP COLUMN requested_by",
            "ALTER TABLE sync_history DROP COLUMN source_choice",
        ],
        [
            "ALTER TABLE sync_history ADD COLUMN requested_by VARCHAR",
            "ALTER TABLE sync_history ADD COLUMN source_choice VARCHAR",
        ],
        "ledger tables",
        "sync_history has no column source_choice, as in an earlier version. Run the DAG set_up_snowflake, which adds",
    ),
    "no target": (
        ["ALTER TABLE city_temperatures RENAME TO old_temperatures"],
        ["ALTER TABLE old_temperatures RENAME TO city_temperatures"],
        "target tables",
        "city_temperatures.yaml",
    ),
    "a target without a required column": (
        ["ALTER TABLE shared_forecasts DROP COLUMN latitude"],
        ["ALTER TABLE shared_forecasts ADD COLUMN latitude DOUBLE"],
        "target tables",
        "shared_forecasts has no column latitude, which required_columns in shared_forecasts.yaml names",
    ),
    "a target with columns that differ only by case": (
        ['ALTER TABLE shared_forecasts ADD COLUMN "latitude" VARCHAR'],
        ['ALTER TABLE shared_forecasts DROP COLUMN "latitude"'],
        "target tables",
        "The columns LATITUDE, latitude of shared_forecasts differ only by case",
    ),
    "a target with a required column in another case": (
        ['ALTER TABLE shared_forecasts RENAME COLUMN latitude TO "Latitude"'],
        ['ALTER TABLE shared_forecasts RENAME COLUMN "Latitude" TO latitude'],
        "target tables",
        """It exists in another case: write it as '"Latitude"' in the dataset file.""",
    ),
    "a target with a column that the dataset does not have": (
        ["ALTER TABLE city_temperatures ADD COLUMN note VARCHAR"],
        ["ALTER TABLE city_temperatures DROP COLUMN note"],
        "target tables",
        "city_temperatures has NOTE, which city_temperatures.yaml does not have",
    ),
    "a target with another type": (
        [
            "ALTER TABLE city_temperatures DROP COLUMN temperature_f",
            "ALTER TABLE city_temperatures ADD COLUMN temperature_f VARCHAR",
        ],
        [
            "ALTER TABLE city_temperatures DROP COLUMN temperature_f",
            "ALTER TABLE city_temperatures ADD COLUMN temperature_f DOUBLE",
        ],
        "target tables",
        "column TEMPERATURE_F is VARCHAR",
    ),
    "no right to write to the ledger": (
        [
            "GRANT OWNERSHIP ON TABLE sync_history TO ROLE accountadmin",
            f"GRANT SELECT, INSERT ON TABLE sync_history TO {LOADER}",
        ],
        [OWN_TARGET.format("sync_history")],
        "rights on the ledger",
        "GRANT DELETE ON TABLE sync_history TO ROLE DATA_SHARE_LOADER",
    ),
    "no right to delete, which replace needs": (
        [
            "GRANT OWNERSHIP ON TABLE shared_forecasts TO ROLE accountadmin",
            f"GRANT SELECT, INSERT ON TABLE shared_forecasts TO {LOADER}",
        ],
        [OWN_TARGET.format("shared_forecasts")],
        "rights on the targets",
        "DELETE on shared_forecasts fails",
    ),
    "no right to update, which merge needs": (
        [
            "GRANT OWNERSHIP ON TABLE city_temperatures TO ROLE accountadmin",
            f"GRANT SELECT, INSERT, DELETE ON TABLE city_temperatures TO {LOADER}",
        ],
        [OWN_TARGET.format("city_temperatures")],
        "rights on the targets",
        "UPDATE on city_temperatures fails",
    ),
    "no right to insert, which append needs": (
        [
            "GRANT OWNERSHIP ON TABLE daily_observations TO ROLE accountadmin",
            f"GRANT SELECT ON TABLE daily_observations TO {LOADER}",
        ],
        [OWN_TARGET.format("daily_observations")],
        "rights on the targets",
        "INSERT on daily_observations fails",
    ),
    "no right to use the warehouse": (
        [f"REVOKE USAGE ON WAREHOUSE load_wh FROM {LOADER}"],
        [f"GRANT USAGE ON WAREHOUSE load_wh TO {LOADER}"],
        "warehouse",
        "GRANT USAGE ON WAREHOUSE LOAD_WH",
    ),
    "no right to use the schema": (
        [f"REVOKE USAGE ON SCHEMA data_share.public FROM {LOADER}"],
        [f"GRANT USAGE ON SCHEMA data_share.public TO {LOADER}"],
        "database and schema",
        "GRANT USAGE ON SCHEMA PUBLIC",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_an_account_that_is_broken(look: Look, administer: Callable[..., object], what: str) -> None:
    broken, fixed, check, words = BROKEN[what]
    administer(*broken)
    try:
        examined = look("Snowflake")
    finally:
        administer(*fixed)
    assert words in examined.only_wrong(check)


def test_a_ledger_of_an_earlier_version_is_no_failure(look: Look, administer: Callable[..., object]) -> None:
    """Syncs work with it, so what depends on it is checked as well."""
    loader = Share().snowflake_conn_id
    administer("ALTER TABLE sync_history DROP COLUMN source_choice", conn_id=loader)
    try:
        examined = look("Snowflake")
    finally:
        administer("ALTER TABLE sync_history ADD COLUMN source_choice VARCHAR", conn_id=loader)
    assert examined.named(State.ADVICE) == ["ledger tables"]
    assert (examined.named(State.WRONG), examined.named(State.UNKNOWN)) == ([], [])
    assert examined.findings["ledger tables"].text == (
        "sync_history has no column source_choice, as in an earlier version. Run the DAG set_up_snowflake, which adds "
        "it; until then, syncs do not record it."
    )


def test_an_integration_that_the_role_may_not_use(look: Look, administer: Callable[..., object]) -> None:
    administer(f"REVOKE USAGE ON INTEGRATION s3_share_int FROM {LOADER}")
    try:
        examined = look("Snowflake")
    finally:
        administer(f"GRANT USAGE ON INTEGRATION s3_share_int TO {LOADER}")
    said = examined.only_wrong("storage integration")
    assert "Integration 'S3_SHARE_INT' does not exist or not authorized" in said
    assert "GRANT USAGE ON INTEGRATION s3_share_int TO ROLE DATA_SHARE_LOADER" in said
    # The same fault is told once: LIST would fail for it too.
    assert examined.named(State.UNKNOWN) == ["share"]


def test_a_target_that_cannot_be_refreshed_is_not_wrong(look: Look, administer: Callable[..., object]) -> None:
    table = "daily_observations"
    administer(
        f"GRANT OWNERSHIP ON TABLE {table} TO ROLE accountadmin", f"GRANT SELECT, INSERT ON TABLE {table} TO {LOADER}"
    )
    try:
        examined = look("Snowflake")
    finally:
        administer(OWN_TARGET.format(table))
    assert (examined.named(State.WRONG), examined.named(State.ADVICE)) == ([], ["rights on the targets"])
    assert "full_refresh would fail for daily_observations" in examined.findings["rights on the targets"].text


def test_one_table_under_two_names(look: Look, tmp_path: Path) -> None:
    shutil.copytree(share_file().datasets_folder, tmp_path / "datasets")
    known = (share_file().datasets_folder / "shared_forecasts.yaml").read_text()
    other = known.replace("target_table: shared_forecasts", "target_table: public.shared_forecasts")
    (tmp_path / "datasets" / "tides.yaml").write_text(other)
    said = look("Airflow", datasets_folder=tmp_path / "datasets").only_wrong("dataset files")
    assert "shared_forecasts may be the target of tides (public.shared_forecasts) too" in said


def test_a_target_that_another_dataset_publishes_to(look: Look, administer: Callable[..., object]) -> None:
    lock = Share().lock_table("shared_forecasts")
    columns = ("target_database", "target_schema", "target_name", "dataset", "run_key", "export_path", "staged_at")
    administer(
        f"CREATE TABLE {lock} ({', '.join(f'{column} VARCHAR' for column in columns)})",
        f"INSERT INTO {lock} SELECT 'DATA_SHARE', 'PUBLIC', 'SHARED_FORECASTS', 'of_another_airflow', 'key', '', ''",
        # A target of the same name in another schema is another one.
        f"INSERT INTO {lock} SELECT 'DATA_SHARE', 'ELSEWHERE', 'SHARED_FORECASTS', 'elsewhere', 'key', '', ''",
        conn_id="snowflake_default",
    )
    try:
        said = look("Snowflake").only_wrong("target tables")
        assert "data_share.public.shared_forecasts is the target of the dataset of_another_airflow" in said
        administer(said[said.index("UPDATE ") : said.index(";")], conn_id="snowflake_default")
        assert look("Snowflake").named(State.WRONG) == []
    finally:
        administer(f"DROP TABLE {lock}", conn_id="snowflake_default")


def test_a_lock_that_cannot_be_read_is_wrong(look: Look, administer: Callable[..., object]) -> None:
    lock = Share().lock_table("shared_forecasts")
    administer(f"CREATE TABLE {lock} (something_else VARCHAR)", conn_id="snowflake_default")
    try:
        assert "The lock of shared_forecasts: Snowflake: " in look("Snowflake").only_wrong("target tables")
    finally:
        administer(f"DROP TABLE {lock}", conn_id="snowflake_default")


def test_policies_that_exempt_the_loader(look: Look, administer: Callable[..., object], tmp_path: Path) -> None:
    shutil.copytree(share_file().datasets_folder, tmp_path / "datasets")
    file = tmp_path / "datasets" / "shared_forecasts.yaml"
    file.write_text(f"{file.read_text()}policies: exempt\n")
    administer(
        "CREATE MASKING POLICY texts AS (val VARCHAR) RETURNS VARCHAR -> "
        "CASE WHEN IS_ROLE_IN_SESSION('DATA_SHARE_LOADER') THEN val END",
        "CREATE MASKING POLICY places AS (val DOUBLE) RETURNS DOUBLE -> "
        "CASE WHEN IS_ROLE_IN_SESSION('DATA_SHARE_LOADER') THEN val END",
        "ALTER TABLE shared_forecasts MODIFY COLUMN latitude SET MASKING POLICY places",
        "CREATE TAG secret",
        "ALTER TAG secret SET MASKING POLICY texts",
        "ALTER DATABASE data_share SET TAG secret = 'yes'",
    )
    try:
        examined = look("Snowflake", datasets_folder=tmp_path / "datasets")
    finally:
        administer(
            "ALTER DATABASE data_share UNSET TAG secret",
            "ALTER TABLE shared_forecasts MODIFY COLUMN latitude UNSET MASKING POLICY",
            "ALTER TAG secret UNSET MASKING POLICY texts",
            *("DROP TAG secret", "DROP MASKING POLICY texts", "DROP MASKING POLICY places"),
        )
    assert examined.named(State.WRONG) == [], examined.told()
    said = examined.findings["policies"].text
    assert "Exempt according to the dataset files, which each sync proves: shared_forecasts column LATITUDE has" in said


def test_a_bucket_that_snowflake_cannot_list(look: Look, administer: Callable[..., object]) -> None:
    nowhere = "s3://no-such-bucket/dataset/"
    administer(
        INTEGRATION.format("s3_share_int", nowhere),
        f"GRANT USAGE ON INTEGRATION s3_share_int TO {LOADER}",
        "DROP STAGE s3_share_stage",
        STAGE.format(nowhere, "s3_share_int"),
        OWN_STAGE,
    )
    try:
        examined = look("Snowflake", share=Share(url=nowhere))
    finally:
        administer(
            INTEGRATION.format("s3_share_int", Share().url),
            f"GRANT USAGE ON INTEGRATION s3_share_int TO {LOADER}",
            *MEND_STAGE,
        )
    said = examined.only_wrong("share")
    assert "Failure using stage area" in said
    assert "docs/aws.md" in said


def test_all_is_mended(look: Look) -> None:
    assert look("Snowflake").named(State.WRONG) == []


# ---- what people see


def test_the_list_ends_with_1_if_something_is_wrong(
    look: Look, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.main() == 0
    assert f"{len(CHECKS)} ok, 0 wrong" in capsys.readouterr().out
    monkeypatch.delenv(VARIABLE)
    assert doctor.main() == 1
    shown = capsys.readouterr().out
    assert f"wrong        job id (Variable {Share().export_job_variable}): The Airflow Variable" in shown
    assert "not checked  job (jobs/get): because a check before it did not pass: job id." in shown
    assert TOKEN not in shown


def test_the_findings_for_programs(
    look: Look, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def chatty(_: object) -> Answer:
        sys.stdout.write("a line of some library\n")
        return Answer(State.WRONG, "It is wrong.")

    checks = (
        *CHECKS[:2],
        Check("Databricks", "chatty", "a library", chatty),
        Check("Databricks", "next", "the same", chatty, needs=("chatty",)),
    )
    monkeypatch.setattr(run, "CHECKS", checks)
    assert doctor.main(["--json"]) == 1
    shown = capsys.readouterr()
    answer = json.loads(shown.out)
    assert shown.err == "a line of some library\n"
    assert set(answer) == {"ok", "counts", "findings"}
    assert (answer["ok"], answer["counts"]) == (False, {"ok": 2, "wrong": 1, "advice": 0, "not checked": 1})
    assert answer["findings"][2] == {
        "share": "default",
        "group": "Databricks",
        "name": "chatty",
        "looked_at": "a library",
        "state": "wrong",
        "text": "It is wrong.",
    }
    monkeypatch.setattr(run, "CHECKS", checks[:2])
    assert doctor.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_a_share_file_with_an_error_is_the_one_finding(
    look: Look, deploy: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    deploy(STAGE="a; DROP TABLE b", URLL="s3://b/")
    assert doctor.main() == 1
    shown = capsys.readouterr().out
    assert "wrong        share file (include/share.yaml): include/share.yaml does not describe a deployment: " in shown
    assert "DATA_SHARE_URLL is set in the environment, but urll is no field; did you mean url?" in shown
    assert "1 wrong" in shown


def test_each_share_is_checked_and_airflow_once(
    look: Look, deploy: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).resolve().parents[3] / "include" / "share.yaml").read_text()
    folders = f"datasets_folder: {share_file().datasets_folder}\nsql_folder: {share_file().sql_folder}\n"
    further = "shares:\n  emea:\n    url: s3://acme-emea/out/\n    snowflake_conn_id: snowflake_emea\n"
    (tmp_path / "share.yaml").write_text(text + folders + further)
    deploy(tmp_path / "share.yaml", LEDGER_TABLE="sync_history")
    assert doctor.main(["--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    counted = [(finding["share"], finding["group"], finding["name"]) for finding in answer["findings"]]
    own = [check for check in CHECKS if check.group != "Airflow"]
    assert counted == [("default", check.group, check.name) for check in CHECKS] + [
        ("emea", check.group, check.name) for check in own
    ]
    [shares] = [finding["text"] for finding in answer["findings"] if "default, emea in " in finding["text"]]
    assert "from the environment: DATA_SHARE_LEDGER_TABLE." in shares
    wrong = [(finding["share"], finding["text"]) for finding in answer["findings"] if finding["state"] == "wrong"]
    assert [share for share, _ in wrong] == ["emea"]
    assert "The Airflow connection snowflake_emea does not exist." in wrong[0][1]


class Pushed(dict[str, Any]):
    """A task instance that keeps its XComs."""

    dag_id = "doctor"

    def xcom_push(self, key: str, value: Any) -> None:
        self[key] = value


def test_the_task_returns_its_findings_or_fails_with_the_sentences(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    ti, gauge = Pushed(), mock.Mock()
    monkeypatch.setattr(stats, "gauge", gauge)
    task = DoctorOperator(task_id="check", group="Databricks", share=Share())
    findings = task.execute({"ti": ti})  # type: ignore[typeddict-item]
    assert {finding["state"] for finding in findings} == {"ok"}
    assert {finding["group"] for finding in findings} == {"Databricks"}
    assert not ti
    monkeypatch.setenv(VARIABLE, "4711")
    with pytest.raises(ShareIsBrokenError, match=r"1 of 9 checks of Databricks failed\.\n- job: .*4711 does not exist"):
        DoctorOperator(task_id="check_again", group="Databricks", share=Share()).execute({"ti": ti})  # type: ignore[typeddict-item]
    assert json.loads(json.dumps(ti["findings"]))[-1]["state"] == "not checked"
    tags = {"dag_id": "doctor", "system": "Databricks"}
    told = [mock.call("data_share.doctor_problems", count, tags=tags) for count in (0, 1)]
    assert gauge.call_args_list == told, "what is right is told too, as it ends an alert"


# ---- types of the last exports, and targets that the first sync creates


def folder_with(tmp_path: Path, **changes: Any) -> Path:
    content = {
        "description": "Made by a test.",
        "source_table": "main.sea.tides",
        "target_table": "typed",
        "load_mode": "replace",
        "required_columns": ["harbour"],
        **changes,
    }
    (tmp_path / "typed.yaml").write_text(json.dumps(content))
    return tmp_path


def test_a_target_that_would_not_keep_the_values_of_the_last_export(
    look: Look, administer: Callable[..., object], tmp_path: Path
) -> None:
    schema = '[{"name":"harbour","type":"string"},{"name":"price","type":"decimal(12,2)"}]'
    old = "struct<harbour:string,price:int>"
    row = (
        "INSERT INTO export_manifests "
        "(run_key, dataset, source_table, row_count, file_count, column_types, exported_at) "
        "SELECT 'key{0}', 'typed', 't', 1, 1, '{1}', SYSDATE() - INTERVAL '{0} day'"
    )
    run = functools.partial(administer, conn_id="snowflake_default")
    run("CREATE TABLE typed (harbour VARCHAR(9), price NUMBER)", row.format(1, schema), row.format(2, old))
    try:
        found = look("Snowflake", datasets_folder=folder_with(tmp_path)).findings["column types"]
        assert found.state is State.WRONG
        assert "PRICE: decimal(12,2) into NUMBER(38,0), where digits after the point are rounded away." in found.text
        assert "casts of typed.yaml" in found.text
        found = look("Snowflake", datasets_folder=folder_with(tmp_path, casts=["price"])).findings["column types"]
        assert (found.state, "typed" in found.text) == (State.OK, True)
    finally:
        run("DROP TABLE typed", "DELETE FROM export_manifests WHERE dataset = 'typed'")


def test_the_right_to_create_a_target_from_the_source(
    look: Look, administer: Callable[..., object], tmp_path: Path
) -> None:
    folder = folder_with(tmp_path, create_table="from_source")
    found = look("Snowflake", datasets_folder=folder).findings
    assert (found["target tables"].state, found["rights on the targets"].state) == (State.OK, State.OK)
    assert "The first sync creates typed." in found["target tables"].text
    administer("REVOKE CREATE TABLE ON SCHEMA data_share.public FROM ROLE data_share_loader")
    try:
        found = look("Snowflake", datasets_folder=folder).findings["rights on the targets"]
        assert found.state is State.WRONG
        assert "GRANT CREATE TABLE ON SCHEMA DATA_SHARE.PUBLIC TO ROLE DATA_SHARE_LOADER" in found.text
    finally:
        administer("GRANT CREATE TABLE ON SCHEMA data_share.public TO ROLE data_share_loader")
