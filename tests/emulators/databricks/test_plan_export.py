"""What plan_export.sql decides, and that export_dataset.sql reads the version that was planned."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from deltalake import Field, write_deltalake
from deltalake.schema import PrimitiveType

from emulators.databricks.export import Session
from emulators.databricks.sql_text import statements_of
from emulators.databricks.unity_catalog import Policies, create_view, set_policies, table_uri
from emulators.s3 import storage_options
from tests.export_job import PLAN_SQL

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

NIGHTLY = pytest.mark.tier("nightly")

INCLUDE = Path(__file__).parents[3] / "include"
EXPORT_SQL = (INCLUDE / "sql/databricks/export_dataset.sql").read_text()
ROWS = pa.table({"id": [1, 2, 3], "v": ["a", "b", None]})

UNKNOWN = "no published version is known"
NOT_PINNED = "the dataset file says pinned: false"
MADE_AGAIN = "the source was dropped and made again"
POLICIES = "the source has a row filter or a column mask"
CHANGED = "the source has changed since version 1"
TOO_SHORT = "the history of the source does not reach back to version 1"
NO_TABLE = "the source is no Delta table of Unity Catalog"

Row = dict[str, str]


def plan(here: Any, published: str, source: str = "", mode: str = "") -> Row:
    row = here.first(PLAN_SQL, source_table=source or here.name, published=published, mode=mode)
    columns = ("export_mode", "export_reason", "to_version", "from_version", "committed_at", "table_id", "has_feed")
    assert set(row) == set(columns)
    assert None not in row.values()  # Databricks does not resolve a reference to NULL
    return dict(row)


def published_of(row: Row) -> Row:
    """What Airflow sends after a publish of what was planned so."""
    return {"version": row["to_version"], "committed_at": row["committed_at"], "table_id": row["table_id"]}


# What Airflow knows -> what it sends, by what it would send if it knew all; and the reason why all is exported whatever
# has happened to a source that has versions, None if that decides.
KNOWN: dict[str, tuple[Callable[[Row], str], str | None]] = {
    "all": (json.dumps, None),
    "a version that is a number of JSON": (lambda it: json.dumps(it | {"version": int(it["version"])}), None),
    "nothing": (lambda _: "", UNKNOWN),
    "no publish": (lambda _: "{}", UNKNOWN),
    "an unresolved reference": (lambda _: "{{job.parameters.published}}", UNKNOWN),
    "half of a JSON": (lambda it: json.dumps(it)[:-3], UNKNOWN),
    "a list": (lambda it: json.dumps([it]), UNKNOWN),
    "no version": (lambda it: json.dumps(it | {"version": None}), UNKNOWN),
    "a version that is no number": (lambda it: json.dumps(it | {"version": "one"}), UNKNOWN),
    "a negative version": (lambda it: json.dumps(it | {"version": "-1"}), UNKNOWN),
    "a number and a line feed": (lambda it: json.dumps(it | {"version": it["version"] + "\n"}), UNKNOWN),
    "a version beyond 64 bits": (lambda it: json.dumps(it | {"version": "9" * 20}), UNKNOWN),
    "no time": (lambda it: json.dumps(it | {"committed_at": None}), UNKNOWN),
    "no table id": (lambda it: json.dumps({k: v for k, v in it.items() if k != "table_id"}), UNKNOWN),
    "another table": (lambda it: json.dumps(it | {"table_id": "1"}), MADE_AGAIN),
    "a version that will be": (lambda it: json.dumps(it | {"version": "1000"}), MADE_AGAIN),
    "a reason": (lambda it: json.dumps(it | {"full_because": "it was asked for"}), "it was asked for"),
    "pinned false": (lambda it: json.dumps(it | {"pinned": "false"}), NOT_PINNED),
    "pinned false of JSON": (lambda _: '{"pinned": false}', NOT_PINNED),
}


def _merge(here: Any) -> None:
    merge = here.table().merge(pa.table({"id": [4], "v": ["d"]}), "t.id = s.id", source_alias="s", target_alias="t")
    merge.when_not_matched_insert_all().execute()


def _compact(here: Any) -> None:
    here.table().optimize.compact()


def _vacuum(here: Any) -> None:
    here.table().vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)


def _set_properties(here: Any) -> None:
    here.table().alter.set_table_properties({"delta.logRetentionDuration": "interval 60 days"})


def _commit(here: Any, operation: str | None) -> None:
    """Commit an operation that deltalake lacks."""
    version = here.table().version() + 1
    info = {"timestamp": 1_000 * version} | ({} if operation is None else {"operation": operation})
    here.files.pipe_file(
        f"{table_uri(here.name)}/_delta_log/{version:020}.json", json.dumps({"commitInfo": info}).encode()
    )


def committed(*operations: str | None) -> Callable[[Any], None]:
    def change(here: Any) -> None:
        for operation in operations:
            _commit(here, operation)

    return change


def _made_again(here: Any) -> None:
    here.files.rm(table_uri(here.name), recursive=True)
    build(here)


def _made_again_with_more_versions(here: Any) -> None:
    _made_again(here)
    here.write(ROWS)


def _made_again_with_one_version(here: Any) -> None:
    here.files.rm(table_uri(here.name), recursive=True)
    here.write(ROWS)


def _clean_up(here: Any, *versions: int) -> None:
    here.table().create_checkpoint()
    for version in versions:
        here.files.rm(f"{table_uri(here.name)}/_delta_log/{version:020}.json")


def _cleaned_up_to_the_published(here: Any) -> None:
    for _ in range(2):
        _set_properties(here)
    _clean_up(here, 0)


def _cleaned_up_beyond(here: Any) -> None:
    for _ in range(2):
        _set_properties(here)
    _clean_up(here, 0, 1)


def _cleaned_up_in_between(here: Any) -> None:
    here.write(ROWS, "append")
    _set_properties(here)
    _clean_up(here, 2)


def _became_a_view(here: Any) -> None:
    here.write(ROWS, name=f"{here.catalog}.w.other")
    here.files.rm(table_uri(here.name), recursive=True)
    create_view(here.url, here.name, f"SELECT * FROM {here.catalog}.w.other")


def _is_gone(here: Any) -> None:
    here.write(ROWS, name=f"{here.catalog}.w.other")
    here.files.rm(table_uri(here.name), recursive=True)


def restricted(policies: Policies) -> Callable[[Any], None]:
    return lambda here: set_policies(here.url, here.name, policies)


@dataclass(frozen=True)
class After:
    """
    What has happened since the publish.

    :param because: why all is exported if Airflow knows the publish; None if nothing is new
    :param no_version: why the source has no versions; empty if it has
    """

    change: Callable[[Any], Any]
    because: str | None
    no_version: str = ""


def of_no_version(change: Callable[[Any], Any], because: str) -> After:
    return After(change, because, because)


WITHOUT_CHANGES = (
    *("OPTIMIZE", "VACUUM START", "VACUUM END", "COMPUTE STATS", "ANALYZE", "CLUSTER BY", "SET TBLPROPERTIES"),
    *("UNSET TBLPROPERTIES", "ADD CONSTRAINT", "DROP CONSTRAINT"),
)
# The operations of https://docs.databricks.com/aws/en/delta/history and of Delta's source, and one that is yet to come.
WITH_CHANGES = (
    *("WRITE", "CREATE TABLE AS SELECT", "REPLACE TABLE AS SELECT", "CREATE OR REPLACE TABLE", "COPY INTO"),
    *("STREAMING UPDATE", "DELETE", "TRUNCATE", "MERGE", "UPDATE", "FSCK", "CONVERT", "RESTORE", "CLONE", "REORG"),
    *("ADD COLUMNS", "DROP COLUMNS", "RENAME COLUMN", "CHANGE COLUMN", "REPLACE COLUMNS", "UPGRADE PROTOCOL"),
    *("DROP FEATURE", "ADD FEATURE", "SET TBLPROPERTIES2", "optimize", "SOMETHING NEW", None),
)

AFTER: dict[str, After] = {
    "nothing": After(lambda _: None, None),
    "append": After(lambda here: here.write(ROWS.slice(0, 1), "append"), CHANGED),
    "overwrite": After(lambda here: here.write(ROWS), CHANGED),
    "update": After(lambda here: here.table().update(updates={"v": "'x'"}, predicate="id = 1"), CHANGED),
    "delete": After(lambda here: here.table().delete("id = 1"), CHANGED),
    "merge": After(_merge, CHANGED),
    "restore": After(lambda here: here.table().restore(0), CHANGED),
    "a column": After(lambda here: here.table().alter.add_columns([Field("w", PrimitiveType("integer"))]), CHANGED),
    "compact": After(_compact, None),
    "vacuum": After(_vacuum, None),
    "properties": After(_set_properties, None),
    "all operations without changes": After(committed(*WITHOUT_CHANGES), None),
    "a change between others": After(committed("OPTIMIZE", "WRITE", "VACUUM START"), CHANGED),
    "made again": After(_made_again, MADE_AGAIN),
    "made again with more versions": After(_made_again_with_more_versions, MADE_AGAIN),
    "made again with one version": After(_made_again_with_one_version, MADE_AGAIN),
    "cleaned up to the published version": After(_cleaned_up_to_the_published, None),
    "cleaned up beyond the published version": After(_cleaned_up_beyond, TOO_SHORT),
    "cleaned up in between": After(_cleaned_up_in_between, TOO_SHORT),
    "a view": of_no_version(_became_a_view, f"{NO_TABLE} but VIEW"),
    "gone": of_no_version(_is_gone, NO_TABLE),
    "a row filter": of_no_version(restricted(Policies(row_filter="main.s.f")), POLICIES),
    "a column mask": of_no_version(restricted(Policies(column_masks={"v": "main.s.f"})), POLICIES),
    "both": of_no_version(restricted(Policies("main.s.f", {"v": "main.s.f"})), POLICIES),
}

# With a part of what Airflow may know, each of these takes a branch of its own.
SHORT = ("nothing", "append", "compact", "made again", "cleaned up beyond the published version", "a view")
OF_SHORT = ("all", "nothing", "no time", "another table", "a reason", "pinned false")


def build(here: Any) -> None:
    here.write(ROWS)
    here.write(ROWS.slice(0, 1), "append")


def expected(after: After, known: str) -> tuple[str, str, bool]:
    """Mode and reason, and whether there is a version."""
    because = KNOWN[known][1]
    if because == NOT_PINNED:
        return "full", NOT_PINNED, False
    if after.no_version:
        return "full", after.no_version, False
    reason = because or after.because
    return ("full", reason, True) if reason else ("nothing", "nothing new since version 1", True)


def check(here: Any, after: After, known: list[str]) -> None:
    build(here)
    published = published_of(plan(here, ""))
    assert (published["version"], published["committed_at"].isdigit(), published["table_id"] != "") == ("1", True, True)
    after.change(here)
    for name in known:
        row = plan(here, KNOWN[name][0](published))
        mode, reason, has_version = expected(after, name)
        assert (row["export_mode"], row["export_reason"]) == (mode, reason), name
        version = str(here.table().version()) if has_version else ""
        assert row["to_version"] == version, name
        assert (row["committed_at"] != "", row["table_id"] != "") == (has_version, has_version), name


@pytest.mark.parametrize("after", SHORT)
def test_the_plan_follows_from_the_source_and_from_what_airflow_knows(here: Any, after: str) -> None:
    check(here, AFTER[after], list(OF_SHORT))


@pytest.mark.tier("nightly")
@pytest.mark.parametrize("after", AFTER)
def test_each_pair_of_source_and_knowledge(here: Any, after: str) -> None:
    check(here, AFTER[after], list(KNOWN))


@pytest.mark.tier("nightly")
@pytest.mark.parametrize("operation", WITH_CHANGES)
def test_an_operation_that_is_not_known_to_keep_the_rows_counts_as_a_change(here: Any, operation: str | None) -> None:
    check(here, After(committed("OPTIMIZE", operation), CHANGED), ["all"])


@pytest.mark.tier("nightly")
@pytest.mark.parametrize("operation", WITHOUT_CHANGES)
def test_an_operation_that_keeps_the_rows_is_nothing_new(here: Any, operation: str) -> None:
    check(here, After(committed(operation), None), ["all"])


def test_a_write_without_a_name_of_its_operation_counts_as_a_change(here: Any) -> None:
    """Not every writer of Delta tables names it; NULL is in no list."""
    check(here, After(committed(None), CHANGED), ["all"])


def test_what_is_published_later_is_compared_later(here: Any) -> None:
    build(here)
    for change in (_compact, lambda here: here.write(ROWS, "append"), _set_properties):
        published = published_of(plan(here, ""))
        change(here)
        newer = plan(here, json.dumps(published))
        assert newer["to_version"] > published["version"]
        assert newer["export_mode"] == ("full" if change not in (_compact, _set_properties) else "nothing")


@pytest.mark.others_nightly
@pytest.mark.parametrize("name", ["`{c}`.w.t", "{c}.W.`T`", "{c}.w.`a``b`", "{c}.`prod-eu`.`{{}}`", "`{C}`.`w`.`1;--`"])
def test_the_names_of_the_plan_are_those_of_the_statement(here: Any, name: str) -> None:
    source = name.format(c=here.catalog, C=here.catalog.upper())
    here.write(ROWS, name=source)
    here.write(ROWS, name=f"{here.catalog}.w.neighbour")
    set_policies(here.url, f"{here.catalog}.w.neighbour", Policies(row_filter="main.s.f"))
    row = plan(here, "", source)
    assert (row["export_reason"], row["to_version"]) == (UNKNOWN, "0")
    assert plan(here, json.dumps(published_of(row)), source)["export_mode"] == "nothing"


@pytest.mark.parametrize("catalog", ["hive_metastore", "spark_catalog", "`Hive_Metastore`"])
def test_a_catalog_without_an_information_schema_has_no_versions(here: Any, catalog: str) -> None:
    row = plan(here, '{"version": "0", "committed_at": "1", "table_id": "1"}', f"{catalog}.w.t")
    assert row == {
        "export_mode": "full",
        "export_reason": NO_TABLE,
        "to_version": "",
        "from_version": "",
        "committed_at": "",
        "table_id": "",
        "has_feed": "",
    }


def test_a_description_is_never_nothing(here: Any) -> None:
    build(here)
    row = plan(here, "")
    described = plan(here, json.dumps(published_of(row)), mode="describe")
    assert (described["export_mode"], described["to_version"]) == ("describe", "1")


def test_what_is_no_source_is_planned_for_nobody(here: Any) -> None:
    for source in ("", "t", "main.w.t; DROP TABLE x", "main.w.t VERSION AS OF 1", "{{job.parameters.source_table}}"):
        message = here.refused(PLAN_SQL, source_table=source, published="", mode="")
        assert "The job parameter source_table must be a table" in message


# The version that was planned is the one that leaves


class Exported:
    """The rows and the manifest of an export of the table of a catalog."""

    def __init__(self, here: Any, folder: str) -> None:
        self.here = here
        self.path = f"databricks-snowflake-share/{folder}/"

    def parameters(self, row: Mapping[str, str], **others: str) -> Row:
        given = {"run_key": "key", "dataset": "d", "proof": "checksums", "source": "", "mode": "", "published": ""}
        paths = {"data_path": f"s3://{self.path}data/", "manifest_path": f"s3://{self.path}manifest/"}
        return {"source_table": self.here.name, **given, **paths, **row, **others}

    def run(self, parameters: Row, meanwhile: Callable[[], Any] = lambda: None) -> None:
        """Export; between any two statements that read the table, somebody writes."""
        session = Session(self.here.url, self.here.files)
        try:
            for statement in statements_of(EXPORT_SQL):
                if statement.startswith("EXECUTE IMMEDIATE"):
                    meanwhile()
                session.execute(statement, parameters)
        finally:
            session.close()

    def rows(self) -> pa.Table:
        files = self.here.files.glob(f"{self.path}data/*.parquet")
        return pa.concat_tables([pq.read_table(self.here.files.open(file)) for file in files])

    def manifest(self) -> dict[str, Any]:
        [file] = self.here.files.glob(f"{self.path}manifest/*.parquet")
        [row] = pq.read_table(self.here.files.open(file)).to_pylist()
        return dict(row)


@pytest.fixture
def exported(here: Any, tmp_path: Path) -> Exported:
    return Exported(here, tmp_path.name)


def somebody(here: Any) -> Callable[[], None]:
    """Writes other rows each time, and other columns."""
    numbers = iter(range(10, 100))

    def write() -> None:
        number = next(numbers)
        here.write(pa.table({"id": list(range(number)), f"v{number}": ["x"] * number}))

    return write


CHOICES = {
    "all": "",
    "chosen": '{"columns": [{"name": "v", "alias": "w", "how": "kept"}], "others": "left_out"}',
    "known": '{"columns": [], "others": "kept", "known": ["ID", "V"]}',
}


@pytest.mark.parametrize("choice", CHOICES)
def test_an_export_is_of_the_planned_version_whatever_is_written_meanwhile(
    here: Any, exported: Exported, choice: str
) -> None:
    here.write(ROWS)
    row = plan(here, "")
    proof = "checksums" if choice == "all" else "chosen_checksums"
    parameters = exported.parameters(row, proof=proof, source=CHOICES[choice])
    exported.run(parameters)
    rows, manifest = exported.rows(), exported.manifest()
    assert (rows.num_rows, manifest["row_count"], manifest["source_rows"]) == (3, 3, 3)
    assert manifest["source_version"] == 0
    assert str(int(manifest["source_committed_at"].timestamp() * 1_000_000)) == row["committed_at"]
    assert manifest["source_table_id"] == row["table_id"]
    assert (manifest["export_mode"], manifest["export_reason"]) == ("full", UNKNOWN)
    assert manifest["from_version"] is None

    exported.run(parameters, somebody(here))

    assert exported.rows() == rows
    again = exported.manifest()
    assert again.pop("exported_at") >= manifest.pop("exported_at")
    assert again == manifest


def test_a_description_is_of_the_planned_version(here: Any, exported: Exported) -> None:
    here.write(ROWS)
    row = plan(here, "", mode="describe")
    exported.run(exported.parameters(row, proof="described", mode="describe"), somebody(here))
    manifest = exported.manifest()
    assert (manifest["export_mode"], manifest["row_count"], manifest["source_version"]) == ("describe", 3, 0)
    assert [column["name"] for column in json.loads(manifest["column_types"])] == ["id", "v"]


def unresolved() -> Row:
    """What the job's SQL file would get if Databricks left the references to the plan as they are."""
    job = yaml.safe_load((INCLUDE / "databricks/databricks.yml").read_text())["resources"]["jobs"]["export_dataset"]
    given = job["tasks"][-1]["sql_task"]["parameters"]
    return {name: text for name, text in given.items() if "tasks.plan" in text}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (unresolved(), "the plan of the export did not reach the export"),
        (dict.fromkeys(unresolved(), ""), "the plan of the export did not reach the export"),
        (unresolved() | {"export_mode": "full", "export_reason": "a reason"}, "a reason"),
        (unresolved() | {"to_version": "0 OR 1", "export_mode": "nothing"}, "the plan of the export did not reach"),
    ],
)
def test_without_a_plan_the_newest_rows_leave_and_no_version_is_claimed(
    here: Any, exported: Exported, row: Row, reason: str
) -> None:
    here.write(ROWS)
    here.write(ROWS.slice(1))
    exported.run(exported.parameters(row))
    assert exported.rows() == ROWS.slice(1)
    manifest = exported.manifest()
    assert manifest["export_reason"].startswith(reason)
    assert manifest["export_mode"] == "full"
    assert {manifest[name] for name in ("source_version", "source_committed_at", "source_table_id")} == {None}


