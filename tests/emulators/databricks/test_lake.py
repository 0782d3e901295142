"""What a query reads by a name of Unity Catalog: versions and histories of tables, views, information schemas."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from deltalake import Field
from deltalake.schema import PrimitiveType

from emulators.databricks.unity_catalog import Policies, create_view, set_policies, table_uri

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

ROWS = pa.table({"id": [1, 2, 3], "v": ["a", "b", None]})
DECLARE = (
    "DECLARE OR REPLACE VARIABLE q STRING; DECLARE OR REPLACE VARIABLE n BIGINT; DECLARE OR REPLACE VARIABLE t STRING"
)


# Histories


def test_a_history_tells_each_commit_in_databricks_words(here: Any) -> None:
    here.write(ROWS)
    here.write(ROWS.slice(0, 1), "append")
    here.table().update(updates={"v": "'x'"}, predicate="id = 1")
    here.table().delete("id = 2")
    merge = here.table().merge(ROWS, "t.id = s.id", source_alias="s", target_alias="t")
    merge.when_not_matched_insert_all().execute()
    here.table().optimize.compact()
    here.table().alter.set_table_properties({"delta.enableChangeDataFeed": "true"})
    here.table().vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    here.table().alter.add_columns([Field("w", PrimitiveType("integer"))])
    here.table().restore(8)
    here.write(ROWS)
    began = datetime.now(UTC) - timedelta(minutes=1)

    rows = here.rows("SELECT * FROM (DESCRIBE HISTORY {t})")

    assert [row["version"] for row in rows] == list(reversed(range(len(rows))))
    by_operation = {row["operation"]: row for row in reversed(rows)}
    assert list(by_operation) == [
        "CREATE TABLE AS SELECT",
        "WRITE",
        "UPDATE",
        "DELETE",
        "MERGE",
        "OPTIMIZE",
        "SET TBLPROPERTIES",
        "VACUUM START",
        "VACUUM END",
        "ADD COLUMNS",
        "RESTORE",
    ]
    assert all(began < row["timestamp"] < datetime.now(UTC) for row in rows)
    assert rows[0].keys() == {
        *("version", "timestamp", "userId", "userName", "operation", "operationParameters", "job", "notebook"),
        *("clusterId", "readVersion", "isolationLevel", "isBlindAppend", "operationMetrics", "userMetadata"),
        "engineInfo",
    }
    append = rows[-2]
    assert (append["isBlindAppend"], append["readVersion"]) == (True, 0)
    assert dict(append["operationParameters"])["mode"] == "Append"
    assert dict(append["operationMetrics"])["numOutputRows"] == "1"
    assert dict(by_operation["DELETE"]["operationMetrics"])["numDeletedRows"] == "1"
    assert dict(by_operation["MERGE"]["operationMetrics"])["numTargetRowsInserted"] == "1"
    [kept] = dict(by_operation["SET TBLPROPERTIES"]["operationParameters"]).values()
    assert json.loads(kept) == {"delta.enableChangeDataFeed": "true"}


@pytest.mark.parametrize(
    "table",
    ["{t}", "`{t}`".replace(".", "`.`"), "IDENTIFIER(:t)", "IDENTIFIER(:c || '.w.t')", "{t} LIMIT 1"],
)
def test_a_table_of_a_history_may_be_named_in_any_way(here: Any, table: str) -> None:
    here.write(ROWS)
    table = table.replace("`{t}`", f"`{here.catalog}`.`w`.`t`")
    query = f"SELECT MAX(h.version) AS n, MAX(operationParameters['mode']) AS m FROM (DESCRIBE HISTORY {table}) AS h"
    assert here.first(query, t=here.name, c=here.catalog) == {"n": "0", "m": "Overwrite"}


def test_a_history_is_read_by_a_text_with_variables(here: Any) -> None:
    here.write(ROWS)
    here.write(ROWS)
    text = "SET VAR t = :t; SET VAR q = 'SELECT MAX(version) FROM (DESCRIBE HISTORY IDENTIFIER(:t))'"
    run = "EXECUTE IMMEDIATE q INTO n USING t AS t; SELECT n AS latest"
    assert here.first(f"{DECLARE}; {text}; {run}", t=here.name) == {"latest": "1"}


def test_a_history_is_of_the_log_files_that_are_left(here: Any) -> None:
    for _ in range(3):
        here.write(ROWS)
    here.table().create_checkpoint()
    for version in range(2):
        here.files.rm(f"{table_uri(here.name)}/_delta_log/{version:020d}.json")
    assert [row["version"] for row in here.rows("SELECT version FROM (DESCRIBE HISTORY {t})")] == [2]
    assert "version 1. Available versions: [2, 2]. SQLSTATE: 22003" in here.refused("SELECT 1 FROM {t} VERSION AS OF 1")


# Versions


def test_a_version_is_read_as_it_was_whatever_came_after(here: Any) -> None:
    here.write(ROWS)
    here.table().delete("id = 2")
    here.write(ROWS.append_column("w", pa.array([1, 2, 3])))

    assert here.first("SELECT COUNT(*) AS n FROM {t} VERSION AS OF 0 AS t WHERE t.id < 3") == {"n": "2"}
    assert here.first("SELECT COUNT(*) AS n FROM IDENTIFIER(:t) VERSION AS OF 1", t=here.name) == {"n": "2"}
    assert here.first("SELECT COUNT(*) AS n FROM {t} VERSION AS OF '0'") == {"n": "3"}
    assert here.rows("SELECT * FROM {t} VERSION AS OF 2 LIMIT 1")[0].keys() == {"id", "v", "w"}
    assert here.rows("SELECT * FROM {t} VERSION AS OF 0 EXCEPT SELECT * FROM {t} VERSION AS OF 1") == [
        {"id": 2, "v": "b"}
    ]
    gone = "SELECT f.* FROM {t} VERSION AS OF 0 AS f LEFT ANTI JOIN {t} VERSION AS OF 1 AS t USING (id)"
    assert here.rows(gone) == [{"id": 2, "v": "b"}]
    text = "SET VAR t = :t; SET VAR q = CONCAT('SELECT COUNT(*) FROM IDENTIFIER(:t) VERSION AS OF ', 1)"
    run = "EXECUTE IMMEDIATE q INTO n USING t AS t; SELECT n AS c"
    assert here.first(f"{DECLARE}; {text}; {run}", t=here.name) == {"c": "2"}


@pytest.mark.parametrize(
    "version", ["5L", ":v", "CAST('0' AS BIGINT)", "n", "(SELECT 0)", "-1", "'x'", "0.0", "_describe_history_"]
)
def test_a_version_that_is_not_written_out_is_a_syntax_error(here: Any, version: str) -> None:
    here.write(ROWS)
    refused = here.refused(f"SELECT 1 FROM {{t}} VERSION AS OF {version}", v="0")
    assert refused.startswith("[PARSE_SYNTAX_ERROR]")
    assert refused.endswith("SQLSTATE: 42601")


def test_versions_that_are_not_there_are_refused_in_databricks_words(here: Any) -> None:
    here.write(ROWS)
    here.write(ROWS)
    assert here.refused("SELECT 1 FROM {t} VERSION AS OF 2") == (
        "[DELTA_VERSION_NOT_FOUND] Cannot time travel Delta table to version 2. Available versions: [0, 1]. "
        "SQLSTATE: 22003"
    )
    here.table().vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    gone = here.refused("SELECT 1 FROM {t} VERSION AS OF 0")
    assert gone.startswith("[FAILED_READ_FILE.DBR_FILE_NOT_EXIST] Error while reading file s3://unity-catalog/")
    assert "[DELTA_FILE_NOT_FOUND_DETAILED]" in gone
    assert here.first("SELECT COUNT(*) AS n FROM {t} VERSION AS OF 1") == {"n": "3"}


def _committed(here: Any, version: int, age: timedelta) -> None:
    """Make a commit older."""
    path = f"{table_uri(here.name)}/_delta_log/{version:020d}.json"
    actions = [json.loads(line) for line in here.files.cat_file(path).splitlines()]
    for action in actions:
        if "commitInfo" in action:
            action["commitInfo"]["timestamp"] = int((time.time() - age.total_seconds()) * 1000)
    here.files.pipe_file(path, "\n".join(map(json.dumps, actions)).encode())


def test_a_version_that_is_older_than_files_are_kept_is_refused(here: Any) -> None:
    here.write(ROWS)
    here.write(ROWS)
    _committed(here, 0, timedelta(days=6))
    assert here.first("SELECT COUNT(*) AS n FROM {t} VERSION AS OF 0") == {"n": "3"}
    for version in (0, 1):
        _committed(here, version, timedelta(days=8))
    assert here.refused("SELECT 1 FROM {t} VERSION AS OF 0") == (
        "[DELTA_UNSUPPORTED_TIME_TRAVEL_BEYOND_DELETED_FILE_RETENTION_DURATION] Cannot time travel beyond "
        "delta.deletedFileRetentionDuration (168 HOURS) set on the table. SQLSTATE: 0AKDC"
    )
    assert here.first("SELECT COUNT(*) AS n FROM {t} VERSION AS OF 1") == {"n": "3"}  # it is the newest
    here.table().alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 30 days"})
    assert here.first("SELECT COUNT(*) AS n FROM {t} VERSION AS OF 0") == {"n": "3"}


# Views, and tables with a row filter or column masks


def test_a_view_is_read_and_has_neither_history_nor_versions(here: Any) -> None:
    here.write(ROWS)
    view = f"{here.catalog}.w.big"
    create_view(here.url, view, f"SELECT id AS key, v FROM {here.name} WHERE id > 1")

    assert here.rows(f"SELECT key FROM {view} AS b WHERE b.v IS NULL") == [{"key": 3}]
    here.write(ROWS.slice(0, 1))
    assert here.first("SELECT COUNT(*) AS n FROM IDENTIFIER(:t)", t=view) == {"n": "0"}
    assert here.refused(f"SELECT 1 FROM (DESCRIBE HISTORY {view})") == (
        f"[EXPECT_TABLE_NOT_VIEW.NO_ALTERNATIVE] 'DESCRIBE HISTORY' expects a table but `{here.catalog}`.`w`.`big` is "
        "a view. SQLSTATE: 42809"
    )
    assert here.refused(f"SELECT 1 FROM {view} VERSION AS OF 0") == (
        "[UNSUPPORTED_FEATURE.TIME_TRAVEL] The feature is not supported: Time travel on the relation: "
        f"`{here.catalog}`.`w`.`big`. SQLSTATE: 0A000"
    )


@pytest.mark.parametrize(
    ("policies", "condition"),
    [
        (Policies(row_filter="main.security.mine"), "ROW_LEVEL_SECURITY_FEATURE_NOT_SUPPORTED"),
        (Policies(column_masks={"v": "main.security.hide"}), "COLUMN_MASKS_FEATURE_NOT_SUPPORTED"),
        (
            Policies("main.security.mine", {"v": "main.security.hide"}),
            "ROW_LEVEL_SECURITY_COLUMN_MASK_FEATURE_NOT_SUPPORTED",
        ),
    ],
)
def test_a_restricted_table_is_read_only_as_it_is_now(here: Any, policies: Policies, condition: str) -> None:
    here.write(ROWS)
    set_policies(here.url, here.name, policies)

    assert here.first("SELECT COUNT(*) AS n FROM {t}") == {"n": "3"}
    assert here.refused("SELECT 1 FROM {t} VERSION AS OF 0").startswith(f"[{condition}.TIME_TRAVEL]")
    assert here.refused("SELECT 1 FROM (DESCRIBE HISTORY {t})").startswith(f"[{condition}.DESCRIBE_HISTORY]")
    here.write(ROWS)  # its log is as that of any table
    set_policies(here.url, here.name, Policies())
    assert here.first("SELECT COUNT(*) AS n FROM {t} VERSION AS OF 0") == {"n": "3"}


# Information schemas


def _created(here: Any) -> str:
    row = here.first(
        "SELECT UNIX_MICROS(created) AS at FROM IDENTIFIER(:x) WHERE table_schema = 'w' AND table_name = 't'",
        x=f"{here.catalog}.information_schema.tables",
    )
    return str(row["at"])


def test_tables_and_views_are_told_with_their_kinds(here: Any) -> None:
    here.write(ROWS)
    create_view(here.url, f"{here.catalog}.Other.`a-View`", f"SELECT 1 AS one FROM {here.name}")

    columns = "table_catalog, table_schema, table_name, table_type, data_source_format"
    query = f"SELECT {columns} FROM {here.catalog.upper()}.INFORMATION_SCHEMA.Tables ORDER BY table_name"
    assert [tuple(row.values()) for row in here.rows(query)] == [
        (here.catalog, "other", "a-view", "VIEW", "UNKNOWN_DATA_SOURCE_FORMAT"),
        (here.catalog, "w", "t", "MANAGED", "DELTA"),
    ]
    for condition in (
        "table_name = 't'",
        "'t' = table_name",
        "table_name = LOWER('T') AND table_schema = :s",
        "(table_name = 't' OR table_name = 'x')",
        "table_name = table_catalog OR table_name = 't'",
    ):
        query = f"SELECT MAX(table_name) AS m FROM {here.catalog}.information_schema.tables AS i WHERE {condition}"
        assert here.first(query, s="w") == {"m": "t"}, condition
    query = f"SELECT COUNT(*) AS n FROM {here.catalog}.information_schema.tables WHERE "
    assert here.first(query + "table_name = 't' AND table_schema = 'other'") == {"n": "0"}
    assert here.first(query + "table_name = NULL") == {"n": "0"}


def test_row_filters_and_column_masks_are_told(here: Any) -> None:
    here.write(ROWS)
    set_policies(here.url, here.name, Policies("main.security.mine", {"v": "main.security.hide"}))
    here.write(ROWS, name=f"{here.catalog}.w.open")

    assert here.rows(f"SELECT * FROM {here.catalog}.information_schema.row_filters") == [
        {
            "catalog_name": here.catalog,
            "schema_name": "w",
            "table_name": "t",
            "filter_catalog": "main",
            "filter_schema": "security",
            "filter_name": "mine",
            "filter_col_usage": "",
        }
    ]
    [mask] = here.rows(
        f"SELECT * FROM {here.catalog}.information_schema.column_masks WHERE schema_name = 'w' AND table_name = 't'"
    )
    assert (mask["column_name"], mask["mask_name"], mask["mask_col_usage"]) == ("v", "hide", None)


def test_a_table_is_created_again_only_when_it_was_dropped(here: Any) -> None:
    here.write(ROWS)
    created = _created(here)
    changes: list[Callable[[], Any]] = [
        lambda: here.write(ROWS.append_column("w", pa.array([1, 2, 3]))),
        lambda: here.table().restore(0),
        lambda: here.table().optimize.compact(),
        lambda: here.table().alter.set_table_properties({"delta.enableChangeDataFeed": "true"}),
        lambda: here.table().create_checkpoint(),
    ]
    for change in changes:
        change()
        assert _created(here) == created
    for file in here.files.glob(f"{table_uri(here.name)}/_delta_log/*.json")[:-1]:
        here.files.rm(file)
    assert _created(here) == created

    here.files.rm(table_uri(here.name), recursive=True)
    here.write(ROWS)
    assert _created(here) > created


def test_information_schemas_that_are_not_there_are_refused(here: Any) -> None:
    here.write(ROWS)
    assert here.refused("SELECT 1 FROM nowhere.information_schema.tables").startswith(
        "[NO_SUCH_CATALOG_EXCEPTION] Catalog 'nowhere' was not found."
    )
    for name in ("hive_metastore.information_schema.tables", f"{here.catalog}.information_schema.secrets"):
        assert here.refused(f"SELECT 1 FROM {name}").startswith("[TABLE_OR_VIEW_NOT_FOUND]")
    assert here.refused(f"SELECT 1 FROM {here.catalog}.information_schema.tables VERSION AS OF 0").startswith(
        "[UNSUPPORTED_FEATURE.TIME_TRAVEL]"
    )
