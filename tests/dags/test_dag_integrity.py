"""What holds for every DAG of the project, and what the order of a sync must never lose."""

from __future__ import annotations

import copy
import itertools
import json
import re
import subprocess
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
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

from data_share import dataset_files
from data_share.databricks.export import DatabricksExportOperator
from data_share.dataset_files import read_dataset, read_datasets
from data_share.outcome.classify import RetryTransientErrors, report_failure
from data_share.outcome.notes import TAGS_OF_A_SYNC
from data_share.share import Share, attempt_of
from data_share.share_file import ShareFile
from data_share.snowflake.clean_up import SnowflakeCleanUpOperator
from data_share.snowflake.sql_api import DataShareSnowflakeHook
from data_share.steps import BEFORE_FINISH
from tests import shipped
from tests.airflow_double import DagRun
from tests.conftest import load_sync_datasets

DAGS = Path(__file__).resolve().parents[2] / "dags"
SYNCS = [f"sync_{name}" for name in shipped.DATASETS]
ALL = [*SYNCS, "set_up_snowflake", "clean_up_share", "doctor"]
TAGS = {"data-share", "sync", "set-up", "housekeeping", "max-age-minutes:1440"}


@pytest.fixture(scope="module")
def dags() -> dict[str, DAG]:
    bag = DagBag(DAGS, bundle_path=DAGS.parent)
    assert bag.import_errors == {}
    return bag.dags


@pytest.fixture
def syncs(dags: dict[str, DAG]) -> list[DAG]:
    """The DAGs of the datasets."""
    return [dag for dag_id, dag in dags.items() if dag_id.startswith("sync_")]


# ---- the bag


def test_the_dags_are_the_ones_of_the_datasets_the_set_up_and_the_clean_up(dags: dict[str, DAG]) -> None:
    assert [dataset.name for dataset in read_datasets()[0]] == list(shipped.DATASETS)
    assert sorted(dags) == sorted(ALL)
    assert all(dag.tasks for dag in dags.values())


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
def test_nothing_runs_while_the_files_are_read_and_every_dag_can_be_serialized() -> None:
    bag = DagBag(DAGS, bundle_path=DAGS.parent)
    assert bag.import_errors == {}
    serialized, errors = _serialize_dags(bag, structlog.get_logger())
    assert errors == {}
    assert sorted(dag.dag_id for dag in serialized) == sorted(ALL)


def test_the_process_of_a_task_reads_its_own_dataset_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def read_one(path: Path, deployment: ShareFile, *, check_sql: bool) -> Any:
        read.append(path.stem)
        assert not check_sql
        return read_dataset(path, deployment)

    monkeypatch.setattr(dataset_files, "read_dataset", read_one)
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "sync_shared_forecasts")
    module = load_sync_datasets()
    assert read == ["shared_forecasts"]
    assert [dag.dag_id for dag in vars(module).values() if isinstance(dag, DAG)] == ["sync_shared_forecasts"]


@pytest.mark.usefixtures("nothing_may_run")
def test_a_file_where_something_runs_would_be_noticed(tmp_path: Path) -> None:
    lines = (
        "from airflow.sdk import Variable; Variable.get('x')",
        "from airflow.sdk import BaseHook; BaseHook.get_connection('x')",
        "from data_share.snowflake.sql_api import DataShareSnowflakeHook; DataShareSnowflakeHook('x')",
        "from airflow.providers.databricks.hooks.databricks import DatabricksHook; DatabricksHook('x')",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import urllib.request; urllib.request.urlopen('http://localhost:9')",
        "from airflow import settings; settings.engine.connect()",
    )
    for number, line in enumerate(lines):
        (tmp_path / f"bad_{number}.py").write_text(f"from airflow.sdk import DAG\n{line}\n")
    errors = DagBag(tmp_path, bundle_path=tmp_path).import_errors
    noticed = {file for file, error in errors.items() if "something ran" in error or "reached for the network" in error}
    assert {
        line for number, line in enumerate(lines) if f"bad_{number}.py" not in {Path(f).name for f in noticed}
    } == set()


# ---- policy


def test_a_dag_is_tagged_dated_and_bounded(dags: dict[str, DAG]) -> None:
    for dag in dags.values():
        policy = (dag.start_date, dag.catchup, dag.max_active_runs)
        assert policy == (datetime(2026, 1, 1, tzinfo=UTC), False, 1), dag.dag_id
        assert {"data-share"} <= dag.tags <= TAGS, dag.dag_id
        assert dag.dagrun_timeout is not None, dag.dag_id
        assert dag.description, dag.dag_id


