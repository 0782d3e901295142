"""The SQL API as the hook speaks it, checked against the HTTP calls that it makes."""

from __future__ import annotations

import json
import ssl
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from unittest import mock

import jwt
import pytest
import requests
import urllib3
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.sdk.observability import stats
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from data_share.outcome import classify
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError
from data_share.snowflake import sql_api
from data_share.snowflake.sql_api import (
    DataShareSnowflakeHook,
    SnowflakeRefusedError,
    SnowflakeStatementError,
    SnowflakeStoppedError,
    SnowflakeTransientError,
    request_id,
)

PRIVATE_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = PRIVATE_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
EXTRA = {
    "account": "MYORG-SHARE",
    "database": "SHARE_DB",
    "warehouse": "LOAD_WH",
    "role": "LOADER",
    "private_key_content": PEM,
}
STATEMENTS = "https://MYORG-SHARE.snowflakecomputing.com/api/v2/statements"
HANDLE = "01b2c3d4-0000-1111-0000-00000000abcd"


def response(status: int, answer: Any) -> requests.Response:
    made = requests.Response()
    made.status_code = status
    made.reason = "the reason"
    made.url = STATEMENTS
    made._content = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
    return made


STARTED = response(202, {"code": "333334", "message": "in progress", "statementHandle": HANDLE})
RUNNING = STARTED
DONE = response(200, {"code": "090001", "statementHandle": HANDLE})
CANCELLED = response(200, {"code": "000604", "message": "SQL execution canceled", "statementHandle": HANDLE})


def failed(code: str = "002003", message: str = "Object 'X' does not exist", status: int = 422) -> requests.Response:
    return response(status, {"code": code, "message": message, "sqlState": "42S02", "statementHandle": HANDLE})


def rows(columns: list[dict[str, Any]], data: list[list[str | None]], partitions: int = 1) -> requests.Response:
    metadata = {"rowType": columns, "partitionInfo": [{}] * partitions}
    return response(200, {"statementHandle": HANDLE, "resultSetMetaData": metadata, "data": data})


class Snowflake:
    """Answers HTTP calls from a list, and remembers them."""

    def __init__(self) -> None:
        self.answers: list[requests.Response | Exception] = []
        self.calls: list[dict[str, Any]] = []

    def request(self, session: requests.Session, **call: Any) -> requests.Response:
        self.calls.append(call)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def will(self, *answers: requests.Response | Exception) -> None:
        self.answers.extend(answers)

    @property
    def paths(self) -> list[str]:
        """What was called: the method, and the address behind that of the statements."""
        return [f"{call['method']} {call['url'].removeprefix(STATEMENTS)}".strip() for call in self.calls]


@pytest.fixture
def snowflake() -> Iterator[Snowflake]:
    service = Snowflake()
    with mock.patch.object(requests.Session, "request", autospec=True, side_effect=service.request):
        yield service
    assert service.answers == [], "not every prepared answer was asked for"


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record how long was waited, without waiting."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


def make_hook(monkeypatch: pytest.MonkeyPatch, *, password: str | None = None, **extra: Any) -> DataShareSnowflakeHook:
    connection = {
        "conn_type": "snowflake",
        "login": "SHARE_SVC",
        "password": password,
        "schema": "PUBLIC",
        "extra": {**EXTRA, **extra},
    }
    monkeypatch.setenv("AIRFLOW_CONN_SNOWFLAKE_DEFAULT", json.dumps(connection))
    return DataShareSnowflakeHook("snowflake_default", query_tag={"dag": "sync_tides", "try": 2})


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> DataShareSnowflakeHook:
    return make_hook(monkeypatch)


# ---- addresses


@pytest.mark.parametrize(
    ("extra", "url"),
    [
        ({}, STATEMENTS),
        ({"account": "org-acc.privatelink"}, "https://org-acc.privatelink.snowflakecomputing.com/api/v2/statements"),
        ({"host": "proxy.example"}, "https://proxy.example/api/v2/statements"),
        ({"host": "proxy.example", "port": 8443}, "https://proxy.example:8443/api/v2/statements"),
        ({"host": "127.0.0.1", "port": "9", "protocol": "http"}, "http://127.0.0.1:9/api/v2/statements"),
    ],
)
def test_every_call_goes_to_the_address_of_the_connection(
    snowflake: Snowflake, monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any], url: str
) -> None:
    snowflake.will(STARTED, DONE, response(200, {"message": "cancelled"}))
    hook = make_hook(monkeypatch, **extra)
    hook.run_statement("SELECT 1")
    hook.cancel_queries([HANDLE])
    assert [call["url"] for call in snowflake.calls] == [url, f"{url}/{HANDLE}", f"{url}/{HANDLE}/cancel"]


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ("tides", "myorg-share/share_db/public/tides"),
        ("Sea.Tides", "myorg-share/share_db/sea/tides"),
        ("other_db.sea.tides", "myorg-share/other_db/sea/tides"),
        ('sea."Tides/2026"', "myorg-share/share_db/sea/Tides%2F2026"),
        ('"a.b"', "myorg-share/share_db/public/a.b"),
    ],
)
def test_a_table_has_one_address_as_an_asset_whatever_is_left_out(
    hook: DataShareSnowflakeHook, table: str, path: str
) -> None:
    uri = hook.asset_uri(table)
    assert uri == f"snowflake://{path}"
    assert Asset(uri).uri == uri, "Airflow takes the address as it is"


