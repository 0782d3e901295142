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

from data_share.outcome.codes import FailureCode
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
from examples.backend.view import Viewer, limit_of, size_of, view_of
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

    user = "svc-sync"

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.newest_of: dict[str, Sync | SyncError | None] = {"tides": None}
        self.earlier: list[Sync] = []
        self.answer: Sync | SyncError = sync("queued")
        self.states: dict[str, list[Sync | SyncError]] = {}
        self.dag_of: dict[str, Any] = {"description": "Tides by harbour.", "tags": [], "next_dagrun_run_after": None}
        self.conf: dict[str, Any] = {}
        self.active: list[tuple[str, str]] = []

    async def __aenter__(self) -> FakeAirflow:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.calls.append(("closed",))

    async def dags(self) -> dict[str, dict[str, Any]]:
        if isinstance(self.answer, SyncError):
            raise self.answer
        return {name: await self.dag(name) for name in self.newest_of}

    async def dag(self, dataset: str) -> dict[str, Any]:
        return {"is_paused": False, **self.dag_of}

    def _syncs(self, dataset: str) -> list[Sync]:
        found = self.newest_of[dataset]
        if isinstance(found, SyncError):
            raise found
        return [*([found] if found else []), *self.earlier]

    async def runs(self, dataset: str, limit: int, **filters: Any) -> list[dict[str, Any]]:
        self.calls.append(("runs", limit, filters))
        known = [known for known in self._syncs(dataset) if filters.get("state", known.state) == known.state]
        return [
            {
                "dag_run_id": one.run_id,
                "state": one.state,
                "start_date": one.started and one.started.isoformat(),
                "end_date": one.ended and one.ended.isoformat(),
                "conf": self.conf.get(one.run_id),
                "note": one.note,
            }
            for one in known[:limit]
        ]

    async def ask(self, method: str, path: str, *, params: dict[str, Any]) -> dict[str, Any]:
        assert (method, path, params["state"]) == ("GET", "/api/v2/dags/~/dagRuns", ("queued", "running"))
        return {"dag_runs": [{"dag_id": f"sync_{dataset}", "dag_run_id": run} for dataset, run in self.active]}

    async def request_sync(self, dataset: str, *, conf: dict[str, Any]) -> Sync:
        self.calls.append(("request_sync", dataset, conf))
        if isinstance(self.answer, SyncError):
            raise self.answer
        return self.answer

    async def cancel(self, dataset: str, run_id: str, *, by: str | None) -> None:
        self.calls.append(("cancel", dataset, run_id, by))

    async def sync(self, dataset: str, run_id: str) -> Sync:
        self.calls.append(("sync", dataset, run_id))
        assert isinstance(self.answer, Sync)
        return next((known for known in self._syncs(dataset) if known.run_id == run_id), self.answer)

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
    assert [call for call in airflow.calls if call[0] != "sync"] == [
        *(("request_sync", "tides", {}), ("cancel", "tides", "request_1", None)),
    ]


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

    page.post("/datasets/tides/syncs/request_1/cancel", headers={b"X-Forwarded-User": sent, **SAME_ORIGIN})

    asked = [call for call in airflow.calls if call[0] != "sync"]
    assert asked == [("request_sync", "tides", conf), ("cancel", "tides", "request_1", conf.get("requested_by"))]


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

    said = text_of(page.get("/").text)
    assert "City tides Sync Data of City tides Tides by harbour. Not synced yet." in said


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
        (["success", "failed", "skipped", "skipped", "skipped", None], "Ending", 3),
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
    assert "Run in Airflow request_1" in text_of(html)
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


COMMITTED = {"source_version": 812, "source_committed_at": "2026-01-02T02:41:00.5"}
UNCHANGED = {"unchanged": True, "rows_in_target": 1461, "data_as_of": "2026-01-02T03:04:06", **COMMITTED}
SKIPPED = ("success", "success", "skipped", "skipped", "success", "success")


def test_the_version_of_the_source_stands_behind_details(page: Page, airflow: FakeAirflow) -> None:
    airflow.newest_of = {"tides": sync("success", *["success"] * 6, result={**ROW, **COMMITTED})}
    before, _, details = text_of(page.get("/").text).partition("Details")
    assert "812" not in before
    assert "The source has changed last on 2026-01-02 02:41 UTC (version 812)." in details


