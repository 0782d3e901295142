"""The page "Data shares" in Airflow's UI, in a browser: on a real stack, and with answers that take a real one days."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, FrameLocator, Locator, Page, Route, expect

import data_share
from tests.e2e.browser import ANSWER_MILLISECONDS, browser, expect_accessible, take_picture
from tests.e2e.share import TARGET, RunningShare, wait_for

__all__ = ["browser"]

pytestmark = [pytest.mark.tier("full"), pytest.mark.browser]

SYNC_MILLISECONDS = 120_000
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 800}

OpenPage = Callable[..., Page]

# It has no other target than the first sync makes.
LIMITED = """\
description: Forecasts each day, and never older than three seconds.
source_table: main.weather.forecasts
target_table: hourly_forecasts
load_mode: replace
create_table: from_source
required_columns: [date]
schedule: "0 3 * * *"
max_age_minutes: 0.05
"""


@pytest.fixture(scope="module")
def signed_in(browser: Browser, running_share: RunningShare) -> Any:
    """What a browser keeps of a person who signed in to Airflow's UI."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(running_share.endpoints.airflow_url)
    page.get_by_label("Username").fill(running_share.endpoints.airflow_user)
    page.locator("input[type=password]").fill(running_share.endpoints.airflow_password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(re.compile(r"/$"), timeout=ANSWER_MILLISECONDS)
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def new_page(browser: Browser) -> Iterator[OpenPage]:
    """Make pages that are closed after the test, which fails if a script of theirs has failed."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def make(**options: Any) -> Page:
        contexts.append(browser.new_context(**{"viewport": DESK, **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(ANSWER_MILLISECONDS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        # The browser itself notes each answer of 400 and more.
        page.on("console", lambda note: errors.append(note.text) if _is_error(note) else None)
        return page

    yield make
    for context in contexts:
        context.close()
    assert errors == []


def _is_error(note: Any) -> bool:
    of_the_page = "/data-share/" in note.location["url"] or "Content Security Policy" in note.text
    return bool(note.type == "error" and of_the_page)


def frame_of(page: Page) -> FrameLocator:
    return page.frame_locator("iframe[title='Data shares']")


def card(frame: FrameLocator | Page, dataset: str) -> Locator:
    return frame.get_by_role("article", name=dataset, exact=True)


def fact(one: Locator, term: str) -> Locator:
    return one.locator("dl > div", has=one.page.get_by_text(term, exact=True)).locator("dd")


def runs_of(share: RunningShare) -> dict[str, Any]:
    return share.airflow.ask("GET", f"/dags/sync_{TARGET}/dagRuns", params={"order_by": "-run_after"})


# ---- on the real stack, signed in, within the frame that Airflow puts around the page


@pytest.fixture
def open_in_airflow(new_page: OpenPage, signed_in: Any, share: RunningShare) -> OpenPage:
    """Open Airflow's UI, and the page from its navigation."""

    def open_page(**options: Any) -> Page:
        page = new_page(storage_state=signed_in, **options)
        page.goto(share.endpoints.airflow_url)
        page.get_by_role("link", name="Data shares").click()
        expect(frame_of(page).get_by_role("heading", name="Data shares")).to_be_visible()
        return page

    return open_page


def test_a_press_of_sync_is_followed_to_its_rows(
    share: RunningShare, open_in_airflow: OpenPage, add_dataset_file: Callable[[str, str], Path]
) -> None:
    add_dataset_file("tides", "source_table: main.sea.tides\ntarget_table: tides\nload_mode: replac\n")
    share.hold_export("start")
    before = runs_of(share)["total_entries"]
    page = open_in_airflow()
    one = card(frame_of(page), TARGET)

    one.get_by_role("button", name=f"Sync {TARGET}").dblclick()

    expect(one).to_contain_text("Step 1 of 5: Waiting for Databricks", timeout=SYNC_MILLISECONDS)
    expect(one.locator("header")).to_contain_text("Running")
    runs = runs_of(share)
    assert runs["total_entries"] == before + 1
    assert runs["dag_runs"][0]["triggering_user_name"] == share.endpoints.airflow_user
    share.release_export()
    expect(one.locator("header")).to_contain_text("Succeeded", timeout=SYNC_MILLISECONDS)
    expect(fact(one, "Rows")).to_have_text("1,461")
    expect(fact(one, "Last success")).to_have_text("just now")
    ledger = share.airflow.xcom(f"sync_{TARGET}", runs["dag_runs"][0]["dag_run_id"], "publish")
    assert ledger["requested_by"] == share.endpoints.airflow_user
    expect(fact(one, "Data as of")).to_have_text("just now")
    expect(fact(one, "Source")).to_have_text(re.compile(rf"^\d+ \w+.*, version {ledger['source_version']}$"))
    # Before another page opens: a page that is hidden behind one does not refresh itself.
    invalid = card(frame_of(page), "tides")
    expect(invalid).to_contain_text("include/datasets/tides.yaml", timeout=SYNC_MILLISECONDS)
    expect(invalid).to_contain_text("load_mode")
    # Airflow's frame lets no page open a window; this link opens one all the same.
    with page.context.expect_page() as opened:
        one.get_by_role("link", name="Databricks run").click()
    opened.value.wait_for_url(f"{share.endpoints.databricks_url}/**", wait_until="commit")


def test_a_sync_without_anything_new_leaves_the_rows_and_says_so(
    share: RunningShare, open_in_airflow: OpenPage
) -> None:
    version = share.sync()["source_version"]
    share.let_sources_change(False)
    one = card(frame_of(open_in_airflow()), TARGET)

    one.get_by_role("button", name=f"Sync {TARGET}").click()

    expect(one).to_contain_text("The last sync, just now, found nothing new at the source.", timeout=SYNC_MILLISECONDS)
    expect(one.locator("header")).to_contain_text("Succeeded")
    expect(fact(one, "Rows")).to_have_text("1,461")
    expect(fact(one, "Data as of")).to_have_text("just now")
    expect(fact(one, "Source")).to_contain_text(f"version {version}")


def test_a_failed_sync_shows_its_sentence_in_light_and_in_dark(share: RunningShare, open_in_airflow: OpenPage) -> None:
    share.databricks("POST", "/_sandbox/fail_next", {"message": "Out of memory in stage 3"})
    page = open_in_airflow(color_scheme="dark")
    frame = frame_of(page)
    one = card(frame, "city_temperatures")

    one.get_by_role("button", name="Sync").click()

    # An earlier test may have left a failure there: this one begins with a run that is queued.
    expect(one.locator("header")).not_to_contain_text("Failed")
    expect(one.locator("header")).to_contain_text("Failed", timeout=SYNC_MILLISECONDS)
    expect(one).to_contain_text("The last sync failed just now.")
    # First words for people; what only others understand stands behind Details.
    expect(one.locator(".sentence")).to_have_text("The export job failed on Databricks.")
    told = one.locator(".more").get_by_text("Out of memory in stage 3")
    expect(told).to_be_hidden()
    one.get_by_text("Details").click()
    expect(told).to_contain_text("wait_for_export: ")
    expect(one.locator(".more").get_by_text("EXPORT_FAILED")).to_be_visible()
    one.get_by_text("Details").click()
    expect(one.get_by_role("img")).to_have_attribute("aria-label", re.compile("[1-9][0-9]* of them failed"))
    chart = one.locator(".chart")
    expect(chart.locator(".scale").first).to_have_text(re.compile(r"^\d.*\ss0$"))
    expect(chart.locator(".legend")).to_contain_text("failed")
    expect(one.get_by_role("listitem").last).to_have_text(re.compile(r": failed, \d.*\ss$"))
    chart.locator("[data-run]").first.hover()
    expect(chart.locator(".reading")).to_have_text(one.get_by_role("listitem").first.text_content() or "")
    only_failed = frame.get_by_role("button", name=re.compile(r"^\d+ failed$"))
    only_failed.click()
    expect(frame.get_by_role("article").filter(visible=True)).to_have_count(frame.locator(".badge.failed").count())
    only_failed.click()
    # The theme is that of Airflow's UI, also when a person changes it there.
    html = frame.locator("html")
    for theme in ("dark", "light"):
        # As when the theme is chosen in another tab.
        page.evaluate("newValue => dispatchEvent(new StorageEvent('storage', {key: 'theme', newValue}))", theme)
        expect(html).to_have_attribute("data-theme", theme)
        expect(html).to_have_css("color-scheme", theme)
        take_picture(page, f"status-page-{theme}")
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    take_picture(page, "status-page-phone")
    assert fact(one, "Took").locator("span").evaluate(LINES_OF, ".+") == 1
    assert html.evaluate("html => html.scrollWidth <= html.clientWidth")


def test_a_sync_is_cancelled_by_the_keyboard_and_counts_as_cancelled(
    share: RunningShare, new_page: OpenPage, signed_in: Any
) -> None:
    if not share.target():
        share.sync()
    share.hold_export("start")
    page = new_page(storage_state=signed_in)
    page.goto(f"{share.endpoints.airflow_url}/data-share/")
    one = card(page, TARGET)
    one.get_by_role("button", name=f"Sync {TARGET}").click()
    expect(one).to_contain_text("Step 1 of 5: Waiting for Databricks", timeout=SYNC_MILLISECONDS)
    expect_accessible(page)

    one.get_by_role("button", name=f"Cancel the running sync of {TARGET}").press("Enter")

    expect(one.get_by_role("heading")).to_be_focused()
    expect(one.locator("header")).to_contain_text("Cancelled", timeout=SYNC_MILLISECONDS)
    who = share.endpoints.airflow_user
    expect(one).to_contain_text(f"The last sync was cancelled just now by {who}. It was not published; the target")
    expect(one.locator(".failure")).to_be_hidden()
    counted = re.compile(r"\d+ of them failed, [1-9]\d* cancelled\.")
    expect(one.get_by_role("img")).to_have_attribute("aria-label", counted)
    expect(page.get_by_role("button", name=re.compile(r"[1-9]\d* cancelled"))).to_be_visible()
    expect_accessible(page)
    # The data have the age that they had.
    expect(fact(one, "Data as of")).to_contain_text(re.compile("just now|ago"))


@pytest.mark.tier("nightly")
def test_a_schedule_and_a_limit_of_the_age_are_told(
    share: RunningShare, new_page: OpenPage, signed_in: Any, add_dataset_file: Callable[[str, str], Path]
) -> None:
    add_dataset_file("hourly_forecasts", LIMITED)
    wait_for(lambda: not share.airflow.call("GET", "/dags/sync_hourly_forecasts").is_error, "the DAG is there", 120)
    share.sync("hourly_forecasts")
    page = new_page(storage_state=signed_in, viewport={"width": 1280, "height": 3000})
    page.goto(f"{share.endpoints.airflow_url}/data-share/")
    one = card(page, "hourly_forecasts")
    expect(fact(one, "Next run")).to_have_text(re.compile(r"^in \d+ (hr|min)\."))
    expect(one.locator("header .badge:visible")).to_have_text("Stale")
    expect(one).to_contain_text("The data are stale: older than 0.05 min")
    page.get_by_role("button", name="stale").click()
    expect(page.get_by_role("article")).to_have_count(1)


def test_a_link_leaves_the_frame(share: RunningShare, open_in_airflow: OpenPage) -> None:
    run_id = share.start_sync()
    page = open_in_airflow()

    card(frame_of(page), TARGET).get_by_role("link", name="Last run", exact=True).click()

    address = f"{share.endpoints.airflow_url}/dags/sync_{TARGET}/runs/{run_id}"
    page.wait_for_url(lambda url: unquote(url).startswith(address))
    expect(page.get_by_text("DatabricksExportOperator").first).to_be_visible()
    share.end_of(run_id)


def test_who_may_not_start_a_sync_reads_it(share: RunningShare, new_page: OpenPage, signed_in: Any) -> None:
    page = new_page(storage_state=signed_in)
    page.goto(f"{share.endpoints.airflow_url}/data-share/")
    # What Airflow answers to a user with the role "viewer".
    page.route(
        "**/dagRuns", lambda route: route.fulfill(status=403, json={"detail": "Forbidden"}) if _is_post(route) else None
    )
    one = card(page, TARGET)

    one.get_by_role("button", name="Sync").click()

    expect(one.get_by_role("status")).to_have_text(
        "You may not start syncs of this dataset. Airflow says: Forbidden (403)"
    )
    expect(one.get_by_role("button", name="Sync")).to_be_enabled()


def _is_post(route: Route) -> bool:
    if route.request.method == "POST":
        return True
    route.continue_()
    return False


# ---- with answers made here


ENDED = "A person ended the sync in Airflow. It was not published; the target is as it was."


class FakeAirflow:
    """Answers the page's REST calls, and counts them."""

    def __init__(self) -> None:
        self.dags: dict[str, dict[str, Any]] = {}
        self.runs: list[dict[str, Any]] = []
        self.published: dict[str, dict[str, Any]] = {}
        self.xcoms: dict[str, Any] = {}
        self.calls: Counter[str] = Counter()
        self.import_errors: list[dict[str, str]] = []
        self.refusal: int | None = None
        self.patched: list[tuple[str, dict[str, Any]]] = []

    def add(self, dataset: str, *states: str, hours: float = 1, tags: Sequence[str] = (), **dag: Any) -> None:
        """
        Add a dataset with runs of these states, the last one of which has just begun or ended.

        A cancelled run is one that has failed, and whose note says so.
        """
        dag_id = f"sync_{dataset}"
        self.dags[dag_id] = {
            "dag_id": dag_id,
            "description": f"Rows of {dataset}.",
            "is_paused": False,
            "next_dagrun_run_after": None,
            "timetable_summary": None,
            "tags": [{"name": name} for name in ("data-share", "sync", *tags)],
            **dag,
        }
        for number, state in enumerate(states):
            note = f"cancelled by ada: {ENDED}" if state == "cancelled" else None
            state = "failed" if state == "cancelled" else state
            start = datetime.now(UTC) - timedelta(hours=hours * (len(states) - 1 - number), seconds=20)
            is_over = state in ("success", "failed")
            run = {
                "dag_id": dag_id,
                "dag_run_id": f"{dataset}-{number}",
                "state": state,
                "run_after": start.isoformat(),
                "start_date": None if state == "queued" else start.isoformat(),
                "end_date": (start + timedelta(seconds=8)).isoformat() if is_over else None,
                "duration": 8.0 if is_over else None,
                "conf": {},
                "note": note,
            }
            self.runs.append(run)
            if state == "success":
                self.published[run["dag_run_id"]] = {"rows": 1000 + number, "timestamp": run["end_date"]}

    def answer(self, route: Route) -> None:
        address = urlsplit(route.request.url)
        path = address.path.partition("/api/v2/")[2]
        self.calls[re.sub(r"sync_\w+", "<dag>", path)] += 1
        if self.refusal == 0:
            route.abort("connectionrefused")
        elif self.refusal:
            route.fulfill(status=self.refusal, json={"detail": "Not authenticated"})
        else:
            found = self._find(path, parse_qs(address.query), json.loads(route.request.post_data or "{}"))
            route.fulfill(status=200 if found else 404, json=found or {"detail": "Not found"})

    def _find(self, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> dict[str, Any] | None:
        if path == "dags":
            return {"dags": list(self.dags.values()), "total_entries": len(self.dags)}
        if path == "importErrors":
            return {"import_errors": self.import_errors, "total_entries": len(self.import_errors)}
        if path == "dags/~/dagRuns":
            return self._runs([])
        if path == "dags/~/dagRuns/list":
            return self._runs(self.runs, body["page_limit"])
        if found := re.fullmatch(r"dags/(sync_\w+)/dagRuns", path):
            states = query.get("state", ["success", "failed", "running", "queued"])
            runs = [run for run in self.runs if run["dag_id"] == found[1] and run["state"] in states]
            return self._runs(runs, int(query["limit"][0]))
        if path == "assets/events":
            events = [
                {
                    "source_run_id": run_id,
                    "timestamp": event["timestamp"],
                    "extra": {
                        "rows_inserted": event["rows"],
                        "rows_updated": 0,
                        "rows_in_target": 5000,
                        **event.get("extra", {}),
                    },
                }
                for run_id, event in reversed(self.published.items())
            ]
            return {"asset_events": events, "total_entries": len(events)}
        if path.endswith("taskInstances/list"):
            return {"task_instances": [], "total_entries": 0}
        if found := re.fullmatch(r"dags/sync_\w+/dagRuns/([\w-]+)", path):
            run = next(run for run in self.runs if run["dag_run_id"] == found[1])
            if body:
                self.patched.append((found[1], body))
            return run
        if path.endswith("/finish_sync"):
            return {"id": "this attempt"}
        return {"value": self.xcoms[path]} if path in self.xcoms else None

    @staticmethod
    def _runs(runs: list[dict[str, Any]], limit: int = 100) -> dict[str, Any]:
        latest_first = sorted(runs, key=lambda run: run["run_after"], reverse=True)
        return {"dag_runs": latest_first[:limit], "total_entries": len(runs)}


@pytest.fixture
def fake() -> FakeAirflow:
    return FakeAirflow()


@pytest.fixture
def open_page(new_page: OpenPage, running_share: RunningShare, fake: FakeAirflow) -> OpenPage:
    """Open the page by itself, with the fake's answers and a clock that the test turns."""

    def open_page(**options: Any) -> Page:
        page = new_page(**options)
        page.clock.install()
        page.route("**/api/v2/**", fake.answer)
        page.goto(f"{running_share.endpoints.airflow_url}/data-share/")
        return page

    return open_page


def test_each_state_says_what_it_means(fake: FakeAirflow, open_page: OpenPage) -> None:
    fake.add("airports", "success", is_paused=True)
    fake.add("cities", "success", "failed")
    fake.add("harbours")
    fake.add("rivers", "success", "running", "queued", hours=0.01)
    tomorrow = datetime.now(UTC) + timedelta(hours=23.5)
    fake.add("tides", "failed", "success", next_dagrun_run_after=tomorrow.isoformat(), timetable_summary="0 3 * * *")
    runs = "dags/sync_cities/dagRuns/cities-1/taskInstances"
    fake.xcoms[f"{runs}/finish_sync/xcomEntries/failure"] = {
        "step": "check_staging",
        "message": "1 of 9 checks failed. The target is as it was.",
        "what_to_do": "Correct the source.",
        "databricks_run_url": "javascript:alert(1)",
        "task_instance_id": "this attempt",
    }

    page = open_page()

    paused = card(page, "airports")
    expect(paused).to_contain_text("The DAG is paused: no sync starts.")
    expect(paused.get_by_role("button", name="Sync")).to_be_disabled()
    failed = card(page, "cities")
    expect(failed).to_contain_text("check_staging: 1 of 9 checks failed. The target is as it was.")
    expect(failed).to_contain_text("Correct the source.")
    # Only addresses of the web become links, whoever wrote the XCom.
    expect(failed.get_by_role("link", name="Databricks run")).to_be_hidden()
    never = card(page, "harbours")
    expect(never.locator("header")).to_contain_text("Never ran")
    expect(fact(never, "Last success")).to_have_text("never")
    running = card(page, "rivers")
    expect(running).to_contain_text("Another sync is queued; it starts when this one has ended.")
    # One that waits is enough.
    expect(running.get_by_role("button", name="Sync rivers")).to_be_disabled()
    scheduled = card(page, "tides")
    expect(fact(scheduled, "Next run")).to_have_text("in 23 hr.")
    expect(fact(scheduled, "Rows")).to_have_text("1,001")
    expect(scheduled.get_by_role("img")).to_have_attribute(
        "aria-label", re.compile("The last 2 runs, 1 of them failed")
    )
    scheduled.get_by_text("Last runs").click()
    expect(scheduled.get_by_role("row")).to_have_count(3)


def all_states(fake: FakeAirflow) -> None:
    """Add a dataset in each state."""
    fake.add("airports", "success", is_paused=True)
    fake.add("cities", "success", "failed", "success", "failed")
    fake.add("gulfs", "success", "cancelled")
    fake.add("harbours")
    fake.add("lakes", "success", "success", tags=["max-age-minutes:0.1"])
    fake.add("rivers", "success", "running", "queued", hours=0.01)
    fake.add("straits", "success", "failed", hours=2, tags=["max-age-minutes:60"])
    fake.add("tides", *["success"] * 40, tags=["max-age-minutes:60"])
    reasons = "InvalidDatasetError: waves.yaml is not a valid dataset file:\n  waves.yaml:3: load_mode: ..."
    fake.import_errors = [{"filename": "include/datasets/waves.yaml", "stack_trace": reasons}]
    report = {
        "step": "check_staging",
        "code": "X",
        "message": "Object 'T' (002003)",
        "cause": "It has not been set up.",
    }
    for run in ("cities/dagRuns/cities-3", "straits/dagRuns/straits-1"):
        known = {**report, "what_to_do": "Run set_up_snowflake.", "task_instance_id": "this attempt"}
        fake.xcoms[f"dags/sync_{run}/taskInstances/finish_sync/xcomEntries/failure"] = known


def test_nothing_keeps_a_person_from_using_the_page_in_any_state(fake: FakeAirflow, open_page: OpenPage) -> None:
    expect_accessible(open_page())
    all_states(fake)
    # High enough that each card is on the screen, and has its details.
    page = open_page(viewport={"width": 1280, "height": 3000})
    expect(fact(card(page, "tides"), "Rows")).to_have_text("1,039")
    for words in ("Details", "Last runs"):
        for summary in page.get_by_text(words, exact=True).all():
            if summary.is_visible():
                summary.click()
    expect_accessible(page)
    page.set_viewport_size({"width": PHONE["width"], "height": 5000})
    expect_accessible(page)
    fake.refusal = 0
    turn_clock(page, seconds=16)
    expect(page.get_by_role("alert")).to_be_visible()
    expect_accessible(page)


def test_the_bars_have_scales_a_legend_and_values(fake: FakeAirflow, open_page: OpenPage) -> None:
    fake.add("gulfs", "success", "failed", "cancelled", "success")
    fake.runs[-1]["duration"] = 125.0
    one = card(open_page(), "gulfs")
    chart = one.locator(".chart")
    said = r"The last 4 runs, 1 of them failed, 1 cancelled\. The longest took 2\smin\s5\ss; at most 1,003 rows\."
    expect(one.get_by_role("img")).to_have_attribute("aria-label", re.compile(said))
    expect(chart.locator(".scale").nth(0).locator("span")).to_have_text(["2 min 5 s", "0"])
    expect(chart.locator(".scale").nth(1).locator("span")).to_have_text(["1,003", "0"])
    expect(chart.locator(".plot-title")).to_have_text(["Duration", "Rows"])
    expect(chart.locator(".legend span")).to_have_text(["succeeded", "failed", "cancelled", "rows"])
    # What each bar shows, for those who hear the page, and under the mouse.
    values = [
        r"succeeded, 8\.0\ss, 1,000 rows",
        r"failed, 8\.0\ss",
        r"cancelled, 8\.0\ss",
        r"succeeded, 2\smin\s5\ss, 1,003 rows",
    ]
    heard = [re.compile(rf"^\d+ \w+,? \d\d:\d\d: {words}$") for words in values]
    expect(one.get_by_role("listitem")).to_have_text(heard)
    expect(chart.locator(".reading")).to_have_text(heard[-1])
    chart.locator("[data-run='gulfs-1']").first.hover()
    expect(chart.locator(".reading")).to_have_text(heard[1])


def test_the_first_run_has_a_scale_also_while_another_one_is_queued(fake: FakeAirflow, open_page: OpenPage) -> None:
    fake.add("rivers", "running", "queued", hours=0.01)
    chart = card(open_page(), "rivers").locator(".chart")
    # It runs for a minute, and has no end yet.
    expect(chart.locator(".scale").first.locator("span").first).to_have_text(re.compile(r"^\d+\s\w+"))
    assert float(chart.locator("rect.running").get_attribute("height") or 0) > 20


# How many lines the text takes that a pattern finds in an element.
LINES_OF = """(node, pattern) => {
  const words = document.createTreeWalker(node, NodeFilter.SHOW_TEXT).nextNode();
  const found = new RegExp(pattern).exec(words.data);
  const range = new Range();
  range.setStart(words, found.index);
  range.setEnd(words, found.index + found[0].length);
  return new Set([...range.getClientRects()].map(({ top }) => top)).size;
}"""


def test_no_duration_wraps(fake: FakeAirflow, open_page: OpenPage) -> None:
    fake.add("tides", "success")
    fake.runs[-1]["duration"] = 3725.0
    fake.published["tides-0"]["extra"] = {"rows_exported": 1, "bytes_exported": 1, "statement_seconds": 83.0}
    page = open_page()
    one = card(page, "tides")
    expect(fact(one, "Took")).to_have_text("1 h 2 min")
    expect(one.locator(".exported")).to_contain_text("took 1 min 23 s.")
    # At some of these widths, a line would end between a number and its unit.
    for width in range(300, 420, 6):
        page.set_viewport_size({"width": width, "height": 800})
        assert fact(one, "Took").locator("span").evaluate(LINES_OF, ".+") == 1, width
        assert one.locator(".exported").evaluate(LINES_OF, r"1\smin\s23\ss") == 1, width
        assert page.locator("html").evaluate("html => html.scrollWidth <= html.clientWidth"), width


def test_a_state_filters_the_datasets(fake: FakeAirflow, open_page: OpenPage) -> None:
    all_states(fake)
    page = open_page()
    filters = page.get_by_role("group", name="Show only datasets that are")
    expect(filters.get_by_role("button")).to_have_text(
        [
            *("1 running", "2 failed", "1 cancelled", "2 stale", "2 succeeded"),
            *("1 never ran", "1 paused", "1 invalid file"),
        ]
    )
    for state, names in {"stale": ["lakes", "straits"], "cancelled": ["gulfs"], "running": ["rivers"]}.items():
        button = filters.get_by_role("button", name=state)
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
        expect(page.get_by_role("article")).to_have_count(len(names))
        expect(page.get_by_role("heading", level=2)).to_have_text(names)
        button.click()
    expect(page.get_by_role("article")).to_have_count(9)


def test_stale_is_a_state_of_its_own(fake: FakeAirflow, open_page: OpenPage) -> None:
    all_states(fake)
    page = open_page()
    lakes, straits, tides = (card(page, name) for name in ("lakes", "straits", "tides"))
    badges = "header .badge:visible"
    expect(lakes.locator(badges)).to_have_text("Stale")
    # Another state is told too.
    expect(straits.locator(badges)).to_have_text(["Failed", "Stale"])
    expect(fact(straits, "Data as of")).to_have_text("2 hr. ago")
    expect(straits).to_contain_text("The data are stale: older than 60 min, the most that the dataset file allows.")
    expect(tides.locator(badges)).to_have_text("Succeeded")

    page.clock.fast_forward("01:00:00")

    expect(tides.locator(badges)).to_have_text("Stale")


def test_a_sync_that_finds_nothing_new_makes_the_data_young_again(fake: FakeAirflow, open_page: OpenPage) -> None:
    fake.add("straits", "success", "failed", "success", hours=2, tags=["max-age-minutes:60"])
    fake.runs[-1]["note"] = "nothing new at the source since 2026-01-02 02:41 UTC (version 812) (2.0 s)"
    del fake.published["straits-2"]
    one = card(open_page(), "straits")
    expect(fact(one, "Last success")).to_have_text("4 hr. ago")
    expect(fact(one, "Data as of")).to_have_text("just now")
    expect(one.locator("header .badge:visible")).to_have_text("Succeeded")


def test_the_age_is_that_of_the_publish_not_of_its_end(fake: FakeAirflow, open_page: OpenPage) -> None:
    fake.add("tides", "success")
    three_hours_ago = datetime.now(UTC) - timedelta(hours=3, minutes=1)
    fake.published["tides-0"]["extra"] = {"data_as_of": three_hours_ago.replace(tzinfo=None).isoformat()}
    # It loads an earlier export; its event is on no page that was read.
    fake.add("winds", "success")
    fake.runs[-1]["conf"] = {"reload_run_key": f"{three_hours_ago:%Y%m%dT%H%M%S}_0a1b2c3d"}
    page = open_page()
    expect(fact(card(page, "tides"), "Data as of")).to_have_text("3 hr. ago")
    expect(fact(card(page, "winds"), "Data as of")).to_have_text("3 hr. ago")


def test_a_run_that_has_ended_is_not_cancelled(fake: FakeAirflow, open_page: OpenPage) -> None:
    fake.add("tides", "running", "queued", hours=0.01)
    page = open_page()
    one = card(page, "tides")
    running, queued = (one.get_by_role("button", name=f"Cancel the {state} sync") for state in ("running", "queued"))
    expect(running).to_be_visible()
    # The page does not know yet: the call would turn the success into a failure.
    fake.runs[0]["state"] = "success"
    running.click()
    expect(running).to_be_hidden()
    assert fake.patched == []
    fake.refusal = 403
    queued.click()
    expect(one.get_by_role("status")).to_contain_text("You may not cancel syncs of this dataset.")
    fake.refusal = None
    queued.click()
    expect(one).to_contain_text("The queued sync is cancelled; Airflow ends it when the one before it has ended.")
    expect(queued).to_be_hidden()
    assert fake.patched == [("tides-1", {"state": "failed"})]


def test_what_a_publish_exported_and_cost_is_shown_as_far_as_it_is_known(
    fake: FakeAirflow, open_page: OpenPage
) -> None:
    cost = {"rows_exported": 14, "bytes_exported": 1449, "rows_loaded": 14, "statement_seconds": 0.84}
    of_changes = {"rows_inserted": 3, "rows_updated": 9, "rows_deleted": 1}
    reason = "the change data feed has 14 changes since version 811"
    told: dict[str, dict[str, Any]] = {
        "changes": {**of_changes, **cost, "export_mode": "feed", "export_reason": reason},
        "compared": {**of_changes, **cost, "rows_exported": 1, "export_mode": "compare", "export_reason": "r"},
        "everything": {**of_changes, **cost, "export_mode": "full", "export_reason": "full_refresh was asked for"},
        # The ledger lacks the columns of the cost, or the version of the package that published knew none of them.
        "free": {"export_mode": "full", "export_reason": "full_refresh was asked for"},
        "earlier": {},
    }
    for dataset, extra in told.items():
        fake.add(dataset, "success")
        fake.published[f"{dataset}-0"]["extra"] = extra

    page = open_page()

    paid = "Loaded: 14 rows; Snowflake's statements before the publish took 0.8 s."
    for dataset, count, words in (
        ("changes", "13 changed", f"Only changes (feed): {reason}. Written to S3: 14 rows, 1.4 kB. {paid}"),
        ("compared", "13 changed", f"Only changes (compare): r. Written to S3: 1 row, 1.4 kB. {paid}"),
        # Two of the loaded rows were in the target as they are.
        ("everything", "14", f"All rows (full): full_refresh was asked for. Written to S3: 14 rows, 1.4 kB. {paid}"),
        ("free", "1,000", "All rows (full): full_refresh was asked for."),
        ("earlier", "1,000", ""),
    ):
        one = card(page, dataset)
        expect(fact(one, "Rows")).to_have_text(count)
        expect(one.locator(".exported")).to_have_text(words)
    expect(card(page, "earlier").locator(".exported")).to_be_hidden()


def test_a_last_success_is_found_behind_many_failures(fake: FakeAirflow, open_page: OpenPage) -> None:
    fake.add("tides", "success", *["failed"] * 40)

    one = card(open_page(), "tides")

    expect(fact(one, "Last success")).to_have_text("yesterday")
    expect(fact(one, "Rows")).to_have_text("1,000")


def test_a_run_that_a_person_sets_to_success_is_no_success(fake: FakeAirflow, open_page: OpenPage) -> None:
    # Of a day ago, of twelve hours ago and of now.
    for dataset, published in {"tides": {"tides-0"}, "winds": {"winds-0", "winds-1"}, "waves": set()}.items():
        fake.add(dataset, "success", "success", "success", hours=12)
        for run_id in [f"{dataset}-{number}" for number in range(3)]:
            if run_id not in published:
                del fake.published[run_id]
    page = open_page()
    expect(fact(card(page, "tides"), "Last success")).to_have_text("yesterday")
    expect(fact(card(page, "tides"), "Rows")).to_have_text("1,000")
    expect(fact(card(page, "winds"), "Last success")).to_have_text(re.compile("12 hr. ago"))
    expect(fact(card(page, "winds"), "Rows")).to_have_text("1,001")
    expect(fact(card(page, "waves"), "Last success")).to_have_text("never")


def test_a_success_is_as_old_as_what_it_has_published(fake: FakeAirflow, open_page: OpenPage) -> None:
    # It was cleared, and set to success by a person.
    fake.add("tides", "success")
    fake.published["tides-0"]["timestamp"] = (datetime.now(UTC) - timedelta(hours=3, minutes=1)).isoformat()

    expect(fact(card(open_page(), "tides"), "Last success")).to_have_text("3 hr. ago")


def test_the_reason_of_an_earlier_attempt_is_not_shown(fake: FakeAirflow, open_page: OpenPage) -> None:
    fake.add("tides", "failed")
    fake.runs[0]["note"] = "finish_sync: A step ended without a report"
    runs = "dags/sync_tides/dagRuns/tides-0/taskInstances"
    fake.xcoms[f"{runs}/finish_sync/xcomEntries/failure"] = {
        "step": "check_staging",
        "message": "1 of 9 checks failed.",
        "what_to_do": "Correct the source.",
        "task_instance_id": "an earlier attempt",
    }

    one = card(open_page(), "tides")

    expect(one).to_contain_text("finish_sync: A step ended without a report")
    expect(one).not_to_contain_text("Correct the source.")


def test_the_names_of_failed_checks_stand_before_details(fake: FakeAirflow, open_page: OpenPage) -> None:
    fake.add("tides", "failed")
    fake.xcoms["dags/sync_tides/dagRuns/tides-0/taskInstances/finish_sync/xcomEntries/failure"] = {
        "step": "check_staging",
        "code": "CHECKS_FAILED",
        "message": "2 of 9 checks failed on staging.tides__2026.\n- deep: depth > 0\n- near: x < 9",
        "cause": "They break a check.",
        "task_instance_id": "this attempt",
    }

    one = card(open_page(), "tides")

    expect(one.locator(".sentence")).to_have_text("They break a check. Not passed: deep, near.")
    expect(one.get_by_text("depth > 0")).to_be_hidden()


def test_a_dry_run_is_no_success(fake: FakeAirflow, open_page: OpenPage) -> None:
    fake.add("tides", "success")
    fake.runs[0]["conf"] = {"dry_run": True}

    one = card(open_page(), "tides")

    expect(one.locator("header")).to_contain_text("Succeeded")
    expect(fact(one, "Last success")).to_have_text("never")


def test_fifty_datasets_cost_few_calls(fake: FakeAirflow, open_page: OpenPage) -> None:
    for number in range(50):
        fake.add(f"dataset_{number:02}", *["success"] * 40)
    page = open_page()
    expect(fact(card(page, "dataset_00"), "Rows")).to_have_text("1,039")
    page.wait_for_load_state("networkidle")

    assert page.get_by_role("article").count() == 50
    # What is below the screen is not asked for its rows and links.
    assert fake.calls["assets/events"] <= 12
    before = page.locator("#updated").inner_text()
    fake.calls.clear()
    page.clock.run_for(16_000)
    expect(page.locator("#updated")).not_to_have_text(before)
    # A refresh when nothing has changed, of any number of datasets.
    assert set(fake.calls) == {"dags", "dags/~/dagRuns", "importErrors"}
    # The page's clock goes on by itself, too: on a slow machine there were two.
    assert set(fake.calls.values()) in ({1}, {2}, {1, 2})
    card(page, "dataset_49").scroll_into_view_if_needed()
    expect(fact(card(page, "dataset_49"), "Rows")).to_have_text("1,039")


def test_nothing_is_asked_while_nobody_looks(fake: FakeAirflow, open_page: OpenPage) -> None:
    fake.add("tides", "success")
    page = open_page()
    expect(fact(card(page, "tides"), "Rows")).to_have_text("1,000")

    def look(is_hidden: bool) -> None:
        page.evaluate(
            "hidden => { Object.defineProperty(document, 'hidden', {configurable: true, get: () => hidden});"
            " document.dispatchEvent(new Event('visibilitychange')); }",
            is_hidden,
        )

    look(is_hidden=True)
    fake.calls.clear()
    page.clock.run_for(600_000)
    assert not fake.calls

    with page.expect_response("**/importErrors*"):
        look(is_hidden=False)


def test_old_data_are_called_old(fake: FakeAirflow, open_page: OpenPage) -> None:
    fake.add("tides", "success")
    page = open_page()
    problem = page.get_by_role("alert")
    expect(fact(card(page, "tides"), "Rows")).to_have_text("1,000")
    expect(problem).to_be_hidden()

    fake.refusal = 0
    turn_clock(page, seconds=16)
    stale = re.compile(r"Airflow does not answer\. The page shows the state of \d\d:\d\d:\d\d\.")
    expect(problem).to_contain_text(stale)
    expect(fact(card(page, "tides"), "Rows")).to_have_text("1,000")
    # The longer it does not answer, the less often it is asked: after 6, 12, 24, 48 seconds.
    fake.calls.clear()
    turn_clock(page, seconds=120)
    assert 2 <= fake.calls["dags"] <= 5

    fake.refusal = 401
    turn_clock(page, seconds=130)
    expect(problem).to_contain_text("You are signed out of Airflow. Reload the page to sign in.")

    fake.refusal = None
    turn_clock(page, seconds=130)
    expect(problem).to_be_hidden()


def turn_clock(page: Page, seconds: int) -> None:
    """Let the page's timers pass, in steps, so that what they ask for is answered before the page gives it up."""
    for step in range(0, seconds, 4):
        page.clock.run_for(min(4, seconds - step) * 1000)
        # Answered after all that was asked before it.
        page.evaluate("fetch('../api/v2/version').catch(() => null).then(() => null)")


def test_it_works_below_a_path_of_its_host(fake: FakeAirflow, new_page: OpenPage, running_share: RunningShare) -> None:
    fake.add("tides", "success")
    root = running_share.endpoints.airflow_url
    page = new_page()
    page.route(
        "**/airflow/data-share/**", lambda route: _fulfill_from(route, route.request.url.replace("/airflow/", "/"))
    )
    page.route("**/airflow/api/v2/**", fake.answer)

    page.goto(f"{root}/airflow/data-share/")

    one = card(page, "tides")
    expect(fact(one, "Rows")).to_have_text("1,000")
    expect(one.get_by_role("link", name="DAG", exact=True)).to_have_attribute("href", f"{root}/airflow/dags/sync_tides")


def _fulfill_from(route: Route, address: str) -> None:
    route.fulfill(response=route.fetch(url=address))


def test_without_datasets_it_says_where_they_come_from(open_page: OpenPage) -> None:
    page = open_page()
    expect(page.get_by_text("A dataset is a file in include/datasets/")).to_be_visible()
    expect(page.get_by_role("contentinfo")).to_have_text(f"data_share {data_share.__version__}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_by_itself_it_is_light_or_dark_as_the_browser(fake: FakeAirflow, open_page: OpenPage, scheme: str) -> None:
    fake.add("tides", "success")
    page = open_page(color_scheme=scheme)
    expect(card(page, "tides")).to_be_visible()

    red, green, blue = map(
        int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]
    )

    assert (red + green + blue > 3 * 128) == (scheme == "light")
