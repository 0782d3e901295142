"""The Express example on a running share: its page in a browser, its routes, and the share's signed events."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.browser import browser, expect_accessible
from tests.e2e.share import SYNC_SECONDS, TARGET, RunningShare, wait_for
from tests.examples.express.app import OWN_PAGE, App, running
from tests.examples.express.packages import copied_to

__all__ = ["browser"]

pytestmark = pytest.mark.tier("full")

CONNECTION = "data_share_webhook"
SYNCS = f"/datasets/{TARGET}/syncs"


@pytest.fixture
def app(share: RunningShare, tmp_path: Path) -> Iterator[App]:
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    endpoints = share.endpoints
    account = {"AIRFLOW_USER": endpoints.airflow_user, "AIRFLOW_PASSWORD": endpoints.airflow_password}
    own = {"WEBHOOK_SECRET": secret, "BACKEND_USER_HEADER": "X-Forwarded-User"}
    with running(copied_to(tmp_path), AIRFLOW_URL=endpoints.airflow_url, **account, **own) as app:
        connection = {"connection_id": CONNECTION, "conn_type": "http", "password": secret}
        share.airflow.ask("POST", "/connections", json={**connection, "host": f"{app.url}/hooks/syncs"})
        yield app
        share.airflow.call("DELETE", f"/connections/{CONNECTION}")


def end_of(app: App, run_id: str) -> dict[str, object]:
    """Poll as the page does, until the sync has ended."""
    found: dict[str, object] = {}

    def has_ended() -> bool:
        found.update(app.get(f"{SYNCS}/{run_id}").json())
        return bool(found["finished"])

    wait_for(has_ended, f"{run_id} has ended", SYNC_SECONDS)
    return found


def test_a_press_and_a_failure_and_the_events_of_both(app: App, share: RunningShare) -> None:
    run_id = app.post(SYNCS, headers={**OWN_PAGE, "X-Forwarded-User": "ada@example.com"}).json()["runId"]
    ended = end_of(app, run_id)
    assert (ended["headline"], ended["text"]) == ("Sync Complete", "1,461 rows loaded, 1,461 rows in all.")
    assert share.airflow.xcom(f"sync_{TARGET}", run_id, "publish")["requested_by"] == "ada@example.com"
    assert app.line_with("sync_succeeded", SYNC_SECONDS) == f"sync_succeeded: {TARGET} {run_id}"

    share.databricks("POST", "/_sandbox/fail_next", {"message": "Out of memory in stage 3"})
    run_id = app.post(SYNCS).json()["runId"]
    ended = end_of(app, run_id)
    assert ended["headline"] == "Sync failed"
    assert "Out of memory in stage 3" in str(ended["text"])
    failed = app.line_with("sync_failed", SYNC_SECONDS)
    assert failed.startswith(f"sync_failed: {TARGET} {run_id}: wait_for_export: ")


@pytest.mark.browser
def test_the_page_follows_a_press_and_cancels(app: App, share: RunningShare, browser: Browser) -> None:
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(app.url)
    one = page.locator("section", has=page.get_by_role("heading", name=TARGET))
    press, cancel = (one.get_by_role("button", name=name) for name in ("Sync Data", "Cancel"))
    said = one.get_by_role("status")
    share.hold_export("start")
    press.click()
    expect(said).to_have_text("Running Waiting for Databricks to export.", timeout=1000 * SYNC_SECONDS)
    expect_accessible(page)
    share.release_export()
    expect(said).to_have_text("Sync Complete 1,461 rows loaded, 1,461 rows in all.", timeout=1000 * SYNC_SECONDS)
    expect(cancel).to_be_hidden()

    share.hold_export("start")
    press.click()
    expect(said).to_have_text("Running Waiting for Databricks to export.", timeout=1000 * SYNC_SECONDS)
    cancel.click()
    expect(said).to_have_text(re.compile("^Cancelled "), timeout=1000 * SYNC_SECONDS)
    assert errors == []
    page.close()
