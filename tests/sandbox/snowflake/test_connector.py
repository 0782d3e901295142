"""The connector's protocol, with the real connector."""

from __future__ import annotations

from typing import Any

import pytest
import snowflake.connector

pytestmark = pytest.mark.sandbox


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
