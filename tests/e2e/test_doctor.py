"""The DAG that checks the deployment, inside Airflow, and the command for people."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from data_share.share import Share
from sandbox.settings import PROJECT
from tests.e2e.share import RunningShare

pytestmark = pytest.mark.tier("full")

TASKS = ("check_airflow", "check_databricks", "check_snowflake")


def check(share: RunningShare) -> tuple[str, str]:
    """Run the DAG, and return the run's id and how it ended."""
    run_id = share.airflow.trigger("doctor")
    return run_id, share.airflow.wait("doctor", run_id, 90)["state"]


def test_the_share_is_well_until_something_is_broken(share: RunningShare) -> None:
    run_id, state = check(share)
    assert state == "success", share.airflow.failures("doctor", run_id)
    for task in TASKS:
        findings = share.airflow.xcom("doctor", run_id, task)
        assert {finding["state"] for finding in findings} == {"ok"}, findings

    share.airflow.set_variable(Share().export_job_variable, "4711")
    run_id, state = check(share)
    assert state == "failed"
    failures = share.airflow.failures("doctor", run_id)
    assert list(failures) == ["check_databricks"]
    assert "1 of 9 checks of Databricks failed." in failures["check_databricks"]
    assert "Job 4711 does not exist" in failures["check_databricks"]


def command(share: RunningShare, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the sandbox."""
    return subprocess.run(
        [sys.executable, "-m", "sandbox", *words],
        cwd=PROJECT,
        env=os.environ | {"SANDBOX_HOME": str(share.stack.state)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.tier("nightly")
def test_the_command_shows_what_the_next_sync_would_do(share: RunningShare) -> None:
    done = command(share, "plan", "shared_forecasts")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rows in the source" in done.stdout
    assert "1,461" in done.stdout
    done = command(share, "plan", "shared_forecasts", "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["ok"], answer["source"]["rows"]) == (0, True, 1461)
    assert {column["state"] for column in answer["columns"]} == {"fits"}
    done = command(share, "plan", "nothing")
    assert done.returncode == 2
    assert "There is no dataset nothing; known are city_temperatures" in done.stderr
    done = command(share, "doctor", "--sources")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "source of shared_forecasts (a run of the export job): 1,461 rows, 9 columns, which fit." in done.stdout


@pytest.mark.tier("nightly")
def test_the_command_shows_the_list(share: RunningShare) -> None:
    def doctor(*options: str) -> tuple[int, str]:
        done = command(share, "doctor", *options)
        return done.returncode, done.stdout + done.stderr

    code, shown = doctor()
    assert code == 0, shown
    assert "0 wrong, 0 advice, 0 not checked" in shown
    share.query("ALTER TABLE shared_forecasts RENAME TO hidden_forecasts")
    try:
        code, shown = doctor()
        coded, told = doctor("--json")
    finally:
        share.query("ALTER TABLE hidden_forecasts RENAME TO shared_forecasts")
    assert code == 1
    assert "wrong        target tables (DESCRIBE TABLE): shared_forecasts" in shown
    # Rights on the targets, and policies, are asked of targets that are there.
    assert "1 wrong, 0 advice, 2 not checked" in shown, shown
    assert coded == 1
    findings = json.loads(told)["findings"]
    assert [finding["name"] for finding in findings if finding["state"] == "wrong"] == ["target tables"]
