"""A stack for a benchmark, its timed runs, and what its processes use."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.results import BenchmarkError, say
from emulators.databricks.unity_catalog import add_version, write_table
from emulators.s3 import s3_filesystem
from sandbox.settings import PREFERRED_PORTS, PROJECT, Settings, free_ports
from sandbox.stack import Endpoints, Stack, StackError

HOME = PROJECT / ".sandbox" / "benchmarks"
"""Folder of the benchmarks' stacks; it stays afterwards, with the logs."""

PLACES = 69
ROWS = PLACES * 1461
"""Rows of the source table that most benchmarks sync."""

EXPORT_SECONDS = 2.3
"""How long an export lasts on Databricks, for every side."""

EAGER = {"polling_period_seconds": 1}
"""What makes ``DatabricksRunNowOperator`` look at its run every second; by default it looks every 30 s."""

SOURCE = "main.weather.forecasts"
DATASET = "shared_forecasts"

AIRFLOW_PARTS = ("api-server", "scheduler", "dag-processor", "triggerer")
EMULATORS = "emulators"
OTHERS = "others"
"""What belongs to a stack and to none of its named parts, such as a database."""

_LOOK_SECONDS = 0.1
"""How often Airflow looks at a run's state for a client of ``/wait``: a state is seen half of it too late."""


@dataclass(frozen=True)
class DagRun:
    """
    A DAG run that has succeeded.

    :param seconds: from the POST until the client has read the state ``success``
    :param posted: time of the POST, seconds since 1970
    :param tasks: its task instances, in the order of their ends
    """

    dag_id: str
    run_id: str
    seconds: float
    posted: float
    tasks: list[dict[str, Any]]

    def split(self) -> dict[str, float]:
        """
        Return where the seconds went: the start, each step, the hop to each step, the end.

        A hop begins with the end of the step before and ends with the step's start.
        """
        found = {}
        before = self.posted
        for task in self.tasks:
            start, end = seconds_of(task["start_date"]), seconds_of(task["end_date"])
            found[f"hop to {task['task_id']}"] = start - before
            found[task["task_id"]] = end - start
            before = end
        return found | {"end seen": self.posted + self.seconds - before}


