"""
The APIs of SQL warehouses and of statement execution.

Supported statements: queries, ``INSERT OVERWRITE DIRECTORY``, ``CREATE TABLE ... AS``, ``DROP TABLE`` and those of
``table_statements.py``. A request is answered when its statement has ended, whatever ``wait_timeout`` is; the real
service may do so too. Grants are not checked.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any

from deltalake import DeltaTable

from emulators.databricks.errors import StatementError
from emulators.databricks.export import Session
from emulators.databricks.records import ApiError, invalid
from emulators.databricks.table_statements import PROPERTIES, change_table, properties_of
from emulators.databricks.unity_catalog import table_uri, write_table
from emulators.s3 import s3_filesystem, storage_options

DBSQL_VERSION = "2026.30"

_CREATE_TABLE = re.compile(rf"CREATE\s+TABLE\s+(\S+)\s+(?:{PROPERTIES}\s+)?AS\s+(.*)", re.IGNORECASE | re.DOTALL)
_DROP_TABLE = re.compile(r"DROP\s+TABLE\s+(IF\s+EXISTS\s+)?(\S+)", re.IGNORECASE)


class SqlStatements:
    """
    The statements of one workspace.

    :param s3_endpoint_url: the emulator of S3.
    """

    def __init__(self, s3_endpoint_url: str) -> None:
        self._endpoint_url = s3_endpoint_url
        self._filesystem = s3_filesystem(s3_endpoint_url)
        self._answers: dict[str, dict[str, Any]] = {}

    def warehouse(self, warehouse_id: str) -> dict[str, Any]:
        """Return the API's answer about a SQL warehouse. Every id is accepted."""
        return {
            "id": warehouse_id,
            "name": warehouse_id,
            "cluster_size": "2X-Small",
            "warehouse_type": "PRO",
            "enable_serverless_compute": True,
            "state": "RUNNING",
            "channel": {"name": "CHANNEL_NAME_CURRENT", "dbsql_version": DBSQL_VERSION},
        }

    def execute(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """
        Execute a statement.

        :param body: the request's body, with ``warehouse_id`` and ``statement``.
        """
        warehouse_id, sql = body.get("warehouse_id"), body.get("statement")
        if not isinstance(warehouse_id, str) or not warehouse_id or not isinstance(sql, str) or not sql.strip():
            raise invalid("warehouse_id and statement are required.")
        answer: dict[str, Any] = {"statement_id": str(uuid.uuid4())}
        try:
            rows = self._execute(sql.strip())
            answer |= {"status": {"state": "SUCCEEDED"}, "manifest": {"format": "JSON_ARRAY"}}
            answer["manifest"]["total_row_count"] = len(rows)
            answer["result"] = {"row_count": len(rows), **({"data_array": rows} if rows else {})}
        except StatementError as error:
            answer["status"] = {"state": "FAILED", "error": {"error_code": "BAD_REQUEST", "message": str(error)}}
        self._answers[answer["statement_id"]] = answer
        return answer

    def answer(self, statement_id: str) -> dict[str, Any]:
        """Return the answer about an executed statement again."""
        if statement_id not in self._answers:
            raise ApiError(404, "NOT_FOUND", f"The statement {statement_id} was not found.")
        return self._answers[statement_id]

    def _execute(self, sql: str) -> list[list[str | None]]:
        session = Session(self._endpoint_url, self._filesystem)
        try:
            if created := _CREATE_TABLE.fullmatch(sql):
                if self._exists(created[1]):
                    raise StatementError(
                        f"[TABLE_OR_VIEW_ALREADY_EXISTS] Cannot create table or view {created[1]} because it already "
                        "exists. SQLSTATE: 42P07"
                    )
                properties = properties_of(created[2]) if created[2] is not None else None
                write_table(self._endpoint_url, created[1], session.table(created[3]), properties=properties)
                return []
            if dropped := _DROP_TABLE.fullmatch(sql):
                if self._exists(dropped[2]):
                    self._filesystem.rm(table_uri(dropped[2]), recursive=True)
                elif not dropped[1]:
                    raise StatementError(f"[TABLE_OR_VIEW_NOT_FOUND] {dropped[2]} cannot be found. SQLSTATE: 42P01")
                return []
            if (told := change_table(self._endpoint_url, self._filesystem, sql)) is not None:
                return [[told]] if told else []
            if not re.match(r"\(|(SELECT|WITH|VALUES)\b", sql, re.IGNORECASE):
                session.execute(sql, {})
                return []
            rows = session.table(sql).to_pylist()
            return [[None if value is None else str(value) for value in row.values()] for row in rows]
        finally:
            session.close()

    def _exists(self, table: str) -> bool:
        return DeltaTable.is_deltatable(table_uri(table), storage_options(self._endpoint_url))
