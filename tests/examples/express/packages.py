"""The npm packages of examples/express/, and copies of the folder as a backend makes them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.examples.backend.clients import PROJECT, node

EXPRESS = PROJECT / "examples" / "express"


def copied_to(folder: Path) -> Path:
    """Copy the example, and give it the packages of its lock."""
    copy = folder / "express"
    shutil.copytree(EXPRESS, copy, ignore=shutil.ignore_patterns("node_modules"))
    (copy / "node_modules").symlink_to(_packages())
    return copy


def _packages() -> Path:
    """Install once for each lock; skip the test where npm cannot, but never in CI."""
    node()
    files = [EXPRESS / name for name in ("package.json", "package-lock.json", ".npmrc")]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
    installed = Path(sys.prefix) / f"express-{digest}"
    if not installed.exists():
        # Beside it, so that another process either finds all packages or none.
        with tempfile.TemporaryDirectory(dir=sys.prefix, ignore_cleanup_errors=True) as made:
            for file in files:
                shutil.copy(file, made)
            _npm_ci(Path(made))
            try:
                Path(made).rename(installed)
            except OSError:
                assert installed.exists(), "another process has installed them meanwhile"
    return installed / "node_modules"


def _npm_ci(folder: Path) -> None:
    npm = shutil.which("npm")
    reason = "there is no npm on this machine"
    if npm:
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode == 0:
            return
        reason = f"npm cannot install the packages of examples/express: {done.stderr[-500:]}"
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
