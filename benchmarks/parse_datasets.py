"""
Measures how long ``dags/sync_datasets.py`` takes to parse with many dataset files.

A fresh process runs the DAG file of a copy of the project whose dataset files are generated. The import of Airflow, of
the providers and of the package is measured by itself and is in no other figure: the dag-processor imports them once,
before it parses. The garbage collector stays on, as it is there.

The figures are processor time: parsing waits for nothing, and other work on the machine would be in the time of the
clock, which is printed beside it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
SIZES = (1, 100, 500, 501)
GOAL_500_SECONDS = 3.0
GOAL_501ST_MS = 6.0

DATASET_FILE = """\
# yaml-language-server: $schema=dataset.schema.json
description: Forecasts of region {number} by place and day, shared with the web app.
source_table: main.weather.forecasts_{number}
target_table: forecasts_{number}
load_mode: merge
merge_keys: [weather_date, latitude, longitude]
schedule: "{minute} 5 * * *"
required_columns:
  - date
  - weather_date
  - latitude
  - longitude
  - forecast_temp_min_f
  - forecast_temp_max_f
  - humidity_percent
  - wind_speed_mph
max_row_change_percent: 30
checks:
  latitude_on_earth: latitude BETWEEN -90 AND 90
  longitude_on_earth: longitude BETWEEN -180 AND 180
  min_not_above_max: forecast_temp_min_f <= forecast_temp_max_f
  temperatures_possible: forecast_temp_min_f >= -130 AND forecast_temp_max_f <= 140
  humidity_possible: humidity_percent BETWEEN 0 AND 100
