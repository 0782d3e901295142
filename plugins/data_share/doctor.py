"""
Checking a deployment step by step: what is wrong, in the other system's words, and how to mend it.

The checks are functions, listed in their order in :data:`CHECKS`. Each returns an :class:`Answer`; one whose ground is
missing is not made, and says for want of what. Nothing is changed: what is written is rolled back, or is in a table of
the check's own that it drops. Secrets of the connections are taken out of all that is said.

Inside Airflow, the DAG ``check_share`` makes them, with Airflow's secrets and network. From a shell with Airflow's
environment, ``python -m data_share.doctor`` makes them with the connections and the Variable that the environment or a
secrets backend has, prints the list, and ends with 1 if something is wrong.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import runpy
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import requests
import yaml
from airflow.providers.databricks.hooks.databricks import DatabricksHook
from airflow.sdk import BaseHook, BaseOperator, Context, Variable
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException

from data_share import share
from data_share.datasets import DATASETS_FOLDER, Dataset, InvalidDatasetError, LoadMode, SchemaDrift, read_datasets
from data_share.failures import FailureCode, ShareError
from data_share.snowflake_hook import DataShareSnowflakeHook, SnowflakeRefusedError, SnowflakeStatementError

PROJECT = Path(__file__).resolve().parents[2]
BUNDLE = PROJECT / "include" / "databricks" / "databricks.yml"
CREATE_LEDGER = PROJECT / "include" / "sql" / "snowflake" / "create_ledger.sql"

LARGEST_SKEW_SECONDS = 60
"""Clocks further apart than this are wrong: sign-ins are dated."""

_HTTP_SECONDS = 15
_STATEMENT_SECONDS = 60
_MOST_CHARACTERS = 1000
# No dataset has a name that begins so: there is never a file, and listing it costs nothing.
_EMPTY_FOLDER = "_check/"
_ROLE_REFUSED = ("390186", "390189")
# Not what tells where a key is.
_SECRET_EXTRAS = re.compile(r"(?!.*(_file|_path|_url|_endpoint)$).*(key|secret|token|pass)", re.IGNORECASE)


class State(StrEnum):
    """How a check came out."""

    OK = "ok"
    WRONG = "wrong"
    ADVICE = "advice"
    """It works, and could be better."""
    UNKNOWN = "not checked"


@dataclass(frozen=True)
class Answer:
    """What a check returns: how it came out, and a sentence; if it is wrong, with the way to mend it."""

    state: State
    text: str


@dataclass(frozen=True)
class Finding:
    """
    A check that was made, or not made.

    :param group: the side that it is about
    :param name: the check
    :param looked_at: what was looked at
    """

    group: str
    name: str
    looked_at: str
    state: State
    text: str

    def line(self) -> str:
        """Return the finding as a line of the list."""
        return f"{self.state:11}  {self.name} ({self.looked_at}): {self.text}"


@dataclass(frozen=True)
class Check:
    """
    One check.

    :param needs: names of checks that must have come out well before
    """

    group: str
    name: str
    looked_at: str
    answer: Callable[[Deployment], Answer]
    needs: tuple[str, ...] = ()


class ShareIsBrokenError(ShareError, AirflowFailException):
    """A check of the deployment has failed; the message has the sentences of all that have."""

    code = FailureCode.SHARE_BROKEN


class Deployment:
    """
    What the checks look at; each part is looked up once.

    :param databricks_conn_id: Airflow connection
    :param snowflake_conn_id: Airflow connection
    :param datasets_folder: folder of the dataset files
    :param now: the clock of this machine
    """

    def __init__(
        self,
        *,
        databricks_conn_id: str = "databricks_default",
        snowflake_conn_id: str = "snowflake_default",
        datasets_folder: Path = DATASETS_FOLDER,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.databricks_conn_id = databricks_conn_id
        self.snowflake_conn_id = snowflake_conn_id
        self.datasets_folder = datasets_folder
        self.now = now
        self.skews: dict[str, float] = {}
        """System -> by how many seconds this machine is ahead of it."""
        self.session: dict[str, Any] = {}
        self.job: dict[str, Any] = {}
        self.role_refused = ""

    @cached_property
    def datasets(self) -> tuple[list[Dataset], list[InvalidDatasetError]]:
        """The valid datasets, and what is wrong with the others."""
        return read_datasets(self.datasets_folder)

    @cached_property
    def databricks(self) -> DatabricksHook:
        """The provider's hook, which does not try again here."""
        return DatabricksHook(
            self.databricks_conn_id, timeout_seconds=_HTTP_SECONDS, retry_limit=1, caller="check_share"
        )

    @cached_property
    def snowflake(self) -> DataShareSnowflakeHook:
        """The hook of the syncs."""
        return DataShareSnowflakeHook(self.snowflake_conn_id, query_tag={"task": "check_share"})

    @cached_property
    def bundle_job(self) -> dict[str, Any]:
        """The export job as the asset bundle describes it."""
        job: dict[str, Any] = yaml.safe_load(BUNDLE.read_text(encoding="utf-8"))["resources"]["jobs"]["export_dataset"]
        return job

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Run one statement and return its rows."""
        return self.snowflake.run_statement(sql, timeout_seconds=_STATEMENT_SECONDS).rows

    def rolled_back(self, statements: Sequence[str]) -> None:
        """Run statements in a transaction that is rolled back."""
        sql = ";\n".join(["BEGIN TRANSACTION", *statements, "ROLLBACK"]) + ";"
        self.snowflake.run_transaction(sql, len(statements) + 2, timeout_seconds=_STATEMENT_SECONDS)

    def without_secrets(self, text: str) -> str:
        """Return a text in which no secret of the connections stands."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} ..."

    @cached_property
    def _secrets(self) -> set[str]:
        found: set[str] = set()
        for conn_id in (self.databricks_conn_id, self.snowflake_conn_id):
            with contextlib.suppress(Exception):
                connection = BaseHook.get_connection(conn_id)
                found.add(connection.password or "")
                found |= {
                    str(value) for name, value in connection.extra_dejson.items() if _SECRET_EXTRAS.match(str(name))
                }
        # A shorter one would be found in ordinary words.
        return {secret for secret in found if len(secret) >= 6}


