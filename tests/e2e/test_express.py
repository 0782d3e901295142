"""The Express example on a running share: a press becomes Sync Complete, and the share's signed events arrive."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.share import SYNC_SECONDS, TARGET, RunningShare, wait_for
from tests.examples.express.app import OWN_PAGE, App, running
from tests.examples.express.packages import copied_to

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
