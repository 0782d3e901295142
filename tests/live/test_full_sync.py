"""A whole sync: the real operators, the real trigger, the real export."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from data_share import share
from data_share.snowflake_hook import DataShareSnowflakeHook
from tests.airflow_double import SYNC, DagRun
from tests.live.accounts import Scratch

pytestmark = pytest.mark.live


@pytest.fixture
def target(hook: DataShareSnowflakeHook, scratch: Scratch, stage: str) -> str:
    """The dataset's empty target."""
    dataset = scratch.settings.dataset
    hook.run_statement(f"CREATE TABLE IF NOT EXISTS {dataset.target} ({', '.join(dataset.column_definitions)})")
    return dataset.target


def test_what_was_exported_is_what_is_in_the_target(
    hook: DataShareSnowflakeHook, scratch: Scratch, target: str, begin: Callable[..., DagRun]
) -> None:
    run = begin(requested_by="live test")
    run.run(*SYNC)
    row = run.xcoms["publish", "return_value"]
    assert row["rows_exported"] == row["rows_loaded"] == row["rows_in_target"] > 0
    assert row["export_path"].startswith(scratch.url)
    assert hook.run_statement(f"SELECT COUNT(*) AS total FROM {target}").rows == [{"TOTAL": row["rows_exported"]}]
    assert hook.run_statement(f"SELECT run_key FROM {share.LEDGER_TABLE}").rows == [{"RUN_KEY": run.key}]
    left = [
        r["name"] for r in hook.run_statement(f"SHOW TABLES IN SCHEMA {scratch.schema}").rows if run.key in r["name"]
    ]
    assert left == [], "staging tables"

    again = begin(reload_run_key=run.key, full_refresh=True)
    again.run("export_to_s3", "copy_into_staging", "check_staging", "publish", "finish_sync")
    assert again.xcoms["publish", "return_value"]["rows_in_target"] == row["rows_exported"]