def examine(deployment: Deployment, groups: Sequence[str] = ()) -> Iterator[Finding]:
    """
    Make the checks in their order.

    :param groups: the sides to look at; all by default
    """
    well: set[str] = set()
    for check in CHECKS:
        if groups and check.group not in groups:
            continue
        missing = [name for name in check.needs if name not in well]
        if missing:
            answer = Answer(State.UNKNOWN, f"because this did not come out well: {', '.join(missing)}.")
        else:
            answer = _answer(check, deployment)
        if answer.state in (State.OK, State.ADVICE):
            well.add(check.name)
        text = deployment.without_secrets(answer.text)
        yield Finding(check.group, check.name, check.looked_at, answer.state, text)


def _answer(check: Check, deployment: Deployment) -> Answer:
    try:
        return check.answer(deployment)
    except Exception as error:
        return _wrong(f"{_words(error)}.")


def _ok(text: str) -> Answer:
    return Answer(State.OK, text)


def _wrong(text: str) -> Answer:
    return Answer(State.WRONG, text)


def _verdict(problems: Sequence[str], well: str) -> Answer:
    return _wrong(" ".join(problems)) if problems else _ok(well)


def _words(error: Exception) -> str:
    # What to do is said by the check that failed.
    said = error.message if isinstance(error, ShareError) else str(error)
    text = " ".join(said.split()).rstrip(".")
    return text if isinstance(error, AirflowFailException) else f"{type(error).__name__}: {text}"


# ---- Airflow


def dataset_files(deployment: Deployment) -> Answer:
    """Each dataset file is valid."""
    datasets, errors = deployment.datasets
    if not datasets and not errors:
        return _wrong("There is no dataset file. Add one: docs/adding-a-dataset.md.")
    return _verdict([f"{' '.join(str(error).split())}." for error in errors], f"{len(datasets)} datasets.")


def dag_files(deployment: Deployment) -> Answer:
    """Each DAG file can be imported here, with the packages and the path that tasks have."""
    problems = []
    files = sorted((PROJECT / "dags").glob("*.py"))
    for path in files:
        try:
            runpy.run_path(str(path))
        except Exception as error:
            problems.append(
                f"dags/{path.name} cannot be imported: {_words(error)}. Install requirements.txt everywhere."
            )
    return _verdict(problems, f"{len(files)} files can be imported.")


def local_settings(deployment: Deployment) -> Answer:
    """Airflow's local settings are found, or every task imports the providers anew."""
    spec = importlib.util.find_spec("airflow_local_settings")
    if spec is None:
        return Answer(
            State.ADVICE,
            "airflow_local_settings is not found: each task imports the providers anew, which takes seconds. Put the "
            "project's folder config/ on PYTHONPATH of scheduler, workers and triggerer.",
        )
    return _ok(f"found as {spec.origin}.")


def airflow_processes(deployment: Deployment) -> Answer:
    """Scheduler, dag-processor and triggerer are alive, by the api-server's own answer."""
    address = conf.get("core", "execution_api_server_url", fallback="") or conf.get("api", "base_url", fallback="")
    if not address:
        return Answer(
            State.UNKNOWN,
            "because this process knows no api-server: neither [core] execution_api_server_url nor [api] "
            "base_url is set.",
        )
    address = address.rstrip("/").removesuffix("/execution")
    try:
        response = requests.get(f"{address}/api/v2/monitor/health", timeout=_HTTP_SECONDS)
        response.raise_for_status()
        health = response.json()
    except (requests.RequestException, ValueError) as error:
        return _wrong(
            f"The api-server at {address} does not answer: {_words(error)}. Tasks report to it: correct [core] "
            "execution_api_server_url, or start it."
        )
    reasons = {
        "metadatabase": "Nothing works without Airflow's database.",
        "scheduler": "No task starts without it: start `airflow scheduler`.",
        "dag_processor": "DAGs and datasets do not appear or change without it: start `airflow dag-processor`.",
        "triggerer": "wait_for_export waits in it, and without it for ever: start `airflow triggerer`.",
    }
    problems = [
        f"{part} is {health.get(part, {}).get('status') or 'not running'}. {reason}"
        for part, reason in reasons.items()
        if health.get(part, {}).get("status") != "healthy"
    ]
    return _verdict(problems, "scheduler, dag-processor and triggerer are healthy.")