def test_a_planned_version_that_is_gone_is_no_other_version(here: Any, exported: Exported) -> None:
    build(here)
    row = plan(here, "")
    here.write(ROWS)
    _clean_up(here, 0, 1)
    message = here.refused(EXPORT_SQL, **exported.parameters(row))
    assert message.startswith("[DELTA_VERSION_NOT_FOUND]")
    assert not here.files.exists(f"{exported.path}manifest/_SUCCESS")


# ---- changes

MERGE = {"load": "merge", "keys": ["ID"], "deletes": "true"}
APPEND = {"load": "append"}
SOME = pa.table({"id": list(range(1, 13)), "v": ["a"] * 12})


def some(here: Any, feed: bool | None = None) -> None:
    """Write a table, with the change data feed on or off, or as it is without a property."""
    options = {"storage_options": storage_options(here.url)}
    properties = {} if feed is None else {"delta.enableChangeDataFeed": str(feed).lower()}
    write_deltalake(table_uri(here.name), SOME, configuration=properties, **options)


def known_of(row: Row, increment: Any = MERGE) -> dict[str, Any]:
    return {**published_of(row), "has_feed": row["has_feed"], "increment": increment}


def changes(here: Any, known: dict[str, Any]) -> tuple[str, str]:
    row = plan(here, json.dumps(known))
    from_version = known["version"] if row["export_mode"] in ("feed", "compare") else ""
    assert row["from_version"] == from_version
    return row["export_mode"], row["export_reason"]


