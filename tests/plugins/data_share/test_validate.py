"""`make validate`: each problem of each file with its line, field and reason; nothing else when all is well."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from data_share.validate import Finding, findings, main
from tests.plugins.data_share.test_datasets import aliases_of_aliases

PROJECT = Path(__file__).resolve().parents[3]
SHIPPED = (PROJECT / "include" / "share.yaml").read_text()
MARK = "§"
"""Stands before the line that is to be named. Without it, the first line is."""


def dataset(more: str = "", **fields: str | None) -> str:
    """Return a dataset file, with other YAML for some fields, and more lines behind them."""
    right = {
        "description": "Tides by harbour.",
        "source_table": "main.sea.tides",
        "target_table": "TARGET",
        "load_mode": "replace",
        "required_columns": "[harbour]",
    }
    lines = [f"{name}: {value}\n" for name, value in {**right, **fields}.items() if value is not None]
    return "".join(MARK + line.replace(MARK, "") if MARK in line else line for line in lines) + more


def columns(*more: str) -> str:
    """Return lines that let the set-up create the target, and lines behind them."""
    return "create_table: from_columns\ncolumns:\n  harbour: VARCHAR(80)\n" + "".join(f"{line}\n" for line in more)


MERGE = {"load_mode": "merge"}
NO_YAML = "it cannot be read as YAML"

# What is wrong, the file, and how the problem begins: with the field, and then the reason.
BROKEN: dict[str, tuple[str | bytes, str]] = {
    # the file as a whole
    "not YAML": ("description: [\n§", f"{NO_YAML}: while parsing a flow node: did not find expected node content"),
    "a tab": (dataset("checks:\n§\tdeep: a > 1\n"), f"{NO_YAML}: while scanning for the next token: found character"),
    "a bracket that stays open": (dataset("tags: [a, b\n§owner: x\n"), f"{NO_YAML}: while parsing a flow sequence"),
    "two documents": (dataset("§---\na: 1\n"), f"{NO_YAML}: expected a single document"),
    "a preset without quotes": (dataset("§schedule: @daily\n"), f"{NO_YAML}: while scanning for the next token"),
    "a field twice": (dataset("§load_mode: append\n"), f"{NO_YAML}: load_mode is given more than once"),
    "a check twice": (dataset("checks:\n  a: b > 0\n§  a: b > 1\n"), f"{NO_YAML}: a is given more than once"),
    "fields taken over": (dataset("checks:\n§  <<: {a: b > 0}\n"), f"{NO_YAML}: << is not supported"),
    "a Python object": (dataset("§owner: !!python/name:os.system\n"), f"{NO_YAML}: could not determine a constructor"),
    "an unknown alias": (dataset("§owner: *nobody\n"), f"{NO_YAML}: found undefined alias"),
    "UTF-16": (dataset().encode("utf-16"), f"{NO_YAML}: it is not a text in UTF-8 (byte 0xff in line 1)"),
    "Latin-1": (
        (dataset("§owner: Jos\xe9\n")).replace(MARK, "\0").encode("latin-1").replace(b"\0", MARK.encode()),
        f"{NO_YAML}: it is not a text in UTF-8 (byte 0xe9 in line 6); save it as UTF-8",
    ),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", f"{NO_YAML}: it is not a text in UTF-8 (byte 0x89 in line 1)"),
    "a zero byte": (dataset("owner: a\0b\n"), f"{NO_YAML}: unacceptable character #x0000"),
    "nothing": ("", "it must contain fields, as in 'source_table: main.weather.forecasts'"),
    "a list": ("- main.sea.tides\n", "it must contain fields"),
    "huge": (dataset("#" * 1_000_000), f"{NO_YAML}: more than 100000 characters"),
    "deep": (dataset(f"checks: {'[' * 45_000}\n"), f"{NO_YAML}: more than 20 nested levels"),
    "a value in itself": (dataset("checks: &all\n§  deep: *all\n"), "checks.deep: Input should be a valid string"),
    # one field
    "an unknown field": (dataset("§colour: blue\n"), "colour: Extra inputs are not permitted (found: 'blue')"),
    "its name": (dataset("§name: tides\n"), "name: the file's name is the dataset's name; remove this field"),
    "a missing field": (dataset(source_table=None), "source_table: Field required (found: nothing)"),
    "a type": (dataset(description="§5"), "description: Input should be a valid string (found: 5)"),
    "a mode": (dataset(load_mode="§truncate"), "load_mode: Input should be 'replace', 'append' or 'merge'"),
    "a boolean": (dataset("§allow_empty: 'true'\n"), "allow_empty: Input should be a valid boolean (found: 'true')"),
    "a number": (dataset("§load_timeout_minutes: 0\n"), "load_timeout_minutes: Input should be greater than or equal"),
    "a source": (dataset(source_table="§sea.tides"), "source_table: not of the form catalog.schema.table"),
    "SQL in the source": (dataset(source_table="§'a.b.c; DROP TABLE x'"), "source_table: not of the form"),
    "SQL in the target": (dataset(target_table="§'a; DROP TABLE x'"), "target_table: not of the form table"),
    "the ledger as target": (dataset(target_table="§sync_history"), "target_table: all syncs write to a table of"),
    "an unknown share": (dataset("§share: emea\n"), "share: include/share.yaml has no such share; known are default"),
    "a column in a list of several lines": (
        dataset(required_columns="\n  - harbour").rstrip("\n") + "\n§  - a OR 1=1\n",
        "required_columns.1: no plain name",
    ),
    "a column twice": (dataset(required_columns="§[a, A]"), "required_columns: A is given more than once"),
    "columns that differ by case": (dataset(required_columns="§['\"a\"', A]"), 'required_columns: "A", "a" differ'),
    "a tag": (dataset("tags:\n  - sea\n§  - 'a b'\n"), "tags.1: String should match pattern"),
    "a tag of each DAG": (dataset("§tags: [sync]\n"), "tags: sync: the DAG has this tag already"),
    "an owner": (dataset("§owner: a,b\n"), "owner: String should match pattern"),
    "a type of a column": (
        dataset("create_table: from_columns\ncolumns:\n  harbour: DATE\n§  depth: NUMBR\n"),
        "columns.depth: 'NUMBR' is no type of Snowflake that is known here",
    ),
    # schedules
    "a schedule in words": (dataset("§schedule: every day\n"), "schedule: 'every day' is neither a cron expression"),
    "a schedule of six fields": (dataset("§schedule: 0 6 * * * 30\n"), "schedule: '0 6 * * * 30' has 6 fields"),
    "a schedule that never comes": (dataset("§schedule: 0 6 30 2 *\n"), "schedule: '0 6 30 2 *' never comes"),
    "a time zone": (
        dataset("§schedule:\n  cron: 0 6 * * *\n  time_zone: Europe/Berln\n"),
        "schedule: 'Europe/Berln' is no time zone of the IANA database; did you mean Europe/Berlin?",
    ),
    # fields that do not go together
    "a merge without keys": (dataset(load_mode="merge"), "merge_keys: load_mode merge needs at least one"),
    "keys of no merge": (dataset("§merge_keys: [harbour]\n"), "merge_keys: only for load_mode merge, not for replace"),
    "a key that is no column": (
        dataset("§merge_keys: [harbour, day]\n" + columns(), **MERGE),
        "merge_keys: day not in columns",
    ),
    "a required column that is no column": (
        dataset(columns(), required_columns="§[harbour, day]"),
        "required_columns: day not in columns",
    ),
    "a cast of a key": (
        dataset("merge_keys: [harbour]\n§casts: [harbour]\n", **MERGE),
        "casts: harbour is a merge key; a changed key would overwrite another row",
    ),
    "columns that nobody creates": (
        dataset("§columns:\n  harbour: VARCHAR\n"),
        "columns: only with create_table: from_columns",
    ),
    # conditions
    "a misspelt operator for the rows": (
        dataset("source:\n  exclude: [ssn]\n§  where: depth BETWEN 1 AND 2\n"),
        "source.where: it cannot be read at 'BETWEN': it cannot stand here; did you mean BETWEEN?",
    ),
    "an aggregate for the rows": (
        dataset("source:\n§  where: depth > avg(depth)\n"),
        "source.where: it has the aggregate AVG; Databricks takes none in a condition for rows",
    ),
    "two statements for the rows": (
        dataset("source:\n§  where: depth > 1; DROP TABLE x\n"),
        "source.where: contains ; outside of quotes: it must be one condition",
    ),
    "a misspelt operator": (
        dataset("checks:\n  some: COUNT(*) > 0\n§  deep: depth BETWEN 1 AND 2\n"),
        "checks.deep: it cannot be read at 'BETWEN': it cannot stand here; did you mean BETWEEN?",
    ),
    "a misspelt operator in a text of several lines": (
        dataset("checks:\n§  deep: >-\n    depth > 0\n    ADN depth < 9\n"),
        "checks.deep: it cannot be read at 'ADN': it cannot stand here; did you mean AND?",
    ),
    "a parenthesis that stays open": (
        dataset("checks:\n§  deep: (depth > 0\n"),
        "checks.deep: it cannot be read at '0': expecting )",
    ),
    "half a condition": (dataset("checks:\n§  deep: depth >\n"), "checks.deep: it cannot be read at '>': something is"),
    "a statement": (dataset("checks:\n§  deep: DROP TABLE x\n"), "checks.deep: it cannot be read at 'DROP'"),
    "two statements": (
        dataset("checks:\n§  deep: depth > 0; DROP TABLE x\n"),
        "checks.deep: contains a semicolon; it must be one condition (found: 'depth > 0; DROP TABLE x')",
    ),
    "a comment in a condition": (dataset("checks:\n§  deep: a > 1 -- b\n"), "checks.deep: contains a comment (--)"),
    "a quote that stays open": (dataset("checks:\n§  deep: a > 'x\n"), "checks.deep: has a ' that is not closed"),
    "a number for a condition": (dataset("checks:\n§  deep: 1\n"), "checks.deep: Input should be a valid string"),
    "the name of a check": (dataset("checks:\n§  Deep one: a > 1\n"), "checks.Deep one.[key]: String should match"),
    "a check with the name of another": (
        dataset("§checks:\n  harbour_not_null: a > 1\n"),
        "checks: harbour_not_null is the name of a check of every sync",
    ),
}

# The same of the share file.
BROKEN_SHARE: dict[str, tuple[str, str]] = {
    "not YAML": (SHIPPED + "environment: [\n§", f"{NO_YAML}: while parsing a flow node"),
    "an unknown field": (SHIPPED + "§stagee: x\n", "stagee: there is no such field; did you mean stage?"),
    "a url": (SHIPPED.replace("url: s3", "§url: s4"), "url: write s3://<bucket>/<folder>/"),
    "a reserved word": (
        SHIPPED.replace("ledger_table: sync_history", "§ledger_table: order"),
        "ledger_table: Snowflake reserves this word",
    ),
    "one table twice": (
        SHIPPED.replace("manifest_table: export_manifests", "§manifest_table: sync_history"),
        "manifest_table: sync_history is the ledger_table too",
    ),
    "a missing field": (SHIPPED.replace("stage: s3_share_stage\n", ""), "stage: Field required (found: nothing)"),
    "a share of the same url": (
        SHIPPED + "shares:\n  emea:\n§    url: s3://databricks-snowflake-share/dataset/\n",
        "shares.emea.url: s3://databricks-snowflake-share/dataset/ and",
    ),
    "a table of a share twice": (
        SHIPPED + "shares:\n  emea:\n    url: s3://acme-emea/out/\n§    manifest_table: sync_history\n",
        "shares.emea.manifest_table: sync_history is the ledger_table too",
    ),
    "an unknown field of a share": (
        SHIPPED + "shares:\n  emea:\n    url: s3://acme-emea/out/\n§    stagee: x\n",
        "shares.emea.stagee: there is no such field; did you mean stage?",
    ),
    "no folder": (SHIPPED + "§datasets_folder: ''\n", "datasets_folder: String should have at least 1 character"),
    "a share's name": (
        SHIPPED + "shares:\n  emea:\n    url: s3://acme-emea/out/\n§    stage: a-b\n",
        "shares.emea.stage: write a plain name",
    ),
    "a default that is none": (
        SHIPPED + "defaults:\n§  target_table: x\n",
        "defaults.target_table: no default is possible",
    ),
    "a schedule": (SHIPPED + "defaults:\n§  schedule: daily\n", "defaults.schedule: 'daily' is neither a cron"),
    "a condition": (
        SHIPPED + "defaults:\n  checks:\n§    deep: depth BETWEN 1 AND 2\n",
        "defaults.checks.deep: it cannot be read at 'BETWEN'",
    ),
}


def deployment(folder: Path, share: str = SHIPPED, **datasets: str | bytes) -> Path:
    """Write the files of a deployment, without the marks; return its share file."""
    files = {"share.yaml": share, **{f"datasets/{name}.yaml": content for name, content in datasets.items()}}
    for name, content in files.items():
        path = folder / "include" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = content.encode() if isinstance(content, str) else content
        path.write_bytes(raw.replace(MARK.encode(), b"").replace(b"TARGET", path.stem.encode()))
    return folder / "include" / "share.yaml"


def marked_line(content: str | bytes) -> int:
    raw = content.encode() if isinstance(content, str) else content
    before, mark, _ = raw.partition(MARK.encode())
    return before.count(b"\n") + 1 if mark else 1


NAMES = {mistake: f"d_{re.sub('[^a-z0-9]', '_', mistake.lower())}" for mistake in BROKEN}


@pytest.fixture(scope="module")
def of_all_broken_files(tmp_path_factory: pytest.TempPathFactory) -> list[Finding]:
    """What is found in one run over all broken dataset files."""
    folder = tmp_path_factory.mktemp("broken")
    path = deployment(folder, **{NAMES[mistake]: content for mistake, (content, _) in BROKEN.items()})
    found, valid = findings(path)
    assert valid == 0
    return found


@pytest.mark.parametrize("mistake", BROKEN)
def test_a_broken_dataset_file_is_told_with_line_field_and_reason(
    of_all_broken_files: list[Finding], mistake: str
) -> None:
    content, words = BROKEN[mistake]
    [told] = [each for each in of_all_broken_files if each.path.stem == NAMES[mistake]]
    assert (told.line, told.is_error) == (marked_line(content), True)
    assert told.text.startswith(words)
    assert len(told.text) < 2_000


@pytest.mark.parametrize("mistake", BROKEN_SHARE)
def test_a_broken_share_file_is_told_and_hides_no_dataset(tmp_path: Path, mistake: str) -> None:
    content, words = BROKEN_SHARE[mistake]
    path = deployment(tmp_path, content, broken=dataset("owner: a,b\n"), right=dataset())
    (of_dataset, of_share), valid = findings(path)
    assert (of_share.path, of_share.line) == (path, marked_line(content))
    assert of_share.text.startswith(words)
    assert (of_dataset.path.name, of_dataset.line, of_dataset.text[:6]) == ("broken.yaml", 6, "owner:")
    assert valid == 1


def test_which_shares_a_broken_share_file_has_is_not_held_against_a_dataset(tmp_path: Path) -> None:
    path = deployment(tmp_path, SHIPPED + "stagee: x\n", tides=dataset("share: emea\n"), waves=dataset())
    found, valid = findings(path)
    assert [each.path for each in found] == [path]
    assert valid == 2


def test_what_a_small_file_makes_huge_is_told_in_short(tmp_path: Path) -> None:
    path = deployment(tmp_path, tides=aliases_of_aliases("[x]", "[{}]") + dataset("owner: *a12\n"))
    found, _ = findings(path)
    assert [each.line for each in found] == [*range(1, 14), 19]
    assert max(len(each.text) for each in found) < 1_000


def test_the_list_of_mistakes_is_not_short() -> None:
    assert len(BROKEN) >= 50


def test_all_problems_of_a_file_are_told_in_one_run(tmp_path: Path) -> None:
    share = SHIPPED.replace("stage: s3", "stagee: s3").replace("url: s3", "url: s4")
    tides = dataset("merge_keys: [day]\nowner: a,b\nchecks:\n  a: b BETWEN 1\n  c: d >\n  e: f; g\n")
    path = deployment(tmp_path, share, tides=tides, waves=dataset("casts: [a]\n" + columns("delete_missing: true")))
    told = [(each.path.name, each.line, each.text.partition(":")[0]) for each in findings(path)[0]]
    assert told == [
        *[("tides.yaml", line, field) for line, field in ((7, "owner"), (9, "checks.a"), (10, "checks.c"))],
        ("tides.yaml", 11, "checks.e"),
        *[("waves.yaml", line, field) for line, field in ((6, "casts"), (10, "delete_missing"))],
        *[("share.yaml", line, field) for line, field in ((5, "url"), (6, "stagee"))],
    ]


def test_a_target_of_two_datasets_is_told_at_both(tmp_path: Path) -> None:
    path = deployment(tmp_path, a=dataset(target_table="sea.tides"), b=dataset(target_table="SEA.Tides"), c=dataset())
    found, valid = findings(path)
    assert [(each.path.name, each.line, each.text) for each in found] == [
        ("a.yaml", 3, "target_table: sea.tides is the target of b too"),
        ("b.yaml", 3, "target_table: SEA.Tides is the target of a too"),
    ]
    assert valid == 1


def test_files_that_nothing_reads_are_told(tmp_path: Path) -> None:
    path = deployment(tmp_path, tides=dataset())
    datasets = path.parent / "datasets"
    (datasets / "tides.yaml").rename(datasets / "tides.yml")
    (datasets / "folder.yaml").mkdir()
    os.mkfifo(datasets / "pipe.yaml")
    assert [(each.path.name, each.line, each.text) for each in findings(path)[0]] == [
        ("folder.yaml", 1, f"{NO_YAML}: it is no regular file"),
        ("pipe.yaml", 1, f"{NO_YAML}: it is no regular file"),
        ("tides.yml", 1, "the file's name must end in .yaml"),
    ]


def test_a_missing_share_file_and_a_missing_folder_are_told(tmp_path: Path) -> None:
    found, valid = findings(tmp_path / "include" / "share.yaml")
    assert [each.text.partition(" is missing; deploy include/ ")[0] for each in found] == [
        f"{tmp_path}/include/datasets",
        f"{tmp_path}/include/share.yaml",
    ]
    assert valid == 0


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = deployment(tmp_path)
    (path.parent / "datasets").symlink_to(path.parent / "datasets")
    [told], valid = findings(path)
    assert (told.path.name, told.text.startswith("[Errno 40] "), valid) == ("datasets", True, 0)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = deployment(tmp_path, tides=b"\xef\xbb\xbf" + dataset().encode())
    assert findings(path) == ([], 1)


# ---- what is printed


@pytest.fixture
def printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, list[str]]]:
    """Return a function that runs the command in the folder above the share file, and returns code and lines."""
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)

    def run(path: Path, *options: str) -> tuple[int, list[str]]:
        monkeypatch.chdir(path.parents[1])
        code = main(["--share-file", str(path), *options])
        return code, capsys.readouterr().out.splitlines()

    return run


def test_when_all_is_well_it_says_only_that(tmp_path: Path, printed: Callable[..., tuple[int, list[str]]]) -> None:
    path = deployment(tmp_path, tides=dataset(), waves=dataset("checks: {a: b BETWEEN 1 AND 2}\n"))
    assert printed(path) == (0, ["2 dataset files and the share file are valid"])
    (path.parent / "datasets" / "waves.yaml").unlink()
    assert printed(path) == (0, ["1 dataset file and the share file are valid"])


def test_errors_are_lines_as_compilers_write_them(
    tmp_path: Path, printed: Callable[..., tuple[int, list[str]]]
) -> None:
    path = deployment(tmp_path, tides=dataset("schedule: daily\nowner: a,b\n"), waves=dataset("colour: blue\n"))
    code, [first, *_, last] = printed(path)
    assert code == 1
    assert first.startswith("include/datasets/tides.yaml:6: schedule: 'daily' is neither a cron expression nor one of")
    assert last == "3 errors in 2 files"


def test_github_shows_them_in_the_files(
    tmp_path: Path, printed: Callable[..., tuple[int, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = deployment(tmp_path, tides=dataset("owner: 100%\n"), **{"a:b, c": dataset(target_table="c")})
    code, lines = printed(path, "--format", "github")
    pattern = "String should match pattern"
    assert (code, [re.sub(f"{pattern} '.*' ", f"{pattern} ", line) for line in lines]) == (
        1,
        [
            f"::error file=include/datasets/a%3Ab%2C c.yaml,line=1::name: {pattern} (found: 'a:b, c')",
            f"::error file=include/datasets/tides.yaml,line=6::owner: {pattern} (found: '100%25')",
            "2 errors in 2 files",
        ],
    )
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert printed(path) == (code, lines)


def test_no_file_writes_a_line_of_its_own(tmp_path: Path, printed: Callable[..., tuple[int, list[str]]]) -> None:
    """As GitHub takes commands from such a line."""
    content = dataset('? "x\\n::error::y"\n: 1\n', target_table="c")
    path = deployment(tmp_path, **{"a\n::error::b": content})
    for form in ("text", "github"):
        code, lines = printed(path, "--format", form)
        assert (code, len(lines)) == (1, 3)
        assert [line for line in lines if line.startswith(("::error::", "y", "b"))] == []


def test_a_warning_is_printed_and_is_no_error(tmp_path: Path, printed: Callable[..., tuple[int, list[str]]]) -> None:
    share = SHIPPED + "defaults:\n  checks:\n    own: a::NEWTYPE > 1\n"
    path = deployment(tmp_path, share, tides=dataset("checks:\n  deep: LENGHT(a) > 1\n"), waves=dataset())
    line = share.count("\n")
    deep = "checks.deep: LENGHT may be misspelt: did you mean LENGTH? If the function is your own, write its schema too"
    own = "defaults.checks.own: sqlglot knows no type NEWTYPE of Snowflake"
    well = "2 dataset files and the share file are valid"
    assert printed(path) == (
        0,
        [f"include/datasets/tides.yaml:7: warning: {deep}", f"include/share.yaml:{line}: warning: {own}", well],
    )
    assert printed(path, "--format", "github") == (
        0,
        [
            f"::warning file=include/datasets/tides.yaml,line=7::{deep}",
            f"::warning file=include/share.yaml,line={line}::{own}",
            well,
        ],
    )


# ---- the command


def run_command(path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "GITHUB_ACTIONS"}
    return subprocess.run(
        [sys.executable, "-m", "data_share.validate"],
        env={**environment, "PYTHONPATH": str(PROJECT / "plugins"), "DATA_SHARE_FILE": str(path), **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.tier("full")
def test_the_command_reads_what_the_deployment_reads(tmp_path: Path) -> None:
    path = deployment(tmp_path, tides=dataset())
    done = run_command(path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 dataset file and the share file are valid\n", "")
    done = run_command(path, DATA_SHARE_STAGE="a;b")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "1 error in 1 file")
    assert "stage: write a plain name" in done.stdout
    assert "(found: 'a;b', in DATA_SHARE_STAGE)" in done.stdout


@pytest.mark.tier("full")
def test_the_command_needs_neither_airflow_nor_a_network() -> None:
    """Airflow takes longer to import than 500 datasets to validate."""
    code = (
        "import socket, sys; socket.socket = None\n"
        "from data_share.validate import main; assert main([]) == 0\n"
        "assert 'sqlglot' in sys.modules and 'airflow' not in sys.modules"
    )
    path = {"PYTHONPATH": str(PROJECT / "plugins")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | path, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.tier("full")
def test_500_datasets_take_less_than_3_seconds(tmp_path: Path) -> None:
    shipped = yaml.safe_load((PROJECT / "include" / "datasets" / "city_temperatures.yaml").read_text())
    for number in range(500):
        checks = {f"check_{each}": f"temperature_f BETWEEN -{number} AND {each} OR city = 'x'" for each in range(4)}
        content = {**shipped, "target_table": f"target_{number}", "checks": checks}
        deployment(tmp_path, **{f"d_{number}": yaml.safe_dump(content)})
    # Of the processor: other tests of this machine do not count.
    before = os.times()
    done = run_command(tmp_path / "include" / "share.yaml")
    after = os.times()
    assert done.stdout == "500 dataset files and the share file are valid\n"
    taken = after.children_user + after.children_system - before.children_user - before.children_system
    assert taken < 3, f"{taken:.1f} s"
