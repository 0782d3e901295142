"""Roles, grants and ownership: who may do what, and the error of who may not."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import snowflake.connector

from data_share.dag_defaults import SHARE
from data_share.sql_files import render_sql
from tests.emulators.snowflake.administrator import app, client

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

COMPILATION, ACCESS = "SQL compilation error:\n", "SQL access control error:\n"


def no_object(name: str) -> tuple[str, str]:
    return "002003", f"{COMPILATION}Object '{name}' does not exist or not authorized."


def insufficient(kind: str, name: str) -> tuple[str, str]:
    return "003001", f"{ACCESS}Insufficient privileges to operate on {kind} '{name}'"


@pytest.fixture(scope="module", autouse=True)
def work(admin: Any, tools: Any) -> None:
    """A schema with tables of the administrator's, and roles that have nothing."""
    for statement in (
        "CREATE SCHEMA data_share.work",
        "CREATE TABLE data_share.work.t (id NUMBER)",
        "CREATE TABLE data_share.work.u (id NUMBER)",
        "INSERT INTO data_share.work.u VALUES (1)",
        f"CREATE STAGE data_share.work.files URL = '{tools.URL}' STORAGE_INTEGRATION = S3_SHARE_INT",
        "CREATE ROLE tester",
        "CREATE ROLE other",
        f"GRANT ROLE tester TO USER {tools.USER}",
        f"GRANT ROLE other TO USER {tools.USER}",
    ):
        admin.ok(statement)


@pytest.fixture
def grant(admin: Any) -> Iterator[Callable[..., None]]:
    """Give a role rights for the time of a test."""
    given: list[str] = []

    def run(*rights: str, role: str = "tester") -> None:
        for right in rights:
            admin.ok(f"GRANT {right} TO ROLE {role}")
            given.append(f"REVOKE {right} FROM ROLE {role}")

    yield run
    for statement in given:
        admin.post(statement)


@pytest.fixture
def table(admin: Any) -> Iterator[str]:
    name = f"T_{uuid.uuid4().hex}".upper()
    yield name
    admin.post(f"DROP TABLE IF EXISTS data_share.work.{name}")


