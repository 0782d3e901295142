"""Reads the Airflow connection to Snowflake: the account, its address, and the private key to sign in with."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow.sdk.exceptions import AirflowFailException
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPrivateNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError

_DOMAIN = ".snowflakecomputing.com"
# Accounts in China have the second domain.
_DOMAINS = (_DOMAIN, ".snowflakecomputing.cn")
_PRIVATE_LINK = "privatelink"
_SEGMENTS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9][A-Za-z0-9_-]*)*")
_HOST = re.compile(r"(?:(?P<scheme>https?)://)?(?P<name>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d+))?/?")
_MIN_KEY_BITS = 2048
_AUTHENTICATORS_WITHOUT_KEY = ("oauth", "programmatic_access_token")


class InvalidConnectionError(ShareError, AirflowFailException):
    """The connection to Snowflake names no valid account, or its key cannot be used to sign in."""

    code = FailureCode.SNOWFLAKE_SIGN_IN


@dataclass(frozen=True)
class Account:
    """
    A Snowflake account.

    :param identifier: the identifier in tokens and links: ``ORGANIZATION-ACCOUNT``, or the older ``locator.region``
    :param region: the region, only for a locator without a region in it; else empty
    :param host: its host name
    """

    identifier: str
    region: str
    host: str


def account_of(account: str, region: str = "") -> Account:
    """
    Return the account that the extras of a connection name.

    Accepts two common slips: the whole address as ``account``, and the region in both extras.

    :param account: extra ``account``
    :param region: extra ``region``
    :raises InvalidConnectionError: the extras name no valid account
    """
    name = re.sub(r"^https?://", "", account.strip(), flags=re.IGNORECASE)
    name = re.split(r"[/?#:]", name, maxsplit=1)[0]
    domain = next((domain for domain in _DOMAINS if name.lower().endswith(domain)), "")
    name = name[: len(name) - len(domain)]
    if not _SEGMENTS.fullmatch(name) or name.lower().endswith("snowflake.com"):
        raise InvalidConnectionError(
            f"The extra account of the Snowflake connection is {account!r}, which is no account identifier: that is "
            "like MYORG-MYACCOUNT, as SELECT CURRENT_ORGANIZATION_NAME() || '-' || CURRENT_ACCOUNT_NAME() shows it."
        )
    region = region.strip()
    if region and not _SEGMENTS.fullmatch(region):
        raise InvalidConnectionError(
            f"The extra region of the Snowflake connection is {region!r}, which is no region: leave it out."
        )
    first, *segments = name.split(".")
    private = [segment for segment in segments if segment.lower() == _PRIVATE_LINK]
    own_region = ".".join(segment for segment in segments if segment.lower() != _PRIVATE_LINK)
    if "-" in first:
        # ORGANIZATION-ACCOUNT is unique across regions, so its address has no region.
        region = ""
    elif region and own_region:
        if not f"{own_region}.".lower().startswith(f"{region}.".lower()):
            raise InvalidConnectionError(
                f"The Snowflake connection has two regions: {own_region} in the extra account, and {region} in the "
                "extra region. Leave the extra region out."
            )
        region = ""
    # The address needs hyphens for underscores: a wildcard certificate does not match a name with underscores.
    # Snowflake answers at both addresses. The token to sign in with keeps the account's real name.
    labels = [first.replace("_", "-"), *filter(None, [own_region or region]), *private]
    return Account(name, region, ".".join(labels) + (domain.lower() or _DOMAIN))


def address_of(extra: Mapping[str, Any]) -> str:
    """
    Return the address of the SQL API that a connection leads to: scheme, host and port.

    :param extra: the connection's extras; ``host`` takes precedence over ``account``
    :raises InvalidConnectionError: the extras name no valid account or host
    """
    given = str(extra.get("host") or "")
    if not given.strip():
        return f"https://{account_of(str(_field(extra, 'account')), str(_field(extra, 'region'))).host}"
    found = _HOST.fullmatch(given.strip())
    if found is None:
        raise InvalidConnectionError(
            f"The extra host of the Snowflake connection is {given!r}, which is no host name. Leave it out, unless "
            "Snowflake is reached through an address of your own."
        )
    protocol = str(extra.get("protocol") or found["scheme"] or "https").strip()
    port = str(extra.get("port") or found["port"] or "").strip()
    return f"{protocol}://{found['name']}" + (f":{port}" if port else "")


def private_key_of(extra: Mapping[str, Any], password: str | None) -> RSAPrivateKey | None:
    """
    Return the private key to sign in with, or None if the connection signs in without a key.

    Replaces the provider's reading (6.20.0), which reports the mistakes below as "Incorrect padding", "Could not
    deserialize key data" or an invalid token.

    :param extra: the connection's extras
    :param password: the connection's password, which is the passphrase of an encrypted key
    :raises InvalidConnectionError: the key cannot be read, or Snowflake does not accept such a key
    """
    file, content = (_field(extra, f"private_key_{place}") for place in ("file", "content"))
    needs_no_key = extra.get("authenticator") in _AUTHENTICATORS_WITHOUT_KEY or _field(extra, "refresh_token")
    if not (file or content) or needs_no_key:
        return None
    if file and content:
        raise InvalidConnectionError(
            "The Snowflake connection has two keys, private_key_file and private_key_content: leave one out."
        )
    if file:
        name = f"private_key_file of the Snowflake connection, {file},"
        try:
            data = Path(file).read_bytes()
        except FileNotFoundError:
            raise InvalidConnectionError(f"The {name} is no file on this machine.") from None
        except OSError as error:
            raise InvalidConnectionError(f"The {name} cannot be read: {error.strerror}.") from None
    else:
        name = "private_key_content of the Snowflake connection"
        data = content.encode()
    return _private_key(data, (password or "").strip().encode() or None, name)


def fingerprint_of(key: RSAPrivateKey) -> str:
    """Return a key's fingerprint as ``DESCRIBE USER`` shows it in ``RSA_PUBLIC_KEY_FP``."""
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"SHA256:{base64.b64encode(hashlib.sha256(public).digest()).decode()}"


