"""
Authentication of calls: by the workspace's personal access token, or by OAuth tokens of service principals.

A service principal gets a token for its id and secret (OAuth machine-to-machine, the client credentials grant of RFC
6749). Tokens are signed with a key that the workspace keeps in a file, so they stay valid after a restart.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt

from emulators.databricks.answers import WORKSPACE_ID
from emulators.databricks.records import USER, ApiError

ACCOUNT_ID = "00000000-0000-4000-8000-900800700600"
SCOPE = "all-apis"
TOKEN_LIFETIME = 3600
"""Seconds for which an OAuth token is valid, unless `/_sandbox/token_lifetime` sets another lifetime."""

_ALGORITHM = "HS256"


class OAuthError(Exception):
    """
    A refused request for a token, as RFC 6749 defines it.

    :param status: HTTP status.
    :param error: name of the error.
    :param description: message for people.
    """

    def __init__(self, status: int, error: str, description: str) -> None:
        super().__init__(description)
        self.status = status
        self.error = error


class Credentials:
    """
    The credentials that the workspace accepts.

    :param state_dir: directory of the key that signs tokens; created if missing.
    :param token: personal access token of :data:`emulators.databricks.records.USER`.
    :param service_principals: OAuth secrets of service principals, by client id.
    """

    def __init__(self, state_dir: Path, token: str, service_principals: Mapping[str, str]) -> None:
        self.token = token
        self.lifetime_seconds = TOKEN_LIFETIME
        self.issued = 0
        self._service_principals = dict(service_principals)
        key_file = state_dir / "oauth.key"
        if not key_file.exists():
            state_dir.mkdir(parents=True, exist_ok=True)
            key_file.touch(0o600)
            key_file.write_text(secrets.token_hex(32), "utf-8")
        self._key = key_file.read_text("utf-8")

    def principal(self, authorization: str) -> str:
        """
        Return who calls: the user of the personal access token, or a service principal's id.

        :param authorization: the call's Authorization header.
        :raises ApiError: if the header contains no valid token.
        """
        scheme, _, credential = authorization.partition(" ")
        if scheme.lower() != "bearer" or not credential:
            raise ApiError(401, 401, "Credential was not sent or was of an unsupported type for this API.")
        if hmac.compare_digest(credential.encode(), self.token.encode()):
            return USER
        try:
            claims = jwt.decode(
                credential,
                self._key,
                algorithms=[_ALGORITHM],
                audience=str(WORKSPACE_ID),
                options={"require": ["exp", "sub", "aud"]},
            )
        except jwt.ExpiredSignatureError:
            raise ApiError(403, 403, "Invalid Token") from None
        except jwt.InvalidTokenError:
            raise ApiError(403, 403, "Invalid access token.") from None
        return str(claims["sub"])

    def new_token(self, *, authorization: str, content_type: str, form: bytes, base_url: str) -> dict[str, Any]:
        """
        Issue a token for a service principal, whose id and secret are in the header (HTTP Basic) or in the form.

        :param form: the request's body.
        :raises OAuthError: if the request is invalid, its credentials are wrong, or its scope is not :data:`SCOPE`.
        """
        if content_type.partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
            raise OAuthError(400, "invalid_request", "The body must be application/x-www-form-urlencoded.")
        fields = {name: values[-1] for name, values in parse_qs(form.decode("utf-8", "replace")).items()}
        client_id, secret = _basic(authorization) or (fields.get("client_id", ""), fields.get("client_secret", ""))
        known = self._service_principals.get(client_id, "")
        if not known or not hmac.compare_digest(known.encode(), secret.encode()):
            raise OAuthError(401, "invalid_client", "Client authentication failed")
        if "grant_type" not in fields:
            raise OAuthError(400, "invalid_request", "grant_type is missing")
        if fields["grant_type"] != "client_credentials":
            raise OAuthError(400, "unsupported_grant_type", f"{fields['grant_type']} is not supported")
        if fields.get("scope") != SCOPE:
            raise OAuthError(400, "invalid_scope", f"The scope must be {SCOPE}.")
        issued_at = int(time.time())
        claims = {
            "iss": f"{base_url}oidc",
            "aud": str(WORKSPACE_ID),
            "sub": client_id,
            "client_id": client_id,
            "scope": SCOPE,
            "iat": issued_at,
            "exp": issued_at + self.lifetime_seconds,
            "jti": str(uuid.uuid4()),
        }
        self.issued += 1
        return {
            "access_token": jwt.encode(claims, self._key, _ALGORITHM),
            "token_type": "Bearer",
            "expires_in": self.lifetime_seconds,
            "scope": SCOPE,
        }


def authorization_server(base_url: str) -> dict[str, Any]:
    """Return the metadata of the authorization server, as RFC 8414 defines it."""
    return {
        "issuer": f"{base_url}oidc",
        "authorization_endpoint": f"{base_url}oidc/v1/authorize",
        "token_endpoint": f"{base_url}oidc/v1/token",
        "grant_types_supported": ["client_credentials"],
        "response_types_supported": ["code"],
        "scopes_supported": [SCOPE],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
    }


def host_metadata(base_url: str) -> dict[str, Any]:
    """Return the host's metadata, which the SDKs request when they start."""
    return {
        "oidc_endpoint": f"{base_url}oidc",
        "account_id": ACCOUNT_ID,
        "workspace_id": str(WORKSPACE_ID),
        "cloud": "AWS",
    }


def _basic(authorization: str) -> tuple[str, str] | None:
    """Return name and password of HTTP Basic; None for any other scheme."""
    scheme, _, credential = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, _, password = base64.b64decode(credential, validate=True).decode().partition(":")
    except (ValueError, binascii.Error):
        raise OAuthError(401, "invalid_client", "Client authentication failed") from None
    return name, password
