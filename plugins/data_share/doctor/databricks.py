"""The checks of Databricks: connection, sign-in, and whether the export job matches the asset bundle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from airflow.sdk import BaseHook, Variable

from data_share.doctor.deployment import (
    Answer,
    Check,
    Deployment,
    State,
    check_fields,
    check_reachable,
    clock,
    connection_of,
    error_text,
    listed,
    no_connection,
    ok,
    verdict,
    with_advice,
    wrong,
)


def databricks_connection(deployment: Deployment) -> Answer:
    """The connection exists and has the fields of a sign-in."""
    share = deployment.share
    connection = connection_of(share.databricks_conn_id)
    if connection is None:
        return no_connection(share.databricks_conn_id)
    missing = [] if connection.host else ["host"]
    extra = connection.extra_dejson
    if extra.get("service_principal_oauth"):
        missing += [field for field in ("login", "password") if not getattr(connection, field)]
    elif not (connection.password or extra.get("token") or any(name.startswith("azure") for name in extra)):
        missing.append("password (the token, or the secret of a service principal)")
    return check_fields(share.databricks_conn_id, missing)


def databricks_reachable(deployment: Deployment) -> Answer:
    """A server answers at the workspace's address."""
    connection = BaseHook.get_connection(deployment.share.databricks_conn_id)
    port = f":{connection.port}" if connection.port else ""
    host = str(connection.host).removeprefix("https://").removeprefix("http://").rstrip("/")
    return check_reachable(deployment, "Databricks", f"{connection.schema or 'https'}://{host}{port}/", "host")


def databricks_sign_in(deployment: Deployment) -> Answer:
    """Databricks accepts the credentials."""
    try:
        deployment.databricks.list_jobs(limit=1, job_name="export_dataset")
    except Exception as error:
        return wrong(
            f"Databricks does not accept the sign-in of {deployment.share.databricks_conn_id}: {error_text(error)}. "
            "Check the token, or client id and secret of the service principal: docs/databricks.md."
        )
    return ok("the credentials are accepted.")


def export_job_id(deployment: Deployment) -> Answer:
    """The Variable with the job's id is set."""
    share = deployment.share
    value = Variable.get(share.export_job_variable, default=None)
    if value is None:
        return wrong(
            f"The Airflow Variable {share.export_job_variable} is not set. Set it to the id of the export job: "
            "`databricks bundle summary --target prod` shows it."
        )
    if not re.fullmatch(r"[0-9]+", str(value).strip()):
        return wrong(f"The Airflow Variable {share.export_job_variable} is {str(value)!r}, which is no job id.")
    return ok(f"job {value}.")


def export_job(deployment: Deployment) -> Answer:
    """The job exists, and Airflow's principal may see it."""
    share = deployment.share
    job_id = int(Variable.get(share.export_job_variable))
    try:
        # The provider's hook (7.23.0) has no method for a job by its id.
        deployment.job = deployment.databricks._do_api_call(("GET", "2.2/jobs/get"), {"job_id": job_id})["settings"]
    except Exception as error:
        return wrong(
            f"Databricks does not show job {job_id}: {error_text(error)}. Correct the Airflow Variable "
            f"{share.export_job_variable}, or give Airflow's principal CAN_MANAGE_RUN on the job."
        )
    return ok(f"job {job_id} is {deployment.job.get('name')}.")


def job_parameters(deployment: Deployment) -> Answer:
    """The job has exactly the parameters that a sync sends."""
    sent = {parameter["name"] for parameter in deployment.bundle_job["parameters"]}
    taken = {parameter["name"] for parameter in deployment.job.get("parameters", [])}
    problems = []
    if sent - taken:
        problems.append(f"The job lacks the parameters {listed(sorted(sent - taken))}, which this version uses.")
    if taken - sent:
        problems.append(f"The job has the parameters {listed(sorted(taken - sent))}, which it does not use.")
    return verdict(with_advice(problems, "Deploy the bundle again: docs/databricks.md."), f"{listed(sorted(taken))}.")


def job_queue(deployment: Deployment) -> Answer:
    """A run beyond the job's limit waits in the queue instead of failing its sync."""
    max_runs = deployment.job.get("max_concurrent_runs", 1)
    datasets = len(deployment.datasets[0])
    if not max_runs:
        return wrong("max_concurrent_runs of the job is 0: it starts no run. Deploy the bundle again.")
    if not deployment.job.get("queue", {}).get("enabled"):
        return wrong(
            f"The job's queue is not enabled: a run beyond max_concurrent_runs ({max_runs}) is skipped, and its sync "
            "fails. Deploy the bundle again, or enable the queue."
        )
    if max_runs < datasets:
        return Answer(State.ADVICE, f"max_concurrent_runs is {max_runs}: of {datasets} datasets, some wait for others.")
    return ok(f"the queue is enabled, {max_runs} runs at a time.")


def job_task(deployment: Deployment) -> Answer:
    """The job's tasks are those of the bundle: they run its SQL files with the job's parameters."""
    expected = {task["task_key"]: task for task in deployment.bundle_job["tasks"]}
    given = {str(task.get("task_key")): task for task in deployment.job.get("tasks", [])}
    if set(given) != set(expected):
        return wrong(f"The job's tasks are {listed(given)} instead of {listed(expected)}. Deploy the bundle again.")
    problems = [problem for key, task in expected.items() for problem in _differences(key, task, given[key])]
    files = [Path(task["sql_task"]["file"]["path"]).name for task in expected.values() if "sql_task" in task]
    return verdict(with_advice(problems, "Deploy the bundle again: docs/databricks.md."), f"{listed(files)}.")


def _differences(key: str, expected: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """Return in what a task of the job differs from that of the bundle."""
    if "sql_task" in expected:
        file = Path(expected["sql_task"]["file"]["path"]).name
        if Path(given.get("sql_task", {}).get("file", {}).get("path", "")).name != file:
            return [f"The task {key} is not a SQL task with the file {file}."]
        wanted, found = ((task["sql_task"].get("parameters", {})) for task in (expected, given))
    else:
        wanted, found = expected["condition_task"], given.get("condition_task", {})
    problems = [
        f"The task {key} has {found.get(name)!r} as its {name} instead of {value!r}."
        for name, value in wanted.items()
        if found.get(name) != value
    ]
    if given.get("depends_on", []) != expected.get("depends_on", []):
        problems.append(f"The task {key} depends on other tasks, or on other outcomes of them.")
    return problems


def databricks_clock(deployment: Deployment) -> Answer:
    """The clocks of this machine and of Databricks agree."""
    return clock(deployment, "Databricks")


CHECKS: tuple[Check, ...] = (
    Check("Databricks", "Databricks connection", "{share.databricks_conn_id}", databricks_connection),
    Check("Databricks", "Databricks address", "host", databricks_reachable, ("Databricks connection",)),
    Check("Databricks", "Databricks clock", "HTTP header Date", databricks_clock, ("Databricks address",)),
    Check("Databricks", "Databricks sign-in", "jobs/list", databricks_sign_in, ("Databricks address",)),
    Check("Databricks", "job id", "Variable {share.export_job_variable}", export_job_id),
    Check("Databricks", "job", "jobs/get", export_job, ("Databricks sign-in", "job id")),
    Check("Databricks", "job parameters", "the job's parameters", job_parameters, ("job",)),
    Check("Databricks", "job queue", "queue, max_concurrent_runs", job_queue, ("job",)),
    Check("Databricks", "job task", "the tasks' SQL files", job_task, ("job",)),
)
