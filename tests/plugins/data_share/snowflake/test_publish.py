from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from airflow.sdk import AssetAlias
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.sdk.execution_time.context import OutletEventAccessors

from data_share.outcome.codes import FailureCode
from data_share.share import Share
from data_share.snowflake.policies import RowsHiddenError
from data_share.snowflake.publish import PublishError, SnowflakePublishOperator, SupersededError
from data_share.snowflake.sql_api import SnowflakeStatementError, StatementResult
from data_share.snowflake.target_lock import TargetTakenError
from data_share.steps import EXPORT_TO_S3
from data_share.steps import PUBLISH as PUBLISH_STEP
from data_share.sync import ResultMissingError
from data_share.watermark import DatasetState, Published, Watermark
from tests.plugins.data_share.conftest import REQUESTED_AT, Snowflake, known_sync, tides
from tests.plugins.data_share.snowflake.examples import EXPORT_PATH, KEY, LOCK, MakeContext

LEDGER_ROW = {
    "RUN_KEY": KEY,
    "EXPORT_PATH": EXPORT_PATH,
    "ROWS_LOADED": 5,
    "ROWS_INSERTED": 3,
    "ROWS_UPDATED": 2,
    "ROWS_DELETED": 1,
    "ROWS_IN_TARGET": 40,
    "SHARE_OF_NULLS": Decimal("0.25"),
    "REQUESTED_BY": None,
    "PUBLISHED_AT": datetime(2026, 1, 2, 3, 5),
}
REFUSED_BY_LEDGER = SnowflakeStatementError("Snowflake: NULL result in a non-nullable column (code 100072)")


PUBLISH = "BEGIN TRANSACTION;\nINSERT OVERWRITE INTO tides\nSELECT * FROM staging.tides;\nCOMMIT;\nSELECT published;"
TRANSACTION = "BEGIN TRANSACTION; INSERT OVERWRITE INTO tides SELECT * FROM staging.tides; COMMIT; SELECT published"


def publish_step(
    load_mode: str = "replace", *, conf: dict[str, Any] | None = None, attempt: int = 1, **loaded: Any
) -> SnowflakePublishOperator:
    """Make the publish step as it is after its templates are rendered, for what the steps before have loaded."""
    task = SnowflakePublishOperator(
        share=Share(),
        task_id="publish",
        dataset=tides(load_mode=load_mode),
        sql={
            "publish": f"-- why\n{PUBLISH}",
            "select_lock": "SELECT lock;",
            "select_ledger_row": "SELECT ledger;",
            "count_changes": "-- why\nSELECT changes",
            "show_staging_tables_of_run": "SHOW staging;",
        },
    )
    known = {
        "export_path": EXPORT_PATH,
        "staged_at": "2026-01-02T03:04:30",
        "copy_attempt": 1,
        "new_columns": {},
        "created_columns": {},
    }
    task.sync = known_sync(task.dataset, conf=conf, key=KEY, attempt=attempt, loaded={**known, **loaded})
    return task


@pytest.fixture
def publish() -> SnowflakePublishOperator:
    return publish_step()


@pytest.fixture
def publish_context(task_context: MakeContext) -> MakeContext:
    """Make the context of the publish step, which can tell of assets."""

    def make(task: SnowflakePublishOperator, **changes: Any) -> dict[str, Any]:
        return {**task_context(task, **changes), "outlet_events": OutletEventAccessors()}

    return make


def asset_events(context: dict[str, Any]) -> list[Any]:
    return list(context["outlet_events"][AssetAlias("tides")].asset_alias_events)


def test_publishing_is_one_request_that_answers_with_the_ledger_row(
    snowflake: Snowflake, publish: SnowflakePublishOperator, publish_context: MakeContext
) -> None:
    snowflake.answer("SELECT published", [LEDGER_ROW])
    context = publish_context(publish)
    row = publish.execute(context)  # type: ignore[arg-type]
    assert snowflake.statements == [TRANSACTION]
    assert snowflake.hook.run_statements.call_args.args == (PUBLISH.removesuffix(";").split(";\n"),)
    assert snowflake.hook.run_statements.call_args.kwargs["is_long"], "a kill has to know the handle"
    assert publish.shown_query_id == "query 1", "its link leads to the transaction"
    assert json.loads(json.dumps(row)) == {
        "run_key": KEY,
        "export_path": EXPORT_PATH,
        "rows_loaded": 5,
        "rows_inserted": 3,
        "rows_updated": 2,
        "rows_deleted": 1,
        "rows_in_target": 40,
        "share_of_nulls": 0.25,
        "requested_by": None,
        "published_at": "2026-01-02T03:05:00",
        "data_as_of": REQUESTED_AT,
        "task_instance_id": str(context["ti"].id),
        "clear_number": 0,
    }
    [event] = asset_events(context)
    assert event.extra == {
        "run_key": KEY,
        "rows_inserted": 3,
        "rows_updated": 2,
        "rows_deleted": 1,
        "rows_in_target": 40,
        "rows_loaded": 5,
        **dict.fromkeys(("source_version", "source_committed_at", "export_mode", "export_reason")),
        **dict.fromkeys(("rows_exported", "bytes_exported", "statement_seconds")),
        "data_as_of": REQUESTED_AT,
    }


