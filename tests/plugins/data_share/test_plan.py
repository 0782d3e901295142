"""The command of the plan, where there is no plan: what it says of the files, to people and to programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from data_share import plan
from data_share.describe import Description
from tests.plugins.data_share.conftest import tides
from tests.plugins.data_share.test_validate import dataset, deployment


def described(**changes: Any) -> Description:
    return Description(
        **{
            "dataset": "tides",
            "source_table": "main.sea.tides",
            "rows": 3,
            "column_types": "[]",
            "columns_that_stay": (),
            "source_condition": "a > 1",
            "source_version": 812,
            "source_committed_at": None,
            "export_reason": "the source is no Delta table of Unity Catalog but VIEW",
            "described_at": datetime(2026, 1, 2, 3, tzinfo=UTC),
            "run_page_url": "",
            **changes,
        }
    )


WHERE = "source:\n  where: a BETWEN 1 AND 2\n"


@pytest.mark.parametrize(
    ("share", "files", "check", "words"),
    [
        (
            "stagee: x\n",
            {"tides": dataset()},
            "share file",
            "include/share.yaml does not describe a deployment:\n  line",
        ),
        ("", {"waves": dataset()}, "dataset file", "There is no dataset tides; known are waves."),
        ("", {"low_tides": dataset("colour: x\n")}, "dataset file", "There is no dataset tides; known are none."),
        ("", {"tides": dataset("colour: x\n")}, "dataset file", "include/datasets/tides.yaml is not a valid dataset"),
        # The dag-processor refuses these too: a sync of them cannot even be started.
        ("", {"tides": dataset(WHERE)}, "dataset file", "include/datasets/tides.yaml is not a valid dataset"),
        ("", {"tides": dataset("checks: {a: b ISNULL}\n")}, "dataset file", "include/datasets/tides.yaml is not a"),
    ],
    ids=["share file", "no such dataset", "another wrong file", "wrong file", "rows", "check"],
)
def test_without_a_plan_people_and_programs_read_why(
    tmp_path: Path,
    deploy: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    share: str,
    files: dict[str, str],
    check: str,
    words: str,
) -> None:
    path = deployment(tmp_path, **files)
    path.write_text(path.read_text() + share)
    deploy(path)
    assert plan.main(["tides"]) == 2
    told, error = capsys.readouterr()
    assert told == ""
    assert error.startswith(words)

    assert plan.main(["tides", "--json"]) == 2
    told, again = capsys.readouterr()
    assert again == error
    answer = json.loads(told)
    assert (answer["dataset"], answer["ok"], answer["verdict"]) == ("tides", False, "no_plan")
    assert answer["problems"] == [{"where": "files", "check": check, "text": error[:-1], "what_to_do": ""}]


@pytest.mark.parametrize(
    ("version", "committed", "words"),
    [
        (812, datetime(2026, 1, 2, 2, 41, tzinfo=UTC), "3  version 812 of 2026-01-02 02:41 UTC, where a > 1"),
        (None, None, "3  no version: the source is no Delta table of Unity Catalog but VIEW, where a > 1"),
    ],
)
def test_the_version_of_the_source_is_told_or_why_there_is_none(
    version: int | None, committed: datetime | None, words: str
) -> None:
    source = described(source_version=version, source_committed_at=committed)
    assert words in plan.as_text(plan.Plan(tides(), source=source))


MERGE = {"load_mode": "merge", "merge_keys": ("harbour",), "delete_missing": True}
APPEND = {"load_mode": "append"}
CHANGES = {"rows_exported": 12, "export_mode": "feed", "source_version": 811, "source_rows": 1000}
EVERYTHING = {"rows_exported": 1000, "export_mode": "full", "source_version": 811, "source_rows": 1000}
EARLIER = {"rows_exported": 1000, "export_mode": None, "source_version": None, "source_rows": None}


@pytest.mark.parametrize(
    ("fields", "last", "after", "percent"),
    [
        (MERGE, CHANGES, 1010, 1.0),
        (MERGE, EVERYTHING, 1010, 1.0),
        (MERGE, EARLIER, 1010, 1.0),
        (MERGE, None, 1010, None),
        # The target has 2000 rows, those of an earlier source among them.
        (APPEND, CHANGES, 2010, 1.0),
        (APPEND, EVERYTHING, 2010, 1.0),
        (APPEND, EARLIER, None, 1.0),
        (APPEND, None, 3010, None),
        # It has fewer rows than before: no sync appends that.
        (APPEND, {**CHANGES, "source_rows": 1011}, None, -100 / 1011),
    ],
)
def test_the_rows_of_an_increment_are_those_of_the_source(
    fields: dict[str, Any], last: dict[str, Any] | None, after: int | None, percent: float | None
) -> None:
    made = plan.Plan(
        tides(**fields, incremental=True),
        source=described(rows=1010),
        target_exists=True,
        rows_in_target=2000,
        last_sync=last and {"run_key": "r", "published_at": datetime(2026, 1, 2, 3, 4), **last},
    )
    assert made.rows_after_sync == after
    assert made.row_change_percent == (percent if percent is None else pytest.approx(percent))
    text = plan.as_text(made)
    assert f"(load_mode {fields['load_mode']}, incremental, schema_drift strict)" in text
    assert (", of which 12 left, as changes" in text) is (last is not None and last["export_mode"] == "feed")
    if last is not None and last["source_rows"] != 1011:
        assert "rows in the last sync  1,000  2026-01-02 03:04 UTC" in text
