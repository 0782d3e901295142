"""The project in an Airflow that knows nothing of it: its folders in the Airflow home, all settings the defaults."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from data_share.share import Share
from sandbox.settings import HOST, PROJECT, free_ports
from tests.airflow_client import AirflowClient, AirflowError
from tests.e2e.share import DAG_ID, SYNC_SECONDS, TARGET, RunningShare, wait_for
from tests.shipped import left_out

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.deploy]

START_SECONDS = 240

NOT_DEPLOYED = {".git", ".venv", ".sandbox", ".airflow", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis"}


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


def environment(home: Path, share: RunningShare, **settings: str) -> dict[str, str]:
    """Return an environment that says nothing of folders: no PYTHONPATH, no setting of the tests' own Airflow."""
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
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}",
        "NO_PROXY": HOST,
        "no_proxy": HOST,
    }


@contextmanager
def standalone(home: Path, share: RunningShare) -> Iterator[AirflowClient]:
    """Run `airflow standalone` in a home until the block ends; gives a client of its REST API."""
    # Ports alone are not the defaults: those of a developer's own Airflow stay free.
    api, worker_logs, trigger_logs = free_ports(3)
    log = home / "standalone.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            ["airflow", "standalone"],
            cwd=home.parent,
            env=environment(
                home,
                share,
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


def copy_folders(home: Path) -> None:
    home.mkdir()
    for name in ("dags", "plugins", "include"):
        shutil.copytree(PROJECT / name, home / name, ignore=left_out)


def ledger_row(share: RunningShare, run_id: str) -> dict[str, Any]:
    columns = ("dataset", "rows_exported", "rows_loaded")
    rows = share.query(f"SELECT {', '.join(columns)} FROM sync_history WHERE dag_run_id = '{run_id}'")
    assert len(rows) == 1
    return dict(zip(columns, rows[0], strict=True))


def test_three_folders_in_an_empty_airflow_home_are_a_deployment(share: RunningShare, tmp_path: Path) -> None:
    home = tmp_path / "airflow"
    copy_folders(home)
    assert sorted(path.name for path in home.iterdir()) == ["dags", "include", "plugins"]

    with standalone(home, share) as airflow:

        def is_parsed() -> bool:
            try:
                return bool(airflow.ask("GET", f"/dags/{DAG_ID}"))
            except AirflowError:
                return False

        wait_for(is_parsed, f"{DAG_ID} is parsed", START_SECONDS)
        assert airflow.ask("GET", "/importErrors")["import_errors"] == []
        airflow.ask("PATCH", f"/dags/{DAG_ID}", json={"is_paused": False})

        run_id = airflow.trigger(DAG_ID, run_id="plain-airflow", conf={"requested_by": "plain"})
        run = airflow.wait(DAG_ID, run_id, SYNC_SECONDS)

        assert run["state"] == "success", airflow.failures(DAG_ID, run_id)
        # The trigger came from the plugins folder too: no worker was waited with.
        assert airflow.tasks(DAG_ID, run_id)["wait_for_export"]["state"] == "success"
        published = airflow.xcom(DAG_ID, run_id, "publish")
    assert ledger_row(share, run_id) == {"dataset": TARGET, "rows_exported": 1461, "rows_loaded": 1461}
    assert published["rows_in_target"] == len(share.target())


@pytest.fixture
def astro_project(tmp_path: Path) -> Path:
    """
    Lay the whole project out as the image of Astro Runtime has it: the project's root is the Airflow home.

    Beside it are the files that ``astro dev init`` makes, which are empty for this project.
    """
    home = tmp_path / "usr" / "local" / "airflow"
    shutil.copytree(
        PROJECT, home, ignore=lambda folder, names: NOT_DEPLOYED & {*names} | left_out(folder, names), symlinks=True
    )
    for name in ("packages.txt", "airflow_settings.yaml", ".env", ".dockerignore"):
        (home / name).touch()
    (home / ".astro").mkdir()
    (home / ".astro" / "config.yaml").write_text("project:\n  name: data-share\n")
    return home


def run_airflow(home: Path, share: RunningShare, *words: str) -> str:
    done = subprocess.run(
        ["airflow", *words],
        cwd=home.parent,
        env=environment(home, share),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def test_the_project_is_an_astro_project_as_it_is(share: RunningShare, astro_project: Path) -> None:
    run_airflow(astro_project, share, "db", "migrate")
    errors = run_airflow(astro_project, share, "dags", "list-import-errors", "--local", "--output", "json")
    assert errors.splitlines()[-1] == "[]", errors
    before = share.ledger()

    # A failed run is an exit code.
    run_airflow(astro_project, share, "dags", "test", DAG_ID)

    added = [row for row in share.ledger() if row not in before]
    assert len(added) == 1
    assert TARGET in added[0]
    assert len(share.target()) == 1461


def test_the_local_settings_are_found_in_the_home(share: RunningShare, astro_project: Path) -> None:
    """Airflow looks into `config` of its home, so that what tasks need is imported before the first of them."""
    script = (
        "import sys; sys.argv = ['airflow', 'triggerer']; from airflow import settings; settings.initialize(); "
        "print('data_share.databricks.follow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=astro_project.parent,
        env=environment(astro_project, share),
        stdout=subprocess.PIPE,
        text=True,
        timeout=START_SECONDS,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "True"
