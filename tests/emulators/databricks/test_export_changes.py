"""Exports of changes: applied to what was published, they give what the source is, for each range of its versions."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import Field, WriterProperties, write_deltalake
from deltalake.schema import PrimitiveType

from data_share.dag_defaults import SHARE
from data_share.render import export_sql
from data_share.source import Source
from emulators.databricks.unity_catalog import table_uri
from emulators.s3 import storage_options
from tests.export_job import PLAN_SQL, UNPLANNED
from tests.sandbox.load.driver import HASH_KEY

pytestmark = [pytest.mark.sandbox, pytest.mark.tier("full")]

SCHEMA = pa.schema({"k": pa.int64(), "part": pa.string(), "v": pa.float64()})
FEED = {"delta.enableChangeDataFeed": "true"}

Row = dict[str, Any]
Rows = list[Row]


def table_of(rows: Rows) -> pa.Table:
    return pa.Table.from_pylist(rows, SCHEMA)


class History:
    """
    A source, and what it had in each version.

    :param here: the catalog
    :param properties: properties of the table from its first version on
    """

    def __init__(self, here: Any, properties: dict[str, str]) -> None:
        self.here = here
        self.uri, self.options = table_uri(here.name), storage_options(here.url)
        self.next = 0
        write_deltalake(
            self.uri,
            table_of(self.some(6)),
            configuration=properties,
            storage_options=self.options,
            writer_properties=WriterProperties(),
        )

    def some(self, count: int) -> Rows:
        self.next += count
        return [
            {"k": number, "part": "ab"[number % 2], "v": None if number % 5 == 0 else number / 4}
            for number in range(self.next - count + 1, self.next + 1)
        ]

    def rows(self, version: int | None = None) -> Rows:
        table = self.here.table()
        if version is not None:
            table.load_as_version(version)
        return sorted(table.to_pyarrow_table().to_pylist(), key=lambda row: row["k"])

    # ---- operations

    def insert(self) -> None:
        write_deltalake(self.uri, table_of(self.some(2)), mode="append", storage_options=self.options)

    def update(self) -> None:
        self.here.table().update(updates={"v": "v + 1"}, predicate=f"k % 3 = {self.next % 3}")

    def delete(self) -> None:
        self.here.table().delete(f"k % 4 = {self.next % 4}")

    def change_keys(self) -> None:
        self.here.table().update(updates={"k": "k + 1000"}, predicate=f"k % 5 = {self.next % 5} AND k < 1000")

    def swap_keys(self) -> None:
        keys = [row["k"] for row in self.rows()][:2]
        if len(keys) == 2:
            self.here.table().update(updates={"k": f"{sum(keys)} - k"}, predicate=f"k = {keys[0]} OR k = {keys[1]}")

    def move(self) -> None:
        """Move rows into the condition, or out of it."""
        self.here.table().update(updates={"part": "CASE WHEN part = 'a' THEN 'b' ELSE 'a' END"}, predicate="k % 2 = 0")

    def merge(self) -> None:
        known = [row | {"v": 0.5} for row in self.rows()[:2]]
        (
            self.here.table()
            .merge(table_of([*known, *self.some(1)]), "t.k = s.k", source_alias="s", target_alias="t")
            .when_matched_update_all()
            .when_not_matched_insert_all()
            .execute()
        )

    def overwrite(self) -> None:
        rows = [*self.rows()[1:], *self.some(1)]
        write_deltalake(self.uri, table_of(rows), mode="overwrite", storage_options=self.options)

    def overwrite_with_the_same(self) -> None:
        write_deltalake(self.uri, table_of(self.rows()), mode="overwrite", storage_options=self.options)

    def optimize(self) -> None:
        self.here.table().optimize.compact()


OPERATIONS = (
    *("insert", "update", "delete", "change_keys", "swap_keys", "move", "merge", "overwrite"),
    *("overwrite_with_the_same", "optimize"),
)


def happen(history: History, chance: random.Random, commits: int) -> int:
    """Let something happen; return the newest version."""
    for _ in range(commits):
        getattr(history, chance.choice(OPERATIONS))()
    return int(history.here.table().version())


class Exporter:
    """Executes both files of the job, as the job does."""

    def __init__(self, here: Any, path: str, dataset: str = "d", where: str | None = None) -> None:
        self.here, self.where = here, where
        self.source = Source(where=where)
        self.path = f"s3://{SHARE.bucket}/{path}/"
        from data_share.datasets import Dataset, LoadMode

        described = Dataset(
            name=dataset,
            description="d",
            source_table=here.name,
            source=self.source,
            target_table="d",
            load_mode=LoadMode.MERGE,
            merge_keys=("K",),
            required_columns=("K",),
        )
        self.sql = export_sql([described], SHARE)
        self.dataset = dataset

    def plan(self, published: Any) -> Row:
        found: Row = self.here.first(PLAN_SQL, source_table=self.here.name, published=json.dumps(published), mode="")
        return found

    def export(self, plan: Row, published: Any = "") -> tuple[Rows, Row]:
        """Return the exported rows and the manifest."""
        session = self.here._session()
        session._secrets = {(SHARE.hash_secret_scope, SHARE.hash_secret_key): HASH_KEY}
        choice = self.source.parameter()
        parameters = {
            **UNPLANNED,
            "source_table": self.here.name,
            "data_path": f"{self.path}data/",
            "manifest_path": f"{self.path}manifest/",
            "run_key": "key",
            "dataset": self.dataset,
            "mode": "",
            "proof": "chosen_checksums" if choice else "checksums",
            "source": json.dumps(choice) if choice else "",
            "published": json.dumps(published),
            **plan,
        }
        try:
            session.execute(self.sql, parameters)
        finally:
            session.close()
        self.here.files.invalidate_cache()
        return self._read("data"), self._read("manifest")[0]

    def _read(self, folder: str) -> Rows:
        files = [file for file in self.here.files.find(f"{self.path}{folder}") if file.endswith(".parquet")]
        rows: Rows = []
        for file in files:
            with self.here.files.open(file) as opened:
                rows += pq.read_table(opened).to_pylist()
        return rows


def applied(before: Rows, changes: Rows, *, mirrors_deletes: bool) -> Rows:
    """Return a target after a merge of changes."""
    target = {row["k"]: row for row in before}
    assert len({row["k"] for row in changes}) == len(changes)
    for change in changes:
        row = {name: value for name, value in change.items() if name != "data_share_deleted"}
        assert mirrors_deletes == ("data_share_deleted" in change)
        if change.get("data_share_deleted"):
            target.pop(row["k"], None)
        else:
            target[row["k"]] = row
    return sorted(target.values(), key=lambda row: row["k"])


def increment(mode: str, start: int, end: int) -> Row:
    """The row of a plan that exports a range."""
    return {
        "export_mode": mode,
        "export_reason": "of the test",
        "from_version": str(start),
        "to_version": str(end),
        "committed_at": "0",
        "table_id": "1",
        "has_feed": "",
    }


def check_ranges(
    here: Any,
    tmp: str,
    seed: int,
    *,
    where: str | None,
    mirrors_deletes: bool,
    choose: Callable[[list[Any]], list[Any]],
) -> int:
    """Export ranges of a random history in both modes, and apply each to what was there before it."""
    history = History(here, FEED)
    newest = happen(history, random.Random(seed), 8)
    exporter = Exporter(here, tmp, where=where)
    published = {"increment": {"load": "merge", "keys": ["K"], "deletes": str(mirrors_deletes).lower()}}
    chosen = [
        [row for row in history.rows(version) if where is None or row["part"] == "a"] for version in range(newest + 1)
    ]
    ranges = choose([(start, end) for start in range(newest) for end in range(start + 1, newest + 1)])
    for start, end in ranges:
        kept = {row["k"]: row for row in chosen[start]} | {row["k"]: row for row in chosen[end]}
        expected = chosen[end] if mirrors_deletes else sorted(kept.values(), key=lambda row: row["k"])
        for mode in ("feed", "compare"):
            changes, manifest = exporter.export(increment(mode, start, end), published)
            # The feed may overlap with what is published; two versions that are compared, may not.
            for base in {start, end} | ({(start + end) // 2} if mode == "feed" else set()):
                before = chosen[base]
                if not mirrors_deletes and base != start:
                    continue
                assert applied(before, changes, mirrors_deletes=mirrors_deletes) == expected, (mode, start, end, base)
            assert (manifest["source_rows"], manifest["row_count"]) == (len(chosen[end]), len(changes))
            assert (manifest["from_version"], manifest["source_version"]) == (start, end)
            assert manifest["export_mode"] == mode
    return len(ranges)


@pytest.mark.parametrize(
    ("mirrors_deletes", "where"),
    [(True, None), (True, "part = 'a'"), pytest.param(False, "part = 'a'", marks=pytest.mark.tier("nightly"))],
)
def test_changes_of_a_range_applied_to_its_start_give_its_end(
    here: Any, tmp_path: Any, where: str | None, mirrors_deletes: bool
) -> None:
    chance = random.Random(1)
    check_ranges(
        here,
        tmp_path.name,
        seed=7 if where else 3,
        where=where,
        mirrors_deletes=mirrors_deletes,
        choose=lambda ranges: [(0, ranges[-1][1]), *chance.sample(ranges, 3)],
    )


@pytest.mark.tier("nightly")
@pytest.mark.parametrize("seed", range(20, 32))
def test_changes_of_each_range(here: Any, tmp_path: Any, seed: int) -> None:
    where = "part = 'a'" if seed % 2 else None
    assert check_ranges(here, tmp_path.name, seed, where=where, mirrors_deletes=seed % 3 != 0, choose=list) == 36


__all__ = ["Field", "PrimitiveType"]
