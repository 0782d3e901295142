"""
How much processor time a sync takes, by process, and how much the stack takes at rest.

At rest: over 60 s, before anything is added to the stack. A sync: from the POST to two seconds after its end, so that
what Airflow does afterwards counts too; what the same time takes at rest is taken off. Syncs and runs of the DAG of
stock operators (``benchmarks/dags/stock_sync.py``) take turns. An export's work is the emulators', not Airflow's.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from benchmarks.results import Result, finish, longest, parser, say, spread
from benchmarks.running import DATASET, EAGER, EXPORT_SECONDS, PLACES, SOURCE, Processes, airflow_part, running

AIRFLOW_SECONDS = 2.5
CORES_AT_REST = {"economy": 0.25, "latency": 0.40}
"""By profile of the stack; one without a profile is held to the latter."""

_REST_SECONDS = 60
_AFTERWARDS_SECONDS = 2


@dataclass(frozen=True)
class Used:
    """
    The processor seconds of each part while a piece of work was done.

    :param by_work: without what the same time takes at rest
    :param in_all: with it
    """

    by_work: dict[str, float]
    in_all: dict[str, float]


def measure(runs: int, rest_seconds: float) -> Result:
    """Measure the stack at rest, then syncs and stock DAGs in turn."""
    used: dict[str, list[Used]] = defaultdict(list)
    with running("cpu", places=PLACES) as stack:
        stack.let_exports_last(EXPORT_SECONDS)
        dags = {"sync": f"sync_{DATASET}", "stock": "stock_forecasts"}
        stack.run(dags["sync"])
        time.sleep(10)
        processes = Processes(stack.stack)
        rest = cores(processes, lambda: time.sleep(rest_seconds))
        say(f"at rest: {airflow_part(rest):.2f} cores")
        stack.add_stock_dags(SOURCE, {"forecasts": EAGER})
        stack.run(dags["stock"])
        time.sleep(10)
        rest_with_stock = cores(processes, lambda: time.sleep(rest_seconds))
        for _ in range(runs):
            for side, dag_id in dags.items():
                used[side].append(used_by(processes, partial(stack.run, dag_id), rest_with_stock))
                say(f"{side}: Airflow's part {airflow_part(used[side][-1].by_work):.2f} s of processor")
        profile = str(getattr(stack.stack.options, "profile", ""))
    return result(rest, used, profile)


def cores(processes: Processes, wait: Callable[[], object]) -> dict[str, float]:
    """Return the cores that each part keeps busy meanwhile."""
    clock, before = time.perf_counter(), processes.cpu_seconds()
    wait()
    seconds, after = time.perf_counter() - clock, processes.cpu_seconds()
    return {part: (after[part] - before[part]) / seconds for part in before}


def used_by(processes: Processes, work: Callable[[], object], rest: Mapping[str, float]) -> Used:
    """
    Return what a piece of work takes.

    :param rest: the cores that each part keeps busy at rest
    """
    clock, before = time.perf_counter(), processes.cpu_seconds()
    work()
    time.sleep(_AFTERWARDS_SECONDS)
    seconds, after = time.perf_counter() - clock, processes.cpu_seconds()
    in_all = {part: after[part] - before[part] for part in before}
    return Used({part: value - rest[part] * seconds for part, value in in_all.items()}, in_all)


def result(rest: Mapping[str, float], used: Mapping[str, list[Used]], profile: str) -> Result:
    """Return the figures of all runs."""
    by_part = {
        side: {part: spread(each.by_work[part] for each in runs) for part in runs[0].by_work}
        for side, runs in used.items()
    }
    figures = {
        "profile": profile or "none",
        "airflow_seconds": spread(airflow_part(each.by_work) for each in used["sync"]),
        "airflow_seconds_with_rest": spread(airflow_part(each.in_all) for each in used["sync"]),
        "stock_airflow_seconds": spread(airflow_part(each.by_work) for each in used["stock"]),
        "stock_airflow_seconds_with_rest": spread(airflow_part(each.in_all) for each in used["stock"]),
        "cores_at_rest": round(airflow_part(rest), 3),
        "a_sync": by_part["sync"],
        "a_stock_run": by_part["stock"],
        "at_rest": {part: round(value, 3) for part, value in rest.items()},
    }
    bars = {
        "airflow_seconds": AIRFLOW_SECONDS,
        "cores_at_rest": CORES_AT_REST.get(profile, CORES_AT_REST["latency"]),
    }
    where = [f"a sync, {line}" for line in longest(by_part["sync"])] + [
        f"at rest, {line}" for line in longest(rest, unit="cores")
    ]
    return Result("cpu", figures, bars, where)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--rest", type=float, default=_REST_SECONDS, help="seconds at rest (default: %(default)s)")
    arguments = options.parse_args()
    sys.exit(finish(lambda: measure(arguments.runs, arguments.rest)))
