"""The link in Airflow's UI from a task to its Databricks run."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink


class DatabricksRunLink(BaseOperatorLink):
    """
    Leads to the page of the run that a :class:`DatabricksRunSensor` follows.

    The API server shows what stands in the XCom of ``xcom_key``. A task process writes it at its end; a task that ends
    in the triggerer has none, so there the trigger writes it, as soon as it knows the page.
    """

    name = "See Databricks Job Run"  # the name that the provider's link of export_to_s3 has
    xcom_key = "databricks_run_page"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the page of the run that the operator followed in this process."""
        return str(operator.run_page_url)
