"""The link in Airflow's UI from a task to its Databricks run."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink


class DatabricksRunLink(BaseOperatorLink):
    """
    Leads to the page of the run that a :class:`DatabricksRunSensor` follows.

    The API server reads the address from the XCom ``xcom_key``, which a task process pushes when it ends. The sensor
    has no process of its own, so its trigger pushes the XCom as soon as it knows the page.
    """

    name = "See Databricks Job Run"  # the same name as the provider's link on export_to_s3
    xcom_key = "databricks_run_page"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the page of the run that the operator followed in this process."""
        return str(operator.run_page_url)
