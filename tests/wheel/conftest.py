"""The wheel, built once from a copy of the project, and unpacked into a folder as an installer does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.shipped import PROJECT

IN_THE_BUILD = ("plugins", "dags", "include", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", ".gitignore")
# Of those who run the project: none of it may leave with a wheel.
OF_A_COMPANY = ("include/datasets/payroll.yaml", "include/sql/snowflake/targets/payroll.sql", "include/.env")


def build(project: Path, kind: str, into: Path) -> Path:
    """Build the wheel or the sdist of a project, with the build's own program and without a network."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(into)]
    subprocess.run(command, cwd=project, check=True, capture_output=True, timeout=60)
    [built] = into.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a project in which a company has files of its own."""
    project = tmp_path_factory.mktemp("project")
    for name in IN_THE_BUILD:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, project / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, project)
    for name in OF_A_COMPANY:
        (project / name).write_text("secret: true\n")
    return build(project, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH, in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def wheel_of_sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from the sdist."""
    sdist = build(PROJECT, "sdist", tmp_path_factory.mktemp("sdist"))
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    [project] = folder.iterdir()
    return build(project, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An Airflow home with DAGs, plugins and include of its own."""
    folder = tmp_path / "airflow"
    for name, text in {
        "dags/own.py": "from airflow.sdk import DAG\nwith DAG('own'):\n    pass\n",
        "plugins/own.py": "from airflow.plugins_manager import AirflowPlugin\n"
        "class Own(AirflowPlugin):\n    name = 'own'\n",
        "include/sql/own.sql": "SELECT 1\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


Ask = Callable[..., Any]


@pytest.fixture
def ask(home: Path, site: Path) -> Ask:
    """Run a script in a process with the wheel and the home; returns the JSON in the last line that it prints."""

    def run(script: str, *arguments: str, path: tuple[Path, ...] = (site,), **variables: str) -> Any:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "DATA_SHARE"))}
        environment = {
            **kept,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            **variables,
        }
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1]) | {"log": done.stdout + done.stderr}

    return run
