"""Authentication: checks key-pair tokens, programmatic access tokens and OAuth tokens as Snowflake does."""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import secrets
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

TOKEN_LIFETIME = 3600
"""Seconds after `iat` at which Snowflake stops accepting a key-pair token, whatever its `exp` says."""

CLOCK_SKEW = 60
"""Seconds that a client's clock may be ahead."""

KEYPAIR_JWT = "KEYPAIR_JWT"
OAUTH = "OAUTH"
PROGRAMMATIC_ACCESS_TOKEN = "PROGRAMMATIC_ACCESS_TOKEN"


class AuthError(Exception):
    """
    A refused login, with the code and message of the service's answer.

    :param code: Snowflake's error code, for example ``390144``.
    :param message: the message for the client.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class OAuthError(Exception):
    """
    A refused request for an OAuth token.

    :param error: the error as OAuth names it, for example ``invalid_client``.
    """

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error
        self.message = message


@dataclass(frozen=True)
class AccessToken:
    """
    A programmatic access token of a user.

    :param expires_at: when the token expires, in seconds since the epoch.
    """

    user: str
    secret: str = field(repr=False)
    expires_at: float = math.inf


@dataclass(frozen=True)
class OAuthClient:
    """
    A client of a Snowflake OAuth security integration, with a user's refresh token.

    :param lifetime: seconds for which an access token is accepted.
    """

    client_id: str
    user: str
    client_secret: str = field(repr=False)
    refresh_token: str = field(repr=False)
    lifetime: int = 600


def account_name(account: str) -> str:
    """Return the account's name as tokens contain it: upper case, without the region that may follow the first dot."""
    return account.split(".", 1)[0].upper()


def fingerprint(public_key: RSAPublicKey) -> str:
    """Return the public key's fingerprint, which ``DESC USER`` shows in ``RSA_PUBLIC_KEY_FP``."""
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
        Return the name of the user to whom the token belongs.

        :raises AuthError: 390144 for an invalid token. As in the real service, the message does not say why.
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


class Authenticator:
    """
    Checks the tokens of one account's service users, whatever their kind. Service users have no password.

    :param account: the account identifier, with or without a region.
    :param users: user name -> PEM public key.
    :param access_tokens: the programmatic access tokens that are accepted.
    :param oauth_clients: the clients that get OAuth tokens.
    """

    def __init__(
        self,
        account: str,
        users: dict[str, str],
        *,
        access_tokens: Sequence[AccessToken] = (),
        oauth_clients: Sequence[OAuthClient] = (),
    ) -> None:
        self._key_pairs = KeyPairAuthenticator(account, users)
        self._access_tokens = tuple(access_tokens)
        self._clients = {client.client_id: client for client in oauth_clients}
        self._issued: dict[str, tuple[str, float]] = {}

    def verify(self, token: str, kind: str | None = None) -> str:
        """
        Return the name of the user to whom the token belongs.

        :param kind: the kind of token that the client states; if None, it is derived from the token, as in Snowflake.
        :raises AuthError: if the token is invalid or has expired; the code depends on the kind.
        """
        kind = (kind or self._kind_of(token)).upper()
        if kind == KEYPAIR_JWT:
            return self._key_pairs.verify(token)
        if kind == PROGRAMMATIC_ACCESS_TOKEN:
            found = self._access_token(token)
            if found is None or found.expires_at <= time.time():
                raise AuthError("394400", "Programmatic access token is invalid.")
            return found.user.upper()
        user, expires_at = self._issued.get(token, ("", 0.0)) if kind == OAUTH else ("", 0.0)
        if not user:
            raise AuthError("390303", f"Invalid OAuth access token. [{uuid.uuid4()}]")
        if expires_at <= time.time():
            raise AuthError("390318", f"OAuth access token expired. [{uuid.uuid4()}]")
        return user.upper()

    def issue(
        self, client_id: str, client_secret: str, *, grant_type: str, refresh_token: str
    ) -> tuple[str, OAuthClient]:
        """
        Issue an OAuth access token, and return it with its client.

        :raises OAuthError: if the client is unknown, or its secret or refresh token is wrong.
        """
        client = self._clients.get(client_id)
        if client is None or not hmac.compare_digest(client.client_secret.encode(), client_secret.encode()):
            raise OAuthError("invalid_client", "This is an invalid client.")
        if grant_type != "refresh_token":
            raise OAuthError("unsupported_grant_type", f"Unsupported grant type: {grant_type}.")
        if not hmac.compare_digest(client.refresh_token.encode(), refresh_token.encode()):
            raise OAuthError("invalid_grant", "The refresh token is invalid.")
        token = secrets.token_urlsafe(48)
        self._issued[token] = (client.user, time.time() + client.lifetime)
        return token, client

    def _access_token(self, secret: str) -> AccessToken | None:
        given = secret.encode()
        return next((t for t in self._access_tokens if hmac.compare_digest(t.secret.encode(), given)), None)

    def _kind_of(self, token: str) -> str:
        if self._access_token(token):
            return PROGRAMMATIC_ACCESS_TOKEN
        try:
            issuer = str(jwt.decode(token, options={"verify_signature": False}).get("iss", ""))
        except jwt.PyJWTError:
            return OAUTH
        return KEYPAIR_JWT if ".SHA256:" in issuer else OAUTH
