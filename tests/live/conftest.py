"""The accounts of the suite: the emulators, or real ones if DATA_SHARE_LIVE=1 is set. See docs/live-tests.md."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
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
from airflow.sdk import DAG

from data_share.databricks import follow
from data_share.datasets import Dataset
from data_share.doctor.deployment import State
from data_share.snowflake import sql_api
from data_share.snowflake.sql_api import DataShareSnowflakeHook
from emulators.databricks.jobs import Workspace
from emulators.databricks.records import Run
from emulators.databricks.unity_catalog import write_table
from emulators.s3 import SHARE_BUCKET, s3_filesystem
from emulators.snowflake.server import INTEGRATION
from tests.airflow_double import DagRun, export_job, with_templates_compiled_once
from tests.contracts.conftest import USER, Accounts, serve_accounts
from tests.contracts.contract import Contract, Exchange
from tests.live.accounts import SWITCH, LiveSettings, Scratch, scratch_place, settings_or_failure
from tests.live.assumptions import NOT_ABOUT_ASSUMPTIONS, NotTriedError, Result
from tests.live.preflight import preflight
from tests.live.report import FILES, LiveReport, versions_here

PROJECT = Path(__file__).resolve().parents[2]
PREFIX = f"s3://{SHARE_BUCKET}/dataset/scratch/"
S3_SIGN_IN = {
    "AWS_ACCESS_KEY_ID": "live",
    "AWS_SECRET_ACCESS_KEY": "live",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
# Those of setup_live.sql that the emulator's user does not have from the beginning.
RIGHTS = (
    "CREATE ROLE LIVE_OTHER",
    f"GRANT ROLE LIVE_OTHER TO USER {USER}",
    "GRANT USAGE ON WAREHOUSE LOAD_WH TO ROLE LIVE_OTHER",
    "GRANT USAGE ON DATABASE DATA_SHARE TO ROLE LIVE_OTHER",
    "GRANT APPLY MASKING POLICY, APPLY ROW ACCESS POLICY ON ACCOUNT TO ROLE DATA_SHARE_LOADER",
)
RIDES = {
    "tpep_pickup_datetime": [datetime(2016, 2, 14, 16, 52, 13)] * 3,
    "tpep_dropoff_datetime": [datetime(2016, 2, 14, 16, 59, 1)] * 3,
    "trip_distance": [4.94, 0.28, 1.0],
    "fare_amount": [19.0, 3.5, 7.0],
    "pickup_zip": pa.array([10282, 10110, 10001], pa.int32()),
    "dropoff_zip": pa.array([10171, 10110, 10002], pa.int32()),
}


REPORT = pytest.StashKey[LiveReport]()
ANSWERS = pytest.StashKey[list[str]]()


def on_real_accounts() -> bool:
    """Whether the suite was switched on."""
    return os.environ.get(SWITCH) == "1"


# The emulators have no field that the contracts do not name; real services get new ones.
CONTRACTS = [Contract(name, lets_fields_pass=on_real_accounts()) for name in ("databricks", "snowflake")]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "live: on the emulators, and with DATA_SHARE_LIVE=1 on real accounts")
    config.addinivalue_line("markers", "assumption(id): tries one of those in tests/live/assumptions.py")
    config.stash[REPORT] = LiveReport()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("live"):
            item.add_marker(pytest.mark.sandbox)
            item.add_marker(pytest.mark.tier("full"))
    if on_real_accounts():
        # Those about the suite itself need nothing but the emulators.
        config.hook.pytest_deselected(items=[item for item in items if not item.get_closest_marker("live")])
        items[:] = [item for item in items if item.get_closest_marker("live")]


# ---- the report


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[REPORT].seconds = -time.monotonic()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    told = yield
    report = item.config.stash[REPORT]
    if on_real_accounts() and call.excinfo is not None and call.excinfo.errisinstance(NotTriedError):
        # An account that lacks something is no failure. On the emulators, nothing may be lacking.
        told.outcome, told.longrepr = "skipped", (str(item.path), item.location[1] or 0, str(call.excinfo.value))
    if (call.when == "call" or not told.passed) and item.get_closest_marker("live"):
        outcome = "not tried" if told.skipped else told.outcome if call.when == "call" else f"failed at {call.when}"
        reason = f": {_first_lines(call.excinfo)}" if call.excinfo else ""
        report.tests.setdefault(outcome, []).append(f"{item.nodeid}{reason}")
    if (call.when == "call" or (call.when == "setup" and call.excinfo)) and (
        marker := item.get_closest_marker("assumption")
    ):
        result, answers = result_of(call, item.stash.get(ANSWERS, []))
        report.note(marker.args[0], item.nodeid, result, answers, call.duration)
    return told


def result_of(call: pytest.CallInfo[None], answers: list[str]) -> tuple[Result, list[str]]:
    """What a test has found of its assumption."""
    if call.excinfo is None:
        return Result.HOLDS, answers
    if call.excinfo.errisinstance(NotTriedError):
        return Result.NOT_TRIED, [*answers, str(call.excinfo.value)]
    reason = _first_lines(call.excinfo)
    if call.when == "setup" or call.excinfo.errisinstance(NOT_ABOUT_ASSUMPTIONS):
        return Result.NOT_TRIED, [*answers, f"the test did not get that far: {reason}"]
    return Result.DOES_NOT_HOLD, [*answers, reason]


def _first_lines(error: pytest.ExceptionInfo[BaseException]) -> str:
    return " ".join(f"{error.typename}: {error.value}".split())[:600]


def pytest_sessionfinish(session: pytest.Session) -> None:
    report = session.config.stash[REPORT]
    report.seconds += time.monotonic()
    if on_real_accounts():
        report.versions = versions_here() | report.versions
        report.write(Path(os.environ.get("DATA_SHARE_LIVE_REPORT", PROJECT)))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if on_real_accounts():
        report = config.stash[REPORT]
        for name, tried in report.assumptions.items():
            terminalreporter.write_line(f"{tried.result:14} {name:18} {tried.seconds:6.1f} s")
        terminalreporter.write_line(f"To bring back: {' and '.join(FILES)}")


@pytest.fixture
def answer(request: pytest.FixtureRequest) -> Callable[[object], None]:
    """Note what was answered, for the report."""
    answers = request.node.stash.setdefault(ANSWERS, [])
    return lambda told: answers.append(str(told))


# ---- the accounts


@pytest.fixture(scope="package")
def emulators(tmp_path_factory: pytest.TempPathFactory, sync_datasets: ModuleType) -> Iterator[Accounts]:
    """The emulators, as if they were real accounts: with the table that each real workspace has."""
    with (
        pytest.MonkeyPatch.context() as patch,
        serve_accounts(tmp_path_factory.mktemp("live"), sync_datasets.sync_dag) as accounts,
    ):
        for name, value in S3_SIGN_IN.items():
            patch.setenv(name, value)
        # Nobody waits longer than the emulators need.
        patch.setattr(follow, "_MIN_POLL_SECONDS", 0.02)
        patch.setattr(follow, "_FAILED_POLL_SECONDS", 0.02)
        patch.setattr(sql_api, "_FIRST_POLL_SECONDS", 0.004)
        write_table(accounts.s3_url, "samples.nyctaxi.trips", pa.table(RIDES))
        for statement in RIGHTS:
            DataShareSnowflakeHook("snowflake_administrator").run_statement(statement)
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


def live_environment(emulators: Accounts) -> dict[str, str]:
    """Return the settings by which the suite takes the emulators for real accounts."""
    return {
        "DATA_SHARE_LIVE_SNOWFLAKE": os.environ["AIRFLOW_CONN_SNOWFLAKE_DEFAULT"],
        "DATA_SHARE_LIVE_DATABRICKS": os.environ["AIRFLOW_CONN_DATABRICKS_DEFAULT"],
        "DATA_SHARE_LIVE_JOB_ID": emulators.job_id,
        "DATA_SHARE_LIVE_S3_PREFIX": PREFIX,
        "DATA_SHARE_LIVE_STORAGE_INTEGRATION": INTEGRATION,
        "DATA_SHARE_LIVE_SOURCE_SCHEMA": "main.live",
        "DATA_SHARE_LIVE_S3_ENDPOINT": emulators.s3_url,
        "DATA_SHARE_LIVE_OTHER_ROLE": "LIVE_OTHER",
        "DATA_SHARE_LIVE_RETRY_AFTER": "0.2",
    }


@pytest.fixture(scope="package")
def settings(emulators: Accounts) -> LiveSettings:
    """The settings of the suite, read."""
    return LiveSettings.read(live_environment(emulators))


@pytest.fixture(autouse=True)
def no_network() -> None:
    """Take the place of the fixture that keeps unit tests off the network."""


@pytest.fixture(scope="package")
def accounts_of_tests(request: pytest.FixtureRequest) -> LiveSettings:
    """The accounts; real ones only with all rights, without which nothing is made."""
    if not on_real_accounts():
        return request.getfixturevalue("settings")  # type: ignore[no-any-return]
    settings, report = settings_or_failure(os.environ), request.config.stash[REPORT]
    report.hide({"snowflake": settings.snowflake, "databricks": settings.databricks}, settings.s3_prefix)
    plugins = request.config.pluginmanager
    terminal = plugins.getplugin("terminalreporter")
    # What is written in a fixture would be captured.
    with plugins.getplugin("capturemanager").global_and_fixture_disabled():
        terminal.write_line("")
        for finding in preflight(settings, report.versions):
            report.preflight.append(finding)
            terminal.write_line(report.without_secrets(finding.line()))
    if missing := [finding for finding in report.preflight if finding.state is State.WRONG]:
        pytest.exit(f"The preflight: {len(missing)} of {len(report.preflight)} are missing. Nothing was made.", 1)
    return settings


@pytest.fixture(scope="module")
def scratch(accounts_of_tests: LiveSettings) -> Iterator[Scratch]:
    """The scratch place, from before the first test of a file to after the last."""
    with scratch_place(accounts_of_tests) as made:
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
    return scratch.share.stage


@pytest.fixture(scope="module")
def begin(scratch: Scratch, sync_datasets: ModuleType) -> Callable[..., DagRun]:
    """Begin a sync, by default of the suite's dataset."""
    dags: dict[str, DAG] = {}

    def begin_sync(dataset: Dataset = scratch.settings.dataset, **params: Any) -> DagRun:
        key = dataset.model_dump_json()
        if key not in dags:
            dags[key] = with_templates_compiled_once(sync_datasets.sync_dag(dataset, scratch.share))
        return DagRun(dag=dags[key], conf=params, variables=export_job(str(scratch.job_id)))

    return begin_sync


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
                answered = contract.check_response(exchange)
                found = contract.check_request(exchange).problems + answered.problems
                problems += [f"{exchange}\n    {problem}" for problem in found]
                request.config.stash[REPORT].unknown_fields |= answered.unknown_fields
    assert not problems, "not as published:\n" + "\n".join(dict.fromkeys(problems))


# Not S3, which the emulators ask in the process of the tests.
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
