"""What Airflow's processes import: those that fork, everything once; a step, nothing that it does not use."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import shipped

pytestmark = pytest.mark.tier("full")

PROJECT = Path(__file__).resolve().parents[2]
DAGS = PROJECT / "dags"
STEPS = ("export_to_s3", "wait_for_export", "copy_into_staging", "check_staging", "publish", "finish_sync")

OURS = {"airflow", "data_share"}

USED = {
    # HTTP, for the providers' hooks and ours, with what these two import themselves
    *("requests", "urllib3", "chardet", "charset_normalizer"),
    *("aiohttp", "aiohappyeyeballs", "aiosignal", "frozenlist", "multidict", "propcache", "yarl"),
    # the sign-in at Snowflake
    *("cryptography", "jwt"),
    # the base of the providers' SQL hooks and operators
    *("deprecated", "more_itertools", "sqlparse", "wrapt"),
    # Databricks' operator, and calls from threads of the triggerer
    *("mergedeep", "asgiref"),
    # Airflow's templates
    "jinja2",
}
"""Packages that the process of a step may import, beyond those that Airflow has imported in it before."""

# A process as Airflow makes it for a step, up to the step's first request. In the end, it prints what was imported.
STEP = """
import json, sys

dags, command, *steps = sys.argv[1:]
sys.argv[1:] = [command]
import airflow_local_settings
import airflow.sdk.execution_time.task_runner
from airflow.dag_processing.dagbag import BundleDagBag

before = set(sys.modules)
bag = BundleDagBag(dag_folder=f"{dags}/sync_datasets.py", bundle_path=dags, bundle_name="dags", load_op_links=False)
assert not bag.import_errors, bag.import_errors
[dag] = bag.dags.values()
parsed = set(sys.modules)

# What only this program needs.
import unittest.mock
import aiohttp, requests
from airflow.sdk import BaseHook
from tests import airflow_double
beside = set(sys.modules) - parsed

class Reached(BaseException):
    pass

def reached(*_, **__):
    raise Reached

path = "s3://databricks-snowflake-share/dataset/shared_forecasts/20260102T030405_0a1b2c3d/1-0a1b2c3d/"
export = {"run_id": 1, "export_path": path}
copied = {
    **export, "databricks_run_id": 1, "clear_number": 0, "staging_table": "staging.forecasts", "columns": ["DAY"],
    "staged_at": "2026-01-02T03:04:05", "proofs": [], "unproven": {}, "new_columns": {}, "created_columns": {},
    "query_ids": ["01b2"], "files": 1, "files_exported": 1, "rows_exported": 1, "rows_loaded": 1, "rows_parsed": 1,
}
for name in steps:
    run = airflow_double.DagRun(dag=dag)
    run.xcoms = {
        ("export_to_s3", "run_id"): 1,
        ("export_to_s3", "export"): export,
        ("wait_for_export", "return_value"): export,
        ("copy_into_staging", "return_value"): copied,
    }
    with (
        unittest.mock.patch.object(requests.Session, "request", reached),
        unittest.mock.patch.object(aiohttp.ClientSession, "_request", reached),
    ):
        try:
            run.task(name)
        except Reached:
            continue
    raise SystemExit(f"{name} has sent nothing")
print(json.dumps([sorted(parsed - before), sorted(set(sys.modules) - parsed - beside)]))
"""


def last_line_of(program: str, *arguments: str, environment: dict[str, str]) -> str:
    """Run a program in a Python of its own; return the last line that it prints."""
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1]


@functools.cache
def imported(*steps: str, command: str = "tasks", dags: Path = DAGS) -> frozenset[str]:
    """Return the modules that a process imports when it parses the file of the DAG, and executes these steps."""
    connections = {
        "databricks_default": {"conn_type": "databricks", "host": "dbc-1.cloud.databricks.com", "password": "dapi"},
        "snowflake_default": {
            "conn_type": "snowflake",
            "login": "LOADER",
            "password": "a token",
            "extra": {"account": "MYORG-MYACCOUNT", "authenticator": "programmatic_access_token"},
        },
    }
    environment = os.environ | {
        "_AIRFLOW_PARSING_CONTEXT_DAG_ID": f"sync_{shipped.DATASETS[-1]}",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "PYTHONPATH": os.pathsep.join(map(str, (PROJECT, PROJECT / "config", PROJECT / "plugins"))),
        **{f"AIRFLOW_CONN_{name.upper()}": json.dumps(connection) for name, connection in connections.items()},
    }
    parsed, executed = json.loads(last_line_of(STEP, str(dags), command, *steps, environment=environment))
    return frozenset({*parsed, *executed})


def packages(modules: frozenset[str]) -> set[str]:
    """Return the packages of modules, without Python's, Airflow's and the project's."""
    found = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names)
    # Compilers name modules of their own: _cython_3_2_5, 650fdafa2468af73c11f__mypyc.
    return {name for name in found - OURS if not re.search(r"^_cython_|__mypyc$|^unusual_prefix_", name)}


def test_a_step_imports_nothing_that_it_does_not_use() -> None:
    assert packages(imported(*STEPS)) == USED


@pytest.mark.others_nightly
@pytest.mark.parametrize("command", ["scheduler", "dag-processor"])
def test_a_process_that_forks_has_imported_what_its_children_use(command: str) -> None:
    ours = {
        name for name in imported(*STEPS, command=command) if re.match(r"airflow\.providers|data_share|jinja2", name)
    }
    # This one reads the share file: a process that forks would keep an old one.
    assert ours | packages(imported(*STEPS, command=command)) == {"data_share.dag_defaults"}


WITH_CONDITIONS = f"""
import sys

[count] = sys.argv[2:]
sys.argv[2:] = []
import airflow_local_settings
before = "sqlglot" in sys.modules
from airflow.dag_processing.dagbag import BundleDagBag

bag = BundleDagBag(dag_folder="{DAGS}/sync_datasets.py", bundle_path="{DAGS}", bundle_name="dags", load_op_links=False)
assert len(bag.dags) == int(count), bag.import_errors
print(before, "sqlglot" in sys.modules)
"""


@pytest.mark.others_nightly
@pytest.mark.parametrize(
    ("command", "reads_one", "expected"),
    [
        # It reads the files again and again, in a new process each time.
        ("dag-processor", False, "True True"),
        # Their children are the processes of steps.
        ("scheduler", True, "False False"),
        ("celery", True, "False False"),
        ("api-server", False, "False True"),
    ],
)
def test_conditions_are_parsed_where_all_datasets_are_read(command: str, reads_one: bool, expected: str) -> None:
    environment = os.environ | {
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "PYTHONPATH": os.pathsep.join(map(str, (PROJECT, PROJECT / "config", PROJECT / "plugins"))),
    }
    count = 1 if reads_one else len(shipped.DATASETS)
    if reads_one:
        environment["_AIRFLOW_PARSING_CONTEXT_DAG_ID"] = f"sync_{shipped.DATASETS[-1]}"
    assert last_line_of(WITH_CONDITIONS, command, str(count), environment=environment) == expected
