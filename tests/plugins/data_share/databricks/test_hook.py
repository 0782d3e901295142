"""Calls of the Jobs API that have no answer: which are made again, how often, and after what time."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any
from unittest import mock

import aiohttp
import pytest
import requests
import tenacity
import urllib3
from airflow.sdk.observability import stats

from data_share.databricks.hook import TRIES, DataShareDatabricksHook
from data_share.outcome.classify import RetryTransientErrors, failure_of
from data_share.outcome.codes import FailureCode

REFUSED = ssl.SSLCertVerificationError(1, "certificate verify failed: unable to get local issuer certificate")
KEY = aiohttp.client_reqrep.ConnectionKey("databricks.example", 443, True, True, None, None, None)


def answer(status: int, body: Any = None, **headers: str) -> requests.Response:
    made = requests.Response()
    made.status_code = status
    made._content = json.dumps(body or {}).encode()
    made.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return made


def not_trusted() -> requests.exceptions.SSLError:
    """Return the error that requests makes of a certificate that is not trusted."""
    pool = urllib3.HTTPSConnectionPool("databricks.example")
    return requests.exceptions.SSLError(
        urllib3.exceptions.MaxRetryError(pool, "/", urllib3.exceptions.SSLError(REFUSED))
    )


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> DataShareDatabricksHook:
    connection = {"conn_type": "databricks", "host": "databricks.example", "password": "dapi-secret"}
    monkeypatch.setenv("AIRFLOW_CONN_DATABRICKS_DEFAULT", json.dumps(connection))
    monkeypatch.setattr(DataShareDatabricksHook, "user_agent_value", "a test")
    return DataShareDatabricksHook("databricks_default")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record how long was waited, without waiting."""
    waits: list[float] = []
    monkeypatch.setattr(tenacity.nap, "time", mock.Mock(sleep=waits.append))
    return waits


def asked(monkeypatch: pytest.MonkeyPatch, *answers: Any) -> mock.Mock:
    get = mock.Mock(side_effect=answers)
    monkeypatch.setattr(requests, "get", get)
    return get


@pytest.mark.parametrize(
    "trouble",
    [requests.ConnectionError("reset"), requests.Timeout("late"), *map(answer, (429, 500, 502, 503, 504))],
    ids=["lost", "late", "429", "500", "502", "503", "504"],
)
def test_a_call_is_made_again_and_given_up_as_unavailable(
    hook: DataShareDatabricksHook, monkeypatch: pytest.MonkeyPatch, waits: list[float], trouble: Any
) -> None:
    asked(monkeypatch, *[trouble] * (TRIES - 1), answer(200, {"run_id": 7}))
    assert hook.get_run(7) == {"run_id": 7}
    for wait, least in zip(waits, (1, 2, 4, 8, 16, 30, 30, 30, 30), strict=True):
        assert least <= wait <= least + 1
    get = asked(monkeypatch, *[trouble] * TRIES)
    with pytest.raises(Exception, match=f"failed {TRIES} times") as caught:
        hook.get_run(7)
    assert get.call_count == TRIES
    failure = failure_of(caught.value, "export_to_s3")
    assert (failure.code, failure.retriable) == (FailureCode.DATABRICKS_UNAVAILABLE, True)


def test_the_wait_is_as_long_as_databricks_asks_for(
    hook: DataShareDatabricksHook, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    asked(
        monkeypatch,
        answer(429, Retry_After="20"),
        answer(503, Retry_After="100000"),
        answer(503, Retry_After="1"),
        answer(200),
    )
    hook.get_run(7)
    assert waits[:2] == [20, 120]
    assert 4 <= waits[2] <= 5


def test_each_request_is_counted_with_its_status(
    hook: DataShareDatabricksHook, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    incr = mock.Mock()
    monkeypatch.setattr(stats, "incr", incr)
    asked(monkeypatch, requests.ConnectionError("reset"), answer(429), answer(200))
    hook.get_run(7)
    tags = [{"system": "databricks", "status": status} for status in ("none", "429", "200")]
    assert incr.call_args_list == [mock.call("data_share.requests", tags=told) for told in tags]


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_not_asked_for_again(
    hook: DataShareDatabricksHook, monkeypatch: pytest.MonkeyPatch, waits: list[float], status: int
) -> None:
    get = asked(monkeypatch, answer(status))
    with pytest.raises(Exception, match=str(status)):
        hook.get_run(7)
    assert (get.call_count, waits) == (1, [])


def test_a_certificate_that_is_refused_is_refused_again(
    hook: DataShareDatabricksHook, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    get = asked(monkeypatch, not_trusted())
    with pytest.raises(requests.exceptions.SSLError) as caught:
        hook.get_run(7)
    assert (get.call_count, waits) == (1, [])
    failure = failure_of(caught.value, "export_to_s3")
    assert (failure.code, failure.retriable) == (FailureCode.CERTIFICATE_REFUSED, False)
    decision = RetryTransientErrors().evaluate(caught.value, 1, 2)
    assert decision.action.name == "FAIL", "Airflow does not try again either"


@pytest.mark.parametrize(
    ("trouble", "calls"),
    [
        (aiohttp.ServerDisconnectedError(), 4),
        (aiohttp.ClientOSError(104, "reset"), 4),
        (aiohttp.ClientPayloadError("half"), 4),
        (aiohttp.ClientConnectorError(KEY, OSError(111, "refused")), 4),
        (TimeoutError(), 4),
        (aiohttp.ClientResponseError(mock.Mock(), (), status=502), 4),
        (aiohttp.ClientConnectorCertificateError(KEY, REFUSED), 1),
        (aiohttp.ClientResponseError(mock.Mock(), (), status=403), 1),
    ],
    ids=["disconnected", "reset", "half", "not there", "late", "502", "certificate", "403"],
)
def test_in_the_triggerer_the_same_calls_are_made_again(
    hook: DataShareDatabricksHook, monkeypatch: pytest.MonkeyPatch, trouble: Exception, calls: int
) -> None:
    async def sleep(seconds: float) -> None:
        assert seconds >= 1

    monkeypatch.setattr(asyncio, "sleep", sleep)
    made: list[str] = []

    def get(url: str, **_: Any) -> Any:
        made.append(url)
        raise trouble

    hook = DataShareDatabricksHook("databricks_default", tries=4)

    async def look() -> None:
        async with hook:
            monkeypatch.setattr(hook._session, "get", get)
            await hook.a_get_run(7)

    with pytest.raises(Exception) as caught:  # noqa: PT011 - of many kinds
        asyncio.run(look())
    assert len(made) == calls
    if isinstance(trouble, aiohttp.ClientConnectorCertificateError):
        assert failure_of(caught.value, "wait_for_export").code is FailureCode.CERTIFICATE_REFUSED
