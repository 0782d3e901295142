"""What a connection to Snowflake says: where the account is, and the key that signs in."""

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
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError

_DOMAIN = ".snowflakecomputing.com"
# The second is that of accounts in China.
_DOMAINS = (_DOMAIN, ".snowflakecomputing.cn")
_PRIVATE = "privatelink"
_SEGMENTS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9][A-Za-z0-9_-]*)*")
_HOST = re.compile(r"(?:(?P<scheme>https?)://)?(?P<name>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d+))?/?")
_SMALLEST_KEY_BITS = 2048
_KEYLESS = ("oauth", "programmatic_access_token")


class InvalidConnectionError(ShareError, AirflowFailException):
    """The connection to Snowflake says something that leads to no account, or that signs nobody in."""

    code = FailureCode.SNOWFLAKE_SIGN_IN


@dataclass(frozen=True)
class Account:
    """
    A Snowflake account.

    :param identifier: as tokens and links have it: ``ORGANIZATION-ACCOUNT``, or the older ``locator.region``
    :param region: region of a locator that stands without one; of every other account, empty
    :param host: where it answers
    """

    identifier: str
    region: str
    host: str


def account_of(account: str, region: str = "") -> Account:
    """
    Return the account that the extras of a connection mean.

    People also copy the whole address of the account there, and give its region twice.

    :param account: extra ``account``
    :param region: extra ``region``
    :raises InvalidConnectionError: they mean no account
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
    private = [segment for segment in segments if segment.lower() == _PRIVATE]
    own_region = ".".join(segment for segment in segments if segment.lower() != _PRIVATE)
    if "-" in first:
        # The name of an organization's account is known everywhere; its address has no region.
        region = ""
    elif region and own_region:
        if not f"{own_region}.".lower().startswith(f"{region}.".lower()):
            raise InvalidConnectionError(
                f"The Snowflake connection has two regions: {own_region} in the extra account, and {region} in the "
                "extra region. Leave the extra region out."
            )
        region = ""
    # A wildcard in a certificate does not stand for underscores, so the address with hyphens is the one that has TLS.
    # Snowflake answers at both. The sign-in's token has the account's own name.
    labels = [first.replace("_", "-"), *filter(None, [own_region or region]), *private]
    return Account(name, region, ".".join(labels) + (domain.lower() or _DOMAIN))


def address_of(extra: Mapping[str, Any]) -> str:
    """
    Return where the SQL API of a connection is: scheme, host and port.

    :param extra: the connection's extras; ``host`` goes before ``account``
    :raises InvalidConnectionError: they mean no account, or no host
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
    Return the key that signs in, or None if the connection signs in without one.

    The provider's reading (6.20.0) says of each fault below something else: "Incorrect padding", "Could not
    deserialize key data", or that the token is invalid.

    :param extra: the connection's extras
    :param password: its password, which is the passphrase of an encrypted key
    :raises InvalidConnectionError: the key cannot be read, or is none that Snowflake takes
    """
    file, content = (_field(extra, f"private_key_{place}") for place in ("file", "content"))
    if not (file or content) or extra.get("authenticator") in _KEYLESS or _field(extra, "refresh_token"):
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
    """Return what DESCRIBE USER shows as RSA_PUBLIC_KEY_FP of the user whose key it is."""
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"SHA256:{base64.b64encode(hashlib.sha256(public).digest()).decode()}"


def _private_key(data: bytes, passphrase: bytes | None, name: str) -> RSAPrivateKey:
    if b"-----BEGIN" not in data:
        # Base64 of the whole text is how a key passes through places that take one line.
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
        raise InvalidConnectionError(f"The {name} is the public key or a certificate: the private key signs in.")
    try:
        key = serialization.load_pem_private_key(data, password=passphrase)
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
    if key.key_size < _SMALLEST_KEY_BITS:
        raise InvalidConnectionError(
            f"The {name} has {key.key_size} bits: Snowflake takes keys of {_SMALLEST_KEY_BITS} bits and more."
        )
    return key


def _field(extra: Mapping[str, Any], name: str) -> str:
    """Return an extra, also by the long name that older connections have, as the provider does."""
    value = extra.get(name)
    return str((extra.get(f"extra__snowflake__{name}") if value is None else value) or "")
