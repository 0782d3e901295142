"""Links to the other systems: the address of a query's page, and which query a step's link leads to."""

from __future__ import annotations

import contextlib
from typing import Any
from unittest import mock

import pytest
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization

from data_share.databricks.follow import DatabricksRunSensor
from data_share.databricks.links import DatabricksRunLink
from data_share.share import Share
from data_share.snowflake.check import CheckFailedError, SnowflakeCheckOperator
from data_share.snowflake.links import SnowflakeQueryLink, snowsight_url
from data_share.snowflake.publish import SnowflakePublishOperator
from data_share.snowflake.sql_api import DataShareSnowflakeHook, SnowflakeStatementError, _Answer
from data_share.snowflake.statements import SnowflakeStatementsOperator
from tests.plugins.data_share.conftest import known_sync, tides

TIDES = tides(target_table="tides")
FAILED = {"CHECK_NAME": "deep", "CONDITION": "depth > 0", "WHAT_TO_DO": "", "CHECK_RESULT": "0"}
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
    """Answers each statement with a query id of its own: q1, q2, ... The one that holds FAIL fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(
            "AIRFLOW_CONN_SNOWFLAKE_DEFAULT", '{"conn_type": "snowflake", "extra": {"account": "MYORG-SHARE"}}'
        )
        self.statements: list[str] = []
        self.ledger: list[dict[str, str]] = []

    def call(
        self, hook: Any, method: str, url: str, params: Any = None, body: dict[str, Any] | None = None, **_: Any
    ) -> _Answer:
        if body is None:
            statement = self.statements[int(url.rpartition("/q")[2]) - 1]
            rows = self.ledger if "ledger" in statement else [FAILED]
            columns = [{"name": name, "type": "text"} for row in rows[:1] for name in row]
            data = [list(row.values()) for row in rows]
            handles = [url.rpartition("/")[2]]
            return _Answer(200, {"resultSetMetaData": {"rowType": columns}, "data": data, "statementHandles": handles})
        self.statements.append(body["statement"])
        handle = f"q{len(self.statements)}"
        if "FAIL" in body["statement"]:
            return _Answer(422, {"statementHandle": handle, "code": "1", "message": "no"})
        if "BEGIN" in body["statement"]:
            names = ("RUN_KEY", "EXPORT_PATH", "ROWS_INSERTED", "ROWS_UPDATED", "ROWS_DELETED", "ROWS_IN_TARGET")
            self.ledger = [dict.fromkeys(names, "")]
        return _Answer(202, {"statementHandle": handle})


@pytest.fixture(autouse=True)
def snowflake(monkeypatch: pytest.MonkeyPatch) -> Snowflake:
    service = Snowflake(monkeypatch)
    call = mock.create_autospec(DataShareSnowflakeHook._call, side_effect=service.call)
    monkeypatch.setattr(DataShareSnowflakeHook, "_call", call)
    return service


def link_of(operator: Any) -> str:
    return SnowflakeQueryLink().get_link(operator, ti_key=None)


def statements(sql: str) -> SnowflakeStatementsOperator:
    return SnowflakeStatementsOperator(share=Share(), task_id="step", sql=sql)


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


@pytest.mark.parametrize("change", ["INSERT", "FAIL"])
def test_publishing_links_to_the_transaction_and_not_to_the_looks_into_the_ledger(
    task_context: Any, snowflake: Snowflake, change: str
) -> None:
    sql = {
        "publish": f"BEGIN; {change}; COMMIT; SELECT ledger;",
        "select_ledger_row": "SELECT ledger",
        "select_lock": "SELECT lock",
    }
    step = SnowflakePublishOperator(share=Share(), task_id="publish", dataset=TIDES, sql=sql)
    loaded: dict[str, Any] = {"export_path": "path", "new_columns": {}, "created_columns": {}, "copy_attempt": 1}
    step.sync = known_sync(TIDES, key="key", attempt=2, loaded=loaded)
    with contextlib.suppress(SnowflakeStatementError):
        step.execute(task_context(step))
    looks_after = 0 if change == "INSERT" else 1
    assert ["BEGIN" in statement for statement in snowflake.statements] == [False, True, *[False] * looks_after]
    assert link_of(step) == PAGE.format("q2")


def test_failed_checks_link_to_the_checks_and_not_to_the_look_for_rows(task_context: Any, snowflake: Snowflake) -> None:
    step = SnowflakeCheckOperator(
        share=Share(), task_id="step", dataset=TIDES, sql={"check_staging": "SELECT 'deep', FALSE"}
    )
    step.sync = known_sync(TIDES, staging_table="t", loaded={"proofs": [], "unproven": {}})
    with pytest.raises(CheckFailedError):
        step.execute(task_context(step))
    assert len(snowflake.statements) > 1
    assert link_of(step) == PAGE.format("q1")


def test_the_sensor_links_to_the_page_of_the_run_that_it_followed() -> None:
    sensor = DatabricksRunSensor(task_id="wait", databricks_conn_id="databricks_default", run_id="1", timeout_seconds=1)
    sensor.run_page_url = "https://run"
    assert DatabricksRunLink().get_link(sensor, ti_key=None) == "https://run"


def test_the_api_server_knows_where_each_link_stands() -> None:
    with DAG("links", schedule=None) as dag:
        DatabricksRunSensor(task_id="wait", databricks_conn_id="databricks_default", run_id="1", timeout_seconds=1)
        statements("SELECT 1")
        SnowflakeCheckOperator(share=Share(), task_id="check", dataset=TIDES, sql={"check_staging": "SELECT 1"})
    stored = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    links = {task.task_id: {link.name: link.xcom_key for link in task.operator_extra_links} for task in stored.tasks}
    snowflake = {SnowflakeQueryLink.name: SnowflakeQueryLink.xcom_key}
    assert links == {
        "wait": {DatabricksRunLink.name: DatabricksRunLink.xcom_key},
        "step": snowflake,
        "check": snowflake,
    }
