"""The same tables, and the same SQL, for Spark and for the sandbox's own engine."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import s3fs
from deltalake import write_deltalake

from data_share.dag_defaults import SHARE
from data_share.render import export_sql
from data_share.snowflake.sql_api import DataShareSnowflakeHook
from emulators.databricks.export import Session
from emulators.databricks.unity_catalog import table_uri
from emulators.s3 import SHARE_BUCKET, storage_options
from tests.export_job import UNPLANNED

EXPORT_SQL = export_sql((), SHARE)

EXPORT = "EXECUTE IMMEDIATE statement USING source_table AS source_table;"
# What there is of the manifest alone, for files that are there.
MANIFEST_SQL = EXPORT_SQL.replace(EXPORT, "")

HASH_KEY = "known to both"

_numbers = itertools.count(1)


@dataclass
class Export:
    """
    Directories that an engine wrote, copied to this machine.

    :param folder: has ``data`` and ``manifest``
    """

    folder: Path

    def parts(self, directory: str = "data") -> list[pq.ParquetFile]:
        """Return the Parquet files of a directory in the order of their names."""
        paths = sorted((self.folder / directory).glob("*.parquet"))
        return [pq.ParquetFile(path, coerce_int96_timestamp_unit="us") for path in paths]

    def rows(self, directory: str = "data") -> pa.Table:
        """Return the rows of all files, in the order of the key ``k`` where there is one."""
        rows = pa.concat_tables([part.read() for part in self.parts(directory)])
        return rows.sort_by("k") if "k" in rows.column_names else rows

    def manifest(self) -> dict[str, Any]:
        """Return the only row of the manifest."""
        [row] = self.rows("manifest").to_pylist()
        return dict(row)

    def names(self, directory: str = "data") -> list[str]:
        """Return the names of all files, those of a local file system's checksums left out: S3 has none."""
        return sorted(path.name for path in (self.folder / directory).iterdir() if path.suffix != ".crc")


class Engines:
    """
    Executes on both engines what can be compared.

    :param spark: a session of Spark
    :param files: S3
    :param scratch: where Spark reads and writes
    """

    def __init__(self, spark: Any, files: s3fs.S3FileSystem, scratch: Path) -> None:
        self.spark = spark
        self.files = files
        self.scratch = scratch

    def write_source(self, rows: pa.Table, types: dict[str, str]) -> str:
        """
        Make a source table that both engines know by the same name, and return the name.

        Spark's session catalog is the only one that it has without Unity Catalog, so the name begins with it.

        :param types: Spark's type of each column
        """
        name = f"spark_catalog.load.source_{next(_numbers)}"
        write_deltalake(
            table_uri(name),
            rows,
            # Delta's statistics of a file would hold years that Python does not have.
            configuration={"delta.dataSkippingNumIndexedCols": "0"},
            storage_options=storage_options(str(self.files.client_kwargs["endpoint_url"])),
        )
        location = self.scratch / name
        location.mkdir()
        pq.write_table(rows, location / "source.parquet")
        columns = ", ".join(f"`{column.replace('`', '``')}` {kind}" for column, kind in types.items())
        self.spark.sql(f"CREATE TABLE {name} ({columns}) USING PARQUET LOCATION '{location}'")
        return name

    def on_spark(self, sql: str, parameters: dict[str, str]) -> Export:
        """
        Execute statements on Spark.

        :param sql: in which ``{data_path}`` stands for the path of the data: a literal is no parameter
        :param parameters: named parameters; ``data_path``, ``manifest_path`` and an empty ``mode`` are added unless
            they are given
        :return: what was written to those that are added
        """
        folder = self.scratch / f"spark_{next(_numbers)}"
        given = {
            "mode": "",
            **UNPLANNED,
            "data_path": f"{folder}/data/",
            "manifest_path": f"{folder}/manifest/",
        } | parameters
        # One after the other in one session, as a SQL file task does it; each is executed as it is written.
        for statement in DataShareSnowflakeHook.split_sql_string(sql, strip_semicolon=True):
            self.spark.sql(statement.replace("{data_path}", given["data_path"]), args=given)
        return Export(folder)

    def manifest_of(self, data_path: str) -> dict[str, Any]:
        """Execute the statements of the manifest on Spark, for files that are there; return its row."""
        parameters = {
            "run_key": "",
            "dataset": "",
            "source_table": "main.load.written",
            "proof": "checksums",
            "source": "",
        }
        return self.on_spark(MANIFEST_SQL, parameters | {"data_path": data_path}).manifest()

    def on_emulator(self, sql: str, parameters: dict[str, str]) -> Export:
        """Execute the same on the sandbox's own engine."""
        folder = f"emulator_{next(_numbers)}"
        paths = {name: f"s3://{SHARE_BUCKET}/{folder}/{name[:-5]}/" for name in ("data_path", "manifest_path")}
        secrets = {(SHARE.hash_secret_scope, SHARE.hash_secret_key): HASH_KEY}
        session = Session(str(self.files.client_kwargs["endpoint_url"]), self.files, secrets)
        try:
            session.execute(
                sql.replace("{data_path}", paths["data_path"]), {"mode": "", **UNPLANNED, **paths} | parameters
            )
        finally:
            session.close()
        for path in self.files.find(f"{SHARE_BUCKET}/{folder}"):
            copy = self.scratch / path.removeprefix(f"{SHARE_BUCKET}/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            self.files.get_file(path, str(copy))
        return Export(self.scratch / folder)

    def export(self, source_table: str) -> tuple[Export, Export]:
        """Export a source table with the product's own SQL: on Spark, and on the sandbox's own engine."""
        parameters = {"source_table": source_table, "run_key": 'it\'s a "key" -- ü', "dataset": "everything"}
        parameters |= {"proof": "checksums", "source": ""}
        return self.on_spark(EXPORT_SQL, parameters), self.on_emulator(EXPORT_SQL, parameters)
