"""What docs/alerts.md shows: an event as it is sent, and lines that take what the notifier signs, and nothing else."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from tests.docs.markdown import PROJECT, Page

pytestmark = pytest.mark.tier("full")

KEY, NEW_KEY = b"k" * 32, b"n" * 32
SECRET = "whsec_" + base64.b64encode(KEY).decode()
BODY = '{"event": "sync_failed", "message": "café"}'.encode()
NODE = shutil.which("node")

Request = tuple[dict[str, str], bytes]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page.read("docs/alerts.md")


def signed(*keys: bytes, age: float = 0, **headers: str) -> Request:
    from data_share.outcome.webhook import Webhook

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


def in_python(page: Page, requests: dict[str, Request]) -> dict[str, bool]:
    names: dict[str, Any] = {}
    exec(page.block("python"), names)
    check: Callable[..., bool] = names["is_genuine"]
    return {name: check(headers, body, SECRET) for name, (headers, body) in requests.items()}


def in_node(page: Page, requests: dict[str, Request]) -> dict[str, bool]:
    if NODE is None:
        if os.environ.get("CI"):
            pytest.fail("node is not installed")
        pytest.skip("node is not installed")
    given = {name: [headers, base64.b64encode(body).decode()] for name, (headers, body) in requests.items()}
    script = f"""{page.block("js")}
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
    page: Page, check: Callable[[Page, dict[str, Request]], dict[str, bool]]
) -> None:
    genuine, forged = requests_by_kind()
    answers = check(page, {**genuine, **forged})
    assert answers == {**dict.fromkeys(genuine, True), **dict.fromkeys(forged, False)}


def test_the_lines_for_node_are_those_of_the_example(page: Page) -> None:
    assert (PROJECT / "examples" / "express" / "webhook.mjs").read_text().endswith(page.block("js"))


def test_the_page_shows_an_event_as_it_is_sent(page: Page) -> None:
    from data_share.outcome import webhook

    shown = json.loads(page.block("json"))
    run = {name: shown[name] for name in ("dag_id", "dag_run_id", "state")}
    context = {
        "dag_run": {
            **run,
            "run_after": "2026-11-22T19:52:12Z",
            "clear_number": 0,
            "conf": {"requested_by": shown["requested_by"]},
        },
        "reason": "task_failure",
    }
    with mock.patch.object(webhook.XCom, "get_one", autospec=True, return_value=shown["failure"]):
        sent = webhook.event_of(context)
    assert sent is not None
    assert list(sent) == list(shown)
    other_each_time = {name: sent[name] for name in ("event_id", "airflow_run_url", "sent_at")}
    assert {**sent, **other_each_time} == {**shown, **other_each_time}
    named = set(re.findall(r"^\| `(\w+)`", page.text, re.MULTILINE))
    assert named == {webhook.SYNC_SUCCEEDED, webhook.SYNC_FAILED, webhook.SYNC_DEADLINE_MISSED}


def test_the_notifiers_of_the_page_can_be_made(page: Page) -> None:
    from airflow.sdk import BaseNotifier

    names: dict[str, Any] = {}
    (block,) = [block for block in page.blocks if "ON_FAILURE" in block.content]
    exec(block.content, names)
    assert isinstance(names["ON_FAILURE"][0], BaseNotifier)
