"""An api-server that is away for five minutes: what each way to run Airflow says, held against Airflow's own code."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
import svcs
import yaml
from airflow.api_fastapi.auth.tokens import JWTGenerator, JWTValidator
from airflow.api_fastapi.execution_api.app import JWTReissueMiddleware
from airflow.configuration import conf
from airflow.sdk.api.client import Client
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from tenacity import RetryCallState, stop_after_attempt, wait_random_exponential

from sandbox.settings import Settings
from sandbox.stack import Endpoints, Stack
from tests.conftest import PROJECT
from tests.deploy.compose import load

pytestmark = pytest.mark.tier("full")

OUTAGE_SECONDS = 300
SETTINGS = {
    *(("workers", f"execution_api_{name}") for name in ("retries", "retry_wait_min", "retry_wait_max", "timeout")),
    ("scheduler", "task_instance_heartbeat_timeout"),
    ("execution_api", "jwt_expiration_time"),
}
Values = dict[tuple[str, str], float]


def of_environment(environment: dict[str, str]) -> Values:
    names = {setting: f"AIRFLOW__{setting[0]}__{setting[1]}".upper() for setting in SETTINGS}
    return {setting: float(environment[name]) for setting, name in names.items() if name in environment}


def of_sandbox(tmp_path: Path) -> Values:
    stack = Stack(Settings(state=tmp_path, places=1, ports={}))
    endpoints = Endpoints(*["http://127.0.0.1:1"] * 8)
    return of_environment(stack._airflow_environment(endpoints, dict.fromkeys(("airflow_secret", "fernet_key"), "")))


def of_chart() -> Values:
    given = yaml.safe_load((PROJECT / "deploy" / "helm" / "values.yaml").read_text())["config"]
    return {(section, key): float(given[section][key]) for section, key in SETTINGS if key in given.get(section, {})}


@pytest.fixture
def shipped(tmp_path: Path, sandbox_env: dict[str, str]) -> Values:
    return of_sandbox(tmp_path)


def test_each_way_to_run_airflow_says_the_same(shipped: Values, sandbox_env: dict[str, str]) -> None:
    assert set(shipped) == SETTINGS
    assert all(conf.has_option(*setting) for setting in shipped)
    assert of_chart() == shipped
    services = load(PROJECT / "docker-compose.yaml", sandbox_env).services
    for name in ("api-server", "scheduler", "dag-processor", "triggerer", "worker"):
        assert of_environment(services[name].environment) == shipped, name


def waits(values: Values, drawn: Callable[[float, float], float]) -> Iterator[float]:
    """Yield the waits between the attempts of one call to an api-server that refuses each of them."""
    retry = Client.request.retry  # type: ignore[attr-defined]
    assert type(retry.wait) is wait_random_exponential
    assert type(retry.stop) is stop_after_attempt
    least, most = (values["workers", f"execution_api_retry_wait_{name}"] for name in ("min", "max"))
    strategy = wait_random_exponential(min=least, max=most)
    for attempt in range(1, int(values["workers", "execution_api_retries"])):
        state = RetryCallState(retry, None, (), {})
        state.attempt_number = attempt
        with mock.patch("random.uniform", drawn):
            yield strategy(state)


def test_a_call_lasts_five_minutes_however_its_waits_are_drawn(shipped: Values) -> None:
    assert sum(waits(shipped, min)) >= OUTAGE_SECONDS
    # A step that is queued for longer is taken from its worker.
    assert sum(waits(shipped, max)) < conf.getint("scheduler", "task_queued_timeout")


def test_airflows_own_settings_would_not_last() -> None:
    defaults = {setting: conf.getfloat(*setting) for setting in SETTINGS}
    assert sum(waits(defaults, min)) == 4


def test_a_running_step_is_not_given_up_before_its_heartbeat_is_back(shipped: Values) -> None:
    # The last heartbeat before, one wait and one answer that does not come after it.
    late = conf.getint("workers", "min_heartbeat_interval")
    late += shipped["workers", "execution_api_retry_wait_max"] + shipped["workers", "execution_api_timeout"]
    assert shipped["scheduler", "task_instance_heartbeat_timeout"] > OUTAGE_SECONDS + late


def is_renewed(lifetime: float, left: float) -> bool:
    """Return whether the api-server gives a step a new token whose old one lasts for so many seconds still."""
    now = int(time.time())
    claims = {"exp": now + int(left), "iat": now + int(left) - int(lifetime)}
    registry = svcs.Registry()
    validator = mock.create_autospec(JWTValidator, instance=True)
    validator.avalidated_claims.return_value = claims
    generator = mock.create_autospec(JWTGenerator, instance=True)
    generator.generate.return_value = "a new token"
    registry.register_value(JWTValidator, validator)
    registry.register_value(JWTGenerator, generator)
    app = Starlette()
    app.state.svcs_registry = registry
    request = Request({"type": "http", "app": app, "headers": [(b"authorization", b"Bearer token")]})

    async def answer(_: Request) -> Response:
        return Response()

    middleware = JWTReissueMiddleware(app)
    return "Refreshed-API-Token" in asyncio.run(middleware.dispatch(request, answer)).headers


def test_the_token_of_a_running_step_outlives_the_outage(shipped: Values) -> None:
    # Airflow gives a new one in the last fifth of a token's life, with an answer to a heartbeat.
    needed = OUTAGE_SECONDS + conf.getint("workers", "min_heartbeat_interval")
    assert is_renewed(shipped["execution_api", "jwt_expiration_time"], needed)
    assert not is_renewed(conf.getfloat("execution_api", "jwt_expiration_time"), needed), "with Airflow's own setting"
