"""Notes on runs: the line that they hold, what a person wrote, and that nothing goes wrong for Airflow."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG
from sqlalchemy import JSON, Column, DateTime, Integer, String, create_engine
from sqlalchemy.orm import DeclarativeBase, Session

from data_share.outcome import notes
from data_share.outcome.notes import canceller, failure_line, on_dag_run_failed, on_dag_run_success, success_line

# Airflow's tables are imported where they are needed: to collect the tests must stay cheap.
if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun, DagRunNote

ROW = {"rows_loaded": 1461, "source_table": "main.weather.forecasts"}
DRY_RUN = {"dry_run": True, "rows_inserted": 1461, "rows_updated": 0, "rows_deleted": 12}
VERSION = {"source_version": 812, "source_committed_at": "2026-01-02T02:41:00.123456"}
OF_VERSION = "main.weather.forecasts as of 2026-01-02 02:41 UTC (version 812)"
FULL = {**ROW, **VERSION, "export_mode": "full", "export_reason": "no earlier publish is known", "incremental": True}
FEED = {
    **FULL,
    "export_mode": "feed",
    "export_reason": "the change data feed has 14 changes since version 811",
    # Of the rows that were loaded, one had not changed.
    "rows_loaded": 14,
    "rows_inserted": 3,
    "rows_updated": 9,
    "rows_deleted": 1,
}
ONE = {"rows_inserted": 0, "rows_updated": 1, "rows_deleted": 0}
UNCHANGED = {"unchanged": True, "source_table": "main.weather.forecasts", **VERSION}
VERIFIED = {
    "verified": True,
    "rows": 1461,
    "source_table": "main.weather.forecasts",
    "target_table": "shared_forecasts",
    "not_compared": [],
    **VERSION,
}
FAILURE = {"step": "check_staging", "code": "CHECKS_FAILED", "message": "2 of 9 checks failed.\n- deep: depth > 0"}
CANCELLED = {"step": "wait_for_export", "code": "CANCELLED", "message": "A person ended the sync."}
SENTENCE = "check_staging: 2 of 9 checks failed. - deep: depth > 0"
BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def xcoms(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], Any]:
    """Make what the steps left."""
    left: dict[tuple[str, str], Any] = {}
    monkeypatch.setattr(notes, "xcom_of_last_attempt", lambda run, task_id, key: left.get((task_id, key)))
    return left


def run(state: str, seconds: float = 6.24, tags: tuple[str, ...] | None = ("data-share", "sync")) -> DagRun:
    """Make a run as the scheduler gives it to a listener; without tags, it has lost its DAG."""
    from airflow.models.dagrun import DagRun

    made = DagRun(dag_id="sync_tides", run_id="manual__1", run_type="manual", state=state, start_date=BEGAN)
    made.end_date = BEGAN + timedelta(seconds=seconds)
    made.dag = None if tags is None else DAG("sync_tides", schedule=None, tags=tags)
    return made


def note(content: str, user_id: str | None = None) -> DagRunNote:
    """Make a note of a person, or of nobody, as a listener's is."""
    from airflow.models.dagrun import DagRunNote

    return DagRunNote(content=content, user_id=user_id)


def ended(
    state: str, xcoms: dict[tuple[str, str], Any], reason: str = "", note: DagRunNote | None = None, **changes: Any
) -> DagRun:
    made = run(state, **changes)
    made.dag_run_note = note
    (on_dag_run_success if state == "success" else on_dag_run_failed)(made, reason)
    return made


