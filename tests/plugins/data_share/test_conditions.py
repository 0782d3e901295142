"""Conditions that Snowflake takes are no errors, misspelt ones are, and what sqlglot does not know is a warning."""

from __future__ import annotations

import re

import pytest
from sqlglot.dialects.snowflake import Snowflake

from data_share.conditions import Judgement, judge, sql_errors, sql_warnings
from data_share.share_file import _RESERVED

# Forms from Snowflake's pages of operators, conditional expressions, functions, data types and queries.
VALID = r"""
level_m BETWEEN -10 AND 20
level_m NOT BETWEEN -10 AND 20
NOT (level_m BETWEEN -10 AND 20)
a IS NULL OR a >= b
a IS NOT NULL AND (b != 'x' OR NOT c)
a <> 'it''s' AND b <> $$it's$$
a IS DISTINCT FROM b
a IS NOT DISTINCT FROM b
a IS TRUE OR b IS NOT FALSE
a IN (1, 2, 3)
a NOT IN ('x', 'y')
(a, b) IN ((1, 2), (3, 4))
a LIKE 'x^%%' ESCAPE '^'
a NOT LIKE ANY ('x%', '%y')
a LIKE ALL ('x%', '%y') ESCAPE '^'
a ILIKE ANY ('x%', '%y')
a RLIKE '[a-z]+' AND b NOT REGEXP $$\d+$$
REGEXP_LIKE(a, '[a-z]+', 'i')
a COLLATE 'en-ci' = 'X'
a || '-' || b = c
-a + b * 2 / 3 % 4 > 0.5e1
a::NUMBER(10, 2) = 1 AND b::STRING <> ''
CAST(a AS TIMESTAMP_TZ(9)) < CURRENT_TIMESTAMP()
TRY_CAST(a AS INT) IS NOT NULL
TRY_TO_DATE(a, 'YYYY-MM-DD') IS NOT NULL
a::TIMESTAMP WITH LOCAL TIME ZONE IS NOT NULL
a::OBJECT(x INT, y VARCHAR NOT NULL):x > 1
a::VECTOR(FLOAT, 3) IS NOT NULL
a::DECFLOAT > 1
day <= CURRENT_DATE
day >= DATEADD(day, -7, CURRENT_DATE()) AND DATEDIFF('hour', day, SYSDATE()) < 3
day > DATE '2020-01-01' AND at > TIMESTAMP '2020-01-01 00:00:00'
day < CURRENT_DATE - INTERVAL '1 year, 3 months'
DATE_TRUNC(MONTH, day) = day
EXTRACT(year FROM day) > 2000 AND DATE_PART(epoch_second, day) > 1
CASE WHEN a > 1 THEN b ELSE c END > 1
CASE a WHEN 1 THEN TRUE ELSE FALSE END
IFF(a > 1, b, c) = 1 AND NVL2(a, 1, 0) = ZEROIFNULL(b) AND EQUAL_NULL(a, b)
DECODE(a, 1, 'x', 2, 'y', 'z') <> 'z'
v:a.b[0]::INT > 1 AND v['a']['b'] IS NOT NULL AND v:"a b" = 'x'
TYPEOF(v:a) = 'INTEGER' AND IS_NULL_VALUE(v:a)
IS_INTEGER(v:a) AND AS_INTEGER(v:a) > 1
ARRAY_CONTAINS('a'::VARIANT, v) AND ARRAY_SIZE(v) > 0
ARRAY_SIZE(FILTER(v, x INT -> x > 1)) > 0 AND TRANSFORM(v, x -> x + 1)[0] > 1
[1, 2][0] = 1 AND {'a': 1}:a = 1
COUNT(*) > 0 AND COUNT(DISTINCT a, b) = COUNT(*)
COUNT_IF(a > 1) = 0 AND BOOLAND_AGG(b) AND APPROX_COUNT_DISTINCT(c) > 1
MAX_BY(a, b) = 1 AND MEDIAN(a) BETWEEN 1 AND 2
PERCENTILE_CONT(0.5) WITHIN GROUP (ORDER BY a) > 1
LISTAGG(DISTINCT a, ',') WITHIN GROUP (ORDER BY a DESC) <> ''
HASH_AGG(*) <> 0
MIN(a) > (SELECT MAX(b) FROM public.others)
a IN (SELECT x FROM others AS o LEFT OUTER JOIN more ON o.id = more.id)
EXISTS (SELECT 1 FROM others ORDER BY x FETCH FIRST 1 ROW ONLY)
a = ANY (SELECT x FROM others) AND b > ALL (SELECT y FROM others)
ROW_NUMBER() OVER (PARTITION BY a ORDER BY b DESC NULLS LAST) = 1
SUM(a) OVER (ORDER BY b ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) > 1
LAG(a) IGNORE NULLS OVER (ORDER BY b) < a
CONDITIONAL_TRUE_EVENT(a > 1) OVER (ORDER BY b) = 1
"Net price" > 0 AND "order" <> "Größe"
a$b > 0
POSITION('x' IN a) > 0 AND SPLIT_PART(a, '-', 2) = LEFT(b, 1)
CONVERT_TIMEZONE('UTC', a) < SYSDATE()
HAVERSINE(a, b, c, d) < 100 AND ST_DISTANCE(x, y) < 100
IS_ROLE_IN_SESSION('LOADER') OR CURRENT_ROLE() = 'LOADER'
SYSTEM$TYPEOF(a) <> 'NULL[LOB]'
AI_FILTER('is a harbour', a)
checks.public.is_valid(a) AND SNOWFLAKE.CORTEX.SENTIMENT(b) > 0
own_function(a, limits => 2)
""".strip().splitlines()

