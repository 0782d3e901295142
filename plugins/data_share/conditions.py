"""
Finds conditions that Snowflake would refuse, before data are exported and loaded for them.

sqlglot reads each condition in Snowflake's dialect. It knows more than Snowflake in some places and less in others, so:

- What it cannot read at a word or sign is an error: its grammar has all operators and forms of Snowflake's conditions.
- A word that it reserves and Snowflake does not, such as ``outer``, may be a column: the condition is read again so.
- A type or function that it does not know, and a function to which it gives other parameters, may be newer than
  sqlglot, or a user's: a warning. Of an unknown function, only if the name of a known one is nearly the same.
- A condition at which sqlglot itself fails, is a warning.

sqlglot is imported with the first condition: a task, which parses none, does without it.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from data_share.datasets import not_one_condition


@dataclass(frozen=True)
class Judgement:
    """
    What sqlglot finds in a condition.

    :param error: why Snowflake refuses it; None if it does not
    :param doubt: why it may be wrong
    :param unknown_functions: names of functions that sqlglot does not know, without those with a schema
    """

    error: str | None = None
    doubt: str | None = None
    unknown_functions: tuple[str, ...] = ()


# Put before a condition: at the beginning of a text, sqlglot would read `call > 1` as a statement.
_BEFORE = "TRUE AND "
# sqlglot reserves these words, and Snowflake does not, or only in FROM: they may be columns.
_MAYBE_COLUMNS = frozenset(
    (
        *("CROSS", "FETCH", "GLOB", "IF", "INNER", "JOIN", "LATERAL", "MATCH_RECOGNIZE", "NOTNULL", "OUTER"),
        *("PARTITIONED_BY", "RETURNING", "UNCACHE", "UNDROP", "USING", "XOR"),
    )
)
_OPERATORS = (
    *("ALL", "AND", "AS", "BETWEEN", "CASE", "COLLATE", "DISTINCT", "ELSE", "END", "ESCAPE", "EXISTS", "FROM"),
    *("ILIKE", "IN", "IS", "LIKE", "NOT", "NULL", "OR", "REGEXP", "RLIKE", "THEN", "WHEN"),
)
# Families of functions that this version of sqlglot does not know: they look like others that it knows.
_KNOWN_FAMILIES = re.compile(r"(AI|AS|IS|SYSTEM|CURRENT|LIKE|CONDITIONAL)_\w+|\w*\$\w*")


def sql_errors(place: str, conditions: Any) -> list[str]:
    """
    Return a line for each condition that Snowflake would refuse.

    :param place: the field in the file
    :param conditions: conditions by name; what is no such mapping, or not one condition, the field's type refuses
    """
    return [f"{place}.{name}: {judgement.error}" for name, judgement in _judged(conditions) if judgement.error]


def sql_warnings(place: str, conditions: Any) -> list[str]:
    """Return a line for each reason why a condition may be wrong; the parameters are those of :func:`sql_errors`."""
    return [
        f"{place}.{name}: {doubt}"
        for name, judgement in _judged(conditions)
        for doubt in (judgement.doubt, *map(_misspelt, judgement.unknown_functions))
        if doubt
    ]


def _judged(conditions: Any) -> Iterator[tuple[str, Judgement]]:
    for name, sql in conditions.items() if isinstance(conditions, Mapping) else ():
        if isinstance(sql, str) and sql.strip() and not not_one_condition(sql):
            yield name, judge(sql)


@functools.cache
def judge(sql: str) -> Judgement:
    """Return what sqlglot finds in a single condition without comments."""
    judgement = _read(sql)
    if judgement.error and (as_columns := _with_columns_quoted(sql)) != sql:
        return _read(as_columns)
    return judgement


def _read(sql: str) -> Judgement:
    from sqlglot import Dialect, ErrorLevel, ParseError, exp

    dialect = Dialect.get_or_raise("snowflake")
    text = _BEFORE + sql
    doubt = None
    try:
        tokens = dialect.tokenize(text)
        try:
            [tree] = dialect.parser().parse_into(exp.Condition, tokens, text)
        except ParseError as error:
            [first, *_] = error.errors
            if unknown_type := _unknown_type(first):
                return Judgement(doubt=f"sqlglot knows no type {unknown_type} of Snowflake")
            if not (doubt := _doubt_about_parameters(first)):
                return Judgement(error=_in_words(first))
            # Behind the function, there may be a mistake.
            parser = dialect.parser(error_level=ErrorLevel.IGNORE)
            [tree] = parser.parse_into(exp.Condition, tokens, text)
            if parser.errors:
                return Judgement(error=_in_words(parser.errors[0].errors[0]))
    except Exception as error:  # of many kinds, in functions with strange parameters; RecursionError too
        return Judgement(doubt=f"sqlglot cannot tell whether it is right ({type(error).__name__})")
    if tree is None:
        return Judgement(error="it is no condition")
    for node in tree.find_all(exp.Is):
        if isinstance(node.expression, exp.Column):
            return Judgement(error=_unreadable(node.expression.name, "after IS, NULL, TRUE or FALSE is expected"))
    unknown = [node.name for node in tree.find_all(exp.Anonymous) if not isinstance(node.parent, exp.Dot)]
    return Judgement(doubt=doubt, unknown_functions=tuple(dict.fromkeys(unknown)))


def _with_columns_quoted(sql: str) -> str:
    from sqlglot import tokenize

    for token in reversed(tokenize(sql, read="snowflake")):
        if sql[token.start : token.end + 1].upper() in _MAYBE_COLUMNS:
            sql = f'{sql[: token.start]}"{token.text.upper()}"{sql[token.end + 1 :]}'
    return sql


def _unknown_type(problem: Mapping[str, Any]) -> str | None:
    name: str = problem["highlight"]
    is_about_type = problem["description"].lower().startswith("expected type")
    return name if is_about_type and re.fullmatch(r"[A-Za-z]\w*", name) else None


def _doubt_about_parameters(problem: Mapping[str, Any]) -> str | None:
    description = problem["description"]
    # The functions are in other modules than core, which has the operators.
    if "number of provided arguments" in description or (
        "Required keyword" in description and ".expressions.core." not in description
    ):
        call = problem["start_context"].removeprefix(_BEFORE) + problem["highlight"]
        return f"sqlglot knows this function of Snowflake with more or fewer parameters: {call[-40:]}"
    return None


def _in_words(problem: Mapping[str, Any]) -> str:
    at = problem["highlight"].strip('"')
    reason = problem["description"]
    if reason.startswith("Required keyword"):
        reason = "something is missing"
    elif "Unexpected token" in reason:
        reason = "it cannot stand here"
    # The parser may stop one word too late: it reads `WEN` of `CASE WEN a` as a column.
    return _unreadable(at, reason[0].lower() + reason[1:], *problem["start_context"].split()[-1:])


def _unreadable(at: str, reason: str, *before: str) -> str:
    from sqlglot import Dialect

    known = Dialect.get_or_raise("snowflake").tokenizer_class.KEYWORDS
    close = [_close(word, _OPERATORS, 0.65) for word in (at, *before) if len(word) > 1 and word.upper() not in known]
    meant = next((f"; did you mean {word}?" for word in close if word), "")
    return f"it cannot be read at {at!r}: {reason}{meant}"


def _misspelt(function: str) -> str | None:
    from sqlglot import Dialect

    parser = Dialect.get_or_raise("snowflake").parser_class
    close = _close(function, {*parser.FUNCTIONS, *parser.FUNCTION_PARSERS}, 0.8)
    if not close or _KNOWN_FAMILIES.fullmatch(function.upper()):
        return None
    return f"{function} may be misspelt: did you mean {close}? If the function is your own, write its schema too"


def _close(word: str, known: Collection[str], cutoff: float) -> str | None:
    """Return the known word that is nearly this word, or None; None for a known word too."""
    close = difflib.get_close_matches(word.upper(), known, n=1, cutoff=cutoff)
    return close[0] if close and word.upper() not in known else None
