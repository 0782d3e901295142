"""Snowflake's SQL API and COPY INTO do what the product relies on."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
import requests

from data_share.snowflake.sql_api import DataShareSnowflakeHook, SnowflakeStatementError, SnowflakeStoppedError
from tests.contracts.conftest import until
from tests.live.accounts import COPY_OPTIONS, SNOWFLAKE_CONN, Scratch
from tests.live.assumptions import NotTriedError

pytestmark = pytest.mark.live

NUMBERS = "(SELECT SEQ4() AS n FROM TABLE(GENERATOR(ROWCOUNT => 1000000)))"
LONG = f"SELECT COUNT(*) AS total FROM {NUMBERS} AS a CROSS JOIN {NUMBERS} AS b WHERE a.n + b.n = 7"
NOTHING = [{"status": "Copy executed with 0 files processed."}]


@pytest.fixture
def table(hook: DataShareSnowflakeHook) -> Iterator[str]:
    """An empty table of this test."""
    name = f"T_{uuid.uuid4().hex}".upper()
    hook.run_statement(f"CREATE TABLE {name} (id NUMBER(38, 0), name VARCHAR)")
    yield name
    hook.run_statement(f"DROP TABLE {name}")


def test_a_wrong_token_is_refused(hook: DataShareSnowflakeHook) -> None:
    headers = {**hook.get_headers(), "Authorization": "Bearer wrong"}
    answer = requests.post(hook.statements_url, headers=headers, json={"statement": "SELECT 1"}, timeout=60)
    assert answer.status_code == 401


def test_values_arrive_as_what_they_are(hook: DataShareSnowflakeHook) -> None:
    [row] = hook.run_statement(
        "SELECT 12345678901::NUMBER(38, 0) AS n, -1.25::NUMBER(10, 2) AS d, 1.5::FLOAT AS f, TRUE AS b, "
        "'2024-02-29'::DATE AS day, '1969-12-31 23:59:59.5'::TIMESTAMP_NTZ AS ntz, "
        "'2024-02-29 12:34:56.789012 +0000'::TIMESTAMP_LTZ AS ltz, 'o''brien ✓' AS t, NULL::VARCHAR AS nothing"
    ).rows
    assert row == {
        "N": 12345678901,
        "D": Decimal("-1.25"),
        "F": 1.5,
        "B": True,
        "DAY": date(2024, 2, 29),
        "NTZ": datetime(1969, 12, 31, 23, 59, 59, 500000),
        "LTZ": datetime(2024, 2, 29, 12, 34, 56, 789012, tzinfo=UTC),
        "T": "o'brien ✓",
        "NOTHING": None,
    }


def test_bindings_are_values_whatever_they_say(hook: DataShareSnowflakeHook) -> None:
    texts = ["o'brien; DROP TABLE x", "back\\slash ✓"]
    [row] = hook.run_statement("SELECT ? AS one, ? AS other", bindings=texts).rows
    assert [row["ONE"], row["OTHER"]] == texts


def test_large_results_come_whole_and_in_order(hook: DataShareSnowflakeHook) -> None:
    rows = hook.run_statement(
        "SELECT SEQ4() AS n, REPEAT('x', 500) AS filling FROM TABLE(GENERATOR(ROWCOUNT => 25000)) ORDER BY n"
    ).rows
    numbers = [row["N"] for row in rows]
    assert len(numbers) == 25_000
    assert numbers == sorted(numbers)


def test_a_request_whose_answer_is_lost_executes_nothing_twice(
    hook: DataShareSnowflakeHook, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, lost = requests.Session.request, []

    def lose_the_first_answer(session: requests.Session, **call: Any) -> requests.Response:
        response = send(session, **call)
        if not lost:
            lost.append(response.json()["statementHandle"])
            raise requests.ConnectionError("the answer is lost")
        return response

    monkeypatch.setattr(requests.Session, "request", lose_the_first_answer)
    result = hook.run_statement(f"INSERT INTO {table} SELECT 1, 'once'")
    assert lost == [result.query_id]
    assert hook.run_statement(f"SELECT COUNT(*) AS total FROM {table}").rows == [{"TOTAL": 1}]


@pytest.mark.assumption("retry_running")
def test_a_request_that_is_repeated_late_finds_its_statement_running(
    hook: DataShareSnowflakeHook, scratch: Scratch, monkeypatch: pytest.MonkeyPatch, answer: Callable[[object], None]
) -> None:
    send, lost = requests.Session.request, []

    def lose_the_first_answer(session: requests.Session, **call: Any) -> requests.Response:
        response = send(session, **call)
        if not lost:
            lost.append(response.json()["statementHandle"])
            time.sleep(scratch.settings.retry_after)
            if hook._poll(lost[0]).status != 202:
                raise NotTriedError("the statement has ended too soon to find anything out")
            raise requests.ConnectionError("the answer is lost")
        return response

    monkeypatch.setattr(requests.Session, "request", lose_the_first_answer)
    found = ""
    try:
        found = hook.submit(LONG)
    finally:
        monkeypatch.undo()
        hook.cancel_queries(sorted({*lost, found} - {""}))
    answer(f"{scratch.settings.retry_after:g} s later: {'the same statement' if found == lost[0] else 'another one'}")
    assert found == lost[0]


@pytest.mark.assumption("missing_schema")
def test_a_request_may_name_a_schema_that_does_not_exist(scratch: Scratch, answer: Callable[[object], None]) -> None:
    nowhere = DataShareSnowflakeHook(SNOWFLAKE_CONN, schema=scratch.missing_schema)
    [row] = nowhere.run_statement("SELECT CURRENT_SCHEMA() AS name, CURRENT_DATABASE() AS database_name").rows
    answer(f"CURRENT_SCHEMA() is {row['NAME']}")
    assert row["NAME"] is None
    assert row["DATABASE_NAME"] is not None


@pytest.mark.assumption("fresh_session")
def test_each_request_has_a_session_of_its_own_that_sees_what_was_committed(
    hook: DataShareSnowflakeHook, table: str, answer: Callable[[object], None]
) -> None:
    counted = []
    for number in range(5):
        hook.run_statement(f"INSERT INTO {table} SELECT {number}, 'row'")
        [row] = hook.run_statement(f"SELECT COUNT(*) AS total FROM {table}").rows
        counted.append(row["TOTAL"])
    answer(f"counted after each of five inserts: {counted}")
    assert counted == [1, 2, 3, 4, 5]
    temporary = f"T_{uuid.uuid4().hex}".upper()
    hook.run_statements([f"CREATE TEMPORARY TABLE {temporary} (n INTEGER)", f"INSERT INTO {temporary} SELECT 1"])
    with pytest.raises(SnowflakeStatementError, match="does not exist"):
        hook.run_statement(f"SELECT n FROM {temporary}")
    answer("a temporary table of one request is not there in the next")


@pytest.mark.assumption("lock_waiter")
def test_who_waited_for_a_lock_sees_what_the_other_has_written(
    hook: DataShareSnowflakeHook, scratch: Scratch, answer: Callable[[object], None]
) -> None:
    name, wait = f"T_{uuid.uuid4().hex}".upper(), scratch.settings.hold_seconds
    hook.run_statement(f"CREATE TABLE {name} (k NUMBER(38, 0) NOT NULL, holder VARCHAR NOT NULL)")
    hook.run_statement(f"INSERT INTO {name} SELECT 1, ''")
    first = ["BEGIN", f"UPDATE {name} SET holder = 'first'", f"SELECT SYSTEM$WAIT({wait:g})", "COMMIT"]
    # As a publish: the row of somebody else makes it NULL, which the column does not take.
    second = (
        f"MERGE INTO {name} AS lk USING (SELECT 1 AS k) AS mine ON lk.k = mine.k "
        "WHEN MATCHED THEN UPDATE SET lk.holder = CASE WHEN lk.holder = '' THEN 'second' END"
    )
    handle = hook.submit(";\n".join(first) + ";", statement_count=len(first))
    time.sleep(wait / 4)
    began = time.monotonic()
    with contextlib.suppress(SnowflakeStatementError):
        DataShareSnowflakeHook(SNOWFLAKE_CONN).run_statements(["BEGIN", second, "COMMIT"])
    waited = time.monotonic() - began
    hook.wait(handle)
    holder = hook.run_statement(f"SELECT holder FROM {name}").rows
    answer(f"the second waited {waited:.1f} s; then the row says {holder[0]['HOLDER']}")
    if waited < wait / 4:
        raise NotTriedError("the second statement did not have to wait")
    assert holder == [{"HOLDER": "first"}]


def test_several_statements_are_one_transaction(hook: DataShareSnowflakeHook, table: str) -> None:
    handles = hook.run_statements(
        ["BEGIN", f"INSERT INTO {table} SELECT 1, 'kept'", "COMMIT", f"SELECT name FROM {table}"]
    )
    assert hook.result_of(handles[-1]).rows == [{"NAME": "kept"}]
    with pytest.raises(SnowflakeStatementError):
        hook.run_statements(["BEGIN", f"DELETE FROM {table}", "SELECT * FROM nothing_here", "COMMIT"])
    assert hook.run_statement(f"SELECT name FROM {table}").rows == [{"NAME": "kept"}]


def test_a_count_that_is_wrong_is_refused(hook: DataShareSnowflakeHook, table: str) -> None:
    with pytest.raises(SnowflakeStatementError, match="statement count"):
        hook.run_statements(["BEGIN", f"INSERT INTO {table} SELECT 1, 'no'; COMMIT"])
    assert hook.run_statement(f"SELECT name FROM {table}").rows == []


def test_null_in_a_column_that_takes_none_is_told_as_the_publish_expects(hook: DataShareSnowflakeHook) -> None:
    name = f"T_{uuid.uuid4().hex}".upper()
    hook.run_statement(f"CREATE TABLE {name} (id NUMBER(38, 0) NOT NULL)")
    with pytest.raises(SnowflakeStatementError, match="NULL result in a non-nullable column"):
        hook.run_statements(["BEGIN", f"INSERT INTO {name} SELECT NULL", "COMMIT"])
    hook.run_statement(f"DROP TABLE {name}")


def test_a_statement_is_cancelled(hook: DataShareSnowflakeHook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook, "statement_timeout", 300)
    hook.query_ids = []
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        executed = pool.submit(hook.run_statement, LONG, is_long=True)
        until(lambda: hook.query_ids)
        hook.cancel_queries(hook.query_ids)
        with pytest.raises(SnowflakeStatementError, match=r"(?i)cancel"):
            executed.result()


@pytest.mark.assumption("retry_while_answering")
def test_a_kill_cancels_a_statement_whose_handle_is_not_known_yet(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch, answer: Callable[[object], None]
) -> None:
    # Should nothing cancel the statement, it ends by its time-out.
    hook, cancelled = DataShareSnowflakeHook(SNOWFLAKE_CONN, statement_timeout=300), []

    def cancel(hook: DataShareSnowflakeHook, handle: str) -> Any:
        cancelled.append(handle)
        return make_call(hook, handle)

    make_call = DataShareSnowflakeHook._cancel
    monkeypatch.setattr(DataShareSnowflakeHook, "_cancel", cancel)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        executed = pool.submit(hook.run_statement, LONG)
        until(lambda: hook._pending_submission is not None and hook._pending_submission.is_sent)
        # The request has to arrive before its repetition does.
        time.sleep(min(5.0, scratch.settings.retry_after))
        hook.stop()
        with pytest.raises(SnowflakeStoppedError) as caught:
            executed.result()
    answer(f"cancelled: {len(set(cancelled))} statement(s)")
    assert set(cancelled) == {caught.value.snowflake_query_id}


def test_a_statement_is_stopped_at_its_time_out(hook: DataShareSnowflakeHook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook, "statement_timeout", 1)
    with pytest.raises(SnowflakeStatementError, match=r"(?i)timeout"):
        hook.run_statement(LONG)


# ---- COPY INTO


@pytest.fixture
def copy(hook: DataShareSnowflakeHook, stage: str, table: str) -> Callable[..., list[dict[str, Any]]]:
    """Copy what lies below a path of the stage into the table."""

    def run(path: str, options: str = "PATTERN = '.*[.]parquet'") -> list[dict[str, Any]]:
        return hook.run_statement(f"COPY INTO {table} FROM @{stage}/{path} {options} {COPY_OPTIONS}").rows

    return run


@pytest.fixture
def folder(scratch: Scratch) -> str:
    """A path below the stage that no other test uses; two folders whose names begin alike lie in it."""
    path = f"copy_{uuid.uuid4().hex}/"
    scratch.put(f"{path}a/part-1.parquet", pa.table({"ID": [1], "NAME": ["one"]}))
    scratch.put(f"{path}a/_SUCCESS", b"")
    scratch.put(f"{path}ab/part-2.parquet", pa.table({"id": [2], "name": ["two"]}))
    return path


def names(hook: DataShareSnowflakeHook, table: str) -> list[Any]:
    return [row["NAME"] for row in hook.run_statement(f"SELECT name FROM {table} ORDER BY id").rows]


def test_a_path_with_its_slash_is_a_folder(
    hook: DataShareSnowflakeHook, table: str, copy: Callable[..., Any], folder: str
) -> None:
    [told] = copy(f"{folder}a/")
    assert (told["status"], told["rows_parsed"], told["rows_loaded"]) == ("LOADED", 1, 1)
    assert told["file"].endswith("a/part-1.parquet")
    assert names(hook, table) == ["one"]


def test_a_path_without_it_is_only_a_beginning(
    hook: DataShareSnowflakeHook, table: str, copy: Callable[..., Any], folder: str
) -> None:
    assert len(copy(f"{folder}a")) == 2
    assert names(hook, table) == ["one", "two"]


def test_files_are_loaded_once_by_a_table(copy: Callable[..., Any], folder: str) -> None:
    assert len(copy(f"{folder}a/")) == 1
    assert copy(f"{folder}a/") == NOTHING


def test_nothing_to_load_is_a_success_for_snowflake(copy: Callable[..., Any], folder: str) -> None:
    assert copy(f"{folder}nothing/") == NOTHING
    assert copy(f"{folder}a/", "PATTERN = '.*[.]csv'") == NOTHING


def test_columns_without_a_match_are_null(
    hook: DataShareSnowflakeHook, table: str, copy: Callable[..., Any], scratch: Scratch, folder: str
) -> None:
    scratch.put(f"{folder}other/part-3.parquet", pa.table({"nobody": [1, 2]}))
    [told] = copy(f"{folder}other/")
    assert told["rows_loaded"] == 2
    assert names(hook, table) == [None, None]


def test_the_values_of_a_file_arrive_as_they_are(hook: DataShareSnowflakeHook, stage: str, scratch: Scratch) -> None:
    name, path = f"T_{uuid.uuid4().hex}".upper(), f"copy_{uuid.uuid4().hex}/"
    at = datetime(2026, 7, 1, 23, 30, tzinfo=UTC)
    pairs = pa.array([[("a", "b"), ("c", None)]] * 3, pa.map_(pa.string(), pa.string()))
    instants = pa.array([at] * 3, pa.timestamp("us", "UTC"))
    columns = {"name": ["\\N", " x ", ""], "pairs": pairs, "ltz": instants, "tz": instants, "ntz": instants}
    scratch.put(f"{path}part-1.parquet", pa.table(columns))
    types = "name VARCHAR, pairs VARIANT, ltz TIMESTAMP_LTZ, tz TIMESTAMP_TZ, ntz TIMESTAMP_NTZ"
    hook.run_statement(f"CREATE TABLE {name} ({types})")
    hook.run_statement(f"COPY INTO {name} FROM @{stage}/{path} {COPY_OPTIONS}")
    rows = hook.run_statement(f"SELECT * FROM {name}").rows
    hook.run_statement(f"DROP TABLE {name}")
    assert sorted(row.pop("NAME") for row in rows) == sorted(columns["name"])
    for row in rows:
        assert json.loads(row.pop("PAIRS")) == {"a": "b", "c": None}
        assert row == {"LTZ": at, "TZ": at, "NTZ": at.replace(tzinfo=None)}


@pytest.mark.assumption("empty_text")
def test_an_empty_text_of_a_file_is_loaded(
    hook: DataShareSnowflakeHook,
    table: str,
    copy: Callable[..., Any],
    scratch: Scratch,
    folder: str,
    answer: Callable[[object], None],
) -> None:
    texts = ["", "\\N", None, " "]
    scratch.put(f"{folder}texts/part-1.parquet", pa.table({"id": range(len(texts)), "name": texts}))
    copy(f"{folder}texts/")
    loaded = names(hook, table)
    answer(f"'', '\\N', NULL, ' ' are loaded as {loaded}")
    assert loaded == texts


@pytest.mark.assumption("integration_usage")
def test_who_reads_a_stage_needs_the_right_to_use_its_integration(
    hook: DataShareSnowflakeHook,
    table: str,
    stage: str,
    scratch: Scratch,
    folder: str,
    answer: Callable[[object], None],
) -> None:
    role = scratch.settings.other_role
    if role is None:
        raise NotTriedError("DATA_SHARE_LIVE_OTHER_ROLE is not set")
    hook.run_statement(f"GRANT USAGE ON SCHEMA {scratch.schema} TO ROLE {role}")
    hook.run_statement(f"GRANT USAGE ON STAGE {scratch.schema}.{stage} TO ROLE {role}")
    hook.run_statement(f"GRANT SELECT, INSERT ON TABLE {scratch.schema}.{table} TO ROLE {role}")
    other = DataShareSnowflakeHook(SNOWFLAKE_CONN, role=role.upper())
    with contextlib.suppress(SnowflakeStatementError):
        other.run_statement(f"DESCRIBE INTEGRATION {scratch.settings.storage_integration}")
        raise NotTriedError(f"{role}, or a secondary role of the user, has a right on the integration")
    # What it may read and write but for the stage: so a refusal is about the stage.
    assert other.run_statement(f"SELECT * FROM {table}").rows == []
    refused = []
    for sql in (f"LIST @{stage}/{folder}a/", f"COPY INTO {table} FROM @{stage}/{folder}a/ {COPY_OPTIONS}"):
        try:
            other.run_statement(sql)
            answer(f"{sql.split()[0]}: done without the right")
        except SnowflakeStatementError as error:
            answer(f"{sql.split()[0]}: {error}")
            refused.append(sql.split()[0])
    assert refused == ["LIST", "COPY"]


@pytest.mark.assumption("like_policies")
def test_what_a_table_that_is_made_like_another_has_of_its_policies(
    hook: DataShareSnowflakeHook, scratch: Scratch, answer: Callable[[object], None]
) -> None:
    at, table = f"{scratch.schema}.", f"T_{uuid.uuid4().hex}".upper()
    hook.run_statement(f"CREATE TABLE {table} (id VARCHAR, name VARCHAR)")
    hook.run_statement(f"INSERT INTO {table} SELECT 'kept', 'a name'")
    try:
        hook.run_statement(f"CREATE MASKING POLICY {at}MASKED AS (v VARCHAR) RETURNS VARCHAR -> 'masked'")
        hook.run_statement(f"CREATE ROW ACCESS POLICY {at}HIDDEN AS (v VARCHAR) RETURNS BOOLEAN -> FALSE")
        hook.run_statement(f"ALTER TABLE {at}{table} MODIFY COLUMN name SET MASKING POLICY {at}MASKED")
        hook.run_statement(f"ALTER TABLE {at}{table} ADD ROW ACCESS POLICY {at}HIDDEN ON (id)")
    except SnowflakeStatementError as error:
        raise NotTriedError(f"no policy can be made or set: {error}") from error
    assert hook.run_statement(f"SELECT * FROM {table}").rows == []
    hook.run_statement(f"CREATE TABLE {table}_LIKE LIKE {table}")
    hook.run_statement(f"INSERT INTO {table}_LIKE SELECT 'kept', 'a name'")
    rows = hook.run_statement(f"SELECT id, name FROM {table}_LIKE").rows
    answer(f"rows of the table that was made LIKE it: {rows}")
    answer("it carries no masking policy" if rows and rows[0]["NAME"] == "a name" else "it carries masking policies")
    assert [row["ID"] for row in rows] == ["kept"]


def test_a_broken_file_loads_nothing_at_all(
    hook: DataShareSnowflakeHook, table: str, copy: Callable[..., Any], scratch: Scratch, folder: str
) -> None:
    scratch.put(f"{folder}a/part-9.parquet", b"not a Parquet file")
    with pytest.raises(SnowflakeStatementError, match="part-9"):
        copy(f"{folder}a/")
    assert names(hook, table) == []
