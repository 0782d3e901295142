"""
Dynamic value references, such as ``{{job.parameters.x}}``, in the parameters of tasks and in conditions.

Known are ``job.parameters.<name>`` and ``tasks.<task>.output.first_row.<column>``. Names of tasks and columns may be in
backticks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_NAME = r"(?:[A-Za-z0-9_-]+|`[^`{}]+`)"
_REFERENCE = re.compile(
    r"\{\{\s*(?:job\.parameters\.(?P<parameter>[A-Za-z0-9_.-]+?)"
    rf"|tasks\.(?P<task>{_NAME})\.(?P<value>[^{{}}]+?))\s*\}}\}}"
)
_FIRST_ROW = re.compile(rf"output\.first_row\.(?P<column>{_NAME})")


class ReferenceNotFoundError(Exception):
    """A reference to the output of a task has no value."""


def references_to_tasks(template: str) -> Iterator[tuple[str, str, bool]]:
    """Return each reference to a task in a text: its text, the task, and whether the emulator knows this kind."""
    for match in _REFERENCE.finditer(template):
        if match["task"]:
            yield match[0], match["task"].strip("`"), _FIRST_ROW.fullmatch(match["value"]) is not None


def resolve_references(
    template: str,
    job_parameters: Mapping[str, Any],
    first_rows: Mapping[str, Mapping[str, str | None] | None] | None = None,
) -> str:
    """
    Replace the references in a text by their values. What is no reference, or has an unknown name, stays as it is.

    :param first_rows: by task, the first row of its output, or None if it had none.
    :raises ReferenceNotFoundError: a task's output has no row, no such column, or NULL in it.
    """
    rows = first_rows or {}

    def value(match: re.Match[str]) -> str:
        if match["parameter"]:
            return str(job_parameters.get(match["parameter"], match[0]))
        column = _FIRST_ROW.fullmatch(match["value"])
        task = match["task"].strip("`")
        if column is None or task not in rows:
            return match[0]
        found = (rows[task] or {}).get(column["column"].strip("`"))
        if found is None:
            raise ReferenceNotFoundError(
                f"Unable to resolve reference {match[0]}: the output of task {task} has no such value."
            )
        return found

    return _REFERENCE.sub(value, template)
