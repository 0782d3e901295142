"""What holds for every DAG of the project, and what the order of a sync must never lose."""

from __future__ import annotations

import copy
import json
import re
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
import sqlalchemy.engine
import structlog
import yaml
from airflow.dag_processing.dagbag import DagBag
from airflow.dag_processing.processor import _serialize_dags
from airflow.providers.databricks.hooks.databricks import DatabricksHook
from airflow.sdk import DAG, BaseHook, Variable
from airflow.sdk.exceptions import ParamValidationError

from data_share.datasets import read_datasets
from data_share.export import DatabricksExportOperator
from data_share.failures import RetryTransientErrors, report_failure
from data_share.share import EXPORT_JOB_VARIABLE, attempt_of
from data_share.snowflake_hook import DataShareSnowflakeHook
from data_share.snowflake_operators import SnowflakeCleanUpOperator

DAGS = Path(__file__).resolve().parents[2] / "dags"
DATASETS = [dataset.name for dataset in read_datasets()[0]]
SYNCS = [f"sync_{name}" for name in DATASETS]
ALL = [*SYNCS, "set_up_snowflake", "clean_up_share", "check_share"]
TAGS = {"data-share", "sync", "set-up", "housekeeping"}


@pytest.fixture(scope="module")
def dags() -> dict[str, DAG]:
    bag = DagBag(DAGS, bundle_path=DAGS.parent)
    assert bag.import_errors == {}
    return bag.dags


@pytest.fixture(params=ALL)
def dag(request: pytest.FixtureRequest, dags: dict[str, DAG]) -> DAG:
    return dags[request.param]


@pytest.fixture(params=SYNCS)
def sync(request: pytest.FixtureRequest, dags: dict[str, DAG]) -> DAG:
    return dags[request.param]


# ---- the bag


def test_the_dags_are_the_ones_of_the_datasets_the_set_up_and_the_clean_up(dags: dict[str, DAG]) -> None:
    assert DATASETS == ["city_temperatures", "daily_observations", "shared_forecasts"]
    assert sorted(dags) == sorted(ALL)
    assert all(dag.tasks for dag in dags.values())


def test_every_dag_can_be_serialized() -> None:
    bag = DagBag(DAGS, bundle_path=DAGS.parent)
    serialized, errors = _serialize_dags(bag, structlog.get_logger())
    assert errors == {}
    assert sorted(dag.dag_id for dag in serialized) == sorted(ALL)


@pytest.fixture
def nothing_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make everything fail that belongs to a run of a task. Sockets fail in every unit test."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("something ran while a DAG file was read")

    for owner, name in (
        (BaseHook, "get_connection"),
        (Variable, "get"),
        (DatabricksHook, "__init__"),
        (DataShareSnowflakeHook, "__init__"),
        (sqlalchemy.engine.Engine, "connect"),
    ):
        monkeypatch.setattr(owner, name, refuse)


@pytest.mark.usefixtures("nothing_may_run")
def test_nothing_runs_while_the_files_are_read() -> None:
    bag = DagBag(DAGS, bundle_path=DAGS.parent)
    assert bag.import_errors == {}
    assert bag.dags


@pytest.mark.usefixtures("nothing_may_run")
@pytest.mark.parametrize(
    "line",
    [
        "from airflow.sdk import Variable; Variable.get('x')",
        "from airflow.sdk import BaseHook; BaseHook.get_connection('x')",
        "from data_share.snowflake_hook import DataShareSnowflakeHook; DataShareSnowflakeHook('x')",
        "from airflow.providers.databricks.hooks.databricks import DatabricksHook; DatabricksHook('x')",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import urllib.request; urllib.request.urlopen('http://localhost:9')",
        "from airflow import settings; settings.engine.connect()",
    ],
)
def test_a_file_where_something_runs_would_be_noticed(tmp_path: Path, line: str) -> None:
    (tmp_path / "bad.py").write_text(f"from airflow.sdk import DAG\n{line}\n")
    bag = DagBag(tmp_path, bundle_path=tmp_path)
    [error] = bag.import_errors.values()
    assert "something ran" in error or "reached for the network" in error


# ---- policy


