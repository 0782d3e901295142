"""What is told of the end of a sync as metrics: how often, with which values and tags."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from airflow.sdk import DAG

from data_share.outcome import metrics
from data_share.outcome.codes import FailureCode
from data_share.outcome.metrics import End, metrics_of, on_dag_run_failed, on_dag_run_success
from data_share.outcome.report import Failure

# Airflow's tables are imported where they are needed: to collect the tests must stay cheap.
if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ENDED = BEGAN + timedelta(seconds=6.5)
ROW = {
    "rows_exported": 14,
    "bytes_exported": 2048,
    "rows_loaded": 14,
    "rows_inserted": 3,
    "rows_updated": 9,
    "rows_deleted": 2,
    "rows_in_target": 1461,
    "statement_seconds": 1.5,
    "published_at": "2026-01-02T03:04:10.000001",
    "data_as_of": "2026-01-02T03:04:06",
    "clear_number": 0,
}
AS_OF = datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC).timestamp()
FAILED = Failure("check_staging", FailureCode.CHECKS_FAILED, "2 of 9 checks failed.").to_xcom()
CANCELLED = Failure("wait_for_export", FailureCode.CANCELLED, "A person ended it.").to_xcom()
SYNC = {"dataset": "tides", "kind": "sync"}


def end(state: str = "success", answer: Any = None, failure: Any = None, **fields: Any) -> End:
    base: dict[str, Any] = {"conf": {}, "started_at": BEGAN, "ended_at": ENDED, "clear_number": 0}
    return End(dataset="tides", state=state, answer=answer, failure=failure, **(base | fields))


def told(of: End) -> dict[str, tuple[float, dict[str, str]]]:
    """Return value and tags of each metric, by its name, of those that there are once."""
    return {metric.name: (metric.value, dict(metric.tags)) for metric in metrics_of(of)}


def test_a_publish_tells_what_it_has_moved() -> None:
    steps = {"export_to_s3": 0.5, "publish": 1.0}
    found = [
        (metric.kind, metric.name, metric.value, dict(metric.tags))
        for metric in metrics_of(end(answer=ROW, step_seconds=steps, max_age_minutes=30))
    ]
    tides = {"dataset": "tides"}
    assert found == [
        ("counter", "syncs", 1, {**SYNC, "outcome": "published"}),
        ("timer", "sync_duration", 6.5, {**SYNC, "outcome": "published"}),
        ("timer", "step_duration", 0.5, {**tides, "step": "export_to_s3"}),
        ("timer", "step_duration", 1.0, {**tides, "step": "publish"}),
        ("gauge", "last_success_time", ENDED.timestamp(), SYNC),
        ("gauge", "max_age_seconds", 1800, tides),
        ("counter", "rows_exported", 14, tides),
        ("counter", "bytes_exported", 2048, tides),
        ("counter", "rows_loaded", 14, tides),
        ("counter", "rows_inserted", 3, tides),
        ("counter", "rows_updated", 9, tides),
        ("counter", "rows_deleted", 2, tides),
        ("timer", "statement_duration", 1.5, tides),
        ("gauge", "rows_in_target", 1461, tides),
        ("gauge", "data_as_of_time", AS_OF, tides),
    ]


def test_the_ledger_of_an_earlier_version_tells_less() -> None:
    row = {name: ROW[name] for name in ("rows_loaded", "published_at", "clear_number")}
    assert told(end(answer=row)).keys() >= {"syncs", "rows_loaded"}
    assert told(end(answer=row)).keys().isdisjoint({"bytes_exported", "rows_in_target", "data_as_of_time"})


def test_a_sync_that_found_nothing_new_makes_the_data_young_again_and_moves_nothing() -> None:
    found = told(end(answer={**ROW, "unchanged": True}))
    assert found["syncs"] == (1, {**SYNC, "outcome": "unchanged"})
    assert found["data_as_of_time"] == (AS_OF, {"dataset": "tides"})
    assert found["rows_in_target"][0] == 1461
    assert not [name for name in found if name in metrics._COUNTED or name == "statement_duration"]


def test_a_failure_has_its_step_and_code() -> None:
    # With the answer of a publish that a person ended, whose rows may be in the target: they are not counted.
    found = told(end("failed", answer=ROW, failure=FAILED))
    tags = {**SYNC, "step": "check_staging", "code": "CHECKS_FAILED"}
    assert found["syncs"] == (1, {**SYNC, "outcome": "failed"})
    assert found["failures"] == (1, tags)
    assert found["last_failure_time"] == (ENDED.timestamp(), tags)
    assert found.keys() == {"syncs", "sync_duration", "failures", "last_failure_time", "max_age_seconds"}


def test_a_cancel_is_no_failure() -> None:
    found = told(end("failed", failure=CANCELLED))
    assert found["syncs"] == (1, {**SYNC, "outcome": "cancelled"})
    assert found.keys() == {"syncs", "sync_duration", "max_age_seconds"}


@pytest.mark.parametrize(
    ("conf", "answer", "kind", "outcome"),
    [
        ({"dry_run": True}, {**ROW, "dry_run": True}, "dry_run", "dry_run"),
        ({"verify": True}, {**ROW, "verified": True}, "verification", "verified"),
        ({}, None, "sync", "not_published"),
    ],
)
def test_what_publishes_nothing_moves_nothing(conf: Any, answer: Any, kind: str, outcome: str) -> None:
    found = told(end(answer=answer, conf=conf))
    assert found["syncs"] == (1, {"dataset": "tides", "kind": kind, "outcome": outcome})
    # A verification that ends well does not end the alert of a sync that failed: both have a kind.
    assert found.get("last_success_time", (0, {"kind": kind}))[1]["kind"] == kind
    assert ("last_success_time" in found) == (outcome != "not_published")
    assert found.keys() <= {"syncs", "sync_duration", "last_success_time", "max_age_seconds"}


@pytest.mark.parametrize(
    ("answer", "cleared", "is_repetition"),
    [
        (ROW, 0, False),
        # Only finish_sync was cleared: the answer is older than the clear.
        (ROW, 1, True),
        # publish was cleared: it found its ledger row, and did nothing.
        ({**ROW, "clear_number": 1, "published_at": "2026-01-02T03:04:04"}, 1, True),
        # Snowflake's clock is behind; what was never cleared has not published before.
        ({**ROW, "published_at": "2026-01-02T03:04:04"}, 0, False),
        # All was cleared, and exported and published again.
        ({**ROW, "clear_number": 1}, 1, False),
        # The time of the earlier publish that nothing is new since.
        ({**ROW, "unchanged": True, "published_at": "2025-12-31T00:00:00"}, 0, False),
        (None, 1, False),
    ],
)
def test_what_is_done_once_is_counted_once(answer: Any, cleared: int, is_repetition: bool) -> None:
    assert end(answer=answer, clear_number=cleared).is_repetition is is_repetition


# The listener


class Sent(list[tuple[str, str, float, dict[str, str]]]):
    """What Airflow's client was given."""

    def names(self) -> set[str]:
        return {name for _, name, _, _ in self}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sent]:
    """Turn Airflow's metrics on, and catch them where its StatsD client would get them."""
    from airflow.observability import stats

    monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "True")
    made = Sent()
    client = SimpleNamespace(
        incr=lambda name, count=1, tags=None, **_: made.append(("c", name, count, tags)),
        gauge=lambda name, value, tags=None, **_: made.append(("g", name, value, tags)),
        timing=lambda name, dt, tags=None, **_: made.append(("ms", name, dt.total_seconds() * 1000, tags)),
    )
    stats.initialize(factory=lambda: client, export_legacy_names=True)
    yield made
    from airflow._shared.observability.metrics.base_stats_logger import NoStatsLogger

    stats.initialize(factory=NoStatsLogger, export_legacy_names=True)


