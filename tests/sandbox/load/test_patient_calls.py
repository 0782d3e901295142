"""Every HTTP call of a sync, on both sides, without its answer: once, and more often than anybody waits for."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from data_share.databricks import follow
from data_share.databricks import hook as jobs_api
from data_share.outcome.classify import failure_of
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import FAILURE_KEY, NotPublishedError
from data_share.snowflake import sql_api as statements_api
from data_share.snowflake.sql_api import DataShareSnowflakeHook, SnowflakeStoppedError
from emulators.fault_injection import carry_out, replay
from tests.airflow_double import SYNC, DagRun
from tests.contracts.conftest import Accounts, serve_accounts, until
from tests.contracts.scenarios import FIRST, a_dataset, ledger, target

pytestmark = [pytest.mark.sandbox]

LATER = {"Retry-After": "7"}
ANSWERS: dict[str, dict[str, Any]] = {
    "429": {"status": 429, "json": {"code": "390505", "message": "Too many requests."}, "headers": LATER},
    "500": {"status": 500, "json": {"code": "000603", "message": "SQL execution internal error"}},
    "502": {"status": 502},
    "503": {"status": 503, "headers": LATER},
    "504": {"status": 504},
    "lost before it arrives": {"drop": "before"},
    "answer lost": {"drop": "after"},
}
# Made as often as it takes: three times by the hook, with lost connections twice as often, at each of ten looks.
LOOKS_AT_THE_RUN = "databricks runs/get of DatabricksRunSensor"


@dataclass
class Line:
    """
    What stands between the product and both emulators: it knows the calls, and lets one of them go wrong.

    A call is named by what it is for, so that it is found again in another sync: by the number of its statement, not by
    the handle.

    :param calls: the names of the calls, each once, in their order, with the step that made it
    :param executed: how often Snowflake has executed each request
    :param pauses: seconds that were waited between two calls
    """

    step: str = ""
    calls: dict[str, str] = field(default_factory=dict)
    executed: Counter[str] = field(default_factory=Counter)
    pauses: list[float] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)
    times: int = 0
    hits: Counter[str] = field(default_factory=Counter)
    held: str = ""
    _requests: dict[str, str] = field(default_factory=dict)
    _handles: dict[str, str] = field(default_factory=dict)

    def begin(self, wrong: dict[str, str] | None = None, times: int = 0, hold: str = "") -> None:
        """
        Forget what was, and let calls go wrong.

        :param wrong: what each of them is answered instead, by its name
        :param times: how often in a row
        :param hold: the statement that does not end by itself; Snowflake does not wait 45 seconds for its end
        """
        from emulators.snowflake import sql_api

        sql_api.SYNCHRONOUS_WAIT = 0.05 if hold else 45.0
        for kept in (self.calls, self.executed, self.hits, self._requests, self._handles, self.pauses):
            kept.clear()
        self.wrong, self.times, self.held = wrong or {}, times, hold

    def around(self, system: str, app: ASGIApp) -> ASGIApp:
        """Put the line before an emulator."""

        async def line(scope: Scope, receive: Receive, send: Send) -> str | None:
            if scope["type"] != "http" or scope["path"].startswith("/_sandbox/"):
                await app(scope, receive, send)
                return None
            body = await Request(scope, receive).body()
            name = f"{system} {self._snowflake(scope, body) if system == 'snowflake' else _databricks(scope)}"
            self.calls.setdefault(name, self.step)
            action = {}
            if name in self.wrong and self.hits[name] < self.times:
                self.hits[name] += 1
                action = ANSWERS[self.wrong[name]]

            async def note(message: Any) -> None:
                if message["type"] == "http.response.body" and system == "snowflake":
                    self._note_handles(scope, message["body"])
                await send(message)

            return await carry_out(action, app, scope, replay(body, receive), note)

        return line

    def _snowflake(self, scope: Scope, body: bytes) -> str:
        if scope["path"].endswith("/statements"):
            statement = json.loads(body)["statement"].replace("BEGIN TRANSACTION;", "").split()
            # Its first word: the others have the names of this sync.
            name = f"statement {len(self._requests) + 1}, {statement[0]}"
            return f"submission of {self._requests.setdefault(_request_id(scope), name)}"
        name = self._handles[_handle(scope)]
        kind = "cancel" if scope["path"].endswith("/cancel") else "partition" if scope["query_string"] else "look"
        # Of several statements in one request, one is looked at when all have ended.
        return f"{'result' if kind == 'look' and ' number ' in name else kind} of {name}"

    def _note_handles(self, scope: Scope, body: bytes) -> None:
        """Name the handles in an answer: of a statement, or of several statements in one request."""
        try:
            told = json.loads(body or b"{}")
        except ValueError:  # a partition is compressed
            return
        is_submission = scope["path"].endswith("/statements")
        name = self._requests[_request_id(scope)] if is_submission else self._handles[_handle(scope)]
        if handle := told.get("statementHandle"):
            self._handles.setdefault(handle, name)
        for number, handle in enumerate(told.get("statementHandles", []), 1):
            self._handles.setdefault(handle, f"{name}, number {number}")

    def execute(self, request_id: str, stopped: Callable[[float], bool]) -> None:
        """Count an execution; one that is held goes on only to its cancellation."""
        self.executed[request_id] += 1
        while self.held and self.held == self._requests.get(request_id) and not stopped(0.005):
            pass


def _request_id(scope: Scope) -> str:
    return parse_qs(scope["query_string"].decode())["requestId"][0]


def _handle(scope: Scope) -> str:
    return str(re.findall(r"/statements/([^/]+)", scope["path"])[0])


def _databricks(scope: Scope) -> str:
    caller = re.findall(r"operator/(\w+)", dict(scope["headers"]).get(b"user-agent", b"").decode())
    return f"{scope['path'].partition('jobs/')[2]} of {''.join(caller)}"


@pytest.fixture(scope="module")
def line() -> Line:
    return Line()


@pytest.fixture(scope="module")
def accounts(line: Line, tmp_path_factory: pytest.TempPathFactory, sync_datasets: ModuleType) -> Iterator[Accounts]:
    """The emulators behind the line, and hooks that wait for nothing."""
    from emulators.snowflake import sql_api

    execute = sql_api.SqlApi._run

    def counted(self: Any, execution: Any, submission: Any) -> None:
        line.execute(execution.request_id, execution.stop.cancelled.wait)
        execute(self, execution, submission)

    def pause(_: DataShareSnowflakeHook, seconds: float) -> None:
        line.pauses.append(seconds)
        time.sleep(min(seconds, 0.002))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql_api.SqlApi, "_run", counted)
        patch.setattr(sql_api, "SYNCHRONOUS_WAIT", sql_api.SYNCHRONOUS_WAIT)  # Line.begin sets it
        # A sync looks at few rows: so they come in several parts all the same.
        patch.setattr(sql_api, "PARTITION_ROWS", 2)
        patch.setattr(DataShareSnowflakeHook, "_pause", pause)
        patch.setattr(statements_api, "_STOP_PAUSE_SECONDS", 0)
        patch.setattr(jobs_api, "_pause", lambda state: 0)
        patch.setattr(follow, "_MIN_POLL_SECONDS", 0.02)
        patch.setattr(follow, "_MAX_POLL_SECONDS", 0.02)
        with serve_accounts(tmp_path_factory.mktemp("accounts"), sync_datasets.sync_dag, line.around) as made:
            made.begin_dag("set_up_snowflake").run("create_schemas", "create_stage", "create_ledger")
            yield made


@dataclass
class Sync:
    """A sync of which a step may fail: the others follow as Airflow has them follow."""

    run: DagRun
    failure: Any = None
    not_published: NotPublishedError | None = None

    @property
    def is_published(self) -> bool:
        """Whether the last step had nothing to say against it."""
        return self.failure is None and self.not_published is None


def sync(accounts: Accounts, line: Line, dataset: Any) -> Sync:
    """Do a sync: after a step that fails, only the last one is done."""
    done = Sync(accounts.begin(dataset))
    run = done.run
    for step in SYNC[:-1]:
        line.step = step
        if done.failure is not None:
            run.states[step] = "upstream_failed"
            continue
        try:
            run.task(step)
        except Exception:
            done.failure = run.xcoms[step, FAILURE_KEY]
    line.step = SYNC[-1]
    try:
        run.task(SYNC[-1])
    except NotPublishedError as error:
        done.not_published = error
    return done


def runs_of(accounts: Accounts, run: DagRun) -> list[str]:
    """Return how the runs ended that Databricks has made for a sync."""
    runs = accounts.on_databricks("runs/list")["runs"]
    of_sync = [each for each in runs if any(given.get("value") == run.key for given in each["job_parameters"])]
    return [each["state"].get("result_state", "") for each in of_sync]


def nothing_runs(accounts: Accounts) -> bool:
    """Whether neither Snowflake executes a statement nor Databricks a run."""
    state = httpx.get(f"{accounts.snowflake_url}/_sandbox/state").json()
    return not state["running"] and not accounts.on_databricks("runs/list", active_only="true").get("runs")


def turned(calls: dict[str, str], shift: int) -> dict[str, str]:
    """Return an answer for each call, such that over all shifts each call has each."""
    answers = list(ANSWERS)
    return {name: answers[(number + shift) % len(answers)] for number, name in enumerate(calls)}


@pytest.fixture(scope="module")
def dataset(accounts: Accounts) -> Any:
    return a_dataset(accounts)


@pytest.fixture(scope="module")
def calls(accounts: Accounts, line: Line, dataset: Any) -> dict[str, str]:
    """The calls of a sync in which nothing goes wrong, with the steps that make them."""
    # The first sync of a target makes its lock as well.
    assert sync(accounts, line, dataset).is_published
    line.begin()
    assert sync(accounts, line, dataset).is_published
    assert set(line.executed.values()) == {1}
    found = dict(line.calls)
    kinds = Counter(re.sub(r" of .*", "", name) for name in found)
    assert set(kinds) == {"databricks run-now", "databricks runs/get", *(f"snowflake {k}" for k in SNOWFLAKE_KINDS)}
    # Only the COPY of the data and the publish are looked at: the others are answered with their result.
    assert kinds["snowflake look"] == 2
    # What is prepared, and the row of the ledger.
    assert kinds["snowflake result"] == 2
    assert kinds["snowflake submission"] >= 7
    assert SYNC[-1] not in found.values(), "after a publish, nothing is left to do"
    return found


SNOWFLAKE_KINDS = ("submission", "look", "result", "partition")


@pytest.mark.tier("nightly")
@pytest.mark.parametrize("shift", range(len(ANSWERS)))
def test_a_call_without_an_answer_is_made_again_and_nothing_is_executed_twice(
    accounts: Accounts, line: Line, dataset: Any, calls: dict[str, str], shift: int
) -> None:
    """In each of these syncs, every call goes wrong once; after all of them, in each way."""
    wrong = turned(calls, shift)
    published = len(ledger(dataset))
    line.begin(wrong, times=1)
    done = sync(accounts, line, dataset)
    assert done.is_published, done.failure
    assert line.hits == dict.fromkeys(calls, 1)
    assert set(line.executed.values()) == {1}
    assert len(line.executed) == sum("submission" in name for name in calls)
    assert len(ledger(dataset)) == published + 1
    assert target(dataset) == FIRST
    assert runs_of(accounts, done.run) == ["SUCCESS"]
    assert nothing_runs(accounts)
    asked = [ANSWERS[answer].get("headers") for name, answer in wrong.items() if name.startswith("snowflake")]
    assert line.pauses.count(7.0) == asked.count(LATER) > 1


@pytest.mark.tier("nightly")
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_call_that_never_has_an_answer_is_given_up_and_leaves_nothing_running(
    accounts: Accounts, line: Line, dataset: Any, calls: dict[str, str], answer: str
) -> None:
    """Of each call in turn; its statement, or its run, would not end by itself."""
    for name, step in calls.items():
        statement = name.partition(" of ")[2]
        times = 1000 if name == LOOKS_AT_THE_RUN else 10
        published = len(ledger(dataset))
        # Results and parts of them are fetched when their statements have ended.
        has_ended = name.startswith(("snowflake partition", "snowflake result"))
        line.begin({name: answer}, times=times, hold="" if has_ended else statement)
        if name.startswith("databricks"):
            accounts.order("hold", at="start")
        try:
            done = sync(accounts, line, dataset)
        finally:
            accounts.order("release")
        assert line.hits[name] == times or (name == LOOKS_AT_THE_RUN and line.hits[name] >= 30), (name, done.failure)
        until(lambda: nothing_runs(accounts))
        assert done.failure is not None, name
        assert (done.failure["step"], done.failure["retriable"]) == (step, True), (name, done.failure)
        assert done.failure["code"] == f"{name.partition(' ')[0].upper()}_UNAVAILABLE", (name, done.failure)
        assert done.not_published is not None, name
        told = done.not_published.failure.code
        if step == "publish" and told is FailureCode.ENDED_AFTER_PUBLISH:
            # The transaction was committed; only what it did could not be asked any more.
            assert len(ledger(dataset)) == published + 1, name
        else:
            assert (told.name, len(ledger(dataset))) == (done.failure["code"], published), name


@pytest.mark.tier("nightly")
@pytest.mark.parametrize("shift", range(len(ANSWERS)))
def test_the_reason_of_a_failed_export_is_told_over_an_outage(
    accounts: Accounts, line: Line, dataset: Any, shift: int
) -> None:
    """Its calls, too, go wrong once each."""
    reason = "The source is gone, on order."
    accounts.order("fail_next", message=reason, count=2)
    line.begin()
    sync(accounts, line, dataset)
    wrong = turned(line.calls, shift)
    assert {"databricks runs/get-output of DatabricksRunSensor", "databricks runs/list of FinishSync"} <= set(wrong)
    line.begin(wrong, times=1)
    done = sync(accounts, line, dataset)
    assert line.hits == dict.fromkeys(wrong, 1)
    assert done.failure["code"] == "EXPORT_FAILED"
    assert reason in done.failure["message"]
    assert nothing_runs(accounts)


@pytest.mark.tier("nightly")
@pytest.mark.parametrize("answer", ANSWERS)
def test_what_is_cancelled_is_cancelled_over_an_outage(
    accounts: Accounts, line: Line, dataset: Any, answer: str
) -> None:
    """A run that nobody follows by the last step, a statement by the kill of its step: each call goes wrong once."""
    accounts.order("hold", at="start")
    run = accounts.begin(dataset)
    run.task("export_to_s3")
    run.states.update(export_to_s3="success", wait_for_export="failed")
    run.xcoms["wait_for_export", FAILURE_KEY] = failure_of(RuntimeError("gone"), "wait_for_export").to_xcom()
    ends = [f"databricks runs/{call} of FinishSync" for call in ("list", "cancel")]
    line.begin(dict.fromkeys(ends, answer), times=1)
    with pytest.raises(NotPublishedError):
        run.task(SYNC[-1])
    assert line.hits == dict.fromkeys(ends, 1)
    accounts.order("release")
    until(lambda: nothing_runs(accounts))
    assert runs_of(accounts, run) == ["CANCELED"]

    line.begin({"snowflake cancel of statement 1, SELECT": answer}, times=1, hold="statement 1, SELECT")
    hook = DataShareSnowflakeHook("snowflake_default")
    handle = hook.submit("SELECT 1")
    assert not nothing_runs(accounts)
    hook.stop()
    assert line.hits.total() == 1
    until(lambda: nothing_runs(accounts))
    with pytest.raises(SnowflakeStoppedError):
        hook.wait(handle)
