"""Directories of Parquet files, as Spark writes and reads them, and Spark's names for the types in them."""

from __future__ import annotations

import json
import secrets
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet
import s3fs

MAX_ROWS_PER_FILE = 1_000_000
MAX_BYTES_PER_FILE = 128 * 1024 * 1024

# The fields of Spark's hidden column that are told here, and the columns that carry them into the engine.
METADATA_COLUMNS = {
    "file_path": "_metadata.file_path",
    "file_name": "_metadata.file_name",
    "file_size": "_metadata.file_size",
}

# DuckDB's name of a type, and Spark's. Spark has no unsigned integers: it reads them as the next larger type.
_SPARK_TYPES = {
    "boolean": "boolean",
    "tinyint": "tinyint",
    "smallint": "smallint",
    "integer": "int",
    "bigint": "bigint",
    "hugeint": "decimal(38,0)",
    "utinyint": "smallint",
    "usmallint": "int",
    "uinteger": "bigint",
    "ubigint": "decimal(20,0)",
    "float": "float",
    "double": "double",
    "varchar": "string",
    "blob": "binary",
    "date": "date",
    "timestamp with time zone": "timestamp",
    "timestamp": "timestamp_ntz",
    "timestamp_ms": "timestamp_ntz",
    "null": "void",
}


def open_directory(filesystem: s3fs.S3FileSystem, path: str) -> pyarrow.dataset.Dataset:
    """
    The rows of a directory, with one column more for each of :data:`METADATA_COLUMNS`.

    The columns are those of the first file, as in Spark without ``mergeSchema``.

    :raises FileNotFoundError: there is no data file. Names that begin with ``_`` or ``.`` are not data.
    """
    sizes = {
        file: details["size"]
        for file, details in filesystem.find(path, detail=True).items()
        if not Path(file).name.startswith(("_", "."))
    }
    if not sizes:
        raise FileNotFoundError(path)
    # INT96 is read as microseconds, as Spark does: nanoseconds would end in the year 2262.
    file_format = pyarrow.dataset.ParquetFileFormat(coerce_int96_timestamp_unit="us")
    arrow_filesystem = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem))
    # What is the same for all rows of a file is said as if the directory were partitioned by it: nothing is stored.
    fragments = [
        file_format.make_fragment(
            file,
            arrow_filesystem,
            (pyarrow.dataset.field(METADATA_COLUMNS["file_path"]) == f"s3://{file}")
            & (pyarrow.dataset.field(METADATA_COLUMNS["file_name"]) == Path(file).name)
            & (pyarrow.dataset.field(METADATA_COLUMNS["file_size"]) == pa.scalar(size, pa.int64())),
        )
        for file, size in sizes.items()
    ]
    hidden = [
        pa.field(name, pa.int64() if field == "file_size" else pa.string()) for field, name in METADATA_COLUMNS.items()
    ]
    schema = pa.schema([*_as_spark_reads(fragments[0]), *hidden])
    return pyarrow.dataset.FileSystemDataset(fragments, schema, file_format, arrow_filesystem)


def overwrite_directory(
    filesystem: s3fs.S3FileSystem, location: str, reader: pa.RecordBatchReader, stop_if_interrupted: Callable[[], None]
) -> None:
    """
    Write rows as Databricks does: data files, and beside them what its commit protocol leaves.

    The files that were there before are removed at the commit, not before: a statement that fails leaves the old rows,
    and perhaps files of its own that no commit names.

    :param location: the directory, ends in ``/``.
    :param stop_if_interrupted: called often, the last time before the commit; what it raises ends the writing.
    """
    previous = filesystem.find(location)
    transaction = secrets.randbelow(9 * 10**18) + 10**18
    filesystem.pipe_file(f"{location}_started_{transaction}", b"")
    added = []
    with tempfile.TemporaryDirectory(prefix="export-") as scratch:
        for number, part in enumerate(_parts(reader, Path(scratch) / "part.parquet", stop_if_interrupted)):
            name = f"part-{number:05d}-{uuid.uuid4()}-c000.snappy.parquet"
            filesystem.put_file(str(part), f"{location}{name}")
            added.append(name)
    stop_if_interrupted()
    prefix = location.removeprefix("s3://")
    removed = [path.removeprefix(prefix) for path in previous]
    if previous:
        filesystem.rm(previous)
    commit = json.dumps({"added": added, "removed": [name for name in removed if not name.startswith("_")]})
    filesystem.pipe_file(f"{location}_committed_{transaction}", commit.encode())
    filesystem.pipe_file(f"{location}_SUCCESS", b"")


def spark_type(engine_type: Any) -> str:
    """
    Spark's text of a type of DuckDB (``DuckDBPyType``), as ``TYPEOF`` writes it.

    :raises ValueError: Spark has no such type.
    """
    kind = engine_type.id
    if kind == "decimal":
        precision, scale = (value for _, value in engine_type.children)
        return f"decimal({precision},{scale})"
    if kind in ("list", "array"):
        return f"array<{spark_type(engine_type.children[0][1])}>"
    if kind == "map":
        key, value = (child for _, child in engine_type.children)
        return f"map<{spark_type(key)},{spark_type(value)}>"
    if kind == "struct":
        return spark_struct(engine_type.children)
    if kind not in _SPARK_TYPES:
        raise ValueError(f"Spark has no type for {engine_type}")
    return _SPARK_TYPES[kind]


def spark_struct(fields: list[tuple[str, Any]]) -> str:
    """
    Spark's text of a struct. Names are written as they are, without quotes.

    :param fields: name and DuckDB type of each.
    """
    return f"struct<{','.join(f'{name}:{spark_type(engine_type)}' for name, engine_type in fields)}>"


def _as_spark_reads(fragment: pyarrow.dataset.ParquetFileFragment) -> Iterator[pa.Field]:
    """The columns of a file. INT96 says nothing of a time zone: for Arrow it has none, for Spark it is an instant."""
    columns = fragment.metadata.schema
    leaves = iter([columns.column(number).physical_type for number in range(len(columns))])

    def read(field: pa.Field) -> pa.Field:
        kind = field.type
        if pa.types.is_struct(kind):
            return field.with_type(pa.struct([read(child) for child in kind]))
        if pa.types.is_map(kind):
            return field.with_type(pa.map_(read(kind.key_field), read(kind.item_field)))
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            return field.with_type(pa.list_(read(kind.value_field)))
        return field.with_type(pa.timestamp("us", "UTC")) if next(leaves) == "INT96" else field

    return (read(field) for field in fragment.physical_schema)


def _parts(reader: pa.RecordBatchReader, scratch: Path, stop_if_interrupted: Callable[[], None]) -> Iterator[Path]:
    """Write the rows to one local file after the other; each is complete when it is yielded, and is then reused."""
    batches = iter(reader)
    rest: pa.RecordBatch | None = next(batches, None)
    first = True
    while first or rest is not None:
        first = False
        rows = 0
        # Spark's default for timestamps is INT96, and it knows nothing of Arrow's schema.
        with pyarrow.parquet.ParquetWriter(
            scratch,
            reader.schema,
            compression="snappy",
            use_deprecated_int96_timestamps=True,
            store_schema=False,
        ) as writer:
            while rest is not None and rows < MAX_ROWS_PER_FILE and scratch.stat().st_size < MAX_BYTES_PER_FILE:
                stop_if_interrupted()
                batch, rest = rest.slice(0, MAX_ROWS_PER_FILE - rows), rest.slice(MAX_ROWS_PER_FILE - rows)
                writer.write_batch(batch)
                rows += batch.num_rows
                if not rest.num_rows:
                    rest = next(batches, None)
        yield scratch
