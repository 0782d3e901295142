"""Masking and row access policies: nothing masked is published, no hidden row is doubled, and who is exempt syncs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest

from data_share.dag_defaults import SHARE
from data_share.datasets import Dataset
from data_share.outcome.codes import FailureCode
from data_share.snowflake.check import CheckFailedError
from data_share.snowflake.policies import PolicyFoundError, RowsHiddenError
from data_share.snowflake.publish import SupersededError
from tests.sandbox.load import driver
from tests.sandbox.load.driver import Row, Run, Share

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox]

Administer = Callable[[str], Any]

BEFORE: list[Row] = [{"k": 1, "name": "ada", "amount": 1.0}, {"k": 2, "name": "bo", "amount": 2.0}]
AFTER: list[Row] = [{"k": 2, "name": "bob", "amount": 2.5}, {"k": 3, "name": "cy", "amount": 3.0}]
MERGE: dict[str, Any] = {"load_mode": "merge", "merge_keys": ("k",)}
MODES: dict[str, dict[str, Any]] = {
    "replace": {"load_mode": "replace"},
    "append": {"load_mode": "append"},
    "merge": MERGE,
    "merge that deletes": {**MERGE, "delete_missing": True},
}
LEFT = {
    "replace": AFTER,
    "append": sorted([*BEFORE, *AFTER], key=lambda row: (row["k"], row["name"])),
    "merge": [BEFORE[0], *AFTER],
    "merge that deletes": AFTER,
}
"""What the second sync leaves in the target, by load mode."""
# What each type looks like to a role that the policy does not exempt.
MASKED = {"k": ("NUMBER", "0"), "name": ("VARCHAR", "'***'"), "amount": ("FLOAT", "-1.5")}
EXEMPT = "IS_ROLE_IN_SESSION('DATA_SHARE_LOADER')"
NOT_EXEMPT = "IS_ROLE_IN_SESSION('AUDITOR')"
EACH_MODE = pytest.mark.parametrize("mode", MODES)
TIERS_OF_MODES = {mode: "full" if mode == "merge that deletes" else "nightly" for mode in MODES}

_numbers = itertools.count(1)


def mask(administer: Administer, column: str, who: str) -> str:
    """Create a masking policy for the type of a column; return its name."""
    kind, value = MASKED[column]
    return policy(administer, f"(val {kind}) RETURNS {kind} -> CASE WHEN {who} THEN val ELSE {value} END")


def policy(administer: Administer, body: str, kind: str = "MASKING") -> str:
    name = f"data_share.public.policy_{next(_numbers)}"
    administer(f"CREATE {kind} POLICY {name} AS {body}")
    return name


def masked(administer: Administer, dataset: Dataset, column: str, who: str) -> str:
    name = mask(administer, column, who)
    administer(f"ALTER TABLE {dataset.target} MODIFY COLUMN {column} SET MASKING POLICY {name}")
    return name.upper()


def filtered(administer: Administer, dataset: Dataset, shown: str, column: str = "amount") -> str:
    """Let a row access policy show the rows of a condition alone."""
    kind = {"amount": "FLOAT", "k": "NUMBER", "name": "VARCHAR"}[column]
    name = policy(administer, f"({column} {kind}) RETURNS BOOLEAN -> {shown}", "ROW ACCESS")
    administer(f"ALTER TABLE {dataset.target} ADD ROW ACCESS POLICY {name} ON ({column})")
    return name


@contextmanager
def tagged(administer: Administer, masks: list[str], thing: str = "SCHEMA data_share.staging") -> Iterator[None]:
    """Let a tag of the staging schema, or of another thing, carry masking policies."""
    tag = f"data_share.public.tag_{next(_numbers)}"
    administer(f"CREATE TAG {tag}")
    for name in masks:
        administer(f"ALTER TAG {tag} SET MASKING POLICY {name}")
    administer(f"ALTER {thing} SET TAG {tag} = 'secret'")
    try:
        yield
    finally:
        administer(f"ALTER {thing} UNSET TAG {tag}")


def sync(share: Share, dataset: Dataset, rows: list[Row], **params: Any) -> Run:
    run = share.run(dataset, **params)
    share.put_export(dataset, run, rows)
    share.steps(run)
    return run


def refused(share: Share, dataset: Dataset, rows: list[Row], **params: Any) -> PolicyFoundError:
    """Check that the copy step refuses a sync, and return its error."""
    run = share.run(dataset, **params)
    share.put_export(dataset, run, rows)
    with pytest.raises(PolicyFoundError) as caught:
        share.step(run, "copy_into_staging")
    assert caught.value.code is FailureCode.POLICY_FOUND
    assert "The target is as it was." in str(caught.value)
    assert "IS_ROLE_IN_SESSION('DATA_SHARE_LOADER')" in caught.value.what_to_do
    return caught.value


def hidden(share: Share, dataset: Dataset, rows: list[Row]) -> RowsHiddenError:
    """Check that the publish refuses a sync, and return its error."""
    run = share.run(dataset)
    share.put_export(dataset, run, rows)
    for task_id in ("copy_into_staging", "check_staging"):
        share.step(run, task_id)
    with pytest.raises(RowsHiddenError) as caught:
        share.step(run, "publish")
    assert caught.value.code is FailureCode.ROWS_HIDDEN
    assert not isinstance(caught.value, SupersededError)
    assert "IS_ROLE_IN_SESSION('DATA_SHARE_LOADER')" in caught.value.what_to_do
    assert caught.value.snowflake_query_id
    return caught.value


def all_rows(share: Share, administer: Administer, dataset: Dataset) -> list[Row]:
    """Take the policies off the target, and return its rows."""
    policies = share.query(f"DESCRIBE TABLE {dataset.target}")
    for row in policies:
        if row["policy name"]:
            administer(f"ALTER TABLE {dataset.target} MODIFY COLUMN {row['name']} UNSET MASKING POLICY")
    return share.target(dataset)


# ---- a masking policy that DESCRIBE shows


@pytest.mark.parametrize(
    ("mode", "column"), [("replace", "name"), ("append", "amount"), ("merge", "k"), ("merge that deletes", "name")]
)
def test_a_masked_column_of_the_target_stops_a_sync_that_says_nothing_of_it(
    a_share: Share, administer: Administer, mode: str, column: str
) -> None:
    dataset = a_share.dataset(**MODES[mode])
    sync(a_share, dataset, BEFORE)
    name = masked(administer, dataset, column, NOT_EXEMPT)
    error = refused(a_share, dataset, AFTER)
    assert f"{dataset.target_table} column {column.upper()} has the masking policy {name}" in str(error)
    assert f"set policies: exempt in {dataset.name}.yaml" in error.what_to_do
    assert len(a_share.ledger(dataset)) == 1
    assert all_rows(a_share, administer, dataset) == BEFORE


def test_a_full_refresh_is_stopped_too(a_share: Share, administer: Administer) -> None:
    dataset = a_share.dataset(**MERGE)
    sync(a_share, dataset, BEFORE)
    masked(administer, dataset, "name", NOT_EXEMPT)
    refused(a_share, dataset, AFTER, full_refresh=True)
    assert all_rows(a_share, administer, dataset) == BEFORE


@pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=pytest.mark.tier(tier)) for mode, tier in TIERS_OF_MODES.items()]
)
def test_an_exempt_role_syncs_a_masked_target(a_share: Share, administer: Administer, mode: str) -> None:
    dataset = a_share.dataset(policies="exempt", **MODES[mode])
    for column in MASKED:
        masked(administer, dataset, column, EXEMPT)
    sync(a_share, dataset, BEFORE)
    run = sync(a_share, dataset, AFTER)
    assert a_share.target(dataset) == LEFT[mode]
    assert run.ledger_row["rows_in_target"] == len(LEFT[mode])
    names = [row["policy name"] for row in a_share.query(f"DESCRIBE TABLE {dataset.target}")]
    assert all(names), "the target keeps its policies"


@pytest.mark.parametrize("proof", ["checksums", "counts"])
def test_an_exemption_is_proven_by_the_values_whatever_the_proof_is(
    a_share: Share, administer: Administer, proof: str
) -> None:
    dataset = a_share.dataset(policies="exempt", proof=proof)
    masked(administer, dataset, "name", EXEMPT)
    a_share.write(dataset, BEFORE)
    run = a_share.run(dataset)
    a_share.export(dataset, run)
    a_share.step(run, "copy_into_staging")
    proven = [column["column"] for column in run.xcoms["copy_into_staging", "return_value"]["proofs"]]
    assert proven == ["K", "NAME", "AMOUNT"]
    a_share.query(f"UPDATE {run.staging_table} SET name = '***' WHERE k = 1")
    with pytest.raises(CheckFailedError, match='values_match_manifest: column "NAME"'):
        a_share.step(run, "check_staging")


def test_a_mask_of_some_values_is_noticed_by_their_sums(a_share: Share, administer: Administer) -> None:
    dataset = a_share.dataset(policies="exempt", proof="counts")
    body = "(val VARCHAR) RETURNS VARCHAR -> CASE WHEN val <> 'cy' THEN val ELSE '***' END"
    masked(administer, dataset, "name", EXEMPT)
    a_share.write(dataset, AFTER)
    with (
        tagged(administer, [policy(administer, body)]),
        pytest.raises(CheckFailedError, match='values_match_manifest: column "NAME"') as caught,
    ):
        a_share.sync(dataset)
    assert "docs/datasets.md, Policies" in caught.value.what_to_do
    assert a_share.target(dataset) == []


@pytest.mark.parametrize("casts", [[], ["pair"]])
def test_a_masked_column_whose_values_are_not_compared_is_refused_with_the_reason(
    a_share: Share, administer: Administer, casts: list[str]
) -> None:
    dataset = a_share.dataset({"k": "NUMBER(38, 0)", "pair": "VARIANT"}, policies="exempt", casts=casts)
    name = policy(administer, f"(val VARIANT) RETURNS VARIANT -> CASE WHEN {EXEMPT} THEN val END")
    administer(f"ALTER TABLE {dataset.target} MODIFY COLUMN pair SET MASKING POLICY {name}")
    schema = pa.schema({"k": pa.int64(), "pair": pa.struct([("x", pa.int32())])})
    a_share.write(dataset, [{"k": 1, "pair": {"x": 1}}], schema)
    reason = "listed in casts" if casts else r"no checksum is known for struct<x:int> in VARIANT"
    with pytest.raises(PolicyFoundError, match=f"cannot be proven.*PAIR: {reason}"):
        a_share.sync(dataset)
    administer(f"ALTER TABLE {dataset.target} MODIFY COLUMN pair UNSET MASKING POLICY")
    a_share.sync(dataset)
    assert len(a_share.target(dataset, order="k")) == 1


def test_a_masked_column_that_keeps_its_default_needs_no_proof(a_share: Share, administer: Administer) -> None:
    columns = {**driver.COLUMNS, "note": "VARCHAR DEFAULT 'none'"}
    dataset = a_share.dataset(columns, policies="exempt", target_defaults=("note",), **MERGE)
    name = mask(administer, "name", EXEMPT)
    administer(f"ALTER TABLE {dataset.target} MODIFY COLUMN note SET MASKING POLICY {name}")
    sync(a_share, dataset, BEFORE)
    assert a_share.target(dataset) == [{**row, "note": "none"} for row in BEFORE]


# ---- a masking policy by a tag, which DESCRIBE does not show


@pytest.mark.parametrize(
    ("mode", "thing", "proof"),
    [
        ("replace", "SCHEMA data_share.staging", "checksums"),
        ("append", "SCHEMA data_share.staging", "counts"),
        ("merge", "DATABASE data_share", "counts"),
        ("merge that deletes", "SCHEMA data_share.staging", "checksums"),
    ],
)
def test_a_tag_that_masks_the_staging_table_stops_a_sync(
    a_share: Share, administer: Administer, mode: str, thing: str, proof: str
) -> None:
    dataset = a_share.dataset(proof=proof, **MODES[mode])
    sync(a_share, dataset, BEFORE)
    masks = [mask(administer, column, NOT_EXEMPT) for column in MASKED]
    with tagged(administer, masks, thing):
        assert not [row for row in a_share.query(f"DESCRIBE TABLE {dataset.target}") if row["policy name"]]
        error = refused(a_share, dataset, AFTER)
        assert (
            "a masking policy changes K, NAME, AMOUNT. If DESCRIBE TABLE names no policy, it is set through a tag"
            in str(error)
        )
    assert a_share.target(dataset) == BEFORE
    sync(a_share, dataset, AFTER)
    assert a_share.target(dataset) == LEFT[mode]


def test_a_tag_from_which_the_role_is_exempt_stops_nothing(a_share: Share, administer: Administer) -> None:
    dataset = a_share.dataset(**MERGE)
    with tagged(administer, [mask(administer, column, EXEMPT) for column in MASKED], "DATABASE data_share"):
        sync(a_share, dataset, BEFORE)
        sync(a_share, dataset, AFTER)
    assert a_share.target(dataset) == LEFT["merge"]


def test_a_tag_that_masks_a_type_without_a_checksum_stops_a_sync(a_share: Share, administer: Administer) -> None:
    dataset = a_share.dataset({"k": "NUMBER(38, 0)", "pair": "VARIANT"})
    a_share.write(dataset, [{"k": 1, "pair": [1]}], pa.schema({"k": pa.int64(), "pair": pa.list_(pa.int32())}))
    name = policy(administer, f"(val VARIANT) RETURNS VARIANT -> CASE WHEN {NOT_EXEMPT} THEN val END")
    with tagged(administer, [name]), pytest.raises(PolicyFoundError, match="a masking policy changes PAIR"):
        a_share.sync(dataset)
    assert a_share.target(dataset, order="k") == []


def test_the_first_sync_creates_no_target_of_masked_values(a_share: Share, administer: Administer) -> None:
    dataset = a_share.dataset(create_table="from_source")
    for column in MASKED:
        with tagged(administer, [mask(administer, column, NOT_EXEMPT)]):
            refused(a_share, dataset, BEFORE)
    sync(a_share, dataset, BEFORE)
    assert a_share.target(dataset) == BEFORE


def test_a_new_column_that_a_tag_masks_stops_a_sync(a_share: Share, administer: Administer) -> None:
    dataset = a_share.dataset({"k": "NUMBER(38, 0)", "name": "VARCHAR"}, schema_drift="add_new", proof="counts")
    a_share.write(dataset, BEFORE)
    with (
        tagged(administer, [mask(administer, "amount", NOT_EXEMPT)]),
        pytest.raises(PolicyFoundError, match="a masking policy changes AMOUNT"),
    ):
        a_share.sync(dataset)
    a_share.sync(dataset)
    assert a_share.target(dataset) == BEFORE


# ---- an exemption that is claimed and not true


@pytest.mark.parametrize(
    ("mode", "column"),
    [("replace", "name"), ("append", "k"), ("merge", "name"), ("merge", "k"), ("merge that deletes", "k")],
)
def test_an_exemption_that_is_claimed_and_not_true_adds_no_row_twice(
    a_share: Share, administer: Administer, mode: str, column: str
) -> None:
    dataset = a_share.dataset(policies="exempt", **MODES[mode])
    sync(a_share, dataset, BEFORE)
    masked(administer, dataset, column, NOT_EXEMPT)
    if mode.startswith("merge") and column == "k":
        assert "does not find 2 of the staged keys" in str(hidden(a_share, dataset, AFTER))
        assert all_rows(a_share, administer, dataset) == BEFORE
    else:  # nothing is read of the column, and what is written is right
        sync(a_share, dataset, AFTER)
        assert all_rows(a_share, administer, dataset) == LEFT[mode]


def test_keys_that_a_tag_of_the_target_masks_add_no_row_twice(a_share: Share, administer: Administer) -> None:
    dataset = a_share.dataset(**MERGE)
    sync(a_share, dataset, BEFORE)
    with tagged(administer, [mask(administer, "k", NOT_EXEMPT)], f"TABLE {dataset.target}"):
        hidden(a_share, dataset, AFTER)
    assert a_share.target(dataset) == BEFORE


# ---- row access policies


@pytest.mark.parametrize("mode", ["replace", pytest.param("merge", marks=pytest.mark.tier("full"))])
def test_a_row_access_policy_stops_a_sync_that_says_nothing_of_it(
    a_share: Share, administer: Administer, mode: str
) -> None:
    dataset = a_share.dataset(**MODES[mode])
    sync(a_share, dataset, BEFORE)
    name = filtered(administer, dataset, "TRUE")
    error = refused(a_share, dataset, AFTER)
    assert f"{dataset.target_table} has a row access policy" in str(error)
    administer(f"ALTER TABLE {dataset.target} DROP ROW ACCESS POLICY {name}")
    sync(a_share, dataset, AFTER)
    assert a_share.target(dataset) == LEFT[mode]


@EACH_MODE
def test_an_exempt_role_syncs_a_target_with_a_row_access_policy(
    a_share: Share, administer: Administer, mode: str
) -> None:
    dataset = a_share.dataset(policies="exempt", **MODES[mode])
    filtered(administer, dataset, f"{EXEMPT} OR amount < 0")
    sync(a_share, dataset, BEFORE)
    sync(a_share, dataset, AFTER)
    assert a_share.target(dataset) == LEFT[mode]


@pytest.mark.parametrize(
    ("mode", "shown", "seen"),
    [
        ("replace", "amount < 2.9", 1),
        ("append", "amount < 2.9", 1),
        pytest.param("append", "FALSE", 0, marks=pytest.mark.tier("full")),
        pytest.param("merge", "amount < 2.9", 1, marks=pytest.mark.tier("full")),
        ("merge that deletes", "FALSE", 0),
    ],
)
def test_rows_that_the_loader_would_not_see_are_not_published(
    a_share: Share, administer: Administer, mode: str, shown: str, seen: int
) -> None:
    """Of the rows that are there, the loader sees all: of those that come, it does not."""
    dataset = a_share.dataset(policies="exempt", **MODES[mode])
    name = filtered(administer, dataset, shown)
    error = hidden(a_share, dataset, AFTER)
    assert f"sees {seen} row(s) in {dataset.target_table}, where at least 2 must be" in str(error)
    assert f"does not find {2 - seen if mode.startswith('merge') else 0} of the staged keys" in str(error)
    administer(f"ALTER TABLE {dataset.target} DROP ROW ACCESS POLICY {name}")
    assert a_share.target(dataset) == []
    assert a_share.ledger(dataset) == []
    sync(a_share, dataset, AFTER)
    assert a_share.target(dataset) == AFTER


@pytest.mark.parametrize("mode", ["append", "merge", "merge that deletes"])
def test_rows_that_are_hidden_before_and_after_are_noticed(a_share: Share, administer: Administer, mode: str) -> None:
    """In a merge, what the loader sees would add up: it sees neither the old row of the key 2, nor the new one."""
    dataset = a_share.dataset(policies="exempt", **MODES[mode])
    sync(a_share, dataset, BEFORE)
    name = filtered(administer, dataset, "amount <> 2")
    run = a_share.run(dataset)
    a_share.put_export(dataset, run, AFTER)
    with pytest.raises(RowsHiddenError, match="Role DATA_SHARE_LOADER sees 1 of 2 row") as caught:
        a_share.step(run, "copy_into_staging")
    assert "IS_ROLE_IN_SESSION('DATA_SHARE_LOADER')" in caught.value.what_to_do
    administer(f"ALTER TABLE {dataset.target} DROP ROW ACCESS POLICY {name}")
    assert a_share.target(dataset) == BEFORE


@EACH_MODE
def test_a_row_access_policy_that_the_plan_does_not_show_is_noticed_by_its_effect(
    a_share: Share, administer: Administer, mode: str
) -> None:
    """One that is set while the sync runs."""
    dataset = a_share.dataset(**MODES[mode])
    sync(a_share, dataset, BEFORE)
    run = a_share.run(dataset)
    a_share.put_export(dataset, run, AFTER)
    for task_id in ("copy_into_staging", "check_staging"):
        a_share.step(run, task_id)
    name = filtered(administer, dataset, "amount < 2.4")
    with pytest.raises(RowsHiddenError):
        a_share.step(run, "publish")
    administer(f"ALTER TABLE {dataset.target} DROP ROW ACCESS POLICY {name}")
    assert a_share.target(dataset) == BEFORE
    a_share.step(run, "publish")
    assert a_share.target(dataset) == LEFT[mode]


# ---- what must still work


@pytest.mark.parametrize("mode", ["merge", "merge that deletes"])
def test_a_target_that_holds_a_key_twice_still_syncs(a_share: Share, mode: str) -> None:
    dataset = a_share.dataset(**MODES[mode])
    sync(a_share, dataset, BEFORE)
    a_share.insert(dataset, [{"k": 2, "name": "again", "amount": 7.0}, {"k": 1, "name": "again", "amount": 7.0}])
    sync(a_share, dataset, AFTER)
    left = a_share.target(dataset)
    assert [row for row in left if row["k"] != 1] == [AFTER[0], AFTER[0], AFTER[1]]
    assert len([row for row in left if row["k"] == 1]) == (2 if mode == "merge" else 0)


@EACH_MODE
def test_rows_that_others_insert_meanwhile_stop_nothing(a_share: Share, administer: Administer, mode: str) -> None:
    """Rows of other people that come between the count before the change and the count after it."""
    dataset = a_share.dataset(**MODES[mode])
    sync(a_share, dataset, BEFORE)
    dag = a_share.run(dataset).dag
    assert dag is not None
    run = a_share.run(dataset)
    a_share.put_export(dataset, run, AFTER)
    for task_id in ("copy_into_staging", "check_staging"):
        a_share.step(run, task_id)
    other = {"k": 99, "name": "other", "amount": 9.0}

    def insert_in_between(call: dict[str, Any]) -> None:
        """As one session: the emulator lets no other one write meanwhile."""
        body = call.get("json") or {}
        if "COMMIT" in body.get("statement", ""):
            insert = f"INSERT INTO {dataset.target} SELECT 99, 'other', 9;\n"
            head, after, rest = body["statement"].rpartition(
                f"UPDATE {SHARE.lock_table(dataset.target_table)}\nSET\n  rows_after ="
            )
            head, before, middle = head.rpartition(
                f"UPDATE {SHARE.lock_table(dataset.target_table)}\nSET\n  rows_after ="
            )
            assert before
            body["statement"] = head + insert + before + middle + after + rest
            count = body["parameters"]["MULTI_STATEMENT_COUNT"]
            body["parameters"]["MULTI_STATEMENT_COUNT"] = str(int(count) + 1)

    a_share.step(run, "publish", before=insert_in_between)
    assert a_share.target(dataset) == [*LEFT[mode], other]


@pytest.mark.parametrize("mode", ["replace", "merge that deletes"])
def test_an_export_without_rows_is_published(a_share: Share, administer: Administer, mode: str) -> None:
    dataset = a_share.dataset(allow_empty=True, policies="exempt", **MODES[mode])
    masked(administer, dataset, "name", EXEMPT)
    sync(a_share, dataset, BEFORE)
    sync(a_share, dataset, [])
    assert a_share.target(dataset) == []


def test_columns_of_every_type_and_size_are_read_as_they_were_written(a_share: Share) -> None:
    kinds = {
        **{f"n{p}_{s}": f"NUMBER({p}, {s}) NOT NULL" for p, s in ((1, 0), (1, 1), (2, 2), (38, 0), (38, 37), (9, 3))},
        **{f"v{size}": f"VARCHAR({size}) NOT NULL" for size in (1, 2, 30)},
        "f": "FLOAT NOT NULL",
        "b": "BOOLEAN NOT NULL",
        "d": "DATE NOT NULL",
        "t": "TIME(0)",
        "bytes": "BINARY",
        "ntz": "TIMESTAMP_NTZ(0)",
        "ltz": "TIMESTAMP_LTZ",
        "tz": "TIMESTAMP_TZ(3)",
        "variant": "VARIANT",
        "object": "OBJECT",
        '"array"': "ARRAY",
    }
    dataset = a_share.dataset({"k": "NUMBER(38, 0)", **kinds}, schema_drift="ignore_new", required_columns=("k",))
    run = a_share.run(dataset)
    a_share.put_export(dataset, run, BEFORE)
    # Past the samples: it is the export that lacks these columns.
    with pytest.raises(Exception, match="the export lacks"):
        a_share.step(run, "copy_into_staging")
