"""Snowflake's SQL API, as this package uses it."""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any
from urllib.parse import quote

import requests
from airflow.providers.snowflake.hooks.sql_api import SnowflakeSqlApiHook
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from data_share.failure_codes import FailureCode
from data_share.failures import ShareError
from data_share.links import snowsight_url
from data_share.names import shown, table_parts

STATEMENT_TIMEOUT_SECONDS = 3600
"""How long a statement may run when nothing else is said; Snowflake stops it then."""

_HTTP_TIMEOUT_SECONDS = 60
# Snowflake ends a statement at its time-out; when its answer does not come either, the wait ends this much later.
_ANSWER_MARGIN_SECONDS = 60
_FIRST_POLL_SECONDS = 0.05
_LONGEST_POLL_SECONDS = 5.0
_POLL_BACKOFF = 1.5
_LONGEST_SLEEP_SECONDS = 0.2
_RUNNING = 202
_FAILED = 422
_STOPPED = 408

# Comments, strings, names in quotes, and the rest. In a name, a backslash is a character like others.
_SQL_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|//[^\n]*|/\*.*?\*/)|'(?:[^'\\]|''|\\.)*'|"(?:[^"]|"")*"|\$\$.*?\$\$|[^-/'"$;]+|.""",
    re.DOTALL,
)

# An incident inside Snowflake, and a lock that another statement did not give back in time. An answer to several
# statements has one code for all reasons: there they are known by their words.
_TRANSIENT_CODES = frozenset({"000603", "000625"})
_SEVERAL_STATEMENTS_FAILED = "100132"
_TRANSIENT_WORDS = ("SQL execution internal error", "this lock has not yet been released")
_TIMED_OUT_CODE = "000630"
_TIMED_OUT_WORDS = "Statement reached its statement or warehouse timeout"


class SnowflakeStatementError(ShareError, AirflowFailException):
    """Snowflake ended a statement with an error: another attempt would end the same way."""

    code = FailureCode.SNOWFLAKE_STATEMENT_FAILED


class SnowflakeTransientError(ShareError, AirflowException):
    """Snowflake did not answer, or ended a statement for a reason that may have passed at the next attempt."""

    code = FailureCode.SNOWFLAKE_UNAVAILABLE


class SnowflakeRefusedError(ShareError, AirflowFailException):
    """Snowflake does not accept the request at all, e.g. because it does not accept the credentials."""

    code = FailureCode.SNOWFLAKE_REFUSED


class SnowflakeStoppedError(ShareError, AirflowException):
    """The step was ended from outside: nothing more is asked of Snowflake. With its worker, it may be tried again."""

    code = FailureCode.CANCELLED


@dataclass(frozen=True)
class StatementResult:
    """
    What one statement answered.

    :param query_id: the query in Snowflake's history
    :param rows: the rows, by column name as Snowflake spells it, with Python values
    """

    query_id: str
    rows: list[dict[str, Any]]


