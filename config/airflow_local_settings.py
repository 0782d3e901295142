"""
Airflow's local settings: import what the DAG files, tasks and triggers need once, in the processes that fork them.

Without this file, each task process imports the providers again, each process that parses a DAG file too (0.4 s of
processor each time), and the first trigger blocks the triggerer's event loop for seconds while the Databricks hook is
imported. Airflow finds this file when its folder is on PYTHONPATH.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

_FORKING_COMMANDS = {"scheduler", "triggerer", "dag-processor", "celery"}
_MODULES = (
    # With them, all that the DAG files import.
    "data_share.databricks.export",
    "data_share.dataset_files",
    "data_share.doctor.run",
    "data_share.finish",
    "data_share.invalid_dataset",
    "data_share.outcome.webhook",
    "data_share.snowflake.check",
    "data_share.snowflake.clean_up",
    "data_share.snowflake.load",
    "data_share.snowflake.publish",
    "data_share.snowflake.set_up",
    "data_share.sync_conf",
    "airflow.providers.standard.operators.empty",
    "airflow.sdk.definitions.decorators",
    # What Airflow imports in a task to render templates, and to emit the asset event of a publish.
    "airflow.providers.databricks.assets.databricks",
    "jinja2.ext",
)

if _FORKING_COMMANDS & set(sys.argv[1:2]):
    from airflow.configuration import conf

    plugins = conf.get("core", "plugins_folder")
    if plugins not in sys.path:
        sys.path.append(plugins)
    for _module in _MODULES:
        importlib.import_module(_module)

    from airflow.sdk import Asset

    # The first asset loads the forms of assets that all providers know.
    Asset("databricks://host/catalog/schema/table")

if sys.argv[1:2] in (["scheduler"], ["celery"]):
    # The process of a step would compile the templates of its statements, which takes up to 40 ms.
    importlib.import_module("data_share.sql_files").compile_sql()

if sys.argv[1:2] == ["dag-processor"]:
    # Whenever it reads the DAG files, it parses the conditions of all datasets; the process of a step parses none.
    importlib.import_module("sqlglot.dialects.snowflake")


def _complete_apis() -> None:
    """
    Let the API for tasks and triggers generate its routes when it is made.

    Airflow (3.3.2) generates them for the first request, which then takes 4 seconds of a core, and others wait for it:
    the first task after a start of the api-server, and the first trigger after a start of the triggerer, which has an
    API of its own.
    """
    from airflow.api_fastapi.execution_api import app as execution_api

    make = execution_api.create_task_execution_api_app

    @functools.wraps(make)
    def make_complete(*args: Any, **options: Any) -> Any:
        api = make(*args, **options)
        # A private method of cadwyn: a version without it may generate the routes for the first request.
        if hasattr(api, "_cadwyn_initialize"):
            api._cadwyn_initialize()
        return api

    execution_api.create_task_execution_api_app = make_complete


def _make_triggerers_api() -> None:
    """Make the triggerer's API now: its first heartbeat, which comes later, then says that a trigger can start."""
    from airflow.api_fastapi.execution_api.app import InProcessExecutionAPI
    from airflow.jobs import triggerer_job_runner

    api = InProcessExecutionAPI()
    _ = api.app
    triggerer_job_runner.in_process_api_server = lambda: api


def _report_the_end_of_a_trigger_at_once() -> None:
    """
    Let the end of a trigger end the pause of the triggerer's loop.

    The loop (Airflow 3.3.2) reports which triggers have ended, then pauses for a second, whatever happens meanwhile:
    a step that waits in the triggerer ends half a second late on average.
    """
    import anyio
    from airflow.jobs import triggerer_job_runner

    # A version with another use of it must not be disturbed there.
    if inspect.getsource(triggerer_job_runner).count("move_on_after") != 1:
        return
    runner = triggerer_job_runner.TriggerRunner
    create = runner.create_triggers
    pauses: list[anyio.CancelScope] = []
    has_ended = False

    @contextlib.contextmanager
    def pause(seconds: float) -> Iterator[anyio.CancelScope]:
        nonlocal has_ended
        # A trigger that ended while the loop was at work was perhaps not reported.
        with anyio.move_on_after(0 if has_ended else seconds) as scope:
            has_ended = False
            pauses.append(scope)
            try:
                yield scope
            finally:
                pauses.remove(scope)

    def end_pause(_: Any) -> None:
        nonlocal has_ended
        has_ended = not pauses
        for scope in pauses:
            scope.cancel()

    @functools.wraps(create)
    async def create_and_watch(self: Any) -> None:
        known = set(self.triggers)
        await create(self)
        for trigger_id in set(self.triggers) - known:
            self.triggers[trigger_id]["task"].add_done_callback(end_pause)

    class AnyioWithPause:
        move_on_after = staticmethod(pause)

        def __getattr__(self, name: str) -> Any:
            return getattr(anyio, name)

    runner.create_triggers = create_and_watch
    triggerer_job_runner.anyio = AnyioWithPause()


