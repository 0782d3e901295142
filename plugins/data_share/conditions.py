"""
Finds conditions that Snowflake or Databricks would refuse, before data are exported and loaded for them.

sqlglot reads each condition in the dialect of the system that will: Snowflake's for checks, Databricks' for the rows of
a source. It knows more than the system in some places and less in others, so:

- What it cannot read at a word or sign is an error: its grammar has all operators and forms of their conditions.
- What it reads although neither system takes it, such as ``a IN ()``, a parameter or a curly quote, is an error too.
- A word that it reserves and the system does not, such as ``outer``, may be a column: the condition is read again so.
- A type or function that it does not know, and a function to which it gives other parameters, may be newer than
  sqlglot, or a user's: a warning. Of an unknown function, only if the name of a known one is nearly the same.
- A condition at which sqlglot itself fails, is a warning.

For the rows of a source, aggregates, window functions and generators are errors too, outside of subqueries: Databricks
takes none in WHERE (INVALID_WHERE_CONDITION).

sqlglot is imported with the first condition: a task, which parses none, does without it.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_share.datasets import not_one_condition
from data_share.source import not_one_source_condition


@dataclass(frozen=True)
class Judgement:
    """
    What sqlglot finds in a condition.

    :param error: why the system refuses it; None if it does not
    :param doubt: why it may be wrong
    :param unknown_functions: names of functions that sqlglot does not know, without those with a schema
    """

    error: str | None = None
    doubt: str | None = None
    unknown_functions: tuple[str, ...] = ()


@dataclass(frozen=True)
class System:
    """
    A system that evaluates conditions.

    :param name: its name; in lower case, sqlglot's name of its dialect
    :param not_one_condition: returns why a text is not a single condition, or None
    :param quote: what stands around a name
    :param maybe_columns: words that sqlglot reserves, and the system does not, or only in FROM: they may be columns
    :param operators: words between values, of which a misspelt word may be one
    :param known_functions: functions that this version of sqlglot does not know, with names like those that it knows
    """

    name: str
    not_one_condition: Callable[[str], str | None]
    quote: str
    maybe_columns: frozenset[str]
    operators: tuple[str, ...]
    known_functions: re.Pattern[str]


_MAYBE_COLUMNS = (
    *("CROSS", "FETCH", "GLOB", "IF", "INNER", "JOIN", "LATERAL", "NOTNULL", "OUTER", "PARTITIONED_BY", "RETURNING"),
    *("UNCACHE", "USING", "XOR"),
)
_OPERATORS = (
    *("ALL", "AND", "AS", "BETWEEN", "CASE", "COLLATE", "DISTINCT", "ELSE", "END", "ESCAPE", "EXISTS", "FROM"),
    *("ILIKE", "IN", "IS", "LIKE", "NOT", "NULL", "OR", "REGEXP", "RLIKE", "THEN", "WHEN"),
)
SNOWFLAKE = System(
    name="Snowflake",
    not_one_condition=not_one_condition,
    quote='"',
    maybe_columns=frozenset((*_MAYBE_COLUMNS, "MATCH_RECOGNIZE", "UNDROP")),
    operators=_OPERATORS,
    known_functions=re.compile(r"(AI|AS|IS|SYSTEM|CURRENT|LIKE|CONDITIONAL)_\w+|\w*\$\w*"),
)
DATABRICKS = System(
    name="Databricks",
    not_one_condition=not_one_source_condition,
    quote="`",
    # Databricks reserves no word. Those that begin a clause of a subquery are left out.
    maybe_columns=frozenset(
        (
            *_MAYBE_COLUMNS,
            *("ALTER", "CREATE", "DROP", "EXCEPT", "FOR", "GRANT", "HAVING", "INSERT", "INTERSECT", "INTO"),
            *("MINUS", "ON", "QUALIFY", "REVOKE", "ROLLBACK", "SERDEPROPERTIES", "TABLESAMPLE", "UNION", "VALUES"),
            "WITH",
        )
    ),
    operators=(*_OPERATORS, "DIV", "INTERVAL", "SOME", "WHERE"),
    known_functions=re.compile(
        r"(AI|CURRENT|H3|IS|ST|TRY)_\w+|MAKE_(DT_|YM_)?INTERVAL|MAKE_TIMESTAMP_(LTZ|NTZ)|TO_TIMESTAMP_(LTZ|NTZ)|TO_TIME|"
        r"ARRAY_(REPEAT|UNION)|ARRAYS_OVERLAP|MAP_(CONCAT|ENTRIES)|JSON_(ARRAY_LENGTH|TUPLE)|ISNULL|BROUND|BTRIM|LOG1P|"
        r"NEGATE|PMOD|PRINTF|TO_VARCHAR|JARO_WINKLER_SIMILARITY|YEARS|MONTHS|DAYS|HOURS"
    ),
)

# Put before a condition: at the beginning of a text, sqlglot would read `call > 1` as a statement.
_BEFORE = "TRUE AND "
# Of Databricks, those that sqlglot, or an older one, does not know. Each by its name: a user's may end in _agg too.
_AGGREGATES = re.compile(
    r"BIT_(AND|OR|XOR)|COUNT_MIN_SKETCH|EVERY|HISTOGRAM_NUMERIC|MEAN|MEASURE|SOME|STD|TRY_(AVG|SUM)|AGG|"
    r"(ARRAY|BITMAP_(AND|CONSTRUCT|OR)|HLL_(SKETCH|UNION)|SCHEMA_OF_(JSON|VARIANT)|ST_(ENVELOPE|UNION)|STRING)_AGG|"
    r"KLL_(MERGE|SKETCH)_AGG_(BIGINT|DOUBLE|FLOAT)|LISTAGG|THETA_(INTERSECTION|SKETCH|UNION)_AGG|"
    r"TUPLE_(INTERSECTION|SKETCH|UNION)_AGG_(DOUBLE|INTEGER)"
)
_GENERATORS = frozenset(("EXPLODE_OUTER", "INLINE_OUTER", "JSON_TUPLE", "VARIANT_EXPLODE", "VARIANT_EXPLODE_OUTER"))
_UNITS = ("YEAR", "MONTH", "WEEK", "DAY", "HOUR", "MINUTE", "SECOND", "MILLISECOND", "MICROSECOND", "NANOSECOND")


def sql_errors(place: str, conditions: Any, system: System = SNOWFLAKE) -> list[str]:
    """
    Return a line for each condition that the system would refuse.

    :param place: the field in the file
    :param conditions: conditions by name; what is no such mapping, or not one condition, the field's type refuses
    :param system: the system that evaluates them
    """
    return [f"{place}.{name}: {found.error}" for name, found in _judged(conditions, system) if found.error]


def sql_warnings(place: str, conditions: Any, system: System = SNOWFLAKE) -> list[str]:
    """Return a line for each reason why a condition may be wrong; the parameters are those of :func:`sql_errors`."""
    return [
        f"{place}.{name}: {doubt}"
        for name, found in _judged(conditions, system)
        for doubt in (found.doubt, *(_misspelt(function, system) for function in found.unknown_functions))
        if doubt
    ]


def where_of(source: Any) -> dict[str, Any]:
    """Return the condition for the rows of a source by its field; the field ``source`` of a file may be anything."""
    return {"where": source["where"]} if isinstance(source, Mapping) and "where" in source else {}


def _judged(conditions: Any, system: System) -> Iterator[tuple[str, Judgement]]:
    for name, sql in conditions.items() if isinstance(conditions, Mapping) else ():
        if isinstance(sql, str) and sql.strip() and not system.not_one_condition(sql.strip()):
            yield name, judge(sql.strip(), system)


@functools.cache
def judge(sql: str, system: System = SNOWFLAKE) -> Judgement:
    """Return what sqlglot finds in a single condition without comments."""
    judgement = _read(sql, system)
    if judgement.error and (as_columns := _with_columns_quoted(sql, system)) != sql:
        return _read(as_columns, system)
    return judgement


def _read(sql: str, system: System) -> Judgement:
    from sqlglot import Dialect, ErrorLevel, ParseError, exp

    dialect = Dialect.get_or_raise(system.name.lower())
    text = _BEFORE + sql
    doubt = None
    try:
        tokens = dialect.tokenize(text)
        try:
            [tree] = dialect.parser().parse_into(exp.Condition, tokens, text)
        except ParseError as error:
            [first, *_] = error.errors
            if unknown_type := _unknown_type(first):
                return Judgement(doubt=f"sqlglot knows no type {unknown_type} of {system.name}")
            if not (doubt := _doubt_about_parameters(first, system)):
                return Judgement(error=_in_words(first, system))
            # Behind the function, there may be a mistake.
            parser = dialect.parser(error_level=ErrorLevel.IGNORE)
            [tree] = parser.parse_into(exp.Condition, tokens, text)
            if parser.errors:
                return Judgement(error=_in_words(parser.errors[0].errors[0], system))
    except Exception as error:  # of many kinds, in functions with strange parameters; RecursionError too
        return Judgement(doubt=f"sqlglot cannot tell whether it is right ({type(error).__name__})")
    if tree is None:
        return Judgement(error="it is no condition")
    for node in tree.find_all(exp.Is):
        if isinstance(node.expression, exp.Column) and (
            system is SNOWFLAKE or node.expression.name.upper() != "UNKNOWN"
        ):
            reason = "after IS, NULL, TRUE or FALSE is expected"
            return Judgement(error=_unreadable(node.expression.name, reason, system))
    if refused := _refused_by_both(tokens, tree, system):
        return Judgement(error=refused)
    if system is DATABRICKS and (refused := _no_condition_for_rows(tree)):
        return Judgement(error=refused)
    unknown = [node.name for node in tree.find_all(exp.Anonymous) if not _has_schema(node)]
    return Judgement(doubt=doubt, unknown_functions=tuple(dict.fromkeys(unknown)))


def _refused_by_both(tokens: Sequence[Any], tree: Any, system: System) -> str | None:
    """
    Return why both systems refuse a condition that sqlglot can read, or None.

    Without quotes, both take ASCII letters alone in a name, so a curly quote begins nothing.
    """
    from sqlglot import TokenType, exp

    ends_a_value = (
        *(TokenType.VAR, TokenType.IDENTIFIER, TokenType.STRING, TokenType.NUMBER),
        *(TokenType.R_PAREN, TokenType.R_BRACKET),
    )
    begins_a_parameter = (TokenType.L_PAREN, TokenType.COMMA, TokenType.FARROW, TokenType.FROM, TokenType.JOIN)
    for before, token in itertools.pairwise(tokens):
        kind, text = token.token_type, token.text
        if kind is TokenType.VAR and not text.isascii():
            return _unreadable(text, "such letters can stand only in straight quotes", system)
        if kind in (TokenType.ISNULL, TokenType.NOTNULL) and before.token_type in ends_a_value:
            return _unreadable(text, "write IS NULL or IS NOT NULL", system)
        if kind is TokenType.L_BRACE and before.token_type is TokenType.L_BRACE:
            return _unreadable("{{", "a condition is no template", system)
        # A stage is possible only as a parameter of a function, or in FROM.
        if kind is TokenType.PARAMETER and text == "@" and before.token_type not in begins_a_parameter:
            return _unreadable(text, "it cannot stand here", system)
    for node in tree.find_all(exp.Placeholder, exp.In, exp.Star, exp.Identifier):
        if isinstance(node, exp.Placeholder):
            return _unreadable(
                node.name if node.name == "?" else f":{node.name}", "a condition gets no parameters", system
            )
        if isinstance(node, exp.Identifier) and node.quoted and not node.name:
            return _unreadable(system.quote * 2, "it is no name", system)
        if isinstance(node, exp.In) and not any(
            node.args.get(part) for part in ("expressions", "query", "unnest", "field")
        ):
            return _unreadable("()", "IN needs values", system)
        around = node.parent.parent if isinstance(node.parent, exp.Column) else node.parent
        if isinstance(node, exp.Star) and isinstance(around, (exp.Binary, exp.Paren, exp.Predicate, exp.Unary)):
            return _unreadable("*", "it is no condition", system)
    return None


def _no_condition_for_rows(tree: Any) -> str | None:
    """Return what Databricks refuses in a condition of WHERE that sqlglot can read, or None."""
    from sqlglot import exp

    for node in tree.find_all(exp.Window, exp.AggFunc, exp.Any, exp.UDTF, exp.Explode, exp.Inline, exp.Anonymous):
        # `a LIKE ANY (...)` has no aggregate.
        is_quantifier = isinstance(node.parent, exp.Predicate) and node.arg_key == "expression"
        if node.find_ancestor(exp.Query) or (isinstance(node, exp.Any) and is_quantifier) or _has_schema(node):
            continue
        name = (node.name if isinstance(node, exp.Anonymous) else node.sql("databricks").partition("(")[0]).upper()
        if isinstance(node, exp.Window):
            kind = f"the window function {name}"
        elif isinstance(node, (exp.AggFunc, exp.Any)) or _AGGREGATES.fullmatch(name):
            kind = f"the aggregate {name}"
        elif not isinstance(node, exp.Anonymous) or name in _GENERATORS:
            kind = f"{name}, which makes rows"
        else:
            continue
        return f"it has {kind}; Databricks takes none in a condition for rows, outside of a subquery"
    for interval in tree.find_all(exp.Interval):
        unit = interval.args.get("unit")
        for part in (unit.this, unit.expression) if isinstance(unit, exp.IntervalSpan) else (unit,):
            if part is not None and part.name.upper().removesuffix("S") not in _UNITS:
                close = _close(part.name, [*_UNITS, *(f"{name}S" for name in _UNITS)], 0.65)
                return f"INTERVAL has no unit {part.name}{f'; did you mean {close}?' if close else ''}"
    return None


def _has_schema(function: Any) -> bool:
    """Return whether a function is a user's, as in ``main.f.call(a)``; ``call(a).field`` is no such one."""
    from sqlglot import exp

    return isinstance(function.parent, exp.Dot) and function.arg_key == "expression"


