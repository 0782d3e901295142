"""What every test has: a tier, an Airflow home of its own, and no network unless it is marked `sandbox` or `e2e`."""

from __future__ import annotations

import atexit
import importlib.util
import os
import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests import airflow_double, shipped
from tests.airflow_double import DagRun

PROJECT = Path(__file__).resolve().parents[1]

# Airflow reads these when it is imported, so they are set before any test module imports it.
_AIRFLOW_HOME = tempfile.mkdtemp(prefix="airflow-tests-")
atexit.register(shutil.rmtree, _AIRFLOW_HOME, ignore_errors=True)
os.environ.update(
    AIRFLOW_HOME=_AIRFLOW_HOME,
    AIRFLOW__CORE__DAGS_FOLDER=str(PROJECT / "dags"),
    AIRFLOW__CORE__PLUGINS_FOLDER=str(PROJECT / "plugins"),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    # Operators may be executed outside of a task process.
    AIRFLOW__CORE__UNIT_TEST_MODE="True",
)
# Other modules take the folders by name when they are imported.
shipped.leave_other_datasets_out()

TIERS = ("quick", "full", "nightly")
"""`make test` runs the first, `make test-all` the first two, `make test-nightly` the last: see CONTRIBUTING.md."""

RUN_KEY = "20260102T030405_0a1b2c3d"
STACK_TESTS = "tests/e2e/"
LIVE_TESTS = "tests/live/"


class ByStack(LoadScopeScheduling):
    """Deals whole modules out to the processes, and all tests that share a stack or emulators to one of them."""

    def _split_scope(self, nodeid: str) -> str:
        shared = (folder for folder in (STACK_TESTS, LIVE_TESTS) if nodeid.startswith(folder))
        return next(shared, nodeid.partition("::")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByStack:
    """Say how tests are dealt out, when they run in several processes."""
    return ByStack(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Tiers are an option and no `-m`: an expression that somebody adds selects from them, and replaces nothing."""
    parser.addoption("--tier", default="quick,full", help=f"tiers to run, of {', '.join(TIERS)} (default: %(default)s)")


def asked_tiers(config: pytest.Config) -> set[str]:
    """Return the tiers that are asked for."""
    asked = set(config.getoption("--tier").split(","))
    if unknown := asked - set(TIERS):
        raise pytest.UsageError(f"--tier: {', '.join(sorted(unknown))} is none of {', '.join(TIERS)}")
    return asked


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave a module out that has its tier for all its tests, and another one: importing it may take seconds."""
    if collection_path.suffix != ".py":
        return None
    text = collection_path.read_text(encoding="utf-8")
    tiers = set(re.findall(r'\bpytest\.mark\.tier\("(\w+)"\)', text))
    if "pytest.mark.others_nightly" in text:
        tiers.add("nightly")
    is_the_modules = re.search(r"^pytestmark\b[^)]*\.tier\(", text, re.MULTILINE)
    return True if is_the_modules and tiers.isdisjoint(asked_tiers(config)) else None


def tier_of(item: pytest.Item) -> str:
    """Return the tier of a test: that of the mark that is closest to it, but nightly for cases that are left to it."""
    if item.get_closest_marker("others_nightly"):
        if (case := getattr(item, "callspec", None)) is None:
            raise pytest.UsageError(f"{item.nodeid} leaves other cases to the nightly tier, and has none")
        if any(case.indices.values()):
            return "nightly"
    marker = item.get_closest_marker("tier")
    tier = str(marker.args[0]) if marker else "quick"
    if tier not in TIERS:
        raise pytest.UsageError(f"{item.nodeid} has the tier {tier}; there are {', '.join(TIERS)}")
    return tier


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take the tests of the tiers that are asked for, and begin with what takes longest: the whole stacks."""
    asked = asked_tiers(config)
    config.hook.pytest_deselected(items=[item for item in items if tier_of(item) not in asked])
    items[:] = [item for item in items if tier_of(item) in asked]
    items.sort(key=lambda item: not item.nodeid.startswith(STACK_TESTS))


class NetworkUsedError(AssertionError):
    """A unit test reached for the network."""


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every connection of a unit test fail."""
    if any(request.node.get_closest_marker(layer) for layer in ("sandbox", "e2e")):
        return

    def refuse(*args: object, **_: object) -> NoReturn:
        raise NetworkUsedError(f"A unit test reached for the network: {args}")

    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def deploy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Let this process be a deployment with another share file, and with variables of its own."""

    def forget() -> None:
        from data_share import share_file, sql_files

        share_file.share_file.cache_clear()
        sql_files._environment.cache_clear()

    def run(file: Path | None = None, **variables: str) -> None:
        if file is not None:
            monkeypatch.setenv("DATA_SHARE_FILE", str(file))
        for name, value in variables.items():
            monkeypatch.setenv(f"DATA_SHARE_{name}", value)
        forget()

    yield run
    monkeypatch.undo()
    forget()


@pytest.fixture
def task_context() -> Callable[..., dict[str, Any]]:
    """Make the context that a task of a sync gets when its export has ended."""
    from data_share.share import Share

    attempts = uuid.uuid4()

    def make(
        task: Any = None, *, try_number: int = 1, requested_by: str | None = None, conf: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        export = {
            "run_id": 77,
            "run_page_url": "https://databricks.example/run/77",
            "export_path": f"{Share().url}shared_forecasts/{RUN_KEY}/1-0a1b2c3d/",
        }
        run = DagRun(
            dag=task.dag if task is not None and task.has_dag() else None,
            dag_id="sync_shared_forecasts",
            run_id="manual__o'clock--1",
            uid=attempts,
            run_after=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            start_date=datetime(2026, 1, 2, 3, 4, 6, 789000, tzinfo=UTC),
            triggering_user_name="grace",
            conf={**({"requested_by": requested_by} if requested_by else {}), **(conf or {})},
            xcoms={
                ("export_to_s3", "run_id"): 77,
                ("export_to_s3", "export"): {"run_id": 77, "clear_number": 0},
                ("wait_for_export", "return_value"): export,
            },
        )
        return run.context(task, try_number=try_number)

    return make


def load_sync_datasets() -> ModuleType:
    """Load the DAG file of the syncs as a new module."""
    spec = importlib.util.spec_from_file_location("sync_datasets", PROJECT / "dags" / "sync_datasets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def sync_datasets() -> ModuleType:
    """The DAG file of the syncs as a module."""
    return load_sync_datasets()


@pytest.fixture
def rendered(task_context: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
    """Render the fields of a DAG's task as Airflow does before it executes the task; returns a copy of the task."""

    def render(dag: Any, task_id: str, **context: Any) -> Any:
        task = dag.get_task(task_id)
        return airflow_double.rendered(task, task_context(task, **context))

    return render
