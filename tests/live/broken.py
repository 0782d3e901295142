"""Emulators on which an assumption of the suite is not true: one small change each, as the real service might be."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

import pyarrow.parquet as pq
import pytest
from sqlglot import exp

from emulators.databricks import answers, delta_tables, export, jobs, lake
from emulators.databricks.errors import StatementError
from emulators.databricks.functions import SecretError
from emulators.snowflake import copy_into, policies, privileges, sql_api, statements
from emulators.snowflake.errors import SqlError, does_not_exist
from emulators.snowflake.names import key
from emulators.snowflake.stop import Stop

Break = Callable[[pytest.MonkeyPatch], None]


def _wrapped(patch: pytest.MonkeyPatch, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Call a wrapper with the function that it takes the place of, before the function's own arguments."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *given, **named: wrapper(original, *given, **named))


def _empty_text(patch: pytest.MonkeyPatch) -> None:
    def load(original: Any, session: Any, target: str, columns: Any, file: Any, options: Any) -> int:
        with session.account.filesystem.open(f"{file.bucket}/{file.key}") as content:
            table = pq.read_table(content)
        if any("" in column.to_pylist() for column in table.columns if column.type == "string"):
            raise SqlError(100069, "22P02", "Error parsing the parquet file: empty column value")
        return int(original(session, target, columns, file, options))

    _wrapped(patch, copy_into, "_load", load)


def _sql_of_exports(patch: pytest.MonkeyPatch, change: Callable[[str], str]) -> None:
    def execute(original: Any, session: Any, sql: str, parameters: Any) -> Any:
        # Neither the plan nor a statement beside the job has a path.
        if "data_path" not in parameters:
            return original(session, sql, parameters)
        changed = change(sql)
        assert changed != sql, "the break is not one of the SQL of the export"
        return original(session, changed, parameters)

    _wrapped(patch, jobs.Session, "execute", execute)


def _export_sql(patch: pytest.MonkeyPatch) -> None:
    def refuse(sql: str) -> str:
        raise StatementError("[PARSE_SYNTAX_ERROR] Syntax error at or near 'DIRECTORY'. SQLSTATE: 42601")

    _sql_of_exports(patch, refuse)


def _source_parameter(patch: pytest.MonkeyPatch) -> None:
    def execute(original: Any, session: Any, sql: str, parameters: Any) -> Any:
        shorter = {"source": parameters["source"][:4_096]} if parameters else {}
        return original(session, sql, parameters | shorter)

    _wrapped(patch, jobs.Session, "execute", execute)


def _hash_secret(patch: pytest.MonkeyPatch) -> None:
    def refuse(original: Any, query: exp.Expr, *given: Any) -> exp.Expr:
        if "SECRET(" in query.sql("databricks"):
            raise SecretError("[SECRET_FUNCTION_INVALID_LOCATION] Cannot execute INSERT command SQLSTATE: 42K0E")
        return cast("exp.Expr", original(query, *given))

    _wrapped(patch, export, "with_secrets", refuse)


def _file_metadata(patch: pytest.MonkeyPatch) -> None:
    _sql_of_exports(patch, lambda sql: sql.replace("COUNT(DISTINCT ", "1 + COUNT(DISTINCT "))


def _checksums(patch: pytest.MonkeyPatch) -> None:
    _sql_of_exports(patch, lambda sql: sql.replace("1, 15), 16, 10", "2, 15), 16, 10"))


def _empty_table(patch: pytest.MonkeyPatch) -> None:
    def overwrite(original: Any, filesystem: Any, location: str, *given: Any) -> None:
        original(filesystem, location, *given)
        for path in filesystem.find(location):
            if path.endswith(".parquet"):
                with filesystem.open(path) as content:
                    is_empty = pq.read_metadata(content).num_rows == 0
                if is_empty:
                    filesystem.rm_file(path)

    _wrapped(patch, export, "overwrite_directory", overwrite)


def _failure_reason(patch: pytest.MonkeyPatch) -> None:
    def run(original: Any, workspace: Any, run_id: int) -> Any:
        found = original(workspace, run_id)
        for task in found.tasks:
            task.error = ""
        return found

    _wrapped(patch, jobs.Workspace, "run", run)


def _queue_start_time(patch: pytest.MonkeyPatch) -> None:
    def task_answer(original: Any, run: Any, *given: Any, **named: Any) -> Any:
        return original(run, *given, **named) | {"start_time": run.created_time}

    _wrapped(patch, answers, "_task", task_answer)


def _first_row(patch: pytest.MonkeyPatch) -> None:
    # As of a kind of task that leaves no output: Databricks says nothing of references that it does not know.
    _wrapped(patch, jobs, "resolve_references", lambda original, text, parameters, _: original(text, parameters))


def _history(patch: pytest.MonkeyPatch) -> None:
    # As for a principal that may read a table, and sees nothing of it in the information schema.
    _wrapped(patch, lake, "relations_of", lambda original, *given: [])


def _version_as_of(patch: pytest.MonkeyPatch) -> None:
    def version(original: Any, table: exp.Table) -> Any:
        if isinstance(table.this, exp.Anonymous) and table.args.get("version"):
            raise StatementError("[PARSE_SYNTAX_ERROR] Syntax error at or near 'VERSION'. SQLSTATE: 42601")
        return original(table)

    _wrapped(patch, export, "version_of", version)


def _false_condition(patch: pytest.MonkeyPatch) -> None:
    _wrapped(
        patch,
        answers,
        "_task",
        lambda original, run, task, *given, **named: {
            name: {"op": value["op"], "left": value["left"], "right": value["right"]}
            if name == "condition_task"
            else value
            for name, value in original(run, task, *given, **named).items()
        },
    )


def _untold(patch: pytest.MonkeyPatch, kind: str, name: str) -> None:
    """Leave a parameter or a metric out of each history."""
    _wrapped(
        patch,
        delta_tables,
        "_commit",
        lambda original, *given: {
            column: [pair for pair in value if pair[0] != name] if column == kind else value
            for column, value in original(*given).items()
        },
    )


def _feed_export(patch: pytest.MonkeyPatch) -> None:
    # As the page of table_changes says: the name of the table is a literal.
    def bound(original: Any, session: Any, sql: str, arguments: Any) -> Any:
        if "TABLE_CHANGES(:" in sql:
            raise StatementError("[PARSE_SYNTAX_ERROR] Syntax error at or near ':'. SQLSTATE: 42601")
        return original(session, sql, arguments)

    _wrapped(patch, export.Session, "_bound", bound)


def _compare_export(patch: pytest.MonkeyPatch) -> None:
    _sql_of_exports(patch, lambda sql: sql.replace(" LEFT ANTI JOIN ", " LEFT SEMI JOIN "))


def _retry_running(patch: pytest.MonkeyPatch) -> None:
    _wrapped(
        patch,
        sql_api,
        "_flag",
        lambda original, request, name, *default: name != "retry" and original(request, name, *default),
    )


def _missing_schema(patch: pytest.MonkeyPatch) -> None:
    def context(original: Any, api: Any, submission: Any) -> Any:
        database, schema = original(api, submission)
        if submission.schema and schema is None:
            raise does_not_exist("Schema", submission.schema)
        return database, schema

    _wrapped(patch, sql_api.SqlApi, "_context", context)


def _statements(patch: pytest.MonkeyPatch, pattern: str, put: str) -> None:
    """Let statements of Snowflake be others."""
    _wrapped(patch, statements, "parse_one", lambda original, sql: original(re.sub(pattern, put, sql)))


def _fresh_session(patch: pytest.MonkeyPatch) -> None:
    _statements(patch, "CREATE TEMPORARY TABLE", "CREATE TABLE")


def _lock_waiter(patch: pytest.MonkeyPatch) -> None:
    # As if it read the row as it was before the wait.
    _statements(patch, "CASE WHEN lk.holder = '' THEN 'second' END", "'second'")


def _twice(patch: pytest.MonkeyPatch, table: str) -> None:
    def run_one(original: Any, api: Any, execution: Any, sql: str, *given: Any, **named: Any) -> None:
        for _ in range(2 if re.match(rf'INSERT INTO "{table}"', sql) else 1):
            original(api, execution, sql, *given, **named)

    _wrapped(patch, sql_api.SqlApi, "_run_one", run_one)


def _publish_cancel(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Stop, "error", lambda stop: None)


def _time_zone(patch: pytest.MonkeyPatch) -> None:
    def read(original: Any, *given: Any, **named: Any) -> Any:
        submission = original(*given, **named)
        submission.time_zone = None
        return submission

    _wrapped(patch, sql_api, "_read", read)


def _all_types(patch: pytest.MonkeyPatch) -> None:
    def file_format(original: Any, given: Any) -> Any:
        found = original(given)
        found.null_if = ("\\N",)
        return found

    _wrapped(patch, copy_into, "_format", file_format)


def _like_policies(patch: pytest.MonkeyPatch) -> None:
    def note_end(original: Any, expression: exp.Expr, session: Any) -> None:
        original(expression, session)
        like = expression.find(exp.LikeProperty)
        table = expression.find(exp.Table)
        if like is not None and table is not None:
            filters = session.account.catalogue.policies.filters
            copied = filters.get(key("TABLE", *session.qualified(like.this)))
            if copied is not None:
                filters[key("TABLE", *session.qualified(table))] = copied

    _wrapped(patch, policies, "note_end", note_end)


BREAKS: dict[str, Break] = {
    "empty_text": _empty_text,
    "export_sql": _export_sql,
    "source_parameter": _source_parameter,
    "hash_secret": _hash_secret,
    "file_metadata": _file_metadata,
    "empty_table": _empty_table,
    "failure_reason": _failure_reason,
    "queue_start_time": _queue_start_time,
    "first_row": _first_row,
    "history": _history,
    "version_as_of": _version_as_of,
    "false_condition": _false_condition,
    "feed_property": lambda patch: _untold(patch, "operationParameters", "properties"),
    "change_files": lambda patch: _untold(patch, "operationMetrics", "numAddedChangeFiles"),
    "feed_export": _feed_export,
    "compare_export": _compare_export,
    "vacuum_retention": lambda patch: _untold(patch, "operationParameters", "defaultRetentionMillis"),
    "retry_running": _retry_running,
    "retry_while_answering": _retry_running,
    "missing_schema": _missing_schema,
    "fresh_session": _fresh_session,
    "lock_waiter": _lock_waiter,
    "publish_races": lambda patch: _twice(patch, "RACED"),
    "publish_cancel": _publish_cancel,
    "time_zone": _time_zone,
    "all_types": _all_types,
    "checksums": _checksums,
    "sync_modes": lambda patch: _twice(patch, "APPENDED"),
    "integration_usage": lambda patch: patch.setattr(privileges, "_check_integration", lambda stage, session: None),
    "like_policies": _like_policies,
}
"""By the assumption that is not true then."""
