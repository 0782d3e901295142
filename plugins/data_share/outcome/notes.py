"""
An Airflow listener that writes in the note of each DAG run, in one line, how the sync ended.

Airflow calls it in the scheduler, within the transaction that ends the run, and in the api-server when a person sets a
run's state. Every Airflow process imports this module, so it imports other modules only when a run has ended.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

TAGS_OF_A_SYNC = frozenset({"data-share", "sync"})
"""A DAG with these tags is a sync."""

_CANCELLED = "CANCELLED"  # the failure code
# Airflow (3.3) gives the call that sets a run's state this name in its event log (core_api/routes/public/dag_run.py).
_PATCH_OF_RUN = "patch_dag_run"
_NAMED_IN_NOTE = re.compile(r"^Cancelled by (.+)$", re.MULTILINE)
_BY = {"feed": "by its change data feed", "compare": "by a comparison of two versions"}
_MAX_NOTE_CHARACTERS = 1000  # the length of the database column
_MAX_LINE_CHARACTERS = 400
# Separates a person's note from the line of this module. A Markdown rule, as Airflow shows notes as Markdown.
_BELOW_A_PERSONS_NOTE = "\n\n---\n\n"

log = logging.getLogger(__name__)


@hookimpl
def on_dag_run_success(dag_run: DagRun, msg: str) -> None:
    """Note the number of rows and the time."""
    _write(dag_run, msg)


@hookimpl
def on_dag_run_failed(dag_run: DagRun, msg: str) -> None:
    """Note which step failed, and why."""
    _write(dag_run, msg)


def success_line(answer: dict[str, Any] | None, seconds: float) -> str:
    """
    Return the line of a sync that succeeded.

    :param answer: what the step ``publish`` returned: the ledger's row, what a dry run would change, the last publish
        if nothing was new, or what a verification has compared
    :param seconds: duration of the run
    """
    if answer is None:
        return "set to success by a person; nothing was published"
    if answer.get("dry_run"):
        inserted, updated, deleted = (int(answer[f"rows_{change}"]) for change in ("inserted", "updated", "deleted"))
        found = f", {way}" if (way := _BY.get(answer.get("export_mode") or "")) else ""
        would = f"would insert {inserted:,}, update {updated:,} and delete {deleted:,} rows{found}"
        return f"dry run: {would} ({_duration(seconds)})"
    if answer.get("unchanged"):
        return f"nothing new at the source since {version_of(answer)} ({_duration(seconds)})"
    if answer.get("verified"):
        names = ", ".join(answer["not_compared"])
        but = f", but for the values of {names}" if names else ""
        return (
            f"verified: {int(answer['rows']):,} rows of {answer['target_table']} are those of {answer['source_table']} "
            f"as of {version_of(answer)}{but} ({_duration(seconds)})"
        )
    version = version_of(answer)
    as_of = f" as of {version}" if version else ""
    if way := _BY.get(answer.get("export_mode") or ""):
        return f"{changes_of(answer)} of {answer['source_table']}{as_of}, {way}, in {_duration(seconds)}"
    reason = answer.get("export_reason") if answer.get("incremental") else None
    why = f", all of them because {reason}," if reason else ""
    return f"{int(answer['rows_loaded']):,} rows from {answer['source_table']}{as_of}{why} in {_duration(seconds)}"


def changes_of(answer: dict[str, Any]) -> str:
    """
    Return what an export of changes has changed in the target, e.g. ``3 changes (1 inserted, 2 updated)``.

    :param answer: what the step ``publish`` returned
    """
    counts = {change: int(answer[f"rows_{change}"]) for change in ("inserted", "updated", "deleted")}
    total = sum(counts.values())
    if total == 0:
        return "no changes"
    parts = ", ".join(f"{count:,} {change}" for change, count in counts.items() if count)
    return f"{total:,} change{'s' if total > 1 else ''} ({parts})"


def version_of(answer: dict[str, Any]) -> str:
    """
    Return the version of the source as people read it, e.g. ``2026-01-01 09:41 UTC (version 812)``.

    :param answer: what the step ``publish`` returned; the result is empty if it has no version
    """
    if answer.get("source_version") is None:
        return ""
    committed = answer.get("source_committed_at") or ""
    at = f"{committed[:16].replace('T', ' ')} UTC " if committed else ""
    return f"{at}(version {int(answer['source_version'])})"


def failure_line(report: dict[str, Any] | None, reason: str, cancelled_by: str | None = None) -> str:
    """
    Return why a sync failed: ``<step>: <message>``, or ``cancelled by <who>: <message>``, where no step is at fault.

    :param report: the XCom ``failure`` of the run's last task; see :mod:`data_share.outcome.report`
    :param reason: why Airflow ended the run; used when there is no report
    :param cancelled_by: who has cancelled the sync, if that is known
    """
    if report is None:
        from data_share.outcome.diagnose import failure_without_report

        report = failure_without_report(reason).to_xcom()
    if report.get("code") == _CANCELLED:
        return f"cancelled{f' by {cancelled_by}' if cancelled_by else ''}: {report['message']}"
    return f"{report['step']}: {report['message']}"


def canceller(calls: Iterable[tuple[str | None, str | None]]) -> str | None:
    """
    Return who has set a run to failed, by Airflow's event log; None if nobody has.

    A backend calls with the account of a service: the note that its call sets names the person for whom it calls.

    :param calls: user and extra (the body as JSON) of the calls that have changed the run, newest first
    """
    for user, extra in calls:
        body = json.loads(extra or "{}")
        if body.get("state") != "failed":
            continue
        named = _NAMED_IN_NOTE.search(str(body.get("note") or ""))
        return f"{named[1]} through {user}" if named else user
    return None


def _write(dag_run: DagRun, reason: str) -> None:
    # Airflow calls this within its own transaction, which an error from here would break.
    try:
        from data_share.steps import FINISH_SYNC, PUBLISH

        if not set(getattr(dag_run.dag, "tags", None) or ()) >= TAGS_OF_A_SYNC:
            return
        if dag_run.state == "success":
            line = success_line(xcom_of_last_attempt(dag_run, PUBLISH.id, "return_value"), _seconds(dag_run))
        elif dag_run.state == "failed":
            report = xcom_of_last_attempt(dag_run, FINISH_SYNC.id, "failure")
            is_cancelled = report is not None and report.get("code") == _CANCELLED
            line = failure_line(report, reason, canceller(_changing_calls(dag_run)) if is_cancelled else None)
        else:
            # A person cancelled the run, but its last task has not run yet: the scheduler calls again after it.
            return
        _put(dag_run, line)
    except Exception:
        log.exception("The note of %s %s could not be written", dag_run.dag_id, dag_run.run_id)


def _put(dag_run: DagRun, line: str) -> None:
    line = " ".join(line.split())
    if len(line) > _MAX_LINE_CHARACTERS:
        line = line[: _MAX_LINE_CHARACTERS - 3] + "..."
    note = dag_run.dag_run_note
    if note is None:
        dag_run.note = line
    elif note.user_id is None:
        # Our own line from before the run was cleared.
        note.content = line
    else:
        # Keep the person's text; replace only our line below it.
        written = (note.content or "").partition(_BELOW_A_PERSONS_NOTE)[0]
        if len(written) + len(_BELOW_A_PERSONS_NOTE) + len(line) <= _MAX_NOTE_CHARACTERS:
            note.content = f"{written}{_BELOW_A_PERSONS_NOTE}{line}"


def xcom_of_last_attempt(dag_run: DagRun, task_id: str, key: str) -> Any:
    """Return the XCom of a task's last attempt, or None: a task that did not begin keeps that of an earlier attempt."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel
    from sqlalchemy import select
    from sqlalchemy.orm import object_session

    from data_share.attempts import ATTEMPT_KEY

    session = object_session(dag_run)
    if session is None:
        raise RuntimeError("The run belongs to no database session")
    query = (
        select(XComModel, TaskInstance.id)
        .join(
            TaskInstance,
            (TaskInstance.dag_id == XComModel.dag_id)
            & (TaskInstance.run_id == XComModel.run_id)
            & (TaskInstance.task_id == XComModel.task_id),
        )
        .where(
            XComModel.dag_id == dag_run.dag_id,
            XComModel.run_id == dag_run.run_id,
            XComModel.task_id == task_id,
            XComModel.key == key,
        )
    )
    # No flush: this query must not write Airflow's pending changes.
    with session.no_autoflush:
        found = session.execute(query).first()
    if found is None:
        return None
    # The raw value: Airflow's own method creates objects of classes that the value names, which is unsafe here.
    xcom, attempt = found
    return xcom.value if xcom.value.get(ATTEMPT_KEY) == str(attempt) else None


def _changing_calls(dag_run: DagRun) -> list[tuple[str | None, str | None]]:
    """Return user and extra of the REST calls that have changed the run since it was queued, newest first."""
    from airflow.models.log import Log
    from sqlalchemy import select
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    if session is None:
        raise RuntimeError("The run belongs to no database session")
    query = (
        select(Log.owner, Log.extra)
        .where(Log.dag_id == dag_run.dag_id, Log.run_id == dag_run.run_id, Log.event == _PATCH_OF_RUN)
        .order_by(Log.id.desc())
    )
    # Not those from before a clear, which queues the run again.
    if dag_run.queued_at is not None:
        query = query.where(Log.dttm >= dag_run.queued_at)
    with session.no_autoflush:
        return [(user, extra) for user, extra in session.execute(query)]


def _seconds(dag_run: DagRun) -> float:
    if dag_run.start_date is None or dag_run.end_date is None:
        return 0.0
    return (dag_run.end_date - dag_run.start_date).total_seconds()


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
