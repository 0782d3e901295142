"""A hook for Snowflake's SQL API: submits statements, waits for them, retries calls and cancels at a kill."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import random
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any, NamedTuple, NoReturn
from urllib.parse import quote

import requests
from airflow.providers.snowflake.hooks.sql_api import SnowflakeSqlApiHook
from airflow.providers.snowflake.utils.openlineage import fix_account_name
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from data_share.outcome.classify import is_certificate_error, seconds_to_wait
from data_share.outcome.codes import FailureCode
from data_share.outcome.metrics import count_request
from data_share.outcome.report import ShareError
from data_share.snowflake.connection import account_of, address_of, private_key_of
from data_share.snowflake.links import snowsight_url
from data_share.sql_text import shown, table_parts

STATEMENT_TIMEOUT_SECONDS = 3600
"""Default time-out of a statement, after which Snowflake cancels it."""

_HTTP_TIMEOUT_SECONDS = 60
# Snowflake ends a statement at its time-out. If it does not report the end, the step stops waiting this much later.
_ANSWER_MARGIN_SECONDS = 60
# Looks after 0.125 s, 0.25, 0.43, 0.67, 1.0, 1.5, 2.2, ...: one or two for a short statement, and few for a long one.
_FIRST_POLL_SECONDS = 0.125
_MAX_POLL_SECONDS = 5.0
_POLL_BACKOFF = 1.4
_MAX_SLEEP_SECONDS = 0.2
_DONE = 200
_RUNNING = 202
_FAILED = 422
_TIMED_OUT = 408
_TOO_MANY_REQUESTS = 429
# "Snowflake SQL API reference": the status for an invalid certificate.
_INVALID_CERTIFICATE = 522

# Snowflake counts as unavailable after so many failed calls in a row: after two to four minutes.
_TRIES = 10
_FIRST_BACKOFF_SECONDS = 1.0
_MAX_BACKOFF_SECONDS = 30.0
_MAX_RETRY_AFTER_SECONDS = 120.0
# Calls to cancel a statement that the step stops waiting for.
_CANCEL_TRIES = 3
# Calls to cancel a statement at a kill. They must fit in five seconds: then SIGKILL follows Airflow's SIGTERM.
_STOP_TRIES = 5
_STOP_PAUSE_SECONDS = 0.3

# Comments, strings, quoted names, and the rest. A backslash escapes in a string, but not in a quoted name.
_SQL_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|//[^\n]*|/\*.*?\*/)|'(?:[^'\\]|''|\\.)*'|"(?:[^"]|"")*"|\$\$.*?\$\$|[^-/'"$;]+|.""",
    re.DOTALL,
)

# Errors that may not occur again: an internal error of Snowflake, and a lock that another statement did not release in
# time. If one of several statements fails, the code is the same for all reasons: then the message text decides.
_TRANSIENT_CODES = frozenset({"000603", "000625"})
_SEVERAL_STATEMENTS_FAILED = "100132"
_TRANSIENT_WORDS = ("SQL execution internal error", "this lock has not yet been released")
_TIMED_OUT_CODE = "000630"
_TIMED_OUT_WORDS = "Statement reached its statement or warehouse timeout"


class SnowflakeStatementError(ShareError, AirflowFailException):
    """Snowflake reported an error of a statement: another attempt would fail in the same way."""

    code = FailureCode.SNOWFLAKE_STATEMENT_FAILED


class SnowflakeTransientError(ShareError, AirflowException):
    """
    Snowflake did not answer, or a statement failed for a temporary reason: another attempt may succeed.

    :param retry_after: seconds to wait before the next call, as Snowflake's ``Retry-After`` says
    """

    code = FailureCode.SNOWFLAKE_UNAVAILABLE

    def __init__(self, message: str, *, retry_after: float = 0.0, **details: Any) -> None:
        super().__init__(message, **details)
        self.retry_after = retry_after


class SnowflakeRefusedError(ShareError, AirflowFailException):
    """Snowflake rejects the request itself, e.g. because of its credentials."""

    code = FailureCode.SNOWFLAKE_REFUSED


class SnowflakeStoppedError(ShareError, AirflowException):
    """The step was ended from outside, so it submits no more statements; Airflow may retry it if its worker died."""

    code = FailureCode.CANCELLED


