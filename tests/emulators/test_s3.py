from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from emulators.s3 import s3_filesystem

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox]

PROJECT = Path(__file__).parents[2]
ODD_KEYS = [
    "plain/key.parquet",
    "a b/ü%2F+&?#=.txt",
    "..",
    "x/./y",
    "UPPER",
    "upper",
    "long/" + "l" * 900,
    "trailing/",
    "日本語/データ",
]


def test_a_kill_loses_no_object_and_brings_none_back(start_s3: Callable[[Path], Any], tmp_path: Path) -> None:
    first = start_s3(tmp_path)
    files = s3_filesystem(first.url)
    for bucket in ("some-bucket", "less-bucket", "gone-bucket"):
        files.mkdir(bucket)
    for number, key in enumerate(ODD_KEYS):
        files.pipe_file(f"some-bucket/{key}", str(number).encode())
    files.pipe_file("some-bucket/plain/key.parquet", b"rewritten")
    with files.open("some-bucket/in-parts", "wb", block_size=5 * 2**20) as large:
        large.write(b"x" * (12 * 2**20))
    before = files.info("some-bucket/in-parts")
    for bucket in ("less-bucket", "gone-bucket"):
        for key in ("a", "b/ü", "c", "d"):
            files.pipe_file(f"{bucket}/{key}", b"1")
    files.call_s3("delete_object", Bucket="less-bucket", Key="a")
    files.rm(["less-bucket/b/ü", "less-bucket/c"])  # several keys in one request
    files.rm("gone-bucket", recursive=True)
    first.kill()
    unfinished = tmp_path / "less-bucket" / "0123.partial"
    unfinished.write_bytes(b'{"key": "ha')

    files = s3_filesystem(start_s3(tmp_path).url)

    for number, key in enumerate(ODD_KEYS[1:], start=1):
        assert files.cat_file(f"some-bucket/{key}") == str(number).encode(), key
    assert files.cat_file("some-bucket/plain/key.parquet") == b"rewritten"
    assert files.cat_file("some-bucket/in-parts") == b"x" * (12 * 2**20)
    after = files.info("some-bucket/in-parts")
    assert (after["ETag"], after["LastModified"]) == (before["ETag"], before["LastModified"])
    assert len(files.find("some-bucket")) == len(ODD_KEYS) + 1
    assert files.find("less-bucket") == ["less-bucket/d"]
    assert files.ls("") == ["less-bucket", "some-bucket"]
    assert not unfinished.exists()


def test_only_one_in_a_process_on_a_free_port_and_again_after_stop(s3_url: str) -> None:
    # In a process of its own, because other tests may have a server in this one.
    script = """
import sys, tempfile
from pathlib import Path
from emulators.s3 import S3Server, s3_filesystem

try:
    S3Server(Path(tempfile.mkdtemp()), port=int(sys.argv[1])).start()
except OSError as error:
    print(error.strerror)
one, two = (S3Server(Path(tempfile.mkdtemp())) for _ in range(2))
s3_filesystem(one.start()).mkdir("of-the-first")
try:
    two.start()
except RuntimeError as error:
    print(error)
one.stop()
one.stop()
print(s3_filesystem(two.start()).ls(""), end="")
two.stop()
"""
    taken = s3_url.rpartition(":")[2]
    answer = subprocess.run(
        [sys.executable, "-c", script, taken], cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False
    )
    assert answer.stdout.splitlines() == [
        "Address already in use",
        "An S3 emulator already runs in this process: use that one, or stop it first.",
        "[]",
    ], answer.stderr
    assert " 200 " not in answer.stderr  # no log line per request


def test_the_environment_of_aws_is_not_looked_at(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_PROFILE": "absent",
        "AWS_ACCESS_KEY_ID": "AKIAREAL",
        "AWS_SESSION_TOKEN": "real",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setitem(os.environ, name, value)

    files = s3_filesystem(s3_url)

    assert isinstance(files.ls(""), list)
    assert (files.key, files.secret, files.token) == ("sandbox", "sandbox", None)


def test_requests_are_counted_by_method_and_bucket(start_s3: Callable[[Path], Any], tmp_path: Path) -> None:
    server = start_s3(tmp_path)
    files = s3_filesystem(server.url)
    files.mkdir("some-bucket")
    files.mkdir("another-bucket")
    before = httpx.get(f"{server.url}/_sandbox/requests").json()
    files.pipe_file("some-bucket/a/b", b"1")
    files.find("some-bucket/a")
    files.pipe_file("another-bucket/a", b"1")
    after = httpx.get(f"{server.url}/_sandbox/requests").json()
    kinds = ("PUT some-bucket", "LIST some-bucket", "PUT another-bucket")
    assert [after[kind] - before.get(kind, 0) for kind in kinds] == [1, 1, 1]
