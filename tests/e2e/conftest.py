"""One running stack for all end-to-end tests: Airflow's own processes, the REST API, the stand-ins."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox.settings import PROJECT, Settings
from sandbox.stack import Stack
from tests.e2e.share import RunningShare


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def home() -> Path:
    """An empty folder in the project, which stays after the tests: it holds the logs."""
    folder = PROJECT / ".sandbox" / "e2e"
    Stack(Settings(state=folder / "state", places=1, ports={})).stop()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="session")
def project(home: Path) -> Path:
    """A copy of what Airflow runs, so that a test can add a dataset without touching the work tree."""
    folder = home / "project"
    for name in ("dags", "plugins", "include"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="session")
def running_share(home: Path, project: Path) -> Iterator[RunningShare]:
    """The stack, started once."""
    stack = Stack(Settings(state=home / "state", places=1, ports={}), project)
    try:
        running = RunningShare(stack, stack.start())
        yield running
        running.close()
        log = (stack.logs / "dag-processor.log").read_text()
        assert "Unable to decode message" not in log, "a callback asked for what the dag-processor does not answer"
    finally:
        stack.stop()


@pytest.fixture
def share(running_share: RunningShare) -> Iterator[RunningShare]:
    """The running stack, with the source table as it was and no order to the stand-ins left over."""
    running_share.reset()
    yield running_share
    running_share.reset()


@pytest.fixture
def add_dataset_file(project: Path) -> Iterator[Callable[[str, str], Path]]:
    """Write dataset files that are gone after the test."""
    written: list[Path] = []

    def add(name: str, content: str) -> Path:
        path = project / "include" / "datasets" / f"{name}.yaml"
        path.write_text(content)
        written.append(path)
        return path

    yield add
    for path in written:
        path.unlink()