def _update(here: Any) -> None:
    here.table().update(updates={"v": "concat(v, 'b')"}, predicate="id = 1")


def _insert(here: Any) -> None:
    here.write(SOME.slice(0, 1), "append")


def _most(here: Any) -> None:
    here.table().update(updates={"v": "'b'"}, predicate="id > 3")


def _same(here: Any) -> None:
    here.write(SOME)


def _nearly_the_same(here: Any) -> None:
    here.write(pa.table({"id": [*range(2, 13), 20], "v": ["a"] * 12}))


def _add_column(here: Any) -> None:
    here.table().alter.add_columns([Field("w", PrimitiveType("integer"))])


def _feed(on: bool) -> Callable[[Any], None]:
    properties = {"delta.enableChangeDataFeed": str(on).lower()}
    return lambda here: here.table().alter.set_table_properties(properties)


def _then(*steps: Callable[[Any], None]) -> Callable[[Any], None]:
    def change(here: Any) -> None:
        for step in steps:
            step(here)

    return change


THIRD = "more than a third of the rows have changed since version 0"
COLUMNS_CHANGED = "the columns of the source may have changed since version 0"
VACUUMED = "VACUUM may have removed files that changed since version 0"
OF_FEED = "the change data feed has {} changes since version 0"
COMPARED = "at least {} rows have changed since version 0"
NOTHING = "nothing new since version 0"

