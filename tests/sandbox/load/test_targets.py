"""Two datasets and one target: whatever it is called, the second one is refused, before it has changed anything."""

from __future__ import annotations

from typing import Any

import pytest

from data_share.dag_defaults import SHARE
from data_share.datasets import Dataset
from data_share.snowflake.target_lock import TargetTakenError
from tests.sandbox.load.driver import COLUMNS, Share

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox]

FIRST = [{"k": 1, "name": "first", "amount": 1.0}]
SECOND = [{"k": 2, "name": "second", "amount": 2.0}]
SPELLINGS = {
    "the same": "{name}",
    "in another case": "{upper}",
    "in quotes": '"{upper}"',
    "with its schema": "public.{name}",
    "with its database": "DATA_SHARE.PUBLIC.{upper}",
    "in quotes with its database": '"DATA_SHARE"."PUBLIC"."{upper}"',
}


def another(share: Share, dataset: Dataset, target_table: str, **fields: Any) -> Dataset:
    """Make a dataset with a target that is there, as another Airflow may have one."""
    return share.edit(dataset, name=f"{dataset.name}_of_others", target_table=target_table, **fields)


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_the_target_of_another_dataset_is_refused_before_anything_is_loaded(a_share: Share, spelling: str) -> None:
    mine = a_share.dataset()
    name = mine.target_table
    others = another(a_share, mine, spelling.format(name=name, upper=name.upper()))
    a_share.write(mine, FIRST)
    a_share.sync(mine)
    left = a_share.everything(mine)
    run = a_share.run(others)
    a_share.export(others, run)
    with pytest.raises(
        TargetTakenError, match=f"data_share.public.{name} is the target of the dataset {name}"
    ) as caught:
        a_share.step(run, "copy_into_staging")
    assert a_share.everything(mine) == left
    tables = a_share.query(f"SHOW TABLES IN SCHEMA {SHARE.staging_schema}")
    # The manifest was read, for which there are tables until the last step drops them; the data were not.
    ours = [row["name"] for row in tables if run.key.upper() in row["name"]]
    assert [name for name in ours if not name.endswith(("__MANIFEST", "__SAMPLES"))] == []
    # The way out that the failure tells: then it is the other one that is refused.
    a_share.query(caught.value.what_to_do.rpartition(": ")[2].rstrip(";"))
    a_share.steps(run)
    assert run.ledger_row["rows_in_target"] == len(FIRST)
    with pytest.raises(TargetTakenError, match=f"is the target of the dataset {others.name}"):
        a_share.sync(mine)


@pytest.mark.tier("full")
@pytest.mark.parametrize("load_mode", ["replace", "append"])
def test_of_two_datasets_that_are_staged_the_second_to_publish_is_refused(a_share: Share, load_mode: str) -> None:
    mine = a_share.dataset(load_mode=load_mode)
    others = another(a_share, mine, f"public.{mine.target_table}")
    for dataset, rows in ((mine, FIRST), (others, SECOND)):
        a_share.write(dataset, rows)
    first, second = a_share.staged(mine), a_share.staged(others)
    a_share.step(first, "publish")
    left = a_share.everything(mine)
    with pytest.raises(TargetTakenError, match="This attempt changed nothing"):
        a_share.step(second, "publish")
    assert a_share.everything(mine) == left
    assert a_share.ledger(others) == []


def test_a_dataset_that_writes_its_target_in_another_way_keeps_it(a_share: Share) -> None:
    dataset = a_share.dataset()
    for spelling in SPELLINGS.values():
        name = dataset.target_table
        target_table = spelling.format(name=name, upper=name.upper())
        edited = a_share.edit(dataset, target_table=target_table)
        a_share.write(edited, FIRST)
        a_share.sync(edited)
    assert len(a_share.lock(dataset)) == 1


def test_targets_of_one_name_in_two_schemas_are_two(a_share: Share) -> None:
    mine = a_share.dataset()
    a_share.query("CREATE SCHEMA IF NOT EXISTS data_share.elsewhere")
    listed = ", ".join(f"{column} {kind}" for column, kind in COLUMNS.items())
    for target in (f"data_share.elsewhere.{mine.target_table}", f'data_share.public."{mine.target_table}"'):
        a_share.query(f"CREATE TABLE {target} ({listed})")
    elsewhere = another(a_share, mine, f"elsewhere.{mine.target_table}")
    in_small_letters = a_share.edit(elsewhere, name=f"{mine.name}_small", target_table=f'"{mine.target_table}"')
    for _ in range(2):
        for number, dataset in enumerate((mine, elsewhere, in_small_letters)):
            a_share.write(dataset, [{"k": number, "name": dataset.name, "amount": 0.0}])
            a_share.sync(dataset)
            assert [row["name"] for row in a_share.target(dataset)] == [dataset.name]
    assert sorted(row["TARGET_SCHEMA"] for row in a_share.lock(mine)) == ["ELSEWHERE", "PUBLIC"]
    assert SHARE.lock_table(in_small_letters.target_table) != SHARE.lock_table(mine.target_table)