# ---- Databricks


def databricks_connection(deployment: Deployment) -> Answer:
    """The connection is there and has what a sign-in takes."""
    connection = _connection(deployment.databricks_conn_id)
    if connection is None:
        return _no_connection(deployment.databricks_conn_id)
    missing = [] if connection.host else ["host"]
    extra = connection.extra_dejson
    if extra.get("service_principal_oauth"):
        missing += [field for field in ("login", "password") if not getattr(connection, field)]
    elif not (connection.password or extra.get("token") or any(name.startswith("azure") for name in extra)):
        missing.append("password (the token, or the secret of a service principal)")
    return _complete(deployment.databricks_conn_id, missing)


def databricks_reachable(deployment: Deployment) -> Answer:
    """Something answers at the workspace's address."""
    connection = BaseHook.get_connection(deployment.databricks_conn_id)
    port = f":{connection.port}" if connection.port else ""
    host = str(connection.host).removeprefix("https://").removeprefix("http://").rstrip("/")
    return _reach(deployment, "Databricks", f"{connection.schema or 'https'}://{host}{port}/", "host")


def databricks_sign_in(deployment: Deployment) -> Answer:
    """Databricks accepts the credentials."""
    try:
        deployment.databricks.list_jobs(limit=1, job_name="export_dataset")
    except Exception as error:
        return _wrong(
            f"Databricks does not accept the sign-in of {deployment.databricks_conn_id}: {_words(error)}. Check the "
            "token, or client id and secret of the service principal: docs/databricks.md."
        )
    return _ok("the credentials are accepted.")


def export_job_id(deployment: Deployment) -> Answer:
    """The Variable with the job's id is set."""
    value = Variable.get(share.EXPORT_JOB_VARIABLE, default=None)
    if value is None:
        return _wrong(
            f"The Airflow Variable {share.EXPORT_JOB_VARIABLE} is not set. Set it to the id of the export job: "
            "`databricks bundle summary --target prod` shows it."
        )
    if not re.fullmatch(r"[0-9]+", str(value).strip()):
        return _wrong(f"The Airflow Variable {share.EXPORT_JOB_VARIABLE} is {str(value)!r}, which is no job id.")
    return _ok(f"job {value}.")


def export_job(deployment: Deployment) -> Answer:
    """The job exists, and the sign-in may see it."""
    job_id = int(Variable.get(share.EXPORT_JOB_VARIABLE))
    try:
        # The provider's hook (7.23.0) has no method for a job by its id.
        deployment.job = deployment.databricks._do_api_call(("GET", "2.2/jobs/get"), {"job_id": job_id})["settings"]
    except Exception as error:
        return _wrong(
            f"Databricks does not show job {job_id}: {_words(error)}. Correct the Airflow Variable "
            f"{share.EXPORT_JOB_VARIABLE}, or give Airflow's principal CAN_MANAGE_RUN on the job."
        )
    return _ok(f"job {job_id} is {deployment.job.get('name')}.")


def job_parameters(deployment: Deployment) -> Answer:
    """The job takes exactly the parameters that a sync sends."""
    sent = {parameter["name"] for parameter in deployment.bundle_job["parameters"]}
    taken = {parameter["name"] for parameter in deployment.job.get("parameters", [])}
    problems = []
    if sent - taken:
        problems.append(f"The job does not take {_listed(sent - taken)}, which a sync sends.")
    if taken - sent:
        problems.append(f"The job takes {_listed(taken - sent)}, which no sync sends.")
    return _verdict(_with(problems, "Deploy the bundle again: docs/databricks.md."), f"{_listed(taken)}.")


def job_queue(deployment: Deployment) -> Answer:
    """A run more than the job allows waits instead of failing its sync."""
    most = deployment.job.get("max_concurrent_runs", 1)
    datasets = len(deployment.datasets[0])
    if not most:
        return _wrong("max_concurrent_runs of the job is 0: it starts no run. Deploy the bundle again.")
    if not deployment.job.get("queue", {}).get("enabled"):
        return _wrong(
            f"The job's queue is not enabled: a run beyond max_concurrent_runs ({most}) is skipped, and its sync "
            "fails. Deploy the bundle again, or enable the queue."
        )
    if most < datasets:
        return Answer(State.ADVICE, f"max_concurrent_runs is {most}: of {datasets} datasets, some wait for others.")
    return _ok(f"the queue is enabled, {most} runs at a time.")


