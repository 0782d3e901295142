"""The SQL API's protocol: statuses, encodings, errors, repeated requests, cancelling."""

from __future__ import annotations

import datetime
import json
import time
import uuid
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

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
        ("FALSE", "boolean", "false"),
        ("(-1.50)::NUMBER(10, 2)", "fixed", "-1.50"),
        ("99999999999999999999999999999999999999", "fixed", "9" * 38),
        ("1e300::FLOAT", "real", "1e+300"),
        ("'NaN'::FLOAT", "real", "NaN"),
        ("'00:00:00'::TIME", "time", "0.000000000"),
    ],
)
def test_encodings(api: Any, expression: str, type_: str, value: str | None) -> None:
    answer = api.ok(f"SELECT {expression} AS v")
    assert answer["resultSetMetaData"]["rowType"][0]["type"] == type_
    assert answer["data"] == [[value]]


def test_the_description_of_columns(api: Any) -> None:
    api.ok("CREATE OR REPLACE TABLE described (n NUMBER(10, 2), t VARCHAR, b BINARY, at TIMESTAMP_NTZ)")
    number, text, binary, timestamp = api.ok("SELECT * FROM described")["resultSetMetaData"]["rowType"]
    assert (number["precision"], number["scale"], number["length"]) == (10, 2, None)
    assert (text["length"], text["byteLength"], text["precision"]) == (16777216, 16777216, None)
    assert binary["length"] == 8388608
    assert (timestamp["precision"], timestamp["scale"]) == (0, 9)


def test_partitions(api: Any) -> None:
    first = api.post("SELECT range AS n FROM range(25000) ORDER BY 1")
    answer = first.json()
    meta = answer["resultSetMetaData"]
    assert meta["numRows"] == 25000
    assert [part["rowCount"] for part in meta["partitionInfo"]] == [10000, 10000, 5000]
    assert ["compressedSize" in part for part in meta["partitionInfo"]] == [False, True, True]
    assert len(answer["data"]) == 10000
    assert "Content-Encoding" not in first.headers
    path = f"/api/v2/statements/{answer['statementHandle']}"
    with api.http.stream("GET", path, params={"partition": 2}) as last:
        raw = b"".join(last.iter_raw())
    assert last.headers["Content-Encoding"] == "gzip"
    assert len(raw) == meta["partitionInfo"][2]["compressedSize"]
    last = api.get(answer["statementHandle"], partition=2)
    assert len(last.content) == meta["partitionInfo"][2]["uncompressedSize"]
    assert set(last.json()) == {"data"}
    assert last.json()["data"][-1] == ["24999"]
    assert api.get(answer["statementHandle"], partition=0).json()["resultSetMetaData"] == meta
    for wrong in (3, "x"):
        beyond = api.get(answer["statementHandle"], partition=wrong)
        assert (beyond.status_code, beyond.json()["code"]) == (400, "391922")


@pytest.mark.parametrize(
    "options", [{"query": {"nullable": "false"}}, {"parameters": {"rows_per_resultset": 3}}], ids=["nullable", "rows"]
)
def test_other_forms_of_a_result_are_refused(api: Any, options: dict[str, Any]) -> None:
    answer = api.post("SELECT NULL", **options)
    assert (answer.status_code, answer.json()["code"]) == (400, "390142")
    assert "The emulator does not take" in answer.json()["message"]
    assert api.post("SELECT NULL", query={"nullable": "true"}).status_code == 200
    assert api.post("SELECT NULL", query={"nullable": "perhaps"}).status_code == 400


