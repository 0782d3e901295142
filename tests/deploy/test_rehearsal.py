"""
docker-compose.yaml, rehearsed: each service's very command, environment, mounts, networks and health check.

The tests share one running project and follow one another as its life does; the last ones disturb it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.airflow_client import AirflowClient
from tests.conftest import PROJECT
from tests.deploy.compose import load
from tests.deploy.conftest import WriteEnv
from tests.deploy.containers import Container, ContainerEndedError, Engine, what_is_missing
from tests.deploy.dockerfile import read_images

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.e2e, pytest.mark.deploy]

HOME = PROJECT / ".sandbox" / "rehearsal"
"""A folder in the project, which stays after the tests: it holds the logs."""

SYNCS = {"shared_forecasts": 1461, "city_temperatures": 17518, "daily_observations": 365}
START_SECONDS = 420
SYNC_SECONDS = 180
WORKERS = 2


class Copy:
    """One running copy of the project."""

    def __init__(self, name: str, variables: dict[str, str]) -> None:
        self.variables = variables
        self.engine = Engine(
            load(PROJECT / "docker-compose.yaml", variables), read_images(PROJECT / "Dockerfile"), PROJECT, HOME / name
        )
        self._clients: list[AirflowClient] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.variables['AIRFLOW_PORT']}"

    def client(self, user: str) -> AirflowClient:
        """Return a client of the "ADMIN" or the "BACKEND", by the published port."""
        names = (self.variables[f"AIRFLOW_{user}_USER"], self.variables[f"AIRFLOW_{user}_PASSWORD"])
        self._clients.append(AirflowClient(self.url, *names))
        return self._clients[-1]

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.engine.down()


@pytest.fixture(scope="module")
def start_copy(write_env: WriteEnv) -> Iterator[Callable[[str], Copy]]:
    """Make copies of the project, with settings as on a small machine."""
    if missing := what_is_missing():
        reason = f"a rehearsal of docker-compose.yaml needs {', '.join(missing)}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    # `kill` ends the tests in the same orderly way as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    shutil.rmtree(HOME, ignore_errors=True)
    copies: list[Copy] = []

    def start(name: str) -> Copy:
        variables = write_env("--sandbox", "--project-name", name, "--port", str(_free_port()))
        copies.append(Copy(name, variables | {"API_WORKERS": "1", "WORKER_CONCURRENCY": "2"}))
        return copies[-1]

    yield start
    for copy in copies:
        copy.close()


@pytest.fixture(scope="module")
def stack(start_copy: Callable[[str], Copy]) -> Copy:
    """The whole project with the emulators, as `docker compose --profile sandbox up --scale worker=2`."""
    copy = start_copy("first")
    copy.engine.up(scale={"worker": WORKERS}, seconds=START_SECONDS)
    return copy


@pytest.fixture(scope="module")
def backend(stack: Copy) -> AirflowClient:
    return stack.client("BACKEND")


@pytest.fixture(scope="module")
def admin(stack: Copy) -> AirflowClient:
    return stack.client("ADMIN")


def one(stack: Copy, name: str) -> Container:
    return stack.engine.of(name)[0]


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds:g} s it is still not so that {what}"
        time.sleep(0.5)


def test_everything_starts_in_order_and_the_sandbox_shows_a_sync(stack: Copy) -> None:
    started = stack.engine.started
    assert set(started) == set(stack.engine.project.services)
    for service in stack.engine.project.services.values():
        for needed in service.depends_on:
            assert started.index(needed) < started.index(service.name)
    assert "Sync Complete: 1,461 rows exported, 1,461 loaded" in one(stack, "sandbox-set-up").tail(60)


@pytest.fixture(scope="module")
def synced(stack: Copy, backend: AirflowClient) -> dict[str, str]:
    """All datasets synced at once by the backend's account: run ids by dataset."""
    # One was synced at the start, and its source has nothing new.
    conf = {"requested_by": "backend", "full_refresh": True}
    runs = {dataset: backend.trigger(f"sync_{dataset}", conf=conf) for dataset in SYNCS}
    for dataset, run_id in runs.items():
        run = backend.wait(f"sync_{dataset}", run_id, SYNC_SECONDS)
        assert run["state"] == "success", backend.failures(f"sync_{dataset}", run_id)
    return runs


def test_the_backend_syncs_through_the_rest_api(synced: dict[str, str], backend: AirflowClient) -> None:
    for dataset, run_id in synced.items():
        ledger = backend.xcom(f"sync_{dataset}", run_id, "publish")
        assert ledger["rows_loaded"] == ledger["rows_exported"] == SYNCS[dataset]
        assert ledger["requested_by"] == "backend"


