"""Conditions that a system takes are no errors, misspelt ones are, and what sqlglot does not know is a warning."""

from __future__ import annotations

import gc
import re

import pytest
from sqlglot.dialects.databricks import Databricks
from sqlglot.dialects.snowflake import Snowflake

from data_share.conditions import DATABRICKS, SNOWFLAKE, Judgement, System, judge, sql_errors, sql_warnings, where_of
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
a = '“x”' OR b = $$@ ? :x {{ größe }} ISNULL$$
notnull > 1 AND a = isnull
(a):b = 1 AND f(a):b = {'a': {'b': 1}}:a:b
COUNT(a.*) > 1 AND HASH(*) <> {*}
GET_PRESIGNED_URL(@public.images, a) <> ''
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
    # What other systems have.
    "a IN ()": "'()': IN needs values",
    "NOT a NOT IN ()": "'()': IN needs values",
    "a ISNULL": "'ISNULL': write IS NULL or IS NOT NULL",
    "(a + 1) notnull OR b": "'NOTNULL': it cannot stand here",
    "*": "'*': it is no condition",
    "a > 1 OR NOT (b.*)": "'*': it is no condition",
    '"" > 1': "'\"\"': it is no name",
    "a = :x": "':x': a condition gets no parameters",
    "a = ? OR b": "'?': a condition gets no parameters",
    "a = @x": "'@': it cannot stand here",
    "@x = a": "'@': it cannot stand here",
    "a = {{ x }}": "'{{': a condition is no template",
    # What word processors make of quotes, and letters that look like others or like nothing.
    "a = “x”": "'“x”': such letters can stand only in straight quotes",
    "“x” = a": "'“x”': such letters can stand only in straight quotes",
    "größe > 1": "'größe': such letters can stand only in straight quotes",
    "\uff41 > 1": "'\uff41': such letters can stand only in straight quotes",
    "a\u200b > 1": "'a\\u200b': such letters can stand only in straight quotes",
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


# ---- conditions for the rows of a source, in Databricks SQL

