"""Reads and writes directories of Parquet files as Spark does, and names types as Spark does."""

from __future__ import annotations

import itertools
import json
import secrets
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet
import s3fs
from thrift.protocol.TCompactProtocol import TCompactProtocol  # type: ignore[import-untyped]
from thrift.Thrift import TType  # type: ignore[import-untyped]
from thrift.transport.TTransport import TMemoryBuffer  # type: ignore[import-untyped]

MAX_ROWS_PER_FILE = 1_000_000
MAX_BYTES_PER_FILE = 128 * 1024 * 1024

# Field of Spark's hidden column `_metadata` -> the column that holds it in DuckDB. Other fields are not supported.
METADATA_COLUMNS = {
    "file_path": "_metadata.file_path",
    "file_name": "_metadata.file_name",
    "file_size": "_metadata.file_size",
}

# DuckDB's name of a type -> Spark's. Spark has no unsigned integers: it reads them as the next larger type.
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

# Arrow's types that Spark does not have -> the type as which Spark reads them.
_READ_AS = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20),
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
    pa.timestamp("s"): pa.timestamp("us"),
    pa.timestamp("ms"): pa.timestamp("us"),
}
_WRITTEN_AS_THEY_ARE = {
    pa.bool_(),
    pa.int8(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.float32(),
    pa.float64(),
    pa.string(),
    pa.binary(),
    pa.date32(),
}

# Fields of SchemaElement and members of LogicalType in the footer of a Parquet file (parquet.thrift of the format).
_TYPE, _NAME, _LOGICAL_TYPE = 1, 4, 10
_EMPTY: list[Any] = []
_LOCAL_MICROSECONDS = [(8, TType.STRUCT, [(1, TType.BOOL, False), (2, TType.STRUCT, [(2, TType.STRUCT, _EMPTY)])])]
_NOTHING_BUT_NULLS = [(11, TType.STRUCT, _EMPTY)]

# Index of a leaf column -> the logical type that Arrow does not write.
_Annotations = dict[int, list[Any]]


class UnsupportedTypeError(Exception):
    """Spark cannot write a column of this type to Parquet. The message is Spark's."""


def open_directory(filesystem: s3fs.S3FileSystem, path: str) -> pyarrow.dataset.Dataset:
    """
    Open a directory as a dataset, with an additional column for each of :data:`METADATA_COLUMNS`.

    The first file determines the columns, as in Spark without ``mergeSchema``.

    :raises FileNotFoundError: if there is no data file. Files whose name starts with ``_`` or ``.`` are not data.
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
    # Pass the metadata of a file as values of partition columns: they apply to all its rows without being stored.
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
    filesystem: s3fs.S3FileSystem,
    location: str,
    reader: pa.RecordBatchReader,
    stop_if_interrupted: Callable[[], None],
    never_null: Collection[str] = (),
) -> None:
    """
    Write rows as Databricks does: data files, and the marker files of Databricks' commit protocol.

    The directory's old files are removed at the commit, not before. So a statement that fails leaves the old rows, and
    perhaps new files that no commit names.

    :param location: the directory; it ends with ``/``.
    :param stop_if_interrupted: called often, for the last time before the commit; if it raises, writing ends.
    :param never_null: columns that are written as required (not nullable).
    :raises UnsupportedTypeError: if a column's type is not supported; nothing was written.
    """
    as_read, schema, annotations = _as_spark_writes(reader.schema, never_null)
    previous = filesystem.find(location)
    transaction = secrets.randbelow(9 * 10**18) + 10**18
    filesystem.pipe_file(f"{location}_started_{transaction}", b"")
    added = []
    with tempfile.TemporaryDirectory(prefix="export-") as scratch:
        batches = (batch.cast(as_read).cast(schema) for batch in reader)
        for number, part in enumerate(_parts(schema, batches, Path(scratch) / "part.parquet", stop_if_interrupted)):
            _annotate(part, annotations)
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
    Return Spark's name of a type of DuckDB (``DuckDBPyType``), as ``TYPEOF`` returns it.

    :raises ValueError: if Spark does not have the type.
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
    Return Spark's name of a struct type. The fields' names are not quoted.

    :param fields: name and DuckDB type of each field.
    """
    return f"struct<{','.join(f'{name}:{spark_type(engine_type)}' for name, engine_type in fields)}>"


def _as_spark_reads(fragment: pyarrow.dataset.ParquetFileFragment) -> Iterator[pa.Field]:
    """Return a file's columns as Spark reads them: INT96 is an instant in Spark, a timestamp without zone in Arrow."""
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


def _as_spark_writes(schema: pa.Schema, never_null: Collection[str]) -> tuple[pa.Schema, pa.Schema, _Annotations]:
    """
    Return the schema as Spark sees it, the schema for Arrow to write, and the logical types to add to the footer.

    Spark writes instants as INT96 and timestamps without a zone as int64. Arrow writes either all timestamps as INT96
    or none, so those without a zone are passed to Arrow as int64. Spark stores a column of the type void as boolean,
    Arrow stores it as int32.
    """
    known: dict[str, str] = {}
    for name in schema.names:
        if known.setdefault(name.lower(), name) is not name:
            raise UnsupportedTypeError(
                f"[COLUMN_ALREADY_EXISTS] The column `{name.lower()}` already exists. Choose another name or rename "
                "the existing column. SQLSTATE: 42711"
            )
    annotations: _Annotations = {}
    leaves = itertools.count()

    def read(kind: pa.DataType, _: str) -> pa.DataType:
        return _READ_AS.get(kind, kind)

    def store(kind: pa.DataType, column: str) -> pa.DataType:
        leaf = next(leaves)
        if kind == pa.timestamp("us"):
            annotations[leaf] = _LOCAL_MICROSECONDS
            return pa.int64()
        if kind == pa.null():
            annotations[leaf] = _NOTHING_BUT_NULLS
            return pa.bool_()
        if pa.types.is_timestamp(kind) and kind.tz and kind.unit != "ns":
            return pa.timestamp("us", "UTC")
        if kind in _WRITTEN_AS_THEY_ARE or pa.types.is_decimal128(kind):
            return kind
        if pa.types.is_time(kind):
            raise UnsupportedTypeError("[UNSUPPORTED_TIME_TYPE] The data type TIME is not supported. SQLSTATE: 0A000")
        raise UnsupportedTypeError(
            "[UNSUPPORTED_DATA_TYPE_FOR_DATASOURCE] The Parquet datasource doesn't support the column "
            f'`{column}` of the type "{str(kind).upper()}". SQLSTATE: 0A000'
        )

    as_read = [field.with_type(_with_leaves(field.type, field.name, read)) for field in schema]
    stored = [
        pa.field(field.name, _with_leaves(field.type, field.name, store), field.name not in never_null)
        for field in as_read
    ]
    return pa.schema(as_read), pa.schema(stored), annotations


def _with_leaves(kind: pa.DataType, column: str, change: Callable[[pa.DataType, str], pa.DataType]) -> pa.DataType:
    """Return a type with its leaf types changed, in the order of Parquet's leaf columns."""
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_with_leaves(field.type, column, change)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_with_leaves(kind.key_type, column, change), _with_leaves(kind.item_type, column, change))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_with_leaves(kind.value_type, column, change))
    return change(kind, column)