def test_both_workers_took_tasks_and_the_triggerer_the_waiting(
    stack: Copy, synced: dict[str, str], backend: AirflowClient
) -> None:
    tasks = [task for dataset, run_id in synced.items() for task in backend.tasks(f"sync_{dataset}", run_id).values()]
    workers = {worker.hostname for worker in stack.engine.of("worker")}
    assert len(workers) == WORKERS
    assert {task["hostname"] for task in tasks if task["task_id"] != "wait_for_export"} == workers
    assert not {task["hostname"] for task in tasks if task["task_id"] == "wait_for_export"} & workers


def test_logs_of_workers_and_triggerer_are_read_through_the_api_server(
    synced: dict[str, str], admin: AirflowClient
) -> None:
    dataset, run_id = next(iter(synced.items()))
    # Airflow (3.3) loses what some triggers log last, so look for what they log first.
    for task, words in {"copy_into_staging": "Snowflake query", "wait_for_export": "trigger sync_"}.items():
        text = admin.ask(
            "GET", f"/dags/sync_{dataset}/dagRuns/{run_id}/taskInstances/{task}/logs/1", params={"full_content": True}
        )
        assert words in str(text["content"]), (task, text)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/connections", None),
        ("POST", "/connections", {"connection_id": "mine", "conn_type": "http"}),
        ("GET", "/variables", None),
        ("PATCH", "/variables/data_share_export_job_id", {"key": "data_share_export_job_id", "value": "1"}),
        ("GET", "/pools", None),
        ("GET", "/config", None),
        ("GET", "/dags/set_up_snowflake", None),
        ("POST", "/dags/set_up_snowflake/dagRuns", {"logical_date": None}),
        ("POST", "/dags/clean_up_share/dagRuns", {"logical_date": None}),
        ("DELETE", "/dags/sync_shared_forecasts", None),
        ("DELETE", "/dags/sync_shared_forecasts/dagRuns/{run}", None),
        ("POST", "/dags/sync_shared_forecasts/clearTaskInstances", {"dry_run": False, "dag_run_id": "{run}"}),
        ("PATCH", "/dags/sync_shared_forecasts/dagRuns/{run}/taskInstances/publish", {"new_state": "success"}),
        ("GET", "/dags/sync_shared_forecasts/dagRuns/{run}/taskInstances/publish/logs/1", None),
        ("GET", "/plugins", None),
    ],
)
def test_the_backend_can_do_nothing_else(
    method: str, path: str, body: dict[str, Any] | None, synced: dict[str, str], backend: AirflowClient
) -> None:
    run = synced["shared_forecasts"]
    filled = {key: run if value == "{run}" else value for key, value in body.items()} if body else None
    assert backend.call(method, path.format(run=run), json=filled).status_code == httpx.codes.FORBIDDEN


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/dags/sync_shared_forecasts", {"is_paused": False}),
        ("POST", "/dags/sync_shared_forecasts/dagRuns/{run}/clear", {"dry_run": True}),
        ("PATCH", "/dags/sync_shared_forecasts/dagRuns/{run}", {"note": "seen"}),
        ("PATCH", "/dags/sync_shared_forecasts/dagRuns/{run}", {"state": "success"}),
    ],
    ids=["pause", "clear", "note", "success"],
)
def test_what_airflow_ties_to_starting_and_cancelling(
    method: str, path: str, body: dict[str, Any], synced: dict[str, str], backend: AirflowClient
) -> None:
    # docs/backend.md says so; when this fails, Airflow has finer rights.
    answer = backend.call(method, path.format(run=synced["shared_forecasts"]), json=body)
    assert answer.is_success, answer.text


