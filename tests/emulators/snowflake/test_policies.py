"""Masking policies, row access policies and tags: what a role reads, wherever it reads it, and what it still writes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

MASK = "(val VARCHAR) RETURNS VARCHAR -> CASE WHEN {who} THEN val ELSE '***' END"
NUMBER_MASK = "(val NUMBER) RETURNS NUMBER -> CASE WHEN {who} THEN val ELSE 0 END"
NOBODY = "CURRENT_ROLE() IN ('AUDITOR')"
LOADER = "IS_ROLE_IN_SESSION('DATA_SHARE_LOADER')"


@pytest.fixture
def table(api: Any, admin: Any) -> Iterator[str]:
    """A table of the loader's, in a schema of its own."""
    schema = f"P_{uuid.uuid4().hex}".upper()
    api.ok(f"CREATE SCHEMA data_share.{schema}")
    api.ok(f"CREATE TABLE data_share.{schema}.t (id NUMBER, name VARCHAR, region VARCHAR)")
    api.ok(f"INSERT INTO data_share.{schema}.t VALUES (1, 'ada', 'EU'), (2, 'bo', 'US')")
    yield f"data_share.{schema}.t"
    admin.ok(f"DROP SCHEMA data_share.{schema}")


@pytest.fixture
def policy(admin: Any) -> Callable[..., str]:
    """Create a policy, which the administrator owns."""

    def create(body: str, kind: str = "MASKING") -> str:
        name = f"data_share.public.p_{uuid.uuid4().hex}"
        admin.ok(f"CREATE {kind} POLICY {name} AS {body}")
        return name

    return create


def mask(admin: Any, table: str, column: str, policy: str) -> None:
    admin.ok(f"ALTER TABLE {table} MODIFY COLUMN {column} SET MASKING POLICY {policy}")


def described(api: Any, table: str) -> dict[str, str | None]:
    answer = api.ok(f"DESCRIBE TABLE {table}")
    names = [column["name"] for column in answer["resultSetMetaData"]["rowType"]]
    return {row[names.index("name")]: row[names.index("policy name")] for row in answer["data"]}


def test_a_masked_column_is_masked_wherever_it_is_read(
    api: Any, admin: Any, table: str, policy: Callable[..., str]
) -> None:
    mask(admin, table, "name", policy(MASK.format(who=NOBODY)))
    assert api.rows(f"SELECT id, name FROM {table} ORDER BY id") == [["1", "***"], ["2", "***"]]
    assert api.rows(f"SELECT x.* FROM {table} AS x WHERE x.name = 'ada'") == []
    assert api.rows(f"SELECT COUNT(DISTINCT name) FROM {table}") == [["1"]]
    assert api.rows(f"WITH c AS (SELECT name FROM {table}) SELECT MIN(c.name) FROM c") == [["***"]]
    assert api.rows(f"SELECT COUNT(*) FROM {table} AS a INNER JOIN {table} AS b ON a.name = b.name") == [["4"]]
    api.ok(f"CREATE TABLE {table}_copy AS SELECT name FROM {table}")
    api.ok(f"INSERT INTO {table}_copy SELECT name FROM {table}")
    assert api.rows(f"SELECT DISTINCT name FROM {table}_copy") == [["***"]]


def test_a_role_that_the_policy_exempts_reads_what_is_there(
    api: Any, admin: Any, table: str, policy: Callable[..., str]
) -> None:
    name = policy(MASK.format(who=LOADER))
    mask(admin, table, "name", name)
    assert api.rows(f"SELECT name FROM {table} ORDER BY id") == [["ada"], ["bo"]]
    assert admin.rows(f"SELECT name FROM {table} ORDER BY id") == [["ada"], ["bo"]], "it has the loader's rights"
    admin.ok(f"ALTER MASKING POLICY {name} SET BODY -> CASE WHEN CURRENT_ROLE() = 'DATA_SHARE_LOADER' THEN val END")
    assert api.rows(f"SELECT name FROM {table} ORDER BY id") == [["ada"], ["bo"]]
    assert admin.rows(f"SELECT name FROM {table}") == [[None], [None]]
    assert api.rows("SELECT IS_ROLE_IN_SESSION('DATA_SHARE_LOADER'), IS_ROLE_IN_SESSION('SYSADMIN')") == [
        ["true", "false"]
    ]