def _report_the_end_of_a_process_at_once() -> None:
    """
    Let the end of a task's process end the pause of its supervisor.

    A process closes its sockets a moment before it is gone. The supervisor (Airflow 3.3.2) then waits on no socket for
    five seconds before it looks again: a step that was skipped or has failed ends five seconds late.
    """
    import psutil
    from airflow.sdk.execution_time.supervisor import WatchedSubprocess

    service = WatchedSubprocess._service_subprocess

    @functools.wraps(service)
    def wait_and_service(self: Any, max_wait_time: float, **options: Any) -> Any:
        if not self._open_sockets and self._exit_code is None:
            with contextlib.suppress(psutil.TimeoutExpired):
                self._process.wait(timeout=max_wait_time)
            max_wait_time = 0
        return service(self, max_wait_time, **options)

    WatchedSubprocess._service_subprocess = wait_and_service  # type: ignore[method-assign]


def _start_the_next_step_at_once() -> None:
    """
    Let the end of a step end the pause of the scheduler's loop.

    The loop (Airflow 3.3.2) that finds nothing to do pauses for ``scheduler_idle_sleep_time``, whatever happens
    meanwhile: each step starts half of this late on average. The processes in which LocalExecutor runs steps are forks
    of the scheduler, so a pipe that the scheduler made reaches it. With another executor, nobody writes to the pipe.
    """
    from airflow.jobs import scheduler_job_runner
    from airflow.sdk.api.client import TaskInstanceOperations

    # A version with another use of it must not be disturbed there.
    if inspect.getsource(scheduler_job_runner).count("time.sleep(") != 1:
        return
    ended, report = os.pipe()
    os.set_blocking(report, False)

    def pause(seconds: float) -> None:
        if select.select([ended], [], [], seconds)[0]:
            os.read(ended, select.PIPE_BUF)

    class TimeWithPause:
        sleep = staticmethod(pause)

        def __getattr__(self, name: str) -> Any:
            return getattr(time, name)

    def reporting(tell_api_server: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(tell_api_server)
        def tell_both(*args: Any, **options: Any) -> Any:
            answer = tell_api_server(*args, **options)
            # A full pipe has enough to end the pause.
            with contextlib.suppress(BlockingIOError):
                os.write(report, b".")
            return answer

        return tell_both

    # What tells the api-server, in a fork, that a step has succeeded, or ended in another way.
    for name in ("succeed", "finish"):
        setattr(TaskInstanceOperations, name, reporting(getattr(TaskInstanceOperations, name)))
    scheduler_job_runner.time = TimeWithPause()


def _make_validators_once() -> None:
    """
    Make the validators of messages in the process that forks.

    The process of each step (Airflow 3.3.2) makes the one for messages twice, and one for each template field: 10 ms.
    """
    from airflow.sdk.execution_time import comms, task_runner

    make = functools.cache(task_runner.TypeAdapter)
    make(comms.ToTask)
    make(task_runner.JsonValue)
    comms.TypeAdapter = task_runner.TypeAdapter = make


def _find_listeners_once() -> None:
    """Look through the plugins for listeners in the process that forks: the process of each step would, in 7 ms."""
    from airflow.sdk.listener import get_listener_manager

    get_listener_manager()


def _change_airflow() -> Iterator[Callable[[], None]]:
    """Yield what to change inside Airflow in a process with this command line."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command in ("api-server", "triggerer"):
        yield _complete_apis
    if command == "triggerer":
        yield _make_triggerers_api
        yield _report_the_end_of_a_trigger_at_once
    if command in ("scheduler", "celery"):
        yield _report_the_end_of_a_process_at_once
        yield _make_validators_once
        yield _find_listeners_once
    if command == "scheduler":
        yield _start_the_next_step_at_once


for _change in _change_airflow():
    # All use names inside Airflow. A version without them starts all the same, and is slower by what they save.
    with contextlib.suppress(ImportError, AttributeError):
        _change()
