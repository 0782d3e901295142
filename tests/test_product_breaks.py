"""
The product, broken on purpose in more than twenty places: for each, a test that notices, and the tier in which it does.

A break is made in a copy of the project, where the test is run. `make test` must notice nearly all of them, `make
test-all` every one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

# Tests that the copies run in processes of their own may need the network of this machine.
pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox]

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = "plugins/data_share"
SQL = "include/sql/snowflake"
DATABRICKS_SQL = "include/sql/databricks"
OF_CHANGES = (
    "tests/emulators/databricks/test_export_changes.py::test_changes_of_a_range_applied_to_its_start_give_its_end"
)
OF_PLAN = "tests/emulators/databricks/test_plan_export.py::test_the_plan"
OF_INCREMENTS = "tests/sandbox/load/test_increments.py"
COPIED = ("dags", "plugins", "include", "emulators", "sandbox", "examples", "tests", "docs", "pyproject.toml")
LEAST_IN_MAKE_TEST = 17


class Break(NamedTuple):
    """
    One fault, made by putting other text in the place of what is there.

    :param file: file of the project that is broken
    :param right: text that stands in it once
    :param wrong: text that takes its place
    :param seen_by: test that must fail
    :param tier: tier of that test
    """

    file: str
    right: str
    wrong: str
    seen_by: str
    tier: str = "quick"


BREAKS = {
    "two runs of one second have one run key": Break(
        f"{PACKAGE}/share.py",
        'f"{dag_id}\\n{run_id}"',
        "dag_id",
        "tests/plugins/data_share/test_share.py::test_run_keys_differ_between_runs_of_the_same_second_and_between_dags",
    ),
    "a new attempt exports to the path of the one before": Break(
        f"{PACKAGE}/share.py",
        "/{attempt}-{_digest(attempt_id)}/",
        "/1-00000000/",
        "tests/plugins/data_share/test_share.py::test_each_attempt_exports_to_its_own_folder",
    ),
    "a path that only begins as it should is loaded": Break(
        f"{PACKAGE}/share.py",
        "if not re.fullmatch(pattern, path):",
        "if not re.match(pattern, path):",
        "tests/plugins/data_share/test_share.py::test_a_path_outside_the_dataset_is_never_loaded",
    ),
    "an apostrophe ends a string in SQL": Break(
        f"{PACKAGE}/sql_text.py",
        """part.replace("'", "''")""",
        "part",
        "tests/plugins/data_share/test_sql_text.py::test_a_value_becomes_one_string_literal",
    ),
    "files beside the data are loaded": Break(
        f"{SQL}/copy_into_staging.sql",
        "PATTERN = '.*[.]parquet'\n",
        "PATTERN = '.*'\n",
        "tests/sandbox/load/test_reconciliation.py::test_an_empty_export_with_leave_empties_the_target",
    ),
    "rows are not counted against the manifest": Break(
        f"{SQL}/check_staging.sql",
        "'COUNT(*) = ' ~ loaded.rows_exported, files_changed",
        "'COUNT(*) >= 0', files_changed",
        "tests/sandbox/load/test_reconciliation.py::test_another_row_count_than_the_manifests",
    ),
    "a replace keeps the rows that were there": Break(
        f"{SQL}/change_replace.sql",
        "INSERT OVERWRITE INTO",
        "INSERT INTO",
        "tests/sandbox/load/test_publish_races.py::test_a_run_that_exports_again_takes_the_place_of_its_first_export",
    ),
    "a merge deletes no row that the source has no more": Break(
        f"{SQL}/change_merge.sql",
        "NOT EXISTS (",
        "FALSE AND NOT EXISTS (",
        "tests/sandbox/load/test_publish_races.py::test_a_row_without_a_key_is_missing_from_any_source",
        "full",
    ),
    "an older sync undoes a younger one": Break(
        f"{SQL}/publish.sql",
        "        AND locked.staged_at <= mine.staged_at\n",
        "",
        "tests/sandbox/load/test_publish_races.py::test_a_zombie_of_an_older_run_is_refused",
    ),
    "an append is done twice by processes that see late what the other one has done": Break(
        f"{SQL}/publish.sql",
        "        AND NOT (locked.run_key = '{{ run }}' {{ or_and }} locked.export_path = {{ path | sql_string }})\n",
        "",
        "tests/sandbox/load/test_publish_interleaved.py"
        "::test_two_processes_append_one_export_once_also_when_they_see_late",
    ),
    "a dataset overwrites what another one has published to its target": Break(
        f"{SQL}/publish.sql",
        "locked.dataset IN ('{{ sync.owner }}', '')",
        "TRUE",
        "tests/sandbox/load/test_targets.py::test_of_two_datasets_that_are_staged_the_second_to_publish_is_refused",
        "full",
    ),
    "an export of long ago is appended again": Break(
        f"{SQL}/publish.sql",
        "      ) = 0\n",
        "      ) >= 0\n",
        "tests/sandbox/load/test_publish_races.py::test_an_append_of_an_export_of_long_ago_is_refused",
        "full",
    ),
    "a staging table that was made anew while it was published is published": Break(
        f"{SQL}/publish.sql",
        "      (SELECT COUNT(*) FROM {{ sync.staging_table }}) = {{ sync.loaded.rows_loaded }}\n      AND (\n",
        "      (\n",
        "tests/include/test_sql.py::test_the_ledger_refuses_what_was_published_long_ago",
    ),
    "a second attempt replaces the staging table of the first": Break(
        f"{PACKAGE}/share.py",
        "{attempt}_{_digest(attempt_id)}",
        "1_00000000",
        "tests/plugins/data_share/test_share.py::test_each_attempt_to_copy_has_a_staging_table_of_its_own",
    ),
    "one target under two spellings has two datasets": Break(
        f"{PACKAGE}/dataset_files.py",
        "may_be_one_table(parts, its)",
        "parts == its",
        "tests/plugins/data_share/test_datasets.py::test_targets_that_may_be_one_table_are_refused_and_both_are_named",
    ),
    "a dry run publishes": Break(
        f"{PACKAGE}/snowflake/publish.py",
        "if self.sync.is_dry_run:",
        "if False:",
        "tests/sandbox/load/test_reload_and_preview.py::test_a_dry_run_changes_nothing_and_says_what_would_change",
        "full",
    ),
    "a policy that masks the target stops nothing": Break(
        f"{PACKAGE}/snowflake/load.py",
        'if found and self.dataset.policies != "exempt":',
        "if False:",
        "tests/sandbox/load/test_policies.py::test_a_row_access_policy_stops_a_sync_that_says_nothing_of_it",
        "full",
    ),
    "rows that the loader does not see are published": Break(
        f"{SQL}/check_visible.sql",
        "WHEN keys_missing = 0 AND",
        "WHEN TRUE OR",
        "tests/sandbox/load/test_policies.py::test_rows_that_the_loader_would_not_see_are_not_published",
        "full",
    ),
    "an export that loaded nothing is a success": Break(
        f"{PACKAGE}/snowflake/load.py",
        'if counts["rows_loaded"] == 0 and not',
        "if False and not",
        "tests/sandbox/load/test_advice.py::test_files_that_are_lost_are_exported_anew",
        "full",
    ),
    "the manifest of another run is taken": Break(
        f"{PACKAGE}/snowflake/load.py",
        'if (manifest["DATASET"], manifest["RUN_KEY"]) != (self.dataset.name, self.sync.manifest_run_key):',
        "if False:",
        "tests/sandbox/load/test_reconciliation.py::test_a_manifest_of_another_run_or_dataset",
    ),
    "a statement is submitted under a new id when its answer is lost": Break(
        f"{PACKAGE}/snowflake/statements.py",
        'return request_id(_require_context(self._context)["ti"].id, *label)',
        "return uuid.uuid4()",
        "tests/plugins/data_share/snowflake/test_statements.py::test_request_ids_are_of_the_place_and_the_attempt",
    ),
    "a failed export is a success": Break(
        f"{PACKAGE}/databricks/follow.py",
        "if not state.is_successful:",
        "if False:",
        "tests/plugins/data_share/databricks/test_follow.py::test_every_other_end_is_a_failure_in_databricks_words",
    ),
    "a cancelled sync leaves its export running": Break(
        f"{PACKAGE}/databricks/follow.py",
        "        await _cancel(_hook(self.databricks_conn_id), _run_id(self.run_id))\n",
        "",
        "tests/plugins/data_share/databricks/test_follow.py"
        "::test_a_task_that_ended_cancels_its_run_and_one_that_others_follow_does_not",
    ),
    "a sync that was not published ends as a success": Break(
        f"{PACKAGE}/finish.py",
        "        raise NotPublishedError(failure)\n",
        "        str(failure)\n",
        "tests/plugins/data_share/test_finish.py::test_an_unknown_job_hides_no_reason",
    ),
    "an alert can be sent again by whoever recorded it": Break(
        f"{PACKAGE}/outcome/webhook.py",
        "[event_id.encode(), timestamp.encode(), body]",
        "[event_id.encode(), body]",
        "tests/plugins/data_share/outcome/test_webhook.py::test_each_attempt_is_signed_with_its_time_and_with_every_secret",
    ),
    "what a row was before its key changed is thrown away": Break(
        f"{DATABRICKS_SQL}/export_dataset.sql",
        """AS data_share_balance', changes, chosen_rows,""",
        """AS data_share_balance', changes, ' WHERE _change_type <> "update_preimage"',""",
        f"{OF_CHANGES}[True-None]",
        "full",
    ),
    "a second row of a key is forgotten when the first one is deleted": Break(
        f"{DATABRICKS_SQL}/export_dataset.sql",
        "data_share_deleted AND data_share_balance >= 0 AS data_share_is_unclear",
        "FALSE AS data_share_is_unclear",
        f"{OF_INCREMENTS}::test_the_feed_of_a_key_that_had_two_rows_for_a_while",
        "full",
    ),
    "a row that leaves the condition stays": Break(
        f"{DATABRICKS_SQL}/export_dataset.sql",
        """AS data_share_balance', changes, chosen_rows,""",
        """AS data_share_balance', changes, CONCAT(chosen_rows, ' OR _change_type <> "delete"'),""",
        f"{OF_CHANGES}[True-part = 'a']",
        "full",
    ),
    "a version is left out between two increments": Break(
        f"{DATABRICKS_SQL}/export_dataset.sql",
        "CAST(from_version + 1 AS STRING)",
        "CAST(from_version + 2 AS STRING)",
        f"{OF_CHANGES}[True-None]",
        "full",
    ),
    # The time of the published version tells too; only another id at the same time shows that this was compared.
    "a table that was made again has changes": Break(
        f"{DATABRICKS_SQL}/plan_export.sql",
        "    table_id IS DISTINCT FROM GET_JSON_OBJECT(published, '$.table_id') OR to_version < published_version\n",
        "    to_version < published_version\n",
        f"{OF_PLAN}_follows_from_the_source_and_from_what_airflow_knows[nothing]",
        "full",
    ),
    "changes are read of files that VACUUM has removed": Break(
        f"{DATABRICKS_SQL}/plan_export.sql",
        "  WHEN vacuums_since > 0 THEN",
        "  WHEN FALSE THEN",
        f"{OF_PLAN}_decides_how_changes_are_found[vacuumed]",
        "full",
    ),
    "a target is changed that has not the version before": Break(
        f"{SQL}/publish.sql",
        "        AND {{ sync.follows_condition }}\n",
        "",
        f"{OF_INCREMENTS}::test_an_increment_is_refused_by_a_target_with_another_version",
        "full",
    ),
    "a target that was rolled back is taken for whole": Break(
        f"{SQL}/check_visible.sql",
        "{{ '=' if sync.has_deletes else '>=' }}",
        "{{ '<=' if sync.has_deletes else '>=' }}",
        f"{OF_INCREMENTS}::test_a_target_that_was_rolled_back_is_exported_anew",
        "full",
    ),
    "a check on all rows sees only what has changed": Break(
        f"{PACKAGE}/sync.py",
        "        if not is_about_all_rows(condition):\n",
        "        if True:\n",
        f"{OF_INCREMENTS}::test_checks_on_all_rows_see_the_target_as_it_will_be",
        "full",
    ),
    "an append is added to rows that nobody knows": Break(
        f"{PACKAGE}/snowflake/load.py",
        'if adds and not is_increment and prepared["LOCK_RUN_KEY"]:',
        "if False:",
        f"{OF_INCREMENTS}::test_an_append_is_never_added_to_rows_that_nobody_knows",
        "full",
    ),
    "after a failed increment comes another": Break(
        f"{PACKAGE}/databricks/export.py",
        'else "the last sync has not ended well"',
        "else None",
        f"{OF_INCREMENTS}::test_a_key_that_two_rows_have_is_never_published",
        "full",
    ),
    "a source that is the first one again is up to date": Break(
        f"{PACKAGE}/watermark.py",
        'return Asset(f"data-share://{dataset.name}")',
        'return Asset(f"data-share://{dataset.source_table}")',
        "tests/sandbox/load/test_up_to_date.py"
        "::test_a_source_that_is_the_first_one_again_is_not_up_to_date_by_what_was_published_from_it",
        "full",
    ),
    "a verification does not compare how often a row is there": Break(
        f"{SQL}/differing_rows.sql",
        "  UNION ALL\n",
        "  UNION\n",
        "tests/sandbox/load/test_verification.py::test_equal_rows_are_counted",
        "full",
    ),
    "a verification takes nearly equal numbers as equal": Break(
        f"{PACKAGE}/snowflake/verification.py",
        'else f"{column} AS {self.value}"',
        'else f"ROUND({column}, 6) AS {self.value}"',
        "tests/sandbox/load/test_verification.py::test_the_last_bit_of_a_double",
        "full",
    ),
    "a verification takes what a person has marked for a comparison": Break(
        f"{PACKAGE}/sync.py",
        "        if result is None or not made_since_clear(result, self.dag_run):\n",
        "        result = result or {'rows': 0, 'not_compared': []}\n        if False:\n",
        "tests/sandbox/load/test_verification.py::test_a_person_cannot_verify_by_marking_the_comparison",
        "full",
    ),
    "a verification leaves a mark, and the next sync exports everything": Break(
        f"{PACKAGE}/databricks/export.py",
        "        watermark = DatasetState(context, self.dataset).read()\n",
        "        watermark = DatasetState(context, self.dataset).begin(EXPORT_TO_S3, self.sync.key)\n",
        "tests/sandbox/load/test_verification.py::test_a_verification_leaves_the_next_sync_as_it_was",
        "full",
    ),
    "a verification compares with the source as it is now": Break(
        "include/sql/databricks/plan_export.sql",
        "  WHEN verifies AND changes_since > 0 THEN published_version\n",
        "",
        "tests/sandbox/load/test_verification.py::test_a_target_that_is_as_published_is_verified",
        "full",
    ),
    "a client calls a failed sync complete": Break(
        "examples/express/sync.mjs",
        'complete: state === "success" && failure === null,',
        'complete: state !== "running",',
        "tests/examples/backend/test_clients_alone.py",
        "full",
    ),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project."""
    copy = tmp_path_factory.mktemp("broken") / "project"
    copy.mkdir()
    for name in COPIED:
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(PROJECT / name, copy / name)
    return copy


@pytest.fixture
def broken(project: Path, request: pytest.FixtureRequest) -> Iterator[Break]:
    """One break, made in the copy and mended after the test."""
    fault: Break = request.param
    path = project / fault.file
    right = path.read_text()
    assert right.count(fault.right) == 1, f"{fault.file} is not as this list says"
    path.write_text(right.replace(fault.right, fault.wrong))
    yield fault
    path.write_text(right)


def pytest_in(project: Path, tier: str, *tests: str) -> subprocess.CompletedProcess[str]:
    """Run tests of a tier in the copy."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTEST"))}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tier", tier, *tests]
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("broken", BREAKS.values(), ids=BREAKS, indirect=True)
def test_a_break_is_noticed(project: Path, broken: Break) -> None:
    found = pytest_in(project, broken.tier, broken.seen_by)

    # 1: tests were run, and failed. A test that cannot be found, or a module that cannot be read, is another number.
    assert found.returncode == 1, found.stdout[-3000:] + found.stderr[-1000:]


@pytest.mark.parametrize("tier", ["quick", "full"])
def test_nothing_is_noticed_where_nothing_is_broken(project: Path, tier: str) -> None:
    tests = sorted({fault.seen_by for fault in BREAKS.values() if fault.tier == tier})

    found = pytest_in(project, tier, *tests)

    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-1000:]


def test_make_test_notices_nearly_all() -> None:
    tiers = Counter(fault.tier for fault in BREAKS.values())
    assert set(tiers) <= {"quick", "full"}
    assert tiers["quick"] >= LEAST_IN_MAKE_TEST
    assert tiers.total() >= 20
