"""Reads YAML files that people write: strictly, and with errors that name file, line, field and reason."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError


class InvalidFileError(ValueError):
    """
    A file cannot be used; the message names the file and, line by line, each wrong field and the reason.

    :param path: the file
    :param problems: for each wrong field its place in the file, such as ``checks.deep``, and the reason
    :param line: the line of the only problem, if its text says it
    """

    verdict = "is not valid"
    depth = 3
    """Number of parts at the end of the path that lie in the project."""

    def __init__(self, path: Path, problems: list[str], line: int | None = None) -> None:
        self.path = path
        self.problems = problems
        found = [None] * len(problems) if line else lines_of(path, problems)
        self.lines = [line] if line else found
        """The line of each problem, from 1; None where the file does not have the field."""
        told = [f"line {number}: {text}" if number else text for number, text in zip(found, problems, strict=True)]
        super().__init__(f"{self.place} {self.verdict}:\n  " + "\n  ".join(told))

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
        content: Any = read_value(_checked_text(path))
    except Exception as error:  # not only YAML's errors: a date such as 2026-02-30 raises ValueError
        problem = f"it cannot be read as YAML: {_in_one_line(error)}"
        raise error_class(path, [problem], _line_of_error(error)) from None
    if not isinstance(content, dict):
        raise error_class(path, [f"it must contain fields, as in '{example}'"])
    return content


def _checked_text(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise ValueError("it is no regular file")  # a pipe would block
    with path.open("rb") as file:  # not all of it: it may have gigabytes
        content = file.read(4 * _MAX_CHARACTERS + 4)
    text = content.decode("utf-8", errors="strict" if len(content) <= 4 * _MAX_CHARACTERS else "replace")
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"more than {_MAX_CHARACTERS} characters")
    _refuse_deep(text)
    return text


def lines_of(path: Path, problems: list[str]) -> list[int | None]:
    """
    Return the line of each problem in a file, from 1: of the field that the problem begins with, or of the one around.

    :param problems: texts such as ``checks.deep: contains a semicolon``
    """
    try:
        lines = dict(_lines(yaml.compose(_checked_text(path), Loader=yaml.CSafeLoader), "", set()))
    except Exception:  # the file is no YAML, or not there any more
        return [None] * len(problems)
    return [_line_of(problem.partition(": ")[0], lines) for problem in problems]


def _line_of(place: str, lines: Mapping[str, int]) -> int | None:
    while place and place not in lines:
        place = place.rpartition(".")[0]
    return lines.get(place)


def _lines(node: Any, within: str, seen: set[int]) -> Iterator[tuple[str, int]]:
    """Yield each place of a document with its line. What is used again with ``*``, has the places of its first use."""
    if id(node) in seen:
        return
    seen.add(id(node))
    parts: list[tuple[Any, Any, Any]] = []
    if isinstance(node, yaml.MappingNode):
        parts = [(key.value, key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]
    elif isinstance(node, yaml.SequenceNode):
        parts = [(number, item, item) for number, item in enumerate(node.value)]
    for name, start, value in parts:
        yield f"{within}{name}", start.start_mark.line + 1
        yield from _lines(value, f"{within}{name}.", seen)


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
        # A rule about several fields tells each problem in a line, which begins with the field.
        lines += [message] if problem["loc"] else [f"{within}{line}" for line in message.splitlines()]
    if len(lines) > _MAX_PROBLEMS:
        lines[_MAX_PROBLEMS:] = [f"and {len(lines) - _MAX_PROBLEMS} more"]
    return lines


def _shown(value: object) -> str:
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python formats no number of more than 4300 digits
        return "a huge number"


def _line_of_error(error: Exception) -> int | None:
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark or error.context_mark):
        return int(mark.line) + 1
    return error.object[: error.start].count(b"\n") + 1 if isinstance(error, UnicodeDecodeError) else None


def _in_one_line(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        byte = error.object[error.start]
        return f"it is not a text in UTF-8 (byte 0x{byte:02x} in line {_line_of_error(error)}); save it as UTF-8"
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
