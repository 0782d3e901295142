"""Syncs of chosen columns: what is in the bucket afterwards, and in the target."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_share.datasets import Dataset
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError
from data_share.snowflake.schema_drift import SchemaDriftError
from tests.sandbox.load.conftest import set_up_statements
from tests.sandbox.load.driver import Row, Run, Share

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

SCHEMA = pa.schema({"k": pa.int64(), "Ssn": pa.string(), "amount": pa.float64()})
ROWS: list[Row] = [{"k": 1, "Ssn": "123-45", "amount": 1.5}, {"k": 2, "Ssn": None, "amount": 2.5}]
CHOICE: dict[str, Any] = {"columns": ["k", "ssn"], "rename": {"ssn": "person"}, "hash": ["ssn"]}

CHOSEN = ("source_choice", "source_condition")


def in_the_bucket(share: Share, run: Run) -> tuple[set[str], bytes]:
    """The columns of the files of an export, and all bytes of these files, unpacked."""
    share.files.invalidate_cache()
    columns, values = set(), b""
    for path in share.files.find(run.export_path):
        if path.endswith(".parquet") and "/data/" in path:
            table = pq.read_table(share.files.open(path))
            columns |= set(table.column_names)
            values += json.dumps(table.to_pylist(), default=str).encode()
    return columns, values


@pytest.mark.others_nightly
@pytest.mark.parametrize("mode", ["replace", "append", "merge"])
def test_a_sync_of_hashed_and_renamed_columns(a_share: Share, mode: str) -> None:
    keys = {"merge_keys": ("person",)} if mode == "merge" else {}
    dataset = a_share.dataset(
        {"k": "NUMBER(38, 0)", "person": "VARCHAR"},
        load_mode=mode,
        source=CHOICE,
        checks={"a_hash": "LENGTH(person) = 64"},
        required_columns=("person",),
        **keys,
    )
    a_share.write(dataset, ROWS[:1], SCHEMA)
    run = a_share.sync(dataset)
    columns, values = in_the_bucket(a_share, run)
    assert columns == {"k", "person"}
    assert b"123-45" not in values
    [row] = a_share.target(dataset, "k")
    assert row == {"k": 1, "person": json.loads(values)[0]["person"]}
    # Proven like any other column: by the checksum of the text in the file.
    assert run.xcoms["copy_into_staging", "return_value"]["unproven"] == {}
    # The same value has the same hash in the next export.
    a_share.write(dataset, [{**ROWS[0], "k": 7}], SCHEMA)
    a_share.sync(dataset)
    assert {row["person"] for row in a_share.target(dataset, "k")} == {row["person"]}
    assert len(a_share.target(dataset, "k")) == (2 if mode == "append" else 1)


def test_only_rows_of_the_condition_are_in_the_bucket(a_share: Share) -> None:
    dataset = a_share.dataset(load_mode="merge", merge_keys=("k",), source={"where": "name <> 'it\\'s' AND amount > 1"})
    rows = [{"k": number, "name": name, "amount": 2.0} for number, name in enumerate(("it's", "two", "three"))]
    a_share.write(dataset, rows)
    run = a_share.sync(dataset)
    assert b"it's" not in in_the_bucket(a_share, run)[1]
    assert a_share.target(dataset) == rows[1:]
    assert run.ledger_row["rows_exported"] == 2
    [manifest], [ledger] = a_share.manifests(dataset), a_share.ledger(dataset)
    for row in (manifest, ledger, {name.upper(): value for name, value in run.ledger_row.items()}):
        assert row["SOURCE_CONDITION"] == dataset.source.where
        assert json.loads(row["SOURCE_CHOICE"])["where"] == dataset.source.where_digest
    # What the export has is recorded, not what the dataset file says when it is loaded again.
    edited = a_share.edit(dataset, source={}, load_mode="replace", merge_keys=())
    assert a_share.sync(edited, reload_run_key=run.key).ledger_row["source_condition"] == dataset.source.where
    whole = a_share.sync(edited).ledger_row
    # Without the columns of the target, which the job was told too.
    assert json.loads(whole["source_choice"]) == {"columns": [], "others": "kept"}
    assert whole["source_condition"] == ""


@pytest.mark.others_nightly
@pytest.mark.parametrize("lacking", [("ledger",), ("manifest",), ("ledger", "manifest")], ids=" and ".join)
def test_tables_of_an_earlier_version_lack_the_choice_until_the_set_up_adds_it(
    a_share: Share, lacking: tuple[str, ...]
) -> None:
    """Syncs work with them, one too that waits for its publish while the set-up runs, and the set-up changes no row."""
    for table in lacking:
        for column in CHOSEN:
            a_share.query(f"ALTER TABLE {getattr(a_share.names, f'{table}_table')} DROP COLUMN {column}")
    dataset = a_share.dataset({"k": "NUMBER(38, 0)", "person": "VARCHAR"}, load_mode="append", source=CHOICE)
    a_share.write(dataset, ROWS, SCHEMA)
    before = a_share.sync(dataset)
    waiting = a_share.staged(dataset)
    found = a_share.ledger(dataset)
    a_share.set_up(list(set_up_statements("create_ledger")))
    assert a_share.ledger(dataset) == [{**row, **dict.fromkeys(map(str.upper, CHOSEN))} for row in found]
    a_share.step(waiting, "publish")
    after = a_share.sync(dataset)
    assert len(a_share.target(dataset, "k")) == 6
    # The table of its manifest was made before the set-up, like that of the manifests.
    are_recorded = {before.key: False, waiting.key: "manifest" not in lacking, after.key: True}
    for rows in (a_share.ledger(dataset), a_share.manifests(dataset)):
        assert {row["RUN_KEY"]: row["SOURCE_CHOICE"] is not None for row in rows} == are_recorded
    assert {column["alias"] for column in json.loads(after.ledger_row["source_choice"])["columns"]} == {"k", "person"}
    assert before.ledger_row.get("source_choice") is None


def test_the_target_does_not_change_before_the_columns_are_known_to_be_missing(a_share: Share) -> None:
    dataset = a_share.dataset()
    a_share.write(dataset, [{"k": 1, "name": "a", "amount": 1.0}])
    a_share.query(f"ALTER TABLE {a_share.names.ledger_table} DROP COLUMN source_condition")
    changed: list[bool] = []

    def look(call: dict[str, Any]) -> None:
        if "COMMIT" in str(call.get("json")):
            changed.append(bool(a_share.query(f"SELECT * FROM {dataset.target}")))

    try:
        run = a_share.staged(dataset)
        a_share.step(run, "publish", before=look)
        # The second request comes after the lock table has its columns, the third is without them. Before it, the
        # others have changed nothing.
        assert changed == [False, False, False]
        changed.clear()
    finally:
        a_share.set_up(list(set_up_statements("create_ledger")))
    a_share.step(a_share.staged(dataset), "publish", before=look)
    assert changed == [True], "with the columns, there is one request"


def test_null_stays_null(a_share: Share) -> None:
    dataset = a_share.dataset({"k": "NUMBER(38, 0)", "person": "VARCHAR"}, source=CHOICE)
    a_share.write(dataset, ROWS, SCHEMA)
    a_share.sync(dataset)
    assert [row["person"] is None for row in a_share.target(dataset, "k")] == [False, True]


def test_the_first_sync_creates_the_target_with_what_leaves(a_share: Share) -> None:
    dataset = a_share.dataset(
        create_table="from_source", source={"exclude": ["SSN"], "rename": {"amount": "Net price"}}
    )
    a_share.write(dataset, ROWS, SCHEMA)
    run = a_share.sync(dataset)
    assert in_the_bucket(a_share, run)[0] == {"k", "Net price"}
    assert [row["name"] for row in a_share.query(f"DESCRIBE TABLE {dataset.target}")] == ["K", "Net price"]


# A column that comes later, by the form of source and by the drift policy: whether the sync ends well, and what is in
# the bucket afterwards. By form: source, and the target's columns.
LATER = SCHEMA.append(pa.field("later", pa.string()))
NUMBER = "NUMBER(38, 0)"
FORMS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "none": ({}, {"k": NUMBER, "ssn": "VARCHAR", "amount": "DOUBLE"}),
    "none, with names in other cases": ({}, {'"k"': NUMBER, '"sSN"': "VARCHAR", "amount": "DOUBLE"}),
    "columns": ({"columns": ["k", "amount"]}, {"k": NUMBER, "amount": "DOUBLE"}),
    "exclude": ({"exclude": ["ssn"]}, {"k": NUMBER, "amount": "DOUBLE"}),
    "rename": ({"exclude": ["ssn"], "rename": {"amount": "price"}}, {"k": NUMBER, "price": "DOUBLE"}),
    "hash": ({"exclude": ["ssn"], "hash": ["k"]}, {"k": "VARCHAR", "amount": "DOUBLE"}),
    "where": ({"exclude": ["ssn"], "where": "k > 0"}, {"k": NUMBER, "amount": "DOUBLE"}),
    "where alone": ({"where": "k > 0"}, {"k": NUMBER, "ssn": "VARCHAR", "amount": "DOUBLE"}),
}


def exports_of(share: Share, dataset: Dataset) -> set[str]:
    share.files.invalidate_cache()
    return set(share.files.find(f"{share.names.url}{dataset.name}/"))


def refused(share: Share, dataset: Dataset, run: Run, columns: str) -> None:
    """Export columns that the target lacks: nothing is written, and people are told what to do."""
    before = exports_of(share, dataset)
    with pytest.raises(ShareError) as caught:
        share.export(dataset, run)
    assert exports_of(share, dataset) == before
    assert caught.value.code is FailureCode.SCHEMA_DRIFT
    assert caught.value.message == (
        f"The export would have columns that the target lacks: {columns}. Nothing was exported. The target is as it "
        "was."
    )
    assert "Set schema_drift in the dataset file" in caught.value.what_to_do


@pytest.mark.others_nightly
@pytest.mark.parametrize("policy", ["strict", "ignore_new", "add_new"])
@pytest.mark.parametrize("form", FORMS)
def test_a_column_that_comes_later(a_share: Share, form: str, policy: str) -> None:
    source, target = FORMS[form]
    key = next(iter(target))
    dataset = a_share.dataset(target, schema_drift=policy, source=source, required_columns=(key,))
    leaving = {name.strip('"').lower() for name in target}
    a_share.write(dataset, ROWS, SCHEMA)
    columns, _ = in_the_bucket(a_share, a_share.sync(dataset))
    assert set(map(str.lower, columns)) == leaving
    a_share.write(dataset, [{**row, "later": "secret"} for row in ROWS], LATER)
    run = a_share.run(dataset)
    if policy == "strict" and form != "columns":
        refused(a_share, dataset, run, "later")
        # Once the target has the column, the same sync goes on.
        a_share.query(f"ALTER TABLE {dataset.target} ADD COLUMN LATER VARCHAR")
        columns, _ = in_the_bucket(a_share, a_share.sync(dataset, run))
        assert set(map(str.lower, columns)) == leaving | {"later"}
    else:
        leaves = policy == "add_new" and form != "columns"
        columns, values = in_the_bucket(a_share, a_share.sync(dataset, run))
        assert set(map(str.lower, columns)) == leaving | ({"later"} if leaves else set())
        assert (b"secret" in values) == leaves
        # What was exported is proven like before.
        assert run.xcoms["copy_into_staging", "return_value"]["unproven"] == {}


@pytest.mark.parametrize("policy", ["strict", "ignore_new"])
def test_a_target_that_the_first_sync_creates_keeps_back_what_comes_later(a_share: Share, policy: str) -> None:
    dataset = a_share.dataset(create_table="from_source", schema_drift=policy)
    a_share.write(dataset, ROWS, SCHEMA)
    assert in_the_bucket(a_share, a_share.sync(dataset))[0] == {"k", "Ssn", "amount"}
    a_share.write(dataset, [{**row, "later": "secret"} for row in ROWS], LATER)
    run = a_share.run(dataset, dry_run=True)
    if policy == "strict":
        refused(a_share, dataset, run, "later")
    else:
        assert in_the_bucket(a_share, a_share.sync(dataset, run))[0] == {"k", "Ssn", "amount"}


def test_a_target_that_is_too_wide_for_the_job_is_compared_by_the_load(a_share: Share) -> None:
    wide = {f"{'c' * 200}_{number}": NUMBER for number in range(60)}
    rows: list[Row] = [{"k": 1, **dict.fromkeys(wide, 7)}]
    schema = pa.schema(dict.fromkeys(("k", *wide), pa.int64()))
    dataset = a_share.dataset({"k": NUMBER, **wide})
    a_share.write(dataset, rows, schema)
    a_share.sync(dataset)
    assert a_share.target(dataset, "k") == rows
    a_share.write(dataset, [{**rows[0], "later": "secret"}], schema.append(pa.field("later", pa.string())))
    run = a_share.run(dataset)
    a_share.export(dataset, run)
    with pytest.raises(SchemaDriftError, match="the export has later"):
        a_share.steps(run)
    # It did leave: the job cannot know.
    assert b"secret" in in_the_bucket(a_share, run)[1]
    assert a_share.target(dataset, "k") == rows


def test_an_earlier_export_that_has_more_than_the_target_is_compared_by_the_load(a_share: Share) -> None:
    dataset = a_share.dataset({"k": NUMBER, "ssn": "VARCHAR", "amount": "DOUBLE"})
    a_share.write(dataset, ROWS, SCHEMA)
    first = a_share.sync(dataset)
    a_share.query(f"ALTER TABLE {dataset.target} DROP COLUMN ssn")
    run = a_share.run(dataset, reload_run_key=first.key)
    with pytest.raises(SchemaDriftError, match=r"the export has Ssn \(string\), which"):
        a_share.step(run, "copy_into_staging")


def test_a_source_that_shares_no_column_with_the_target_exports_nothing(a_share: Share) -> None:
    dataset = a_share.dataset({"other": "VARCHAR"}, schema_drift="ignore_new", required_columns=("other",))
    a_share.write(dataset, ROWS, SCHEMA)
    with pytest.raises(ShareError, match="No column is left to export"):
        a_share.export(dataset, a_share.run(dataset))
    assert exports_of(a_share, dataset) == set()
