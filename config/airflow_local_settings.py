"""
Airflow's local settings: import what the DAG files, tasks and triggers need once, in the processes that fork them.

Without this file, each task process imports the providers again, each process that parses a DAG file too (0.4 s of
processor each time), and the first trigger blocks the triggerer's event loop for seconds while the Databricks hook is
imported. Airflow finds this file when its folder is on PYTHONPATH.
"""

from __future__ import annotations

import importlib
import sys

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

if sys.argv[1:2] == ["triggerer"]:
    # The triggerer serves its triggers through its own API server, which it would import with the first trigger.
    importlib.import_module("airflow.api_fastapi.execution_api.app")