# What has happened -> mode and reason with the feed on from the start, and without any feed.
DECISIONS: dict[str, tuple[Callable[[Any], None], tuple[str, str], tuple[str, str]]] = {
    "a row": (_update, ("feed", OF_FEED.format(1)), ("compare", COMPARED.format(1))),
    "rows come and go": (_nearly_the_same, ("compare", COMPARED.format(1)), ("compare", COMPARED.format(1))),
    "the same rows again": (_same, ("nothing", NOTHING), ("nothing", NOTHING)),
    "most rows": (_most, ("full", THIRD), ("full", THIRD)),
    "a column": (_then(_update, _add_column), ("full", COLUMNS_CHANGED), ("full", COLUMNS_CHANGED)),
    "two columns with exchanged names": (
        committed("RENAME COLUMN", "RENAME COLUMN", "RENAME COLUMN"),
        ("full", COLUMNS_CHANGED),
        ("full", COLUMNS_CHANGED),
    ),
    "a column that is there again": (
        _then(committed("DROP COLUMNS"), _update),
        ("full", COLUMNS_CHANGED),
        ("full", COLUMNS_CHANGED),
    ),
    "the comment of a column": (committed("CHANGE COLUMN"), ("nothing", NOTHING), ("nothing", NOTHING)),
    "vacuumed": (_then(_update, _vacuum), ("full", VACUUMED), ("full", VACUUMED)),
    "made again": (lambda here: _made_again_as(here), ("full", MADE_AGAIN), ("full", MADE_AGAIN)),
    "the feed goes off": (
        _then(_update, _feed(on=False)),
        ("compare", COMPARED.format(1)),
        ("compare", COMPARED.format(1)),
    ),
    "the feed comes on": (_then(_update, _feed(on=True)), ("feed", OF_FEED.format(1)), ("compare", COMPARED.format(1))),
    "the feed comes on first": (
        _then(_feed(on=True), _update),
        ("feed", OF_FEED.format(1)),
        ("feed", OF_FEED.format(1)),
    ),
    "only what changes no row": (_then(_compact, _set_properties), ("nothing", NOTHING), ("nothing", NOTHING)),
}


