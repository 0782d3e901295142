"""A sync of what real Spark exported: its files on S3, loaded, checked and published by the product's own tasks."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from data_share.dag_defaults import SHARE
from data_share.datasets import Dataset
from data_share.snowflake.schema_drift import TypesLoseValuesError
from tests.sandbox.kinds import LOADED, NESTED, ROWS, differences, source, spark_types
from tests.sandbox.load.driver import Run, Share, unproven
from tests.sandbox.spark.engines import EXPORT_SQL, Engines

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox, pytest.mark.spark]


@pytest.fixture(scope="module")
def table(engines: Engines) -> str:
    """A source table with a column of each type that Snowflake has a place for."""
    return engines.write_source(source(LOADED), spark_types(LOADED))


def make_dataset(share: Share, table: str, **fields: Any) -> Dataset:
    columns = {"k": "NUMBER(38, 0)"} | {name: kind.snowflake for name, kind in LOADED.items()}
    return share.dataset(columns, source_table=table, **fields)


def export_on_spark(share: Share, engines: Engines, dataset: Dataset, run: Run) -> list[str]:
    """Export on Spark, put what it left on S3 as it is, and hand it on; return the names of the data directory."""
    run.export_attempt += 1
    path = SHARE.export_path(dataset.name, run.key, run.export_attempt, uuid.uuid4())
    parameters = {"source_table": dataset.source_table, "run_key": run.key, "dataset": dataset.name}
    parameters |= dataset.source_parameters()
    export = engines.on_spark(EXPORT_SQL, parameters)
    for directory in ("data", "manifest"):
        for name in export.names(directory):
            share.files.put_file(str(export.folder / directory / name), f"{path}{directory}/{name}")
    share.hand_on(run, path)
    return export.names()


def load(share: Share, run: Run) -> None:
    share.steps(run)
    share.step(run, "finish_sync")


@pytest.mark.parametrize("mode", ["replace", "append", "merge"])
def test_the_target_holds_what_spark_exported(a_share: Share, engines: Engines, table: str, mode: str) -> None:
    keys = {"merge_keys": ("k",)} if mode == "merge" else {}
    dataset = make_dataset(a_share, table, load_mode=mode, **keys)
    run = a_share.run(dataset)

    success, part = export_on_spark(a_share, engines, dataset, run)
    load(a_share, run)

    assert (success, part.endswith("-c000.snappy.parquet")) == ("_SUCCESS", True)
    assert unproven(run) == NESTED
    assert differences(a_share.target(dataset, "k")) == []
    row = run.ledger_row
    assert (row["rows_exported"], row["rows_loaded"], row["rows_in_target"]) == (ROWS, ROWS, ROWS)
    [manifest] = a_share.manifests(dataset)
    assert (manifest["RUN_KEY"], manifest["SOURCE_TABLE"], manifest["FILE_COUNT"]) == (run.key, table, 1)


def test_several_files_of_spark_and_the_same_again(a_share: Share, engines: Engines, table: str) -> None:
    dataset = make_dataset(a_share, table)
    first = a_share.run(dataset)
    engines.spark.conf.set("spark.sql.files.maxRecordsPerFile", ROWS - 1)
    try:
        found = export_on_spark(a_share, engines, dataset, first)
    finally:
        engines.spark.conf.unset("spark.sql.files.maxRecordsPerFile")
    assert len(found) == 1 + 2
    load(a_share, first)
    assert differences(a_share.target(dataset, "k")) == []

    a_share.query(f"DELETE FROM {dataset.target_table}")
    again = a_share.run(dataset, reload_run_key=first.key)
    with pytest.raises(AirflowSkipException, match="is loaded again"):
        a_share.step(again, "export_to_s3")
    load(a_share, again)
    assert differences(a_share.target(dataset, "k")) == []
    assert again.ledger_row["export_path"] == first.export_path


def test_types_without_a_counterpart_are_refused_and_say_why(a_share: Share, engines: Engines) -> None:
    """A Delta table has no intervals; a view may have them."""
    in_months, as_bytes = "without the unit", "does not read as a VARIANT"
    columns = {
        "years": ("INTERVAL '1-2' YEAR TO MONTH", "interval year to month", "VARCHAR", in_months),
        "days": ("INTERVAL '1 02:03:04.000005' DAY TO SECOND", "interval day to second", "NUMBER(38, 0)", in_months),
        "json": ("PARSE_JSON('{\"a\": 1}')", "variant", "VARIANT", as_bytes),
        "fraction": ("CAST('0.1' AS DECIMAL(38, 38))", "decimal(38,38)", "NUMBER(38, 37)", "are rounded away"),
        "parts": ("ARRAY(CAST('x' AS BINARY))", "array<binary>", "VARIANT", "does not document how COPY"),
        "longs": ("MAP('a', CAST(1 AS DECIMAL(38, 9)))", "map<string,decimal(38,9)>", "VARIANT", "a binary number"),
    }
    listed = ", ".join(f"{value} AS {name}" for name, (value, *_) in columns.items())
    engines.spark.sql(f"CREATE OR REPLACE VIEW spark_catalog.load.odd AS SELECT 1L AS k, NULL AS nothing, {listed}")
    targets = {"k": "NUMBER(38, 0)", "nothing": "VARCHAR"} | {
        name: target for name, (_, _, target, _) in columns.items()
    }
    dataset = a_share.dataset(targets, source_table="spark_catalog.load.odd")
    run = a_share.run(dataset)
    export_on_spark(a_share, engines, dataset, run)
    with pytest.raises(TypesLoseValuesError, match=rf"Values of {len(columns)} column\(s\) could change") as caught:
        a_share.step(run, "copy_into_staging")
    for name, (_, kind, _, reason) in columns.items():
        assert re.search(rf"- {name.upper()}: {re.escape(kind)} into .*{reason}", str(caught.value)), str(caught.value)
    assert a_share.target(dataset, "k") == []


def test_an_empty_export_of_spark(a_share: Share, engines: Engines) -> None:
    table = engines.write_source(source(LOADED).slice(0, 0), spark_types(LOADED))
    dataset = make_dataset(a_share, table, allow_empty=True)
    run = a_share.run(dataset)
    export_on_spark(a_share, engines, dataset, run)
    load(a_share, run)
    assert a_share.target(dataset, "k") == []
    assert run.ledger_row["rows_loaded"] == 0