WAREHOUSE = "USAGE ON WAREHOUSE load_wh"
PLACE = ["USAGE ON DATABASE data_share", "USAGE ON SCHEMA data_share.work"]
T, U = "ON TABLE data_share.work.t", "ON TABLE data_share.work.u"
HIDDEN = {
    "USAGE ON DATABASE data_share": ("002003", f"{COMPILATION}Database 'DATA_SHARE' does not exist or not authorized."),
    "USAGE ON SCHEMA data_share.work": (
        "002003",
        f"{COMPILATION}Schema 'DATA_SHARE.WORK' does not exist or not authorized.",
    ),
    WAREHOUSE: ("000606", "No active warehouse selected in the current session."),
}
NO_T, NO_U = no_object("DATA_SHARE.WORK.T"), no_object("DATA_SHARE.WORK.U")
NOT_T = insufficient("table", "T")
MERGE = "MERGE INTO data_share.work.t USING data_share.work.u ON t.id = u.id"
COPY = "COPY INTO data_share.work.t FROM @data_share.work.files/none/ {tools.COPY}"
NEEDED: list[tuple[str, dict[str, tuple[str, str]]]] = [
    ("SELECT * FROM data_share.work.t", {f"SELECT {T}": NO_T, WAREHOUSE: HIDDEN[WAREHOUSE]}),
    ("WITH x AS (SELECT * FROM data_share.work.t) SELECT * FROM x", {f"SELECT {T}": NO_T}),
    ("SELECT 1 WHERE 1 IN (SELECT id FROM data_share.work.t)", {f"SELECT {T}": NO_T}),
    ("INSERT INTO data_share.work.t VALUES (1)", {f"INSERT {T}": NO_T, WAREHOUSE: HIDDEN[WAREHOUSE]}),
    ("INSERT INTO data_share.work.t SELECT * FROM data_share.work.u", {f"INSERT {T}": NO_T, f"SELECT {U}": NO_U}),
    (
        "INSERT OVERWRITE INTO data_share.work.t (id) SELECT id FROM data_share.work.u",
        {f"INSERT {T}": NOT_T, f"DELETE {T}": NOT_T, f"SELECT {U}": NO_U},
    ),
    ("UPDATE data_share.work.t SET id = 2 WHERE id = 9", {f"UPDATE {T}": NOT_T, f"SELECT {T}": NOT_T}),
    (
        "DELETE FROM data_share.work.t WHERE id NOT IN (SELECT id FROM data_share.work.u)",
        {f"DELETE {T}": NOT_T, f"SELECT {T}": NOT_T, f"SELECT {U}": NO_U},
    ),
    (
        f"{MERGE} WHEN MATCHED THEN UPDATE SET id = u.id WHEN NOT MATCHED THEN INSERT (id) VALUES (u.id)",
        {f"SELECT {T}": NOT_T, f"UPDATE {T}": NOT_T, f"INSERT {T}": NOT_T, f"SELECT {U}": NO_U},
    ),
    (
        f"{MERGE} WHEN MATCHED THEN DELETE",
        {f"SELECT {T}": NOT_T, f"DELETE {T}": NOT_T, f"SELECT {U}": NO_U},
    ),
    ("TRUNCATE TABLE data_share.work.t", {f"TRUNCATE {T}": NO_T}),
    ("DESCRIBE TABLE data_share.work.t", {f"REFERENCES {T}": NO_T}),
    (
        COPY,
        {
            f"INSERT {T}": NO_T,
            "USAGE ON STAGE data_share.work.files": (
                "002003",
                f"{COMPILATION}Stage 'DATA_SHARE.WORK.FILES' does not exist or not authorized.",
            ),
            "USAGE ON INTEGRATION s3_share_int": insufficient("integration", "S3_SHARE_INT"),
            WAREHOUSE: HIDDEN[WAREHOUSE],
        },
    ),
    (
        "LIST @data_share.work.files/none/",
        {
            "USAGE ON STAGE data_share.work.files": (
                "002003",
                f"{COMPILATION}Stage 'DATA_SHARE.WORK.FILES' does not exist or not authorized.",
            ),
            "USAGE ON INTEGRATION s3_share_int": insufficient("integration", "S3_SHARE_INT"),
        },
    ),
    (
        "CREATE OR REPLACE TABLE data_share.work.made LIKE data_share.work.t",
        {"CREATE TABLE ON SCHEMA data_share.work": insufficient("schema", "WORK"), f"SELECT {T}": NO_T},
    ),
    (
        "CREATE TABLE IF NOT EXISTS data_share.work.made2 AS SELECT * FROM data_share.work.t",
        {"CREATE TABLE ON SCHEMA data_share.work": insufficient("schema", "WORK"), f"SELECT {T}": NO_T},
    ),
    (
        "CREATE STAGE IF NOT EXISTS data_share.work.made URL = '{tools.URL}' STORAGE_INTEGRATION = S3_SHARE_INT",
        {
            "CREATE STAGE ON SCHEMA data_share.work": insufficient("schema", "WORK"),
            "USAGE ON INTEGRATION s3_share_int": insufficient("integration", "S3_SHARE_INT"),
        },
    ),
    (
        "CREATE SCHEMA IF NOT EXISTS data_share.made",
        {"CREATE SCHEMA ON DATABASE data_share": insufficient("database", "DATA_SHARE")},
    ),
]


@pytest.mark.parametrize(("statement", "needed"), NEEDED, ids=[statement[:60] for statement, _ in NEEDED])
def test_each_right_that_a_statement_needs(
    api: Any,
    admin: Any,
    grant: Callable[..., None],
    tools: Any,
    statement: str,
    needed: dict[str, tuple[str, str]],
) -> None:
    statement = statement.replace("{tools.URL}", tools.URL).replace("{tools.COPY}", tools.COPY)
    hidden = {right: error for right, error in HIDDEN.items() if right != WAREHOUSE}
    if statement.startswith("CREATE SCHEMA"):
        # The right on the database lets the role know of it.
        hidden = {}
    grant(*{*PLACE, *needed, WAREHOUSE})
    # Whoever has no other right on the table must not learn that it is there.
    for right, (code, words) in {**hidden, **needed}.items():
        admin.ok(f"REVOKE {right} FROM ROLE tester")
        said = api.error(statement, role="TESTER")
        assert (said[0], said[1][: len(words)]) == (code, words), right
        admin.ok(f"GRANT {right} TO ROLE tester")
    assert api.post(statement, role="TESTER").status_code == 200


