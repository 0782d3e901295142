"""What people write into a connection to Snowflake: it works, or they are told what is wrong with it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from airflow.sdk.exceptions import AirflowFailException
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from data_share.outcome.codes import FailureCode
from data_share.snowflake.connection import InvalidConnectionError, account_of, address_of, private_key_of
from data_share.snowflake.sql_api import DataShareSnowflakeHook

COM = "snowflakecomputing.com"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PASSPHRASE = "a passphrase"


def pem(key: Any = KEY, form: PrivateFormat = PrivateFormat.PKCS8, passphrase: str = "") -> str:
    """Return a private key as its file has it."""
    encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    return str(key.private_bytes(Encoding.PEM, form, encryption).decode())


PLAIN = pem()
ENCRYPTED = pem(passphrase=PASSPHRASE)
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def hook_of(monkeypatch: pytest.MonkeyPatch, password: str = "", **extra: Any) -> DataShareSnowflakeHook:
    connection = {"conn_type": "snowflake", "login": "SHARE_SVC", "password": password, "schema": "PUBLIC"}
    extra = {"account": "MYORG-SHARE", "private_key_content": PLAIN, **extra}
    monkeypatch.setenv("AIRFLOW_CONN_SNOWFLAKE_DEFAULT", json.dumps({**connection, "extra": extra}))
    return DataShareSnowflakeHook("snowflake_default")


def assert_told(error: InvalidConnectionError, words: str) -> None:
    """Fail unless the error is the connection's fault, and says which."""
    assert words in error.message
    assert error.code is FailureCode.SNOWFLAKE_SIGN_IN
    assert not error.retriable
    assert isinstance(error, AirflowFailException), "another attempt cannot help"


# ---- accounts


@pytest.mark.parametrize(
    ("account", "region", "host"),
    [
        ("MYORG-SHARE", "", f"MYORG-SHARE.{COM}"),
        # Underscores, in both forms of an identifier.
        ("MYORG-DATA_SHARE", "", f"MYORG-DATA-SHARE.{COM}"),
        ("acme-marketing_test_account", "", f"acme-marketing-test-account.{COM}"),
        ("myorg-data_share.privatelink", "", f"myorg-data-share.privatelink.{COM}"),
        # Blanks, and the whole address.
        (" MYORG-SHARE\n", "", f"MYORG-SHARE.{COM}"),
        (f"myorg-share.{COM}", "", f"myorg-share.{COM}"),
        (f"https://myorg-share.{COM}", "", f"myorg-share.{COM}"),
        (f"HTTPS://MYORG-SHARE.{COM.upper()}/console/login?x=1#top", "", f"MYORG-SHARE.{COM}"),
        (f"myorg-share.{COM}:443", "", f"myorg-share.{COM}"),
        (f"https://myorg-data_share.privatelink.{COM}/", "", f"myorg-data-share.privatelink.{COM}"),
        ("https://myorg-share.snowflakecomputing.cn", "", "myorg-share.snowflakecomputing.cn"),
        # Locators, with their region in one extra, in the other, and in both.
        ("xy12345", "", f"xy12345.{COM}"),
        ("xy12345.eu-central-1", "", f"xy12345.eu-central-1.{COM}"),
        ("xy12345.us-east-2.aws", "", f"xy12345.us-east-2.aws.{COM}"),
        ("xy12345", "us-east-2.aws", f"xy12345.us-east-2.aws.{COM}"),
        ("xy12345.eu-central-1", "eu-central-1", f"xy12345.eu-central-1.{COM}"),
        ("xy12345.EU-CENTRAL-1", " eu-central-1 ", f"xy12345.EU-CENTRAL-1.{COM}"),
        ("xy12345.us-east-2.aws", "us-east-2", f"xy12345.us-east-2.aws.{COM}"),
        ("xy12345.privatelink", "us-east-2", f"xy12345.us-east-2.privatelink.{COM}"),
        ("xy12345.us-east-2.privatelink", "us-east-2", f"xy12345.us-east-2.privatelink.{COM}"),
        # An account of an organization has no region in its address.
        ("myorg-share", "eu-central-1", f"myorg-share.{COM}"),
    ],
)
def test_an_account_is_found_however_it_is_written(account: str, region: str, host: str) -> None:
    assert account_of(account, region).host == host


