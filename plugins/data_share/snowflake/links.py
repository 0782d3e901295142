"""Links in Airflow's UI from a task to its query in Snowsight, Snowflake's web interface."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink

# Accounts of this region have no region in their identifier; see "Account identifiers" in Snowflake's documentation.
_REGION_WITHOUT_NAME = "us-west-2"


class SnowflakeQueryLink(BaseOperatorLink):
    """Leads to Snowsight's page of the query that a step is about: of a failed step, the one that failed."""

    name = "See Snowflake Query"
    xcom_key = "snowflake_query_page"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the page of the operator's query; nothing when the step failed before it had one."""
        return str(operator.query_page_url)


def snowsight_url(account: str, region: str | None, query_id: str) -> str:
    """
    Return the page of a query in Snowsight, Snowflake's web interface.

    :param account: the account as the connection names it: ``org-account``, or the older ``locator.region.cloud``;
        ``.privatelink`` at the end leads to the private address of Snowsight
    :param region: region of a locator that stands without one, if the connection has it
    :param query_id: the query
    """
    name, *segments = account.lower().split(".")
    private = "privatelink" in segments
    region = ".".join(segment for segment in segments if segment != "privatelink") or (region or "").lower()
    organization, hyphen, account_name = name.partition("-")
    if hyphen:
        host, path = f"app-{name}", f"{organization}/{account_name}"
    else:
        region = region or _REGION_WITHOUT_NAME
        host, path = f"app.{region}", f"{region}/{name}"
    domain = f"{host}.privatelink.snowflakecomputing.com" if private else "app.snowflake.com"
    return f"https://{domain}/{path}/#/compute/history/queries/{query_id}/detail"