def test_a_sync_that_finds_nothing_new_says_since_when(page: Page, airflow: FakeAirflow) -> None:
    airflow.newest_of = {"tides": sync("success", *SKIPPED, result=UNCHANGED)}
    said = text_of(page.get("/").text)
    assert "Up to date" in said
    assert (
        "Took 6.2 s 1,461 now in the target Nothing new at the source since 2026-01-02 02:41 UTC (version 812)" in said
    )
    assert "Sync Complete" not in said


AS_OF = "Data as of 2026-01-02 03:04 UTC"
KNOWN = sync("success", *["success"] * 6, run_id="earlier", result={**ROW, "data_as_of": "2026-01-02T03:04:05.9"})


@pytest.mark.parametrize(
    "newest",
    [
        sync(),
        sync("queued"),
        sync("failed", failure=FAILURE),
        sync("success", result={"dry_run": True}),
        sync("success", failure=Failure("publish", "UNEXPECTED", "set by hand")),
    ],
    ids=["running", "queued", "failed", "a dry run", "set by hand"],
)
def test_how_old_the_data_are_stays_visible(page: Page, airflow: FakeAirflow, newest: Sync) -> None:
    airflow.newest_of, airflow.earlier = {"tides": newest}, [KNOWN]
    airflow.conf = {"request_1": {"dry_run": (newest.result or {}).get("dry_run")}}
    said = text_of(page.get("/").text)
    assert f"Tides by harbour. {AS_OF} 1,461 rows usually 6 s" in said


def test_data_are_as_old_as_the_last_look_at_the_source(page: Page, airflow: FakeAirflow) -> None:
    later = {**UNCHANGED, "data_as_of": "2026-01-02T09:41:00"}
    airflow.newest_of, airflow.earlier = {"tides": sync("success", *SKIPPED, result=later)}, [KNOWN]
    assert "Data as of 2026-01-02 09:41 UTC" in text_of(page.get("/").text)
    # The ledger of an earlier version says only when the sync began.
    airflow.newest_of = {"tides": sync("success", run_id="2", result={**ROW, "started_at": "2026-01-02T08:00:00"})}
    assert "Data as of 2026-01-02 08:00 UTC" in text_of(page.get("/").text)


@pytest.mark.parametrize(("tags", "is_stale"), [([], False), (["max-age-minutes:90.5"], True)])
def test_older_data_than_allowed_are_stale(page: Page, airflow: FakeAirflow, tags: list[str], is_stale: bool) -> None:
    airflow.newest_of = {"tides": KNOWN}
    airflow.dag_of["tags"] = [{"name": name} for name in ("data-share", "sync", *tags)]
    html = page.get("/").text
    assert ("is-stale" in html) is is_stale
    assert ("Stale: older than 90.5 min" in text_of(html)) is is_stale


def test_a_success_behind_many_failures_is_found(page: Page, airflow: FakeAirflow) -> None:
    failed = [sync("failed", run_id=f"failed_{number}", failure=FAILURE) for number in range(30)]
    airflow.newest_of, airflow.earlier = {"tides": failed[0]}, [*failed[1:], KNOWN]
    assert AS_OF in text_of(page.get("/").text)
    assert ("runs", 20, {"state": "success"}) in airflow.calls


def test_a_sync_usually_takes_what_the_last_ones_took(page: Page, airflow: FakeAirflow) -> None:
    def took(seconds: float, number: int, **fields: Any) -> Sync:
        return sync("success", run_id=f"{number}", ended=BEGAN + timedelta(seconds=seconds), result=ROW, **fields)

    # One that finds nothing new is short, and says nothing of the others.
    words = "nothing new at the source since 2026-01-02 02:41 UTC (version 812) (2.0 s)"
    short = [took(2, number, note=words) for number in range(5)]
    usual = [took(seconds, 10 + number) for number, seconds in enumerate((500, 20, 21, 19, 20))]
    airflow.newest_of, airflow.earlier = {"tides": usual[0]}, [*usual[1:], *short]
    assert "usually 20 s" in text_of(page.get("/").text)


