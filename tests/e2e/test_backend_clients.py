"""The clients of examples/, Python and Node.js, against a running share: both pass the same tests."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import groupby
from typing import Any

import httpx
import jwt
import pytest

from tests.e2e.share import DAG_ID, SYNC_SECONDS, RunningShare, wait_for
from tests.examples.backend.clients import LANGUAGES, NODE_CLIENT, Client, ClientError, node, open_client
from tests.examples.backend.servers import STEPS, Gateway, served

# Airflow's key of the sandbox is of a length that PyJWT finds short.
pytestmark = [pytest.mark.tier("full"), pytest.mark.filterwarnings("ignore:The HMAC key")]

DATASET = DAG_ID.removeprefix("sync_")
NAME = "José O'Brien (DOMAIN\\ada)"
SECONDS = 2 * SYNC_SECONDS


@pytest.fixture(scope="module")
def gateway(running_share: RunningShare) -> Iterator[Gateway]:
    """Stands before Airflow, counts the calls and does them harm on order."""
    gateway = Gateway(running_share.endpoints.airflow_url)
    with served(gateway.app) as url:
        gateway.url = url
        yield gateway


@pytest.fixture(scope="module")
def clients(running_share: RunningShare, gateway: Gateway) -> Iterator[Callable[[str], Client]]:
    """One client of each language for all tests, as a backend has one for all users."""
    opened: dict[str, Client] = {}
    with ExitStack() as at_the_end:

        def get(language: str) -> Client:
            if language not in opened:
                credentials = running_share.endpoints.airflow_user, running_share.endpoints.airflow_password
                opened[language] = open_client(language, gateway.url, *credentials)
                at_the_end.callback(opened[language].close)
            return opened[language]

        yield get


@pytest.fixture(params=LANGUAGES)
def client(request: pytest.FixtureRequest, clients: Callable[[str], Client]) -> Client:
    return clients(request.param)


@pytest.fixture(autouse=True)
def nothing_goes_on(share: RunningShare, gateway: Gateway) -> Iterator[None]:
    """After a test, no run of the dataset is active: the next would queue behind it."""
    yield
    httpx.delete(f"{gateway.url}/_sandbox/faults", timeout=30).raise_for_status()
    gateway.next_token = None
    share.release_export()
    for run in active_runs(share):
        share.airflow.ask("PATCH", f"/dags/{DAG_ID}/dagRuns/{run}", json={"state": "failed"})
    wait_for(lambda: not active_runs(share), "no run is active")


def active_runs(share: RunningShare) -> list[str]:
    params = {"state": ["queued", "running"]}
    return [run["dag_run_id"] for run in share.airflow.ask("GET", f"/dags/{DAG_ID}/dagRuns", params=params)["dag_runs"]]


def runs_in_all(share: RunningShare) -> int:
    total: int = share.airflow.ask("GET", f"/dags/{DAG_ID}/dagRuns", params={"limit": 1})["total_entries"]
    return total


def wait_until_held(share: RunningShare) -> int:
    """Wait until an export is held; gives its Databricks run."""

    def held() -> list[int]:
        runs: list[int] = share.databricks("GET", "/_sandbox/state")["held"]
        return runs

    wait_for(lambda: bool(held()), "an export is held")
    return held()[0]


def own_id() -> str:
    return f"request-{uuid.uuid4()}"


def refused_token(share: RunningShare, why: str) -> str:
    """A token of the account that has expired, or that was signed with another key."""
    credentials = {"username": share.endpoints.airflow_user, "password": share.endpoints.airflow_password}
    token = httpx.post(f"{share.endpoints.airflow_url}/auth/token", json=credentials, timeout=30).json()["access_token"]
    claims = jwt.decode(token, options={"verify_signature": False})
    algorithm = jwt.get_unverified_header(token)["alg"]
    if why == "another key":
        return jwt.encode(claims, "another key" * 9, algorithm)
    key = json.loads((share.stack.state / "keys" / "secrets.json").read_text())["airflow_secret"]
    return jwt.encode(claims | {"exp": int(time.time()) - 60}, key, algorithm)


def fails(kind: str, client: Client, name: str, *args: Any, **kwargs: Any) -> str:
    """Assert that a call raises an error of this kind; gives its message."""
    with pytest.raises(ClientError) as raised:
        client.call(name, *args, **kwargs)
    assert raised.value.type == kind, raised.value
    return raised.value.message


def test_a_sync_from_the_request_to_complete(client: Client, share: RunningShare, gateway: Gateway) -> None:
    share.hold_export("start")
    requested = client.call("request_sync", DATASET, conf={"requested_by": NAME})
    following = client.begin("follow", DATASET, requested["run_id"], deadline_seconds=SECONDS)
    databricks_run = wait_until_held(share)
    wait_for(lambda: client.call("newest", DATASET)["steps"][1]["state"] == "deferred", "the sync waits for it")
    waiting = client.call("newest", DATASET)
    signed_in = gateway.count("POST", "/auth/token")
    gateway.next_token = refused_token(share, "expired")
    share.release_export()
    seen = following.result(SECONDS)

    assert (waiting["run_id"], waiting["state"], waiting["complete"]) == (requested["run_id"], "running", False)
    assert waiting["databricks_run_url"].endswith(f"/run/{databricks_run}")
    assert gateway.next_token is None
    assert gateway.count("POST", "/auth/token") == signed_in + 1
    states = [state for state, _ in groupby(sync["state"] for sync in seen)]
    assert states[-2:] == ["running", "success"]
    last = seen[-1]
    assert last["complete"], last
    assert last["failure"] is None
    assert [(step["name"], step["state"]) for step in last["steps"]] == [(name, "success") for name in STEPS]
    assert last["started"] <= last["steps"][0]["started"] <= last["steps"][-1]["ended"] <= last["ended"]
    assert last["result"] == share.airflow.xcom(DAG_ID, last["run_id"], "publish")
    assert (last["result"]["rows_in_target"], last["result"]["requested_by"]) == (1461, NAME)
    assert last["airflow_url"] == f"{gateway.url}/dags/{DAG_ID}/runs/{last['run_id']}"
    assert httpx.get(last["airflow_url"], timeout=30).status_code == 200


def test_a_sync_that_fails(client: Client, share: RunningShare) -> None:
    share.databricks("POST", "/_sandbox/fail_next", {"message": "Out of memory in stage 3"})
    run_id = client.call("start", DATASET)["run_id"]
    sync = client.call("wait", DATASET, run_id, deadline_seconds=SECONDS)

    assert (sync["state"], sync["complete"], sync["result"]) == ("failed", False, None)
    failure = sync["failure"]
    report = share.airflow.xcom(DAG_ID, run_id, "finish_sync", "failure")
    # Which attempt has made the report is for the client to compare.
    told = {name: value for name, value in report.items() if name not in ("task_instance_id", "clear_number")}
    assert failure == told | {"sentence": failure["sentence"]}
    assert (failure["step"], failure["code"], failure["retriable"]) == ("wait_for_export", "EXPORT_FAILED", False)
    assert failure["databricks_run_url"] == sync["databricks_run_url"]
    assert failure["sentence"].startswith("wait_for_export: ")
    assert "Out of memory in stage 3" in failure["sentence"]
    assert sync["databricks_run_url"].endswith(f"/run/{share.airflow.xcom(DAG_ID, run_id, 'export_to_s3', 'run_id')}")


def test_one_run_for_one_id_then_a_deadline_and_a_cancel(client: Client, share: RunningShare, gateway: Gateway) -> None:
    before = runs_in_all(share)
    share.hold_export("start")
    run_id = own_id()
    lost = {"path": "/dagRuns$", "method": "POST", "action": {"drop": "after"}}
    httpx.post(f"{gateway.url}/_sandbox/faults", json=lost, timeout=30).raise_for_status()

    assert client.call("start", DATASET, run_id=run_id)["run_id"] == run_id
    assert client.call("start", DATASET, run_id=run_id)["run_id"] == run_id
    assert runs_in_all(share) == before + 1

    databricks_run = wait_until_held(share)
    assert "goes on" in fails("SyncTimeoutError", client, "wait", DATASET, run_id, deadline_seconds=1)
    assert client.call("sync", DATASET, run_id)["state"] == "running"

    ledger = share.ledger()
    client.call("cancel", DATASET, run_id)
    cancelled = client.call("wait", DATASET, run_id, deadline_seconds=SECONDS)
    assert (cancelled["state"], cancelled["complete"]) == ("failed", False)
    assert (cancelled["failure"]["code"], cancelled["failure"]["retriable"]) == ("CANCELLED", True)
    databricks = share.databricks("GET", "/api/2.2/jobs/runs/get", {"run_id": databricks_run})
    assert databricks["state"]["result_state"] == "CANCELED"
    assert share.ledger() == ledger

    patches = gateway.count("PATCH")
    client.call("cancel", DATASET, run_id)
    assert gateway.count("PATCH") == patches


def test_requests_at_once_while_a_run_is_active_make_one_run(
    clients: Callable[[str], Client], share: RunningShare
) -> None:
    backends = [clients(language) for language in LANGUAGES]
    share.hold_export("start")
    active = backends[0].call("start", DATASET)["run_id"]
    wait_until_held(share)
    before = runs_in_all(share)

    requests = [backend.begin("request_sync", DATASET, conf={"requested_by": "ada"}) for backend in backends * 3]
    (queued,) = {request.result(SECONDS)["run_id"] for request in requests}
    (again,) = {backend.call("request_sync", DATASET)["run_id"] for backend in backends}

    assert queued == again != active
    assert runs_in_all(share) == before + 1
    assert backends[0].call("sync", DATASET, queued)["state"] == "queued"
    # A run that has not begun is over at once, though Airflow ends it only when its turn comes.
    backends[1].call("cancel", DATASET, queued)
    assert backends[1].call("wait", DATASET, queued, deadline_seconds=SECONDS)["state"] == "failed"
    assert backends[0].call("sync", DATASET, active)["state"] == "running"


def test_a_paused_dataset(client: Client, share: RunningShare) -> None:
    before = runs_in_all(share)
    share.airflow.ask("PATCH", f"/dags/{DAG_ID}", json={"is_paused": True})
    try:
        for name in ("start", "request_sync"):
            assert "unpause" in fails("PausedError", client, name, DATASET)
    finally:
        share.airflow.ask("PATCH", f"/dags/{DAG_ID}", json={"is_paused": False})
    assert runs_in_all(share) == before


def test_what_airflow_refuses(client: Client, share: RunningShare) -> None:
    before = runs_in_all(share)
    conf = {"requested_by": "ada\nlovelace"}
    assert "requested_by" in fails("InvalidConfError", client, "start", DATASET, conf=conf)
    assert "run_id" in fails("InvalidConfError", client, "start", DATASET, run_id="two words")
    assert "no_such_dataset" in fails("UnknownDatasetError", client, "start", "no_such_dataset")
    assert "no_such_dataset" in fails("UnknownDatasetError", client, "newest", "no_such_dataset")
    assert "no-such-run" in fails("UnknownSyncError", client, "sync", DATASET, "no-such-run")
    assert "no-such-run" in fails("UnknownSyncError", client, "cancel", DATASET, "no-such-run")
    assert runs_in_all(share) == before
    # Airflow shows a dataset of another test for a while after its file is gone.
    assert set(client.call("datasets")) >= {"city_temperatures", "daily_observations", "shared_forecasts"}


@pytest.mark.parametrize("why", ["expired", "another key"])
def test_a_token_that_airflow_refuses_is_renewed(
    client: Client, share: RunningShare, gateway: Gateway, why: str
) -> None:
    client.call("datasets")
    signed_in = gateway.count("POST", "/auth/token")
    gateway.next_token = refused_token(share, why)

    assert DATASET in client.call("datasets")
    assert gateway.count("POST", "/auth/token") == signed_in + 1


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_wrong_password(share: RunningShare, language: str) -> None:
    client = open_client(language, share.endpoints.airflow_url, share.endpoints.airflow_user, "wrong-password")
    try:
        with pytest.raises(ClientError, match="NotSignedInError") as raised:
            client.call("datasets")
    finally:
        client.close()
    assert "wrong-password" not in raised.value.shown


def run_command(share: RunningShare, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "AIRFLOW_URL": share.endpoints.airflow_url,
        "AIRFLOW_USER": share.endpoints.airflow_user,
        "AIRFLOW_PASSWORD": share.endpoints.airflow_password,
    }
    command = [node(), str(NODE_CLIENT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)


def test_the_command_of_the_node_client(share: RunningShare) -> None:
    done = run_command(share, DATASET)

    assert done.returncode == 0, done.stderr
    *steps, last = done.stdout.splitlines()
    assert last.startswith("Sync Complete: 1,461 rows in shared_forecasts")
    succeeded = [line.split()[2] for line in steps if line.endswith(" success")]
    assert succeeded == list(STEPS)


def test_the_command_of_the_node_client_says_what_failed(share: RunningShare) -> None:
    share.databricks("POST", "/_sandbox/fail_next", {"message": "Out of memory in stage 3"})
    failed = run_command(share, DATASET)
    unknown = run_command(share, "no_such_dataset")

    assert (failed.returncode, unknown.returncode, run_command(share).returncode) == (1, 1, 2)
    assert "Sync Complete" not in failed.stdout
    assert "wait_for_export: " in failed.stderr
    assert "Out of memory in stage 3" in failed.stderr
    # Airflow shows a dataset of another test for a while after its file is gone.
    assert unknown.stderr.startswith("Airflow has no dataset no_such_dataset; it has ")
    assert " shared_forecasts" in unknown.stderr
