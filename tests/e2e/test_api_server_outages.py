"""
An api-server that is away while syncs are at work: they wait for it, and end as if it had been there.

Of Airflow, steps talk to the api-server alone, so each of them is met by an outage, and the time between two steps too.
How long the outages are, an environment variable says: a deployment must bear minutes.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import psutil
import pytest

from sandbox.settings import HOST
from tests.airflow_client import AirflowError
from tests.e2e.share import SUBMITS, RunningShare, stopped, wait_for

pytestmark = pytest.mark.tier("nightly")

OUTAGE_SECONDS = float(os.environ.get("API_SERVER_OUTAGE_SECONDS", "150"))
LONG_OUTAGE_SECONDS = float(os.environ.get("API_SERVER_LONG_OUTAGE_SECONDS", "330"))
DATASETS = ("shared_forecasts", "city_temperatures", "daily_observations")
# Each call of a step that meets the outage is held for so long: all three syncs are then at their steps.
HELD_SECONDS = 45
# After an outage: the longest wait between two attempts of a call, and what is left of the syncs.
END_SECONDS = 240


def hold(path: str, body: str) -> Callable[[RunningShare, str], None]:
    """Hold a step's call to Databricks or Snowflake; of several syncs, that of one dataset."""

    def order(share: RunningShare, dataset: str) -> None:
        url = share.endpoints.databricks_url if "run-now" in path else share.endpoints.snowflake_url
        fault = {"method": "POST", "path": path, "body": body.format(dataset), "action": {"delay": HELD_SECONDS}}
        httpx.post(f"{url}/_sandbox/faults", json=fault, timeout=30).raise_for_status()

    return order


STEPS = {
    "export_to_s3": hold("run-now$", '"{}"'),
    "copy_into_staging": hold(SUBMITS, "(?is)COPY INTO[^@]*{}[^@]*@[^ ]*/data/"),
    "check_staging": hold(SUBMITS, "(?is)(?=.*check_name).*staging[.]{}"),
    "publish": hold(SUBMITS, "(?is)BEGIN TRANSACTION.*{}"),
    "finish_sync": hold(SUBMITS, "(?is)DROP TABLE IF EXISTS[^;]*{}__"),
}


@pytest.fixture(autouse=True)
def nothing_is_left(share: RunningShare) -> Iterator[None]:
    """No job, no statement and no staging table is left behind, and every process of Airflow lives."""
    yield
    listed = share.databricks("GET", "/api/2.2/jobs/runs/list", {"active_only": "true"})
    assert listed.get("runs", []) == []
    state = httpx.get(f"{share.endpoints.snowflake_url}/_sandbox/state", timeout=30).raise_for_status().json()
    assert state["running"] == []
    assert share.staging_tables() == []
    wait_for(lambda: set(share.stack.health().values()) == {"healthy"}, f"all is well: {share.stack.health()}")


@contextmanager
def killed(share: RunningShare) -> Iterator[None]:
    """Let no api-server be there; another one is started in the end."""
    processes = share.stack.processes_of("api-server")
    assert processes
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, timeout=10)
    # Nobody else may take its port meanwhile; who asks for it is refused.
    with socket.socket() as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind((HOST, int(share.endpoints.airflow_url.rsplit(":", 1)[1])))
        try:
            yield
        finally:
            place.close()
            restart(share)


def restart(share: RunningShare) -> None:
    share.stack.start_airflow("api-server", share.endpoints)
    wait_for(lambda: answers(share), "the api-server answers", 120)


def answers(share: RunningShare) -> bool:
    try:
        return bool(share.airflow.health())
    except (httpx.HTTPError, AirflowError):
        return False


OUTAGES = {"stopped": lambda share: stopped(share, "api-server"), "killed": killed}


def held_at(share: RunningShare, steps: dict[str, str]) -> dict[str, str]:
    """Start a sync for each dataset, and return the runs when each is at its step."""
    if "wait_for_export" in steps.values():
        share.hold_export("end")
    runs: dict[str, str] = {}
    # The one whose export is held comes first: the order is for the next export.
    for dataset in sorted(steps, key=lambda dataset: steps[dataset] != "wait_for_export"):
        step = steps[dataset]
        if step != "wait_for_export":
            STEPS[step](share, dataset)
        runs[dataset] = share.start_sync(dataset)
        if step == "wait_for_export":
            share.wait_until_held(runs[dataset])
    for dataset, run_id in runs.items():
        wanted = "deferred" if steps[dataset] == "wait_for_export" else "running"
        wait_for(
            lambda run_id=run_id, step=steps[dataset], wanted=wanted: share.task_states(run_id)[step] == wanted,
            f"{steps[dataset]} of {dataset} is {wanted}",
        )
    wait_for(lambda: all_are_held(share, steps), "each step's call is held")
    return runs


def all_are_held(share: RunningShare, steps: dict[str, str]) -> bool:
    urls = (share.endpoints.databricks_url, share.endpoints.snowflake_url)
    faults = [fault for url in urls for fault in httpx.get(f"{url}/_sandbox/faults", timeout=30).json()]
    return sum(bool(fault["hits"]) for fault in faults) == sum(step != "wait_for_export" for step in steps.values())


def survives(share: RunningShare, outage: str, seconds: float, *steps: str) -> None:
    """Let an outage meet three syncs at these steps; all of them are published, once, as if nothing had been."""
    ledger = {dataset: rows_of(share, dataset) for dataset in DATASETS}
    runs = held_at(share, dict(zip(DATASETS, steps, strict=True)))
    with OUTAGES[outage](share):
        ends = time.monotonic() + seconds
        # So the sync that waits for its export is between two steps.
        share.release_export()
        time.sleep(max(0.0, ends - time.monotonic()))
    for dataset, run_id in runs.items():
        run = share.airflow.wait(f"sync_{dataset}", run_id, END_SECONDS)
        assert run["state"] == "success", (dataset, share.failures(run_id), share.task_states(run_id))
        assert share.xcom(run_id, "publish")["dag_run_id"] == run_id
        assert share.tasks(run_id)["publish"]["id"] == share.xcom(run_id, "publish")["task_instance_id"]
        assert rows_of(share, dataset) == ledger[dataset] + 1, dataset


def rows_of(share: RunningShare, dataset: str) -> int:
    [(count,)] = share.query(f"SELECT COUNT(*) FROM sync_history WHERE dataset = '{dataset}'")
    return int(count)


@pytest.mark.parametrize("outage", OUTAGES)
@pytest.mark.parametrize(
    "steps",
    [("export_to_s3", "wait_for_export", "copy_into_staging"), ("check_staging", "publish", "finish_sync")],
    ids=["until it is loaded", "until it has ended"],
)
def test_syncs_wait_for_an_api_server_that_is_away(share: RunningShare, outage: str, steps: tuple[str, ...]) -> None:
    survives(share, outage, OUTAGE_SECONDS, *steps)


def test_an_outage_of_more_than_five_minutes_loses_no_sync(share: RunningShare) -> None:
    survives(share, "killed", LONG_OUTAGE_SECONDS, "copy_into_staging", "wait_for_export", "publish")
