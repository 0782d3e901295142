"""What the sandbox's commands say when Airflow does not do what they ask for, and how they look at many datasets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from examples.backend.airflow_client import AirflowUnavailableError
from sandbox.airflow import Airflow
from sandbox.stack import Endpoints, Stack, StackError

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox]


@pytest.fixture
def nobody() -> Iterator[str]:
    """The address of a port at which nobody listens, and cannot begin to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_an_airflow_that_does_not_answer_is_told_in_a_sentence(nobody: str) -> None:
    airflow = Airflow(nobody, "admin", "secret-of-admin", back_off=(0,))
    with pytest.raises(AirflowUnavailableError, match=r"^Airflow does not answer POST /auth/token: ") as told:
        airflow.syncs()
    airflow.close()
    assert "secret-of-admin" not in str(told.value)


def test_a_stack_that_cannot_be_set_up_is_told_in_a_sentence(nobody: str) -> None:
    endpoints = Endpoints(nobody, "admin", "password", nobody, nobody, "token", nobody, "no file")
    with pytest.raises(StackError, match=r"^Airflow could not be set up: "):
        Stack.set_up(endpoints)


class ManyRuns:
    """Answers as Airflow does that has many datasets, a hundred at a time."""

    def __init__(self, runs: dict[str, int]) -> None:
        """Take the number of runs of each DAG; the runs of the first one are the newest."""
        self.dag_ids = list(runs)
        self.runs = [
            {"dag_id": dag_id, "dag_run_id": f"{dag_id} {number}"}
            for dag_id, count in runs.items()
            for number in range(count, 0, -1)
        ]
        self.calls = 0

    def ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        self.calls += 1
        if (method, path) == ("GET", "/dags"):
            begin = options["params"]["offset"]
            found = self.dag_ids[begin : begin + options["params"]["limit"]]
            return {"dags": [{"dag_id": dag_id} for dag_id in found], "total_entries": len(self.dag_ids)}
        assert (method, path) == ("POST", "/dags/~/dagRuns/list")
        body = options["json"]
        assert body["order_by"] == "-run_after"
        found_runs = [run for run in self.runs if run["dag_id"] in body["dag_ids"]]
        return {"dag_runs": found_runs[: body["page_limit"]], "total_entries": len(found_runs)}


@pytest.mark.tier("full")
@pytest.mark.parametrize(
    ("runs", "calls"),
    [
        ({f"sync_{number:03}": number % 2 for number in range(150)}, 1),
        ({"sync_hourly": 400, "sync_daily": 30, "sync_once": 1, "sync_never": 0}, 2),
        ({"sync_hourly": 400, "sync_too": 400, "sync_once": 1}, 3),
        ({"sync_hourly": 100}, 1),
        ({"sync_never": 0}, 1),
        ({}, 0),
    ],
)
def test_the_last_runs_of_all_datasets_are_found_in_few_calls(
    monkeypatch: pytest.MonkeyPatch, runs: dict[str, int], calls: int
) -> None:
    airflow = ManyRuns(runs)
    client = Airflow("http://127.0.0.1:9", "admin", "password")
    monkeypatch.setattr(client, "ask", airflow.ask)
    last = {dag_id: run["dag_run_id"] for dag_id, run in client.last_runs(runs).items()}
    assert last == {dag_id: f"{dag_id} {count}" for dag_id, count in runs.items() if count}
    assert airflow.calls == calls
    assert [dag["dag_id"] for dag in client.syncs()] == sorted(runs)
    client.close()
