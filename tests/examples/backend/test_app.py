"""The backend of the Sync Data button, without Airflow: who may start syncs, what people read, when a stream ends."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any, cast

import httpx
import pytest

from examples.backend.airflow_client import (
    AirflowClient,
    AirflowUnavailableError,
    Failure,
    InvalidConfError,
    NotAllowedError,
    NotSignedInError,
    PausedError,
    Step,
    Sync,
    SyncError,
    SyncTimeoutError,
    UnknownDatasetError,
    UnknownSyncError,
)
from examples.backend.app import REQUESTED_BY, create_app, from_environment
from examples.backend.view import size_of, view_of
from tests.examples.backend.servers import served

pytestmark = pytest.mark.tier("full")

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TASKS = ("export_to_s3", "wait_for_export", "copy_into_staging", "check_staging", "publish", "finish_sync")
ROW = {"rows_loaded": 1461, "rows_inserted": 1461, "rows_updated": 0, "rows_deleted": 12, "rows_in_target": 1461}
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}
HTML = "<script>alert(1)</script>"


def sync(state: str = "running", *states: str | None, **fields: Any) -> Sync:
    steps = [*states, *[None] * (len(TASKS) - len(states))]
    return Sync(
        **{
            "dataset": "tides",
            "run_id": "request_1",
            "state": state,
            "started": None if state == "queued" else BEGAN,
            "ended": BEGAN + timedelta(seconds=6.21) if state in ("success", "failed") else None,
            "steps": tuple(Step(name, step, None, None) for name, step in zip(TASKS, steps, strict=True)),
            "result": None,
            "failure": None,
            "airflow_url": "https://airflow.example/dags/sync_tides/runs/request_1",
            "databricks_run_url": None,
            **fields,
        }
    )


SUCCESS = sync("success", *["success"] * 6, result=ROW, databricks_run_url="https://databricks.example/#job/1/run/2")
FAILURE = Failure(
    step="check_staging",
    code="CHECKS_FAILED",
    message="2 of 9 checks failed.",
    what_to_do="Correct the source.",
    databricks_run_url="https://databricks.example/#job/1/run/2",
    snowflake_query_id="01b2-query",
)


class FakeAirflow:
    """Answers as told: a sync, or an error to raise."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.newest_of: dict[str, Sync | SyncError | None] = {"tides": None}
        self.answer: Sync | SyncError = sync("queued")
        self.states: dict[str, list[Sync | SyncError]] = {}

    async def __aenter__(self) -> FakeAirflow:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.calls.append(("closed",))

    async def datasets(self) -> list[str]:
        if isinstance(self.answer, SyncError):
            raise self.answer
        return list(self.newest_of)

    async def newest(self, dataset: str) -> Sync | None:
        found = self.newest_of[dataset]
        if isinstance(found, SyncError):
            raise found
        return found

    async def request_sync(self, dataset: str, *, conf: dict[str, Any]) -> Sync:
        self.calls.append(("request_sync", dataset, conf))
        if isinstance(self.answer, SyncError):
            raise self.answer
        return self.answer

    async def cancel(self, dataset: str, run_id: str) -> None:
        self.calls.append(("cancel", dataset, run_id))

    async def sync(self, dataset: str, run_id: str) -> Sync:
        assert isinstance(self.answer, Sync)
        return self.answer

    async def follow(self, dataset: str, run_id: str, *, deadline_seconds: float) -> AsyncIterator[Sync]:
        self.calls.append(("follow", dataset, run_id, deadline_seconds))
        for state in self.states[f"{dataset}/{run_id}"]:
            if isinstance(state, SyncError):
                raise state
            yield state


@pytest.fixture
def airflow() -> FakeAirflow:
    return FakeAirflow()


class Page:
    """A browser's calls."""

    def __init__(self, airflow: FakeAirflow, user_header: str | None = None) -> None:
        self.app = create_app(cast("AirflowClient", airflow), hosts=["localhost"], user_header=user_header)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self._call("GET", path, **options))

    def post(self, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self._call("POST", path, **options))

    async def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **options)


@pytest.fixture
def page(airflow: FakeAirflow) -> Page:
    return Page(airflow)


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


