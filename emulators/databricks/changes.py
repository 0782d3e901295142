"""
The change data feed of a Delta table: the rows of ``table_changes``, and what Databricks refuses.

``DeltaTable.load_cdf`` has the rows too, but answers ranges that Databricks refuses, and lets no other thread run
meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import s3fs
from deltalake import DeltaTable

from emulators.databricks.delta_tables import (
    action_of,
    commits_of,
    dataset_of,
    first_missing,
    log_files,
    read_commits,
    root_of,
    version_not_found,
)
from emulators.databricks.errors import StatementError

_ENABLED = "delta.enableChangeDataFeed"
_ADDED = [
    pa.field("_change_type", pa.string()),
    pa.field("_commit_version", pa.int64()),
    pa.field("_commit_timestamp", pa.timestamp("us", "UTC")),
]

Actions = list[dict[str, Any]]


def changes_of(filesystem: s3fs.S3FileSystem, table: DeltaTable, name: str, start: int, end: int | None) -> pa.Table:
    """
    Return the changes of a range of versions, both ends included.

    :param end: last version; the newest if it is None.
    :raises StatementError: the log or the change data of the range is not there, or its columns are others now.
    """
    latest = table.version()
    if start > latest:
        raise StatementError(
            f"[DELTA_CDC_START_VERSION_AFTER_LATEST] Start version {start} exceeds the latest table version {latest}. "
            "SQLSTATE: 22003"
        )
    end = latest if end is None else end
    if end < start:
        raise StatementError(
            f"[DELTA_INVALID_CDC_RANGE] CDC range from start {start} to end {end} was invalid. End cannot be before "
            "start. SQLSTATE: 22003"
        )
    log = commits_of(log_files(filesystem, root_of(table)))
    for version in (start, end):
        if version not in log:
            raise version_not_found(version, min(log), latest)
    commits = read_commits(filesystem, {version: log[version] for version in range(start, end + 1)})
    at_start = DeltaTable(table.table_uri, version=start, storage_options=table._storage_options)
    _check_recorded(at_start, commits, start, end)
    _check_columns(table, at_start, commits, start, end)
    schema = dataset_of(table, name).schema
    root = root_of(table)
    files = [
        (version, change, f"{root.removeprefix('s3://')}/{file['path']}", file.get("partitionValues") or {})
        for version in range(start, end + 1)
        for change, file in _files_of(commits[version])
    ]
    if missing := first_missing(filesystem, table, (path for _, _, path, _ in files)):
        raise StatementError(
            f"[DELTA_CHANGE_DATA_FILE_NOT_FOUND] File {missing} referenced in the transaction log cannot be found. "
            "This can occur when data has been manually deleted from the file system rather than using the table "
            "`DELETE` statement. This request appears to be targeting Change Data Feed, if that is the case, this "
            "error can occur when the change data file is out of the retention period and has been deleted by the "
            "`VACUUM` statement. SQLSTATE: 42K03"
        )
    parts = []
    for version, change, path, partition in files:
        timestamp = action_of(commits[version], "commitInfo")["timestamp"] * 1000
        with filesystem.open(path) as file:
            parts.append(_rows(pq.read_table(file), schema, partition, change, version, timestamp))
    return pa.concat_tables([pa.schema([*schema, *_ADDED]).empty_table(), *parts])


def _files_of(actions: Actions) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return the files of a commit with changes, each with the kind of all its changes; empty if its rows tell it."""
    if recorded := [action["cdc"] for action in actions if "cdc" in action]:
        yield from (("", file) for file in recorded)
        return
    for kind, change in (("add", "insert"), ("remove", "delete")):
        for action in actions:
            if kind in action and action[kind]["dataChange"]:
                if action[kind].get("deletionVector"):
                    raise StatementError("[INTERNAL_ERROR] The sandbox knows no deletion vectors. SQLSTATE: XX000")
                yield change, action[kind]


def _rows(
    stored: pa.Table, schema: pa.Schema, partition: Mapping[str, str | None], change: str, version: int, timestamp: int
) -> pa.Table:
    """Return the rows of a file with the columns of ``table_changes``; a column that it lacks is NULL."""
    columns = []
    for field in schema:
        if field.name in partition:
            value = pa.array([partition[field.name] or None], pa.string())
            columns.append(pa.repeat(pc.cast(value, field.type)[0], stored.num_rows))
        elif field.name in stored.column_names:
            columns.append(stored[field.name].cast(field.type))
        else:
            columns.append(pa.nulls(stored.num_rows, field.type))
    types = pa.repeat(change, stored.num_rows) if change else stored["_change_type"].cast(pa.string())
    versions = pa.repeat(pa.scalar(version, pa.int64()), stored.num_rows)
    timestamps = pa.repeat(pa.scalar(timestamp, pa.timestamp("us", "UTC")), stored.num_rows)
    return pa.table([*columns, types, versions, timestamps], pa.schema([*schema, *_ADDED]))


def _check_recorded(at_start: DeltaTable, commits: Mapping[int, Actions], start: int, end: int) -> None:
    """Refuse a range in which the feed is not on, at its start or later."""
    enabled = {start: at_start.metadata().configuration} | {
        version: metadata["configuration"]
        for version in range(start + 1, end + 1)
        if (metadata := action_of(commits[version], "metaData"))
    }
    for version, configuration in enabled.items():
        if str(configuration.get(_ENABLED, "")).lower() != "true":
            raise StatementError(
                f"[DELTA_MISSING_CHANGE_DATA] Error getting change data for range [{start} , {end}] as change data "
                f"was not recorded for version [{version}]. If you've enabled change data feed on this table, use "
                "`DESCRIBE HISTORY` to see when it was first enabled. Otherwise, to start recording change data, use "
                f"`ALTER TABLE table_name SET TBLPROPERTIES ({_ENABLED}=true)`. SQLSTATE: KD002"
            )


def _check_columns(
    table: DeltaTable, at_start: DeltaTable, commits: Mapping[int, Actions], start: int, end: int
) -> None:
    """Refuse a range in which a column was there that the newest version lacks, or has of another type."""
    now = _types(table.schema().to_json())
    schemas = {start: at_start.schema().to_json()} | {
        version: metadata["schemaString"]
        for version in range(start + 1, end + 1)
        if (metadata := action_of(commits[version], "metaData"))
    }
    for version, schema in schemas.items():
        if not _types(schema).items() <= now.items():
            raise StatementError(
                f"[DELTA_CHANGE_DATA_FEED_INCOMPATIBLE_SCHEMA_CHANGE] Retrieving table changes between version {start} "
                f"and {end} failed because of an incompatible schema change. Your read schema is at version "
                f"{table.version()}, but we found an incompatible schema change at version {version}. If possible, "
                f"please query table changes separately from version {start} to {version} - 1, and from version "
                f"{version} to {end}. SQLSTATE: 0AKDC"
            )


def _types(schema: str) -> dict[str, str]:
    return {field["name"].lower(): json.dumps(field["type"]) for field in json.loads(schema)["fields"]}
