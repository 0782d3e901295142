"""
How long the first sync takes after a start, and after a restart of each of Airflow's processes, beside a steady one.

One run is, for each process: a steady sync, a restart of the process, a sync as soon as the process has reported that
it works, and one more, which does not count. Then everything is stopped and started (``make down``, ``make up``), with
a sync at once after it.
"""

from __future__ import annotations

import sys
from collections import defaultdict

from benchmarks.results import Result, finish, parser, ratio, say, spread
from benchmarks.running import AIRFLOW_PARTS, DATASET, EXPORT_SECONDS, PLACES, DagRun, running

MOST = 1.5
"""Times the steady sync that a first one may take."""

_DAG = f"sync_{DATASET}"


def measure(runs: int) -> Result:
    """Start and restart, and sync after each."""
    found: dict[str, list[DagRun]] = defaultdict(list)
    with running("cold", places=PLACES) as stack:
        stack.let_exports_last(EXPORT_SECONDS)
        stack.run(_DAG)

        def sync(case: str) -> None:
            found[case].append(stack.run(_DAG))
            say(f"{case}: {found[case][-1].seconds:.1f} s")

        for _ in range(runs):
            for part in AIRFLOW_PARTS:
                sync("steady")
                stack.restart(part)
                sync(f"after {part}")
                stack.run(_DAG)
            stack.start_again()
            stack.let_exports_last(EXPORT_SECONDS)
            sync("after start")
            stack.run(_DAG)
    return result(found)


def result(found: dict[str, list[DagRun]]) -> Result:
    """Compare each case to the steady syncs."""
    seconds = {case: spread(run.seconds for run in taken) for case, taken in found.items()}
    ratios = {
        f"ratio_{case.replace(' ', '_').replace('-', '_')}": ratio(figure, seconds["steady"])
        for case, figure in seconds.items()
        if case != "steady"
    }
    return Result("cold", {"seconds": seconds, **ratios}, dict.fromkeys(ratios, MOST), where(found))


def where(found: dict[str, list[DagRun]]) -> list[str]:
    """Return for each case the part of a sync that took longer than in a steady one by most."""
    steady = {step: spread(run.split()[step] for run in found["steady"]) for step in found["steady"][0].split()}
    lines = []
    for case, taken in found.items():
        if case == "steady":
            continue
        more = {
            step: spread(run.split()[step] for run in taken)["median"] - figure["median"]
            for step, figure in steady.items()
        }
        step = max(more, key=lambda name: more[name])
        lines.append(f"{case}: {step} takes {more[step]:.2f} s longer than in a steady sync")
    return lines


if __name__ == "__main__":
    arguments = parser(__doc__).parse_args()
    sys.exit(finish(lambda: measure(arguments.runs)))
