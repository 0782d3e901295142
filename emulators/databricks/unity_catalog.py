"""
The tables and views of Unity Catalog, on the emulator of S3, each in the folder catalog/schema/name.

A table is a Delta table. A view is a file with its query, and a table's row filter and column masks are a file beside
its log: all are gone when the folder is removed.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pyarrow as pa
import s3fs
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import TableNotFoundError

from emulators.databricks.delta_tables import open_table
from emulators.s3 import s3_filesystem, storage_options

LAKE_BUCKET = "unity-catalog"

_VIEW = "_view.json"
_POLICIES = "_policies.json"

# Delta's default of delta.checkpointInterval.
_CHECKPOINT_INTERVAL = 10

# A name with other characters than letters, digits and underscores must be in backticks.
_PART = r"(?:[A-Za-z0-9_]{1,128}|`(?:[^`./ \x00-\x1f\x7f]|``){1,255}`)"


def table_uri(name: str) -> str:
    """
    Return the location of a Unity Catalog table.

    For example ``main.weather.forecasts`` is at ``s3://unity-catalog/main/weather/forecasts``. Names become lower case,
    as in Unity Catalog.

    :raises ValueError: if the name does not have the form catalog.schema.table.
    """
    return f"s3://{LAKE_BUCKET}/{'/'.join(parts_of(name))}"


def parts_of(name: str) -> list[str]:
    """
    Return catalog, schema and table of a name, in lower case and without backticks.

    :raises ValueError: if the name does not have the form catalog.schema.table.
    """
    if not re.fullmatch(rf"{_PART}\.{_PART}\.{_PART}", name):
        raise ValueError(f"Not a table name of the form catalog.schema.table: {name!r}")
    return [re.sub("^`|`$", "", part).replace("``", "`").lower() for part in re.findall(_PART, name)]


def write_table(
    endpoint_url: str,
    name: str,
    table: pa.Table,
    mode: Literal["overwrite", "append"] = "overwrite",
    properties: Mapping[str, str] | None = None,
) -> None:
    """
    Write a table as one new version of its Delta table.

    :param name: Unity Catalog name.
    :param mode: ``overwrite`` replaces rows and columns, ``append`` adds rows.
    :param properties: of the table, if it is new.
    """
    write_deltalake(
        table_uri(name),
        table,
        mode=mode,
        schema_mode="overwrite" if mode == "overwrite" else None,
        configuration=properties,
        storage_options=storage_options(endpoint_url),
    )


def add_version(endpoint_url: str, filesystem: s3fs.S3FileSystem, name: str) -> None:
    """
    Commit a version in which a write has changed no row; do nothing if the name is not that of a Delta table.

    Every tenth version gets a checkpoint, as Delta's own writers make them: without, who opens the table reads each
    commit that it ever had.
    """
    try:
        uri = table_uri(name)
        table = DeltaTable(uri, storage_options=storage_options(endpoint_url))
    except (ValueError, TableNotFoundError):
        return
    version = table.version() + 1
    if version % _CHECKPOINT_INTERVAL == 0:
        table.create_checkpoint()
    commit = {"timestamp": time.time_ns() // 1_000_000, "operation": "WRITE", "operationParameters": {"mode": "Append"}}
    filesystem.pipe_file(f"{uri}/_delta_log/{version:020}.json", json.dumps({"commitInfo": commit}).encode())


def read_table(endpoint_url: str, name: str) -> pa.Table:
    """
    Read the current version of a table.

    :raises deltalake.exceptions.TableNotFoundError: if the table does not exist.
    """
    return DeltaTable(table_uri(name), storage_options=storage_options(endpoint_url)).to_pyarrow_table()


@dataclass(frozen=True)
class Policies:
    """
    What restricts the reading of a table: Unity Catalog names of functions.

    :param row_filter: decides which rows are seen; empty for none.
    :param column_masks: by column, what is seen in the place of its values.
    """

    row_filter: str = ""
    column_masks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Relation:
    """A table or view of a catalog. ``created`` is in milliseconds since 1970."""

    schema: str
    name: str
    created: int
    view_query: str | None = None
    policies: Policies = Policies()


def create_view(endpoint_url: str, name: str, query: str) -> None:
    """Create or replace a view. Its query may read tables by their names; it must not read the view itself."""
    view = {"query": query, "created": time.time_ns() // 1_000_000}
    s3_filesystem(endpoint_url).pipe_file(f"{table_uri(name)}/{_VIEW}", json.dumps(view).encode())


def set_policies(endpoint_url: str, name: str, policies: Policies) -> None:
    """
    Set the row filter and the column masks of a table.

    The emulator applies none: they only make it refuse what Databricks refuses for such a table.
    """
    s3_filesystem(endpoint_url).pipe_file(f"{table_uri(name)}/{_POLICIES}", json.dumps(asdict(policies)).encode())


def view_query(filesystem: s3fs.S3FileSystem, uri: str) -> str | None:
    """Return the query of the view at a location; None if there is no view."""
    stored = _read(filesystem, f"{uri}/{_VIEW}")
    return None if stored is None else str(stored["query"])


def policies_of(filesystem: s3fs.S3FileSystem, uri: str) -> Policies:
    """Return the row filter and the column masks of the table at a location."""
    return Policies(**(_read(filesystem, f"{uri}/{_POLICIES}") or {}))


def relations_of(
    endpoint_url: str, filesystem: s3fs.S3FileSystem, catalog: str, schema: str | None = None, name: str | None = None
) -> list[Relation] | None:
    """
    Return the tables and views of a catalog; None if there is no such catalog.

    :param schema: only those of this schema. Each table takes several requests, so a caller should say what it needs.
    :param name: only those of this name.
    """
    root = f"{LAKE_BUCKET}/{catalog}"

    def found(of_schema: str, of_name: str) -> Relation | None:
        path = f"{root}/{of_schema}/{of_name}"
        try:
            files = {file.rpartition("/")[2] for file in filesystem.ls(path, detail=False)}
        except FileNotFoundError:
            return None
        if _VIEW in files:
            stored = _read(filesystem, f"{path}/{_VIEW}") or {}
            return Relation(of_schema, of_name, stored["created"], view_query=stored["query"])
        uri = f"s3://{path}"
        if "_delta_log" not in files:
            return None
        # The time in the metadata is that of the first version. It stays, also when the log's first files are gone.
        table = open_table(endpoint_url, filesystem, uri)
        if table is None:
            return None
        created = table.metadata().created_time
        policies = policies_of(filesystem, uri) if _POLICIES in files else Policies()
        return Relation(of_schema, of_name, created, policies=policies)

    if schema and name and (relation := found(schema, name)):
        return [relation]
    if not (schemas := _folders(filesystem, root)):
        return None
    names = [
        (each, folder)
        for each in schemas
        if schema in (None, each)
        for folder in _folders(filesystem, f"{root}/{each}")
        if name in (None, folder)
    ]
    with ThreadPoolExecutor(8) as workers:
        return [relation for relation in workers.map(lambda pair: found(*pair), names) if relation]


def _folders(filesystem: s3fs.S3FileSystem, path: str) -> list[str]:
    try:
        entries = filesystem.ls(path, detail=True)
        return [entry["name"].rpartition("/")[2] for entry in entries if entry["type"] == "directory"]
    except FileNotFoundError:
        return []


def _read(filesystem: s3fs.S3FileSystem, path: str) -> Any:
    try:
        return json.loads(filesystem.cat_file(path))
    except FileNotFoundError:
        return None