def job_task(deployment: Deployment) -> Answer:
    """The job's task runs the export's SQL file with the job's parameters."""
    [expected] = [task["sql_task"] for task in deployment.bundle_job["tasks"]]
    file = Path(expected["file"]["path"]).name
    tasks = deployment.job.get("tasks", [])
    sql_tasks = [task.get("sql_task", {}) for task in tasks]
    if len(tasks) != 1 or not str(sql_tasks[0].get("file", {}).get("path", "")).endswith(file):
        return _wrong(f"The job's task is not one SQL task with the file {file}. Deploy the bundle again.")
    given = sql_tasks[0].get("parameters", {})
    problems = [
        f"The task's parameter {name} is {given.get(name)!r} instead of {value!r}."
        for name, value in expected["parameters"].items()
        if given.get(name) != value
    ]
    return _verdict(_with(problems, "Deploy the bundle again: docs/databricks.md."), f"{file}, {_listed(given)}.")


def databricks_clock(deployment: Deployment) -> Answer:
    """The clocks of this machine and of Databricks agree."""
    return _clock(deployment, "Databricks")


# ---- Snowflake


def snowflake_connection(deployment: Deployment) -> Answer:
    """The connection is there and has what the syncs need."""
    connection = _connection(deployment.snowflake_conn_id)
    if connection is None:
        return _no_connection(deployment.snowflake_conn_id)
    extra = connection.extra_dejson
    fields = {"schema": connection.schema}
    keys = ("private_key_file", "private_key_content")
    is_oauth = bool(extra.get("authenticator") in ("oauth", "programmatic_access_token") or extra.get("azure_conn_id"))
    if not is_oauth:
        fields["login"] = connection.login
        if not any(extra.get(name) for name in keys):
            fields["extra private_key_file or private_key_content"] = None
    fields |= {f"extra {name}": extra.get(name) for name in ("account", "warehouse", "database", "role")}
    answer = _complete(deployment.snowflake_conn_id, [name for name, value in fields.items() if not value])
    file = extra.get("private_key_file")
    if answer.state is State.OK and file and not Path(file).is_file():
        return _wrong(
            f"private_key_file of {deployment.snowflake_conn_id} is {file}, which is no file on this machine."
        )
    return answer


def snowflake_reachable(deployment: Deployment) -> Answer:
    """Something answers at the account's address."""
    return _reach(deployment, "Snowflake", deployment.snowflake.statements_url, "extra account")


def snowflake_sign_in(deployment: Deployment) -> Answer:
    """Snowflake accepts user, key and account."""
    sql = (
        "SELECT CURRENT_USER() AS user_name, CURRENT_ROLE() AS role_name, CURRENT_DATABASE() AS database_name, "
        "CURRENT_SCHEMA() AS schema_name, SYSDATE() AS system_time"
    )
    before = deployment.now()
    try:
        [deployment.session] = deployment.rows(sql)
    except SnowflakeRefusedError as error:
        if any(f"code {code}" in str(error) for code in _ROLE_REFUSED):
            deployment.role_refused = _words(error)
            return _ok("user and key are accepted.")
        return _wrong(f"{_words(error)}. How to give the user a new key: docs/snowflake.md.")
    except Exception as error:
        return _wrong(
            f"The sign-in of {deployment.snowflake_conn_id} fails: {_words(error)}. Check the private key, and "
            "account and login of the connection: docs/snowflake.md."
        )
    theirs = deployment.session["SYSTEM_TIME"].replace(tzinfo=UTC)
    deployment.skews["Snowflake"] = _skew(before, theirs, deployment.now())
    return _ok(f"signed in as {deployment.session['USER_NAME']}.")


def snowflake_clock(deployment: Deployment) -> Answer:
    """The clocks of this machine and of Snowflake agree, or its tokens are refused."""
    return _clock(deployment, "Snowflake")


def snowflake_role(deployment: Deployment) -> Answer:
    """The user has the connection's role."""
    if deployment.role_refused:
        return _wrong(
            f"{deployment.role_refused}. Grant it (GRANT ROLE ... TO USER ...), or correct the extra role of "
            f"{deployment.snowflake_conn_id}."
        )
    return _ok(f"{deployment.session['ROLE_NAME']}.")


def database_and_schema(deployment: Deployment) -> Answer:
    """Database and schema of the connection exist, and the role may use them."""
    connection = deployment.snowflake.get_connection(deployment.snowflake_conn_id)
    wanted = {"database": connection.extra_dejson["database"], "schema": connection.schema}
    for kind, name in wanted.items():
        if deployment.session[f"{kind.upper()}_NAME"] is None:
            return _wrong(
                f"The {kind} {name} does not exist, or role {_role(deployment)} may not use it. Check the connection "
                f"(the SQL API minds the case of the name), or GRANT USAGE ON {kind.upper()} {name} TO ROLE "
                f"{_role(deployment)}."
            )
    return _ok(f"{deployment.session['DATABASE_NAME']}.{deployment.session['SCHEMA_NAME']}.")