def test_asynchronous(api: Any) -> None:
    answer = api.post("SELECT SYSTEM$WAIT(2)", query={"async": "true"})
    assert answer.status_code == 202
    handle = answer.json()["statementHandle"]
    message = "Asynchronous execution in progress. Use provided query id to perform query monitoring and management."
    assert answer.json() == {
        "code": "333334",
        "message": message,
        "statementHandle": handle,
        "statementStatusUrl": f"/api/v2/statements/{handle}",
    }
    running = api.get(handle)
    assert (running.status_code, running.json()) == (202, answer.json())
    finished = api.finished(handle)
    assert (finished.status_code, finished.json()["data"]) == (200, [["waited 2 seconds"]])


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
    ("type_", "column", "value", "stored"),
    [
        ("FIXED", "NUMBER(38, 0)", "-7", "-7"),
        ("FIXED", "BOOLEAN", "1", "true"),
        ("REAL", "FLOAT", "1.5", "1.5"),
        ("TEXT", "NUMBER", "12", "12"),
        ("TEXT", "DATE", "2026-10-09", "20735"),
        ("TEXT", "TIMESTAMP_NTZ", "2026-10-09 12:34:56.123456", "1791549296.123456000"),
        ("TEXT", "BOOLEAN", "false", "false"),
        ("BINARY", "BINARY", "deadBEEF", "DEADBEEF"),
        ("BOOLEAN", "BOOLEAN", "0", "false"),
        ("DATE", "DATE", "1791504000000", "20735"),
        ("DATE", "DATE", "-86400000", "-1"),
        ("TIME", "TIME", "45296123456000", "45296.123456000"),
        ("TIMESTAMP_NTZ", "TIMESTAMP_NTZ", "1791549296123457000", "1791549296.123457000"),
        ("TIMESTAMP_NTZ", "TIMESTAMP_NTZ", "-1500000000", "-1.500000000"),
        ("TIMESTAMP_LTZ", "TIMESTAMP_LTZ", "1791549296123457000", "1791549296.123457000"),
        ("TIMESTAMP_TZ", "TIMESTAMP_LTZ", "1616173619000000000 960", "1616173619.000000000"),
    ],
)
def test_bindings_of_every_type(api: Any, type_: str, column: str, value: str, stored: str) -> None:
    api.ok(f"CREATE OR REPLACE TABLE bound (v {column})")
    api.ok("INSERT INTO bound VALUES (?)", bindings={"1": {"type": type_, "value": value}})
    assert api.rows("SELECT v FROM bound") == [[stored]]


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("FIXED", "x"),
        ("FIXED", "1.5"),
        ("FIXED", "1_000"),
        ("REAL", "much"),
        ("BINARY", "xyz"),
        ("BOOLEAN", "yes"),
        ("DATE", "2026-10-09"),
        ("TIMESTAMP_NTZ", "2026-10-09 12:34:56"),
        ("TIMESTAMP_TZ", "1616173619000000000 west"),
    ],
)
def test_bindings_of_wrong_values(api: Any, type_: str, value: str) -> None:
    answer = api.post("SELECT ?", bindings={"1": {"type": type_, "value": value}})
    assert answer.status_code == 422
    body = answer.json()
    assert (body["code"], body["sqlState"]) == ("100037", "22018")
    assert body["message"] == f"{type_} value '{value}' is not recognized"


def test_bound_values_are_strings(api: Any) -> None:
    for value in (1, True, ["1", "2"], {"a": 1}):
        answer = api.post("SELECT ?", bindings={"1": {"type": "FIXED", "value": value}})
        assert (answer.status_code, answer.json()["code"]) == (400, "390142")


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
        (
            "SELECT ?",
            {"bindings": {"1": {"type": "VARIANT", "value": "1"}}},
            "002040",
            "Unsupported data type 'VARIANT'",
        ),
        ("SELECT ?; SELECT 2", {"count": 2, "bindings": {"1": {"type": "TEXT", "value": "1"}}}, "000002", "bind"),
        ("BEGIN", {}, "391911", "Command not supported by SQL API: TRANSACTION_BEGIN"),
        ("USE ROLE PUBLIC", {}, "391911", "Command not supported by SQL API: USE"),
        ("COMMIT", {}, "391911", "Command not supported by SQL API"),
        ("ROLLBACK", {}, "391911", "Command not supported by SQL API"),
        ("ALTER SESSION SET QUERY_TAG = 'x'", {}, "391911", "Command not supported by SQL API"),
        ("SET x = 1", {}, "391911", "Command not supported by SQL API"),
        ("CREATE TEMPORARY TABLE x (n NUMBER)", {}, "391911", "Command not supported by SQL API"),
        ("PUT file:///tmp/x @y", {}, "391911", "Command not supported by SQL API: PUT"),
        ("SELECT 1; SELECT 2", {"count": 2, "warehouse": "NOPE"}, "000606", "No active warehouse selected"),
        ("SELECT * FROM range(3)", {"warehouse": "NOPE"}, "000606", "No active warehouse selected"),
        # The case of names outside of SQL counts.
        ("SELECT * FROM range(3)", {"warehouse": "load_wh"}, "000606", "No active warehouse selected"),
        ("SELECT * FROM t", {"database": "NOPE"}, "090105", "does not have a current database"),
        ("SELECT * FROM t", {"database": "data_share"}, "090105", "does not have a current database"),
        ("CREATE TABLE t (n NUMBER)", {"schema": "public"}, "090106", "does not have a current schema"),
        ("ALTER TABLE a SWAP WITH b", {}, "001003", "SWAP"),
    ],
)
def test_errors(api: Any, sql: str, options: dict[str, Any], code: str, message: str) -> None:
    actual = api.error(sql, **options)
    assert actual[0] == code
    assert message in actual[1]


