"""The emulators of S3 and Snowflake in a process of their own, and the share on them."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from data_share.dag_defaults import SHARE
from data_share.snowflake import sql_api
from data_share.sql_files import render_sql
from emulators.databricks.unity_catalog import LAKE_BUCKET
from emulators.s3 import SHARE_BUCKET, s3_filesystem
from tests.sandbox.load.driver import PROJECT, Share, Wire

ACCOUNT = "MYORG-SHARE"
USER = "SHARE_SVC"
# A process of its own: in one with the tests, it would share the interpreter with the reader that watches it.
SERVE = """
import asyncio, os, socket, sys, threading
from pathlib import Path
import uvicorn
from emulators.snowflake.server import create_app

os.fsync = lambda _: None  # a power failure is not among the tests
state, s3_url, account, user, key = sys.argv[1:]
# Ends with the tests, also when they are killed.
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
app = create_app(state_dir=Path(state), s3_endpoint_url=s3_url, account=account, users={user: key, "ADMIN": key})
# With the protocol named, asyncio switches Nagle's algorithm off: it would cost 40 ms for each answer.
listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
listener.bind(("127.0.0.1", 0))
listener.listen(128)
print(listener.getsockname()[1], flush=True)
server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
asyncio.run(server.serve(sockets=[listener]))
"""


@pytest.fixture(scope="session")
def snowflake_emulator(s3_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """The port of Snowflake, and the private key that it accepts."""
    for bucket in (SHARE_BUCKET, LAKE_BUCKET):
        s3_filesystem(s3_url).makedirs(bucket, exist_ok=True)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path_factory.mktemp("load")), s3_url, ACCOUNT, USER, public],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline()
            assert port, "Snowflake did not start"
            yield int(port), private
        finally:
            process.kill()


@pytest.fixture(scope="module")
def a_share(s3_url: str, snowflake_emulator: tuple[int, str], sync_datasets: ModuleType) -> Iterator[Share]:
    """The share on the emulators, set up."""
    port, private_key = snowflake_emulator
    extra = {
        "account": ACCOUNT,
        "host": "127.0.0.1",
        "port": port,
        "protocol": "http",
        "database": SHARE.database.upper(),
        "warehouse": SHARE.warehouse.upper(),
        "role": SHARE.loader_role.upper(),
        "private_key_content": private_key,
    }
    connection = {"conn_type": "snowflake", "login": USER, "schema": SHARE.target_schema.upper(), "extra": extra}
    administrator = {**connection, "login": "ADMIN", "extra": {**extra, "role": "ACCOUNTADMIN"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"AIRFLOW_CONN_{SHARE.snowflake_conn_id.upper()}", json.dumps(connection))
        patch.setenv("AIRFLOW_CONN_SNOWFLAKE_ADMINISTRATOR", json.dumps(administrator))
        # Reading the same key for each task takes longer than the task's statements.
        read_key = functools.cache(serialization.load_pem_private_key)
        patch.setattr(serialization, "load_pem_private_key", lambda data, **options: read_key(data, **options))
        # The hook waits a second before it repeats a call.
        patch.setattr(sql_api, "_FIRST_BACKOFF_SECONDS", 0)
        wire = Wire(requests.Session.request)
        patch.setattr(requests.Session, "request", lambda session, **call: wire(session, **call))
        made = Share(s3_url, f"http://127.0.0.1:{port}", sync_datasets.sync_dag, wire)
        made.set_up(list(set_up_statements("create_schemas", "create_stage", "create_ledger")))
        yield made


@pytest.fixture
def administer(a_share: Share) -> Callable[[str], object]:
    """Run a statement as the account's administrator."""
    hook = sql_api.DataShareSnowflakeHook("snowflake_administrator")
    return lambda sql: hook.run_statement(sql).rows


def set_up_statements(*names: str) -> Iterator[str]:
    """Return the statements of files that ``set_up_snowflake`` runs."""
    for name in names:
        sql = render_sql(name, share=SHARE)
        yield from sql_api.DataShareSnowflakeHook.split_sql_string(sql, strip_semicolon=True)
