"""What docker-compose.yaml says with the .env that `make env-file` writes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.deploy.compose import read_env_file

WriteEnv = Callable[..., dict[str, str]]


@pytest.fixture(scope="session")
def write_env(tmp_path_factory: pytest.TempPathFactory) -> WriteEnv:
    """Write an .env with fresh secrets, by the command that people use, and return what it says."""

    def write(*options: str) -> dict[str, str]:
        file: Path = tmp_path_factory.mktemp("env") / ".env"
        subprocess.run([sys.executable, PROJECT / "deploy" / "make_env.py", "--file", file, *options], check=True)
        return read_env_file(file)

    return write


@pytest.fixture(scope="session")
def sandbox_env(write_env: WriteEnv) -> dict[str, str]:
    return write_env("--sandbox")
