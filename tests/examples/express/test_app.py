"""The Express example without Airflow: who may start syncs, what people read, which events it accepts."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.docs.test_alerts import BODY, SECRET, requests_by_kind, signed
from tests.examples.backend.clients import node
from tests.examples.backend.servers import SmallAirflow, served
from tests.examples.express.app import OWN_PAGE, App, running
from tests.examples.express.packages import copied_to

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

DATASET = "shared_forecasts"
SYNCS = f"/datasets/{DATASET}/syncs"
PASSWORD = "hunter2-and-more"
ROW = {"rows_loaded": 1461, "rows_inserted": 1461, "rows_updated": 0, "rows_deleted": 0, "rows_in_target": 1461}
FAILURE = {
    "step": "check_staging",
    "code": "CHECKS_FAILED",
    "message": "2 of 9 failed.",
    "what_to_do": "Look <b>here</b>.",
}
CANCELLED = {
    "step": "publish",
    "code": "CANCELLED",
    "message": "A person ended it. The target is as it was.",
    "cause": "A person ended it.",
}


class Airflow(SmallAirflow):
    """Has one dataset, and another one that it does not show whole."""

    names = (DATASET,)

    async def _list_dags(self, _: Request) -> Response:
        page = [{"dag_id": f"sync_{name}"} for name in self.names]
        return JSONResponse({"dags": page, "total_entries": len(page)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied_to(tmp_path_factory.mktemp("app"))


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Airflow, str]]:
    airflow = Airflow("backend", PASSWORD)
    with served(airflow.app) as url:
        yield airflow, url


@pytest.fixture(scope="module")
def running_app(folder: Path, server: tuple[Airflow, str]) -> Iterator[App]:
    environment = {"AIRFLOW_URL": server[1], "AIRFLOW_USER": "backend", "AIRFLOW_PASSWORD": PASSWORD}
    own = {"WEBHOOK_SECRET": SECRET, "BACKEND_USER_HEADER": "X-Forwarded-User"}
    with running(folder, **environment, **own) as app:
        yield app


@pytest.fixture
def airflow(server: tuple[Airflow, str]) -> Iterator[Airflow]:
    """Airflow as it was: nothing has run."""
    yield server[0]
    airflow = server[0]
    airflow.runs.clear()
    airflow.xcoms.clear()
    airflow.paused, airflow.names = False, (DATASET,)


@pytest.fixture
def app(running_app: App, airflow: Airflow) -> App:
    running_app.lines()
    return running_app


# ---- the button


def test_a_sync_from_the_press_to_complete(app: App, airflow: Airflow) -> None:
    assert app.get("/datasets").json() == [{"dataset": DATASET, "sync": None}]

    pressed = app.post(SYNCS, headers={**OWN_PAGE, "X-Forwarded-User": "José".encode()})

    assert pressed.status_code == 202
    sync = pressed.json()
    assert (sync["headline"], sync["finished"]) == ("Queued", False)
    assert airflow.runs[sync["runId"]]["conf"] == {"requested_by": "José"}
    one = f"{SYNCS}/{sync['runId']}"
    airflow.add_run(sync["runId"], "running", steps_done=2)
    assert (app.get(one).json()["headline"], app.get(one).json()["text"]) == ("Running", "Loading into Snowflake.")
    airflow.end(sync["runId"], "success", result=ROW)
    assert app.get(one).json() == {
        **sync,
        "finished": True,
        "headline": "Sync Complete",
        "text": "1,461 rows loaded, 1,461 rows in all.",
    }
    assert [card["sync"]["headline"] for card in app.get("/datasets").json()] == ["Sync Complete"]


@pytest.mark.parametrize(
    ("state", "left", "headline", "words"),
    [
        ("success", {"result": {"unchanged": True, "rows_in_target": 1461}}, "Up to date", "Nothing new: 1,461 rows."),
        ("success", {"result": {"verified": True, "rows": 1}}, "Verified", "1 row"),
        ("success", {"result": {**ROW, "dry_run": True}}, "Dry run complete", "1,461 rows would change."),
        ("success", {}, "Sync failed", "was a step marked by hand?"),
        ("failed", {"failure": FAILURE}, "Sync failed", "Checking the rows: 2 of 9 failed. Look <b>here</b>."),
        ("failed", {"failure": CANCELLED}, "Cancelled", "The target is as it was."),
        ("failed", {}, "Sync failed", "failed without a reason"),
    ],
)
def test_only_what_was_published_is_called_complete(
    app: App, airflow: Airflow, state: str, left: dict[str, Any], headline: str, words: str
) -> None:
    airflow.add_run("request-1", "running")
    airflow.end("request-1", state, **left)
    sync = app.get(f"{SYNCS}/request-1").json()
    assert (sync["headline"], words in sync["text"], sync["finished"]) == (headline, True, True)


def test_a_cancel(app: App, airflow: Airflow) -> None:
    airflow.add_run("request-1", "running")
    cancelled = app.post(f"{SYNCS}/request-1/cancel")
    assert (cancelled.status_code, cancelled.json()["finished"]) == (202, True)
    assert airflow.runs["request-1"]["state"] == "failed"


def test_the_page_is_served_and_loads_nothing_from_elsewhere(app: App) -> None:
    page = app.get("/")
    assert "<title>Sync Data</title>" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert all(app.get(name).status_code == 200 for name in ("/page.js", "/page.css"))


# ---- who may, and what is said


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_only_the_own_page_may_change_something(app: App, airflow: Airflow, headers: dict[str, str]) -> None:
    airflow.add_run("request-1", "running")
    for path in (SYNCS, f"{SYNCS}/request-1/cancel"):
        answer = app.post(path, headers=headers)
        assert (answer.status_code, "nothing was done" in answer.json()["message"]) == (403, True)
    assert list(airflow.runs) == ["request-1"]
    assert airflow.runs["request-1"]["state"] == "running"


def test_an_old_browser_names_only_its_origin(app: App, airflow: Airflow) -> None:
    assert app.post(SYNCS, headers={"Origin": app.url}).status_code == 202


def test_another_name_for_this_host_is_refused(app: App, airflow: Airflow) -> None:
    assert app.post(SYNCS, headers={**OWN_PAGE, "Host": "evil.example"}).status_code == 400
    assert app.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert airflow.runs == {}


@pytest.mark.parametrize(
    "path", ["/datasets/Tides/syncs/x", f"{SYNCS}/%2e%2e", f"{SYNCS}/a%2Fb", "/datasets/%2e%2e/syncs/x"]
)
def test_no_path_of_airflow_can_be_made_up(app: App, airflow: Airflow, path: str) -> None:
    calls = len(airflow.calls)
    assert app.get(path).status_code == 404
    assert len(airflow.calls) == calls


def test_an_error_is_a_sentence(app: App, airflow: Airflow) -> None:
    airflow.paused = True
    paused = app.post(SYNCS)
    assert (paused.status_code, "unpause it there" in paused.json()["message"]) == (409, True)
    airflow.names = (DATASET, "gone")
    assert app.get(f"{SYNCS}/request-9").json()["message"] == f"Airflow knows no sync request-9 of {DATASET}"
    assert app.get("/datasets/gone/syncs/x").status_code == 404
    # What is wrong with one dataset does not hide the others.
    problems = {card["dataset"]: card.get("problem", "") for card in app.get("/datasets").json()}
    assert problems[DATASET] == ""
    assert problems["gone"].startswith("Airflow has no dataset gone; it has ")


def test_a_wrong_account_is_not_the_users(folder: Path, server: tuple[Airflow, str]) -> None:
    environment = {"AIRFLOW_URL": server[1], "AIRFLOW_USER": "backend", "AIRFLOW_PASSWORD": "wrong-password"}
    with running(folder, **environment) as app:
        answer = app.get("/datasets")
        assert (answer.status_code, answer.json()["message"]) == (
            502,
            "Airflow does not accept the credentials of this app.",
        )
        assert "wrong-password" not in app.line_with("NotSignedInError")
        # Without a secret, there is no receiver.
        assert app.post("/hooks/syncs", content=BODY, headers=signed(b"k" * 32)[0]).status_code == 404


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "Set AIRFLOW_URL, AIRFLOW_USER and AIRFLOW_PASSWORD"),
        (
            {"AIRFLOW_URL": "x", "AIRFLOW_USER": "x", "AIRFLOW_PASSWORD": "x", "WEBHOOK_SECRET": "whsec_"},
            "at least 24 bytes",
        ),
    ],
)
def test_it_does_not_start_half(folder: Path, environment: dict[str, str], words: str) -> None:
    command = [node(), "app.mjs"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, words in done.stderr) == (2, True)


# ---- the webhook


def test_it_accepts_genuine_events_alone_and_each_once(app: App) -> None:
    genuine, forged = requests_by_kind()
    none = {
        f"without {name}": ({k: v for k, v in signed(b"k" * 32)[0].items() if k != name}, BODY)
        for name in signed(b"k")[0]
    }
    none = {name: request for name, request in none.items() if "webhook" in name}
    answers = {
        name: app.post("/hooks/syncs", content=body, headers=headers).status_code
        for name, (headers, body) in {**genuine, **forged, **none}.items()
    }
    assert answers == dict.fromkeys(genuine, 204) | dict.fromkeys([*forged, *none], 401)
    # All genuine ones have the id of one event.
    assert len([line for line in app.lines() if line.startswith("sync_failed: ")]) == 1


def test_a_body_that_was_changed_on_the_way_is_refused_as_such(app: App) -> None:
    headers = {**signed(b"k" * 32)[0], "Content-Encoding": "gzip"}
    assert app.post("/hooks/syncs", content=BODY, headers=headers).status_code == 415
    assert app.post("/hooks/syncs", headers=signed(b"k" * 32)[0]).status_code == 401