SHORT_WAITS = (timedelta(seconds=10), timedelta(minutes=5))
# The reason to deviate stands beside the task: a finished run stays as it is, and what tidies up must come to it.
RETRIES = {"wait_for_export": 0, "finish_sync": 5}


def test_a_task_has_an_owner_retries_and_leaves_the_reason_of_its_failure(dags: dict[str, DAG]) -> None:
    for task in [task for dag in dags.values() for task in dag.tasks]:
        assert task.owner == "data-share"
        assert task.retries == RETRIES.get(task.task_id, 2), task
        assert (task.retry_delay, task.max_retry_delay) == SHORT_WAITS, task
        assert task.retry_exponential_backoff, task
        assert report_failure in task.on_failure_callback, task


def test_the_last_step_is_tried_for_five_minutes(syncs: list[DAG]) -> None:
    for sync in syncs:
        drop = sync.get_task("finish_sync")
        # Airflow's waits are these, and up to twice as long.
        waits = [min(drop.retry_delay * 2**number, drop.max_retry_delay) for number in range(drop.retries)]
        assert sum(waits, timedelta()) >= timedelta(minutes=5)


def test_a_task_of_a_sync_is_not_tried_again_in_vain(syncs: list[DAG]) -> None:
    tasks = [task for sync in syncs for task in sync.tasks]
    assert [task for task in tasks if not isinstance(task.retry_policy, RetryTransientErrors)] == []


def test_a_task_ends_in_bounded_time(dags: dict[str, DAG]) -> None:
    for dag in dags.values():
        assert dag.dagrun_timeout is not None
        for task in dag.tasks:
            in_triggerer = task.start_from_trigger and task.start_trigger_args
            bound = task.start_trigger_args.timeout if in_triggerer else task.execution_timeout
            assert bound is not None, task
            assert timedelta(0) < bound < dag.dagrun_timeout, task


def test_the_time_of_a_load_is_the_datasets(sync_datasets: ModuleType) -> None:
    dataset = sync_datasets.datasets[0].model_copy(update={"load_timeout_minutes": 300})
    dag = sync_datasets.sync_dag(dataset)
    for name in ("copy_into_staging", "check_staging", "publish"):
        task = dag.get_task(name)
        assert task.statement_timeout == 300 * 60
        assert timedelta(minutes=300) < task.execution_timeout < dag.dagrun_timeout


def test_a_run_may_take_as_long_as_its_steps_may_together(sync_datasets: ModuleType) -> None:
    # Airflow skips what is left of a run that takes longer, the last step included.
    for export_minutes, load_minutes in itertools.product((1, 1440), repeat=2):
        changes = {"export_timeout_minutes": export_minutes, "load_timeout_minutes": load_minutes}
        dag = sync_datasets.sync_dag(sync_datasets.datasets[0].model_copy(update=changes))
        steps = sum(dag.get_task(name).statement_timeout for name in ("copy_into_staging", "check_staging", "publish"))
        assert dag.dagrun_timeout > timedelta(minutes=export_minutes, hours=1) + timedelta(seconds=steps), changes


def test_a_param_explains_itself(dags: dict[str, DAG]) -> None:
    for dag in dags.values():
        for name in dag.params:
            param = dag.params.get_param(name)
            assert param.schema.get("title"), name
            assert param.schema.get("type"), name
            assert param.description, name


def test_a_sync_can_be_asked_for_without_any_conf(syncs: list[DAG]) -> None:
    for sync in syncs:
        assert sync.params.dump() == {
            "requested_by": None,
            "full_refresh": False,
            "accept_row_change": False,
            "dry_run": False,
            "verify": False,
            "reload_run_key": None,
        }


def resolved(dag: DAG, name: str, value: object) -> object:
    """Return what a param makes of a value; on a copy, as the value would stay."""
    return copy.copy(dag.params.get_param(name)).resolve(value)


