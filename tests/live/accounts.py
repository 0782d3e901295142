"""The real accounts of the suite, and the scratch place in them that it is confined to."""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
import sqlglot
from airflow.providers.databricks.hooks.databricks import DatabricksHook
from sqlglot import exp

from data_share import dag_defaults
from data_share.dataset_files import read_dataset
from data_share.datasets import Dataset
from data_share.share import Share
from data_share.snowflake.sql_api import DataShareSnowflakeHook
from tests.contracts.conftest import until

SWITCH = "DATA_SHARE_LIVE"
DEFAULT_DATASET = Path(__file__).with_name("nyctaxi_trips.yaml")
LONGEST_RUN = 900.0
"""Seconds that a run may take: a stopped SQL warehouse takes minutes to start."""
SNOWFLAKE_CONN = "snowflake_default"
ACCOUNT_CONN = "snowflake_account"
"""The same without a schema: there is none before it is made."""
DATABRICKS_CONN = "databricks_default"
_SQL = Path(__file__).resolve().parents[2] / "include" / "sql" / "snowflake"
[_COPY] = DataShareSnowflakeHook.split_sql_string((_SQL / "copy_into_staging.sql").read_text(), strip_semicolon=True)
COPY_OPTIONS = _COPY[_COPY.index("FILE_FORMAT") :]
"""The product's options of COPY, without PATTERN, for which some tests have their own."""

_REQUIRED = {
    "DATA_SHARE_LIVE_SNOWFLAKE": "an Airflow connection to Snowflake, as JSON",
    "DATA_SHARE_LIVE_DATABRICKS": "an Airflow connection to Databricks, as JSON",
    "DATA_SHARE_LIVE_JOB_ID": "the id of the deployed export job, which is copied and not run itself",
    "DATA_SHARE_LIVE_S3_PREFIX": "a prefix for scratch files, s3://<bucket>/<at least one folder>/",
    "DATA_SHARE_LIVE_STORAGE_INTEGRATION": "Snowflake's storage integration for that prefix",
    "DATA_SHARE_LIVE_SOURCE_SCHEMA": "a schema of Unity Catalog for scratch source tables, <catalog>.<schema>",
}
FEED = "delta.enableChangeDataFeed = true"
"""The table property of the change data feed, as SQL sets it."""
_RETRY_AFTER_SECONDS = "150"
_STATEMENT_WAIT = "50s"


class LiveSettingsError(Exception):
    """The suite is switched on and cannot run; the message names what is missing or wrong."""


class DatabricksStatementError(Exception):
    """Databricks refuses a call of the suite, or a statement of it has failed; the message is Databricks' own."""


class OutsideScratchError(AssertionError):
    """Something was about to reach beyond the scratch place, and was not sent."""


