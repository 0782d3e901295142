"""The Sync Data button of the example backend, in a browser: one process of the backend, the page, and a real stack."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Response, expect

from sandbox.settings import PROJECT
from tests.e2e.browser import UPDATE_IMAGES, browser, expect_accessible, take_picture
from tests.e2e.share import DAG_ID, SUBMITS, Fault, RunningShare, wait_for

__all__ = ["browser"]

pytestmark = [pytest.mark.tier("full"), pytest.mark.browser]

DATASET = "shared_forecasts"
FAILING = "daily_observations"
WAITING = "Step 1 of 5: Waiting for Databricks to export"
SYNC_MILLISECONDS = 180_000
GREY = "rgb(86, 101, 122)"
# Notes whether a step on a card is ever shown as failed.
NOTE_FAILED_STEPS = """card => {
  const look = () => { window.stepHasFailed ||= card.querySelector(".steps .failed") !== null; };
  new MutationObserver(look).observe(card, { subtree: true, childList: true, attributes: true });
  look();
}"""


class Backend:
    """The example backend as a process of its own."""

    def __init__(self, **environment: str) -> None:
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, on the port that it had before."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "examples.backend.app", "--port", str(self.port)],
            cwd=PROJECT,
            env=kept | self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", said)
        assert found, said + self._process.communicate(timeout=10)[0]
        self.port = int(found[1])
        wait_for(lambda: self._answers(), "the backend answers", seconds=30)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/page.css").is_success
        except httpx.TransportError:
            return False

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """End it; returns its exit code and what it said since its start."""
        assert self._process is not None
        process, self._process = self._process, None
        process.send_signal(number)
        said, _ = process.communicate(timeout=30)
        return process.returncode, said

    def close(self) -> None:
        if self._process is not None:
            self.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def backend(running_share: RunningShare) -> Iterator[Backend]:
    """The backend with the stack's sign-in. A proxy before it would name the user."""
    endpoints = running_share.endpoints
    started = Backend(
        AIRFLOW_URL=endpoints.airflow_url,
        AIRFLOW_USER=endpoints.airflow_user,
        AIRFLOW_PASSWORD=endpoints.airflow_password,
        BACKEND_USER_HEADER="X-Forwarded-User",
    )
    yield started
    started.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    opened = browser.new_context(
        viewport={"width": 820, "height": 700},
        device_scale_factor=1,
        locale="en-US",
        color_scheme="light",
        extra_http_headers={"X-Forwarded-User": "ada@example.com"},
    )
    yield opened
    opened.close()


@pytest.fixture
def page(context: BrowserContext, backend: Backend, share: RunningShare) -> Iterator[Page]:
    """The page. A script that fails, or a thing that its own policy forbids, fails the test."""
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda line: errors.append(line.text) if "Security Policy" in line.text else None)
    opened.goto(backend.url)
    yield opened
    assert errors == []


def card(page: Page, dataset: str = DATASET) -> Locator:
    return page.locator(f"#{dataset}")


def press(page: Page, dataset: str = DATASET, **options: Any) -> None:
    """Press the button, and wait until the page shows the answer: it may show an earlier sync until then."""
    button = card(page, dataset).get_by_role("button", name="Sync Data")
    button.click(**options)
    expect(button).not_to_have_attribute("aria-disabled", "true")


def shown_runs(page: Page, dataset: str = DATASET) -> list[str]:
    """Return the ids of the runs on a card, as Airflow has them."""
    ids = card(page, dataset).locator(".sync").evaluate_all("syncs => syncs.map(sync => sync.id)")
    return [str(name).removeprefix(f"{dataset}/") for name in ids]


def active_runs(share: RunningShare, dag_id: str = DAG_ID) -> list[str]:
    runs = share.airflow.ask("GET", f"/dags/{dag_id}/dagRuns", params={"order_by": "-id", "limit": 20})["dag_runs"]
    return [run["dag_run_id"] for run in runs if run["state"] in ("queued", "running")]