NAMES = [
    *("ada", "ada.l+sync@example.com", "Ada Lovelace", "José", "O'Brien", "DOMAIN\\ada", "trailing\\", "a" * 100),
    *("Müller-Lüdenscheidt, Jörg (IT) Jr.", "山田太郎", "Ὑπατία", "शर्\u200dमा", "Zoë 👩\u200d💻", "💻" * 100),
    *("CN=Ada Lovelace,OU=R&D", "auth0|5f7c8e", '"a"; {{ 7 * 7 }} {% x %} <b>$$ -- // /* */'),
]
NO_NAMES = [
    *("", " ", "\u00a0", "a" * 101, "a\nb", "ada\n", "a\rb", "a\tb", "a\0b", "a\x1b[31mb", "a\x7fb", "a\x85b"),
    *("a\u2028b", "a\u202eb", "a\u2066b", "a\ud800b", "\udc00"),
]


def refuses(dag: DAG, name: str, value: object) -> bool:
    """Say whether a param refuses a value."""
    try:
        resolved(dag, name, value)
    except ParamValidationError:
        return True
    return False


def test_who_asks_for_a_sync_is_nothing_but_a_name(syncs: list[DAG]) -> None:
    for sync in syncs:
        for name in (None, *NAMES):
            assert resolved(sync, "requested_by", name) == name
        assert [name for name in (*NO_NAMES, 7, ["a"]) if not refuses(sync, "requested_by", name)] == []


def test_a_name_is_one_in_javascript_too(syncs: list[DAG]) -> None:
    # As a browser reads the pattern of a form, and a backend in Node.js the JSON schema.
    pattern = syncs[0].params.get_param("requested_by").schema["pattern"]
    script = "const [pattern, names] = JSON.parse(process.argv[1]);"
    script += """console.log(JSON.stringify(
        ["u", "v"].map(flag => names.map(name => new RegExp(pattern, flag).test(name)))))"""
    asked = json.dumps([pattern, [*NAMES, *NO_NAMES]])
    done = subprocess.run(["node", "-e", script, asked], capture_output=True, check=True)
    assert json.loads(done.stdout) == [[True] * len(NAMES) + [False] * len(NO_NAMES)] * 2


def test_a_switch_is_on_or_off(syncs: list[DAG]) -> None:
    for sync, name in itertools.product(syncs, ("full_refresh", "accept_row_change", "dry_run", "verify")):
        assert resolved(sync, name, True) is True
        assert [value for value in ("true", 1, None, "{{ x }}") if not refuses(sync, name, value)] == [], name


def test_an_earlier_sync_is_named_by_its_run_key_and_nothing_else(syncs: list[DAG]) -> None:
    key = "20260102T030405_0a1b2c3d"
    for sync in syncs:
        assert resolved(sync, "reload_run_key", key) == key
        wrong = ["", "20260102T030405", key.upper(), f"{key}\n", "x' OR 1 = 1", 7]
        assert [value for value in wrong if not refuses(sync, "reload_run_key", value)] == []


def test_the_clean_up_keeps_at_least_two_days(dags: dict[str, DAG]) -> None:
    dag = dags["clean_up_share"]
    assert resolved(dag, "keep_days", 2) == 2
    assert [days for days in (1, 0, -1, 3651, "7", 1.5, None) if not refuses(dag, "keep_days", days)] == []


