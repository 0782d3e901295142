"""One running stack for all end-to-end tests: Airflow's own processes, the REST API, the emulators."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from sandbox.settings import PROJECT, Settings
from sandbox.stack import Stack
from tests.e2e.share import SHELL, RunningShare
from tests.shipped import left_out

HOME = PROJECT / ".sandbox" / "e2e"
"""A folder in the project, which stays after the tests: it holds the logs."""


PROJECT_COPY = HOME / "project"
"""What Airflow runs, so that a test can add a dataset without touching the work tree."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="package")
def running_share() -> Iterator[RunningShare]:
    """The stack, started once, and stopped after the last of its tests: others need the cores."""
    # `kill` ends the tests in the same orderly way as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stack = Stack(Settings(state=HOME / "state", places=1, ports={}), PROJECT_COPY)
    stack.stop()
    shutil.rmtree(HOME, ignore_errors=True)
    for name in ("dags", "plugins", "include"):
        shutil.copytree(PROJECT / name, PROJECT_COPY / name, ignore=left_out)
    try:
        with mock.patch.dict(os.environ, SHELL):
            endpoints = stack.start()
        running = RunningShare(stack, endpoints)
        yield running
        running.close()
    finally:
        stack.stop()
    log = (stack.logs / "dag-processor.log").read_text()
    assert "Unable to decode message" not in log, "a callback asked for what the dag-processor does not answer"


@pytest.fixture
def share(running_share: RunningShare) -> Iterator[RunningShare]:
    """The running stack, with the source tables as they were and no order to the emulators left over."""
    running_share.reset()
    yield running_share
    running_share.reset()


@pytest.fixture
def add_dataset_file() -> Iterator[Callable[[str, str], Path]]:
    """Write dataset files that are gone after the test."""
    written: list[Path] = []

    def add(name: str, content: str) -> Path:
        path = PROJECT_COPY / "include" / "datasets" / f"{name}.yaml"
        path.write_text(content)
        written.append(path)
        return path

    yield add
    for path in written:
        path.unlink()
