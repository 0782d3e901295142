"""The project in an Airflow that knows nothing of it: its folders in the Airflow home, all settings the defaults."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.settings import PROJECT
from tests.airflow_client import AirflowError
from tests.e2e.home import START_SECONDS, environment, ledger_row, run_airflow, standalone
from tests.e2e.share import DAG_ID, SYNC_SECONDS, TARGET, RunningShare, wait_for
from tests.shipped import left_out

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.deploy]

NOT_DEPLOYED = {".git", ".venv", ".sandbox", ".airflow", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis"}


def copy_folders(home: Path) -> None:
    home.mkdir()
    for name in ("dags", "plugins", "include"):
        shutil.copytree(PROJECT / name, home / name, ignore=left_out)


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
