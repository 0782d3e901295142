"""The suite itself: on the stand-ins as if they were real accounts, and that it keeps to its scratch place."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
import s3fs
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from data_share.snowflake_hook import DataShareSnowflakeHook
from sandbox import settings
from sandbox.s3 import s3_filesystem
from sandbox.sources import SHARE_BUCKET, write_source
from tests.live.accounts import (
    SWITCH,
    LiveSettings,
    LiveSettingsError,
    OutsideScratchError,
    Scratch,
    settings_or_failure,
    until,
)

pytestmark = [
    pytest.mark.tier("full"),
    pytest.mark.sandbox,
    pytest.mark.skipif(os.environ.get(SWITCH) == "1", reason="the suite is on its way to real accounts"),
]

PROJECT = Path(__file__).resolve().parents[2]
PREFIX = f"s3://{SHARE_BUCKET}/dataset/scratch/"
TOKEN = "dapi-live"
SERVE = """
import json, os, sys, threading
from pathlib import Path
from sandbox.stand_ins import serve

state, ports, token, key = sys.argv[1:]
# Ends with the tests, also when they are killed.
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
serve(Path(state), json.loads(ports), databricks_token=token, snowflake_public_key=key, places=1)
"""


@dataclass
class StandIns:
    """The stand-ins in a process of their own, and the settings by which the suite takes them for real accounts."""

    environment: dict[str, str]
    files: s3fs.S3FileSystem
    databricks_url: str

    def run_suite(self, tests: str = "tests/live", **settings: str) -> subprocess.CompletedProcess[str]:
        """Run the suite, or a part of it, in a process of its own."""
        options = ["-m", "live", "-q", "-p", "no:cacheprovider", "--tb=short", "--show-capture=no"]
        return subprocess.run(
            [sys.executable, "-m", "pytest", tests, *options],
            cwd=PROJECT,
            env={**self.environment, **settings},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def left(self) -> dict[str, Any]:
        """Return what lies in the accounts: schemas, files of the share, jobs."""
        with pytest.MonkeyPatch.context() as patch:
            connection = {**json.loads(self.environment["DATA_SHARE_LIVE_SNOWFLAKE"]), "schema": "PUBLIC"}
            patch.setenv("AIRFLOW_CONN_SNOWFLAKE_LOOK", json.dumps(connection))
            sql = "SELECT schema_name AS name FROM information_schema.schemata"
            rows = DataShareSnowflakeHook("snowflake_look").run_statement(sql).rows
        jobs = httpx.get(
            f"{self.databricks_url}/api/2.2/jobs/list", headers={"Authorization": f"Bearer {TOKEN}"}
        ).json()["jobs"]
        return {
            "schemas": sorted(row["NAME"] for row in rows),
            "files": sorted(self.files.find(f"{SHARE_BUCKET}/dataset")),
            "jobs": sorted(job["settings"]["name"] for job in jobs),
        }


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIns]:
    """The stand-ins, with the table that each real workspace has."""
    ports = _free_ports("s3", "databricks", "snowflake")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    state = tmp_path_factory.mktemp("live")
    arguments = [str(state), json.dumps(ports), TOKEN, public]
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, *arguments], cwd=PROJECT, stdin=subprocess.PIPE, text=True
    ) as process:
        try:
            for name in ("databricks", "snowflake"):
                until(lambda url=f"http://127.0.0.1:{ports[name]}/healthz": _answers(url), seconds=60)  # type: ignore[misc]
            s3_url = f"http://127.0.0.1:{ports['s3']}"
            moment = datetime(2016, 2, 14, 16, 52, 13)
            ride = {
                "tpep_pickup_datetime": [moment] * 3,
                "tpep_dropoff_datetime": [moment] * 3,
                "trip_distance": [4.94, 0.28, 1.0],
                "fare_amount": [19.0, 3.5, 7.0],
                "pickup_zip": pa.array([10282, 10110, 10001], pa.int32()),
                "dropoff_zip": pa.array([10171, 10110, 10002], pa.int32()),
            }
            write_source(s3_url, "samples.nyctaxi.trips", pa.table(ride))
            files = s3_filesystem(s3_url)
            files.pipe_file(f"{PREFIX.removeprefix('s3://')}somebody_elses.parquet", b"not ours")
            databricks_url = f"http://127.0.0.1:{ports['databricks']}"
            # As the real one: an export is not over before somebody can cancel it.
            order = {"json": {"seconds": 1}, "headers": {"Authorization": f"Bearer {TOKEN}"}, "timeout": 30}
            httpx.post(f"{databricks_url}/_sandbox/delay", **order).raise_for_status()
            yield StandIns(_environment(ports, key, databricks_url), files, databricks_url)
        finally:
            process.kill()


def _environment(ports: dict[str, int], key: rsa.RSAPrivateKey, databricks_url: str) -> dict[str, str]:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    snowflake = {
        "conn_type": "snowflake",
        "login": settings.SNOWFLAKE_USER,
        "extra": {
            "account": settings.SNOWFLAKE_ACCOUNT,
            "host": "127.0.0.1",
            "port": ports["snowflake"],
            "protocol": "http",
            "database": settings.SNOWFLAKE_DATABASE,
            "warehouse": settings.SNOWFLAKE_WAREHOUSE,
            "role": settings.SNOWFLAKE_ROLE,
            "private_key_content": private,
        },
    }
    databricks = {
        "conn_type": "databricks",
        "host": "127.0.0.1",
        "port": ports["databricks"],
        "schema": "http",
        "password": TOKEN,
    }
    jobs = httpx.get(f"{databricks_url}/api/2.2/jobs/list", headers={"Authorization": f"Bearer {TOKEN}"}).json()
    return {
        **os.environ,
        SWITCH: "1",
        "DATA_SHARE_LIVE_SNOWFLAKE": json.dumps(snowflake),
        "DATA_SHARE_LIVE_DATABRICKS": json.dumps(databricks),
        "DATA_SHARE_LIVE_JOB_ID": str(jobs["jobs"][0]["job_id"]),
        "DATA_SHARE_LIVE_S3_PREFIX": PREFIX,
        "DATA_SHARE_LIVE_STORAGE_INTEGRATION": "S3_SHARE_INT",
        "DATA_SHARE_LIVE_S3_ENDPOINT": f"http://127.0.0.1:{ports['s3']}",
        "AWS_ACCESS_KEY_ID": "live",
        "AWS_SECRET_ACCESS_KEY": "live",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def _free_ports(*names: str) -> dict[str, int]:
    with contextlib.ExitStack() as held:
        # All held at once: one that is given back could be given again.
        probes = {name: held.enter_context(socket.socket()) for name in names}
        for probe in probes.values():
            probe.bind(("127.0.0.1", 0))
        return {name: int(probe.getsockname()[1]) for name, probe in probes.items()}


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


# ---- the whole suite, in processes of its own


def test_the_suite_passes_on_the_stand_ins_and_leaves_nothing(stand_ins: StandIns) -> None:
    before = stand_ins.left()
    done = stand_ins.run_suite()
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 20
    assert "skipped" not in done.stdout
    assert stand_ins.left() == before


def test_the_suite_leaves_nothing_when_it_fails(stand_ins: StandIns, tmp_path: Path) -> None:
    before = stand_ins.left()
    broken = tmp_path / "broken.yaml"
    dataset = (PROJECT / "tests" / "live" / "nyctaxi_trips.yaml").read_text()
    broken.write_text(dataset.replace("trip_distance >= 0", "trip_distance > 1000"))
    done = stand_ins.run_suite("tests/live/test_full_sync.py", DATA_SHARE_LIVE_DATASET=str(broken))
    assert done.returncode == 1
    assert "distance_not_negative: trip_distance > 1000" in done.stdout, done.stdout[-5000:]
    assert stand_ins.left() == before


# ---- its settings and its limits


def live_settings(**changed: str) -> LiveSettings:
    given = {
        "DATA_SHARE_LIVE_SNOWFLAKE": "{}",
        "DATA_SHARE_LIVE_DATABRICKS": "{}",
        "DATA_SHARE_LIVE_JOB_ID": "7",
        "DATA_SHARE_LIVE_S3_PREFIX": "s3://bucket/scratch/",
        "DATA_SHARE_LIVE_STORAGE_INTEGRATION": "integration",
    }
    return LiveSettings.read({**given, **changed})


@pytest.fixture
def scratch() -> Scratch:
    return Scratch(live_settings(), name="data_share_live_x", job_id=8)


def test_everything_that_is_missing_is_named_at_once() -> None:
    with pytest.raises(LiveSettingsError) as caught:
        LiveSettings.read({})
    for name in ("SNOWFLAKE", "DATABRICKS", "JOB_ID", "S3_PREFIX", "STORAGE_INTEGRATION"):
        assert f"DATA_SHARE_LIVE_{name} (" in str(caught.value)


def test_a_missing_setting_fails_the_suite_instead_of_skipping_it() -> None:
    with pytest.raises(pytest.fail.Exception) as caught:
        settings_or_failure({"DATA_SHARE_LIVE_JOB_ID": "7"})
    assert "DATA_SHARE_LIVE=1, but these are not set: DATA_SHARE_LIVE_SNOWFLAKE (an Airflow conn" in str(caught.value)


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
    with pytest.raises(LiveSettingsError, match="not JSON, or the job id no number"):
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
