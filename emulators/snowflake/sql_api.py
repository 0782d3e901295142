"""The emulator of Snowflake's SQL API v2: statements over REST."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import sqlglot.errors
from sqlglot import exp
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from emulators.snowflake import statements
from emulators.snowflake.auth import Authenticator, AuthError
from emulators.snowflake.engine import Connection, Engine
from emulators.snowflake.errors import SqlError, from_parser
from emulators.snowflake.results import Result, bound_value, encode
from emulators.snowflake.stop import DEFAULT_STATEMENT_TIMEOUT, Stop

log = logging.getLogger(__name__)

SYNCHRONOUS_WAIT = 45.0
"""Seconds for which a request without `async` waits for its statement."""

MAX_TIMEOUT = 604_800.0
PARTITION_ROWS = 10_000
SHOWN_STATEMENT = 30
"""Maximum number of characters of the failed statement in the error of a request with several statements."""

_WORKERS = 32
_KEPT_EXECUTIONS = 2_000
# Parameters that have no effect on the emulator.
_IGNORED_PARAMETERS = frozenset({"use_cached_result", "client_result_chunk_size"})
# Error numbers for a cancel and a timeout. A request with several statements reports them unchanged.
_STOPPED = frozenset({604, 630})


class BadRequestError(Exception):
    """
    A request that is refused before its statement is read.

    :param status: the HTTP status.
    :param code: Snowflake's error code.
    :param message: the message in the answer.
    :param more: additional fields of the answer.
    """

    def __init__(self, status: int, code: str, message: str, **more: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.more = more


@dataclass
class _Submission:
    """The validated body of a POST."""

    sql: str
    statements: list[str]
    user: str
    request_id: str
    bindings: dict[str, dict[str, Any]]
    database: str | None
    schema: str | None
    warehouse: str | None
    role: str | None
    timeout: float
    query_tag: str
    time_zone: str | None
    count: int


@dataclass
class _Partition:
    """A part of a result. The first part is sent uncompressed, the others compressed."""

    rows: list[list[str | None]]

    @cached_property
    def body(self) -> bytes:
        return json.dumps({"data": self.rows}).encode()

    @cached_property
    def compressed(self) -> bytes:
        return gzip.compress(self.body, 1)


@dataclass
class _Execution:
    """The execution of a submission: of its only statement, of all its statements, or of one of several."""

    handle: str
    request_id: str
    stop: Stop
    created: int = field(default_factory=lambda: int(time.time() * 1000))
    result: Result | None = None
    error: Exception | None = None
    children: list[str] | None = None
    future: Future[None] | None = None
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def status_url(self) -> str:
        return f"/api/v2/statements/{self.handle}"

    @cached_property
    def partitions(self) -> list[_Partition]:
        rows = self.result.rows if self.result else []
        return [_Partition(rows[i : i + PARTITION_ROWS]) for i in range(0, len(rows), PARTITION_ROWS)] or [
            _Partition([])
        ]


class SqlApi:
    """
    The routes below ``/api/v2/statements``, and the executions that they report.

    :param engine: executes the statements.
    :param authenticator: checks the tokens.
    """

    def __init__(self, engine: Engine, authenticator: Authenticator) -> None:
        self._engine = engine
        self._authenticator = authenticator
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="sql-api")
        self._executions: dict[str, _Execution] = {}
        self._by_request: dict[str, str] = {}

    def routes(self) -> list[BaseRoute]:
        """Return the routes of the SQL API, and two routes for tests: executed statements, and running submissions."""
        statement = "/api/v2/statements/{handle}"
        return [
            Route("/api/v2/statements", self._guarded(self._submit), methods=["POST"]),
            Route(statement, self._guarded(self._status), methods=["GET"]),
            Route(statement + "/cancel", self._guarded(self._cancel), methods=["POST"]),
            Route("/_sandbox/statements", self._guarded(self._history), methods=["GET"]),
            Route("/_sandbox/state", self._state, methods=["GET"]),
        ]

    def close(self) -> None:
        """Cancel the running statements and end the worker threads."""
        for execution in list(self._executions.values()):
            execution.stop.cancelled.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _guarded(
        self, endpoint: Callable[[Request, str], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Wrap an endpoint in the checks that every request must pass."""

        async def guard(request: Request) -> Response:
            try:
                user = self._authenticate(request)
                if not request.headers.get("User-Agent"):
                    raise BadRequestError(400, "391901", "Unsupported User-Agent header null is specified.")
                if request.url.path.startswith("/api/") and not _accepts_json(request):
                    accept = request.headers.get("Accept") or "null"
                    raise BadRequestError(400, "391902", f"Unsupported Accept header {accept} is specified.")
                return await endpoint(request, user)
            except AuthError as error:
                return JSONResponse({"code": error.code, "message": error.message}, 401)
            except BadRequestError as error:
                return JSONResponse({"code": error.code, "message": error.message, **error.more}, error.status)
            except Exception:
                log.exception("The emulator failed on %s %s", request.method, request.url.path)
                return JSONResponse({"code": "000603", "message": "SQL execution internal error"}, 500)

        return guard

    def _authenticate(self, request: Request) -> str:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if not token:
            raise AuthError("390101", "Authorization header not found in the request data.")
        if scheme.lower() != "bearer":
            raise AuthError("390303", f"Invalid OAuth access token. [{uuid.uuid4()}]")
        return self._authenticator.verify(token.strip(), request.headers.get("X-Snowflake-Authorization-Token-Type"))

    async def _submit(self, request: Request, user: str) -> Response:
        media_type = request.headers.get("Content-Type", "").split(";")[0].strip().lower()
        if media_type not in {"application/json", ""}:
            raise BadRequestError(415, "391903", f"Unsupported Content-Type header {media_type} is specified.")
        request_id = _request_id(request)
        asynchronous = _flag(request, "async")
        if not _flag(request, "nullable", "true"):
            raise BadRequestError(400, "390142", "The emulator does not take nullable = false.")
        first = self._executions.get(self._by_request.get(request_id, "")) if _flag(request, "retry") else None
        # A retried request is not executed again if its first execution succeeded or still runs.
        if first is not None and first.error is None:
            execution = first
        else:
            submission = _read(await request.body(), user, request_id)
            self._check_role(submission)
            execution = self._start(submission)
        if asynchronous:
            return self._running(execution)
        assert execution.future is not None
        await asyncio.wait([asyncio.wrap_future(execution.future)], timeout=SYNCHRONOUS_WAIT)
        return self._answer(execution, stopped=408)

    async def _status(self, request: Request, user: str) -> Response:
        execution = self._find(request)
        partition = request.query_params.get("partition", "0")
        if not partition.isdigit():
            raise BadRequestError(400, "391922", f"Invalid partition '{partition}'.")
        return self._answer(execution, partition=int(partition))

    async def _cancel(self, request: Request, user: str) -> Response:
        execution = self._find(request)
        if execution.done.is_set():
            raise _not_found(execution.handle)
        execution.stop.cancelled.set()
        await asyncio.to_thread(execution.done.wait, 5)
        return JSONResponse(
            {
                "code": "000604",
                "sqlState": "57014",
                "message": "SQL execution canceled",
                "statementHandle": execution.handle,
                "statementStatusUrl": execution.status_url,
            }
        )

    async def _history(self, request: Request, user: str) -> Response:
        return JSONResponse([vars(statement) for statement in list(self._engine.history)])

    async def _state(self, request: Request) -> Response:
        """Answer the handles of running submissions, and nothing else: this route needs no authentication."""
        submissions = [execution for execution in list(self._executions.values()) if execution.future is not None]
        return JSONResponse({"running": [each.handle for each in submissions if not each.done.is_set()]})

    def _find(self, request: Request) -> _Execution:
        handle = request.path_params["handle"]
        if execution := self._executions.get(handle):
            return execution
        raise _not_found(handle)

    def _check_role(self, submission: _Submission) -> None:
        if submission.role is not None and submission.role not in self._engine.catalogue.roles:
            raise BadRequestError(400, "390189", role_missing(submission.role))
        if submission.role is not None and not self._engine.catalogue.rights.may_use(submission.user, submission.role):
            raise BadRequestError(400, "390186", role_not_granted(submission.role))

    def _start(self, submission: _Submission) -> _Execution:
        execution = _Execution(
            str(uuid.uuid4()),
            submission.request_id,
            Stop(submission.timeout),
        )
        self._keep(execution)
        self._by_request[submission.request_id] = execution.handle
        execution.future = self._pool.submit(self._run, execution, submission)
        return execution

    def _keep(self, execution: _Execution) -> None:
        self._executions[execution.handle] = execution
        for handle in list(self._executions)[: max(0, len(self._executions) - _KEPT_EXECUTIONS)]:
            if self._executions[handle].done.is_set():
                old = self._executions.pop(handle)
                if self._by_request.get(old.request_id) == handle:
                    del self._by_request[old.request_id]

    def _run(self, execution: _Execution, submission: _Submission) -> None:
        """Execute a submission in a worker thread."""
        try:
            statements.check_count(len(submission.statements), submission.count)
            several = len(submission.statements) != 1
            if several and submission.bindings:
                raise SqlError(2, "0A000", "Unsupported feature 'multi-statement with bind variables'.")
            database, schema = self._context(submission)
            session = self._engine.connect(
                database,
                schema,
                user=submission.user,
                role=submission.role,
                warehouse=submission.warehouse,
                query_tag=submission.query_tag,
                time_zone=submission.time_zone,
                request_id=submission.request_id,
            )
            try:
                if several:
                    self._run_several(execution, submission, session)
                else:
                    self._run_one(execution, submission.statements[0], session, submission.bindings, alone=True)
            finally:
                session.close()
        except Exception as error:
            execution.error = error
            if not isinstance(error, SqlError):
                log.exception("The emulator failed on %s", submission.sql)
        finally:
            execution.done.set()

    def _context(self, submission: _Submission) -> tuple[str | None, str | None]:
        """Return database and schema, None for those that do not exist. Unlike in SQL, names are case-sensitive."""
        found = self._engine.duck_conn.cursor().execute(
            "SELECT catalog_name, schema_name FROM information_schema.schemata WHERE catalog_name = ?",
            [submission.database],
        )
        schemas = {schema.upper() if schema == "information_schema" else schema for _, schema in found.fetchall()}
        if not schemas:
            return None, None
        return submission.database, submission.schema if submission.schema in schemas else None

    def _run_several(self, execution: _Execution, submission: _Submission, session: Connection) -> None:
        if session.warehouse is None:
            raise _no_warehouse()
        children: list[str] = []
        execution.children = children
        position = 0
        for text in submission.statements:
            position = submission.sql.index(text, position)
            child = _Execution(
                str(uuid.uuid4()),
                submission.request_id,
                execution.stop,
            )
            self._keep(child)
            children.append(child.handle)
            try:
                self._run_one(child, text, session, {}, alone=False)
            except SqlError as error:
                child.error = error
                if error.errno in _STOPPED:
                    raise
                raise _failed_among_several(error, submission.sql, text, position) from error
            except Exception as error:
                child.error = error
                raise
            finally:
                child.done.set()
            position += len(text)
        execution.result = Result(
            [("multiple statement execution", "VARCHAR")], [["Multiple statements executed successfully."]]
        )

    def _run_one(
        self, execution: _Execution, sql: str, session: Connection, bindings: dict[str, dict[str, Any]], *, alone: bool
    ) -> None:
        try:
            expression = statements.parse_one(sql)
        except sqlglot.errors.SqlglotError as error:
            raise from_parser(error) from error
        _check_supported(expression, alone=alone)
        values = _bound_values(expression, bindings)
        cursor = session.cursor()
        cursor.execute(
            sql,
            stop=execution.stop,
            handle=execution.handle,
            parsed=expression,
            binding_params=values or None,
            server=True,
        )
        execution.result = encode(cursor.columns, cursor._arrow_table, expression)

    def _running(self, execution: _Execution) -> Response:
        return JSONResponse(
            {
                "code": "333334",
                "message": "Asynchronous execution in progress. Use provided query id to perform query monitoring and "
                "management.",
                "statementHandle": execution.handle,
                "statementStatusUrl": execution.status_url,
            },
            202,
        )

    def _answer(self, execution: _Execution, *, partition: int = 0, stopped: int = 422) -> Response:
        """
        Answer with a statement's status and result.

        :param stopped: the HTTP status for a statement that has reached its timeout.
        """
        if not execution.done.is_set():
            return self._running(execution)
        if execution.error is not None:
            return self._failed(execution, execution.error, stopped)
        assert execution.result is not None
        result, partitions = execution.result, execution.partitions
        if partition >= len(partitions):
            raise BadRequestError(
                400, "391922", f"Invalid partition {partition}. Valid partitions are 0 to {len(partitions) - 1}."
            )
        if partition > 0:
            headers = {"Content-Encoding": "gzip"}
            return Response(partitions[partition].compressed, headers=headers, media_type="application/json")
        info = [{"rowCount": len(part.rows), "uncompressedSize": len(part.body)} for part in partitions]
        for sizes, part in list(zip(info, partitions, strict=True))[1:]:
            sizes["compressedSize"] = len(part.compressed)
        body: dict[str, Any] = {
            "resultSetMetaData": {
                "numRows": sum(len(part.rows) for part in partitions),
                "format": "jsonv2",
                "partitionInfo": info,
                "rowType": result.row_type(),
            },
            "data": partitions[0].rows,
            "code": "090001",
            "statementStatusUrl": f"{execution.status_url}?requestId={execution.request_id}",
            "requestId": execution.request_id,
            "sqlState": "00000",
            "statementHandle": execution.handle,
            "message": "Statement executed successfully.",
            "createdOn": execution.created,
        }
        if execution.children is not None:
            body["statementHandles"] = execution.children
        if result.stats is not None:
            body["stats"] = result.stats
        return JSONResponse(body)

    def _failed(self, execution: _Execution, error: Exception, stopped: int) -> Response:
        body = {
            "statementHandle": execution.handle,
            "statementStatusUrl": execution.status_url,
            "createdOn": execution.created,
        }
        if not isinstance(error, SqlError):
            return JSONResponse({"code": "000603", "message": f"SQL execution internal error: {error}", **body}, 500)
        status = stopped if error.errno == 630 else 422
        return JSONResponse(
            {"code": f"{error.errno:06d}", "message": error.msg, "sqlState": error.sqlstate, **body}, status
        )


