"""The accounts of the suite: the stand-ins, or real ones if DATA_SHARE_LIVE=1 is set. See docs/live-tests.md."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import pyarrow as pa
import pytest
import requests
from airflow.dag_processing.dagbag import DagBag

from data_share import databricks_run, share, snowflake_hook
from data_share.snowflake_hook import DataShareSnowflakeHook
from sandbox.databricks.jobs import Workspace
from sandbox.databricks.records import Run
from sandbox.s3 import s3_filesystem
from sandbox.sources import SHARE_BUCKET, write_source
from tests.airflow_double import DagRun, export_job
from tests.contracts.conftest import Accounts, serve_accounts
from tests.contracts.contract import Contract, Exchange
from tests.live.accounts import SWITCH, LiveSettings, Scratch, scratch_place, settings_or_failure

PROJECT = Path(__file__).resolve().parents[2]
CONTRACTS = [Contract("databricks"), Contract("snowflake")]
PREFIX = f"s3://{SHARE_BUCKET}/dataset/scratch/"
S3_SIGN_IN = {
    "AWS_ACCESS_KEY_ID": "live",
    "AWS_SECRET_ACCESS_KEY": "live",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
RIDES = {
    "tpep_pickup_datetime": [datetime(2016, 2, 14, 16, 52, 13)] * 3,
    "tpep_dropoff_datetime": [datetime(2016, 2, 14, 16, 59, 1)] * 3,
    "trip_distance": [4.94, 0.28, 1.0],
    "fare_amount": [19.0, 3.5, 7.0],
    "pickup_zip": pa.array([10282, 10110, 10001], pa.int32()),
    "dropoff_zip": pa.array([10171, 10110, 10002], pa.int32()),
}


def on_real_accounts() -> bool:
    """Whether the suite was switched on."""
    return os.environ.get(SWITCH) == "1"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "live: on the stand-ins, and with DATA_SHARE_LIVE=1 on real accounts")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not on_real_accounts():
        for item in items:
            if item.get_closest_marker("live"):
                item.add_marker(pytest.mark.sandbox)
                item.add_marker(pytest.mark.tier("full"))


@pytest.fixture(scope="package")
def stand_ins(tmp_path_factory: pytest.TempPathFactory, sync_datasets: ModuleType) -> Iterator[Accounts]:
    """The stand-ins, as if they were real accounts: with the table that each real workspace has."""
    with (
        pytest.MonkeyPatch.context() as patch,
        serve_accounts(tmp_path_factory.mktemp("live"), sync_datasets.sync_dag) as accounts,
    ):
        for name, value in S3_SIGN_IN.items():
            patch.setenv(name, value)
        # Nobody waits longer than the stand-ins need.
        patch.setattr(databricks_run, "_FIRST_POLL_SECONDS", 0.02)
        patch.setattr(snowflake_hook, "_FIRST_POLL_SECONDS", 0.004)
        write_source(accounts.s3_url, "samples.nyctaxi.trips", pa.table(RIDES))
        s3_filesystem(accounts.s3_url).pipe_file(f"{PREFIX}somebody_elses.parquet", b"not ours")
        # As with the real one, an export is not over before somebody can cancel it: it goes on when it is looked at.
        accounts.order("hold", at="start", count=100)
        look = Workspace.run

        def goes_on(workspace: Workspace, run_id: int) -> Run:
            run = look(workspace, run_id)
            with workspace._changed:
                if run.run_id in workspace._controls:
                    workspace._controls[run.run_id].hold_at = None
                    workspace._changed.notify_all()
            return run

        patch.setattr(Workspace, "run", goes_on)
        yield accounts


@pytest.fixture(scope="package")
def settings(stand_ins: Accounts) -> LiveSettings:
    """The settings by which the suite takes the stand-ins for real accounts."""
    return LiveSettings.read(
        {
            "DATA_SHARE_LIVE_SNOWFLAKE": os.environ["AIRFLOW_CONN_SNOWFLAKE_DEFAULT"],
            "DATA_SHARE_LIVE_DATABRICKS": os.environ["AIRFLOW_CONN_DATABRICKS_DEFAULT"],
            "DATA_SHARE_LIVE_JOB_ID": stand_ins.job_id,
            "DATA_SHARE_LIVE_S3_PREFIX": PREFIX,
            "DATA_SHARE_LIVE_STORAGE_INTEGRATION": share.STORAGE_INTEGRATION,
            "DATA_SHARE_LIVE_S3_ENDPOINT": stand_ins.s3_url,
        }
    )


@pytest.fixture(autouse=True)
def no_network() -> None:
    """Take the place of the fixture that keeps unit tests off the network."""


@pytest.fixture(scope="module")
def scratch(request: pytest.FixtureRequest) -> Iterator[Scratch]:
    """The scratch place, from before the first test of a file to after the last."""
    settings = settings_or_failure(os.environ) if on_real_accounts() else request.getfixturevalue("settings")
    with scratch_place(settings) as made:
        yield made


@pytest.fixture(scope="module")
def hook(scratch: Scratch) -> DataShareSnowflakeHook:
    """The product's hook, in the scratch schema."""
    return DataShareSnowflakeHook("snowflake_default", query_tag={"live": scratch.name})