def json_examples(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects that stand in backquotes."""
    return [json.loads(example) for example in re.findall(r"`+(?:json\n)?(\{.*?\})\n?`+", text, flags=re.DOTALL)]


def test_the_documentation_of_a_dag_shows_how_to_start_it(dags: dict[str, DAG]) -> None:
    for dag in dags.values():
        assert dag.doc_md is not None
        source = Path(dag.fileloc).read_text()
        assert dag.doc_md.strip() in source, "the docstring is the documentation"
        examples = json_examples(dag.doc_md)
        assert examples, dag.dag_id
        for body in examples:
            assert "logical_date" in body, "the API requires this key"
            assert set(body) <= {"dag_run_id", "logical_date", "conf"}
            for name, value in body["conf"].items():
                resolved(dag, name, value)
        assert "/api/v2/dags/" in dag.doc_md


# ---- a sync


def upstream(dag: DAG, task_id: str) -> set[str]:
    return dag.get_task(task_id).get_flat_relative_ids(upstream=True)


def test_nothing_is_published_before_it_is_exported_loaded_and_checked(syncs: list[DAG]) -> None:
    for sync in syncs:
        assert upstream(sync, "publish") == {"export_to_s3", "wait_for_export", "copy_into_staging", "check_staging"}
        assert upstream(sync, "check_staging") == {"export_to_s3", "wait_for_export", "copy_into_staging"}
        assert upstream(sync, "copy_into_staging") == {"export_to_s3", "wait_for_export"}
        assert upstream(sync, "wait_for_export") == {"export_to_s3"}


def test_a_step_runs_only_when_the_one_before_has_succeeded(syncs: list[DAG]) -> None:
    for sync in syncs:
        rules = {task.task_id: task.trigger_rule for task in sync.tasks if not task.is_teardown}
        # A reload skips the steps before the copy, and a sync without anything new skips copy and check. A failure of
        # one of them is still no ground to go on.
        assert rules.pop("copy_into_staging") == rules.pop("publish") == "none_failed"
        assert set(rules.values()) == {"all_success"}


def test_staging_is_dropped_last_and_whatever_happened(syncs: list[DAG]) -> None:
    for sync in syncs:
        drop = sync.get_task("finish_sync")
        assert drop.is_teardown
        # Each step, not the last alone: a person may mark a later step while an earlier one works.
        assert drop.upstream_task_ids == {task.task_id for task in sync.tasks} - {"finish_sync"}
        assert drop.downstream_task_ids == set()
        # It fails when the sync was not published, also when a person ended it, and the run with it.
        assert drop.on_failure_fail_dagrun
        assert list(BEFORE_FINISH) == [task.task_id for task in sync.topological_sort() if task is not drop]


def test_the_export_starts_anew_with_each_attempt_and_holds_no_worker(syncs: list[DAG]) -> None:
    for sync in syncs:
        export = sync.get_task("export_to_s3")
        assert isinstance(export, DatabricksExportOperator)
        assert export.durable is False
        assert export.forward_dag_params is False
        assert export.wait_for_termination is False
        assert export.deferrable is False
        assert export.job_id == f"{{{{ var.value.{Share().export_job_variable} }}}}"


def test_an_attempt_has_its_own_token_and_its_own_path(
    syncs: list[DAG], rendered: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = syncs[0]  # the same code makes them all
    # Without the job id, which is an Airflow Variable.
    monkeypatch.setattr(sync.get_task("export_to_s3"), "template_fields", ("idempotency_token", "job_parameters"))
    first, second = (rendered(sync, "export_to_s3", try_number=number) for number in (1, 2))
    assert first.idempotency_token != second.idempotency_token
    assert len(second.idempotency_token) <= 64
    assert set(first.job_parameters) == {"dataset", "source_table", "run_key", "export_path", "proof", "source"}
    assert first.job_parameters["run_key"] == second.job_parameters["run_key"]
    assert attempt_of(first.job_parameters["export_path"]) == 1
    assert attempt_of(second.job_parameters["export_path"]) == 2
    # As a run that was deleted and made again: all is the same but Airflow's id of the attempt.
    monkeypatch.setattr(uuid, "uuid5", lambda *_: uuid.uuid4())
    again = rendered(sync, "export_to_s3", try_number=1)
    assert again.idempotency_token != first.idempotency_token
    assert again.job_parameters["export_path"] != first.job_parameters["export_path"]


def test_the_job_takes_the_parameters_that_the_export_sends(syncs: list[DAG]) -> None:
    bundle = yaml.safe_load((DAGS.parent / "include" / "databricks" / "databricks.yml").read_text())
    job = bundle["resources"]["jobs"]["export_dataset"]
    taken = {parameter["name"] for parameter in job["parameters"]}
    for sync in syncs:
        # Without a mode, the job exports, also one that does not know the parameter. What was published last is known
        # when the step runs.
        assert set(sync.get_task("export_to_s3").job_parameters) == taken - {"mode", "published"}
    defaults = {parameter["name"]: parameter["default"] for parameter in job["parameters"]}
    assert defaults["mode"] == defaults["published"] == ""


def test_a_schedule_of_its_own_starts_verifications(sync_datasets: ModuleType) -> None:
    dataset = sync_datasets.datasets[0].model_copy(update={"verify_schedule": "30 4 * * 0"})
    dag = sync_datasets.verify_dag(dataset)
    assert (dag.dag_id, dag.schedule, dag.max_active_runs) == (f"verify_{dataset.name}", "30 4 * * 0", 1)
    # It is no sync: notes, alerts and the page are those of the run that it starts.
    assert not dag.tags >= TAGS_OF_A_SYNC
    [task] = dag.tasks
    sync = sync_datasets.sync_dag(dataset)
    assert task.trigger_dag_id == sync.dag_id
    assert resolved(sync, "verify", task.conf["verify"]) is True
    # A retry starts no second verification, and a paused DAG keeps none in its queue.
    assert (task.trigger_run_id, task.skip_when_already_exists) == ("verify__{{ run_id }}", True)
    assert task.fail_when_dag_is_paused
    assert dag.doc_md in Path(dag.fileloc).read_text()


@pytest.mark.parametrize("dag_id", ["sync_verify_tides", "verify_tides", "verify_sync_tides"])
def test_the_process_of_a_verification_reads_its_own_dataset(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dag_id: str
) -> None:
    read: list[str | None] = []
    monkeypatch.setattr(dataset_files, "read_datasets", lambda *, only, check_sql: read.append(only) or ([], []))
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", dag_id)
    load_sync_datasets()
    assert read == [dag_id.partition("_")[2]]


def test_waiting_holds_no_worker_and_takes_the_run_of_the_export(
    syncs: list[DAG], rendered: Callable[..., Any]
) -> None:
    for sync in syncs:
        wait = sync.get_task("wait_for_export")
        assert wait.start_from_trigger
        assert "map_indexes=-1" in wait.run_id, "a pull without it never returns in the triggerer"
        assert rendered(sync, "wait_for_export").run_id == "77"


# ---- the set-up


def set_up_statements(dags: dict[str, DAG], rendered: Callable[..., Any]) -> list[str]:
    set_up = dags["set_up_snowflake"]
    run = DagRun(dag=set_up)
    run.run("list_targets")
    files = [rendered(set_up, task_id).sql for task_id in ("create_schemas", "create_stage", "create_ledger")]
    files += [task.sql for task, _ in run.instances("create_target")]
    split = DataShareSnowflakeHook.split_sql_string
    return [" ".join(one.split()) for file in files for one in split(file, strip_semicolon=True)]


def test_the_set_up_only_creates_what_is_missing(dags: dict[str, DAG], rendered: Callable[..., Any]) -> None:
    statements = set_up_statements(dags, rendered)
    assert len(statements) >= 4
    for statement in statements:
        creates = r"CREATE (TRANSIENT SCHEMA|STAGE|TABLE) IF NOT EXISTS \S"
        # What a table of an earlier version lacks.
        adds = r"ALTER TABLE (sync_history|export_manifests) ADD COLUMN IF NOT EXISTS \w+ [A-Z]\w+(\(38, [03]\))?$"
        assert re.match(rf"{creates}|{adds}", statement), statement
        assert not re.search(r"OR REPLACE|\bDROP\b|\{\{", statement), statement


def test_the_set_up_creates_the_target_of_each_dataset(dags: dict[str, DAG], rendered: Callable[..., Any]) -> None:
    statements = set_up_statements(dags, rendered)
    for dataset in read_datasets()[0]:
        # A file in targets/ is written by hand, without quotes where they are not needed.
        target = dataset.target if dataset.columns else dataset.target_table
        [create] = [one for one in statements if one.startswith(f"CREATE TABLE IF NOT EXISTS {target} (")]
        if dataset.columns:
            columns = ", ".join(f'"{name}" {kind}' for name, kind in dataset.columns.items())
            assert create == f"CREATE TABLE IF NOT EXISTS {target} ( {columns} )"


def test_the_set_up_goes_from_the_schema_to_the_targets(dags: dict[str, DAG]) -> None:
    order = ["create_schemas", "create_stage", "create_ledger", "list_targets", "create_target"]
    set_up = dags["set_up_snowflake"]
    for number, task_id in enumerate(order):
        assert upstream(set_up, task_id) == set(order[:number])
    # A target that another dataset has keeps no other one from being created.
    assert upstream(set_up, "check_targets") == {"create_schemas", "create_stage", "create_ledger"}


# ---- the clean-up


def test_the_clean_up_runs_every_day_and_cleans_up(dags: dict[str, DAG]) -> None:
    dag = dags["clean_up_share"]
    assert dag.tags == {"data-share", "housekeeping"}
    assert dag.schedule == "@daily"
    [task] = dag.tasks
    assert isinstance(task, SnowflakeCleanUpOperator)
