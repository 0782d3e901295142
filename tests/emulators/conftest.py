from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SERVE_S3 = """
import sys
from pathlib import Path
from emulators.s3 import S3Server

print(S3Server(Path(sys.argv[1])).start(), flush=True)
sys.stdin.read()
"""


class S3Process:
    """S3 in a process of its own: it can be killed, and does not share moto's memory with other tests."""

    def __init__(self, state_dir: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVE_S3, str(state_dir)],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        self.url = self._process.stdout.readline().strip()
        assert self.url, "S3 did not start"

    def kill(self) -> None:
        """End the process at once, so that it can save nothing."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            pipe.close()


@pytest.fixture(scope="session")
def start_s3() -> Iterator[Callable[[Path], S3Process]]:
    """Starts S3 on a state directory; whatever still runs at the end is killed."""
    started: list[S3Process] = []

    def start(state_dir: Path) -> S3Process:
        started.append(S3Process(state_dir))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture(scope="session")
def s3_url(start_s3: Callable[[Path], S3Process], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The endpoint of an S3 that all tests share."""
    return start_s3(tmp_path_factory.mktemp("s3")).url
