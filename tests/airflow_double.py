"""What Airflow gives a task, without Airflow: the run of a DAG, its task instances with their XComs, and a context."""

from __future__ import annotations

import asyncio
import copy
import functools
import itertools
import json
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

# Airflow, and the package with it, is imported where it is needed: to collect the tests must stay cheap.
if TYPE_CHECKING:
    from airflow.sdk import DAG, Context
    from airflow.triggers.base import BaseTrigger, TriggerEvent

SYNC = ("export_to_s3", "wait_for_export", "copy_into_staging", "check_staging", "publish", "finish_sync")

_seconds = itertools.count(1)


class TriggerFailedError(AssertionError):
    """The trigger ended its task as failed; the message is the reason that it left."""


class UnansweredPullError(AssertionError):
    """Something asks for an XCom in a way that the triggerer never answers: Airflow would hang."""


def _second_of_its_own() -> datetime:
    # It is a part of the run key: no two runs share it.
    return datetime.now(UTC) + timedelta(seconds=next(_seconds))


@dataclass(eq=False)
class TaskInstance:
    """
    One attempt of a task.

    :param run: the run that it is a part of
    :param task_id: the task
    :param try_number: which attempt, counted from 1
    :param in_triggerer: whether the attempt starts in the triggerer
    :param map_index: which instance of a mapped task, counted from 0
    """

    run: DagRun
    task_id: str
    try_number: int = 1
    in_triggerer: bool = False
    map_index: int = -1
    stats_tags: dict[str, str] = field(default_factory=dict)
    id: uuid.UUID = field(init=False)

    def __post_init__(self) -> None:
        """Give the attempt the id that Airflow would give it: another one for each attempt, the same in all it does."""
        self.id = uuid.uuid5(self.run.uid, f"{self.task_id} {self.map_index} {self.try_number}")

    @property
    def dag_id(self) -> str:
        """The DAG."""
        return self.run.dag_id

    @property
    def run_id(self) -> str:
        """The run, as Airflow names it."""
        return self.run.run_id

    def xcom_pull(self, task_ids: str, *, key: str = "return_value", map_indexes: int | None = None) -> Any:
        """
        Return what a task of the run has left, or None.

        :raises UnansweredPullError: in the triggerer, without ``map_indexes=-1``
        """
        if self.in_triggerer and map_indexes != -1:
            raise UnansweredPullError(f"{self.task_id} pulls from {task_ids} without map_indexes=-1")
        return copy.deepcopy(self.run.xcoms.get((task_ids, key)))

    def xcom_push(self, key: str, value: Any) -> None:
        """
        Leave something for the tasks that follow, in the form in which the REST API gives it to a backend.

        :raises TypeError: it is not JSON
        """
        self.run.xcoms[self.task_id, key] = json.loads(json.dumps(value))

    def get_task_states(
        self, dag_id: str, *, task_ids: list[str], run_ids: list[str]
    ) -> dict[str, dict[str, str | None]]:
        """Return the states of tasks by run: those of another run are not known."""
        found = {task_id: self.run.states.get(task_id) for task_id in task_ids}
        return {run_id: found for run_id in run_ids if (dag_id, run_id) == (self.dag_id, self.run_id)}


@dataclass
class AssetState:
    """
    What a task may ask and tell Airflow of an asset that it has as an inlet.

    :param values: what is known of the asset, by key
    """

    values: dict[str, Any]

    def get(self, key: str) -> Any:
        """Return a value, or None."""
        return copy.deepcopy(self.values.get(key))

    def set(self, key: str, value: Any) -> None:
        """
        Keep a value.

        :raises TypeError: it is not JSON
        """
        self.values[key] = json.loads(json.dumps(value))


@dataclass
class AssetStates:
    """
    The assets that a task may ask about.

    :param states: what is known of each asset, by its name
    :param inlets: the assets that the task has; None for a task that nothing is asked of but its id
    """

    states: dict[str, dict[str, Any]]
    inlets: list[Any] | None

    def __getitem__(self, asset: Any) -> AssetState:
        """Return what a task may ask of an asset; of one that it does not have, Airflow says nothing."""
        if self.inlets is not None and asset not in self.inlets:
            raise KeyError(asset)
        return AssetState(self.states.setdefault(asset.name, {}))