def test_the_form_of_an_error(api: Any) -> None:
    answer = api.post("SELECT * FROM nope")
    body = answer.json()
    handle = body["statementHandle"]
    assert answer.status_code == 422
    assert body == {
        "code": "002003",
        "message": "SQL compilation error:\nObject 'NOPE' does not exist or not authorized.",
        "sqlState": "42S02",
        "statementHandle": handle,
        "statementStatusUrl": f"/api/v2/statements/{handle}",
        "createdOn": body["createdOn"],
    }
    assert abs(body["createdOn"] / 1000 - time.time()) < 60
    again = api.get(handle)
    assert (again.status_code, again.json()) == (422, body)


def test_several_statements(api: Any) -> None:
    answer = api.ok("SELECT 1 AS a; SELECT 2 AS b, 3 AS c", count=2)
    assert answer["data"] == [["Multiple statements executed successfully."]]
    assert answer["resultSetMetaData"]["rowType"][0]["name"] == "multiple statement execution"
    assert answer["statementHandle"] not in answer["statementHandles"]
    children = [api.get(handle).json() for handle in answer["statementHandles"]]
    assert [child["data"] for child in children] == [[["1"]], [["2", "3"]]]
    assert [child["statementHandle"] for child in children] == answer["statementHandles"]
    assert api.get(answer["statementHandle"]).json()["statementHandles"] == answer["statementHandles"]
    assert len(api.ok("SELECT 1; SELECT 2; SELECT 3;", count=0)["statementHandles"]) == 3


def test_an_error_among_several_statements(api: Any) -> None:
    sql = (
        "CREATE OR REPLACE TABLE table1 (i INT); INSERT INTO table1 (i) VALUES (1);\n"
        "  INSERT INTO table1 (i) VALUES ('This is not a valid integer.'); INSERT INTO table1 (i) VALUES (2)"
    )
    answer = api.post(sql, count=4)
    body = answer.json()
    assert (answer.status_code, body["code"], body["sqlState"]) == (422, "100132", "P0000")
    assert body["message"].startswith(
        "JavaScript execution error: Uncaught Execution of multiple statements failed on statement "
        '"INSERT INTO table1 (i) VALUES ..." (at line 2, position 2).\n'
    )
    assert "Numeric value 'This is not a valid integer.' is not recognized in SYSTEM$MULTISTMT at" in body["message"]
    assert "statementHandles" not in body
    # What came before it was executed, what follows was not.
    assert api.rows("SELECT i FROM table1") == [["1"]]