# Forms from Databricks' pages of operators, expressions, functions, literals and types, and of identifiers.
VALID_FOR_ROWS = r"""
amount BETWEEN 1 AND 2
NOT (amount NOT BETWEEN 1 AND 2)
a IS NULL OR a >= b
a IS NOT NULL AND (b != 'x' OR NOT c)
a <> 'it\'s' AND b = "it's"
a == b AND a <=> b
a IS DISTINCT FROM b
a IS NOT DISTINCT FROM b
a IS TRUE OR b IS NOT FALSE
a IS UNKNOWN
a IN (1, 2, 3)
a NOT IN ('x', 'y')
(a, b) IN ((1, 2), (3, 4))
a LIKE 'x\_%' ESCAPE '^'
a LIKE ANY ('x%', '%y')
a LIKE ALL ('x%', '%y')
a NOT LIKE SOME ('x%')
a ILIKE 'x%' AND b NOT ILIKE ALL ('a%', 'b%')
a RLIKE '[a-z]+' AND NOT b REGEXP r'\d+'
a NOT RLIKE 'x'
regexp_like(a, '[a-z]+')
a COLLATE UTF8_LCASE = 'x'
a || '-' || b = c
-a + b * 2 / 3 % 4 > 0.5e1
a DIV 2 = 1 AND a & 1 = 1 AND (a | 2) ^ 3 > ~a
a::DECIMAL(10, 2) = 1 AND b::STRING <> ''
a::TIMESTAMP_NTZ IS NOT NULL AND b::ARRAY<INT>[0] = 1
CAST(a AS TIMESTAMP) < CURRENT_TIMESTAMP()
TRY_CAST(a AS INT) IS NOT NULL
CAST(a AS STRUCT<x: INT, y: MAP<STRING, INT>>).x = 1
day >= date_sub(current_date(), 7)
day >= current_date - INTERVAL 7 DAYS
day > now() - INTERVAL '1' DAY
day > DATE'2020-01-01' AND at > TIMESTAMP'2020-01-01 00:00:00'
at < current_timestamp() - INTERVAL 1 YEAR 3 MONTHS
at < current_timestamp() - INTERVAL '1-3' YEAR TO MONTH
at > current_timestamp() - INTERVAL '3 04:05' DAY TO MINUTE
dateadd(DAY, -7, current_date()) < day
date_add(day, 3) > day AND add_months(day, 1) > day
datediff(HOUR, a, b) > 3 AND datediff(a, b) > 1
timestampdiff(MINUTE, a, b) > 1 AND timestampadd(DAY, 1, a) > b
date_trunc('MONTH', day) = day AND trunc(day, 'MM') = day
extract(YEAR FROM day) > 2000 AND date_part('DOW', day) = 1
year(day) = 2026 AND dayofweek(day) IN (1, 7) AND weekday(day) = 1
to_date(a, 'yyyy-MM-dd') IS NOT NULL AND try_to_timestamp(a) IS NOT NULL
CASE WHEN a > 1 THEN b ELSE c END > 1
CASE a WHEN 1 THEN TRUE ELSE FALSE END
if(a > 1, b, c) = 1 AND iff(a > 1, b, c) = 1 AND nvl2(a, 1, 0) = 1 AND nvl(a, b) = 1 AND ifnull(a, b) = 1
coalesce(a, b, 'x') <> '' AND nullif(a, '') IS NOT NULL AND zeroifnull(a) = 0
decode(a, 1, 'x', 2, 'y', 'z') <> 'z'
v:a.b[0]::INT > 1 AND v:['a'] IS NOT NULL
v:`a b` = 'x' AND get_json_object(v, '$.a') = 1
try_variant_get(v, '$.a', 'INT') = 1 AND variant_get(v, '$.a', 'INT') = 1
schema_of_variant(v) = 'x' AND is_variant_null(v)
array_contains(a, 1) AND size(a) > 0 AND a[0] = 1 AND m['k'] = 'x' AND element_at(a, 1) = 1
exists(a, x -> x > 1) AND forall(a, x -> x > 1) AND any_match(a, x -> x > 1)
size(filter(a, x -> x IS NOT NULL)) > 0 AND transform(a, (x, i) -> x + i)[0] > 1
aggregate(a, 0, (acc, x) -> acc + x) > 10 AND reduce(a, 0, (acc, x) -> acc + x, acc -> acc * 2) > 10
map_keys(m)[0] = 'a' AND array(1, 2)[0] = 1 AND named_struct('a', 1).a = 1 AND map('a', 1)['a'] = 1
s.inner.field = 1 AND `Net price` > 0 AND `order` <> 'Größe' AND t.`a``b` = 1
a IN (SELECT id FROM main.legal.opted_out)
NOT EXISTS (SELECT 1 FROM main.legal.opted_out AS o WHERE o.id = a)
amount > (SELECT avg(amount) FROM main.sales.orders)
a IN (SELECT max(x) FROM main.a.b GROUP BY y HAVING count(*) > 1)
a = (SELECT row_number() OVER (ORDER BY x) FROM main.a.b LIMIT 1)
substring(a, 1, 2) = 'x' AND left(a, 1) = 'x' AND split(a, '-')[0] = 'x' AND split_part(a, '-', 1) = 'x'
substring(a FROM 2 FOR 3) = 'x' AND trim(BOTH 'x' FROM a) = 'y' AND position('x' IN a) > 0
upper(a) = 'X' AND lower(a) = 'x' AND length(a) > 1 AND len(a) > 1 AND char_length(a) > 1
concat_ws('-', a, b) = 'x' AND contains(a, 'x') AND startswith(a, 'x') AND endswith(a, 'x')
sha2(a, 256) = 'x' AND md5(a) = 'x' AND hash(a) % 10 = 0 AND xxhash64(a) % 10 = 0 AND crc32(a) = 1
is_account_group_member('x') OR current_user() = 'x' OR session_user() = 'y'
ai_query('model', a) = 'x' OR h3_longlatash3(a, b, 5) = 1
main.rules.is_wanted(a, b)
main.rules.f(a => 1, b => 2)
own_function(a)
pmod(a, 10) = 1 AND mod(a, 10) = 1 AND greatest(a, b) > 1 AND least(a, b) > 1 AND round(a, 2) = 1 AND bround(a, 2) = 1
a = '“x” @ ISNULL' AND isnull = 1 AND b = notnull AND `größe` > 0 AND count IS NULL
isnull(a) OR isnotnull(b) OR isnan(c) OR a IS NOT NULL
ts > '2024-01-01' AND ts < TIMESTAMP_NTZ'2024-02-01 00:00:00'
bin = X'1F' AND 1L < 2 AND 3S < 4 AND 1.5BD > 1 AND 1.0F < 2 AND 1D > 0 AND 1Y > 0
_metadata.file_modification_time > '2024-01-01'
TRUE
is_active
NOT is_active
! is_active
a > ALL (SELECT x FROM main.a.b)
ST_Contains(g, ST_Point(1, 2))
try_divide(a, b) > 1 AND try_add(a, b) > 1 AND try_to_number(a, '999') > 1
unix_timestamp(a) > 1 AND from_unixtime(a) > 'x' AND make_date(2024, 1, 1) < a
to_char(a, '999') = 'x' AND to_number(a, '999') = 1
a[0].b['c'] = 1 AND a.b.c[1] > 2
collation(a) = 'UTF8_BINARY'
like(a, 'x%') AND ilike(a, 'x') AND rlike(a, 'x') AND regexp(a, 'x')
from_utc_timestamp(a, 'UTC') > b AND to_utc_timestamp(a, 'UTC') > b
minus > 1 AND `from` = 1 AND union = 2
values = 1 AND on = 2 AND with > 3
interval > 1
""".strip().splitlines()

