"""Key-pair authentication: the check that Snowflake makes of a client's JSON Web Token."""

from __future__ import annotations

import base64
import hashlib
import time
import uuid

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

TOKEN_LIFETIME = 3600
"""Seconds after `iat` at which Snowflake stops accepting a token, whatever its `exp` says."""

CLOCK_SKEW = 60
"""Seconds that a client's clock may be ahead."""


class AuthError(Exception):
    """
    A refused login: ``code`` and ``message`` are what the service answers.

    :param code: Snowflake's error code, for example ``390144``.
    :param message: the sentence shown to the client.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def account_name(account: str) -> str:
    """The account as it stands in a token: upper case, without the region that may follow the first dot."""
    return account.split(".", 1)[0].upper()


def fingerprint(public_key: RSAPublicKey) -> str:
    """The public key's fingerprint as ``DESC USER`` shows it in ``RSA_PUBLIC_KEY_FP``."""
    der = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "SHA256:" + base64.b64encode(hashlib.sha256(der).digest()).decode()


class KeyPairAuthenticator:
    """
    Checks key-pair tokens against the registered public keys.

    :param account: the account identifier, with or without a region.
    :param users: user name -> PEM public key.
    """

    def __init__(self, account: str, users: dict[str, str]) -> None:
        self.account = account_name(account)
        self._keys: dict[str, RSAPublicKey] = {}
        for name, pem in users.items():
            key = load_pem_public_key(pem.encode())
            if not isinstance(key, RSAPublicKey):
                raise TypeError(f"The public key of user {name} is not an RSA key")
            self._keys[name.upper()] = key

    def verify(self, token: str) -> str:
        """
        The name of the user whom the token proves.

        :raises AuthError: 390144 for a token that is not valid. As the real service, it does not say why.
        """
        invalid = AuthError("390144", f"JWT token is invalid. [{uuid.uuid4()}]")
        try:
            claimed = jwt.decode(token, options={"verify_signature": False})
            account, _, user = str(claimed["sub"]).partition(".")
            key = self._keys[user]
            claims = jwt.decode(
                token,
                key,
                algorithms=["RS256"],
                options={"require": ["exp", "iat", "iss", "sub"], "verify_iat": False},
            )
            issued = float(claims["iat"])
        except (jwt.PyJWTError, KeyError, TypeError, ValueError):
            raise invalid from None
        now = time.time()
        if account != self.account or claims["iss"] != f"{account}.{user}.{fingerprint(key)}":
            raise invalid
        if not now - TOKEN_LIFETIME <= issued <= now + CLOCK_SKEW:
            raise invalid
        return user
