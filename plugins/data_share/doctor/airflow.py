"""The checks of Airflow itself: package, datasets, DAG files, settings, processes."""

from __future__ import annotations

import importlib.util
import runpy
from importlib import metadata
from pathlib import Path

import airflow
import requests
from airflow.sdk.configuration import conf

import data_share
from data_share.doctor.deployment import (
    HTTP_SECONDS,
    Answer,
    Check,
    Deployment,
    State,
    error_text,
    listed,
    ok,
    verdict,
    wrong,
)
from data_share.package import DAGS
from data_share.share_file import share_file


def package_version(deployment: Deployment) -> Answer:
    """The version of the package, and whether a second copy of it is deployed, which is not used."""
    used = Path(data_share.__file__).resolve().parent
    copies = [Path(conf.get("core", "plugins_folder"), "data_share")]
    for distribution in metadata.distributions(name="airflow-data-share"):
        copies.append(Path(str(distribution.locate_file("data_share"))))
    text = f"version {data_share.__version__} in {used}, on Airflow {airflow.__version__}"
    if others := sorted({str(copy) for copy in copies if copy.is_dir() and copy.resolve() != used}):
        return Answer(
            State.ADVICE,
            f"{text}. The copy in {listed(others)} is not used: remove it, so that nobody changes a file in vain.",
        )
    return ok(f"{text}.")


def share_file_of_deployment(deployment: Deployment) -> Answer:
    """The share file is valid; an invalid one ends the doctor before this check."""
    found = share_file()
    replaced = sorted(set(found.origins.values()))
    return ok(f"{listed(found.shares)} in {found.path}; from the environment: {listed(replaced)}.")


def dataset_files(deployment: Deployment) -> Answer:
    """Each dataset file is valid."""
    datasets, errors = deployment.datasets
    problems = [f"{' '.join(str(error).split()).rstrip('.')}." for error in errors]
    return verdict(problems, f"{len(datasets)} datasets.")


def dag_files(deployment: Deployment) -> Answer:
    """Each DAG file can be imported, with the packages and the path of this process."""
    problems = []
    files = sorted(DAGS.glob("*.py"))
    for path in files:
        try:
            runpy.run_path(str(path))
        except Exception as error:
            problems.append(
                f"dags/{path.name} cannot be imported: {error_text(error)}. Install requirements.txt everywhere."
            )
    return verdict(problems, f"{len(files)} files can be imported.")


def local_settings(deployment: Deployment) -> Answer:
    """Airflow finds its local settings, which import the providers once instead of in each task."""
    spec = importlib.util.find_spec("airflow_local_settings")
    if spec is None:
        return Answer(
            State.ADVICE,
            "airflow_local_settings is not found: each task imports the providers again, which takes seconds. Put the "
            "project's folder config/ on PYTHONPATH of scheduler, dag-processor, workers and triggerer.",
        )
    return ok(f"found as {spec.origin}.")


def airflow_processes(deployment: Deployment) -> Answer:
    """Scheduler, dag-processor and triggerer run, as the api-server reports."""
    address = conf.get("core", "execution_api_server_url", fallback="") or conf.get("api", "base_url", fallback="")
    if not address:
        return Answer(
            State.UNKNOWN,
            "because the address of the api-server is unknown here: neither [core] execution_api_server_url nor [api] "
            "base_url is set.",
        )
    address = address.rstrip("/").removesuffix("/execution")
    try:
        response = requests.get(f"{address}/api/v2/monitor/health", timeout=HTTP_SECONDS)
        response.raise_for_status()
        health = response.json()
    except (requests.RequestException, ValueError) as error:
        return wrong(
            f"The api-server at {address} does not answer: {error_text(error)}. Tasks need it: start it, or correct "
            "[core] execution_api_server_url."
        )
    reasons = {
        "metadatabase": "Nothing works without Airflow's database.",
        "scheduler": "No task starts without it: start `airflow scheduler`.",
        "dag_processor": "DAGs and datasets do not appear or change without it: start `airflow dag-processor`.",
        "triggerer": "wait_for_export waits forever without it: start `airflow triggerer`.",
    }
    problems = [
        f"{part} is {health.get(part, {}).get('status') or 'not running'}. {reason}"
        for part, reason in reasons.items()
        if health.get(part, {}).get("status") != "healthy"
    ]
    return verdict(problems, "scheduler, dag-processor and triggerer are healthy.")


CHECKS: tuple[Check, ...] = (
    Check("Airflow", "package", "data_share", package_version),
    Check("Airflow", "share file", "include/share.yaml", share_file_of_deployment),
    Check("Airflow", "dataset files", "include/datasets/", dataset_files),
    Check("Airflow", "DAG files", "dags/", dag_files),
    Check("Airflow", "local settings", "PYTHONPATH", local_settings),
    Check("Airflow", "processes", "the api-server's health", airflow_processes),
)