def _not_found(handle: str) -> BadRequestError:
    """Report an unknown handle, or a cancel of a statement that has already ended."""
    more = {"sqlState": "02000", "statementHandle": handle}
    return BadRequestError(422, "000709", f"Statement {handle} not found", **more)


def _failed_among_several(error: SqlError, sql: str, statement: str, position: int) -> SqlError:
    """Wrap an error as the service does for several statements, which it runs in a JavaScript procedure."""
    shown = statement if len(statement) <= SHOWN_STATEMENT else statement[:SHOWN_STATEMENT] + "..."
    line = sql.count("\n", 0, position) + 1
    column = position - (sql.rfind("\n", 0, position) + 1)
    return SqlError(
        100132,
        "P0000",
        f'JavaScript execution error: Uncaught Execution of multiple statements failed on statement "{shown}" '
        f"(at line {line}, position {column}).\n{error.msg} in SYSTEM$MULTISTMT at '    throw `Execution of multiple "
        "statements failed on statement {0} (at line {1}, position {2}).`.replace('{1}', LINES[i])' position 4\n"
        "stackstrace: \nSYSTEM$MULTISTMT line: 10",
    )


def _no_warehouse() -> SqlError:
    """Report that the session has no warehouse."""
    return SqlError(
        606,
        "57P03",
        "No active warehouse selected in the current session.  "
        "Select an active warehouse with the 'use warehouse' command.",
    )