def test_every_call_has_a_time_out_and_is_signed_with_the_key(
    snowflake: Snowflake, hook: DataShareSnowflakeHook
) -> None:
    snowflake.will(STARTED, DONE)
    hook.run_statement("SELECT 1")
    for call in snowflake.calls:
        assert call["timeout"] == 60
        scheme, token = call["headers"]["Authorization"].split()
        assert scheme == "Bearer"
        assert call["headers"]["X-Snowflake-Authorization-Token-Type"] == "KEYPAIR_JWT"
        claims = jwt.decode(token, PRIVATE_KEY.public_key(), algorithms=["RS256"])
        assert claims["sub"] == "MYORG-SHARE.SHARE_SVC"


def test_a_programmatic_access_token_takes_the_place_of_the_key(
    snowflake: Snowflake, monkeypatch: pytest.MonkeyPatch
) -> None:
    snowflake.will(STARTED, DONE)
    extra: dict[str, Any] = {"authenticator": "programmatic_access_token", "private_key_content": None}
    make_hook(monkeypatch, password="the-token", **extra).run_statement("SELECT 1")
    assert snowflake.calls[0]["headers"]["Authorization"] == "Bearer the-token"


# ---- what a request holds


def test_a_statement_is_sent_with_everything_that_makes_it_repeatable(
    snowflake: Snowflake, hook: DataShareSnowflakeHook
) -> None:
    snowflake.will(STARTED, DONE)
    step = request_id("sync_tides", "manual__1", "publish", 2)
    hook.statement_timeout = 7
    hook.run_statement("SELECT * FROM t WHERE a = ? AND b = ?", request_id=step, bindings=["x'", "y"])
    submitted = snowflake.calls[0]
    assert submitted["method"] == "post"
    assert submitted["params"] == {"requestId": str(step)}
    body = submitted["json"]
    tag = body["parameters"].pop("query_tag")
    assert json.loads(tag) == {"dag": "sync_tides", "try": 2}
    assert body == {
        "statement": "SELECT * FROM t WHERE a = ? AND b = ?",
        "timeout": 7,
        "database": "SHARE_DB",
        "schema": "PUBLIC",
        "warehouse": "LOAD_WH",
        "role": "LOADER",
        "bindings": {"1": {"type": "TEXT", "value": "x'"}, "2": {"type": "TEXT", "value": "y"}},
        "parameters": {"MULTI_STATEMENT_COUNT": "1", "timezone": "UTC"},
    }


def test_a_short_statement_costs_one_request_and_a_long_one_gives_its_handle_at_once(
    snowflake: Snowflake, hook: DataShareSnowflakeHook
) -> None:
    column = {"name": "N", "type": "fixed", "scale": 0}
    answer = rows([column], [["7"]])
    snowflake.will(answer, STARTED, answer)
    assert hook.run_statement("SELECT 7 AS n").rows == [{"N": 7}]
    assert hook.run_statement("COPY INTO t FROM @s", is_long=True).rows == [{"N": 7}]
    assert snowflake.paths == ["post", "post", f"get /{HANDLE}"]
    assert ["async" in (call["params"] or {}) for call in snowflake.calls] == [False, True, False]
    assert hook.query_ids == [HANDLE]


SEVERAL_DONE = response(200, {"statementHandle": HANDLE, "statementHandles": ["a", "b", "c"]})


def test_several_statements_cost_one_request_and_one_for_each_result_that_is_read(
    snowflake: Snowflake, hook: DataShareSnowflakeHook
) -> None:
    last = rows([{"name": "N", "type": "fixed", "scale": 0}], [["7"]])
    snowflake.will(SEVERAL_DONE, last, STARTED, SEVERAL_DONE)
    handles = hook.run_statements(["CREATE TABLE t (n INT)", "INSERT INTO t SELECT 7", "SELECT n FROM t"])
    assert handles == ["a", "b", "c"]
    result = hook.result_of(handles[-1])
    assert (result.query_id, result.rows) == ("c", [{"N": 7}])
    hook.run_statements(["BEGIN", "DELETE FROM t", "COMMIT"], is_long=True)
    assert snowflake.paths == ["post", "get /c", "post", f"get /{HANDLE}"]
    assert ["async" in (call["params"] or {}) for call in snowflake.calls] == [False, False, True, False]


def test_several_statements_that_take_longer_than_the_first_answer_are_waited_for(
    snowflake: Snowflake, hook: DataShareSnowflakeHook
) -> None:
    snowflake.will(STARTED, RUNNING, SEVERAL_DONE)
    assert hook.run_statements(["DELETE FROM t", "SELECT 1"]) == ["a", "b", "c"]


def test_the_seconds_of_all_statements_are_added_from_submission_to_end(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: sum(waits))
    snowflake.will(STARTED, RUNNING, DONE)
    hook.run_statement("COPY INTO t FROM @s", is_long=True)
    of_one = hook.statement_seconds
    assert of_one == pytest.approx(sum(waits))
    assert of_one > 0
    time.sleep(100)  # what the step does between two statements
    snowflake.will(STARTED, SEVERAL_DONE)
    hook.run_statements(["DELETE FROM t", "SELECT 1"])
    snowflake.will(STARTED, failed())
    with pytest.raises(SnowflakeStatementError):
        hook.run_statement("COPY INTO t FROM @s", is_long=True)
    assert hook.statement_seconds == pytest.approx(sum(waits) - 100)