# The condition, and what is said of it.
WRONG = {
    "a BETWEN 1 AND 2": "'BETWEN': it cannot stand here; did you mean BETWEEN?",
    "a > 1 AND NOT b BETWEN 1 AND 2": "'BETWEN': it cannot stand here; did you mean BETWEEN?",
    "a BETWEEN 1 ADN 2": "'2': it cannot stand here; did you mean AND?",
    "a BETWEEN 1, 2": "',': something is missing",
    "a BETWEEN 1 AND": "'AND': something is missing",
    "a > 1 ADN b > 1": "'ADN': it cannot stand here; did you mean AND?",
    "a > 1 ORR b > 1": "'ORR': it cannot stand here; did you mean OR?",
    "a IS NUL": "'NUL': after IS, NULL, TRUE or FALSE is expected; did you mean NULL?",
    "a IS NOT NULLL": "'NULLL': after IS, NULL, TRUE or FALSE is expected; did you mean NULL?",
    "a ISNT NULL": "'ISNT': it cannot stand here; did you mean IS?",
    "a NTO IN (1, 2)": "'NTO': it cannot stand here; did you mean NOT?",
    "a LIK 'x%'": "'LIK': it cannot stand here; did you mean LIKE?",
    "a ILIKEE 'x%'": "'ILIKEE': it cannot stand here; did you mean ILIKE?",
    "a COLATE 'en' = 'x'": "'COLATE': it cannot stand here; did you mean COLLATE?",
    "COUNT(DISTINT a) > 1": "'a': expecting ); did you mean DISTINCT?",
    "CASE WEN a > 1 THEN b END": "'WEN': expected END after CASE; did you mean WHEN?",
    "CASE WHEN a > 1 THEN b": "'b': expected END after CASE",
    "a IS NOT DISTINCT FORM b": "'IS': it cannot stand here",
    "CAST(a AZ INT) > 1": "'AZ': expected AS after CAST",
    "CAST(a AS) > 1": "')': expected TYPE after CAST",
    "a IN (1, 2": "'2': expecting )",
    "(a > 1": "'1': expecting )",
    "a > 1)": "')': it cannot stand here",
    "a >": "'>': something is missing",
    "> 1": "'1': something is missing",
    "a > 1 AND OR b": "'OR': something is missing",
    "a = > 1": "'1': something is missing",
    "a := 1": "':=': it cannot stand here",
    "a > 1 b > 2": "'b': it cannot stand here",
    "a, b": "',': it cannot stand here",
    "a XOR b": "'XOR': it cannot stand here",
    "a ** 2 > 1": "'2': it cannot stand here",
    "DATEADD(day, 1 a) > b": "'a': expecting )",
    "SELECT 1": "'SELECT': something is missing",
    "DROP TABLE a": "'DROP': something is missing",
    "WHERE a > 1": "'WHERE': something is missing",
    "a > 1 ORDER BY b": "'ORDER BY': it cannot stand here",
    "a > 1 UNION SELECT b": "'UNION': it cannot stand here",
    # Behind what may be right, nothing is passed over.
    "ROUND(a, 1, 2, 3, 4, 5) = 1 AND a BETWEN 1 AND 2": "'BETWEN': it cannot stand here; did you mean BETWEEN?",
    "outer > 1 AND a BETWEN 1 AND 2": "'BETWEN': it cannot stand here; did you mean BETWEEN?",
}

