"""Who may log in, by the SQL API and by the connector."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import jwt
import pytest
import snowflake.connector
from cryptography.hazmat.primitives.asymmetric import rsa

from emulators.snowflake.auth import AuthError, KeyPairAuthenticator

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

STATEMENT = {"statement": "SELECT CURRENT_USER()"}
KIND = "X-Snowflake-Authorization-Token-Type"


def ask(url: str, token: str | None, **headers: str) -> httpx.Response:
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return httpx.post(f"{url}/api/v2/statements", json=STATEMENT, headers=headers, timeout=10)


def test_a_good_token_is_accepted(url: str, tools: Any) -> None:
    # Without the header, Snowflake looks at the token.
    for headers in ({}, {KIND: "KEYPAIR_JWT"}):
        answer = ask(url, tools.token(), **headers)
        assert (answer.status_code, answer.json().get("data")) == (200, [["SHARE_SVC"]])


@pytest.mark.parametrize(
    "options",
    [
        {"age": 3500, "life": 3000},
        {"age": 3700, "life": 7200},
        {"age": -300},
        {"account": "OTHER"},
        {"account": "myorg-share"},
        {"user": "NOBODY"},
        {"iss": "MYORG-SHARE.SHARE_SVC"},
        {"iss": "MYORG-SHARE.SHARE_SVC.SHA256:abc="},
        {"iss": "OTHER.SHARE_SVC.{fingerprint}"},
        {"iss": "MYORG-SHARE.ADMIN.{fingerprint}"},
        {"sub": "MYORG-SHARE"},
        {"sub": "OTHER.SHARE_SVC"},
        {"sub": "MYORG-SHARE.ADMIN"},
        {"iss": None},
        {"sub": None},
        {"iat": None},
        {"exp": None},
        {"iat": "today"},
    ],
    ids=str,
)
def test_a_bad_token_is_refused(url: str, tools: Any, options: dict[str, Any]) -> None:
    options = dict(options)
    if isinstance(options.get("iss"), str):
        options["iss"] = options["iss"].format(fingerprint=tools.public_fingerprint(tools.KEY))
    answer = ask(url, tools.token(**options), **{KIND: "KEYPAIR_JWT"})
    assert answer.status_code == 401
    assert answer.json()["code"] == "390144"
    assert answer.json()["message"].startswith("JWT token is invalid. [")


def test_the_key_must_be_the_registered_one(url: str, tools: Any) -> None:
    issuer = f"MYORG-SHARE.SHARE_SVC.{tools.public_fingerprint(tools.KEY)}"
    for token in (tools.token(key=tools.OTHER_KEY), tools.token(key=tools.OTHER_KEY, iss=issuer), "nonsense"):
        assert ask(url, token, **{KIND: "KEYPAIR_JWT"}).json()["code"] == "390144"


def test_a_token_must_be_signed_with_rsa(url: str, tools: Any) -> None:
    now = int(time.time())
    claims = {
        "iss": f"MYORG-SHARE.SHARE_SVC.{tools.public_fingerprint(tools.KEY)}",
        "sub": "MYORG-SHARE.SHARE_SVC",
        "iat": now,
        "exp": now + 60,
    }
    for token in (jwt.encode(claims, None, algorithm="none"), jwt.encode(claims, "s" * 32, algorithm="HS256")):
        assert ask(url, token, **{KIND: "KEYPAIR_JWT"}).json()["code"] == "390144"


def test_a_token_is_needed(url: str) -> None:
    answer = ask(url, None)
    assert (answer.status_code, answer.json()["code"]) == (401, "390101")
    assert httpx.get(f"{url}/_sandbox/statements").status_code == 401
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_a_programmatic_access_token(url: str, tools: Any) -> None:
    for headers in ({}, {KIND: "PROGRAMMATIC_ACCESS_TOKEN"}):
        answer = ask(url, tools.ACCESS_TOKEN, **headers)
        assert (answer.status_code, answer.json().get("data")) == (200, [["SHARE_SVC"]])
    for token in (tools.EXPIRED_ACCESS_TOKEN, tools.ACCESS_TOKEN + "x", tools.token()):
        answer = ask(url, token, **{KIND: "PROGRAMMATIC_ACCESS_TOKEN"})
        assert answer.status_code == 401
        assert answer.json() == {"code": "394400", "message": "Programmatic access token is invalid."}


def oauth_token(url: str, client: Any, **changed: str) -> httpx.Response:
    form = {"grant_type": "refresh_token", "refresh_token": client.refresh_token, **changed}
    return httpx.post(f"{url}/oauth/token-request", data=form, auth=(client.client_id, client.client_secret))


def test_an_oauth_token(url: str, tools: Any) -> None:
    issued = oauth_token(url, tools.CLIENT)
    assert issued.status_code == 200
    body = issued.json()
    assert (body["token_type"], body["expires_in"], body["username"]) == ("Bearer", 600, "SHARE_SVC")
    for headers in ({}, {KIND: "OAUTH"}):
        answer = ask(url, body["access_token"], **headers)
        assert (answer.status_code, answer.json().get("data")) == (200, [["SHARE_SVC"]])
    for token, headers in (("nonsense", {}), (tools.token(), {KIND: "OAUTH"}), (tools.ACCESS_TOKEN, {KIND: "OAUTH"})):
        answer = ask(url, token, **headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "390303")
        assert answer.json()["message"].startswith("Invalid OAuth access token. [")


def test_an_oauth_token_ends(url: str, tools: Any) -> None:
    token = oauth_token(url, tools.SHORT_CLIENT).json()["access_token"]
    answer = ask(url, token, **{KIND: "OAUTH"})
    assert (answer.status_code, answer.json()["code"]) == (401, "390318")


def test_who_gets_no_oauth_token(url: str, tools: Any) -> None:
    stranger = tools.OAuthClient("stranger", "SHARE_SVC", "client-secret", "refresh-me")
    thief = tools.OAuthClient("airflow", "SHARE_SVC", "guessed", "refresh-me")
    for client in (stranger, thief):
        answer = oauth_token(url, client)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_client")
    assert oauth_token(url, tools.CLIENT, refresh_token="guessed").json()["error"] == "invalid_grant"
    assert oauth_token(url, tools.CLIENT, grant_type="password").json()["error"] == "unsupported_grant_type"
    assert httpx.post(f"{url}/oauth/token-request").json()["error"] == "invalid_client"


def test_kinds_of_token_that_there_are_not(url: str, tools: Any) -> None:
    assert ask(url, tools.token(), **{KIND: "SESSION"}).status_code == 401
    answer = httpx.post(f"{url}/api/v2/statements", json=STATEMENT, auth=("SHARE_SVC", "secret"))
    assert answer.status_code == 401


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


def test_the_connector_logs_in_with_tokens(connect: Any, url: str, tools: Any) -> None:
    oauth = oauth_token(url, tools.CLIENT).json()["access_token"]
    for options in (
        {"authenticator": "PROGRAMMATIC_ACCESS_TOKEN", "token": tools.ACCESS_TOKEN},
        {"password": tools.ACCESS_TOKEN},
        {"authenticator": "OAUTH", "token": oauth},
    ):
        with connect(private_key=None, **options) as connection, connection.cursor() as cursor:
            assert cursor.execute("SELECT CURRENT_USER()").fetchone() == ("SHARE_SVC",)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"authenticator": "PROGRAMMATIC_ACCESS_TOKEN", "token": "guessed"}, 394400),
        ({"authenticator": "PROGRAMMATIC_ACCESS_TOKEN", "token": "{pat}", "user": "ADMIN"}, 394400),
        ({"password": "{pat}", "user": "ADMIN"}, 390100),
        ({"authenticator": "OAUTH", "token": "guessed"}, 390303),
        ({"authenticator": "OAUTH", "token": "{oauth}", "user": "ADMIN"}, 390309),
    ],
)
def test_the_connector_is_refused_with_wrong_tokens(
    connect: Any, url: str, tools: Any, options: dict[str, str], code: int
) -> None:
    oauth = oauth_token(url, tools.CLIENT).json()["access_token"]
    options = {name: value.format(pat=tools.ACCESS_TOKEN, oauth=oauth) for name, value in options.items()}
    with pytest.raises(snowflake.connector.errors.DatabaseError) as error:
        connect(private_key=None, **options)
    assert str(code) in str(error.value) or error.value.errno == code


def test_a_service_user_has_no_password(connect: Any) -> None:
    with pytest.raises(snowflake.connector.errors.DatabaseError, match="Incorrect username or password was specified"):
        connect(private_key=None, password="secret")


def test_login_to_a_role_that_does_not_exist(connect: Any, api: Any) -> None:
    with pytest.raises(snowflake.connector.errors.DatabaseError, match="does not exist or not authorized"):
        connect(role="NOPE")
    answer = api.post("SELECT 1", role="NOPE")
    assert (answer.status_code, answer.json()["code"]) == (400, "390189")
    assert "NOPE" in json.dumps(answer.json())