def test_the_next_sync_of_a_schedule_is_told(page: Page, airflow: FakeAirflow) -> None:
    airflow.dag_of["next_dagrun_run_after"] = "2026-01-03T06:00:00Z"
    assert "next sync 2026-01-03 06:00 UTC" in text_of(page.get("/").text)
    airflow.dag_of["is_paused"] = True
    assert "paused in Airflow: no sync starts" in text_of(page.get("/").text)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (1461, 1461, "1,461 rows, as many as before, in 6.2 s"),
        (1400, 1461, "1,461 rows, 61 more than before, in 6.2 s"),
        (3000, 1461, "1,461 rows, 1,539 fewer than before, in 6.2 s"),
        (0, 1461, "1,461 rows, where there were none, in 6.2 s"),
    ],
)
def test_a_replace_deletes_nothing_for_people(
    page: Page, airflow: FakeAirflow, before: int, after: int, words: str
) -> None:
    row = {**ROW, "load_mode": "replace", "export_mode": "full", "rows_inserted": after, "rows_deleted": before}
    airflow.newest_of = {"tides": sync("success", *["success"] * 6, result=row)}
    said = text_of(page.get("/").text).replace(" ,", ",")
    assert words in said
    assert "deleted" not in said


def test_rows_are_told_as_soon_as_they_are_loaded(page: Page, airflow: FakeAirflow) -> None:
    airflow.newest_of = {"tides": sync("running", "success", "success", "success", rows_loaded=1461)}
    assert "1,461 rows loaded, not published yet" in text_of(page.get("/").text)


def test_the_last_syncs_are_listed_with_who_and_what_came_of_them(airflow: FakeAirflow) -> None:
    cancelled = Failure("wait_for_export", "CANCELLED", "A person ended it.", "A person ended it.")
    airflow.newest_of = {"tides": sync(requested_by="ada@example.com")}
    airflow.earlier = [
        sync("queued", run_id="waits", requested_by="svc-sync"),
        sync("success", run_id="1", result={**OF_CHANGES, "rows_loaded": 14}, requested_by="grace"),
        sync("success", run_id="2", result=UNCHANGED),
        sync("failed", run_id="3", failure=FAILURE, requested_by="grace"),
        sync("failed", run_id="4", failure=cancelled, note="cancelled by ada@example.com: x", requested_by="grace"),
        *(sync("success", run_id=f"old_{number}", result=ROW) for number in range(9)),
    ]
    page = Page(airflow, user_header="X-Forwarded-User")
    html = page.get("/datasets/tides/history", headers={"X-Forwarded-User": "ada@example.com"}).json()["html"]

    lines = [re.sub(" +", " ", text_of(row)).strip() for row in re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)]
    assert lines[:7] == [
        "When Who Rows Time Result",
        "2026-01-02 03:04 UTC you Running",
        "waits this page Queued",
        "2026-01-02 03:04 UTC grace 13 changed 6.2 s Complete",
        "2026-01-02 03:04 UTC schedule 6.2 s Up to date",
        "2026-01-02 03:04 UTC grace 6.2 s Failed: Check",
        "2026-01-02 03:04 UTC grace 6.2 s Cancelled by you",
    ]
    assert len(lines) == 11, "the head and ten syncs"
    # What has ended does not change any more.
    airflow.calls.clear()
    page.get("/datasets/tides/history")
    assert [call[-1] for call in airflow.calls if call[0] == "sync"] == ["request_1", "waits"]


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
                "13 rows changed in 6.2 s 3 inserted 9 updated 1 deleted 17,518 now in the target",
                (
                    f"Only changes were exported (feed): {OF_CHANGES['export_reason']}. "
                    "Written to S3: 14 rows, 1.4 kB. "
                    "Loaded: 14 rows; Snowflake&#39;s statements before the publish took 0.8 s."
                ),
            ),
        ),
        (
            {**OF_CHANGES, "export_mode": "compare", "rows_inserted": 0, "rows_updated": 0, "rows_exported": 1},
            (
                "1 row changed in 6.2 s 0 inserted 0 updated 1 deleted 17,518 now in the target",
                (f"Only changes were exported (compare): {OF_CHANGES['export_reason']}. Written to S3: 1 row, 1.4 kB."),
            ),
        ),
        (
            {**OF_CHANGES, "export_mode": "full", "export_reason": "full_refresh was asked for"},
            (
                "14 rows in 6.2 s 3 inserted 9 updated 1 deleted 17,518 now in the target",
                "All rows were exported (full): full_refresh was asked for. Written to S3: 14 rows, 1.4 kB.",
            ),
        ),
        # A dry run published no changes, and its answer has no cost.
        (
            {"dry_run": True, "export_mode": "feed", "rows_inserted": 3, "rows_updated": 9, "rows_deleted": 1},
            ("Dry run complete", "Nothing was published. A sync would change: 3 inserted 9 updated 1 deleted"),
        ),
        (
            {"dry_run": True, "load_mode": "replace", "export_mode": "full", "rows_inserted": 9, "rows_deleted": 9},
            (
                "Dry run complete",
                "Nothing was published. After a sync, the target would have 9 rows, as many as before.",
            ),
        ),
    ],
)
def test_what_was_exported_why_and_what_it_cost_stands_behind_details(
    page: Page, airflow: FakeAirflow, result: dict[str, Any], words: tuple[str, str]
) -> None:
    airflow.newest_of = {"tides": sync("success", *["success"] * 6, result=result)}
    said, _, details = text_of(page.get("/").text).partition("Details")
    assert words[0] in said
    assert words[1] in (said if result.get("dry_run") else details)
    assert ("changed" in said) is ("changed" in words[0])


