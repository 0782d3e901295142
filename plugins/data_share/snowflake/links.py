"""Links in Airflow's UI from a task to its query in Snowsight, Snowflake's web interface."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink

# An account locator without a region is in this region: "Account identifiers" in Snowflake's documentation.
_DEFAULT_REGION = "us-west-2"


class SnowflakeQueryLink(BaseOperatorLink):
    """Leads to Snowsight's page of a step's main query, or of the query that failed."""

    name = "See Snowflake Query"
    xcom_key = "snowflake_query_page"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the page of the operator's query; empty if the step failed before its first query."""
        return str(operator.query_page_url)


def snowsight_url(account: str, region: str | None, query_id: str) -> str:
    """
    Return the address of a query's page in Snowsight, Snowflake's web interface.

    :param account: the connection's account: ``org-account``, or the older ``locator.region.cloud``; with
        ``.privatelink`` at the end, the address is Snowsight's private one
    :param region: the connection's region, used for a locator without a region
    :param query_id: id of the query
    """
    name, *segments = account.lower().split(".")
    private = "privatelink" in segments
    region = ".".join(segment for segment in segments if segment != "privatelink") or (region or "").lower()
    organization, hyphen, account_name = name.partition("-")
    if hyphen:
        host, path = f"app-{name}", f"{organization}/{account_name}"
    else:
        region = region or _DEFAULT_REGION
        host, path = f"app.{region}", f"{region}/{name}"
    domain = f"{host}.privatelink.snowflakecomputing.com" if private else "app.snowflake.com"
    return f"https://{domain}/{path}/#/compute/history/queries/{query_id}/detail"
