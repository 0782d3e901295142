"""The plan of an export on real Spark, as far as it goes without Delta and Unity Catalog."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from data_share.snowflake.sql_api import DataShareSnowflakeHook
from data_share.sql_text import source_name
from emulators.databricks.export import Session
from tests.export_job import PLAN_SQL
from tests.sandbox.spark.engines import Engines
from tests.source_names import NO_SOURCES, SOURCES

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox, pytest.mark.spark]

STATEMENTS = DataShareSnowflakeHook.split_sql_string(PLAN_SQL, strip_semicolon=True)
NO_TABLE = "the source is no Delta table of Unity Catalog"
PUBLISHED = {
    "nothing": "",
    "a publish": '{"version": "3", "committed_at": "1", "table_id": "2"}',
    "no JSON": '{"version": ',
    "a version that is none": '{"version": "3\\n", "committed_at": "1", "table_id": "2"}',
    "a reason": '{"full_because": "it was asked for"}',
    "pinned false": '{"pinned": "false"}',
    "pinned false of JSON": '{"pinned": false}',
}


def parse(engines: Engines, statement: str) -> None:
    """Parse a statement as Spark does it before it looks for tables."""
    engines.spark._jsparkSession.sessionState().sqlParser().parsePlan(statement)


def value_of(engines: Engines, variable: str, source: str, published: str = "") -> str:
    """What a variable is before the first statement that looks for a table."""
    given = {"source_table": source, "published": published, "mode": ""}
    for statement in STATEMENTS:
        if statement.startswith("EXECUTE IMMEDIATE"):
            break
        engines.spark.sql(statement, args=given)
    [(value,)] = engines.spark.sql(f"SELECT {variable}").collect()
    return json.dumps(value) if isinstance(value, list) else str(value)


def test_spark_parses_each_statement(engines: Engines) -> None:
    assert len(STATEMENTS) > 30
    for statement in STATEMENTS:
        parse(engines, statement)


def test_spark_parses_the_question_for_the_kind_of_a_table(engines: Engines) -> None:
    statement = value_of(engines, "statement", "`prod-eu`.w.t")
    assert "FROM IDENTIFIER(:tables)" in statement
    parse(engines, statement)
    assert value_of(engines, "tables", "`prod-eu`.w.t") == "`prod-eu`.information_schema.tables"


@pytest.mark.parametrize(
    ("published", "version"),
    [("a publish", "3"), ("nothing", "-1"), ("no JSON", "-1"), ("a version that is none", "-1"), ("a reason", "-1")],
)
def test_spark_reads_what_is_known_as_the_plan_means_it(engines: Engines, published: str, version: str) -> None:
    assert value_of(engines, "published_version", "main.w.t", PUBLISHED[published]) == version


@pytest.mark.parametrize("published", PUBLISHED)
@pytest.mark.parametrize("mode", ["", "describe"])
def test_a_source_without_an_information_schema_is_planned_as_by_the_sandbox(
    engines: Engines, published: str, mode: str
) -> None:
    name = engines.write_source(pa.table({"k": [1]}), {"k": "BIGINT"})
    given = {"source_table": name, "published": PUBLISHED[published], "mode": mode}
    for statement in STATEMENTS:
        answer = engines.spark.sql(statement, args=given)
    [row] = answer.collect()
    assert row.asDict() == {
        "export_mode": mode or "full",
        "export_reason": "the dataset file says pinned: false" if "pinned" in published else NO_TABLE,
        "to_version": "",
        "from_version": "",
        "committed_at": "",
        "table_id": "",
        "has_feed": "",
    }
    session = Session(str(engines.files.client_kwargs["endpoint_url"]), engines.files)
    try:
        assert session.execute(PLAN_SQL, given) == row.asDict()
    finally:
        session.close()


def test_a_view_has_neither_version_nor_id(engines: Engines) -> None:
    given = {"source_table": "main.w.t", "published": "", "mode": ""}
    for statement in STATEMENTS:
        if statement.startswith("EXECUTE IMMEDIATE statement INTO table_type"):
            engines.spark.sql("SET VAR (table_type, table_id, policies) = (SELECT 'VIEW', '1', 0)")
            continue
        answer = engines.spark.sql(statement, args=given)
    [row] = answer.collect()
    assert row.export_reason == f"{NO_TABLE} but VIEW"
    assert (row.to_version, row.committed_at, row.table_id, row.has_feed) == ("", "", "", "")


def test_the_names_are_those_of_unity_catalog(engines: Engines) -> None:
    sources = ["main.Sea.TIDES", "`a``b`.`prod-eu`.```;--`", "Main.`{}`.````", *map(source_name, SOURCES[::30])]
    for source in sources:
        names = json.loads(value_of(engines, "names", source))
        assert len(names) == 3, source
        written = ".".join(f"`{name.replace('`', '``')}`" for name in names)
        # Without backticks and with them: the same three names.
        assert json.loads(value_of(engines, "names", written)) == names, source
    assert json.loads(value_of(engines, "names", sources[1])) == ["a`b", "prod-eu", "`;--"]
    assert json.loads(value_of(engines, "names", sources[2])) == ["main", "{}", "`"]


@pytest.mark.parametrize("source", NO_SOURCES.values(), ids=NO_SOURCES)
def test_what_is_no_source_is_refused(engines: Engines, source: str) -> None:
    with pytest.raises(Exception, match="The job parameter source_table must be a table"):
        value_of(engines, "source_table", source)
