"""Airflow's hooks, operators and trigger for Snowflake, as they are, at the address that they make up themselves."""

from __future__ import annotations

import asyncio
import datetime
import json
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import aiohttp.connector
import pytest
import requests
from airflow.providers.common.sql.operators.sql import (
    SQLCheckOperator,
    SQLColumnCheckOperator,
    SQLExecuteQueryOperator,
    SQLTableCheckOperator,
    SQLThresholdCheckOperator,
    SQLValueCheckOperator,
)
from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook
from airflow.providers.snowflake.hooks.sql_api import SnowflakeSqlApiHook
from airflow.providers.snowflake.operators.snowflake import (
    SnowflakeCheckOperator,
    SnowflakeIntervalCheckOperator,
    SnowflakeSqlApiOperator,
    SnowflakeValueCheckOperator,
)
from airflow.providers.snowflake.triggers.snowflake_trigger import SnowflakeSqlApiTrigger
from airflow.sdk.exceptions import AirflowException, TaskDeferred
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from data_share.outcome.codes import FailureCode
from data_share.snowflake.sql_api import DataShareSnowflakeHook, SnowflakeRefusedError

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox]

HOST = "myorg-share.snowflakecomputing.com"
OBSERVATIONS = (
    "CREATE OR REPLACE TABLE observations AS SELECT * FROM VALUES"
    " ('2015-01-01'::DATE, 'Seattle', 10.5::NUMBER(5, 1)), ('2015-01-02'::DATE, 'Seattle', 12.5::NUMBER(5, 1)),"
    " ('2015-01-02'::DATE, 'Boston', NULL) AS o (observed_on, city, celsius)"
)


