"""
Plans and exports of changes on real Spark and on the sandbox's own engine: the same decision, and the same rows.

Spark reads versions and the change data feed of Delta tables, which it has not without Delta, from tables of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from data_share.snowflake.sql_api import DataShareSnowflakeHook
from data_share.source import Source
from emulators.databricks.export import Session
from emulators.databricks.unity_catalog import table_uri
from emulators.s3 import storage_options
from tests.export_job import PLAN_SQL
from tests.sandbox.spark.engines import EXPORT_SQL, HASH_KEY, Engines

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox, pytest.mark.spark]

NAME = "spark_catalog.load.changed"
TYPES = {"k": "BIGINT", "part": "STRING", "v": "DOUBLE"}
SCHEMA = pa.schema({"k": pa.int64(), "part": pa.string(), "v": pa.float64()})
OF_FEED = {"_change_type": "STRING", "_commit_version": "BIGINT", "_commit_timestamp": "TIMESTAMP"}

OF_HISTORY = {
    "version": "BIGINT",
    "timestamp": "TIMESTAMP",
    "operation": "STRING",
    "operationParameters": "MAP<STRING, STRING>",
    "operationMetrics": "MAP<STRING, STRING>",
}

# Each place where the file reads a version or the feed -> the same of a table with that name.
ON_SPARK = {
    "IDENTIFIER(:source_table)', at_version": "IDENTIFIER(:source_table || \"_', CAST(source_version AS STRING), '\")'",
    "IDENTIFIER(:source_table) VERSION AS OF ', CAST(from_version AS STRING)": (
        "IDENTIFIER(:source_table || \"_', CAST(from_version AS STRING), '\")'"
    ),
    "TABLE_CHANGES(:source_table, ', CAST(from_version + 1 AS STRING), ', ', CAST(source_version AS STRING), ')'": (
        'IDENTIFIER(:source_table || "_changes")\''
    ),
}


def sql_for_spark() -> str:
    sql = EXPORT_SQL
    for there, here in ON_SPARK.items():
        assert there in sql
        sql = sql.replace(there, here)
    assert "VERSION AS OF ', CAST" not in sql
    assert "TABLE_CHANGES" not in sql
    return sql


@pytest.fixture(scope="module")
def versions(engines: Engines) -> tuple[int, int]:
    """A history with every kind of change, for both engines; the first and the last version."""
    url = str(engines.files.client_kwargs["endpoint_url"])
    uri, options = table_uri(NAME), storage_options(url)
    rows = [{"k": key, "part": "ab"[key % 2], "v": key / 4 if key % 5 else None} for key in range(1, 41)]
    feed = {"delta.enableChangeDataFeed": "true"}
    write_deltalake(uri, pa.Table.from_pylist(rows, SCHEMA), configuration=feed, storage_options=options)

    def table() -> DeltaTable:
        return DeltaTable(uri, storage_options=options)

    new = [{"k": 100, "part": "a", "v": 1.5}, {"k": 101, "part": None, "v": float("nan")}]
    write_deltalake(uri, pa.Table.from_pylist(new, SCHEMA), mode="append", storage_options=options)
    table().update(updates={"v": "v + 1"}, predicate="k % 7 = 0")
    table().update(updates={"k": "k + 1000"}, predicate="k = 3 OR k = 8")
    table().update(updates={"k": "3 - k"}, predicate="k = 1 OR k = 2")
    table().update(updates={"part": "'b'"}, predicate="k = 10")
    table().update(updates={"part": "'a'"}, predicate="k = 11")
    table().delete("k = 20 OR k = 21")
    write_deltalake(uri, pa.Table.from_pylist(rows[19:20], SCHEMA), mode="append", storage_options=options)
    last = table().version()
    session = Session(url, engines.files)
    try:
        for suffix, query, kinds in (
            *((str(number), f"SELECT * FROM {NAME} VERSION AS OF {number}", TYPES) for number in range(last + 1)),
            ("changes", f"SELECT * FROM TABLE_CHANGES('{NAME}', 1, {last})", TYPES | OF_FEED),
            ("history", f"SELECT * FROM (DESCRIBE HISTORY {NAME})", OF_HISTORY),
        ):
            location = engines.scratch / f"{NAME}_{suffix}"
            location.mkdir()
            pq.write_table(session.table(query), location / "rows.parquet")
            columns = ", ".join(f"{column} {kind}" for column, kind in kinds.items())
            engines.spark.sql(f"CREATE TABLE {NAME}_{suffix} ({columns}) USING PARQUET LOCATION '{location}'")
    finally:
        session.close()
    return 0, last


def plan_for_spark() -> list[str]:
    """The statements of the plan, with tables in the place of what Spark lacks."""
    sql = PLAN_SQL.replace(
        "(DESCRIBE HISTORY IDENTIFIER(:source_table))", '(SELECT * FROM IDENTIFIER(:source_table || "_history"))'
    )
    sql, versions = re.subn(
        r"IDENTIFIER\(:source_table\)(?:',\s*')? VERSION AS OF ', CAST\((\w+) AS STRING\)",
        r"""IDENTIFIER(:source_table || "_', CAST(\1 AS STRING), '")'""",
        sql,
    )
    sql, feeds = re.subn(
        r"TABLE_CHANGES\(:source_table, ',.*?, '\)'",
        """(SELECT * FROM IDENTIFIER(:source_table || "_changes") WHERE _commit_version > ',"""
        " CAST(published_version AS STRING), ')'",
        sql,
        flags=re.DOTALL,
    )
    assert (versions, feeds) == (6, 1)
    return in_unity_catalog(sql)


