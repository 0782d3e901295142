"""SQL warehouses and single statements of the emulator, in the fields of the SDK's data classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from databricks.sdk.service import sql

from emulators.s3 import SHARE_BUCKET
from tests.emulators.databricks.conftest import BUNDLE, PROJECT, WorkspaceServer

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

FOLDER = f"s3://{SHARE_BUCKET}/dataset/statements/"


@pytest.fixture(scope="module")
def workspace(lake: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceServer]:
    server = WorkspaceServer(tmp_path_factory.mktemp("statements"), lake, BUNDLE)
    yield server
    server.stop()


def execute(workspace: WorkspaceServer, statement: str) -> dict[str, Any]:
    body = {"warehouse_id": "sandbox", "statement": statement, "wait_timeout": "50s"}
    answer = workspace.client.post("/api/2.0/sql/statements", json=body)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert workspace.client.get(f"/api/2.0/sql/statements/{told['statement_id']}").json() == told
    # Names and enumerations are those of the reference, or something is lost.
    assert sql.StatementResponse.from_dict(told).as_dict() == told
    return dict(told)


def test_a_warehouse_tells_its_type(workspace: WorkspaceServer) -> None:
    told = workspace.client.get("/api/2.0/sql/warehouses/sandbox").json()
    assert sql.GetWarehouseResponse.from_dict(told).as_dict() == told
    assert (told["warehouse_type"], told["enable_serverless_compute"]) == ("PRO", True)
    assert told["channel"]["dbsql_version"]


def test_a_table_is_made_read_and_dropped(workspace: WorkspaceServer) -> None:
    written = f"INSERT OVERWRITE DIRECTORY '{FOLDER}' USING PARQUET SELECT 1 AS n, CAST(NULL AS STRING) AS t"
    assert execute(workspace, written)["status"] == {"state": "SUCCEEDED"}
    created = f"CREATE TABLE main.statements.made AS SELECT * FROM parquet.`{FOLDER}`"
    assert execute(workspace, created)["status"] == {"state": "SUCCEEDED"}
    assert execute(workspace, "SELECT * FROM main.statements.made")["result"]["data_array"] == [["1", None]]
    assert "TABLE_OR_VIEW_ALREADY_EXISTS" in execute(workspace, created)["status"]["error"]["message"]
    execute(workspace, "DROP TABLE IF EXISTS main.statements.made")
    gone = execute(workspace, "SELECT * FROM main.statements.made")
    assert "TABLE_OR_VIEW_NOT_FOUND" in gone["status"]["error"]["message"]
    assert execute(workspace, "DROP TABLE IF EXISTS main.statements.made")["status"] == {"state": "SUCCEEDED"}
    assert execute(workspace, "DROP TABLE main.statements.made")["status"]["state"] == "FAILED"


@pytest.fixture
def table(workspace: WorkspaceServer) -> Iterator[str]:
    """A table with the change data feed, and three rows."""
    name = "main.statements.changed"
    rows = "SELECT * FROM VALUES (1, 'a'), (2, 'b'), (3, 'it\\'s') AS t(K, v)"
    done(workspace, f"CREATE TABLE {name} TBLPROPERTIES (delta.enableChangeDataFeed = true) AS {rows}")
    yield name
    done(workspace, f"DROP TABLE {name}")


def done(workspace: WorkspaceServer, statement: str) -> list[list[str | None]]:
    told = execute(workspace, statement)
    assert told["status"] == {"state": "SUCCEEDED"}, told
    return list(told["result"].get("data_array", []))


def history(workspace: WorkspaceServer, table: str, told: str) -> list[list[str | None]]:
    return done(workspace, f"SELECT operation, {told} FROM (DESCRIBE HISTORY {table}) ORDER BY version")


def test_rows_are_changed_and_the_history_tells_how(workspace: WorkspaceServer, table: str) -> None:
    some = "K = 1 OR (k > 2 AND NOT k = 4)"
    assert done(workspace, f"UPDATE {table} SET k = k + 100 - 1, v = 'it\\'s new' WHERE {some}") == [["2"]]
    assert done(workspace, f"update {table} set v = 'n' where k = 2") == [["1"]]
    assert done(workspace, f"DELETE FROM {table} WHERE v = 'it\\'s new' AND k <> 100") == [["1"]]
    assert done(workspace, f"SELECT * FROM {table} ORDER BY k") == [["2", "n"], ["100", "it's new"]]
    assert history(workspace, table, "operationMetrics['numAddedChangeFiles']") == [
        ["CREATE TABLE AS SELECT", None],
        ["UPDATE", "1"],
        ["UPDATE", "1"],
        ["DELETE", "1"],
    ]
    # What changes no row, Databricks does not commit.
    assert done(workspace, f"UPDATE {table} SET v = 'x' WHERE k = 77") == [["0"]]
    assert done(workspace, f"DELETE FROM {table} WHERE k = 77") == [["0"]]
    assert len(history(workspace, table, "version")) == 4
    assert done(workspace, f"UPDATE {table} SET v = 'x'") == [["2"]]
    assert done(workspace, f"DELETE FROM {table}") == [["2"]]
    assert done(workspace, f"SELECT * FROM {table}") == []


@pytest.mark.parametrize("written", ["delta.enableChangeDataFeed = true", "'DELTA.enablechangedatafeed'='true'"])
def test_the_history_tells_the_properties_that_are_set(workspace: WorkspaceServer, table: str, written: str) -> None:
    done(workspace, f"ALTER TABLE {table} SET TBLPROPERTIES (delta.enableChangeDataFeed = false)")
    done(workspace, f"ALTER TABLE {table} SET TBLPROPERTIES ({written})")
    assert history(workspace, table, "operationParameters['properties']") == [
        ["CREATE TABLE AS SELECT", '{"delta.enableChangeDataFeed": "true"}'],
        ["SET TBLPROPERTIES", '{"delta.enableChangeDataFeed":"false"}'],
        ["SET TBLPROPERTIES", '{"delta.enableChangeDataFeed":"true"}'],
    ]


def test_vacuum_is_in_the_history_also_if_there_is_nothing_to_remove(workspace: WorkspaceServer, table: str) -> None:
    done(workspace, f"DELETE FROM {table} WHERE k = 1")
    assert done(workspace, f"VACUUM {table}") == [["s3://unity-catalog/main/statements/changed"]]
    assert history(workspace, table, "operationParameters['defaultRetentionMillis']")[2:] == [
        ["VACUUM START", str(7 * 24 * 3_600_000)],
        ["VACUUM END", None],
    ]
    assert done(workspace, f"SELECT COUNT(*) FROM {table} VERSION AS OF 0") == [["3"]]
    done(workspace, f"DELETE FROM {table} WHERE k = 2")
    assert done(workspace, f"SELECT COUNT(*) FROM {table}") == [["1"]]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (
            "UPDATE main.statements.nothing SET v = 'x'",
            "[TABLE_OR_VIEW_NOT_FOUND] The table or view `main`.`statements`",
        ),
        ("DELETE FROM nothing", "[TABLE_OR_VIEW_NOT_FOUND]"),
        ("VACUUM main.statements.nothing", "[TABLE_OR_VIEW_NOT_FOUND]"),
        ("UPDATE {t} SET w = 'x'", "[UNRESOLVED_COLUMN.WITH_SUGGESTION]"),
        ("DELETE FROM {t} WHERE w = 'x'", "[UNRESOLVED_COLUMN.WITH_SUGGESTION]"),
        ("UPDATE {t} SET v = 'x', V = 'y'", "[DELTA_CONFLICT_SET_COLUMN] There is a conflict from these SET columns"),
        ("UPDATE {t} SET v = UPPER(v)", "[PARSE_SYNTAX_ERROR]"),
        ("UPDATE {t} AS u SET u.v = 'x'", "[UNRESOLVED_COLUMN.WITH_SUGGESTION]"),
        ("DELETE FROM {t} WHERE k = (SELECT 1)", "[PARSE_SYNTAX_ERROR]"),
        ("DELETE {t} WHERE k = 1 ORDER BY k", "[PARSE_SYNTAX_ERROR]"),
        ("UPDATE {t} SET k = 'x'", "[INTERNAL_ERROR] The sandbox cannot do this"),
        ("ALTER TABLE {t} SET TBLPROPERTIES (delta.enableChangeDataFeed = maybe)", "[PARSE_SYNTAX_ERROR]"),
        ("ALTER TABLE {t} SET TBLPROPERTIES (delta.appendOnly = true)", "[PARSE_SYNTAX_ERROR]"),
        ("ALTER TABLE {t} DROP COLUMN v", "[PARSE_SYNTAX_ERROR]"),
        ("CREATE TABLE main.statements.other TBLPROPERTIES (x = 1) AS SELECT 1 AS n", "[PARSE_SYNTAX_ERROR]"),
        ("VACUUM {t} RETAIN 0 HOURS", "[PARSE_SYNTAX_ERROR]"),
    ],
)
def test_a_change_that_is_refused_says_why(workspace: WorkspaceServer, table: str, statement: str, said: str) -> None:
    told = execute(workspace, statement.replace("{t}", table))
    assert told["status"]["state"] == "FAILED"
    assert told["status"]["error"]["message"].startswith(said)
    assert len(history(workspace, table, "version")) == 1


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("SELECT FROM", "PARSE_SYNTAX_ERROR"),
        ("SELECT * FROM parquet.`s3://elsewhere/x/`", "No parent external location"),
        ("INSERT OVERWRITE DIRECTORY 's3://elsewhere/x/' USING PARQUET SELECT 1 AS n", "No parent external location"),
        ("INSERT INTO main.weather.forecasts SELECT 1", "PARSE_SYNTAX_ERROR"),
    ],
)
def test_a_statement_that_fails_says_why(workspace: WorkspaceServer, statement: str, said: str) -> None:
    told = execute(workspace, statement)
    assert told["status"]["state"] == "FAILED"
    assert said in told["status"]["error"]["message"]


def test_a_request_without_its_fields_is_refused(workspace: WorkspaceServer) -> None:
    assert workspace.client.post("/api/2.0/sql/statements", json={"statement": "SELECT 1"}).status_code == 400
    assert workspace.client.get("/api/2.0/sql/statements/nothing").status_code == 404


def test_a_file_of_the_workspace_is_there_or_not(workspace: WorkspaceServer) -> None:
    path = str(PROJECT / "include" / "sql" / "databricks" / "export_dataset.sql")
    told = workspace.client.get("/api/2.0/workspace/get-status", params={"path": path})
    assert (told.status_code, told.json()["object_type"]) == (200, "FILE")
    assert workspace.client.get("/api/2.0/workspace/get-status", params={"path": "/nothing"}).status_code == 404
