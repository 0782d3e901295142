"""The commands that people type, as they type them."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from sandbox.settings import PROJECT, Settings
from sandbox.stack import STOPPED_BY_ANOTHER, Stack
from tests.e2e.share import SHELL, RunningShare, wait_for
from tests.shipped import DATASETS

pytestmark = pytest.mark.tier("full")


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


CREATED = """
description: Harbours.
source_table: main.sea.harbours
load_mode: replace
required_columns: [harbour]
create_table: from_columns
columns: {harbour: VARCHAR}
"""


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


@pytest.mark.others_nightly
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
        assert [process for process in started if is_alive(process)] == []
    finally:
        demo.kill()
        stack.stop()


@pytest.mark.tier("nightly")
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
    [(replaced,)] = share.query("SELECT COUNT(*) FROM shared_forecasts")
    code, output = output_of(share.stack.state, "sync", "shared_forecasts")

    assert code == 0, output
    assert "Sync Complete: 1,461 rows exported, 1,461 loaded, 1,461 in shared_forecasts" in output
    for step in ("export_to_s3", "wait_for_export", "copy_into_staging", "check_staging", "publish", "finish_sync"):
        assert f"{step:18} done" in output
    answer = json.loads(output.splitlines()[-1])
    assert (
        f"(version {answer['source_version']}).\nAll rows were exported (full): {answer['export_reason']}.\n" in output
    )
    assert f"Written to S3: 1,461 rows, {answer['bytes_exported'] / 1000:.1f} kB. Loaded: 1,461 rows; " in output
    assert answer.pop("export_reason")
    varying = ("seconds", "source_version", "bytes_exported", "statement_seconds")
    assert answer | {"run_key": "", "dag_run_id": "", **dict.fromkeys(varying, 0)} == {
        "dataset": "shared_forecasts",
        "state": "success",
        "unchanged": False,
        "dry_run": False,
        "verified": False,
        "full_refresh": False,
        "run_key": "",
        "dag_run_id": "",
        "rows_exported": 1461,
        "rows_loaded": 1461,
        "rows_in_target": 1461,
        "rows_inserted": 1461,
        "rows_updated": 0,
        "rows_deleted": replaced,
        "export_mode": "full",
        **dict.fromkeys(varying, 0),
    }
    # Nobody writes to the source any more.
    share.let_sources_change(False)
    code, output = output_of(share.stack.state, "sync", "shared_forecasts")
    assert code == 0, output
    assert re.search(
        r"^Up to date\. Nothing new at the source since .* UTC \(version \d+\); 1,461 rows in", output, re.M
    )
    assert "make sync DATASET=shared_forecasts FULL_REFRESH=1" in output
    assert json.loads(output.splitlines()[-1])["unchanged"] is True


def test_a_dry_run_of_a_full_refresh_says_what_would_change(share: RunningShare) -> None:
    before = share.query("SELECT COUNT(*) FROM sync_history")
    code, output = output_of(share.stack.state, "sync", "city_temperatures", "--dry-run", "--full-refresh")

    assert code == 0, output
    answer = json.loads(output.splitlines()[-1])
    assert (answer["dry_run"], answer["full_refresh"], answer["rows_in_target"]) == (True, True, None)
    rows = answer["rows_inserted"]
    assert rows > 0
    assert f"Dry run complete: nothing was published. A sync would insert {rows:,} rows into" in output
    assert "Sync Complete" not in output
    run = share.airflow.run("sync_city_temperatures", answer["dag_run_id"])
    assert run["conf"] == {"requested_by": "sandbox", "dry_run": True, "full_refresh": True}
    assert share.query("SELECT COUNT(*) FROM sync_history") == before


def test_set_up_shows_what_it_creates(share: RunningShare) -> None:
    share.query("ALTER TABLE city_temperatures RENAME TO hidden_temperatures")
    try:
        code, output = output_of(share.stack.state, "set-up")
        assert share.query("SELECT COUNT(*) FROM city_temperatures") == [(0,)]
    finally:
        share.query("DROP TABLE IF EXISTS city_temperatures")
        share.query("ALTER TABLE hidden_temperatures RENAME TO city_temperatures")
    assert code == 0, output
    for step in ("create_ledger     ", "create_target city_temperatures", "create_target targets/shared_forecasts.sql"):
        assert f" s  {step} done\n" in output
    assert "create_target 0" not in output
    assert output.endswith("Set-up Complete: what was missing is created, what was there is as it was.\n")


@pytest.mark.tier("nightly")
def test_a_set_up_that_fails_says_which_target_it_is(
    share: RunningShare, add_dataset_file: Callable[[str, str], Path]
) -> None:
    content = f"{CREATED}target_table: nowhere.harbours\n"
    path = add_dataset_file("harbours", content)
    code, output = output_of(share.stack.state, "set-up")
    assert path.exists()
    assert code == 1, output
    assert "create_target city_temperatures done\n" in output
    assert "\nThe set-up failed." in output
    assert "  create_target harbours: " in output
    assert "NOWHERE" in output.partition("The set-up failed.")[2]


def test_a_failed_sync_says_why_and_has_an_exit_code(share: RunningShare) -> None:
    share.databricks("POST", "/_sandbox/fail_next", {"message": "Out of memory in stage 3"})

    code, output = output_of(share.stack.state, "sync", "shared_forecasts")

    assert code == 1
    assert "wait_for_export: The Databricks run" in output
    assert "Out of memory in stage 3" in output
    assert json.loads(output.splitlines()[-1])["state"] == "failed"


def test_a_sync_of_an_unknown_dataset_names_the_known_ones(
    share: RunningShare, add_dataset_file: Callable[[str, str], Path]
) -> None:
    for name in ("unknown", "../x", "set_up_snowflake"):
        code, output = output_of(share.stack.state, "sync", name)
        assert code == 1
        said, _, known = output.partition("; it has ")
        assert said == f"error: Airflow has no dataset {name}"
        # Airflow shows a dataset of another test for a while after its file is gone.
        assert set(known.rstrip(".\n").split(", ")) >= set(DATASETS)

    add_dataset_file("unreadable", "load_mode: sometimes\n")
    wait_for(lambda: share.airflow.ask("GET", "/importErrors")["import_errors"], "Airflow has read the file")
    code, output = output_of(share.stack.state, "sync", "unreadable")
    assert code == 1
    assert " unreadable.yaml is not a valid dataset file:\n" in output
    assert "  line 1: load_mode: Input should be 'replace', 'append' or 'merge' (found: 'sometimes')\n" in output
    assert "Traceback" not in output


def test_status_for_programs(share: RunningShare) -> None:
    wait_for(lambda: set(share.stack.health().values()) == {"healthy"}, "all is healthy")
    run_id = share.airflow.trigger("sync_shared_forecasts", conf={"dry_run": True})
    share.airflow.wait("sync_shared_forecasts", run_id, 180)
    code, output = output_of(share.stack.state, "status", "--json")
    assert code == 0, output
    found = json.loads(output)
    last = {sync["dataset"]: sync["last_run"] for sync in found.pop("datasets")}
    assert set(last) >= set(DATASETS)
    ended = share.airflow.run("sync_shared_forecasts", run_id)
    assert last["shared_forecasts"] == {key: ended[key] for key in ("dag_run_id", "state", "run_after")}
    assert found.pop("processes") >= 5
    names = ("metadatabase", "scheduler", "triggerer", "dag_processor", "databricks", "snowflake")
    assert found == {
        "state": "ready",
        "airflow_url": share.endpoints.airflow_url,
        "state_folder": str(share.stack.state),
        "parts": dict.fromkeys(names, "healthy"),
    }


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
    (tmp_path / "endpoints.json").unlink()
    assert output_of(tmp_path, "status") == (1, "A stack is starting. Wait for it, or stop it: make down\n")


def test_connections_of_the_shell_reach_airflow_but_those_of_the_share(share: RunningShare) -> None:
    environments = []
    for process in share.stack.processes():
        # A task's or a parser's process may end while its turn comes.
        with suppress(psutil.NoSuchProcess):
            environments.append(process.environ())
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
    for words in (["sync", "shared_forecasts"], ["set-up"], ["env"]):
        code, output = output_of(tmp_path, *words)
        assert (code, output.strip()) == (1, "error: No stack is running. Start one: make up")
    assert output_of(tmp_path, "down") == (0, "Stopped 0 processes.\n")
    assert output_of(tmp_path, "status") == (1, "No stack is running.\n")
    code, output = output_of(tmp_path, "status", "--json")
    assert (code, json.loads(output)) == (
        1,
        {
            "state": "stopped",
            "airflow_url": None,
            "state_folder": str(tmp_path),
            "processes": 0,
            "parts": {},
            "datasets": [],
        },
    )