class _Answer(NamedTuple):
    status: int
    body: dict[str, Any]
    retry_after: float = 0.0

    @property
    def handle(self) -> str:
        return str(self.body.get("statementHandle") or "")


class _Submission:
    """
    A request to execute statements, which may be sent several times.

    :param request_id: the same each time, so that Snowflake recognises the repetition
    :param body: the JSON body
    :param is_long: whether Snowflake answers at once with a handle; if not, it answers with the result, or after 45
        seconds with a handle ("Submitting a request to execute SQL statements" in the guide to the SQL API)
    """

    def __init__(self, request_id: uuid.UUID | None, body: dict[str, Any], *, is_long: bool) -> None:
        self.body = body
        self.is_sent = False
        self._params = {"requestId": str(request_id or uuid.uuid4()), **({"async": "true"} if is_long else {})}

    def ask_for_handle(self) -> None:
        """From now on, make Snowflake answer at once with the handle: nobody waits for the result any more."""
        self._params["async"] = "true"

    def params(self) -> dict[str, str]:
        """Return the query parameters for the next call, and note that the request is sent."""
        # Only repetitions have `retry`: with it, Snowflake searches its history for the request.
        params = {**self._params, **({"retry": "true"} if self.is_sent else {})}
        self.is_sent = True
        return params


@dataclass(frozen=True)
class StatementResult:
    """
    The result of one statement.

    :param query_id: id of the query in Snowflake's history
    :param rows: rows with Python values, by column name as Snowflake spells it
    """

    query_id: str
    rows: list[dict[str, Any]]


