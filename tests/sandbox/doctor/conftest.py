"""A deployment on the emulators, set up as the DAG does it, and ways to break it."""

from __future__ import annotations

import functools
import http.server
import itertools
import json
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import requests
from cryptography.hazmat.primitives import serialization

from data_share.dag_defaults import SHARE
from data_share.dataset_files import read_datasets
from data_share.datasets import Dataset
from data_share.doctor.deployment import Deployment, State
from data_share.doctor.run import Finding, examine
from data_share.share import Share
from data_share.snowflake import sql_api
from data_share.sql_files import SQL_FOLDER, render_sql
from tests.emulators.databricks.conftest import BUNDLE, TOKEN, WorkspaceServer
from tests.emulators.snowflake.conftest import ACCOUNT, KEY, OTHER_KEY, USER, private_der_pem, public_pem, serve
from tests.sandbox.load.driver import Wire

PEOPLE = pa.table({"id": [1, 2, 3], "ssn": ["1", None, "3"], "born": pa.array([1, 2, 3], pa.decimal128(12, 2))})

_numbers = itertools.count(1)


class Examined:
    """The findings of one examination, by the names of the checks."""

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = {finding.name: finding for finding in findings}

    def named(self, state: State) -> list[str]:
        return [name for name, finding in self.findings.items() if finding.state is state]

    def only_wrong(self, name: str) -> str:
        """The sentence of the one check that is wrong."""
        assert self.named(State.WRONG) == [name], self.told()
        return self.findings[name].text

    def told(self) -> str:
        return "\n".join(finding.line() for finding in self.findings.values())


@pytest.fixture(scope="module")
def workspace(s3_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceServer]:
    server = WorkspaceServer(tmp_path_factory.mktemp("databricks"), s3_url, BUNDLE)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def snowflake_url(s3_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    # They take long to import, and collecting the tests does without them.
    from emulators.s3 import SHARE_BUCKET, s3_filesystem
    from emulators.snowflake.server import create_app

    s3_filesystem(s3_url).makedirs(SHARE_BUCKET, exist_ok=True)
    users = {USER: public_pem(KEY), "ADMIN": public_pem(KEY)}
    state_dir = tmp_path_factory.mktemp("snowflake")
    with serve(create_app(state_dir=state_dir, s3_endpoint_url=s3_url, account=ACCOUNT, users=users)) as url:
        yield url


@pytest.fixture(scope="module")
def connections(workspace: WorkspaceServer, snowflake_url: str) -> dict[str, dict[str, Any]]:
    """The connections of a deployment that works, and one of an administrator."""
    host, port = snowflake_url.removeprefix("http://").split(":")
    extra = {
        "account": ACCOUNT,
        "host": host,
        "port": int(port),
        "protocol": "http",
        "database": SHARE.database.upper(),
        "warehouse": SHARE.warehouse.upper(),
        "role": SHARE.loader_role.upper(),
        "private_key_content": private_der_pem(KEY).decode(),
    }
    snowflake = {"conn_type": "snowflake", "login": USER, "schema": SHARE.target_schema.upper(), "extra": extra}
    return {
        SHARE.databricks_conn_id: {
            "conn_type": "databricks",
            "host": "127.0.0.1",
            "port": workspace.port,
            "schema": "http",
            "password": TOKEN,
        },
        SHARE.snowflake_conn_id: snowflake,
        "administrator": {**snowflake, "login": "ADMIN", "extra": {**extra, "role": "ACCOUNTADMIN"}},
    }


def put(patch: pytest.MonkeyPatch, name: str, connection: dict[str, Any]) -> None:
    patch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))