def wait_until_followed(share: RunningShare, run_id: str) -> dict[str, Any]:
    """Wait until the export is held and a triggerer follows it; returns the run on Databricks."""

    def is_followed() -> bool:
        trigger = share.airflow.tasks(DAG_ID, run_id)["wait_for_export"]["trigger"]
        return bool(trigger and trigger["triggerer_id"] and share.databricks("GET", "/_sandbox/state")["held"])

    wait_for(is_followed, f"the export of {run_id} is held", seconds=SYNC_MILLISECONDS / 1000)
    return databricks_run(share, run_id)


def databricks_run(share: RunningShare, run_id: str) -> dict[str, Any]:
    databricks_run_id = share.airflow.xcom(DAG_ID, run_id, "export_to_s3", "run_id")
    return share.databricks("GET", "/api/2.2/jobs/runs/get", {"run_id": databricks_run_id})


def expect_headline(page: Page, words: str | re.Pattern[str], dataset: str = DATASET) -> None:
    expect(card(page, dataset).locator(".headline").first).to_have_text(words, timeout=SYNC_MILLISECONDS)


def step(page: Page, name: str) -> Locator:
    return card(page).locator(".steps li", has_text=name).first


@pytest.mark.tier("quick")
def test_a_press_shows_the_steps_and_ends_in_sync_complete(page: Page, share: RunningShare, backend: Backend) -> None:
    answers: list[Response] = []
    page.on("response", lambda answer: answers.append(answer))
    page.reload()
    share.hold_export("start")

    press(page)

    expect_headline(page, WAITING)
    (run_id,) = shown_runs(page)
    expect(step(page, "Export")).to_have_class("now")
    expect(step(page, "Load")).to_have_class("todo")
    expect(card(page).get_by_role("progressbar")).to_have_attribute("value", "0")
    elapsed = card(page).locator(".elapsed")
    before = elapsed.text_content()
    expect(elapsed).not_to_have_text(before or "")
    on_databricks = wait_until_followed(share, run_id)
    expect(card(page).get_by_role("link", name="Databricks run")).to_have_attribute(
        "href", on_databricks["run_page_url"]
    )
    expect(card(page).get_by_role("link", name="Airflow run")).to_have_attribute(
        "href", f"{share.endpoints.airflow_url}/dags/{DAG_ID}/runs/{run_id}"
    )

    share.release_export()

    expect_headline(page, "Sync Complete")
    how_many = r"1,461 rows, (as many as before|where there were none)"
    expect(card(page).locator(".answer")).to_have_text(re.compile(rf"^{how_many}, in (\d+ min )?[\d.]+ s$"))
    expect(card(page).locator(".description")).to_have_text(
        "Daily temperature forecasts by place, shared with the web app."
    )
    expect(card(page).locator(".age")).to_contain_text("Data as of ")
    expect(card(page).locator(".age time")).to_have_text(re.compile("^.*, just now$"))
    expect(card(page).locator(".facts")).to_have_text(re.compile(r"1,461 rows\s+usually \d+"))
    expect(card(page).get_by_role("button", name="Cancel")).to_be_hidden()
    row = share.airflow.xcom(DAG_ID, run_id, "publish")
    assert (row["rows_loaded"], row["requested_by"]) == (1461, "ada@example.com")
    assert len(share.target()) == 1461
    # What those hear who do not see the page.
    expect(page.get_by_role("status")).to_have_text("Shared forecasts: Sync Complete")

    # Credentials are nowhere in what the browser got.
    stream = httpx.get(f"{backend.url}/events", params={"sync": f"{DATASET}/{run_id}"}, timeout=30)
    got = [stream.text, str(stream.headers), page.content()]
    for answer in answers:
        got.append(str(answer.all_headers()))
        if not answer.url.startswith(f"{backend.url}/events"):
            got.append(answer.text())
    assert len(got) > 8
    for secret in (share.endpoints.airflow_password, share.endpoints.databricks_token, "Bearer", "eyJ"):
        assert not [text for text in got if secret in text]
    assert page.context.cookies() == []