LOADER_RIGHTS = {
    "USAGE ON WAREHOUSE load_wh": ("select_old_exports.sql", "000606", "No active warehouse selected"),
    "USAGE ON DATABASE data_share": ("create_ledger.sql", "090105", "does not have a current database"),
    "CREATE SCHEMA ON DATABASE data_share": ("create_schemas.sql", *insufficient("database", "DATA_SHARE")),
    "USAGE ON SCHEMA data_share.public": ("create_ledger.sql", "090106", "does not have a current schema"),
    "CREATE TABLE ON SCHEMA data_share.public": ("create_ledger.sql", *insufficient("schema", "PUBLIC")),
    "CREATE STAGE ON SCHEMA data_share.public": ("create_stage.sql", *insufficient("schema", "PUBLIC")),
    "USAGE ON INTEGRATION s3_share_int": ("create_stage.sql", *insufficient("integration", "S3_SHARE_INT")),
}


def statements(file: str) -> list[str]:
    text = render_sql(file.removesuffix(".sql"), share=SHARE, params={"keep_days": 7})
    return [statement for statement in text.split(";\n") if statement.strip()]


def test_the_loaders_rights_are_the_least_that_the_set_up_needs(api: Any, admin: Any) -> None:
    """Each right is needed by one of the product's statements, and there is no other."""
    files = ["create_schemas.sql", "create_stage.sql", "create_ledger.sql", "select_old_exports.sql"]
    for file in files:
        for statement in statements(file):
            api.ok(statement)
    for right, (file, code, words) in LOADER_RIGHTS.items():
        admin.ok(f"REVOKE {right} FROM ROLE data_share_loader")
        said = api.error(statements(file)[0])
        assert (said[0], words in said[1]) == (code, True), (right, said)
        admin.ok(f"GRANT {right} TO ROLE data_share_loader")
    for file in files:
        for statement in statements(file):
            api.ok(statement)


def test_a_role_must_be_granted_to_the_user(api: Any, admin: Any, connect: Any, tools: Any) -> None:
    admin.ok(f"REVOKE ROLE data_share_loader FROM USER {tools.USER}")
    try:
        answer = api.post("SELECT 1")
        assert (answer.status_code, answer.json()["code"]) == (400, "390186")
        with pytest.raises(snowflake.connector.errors.DatabaseError, match="is not granted to this user"):
            connect()
    finally:
        admin.ok(f"GRANT ROLE data_share_loader TO USER {tools.USER}")
    assert api.post("SELECT 1", role="ACCOUNTADMIN").json()["code"] == "390186"
    code, message = api.error("USE ROLE sysadmin; SELECT 1", count=2)
    assert (code, "Requested role 'SYSADMIN' is not assigned to the executing user." in message) == ("100132", True)
    assert api.error("USE WAREHOUSE load_wh; SELECT 1", count=2, role="OTHER")[0] == "100132"
    assert api.error("USE SCHEMA data_share.work; SELECT 1", count=2, role="OTHER")[0] == "100132"


