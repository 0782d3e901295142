"""
An Airflow listener that gives the end of each sync to the triggerer, which sends it to the webhook.

Airflow calls it in the scheduler, within the transaction that ends the run, and in the api-server when a person sets a
run's state. It only adds to that transaction what a missed deadline of Airflow adds: a callback for the triggerer. So
an end has its event exactly if it is stored, and a triggerer that dies leaves the event to another. A DAG's own
callbacks cost more: for each end, the dag-processor starts a process that parses the DAG file.

Every Airflow process imports this module, so it imports other modules only when a run has ended.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl

from data_share.outcome.notes import TAGS_OF_A_SYNC

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

log = logging.getLogger(__name__)


@hookimpl
def on_dag_run_success(dag_run: DagRun, msg: str) -> None:
    """Have the triggerer send a success."""
    _queue(dag_run, msg)


@hookimpl
def on_dag_run_failed(dag_run: DagRun, msg: str) -> None:
    """Have the triggerer send a failure."""
    _queue(dag_run, msg)


def context_of(dag_run: DagRun, reason: str) -> dict[str, Any]:
    """
    Return what an event needs of a run, as JSON.

    :param reason: why Airflow ended the run
    """
    return {
        "reason": reason,
        "dag_run": {
            "dag_id": dag_run.dag_id,
            "run_id": dag_run.run_id,
            "state": str(dag_run.state),
            "run_after": dag_run.run_after.isoformat(),
            "end_date": dag_run.end_date.isoformat() if dag_run.end_date else None,
            "clear_number": dag_run.clear_number,
            "conf": {"requested_by": (dag_run.conf or {}).get("requested_by")},
            "triggering_user_name": dag_run.triggering_user_name,
        },
    }


def _queue(dag_run: DagRun, reason: str) -> None:
    # Airflow calls this within its own transaction, which an error from here would break.
    try:
        if not set(getattr(dag_run.dag, "tags", None) or ()) >= TAGS_OF_A_SYNC:
            return
        if dag_run.state not in ("success", "failed"):
            # A person cancelled the run, but its last task has not run yet: the scheduler calls again after it.
            return
        from airflow.models.callback import TriggererCallback
        from airflow.sdk import AsyncCallback  # type: ignore[attr-defined]  # its stub lacks the names of deadlines
        from sqlalchemy.orm import object_session

        from data_share.outcome.webhook import WebhookNotifier
        from data_share.share import Share
        from data_share.steps import FINISH_SYNC

        session = object_session(dag_run)
        if session is None:
            raise RuntimeError("The run belongs to no database session")
        # No flush: the query for the bundle must not write Airflow's pending changes.
        with session.no_autoflush:
            callback = TriggererCallback(AsyncCallback(WebhookNotifier), prefix="data_share", dag_id=dag_run.dag_id)
            # That of the dataset's share; a DAG that an earlier version of this package made does not say it.
            finish_sync = dag_run.dag.task_dict.get(FINISH_SYNC.id) if dag_run.dag else None
            conn_id = getattr(finish_sync, "webhook_conn_id", None) or Share().webhook_conn_id
            # Airflow keeps the name context to itself, and sets it as here for a missed deadline.
            kwargs = {"conn_id": conn_id, "context": context_of(dag_run, reason)}
            callback.data = {**callback.data, "kwargs": kwargs}
            callback.bundle_name = dag_run.dag_model.bundle_name
            callback.queue(session=session)
            session.add(callback)
    except Exception:
        log.exception("The event of %s %s could not be queued", dag_run.dag_id, dag_run.run_id)
