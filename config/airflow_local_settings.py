"""
Airflow's local settings: import what the tasks and triggers of a sync need, once, in the processes that fork them.

Without this file, each task process imports the providers again, and the first trigger blocks the triggerer's event
loop for seconds while the Databricks hook is imported. Airflow finds this file when its folder is on PYTHONPATH.
"""

from __future__ import annotations

import importlib
import sys

_FORKING_COMMANDS = {"scheduler", "triggerer", "celery"}
_MODULES = (
    "airflow.providers.databricks.operators.databricks",
    "data_share.finish",
    "data_share.snowflake.check",
    "data_share.snowflake.load",
    "data_share.snowflake.publish",
)

if _FORKING_COMMANDS & set(sys.argv[1:2]):
    from airflow.configuration import conf

    plugins = conf.get("core", "plugins_folder")
    if plugins not in sys.path:
        sys.path.append(plugins)
    for _module in _MODULES:
        importlib.import_module(_module)

if sys.argv[1:2] == ["triggerer"]:
    # The triggerer serves its triggers through its own API server, which it would import with the first trigger.
    importlib.import_module("airflow.api_fastapi.execution_api.app")
