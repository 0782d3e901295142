"""
What a sync costs by the number of rows: seconds for a million, and the memory of Airflow, through which no row passes.

Datasets of 10^4 to 10^6 rows take turns; ``--all`` adds 10^7, which takes gigabytes of memory. The rows have a BIGINT,
a DOUBLE, a TIMESTAMP and a STRING. The seconds for a million are the slope between the sizes; nearly all of them are
the work of the emulators, which compute with DuckDB.
"""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from benchmarks.results import Result, finish, parser, ratio, say, slope, spread
from benchmarks.running import Processes, airflow_part, running

SIZES = (10_000, 100_000, 1_000_000)
LARGEST = 10_000_000
BARS = {"memory_ratio": 1.1}

_LOOK_SECONDS = 0.5
_ROWS = """
    SELECT i AS id, i / 7 AS ratio, TIMESTAMPTZ '2026-01-01 00:00:00+00' + INTERVAL 1 SECOND * i AS at,
      'observation ' || i AS label
    FROM range({rows}) AS t (i)
"""
COLUMNS = """\
required_columns: [id]
create_table: from_columns
columns:
  id: NUMBER(38, 0)
  ratio: DOUBLE
  at: TIMESTAMP_LTZ
  label: VARCHAR
"""
"""The columns of :func:`numbered_rows`, as a dataset file has them."""

_DATASET = f"""\
description: Numbered rows.
source_table: main.benchmark.rows_{{rows}}
target_table: rows_{{rows}}
load_mode: replace
{COLUMNS}"""


def measure(runs: int, sizes: tuple[int, ...]) -> Result:
    """Sync datasets of these sizes in turn."""
    seconds: dict[int, list[float]] = defaultdict(list)
    memory: dict[int, list[float]] = defaultdict(list)
    with running("rows", datasets={f"rows_{size}": _DATASET.format(rows=size) for size in sizes}) as stack:
        for size in sizes:
            stack.write_source(f"main.benchmark.rows_{size}", numbered_rows(size))
        processes = Processes(stack.stack)
        for number in range(runs + 1):
            for size in sizes:
                with highest_memory(processes) as highest:
                    run = stack.run(f"sync_rows_{size}", timeout_seconds=1800)
                say(f"{size:,} rows: {run.seconds:.1f} s, {highest[0]:.0f} MiB in Airflow")
                # The first round creates the lock tables, and lets each process import what it needs.
                if number:
                    seconds[size].append(run.seconds)
                    memory[size].append(highest[0])
    return result(seconds, memory)


def numbered_rows(count: int) -> pa.Table:
    """Return the rows of a source table."""
    return duckdb.connect().execute(_ROWS.format(rows=count)).to_arrow_table()


@contextmanager
def highest_memory(processes: Processes) -> Iterator[list[float]]:
    """Look at Airflow's memory meanwhile; the highest, in MiB, is the only item of the list."""
    highest = [0.0]
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            highest[0] = max(highest[0], airflow_part(processes.memory_mib()))
            ended.wait(_LOOK_SECONDS)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield highest
    finally:
        ended.set()
        looking.join()


def result(seconds: dict[int, list[float]], memory: dict[int, list[float]]) -> Result:
    """Return the figures of all runs."""
    taken = {rows: spread(values) for rows, values in seconds.items()}
    highest = {rows: spread(values, 0) for rows, values in memory.items()}
    per_million = 1_000_000 * slope([(rows, figure["median"]) for rows, figure in taken.items()])
    figures = {
        "seconds": {str(rows): figure for rows, figure in taken.items()},
        "seconds_per_million": round(per_million, 2),
        "airflow_memory_mib": {str(rows): figure for rows, figure in highest.items()},
        "memory_ratio": ratio(highest[max(highest)], highest[min(highest)]),
    }
    where = [f"{rows:,} rows: {figure['median']:g} MiB in Airflow's processes" for rows, figure in highest.items()]
    return Result("rows", figures, BARS, where)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--all", action="store_true", help="10^7 rows too")
    arguments = options.parse_args()
    chosen = (*SIZES, LARGEST) if arguments.all else SIZES
    sys.exit(finish(lambda: measure(arguments.runs, chosen)))
