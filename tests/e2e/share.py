"""What the end-to-end tests do to a running share, in the words of the tests."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pyarrow as pa

from data_share.share import Share
from emulators.databricks.unity_catalog import read_table, write_table
from emulators.s3 import s3_filesystem
from sandbox.stack import Endpoints, Stack
from tests.airflow_client import AirflowClient

DAG_ID = "sync_shared_forecasts"
SOURCE = "main.weather.forecasts"
SOURCES = (SOURCE, "main.weather.city_temperatures", "main.weather.daily_observations")
TARGET = "shared_forecasts"
SYNC_SECONDS = 90
SHELL = {
    "AIRFLOW_CONN_OF_THE_SHELL": '{"conn_type": "http", "host": "http://127.0.0.1:9"}',
    "AIRFLOW_CONN_SNOWFLAKE_DEFAULT": '{"conn_type": "snowflake", "login": "grace", "extra": {"account": "real"}}',
}
"""Connections in the shell that the stack is started from."""

SUBMITS = "/api/v2/statements$"
"""Path of the calls that submit a statement to Snowflake."""


class RunningShare:
    """A stack with a source table, a target table and everything between them."""

    def __init__(self, stack: Stack, endpoints: Endpoints) -> None:
        self.stack = stack
        self.endpoints = endpoints
        self.airflow = AirflowClient(endpoints.airflow_url, endpoints.airflow_user, endpoints.airflow_password)
        self.s3 = s3_filesystem(endpoints.s3_url)
        self.job_id = str(self.databricks("GET", "/api/2.2/jobs/list")["jobs"][0]["job_id"])
        self._sources = {name: self.source(name) for name in SOURCES}
        self._dag_ids: dict[str, str] = {}

    def close(self) -> None:
        self.airflow.close()

    def reset(self) -> None:
        """Take back what a test may have changed. Each sync finds something new at its source."""
        self.databricks("POST", "/_sandbox/release", {})
        self.let_sources_change(True)
        httpx.delete(f"{self.endpoints.databricks_url}/_sandbox/faults", timeout=30).raise_for_status()
        httpx.delete(f"{self.endpoints.snowflake_url}/_sandbox/faults", timeout=30).raise_for_status()
        self.airflow.set_variable(Share().export_job_variable, self.job_id)
        for name in SOURCES:
            if not self.source(name).equals(self._sources[name]):
                self.restore_source(name)

    # The source tables

    def source(self, name: str = SOURCE) -> pa.Table:
        return read_table(self.endpoints.s3_url, name)

    def write_source(self, table: pa.Table, name: str = SOURCE) -> None:
        write_table(self.endpoints.s3_url, name, table)

    def restore_source(self, name: str = SOURCE) -> None:
        """Write a source table as it was when the stack started."""
        self.write_source(self._sources[name], name)

    # Databricks

    def databricks(
        self, method: str, path: str, body: dict[str, Any] | None = None, token: str | None = None
    ) -> dict[str, Any]:
        response = httpx.request(
            method,
            f"{self.endpoints.databricks_url}{path}",
            params=body if method == "GET" else None,
            json=body if method != "GET" else None,
            headers={"Authorization": f"Bearer {token or self.endpoints.databricks_token}"},
            timeout=30,
        )
        answer: dict[str, Any] = response.raise_for_status().json()
        return answer

    def let_sources_change(self, is_on: bool) -> None:
        """Say whether each export finds another version of its source than the one before."""
        self.databricks("POST", "/_sandbox/source_changes", {"on": is_on})

    def hold_export(self, at: str) -> None:
        """Let the next export stop before its SQL ("start"), or after it and before it says so ("end")."""
        self.databricks("POST", "/_sandbox/hold", {"at": at})

    def release_export(self) -> None:
        self.databricks("POST", "/_sandbox/release", {})

    def databricks_run(self, run_id: str) -> dict[str, Any]:
        """Return the Databricks run that a sync started."""
        databricks_run_id = self.xcom(run_id, "export_to_s3", "run_id")
        return self.databricks("GET", "/api/2.2/jobs/runs/get", {"run_id": databricks_run_id})

    # The share

    def exported_files(self, run_id: str, folder: str) -> list[str]:
        """Return the files of the run's export, "data" or "manifest"."""
        return [str(path) for path in self.s3.ls(f"{self.export_path(run_id)}{folder}/", detail=False)]

    def data_files(self, run_id: str) -> list[str]:
        return [path for path in self.exported_files(run_id, "data") if path.endswith(".parquet")]

    def export_path(self, run_id: str) -> str:
        parameters = {p["name"]: p["value"] for p in self.databricks_run(run_id)["job_parameters"]}
        return str(parameters["export_path"])

    # Airflow

    def start_sync(self, dataset: str = TARGET, **options: Any) -> str:
        run_id = self.airflow.trigger(f"sync_{dataset}", **options)
        self._dag_ids[run_id] = f"sync_{dataset}"
        return run_id

    def end_of(self, run_id: str) -> dict[str, Any]:
        return self.airflow.wait(self._dag_ids[run_id], run_id, SYNC_SECONDS)

    def sync(self, dataset: str = TARGET, **options: Any) -> dict[str, Any]:
        """Run one sync that must succeed and return what it published."""
        run_id = self.start_sync(dataset, **options)
        assert self.end_of(run_id)["state"] == "success", self.failures(run_id)
        row: dict[str, Any] = self.xcom(run_id, "publish")
        return row

    def clear(self, run_id: str, task_id: str) -> None:
        """Clear a task and those after it, as a person does who wants the step repeated."""
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": [task_id],
            "include_downstream": True,
            "only_failed": False,
        }
        self.airflow.ask("POST", f"/dags/{self._dag_ids[run_id]}/clearTaskInstances", json=body)

    def wait_until_held(self, run_id: str) -> None:
        """Wait until a triggerer follows the sync's export, and the export is held."""

        def is_held() -> bool:
            trigger = self.tasks(run_id)["wait_for_export"]["trigger"]
            if not trigger or not trigger["triggerer_id"]:
                return False
            return self.databricks_run(run_id)["run_id"] in self.databricks("GET", "/_sandbox/state")["held"]

        wait_for(is_held, f"the export of {run_id} is held")

    def tasks(self, run_id: str) -> dict[str, dict[str, Any]]:
        return self.airflow.tasks(self._dag_ids[run_id], run_id)

    def task_states(self, run_id: str) -> dict[str, str]:
        return {name: task["state"] for name, task in self.tasks(run_id).items()}

    def xcom(self, run_id: str, task_id: str, key: str = "return_value") -> Any:
        return self.airflow.xcom(self._dag_ids[run_id], run_id, task_id, key)

    def failures(self, run_id: str) -> dict[str, str]:
        return self.airflow.failures(self._dag_ids[run_id], run_id)

    # Snowflake

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        return self.endpoints.query(sql)

    def target(self, table: str = TARGET) -> list[tuple[Any, ...]]:
        return sorted(self.query(f"SELECT * FROM {table}"), key=repr)

    def ledger(self) -> list[tuple[Any, ...]]:
        return sorted(self.query("SELECT * FROM sync_history"), key=repr)

    def staging_tables(self) -> list[str]:
        """Return the staging tables that are left; the lock tables stay."""
        tables = [str(row[1]) for row in self.query("SHOW TABLES IN SCHEMA staging")]
        return [name for name in tables if not name.startswith("PUBLISH_LOCK__")]


class Fault:
    """Lets the next call of a kind wait."""

    def __init__(self, url: str, **order: object) -> None:
        self._url = f"{url}/_sandbox/faults"
        httpx.post(self._url, json={"method": "POST", **order}, timeout=30).raise_for_status()

    def has_begun(self) -> bool:
        return any(fault["hits"] for fault in httpx.get(self._url, timeout=30).raise_for_status().json())


@contextmanager
def stopped(share: RunningShare, part: str) -> Iterator[None]:
    """Let a part of Airflow do nothing meanwhile, and answer nobody."""
    processes = share.stack.processes_of(part)
    assert processes
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


def as_rows(table: pa.Table) -> list[tuple[Any, ...]]:
    """Return the rows of a source table in the form that the target's rows have."""
    return sorted((tuple(row.values()) for row in table.to_pylist()), key=repr)


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds:g} s it is still not so that {what}"
        time.sleep(0.1)
