"""Snowflake's SQL API, as this package uses it."""

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
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from data_share.outcome.classify import is_certificate_error, seconds_to_wait
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError
from data_share.snowflake.connection import account_of, address_of, private_key_of
from data_share.snowflake.links import snowsight_url
from data_share.sql_text import shown, table_parts

STATEMENT_TIMEOUT_SECONDS = 3600
"""How long a statement may run when nothing else is said; Snowflake stops it then."""

_HTTP_TIMEOUT_SECONDS = 60
# Snowflake ends a statement at its time-out; when its answer does not come either, the wait ends this much later.
_ANSWER_MARGIN_SECONDS = 60
_FIRST_POLL_SECONDS = 0.05
_LONGEST_POLL_SECONDS = 5.0
_POLL_BACKOFF = 1.5
_LONGEST_SLEEP_SECONDS = 0.2
_DONE = 200
_RUNNING = 202
_FAILED = 422
_STOPPED = 408
_TOO_MANY_REQUESTS = 429
# The page "Snowflake SQL API reference" has it for a certificate.
_INVALID_CERTIFICATE = 522

# So many answers in a row may be missing before Snowflake counts as unavailable: between two and four minutes.
_TRIES = 10
_FIRST_BACKOFF_SECONDS = 1.0
_LONGEST_BACKOFF_SECONDS = 30.0
_LONGEST_RETRY_AFTER_SECONDS = 120.0
# To cancel what is given up.
_CANCEL_TRIES = 3
# To cancel what a kill ends: Airflow's second signal comes five seconds after the first.
_STOP_TRIES = 5
_STOP_PAUSE_SECONDS = 0.3

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
    """
    Snowflake did not answer, or ended a statement for a reason that may have passed at the next attempt.

    :param retry_after: seconds that it asks to wait before that
    """

    code = FailureCode.SNOWFLAKE_UNAVAILABLE

    def __init__(self, message: str, *, retry_after: float = 0.0, **details: Any) -> None:
        super().__init__(message, **details)
        self.retry_after = retry_after


class SnowflakeRefusedError(ShareError, AirflowFailException):
    """Snowflake does not accept the request at all, e.g. because it does not accept the credentials."""

    code = FailureCode.SNOWFLAKE_REFUSED


