from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvicorn

from emulators.fault_injection import FaultInjection

if TYPE_CHECKING:
    import pyarrow as pa
    import s3fs
    from deltalake import DeltaTable

PROJECT = Path(__file__).parents[3]
BUNDLE = PROJECT / "include" / "databricks" / "databricks.yml"
TOKEN = "dapi-test"
CLIENT_ID = "5f2f6c1e-8a55-4d0c-9d7e-2f6a0b1c3d4e"
CLIENT_SECRET = "dose-of-the-principal"
DEADLINE = 20.0


def wait_for(condition: Callable[[], Any]) -> Any:
    """Wait until a condition holds, and return what it returned."""
    end = time.monotonic() + DEADLINE
    while not (answer := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return answer


class WorkspaceServer:
    """A workspace behind real HTTP, and the calls of its API."""

    def __init__(self, state_dir: Path, s3_endpoint_url: str, bundle: Path, **tls: str) -> None:
        # It takes seconds to import, and collecting the tests does without it.
        from emulators.databricks.server import create_app

        app = create_app(
            state_dir=state_dir,
            s3_endpoint_url=s3_endpoint_url,
            token=TOKEN,
            bundle=bundle,
            service_principals={CLIENT_ID: CLIENT_SECRET},
        )
        # A dropped connection is an error to uvicorn; here it is an order.
        config = uvicorn.Config(FaultInjection(app), port=0, log_level="critical", **tls)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_for(lambda: self._server.started)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.client = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=DEADLINE,
            verify=ssl.create_default_context(cafile=tls["ssl_certfile"]) if tls else True,
        )
        self.job_id = self.get("jobs/list", name="export_dataset")["jobs"][0]["job_id"]

    def stop(self) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def get(self, path: str, **query: Any) -> Any:
        answer = self.client.get(f"/api/2.2/{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, **body: Any) -> Any:
        answer = self.client.post(f"/api/2.2/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(self, path: str, **body: Any) -> dict[str, Any]:
        """The answer to a call that must fail."""
        method = "GET" if path.endswith(("get", "list", "get-output")) else "POST"
        arguments: dict[str, Any] = {"params": body} if method == "GET" else {"json": body}
        answer = self.client.request(method, f"/api/2.2/{path}", **arguments)
        assert answer.status_code == 400, answer.text
        return dict(answer.json())

    def fault(self, **order: Any) -> None:
        """Order a fault of the next calls."""
        answer = self.client.post("/_sandbox/faults", json=order)
        assert answer.status_code == 201, answer.text

    def order(self, name: str, **body: Any) -> None:
        answer = self.client.post(f"/_sandbox/{name}", json=body)
        assert answer.status_code == 200, answer.text

    def orders(self) -> Any:
        return self.client.get("/_sandbox/state").json()

    def run_now(self, parameters: dict[str, str], **body: Any) -> int:
        return int(self.post("jobs/run-now", job_id=self.job_id, job_parameters=parameters, **body)["run_id"])

    def run(self, run_id: int) -> Any:
        return self.get("jobs/runs/get", run_id=run_id)

    def ended(self, run_id: int) -> Any:
        """The run, when it has ended."""

        def look() -> Any:
            run = self.run(run_id)
            return run if run["status"]["state"] == "TERMINATED" else None

        return wait_for(look)

    def in_state(self, run_id: int, life_cycle_state: str) -> Any:
        """The run, when it is in a state."""

        def look() -> Any:
            run = self.run(run_id)
            return run if run["state"]["life_cycle_state"] == life_cycle_state else None

        return wait_for(look)

    def held(self, run_id: int) -> None:
        """Return when the run is held."""
        wait_for(lambda: run_id in self.orders()["held"])

    def result(self, run_id: int) -> tuple[str, str]:
        state = self.ended(run_id)["state"]
        return state["life_cycle_state"], state["result_state"]


@pytest.fixture(scope="session")
def lake(s3_url: str) -> str:
    """The endpoint of an S3 that has the source tables."""
    from sandbox.sources import seed

    seed(s3_url)
    return s3_url


@pytest.fixture(scope="session")
def files(lake: str) -> s3fs.S3FileSystem:
    """The file system of that S3."""
    from emulators.s3 import s3_filesystem

    return s3_filesystem(lake)


@pytest.fixture
def serve(lake: str) -> Iterator[Callable[..., WorkspaceServer]]:
    """Starts workspaces; whatever still runs at the end is stopped."""
    started: list[WorkspaceServer] = []

    def start(state_dir: Path, bundle: Path = BUNDLE, **tls: str) -> WorkspaceServer:
        started.append(WorkspaceServer(state_dir, lake, bundle, **tls))
        return started[-1]

    yield start
    for server in started:
        server.stop()  # again for one that a test has stopped: it does no harm


@pytest.fixture
def workspace(serve: Callable[..., WorkspaceServer], tmp_path: Path) -> WorkspaceServer:
    """A workspace with the project's bundle and no runs."""
    return serve(tmp_path / "databricks")


@pytest.fixture
def parameters(tmp_path: Path) -> dict[str, str]:
    """Job parameters of an export to a path of this test."""
    return {
        "dataset": "weather",
        "source_table": "main.weather.forecasts",
        "run_key": "20260102T030405_0badcafe",
        "export_path": f"s3://databricks-snowflake-share/weather/{tmp_path.name}/1/",
        "proof": "checksums",
        "source": "",
        "mode": "",
        "published": "",
    }


class Catalog:
    """A catalog of one test, whose table is w.t."""

    def __init__(self, url: str, files: Any, catalog: str) -> None:
        self.url = url
        self.files = files
        self.catalog = catalog
        self.name = f"{catalog}.w.t"

    def table(self, name: str = "") -> DeltaTable:
        from deltalake import DeltaTable

        from emulators.databricks.unity_catalog import table_uri
        from emulators.s3 import storage_options

        return DeltaTable(table_uri(name or self.name), storage_options=storage_options(self.url))

    def write(self, rows: pa.Table, mode: Any = "overwrite", name: str = "") -> None:
        from emulators.databricks.unity_catalog import write_table

        write_table(self.url, name or self.name, rows, mode)

    def _session(self) -> Any:
        from emulators.databricks.export import Session

        return Session(self.url, self.files)

    def first(self, sql: str, **parameters: str) -> Any:
        """The first row of the last statement's result."""
        session = self._session()
        try:
            return session.execute(sql.replace("{t}", self.name), parameters)
        finally:
            session.close()

    def rows(self, sql: str) -> list[dict[str, Any]]:
        session = self._session()
        try:
            return list(session.table(sql.replace("{t}", self.name)).to_pylist())
        finally:
            session.close()

    def refused(self, sql: str, **parameters: str) -> str:
        from emulators.databricks.errors import StatementError

        with pytest.raises(StatementError) as caught:
            self.first(sql, **parameters)
        return str(caught.value)


@pytest.fixture
def here(s3_url: str, files: Any, tmp_path: Path) -> Iterator[Catalog]:
    name = re.sub(r"\W", "_", tmp_path.name).lower()
    made = Catalog(s3_url, files, name)
    yield made
    if files.exists(f"unity-catalog/{name}"):
        files.rm(f"unity-catalog/{name}", recursive=True)