WRONG_FOR_ROWS = {
    **{
        sql: words
        for sql, words in WRONG.items()
        # Databricks has no FETCH in such a place, and reads brackets and these words of Snowflake in its own way.
        if not DATABRICKS.not_one_condition(sql) and sql not in ("DROP TABLE a", "WHERE a > 1", '"" > 1')
    },
    "`` > 1": "'``': it is no name",
    "größe > 1": "'größe': such letters can stand only in straight quotes",
    "a RLIK 'x'": "'RLIK': it cannot stand here; did you mean RLIKE?",
    "day > current_date() - INTRVAL 7 DAYS": "'7': it cannot stand here; did you mean INTERVAL?",
    "extract(YEAR FORM day) > 2000": "'YEAR': expected FROM or comma after EXTRACT",
    "exists(a, x -> x > )": "')': something is missing",
    "transform(a, x - > x + 1)[0] > 1": "'>': something is missing",
    "date_sub(current_date() 7) > a": "'7': expecting )",
    "a IN (SELECT id FROM main.legal.x WHER b > 1)": "'b': expecting ); did you mean WHERE?",
    "NOT EXISTS (SELECT 1 FROM)": "')': expected table name",
    "a > 1 LIMIT 1": "'LIMIT': it cannot stand here",
    "a > 1 GROUP BY b": "'GROUP BY': it cannot stand here",
    "a > 1 HAVING b": "'HAVING': it cannot stand here",
    "a > 1 QUALIFY b": "'QUALIFY': it cannot stand here",
    "DROP TABLE a": "'TABLE': it cannot stand here",
    "WHERE a > 1": "'WHERE': something is missing",
}

# From Databricks' list of built-in functions.
AGGREGATES = re.findall(
    r"\w+",
    """
agg any any_value approx_count_distinct approx_percentile approx_top_k array_agg avg bit_and bit_or bit_xor
bitmap_and_agg bitmap_construct_agg bitmap_or_agg bool_and bool_or collect_list collect_set corr count count_if
count_min_sketch covar_pop covar_samp every first first_value grouping grouping_id histogram_numeric hll_sketch_agg
hll_union_agg kll_merge_agg_bigint kll_merge_agg_double kll_merge_agg_float kll_sketch_agg_bigint kll_sketch_agg_double
kll_sketch_agg_float kurtosis last last_value listagg max max_by mean measure median min min_by mode percentile
percentile_approx regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy
schema_of_json_agg schema_of_variant_agg skewness some st_envelope_agg st_union_agg std stddev stddev_pop stddev_samp
string_agg sum theta_intersection_agg theta_sketch_agg theta_union_agg try_avg try_sum tuple_intersection_agg_double
tuple_intersection_agg_integer tuple_sketch_agg_double tuple_sketch_agg_integer tuple_union_agg_double
tuple_union_agg_integer var_pop var_samp variance
""",
)
GENERATORS = re.findall(
    r"\w+",
    """
explode explode_outer inline inline_outer json_tuple posexplode posexplode_outer stack variant_explode
""",
)
WINDOWS = ("cume_dist", "dense_rank", "lag", "lead", "nth_value", "ntile", "percent_rank", "rank", "row_number", "sum")


def errors_for_rows(sql: str) -> list[str]:
    return sql_errors("source", where_of({"where": sql}), DATABRICKS)


def test_what_databricks_takes_for_rows_is_neither_an_error_nor_a_warning() -> None:
    assert len(VALID_FOR_ROWS) >= 80
    conditions = dict(zip(VALID_FOR_ROWS, VALID_FOR_ROWS, strict=True))
    refused = [sql for sql in VALID_FOR_ROWS if DATABRICKS.not_one_condition(sql)]
    found = sql_errors("source", conditions, DATABRICKS), sql_warnings("source", conditions, DATABRICKS)
    assert (refused, *found) == ([], [], [])


def test_a_misspelt_condition_for_rows_is_an_error_that_names_the_word() -> None:
    assert len(WRONG_FOR_ROWS) >= 40
    assert {sql: errors_for_rows(sql) for sql in WRONG_FOR_ROWS} == {
        sql: [f"source.where: it cannot be read at {words}"] for sql, words in WRONG_FOR_ROWS.items()
    }


