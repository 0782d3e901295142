"""Airflow's REST API, as the tests call it: without the clients that they are about."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import httpx

FINISHED = frozenset({"success", "failed"})

# An api-server that is restarted, or has just lost its database, answers again within seconds.
_PAUSES_SECONDS = (0.5, 1, 2, 4)


class AirflowError(RuntimeError):
    """Airflow does not answer or refuses a call, or a run does not end in time."""


def task_name(task: dict[str, Any]) -> str:
    """Return a task instance's name: the task id, of a mapped task with what it is for."""
    if task["map_index"] < 0:
        return str(task["task_id"])
    return f"{task['task_id']} {task['rendered_map_index'] or task['map_index']}"


class AirflowClient:
    """
    A signed-in user of Airflow's REST API.

    :param url: address of the api-server
    :param user: user name
    :param password: password; exchanged for a token at the first call, and again when the token has expired
    :param timeout_seconds: longest wait for an answer. The first request of a task keeps an api-server busy for
        seconds, on a slow machine for a minute.
    """

    def __init__(self, url: str, user: str, password: str, timeout_seconds: float = 120) -> None:
        self.url = url
        self._credentials = {"username": user, "password": password}
        self._http = httpx.Client(base_url=url, timeout=timeout_seconds)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """
        Make a call below ``/api/v2`` and return the answer, whatever its status; after a 5xx, the call is repeated.

        :raises AirflowError: when there is no answer
        """
        if "Authorization" not in self._http.headers:
            self._sign_in()
        response = self._send(method, f"/api/v2{path}", **options)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            self._sign_in()
            response = self._send(method, f"/api/v2{path}", **options)
        for pause in _PAUSES_SECONDS:
            if not response.is_server_error:
                break
            time.sleep(pause)
            response = self._send(method, f"/api/v2{path}", **options)
        return response

    def ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """
        Make a call below ``/api/v2`` and return the answer's body.

        :raises AirflowError: for a status of 400 or above, with Airflow's words
        """
        answer: dict[str, Any] = self._answer(self.call(method, path, **options))
        return answer

    def set_variable(self, key: str, value: str) -> None:
        """Create or change an Airflow Variable."""
        body = {"key": key, "value": value}
        changed = self.call("PATCH", f"/variables/{key}", json=body)
        if changed.status_code != httpx.codes.NOT_FOUND:
            self._answer(changed)
            return
        made = self.call("POST", "/variables", json=body)
        # A call that was answered with 500 may have made it all the same.
        if made.status_code != httpx.codes.CONFLICT:
            self._answer(made)

    def trigger(self, dag_id: str, *, run_id: str | None = None, conf: dict[str, Any] | None = None) -> str:
        """
        Start a DAG run, as a backend does, and return its id.

        :raises AirflowError: for a paused DAG, which would accept the run and never start it, and for a refused call
        """
        if self.ask("GET", f"/dags/{dag_id}")["is_paused"]:
            raise AirflowError(f"The DAG {dag_id} is paused: unpause it in Airflow, then start the sync again")
        # By an id of our own, a repeated call starts nothing twice.
        own_id = run_id or f"manual__{datetime.now(UTC).isoformat()}"
        body = {"dag_run_id": own_id, "logical_date": None, "conf": conf or {}}
        started = self.call("POST", f"/dags/{dag_id}/dagRuns", json=body)
        if run_id or started.status_code != httpx.codes.CONFLICT:
            self._answer(started)
        return own_id

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return a DAG run."""
        return self.ask("GET", f"/dags/{dag_id}/dagRuns/{run_id}")

    def tasks(self, dag_id: str, run_id: str) -> dict[str, dict[str, Any]]:
        """Return the task instances of a run by their names: the task id, of a mapped task with what it is for."""
        answer = self.ask("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances")
        return {task_name(task): task for task in answer["task_instances"]}

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """Return an XCom's value, or None when there is none."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        params: dict[str, Any] = {"deserialize": "false", "stringify": "false", "map_index": map_index}
        response = self.call("GET", path, params=params)
        return None if response.status_code == httpx.codes.NOT_FOUND else self._answer(response)["value"]

    def failures(self, dag_id: str, run_id: str) -> dict[str, str]:
        """Return in words why tasks of a run failed, by name; the last task tells it only when no other does."""
        failed = {name: task for name, task in self.tasks(dag_id, run_id).items() if task["state"] == "failed"}
        if len(failed) > 1:
            failed.pop("finish_sync", None)
        reports = {
            name: self.xcom(dag_id, run_id, task["task_id"], "failure", task["map_index"])
            for name, task in failed.items()
        }
        return {
            name: f"{report['message']} {report['what_to_do']}" if report else "see the task's log"
            for name, report in reports.items()
        }

    def wait(
        self,
        dag_id: str,
        run_id: str,
        timeout_seconds: float,
    ) -> dict[str, Any]:
        """
        Wait for the end of a run and return it.

        :param timeout_seconds: longest wait
        :raises AirflowError: when the run has not ended in time
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            run = self.run(dag_id, run_id)
            if run["state"] in FINISHED:
                return run
            if time.monotonic() > deadline:
                raise AirflowError(f"{dag_id} {run_id} is {run['state']!r} after {timeout_seconds:g} seconds")
            time.sleep(0.25)

    def _sign_in(self) -> None:
        self._http.headers.pop("Authorization", None)
        response = self._send("POST", "/auth/token", json=self._credentials)
        if response.is_error:
            raise AirflowError(f"Airflow does not sign {self._credentials['username']} in: {response.text}")
        self._http.headers["Authorization"] = f"Bearer {response.json()['access_token']}"

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except httpx.TransportError as error:
            why = str(error) or type(error).__name__
            raise AirflowError(f"{self.url} does not answer {method} {path}: {why}") from error

    @staticmethod
    def _answer(response: httpx.Response) -> Any:
        if response.is_error:
            asked = response.request
            path = asked.url.path.removeprefix("/api/v2")
            raise AirflowError(f"{asked.method} {path}: HTTP {response.status_code}: {response.text}")
        return response.json()
