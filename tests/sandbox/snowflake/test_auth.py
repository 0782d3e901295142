"""Who may log in, by the SQL API and by the connector."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import snowflake.connector
from cryptography.hazmat.primitives.asymmetric import rsa

from sandbox.snowflake.auth import AuthError, KeyPairAuthenticator

pytestmark = pytest.mark.sandbox

STATEMENT = {"statement": "SELECT 1"}


def ask(url: str, token: str | None, **headers: str) -> httpx.Response:
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return httpx.post(f"{url}/api/v2/statements", json=STATEMENT, headers=headers, timeout=10)


def test_a_good_token_is_accepted(url: str, tools: Any) -> None:
    assert ask(url, tools.token()).status_code == 200
    assert ask(url, tools.token(), **{"X-Snowflake-Authorization-Token-Type": "KEYPAIR_JWT"}).status_code == 200


@pytest.mark.parametrize(
    "options",
    [
        {"age": 3500, "life": 3000},
        {"age": 3700, "life": 7200},
        {"age": -300},
        {"account": "OTHER"},
        {"account": "myorg-share"},
        {"user": "NOBODY"},
    ],
    ids=["expired", "older than an hour", "issued in the future", "wrong account", "lower case", "unknown user"],
)
def test_a_bad_token_is_refused(url: str, tools: Any, options: dict[str, Any]) -> None:
    answer = ask(url, tools.token(**options))
    assert answer.status_code == 401
    assert answer.json()["code"] == "390144"
    assert answer.json()["message"].startswith("JWT token is invalid. [")


def test_the_key_must_be_the_registered_one(url: str, tools: Any) -> None:
    assert ask(url, tools.token(key=tools.OTHER_KEY)).json()["code"] == "390144"
    assert ask(url, "nonsense").json()["code"] == "390144"


def test_a_token_is_needed(url: str) -> None:
    answer = ask(url, None)
    assert (answer.status_code, answer.json()["code"]) == (401, "390101")
    assert httpx.get(f"{url}/_sandbox/statements").status_code == 401
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_other_kinds_of_token_are_refused(url: str, tools: Any) -> None:
    header = "X-Snowflake-Authorization-Token-Type"
    assert ask(url, tools.token(), **{header: "OAUTH"}).json()["code"] == "390303"
    assert ask(url, tools.token(), **{header: "PROGRAMMATIC_ACCESS_TOKEN"}).json()["code"] == "394400"


def test_a_region_is_no_part_of_the_account(tools: Any) -> None:
    check = KeyPairAuthenticator("xy12345.eu-central-1", {"u": tools.public_pem(tools.KEY)})
    assert check.verify(tools.token(account="XY12345", user="U")) == "U"
    with pytest.raises(AuthError, match="JWT token is invalid"):
        check.verify(tools.token(account="XY12345.EU-CENTRAL-1", user="U"))


def test_the_connector_logs_in_with_a_key_pair(connect: Any) -> None:
    with connect() as connection, connection.cursor() as cursor:
        assert cursor.execute("SELECT CURRENT_USER(), CURRENT_ROLE(), CURRENT_WAREHOUSE()").fetchone() == (
            "SHARE_SVC",
            "DATA_SHARE_LOADER",
            "LOAD_WH",
        )


def test_the_connector_is_refused_with_another_key(connect: Any, tools: Any) -> None:
    key: rsa.RSAPrivateKey = tools.OTHER_KEY
    with pytest.raises(snowflake.connector.errors.DatabaseError, match="JWT token is invalid"):
        connect(private_key=tools.private_der(key))


def test_a_service_user_has_no_password(connect: Any) -> None:
    with pytest.raises(snowflake.connector.errors.DatabaseError, match="Incorrect username or password was specified"):
        connect(private_key=None, password="secret")


def test_login_to_a_role_that_does_not_exist(connect: Any, api: Any) -> None:
    with pytest.raises(snowflake.connector.errors.DatabaseError, match="does not exist or not authorized"):
        connect(role="NOPE")
    answer = api.post("SELECT 1", role="NOPE")
    assert (answer.status_code, answer.json()["code"]) == (400, "390189")
    assert "NOPE" in json.dumps(answer.json())
