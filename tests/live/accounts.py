"""The real accounts of the suite, and the scratch place in them that it is confined to."""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
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

from data_share import share, snowflake_operators
from data_share.datasets import Dataset, read_dataset
from data_share.snowflake_hook import DataShareSnowflakeHook
from tests.contracts.conftest import until

SWITCH = "DATA_SHARE_LIVE"
DEFAULT_DATASET = Path(__file__).with_name("nyctaxi_trips.yaml")
LONGEST_RUN = 900.0
"""Seconds that a run may take: a stopped SQL warehouse takes minutes to start."""
SNOWFLAKE_CONN = "snowflake_default"
DATABRICKS_CONN = "databricks_default"
_REQUIRED = {
    "DATA_SHARE_LIVE_SNOWFLAKE": "an Airflow connection to Snowflake, as JSON",
    "DATA_SHARE_LIVE_DATABRICKS": "an Airflow connection to Databricks, as JSON",
    "DATA_SHARE_LIVE_JOB_ID": "the id of the deployed export job, which is copied and not run itself",
    "DATA_SHARE_LIVE_S3_PREFIX": "a prefix for scratch files, s3://<bucket>/<at least one folder>/",
    "DATA_SHARE_LIVE_STORAGE_INTEGRATION": "Snowflake's storage integration for that prefix",
}


