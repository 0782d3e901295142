"""What people and backends are told about a sync: links on its steps, the note of its run, events for a webhook."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.share import TARGET, RunningShare, wait_for

pytestmark = pytest.mark.tier("full")

CONNECTION = "data_share_webhook"
NAME = "José O'Brien (DOMAIN\\ada)"
EVENT_SECONDS = 90
"""Longest time until an event arrives. The dag-processor sends it beside its other work."""

LATE = """
description: Wanted sooner than it can be there.
source_table: main.weather.forecasts
target_table: late
load_mode: replace
create_table: from_source
required_columns: [forecast_date]
sync_deadline_minutes: 0.02
"""


class Receiver:
    """A backend's webhook on this machine: it keeps what is signed with its secret, and refuses the rest."""

    def __init__(self) -> None:
        self.key = secrets.token_bytes(32)
        self.events: list[dict[str, Any]] = []
        self.refused: list[str] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(204 if receiver.take(self.headers, body) else 401)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/hooks/syncs"

    @property
    def secret(self) -> str:
        return "whsec_" + base64.b64encode(self.key).decode()

    def take(self, headers: Any, body: bytes) -> bool:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        signature = "v1," + base64.b64encode(hmac.new(self.key, signed, hashlib.sha256).digest()).decode()
        event = json.loads(body)
        if headers["webhook-signature"] != signature or headers["webhook-id"] != event["event_id"]:
            self.refused.append(str(headers))
            return False
        self.events.append(event)
        return True

    def event(self, run_id: str, kind: str) -> dict[str, Any]:
        """Wait for the event of a run, and return it."""

        def found() -> list[dict[str, Any]]:
            return [event for event in self.events if (event["dag_run_id"], event["event"]) == (run_id, kind)]

        wait_for(lambda: bool(found()), f"{kind} of {run_id} has arrived", EVENT_SECONDS)
        (event,) = found()
        assert self.refused == []
        assert self.secret not in json.dumps(event)
        return event


@pytest.fixture(scope="module")
def receiver(running_share: RunningShare) -> Iterator[Receiver]:
    made = Receiver()
    body = {"connection_id": CONNECTION, "conn_type": "http", "host": made.url, "password": made.secret}
    running_share.airflow.ask("POST", "/connections", json=body)
    yield made
    running_share.airflow.call("DELETE", f"/connections/{CONNECTION}")
    made.server.shutdown()


def links(share: RunningShare, dag_id: str, run_id: str) -> dict[str, str | None]:
    """Return the one link of each step."""
    found = {}
    for step in ("export_to_s3", "wait_for_export", "copy_into_staging", "check_staging", "publish"):
        answer = share.airflow.ask("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{step}/links")
        ((_, found[step]),) = answer["extra_links"].items()
    return found


def note(share: RunningShare, dag_id: str, run_id: str) -> str | None:
    text: str | None = share.airflow.run(dag_id, run_id)["note"]
    return text


def query_page(query_id: str) -> str:
    return f"https://app.snowflake.com/sandbox/datashare/#/compute/history/queries/{query_id}/detail"


def test_a_success(share: RunningShare, receiver: Receiver) -> None:
    run_id = share.start_sync(conf={"requested_by": NAME})
    dag_id = f"sync_{TARGET}"
    assert share.end_of(run_id)["state"] == "success", share.failures(run_id)

    row = share.xcom(run_id, "publish")
    run_page = share.databricks_run(run_id)["run_page_url"]
    # A step writes its link after it has told that it succeeded.
    wait_for(lambda: all(links(share, dag_id, run_id).values()), "every step has its link")
    found = links(share, dag_id, run_id)
    assert (found["export_to_s3"], found["wait_for_export"]) == (run_page, run_page)
    assert found["copy_into_staging"] == query_page(json.loads(row["query_ids"])[1])
    assert len({found[step] for step in ("copy_into_staging", "check_staging", "publish")}) == 3

    of_version = rf"as of [\d-]+ [\d:]+ UTC \(version {row['source_version']}\)"
    expected = rf"{row['rows_loaded']:,} rows from {row['source_table']} {of_version} in .*"
    assert re.fullmatch(expected, note(share, dag_id, run_id) or "")

    event = receiver.event(run_id, "sync_succeeded")
    assert event["result"] == row
    assert (event["dataset"], event["run_key"]) == (TARGET, row["run_key"])
    assert (event["state"], event["requested_by"], event["failure"]) == ("success", NAME, None)
    assert event["airflow_run_url"].startswith(f"{share.endpoints.airflow_url}/dags/{dag_id}/runs/")


