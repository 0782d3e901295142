"""What a newcomer sees who turns a dataset to increments by one line: the button, the note, the page, the command."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from playwright.sync_api import Browser, Page, expect

from emulators.databricks.unity_catalog import table_uri
from emulators.s3 import storage_options
from tests.e2e.browser import ANSWER_MILLISECONDS, browser
from tests.e2e.conftest import PROJECT_COPY
from tests.e2e.share import RunningShare
from tests.e2e.test_backend_clients import run_command
from tests.e2e.test_status_page import card as card_of
from tests.e2e.test_status_page import fact, frame_of
from tests.e2e.test_sync_button import backend, card, context, expect_headline, page, press, shown_runs

# The first five are fixtures, and pytest finds them here.
__all__ = ["backend", "browser", "context", "page"]

pytestmark = [pytest.mark.tier("full"), pytest.mark.browser]

DATASET = "city_temperatures"
SOURCE = "main.weather.city_temperatures"
FILE = PROJECT_COPY / "include" / "datasets" / f"{DATASET}.yaml"


@pytest.fixture
def source(share: RunningShare) -> DeltaTable:
    """The source of the dataset, which changes only if a test changes it."""
    share.let_sources_change(False)
    return DeltaTable(table_uri(SOURCE), storage_options=storage_options(share.endpoints.s3_url))


@pytest.fixture
def one_line(share: RunningShare) -> Iterator[None]:
    """Turn the dataset to increments. It may have exported before, and its target may have other rows."""
    before = FILE.read_text()
    FILE.write_text(f"{before.rstrip()}\nincremental: true\n")
    yield
    FILE.write_text(before)


def change(share: RunningShare, source: DeltaTable, *, new_rows: int) -> None:
    """Change the 8 first hours of a city, delete one hour of the other, and add rows."""
    source.update_incremental()
    source.update(
        updates={"temperature_f": "temperature_f + 1"},
        predicate="city = 'Seattle' AND observed_at < '2010-01-01T08:00:00Z'",
    )
    source.delete("city = 'San Francisco' AND observed_at < '2010-01-01T01:00:00Z'")
    rows = {
        "city": ["Oslo"] * new_rows,
        "observed_at": pa.array([datetime(2010, 1, 1, hour, tzinfo=UTC) for hour in range(new_rows)]),
        "temperature_f": [20.5] * new_rows,
    }
    table = pa.table(rows, schema=pa.schema(source.schema().to_arrow()))
    write_deltalake(source.table_uri, table, mode="append", storage_options=storage_options(share.endpoints.s3_url))


def test_a_newcomer_sees_what_was_exported_and_why(
    page: Page, browser: Browser, share: RunningShare, source: DeltaTable, one_line: None
) -> None:
    # The first sync after the change of the file says why it exports everything.
    first = share.sync(DATASET, conf={"accept_row_change": True})
    assert (first["export_mode"], first["incremental"]) == ("full", True)
    change(share, source, new_rows=3)

    press(page, DATASET)

    expect_headline(page, "Sync Complete", DATASET)
    button = card(page, DATASET)
    expect(button.locator(".answer")).to_have_text(re.compile(r"^12 rows changed in [\d.]+ s$"))
    expect(button.locator(".changes")).to_contain_text("3 inserted 8 updated 1 deleted")
    reason = f"at least 11 rows have changed since version {first['source_version']}."
    more = button.locator(".more")
    expect(more.get_by_text(reason)).to_be_hidden()
    more.get_by_text("Details").click()
    expect(more).to_contain_text(f"Only changes were exported (compare): {reason}")
    written = r"Written to S3: 12\s+rows, [\d.]+\s+kB\. Loaded: 12\s+rows"
    cost = re.compile(rf"{written}; Snowflake's statements .* took [\d.]+\s+s\.")
    expect(more).to_contain_text(cost)

    [run_id] = shown_runs(page, DATASET)
    row = share.airflow.xcom(f"sync_{DATASET}", run_id, "publish")
    committed = row["source_committed_at"][:16].replace("T", " ")
    assert re.fullmatch(
        rf"12 changes \(3 inserted, 8 updated, 1 deleted\) of {SOURCE} as of {committed} UTC "
        rf"\(version {row['source_version']}\), by a comparison of two versions, in [\d.]+ s",
        share.airflow.run(f"sync_{DATASET}", run_id)["note"],
    )

    airflow = browser.new_context().new_page()
    airflow.goto(share.endpoints.airflow_url)
    airflow.get_by_label("Username").fill(share.endpoints.airflow_user)
    airflow.locator("input[type=password]").fill(share.endpoints.airflow_password)
    airflow.get_by_role("button", name="Sign in").click()
    airflow.get_by_role("link", name="Data shares").click(timeout=ANSWER_MILLISECONDS)
    shown = card_of(frame_of(airflow), DATASET)
    expect(fact(shown, "Rows")).to_have_text("12 changed")
    expect(shown).to_contain_text(f"Only changes (compare): {reason}")
    expect(shown).to_contain_text(cost)
    airflow.context.close()


@pytest.mark.tier("nightly")
def test_the_command_of_a_backend_says_it_too(share: RunningShare, source: DeltaTable, one_line: None) -> None:
    source.alter.set_table_properties({"delta.enableChangeDataFeed": "true"})
    first = share.sync(DATASET, conf={"accept_row_change": True})
    change(share, source, new_rows=1)
    version = source.version()

    done = run_command(share, DATASET)

    assert done.returncode == 0, done.stderr
    *_, answer, why = done.stdout.splitlines()
    in_target = f"{first['rows_in_target']:,}"
    assert re.fullmatch(rf"Sync Complete: 10 rows changed, {in_target} rows in {DATASET}, [\d.]+ s", answer)
    assert re.fullmatch(
        r"Only changes were exported \(feed\): the change data feed has 10 changes since version \d+\.", why
    )
    assert version > first["source_version"]
    newest = share.airflow.ask("GET", f"/dags/sync_{DATASET}/dagRuns", params={"order_by": "-id", "limit": 1})
    note = newest["dag_runs"][0]["note"]
    assert note.startswith(f"10 changes (1 inserted, 8 updated, 1 deleted) of {SOURCE} as of "), json.dumps(note)
    assert ", by its change data feed, in " in note
