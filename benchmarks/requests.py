"""
How many HTTP requests one sync makes, by system, with an export of 20 s.

They are counted by the emulators. Those to S3 are of the emulators themselves; Airflow makes none.
"""

from __future__ import annotations

import sys

from benchmarks.results import Result, finish, parser, say, spread
from benchmarks.running import DATASET, requests_between, running

BARS = {"snowflake": 12, "databricks": 30}
_EXPORT_SECONDS = 20
_DAG = f"sync_{DATASET}"


def measure(runs: int) -> Result:
    """Count the requests of some syncs. The first sync is not counted: it creates the lock table."""
    counted = []
    with running("requests") as stack:
        stack.run(_DAG)
        stack.let_exports_last(_EXPORT_SECONDS)
        for _ in range(runs):
            before = stack.requests()
            stack.run(_DAG)
            counted.append(requests_between(before, stack.requests()))
            say(", ".join(f"{system}: {sum(kinds.values())}" for system, kinds in counted[-1].items()))
    return result(counted)


def result(counted: list[dict[str, dict[str, int]]]) -> Result:
    """Return the figures of all runs."""
    totals = {system: spread(sum(each[system].values()) for each in counted) for system in counted[0]}
    kinds = {
        system: {
            kind: spread(each[system].get(kind, 0) for each in counted)
            for kind in sorted({kind for each in counted for kind in each[system]})
        }
        for system in totals
    }
    where = [
        f"{system}, {kind}: {figure['median']:g}"
        for system in BARS
        if totals[system]["median"] > BARS[system]
        for kind, figure in sorted(kinds[system].items(), key=lambda item: -item[1]["median"])
    ]
    return Result("requests", {**totals, "kinds": kinds}, BARS, where)


if __name__ == "__main__":
    arguments = parser(__doc__).parse_args()
    sys.exit(finish(lambda: measure(arguments.runs)))