def test_conditions_of_statements_that_write_read_masked_values(
    api: Any, admin: Any, table: str, policy: Callable[..., str]
) -> None:
    mask(admin, table, "name", policy(MASK.format(who=NOBODY)))
    api.ok(f"UPDATE {table} SET region = name WHERE name = 'ada'")
    api.ok(f"DELETE FROM {table} WHERE name = 'ada'")
    api.ok(f"UPDATE {table} SET region = {table.rpartition('.')[2]}.name, name = 'new' WHERE id = 1")
    admin.ok(f"ALTER TABLE {table} MODIFY COLUMN name UNSET MASKING POLICY")
    assert api.rows(f"SELECT * FROM {table} ORDER BY id") == [["1", "new", "***"], ["2", "bo", "US"]]


def test_a_merge_on_a_masked_key_inserts_every_row_again(
    api: Any, admin: Any, table: str, policy: Callable[..., str]
) -> None:
    api.ok(f"CREATE TABLE {table}_new (id NUMBER, name VARCHAR)")
    api.ok(f"INSERT INTO {table}_new VALUES (1, 'new'), (2, 'newer')")
    mask(admin, table, "id", policy(NUMBER_MASK.format(who=NOBODY)))
    merge = (
        f"MERGE INTO {table} AS target USING {table}_new AS staging ON target.id = staging.id "
        "WHEN MATCHED THEN UPDATE SET name = staging.name "
        "WHEN NOT MATCHED THEN INSERT (id, name) VALUES (staging.id, staging.name)"
    )
    assert api.rows(merge) == [["2", "0"]]
    # Not even the rows that it has just inserted have the keys of the source.
    delete = f"DELETE FROM {table} WHERE NOT EXISTS (SELECT 1 FROM {table}_new WHERE t.id = t_new.id)"
    assert api.rows(delete) == [["4"]]
    admin.ok(f"ALTER TABLE {table} MODIFY COLUMN id UNSET MASKING POLICY")
    api.ok(f"INSERT INTO {table} VALUES (1, 'ada', 'EU')")
    assert api.rows(merge) == [["1", "1"]]


def test_rows_that_a_policy_hides_are_hidden_from_the_owner_too(
    api: Any, admin: Any, table: str, policy: Callable[..., str]
) -> None:
    name = policy(f"(r VARCHAR) RETURNS BOOLEAN -> r = 'US' OR {NOBODY}", "ROW ACCESS")
    admin.ok(f"ALTER TABLE {table} ADD ROW ACCESS POLICY {name} ON (region)")
    assert api.rows(f"SELECT COUNT(*) FROM {table}") == [["1"]]
    api.ok(f"INSERT INTO {table} VALUES (3, 'cy', 'EU')")
    api.ok(f"UPDATE {table} SET name = 'changed'")
    merge = (
        f"MERGE INTO {table} AS target USING (SELECT 1 AS id) AS s ON target.id = s.id "
        "WHEN MATCHED THEN UPDATE SET name = 'matched' WHEN NOT MATCHED THEN INSERT (id, region) VALUES (9, 'EU')"
    )
    assert api.rows(merge) == [["1", "0"]]
    assert api.rows(f"DELETE FROM {table}") == [["1"]]
    admin.ok(f"ALTER TABLE {table} DROP ROW ACCESS POLICY {name}")
    assert api.rows(f"SELECT * FROM {table} ORDER BY id") == [
        ["1", "ada", "EU"],
        ["3", "cy", "EU"],
        ["9", None, "EU"],
    ]


def test_an_overwrite_removes_hidden_rows_too(api: Any, admin: Any, table: str, policy: Callable[..., str]) -> None:
    name = policy(f"(r VARCHAR) RETURNS BOOLEAN -> {NOBODY}", "ROW ACCESS")
    admin.ok(f"ALTER TABLE {table} ADD ROW ACCESS POLICY {name} ON (region)")
    api.ok(f"INSERT OVERWRITE INTO {table} SELECT 7, 'x', 'EU'")
    assert api.rows(f"SELECT COUNT(*) FROM {table}") == [["0"]]
    admin.ok(f"ALTER TABLE {table} DROP ROW ACCESS POLICY {name}")
    assert api.rows(f"SELECT id FROM {table}") == [["7"]]