class LiveSettingsError(Exception):
    """The suite is switched on and cannot run; the message names what is missing or wrong."""


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
    :param s3_endpoint: of an S3 that is not Amazon's, or None
    :param dataset: dataset of the full sync
    """

    snowflake: dict[str, Any]
    databricks: dict[str, Any]
    job_id: int
    s3_prefix: str
    storage_integration: str
    s3_endpoint: str | None
    dataset: Dataset

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
        try:
            snowflake = json.loads(environment["DATA_SHARE_LIVE_SNOWFLAKE"])
            databricks = json.loads(environment["DATA_SHARE_LIVE_DATABRICKS"])
            job_id = int(environment["DATA_SHARE_LIVE_JOB_ID"])
        except ValueError as error:
            raise LiveSettingsError(f"A connection is not JSON, or the job id no number: {error}") from None
        return cls(
            snowflake=snowflake,
            databricks=databricks,
            job_id=job_id,
            s3_prefix=prefix,
            storage_integration=environment["DATA_SHARE_LIVE_STORAGE_INTEGRATION"],
            s3_endpoint=environment.get("DATA_SHARE_LIVE_S3_ENDPOINT"),
            dataset=read_dataset(Path(environment.get("DATA_SHARE_LIVE_DATASET", DEFAULT_DATASET))),
        )


def settings_or_failure(environment: Mapping[str, str]) -> LiveSettings:
    """Read the settings; without them a test that was asked for fails, as one that is skipped proves nothing."""
    try:
        return LiveSettings.read(environment)
    except LiveSettingsError as error:
        pytest.fail(str(error), pytrace=False)


@dataclass
class Scratch:
    """
    The place that the suite may change: one new schema, one new folder, one new job. All of it is gone at the end.

    :param settings: the accounts
    :param name: a name that nothing else has
    """

    settings: LiveSettings
    name: str = field(default_factory=lambda: f"data_share_live_{uuid.uuid4().hex[:12]}")
    job_id: int | None = None

    @property
    def schema(self) -> str:
        """The scratch schema, as Snowflake spells it."""
        return self.name.upper()

    @property
    def url(self) -> str:
        """The scratch folder, ends in ``/``."""
        return f"{self.settings.s3_prefix}{self.name}/"

    def snowflake_connection(self) -> str:
        """Return the Airflow connection whose schema is the scratch schema."""
        return json.dumps({**self.settings.snowflake, "schema": self.schema})

    # ---- what is made, and removed

    def make(self) -> None:
        """Make the schema and the job; neither may be there before."""
        self._snowflake(f"CREATE TRANSIENT SCHEMA {self.schema}")
        job = self.databricks("GET", "jobs/get", job_id=self.settings.job_id)
        wanted = ("tasks", "parameters", "queue", "timeout_seconds", "environments", "job_clusters")
        copied = {name: job["settings"][name] for name in wanted if name in job["settings"]}
        made = self.databricks("POST", "jobs/create", **copied, name=self.name, max_concurrent_runs=1)
        self.job_id = int(made["job_id"])

    def remove(self) -> None:
        """
        Remove everything, as far as it is there.

        :raises ExceptionGroup: naming what could not be removed
        """
        errors: list[Exception] = []
        for step in (self._remove_job, self._remove_files, self._remove_schema):
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

    def _remove_files(self) -> None:
        files = self.files()
        folder = self.url.removeprefix("s3://").rstrip("/")
        found = files.find(folder)
        if any(not path.startswith(f"{folder}/") for path in found):
            raise OutsideScratchError(f"{found} is not all below {folder}/")
        if found:
            files.rm(found)

    def _remove_schema(self) -> None:
        self._snowflake(f"DROP SCHEMA IF EXISTS {self.schema} CASCADE")

    # ---- ways in, all of them guarded

    def _snowflake(self, sql: str) -> None:
        self.check_sql(sql)
        hook = DataShareSnowflakeHook(SNOWFLAKE_CONN)
        DataShareSnowflakeHook.run_statement(hook, sql)

    def databricks(self, method: str, path: str, **body: Any) -> Any:
        """Call the Jobs API beside the product; only the scratch job may be changed."""
        changes = method != "GET" and path not in ("jobs/create", "jobs/runs/cancel")
        if changes and body.get("job_id") != self.job_id:
            raise OutsideScratchError(f"{path} for the job {body.get('job_id')}, which is not the scratch job")
        hook = DatabricksHook(DATABRICKS_CONN)
        answer = httpx.request(
            method,
            hook._endpoint_url(f"api/2.2/{path}"),
            headers={"Authorization": f"Bearer {hook._get_token(raise_error=True)}"},
            **({"params": body} if method == "GET" else {"json": body}),
            timeout=60,
        )
        answer.raise_for_status()
        return answer.json()

    def files(self) -> s3fs.S3FileSystem:
        """Return S3, signed in as AWS's own environment variables and profiles say."""
        return s3fs.S3FileSystem(endpoint_url=self.settings.s3_endpoint, use_listings_cache=False)

    def put(self, path: str, content: pa.Table | bytes) -> None:
        """Write a file of the scratch folder."""
        if path.startswith("/") or ".." in path.split("/"):
            raise OutsideScratchError(f"{path!r} is not a path below the scratch folder")
        with self.files().open(f"{self.url.removeprefix('s3://')}{path}", "wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                pq.write_table(content, file)

    def check_sql(self, sql: str) -> None:
        """
        Refuse statements that name anything outside the scratch schema, and kinds that the suite has no need of.

        :raises OutsideScratchError: instead of sending the statement
        """
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

    def check_body(self, body: Mapping[str, Any]) -> None:
        """Refuse a statement that would run in another schema, but for those that make and drop the scratch schema."""
        if str(body.get("schema", "")).upper() != self.schema:
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
def scratch_place(settings: LiveSettings) -> Iterator[Scratch]:
    """Make a scratch place, confine the product to it, and remove it at the end, whatever happens between."""
    made = Scratch(settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"AIRFLOW_CONN_{SNOWFLAKE_CONN.upper()}", made.snowflake_connection())
        patch.setenv(f"AIRFLOW_CONN_{DATABRICKS_CONN.upper()}", json.dumps(settings.databricks))
        patch.setattr(share, "SHARE_URL", made.url)
        patch.setattr(share, "STORAGE_INTEGRATION", settings.storage_integration)
        for module in (share, snowflake_operators):
            patch.setattr(module, "STAGING_SCHEMA", made.schema)
        with confined(made):
            try:
                made.make()
                yield made
            finally:
                made.remove()