def test_a_dag_is_tagged_dated_and_bounded(dag: DAG) -> None:
    assert dag.tags
    assert dag.tags <= TAGS
    assert "data-share" in dag.tags
    assert dag.start_date is not None
    assert dag.start_date.isoformat() == "2026-01-01T00:00:00+00:00"
    assert dag.catchup is False
    assert dag.max_active_runs == 1
    assert dag.dagrun_timeout is not None
    assert dag.description


SHORT_WAITS = (timedelta(seconds=10), timedelta(minutes=5))


def test_a_task_has_an_owner_retries_and_leaves_the_reason_of_its_failure(dag: DAG) -> None:
    for task in dag.tasks:
        assert task.owner == "data-share"
        # The reason to deviate stands beside the task: a finished run stays as it is.
        assert task.retries == (0 if task.task_id == "wait_for_export" else 2)
        assert (task.retry_delay, task.max_retry_delay) == SHORT_WAITS
        assert task.retry_exponential_backoff
        assert report_failure in task.on_failure_callback


def test_a_task_of_a_sync_is_not_tried_again_in_vain(sync: DAG) -> None:
    assert all(isinstance(task.retry_policy, RetryTransientErrors) for task in sync.tasks)


def test_a_task_ends_in_bounded_time(dag: DAG) -> None:
    assert dag.dagrun_timeout is not None
    for task in dag.tasks:
        in_triggerer = task.start_from_trigger and task.start_trigger_args
        bound = task.start_trigger_args.timeout if in_triggerer else task.execution_timeout
        assert bound is not None, task.task_id
        assert timedelta(0) < bound < dag.dagrun_timeout, task.task_id


def test_the_time_of_a_load_is_the_datasets(sync_datasets: ModuleType) -> None:
    dataset = sync_datasets.datasets[0].model_copy(update={"load_timeout_minutes": 300})
    dag = sync_datasets.sync_dag(dataset)
    for name in ("copy_into_staging", "check_staging", "publish"):
        task = dag.get_task(name)
        assert task.statement_timeout == 300 * 60
        assert timedelta(minutes=300) < task.execution_timeout < dag.dagrun_timeout


@pytest.mark.parametrize("export_minutes", [1, 1440])
@pytest.mark.parametrize("load_minutes", [1, 1440])
def test_a_run_may_take_as_long_as_its_steps_may_together(
    sync_datasets: ModuleType, export_minutes: int, load_minutes: int
) -> None:
    # Airflow skips what is left of a run that takes longer, the last step included.
    changes = {"export_timeout_minutes": export_minutes, "load_timeout_minutes": load_minutes}
    dag = sync_datasets.sync_dag(sync_datasets.datasets[0].model_copy(update=changes))
    steps = sum(dag.get_task(name).statement_timeout for name in ("copy_into_staging", "check_staging", "publish"))
    assert dag.dagrun_timeout > timedelta(minutes=export_minutes, hours=1) + timedelta(seconds=steps)


def test_a_param_explains_itself(dag: DAG) -> None:
    for name in dag.params:
        param = dag.params.get_param(name)
        assert param.schema.get("title"), name
        assert param.schema.get("type"), name
        assert param.description, name


def test_a_sync_can_be_asked_for_without_any_conf(sync: DAG) -> None:
    assert sync.params.dump() == {
        "requested_by": None,
        "full_refresh": False,
        "accept_row_change": False,
        "dry_run": False,
        "reload_run_key": None,
    }


def resolved(dag: DAG, name: str, value: object) -> object:
    """Return what a param makes of a value; on a copy, as the value would stay."""
    return copy.copy(dag.params.get_param(name)).resolve(value)


@pytest.mark.parametrize("name", [None, "ada", "ada.l+sync@example.com", "Ada Lovelace", "a" * 100])
def test_who_asks_for_a_sync_is_a_name(sync: DAG, name: str | None) -> None:
    assert resolved(sync, "requested_by", name) == name


@pytest.mark.parametrize("name", ["", "a" * 101, "O'Brien", "a;b", "a\nb", "ada\n", "{{ x }}", "<b>", 7, ["a"]])
def test_who_asks_for_a_sync_is_nothing_but_a_name(sync: DAG, name: object) -> None:
    with pytest.raises(ParamValidationError):
        resolved(sync, "requested_by", name)