class Running:
    """
    A running stack.

    :param stack: the stack
    :param endpoints: its endpoints
    """

    def __init__(self, stack: Stack, endpoints: Endpoints) -> None:
        self.stack = stack
        self.endpoints = endpoints
        self.http = httpx.Client(timeout=120)
        self._token = ""
        self.let_sources_change()

    # Airflow

    def airflow(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Make a call below ``/api/v2`` and return the answer, whatever its status."""
        if not self._token:
            login = {"username": self.endpoints.airflow_user, "password": self.endpoints.airflow_password}
            answer = self.http.post(f"{self.endpoints.airflow_url}/auth/token", json=login)
            self._token = answer.raise_for_status().json()["access_token"]
        return self.http.request(method, f"{self.endpoints.airflow_url}/api/v2{path}", headers=self.sign_in, **options)

    @property
    def sign_in(self) -> dict[str, str]:
        """The header that signs a request to Airflow."""
        return {"Authorization": f"Bearer {self._token}"}

    def post_run(self, dag_id: str, run_id: str | None = None) -> tuple[str, float]:
        """Start a run, and return its id and the time of the POST."""
        run_id = run_id or f"bench-{uuid.uuid4().hex[:12]}"
        posted = time.time()
        answer = self.airflow(
            "POST", f"/dags/{dag_id}/dagRuns", json={"dag_run_id": run_id, "logical_date": None, "conf": {}}
        )
        if not answer.is_success:
            raise BenchmarkError(f"{dag_id} was not started: {answer.status_code} {answer.text}")
        return run_id, posted

    def run(self, dag_id: str, timeout_seconds: float = 300) -> DagRun:
        """
        Start a run, wait for its success, and time both.

        :raises BenchmarkError: if the run fails or does not end in time
        """
        # A token that is still to be asked for belongs to no run.
        self.airflow("GET", "/version")
        run_id, posted = self.post_run(dag_id)
        url = f"{self.endpoints.airflow_url}/api/v2/dags/{dag_id}/dagRuns/{run_id}/wait"
        state = "unknown"
        deadline = time.monotonic() + timeout_seconds
        with self.http.stream("GET", url, params={"interval": _LOOK_SECONDS}, headers=self.sign_in) as lines:
            for line in lines.iter_lines():
                state = json.loads(line).get("state") if line.strip() else state
                if state in ("success", "failed") or time.monotonic() > deadline:
                    break
        seconds = time.time() - posted
        if state != "success":
            raise BenchmarkError(f"{dag_id} {run_id} is {state} after {seconds:.0f} s; logs: {self.stack.logs}")
        return DagRun(dag_id, run_id, seconds, posted, self.tasks(dag_id, run_id))

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of a run that have ended, in the order of their ends."""
        answer = self.airflow("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances").raise_for_status().json()
        ended = [task for task in answer["task_instances"] if task["start_date"] and task["end_date"]]
        return sorted(ended, key=lambda task: (seconds_of(task["end_date"]), seconds_of(task["start_date"])))

    def wait_for_dags(self, dag_ids: set[str], timeout_seconds: float = 180) -> None:
        """Wait until Airflow knows some DAGs."""
        deadline = time.monotonic() + timeout_seconds
        missing = set(dag_ids)
        while missing := {dag_id for dag_id in missing if self.airflow("GET", f"/dags/{dag_id}").is_error}:
            if time.monotonic() > deadline:
                raise BenchmarkError(f"Airflow has no DAG {', '.join(sorted(missing))}; logs: {self.stack.logs}")
            time.sleep(0.5)

    def add_datasets(self, datasets: Mapping[str, str]) -> None:
        """Add dataset files to the running stack, and wait until Airflow knows their DAGs."""
        write_datasets(self.stack.project, datasets)
        self.wait_for_dags({f"sync_{dataset}" for dataset in datasets})

    def add_stock_dags(self, source: str, tables: Mapping[str, Mapping[str, Any]], like: str = DATASET) -> None:
        """
        Add DAGs of stock operators (``benchmarks/dags/stock_sync.py``) with their targets, and wait for them.

        :param source: the source table of all
        :param tables: target table -> arguments of ``DatabricksRunNowOperator`` that are not its defaults
        :param like: a table whose columns the targets get
        """
        for table in tables:
            self.endpoints.query(f"CREATE TABLE {table} LIKE {like}")
        dags = self.stack.project / "dags"
        settings = {table: {"source": source, "options": dict(options)} for table, options in tables.items()}
        # The DAG file comes last: it reads the other ones.
        (dags / "stock_sync.json").write_text(json.dumps(settings), encoding="utf-8")
        for file in ("copy_into.sql", "stock_sync.py"):
            shutil.copy(PROJECT / "benchmarks" / "dags" / file, dags / file)
        self.wait_for_dags({f"stock_{table}" for table in tables})

    def start_again(self) -> None:
        """Stop everything and start it again, with the same state, as ``make down`` and ``make up`` do."""
        self.stack.stop()
        self.endpoints = self.stack.start(command="a benchmark")
        self.let_sources_change()

    def restart(self, part: str) -> None:
        """End one of Airflow's parts, start it again, and return when it has reported that it works."""
        processes = self.stack.processes_of(part)
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in psutil.wait_procs(processes, timeout=15)[1]:
            process.kill()
        began = time.time()
        self.stack.start_airflow(part, self.endpoints)
        deadline = time.monotonic() + 120
        while not self._has_reported(part, began):
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{part} does not come back; logs: {self.stack.logs}")
            time.sleep(0.1)

    def _has_reported(self, part: str, since: float) -> bool:
        try:
            answer = self.http.get(f"{self.endpoints.airflow_url}/api/v2/monitor/health").raise_for_status().json()
        except httpx.HTTPError:
            return False
        if part == "api-server":
            return True
        name = part.replace("-", "_")
        beat = answer[name][f"latest_{name}_heartbeat"]
        return bool(beat) and seconds_of(beat) > since

    # Databricks and Snowflake

    def databricks(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        """Make a call to the emulator of Databricks."""
        sent: dict[str, Any] = {"params": body} if method == "GET" else {"json": body}
        sign_in = {"Authorization": f"Bearer {self.endpoints.databricks_token}"}
        answer = self.http.request(method, f"{self.endpoints.databricks_url}{path}", headers=sign_in, **sent)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    def let_exports_last(self, seconds: float) -> None:
        """Let each export last at least so long."""
        self.databricks("POST", "/_sandbox/run_seconds", seconds=seconds)

    def let_sources_change(self, *, on: bool = True) -> None:
        """Let each sync find something new at its source, or only what is new: most benchmarks measure whole syncs."""
        self.databricks("POST", "/_sandbox/source_changes", on=on)

    def change_source(self, name: str) -> None:
        """Commit one new version of a source table, so that the next sync of each dataset finds something new."""
        add_version(self.endpoints.s3_url, s3_filesystem(self.endpoints.s3_url), name)

    def last_export(self) -> tuple[float, float]:
        """Return when the newest export began and ended, seconds since 1970."""
        [run] = self.databricks("GET", "/api/2.2/jobs/runs/list", limit=1)["runs"]
        return run["start_time"] / 1000, run["end_time"] / 1000

    def requests(self) -> dict[str, dict[str, int]]:
        """Return how many requests each emulator has answered, by kind."""
        urls = {
            "databricks": self.endpoints.databricks_url,
            "snowflake": self.endpoints.snowflake_url,
            "s3": self.endpoints.s3_url,
        }
        return {name: self.http.get(f"{url}/_sandbox/requests").raise_for_status().json() for name, url in urls.items()}

    def write_source(self, name: str, rows: Any) -> None:
        """Write a source table."""
        write_table(self.endpoints.s3_url, name, rows)


def requests_between(
    before: Mapping[str, Mapping[str, int]], after: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """Return how many requests were answered between two counts, by system and kind; without those that were not."""
    return {
        system: {
            kind: count - before[system].get(kind, 0)
            for kind, count in sorted(kinds.items())
            if count > before[system].get(kind, 0)
        }
        for system, kinds in after.items()
    }


def seconds_of(text: str) -> float:
    """Return a time of Airflow's in seconds since 1970."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


# What processes use


class Processes:
    """The processes of a stack, by part. Make it again after a part was restarted."""

    def __init__(self, stack: Stack) -> None:
        self._parts = {
            os.getsid(process.pid): part for part in (*AIRFLOW_PARTS, EMULATORS) for process in stack.processes_of(part)
        }
        for process in stack.processes():
            self._parts.setdefault(os.getsid(process.pid), OTHERS)

    def _living(self) -> Iterator[tuple[str, psutil.Process]]:
        for pid in psutil.pids():
            try:
                part = self._parts.get(os.getsid(pid))
                if part:
                    yield part, psutil.Process(pid)
            except (OSError, psutil.Error):
                continue

    def cpu_seconds(self) -> dict[str, float]:
        """
        Return the processor time of each part so far, of its ended processes too.

        A process that has ended counts as soon as its parent has taken note of its end.
        """
        found = dict.fromkeys(self._parts.values(), 0.0)
        for part, process in self._living():
            try:
                found[part] += sum(process.cpu_times()[:4])
            except psutil.Error:
                continue
        return found

    def memory_mib(self) -> dict[str, float]:
        """Return the memory of each part; what processes share is dealt out between them where the system tells it."""
        found = dict.fromkeys(self._parts.values(), 0.0)
        for part, process in self._living():
            try:
                info = process.memory_full_info()
                found[part] += getattr(info, "pss", info.rss) / 2**20
            except psutil.Error:
                continue
        return found


def airflow_part(figures: Mapping[str, float]) -> float:
    """Return the sum of all parts but the emulators."""
    return sum(value for part, value in figures.items() if part != EMULATORS)


# The stack


@contextmanager
def running(
    name: str,
    *,
    places: int = 1,
    datasets: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """
    Start a stack of its own for a benchmark, and stop it at the end.

    :param name: the benchmark; its folder is ``.sandbox/benchmarks/<name>``
    :param places: places in the source table ``main.weather.forecasts``, which has 1,461 rows for each
    :param datasets: dataset -> content of its file, beside the shipped datasets
    :raises BenchmarkError: if the stack does not start, or does not answer
    """
    project = make_project(HOME / name / "project", datasets or {})
    # The settings of the environment hold, such as those of a profile.
    options = replace(
        Settings.from_environment(),
        state=HOME / name / "state",
        places=places,
        ports=dict(zip(PREFERRED_PORTS, free_ports(), strict=True)),
    )
    stack = Stack(options, project)
    stack.stop()
    shutil.rmtree(stack.state, ignore_errors=True)
    _prepare_for_airflow(stack)
    say(f"{name}: starting a stack in {stack.state}")
    try:
        yield Running(stack, stack.start(command=f"python -m benchmarks.{name}"))
    except (httpx.HTTPError, StackError) as error:
        raise BenchmarkError(f"{type(error).__name__}: {error}; logs: {stack.logs}") from error
    finally:
        stack.stop()


def make_project(project: Path, datasets: Mapping[str, str]) -> Path:
    """Copy what Airflow runs to a folder, with further datasets, and return the folder."""
    shutil.rmtree(project, ignore_errors=True)
    for part in ("dags", "plugins", "include"):
        shutil.copytree(PROJECT / part, project / part, ignore=shutil.ignore_patterns("__pycache__"))
    write_datasets(project, datasets)
    return project


def write_datasets(project: Path, datasets: Mapping[str, str]) -> None:
    """Write dataset files, given by their names and contents."""
    for dataset, content in datasets.items():
        (project / "include" / "datasets" / f"{dataset}.yaml").write_text(content, encoding="utf-8")


def _prepare_for_airflow(stack: Stack) -> None:
    """Let the stack import the package, and Airflow write below the stack's folder only, as the sandbox does."""
    if (plugins := str(PROJECT / "plugins")) not in sys.path:
        sys.path.insert(0, plugins)
    os.environ |= {"AIRFLOW_HOME": str(stack.airflow_home), "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL"}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
