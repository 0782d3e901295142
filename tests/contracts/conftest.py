"""The emulators behind a recorder, and the product's own tasks on them."""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import httpx
import pytest
import tenacity.nap
import uvicorn
from airflow.sdk import DAG
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from starlette.types import ASGIApp

from data_share.dataset_files import read_dataset
from data_share.datasets import Dataset
from data_share.render import set_up_files
from data_share.share import Share
from data_share.share_file import DEFAULT
from data_share.snowflake import sql_api
from emulators.fault_injection import FaultInjection
from emulators.snowflake.auth import AccessToken, OAuthClient
from tests.airflow_double import DagRun, export_job, with_templates_compiled_once
from tests.contracts.contract import Exchange, Recorder
from tests.emulators.conftest import S3Process

pytest.register_assert_rewrite("tests.contracts.scenarios")

PROJECT = Path(__file__).resolve().parents[2]
DATASET = read_dataset(PROJECT / "include" / "datasets" / "daily_observations.yaml")
ACCOUNT = "MYORG-SHARE"
USER = "SHARE_SVC"
TOKEN = "dapi-test"
SIGNED = {"Authorization": f"Bearer {TOKEN}"}
CLIENT = ("the-client-id", "the-client-secret")
ACCESS_TOKEN = AccessToken(USER, "the-access-token")
OAUTH_CLIENT = OAuthClient("the-oauth-client", USER, "the-oauth-secret", "the-refresh-token")
DEADLINE = 20.0
SET_UP = ("create_schemas", "create_stage", "create_ledger", "list_targets", "create_target")


