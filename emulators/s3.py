"""Emulator of Amazon S3: moto's server. Objects are also written to files, so that a killed process loses no object."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import aiobotocore.session
import s3fs
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import BaseWSGIServer, make_server

from emulators.share_names import buckets

REGION = "us-east-1"
ACCESS_KEY_ID = "sandbox"
SECRET_ACCESS_KEY = "sandbox"

SHARE_BUCKET = buckets()[0]
"""The bucket of the default share, which Databricks may export to and Snowflake may load from."""

COUNTS_PATH = "/_sandbox/requests"
"""Tells how many requests there were, by method and bucket. It is no object: no bucket's name has an underscore."""

_WRITING_METHODS = frozenset({"PUT", "POST", "DELETE"})
# moto shares one store between all servers of a process, so a second server would show the first server's objects.
_one_per_process = threading.Lock()


class _QuietHandler(MotoRequestHandler):
    """moto's request handler without a log line per request."""

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 (werkzeug passes it by this name)
        """Log nothing: a sync makes hundreds of requests."""


class _Mirror:
    """
    WSGI middleware that writes every change of an object to a file before it answers the client.

    Each object has a file of its own: a line of JSON with key and headers, then the bytes. The file's name is a hash of
    the key, because keys may be longer than a file name, differ only in case, or contain any character.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]], directory: Path) -> None:
        self._app = app
        self._directory = directory
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        if environ["PATH_INFO"] == COUNTS_PATH:
            with self._lock:
                counts = json.dumps(self._counts).encode()
            start_response("200 OK", [("Content-Type", "application/json")])
            return [counts]
        method = "LIST" if "list-type" in environ.get("QUERY_STRING", "") else environ["REQUEST_METHOD"]
        with self._lock:
            self._counts[f"{method} {environ['PATH_INFO'].split('/')[1]}"] += 1
        if environ["REQUEST_METHOD"] not in _WRITING_METHODS:
            return self._app(environ, start_response)

        status = ""

        def note_status(line: str, *args: Any) -> Any:
            nonlocal status
            status = line
            return start_response(line, *args)

        answer = self._app(environ, note_status)
        try:
            body = list(answer)
        finally:
            if close := getattr(answer, "close", None):
                close()
        if status.startswith("2"):
            # Path style: /bucket/key. WSGI has decoded the path as latin-1.
            path = unquote(quote(environ["PATH_INFO"], encoding="latin-1"))
            bucket, _, key = path.lstrip("/").partition("/")
            if bucket:
                self._copy(bucket, key)
        return body

    def load(self) -> None:
        """Load the objects from the files into moto's memory."""
        backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        backend.reset()
        self._directory.mkdir(parents=True, exist_ok=True)
        for folder in sorted(path for path in self._directory.iterdir() if path.is_dir()):
            backend.create_bucket(folder.name, REGION)
            for file in folder.iterdir():
                if file.suffix == ".partial":  # the process was killed while it wrote this file
                    file.unlink()
                    continue
                with file.open("rb") as source:
                    header = json.loads(source.readline())
                    stored = backend.put_object(
                        folder.name, header["key"], source.read(), etag=header["etag"], disable_notification=True
                    )
                stored.set_metadata(header["metadata"], replace=True)
                stored.last_modified = datetime.fromisoformat(header["last_modified"])

    def _copy(self, bucket: str, key: str) -> None:
        """Write the state of moto's memory to the files: of one key, or of the whole bucket if the key is empty."""
        # The lock covers reading and writing, so that an older state never overwrites a newer one.
        with self._lock:
            buckets = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets
            folder = self._directory / bucket
            if bucket not in buckets:
                if folder.is_dir():
                    shutil.rmtree(folder)
                return
            folder.mkdir(exist_ok=True)
            keys = buckets[bucket].keys
            if key:
                self._copy_object(folder, key, keys.get(key))
                return
            # A request to the bucket itself: the bucket was created, or several objects were deleted at once.
            kept = {_file_name(name) for name in keys}
            for file in folder.iterdir():
                if file.name not in kept:
                    file.unlink()

    def _copy_object(self, folder: Path, key: str, stored: Any) -> None:
        target = folder / _file_name(key)
        if stored is None or not hasattr(stored, "value"):  # absent, or a delete marker
            target.unlink(missing_ok=True)
            return
        header = {
            "key": key,
            "etag": stored.etag.strip('"'),
            "metadata": dict(stored.metadata),
            "last_modified": stored.last_modified.isoformat(),
        }
        partial = target.with_suffix(".partial")
        with partial.open("wb") as file:
            file.write(json.dumps(header).encode() + b"\n")
            file.write(stored.value)
        partial.replace(target)