def test_a_condition_for_rows_has_no_aggregate_window_or_generator_outside_of_a_subquery() -> None:
    """Databricks would refuse it with INVALID_WHERE_CONDITION, after the deployment of the job."""
    calls = {
        **{f"{name}(a, b) > 1": f"the aggregate {name}" for name in AGGREGATES},
        **{f"a > 1 AND {name}(a) > 1": f"the aggregate {name}" for name in ("count", "every", "try_sum")},
        **{f"{name}(a) = 1": f"{name}, which makes rows" for name in GENERATORS},
        **{f"{name}(a) OVER (ORDER BY b) = 1": f"the window function {name}" for name in WINDOWS},
    }
    told = {sql: "".join(errors_for_rows(sql)) for sql in calls}
    assert [sql for sql, text in told.items() if "Databricks takes none in a condition for rows" not in text] == []
    # sqlglot gives some functions the name of another one with the same meaning.
    assert sum(calls[sql].upper() in text.upper() for sql, text in told.items()) > 0.7 * len(calls)
    subqueries = [f"a IN (SELECT {sql.partition(' ')[0]} FROM main.b.c)" for sql in calls if "OVER" not in sql]
    assert [error for sql in subqueries for error in errors_for_rows(sql)] == []


def test_a_function_of_a_user_is_no_aggregate_whatever_its_name() -> None:
    own = (
        "my_agg(a)",
        "sum_agg_fast(a)",
        "f.my_agg(a)",
        "main.f.my_agg(a)",
        "main.f.array_agg(a)",
        "f.explode_outer(a)",
    )
    assert {call: errors_for_rows(f"{call} > 1") for call in own} == {call: [] for call in own}
    # A field of what an aggregate returns has a point too, and the parameter of a user's function may be an aggregate.
    for call in ("string_agg(a).b", "bitmap_or_agg(a).b", "main.f.my_agg(bitmap_or_agg(a))", "f.my_agg(max(a))"):
        [error] = errors_for_rows(f"{call} > 1")
        assert "it has the aggregate" in error, call


def test_an_interval_of_rows_has_a_unit_of_databricks() -> None:
    assert errors_for_rows("day > now() - INTERVAL 7 DAYZ") == [
        "source.where: INTERVAL has no unit DAYZ; did you mean DAY?"
    ]
    assert errors_for_rows("day > now() - INTERVAL '1-2' YEAR TO MOON")[0].startswith("source.where: INTERVAL has no")


def test_what_may_be_right_for_rows_is_a_warning() -> None:
    doubtful = {
        "lenght(a) > 1": DOUBTFUL["LENGHT(a) > 1"].replace("LENGHT", "lenght"),
        "a::NEWTYPE(3) > 1": "sqlglot knows no type NEWTYPE of Databricks",
        "ROUND(a, 1, 2, 3, 4, 5) = 1": DOUBTFUL["ROUND(a, 1, 2, 3, 4, 5) = 1"].replace("Snowflake", "Databricks"),
    }
    for sql, words in doubtful.items():
        assert sql_warnings("source", where_of({"where": sql}), DATABRICKS) == [f"source.where: {words}"]
        assert errors_for_rows(sql) == []


@pytest.mark.parametrize("source", [None, "a", ["where"], {}, {"where": None}, {"where": 1}, {"where": "a BETWEN 1;"}])
def test_what_the_type_of_a_source_refuses_is_not_parsed(source: object) -> None:
    assert sql_errors("source", where_of(source), DATABRICKS) == []


@pytest.mark.tier("full")
def test_a_column_of_a_source_may_have_each_name() -> None:
    """But those of operators and clauses, which then need backticks: Databricks reserves no word."""
    parser = Databricks.Parser
    words = {*Databricks.Tokenizer.KEYWORDS, *parser.FUNCTIONS, *parser.FUNCTION_PARSERS}
    names = {word for word in words if re.fullmatch(r"[A-Z_]\w*", word)}
    forms = ("{} > 1", "1 < {}", "{} IS NOT NULL", "ABS({}) > 1", "{} BETWEEN 1 AND 2")
    refused = {name for name in names for form in forms if errors_for_rows(form.format(name))}
    assert len(names) > 500
    assert refused <= {*DATABRICKS.operators, "CONNECT_BY_ROOT", "SELECT", "ANY"}
    assert [error for name in refused for error in errors_for_rows(f"`{name}` > 1")] == []


@pytest.mark.others_nightly
@pytest.mark.tier("full")
@pytest.mark.parametrize("system", [SNOWFLAKE, DATABRICKS], ids=lambda system: system.name)
@pytest.mark.parametrize("part", ["(", "ABS(", "CASE WHEN a THEN ", "NOT ", "[", "{", "a::", "a:b", "a AND ", "CAST("])
def test_a_huge_condition_is_judged_too(part: str, system: System) -> None:
    # What the collector of another test's objects does at the end of the stack would be an error of this test.
    gc.collect()
    gc.disable()
    try:
        judged = judge(part * (50_000 // len(part)), system)
    finally:
        gc.enable()
    assert isinstance(judged, Judgement)
