"""An emulator of Snowflake behind a real web server, with S3 beside it."""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import httpx
import jwt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from data_share.share import Share
from emulators.fault_injection import FaultInjection
from emulators.snowflake.auth import AccessToken, OAuthClient
from tests.emulators.snowflake import administrator

if TYPE_CHECKING:
    import s3fs

ACCOUNT = "MYORG-SHARE"
USER = "SHARE_SVC"
BUCKET = Share().bucket
URL = Share().url
FILE_FORMAT = "FILE_FORMAT = (TYPE = PARQUET, USE_VECTORIZED_SCANNER = TRUE, NULL_IF = ())"
COPY = f"{FILE_FORMAT} PATTERN = '.*[.]parquet' MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE ON_ERROR = 'ABORT_STATEMENT'"

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)

ACCESS_TOKEN = "pat-of-share-svc"
EXPIRED_ACCESS_TOKEN = "pat-of-yesterday"
CLIENT = OAuthClient("airflow", USER, "client-secret", "refresh-me")
SHORT_CLIENT = OAuthClient("hasty", USER, "client-secret", "refresh-me", lifetime=0)


def public_pem(key: rsa.RSAPrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private_der(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def token(
    key: rsa.RSAPrivateKey = KEY,
    account: str = ACCOUNT,
    user: str = USER,
    age: float = 0,
    life: float = 3000,
    **claimed: Any,
) -> str:
    """A key-pair token; ``claimed`` are claims of another value, or None for a claim that is missing."""
    fingerprint = public_fingerprint(key)
    now = int(time.time() - age)
    claims = {"iss": f"{account}.{user}.{fingerprint}", "sub": f"{account}.{user}", "iat": now, "exp": now + int(life)}
    claims = {name: value for name, value in {**claims, **claimed}.items() if value is not None}
    return jwt.encode(claims, private_der_pem(key), algorithm="RS256")


def public_fingerprint(key: rsa.RSAPrivateKey) -> str:
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "SHA256:" + base64.b64encode(hashlib.sha256(der).digest()).decode()


def private_der_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def until(condition: Callable[[], Any], seconds: float = 10) -> Any:
    """The condition's value, as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "The condition did not come true in time"
        time.sleep(0.01)
    return value


@contextmanager
def serve(app: Any, **options: Any) -> Iterator[str]:
    """Serve an application on a free port of loopback; ``options`` are uvicorn's."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


@dataclass
class Api:
    """A client of the SQL API."""

    url: str

    def __post_init__(self) -> None:
        self.http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token()}", "X-Snowflake-Authorization-Token-Type": "KEYPAIR_JWT"},
            timeout=30,
        )

    def post(self, sql: str, *, count: int = 1, query: dict[str, Any] | None = None, **body: Any) -> httpx.Response:
        parameters = {"MULTI_STATEMENT_COUNT": count, **body.pop("parameters", {})}
        content = {
            "statement": sql,
            "database": "DATA_SHARE",
            "schema": "PUBLIC",
            "warehouse": "LOAD_WH",
            "role": "DATA_SHARE_LOADER",
            "parameters": parameters,
            **body,
        }
        return self.http.post("/api/v2/statements", params=query, json=content)

    def ok(self, sql: str, **options: Any) -> dict[str, Any]:
        answer = self.post(sql, **options)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def rows(self, sql: str, **options: Any) -> list[list[str | None]]:
        return list(self.ok(sql, **options)["data"])

    def error(self, sql: str, **options: Any) -> tuple[str, str]:
        """Code and message of a statement that fails."""
        answer = self.post(sql, **options)
        assert answer.status_code == 422, (answer.status_code, answer.text)
        return answer.json()["code"], answer.json()["message"]

    def get(self, handle: str, **query: Any) -> httpx.Response:
        return self.http.get(f"/api/v2/statements/{handle}", params=query)

    def finished(self, handle: str) -> httpx.Response:
        def answer() -> httpx.Response | None:
            response = self.get(handle)
            return None if response.status_code == 202 else response

        return until(answer)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, s3fs.S3FileSystem]]:
    """Endpoint and file system of an S3 with the share's bucket."""
    from emulators.s3 import S3Server, s3_filesystem

    server = S3Server(tmp_path_factory.mktemp("s3"))
    endpoint = server.start()
    filesystem = s3_filesystem(endpoint)
    filesystem.mkdir(BUCKET)
    yield endpoint, filesystem
    server.stop()


