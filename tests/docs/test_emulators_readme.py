"""The table of how true the emulators are: whole, and of one mind with the tests it names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import pytest

from tests.docs.markdown import PROJECT, Page

pytestmark = pytest.mark.tier("full")

TITLES = ["Behaviour", "Real service", "Emulator", "Relied on", "Test"]


class Row(NamedTuple):
    """A behaviour of a service."""

    behaviour: str
    real: str
    emulator: str
    relied_on: str
    tests: str

    @property
    def verdict(self) -> str:
        return re.split(r"\W", self.emulator, maxsplit=1)[0]


def cells(line: str) -> list[str]:
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def sections() -> list[str]:
    chapter = Page.read("emulators/README.md").text.split("## How true the emulators are", 1)[1]
    return chapter.split("\n### ")[1:]


@cache
def rows() -> list[Row]:
    found = []
    for section in sections():
        tables = re.findall(r"(?:^\|.*\n)+", section + "\n", re.MULTILINE)
        assert tables, section.splitlines()[0]
        for title, _, *body in ([cells(line) for line in table.splitlines()] for table in tables):
            assert title == TITLES, f"a table of {section.splitlines()[0]} has other columns: {title}"
            found += [Row(*line) for line in body]
    return found


@cache
def functions(path: str) -> set[str]:
    tree = ast.parse((PROJECT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def wrong(row: Row) -> Iterator[str]:
    if row.verdict not in {"same", "different", "absent"}:
        yield f"{row.verdict} is no verdict"
    if row.relied_on not in {"yes", "no"}:
        yield f"{row.relied_on} is neither yes nor no"
    if row.relied_on == "yes" and row.verdict != "same":
        yield "the package relies on it"
    named = re.findall(r"`(tests/[^`]+)`", row.tests)
    if row.tests != ", ".join(f"`{name}`" for name in named):
        yield f"there is more than tests in {row.tests}"
    if row.verdict == "same" and not row.real:
        yield "same as what?"
    if row.verdict == "same" and not named:
        yield "nothing holds it to that"
    for name in named:
        path, _, function = name.partition("::")
        if function not in functions(path):
            yield f"{path} has no {function}"


def test_each_row_says_what_it_must() -> None:
    found = [f"{row.behaviour}: {problem}" for row in rows() for problem in wrong(row)]
    assert not found, "\n".join(found)


def test_each_service_has_its_rows() -> None:
    assert len(sections()) == 3
    assert len([row for row in rows() if row.relied_on == "yes"]) > 50
    assert len({row.behaviour for row in rows()}) == len(rows()), "a behaviour has one row"