@pytest.mark.parametrize("name", ["full_refresh", "accept_row_change", "dry_run"])
@pytest.mark.parametrize("value", ["true", 1, None, "{{ x }}"])
def test_a_switch_is_on_or_off(sync: DAG, name: str, value: object) -> None:
    assert resolved(sync, name, True) is True
    with pytest.raises(ParamValidationError):
        resolved(sync, name, value)


@pytest.mark.parametrize(
    "key", ["", "20260102T030405", "20260102T030405_0A1B2C3D", "20260102T030405_0a1b2c3d\n", "x' OR 1 = 1", 7]
)
def test_an_earlier_sync_is_named_by_its_run_key_and_nothing_else(sync: DAG, key: object) -> None:
    assert resolved(sync, "reload_run_key", "20260102T030405_0a1b2c3d") == "20260102T030405_0a1b2c3d"
    with pytest.raises(ParamValidationError):
        resolved(sync, "reload_run_key", key)


@pytest.mark.parametrize("days", [1, 0, -1, 3651, "7", 1.5, None])
def test_the_clean_up_keeps_at_least_two_days(dags: dict[str, DAG], days: object) -> None:
    assert resolved(dags["clean_up_share"], "keep_days", 2) == 2
    with pytest.raises(ParamValidationError):
        resolved(dags["clean_up_share"], "keep_days", days)


