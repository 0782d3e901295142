"""What a query can read by a name of Unity Catalog: tables, their versions and history, views, information schemas."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import s3fs
from deltalake import DeltaTable

from emulators.databricks import information_schema
from emulators.databricks.changes import changes_of
from emulators.databricks.delta_tables import dataset_of, history_of, open_table, table_at
from emulators.databricks.errors import StatementError, not_found
from emulators.databricks.unity_catalog import parts_of, policies_of, relations_of, table_uri, view_query

_PLAIN_NAME = re.compile(r"\w+", re.ASCII)

# By whether a table has a row filter and column masks: Databricks' name of the error, and what it calls the two.
# (https://docs.databricks.com/aws/en/error-messages/row-level-security-column-mask-feature-not-supported-error-class)
_RESTRICTED = {
    (True, False): ("ROW_LEVEL_SECURITY_FEATURE_NOT_SUPPORTED", "Row level security policies"),
    (False, True): ("COLUMN_MASKS_FEATURE_NOT_SUPPORTED", "Column mask policies"),
    (True, True): (
        "ROW_LEVEL_SECURITY_COLUMN_MASK_FEATURE_NOT_SUPPORTED",
        "Row level security policies and column mask policies",
    ),
}
_REFUSED = {
    "TIME_TRAVEL": "Time travel for tables with these policies",
    "DESCRIBE_HISTORY": "Reading commit history is not supported for tables with these policies",
}


@dataclass(frozen=True)
class View:
    """A view, whose query the session must translate."""

    query: str


class Lake:
    """
    The tables and views of Unity Catalog, read with the refusals of Databricks.

    :param endpoint_url: the emulator of S3.
    :param filesystem: a file system on the emulator.
    """

    def __init__(self, endpoint_url: str, filesystem: s3fs.S3FileSystem) -> None:
        self._endpoint_url = endpoint_url
        self._filesystem = filesystem

    def read(self, name: str, version: int | None = None, equal: Mapping[str, str] | None = None) -> Any:
        """
        Return the rows of a table or of a relation of an information schema, for DuckDB, or a :class:`View`.

        :param name: name in three parts, in backticks where needed.
        :param version: version of the table; without it, the newest.
        :param equal: values that the query wants columns to have. Of an information schema, rows with others may be
            missing.
        :raises StatementError: there is nothing of this name, or Databricks refuses to read it in this way.
        """
        parts = _written_parts(name)
        if len(parts) == 3 and parts[1].strip("`").lower() == information_schema.SCHEMA:
            return self._information_schema(parts, version, equal or {})
        found = self._open(parts)
        if isinstance(found, View):
            if version is not None:
                raise StatementError(
                    "[UNSUPPORTED_FEATURE.TIME_TRAVEL] The feature is not supported: Time travel on the relation: "
                    f"{_quoted(parts)}. SQLSTATE: 0A000"
                )
            return found
        if version is not None:
            self._refuse_policies(parts, "TIME_TRAVEL")
            found = table_at(self._filesystem, found, version)
        return dataset_of(found, name)

    def history(self, name: str) -> pa.Table:
        """
        Return the rows of DESCRIBE HISTORY.

        :raises StatementError: there is no table of this name, or Databricks does not tell its history.
        """
        parts = _written_parts(name)
        found = self._open(parts)
        if isinstance(found, View):
            raise StatementError(
                "[EXPECT_TABLE_NOT_VIEW.NO_ALTERNATIVE] 'DESCRIBE HISTORY' expects a table but "
                f"{_quoted(parts)} is a view. SQLSTATE: 42809"
            )
        self._refuse_policies(parts, "DESCRIBE_HISTORY")
        return history_of(self._filesystem, found)

    def changes(self, name: str, start: int, end: int | None = None) -> pa.Table:
        """
        Return the rows of ``table_changes``, of a range of versions with both ends; without an end, to the newest.

        :raises StatementError: there is no table of this name, or Databricks does not tell these changes of it.
        """
        parts = _written_parts(name)
        found = self._open(parts)
        if isinstance(found, View):
            raise StatementError(
                f"[DELTA_TABLE_ONLY_OPERATION] {_quoted(parts)} is not a Delta table. table_changes is only supported "
                "for Delta tables. SQLSTATE: 0AKDD"
            )
        self._refuse_policies(parts, "TIME_TRAVEL")
        return changes_of(self._filesystem, found, name, start, end)

    def _open(self, parts: list[str]) -> DeltaTable | View:
        try:
            uri = table_uri(".".join(parts))
        except ValueError as error:
            raise not_found(_quoted(parts)) from error
        if (table := open_table(self._endpoint_url, self._filesystem, uri)) is not None:
            return table
        if (query := view_query(self._filesystem, uri)) is not None:
            return View(query)
        raise not_found(_quoted(parts))

    def _information_schema(self, parts: list[str], version: int | None, equal: Mapping[str, str]) -> pa.Table:
        catalog, _, name = parts_of(".".join(parts))
        if version is not None:
            raise StatementError(
                "[UNSUPPORTED_FEATURE.TIME_TRAVEL] The feature is not supported: Time travel on the relation: "
                f"{_quoted(parts)}. SQLSTATE: 0A000"
            )
        if catalog == "hive_metastore":  # the catalog of every workspace that is not Unity Catalog's
            raise not_found(_quoted(parts))
        schema = equal.get("table_schema", equal.get("schema_name"))
        relations = relations_of(self._endpoint_url, self._filesystem, catalog, schema, equal.get("table_name"))
        if relations is None:
            raise StatementError(
                f"[NO_SUCH_CATALOG_EXCEPTION] Catalog '{catalog}' was not found. Please verify the catalog name and "
                "then retry the query or command again. SQLSTATE: 42704"
            )
        if (rows := information_schema.relation(name, catalog, relations)) is None:
            raise not_found(_quoted(parts))
        return rows

    def _refuse_policies(self, parts: list[str], feature: Literal["TIME_TRAVEL", "DESCRIBE_HISTORY"]) -> None:
        name = ".".join(parts)
        policies = policies_of(self._filesystem, table_uri(name))
        kind = (bool(policies.row_filter), bool(policies.column_masks))
        if kind in _RESTRICTED:
            condition, what = _RESTRICTED[kind]
            raise StatementError(
                f"[{condition}.{feature}] {what} for {_quoted(parts)} are not supported: {_REFUSED[feature]}. "
                "SQLSTATE: 0A000"
            )


def _written_parts(name: str) -> list[str]:
    """
    Split a name at its dots; parts in backticks keep them.

    :raises StatementError: the name is not one of Databricks' SQL.
    """
    written = re.findall(r"`(?:[^`]|``)+`|[^.`]+|[.`]", name)
    parts = [part.strip() for part in written[::2]]
    plain = [part for part in parts if not part.startswith("`")]
    if unquoted := next((part for part in plain if re.fullmatch(r"[\w-]*-[\w-]*", part)), None):
        raise StatementError(
            f"[INVALID_IDENTIFIER] The unquoted identifier {unquoted} is invalid and must be back quoted as: "
            f"`{unquoted}`. Unquoted identifiers can only contain ASCII letters ('a' - 'z', 'A' - 'Z'), digits "
            "('0' - '9'), and underbar ('_'). SQLSTATE: 42602"
        )
    if not parts or "`" in parts or set(written[1::2]) - {"."} or not all(map(_PLAIN_NAME.fullmatch, plain)):
        raise StatementError(f"[PARSE_SYNTAX_ERROR] Syntax error at or near '{name}'. SQLSTATE: 42601")
    return parts


def _quoted(parts: list[str]) -> str:
    return ".".join(part if part.startswith("`") else f"`{part}`" for part in parts)
