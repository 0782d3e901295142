"""The DAG that creates the targets, and syncs of targets that somebody else has made, or nobody."""

from __future__ import annotations

import importlib.util
from typing import Any
from unittest import mock

import pytest
from airflow.sdk import DAG

import data_share
from data_share import dataset_files
from data_share.datasets import Dataset
from data_share.outcome.codes import FailureCode
from data_share.snowflake.sql_api import SnowflakeStatementError
from data_share.snowflake.statements import TargetMissingError
from sandbox.settings import PROJECT
from tests.airflow_double import DagRun
from tests.sandbox.load.conftest import set_up_statements
from tests.sandbox.load.driver import Share

pytestmark = pytest.mark.sandbox

ROWS = [{"k": 1, "name": "one", "amount": 1.0}]


def set_up_dag(*known: Dataset) -> DAG:
    """Make the DAG as it is when these are all the datasets."""
    spec = importlib.util.spec_from_file_location("set_up_snowflake", PROJECT / "dags" / "set_up_snowflake.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(dataset_files, "read_datasets", return_value=(list(known), [])):
        spec.loader.exec_module(module)
    dag: DAG = module.dag
    return dag


def from_columns(share: Share, **fields: Any) -> Dataset:
    columns = {"k": "NUMBER(38, 0) NOT NULL", "n": "VARCHAR"}
    # Of such a dataset, the test's share makes no target.
    dataset = share.dataset(create_table="from_source", **fields)
    return share.edit(dataset, create_table="from_columns", columns=columns)


def test_a_target_that_cannot_be_created_keeps_no_other_from_it(a_share: Share) -> None:
    made = [from_columns(a_share), from_columns(a_share, target_table="nowhere.sales"), from_columns(a_share)]
    run = DagRun(dag=set_up_dag(*made))

    run.run("list_targets")
    with pytest.raises(SnowflakeStatementError, match="NOWHERE"):
        run.run("create_target")

    for dataset in (made[0], made[2]):
        described = a_share.query(f"DESCRIBE TABLE {dataset.target}")
        assert [(row["name"], row["null?"]) for row in described] == [("K", "N"), ("N", "Y")]


def test_each_target_is_told_by_its_name(a_share: Share) -> None:
    dataset = from_columns(a_share)
    run = DagRun(dag=set_up_dag(dataset))
    run.run("list_targets")
    instances = run.instances("create_target")
    names = [task.render_template(task.map_index_template, context) for task, context in instances]
    assert names == ["targets/shared_forecasts.sql", dataset.name]
    assert f"CREATE TABLE IF NOT EXISTS {dataset.target} (" in instances[-1][0].sql


def test_a_clustered_target_is_synced(a_share: Share) -> None:
    dataset = a_share.dataset()
    columns = "k NUMBER(38, 0), name VARCHAR, amount DOUBLE"
    a_share.query(f"CREATE OR REPLACE TABLE {dataset.target} ({columns}) CLUSTER BY (k)")
    a_share.write(dataset, ROWS)
    a_share.sync(dataset)
    assert a_share.target(dataset) == ROWS


def test_a_target_that_nobody_has_created_says_what_to_run(a_share: Share) -> None:
    dataset = a_share.dataset()
    a_share.query(f"DROP TABLE {dataset.target}")
    a_share.write(dataset, ROWS)
    with pytest.raises(TargetMissingError) as caught:
        a_share.sync(dataset)
    assert caught.value.code is FailureCode.TARGET_MISSING
    assert caught.value.what_to_do.startswith("Run the DAG set_up_snowflake")


@pytest.mark.tier("full")
def test_the_ledger_says_what_a_sync_has_cost_as_soon_as_it_has_the_columns(a_share: Share) -> None:
    names = a_share.names
    a_share.query(f"ALTER TABLE {names.ledger_table} DROP COLUMN statement_seconds")
    for table in (names.ledger_table, names.manifest_table):
        a_share.query(f"ALTER TABLE {table} DROP COLUMN bytes_exported")
    dataset = a_share.dataset()
    a_share.write(dataset, ROWS)
    # Until the set-up runs, syncs work, and the ledger does not say it.
    assert not {"bytes_exported", "statement_seconds"} & set(a_share.sync(dataset).ledger_row)
    a_share.set_up(list(set_up_statements("create_ledger")))
    a_share.write(dataset, [*ROWS, {"k": 2, "name": "two", "amount": 2.0}])
    row = a_share.sync(dataset).ledger_row
    written = [a_share.files.size(file) for file in a_share.files.find(f"{row['export_path']}data/")]
    assert row["bytes_exported"] == sum(size for size in written if size > 100) > 0
    assert 0 < row["statement_seconds"] < 60
    [first, last] = sorted(a_share.manifests(dataset), key=lambda manifest: manifest["STAGED_AT"])
    assert (first["BYTES_EXPORTED"], last["BYTES_EXPORTED"]) == (None, row["bytes_exported"])


@pytest.mark.tier("full")
def test_the_ledger_of_an_earlier_version_gets_the_version_of_the_package(a_share: Share) -> None:
    a_share.query(f"ALTER TABLE {a_share.names.ledger_table} DROP COLUMN package_version")
    dataset = a_share.dataset()
    a_share.write(dataset, [{"k": 1, "name": "a", "amount": 1.0}])
    # Until the set-up runs, syncs work, and the ledger does not say by which version.
    assert "package_version" not in a_share.sync(dataset).ledger_row
    a_share.set_up(list(set_up_statements("create_ledger")))
    assert a_share.sync(dataset).ledger_row["package_version"] == data_share.__version__
    assert {row["PACKAGE_VERSION"] for row in a_share.ledger(dataset)} == {None, data_share.__version__}
