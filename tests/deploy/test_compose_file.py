"""docker-compose.yaml, .env.example, the Dockerfile: what can be said of them without starting anything."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import serialization

from tests.conftest import PROJECT
from tests.deploy.compose import ComposeError, Project, interpolate, load, read_env_file
from tests.deploy.dockerfile import read_images

COMPOSE_FILE = PROJECT / "docker-compose.yaml"
EXPORTER_FILE = PROJECT / "deploy" / "observability" / "compose.yaml"
TEXT = COMPOSE_FILE.read_text()
REQUIRED = sorted(set(re.findall(r"\$\{(\w+):\?", TEXT)))
ONE_SHOTS = {"init", "sandbox-set-up"}


@pytest.fixture(scope="session")
def project(sandbox_env: dict[str, str]) -> Project:
    return load(COMPOSE_FILE, sandbox_env)


def test_it_is_valid_by_the_schema_of_the_compose_specification() -> None:
    # check-jsonschema carries the specification's own schema.
    schema = json.loads((files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json").read_text())
    for file in (COMPOSE_FILE, EXPORTER_FILE):
        jsonschema.validate(yaml.safe_load(file.read_text()), schema)
    broken = yaml.safe_load(TEXT)
    broken["services"]["worker"]["heathcheck"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a $$HOME b", "a $HOME b"),
        ("${SET}-${EMPTY}-${ABSENT}", "x--"),
        ("${EMPTY:-d} ${EMPTY-d} ${ABSENT-d} ${SET:-d}", "d  d x"),
        ("${ABSENT:-http://h:${EMPTY:-${SET}}}/", "http://h:x/"),
        ("${SET:?m} ${EMPTY?m} $SET", "x  x"),
    ],
)
def test_variables_are_filled_in_as_docker_compose_does(text: str, expected: str) -> None:
    assert interpolate(text, {"SET": "x", "EMPTY": ""}) == expected


@pytest.mark.parametrize("text", ["${ABSENT:?say}", "${EMPTY:?say}", "${ABSENT?say}", "${X", "$ x", "${X+y}"])
def test_variables_that_cannot_be_filled_in_are_errors(text: str) -> None:
    with pytest.raises(ComposeError):
        interpolate(text, {"EMPTY": ""})


def test_nothing_starts_from_the_example_alone() -> None:
    with pytest.raises(ComposeError, match="required variable"):
        load(COMPOSE_FILE, read_env_file(PROJECT / ".env.example"))


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("value", [None, ""])
def test_nothing_starts_without_a_secret(name: str, value: str | None, sandbox_env: dict[str, str]) -> None:
    without = {key: text for key, text in sandbox_env.items() if key != name}
    with pytest.raises(ComposeError, match=f"required variable {name} is missing a value: is missing"):
        load(COMPOSE_FILE, without if value is None else {**without, name: value})


def test_each_secret_is_required() -> None:
    secret = re.compile("PASSWORD|SECRET|_KEY|_CONN_|TOKEN")
    example = read_env_file(PROJECT / ".env.example")
    secrets = {name for name in example if secret.search(name)}
    # What the emulators accept is needed with them only; they refuse to start without. Nobody has to be told.
    assert secrets - set(REQUIRED) == {
        "SANDBOX_WORKSPACE_TOKEN",
        "SANDBOX_LOADER_PUBLIC_KEY",
        "AIRFLOW_CONN_DATA_SHARE_WEBHOOK",
    }
    assert {example[name] for name in secrets} == {""}


def test_the_example_explains_each_variable_and_no_other() -> None:
    used = set(re.findall(r"\$\{(\w+)", TEXT))
    lines = (PROJECT / ".env.example").read_text().splitlines()
    documented = [line.partition("=")[0] for line in lines if re.match(r"[A-Z]", line)]
    # Read by docker compose itself.
    assert set(documented) | {"SANDBOX_IMAGE"} == used | {"COMPOSE_PROJECT_NAME", "COMPOSE_PROFILES"}
    for name in set(documented) - {"REDIS_PASSWORD", "AIRFLOW_ADMIN_PASSWORD", "AIRFLOW_BACKEND_PASSWORD"}:
        position = next(index for index, line in enumerate(lines) if line.startswith(f"{name}="))
        assert lines[position - 1].startswith("#") or name in ("WORKER_CONCURRENCY",), name


def test_without_the_profile_no_emulator_starts(write_env: Any) -> None:
    accounts = {"AIRFLOW_CONN_DATABRICKS_DEFAULT": "{}", "AIRFLOW_CONN_SNOWFLAKE_DEFAULT": "{}"}
    env = write_env() | accounts
    names = {"postgres", "redis", "init", "api-server", "scheduler", "dag-processor", "triggerer", "worker"}
    assert set(load(COMPOSE_FILE, env).services) == names
    assert set(load(COMPOSE_FILE, env, profiles=["sandbox"]).services) == names | {"sandbox", "sandbox-set-up"}


def test_each_service_is_confined(project: Project) -> None:
    for name, service in project.services.items():
        options = service.options
        assert options["cap_drop"] == ["ALL"], name
        assert options["security_opt"] == ["no-new-privileges:true"], name
        assert options["read_only"] is True, name
        assert any(mounted.startswith("/tmp:") for mounted in options["tmpfs"]), name
        assert all("size=" in mounted for mounted in options["tmpfs"]), "it is memory of the service"
        assert 0 < options["pids_limit"] <= 1024, name
        assert service.user not in (None, "root", "0", "0:0"), name
        assert not {"privileged", "cap_add", "pid", "network_mode", "container_name"} & set(options), name
        assert options["logging"]["options"].keys() == {"max-size", "max-file"}, name
        assert set(options["deploy"]["resources"]["limits"]) >= {"cpus", "memory"}, name
        assert service.restart == ("no" if name in ONE_SHOTS else "unless-stopped"), name
        assert (service.healthcheck is None) == (name in ONE_SHOTS), name


def test_only_the_api_server_is_published_and_for_this_machine_alone(project: Project) -> None:
    published = {name: service.published for name, service in project.services.items() if service.published}
    assert published == {"api-server": ("127.0.0.1", 8080, 8080)}


def test_the_code_is_mounted_read_only_and_everywhere_the_same(project: Project) -> None:
    for name in ("init", "api-server", "scheduler", "dag-processor", "triggerer", "worker"):
        binds = {Path(m.source).name: m for m in project.services[name].mounts if m.kind == "bind"}
        assert set(binds) == {"dags", "plugins", "include", "config"}, name
        for folder, mount in binds.items():
            assert mount.read_only, name
            assert mount.target == f"/opt/airflow/{folder}"
            assert Path(mount.source) == PROJECT / folder


def test_secrets_go_only_where_they_are_needed(project: Project, sandbox_env: dict[str, str]) -> None:
    airflow = {"init", "api-server", "scheduler", "dag-processor", "triggerer", "worker"}
    database = airflow - {"worker"}
    expected = {
        "POSTGRES_PASSWORD": {"postgres", *database},
        "REDIS_PASSWORD": {"redis", "scheduler", "worker"},
        "AIRFLOW_FERNET_KEY": database,
        "AIRFLOW_JWT_SECRET": database,
        "AIRFLOW_SECRET_KEY": airflow,
        "AIRFLOW_ADMIN_PASSWORD": {"init", "sandbox-set-up"},
        "AIRFLOW_BACKEND_PASSWORD": {"init"},
        "AIRFLOW_CONN_DATABRICKS_DEFAULT": {"worker", "triggerer"},
        "AIRFLOW_CONN_SNOWFLAKE_DEFAULT": {"worker", "triggerer"},
    }
    assert set(expected) == set(REQUIRED)
    for secret, names in expected.items():
        value = sandbox_env[secret]
        holders = {
            name for name, one in project.services.items() if any(value in text for text in one.environment.values())
        }
        assert holders == names, secret
    commands = json.dumps(
        [[s.command, s.healthcheck.command if s.healthcheck else None] for s in project.services.values()]
    )
    assert not [secret for secret in expected if sandbox_env[secret] in commands], "a list of processes would show it"


def test_database_and_broker_have_no_way_out_and_workers_none_to_the_database(project: Project) -> None:
    assert project.networks["database"] == project.networks["broker"] == {"internal": True}
    assert project.services["postgres"].networks == ["database"]
    assert project.services["redis"].networks == ["broker"]
    assert "database" not in project.services["worker"].networks


def test_each_process_reaches_the_exporter_of_metrics_and_the_exporter_no_database(project: Project) -> None:
    added = yaml.safe_load(EXPORTER_FILE.read_text())
    exporter = added["services"].pop("statsd-exporter")
    assert set(exporter["networks"]) <= {"default", *added["networks"]}
    for name, service in project.services.items():
        if "AIRFLOW__METRICS__STATSD_HOST" in service.environment and name not in ONE_SHOTS:
            # As docker compose merges the two files.
            networks = {*service.networks, *added["services"].pop(name, {}).get("networks", [])}
            assert networks & set(exporter["networks"]), name
    assert added == {"services": {}, "networks": {"metrics": {"internal": True}}}
    confined = ("restart", "cap_drop", "security_opt", "read_only", "logging")
    assert {name: exporter[name] for name in confined} == {
        name: project.services["redis"].options[name] for name in confined
    }
    assert exporter["ports"] == ["127.0.0.1:9102:9102"]


def test_a_second_copy_shares_nothing_with_the_first(write_env: Any) -> None:
    content = yaml.safe_load(TEXT)
    for kind in ("networks", "volumes"):
        assert all(not {"name", "external"} & set(options) for options in content[kind].values()), kind
    first, second = (
        load(COMPOSE_FILE, write_env("--sandbox", "--project-name", name, "--port", port))
        for name, port in (("one", "8080"), ("two", "8081"))
    )
    assert (first.name, second.name) == ("one", "two")
    assert first.services["api-server"].published != second.services["api-server"].published
    assert second.services["worker"].environment["AIRFLOW__API__BASE_URL"] == "http://localhost:8081"


def test_the_env_file_is_for_its_owner_and_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    command = [sys.executable, PROJECT / "deploy" / "make_env.py", "--file", file]
    subprocess.run(command, check=True)
    before = file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "is not changed" in again.stderr
    assert file.read_text() == before


def test_the_secrets_are_new_each_time_and_of_the_right_form(write_env: Any) -> None:
    first, second = write_env("--sandbox"), write_env("--sandbox")
    for name in REQUIRED:
        assert first[name] != second[name], name
        if "CONN" not in name:
            assert re.fullmatch(r"[A-Za-z0-9_=-]{20,}", first[name]), name
    Fernet(first["AIRFLOW_FERNET_KEY"])
    extra = json.loads(first["AIRFLOW_CONN_SNOWFLAKE_DEFAULT"])["extra"]
    key = serialization.load_pem_private_key(base64.b64decode(extra["private_key_content"]), None)
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert base64.b64decode(first["SANDBOX_LOADER_PUBLIC_KEY"]) == public
    assert json.loads(first["AIRFLOW_CONN_DATABRICKS_DEFAULT"])["password"] == first["SANDBOX_WORKSPACE_TOKEN"]


def test_the_image_holds_airflow_at_the_version_of_the_requirements() -> None:
    dockerfile = (PROJECT / "Dockerfile").read_text()
    version = re.search(r"^ARG AIRFLOW_VERSION=(\S+)$", dockerfile, re.MULTILINE)
    assert version
    assert f"apache-airflow=={version[1]}\n" in (PROJECT / "requirements.txt").read_text()
    python = re.search(r"^ARG PYTHON_VERSION=(\S+)$", dockerfile, re.MULTILINE)
    assert python
    assert python[1] == f"{sys.version_info[0]}.{sys.version_info[1]}"


def test_what_the_image_copies_exists_and_is_not_held_back() -> None:
    kept = [line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    images = read_images(PROJECT / "Dockerfile")
    assert set(images) == {"sandbox", "airflow"}
    for image in images.values():
        for source, _ in image.copies:
            assert (PROJECT / source).exists(), source
            assert any(Path(source).is_relative_to(name) for name in kept), source
    # Kubernetes has no mounts: what compose mounts, the image has.
    assert {f"/opt/airflow/{name}" for name in ("dags", "plugins", "include", "config")} <= {
        target for _, target in images["airflow"].copies
    }
    assert ".env" not in kept


def test_emulators_that_others_can_reach_do_not_start_without_keys(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "SANDBOX_HOST": "0.0.0.0",
        "SANDBOX_HOME": str(tmp_path),
        "SANDBOX_WORKSPACE_TOKEN": "",
    }
    command = [sys.executable, "-m", "sandbox", "serve"]
    refused = subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "SANDBOX_WORKSPACE_TOKEN and SANDBOX_LOADER_PUBLIC_KEY must say which keys are accepted" in refused.stderr
