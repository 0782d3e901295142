"""The stand-in's web application: the connector's protocol, the SQL API v2, and a health check."""

from __future__ import annotations

import contextlib
import gzip
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fakesnow.server import routes as fakesnow_routes
from fakesnow.server import sessions
from fakesnow.transforms.transforms import SERVER_VERSION
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox.s3 import s3_filesystem
from sandbox.snowflake.auth import AuthError, KeyPairAuthenticator
from sandbox.snowflake.engine import Engine
from sandbox.snowflake.sql_api import SqlApi, role_missing

WAREHOUSE = "LOAD_WH"
DATABASE = "DATA_SHARE"
SCHEMA = "PUBLIC"
ROLE = "DATA_SHARE_LOADER"
INTEGRATION = "S3_SHARE_INT"
ALLOWED_LOCATION = "s3://databricks-snowflake-share/dataset/"

# The connector's requests that fakesnow answers well as it is.
_REUSED = frozenset(
    {"/session/heartbeat", "/queries/v1/query-request", "/queries/v1/abort-request", "/monitoring/queries/{sfqid}"}
)


def create_app(*, state_dir: Path, s3_endpoint_url: str, account: str, users: dict[str, str]) -> Starlette:
    """
    The application of one account.

    :param state_dir: where its data are kept; created if missing. One process at a time may use it.
    :param s3_endpoint_url: where the files of `s3://` stages are.
    :param account: the account identifier that clients log in to.
    :param users: user name -> PEM public key. These are service users: they have no password.
    """
    engine = Engine(state_dir, s3_filesystem(s3_endpoint_url), account=account.split(".")[0].upper())
    bootstrap(engine)
    authenticator = KeyPairAuthenticator(account, users)
    api = SqlApi(engine, authenticator)

    async def login(request: Request) -> Response:
        return await _login(request, engine, authenticator)

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
        *(route for route in fakesnow_routes if route.path in _REUSED),
        *api.routes(),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def bootstrap(engine: Engine) -> None:
    """Do what an administrator of the account has done before, unless it is done already."""
    catalogue = engine.catalogue
    if WAREHOUSE not in catalogue.warehouses:
        catalogue.warehouses.append(WAREHOUSE)
    for role in ("PUBLIC", ROLE):
        if role not in catalogue.roles:
            catalogue.roles.append(role)
    catalogue.integrations.setdefault(INTEGRATION, [ALLOWED_LOCATION])
    with contextlib.closing(engine.connect()) as session:
        if not (engine.state_dir / f"{DATABASE}.db").exists():
            session.cursor().execute(f"CREATE DATABASE {DATABASE}")
        session.cursor().execute(f"CREATE SCHEMA IF NOT EXISTS {DATABASE}.{SCHEMA}")


async def _login(request: Request, engine: Engine, authenticator: KeyPairAuthenticator) -> Response:
    """Log a connector in. A refused login is HTTP 200 with ``success`` false, as the real service answers it."""
    body = await request.body()
    if request.headers.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    data: dict[str, Any] = json.loads(body)["data"]
    names = {key: _name(request.query_params.get(f"{key}Name")) for key in ("database", "schema", "role")}
    names["warehouse"] = _name(request.query_params.get("warehouse"))
    try:
        if str(data.get("AUTHENTICATOR", "")).upper() != "SNOWFLAKE_JWT":
            raise AuthError("390100", "Incorrect username or password was specified.")
        user = authenticator.verify(str(data.get("TOKEN", "")))
        if names["role"] is not None and names["role"] not in engine.catalogue.roles:
            raise AuthError("390189", role_missing(names["role"]))
    except AuthError as error:
        return JSONResponse({"data": None, "code": error.code, "message": error.message, "success": False})
    parameters = data.get("SESSION_PARAMETERS") or {}
    autocommit = parameters.get("AUTOCOMMIT", True)
    session = engine.connect(
        names["database"],
        names["schema"],
        user=user,
        role=names["role"],
        warehouse=names["warehouse"],
        query_tag=str(parameters.get("QUERY_TAG") or ""),
        autocommit=autocommit,
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


async def _end_session(request: Request) -> Response:
    """End a connector's session: fakesnow would forget it without ending its transaction."""
    token = request.headers.get("Authorization", "")[17:-1]
    session = sessions.get(token)
    if session is None:
        message = "User must login again to access the service."
        return JSONResponse({"data": None, "code": "390104", "message": message, "success": False}, 401)
    if request.query_params.get("delete"):
        del sessions[token]
        session.close()
    return JSONResponse({"data": None, "code": None, "message": None, "success": True})


def _name(value: str | None) -> str | None:
    if not value:
        return None
    return value[1:-1] if value.startswith('"') else value.upper()