"""


def write_datasets(folder: Path, first: int, last: int) -> None:
    """Write the dataset files with the numbers ``first`` to ``last``."""
    for number in range(first, last + 1):
        content = DATASET_FILE.format(number=number, minute=number % 60)
        (folder / f"forecasts_{number:04}.yaml").write_text(content, encoding="utf-8")


def copy_project(home: Path) -> Path:
    """Copy what parsing reads, without the dataset files, and return their folder."""
    for folder in ("dags", "include", "plugins"):
        shutil.copytree(PROJECT / folder, home / folder, ignore=shutil.ignore_patterns("__pycache__"))
    datasets = home / "include" / "datasets"
    for path in datasets.glob("*.yaml"):
        path.unlink()
    return datasets


def measure(home: Path, pairs: int) -> None:
    """Measure in this process and print the figures as JSON."""
    began = time.perf_counter()
    sys.path[:0] = [str(home / "plugins")]
    dag_file = home / "dags" / "sync_datasets.py"
    code = compile(dag_file.read_text(encoding="utf-8"), dag_file, "exec")
    # The first run, with one dataset, brings in what is imported late.
    datasets = home / "include" / "datasets"
    write_datasets(datasets, 1, 1)

    def parse(size: int) -> tuple[float, float, dict[str, Any]]:
        """Have the folder hold so many files, run the DAG file; return seconds of processor and clock, and names."""
        there = len(list(datasets.glob("*.yaml")))
        write_datasets(datasets, there + 1, size)
        for number in range(size + 1, there + 1):
            (datasets / f"forecasts_{number:04}.yaml").unlink()
        gc.collect()
        names: dict[str, Any] = {"__name__": "sync_datasets", "__file__": str(dag_file)}
        clock, processor = time.perf_counter(), time.process_time()
        exec(code, names)  # noqa: S102 - the project's own DAG file
        processor, clock = time.process_time() - processor, time.perf_counter() - clock
        dags = [name for name in names if name.startswith("sync_forecasts_")]
        if len(dags) != size or names["invalid"]:
            raise RuntimeError(f"{len(dags)} DAGs of {size} dataset files; {names['invalid']}")
        return processor, clock, names

    def one_more() -> float:
        """Parse 500 files, then the 501st by itself, and return the seconds of the latter."""
        *_, names = parse(500)
        write_datasets(datasets, 501, 501)
        began = time.process_time()
        names["sync_dag"](read_dataset(datasets / "forecasts_0501.yaml"))
        return time.process_time() - began

    def parse_for_task(size: int) -> float:
        """Return the processor seconds of the DAG file in the process of a task, of one dataset among so many."""
        parse(size)
        gc.collect()
        os.environ["_AIRFLOW_PARSING_CONTEXT_DAG_ID"] = "sync_forecasts_0001"
        began = time.process_time()
        exec(code, {"__name__": "sync_datasets", "__file__": str(dag_file)})  # noqa: S102
        seconds = time.process_time() - began
        del os.environ["_AIRFLOW_PARSING_CONTEXT_DAG_ID"]
        return seconds

    parse(1)
    imports = time.perf_counter() - began
    from data_share.dataset_files import read_dataset

    runs = {size: [parse(size)[:2] for _ in range(30 if size < 10 else 3)] for size in SIZES}
    # Which of a pair goes first changes from pair to pair, so that a drift of the machine evens out.
    differences = []
    for pair in range(pairs):
        seconds = {size: parse(size)[0] for size in ((500, 501) if pair % 2 else (501, 500))}
        differences.append(seconds[501] - seconds[500])
    alone = [one_more() for _ in range(pairs)]
    tasks = {size: [parse_for_task(size) for _ in range(7)] for size in (1, 500)}
    print(json.dumps({"imports": imports, "runs": runs, "differences": differences, "alone": alone, "tasks": tasks}))


def main() -> None:
    """Measure in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description="Measure how long many dataset files take to parse.")
    parser.add_argument("--pairs", type=int, default=15, help="paired runs with 500 and 501 files")
    parser.add_argument("--in-project", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_project:
        measure(arguments.in_project, arguments.pairs)
        return
    with tempfile.TemporaryDirectory(prefix="parse-datasets-") as folder:
        home = Path(folder)
        copy_project(home)
        environment = {
            **os.environ,
            "AIRFLOW_HOME": str(home / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(home / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        }
        command = [sys.executable, __file__, "--in-project", str(home), "--pairs", str(arguments.pairs)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    report(json.loads(done.stdout.splitlines()[-1]))


def report(figures: dict[str, Any]) -> None:
    """Print the figures and compare them to the goals."""
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} processors; medians")
    print(f"imports, with a first parse: {figures['imports']:.2f} s, not in the table\n")
    print("dataset files   seconds   ms per dataset   seconds of the clock")
    medians = {}
    for size, runs in figures["runs"].items():
        processor, clock = (statistics.median(seconds) for seconds in zip(*runs, strict=True))
        medians[int(size)] = processor
        print(f"{size:>13} {processor:9.3f} {processor / int(size) * 1000:16.2f} {clock:22.3f}")
    differences = [seconds * 1000 for seconds in figures["differences"]]
    low, extra, high = statistics.quantiles(differences, n=4)
    alone = statistics.median(figures["alone"]) * 1000
    print(f"\nthe 501st: {extra:.2f} ms, median of {len(differences)} pairs (middle half: {low:.2f} to {high:.2f} ms)")
    print(f"           {alone:.2f} ms by itself, after 500 others; median of {len(figures['alone'])} runs")
    few, many = (statistics.median(seconds) * 1000 for seconds in figures["tasks"].values())
    print(f"in the process of a task: {few:.1f} ms with one dataset, {many:.1f} ms with 500")
    print(f"\ngoal: 500 files in under {GOAL_500_SECONDS:g} s: {verdict(medians[500], GOAL_500_SECONDS)}")
    # A difference of whole runs tells nothing when it varies by more than what is sought.
    shown, by = (alone, "by itself") if high - low > GOAL_501ST_MS else (extra, "by pairs")
    print(f"goal: the 501st in under {GOAL_501ST_MS:g} ms, {by}: {verdict(shown, GOAL_501ST_MS)}")


def verdict(value: float, goal: float) -> str:
    """Compare a figure to its goal in words."""
    return f"reached, at {value / goal:.0%} of it" if value < goal else f"missed, at {value / goal:.0%} of it"


if __name__ == "__main__":
    main()