@pytest.mark.parametrize("of", ["SCHEMA", "DATABASE"])
def test_a_tag_masks_the_columns_of_its_types_in_all_tables(
    api: Any, admin: Any, table: str, policy: Callable[..., str], of: str
) -> None:
    schema = table.rpartition(".")[0]
    tag, thing = f"data_share.public.tag_{uuid.uuid4().hex}", schema if of == "SCHEMA" else "data_share"
    name = policy(MASK.format(who=NOBODY))
    admin.ok(f"CREATE TAG {tag}")
    admin.ok(f"ALTER TAG {tag} SET MASKING POLICY {name}")
    admin.ok(f"ALTER {of} {thing} SET TAG {tag} = 'secret'")
    try:
        assert api.rows(f"SELECT id, name FROM {table} ORDER BY id") == [["1", "***"], ["2", "***"]]
        api.ok(f"CREATE TABLE {schema}.later (c VARCHAR, n NUMBER)")
        api.ok(f"INSERT INTO {schema}.later VALUES ('x', 1)")
        assert api.rows(f"SELECT * FROM {schema}.later") == [["***", "1"]]
        assert described(api, table) == {"ID": None, "NAME": None, "REGION": None}, "as the page DESCRIBE TABLE says"
        direct = policy("(v VARCHAR) RETURNS VARCHAR -> 'direct'")
        mask(admin, table, "name", direct)
        assert api.rows(f"SELECT DISTINCT name FROM {table}") == [["direct"]]
    finally:
        admin.ok(f"ALTER {of} {thing} UNSET TAG {tag}")


def test_a_copy_of_a_table_has_its_tags(api: Any, admin: Any, table: str, policy: Callable[..., str]) -> None:
    tag = f"data_share.public.tag_{uuid.uuid4().hex}"
    admin.ok(f"CREATE TAG {tag}")
    admin.ok(f"ALTER TAG {tag} SET MASKING POLICY {policy(MASK.format(who=NOBODY))}")
    admin.ok(f"ALTER TABLE {table} SET TAG {tag} = 'secret'")
    api.ok(f"CREATE TABLE {table}_tagged LIKE {table}")
    api.ok(f"INSERT INTO {table}_tagged VALUES (5, 'x', 'EU')")
    assert api.rows(f"SELECT name FROM {table}_tagged") == [["***"]]


def test_a_copy_of_a_table_has_its_masking_policies_and_not_its_row_access_policy(
    api: Any, admin: Any, table: str, policy: Callable[..., str]
) -> None:
    name = policy(MASK.format(who=NOBODY))
    mask(admin, table, "name", name)
    rows = policy(f"(r VARCHAR) RETURNS BOOLEAN -> {NOBODY}", "ROW ACCESS")
    admin.ok(f"ALTER TABLE {table} ADD ROW ACCESS POLICY {rows} ON (region)")
    assert described(api, table) == {"ID": None, "NAME": name.upper(), "REGION": None}
    api.ok(f"CREATE TABLE {table}_like LIKE {table}")
    api.ok(f"INSERT INTO {table}_like VALUES (5, 'x', 'EU')")
    assert api.rows(f"SELECT name FROM {table}_like") == [["***"]]
    api.ok(f"ALTER TABLE {table}_like RENAME TO {table}_other")
    api.ok(f"ALTER TABLE {table}_other RENAME COLUMN name TO title")
    assert described(api, f"{table}_other") == {"ID": None, "TITLE": name.upper(), "REGION": None}
    api.ok(f"CREATE OR REPLACE TABLE {table}_other (title VARCHAR)")
    assert described(api, f"{table}_other") == {"TITLE": None}


def test_explain_tells_of_a_row_access_policy_and_of_no_masking_policy(
    api: Any, admin: Any, table: str, policy: Callable[..., str]
) -> None:
    def operations() -> list[Any]:
        answer = api.ok(f"EXPLAIN SELECT * FROM {table}", warehouse="NONE")
        names = [column["name"] for column in answer["resultSetMetaData"]["rowType"]]
        return [(row[names.index("operation")], row[names.index("objects")]) for row in answer["data"]]

    mask(admin, table, "name", policy(MASK.format(who=NOBODY)))
    assert ("TableScan", table.upper()) in operations()
    rows = policy("(r VARCHAR) RETURNS BOOLEAN -> TRUE", "ROW ACCESS")
    admin.ok(f"ALTER TABLE {table} ADD ROW ACCESS POLICY {rows} ON (region)")
    assert ("DynamicSecureView", "T (+ RowAccessPolicy)") in operations()