def _with_columns_quoted(sql: str, system: System) -> str:
    from sqlglot import tokenize

    for token in reversed(tokenize(sql, read=system.name.lower())):
        if sql[token.start : token.end + 1].upper() in system.maybe_columns:
            sql = f"{sql[: token.start]}{system.quote}{token.text.upper()}{system.quote}{sql[token.end + 1 :]}"
    return sql


def _unknown_type(problem: Mapping[str, Any]) -> str | None:
    name: str = problem["highlight"]
    is_about_type = problem["description"].lower().startswith("expected type")
    return name if is_about_type and re.fullmatch(r"[A-Za-z]\w*", name) else None


def _doubt_about_parameters(problem: Mapping[str, Any], system: System) -> str | None:
    description = problem["description"]
    # The functions are in other modules than core, which has the operators.
    if "number of provided arguments" in description or (
        "Required keyword" in description and ".expressions.core." not in description
    ):
        call = problem["start_context"].removeprefix(_BEFORE) + problem["highlight"]
        return f"sqlglot knows this function of {system.name} with more or fewer parameters: {call[-40:]}"
    return None


def _in_words(problem: Mapping[str, Any], system: System) -> str:
    at = problem["highlight"].strip(system.quote)
    reason = problem["description"]
    if reason.startswith("Required keyword"):
        reason = "something is missing"
    elif "Unexpected token" in reason:
        reason = "it cannot stand here"
    reason = reason.partition(" but got ")[0]
    # The parser may stop one word too late: it reads `WEN` of `CASE WEN a` as a column.
    return _unreadable(at, reason[0].lower() + reason[1:], system, *problem["start_context"].split()[-1:])


def _unreadable(at: str, reason: str, system: System, *before: str) -> str:
    from sqlglot import Dialect

    known = Dialect.get_or_raise(system.name.lower()).tokenizer_class.KEYWORDS
    close = [
        _close(word, system.operators, 0.65) for word in (at, *before) if len(word) > 1 and word.upper() not in known
    ]
    meant = next((f"; did you mean {word}?" for word in close if word), "")
    return f"it cannot be read at {at!r}: {reason}{meant}"


def _misspelt(function: str, system: System) -> str | None:
    from sqlglot import Dialect

    parser = Dialect.get_or_raise(system.name.lower()).parser_class
    close = _close(function, {*parser.FUNCTIONS, *parser.FUNCTION_PARSERS}, 0.8)
    if not close or system.known_functions.fullmatch(function.upper()):
        return None
    return f"{function} may be misspelt: did you mean {close}? If the function is your own, write its schema too"


def _close(word: str, known: Collection[str], cutoff: float) -> str | None:
    """Return the known word that is nearly this word, or None; None for a known word too."""
    close = difflib.get_close_matches(word.upper(), known, n=1, cutoff=cutoff)
    return close[0] if close and word.upper() not in known else None
