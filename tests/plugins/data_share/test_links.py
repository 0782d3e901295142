"""Links to the other systems: the address of a query's page, and which query a step's link leads to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization

from data_share import snowflake_operators
from data_share.databricks_run import DatabricksRunSensor
from data_share.links import DatabricksRunLink, SnowflakeQueryLink, snowsight_url
from data_share.snowflake_hook import DataShareSnowflakeHook, SnowflakeStatementError
from data_share.snowflake_operators import CheckFailedError, SnowflakeStatementsOperator, SnowflakeTableCheckOperator

PAGE = "https://app.snowflake.com/myorg/share/#/compute/history/queries/{}/detail"


@pytest.mark.parametrize(
    ("account", "region", "address"),
    [
        ("MYORG-SHARE", None, "app.snowflake.com/myorg/share"),
        ("myorg-share_eu", "", "app.snowflake.com/myorg/share_eu"),
        ("myorg-share-eu", None, "app.snowflake.com/myorg/share-eu"),
        ("xy12345", None, "app.snowflake.com/us-west-2/xy12345"),
        ("xy12345", "eu-west-1", "app.snowflake.com/eu-west-1/xy12345"),
        ("xy12345.us-east-1", None, "app.snowflake.com/us-east-1/xy12345"),
        ("XY12345.ap-northeast-1.aws", None, "app.snowflake.com/ap-northeast-1.aws/xy12345"),
        ("xy12345.west-europe.azure", None, "app.snowflake.com/west-europe.azure/xy12345"),
        ("myorg-share.privatelink", None, "app-myorg-share.privatelink.snowflakecomputing.com/myorg/share"),
        (
            "xy12345.us-east-1.privatelink",
            None,
            "app.us-east-1.privatelink.snowflakecomputing.com/us-east-1/xy12345",
        ),
    ],
)
def test_the_page_of_a_query_follows_from_the_account(account: str, region: str | None, address: str) -> None:
    page = f"https://{address}/#/compute/history/queries/01b2-77/detail"
    assert snowsight_url(account, region, "01b2-77") == page


class Snowflake:
    """Answers each statement with a query id of its own; the one that holds FAIL fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(
            "AIRFLOW_CONN_SNOWFLAKE_DEFAULT", '{"conn_type": "snowflake", "extra": {"account": "MYORG-SHARE"}}'
        )
        self.count = 0

    def call(
        self, hook: Any, method: str, url: str, params: Any = None, body: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        if method == "GET":
            columns = [{"name": "NAME", "type": "text"}, {"name": "HOLDS", "type": "boolean"}]
            return 200, {"resultSetMetaData": {"rowType": columns}, "data": [["deep", "false"]]}
        self.count += 1
        if body and "FAIL" in body["statement"]:
            return 422, {"statementHandle": f"q{self.count}", "code": "1", "message": "no"}
        return 202, {"statementHandle": f"q{self.count}"}


@pytest.fixture(autouse=True)
def snowflake(monkeypatch: pytest.MonkeyPatch) -> Snowflake:
    service = Snowflake(monkeypatch)
    call = mock.create_autospec(DataShareSnowflakeHook._call, side_effect=service.call)
    monkeypatch.setattr(DataShareSnowflakeHook, "_call", call)
    return service


def link_of(operator: Any) -> str:
    return SnowflakeQueryLink().get_link(operator, ti_key=None)


def statements(sql: str) -> SnowflakeStatementsOperator:
    return SnowflakeStatementsOperator(task_id="step", sql=sql)


def test_a_step_links_to_its_last_statement(task_context: Any) -> None:
    step = statements("SELECT 1; SELECT 2;")
    step.execute(task_context(step))
    assert link_of(step) == PAGE.format("q2")


def test_a_failed_step_links_to_the_statement_that_failed(task_context: Any) -> None:
    step = statements("SELECT 1; FAIL; SELECT 2;")
    with pytest.raises(SnowflakeStatementError):
        step.execute(task_context(step))
    assert link_of(step) == PAGE.format("q2")


def test_a_step_that_failed_before_its_first_statement_has_no_link() -> None:
    assert link_of(statements("SELECT 1")) == ""


def test_publishing_links_to_the_transaction_and_not_to_the_looks_into_the_ledger(task_context: Any) -> None:
    step = SimpleNamespace(
        _context={},
        _hook=SimpleNamespace(query_ids=["ledger"], query_page_url=PAGE.format),
        query_ids=[],
        _remember=lambda query_id: None,
        shown_query_id="",
    )
    snowflake_operators.SnowflakePublishOperator._remember_transaction(step, "transaction")  # type: ignore[arg-type]
    assert snowflake_operators._query_page_url(step) == PAGE.format("transaction")  # type: ignore[arg-type]


def test_failed_checks_link_to_the_checks_and_not_to_the_look_for_rows(task_context: Any, snowflake: Snowflake) -> None:
    step = SnowflakeTableCheckOperator(
        task_id="step", table="t", checks={"deep": "depth > 0"}, sql="SELECT 'deep', FALSE"
    )
    with pytest.raises(CheckFailedError):
        step.execute(task_context(step))
    assert snowflake.count > 1
    assert link_of(step) == PAGE.format("q1")


def test_the_sensor_links_to_the_page_of_the_run_that_it_followed() -> None:
    assert DatabricksRunLink().get_link(SimpleNamespace(run_page_url="https://run"), ti_key=None) == "https://run"


def test_the_api_server_knows_where_each_link_stands() -> None:
    with DAG("links", schedule=None) as dag:
        DatabricksRunSensor(task_id="wait", run_id="1", timeout_seconds=1)
        statements("SELECT 1")
        SnowflakeTableCheckOperator(task_id="check", table="t", checks={"a": "b"}, sql="SELECT 1")
    stored = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    links = {task.task_id: {link.name: link.xcom_key for link in task.operator_extra_links} for task in stored.tasks}
    snowflake = {SnowflakeQueryLink.name: SnowflakeQueryLink.xcom_key}
    assert links == {
        "wait": {DatabricksRunLink.name: DatabricksRunLink.xcom_key},
        "step": snowflake,
        "check": snowflake,
    }
