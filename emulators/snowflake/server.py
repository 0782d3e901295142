"""The emulator's web application: the connector's protocol, the SQL API v2, and a health check."""

from __future__ import annotations

import base64
import binascii
import contextlib
import gzip
import json
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from fakesnow.server import routes as fakesnow_routes
from fakesnow.server import sessions
from fakesnow.transforms.transforms import SERVER_VERSION
from snowflake.connector.cursor import DictCursor, SnowflakeCursor
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from emulators.s3 import s3_filesystem
from emulators.share_names import ShareNames, default_share
from emulators.snowflake.auth import (
    KEYPAIR_JWT,
    OAUTH,
    PROGRAMMATIC_ACCESS_TOKEN,
    AccessToken,
    Authenticator,
    AuthError,
    OAuthClient,
    OAuthError,
)
from emulators.snowflake.engine import Connection, Cursor, Engine
from emulators.snowflake.rights import ADMINISTRATOR
from emulators.snowflake.sql_api import SqlApi, role_missing, role_not_granted
from emulators.snowflake.stop import DEFAULT_STATEMENT_TIMEOUT, Stop

INTEGRATION = default_share().integration


def _set_up(share: ShareNames) -> tuple[str, ...]:
    """Return the statements of an administrator for a share: those that are missing change nothing that exists."""
    schema = f"{share.database}.{share.schema}"
    return (
        f"CREATE WAREHOUSE IF NOT EXISTS {share.warehouse} WAREHOUSE_SIZE = 'XSMALL' AUTO_SUSPEND = 60",
        f"CREATE DATABASE IF NOT EXISTS {share.database}",
        f"CREATE SCHEMA IF NOT EXISTS {schema}",
        f"""CREATE STORAGE INTEGRATION IF NOT EXISTS {share.integration} TYPE = EXTERNAL_STAGE STORAGE_PROVIDER = 'S3'
        ENABLED = TRUE STORAGE_AWS_ROLE_ARN = 'arn:aws:iam::123456789012:role/share'
        STORAGE_ALLOWED_LOCATIONS = ('{share.url}')""",
        f"CREATE ROLE IF NOT EXISTS {share.role}",
        f"GRANT ROLE {share.role} TO ROLE SYSADMIN",
        f"GRANT USAGE ON WAREHOUSE {share.warehouse} TO ROLE {share.role}",
        f"GRANT USAGE, CREATE SCHEMA ON DATABASE {share.database} TO ROLE {share.role}",
        f"GRANT USAGE, CREATE TABLE, CREATE STAGE ON SCHEMA {schema} TO ROLE {share.role}",
        f"GRANT USAGE ON INTEGRATION {share.integration} TO ROLE {share.role}",
    )


# The connector's requests that fakesnow's own routes answer correctly.
_REUSED = frozenset({"/session/heartbeat", "/queries/v1/query-request"})

# A kind of token: the connector's name -> the SQL API's name.
_LOGIN_KINDS = {"SNOWFLAKE_JWT": KEYPAIR_JWT, OAUTH: OAUTH, PROGRAMMATIC_ACCESS_TOKEN: PROGRAMMATIC_ACCESS_TOKEN}


def create_app(
    *,
    state_dir: Path,
    s3_endpoint_url: str,
    account: str,
    users: dict[str, str],
    access_tokens: Sequence[AccessToken] = (),
    oauth_clients: Sequence[OAuthClient] = (),
    shares: Sequence[ShareNames] = (),
) -> Starlette:
    """
    Create the application of one account.

    :param state_dir: the directory of its data; created if missing. Only one process at a time may use it.
    :param s3_endpoint_url: the S3 endpoint that holds the files of `s3://` stages.
    :param account: the account identifier that clients log in to.
    :param users: user name -> PEM public key. All are service users, without a password.
    :param access_tokens: the programmatic access tokens that are accepted.
    :param oauth_clients: clients that get OAuth tokens at ``/oauth/token-request``.
    :param shares: the shares that the account is set up for; default: the one at the top of ``include/share.yaml``.
    """
    engine = Engine(state_dir, s3_filesystem(s3_endpoint_url), identifier=account.split(".")[0].upper())
    bootstrap(engine, users, shares)
    authenticator = Authenticator(account, users, access_tokens=access_tokens, oauth_clients=oauth_clients)
    api = SqlApi(engine, authenticator)

    async def login(request: Request) -> Response:
        return await _login(request, engine, authenticator)

    async def token_request(request: Request) -> Response:
        return await _token_request(request, authenticator)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        api.close()
        engine.close()

    routes = [
        Route("/healthz", health, methods=["GET"]),
        Route("/session/v1/login-request", login, methods=["POST"]),
        Route("/session", _end_session, methods=["POST"]),
        Route("/queries/v1/abort-request", _abort, methods=["POST"]),
        Route("/oauth/token-request", token_request, methods=["POST"]),
        *(route for route in fakesnow_routes if route.path in _REUSED),
        *api.routes(),
    ]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={405: _method_not_allowed})