def snowflake_warehouse(deployment: Deployment) -> Answer:
    """The role may compute with the connection's warehouse."""
    name = deployment.snowflake.get_connection(deployment.snowflake_conn_id).extra_dejson["warehouse"]
    try:
        deployment.rows("SELECT COUNT(*) AS total FROM information_schema.schemata")
    except SnowflakeStatementError as error:
        return _wrong(
            f"Warehouse {name} cannot be used: {_words(error)}. It does not exist, or: GRANT USAGE ON WAREHOUSE {name} "
            f"TO ROLE {_role(deployment)}."
        )
    return _ok(f"{name}.")


def storage_integration(deployment: Deployment) -> Answer:
    """The storage integration is enabled and allows the share, if the role may see it."""
    name = share.STORAGE_INTEGRATION
    try:
        rows = deployment.rows(f"DESCRIBE INTEGRATION {name}")
    except SnowflakeStatementError as error:
        return Answer(
            State.UNKNOWN,
            f"because role {_role(deployment)} does not see the integration: {_words(error)}. That is "
            "enough for syncs; creating the stage takes USAGE on it. An account administrator can look: DESCRIBE "
            f"INTEGRATION {name}.",
        )
    properties = {str(row["property"]).upper(): str(row["property_value"] or "") for row in rows}
    allowed, blocked = (
        [place.strip(" []'\"") for place in properties.get(f"STORAGE_{which}_LOCATIONS", "").split(",")]
        for which in ("ALLOWED", "BLOCKED")
    )
    problems = []
    if properties.get("ENABLED", "").lower() != "true":
        problems.append(f"The integration {name} is not enabled: ALTER INTEGRATION {name} SET ENABLED = TRUE.")
    if not any(place == "*" or (place and share.SHARE_URL.startswith(place)) for place in allowed):
        problems.append(f"The integration {name} allows {_listed(allowed)}, and not {share.SHARE_URL}.")
    if any(place and share.SHARE_URL.startswith(place) for place in blocked):
        problems.append(f"The integration {name} blocks {share.SHARE_URL}.")
    advice = "An account administrator alters it, never replaces it: include/sql/snowflake/setup/."
    return _verdict(_with(problems, advice), f"{name} allows {share.SHARE_URL}.")


def stage(deployment: Deployment) -> Answer:
    """The stage is on the share, by the storage integration."""
    schema = f"{deployment.session['DATABASE_NAME']}.{deployment.session['SCHEMA_NAME']}"
    found = [
        row
        for row in deployment.rows(f"SHOW STAGES LIKE '{share.STAGE}'")
        if (row["name"], row["database_name"], row["schema_name"]) == (share.STAGE.upper(), *schema.split("."))
    ]
    if not found:
        return _wrong(
            f"The stage {schema}.{share.STAGE} does not exist, or role {_role(deployment)} has no right on it. Run the "
            f"DAG set_up_snowflake (it takes USAGE on the integration {share.STORAGE_INTEGRATION}), or GRANT USAGE ON "
            "STAGE."
        )
    problems = []
    url, integration = str(found[0]["url"] or ""), str(found[0]["storage_integration"] or "")
    if url.rstrip("/") != share.SHARE_URL.rstrip("/"):
        problems.append(f"The stage {share.STAGE} is on {url or 'no bucket'} instead of {share.SHARE_URL}.")
    if integration.upper() != share.STORAGE_INTEGRATION.upper():
        problems.append(f"The stage uses the integration {integration or 'none'}, not {share.STORAGE_INTEGRATION}.")
    return _verdict(_with(problems, "Drop the stage and run the DAG set_up_snowflake."), f"{share.STAGE} is on {url}.")


def list_stage(deployment: Deployment) -> Answer:
    """Snowflake can list the share: its AWS role is trusted, and may list the bucket."""
    try:
        deployment.rows(f"LIST @{share.STAGE}/{_EMPTY_FOLDER}")
    except SnowflakeStatementError as error:
        return _wrong(
            f"{_words(error)}. Role {_role(deployment)} needs USAGE on the stage; the AWS role needs the trust policy "
            "and the rights of docs/aws.md."
        )
    return _ok(f"{share.SHARE_URL} can be listed.")


def staging_schema(deployment: Deployment) -> Answer:
    """The schema of the staging tables exists."""
    name = share.STAGING_SCHEMA.upper()
    rows = deployment.rows(f"SHOW SCHEMAS LIKE '{name}' IN DATABASE \"{deployment.session['DATABASE_NAME']}\"")
    if name not in {row["name"] for row in rows}:
        return _wrong(
            f"The schema {name} does not exist in {deployment.session['DATABASE_NAME']}, or role {_role(deployment)} "
            f"has no right on it. Run the DAG set_up_snowflake, or GRANT USAGE, CREATE TABLE ON SCHEMA {name}."
        )
    return _ok(f"{name}.")


def ledger_tables(deployment: Deployment) -> Answer:
    """The ledger's tables have the columns that create_ledger.sql gives them."""
    problems = []
    for table, columns in _ledger_columns().items():
        found = _columns(deployment, table)
        if isinstance(found, str):
            problems.append(f"{found} Run the DAG set_up_snowflake.")
            continue
        problems += _differences(table, columns, found, "create_ledger.sql", extra_is_wrong=False)
    return _verdict(problems, f"{_listed(_ledger_columns())}.")