class DataShareSnowflakeHook(SnowflakeSqlApiHook):
    """
    The provider's hook for the SQL API (6.20.0), without the gaps that make its loads unsafe to repeat.

    - It uses ``host``, ``port`` and ``protocol`` of the connection's extras. The provider always calls
      ``https://<account>.snowflakecomputing.com``, which fails TLS if the account has an underscore.
    - Each statement has a request id that the caller can derive from the step. If an answer is lost, the request is
      sent again with ``retry=true``: Snowflake then returns the running statement instead of starting it again.
    - A call that fails with 429, 5xx or a lost connection is made up to ten times, with growing pauses or those of
      ``Retry-After``; the provider makes five calls, and only one after 500 or 502. A statement that the step stops
      waiting for is cancelled.
    - Statements have a query tag, and run in UTC in every account.
    - It returns rows as Python values; the provider logs them, or returns text.
    - The error for a refused request (401, 400, ...) has Snowflake's message; the provider's has only the status code.
      The error for an unreadable key says what is wrong with it.
    - HTTP calls have a time-out.
    - It splits files with statements of any length.
    - :meth:`stop` cancels even a statement whose handle is not known yet; the provider cannot.

    :param snowflake_conn_id: Airflow connection
    :param query_tag: shown in Snowflake's query history with each statement; JSON-serialisable
    :param statement_timeout: seconds after which Snowflake cancels a statement
    :param tries: failed calls in a row after which Snowflake counts as unavailable
    """

    def __init__(
        self,
        snowflake_conn_id: str,
        *,
        query_tag: Mapping[str, Any] | None = None,
        statement_timeout: int = STATEMENT_TIMEOUT_SECONDS,
        tries: int = _TRIES,
        **kwargs: Any,
    ) -> None:
        super().__init__(snowflake_conn_id, http_request_kwargs={"timeout": _HTTP_TIMEOUT_SECONDS}, **kwargs)
        self.query_tag = dict(query_tag or {})
        self.statement_timeout = statement_timeout
        self.is_stopped = False
        self.statement_seconds = 0.0
        """Seconds that all statements so far have taken, from their submission to their end."""
        self._tries = tries
        self._http = requests.Session()
        self._pending_submission: _Submission | None = None
        self._running_handle = ""
        self._cancelled_handle = ""

    @staticmethod
    def split_sql_string(sql: str, strip_semicolon: bool = False) -> list[str]:
        """
        Return the statements of a file, without comments.

        The provider's method fails at 10,000 tokens in a statement, as in the MERGE of a table with 600 columns, and
        treats a backslash at the end of a quoted name as an escape.
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
        """
        Address of the SQL API's statements.

        :raises InvalidConnectionError: the connection names no valid account or host
        """
        return f"{address_of(self.get_connection(self.get_conn_id()).extra_dejson)}/api/v2/statements"

    @cached_property
    def _get_static_conn_params(self) -> dict[str, str | None]:
        # The provider builds tokens, addresses and links from this account and region.
        params = super()._get_static_conn_params
        if params["account"]:
            account = account_of(str(params["account"]), str(params["region"] or ""))
            params = {**params, "account": account.identifier, "region": account.region}
        if params["authenticator"] == "oauth" and not params.get("token_endpoint") and not params.get("azure_conn_id"):
            params["token_endpoint"] = self.statements_url.replace("/api/v2/statements", "/oauth/token-request")
        return params

    def get_private_key(self) -> RSAPrivateKey | None:
        """
        Return the private key to sign in with, or None if the connection signs in without a key.

        :raises InvalidConnectionError: the key cannot be read, or Snowflake does not accept such a key
        """
        return self._private_key

    @cached_property
    def _private_key(self) -> RSAPrivateKey | None:
        # Kept: the provider asks twice.
        connection = self.get_connection(self.get_conn_id())
        return private_key_of(connection.extra_dejson, connection.password)

    @property
    def role_name(self) -> str:
        """The role that the statements run with."""
        return str(self.role or self._get_static_conn_params["role"])

    def asset_uri(self, table: str) -> str:
        """Return the URI of a table as an Airflow asset: ``snowflake://<account>/<database>/<schema>/<table>``."""
        connection = self._get_static_conn_params
        given = [quote(shown(part), safe="") for part in table_parts(table)]
        ahead = [connection["account"], *[connection["database"], connection["schema"]][: 3 - len(given)]]
        return "/".join([f"snowflake://{'/'.join(map(str, ahead))}".lower(), *given])

    def full_name(self, table: str) -> list[str]:
        """Return the stored names of a table's database and schema, as Snowflake completes them, and of the table."""
        connection, given = self._get_static_conn_params, table_parts(table)
        return [*map(str, [connection["database"], connection["schema"]][: 3 - len(given)]), *given]

    @property
    def lineage_account(self) -> str:
        """The account as OpenLineage's names of datasets have it, by the provider's own rule."""
        connection = self._get_static_conn_params
        account = ".".join(str(part) for part in (connection["account"], connection["region"]) if part)
        return fix_account_name(account).lower()

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
        is_long: bool = False,
    ) -> StatementResult:
        """
        Run one statement and wait for its end.

        :param sql: one statement
        :param request_id: the same for each repetition of the same step; a new one by default
        :param bindings: text values for the ``?`` in the statement, in their order
        :param is_long: whether Snowflake must return the handle at once, so that a kill can cancel the statement: for
            statements that move data
        :raises SnowflakeStatementError: the statement failed
        :raises SnowflakeRefusedError: the request was not accepted
        """
        with self._timed():
            answer = self._submit_statement(sql, request_id=request_id, bindings=bindings, is_long=is_long)
            body = self.wait(answer.handle) if answer.status == _RUNNING else answer.body
        return StatementResult(query_id=answer.handle, rows=self._rows(answer.handle, body))

    def run_statements(
        self, statements: Sequence[str], *, request_id: uuid.UUID | None = None, is_long: bool = False
    ) -> list[str]:
        """
        Run several statements in one request, so in one session; return their handles, for :meth:`result_of`.

        At the first error, Snowflake stops and ends the session, which rolls an open transaction back. What was done
        outside of a transaction remains.

        :param statements: at least two, without bindings
        :param request_id: the same for each repetition of the same step; a new one by default
        :param is_long: as in :meth:`run_statement`
        :raises SnowflakeStatementError: one of the statements failed
        :raises SnowflakeRefusedError: the request was not accepted
        """
        with self._timed():
            answer = self._submit_statement(
                ";\n".join(statements) + ";", statement_count=len(statements), request_id=request_id, is_long=is_long
            )
            body = self.wait(answer.handle) if answer.status == _RUNNING else answer.body
        return list(body["statementHandles"])

    def result_of(self, handle: str) -> StatementResult:
        """
        Return the result of a statement that has ended.

        :param handle: from :meth:`run_statements`
        :raises SnowflakeRefusedError: the request was not accepted
        """
        answer = self._retry(lambda: self._get(handle), self._deadline())
        return StatementResult(query_id=handle, rows=self._rows(handle, answer.body))

    def stop(self) -> None:
        """
        Cancel the running statement at a kill of the step, and submit no others while ``is_stopped``.

        A signal handler calls this, so any other method of this object may be interrupted in the middle. To learn the
        handle of a statement that was sent but not answered, it sends the same request again: nothing starts twice.
        """
        self.is_stopped = True
        handle = self._running_handle
        submission = self._pending_submission
        if submission is not None and submission.is_sent:
            submission.ask_for_handle()
            handle = self._retry_quickly(lambda: self._send(submission)).handle
        if handle:
            self._retry_quickly(lambda: self._cancel(handle))

    def get_request_url_header_params(
        self, query_id: str, url_suffix: str | None = None
    ) -> tuple[dict[str, Any], dict[str, Any], str]:
        """Return headers, parameters and address for a call about a statement, as the provider's methods need them."""
        url = f"{self.statements_url}/{query_id}{url_suffix or ''}"
        return self.get_headers(), {"requestId": str(uuid.uuid4())}, url

    def submit(self, sql: str, *, statement_count: int = 1, request_id: uuid.UUID | None = None) -> str:
        """
        Submit a statement, and return its handle, which is also its query id, without waiting for its end.

        :param sql: one statement, or several
        :param statement_count: number of statements
        :param request_id: the same for each repetition of the same step; a new one by default
        :raises SnowflakeStatementError: the statement failed at once
        :raises SnowflakeRefusedError: the request was not accepted
        :raises SnowflakeTransientError: Snowflake does not answer; the statement is cancelled in case it runs
        """
        return self._submit_statement(sql, statement_count=statement_count, request_id=request_id, is_long=True).handle

    def _submit_statement(
        self,
        sql: str,
        *,
        statement_count: int = 1,
        request_id: uuid.UUID | None = None,
        bindings: Sequence[str] = (),
        is_long: bool,
    ) -> _Answer:
        """Submit a statement, and return the answer: with its result if it has ended, else with its handle."""
        connection = self._get_static_conn_params
        body: dict[str, Any] = {
            "statement": sql,
            "timeout": self.statement_timeout,
            "database": self.database or connection["database"],
            "schema": self.schema or connection["schema"],
            "warehouse": self.warehouse or connection["warehouse"],
            "role": self.role or connection["role"],
            "bindings": {str(n): {"type": "TEXT", "value": value} for n, value in enumerate(bindings, start=1)},
            "parameters": {
                # In upper case, as in the guide to several statements and in the provider, whose requests are known to
                # work. The SQL API's reference spells the parameters in lower case, as below.
                "MULTI_STATEMENT_COUNT": str(statement_count),
                "query_tag": json.dumps(self.query_tag, separators=(",", ":")),
                # Overrides the account's default: times are loaded, compared and shown in UTC.
                "timezone": "UTC",
            },
        }
        submission = _Submission(
            request_id, {name: value for name, value in body.items() if value not in (None, "", {})}, is_long=is_long
        )
        # The order matters: the signal handler may call `stop` between any two of these lines.
        self._pending_submission = submission
        try:
            answer = self._retry(self._unless_stopped(lambda: self._send(submission)), self._deadline())
        except SnowflakeTransientError as error:
            self._cancel_submission_and_raise(submission, error)
        finally:
            self._pending_submission = None
        handle = answer.handle
        self._running_handle = handle if answer.status == _RUNNING else ""
        self.query_ids = [handle] if handle else []
        if answer.status in (_FAILED, _TIMED_OUT) and self.is_stopped:
            raise _stopped_error(handle)
        if answer.status in (_FAILED, _TIMED_OUT) or not handle:
            raise _statement_error(answer.body, handle)
        if answer.status == _RUNNING and self.is_stopped and handle != self._cancelled_handle:
            # The signal came just before the request was sent, so `stop` could not cancel this statement.
            self._retry_quickly(lambda: self._cancel(handle))
        self.log.info("Snowflake query %s:\n%s", handle, sql.strip())
        return answer

    def wait(self, handle: str) -> dict[str, Any]:
        """
        Wait for the end of a submitted statement, and return the answer with its result.

        :param handle: handle of the statement
        :raises SnowflakeStatementError: the statement failed
        :raises SnowflakeTransientError: Snowflake does not answer, or the statement does not end; it is cancelled
        """
        deadline = self._deadline()
        wait = _FIRST_POLL_SECONDS
        self._pause(wait)
        while True:
            try:
                answer = self._retry(lambda: self._poll(handle), deadline)
            except (SnowflakeTransientError, SnowflakeRefusedError) as error:
                self._cancel_and_raise(handle, error)
            if answer.status != _RUNNING:
                self._running_handle = ""
            if answer.status in (_FAILED, _TIMED_OUT) and self.is_stopped:
                raise _stopped_error(handle)
            if answer.status in (_FAILED, _TIMED_OUT):
                raise _statement_error(answer.body, handle)
            if answer.status != _RUNNING:
                return answer.body
            if time.monotonic() > deadline:
                raise SnowflakeTransientError(
                    f"Snowflake has not ended query {handle} {_ANSWER_MARGIN_SECONDS} s after its time-out of "
                    f"{self.statement_timeout} s; {self._try_to_cancel(handle)}.",
                    snowflake_query_id=handle,
                )
            asked = min(answer.retry_after, _MAX_RETRY_AFTER_SECONDS, deadline - time.monotonic())
            self._pause(max(wait, asked))
            wait = min(wait * _POLL_BACKOFF, _MAX_POLL_SECONDS)

    # ---- one call

    def _send(self, submission: _Submission) -> _Answer:
        return self._call("post", self.statements_url, submission.params, submission.body)

    def _unless_stopped(self, call: Callable[[], _Answer]) -> Callable[[], _Answer]:
        def checked() -> _Answer:
            if self.is_stopped:
                raise SnowflakeStoppedError("This step was ended from outside, before its next statement.")
            return call()

        return checked

    def _poll(self, handle: str) -> _Answer:
        answer = self._call("get", f"{self.statements_url}/{handle}", accepted={_TOO_MANY_REQUESTS})
        if answer.status != _TOO_MANY_REQUESTS:
            return answer
        if answer.handle:
            # "Handling responses": Snowflake answers 202 or 429 while the statement is still running.
            return answer._replace(status=_RUNNING)
        raise SnowflakeTransientError(
            _refusal_message(answer.status, answer.body, "Too many requests"), retry_after=answer.retry_after
        )

    def _get(self, handle: str, part: int = 0) -> _Answer:
        """Return a part of a finished result."""
        answer = self._call("get", f"{self.statements_url}/{handle}", lambda: {"partition": str(part)} if part else {})
        if answer.status == _RUNNING:
            raise SnowflakeTransientError(f"Snowflake does not return part {part} of a finished result.")
        if answer.status != _DONE:
            raise _statement_error(answer.body, handle)
        return answer

    def _cancel(self, handle: str) -> _Answer:
        answer = self._call("post", f"{self.statements_url}/{handle}/cancel")
        self._cancelled_handle = handle
        return answer

    def _call(
        self,
        method: str,
        url: str,
        params: Callable[[], dict[str, str]] | None = None,
        body: dict[str, Any] | None = None,
        *,
        accepted: frozenset[int] | set[int] = frozenset(),
    ) -> _Answer:
        """
        Make one HTTP call.

        :param params: returns the query parameters; called just before sending, as a signal may change them until then
        :param accepted: error statuses to return instead of raising, in addition to those of a failed statement
        :raises SnowflakeTransientError: the call failed, and may succeed if it is repeated
        :raises SnowflakeRefusedError: Snowflake refuses the call, and would refuse it again
        """
        with _as_share_errors():
            headers = self.get_headers()
            try:
                response = self._http.request(
                    method=method,
                    url=url,
                    headers=headers,
                    params=params() if params else None,
                    json=body,
                    timeout=_HTTP_TIMEOUT_SECONDS,
                )
            except requests.exceptions.RequestException:
                count_request("snowflake", None)
                raise
            count_request("snowflake", response.status_code)
            retry_after = seconds_to_wait(response.headers.get("Retry-After"))
            if response.status_code in accepted or response.status_code in (_FAILED, _TIMED_OUT):
                return _Answer(response.status_code, _json_of(response), retry_after)
            response.raise_for_status()
            return _Answer(response.status_code, response.json(), retry_after)

    # ---- retries and cancelling

    def _deadline(self) -> float:
        return time.monotonic() + self.statement_timeout + _ANSWER_MARGIN_SECONDS

    def _retry(self, call: Callable[[], _Answer], deadline: float, tries: int | None = None) -> _Answer:
        """
        Make a call, and repeat it with growing pauses while it fails with a transient error.

        :param deadline: time of the monotonic clock after which the call is not repeated
        :param tries: maximum number of calls; by default, that of the hook
        :raises SnowflakeTransientError: the error of the last call
        """
        backoff = _FIRST_BACKOFF_SECONDS
        failures = 0
        while True:
            try:
                return call()
            except SnowflakeTransientError as error:
                failures += 1
                left = deadline - time.monotonic()
                if self.is_stopped or failures >= (tries or self._tries) or left <= 0:
                    raise
                asked = min(error.retry_after, _MAX_RETRY_AFTER_SECONDS)
                # Random, so that steps that failed together do not all retry at the same time.
                pause = min(max(backoff * random.uniform(1, 1.5), asked), left)  # noqa: S311 - no secret
                self.log.warning("%s The call is made again in %.1f s", error.message, pause)
            self._pause(pause)
            backoff = min(backoff * 2, _MAX_BACKOFF_SECONDS)

    def _retry_quickly(self, call: Callable[[], _Answer]) -> _Answer:
        """Make a call, and repeat it with short pauses: a killed step has only a few seconds left."""
        for _ in range(_STOP_TRIES - 1):
            try:
                return call()
            except SnowflakeTransientError:
                time.sleep(_STOP_PAUSE_SECONDS)
        return call()

    def _cancel_and_raise(self, handle: str, error: SnowflakeTransientError | SnowflakeRefusedError) -> NoReturn:
        """Stop waiting for a statement that Snowflake no longer reports on: cancel it, and raise the error."""
        if self.is_stopped:
            raise SnowflakeStoppedError(
                "This step was ended from outside; the outcome of its statement is unknown.",
                snowflake_query_id=handle,
            ) from error
        raise type(error)(
            f"{error.message.rstrip('.')}; the step stopped waiting for query {handle}, and "
            f"{self._try_to_cancel(handle)}.",
            code=error.code,
            snowflake_query_id=handle,
        ) from error

    def _cancel_submission_and_raise(self, submission: _Submission, error: SnowflakeTransientError) -> NoReturn:
        """
        Cancel a statement that may be running because the answer to its submission was lost, and raise the error.

        Only the same request returns its handle. If the statement was never executed, this starts it and cancels it at
        once; as after any lost answer, the next attempt of the step finds its work either done or not done.
        """
        if self.is_stopped:
            raise SnowflakeStoppedError("This step was ended from outside while it submitted a statement.") from error
        if not submission.is_sent:
            # It was never sent, e.g. because there was no token, so there is nothing to cancel.
            raise error
        submission.ask_for_handle()
        try:
            handle = self._retry(lambda: self._send(submission), math.inf, _CANCEL_TRIES).handle
            outcome = f"the statement {self._try_to_cancel(handle)[3:]}" if handle else "no statement runs"
        except ShareError:
            outcome = f"if the statement runs, it ends by its time-out of {self.statement_timeout} s"
        raise SnowflakeTransientError(f"{error.message.rstrip('.')}; {outcome}.") from error

    def _try_to_cancel(self, handle: str) -> str:
        """Cancel a statement, and return the outcome as a clause for a message; raises no error of Snowflake."""
        try:
            answer = self._retry(lambda: self._cancel(handle), math.inf, _CANCEL_TRIES)
        except ShareError as error:
            return f"it could not be cancelled: {error.message.rstrip('.')}"
        finally:
            self._running_handle = ""
        return "it was cancelled" if answer.status == _DONE else "it had ended"

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Add the time of a request to :attr:`statement_seconds`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.statement_seconds += time.monotonic() - began

    def _pause(self, seconds: float) -> None:
        """Sleep in short pieces, so that a killed step, which has five seconds left, can go on at once."""
        pieces = max(1, math.ceil(seconds / _MAX_SLEEP_SECONDS))
        for _ in range(pieces):
            time.sleep(seconds / pieces)
            if self.is_stopped:
                break

    def _rows(self, handle: str, answer: dict[str, Any]) -> list[dict[str, Any]]:
        metadata = answer.get("resultSetMetaData", {})
        columns = metadata.get("rowType", [])
        data = list(answer.get("data", []))
        for number in range(1, len(metadata.get("partitionInfo", []))):
            more = self._retry(functools.partial(self._get, handle, number), self._deadline())
            data.extend(more.body.get("data", []))
        return [
            {column["name"]: _python_value(column, text) for column, text in zip(columns, row, strict=True)}
            for row in data
        ]


