"""The wheel in an Airflow with folders of its own: a sync as a new user makes one, and nothing else is changed."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

import data_share
from data_share.init import EXAMPLE
from sandbox.settings import PROJECT
from tests.airflow_client import AirflowError
from tests.e2e.home import START_SECONDS, environment, ledger_row, run_airflow, standalone
from tests.e2e.installed import build_wheel, contents, make_environment
from tests.e2e.share import RunningShare, wait_for

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.deploy]

DAG_ID = f"sync_{EXAMPLE}"
DAGS = ["clean_up_share", "doctor", "set_up_snowflake", DAG_ID]
OWN_DAG = """
from airflow.sdk import DAG, task

with DAG("own_dag", schedule=None):
    @task
    def own_task():
        import own_helpers
        return own_helpers.ANSWER

    own_task()
"""
OWN = {
    "dags/own.py": OWN_DAG,
    "dags/.airflowignore": "drafts/\n",
    "dags/drafts/broken.py": "this is no Python; airflow dag\n",
    "plugins/own_helpers.py": "ANSWER = 42\n",
    "plugins/own_plugin.py": "from airflow.plugins_manager import AirflowPlugin\n"
    "class Own(AirflowPlugin):\n    name = 'own'\n",
    "include/datasets/of_a_dag_factory.yaml": "dag: own\n",
    "include/sql/snowflake/publish.sql": "SELECT 'of others'\n",
    "requirements.txt": "# own\n",
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment in which nothing but the wheel was asked for, with the locked versions."""
    folder = tmp_path_factory.mktemp("installed")
    return make_environment(folder / "env", build_wheel(folder), "--constraint", PROJECT / "requirements.lock")


def initialise(programs: Path, home: Path, share: RunningShare) -> str:
    """Run `data-share init` in a home."""
    done = subprocess.run(
        [programs / "data-share", "init"],
        cwd=home,
        env=environment(home, share, programs),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def lay_out(home: Path, files: dict[str, str]) -> dict[str, bytes | None]:
    """Write a project's own files; return all that is there."""
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    return dict(contents(home))


def changed(home: Path, before: dict[str, bytes | None]) -> list[str]:
    """Return what is not as it was."""
    after = dict(contents(home))
    return [name for name, content in before.items() if after.get(name, "gone") != content]


def page(airflow: Any, path: str) -> httpx.Response:
    """Ask the api-server for a file of the page, without signing in."""
    return httpx.get(f"{airflow.url}{path}", timeout=30)


def test_an_existing_airflow_gets_syncs_and_keeps_what_it_has(
    share: RunningShare, programs: Path, tmp_path: Path
) -> None:
    home = tmp_path / "airflow"
    before = lay_out(home, OWN)
    told = initialise(programs, home, share)
    assert told.count("wrote ") == 8
    # Its folders are not taken for ours.
    assert (home / "include" / "data_share" / "datasets" / f"{EXAMPLE}.yaml").is_file()

    with standalone(home, share, programs) as airflow:

        def are_parsed() -> bool:
            try:
                return all(airflow.ask("GET", f"/dags/{dag_id}") for dag_id in [*DAGS, "own_dag"])
            except AirflowError:
                return False

        wait_for(are_parsed, "all DAGs are parsed", START_SECONDS)
        assert airflow.ask("GET", "/importErrors")["import_errors"] == []
        for dag_id in (DAG_ID, "own_dag"):
            airflow.ask("PATCH", f"/dags/{dag_id}", json={"is_paused": False})
        run_id = airflow.trigger(DAG_ID, run_id="installed", conf={"requested_by": "new user"})
        own_run = airflow.trigger("own_dag", run_id="own")

        run = airflow.wait(DAG_ID, run_id, START_SECONDS)
        assert run["state"] == "success", airflow.failures(DAG_ID, run_id)
        published = airflow.xcom(DAG_ID, run_id, "publish")
        # Its own DAG and helpers work beside it.
        assert airflow.wait("own_dag", own_run, START_SECONDS)["state"] == "success"
        assert airflow.xcom("own_dag", own_run, "own_task") == 42

        # Airflow's UI shows the file of the project as the code of a DAG.
        code = airflow.ask("GET", f"/dagSources/{DAG_ID}")["content"]
        assert code == (home / "dags" / "data_share_sync_datasets.py").read_text()
        plugins = airflow.ask("GET", "/plugins")["plugins"]
        assert [plugin["name"] for plugin in plugins if plugin["name"] in ("data_share", "own")] == [
            "data_share",
            "own",
        ]
        assert airflow.ask("GET", "/plugins/importErrors")["import_errors"] == []
        [plugin] = [plugin for plugin in plugins if plugin["name"] == "data_share"]
        assert plugin["source"].startswith(f"airflow-data-share=={data_share.__version__}: ")
        assert page(airflow, "/data-share/").status_code == 200
        assert page(airflow, "/data-share/version.json").json() == {"version": data_share.__version__}

    row = ledger_row(share, run_id)
    assert row["dataset"] == EXAMPLE
    assert row["rows_loaded"] == row["rows_exported"] == published["rows_in_target"] > 0
    assert published["package_version"] == data_share.__version__
    # Airflow adds its caches and logs; nothing that was there is another.
    assert changed(home, before) == []
    assert initialise(programs, home, share).count("exists, left as it is: ") == 4
    assert changed(home, before) == []


ASTRO = {
    "Dockerfile": "FROM astrocrpublic.azurecr.io/runtime:3.3-1\n",
    "dags/exampledag.py": OWN_DAG,
    "plugins/own_helpers.py": "ANSWER = 42\n",
    "include/.gitkeep": "",
    "requirements.txt": "# Astro Runtime includes the following pre-installed providers packages\n",
    "packages.txt": "",
    "airflow_settings.yaml": "airflow:\n  connections: []\n",
    ".env": "",
    ".astro/config.yaml": "project:\n  name: own\n",
    "tests/dags/test_dag_example.py": "",
}


def test_an_astro_project_gets_syncs_and_keeps_what_it_has(share: RunningShare, programs: Path, tmp_path: Path) -> None:
    # In the image, the folder of the project is the home of Airflow.
    home = tmp_path / "usr" / "local" / "airflow"
    before = lay_out(home, ASTRO)
    told = initialise(programs, home, share)
    assert f"airflow-data-share=={data_share.__version__} to its requirements.txt" in told
    assert "DATA_SHARE_FILE" not in told

    run_airflow(home, share, "db", "migrate", programs=programs)
    errors = run_airflow(home, share, "dags", "list-import-errors", "--local", "--output", "json", programs=programs)
    assert errors.splitlines()[-1] == "[]", errors
    listed = run_airflow(home, share, "dags", "list", "--local", "--output", "json", programs=programs)
    found = json.loads(re.findall(r"^\[\{.*", listed, re.MULTILINE)[-1])
    assert sorted(dag["dag_id"] for dag in found) == sorted([*DAGS, "own_dag"])
    ledger = share.ledger()
    # A failed run is an exit code.
    run_airflow(home, share, "dags", "test", DAG_ID, programs=programs)
    [added] = [row for row in share.ledger() if row not in ledger]
    assert EXAMPLE in added
    assert changed(home, before) == []