def test_the_backend_sees_the_syncs_alone_and_cancels_one(
    stack: Copy, backend: AirflowClient, synced: dict[str, str]
) -> None:
    assert {dag["dag_id"] for dag in backend.ask("GET", "/dags")["dags"]} == {f"sync_{name}" for name in SYNCS}
    sandbox = one(stack, "sandbox")
    order = (
        "import os, sys; from urllib.request import Request, urlopen;"
        "headers = {'Authorization': 'Bearer ' + os.environ['SANDBOX_WORKSPACE_TOKEN']};"
        "urlopen(Request('http://localhost:8443/_sandbox/' + sys.argv[1], sys.argv[2].encode(), headers))"
    )
    assert sandbox.execute(["python", "-c", order, "hold", '{"at": "start"}']).returncode == 0
    run_id = backend.trigger("sync_shared_forecasts")
    wait_for(
        lambda: backend.tasks("sync_shared_forecasts", run_id)["wait_for_export"]["state"] == "deferred",
        "the sync waits for its export",
    )
    # So the page of the button finds the syncs that others start, with one call for all datasets.
    params = {"dag_id_prefix_pattern": "sync_", "state": ["queued", "running"]}
    active = backend.ask("GET", "/dags/~/dagRuns", params=params)["dag_runs"]
    assert run_id in [run["dag_run_id"] for run in active]
    assert {run["dag_id"] for run in active} <= {f"sync_{name}" for name in SYNCS}
    cancelled = {"state": "failed", "note": "Cancelled by ada@example.com"}
    backend.ask("PATCH", f"/dags/sync_shared_forecasts/dagRuns/{run_id}", json=cancelled)
    note = backend.wait("sync_shared_forecasts", run_id, SYNC_SECONDS)["note"]
    assert "cancelled by ada@example.com through backend: " in note
    tasks = backend.tasks("sync_shared_forecasts", run_id)
    assert (tasks["wait_for_export"]["state"], tasks["publish"]["state"]) == ("failed", "skipped")
    assert sandbox.execute(["python", "-c", order, "release", "{}"]).returncode == 0


def test_nobody_signs_in_with_a_wrong_or_usual_password(stack: Copy) -> None:
    for user, password in (("admin", "admin"), ("airflow", "airflow"), ("backend", "wrong"), ("admin", "")):
        answer = httpx.post(f"{stack.url}/auth/token", json={"username": user, "password": password}, timeout=30)
        assert answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.BAD_REQUEST), answer.text
    assert httpx.get(f"{stack.url}/api/v2/dags", timeout=30).status_code == httpx.codes.UNAUTHORIZED


def test_redis_wants_its_password(stack: Copy) -> None:
    redis = one(stack, "redis")
    assert redis.execute(["redis-cli", "ping"]).stdout == "PONG\n"
    assert "NOAUTH" in redis.execute(["env", "--unset=REDISCLI_AUTH", "redis-cli", "ping"]).stdout
    written = " ".join(redis.execute(["cat", "/proc/1/cmdline"]).stdout.split("\0"))
    assert stack.variables["REDIS_PASSWORD"] not in written


def test_a_worker_has_no_way_to_the_database(stack: Copy) -> None:
    connect = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"
    worker, scheduler = one(stack, "worker"), one(stack, "scheduler")
    database = one(stack, "postgres").addresses["database"]
    assert scheduler.execute(["python", "-c", connect, "postgres", "5432"]).returncode == 0
    assert "socket.gaierror" in worker.execute(["python", "-c", connect, "postgres", "5432"]).stderr
    assert worker.execute(["python", "-c", connect, database, "5432"]).returncode != 0
    assert worker.execute(["python", "-c", connect, "api-server", "8080"]).returncode == 0


def test_the_scheduler_has_no_way_out_and_so_no_way_to_an_exporter_of_metrics_there(stack: Copy) -> None:
    """So deploy/observability/compose.yaml gives it a network that the exporter is in."""
    reach = "import socket, sys; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect((sys.argv[1], 9125))"
    address = one(stack, "sandbox").addresses["default"]
    assert one(stack, "worker").execute(["python", "-c", reach, address]).returncode == 0
    assert "Network is unreachable" in one(stack, "scheduler").execute(["python", "-c", reach, address]).stderr


def test_mounts_are_read_only_and_processes_without_rights(stack: Copy) -> None:
    for service in ("api-server", "scheduler", "dag-processor", "triggerer", "worker"):
        container = one(stack, service)
        for folder in ("dags", "plugins", "include", "config"):
            refused = container.execute(["touch", f"/opt/airflow/{folder}/written"])
            assert "Read-only file system" in refused.stderr, (service, folder)
        assert container.execute(["touch", "/opt/airflow/logs/written"]).returncode == 0
        # All settings come from the environment: no file has them, with the secrets.
        assert container.execute(["test", "-e", "/opt/airflow/airflow.cfg"]).returncode == 1
    for container in stack.engine.containers:
        if container.ended() is None:
            for folder in ("", "/etc"):
                refused = container.execute(["touch", f"{folder}/written"])
                assert "Read-only file system" in refused.stderr, (container.name, folder)
            assert container.execute(["touch", "/tmp/written"]).returncode == 0, container.name
            status = container.execute(["cat", "/proc/1/status"]).stdout
            lines = dict(line.split(":\t", 1) for line in status.splitlines())
            assert lines["Uid"].split()[0] != "0", container.name
            assert int(lines["CapEff"], 16) == int(lines["CapBnd"], 16) == 0, container.name
            assert lines["NoNewPrivs"] == "1", container.name