def task(step: str, state: str, began: float, seconds: float) -> Any:
    start = datetime.now(UTC) + timedelta(seconds=began)
    return SimpleNamespace(task_id=step, state=state, start_date=start, end_date=start + timedelta(seconds=seconds))


def run(state: str, xcoms: dict[tuple[str, str], Any], tasks: tuple[Any, ...] = (), **fields: Any) -> DagRun:
    """Give a run to the listener as the scheduler does; it has just ended, after six seconds."""
    from airflow.models.dagrun import DagRun

    made = DagRun(dag_id="sync_tides", run_id="manual__1", run_type="manual", state=state, conf=fields.get("conf"))
    made.start_date = datetime.now(UTC) - timedelta(seconds=6)
    made.end_date, made.clear_number = fields.get("end_date", datetime.now(UTC)), 0
    tags = fields.get("tags", ("data-share", "sync", "max-age-minutes:30"))
    made.dag = DAG("sync_tides", schedule=None, tags=tags)
    with (
        mock.patch.object(metrics, "xcom_of_last_attempt", lambda _, task_id, key: xcoms.get((task_id, key))),
        mock.patch("sqlalchemy.orm.object_session", autospec=True),
        mock.patch.object(DagRun, "get_task_instances", autospec=True, return_value=list(tasks)),
    ):
        (on_dag_run_success if state == "success" else on_dag_run_failed)(made, "task_failure")
    return made