@pytest.fixture(scope="module")
def stage(scratch: Scratch) -> str:
    """The product's stage, ledger and schemas, made by its own DAG; returns the name of the stage."""
    bag = DagBag(PROJECT / "dags" / "set_up_snowflake.py", bundle_path=PROJECT / "dags")
    DagRun(dag=bag.dags["set_up_snowflake"]).run("create_schemas", "create_stage", "create_ledger")
    return share.STAGE


@pytest.fixture(scope="module")
def begin(scratch: Scratch, sync_datasets: ModuleType) -> Callable[..., DagRun]:
    """Begin a sync of the suite's dataset."""
    dag = sync_datasets.sync_dag(scratch.settings.dataset)
    return lambda **params: DagRun(dag=dag, conf=params, variables=export_job(str(scratch.job_id)))


@pytest.fixture(autouse=True)
def the_published_contract(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hold each exchange of a live test with the accounts against the published contracts."""
    if not request.node.get_closest_marker("live"):
        yield
        return
    # Before the recording begins, so that making the scratch place is not a part of some test.
    request.getfixturevalue("scratch")
    exchanges: list[Exchange] = []
    _record(monkeypatch, exchanges)
    yield
    problems = []
    for exchange in exchanges:
        for contract in CONTRACTS:
            if contract.operation_of(exchange):
                found = contract.check_request(exchange).problems + contract.check_response(exchange).problems
                problems += [f"{exchange}\n    {problem}" for problem in found]
    assert not problems, "not as published:\n" + "\n".join(dict.fromkeys(problems))


# Not S3, which the stand-ins ask in the process of the tests.
_SERVICES = re.compile(r"/(api|oauth|oidc)/")


def _record(monkeypatch: pytest.MonkeyPatch, exchanges: list[Exchange]) -> None:
    send = requests.Session.send
    ask = aiohttp.ClientSession._request

    def recorded_send(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> Any:
        answer = send(session, request, **options)
        if not _SERVICES.match(urlsplit(str(request.url)).path):
            return answer
        body = request.body or b""
        content = body.encode() if isinstance(body, str) else body
        address = urlsplit(str(request.url))
        exchanges.append(
            Exchange(
                method=str(request.method),
                path=address.path,
                query=tuple(parse_qsl(address.query, keep_blank_values=True)),
                headers=_lower(request.headers),
                body=content,
                status=answer.status_code,
                answer_type=answer.headers.get("Content-Type", "").partition(";")[0],
                answer=answer.content,
            )
        )
        return answer

    async def recorded_ask(session: aiohttp.ClientSession, method: str, url: Any, **options: Any) -> Any:
        answer = await ask(session, method, url, **options)
        if not _SERVICES.match(answer.url.path):
            return answer
        await answer.read()
        content = json.dumps(options["json"]).encode() if options.get("json") is not None else b""
        exchanges.append(
            Exchange(
                method=method,
                path=answer.url.path,
                query=tuple(answer.url.query.items()),
                headers=_lower(answer.request_info.headers),
                body=content,
                status=answer.status,
                answer_type=answer.content_type,
                answer=answer._body or b"",
            )
        )
        return answer

    monkeypatch.setattr(requests.Session, "send", recorded_send)
    monkeypatch.setattr(aiohttp.ClientSession, "_request", recorded_ask)


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
