"""
Each contract that the package relies on, broken on purpose in the emulator: the product must notice.

The contracts are the rows of ``emulators/README.md`` with *Relied on: yes*. A break that no scenario notices says that
the package does not rely on the row, or that its scenario is too weak.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import s3fs
import sqlglot
from sqlglot import exp
from starlette.responses import JSONResponse

from data_share.databricks import follow
from data_share.snowflake import sql_api as statements_api
from emulators import fault_injection
from emulators.databricks import answers, export, functions, jobs, lake, oauth, parquet, references, server
from emulators.databricks.records import USER, TaskRun
from emulators.snowflake import (
    account_statements,
    auth,
    copy_into,
    engine,
    load_metadata,
    locks,
    privileges,
    results,
    rights,
    session,
    sql_api,
    stages,
    statements,
    stop,
    translate,
)
from emulators.snowflake.errors import SqlError
from emulators.snowflake.names import key
from tests.contracts import scenarios
from tests.contracts.conftest import Accounts
from tests.docs.test_emulators_readme import rows

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox]

_numbers = itertools.count()

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Break:
    """
    A contract that is broken.

    :param behaviour: the row of ``emulators/README.md``
    :param done: what the emulator does instead
    :param patch: makes it do that
    :param scenario: what the product does then
    :param noticed: pattern of the error, or of what the scenario finds wrong, by which it is noticed
    """

    behaviour: str
    done: str
    patch: Callable[[Patch], None]
    scenario: Callable[[Accounts], None]
    noticed: str


@pytest.fixture(scope="module")
def ready(accounts: Accounts) -> Iterator[Accounts]:
    """The accounts, set up; nobody waits longer than the emulators need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follow, "_MIN_POLL_SECONDS", 0.02)
        patch.setattr(follow, "_FAILED_POLL_SECONDS", 0.02)
        patch.setattr(statements_api, "_FIRST_POLL_SECONDS", 0.004)
        scenarios.set_up_again(accounts)
        yield accounts


# ---- ways to break


def instead(owner: Any, name: str, new: Any) -> Callable[[Patch], None]:
    """Put something in the place of a function, method or constant."""
    return lambda patch: patch.setattr(owner, name, new)


def around(owner: Any, name: str, changed: Callable[..., Any]) -> Callable[[Patch], None]:
    """Change a function or method: ``changed`` is given the true one, and its arguments."""
    true = inspect.getattr_static(owner, name)
    return lambda patch: patch.setattr(owner, name, lambda *args, **options: changed(true, *args, **options))


def after(owner: Any, name: str, change: Callable[[Any], Any]) -> Callable[[Patch], None]:
    """Change what a function or method returns."""
    return around(owner, name, lambda true, *args, **options: change(true(*args, **options)))


