"""
What a sync costs that exports only what has changed, against the full sync of the same table, in one run.

A table of 5,000,000 rows, of which each turn updates, deletes and inserts 0.1 % together. Turns with the change data
feed and turns without it, where two versions are compared, take turns; after each comes a sync that finds nothing new.
The emulators compute with DuckDB; seconds on real accounts depend on their warehouses.
"""

from __future__ import annotations

import sys
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from benchmarks.results import Result, finish, parser, say, spread
from benchmarks.rows import COLUMNS, numbered_rows
from benchmarks.running import Running, requests_between, running
from emulators.databricks.unity_catalog import table_uri
from emulators.s3 import s3_filesystem, storage_options

ROWS = 5_000_000
BARS = {"bytes_percent": 1, "rows_percent": 1, "requests_of_nothing_new": 0}

_MODES = ("feed", "compare")
_DATASET = f"""\
description: Numbered rows, of which some change.
source_table: main.benchmark.changing_{{mode}}
target_table: changing_{{mode}}
load_mode: merge
merge_keys: [id]
delete_missing: true
incremental: true
{COLUMNS}"""


class Source:
    """
    The source table of a mode.

    :param stack: the running stack
    :param mode: ``feed`` for a table with a change data feed, ``compare`` for one without
    :param rows: number of its rows
    """

    def __init__(self, stack: Running, mode: str, rows: int) -> None:
        self.uri, self.options = table_uri(f"main.benchmark.changing_{mode}"), storage_options(stack.endpoints.s3_url)
        self._rows, self._turn = rows, 0
        properties = {"delta.enableChangeDataFeed": str(mode == "feed").lower()}
        write_deltalake(self.uri, numbered_rows(rows), configuration=properties, storage_options=self.options)

    def change(self) -> None:
        """Update 0.08 % of the rows, delete 0.01 % and insert as many."""
        self._turn += 1
        table = DeltaTable(self.uri, storage_options=self.options)
        table.update(updates={"ratio": "ratio + 1"}, predicate=f"id % 1250 = {self._turn}")
        table.delete(f"id % 10000 = {self._turn + 5000}")
        some = numbered_rows(self._rows // 10_000)
        ids = pa.array([self._rows * self._turn + row for row in range(some.num_rows)], some.schema.field("id").type)
        write_deltalake(self.uri, some.set_column(0, "id", ids), mode="append", storage_options=self.options)


def measure(runs: int, rows: int) -> Result:
    """Sync both tables whole, and then what has changed."""
    whole: dict[str, dict[str, Any]] = {}
    turns: dict[str, list[dict[str, Any]]] = {mode: [] for mode in _MODES}
    nothing: list[int] = []
    with running("increments", datasets={f"changing_{mode}": _DATASET.format(mode=mode) for mode in _MODES}) as stack:
        stack.let_sources_change(on=False)
        sources = {mode: Source(stack, mode, rows) for mode in _MODES}
        for mode in _MODES:
            whole[mode] = synced(stack, mode, "full")
        for _ in range(runs):
            for mode in _MODES:
                sources[mode].change()
                turns[mode].append(synced(stack, mode, mode))
                before = stack.requests()["snowflake"]
                stack.run(f"sync_changing_{mode}")
                counts = requests_between({"snowflake": before}, {"snowflake": stack.requests()["snowflake"]})
                nothing.append(sum(counts["snowflake"].values()))
    return result(whole, turns, nothing)


def synced(stack: Running, mode: str, expected: str) -> dict[str, Any]:
    """Sync a table, and return what it has cost."""
    dag_id = f"sync_changing_{mode}"
    run = stack.run(dag_id, timeout_seconds=1800)
    path = f"/dags/{dag_id}/dagRuns/{run.run_id}/taskInstances/publish/xcomEntries/return_value"
    answer: dict[str, Any] = stack.airflow("GET", path).raise_for_status().json()["value"]
    if answer["export_mode"] != expected:
        raise RuntimeError(f"{mode}: the export was {answer['export_mode']}, not {expected}: {answer['export_reason']}")
    files = s3_filesystem(stack.endpoints.s3_url)
    cost = {"bytes": files.du(f"{answer['export_path']}data/"), "rows": answer["rows_loaded"], "seconds": run.seconds}
    say(f"{mode}, {expected}: {cost['rows']:,} rows, {cost['bytes']:,} bytes, {run.seconds:.1f} s")
    return cost


def result(whole: dict[str, dict[str, Any]], turns: dict[str, list[dict[str, Any]]], nothing: list[int]) -> Result:
    """Return the figures of all runs."""

    def percent(name: str) -> dict[str, float]:
        return spread(100 * turn[name] / whole[mode][name] for mode in turns for turn in turns[mode])

    seconds = {mode: spread(turn["seconds"] for turn in turns[mode]) for mode in turns}
    figures = {
        "bytes_percent": percent("bytes"),
        "rows_percent": percent("rows"),
        "requests_of_nothing_new": spread(nothing),
        "seconds": {**seconds, **{f"full for {mode}": round(cost["seconds"], 1) for mode, cost in whole.items()}},
        "full": {mode: {name: cost[name] for name in ("bytes", "rows")} for mode, cost in whole.items()},
    }
    where = [f"{mode}: {turns[mode]}" for mode in turns]
    return Result("increments", figures, BARS, where)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=ROWS, help=f"rows of each table; default: {ROWS:,}")
    arguments = options.parse_args()
    sys.exit(finish(lambda: measure(arguments.runs, arguments.rows)))
