"""The commands that people type, as they type them."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sandbox.settings import PROJECT, Settings
from sandbox.stack import STOPPED_BY_ANOTHER, Stack
from tests.e2e.share import SHELL, RunningShare, wait_for

pytestmark = pytest.mark.tier("full")


def command(state: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sandbox", *words],
        cwd=PROJECT,
        env=os.environ | {"SANDBOX_HOME": str(state)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # As in a terminal: tests that were started in the background ignore Ctrl-C, and so would this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def output_of(state: Path, *words: str) -> tuple[int, str]:
    process = command(state, *words)
    output, _ = process.communicate(timeout=180)
    return process.returncode, output


@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "kill"])
def test_an_interrupted_demo_leaves_no_process(tmp_path: Path, interrupt: signal.Signals) -> None:
    stack = Stack(Settings(state=tmp_path / "state", places=1, ports={}))
    demo = command(stack.state, "demo")
    try:
        wait_for(lambda: len(stack.processes()) >= 2, "the demo has started processes", seconds=180)
        started = stack.processes()
        demo.send_signal(interrupt)
        output, _ = demo.communicate(timeout=180)

        # CPython ends itself by SIGINT when the interrupt came while it ran code made of a string, as a namedtuple is.
        # A shell calls both 130.
        assert demo.returncode in (130, -signal.SIGINT), output
        assert stack.processes() == []
        assert not [process for process in started if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    finally:
        demo.kill()
        stack.stop()


def test_a_demo_whose_stack_is_stopped_ends_with_it_and_says_why(tmp_path: Path) -> None:
    stack = Stack(Settings(state=tmp_path / "state", places=1, ports={}))
    demo = command(stack.state, "demo")
    try:
        wait_for(lambda: len(stack.processes()) >= 2, "the demo has started processes", seconds=180)
        code, output = output_of(stack.state, "down")

        assert code == 0
        assert f"- Ending make demo (process {demo.pid}), which needs this stack\n" in output
        told, _ = demo.communicate(timeout=180)
        assert demo.returncode == 1, told
        assert told.endswith(f"error: {STOPPED_BY_ANOTHER}\n")
        assert stack.processes() == []
    finally:
        demo.kill()
        stack.stop()


def test_sync_shows_the_steps_and_ends_with_one_line_of_json(share: RunningShare) -> None:
    code, output = output_of(share.stack.state, "sync", "shared_forecasts")

    assert code == 0, output
    assert "Sync Complete: 1,461 rows exported, 1,461 loaded, 1,461 in shared_forecasts" in output
    for step in ("export_to_s3", "wait_for_export", "copy_into_staging", "check_staging", "publish", "finish_sync"):
        assert f"{step:18} done" in output
    answer = json.loads(output.splitlines()[-1])
    assert answer | {"run_key": "", "dag_run_id": "", "seconds": 0} == {
        "dataset": "shared_forecasts",
        "state": "success",
        "run_key": "",
        "dag_run_id": "",
        "rows_exported": 1461,
        "rows_loaded": 1461,
        "rows_in_target": 1461,
        "seconds": 0,
    }


def test_a_failed_sync_says_why_and_has_an_exit_code(share: RunningShare) -> None:
    share.databricks("POST", "/_sandbox/fail_next", {"message": "Out of memory in stage 3"})

    code, output = output_of(share.stack.state, "sync", "shared_forecasts")

    assert code == 1
    assert "wait_for_export: The Databricks run" in output
    assert "Out of memory in stage 3" in output
    assert json.loads(output.splitlines()[-1])["state"] == "failed"


def test_a_sync_of_an_unknown_dataset_says_so(share: RunningShare) -> None:
    code, output = output_of(share.stack.state, "sync", "unknown")

    assert code == 1
    assert "sync_unknown" in output
    assert "Traceback" not in output


def test_status_and_env_tell_of_the_running_stack(share: RunningShare) -> None:
    # Others stop processes of the stack for a while.
    wait_for(lambda: set(share.stack.health().values()) == {"healthy"}, "all is healthy")
    code, output = output_of(share.stack.state, "status")
    assert (code, "sync_shared_forecasts" in output) == (0, True)
    states = dict(line.split(maxsplit=1) for line in output.splitlines()[1:] if "last run" not in line)
    names = ("metadatabase", "scheduler", "triggerer", "dag_processor", "databricks", "snowflake")
    assert states == dict.fromkeys(names, "healthy")
    code, output = output_of(share.stack.state, "env")
    assert code == 0
    assert f"export AIRFLOW_URL={share.endpoints.airflow_url}" in output.splitlines()


def test_status_names_a_part_that_has_ended(share: RunningShare, tmp_path: Path) -> None:
    # A state folder that knows of one process more, which is gone.
    for name in ("endpoints.json", "keys/secrets.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(share.stack.state / name, tmp_path / name)
    sessions = json.loads((share.stack.state / "sessions.json").read_text())
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / "sessions.json").write_text(json.dumps(sessions | {str(gone.pid): [time.time(), "triggerer"]}))
    code, output = output_of(tmp_path, "status")
    assert code == 1
    assert "triggerer       has ended" in output
    assert "make down, then make up" in output


def test_connections_of_the_shell_reach_airflow_but_those_of_the_share(share: RunningShare) -> None:
    environments = [process.environ() for process in share.stack.processes()]
    of_airflow = [environment for environment in environments if "AIRFLOW_HOME" in environment]
    assert len(of_airflow) >= 4
    for environment in of_airflow:
        assert environment["AIRFLOW_CONN_OF_THE_SHELL"] == SHELL["AIRFLOW_CONN_OF_THE_SHELL"]
        assert json.loads(environment["AIRFLOW_CONN_SNOWFLAKE_DEFAULT"])["extra"]["host"] == "127.0.0.1"


def test_two_starts_do_not_meet(share: RunningShare, tmp_path: Path) -> None:
    with (tmp_path / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, output = output_of(tmp_path, "up")
    assert (code, "A stack is being started already" in output) == (1, True)


def test_without_a_stack_the_commands_say_what_to_do(tmp_path: Path) -> None:
    for words in (["sync", "shared_forecasts"], ["env"]):
        code, output = output_of(tmp_path, *words)
        assert (code, output.strip()) == (1, "error: No stack is running. Start one: make up")
    assert output_of(tmp_path, "down") == (0, "Stopped 0 processes.\n")
