"""The set-up scripts: one spelling of each name, least rights, and nothing that a second run would undo."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sqlglot
import sqlparse
from sqlglot import exp

from data_share.render import set_up_files
from data_share.share import Share
from data_share.share_file import DEFAULT, share_file

PROJECT = Path(__file__).resolve().parents[2]
LOADER, READER = "data_share_loader", "data_share_reader"


def statements(text: str) -> list[str]:
    """The statements of a script on one line each, without comments."""
    bare = sqlparse.format(text, strip_comments=True)
    return [" ".join(one.rstrip(";").split()) for one in sqlparse.split(bare) if one.strip()]


@pytest.fixture(scope="module")
def scripts() -> dict[str, list[str]]:
    """The statements of each script, by its name."""
    files = set_up_files(DEFAULT, share_file().shares)
    folder = "snowflake/"
    return {path.removeprefix(folder): statements(text) for path, text in files.items() if path.startswith(folder)}


@pytest.fixture(scope="module")
def everything(scripts: dict[str, list[str]]) -> list[str]:
    """The statements of all scripts."""
    return [one for sent in scripts.values() for one in sent]


@pytest.fixture(scope="module")
def text(everything: list[str]) -> str:
    return "\n".join(everything)


@pytest.fixture(scope="module")
def grants(everything: list[str]) -> list[str]:
    return [one for one in everything if one.startswith("GRANT ")]


def test_the_scripts_are_numbered_without_a_gap_and_listed(scripts: dict[str, list[str]]) -> None:
    assert [name[:3] for name in scripts] == [f"{number:02}_" for number in range(1, len(scripts) + 1)]
    docs = (PROJECT / "docs" / "snowflake.md").read_text()
    assert re.findall(r"^\| `(\d\d_\w+\.sql)` \|", docs, flags=re.MULTILINE) == list(scripts)


def test_each_script_says_whose_rights_it_uses(scripts: dict[str, list[str]]) -> None:
    docs = (PROJECT / "docs" / "snowflake.md").read_text()
    for name, (first, *others) in scripts.items():
        assert re.fullmatch(r"USE ROLE \w+", first), name
        assert others, name
        # As docs/snowflake.md has it.
        role = {"data_share_loader": "the loader"}.get(first[9:], first[9:].upper())
        assert f"| `{name}` | {role} |" in docs


def test_a_second_run_changes_and_drops_nothing(everything: list[str]) -> None:
    harmless = re.compile(r"USE ROLE |GRANT |DESCRIBE |LIST |CREATE (TRANSIENT )?[A-Z ]+ IF NOT EXISTS ")
    change = re.compile(r"\b(OR REPLACE|DROP|ALTER|REVOKE|TRUNCATE|DELETE|SET)\b")
    assert [one for one in everything if not harmless.match(one) or change.search(one)] == []
    for one in everything:
        assert sqlglot.parse_one(one, read="snowflake")


def test_the_names_are_those_of_the_product(text: str) -> None:
    from data_share.share import Share

    [integration] = re.findall(r"CREATE STORAGE INTEGRATION IF NOT EXISTS (\w+)", text)
    assert integration == Share().storage_integration
    assert re.findall(r"STORAGE_ALLOWED_LOCATIONS = \('([^']+)'\)", text) == [Share().url]
    assert re.findall(r"URL = '([^']+)'", text) == [Share().url]
    assert re.findall(r"CREATE STAGE IF NOT EXISTS \w+\.\w+\.(\w+)", text) == [Share().stage]
    assert re.findall(r"CREATE TRANSIENT SCHEMA IF NOT EXISTS \w+\.(\w+)", text) == [Share().staging_schema]
    assert re.findall(r"ROLE_ARN = '([^']+)'", text) == ["arn:aws:iam::<AWS_ACCOUNT_ID>:role/data-share-snowflake"]


def test_the_stage_is_the_one_that_the_dag_would_create(everything: list[str]) -> None:

    template = (PROJECT / "include" / "sql" / "snowflake" / "create_stage.sql").read_text()
    for name, value in (("stage", f"data_share.public.{Share().stage}"), ("url", Share().url)):
        template = template.replace(f"{{{{ share.{name} }}}}", value)
    template = template.replace("{{ share.storage_integration }}", Share().storage_integration)
    [by_dag] = sqlglot.parse(template, read="snowflake")
    [by_script] = [one for one in everything if one.startswith("CREATE STAGE ")]
    assert by_dag is not None
    assert sqlglot.parse_one(by_script, read="snowflake").sql("snowflake", comments=False) == by_dag.sql(
        "snowflake", comments=False
    )


def test_what_is_used_is_what_is_created(everything: list[str], text: str) -> None:
    created = {
        "ROLE": set(re.findall(r"CREATE ROLE IF NOT EXISTS (\w+)", text)),
        "WAREHOUSE": set(re.findall(r"CREATE WAREHOUSE IF NOT EXISTS (\w+)", text)),
        "DATABASE": set(re.findall(r"CREATE DATABASE IF NOT EXISTS (\w+)", text)),
        "SCHEMA": set(re.findall(r"SCHEMA IF NOT EXISTS ([\w.]+)", text)),
        "INTEGRATION": set(re.findall(r"INTEGRATION IF NOT EXISTS (\w+)", text)),
        "USER": set(re.findall(r"CREATE USER IF NOT EXISTS (\w+)", text)),
    }
    assert created["ROLE"] == {LOADER, READER}
    system = {"ROLE": {"accountadmin", "sysadmin", "securityadmin", "useradmin"}}
    for kind, names in created.items():
        used = set(re.findall(rf"\b(?:ON|IN|TO|USE|DESCRIBE) {kind} ([\w.]+)", text))
        assert used - system.get(kind, set()) <= names, kind
    [user] = [one for one in everything if one.startswith("CREATE USER ")]
    assert f"DEFAULT_ROLE = {LOADER} " in user
    assert f"DEFAULT_WAREHOUSE = {min(created['WAREHOUSE'])} " in user
    assert "DEFAULT_NAMESPACE = data_share.public " in user


def test_the_user_has_no_password_and_no_role_but_the_loaders(everything: list[str], grants: list[str]) -> None:
    [user] = [one for one in everything if one.startswith("CREATE USER ")]
    assert " TYPE = SERVICE " in user
    assert " DEFAULT_SECONDARY_ROLES = () " in user
    # A key in the script would come back with each run, also after it was changed because somebody stole it.
    assert not re.search(r"PASSWORD|RSA_PUBLIC_KEY", user)
    assert [one for one in grants if " TO USER " in one] == [f"GRANT ROLE {LOADER} TO USER data_share_loader"]


def rights(grants: list[str], role: str) -> set[str]:
    return {one.removesuffix(f" TO ROLE {role}")[6:] for one in grants if one.endswith(f" TO ROLE {role}")}


def test_the_loader_has_the_rights_that_its_statements_need_and_no_others(grants: list[str]) -> None:
    assert rights(grants, LOADER) == {
        "USAGE ON WAREHOUSE load_wh",
        "USAGE ON DATABASE data_share",
        "USAGE ON SCHEMA data_share.public",
        "USAGE ON SCHEMA data_share.staging",
        "CREATE TABLE ON SCHEMA data_share.staging",
        "CREATE SCHEMA ON DATABASE data_share",
        "CREATE TABLE ON SCHEMA data_share.public",
        "CREATE STAGE ON SCHEMA data_share.public",
        "USAGE ON INTEGRATION s3_share_int",
    }


def test_the_reader_can_change_nothing(grants: list[str]) -> None:
    verbs = {right.partition(" ON ")[0] for right in rights(grants, READER)}
    assert verbs == {"USAGE", "SELECT"}
    assert not any("staging" in right for right in rights(grants, READER)), "rows that did not pass the checks yet"


def test_the_roles_are_below_sysadmin_and_above_nothing(grants: list[str]) -> None:
    assert [one for one in grants if one.startswith("GRANT ROLE ") and " TO ROLE " in one] == [
        f"GRANT ROLE {LOADER} TO ROLE sysadmin",
        f"GRANT ROLE {READER} TO ROLE sysadmin",
    ]


def test_no_right_is_passed_on_or_more_than_named(grants: list[str]) -> None:
    too_much = re.compile(r"GRANT (ALL|OWNERSHIP|MANAGE)|WITH GRANT OPTION|ON ACCOUNT|TO (ROLE )?public$")
    assert [grant for grant in grants if too_much.search(grant)] == []


def test_each_right_of_the_loader_is_explained() -> None:
    # Between two grants, or above a pair of them, stands a comment.
    bodies = set_up_files(DEFAULT, share_file().shares)["snowflake/06_grants.sql"].split("\n\n")
    loaders = [body for body in bodies if f"TO ROLE {LOADER}" in body]
    unexplained = [body for body in loaders if not body.startswith("--")]
    assert [body.partition(" TO ")[0] for body in unexplained] == [
        "GRANT USAGE ON SCHEMA data_share.public",
        "GRANT USAGE ON SCHEMA data_share.staging",
    ], "these two are explained together with the database"


def test_the_warehouse_stops_by_itself_and_allows_a_statement_as_long_as_the_syncs_do(everything: list[str]) -> None:
    from data_share.snowflake.sql_api import STATEMENT_TIMEOUT_SECONDS

    create = sqlglot.parse_one(next(one for one in everything if "WAREHOUSE IF NOT" in one), read="snowflake")
    options = {
        item.name.upper(): item.args["value"].sql() for item in create.find_all(exp.Property) if "value" in item.args
    }
    assert options["WAREHOUSE_SIZE"] == "XSMALL"
    assert 0 < int(options["AUTO_SUSPEND"]) <= 60
    assert (options["AUTO_RESUME"], options["INITIALLY_SUSPENDED"]) == ("TRUE", "TRUE")
    assert int(options["STATEMENT_TIMEOUT_IN_SECONDS"]) == STATEMENT_TIMEOUT_SECONDS