def json_examples(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects that stand in backquotes."""
    return [json.loads(example) for example in re.findall(r"`+(?:json\n)?(\{.*?\})\n?`+", text, flags=re.DOTALL)]


def test_the_documentation_of_a_dag_shows_how_to_start_it(dag: DAG) -> None:
    assert dag.doc_md is not None
    source = Path(dag.fileloc).read_text()
    assert dag.doc_md.strip() in source, "the docstring is the documentation"
    examples = json_examples(dag.doc_md)
    assert examples
    for body in examples:
        assert "logical_date" in body, "the API requires this key"
        assert set(body) <= {"dag_run_id", "logical_date", "conf"}
        for name, value in body["conf"].items():
            resolved(dag, name, value)
    assert "/api/v2/dags/" in dag.doc_md


# ---- a sync


def upstream(dag: DAG, task_id: str) -> set[str]:
    return dag.get_task(task_id).get_flat_relative_ids(upstream=True)


def test_nothing_is_published_before_it_is_exported_loaded_and_checked(sync: DAG) -> None:
    assert upstream(sync, "publish") == {"export_to_s3", "wait_for_export", "copy_into_staging", "check_staging"}
    assert upstream(sync, "check_staging") == {"export_to_s3", "wait_for_export", "copy_into_staging"}
    assert upstream(sync, "copy_into_staging") == {"export_to_s3", "wait_for_export"}
    assert upstream(sync, "wait_for_export") == {"export_to_s3"}


def test_a_step_runs_only_when_the_one_before_has_succeeded(sync: DAG) -> None:
    rules = {task.task_id: task.trigger_rule for task in sync.tasks if not task.is_teardown}
    # A reload skips the steps before the copy. A failure of one of them is still no ground to copy.
    assert rules.pop("copy_into_staging") == "none_failed"
    assert set(rules.values()) == {"all_success"}


def test_staging_is_dropped_last_and_whatever_happened(sync: DAG) -> None:
    drop = sync.get_task("drop_staging")
    assert drop.is_teardown
    assert "publish" in upstream(sync, "drop_staging")
    assert drop.downstream_task_ids == set()
    # It fails when the sync was not published, also when a person ended it, and the run with it.
    assert drop.on_failure_fail_dagrun
    assert drop.steps == [task.task_id for task in sync.topological_sort() if task is not drop]


def test_the_export_starts_anew_with_each_attempt_and_holds_no_worker(sync: DAG) -> None:
    export = sync.get_task("export_to_s3")
    assert isinstance(export, DatabricksExportOperator)
    assert export.durable is False
    assert export.forward_dag_params is False
    assert export.wait_for_termination is False
    assert export.deferrable is False
    assert export.job_id == f"{{{{ var.value.{EXPORT_JOB_VARIABLE} }}}}"


def test_an_attempt_has_its_own_token_and_its_own_path(
    sync: DAG, rendered: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the job id, which is an Airflow Variable.
    monkeypatch.setattr(sync.get_task("export_to_s3"), "template_fields", ("idempotency_token", "job_parameters"))
    first, second = (rendered(sync, "export_to_s3", try_number=number) for number in (1, 2))
    assert first.idempotency_token != second.idempotency_token
    assert len(second.idempotency_token) <= 64
    assert set(first.job_parameters) == {"dataset", "source_table", "run_key", "export_path", "proof"}
    assert first.job_parameters["run_key"] == second.job_parameters["run_key"]
    assert attempt_of(first.job_parameters["export_path"]) == 1
    assert attempt_of(second.job_parameters["export_path"]) == 2
    # As a run that was deleted and made again: all is the same but Airflow's id of the attempt.
    monkeypatch.setattr(uuid, "uuid5", lambda *_: uuid.uuid4())
    again = rendered(sync, "export_to_s3", try_number=1)
    assert again.idempotency_token != first.idempotency_token
    assert again.job_parameters["export_path"] != first.job_parameters["export_path"]


def test_the_job_takes_the_parameters_that_the_export_sends(sync: DAG) -> None:
    bundle = yaml.safe_load((DAGS.parent / "include" / "databricks" / "databricks.yml").read_text())
    job = bundle["resources"]["jobs"]["export_dataset"]
    assert {parameter["name"] for parameter in job["parameters"]} == set(sync.get_task("export_to_s3").job_parameters)


def test_waiting_holds_no_worker_and_takes_the_run_of_the_export(sync: DAG, rendered: Callable[..., Any]) -> None:
    wait = sync.get_task("wait_for_export")
    assert wait.start_from_trigger
    assert "map_indexes=-1" in wait.run_id, "a pull without it never returns in the triggerer"
    assert rendered(sync, "wait_for_export").run_id == "77"


# ---- the set-up


def set_up_statements(dags: dict[str, DAG], rendered: Callable[..., Any]) -> list[str]:
    set_up = dags["set_up_snowflake"]
    files: list[str] = []
    for task in set_up.tasks:
        sql = rendered(set_up, task.task_id).sql
        files += [sql] if isinstance(sql, str) else sql
    split = DataShareSnowflakeHook.split_sql_string
    return [" ".join(one.split()) for file in files for one in split(file, strip_semicolon=True)]


def test_the_set_up_only_creates_what_is_missing(dags: dict[str, DAG], rendered: Callable[..., Any]) -> None:
    statements = set_up_statements(dags, rendered)
    assert len(statements) >= 4
    for statement in statements:
        assert re.match(r"CREATE (TRANSIENT SCHEMA|STAGE|TABLE) IF NOT EXISTS \S", statement), statement
        assert not re.search(r"OR REPLACE|\bDROP\b|\{\{", statement), statement


def test_the_set_up_creates_the_target_of_each_dataset(dags: dict[str, DAG], rendered: Callable[..., Any]) -> None:
    statements = set_up_statements(dags, rendered)
    for dataset in read_datasets()[0]:
        [create] = [one for one in statements if one.startswith(f"CREATE TABLE IF NOT EXISTS {dataset.target_table} (")]
        if dataset.columns:
            columns = ", ".join(f'"{name.upper()}" {kind}' for name, kind in dataset.columns.items())
            assert create == f"CREATE TABLE IF NOT EXISTS {dataset.target_table} ( {columns} )"


def test_the_set_up_goes_from_the_schema_to_the_targets(dags: dict[str, DAG]) -> None:
    order = ["create_schemas", "create_stage", "create_ledger", "create_targets"]
    assert [task.task_id for task in dags["set_up_snowflake"].topological_sort()] == order
    assert upstream(dags["set_up_snowflake"], "create_targets") == set(order[:-1])


# ---- the clean-up


def test_the_clean_up_runs_every_day_and_cleans_up(dags: dict[str, DAG]) -> None:
    dag = dags["clean_up_share"]
    assert dag.tags == {"data-share", "housekeeping"}
    assert dag.schedule == "@daily"
    [task] = dag.tasks
    assert isinstance(task, SnowflakeCleanUpOperator)