def in_unity_catalog(sql: str) -> list[str]:
    """The statements of the plan of a managed Delta table, without the question for its kind."""
    statements = []
    for statement in DataShareSnowflakeHook.split_sql_string(sql, strip_semicolon=True):
        if statement.startswith("EXECUTE IMMEDIATE statement INTO table_type"):
            known = {"table_type": "'MANAGED'", "table_format": "'DELTA'", "table_id": "'1'", "policies": "0"}
            statements += [f"SET VAR {name} = {value}" for name, value in known.items()]
        else:
            statements.append(statement)
    return statements


def answer(run: Callable[[str], Any], statements: list[str]) -> Any:
    """The row of a plan, without what identifies the table; or why there is none."""
    try:
        for statement in statements:
            row = run(statement)
    except Exception as error:
        [said, *_] = re.findall(r"An append adds only new rows.*?Nothing was exported[.]", str(error))
        return said
    return {name: row[name] for name in ("export_mode", "export_reason", "to_version", "from_version", "has_feed")}


@pytest.mark.parametrize("published", [0, 4, 8])
@pytest.mark.parametrize("increment", [{"load": "merge"}, {"load": "append"}, None])
def test_the_decision_is_that_of_spark(
    engines: Engines, versions: tuple[int, int], published: int, increment: dict[str, Any] | None
) -> None:
    session = Session(str(engines.files.client_kwargs["endpoint_url"]), engines.files)
    try:
        history = session.table(
            f"SELECT UNIX_MICROS(timestamp) AS t FROM (DESCRIBE HISTORY {NAME}) WHERE version = {published}"
        )
        known = {"version": str(published), "committed_at": str(history.to_pydict()["t"][0]), "table_id": "1"}
        told = json.dumps({**known, "increment": increment})
        given = {"source_table": NAME, "mode": "", "published": told}
        on_spark = answer(lambda sql: [*engines.spark.sql(sql, args=given).collect(), None][0], plan_for_spark())
        on_emulator = answer(lambda sql: session.execute(sql, given), in_unity_catalog(PLAN_SQL))
    finally:
        session.close()
    assert on_spark == on_emulator
    if increment != {"load": "append"}:
        # The feed has more changes since version 0 than a third of the rows.
        decisions = {0: "compare", 4: "feed"} if increment else dict.fromkeys((0, 4), "full")
        assert on_spark["export_mode"] == (decisions | {versions[1]: "nothing"})[published]
    elif published < versions[1]:
        assert "rows of the source were changed or deleted since version" in on_spark