def test_the_age_of_the_data_stays_visible_while_a_sync_runs_and_after_one_failed(
    page: Page, share: RunningShare
) -> None:
    as_of = share.sync()["data_as_of"]
    target = share.target()
    page.reload()
    age = card(page).locator(".age time")
    expect(age).to_have_attribute("datetime", f"{as_of}+00:00")
    expect(age).to_have_text(re.compile(", just now$"))
    expect_accessible(page)
    share.databricks("POST", "/_sandbox/fail_next", {"message": "Out of memory in stage 3"})
    share.hold_export("start")

    press(page)

    expect_headline(page, WAITING)
    expect(age).to_have_attribute("datetime", f"{as_of}+00:00")
    expect(card(page).locator(".facts")).to_contain_text("usually")
    expect_accessible(page)
    share.release_export()
    expect_headline(page, "Sync failed")
    # First words for people; what only others understand stands behind Details.
    reason = card(page).locator(".reason")
    expect(reason).to_have_text("Export: The export job failed on Databricks.")
    told, code = card(page).get_by_text("Out of memory in stage 3"), card(page).get_by_text("EXPORT_FAILED")
    expect(told).to_be_hidden()
    expect(code).to_be_hidden()
    card(page).get_by_text("Details").click()
    expect(told).to_be_visible()
    expect(code).to_be_visible()
    expect(card(page).locator(".steps li.failed")).to_have_text(re.compile("Export"))
    expect(card(page).get_by_role("link", name="Databricks run")).to_have_attribute(
        "href", re.compile(f"job/{share.job_id}/run/")
    )
    expect(age).to_have_attribute("datetime", f"{as_of}+00:00")
    expect_accessible(page)
    assert share.target() == target


def test_a_sync_that_finds_nothing_new_makes_the_data_young(page: Page, share: RunningShare) -> None:
    as_of = share.sync()["data_as_of"]
    share.let_sources_change(False)
    page.reload()
    age = card(page).locator(".age time")
    expect(age).to_have_attribute("datetime", f"{as_of}+00:00")

    press(page)

    expect_headline(page, "Up to date")
    expect(card(page).locator(".answer")).to_have_text(re.compile(r"^Took (\d+ min )?[\d.]+ s$"))
    expect(card(page).locator(".of-source")).to_contain_text("Nothing new at the source since ")
    expect(age).not_to_have_attribute("datetime", f"{as_of}+00:00")
    expect_accessible(page)


def test_a_sync_that_somebody_else_starts_appears_by_itself(page: Page, share: RunningShare) -> None:
    card(page).get_by_text("Last syncs").click()
    lines = card(page).locator(".history tbody tr")
    expect(card(page).locator(".history th")).to_have_text(["When", "Who", "Rows", "Time", "Result"])
    before = lines.count()
    # While the rows are checked, their number is known.
    Fault(share.endpoints.snowflake_url, path=SUBMITS, body="check_name", action={"delay": 3})

    run_id = share.start_sync(conf={"requested_by": "grace@example.com"})

    expect(card(page).locator(".who")).to_have_text("Started by grace@example.com", timeout=SYNC_MILLISECONDS)
    expect(card(page).locator(".loaded")).to_have_text("1,461 rows loaded, not published yet")
    expect_headline(page, "Sync Complete")
    expect(card(page).locator(".answer")).to_contain_text("1,461 rows, as many as before, in ")
    assert shown_runs(page) == [run_id]
    as_of = share.xcom(run_id, "publish")["data_as_of"]
    expect(card(page).locator(".age time")).to_have_attribute("datetime", f"{as_of}+00:00")
    # The list is read again by itself.
    cells = lines.first.locator("td")
    expect(cells.nth(1)).to_have_text("grace@example.com")
    expect(cells.nth(2)).to_have_text("1,461")
    expect(cells.nth(3)).to_have_text(re.compile(r"^[\d.]+ s$"))
    expect(cells.nth(4)).to_have_text("Complete")
    assert before <= lines.count() <= 10
    expect_accessible(page)


