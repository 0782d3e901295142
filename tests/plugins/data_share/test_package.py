"""Where the package finds its own files, in a checkout and in a wheel; which version it is, and what it needs."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import data_share
from data_share import airflow_version, package

PROJECT = Path(__file__).resolve().parents[3]
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())

# What a dependency is imported as, where its name says something else.
IMPORTED_AS = {"pyyaml": "yaml", "apache-airflow": "airflow", "openlineage-python": "openlineage"}
WHERE = "from data_share.package import *; print(IS_INSTALLED, INCLUDE, DAGS, PROJECT, sep='\\n')"


def where(packages: Path, home: str) -> list[str]:
    """Return what a copy of the package says of its places."""
    environment = {"PYTHONPATH": str(packages), "AIRFLOW_HOME": home, "HOME": "/home/ada"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", WHERE], env=environment, capture_output=True, text=True, check=True, cwd="/"
    )
    return done.stdout.splitlines()


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of the package with the folders that a wheel has in it."""
    copy = tmp_path / "site" / "data_share"
    copy.mkdir(parents=True)
    for name in ("__init__.py", "package.py"):
        shutil.copy(PROJECT / "plugins" / "data_share" / name, copy)
    (copy / "include").mkdir()
    return copy


def test_a_checkout_has_its_folders_beside_the_plugins() -> None:
    places = [str(path) for path in (PROJECT / "include", PROJECT / "dags", PROJECT)]
    assert where(PROJECT / "plugins", "/elsewhere") == ["False", *places]


def test_a_wheel_has_its_folders_in_it_and_the_deployment_is_the_home_of_airflow(installed: Path) -> None:
    inside = [str(installed / "include"), str(installed / "dags")]
    assert where(installed.parent, "/opt/airflow") == ["True", *inside, "/opt/airflow"]
    assert where(installed.parent, "") == ["True", *inside, "/home/ada/airflow"]
    assert where(installed.parent, "~/own") == ["True", *inside, "/home/ada/own"]


def test_nothing_else_looks_for_the_files_of_the_package() -> None:
    found = [
        str(path.relative_to(PROJECT)) for path in (PROJECT / "plugins").rglob("*.py") if "__file__" in path.read_text()
    ]
    # The plugin's page lies in the package, in a checkout too; the other two say which copy of the package is used.
    assert sorted(found) == [
        "plugins/data_share/doctor/airflow.py",
        "plugins/data_share/package.py",
        "plugins/data_share/plugin.py",
        "plugins/data_share_plugin.py",
    ]
    assert Path(package.__file__).parent == PROJECT / "plugins" / "data_share"


# ---- version and dependencies


def test_the_version_stands_in_one_place() -> None:
    assert "version" not in PYPROJECT["project"]
    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == "plugins/data_share/__init__.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+", data_share.__version__)


def test_what_the_package_imports_is_declared_and_nothing_else() -> None:
    declared_by = PYPROJECT["project"]
    declared = {
        IMPORTED_AS.get(name, name)
        for name in (
            re.split("[<>=]", each)[0]
            # The other extra is a package that Airflow imports.
            for each in (*declared_by["dependencies"], *declared_by["optional-dependencies"]["openlineage"])
        )
    }
    imported: set[str] = set()
    for path in [*(PROJECT / "plugins" / "data_share").rglob("*.py"), *(PROJECT / "dags").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in names:
                provider = re.match(r"airflow\.providers\.(\w+)", name)
                imported.add(f"apache-airflow-providers-{provider[1]}" if provider else name.split(".")[0])
    assert imported - sys.stdlib_module_names - {"data_share"} == declared


def test_what_a_checkout_is_locked_to_lies_in_the_ranges_of_the_wheel() -> None:
    locked = dict(re.findall(r"^([\w-]+)==(\S+)", (PROJECT / "requirements.lock").read_text(), re.MULTILINE))
    for each in map(Requirement, PYPROJECT["project"]["dependencies"]):
        assert locked[each.name] in each.specifier, each


def test_the_build_is_pinned_to_the_locked_version() -> None:
    [backend] = PYPROJECT["build-system"]["requires"]
    assert backend in (PROJECT / "requirements.lock").read_text().splitlines()
    assert backend in (PROJECT / "requirements-dev.txt").read_text().splitlines()


# ---- an older Airflow


def test_the_oldest_airflow_is_that_of_the_metadata() -> None:
    oldest = ".".join(map(str, airflow_version.OLDEST_AIRFLOW))
    assert f"apache-airflow>={oldest},<4" in PYPROJECT["project"]["dependencies"]


@pytest.mark.parametrize("version", ["1.10.15", "2.11.0", "3.0.6", "3.2.2", "3.2.0+astro.4", "3.2.0rc1"])
def test_an_older_airflow_is_told_in_words(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr("airflow.__version__", version)
    with pytest.raises(airflow_version.AirflowTooOldError, match=r"needs Airflow 3\.3 or a later 3\.x") as caught:
        airflow_version.require_airflow()
    assert f"this is Airflow {version}." in str(caught.value)


@pytest.mark.parametrize("version", ["3.3.0", "3.3.2+astro.1", "3.10.0", "3.4.0b1", "4.0.0"])
def test_a_later_airflow_is_let_be(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr("airflow.__version__", version)
    airflow_version.require_airflow()


# An Airflow that has its version and nothing else.
OLD_AIRFLOW = "__version__ = '3.2.2'\n"
ASK = {
    "a DAG file": "from data_share.wiring import dags_of; dags_of('doctor')",
    "the plugin of a wheel": "import data_share.entry_point",
    "the plugin of a checkout": "import data_share_plugin",
}


@pytest.mark.parametrize("asked", ASK)
def test_an_older_airflow_is_told_before_anything_else_is_imported(asked: str, tmp_path: Path) -> None:
    (tmp_path / "airflow").mkdir()
    (tmp_path / "airflow" / "__init__.py").write_text(OLD_AIRFLOW)
    path = f"{tmp_path}:{PROJECT / 'plugins'}"
    # -S: without site-packages, so that any other import would fail in another way.
    done = subprocess.run(
        [sys.executable, "-S", "-c", ASK[asked]], env={"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1].startswith(
        "data_share.airflow_version.AirflowTooOldError: data_share "
        f"{data_share.__version__} needs Airflow 3.3 or a later 3.x, and this is Airflow 3.2.2."
    )
