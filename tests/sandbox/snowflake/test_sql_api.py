"""The SQL API's protocol: statuses, encodings, errors, repeated requests, cancelling."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest

pytestmark = pytest.mark.sandbox

LONG = "SELECT COUNT(*) FROM range(1000000) a, range(1000000) b WHERE a.range + b.range = 7"


def test_a_result(api: Any) -> None:
    request_id = str(uuid.uuid4())
    answer = api.ok("SELECT 1 AS one, 'x' AS \"two\"", query={"requestId": request_id})
    handle = answer["statementHandle"]
    assert answer["code"] == "090001"
    assert answer["sqlState"] == "00000"
    assert answer["message"] == "Statement executed successfully."
    assert answer["requestId"] == request_id
    assert answer["statementStatusUrl"] == f"/api/v2/statements/{handle}?requestId={request_id}"
    assert abs(answer["createdOn"] / 1000 - time.time()) < 60
    assert answer["data"] == [["1", "x"]]
    meta = answer["resultSetMetaData"]
    assert (meta["numRows"], meta["format"]) == (1, "jsonv2")
    assert meta["partitionInfo"][0]["rowCount"] == 1
    assert [(column["name"], column["type"]) for column in meta["rowType"]] == [("ONE", "fixed"), ("two", "text")]
    assert set(meta["rowType"][0]) >= {"database", "schema", "table", "nullable", "precision", "scale", "collation"}
    assert api.get(handle).json()["data"] == [["1", "x"]]


@pytest.mark.parametrize(
    ("expression", "type_", "value"),
    [
        ("12345678.91::NUMBER(10, 2)", "fixed", "12345678.91"),
        ("999999999999999999::NUMBER(38, 0)", "fixed", "9" * 18),
        ("7", "fixed", "7"),
        ("1.5::FLOAT", "real", "1.5"),
        ("'ü'", "text", "ü"),
        ("TRUE", "boolean", "true"),
        ("TO_BINARY('deadbeef', 'HEX')", "binary", "DEADBEEF"),
        ("'2026-10-09'::DATE", "date", "20735"),
        ("'1900-01-01'::DATE", "date", "-25567"),
        ("'12:34:56.123456'::TIME", "time", "45296.123456000"),
        ("'2026-10-09 12:34:56.123456'::TIMESTAMP_NTZ", "timestamp_ntz", "1791549296.123456000"),
        ("'1969-12-31 23:59:58.500'::TIMESTAMP_NTZ", "timestamp_ntz", "-1.500000000"),
        ("'2026-10-09 12:34:56+00:00'::TIMESTAMP_LTZ", "timestamp_ltz", "1791549296.000000000"),
        ("'2026-10-09 12:34:56+00:00'::TIMESTAMP_TZ", "timestamp_tz", "1791549296.000000000 1440"),
        ("PARSE_JSON('{\"a\": [1, null]}')", "variant", '{\n  "a": [\n    1,\n    null\n  ]\n}'),
        ("NULL", "text", None),
    ],
)
def test_encodings(api: Any, expression: str, type_: str, value: str | None) -> None:
    answer = api.ok(f"SELECT {expression} AS v")
    assert answer["resultSetMetaData"]["rowType"][0]["type"] == type_
    assert answer["data"] == [[value]]


def test_nulls_as_strings(api: Any) -> None:
    assert api.rows("SELECT NULL", query={"nullable": "false"}) == [["null"]]


def test_partitions(api: Any) -> None:
    answer = api.ok("SELECT range AS n FROM range(25000) ORDER BY 1")
    assert [part["rowCount"] for part in answer["resultSetMetaData"]["partitionInfo"]] == [10000, 10000, 5000]
    assert len(answer["data"]) == 10000
    last = api.get(answer["statementHandle"], partition=2).json()
    assert set(last) == {"data"}
    assert last["data"][-1] == ["24999"]
    beyond = api.get(answer["statementHandle"], partition=3)
    assert (beyond.status_code, beyond.json()["code"]) == (400, "391922")


def test_asynchronous(api: Any) -> None:
    answer = api.post("SELECT SYSTEM$WAIT(0.2)", query={"async": "true"})
    assert answer.status_code == 202
    body = answer.json()
    assert body["code"] == "333334"
    assert body["message"].startswith("Asynchronous execution in progress.")
    assert api.get(body["statementHandle"]).status_code == 202
    finished = api.finished(body["statementHandle"])
    assert (finished.status_code, finished.json()["data"]) == (200, [["waited 0.2 seconds"]])


def test_bindings(api: Any) -> None:
    bindings = {
        "1": {"type": "FIXED", "value": "2"},
        "2": {"type": "TEXT", "value": "it's; --"},
        "3": {"type": "DATE", "value": "1791504000000"},
        "4": {"type": "BOOLEAN", "value": "true"},
        "5": {"type": "TEXT", "value": None},
    }
    assert api.rows("SELECT ?::NUMBER + 1, ?, ?, ?, ?", bindings=bindings) == [["3", "it's; --", "20735", "true", None]]


@pytest.mark.parametrize(
    ("sql", "options", "code", "message"),
    [
        ("SELECT * FROM nope", {}, "002003", "SQL compilation error:\nObject 'NOPE' does not exist or not authorized."),
        ("SELECT * FROM public.nope", {}, "002003", "Object 'PUBLIC.NOPE' does not exist"),
        ("SELECT nope FROM range(1)", {}, "000904", "invalid identifier 'NOPE'"),
        ("SELEC 1", {}, "001003", "syntax error line 1 at position 6 unexpected '1'."),
        ("SELECT FROM WHERE", {}, "001003", "syntax error"),
        ("DESELECT", {}, "001003", "unexpected 'DESELECT'"),
        ("SELECT 'abc", {}, "001003", ""),
        ("SELECT nosuch(1)", {}, "002140", "Unknown function NOSUCH"),
        ("SELECT 'abc'::NUMBER", {}, "100038", "Numeric value 'abc' is not recognized"),
        ("SELECT 'abc'::DATE", {}, "100040", "Date 'abc' is not recognized"),
        ("SELECT 'abc'::TIMESTAMP_NTZ", {}, "100035", "Timestamp 'abc' is not recognized"),
        ("SELECT 1; SELECT 2", {}, "000008", "Actual statement count 2 did not match the desired statement count 1."),
        ("SELECT 1", {"count": 2}, "000008", "Actual statement count 1 did not match the desired statement count 2."),
        ("SELECT ?", {}, "002049", "Bind variable"),
        ("SELECT ?", {"bindings": {"1": {"type": "FIXED", "value": "x"}}}, "002086", "Invalid value"),
        (
            "SELECT ?",
            {"bindings": {"1": {"type": "VARIANT", "value": "1"}}},
            "002040",
            "Unsupported data type 'VARIANT'",
        ),
        ("SELECT ?; SELECT 2", {"count": 2, "bindings": {"1": {"type": "TEXT", "value": "1"}}}, "000002", "bind"),
        ("BEGIN", {}, "391911", "Command not supported by SQL API: TRANSACTION_BEGIN"),
        ("USE ROLE PUBLIC", {}, "391911", "Command not supported by SQL API: USE"),
        (
            "USE WAREHOUSE nope; SELECT 1",
            {"count": 2},
            "002043",
            "Object does not exist, or operation cannot be performed",
        ),
        ("SELECT * FROM range(3)", {"warehouse": "NOPE"}, "000606", "No active warehouse selected"),
        ("SELECT * FROM t", {"database": "NOPE"}, "090105", "does not have a current database"),
        ("ALTER TABLE a SWAP WITH b", {}, "001003", "SWAP"),
    ],
)
def test_errors(api: Any, sql: str, options: dict[str, Any], code: str, message: str) -> None:
    actual = api.error(sql, **options)
    assert actual[0] == code
    assert message in actual[1]


def test_the_form_of_an_error(api: Any) -> None:
    body = api.post("SELECT * FROM nope").json()
    assert body["sqlState"] == "42S02"
    assert body["statementStatusUrl"].startswith(f"/api/v2/statements/{body['statementHandle']}?requestId=")
    assert api.get(body["statementHandle"]).status_code == 422


def test_refused_requests(api: Any) -> None:
    path = "/api/v2/statements"
    assert api.http.post(path, content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
    assert api.http.post(path, json={"statement": ""}).json()["code"] == "000900"
    assert api.http.post(path, json={"statement": "SELECT 1", "timeout": "soon"}).status_code == 400
    assert api.http.post(path, content=b"SELECT 1", headers={"Content-Type": "text/plain"}).status_code == 415
    assert api.http.post(path, json={"statement": "SELECT 1"}, headers={"User-Agent": ""}).status_code == 400
    assert api.post("SELECT 1", query={"requestId": "7"}).status_code == 400
    assert api.get(str(uuid.uuid4())).status_code == 404
    assert api.http.get(path).status_code == 405
    assert api.http.delete(f"{path}/x").status_code == 405


def test_a_retried_request_is_not_executed_again(api: Any) -> None:
    api.ok("CREATE OR REPLACE TABLE presses (n NUMBER)")
    query = {"requestId": str(uuid.uuid4()), "retry": "true"}
    first = api.ok("INSERT INTO presses VALUES (1)", query=query)
    second = api.ok("INSERT INTO presses VALUES (1)", query=query)
    assert first["statementHandle"] == second["statementHandle"]
    again = api.post("INSERT INTO presses VALUES (1)", query={**query, "async": "true"})
    assert (again.status_code, again.json()["statementHandle"]) == (202, first["statementHandle"])
    assert api.rows("SELECT COUNT(*) FROM presses") == [["1"]]
    del query["retry"]
    api.ok("INSERT INTO presses VALUES (1)", query=query)
    assert api.rows("SELECT COUNT(*) FROM presses") == [["2"]]


def test_dml_counts(api: Any) -> None:
    api.ok("CREATE OR REPLACE TABLE counted (n NUMBER, t VARCHAR)")
    answer = api.ok("INSERT INTO counted SELECT 1, 'a' UNION ALL SELECT 2, 'b'")
    assert answer["resultSetMetaData"]["rowType"][0]["name"] == "number of rows inserted"
    assert answer["stats"]["numRowsInserted"] == 2
    assert api.ok("UPDATE counted SET t = 'z'")["stats"]["numRowsUpdated"] == 2
    assert api.ok("DELETE FROM counted WHERE n = 1")["stats"]["numRowsDeleted"] == 1


def test_cancel_a_query(api: Any) -> None:
    handle = api.post(LONG, query={"async": "true"}).json()["statementHandle"]
    assert api.http.post(f"/api/v2/statements/{handle}/cancel").status_code == 200
    answer = api.finished(handle)
    assert (answer.status_code, answer.json()["code"]) == (422, "000604")
    assert answer.json()["message"] == "SQL execution canceled"


def test_timeout_of_a_query(api: Any) -> None:
    answer = api.post(LONG, timeout=1)
    assert (answer.status_code, answer.json()["code"]) == (408, "000630")
    assert "timeout of 1 second(s) and was canceled." in answer.json()["message"]


def test_the_list_of_statements(api: Any) -> None:
    tag = f"run-{uuid.uuid4()}"
    api.ok("SELECT 1; SELECT 2", count=2, parameters={"query_tag": tag})
    api.error("SELECT * FROM nope", parameters={"query_tag": tag})
    listed = [s for s in api.http.get("/_sandbox/statements").json() if s["query_tag"] == tag]
    assert [(s["sql"], s["status"]) for s in listed] == [
        ("SELECT 1", "success"),
        ("SELECT 2", "success"),
        ("SELECT * FROM nope", "failed"),
    ]
    assert "does not exist" in listed[2]["error"]
    assert {s["user"] for s in listed} == {"SHARE_SVC"}