@dataclass(frozen=True)
class LiveSettings:
    """
    What the environment says of the accounts; see docs/live-tests.md.

    :param snowflake: Airflow connection
    :param databricks: Airflow connection
    :param job_id: the deployed export job
    :param s3_prefix: where scratch files may lie, ends in ``/``
    :param storage_integration: Snowflake's way to it
    :param source_schema: where scratch source tables may be made, in Unity Catalog
    :param s3_endpoint: of an S3 that is not Amazon's, or None
    :param dataset: dataset of the full sync
    :param other_role: a role of Snowflake without a right on the integration, or None
    :param retry_after: seconds after which a request is repeated whose statement still runs
    """

    snowflake: dict[str, Any]
    databricks: dict[str, Any]
    job_id: int
    s3_prefix: str
    storage_integration: str
    source_schema: str
    s3_endpoint: str | None
    dataset: Dataset
    other_role: str | None
    retry_after: float

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> LiveSettings:
        """
        Read the settings.

        :raises LiveSettingsError: naming everything that is missing
        """
        missing = [f"{name} ({meaning})" for name, meaning in _REQUIRED.items() if not environment.get(name)]
        if missing:
            raise LiveSettingsError(f"{SWITCH}=1, but these are not set: {'; '.join(missing)}. See docs/live-tests.md.")
        prefix = environment["DATA_SHARE_LIVE_S3_PREFIX"]
        if not re.fullmatch(r"s3://[a-z0-9.-]{3,63}/([A-Za-z0-9_-]+/)+", prefix):
            raise LiveSettingsError(
                f"DATA_SHARE_LIVE_S3_PREFIX is {prefix!r}: it must be s3://<bucket>/<at least one folder>/, with "
                "letters, digits, _ and - in the folders' names."
            )
        source_schema = environment["DATA_SHARE_LIVE_SOURCE_SCHEMA"]
        if not re.fullmatch(r"[A-Za-z_]\w*\.[A-Za-z_]\w*", source_schema, re.ASCII):
            raise LiveSettingsError(
                f"DATA_SHARE_LIVE_SOURCE_SCHEMA is {source_schema!r}: it must be <catalog>.<schema>, of plain names."
            )
        other_role = environment.get("DATA_SHARE_LIVE_OTHER_ROLE") or None
        if other_role and not re.fullmatch(r"[A-Za-z_]\w*", other_role, re.ASCII):
            raise LiveSettingsError(f"DATA_SHARE_LIVE_OTHER_ROLE is {other_role!r}: it must be a plain name.")
        try:
            snowflake = json.loads(environment["DATA_SHARE_LIVE_SNOWFLAKE"])
            databricks = json.loads(environment["DATA_SHARE_LIVE_DATABRICKS"])
            job_id = int(environment["DATA_SHARE_LIVE_JOB_ID"])
            retry_after = float(environment.get("DATA_SHARE_LIVE_RETRY_AFTER", _RETRY_AFTER_SECONDS))
        except ValueError as error:
            raise LiveSettingsError(
                f"A connection is not JSON, or the job id or DATA_SHARE_LIVE_RETRY_AFTER no number: {error}"
            ) from None
        return cls(
            snowflake=snowflake,
            databricks=databricks,
            job_id=job_id,
            s3_prefix=prefix,
            storage_integration=environment["DATA_SHARE_LIVE_STORAGE_INTEGRATION"],
            source_schema=source_schema,
            s3_endpoint=environment.get("DATA_SHARE_LIVE_S3_ENDPOINT"),
            dataset=read_dataset(Path(environment.get("DATA_SHARE_LIVE_DATASET", DEFAULT_DATASET))),
            other_role=other_role,
            retry_after=retry_after,
        )

    @property
    def hold_seconds(self) -> float:
        """How long a test lets another statement wait for a lock."""
        return min(8.0, max(1.0, self.retry_after))


def settings_or_failure(environment: Mapping[str, str]) -> LiveSettings:
    """Read the settings; without them a test that was asked for fails, as one that is skipped proves nothing."""
    try:
        return LiveSettings.read(environment)
    except LiveSettingsError as error:
        pytest.fail(str(error), pytrace=False)


