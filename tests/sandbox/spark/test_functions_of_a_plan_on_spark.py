"""The functions that a plan of an export needs, and the syntax of versions: real Spark and the sandbox's own engine."""

from __future__ import annotations

from typing import Any

import pytest
import s3fs

from emulators.databricks.errors import StatementError
from emulators.databricks.export import Session

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox, pytest.mark.spark]

COMMITS = r"""
WITH commits AS (
  SELECT * FROM VALUES
    (0, TIMESTAMP '2026-01-02 03:04:05.678901', 'WRITE', '{"a":{"b":1},"c":null,"d":"x\"y"}'),
    (1, TIMESTAMP '2026-11-29 23:59:59', 'OPTIMIZE', 'no json'),
    (2, TIMESTAMP '1969-12-31 23:59:59.000001', 'MERGE', CAST(NULL AS STRING))
  AS t(version, done, operation, parameters)
)
SELECT [columns] FROM commits
"""
EXPRESSIONS = (
    "MAX_BY(operation, version)",
    "MAX_BY(operation, CASE WHEN version < 2 THEN version END)",
    "MAX_BY(operation, version) FILTER (WHERE version > 5)",
    "COUNT_IF(operation NOT IN ('OPTIMIZE', 'VACUUM START'))",
    "COUNT_IF(version > 5)",
    "COUNT_IF(parameters IS NULL)",
    "MIN(UNIX_MICROS(done))",
    "MAX(UNIX_MICROS(done))",
    "MAX(DATE_FORMAT(done, 'yyyy-MM-dd HH:mm:ss'))",
    "MIN(DATE_FORMAT(done, 'yyyy-MM-dd HH:mm:ss.SSSSSS'))",
    "MAX(DATE_FORMAT(done, \"yyyy-MM-dd'T'HH:mm:ss.SSSSSS'Z'\"))",
    "MAX(SPLIT('main.we-ather.t', '[.]')[1])",
    "MAX(SIZE(SPLIT('a..b', '[.]')))",
    "MAX(SPLIT(parameters, ',')[0])",
    "MAX(REGEXP_REPLACE('`a`.`b``c`', '^`|`$', ''))",
    "MAX(REGEXP_REPLACE('abab', '(a)b', '$1'))",
    "MAX(GET_JSON_OBJECT(parameters, '$.a.b'))",
    "MAX(GET_JSON_OBJECT(parameters, '$.a'))",
    "MAX(GET_JSON_OBJECT(parameters, '$.c'))",
    "MAX(GET_JSON_OBJECT(parameters, '$.d'))",
    "MAX(GET_JSON_OBJECT(parameters, '$.x'))",
    "MAX(TO_JSON(NAMED_STRUCT('v', 1, 'none', CAST(NULL AS STRING), 't', 'x\"y', 'b', TRUE)))",
    "TO_JSON(NAMED_STRUCT('m', MAX(version), 'none', MAX(CAST(NULL AS BIGINT))))",
    "MAX('VACUUM END' RLIKE '^VACUUM')",
    "MAX('x' RLIKE '^VACUUM')",
    "MAX(COALESCE(CAST(NULL AS STRING), operation))",
    "MAX(ARRAY_CONTAINS(ARRAY('a', 'b'), 'b'))",
    "MAX(ARRAY_CONTAINS(ARRAY('a', NULL), 'b'))",
    "MAX(COALESCE(ARRAY_CONTAINS(ARRAY('a', NULL), 'b'), FALSE))",
)


def test_the_functions_of_a_plan_are_those_of_spark(spark: Any, share_files: s3fs.S3FileSystem) -> None:
    columns = ", ".join(f"CAST({text} AS STRING) AS c{number}" for number, text in enumerate(EXPRESSIONS))
    sql = COMMITS.replace("[columns]", columns)
    session = Session(share_files.client_kwargs["endpoint_url"], share_files)
    try:
        ours = session.execute(sql, {})
    finally:
        session.close()
    assert ours is not None
    theirs = spark.sql(sql).collect()[0].asDict()
    assert dict(zip(EXPRESSIONS, ours.values(), strict=True)) == dict(zip(EXPRESSIONS, theirs.values(), strict=True))


@pytest.mark.parametrize("version", ["5L", "CAST('5' AS BIGINT)", "n", "(SELECT 5)", "-1", "0.5"])
def test_versions_that_spark_cannot_parse_are_refused(spark: Any, share_files: s3fs.S3FileSystem, version: str) -> None:
    sql = f"SELECT 1 FROM main.w.t VERSION AS OF {version}"
    with pytest.raises(Exception, match="PARSE_SYNTAX_ERROR"):
        spark.sql(sql)
    session = Session(share_files.client_kwargs["endpoint_url"], share_files)
    with pytest.raises(StatementError, match="PARSE_SYNTAX_ERROR"):
        session.execute(sql, {})
    session.close()