def test_a_repeated_append_is_as_old_as_the_export_that_was_published(
    snowflake: Snowflake, publish_context: MakeContext
) -> None:
    first = {**LEDGER_ROW, "EXPORT_PATH": EXPORT_PATH.replace("/1-", "/2-"), "STARTED_AT": datetime(2026, 1, 1, 2)}
    snowflake.answer("SELECT ledger", [first])
    publish = publish_step(attempt=2)
    publish.dataset = publish.sync.dataset = tides(load_mode="append")
    context = publish_context(publish)
    assert publish.execute(context)["data_as_of"] == "2026-01-01T02:00:00"  # type: ignore[arg-type]
    assert asset_events(context)[0].extra["data_as_of"] == "2026-01-01T02:00:00"


def test_the_answer_says_that_the_dataset_is_incremental(
    snowflake: Snowflake, publish: SnowflakePublishOperator, publish_context: MakeContext
) -> None:
    snowflake.answer("SELECT published", [LEDGER_ROW])
    assert "incremental" not in publish.execute(publish_context(publish))  # type: ignore[arg-type]
    publish.dataset = tides(load_mode="merge", merge_keys=("harbour",), incremental=True)
    assert publish.execute(publish_context(publish))["incremental"] is True  # type: ignore[arg-type]


def test_an_export_that_is_in_the_ledger_is_told_and_not_published_again(
    snowflake: Snowflake, publish_context: MakeContext
) -> None:
    snowflake.answer("SELECT ledger", [LEDGER_ROW])
    publish = publish_step(attempt=2, new_columns={"SALINITY": "NUMBER(5, 2)"})
    context = publish_context(publish)
    assert publish.execute(context)["rows_loaded"] == 5  # type: ignore[arg-type]
    # The attempt that published may have died before it dropped the staging tables.
    assert snowflake.statements == ["SELECT ledger", "SHOW staging", "SELECT lock"]
    assert snowflake.hook.run_statement.call_args_list[0].kwargs["bindings"] == [KEY]
    # The attempt that published may have died before Airflow knew.
    assert len(asset_events(context)) == 1


LAST = {
    "dataset_digest": "d",
    "rows_digest": "r",
    "source_has_feed": True,
    "target": "snowflake://account/db/public/tides",
    "run_key": "20250102T030405_ffffffff",
    "published_at": "2025-01-02T03:05:00",
    "source_version": 812,
    "source_committed_at": "2025-01-02T02:41:00",
    "table_id": "made once",
    "rows_in_target": 40,
    "columns": ["HARBOUR", "DEPTH"],
}


@pytest.mark.parametrize("dry_run", [False, True])
def test_without_anything_new_the_last_publish_is_told_and_snowflake_is_asked_nothing(
    snowflake: Snowflake, publish_context: MakeContext, dry_run: bool
) -> None:
    publish = publish_step(conf={"dry_run": dry_run})
    publish.sync = known_sync(publish.dataset, conf={"dry_run": dry_run}, key=KEY, unchanged=LAST)
    context = publish_context(publish)
    DatasetState(context, publish.dataset).begin(EXPORT_TO_S3, KEY)
    answer = publish.execute(context)  # type: ignore[arg-type]
    told = ("run_key", "published_at", "source_version", "source_committed_at", "rows_in_target")
    assert {name: answer[name] for name in told} == {name: LAST[name] for name in told}
    assert (answer["unchanged"], answer["dataset"], answer["target_table"]) == (True, "tides", "public.tides")
    # The target has what the source has now, whenever it was published.
    assert answer["data_as_of"] == REQUESTED_AT
    assert answer["task_instance_id"] == str(context["ti"].id)
    assert (snowflake.statements, asset_events(context)) == ([], [])
    # It has ended well: the next sync may rely on the columns that this one asked for.
    assert DatasetState(context, publish.dataset).read() == Watermark(published=Published(**LAST))


