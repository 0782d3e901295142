"""Delta tables as Databricks reads them: one version, the history, and the refusals that ``deltalake`` lacks."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.dataset
import s3fs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, DeltaProtocolError, TableNotFoundError

from emulators.databricks.errors import StatementError
from emulators.databricks.records import USER
from emulators.s3 import storage_options

_MILLISECONDS = {"hour": 3_600_000, "day": 86_400_000, "week": 604_800_000}
_DEFAULT_RETENTION = "interval 1 week"

_LOG_FILE = re.compile(r"/([0-9]{20})[.][^/]*$")
_COMMIT_FILE = re.compile(r"/[0-9]{20}[.]json$")

# deltalake's name -> Databricks' name, if they differ.
_OPERATIONS = {
    "ADD COLUMN": "ADD COLUMNS",
    "ADD FEATURE": "UPGRADE PROTOCOL",
    "UPDATE FIELD METADATA": "CHANGE COLUMN",
    "UPDATE TABLE METADATA": "SET TBLPROPERTIES",
}
_METRICS = {"num_added_rows": "numOutputRows", "num_added_files": "numFiles"}
_NOT_TOLD = ("location", "metadata", "protocol")
# The metric with the number of the files that a commit has written for the change data feed.
_CHANGE_FILES = {
    **dict.fromkeys(("DELETE", "UPDATE"), "numAddedChangeFiles"),
    "MERGE": "numTargetChangeFilesAdded",
}
_OF_WRITES = frozenset({"CREATE TABLE AS SELECT", "WRITE"})
_TEXTS = pa.map_(pa.string(), pa.string())
_JOB_FIELDS = ("jobId", "jobName", "jobRunId", "runId", "jobOwnerId", "triggerType")

HISTORY = pa.schema(
    [
        ("version", pa.int64()),
        ("timestamp", pa.timestamp("us", "UTC")),
        ("userId", pa.string()),
        ("userName", pa.string()),
        ("operation", pa.string()),
        ("operationParameters", _TEXTS),
        ("job", pa.struct([(name, pa.string()) for name in _JOB_FIELDS])),
        ("notebook", pa.struct([("notebookId", pa.string())])),
        ("clusterId", pa.string()),
        ("readVersion", pa.int64()),
        ("isolationLevel", pa.string()),
        ("isBlindAppend", pa.bool_()),
        ("operationMetrics", _TEXTS),
        ("userMetadata", pa.string()),
        ("engineInfo", pa.string()),
    ]
)
"""The columns of DESCRIBE HISTORY (https://docs.databricks.com/aws/en/tables/history-schema)."""


class LogFile(NamedTuple):
    """A file of a table's log, such as a commit: its path, and the ETag of its content."""

    path: str
    etag: str


class _OpenedTables(threading.local):
    """What each thread has opened, by location and log: a table of deltalake is not for several threads."""

    def __init__(self) -> None:
        self.by_log: dict[tuple[str, tuple[LogFile, ...]], DeltaTable] = {}


_opened = _OpenedTables()
_MOST_OPENED = 100


def open_table(endpoint_url: str, filesystem: s3fs.S3FileSystem, uri: str) -> DeltaTable | None:
    """Return the newest version of a table, for reading only; None if there is none."""
    log = log_files(filesystem, uri)
    return _open(uri, max(log.values()), log, storage_options(endpoint_url)) if log else None


def _open(uri: str, version: int, log: Mapping[LogFile, int], options: dict[str, str]) -> DeltaTable:
    """
    Return a version of a table, for reading only.

    To open one takes two requests for each commit since the last checkpoint, and a sync reads its source a dozen times:
    a thread opens a version once, unless its log has changed.

    :raises DeltaError: neither its checkpoint nor all commits before it are left.
    """
    known = (options.get("AWS_ENDPOINT_URL", ""), tuple(file for file, number in log.items() if number <= version))
    if (found := _opened.by_log.get(known)) is None:
        found = DeltaTable(uri, version=version, storage_options=options)
        if len(_opened.by_log) >= _MOST_OPENED:
            _opened.by_log.clear()
        _opened.by_log[known] = found
    return found


def root_of(table: DeltaTable) -> str:
    """Return the location of a table as it was named: deltalake tells it percent-encoded."""
    return unquote(table.table_uri).rstrip("/")


def log_files(filesystem: s3fs.S3FileSystem, uri: str) -> dict[LogFile, int]:
    """Return the version of each commit and checkpoint in the log of the table at a location; none without a table."""
    try:
        entries = filesystem.ls(f"{uri}/_delta_log", detail=True)
    except FileNotFoundError:
        return {}
    return {
        LogFile(entry["name"], entry["ETag"]): int(match[1])
        for entry in entries
        if (match := _LOG_FILE.search(entry["name"]))
    }


def commits_of(log: Mapping[LogFile, int]) -> dict[int, LogFile]:
    """Return the file of each commit that is left in a log, by version."""
    return {version: file for file, version in log.items() if _COMMIT_FILE.search(file.path)}


def read_commits(filesystem: s3fs.S3FileSystem, files: Mapping[int, LogFile]) -> dict[int, list[dict[str, Any]]]:
    """
    Return the actions of commits, by version.

    ``DeltaTable.history`` would do, if it let other threads of this process run meanwhile: S3 may be one of them.

    :param files: log files, by version.
    """
    return {version: _actions_of(filesystem, file) for version, file in files.items()}


# Each statement on a table reads its whole history, whose commits stay as they are.
@lru_cache(maxsize=10_000)
def _actions_of(filesystem: s3fs.S3FileSystem, file: LogFile) -> list[dict[str, Any]]:
    return [json.loads(line) for line in filesystem.cat_file(file.path).splitlines() if line]


def table_at(filesystem: s3fs.S3FileSystem, table: DeltaTable, version: int) -> DeltaTable:
    """
    Return another version of a table.

    :raises StatementError: there is no such version, it is older than the files of a table are kept, or files of it
        were removed.
    """
    log = log_files(filesystem, root_of(table))
    files = commits_of(log)
    earliest = min(files, default=table.version())
    if not earliest <= version <= table.version():
        raise version_not_found(version, earliest, table.version())
    if version < table.version():
        _check_retention(table, read_commits(filesystem, {version: files[version]})[version])
    try:
        found = _open(table.table_uri, version, log, table._storage_options or {})
    except (DeltaError, TableNotFoundError) as error:  # neither its checkpoint nor all commits before it are left
        raise version_not_found(version, earliest, table.version()) from error
    root = root_of(table).removeprefix("s3://")
    paths = (f"{root}/{uri.removeprefix(table.table_uri).lstrip('/')}" for uri in found.file_uris())
    if missing := first_missing(filesystem, table, paths):
        raise StatementError(
            f"[FAILED_READ_FILE.DBR_FILE_NOT_EXIST] Error while reading file {missing}. "
            f"[DELTA_FILE_NOT_FOUND_DETAILED] File {missing} referenced in the transaction log cannot be found. This "
            "occurs when data has been manually deleted from the file system rather than using the table `DELETE` "
            "statement. SQLSTATE: KD001"
        )
    return found


def version_not_found(version: int, earliest: int, latest: int) -> StatementError:
    """Report a version that the log does not have."""
    return StatementError(
        f"[DELTA_VERSION_NOT_FOUND] Cannot time travel Delta table to version {version}. Available versions: "
        f"[{earliest}, {latest}]. SQLSTATE: 22003"
    )


def first_missing(filesystem: s3fs.S3FileSystem, table: DeltaTable, paths: Iterable[str]) -> str | None:
    """Return the URI of the first of a table's files that does not exist; None if all exist."""
    present = set(filesystem.find(root_of(table)))
    return next((f"s3://{path}" for path in sorted(paths) if path not in present), None)


def history_of(filesystem: s3fs.S3FileSystem, table: DeltaTable) -> pa.Table:
    """Return the rows of DESCRIBE HISTORY, the newest first. Commits whose log files are gone are missing."""
    commits = read_commits(filesystem, commits_of(log_files(filesystem, root_of(table))))
    rows = [_commit(version, commits[version]) for version in sorted(commits, reverse=True)]
    return pa.Table.from_pylist(rows, HISTORY)


def action_of(actions: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return a commit's first action of a kind, such as commitInfo; empty if it has none."""
    return next((action[kind] for action in actions if kind in action), {})


def _commit(version: int, actions: list[dict[str, Any]]) -> dict[str, Any]:
    entry = action_of(actions, "commitInfo")
    parameters = dict(entry.get("operationParameters") or {})
    operation = str(entry.get("operation", ""))
    operation = _OPERATIONS.get(operation, operation)
    if operation == "WRITE" and version == 0:
        operation = "CREATE TABLE AS SELECT"
    if operation.startswith("CREATE TABLE"):
        # deltalake does not tell the properties, or among other things.
        parameters = {name: value for name, value in parameters.items() if name not in _NOT_TOLD}
        parameters["properties"] = json.dumps(action_of(actions, "metaData").get("configuration", {}))
    metrics = {
        _metric(name, operation): value if isinstance(value, str) else json.dumps(value)
        for name, value in (entry.get("operationMetrics") or {}).items()
    }
    if operation in _CHANGE_FILES:
        metrics[_CHANGE_FILES[operation]] = str(sum(1 for action in actions if "cdc" in action))
    return {
        "version": version,
        "timestamp": entry["timestamp"] * 1000,
        "userName": USER,
        "operation": operation or None,  # not every writer tells it
        "operationParameters": list(parameters.items()),
        "readVersion": entry.get("readVersion", version - 1 if version else None),
        "isolationLevel": "SnapshotIsolation" if operation == "OPTIMIZE" else "WriteSerializable",
        "isBlindAppend": parameters.get("mode") == "Append",
        "operationMetrics": list(metrics.items()),
        "userMetadata": entry.get("userMetadata"),
        "engineInfo": entry.get("engineInfo"),
    }


def _metric(name: str, operation: str) -> str:
    """Return Databricks' name of a metric, such as numDeletedRows for num_deleted_rows."""
    if operation in _OF_WRITES and name in _METRICS:
        return _METRICS[name]
    return re.sub(r"_(\w)", lambda match: match[1].upper(), name)


def retention_of(table: DeltaTable) -> int:
    """Return for how many milliseconds a table keeps the files that it has removed."""
    written = table.metadata().configuration.get("delta.deletedFileRetentionDuration", _DEFAULT_RETENTION)
    match = re.fullmatch(r"interval (\d+) (hour|day|week)s?", written.lower())
    if match is None:
        raise StatementError(f"[INTERNAL_ERROR] The sandbox cannot read the duration {written}. SQLSTATE: XX000")
    return int(match[1]) * _MILLISECONDS[match[2]]


def _check_retention(table: DeltaTable, commit: list[dict[str, Any]]) -> None:
    """
    Refuse a version that is older than removed files are kept, whether or not VACUUM ran.

    Runtime 18 and SQL warehouses do so. The newest version is never too old.

    :param commit: actions of the version.
    """
    kept = retention_of(table)
    if action_of(commit, "commitInfo")["timestamp"] < time.time() * 1000 - kept:
        raise StatementError(
            "[DELTA_UNSUPPORTED_TIME_TRAVEL_BEYOND_DELETED_FILE_RETENTION_DURATION] Cannot time travel beyond "
            f"delta.deletedFileRetentionDuration ({kept // _MILLISECONDS['hour']} HOURS) set on the table. "
            "SQLSTATE: 0AKDC"
        )


def dataset_of(table: DeltaTable, name: str) -> Any:
    """Return a table's rows as a dataset of pyarrow."""
    try:
        rows = table.to_pyarrow_dataset()
        # What deltalake writes for an UPDATE or a DELETE, pyarrow (26) reads as views, and cannot compare with a text.
        if any(_is_view(kind) for fragment in rows.get_fragments() for kind in fragment.physical_schema.types):
            return pyarrow.dataset.dataset(rows.to_table())
        return rows
    except (ValueError, DeltaProtocolError) as error:
        raise StatementError(f"[INTERNAL_ERROR] The sandbox cannot read {name}: {error} SQLSTATE: XX000") from error


def _is_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string_view(kind) or pa.types.is_binary_view(kind))