def test_each_service_keeps_below_its_limits(stack: Copy, synced: dict[str, str]) -> None:
    for container in stack.engine.containers:
        if container.ended() is None:
            assert container.memory() < 0.8 * container.service.memory_bytes, container.name
            assert container.threads() < 0.25 * container.service.options["pids_limit"], container.name


def test_init_runs_again_and_takes_back_what_the_backend_should_not_have(
    stack: Copy, admin: AirflowClient, backend: AirflowClient
) -> None:
    headers = {"Authorization": f"Bearer {_token(stack, 'ADMIN')}"}
    roles = f"{stack.url}/auth/fab/v1/roles/DataShareBackend"
    role = httpx.get(roles, headers=headers, timeout=30).raise_for_status().json()
    role["actions"].append({"action": {"name": "can_read"}, "resource": {"name": "Connections"}})
    httpx.patch(roles, json=role, headers=headers, timeout=30).raise_for_status()
    wait_for(lambda: backend.call("GET", "/connections").is_success, "the backend reads connections")

    stack.engine.run_again("init", START_SECONDS)

    wait_for(lambda: backend.call("GET", "/connections").status_code == 403, "the right is taken back")
    users = httpx.get(f"{stack.url}/auth/fab/v1/users", headers=headers, timeout=30).raise_for_status().json()
    given = {user["username"]: [role["name"] for role in user["roles"]] for user in users["users"]}
    assert given == {"admin": ["Admin"], "backend": ["DataShareBackend"]}
    assert _token(stack, "BACKEND")
    assert backend.ask("GET", "/dags/sync_shared_forecasts")["is_paused"] is False


def test_a_second_copy_runs_beside_the_first(stack: Copy, start_copy: Callable[[str], Copy]) -> None:
    second = start_copy("second")
    # As `docker compose up api-server`: what it depends on comes along.
    second.engine.up(["api-server"], seconds=START_SECONDS)
    assert second.engine.started == ["postgres", "init", "api-server"]
    asked = {"Authorization": f"Bearer {_token(second, 'ADMIN')}"}
    assert httpx.get(f"{second.url}/api/v2/dags", headers=asked, timeout=30).json()["total_entries"] == 0
    assert httpx.get(f"{stack.url}/api/v2/dags", headers=asked, timeout=30).status_code in (401, 403)

    # The database is in its volume, not in its container.
    postgres = one(second, "postgres")
    postgres.stop()
    shutil.rmtree(postgres.root)
    postgres.start()
    wait_for(postgres.is_healthy, "the new container of the database is healthy")
    wait_for(lambda: bool(_token(second, "BACKEND")), "the users are still there")
    second.close()


def test_a_worker_that_was_killed_starts_again_in_its_file_system(stack: Copy) -> None:
    worker = stack.engine.of("worker")[1]
    worker.kill()
    with pytest.raises(ContainerEndedError):
        worker.is_healthy()
    worker.start()
    wait_for(worker.is_healthy, "the worker is healthy again")


def test_health_checks_see_what_hangs(stack: Copy) -> None:
    checked = {name for name, service in stack.engine.project.services.items() if service.healthcheck}
    # These two are asked by others' checks, so they hang after the others.
    asked = {"postgres", "redis"}
    with ThreadPoolExecutor(4) as pool:
        for names in (checked - asked, asked):
            containers = [one(stack, name) for name in sorted(names)]
            for container in containers:
                container.signal_all(signal.SIGSTOP)
            try:
                # Some look at the age of a heartbeat in the database, so they notice after a while.
                list(pool.map(lambda c: wait_for(lambda: not c.is_healthy(), f"{c.name} is seen to hang"), containers))
            finally:
                for container in containers:
                    container.signal_all(signal.SIGCONT)
        everything = [one(stack, name) for name in sorted(checked)]
        list(pool.map(lambda c: wait_for(c.is_healthy, f"{c.name} is healthy again"), everything))
    assert len(everything) == 8


def test_stopping_a_worker_lets_it_end_by_itself(stack: Copy) -> None:
    assert one(stack, "worker").stop(60) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _token(copy: Copy, user: str) -> str:
    body = {
        name: copy.variables[f"AIRFLOW_{user}_{part}"]
        for name, part in (("username", "USER"), ("password", "PASSWORD"))
    }
    answer = httpx.post(f"{copy.url}/auth/token", json=body, timeout=30)
    return str(answer.json()["access_token"]) if answer.is_success else ""
