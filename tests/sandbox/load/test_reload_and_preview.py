"""Loading an earlier export again, and the dry run."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from data_share.dag_defaults import SHARE
from data_share.datasets import Dataset
from data_share.snowflake.load import UnknownRunKeyError
from data_share.snowflake.publish import SupersededError
from tests.examples.express.declared import differences
from tests.sandbox.load.driver import Row, Run, Share

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

MERGE: dict[str, Any] = {"load_mode": "merge", "merge_keys": ("k",)}
FIRST: list[Row] = [{"k": 1, "name": "one", "amount": 1.0}, {"k": 2, "name": "two", "amount": None}]
SECOND: list[Row] = [{"k": 2, "name": "TWO", "amount": 2.0}, {"k": 3, "name": "three", "amount": 3.0}]
CHANGES = ("rows_inserted", "rows_updated", "rows_deleted")


def two_syncs(share: Share, **fields: Any) -> tuple[Dataset, Run]:
    """Sync FIRST, then SECOND; return the dataset and the first run."""
    dataset = share.dataset(**fields)
    share.write(dataset, FIRST)
    first = share.sync(dataset)
    share.write(dataset, SECOND)
    share.sync(dataset)
    return dataset, first


def reload(share: Share, dataset: Dataset, run_key: str, **params: Any) -> Run:
    """Do a sync that loads an earlier export again, its first step included."""
    run = share.run(dataset, reload_run_key=run_key, **params)
    with pytest.raises(AirflowSkipException, match="is loaded again"):
        share.step(run, "export_to_s3")
    return share.sync(dataset, run)


# ---- an earlier export


@pytest.mark.others_nightly
@pytest.mark.parametrize(
    ("fields", "rows"),
    [
        pytest.param({"load_mode": "replace"}, FIRST, id="replace"),
        pytest.param({**MERGE, "delete_missing": True}, FIRST, id="merge, delete missing"),
        pytest.param(MERGE, [*FIRST, SECOND[1]], id="merge"),
    ],
)
def test_an_earlier_export_brings_its_rows_back(a_share: Share, fields: dict[str, Any], rows: list[Row]) -> None:
    dataset, first = two_syncs(a_share, **fields)
    again = reload(a_share, dataset, first.key)
    assert a_share.target(dataset) == rows
    row = again.ledger_row
    assert row["run_key"] == again.key != first.key
    assert (row["export_path"], row["databricks_run_id"]) == (first.export_path, first.ledger_row["databricks_run_id"])
    assert row["rows_in_target"] == len(rows)
    assert len(a_share.ledger(dataset)) == 3
    # The export is still there once, under the sync that made it.
    assert len(a_share.manifests(dataset)) == 2


@pytest.mark.tier("nightly")
def test_a_sync_that_loaded_an_earlier_export_can_itself_be_loaded_again(a_share: Share) -> None:
    dataset, first = two_syncs(a_share)
    again = reload(a_share, dataset, first.key)
    a_share.sync(dataset)
    assert a_share.target(dataset) == SECOND
    third = reload(a_share, dataset, again.key)
    assert a_share.target(dataset) == FIRST
    assert third.ledger_row["export_path"] == first.export_path


def test_an_unknown_run_key_stops_the_sync_before_anything_runs(a_share: Share) -> None:
    dataset, _ = two_syncs(a_share)
    before = a_share.everything(dataset)
    run = a_share.run(dataset, reload_run_key="20200101T000000_00000000")
    with pytest.raises(UnknownRunKeyError, match="20200101T000000_00000000"):
        a_share.step(run, "copy_into_staging")
    assert a_share.everything(dataset) == before
    assert set(run.xcoms) == {("copy_into_staging", "failure")}


def test_the_run_key_of_another_dataset_is_unknown(a_share: Share) -> None:
    _, elsewhere = two_syncs(a_share)
    dataset, _ = two_syncs(a_share)
    with pytest.raises(UnknownRunKeyError):
        a_share.step(a_share.run(dataset, reload_run_key=elsewhere.key), "copy_into_staging")


def test_an_append_does_not_take_an_export_twice_but_a_full_refresh_does(a_share: Share) -> None:
    dataset, first = two_syncs(a_share, load_mode="append")
    before = a_share.everything(dataset)
    with pytest.raises(SupersededError, match="was appended before") as caught:
        reload(a_share, dataset, first.key)
    assert "start the sync with full_refresh: true as well" in caught.value.what_to_do
    assert not caught.value.retriable, "the same sync would be refused again"
    assert a_share.everything(dataset) == before
    row = reload(a_share, dataset, first.key, full_refresh=True).ledger_row
    assert a_share.target(dataset) == FIRST
    assert (row["load_mode"], row["rows_inserted"], row["rows_deleted"]) == ("replace", 2, 4)


# ---- dry run


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"load_mode": "replace"}, id="replace", marks=pytest.mark.tier("nightly")),
        pytest.param({"load_mode": "append"}, id="append", marks=pytest.mark.tier("nightly")),
        pytest.param(MERGE, id="merge", marks=pytest.mark.tier("nightly")),
        pytest.param({**MERGE, "delete_missing": True}, id="merge, delete missing"),
    ],
)
@pytest.mark.parametrize("full_refresh", [False, True], ids=["", "full refresh"])
def test_a_dry_run_changes_nothing_and_says_what_would_change(
    a_share: Share, fields: dict[str, Any], full_refresh: bool
) -> None:
    dataset = a_share.dataset(**fields)
    a_share.write(dataset, FIRST)
    a_share.sync(dataset)
    a_share.write(dataset, [*SECOND, {"k": 4, "name": None, "amount": None}])
    before = a_share.everything(dataset)
    preview = a_share.sync(dataset, dry_run=True, full_refresh=full_refresh)
    assert a_share.everything(dataset) == before
    assert preview.asset_events == []
    told = preview.ledger_row
    assert told["dry_run"] is True
    assert differences("DryRun", told) == []
    real = a_share.sync(dataset, full_refresh=full_refresh).ledger_row
    assert [told[name] for name in CHANGES] == [real[name] for name in CHANGES]
    assert told["load_mode"] == real["load_mode"]
    assert sum(told[name] for name in CHANGES) > 0


def test_a_dry_run_leaves_no_table_and_adds_no_column(a_share: Share) -> None:
    dataset = a_share.dataset({"k": "NUMBER(38, 0)"}, schema_drift="add_new")
    a_share.write(dataset, FIRST)
    run = a_share.sync(dataset, dry_run=True)
    assert a_share.query(f"SELECT * FROM {dataset.target_table}") == []
    assert len(a_share.query(f"DESCRIBE TABLE {dataset.target_table}")) == 1
    staged = [row["name"] for row in a_share.query(f"SHOW TABLES IN SCHEMA {SHARE.staging_schema}")]
    assert not [name for name in staged if run.key.upper() in name]


def test_a_dry_run_runs_the_checks(a_share: Share) -> None:
    dataset = a_share.dataset(checks={"few": "k < 2"})
    a_share.write(dataset, FIRST)
    with pytest.raises(Exception, match="- few: k < 2"):
        a_share.sync(dataset, dry_run=True)


# ---- who asked

# Two of a hundred characters: what could end a literal, a statement or a template, and letters of several scripts.
UGLY_NAMES = [
    "O'Brien''; DROP TABLE x; -- // /* {{ 7 * 7 }} {% raw %} <b> $$ ? :1 \\' \\\\ \\n José Ὑπατία 山田 👩\u200d💻 \\",
    "'",
]


@pytest.mark.parametrize("name", UGLY_NAMES)
def test_who_asked_is_in_the_ledger_as_it_was_written(a_share: Share, name: str) -> None:
    dataset = a_share.dataset()
    a_share.write(dataset, FIRST)
    assert len(name) <= 100
    a_share.sync(dataset, requested_by=name)
    assert [row["REQUESTED_BY"] for row in a_share.ledger(dataset)] == [name]
    assert a_share.target(dataset) == FIRST