def _made_again_as(here: Any) -> None:
    here.files.rm(table_uri(here.name), recursive=True)
    some(here)
    _insert(here)


# Those that the model of tests/sandbox/load/test_increments.py meets least often.
DECIDED_FIRST = ("a row", "rows come and go", "the same rows again", "vacuumed", "two columns with exchanged names")


@pytest.mark.parametrize(
    "happened",
    [*DECIDED_FIRST, *(pytest.param(name, marks=NIGHTLY) for name in DECISIONS if name not in DECIDED_FIRST)],
)
def test_the_plan_decides_how_changes_are_found(here: Any, happened: str) -> None:
    change, with_feed, without_feed = DECISIONS[happened]
    for feed, expected in ((True, with_feed), (None, without_feed)):
        some(here, feed)
        known = known_of(plan(here, ""))
        assert known["has_feed"] == ("true" if feed else "")
        change(here)
        assert changes(here, known) == expected, feed
        here.files.rm(table_uri(here.name), recursive=True)


def test_all_is_exported_where_airflow_says_so_and_anything_is_new(here: Any) -> None:
    some(here)
    known = known_of(plan(here, ""))
    no_increment = {**known, "no_increment_because": "the last sync has not ended well"}
    assert changes(here, no_increment) == ("nothing", NOTHING)
    _update(here)
    assert changes(here, no_increment) == (
        "full",
        "the source has changed since version 0, and the last sync has not ended well",
    )
    without = {name: value for name, value in known.items() if name != "increment"}
    assert changes(here, without) == ("full", "the source has changed since version 0")


