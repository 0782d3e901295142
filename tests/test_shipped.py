"""The tests pass beside dataset files of whoever runs the product."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shipped import PROJECT, left_out

pytestmark = pytest.mark.tier("full")

OTHERS = {
    # The first of the folder, created by the set-up.
    "datasets/a_users_own.yaml": """
description: Water levels.
source_table: main.own.gauges
target_table: own_gauges
load_mode: merge
merge_keys: [gauge_id]
required_columns: [level_m]
create_table: from_columns
columns: {gauge_id: "NUMBER(10, 0)", level_m: FLOAT}
""",
    # The last one, with a target that others have made.
    "datasets/zz_of_others.yaml": """
description: Harbours.
source_table: main.own.harbours
target_table: elsewhere.harbours
load_mode: append
schedule: "15 3 * * *"
required_columns: [harbour]
""",
    "datasets/draft.yml": "description: Half a file",
    "sql/snowflake/targets/a_users_own.sql": "CREATE TABLE IF NOT EXISTS {{ nobody.defines.it }} (a DATE);",
}
# What failed beside such files: the readers of the folders, one by one.
DATASETS = "tests/plugins/data_share/test_datasets.py"
READERS = [
    "tests/dags/test_dag_integrity.py::test_the_dags_are_the_ones_of_the_datasets_the_set_up_and_the_clean_up",
    "tests/dags/test_dag_integrity.py::test_the_set_up_creates_the_target_of_each_dataset",
    "tests/dags/test_dag_integrity.py::test_the_set_up_only_creates_what_is_missing",
    "tests/docs/test_generated_docs.py::test_the_schema_accepts_the_datasets_of_this_project",
    "tests/include/test_sql.py::test_each_file_begins_with_what_it_is_for",
    f"{DATASETS}::test_the_datasets_of_this_project_are_valid",
    f"{DATASETS}::test_airflow_shows_each_invalid_dataset_as_one_import_error_and_keeps_the_others",
    "tests/sandbox/doctor/test_doctor.py::test_all_is_well",
    "tests/sandbox/doctor/test_doctor.py::test_a_dataset_file_that_is_not_valid",
    "tests/sandbox/load/test_set_up.py::test_each_target_is_told_by_its_name",
]


@pytest.mark.tier("nightly")
def test_other_datasets_touch_no_test(tmp_path: Path) -> None:
    copy = tmp_path / "project"
    for name in (".ci", "config", "dags", "docs", "emulators", "include", "plugins", "sandbox", "tests"):
        shutil.copytree(PROJECT / name, copy / name, ignore=left_out)
    for path in PROJECT.iterdir():
        if path.is_file():
            shutil.copy(path, copy / path.name)
    for name, content in OTHERS.items():
        (copy / "include" / name).write_text(content)

    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTEST"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--numprocesses", "0", *READERS],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert f"{len(READERS)} passed" in done.stdout, done.stdout + done.stderr
