"""The information schema of a catalog: the relations TABLES, ROW_FILTERS and COLUMN_MASKS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from emulators.databricks.records import USER
from emulators.databricks.unity_catalog import LAKE_BUCKET, Relation, parts_of

SCHEMA = "information_schema"

_TIMES = ("created", "last_altered")


def relation(name: str, catalog: str, relations: Sequence[Relation]) -> pa.Table | None:
    """
    Return the rows of a relation of the information schema; None if it has no relation of this name.

    Rights are not checked: a principal sees all of the catalog.

    :param relations: the tables and views of the catalog.
    """
    if name not in _RELATIONS:
        return None
    columns, rows_of = _RELATIONS[name]
    kinds = [(column, pa.timestamp("us", "UTC") if column in _TIMES else pa.string()) for column in columns]
    rows = [dict(zip(columns, row, strict=True)) for each in relations for row in rows_of(catalog, each)]
    return pa.Table.from_pylist(rows, pa.schema(kinds))


def _tables(catalog: str, each: Relation) -> list[tuple[Any, ...]]:
    is_view = each.view_query is not None
    created = each.created * 1000
    kind, insertable = ("VIEW", "NO") if is_view else ("MANAGED", "YES")
    source_format = "UNKNOWN_DATA_SOURCE_FORMAT" if is_view else "DELTA"
    path = None if is_view else f"s3://{LAKE_BUCKET}/{catalog}/{each.schema}/{each.name}"
    of_catalog = (catalog, each.schema, each.name, kind, insertable, "PRESERVE", USER, None)
    return [(*of_catalog, created, USER, created, USER, source_format, path, None)]


def _row_filters(catalog: str, each: Relation) -> list[tuple[Any, ...]]:
    if not each.policies.row_filter:
        return []
    return [(catalog, each.schema, each.name, *parts_of(each.policies.row_filter), "")]


def _column_masks(catalog: str, each: Relation) -> list[tuple[Any, ...]]:
    return [
        (catalog, each.schema, each.name, column, *parts_of(mask), None)
        for column, mask in each.policies.column_masks.items()
    ]


# Columns as in https://docs.databricks.com/sql/language-manual/information-schema/tables.html and its neighbours.
_RELATIONS: dict[str, tuple[tuple[str, ...], Callable[[str, Relation], list[tuple[Any, ...]]]]] = {
    "tables": (
        (
            "table_catalog",
            "table_schema",
            "table_name",
            "table_type",
            "is_insertable_into",
            "commit_action",
            "table_owner",
            "comment",
            "created",
            "created_by",
            "last_altered",
            "last_altered_by",
            "data_source_format",
            "storage_path",
            "storage_sub_directory",
        ),
        _tables,
    ),
    "row_filters": (
        (
            "catalog_name",
            "schema_name",
            "table_name",
            "filter_catalog",
            "filter_schema",
            "filter_name",
            "filter_col_usage",
        ),
        _row_filters,
    ),
    "column_masks": (
        (
            "catalog_name",
            "schema_name",
            "table_name",
            "column_name",
            "mask_catalog",
            "mask_schema",
            "mask_name",
            "mask_col_usage",
        ),
        _column_masks,
    ),
}