def test_a_check_that_a_person_has_skipped_publishes_nothing(
    snowflake: Snowflake, publish: SnowflakePublishOperator, publish_context: MakeContext
) -> None:
    context = publish_context(publish)
    context["dag_run"].states["check_staging"] = "skipped"
    with pytest.raises(ResultMissingError, match=r"check_staging was skipped by a person\. The target is as it was"):
        publish.execute(context)  # type: ignore[arg-type]
    assert snowflake.statements == []


COMMITTED = {
    **LEDGER_ROW,
    "SOURCE_VERSION": 813,
    "SOURCE_COMMITTED_AT": datetime(2026, 1, 2, 3),
    "SOURCE_TABLE_ID": "t",
}


@pytest.mark.parametrize(
    ("row", "conf", "version"),
    [
        (COMMITTED, {}, 813),
        (LEDGER_ROW, {}, None),
        ({**COMMITTED, "SOURCE_VERSION": None}, {}, None),
        # The export of an earlier sync may be of an earlier dataset file.
        (COMMITTED, {"reload_run_key": "20250102T030405_ffffffff"}, None),
    ],
    ids=["a version", "a ledger of an earlier version", "a source without versions", "an earlier export"],
)
def test_what_a_publish_lets_the_next_sync_compare_with(
    snowflake: Snowflake, publish_context: MakeContext, row: dict[str, Any], conf: dict[str, Any], version: int | None
) -> None:
    snowflake.answer("SELECT published", [row])
    publish = publish_step(conf=conf, target_columns=["HARBOUR", "DEPTH"])
    context = publish_context(publish)
    publish.execute(context)  # type: ignore[arg-type]
    known = DatasetState(context, publish.dataset).read()
    assert known.begun_step == ""
    if version is None:
        assert known.published is None
    else:
        assert known.published is not None
        assert (known.published.source_version, known.published.columns) == (version, ("HARBOUR", "DEPTH"))


@pytest.mark.parametrize("is_last", [False, True], ids=["another was published since", "nothing since"])
@pytest.mark.parametrize("looks", [[[LEDGER_ROW]], [[], [LEDGER_ROW]]], ids=["published before", "by another process"])
def test_without_a_commit_of_its_own_a_publish_ends_well_only_if_it_is_the_last(
    snowflake: Snowflake, publish_context: MakeContext, looks: Any, is_last: bool
) -> None:
    snowflake.answer("SELECT ledger", *looks)
    last = {"RUN_KEY": KEY, "EXPORT_PATH": EXPORT_PATH} if is_last else LOCK
    snowflake.answer("SELECT lock", [{**LOCK, **last}])
    snowflake.refusal = REFUSED_BY_LEDGER
    publish = publish_step(attempt=3)
    context = publish_context(publish)
    publish.execute(context)  # type: ignore[arg-type]
    known = DatasetState(context, publish.dataset).read()
    assert (known.begun_step, known.begun_run_key) == (("", "") if is_last else (PUBLISH_STEP.id, KEY))


@pytest.mark.parametrize(
    ("looks", "refusal", "dry_run"),
    [
        ([[]], None, False),
        ([[LEDGER_ROW]], None, False),
        ([[], [LEDGER_ROW]], REFUSED_BY_LEDGER, False),
        ([[]], None, True),
    ],
    ids=["published", "published before", "published by another process", "dry run"],
)
def test_an_answer_says_which_attempt_gave_it(
    snowflake: Snowflake, publish_context: MakeContext, looks: Any, refusal: Exception | None, dry_run: bool
) -> None:
    snowflake.answer("SELECT ledger", *looks)
    snowflake.answer("SELECT published", [LEDGER_ROW])
    snowflake.answer("SELECT changes", [{"ROWS_INSERTED": 3, "ROWS_BEFORE": 7}])
    snowflake.refusal = refusal
    publish = publish_step(conf={"dry_run": dry_run}, attempt=3)
    context = publish_context(publish)
    context["dag_run"].clear_number = 2
    answer = publish.execute(context)  # type: ignore[arg-type]
    assert (answer["task_instance_id"], answer["clear_number"]) == (str(context["ti"].id), 2)
    assert answer["export_path"] == EXPORT_PATH
    assert "rows_before" not in answer


OTHER_EXPORT = {**LEDGER_ROW, "EXPORT_PATH": EXPORT_PATH.replace("/1-", "/0-"), "ROWS_LOADED": 4}