@pytest.fixture(scope="module")
def certificate(tools: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of Snowflake's domain that only these tests trust, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "emulator of Snowflake")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("*.snowflakecomputing.com")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(tools.private_der_pem(key))
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def secure_port(app: Any, url: str, tools: ModuleType, certificate: tuple[Path, Path]) -> Iterator[int]:
    """The port at which the module's emulator speaks TLS."""
    # `url` comes first: when its server ends, it closes the emulator.
    with tools.serve(app, ssl_certfile=certificate[0], ssl_keyfile=certificate[1], lifespan="off") as address:
        yield int(address.rsplit(":", 1)[1])


@pytest.fixture(autouse=True)
def the_way_to_snowflake(
    monkeypatch: pytest.MonkeyPatch, secure_port: int, certificate: tuple[Path, Path], tools: ModuleType
) -> None:
    """Let Snowflake's address lead to the emulator, by DNS and certificates: the clients notice nothing."""
    resolve = socket.getaddrinfo

    def emulator(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        # DNS knows an account's name with underscores too; its certificate does not.
        if str(name).lower().replace("_", "-") == HOST:
            host, port = "127.0.0.1", secure_port
        return resolve(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", emulator)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    monkeypatch.setenv("NO_PROXY", "*")
    aiohttp.connector._SSL_CONTEXT_VERIFIED.load_verify_locations(certificate[0])
    use_connection(monkeypatch, private_key_content=tools.private_der_pem(tools.KEY).decode())


def use_connection(
    monkeypatch: pytest.MonkeyPatch, *, login: str = "SHARE_SVC", password: str | None = None, **extra: Any
) -> None:
    """Set the Airflow connection `snowflake_default`."""
    given = {
        "account": "MYORG-SHARE",
        "database": "DATA_SHARE",
        "warehouse": "LOAD_WH",
        "role": "DATA_SHARE_LOADER",
        # There is no OCSP responder for the certificate.
        "insecure_mode": True,
    }
    connection = {
        "conn_type": "snowflake",
        "login": login,
        "password": password,
        "schema": "PUBLIC",
        "extra": {**given, **extra},
    }
    monkeypatch.setenv("AIRFLOW_CONN_SNOWFLAKE_DEFAULT", json.dumps(connection))


def context() -> dict[str, Any]:
    return {"ti": mock.MagicMock(), "task_state_store": None}


@pytest.fixture
def observations(api: Any) -> None:
    api.ok(OBSERVATIONS)


# ---- the address


def test_a_certificate_has_no_underscores_and_the_address_of_the_package_neither(
    monkeypatch: pytest.MonkeyPatch, tools: ModuleType
) -> None:
    """The emulator is reached: it refuses the token, as its account has another name."""
    with pytest.raises(requests.exceptions.SSLError, match="Hostname mismatch"):
        requests.get(f"https://{HOST.replace('-', '_')}/healthz", timeout=20)
    key = tools.private_der_pem(tools.KEY).decode()
    use_connection(monkeypatch, account="MYORG_SHARE", private_key_content=key)
    with pytest.raises(SnowflakeRefusedError) as refused:
        DataShareSnowflakeHook("snowflake_default").run_statement("SELECT 1")
    assert refused.value.code is FailureCode.SNOWFLAKE_SIGN_IN
    # Given as a host, it is taken as it is.
    use_connection(monkeypatch, host=HOST.replace("-", "_"), private_key_content=key)
    with pytest.raises(SnowflakeRefusedError, match="Hostname mismatch") as refused:
        DataShareSnowflakeHook("snowflake_default").run_statement("SELECT 1")
    assert refused.value.code is FailureCode.CERTIFICATE_REFUSED


# ---- the SQL API


def statements(sql: str, **options: Any) -> SnowflakeSqlApiOperator:
    return SnowflakeSqlApiOperator(task_id="statements", sql=sql, poll_interval=0, durable=False, **options)


def test_the_sql_api_operator(api: Any) -> None:
    table = f"operated_{uuid.uuid4().hex}"
    ti = mock.MagicMock()
    operator = statements(
        f"CREATE TABLE {table} (n NUMBER, t VARCHAR); INSERT INTO {table} VALUES (1, 'a'), (2, 'b')", statement_count=2
    )
    operator.execute({"ti": ti})
    ti.xcom_push.assert_called_once_with(key="query_ids", value=operator.query_ids)
    assert api.rows(f"SELECT * FROM {table} ORDER BY n") == [["1", "a"], ["2", "b"]]


def test_the_sql_api_operator_binds(api: Any) -> None:
    api.ok("CREATE OR REPLACE TABLE bound (n NUMBER, t VARCHAR)")
    bindings = {"1": {"type": "FIXED", "value": "7"}, "2": {"type": "TEXT", "value": "it's"}}
    statements("INSERT INTO bound VALUES (?, ?)", statement_count=1, bindings=bindings).execute(context())
    assert api.rows("SELECT * FROM bound") == [["7", "it's"]]


def test_the_sql_api_operator_fails_with_the_statement() -> None:
    with pytest.raises(RuntimeError, match=r"Object 'NOPE' does not exist or not authorized.*Code: 002003"):
        statements("SELECT * FROM nope", statement_count=1).execute(context())


def test_the_sql_api_operator_times_out() -> None:
    with pytest.raises(RuntimeError, match=r"timeout of 1 second\(s\) and was canceled.*Code: 000630"):
        statements("SELECT SYSTEM$WAIT(60)", statement_count=1, timeout=1).execute(context())


def deferred(sql: str) -> tuple[SnowflakeSqlApiOperator, SnowflakeSqlApiTrigger]:
    """A deferrable operator that waits, and its trigger as the triggerer makes it."""
    operator = statements(sql, statement_count=1, deferrable=True)
    with pytest.raises(TaskDeferred) as deferral:
        operator.execute(context())
    assert isinstance(deferral.value.trigger, SnowflakeSqlApiTrigger)
    return operator, SnowflakeSqlApiTrigger(**{**deferral.value.trigger.serialize()[1], "poll_interval": 0.05})


def events(trigger: SnowflakeSqlApiTrigger) -> list[Any]:
    async def run() -> list[Any]:
        return [event.payload async for event in trigger.run()]

    return asyncio.run(asyncio.wait_for(run(), 20))


def test_the_deferrable_operator() -> None:
    operator, trigger = deferred("SELECT SYSTEM$WAIT(4)")
    (event,) = events(trigger)
    assert event == {"status": "success", "statement_query_ids": operator.query_ids}
    operator.execute_complete(context(), event)
    result = SnowflakeSqlApiHook("snowflake_default").get_result_from_successful_sql_api_query(operator.query_ids[0])
    assert result == [{"SYSTEM$WAIT": "waited 4 seconds"}]


def test_the_trigger_cancels() -> None:
    operator, trigger = deferred("SELECT SYSTEM$WAIT(60)")
    asyncio.run(trigger.on_kill())
    (event,) = events(trigger)
    assert event["status"] == "error"
    with pytest.raises(RuntimeError, match="SQL execution canceled"):
        operator.execute_complete(context(), event)
    # Once more, as when the operator and its trigger are both killed: there is nothing left to cancel.
    operator.on_kill()


def test_the_hook_of_the_sql_api_reads_all_partitions() -> None:
    hook = SnowflakeSqlApiHook("snowflake_default")
    (handle,) = hook.execute_query("SELECT range AS n FROM range(25000) ORDER BY 1", statement_count=1)
    assert hook.wait_for_query(handle, poll_interval=0)["status"] == "success"
    rows = hook.get_result_from_successful_sql_api_query(handle)
    assert (len(rows), rows[-1]) == (25000, {"N": "24999"})


def test_the_hook_of_the_sql_api_repeats_what_was_refused_for_load(url: str) -> None:
    order = {
        "method": "POST",
        "path": "/api/v2/statements$",
        "action": {"status": 429, "json": {"code": "390505", "message": "Too many requests."}},
    }
    assert requests.post(f"{url}/_sandbox/faults", json=order, timeout=10).status_code == 201
    hook = SnowflakeSqlApiHook("snowflake_default")
    assert len(hook.execute_query("SELECT 1", statement_count=1)) == 1
    assert requests.get(f"{url}/_sandbox/faults", timeout=10).json()[0]["hits"] == 1


def test_an_access_token_in_place_of_the_password(monkeypatch: pytest.MonkeyPatch, tools: ModuleType) -> None:
    use_connection(monkeypatch, password=tools.ACCESS_TOKEN, authenticator="programmatic_access_token")
    statements("SELECT 1", statement_count=1).execute(context())
    assert SnowflakeHook("snowflake_default").get_first("SELECT CURRENT_USER()") == ("SHARE_SVC",)
    use_connection(monkeypatch, password=tools.EXPIRED_ACCESS_TOKEN, authenticator="programmatic_access_token")
    with pytest.raises(requests.HTTPError, match="401"):
        statements("SELECT 1", statement_count=1).execute(context())


def test_oauth(monkeypatch: pytest.MonkeyPatch, tools: ModuleType) -> None:
    client = tools.CLIENT
    oauth = {"login": client.client_id, "authenticator": "oauth", "refresh_token": client.refresh_token}
    use_connection(monkeypatch, password=client.client_secret, **oauth)
    statements("SELECT 1", statement_count=1).execute(context())
    assert SnowflakeHook("snowflake_default").get_first("SELECT CURRENT_USER()") == ("SHARE_SVC",)
    use_connection(monkeypatch, password="another", **oauth)
    with pytest.raises(requests.HTTPError, match="400"):
        statements("SELECT 1", statement_count=1).execute(context())


# ---- the connector


def test_the_hook(api: Any) -> None:
    hook = SnowflakeHook("snowflake_default")
    assert hook.test_connection() == (True, "Connection successfully tested")
    hook.run(["CREATE OR REPLACE TABLE hooked (n NUMBER, t VARCHAR)", "INSERT INTO hooked VALUES (1, 'a')"])
    hook.insert_rows("hooked", [(2, "b"), (3, None)], target_fields=["n", "t"])
    assert hook.get_records("SELECT * FROM hooked ORDER BY n") == [(1, "a"), (2, "b"), (3, None)]
    assert hook.get_first("SELECT t FROM hooked WHERE n = %(n)s", parameters={"n": 2}) == ("b",)
    assert list(hook.get_df("SELECT n FROM hooked ORDER BY n")["N"]) == [1, 2, 3]
    assert len(hook.query_ids) == 1
    assert api.rows("SELECT COUNT(*) FROM hooked") == [["3"]]


def test_a_run_of_the_hook_is_one_transaction(api: Any) -> None:
    api.ok("CREATE OR REPLACE TABLE all_or_nothing (n NUMBER)")
    hook = SnowflakeHook("snowflake_default")
    with pytest.raises(Exception, match="Object 'NOPE' does not exist"):
        hook.run(["INSERT INTO all_or_nothing VALUES (1)", "INSERT INTO nope VALUES (1)"], autocommit=False)
    assert api.rows("SELECT COUNT(*) FROM all_or_nothing") == [["0"]]


def test_the_execute_query_operator(observations: None) -> None:
    def query(sql: str, **options: Any) -> Any:
        return SQLExecuteQueryOperator(task_id="q", conn_id="snowflake_default", sql=sql, **options).execute({})

    assert query("SELECT city, celsius FROM observations WHERE celsius > 11") == [("Seattle", 12.5)]
    both = query("SELECT 1; SELECT 2", split_statements=True, return_last=False)
    assert both == [[(1,)], [(2,)]]
    with pytest.raises(Exception, match="invalid identifier 'NOPE'"):
        query("SELECT nope FROM observations")


GOOD = [
    SQLCheckOperator(task_id="c", conn_id="snowflake_default", sql="SELECT COUNT(*), TRUE FROM observations"),
    SnowflakeCheckOperator(task_id="c", sql="SELECT COUNT(*) FROM observations WHERE city = 'Boston'"),
    SQLValueCheckOperator(
        task_id="c", conn_id="snowflake_default", sql="SELECT SUM(celsius) FROM observations", pass_value=23
    ),
    SnowflakeValueCheckOperator(task_id="c", sql="SELECT COUNT(*) FROM observations", pass_value=4, tolerance=0.3),
    SQLThresholdCheckOperator(
        task_id="c",
        conn_id="snowflake_default",
        sql="SELECT AVG(celsius) FROM observations",
        min_threshold=11,
        max_threshold=12,
    ),
    SnowflakeIntervalCheckOperator(
        task_id="c",
        table="observations",
        metrics_thresholds={"COUNT(*)": 3},
        date_filter_column="observed_on",
        days_back=-1,
    ),
    SQLTableCheckOperator(
        task_id="c",
        conn_id="snowflake_default",
        table="observations",
        checks={
            "count": {"check_statement": "COUNT(*) = 3"},
            "cities": {"check_statement": "city IN ('Seattle', 'Boston')"},
        },
    ),
    SQLColumnCheckOperator(
        task_id="c",
        conn_id="snowflake_default",
        table="observations",
        column_mapping={
            "celsius": {"null_check": {"equal_to": 1}, "min": {"geq_to": 10}, "max": {"less_than": 13}},
            "city": {"distinct_check": {"equal_to": 2}, "unique_check": {"equal_to": 1}},
        },
    ),
]
BAD = [
    SQLCheckOperator(task_id="c", conn_id="snowflake_default", sql="SELECT COUNT(*) FROM observations WHERE FALSE"),
    SnowflakeCheckOperator(task_id="c", sql="SELECT 1, COUNT(*) FROM observations WHERE city = 'Paris'"),
    SQLValueCheckOperator(
        task_id="c", conn_id="snowflake_default", sql="SELECT SUM(celsius) FROM observations", pass_value=24
    ),
    SnowflakeValueCheckOperator(task_id="c", sql="SELECT COUNT(*) FROM observations", pass_value=4, tolerance=0.1),
    SQLThresholdCheckOperator(
        task_id="c",
        conn_id="snowflake_default",
        sql="SELECT AVG(celsius) FROM observations",
        min_threshold=12,
        max_threshold=13,
    ),
    SnowflakeIntervalCheckOperator(
        task_id="c",
        table="observations",
        metrics_thresholds={"COUNT(*)": 1.5},
        date_filter_column="observed_on",
        days_back=-1,
    ),
    SQLTableCheckOperator(
        task_id="c",
        conn_id="snowflake_default",
        table="observations",
        checks={"count": {"check_statement": "COUNT(*) = 3"}, "known": {"check_statement": "celsius IS NOT NULL"}},
    ),
    SQLColumnCheckOperator(
        task_id="c",
        conn_id="snowflake_default",
        table="observations",
        column_mapping={"celsius": {"null_check": {"equal_to": 0}}},
    ),
]


def kind(operator: Any) -> str:
    return type(operator).__name__


# The interval check compares the day of the run with the one before; the template is rendered by Airflow.
def render(operator: Any) -> Any:
    if isinstance(operator, SnowflakeIntervalCheckOperator):
        operator.sql1 = operator.sql1.replace("{{ ds }}", "2015-01-02")
        operator.sql2 = operator.sql2.replace("{{ macros.ds_add(ds, -1) }}", "2015-01-01")
        assert "{{" not in operator.sql1 + operator.sql2
    return operator


@pytest.mark.parametrize("operator", GOOD, ids=kind)
def test_a_check_that_holds(observations: None, operator: Any) -> None:
    render(operator).execute({})


@pytest.mark.parametrize("operator", BAD, ids=kind)
def test_a_check_that_does_not_hold(observations: None, operator: Any) -> None:
    with pytest.raises(AirflowException):
        render(operator).execute({})
