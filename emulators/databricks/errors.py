"""The errors of statements, in Databricks' words."""

from __future__ import annotations


class StatementError(Exception):
    """A statement failed. The message is Databricks'."""


class InterruptedStatementError(Exception):
    """A statement was stopped by the session's ``interrupt``."""


def syntax_error(near: str, reason: str) -> StatementError:
    """Report a statement that Databricks cannot parse, or that the sandbox does not know."""
    return StatementError(f"[PARSE_SYNTAX_ERROR] Syntax error at or near '{near}': {reason}. SQLSTATE: 42601")


def not_found(quoted_name: str) -> StatementError:
    """Report a table or view that does not exist, by its name in backticks."""
    return StatementError(
        f"[TABLE_OR_VIEW_NOT_FOUND] The table or view {quoted_name} cannot be found. Verify the spelling and "
        "correctness of the schema and catalog.\n"
        "If you did not qualify the name with a schema, verify the current_schema() output, or qualify the "
        "name with the correct schema and catalog.\n"
        "To tolerate the error on drop use DROP VIEW IF EXISTS or DROP TABLE IF EXISTS. SQLSTATE: 42P01"
    )
