"""Airflow's hooks, operator and trigger, as they are, at the address that they make up themselves."""

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
from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook
from airflow.providers.snowflake.hooks.sql_api import SnowflakeSqlApiHook
from airflow.providers.snowflake.operators.snowflake import SnowflakeSqlApiOperator
from airflow.providers.snowflake.triggers.snowflake_trigger import SnowflakeSqlApiTrigger
from airflow.sdk.exceptions import TaskDeferred
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from data_share.outcome.codes import FailureCode
from data_share.snowflake.sql_api import DataShareSnowflakeHook, SnowflakeRefusedError

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox]

HOST = "myorg-share.snowflakecomputing.com"


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
