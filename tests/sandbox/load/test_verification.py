"""
A verification finds what differs between the target and what was published, names it, and changes nothing.

It runs as in production: through the plan, the export of the version, the copy and the comparison.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest

from data_share.datasets import Dataset
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import NotPublishedError, ShareError
from data_share.snowflake.verification import ValuesDifferError
from tests.examples.express.declared import differences
from tests.sandbox.load.delta_source import Source
from tests.sandbox.load.driver import SCHEMA, Row, Run, Share
from tests.sandbox.load.test_values import CHANGES

pytestmark = [pytest.mark.sandbox, pytest.mark.tier("full")]
NIGHTLY = pytest.mark.tier("nightly")

MERGE: dict[str, Any] = {"load_mode": "merge", "merge_keys": ("k",)}
MIRROR: dict[str, Any] = {**MERGE, "delete_missing": True}
INCREMENTAL: dict[str, Any] = {**MIRROR, "incremental": True}
MODES: dict[str, dict[str, Any]] = {"mirrored": MIRROR, "replaced": {}}

ROWS: list[Row] = [{"k": k, "name": f"n{k}", "amount": k / 7} for k in range(10)]


def published(share: Share, rows: list[Row] = ROWS, schema: pa.Schema = SCHEMA, **fields: Any) -> Dataset:
    """Make a dataset, and sync it once."""
    columns = fields.pop("columns_of_target", None)
    dataset = share.dataset(columns, **fields)
    share.remember(dataset)
    share.write(dataset, rows, schema)
    share.sync(dataset)
    return dataset


def source_of(share: Share, dataset: Dataset) -> Source:
    """Return the source, whose next rows have other keys than :data:`ROWS`."""
    source = Source(share, dataset)
    source._next = 100
    return source


def known(share: Share, dataset: Dataset) -> object:
    """Return all that a verification must leave as it is: in Snowflake, and what Airflow remembers."""
    staging = share.query(f"SHOW TABLES IN SCHEMA {share.names.staging_schema}")
    tables = sorted(row["name"] for row in staging if row["name"].startswith(f"{dataset.name.upper()}__"))
    rows = sorted(map(repr, share.query(f"SELECT * FROM {dataset.target}")))
    # Who has asked for an asset has not told anything.
    state = {name: copy.deepcopy(values) for name, values in share._remembered[dataset.name].items() if values}
    return rows, share.ledger(dataset), share.manifests(dataset), share.lock(dataset), tables, state


def verify(share: Share, dataset: Dataset) -> Run:
    """Verify, and make sure that this changes nothing, whatever it finds."""
    before = known(share, dataset)
    run = share.run(dataset, verify=True)
    try:
        share.sync(dataset, run)
    finally:
        if run.states.get("publish") != "success":
            with pytest.raises(NotPublishedError):
                share.step(run, "finish_sync")
        assert known(share, dataset) == before
        assert run.asset_events == []
    return run


@contextmanager
def refused(code: FailureCode, words: str) -> Iterator[None]:
    """Expect a failure."""
    with pytest.raises(ShareError, match=words) as caught:
        yield
    assert caught.value.code is code


def found(share: Share, dataset: Dataset) -> str:
    """Verify a target that differs; return the sentences of the report."""
    with pytest.raises(ValuesDifferError) as caught:
        verify(share, dataset)
    assert caught.value.code is FailureCode.VALUES_DIFFER
    assert caught.value.snowflake_query_id
    return caught.value.message.split("has published: ")[1]


# ---- equal


@pytest.mark.others_nightly
@pytest.mark.parametrize("fields", MODES.values(), ids=MODES)
def test_a_target_that_is_as_published_is_verified(a_share: Share, fields: dict[str, Any]) -> None:
    dataset = published(a_share, **fields)
    source_of(a_share, dataset).insert()  # the source of today is no measure

    run = verify(a_share, dataset)

    answer = run.ledger_row
    assert differences("Verified", answer) == []
    [row] = a_share.ledger(dataset)
    assert answer.pop("source_committed_at") == row["SOURCE_COMMITTED_AT"].isoformat()
    assert answer.pop("published_at") == row["PUBLISHED_AT"].isoformat()
    assert answer["task_instance_id"]
    assert {name: answer[name] for name in list(answer)[:7]} == {
        "verified": True,
        "dataset": dataset.name,
        "source_table": dataset.source_table,
        "target_table": dataset.target_table,
        "source_version": row["SOURCE_VERSION"],
        "run_key": row["RUN_KEY"],
        "rows": 10,
    }
    assert answer["not_compared"] == []


@pytest.mark.tier("nightly")
def test_a_verification_makes_no_check_of_the_dataset(a_share: Share) -> None:
    dataset = published(a_share, **MIRROR)
    stricter = a_share.edit(dataset, checks={"never": "k < 0"}, max_row_change_percent=0.1)
    assert verify(a_share, stricter).ledger_row["verified"]


@pytest.mark.tier("nightly")
def test_an_empty_source_is_verified(a_share: Share) -> None:
    dataset = published(a_share, [], allow_empty=True)
    assert verify(a_share, dataset).ledger_row["rows"] == 0
    a_share.insert(dataset, ROWS[:1])
    assert "it has 1 row that the source lacks" in found(a_share, dataset)


def test_equal_rows_are_counted(a_share: Share) -> None:
    dataset = published(a_share, [ROWS[0], ROWS[0], ROWS[0], ROWS[1]])
    verify(a_share, dataset)
    a_share.query(f"INSERT INTO {dataset.target} SELECT * FROM {dataset.target} WHERE k = 1")
    a_share.query(f"INSERT INTO {dataset.target} SELECT * FROM {dataset.target} WHERE k = 1 LIMIT 1")
    assert "it has 2 rows that the source lacks\n- K=1, NAME=n1, AMOUNT=" in found(a_share, dataset)


@pytest.mark.tier("nightly")
def test_the_newest_version_is_read_as_long_as_no_row_has_changed(a_share: Share) -> None:
    dataset = published(a_share, **MIRROR)
    source = source_of(a_share, dataset)
    version = source.table.version()
    source.optimize()
    source.set_property()
    source.vacuum()
    assert verify(a_share, dataset).ledger_row["source_version"] == version


# ---- different


@pytest.mark.parametrize("fields", MODES.values(), ids=MODES)
@pytest.mark.parametrize("first", [0, *(pytest.param(number, marks=NIGHTLY) for number in range(5, len(CHANGES), 5))])
def test_one_changed_value_of_each_type_is_found_and_named(a_share: Share, fields: dict[str, Any], first: int) -> None:
    # A few types at a time: for the emulator, wide statements take long.
    columns = {f"c{number}": change for number, change in enumerate([*CHANGES.values()][first : first + 5])}
    schema = pa.schema({"k": pa.int64()} | {name: kind for name, (kind, *_) in columns.items()})
    values = itertools.zip_longest(*(values for _, _, values, _ in columns.values()))
    rows = [{"k": number, **dict(zip(columns, row, strict=True))} for number, row in enumerate(values)]
    targets = {"k": "NUMBER(38, 0)"} | {name: target for name, (_, target, *_) in columns.items()}
    dataset = published(a_share, rows, schema, columns_of_target=targets, **fields)
    a_share.query(f"CREATE TABLE {dataset.name}_right AS SELECT * FROM {dataset.target}")
    run = a_share.run(dataset, verify=True)
    a_share.export(dataset, run)
    a_share.step(run, "copy_into_staging")
    a_share.step(run, "check_staging")

    for column, (*_, other) in columns.items():
        name = column.upper()
        a_share.query(f'UPDATE {dataset.target} SET "{name}" = {other.format(name)} WHERE k = 0')
        with pytest.raises(ValuesDifferError) as caught:
            a_share.step(run, "check_staging")
        a_share.query(f"INSERT OVERWRITE INTO {dataset.target} SELECT * FROM {dataset.name}_right")
        if fields:
            assert f"published: 1 row has other values, in {name}\n- K=0: {name} is " in caught.value.message
        else:
            assert (
                "published: the target lacks 1 row; it has 1 row that the source lacks; the values that differ are in "
                f"{name}\n- K=0, " in caught.value.message
            )


@pytest.mark.others_nightly
@pytest.mark.parametrize("fields", MODES.values(), ids=MODES)
def test_a_millionth_of_one_double_among_many_rows(a_share: Share, fields: dict[str, Any]) -> None:
    # So many that a sum would not tell.
    rows = [{"k": k, "name": "n", "amount": 1e9 + k} for k in range(100_000)]
    dataset = published(a_share, rows, **fields)
    a_share.sync(dataset, verify=True)
    a_share.query(f"UPDATE {dataset.target} SET amount = amount * 1.000001 WHERE k = 77777")
    with pytest.raises(ValuesDifferError, match=r" AMOUNT\n- K=77777"):
        a_share.sync(dataset, verify=True)


@pytest.mark.others_nightly
@pytest.mark.parametrize("fields", MODES.values(), ids=MODES)
def test_the_last_bit_of_a_double(a_share: Share, fields: dict[str, Any]) -> None:
    dataset = published(a_share, [{"k": 1, "name": "n", "amount": 0.1 + 0.2}], **fields)
    a_share.query(f"UPDATE {dataset.target} SET amount = 0.3::FLOAT")
    assert "AMOUNT\n- K=1" in found(a_share, dataset)


@pytest.mark.others_nightly
@pytest.mark.parametrize("fields", MODES.values(), ids=MODES)
def test_a_row_that_is_missing_and_one_too_many(a_share: Share, fields: dict[str, Any]) -> None:
    dataset = published(a_share, **fields)
    a_share.query(f"DELETE FROM {dataset.target} WHERE k IN (3, 4)")
    a_share.insert(dataset, [{"k": 99, "name": "x", "amount": 1}])
    sentences = found(a_share, dataset)
    assert sentences.startswith("the target lacks 2 rows; it has 1 row that the source lacks\n- K=3")
    assert [line.split(":")[-1] for line in sentences.splitlines()[1:]] == [
        " only in the source",
        " only in the source",
        " only in the target",
    ]
    assert sentences.splitlines()[-1].startswith("- K=99")


@pytest.mark.tier("nightly")
def test_a_row_that_is_there_twice(a_share: Share) -> None:
    for fields in (MIRROR, MERGE):
        dataset = published(a_share, **fields)
        a_share.query(f"INSERT INTO {dataset.target} SELECT * FROM {dataset.target} WHERE k = 3")
        assert found(a_share, dataset) == "it has 1 row that the source lacks\n- K=3: only in the target"


@pytest.mark.tier("nightly")
def test_values_that_two_rows_have_exchanged(a_share: Share) -> None:
    for fields in MODES.values():
        dataset = published(a_share, **fields)
        a_share.query(
            f"UPDATE {dataset.target} SET name = CASE name WHEN 'n1' THEN 'n2' ELSE 'n1' END WHERE k IN (1, 2)"
        )
        assert re.search("- K=1.*\n.*- K=2" if fields else "- K=1.*\n- K=1.*\n- K=2", found(a_share, dataset))


@pytest.mark.tier("nightly")
def test_at_most_five_rows_are_shown(a_share: Share) -> None:
    dataset = published(a_share, **MIRROR)
    a_share.query(f"UPDATE {dataset.target} SET name = NULL, amount = 0 WHERE k > 1")
    sentences = found(a_share, dataset).splitlines()
    assert sentences[0] == "8 rows have other values, in NAME, AMOUNT"
    assert len(sentences) == 6
    assert sentences[1].startswith("- K=2: NAME is n2 in the source, None in the target; AMOUNT is 0.2857")


def test_rows_that_the_load_mode_keeps_are_no_difference(a_share: Share) -> None:
    dataset = published(a_share, **MERGE)
    a_share.insert(dataset, [{"k": 99, "name": "kept", "amount": 1}])
    assert verify(a_share, dataset).ledger_row["rows"] == 10
    a_share.query(f"UPDATE {dataset.target} SET name = 'edited' WHERE k IN (5, 99)")
    with pytest.raises(ValuesDifferError, match="K=5: NAME is n5 in the source, edited in the target") as caught:
        verify(a_share, dataset)
    assert "99" not in caught.value.message
    assert "This also removes the rows that the source lacks" in caught.value.what_to_do


def test_a_column_that_is_gone_from_the_target(a_share: Share) -> None:
    dataset = published(a_share, schema_drift="add_new")
    a_share.query(f"ALTER TABLE {dataset.target} DROP COLUMN amount")
    with refused(FailureCode.VALUES_DIFFER, "the target lacks what was published: amount"):
        run = a_share.run(dataset, verify=True)
        a_share.sync(dataset, run)


def test_types_that_cannot_be_compared_are_named(a_share: Share) -> None:
    schema = SCHEMA.append(pa.field("parts", pa.struct({"a": pa.int64()})))
    columns = {"k": "NUMBER(38, 0)", "name": "VARCHAR", "amount": "DOUBLE", "parts": "VARIANT"}
    rows = [row | {"parts": {"a": row["k"]}} for row in ROWS]
    dataset = published(a_share, rows, schema, columns_of_target=columns, **MIRROR)
    assert verify(a_share, dataset).ledger_row["not_compared"] == ["PARTS"]
    a_share.query(f"UPDATE {dataset.target} SET name = 'x' WHERE k = 1")
    assert "1 row has other values, in NAME\n- K=1: " in found(a_share, dataset)


# ---- other syncs before and after


def test_an_edit_by_hand_before_and_after_an_increment(a_share: Share) -> None:
    dataset = published(a_share, **INCREMENTAL)
    source = source_of(a_share, dataset)
    source.insert()
    run = a_share.sync(dataset)
    assert run.ledger_row["export_mode"] in ("feed", "compare")
    verify(a_share, dataset)

    a_share.query(f"UPDATE {dataset.target} SET amount = 7 WHERE k IN (5, 101)")
    source.insert()
    assert a_share.sync(dataset).ledger_row["rows_inserted"] == 2  # the edits stay
    assert found(a_share, dataset).splitlines()[0] == "2 rows have other values, in AMOUNT"

    a_share.sync(dataset, full_refresh=True)
    verify(a_share, dataset)


def test_a_verification_leaves_the_next_sync_as_it_was(a_share: Share) -> None:
    dataset = published(a_share, **INCREMENTAL)
    verify(a_share, dataset)
    assert a_share.sync(dataset).ledger_row["unchanged"]
    source_of(a_share, dataset).delete()
    verify(a_share, dataset)
    a_share.query(f"UPDATE {dataset.target} SET amount = 7 WHERE k = 5")
    found(a_share, dataset)
    assert a_share.sync(dataset).ledger_row["export_mode"] in ("feed", "compare")


@pytest.mark.tier("nightly")
def test_an_append_of_increments_is_verified(a_share: Share) -> None:
    dataset = published(a_share, load_mode="append", incremental=True)
    source = source_of(a_share, dataset)
    source.insert()
    a_share.sync(dataset)
    assert verify(a_share, dataset).ledger_row["rows"] == 12
    a_share.query(f"INSERT INTO {dataset.target} SELECT * FROM {dataset.target} WHERE k = 101")
    assert "it has 1 row that the source lacks\n- K=101" in found(a_share, dataset)


@pytest.mark.tier("nightly")
def test_a_failed_sync_does_not_keep_a_target_from_being_verified(a_share: Share) -> None:
    dataset = published(a_share, **MIRROR)
    source_of(a_share, dataset).insert()
    failing = a_share.edit(dataset, checks={"never": "k < 0"})
    with pytest.raises(ShareError):
        a_share.sync(failing)
    assert verify(a_share, failing).ledger_row["verified"]


# ---- refused


def test_what_nobody_has_published_cannot_be_verified(a_share: Share) -> None:
    dataset = a_share.dataset()
    a_share.remember(dataset)
    a_share.write(dataset, ROWS)
    with refused(FailureCode.VERIFY_IMPOSSIBLE, "no earlier publish is known. Nothing was started. Start a sync"):
        verify(a_share, dataset)


def test_an_append_of_all_rows_cannot_be_verified(a_share: Share) -> None:
    dataset = published(a_share, load_mode="append")
    with refused(FailureCode.VERIFY_IMPOSSIBLE, "holds more than any version of the source.* Set incremental: true"):
        verify(a_share, dataset)


def test_a_publish_whose_end_is_not_known_cannot_be_verified(a_share: Share) -> None:
    dataset = published(a_share, **MIRROR)
    source_of(a_share, dataset).insert()
    run = a_share.staged(dataset)
    a_share.query(f"DELETE FROM {run.staging_table}")
    with pytest.raises(ShareError):
        a_share.step(run, "publish")
    with refused(FailureCode.VERIFY_IMPOSSIBLE, "it is not certain what the last publish has left"):
        verify(a_share, dataset)


def test_another_dataset_file_or_target_cannot_be_verified(a_share: Share) -> None:
    dataset = published(a_share, **MIRROR)
    other = a_share.edit(dataset, source={"where": "k > 3"})
    with refused(FailureCode.VERIFY_IMPOSSIBLE, "the dataset file has changed since the last publish"):
        verify(a_share, other)


def test_a_source_without_versions_cannot_be_verified(a_share: Share) -> None:
    dataset = published(a_share, pinned=False)
    with refused(FailureCode.VERIFY_IMPOSSIBLE, "pinned: false.* Change this in the dataset file"):
        verify(a_share, dataset)


def test_a_source_that_was_made_again_cannot_be_verified(a_share: Share) -> None:
    dataset = published(a_share, **MIRROR)
    source_of(a_share, dataset).make_again()
    with refused(FailureCode.VERIFY_IMPOSSIBLE, "cannot be verified: the source was dropped and made again"):
        verify(a_share, dataset)


def test_a_version_whose_files_may_be_gone_cannot_be_verified(a_share: Share) -> None:
    dataset = published(a_share, **MIRROR)
    source = source_of(a_share, dataset)
    source.overwrite()
    verify(a_share, dataset)
    source.vacuum()
    with refused(FailureCode.VERIFY_IMPOSSIBLE, "VACUUM may have removed files of version 0"):
        verify(a_share, dataset)


def test_a_version_whose_files_the_source_keeps_for_a_shorter_time_cannot_be_verified(a_share: Share) -> None:
    dataset = published(a_share, **MIRROR)
    source = source_of(a_share, dataset)
    source.table.alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 0 hours"})
    verify(a_share, dataset)
    source.overwrite()
    with refused(FailureCode.VERIFY_IMPOSSIBLE, "Cannot time travel beyond.* Start a sync; when it has published"):
        verify(a_share, dataset)


def test_a_publish_that_airflow_does_not_know_of(a_share: Share) -> None:
    dataset = published(a_share, **MIRROR)
    run = a_share.run(dataset, verify=True)
    a_share.export(dataset, run)
    source_of(a_share, dataset).insert()
    later = a_share.sync(dataset)
    with refused(
        FailureCode.VERIFY_IMPOSSIBLE, f"{dataset.target_table} cannot be compared .* {later.key} was published last"
    ):
        a_share.step(run, "copy_into_staging")


def test_a_publish_between_the_copy_and_the_comparison(a_share: Share) -> None:
    dataset = published(a_share, **MIRROR)
    run = a_share.run(dataset, verify=True)
    a_share.export(dataset, run)
    a_share.step(run, "copy_into_staging")
    source_of(a_share, dataset).insert()
    later = a_share.sync(dataset)
    with refused(FailureCode.VERIFY_IMPOSSIBLE, f"the sync {later.key} was published last"):
        a_share.step(run, "check_staging")


@pytest.mark.tier("nightly")
def test_an_export_job_of_an_earlier_version_is_noticed(a_share: Share, monkeypatch: pytest.MonkeyPatch) -> None:
    # It does not know verify: nothing is new, or all rows are exported as they are now.
    from data_share.databricks import export

    told = export.published_parameter
    dataset = published(a_share, **MIRROR)

    def without_verify(*given: Any, is_verification: bool) -> dict[str, str]:
        return {
            name: text.replace('"verify"', '"unknown"') for name, text in told(*given, is_verification=True).items()
        }

    monkeypatch.setattr(export, "published_parameter", without_verify)
    for _ in range(2):
        run = a_share.run(dataset, verify=True)
        a_share.export(dataset, run)
        with refused(FailureCode.VERIFY_IMPOSSIBLE, "Deploy the asset bundle again"):
            a_share.step(run, "copy_into_staging")
        source_of(a_share, dataset).insert()


def test_a_person_cannot_verify_by_marking_the_comparison(a_share: Share) -> None:
    dataset = published(a_share, **MIRROR)
    run = a_share.run(dataset, verify=True)
    a_share.export(dataset, run)
    a_share.step(run, "copy_into_staging")
    run.states["check_staging"] = "success"
    with refused(FailureCode.RESULT_MISSING, "check_staging has compared nothing this time"):
        a_share.step(run, "publish")
