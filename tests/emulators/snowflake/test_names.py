"""Names: upper case unless they are quoted."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]


def test_names_fold_to_upper_case(api: Any) -> None:
    api.ok("CREATE TABLE Folded (Col NUMBER)")
    assert [row[0] for row in api.rows("DESCRIBE TABLE FOLDED")] == ["COL"]
    api.ok('INSERT INTO "FOLDED" ("COL") VALUES (1)')
    answer = api.ok("SELECT cOl FROM fOLDED")
    assert [column["name"] for column in answer["resultSetMetaData"]["rowType"]] == ["COL"]
    assert api.error('SELECT * FROM "Folded"')[1].endswith("Object 'Folded' does not exist or not authorized.")
    assert api.rows('SELECT * FROM "DATA_SHARE"."PUBLIC"."FOLDED"') == [["1"]]


def test_quoted_names_do_not(api: Any) -> None:
    api.ok('CREATE TABLE "quoted" (id NUMBER)')
    assert api.error("SELECT * FROM quoted")[1].endswith("Object 'QUOTED' does not exist or not authorized.")
    for statement in ("DROP TABLE quoted", "INSERT INTO QUOTED VALUES (1)"):
        assert api.error(statement)[0] == "002003", statement
    api.ok("DROP TABLE IF EXISTS quoted")
    api.ok('INSERT INTO "quoted" VALUES (1)')
    assert "quoted" in [row[1] for row in api.rows("SHOW TABLES")]
    api.ok('DROP TABLE "quoted"')


def names(answer: dict[str, Any]) -> list[str]:
    return [column["name"] for column in answer["resultSetMetaData"]["rowType"]]


@pytest.fixture(scope="module")
def mixed(api: Any) -> str:
    """A table with columns in several cases, and one row."""
    api.ok(
        'CREATE TABLE mixed ("id" NUMBER, "observedAt" VARCHAR(20), "Net price" NUMBER(10, 2), "größe" FLOAT, k DATE)'
    )
    api.ok("""INSERT INTO mixed ("id", "observedAt", "Net price", "größe") VALUES (1, 'now', 2.5, 3)""")
    return "mixed"


def test_a_column_has_the_name_that_it_was_given(api: Any, mixed: str) -> None:
    expected = ["id", "observedAt", "Net price", "größe", "K"]
    assert [row[0] for row in api.rows(f"DESCRIBE TABLE {mixed}")] == expected
    assert names(api.ok(f"SELECT * FROM {mixed}")) == expected
    assert names(api.ok(f'SELECT "id" AS "Id", k AS id FROM {mixed}')) == ["Id", "ID"]
    shown = api.rows("SELECT column_name FROM information_schema.columns WHERE table_name = 'MIXED'")
    assert sorted(row[0] for row in shown) == sorted(expected)
    api.ok(f"CREATE TABLE mixed_like LIKE {mixed}")
    assert [row[:2] for row in api.rows("DESCRIBE TABLE mixed_like")] == [
        row[:2] for row in api.rows(f"DESCRIBE TABLE {mixed}")
    ]
    assert (
        api.error("""INSERT INTO mixed_like ("observedAt") VALUES ('longer than twenty characters')""")[0] == "100078"
    )


@pytest.mark.parametrize(
    ("statement", "identifier"),
    [
        ("SELECT id FROM mixed", "ID"),
        ('SELECT "ID" FROM mixed', '"ID"'),
        ('SELECT "OBSERVEDAT" FROM mixed', '"OBSERVEDAT"'),
        ('SELECT 1 FROM mixed WHERE "NET PRICE" > 1', '"NET PRICE"'),
        ('SELECT "GRÖSSE" FROM mixed', '"GRÖSSE"'),
        ('SELECT "k" FROM mixed', '"k"'),
        ('INSERT INTO mixed ("ID") VALUES (1)', '"ID"'),
        ('UPDATE mixed SET "ID" = 2', '"ID"'),
        ('DELETE FROM mixed WHERE "Id" = 1', '"Id"'),
        ('MERGE INTO mixed AS t USING mixed AS s ON t."ID" = s."id" WHEN MATCHED THEN UPDATE SET k = NULL', '"ID"'),
        ('MERGE INTO mixed AS t USING mixed AS s ON t."id" = s."id" WHEN MATCHED THEN UPDATE SET "ID" = 2', '"ID"'),
    ],
)
def test_a_column_of_another_case_is_not_found(api: Any, mixed: str, statement: str, identifier: str) -> None:
    code, message = api.error(statement)
    assert (code, message.split("\n")[-1]) == ("000904", f"invalid identifier '{identifier}'")


def test_columns_and_tables_that_differ_only_by_case_are_two(api: Any) -> None:
    api.ok('CREATE TABLE twice (id NUMBER, "id" NUMBER)')
    api.ok('CREATE TABLE "Twice" ("Id" NUMBER)')
    api.ok('INSERT INTO twice (id, "id") VALUES (1, 2)')
    api.ok('INSERT INTO "Twice" VALUES (3)')
    assert api.rows('SELECT "id", ID FROM TWICE') == [["2", "1"]]
    assert api.rows('SELECT * FROM "Twice"') == [["3"]]
    api.ok("DROP TABLE twice")
    assert {"Twice"} == {row[1] for row in api.rows("SHOW TABLES") if row[1].upper() == "TWICE"}
    assert api.error("CREATE TABLE twice (a NUMBER, A NUMBER)")[0] != ""


def test_quotes_in_names(api: Any) -> None:
    api.ok('CREATE TABLE "say ""hi""" ("a""b" NUMBER)')
    api.ok('INSERT INTO "say ""hi""" ("a""b") VALUES (1)')
    assert names(api.ok('SELECT "a""b" FROM "say ""hi"""')) == ['a"b']
    assert [row[0] for row in api.rows('DESCRIBE TABLE "say ""hi"""')] == ['a"b']
    api.ok("""CREATE TABLE single ("it's" VARCHAR(3))""")
    assert [row[:2] for row in api.rows("DESCRIBE TABLE single")] == [["it's", "VARCHAR(3)"]]


