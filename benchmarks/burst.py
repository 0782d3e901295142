"""
What happens when 100 syncs of 100 datasets are started at once, with exports of 30 s and four places for tasks.

Measured are the time until the last has ended (``makespan``), the tasks that held a place while they only waited for
Databricks, memory, and how fast the api-server answered a client that asked for runs meanwhile. Then a fifth as many
DAGs of stock operators (``benchmarks/dags/stock_sync.py``, which look at their runs every second) run at once, scaled
to all. At the end, 20 clients send 200 POSTs within 10 s, every other one for the second time: each has to be answered
with 200 or 409.

``makespan_ratio`` compares the makespan to the least that it could be: the processor time of the whole stack divided by
the cores, and one export. One run takes 15 minutes, so the default is one.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.results import BenchmarkError, Result, finish, parser, percentile, say, spread
from benchmarks.running import EAGER, Processes, Running, airflow_part, running, seconds_of

BARS = {
    "slots_held_waiting": 0,
    "makespan_ratio": 1.25,
    "makespan_of_stock": 1 / 3,
    "posts_refused": 0,
    "failed": 0,
    "p99_seconds": 1.0,
    "presses_refused": 0,
}

SYNCS = 100
STOCK_PART = 5
"""One stock DAG runs for so many syncs."""

ACCEPTED = (200, 409)
"""A run was made, or is there already."""

_EXPORT_SECONDS = 30
_ATTEMPTS = 10
_SOURCE = "main.weather.daily_observations"
_CLIENTS = 20
_PRESSES = 200
_PRESS_SECONDS = 10
_PATIENCE_SECONDS = 30
_LOOK_SECONDS = 1.0
# The system counts what processes share page by page: each look takes a fifth of a second of a core.
_MEMORY_SECONDS = 15
_ASK_SECONDS = 0.5
_ALL_SECONDS = 3600
_DATASET = """\
description: Observations of a year, one of many datasets.
source_table: main.weather.daily_observations
target_table: {name}
load_mode: replace
required_columns: [station, observed_on]
"""


@dataclass
class Watched:
    """
    What was seen while runs were active.

    :param waiting: highest number of tasks at once that were running, and only waited
    :param memory: highest memory of Airflow's processes, MiB
    :param asked: seconds that each GET took
    """

    waiting: int = 0
    memory: float = 0.0
    asked: list[float] = field(default_factory=list)


def measure(runs: int, syncs: int) -> Result:
    """Start all at once, the syncs and then the stock DAGs, as often as asked."""
    found: list[dict[str, Any]] = []
    names = [f"burst_{number:03}" for number in range(syncs)]
    stock = {f"burst_stock_{number:03}": EAGER for number in range(max(1, syncs // STOCK_PART))}
    with running("burst") as stack:
        allow_runs(stack, 10 * syncs)
        stack.let_exports_last(_EXPORT_SECONDS)
        # The source changes once before each burst: a commit for each sync would be work of the emulators alone.
        stack.let_sources_change(on=False)
        for name in names:
            stack.endpoints.query(f"CREATE TABLE {name} LIKE daily_observations")
        stack.add_datasets({name: _DATASET.format(name=name) for name in names})
        stack.add_stock_dags(_SOURCE, stock, like="daily_observations")
        stack.run("sync_daily_observations")
        for _ in range(runs):
            stack.change_source(_SOURCE)
            figures = burst(stack, [f"sync_{name}" for name in names], "wait_for_export")
            say(f"{syncs} syncs: {figures['makespan']:.0f} s; {figures['answers']}")
            of_stock = burst(stack, [f"stock_{table}" for table in stock], "export")
            say(f"{len(stock)} stock DAGs: {of_stock['makespan']:.0f} s")
            found.append(figures | {f"stock_{name}": value for name, value in of_stock.items()})
        answers = presses(stack, [f"sync_{name}" for name in names])
        say(f"presses: {answers}")
    return result(found, answers, len(stock) / syncs)


def allow_runs(stack: Running, count: int) -> None:
    """Let the export job have so many runs at once: its queue is not what is measured."""
    [job] = stack.databricks("GET", "/api/2.2/jobs/list", name="export_dataset")["jobs"]
    settings = stack.databricks("GET", "/api/2.2/jobs/get", job_id=job["job_id"])["settings"]
    settings["max_concurrent_runs"] = count
    stack.databricks("POST", "/api/2.2/jobs/reset", job_id=job["job_id"], new_settings=settings)


def burst(stack: Running, dag_ids: Sequence[str], waits: str) -> dict[str, Any]:
    """
    Start a run of each DAG at once, and return the figures when all have ended.

    :param waits: the task that waits for the export
    """
    processes = Processes(stack.stack)
    before, began = sum(processes.cpu_seconds().values()), time.time()
    with watched(stack, processes, waits) as seen:
        run_id, answers = post_all(stack, dag_ids)
        wait_for_all(stack)
    ends = [end_of(stack, dag_id, run_id) for dag_id in dag_ids]
    cpu = sum(processes.cpu_seconds().values()) - before
    least = cpu / (os.cpu_count() or 1) + _EXPORT_SECONDS
    return {
        "answers": dict(answers),
        "refused": sum(count for status, count in answers.items() if status not in ACCEPTED),
        "makespan": max(end for end, _ in ends) - began,
        "failed": sum(not succeeded for _, succeeded in ends),
        "cpu": cpu,
        "least": least,
        "waiting": seen.waiting,
        "memory": seen.memory,
        "p99": percentile(seen.asked, 99),
    }


def post_all(stack: Running, dag_ids: Sequence[str]) -> tuple[str, Counter[int]]:
    """
    Start a run of each DAG, by many clients at once; return the id of all runs and how many answers had a status.

    A client whose POST is refused sends it again after a second.
    """
    run_id = f"burst-{time.time_ns()}"
    stack.airflow("GET", "/version")

    def until_it_is_there(dag_id: str) -> list[int]:
        statuses = [press(stack, dag_id, run_id)]
        while statuses[-1] not in ACCEPTED:
            if len(statuses) == _ATTEMPTS:
                raise BenchmarkError(f"{dag_id} was not started: {statuses}; logs: {stack.stack.logs}")
            time.sleep(_LOOK_SECONDS)
            statuses.append(press(stack, dag_id, run_id))
        return statuses

    with ThreadPoolExecutor(_CLIENTS) as clients:
        return run_id, Counter(status for each in clients.map(until_it_is_there, dag_ids) for status in each)


def press(stack: Running, dag_id: str, run_id: str, timeout_seconds: float = 120) -> int:
    """Start a run, and return the status of the answer; 0 if there was none in time."""
    body: dict[str, Any] = {"dag_run_id": run_id, "logical_date": None, "conf": {}}
    try:
        return stack.airflow("POST", f"/dags/{dag_id}/dagRuns", json=body, timeout=timeout_seconds).status_code
    except httpx.HTTPError:
        return 0


def wait_for_all(stack: Running) -> None:
    """Wait until no run is active any more."""
    deadline = time.monotonic() + _ALL_SECONDS
    while True:
        answer = stack.airflow("GET", "/dags/~/dagRuns", params={"state": ["queued", "running"], "limit": 1})
        if answer.is_success and not answer.json()["total_entries"]:
            return
        if time.monotonic() > deadline:
            raise BenchmarkError(f"Runs are still active after {_ALL_SECONDS} s; logs: {stack.stack.logs}")
        time.sleep(_LOOK_SECONDS)


def end_of(stack: Running, dag_id: str, run_id: str) -> tuple[float, bool]:
    """Return when a run ended, seconds since 1970, and whether it succeeded."""
    run = stack.airflow("GET", f"/dags/{dag_id}/dagRuns/{run_id}").raise_for_status().json()
    return seconds_of(run["end_date"]), run["state"] == "success"


@contextmanager
def watched(stack: Running, processes: Processes, waits: str) -> Iterator[Watched]:
    """Look at tasks, memory and the api-server meanwhile."""
    seen = Watched()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_SECONDS):
            with suppress(httpx.HTTPError):
                query = {"state": "running", "limit": 100}
                answer = stack.airflow("GET", "/dags/~/dagRuns/~/taskInstances", params=query).raise_for_status()
                running_tasks = answer.json()["task_instances"]
                seen.waiting = max(seen.waiting, sum(task["task_id"] == waits for task in running_tasks))

    def weigh() -> None:
        while not ended.wait(_MEMORY_SECONDS):
            seen.memory = max(seen.memory, airflow_part(processes.memory_mib()))

    def ask() -> None:
        while not ended.wait(_ASK_SECONDS):
            began = time.perf_counter()
            # An answer that does not come counts with the seconds until the client gives up.
            with suppress(httpx.HTTPError):
                stack.airflow("GET", "/dags/~/dagRuns", params={"limit": 1})
            seen.asked.append(time.perf_counter() - began)

    watchers = [threading.Thread(target=work, daemon=True) for work in (look, weigh, ask)]
    for watcher in watchers:
        watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        for watcher in watchers:
            watcher.join()


def presses(stack: Running, dag_ids: Sequence[str]) -> dict[int, int]:
    """
    Let clients send POSTs for ten seconds, each run's twice; return how many answers had a status, 0 for none.

    A client sends a POST after the answer to the one before. What it has not sent when the time is long over counts as
    not answered.
    """
    began = time.monotonic()

    def of_client(client: int) -> list[int]:
        found = []
        each = _PRESSES // _CLIENTS
        for number in range(each):
            time.sleep(max(0.0, began + number * _PRESS_SECONDS / each - time.monotonic()))
            dag_id = dag_ids[(client * each + number // 2) % len(dag_ids)]
            left = began + _PRESS_SECONDS + _PATIENCE_SECONDS - time.monotonic()
            run_id = f"press-{client}-{number // 2}"
            found.append(press(stack, dag_id, run_id, min(left, _PATIENCE_SECONDS)) if left > 0 else 0)
        return found

    with ThreadPoolExecutor(_CLIENTS) as clients:
        return dict(Counter(status for each in clients.map(of_client, range(_CLIENTS)) for status in each))


def result(found: Sequence[dict[str, Any]], answers: dict[int, int], part: float) -> Result:
    """
    Return the figures of all runs.

    :param answers: how many answers to the presses had a status
    :param part: how many stock DAGs ran for each sync
    """
    makespan = spread((each["makespan"] for each in found), 1)
    stock = spread((each["stock_makespan"] / part for each in found), 1)
    figures = {
        "makespan": makespan,
        "makespan_ratio": spread(each["makespan"] / each["least"] for each in found),
        "makespan_of_stock": round(makespan["median"] / stock["median"], 3),
        "stock_makespan_scaled": stock,
        "cpu_seconds": spread((each["cpu"] for each in found), 1),
        "slots_held_waiting": max(each["waiting"] for each in found),
        "stock_slots_held_waiting": max(each["stock_waiting"] for each in found),
        "airflow_memory_mib": spread((each["memory"] for each in found), 0),
        "p99_seconds": spread(each["p99"] for each in found),
        "posts_refused": sum(each["refused"] for each in found),
        "failed": sum(each["failed"] for each in found),
        "stock_failed": sum(each["stock_failed"] for each in found),
        "presses": {str(status): count for status, count in sorted(answers.items())},
        "presses_refused": sum(count for status, count in answers.items() if status not in ACCEPTED),
    }
    cores = os.cpu_count() or 1
    where = [
        f"processor time of the stack, divided by {cores} cores: {figures['cpu_seconds']['median'] / cores:.0f} s",
        f"one export: {_EXPORT_SECONDS} s",
        f"cores that were idle, the rest: {makespan['median'] - spread(e['least'] for e in found)['median']:.0f} s",
        f"answers to presses, by status (0 is none): {figures['presses']}",
    ]
    return Result("burst", figures, BARS, where)


if __name__ == "__main__":
    options = parser(__doc__, runs=1)
    options.add_argument("--syncs", type=int, default=SYNCS, help="syncs at once (default: %(default)s)")
    arguments = options.parse_args()
    sys.exit(finish(lambda: measure(arguments.runs, arguments.syncs)))
