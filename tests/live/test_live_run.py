"""The suite as it runs on real accounts: by its documented command, against emulators that are as good, or not."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import s3fs
import sqlparse

from data_share.doctor.deployment import State
from data_share.snowflake.sql_api import DataShareSnowflakeHook
from emulators.databricks.sql_statements import SqlStatements
from emulators.snowflake import copy_into
from emulators.snowflake.errors import SqlError
from tests.contracts.conftest import ACCOUNT, TOKEN, USER, Accounts
from tests.live.accounts import LiveSettings, Scratch
from tests.live.assumptions import ASSUMPTIONS
from tests.live.broken import BREAKS
from tests.live.conftest import PROJECT, live_environment
from tests.live.preflight import CHECKS, preflight
from tests.live.test_the_suite import left

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox]

LONGEST_RUN = 600.0
FAILED = 2
"""What make ends with when a command of it fails."""


@dataclasses.dataclass
class Ran:
    """One run of the suite: how it ended, and what it brought back."""

    code: int
    printed: str
    report: dict[str, Any]
    page: str

    def result(self, name: str) -> str:
        return str(self.report["assumptions"][name]["result"])


@pytest.fixture
def run(emulators: Accounts, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the suite with the documented command, against the emulators as against real accounts."""

    def make(*selected: str, **changed: str) -> Ran:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTEST"))}
        environment |= live_environment(emulators) | {"DATA_SHARE_LIVE_REPORT": str(tmp_path)} | changed
        # The environment of these tests is that of the child, whatever its age: it is not made anew here.
        command = ["make", "--silent", "-o", ".venv/.installed", "test-live", f"PYTEST_ARGS={' '.join(selected)}"]
        began = time.monotonic()
        ended = subprocess.run(
            command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=LONGEST_RUN, check=False
        )
        with capsys.disabled():
            sys.stdout.write(f" [make test-live {' '.join(selected)}: {time.monotonic() - began:.0f} s]")
        files = [tmp_path / name for name in ("live-report.json", "live-report.md")]
        assert files[0].exists(), ended.stdout + ended.stderr
        return Ran(
            ended.returncode, ended.stdout + ended.stderr, json.loads(files[0].read_text()), files[1].read_text()
        )

    return make


def secrets(emulators: Accounts) -> list[str]:
    key = json.loads(live_environment(emulators)["DATA_SHARE_LIVE_SNOWFLAKE"])["extra"]["private_key_content"]
    return [TOKEN, *key.splitlines()[1:-1], ACCOUNT, USER, "databricks-snowflake-share"]


def test_a_whole_run_brings_back_that_all_holds_and_no_secret(emulators: Accounts, run: Callable[..., Ran]) -> None:
    before = left(emulators)
    ran = run()
    assert ran.code == 0, ran.printed
    assert {name: ran.result(name) for name in ASSUMPTIONS} == dict.fromkeys(ASSUMPTIONS, "holds")
    for name, one in ran.report["assumptions"].items():
        assert one["answers"], name
        assert one["tests"], name
        assert f"| `{name}` | holds |" in ran.page
    assert {finding["state"] for finding in ran.report["preflight"]} == {"ok"}
    assert set(ran.report["tests"]) == {"passed"}
    assert ran.report["unknown_fields"] == []
    versions = ran.report["versions"]
    assert {"commit", "apache-airflow", "Snowflake", "Databricks SQL warehouse"} <= set(versions)
    for secret in secrets(emulators):
        assert secret.lower() not in json.dumps(ran.report).lower()
        assert secret.lower() not in ran.page.lower()
    assert left(emulators) == before