def test_that_the_feed_is_on_is_remembered_when_the_history_does_not_tell_it_any_more(here: Any) -> None:
    some(here, feed=True)
    for _ in range(2):
        _update(here)
    known = known_of(plan(here, ""))
    _clean_up(here, 0, 1)
    _insert(here)
    assert changes(here, known) == ("feed", "the change data feed has 1 changes since version 2")
    # Change files, which an update leaves, tell it too; a table of which nothing tells it, is compared.
    assert changes(here, known | {"has_feed": ""})[0] == "feed"
    _clean_up(here, 2)
    assert known_of(plan(here, ""))["has_feed"] == ""
    _update(here)
    assert known_of(plan(here, ""))["has_feed"] == "true"


def test_maps_are_not_compared(here: Any) -> None:
    kinds = pa.schema([("id", pa.int64()), ("m", pa.map_(pa.string(), pa.string()))])
    rows = pa.Table.from_pylist([{"id": number, "m": [("a", "b")]} for number in range(9)], kinds)
    here.write(rows)
    known = known_of(plan(here, ""))
    here.write(rows.slice(0, 1), "append")
    mode, reason = changes(here, known)
    assert (mode, "a type that cannot be compared" in reason) == ("full", True)


def test_the_name_of_a_column_is_no_type(here: Any) -> None:
    names = ["variant_id", "interval", "geography", "maps"]
    rows = pa.table({name: [*range(9)] for name in names})
    here.write(rows)
    known = known_of(plan(here, ""))
    here.write(rows.slice(0, 1), "append")
    assert changes(here, known)[0] == "compare"


