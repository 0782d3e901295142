"""The change data feed: ``table_changes`` has the rows of ``deltalake``, and refuses what Databricks refuses."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa
import pytest
from deltalake import Field, write_deltalake
from deltalake.schema import PrimitiveType

from emulators.databricks.unity_catalog import Policies, create_view, set_policies, table_uri
from emulators.s3 import storage_options

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

ROWS = pa.table({"id": [1, 2, 3, 4], "v": ["a", "b", None, "d"], "p": ["x", "y", "y", None]})
FEED = {"delta.enableChangeDataFeed": "true"}
ALL = "SELECT * FROM table_changes('{t}', {a}, {b})"


@pytest.fixture
def fed(here: Any) -> Any:
    """A partitioned table whose feed is on from the first version on."""
    write_deltalake(
        table_uri(here.name), ROWS, configuration=FEED, partition_by=["p"], storage_options=storage_options(here.url)
    )
    return here


def changes(here: Any, start: int, end: int) -> list[tuple[Any, ...]]:
    """The changes of a range, but for their times."""
    rows = here.rows(f"SELECT * EXCEPT (_commit_timestamp) FROM table_changes('{here.name}', {start}, {end})")
    return sorted((tuple(row.values()) for row in rows), key=repr)


def test_changes_have_kind_version_and_time(fed: Any) -> None:
    fed.table().update(updates={"v": "'n'"}, predicate="id = 2")
    fed.table().delete("id = 1")
    fed.write(ROWS.slice(0, 1), "append")

    assert changes(fed, 1, 3) == [
        (1, "a", "x", "delete", 2),
        (1, "a", "x", "insert", 3),
        (2, "b", "y", "update_preimage", 1),
        (2, "n", "y", "update_postimage", 1),
    ]
    assert len(changes(fed, 0, 0)) == ROWS.num_rows
    latest = fed.rows("SELECT * FROM table_changes('{t}', 3)")
    assert len(latest) == 1
    [committed] = fed.rows("SELECT timestamp FROM (DESCRIBE HISTORY {t}) WHERE version = 3")
    assert latest[0]["_commit_timestamp"] == committed["timestamp"]
    types = ", ".join(f"TYPEOF({name}) AS {name}" for name in ("_change_type", "_commit_version", "_commit_timestamp"))
    assert fed.first(f"SELECT {types} FROM table_changes('{fed.name}', 3)") == {
        "_change_type": "string",
        "_commit_version": "bigint",
        "_commit_timestamp": "timestamp",
    }


@pytest.mark.tier("nightly")
@pytest.mark.parametrize("seed", range(4))
def test_changes_are_those_of_deltalake_and_lead_from_one_version_to_another(fed: Any, seed: int) -> None:
    luck = random.Random(seed)
    for number in range(8):
        table, key = fed.table(), luck.randint(1, 6)
        kind = luck.choice(["append", "update", "delete", "merge", "overwrite", "optimize", "restore", "property"])
        rows = pa.table({"id": [key, key + 1], "v": [f"v{number}", None], "p": ["x", None]})
        if kind == "append":
            fed.write(rows.set_column(0, "id", pa.array([100 + number * 2, 101 + number * 2])), "append")
        elif kind == "update":
            table.update(updates={"v": f"'u{number}'", "id": "id + 1000"}, predicate=f"id = {key}")
        elif kind == "delete":
            table.delete(f"id = {key}")
        elif kind == "merge":
            merge = table.merge(rows, "t.id = s.id", source_alias="s", target_alias="t")
            merge.when_matched_update_all().when_not_matched_insert_all().execute()
        elif kind == "overwrite":
            fed.write(rows)
        elif kind == "optimize":
            table.optimize.compact()
        elif kind == "restore" and table.version():
            table.restore(luck.randint(0, table.version() - 1))
        else:
            table.alter.set_table_properties({"delta.logRetentionDuration": f"interval {30 + number} days"})
    latest = fed.table().version()
    for start in range(latest + 1):
        theirs = pa.table(fed.table().load_cdf(start, latest)).drop_columns(["_commit_timestamp"])
        columns = ["id", "v", "p", "_change_type", "_commit_version"]
        assert changes(fed, start, latest) == sorted(
            (tuple(row.values()) for row in theirs.select(columns).to_pylist()), key=repr
        )
    ranked = (
        "SELECT id, v, p FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY id ORDER BY _commit_version DESC,"
        " _change_type IN ('insert', 'update_postimage') DESC) AS newest"
        f" FROM table_changes('{fed.name}', CAST('0' AS BIGINT), CAST('{latest}' AS BIGINT)))"
        " WHERE newest = 1 AND _change_type NOT IN ('delete', 'update_preimage') ORDER BY id"
    )
    assert fed.rows(ranked) == fed.rows("SELECT id, v, p FROM {t} ORDER BY id")


def test_the_table_may_be_a_marker_and_the_versions_variables(fed: Any) -> None:
    fed.table().delete("id = 1")
    count = "SELECT COUNT(*) AS n FROM table_changes(:t, CAST(:a AS BIGINT), CAST(:b AS BIGINT)) AS c WHERE c.id > 0"
    assert fed.first(count, t=fed.name, a="1", b="1") == {"n": "1"}
    text = (
        "SET VAR t = :t; SET VAR a = '1'; SET VAR q = 'SELECT COUNT(*) FROM table_changes(:t, CAST(:a AS BIGINT), 1)'"
    )
    variables = "".join(f"DECLARE OR REPLACE VARIABLE {name} STRING; " for name in "qta")
    run = "DECLARE OR REPLACE VARIABLE n BIGINT; EXECUTE IMMEDIATE q INTO n USING t AS t, a AS a; SELECT n"
    assert fed.first(f"{variables}{text}; {run}", t=fed.name) == {"n": "1"}
    declare = "DECLARE OR REPLACE VARIABLE a BIGINT; SET VAR a = 1"
    assert fed.first(f"{declare}; SELECT COUNT(*) AS n FROM table_changes('{fed.name}', a)") == {"n": "1"}


def test_ranges_that_databricks_refuses_are_refused_in_its_words(fed: Any) -> None:
    fed.write(ROWS)
    for start, end, reason in (
        ("2", "2", "[DELTA_CDC_START_VERSION_AFTER_LATEST] Start version 2 exceeds the latest table version 1"),
        ("1", "0", "[DELTA_INVALID_CDC_RANGE] CDC range from start 1 to end 0 was invalid"),
        ("0", "2", "[DELTA_VERSION_NOT_FOUND] Cannot time travel Delta table to version 2. Available versions: [0, 1]"),
        ("-1", "1", "[DELTA_VERSION_NOT_FOUND] Cannot time travel Delta table to version -1."),
        ("'0'", "1", "[DELTA_TIMESTAMP_INVALID] The provided timestamp ('0')"),
        (":a", "1", "[DELTA_TIMESTAMP_INVALID]"),  # a marker is bound as a text
        ("1.0", "1", "[DELTA_TIMESTAMP_INVALID]"),
        ("NULL", "1", "[DELTA_CDC_READ_NULL_RANGE_BOUNDARY]"),
        ("0", "CAST(NULL AS BIGINT)", "[DELTA_CDC_READ_NULL_RANGE_BOUNDARY]"),
        ("x", "1", "[UNRESOLVED_COLUMN.WITHOUT_SUGGESTION]"),
        ("0", "1, 2", "[WRONG_NUM_ARGS.WITHOUT_SUGGESTION]"),
    ):
        refused = fed.refused(ALL.replace("{a}", start).replace("{b}", end), a="0")
        assert refused.startswith(reason), refused
    assert fed.refused("SELECT * FROM table_changes('nowhere.w.t', 0)").startswith("[TABLE_OR_VIEW_NOT_FOUND]")
    view = f"{fed.catalog}.w.v"
    create_view(fed.url, view, f"SELECT * FROM {fed.name}")
    assert fed.refused(f"SELECT * FROM table_changes('{view}', 0)").startswith("[DELTA_TABLE_ONLY_OPERATION]")
    set_policies(fed.url, fed.name, Policies(row_filter="main.security.mine"))
    assert fed.refused("SELECT * FROM table_changes('{t}', 0)").startswith("[ROW_LEVEL_SECURITY")


def test_the_feed_must_be_on_in_every_version_of_the_range(here: Any) -> None:
    here.write(ROWS)
    here.table().delete("id = 1")
    here.table().alter.set_table_properties(FEED)  # version 2
    here.table().delete("id = 2")
    here.table().alter.set_table_properties({"delta.enableChangeDataFeed": "false"})  # version 4
    here.table().delete("id = 3")
    here.table().alter.set_table_properties(FEED)  # version 6

    assert [row[-2:] for row in changes(here, 2, 3)] == [("delete", 3)]
    assert changes(here, 6, 6) == []
    for start, end, version in ((0, 3, 0), (1, 1, 1), (2, 4, 4), (3, 6, 4), (5, 6, 5)):
        refused = here.refused(ALL.replace("{a}", str(start)).replace("{b}", str(end)))
        assert refused.startswith(
            f"[DELTA_MISSING_CHANGE_DATA] Error getting change data for range [{start} , {end}] as change data was "
            f"not recorded for version [{version}]."
        )
        assert refused.endswith("SQLSTATE: KD002")


def test_change_data_that_was_removed_is_refused(fed: Any) -> None:
    fed.table().delete("id = 1")
    fed.table().update(updates={"v": "'n'"}, predicate="id = 2")
    # VACUUM removes the old files of change data too, which that of deltalake leaves.
    for path in fed.files.find(f"{table_uri(fed.name)}/_change_data"):
        fed.files.rm(path)
        break
    refused = fed.refused(ALL.replace("{a}", "1").replace("{b}", "2"))
    assert refused.startswith("[DELTA_CHANGE_DATA_FILE_NOT_FOUND] File s3://unity-catalog/")
    assert refused.endswith("SQLSTATE: 42K03")
    for path in fed.files.find(f"{table_uri(fed.name)}/_change_data"):
        fed.files.rm(path)
    fed.table().vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    assert fed.refused(ALL.replace("{a}", "0").replace("{b}", "0")).startswith("[DELTA_CHANGE_DATA_FILE_NOT_FOUND]")
    assert fed.first("SELECT COUNT(*) AS n FROM {t}") == {"n": "3"}


def test_changes_have_the_newest_columns_and_not_those_of_another_type(fed: Any) -> None:
    fed.table().alter.add_columns([Field("w", PrimitiveType("integer"))])
    fed.table().delete("id = 1")
    assert [row["w"] for row in fed.rows(ALL.replace("{a}", "0").replace("{b}", "0"))] == [None] * ROWS.num_rows

    fed.write(pa.table({"id": ["1"], "v": ["a"], "p": ["x"]}))
    refused = fed.refused(ALL.replace("{a}", "0").replace("{b}", "3"))
    assert refused.startswith("[DELTA_CHANGE_DATA_FEED_INCOMPATIBLE_SCHEMA_CHANGE]")
    assert len(changes(fed, 3, 3)) > 0
