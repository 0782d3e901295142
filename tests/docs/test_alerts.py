"""The lines of docs/alerts.md that check a signature take what the notifier signs, and nothing else."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_share.alerts import SYNC_DEADLINE_MISSED, SYNC_FAILED, SYNC_SUCCEEDED, Webhook

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "alerts.md").read_text()
KEY, NEW_KEY = b"k" * 32, b"n" * 32
SECRET = "whsec_" + base64.b64encode(KEY).decode()
BODY = '{"event": "sync_failed", "message": "café"}'.encode()
NODE = shutil.which("node")

Request = tuple[dict[str, str], bytes]


def block(language: str) -> str:
    """Return the first block of a language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def signed(*keys: bytes, age: float = 0, **headers: str) -> Request:
    made = Webhook("https://backend.example.com/hooks", keys).headers("the-id", BODY, time.time() - age)
    return {**made, **headers}, BODY


def requests_by_kind() -> tuple[dict[str, Request], dict[str, Request]]:
    """Make requests that are genuine, and others that are not; their age counts from now."""
    genuine = {
        "of now": signed(KEY),
        "a minute old": signed(KEY, age=60),
        "with a new secret beside": signed(NEW_KEY, KEY),
    }
    signature = signed(KEY)[0]["webhook-signature"]
    forged = {
        "recorded ten minutes ago": signed(KEY, age=600),
        "of the future": signed(KEY, age=-600),
        "of another secret": signed(NEW_KEY),
        "with another body": (signed(KEY)[0], BODY.replace(b"failed", b"succeeded")),
        "under another id": signed(KEY, **{"webhook-id": "another"}),
        "with a new time": signed(KEY, age=600, **{"webhook-timestamp": str(int(time.time()))}),
        "without a version": signed(KEY, **{"webhook-signature": signature.removeprefix("v1,")}),
        "with a short signature": signed(KEY, **{"webhook-signature": "v1,"}),
    }
    return genuine, forged


def in_python(requests: dict[str, Request]) -> dict[str, bool]:
    names: dict[str, Any] = {}
    exec(block("python"), names)
    check: Callable[..., bool] = names["is_genuine"]
    return {name: check(headers, body, SECRET) for name, (headers, body) in requests.items()}


def in_node(requests: dict[str, Request]) -> dict[str, bool]:
    if NODE is None:
        if os.environ.get("CI"):
            pytest.fail("node is not installed")
        pytest.skip("node is not installed")
    given = {name: [headers, base64.b64encode(body).decode()] for name, (headers, body) in requests.items()}
    script = f"""{block("js")}
    const [requests, secret] = JSON.parse(process.argv[1]);
    const answers = Object.entries(requests).map(
      ([name, [headers, body]]) => [name, isGenuine(headers, Buffer.from(body, "base64"), secret)]);
    console.log(JSON.stringify(Object.fromEntries(answers)));
    """
    command = [NODE, "--input-type=module", "--eval", script, "--", json.dumps([given, SECRET])]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    answers: dict[str, bool] = json.loads(result.stdout)
    return answers


@pytest.mark.parametrize("check", [in_python, in_node])
def test_the_lines_of_the_page_take_genuine_requests_only(
    check: Callable[[dict[str, Request]], dict[str, bool]],
) -> None:
    genuine, forged = requests_by_kind()
    answers = check({**genuine, **forged})
    assert answers == {**dict.fromkeys(genuine, True), **dict.fromkeys(forged, False)}


def test_the_page_names_every_event_and_shows_every_field() -> None:
    shown = json.loads(block("json"))
    assert {SYNC_SUCCEEDED, SYNC_FAILED, SYNC_DEADLINE_MISSED} <= set(re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE))
    assert list(shown) == [
        *("event", "event_id", "dataset", "dag_id", "dag_run_id", "run_key", "state", "requested_by", "result"),
        *("failure", "deadline", "airflow_run_url", "sent_at"),
    ]
