"""The profiles `latency` and `economy` mean the same in the sandbox, in compose and in Helm, and what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from airflow.configuration import conf

from sandbox.settings import PROFILES, Settings, SettingsError
from sandbox.stack import Endpoints, Stack
from tests.conftest import PROJECT
from tests.deploy.compose import load
from tests.deploy.test_helm import CELERY, ECONOMY

Values = dict[str, float]
SETTINGS = {
    "scheduler": ("scheduler_idle_sleep_time",),
    "dag_processor": ("min_file_process_interval", "refresh_interval"),
}


def variables() -> list[str]:
    return [f"AIRFLOW__{section}__{key}".upper() for section, keys in SETTINGS.items() for key in keys]


def of_page(place: str, profile: str) -> Values:
    """Read the table: its columns are the setting, and for each place the two profiles."""
    text = (PROJECT / "docs" / "performance.md").read_text()
    [_, header, *lines] = re.search(r"## Two profiles.*?(\n\|.*?)\n\n", text, re.DOTALL)[1].splitlines()
    column = [cell.strip() for cell in header.split("|")].index(f"{place}, `{profile}`")
    cells = [[cell.strip() for cell in line.split("|")] for line in lines[1:]]
    return {row[1].strip("`"): float(row[column]) for row in cells}


def of_sandbox(tmp_path: Path, profile: str) -> Values:
    stack = Stack(Settings(state=tmp_path, places=1, ports={}, profile=profile))
    endpoints = Endpoints(*["http://127.0.0.1:1"] * 8)
    environment = stack._airflow_environment(endpoints, dict.fromkeys(("airflow_secret", "fernet_key"), ""))
    return {name: float(environment[name]) for name in variables()}


@pytest.mark.parametrize("profile", PROFILES)
def test_each_place_has_the_values_of_the_page(
    profile: str, tmp_path: Path, write_env: Callable[..., dict[str, str]]
) -> None:
    assert of_sandbox(tmp_path, profile) == of_page("sandbox", profile)

    project = load(PROJECT / "docker-compose.yaml", write_env("--sandbox", "--profile", profile))
    environment = project.services["scheduler"].environment | project.services["dag-processor"].environment
    assert {name: float(environment[name]) for name in variables()} == of_page("compose and Helm", profile)

    config = {"latency": CELERY, "economy": ECONOMY}[profile]["config"]
    given = {
        f"AIRFLOW__{section}__{key}".upper(): float(config[section][key])
        for section, keys in SETTINGS.items()
        for key in keys
        if key in config[section]
    }
    # What a file of values does not name is Airflow's default.
    defaults = {
        f"AIRFLOW__{section}__{key}".upper(): float(conf.get_default_value(section, key))
        for section, keys in SETTINGS.items()
        for key in keys
    }
    assert defaults | given == of_page("compose and Helm", profile)


def test_without_a_choice_it_is_the_profile_latency(
    monkeypatch: pytest.MonkeyPatch, write_env: Callable[..., dict[str, str]]
) -> None:
    monkeypatch.delenv("SANDBOX_PROFILE", raising=False)
    assert Settings.from_environment().profile == "latency"
    chosen = {name: write_env("--profile", "latency")[name] for name in ("SCHEDULER_IDLE_SECONDS", "DAG_PARSE_SECONDS")}
    assert chosen.items() <= write_env().items()


def test_a_profile_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_PROFILE", "economy")
    assert Settings.from_environment().profile == "economy"
    monkeypatch.setenv("SANDBOX_PROFILE", "fast")
    with pytest.raises(SettingsError, match=r"^SANDBOX_PROFILE must be one of latency, economy; it is 'fast'$"):
        Settings.from_environment()
    command = [sys.executable, PROJECT / "deploy" / "make_env.py", "--profile", "fast"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (refused.returncode, "invalid choice: 'fast'" in refused.stderr) == (2, True)