@pytest.fixture(scope="module")
def administer(connections: dict[str, dict[str, Any]]) -> Iterator[Callable[..., object]]:
    """Run statements as an administrator of an account that is set up."""
    with pytest.MonkeyPatch.context() as patch:
        for name, connection in connections.items():
            put(patch, name, connection)
        patch.setattr(os, "fsync", lambda _: None)  # a power failure is not among the tests
        # Reading the same key for each hook, and a new connection for each call, take longer than the statements.
        read_key = functools.cache(serialization.load_pem_private_key)
        patch.setattr(serialization, "load_pem_private_key", lambda data, **options: read_key(data, **options))
        wire = Wire(requests.Session.request)
        patch.setattr(requests.Session, "request", lambda session, **call: wire(session, **call))

        def run(*statements: str, conn_id: str = "administrator") -> None:
            hook = sql_api.DataShareSnowflakeHook(conn_id)
            for statement in statements:
                hook.run_statement(statement)

        names = ["create_schemas", "create_stage", "create_ledger"]
        names += [f"targets/{path.stem}" for path in (SQL_FOLDER / "targets").glob("*.sql")]
        scripts = [render_sql(name, share=SHARE) for name in names]
        datasets = {dataset.name: dataset for dataset in read_datasets()[0] if dataset.create_table == "from_columns"}
        scripts += [
            render_sql("create_target", share=SHARE, datasets=datasets, task={"target": name}) for name in datasets
        ]
        for sql in scripts:
            split = sql_api.DataShareSnowflakeHook.split_sql_string(sql, strip_semicolon=True)
            run(*split, conn_id=SHARE.snowflake_conn_id)
        yield run


@pytest.fixture
def deployed(
    connections: dict[str, dict[str, Any]],
    workspace: WorkspaceServer,
    administer: Callable[..., object],
    airflow_health: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Everything as it should be."""
    for name, connection in connections.items():
        put(monkeypatch, name, connection)
    monkeypatch.setenv(f"AIRFLOW_VAR_{Share().export_job_variable.upper()}", str(workspace.job_id))
    monkeypatch.syspath_prepend(str(BUNDLE.parents[2] / "config"))


@pytest.fixture
def look(deployed: None) -> Callable[..., Examined]:
    """Make the checks."""

    def run(*groups: str, ahead: Any = None, datasets_folder: Path | None = None, share: Share = Share()) -> Examined:
        options: dict[str, Any] = {"datasets_folder": datasets_folder} if datasets_folder else {}
        if ahead is not None:
            options["now"] = lambda: datetime.now(UTC) + ahead
        return Examined(list(examine(Deployment(share, **options), groups)))

    return run


@pytest.fixture
def change(
    deployed: None, connections: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Change fields of a connection; ``extra`` are changes of its extras. None takes a field out."""

    def run(conn_id: str, extra: dict[str, Any] | None = None, **fields: Any) -> None:
        connection = {**connections[conn_id], **fields}
        connection["extra"] = {**connection.get("extra", {}), **(extra or {})}
        connection["extra"] = {name: value for name, value in connection["extra"].items() if value is not None}
        put(monkeypatch, conn_id, {name: value for name, value in connection.items() if value is not None})

    return run


@pytest.fixture
def other_key() -> str:
    return private_der_pem(OTHER_KEY).decode()


@pytest.fixture
def airflow_health(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What an api-server says of Airflow's parts; a test may change it."""
    parts = ("metadatabase", "scheduler", "dag_processor", "triggerer")
    health: dict[str, Any] = {part: {"status": "healthy"} for part in parts}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/api/v2/monitor/health" else 404)
            self.end_headers()
            self.wfile.write(json.dumps(health).encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/execution/"
        monkeypatch.setenv("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", address)
        yield health
        server.shutdown()
        thread.join()


# ---- datasets with sources of their own


@pytest.fixture(scope="module")
def files(s3_url: str) -> Any:
    from emulators.databricks.unity_catalog import LAKE_BUCKET
    from emulators.s3 import s3_filesystem

    files = s3_filesystem(s3_url)
    files.makedirs(LAKE_BUCKET, exist_ok=True)
    return files


@pytest.fixture
def people(s3_url: str, files: Any) -> Callable[..., Dataset]:
    """Make a dataset with a source of its own."""
    from emulators.databricks.unity_catalog import write_table

    def make(*, is_there: bool = True, **fields: Any) -> Dataset:
        name = f"people_{next(_numbers)}"
        if is_there:
            write_table(s3_url, f"main.care.{name}", PEOPLE)
        defaults = {"load_mode": "replace", "required_columns": ("id",), "description": "Made by a test."}
        source = {"source_table": f"main.care.{name}", "target_table": name}
        return Dataset.model_validate({"name": name, **defaults, **source, **fields})

    return make


@pytest.fixture
def target(administer: Callable[..., object]) -> Callable[..., Dataset]:
    """Create the target of a dataset, as the role of the syncs."""

    def create(dataset: Dataset, columns: str = "id NUMBER(38, 0), ssn VARCHAR, born NUMBER(12, 2)") -> Dataset:
        administer(f"CREATE TABLE {dataset.target} ({columns})", conn_id=Share().snowflake_conn_id)
        return dataset

    return create