def test_what_a_role_creates_is_its_own(
    api: Any, admin: Any, grant: Callable[..., None], table: str, connect: Any
) -> None:
    name = f"data_share.work.{table}"
    grant(*PLACE, WAREHOUSE, "CREATE TABLE ON SCHEMA data_share.work")
    grant(*PLACE, WAREHOUSE, "CREATE TABLE ON SCHEMA data_share.work", role="other")
    api.ok(f"CREATE TABLE {name} (id NUMBER)", role="TESTER")
    api.ok(f"INSERT INTO {name} VALUES (1)", role="TESTER")
    hidden = no_object(name.upper())
    changes = [
        f"ALTER TABLE {name} ADD COLUMN x NUMBER",
        f"DROP TABLE {name}",
        f"GRANT SELECT ON TABLE {name} TO ROLE other",
    ]
    for statement in (f"SELECT * FROM {name}", f"DESCRIBE TABLE {name}", *changes[:2]):
        assert api.error(statement, role="OTHER") == hidden
    code, message = api.error(f"CREATE TABLE IF NOT EXISTS {name} (id NUMBER)", role="OTHER")
    assert (code, "already exists, but current role has no privileges on it." in message) == ("003041", True)
    assert api.rows("SHOW TABLES IN SCHEMA data_share.work", role="OTHER") == []
    # With a right on it, the other role knows of it and may still not change it.
    admin.ok(f"GRANT SELECT ON TABLE {name} TO ROLE other")
    assert api.rows(f"SELECT * FROM {name}", role="OTHER") == [["1"]]
    for statement in (*changes, f"CREATE OR REPLACE TABLE {name} (id NUMBER)", f"TRUNCATE TABLE {name}"):
        assert api.error(statement, role="OTHER") == insufficient("table", table)
    shown = api.ok("SHOW TABLES IN SCHEMA data_share.work", role="OTHER")
    columns = [column["name"] for column in shown["resultSetMetaData"]["rowType"]]
    assert [(row[columns.index("name")], row[columns.index("owner")]) for row in shown["data"]] == [(table, "TESTER")]
    with connect(role="OTHER") as connection, connection.cursor() as cursor:
        with pytest.raises(snowflake.connector.errors.ProgrammingError, match="Insufficient privileges") as error:
            cursor.execute(f"DELETE FROM {name}")
        assert (error.value.errno, error.value.sqlstate) == (3001, "42501")
    api.ok(f"GRANT ALL ON TABLE {name} TO ROLE other", role="TESTER")
    api.ok(f"DELETE FROM {name}", role="OTHER")
    api.ok(f"DROP TABLE {name}", role="TESTER")


def test_grants_belong_to_the_object(api: Any, admin: Any, grant: Callable[..., None], table: str) -> None:
    name = f"data_share.work.{table}"
    grant(*PLACE, WAREHOUSE, role="other")
    admin.ok(f"CREATE TABLE {name} (id NUMBER)")
    admin.ok(f"GRANT SELECT ON TABLE {name} TO ROLE other")
    admin.ok(f"INSERT OVERWRITE INTO {name} SELECT 1")
    assert api.rows(f"SELECT * FROM {name}", role="OTHER") == [["1"]]
    admin.ok(f"ALTER TABLE {name} RENAME TO {name}_2")
    assert api.rows(f"SELECT * FROM {name}_2", role="OTHER") == [["1"]]
    admin.ok(f"ALTER TABLE {name}_2 RENAME TO {name}")
    # A statement that fails takes nothing away.
    assert admin.post(f"CREATE OR REPLACE TABLE {name} AS SELECT 'x'::NUMBER AS id").status_code == 422
    assert api.rows(f"SELECT * FROM {name}", role="OTHER") == [["1"]]
    admin.ok(f"CREATE OR REPLACE TABLE {name} (id NUMBER)")
    assert api.error(f"SELECT * FROM {name}", role="OTHER") == no_object(name.upper())
    admin.ok("GRANT SELECT ON FUTURE TABLES IN SCHEMA data_share.work TO ROLE other")
    admin.ok(f"CREATE OR REPLACE TABLE {name} (id NUMBER)")
    assert api.rows(f"SELECT * FROM {name}", role="OTHER") == []
    admin.ok("REVOKE SELECT ON FUTURE TABLES IN SCHEMA data_share.work FROM ROLE other")
    admin.ok(f"CREATE OR REPLACE TABLE {name} (id NUMBER)")
    assert api.error(f"SELECT * FROM {name}", role="OTHER") == no_object(name.upper())
    admin.ok("GRANT SELECT ON ALL TABLES IN SCHEMA data_share.work TO ROLE other")
    assert api.rows(f"SELECT * FROM {name}", role="OTHER") == []
    admin.ok("REVOKE SELECT ON ALL TABLES IN SCHEMA data_share.work FROM ROLE other")
    admin.ok(f"GRANT OWNERSHIP ON TABLE {name} TO ROLE other")
    api.ok(f"ALTER TABLE {name} ADD COLUMN x NUMBER", role="OTHER")
    assert admin.error(f"SELECT * FROM {name}") == no_object(name.upper())


