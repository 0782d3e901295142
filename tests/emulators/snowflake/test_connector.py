"""The connector's protocol, with the real connector."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import pytest
import snowflake.connector

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox]


def test_statements(connect: Any) -> None:
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE OR REPLACE TABLE by_connector (id NUMBER NOT NULL, name VARCHAR)")
        cursor.execute("INSERT INTO by_connector VALUES (1, 'a'), (2, 'b')")
        assert cursor.rowcount == 2
        assert cursor.execute("SELECT * FROM by_connector ORDER BY id").fetchall() == [(1, "a"), (2, "b")]
        with pytest.raises(snowflake.connector.errors.ProgrammingError) as error:
            cursor.execute("SELECT * FROM nope")
        assert error.value.errno == 2003
        assert "Object 'NOPE' does not exist or not authorized." in str(error.value)


def test_the_same_translation_as_the_sql_api(connect: Any, put: Any, folder: str, tools: Any) -> None:
    put(f"{folder}a.parquet", {"id": [1]})
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE STAGE IF NOT EXISTS c_stage URL = '{tools.URL}' STORAGE_INTEGRATION = S3_SHARE_INT")
        cursor.execute("CREATE OR REPLACE TABLE loaded (id NUMBER)")
        (row,) = cursor.execute(f"COPY INTO loaded FROM @c_stage/{folder} {tools.COPY}").fetchall()
        assert row[1:4] == ("LOADED", 1, 1)
        cursor.execute("GRANT SELECT ON TABLE loaded TO ROLE data_share_loader")
        cursor.execute("ALTER SESSION SET QUERY_TAG = 'x'")
        assert cursor.execute(
            "MERGE INTO loaded t USING (SELECT 1 AS id) s ON t.id = s.id WHEN MATCHED THEN DELETE"
        ).fetchall() == [(1,)]


def test_a_transaction(connect: Any, api: Any) -> None:
    api.ok("CREATE OR REPLACE TABLE shared (id NUMBER)")
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO shared VALUES (1)")
        assert api.rows("SELECT COUNT(*) FROM shared") == [["0"]]
        cursor.execute("COMMIT")
        assert api.rows("SELECT COUNT(*) FROM shared") == [["1"]]
        cursor.execute("BEGIN")
        cursor.execute("DELETE FROM shared")
    # Closing the connection rolled back, and let the next writer in.
    api.ok("INSERT INTO shared VALUES (2)")
    assert api.rows("SELECT COUNT(*) FROM shared") == [["2"]]


def test_connecting_creates_nothing(connect: Any) -> None:
    with connect(database="NEW_DB", schema="NEW_SCHEMA") as connection, connection.cursor() as cursor:
        names = [row[1] for row in cursor.execute("SHOW DATABASES").fetchall()]
        assert "NEW_DB" not in names
        with pytest.raises(snowflake.connector.errors.ProgrammingError, match="does not have a current database"):
            cursor.execute("SELECT * FROM t")


def test_autocommit_off(connect: Any, api: Any) -> None:
    api.ok("CREATE OR REPLACE TABLE committed (n NUMBER)")
    with connect(autocommit=False) as connection:
        connection.cursor().execute("INSERT INTO committed VALUES (1)")
        assert api.rows("SELECT COUNT(*) FROM committed") == [["0"]]
        connection.commit()
        connection.cursor().execute("INSERT INTO committed VALUES (2)")
        connection.rollback()
        connection.autocommit(True)
        connection.cursor().execute("INSERT INTO committed VALUES (3)")
        assert api.rows("SELECT n FROM committed ORDER BY n") == [["1"], ["3"]]


def test_a_statement_that_takes_too_long_for_the_client(connect: Any, api: Any, tools: Any) -> None:
    with connect() as connection:
        with pytest.raises(snowflake.connector.errors.ProgrammingError) as error:
            connection.cursor().execute("SELECT SYSTEM$WAIT(63)", timeout=1)
        assert error.value.errno == 604

        def ended() -> bool:
            statements = api.http.get("/_sandbox/statements").json()
            return any("SYSTEM$WAIT(63)" in s["sql"] and s["error"] == "SQL execution canceled" for s in statements)

        tools.until(ended)
        assert connection.cursor().execute("SELECT 1").fetchone() == (1,)


def test_the_statement_timeout_of_a_session(connect: Any) -> None:
    with (
        connect(session_parameters={"STATEMENT_TIMEOUT_IN_SECONDS": 1}) as connection,
        pytest.raises(snowflake.connector.errors.ProgrammingError, match="timeout of 1 second") as error,
    ):
        connection.cursor().execute("SELECT SYSTEM$WAIT(64)")
    assert error.value.errno == 630


def test_the_time_zone_of_a_session(connect: Any) -> None:
    noon = "SELECT DATE_PART(EPOCH_SECOND, '2026-07-01 12:00:00'::TIMESTAMP_NTZ::TIMESTAMP_LTZ) AS at"
    at_noon = datetime.datetime(2026, 7, 1, 12, tzinfo=datetime.UTC).timestamp()
    with connect(session_parameters={"TIMEZONE": "UTC"}) as connection, connection.cursor() as cursor:
        assert cursor.execute(noon).fetchone() == (at_noon,)
        cursor.execute("ALTER SESSION SET TIMEZONE = 'Europe/Berlin'")
        assert cursor.execute(noon).fetchone() == (at_noon - 2 * 3600,)
        cursor.execute("ALTER SESSION UNSET TIMEZONE")
        assert cursor.execute(noon).fetchone() == (at_noon + 7 * 3600,)


def test_values(connect: Any) -> None:
    given = (
        7,
        Decimal("12.34"),
        1.5,
        "ü",
        True,
        b"\xde\xad",
        datetime.date(2026, 10, 9),
        datetime.time(12, 34, 56, 123456),
        datetime.datetime(2026, 10, 9, 12, 34, 56, 123456),
        None,
    )
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE OR REPLACE TABLE held (n NUMBER, d NUMBER(10, 2), f FLOAT, t VARCHAR, b BOOLEAN, x BINARY,"
            " on_day DATE, at_time TIME, at TIMESTAMP_NTZ, nothing VARCHAR)"
        )
        cursor.execute(f"INSERT INTO held VALUES ({', '.join(['%s'] * len(given))})", given)
        assert cursor.execute("SELECT * FROM held").fetchone() == given


def test_many_rows_at_once(connect: Any) -> None:
    rows = [(n, f"row {n}") for n in range(50)]
    with connect(paramstyle="qmark") as connection, connection.cursor() as cursor:
        cursor.execute("CREATE OR REPLACE TABLE many (n NUMBER, t VARCHAR)")
        cursor.executemany("INSERT INTO many VALUES (?, ?)", rows)
        assert cursor.rowcount == 50
        assert cursor.execute("SELECT * FROM many ORDER BY n").fetchall() == rows


def test_results_by_query_id_are_refused(connect: Any) -> None:
    with connect() as connection, connection.cursor() as cursor:
        query = cursor.execute("SELECT 7 AS n").sfqid
        with pytest.raises(snowflake.connector.errors.ProgrammingError, match="Unsupported feature 'RESULT_SCAN'"):
            cursor.execute(f"SELECT * FROM TABLE(RESULT_SCAN('{query}'))")
