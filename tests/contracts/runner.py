"""The tasks of a DAG, run as Airflow runs them, without Airflow: the real operators and triggers."""

from __future__ import annotations

import asyncio
import copy
import itertools
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

from airflow.sdk import DAG, Context
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.execution_time.context import OutletEventAccessors
from airflow.sdk.module_loading import import_string
from airflow.triggers.base import TaskSuccessEvent, TriggerEvent

from data_share import databricks_run, share

SYNC = ("export_to_s3", "wait_for_export", "copy_into_staging", "check_staging", "publish", "drop_staging")
NO_CONF = {
    "requested_by": None,
    "full_refresh": False,
    "accept_row_change": False,
    "dry_run": False,
    "reload_run_key": None,
}

_numbers = itertools.count(1)


@dataclass
class DagRun:
    """
    One run of a DAG: what Airflow would keep of it.

    :param dag: the DAG
    :param job_id: what the Airflow Variable with the export job's id holds
    :param params: its conf, completed
    """

    dag: DAG
    job_id: str
    params: dict[str, Any]
    xcoms: dict[tuple[str, str], Any] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)
    dag_run: Any = field(init=False)

    def __post_init__(self) -> None:
        """Give the run an id and a time of its own."""
        # Request ids are made of the run id: one that another process had would find that one's statements done.
        # No two runs share a second: it is a part of the run key.
        now = datetime.now(UTC) + timedelta(seconds=next(_numbers))
        self.dag_run = SimpleNamespace(
            dag_id=self.dag.dag_id,
            run_id=f"manual__o'clock_{uuid.uuid4()}",
            run_after=now,
            start_date=now,
            triggering_user_name=None,
            conf={},
        )

    @property
    def key(self) -> str:
        """Run key of the run."""
        return share.run_key_of(self.dag_run)

    def run(self, *task_ids: str) -> None:
        """Try each of these tasks once."""
        for task_id in task_ids:
            self.task(task_id)

    def prepared(self, task_id: str) -> tuple[Any, Context]:
        """Begin a try of a task: return a copy of it with its fields rendered, and the context to execute it with."""
        self.tries[task_id] = self.tries.get(task_id, 0) + 1
        task: Any = copy.copy(self.dag.get_task(task_id))
        context = self._context(task)
        task.resolve_template_files()
        task.render_template_fields(context)
        return task, context

    def task(self, task_id: str) -> Any:
        """Try a task once, in the triggerer if that is where it starts; returns its result, which is its XCom too."""
        task, context = self.prepared(task_id)
        if task.start_from_trigger:
            return self._follow(task)
        try:
            result = task.execute(context)
        except AirflowSkipException:
            return None
        if result is not None:
            self.xcoms[task_id, "return_value"] = result
        return result

    def trigger(self, task: Any) -> databricks_run.DatabricksRunTrigger:
        """Make the trigger of a prepared task as the triggerer does: from its class path, with rendered arguments."""
        arguments = {
            name: getattr(task, name) if name in task.template_fields else value
            for name, value in task.start_trigger_args.trigger_kwargs.items()
        }
        made = import_string(task.start_trigger_args.trigger_cls)(**arguments)
        made.task_instance = SimpleNamespace(
            dag_id=self.dag_run.dag_id, run_id=self.dag_run.run_id, task_id=task.task_id
        )
        return cast("databricks_run.DatabricksRunTrigger", made)

    @contextmanager
    def xcoms_of_triggers(self) -> Iterator[None]:
        """Keep here what triggers push: they push themselves, through Airflow's supervisor."""

        async def aset(key: str, value: Any, *, dag_id: str, task_id: str, run_id: str) -> None:
            self.xcoms[task_id, key] = value

        with mock.patch.object(databricks_run.XCom, "aset", aset):
            yield

    def _follow(self, task: Any) -> Any:
        async def events() -> list[TriggerEvent]:
            return [event async for event in self.trigger(task).run()]

        with self.xcoms_of_triggers():
            ended = asyncio.run(events())
        if ended != [TaskSuccessEvent()]:
            report = self.xcoms.get((task.task_id, "failure"), {"message": "without a report"})
            raise TriggerFailedError(report["message"])
        return self.xcoms[task.task_id, "return_value"]

    def _context(self, task: Any) -> Context:
        def pull(task_ids: str, key: str = "return_value", map_indexes: int | None = None) -> Any:
            return copy.deepcopy(self.xcoms.get((task_ids, key)))

        def push(key: str, value: Any) -> None:
            self.xcoms[task.task_id, key] = value

        ti = SimpleNamespace(
            id=uuid.uuid4(),
            dag_id=self.dag_run.dag_id,
            run_id=self.dag_run.run_id,
            task_id=task.task_id,
            try_number=self.tries[task.task_id],
            stats_tags={},
            xcom_pull=pull,
            xcom_push=push,
            # No step's process is ever ended here.
            get_task_states=lambda dag_id, task_ids, run_ids: {},
        )
        context = {
            "dag_run": self.dag_run,
            "ti": ti,
            "task": task,
            "params": self.params,
            "outlet_events": OutletEventAccessors(),
            "var": SimpleNamespace(value=SimpleNamespace(**{share.EXPORT_JOB_VARIABLE: self.job_id})),
        }
        return cast("Context", context)


class TriggerFailedError(AssertionError):
    """The trigger ended its task as failed; the message is the reason that it left."""