def target_tables(deployment: Deployment) -> Answer:
    """Each target exists and has the columns that its dataset file names, written as Snowflake stores plain names."""
    problems = []
    datasets, _ = deployment.datasets
    for dataset in datasets:
        file = f"{dataset.name}.yaml"
        found = _columns(deployment, dataset.target_table)
        if isinstance(found, str):
            how = "Run the DAG set_up_snowflake" if dataset.create_table else "Its owners create it"
            problems.append(f"{found} {how} (dataset file {file}).")
            continue
        mixed = [name for name in found if name != name.upper()]
        if mixed:
            problems.append(
                f"{dataset.target_table} has columns that are not in upper case: {_listed(mixed)}. Syncs name them in "
                "upper case: rename them (ALTER TABLE ... RENAME COLUMN)."
            )
        upper = {name.upper(): kind for name, kind in found.items()}
        for field in ("required_columns", "merge_keys"):
            if missing := [name for name in getattr(dataset, field) if name.upper() not in upper]:
                problems.append(
                    f"{dataset.target_table} has no column {_listed(missing)}, which {field} of {file} names. Correct "
                    "one of both."
                )
        problems += _differences(
            dataset.target_table, dataset.columns, upper, file, extra_is_wrong=bool(dataset.columns)
        )
    return _verdict(problems, f"{_listed(dataset.target_table for dataset in datasets)}.")


def ledger_rights(deployment: Deployment) -> Answer:
    """The role may do to the ledger's tables what a publish does."""
    needed = {
        share.LEDGER_TABLE: ("INSERT", "UPDATE", "DELETE"),
        share.MANIFEST_TABLE: ("INSERT", "DELETE"),
        share.TURN_TABLE: ("INSERT", "UPDATE"),
    }
    problems = [problem for table, rights in needed.items() for problem in _missing_rights(deployment, table, rights)]
    return _verdict(problems, "a publish may write to them.")


def target_rights(deployment: Deployment) -> Answer:
    """The role may do to each target what its load mode does."""
    problems, owned = [], []
    for dataset in deployment.datasets[0]:
        rights = {
            LoadMode.APPEND: ("INSERT",),
            LoadMode.REPLACE: ("INSERT", "DELETE"),
            LoadMode.MERGE: ("INSERT", "UPDATE", *(("DELETE",) if dataset.delete_missing else ())),
        }[dataset.load_mode]
        missing = _missing_rights(deployment, dataset.target_table, rights)
        problems += [f"{problem} Load mode {dataset.load_mode} of {dataset.name}.yaml needs it." for problem in missing]
        if dataset.schema_drift is SchemaDrift.ADD_NEW:
            owned.append(dataset.target_table)
    note = f" Not checked: OWNERSHIP, which schema_drift add_new takes on {_listed(owned)}." if owned else ""
    return _verdict(problems, f"each load mode may write to its target.{note}")


def write_and_read(deployment: Deployment) -> Answer:
    """A table can be created in the staging schema, written, read and dropped."""
    # Named as a run's staging table, so that clean_up_share drops it if this process dies.
    key = share.run_key("check_share", uuid.uuid4().hex, datetime.now(UTC))
    table = share.staging_table("check_share", key)
    try:
        deployment.rows(f"CREATE TABLE {table} (n NUMBER(38, 0))")
        deployment.rows(f"INSERT INTO {table} VALUES (4711)")  # noqa: S608 - the name is made here
        rows = deployment.rows(f"SELECT n FROM {table}")  # noqa: S608
    except SnowflakeStatementError as error:
        return _wrong(
            f"{_words(error)}. GRANT USAGE, CREATE TABLE ON SCHEMA {share.STAGING_SCHEMA} TO ROLE {_role(deployment)}."
        )
    finally:
        # Without the schema or the right to create, there is nothing to drop.
        with contextlib.suppress(SnowflakeStatementError):
            deployment.rows(f"DROP TABLE IF EXISTS {table}")
    if rows != [{"N": 4711}]:
        return _wrong(f"What was written to {table} was not read again: {rows}.")
    return _ok("created, written, read and dropped.")


# ---- what several checks use


def _connection(conn_id: str) -> Any:
    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        return None


def _no_connection(conn_id: str) -> Answer:
    return _wrong(
        f"The Airflow connection {conn_id} does not exist. Create it in Airflow's UI or secrets backend, or as "
        f"AIRFLOW_CONN_{conn_id.upper()}: README.md, Real accounts."
    )


def _complete(conn_id: str, missing: Sequence[str]) -> Answer:
    problems = [f"The Airflow connection {conn_id} lacks: {', '.join(missing)}. README.md, Real accounts."]
    return _verdict(problems if missing else [], "complete.")