def renamed(old: str, new: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Give a field another name."""
    return lambda fields: {new if name == old else name: value for name, value in fields.items()}


def answered(change: Callable[[dict[str, Any]], Any]) -> Callable[[JSONResponse], JSONResponse]:
    """Change the body of an answer."""

    def changed(answer: JSONResponse) -> JSONResponse:
        body = json.loads(bytes(answer.body))
        return JSONResponse(change(body) or body, answer.status_code)

    return changed


def exported(change: Callable[[pa.Table], pa.Table]) -> Callable[[Patch], None]:
    """Change the rows that an export writes."""

    def write(true: Callable[..., None], files: Any, location: str, reader: Any, *rest: Any) -> None:
        table = change(reader.read_all())
        true(files, location, pa.RecordBatchReader.from_batches(table.schema, table.to_batches()), *rest)

    return around(export, "overwrite_directory", write)


class _Files:
    """A file system that puts files in another way."""

    def __init__(self, files: s3fs.S3FileSystem, **other: Callable[..., None]) -> None:
        self._files = files
        for name, method in other.items():
            setattr(self, name, functools.partial(method, files))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)


def files_put(put_file: Callable[..., None]) -> Callable[[Patch], None]:
    """Put the files of an export in another way."""
    return around(
        export,
        "overwrite_directory",
        lambda true, files, *args: true(_Files(files, put_file=put_file), *args),
    )


def marked(pipe_file: Callable[..., None]) -> Callable[[Patch], None]:
    """Put what lies beside the data of an export in another way."""
    return around(
        export,
        "overwrite_directory",
        lambda true, files, *args: true(_Files(files, pipe_file=pipe_file), *args),
    )


def each_column(of: Callable[[pa.DataType], bool], change: Callable[[Any], Any]) -> Callable[[pa.Table], pa.Table]:
    def changed(table: pa.Table) -> pa.Table:
        for number, column in enumerate(table.schema):
            # Of the manifest, whose columns are never NULL, nothing is changed.
            if of(column.type) and "source_choice" not in table.column_names:
                table = table.set_column(number, column, change(table.column(number)).cast(column.type))
        return table

    return changed


def loaded(change: Callable[[pa.Field, copy_into._Column, str], str]) -> Callable[[Patch], None]:
    """Change the expression by which COPY reads a column."""
    return around(
        copy_into, "_value", lambda true, field, column, options: change(field, column, true(field, column, options))
    )


def raising(make: Callable[..., Exception]) -> Callable[..., Any]:
    def fail(*args: Any, **options: Any) -> Any:
        raise make(*args, **options)

    return fail


# ---- what is done instead


def _objects_are_not_listed(true: Any, self: Any, method: str, *args: Any, **options: Any) -> Any:
    answer = true(self, method, *args, **options)
    return {**answer, "Contents": ()} if method == "list_objects_v2" else answer


def _by_another_name(files: s3fs.S3FileSystem, local: str, remote: str) -> None:
    files.put_file(local, remote.replace(".snappy.parquet", ".parquet.snappy"))


def _any_bearer(true: Any, self: Any, authorization: str) -> str:
    return USER if authorization.startswith("Bearer ") else str(true(self, authorization))


def _any_scheme(true: Any, self: Any, authorization: str) -> str:
    return str(true(self, authorization)) if authorization.startswith("Bearer ") else USER


def _no_oauth(true: Any, self: Any, authorization: str) -> str:
    principal = str(true(self, authorization))
    return principal if principal == USER else str(true(self, "Bearer nothing"))


def _the_newest_run(true: Any, self: jobs.Workspace, run_id: int) -> Any:
    return true(self, run_id) if run_id in self._runs else self.runs()[0]


def _any_job(true: Any, self: jobs.Workspace, job_id: int) -> Any:
    return true(self, job_id if job_id in self._jobs else next(iter(self._jobs)))


def _succeeded(true: Any, self: Any, run: Any, *ignored: Any) -> None:
    true(self, run, "TERMINATED", "SUCCESS", "")


def _only_numbers(true: Any, body: Any, name: str) -> int:
    if isinstance(body.get(name), str):
        raise server._malformed(f"Expected a number for field '{name}'")
    return int(true(body, name))


def _without_outcome(task: dict[str, Any]) -> dict[str, Any]:
    condition = task.get("condition_task", {})
    return {
        **task,
        **({"condition_task": {name: condition[name] for name in ("op", "left", "right")}} if condition else {}),
    }


def _own_run_id(true: Any, run: Any, *args: Any, **options: Any) -> Any:
    return {**true(run, *args, **options), "run_id": run.run_id}


def _absent_tables_are_empty(true: Any, self: Any, name: str, *more: Any) -> Any:
    try:
        return true(self, name, *more)
    except export.StatementError:
        return pa.dataset.dataset(scenarios.SCHEMA.empty_table())


def _no_directory(*_: Any) -> Any:
    raise export.StatementError("[PARSE_SYNTAX_ERROR] a directory is not a literal")


def _nothing_is_constant(*_: Any) -> Any:
    raise export.StatementError("[NOT_A_CONSTANT_STRING] IDENTIFIER takes no expression")


def _nothing_is_like_a_pattern(query: exp.Expr) -> exp.Expr:
    return query.transform(lambda node: exp.false() if isinstance(node, exp.RegexpLike) else node)


def _no_file_without_rows(true: Any, schema: Any, batches: Any, *rest: Any) -> Any:
    rows = [batch for batch in batches if batch.num_rows]
    return true(schema, iter(rows), *rest) if rows else iter(())


def _hours_later(hours: int) -> Callable[[Any], Any]:
    return lambda column: pc.add(column, pa.scalar(hours * 3_600_000_000, pa.duration("us")))


def _signature_ignored(self: Any, token: str) -> str:
    claims = auth.jwt.decode(token, options={"verify_signature": False})
    return str(claims["sub"]).partition(".")[2]


def _any_access_token(true: Any, self: Any, token: str, kind: str | None = None) -> str:
    try:
        return str(true(self, token, kind))
    except auth.AuthError as error:
        if error.code == "394400":
            return "SHARE_SVC"
        raise


def _no_role_is_missing(true: Any, self: Any, submission: Any) -> None:
    try:
        true(self, submission)
    except sql_api.BadRequestError as error:
        if error.code != "390189":
            raise


def _names_in_lower_case(true: Any, self: Any, submission: Any) -> Any:
    if submission.database is not None and submission.database.upper() == submission.database:
        return None, None
    return true(self, submission)


def _timeout_is_not_available(true: Any, self: Any, execution: Any, error: Any, stopped: int) -> Any:
    answer = true(self, execution, error, stopped)
    return JSONResponse({}, 504) if getattr(error, "errno", None) == 630 else answer


def _plain_partitions(true: Any, self: Any, execution: Any, *, partition: int = 0, **options: Any) -> Any:
    answer = true(self, execution, partition=partition, **options)
    if partition:
        del answer.headers["Content-Encoding"]
    return answer


def _request_ids_forgotten(true: Any, self: Any, submission: Any) -> Any:
    execution = true(self, submission)
    self._by_request.clear()
    # Else the repetition could come first, and be the one that loads.
    execution.future.exception()
    return execution


def _another_secret(true: Any, query: exp.Expr, secrets: functions.Secrets, command: str) -> Any:
    return true(query, {name: f"{value} {next(_numbers)}" for name, value in secrets.items()}, command)


def _no_secret_at_all(true: Any, query: exp.Expr, *args: Any) -> Any:
    if query.find(exp.Secret):
        raise functions.SecretError("[SECRET_FUNCTION_INVALID_LOCATION] Cannot execute INSERT command SQLSTATE: 42K0E")
    return true(query, *args)


def _the_first_statement_alone(true: Any, self: Any, execution: Any, submission: Any, session: Any) -> None:
    true(self, execution, dataclasses.replace(submission, statements=submission.statements[:1]), session)


def _each_statement_commits(
    true: Any, self: Any, execution: Any, sql: str, session: Any, *args: Any, **kw: Any
) -> None:
    if sql.strip().upper() in {"BEGIN TRANSACTION", "COMMIT"}:
        sql = "SELECT 1"
    true(self, execution, sql, session, *args, **kw)


def _no_reason(error: SqlError, *ignored: Any) -> SqlError:
    return SqlError(100132, "P0000", "Execution of multiple statements failed.")


def _the_other_ones(true: Any, body: dict[str, Any], name: str) -> Any:
    return true(body, {"active_only": "completed_only", "completed_only": "active_only"}.get(name, name))


def _not_cancelled(true: Any, self: Any) -> Any:
    error = true(self)
    return None if error is not None and error.errno == 604 else error


def _no_location_is_allowed(true: Any, expression: exp.Expr, session: Any) -> None:
    kept = dict(session.account.catalogue.integrations)
    session.account.catalogue.integrations.update({name: [] for name in kept})
    try:
        true(expression, session)
    finally:
        session.account.catalogue.integrations.update(kept)


def _the_file_itself(true: Any, session: Any, location: str) -> Any:
    return [file for file in true(session, location) if file.url == location]


class _Searching:
    """A pattern that matches anywhere."""

    def __init__(self, pattern: str) -> None:
        self.fullmatch = re.compile(pattern).search


def _nothing_is_a_row_of_nulls(true: Any, self: Any, sql: str, expression: Any) -> None:
    if sql.startswith("SELECT 'Copy executed"):
        sql = copy_into._RESULT.format(rows="(NULL, NULL, NULL::BIGINT, NULL::BIGINT, NULL, NULL, NULL)")
    true(self, sql, expression)


def _maps_are_lists(true: Any, source: pa.Field, file_format: Any) -> str:
    scanned = true(source, file_format)
    return f"map_entries({scanned})" if pa.types.is_map(source.type) else scanned


def _invalid_characters_are_replaced(true: Any, session: Any, target: str, columns: Any, file: Any, *rest: Any) -> Any:
    table = copy_into._read(session, file)
    for number, column in enumerate(table.schema):
        if pa.types.is_string(column.type):
            raw = table.column(number).cast(pa.binary()).to_pylist()
            texts = [None if value is None else value.decode(errors="replace") for value in raw]
            table = table.set_column(number, column, pa.array(texts, pa.string()))
    with session.account.filesystem.open(f"{file.bucket}/{file.key}", "wb") as replaced:
        pq.write_table(table, replaced)
    return true(session, target, columns, file, *rest)


def _columns_by_place(true: Any, session: Any, columns: Any, file: Any, options: Any) -> Any:
    with session.account.filesystem.open(f"{file.bucket}/{file.key}", "rb") as source:
        fields = list(copy_into.pq.read_schema(source))
    places = itertools.zip_longest(columns, fields[: len(columns)])
    return {column: copy_into._value(field, column, options) if field else "NULL" for column, field in places}


def _nulls_are_zero(true: Any, session: Any, columns: Any, file: Any, options: Any) -> Any:
    values = true(session, columns, file, options)
    return {
        column: value if column.nullable or column.type != "DOUBLE" else f"COALESCE({value}, 0)"
        for column, value in values.items()
    }


def _replace_commits(true: Any, expression: exp.Expr) -> bool:
    return bool(true(expression)) or (isinstance(expression, exp.Insert) and bool(expression.args.get("overwrite")))


def _replace_forgets_grants(true: Any, self: Any, expression: exp.Expr, *args: Any) -> None:
    true(self, expression, *args)
    if isinstance(expression, exp.Insert) and expression.args.get("overwrite"):
        table = expression.find(exp.Table)
        assert table is not None
        self._conn.account.catalogue.rights.grants.pop(key("TABLE", *self._conn.qualified(table)), None)


def _merge_takes_any_row(true: Any, self: Any, merge: exp.Merge, params: Any) -> None:
    merge = merge.copy()
    using = merge.args["using"]
    if using.alias == "staging":
        table = using.copy()
        table.set("alias", None)
        picked = sqlglot.parse_one(f"SELECT DISTINCT ON (k) * FROM {table.sql('duckdb')}", read="duckdb")
        assert isinstance(picked, exp.Select)
        merge.set("using", picked.subquery("staging"))
    true(self, merge, params)


def _rows_are_copied_too(true: Any, self: Any, expression: exp.Expr, *args: Any) -> None:
    true(self, expression, *args)
    like = expression.find(exp.LikeProperty) if isinstance(expression, exp.Create) else None
    if like is not None:
        new, old = (
            ".".join(f'"{part}"' for part in self._conn.qualified(table))
            for table in (expression.find(exp.Table), like.this)
        )
        self._duck_conn.execute(f"INSERT INTO {new} SELECT * FROM {old}")


def _as_written(identifier: exp.Expr) -> str:
    return ".".join(part.name for part in identifier.parts) if isinstance(identifier, exp.Table) else identifier.name


def _other_words_for_null(error: SqlError) -> SqlError:
    return SqlError(100072, "22000", "A value is missing") if error.errno == 100072 else error


def _overwrite_is_an_insert(true: Any, expression: exp.Expr, session: Any) -> None:
    expression = expression.copy()
    expression.set("overwrite", None)
    true(expression, session)


def _nothing_to_create_needs_no_right(true: Any, expression: exp.Create, session: Any) -> None:
    if not expression.args.get("exists"):
        true(expression, session)


def _the_administrators(true: Any, self: Any, name: str, role: str) -> None:
    true(self, name, "ACCOUNTADMIN")


def _orders_of_429_are_400(true: Any, self: Any, *args: Any) -> Any:
    action = true(self, *args)
    return {**action, "status": 400} if action.get("status") == 429 else action


def _nothing_is_left(true: Any, self: Any, directory: exp.Expr, query: exp.Expr, parameters: Any) -> None:
    try:
        true(self, directory, query, parameters)
    except Exception:
        location = export._constant(directory, parameters)
        if self._filesystem.exists(location):
            self._filesystem.rm(location, recursive=True)
        raise


def _in_seconds(statement: exp.Expr) -> exp.Expr:
    sql = statement.sql("snowflake")
    if "EPOCH_MICROSECOND" not in sql:
        return statement
    return sqlglot.parse_one(sql.replace("EPOCH_MICROSECOND", "EPOCH_SECOND"), read="snowflake")


def nothing(*args: Any, **options: Any) -> None:
    """Do nothing."""


def _metadata_is_never_hidden(patch: Patch) -> None:
    around(export.Session, "_register", lambda true, self, table, parameters, _: true(self, table, parameters, True))(
        patch
    )
    instead(export, "_hide_metadata", nothing)(patch)


S3_KEEPS = "An object that was written is there, and read as written"
SHAPE = "Shape of the answers of runs/get, runs/list, get-output, jobs/get, jobs/list"
CALLS = "Calls of the Airflow provider: find a job by name, run-now, get, get-output, cancel"
LISTED_RUNS = "runs/list with `job_id` and `active_only`: runs of the job that are QUEUED to TERMINATING"
SQL_FAILS = (
    "A failed SQL: the task TERMINATED/FAILED, the run INTERNAL_ERROR/FAILED, `status` TERMINATED/RUN_EXECUTION_ERROR"
)
TYPES = (
    "Physical and logical type of each column: Delta's types from BOOLEAN to STRUCT, decimals as INT32, INT64 or "
    "bytes, TIMESTAMP as INT96, TIMESTAMP_NTZ as INT64"
)
PRIVILEGES = (
    "A statement needs each of its privileges: SELECT, INSERT, UPDATE, DELETE, TRUNCATE, CREATE, and USAGE of "
    "database, schema, stage, integration, warehouse"
)
INTEGRATION = "COPY and LIST take USAGE on the integration of the stage, also from the role that owns the stage"
OWNERSHIP = "ALTER, DROP, CREATE OR REPLACE and GRANT take OWNERSHIP; who creates owns"
MATCH = "COPY: MATCH_BY_COLUMN_NAME: other columns are ignored, missing ones are NULL, rows of NULLs when none matches"
VECTORIZED = (
    "COPY: USE_VECTORIZED_SCANNER = TRUE: a map is an object, NULLs inside nested values stay, INT96 is TIMESTAMP_LTZ"
)
NULL_IF = r"COPY: NULL_IF: values that are one of these texts become NULL, numbers too; `\N` where it is not stated"
NOT_UTF8 = "COPY: REPLACE_INVALID_CHARACTERS = FALSE, the default: bytes that are no UTF-8 are an error (100144)"
TIME_ZONE = (
    "`timezone` in `parameters`: the zone in which times without zone, and times of TIMESTAMP_LTZ, become one another; "
    "001008 for one that is not there"
)

s = scenarios

BREAKS = [
    # S3
    Break(
        "Objects, lists, deletes, uploads in parts",
        "lists are empty",
        around(s3fs.S3FileSystem, "call_s3", _objects_are_not_listed),
        s.a_sync,
        "ManifestError: The export left 0",
    ),
    Break(S3_KEEPS, "a file is not kept", files_put(nothing), s.a_sync, "PATH_NOT_FOUND"),
    # Databricks, Jobs API
    Break(
        SHAPE,
        "a state by another name",
        after(answers, "_state", renamed("life_cycle_state", "state")),
        s.a_sync,
        "life_cycle_state",
    ),
    Break(SHAPE, "a run without its state", after(answers, "_run", renamed("state", "run_state")), s.a_sync, "'state'"),
    Break(CALLS, "ids are numbers only", around(server, "_integer", _only_numbers), s.a_sync, "Expected a number"),
    Break(
        "No or unsupported credential",
        "a password will do",
        around(oauth.Credentials, "principal", _any_scheme),
        s.who_may_follow_an_export,
        "no failure",
    ),
    Break(
        "Wrong token",
        "any token will do",
        around(oauth.Credentials, "principal", _any_bearer),
        s.who_may_follow_an_export,
        "no failure",
    ),
    Break(
        "OAuth of a service principal: discovery, client credentials, one hour",
        "its tokens are not accepted",
        around(oauth.Credentials, "principal", _no_oauth),
        s.a_service_principal_exports,
        "403",
    ),
    Break(
        "`service_principal_oauth` of the Airflow provider",
        "no secret in the header",
        instead(oauth, "_basic", nothing),
        s.a_service_principal_exports,
        "401",
    ),
    Break(
        "Unknown job or run",
        "any job will do",
        around(jobs.Workspace, "job", _any_job),
        s.an_unknown_job_or_run,
        "DID NOT RAISE.*DatabricksApiError",
    ),
    Break(
        "Unknown job or run",
        "any run will do",
        around(jobs.Workspace, "run", _the_newest_run),
        s.an_unknown_job_or_run,
        "DID NOT RAISE.*TriggerFailedError",
    ),
    Break(
        "Too many requests",
        "a wrong request",
        around(fault_injection.FaultInjection, "_take", _orders_of_429_are_400),
        s.databricks_is_busy,
        "Too many requests",
    ),
    Break(
        "`job_parameters` of a run: all of the job, with their defaults and values",
        "left out",
        after(answers, "_run", lambda run: {**run, "job_parameters": []}),
        s.a_sync,
        "export path 'None'",
    ),
    Break(
        "`{{job.parameters.x}}`",
        "not replaced",
        instead(jobs, "resolve_references", lambda template, *_: template),
        s.a_sync,
        "The parameter data_path must be a directory",
    ),
    Break(
        "`{{tasks.x.output.first_row.y}}`: the first row of the result of the last statement",
        "not replaced",
        instead(jobs, "resolve_references", lambda template, given, *_: references.resolve_references(template, given)),
        s.a_source_with_nothing_new,
        "the plan of the export did not reach the export",
    ),
    Break(
        "`condition_task`: EQUAL_TO and NOT_EQUAL compare texts",
        "texts are never equal",
        instead(jobs, "outcome_of", lambda *_: "true"),
        s.a_source_with_nothing_new,
        "None is True",
    ),
    Break(
        "`condition_task.outcome` of a run",
        "not told",
        after(answers, "_task", _without_outcome),
        s.a_source_with_nothing_new,
        "ManifestError",
    ),
    Break(
        "`idempotency_token`: the existing run, also when it failed",
        "a run each time",
        around(jobs.Workspace, "run_now", lambda true, *args, token="", **kw: true(*args, **kw)),
        s.the_answer_to_run_now_is_lost,
        "assert 2 == 1",
    ),
    Break(
        "`idempotency_token`: 64 characters at most",
        "20 characters",
        instead(jobs, "MAX_TOKEN_LENGTH", 20),
        s.a_sync,
        "at most 20 characters",
    ),
    Break(
        "Each task has a run id of its own; a run of it by that id",
        "that of the run",
        around(answers, "_task", _own_run_id),
        s.the_source_is_absent,
        "details could not be read",
    ),
    Break(
        SQL_FAILS,
        "the run succeeds",
        around(jobs.Workspace, "_ended", _succeeded),
        s.the_source_is_absent,
        "DID NOT RAISE",
    ),
    Break(
        "The reason of a failure is only in the output of the task",
        "nowhere",
        lambda patch: patch.setattr(TaskRun, "error", property(lambda _: "", nothing), raising=False),
        s.the_source_is_absent,
        "Regex pattern did not match",
    ),
    Break(
        "Over `max_concurrent_runs` with a queue: QUEUED, `queue_details`, `queue_duration`",
        "SKIPPED",
        around(jobs.Workspace, "_begin", lambda true, self, run, queue=None: true(self, run, False)),
        s.more_exports_than_the_job_runs_at_once,
        "MAXIMUM_CONCURRENT_RUNS_REACHED",
    ),
    Break(
        "cancel answers at once; TERMINATING, then TERMINATED/CANCELED",
        "the run goes on",
        instead(jobs.Workspace, "cancel", nothing),
        s.an_export_is_cancelled,
        "DID NOT RAISE",
    ),
    Break(
        LISTED_RUNS,
        "those that have ended",
        around(server, "_flag", _the_other_ones),
        s.a_sync_ends_before_its_export_is_followed,
        "Regex pattern did not match",
    ),
    Break(
        "Lists in pages, the newest first; without the list when it is empty",
        "the first page only",
        after(answers, "page_of", lambda page: {name: page[name] for name in page if name != "next_page_token"}),
        s.a_sync_ends_before_its_export_is_followed,
        "Regex pattern did not match",
    ),
    Break(
        "`timeout_seconds` of the job: TIMEDOUT",
        "SUCCESS",
        instead(jobs.Workspace, "_stopped", lambda self, run, _: self._ended(run, "TERMINATED", "SUCCESS", "")),
        s.an_export_times_out_on_databricks,
        "DID NOT RAISE",
    ),
    # Databricks, SQL and files
    Break(
        "Named parameters are bound as values",
        "not bound",
        instead(export, "_used", lambda *_: {}),
        s.a_sync,
        "The job parameter source_table must be a table",
    ),
    Break(
        "The directory of `INSERT OVERWRITE DIRECTORY` is a literal",
        "none is",
        instead(export, "directory_insert", _no_directory),
        s.a_sync,
        "PARSE_SYNTAX_ERROR",
    ),
    Break(
        "`RLIKE` finds a part; `\\z` is the end of a text",
        "nothing is found",
        after(export, "as_duckdb", _nothing_is_like_a_pattern),
        s.a_sync,
        "The job parameter source_table must be a table",
    ),
    Break(
        "`` parquet.`path` `` is a directory of files",
        "a table",
        instead(export, "_PARQUET_DIRECTORY", re.compile("(?!)")),
        s.a_sync,
        "TABLE_OR_VIEW_NOT_FOUND.*`parquet`",
    ),
    Break(
        "`IDENTIFIER()` takes constants: a parameter, or one among texts",
        "no expression",
        instead(export, "_constant", _nothing_is_constant),
        s.a_sync,
        "NOT_A_CONSTANT_STRING",
    ),
    Break(
        "An absent table: `TABLE_OR_VIEW_NOT_FOUND`",
        "an empty one",
        around(lake.Lake, "read", _absent_tables_are_empty),
        s.the_source_is_absent,
        "DID NOT RAISE",
    ),
    Break(
        "`DESCRIBE HISTORY` as a table of a query",
        "without the newest version",
        after(lake.Lake, "history", lambda rows: rows.slice(1)),
        s.a_source_with_nothing_new,
        "AssertionError",
    ),
    Break(
        "The information schema: kind, format and time of creation of a table",
        "without tables",
        instead(lake, "relations_of", lambda *_: []),
        s.a_source_with_nothing_new,
        "the source is no Delta table of Unity Catalog",
    ),
    Break(
        "`VERSION AS OF` a number, also behind `IDENTIFIER()`",
        "the newest version",
        around(lake.Lake, "read", lambda true, self, name, version=None, equal=None: true(self, name, None, equal)),
        s.a_source_that_is_written_while_it_is_exported,
        "AssertionError",
    ),
    Break(
        "Data files: snappy Parquet, `part-<n>-<uuid>-c<n>.snappy.parquet`",
        "another ending",
        files_put(_by_another_name),
        s.a_sync,
        "ManifestError: The export left 0",
    ),
    Break(
        "One file without rows, with all columns, for an empty result",
        "no file",
        around(parquet, "_parts", _no_file_without_rows),
        s.an_export_without_rows,
        "PATH_NOT_FOUND",
    ),
    Break(
        TYPES,
        "a date is a timestamp",
        lambda patch: patch.setitem(parquet._READ_AS, pa.date32(), pa.timestamp("us")),
        s.values_of_each_type,
        "timestamp_ntz into DATE, where the time of the day is cut off",
    ),
    Break(
        "Values of each type: years 1 to 9999 and beyond, microseconds, NaN, 38 digits, empty and NULL",
        "an empty text is NULL",
        exported(each_column(pa.types.is_string, lambda c: pc.if_else(pc.equal(c, ""), None, c))),
        s.a_sync,
        r"AssertionError: assert \[\{'k': 1",
    ),
    Break(
        "The session's time zone does not change an exported instant",
        "it does",
        exported(each_column(lambda kind: pa.types.is_timestamp(kind) and kind.tz is not None, _hours_later(8))),
        s.values_of_each_type,
        "9, 30, 0, 123456",
    ),
    Break(
        "INT96 in files is read as TIMESTAMP",
        "as TIMESTAMP_NTZ",
        instead(parquet, "_as_spark_reads", lambda fragment: iter(fragment.physical_schema)),
        s.a_new_column_is_added,
        r"datetime\(2026, 1, 1, 0, 0\)",
    ),
    Break(
        "`_metadata` of files is hidden until it is named, then `file_path`, `file_name`, `file_size`",
        "always there",
        _metadata_is_never_hidden,
        s.a_sync,
        'Referenced table "__metadata" not found',
    ),
    Break(
        "`TYPEOF` of a column: its type in Spark's words",
        "in DuckDB's words",
        instead(export, "spark_type", str),
        s.a_sync,
        "The manifest's sums of column 'k' cannot be read",
    ),
    Break(
        "`JSON_OBJECT_KEYS(TO_JSON(STRUCT(*), MAP('ignoreNullFields', 'false')))`: the names of all columns, whatever "
        "they hold, also of a join that finds no row",
        "those that are not NULL, of which such a join has none",
        instead(export.Session, "_keys_of", lambda *_: []),
        s.a_sync,
        "No column is left to export",
    ),
    Break(
        "`DECLARE OR REPLACE VARIABLE`, `SET VAR`, `EXECUTE IMMEDIATE ... INTO ...` in one session",
        "nothing is set",
        instead(export.Session, "_assign", nothing),
        s.a_sync,
        "NULL_QUERY_STRING_EXECUTE_IMMEDIATE",
    ),
    Break(
        "`EXECUTE IMMEDIATE` of a variable's text, which is one statement; `USING` variables and literals by name, and "
        "no other expressions",
        "nothing is bound",
        instead(export.Session, "_bound", lambda self, sql, _: sqlglot.parse_one(sql, read="databricks")),
        s.a_sync,
        "UNBOUND_SQL_PARAMETER",
    ),
    Break(
        "`SECRET(scope, key)`: constant strings; an unknown one is an error",
        "another secret each time",
        around(export, "with_secrets", _another_secret),
        s.two_syncs_of_hashed_columns,
        "AssertionError: assert",
    ),
    Break(
        "A statement that writes takes `SECRET` only within `AES_ENCRYPT`",
        "not there either",
        around(export, "with_secrets", _no_secret_at_all),
        s.two_syncs_of_hashed_columns,
        "TriggerFailedError: .*SECRET_FUNCTION_INVALID_LOCATION",
    ),
    Break(
        "`FROM_JSON`, `GET_JSON_OBJECT`: NULL for a text that is no JSON",
        "NULL for each text",
        instead(functions, "_json_or_null", lambda text: exp.cast(exp.Null(), exp.DType.JSON)),
        s.two_syncs_of_hashed_columns,
        "TriggerFailedError: .*The job parameter source must be JSON",
    ),
    Break(
        "`MD5`, `CONV`, `FORMAT_NUMBER`, `UNIX_DATE`, `UNIX_MICROS`, `TIMESTAMPDIFF`, `HEX`: the same text of the same "
        "value, and the same sums",
        "zeros stay at the end of decimals",
        instead(export, "MACROS", [macro.replace(", '0'), '.')", ", ''), '.')") for macro in export.MACROS]),
        s.values_of_each_type,
        'values_match_manifest: column "PRICE"',
    ),
    Break(
        "NUMBER(38, 0) has 38 digits",
        "64 bits",
        instead(translate, "_keep_38_digits", nothing),
        s.values_of_each_type,
        "DIGITS",
    ),
    Break(
        "`MD5`, `TO_NUMBER` with a format of `X`, `TO_VARCHAR`, `RTRIM` with characters, `DECODE`, "
        "`HEX_ENCODE`: as documented",
        "TO_NUMBER reads fewer digits",
        around(translate, "_hexadecimal", lambda true, node: exp.Literal.number(1)),
        s.a_sync,
        'values_match_manifest: column "K"',
    ),
    Break(
        "`DATEDIFF` of days, `DATE_PART(EPOCH_MICROSECOND, ...)`: of years 1 to 9999, the instant or the time in UTC",
        "whole seconds",
        around(
            translate,
            "translate",
            lambda true, statement, session: true(_in_seconds(statement), session),
        ),
        s.values_of_each_type,
        'values_match_manifest: column "AT"',
    ),
    Break(
        "DESCRIBE TABLE: the type of a column, with its size",
        "without its size",
        after(translate, "described_types", lambda types: {**types, "K": "NUMBER(1,0)", "AMOUNT": "NUMBER"}),
        s.a_sync,
        "AMOUNT: double into NUMBER, where it is rounded",
    ),
    # Snowflake, sign-in and SQL API
    Break(
        "Key-pair JWT: signature, issuer with fingerprint, subject, at most one hour old; 401, code 390144",
        "no signature is checked",
        instead(auth.KeyPairAuthenticator, "verify", _signature_ignored),
        s.who_may_load,
        "DID NOT RAISE",
    ),
    Break(
        "Programmatic access token; 401, code 394400",
        "any will do",
        around(auth.Authenticator, "verify", _any_access_token),
        s.who_may_load,
        "DID NOT RAISE",
    ),
    Break(
        "OAuth access token; 401, code 390303; ended: 390318",
        "none is accepted",
        instead(auth, "OAUTH", "OTHER"),
        s.a_load_with_a_token,
        "390303",
    ),
    Break(
        "`/oauth/token-request`: a refresh token gives an access token",
        "it gives none",
        instead(auth.Authenticator, "issue", raising(lambda *_, **__: auth.OAuthError("invalid_grant", "No."))),
        s.a_load_with_a_token,
        "400",
    ),
    Break(
        "A role that does not exist is refused: 390189",
        "it is taken",
        around(sql_api.SqlApi, "_check_role", _no_role_is_missing),
        s.who_may_load,
        "390186|DID NOT RAISE",
    ),
    Break(
        "Case of `database`, `schema`, `warehouse` and `role` in a request must be that of SHOW",
        "lower case",
        around(sql_api.SqlApi, "_context", _names_in_lower_case),
        s.a_sync,
        "does not have a current",
    ),
    Break(
        "200: fields of ResultSet",
        "columns by another name",
        after(
            sql_api.SqlApi,
            "_answer",
            answered(lambda body: body.update(resultSetMetaData={"columns": []}) if "data" in body else None),
        ),
        s.a_sync,
        "shorter|longer",
    ),
    Break(
        "202: fields of QueryStatus",
        "a handle by another name",
        after(sql_api.SqlApi, "_running", answered(renamed("statementHandle", "queryId"))),
        s.a_sync,
        "code 333334",
    ),
    Break(
        "408 to a submission that reaches its timeout, 422 to a later question",
        "504",
        around(sql_api.SqlApi, "_failed", _timeout_is_not_available),
        s.a_statement_takes_too_long,
        "504",
    ),
    Break(
        "422: fields of QueryFailureStatus",
        "a message by another name",
        after(sql_api.SqlApi, "_failed", answered(renamed("message", "error"))),
        s.a_statement_fails,
        "no message",
    ),
    Break(
        "Values are strings, encoded by type",
        "times as ISO 8601",
        around(
            results,
            "_text",
            lambda true, value, kind: value.isoformat() if hasattr(value, "isoformat") else true(value, kind),
        ),
        s.a_sync,
        "ConversionSyntax|InvalidOperation",
    ),
    Break(
        "Columns: name, type, precision, scale, length",
        "all are of text",
        after(results.Result, "row_type", lambda columns: [{**column, "type": "text"} for column in columns]),
        s.a_sync,
        "TypeError|PolicyFoundError",
    ),
    Break(
        "Partitions after the first: gzip, without metadata",
        "not said to be compressed",
        around(sql_api.SqlApi, "_answer", _plain_partitions),
        s.more_rows_than_an_answer_holds,
        "is not JSON",
    ),
    Break(
        "`requestId` with `retry=true`: what succeeded or runs is not executed again",
        "executed again",
        around(sql_api.SqlApi, "_start", _request_ids_forgotten),
        s.the_answer_to_a_copy_is_lost,
        "NothingLoadedError|ManifestError",
    ),
    Break(
        "Several statements: count checked, one session, handles of the children",
        "the first alone",
        around(sql_api.SqlApi, "_run_several", _the_first_statement_alone),
        s.a_sync,
        # The answer of prepare_staging.sql is that of its last statement.
        "KeyError: 'DATASET'",
    ),
    Break(
        "An error among several statements: code 100132, the reason in the message",
        "no reason",
        instead(sql_api, "_failed_among_several", _no_reason),
        s.a_sync_was_overtaken,
        "SnowflakeStatementError",
    ),
    Break(
        "`?` is bound by type and value; a wrong value is 100037",
        "another value",
        after(sql_api, "_bound_values", lambda values: ["another" for _ in values]),
        s.an_earlier_export_is_loaded_again,
        "UnknownRunKeyError",
    ),
    Break(
        "`query_tag` and `MULTI_STATEMENT_COUNT` in `parameters`",
        "no tag",
        after(sql_api, "_read", lambda submission: dataclasses.replace(submission, query_tag="")),
        s.statements_say_who_they_are_of,
        "set\\(\\) ==",
    ),
    Break(
        TIME_ZONE,
        "that of the account",
        after(sql_api, "_read", lambda submission: dataclasses.replace(submission, time_zone=None)),
        s.values_of_each_type,
        r"values_match_manifest: column \"UTC\": checksum",
    ),
    Break(
        "Cancel: 200 with 000604; what has ended: 422 with 000709",
        "the statement goes on",
        around(stop.Stop, "error", _not_cancelled),
        s.a_statement_is_cancelled,
        "DID NOT RAISE",
    ),
    # Snowflake, COPY
    Break(
        "Stage URL must be allowed by the integration",
        "none is allowed",
        around(account_statements, "check_new_stage", _no_location_is_allowed),
        s.set_up_again,
        "is not allowed by integration",
    ),
    Break(
        "COPY: the location is a plain prefix: `path/1` takes `path/10/` too",
        "the name of a file",
        around(stages, "files_below", _the_file_itself),
        s.a_sync,
        "ManifestError: The export left 0",
    ),
    Break(
        "COPY: PATTERN must match the path from end to end",
        "a part of it",
        instead(copy_into, "re", mock.Mock(wraps=re, compile=_Searching, error=re.error)),
        s.other_files_beside_the_data,
        "Error parsing the parquet file",
    ),
    Break(
        "COPY: ten result columns, a row per file",
        "a column by another name",
        instead(copy_into, "_RESULT", copy_into._RESULT.replace("rows_loaded", "rows_copied")),
        s.a_sync,
        "NothingLoadedError",
    ),
    Break(
        'COPY: nothing to load is one row with one column, "Copy executed with 0 files processed."',
        "a row of NULLs",
        around(engine.Cursor, "answer", _nothing_is_a_row_of_nulls),
        s.an_earlier_export_has_expired,
        "TypeError",
    ),
    Break(
        "COPY: ABORT_STATEMENT: of several files nothing is loaded, nor remembered as loaded",
        "a bad value is NULL",
        loaded(lambda field, column, value: value.replace("CAST(", "TRY_CAST(", 1)),
        s.a_value_that_cannot_be_cast,
        "DID NOT RAISE",
    ),
    Break(
        MATCH,
        "by place",
        around(copy_into, "_values", _columns_by_place),
        s.columns_in_another_order,
        "CheckFailedError",
    ),
    Break(
        "COPY: NULL for a column that takes none",
        "0",
        around(copy_into, "_values", _nulls_are_zero),
        s.a_null_that_the_target_does_not_take,
        "DID NOT RAISE",
    ),
    Break(
        "COPY: INT96 is a timestamp, for NTZ, LTZ and TZ columns",
        "a number",
        loaded(lambda field, column, value: f"epoch_ns({value})" if pa.types.is_timestamp(field.type) else value),
        s.values_of_each_type,
        "SnowflakeStatementError",
    ),
    Break(
        "COPY: logical types with USE_LOGICAL_TYPE = TRUE",
        "a date is a number",
        loaded(lambda field, column, value: f"epoch({value})" if pa.types.is_date(field.type) else value),
        s.values_of_each_type,
        "SnowflakeStatementError",
    ),
    Break(
        VECTORIZED,
        "as without it",
        around(copy_into, "_scanned", _maps_are_lists),
        s.values_that_options_of_copy_change,
        "'key'",
    ),
    Break(
        NULL_IF,
        r"\N becomes NULL in any case",
        after(copy_into, "_format", lambda found: dataclasses.replace(found, null_if=("\\N",))),
        s.values_that_options_of_copy_change,
        r"values_match_manifest: column \"NAME\": filled 2 in the files, 1 here",
    ),
    Break(
        "COPY: TRIM_SPACE: white space around texts goes; FALSE where it is not stated",
        "it goes in any case",
        after(copy_into, "_format", lambda found: dataclasses.replace(found, trim_space=True)),
        s.values_that_options_of_copy_change,
        r"values_match_manifest: column \"NAME\": checksum",
    ),
    Break(
        NOT_UTF8,
        "they are replaced",
        around(copy_into, "_load", _invalid_characters_are_replaced),
        s.a_text_that_is_not_utf8,
        "DID NOT RAISE",
    ),
    Break(
        "COPY: TRUNCATECOLUMNS = FALSE, the default: a longer text is an error that names the column",
        "it is cut",
        loaded(lambda field, column, value: f"LEFT({value}, {column.length})" if column.length else value),
        s.a_text_that_is_too_long,
        "DID NOT RAISE",
    ),
    # Snowflake, transactions and objects
    Break(
        "Readers see the last commit",
        "each statement",
        around(sql_api.SqlApi, "_run_one", _each_statement_commits),
        s.readers_look_while_a_sync_is_published,
        r"\(3, 1, 2\)",
    ),
    Break(
        "A request that ends or fails in a transaction is rolled back",
        "what was done stays",
        around(sql_api.SqlApi, "_run_one", _each_statement_commits),
        s.a_publish_that_fails_halfway,
        "== \\[''\\]",
    ),
    Break(
        "Writers of one table wait for each other",
        "they do not",
        instead(locks.Locks, "acquire", nothing),
        s.two_publish_at_once,
        "SnowflakeStatementError",
    ),
    Break(
        "INSERT OVERWRITE is one transaction",
        "it commits what is open",
        around(statements, "is_ddl", _replace_commits),
        s.readers_look_while_a_sync_is_published,
        r"\(3, 1, 2\)",
    ),
    Break(
        "INSERT OVERWRITE keeps the table with its grants",
        "they are gone",
        around(engine.Cursor, "_run_translated", _replace_forgets_grants),
        s.readers_keep_their_grants,
        "does not exist or not authorized",
    ),
    Break(
        "MERGE: two source rows for one target row are an error (100090)",
        "one of them is taken",
        around(engine.Cursor, "_merge", _merge_takes_any_row),
        s.a_publish_that_fails_halfway,
        "RowsHiddenError",
    ),
    Break(
        "CREATE TABLE ... LIKE: columns, lengths, NOT NULL, no rows",
        "with the rows",
        around(engine.Cursor, "_run_translated", _rows_are_copied_too),
        s.a_second_sync,
        "The export left [0-9]+ manifest rows",
    ),
    Break(
        "PRIMARY KEY, UNIQUE, FOREIGN KEY",
        "enforced",
        instead(translate, "_drop_keys", nothing),
        s.keys_of_the_target_are_not_enforced,
        "SnowflakeStatementError",
    ),
    Break(
        "Names fold to upper case, quoted ones do not",
        "they stay as they are",
        instead(session, "name_of", _as_written),
        s.a_sync,
        "does not exist",
    ),
    Break(
        "NOT NULL (100072)",
        "other words",
        after(engine, "from_duckdb", _other_words_for_null),
        s.a_sync_was_overtaken,
        "SnowflakeStatementError: .*A value is missing",
    ),
    # Snowflake, rights
    Break(
        PRIVILEGES, "none", instead(privileges, "authorize", nothing), s.a_target_that_may_only_be_read, "DID NOT RAISE"
    ),
    Break(
        INTEGRATION,
        "USAGE on the stage will do",
        instead(privileges, "_check_integration", nothing),
        s.an_integration_that_may_not_be_used,
        "DID NOT RAISE",
    ),
    Break(
        "INSERT OVERWRITE takes DELETE",
        "INSERT will do",
        around(privileges, "_authorize_dml", _overwrite_is_an_insert),
        s.a_target_that_may_not_be_replaced,
        "DID NOT RAISE",
    ),
    Break(
        "CREATE ... IF NOT EXISTS takes the privilege to create, also when the object exists",
        "none when it exists",
        around(privileges, "_authorize_create", _nothing_to_create_needs_no_right),
        s.set_up_without_the_right_to_create,
        "DID NOT RAISE",
    ),
    Break(
        OWNERSHIP,
        "anybody may alter",
        instead(privileges, "check_owner", nothing),
        s.a_target_that_may_not_be_altered,
        "DID NOT RAISE",
    ),
    Break(
        OWNERSHIP,
        "the administrator owns all",
        around(rights.Rights, "create", _the_administrators),
        s.a_sync,
        "not authorized|Insufficient privileges",
    ),
    Break(
        'What a role has no right on is hidden: "does not exist or not authorized", SHOW leaves it out',
        "SHOW tells",
        instead(engine.Cursor, "_hide", nothing),
        s.clean_up_beside_tables_of_others,
        "does not exist or not authorized",
    ),
    Break(
        "Role hierarchy, roles of users, USE ROLE (003013), login with a role that is not granted (390186)",
        "any role",
        instead(rights.Rights, "may_use", lambda *_: True),
        s.who_may_load,
        "DID NOT RAISE",
    ),
]

WITHSTOOD = [
    Break(
        "What depends on another outcome of a condition is EXCLUDED, and the run SUCCESS",
        "it is executed",
        instead(jobs, "_verdict_of_upstream", nothing),
        s.a_source_with_nothing_new,
        "",
    ),
    Break(
        "COPY: load metadata belongs to the table object: gone with CREATE OR REPLACE and TRUNCATE, follows RENAME",
        "it outlives CREATE OR REPLACE",
        instead(load_metadata, "forget", nothing),
        s.the_load_is_repeated,
        "",
    ),
    Break(
        "Job parameters are pushed down to the SQL file task and win over its own",
        "the task has its own alone",
        around(
            export.Session,
            "execute",
            lambda true, self, sql, parameters: true(
                self, sql, {name: value for name, value in parameters.items() if name != "export_path"}
            ),
        ),
        s.a_sync,
        "",
    ),
    Break("`_SUCCESS` beside the data", "no marker", marked(nothing), s.a_sync, ""),
    Break("`_started_<id>`, `_committed_<id>` beside the data", "no marker", marked(nothing), s.a_sync, ""),
    Break("Several files for large results", "one file", instead(parquet, "MAX_ROWS_PER_FILE", 10**9), s.a_sync, ""),
    Break("Several files for large results", "many", instead(parquet, "MAX_ROWS_PER_FILE", 1), s.a_sync, ""),
    Break(
        "A failed or cancelled statement leaves no commit, perhaps files",
        "no file",
        around(export.Session, "_insert_overwrite_directory", _nothing_is_left),
        s.an_export_is_made_again,
        "",
    ),
    Break(
        "DDL commits the open transaction, also CREATE TABLE ... AS and GRANT",
        "it does not",
        around(session.Session, "end_transaction", nothing),
        s.a_second_sync,
        "",
    ),
]
"""Rows that the package does not rely on, though it may look so: broken, and nothing comes of it."""

NO_POLICIES = "the tables of the scenarios have no policies"
ELSEWHERE = {
    "A column of the data named `_metadata` hides that of the files, which has one more underscore in front then": (
        "no dataset of the scenarios has such a column",
        "tests/emulators/databricks/test_export.py::test_a_column_that_hides_the_metadata_of_files_changes_no_count",
    ),
    "Names in backticks, also in `IDENTIFIER()`; a hyphen without them is refused (`INVALID_IDENTIFIER`)": (
        "the sources of the scenarios have plain names",
        "tests/sandbox/load/test_names.py::test_a_source_may_have_any_name_of_unity_catalog",
    ),
    "A column keeps the name that it was given: in DESCRIBE, in results, in copies of its table": (
        "the targets of the scenarios have plain names",
        "tests/sandbox/load/test_names.py::test_a_sync_is_right_whatever_the_names_are",
    ),
    "LIST of a place that cannot be read is an error": (
        "no sync asks for it, only the doctor",
        "tests/sandbox/doctor/test_doctor.py::test_a_bucket_that_snowflake_cannot_list",
    ),
    "LIST of a stage and a path: name, size, md5, last_modified; takes USAGE": (
        "no sync asks for it, only the doctor",
        "tests/sandbox/doctor/test_doctor.py::test_an_account_that_is_broken",
    ),
    "CURRENT_DATABASE, CURRENT_SCHEMA: NULL for what is not there or may not be used": (
        "no sync asks for it, only the doctor",
        "tests/sandbox/doctor/test_doctor.py::test_a_database_or_schema_that_is_not_there",
    ),
    "DESC INTEGRATION: enabled, allowed and blocked locations": (
        "no sync asks for it, only the doctor",
        "tests/sandbox/doctor/test_doctor.py::test_an_account_that_is_broken",
    ),
    "DESC INTEGRATION takes USAGE on it": (
        "no sync asks for it, only the doctor",
        "tests/sandbox/doctor/test_doctor.py::test_an_integration_that_the_role_may_not_use",
    ),
    "Masking policies are applied wherever a column is read, in predicates of JOIN, WHERE and MERGE too": (
        NO_POLICIES,
        "tests/sandbox/load/test_policies.py::test_an_exemption_that_is_claimed_and_not_true_adds_no_row_twice",
    ),
    "Row access policies filter what SELECT, UPDATE, DELETE and MERGE find, for the owner too, and stop no INSERT": (
        NO_POLICIES,
        "tests/sandbox/load/test_policies.py::test_rows_that_the_loader_would_not_see_are_not_published",
    ),
    "`IS_ROLE_IN_SESSION`: the current role, or one whose rights it has": (
        NO_POLICIES,
        "tests/sandbox/load/test_policies.py::test_an_exempt_role_syncs_a_masked_target",
    ),
    "A tag on a database, schema or table masks all columns of its types; a policy on the column takes precedence": (
        NO_POLICIES,
        "tests/sandbox/load/test_policies.py::test_a_tag_that_masks_the_staging_table_stops_a_sync",
    ),
    "DESCRIBE TABLE: `policy name` of a masking policy that is set on the column; NULL for one by a tag": (
        NO_POLICIES,
        "tests/sandbox/load/test_policies.py::test_a_masked_column_of_the_target_stops_a_sync_that_says_nothing_of_it",
    ),
    "EXPLAIN: a table with a row access policy is a `DynamicSecureView`, `<name> (+ RowAccessPolicy)`": (
        NO_POLICIES,
        "tests/sandbox/load/test_policies.py::test_a_row_access_policy_stops_a_sync_that_says_nothing_of_it",
    ),
    "SHOW TABLES: `rows` is the number of rows of the table": (
        NO_POLICIES,
        "tests/sandbox/load/test_policies.py::test_rows_that_are_hidden_before_and_after_are_noticed",
    ),
    "What Spark wrote can be loaded, checked, published and loaded again": (
        "it is about the files of the real engine, which is not in this process",
        "tests/sandbox/spark/test_sync_of_sparks_files.py",
    ),
    "Grants, owners and load metadata outlive a killed process": (
        "a process has to be killed",
        "tests/emulators/snowflake/test_transactions.py::test_a_killed_process_loses_nothing",
    ),
}
"""Rows that cannot be broken in this process: why, and the test that covers them."""


def told(broken: Break) -> str:
    return re.sub(r"\W+", "-", f"{broken.behaviour[:50]}: {broken.done}")


@pytest.mark.parametrize("broken", BREAKS, ids=told)
def test_a_break_is_noticed(ready: Accounts, monkeypatch: pytest.MonkeyPatch, broken: Break) -> None:
    try:
        with monkeypatch.context() as patch:
            broken.patch(patch)
            broken.scenario(ready)
    except (Exception, pytest.fail.Exception) as error:
        assert re.search(broken.noticed, f"{type(error).__name__}: {error}", re.DOTALL)  # noqa: PT017
    else:
        pytest.fail("nothing notices it")


@pytest.mark.parametrize(
    "scenario", dict.fromkeys(broken.scenario for broken in BREAKS), ids=lambda scenario: scenario.__name__
)
def test_nothing_is_noticed_when_nothing_is_broken(ready: Accounts, scenario: Callable[[Accounts], None]) -> None:
    # After the breaks: what one of them left behind would show.
    scenario(ready)


@pytest.mark.parametrize("broken", WITHSTOOD, ids=told)
def test_a_break_is_withstood(ready: Accounts, monkeypatch: pytest.MonkeyPatch, broken: Break) -> None:
    broken.patch(monkeypatch)
    broken.scenario(ready)


def test_each_contract_that_is_relied_on_is_broken_once() -> None:
    relied_on = {row.behaviour for row in rows() if row.relied_on == "yes"}
    broken = {one.behaviour for one in BREAKS}
    assert relied_on - broken - set(ELSEWHERE) == set(), "nothing shows that the package relies on them"
    assert broken | set(ELSEWHERE) <= relied_on, "they are broken, and no row says that the package relies on them"
    withstood = {one.behaviour for one in WITHSTOOD}
    assert withstood <= {row.behaviour for row in rows() if row.relied_on == "no"}, "they can be broken"
