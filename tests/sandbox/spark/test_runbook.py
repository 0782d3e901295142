"""SQL of the runbook that is for Databricks, on real Spark."""

from __future__ import annotations

from typing import Any

import pytest

from tests.docs.markdown import Page

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox, pytest.mark.spark]


def test_the_view_against_empty_texts_changes_nothing_else(spark: Any) -> None:
    [block] = [one.content for one in Page.read("docs/runbook.md").blocks if "CREATE VIEW" in one.content]
    view, grant = (statement.strip() for statement in block.strip().removesuffix(";").split(";"))
    assert grant.startswith("GRANT SELECT ON TABLE main.weather.forecasts_shared TO ")
    rows = [(1, "", "a"), (2, "x", ""), (3, None, " "), (4, "y", "b")]
    spark.createDataFrame(rows, "k INT, place STRING, remark STRING").write.saveAsTable("load.forecasts")
    spark.sql(view.replace("main.weather.", "load."))
    shared = spark.table("load.forecasts_shared")
    assert [(field.name, field.dataType.simpleString()) for field in shared.schema] == [
        ("k", "int"),
        ("place", "string"),
        ("remark", "string"),
    ]
    assert sorted(map(tuple, shared.collect())) == [(1, None, "a"), (2, "x", None), (3, None, " "), (4, "y", "b")]