def test_each_request_is_counted_with_its_status(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    incr = mock.Mock()
    monkeypatch.setattr(stats, "incr", incr)
    snowflake.will(requests.ConnectionError("reset"), response(503, {}), failed())
    with pytest.raises(SnowflakeStatementError):
        hook.run_statement("SELECT 1")
    tags = [{"system": "snowflake", "status": status} for status in ("none", "503", "422")]
    assert incr.call_args_list == [mock.call("data_share.requests", tags=told) for told in tags]


def test_a_result_that_is_lost_on_its_way_is_asked_for_again(
    snowflake: Snowflake, hook: DataShareSnowflakeHook
) -> None:
    snowflake.will(requests.ConnectionError("reset"), rows([{"name": "N", "type": "fixed", "scale": 0}], [["7"]]))
    assert hook.result_of("a").rows == [{"N": 7}]


@pytest.mark.parametrize("status", [422, 408])
def test_a_statement_that_fails_in_the_first_answer_has_failed(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, status: int
) -> None:
    snowflake.will(failed(status=status))
    with pytest.raises(SnowflakeStatementError, match="does not exist") as caught:
        hook.run_statement("SELECT 1")
    assert caught.value.snowflake_query_id == HANDLE
    hook.stop()
    assert snowflake.paths == ["post"], "nothing runs that could be cancelled"


def test_what_the_connection_leaves_open_is_left_out(snowflake: Snowflake, monkeypatch: pytest.MonkeyPatch) -> None:
    snowflake.will(STARTED, DONE)
    make_hook(monkeypatch, role=None, warehouse="").run_statement("SELECT 1")
    assert {"role", "warehouse", "bindings"}.isdisjoint(snowflake.calls[0]["json"])


def test_a_transaction_goes_into_one_request(snowflake: Snowflake, hook: DataShareSnowflakeHook) -> None:
    snowflake.will(STARTED, RUNNING, response(200, {"statementHandle": HANDLE, "statementHandles": ["a", "b", "c"]}))
    hook.run_statements(["BEGIN", "INSERT INTO t SELECT 1", "COMMIT"], is_long=True)
    body = snowflake.calls[0]["json"]
    assert body["statement"] == "BEGIN;\nINSERT INTO t SELECT 1;\nCOMMIT;"
    assert body["parameters"]["MULTI_STATEMENT_COUNT"] == "3"
    assert "bindings" not in body
    assert hook.query_ids == [HANDLE]


def test_request_ids_are_the_same_for_the_same_step_and_differ_between_steps() -> None:
    step = ("sync_tides", "manual__1", "publish")
    assert request_id(*step, 1) == request_id(*step, 1)
    assert len({request_id(*step, 1), request_id(*step, 2), request_id("sync_tides", "manual__1", "copy", 1)}) == 3
    assert isinstance(request_id(*step), uuid.UUID)


def test_statements_without_a_given_request_id_get_one_each(snowflake: Snowflake, hook: DataShareSnowflakeHook) -> None:
    snowflake.will(STARTED, DONE, STARTED, DONE)
    hook.run_statement("SELECT 1")
    hook.run_statement("SELECT 1")
    first, second = (call["params"]["requestId"] for call in snowflake.calls[::2])
    assert uuid.UUID(first) != uuid.UUID(second)


# ---- calls without an answer

LOST = requests.ConnectionError("reset")
# What the service says, and what stands in its place.
TROUBLES: dict[str, requests.Response | Exception] = {
    "connection lost": LOST,
    "no answer": requests.Timeout("no answer"),
    "half an answer": requests.exceptions.ChunkedEncodingError("half"),
    "no JSON": response(200, "<html>sign in to the network</html>"),
    "429": response(429, {"code": "390505", "message": "Too many requests."}),
    **{str(status): response(status, {}) for status in (500, 502, 503, 504)},
}
each_trouble = pytest.mark.parametrize("trouble", TROUBLES.values(), ids=list(TROUBLES))


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record each pause as a whole."""
    pauses: list[float] = []
    monkeypatch.setattr(DataShareSnowflakeHook, "_pause", lambda _, seconds: pauses.append(seconds))
    return pauses


def with_header(made: requests.Response, retry_after: str) -> requests.Response:
    made.headers["Retry-After"] = retry_after
    return made


@each_trouble
def test_a_lost_answer_is_asked_for_again_and_only_the_repetition_says_so(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, trouble: requests.Response | Exception
) -> None:
    step = request_id("sync_tides", "publish")
    for is_long in (False, True):
        snowflake.calls.clear()
        snowflake.will(*[trouble] * 9, STARTED, DONE)
        assert hook.run_statement("INSERT INTO t SELECT 1", request_id=step, is_long=is_long).query_id == HANDLE
        posts = [call for call in snowflake.calls if call["method"] == "post"]
        first = {"requestId": str(step), **({"async": "true"} if is_long else {})}
        assert [post["params"] for post in posts] == [first, *[{**first, "retry": "true"}] * 9]
        assert all(post["json"] == posts[0]["json"] for post in posts)


@each_trouble
def test_a_running_statement_is_waited_for_over_an_outage(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, trouble: requests.Response | Exception
) -> None:
    snowflake.will(STARTED, *[*[trouble] * 9, RUNNING] * 2, DONE)
    hook.run_statement("SELECT 1")
    assert snowflake.paths == ["post", *[f"get /{HANDLE}"] * 21]


@each_trouble
def test_a_statement_that_is_not_told_of_any_longer_is_cancelled(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, trouble: requests.Response | Exception
) -> None:
    snowflake.will(STARTED, RUNNING, *[trouble] * 10, trouble, CANCELLED)
    with pytest.raises(
        SnowflakeTransientError, match=f"; the step stopped waiting for query {HANDLE}, and it was cancelled"
    ) as caught:
        hook.run_statement("SELECT 1")
    assert snowflake.paths == ["post", *[f"get /{HANDLE}"] * 11, *[f"post /{HANDLE}/cancel"] * 2]
    assert caught.value.snowflake_query_id == HANDLE
    assert (caught.value.code, caught.value.retriable) == (FailureCode.SNOWFLAKE_UNAVAILABLE, True)
    assert not isinstance(caught.value, AirflowFailException), "another attempt may help"


def test_a_look_that_is_refused_is_not_repeated_and_its_statement_is_cancelled(
    snowflake: Snowflake, hook: DataShareSnowflakeHook
) -> None:
    snowflake.will(STARTED, response(401, {"code": "390144", "message": "JWT token is invalid."}), CANCELLED)
    with pytest.raises(SnowflakeRefusedError, match=r"JWT token is invalid.*it was cancelled") as caught:
        hook.run_statement("SELECT 1")
    assert caught.value.code is FailureCode.SNOWFLAKE_SIGN_IN
    assert snowflake.paths == ["post", f"get /{HANDLE}", f"post /{HANDLE}/cancel"]


@pytest.mark.parametrize(
    ("cancelling", "told"),
    [
        ([response(422, {"code": "000709", "message": "not found"})], "and it had ended"),
        ([LOST] * 3, "and it could not be cancelled: Snowflake does not answer: reset"),
    ],
)
def test_what_became_of_a_statement_that_is_given_up_is_told(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, cancelling: list[Any], told: str
) -> None:
    snowflake.will(STARTED, *[response(502, {})] * 10, *cancelling)
    with pytest.raises(SnowflakeTransientError, match=told):
        hook.run_statement("SELECT 1")


@each_trouble
def test_a_submission_that_is_never_answered_is_given_up_and_what_it_began_is_cancelled(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, trouble: requests.Response | Exception
) -> None:
    snowflake.will(*[trouble] * 11, STARTED, CANCELLED)
    with pytest.raises(SnowflakeTransientError, match="the statement was cancelled") as caught:
        hook.run_statement("SELECT 1")
    assert snowflake.paths == [*["post"] * 12, f"post /{HANDLE}/cancel"]
    assert len({call["params"]["requestId"] for call in snowflake.calls[:12]}) == 1
    assert caught.value.retriable
    hook.stop()
    assert len(snowflake.calls) == 13, "nothing is left to be stopped"


def test_a_submission_that_nothing_is_heard_of_any_more_says_how_long_it_may_run(
    snowflake: Snowflake, hook: DataShareSnowflakeHook
) -> None:
    hook.statement_timeout = 900
    snowflake.will(*[LOST] * 13)
    with pytest.raises(SnowflakeTransientError, match="if the statement runs, it ends by its time-out of 900 s"):
        hook.run_statement("SELECT 1")


@pytest.mark.parametrize("status", [202, 429])
def test_a_look_at_a_running_statement_may_be_answered_in_two_ways(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, status: int
) -> None:
    """More often than any answer may be missing."""
    snowflake.will(STARTED, *[response(status, {"code": "333334", "statementHandle": HANDLE})] * 30, DONE)
    hook.run_statement("SELECT 1")


def test_the_pauses_grow_and_differ_between_steps(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, pauses: list[float]
) -> None:
    snowflake.will(*[LOST] * 9, STARTED, DONE)
    hook.run_statement("SELECT 1")
    for pause, least in zip(pauses[:-1], (1, 2, 4, 8, 16, 30, 30, 30, 30), strict=True):
        assert least < pause <= 1.5 * least


@pytest.mark.parametrize(
    ("asked", "paused"),
    [
        ("7", 7),
        (" 20 ", 20),
        ("Fri, 02 Jan 2026 03:04:25 GMT", 20),
        ("100000", 120),
        ("0", 0),
        ("Fri, 02 Jan 2026 03:04:04 GMT", 0),
        ("soon", 0),
        ("-5", 0),
        ("1e9", 0),
        ("nan", 0),
        ("", 0),
    ],
)
def test_the_pause_is_as_long_as_snowflake_asks_for(
    snowflake: Snowflake,
    hook: DataShareSnowflakeHook,
    pauses: list[float],
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    paused: float,
) -> None:
    clock = mock.Mock(now=lambda zone: datetime(2026, 1, 2, 3, 4, 5, tzinfo=zone))
    monkeypatch.setattr(classify, "datetime", clock)
    busy = with_header(response(503, {}), asked)
    still_running = with_header(response(429, {"statementHandle": HANDLE}), asked)
    snowflake.will(busy, STARTED, busy, still_running, DONE)
    hook.run_statement("SELECT 1")
    submission, first, look, running = pauses
    assert first == 0.125
    for pause, least in ((submission, 1), (look, 1), (running, 0.125)):
        assert max(paused, least) <= pause <= max(paused, 1.5 * least)


def test_no_pause_is_longer_than_a_statement_may_run(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    hook.statement_timeout = 10
    # Each call takes 10 seconds, so the time is over 70 seconds after the first look's beginning.
    monkeypatch.setattr(time, "monotonic", lambda: 10.0 * len(snowflake.calls))
    busy = with_header(response(503, {}), "100")
    snowflake.will(STARTED, *[busy] * 7, CANCELLED)
    with pytest.raises(SnowflakeTransientError, match=f"; the step stopped waiting for query {HANDLE}"):
        hook.run_statement("SELECT 1")
    assert pauses[1:] == [60, 50, 40, 30, 20, 10]


def test_a_hook_may_have_less_patience(snowflake: Snowflake, monkeypatch: pytest.MonkeyPatch) -> None:
    make_hook(monkeypatch)
    hook = DataShareSnowflakeHook("snowflake_default", tries=2)
    snowflake.will(STARTED, LOST, LOST, CANCELLED)
    with pytest.raises(SnowflakeTransientError):
        hook.run_statement("SELECT 1")


def test_parts_of_a_result_are_asked_for_again(snowflake: Snowflake, hook: DataShareSnowflakeHook) -> None:
    found = rows([column("N", "fixed", 0)], [["1"]], partitions=2)
    snowflake.will(STARTED, found, *TROUBLES.values(), RUNNING)
    with pytest.raises(SnowflakeTransientError, match="part 1"):
        hook.run_statement("SELECT n FROM t")
    snowflake.will(STARTED, found, *list(TROUBLES.values())[1:], RUNNING, response(200, {"data": [["2"]]}))
    assert [row["N"] for row in hook.run_statement("SELECT n FROM t").rows] == [1, 2]


# ---- certificates


def not_trusted(told: str) -> requests.exceptions.SSLError:
    """Return the error that requests makes of a certificate that is not trusted."""
    cause = urllib3.exceptions.SSLError(ssl.SSLCertVerificationError(1, told))
    pool = urllib3.HTTPSConnectionPool("myorg-data_share.snowflakecomputing.com")
    return requests.exceptions.SSLError(urllib3.exceptions.MaxRetryError(pool, "/api", cause))


@pytest.mark.parametrize(
    "trouble",
    [
        not_trusted("certificate verify failed: Hostname mismatch, certificate is not valid for 'myorg-data_share'"),
        not_trusted("certificate verify failed: unable to get local issuer certificate"),
        not_trusted("certificate verify failed: certificate has expired"),
        OSError("Could not find a suitable TLS CA certificate bundle, invalid path: /etc/ca.pem"),
        response(522, {"code": "0", "message": "Invalid SSL Certificate"}),
    ],
    ids=["host name", "authority", "expired", "no authorities", "522"],
)
def test_a_certificate_that_is_refused_is_refused_again(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, trouble: requests.Response | Exception
) -> None:
    snowflake.will(trouble)
    with pytest.raises(SnowflakeRefusedError, match="REQUESTS_CA_BUNDLE") as caught:
        hook.run_statement("SELECT 1")
    assert (caught.value.code, caught.value.retriable) == (FailureCode.CERTIFICATE_REFUSED, False)
    assert isinstance(caught.value, AirflowFailException), "another attempt cannot help"


def test_a_connection_that_is_lost_while_tls_is_set_up_is_a_lost_connection(
    snowflake: Snowflake, hook: DataShareSnowflakeHook
) -> None:
    snowflake.will(requests.exceptions.SSLError(ssl.SSLEOFError(8, "EOF occurred in violation of protocol")))
    snowflake.will(STARTED, DONE)
    hook.run_statement("SELECT 1")


@pytest.mark.parametrize("trouble", [requests.exceptions.InvalidURL("no host"), ValueError("a login is missing")])
def test_a_call_that_cannot_be_made_is_not_repeated(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, trouble: Exception
) -> None:
    snowflake.will(trouble)
    with pytest.raises(SnowflakeRefusedError) as caught:
        hook.run_statement("SELECT 1")
    assert caught.value.code is FailureCode.SNOWFLAKE_SIGN_IN


# ---- waiting


def test_a_statement_is_waited_for_in_growing_steps(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each step in one piece.
    monkeypatch.setattr(sql_api, "_MAX_SLEEP_SECONDS", 60)
    snowflake.will(STARTED, *[RUNNING] * 20, DONE)
    hook.run_statement("SELECT 1")
    assert hook.query_ids == [HANDLE]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (0.125, 5.0)


def test_a_step_that_is_killed_looks_at_once_what_became_of_its_statement(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        # In the middle of a pause of five seconds.
        hook.is_stopped = sum(slept) > 22

    monkeypatch.setattr(time, "sleep", sleep)
    snowflake.will(STARTED, *[RUNNING] * 16, failed("000604", "SQL execution canceled"))
    with pytest.raises(SnowflakeStoppedError):
        hook.run_statement("SELECT 1")
    assert max(slept) <= 0.2
    assert sum(slept) < 22.7


def test_a_statement_that_never_ends_is_cancelled(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook.statement_timeout = 100
    # Each call takes 50 seconds; the deadline is 100 + 60 seconds after the first.
    monkeypatch.setattr(time, "monotonic", lambda: 50.0 * len(snowflake.calls))
    snowflake.will(STARTED, *[RUNNING] * 4, response(200, {"message": "cancelled"}))
    with pytest.raises(
        SnowflakeTransientError, match=f"Snowflake has not ended query {HANDLE} 60 s after its time-out of 100 s"
    ):
        hook.run_statement("SELECT 1")
    assert snowflake.paths == ["post", *[f"get /{HANDLE}"] * 4, f"post /{HANDLE}/cancel"]


def test_a_statement_that_cannot_be_cancelled_still_says_that_it_took_too_long(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook.statement_timeout = 100
    monkeypatch.setattr(time, "monotonic", lambda: 50.0 * len(snowflake.calls))
    snowflake.will(STARTED, *[RUNNING] * 4, response(400, {"code": "000709", "message": "no such statement"}))
    with pytest.raises(SnowflakeTransientError, match=r"could not be cancelled: Snowflake refuses .*no such"):
        hook.run_statement("SELECT 1")


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        (requests.ConnectionError("no route"), FailureCode.SNOWFLAKE_UNAVAILABLE),
        (requests.HTTPError(response=response(401, {"message": "expired"})), FailureCode.SNOWFLAKE_SIGN_IN),
    ],
    ids=["no answer", "refused"],
)
def test_a_token_that_cannot_be_had_is_snowflakes_failure(
    hook: DataShareSnowflakeHook, monkeypatch: pytest.MonkeyPatch, trouble: Exception, code: FailureCode
) -> None:
    monkeypatch.setattr(DataShareSnowflakeHook, "_get_conn_params", mock.Mock(spec=["__call__"], side_effect=trouble))
    with pytest.raises(ShareError) as caught:
        hook.run_statement("SELECT 1")
    assert caught.value.code is code


# ---- being stopped


def test_a_statement_that_runs_is_cancelled_and_none_follows(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    snowflake.will(STARTED, CANCELLED, failed("000604", "SQL execution canceled"))
    monkeypatch.setattr(time, "sleep", lambda _: hook.stop())
    with pytest.raises(SnowflakeStoppedError, match="cancelled"):
        hook.run_statement("SELECT 1")
    with pytest.raises(SnowflakeStoppedError):
        hook.run_statements(["BEGIN", "COMMIT"])
    assert snowflake.paths == ["post", f"post /{HANDLE}/cancel", f"get /{HANDLE}"]


@pytest.mark.parametrize("method", ["run_statement", "run_statements"])
def test_what_was_submitted_and_is_not_answered_yet_is_cancelled_by_the_same_request(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The signal comes while the answer is waited for: in the middle of the first call."""
    sql = "INSERT INTO a SELECT 1"
    request = snowflake.request
    stops = [hook.stop]

    def interrupted(*args: Any, **call: Any) -> requests.Response:
        if stops:
            stops.pop()()
        return request(*args, **call)

    monkeypatch.setattr(requests.Session.request, "side_effect", interrupted)
    snowflake.will(STARTED, CANCELLED, STARTED, failed("000604", "SQL execution canceled"))
    with pytest.raises(SnowflakeStoppedError, match="cancelled"):
        getattr(hook, method)(sql if method == "run_statement" else [sql, sql], request_id=uuid.UUID(int=7))
    submissions = [call for call in snowflake.calls if call["url"] == STATEMENTS]
    assert {call["params"]["requestId"] for call in submissions} == {str(uuid.UUID(int=7))}
    # The call that was interrupted comes last here, as it is noted when it is answered.
    assert [call["params"].get("retry") for call in submissions] == ["true", None]
    assert all(call["json"] == submissions[0]["json"] for call in submissions)
    assert snowflake.paths == ["post", f"post /{HANDLE}/cancel", "post", f"get /{HANDLE}"]


def test_two_statements_of_one_request_are_both_cancelled(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes as the first request is about to leave: without ``retry``, it begins the statement again."""
    other = "01b2c3d4-0000-1111-0000-00000000ffff"
    request = snowflake.request
    stops = [hook.stop]

    def interrupted(*args: Any, **call: Any) -> requests.Response:
        if stops:
            stops.pop()()
        return request(*args, **call)

    monkeypatch.setattr(requests.Session.request, "side_effect", interrupted)
    second = response(202, {"statementHandle": other})
    snowflake.will(STARTED, CANCELLED, second, CANCELLED, failed("000604", "SQL execution canceled"))
    with pytest.raises(SnowflakeStoppedError):
        hook.run_statement("INSERT INTO a SELECT 1")
    assert snowflake.paths == ["post", f"post /{HANDLE}/cancel", "post", f"post /{other}/cancel", f"get /{other}"]


@pytest.mark.parametrize("at", ["submission", "look"])
def test_a_kill_works_at_once_during_a_pause(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        # In the pause of sixteen seconds, which follows those of one, two, four and eight.
        if sum(slept) > 25 and not hook.is_stopped:
            slept.clear()
            hook.stop()

    monkeypatch.setattr(time, "sleep", sleep)
    if at == "submission":
        snowflake.will(*[LOST] * 5, LOST, STARTED, CANCELLED)
        asked = ["post"] * 7 + [f"post /{HANDLE}/cancel"]
    else:
        snowflake.will(STARTED, *[LOST] * 5, LOST, CANCELLED, failed("000604", "SQL execution canceled"))
        asked = ["post", *[f"get /{HANDLE}"] * 5, *[f"post /{HANDLE}/cancel"] * 2, f"get /{HANDLE}"]
    with pytest.raises(SnowflakeStoppedError):
        hook.run_statement("INSERT INTO a SELECT 1")
    assert snowflake.paths == asked
    if at == "submission":
        asked_for_handle = ["async" in call["params"] for call in snowflake.calls[:7]]
        assert asked_for_handle == [False] * 5 + [True] * 2, "whoever kills has no time to wait for the result"
    assert sum(slept) <= 0.5, "what the one lost answer costs"


def test_a_killed_step_that_hears_nothing_more_ends(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None if hook.is_stopped else hook.stop())
    snowflake.will(STARTED, CANCELLED, LOST)
    with pytest.raises(SnowflakeStoppedError, match="the outcome of its statement is unknown"):
        hook.run_statement("SELECT 1")


def test_a_kill_while_snowflake_works_on_a_short_statement_cancels_it(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(hook: DataShareSnowflakeHook, *arguments: Any, **options: Any) -> Any:
        """Let the signal come while the first call waits for its answer."""
        if not snowflake.calls and not hook.is_stopped:
            arguments[2]()
            hook.stop()
        return make_call(hook, *arguments, **options)

    make_call = DataShareSnowflakeHook._call
    monkeypatch.setattr(DataShareSnowflakeHook, "_call", call)
    snowflake.will(STARTED, CANCELLED, failed("000604", "SQL execution canceled", status=408))
    with pytest.raises(SnowflakeStoppedError, match="its statement was cancelled"):
        hook.run_statement("INSERT INTO a SELECT 1")
    assert snowflake.paths == ["post", f"post /{HANDLE}/cancel", "post"]
    assert snowflake.calls[0]["params"]["async"] == snowflake.calls[0]["params"]["retry"] == "true"


def test_a_statement_that_was_not_sent_is_not_begun_by_the_kill(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook, "_unless_stopped", mock.Mock(side_effect=lambda call: hook.stop() or call))
    snowflake.will(STARTED, CANCELLED, failed("000604", "SQL execution canceled"))
    with pytest.raises(SnowflakeStoppedError):
        hook.run_statement("SELECT 1")
    assert snowflake.paths == ["post", f"post /{HANDLE}/cancel", f"get /{HANDLE}"]


def test_nothing_is_cancelled_when_nothing_runs(snowflake: Snowflake, hook: DataShareSnowflakeHook) -> None:
    hook.stop()
    assert snowflake.calls == []
    hook.is_stopped = False
    snowflake.will(STARTED, DONE, STARTED, failed())
    hook.run_statement("SELECT 1")
    with pytest.raises(SnowflakeStatementError):
        hook.run_statement("SELECT 1")
    hook.stop()
    assert not any("cancel" in path for path in snowflake.paths)


# ---- failing


@pytest.mark.parametrize("answers", [[failed()], [STARTED, failed()], [STARTED, RUNNING, failed()]])
def test_a_failed_statement_says_why_and_which(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, answers: list[requests.Response]
) -> None:
    snowflake.will(*answers)
    with pytest.raises(SnowflakeStatementError) as caught:
        hook.run_statement("SELECT * FROM x")
    assert caught.value.message == f"Snowflake: Object 'X' does not exist (code 002003, query id {HANDLE})."
    assert caught.value.snowflake_query_id == HANDLE
    assert isinstance(caught.value, AirflowFailException)


def test_a_statement_that_snowflake_stopped_at_its_time_out_has_failed(
    snowflake: Snowflake, hook: DataShareSnowflakeHook
) -> None:
    snowflake.will(STARTED, failed("000630", "Statement reached its statement timeout", status=408))
    with pytest.raises(SnowflakeStatementError, match=r"reached its statement timeout \(code 000630") as caught:
        hook.run_statement("SELECT 1")
    assert caught.value.code is FailureCode.LOAD_TIMED_OUT
    assert "load_timeout_minutes" in str(caught.value)


def test_a_transaction_that_snowflake_stopped_at_its_time_out_is_known_by_its_words(
    snowflake: Snowflake, hook: DataShareSnowflakeHook
) -> None:
    said = "Uncaught: Statement reached its statement or warehouse timeout of 7 second(s) and was canceled."
    snowflake.will(STARTED, failed("100132", said))
    with pytest.raises(SnowflakeStatementError) as caught:
        hook.run_statements(["BEGIN", "COMMIT"])
    assert caught.value.code is FailureCode.LOAD_TIMED_OUT


@pytest.mark.parametrize("code", ["000603", "000625"])
def test_a_reason_that_may_pass_is_left_to_the_next_attempt_of_the_task(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, code: str
) -> None:
    snowflake.will(STARTED, failed(code, "Lock timeout"))
    with pytest.raises(SnowflakeTransientError, match=rf"Lock timeout \(code {code}") as caught:
        hook.run_statement("SELECT 1")
    assert isinstance(caught.value, AirflowException)
    assert not isinstance(caught.value, AirflowFailException)


def test_a_transaction_fails_like_a_statement(snowflake: Snowflake, hook: DataShareSnowflakeHook) -> None:
    snowflake.will(STARTED, failed("100132", "JavaScript execution error"))
    with pytest.raises(SnowflakeStatementError, match="100132"):
        hook.run_statements(["BEGIN", "COMMIT"])


@pytest.mark.parametrize(
    "reason",
    [
        "SQL execution internal error:\nProcessing aborted by error 300010:391167117",
        "Statement '01b4' has locked table 'SYNC_HISTORY' in transaction 1715 and this lock has not yet been released.",
    ],
)
def test_a_reason_that_may_pass_is_known_in_a_transaction_too(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, reason: str
) -> None:
    snowflake.will(STARTED, failed("100132", f"JavaScript execution error: Uncaught Execution failed.\n{reason}"))
    with pytest.raises(SnowflakeTransientError):
        hook.run_statements(["BEGIN", "COMMIT"])


def test_an_answer_without_a_statement_is_a_failure(snowflake: Snowflake, hook: DataShareSnowflakeHook) -> None:
    snowflake.will(response(200, {}))
    with pytest.raises(SnowflakeStatementError, match="query id None"):
        hook.run_statement("SELECT 1")


def assert_no_secret(text: str, snowflake: Snowflake) -> None:
    token = snowflake.calls[0]["headers"]["Authorization"].removeprefix("Bearer ")
    assert token not in text
    assert PEM.splitlines()[1] not in text


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, FailureCode.SNOWFLAKE_SIGN_IN), (403, FailureCode.SNOWFLAKE_SIGN_IN), (400, FailureCode.SNOWFLAKE_REFUSED)],
)
def test_a_refused_request_says_what_snowflake_said_and_no_secret(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, status: int, code: FailureCode
) -> None:
    snowflake.will(response(status, {"code": "390144", "message": "JWT token is invalid."}))
    with pytest.raises(SnowflakeRefusedError) as caught:
        hook.run_statement("SELECT 1")
    assert caught.value.message == (
        f"Snowflake refuses the request with HTTP {status}: JWT token is invalid. (code 390144)."
    )
    assert caught.value.code is code
    assert isinstance(caught.value, AirflowFailException)
    assert_no_secret(str(caught.value), snowflake)
    assert len(snowflake.calls) == 1


def test_a_refusal_by_something_in_between_is_told_by_its_reason(
    snowflake: Snowflake, hook: DataShareSnowflakeHook
) -> None:
    snowflake.will(response(403, "<html>blocked by the proxy</html>"))
    with pytest.raises(SnowflakeRefusedError, match=r"with HTTP 403: the reason\. Check user"):
        hook.run_statement("SELECT 1")


def test_the_log_holds_the_statement_and_no_secret(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, capsys: pytest.CaptureFixture[str]
) -> None:
    snowflake.will(STARTED, DONE)
    hook.run_statement("SELECT 'the statement'")
    captured = capsys.readouterr()
    log = captured.out + captured.err
    assert "SELECT 'the statement'" in log
    assert HANDLE in log
    assert_no_secret(log, snowflake)


# ---- rows


def column(name: str, kind: str, scale: int | None = None) -> dict[str, Any]:
    return {"name": name, "type": kind, "scale": scale, "nullable": True}


@pytest.mark.parametrize(
    ("kind", "scale", "text", "value"),
    [
        ("fixed", 0, "42", 42),
        ("fixed", 0, "-99999999999999999999999999999999999999", -99999999999999999999999999999999999999),
        ("fixed", 2, "1.50", Decimal("1.50")),
        ("FIXED", 0, "7", 7),
        ("real", None, "1.25", 1.25),
        ("real", None, "-1.5e-3", -0.0015),
        ("text", None, "words", "words"),
        ("text", None, "", ""),
        ("boolean", None, "true", True),
        ("boolean", None, "false", False),
        ("date", None, "20455", date(2026, 1, 2)),
        ("date", None, "-1", date(1969, 12, 31)),
        ("timestamp_ntz", 9, "1767323045.123456000", datetime(2026, 1, 2, 3, 4, 5, 123456)),
        ("timestamp_ntz", 9, "-0.500000000", datetime(1969, 12, 31, 23, 59, 59, 500000)),
        ("timestamp_ltz", 9, "1767323045.000000000", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("timestamp_tz", 9, "1767323045.000000000 1500", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("variant", None, '{"a": 1}', '{"a": 1}'),
        ("time", 9, "82919.000000000", "82919.000000000"),
    ],
)
def test_each_type_becomes_its_python_value(
    snowflake: Snowflake, hook: DataShareSnowflakeHook, kind: str, scale: int | None, text: str, value: Any
) -> None:
    snowflake.will(STARTED, rows([column("V", kind, scale)], [[text], [None]]))
    answered = hook.run_statement("SELECT v FROM t").rows
    assert answered == [{"V": value}, {"V": None}]
    assert type(answered[0]["V"]) is type(value)


def test_all_partitions_of_an_answer_are_fetched(snowflake: Snowflake, hook: DataShareSnowflakeHook) -> None:
    snowflake.will(
        STARTED,
        rows([column("N", "fixed", 0)], [["1"], ["2"]], partitions=3),
        response(200, {"data": [["3"]]}),
        response(200, {"data": [["4"], ["5"]]}),
    )
    result = hook.run_statement("SELECT n FROM t")
    assert [row["N"] for row in result.rows] == [1, 2, 3, 4, 5]
    assert result.query_id == HANDLE
    assert [call["params"] for call in snowflake.calls[2:]] == [{"partition": "1"}, {"partition": "2"}]
    assert snowflake.paths[2:] == [f"get /{HANDLE}"] * 2


def test_a_row_with_other_columns_than_announced_is_an_error(
    snowflake: Snowflake, hook: DataShareSnowflakeHook
) -> None:
    snowflake.will(STARTED, rows([column("A", "text"), column("B", "text")], [["only one"]]))
    with pytest.raises(ValueError, match="zip"):
        hook.run_statement("SELECT a, b FROM t")


# ---- the statements of a file


def test_a_file_is_split_into_its_statements_without_comments() -> None:
    sql = "-- a; b\nSELECT 'x; -- no';\n/* c; */\nSELECT ?, '--' -- d\n;\n-- the end"
    assert DataShareSnowflakeHook.split_sql_string(sql, strip_semicolon=True) == ["SELECT 'x; -- no'", "SELECT ?, '--'"]


@pytest.mark.parametrize("name", ["a;b", "--", "/* c", "//", "it's", 'say ""hi""', "a\\", "$$", "line\nbreak"])
def test_a_name_in_quotes_ends_no_statement_and_begins_no_comment(name: str) -> None:
    statements = [f"INSERT INTO t (\"{name}\", \"b\") SELECT 1, 'it''s; \\'; --'", f'DELETE FROM "{name}"']
    sql = ";\n".join([*statements, "/* the end; */"])
    assert DataShareSnowflakeHook.split_sql_string(sql, strip_semicolon=True) == statements


def test_a_statement_may_have_any_number_of_columns() -> None:
    merge = "MERGE INTO a USING b ON a.k = b.k WHEN MATCHED THEN UPDATE SET " + ", ".join(
        f'a."COLUMN_{number}" = b."COLUMN_{number}"' for number in range(2000)
    )
    assert DataShareSnowflakeHook.split_sql_string(f"{merge};COMMIT;", strip_semicolon=True) == [merge, "COMMIT"]
