"""The source table of a dataset, and what may happen to it."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, Field, write_deltalake
from deltalake.schema import PrimitiveType

from data_share.datasets import Dataset
from emulators.databricks.unity_catalog import table_uri
from emulators.s3 import storage_options
from tests.sandbox.load.driver import SCHEMA, Row, Share


class Source:
    """
    A Delta table, and the operations on it.

    :param share: the emulators
    :param dataset: the dataset whose source it is
    """

    def __init__(self, share: Share, dataset: Dataset) -> None:
        self.uri = table_uri(dataset.source_table)
        self.files = share.files
        self.options = storage_options(share.s3_url)
        self._next = 0
        self._opened: DeltaTable | None = None
        self._commits: dict[int, list[dict[str, Any]]] = {}

    @property
    def table(self) -> DeltaTable:
        """The newest version. Opened once: each commit since the last checkpoint would be read again."""
        if self._opened is None:
            self._opened = DeltaTable(self.uri, storage_options=self.options)
        else:
            self._opened.update_incremental()
        return self._opened

    def rows(self, version: int | None = None) -> list[Row]:
        """Return the rows of a version; without it, of the newest."""
        table = self.table
        if version is not None and version != table.version():
            table = DeltaTable(self.uri, version=version, storage_options=self.options)
        return sorted(table.to_pyarrow_table().to_pylist(), key=lambda row: row["k"])

    def commits(self, first: int = 0) -> dict[int, list[dict[str, Any]]]:
        """Return the actions of the commits from a version on."""
        newest = self.table.version()
        for version in range(len(self._commits), newest + 1):
            lines = self.files.cat(f"{self.uri}/_delta_log/{version:020}.json").splitlines()
            self._commits[version] = [json.loads(line) for line in lines]
        return {version: self._commits[version] for version in range(first, newest + 1)}

    def write(self, rows: list[Row], mode: Any) -> None:
        is_there = self._opened is not None or DeltaTable.is_deltatable(self.uri, self.options)
        kinds = self.table.schema().to_arrow() if is_there else SCHEMA
        table = pa.Table.from_pylist(rows, schema=pa.schema(kinds))
        write_deltalake(self.uri, table, mode=mode, storage_options=self.options)

    def new_row(self) -> Row:
        self._next += 1
        name = ["kept", "hidden"][self._next % 2]
        return {"k": self._next, "name": name, "amount": self._next / 4}

    # Operations with other rows afterwards.

    def insert(self) -> None:
        self.write([self.new_row(), self.new_row()], "append")

    def update(self) -> None:
        self.table.update(updates={"amount": "amount + 1"}, predicate=f"k = {self.rows()[0]['k']}")

    def delete(self) -> None:
        self.insert()
        self.table.delete(f"k = {self.rows()[0]['k']}")

    def overwrite(self) -> None:
        self.write([self.new_row() for _ in range(3)], "overwrite")

    def restore(self) -> None:
        before = self.table.version()
        self.insert()
        self.insert()
        self.table.restore(before + 1)

    def make_again(self) -> None:
        """Drop the table, and make another one, with as many versions, under its name."""
        versions, columns = self.table.version(), self.table.schema()
        self.files.rm(self.uri, recursive=True)
        self._opened, self._commits = None, {}
        if versions:
            DeltaTable.create(self.uri, columns, storage_options=self.options)
        for _ in range(max(versions, 1)):  # the first write makes the table if nothing has
            self.write([self.new_row()], "append")

    def change_keys(self) -> None:
        self.insert()
        keys = [row["k"] for row in self.rows()]
        self.table.update(updates={"k": "k + 100000"}, predicate=f"k IN ({keys[0]}, {keys[-1]})")

    def swap_keys(self) -> None:
        self.insert()
        first, *_, last = (row["k"] for row in self.rows())
        self.table.update(updates={"k": f"{first + last} - k"}, predicate=f"k IN ({first}, {last})")

    def hide(self) -> None:
        """Move rows out of the condition that some datasets have, and others into it."""
        name = "CASE WHEN name = 'hidden' THEN 'kept' ELSE 'hidden' END"
        self.table.update(updates={"name": name}, predicate=f"k <= {self.rows()[0]['k'] + 1}")

    def merge(self) -> None:
        rows = [*self.rows()[:1], self.new_row()]
        known = pa.Table.from_pylist([row | {"amount": -1.5} for row in rows], schema=SCHEMA)
        merge = self.table.merge(known, "t.k = s.k", source_alias="s", target_alias="t")
        merge.when_matched_update({"amount": "s.amount"}).when_not_matched_insert(
            {name: f"s.{name}" for name in SCHEMA.names}
        ).execute()

    def add_column(self) -> None:
        self._next += 1
        self.table.alter.add_columns([Field(f"added_{self._next}", PrimitiveType("string"))])

    def insert_many(self) -> None:
        self.write([self.new_row() for _ in range(3 * len(self.rows()) + 3)], "append")

    # Operations that change no row.

    def feed_on(self) -> None:
        self.table.alter.set_table_properties({"delta.enableChangeDataFeed": "true"})

    def feed_off(self) -> None:
        self.table.alter.set_table_properties({"delta.enableChangeDataFeed": "false"})

    def write_nearly_the_same(self) -> None:
        self.write([*self.rows()[1:], self.new_row()], "overwrite")

    def write_the_same(self) -> None:
        self.write(self.rows(), "overwrite")

    def optimize(self) -> None:
        self.table.optimize.compact()

    def vacuum(self) -> None:
        self.table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)

    def set_property(self) -> None:
        self.table.alter.set_table_properties({"a.b": str(self._next)}, raise_if_not_exists=False)

    def leave(self) -> None:
        pass
