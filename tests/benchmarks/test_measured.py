"""Benchmarks run for real, once: what they measure is on a busy machine, so only its shape is looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from sandbox.settings import PROJECT

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.e2e]

STEPS = ("export_to_s3", "wait_for_export", "copy_into_staging", "check_staging", "publish", "finish_sync")


def measured(name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--runs", "1"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode in (0, 1), done.stderr
    line: dict[str, Any] = json.loads(done.stdout)
    assert line["name"] == name
    assert line["met"] is (done.returncode == 0)
    assert ("MISSED" in done.stderr) is (done.returncode == 1)
    return line


def test_latency_compares_a_sync_to_a_script_and_to_stock_operators() -> None:
    found = measured("latency")
    for side in ("script", "sync", "stock", "eager_stock"):
        assert found[f"{side}_seconds"]["runs"] == 1
        # No side is faster than its export.
        assert found[f"{side}_seconds"]["median"] > 2.3
    for side in ("sync", "stock", "eager_stock"):
        assert 2.3 <= found["split"][side]["export on Databricks"]["median"] < 10
    assert set(STEPS) <= set(found["split"]["sync"])
    assert found["ratio_script"] > 1


def test_requests_are_counted_by_system() -> None:
    found = measured("requests")
    # A submission of COPY, of the check and of the publish at least; a run and looks at it for 20 s.
    assert found["snowflake"]["median"] >= 3
    assert found["databricks"]["median"] >= 5
    assert found["kinds"]["databricks"]["POST /api/2.2/jobs/run-now"]["median"] == 1
