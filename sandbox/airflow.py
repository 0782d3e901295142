"""Airflow as the sandbox's commands use it: an administrator, with the client that a backend copies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from examples.backend.airflow_client import AirflowClient, Sync, SyncError, UnknownDatasetError

# Airflow's own limit.
_PAGE = 100

# Airflow on SQLite answers 500 when another process has held the database for too long.
_BACK_OFF_SECONDS = (0.5, 1, 2, 4)


def task_name(task: dict[str, Any]) -> str:
    """Return a task instance's name: the task id, of a mapped task with what it is for."""
    if task["map_index"] < 0:
        return str(task["task_id"])
    return f"{task['task_id']} {task['rendered_map_index'] or task['map_index']}"


class Airflow:
    """
    A signed-in user of one Airflow; all methods raise :class:`SyncError`, with a sentence, when it refuses or is away.

    :param url: address of the api-server
    :param user: user name
    :param password: password
    :param timeout_seconds: longest wait for an answer. The first request of a task keeps an api-server busy for
        seconds, on a slow machine for a minute.
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
        # The client is made for a backend, which has an event loop. The commands do one thing after the other.
        self._loop = asyncio.Runner()
        self._client = AirflowClient(url, user, password, timeout=timeout_seconds, back_off=back_off)

    def close(self) -> None:
        """Close the connections."""
        self._loop.run(self._client.__aexit__())
        self._loop.close()

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """Make a call below ``/api/v2`` and return the answer's JSON; None when there is no such thing (404)."""
        return self._loop.run(self._client.ask(method, f"/api/v2{path}", **options))

    # Syncs

    def start(self, dataset: str, conf: dict[str, Any]) -> Sync:
        """Start a sync. For an unknown dataset the error says what is wrong with its file, if that is why."""
        try:
            return self._loop.run(self._client.start(dataset, conf=conf))
        except UnknownDatasetError as error:
            raise UnknownDatasetError(f"{error}.{self._fault_of_file(dataset)}") from None

    def follow(self, sync: Sync, timeout_seconds: float) -> Iterator[Sync]:
        """Yield a sync each time that something of it changes; the last one is finished."""
        seen = self._client.follow(sync.dataset, sync.run_id, deadline_seconds=timeout_seconds)

        async def one_more() -> Sync | None:
            return await anext(seen, None)

        while changed := self._loop.run(one_more()):
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
        """Return the last run of each DAG that has one; some calls, however many DAGs there are."""
        found: dict[str, dict[str, Any]] = {}
        missing = set(dag_ids)
        while missing:
            body = {"dag_ids": sorted(missing), "order_by": "-run_after", "page_limit": _PAGE}
            page = self.ask("POST", "/dags/~/dagRuns/list", json=body)
            for run in page["dag_runs"]:
                found.setdefault(run["dag_id"], run)
            # Each page that is not the last one has the run of at least one more.
            missing -= found.keys()
            if len(page["dag_runs"]) >= page["total_entries"]:
                break
        return found

    def _fault_of_file(self, dataset: str) -> str:
        for error in self.ask("GET", "/importErrors", params={"limit": _PAGE})["import_errors"]:
            if error["filename"].endswith(f"datasets/{dataset}.yaml"):
                # The trace ends with what is wrong, after the file's name.
                _, _, said = error["stack_trace"].rpartition(f"{dataset}.yaml")
                return f" {dataset}.yaml{said}".rstrip()
        return ""

    # What an administrator does

    def set_variable(self, key: str, value: str) -> None:
        """Create or change an Airflow Variable."""
        body = {"key": key, "value": value}
        if self.ask("PATCH", f"/variables/{key}", json=body) is None:
            self.ask("POST", "/variables", json=body)

    def trigger(self, dag_id: str) -> str:
        """Start a run of a DAG that is no dataset's, and return its id."""
        dag = self.ask("GET", f"/dags/{dag_id}")
        if dag is None:
            raise SyncError(f"Airflow has no DAG {dag_id}")
        if dag["is_paused"]:
            # It would accept the run and never start it.
            raise SyncError(f"The DAG {dag_id} is paused: unpause it in Airflow, then start it again")
        # By an id of our own, a repeated call starts nothing twice.
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

        :param on_task: is given a task instance each time that one changes its state
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
        """Return in words why tasks of a run failed, by the tasks' names."""
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
