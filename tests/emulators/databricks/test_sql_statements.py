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
