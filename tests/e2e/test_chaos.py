"""
Sixty syncs, each with something that goes wrong: what is called complete is complete, and all else changed nothing.

What goes wrong is drawn from a seed, which is printed: `CHAOS_SEED=7 CHAOS_SYNCS=60` repeats it as far as time does.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
import snowflake.connector

from tests.airflow_client import AirflowClient, AirflowError
from tests.e2e.share import RunningShare, stopped, wait_for

pytestmark = pytest.mark.tier("nightly")

SEED = int(os.environ.get("CHAOS_SEED", random.SystemRandom().randrange(10**6)))
SYNCS = int(os.environ.get("CHAOS_SYNCS", "60"))
STEPS = ("export_to_s3", "wait_for_export", "copy_into_staging", "check_staging", "publish")
MODES = ("replace", "append", "merge")
END_SECONDS = 600
LOOK_SECONDS = 0.5
DATASET = """\
description: Made for chaos.
source_table: main.chaos.{mode}
target_table: chaos_{mode}
load_mode: {mode}
required_columns: [k]
create_table: from_columns
columns: {{k: "NUMBER(38, 0)", name: VARCHAR, version: "NUMBER(38, 0)"}}
"""

Rows = Counter[tuple[Any, ...]]


@dataclass
class Line:
    """One dataset, which a thread of its own syncs again and again."""

    share: RunningShare
    mode: str
    airflow: AirflowClient
    chance: random.Random
    target: Rows = field(default_factory=Counter)

    @property
    def dag_id(self) -> str:
        return f"sync_chaos_{self.mode}"

    def write(self, version: int) -> Rows:
        keys = self.chance.sample(range(40), self.chance.randint(1, 30))
        rows = [{"k": key, "name": f"of {version}", "version": version} for key in keys]
        schema = pa.schema({"k": pa.int64(), "name": pa.string(), "version": pa.int64()})
        self.share.write_source(pa.Table.from_pylist(rows, schema=schema), f"main.chaos.{self.mode}")
        return Counter(tuple(row.values()) for row in rows)

    def after(self, source: Rows) -> Rows:
        """Return the target as a sync of this source makes it."""
        if self.mode == "replace":
            return source
        if self.mode == "append":
            return self.target + source
        keys = {row[0] for row in source}
        return source + Counter({row: count for row, count in self.target.items() if row[0] not in keys})

    def tasks(self, run_id: str) -> dict[str, dict[str, Any]]:
        return self.airflow.tasks(self.dag_id, run_id)

    def mark(self, run_id: str, step: str, state: str) -> None:
        self.airflow.call(
            "PATCH", f"/dags/{self.dag_id}/dagRuns/{run_id}/taskInstances/{step}", json={"new_state": state}
        )

    def clear(self, run_id: str, step: str) -> None:
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": [step],
            "include_downstream": True,
            "only_failed": False,
        }
        self.airflow.call("POST", f"/dags/{self.dag_id}/clearTaskInstances", json=body)

    def has_ended(self, run_id: str) -> bool:
        try:
            return self.airflow.run(self.dag_id, run_id)["state"] in ("success", "failed")
        except (AirflowError, httpx.HTTPError):
            return False

    def end(self, run_id: str) -> str:
        wait_for(lambda: self.has_ended(run_id), f"{self.dag_id} {run_id} has ended", seconds=END_SECONDS)
        return str(self.airflow.run(self.dag_id, run_id)["state"])


# ---- what goes wrong


def kill_a_step(line: Line, run_id: str) -> str:
    step = line.chance.choice(STEPS)
    # That one has no process: its triggerer is killed by another kind of trouble.
    if step == "wait_for_export":
        return freeze(line, "triggerer", line.chance.uniform(1, 40))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not line.has_ended(run_id):
        task = line.tasks(run_id)[step]
        if task["state"] == "running" and task["pid"]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(task["pid"], signal.SIGKILL)
            return f"{step} killed"
        time.sleep(0.05)
    return f"{step} was not met"


def mark_a_step(line: Line, run_id: str) -> str:
    step, state = line.chance.choice(STEPS), line.chance.choice(("success", "failed"))
    time.sleep(line.chance.uniform(0, 8))
    line.mark(run_id, step, state)
    return f"{step} marked as {state}"


def cancel(line: Line, run_id: str) -> str:
    time.sleep(line.chance.uniform(0, 9))
    line.airflow.call("PATCH", f"/dags/{line.dag_id}/dagRuns/{run_id}", json={"state": "failed"})
    return "the run is cancelled"


def clear_a_step(line: Line, run_id: str) -> str:
    step = line.chance.choice(STEPS)
    if line.chance.random() < 0.6:
        line.end(run_id)
    else:
        time.sleep(line.chance.uniform(1, 9))
    line.clear(run_id, step)
    return f"{step} cleared"


def clear_and_mark(line: Line, run_id: str) -> str:
    line.end(run_id)
    step, marked = line.chance.choice(STEPS), line.chance.choice(STEPS)
    line.clear(run_id, step)
    time.sleep(line.chance.uniform(0, 4))
    line.mark(run_id, marked, state := line.chance.choice(("success", "failed")))
    return f"{step} cleared, {marked} marked as {state}"


def freeze(line: Line, part: str, seconds: float) -> str:
    with stopped(line.share, part):
        time.sleep(seconds)
    return f"the {part} stood still for {seconds:.0f} s"


def freeze_a_part(line: Line, run_id: str) -> str:
    name, longest = line.chance.choice([("api-server", 20), ("triggerer", 40), ("scheduler", 10)])
    time.sleep(line.chance.uniform(0, 6))
    return freeze(line, name, line.chance.uniform(1, longest))


def break_a_call(line: Line, run_id: str) -> str:
    url, path = line.chance.choice(
        [
            (line.share.endpoints.snowflake_url, "/api/v2/statements"),
            (line.share.endpoints.databricks_url, "/api/2"),
        ]
    )
    action = line.chance.choice([{"status": 503}, {"drop": "before"}, {"drop": "after"}, {"delay": 6}])
    skip, times = line.chance.randint(0, 12), line.chance.choice((1, 1, 2))
    order = {"path": path, "action": action, "skip": skip, "times": times}
    httpx.post(f"{url}/_sandbox/faults", json=order, timeout=30).raise_for_status()
    return f"calls {skip + 1} to {skip + times} of {path}: {action}"


def cancel_the_export(line: Line, run_id: str) -> str:
    time.sleep(line.chance.uniform(0.5, 4))
    for run in active_exports(line.share):
        with contextlib.suppress(httpx.HTTPError):
            line.share.databricks("POST", "/api/2.2/jobs/runs/cancel", {"run_id": run})
    return "all exports are cancelled on Databricks"


def nothing(line: Line, run_id: str) -> str:
    return "nothing"


TROUBLES: list[Callable[[Line, str], str]] = [
    nothing,
    kill_a_step,
    kill_a_step,
    mark_a_step,
    mark_a_step,
    cancel,
    clear_a_step,
    clear_a_step,
    clear_and_mark,
    freeze_a_part,
    break_a_call,
    break_a_call,
    cancel_the_export,
]


# ---- what must hold


def active_exports(share: RunningShare) -> list[int]:
    listed = share.databricks("GET", "/api/2.2/jobs/runs/list", {"active_only": "true"})
    return [run["run_id"] for run in listed.get("runs", [])]


@contextlib.contextmanager
def seen(share: RunningShare, table: str) -> Iterator[list[Rows]]:
    """Read a table again and again meanwhile, with a connection of its own; gives what was seen."""
    looks: list[Rows] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(LOOK_SECONDS):
            with contextlib.suppress(snowflake.connector.errors.Error):
                looks.append(Counter(share.query(f"SELECT * FROM {table}")))

    reader = threading.Thread(target=look)
    reader.start()
    try:
        yield looks
    finally:
        stop.set()
        reader.join()


def sync_with_trouble(line: Line, version: int) -> None:
    source = line.write(version)
    before, after = line.target, line.after(source)
    trouble = line.chance.choice(TROUBLES)
    table = f"chaos_{line.mode}"
    with seen(line.share, table) as looks:
        run_id = line.airflow.trigger(line.dag_id, run_id=f"chaos-{line.mode}-{version}")
        what = trouble(line, run_id)
        state = line.end(run_id)
    now = Counter(line.share.query(f"SELECT * FROM {table}"))
    ledger = line.share.query(
        f"SELECT export_path, rows_in_target FROM sync_history WHERE dag_run_id = '{run_id}' AND dataset = '{table}'"
    )
    answer = line.airflow.xcom(line.dag_id, run_id, "publish")
    told = (
        f"{line.mode} {version}: {what}: {state}, {len(ledger)} row(s) in the ledger, "
        f"{before.total()} -> {now.total()} rows"
    )
    # Shown with -s, and when the test fails.
    sys.stdout.write(f"{told}\n")
    if state == "success":
        assert answer is not None, told
        assert [path for path, _ in ledger] == [answer["export_path"]], told
    assert len(ledger) <= 1, told
    assert now == (after if ledger else before), told
    for look in looks:
        assert look in (before, after), told
    if state == "failed":
        assert line.airflow.xcom(line.dag_id, run_id, "finish_sync", "failure") is not None, told
    line.target = now


def test_what_goes_wrong_changes_nothing_and_is_never_called_complete(
    share: RunningShare, add_dataset_file: Callable[[str, str], Path]
) -> None:
    sys.stdout.write(f"CHAOS_SEED={SEED} CHAOS_SYNCS={SYNCS}\n")
    for mode in MODES:
        add_dataset_file(f"chaos_{mode}", DATASET.format(mode=mode) + ("merge_keys: [k]\n" if mode == "merge" else ""))
    endpoints = share.endpoints
    client = share.airflow
    for mode in MODES:
        wait_for(lambda mode=mode: client.call("GET", f"/dags/sync_chaos_{mode}").is_success, f"{mode} is there", 120)
    set_up = client.trigger("set_up_snowflake")
    assert client.wait("set_up_snowflake", set_up, 180)["state"] == "success"
    lines = [
        Line(
            share,
            mode,
            AirflowClient(endpoints.airflow_url, endpoints.airflow_user, endpoints.airflow_password),
            random.Random(f"{SEED} {mode}"),
        )
        for mode in MODES
    ]

    def work(line: Line) -> None:
        for version in range(SYNCS // len(lines)):
            sync_with_trouble(line, version)

    with ThreadPoolExecutor(len(lines)) as pool:
        working = [pool.submit(work, line) for line in lines]
    errors = [error for error in (line.exception() for line in working) if error is not None]
    httpx.delete(f"{endpoints.databricks_url}/_sandbox/faults", timeout=30).raise_for_status()
    httpx.delete(f"{endpoints.snowflake_url}/_sandbox/faults", timeout=30).raise_for_status()
    if errors:
        raise errors[0]
    wait_for(lambda: active_exports(share) == [], "no export is left running")
    state = httpx.get(f"{endpoints.snowflake_url}/_sandbox/state", timeout=30).raise_for_status().json()
    assert state["running"] == []
    assert [name for name in share.staging_tables() if name.startswith("CHAOS")] == []