def _reach(deployment: Deployment, system: str, url: str, field: str) -> Answer:
    before = deployment.now()
    try:
        # Whatever it answers, also that nobody has signed in, it is there.
        response = requests.get(url, timeout=_HTTP_SECONDS, allow_redirects=False)
    except requests.RequestException as error:
        return _wrong(
            f"{system} cannot be reached at {url}: {_words(error)}. Check {field} of the connection, and DNS, proxy "
            "and firewall of this machine."
        )
    with contextlib.suppress(KeyError, TypeError, ValueError):
        theirs = parsedate_to_datetime(response.headers["Date"])
        deployment.skews[system] = _skew(before, theirs, deployment.now())
    return _ok(f"{url} answers.")


def _skew(before: datetime, theirs: datetime, after: datetime) -> float:
    """Return by how many seconds this machine is ahead of another one that was asked between two times."""
    return ((before + (after - before) / 2) - theirs).total_seconds()


def _clock(deployment: Deployment, system: str) -> Answer:
    skew = deployment.skews.get(system)
    if skew is None:
        return Answer(State.UNKNOWN, f"because {system} does not say what time it is.")
    if abs(skew) > LARGEST_SKEW_SECONDS:
        way = "ahead of" if skew > 0 else "behind"
        return _wrong(
            f"The clock of this machine is {abs(skew):,.0f} seconds {way} that of {system}: sign-ins are dated, and "
            "are refused. Synchronise it (NTP)."
        )
    return _ok(f"within {LARGEST_SKEW_SECONDS} seconds.")


def _role(deployment: Deployment) -> str:
    return str(deployment.session["ROLE_NAME"])


def _ledger_columns() -> dict[str, dict[str, str]]:
    """Return the ledger's tables with the types of their columns, as create_ledger.sql has them."""
    sql = jinja2.Template(CREATE_LEDGER.read_text(encoding="utf-8")).render(share=share)
    tables = re.findall(r"CREATE TABLE IF NOT EXISTS (\w+) \((.*?)\n\);", sql, flags=re.DOTALL)
    return {table: dict(re.findall(r"^ +(\w+) (\w+)", columns, flags=re.MULTILINE)) for table, columns in tables}


def _columns(deployment: Deployment, table: str) -> dict[str, str] | str:
    """Return the types of a table's columns, or what Snowflake says instead."""
    try:
        return {str(row["name"]): str(row["type"]) for row in deployment.rows(f"DESCRIBE TABLE {table}")}
    except SnowflakeStatementError as error:
        return f"{table}: {_words(error)}."


def _differences(
    table: str, wanted: Mapping[str, str], found: Mapping[str, str], file: str, *, extra_is_wrong: bool
) -> list[str]:
    problems = []
    missing = [name for name in wanted if name.upper() not in found]
    if missing:
        problems.append(f"{table} has no column {_listed(missing)}, which {file} has: add it (ALTER TABLE).")
    if extra_is_wrong and (extra := sorted(set(found) - {name.upper() for name in wanted})):
        problems.append(f"{table} has {_listed(extra)}, which {file} does not have: add it there, or drop it.")
    for name, kind in wanted.items():
        actual = found.get(name.upper())
        if actual is not None and _plain(actual) != _plain(kind):
            problems.append(f"{table}: column {name.upper()} is {actual}, and {kind} in {file}: alter one of both.")
    return problems


def _plain(kind: str) -> str:
    """Return a type without its size, by the name that Snowflake shows."""
    name = kind.partition("(")[0].strip().upper()
    return {"DOUBLE": "FLOAT", "STRING": "VARCHAR", "TEXT": "VARCHAR"}.get(name, name)


def _missing_rights(deployment: Deployment, table: str, rights: Sequence[str]) -> list[str]:
    """Return a sentence for each right on a table that the role lacks, by statements that change no row."""
    column = f'"{next(iter(found))}"' if isinstance(found := _columns(deployment, table), dict) else ""
    if not column:
        return [str(found)]
    probes = {
        "SELECT": f"SELECT COUNT(*) AS total FROM {table} WHERE FALSE",  # noqa: S608
        "INSERT": f"INSERT INTO {table} SELECT * FROM {table} WHERE FALSE",  # noqa: S608
        "UPDATE": f"UPDATE {table} SET {column} = {column} WHERE FALSE",  # noqa: S608
        "DELETE": f"DELETE FROM {table} WHERE FALSE",  # noqa: S608
    }
    # All in one request; only when it fails, each alone, to tell which.
    with contextlib.suppress(SnowflakeStatementError):
        deployment.rolled_back([probes[right] for right in ("SELECT", *rights)])
        return []
    problems = []
    for right in ("SELECT", *rights):
        try:
            deployment.rolled_back([probes[right]])
        except SnowflakeStatementError as error:
            grant = f"GRANT {right} ON TABLE {table} TO ROLE {_role(deployment)}"
            problems.append(f"{right} on {table} fails: {_words(error)}. {grant}.")
            if right == "SELECT":
                # The others read the table too, and would fail for this.
                break
    return problems


def _listed(names: Any) -> str:
    return ", ".join(names) or "nothing"


def _with(problems: list[str], advice: str) -> list[str]:
    return [*problems, advice] if problems else []


_D, _S = "Databricks", "Snowflake"