def test_old_data_are_called_stale_while_the_page_is_open(page: Page, share: RunningShare) -> None:
    if not share.target():
        share.sync()
    page.clock.install()
    page.reload()
    stale = card(page).get_by_text("Stale: older than 24 h")
    expect(card(page).locator(".age")).to_contain_text("Data as of")
    expect(stale).to_be_hidden()

    page.clock.fast_forward("25:00:00")

    expect(stale).to_be_visible()
    expect(card(page).locator(".age time")).to_contain_text("1 day ago")
    expect_accessible(page)


@pytest.mark.tier("nightly")
def test_the_next_sync_of_a_schedule_is_told(
    page: Page, share: RunningShare, add_dataset_file: Callable[[str, str], Path]
) -> None:
    for name, schedule in {"daily_forecasts": 'schedule: "0 3 * * *"\n', "rare_forecasts": ""}.items():
        add_dataset_file(
            name,
            f"""\
description: Forecasts now and then.
source_table: main.weather.forecasts
target_table: {name}
load_mode: replace
create_table: from_source
required_columns: [date]
{schedule}""",
        )
        wait_for(lambda name=name: not share.airflow.call("GET", f"/dags/sync_{name}").is_error, "it is there", 120)  # type: ignore[misc]
    page.reload()
    facts = card(page, "daily_forecasts").locator(".facts")
    expect(facts).to_have_text(re.compile(r"next sync in \d+ (h|min) \(.*3:00\sAM\)"))
    expect(card(page, "rare_forecasts").locator(".age")).to_have_text("Not synced yet.")
    expect_accessible(page)
    # The schedule has started a sync, which needs its file until its end.
    wait_for(lambda: active_runs(share, "sync_daily_forecasts") == [], "it has ended", SYNC_MILLISECONDS / 1000)


@pytest.fixture
def lost_table(share: RunningShare) -> Iterator[None]:
    share.query(f"ALTER TABLE {FAILING} RENAME TO hidden_away")
    yield
    share.query(f"DROP TABLE IF EXISTS {FAILING}")
    share.query(f"ALTER TABLE hidden_away RENAME TO {FAILING}")


@pytest.mark.usefixtures("lost_table")
def test_a_missing_table_has_not_been_set_up(page: Page) -> None:
    press(page, FAILING)

    expect_headline(page, "Sync failed", FAILING)
    expect(card(page, FAILING).locator(".reason")).to_contain_text("The target table has not been set up")
    expect(card(page, FAILING).locator(".what-to-do")).to_contain_text("Run the DAG set_up_snowflake")
    expect(card(page, FAILING).get_by_text("TARGET_MISSING")).to_be_hidden()
    card(page, FAILING).get_by_text("Details").click()
    expect_accessible(page)


def test_a_reload_and_a_restart_of_the_backend_change_nothing(
    page: Page, share: RunningShare, backend: Backend
) -> None:
    share.hold_export("start")
    press(page)
    expect_headline(page, WAITING)
    (run_id,) = shown_runs(page)

    page.reload()

    assert shown_runs(page) == [run_id]
    expect_headline(page, WAITING)
    expect(card(page).locator(".elapsed")).to_be_visible()

    backend.end(signal.SIGKILL)
    expect(page.locator("#connection")).to_contain_text("The connection is lost")
    press(page)
    expect(card(page).get_by_role("alert")).to_have_text("The backend does not answer. Try again in a moment.")
    expect_accessible(page)
    backend.start()
    expect(page.locator("#connection")).to_be_hidden()
    expect_headline(page, WAITING)

    code, words = backend.end(signal.SIGINT)
    assert (code, words) == (0, ""), "Ctrl-C ends it in order, with a page open"
    share.release_export()
    backend.start()
    expect_headline(page, "Sync Complete")
    assert shown_runs(page) == [run_id]
    expect(card(page).locator(".answer")).to_contain_text("1,461 rows, as many as before, in ")


