"""
How long a sync takes from the POST to the state ``success``, compared to a warm script and to stock operators.

All take turns on one stack: A B C A B C ... Each exports the same 100,809 rows by the same job, which lasts 2.3 s,
and loads them into a table of its own. The script (``benchmarks/script.py``) has one process without any orchestrator;
the DAG of stock operators (``benchmarks/dags/stock_sync.py``) runs in the same Airflow, once with the operators'
defaults, where ``DatabricksRunNowOperator`` looks at its run every 30 s (``stock``), and once so that it looks every
second (``eager_stock``). A first round is not counted.
"""

from __future__ import annotations

import sys
from collections import defaultdict

from benchmarks.results import Result, finish, longest, parser, ratio, say, spread
from benchmarks.running import DATASET, EAGER, EXPORT_SECONDS, PLACES, SOURCE, DagRun, Running, running, seconds_of
from benchmarks.script import WarmScript

BARS = {"ratio_script": 2.0, "ratio_stock": 0.40}

_SCRIPT_TABLE = "script_forecasts"
_STOCK = {"forecasts": {}, "eager_forecasts": EAGER}


def measure(runs: int) -> Result:
    """Run all in turn."""
    seconds: dict[str, list[float]] = defaultdict(list)
    split: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with running("latency", places=PLACES) as stack:
        stack.let_exports_last(EXPORT_SECONDS)
        stack.endpoints.query(f"CREATE TABLE {_SCRIPT_TABLE} LIKE {DATASET}")
        stack.add_stock_dags(SOURCE, _STOCK)
        script = WarmScript(stack, _SCRIPT_TABLE)
        for number in range(runs + 1):
            sides = {
                "script": script.run(),
                "sync": run_of(stack, f"sync_{DATASET}", "wait_for_export"),
                "eager_stock": run_of(stack, "stock_eager_forecasts", "export"),
                "stock": run_of(stack, "stock_forecasts", "export"),
            }
            say(f"round {number}: " + ", ".join(f"{side} {steps['all']:.2f} s" for side, steps in sides.items()))
            for side, steps in sides.items() if number else ():
                seconds[side].append(steps.pop("all"))
                for step, value in steps.items():
                    split[side][step].append(value)
        script.close()
    return result(seconds, split)


def run_of(stack: Running, dag_id: str, waits: str) -> dict[str, float]:
    """
    Run a DAG once, and return its seconds, split.

    :param waits: the task that waits for the export
    """
    run = stack.run(dag_id)
    began, ended = stack.last_export()
    return run.split() | {"all": run.seconds, "export on Databricks": ended - began} | detection(run, waits, ended)


def detection(run: DagRun, waits: str, ended: float) -> dict[str, float]:
    """Return the seconds between the export's end and the end of the task that waits for it."""
    [end] = [seconds_of(task["end_date"]) for task in run.tasks if task["task_id"] == waits]
    return {"end of export noticed after": end - ended}


def result(seconds: dict[str, list[float]], split: dict[str, dict[str, list[float]]]) -> Result:
    """Return the figures of all runs."""
    sides = {side: spread(values) for side, values in seconds.items()}
    steps = {side: {step: spread(values) for step, values in found.items()} for side, found in split.items()}
    figures = {
        **{f"{side}_seconds": figure for side, figure in sides.items()},
        "ratio_script": ratio(sides["sync"], sides["script"]),
        "ratio_stock": ratio(sides["sync"], sides["stock"]),
        "ratio_eager_stock": ratio(sides["sync"], sides["eager_stock"]),
        "split": steps,
    }
    shares = {step: figure for step, figure in steps["sync"].items() if step != "export on Databricks"}
    return Result("latency", figures, BARS, longest(shares, 6))


if __name__ == "__main__":
    arguments = parser(__doc__).parse_args()
    sys.exit(finish(lambda: measure(arguments.runs)))