CHECKS: tuple[Check, ...] = (
    Check("Airflow", "dataset files", "include/datasets/", dataset_files),
    Check("Airflow", "DAG files", "dags/", dag_files),
    Check("Airflow", "local settings", "PYTHONPATH", local_settings),
    Check("Airflow", "processes", "the api-server's health", airflow_processes),
    Check(_D, "Databricks connection", "databricks_default", databricks_connection),
    Check(_D, "Databricks address", "host", databricks_reachable, ("Databricks connection",)),
    Check(_D, "Databricks clock", "HTTP header Date", databricks_clock, ("Databricks address",)),
    Check(_D, "Databricks sign-in", "jobs/list", databricks_sign_in, ("Databricks address",)),
    Check(_D, "job id", f"Variable {share.EXPORT_JOB_VARIABLE}", export_job_id),
    Check(_D, "job", "jobs/get", export_job, ("Databricks sign-in", "job id")),
    Check(_D, "job parameters", "the job's parameters", job_parameters, ("job",)),
    Check(_D, "job queue", "queue, max_concurrent_runs", job_queue, ("job",)),
    Check(_D, "job task", "the task's SQL file", job_task, ("job",)),
    Check(_S, "Snowflake connection", "snowflake_default", snowflake_connection),
    Check(_S, "Snowflake address", "account", snowflake_reachable, ("Snowflake connection",)),
    Check(_S, "Snowflake sign-in", "login and key", snowflake_sign_in, ("Snowflake address",)),
    Check(_S, "Snowflake clock", "HTTP header Date, SYSDATE()", snowflake_clock, ("Snowflake address",)),
    Check(_S, "role", "CURRENT_ROLE()", snowflake_role, ("Snowflake sign-in",)),
    Check(_S, "database and schema", "CURRENT_SCHEMA()", database_and_schema, ("role",)),
    Check(_S, "warehouse", "a query", snowflake_warehouse, ("database and schema",)),
    Check(_S, "storage integration", "DESCRIBE INTEGRATION", storage_integration, ("role",)),
    Check(_S, "stage", "SHOW STAGES", stage, ("database and schema",)),
    Check(_S, "share", "LIST", list_stage, ("stage",)),
    Check(_S, "staging schema", "SHOW SCHEMAS", staging_schema, ("database and schema",)),
    Check(_S, "ledger tables", "DESCRIBE TABLE", ledger_tables, ("database and schema",)),
    Check(_S, "target tables", "DESCRIBE TABLE", target_tables, ("database and schema",)),
    Check(_S, "rights on the ledger", "probes, rolled back", ledger_rights, ("warehouse", "ledger tables")),
    Check(_S, "rights on the targets", "probes, rolled back", target_rights, ("warehouse", "target tables")),
    Check(_S, "write and read", "a table in staging", write_and_read, ("warehouse", "staging schema")),
)
"""All checks, in their order."""


class CheckShareOperator(BaseOperator):
    """
    Makes the checks of one side; returns the findings, and fails with the sentences of those that are wrong.

    The findings of a failure are the XCom ``findings``.

    :param group: the side: ``Airflow``, ``Databricks`` or ``Snowflake``
    :param databricks_conn_id: Airflow connection
    :param snowflake_conn_id: Airflow connection
    """

    template_fields: Sequence[str] = ("databricks_conn_id", "snowflake_conn_id")

    def __init__(
        self,
        *,
        group: str,
        databricks_conn_id: str = "databricks_default",
        snowflake_conn_id: str = "snowflake_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.group = group
        self.databricks_conn_id = databricks_conn_id
        self.snowflake_conn_id = snowflake_conn_id

    def execute(self, context: Context) -> list[dict[str, str]]:
        """Make the checks."""
        deployment = Deployment(databricks_conn_id=self.databricks_conn_id, snowflake_conn_id=self.snowflake_conn_id)
        findings = []
        for finding in examine(deployment, [self.group]):
            self.log.info("%s", finding.line())
            findings.append(finding)
        told = [{name: str(value) for name, value in asdict(finding).items()} for finding in findings]
        wrong = [finding for finding in findings if finding.state is State.WRONG]
        if wrong:
            context["ti"].xcom_push(key="findings", value=told)
            sentences = "\n".join(f"- {finding.name}: {finding.text}" for finding in wrong)
            raise ShareIsBrokenError(f"{len(wrong)} of {len(findings)} checks of {self.group} failed.\n{sentences}")
        return told


def main() -> int:
    """Print the list, and return the exit code: 1 if something is wrong."""
    counts = dict.fromkeys(State, 0)
    group = ""
    for finding in examine(Deployment()):
        if finding.group != group:
            group = finding.group
            sys.stdout.write(f"\n{group}\n")
        counts[finding.state] += 1
        sys.stdout.write(f"  {finding.line()}\n")
        sys.stdout.flush()
    sys.stdout.write("\n" + ", ".join(f"{count} {state}" for state, count in counts.items()) + "\n")
    return 1 if counts[State.WRONG] else 0


if __name__ == "__main__":
    sys.exit(main())
