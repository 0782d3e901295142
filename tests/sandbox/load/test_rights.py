"""A target that belongs to its owners: the rights on it that the loader's role needs, and what it says without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
import sqlparse

from data_share.datasets import Dataset
from data_share.snowflake.sql_api import SnowflakeStatementError
from tests.docs.markdown import Page
from tests.sandbox.load.driver import SCHEMA, Row, Share

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

ROWS: list[Row] = [{"k": 1, "name": "one", "amount": 1.0}]
MERGE: dict[str, Any] = {"load_mode": "merge", "merge_keys": ("k",)}


def of_others(share: Share, administer: Callable[[str], object], rights: list[str], **fields: Any) -> Dataset:
    """A dataset whose target belongs to another role, which gave the loader these rights."""
    dataset = share.dataset(**fields)
    administer(f"GRANT OWNERSHIP ON TABLE {dataset.target_table} TO ROLE accountadmin")
    administer(f"GRANT {', '.join(rights)} ON TABLE {dataset.target_table} TO ROLE data_share_loader")
    return dataset


@pytest.mark.parametrize(
    ("fields", "rights"),
    [
        ({"load_mode": "append"}, ["SELECT", "INSERT"]),
        pytest.param({"load_mode": "replace"}, ["SELECT", "INSERT", "DELETE"], marks=pytest.mark.tier("nightly")),
        pytest.param(MERGE, ["SELECT", "INSERT", "UPDATE"], marks=pytest.mark.tier("nightly")),
        ({**MERGE, "delete_missing": True}, ["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ],
    ids=["append", "replace", "merge", "merge and delete"],
)
def test_the_least_rights_on_a_target(
    a_share: Share, administer: Callable[[str], object], fields: dict[str, Any], rights: list[str]
) -> None:
    dataset = of_others(a_share, administer, rights, **fields)
    a_share.write(dataset, ROWS)
    a_share.sync(dataset)
    before = a_share.everything(dataset)
    for right in rights:
        administer(f"REVOKE {right} ON TABLE {dataset.target_table} FROM ROLE data_share_loader")
        with pytest.raises(SnowflakeStatementError) as caught:
            a_share.sync(dataset)
        said = f"Insufficient privileges to operate on table '{dataset.target_table.upper()}'"
        assert said in str(caught.value)
        assert "(code 003001," in str(caught.value) or "(code 100132," in str(caught.value)
        administer(f"GRANT {right} ON TABLE {dataset.target_table} TO ROLE data_share_loader")
        assert a_share.everything(dataset) == before
    a_share.sync(dataset)
    assert len(a_share.ledger(dataset)) == 2


def test_the_loader_needs_the_right_to_use_the_integration_in_each_sync(
    a_share: Share, administer: Callable[[str], object]
) -> None:
    dataset = a_share.dataset(load_mode="replace")
    a_share.write(dataset, ROWS)
    a_share.sync(dataset)
    before = a_share.everything(dataset)
    administer("REVOKE USAGE ON INTEGRATION s3_share_int FROM ROLE data_share_loader")
    try:
        with pytest.raises(SnowflakeStatementError) as caught:
            a_share.sync(dataset)
    finally:
        administer("GRANT USAGE ON INTEGRATION s3_share_int TO ROLE data_share_loader")
    assert "Insufficient privileges to operate on integration 'S3_SHARE_INT'" in str(caught.value)
    assert a_share.everything(dataset) == before
    a_share.sync(dataset)
    assert len(a_share.ledger(dataset)) == 2


def test_adding_columns_takes_ownership(a_share: Share, administer: Callable[[str], object]) -> None:
    dataset = of_others(a_share, administer, ["SELECT", "INSERT", "DELETE"], schema_drift="add_new")
    a_share.write(dataset, [{**ROWS[0], "note": "new"}], SCHEMA.append(pa.field("note", pa.string())))
    with pytest.raises(SnowflakeStatementError, match="Insufficient privileges to operate on table"):
        a_share.sync(dataset)
    assert a_share.target(dataset) == []
    administer(f"GRANT OWNERSHIP ON TABLE {dataset.target_table} TO ROLE data_share_loader REVOKE CURRENT GRANTS")
    a_share.sync(dataset)
    assert a_share.target(dataset) == [{**ROWS[0], "note": "new"}]


def test_grants_of_others_outlive_a_replace(a_share: Share, administer: Callable[[str], object]) -> None:
    dataset = a_share.dataset(load_mode="replace")
    administer("CREATE ROLE IF NOT EXISTS analyst")
    for right in (
        "USAGE ON DATABASE data_share",
        "USAGE ON SCHEMA data_share.public",
        "USAGE ON WAREHOUSE load_wh",
        f"SELECT ON TABLE {dataset.target_table}",
    ):
        administer(f"GRANT {right} TO ROLE analyst")
    administer("GRANT ROLE analyst TO USER share_svc")
    a_share.write(dataset, ROWS)
    a_share.sync(dataset)
    hook = type(a_share._hook)("snowflake_default", role="ANALYST")
    assert len(hook.run_statement(f"SELECT * FROM {dataset.target_table}").rows) == 1
    with pytest.raises(SnowflakeStatementError, match="does not exist or not authorized"):
        hook.run_statement("SELECT * FROM sync_history")


def test_the_loader_can_ask_what_the_runbook_asks_of_the_ledger(a_share: Share) -> None:
    dataset = a_share.dataset()
    a_share.write(dataset, ROWS)
    a_share.sync(dataset)
    blocks = "\n".join(block.content for block in Page.read("docs/runbook.md").blocks if block.language == "sql")
    asked = sqlparse.split(blocks.replace("'shared_forecasts'", f"'{dataset.name}'"))
    queries = [sql.rstrip(";") for sql in asked if "FROM sync_history" in sql or "FROM export_manifests" in sql]
    answers = {sql: a_share.query(sql) for sql in queries}
    of_dataset = [len(rows) for sql, rows in answers.items() if dataset.name in sql]
    assert of_dataset == [1, 1, 1, 1], "its sync, what it exported of the source, its cost, and its export"