PARAMETERS = "sqlglot knows this function of Snowflake with more or fewer parameters: "
DOUBTFUL = {
    "LENGHT(a) > 1": "LENGHT may be misspelt: did you mean LENGTH? If the function is your own, write its schema too",
    "COALESCE() > 1": f"{PARAMETERS}COALESCE()",
    "ROUND(a, 1, 2, 3, 4, 5) = 1": f"{PARAMETERS}ROUND(a, 1, 2, 3, 4, 5)",
    "a::NEWTYPE(3) > 1": "sqlglot knows no type NEWTYPE of Snowflake",
    "CAST(a AS MAP(INT, VARCHAR NOT NULL)) IS NULL": "sqlglot knows no type MAP of Snowflake",
    "DATE_TRUNC('day' a) > b": "sqlglot cannot tell whether it is right (AttributeError)",
    f"{'(' * 5_000}a{')' * 5_000}": "sqlglot cannot tell whether it is right (RecursionError)",
}


def test_what_snowflake_takes_is_neither_an_error_nor_a_warning() -> None:
    assert len(VALID) >= 60
    conditions = dict(zip(VALID, VALID, strict=True))
    assert (sql_errors("checks", conditions), sql_warnings("checks", conditions)) == ([], [])


def test_a_misspelt_condition_is_an_error_that_names_the_word() -> None:
    assert {sql: sql_errors("checks", {"own": sql}) for sql in WRONG} == {
        sql: [f"checks.own: it cannot be read at {words}"] for sql, words in WRONG.items()
    }


def test_what_may_be_right_is_a_warning() -> None:
    assert {sql: sql_warnings("checks", {"own": sql}) for sql in DOUBTFUL} == {
        sql: [f"checks.own: {words}"] for sql, words in DOUBTFUL.items()
    }
    assert sql_errors("checks", {sql: sql for sql in DOUBTFUL}) == []


def test_a_function_with_its_schema_is_never_taken_for_a_misspelt_one() -> None:
    assert sql_warnings("checks", {"own": "public.lenght(a) > 1"}) == []


# From Snowflake's page of reserved keywords: no column name may be written so, also not in a condition.
NO_COLUMNS = _RESERVED - {
    *("ACCOUNT", "CONNECTION", "CROSS", "DATABASE", "FULL", "INNER", "ISSUE", "JOIN", "LATERAL", "LEFT", "NATURAL"),
    *("ORGANIZATION", "RIGHT", "SCHEMA", "USING", "VIEW"),
}


@pytest.mark.tier("full")
def test_a_column_may_have_each_name_that_snowflake_does_not_reserve() -> None:
    """sqlglot reserves more words; a new version of it may reserve other ones."""
    parser = Snowflake.Parser
    words = {*Snowflake.Tokenizer.KEYWORDS, *parser.FUNCTIONS, *parser.FUNCTION_PARSERS, *_RESERVED}
    # An operator of hierarchical queries.
    names = {word for word in words if re.fullmatch(r"[A-Z_]\w*", word)} - NO_COLUMNS - {"CONNECT_BY_ROOT"}
    forms = ("{} > 1", "1 < {}", "{} IS NOT NULL", "ABS({}) > 1", "COUNT(DISTINCT {}) > 1", "{} BETWEEN 1 AND 2")
    conditions = {form.format(name): form.format(name) for name in names for form in forms}
    assert len(names) > 500
    assert (sql_errors("checks", conditions), sql_warnings("checks", conditions)) == ([], [])


@pytest.mark.parametrize(
    "conditions", [None, "a > 1", ["a BETWEN 1"], {"own": 1}, {"own": " "}, {"own": "a; b BETWEN 1"}]
)
def test_what_the_type_of_the_field_refuses_is_not_parsed(conditions: object) -> None:
    assert (sql_errors("checks", conditions), sql_warnings("checks", conditions)) == ([], [])


@pytest.mark.tier("full")
@pytest.mark.parametrize("part", ["(", "ABS(", "CASE WHEN a THEN ", "NOT ", "[", "{", "a::", "a:b", "a AND ", "CAST("])
def test_a_huge_condition_is_judged_too(part: str) -> None:
    assert isinstance(judge(part * (50_000 // len(part))), Judgement)