@dataclass
class Scratch:
    """
    The place that the suite may change: one new schema, one new folder, one new job, and source tables that are named
    like them. All of it is gone at the end.

    :param settings: the accounts
    :param name: a name that nothing else has
    """

    settings: LiveSettings
    name: str = field(default_factory=lambda: f"data_share_live_{uuid.uuid4().hex[:12]}")
    job_id: int | None = None
    source_tables: list[str] = field(default_factory=list)
    is_schema_made: bool = False

    @property
    def schema(self) -> str:
        """The scratch schema, as Snowflake spells it."""
        return self.name.upper()

    @property
    def missing_schema(self) -> str:
        """A schema that nobody makes."""
        return f"{self.schema}_MISSING"

    @property
    def url(self) -> str:
        """The scratch folder, ends in ``/``."""
        return f"{self.settings.s3_prefix}{self.name}/"

    @property
    def share(self) -> Share:
        """The names of the product in the scratch place."""
        return Share(url=self.url, storage_integration=self.settings.storage_integration, staging_schema=self.schema)

    def snowflake_connection(self) -> str:
        """Return the Airflow connection whose schema is the scratch schema."""
        return json.dumps({**self.settings.snowflake, "schema": self.schema})

    # ---- what is made, and removed

    def make(self) -> None:
        """Make the schema and the job; neither may be there before."""
        self.make_schema()
        self.make_job()

    def make_schema(self) -> None:
        """Make the schema."""
        # Before it is: the answer may be lost.
        self.is_schema_made = True
        self._snowflake(f"CREATE TRANSIENT SCHEMA {self.schema}")

    def make_job(self) -> None:
        """Make the copy of the export job."""
        job = self.databricks("GET", "jobs/get", job_id=self.settings.job_id)
        wanted = ("tasks", "parameters", "queue", "timeout_seconds", "environments", "job_clusters")
        copied = {name: job["settings"][name] for name in wanted if name in job["settings"]}
        made = self.databricks("POST", "jobs/create", **copied, name=self.name, max_concurrent_runs=1)
        self.job_id = int(made["job_id"])

    def make_source(self, content: pa.Table, *, has_feed: bool = False) -> str:
        """Make a source table of Unity Catalog with these rows, or also with a change data feed; returns its name."""
        table = f"{self.settings.source_schema}.{self.name}_{len(self.source_tables) + 1}"
        folder = f"sources/{len(self.source_tables) + 1}/"
        self.put(f"{folder}part-1.parquet", content)
        self.source_tables.append(table)
        properties = f" TBLPROPERTIES ({FEED})" if has_feed else ""
        self.sql(f"CREATE TABLE {table}{properties} AS SELECT * FROM parquet.`{self.url}{folder}`")
        return table

    def remove(self) -> None:
        """
        Remove everything, as far as it is there.

        :raises ExceptionGroup: naming what could not be removed
        """
        errors: list[Exception] = []
        for step in (self._remove_job, self._remove_sources, self._remove_files, self._remove_schema):
            try:
                step()
            except Exception as error:
                error.add_note(f"Left behind: {self.schema}, {self.url} or the job {self.name}; remove it by hand.")
                errors.append(error)
        if errors:
            raise ExceptionGroup("The scratch place could not be removed", errors)

    def _remove_job(self) -> None:
        if self.job_id is None:
            return
        # A run that goes on would write into the folder after it was emptied.
        self.databricks("POST", "jobs/runs/cancel-all", job_id=self.job_id)
        listed = {"job_id": self.job_id, "active_only": "true"}
        until(lambda: not self.databricks("GET", "jobs/runs/list", **listed).get("runs"), LONGEST_RUN)
        self.databricks("POST", "jobs/delete", job_id=self.job_id)

    def _remove_sources(self) -> None:
        for table in self.source_tables:
            self.sql(f"DROP TABLE IF EXISTS {table}")

    def _remove_files(self) -> None:
        files = self.files()
        folder = self.url.removeprefix("s3://").rstrip("/")
        found = files.find(folder)
        if any(not path.startswith(f"{folder}/") for path in found):
            raise OutsideScratchError(f"{found} is not all below {folder}/")
        if found:
            files.rm(found)

    def _remove_schema(self) -> None:
        if self.is_schema_made:
            self._snowflake(f"DROP SCHEMA IF EXISTS {self.schema} CASCADE")

    # ---- ways in, all of them guarded

    def _snowflake(self, sql: str) -> None:
        self.check_sql(sql)
        # Without a schema: whether one that does not exist is accepted is for a test to find out.
        DataShareSnowflakeHook(ACCOUNT_CONN).run_statement(sql)

    def databricks(self, method: str, path: str, **body: Any) -> Any:
        """Call the Jobs API beside the product; only the scratch job may be changed."""
        changes = method != "GET" and path not in ("jobs/create", "jobs/runs/cancel")
        if changes and body.get("job_id") != self.job_id:
            raise OutsideScratchError(f"{path} for the job {body.get('job_id')}, which is not the scratch job")
        return self._ask(method, f"2.2/{path}", body)

    def warehouse(self) -> dict[str, Any]:
        """Return the SQL warehouse of the export job, as the workspace tells of it."""
        return dict(self._ask("GET", f"2.0/sql/warehouses/{self.warehouse_id}", {}))

    def file_statuses(self) -> list[dict[str, Any]]:
        """Return what the workspace tells of the job's SQL files."""
        paths = [task["file"]["path"] for task in self._sql_tasks]
        return [dict(self._ask("GET", "2.0/workspace/get-status", {"path": path})) for path in paths]

    @cached_property
    def _sql_tasks(self) -> list[dict[str, Any]]:
        tasks = self.databricks("GET", "jobs/get", job_id=self.settings.job_id)["settings"]["tasks"]
        return [dict(task["sql_task"]) for task in tasks if "sql_task" in task]

    @property
    def warehouse_id(self) -> str:
        """The SQL warehouse of the export job."""
        return str(self._sql_tasks[0]["warehouse_id"])

    def sql(self, statement: str) -> list[list[str | None]]:
        """
        Have the job's SQL warehouse execute a statement, and return its rows as texts.

        :raises DatabricksStatementError: in the words of Databricks
        """
        self.check_databricks_sql(statement)
        body = {"warehouse_id": self.warehouse_id, "statement": statement, "wait_timeout": _STATEMENT_WAIT}
        answer = self._ask("POST", "2.0/sql/statements", body)

        def ended() -> Any:
            nonlocal answer
            if answer["status"]["state"] in ("PENDING", "RUNNING"):
                answer = self._ask("GET", f"2.0/sql/statements/{answer['statement_id']}", {})
                return False
            return True

        until(ended, LONGEST_RUN)
        if answer["status"]["state"] != "SUCCEEDED":
            error = answer["status"].get("error", {})
            raise DatabricksStatementError(str(error.get("message", answer["status"]["state"])))
        return list(answer.get("result", {}).get("data_array", []))

    @staticmethod
    def _ask(method: str, path: str, body: dict[str, Any]) -> Any:
        hook = DatabricksHook(DATABRICKS_CONN)
        answer = httpx.request(
            method,
            hook._endpoint_url(f"api/{path}"),
            headers={"Authorization": f"Bearer {hook._get_token(raise_error=True)}"},
            **({"params": body} if method == "GET" else {"json": body}),
            timeout=120,
        )
        if answer.is_error:
            # What is refused, in the words of Databricks: the address would say nothing of it.
            raise DatabricksStatementError(f"HTTP {answer.status_code}: {answer.text[:500]}")
        return answer.json()

    def files(self) -> s3fs.S3FileSystem:
        """Return S3, signed in as AWS's own environment variables and profiles say."""
        return s3fs.S3FileSystem(endpoint_url=self.settings.s3_endpoint, use_listings_cache=False)

    def read(self, path: str) -> list[dict[str, Any]]:
        """Return the rows of the Parquet files of a folder below the scratch folder."""
        files = self.files()
        rows = []
        for file in files.glob(f"{self._key(path)}*.parquet"):
            with files.open(file) as content:
                rows += pq.read_table(content).to_pylist()
        return rows

    def put(self, path: str, content: pa.Table | bytes) -> None:
        """Write a file of the scratch folder."""
        with self.files().open(self._key(path), "wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                pq.write_table(content, file)

    def remove_file(self, path: str) -> None:
        """Delete a file of the scratch folder."""
        self.files().rm_file(self._key(path))

    def _key(self, path: str) -> str:
        if path.startswith("/") or ".." in path.split("/"):
            raise OutsideScratchError(f"{path!r} is not a path below the scratch folder")
        return f"{self.url.removeprefix('s3://')}{path}"

    def check_sql(self, sql: str) -> None:
        """
        Refuse statements that name anything outside the scratch schema, and kinds that the suite has no need of.

        :raises OutsideScratchError: instead of sending the statement
        """
        if self._is_of_known_form(sql):
            return
        for statement in sqlglot.parse(sql, dialect="snowflake"):
            if statement is None:
                continue
            if isinstance(statement, exp.Command) and statement.name.upper() == "EXPLAIN":
                self.check_sql(statement.expression.name)
                continue
            if not isinstance(statement, _ALLOWED):
                raise OutsideScratchError(f"{type(statement).__name__} is no statement for a scratch schema: {sql}")
            kind = str(statement.args.get("kind")).upper()
            if isinstance(statement, exp.Create | exp.Drop | exp.Alter) and kind not in _ALLOWED_KINDS:
                raise OutsideScratchError(f"{kind} is nothing that a scratch schema holds: {sql}")
            for table in statement.find_all(exp.Table):
                schema = table.name if isinstance(statement, exp.Show) else table.db
                if table.catalog or (schema and schema.upper() != self.schema):
                    raise OutsideScratchError(f"{table.sql()} is outside of {self.schema}: {sql}")

    def _is_of_known_form(self, sql: str) -> bool:
        """Whether a statement lists a stage of the scratch schema, or is about rights on what it holds, or policies."""
        name = rf"{self.schema}\.\w+"
        role = re.escape(str(self.settings.other_role))
        forms = (
            rf"DESCRIBE INTEGRATION {re.escape(self.settings.storage_integration)}",
            rf"LIST @({self.schema}\.)?\w+/[\w/-]*",
            rf"GRANT USAGE ON SCHEMA {self.schema} TO ROLE {role}",
            rf"GRANT (USAGE ON STAGE|SELECT, INSERT ON TABLE) {name} TO ROLE {role}",
            rf"CREATE (MASKING|ROW ACCESS) POLICY {name} AS \(\w+ VARCHAR\) RETURNS (VARCHAR|BOOLEAN) -> [\w' ]+",
            rf"ALTER TABLE {name} MODIFY COLUMN \w+ (SET MASKING POLICY {name}|UNSET MASKING POLICY)",
            rf"ALTER TABLE {name} (ADD|DROP) ROW ACCESS POLICY {name}( ON \(\w+\))?",
        )
        return any(re.fullmatch(form, sql, re.ASCII | re.IGNORECASE) for form in forms)

    def check_databricks_sql(self, sql: str) -> None:
        """
        Refuse a statement for Databricks that writes anything but scratch source tables and files.

        Tables are changed in few forms: of a value, only a number or a word, as an expression may name other tables.

        :raises OutsideScratchError: instead of sending the statement
        """
        table = rf"{re.escape(self.settings.source_schema)}\.{self.name}_\w+"
        allowed = (
            r"SELECT [^;]+",
            rf"CREATE TABLE {table}( TBLPROPERTIES \({re.escape(FEED)}\))? AS SELECT [^;]+",
            rf"ALTER TABLE {table} SET TBLPROPERTIES \({re.escape(FEED)}\)",
            rf"UPDATE {table} SET \w+ = ('\w+'|\w+ \+ [0-9]+) WHERE \w+ = [0-9]+",
            rf"DELETE FROM {table} WHERE \w+ = [0-9]+",
            # Without RETAIN: what the table keeps is kept.
            rf"VACUUM {table}",
            rf"DROP TABLE IF EXISTS {table}",
            rf"INSERT OVERWRITE DIRECTORY '{re.escape(self.url)}\w+/' USING PARQUET SELECT [^;]+",
        )
        if not any(re.fullmatch(form, sql, re.ASCII) for form in allowed):
            raise OutsideScratchError(f"{sql} is no statement for a scratch place")

    def check_body(self, body: Mapping[str, Any]) -> None:
        """Refuse a statement that would run in another schema, but for those that make and drop the scratch schema."""
        schema = str(body.get("schema", "")).upper()
        # In a schema that does not exist, nothing is found that the statement does not name in full.
        if schema in (self.schema, self.missing_schema):
            return
        ends = rf"(CREATE TRANSIENT SCHEMA|DROP SCHEMA IF EXISTS) {self.schema}( CASCADE)?"
        if schema or not re.fullmatch(ends, str(body.get("statement"))):
            raise OutsideScratchError(f"The schema of the request is {body.get('schema')}, not {self.schema}")

    def check_run(self, body: Mapping[str, Any]) -> None:
        """Refuse a run of another job, or one that would write elsewhere."""
        path = body.get("job_parameters", {}).get("export_path", "")
        if str(body.get("job_id")) != str(self.job_id) or not path.startswith(self.url):
            raise OutsideScratchError(f"A run of job {body.get('job_id')} to {path!r} is outside of {self.url}")


_ALLOWED_KINDS = frozenset({"SCHEMA", "STAGE", "TABLE"})
_ALLOWED = (
    exp.Alter,
    exp.Commit,
    exp.Copy,
    exp.Create,
    exp.Delete,
    exp.Describe,
    exp.Drop,
    exp.Insert,
    exp.Merge,
    exp.Query,
    exp.Rollback,
    exp.Show,
    exp.Transaction,
    exp.Update,
)


@contextlib.contextmanager
def confined(scratch: Scratch) -> Iterator[None]:
    """Let the product's own hooks send nothing that reaches beyond the scratch place."""
    submit, call, run_now = (
        DataShareSnowflakeHook.submit,
        DataShareSnowflakeHook._call,
        DatabricksHook.run_now,
    )

    def guarded_submit(hook: Any, sql: str, **options: Any) -> str:
        scratch.check_sql(sql)
        return submit(hook, sql, **options)

    def guarded_call(hook: Any, method: str, url: str, params: Any = None, body: Any = None, **options: Any) -> Any:
        if body is not None:
            scratch.check_body(body)
        return call(hook, method, url, params, body, **options)

    def guarded_run_now(hook: Any, json: dict[str, Any]) -> int:
        scratch.check_run(json)
        return int(run_now(hook, json))

    with contextlib.ExitStack() as undo:
        for owner, name, guarded in (
            (DataShareSnowflakeHook, "submit", guarded_submit),
            (DataShareSnowflakeHook, "_call", guarded_call),
            (DatabricksHook, "run_now", guarded_run_now),
        ):
            undo.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, guarded)
        yield


@contextlib.contextmanager
def signed_in(scratch: Scratch) -> Iterator[None]:
    """Give Airflow the connections, and the package the names of the scratch place."""
    settings = scratch.settings
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"AIRFLOW_CONN_{SNOWFLAKE_CONN.upper()}", scratch.snowflake_connection())
        without_schema = {name: value for name, value in settings.snowflake.items() if name != "schema"}
        patch.setenv(f"AIRFLOW_CONN_{ACCOUNT_CONN.upper()}", json.dumps(without_schema))
        patch.setenv(f"AIRFLOW_CONN_{DATABRICKS_CONN.upper()}", json.dumps(settings.databricks))
        patch.setattr(dag_defaults, "SHARE", scratch.share)
        patch.setattr(dag_defaults, "SHARES", {scratch.share.name: scratch.share})
        yield


@contextlib.contextmanager
def scratch_place(settings: LiveSettings) -> Iterator[Scratch]:
    """Make a scratch place, confine the product to it, and remove it at the end, whatever happens between."""
    made = Scratch(settings)
    with signed_in(made), confined(made):
        try:
            made.make()
            yield made
        finally:
            made.remove()
