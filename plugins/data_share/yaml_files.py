"""Reads YAML files that people write: strictly, and with errors that name the file, the field and the reason."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError


class InvalidFileError(ValueError):
    """A file cannot be used; the message names the file and, line by line, each wrong field and the reason."""

    verdict = "is not valid"
    depth = 3
    """Number of parts at the end of the path that lie in the project."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        self.path = path
        self.problems = problems
        super().__init__(f"{self.place} {self.verdict}:\n  " + "\n  ".join(problems))

    @property
    def place(self) -> str:
        """The path within the project."""
        return "/".join(self.path.parts[-self.depth :])


# A larger file was not written for this project; reading it would cost the dag-processor time.
_MAX_CHARACTERS = 100_000
# The files have four levels at most. Many thousands would crash the process: the C library parses them recursively.
_MAX_LEVELS = 20


def read_fields(path: Path, error_class: type[InvalidFileError], example: str) -> dict[str, Any]:
    """
    Return the fields of a YAML file.

    :param path: the file
    :param error_class: the error to raise
    :param example: a field of such a file, for the message
    :raises InvalidFileError: of the given class, if the file is no YAML mapping
    """
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > _MAX_CHARACTERS:
            raise ValueError(f"more than {_MAX_CHARACTERS} characters")
        _refuse_deep(text)
        content: Any = read_value(text)
    except Exception as error:  # not only YAML's errors: a date such as 2026-02-30 raises ValueError
        raise error_class(path, [f"it cannot be read as YAML: {_in_one_line(error)}"]) from None
    if not isinstance(content, dict):
        raise error_class(path, [f"it must contain fields, as in '{example}'"])
    return content


def read_value(text: str) -> Any:
    """Return what a text means in YAML, as data only."""
    return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a subclass of a safe loader


def _refuse_deep(text: str) -> None:
    level = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if level > _MAX_LEVELS:
            raise ValueError(f"more than {_MAX_LEVELS} nested levels")


_MAX_PROBLEMS = 20
# Limits for a wrong value in a message: with aliases, a small file can contain a huge value.
_SHORT = reprlib.Repr()
_SHORT.maxstring = 200
_SHORT.maxlong = _SHORT.maxother = 100
_SHORT.maxlevel = 2


def problems_of(error: ValidationError, within: str = "", origins: Mapping[str, str] | None = None) -> list[str]:
    """
    Return a line for each wrong field.

    :param within: where the fields stand in the file, such as ``shares.emea.``
    :param origins: field -> where its value comes from, for values that do not stand in the file
    """
    problems = error.errors(include_url=False)
    # pydantic drops wrong items and then reports that the list is too short: keep only the report of the items.
    with_wrong_items = {problem["loc"][:-1] for problem in problems}
    lines = []
    for problem in problems:
        if problem["type"] == "too_short" and problem["loc"] in with_wrong_items:
            continue
        message = problem["msg"].removeprefix("Value error, ")
        for python, words in (("Tuple", "List"), ("valid tuple", "list"), ("valid dictionary", "mapping")):
            message = message.replace(python, words)
        if problem["loc"]:
            found = "nothing" if problem["type"] == "missing" else _shown(problem["input"])
            place = within + ".".join(str(part) for part in problem["loc"])
            origin = (origins or {}).get(place)
            message = f"{place}: {message} (found: {found}{f', in {origin}' if origin else ''})"
        lines.append(message)
    if len(lines) > _MAX_PROBLEMS:
        lines[_MAX_PROBLEMS:] = [f"and {len(lines) - _MAX_PROBLEMS} more"]
    return lines


def _shown(value: object) -> str:
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python formats no number of more than 4300 digits
        return "a huge number"


def _in_one_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        return ": ".join(part for part in (error.context, error.problem) if part) + place
    return " ".join(str(error).split())


class _StrictLoader(yaml.CSafeLoader):
    """
    Reads YAML as data only.

    It refuses a repeated field, of which YAML would silently keep only the last, and ``<<``, with which a small file
    can grow without bounds.
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "<< is not supported", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"{key.value} is given more than once"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)
