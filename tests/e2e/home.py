"""An Airflow of its own beside the running stack, on the stack's emulators: its settings are the defaults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from data_share.share import Share
from sandbox.settings import HOST, free_ports
from tests.airflow_client import AirflowClient
from tests.e2e.share import RunningShare, wait_for

START_SECONDS = 240
PROGRAMS = Path(sys.executable).parent
"""The programs of the tests' own environment."""


def connections(share: RunningShare) -> dict[str, str]:
    """Return the two connections and the one Variable that a deployment must have."""
    endpoints = share.endpoints
    login = endpoints.as_environment()
    databricks = {
        "conn_type": "databricks",
        "host": HOST,
        "port": int(endpoints.databricks_url.rsplit(":", 1)[1]),
        "schema": "http",
        "password": endpoints.databricks_token,
    }
    options = ("account", "warehouse", "database", "role", "private_key_file", "protocol", "host", "port")
    snowflake = {
        "conn_type": "snowflake",
        "login": login["SNOWFLAKE_USER"],
        "schema": login["SNOWFLAKE_SCHEMA"],
        "extra": {name: login[f"SNOWFLAKE_{name.upper()}"] for name in options},
    }
    return {
        "AIRFLOW_CONN_DATABRICKS_DEFAULT": json.dumps(databricks),
        "AIRFLOW_CONN_SNOWFLAKE_DEFAULT": json.dumps(snowflake),
        f"AIRFLOW_VAR_{Share().export_job_variable.upper()}": share.job_id,
    }


def environment(home: Path, share: RunningShare, programs: Path = PROGRAMS, **settings: str) -> dict[str, str]:
    """
    Return an environment that says nothing of folders: no PYTHONPATH, no setting of the tests' own Airflow.

    :param programs: the folder of ``airflow`` and the other programs
    """
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW") and name != "PYTHONPATH"
    }
    return {
        **kept,
        **connections(share),
        **settings,
        "AIRFLOW_HOME": str(home),
        # Airflow's example DAGs take minutes of processor time, and say nothing of this project.
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PATH": f"{programs}{os.pathsep}{kept.get('PATH', '')}",
        "NO_PROXY": HOST,
        "no_proxy": HOST,
    }


@contextmanager
def standalone(home: Path, share: RunningShare, programs: Path = PROGRAMS) -> Iterator[AirflowClient]:
    """Run `airflow standalone` in a home until the block ends; gives a client of its REST API."""
    # Ports alone are not the defaults: those of a developer's own Airflow stay free.
    api, worker_logs, trigger_logs = free_ports(3)
    log = home / "standalone.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [programs / "airflow", "standalone"],
            cwd=home.parent,
            env=environment(
                home,
                share,
                programs,
                AIRFLOW__API__HOST=HOST,
                AIRFLOW__API__PORT=str(api),
                AIRFLOW__API__BASE_URL=f"http://{HOST}:{api}",
                AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT=str(worker_logs),
                AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT=str(trigger_logs),
            ),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    password_file = home / "simple_auth_manager_passwords.json.generated"

    def is_healthy() -> bool:
        assert process.poll() is None, log.read_text()[-4000:]
        try:
            health = httpx.get(f"http://{HOST}:{api}/api/v2/monitor/health", timeout=10).raise_for_status().json()
        except httpx.HTTPError:
            return False
        return all(health[part]["status"] == "healthy" for part in ("scheduler", "dag_processor", "triggerer"))

    try:
        wait_for(is_healthy, "Airflow is healthy", START_SECONDS)
        client = AirflowClient(f"http://{HOST}:{api}", "admin", json.loads(password_file.read_text())["admin"])
        try:
            yield client
        finally:
            client.close()
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    # It was started as the leader of a session, in which all its descendants are.
    started = [found for found in psutil.process_iter() if session_of(found.pid) == process.pid]
    for found in started:
        with suppress(psutil.NoSuchProcess):
            found.terminate()
    _, alive = psutil.wait_procs(started, timeout=15)
    for found in [*alive, *(left for left in psutil.process_iter() if session_of(left.pid) == process.pid)]:
        with suppress(psutil.NoSuchProcess):
            found.kill()
    process.wait(timeout=10)


def session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def ledger_row(share: RunningShare, run_id: str) -> dict[str, Any]:
    """Return what the ledger says of the sync of a run."""
    columns = ("dataset", "rows_exported", "rows_loaded")
    rows = share.query(f"SELECT {', '.join(columns)} FROM sync_history WHERE dag_run_id = '{run_id}'")
    assert len(rows) == 1
    return dict(zip(columns, rows[0], strict=True))


def run_airflow(home: Path, share: RunningShare, *words: str, programs: Path = PROGRAMS) -> str:
    """Run a command of Airflow that must succeed, and return what it prints."""
    done = subprocess.run(
        [programs / "airflow", *words],
        cwd=home.parent,
        env=environment(home, share, programs),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout
