"""What the product sends to Databricks and Snowflake is what they publish, and so is what the emulators answer."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import enum
import json
import re
import types
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
from airflow.providers.databricks.exceptions import DatabricksApiError
from openapi_spec_validator import validate

from data_share import share
from data_share.databricks import follow
from data_share.outcome.report import NotPublishedError
from data_share.share import Share
from data_share.snowflake.check import CheckFailedError
from data_share.snowflake.sql_api import (
    DataShareSnowflakeHook,
    SnowflakeRefusedError,
    SnowflakeStatementError,
    SnowflakeStoppedError,
)
from data_share.snowflake.statements import SnowflakeStatementsOperator
from tests.airflow_double import SYNC, TriggerFailedError, events_of
from tests.contracts import drift, scenarios
from tests.contracts.conftest import DATASET, Accounts, statement_runs, until
from tests.contracts.contract import Contract, Exchange

pytestmark = pytest.mark.sandbox

CONTRACTS = {name: Contract(name) for name in ("databricks", "snowflake")}
LONG = "SELECT COUNT(*) FROM range(1000000) a, range(1000000) b WHERE a.range + b.range = 7"

KNOWN_DEPARTURES = {
    "an asynchronous GET has a body": "sends the query parameters of a GET as its JSON body",
    "the same for get-output": "As for runs/get.",
    "a number as text": "makes text of every number in a payload",
}
"""What is sent and documented nowhere, by a part of the reason in the contract: all of it the provider does."""


# ---- what is recorded: each step of the product, and each way that it can go


def set_up(accounts: Accounts) -> None:
    accounts.begin_dag("set_up_snowflake").run(
        "create_schemas", "create_stage", "create_ledger", "list_targets", "create_target"
    )


def sync(accounts: Accounts) -> None:
    run = accounts.begin(requested_by="o'brien@example.com")
    run.run(*SYNC)
    assert run.xcoms["publish", "return_value"]["rows_inserted"] == 365
    run.run("publish")  # once more: the ledger has it, nothing is published twice


def preview_and_reload(accounts: Accounts) -> None:
    first = accounts.begin(dry_run=True)
    first.run(*SYNC)
    assert first.xcoms["publish", "return_value"]["dry_run"]
    published = accounts.begin(full_refresh=True)
    published.run(*SYNC)
    again = accounts.begin(reload_run_key=published.key, full_refresh=True)
    again.run("export_to_s3", "copy_into_staging", "check_staging", "publish", "finish_sync")
    assert again.xcoms["publish", "return_value"]["rows_in_target"] == 365


def clean_up(accounts: Accounts) -> None:
    accounts.begin_dag("clean_up_share", keep_days=7).run("clean_up")


def follow_in_the_same_process(accounts: Accounts) -> None:
    run = accounts.begin()
    run.run("export_to_s3")
    task, context = run.prepared("wait_for_export")
    assert share.attempt_of(task.execute(context)["export_path"]) == 1


def export_fails(accounts: Accounts) -> None:
    run = accounts.begin(DATASET.model_copy(update={"source_table": "main.weather.nothing"}))
    run.run("export_to_s3")
    with pytest.raises(TriggerFailedError, match="TABLE_OR_VIEW_NOT_FOUND"):
        run.run("wait_for_export")


def export_is_cancelled(accounts: Accounts) -> None:
    accounts.order("hold", at="start", count=3)
    try:
        by_operator = accounts.begin()
        task, context = by_operator.prepared("export_to_s3")
        task.execute(context)
        task.on_kill()

        by_trigger = accounts.begin()
        by_trigger.run("export_to_s3")
        trigger = by_trigger.trigger(by_trigger.prepared("wait_for_export")[0])
        with mock.patch.object(follow, "_is_deferred", return_value=False):
            asyncio.run(trigger.on_kill())

        too_long = accounts.begin()
        too_long.run("export_to_s3")
        trigger = too_long.trigger(too_long.prepared("wait_for_export")[0])
        trigger.timeout_seconds = -1
        with too_long.xcoms_of_triggers():
            events_of(trigger)
        assert "was cancelled" in too_long.xcoms["wait_for_export", "failure"]["message"]
    finally:
        accounts.order("release")


def databricks_cannot_answer(accounts: Accounts) -> None:
    run = accounts.begin()
    busy = {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "Too many requests."}
    for method, path, task_id in (("POST", "run-now$", "export_to_s3"), ("GET", "runs/get$", "wait_for_export")):
        for action in ({"status": 429, "json": busy}, {"status": 503, "json": busy}, {"drop": "after"}):
            if task_id == "wait_for_export" or action != {"drop": "after"}:
                with accounts.fault(accounts.databricks_url, method=method, path=path, times=1, action=action):
                    run.run(task_id)


def databricks_refuses(accounts: Accounts) -> None:
    run = accounts.begin(job_id="1234567")
    with pytest.raises(DatabricksApiError):
        run.run("export_to_s3")
    run = accounts.begin()
    task, context = run.prepared("export_to_s3")
    task.databricks_conn_id = "databricks_wrong_token"
    with pytest.raises(DatabricksApiError, match="403"):
        task.execute(context)
    run.xcoms["export_to_s3", "run_id"] = 1234567
    with pytest.raises(TriggerFailedError, match="cannot be followed"):
        run.run("wait_for_export")


def a_service_principal_signs_in(accounts: Accounts) -> None:
    run = accounts.begin()
    task, context = run.prepared("export_to_s3")
    task.databricks_conn_id = "databricks_principal"
    task.execute(context)
    trigger = run.trigger(run.prepared("wait_for_export")[0])
    trigger.databricks_conn_id = "databricks_principal"
    with run.xcoms_of_triggers():
        events_of(trigger)
    assert ("wait_for_export", "failure") not in run.xcoms


def checks_fail(accounts: Accounts) -> None:
    run = accounts.begin(DATASET.model_copy(update={"checks": {"no": "temp_min_f > 1000"}}))
    run.run("export_to_s3", "wait_for_export", "copy_into_staging")
    with pytest.raises(CheckFailedError, match="no: temp_min_f > 1000"):
        run.run("check_staging")
    with pytest.raises(NotPublishedError):
        run.run("finish_sync")


def results_come_in_partitions(accounts: Accounts) -> None:
    rows = DataShareSnowflakeHook("snowflake_default").run_statement("SELECT range AS n FROM range(25000)").rows
    assert len(rows) == 25000


def statements_fail(accounts: Accounts) -> None:
    hook = DataShareSnowflakeHook("snowflake_default")
    with pytest.raises(SnowflakeStatementError, match="does not exist"):
        hook.run_statement("SELECT * FROM nothing_here")
    with pytest.raises(SnowflakeStatementError):
        hook.run_statements(["BEGIN", "SELECT * FROM nothing_here", "COMMIT"], is_long=True)
    with pytest.raises(SnowflakeStatementError, match="timeout"):
        DataShareSnowflakeHook("snowflake_default", statement_timeout=1).run_statement(LONG)


def statements_are_cancelled(accounts: Accounts) -> None:
    run = accounts.begin()
    _, context = run.prepared("finish_sync")
    task = SnowflakeStatementsOperator(share=Share(), task_id="long", sql=LONG, statement_timeout=60, dag=run.dag)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        executed = pool.submit(task.execute, context)
        until(lambda: statement_runs(accounts))
        task.on_kill()
        with pytest.raises(SnowflakeStoppedError, match="cancel"):
            executed.result()


def snowflake_cannot_answer(accounts: Accounts) -> None:
    hook = DataShareSnowflakeHook("snowflake_default")
    busy = {"status": 429, "json": {"code": "390505", "message": "Too many requests."}}
    for action in (
        busy,
        {"status": 503, "json": {}},
        {"status": 504, "json": {}},
        {"drop": "after"},
        {"drop": "before"},
    ):
        for method in ("POST", "GET"):
            path = "/api/v2/statements"
            with accounts.fault(accounts.snowflake_url, method=method, path=path, times=1, action=action):
                hook.run_statement("SELECT 1", is_long=True)


def snowflake_refuses(accounts: Accounts) -> None:
    with pytest.raises(SnowflakeRefusedError, match="HTTP 401"):
        DataShareSnowflakeHook("snowflake_wrong_key").run_statement("SELECT 1")
    with pytest.raises(SnowflakeRefusedError, match="HTTP 400"):
        DataShareSnowflakeHook("snowflake_wrong_role").run_statement("SELECT 1")


def nothing_is_new(accounts: Accounts) -> None:
    states: dict[str, dict[str, Any]] = {}
    accounts.begin(states=states).run(*SYNC)
    asked = len(accounts.snowflake)
    run = accounts.begin(states=states)
    run.run(*scenarios.WITHOUT_CHECK)
    assert run.states["copy_into_staging"] == "skipped"
    assert run.xcoms["publish", "return_value"]["unchanged"] is True
    assert run.asset_events == []
    assert accounts.snowflake[asked:] == [], "no request wakes the warehouse"


SCENARIOS: tuple[Callable[[Accounts], None], ...] = (
    scenarios.a_sync_ends_before_its_export_is_followed,
    set_up,
    sync,
    preview_and_reload,
    clean_up,
    follow_in_the_same_process,
    export_fails,
    export_is_cancelled,
    databricks_cannot_answer,
    databricks_refuses,
    a_service_principal_signs_in,
    checks_fail,
    results_come_in_partitions,
    statements_fail,
    statements_are_cancelled,
    snowflake_cannot_answer,
    snowflake_refuses,
    nothing_is_new,
)


@pytest.fixture(scope="module")
def recorded(accounts: Accounts) -> dict[str, list[Exchange]]:
    """All exchanges of all scenarios, by the service that was asked."""
    for scenario in SCENARIOS:
        scenario(accounts)
    return {"databricks": accounts.databricks, "snowflake": accounts.snowflake}


@pytest.fixture(params=sorted(CONTRACTS))
def service(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# ---- the contract holds


def test_the_contracts_are_openapi_documents_that_name_their_sources(service: str) -> None:
    validate(CONTRACTS[service].document)
    for _, _, operation in CONTRACTS[service].operations.values():
        assert re.match(r"https://docs\.(databricks|snowflake)\.com/", operation["externalDocs"]["url"])


def test_each_request_of_the_product_keeps_the_contract(service: str, recorded: dict[str, list[Exchange]]) -> None:
    broken = [
        f"{exchange}\n    {problem}"
        for exchange in recorded[service]
        for problem in CONTRACTS[service].check_request(exchange).problems
    ]
    assert not broken, "\n".join(broken)


def test_each_answer_of_the_emulators_keeps_the_contract(service: str, recorded: dict[str, list[Exchange]]) -> None:
    broken = [
        f"{exchange}\n    {problem}"
        for exchange in recorded[service]
        for problem in CONTRACTS[service].check_response(exchange).problems
    ]
    assert not broken, "\n".join(dict.fromkeys(broken))


def test_each_operation_that_the_contract_has_was_used(service: str, recorded: dict[str, list[Exchange]]) -> None:
    contract = CONTRACTS[service]
    used = {contract.operation_of(exchange) for exchange in recorded[service]}
    assert used == set(contract.operations)


def test_the_answers_that_the_product_has_to_understand_were_seen(recorded: dict[str, list[Exchange]]) -> None:
    seen = {
        f"{CONTRACTS[service].operation_of(exchange)} {exchange.status}"
        for service, exchanges in recorded.items()
        for exchange in exchanges
    }
    assert seen >= {
        "token 200",
        *(f"run-now {status}" for status in (200, 400, 403, 429, 503)),
        *(f"runs-get {status}" for status in (200, 400, 429, 503, None)),
        "runs-get-output 200",
        "runs-list 200",
        "runs-cancel 200",
        *(f"submit {status}" for status in (202, 400, 401, 429, 503, 504, None)),
        *(f"look {status}" for status in (200, 202, 422, 429, 503, 504, None)),
        "cancel 200",
    }


def test_nothing_undocumented_is_sent_beside_what_is_known(recorded: dict[str, list[Exchange]]) -> None:
    reasons = {
        reason
        for service, exchanges in recorded.items()
        for exchange in exchanges
        for reason in CONTRACTS[service].check_request(exchange).undocumented
    }
    # Also when one is gone: then the contract can do without it.
    assert len(reasons) == len(KNOWN_DEPARTURES)
    for known in KNOWN_DEPARTURES.values():
        assert any(known in reason for reason in reasons)


# ---- what the product does with it


def submitted(recorded: dict[str, list[Exchange]], **has: Any) -> Iterator[Exchange]:
    for exchange in recorded["snowflake"]:
        if CONTRACTS["snowflake"].operation_of(exchange) == "submit":
            body = json.loads(exchange.body)
            if all(body.get(name) == value for name, value in has.items()):
                yield exchange


def test_a_repeated_request_is_the_same_request(recorded: dict[str, list[Exchange]]) -> None:
    ids = Counter(dict(exchange.query)["requestId"] for exchange in submitted(recorded, statement="SELECT 1"))
    repeated = [request_id for request_id, count in ids.items() if count == 2]
    assert len(repeated) == 5, "one for each way of not answering"
    for request_id in repeated:
        one, other = (e for e in submitted(recorded) if dict(e.query)["requestId"] == request_id)
        assert one.body == other.body
        assert "retry" not in dict(one.query), "Snowflake searches its history for it"
        assert {**dict(one.query), "retry": "true"} == dict(other.query)


def test_bindings_several_statements_and_partitions_are_used(recorded: dict[str, list[Exchange]]) -> None:
    bodies = [json.loads(exchange.body) for exchange in submitted(recorded)]
    assert any(body.get("bindings") for body in bodies)
    assert any(int(body["parameters"]["MULTI_STATEMENT_COUNT"]) > 5 for body in bodies)
    assert {"1", "2"} <= {dict(exchange.query).get("partition") for exchange in recorded["snowflake"]}


# ---- the contract can be broken


def changed(exchange: Exchange, change: Callable[[Any], Any]) -> Exchange:
    """Return a request with another body."""
    body = json.loads(exchange.body)
    change(body)
    return dataclasses.replace(exchange, body=json.dumps(body).encode())


def renamed(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    return lambda body: body.update({new: body.pop(old)})


def renamed_to_text(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda body: body.update({name: str(body[name])})


def without(exchange: Exchange, header: str) -> Exchange:
    headers = {name: value for name, value in exchange.headers.items() if name != header}
    return dataclasses.replace(exchange, headers=headers)


def with_query(exchange: Exchange, **query: str) -> Exchange:
    return dataclasses.replace(exchange, query=tuple({**dict(exchange.query), **query}.items()))


REQUEST_BREAKS: dict[str, dict[str, Callable[[Exchange], Exchange]]] = {
    "submit": {
        "a field by another name": lambda e: changed(e, renamed("statement", "sql")),
        "a field that is not there": lambda e: changed(e, lambda body: body.update(resultSetMetaData={})),
        "a number as text": lambda e: changed(e, renamed_to_text("timeout")),
        "a text as a number": lambda e: changed(e, lambda body: body["parameters"].update(MULTI_STATEMENT_COUNT=1)),
        "an unknown session parameter": lambda e: changed(
            e, lambda body: body["parameters"].update(STATEMENT_TIMEOUT_IN_SECONDS="60")
        ),
        "a binding that is no text": lambda e: changed(
            e, lambda body: body.update(bindings={"1": {"type": "FIXED", "value": 1}})
        ),
        "a binding of an unknown type": lambda e: changed(
            e, lambda body: body.update(bindings={"1": {"type": "VARCHAR", "value": "1"}})
        ),
        "a binding by name": lambda e: changed(
            e, lambda body: body.update(bindings={"run_key": {"type": "TEXT", "value": "1"}})
        ),
        "bindings of several statements": lambda e: changed(
            e,
            lambda body: body.update(
                bindings={"1": {"type": "TEXT", "value": "1"}}, parameters={"MULTI_STATEMENT_COUNT": "2"}
            ),
        ),
        "an unknown query parameter": lambda e: with_query(e, pageSize="10"),
        "a request id that is no UUID": lambda e: with_query(e, requestId="4711"),
        "a flag that is none": lambda e: with_query(e, **{"async": "True"}),
        "no user agent": lambda e: without(e, "user-agent"),
        "no type of the token": lambda e: without(e, "x-snowflake-authorization-token-type"),
        "no accepted type": lambda e: without(e, "accept"),
        "no sign-in": lambda e: without(e, "authorization"),
        "no type of the body": lambda e: without(e, "content-type"),
        "no body": lambda e: dataclasses.replace(e, body=b""),
        "another path": lambda e: dataclasses.replace(e, path="/api/statements"),
    },
    "look": {
        "an unknown query parameter": lambda e: with_query(e, nullable="true"),
        "a partition that is no number": lambda e: with_query(e, partition="first"),
        "a handle that is none": lambda e: dataclasses.replace(e, path="/api/v2/statements/4711"),
        "a body": lambda e: dataclasses.replace(e, body=b"{}"),
    },
    "cancel": {
        "another method": lambda e: dataclasses.replace(e, method="DELETE"),
        "a body": lambda e: dataclasses.replace(e, body=b"{}"),
    },
    "run-now": {
        "a field by another name": lambda e: changed(e, renamed("job_parameters", "parameters")),
        "a job id that is none": lambda e: changed(e, lambda body: body.update(job_id="export_dataset")),
        "a parameter that is no text": lambda e: changed(e, lambda body: body["job_parameters"].update(attempt=1)),
        "a token that is too long": lambda e: changed(e, lambda body: body.update(idempotency_token="t" * 65)),
        "a notebook's parameters": lambda e: changed(e, lambda body: body.update(notebook_params={})),
        "an unknown query parameter": lambda e: with_query(e, job_id="1"),
        "no sign-in": lambda e: without(e, "authorization"),
        "another version": lambda e: dataclasses.replace(e, path="/api/2.0/jobs/run-now"),
    },
    "runs-get": {
        "a field by another name": lambda e: dataclasses.replace(e, query=(), body=b'{"runId": 1}'),
        "a field that is not there": lambda e: dataclasses.replace(e, query=(), body=b'{"run_id": 1, "job_id": 1}'),
        "a text as a number": lambda e: dataclasses.replace(e, query=(), body=b'{"run_id": "1"}'),
        "no run id": lambda e: dataclasses.replace(e, query=(), body=b""),
        "the parameters twice": lambda e: dataclasses.replace(e, query=(("run_id", "1"),), body=b'{"run_id": 1}'),
        "an unknown query parameter": lambda e: dataclasses.replace(e, query=(("run_id", "1"), ("id", "1")), body=b""),
    },
    "runs-get-output": {
        "a field by another name": lambda e: dataclasses.replace(e, query=(), body=b'{"task_run_id": 1}'),
    },
    "runs-list": {
        "a parameter by another name": lambda e: with_query(e, active="true"),
        "a flag as Python writes it": lambda e: with_query(e, active_only="True"),
        "a larger page than there is": lambda e: with_query(e, limit="25"),
    },
    "runs-cancel": {
        "a field by another name": lambda e: changed(e, renamed("run_id", "runId")),
        "a field that is not there": lambda e: changed(e, lambda body: body.update(job_id=1)),
    },
    "token": {
        "another grant": lambda e: dataclasses.replace(e, body=b"grant_type=password&scope=all-apis"),
        "no scope": lambda e: dataclasses.replace(e, body=b"grant_type=client_credentials"),
        "another type of the body": lambda e: dataclasses.replace(
            e, headers={**e.headers, "content-type": "application/json"}, body=b"{}"
        ),
    },
}


def first(recorded: dict[str, list[Exchange]], operation: str, status: int = 0) -> tuple[Contract, Exchange]:
    for service, exchanges in recorded.items():
        for exchange in exchanges:
            if CONTRACTS[service].operation_of(exchange) == operation and status in (0, exchange.status):
                return CONTRACTS[service], exchange
    raise AssertionError(f"{operation} was not recorded")


@pytest.mark.parametrize(
    ("operation", "broken"), [(operation, broken) for operation, breaks in REQUEST_BREAKS.items() for broken in breaks]
)
def test_a_broken_request_is_noticed(recorded: dict[str, list[Exchange]], operation: str, broken: str) -> None:
    contract, exchange = first(recorded, operation)
    assert contract.check_request(exchange).problems == []
    assert contract.check_request(REQUEST_BREAKS[operation][broken](exchange)).problems


# No field is missing, and one is there that nobody knows.
UNKNOWN_FIELDS: list[tuple[str, int, Callable[[Any], Any]]] = [
    ("look", 200, lambda body: body.update(rows=[])),
    ("runs-get-output", 200, renamed("error", "message")),
    ("runs-list", 200, renamed("runs", "job_runs")),
    ("runs-cancel", 200, lambda body: body.update(run_id=1)),
]
STRICT_BREAKS: list[tuple[str, int, Callable[[Any], Any]]] = [
    ("submit", 202, renamed("statementHandle", "handle")),
    ("submit", 202, lambda body: body.update(code=333334)),
    ("submit", 401, renamed("message", "error")),
    ("look", 200, lambda body: body.pop("resultSetMetaData")),
    ("look", 200, lambda body: body["resultSetMetaData"]["rowType"][0].update(type=1)),
    ("look", 200, lambda body: body["resultSetMetaData"].update(format="json")),
    ("look", 200, lambda body: body["data"].append([1])),
    ("look", 422, lambda body: body.pop("statementHandle")),
    ("look", 422, lambda body: body.pop("sqlState")),
    ("look", 422, renamed("code", "errorCode")),
    ("cancel", 200, lambda body: body.clear()),
    ("run-now", 200, renamed("run_id", "runId")),
    ("run-now", 200, lambda body: body.update(run_id=str(body["run_id"]))),
    ("run-now", 400, renamed("error_code", "code")),
    ("runs-get", 200, lambda body: body["state"].update(life_cycle_state="DONE")),
    ("runs-get", 200, renamed("state", "run_state")),
    ("runs-get", 200, renamed("job_parameters", "parameters")),
    ("runs-get", 200, lambda body: body["tasks"][0].pop("run_id")),
    ("runs-get", 200, lambda body: body["job_parameters"][0].update(value=1)),
    ("runs-list", 200, lambda body: body["runs"].clear()),
    ("runs-list", 200, lambda body: body["runs"][0].pop("job_parameters")),
    ("token", 200, renamed("expires_in", "expires")),
]
ANSWER_BREAKS = STRICT_BREAKS + UNKNOWN_FIELDS


@pytest.mark.parametrize(
    ("operation", "status", "change"), ANSWER_BREAKS, ids=[f"{op}-{status}" for op, status, _ in ANSWER_BREAKS]
)
def test_a_broken_answer_is_noticed(
    recorded: dict[str, list[Exchange]], operation: str, status: int, change: Callable[[Any], Any]
) -> None:
    contract, exchange = first(recorded, operation, status)
    assert contract.check_response(exchange).problems == []
    body = json.loads(exchange.answer)
    change(body)
    assert contract.check_response(dataclasses.replace(exchange, answer=json.dumps(body).encode())).problems


LOOKS_OF_A_RUNNING_STATEMENT = (202, 429)


@pytest.mark.parametrize("status", LOOKS_OF_A_RUNNING_STATEMENT)
def test_a_statement_that_runs_may_be_told_with_either_status(recorded: dict[str, list[Exchange]], status: int) -> None:
    contract, exchange = first(recorded, "look", 202)
    assert contract.check_response(dataclasses.replace(exchange, status=status)).problems == []
    told = json.loads(exchange.answer)
    del told["statementStatusUrl"]
    without_address = dataclasses.replace(exchange, status=status, answer=json.dumps(told).encode())
    assert contract.check_response(without_address).problems


@pytest.mark.parametrize("status", [405, 502, 522])
def test_statuses_of_the_reference_that_have_no_body(recorded: dict[str, list[Exchange]], status: int) -> None:
    for operation in ("submit", "look", "cancel"):
        contract, exchange = first(recorded, operation)
        empty = dataclasses.replace(exchange, status=status, answer=b"", answer_type="")
        assert contract.check_response(empty).problems == []


# ---- real services get new fields


LIVE_CONTRACTS = {name: Contract(name, lets_fields_pass=True) for name in CONTRACTS}

NEW_FIELDS: list[tuple[str, int, Callable[[Any], Any], str]] = [
    ("runs-get", 200, lambda body: body.update(new=1), "$.new"),
    ("runs-get", 200, lambda body: body["tasks"][0].update(new=1), "$.tasks[].new"),
    ("runs-get", 200, lambda body: body["tasks"][0]["sql_task"].update(new={}), "$.tasks[].sql_task.new"),
    ("runs-get-output", 200, lambda body: body["metadata"]["state"].update(new=1), "$.metadata.state.new"),
    ("look", 200, lambda body: body.update(new=1), "$.new"),
    ("look", 200, lambda body: body["resultSetMetaData"].update(new=1), "$.resultSetMetaData.new"),
    (
        "look",
        200,
        lambda body: body["resultSetMetaData"]["rowType"][0].update(new=1),
        "$.resultSetMetaData.rowType[].new",
    ),
    ("look", 422, lambda body: body.update(new=1), "$.new"),
    ("submit", 202, lambda body: body.update(new=1), "$.new"),
]


@pytest.mark.parametrize(
    ("operation", "status", "change", "place"), NEW_FIELDS, ids=[f"{f[0]} {f[3]}" for f in NEW_FIELDS]
)
def test_a_new_field_is_told_and_is_no_problem(
    recorded: dict[str, list[Exchange]], operation: str, status: int, change: Callable[[Any], Any], place: str
) -> None:
    strict, exchange = first(recorded, operation, status)
    live = LIVE_CONTRACTS[next(name for name, contract in CONTRACTS.items() if contract is strict)]
    assert live.check_response(exchange).unknown_fields == set()
    body = json.loads(exchange.answer)
    change(body)
    newer = dataclasses.replace(exchange, answer=json.dumps(body).encode())
    assert strict.check_response(newer).problems
    report = live.check_response(newer)
    assert (report.problems, report.unknown_fields) == ([], {f"{operation} {status}: {place}"})


@pytest.mark.parametrize(
    ("operation", "status", "change"), STRICT_BREAKS, ids=[f"{op}-{status}" for op, status, _ in STRICT_BREAKS]
)
def test_types_and_required_fields_are_as_strict_on_real_services(
    recorded: dict[str, list[Exchange]], operation: str, status: int, change: Callable[[Any], Any]
) -> None:
    strict, exchange = first(recorded, operation, status)
    live = LIVE_CONTRACTS[next(name for name, contract in CONTRACTS.items() if contract is strict)]
    body = json.loads(exchange.answer)
    change(body)
    assert live.check_response(dataclasses.replace(exchange, answer=json.dumps(body).encode())).problems


@pytest.mark.tier("full")  # the SDK takes seconds to import
def test_the_contract_names_all_that_the_sdk_of_this_environment_knows() -> None:
    from databricks.sdk.service import jobs

    assert [line for line in drift.drift(jobs) if line.endswith("in the SDK alone")] == []
    newer = types.SimpleNamespace(**vars(jobs))
    newer.Run = dataclasses.make_dataclass("Run", ["run_id", "new_field", "new_task"])
    newer.RunType = enum.Enum("RunType", {"NEW": "NEW"})
    told = list(drift.drift(newer))  # type: ignore[arg-type]
    assert "Run: the field new_field is in the SDK alone" in told
    assert "Run: the field job_id is in the contract alone" in told
    assert "Run.run_type: the value NEW is in the SDK alone" in told
    assert not any("new_task" in line for line in told)


def test_an_answer_with_an_unknown_status_is_noticed(recorded: dict[str, list[Exchange]]) -> None:
    contract, exchange = first(recorded, "submit", 202)
    assert contract.check_response(dataclasses.replace(exchange, status=201)).problems
