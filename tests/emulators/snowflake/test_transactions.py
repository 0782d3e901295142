"""Statements, transactions and locks; DDL and the account's objects."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.emulators.snowflake.administrator import app, client

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]


@pytest.fixture(autouse=True)
def tables(api: Any) -> None:
    api.ok("CREATE OR REPLACE TABLE target (id NUMBER NOT NULL PRIMARY KEY, name VARCHAR(10))")
    api.ok("INSERT INTO target VALUES (1, 'old'), (2, 'old')")
    api.ok("CREATE OR REPLACE TRANSIENT TABLE staging LIKE target")
    api.ok("INSERT INTO staging VALUES (2, 'new'), (3, 'new')")


def rows(api: Any, table: str = "target") -> list[list[str | None]]:
    return list(api.rows(f"SELECT * FROM {table} ORDER BY id, name"))


SECONDS = itertools.count(100)
OLD = [["1", "old"], ["2", "old"]]
NEW = [["2", "new"], ["3", "new"]]
MERGE = (
    "MERGE INTO target AS t USING staging AS s ON t.id = s.id"
    " WHEN MATCHED THEN UPDATE SET t.name = s.name WHEN NOT MATCHED THEN INSERT (id, name) VALUES (s.id, s.name)"
)
INTEGRATION = """CREATE STORAGE INTEGRATION IF NOT EXISTS other_int
    TYPE = EXTERNAL_STAGE STORAGE_PROVIDER = 'S3' ENABLED = TRUE STORAGE_AWS_ROLE_ARN = 'arn:aws:iam::1:role/r'
    STORAGE_ALLOWED_LOCATIONS = ('s3://other/')"""


def test_create_like(api: Any) -> None:
    assert "NULL result in a non-nullable column" in api.error("INSERT INTO staging (name) VALUES ('x')")[1]
    described = {row[0]: (row[1], row[3]) for row in api.rows("DESCRIBE TABLE staging")}
    assert described == {"ID": ("NUMBER(38,0)", "N"), "NAME": ("VARCHAR(10)", "Y")}
    assert "Object 'NOPE' does not exist" in api.error("CREATE TABLE x LIKE nope")[1]


def test_keys_are_not_enforced(api: Any) -> None:
    api.ok("INSERT INTO target VALUES (1, 'again')")
    assert len(rows(api)) == 3


def test_replace(api: Any) -> None:
    assert api.ok("INSERT OVERWRITE INTO target SELECT * FROM staging")["stats"]["numRowsInserted"] == 2
    assert rows(api) == NEW


def test_a_replace_that_fails_changes_nothing(api: Any) -> None:
    assert "Numeric value" in api.error("INSERT OVERWRITE INTO target SELECT name::NUMBER, name FROM staging")[1]
    assert rows(api) == OLD


def test_merge(api: Any) -> None:
    answer = api.ok(MERGE)
    names = [column["name"] for column in answer["resultSetMetaData"]["rowType"]]
    assert names == ["number of rows inserted", "number of rows updated"]
    assert answer["data"] == [["1", "1"]]
    assert rows(api) == [["1", "old"], *NEW]
    api.ok(MERGE)
    assert rows(api) == [["1", "old"], *NEW]


def test_merge_of_a_row_that_two_rows_match(api: Any) -> None:
    api.ok("INSERT INTO staging VALUES (2, 'other')")
    assert api.error(MERGE)[0] == "100090"
    assert rows(api) == OLD


@pytest.mark.parametrize("change", ["INSERT OVERWRITE INTO target SELECT * FROM staging", MERGE])
def test_a_publish_transaction(api: Any, change: str) -> None:
    api.ok("CREATE OR REPLACE TABLE ledger (run_key VARCHAR, at TIMESTAMP_LTZ)")
    ledger = "INSERT INTO ledger SELECT 'run', CURRENT_TIMESTAMP()"
    answer = api.ok(f"BEGIN; {change}; {ledger}; COMMIT", count=4)
    assert answer["data"] == [["Multiple statements executed successfully."]]
    results = [api.get(handle).json() for handle in answer["statementHandles"]]
    assert [result["data"][0][0] for result in results][::3] == ["Statement executed successfully."] * 2
    assert results[2]["data"] == [["1"]]
    assert rows(api)[-2:] == NEW


@pytest.mark.parametrize("change", ["INSERT OVERWRITE INTO target SELECT * FROM staging", MERGE, "DELETE FROM target"])
def test_a_transaction_that_fails_leaves_nothing(api: Any, change: str) -> None:
    body = api.post(f"BEGIN; {change}; SELECT * FROM nope; COMMIT", count=0).json()
    assert body["code"] == "100132"
    assert "Object 'NOPE'" in body["message"]
    assert rows(api) == OLD
    # Nor does it keep its lock.
    api.ok("INSERT INTO target VALUES (9, 'z')")


def test_a_request_that_ends_without_commit_is_rolled_back(api: Any) -> None:
    api.ok("BEGIN; DELETE FROM target", count=2)
    assert rows(api) == OLD


@pytest.mark.parametrize(
    "ddl",
    [
        "CREATE OR REPLACE TABLE ddl (n NUMBER)",
        "CREATE OR REPLACE TABLE ddl AS SELECT 1 AS n",
        "DROP TABLE IF EXISTS nothing_of_this_name",
        "ALTER TABLE target ADD COLUMN IF NOT EXISTS more NUMBER",
        "GRANT SELECT ON TABLE target TO ROLE sysadmin",
    ],
)
def test_ddl_commits(api: Any, ddl: str) -> None:
    api.ok(f"BEGIN; DELETE FROM target; {ddl}; ROLLBACK", count=4)
    assert api.rows("SELECT * FROM target") == []


def test_a_truncate_is_part_of_the_transaction(api: Any) -> None:
    api.ok("BEGIN; TRUNCATE TABLE target; ROLLBACK", count=3)
    assert rows(api) == OLD


def test_readers_see_the_old_rows_until_the_commit(api: Any, tools: Any) -> None:
    statements = "BEGIN; DELETE FROM target; SELECT SYSTEM$WAIT(60); COMMIT"
    handle = api.post(statements, count=4, query={"async": "true"}).json()["statementHandle"]
    tools.until(lambda: any("SYSTEM$WAIT(60)" in s["sql"] for s in api.http.get("/_sandbox/statements").json()))
    assert rows(api) == OLD
    # A writer waits, at most for its timeout.
    waiting = api.post("UPDATE target SET name = 'x'", timeout=1)
    assert (waiting.status_code, waiting.json()["code"]) == (408, "000630")
    api.http.post(f"/api/v2/statements/{handle}/cancel")
    answer = api.finished(handle)
    assert (answer.status_code, answer.json()["code"]) == (422, "000604")
    assert rows(api) == OLD


def test_a_waiting_writer_can_be_cancelled(api: Any, tools: Any) -> None:
    holder = api.post("BEGIN; DELETE FROM target; SELECT SYSTEM$WAIT(61)", count=3, query={"async": "true"}).json()
    tools.until(lambda: any("SYSTEM$WAIT(61)" in s["sql"] for s in api.http.get("/_sandbox/statements").json()))
    waiter = api.post("DELETE FROM target", query={"async": "true"}).json()["statementHandle"]
    assert api.get(waiter).status_code == 202
    api.http.post(f"/api/v2/statements/{waiter}/cancel")
    assert api.finished(waiter).json()["code"] == "000604"
    api.http.post(f"/api/v2/statements/{holder['statementHandle']}/cancel")
    api.finished(holder["statementHandle"])


def test_writers_of_several_connections(api: Any, url: str, tools: Any) -> None:
    errors: list[str] = []

    def write(number: int) -> None:
        client = tools.Api(url)
        answer = client.post(
            f"BEGIN; INSERT INTO target VALUES ({number}, 'w'); UPDATE target SET name = 'u'; COMMIT", count=4
        )
        if answer.status_code != 200:
            errors.append(answer.text)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(100, 110)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert errors == []
    assert len(rows(api)) == 12


@contextlib.contextmanager
def held(api: Any, tools: Any, *statements: str) -> Iterator[None]:
    """Hold what statements lock, in a transaction that is rolled back."""
    marker = f"SELECT SYSTEM$WAIT({next(SECONDS)})"
    sql = "; ".join(("BEGIN", *statements, marker))
    holder = api.post(sql, count=2 + len(statements), query={"async": "true"}).json()["statementHandle"]
    tools.until(lambda: any(marker in s["sql"] for s in api.http.get("/_sandbox/statements").json()))
    yield
    api.http.post(f"/api/v2/statements/{holder}/cancel")
    api.finished(holder)


WAITS = {
    "DELETE FROM target": ("UPDATE target SET id = 0", True),
    "UPDATE target SET name = 'u'": (MERGE, True),
    MERGE: ("TRUNCATE TABLE target", True),
    "TRUNCATE TABLE target": ("INSERT OVERWRITE INTO target SELECT * FROM staging", True),
    "INSERT OVERWRITE INTO target SELECT * FROM staging": ("DELETE FROM target", True),
    "DELETE FROM target WHERE id = 1": ("INSERT INTO target VALUES (7, 'x')", False),
    "INSERT INTO target VALUES (8, 'x')": ("INSERT INTO target VALUES (7, 'x')", False),
    "INSERT INTO target VALUES (9, 'x')": ("DELETE FROM target", False),
    "DELETE FROM staging": ("DELETE FROM target", False),
    "DELETE FROM target WHERE id = 2": ("SELECT * FROM target", False),
}
"""By statement in a transaction: another session's statement, and whether it waits for the transaction's end."""


@pytest.mark.parametrize(("first", "second", "waits"), [(first, *rest) for first, rest in WAITS.items()], ids=WAITS)
def test_locks_are_by_table(api: Any, tools: Any, first: str, second: str, waits: bool) -> None:
    with held(api, tools, first):
        answer = api.post(second, timeout=1)
    assert answer.json()["code"] == ("000630" if waits else "090001")


def test_lock_timeout_is_refused(api: Any) -> None:
    answer = api.post("ALTER SESSION SET LOCK_TIMEOUT = 1; DELETE FROM target", count=2)
    assert (answer.status_code, "Unsupported feature 'LOCK_TIMEOUT'" in answer.json()["message"]) == (422, True)


def test_a_deadlock_ends_the_statement_that_closes_it(api: Any, tools: Any) -> None:
    crossing = "BEGIN; DELETE FROM staging; SELECT SYSTEM$WAIT(2); DELETE FROM target; COMMIT"
    other = api.post(crossing, count=5, query={"async": "true"}).json()["statementHandle"]
    tools.until(lambda: any("SYSTEM$WAIT(2)" in s["sql"] for s in api.http.get("/_sandbox/statements").json()))
    mine = api.post("BEGIN; DELETE FROM target; SELECT SYSTEM$WAIT(4); DELETE FROM staging; COMMIT", count=5)
    assert "has locked table 'STAGING' in transaction" in mine.json()["message"]
    assert "this lock has not yet been released" in mine.json()["message"]
    assert "it is part of a deadlock" in mine.json()["message"]
    assert api.finished(other).status_code == 200
    assert rows(api) == rows(api, "staging") == []


def test_sessions_that_wait_in_one_order_are_no_deadlock(api: Any, url: str, tools: Any) -> None:
    sql = "BEGIN; UPDATE target SET name = 'u'; DELETE FROM staging WHERE id = 2; COMMIT"
    answers: list[int] = []

    def change() -> None:
        client = tools.Api(url)
        answers.extend(client.post(sql, count=4).status_code for _ in range(5))

    threads = [threading.Thread(target=change) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [200] * 25


def test_a_transaction_sees_what_was_committed_before_each_statement(api: Any, connect: Any) -> None:
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("DELETE FROM staging WHERE id = 2")
        api.ok("INSERT INTO target VALUES (3, 'other')")
        assert cursor.execute("SELECT COUNT(*) FROM target AS t WHERE t.id > 0").fetchall() == [(3,)]
        # It changes what another session has committed in the meantime, and keeps what it has done.
        cursor.execute("UPDATE target SET name = 'mine' WHERE id = 3")
        cursor.execute("COMMIT")
    assert rows(api) == [*OLD, ["3", "mine"]]
    assert rows(api, "staging") == [["3", "new"]]


def test_in_the_mode_session_others_commits_are_seen_late(api: Any, admin: Any, connect: Any) -> None:
    assert "Insufficient privileges" in api.error("ALTER ACCOUNT SET READ_CONSISTENCY_MODE = 'SESSION'")[1]
    admin.ok("ALTER ACCOUNT SET READ_CONSISTENCY_MODE = 'SESSION'")
    try:
        with connect() as connection, connection.cursor() as cursor:
            counts = "SELECT (SELECT COUNT(*) FROM target), (SELECT COUNT(*) FROM staging)"
            assert cursor.execute(counts).fetchall() == [(2, 2)]
            api.ok("DELETE FROM staging; DELETE FROM target WHERE id = 1", count=2)
            assert cursor.execute(counts).fetchall() == [(2, 2)], "the session began before"
            cursor.execute("BEGIN")
            cursor.execute("UPDATE target SET name = 'u'")
            assert cursor.rowcount == 1, "what it locks, it changes as it is"
            assert cursor.execute(counts).fetchall() == [(1, 2)]
            cursor.execute("COMMIT")
            assert cursor.execute(counts).fetchall() == [(1, 2)], "it sees what it has committed itself"
        assert api.rows(counts) == [["1", "0"]], "a session that begins now sees all"
    finally:
        admin.ok("ALTER ACCOUNT SET READ_CONSISTENCY_MODE = 'GLOBAL'")


def test_statements_about_the_account(admin: Any) -> None:
    for statement in (
        "CREATE ROLE IF NOT EXISTS reader",
        "CREATE WAREHOUSE IF NOT EXISTS small_wh WAREHOUSE_SIZE = 'XSMALL' AUTO_SUSPEND = 60",
        "GRANT ROLE reader TO USER share_svc",
        "GRANT ROLE reader TO ROLE sysadmin",
        "GRANT USAGE ON DATABASE data_share TO ROLE reader",
        "GRANT USAGE ON WAREHOUSE small_wh TO ROLE reader",
        "GRANT SELECT ON ALL TABLES IN SCHEMA data_share.public TO ROLE reader",
        "GRANT SELECT ON FUTURE TABLES IN SCHEMA data_share.public TO ROLE reader",
        INTEGRATION,
        "CREATE SCHEMA IF NOT EXISTS data_share.staging_area",
    ):
        admin.ok(statement)
    session = "ALTER SESSION SET QUERY_TAG = 'x'; USE ROLE reader; USE WAREHOUSE small_wh; SELECT CURRENT_ROLE()"
    admin.ok(session, count=4)
    assert "Role 'NOPE' does not exist" in admin.error("GRANT ROLE nope TO ROLE nope")[1]
    assert "already exists" in admin.error("CREATE ROLE reader")[1]
    assert admin.error("USE ROLE nope; SELECT 1", count=2)[0] == "100132"
    assert admin.rows("DROP ROLE reader") == [["READER successfully dropped."]]


def test_a_killed_process_loses_nothing(s3: Any, tmp_path: Path, put: Any, folder: str, tools: Any) -> None:
    put(f"{folder}a.parquet", {"id": [1]})
    copy = f"COPY INTO kept FROM @exports/{folder} {tools.COPY}"
    with tools.serve(app(tools, s3, tmp_path / "before")) as url:
        api, admin = tools.Api(url), client(tools, url)
        api.ok(f"CREATE STAGE exports URL = '{tools.URL}' STORAGE_INTEGRATION = S3_SHARE_INT {tools.FILE_FORMAT}")
        api.ok("CREATE TABLE kept (id NUMBER NOT NULL, name VARCHAR(5))")
        admin.ok("CREATE ROLE reader")
        admin.ok("GRANT ROLE reader TO USER share_svc")
        assert len(api.rows(copy)) == 1
        # What is on the disk while it runs is what a killed process leaves.
        shutil.copytree(tmp_path / "before", tmp_path / "after")
        api.http.close()
        admin.http.close()
    with tools.serve(app(tools, s3, tmp_path / "after")) as url:
        api = tools.Api(url)
        assert api.rows("SELECT * FROM kept") == [["1", None]]
        assert api.rows(copy) == [["Copy executed with 0 files processed."]]
        assert api.rows("DESCRIBE TABLE kept")[1][1] == "VARCHAR(5)"
        assert [row[4] for row in api.rows("SHOW STAGES")] == [tools.URL]
        assert api.ok("SELECT CURRENT_ROLE()", role="READER")["data"] == [["READER"]]
        api.http.close()
