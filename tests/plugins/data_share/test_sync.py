"""What a step knows of its sync: the names of the right dataset and the right run, and what the steps before left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import duckdb
import pytest
import structlog
from airflow.sdk import DAG, BaseOperator

from data_share.datasets import Dataset, LoadMode
from data_share.freshness import in_ledger
from data_share.share import Share, run_key_of
from data_share.sql_files import SQL_FILTERS, SQL_MACROS, render_sql
from data_share.sync import InvalidExportPathError, ResultMissingError, Sync, SyncStep
from tests.airflow_double import DagRun, TaskInstance, rendered
from tests.plugins.data_share.conftest import known_sync, tides

KEY = "20260102T030405_0a1b2c3d"
PARAMS: dict[str, Any] = {
    **dict.fromkeys(("full_refresh", "dry_run", "verify"), False),
    **dict.fromkeys(("reload_run_key", "requested_by")),
}


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


TIDES = dataset("tides")


def test_a_sync_names_the_things_of_one_run(task_context: Callable[..., dict[str, Any]]) -> None:
    context = task_context(try_number=3, conf=PARAMS)
    ti = context["ti"]
    sync = Sync.of(context, TIDES, Share())
    key = run_key_of(context["dag_run"])
    table = Share().staging_table("public.tides_now", key, 3, ti.id)
    assert (sync.key, sync.attempt, sync.run_id) == (key, 3, "manual__o'clock--1")
    assert sync.new_export_path == Share().export_path("tides", key, 3, ti.id)
    assert (sync.new_staging_table, sync.new_staging_manifest) == (table, f"{table}__manifest")
    assert sync.lock_table == Share().lock_table("tides_now")
    assert (sync.started_at, sync.requested_by) == ("2026-01-02 03:04:06.789000", "grace")


def test_the_conf_says_what_kind_of_sync_it_is(task_context: Callable[..., dict[str, Any]]) -> None:
    for conf, kind in (
        ({}, (False, False, "grace")),
        ({"dry_run": True}, (True, False, "grace")),
        ({"reload_run_key": KEY}, (False, True, "grace")),
        ({"requested_by": "ada"}, (False, False, "ada")),
    ):
        sync = Sync.of(task_context(conf={**PARAMS, **conf}), TIDES, Share())
        assert (sync.is_dry_run, sync.is_reload, sync.requested_by) == kind, conf


# ---- what the steps before handed on

BY = {"task_instance_id": "an id", "clear_number": 0}
STARTED = {"run_id": 77, **BY}
EXPORT = {"run_id": 77, "run_page_url": "https://d/run/77", "export_path": f"{Share().url}tides/{KEY}/3-0a1b2c3d/"}
EARLIER = {"run_id": 66, "export_path": f"{Share().url}tides/20250102T030405_ffffffff/1-0a1b2c3d/"}
LOADED = {"export_path": EXPORT["export_path"], **BY}
RELOAD = {**PARAMS, "reload_run_key": "20260101T000000_eeeeeeee"}
RELOADED = {"export_path": EARLIER["export_path"], "databricks_run_id": 66, **BY}


def handed_on(of: Dataset = TIDES, params: dict[str, Any] = PARAMS, clear_number: int = 0, **xcoms: Any) -> Sync:
    """Make a sync that finds these XComs, by task id; what was waited for was started, if nothing is said."""
    keys = {"export_to_s3": "export"}
    xcoms = {"export_to_s3": STARTED, **xcoms}
    left = {(task_id, keys.get(task_id, "return_value")): value for task_id, value in xcoms.items()}
    run = DagRun(dag_id="sync_tides", xcoms=left, clear_number=clear_number)
    return Sync(of, Share(), dag_run=run, ti=TaskInstance(run, "the_task"), params=params)


def test_the_data_are_as_old_as_the_request_of_their_export() -> None:
    requested = {**STARTED, "requested_at": "2026-01-02T03:04:10.000123"}
    assert handed_on(export_to_s3=requested).data_as_of == "2026-01-02T03:04:10.000123"
    # A job that an earlier version has started: the run began before it.
    sync = handed_on()
    assert sync.data_as_of == in_ledger(sync.dag_run.start_date)
    # An earlier export is as old as its sync, not as the one that loads it again.
    assert handed_on(params=RELOAD, copy_into_staging=RELOADED).data_as_of == "2025-01-02T03:04:05"


def test_later_steps_read_the_staging_table_that_the_copy_step_has_filled() -> None:
    # Not one of another attempt: which attempt succeeded last is nothing that a name could say.
    sync = handed_on(copy_into_staging={**LOADED, "staging_table": "staging.tides_now__of_this_attempt"})
    assert sync.staging_table == "staging.tides_now__of_this_attempt"
    assert sync.staging_manifest == "staging.tides_now__of_this_attempt__manifest"


def copied(*columns: str, of: Dataset = TIDES) -> Sync:
    return handed_on(of, copy_into_staging={**LOADED, "columns": list(columns)})


def test_the_export_is_the_one_that_the_sync_waited_for() -> None:
    sync = handed_on(wait_for_export=EXPORT)
    assert sync.export == EXPORT | STARTED
    assert sync.export_path == EXPORT["export_path"]
    assert sync.path_in_stage == f"tides/{KEY}/3-0a1b2c3d/"


def test_the_attempt_in_the_ledger_is_that_of_the_loaded_export() -> None:
    assert handed_on(copy_into_staging=LOADED).export_attempt == 3


def test_the_seconds_of_copy_and_checks_are_added() -> None:
    timed = {**LOADED, "statement_seconds": 1.25}
    checked = {"statement_seconds": 0.5, "clear_number": 0}
    assert handed_on(copy_into_staging=timed, check_staging=checked).statement_seconds == "1.750"
    # Of an earlier version of this package, which told no time; or of a step that a person set to success.
    assert handed_on(copy_into_staging=LOADED, check_staging=checked).statement_seconds == "NULL"
    assert handed_on(copy_into_staging=timed).statement_seconds == "NULL"


def test_a_result_that_is_missing_is_said_to_be() -> None:
    with pytest.raises(ResultMissingError, match="wait_for_export has left no export"):
        _ = handed_on().path_in_stage
    with pytest.raises(ResultMissingError, match="copy_into_staging has left no counts"):
        _ = handed_on().loaded
    with pytest.raises(ResultMissingError, match="wait_for_export has left no export"):
        _ = handed_on(copy_into_staging=LOADED, clear_number=1).loaded


@pytest.mark.parametrize("started", [{**STARTED, "run_id": 78}, None], ids=["another run", "none"])
def test_what_an_earlier_attempt_waited_for_is_not_loaded(started: dict[str, Any] | None) -> None:
    # Airflow keeps what wait_for_export has left: a person who marks it as a success leaves that of the time before.
    for name in ("export", "path_in_stage", "export_path"):
        with pytest.raises(ResultMissingError, match="wait_for_export has left no export"):
            getattr(handed_on(export_to_s3=started, wait_for_export=EXPORT), name)


def test_a_run_whose_starter_was_killed_after_the_start_is_loaded() -> None:
    left = {("export_to_s3", "run_id"): 77, ("wait_for_export", "return_value"): EXPORT}
    run = DagRun(dag_id="sync_tides", xcoms=left)
    assert Sync(TIDES, Share(), dag_run=run, ti=TaskInstance(run, "the_task"), params=PARAMS).export == EXPORT


def test_what_was_copied_of_this_export_counts() -> None:
    counts = {**LOADED, "rows_loaded": 3}
    assert handed_on(wait_for_export=EXPORT, copy_into_staging=counts).loaded == counts
    assert handed_on(wait_for_export=EXPORT, copy_into_staging=counts, clear_number=1).loaded == counts


def test_what_was_copied_of_another_export_does_not_count() -> None:
    # A copy that did not run this time: its rows may even be there still.
    of_another = {**LOADED, "columns": ["A"], "export_path": EARLIER["export_path"]}
    sync = handed_on(wait_for_export=EXPORT, copy_into_staging=of_another, clear_number=1)
    for ask in (lambda: sync.loaded, sync.columns):
        with pytest.raises(ResultMissingError, match=r"has loaded .*ffffffff.*, and the export of this sync is "):
            ask()


def pulls_of(sync: Sync) -> list[tuple[str, str]]:
    """Ask for everything, several times; return which XComs were pulled."""
    pulled = []

    def pull(ti: TaskInstance, task_ids: str, *, key: str = "return_value", **more: Any) -> Any:
        pulled.append((task_ids, key))
        return xcom_pull(ti, task_ids, key=key, **more)

    xcom_pull = TaskInstance.xcom_pull
    with mock.patch.object(TaskInstance, "xcom_pull", autospec=True, side_effect=pull):
        for _ in range(3):
            sync.columns()
            _ = sync.export_attempt
            _ = sync.staging_table
    return pulled


def test_each_value_is_pulled_once_and_the_export_only_where_the_load_is_of_an_earlier_time() -> None:
    loaded = {**LOADED, "columns": ["A"], "staging_table": "staging.t"}
    assert pulls_of(handed_on(wait_for_export=EXPORT, copy_into_staging=loaded)) == [
        ("copy_into_staging", "return_value")
    ]
    cleared = handed_on(wait_for_export=EXPORT, copy_into_staging=loaded, clear_number=1)
    assert pulls_of(cleared) == [
        ("copy_into_staging", "return_value"),
        ("export_to_s3", "export"),
        ("wait_for_export", "return_value"),
    ]
    of_copy = handed_on(wait_for_export=EXPORT)
    with mock.patch.object(TaskInstance, "xcom_pull", autospec=True, side_effect=TaskInstance.xcom_pull) as pulls:
        for _ in range(3):
            _ = of_copy.export_path, of_copy.path_in_stage, of_copy.found_export
    assert pulls.call_count == 2


def test_nothing_is_pulled_before_it_is_asked_for() -> None:
    sync = Sync(TIDES, Share(), dag_run=DagRun(dag_id="sync_tides"), ti=mock.Mock(id=1, try_number=1), params=PARAMS)
    assert sync.key
    assert sync.new_staging_table
    assert sync.lock_table
    sync._ti.xcom_pull.assert_not_called()


def test_the_export_of_a_reload_is_the_earlier_one() -> None:
    asked = []

    def find(run_key: str) -> dict[str, Any]:
        asked.append(run_key)
        return EARLIER

    run = DagRun(dag_id="sync_tides")
    sync = Sync(TIDES, Share(), dag_run=run, ti=TaskInstance(run, "the_task"), params=RELOAD, find_export=find)
    assert sync.export == EARLIER
    assert sync.path_in_stage == "tides/20250102T030405_ffffffff/1-0a1b2c3d/"
    assert asked == [RELOAD["reload_run_key"]]


def test_later_steps_read_the_earlier_export_of_what_the_copy_step_has_left() -> None:
    # Also when the run was cleared since: no earlier export is ever made again.
    for clear_number in (0, 1):
        sync = handed_on(params=RELOAD, copy_into_staging=RELOADED, clear_number=clear_number)
        assert (sync.export_path, sync.export["run_id"]) == (EARLIER["export_path"], 66)
        assert sync.loaded == RELOADED
    with pytest.raises(ResultMissingError, match="copy_into_staging has left no export"):
        _ = handed_on(params=RELOAD).export


def test_the_manifest_has_the_run_key_under_which_the_export_was_made() -> None:
    own = handed_on(wait_for_export=EXPORT)
    assert own.manifest_run_key == own.key
    # The sync that the conf names may have loaded an earlier export itself.
    assert handed_on(params=RELOAD, copy_into_staging=RELOADED).manifest_run_key == "20250102T030405_ffffffff"


@pytest.mark.parametrize("path", [EXPORT["export_path"].replace("tides", "winds"), None], ids=["another", "none"])
def test_an_export_is_located_in_the_stage_only_if_it_is_of_the_dataset(path: str | None) -> None:
    with pytest.raises(InvalidExportPathError, match=r"winds|'None'"):
        _ = handed_on(wait_for_export={**EXPORT, "export_path": path}).path_in_stage


def test_the_advice_for_a_wrong_path_is_that_of_its_sync() -> None:
    winds = dataset("winds")
    with pytest.raises(InvalidExportPathError, match="Deploy the asset bundle again"):
        _ = handed_on(winds, wait_for_export=EXPORT).path_in_stage
    with pytest.raises(InvalidExportPathError, match="start a sync without reload_run_key") as caught:
        _ = handed_on(winds, RELOAD, copy_into_staging=RELOADED).path_in_stage
    assert "Deploy" not in str(caught.value)


# ---- load modes and lists of columns


@pytest.mark.parametrize("mode", list(LoadMode))
def test_a_full_refresh_replaces_whatever_the_load_mode_is(mode: LoadMode) -> None:
    of = dataset("tides", mode)
    assert handed_on(of).load_mode == mode
    assert handed_on(of, {**PARAMS, "full_refresh": True}).load_mode == "replace"
    assert f"{handed_on(of).load_mode}" == mode.value, "templates write its value"


def test_columns_are_those_of_the_staging_table_in_quotes() -> None:
    sync = copied("HARBOUR", "date", "ORDER")
    assert sync.columns() == '"HARBOUR", "date", "ORDER"'
    assert sync.columns("staging") == 'staging."HARBOUR", staging."date", staging."ORDER"'


def test_rows_are_the_same_when_all_keys_are() -> None:
    sync = handed_on(dataset("tides", LoadMode.MERGE, "harbour", "Order"))
    assert sync.keys() == '"HARBOUR", "ORDER"'
    assert sync.same_keys("a", "b") == 'a."HARBOUR" = b."HARBOUR" AND a."ORDER" = b."ORDER"'


def test_an_update_assigns_all_columns_but_the_keys() -> None:
    of = dataset("tides", LoadMode.MERGE, "harbour")
    update = copied("HARBOUR", "DEPTH", "ORDER", of=of).assignments("new")
    assert update == '"DEPTH" = new."DEPTH", "ORDER" = new."ORDER"'
    assert copied("HARBOUR", of=of).assignments("new") == "", "nothing but keys: nothing to update"


def test_values_reach_sql_as_literals() -> None:
    assert SQL_FILTERS["sql_string"]("it's") == "'it''s'"
    drop = render_sql("drop_staging_table", share=Share(), table='a"b')
    assert drop.rstrip().endswith(f'DROP TABLE IF EXISTS {Share().staging_schema}."a""b";')


# ---- a step of a sync


class Step(SyncStep, BaseOperator):
    """The least that a step of a sync is."""

    template_fields = ("text",)

    def __init__(self, *, of: Dataset, text: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dataset, self.share = of, Share()
        self.text = text


def test_each_attempt_of_a_step_has_a_sync_of_its_own_that_its_templates_find() -> None:
    with DAG("sync_tides", schedule=None, user_defined_macros=SQL_MACROS) as dag:
        # Steps made in a loop must not all end up with the last dataset.
        steps = [Step(task_id=name, of=dataset(name), text="{{ sync.dataset.name }}") for name in ("tides", "winds")]
    run = DagRun(dag=dag)
    contexts = [run.context(steps[0], try_number=number) for number in (1, 2)]
    attempts = [rendered(steps[0], context) for context in contexts]
    assert [attempt.sync.attempt for attempt in attempts] == [1, 2]
    assert [rendered(step, run.context(step)).text for step in steps] == ["tides", "winds"]
    assert not hasattr(steps[0], "sync"), "what Airflow keeps of a DAG has no sync"
    assert "sync" not in contexts[0]


def test_each_line_that_a_step_logs_has_its_dataset_and_run_key() -> None:
    with DAG("sync_tides", schedule=None, user_defined_macros=SQL_MACROS) as dag:
        step = Step(task_id="tides", of=dataset("tides"), text="")
    attempt = rendered(step, DagRun(dag=dag).context(step))
    bound = structlog.contextvars.get_contextvars()
    assert (bound["dataset"], bound["run_key"]) == ("tides", attempt.sync.key)


def test_the_example_has_a_value_for_all_that_a_file_may_ask_for() -> None:
    sync = Sync.example()
    names = [name for name, value in vars(Sync).items() if not name.startswith("_") and hasattr(value, "__get__")]
    names.remove("verified")  # an example of a sync, which is no verification
    names.remove("compared")
    missing = [name for name in names if getattr(sync, name) in (None, "")]
    assert missing == ["requested_by", "unchanged"]
    assert (sync.columns("t"), sync.assignments("t")) == ('t."A", t."B"', '"B" = t."B"')


@pytest.mark.parametrize(
    ("load_mode", "export_mode", "versions"),
    [("merge", "feed", [3, 4, 5]), ("merge", "compare", [3, 5]), ("append", "feed", [3]), ("append", "compare", [3])],
)
def test_which_version_of_the_target_an_increment_may_follow(
    load_mode: str, export_mode: str, versions: list[int]
) -> None:
    keys = ("harbour",) if load_mode == "merge" else ()
    dataset = tides(load_mode=load_mode, merge_keys=keys, incremental=True)
    loaded = {"export_mode": export_mode, "from_version": 3, "source_version": 5, "has_deletes": False}
    sync = known_sync(dataset, loaded=loaded)
    assert [version for version in range(8) if sync.may_follow(version)] == versions
    mine = "(SELECT 3 AS from_version, 5 AS source_version, 'a' AS source_table_id)"
    with duckdb.connect() as connection:
        locked = "(SELECT UNNEST(RANGE(8)) AS source_version, 'a' AS source_table_id)"
        rows = connection.sql(
            f"SELECT locked.source_version FROM {locked} AS locked, {mine} AS mine WHERE {sync.follows_condition}"
        )
        assert sorted(version for (version,) in rows.fetchall()) == versions
        others = f"SELECT 1 FROM (SELECT 3 AS source_version, 'b' AS source_table_id) AS locked, {mine} AS mine"
        assert connection.sql(f"{others} WHERE {sync.follows_condition}").fetchall() == []


def test_all_rows_may_follow_any_version_but_not_be_appended_to_others() -> None:
    merge = tides(load_mode="merge", merge_keys=("harbour",), incremental=True)
    append = tides(load_mode="append", incremental=True)
    conditions = {
        (dataset.load_mode.value, full_refresh): known_sync(
            dataset, conf={"full_refresh": full_refresh}, loaded={}
        ).follows_condition
        for dataset in (merge, append)
        for full_refresh in (False, True)
    }
    assert conditions == dict.fromkeys(conditions, "TRUE") | {("append", False): "locked.run_key = ''"}


def test_rows_differ_by_their_stored_values_and_by_all_that_can_be_compared() -> None:
    dataset = tides(load_mode="merge", merge_keys=("harbour",))
    kinds = {"HARBOUR": "VARCHAR", "NOTE": "VARCHAR", "DEPTH": "FLOAT"}
    sync = known_sync(dataset, loaded={"columns": list(kinds), "kinds": kinds, "new_columns": {}})
    assert sync.differs("t", "s") == (
        """COLLATE(t."HARBOUR", '') IS DISTINCT FROM COLLATE(s."HARBOUR", '')"""
        """ OR COLLATE(t."NOTE", '') IS DISTINCT FROM COLLATE(s."NOTE", '') OR t."DEPTH" IS DISTINCT FROM s."DEPTH\""""
    )
    assert sync.assignments("s").startswith('"HARBOUR" = s."HARBOUR", '), (
        "a collation may call other texts the same key"
    )
    numbers = known_sync(dataset, loaded={"columns": list(kinds), "kinds": kinds | {"HARBOUR": "NUMBER"}})
    assert numbers.assignments("s").startswith('"NOTE" = ')
    # A dry run adds no column to the target.
    dry = known_sync(
        dataset,
        conf={"dry_run": True},
        loaded={"columns": list(kinds), "kinds": kinds, "new_columns": {"NOTE": "VARCHAR"}},
    )
    assert ' OR s."NOTE" IS NOT NULL OR ' in dry.differs("t", "s")
    for unknown in ({**kinds, "EXTRA": "VARIANT"}, {**kinds, "EXTRA": "OTHER"}):
        assert (
            known_sync(dataset, loaded={"columns": list(unknown), "kinds": unknown, "new_columns": {}}).differs(
                "t", "s"
            )
            == ""
        )
    # The copy of an earlier version of this package has left no types.
    assert known_sync(dataset, loaded={"columns": list(kinds), "new_columns": {}}).differs("t", "s") == ""
