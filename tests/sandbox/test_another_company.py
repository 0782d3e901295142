"""
Another company, by its share file alone: set-up, syncs and doctor do with its names what they do with the default ones.

The tests that are named below say what that is; here they are run in a process that reads the file of the company.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox]

PROJECT = Path(__file__).resolve().parents[2]
COMPANY = PROJECT / "tests" / "another_company.yaml"
PROVE_IT = (
    # The scripts on an empty account, and then what the DAGs send, with the rights that the scripts gave.
    "tests/emulators/snowflake/test_setup.py",
    "tests/emulators/snowflake/test_make_keys.py::test_the_names_in_the_connection_are_those_of_the_set_up",
    # Syncs: load, check, publish, reload, and what they leave.
    "tests/sandbox/load/test_reload_and_preview.py::test_an_append_does_not_take_an_export_twice_but_a_full_refresh_does",
    "tests/sandbox/load/test_reload_and_preview.py::test_a_dry_run_leaves_no_table_and_adds_no_column",
    "tests/sandbox/doctor/test_doctor.py::test_all_is_well",
)


def test_what_holds_for_the_default_names_holds_for_those_of_another_company() -> None:
    environment = {**os.environ, "DATA_SHARE_FILE": str(COMPANY)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, "--tier", "quick,full,nightly", *PROVE_IT],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) >= len(PROVE_IT)
