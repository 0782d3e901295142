"""A client of Airflow for the sandbox's commands: it signs in as administrator and uses the example's client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from examples.backend.airflow_client import AirflowClient, Sync, SyncError, UnknownDatasetError

# Airflow's maximum number of items per page.
_PAGE = 100

# Where Airflow's database is SQLite, Airflow answers 500 when another process has held it for too long.
_BACK_OFF_SECONDS = (0.5, 1, 2, 4)


def task_name(task: dict[str, Any]) -> str:
    """Return a task instance's name: the task id, followed by the map index's label for a mapped task."""
    if task["map_index"] < 0:
        return str(task["task_id"])
    return f"{task['task_id']} {task['rendered_map_index'] or task['map_index']}"


class Airflow:
    """
    A signed-in client of one Airflow. All methods raise :class:`SyncError` if Airflow refuses or does not answer.

    :param url: address of the api-server
    :param user: user name
    :param password: password
    :param timeout_seconds: maximum wait for an answer; a busy machine may need a minute
    :param back_off: seconds between the attempts of a call
    """

    def __init__(
        self,
        url: str,
        user: str,
        password: str,
        *,
        timeout_seconds: float = 120,
        back_off: Sequence[float] = _BACK_OFF_SECONDS,
    ) -> None:
        self.url = url
        # The client is asynchronous because a backend has an event loop. The commands are synchronous: run each call.
        self._loop = asyncio.Runner()
        self._client = AirflowClient(url, user, password, timeout=timeout_seconds, back_off=back_off)

    def close(self) -> None:
        """Close the connections."""
        self._loop.run(self._client.__aexit__())
        self._loop.close()

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """Make a call below ``/api/v2`` and return the answer's JSON; None for HTTP 404."""
        return self._loop.run(self._client.ask(method, f"/api/v2{path}", **options))

    # Syncs

    def start(self, dataset: str, conf: dict[str, Any]) -> Sync:
        """Start a sync. If the dataset's file is invalid, the error says what is wrong with the file."""
        try:
            return self._loop.run(self._client.start(dataset, conf=conf))
        except UnknownDatasetError as error:
            raise UnknownDatasetError(f"{error}.{self._file_problem(dataset)}") from None

    def follow(self, sync: Sync, timeout_seconds: float) -> Iterator[Sync]:
        """Yield the sync each time its state changes, for the last time when it has finished."""
        seen = self._client.follow(sync.dataset, sync.run_id, deadline_seconds=timeout_seconds)

        async def next_change() -> Sync | None:
            return await anext(seen, None)

        while changed := self._loop.run(next_change()):
            yield changed

    def syncs(self) -> list[dict[str, Any]]:
        """Return the DAGs of the datasets, in the order of their names."""
        found: list[dict[str, Any]] = []
        while True:
            params = {"tags": ["data-share", "sync"], "tags_match_mode": "all", "limit": _PAGE, "offset": len(found)}
            page = self.ask("GET", "/dags", params=params)
            found += page["dags"]
            if not page["dags"] or len(found) >= page["total_entries"]:
                return sorted(found, key=lambda dag: str(dag["dag_id"]))

    def last_runs(self, dag_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the last run of each DAG that has one. The number of calls does not grow with the number of DAGs."""
        found: dict[str, dict[str, Any]] = {}
        missing = set(dag_ids)
        while missing:
            body = {"dag_ids": sorted(missing), "order_by": "-run_after", "page_limit": _PAGE}
            page = self.ask("POST", "/dags/~/dagRuns/list", json=body)
            for run in page["dag_runs"]:
                found.setdefault(run["dag_id"], run)
            # Each page but the last contains the run of at least one more DAG, so the loop ends.
            missing -= found.keys()
            if len(page["dag_runs"]) >= page["total_entries"]:
                break
        return found

    def _file_problem(self, dataset: str) -> str:
        for error in self.ask("GET", "/importErrors", params={"limit": _PAGE})["import_errors"]:
            if error["filename"].endswith(f"datasets/{dataset}.yaml"):
                # The stack trace ends with the file's name and the problem.
                _, _, problem = error["stack_trace"].rpartition(f"{dataset}.yaml")
                return f" {dataset}.yaml{problem}".rstrip()
        return ""

    # Administration

    def set_variable(self, key: str, value: str) -> None:
        """Create or change an Airflow Variable."""
        body = {"key": key, "value": value}
        if self.ask("PATCH", f"/variables/{key}", json=body) is None:
            self.ask("POST", "/variables", json=body)

    def trigger(self, dag_id: str) -> str:
        """Start a run of a DAG that is not a sync, and return the run's id."""
        dag = self.ask("GET", f"/dags/{dag_id}")
        if dag is None:
            raise SyncError(f"Airflow has no DAG {dag_id}")
        if dag["is_paused"]:
            # Airflow would accept the run and never start it.
            raise SyncError(f"The DAG {dag_id} is paused: unpause it in Airflow, then start it again")
        # Choose the run's id here: if the call is repeated, Airflow refuses a second run with the same id.
        run_id = f"manual__{datetime.now(UTC).isoformat()}"
        self.ask("POST", f"/dags/{dag_id}/dagRuns", json={"dag_run_id": run_id, "logical_date": None, "conf": {}})
        return run_id

    def wait(
        self,
        dag_id: str,
        run_id: str,
        timeout_seconds: float,
        on_task: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> str:
        """
        Wait for the end of a run and return its state.

        :param on_task: called with a task instance each time its state changes
        """
        deadline = time.monotonic() + timeout_seconds
        seen: dict[str, Any] = {}
        while True:
            state = str(self.ask("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"])
            for task in self._tasks(dag_id, run_id):
                if task["state"] != seen.get(task_name(task)):
                    seen[task_name(task)] = task["state"]
                    on_task(task)
            if state in ("success", "failed"):
                return state
            if time.monotonic() > deadline:
                raise SyncError(f"{dag_id} {run_id} is {state!r} after {timeout_seconds:g} seconds")
            time.sleep(0.25)

    def failures(self, dag_id: str, run_id: str) -> dict[str, str]:
        """Return name -> reason for each failed task of a run."""
        reasons = {}
        for task in self._tasks(dag_id, run_id):
            if task["state"] == "failed":
                path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task['task_id']}/xcomEntries/failure"
                answer = self.ask("GET", path, params={"map_index": task["map_index"]})
                report = answer and answer["value"]
                reasons[task_name(task)] = (
                    f"{report['message']} {report['what_to_do']}" if report else "see the task's log"
                )
        return reasons

    def _tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        tasks: list[dict[str, Any]] = self.ask("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances")[
            "task_instances"
        ]
        return tasks