def test_a_field_that_is_new_is_told_and_fails_nothing(
    emulators: Accounts, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    from emulators.databricks import answers

    told = answers._run
    monkeypatch.setattr(answers, "_run", lambda *given: told(*given) | {"new_in_2027": True})
    ran = run("-k", "test_a_token_starts_one_run")
    assert ran.code == 0, ran.printed
    assert "runs-get 200: $.new_in_2027" in ran.report["unknown_fields"]
    assert "`runs-get 200: $.new_in_2027`" in ran.page


# ---- each assumption, not true


def trying(name: str) -> list[str]:
    """Return the tests that try an assumption."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("test_*.py"))]
    found = re.compile(rf'@pytest\.mark\.assumption\("{name}"\)\n(?:@.*\n)*def (test_\w+)')
    return [test for text in texts for test in found.findall(text)]


def test_each_assumption_has_a_test_and_a_break() -> None:
    assert [name for name in ASSUMPTIONS if not trying(name)] == []
    assert set(BREAKS) == set(ASSUMPTIONS)


@pytest.mark.parametrize("name", ASSUMPTIONS)
def test_an_assumption_that_is_not_true_is_told(
    emulators: Accounts, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = left(emulators)
    BREAKS[name](monkeypatch)
    ran = run("-k", f"'{' or '.join(trying(name))}'")
    assert ran.result(name) == "does not hold", ran.printed[-3000:]
    assert ran.report["assumptions"][name]["answers"]
    assert ran.code == FAILED
    others = [other for other in ASSUMPTIONS if other != name and not set(trying(other)) & set(trying(name))]
    assert {ran.result(other) for other in others} == {"not tried"}
    monkeypatch.undo()
    assert left(emulators) == before


def test_an_account_that_lacks_what_a_trial_takes_fails_nothing(run: Callable[..., Ran]) -> None:
    [test] = trying("integration_usage")
    ran = run("-k", test, DATA_SHARE_LIVE_OTHER_ROLE="")
    assert ran.code == 0, ran.printed
    assert ran.result("integration_usage") == "not tried"
    assert ran.report["assumptions"]["integration_usage"]["answers"] == ["DATA_SHARE_LIVE_OTHER_ROLE is not set"]
    assert [name.rpartition("::")[2].partition(":")[0] for name in ran.report["tests"]["not tried"]] == [test]


# ---- each right, taken away


class Refusing(s3fs.S3FileSystem):
    """S3 for somebody who may not do something."""

    refused = ""

    def _refuse(self, what: str) -> None:
        if self.refused == what:
            raise PermissionError(f"Access Denied: s3:{what}")

    def call_s3(self, *given: Any, **named: Any) -> Any:
        self._refuse("ListBucket")
        return super().call_s3(*given, **named)

    def open(self, *given: Any, **named: Any) -> Any:
        self._refuse("PutObject")
        return super().open(*given, **named)

    def cat_file(self, *given: Any, **named: Any) -> Any:
        self._refuse("GetObject")
        return super().cat_file(*given, **named)

    def rm_file(self, *given: Any, **named: Any) -> Any:
        self._refuse("DeleteObject")
        return super().rm_file(*given, **named)


Taken = Callable[[Accounts, LiveSettings, pytest.MonkeyPatch], AbstractContextManager[LiveSettings]]


@contextlib.contextmanager
def _revoked(
    grant: str, accounts: Accounts, settings: LiveSettings, patch: pytest.MonkeyPatch
) -> Iterator[LiveSettings]:
    administrator = DataShareSnowflakeHook("snowflake_administrator")
    administrator.run_statement(f"REVOKE {grant.replace(' TO ', ' FROM ')}")
    try:
        yield settings
    finally:
        administrator.run_statement(f"GRANT {grant}")


@contextlib.contextmanager
def _connection(side: str, name: str, accounts: Accounts, settings: LiveSettings, patch: pytest.MonkeyPatch) -> Any:
    yield dataclasses.replace(settings, **{side: json.loads(os.environ[f"AIRFLOW_CONN_{name}"])})


@contextlib.contextmanager
def _refused(
    method: str, path: str, said: str, accounts: Accounts, settings: LiveSettings, patch: pytest.MonkeyPatch
) -> Iterator[LiveSettings]:
    answer = {"status": 403, "json": {"error_code": "PERMISSION_DENIED", "message": said}}
    with accounts.fault(accounts.databricks_url, method=method, path=path, times=100, action=answer):
        yield settings


@contextlib.contextmanager
def _fails(
    body: str, said: str, accounts: Accounts, settings: LiveSettings, patch: pytest.MonkeyPatch
) -> Iterator[LiveSettings]:
    failed = {"state": "FAILED", "error": {"error_code": "PERMISSION_DENIED", "message": said}}
    answer = {"status": 200, "json": {"statement_id": "1", "status": failed}}
    order = {"method": "POST", "path": "sql/statements$", "body": body, "times": 100, "action": answer}
    with accounts.fault(accounts.databricks_url, **order):
        yield settings


@contextlib.contextmanager
def _no_s3(what: str, accounts: Accounts, settings: LiveSettings, patch: pytest.MonkeyPatch) -> Iterator[LiveSettings]:
    patch.setattr(Refusing, "refused", what)
    patch.setattr(
        Scratch, "files", lambda scratch: Refusing(endpoint_url=scratch.settings.s3_endpoint, use_listings_cache=False)
    )
    yield settings


@contextlib.contextmanager
def _classic(accounts: Accounts, settings: LiveSettings, patch: pytest.MonkeyPatch) -> Iterator[LiveSettings]:
    told = SqlStatements.warehouse
    classic = {"warehouse_type": "CLASSIC", "enable_serverless_compute": False}
    patch.setattr(SqlStatements, "warehouse", lambda statements, name: told(statements, name) | classic)
    yield settings


@contextlib.contextmanager
def _aws_refuses_snowflake(
    accounts: Accounts, settings: LiveSettings, patch: pytest.MonkeyPatch
) -> Iterator[LiveSettings]:
    def refuse(*_: Any) -> Any:
        raise SqlError(91003, "22000", "Failure using stage area. Cause: [Access Denied (Status Code: 403)]")

    patch.setattr(copy_into, "_with_prefix", refuse)
    yield settings


@contextlib.contextmanager
def _other_database(accounts: Accounts, settings: LiveSettings, patch: pytest.MonkeyPatch) -> Iterator[LiveSettings]:
    # To Snowflake, one that the role may not use is one that is not there.
    extra = {**settings.snowflake["extra"], "database": "NO_SUCH"}
    yield dataclasses.replace(settings, snowflake={**settings.snowflake, "extra": extra})


LOADER = "TO ROLE DATA_SHARE_LOADER"
TAKEN: dict[str, Taken] = {
    "a user that signs in, with": partial(_connection, "snowflake", "SNOWFLAKE_WRONG_KEY"),
    "the role, granted": partial(_connection, "snowflake", "SNOWFLAKE_OTHER_ROLE"),
    "USAGE on the database": _other_database,
    "USAGE on the warehouse": partial(_revoked, f"USAGE ON WAREHOUSE LOAD_WH {LOADER}"),
    "USAGE on the storage integration": partial(_revoked, f"USAGE ON INTEGRATION S3_SHARE_INT {LOADER}"),
    "a user or service principal": partial(_connection, "databricks", "DATABRICKS_WRONG_TOKEN"),
    "CAN VIEW on the export job": partial(_refused, "GET", "jobs/get$", "User does not have View on job 7"),
    "a SQL warehouse of the job": _classic,
    "CAN USE on the job's SQL": partial(_refused, "POST", "sql/statements$", "no permission to use the warehouse"),
    "CAN READ on the bundle's": partial(_refused, "GET", "get-status$", "User does not have read permissions"),
    "SELECT for the source table": partial(_fails, "FROM samples", "User does not have SELECT on Table 'trips'"),
    "ListBucket": partial(_no_s3, "ListBucket"),
    "PutObject": partial(_no_s3, "PutObject"),
    "GetObject": partial(_no_s3, "GetObject"),
    "WRITE FILES": partial(_fails, "INSERT OVERWRITE", "User does not have WRITE FILES on External Location 'x'"),
    "READ FILES": partial(_fails, r"SELECT \* FROM parquet", "User does not have READ FILES on External Location 'x'"),
    "CREATE TABLE for the schema": partial(_fails, "CREATE TABLE", "User does not have CREATE TABLE on Schema 'live'"),
    "Workspace access": partial(_refused, "POST", "jobs/create$", "User is not allowed to create jobs"),
    "CREATE SCHEMA": partial(_revoked, f"CREATE SCHEMA ON DATABASE DATA_SHARE {LOADER}"),
    "an AWS role of the integration": _aws_refuses_snowflake,
    "DeleteObject": partial(_no_s3, "DeleteObject"),
}
"""A part of the right's name -> what takes it away."""


def test_each_right_is_taken_away_once() -> None:
    assert [[check.right for check in CHECKS if part in check.right] for part in TAKEN] == [[c.right] for c in CHECKS]


@pytest.mark.parametrize("part", TAKEN)
def test_a_right_that_is_missing_is_named_and_nothing_is_left(
    emulators: Accounts, settings: LiveSettings, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    before = left(emulators)
    with TAKEN[part](emulators, settings, monkeypatch) as without:
        findings = list(preflight(without, {}))
    monkeypatch.undo()
    assert [finding.name for finding in findings if finding.state is State.WRONG] == [
        check.right for check in CHECKS if part in check.right
    ]
    assert left(emulators) == before


def test_without_a_right_the_command_names_it_and_makes_nothing(emulators: Accounts, run: Callable[..., Ran]) -> None:
    before = left(emulators)
    with _revoked(f"USAGE ON INTEGRATION S3_SHARE_INT {LOADER}", emulators, None, None):  # type: ignore[arg-type]
        submitted, asked = len(emulators.snowflake), len(emulators.databricks)
        ran = run()
    assert ran.code == FAILED
    assert "wrong        USAGE on the storage integration, which allows the prefix" in ran.printed
    assert "Nothing was made" in ran.printed
    statements = [
        json.loads(e.body)["statement"] for e in emulators.snowflake[submitted:] if e.method == "POST" and e.body
    ]
    assert [sql for sql in statements if re.match("CREATE|INSERT|COPY", sql)] == []
    assert [e.path for e in emulators.databricks[asked:] if e.method == "POST" and "statements" not in e.path] == []
    assert left(emulators) == before
    [wrong] = [finding for finding in ran.report["preflight"] if finding["state"] == "wrong"]
    assert "GRANT USAGE ON INTEGRATION" in wrong["text"]
    assert ran.report["tests"] == {}
    assert {one["result"] for one in ran.report["assumptions"].values()} == {"not tried"}


# ---- its scripts


def script(name: str) -> list[str]:
    text = sqlparse.format((Path(__file__).parent / name).read_text(encoding="utf-8"), strip_comments=True)
    return [statement.rstrip(";") for statement in sqlparse.split(text) if statement.strip(" ;\n")]


def test_the_script_makes_all_that_the_suite_takes(emulators: Accounts, settings: LiveSettings) -> None:
    administrator = DataShareSnowflakeHook("snowflake_administrator")
    # What the emulator does not have: other users, a role from one request to the next, the end of a database.
    unknown = re.compile(r"(CREATE|DROP) USER |USE ROLE |DROP (DATABASE|WAREHOUSE) ")
    before = left(emulators)
    try:
        for statement in script("setup_live.sql"):
            if not unknown.match(statement):
                administrator.run_statement(re.sub(r"TO USER \w+", f"TO USER {USER}", statement))
        names = {"database": "DATA_SHARE_LIVE", "role": "DATA_SHARE_LIVE", "warehouse": "LIVE_WH"}
        snowflake = {**settings.snowflake, "extra": {**settings.snowflake["extra"], **names}}
        findings = list(preflight(dataclasses.replace(settings, snowflake=snowflake), {}))
        assert [finding.line() for finding in findings if finding.state is not State.OK] == []
    finally:
        for statement in script("remove_live.sql"):
            if not unknown.match(statement):
                administrator.run_statement(statement)
    assert left(emulators) == before


def test_a_setting_that_is_missing_is_named(run: Callable[..., Ran]) -> None:
    ran = run("-k", "test_a_token_starts_one_run", DATA_SHARE_LIVE_SOURCE_SCHEMA="")
    assert ran.code == FAILED
    assert "DATA_SHARE_LIVE_SOURCE_SCHEMA (a schema of Unity Catalog" in ran.printed