def _file_name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class S3Server:
    """
    S3 on loopback, with the objects stored below a directory.

    Only one server can run per process. A restart keeps buckets, objects, and their ETag, time and metadata. It loses
    incomplete multipart uploads and the settings of buckets.

    :param state_dir: directory of the objects; created if missing.
    :param host: address to listen on.
    :param port: port to listen on; 0 takes a free one.
    """

    def __init__(self, state_dir: Path, host: str = "127.0.0.1", port: int = 0) -> None:
        self._mirror = _Mirror(create_backend_app("s3"), state_dir)
        self._host = host
        self._port = port
        self._server: BaseWSGIServer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> str:
        """
        Load the objects, listen, and return the endpoint URL.

        :raises RuntimeError: another S3 emulator runs in this process.
        :raises OSError: the port is taken.
        """
        if not _one_per_process.acquire(blocking=False):
            raise RuntimeError("An S3 emulator already runs in this process: use that one, or stop it first.")
        try:
            self._mirror.load()
            self._server = make_server(
                self._host, self._port, self._mirror, threaded=True, request_handler=_QuietHandler
            )
        except SystemExit as error:  # werkzeug exits if it cannot listen
            _one_per_process.release()
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), f"{self._host}:{self._port}") from error
        except BaseException:
            _one_per_process.release()
            raise
        self._thread = threading.Thread(target=self._server.serve_forever, name="s3", daemon=True)
        self._thread.start()
        return f"http://{self._host}:{self._server.server_port}"

    def stop(self) -> None:
        """Stop the server. Do nothing if it is not running."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server = None
        self._thread = None
        _one_per_process.release()


def s3_filesystem(endpoint_url: str) -> s3fs.S3FileSystem:
    """
    Return a file system on the emulator that caches nothing.

    It ignores the credentials, profile, configuration files and proxies of the environment: the emulator must never
    reach, or depend on, a real AWS account.
    """
    session = aiobotocore.session.AioSession(
        session_vars={
            "profile": (None, None, None, None),
            "config_file": (None, None, os.devnull, None),
            "credentials_file": (None, None, os.devnull, None),
        }
    )
    return s3fs.S3FileSystem(
        key=ACCESS_KEY_ID,
        secret=SECRET_ACCESS_KEY,
        client_kwargs={"endpoint_url": endpoint_url},
        config_kwargs={
            "region_name": REGION,  # as a client argument it would become a location constraint, which S3 refuses here
            "s3": {"addressing_style": "path"},
            "proxies": {},
            "connect_timeout": 5,
            "read_timeout": 60,
        },
        session=session,
        use_listings_cache=False,
        skip_instance_cache=True,
    )


def storage_options(endpoint_url: str) -> dict[str, str]:
    """Return the options by which ``deltalake`` reaches the emulator of S3."""
    return {
        "AWS_ENDPOINT_URL": endpoint_url,
        "AWS_ENDPOINT_URL_S3": endpoint_url,  # without it, this variable in the environment would take precedence
        "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
        "AWS_REGION": REGION,
        "AWS_ALLOW_HTTP": "true",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false",
        "aws_conditional_put": "etag",  # of two writers, only one can commit a version
    }
