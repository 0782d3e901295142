"""A second stack with other ports and another state folder, beside the first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.settings import HOST, PREFERRED_PORTS, PROJECT, Settings, free_ports
from sandbox.stack import Stack
from tests.e2e.share import RunningShare

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.deploy]

# Longer than a stack waits for itself.
START_SECONDS = 600


def command(state: Path, ports: dict[str, int], *words: str) -> subprocess.Popen[str]:
    settings = {f"SANDBOX_{name.upper()}_PORT": str(port) for name, port in ports.items()}
    return subprocess.Popen(
        [sys.executable, "-m", "sandbox", *words],
        cwd=PROJECT,
        env=os.environ | settings | {"SANDBOX_HOME": str(state)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output_of(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=START_SECONDS)
    assert process.returncode == 0, output
    return output


@pytest.fixture
def second_home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "second"
    yield home
    Stack(Settings(state=home, places=1, ports={})).stop()


def test_a_second_stack_runs_beside_the_first(share: RunningShare, second_home: Path) -> None:
    first_processes = {process.pid for process in share.stack.processes()}
    ports = dict(zip(PREFERRED_PORTS, free_ports(), strict=True))
    first_ledger = share.ledger()

    output_of(command(second_home, ports, "up"))
    second = Stack(Settings(state=second_home, places=1, ports={}))
    endpoints = second.endpoints()

    assert endpoints.airflow_url == f"http://{HOST}:{ports['airflow']}"
    assert endpoints.s3_url == f"http://{HOST}:{ports['s3']}"
    assert endpoints.databricks_url == f"http://{HOST}:{ports['databricks']}"
    assert endpoints.snowflake_url == f"http://{HOST}:{ports['snowflake']}"
    assert endpoints.databricks_token != share.endpoints.databricks_token
    assert not {process.pid for process in second.processes()} & first_processes

    # Both at once, of the same dataset: neither sees the other's.
    in_second = command(second_home, {}, "sync", "shared_forecasts")
    in_first = share.sync()
    answer = json.loads(output_of(in_second).splitlines()[-1])

    assert (answer["state"], answer["rows_in_target"]) == ("success", 1461)
    keys = {"first": in_first["run_key"], "second": answer["run_key"]}
    assert [row[0] for row in endpoints.query("SELECT run_key FROM sync_history")] == [keys["second"]]
    assert len(share.ledger()) == len(first_ledger) + 1
    assert share.query(f"SELECT COUNT(*) FROM sync_history WHERE run_key = '{keys['second']}'") == [(0,)]
    assert share.query(f"SELECT COUNT(*) FROM sync_history WHERE run_key = '{keys['first']}'") == [(1,)]

    # The end of the one is not the end of the other.
    output_of(command(second_home, {}, "down"))
    assert second.processes() == []
    assert share.airflow.health()["scheduler"]["status"] == "healthy"


def test_a_port_of_the_first_is_refused(share: RunningShare, second_home: Path) -> None:
    port = int(share.endpoints.airflow_url.rsplit(":", 1)[1])

    process = command(second_home, {"airflow": port}, "up")
    output, _ = process.communicate(timeout=START_SECONDS)

    assert (process.returncode, output.strip()) == (1, f"error: SANDBOX_AIRFLOW_PORT: port {port} is taken")
    assert Stack(Settings(state=second_home, places=1, ports={})).processes() == []
