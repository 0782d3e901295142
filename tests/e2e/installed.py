"""Environments in which the wheel is installed, as a person installs it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

from sandbox.settings import PROJECT
from tests.e2e.home import PROGRAMS

INSTALL_SECONDS = 600


def build_wheel(into: Path) -> Path:
    """Build the wheel of the project."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(into)]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, timeout=60)
    [wheel] = into.glob("*.whl")
    return wheel


def requirements(wheel: Path) -> list[str]:
    """Return what the metadata of a wheel requires."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return HeaderParser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", [])


def make_environment(folder: Path, *packages: str | Path) -> Path:
    """
    Make an environment with this Python, and return the folder of its programs.

    :param packages: what is installed, and options for it
    """
    _uv("venv", "--python", sys.executable, folder)
    install(folder / "bin", *packages)
    return folder / "bin"


def install(programs: Path, *packages: str | Path) -> None:
    """Install packages into an environment."""
    _uv("pip", "install", "--python", programs / "python", *packages)


def _uv(*words: str | Path) -> None:
    done = subprocess.run(
        [PROGRAMS / "uv", "--quiet", *words], capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr


def versions(programs: Path) -> dict[str, str]:
    """Return the versions in an environment by the names of the packages."""
    found = subprocess.run(
        [PROGRAMS / "uv", "pip", "freeze", "--python", programs / "python"], capture_output=True, text=True, check=True
    )
    return dict(line.split("==") for line in found.stdout.splitlines() if "==" in line)


def contents(folder: Path) -> Iterator[tuple[str, bytes | None]]:
    """Yield all that is in a folder: paths and contents, None for a folder."""
    for path in sorted(folder.rglob("*")):
        yield str(path.relative_to(folder)), path.read_bytes() if path.is_file() else None