@dataclass(kw_only=True, eq=False)
class DagRun:
    """
    One run of a DAG: what Airflow keeps of it, and what templates see as ``dag_run``.

    :param dag: the DAG; None where the test makes the tasks itself
    :param conf: what the run was started with. Params are not held against their schema: what a pattern refuses at
        the start of a run, a statement must bear as well.
    :param variables: Airflow's Variables, by name; by default, the export job is job 1
    :param dag_id: name of the DAG, if there is none
    :param run_id: what Airflow calls the run; nothing that Snowflake is asked for may find another run's
    :param uid: what makes the ids of its attempts differ from those of another run of the same name
    :param clear_number: how often the run was cleared, as Airflow counts it
    :param xcoms: what the tasks have left, by task id and key
    :param states: states of the tasks, as another task is told them
    :param asset_states: the states of assets, by name of the asset; they are of no run, so runs may share them
    """

    dag: DAG | None = None
    conf: dict[str, Any] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=lambda: export_job("1"))
    dag_id: str = ""
    run_id: str = field(default_factory=lambda: f"manual__o'clock_{uuid.uuid4()}")
    uid: uuid.UUID = field(default_factory=uuid.uuid4)
    run_after: datetime = field(default_factory=_second_of_its_own)
    start_date: datetime = field(default_factory=lambda: datetime.now(UTC))
    triggering_user_name: str | None = None
    clear_number: int = 0
    xcoms: dict[tuple[str, str], Any] = field(default_factory=dict)
    states: dict[str, str | None] = field(default_factory=dict)
    asset_states: dict[str, dict[str, Any]] = field(default_factory=dict)
    params: dict[str, Any] = field(init=False)
    tries: dict[str, int] = field(default_factory=dict, init=False)
    asset_events: list[Any] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Complete the conf with the defaults of the DAG's params."""
        self.params = dict(self.conf)
        self._beginning = threading.Lock()
        if self.dag is not None:
            self.dag_id = self.dag.dag_id
            self.params = {**self.dag.params.dump(), **self.conf}

    @property
    def key(self) -> str:
        """Run key of the run."""
        from data_share import share

        return share.run_key_of(self)

    # ---- one attempt of a task

    def context(self, task: Any = None, *, try_number: int = 1) -> dict[str, Any]:
        """Return the context of an attempt of a task; without one, of a task that nothing is asked of but its id."""
        from airflow.sdk.execution_time.context import OutletEventAccessors

        if task is None:
            ti = TaskInstance(self, "the_task", try_number)
        else:
            ti = TaskInstance(self, task.task_id, try_number, in_triggerer=task.start_from_trigger)
        return {
            "dag": self.dag,
            "dag_run": self,
            "run_id": self.run_id,
            "ti": ti,
            "task": task,
            "params": self.params,
            "outlet_events": OutletEventAccessors(),
            "asset_state_store": AssetStates(self.asset_states, None if task is None else task.inlets),
            "var": {"value": self.variables},
        }

    def prepared(self, task_id: str) -> tuple[Any, Context]:
        """
        Begin an attempt of a task: return a copy of it with its fields rendered, and the context to execute it with.

        What an earlier attempt has left is gone once the process of another one starts. A task that starts in the
        triggerer has no process: its XComs stay.
        """
        assert self.dag is not None
        task = self.dag.get_task(task_id)
        with self._beginning:
            self.tries[task_id] = self.tries.get(task_id, 0) + 1
            context = self.context(task, try_number=self.tries[task_id])
            if not task.start_from_trigger:
                for of_task, key in list(self.xcoms):
                    if of_task == task_id:
                        del self.xcoms[of_task, key]
        with self._ending(task_id, context):
            return rendered(task, context), cast("Context", context)

    def execute(self, task: Any, context: Context) -> Any:
        """Do what a prepared task does; returns its result, which is its XCom too. What it tells of assets is kept."""
        from airflow.sdk import AssetAlias

        with self._ending(task.task_id, context):
            result = task.execute(context)
        if result is not None:
            context["ti"].xcom_push(key="return_value", value=result)
        self.states[task.task_id] = "success"
        for alias in task.outlets:
            if isinstance(alias, AssetAlias):
                self.asset_events += context["outlet_events"][alias].asset_alias_events
        return result

    @contextmanager
    def _ending(self, task_id: str, context: Any) -> Iterator[None]:
        """
        Note how an attempt ends; one that fails leaves its report, as after the last attempt.

        One whose process dies leaves neither a report nor a state: whether another attempt follows, the test says.
        """
        from airflow.sdk.exceptions import AirflowSkipException

        from data_share.outcome.classify import report_failure

        try:
            yield
        except AirflowSkipException:
            self.states[task_id] = "skipped"
            raise
        except Exception as error:
            self.states[task_id] = "failed"
            report_failure(cast("Context", {**context, "exception": error}))
            raise

    def clear(self, *task_ids: str) -> None:
        """Clear tasks of a run that has ended: it starts anew, and what they have left stays until they begin."""
        self.clear_number += 1
        self.start_date = datetime.now(UTC)
        for task_id in task_ids:
            self.states.pop(task_id, None)

    def task(self, task_id: str) -> Any:
        """
        Try a task once, in the triggerer if that is where it starts; returns its result.

        Of a mapped task, each instance is tried, and the first error of one raised in the end.
        """
        from airflow.sdk.exceptions import AirflowSkipException

        assert self.dag is not None
        if self.dag.get_task(task_id).is_mapped:
            return self._try_instances(task_id)
        task, context = self.prepared(task_id)
        if task.start_from_trigger:
            return self._follow(task)
        try:
            return self.execute(task, context)
        except AirflowSkipException:
            return None

    def instances(self, task_id: str) -> list[tuple[Any, Context]]:
        """Prepare the instances of a task that is mapped over the result of another one."""
        assert self.dag is not None
        task = self.dag.get_task(task_id)
        [(field_name, listed)] = task.expand_input.value.items()
        prepared = []
        for map_index, value in enumerate(self.xcoms[listed.operator.task_id, "return_value"]):
            instance = task.unmap({**task.partial_kwargs, field_name: value})
            context = self.context(instance)
            context["ti"] = TaskInstance(self, task_id, map_index=map_index)
            prepared.append((rendered(instance, context), cast("Context", context)))
        return prepared

    def _try_instances(self, task_id: str) -> None:
        errors = []
        for task, context in self.instances(task_id):
            try:
                self.execute(task, context)
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def run(self, *task_ids: str) -> None:
        """Try each of these tasks once."""
        for task_id in task_ids:
            self.task(task_id)

    # ---- a task that starts in the triggerer

    def trigger(self, task: Any) -> Any:
        """Make the trigger of a prepared task as the triggerer does: from its class path, with rendered arguments."""
        from airflow.sdk.module_loading import import_string

        arguments = {
            name: str(getattr(task, name)) if name in task.template_fields else value
            for name, value in task.start_trigger_args.trigger_kwargs.items()
        }
        trigger = import_string(task.start_trigger_args.trigger_cls)(**arguments)
        trigger.task_instance = TaskInstance(self, task.task_id, in_triggerer=True)
        return trigger

    @contextmanager
    def xcoms_of_triggers(self, of_task: str = "wait_for_export") -> Iterator[dict[str, Any]]:
        """
        Keep here what a trigger pushes, which it does itself, through Airflow's supervisor.

        :param of_task: the task that it pushes for
        :return: what it has pushed meanwhile, by key. To push a key twice is an error: somebody may have read it.
        """
        from airflow.sdk.execution_time.xcom import XCom

        pushed: dict[str, Any] = {}

        async def aset(key: str, value: Any, *, dag_id: str, task_id: str, run_id: str) -> None:
            assert (dag_id, task_id, run_id) == (self.dag_id, of_task, self.run_id)
            assert key not in pushed
            TaskInstance(self, task_id, in_triggerer=True).xcom_push(key, value)
            pushed[key] = self.xcoms[task_id, key]

        with mock.patch.object(XCom, "aset", side_effect=aset, autospec=True):
            yield pushed

    def _follow(self, task: Any) -> Any:
        from airflow.triggers.base import TaskSuccessEvent

        with self.xcoms_of_triggers(task.task_id) as pushed:
            ended = events_of(self.trigger(task))
        self.states[task.task_id] = "success" if ended == [TaskSuccessEvent()] else "failed"
        if ended != [TaskSuccessEvent()]:
            raise TriggerFailedError(pushed.get("failure", {"message": "without a report"})["message"])
        return pushed["return_value"]


def export_job(job_id: str) -> dict[str, str]:
    """Return the Airflow Variable that names the export job."""
    from data_share.share import Share

    return {Share().export_job_variable: job_id}


def rendered(task: Any, context: dict[str, Any]) -> Any:
    """Render the fields of a task as Airflow does before it executes the task; returns a copy, the context's task."""
    task = context["task"] = copy.copy(task)
    task.resolve_template_files()
    task.render_template_fields(context)
    return task


def events_of(trigger: BaseTrigger) -> list[TriggerEvent]:
    """Run a trigger to its end; return all events that it yields."""

    async def collect() -> list[TriggerEvent]:
        return [event async for event in trigger.run()]

    return asyncio.run(collect())


def with_templates_compiled_once(dag: DAG) -> DAG:
    """
    Let the tasks of a DAG share one template environment.

    Airflow makes one for each task: compiling the same files again and again takes longer than their statements.
    """
    dag.get_template_env = functools.cache(dag.get_template_env)  # type: ignore[method-assign]
    return dag