def test_letters_beyond_ascii_take_quotes(api: Any, mixed: str) -> None:
    code, message = api.error(f"SELECT größe FROM {mixed}")
    assert (code, "unexpected 'größe'" in message) == ("001003", True)
    assert api.rows(f"""SELECT 'größe', "größe" FROM {mixed}""") == [["größe", "3.0"]]


def test_names_are_what_they_were_after_a_restart(start: Any, tools: Any, tmp_path: Any) -> None:
    for statement in ('CREATE TABLE "Kept" ("id" VARCHAR(3))', """INSERT INTO "Kept" ("id") VALUES ('one')"""):
        with start(tmp_path) as url:
            tools.Api(url).ok(statement)
    with start(tmp_path) as url:
        assert [row[:2] for row in tools.Api(url).rows('DESCRIBE TABLE "Kept"')] == [["id", "VARCHAR(3)"]]


def test_the_connector_sees_the_same_names(connect: Any, mixed: str) -> None:
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {mixed}")
        assert [column.name for column in cursor.description] == ["id", "observedAt", "Net price", "größe", "K"]


def test_a_name_may_hold_a_point(api: Any) -> None:
    api.ok('CREATE TABLE "a.b" (id NUMBER)')
    assert api.rows('SELECT * FROM "a.b"') == []
    assert (
        "Schema 'A' does not exist" in api.error("SELECT * FROM a.b")[1]
        or api.error("SELECT * FROM a.b")[0] == "002003"
    )
    api.ok('DROP TABLE "a.b"')


def test_temporary_tables_are_the_sessions(connect: Any, api: Any) -> None:
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE of_the_session (id NUMBER)")
        cursor.execute("INSERT INTO of_the_session VALUES (1)")
        assert cursor.execute("SELECT * FROM of_the_session").fetchall() == [(1,)]
        assert api.error("SELECT * FROM of_the_session")[0] == "002003"
        cursor.execute("DROP TABLE of_the_session")
