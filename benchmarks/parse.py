"""
What many dataset files cost: to the dag-processor, which parses the DAG file of all, and to the start of a step.

A fresh process runs ``dags/sync_datasets.py`` of a copy of the project with generated dataset files. The import of
Airflow, of the providers and of the package is in no figure: the processes of Airflow import them once, before they
parse or fork. The garbage collector stays on, as it is there.

- ``parse``: the DAG file, as the dag-processor runs it
- ``step``: from the fork of a process to the DAG of its task, as the process of each task reads it

All figures are processor time: parsing waits for nothing, and other work on the machine would be in the time of the
clock. The numbers of files take turns.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.results import Result, finish, parser, ratio, slope, spread
from benchmarks.running import make_project, write_datasets
from sandbox.settings import PROJECT

SIZES = (1, 10, 100, 500)
BARS = {"ms_per_dataset": 3.0, "step_ratio": 1.1}

_STEPS_PER_RUN = 5
_DATASET = """\
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


def dataset_files(first: int, last: int) -> dict[str, str]:
    """Return the names and contents of the dataset files with these numbers."""
    return {
        f"forecasts_{number:04}": _DATASET.format(number=number, minute=number % 60)
        for number in range(first, last + 1)
    }


class Measured:
    """
    The DAG file of a copy of the project, run in this process.

    :param home: the copy, without dataset files
    """

    def __init__(self, home: Path) -> None:
        sys.path[:0] = [str(home / "plugins")]
        self._home = home
        self._datasets = home / "include" / "datasets"
        self._dag_file = home / "dags" / "sync_datasets.py"
        self._code = compile(self._dag_file.read_text(encoding="utf-8"), self._dag_file, "exec")

    def have(self, size: int) -> None:
        """Let the folder hold so many dataset files."""
        there = len(list(self._datasets.glob("*.yaml")))
        write_datasets(self._home, dataset_files(there + 1, size))
        for name in dataset_files(size + 1, there):
            (self._datasets / f"{name}.yaml").unlink()

    def parse(self, size: int) -> float:
        """Return the processor seconds of the DAG file; it must make a DAG of each dataset file."""
        gc.collect()
        names: dict[str, Any] = {"__name__": "sync_datasets", "__file__": str(self._dag_file)}
        began = time.process_time()
        exec(self._code, names)  # noqa: S102 - the project's own DAG file
        seconds = time.process_time() - began
        dags = [name for name in names if name.startswith("sync_forecasts_")]
        if len(dags) != size or names["invalid"]:
            raise RuntimeError(f"{len(dags)} DAGs of {size} dataset files; {names['invalid']}")
        return seconds

    def step(self) -> float:
        """Return the processor seconds of a forked process until it has the DAG of its task."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(writing, str(self._dag_of_task()).encode())
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as answer:
            seconds = answer.read()
        os.waitpid(child, 0)
        if not seconds:
            raise RuntimeError("A process of a step has not found its DAG")
        return float(seconds)

    def _dag_of_task(self) -> float:
        """Read the DAG as the process of a task does, and return the processor seconds of this process."""
        from airflow.dag_processing.dagbag import BundleDagBag

        dag_id = "sync_forecasts_0001"
        os.environ["_AIRFLOW_PARSING_CONTEXT_DAG_ID"] = dag_id
        bag = BundleDagBag(
            dag_folder=str(self._dag_file),
            safe_mode=False,
            load_op_links=False,
            bundle_path=self._home / "dags",
            bundle_name="dags-folder",
        )
        bag.dags[dag_id]
        return time.process_time()


def measure_here(home: Path, runs: int) -> None:
    """Measure in this process, and print the seconds as JSON."""
    measured = Measured(home)
    # What is imported late belongs to no run.
    measured.have(1)
    measured.parse(1)
    measured.step()
    import airflow.dag_processing.dagbag  # noqa: F401 - the steps fork with it, as they do from a supervisor

    seconds: dict[str, dict[int, list[float]]] = {"parse": defaultdict(list), "step": defaultdict(list)}
    # The sizes go up and down again, so that a drift of the machine evens out.
    turns = [size for number in range(runs) for size in (SIZES if number % 2 == 0 else reversed(SIZES))]
    # The steps come first: Airflow forks no process that has parsed hundreds of DAGs, which takes longer.
    gc.collect()
    for size in turns:
        measured.have(size)
        seconds["step"][size] += [measured.step() for _ in range(_STEPS_PER_RUN)]
    for size in turns:
        measured.have(size)
        seconds["parse"][size].append(measured.parse(size))
    print(json.dumps(seconds))


def measure(runs: int) -> Result:
    """Measure in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="parse-datasets-") as folder:
        home = make_project(Path(folder), {})
        for path in (home / "include" / "datasets").glob("*.yaml"):
            path.unlink()
        environment = {
            **os.environ,
            "AIRFLOW_HOME": str(home / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(home / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        }
        command = [sys.executable, "-m", "benchmarks.parse", "--in-project", str(home), "--runs", str(runs)]
        done = subprocess.run(  # noqa: S603
            command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
    return result(json.loads(done.stdout.splitlines()[-1]))


def result(seconds: dict[str, dict[str, list[float]]]) -> Result:
    """Return the figures of all runs."""
    parse = {size: spread((1000 * value for value in values), 2) for size, values in seconds["parse"].items()}
    step = {size: spread((1000 * value for value in values), 2) for size, values in seconds["step"].items()}
    few, many = str(min(SIZES)), str(max(SIZES))
    figures = {
        "parse_ms": parse,
        "step_ms": step,
        "ms_per_dataset": round(slope([(int(size), figure["median"]) for size, figure in parse.items()]), 3),
        "step_ratio": ratio(step[many], step[few]),
    }
    where = [
        f"{size} datasets: {parse[size]['median']:.0f} ms to parse, {step[size]['median']:.1f} ms to start a step"
        for size in parse
    ]
    return Result("parse", figures, BARS, where)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--in-project", type=Path, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.in_project:
        measure_here(arguments.in_project, arguments.runs)
    else:
        sys.exit(finish(lambda: measure(arguments.runs)))
