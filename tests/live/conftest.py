"""Real accounts: nothing of this runs unless DATA_SHARE_LIVE=1 is set. See docs/live-tests.md."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import pytest
import requests
from airflow.dag_processing.dagbag import DagBag

from data_share import share, snowflake_operators
from data_share.snowflake_hook import DataShareSnowflakeHook
from tests.contracts.contract import Contract, Exchange
from tests.contracts.runner import NO_CONF, DagRun
from tests.live.accounts import SWITCH, Scratch, confined, settings_or_failure

PROJECT = Path(__file__).resolve().parents[2]
CONTRACTS = [Contract("databricks"), Contract("snowflake")]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "live: on real accounts; only with DATA_SHARE_LIVE=1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get(SWITCH) != "1":
        for item in items:
            if item.get_closest_marker("live"):
                item.add_marker(pytest.mark.skip(reason=f"needs real accounts and {SWITCH}=1, see docs/live-tests.md"))


@pytest.fixture(autouse=True)
def no_network() -> None:
    """Take the place of the fixture that keeps unit tests off the network."""


@pytest.fixture(scope="session")
def scratch() -> Iterator[Scratch]:
    """The scratch place, from before the first test to after the last, whatever happens between."""
    settings = settings_or_failure(os.environ)
    made = Scratch(settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_SNOWFLAKE_DEFAULT", made.snowflake_connection())
        patch.setenv("AIRFLOW_CONN_DATABRICKS_DEFAULT", json.dumps(settings.databricks))
        patch.setattr(share, "SHARE_URL", made.url)
        patch.setattr(share, "STORAGE_INTEGRATION", settings.storage_integration)
        for module in (share, snowflake_operators):
            patch.setattr(module, "STAGING_SCHEMA", made.schema)
        with confined(made):
            try:
                made.make()
                yield made
            finally:
                made.remove()


@pytest.fixture(scope="session")
def hook(scratch: Scratch) -> DataShareSnowflakeHook:
    """The product's hook, in the scratch schema."""
    return DataShareSnowflakeHook("snowflake_default", query_tag={"live": scratch.name})


@pytest.fixture(scope="session")
def stage(scratch: Scratch) -> str:
    """The product's stage, ledger and schemas, made by its own DAG; returns the name of the stage."""
    bag = DagBag(PROJECT / "dags" / "set_up_snowflake.py", bundle_path=PROJECT / "dags")
    DagRun(bag.dags["set_up_snowflake"], "", {}).run("create_schemas", "create_stage", "create_ledger")
    return share.STAGE


@pytest.fixture(scope="session")
def begin(scratch: Scratch, sync_datasets: ModuleType) -> Callable[..., DagRun]:
    """Begin a sync of the suite's dataset."""
    dag = sync_datasets.sync_dag(scratch.settings.dataset)
    return lambda **params: DagRun(dag, str(scratch.job_id), {**NO_CONF, **params})


@pytest.fixture(autouse=True)
def the_published_contract(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hold each exchange of a live test with the real accounts against the published contracts."""
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


def _record(monkeypatch: pytest.MonkeyPatch, exchanges: list[Exchange]) -> None:
    send = requests.Session.send
    ask = aiohttp.ClientSession._request

    def recorded_send(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> Any:
        answer = send(session, request, **options)
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