@pytest.mark.parametrize(
    ("account", "region", "told"),
    [
        ("", "", "no account identifier"),
        ("  ", "", "no account identifier"),
        ("https://app.snowflake.com/myorg/share/#/homepage", "", "no account identifier"),
        ("app.snowflake.com", "", "no account identifier"),
        ("myorg share", "", "no account identifier"),
        ("myorg-share@evil.example", "", "no account identifier"),
        ("myorg-share..com", "", "no account identifier"),
        (f".{COM}", "", "no account identifier"),
        ("xy12345", "eu central", "no region"),
        ("xy12345", "eu-central-1/x", "no region"),
        ("xy12345.eu-central-1", "us-east-2", "two regions: eu-central-1 in the extra account, and us-east-2"),
        ("xy12345.eu-central-1", "eu-central", "two regions"),
    ],
)
def test_what_is_no_account_is_told(account: str, region: str, told: str) -> None:
    with pytest.raises(InvalidConnectionError) as caught:
        account_of(account, region)
    assert_told(caught.value, told)


def test_only_the_address_has_hyphens_for_underscores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The token names the account itself, as do assets and links."""
    hook = hook_of(monkeypatch, account=f" https://MYORG-DATA_SHARE.{COM}/ ")
    assert hook.statements_url == f"https://MYORG-DATA-SHARE.{COM}/api/v2/statements"
    token = hook.get_headers()["Authorization"].removeprefix("Bearer ")
    claims = jwt.decode(token, KEY.public_key(), algorithms=["RS256"])
    assert claims["sub"] == "MYORG-DATA_SHARE.SHARE_SVC"
    assert claims["iss"].startswith("MYORG-DATA_SHARE.SHARE_SVC.SHA256:")
    assert "/myorg/data_share/" in hook.query_page_url("01b2")
    assert hook.asset_uri("a.b.c") == "snowflake://myorg-data_share/a/b/c"


def test_a_locators_region_is_in_its_address_and_not_in_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = hook_of(monkeypatch, account="xy12345.eu-central-1", region="eu-central-1")
    assert hook.statements_url == f"https://xy12345.eu-central-1.{COM}/api/v2/statements"
    token = hook.get_headers()["Authorization"].removeprefix("Bearer ")
    assert jwt.decode(token, KEY.public_key(), algorithms=["RS256"])["sub"] == "XY12345.SHARE_SVC"
    assert "/eu-central-1/xy12345/" in hook.query_page_url("01b2")


def test_oauth_asks_for_its_token_at_the_same_address(monkeypatch: pytest.MonkeyPatch) -> None:
    oauth = {"authenticator": "oauth", "refresh_token": "r", "private_key_content": None}
    hook = hook_of(monkeypatch, password="secret", account="MYORG-DATA_SHARE", **oauth)
    assert hook._get_static_conn_params["token_endpoint"] == f"https://MYORG-DATA-SHARE.{COM}/oauth/token-request"
    hook = hook_of(monkeypatch, password="secret", token_endpoint="https://idp.example/token", **oauth)
    assert hook._get_static_conn_params["token_endpoint"] == "https://idp.example/token"


# ---- hosts


@pytest.mark.parametrize(
    ("extra", "address"),
    [
        ({"host": "proxy.example"}, "https://proxy.example"),
        ({"host": " proxy.example\t"}, "https://proxy.example"),
        ({"host": "https://proxy.example/"}, "https://proxy.example"),
        ({"host": "http://proxy.example:8080"}, "http://proxy.example:8080"),
        ({"host": "proxy.example:8443"}, "https://proxy.example:8443"),
        ({"host": "proxy.example", "port": 8443}, "https://proxy.example:8443"),
        ({"host": "127.0.0.1", "port": " 9 ", "protocol": "http"}, "http://127.0.0.1:9"),
        ({"host": "[::1]", "port": 9}, "https://[::1]:9"),
        # It is given, so it is taken as it is.
        ({"host": "my_proxy.example", "account": "MYORG-DATA_SHARE"}, "https://my_proxy.example"),
        ({"host": "  ", "account": "MYORG-DATA_SHARE"}, f"https://MYORG-DATA-SHARE.{COM}"),
        ({"extra__snowflake__account": "xy1", "extra__snowflake__region": "eu-west-1"}, f"https://xy1.eu-west-1.{COM}"),
    ],
)
def test_a_host_goes_before_the_account(extra: dict[str, Any], address: str) -> None:
    assert address_of(extra) == address


@pytest.mark.parametrize("host", ["proxy example", "https://", "proxy.example/path", "user@proxy.example", "a:b"])
def test_what_is_no_host_is_told(host: str) -> None:
    with pytest.raises(InvalidConnectionError) as caught:
        address_of({"host": host, "account": "MYORG-SHARE"})
    assert_told(caught.value, f"{host!r}, which is no host name")


# ---- keys


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (PLAIN, None),
        (PLAIN, " "),
        (f"\n{PLAIN}\n\n", ""),
        (pem(form=PrivateFormat.TraditionalOpenSSL), ""),
        (base64.b64encode(PLAIN.encode()).decode(), ""),
        (base64.encodebytes(PLAIN.encode()).decode(), ""),
        (ENCRYPTED, PASSPHRASE),
        (base64.b64encode(ENCRYPTED.encode()).decode(), f" {PASSPHRASE} "),
    ],
)
def test_a_key_is_read_however_it_is_written(tmp_path: Path, content: str, password: str | None) -> None:
    file = tmp_path / "rsa_key.p8"
    file.write_text(content)
    for extra in ({"private_key_content": content}, {"private_key_file": str(file)}):
        key = private_key_of(extra, password)
        assert key is not None
        assert key.private_numbers() == KEY.private_numbers()


UNREADABLE: dict[str, tuple[str, str, str]] = {
    "literal line ends": (PLAIN.replace("\n", "\\n"), "", "a backslash and an n where its lines end"),
    "a password beside an unencrypted key": (PLAIN, "left over", "not encrypted, yet the connection has a password"),
    "wrong passphrase": (ENCRYPTED, "another", "cannot be decrypted: the connection's password is not its passphrase"),
    "no passphrase": (ENCRYPTED, "", "is encrypted: the connection's password has to be its passphrase"),
    "EC": (pem(ec.generate_private_key(ec.SECP256R1())), "", "another kind (EC"),
    "Ed25519": (pem(ed25519.Ed25519PrivateKey.generate()), "", "another kind (Ed25519"),
    "too small": (pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)), "", "has 1024 bits"),
    "public key": (PUBLIC, "", "is the public key or a certificate"),
    "damaged": (PLAIN.replace("M", "N", 5), "", "is damaged"),
    "cut off": (PLAIN[:400], "", "is damaged"),
    "something else": ("not a key at all", "", "it has no line -----BEGIN PRIVATE KEY-----"),
    "base64 of something else": (base64.b64encode(b"nothing").decode(), "", "it has no line -----BEGIN"),
}


@pytest.mark.parametrize(("content", "password", "told"), UNREADABLE.values(), ids=list(UNREADABLE))
@pytest.mark.parametrize("place", ["private_key_content", "private_key_file"])
def test_a_key_that_cannot_be_read_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, password: str, told: str, place: str
) -> None:
    """By the hook, before any call."""
    (tmp_path / "rsa_key.p8").write_text(content)
    given = content if place == "private_key_content" else str(tmp_path / "rsa_key.p8")
    extra = {"private_key_content": None, place: given}
    hook = hook_of(monkeypatch, password, **extra)
    with pytest.raises(InvalidConnectionError) as caught:
        hook.run_statement("SELECT 1")
    assert_told(caught.value, told)
    assert place in caught.value.message
    for secret in (password or "no password", content.splitlines()[1] if "\n" in content else content[5:60]):
        assert secret not in str(caught.value)


@pytest.mark.parametrize("number", ["d", "dmp1", "dmq1", "iqmp"])
def test_a_key_whose_numbers_do_not_fit_is_told(number: str) -> None:
    """Damage that leaves the form of the key as it was: OpenSSL could misbehave."""
    numbers = KEY.private_numbers()
    parts = {name: getattr(numbers, name) for name in ("p", "q", "d", "dmp1", "dmq1", "iqmp")}
    parts[number] += 2
    damaged = rsa.RSAPrivateNumbers(**parts, public_numbers=numbers.public_numbers)
    content = pem(damaged.private_key(unsafe_skip_rsa_key_validation=True))
    with pytest.raises(InvalidConnectionError) as caught:
        private_key_of({"private_key_content": content}, None)
    assert_told(caught.value, "is damaged")


def test_to_read_a_key_takes_a_fraction_of_the_proof_that_it_is_right() -> None:
    def processor_seconds(read: Callable[[], object]) -> float:
        began = time.process_time()
        for _ in range(5):
            read()
        return time.process_time() - began

    proof = processor_seconds(lambda: load_pem_private_key(PLAIN.encode(), None))
    assert processor_seconds(lambda: private_key_of({"private_key_content": PLAIN}, None)) < proof / 4


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    for file, told in ((tmp_path / "missing.p8", "is no file on this machine"), (tmp_path, "cannot be read: Is a dir")):
        with pytest.raises(InvalidConnectionError) as caught:
            private_key_of({"private_key_file": str(file)}, None)
        assert_told(caught.value, told)
        assert str(file) in caught.value.message


def test_of_two_keys_none_is_taken() -> None:
    with pytest.raises(InvalidConnectionError) as caught:
        private_key_of({"private_key_file": "a.p8", "private_key_content": PLAIN}, None)
    assert_told(caught.value, "has two keys")


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"authenticator": "programmatic_access_token", "private_key_content": PLAIN},
        {"authenticator": "oauth", "private_key_content": PLAIN},
        {"refresh_token": "r", "private_key_content": PLAIN},
    ],
)
def test_a_sign_in_by_a_token_reads_no_key(extra: dict[str, str]) -> None:
    """The password is the token, or a secret, then."""
    assert private_key_of(extra, "the-token") is None