def test_a_page_whose_stream_is_refused_says_so_until_it_gets_one(page: Page) -> None:
    """The backend has a cap of open streams."""
    page.route("**/events?*", lambda route: route.fulfill(status=503, json={"message": "too many"}))
    page.reload()
    expect(page.locator("#connection")).to_contain_text("The connection is lost")
    with page.expect_request("**/events?*"):
        pass
    expect(page.locator("#connection")).to_be_visible()
    page.unroute("**/events?*")
    expect(page.locator("#connection")).to_be_hidden()


def test_presses_start_one_run_and_queue_one_and_each_can_be_cancelled(
    page: Page, share: RunningShare, context: BrowserContext, backend: Backend
) -> None:
    if UPDATE_IMAGES:
        # Another test may have left fewer rows than the source has.
        share.sync("city_temperatures", conf={"accept_row_change": True})
        press(page, "city_temperatures")
        expect_headline(page, "Sync Complete", "city_temperatures")
        share.databricks("POST", "/_sandbox/fail_next", {"message": "Out of memory in stage 3"})
        press(page, FAILING)
        expect_headline(page, "Sync failed", FAILING)
        card(page, "city_temperatures").get_by_text("Last syncs").click()
        expect(card(page, "city_temperatures").locator(".history tbody tr").first).to_be_visible()
    share.hold_export("start")
    press(page, click_count=2)
    expect_headline(page, WAITING)
    (first,) = shown_runs(page)
    assert active_runs(share) == [first], "a double click is one press"
    on_databricks = wait_until_followed(share, first)
    if UPDATE_IMAGES:
        take_pictures(page)

    press(page)
    expect(card(page).locator(".sync")).to_have_count(2)
    second = shown_runs(page)[1]
    expect(card(page).locator(".headline").nth(1)).to_have_text("Queued")
    other_page = context.new_page()
    other_page.goto(backend.url)
    press(other_page)
    press(page)
    assert shown_runs(page) == [first, second]
    # It finds the one that runs by itself.
    expect(card(other_page).locator(".sync")).to_have_count(2)
    assert shown_runs(other_page) == [first, second]
    assert active_runs(share) == [second, first], "never two queued"
    other_page.close()

    page.reload()
    expect(card(page).locator(".sync")).to_have_count(2)
    assert shown_runs(page) == [first, second]
    expect_accessible(page)

    card(page).evaluate(NOTE_FAILED_STEPS)
    # By the keyboard: the focus stays where its user reads on.
    card(page).get_by_role("button", name="Cancel").nth(1).press("Enter")
    headline = card(page).locator(".headline").nth(1)
    expect(headline).to_have_text("Sync cancelled by you", timeout=SYNC_MILLISECONDS)
    expect(headline).to_be_focused()
    assert share.airflow.run(DAG_ID, first)["state"] == "running"
    card(page).get_by_role("button", name="Cancel").press("Enter")

    expect_headline(page, "Sync cancelled by you")
    expect(card(page).locator(".headline").first).to_be_focused()
    # Grey, and no cross of a failed step, also while they ended.
    expect(card(page).locator(".headline").first).to_have_css("color", GREY)
    assert not page.evaluate("window.stepHasFailed")
    expect_accessible(page)
    who = share.endpoints.airflow_user
    note = share.airflow.run(DAG_ID, first)["note"]
    told = f"cancelled by ada@example.com through {who}: A person ended the sync in Airflow. "
    assert note == f"Cancelled by ada@example.com\n\n---\n\n{told}It was not published; the target is as it was."
    other_page = page.context.browser.new_page(extra_http_headers={"X-Forwarded-User": "grace@example.com"})  # type: ignore[union-attr]
    other_page.goto(backend.url)
    expect_headline(other_page, "Sync cancelled by ada@example.com")
    other_page.set_viewport_size({"width": 390, "height": 844})
    card(other_page).get_by_text("Last syncs").click()
    last = card(other_page).locator(".history .table")
    expect(last).to_contain_text("Cancelled by ada@example.com")
    assert last.evaluate("table => table.scrollWidth <= table.clientWidth"), "a phone shows the whole line"
    other_page.close()
    wait_for(
        lambda: databricks_run(share, first)["state"].get("result_state") == "CANCELED",
        "the run is cancelled on Databricks",
    )
    assert on_databricks["run_id"] == databricks_run(share, first)["run_id"]
    wait_for(lambda: active_runs(share) == [], "no run is left")
    assert share.staging_tables() == []


