"""The first step: a job on Databricks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from unittest import mock

import pytest
from airflow.providers.databricks.hooks.databricks import DatabricksHook
from airflow.providers.databricks.operators.databricks import DatabricksRunNowOperator
from airflow.sdk.exceptions import AirflowSkipException

from data_share.databricks import export as export_module
from data_share.databricks.export import (
    DatabricksExportOperator,
    ExportStoppedError,
    TooManyColumnsError,
    UnknownConfError,
)
from data_share.databricks.follow import cancel_exports_of
from data_share.datasets import Dataset
from data_share.freshness import in_ledger
from data_share.share import Share, run_key_of
from data_share.snowflake.sql_api import DataShareSnowflakeHook, SnowflakeStatementError, StatementResult
from data_share.snowflake.statements import TargetMissingError
from data_share.sync import Sync, VerifyImpossibleError
from data_share.watermark import digests_of
from tests.plugins.data_share.conftest import tides

KEY = "20260102T030405_0a1b2c3d"
FIRST = '{"full_because": "no earlier publish is known"}'


@pytest.fixture
def start_job() -> Iterator[mock.Mock]:
    """Take the place of the provider's step."""
    with mock.patch.object(DatabricksRunNowOperator, "execute", autospec=True, return_value="started") as execute:
        yield execute


@pytest.fixture
def context(task_context: Callable[..., dict[str, Any]]) -> Any:
    return task_context()


def handed_on(context: Any) -> Any:
    return context["dag_run"].xcoms.get((context["ti"].task_id, "export"))


# With this policy, the step does not ask Snowflake for the target's columns.
TIDES = tides(target_table="tides", schema_drift="add_new")


CONF = {"reload_run_key": None, "full_refresh": False, "dry_run": False, "verify": False}


def export(context: Any, **conf: Any) -> DatabricksExportOperator:
    task = DatabricksExportOperator(
        share=Share(),
        task_id="export_to_s3",
        dataset=TIDES,
        job_id=1,
        known_conf=("dry_run", "requested_by"),
    )
    task.sync = Sync.of({**context, "params": {**CONF, **conf}}, TIDES, Share())
    return task


def test_a_sync_starts_the_job(start_job: mock.Mock, context: Any) -> None:
    task = export(context)
    assert task.execute(context) == "started"
    start_job.assert_called_once_with(task, context)


def test_what_was_started_is_handed_on_with_the_attempt_that_started_it(
    databricks: mock.Mock, task_context: Callable[..., dict[str, Any]]
) -> None:
    context = task_context(try_number=2)
    context["dag_run"].clear_number = 1
    task = starting(context)
    before = in_ledger(datetime.now(UTC))
    task.execute(context)  # type: ignore[arg-type]
    told = handed_on(context)
    assert before <= told.pop("requested_at") <= in_ledger(datetime.now(UTC))
    assert told == {
        "run_id": task.run_id,
        "published": None,
        "file": digests_of(task.dataset, task.share),
        "increment": False,
        "follows_failure": False,
        "task_instance_id": str(context["ti"].id),
        "clear_number": 1,
    }


def test_a_sync_that_loads_an_earlier_export_starts_no_job(start_job: mock.Mock, context: Any) -> None:
    with pytest.raises(AirflowSkipException, match=KEY):
        export(context, reload_run_key=KEY).execute(context)
    start_job.assert_not_called()
    assert handed_on(context) is None


@pytest.mark.parametrize("other", [{"full_refresh": True}, {"dry_run": True}, {"reload_run_key": KEY}])
def test_a_verification_asks_for_nothing_else(start_job: mock.Mock, context: Any, other: dict[str, Any]) -> None:
    [name] = other
    with pytest.raises(VerifyImpossibleError, match=f"verify together with {name}: .* Nothing was started") as caught:
        export(context, verify=True, **other).execute(context)
    assert caught.value.what_to_do == "Start the verification with verify: true alone."
    start_job.assert_not_called()
    assert handed_on(context) is None


