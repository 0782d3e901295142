"""The table of how true the stand-ins are: whole, and of one mind with the tests it names."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "sandbox" / "README.md").read_text(encoding="utf-8")
TITLES = ["Behaviour", "Real service", "Stand-in", "Relied on", "Test"]


class Row(NamedTuple):
    """A behaviour of a service."""

    behaviour: str
    real: str
    stand_in: str
    relied_on: str
    tests: str

    @property
    def verdict(self) -> str:
        return re.split(r"\W", self.stand_in, maxsplit=1)[0]


def cells(line: str) -> list[str]:
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def rows() -> list[Row]:
    chapter = PAGE.split("## How true the stand-ins are", 1)[1]
    found = []
    for section in chapter.split("\n### ")[1:]:
        tables = re.findall(r"(?:^\|.*\n)+", section + "\n", re.MULTILINE)
        assert tables, section.splitlines()[0]
        for title, _, *body in ([cells(line) for line in table.splitlines()] for table in tables):
            assert title == TITLES, f"a table of {section.splitlines()[0]} has other columns: {title}"
            found += [Row(*line) for line in body]
    return found


ROWS = rows()


@cache
def functions(path: str) -> set[str]:
    tree = ast.parse((PROJECT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=[row.behaviour[:60] for row in ROWS])
def test_a_row_says_what_it_must(row: Row) -> None:
    assert row.verdict in {"same", "different", "absent"}
    assert row.relied_on in {"yes", "no"}
    if row.relied_on == "yes":
        assert row.verdict == "same", "the package relies on it"
    named = re.findall(r"`(tests/[^`]+)`", row.tests)
    assert row.tests == ", ".join(f"`{name}`" for name in named)
    if row.verdict == "same":
        assert row.real, "same as what?"
        assert named, "nothing holds it to that"
    for name in named:
        path, _, function = name.partition("::")
        assert function in functions(path), f"{path} has no {function}"


def test_each_service_has_its_rows() -> None:
    assert PAGE.split("## How true the stand-ins are", 1)[1].count("\n### ") == 3
    assert len([row for row in ROWS if row.relied_on == "yes"]) > 50
    assert len({row.behaviour for row in ROWS}) == len(ROWS), "a behaviour has one row"
