"""Values: what a source table of Databricks holds is what the target in Snowflake holds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from data_share.datasets import Dataset
from data_share.snowflake.sql_api import DataShareSnowflakeHook
from tests.airflow_double import SYNC, DagRun
from tests.live.accounts import Scratch
from tests.sandbox.kinds import LOADED, ROWS, differences, source

pytestmark = [pytest.mark.live, pytest.mark.tier("nightly")]

# A Delta table takes no comma in the name of a field.
KINDS = {name: kind for name, kind in LOADED.items() if "`" not in kind.spark}
LATE = datetime(2026, 7, 1, 23, 30, tzinfo=UTC)


@pytest.fixture
def sync(
    hook: DataShareSnowflakeHook, scratch: Scratch, stage: str, begin: Callable[..., DagRun]
) -> Callable[..., DagRun]:
    """Sync rows into a new target with these columns."""

    def start(name: str, content: pa.Table, columns: dict[str, str], **fields: Any) -> DagRun:
        dataset = Dataset.model_validate(
            {
                "name": name,
                "description": "Made by a test.",
                "source_table": scratch.make_source(content),
                "target_table": name,
                "load_mode": "replace",
                "required_columns": ("k",),
                **fields,
            }
        )
        listed = ", ".join(f'"{column.upper()}" {kind}' for column, kind in columns.items())
        hook.run_statement(f"CREATE TABLE {dataset.target} ({listed})")
        run = begin(dataset)
        run.run(*SYNC)
        return run

    return start


@pytest.mark.assumption("time_zone")
def test_an_instant_late_in_the_evening_is_the_same_instant(
    hook: DataShareSnowflakeHook, sync: Callable[..., DagRun], answer: Callable[[object], None]
) -> None:
    instants = pa.array([LATE], pa.timestamp("us", "UTC"))
    columns = {"ltz": "TIMESTAMP_LTZ", "tz": "TIMESTAMP_TZ", "ntz": "TIMESTAMP_NTZ"}
    sync("evening", pa.table({"k": [1], **dict.fromkeys(columns, instants)}), {"k": "NUMBER(38, 0)", **columns})
    # As numbers: so it does not matter how a time is shown.
    epochs = ", ".join(f"DATE_PART(EPOCH_SECOND, {name}) AS {name}" for name in columns)
    [row] = hook.run_statement(f"SELECT {epochs} FROM evening").rows
    hours_off = {name.lower(): (int(epoch) - int(LATE.timestamp())) / 3600 for name, epoch in row.items()}
    answer(f"hours off: {hours_off}")
    assert set(hours_off.values()) == {0.0}


@pytest.mark.assumption("all_types")
def test_a_value_of_each_type_arrives_as_it_was(
    hook: DataShareSnowflakeHook, sync: Callable[..., DagRun], answer: Callable[[object], None]
) -> None:
    columns = {"k": "NUMBER(38, 0)"} | {name: kind.snowflake for name, kind in KINDS.items()}
    sync("every_type", source(KINDS), columns)
    loaded = hook.run_statement("SELECT * FROM every_type ORDER BY k").rows
    changed = differences([{name.lower(): value for name, value in row.items()} for row in loaded], KINDS)
    answer(f"{len(KINDS)} columns, {ROWS} rows: {len(changed)} value(s) differ. {' '.join(changed[:10])}")
    assert changed == []


@pytest.mark.assumption("empty_table")
def test_an_empty_table_leaves_a_file_with_its_columns(
    hook: DataShareSnowflakeHook, scratch: Scratch, sync: Callable[..., DagRun], answer: Callable[[object], None]
) -> None:
    nothing = pa.table({"k": pa.array([], pa.int64()), "name": pa.array([], pa.string())})
    run = sync("nothing", nothing, {"k": "NUMBER(38, 0)", "name": "VARCHAR"}, allow_empty=True)
    export = run.xcoms["wait_for_export", "return_value"]
    files = scratch.files().find(f"{export['export_path']}data/")
    answer(f"{sum(path.endswith('.parquet') for path in files)} Parquet file(s) of {len(files)}")
    assert any(path.endswith(".parquet") for path in files)
    assert run.xcoms["publish", "return_value"]["rows_in_target"] == 0