def _private_key(data: bytes, passphrase: bytes | None, name: str) -> RSAPrivateKey:
    if b"-----BEGIN" not in data:
        # People encode the whole PEM text in base64 where a secret must be one line.
        try:
            data = base64.b64decode(b"".join(data.split()), validate=True)
        except binascii.Error:
            data = b""
    if b"-----BEGIN" not in data:
        raise InvalidConnectionError(f"The {name} is no key: it has no line -----BEGIN PRIVATE KEY-----.")
    if b"\\n" in data:
        raise InvalidConnectionError(
            f"The {name} has a backslash and an n where its lines end: put real ends of lines there, or the base64 of "
            "the whole text."
        )
    if b"PRIVATE KEY-----" not in data:
        raise InvalidConnectionError(f"The {name} is the public key or a certificate: put the private key there.")
    try:
        # OpenSSL would prove that the factors are prime, which takes a step 40 ms of its time, each time.
        key = serialization.load_pem_private_key(data, password=passphrase, unsafe_skip_rsa_key_validation=True)
        if isinstance(key, RSAPrivateKey) and not _is_consistent(key.private_numbers()):
            raise ValueError("the numbers of the key do not belong together")
    except TypeError:
        if passphrase is None:
            raise InvalidConnectionError(
                f"The {name} is encrypted: the connection's password has to be its passphrase."
            ) from None
        raise InvalidConnectionError(
            f"The {name} is not encrypted, yet the connection has a password, which would be its passphrase: empty it."
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        if passphrase is None:
            raise InvalidConnectionError(f"The {name} is damaged: copy the whole key again.") from None
        raise InvalidConnectionError(
            f"The {name} cannot be decrypted: the connection's password is not its passphrase, or it is damaged."
        ) from None
    if not isinstance(key, RSAPrivateKey):
        kind = type(key).__name__.strip("_").removesuffix("PrivateKey")
        raise InvalidConnectionError(f"The {name} is a key of another kind ({kind}): Snowflake takes RSA keys.")
    if key.key_size < _MIN_KEY_BITS:
        raise InvalidConnectionError(
            f"The {name} has {key.key_size} bits: Snowflake takes keys of {_MIN_KEY_BITS} bits and more."
        )
    return key


def _is_consistent(key: RSAPrivateNumbers) -> bool:
    """
    Return whether all numbers of a key fit each other.

    This is what OpenSSL checks, without the proof that the factors are prime: no damage changes all numbers so that
    they fit again, and only its owner could lose by a key that was made wrong on purpose.
    """
    p, q, exponent = key.p, key.q, key.public_numbers.e
    return (
        min(p, q, exponent, key.d) > 1
        and p * q == key.public_numbers.n
        and p % 2 == q % 2 == exponent % 2 == 1
        and exponent * key.d % (p - 1) == exponent * key.d % (q - 1) == 1
        and (key.dmp1, key.dmq1) == (key.d % (p - 1), key.d % (q - 1))
        and key.iqmp * q % p == 1
    )


def _field(extra: Mapping[str, Any], name: str) -> str:
    """Return an extra, or the one with the long name of older connections, as the provider does."""
    value = extra.get(name)
    return str((extra.get(f"extra__snowflake__{name}") if value is None else value) or "")
