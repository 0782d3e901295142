"""The wheel: what is in it, that Airflow finds its plugin once, and that its DAGs are those of a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest

import data_share
from data_share.init import EXAMPLE
from tests.shipped import PROJECT, left_out
from tests.wheel.conftest import OF_A_COMPANY, Ask

pytestmark = pytest.mark.tier("full")

DIST_INFO = f"airflow_data_share-{data_share.__version__}.dist-info/"
# Folder in the wheel -> folder of the repository.
FOLDERS = {"data_share/dags/": "dags/", "data_share/include/": "include/", "data_share/": "plugins/data_share/"}


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# ---- what is in it


def test_each_file_is_that_of_the_repository(wheel: Path) -> None:
    files = {name: content for name, content in contents(wheel).items() if not name.startswith(DIST_INFO)}
    for name, content in files.items():
        inside = next(inside for inside in FOLDERS if name.startswith(inside))
        assert content == (PROJECT / FOLDERS[inside] / name.removeprefix(inside)).read_bytes(), name


def test_all_of_the_package_is_in_it_and_nothing_of_a_deployment(wheel: Path) -> None:
    found = set(contents(wheel))
    wanted = {
        name.removeprefix("plugins/") if name.startswith("plugins/") else f"data_share/{name}"
        for name in (
            str(path.relative_to(PROJECT))
            for folder in ("plugins/data_share", "dags", "include")
            for path in (PROJECT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        )
        # The targets of this deployment, its other datasets, and the settings of the linter.
        if "/targets/" not in name
        and "/." not in name
        and (not name.startswith("include/datasets/") or name.endswith((f"/{EXAMPLE}.yaml", ".json")))
    }
    assert {name for name in found if not name.startswith(DIST_INFO)} == wanted
    assert not [name for name in found for company in OF_A_COMPANY if name.endswith(Path(company).name)]


def test_the_sdist_gives_the_same_wheel(wheel: Path, wheel_of_sdist: Path) -> None:
    assert contents(wheel_of_sdist) == contents(wheel)


def test_the_command_and_the_plugin_are_named(wheel: Path) -> None:
    names = ConfigParser()
    names.read_string(contents(wheel)[f"{DIST_INFO}entry_points.txt"].decode())
    assert {section: dict(names[section]) for section in names.sections()} == {
        "console_scripts": {"data-share": "data_share.__main__:main"},
        "airflow.plugins": {"data_share": "data_share.entry_point:PLUGIN"},
    }


# ---- the plugin

# The api-server takes seconds to make.
PROCESSES = [pytest.param("core", marks=pytest.mark.tier("nightly")), "task"]
PLUGINS = """
import json, sys
core = sys.argv[1] == "core"
if core:
    from airflow import plugins_manager
    from airflow.api_fastapi.app import create_app
    app = create_app()
    apps = [route.path for route in app.routes if getattr(route, "path", "").startswith("/data-share")]
    views = [view["name"] for view in plugins_manager._get_ui_plugins()[0] if view["name"] == "Data shares"]
else:  # as the process of a task
    from airflow.sdk import plugins_manager
    apps = views = None