def role_missing(role: str) -> str:
    """Return Snowflake's message for a role that does not exist."""
    return (
        f"Role '{role}' specified in the connect string does not exist or not authorized. Contact your local system "
        "administrator, or attempt to login with another role, e.g. PUBLIC."
    )


def role_not_granted(role: str) -> str:
    """Return Snowflake's message for a role that is not granted to the user."""
    return (
        f"Role '{role}' specified in the connect string is not granted to this user. Contact your local system "
        "administrator, or attempt to login with another role, e.g. PUBLIC."
    )


def _accepts_json(request: Request) -> bool:
    accepted = {part.split(";")[0].strip().lower() for part in request.headers.get("Accept", "").split(",")}
    return not accepted.isdisjoint({"application/json", "application/*", "*/*"})


def _request_id(request: Request) -> str:
    given = request.query_params.get("requestId")
    if given is None:
        return str(uuid.uuid4())
    try:
        return str(uuid.UUID(given))
    except ValueError:
        raise BadRequestError(400, "391905", f"Invalid requestId '{given}': it must be a UUID.") from None


def _flag(request: Request, name: str, default: str = "false") -> bool:
    value = request.query_params.get(name, default).lower()
    if value not in {"true", "false"}:
        raise BadRequestError(400, "391904", f"Invalid value '{value}' of query parameter '{name}'.")
    return value == "true"