def take_pictures(page: Page) -> None:
    """Take the pictures of the documents: one dataset is synced, one has failed, one is under way."""
    for name, scheme, width in (("light", "light", 820), ("dark", "dark", 820), ("phone", "light", 390)):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": 700})
        page.mouse.move(0, 0)
        take_picture(page, f"sync-button-{name}")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 820, "height": 700})


@pytest.fixture
def paused(share: RunningShare) -> Iterator[None]:
    share.airflow.ask("PATCH", f"/dags/{DAG_ID}", json={"is_paused": True})
    yield
    share.airflow.ask("PATCH", f"/dags/{DAG_ID}", json={"is_paused": False})


@pytest.mark.usefixtures("paused")
def test_a_paused_dataset_is_a_sentence(page: Page, share: RunningShare) -> None:
    press(page)

    expect(card(page).get_by_role("alert")).to_contain_text("paused")
    expect_accessible(page)
    assert active_runs(share) == []


@pytest.fixture
def open_backend() -> Iterator[Callable[..., Backend]]:
    started: list[Backend] = []

    def start(**environment: str) -> Backend:
        started.append(Backend(**environment))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_what_is_wrong_with_airflow_is_a_sentence(
    context: BrowserContext, share: RunningShare, open_backend: Callable[..., Backend]
) -> None:
    """Neither a wrong password nor an Airflow that is away shows more than that."""
    page = context.new_page()
    wrong = open_backend(AIRFLOW_URL=share.endpoints.airflow_url, AIRFLOW_USER="svc-sync", AIRFLOW_PASSWORD="wrong-pw")
    page.goto(wrong.url)
    expect(page.get_by_role("alert")).to_contain_text("Airflow does not accept the credentials of this backend.")
    assert "svc-sync" not in page.content()

    away = open_backend(AIRFLOW_URL="http://127.0.0.1:9", AIRFLOW_USER="svc-sync", AIRFLOW_PASSWORD="wrong-pw")
    page.goto(away.url)
    expect(page.get_by_role("alert")).to_contain_text("Airflow does not answer.")
    expect(page.get_by_role("link", name="Try again")).to_be_visible()
    expect_accessible(page)


def test_another_site_cannot_press(context: BrowserContext, share: RunningShare, backend: Backend) -> None:
    """Not even a page of the same machine on another port, which is the same site for a browser."""
    stranger = context.new_page()
    stranger.goto(f"{share.endpoints.databricks_url}/a-page")
    path = f"{backend.url}/datasets/{DATASET}/syncs"

    with stranger.expect_response(path) as answer:
        stranger.evaluate(
            """path => {
              const form = document.createElement("form");
              Object.assign(form, {method: "POST", action: path});
              document.body.append(form);
              form.submit();
            }""",
            path,
        )

    assert answer.value.status == 403
    assert active_runs(share) == []