def test_without_the_columns_of_the_ledger_the_details_have_only_the_names(page: Page, airflow: FakeAirflow) -> None:
    airflow.newest_of = {"tides": SUCCESS}
    assert "Details Run in Airflow request_1 Last syncs" in text_of(page.get("/").text)


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
    assert 'href="https://databricks.example/#job/1/run/2"' in html
    assert "check_staging" not in html
    before, _, details = text_of(html).partition("Details")
    assert "01b2-query" not in before
    assert "Failure code CHECKS_FAILED Snowflake query 01b2-query" in details


def test_a_missing_table_has_not_been_set_up_and_the_rest_stands_behind_details(
    page: Page, airflow: FakeAirflow
) -> None:
    report = FailureCode.TARGET_MISSING
    message = "The target tides has not been set up: it is missing, or ...: Object 'TIDES' does not exist (002003)"
    failure = Failure("copy_into_staging", report.name, message, report.cause, report.what_to_do)
    airflow.newest_of = {"tides": sync("failed", "success", "success", "failed", failure=failure)}
    before, _, details = text_of(page.get("/").text).partition("Details")
    assert "Load: The target table has not been set up: " in before
    assert "Run the DAG set_up_snowflake" in before
    assert "002003" not in before
    assert "(002003) Run in Airflow request_1 Failure code TARGET_MISSING" in details


def test_the_names_of_failed_checks_stand_before_details_and_their_conditions_behind(
    page: Page, airflow: FakeAirflow
) -> None:
    cause = FailureCode.CHECKS_FAILED.cause
    message = "2 of 9 checks failed on staging.tides__2026. The target is as it was.\n- deep: depth > 0\n- near: x < 9"
    failure = Failure("check_staging", "CHECKS_FAILED", message, cause, "Correct the source.")
    airflow.newest_of = {"tides": sync("failed", "success", "success", "success", "failed", failure=failure)}
    before, _, details = text_of(page.get("/").text).partition("Details")
    assert f"Check: {cause} Not passed: deep, near. Correct the source." in before
    assert "depth &gt; 0" in details


CANCELLED = Failure("wait_for_export", "CANCELLED", "A person ended it. The target is as it was.", "A person ended it.")


@pytest.mark.parametrize(
    ("note", "viewer", "headline"),
    [
        ("cancelled by ada@example.com through svc-sync: A person ended it.", Viewer("ada@example.com"), "by you"),
        ("Cancelled by ada: B\n\n---\n\ncancelled by ada: B through svc: A person", Viewer("ada"), "by you"),
        ("cancelled by grace: A person ended it.", Viewer("ada", "svc-sync"), "by grace"),
        ("cancelled by svc-sync: A person ended it.", Viewer(None, "svc-sync"), "on this page"),
        # It waits behind another sync, and ends later.
        ("For the board.\n\nCancelled by ada", Viewer("ada"), "by you"),
        ("cancelled: A person ended it.", Viewer("ada"), ""),
        (None, Viewer("ada"), ""),
        ("Cancelled by ada\n\n---\n\nwait_for_export: Out of memory", Viewer("ada"), ""),
    ],
)
def test_a_cancelled_sync_says_by_whom_and_blames_no_step(note: str | None, viewer: Viewer, headline: str) -> None:
    shown = sync("failed", "success", "failed", "skipped", "skipped", "skipped", "failed", failure=CANCELLED, note=note)
    view = view_of(shown, viewer)
    assert (view.headline, view.tone) == (f"Sync cancelled {headline}".strip(), "cancelled")
    assert (view.step, view.reason) == ("", "The target is as it was.")
    assert [step["state"] for step in view.steps] == ["stopped", "skipped", "skipped", "skipped", "done"]