def test_refused_requests(api: Any) -> None:
    path = "/api/v2/statements"
    body = {"statement": "SELECT 1"}
    answer = api.http.post(path, content=b"{", headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json() == {"code": "390142", "message": "Incoming request does not contain a valid payload."}
    assert api.http.post(path, json={"statement": ""}).json()["code"] == "000900"
    assert api.http.post(path, json={"statement": "SELECT 1", "timeout": "soon"}).status_code == 400
    assert api.post("SELECT 1", parameters={"STATEMENT_TIMEOUT_IN_SECONDS": 5}).status_code == 400
    assert api.http.post(path, json=body, headers={"User-Agent": ""}).status_code == 400
    assert api.http.post(path, json=body, headers={"Accept": "text/html"}).json()["code"] == "391902"
    assert api.post("SELECT 1", query={"requestId": "7"}).status_code == 400
    assert api.post("SELECT 1", query={"async": "maybe"}).status_code == 400
    assert api.http.get("/api/v2/hello").status_code == 404


@pytest.mark.parametrize(("name", "value"), [("TIMEZONE", "UTC"), ("Timezone", "UTC"), ("QUERY_TAG", "x")])
def test_parameters_are_spelled_as_in_the_reference(api: Any, name: str, value: object) -> None:
    answer = api.post("SELECT 1", parameters={name: value})
    assert (answer.status_code, answer.json()["code"]) == (400, "390142")
    parameters = {"timezone": "UTC", "query_tag": "x", "multi_statement_count": "1"}
    assert api.post("SELECT 1", parameters=parameters).status_code == 200


def test_the_time_zone_of_a_request(api: Any) -> None:
    noon = "SELECT '2026-07-01 12:00:00'::TIMESTAMP_NTZ::TIMESTAMP_LTZ AS at"
    at_noon = datetime.datetime(2026, 7, 1, 12, tzinfo=datetime.UTC).timestamp()
    # Nobody has set another one: it is that of a new account.
    for parameters, hours in (({}, 7), ({"timezone": "UTC"}, 0), ({"timezone": "europe/berlin"}, -2)):
        [[at]] = api.rows(noon, parameters=parameters)
        assert float(at) == at_noon + hours * 3600
    wrong = api.error("SELECT 1", parameters={"timezone": "Mars/Olympus"})
    assert wrong == ("001008", "SQL compilation error:\ninvalid value [Mars/Olympus] for parameter 'TIMEZONE'")


def test_the_media_type_of_a_request(api: Any) -> None:
    path = "/api/v2/statements"
    content = json.dumps({"statement": "SELECT 1"}).encode()
    # httpx sets no media type for bytes: they are taken for JSON.
    assert api.http.post(path, content=content).status_code == 200
    charset = {"Content-Type": "application/json; charset=utf-8"}
    assert api.http.post(path, content=content, headers=charset).status_code == 200
    assert api.http.post(path, content=content, headers={"Content-Type": "text/plain"}).status_code == 415


def test_methods_that_there_are_not(api: Any) -> None:
    path = "/api/v2/statements"
    for answer in (api.http.get(path), api.http.delete(f"{path}/x"), api.http.get(f"{path}/x/cancel")):
        assert (answer.status_code, answer.content) == (405, b"")


def test_handles_that_there_are_not(api: Any) -> None:
    handle = str(uuid.uuid4())
    expected = {
        "code": "000709",
        "message": f"Statement {handle} not found",
        "sqlState": "02000",
        "statementHandle": handle,
    }
    for answer in (api.get(handle), api.http.post(f"/api/v2/statements/{handle}/cancel")):
        assert (answer.status_code, answer.json()) == (422, expected)


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


def test_a_request_that_failed_is_executed_again(api: Any) -> None:
    query = {"requestId": str(uuid.uuid4()), "retry": "true"}
    table = f"late_{uuid.uuid4().hex}"
    assert api.post(f"SELECT * FROM {table}", query=query).status_code == 422
    api.ok(f"CREATE TABLE {table} (n NUMBER)")
    assert api.post(f"SELECT * FROM {table}", query=query).status_code == 200


def test_dml_counts(api: Any) -> None:
    api.ok("CREATE OR REPLACE TABLE counted (n NUMBER, t VARCHAR)")
    answer = api.ok("INSERT INTO counted SELECT 1, 'a' UNION ALL SELECT 2, 'b'")
    assert answer["resultSetMetaData"]["rowType"][0]["name"] == "number of rows inserted"
    assert answer["stats"]["numRowsInserted"] == 2
    assert api.ok("UPDATE counted SET t = 'z'")["stats"]["numRowsUpdated"] == 2
    assert api.ok("DELETE FROM counted WHERE n = 1")["stats"]["numRowsDeleted"] == 1


def test_cancel_a_query(api: Any) -> None:
    handle = api.post(LONG, query={"async": "true"}).json()["statementHandle"]
    cancelled = api.http.post(f"/api/v2/statements/{handle}/cancel")
    assert cancelled.status_code == 200
    assert cancelled.json() == {
        "code": "000604",
        "sqlState": "57014",
        "message": "SQL execution canceled",
        "statementHandle": handle,
        "statementStatusUrl": f"/api/v2/statements/{handle}",
    }
    answer = api.finished(handle)
    assert (answer.status_code, answer.json()["code"]) == (422, "000604")
    assert answer.json()["message"] == "SQL execution canceled"
    # There is nothing left to cancel.
    again = api.http.post(f"/api/v2/statements/{handle}/cancel")
    assert (again.status_code, again.json()["code"]) == (422, "000709")


def test_cancel_several_statements(api: Any, tools: Any) -> None:
    sql = "SELECT SYSTEM$WAIT(62); SELECT 1"
    handle = api.post(sql, count=2, query={"async": "true"}).json()["statementHandle"]
    tools.until(lambda: any("SYSTEM$WAIT(62)" in s["sql"] for s in api.http.get("/_sandbox/statements").json()))
    assert handle in httpx.get(f"{api.url}/_sandbox/state").json()["running"]
    assert api.http.post(f"/api/v2/statements/{handle}/cancel").status_code == 200
    assert api.finished(handle).json()["code"] == "000604"
    assert handle not in httpx.get(f"{api.url}/_sandbox/state").json()["running"]


def test_timeout_of_a_query(api: Any) -> None:
    answer = api.post(LONG, timeout=1)
    body = answer.json()
    assert (answer.status_code, body["code"], body["sqlState"]) == (408, "000630", "57014")
    assert "timeout of 1 second(s) and was canceled." in body["message"]
    assert set(body) == {"code", "message", "sqlState", "statementHandle", "statementStatusUrl", "createdOn"}
    # 408 is an answer to the submission alone.
    assert (api.get(body["statementHandle"]).status_code, api.get(body["statementHandle"]).json()) == (422, body)


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