@pytest.mark.parametrize(
    ("answer", "seconds", "line"),
    [
        (ROW, 6.24, "1,461 rows from main.weather.forecasts in 6.2 s"),
        (ROW, 59.9, "1,461 rows from main.weather.forecasts in 59.9 s"),
        (ROW, 125.4, "1,461 rows from main.weather.forecasts in 2 min 5 s"),
        (ROW, 7505, "1,461 rows from main.weather.forecasts in 2 h 5 min"),
        (
            VERIFIED,
            6.24,
            (
                "verified: 1,461 rows of shared_forecasts are those of main.weather.forecasts as of 2026-01-02 "
                "02:41 UTC (version 812) (6.2 s)"
            ),
        ),
        (
            {**VERIFIED, "not_compared": ["PARTS", "TAGS"]},
            6.24,
            (
                "verified: 1,461 rows of shared_forecasts are those of main.weather.forecasts as of 2026-01-02 "
                "02:41 UTC (version 812), but for the values of PARTS, TAGS (6.2 s)"
            ),
        ),
        (
            {**ROW, **VERSION},
            6.24,
            "1,461 rows from main.weather.forecasts as of 2026-01-02 02:41 UTC (version 812) in 6.2 s",
        ),
        ({**ROW, "source_version": None}, 6.24, "1,461 rows from main.weather.forecasts in 6.2 s"),
        (UNCHANGED, 2.04, "nothing new at the source since 2026-01-02 02:41 UTC (version 812) (2.0 s)"),
        (
            FEED,
            6.24,
            f"13 changes (3 inserted, 9 updated, 1 deleted) of {OF_VERSION}, by its change data feed, in 6.2 s",
        ),
        (
            {**FEED, "export_mode": "compare", **ONE},
            6.24,
            f"1 change (1 updated) of {OF_VERSION}, by a comparison of two versions, in 6.2 s",
        ),
        ({**FEED, **ONE, "rows_updated": 0}, 6.24, f"no changes of {OF_VERSION}, by its change data feed, in 6.2 s"),
        (
            FULL,
            6.24,
            f"1,461 rows from {OF_VERSION}, all of them because no earlier publish is known, in 6.2 s",
        ),
        # The dataset file of a sync that always exports everything does not ask for changes.
        ({**FULL, "incremental": False}, 6.24, f"1,461 rows from {OF_VERSION} in 6.2 s"),
        # The ledger of an earlier version.
        ({**ROW, "incremental": True}, 6.24, "1,461 rows from main.weather.forecasts in 6.2 s"),
        (DRY_RUN, 6.24, "dry run: would insert 1,461, update 0 and delete 12 rows (6.2 s)"),
        (
            {**DRY_RUN, "export_mode": "feed"},
            6.24,
            "dry run: would insert 1,461, update 0 and delete 12 rows, by its change data feed (6.2 s)",
        ),
        (None, 1, "set to success by a person; nothing was published"),
    ],
)
def test_the_line_of_a_success(answer: Any, seconds: float, line: str) -> None:
    assert success_line(answer, seconds) == line


@pytest.mark.parametrize(
    ("failure", "reason", "sentence"),
    [
        (FAILURE, "task_failure", "check_staging: 2 of 9 checks failed.\n- deep: depth > 0"),
        (None, "timed_out", "sync: The sync exceeded its max. time"),
        (None, "task_failure", "finish_sync: A step ended without a report"),
        # No step is at fault.
        (CANCELLED, "task_failure", "cancelled: A person ended the sync."),
    ],
)
def test_the_line_of_a_failure(failure: Any, reason: str, sentence: str) -> None:
    assert failure_line(failure, reason).startswith(sentence)


def test_a_success_is_noted(xcoms: dict[tuple[str, str], Any]) -> None:
    xcoms["publish", "return_value"] = ROW
    assert ended("success", xcoms).note == "1,461 rows from main.weather.forecasts in 6.2 s"


def test_a_failure_is_noted_in_one_line(xcoms: dict[tuple[str, str], Any]) -> None:
    xcoms["finish_sync", "failure"] = FAILURE
    assert ended("failed", xcoms).note == SENTENCE


def test_a_note_fits_into_its_column(xcoms: dict[tuple[str, str], Any]) -> None:
    xcoms["finish_sync", "failure"] = {**FAILURE, "message": "word " * 1000}
    note = ended("failed", xcoms).note
    assert note is not None
    assert 300 < len(note) < 1000
    assert note.endswith("...")


