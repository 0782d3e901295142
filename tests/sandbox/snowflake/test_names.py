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
    for statement in ("DROP TABLE quoted", "DROP TABLE IF EXISTS quoted", "INSERT INTO QUOTED VALUES (1)"):
        assert api.error(statement)[0] == "002003", statement
    api.ok('INSERT INTO "quoted" VALUES (1)')
    assert "quoted" in [row[1] for row in api.rows("SHOW TABLES")]
    api.ok('DROP TABLE "quoted"')


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