def events_of(body: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the named events of a stream."""
    found = []
    for block in body.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


# Who may start a sync


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="nobody says where it comes from"),
        pytest.param({"Sec-Fetch-Site": "cross-site"}, id="another site"),
        pytest.param({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"}, id="a neighbour of the same site"),
        pytest.param({"Sec-Fetch-Site": "none"}, id="no page at all"),
        pytest.param({"Origin": "https://evil.example"}, id="another origin"),
        pytest.param({"Origin": "http://localhost:81"}, id="another port"),
        pytest.param({"Origin": "null"}, id="a sandboxed frame"),
        pytest.param({"Origin": "http://["}, id="no address at all"),
    ],
)
def test_only_the_own_page_may_change_something(page: Page, airflow: FakeAirflow, headers: dict[str, str]) -> None:
    for path in ("/datasets/tides/syncs", "/datasets/tides/syncs/request_1/cancel"):
        answer = page.post(path, headers=headers)

        assert answer.status_code == 403
        assert "nothing was done" in answer.json()["message"]
    assert airflow.calls == []


@pytest.mark.parametrize("headers", [SAME_ORIGIN, {"Origin": "http://localhost"}], ids=["Sec-Fetch-Site", "Origin"])
def test_the_own_page_may(page: Page, airflow: FakeAirflow, headers: dict[str, str]) -> None:
    assert page.post("/datasets/tides/syncs", headers=headers).status_code == 200
    assert page.post("/datasets/tides/syncs/request_1/cancel", headers=headers).status_code == 200
    assert airflow.calls == [("request_sync", "tides", {}), ("cancel", "tides", "request_1")]


def test_a_look_changes_nothing(page: Page, airflow: FakeAirflow) -> None:
    for path in ("/datasets/tides/syncs", "/datasets/tides/syncs/request_1/cancel"):
        assert page.get(path).status_code == 405
    assert airflow.calls == []


def test_another_name_for_this_address_is_refused(page: Page, airflow: FakeAirflow) -> None:
    headers = {"Host": "evil.example", **SAME_ORIGIN}

    assert page.post("/datasets/tides/syncs", headers=headers).status_code == 400
    assert page.get("/", headers=headers).status_code == 400
    assert airflow.calls == []


@pytest.mark.parametrize(
    "path", ["/datasets/..%2Fadmin/syncs", "/datasets/Tides/syncs", "/datasets/tides/syncs/a%2F..%2Fb/cancel"]
)
def test_no_path_of_airflow_can_be_made_up(page: Page, airflow: FakeAirflow, path: str) -> None:
    assert page.post(path, headers=SAME_ORIGIN).status_code in (404, 422)
    assert page.get("/events", params={"sync": "tides/../x"}).status_code == 422
    assert airflow.calls == []


def test_every_answer_keeps_the_page_to_itself(page: Page) -> None:
    for answer in (page.get("/"), page.get("/page.js"), page.get("/none"), page.post("/datasets/tides/syncs")):
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] in ("no-store", "no-cache")


# Who has started it


@pytest.mark.parametrize(
    ("header", "given", "conf"),
    [
        ("X-Forwarded-User", "ada@example.com", {"requested_by": "ada@example.com"}),
        ("X-Forwarded-User", "José O'Brien", {"requested_by": "José O'Brien"}),
        ("X-Forwarded-User", "José".encode("latin-1"), {"requested_by": "José"}),
        ("X-Forwarded-User", "DOMAIN\\山田", {"requested_by": "DOMAIN\\山田"}),
        ("X-Forwarded-User", "ada\u202eb", {}),
        ("X-Forwarded-User", "a" * 101, {}),
        ("X-Forwarded-User", "", {}),
        (None, "ada@example.com", {}),
    ],
)
def test_the_proxys_user_is_passed_on_when_the_dag_would_take_it(
    airflow: FakeAirflow, header: str | None, given: str | bytes, conf: dict[str, str]
) -> None:
    page = Page(airflow, user_header=header)
    sent = given.encode() if isinstance(given, str) else given

    page.post("/datasets/tides/syncs", headers={b"X-Forwarded-User": sent, **SAME_ORIGIN})

    assert airflow.calls == [("request_sync", "tides", conf)]


def test_a_user_is_valid_here_as_in_the_dag(sync_datasets: ModuleType) -> None:
    pattern = sync_datasets.PARAMS["requested_by"].schema["pattern"]
    assert REQUESTED_BY.pattern == pattern


# What people read


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (NotSignedInError("Airflow does not sign svc-sync in (HTTP 401)"), 502, "does not accept the credentials"),
        (NotAllowedError("Airflow refuses GET /api/v2/dags (HTTP 403)"), 502, "account lacks a right in Airflow"),
        (UnknownDatasetError("Airflow has no dataset tides"), 404, "Airflow has no dataset tides"),
        (UnknownSyncError("Airflow knows no sync x of tides"), 404, "Airflow knows no sync x"),
        (InvalidConfError("requested_by is not valid"), 400, "requested_by is not valid"),
        (PausedError("The dataset tides is paused in Airflow: unpause it"), 409, "tides is paused in Airflow"),
        (AirflowUnavailableError("ConnectError to 10.0.0.7"), 503, "Airflow does not answer"),
        (SyncTimeoutError("The sync has not ended. It goes on."), 504, "It goes on"),
        (SyncError("The answer is not Airflow's"), 502, "The answer is not Airflow's"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, SyncError) else None,
)
def test_an_error_is_a_sentence(page: Page, airflow: FakeAirflow, error: SyncError, status: int, words: str) -> None:
    airflow.answer = error

    requested, shown = page.post("/datasets/tides/syncs", headers=SAME_ORIGIN), page.get("/")

    assert (requested.status_code, shown.status_code) == (status, status)
    assert words in requested.json()["message"]
    assert words in text_of(shown.text).replace("&#39;", "'")
    assert "Try again" in shown.text
    for internal in ("svc-sync", "10.0.0.7", "/api/v2"):
        assert internal not in requested.text + shown.text


def test_trouble_with_one_dataset_leaves_the_others_alone(page: Page, airflow: FakeAirflow) -> None:
    airflow.newest_of = {"airports": NotAllowedError("403"), "tides": SUCCESS}

    answer = page.get("/")

    assert answer.status_code == 200
    assert "account lacks a right in Airflow" in answer.text
    assert "Sync Complete" in answer.text


def test_the_page_of_datasets_that_were_never_synced(page: Page, airflow: FakeAirflow) -> None:
    airflow.newest_of = {"city_tides": None}

    assert "City tides Sync Data of City tides Not synced yet." in text_of(page.get("/").text)


def test_the_page_without_datasets(page: Page, airflow: FakeAirflow) -> None:
    airflow.newest_of = {}

    assert "Airflow shows no dataset" in page.get("/").text


def headline(shown: Sync) -> str:
    return str(view_of(shown).headline)


@pytest.mark.parametrize(
    ("states", "words", "done"),
    [
        ([], "Step 1 of 5: Starting the export", 0),
        (["running"], "Step 1 of 5: Starting the export", 0),
        (["success"], "Step 1 of 5: Waiting for Databricks to export", 0),
        (["success", "deferred"], "Step 1 of 5: Waiting for Databricks to export", 0),
        (["success", "success"], "Step 2 of 5: Loading into Snowflake", 1),
        (["success", "success", "up_for_retry"], "Step 2 of 5: Loading into Snowflake (trying again)", 1),
        (["success", "success", "success", "running"], "Step 3 of 5: Checking the rows", 2),
        (["success", "success", "success", "success", "queued"], "Step 4 of 5: Publishing", 3),
        (["success"] * 5 + ["running"], "Step 5 of 5: Finishing", 4),
        (["success", "failed", "upstream_failed", "upstream_failed", "upstream_failed", "running"], "Ending", 3),
    ],
)
def test_the_steps_of_a_running_sync(states: list[str], words: str, done: int) -> None:
    view = view_of(sync("running", *states))

    assert view.headline == words
    assert view.done == done
    assert [step["name"] for step in view.steps] == ["Export", "Load", "Check", "Publish", "Finish"]
    # The first two tasks are one step for people.
    both, *rest = [states[:2], *([state] for state in states[2:])]
    for step, tasks in zip(view.steps, [both, *rest], strict=False):
        is_done = tasks == (["success"] * 2 if step["name"] == "Export" else ["success"])
        assert (step["state"] == "done") == is_done


def test_the_last_step_is_not_shown_as_failed_where_another_one_is_the_reason() -> None:
    failed = ("success", "success", "success", "failed", "upstream_failed", "failed")
    steps = view_of(sync("failed", *failed, failure=FAILURE)).steps
    assert [step["state"] for step in steps] == ["done", "done", "failed", "skipped", "done"]
    own = Failure("finish_sync", "STEP_DIED", "It died.")
    steps = view_of(sync("failed", *["success"] * 5, "failed", failure=own)).steps
    assert [step["state"] for step in steps] == ["done", "done", "done", "done", "failed"]


def test_a_reload_shows_no_export() -> None:
    steps = view_of(sync("running", "skipped", "skipped", "running")).steps
    assert [step["state"] for step in steps] == ["skipped", "now", "todo", "todo", "todo"]


def test_one_step_at_a_time_is_under_way() -> None:
    assert [step["state"] for step in view_of(sync("running", "success", "success")).steps] == [
        *("done", "now", "todo", "todo", "todo")
    ]


def test_a_queued_sync_does_nothing_yet(page: Page, airflow: FakeAirflow) -> None:
    airflow.newest_of = {"tides": sync("queued")}

    html = page.get("/").text

    assert "Queued It starts as soon as" in text_of(html).replace("Cancel the sync of Tides ", "")
    assert "under way" not in html
    assert "data-active" in html


def test_sync_complete_has_rows_duration_and_links(page: Page, airflow: FakeAirflow) -> None:
    airflow.newest_of = {"tides": SUCCESS}

    html = page.get("/").text

    assert "Sync Complete" in html
    assert "1,461 rows in 6.2 s" in text_of(html)
    assert "1,461 inserted 0 updated 12 deleted 1,461 now in the target" in text_of(html)
    assert re.findall(r'href="(https:[^"]*)"', html) == [SUCCESS.airflow_url, SUCCESS.databricks_run_url]
    assert "data-active" not in html


def test_only_what_was_published_is_called_sync_complete() -> None:
    assert headline(SUCCESS) == "Sync Complete"
    preview = {"dry_run": True, "load_mode": "replace", "rows_inserted": 5, "rows_updated": 0, "rows_deleted": 5}
    assert headline(sync("success", *["success"] * 6, result=preview)) == "Dry run complete"
    by_hand = sync("success", failure=Failure("publish", "UNEXPECTED", "marked by hand?"))
    assert headline(by_hand) == "Sync failed"
    for state in ("queued", "running", "failed"):
        assert "Complete" not in headline(sync(state, *["success"] * 6))


def test_how_old_the_data_are_stands_beside_the_rows(page: Page, airflow: FakeAirflow) -> None:
    of_version = {"source_version": 812, "source_committed_at": "2026-01-02T02:41:00.5"}
    airflow.newest_of = {"tides": sync("success", *["success"] * 6, result={**ROW, **of_version})}
    assert "Data as of 2026-01-02 02:41 UTC (version 812)" in text_of(page.get("/").text)
    unchanged = {"unchanged": True, "rows_in_target": 1461, **of_version}
    skipped = ("success", "success", "skipped", "skipped", "success", "success")
    airflow.newest_of = {"tides": sync("success", *skipped, result=unchanged)}
    said = text_of(page.get("/").text)
    assert "Up to date" in said
    assert "Nothing new at the source since 2026-01-02 02:41 UTC (version 812)" in said
    assert "Sync Complete" not in said


OF_CHANGES = {
    "export_mode": "feed",
    "export_reason": "the change data feed has 14 changes since version 811",
    "rows_exported": 14,
    "bytes_exported": 1449,
    "rows_loaded": 14,
    "statement_seconds": 0.84,
    "rows_inserted": 3,
    "rows_updated": 9,
    "rows_deleted": 1,
    "rows_in_target": 17518,
}


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (
            OF_CHANGES,
            (
                "13 rows changed in 6.2 s 3 inserted 9 updated 1 deleted 17,518 now in the target Details "
                "Only changes were exported (feed): the change data feed has 14 changes since version 811. "
                "Written to S3: 14 rows, 1.4 kB. Loaded: 14 rows; "
                "Snowflake&#39;s statements before the publish took 0.8 s."
            ),
        ),
        (
            {**OF_CHANGES, "export_mode": "compare", "rows_inserted": 0, "rows_updated": 0, "rows_exported": 1},
            (
                "1 row changed in 6.2 s 0 inserted 0 updated 1 deleted 17,518 now in the target Details "
                "Only changes were exported (compare): the change data feed has 14 changes since version 811. "
                "Written to S3: 1 row, 1.4 kB."
            ),
        ),
        (
            {**OF_CHANGES, "export_mode": "full", "export_reason": "full_refresh was asked for"},
            (
                "14 rows in 6.2 s 3 inserted 9 updated 1 deleted 17,518 now in the target Details "
                "All rows were exported (full): full_refresh was asked for. Written to S3: 14 rows, 1.4 kB."
            ),
        ),
        # A dry run published no changes, and its answer has no cost.
        (
            {"dry_run": True, "export_mode": "feed", "rows_inserted": 3, "rows_updated": 9, "rows_deleted": 1},
            "Dry run complete",
        ),
    ],
)
def test_what_was_exported_why_and_what_it_cost_stands_behind_details(
    page: Page, airflow: FakeAirflow, result: dict[str, Any], words: str
) -> None:
    airflow.newest_of = {"tides": sync("success", *["success"] * 6, result=result)}
    said = text_of(page.get("/").text)
    assert words in said
    for word in ("Details", "changed"):
        assert (word in said) is (word in words)


def test_without_the_columns_of_the_ledger_there_are_no_details(page: Page, airflow: FakeAirflow) -> None:
    airflow.newest_of = {"tides": SUCCESS}
    assert "Details" not in page.get("/").text


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (3.2e9, "3.2 GB"), (5e15, "5000.0 TB")],
)
def test_a_size_in_words(count: float, words: str) -> None:
    assert size_of(count) == words


def test_a_verification_is_called_so_and_says_what_holds(page: Page, airflow: FakeAirflow) -> None:
    of_version = {"source_version": 812, "source_committed_at": "2026-01-02T02:41:00.5"}
    verified = {"verified": True, "rows": 1461, "not_compared": [], **of_version}
    airflow.newest_of = {"tides": sync("success", *["success"] * 6, result=verified)}
    said = text_of(page.get("/").text)
    assert "Verified" in said
    assert "1,461 rows in 6.2 s" in said
    assert "The target holds what the source held on 2026-01-02 02:41 UTC (version 812)" in said
    assert "Sync Complete" not in said


def test_a_failed_sync_says_which_step_why_and_what_to_do(page: Page, airflow: FakeAirflow) -> None:
    airflow.newest_of = {"tides": sync("failed", "success", "success", "success", "failed", failure=FAILURE)}

    html = page.get("/").text

    assert "Sync failed" in html
    assert "Check: 2 of 9 checks failed. Correct the source." in text_of(html)
    assert "Snowflake query 01b2-query" in text_of(html)
    assert 'href="https://databricks.example/#job/1/run/2"' in html
    assert "check_staging" not in html


def test_a_cancelled_sync_is_called_so_and_blames_no_step() -> None:
    view = view_of(sync("failed", failure=Failure("finish_sync", "CANCELLED", "It was cancelled.")))

    assert (view.headline, view.step, view.reason) == ("Sync cancelled", "", "It was cancelled.")


def test_a_failure_without_a_reason_has_a_way_on(page: Page, airflow: FakeAirflow) -> None:
    airflow.newest_of = {"tides": sync("failed")}

    assert "Look at the run in Airflow." in page.get("/").text


def test_what_other_systems_say_is_text_and_no_markup(page: Page, airflow: FakeAirflow) -> None:
    failure = Failure(HTML, "X", HTML, HTML, databricks_run_url="javascript:alert(1)", snowflake_query_id=HTML)
    bad = sync("failed", failure=failure, run_id=f'"{HTML}')
    airflow.newest_of = {"tides": bad, HTML: PausedError(HTML)}
    airflow.states = {"tides/request_1": [bad]}
    airflow.answer = bad

    pages = [
        page.get("/").text,
        page.post("/datasets/tides/syncs", headers=SAME_ORIGIN).json()["html"],
        events_of(page.get("/events", params={"sync": "tides/request_1"}).text)[0][1]["html"],
    ]

    for html in pages:
        assert "&lt;script&gt;alert(1)" in html
        assert "<script>" not in html
        assert "javascript:" not in html


@pytest.mark.parametrize(("seconds", "words"), [(0.04, "0.0 s"), (65, "1 min 05 s"), (7380.9, "2 h 03 min")])
def test_durations(seconds: float, words: str) -> None:
    assert view_of(sync("success", result=ROW, ended=BEGAN + timedelta(seconds=seconds))).duration == words


# Streams


def test_a_stream_ends_with_the_sync(page: Page, airflow: FakeAirflow) -> None:
    airflow.states = {"tides/request_1": [sync("queued"), sync("running", "success"), SUCCESS]}

    answer = page.get("/events", params={"sync": "tides/request_1"})

    assert answer.headers["Content-Type"].startswith("text/event-stream")
    events = events_of(answer.text)
    assert [name for name, _ in events] == ["sync", "sync", "sync", "end"]
    assert [re.search(r'headline">([^<]*)', data["html"])[1] for _, data in events[:-1]] == [  # type: ignore[index]
        *("Queued", "Step 1 of 5: Waiting for Databricks to export", "Sync Complete")
    ]


def test_a_stream_ends_at_its_bound_and_is_taken_up_again(page: Page, airflow: FakeAirflow) -> None:
    airflow.states = {"tides/request_1": [sync(), SyncTimeoutError("not yet")]}

    answer = page.get("/events", params={"sync": "tides/request_1"})

    # Without the event "end", the browser connects again.
    assert [name for name, _ in events_of(answer.text)] == ["sync"]
    assert "retry: " in answer.text
    assert [call[3] for call in airflow.calls] == [900]


def test_a_stream_tells_trouble_and_is_taken_up_again_later(page: Page, airflow: FakeAirflow) -> None:
    airflow.states = {"tides/request_1": [sync(), AirflowUnavailableError("ConnectError")]}

    answer = page.get("/events", params={"sync": "tides/request_1"})

    assert events_of(answer.text)[1:] == [
        (
            "problem",
            {
                "sync": "tides/request_1",
                "message": "Airflow does not answer. Running syncs go on there. Try again in a moment.",
            },
        )
    ]
    assert re.findall(r"retry: (\d+)", answer.text)[-1] == "5000"


def test_one_stream_follows_several_syncs_each_once(page: Page, airflow: FakeAirflow) -> None:
    other = sync("success", result=ROW, dataset="airports")
    airflow.states = {"tides/request_1": [UnknownSyncError("gone")], "airports/request_1": [other]}

    answer = page.get("/events", params={"sync": ["tides/request_1", "airports/request_1", "airports/request_1"]})

    assert sorted(name for name, _ in events_of(answer.text)) == ["problem", "sync"]
    assert len(airflow.calls) == 2


def test_too_many_syncs_are_refused(page: Page, airflow: FakeAirflow) -> None:
    assert page.get("/events", params={"sync": [f"tides/{number}" for number in range(51)]}).status_code == 422
    assert page.get("/events").status_code == 422
    assert airflow.calls == []


def test_a_page_that_is_closed_is_followed_no_longer(page: Page, airflow: FakeAirflow) -> None:
    async def open_and_close() -> None:
        ended, sent = asyncio.Event(), asyncio.Event()

        async def follow(*_: object, **__: object) -> AsyncIterator[Sync]:
            try:
                yield sync()
                await asyncio.Event().wait()
            finally:
                ended.set()

        async def receive() -> dict[str, Any]:
            await sent.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if b"event: sync" in message.get("body", b""):
                sent.set()

        airflow.follow = follow  # type: ignore[method-assign]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "method": "GET",
            "path": "/events",
            "query_string": b"sync=tides/request_1",
            "headers": [(b"host", b"localhost")],
        }
        async with asyncio.timeout(10):
            await page.app(scope, receive, send)  # type: ignore[arg-type]
            await ended.wait()

    asyncio.run(open_and_close())


# Starting and ending it


def test_the_client_is_closed_with_the_backend(page: Page, airflow: FakeAirflow) -> None:
    async def run() -> None:
        async with page.app.router.lifespan_context(page.app):
            assert airflow.calls == []

    asyncio.run(run())

    assert airflow.calls == [("closed",)]


def test_what_is_not_set_is_named() -> None:
    with pytest.raises(SystemExit, match="AIRFLOW_USER, AIRFLOW_PASSWORD"):
        from_environment({"AIRFLOW_URL": "https://airflow.example", "AIRFLOW_PASSWORD": ""})


class Endless(FakeAirflow):
    """Its syncs do not end, and nothing happens."""

    async def follow(self, dataset: str, run_id: str, *, deadline_seconds: float) -> AsyncIterator[Sync]:
        yield sync()
        await asyncio.sleep(60)


@pytest.mark.sandbox
def test_one_stream_too_many_is_refused_until_another_is_closed() -> None:
    app = create_app(cast("AirflowClient", Endless()), hosts=["127.0.0.1"], max_streams=2)
    events = "/events?sync=tides/request_1"
    with served(app) as url, httpx.Client(base_url=url, timeout=30) as browser, ExitStack() as pages:
        first, second = (pages.enter_context(closing(open_stream(browser, events))) for _ in range(2))
        refused = browser.get(events)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        assert "2 pages already" in refused.json()["message"]
        # Other calls go on, and so do the streams.
        assert browser.get("/").status_code == 200
        assert not first.is_stream_consumed
        second.close()
        # The backend sees it a moment later.
        deadline = time.monotonic() + 10
        while (third := open_stream(browser, events)).status_code == 503:
            third.close()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        pages.callback(third.close)
        assert browser.get(events).status_code == 503


def open_stream(browser: httpx.Client, path: str) -> httpx.Response:
    return browser.send(browser.build_request("GET", path), stream=True)