def _read(body: bytes, user: str, request_id: str) -> _Submission:
    """
    Parse and validate a request's body.

    :raises BadRequestError: 400 if the body is invalid.
    """
    invalid = BadRequestError(400, "390142", "Incoming request does not contain a valid payload.")
    try:
        content = json.loads(body)
    except ValueError:
        raise invalid from None
    if not isinstance(content, dict):
        raise invalid
    sql = content.get("statement")
    if not isinstance(sql, str) or not sql.strip():
        raise BadRequestError(400, "000900", "Empty SQL statement.")
    bindings = content.get("bindings") or {}
    parameters = content.get("parameters") or {}
    timeout = content.get("timeout")
    if not isinstance(bindings, dict) or not isinstance(parameters, dict):
        raise invalid
    if timeout is not None and (not isinstance(timeout, int) or isinstance(timeout, bool) or timeout < 0):
        raise invalid
    for binding in bindings.values():
        if not isinstance(binding, dict) or not isinstance(binding.get("value"), str | None):
            raise invalid
    count, query_tag, time_zone = 1, "", None
    for name, value in parameters.items():
        # Names as in the API reference. Another page of the documentation writes this one in upper case: accept both.
        if name in {"multi_statement_count", "MULTI_STATEMENT_COUNT"} and str(value).isdigit():
            count = int(value)
        elif name == "query_tag":
            query_tag = str(value or "")
        elif name == "timezone":
            time_zone = str(value)
        elif name not in _IGNORED_PARAMETERS:
            raise BadRequestError(400, "390142", f"The emulator does not take parameter {name} = {value}.")
    try:
        texts = statements.split(sql)
    except sqlglot.errors.SqlglotError:
        # Keep the text whole: the error is reported when the statement is executed.
        texts = [sql]
    names = {key: _name(content.get(key), invalid) for key in ("database", "schema", "warehouse", "role")}
    seconds = DEFAULT_STATEMENT_TIMEOUT if timeout is None else float(timeout or MAX_TIMEOUT)
    return _Submission(
        sql=sql,
        statements=texts,
        user=user,
        request_id=request_id,
        bindings=bindings,
        timeout=seconds,
        query_tag=query_tag,
        time_zone=time_zone,
        count=count,
        **names,
    )


