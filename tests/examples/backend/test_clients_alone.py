"""What a running Airflow seldom does to the clients, done by a small server: no answer, 5xx, 429, strange answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import groupby, pairwise
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route

from tests.examples.backend.clients import LANGUAGES, Client, ClientError, load_python_client, open_client
from tests.examples.backend.servers import SmallAirflow, served

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

USER, PASSWORD = "backend", "hunter2-and-more"
DATASET = "shared_forecasts"
RUNS = "/api/v2/dags/sync_shared_forecasts/dagRuns"
STEPS = load_python_client().STEPS
ROW = {"rows_in_target": 1461, "run_key": "20260102T030405_0a1b2c3d"}


@pytest.fixture
def airflow() -> SmallAirflow:
    return SmallAirflow(USER, PASSWORD)


@pytest.fixture
def url(airflow: SmallAirflow) -> Iterator[str]:
    with served(airflow.app) as address:
        yield address


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def connect(language: str) -> Iterator[Callable[..., Client]]:
    """Open clients of one language, with short pauses."""
    opened: list[Client] = []

    def open_(url: str, password: str = PASSWORD, **options: Any) -> Client:
        opened.append(open_client(language, url, USER, password, **{"back_off": [0.01, 0.02, 0.03], **options}))
        return opened[-1]

    yield open_
    for client in opened:
        client.close()


@pytest.fixture
def client(connect: Callable[..., Client], url: str) -> Client:
    return connect(url)


@pytest.fixture
def order(url: str) -> Callable[..., None]:
    """Order a fault of the server."""

    def give(path: str, action: dict[str, Any], **fault: Any) -> None:
        httpx.post(f"{url}/_sandbox/faults", json={"path": path, "action": action, **fault}).raise_for_status()

    return give


def fails(kind: str, client: Client, name: str, *args: Any, **kwargs: Any) -> ClientError:
    """Assert that a call raises an error of this kind, and that the error shows no secret."""
    with pytest.raises(ClientError) as raised:
        client.call(name, *args, **kwargs)
    error = raised.value
    assert error.type == kind, error
    assert PASSWORD not in error.shown
    assert "token-" not in error.shown
    return error


# Answers that come late, broken or not at all


@pytest.mark.parametrize("action", [{"status": 503}, {"status": 500}, {"status": 429}, {"drop": "before"}], ids=str)
def test_a_call_is_tried_again(
    client: Client, order: Callable[..., None], airflow: SmallAirflow, action: dict[str, Any]
) -> None:
    for path in ("/auth/token", "/dagRuns"):
        order(path, action, times=3)

    assert client.call("start", DATASET, run_id="request-1")["state"] == "queued"
    assert list(airflow.runs) == ["request-1"]


@pytest.mark.parametrize("language", ["python"])
def test_any_other_call_is_made_in_the_same_way(client: Client, order: Callable[..., None]) -> None:
    order("/api/v2/dags$", {"status": 503}, times=3)

    assert client.call("ask", "GET", "/api/v2/dags", params={"limit": 100, "offset": 0})["total_entries"] > 0
    assert client.call("ask", "GET", f"{RUNS}/unknown") is None


@pytest.mark.parametrize(
    ("action", "words"), [({"status": 503}, "HTTP 503"), ({"status": 429}, "HTTP 429"), ({"drop": "before"}, "answer")]
)
def test_a_call_is_not_tried_for_ever(
    client: Client, order: Callable[..., None], airflow: SmallAirflow, action: dict[str, Any], words: str
) -> None:
    order("/dagRuns", action, times=100)

    error = fails("AirflowUnavailableError", client, "start", DATASET, run_id="request-1")

    assert words in error.message
    assert "4 attempts" in error.message
    assert airflow.runs == {}


def test_an_answer_that_is_lost_starts_no_second_run(
    client: Client, order: Callable[..., None], airflow: SmallAirflow
) -> None:
    order("/dagRuns$", {"drop": "after"}, method="POST")

    sync = client.call("start", DATASET)

    assert list(airflow.runs) == [sync["run_id"]]
    assert airflow.count("POST", "/dagRuns") == 2


def test_a_call_waits_as_long_as_airflow_asks_for(client: Client, order: Callable[..., None]) -> None:
    order("/dagRuns", {"status": 429, "headers": {"Retry-After": "1"}})

    began = time.monotonic()
    client.call("newest", DATASET)

    assert time.monotonic() - began >= 1


def test_an_answer_that_takes_too_long_is_given_up(
    connect: Callable[..., Client], url: str, order: Callable[..., None]
) -> None:
    order("/dagRuns", {"delay": 60}, times=100)
    client = connect(url, timeout=0.2, back_off=[0.01])

    assert "2 attempts" in fails("AirflowUnavailableError", client, "newest", DATASET).message


def test_nothing_listens(connect: Callable[..., Client]) -> None:
    fails("AirflowUnavailableError", connect("http://127.0.0.1:9"), "newest", DATASET)


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        ({"status": 302, "headers": {"Location": "https://login.example.com/"}}, "SyncError"),
        ({"status": 418}, "SyncError"),
        ({"status": 403, "json": {"detail": "Forbidden"}}, "NotAllowedError"),
    ],
    ids=str,
)
def test_other_answers_are_no_success(
    client: Client, order: Callable[..., None], action: dict[str, Any], kind: str
) -> None:
    order("/dagRuns", action, times=100)

    assert str(action["status"]) in fails(kind, client, "start", DATASET).message


def test_a_page_of_something_else_is_no_success(connect: Callable[..., Client]) -> None:
    async def page(_: Any) -> HTMLResponse:
        return HTMLResponse("<h1>Welcome</h1>", 201)

    with served(Starlette(routes=[Route("/{path:path}", page, methods=["GET", "POST"])])) as url:
        assert "/auth/token" in fails("SyncError", connect(url), "newest", DATASET).message


# Signing in


@pytest.mark.parametrize(
    "refusal",
    [(401, {"detail": "Token Expired"}), (403, {"detail": "Invalid JWT token"})],
    ids=["expired", "revoked or signed with an older key"],
)
def test_a_refused_token_is_renewed(client: Client, airflow: SmallAirflow, refusal: tuple[int, dict[str, Any]]) -> None:
    client.call("start", DATASET, run_id="request-1")
    airflow.tokens.clear()
    airflow.refusal = refusal

    assert client.call("sync", DATASET, "request-1")["state"] == "queued"
    assert airflow.count("POST", "/auth/token") == 2


def test_calls_at_the_same_moment_renew_the_token_once(client: Client, airflow: SmallAirflow) -> None:
    client.call("start", DATASET, run_id="request-1")
    airflow.tokens.clear()

    for answer in [client.begin("sync", DATASET, "request-1") for _ in range(8)]:
        assert answer.result(60)["state"] == "queued"
    assert airflow.count("POST", "/auth/token") == 2


def test_a_token_that_is_refused_at_once_is_not_renewed_for_ever(
    client: Client, order: Callable[..., None], airflow: SmallAirflow
) -> None:
    order("/dagRuns", {"status": 401, "json": {"detail": "Not authenticated"}}, times=100)

    fails("NotSignedInError", client, "newest", DATASET)
    assert airflow.count("POST", "/auth/token") == 2


def test_a_wrong_password(connect: Callable[..., Client], url: str) -> None:
    error = fails("NotSignedInError", connect(url, "wrong-password"), "newest", DATASET)

    assert USER in error.message
    assert "wrong-password" not in error.shown


def test_nothing_shows_the_password_or_the_token(client: Client) -> None:
    client.call("start", DATASET)

    assert PASSWORD not in client.shown()
    assert "token-" not in client.shown()


# Requests


def test_presses_at_the_same_moment_start_one_run(
    connect: Callable[..., Client], url: str, airflow: SmallAirflow
) -> None:
    airflow.add_run("earlier", "success", steps_done=6)
    backends = [connect(url), connect(url)]

    answers = [backend.begin("request_sync", DATASET) for backend in backends * 4]

    (run_id,) = {answer.result(60)["run_id"] for answer in answers}
    assert list(airflow.runs) == ["earlier", run_id]


def test_both_clients_derive_the_same_run_from_a_request(url: str, airflow: SmallAirflow) -> None:
    run_ids = set()
    for language in LANGUAGES:
        backend = open_client(language, url, USER, PASSWORD)
        airflow.runs.clear()
        airflow.add_run("schéduled__2026", "running", steps_done=1)
        conf = {"requested_by": language, "reload_run_key": "ä/\"'", "full_refresh": True, "dry_run": False}
        run_ids.add(backend.call("request_sync", DATASET, conf=conf)["run_id"])
        backend.close()

    assert len(run_ids) == 1


@pytest.mark.parametrize("run_id", ["x" * 201, "x\n"], ids=["long", "line end"])
def test_a_run_id_that_airflow_would_take_and_fail_is_refused(
    client: Client, airflow: SmallAirflow, run_id: str
) -> None:
    fails("InvalidConfError", client, "start", DATASET, run_id=run_id)
    assert airflow.runs == {}
    assert client.call("start", DATASET, run_id="x" * 200)["run_id"] == "x" * 200


def test_a_request_while_a_run_is_active_starts_one_behind_it_and_no_more(
    client: Client, airflow: SmallAirflow
) -> None:
    airflow.add_run("active", "running", conf={}, steps_done=1)

    first = client.call("request_sync", DATASET, conf={"requested_by": "ada"})
    second = client.call("request_sync", DATASET, conf={"requested_by": "grace"})

    assert first["run_id"] == second["run_id"]
    assert list(airflow.runs) == ["active", first["run_id"]]
    assert airflow.runs[first["run_id"]]["conf"] == {"requested_by": "ada"}


@pytest.mark.parametrize("state", [None, "scheduled", "queued"])
def test_a_request_attaches_to_a_run_whose_export_has_not_begun(
    client: Client, airflow: SmallAirflow, state: str | None
) -> None:
    airflow.add_run("just started", "running", conf=None)
    airflow.set_steps("just started", state)

    assert client.call("request_sync", DATASET)["run_id"] == "just started"


@pytest.mark.parametrize(
    ("conf", "states"),
    [
        pytest.param({"dry_run": True}, [None], id="it would not publish"),
        pytest.param({}, ["success", "success"], id="cleared from the copy on, it would load an old export"),
        pytest.param({}, ["running"], id="its export has begun"),
    ],
)
def test_a_request_does_not_attach_to_a_run_that_does_something_else(
    client: Client, airflow: SmallAirflow, conf: dict[str, Any], states: list[str | None]
) -> None:
    airflow.add_run("other", "queued", conf=conf)
    airflow.set_steps("other", *states)

    assert client.call("request_sync", DATASET)["run_id"] != "other"


@pytest.mark.parametrize("name", ["start", "request_sync"])
def test_nothing_is_started_on_a_paused_dataset(client: Client, airflow: SmallAirflow, name: str) -> None:
    airflow.paused = True
    airflow.add_run("waiting", "queued", conf={})

    assert "unpause" in fails("PausedError", client, name, DATASET).message
    assert list(airflow.runs) == ["waiting"]


def test_names_from_outside_stay_in_their_place(client: Client, airflow: SmallAirflow) -> None:
    fails("UnknownDatasetError", client, "start", "x/../../connections?a=b#c")
    fails("UnknownSyncError", client, "sync", DATASET, "../../../pools")

    calls = [call for call in airflow.calls[1:] if call != "GET /api/v2/dags"]
    assert calls == [
        "GET /api/v2/dags/sync_x%2F..%2F..%2Fconnections%3Fa%3Db%23c",
        f"GET {RUNS}/..%2F..%2F..%2Fpools",
    ]


@pytest.mark.parametrize("name", ["start", "request_sync", "newest"])
def test_an_unknown_dataset_is_answered_with_the_known_ones(client: Client, name: str) -> None:
    known = ", ".join(f"dataset_{number:03}" for number in range(120))
    assert (
        fails("UnknownDatasetError", client, name, "tides").message == f"Airflow has no dataset tides; it has {known}"
    )


def test_all_pages_of_datasets_are_read(client: Client) -> None:
    assert client.call("datasets") == [f"dataset_{number:03}" for number in range(120)]


# Following


def test_a_sync_is_told_each_time_that_it_changes(client: Client, airflow: SmallAirflow) -> None:
    client.call("start", DATASET, run_id="request-1")
    following = client.begin("follow", DATASET, "request-1", deadline_seconds=60)
    wait_for_looks(airflow, 2)
    airflow.add_run("request-1", "running", steps_done=1)
    wait_for_looks(airflow, 2)
    airflow.end("request-1", "success", result=ROW)

    seen = following.result(60)

    assert [state for state, _ in groupby(sync["state"] for sync in seen)] == ["queued", "running", "success"]
    assert [sync for one, sync in pairwise(seen) if one == sync] == []
    assert [sync["complete"] for sync in seen] == [False] * (len(seen) - 1) + [True]
    *_, running, success = seen
    assert [step["name"] for step in running["steps"]] == list(STEPS)
    assert [step["state"] for step in running["steps"]] == ["success", *[None] * 5]
    assert (running["result"], success["result"]) == (None, {**ROW, **success["result"]})
    assert success["databricks_run_url"] == "https://dbc.example.com/#job/1/run/2"


def test_an_airflow_that_is_away_for_a_while_loses_no_sync(
    client: Client, airflow: SmallAirflow, order: Callable[..., None]
) -> None:
    client.call("start", DATASET, run_id="request-1")
    order("/dagRuns/request-1$", {"status": 503}, times=6)  # more than the attempts of one call
    airflow.end("request-1", "success", result=ROW)

    assert client.call("wait", DATASET, "request-1", deadline_seconds=60)["complete"]


def test_an_airflow_that_stays_away_is_told(
    connect: Callable[..., Client], url: str, airflow: SmallAirflow, order: Callable[..., None]
) -> None:
    client = connect(url, outage=0.5)
    client.call("start", DATASET, run_id="request-1")
    order("/dagRuns/request-1", {"drop": "before"}, times=1000)

    fails("AirflowUnavailableError", client, "wait", DATASET, "request-1", deadline_seconds=60)


@pytest.mark.parametrize("path", ["/dagRuns/request-1$", "/auth/token"])
def test_the_deadline_holds_while_airflow_hangs(
    client: Client, airflow: SmallAirflow, order: Callable[..., None], path: str
) -> None:
    client.call("start", DATASET, run_id="request-1")
    airflow.tokens.clear()
    order(path, {"delay": 60})

    began = time.monotonic()
    error = fails("SyncTimeoutError", client, "wait", DATASET, "request-1", deadline_seconds=0.5)

    assert time.monotonic() - began < 30
    assert "not known" in error.message


FAILURE = {
    "step": "check_staging",
    "code": "CHECKS_FAILED",
    "message": "2 of 9 checks failed",
    "cause": "A check failed.",
    "what_to_do": "Correct the source",
    "databricks_run_url": "https://dbc.example.com/#job/1/run/2",
    "snowflake_query_id": "01b2",
    "retriable": False,
    "repair": None,
}


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (FAILURE, FAILURE),
        ({**FAILURE, "a later field": 1}, FAILURE),
        ("words alone", {"step": "wait_for_export", "code": "UNEXPECTED"}),
        (None, {"step": "wait_for_export", "code": "UNEXPECTED"}),
    ],
    ids=["object", "object of a later version", "of nobody", "nothing"],
)
def test_the_failure_of_a_sync(client: Client, airflow: SmallAirflow, left: Any, expected: dict[str, Any]) -> None:
    client.call("start", DATASET, run_id="request-1")
    airflow.end("request-1", "failed", failure=left)
    airflow.set_steps(
        "request-1", "success", "failed", "upstream_failed", "upstream_failed", "upstream_failed", "failed"
    )

    sync = client.call("sync", DATASET, "request-1")

    assert (sync["finished"], sync["complete"], sync["result"]) == (True, False, None)
    assert sync["failure"] == {**sync["failure"], **expected}
    assert set(sync["failure"]) == {*FAILURE, "sentence"}
    assert sync["failure"]["sentence"] == f"{expected['step']}: {sync['failure']['message']}"


def test_a_run_that_was_marked_as_success_by_hand_is_not_complete(client: Client, airflow: SmallAirflow) -> None:
    client.call("start", DATASET, run_id="request-1")
    airflow.end("request-1", "success", result=None)

    sync = client.call("wait", DATASET, "request-1", deadline_seconds=5)

    assert (sync["state"], sync["complete"]) == ("success", False)
    assert "by hand" in sync["failure"]["message"]


@pytest.mark.parametrize("state", ["success", "failed"])
def test_what_an_earlier_attempt_has_left_is_neither_the_result_nor_the_reason(
    client: Client, airflow: SmallAirflow, state: str
) -> None:
    client.call("start", DATASET, run_id="request-1")
    airflow.end("request-1", "success", result=ROW, failure=FAILURE)
    assert client.call("sync", DATASET, "request-1")["complete"]
    # Cleared, and then its steps have not begun: a person has marked them, or no api-server was there.
    airflow.clear("request-1")
    airflow.end("request-1", state)

    sync = client.call("wait", DATASET, "request-1", deadline_seconds=5)

    assert (sync["finished"], sync["complete"], sync["result"]) == (True, False, None)
    assert sync["failure"]["code"] == "UNEXPECTED"
    # The last step alone is cleared: publish keeps its attempt, and its answer counts.
    airflow.end("request-1", "success", result=ROW)
    assert client.call("sync", DATASET, "request-1")["complete"]


def test_a_result_that_does_not_say_whose_it_is_proves_nothing(client: Client, airflow: SmallAirflow) -> None:
    client.call("start", DATASET, run_id="request-1")
    airflow.end("request-1", "success")
    airflow.xcoms["request-1", "publish", "return_value"] = ROW

    assert not client.call("sync", DATASET, "request-1")["complete"]


def test_a_sync_that_is_cancelled_before_its_turn_is_over(client: Client, airflow: SmallAirflow) -> None:
    client.call("start", DATASET, run_id="request-1")
    airflow.set_steps("request-1", *["skipped"] * 5)

    sync = client.call("wait", DATASET, "request-1", deadline_seconds=5)

    assert (sync["state"], sync["complete"], sync["failure"]["code"]) == ("failed", False, "CANCELLED")
    assert client.call("request_sync", DATASET)["run_id"] != "request-1"
    client.call("cancel", DATASET, "request-1")
    assert airflow.count("PATCH") == 0


@pytest.mark.parametrize("earlier", [None, "For the board."])
def test_a_cancel_names_who_has_cancelled_and_keeps_what_others_wrote(
    client: Client, airflow: SmallAirflow, earlier: str | None
) -> None:
    client.call("start", DATASET, run_id="request-1")
    airflow.runs["request-1"]["note"] = earlier

    client.call("cancel", DATASET, "request-1", by="ada@example.com")

    note = "\n\n".join(filter(None, (earlier, "Cancelled by ada@example.com")))
    assert airflow.runs["request-1"]["note"] == note
    # As the data share writes it below, by Airflow's own record of who has called.
    cancelled = {**FAILURE, "code": "CANCELLED"}
    for line, who in {
        "": "ada@example.com",
        "\n\n---\n\ncancelled by ada: A through backend: A person ended it.": "ada",
        "\n\n---\n\ncancelled by ada through backend: A person ended it.": "ada",
        "\n\n---\n\ncancelled: A person ended it.": None,
    }.items():
        airflow.end("request-1", "failed", failure=cancelled)
        airflow.runs["request-1"]["note"] = note + line
        assert client.call("sync", DATASET, "request-1")["cancelled_by"] == who
    airflow.end("request-1", "failed", failure=FAILURE)
    assert client.call("sync", DATASET, "request-1")["cancelled_by"] is None


def test_who_asked_and_how_many_rows_are_known_while_a_sync_runs(client: Client, airflow: SmallAirflow) -> None:
    client.call("start", DATASET, run_id="request-1", conf={"requested_by": "ada"})
    airflow.add_run("request-1", "running", conf={"requested_by": "ada"}, steps_done=2)
    sync = client.call("sync", DATASET, "request-1")
    assert (sync["requested_by"], sync["rows_loaded"]) == ("ada", None)
    loaded = {"rows_loaded": 1461, "task_instance_id": airflow.attempt("request-1", "copy_into_staging")}
    airflow.add_run("request-1", "running", steps_done=3)
    airflow.runs["request-1"]["triggering_user_name"] = "grace"
    airflow.xcoms["request-1", "copy_into_staging", "return_value"] = loaded
    sync = client.call("sync", DATASET, "request-1")
    assert (sync["requested_by"], sync["rows_loaded"]) == ("grace", 1461)
    # An earlier attempt has loaded other rows.
    airflow.xcoms["request-1", "copy_into_staging", "return_value"] = {**loaded, "task_instance_id": "another"}
    assert client.call("sync", DATASET, "request-1")["rows_loaded"] is None


@pytest.mark.parametrize("state", ["success", "failed"])
def test_a_finished_sync_is_not_cancelled(client: Client, airflow: SmallAirflow, state: str) -> None:
    client.call("start", DATASET, run_id="request-1")
    airflow.end("request-1", state, result=ROW)

    client.call("cancel", DATASET, "request-1")

    assert airflow.count("PATCH") == 0
    assert airflow.runs["request-1"]["state"] == state


def wait_for_looks(airflow: SmallAirflow, looks: int) -> None:
    """Wait until the client has looked so many times more."""
    seen, deadline = airflow.count("GET", "/taskInstances"), time.monotonic() + 60
    while airflow.count("GET", "/taskInstances") < seen + looks:
        assert time.monotonic() < deadline
        time.sleep(0.01)