def test_a_cancelled_run_is_noted_when_its_last_task_has_ended(xcoms: dict[tuple[str, str], Any]) -> None:
    cancelled = run("running")
    on_dag_run_failed(cancelled, "Dag Run's state was manually set to `failed`.")
    assert cancelled.note is None


@pytest.mark.parametrize("tags", [None, ("sync",), ()])
def test_runs_of_other_dags_are_left_alone(xcoms: dict[tuple[str, str], Any], tags: tuple[str, ...] | None) -> None:
    xcoms["publish", "return_value"] = ROW
    assert ended("success", xcoms, tags=tags).note is None


def test_the_note_of_an_earlier_end_makes_room(xcoms: dict[tuple[str, str], Any]) -> None:
    xcoms["publish", "return_value"] = ROW
    earlier = note("check_staging: no")
    assert ended("success", xcoms, note=earlier).note == "1,461 rows from main.weather.forecasts in 6.2 s"


def test_what_a_person_wrote_stays_above_the_line(xcoms: dict[tuple[str, str], Any]) -> None:
    xcoms["finish_sync", "failure"] = {**FAILURE, "step": "publish", "message": "overtaken"}
    written = note("For the board.", "ada")
    first = ended("failed", xcoms, note=written)
    assert first.note == "For the board.\n\n---\n\npublish: overtaken"

    xcoms["publish", "return_value"] = ROW
    again = ended("success", xcoms, note=first.dag_run_note)
    assert again.note == "For the board.\n\n---\n\n1,461 rows from main.weather.forecasts in 6.2 s"
    assert again.dag_run_note.user_id == "ada"


def test_a_long_note_of_a_person_is_not_touched(xcoms: dict[tuple[str, str], Any]) -> None:
    xcoms["finish_sync", "failure"] = {**FAILURE, "step": "publish", "message": "overtaken"}
    written = note("x" * 990, "ada")
    assert ended("failed", xcoms, note=written).note == "x" * 990


@pytest.mark.parametrize("left", [{"rows_loaded": 3}, "text", 7])
def test_nothing_that_a_step_left_makes_the_listener_raise(xcoms: dict[tuple[str, str], Any], left: Any) -> None:
    xcoms["publish", "return_value"] = left
    assert ended("success", xcoms).note is None


def test_a_run_without_a_session_makes_the_listener_not_raise() -> None:
    assert ended("failed", {}).note is None


FAILED = '{"state": "failed", "method": "PATCH"}'


@pytest.mark.parametrize(
    ("calls", "who"),
    [
        ([("grace", FAILED)], "grace"),
        (
            [("svc-sync", '{"state": "failed", "note": "Cancelled by ada@example.com"}')],
            "ada@example.com through svc-sync",
        ),
        ([("svc-sync", '{"state": "failed", "note": "For the board.\\n\\nCancelled by ada"}')], "ada through svc-sync"),
        ([("svc-sync", '{"state": "failed", "note": "Too late."}')], "svc-sync"),
        # The last one to set it to failed; to write a note is no cancel.
        ([("ada", '{"note": "Cancelled by nobody"}'), ("grace", FAILED), ("alan", FAILED)], "grace"),
        ([("ada", '{"state": "queued"}'), ("alan", None)], None),
        ([], None),
    ],
)
def test_who_has_cancelled_is_the_user_of_the_call(calls: list[tuple[str, str | None]], who: str | None) -> None:
    assert canceller(calls) == who


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (CANCELLED, "cancelled by grace: A person ended the sync."),
        # A step failed by itself before somebody ended the run.
        (FAILURE, SENTENCE),
    ],
)
def test_only_a_cancelled_sync_is_noted_with_who_has_cancelled_it(
    xcoms: dict[tuple[str, str], Any], monkeypatch: pytest.MonkeyPatch, report: dict[str, Any], line: str
) -> None:
    monkeypatch.setattr(notes, "_changing_calls", lambda run: [("grace", FAILED)])
    xcoms["finish_sync", "failure"] = report
    assert ended("failed", xcoms).note == line