def _name(value: object, invalid: BadRequestError) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise invalid
    return value


def _check_supported(expression: exp.Expr, *, alone: bool) -> None:
    """
    Check that the SQL API supports a statement.

    :param alone: whether it is the request's only statement: some kinds are supported only among several.
    :raises SqlError: 391911 if it does not.
    """
    name = None
    if isinstance(expression, (exp.Put, exp.Get)):
        name = type(expression).__name__.upper()
    elif alone and isinstance(expression, exp.Transaction):
        name = "TRANSACTION_BEGIN"
    elif alone and isinstance(expression, (exp.Commit, exp.Rollback)):
        name = f"TRANSACTION_{type(expression).__name__.upper()}"
    elif alone and statements.is_session(expression):
        name = "USE" if isinstance(expression, exp.Use) else "SET"
        name = "ALTER_SESSION" if isinstance(expression, exp.Alter) else name
    elif alone and isinstance(expression, exp.Create) and expression.find(exp.TemporaryProperty):
        name = f"CREATE_TEMPORARY_{expression.kind}"
    if name:
        raise SqlError(391911, "0A000", f"Command not supported by SQL API: {name}")


def _bound_values(expression: exp.Expr, bindings: dict[str, dict[str, Any]]) -> list[Any]:
    """Return the values of the statement's placeholders, in their order."""
    values: list[Any] = []
    for position in range(1, 1 + len(list(expression.find_all(exp.Placeholder)))):
        binding = bindings.get(str(position))
        if binding is None:
            message = "SQL compilation error: error line 1 at position 0\nBind variable ? not set."
            raise SqlError(2049, "42601", message)
        kind, value = str(binding.get("type", "TEXT")).upper(), binding.get("value")
        try:
            values.append(None if value is None else bound_value(kind, value))
        except KeyError:
            raise SqlError(2040, "42601", f"SQL compilation error:\nUnsupported data type '{kind}'.") from None
        except (ValueError, OverflowError):
            raise SqlError(100037, "22018", f"{kind} value '{value}' is not recognized") from None
    return values
