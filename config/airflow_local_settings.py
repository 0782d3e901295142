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
import sys
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


# Both use names inside Airflow. A version without them starts all the same, and its first task or trigger waits.
with contextlib.suppress(ImportError, AttributeError):
    if sys.argv[1:2] in (["api-server"], ["triggerer"]):
        _complete_apis()
    if sys.argv[1:2] == ["triggerer"]:
        _make_triggerers_api()