class Base(DeclarativeBase):
    pass


class OneRun(Base):
    __tablename__ = "dag_run"
    id = Column(Integer, primary_key=True)
    dag_id = Column(String)
    run_id = Column(String)
    queued_at = Column(DateTime)


class OneCall(Base):
    __tablename__ = "log"
    id = Column(Integer, primary_key=True)
    dttm = Column(DateTime)
    dag_id = Column(String)
    run_id = Column(String)
    event = Column(String)
    owner = Column(String)
    extra = Column(String)


class OneTask(Base):
    __tablename__ = "task_instance"
    id = Column(String, primary_key=True)
    dag_id = Column(String)
    run_id = Column(String)
    task_id = Column(String)


class OneXCom(Base):
    __tablename__ = "xcom"
    id = Column(Integer, primary_key=True)
    dag_id = Column(String)
    run_id = Column(String)
    task_id = Column(String)
    key = Column(String)
    value = Column(JSON)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    from airflow.models import log, taskinstance, xcom

    monkeypatch.setattr(log, "Log", OneCall)
    monkeypatch.setattr(xcom, "XComModel", OneXCom)
    monkeypatch.setattr(taskinstance, "TaskInstance", OneTask)
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as made:
        yield made


WHERE = {"dag_id": "sync_tides", "run_id": "1", "task_id": "publish"}


def left(session: Session, value: Any, key: str = "return_value") -> Any:
    """What a listener finds of a publish that has left this, in the attempt "second"."""
    ours = OneRun(dag_id="sync_tides", run_id="1")
    session.add_all([ours, OneXCom(**WHERE, key=key, value=value), OneTask(id="second", **WHERE)])
    session.flush()
    return notes.xcom_of_last_attempt(ours, "publish", "return_value")  # type: ignore[arg-type]


def test_what_a_step_left_is_read_by_run_task_and_key(session: Session) -> None:
    for number, change in enumerate(("dag_id", "run_id", "task_id", "key")):
        where = {**WHERE, "key": "return_value", change: "another"}
        session.add(OneXCom(**where, value={"task_instance_id": "second"}))
        if change != "key":
            del where["key"]
            session.add(OneTask(id=f"{number}", **where))
    assert left(session, {**ROW, "task_instance_id": "second"}) == {**ROW, "task_instance_id": "second"}


@pytest.mark.parametrize("value", [{**ROW, "task_instance_id": "first"}, ROW], ids=["an earlier attempt", "nobody"])
def test_what_an_earlier_attempt_left_is_not_read(session: Session, value: Any) -> None:
    assert left(session, value) is None


def test_what_no_step_left_is_not_found(session: Session) -> None:
    assert left(session, {**ROW, "task_instance_id": "second"}, "another key") is None


def test_the_calls_that_count_have_changed_this_run_since_it_was_queued(session: Session) -> None:
    queued = datetime(2026, 1, 2, 3)
    ours = OneRun(dag_id="sync_tides", run_id="1", queued_at=queued)
    session.add(ours)
    known = {"dag_id": "sync_tides", "run_id": "1", "event": "patch_dag_run", "dttm": queued + timedelta(seconds=1)}
    for owner, change in {
        "first": {},
        "last": {},
        "of another DAG": {"dag_id": "sync_cities"},
        "of another run": {"run_id": "2"},
        "another call": {"event": "trigger_dag_run"},
        # Before it was cleared.
        "earlier": {"dttm": queued - timedelta(seconds=1)},
    }.items():
        session.add(OneCall(**{**known, **change}, owner=owner, extra=FAILED))
    session.flush()
    assert notes._changing_calls(ours) == [("last", FAILED), ("first", FAILED)]  # type: ignore[arg-type]