@contextlib.contextmanager
def _as_share_errors() -> Iterator[None]:
    """Convert the errors of an HTTP call to errors of this module."""
    try:
        yield
    except requests.exceptions.HTTPError as error:
        response = error.response
        message = _refusal_message(response.status_code, _json_of(response), response.reason)
        if response.status_code == _INVALID_CERTIFICATE:
            raise SnowflakeRefusedError(message, code=FailureCode.CERTIFICATE_REFUSED) from error
        if response.status_code == _TOO_MANY_REQUESTS or response.status_code >= 500:
            retry_after = seconds_to_wait(response.headers.get("Retry-After"))
            raise SnowflakeTransientError(message, retry_after=retry_after) from error
        signed_in = response.status_code not in (401, 403)
        code = FailureCode.SNOWFLAKE_REFUSED if signed_in else FailureCode.SNOWFLAKE_SIGN_IN
        raise SnowflakeRefusedError(message, code=code) from error
    except requests.exceptions.JSONDecodeError as error:
        raise SnowflakeTransientError(
            f"The answer from Snowflake's address is not JSON; it may come from a proxy: {error}."
        ) from error
    except ValueError as error:
        # The provider raises ValueError if the connection lacks credentials.
        raise SnowflakeRefusedError(f"{str(error).rstrip('.')}.", code=FailureCode.SNOWFLAKE_SIGN_IN) from error
    except OSError as error:
        if is_certificate_error(error):
            raise SnowflakeRefusedError(
                f"Snowflake's certificate is refused: {error}.", code=FailureCode.CERTIFICATE_REFUSED
            ) from error
        if isinstance(error, requests.exceptions.RequestException):
            raise SnowflakeTransientError(f"Snowflake does not answer: {error}.") from error
        raise