class _ConnectorSession(Connection):
    """
    A connector's session. Another request can cancel its running statement.

    :param timeout: seconds after which each of its statements is cancelled.
    """

    def __init__(self, *args: Any, timeout: float = DEFAULT_STATEMENT_TIMEOUT, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.timeout = timeout
        self.running: Stop | None = None

    def cursor(self, cursor_class: type[Any] = SnowflakeCursor) -> Cursor:
        return _ConnectorCursor(self, self._duck_conn, use_dict_result=cursor_class == DictCursor)


class _ConnectorCursor(Cursor):
    _conn: _ConnectorSession

    def execute(self, command: str, params: Any = None, *args: Any, **kwargs: Any) -> Cursor:
        self._conn.running = stop = Stop(self._conn.timeout)
        try:
            return super().execute(command, params, *args, stop=stop, **kwargs)
        finally:
            self._conn.running = None


def bootstrap(engine: Engine, users: Iterable[str] = (), shares: Sequence[ShareNames] = ()) -> None:
    """
    Set the account up as its administrator would, unless it is set up already.

    The loader's role gets the minimum of privileges for the set-up and the syncs. It owns the objects that they create.

    :param users: the account's users; all but the administrator have the loaders' roles.
    :param shares: see :func:`create_app`.
    """
    rights = engine.catalogue.rights
    for user in users:
        rights.users.setdefault(user.upper(), [])
    for share in shares or [default_share()]:
        is_new = share.role not in rights.roles or share.integration not in engine.catalogue.integrations
        with contextlib.closing(engine.connect(warehouse=share.warehouse)) as session:
            for statement in _set_up(share) if is_new else ():
                session.cursor().execute(statement)
            for user in rights.users:
                if user != ADMINISTRATOR:
                    session.cursor().execute(f'GRANT ROLE {share.role} TO USER "{user}"')


async def _login(request: Request, engine: Engine, authenticator: Authenticator) -> Response:
    """Log a connector in. As in the real service, a refused login is answered with HTTP 200 and ``success`` false."""
    data: dict[str, Any] = (await _json_body(request))["data"]
    names = {key: _name(request.query_params.get(f"{key}Name")) for key in ("database", "schema", "role")}
    names["warehouse"] = _name(request.query_params.get("warehouse"))
    try:
        user = _verify_login(data, authenticator)
        if names["role"] is not None and names["role"] not in engine.catalogue.roles:
            raise AuthError("390189", role_missing(names["role"]))
        if names["role"] is not None and not engine.catalogue.rights.may_use(user, names["role"]):
            raise AuthError("390186", role_not_granted(names["role"]))
    except AuthError as error:
        return JSONResponse({"data": None, "code": error.code, "message": error.message, "success": False})
    parameters = data.get("SESSION_PARAMETERS") or {}
    autocommit = parameters.get("AUTOCOMMIT", True)
    session = _ConnectorSession(
        engine,
        names["database"],
        names["schema"],
        user=user,
        role=names["role"],
        warehouse=names["warehouse"],
        query_tag=str(parameters.get("QUERY_TAG") or ""),
        time_zone=parameters.get("TIMEZONE"),
        autocommit=autocommit,
        timeout=float(parameters.get("STATEMENT_TIMEOUT_IN_SECONDS") or DEFAULT_STATEMENT_TIMEOUT),
    )
    token = secrets.token_urlsafe(32)
    sessions[token] = session
    return JSONResponse(
        {
            "data": {
                "token": token,
                "masterToken": secrets.token_urlsafe(32),
                "serverVersion": SERVER_VERSION,
                "parameters": [
                    {"name": "AUTOCOMMIT", "value": autocommit},
                    {"name": "CLIENT_SESSION_KEEP_ALIVE_HEARTBEAT_FREQUENCY", "value": 3600},
                    {"name": "CLIENT_STAGE_ARRAY_BINDING_THRESHOLD", "value": 0},
                ],
                "sessionInfo": {
                    "databaseName": session.database if session.database_set else None,
                    "schemaName": session.schema if session.schema_set else None,
                    "warehouseName": session.warehouse,
                    "roleName": session.role,
                },
            },
            "success": True,
        }
    )


def _verify_login(data: dict[str, Any], authenticator: Authenticator) -> str:
    """
    Return the user to whom a connector's credentials belong.

    :raises AuthError: if the credentials are invalid, or belong to another user than the login names.
    """
    kind = _LOGIN_KINDS.get(str(data.get("AUTHENTICATOR", "")).upper())
    wrong_password = AuthError("390100", "Incorrect username or password was specified.")
    if kind is not None:
        user = authenticator.verify(str(data.get("TOKEN", "")), kind)
    else:
        try:
            # A client may send a programmatic access token as the password.
            user = authenticator.verify(str(data.get("PASSWORD", "")), PROGRAMMATIC_ACCESS_TOKEN)
        except AuthError:
            raise wrong_password from None
    named = str(data.get("LOGIN_NAME") or "")
    if not named or named.upper() == user:
        return user
    if kind is None:
        raise wrong_password
    if kind == OAUTH:
        message = "The user you were trying to authenticate as differs from the user tied to the access token."
        raise AuthError("390309", message)
    # Another user's token is invalid for this user: report it as any invalid token.
    return authenticator.verify("", kind)


async def _token_request(request: Request, authenticator: Authenticator) -> Response:
    """Answer Snowflake OAuth's token endpoint: exchange a client's refresh token for an access token."""
    form = {name: values[0] for name, values in parse_qs((await request.body()).decode(errors="replace")).items()}
    client_id, _, client_secret = _basic_credentials(request).partition(":")
    try:
        token, client = authenticator.issue(
            client_id,
            client_secret,
            grant_type=form.get("grant_type", ""),
            refresh_token=form.get("refresh_token", ""),
        )
    except OAuthError as error:
        refusal = {"data": None, "message": error.message, "code": None, "success": False, "error": error.error}
        return JSONResponse(refusal, 400)
    grant = {"access_token": token, "expires_in": client.lifetime, "token_type": "Bearer"}
    return JSONResponse({**grant, "username": client.user.upper()})


def _basic_credentials(request: Request) -> str:
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


async def _json_body(request: Request) -> dict[str, Any]:
    body = await request.body()
    if request.headers.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    return dict(json.loads(body))


def _session_of(request: Request) -> _ConnectorSession | None:
    found = sessions.get(request.headers.get("Authorization", "")[17:-1])
    return found if isinstance(found, _ConnectorSession) else None


async def _abort(request: Request) -> Response:
    """Cancel the running statement of a connector's session. fakesnow would report success without a cancel."""
    session = _session_of(request)
    if session is None:
        return _no_session()
    if session.running is not None:
        session.running.cancelled.set()
    return JSONResponse({"data": None, "code": None, "message": None, "success": True})


async def _method_not_allowed(request: Request, error: Exception) -> Response:
    return Response(status_code=405, headers=getattr(error, "headers", None))


def _no_session() -> Response:
    message = "User must login again to access the service."
    return JSONResponse({"data": None, "code": "390104", "message": message, "success": False}, 401)


async def _end_session(request: Request) -> Response:
    """End a connector's session and its transaction, which fakesnow would leave open."""
    session = _session_of(request)
    if session is None:
        return _no_session()
    if request.query_params.get("delete"):
        del sessions[request.headers["Authorization"][17:-1]]
        session.close()
    return JSONResponse({"data": None, "code": None, "message": None, "success": True})


def _name(value: str | None) -> str | None:
    if not value:
        return None
    return value[1:-1] if value.startswith('"') else value.upper()