@pytest.fixture
def cancel_exports(monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    cancel = mock.create_autospec(cancel_exports_of, return_value=[76])
    monkeypatch.setattr(export_module, "cancel_exports_of", cancel)
    return cancel


@pytest.mark.parametrize("trouble", [None, RuntimeError("Databricks is away")])
def test_another_attempt_cancels_what_an_earlier_one_has_started(
    databricks: mock.Mock,
    cancel_exports: mock.Mock,
    task_context: Callable[..., dict[str, Any]],
    trouble: Exception | None,
) -> None:
    cancel_exports.side_effect = trouble
    started = []
    for number in (1, 2):
        context = task_context(try_number=number)
        task = starting(context)
        task.execute(context)
        started.append(task.run_id)
        assert [call.args for call in cancel_exports.call_args_list] == (
            [(databricks, "1", run_key_of(context["dag_run"]))] if number == 2 else []
        )
    assert None not in started


def test_a_conf_that_is_misspelt_starts_nothing(start_job: mock.Mock, context: Any) -> None:
    # Airflow takes it, and the sync would publish.
    context["dag_run"].conf = {"requested_by": "ada", "dryrun": True, "all": 1}
    with pytest.raises(UnknownConfError, match="The conf has 'all', 'dryrun'; a sync knows dry_run, requested_by"):
        export(context).execute(context)
    start_job.assert_not_called()
    # With OpenLineage, Airflow adds this key.
    context["dag_run"].conf = {"dry_run": True, "openlineage": {}}
    export(context).execute(context)
    start_job.assert_called_once()


@pytest.fixture
def databricks(monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    """Take the place of Databricks, which answers each token with its run."""
    hook: mock.Mock = mock.create_autospec(DatabricksHook, instance=True)
    runs: dict[str, int] = {}
    hook.run_now.side_effect = lambda json: runs.setdefault(json["idempotency_token"], 77 + len(runs))
    hook.get_run_page_url.side_effect = "https://databricks.example/run/{}".format
    monkeypatch.setattr(DatabricksRunNowOperator, "_hook", hook)
    return hook


def starting(context: Any, dataset: Dataset = TIDES, **conf: Any) -> DatabricksExportOperator:
    task = DatabricksExportOperator(
        share=Share(),
        task_id="export_to_s3",
        dataset=dataset,
        job_parameters={"kept": "as it was"},
        job_id=1,
        known_conf=(),
        idempotency_token="the attempt",
    )
    task.sync = Sync.of({**context, "params": {**CONF, **conf}}, dataset, Share())
    return task


def test_a_killed_step_cancels_the_run_that_it_has_asked_for_also_without_an_answer(
    databricks: mock.Mock, context: Any
) -> None:
    task = starting(context)
    start = databricks.run_now.side_effect

    def interrupted(json: dict[str, Any]) -> int:
        databricks.run_now.side_effect = start
        task.on_kill()
        return start(json)

    databricks.run_now.side_effect = interrupted
    with pytest.raises(ExportStoppedError):
        task.execute(context)
    first, second = databricks.run_now.call_args_list
    assert first == second
    databricks.cancel_run.assert_called_once_with(77)


def test_a_killed_step_cancels_the_run_that_it_knows(databricks: mock.Mock, context: Any) -> None:
    task = starting(context)
    task.execute(context)
    task.on_kill()
    assert databricks.run_now.call_count == 1
    databricks.cancel_run.assert_called_once_with(77)


def test_a_step_that_is_killed_before_it_begins_starts_no_run(databricks: mock.Mock, context: Any) -> None:
    task = starting(context)
    task.on_kill()
    with pytest.raises(ExportStoppedError):
        task.execute(context)
    assert databricks.mock_calls == []


@pytest.fixture(autouse=True)
def describe(monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    """Take the place of Snowflake, which describes the target."""
    hook: mock.Mock = mock.create_autospec(DataShareSnowflakeHook, instance=True)
    hook.asset_uri.side_effect = "snowflake://account/db/public/{}".format
    hook.split_sql_string.side_effect = DataShareSnowflakeHook.split_sql_string
    monkeypatch.setattr(export_module, "DataShareSnowflakeHook", lambda *_, **__: hook)
    run: mock.Mock = hook.run_statement
    return run


def sent(databricks: mock.Mock, context: Any, dataset: Dataset) -> Any:
    task = starting(context, dataset)
    task.execute(context)
    return databricks.run_now.call_args.args[0]["job_parameters"]


def columns(*names: str) -> StatementResult:
    return StatementResult("query", [{"name": name} for name in names])


CHOICES = [{}, {"exclude": ["ssn"]}, {"columns": ["harbour"]}, {"where": "depth > 0"}]
WIDE = columns(*(f"C{number:0200}" for number in range(60)))


@pytest.mark.parametrize("source", CHOICES)
@pytest.mark.parametrize(("policy", "new"), [("strict", "refused"), ("ignore_new", "left_out")])
def test_the_job_is_told_the_columns_of_the_target(
    databricks: mock.Mock, describe: mock.Mock, context: Any, policy: str, new: str, source: dict[str, Any]
) -> None:
    describe.return_value = columns("HARBOUR", "größe", 'x"y')
    parameters = sent(databricks, context, tides(source=source, schema_drift=policy))
    describe.assert_called_once_with('DESCRIBE TABLE "PUBLIC"."TIDES"')
    told = json.loads(parameters["source"])
    assert (told["known"], told["new"]) == (["GRößE", "HARBOUR", 'X"Y'], new)
    assert told["others"] == ("left_out" if "columns" in source else "kept")
    # A job of an earlier version refuses it: it would export what the target lacks.
    assert parameters["proof"] == "chosen_checksums"
    assert parameters["kept"] == "as it was"


@pytest.mark.parametrize("source", CHOICES)
def test_without_a_target_that_others_create_nothing_is_exported(
    databricks: mock.Mock, describe: mock.Mock, context: Any, source: dict[str, Any]
) -> None:
    describe.side_effect = SnowflakeStatementError("002003: Object 'X' does not exist or not authorized.")
    with pytest.raises(TargetMissingError, match="is missing, or this role may not see it"):
        sent(databricks, context, tides(source=source))
    databricks.run_now.assert_not_called()


@pytest.mark.parametrize("source", CHOICES)
def test_without_the_target_that_this_sync_creates_the_job_is_told_no_columns(
    databricks: mock.Mock, describe: mock.Mock, context: Any, source: dict[str, Any]
) -> None:
    describe.side_effect = SnowflakeStatementError("002003: Object 'X' does not exist or not authorized.")
    dataset = tides(source=source, create_table="from_source")
    told = sent(databricks, context, dataset)
    assert told == {"kept": "as it was", "published": FIRST, **dataset.source_parameters()}
    assert "known" not in told["source"]


@pytest.mark.parametrize("source", CHOICES)
def test_without_an_answer_of_snowflake_nothing_is_exported(
    databricks: mock.Mock, describe: mock.Mock, context: Any, source: dict[str, Any]
) -> None:
    describe.side_effect = RuntimeError("Snowflake is away")
    with pytest.raises(RuntimeError, match="Snowflake is away"):
        sent(databricks, context, tides(source=source))
    databricks.run_now.assert_not_called()


@pytest.mark.parametrize("source", CHOICES[1:])
def test_names_that_are_too_many_for_a_parameter_export_nothing(
    databricks: mock.Mock, describe: mock.Mock, context: Any, source: dict[str, Any]
) -> None:
    describe.return_value = WIDE
    with pytest.raises(TooManyColumnsError, match="of which 10,000 are possible"):
        sent(databricks, context, tides(source=source))
    databricks.run_now.assert_not_called()


def test_without_a_choice_a_wide_target_is_compared_by_the_load(
    databricks: mock.Mock, describe: mock.Mock, context: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    describe.return_value = WIDE
    told = sent(databricks, context, tides())
    assert told == {"kept": "as it was", "published": FIRST, "proof": "checksums", "source": ""}
    logged = capsys.readouterr().out
    assert "60 columns of public.tides make" in logged
    assert "A new column of the source reaches the bucket; the load compares the columns" in logged


@pytest.mark.parametrize("source", CHOICES)
def test_where_every_new_column_may_leave_snowflake_is_not_asked(
    databricks: mock.Mock, describe: mock.Mock, context: Any, source: dict[str, Any]
) -> None:
    sent(databricks, context, tides(source=source, schema_drift="add_new"))
    describe.assert_not_called()