def row() -> dict[str, Any]:
    return {**ROW, "published_at": datetime.now(UTC).replace(tzinfo=None).isoformat()}


def test_an_end_is_sent_with_the_steps_that_ran_since_the_run_began(sent: Sent) -> None:
    tasks = (
        task("publish", "success", -2, 1.5),
        task("copy_into_staging", "skipped", -3, 0),
        # Only later steps were cleared: this one did not run again.
        task("export_to_s3", "success", -600, 5),
        task("somebody_elses", "success", -1, 1),
    )
    run("success", {("publish", "return_value"): row()}, tasks)

    assert ("c", "data_share.rows_loaded", 14, {"dataset": "tides"}) in sent
    assert ("g", "data_share.max_age_seconds", 1800, {"dataset": "tides"}) in sent
    steps = [(value, tags) for _, name, value, tags in sent if name == "data_share.step_duration"]
    assert steps == [(1500, {"dataset": "tides", "step": "publish"})]


def test_a_failure_without_a_report_is_sent_too(sent: Sent) -> None:
    run("failed", {})
    failures = [tags for _, name, _, tags in sent if name == "data_share.failures"]
    assert failures == [{**SYNC, "step": "finish_sync", "code": "STEP_DIED"}]


@pytest.mark.parametrize(
    ("state", "fields"),
    [
        pytest.param("running", {}, id="cancelled, and its last task has not run"),
        pytest.param("success", {"tags": ("data-share", "housekeeping")}, id="another DAG"),
        pytest.param("success", {"end_date": datetime(2026, 1, 1, tzinfo=UTC)}, id="set by a person after its end"),
    ],
)
def test_nothing_is_sent_of_what_is_no_end_of_a_sync(sent: Sent, state: str, fields: dict[str, Any]) -> None:
    run(state, {("publish", "return_value"): row()}, **fields)
    assert sent == []


def test_without_metrics_nothing_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW__METRICS__STATSD_ON", raising=False)
    with mock.patch.object(metrics, "_end_of", autospec=True) as looked_up:
        run("success", {})
    looked_up.assert_not_called()


def test_an_error_does_not_break_airflows_transaction(sent: Sent, caplog: pytest.LogCaptureFixture) -> None:
    run("success", {("publish", "return_value"): {"clear_number": 0, "rows_loaded": "many"}})
    assert "The metrics of sync_tides manual__1 could not be sent" in caplog.text
    assert sent == []


def test_opentelemetry_gets_the_same_names_tags_and_values(monkeypatch: pytest.MonkeyPatch, sent: Sent) -> None:
    from airflow._shared.observability.metrics.otel_logger import SafeOtelLogger
    from airflow.observability import stats
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    client = SafeOtelLogger(MeterProvider(metric_readers=[reader]))
    stats.initialize(factory=lambda: client, export_legacy_names=True)
    run("success", {("publish", "return_value"): row()}, (task("publish", "success", -2, 1.5),))

    data = reader.get_metrics_data()
    assert data is not None
    found = {
        (metric.name, tuple(sorted(point.attributes.items()))): getattr(point, "value", getattr(point, "sum", None))
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }
    assert found["airflow.data_share.rows_loaded", (("dataset", "tides"),)] == 14
    assert found["airflow.data_share.max_age_seconds", (("dataset", "tides"),)] == 1800
    steps = (("dataset", "tides"), ("step", "publish"))
    assert found["airflow.data_share.step_duration", steps] == 1500, "in milliseconds"