def test_a_target_is_created_before_the_transaction_and_not_in_it(
    snowflake: Snowflake, publish_context: MakeContext
) -> None:
    snowflake.answer("SELECT published", [LEDGER_ROW])
    publish = publish_step(created_columns={"HARBOUR": "VARCHAR", "DEPTH": "FLOAT"})
    publish.execute(publish_context(publish))  # type: ignore[arg-type]
    create = 'CREATE TABLE IF NOT EXISTS "PUBLIC"."TIDES" ("HARBOUR" VARCHAR, "DEPTH" FLOAT)'
    assert snowflake.statements == [create, TRANSACTION]


STAGING_IS_GONE = SnowflakeStatementError("Snowflake: Object 'STAGING.TIDES' does not exist (code 100132)")
NOT_MINE = SnowflakeStatementError("Snowflake: Insufficient privileges to operate on table 'TIDES' (code 100132)")


def test_an_error_after_the_commit_leaves_the_sync_published(
    snowflake: Snowflake, publish_context: MakeContext
) -> None:
    for error, row, is_published in (
        (STAGING_IS_GONE, LEDGER_ROW, True),
        (NOT_MINE, LEDGER_ROW, True),
        (NOT_MINE, OTHER_EXPORT, False),
        (NOT_MINE, None, False),
    ):
        snowflake.answer("SELECT ledger", [row] if row else [])
        snowflake.refusal = error
        publish = publish_step()
        context = publish_context(publish)
        if is_published:
            assert publish.execute(context)["run_key"] == KEY  # type: ignore[arg-type]
            assert "SHOW staging" in snowflake.statements, "what could not be dropped"
        else:
            with pytest.raises(SnowflakeStatementError) as caught:
                publish.execute(context)  # type: ignore[arg-type]
            assert caught.value is error
        assert len(asset_events(context)) == is_published


@pytest.mark.parametrize("copy_attempt", [1, 2, None], ids=["first", "second", "made by an earlier version"])
def test_the_tables_of_earlier_attempts_to_copy_are_dropped_too(
    snowflake: Snowflake, publish_context: MakeContext, copy_attempt: int | None
) -> None:
    snowflake.answer("SELECT published", [LEDGER_ROW])
    earlier = f"TIDES__{KEY.upper()}__1_0A1B2C3D"
    snowflake.answer("SHOW staging", [{"name": earlier}])
    publish = publish_step(copy_attempt=copy_attempt)
    publish.execute(publish_context(publish))  # type: ignore[arg-type]
    dropped = ["SHOW staging", f'DROP TABLE IF EXISTS staging."{earlier}"'] if copy_attempt != 1 else []
    assert snowflake.statements == [TRANSACTION, *dropped]


REFUSALS: dict[str, tuple[str, list[dict[str, Any]], type[Exception], str]] = {
    "a later sync was published": (
        "replace",
        [{**LOCK, "RUN_KEY": "20260102T040000_ffffffff", "STAGED_AT": datetime(2026, 1, 2, 4)}],
        SupersededError,
        r"a sync of tides that was staged later is published already \(run key 20260102T040000_ffffffff\)\.",
    ),
    "the staging tables were changed": (
        "replace",
        [LOCK],
        SupersededError,
        "is not published: its staging tables were changed after they were checked",
    ),
    "perhaps it was appended long ago": (
        "append",
        [LOCK],
        SupersededError,
        "this export was appended before, or its staging tables",
    ),
    "another run has appended it": (
        "append",
        [{**LOCK, "EXPORT_PATH": EXPORT_PATH}],
        SupersededError,
        r"is not published: this export was appended before \(run key 20250102T030405_ffffffff\)\.",
    ),
    "the row of the lock is gone": ("replace", [], SupersededError, "somebody has deleted the target's row"),
    "another dataset has published": (
        "replace",
        [{**LOCK, "DATASET": "another"}],
        TargetTakenError,
        "is the target of the dataset another, whose sync",
    ),
    "it is published, and the ledger does not show it": (
        "replace",
        [{**LOCK, "RUN_KEY": KEY, "EXPORT_PATH": EXPORT_PATH}],
        PublishError,
        "is published, but the ledger has no row of it",
    ),
}
"""By case: the load mode, what the lock says afterwards, and the failure."""