@pytest.fixture
def start(s3: tuple[str, s3fs.S3FileSystem]) -> Callable[[Path], Any]:
    """Start the emulator on a state directory."""

    # It takes seconds to import, and collecting the tests does without it.
    from emulators.snowflake.server import create_app

    def run(state_dir: Path) -> Any:
        users = {USER: public_pem(KEY)}
        return serve(
            FaultInjection(create_app(state_dir=state_dir, s3_endpoint_url=s3[0], account=ACCOUNT, users=users))
        )

    return run


@pytest.fixture(scope="module")
def app(s3: tuple[str, s3fs.S3FileSystem], tmp_path_factory: pytest.TempPathFactory) -> FaultInjection:
    """An emulator with the module's own state."""
    from emulators.snowflake.server import create_app

    app = create_app(
        state_dir=tmp_path_factory.mktemp("snowflake"),
        s3_endpoint_url=s3[0],
        account=ACCOUNT,
        users={USER: public_pem(KEY), "ADMIN": public_pem(KEY)},
        access_tokens=[AccessToken(USER, ACCESS_TOKEN), AccessToken(USER, EXPIRED_ACCESS_TOKEN, time.time() - 1)],
        oauth_clients=[CLIENT, SHORT_CLIENT],
    )
    return FaultInjection(app)


@pytest.fixture(scope="module")
def url(app: FaultInjection) -> Iterator[str]:
    """The URL of the module's emulator."""
    with serve(app) as address:
        yield address


@pytest.fixture(scope="module")
def api(url: str) -> Iterator[Api]:
    client = Api(url)
    yield client
    client.http.close()


@pytest.fixture(scope="module")
def admin(url: str, tools: ModuleType) -> Iterator[Api]:
    """A client that the account's administrator has signed in to."""
    client = administrator.client(tools, url)
    yield client
    client.http.close()


@pytest.fixture(scope="session")
def tools() -> ModuleType:
    """The helpers of this module: tests are imported one by one and cannot import each other."""
    return sys.modules[__name__]


@pytest.fixture
def connect(url: str) -> Callable[..., Any]:
    """Connect the real connector."""

    def run(**options: Any) -> Any:
        host, port = url.removeprefix("http://").split(":")
        defaults = {
            "protocol": "http",
            "host": host,
            "port": int(port),
            "account": ACCOUNT,
            "user": USER,
            "private_key": private_der(KEY),
            "database": "DATA_SHARE",
            "schema": "PUBLIC",
            "warehouse": "LOAD_WH",
            "role": "DATA_SHARE_LOADER",
            "login_timeout": 5,
            "session_parameters": {"CLIENT_OUT_OF_BAND_TELEMETRY_ENABLED": False},
            "client_session_keep_alive": False,
        }
        given = {key: value for key, value in {**defaults, **options}.items() if value is not None}
        import snowflake.connector

        return snowflake.connector.connect(**given)

    return run


@pytest.fixture
def folder(s3: tuple[str, s3fs.S3FileSystem]) -> str:
    """A path of the share that nobody else uses, ending in a slash."""
    return f"run_{uuid.uuid4().hex}/"


@pytest.fixture
def put(s3: tuple[str, s3fs.S3FileSystem]) -> Callable[[str, Any], None]:
    """Write a file of the share: bytes, or the columns of a Parquet file."""

    def write(path: str, content: Any) -> None:
        if not isinstance(content, bytes):
            buffer = io.BytesIO()
            pq.write_table(content if isinstance(content, pa.Table) else pa.table(content), buffer)
            content = buffer.getvalue()
        s3[1].pipe_file(f"{URL}{path}", content)

    return write