def test_a_failure_in_the_triggerer(share: RunningShare, receiver: Receiver) -> None:
    share.databricks("POST", "/_sandbox/fail_next", {"message": "Out of memory in stage 3"})
    run_id = share.start_sync()
    assert share.end_of(run_id)["state"] == "failed"

    run_page = share.databricks_run(run_id)["run_page_url"]
    # A step leaves its link when it has told its state.
    expected = [run_page, run_page, None, None, None]
    wait_for(lambda: list(links(share, f"sync_{TARGET}", run_id).values()) == expected, "the links are there")
    written = note(share, f"sync_{TARGET}", run_id) or ""
    assert written.startswith("wait_for_export: ")
    assert "Out of memory in stage 3" in written
    event = receiver.event(run_id, "sync_failed")
    assert "Out of memory in stage 3" in event["failure"]["message"]
    assert event["failure"] == share.xcom(run_id, "finish_sync", "failure")
    assert (event["state"], event["result"]) == ("failed", None)


def test_a_failure_in_a_worker(share: RunningShare, receiver: Receiver) -> None:
    share.hold_export("end")
    run_id = share.start_sync()
    share.wait_until_held(run_id)
    for path in share.exported_files(run_id, "manifest"):
        share.s3.rm_file(path)
    share.release_export()
    assert share.end_of(run_id)["state"] == "failed"

    wait_for(lambda: bool(links(share, f"sync_{TARGET}", run_id)["copy_into_staging"]), "the link is there")
    query = links(share, f"sync_{TARGET}", run_id)["copy_into_staging"] or ""
    assert query.startswith(query_page("").removesuffix("/detail"))
    assert (note(share, f"sync_{TARGET}", run_id) or "").startswith("copy_into_staging: ")
    assert receiver.event(run_id, "sync_failed")["failure"] == share.xcom(run_id, "finish_sync", "failure")


def test_a_missed_deadline_and_a_cancel(
    share: RunningShare, receiver: Receiver, add_dataset_file: Callable[[str, str], Path]
) -> None:
    add_dataset_file("late", LATE)
    wait_for(lambda: not share.airflow.call("GET", "/dags/sync_late").is_error, "the DAG is there", 90)
    share.hold_export("start")
    run_id = share.start_sync("late")

    event = receiver.event(run_id, "sync_deadline_missed")
    assert (event["dataset"], event["failure"], event["result"]) == ("late", None, None)
    # The one has microseconds, the other seconds.
    assert datetime.fromisoformat(event["deadline"]).replace(microsecond=0) <= datetime.fromisoformat(event["sent_at"])
    # The link is there while Databricks works.
    share.wait_until_held(run_id)
    run_page = share.databricks_run(run_id)["run_page_url"]
    wait_for(lambda: links(share, "sync_late", run_id)["wait_for_export"] == run_page, "the link is there")

    share.airflow.ask("PATCH", f"/dags/sync_late/dagRuns/{run_id}", json={"state": "failed", "note": "Too late."})
    assert share.end_of(run_id)["state"] == "failed"
    assert receiver.event(run_id, "sync_failed")["failure"]["code"] == "CANCELLED"
    # By Airflow's event log, whose call has ended it.
    told = f"Too late.\n\n---\n\ncancelled by {share.endpoints.airflow_user}: A person ended the sync"
    assert (note(share, "sync_late", run_id) or "").startswith(told)