class SnowflakeStoppedError(ShareError, AirflowException):
    """The step was ended from outside: nothing more is asked of Snowflake. With its worker, it may be tried again."""

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
    A request to execute statements, as often as it has to be made.

    :param request_id: the same each time; by it, Snowflake knows the repetition
    :param body: what is submitted
    :param is_long: whether it is answered at once with a handle; if not, Snowflake answers with the result, or after
        45 seconds with a handle ("Submitting a request to execute SQL statements" in the guide to the SQL API)
    """

    def __init__(self, request_id: uuid.UUID | None, body: dict[str, Any], *, is_long: bool) -> None:
        self.body = body
        self.is_sent = False
        self._params = {"requestId": str(request_id or uuid.uuid4()), **({"async": "true"} if is_long else {})}

    def ask_for_handle(self) -> None:
        """Have it answered at once from now on: nobody waits for the result any more."""
        self._params["async"] = "true"

    def params(self) -> dict[str, str]:
        """Return the parameters of the call that is made now."""
        # Snowflake looks the request up in its history for `retry`, so the first call goes without.
        params = {**self._params, **({"retry": "true"} if self.is_sent else {})}
        self.is_sent = True
        return params


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
      ``https://<account>.snowflakecomputing.com``, where an underscore of the account is no name for TLS.
    - Each statement has a request id that the caller can derive from the step. When an answer is lost, the request is
      made again with ``retry=true``: it finds the running statement instead of starting it again.
    - A call without an answer (429, 500, 502, 503, 504, a lost connection) is made ten times in a row, with growing
      pauses, or those that ``Retry-After`` asks for; the provider makes it five times, and once when the answer is 500
      or 502. What is given up is cancelled.
    - Statements carry a query tag, and run in UTC whatever the time zone of the account is.
    - Rows come back as Python values; the provider logs them, or returns text.
    - A refused request (401, 400, ...) says what Snowflake said; the provider shows the status code alone. A key that
      cannot be read says what is wrong with it.
    - HTTP calls have a time-out.
    - Statements of any length can be told apart.
    - :meth:`stop` ends also a statement whose handle is not known yet; the provider can cancel none without it.

    :param snowflake_conn_id: Airflow connection
    :param query_tag: says in Snowflake's query history where a statement comes from; JSON-serialisable
    :param statement_timeout: seconds after which Snowflake stops a request
    :param tries: how often a call is made until Snowflake counts as unavailable
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
        self._tries = tries
        self._http = requests.Session()
        self._unanswered: _Submission | None = None
        self._running = ""
        self._cancelled = ""

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
        """
        Address of the SQL API's statements.

        :raises InvalidConnectionError: the connection leads to no account
        """
        return f"{address_of(self.get_connection(self.get_conn_id()).extra_dejson)}/api/v2/statements"

    @cached_property
    def _get_static_conn_params(self) -> dict[str, str | None]:
        # The provider takes account and region from here for tokens, addresses and links.
        params = super()._get_static_conn_params
        if params["account"]:
            account = account_of(str(params["account"]), str(params["region"] or ""))
            params = {**params, "account": account.identifier, "region": account.region}
        if params["authenticator"] == "oauth" and not params.get("token_endpoint") and not params.get("azure_conn_id"):
            params["token_endpoint"] = self.statements_url.replace("/api/v2/statements", "/oauth/token-request")
        return params

    def get_private_key(self) -> RSAPrivateKey | None:
        """
        Return the key that signs in, or None if the connection signs in without one.

        :raises InvalidConnectionError: the key cannot be read, or is none that Snowflake takes
        """
        connection = self.get_connection(self.get_conn_id())
        return private_key_of(connection.extra_dejson, connection.password)

    @property
    def role_name(self) -> str:
        """The role that the statements run with."""
        return str(self.role or self._get_static_conn_params["role"])

    def asset_uri(self, table: str) -> str:
        """Return the address of a table as an Airflow asset: ``snowflake://<account>/<database>/<schema>/<table>``."""
        connection = self._get_static_conn_params
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
        is_long: bool = False,
    ) -> StatementResult:
        """
        Run one statement and wait for its end.

        :param sql: one statement
        :param is_long: whether its handle must be known while it runs: of a statement that moves data
        :param request_id: the same for each repetition of the same step; a new one by default
        :param bindings: text values of the ``?`` in the statement, in their order
        :raises SnowflakeStatementError: the statement failed
        :raises SnowflakeRefusedError: the request was not accepted
        """
        answer = self._submitted(sql, request_id=request_id, bindings=bindings, is_long=is_long)
        body = self.wait(answer.handle) if answer.status == _RUNNING else answer.body
        return StatementResult(query_id=answer.handle, rows=self._rows(answer.handle, body))

    def run_transaction(self, statements: Sequence[str], *, request_id: uuid.UUID | None = None) -> None:
        """
        Run several statements in one request, hence in one session, and wait for the end of the last.

        Snowflake stops at the first error and ends the session, which rolls an open transaction back.

        :param statements: from BEGIN to COMMIT
        :param request_id: the same for each repetition of the same step; a new one by default
        :raises SnowflakeStatementError: one of the statements failed; nothing of the transaction remains
        :raises SnowflakeRefusedError: the request was not accepted
        """
        self.wait(self.submit(";\n".join(statements) + ";", statement_count=len(statements), request_id=request_id))

    def stop(self) -> None:
        """
        Cancel the statement that runs, and submit no other while ``is_stopped``: for a step that is killed.

        A signal handler calls this in the middle of anything, also of a pause. A statement whose submission is not
        answered yet is submitted again, as the same request: the answer is its handle, and nothing is started twice.
        """
        self.is_stopped = True
        handle = self._running
        if self._unanswered is not None and self._unanswered.is_sent:
            self._unanswered.ask_for_handle()
            handle = self._insist(self._submission(self._unanswered)).handle
        if handle:
            self._insist(lambda: self._cancel(handle))

    def get_request_url_header_params(
        self, query_id: str, url_suffix: str | None = None
    ) -> tuple[dict[str, Any], dict[str, Any], str]:
        """Return headers, parameters and address of a call about a statement; the provider's methods use it too."""
        url = f"{self.statements_url}/{query_id}{url_suffix or ''}"
        return self.get_headers(), {"requestId": str(uuid.uuid4())}, url

    def submit(self, sql: str, *, statement_count: int = 1, request_id: uuid.UUID | None = None) -> str:
        """
        Have a statement executed, and return its handle, which is its query id too, without waiting for its end.

        :param sql: one statement, or several
        :param statement_count: how many
        :param request_id: the same for each repetition of the same step; a new one by default
        :raises SnowflakeStatementError: the statement failed already
        :raises SnowflakeRefusedError: the request was not accepted
        :raises SnowflakeTransientError: Snowflake does not answer; what it may have begun is cancelled
        """
        return self._submitted(sql, statement_count=statement_count, request_id=request_id, is_long=True).handle

    def _submitted(
        self,
        sql: str,
        *,
        statement_count: int = 1,
        request_id: uuid.UUID | None = None,
        bindings: Sequence[str] = (),
        is_long: bool,
    ) -> _Answer:
        """Have a statement executed, and return its result or, while it runs, its handle."""
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
                # In the spelling of the SQL API's reference. Of this one, the guide to several statements and the
                # provider have another, and only that is known from requests that work.
                "MULTI_STATEMENT_COUNT": str(statement_count),
                "query_tag": json.dumps(self.query_tag, separators=(",", ":")),
                # Times are loaded, compared and shown in UTC, whatever the account's default is.
                "timezone": "UTC",
            },
        }
        submission = _Submission(
            request_id, {name: value for name, value in body.items() if value not in (None, "", {})}, is_long=is_long
        )
        # In this order: `stop` may come between any two of these lines.
        self._unanswered = submission
        try:
            answer = self._patiently(self._unless_stopped(self._submission(submission)), self._deadline())
        except SnowflakeTransientError as error:
            self._give_up_submission(submission, error)
        finally:
            self._unanswered = None
        handle = answer.handle
        self._running = handle if answer.status == _RUNNING else ""
        self.query_ids = [handle] if handle else []
        if answer.status in (_FAILED, _STOPPED) and self.is_stopped:
            raise _stopped(handle)
        if answer.status in (_FAILED, _STOPPED) or not handle:
            raise _statement_error(answer.body, handle)
        if answer.status == _RUNNING and self.is_stopped and handle != self._cancelled:
            # The signal came as the request was about to leave: `stop` has cancelled nothing, or another statement.
            self._insist(lambda: self._cancel(handle))
        self.log.info("Snowflake query %s:\n%s", handle, sql.strip())
        return answer

    def wait(self, handle: str) -> dict[str, Any]:
        """
        Wait for the end of a submitted statement, and return the answer with its result.

        :param handle: the statement
        :raises SnowflakeStatementError: the statement failed
        :raises SnowflakeTransientError: Snowflake does not answer, or does not end the statement; it is cancelled
        """
        deadline = self._deadline()
        wait = _FIRST_POLL_SECONDS
        while True:
            try:
                answer = self._patiently(lambda: self._look(handle), deadline)
            except (SnowflakeTransientError, SnowflakeRefusedError) as error:
                self._give_up(handle, error)
            if answer.status != _RUNNING:
                self._running = ""
            if answer.status in (_FAILED, _STOPPED) and self.is_stopped:
                raise _stopped(handle)
            if answer.status in (_FAILED, _STOPPED):
                raise _statement_error(answer.body, handle)
            if answer.status != _RUNNING:
                return answer.body
            if time.monotonic() > deadline:
                raise SnowflakeTransientError(
                    f"Snowflake has not ended query {handle} {_ANSWER_MARGIN_SECONDS} s after its time-out of "
                    f"{self.statement_timeout} s; {self._cancel_given_up(handle)}.",
                    snowflake_query_id=handle,
                )
            asked = min(answer.retry_after, _LONGEST_RETRY_AFTER_SECONDS, deadline - time.monotonic())
            self._pause(max(wait, asked))
            wait = min(wait * _POLL_BACKOFF, _LONGEST_POLL_SECONDS)

    # ---- one call

    def _submission(self, submission: _Submission) -> Callable[[], _Answer]:
        return lambda: self._call("post", self.statements_url, submission.params, submission.body)

    def _unless_stopped(self, call: Callable[[], _Answer]) -> Callable[[], _Answer]:
        def checked() -> _Answer:
            if self.is_stopped:
                raise SnowflakeStoppedError("This step was ended from outside, before its next statement.")
            return call()

        return checked

    def _look(self, handle: str) -> _Answer:
        answer = self._call("get", f"{self.statements_url}/{handle}", passing={_TOO_MANY_REQUESTS})
        if answer.status != _TOO_MANY_REQUESTS:
            return answer
        if answer.handle:
            # The page "Handling responses": of a statement that has not ended, the answer is 202 or 429.
            return answer._replace(status=_RUNNING)
        raise SnowflakeTransientError(
            _refusal(answer.status, answer.body, "Too many requests"), retry_after=answer.retry_after
        )

    def _partition(self, handle: str, number: int) -> _Answer:
        answer = self._call("get", f"{self.statements_url}/{handle}", lambda: {"partition": str(number)})
        if answer.status == _RUNNING:
            raise SnowflakeTransientError(f"Snowflake does not answer with part {number} of a result that it has.")
        if answer.status != _DONE:
            raise _statement_error(answer.body, handle)
        return answer

    def _cancel(self, handle: str) -> _Answer:
        answer = self._call("post", f"{self.statements_url}/{handle}/cancel")
        self._cancelled = handle
        return answer

    def _call(
        self,
        method: str,
        url: str,
        params: Callable[[], dict[str, str]] | None = None,
        body: dict[str, Any] | None = None,
        *,
        passing: frozenset[int] | set[int] = frozenset(),
    ) -> _Answer:
        """
        Make one HTTP call.

        :param params: is asked for the parameters, as late as possible: a signal may come at any time
        :param passing: statuses that the caller judges, beside those of a statement
        :raises SnowflakeTransientError: repeated, it may be answered
        :raises SnowflakeRefusedError: repeated, it is refused again
        """
        with _as_share_errors():
            headers = self.get_headers()
            response = self._http.request(
                method=method,
                url=url,
                headers=headers,
                params=params() if params else None,
                json=body,
                timeout=_HTTP_TIMEOUT_SECONDS,
            )
            retry_after = seconds_to_wait(response.headers.get("Retry-After"))
            if response.status_code in passing or response.status_code in (_FAILED, _STOPPED):
                return _Answer(response.status_code, _json_of(response), retry_after)
            response.raise_for_status()
            return _Answer(response.status_code, response.json(), retry_after)

    # ---- patience

    def _deadline(self) -> float:
        return time.monotonic() + self.statement_timeout + _ANSWER_MARGIN_SECONDS

    def _patiently(self, call: Callable[[], _Answer], deadline: float, tries: int | None = None) -> _Answer:
        """
        Repeat a call until it is answered, so often in a row and so long.

        :param deadline: time of the monotonic clock
        :param tries: how often; by default, as often as the hook does
        :raises SnowflakeTransientError: the last error
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
                asked = min(error.retry_after, _LONGEST_RETRY_AFTER_SECONDS)
                # Steps that failed together do not come back together.
                pause = min(max(backoff * random.uniform(1, 1.5), asked), left)  # noqa: S311 - no secret
                self.log.warning("%s The call is made again in %.1f s", error.message, pause)
            self._pause(pause)
            backoff = min(backoff * 2, _LONGEST_BACKOFF_SECONDS)

    def _insist(self, call: Callable[[], _Answer]) -> _Answer:
        """Repeat a call quickly, in the few seconds that a killed step has."""
        for _ in range(_STOP_TRIES - 1):
            try:
                return call()
            except SnowflakeTransientError:
                time.sleep(_STOP_PAUSE_SECONDS)
        return call()

    def _give_up(self, handle: str, error: SnowflakeTransientError | SnowflakeRefusedError) -> NoReturn:
        """End the wait for a statement that is not told of any longer."""
        if self.is_stopped:
            raise SnowflakeStoppedError(
                "This step was ended from outside; what became of its statement is not known.",
                snowflake_query_id=handle,
            ) from error
        raise type(error)(
            f"{error.message.rstrip('.')}; query {handle} is not waited for any longer, and "
            f"{self._cancel_given_up(handle)}.",
            code=error.code,
            snowflake_query_id=handle,
        ) from error

    def _give_up_submission(self, submission: _Submission, error: SnowflakeTransientError) -> NoReturn:
        """
        Cancel a statement of which nobody knows whether it runs, and say so.

        Only the same request tells its handle. If it was never executed, it is begun now and cancelled at once: as
        after a lost answer, the next attempt of the step finds its work done or not done.
        """
        if self.is_stopped:
            raise SnowflakeStoppedError("This step was ended from outside while it submitted a statement.") from error
        if not submission.is_sent:
            # There was not even a token to send it with.
            raise error
        submission.ask_for_handle()
        try:
            handle = self._patiently(self._submission(submission), math.inf, _CANCEL_TRIES).handle
            outcome = f"the statement {self._cancel_given_up(handle)[3:]}" if handle else "no statement runs"
        except ShareError:
            outcome = f"if the statement runs, it ends by its time-out of {self.statement_timeout} s"
        raise SnowflakeTransientError(f"{error.message.rstrip('.')}; {outcome}.") from error

    def _cancel_given_up(self, handle: str) -> str:
        """Cancel a statement, and return what became of it."""
        try:
            answer = self._patiently(lambda: self._cancel(handle), math.inf, _CANCEL_TRIES)
        except ShareError as error:
            return f"it could not be cancelled: {error.message.rstrip('.')}"
        finally:
            self._running = ""
        return "it was cancelled" if answer.status == _DONE else "it had ended"

    def _pause(self, seconds: float) -> None:
        """Sleep, in pieces: a step that is killed has five seconds to hear what became of its statement."""
        pieces = max(1, math.ceil(seconds / _LONGEST_SLEEP_SECONDS))
        for _ in range(pieces):
            time.sleep(seconds / pieces)
            if self.is_stopped:
                break

    def _rows(self, handle: str, answer: dict[str, Any]) -> list[dict[str, Any]]:
        metadata = answer.get("resultSetMetaData", {})
        columns = metadata.get("rowType", [])
        data = list(answer.get("data", []))
        for number in range(1, len(metadata.get("partitionInfo", []))):
            more = self._patiently(functools.partial(self._partition, handle, number), self._deadline())
            data.extend(more.body.get("data", []))
        return [
            {column["name"]: _python_value(column, text) for column, text in zip(columns, row, strict=True)}
            for row in data
        ]


@contextlib.contextmanager
def _as_share_errors() -> Iterator[None]:
    """Make of what goes wrong in a call what went wrong with Snowflake."""
    try:
        yield
    except requests.exceptions.HTTPError as error:
        response = error.response
        told = _refusal(response.status_code, _json_of(response), response.reason)
        if response.status_code == _INVALID_CERTIFICATE:
            raise SnowflakeRefusedError(told, code=FailureCode.CERTIFICATE_REFUSED) from error
        if response.status_code == _TOO_MANY_REQUESTS or response.status_code >= 500:
            retry_after = seconds_to_wait(response.headers.get("Retry-After"))
            raise SnowflakeTransientError(told, retry_after=retry_after) from error
        signed_in = response.status_code not in (401, 403)
        code = FailureCode.SNOWFLAKE_REFUSED if signed_in else FailureCode.SNOWFLAKE_SIGN_IN
        raise SnowflakeRefusedError(told, code=code) from error
    except requests.exceptions.JSONDecodeError as error:
        raise SnowflakeTransientError(f"What answers in the place of Snowflake sends no JSON: {error}.") from error
    except ValueError as error:
        # So the provider says that the connection lacks what signs in.
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
    """Return the request id of a step: the same for the same parts."""
    return uuid.uuid5(uuid.NAMESPACE_URL, "data-share:" + "/".join(str(part) for part in parts))


def _stopped(handle: str) -> SnowflakeStoppedError:
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
    """Return the object that an answer consists of; of any other answer, an empty one."""
    try:
        answer = response.json()
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _refusal(status: int, answer: dict[str, Any], reason: str) -> str:
    said = f"{answer.get('message', '')} (code {answer.get('code', '?')})" if answer else reason
    return f"Snowflake refuses the request with HTTP {status}: {said}."


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
