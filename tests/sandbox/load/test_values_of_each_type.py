"""Hard values of each type, as the sandbox's own engine exports them: the target holds what the source holds."""

from __future__ import annotations

import pytest

from emulators.databricks.unity_catalog import write_table
from tests.sandbox.kinds import LOADED, NESTED, ROWS, differences, source
from tests.sandbox.load.driver import Share, unproven

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]


@pytest.mark.others_nightly
@pytest.mark.parametrize("mode", ["replace", "append", "merge"])
def test_the_target_holds_the_values_of_the_source(a_share: Share, mode: str) -> None:
    columns = {"k": "NUMBER(38, 0)"} | {name: kind.snowflake for name, kind in LOADED.items()}
    dataset = a_share.dataset(columns, load_mode=mode, **({"merge_keys": ("k",)} if mode == "merge" else {}))
    # A row that stays, but for a replace; one whose values a merge changes, each of them.
    a_share.query(f"INSERT INTO {dataset.target} (k) SELECT {ROWS}")
    if mode == "merge":
        a_share.query(f"INSERT INTO {dataset.target} (k) SELECT 0")
    write_table(a_share.s3_url, dataset.source_table, source(LOADED))

    run = a_share.sync(dataset)

    assert unproven(run) == NESTED
    rows = a_share.target(dataset, "k")
    assert differences(rows[:ROWS]) == []
    assert rows[ROWS:] == ([] if mode == "replace" else [{"k": ROWS} | dict.fromkeys(LOADED)])
