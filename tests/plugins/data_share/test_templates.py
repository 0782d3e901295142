"""What templates can use: the names of the right dataset and the right run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from data_share import share
from data_share.datasets import Dataset, LoadMode
from data_share.share import InvalidExportPathError, run_key_of
from data_share.templates import SQL_FILTERS, ResultMissingError, sync_macros
from tests.airflow_double import DagRun, TaskInstance

KEY = "20260102T030405_0a1b2c3d"


def dataset(name: str, load_mode: LoadMode = LoadMode.REPLACE, *merge_keys: str) -> Dataset:
    if load_mode is LoadMode.MERGE:
        merge_keys = merge_keys or ("harbour",)
    return Dataset(
        name=name,
        description="Tides by harbour.",
        source_table=f"main.sea.{name}",
        target_table=f"public.{name}_now",
        load_mode=load_mode,
        merge_keys=merge_keys,
        required_columns=("harbour",),
    )


def test_macros_name_the_things_of_one_run(task_context: Callable[..., dict[str, Any]]) -> None:
    macros = sync_macros(dataset("tides"))
    context = task_context(try_number=3)
    dag_run, ti = context["dag_run"], context["ti"]
    key = run_key_of(dag_run)
    assert macros["run_key"](dag_run) == key
    assert macros["export_path"](dag_run, ti) == share.export_path("tides", key, 3, ti.id)
    table = share.staging_table("public.tides_now", key, 3, ti.id)
    assert macros["new_staging_table"](dag_run, ti) == table
    assert macros["new_staging_manifest"](dag_run, ti) == f"{table}__manifest"
    assert macros["lock_table"] == share.lock_table("tides_now")
    assert macros["share"] is share


def test_each_dataset_keeps_its_own_macros() -> None:
    # Macros made in a loop must not all end up with the last dataset.
    all_macros = [sync_macros(dataset(name)) for name in ("tides", "winds")]
    assert [macros["dataset"].name for macros in all_macros] == ["tides", "winds"]


# ---- what the steps before handed on

STARTED = {"run_id": 77, "task_instance_id": "an id", "clear_number": 0}
EXPORT = {"run_id": 77, "run_page_url": "https://d/run/77", "export_path": f"{share.SHARE_URL}tides/{KEY}/3-0a1b2c3d/"}
EARLIER = {"run_id": 66, "export_path": f"{share.SHARE_URL}tides/20250102T030405_ffffffff/1-0a1b2c3d/"}


def handed_on(**xcoms: Any) -> TaskInstance:
    """Make a task instance that finds these XComs, by task id; what was waited for was started, if nothing is said."""
    keys = {"export_to_s3": "export"}
    xcoms = {"export_to_s3": STARTED, **xcoms}
    left = {(task_id, keys.get(task_id, "return_value")): value for task_id, value in xcoms.items()}
    return TaskInstance(DagRun(dag_id="sync_tides", xcoms=left), "the_task")


def test_later_steps_read_the_staging_table_that_the_copy_step_has_filled() -> None:
    # Not one of another attempt: which attempt succeeded last is nothing that a name could say.
    macros = sync_macros(dataset("tides"))
    ti = handed_on(wait_for_export=EXPORT, copy_into_staging={"staging_table": "staging.tides_now__of_this_attempt"})
    assert macros["staging_table"](ti) == "staging.tides_now__of_this_attempt"
    assert macros["staging_manifest"](ti) == "staging.tides_now__of_this_attempt__manifest"


def test_a_copy_step_that_did_not_say_where_it_loaded_to_is_to_be_repeated() -> None:
    with pytest.raises(ResultMissingError, match="older version") as caught:
        sync_macros(dataset("tides"))["staging_table"](
            handed_on(wait_for_export=EXPORT, copy_into_staging={"rows_loaded": 1})
        )
    assert caught.value.what_to_do == "Clear copy_into_staging and what follows it."


def copied(*columns: str) -> Any:
    return handed_on(wait_for_export=EXPORT, copy_into_staging={"columns": list(columns)})


def test_the_export_is_the_one_that_the_sync_waited_for() -> None:
    macros = sync_macros(dataset("tides"))
    ti = handed_on(wait_for_export=EXPORT)
    assert macros["export"](ti) == EXPORT | STARTED
    assert macros["export_attempt"](ti) == 3
    assert macros["path_in_stage"](ti) == f"tides/{KEY}/3-0a1b2c3d/"


def test_a_result_that_is_missing_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    macros = sync_macros(dataset("tides"))
    with pytest.raises(ResultMissingError, match="wait_for_export has left no export"):
        macros["path_in_stage"](handed_on())
    with pytest.raises(ResultMissingError, match="copy_into_staging has left no counts"):
        macros["copied"](handed_on())
    with pytest.raises(ResultMissingError, match="wait_for_export has left no export"):
        macros["copied"](handed_on(copy_into_staging={"columns": []}))


@pytest.mark.parametrize("started", [{**STARTED, "run_id": 78}, None], ids=["another run", "none"])
def test_what_an_earlier_attempt_waited_for_is_not_loaded(started: dict[str, Any] | None) -> None:
    # Airflow keeps what wait_for_export has left: a person who marks it as a success leaves that of the time before.
    macros = sync_macros(dataset("tides"))
    for name in ("export", "path_in_stage", "export_attempt"):
        with pytest.raises(ResultMissingError, match="wait_for_export has left no export"):
            macros[name](handed_on(export_to_s3=started, wait_for_export=EXPORT))


def test_a_run_that_an_older_version_has_started_is_loaded() -> None:
    macros = sync_macros(dataset("tides"))
    left = {("export_to_s3", "run_id"): 77, ("wait_for_export", "return_value"): EXPORT}
    assert macros["export"](TaskInstance(DagRun(dag_id="sync_tides", xcoms=left), "the_task")) == EXPORT


@pytest.mark.parametrize("path", [EXPORT["export_path"], None], ids=["this export", "of an older version"])
def test_what_was_copied_of_this_export_counts(path: str | None) -> None:
    macros = sync_macros(dataset("tides"))
    counts = {"rows_loaded": 3, **({"export_path": path} if path else {})}
    assert macros["copied"](handed_on(wait_for_export=EXPORT, copy_into_staging=counts)) == counts


def test_what_was_copied_of_another_export_does_not_count() -> None:
    # A copy that did not run this time: its rows may even be there still.
    macros = sync_macros(dataset("tides"))
    ti = handed_on(wait_for_export=EXPORT, copy_into_staging={"columns": ["A"], "export_path": EARLIER["export_path"]})
    for ask in (macros["copied"], macros["columns"]):
        with pytest.raises(ResultMissingError, match=r"has loaded .*ffffffff.*, and the export of this sync is "):
            ask(ti)


def test_an_attempt_asks_once_for_what_it_is_handed() -> None:
    macros = sync_macros(dataset("tides"))
    ti = handed_on(wait_for_export=EXPORT, copy_into_staging={"columns": ["A"], "export_path": EXPORT["export_path"]})
    with mock.patch.object(TaskInstance, "xcom_pull", autospec=True, side_effect=TaskInstance.xcom_pull) as pulls:
        for _ in range(3):
            macros["columns"](ti)
            macros["export_attempt"](ti)
            macros["path_in_stage"](ti)
    assert pulls.call_count == 3
    assert macros["columns"](handed_on(wait_for_export=EXPORT, copy_into_staging={"columns": ["B"]})) == '"B"'


def test_the_export_of_a_reload_is_the_earlier_one() -> None:
    macros = sync_macros(dataset("tides"))
    ti = handed_on(export_to_s3=EARLIER)
    assert macros["export"](ti) == EARLIER
    assert macros["export_attempt"](ti) == 1
    assert macros["path_in_stage"](ti) == "tides/20250102T030405_ffffffff/1-0a1b2c3d/"


def test_the_manifest_has_the_run_key_under_which_the_export_was_made(
    task_context: Callable[..., dict[str, Any]],
) -> None:
    dag_run = task_context()["dag_run"]
    manifest_run_key = sync_macros(dataset("tides"))["manifest_run_key"]
    own = manifest_run_key(handed_on(wait_for_export=EXPORT), dag_run, {"reload_run_key": None})
    assert own == run_key_of(dag_run)
    # The sync that the conf names may have loaded an earlier export itself.
    reloaded = manifest_run_key(
        handed_on(export_to_s3=EARLIER), dag_run, {"reload_run_key": "20260101T000000_eeeeeeee"}
    )
    assert reloaded == "20250102T030405_ffffffff"


@pytest.mark.parametrize("path", [EXPORT["export_path"].replace("tides", "winds"), None], ids=["another", "none"])
def test_an_export_is_located_in_the_stage_only_if_it_is_of_the_dataset(path: str | None) -> None:
    path_in_stage = sync_macros(dataset("tides"))["path_in_stage"]
    with pytest.raises(InvalidExportPathError, match=r"winds|'None'"):
        path_in_stage(handed_on(wait_for_export={**EXPORT, "export_path": path}))


def test_the_advice_for_a_wrong_path_is_that_of_its_sync() -> None:
    path_in_stage = sync_macros(dataset("winds"))["path_in_stage"]
    with pytest.raises(InvalidExportPathError, match="Deploy the asset bundle again"):
        path_in_stage(handed_on(wait_for_export=EXPORT))
    with pytest.raises(InvalidExportPathError, match="start a sync without reload_run_key") as caught:
        path_in_stage(handed_on(export_to_s3=EARLIER))
    assert "Deploy" not in str(caught.value)


# ---- load modes and lists of columns


@pytest.mark.parametrize("mode", list(LoadMode))
def test_a_full_refresh_replaces_whatever_the_load_mode_is(mode: LoadMode) -> None:
    load_mode = sync_macros(dataset("tides", mode))["load_mode"]
    assert load_mode({"full_refresh": False}) == mode
    assert load_mode({"full_refresh": True}) == "replace"
    assert f"{load_mode({'full_refresh': False})}" == mode.value, "templates write its value"


def test_columns_are_those_of_the_staging_table_in_quotes() -> None:
    columns = sync_macros(dataset("tides"))["columns"]
    ti = copied("HARBOUR", "date", "ORDER")
    assert columns(ti) == '"HARBOUR", "date", "ORDER"'
    assert columns(ti, "staging") == 'staging."HARBOUR", staging."date", staging."ORDER"'


def test_rows_are_the_same_when_all_keys_are() -> None:
    macros = sync_macros(dataset("tides", LoadMode.MERGE, "harbour", "Order"))
    assert macros["keys"]() == '"HARBOUR", "ORDER"'
    assert macros["same_keys"]("a", "b") == 'a."HARBOUR" = b."HARBOUR" AND a."ORDER" = b."ORDER"'


def test_an_update_assigns_all_columns_but_the_keys() -> None:
    assignments = sync_macros(dataset("tides", LoadMode.MERGE, "harbour"))["assignments"]
    assert assignments(copied("HARBOUR", "DEPTH", "ORDER"), "new") == '"DEPTH" = new."DEPTH", "ORDER" = new."ORDER"'
    assert assignments(copied("HARBOUR"), "new") == "", "nothing but keys: nothing to update"


def test_values_reach_sql_as_literals() -> None:
    assert SQL_FILTERS["sql_string"]("it's") == "'it''s'"