class DataShareSnowflakeHook(SnowflakeSqlApiHook):
    """
    The provider's hook of the SQL API, without the gaps that a repeatable load falls into (provider 6.20.0).

    - ``host``, ``port`` and ``protocol`` of the connection's extras are honoured; the provider always calls
      ``https://<account>.snowflakecomputing.com``.
    - Each statement has a request id that the caller can derive from the step, and is sent with ``retry=true``: when an
      answer is lost, the repeated request finds the running statement instead of starting it again.
    - Statements carry a query tag, and run in UTC whatever the time zone of the account is.
    - Rows come back as Python values; the provider logs them, or returns text.
    - A refused request (401, 400, ...) says what Snowflake said; the provider shows the status code alone.
    - HTTP calls have a time-out.
    - Statements of any length can be told apart.
    - :meth:`stop` ends also a statement whose handle is not known yet; the provider can cancel none without it.

    :param snowflake_conn_id: Airflow connection
    :param query_tag: says in Snowflake's query history where a statement comes from; JSON-serialisable
    :param statement_timeout: seconds after which Snowflake stops a request
    """

    def __init__(
        self,
        snowflake_conn_id: str,
        *,
        query_tag: Mapping[str, Any] | None = None,
        statement_timeout: int = STATEMENT_TIMEOUT_SECONDS,
        **kwargs: Any,
    ) -> None:
        super().__init__(snowflake_conn_id, http_request_kwargs={"timeout": _HTTP_TIMEOUT_SECONDS}, **kwargs)
        self.query_tag = dict(query_tag or {})
        self.statement_timeout = statement_timeout
        self.is_stopped = False
        self._unanswered: tuple[dict[str, str], dict[str, Any]] | None = None
        self._running = ""

    @staticmethod
    def split_sql_string(sql: str, strip_semicolon: bool = False) -> list[str]:
        """
        Return the statements of a file, without comments.

        The provider's gives up at 10,000 tokens in a statement, which the MERGE of a table with 600 columns has, and
        takes a backslash before the end of a quoted name for an escape.
        """
        statements = [""]
        for token in _SQL_TOKEN.finditer(sql):
            if token.lastgroup == "comment":
                statements[-1] += "\n"
            else:
                statements[-1] += token[0]
                if token[0] == ";":
                    statements.append("")
        return [
            statement
            for text in statements
            if (statement := (text.rstrip().removesuffix(";") if strip_semicolon else text).strip())
        ]

    @cached_property
    def statements_url(self) -> str:
        """Address of the SQL API's statements."""
        extra = self.get_connection(self.get_conn_id()).extra_dejson
        if extra.get("host"):
            port = f":{extra['port']}" if extra.get("port") else ""
            return f"{extra.get('protocol', 'https')}://{extra['host']}{port}/api/v2/statements"
        return f"{self.account_identifier}.snowflakecomputing.com/api/v2/statements"

    @property
    def role_name(self) -> str:
        """The role that the statements run with."""
        return str(self.role or self._get_static_conn_params["role"])

    def asset_uri(self, table: str) -> str:
        """Return the address of a table as an Airflow asset: ``snowflake://<account>/<database>/<schema>/<table>``."""
        connection = self._get_conn_params()
        given = [quote(shown(part), safe="") for part in table_parts(table)]
        ahead = [connection["account"], *[connection["database"], connection["schema"]][: 3 - len(given)]]
        return "/".join([f"snowflake://{'/'.join(map(str, ahead))}".lower(), *given])

    def query_page_url(self, query_id: str) -> str:
        """Return the page of a query in Snowflake's web interface."""
        connection = self._get_static_conn_params
        return snowsight_url(str(connection["account"]), connection["region"], query_id)

    def run_statement(
        self,
        sql: str,
        *,
        request_id: uuid.UUID | None = None,
        bindings: Sequence[str] = (),
    ) -> StatementResult:
        """
        Run one statement and wait for its end.

        :param sql: one statement
        :param request_id: the same for each repetition of the same step; a new one by default
        :param bindings: text values of the ``?`` in the statement, in their order
        :raises SnowflakeStatementError: the statement failed
        :raises SnowflakeRefusedError: the request was not accepted
        """
        handle = self._submit(sql, 1, request_id, bindings)
        answer = self._wait(handle)
        return StatementResult(query_id=handle, rows=self._rows(handle, answer))

    def run_transaction(self, statements: Sequence[str], *, request_id: uuid.UUID | None = None) -> None:
        """
        Run several statements in one request, hence in one session, and wait for the end of the last.

        Snowflake stops at the first error and ends the session, which rolls an open transaction back.

        :param statements: from BEGIN to COMMIT
        :param request_id: the same for each repetition of the same step; a new one by default
        :raises SnowflakeStatementError: one of the statements failed; nothing of the transaction remains
        :raises SnowflakeRefusedError: the request was not accepted
        """
        self._wait(self._submit(";\n".join(statements) + ";", len(statements), request_id, ()))

    def stop(self) -> None:
        """
        Cancel the statement that runs, and submit no other while ``is_stopped``: for a step that is killed.

        A signal handler calls this in the middle of anything. A statement whose submission is not answered yet is
        submitted again, as the same request: the answer is its handle, and nothing is started twice.
        """
        self.is_stopped = True
        handle = self._running
        if self._unanswered is not None:
            _, answer = self._call("POST", self.statements_url, *self._unanswered)
            handle = str(answer.get("statementHandle", ""))
        if handle:
            self._cancel(handle)

    def get_records(self, sql: str | list[str], parameters: Any = None) -> list[tuple[Any, ...]]:
        """Return the rows of one query as tuples: what the SQL check operators ask a hook for."""
        if not isinstance(sql, str) or parameters:
            raise TypeError("get_records takes one statement without parameters here")
        return [tuple(row.values()) for row in self.run_statement(sql).rows]

    def get_request_url_header_params(
        self, query_id: str, url_suffix: str | None = None
    ) -> tuple[dict[str, Any], dict[str, Any], str]:
        """Return headers, parameters and address of a call about a statement; the provider's methods use it too."""
        url = f"{self.statements_url}/{query_id}{url_suffix or ''}"
        return self.get_headers(), {"requestId": str(uuid.uuid4())}, url

    def _submit(
        self,
        sql: str,
        statement_count: int,
        request_id: uuid.UUID | None,
        bindings: Sequence[str],
    ) -> str:
        with _as_share_errors():
            # Of a connection with OAuth, this asks for the token.
            connection = self._get_conn_params()
        body: dict[str, Any] = {
            "statement": sql,
            "timeout": self.statement_timeout,
            "database": self.database or connection["database"],
            "schema": self.schema or connection["schema"],
            "warehouse": self.warehouse or connection["warehouse"],
            "role": self.role or connection["role"],
            "bindings": {str(n): {"type": "TEXT", "value": value} for n, value in enumerate(bindings, start=1)},
            "parameters": {
                # In the spelling of the SQL API's reference. Of this one, the guide to several statements and the
                # provider have another, and only that is known from requests that work.
                "MULTI_STATEMENT_COUNT": str(statement_count),
                "query_tag": json.dumps(self.query_tag, separators=(",", ":")),
                # Times are loaded, compared and shown in UTC, whatever the account's default is.
                "timezone": "UTC",
            },
        }
        body = {name: value for name, value in body.items() if value not in (None, "", {})}
        # The provider repeats a call as it was first sent, so the first one says `retry` too.
        params = {"requestId": str(request_id or uuid.uuid4()), "async": "true", "retry": "true"}
        # In this order: `stop` may come between any two of these lines.
        self._unanswered = params, body
        if self.is_stopped:
            raise SnowflakeStoppedError("This step was ended from outside, before its next statement.")
        status, answer = self._call("POST", self.statements_url, params, body)
        self._running = handle = str(answer.get("statementHandle", ""))
        self._unanswered = None
        self.query_ids = [handle] if handle else []
        if status == _FAILED or not handle:
            raise _statement_error(answer, handle)
        self.log.info("Snowflake query %s:\n%s", handle, sql.strip())
        return handle

    def _wait(self, handle: str) -> dict[str, Any]:
        deadline = time.monotonic() + self.statement_timeout + _ANSWER_MARGIN_SECONDS
        wait = _FIRST_POLL_SECONDS
        while True:
            status, answer = self._call("GET", f"{self.statements_url}/{handle}")
            if status != _RUNNING:
                self._running = ""
            if status in (_FAILED, _STOPPED) and self.is_stopped:
                raise SnowflakeStoppedError(
                    "This step was ended from outside, and its statement was cancelled.", snowflake_query_id=handle
                )
            if status in (_FAILED, _STOPPED):
                raise _statement_error(answer, handle)
            if status != _RUNNING:
                return answer
            if time.monotonic() > deadline:
                try:
                    self._cancel(handle)
                    outcome = "it was cancelled"
                except ShareError as error:
                    outcome = f"it could not be cancelled: {error.message.rstrip('.')}"
                raise SnowflakeTransientError(
                    f"Snowflake has not ended query {handle} {_ANSWER_MARGIN_SECONDS} s after its time-out of "
                    f"{self.statement_timeout} s; {outcome}.",
                    snowflake_query_id=handle,
                )
            self._pause(wait)
            wait = min(wait * _POLL_BACKOFF, _LONGEST_POLL_SECONDS)

    def _cancel(self, handle: str) -> None:
        self._call("POST", f"{self.statements_url}/{handle}/cancel")

    def _pause(self, seconds: float) -> None:
        """Sleep, in pieces: a step that is killed has five seconds to hear what became of its statement."""
        pieces = math.ceil(seconds / _LONGEST_SLEEP_SECONDS)
        for _ in range(pieces):
            if self.is_stopped:
                break
            time.sleep(seconds / pieces)

    def _rows(self, handle: str, answer: dict[str, Any]) -> list[dict[str, Any]]:
        metadata = answer.get("resultSetMetaData", {})
        columns = metadata.get("rowType", [])
        data = list(answer.get("data", []))
        for partition in range(1, len(metadata.get("partitionInfo", []))):
            _, more = self._call("GET", f"{self.statements_url}/{handle}", {"partition": str(partition)})
            data.extend(more.get("data", []))
        return [
            {column["name"]: _python_value(column, text) for column, text in zip(columns, row, strict=True)}
            for row in data
        ]

    def _call(
        self, method: str, url: str, params: dict[str, str] | None = None, body: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        with _as_share_errors():
            try:
                return self._make_api_call_with_retries(method, url, self.get_headers(), params, body)  # type: ignore[no-any-return]
            except requests.exceptions.HTTPError as error:
                if error.response.status_code == _STOPPED:
                    return _STOPPED, error.response.json()
                raise


@contextlib.contextmanager
def _as_share_errors() -> Iterator[None]:
    """Make of what goes wrong in a call what went wrong with Snowflake."""
    try:
        yield
    except requests.exceptions.HTTPError as error:
        response = error.response
        if response.status_code == 429 or response.status_code >= 500:
            raise SnowflakeTransientError(_why_refused(response)) from error
        signed_in = response.status_code not in (401, 403)
        code = FailureCode.SNOWFLAKE_REFUSED if signed_in else FailureCode.SNOWFLAKE_SIGN_IN
        raise SnowflakeRefusedError(_why_refused(response), code=code) from error
    except requests.exceptions.JSONDecodeError as error:
        raise SnowflakeTransientError(f"What answers in the place of Snowflake sends no JSON: {error}.") from error
    except requests.exceptions.RequestException as error:
        raise SnowflakeTransientError(f"Snowflake does not answer: {error}.") from error


def request_id(*parts: object) -> uuid.UUID:
    """Return the request id of a step: the same for the same parts."""
    return uuid.uuid5(uuid.NAMESPACE_URL, "data-share:" + "/".join(str(part) for part in parts))


def _statement_error(answer: dict[str, Any], handle: str) -> SnowflakeStatementError | SnowflakeTransientError:
    code = str(answer.get("code", "?"))
    query_id = answer.get("statementHandle") or handle or None
    message = f"Snowflake: {str(answer.get('message', 'no message')).strip()} (code {code}, query id {query_id})."
    may_pass = code in _TRANSIENT_CODES or (
        code == _SEVERAL_STATEMENTS_FAILED and any(words in message for words in _TRANSIENT_WORDS)
    )
    if may_pass:
        return SnowflakeTransientError(message, snowflake_query_id=query_id)
    is_late = code == _TIMED_OUT_CODE or (code == _SEVERAL_STATEMENTS_FAILED and _TIMED_OUT_WORDS in message)
    reason = FailureCode.LOAD_TIMED_OUT if is_late else FailureCode.SNOWFLAKE_STATEMENT_FAILED
    return SnowflakeStatementError(message, code=reason, snowflake_query_id=query_id)


def _why_refused(response: requests.Response) -> str:
    try:
        answer = response.json()
        said = f"{answer.get('message', '')} (code {answer.get('code', '?')})"
    except ValueError:
        said = response.reason
    return f"Snowflake refuses the request with HTTP {response.status_code}: {said}."


_EPOCH_DAY = date(1970, 1, 1)
# Naive: TIMESTAMP_NTZ has no time zone.
_EPOCH = datetime(1970, 1, 1)


def _python_value(column: Mapping[str, Any], text: str | None) -> Any:
    """Convert a value as the SQL API encodes it; see "Handling responses" in Snowflake's SQL API guide."""
    if text is None:
        return None
    kind = str(column["type"]).lower()
    if kind == "fixed":
        return Decimal(text) if column.get("scale") else int(text)
    if kind in ("real", "float"):
        return float(text)
    if kind == "boolean":
        return text.lower() in ("true", "1")
    if kind == "date":
        return _EPOCH_DAY + timedelta(days=int(text))
    if kind == "timestamp_ntz":
        return _EPOCH + timedelta(microseconds=int(Decimal(text) * 1_000_000))
    if kind in ("timestamp_ltz", "timestamp_tz"):
        # TIMESTAMP_TZ adds the offset after a blank; the instant is what counts here.
        return _EPOCH.replace(tzinfo=UTC) + timedelta(microseconds=int(Decimal(text.split(" ")[0]) * 1_000_000))
    return text