@pytest.mark.parametrize(
    ("name", "increment", "mode"),
    [
        ("data_share_deleted", MERGE, "full"),
        ("Data_Share_Deleted", MERGE, "full"),
        ("data_share_deleted", APPEND, "compare"),
        ("was_data_share_deleted_at", MERGE, "compare"),
    ],
)
def test_only_a_column_of_the_name_of_the_mark_stops_changes(
    here: Any, name: str, increment: dict[str, Any], mode: str
) -> None:
    rows = pa.table({"id": [*range(9)], name: [*range(9)]})
    here.write(rows)
    known = known_of(plan(here, ""), increment)
    here.write(rows.slice(0, 1), "append")
    assert changes(here, known)[0] == mode


def test_a_version_that_is_too_old_is_not_compared(here: Any) -> None:
    some(here)
    _commit(here, "WRITE")  # in 1970
    known = known_of(plan(here, ""))
    here.write(SOME.slice(0, 1), "append")
    mode, reason = changes(here, known)
    assert (mode, "older than a week" in reason) == ("full", True)


@pytest.mark.parametrize("feed", [True, None])
def test_an_append_has_only_rows_that_are_new(here: Any, feed: bool | None) -> None:
    some(here, feed)
    known = known_of(plan(here, ""), APPEND)
    assert changes(here, known) == ("nothing", NOTHING)
    here.write(SOME, "append")
    assert changes(here, known)[0] == ("feed" if feed else "compare"), "however many"
    _update(here)
    message = here.refused(PLAN_SQL, source_table=here.name, published=json.dumps(known), mode="")
    assert "it cannot be told which these are: rows of the source were changed or deleted since version 0" in message
    # Nothing is exported by a description, so it is not refused.
    assert plan(here, json.dumps(known), mode="describe")["export_mode"] == "describe"
    # Airflow decides on the first one, and on a full refresh.
    assert plan(here, json.dumps({"full_because": "it was asked for"}))["export_mode"] == "full"
