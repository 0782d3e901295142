"""The daily clean-up in Snowflake."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from data_share.share import staged_by_run_of
from data_share.snowflake.sql_api import (
    SnowflakeStatementError,
)
from data_share.snowflake.statements import NOT_THERE, SnowflakeStatementsOperator, json_row


class SnowflakeCleanUpOperator(SnowflakeStatementsOperator):
    """
    Drops the staging tables of old runs; returns their names and the exports that are old.

    :param sql: file that lists the staging tables
    :param select_old_exports: file that lists the old exports

    The param ``keep_days`` is the age in days from which they count as old. A table has that of its run or, when an old
    run was cleared, its own.
    """

    template_fields: Sequence[str] = ("sql", "select_old_exports", "snowflake_conn_id")

    def __init__(self, *, sql: str, select_old_exports: str, **kwargs: Any) -> None:
        super().__init__(sql=sql, **kwargs)
        self.select_old_exports = select_old_exports

    def execute(self, context: Context) -> dict[str, Any]:  # type: ignore[override]
        """Clean up."""
        self._context = context
        oldest = datetime.now(UTC) - timedelta(days=context["params"]["keep_days"])
        try:
            found = self._run_file(str(self.sql), "list staging")[-1].rows
            exports = [json_row(row) for row in self._run_file(self.select_old_exports, "old exports")[-1].rows]
        except SnowflakeStatementError as error:
            if NOT_THERE not in str(error):
                raise
            # Airflow runs this for the day before the set-up too.
            raise AirflowSkipException(
                f"Nothing is set up yet, or this role does not see it: {error.message}"
            ) from None
        tables = {str(row["name"]): row["created_on"] for row in found}
        dropped = [
            table
            for table, created in tables.items()
            if (began := staged_by_run_of(table)) and max(began, created) < oldest
        ]
        self._drop_staging_tables(dropped)
        self.log.info("Dropped %s staging table(s); %s export(s) are old", len(dropped), len(exports))
        return {"dropped_tables": dropped, "old_exports": exports}