def _parts(
    schema: pa.Schema, batches: Iterator[pa.RecordBatch], scratch: Path, stop_if_interrupted: Callable[[], None]
) -> Iterator[Path]:
    """Write the rows to a local file, and yield the file each time it is full. It is overwritten after that."""
    rest: pa.RecordBatch | None = next(batches, None)
    first = True
    while first or rest is not None:
        first = False
        rows = 0
        # As Spark: timestamps as INT96, decimals of up to 18 digits as integers, and no Arrow schema in the footer.
        with pyarrow.parquet.ParquetWriter(
            scratch,
            schema,
            compression="snappy",
            use_deprecated_int96_timestamps=True,
            store_decimal_as_integer=True,
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


def _annotate(path: Path, annotations: _Annotations) -> None:
    """
    Add logical types to the footer of a Parquet file, and name the schema's root as Spark does.

    The footer is a Thrift struct whose second field is the list of columns. The fields after it are copied unchanged.
    """
    content = path.read_bytes()
    begin = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    old = TMemoryBuffer(content[begin:-8])
    new = TMemoryBuffer()
    reader, writer = TCompactProtocol(old), TCompactProtocol(new)
    reader.readStructBegin()
    writer.writeStructBegin("FileMetaData")
    _, kind, number = reader.readFieldBegin()
    writer.writeFieldBegin("version", kind, number)
    writer.writeI32(reader.readI32())
    reader.readFieldEnd()
    writer.writeFieldEnd()
    _, kind, number = reader.readFieldBegin()
    writer.writeFieldBegin("schema", kind, number)
    elements, count = reader.readListBegin()
    writer.writeListBegin(elements, count)
    leaves = itertools.count()
    for position in range(count):
        element = _read_struct(reader)
        if position == 0:
            element = [(field, kind, b"spark_schema" if field == _NAME else value) for field, kind, value in element]
        if any(field == _TYPE for field, _, _ in element) and (added := annotations.get(next(leaves))):
            element = [*element, (_LOGICAL_TYPE, TType.STRUCT, added)]
        _write_struct(writer, element)
    footer = new.getvalue() + content[begin + old.cstringio_buf.tell() : -8]
    with path.open("r+b") as file:
        file.seek(begin)
        file.truncate()
        file.write(footer + len(footer).to_bytes(4, "little") + content[-4:])


def _read_struct(reader: TCompactProtocol) -> list[tuple[int, int, Any]]:
    """Read a Thrift struct: number, type and value of each field."""
    read = {TType.BOOL: reader.readBool, TType.BYTE: reader.readByte, TType.I32: reader.readI32}
    read |= {TType.STRING: reader.readBinary, TType.STRUCT: lambda: _read_struct(reader)}
    fields = []
    reader.readStructBegin()
    while (header := reader.readFieldBegin())[1] != TType.STOP:
        _, kind, number = header
        fields.append((number, kind, read[kind]()))
        reader.readFieldEnd()
    reader.readStructEnd()
    return fields


def _write_struct(writer: TCompactProtocol, fields: list[tuple[int, int, Any]]) -> None:
    write = {TType.BOOL: writer.writeBool, TType.BYTE: writer.writeByte, TType.I32: writer.writeI32}
    write |= {TType.STRING: writer.writeBinary, TType.STRUCT: lambda value: _write_struct(writer, value)}
    writer.writeStructBegin("")
    for number, kind, value in fields:
        writer.writeFieldBegin("", kind, number)
        write[kind](value)
        writer.writeFieldEnd()
    writer.writeFieldStop()
    writer.writeStructEnd()