def request_id(*parts: object) -> uuid.UUID:
    """Return a request id derived from the parts: equal parts give the same id."""
    return uuid.uuid5(uuid.NAMESPACE_URL, "data-share:" + "/".join(str(part) for part in parts))


def _stopped_error(handle: str) -> SnowflakeStoppedError:
    return SnowflakeStoppedError(
        "This step was ended from outside, and its statement was cancelled.", snowflake_query_id=handle
    )


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


def _json_of(response: requests.Response) -> dict[str, Any]:
    """Return the body of an answer if it is a JSON object, else an empty one."""
    try:
        answer = response.json()
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _refusal_message(status: int, answer: dict[str, Any], reason: str) -> str:
    reported = f"{answer.get('message', '')} (code {answer.get('code', '?')})" if answer else reason
    return f"Snowflake refuses the request with HTTP {status}: {reported}."


_EPOCH_DAY = date(1970, 1, 1)
# Without a time zone, as TIMESTAMP_NTZ has none.
_EPOCH = datetime(1970, 1, 1)


def _python_value(column: Mapping[str, Any], text: str | None) -> Any:
    """Convert a value from the SQL API's text encoding: "Handling responses" in Snowflake's SQL API guide."""
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
        # TIMESTAMP_TZ has the offset after a blank; it is dropped, as the first part already is the instant in UTC.
        return _EPOCH.replace(tzinfo=UTC) + timedelta(microseconds=int(Decimal(text.split(" ")[0]) * 1_000_000))
    return text
