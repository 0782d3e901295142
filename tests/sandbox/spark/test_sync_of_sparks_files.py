"""A sync of what real Spark exported: its files on S3, loaded, checked and published by the product's own tasks."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from data_share import share as names
from data_share.datasets import Dataset
from tests.sandbox.load.driver import Run, Share
from tests.sandbox.spark.engines import EXPORT_SQL, Engines
from tests.sandbox.spark.kinds import KINDS, ROWS, UTC_MICROSECONDS, Kind, source, spark_types

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox, pytest.mark.spark]

# The stand-in of Snowflake holds a NUMBER(38, 0) in 64 bits; how a VARIANT shows times and bytes is not documented; no
# number of Snowflake has 38 digits behind the point.
NOT_LOADED = {"decimal_38_0", "decimal_38_38", "array_of_arrays", "map_of_times", "array_of_structs"}
LATE = datetime(2026, 7, 1, 23, 30, tzinfo=UTC)
# An instant is INT96 in the files.
INSTANTS = {
    f"timestamp_in_{zone}": Kind("timestamp", UTC_MICROSECONDS, f"TIMESTAMP_{zone.upper()}", (LATE,))
    for zone in ("ltz", "tz", "ntz")
}
LOADED = {name: kind for name, kind in KINDS.items() if kind.snowflake and name not in NOT_LOADED} | INSTANTS
NESTED = {
    "array": [[1, None, 3], [], None, None],
    "map": [{"a": 1.5, "b": None}, {}, None, None],
    "struct": [
        {"x": 1, "odd, name": "ü", "at": "2026-01-02 03:04:05.000006"},
        {"x": None, "odd, name": None, "at": None},
        None,
        None,
    ],
}


@pytest.fixture(scope="module")
def table(engines: Engines) -> str:
    """A source table with a column of each type that Snowflake has a place for."""
    return engines.write_source(source(LOADED), spark_types(LOADED))


def make_dataset(share: Share, table: str, **fields: Any) -> Dataset:
    columns = {"k": "NUMBER(38, 0)"} | {name: kind.snowflake for name, kind in LOADED.items()}
    # A VARIANT need not keep the 20 digits of the decimals in it.
    return share.dataset(columns, source_table=table, casts=("map",), **fields)


def export_on_spark(share: Share, engines: Engines, dataset: Dataset, run: Run) -> list[str]:
    """Export on Spark, put what it left on S3 as it is, and hand it on; return the names of the data directory."""
    run.export_attempt += 1
    path = names.export_path(dataset.name, run.key, run.export_attempt, uuid.uuid4())
    parameters = {"source_table": dataset.source_table, "run_key": run.key, "dataset": dataset.name}
    parameters["proof"] = dataset.proof.value
    export = engines.on_spark(EXPORT_SQL, parameters)
    for directory in ("data", "manifest"):
        for name in export.names(directory):
            share.files.put_file(str(export.folder / directory / name), f"{path}{directory}/{name}")
    share.hand_on(run, path)
    return export.names()


def load(share: Share, run: Run) -> None:
    share.steps(run)
    share.step(run, "drop_staging")


def target(share: Share, dataset: Dataset) -> dict[str, list[str]]:
    """The target by column; texts, because NaN is not NaN, and 0.0 is -0.0."""
    rows = share.target(dataset, "k")
    return {name: [repr(_value(name, row[name])) for row in rows] for name in rows[0]}


def expected() -> dict[str, list[str]]:
    columns = {"k": list(range(ROWS))} | {name: source(LOADED)[name].to_pylist() for name in LOADED} | NESTED
    return {name: [repr(_value(name, value)) for value in values] for name, values in columns.items()}


def _value(name: str, value: Any) -> Any:
    """The same for the same value, whichever side it comes from."""
    if value is None:
        return None
    if name in NESTED:
        return json.loads(value) if isinstance(value, str) else value
    if name == "timestamp_in_ntz":
        return value.replace(tzinfo=None)  # the time in UTC
    if name in ("timestamp", "timestamp_wide", "timestamp_in_ltz", "timestamp_in_tz"):
        return value.astimezone(UTC)
    if name == "binary":
        return value if isinstance(value, str) else value.hex().upper()
    if name.startswith("decimal"):
        return format(Decimal(value), "f")  # the stand-in gives whole numbers as int
    return value


def test_the_target_holds_what_spark_exported(a_share: Share, engines: Engines, table: str) -> None:
    dataset = make_dataset(a_share, table)
    run = a_share.run(dataset)

    success, part = export_on_spark(a_share, engines, dataset, run)
    load(a_share, run)

    assert (success, part.endswith("-c000.snappy.parquet")) == ("_SUCCESS", True)
    assert target(a_share, dataset) == expected()
    row = run.ledger_row
    assert (row["rows_exported"], row["rows_loaded"], row["rows_in_target"]) == (ROWS, ROWS, ROWS)
    [manifest] = a_share.manifests(dataset)
    assert (manifest["RUN_KEY"], manifest["SOURCE_TABLE"], manifest["FILE_COUNT"]) == (run.key, table, 1)


def test_the_target_is_the_same_from_the_stand_ins_files(a_share: Share, table: str) -> None:
    dataset = make_dataset(a_share, table)
    a_share.sync(dataset)
    assert target(a_share, dataset) == expected()


def test_several_files_of_spark_and_the_same_again(a_share: Share, engines: Engines, table: str) -> None:
    dataset = make_dataset(a_share, table)
    first = a_share.run(dataset)
    engines.spark.conf.set("spark.sql.files.maxRecordsPerFile", 1)
    try:
        found = export_on_spark(a_share, engines, dataset, first)
    finally:
        engines.spark.conf.unset("spark.sql.files.maxRecordsPerFile")
    assert len(found) == 1 + ROWS
    load(a_share, first)
    assert target(a_share, dataset) == expected()

    a_share.query(f"DELETE FROM {dataset.target_table}")
    again = a_share.run(dataset, reload_run_key=first.key)
    with pytest.raises(AirflowSkipException, match="is loaded again"):
        a_share.step(again, "export_to_s3")
    load(a_share, again)
    assert target(a_share, dataset) == expected()
    assert again.ledger_row["export_path"] == first.export_path


def test_an_empty_export_of_spark(a_share: Share, engines: Engines) -> None:
    table = engines.write_source(source(LOADED).slice(0, 0), spark_types(LOADED))
    dataset = make_dataset(a_share, table, allow_empty=True)
    run = a_share.run(dataset)
    export_on_spark(a_share, engines, dataset, run)
    load(a_share, run)
    assert a_share.target(dataset, "k") == []
    assert run.ledger_row["rows_loaded"] == 0
