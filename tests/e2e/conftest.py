"""One running stack for all end-to-end tests: Airflow's own processes, the REST API, the stand-ins."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox.settings import PROJECT, Settings
from sandbox.stack import Endpoints, Stack
from tests.e2e.share import RunningShare

HOME = PROJECT / ".sandbox" / "e2e"
"""A folder in the project, which stays after the tests: it holds the logs."""


class BackgroundStack:
    """The stack, starting while other tests run: it takes half a minute, most of it waiting."""

    def __init__(self) -> None:
        # A copy of what Airflow runs, so that a test can add a dataset without touching the work tree.
        self.project = HOME / "project"
        self.stack = Stack(Settings(state=HOME / "state", places=1, ports={}), self.project)
        self._thread: threading.Thread | None = None
        self._endpoints: Endpoints | None = None
        self._error: BaseException | None = None

    def begin(self) -> None:
        """Start the stack and return at once."""
        self.stack.stop()
        shutil.rmtree(HOME, ignore_errors=True)
        for name in ("dags", "plugins", "include"):
            shutil.copytree(PROJECT / name, self.project / name, ignore=shutil.ignore_patterns("__pycache__"))
        self._thread = threading.Thread(target=self._start, name="stack")
        self._thread.start()

    def endpoints(self) -> Endpoints:
        """Wait until the stack is ready."""
        assert self._thread is not None
        self._thread.join()
        if self._endpoints is None:
            raise RuntimeError("The stack did not start") from self._error
        return self._endpoints

    def stop(self) -> None:
        """Stop the stack, also one that is still starting."""
        if self._thread is not None:
            self.stack.stop()
            self._thread.join()
            self.stack.stop()

    def _start(self) -> None:
        try:
            self._endpoints = self.stack.start()
        except BaseException as error:
            self._error = error


background = BackgroundStack()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
    # Last, so that the stack can start meanwhile.
    items.sort(key=lambda item: item.get_closest_marker("e2e") is not None)


def pytest_collection_finish(session: pytest.Session) -> None:
    if not session.config.option.collectonly and any(item.get_closest_marker("e2e") for item in session.items):
        # `kill` ends the tests in the same orderly way as Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        background.begin()


def pytest_sessionfinish() -> None:
    background.stop()


@pytest.fixture(scope="session")
def running_share() -> Iterator[RunningShare]:
    """The running stack."""
    running = RunningShare(background.stack, background.endpoints())
    yield running
    running.close()
    log = (background.stack.logs / "dag-processor.log").read_text()
    assert "Unable to decode message" not in log, "a callback asked for what the dag-processor does not answer"


@pytest.fixture
def share(running_share: RunningShare) -> Iterator[RunningShare]:
    """The running stack, with the source tables as they were and no order to the stand-ins left over."""
    running_share.reset()
    yield running_share
    running_share.reset()


@pytest.fixture
def add_dataset_file() -> Iterator[Callable[[str, str], Path]]:
    """Write dataset files that are gone after the test."""
    written: list[Path] = []

    def add(name: str, content: str) -> Path:
        path = background.project / "include" / "datasets" / f"{name}.yaml"
        path.write_text(content)
        written.append(path)
        return path

    yield add
    for path in written:
        path.unlink()