plugins, errors = plugins_manager._get_plugins()
own = [plugin for plugin in plugins if plugin.name == "data_share"]
import data_share
print(json.dumps({
    "names": sorted(plugin.name for plugin in plugins if plugin.name in ("own", "data_share")),
    "sources": [str(plugin.source) for plugin in own],
    "listeners": [module.__name__ for plugin in own for module in plugin.listeners],
    "used": data_share.__file__, "errors": errors, "apps": apps, "views": views,
}))
"""


@pytest.fixture
def checkout_too(home: Path) -> Path:
    """The plugins folder of a checkout, in the home too."""
    shutil.copytree(PROJECT / "plugins", home / "plugins", ignore=left_out, dirs_exist_ok=True)
    return home / "plugins"


@pytest.mark.parametrize("process", PROCESSES)
def test_the_wheel_alone_registers_the_plugin(ask: Ask, site: Path, process: str) -> None:
    told = ask(PLUGINS, process)
    assert (told["names"], told["errors"]) == (["data_share", "own"], {})
    assert told["sources"][0].startswith(f"airflow-data-share=={data_share.__version__}: ")
    assert told["used"] == str(site / "data_share" / "__init__.py")
    if process == "core":
        assert (told["apps"], told["views"]) == (["/data-share"], ["Data shares"])


@pytest.mark.parametrize("process", PROCESSES)
def test_with_a_checkout_the_wheel_is_used_and_the_plugin_is_registered_once(
    ask: Ask, site: Path, checkout_too: Path, process: str
) -> None:
    told = ask(PLUGINS, process)
    assert (told["names"], told["errors"]) == (["data_share", "own"], {})
    assert told["sources"][0].startswith("airflow-data-share==")
    assert told["used"] == str(site / "data_share" / "__init__.py")
    assert len(told["listeners"]) == 3
    said = f"version {data_share.__version__} in {site / 'data_share'} is used, the copy in {checkout_too} is not"
    assert said in told["log"]
    if process == "core":
        assert (told["apps"], told["views"]) == (["/data-share"], ["Data shares"])


@pytest.mark.parametrize("process", PROCESSES)
def test_a_checkout_that_comes_first_is_used_and_registered_once(
    ask: Ask, site: Path, checkout_too: Path, process: str
) -> None:
    told = ask(PLUGINS, process, path=(checkout_too, site))
    assert (told["names"], told["errors"]) == (["data_share", "own"], {})
    assert told["sources"] == ["$PLUGINS_FOLDER/data_share_plugin.py"]
    assert told["used"] == str(checkout_too / "data_share" / "__init__.py")
    assert "the installed airflow-data-share is not. Remove one." in told["log"]
    if process == "core":
        assert (told["apps"], told["views"]) == (["/data-share"], ["Data shares"])


@pytest.mark.tier("nightly")
def test_a_checkout_alone_registers_the_plugin_and_warns_of_nothing(ask: Ask, checkout_too: Path) -> None:
    told = ask(PLUGINS, "core", path=())
    assert (told["names"], told["errors"]) == (["data_share", "own"], {})
    assert told["sources"] == ["$PLUGINS_FOLDER/data_share_plugin.py"]
    assert "Two copies" not in told["log"]


# ---- the DAGs

BAG = """
import json, sys
import structlog
from airflow.dag_processing.dagbag import DagBag
from airflow.dag_processing.processor import _serialize_dags
bag = DagBag(sys.argv[1], bundle_path=sys.argv[2])
serialized, errors = _serialize_dags(bag, structlog.get_logger())
dags = {}
for each in serialized:
    found = each.data["dag"]
    places = found.pop("fileloc"), found.pop("relative_fileloc", None), found.pop("_processor_dags_folder", None)
    dags[found["dag_id"]] = [places[:2], found]