def test_while_a_cancelled_sync_ends_no_step_of_it_has_failed() -> None:
    published = sync("running", *["success"] * 4, "failed", "running")
    assert [step["state"] for step in view_of(published).steps] == ["done", "done", "done", "stopped", "now"]
    cancelled = sync("running", "success", "failed", "skipped", "skipped", "skipped", "running")
    assert [step["state"] for step in view_of(cancelled).steps] == ["stopped", "skipped", "skipped", "skipped", "now"]
    failed = sync("running", "success", "failed", *["upstream_failed"] * 3, "running")
    assert [step["state"] for step in view_of(failed).steps] == ["failed", "skipped", "skipped", "skipped", "now"]


def test_somebody_elses_sync_says_whose_it_is() -> None:
    assert view_of(sync(requested_by="grace"), Viewer("ada")).who == "Started by grace"
    assert view_of(sync(requested_by="ada"), Viewer("ada")).who == ""
    assert view_of(sync(requested_by="svc"), Viewer(None, "svc")).who == ""


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


@pytest.mark.parametrize(
    ("minutes", "words"), [(1.5, "1.5 min"), (60, "60 min"), (120, "2 h"), (1440, "24 h"), (2880, "2 days")]
)
def test_limits(minutes: float, words: str) -> None:
    assert limit_of(timedelta(minutes=minutes)) == words


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
    assert [re.search(r'headline"[^>]*>([^<]*)', data["html"])[1] for _, data in events[:-1]] == [  # type: ignore[index]
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


def test_a_stream_finds_the_syncs_that_others_start(
    page: Page, airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("examples.backend.app.STREAM_SECONDS", 0.5)
    monkeypatch.setattr("examples.backend.app.LOOK_SECONDS", 0.01)
    airflow.newest_of = {"tides": SUCCESS}
    # A sync that has ended and that Airflow still calls queued is shown once.
    airflow.active = [("tides", "of_grace")]
    airflow.states = {"tides/of_grace": [sync(run_id="of_grace", requested_by="grace"), SUCCESS]}

    events = events_of(page.get("/events", params={"others": True}).text)

    assert [name for name, _ in events] == ["sync", "sync", "about"]
    assert "Started by grace" in text_of(events[0][1]["html"])
    assert "Data as of" in text_of(events[2][1]["html"]) or "No sync" in text_of(events[2][1]["html"])


def test_a_stream_outlasts_an_airflow_that_is_away(
    page: Page, airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("examples.backend.app.STREAM_SECONDS", 0.3)
    monkeypatch.setattr("examples.backend.app.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("examples.backend.overview._ACTIVE_SECONDS", 0.0)
    looks = iter([AirflowUnavailableError("away"), {"dag_runs": []}])

    async def ask(*_: Any, **__: Any) -> Any:
        found = next(looks, {"dag_runs": [{"dag_id": "sync_tides", "dag_run_id": "later"}]})
        if isinstance(found, SyncError):
            raise found
        return found

    airflow.ask = ask  # type: ignore[method-assign]
    airflow.states = {"tides/later": [sync(run_id="later")]}
    assert [name for name, _ in events_of(page.get("/events", params={"others": True}).text)][:1] == ["sync"]


def test_too_many_syncs_are_refused(page: Page, airflow: FakeAirflow) -> None:
    assert page.get("/events", params={"sync": [f"tides/{number}" for number in range(51)]}).status_code == 422
    assert airflow.calls == []
    # Without one, it has nothing to say.
    assert [name for name, _ in events_of(page.get("/events").text)] == ["end"]


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