def test_a_role_has_the_rights_of_the_roles_granted_to_it(api: Any, admin: Any, grant: Callable[..., None]) -> None:
    grant(*PLACE, WAREHOUSE, f"SELECT {T}", role="other")
    hidden = "This session does not have a current database"
    assert hidden in api.error("SELECT * FROM t", role="TESTER")[1]
    admin.ok("GRANT ROLE other TO ROLE tester")
    assert api.ok("SELECT * FROM data_share.work.t", role="TESTER")["data"] is not None
    assert admin.error("GRANT ROLE tester TO ROLE other")[0] == "003025"
    admin.ok("REVOKE ROLE other FROM ROLE tester")
    assert hidden in api.error("SELECT * FROM t", role="TESTER")[1]
    # The administrator's roles have it by SYSADMIN, to which the loader's role is granted.
    api.ok("CREATE TABLE IF NOT EXISTS of_the_loader (id NUMBER)")
    assert admin.rows("SELECT * FROM of_the_loader", role="SYSADMIN") == []


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE ROLE x",
        "CREATE DATABASE x",
        "CREATE WAREHOUSE x WAREHOUSE_SIZE = 'XSMALL'",
        "CREATE STORAGE INTEGRATION x TYPE = EXTERNAL_STAGE STORAGE_ALLOWED_LOCATIONS = ('s3://x/')",
        "GRANT CREATE ROLE ON ACCOUNT TO ROLE data_share_loader",
    ],
)
def test_the_account_is_the_administrators(api: Any, statement: str) -> None:
    assert api.error(statement) == insufficient("account", "MYORG-SHARE")


@pytest.mark.parametrize(
    ("statement", "code", "words"),
    [
        ("GRANT SELECT ON TABLE data_share.work.t TO ROLE nope", "002003", "Role 'NOPE'"),
        ("GRANT SELECT ON TABLE data_share.work.nope TO ROLE tester", "002003", "Table 'DATA_SHARE.WORK.NOPE'"),
        ("GRANT ROLE tester TO USER nobody", "002003", "User 'NOBODY'"),
        ("GRANT USAGE ON TABLE data_share.work.t TO ROLE tester", "001003", "unexpected 'USAGE'"),
        ("GRANT SELECT ON TABLE data_share.work.t TO ROLE tester WITH GRANT OPTION", "000002", "Unsupported feature"),
    ],
)
def test_grants_that_cannot_be(admin: Any, statement: str, code: str, words: str) -> None:
    said = admin.error(statement)
    assert (said[0], words in said[1]) == (code, True), said


def test_only_who_may_grant_does(api: Any, grant: Callable[..., None]) -> None:
    grant(*PLACE, f"SELECT {T}")
    statement = f"GRANT SELECT {T} TO ROLE other"
    assert api.error(statement, role="TESTER") == NOT_T
    assert api.error("GRANT ROLE other TO ROLE tester", role="TESTER") == insufficient("role", "OTHER")
    grant("MANAGE GRANTS ON ACCOUNT")
    api.ok(statement, role="TESTER")
    api.ok(statement.replace("GRANT", "REVOKE").replace(" TO ", " FROM "), role="TESTER")


def test_rights_are_kept_and_a_dropped_role_leaves_its_objects(s3: Any, tools: Any, tmp_path: Path) -> None:
    with tools.serve(app(tools, s3, tmp_path)) as address:
        admin, api = client(tools, address), tools.Api(address)
        api.ok("CREATE TABLE mine (id NUMBER)")
        for statement in (
            "CREATE ROLE reader",
            f"GRANT ROLE reader TO USER {tools.USER}",
            "GRANT SELECT ON TABLE mine TO ROLE reader",
            "GRANT USAGE ON SCHEMA public TO ROLE reader",
            "GRANT USAGE ON WAREHOUSE load_wh TO ROLE reader",
            "REVOKE CREATE TABLE ON SCHEMA public FROM ROLE data_share_loader",
        ):
            admin.ok(statement)
        admin.http.close()
        api.http.close()
    with tools.serve(app(tools, s3, tmp_path)) as address:
        admin, api = client(tools, address), tools.Api(address)
        hidden = "Database 'DATA_SHARE' does not exist"
        assert hidden in api.error("SELECT * FROM data_share.public.mine", role="READER")[1]
        admin.ok("GRANT USAGE ON DATABASE data_share TO ROLE reader")
        assert api.rows("SELECT * FROM mine", role="READER") == []
        # What the administrator took away is not given again by a new start.
        assert api.error("CREATE TABLE x (id NUMBER)") == insufficient("schema", "PUBLIC")
        admin.ok("DROP ROLE data_share_loader")
        assert admin.rows("SELECT * FROM mine") == []
        assert api.post("SELECT 1").json()["code"] == "390189"
        admin.http.close()
        api.http.close()
