"""Names of source tables, and values, as SQL quotes them."""

from __future__ import annotations

import re

import pytest

from data_share.sql_text import SOURCE_PATTERN, source_name, sql_string
from tests.source_names import NO_SOURCES, SOURCES, WITHOUT_BACKTICKS


def names_in(source: str) -> list[str]:
    """The names that a source in backticks stands for."""
    return [
        part[1:-1].replace("``", "`") if part.startswith("`") else part
        for part in re.findall(r"`(?:[^`]|``)+`|[^`.]+", source)
    ]


def test_a_source_keeps_its_names_and_outside_of_backticks_they_are_plain() -> None:
    for source in SOURCES:
        name = source_name(source)
        assert names_in(name) == names_in(source)
        assert source_name(name) == name
        assert re.fullmatch(r"[A-Za-z0-9_.]*", re.sub(r"`(?:[^`]|``)+`", "", name))


@pytest.mark.parametrize("source", NO_SOURCES.values(), ids=list(NO_SOURCES))
def test_what_is_no_table_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match=r"not of the form catalog\.schema\.table"):
        source_name(source)
    assert not re.search(rf"{SOURCE_PATTERN}\Z", source)


def test_what_needs_backticks_gets_them() -> None:
    for source in WITHOUT_BACKTICKS.values():
        assert source_name(source) == f"main.sea.`{source.removeprefix('main.sea.')}`"


def test_a_value_becomes_one_string_literal() -> None:
    literals = {
        None: "NULL",
        "": "''",
        "plain": "'plain'",
        7: "'7'",
        "it's": "'it''s'",
        "'; DROP TABLE x; --": "'''; DROP TABLE x; --'",
        "back\\slash": "'back' || CHR(92) || 'slash'",
        "\\'": "'' || CHR(92) || ''''",
        "ends with \\": "'ends with ' || CHR(92) || ''",
    }
    assert {value: sql_string(value) for value in literals} == literals