@pytest.mark.parametrize(("load_mode", "locked", "kind", "message"), REFUSALS.values(), ids=REFUSALS)
def test_a_refused_transaction_says_what_it_was_refused_for(
    snowflake: Snowflake,
    publish_context: MakeContext,
    load_mode: str,
    locked: list[dict[str, Any]],
    kind: type[Exception],
    message: str,
) -> None:
    # In these modes, another export of this run is no sign of this one.
    snowflake.answer("SELECT ledger", [OTHER_EXPORT] if load_mode == "replace" and kind is SupersededError else [])
    snowflake.answer("SELECT lock", locked)
    snowflake.refusal = REFUSED_BY_LEDGER
    publish = publish_step(load_mode=load_mode)
    context = publish_context(publish)
    with pytest.raises(kind, match=message) as caught:
        publish.execute(context)  # type: ignore[arg-type]
    # Another attempt would be refused too; only the ledger may be mended.
    assert isinstance(caught.value, AirflowFailException) == (kind is not PublishError)
    assert asset_events(context) == []
    assert snowflake.statements == [TRANSACTION, "SELECT lock", "SELECT ledger"]


def test_a_publish_that_another_process_was_faster_with_is_told_as_its_own(
    snowflake: Snowflake, publish: SnowflakePublishOperator, publish_context: MakeContext
) -> None:
    snowflake.answer("SELECT ledger", [LEDGER_ROW])
    snowflake.answer("SELECT lock", [{**LOCK, "RUN_KEY": KEY, "EXPORT_PATH": EXPORT_PATH}])
    snowflake.refusal = REFUSED_BY_LEDGER
    context = publish_context(publish)
    assert publish.execute(context)["run_key"] == KEY  # type: ignore[arg-type]
    assert len(asset_events(context)) == 1


def test_a_transaction_that_does_not_see_all_rows_is_told_apart(
    snowflake: Snowflake, publish: SnowflakePublishOperator, publish_context: MakeContext
) -> None:
    said = (
        'JavaScript execution error: Uncaught Execution of multiple statements failed on statement "UPDATE x" (at line '
        "1, position 75).\nDML operation to table X failed on column ROWS_AFTER with error: Numeric value 'rows hidden "
        "from the loader: 3, 1200 of 1203' is not recognized in SYSTEM$MULTISTMT"
    )
    snowflake.answer("SELECT ledger", [])
    snowflake.refusal = SnowflakeStatementError(f"Snowflake: {said} (code 100132)")
    with pytest.raises(RowsHiddenError) as caught:
        publish.execute(publish_context(publish))  # type: ignore[arg-type]
    assert "sees 1,200 row(s) in public.tides, where at least 1,203 must be, and does not find 3 of" in str(
        caught.value
    )
    assert caught.value.code is FailureCode.ROWS_HIDDEN
    assert isinstance(caught.value, AirflowFailException), "another attempt would be refused too"


def test_a_transaction_without_a_trace_in_the_ledger_is_an_error_that_may_be_tried_again(
    snowflake: Snowflake, publish: SnowflakePublishOperator, publish_context: MakeContext
) -> None:
    snowflake.answer("SELECT published", [])
    context = publish_context(publish)
    with pytest.raises(PublishError, match=KEY) as caught:
        publish.execute(context)  # type: ignore[arg-type]
    assert isinstance(caught.value, AirflowException)
    assert not isinstance(caught.value, AirflowFailException)
    assert asset_events(context) == []


def test_killing_a_publication_cancels_its_transaction(
    snowflake: Snowflake, publish: SnowflakePublishOperator, publish_context: MakeContext
) -> None:
    snowflake.hook.run_statements.side_effect = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        publish.execute(publish_context(publish))  # type: ignore[arg-type]
    publish.on_kill()
    snowflake.hook.stop.assert_called_once_with()


def test_a_publication_that_is_killed_too_late_says_what_it_published(
    snowflake: Snowflake, publish: SnowflakePublishOperator, publish_context: MakeContext
) -> None:
    """The kill comes before the end of the transaction is heard of, and again while the ledger row is read."""

    def commit(*_: object, **__: object) -> list[str]:
        snowflake.hook.is_stopped = True
        return ["handle"]

    def read(handle: str) -> StatementResult:
        stopped.append(snowflake.hook.is_stopped)
        publish.on_kill()
        return StatementResult(query_id=handle, rows=[LEDGER_ROW])

    stopped: list[bool] = []
    snowflake.hook.run_statements.side_effect = commit
    snowflake.hook.result_of.side_effect = read
    row = publish.execute(publish_context(publish))  # type: ignore[arg-type]
    assert row["run_key"] == KEY
    assert stopped == [False]
    snowflake.hook.stop.assert_not_called()