print(json.dumps({"dags": dags, "errors": bag.import_errors | errors}, default=str))
"""


def initialise(home: Path, site: Path) -> None:
    """Run `data-share init`, as the program that an installer makes runs it."""
    environment = {**os.environ, "PYTHONPATH": str(site), "AIRFLOW_HOME": str(home), "DATA_SHARE_FILE": ""}
    words = [sys.executable, "-m", "data_share", "init", str(home)]
    subprocess.run(words, env=environment, check=True, capture_output=True, timeout=60)


@pytest.fixture
def project(home: Path, site: Path) -> Path:
    """The home after `data-share init`."""
    initialise(home, site)
    return home


def bag(ask: Ask, project: Path, **variables: str) -> Any:
    return ask(BAG, str(project / "dags"), str(project), **variables)


def test_the_dags_are_those_of_the_repository(ask: Ask, project: Path, tmp_path: Path) -> None:
    told = bag(ask, project)
    assert told["errors"] == {}
    ours = {dag_id: dag for dag_id, dag in told["dags"].items() if dag_id != "own"}
    assert sorted(ours) == ["clean_up_share", "doctor", "set_up_snowflake", f"sync_{EXAMPLE}"]
    assert "own" in told["dags"]

    # A checkout in whose include/ there is what init has written.
    checkout = tmp_path / "checkout"
    for name in ("dags", "plugins"):
        shutil.copytree(PROJECT / name, checkout / name, ignore=left_out)
    shutil.copytree(PROJECT / "include", checkout / "include", ignore=left_out)
    shutil.rmtree(checkout / "include" / "datasets")
    shutil.copytree(project / "include" / "datasets", checkout / "include" / "datasets")
    (checkout / "include" / "sql" / "snowflake" / "targets" / "shared_forecasts.sql").unlink()
    theirs = ask(BAG, str(checkout / "dags"), str(checkout), path=(checkout / "plugins",))
    assert theirs["errors"] == {}

    mine, its = ({dag_id: dag for dag_id, (_, dag) in dags.items()} for dags in (ours, theirs["dags"]))
    assert mine == its


@pytest.mark.tier("nightly")
def test_airflow_takes_the_stub_as_the_file_of_a_dag(ask: Ask, project: Path) -> None:
    for dag_id, (places, _) in bag(ask, project)["dags"].items():
        name = "sync_datasets" if dag_id.startswith("sync_") else dag_id
        file = f"dags/data_share_{name}.py" if dag_id != "own" else "dags/own.py"
        assert places == [str(project / file), file]


@pytest.mark.tier("nightly")
def test_a_task_makes_its_own_dag_alone(ask: Ask, project: Path) -> None:
    dataset = project / "include" / "datasets" / f"{EXAMPLE}.yaml"
    (dataset.parent / "another.yaml").write_text(
        dataset.read_text().replace(f"target_table: {EXAMPLE}", "target_table: x")
    )
    assert {"sync_another", f"sync_{EXAMPLE}"} <= set(bag(ask, project)["dags"])
    told = bag(ask, project, _AIRFLOW_PARSING_CONTEXT_DAG_ID="sync_another")
    assert [dag_id for dag_id in told["dags"] if dag_id.startswith("sync_")] == ["sync_another"]


@pytest.mark.tier("nightly")
def test_a_wrong_dataset_is_an_import_error_of_its_own_file(ask: Ask, project: Path) -> None:
    (project / "include" / "datasets" / "broken.yaml").write_text("load_mode: sometimes\n")
    told = bag(ask, project)
    assert list(told["errors"]) == ["include/datasets/broken.yaml"]
    assert f"sync_{EXAMPLE}" in told["dags"]


@pytest.mark.tier("nightly")
def test_without_its_share_file_each_dag_file_says_what_is_missing(ask: Ask, project: Path) -> None:
    (project / "include" / "share.yaml").unlink()
    told = bag(ask, project)
    assert list(told["dags"]) == ["own"]
    assert len(told["errors"]) == 4
    for text in told["errors"].values():
        assert f"{project / 'include' / 'share.yaml'} is missing; data-share init writes it" in text
        assert "DATA_SHARE_FILE" in text


@pytest.mark.tier("nightly")
def test_the_share_file_may_lie_elsewhere(ask: Ask, project: Path, tmp_path: Path) -> None:
    (project / "include").rename(tmp_path / "elsewhere")
    told = bag(ask, project, DATA_SHARE_FILE=str(tmp_path / "elsewhere" / "share.yaml"))
    assert told["errors"] == {}
    assert f"sync_{EXAMPLE}" in told["dags"]


# ---- the other commands


@pytest.mark.parametrize("command", ["validate", "render", "keys"])
def test_a_command_works_in_the_folder_of_a_project(command: str, project: Path, site: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(site), "AIRFLOW_HOME": str(tmp_path / "none")}
    environment.pop("DATA_SHARE_FILE", None)
    words = [sys.executable, "-m", "data_share", command]
    done = subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    made = {
        "validate": "1 dataset file and the share file are valid",
        "render": "rendered/default: begin with README.md",
        "keys": "Made keys/data_share_loader.p8",
    }
    assert made[command] in done.stdout
    if command == "render":
        rendered = {
            str(path.relative_to(project / "rendered" / "default")) for path in (project / "rendered").rglob("*.*")
        }
        assert {"README.md", "snowflake/06_grants.sql", "aws/bucket_lifecycle.json"} <= rendered
        assert "sql/databricks/export_dataset.sql" in rendered
