"""
An upgrade from an earlier version while a sync waits for Databricks: the files are replaced, and the sync goes on.

The earlier version is the last release, or the commit before this one as long as there is no release; the variable
``UPGRADE_FROM`` names another commit.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import data_share
from sandbox.settings import PROJECT, Settings
from sandbox.stack import Stack
from tests.e2e.share import TARGET, RunningShare, wait_for
from tests.shipped import left_out

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.deploy]

FOLDERS = ("dags", "plugins", "include")
AIRFLOW = ("api-server", "scheduler", "dag-processor", "triggerer")


def git(*words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=PROJECT, capture_output=True, check=True).stdout


def earlier_version() -> str:
    if commit := os.environ.get("UPGRADE_FROM"):
        return commit
    tags = git("tag", "--list", "v[0-9]*", "--merged", "HEAD~1", "--sort", "-version:refname").decode().split()
    return tags[0] if tags else "HEAD~1"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The folders of a deployment of the earlier version."""
    try:
        files = git("archive", earlier_version(), *FOLDERS)
    except subprocess.CalledProcessError as error:
        reason = f"the earlier version is not in this clone: {error.stderr.decode().strip()}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path / "project"
    with tarfile.open(fileobj=io.BytesIO(files)) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def old_share(project: Path, tmp_path: Path) -> Iterator[RunningShare]:
    """A stack of the earlier version."""
    stack = Stack(Settings(state=tmp_path / "state", places=1, ports={}), project)
    try:
        running = RunningShare(stack, stack.start())
        yield running
        running.close()
    finally:
        stack.stop()


def replace_files(project: Path) -> None:
    """Deploy this version in the place of the earlier one."""
    for name in FOLDERS:
        shutil.rmtree(project / name)
        shutil.copytree(PROJECT / name, project / name, ignore=left_out)


def restart(share: RunningShare) -> None:
    """Restart Airflow's processes, as docs/deploy.md says for new code."""
    for part in AIRFLOW:
        processes = share.stack.processes_of(part)
        assert processes, part
        for process in processes:
            process.terminate()
        _, alive = psutil.wait_procs(processes, timeout=30)
        for process in alive:
            process.kill()
        wait_for(lambda part=part: not share.stack.processes_of(part), f"{part} has ended")  # type: ignore[misc]
        share.stack.start_airflow(part, share.endpoints)
    wait_for(lambda: set(share.stack.health().values()) == {"healthy"}, "Airflow is healthy again", 300)


def test_a_sync_that_waits_goes_on_after_the_upgrade(old_share: RunningShare, project: Path) -> None:
    share = old_share
    before = share.start_sync(run_id="before")
    assert share.end_of(before)["state"] == "success", share.failures(before)
    share.hold_export("end")
    waiting = share.start_sync(run_id="waiting")
    share.wait_until_held(waiting)

    replace_files(project)
    restart(share)
    assert share.tasks(waiting)["wait_for_export"]["state"] == "deferred"
    share.release_export()

    assert share.end_of(waiting)["state"] == "success", share.failures(waiting)
    assert share.tasks(waiting)["wait_for_export"]["try_number"] == 1
    assert share.xcom(waiting, "publish")["rows_in_target"] == len(share.target()) == 1461
    assert share.staging_tables() == []
    # The ledger gets its new columns, and keeps its rows.
    share.stack.set_up(share.endpoints)
    after = share.start_sync(run_id="after")
    assert share.end_of(after)["state"] == "success", share.failures(after)
    published_by = dict(share.query("SELECT dag_run_id, package_version FROM sync_history"))
    assert published_by[after] == data_share.__version__
    assert len(share.ledger()) == 3
    assert share.airflow.ask("GET", "/importErrors")["import_errors"] == []
    assert f"sync_{TARGET}" in {dag["dag_id"] for dag in share.airflow.ask("GET", "/dags")["dags"]}
