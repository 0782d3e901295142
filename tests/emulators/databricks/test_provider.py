"""The hook of Airflow's Databricks provider, as it is, against the emulator, in a process of its own."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.emulators.databricks.conftest import CLIENT_ID, CLIENT_SECRET, TOKEN

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox]


def run_with_hook(script: str, *arguments: str, connection: dict[str, Any], home: Path, **environment: str) -> Any:
    """Run a script that uses the provider, and return what it printed last, from JSON."""
    answer = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=os.environ
        | {
            "AIRFLOW_HOME": str(home / "airflow"),
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
            "AIRFLOW_CONN_DATABRICKS_DEFAULT": json.dumps({"conn_type": "databricks"} | connection),
        }
        | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for this machine, which signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    files = tmp_path / "tls.crt", tmp_path / "tls.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def test_the_hook_of_the_airflow_provider_works(workspace: Any, parameters: dict[str, str], tmp_path: Path) -> None:
    workspace.fault(
        method="POST",
        path="/jobs/run-now$",
        action={
            "status": 429,
            "json": {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "Rate limit exceeded."},
            "headers": {"Retry-After": "1"},
        },
    )
    script = """
import json, sys, time
from airflow.providers.databricks.hooks.databricks import DatabricksHook
from airflow.providers.databricks.utils.databricks import extract_failed_task_errors

hook = DatabricksHook(retry_limit=2, retry_delay=0.1)
job_id = hook.find_job_id_by_name("export_dataset")

def run(parameters):
    token = json.dumps(parameters)[:64]
    run_id = hook.run_now({"job_id": str(job_id), "job_parameters": parameters, "idempotency_token": token})
    while not hook.get_run_state(run_id).is_terminal:
        time.sleep(0.05)
    state = hook.get_run_state(run_id)
    errors = extract_failed_task_errors(hook, hook.get_run(run_id), state)
    return {"url": hook.get_run_page_url(run_id), "state": json.loads(state.to_json()), "errors": errors}

good = json.loads(sys.argv[1])
hook.cancel_run(hook.run_now({"job_id": job_id, "job_parameters": good}))
print(json.dumps({"good": run(good), "bad": run({"proof": "counts"})}))
"""
    connection = {"host": "127.0.0.1", "port": workspace.port, "schema": "http", "password": TOKEN}
    told = run_with_hook(script, json.dumps(parameters), connection=connection, home=tmp_path)

    assert workspace.client.get("/_sandbox/faults").json()[0]["hits"] == 1
    assert told["good"]["state"] == {"life_cycle_state": "TERMINATED", "result_state": "SUCCESS", "state_message": ""}
    assert told["good"]["url"].startswith(f"http://127.0.0.1:{workspace.port}/?o=")
    assert told["bad"]["state"]["result_state"] == "FAILED"
    (error,) = told["bad"]["errors"]
    assert error["task_key"] == "plan"
    assert "[USER_RAISED_EXCEPTION] The job parameter source_table must be a table" in error["error"]


def test_the_errors_of_a_run_are_those_of_the_task_that_failed(workspace: Any, tmp_path: Path) -> None:
    for name, sql in (("plan", "SELECT 1 AS one"), ("export", "SELECT RAISE_ERROR('no rights')")):
        (tmp_path / f"{name}.sql").write_text(sql)

    def task(key: str, after: str, name: str) -> dict[str, Any]:
        sql_task = {"warehouse_id": "w", "file": {"path": str(tmp_path / f"{name}.sql")}}
        return {"task_key": key, "depends_on": [{"task_key": after}] if after else [], "sql_task": sql_task}

    tasks = [task("after", "export", "plan"), task("plan", "", "plan"), task("export", "plan", "export")]
    job_id = workspace.post("jobs/create", name="several tasks", tasks=tasks)["job_id"]
    run = workspace.ended(workspace.post("jobs/run-now", job_id=job_id)["run_id"])
    script = """
import json, sys
from airflow.providers.databricks.hooks.databricks import DatabricksHook
from airflow.providers.databricks.utils.databricks import extract_failed_task_errors

hook = DatabricksHook()
run_id = int(sys.argv[1])
print(json.dumps(extract_failed_task_errors(hook, hook.get_run(run_id), hook.get_run_state(run_id))))
"""
    connection = {"host": "127.0.0.1", "port": workspace.port, "schema": "http", "password": TOKEN}
    assert run_with_hook(script, str(run["run_id"]), connection=connection, home=tmp_path) == [
        {
            "task_key": "export",
            "run_id": run["tasks"][2]["run_id"],
            "error": "[USER_RAISED_EXCEPTION] no rights SQLSTATE: P0001",
        }
    ]


def test_a_service_principal_signs_in_with_the_hook(serve: Any, tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    """Over TLS: for tokens the provider takes https whatever the connection's schema says, and leaves out its port."""
    workspace = serve(tmp_path / "databricks", ssl_certfile=str(certificate[0]), ssl_keyfile=str(certificate[1]))
    workspace.order("fail_next")
    run_id = workspace.run_now({})
    workspace.ended(run_id)
    script = """
import asyncio, json, sys
from airflow.models import Connection
from airflow.providers.databricks.hooks.databricks import DatabricksHook

hook, run_id = DatabricksHook(retry_limit=1), int(sys.argv[1])
states = [hook.get_run_state(run_id).result_state for _ in range(2)]

async def deferred():
    async with DatabricksHook(retry_limit=1) as hook:
        return (await hook.a_get_run_state(run_id)).result_state

states.append(asyncio.run(deferred()))
hook = DatabricksHook(retry_limit=1)
hook.databricks_conn.password = "wrong"
try:
    hook.get_run_state(run_id)
except Exception as error:
    print(json.dumps({"states": states, "refused": str(error)}))
"""
    connection = {
        "host": f"localhost:{workspace.port}",
        "login": CLIENT_ID,
        "password": CLIENT_SECRET,
        "extra": {"service_principal_oauth": True},
    }
    trust = {"REQUESTS_CA_BUNDLE": str(certificate[0]), "SSL_CERT_FILE": str(certificate[0])}

    def ask() -> Any:
        return run_with_hook(script, str(run_id), connection=connection, home=tmp_path, **trust)

    told = ask()
    assert told["states"] == ["FAILED"] * 3
    assert "invalid_client" in told["refused"]
    assert "401" in told["refused"]
    assert workspace.orders()["oauth_tokens"] == 2  # one for each hook that signed in

    workspace.order("token_lifetime", seconds=100)  # less than the 120 seconds before the end when the hook renews it
    assert ask()["states"] == ["FAILED"] * 3
    assert workspace.orders()["oauth_tokens"] == 2 + 3
