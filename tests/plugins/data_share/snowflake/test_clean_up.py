from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from data_share import share
from data_share.share import Share
from data_share.snowflake.clean_up import SnowflakeCleanUpOperator
from data_share.snowflake.sql_api import SnowflakeStatementError
from tests.plugins.data_share.conftest import Snowflake
from tests.plugins.data_share.snowflake.examples import EXPORT_PATH, KEY, MakeContext


def staged(days_ago: float, suffix: str = "") -> str:
    """Return the staging table of a run of some days ago, as Snowflake lists it."""
    run_key = share.run_key("sync_tides", "manual__1", datetime.now(UTC) - timedelta(days=days_ago))
    return f"TIDES__{run_key}{suffix}".upper()


def clean_up(
    snowflake: Snowflake,
    task_context: MakeContext,
    tables: list[str],
    created_days_ago: float = 1000,
    answer_tables: bool = True,
) -> dict[str, Any]:
    created = datetime.now(UTC) - timedelta(days=created_days_ago)
    if answer_tables:
        snowflake.answer("SHOW tables", [{"name": name, "rows": 1, "created_on": created} for name in tables])
    task = SnowflakeCleanUpOperator(
        share=Share(), task_id="clean_up", sql="SHOW tables;", select_old_exports="SELECT exports;"
    )
    return task.execute(task_context(task, conf={"keep_days": 7}))  # type: ignore[arg-type]


def dropped(snowflake: Snowflake) -> list[str]:
    return [statement for statement in snowflake.statements if statement.startswith("DROP")]


def test_only_the_staging_tables_of_old_runs_are_dropped(snowflake: Snowflake, task_context: MakeContext) -> None:
    old = [staged(7.1), staged(7.1, "__MANIFEST"), staged(400)]
    young = [staged(6.9), staged(6.9, "__MANIFEST"), staged(0), staged(-1)]
    named_by_no_run = ["TIDES", "BACKUP_2019", f"{staged(400)}__COPY"]
    result = clean_up(snowflake, task_context, [*old, *young, *named_by_no_run])
    assert result["dropped_tables"] == old
    assert dropped(snowflake) == [f'DROP TABLE IF EXISTS staging."{name}"' for name in old]
    assert len(set(snowflake.request_ids)) == len(snowflake.statements) == 5


@pytest.mark.parametrize("missing", ["SHOW tables", "SELECT exports"])
def test_before_the_set_up_there_is_nothing_to_clean_up(
    snowflake: Snowflake, task_context: MakeContext, missing: str
) -> None:
    said = "SQL compilation error: Object 'X' does not exist or not authorized. (code 002003)"
    snowflake.answer(missing, SnowflakeStatementError(said))
    tables = [] if missing == "SHOW tables" else [staged(400)]
    with pytest.raises(AirflowSkipException, match="Nothing is set up yet"):
        clean_up(snowflake, task_context, tables, answer_tables=missing != "SHOW tables")
    assert dropped(snowflake) == []


def test_another_error_of_the_clean_up_is_told(snowflake: Snowflake, task_context: MakeContext) -> None:
    snowflake.answer("SELECT exports", SnowflakeStatementError("No active warehouse selected."))
    with pytest.raises(SnowflakeStatementError, match="No active warehouse"):
        clean_up(snowflake, task_context, [])


def test_an_old_table_that_cannot_be_dropped_keeps_no_other_one_and_is_told(
    snowflake: Snowflake, task_context: MakeContext
) -> None:
    old = [staged(8), staged(9), staged(400)]
    drops = [f'DROP TABLE IF EXISTS staging."{name}"' for name in old]
    for drop in drops[:2]:
        snowflake.answer(drop, SnowflakeStatementError(f"Insufficient privileges: {drop}"))
    with pytest.raises(SnowflakeStatementError, match=drops[0]):
        clean_up(snowflake, task_context, old)
    assert dropped(snowflake) == drops


def test_the_tables_of_an_old_run_that_was_cleared_just_now_stay(
    snowflake: Snowflake, task_context: MakeContext
) -> None:
    assert clean_up(snowflake, task_context, [staged(400)], created_days_ago=0.1)["dropped_tables"] == []
    assert dropped(snowflake) == []


def test_old_exports_are_told_and_nothing_more(snowflake: Snowflake, task_context: MakeContext) -> None:
    snowflake.answer("SELECT exports", [{"DATASET": "tides", "RUN_KEY": KEY, "EXPORT_PATH": EXPORT_PATH}])
    result = clean_up(snowflake, task_context, [])
    assert result == {
        "dropped_tables": [],
        "old_exports": [{"dataset": "tides", "run_key": KEY, "export_path": EXPORT_PATH}],
    }
    assert snowflake.statements == ["SHOW tables", "SELECT exports"]