@pytest.mark.parametrize("mode", ["feed", "compare"])
@pytest.mark.parametrize("deletes", ["true", "false"])
@pytest.mark.parametrize(
    "fields", [{}, {"rename": {"k": "`key", "v": "where"}, "hash": ["part"]}], ids=["as it is", "chosen"]
)
def test_changes_are_those_of_spark(
    engines: Engines, versions: tuple[int, int], mode: str, deletes: str, fields: dict[str, Any]
) -> None:
    choice = Source.model_validate(fields).parameter()
    key = fields.get("rename", {}).get("k", "K")
    parameters = {
        "source_table": NAME,
        "run_key": "key",
        "dataset": "changed",
        "proof": "chosen_checksums" if choice else "checksums",
        "source": json.dumps(choice) if choice else "",
        "published": json.dumps({"increment": {"load": "merge", "keys": [key], "deletes": deletes}}),
        "from_version": str(versions[0]),
        "to_version": str(versions[1]),
        "committed_at": "1",
        "table_id": "1",
        "has_feed": "true",
        "export_mode": mode,
    }
    # Spark has no secrets; its AES_ENCRYPT is the one of Databricks.
    secret = f"CREATE OR REPLACE TEMPORARY FUNCTION secret(s STRING, k STRING) RETURNS STRING RETURN '{HASH_KEY}'"
    engines.spark.sql(secret)
    on_spark = engines.on_spark(sql_for_spark(), parameters)
    on_emulator = engines.on_emulator(EXPORT_SQL, parameters)
    order = [(on_emulator.rows().column_names[0], "ascending")]
    spark, emulator = (each.rows().sort_by(order) for each in (on_spark, on_emulator))
    assert spark.num_rows > 8
    assert spark.column_names == emulator.column_names
    assert ("data_share_deleted" in spark.column_names) == (deletes == "true")
    assert str(spark.to_pylist()) == str(emulator.to_pylist())
    told = ("row_count", "source_rows", "from_version", "source_version", "source_has_feed", "export_mode")
    manifests = [{name: each.manifest()[name] for name in told} for each in (on_spark, on_emulator)]
    assert manifests[0] == manifests[1]
    assert manifests[0]["source_rows"] == 41


@pytest.mark.parametrize("mode", ["feed", "compare"])
def test_an_append_of_changes_is_that_of_spark(engines: Engines, versions: tuple[int, int], mode: str) -> None:
    parameters = {
        "source_table": NAME,
        "run_key": "key",
        "dataset": "changed",
        "proof": "counts",
        "source": "",
        "published": json.dumps({"increment": {"load": "append"}}),
        "from_version": str(versions[0]),
        "to_version": str(versions[1]),
        "export_mode": mode,
    }
    on_spark, on_emulator = engines.on_spark(sql_for_spark(), parameters), engines.on_emulator(EXPORT_SQL, parameters)
    assert str(on_spark.rows().to_pylist()) == str(on_emulator.rows().to_pylist())
    assert on_spark.rows().num_rows > 2


@pytest.mark.parametrize("deletes", ["true", "false"])
def test_keys_that_a_collation_takes_as_equal_are_two_keys_in_snowflake(engines: Engines, deletes: str) -> None:
    name, kinds = "spark_catalog.load.collated", "k STRING COLLATE UTF8_LCASE, v INT"
    feed = "_change_type STRING, _commit_version BIGINT, _commit_timestamp TIMESTAMP"
    changed = [
        f"('{key}', {value}, '{kind}', 1, CURRENT_TIMESTAMP())"
        for key, value, kind in (
            *(("a", 1, "update_preimage"), ("a", 10, "update_postimage")),
            *(("A", 2, "update_preimage"), ("A", 20, "update_postimage")),
            *(("b", 3, "delete"), ("B", 4, "insert")),
        )
    ]
    for table, columns, rows in (
        (f"{name}_1", kinds, "('a', 10), ('A', 20), ('B', 4), ('c', 5)"),
        (f"{name}_changes", f"{kinds}, {feed}", ", ".join(changed)),
    ):
        engines.spark.sql(f"DROP TABLE IF EXISTS {table}")
        engines.spark.sql(f"CREATE TABLE {table} ({columns}) USING PARQUET")
        engines.spark.sql(f"INSERT INTO {table} VALUES {rows}")
    parameters = {
        "source_table": name,
        "run_key": "key",
        "dataset": "collated",
        "proof": "counts",
        "source": "",
        "published": json.dumps({"increment": {"load": "merge", "keys": ["K"], "deletes": deletes}}),
        "from_version": "0",
        "to_version": "1",
        "export_mode": "feed",
    }
    rows = engines.on_spark(sql_for_spark(), parameters).rows().to_pylist()
    there = [(row["k"], row["v"]) for row in rows if not row.get("data_share_deleted")]
    assert sorted(there) == [("A", 20), ("B", 4), ("a", 10)]
    assert [row["k"] for row in rows if row.get("data_share_deleted")] == (["b"] if deletes == "true" else [])
