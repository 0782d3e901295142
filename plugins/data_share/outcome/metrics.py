"""
An Airflow listener that sends metrics of each sync when it ends, by the StatsD or OpenTelemetry client of Airflow.

Airflow calls it in the scheduler, and in the api-server when a person sets a run's state. There it sees what no step
sees: how long each step took, also the one that the triggerer runs, and a sync that ended without its last step. Both
processes live long, so a counter of OpenTelemetry grows there; in a task's process it would start from zero each time.

``docs/observability.md`` says what each metric means. Every Airflow process imports this module, so it imports other
modules only when a run has ended.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.listeners import hookimpl

from data_share.outcome.notes import TAGS_OF_A_SYNC, xcom_of_last_attempt

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

PREFIX = "data_share."
"""Begins the name of each metric; Airflow puts its own prefix before it."""

_COUNTED = ("rows_exported", "bytes_exported", "rows_loaded", "rows_inserted", "rows_updated", "rows_deleted")
_SWITCHES = ("statsd_on", "statsd_datadog_enabled", "otel_on")
# When a person sets the state of a run that has ended, Airflow reports it like an end, and keeps the time of the end.
_MAX_AGE_OF_AN_END = timedelta(minutes=1)

log = logging.getLogger(__name__)


class Metric(NamedTuple):
    """
    A value to be sent.

    :param kind: ``counter``, ``gauge`` or ``timer``
    :param name: without Airflow's prefix
    :param value: a timer's is in seconds
    :param tags: never an id of a run: each set of tags is a series of its own
    """

    kind: str
    name: str
    value: float
    tags: Mapping[str, str]


class End(NamedTuple):
    """
    How a run of a sync ended.

    :param dataset: name of the dataset
    :param conf: the run's conf
    :param state: ``success`` or ``failed``
    :param started_at: when the run started; after a clear, when it started again
    :param ended_at: when it ended
    :param clear_number: how often it had been cleared
    :param answer: what the last attempt of ``publish`` returned, if anything
    :param failure: the report of a run that failed
    :param step_seconds: duration of each step that ran, by its id
    :param max_age_minutes: of the dataset file; None if it does not say how old the data may be
    """

    dataset: str
    conf: Mapping[str, Any]
    state: str
    started_at: datetime
    ended_at: datetime
    clear_number: int
    answer: Mapping[str, Any] | None = None
    failure: Mapping[str, Any] | None = None
    step_seconds: Mapping[str, float] | None = None
    max_age_minutes: float | None = None

    @property
    def kind(self) -> str:
        """What was to be done: ``sync``, ``verification`` or ``dry_run``."""
        return "verification" if self.conf.get("verify") else "dry_run" if self.conf.get("dry_run") else "sync"

    @property
    def outcome(self) -> str:
        """How it ended; ``not_published`` if a person marked the run, or its last step, as a success."""
        if self.state == "failed":
            return "cancelled" if self.failure and self.failure["code"] == "CANCELLED" else "failed"
        if self.answer is None:
            return "not_published"
        return next((word for word in ("unchanged", "verified", "dry_run") if self.answer.get(word)), "published")

    @property
    def is_repetition(self) -> bool:
        """Whether only a part was cleared of a run that had published: what it did was counted at its first end."""
        if self.state != "success" or self.answer is None:
            return False
        if self.answer.get("clear_number") != self.clear_number:
            return True
        # Both clocks are compared only where they have to be: Snowflake's may be behind Airflow's.
        if self.outcome != "published" or not self.clear_number:
            return False
        return datetime.fromisoformat(self.answer["published_at"]).replace(tzinfo=UTC) < self.started_at


@hookimpl
def on_dag_run_success(dag_run: DagRun, msg: str) -> None:
    """Send the metrics of a success."""
    _send(dag_run, msg)


@hookimpl
def on_dag_run_failed(dag_run: DagRun, msg: str) -> None:
    """Send the metrics of a failure or a cancel."""
    _send(dag_run, msg)


def metrics_of(end: End) -> Iterator[Metric]:
    """Yield the metrics of an end."""
    dataset = {"dataset": end.dataset}
    kind = {**dataset, "kind": end.kind}
    ended = {**kind, "outcome": end.outcome}
    yield Metric("counter", "syncs", 1, ended)
    yield Metric("timer", "sync_duration", (end.ended_at - end.started_at).total_seconds(), ended)
    for step, seconds in (end.step_seconds or {}).items():
        yield Metric("timer", "step_duration", seconds, {**dataset, "step": step})
    if end.outcome == "failed" and end.failure:
        failure = {**kind, "step": end.failure["step"], "code": end.failure["code"]}
        yield Metric("counter", "failures", 1, failure)
        yield Metric("gauge", "last_failure_time", end.ended_at.timestamp(), failure)
    if end.outcome in ("published", "unchanged", "verified", "dry_run"):
        yield Metric("gauge", "last_success_time", end.ended_at.timestamp(), kind)
    # A limit that was taken out of the file has to end the alert too, so its absence is a value.
    yield Metric("gauge", "max_age_seconds", 60 * (end.max_age_minutes or 0), dataset)
    answer = end.answer if end.state == "success" and end.answer else {}
    if end.outcome == "published":
        # The ledger of an earlier version lacks some of them.
        for name in _COUNTED:
            if answer.get(name) is not None:
                yield Metric("counter", name, int(answer[name]), dataset)
        if answer.get("statement_seconds") is not None:
            yield Metric("timer", "statement_duration", float(answer["statement_seconds"]), dataset)
    if end.outcome in ("published", "unchanged"):
        if answer.get("rows_in_target") is not None:
            yield Metric("gauge", "rows_in_target", int(answer["rows_in_target"]), dataset)
        if answer.get("data_as_of"):
            as_of = datetime.fromisoformat(answer["data_as_of"]).replace(tzinfo=UTC)
            yield Metric("gauge", "data_as_of_time", as_of.timestamp(), dataset)


def count_request(system: str, status: int | None) -> None:
    """
    Count an HTTP request of a step that runs in a worker; Airflow (3.3) has no client in a trigger's process.

    :param system: ``databricks`` or ``snowflake``
    :param status: HTTP status of the answer; None if there was none
    """
    from airflow.sdk.observability import stats

    stats.incr(f"{PREFIX}requests", tags={"system": system, "status": str(int(status)) if status else "none"})


def _send(dag_run: DagRun, reason: str) -> None:
    # Airflow calls this within its own transaction, which an error from here would break.
    try:
        from airflow.configuration import conf

        if not any(conf.getboolean("metrics", switch, fallback=False) for switch in _SWITCHES):
            return
        tags = set(getattr(dag_run.dag, "tags", None) or ())
        if not tags >= TAGS_OF_A_SYNC:
            return
        if dag_run.state not in ("success", "failed") or dag_run.start_date is None or dag_run.end_date is None:
            # A person cancelled the run, but its last task has not run yet: the scheduler calls again after it.
            return
        if datetime.now(UTC) - dag_run.end_date > _MAX_AGE_OF_AN_END:
            return
        end = _end_of(dag_run, dag_run.start_date, dag_run.end_date, tags, reason)
        if not end.is_repetition:
            # All or none of an end: what a step has left may have no sense.
            for metric in list(metrics_of(end)):
                _emit(metric)
    except Exception:
        log.exception("The metrics of %s %s could not be sent", dag_run.dag_id, dag_run.run_id)


def _end_of(dag_run: DagRun, started_at: datetime, ended_at: datetime, tags: Iterable[str], reason: str) -> End:
    from data_share.datasets import MAX_AGE_TAG
    from data_share.outcome.diagnose import failure_without_report
    from data_share.steps import FINISH_SYNC, PUBLISH

    max_age = (tag.removeprefix(MAX_AGE_TAG) for tag in tags if tag.startswith(MAX_AGE_TAG))
    failure = None
    if dag_run.state == "failed":
        failure = xcom_of_last_attempt(dag_run, FINISH_SYNC.id, "failure") or failure_without_report(reason).to_xcom()
    return End(
        dataset=dag_run.dag_id.removeprefix("sync_"),
        conf=dag_run.conf or {},
        state=str(dag_run.state),
        started_at=started_at,
        ended_at=ended_at,
        clear_number=dag_run.clear_number,
        answer=xcom_of_last_attempt(dag_run, PUBLISH.id, "return_value"),
        failure=failure,
        step_seconds=_step_seconds(dag_run, started_at),
        max_age_minutes=next(map(float, max_age), None),
    )


def _step_seconds(dag_run: DagRun, started_at: datetime) -> dict[str, float]:
    """Return how long the last attempt of each step took that has run since the run started."""
    from sqlalchemy.orm import object_session

    from data_share.steps import STEPS

    session = object_session(dag_run)
    if session is None:
        raise RuntimeError("The run belongs to no database session")
    # No flush: this query must not write Airflow's pending changes.
    with session.no_autoflush:
        tasks = {task.task_id: task for task in dag_run.get_task_instances(session=session)}
    ran = [tasks[step.id] for step in STEPS if step.id in tasks]
    return {
        task.task_id: (task.end_date - task.start_date).total_seconds()
        for task in ran
        if task.state in ("success", "failed") and task.start_date and task.end_date and task.start_date >= started_at
    }


def _emit(metric: Metric) -> None:
    from airflow.observability import stats

    name, tags = PREFIX + metric.name, dict(metric.tags)
    if metric.kind == "counter":
        stats.incr(name, int(metric.value), tags=tags)
    elif metric.kind == "gauge":
        stats.gauge(name, metric.value, tags=tags)
    else:
        stats.timing(name, timedelta(seconds=metric.value), tags=tags)
