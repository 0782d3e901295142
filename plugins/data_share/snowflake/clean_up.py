"""The daily clean-up in Snowflake."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from data_share.share import staged_by_run_of
from data_share.snowflake.sql_api import SnowflakeStatementError
from data_share.snowflake.statements import DOES_NOT_EXIST, SnowflakeStatementsOperator, json_row


class SnowflakeCleanUpOperator(SnowflakeStatementsOperator):
    """
    Drops old staging tables; returns their names and the old exports that the ledger lists.

    The DAG's param ``keep_days`` is the age in days from which they are old. The age of a table counts from the start
    of its run, or from its own creation if that was later: an old run may have been cleared recently.

    :param sql: SQL file that lists the staging tables
    :param select_old_exports: SQL file that lists the old exports
    """

    template_fields: Sequence[str] = ("sql", "select_old_exports", "snowflake_conn_id")

    def __init__(self, *, sql: str, select_old_exports: str, **kwargs: Any) -> None:
        super().__init__(sql=sql, **kwargs)
        self.select_old_exports = select_old_exports

    def execute(self, context: Context) -> dict[str, Any]:  # type: ignore[override]
        """Drop the old staging tables, and list the old exports."""
        self._context = context
        keep_from = datetime.now(UTC) - timedelta(days=context["params"]["keep_days"])
        try:
            found = self._run_file(str(self.sql), "list staging")[-1].rows
            exports = [json_row(row) for row in self._run_file(self.select_old_exports, "old exports")[-1].rows]
        except SnowflakeStatementError as error:
            if DOES_NOT_EXIST not in str(error):
                raise
            # No failure: Airflow may run the clean-up before the set-up, and then there is nothing to clean up.
            raise AirflowSkipException(
                f"Nothing is set up yet, or this role does not see it: {error.message}"
            ) from None
        tables = {str(row["name"]): row["created_on"] for row in found}
        old_tables = [
            table
            for table, created in tables.items()
            if (run_time := staged_by_run_of(table)) and max(run_time, created) < keep_from
        ]
        self._drop_staging_tables(old_tables)
        self.log.info("Dropped %s staging table(s); %s export(s) are old", len(old_tables), len(exports))
        return {"dropped_tables": old_tables, "old_exports": exports}