@dataclass
class Accounts:
    """
    A Databricks workspace and a Snowflake account, as the product sees them, and what it asks of them.

    :param databricks_url: address of the workspace
    :param snowflake_url: address of the account
    :param s3_url: address of S3
    :param databricks: exchanges with the workspace
    :param snowflake: exchanges with the account
    :param sync_dag: makes the DAG of a dataset
    :param job_id: the export job
    """

    databricks_url: str
    snowflake_url: str
    s3_url: str
    databricks: list[Exchange]
    snowflake: list[Exchange]
    sync_dag: Callable[[Dataset], DAG]
    job_id: str = ""
    made: dict[str, DAG] = field(default_factory=dict)

    def begin(
        self,
        dataset: Dataset = DATASET,
        job_id: str | None = None,
        states: dict[str, dict[str, Any]] | None = None,
        **params: Any,
    ) -> DagRun:
        """
        Begin a sync of a dataset.

        :param states: what Airflow remembers of assets; without it, nothing is known of an earlier publish
        """
        key = dataset.model_dump_json()
        if key not in self.made:
            self.made[key] = with_templates_compiled_once(self.sync_dag(dataset))
        run = DagRun(dag=self.made[key], conf=params, variables=export_job(job_id or self.job_id))
        if states is not None:
            run.asset_states = states
        return run

    def begin_dag(self, name: str, **params: Any) -> DagRun:
        """Begin a run of another DAG of the package."""
        from airflow.dag_processing.dagbag import DagBag

        bag = DagBag(PROJECT / "dags" / f"{name}.py", bundle_path=PROJECT / "dags")
        return DagRun(dag=bag.dags[name], conf=params)

    def order(self, path: str, **body: Any) -> None:
        """Order something of the workspace, e.g. that runs wait."""
        httpx.post(f"{self.databricks_url}/_sandbox/{path}", json=body, headers=SIGNED).raise_for_status()

    def on_databricks(self, path: str, **params: Any) -> Any:
        """Ask the Jobs API beside the product."""
        return httpx.get(f"{self.databricks_url}/api/2.2/jobs/{path}", params=params, headers=SIGNED).json()

    def jobs(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the jobs of the workspace: all, or those of a name."""
        return list(self.on_databricks("list", **({"name": name} if name else {})).get("jobs", []))

    @contextmanager
    def fault(self, url: str, **order: Any) -> Iterator[None]:
        """Let calls go wrong for a while."""
        httpx.post(f"{url}/_sandbox/faults", json=order).raise_for_status()
        try:
            yield
        finally:
            httpx.delete(f"{url}/_sandbox/faults").raise_for_status()


def until(condition: Callable[[], Any], seconds: float = DEADLINE) -> Any:
    """Return the condition's value as soon as it is true; the longer it may take, the longer it waits between looks."""
    end = time.monotonic() + seconds
    wait = 0.01
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain"
        time.sleep(wait)
        wait = min(wait * 1.5, seconds / 90)
    return value


def statement_runs(accounts: Accounts) -> bool:
    """Return whether the emulator of Snowflake works on a statement; its handle may not be known to anybody yet."""
    return bool(httpx.get(f"{accounts.snowflake_url}/_sandbox/state", timeout=9).json()["running"])


@contextmanager
def serve(app: ASGIApp) -> Iterator[str]:
    """Serve an application on a free port of loopback."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(DEADLINE)


@contextmanager
def serve_accounts(
    state: Path,
    sync_dag: Callable[[Dataset], DAG],
    around: Callable[[str, ASGIApp], ASGIApp] = lambda system, app: app,
) -> Iterator[Accounts]:
    """
    Serve the emulators, recorded, and make Airflow's connections to them.

    :param state: an empty folder
    :param sync_dag: makes the DAG of a dataset
    :param around: puts something around an emulator, of which it is told the name
    """
    # They take seconds to import, and collecting the tests does without them.
    from airflow.providers.databricks.hooks import databricks_base

    from emulators.databricks.server import create_app as databricks_app
    from emulators.snowflake.server import create_app as snowflake_app
    from sandbox.sources import seed

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    databricks: list[Exchange] = []
    snowflake: list[Exchange] = []
    s3 = S3Process(state / "s3")
    try:
        seed(s3.url)
        workspace = databricks_app(
            state_dir=state / "databricks",
            s3_endpoint_url=s3.url,
            token=TOKEN,
            bundle=_rendered_bundle(state / "bundle"),
            service_principals=dict([CLIENT]),
            secrets={(Share().hash_secret_scope, Share().hash_secret_key): "known to the workspace"},
        )
        account = snowflake_app(
            state_dir=state / "snowflake",
            s3_endpoint_url=s3.url,
            account=ACCOUNT,
            users={USER: public, "ADMIN": public},
            access_tokens=[ACCESS_TOKEN],
            oauth_clients=[OAUTH_CLIENT],
        )
        with (
            pytest.MonkeyPatch.context() as patch,
            serve(around("databricks", Recorder(FaultInjection(workspace), databricks))) as databricks_url,
            serve(around("snowflake", Recorder(FaultInjection(account), snowflake))) as snowflake_url,
        ):
            for name, connection in _connections(databricks_url, snowflake_url, key).items():
                patch.setenv(f"AIRFLOW_CONN_{name}", json.dumps(connection))
            # The provider signs in at port 443 with TLS, whatever the connection's port and schema are.
            patch.setattr(databricks_base, "OIDC_TOKEN_SERVICE_URL", f"{databricks_url}/oidc/v1/token")
            # Reading the same key for each task takes longer than the task's statements.
            read_key = functools.cache(serialization.load_pem_private_key)
            patch.setattr(serialization, "load_pem_private_key", lambda data, **options: read_key(data, **options))
            # The hooks wait for seconds before they repeat a call.
            patch.setattr(tenacity.nap, "time", mock.Mock(spec_set=["sleep"]))
            patch.setattr(sql_api, "_FIRST_BACKOFF_SECONDS", 0)
            made = Accounts(databricks_url, snowflake_url, s3.url, databricks, snowflake, sync_dag)
            made.job_id = str(made.jobs("export_dataset")[0]["job_id"])
            patch.setenv(f"AIRFLOW_VAR_{Share().export_job_variable.upper()}", made.job_id)
            databricks.clear()
            yield made
    finally:
        s3.kill()


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory, sync_datasets: ModuleType) -> Iterator[Accounts]:
    """The emulators, recorded, with Airflow's connections to them."""
    with serve_accounts(tmp_path_factory.mktemp("accounts"), sync_datasets.sync_dag) as made:
        yield made


def _rendered_bundle(folder: Path) -> Path:
    """Write the asset bundle as `make render` does."""
    for path, content in set_up_files(DEFAULT, {DEFAULT: Share()}).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    return folder / "databricks" / "databricks.yml"


def _connections(databricks_url: str, snowflake_url: str, key: rsa.RSAPrivateKey) -> dict[str, Any]:
    workspace = httpx.URL(databricks_url)
    account = httpx.URL(snowflake_url)
    address = {"conn_type": "databricks", "host": workspace.host, "port": workspace.port, "schema": "http"}

    def loader(key: rsa.RSAPrivateKey, role: str, user: str = USER) -> dict[str, Any]:
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        extra = {
            "account": ACCOUNT,
            "host": account.host,
            "port": account.port,
            "protocol": "http",
            "database": "DATA_SHARE",
            "warehouse": "LOAD_WH",
            "role": role,
            "private_key_content": private,
        }
        return {"conn_type": "snowflake", "login": user, "schema": "PUBLIC", "extra": extra}

    def without_key(login: str, password: str, **extra: str) -> dict[str, Any]:
        connection = loader(key, "DATA_SHARE_LOADER", login)
        connection["extra"] = {**connection["extra"], **extra, "private_key_content": None}
        return {**connection, "password": password}

    other_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return {
        "DATABRICKS_DEFAULT": {**address, "password": TOKEN},
        "DATABRICKS_PASSWORD": {**address, "login": "ada", "password": "a password"},
        "DATABRICKS_WRONG_TOKEN": {**address, "password": "dapi-wrong"},
        "DATABRICKS_PRINCIPAL": {
            **address,
            "login": CLIENT[0],
            "password": CLIENT[1],
            "extra": {"service_principal_oauth": True},
        },
        "DATABRICKS_EXPIRED_SECRET": {
            **address,
            "login": CLIENT[0],
            "password": "an expired secret",
            "extra": {"service_principal_oauth": True},
        },
        "SNOWFLAKE_DEFAULT": loader(key, "DATA_SHARE_LOADER"),
        "SNOWFLAKE_WRONG_KEY": loader(other_key, "DATA_SHARE_LOADER"),
        "SNOWFLAKE_WRONG_ROLE": loader(key, "NO_SUCH_ROLE"),
        "SNOWFLAKE_OTHER_ROLE": loader(key, "SYSADMIN"),
        "SNOWFLAKE_ADMINISTRATOR": loader(key, "ACCOUNTADMIN", "ADMIN"),
        "SNOWFLAKE_ACCESS_TOKEN": without_key(USER, ACCESS_TOKEN.secret, authenticator="programmatic_access_token"),
        "SNOWFLAKE_WRONG_ACCESS_TOKEN": without_key(USER, "guessed", authenticator="programmatic_access_token"),
        "SNOWFLAKE_OAUTH": without_key(
            OAUTH_CLIENT.client_id,
            OAUTH_CLIENT.client_secret,
            authenticator="oauth",
            refresh_token=OAUTH_CLIENT.refresh_token,
            token_endpoint=f"{snowflake_url}/oauth/token-request",
        ),
    }