def test_policies_are_not_the_table_owners(api: Any, admin: Any, table: str, policy: Callable[..., str]) -> None:
    name, tag = policy(MASK.format(who=NOBODY)), f"data_share.public.tag_{uuid.uuid4().hex}"
    admin.ok(f"CREATE TAG {tag}")
    for statement in (
        f"ALTER TABLE {table} MODIFY COLUMN name SET MASKING POLICY {name}",
        f"ALTER TABLE {table} MODIFY COLUMN name UNSET MASKING POLICY",
        f"ALTER TABLE {table} ADD ROW ACCESS POLICY {name} ON (region)",
        f"ALTER SCHEMA {table.rpartition('.')[0]} SET TAG {tag} = 'x'",
        f"ALTER TAG {tag} SET MASKING POLICY {name}",
        f"CREATE MASKING POLICY data_share.public.mine AS {MASK.format(who=NOBODY)}",
    ):
        assert api.error(statement)[0] == "003001", statement
    for statement in (f"DROP MASKING POLICY {name}", f"ALTER MASKING POLICY {name} SET BODY -> val"):
        assert api.error(statement)[0] in {"002003", "003001"}, statement
    admin.ok("CREATE ROLE IF NOT EXISTS governor")
    admin.ok("GRANT APPLY MASKING POLICY ON ACCOUNT TO ROLE governor")
    admin.ok("GRANT CREATE MASKING POLICY ON SCHEMA data_share.public TO ROLE governor")


def test_policies_that_cannot_be(api: Any, admin: Any, table: str, policy: Callable[..., str]) -> None:
    name = policy(MASK.format(who=NOBODY))
    rows = policy("(r VARCHAR) RETURNS BOOLEAN -> TRUE", "ROW ACCESS")
    mask(admin, table, "name", name)
    for statement in (
        f"ALTER TABLE {table} MODIFY COLUMN id SET MASKING POLICY {name}",
        f"ALTER TABLE {table} MODIFY COLUMN name SET MASKING POLICY {name}",
        f"ALTER TABLE {table} MODIFY COLUMN nope SET MASKING POLICY {name}",
        f"ALTER TABLE {table} MODIFY COLUMN name SET MASKING POLICY data_share.public.nope",
        f"ALTER TABLE {table}_nope MODIFY COLUMN name SET MASKING POLICY {name}",
        f"ALTER TABLE {table} ADD ROW ACCESS POLICY {rows} ON (name)",
        f"ALTER TABLE {table} ADD ROW ACCESS POLICY {rows} ON (id, region)",
        f"DROP MASKING POLICY {name}",
        "CREATE MASKING POLICY data_share.public.q AS (a VARCHAR, b VARCHAR) RETURNS VARCHAR -> a",
        "CREATE MASKING POLICY data_share.public.q AS (a VARCHAR) RETURNS NUMBER -> 1",
        "SELECT IS_ROLE_IN_SESSION(name) FROM " + table,
    ):
        code, message = admin.error(statement)
        assert code.isdigit(), statement
        assert "internal" not in message, statement
    admin.ok(f"ALTER TABLE {table} MODIFY COLUMN name UNSET MASKING POLICY")
    admin.ok(f"DROP MASKING POLICY {name}")
    admin.ok(f"DROP MASKING POLICY IF EXISTS {name}")


def test_policies_outlive_the_process(start: Callable[[Path], Any], tmp_path: Path, tools: Any) -> None:
    from tests.emulators.snowflake.conftest import Api

    with start(tmp_path) as url:
        Api(url).ok("CREATE TABLE t (name VARCHAR)")
        Api(url).ok("INSERT INTO t VALUES ('ada')")
    # The fixture's account has no administrator: what they did stands in the file.
    file = tmp_path / "catalogue.json"
    text = file.read_text()
    known = (
        '{"MASKING POLICY:DATA_SHARE.PUBLIC.P": {"kind": "MASKING POLICY", "arguments": ["V"], "types": ["VARCHAR"], '
    )
    known += '"body": "\'***\'"}}'
    masks = '{"TABLE:DATA_SHARE.PUBLIC.T": {"NAME": "MASKING POLICY:DATA_SHARE.PUBLIC.P"}}'
    assert '"known": {}, "masks": {}' in text
    file.write_text(text.replace('"known": {}, "masks": {}', f'"known": {known}, "masks": {masks}'))
    with start(tmp_path) as url:
        assert Api(url).rows("SELECT name FROM t") == [["***"]]
        Api(url).ok("CREATE TABLE u (n NUMBER)")
    with start(tmp_path) as url:
        assert Api(url).rows("SELECT name FROM t") == [["***"]]
