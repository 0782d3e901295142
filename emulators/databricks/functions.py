"""Spark's functions that DuckDB lacks and sqlglot does not translate."""

from __future__ import annotations

import re

from sqlglot import exp

USER_RAISED_EXCEPTION = re.compile(r"\[USER_RAISED_EXCEPTION\].* SQLSTATE: P0001", re.DOTALL)
"""Matches the message of RAISE_ERROR."""

_DIGITS = "0." + "#" * 38

MACROS = (
    # Only hexadecimal digits, at most 16.
    """
    CREATE MACRO conv(digits, from_base, to_base) AS
    CASE WHEN from_base = 16 AND to_base = 10 THEN CAST(CAST('0x' || NULLIF(digits, '') AS UBIGINT) AS VARCHAR)
    ELSE error('The sandbox knows CONV only from base 16 to base 10') END
    """,
    # Only decimals: all digits, without trailing zeros. DuckDB writes .5 for DECIMAL(1, 1), so add the zero.
    f"""
    CREATE MACRO format_number(number, pattern) AS
    CASE WHEN pattern <> '{_DIGITS}' OR typeof(number) NOT LIKE 'DECIMAL(%'
    THEN error('The sandbox knows FORMAT_NUMBER only of decimals and for {_DIGITS}')
    WHEN NOT contains(CAST(number AS VARCHAR), '.') THEN CAST(number AS VARCHAR)
    ELSE rtrim(rtrim(regexp_replace(CAST(number AS VARCHAR), '^(-?)[.]', '\\1' || '0.'), '0'), '.') END
    """,
    "CREATE MACRO raise_error(message) AS error('[USER_RAISED_EXCEPTION] ' || message || ' SQLSTATE: P0001')",
)


def as_duckdb(query: exp.Expr) -> exp.Expr:
    """Translate ZIP_WITH, whose function has two arguments, to DuckDB's list_zip and list_transform."""
    # Innermost calls first: an outer call is replaced by a copy, which must contain the translated inner call.
    for call in reversed(list(query.find_all(exp.Anonymous))):
        if call.name.upper() == "ZIP_WITH" and len(call.expressions) == 3:
            left, right, function = call.expressions
            pair = exp.to_identifier(f"pair_of_{'_'.join(name.name for name in function.expressions)}")
            body = function.this.copy()
            for number, name in enumerate(function.expressions):  # sqlglot counts from 0
                part = exp.Bracket(this=pair.copy(), expressions=[exp.Literal.number(number)])
                for use in list(body.find_all(exp.Identifier)):
                    if use.name == name.name and not use.quoted and not isinstance(use.parent, exp.Column):
                        use.replace(part.copy()) if use is not body else None
            zipped = exp.func("list_zip", left.copy(), right.copy())
            call.replace(exp.func("list_transform", zipped, exp.Lambda(this=body, expressions=[pair])))
    return query
