"""
The values for Airflow's Helm chart: they name keys that the chart has, and nothing in them is secret.

The chart itself is not here: `CHART_KEYS` are those of its values.yaml, version 1.22.0, that our files may use.
`test_helm_rendered.py` has Helm make of the chart and the files what Kubernetes is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from airflow.configuration import conf

from data_share.share import Share

PROJECT = Path(__file__).resolve().parents[2]
HELM = PROJECT / "deploy" / "helm"
CHART_VERSION = "1.22.0"

# Below these, names are free: Airflow's own settings are checked by themselves.
FREE = ("config", "securityContexts.containers")
_PROCESS_KEYS = ("replicas", "resources", "podDisruptionBudget.enabled", "podDisruptionBudget.config.maxUnavailable")
CHART_KEYS = {
    *("airflowVersion", "executor", "airflowLocalSettings", "extraEnvFrom"),
    *(f"images.{image}.{key}" for image in ("airflow", "pod_template") for key in ("repository", "tag", "pullPolicy")),
    *("fernetKeySecretName", "apiSecretKeySecretName", "jwtSecretName"),
    *(f"data.{key}" for key in ("metadataSecretName", "resultBackendSecretName", "brokerUrlSecretName")),
    *("createUserJob.enabled", "postgresql.enabled", "statsd.enabled", "cleanup.enabled"),
    *("redis.enabled", "redis.passwordSecretName", "redis.resources"),
    *(f"{name}.{key}" for name in ("scheduler", "apiServer", "dagProcessor", "triggerer") for key in _PROCESS_KEYS),
    *(f"pgbouncer.{key}" for key in ("enabled", "configSecretName", *_PROCESS_KEYS)),
    *(f"pgbouncer.metricsExporterSidecar.{key}" for key in ("statsSecretName", "statsSecretKey", "resources")),
    *("triggerer.persistence.enabled", "triggerer.env", "dagProcessor.env"),
    *(
        f"workers.celery.{key}"
        for key in ("persistence.enabled", "terminationGracePeriodSeconds", "env", *_PROCESS_KEYS)
    ),
    *(
        f"workers.celery.keda.{key}"
        for key in (
            "enabled",
            "minReplicaCount",
            "maxReplicaCount",
            "pollingInterval",
            "cooldownPeriod",
            "usePgbouncer",
        )
    ),
    *("workers.kubernetes.env", "workers.kubernetes.resources", "workers.kubernetes.safeToEvict"),
    *("logs.persistence.enabled", "logs.persistence.size"),
    *(f"databaseCleanup.{key}" for key in ("enabled", "schedule", "retentionDays")),
}


def read(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((HELM / name).read_text(encoding="utf-8"))
    return values


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Merge as Helm does with two files of values."""
    result = dict(first)
    for key, value in second.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


CELERY = read("values.yaml")
KUBERNETES = merged(CELERY, read("values-kubernetes-executor.yaml"))
ECONOMY = merged(CELERY, read("values-economy.yaml"))
ALL = pytest.mark.parametrize("values", [CELERY, KUBERNETES, ECONOMY], ids=["celery", "kubernetes", "economy"])


def leaves(values: dict[str, Any], *above: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        path = ".".join((*above, key))
        if isinstance(value, dict) and value and path not in CHART_KEYS:
            yield from leaves(value, *above, key)
        else:
            yield path, value


@ALL
def test_every_key_is_one_of_the_charts(values: dict[str, Any]) -> None:
    named = {path for path, _ in leaves(values) if not path.startswith(FREE)}
    assert named - CHART_KEYS == set()


@ALL
def test_every_setting_is_one_of_airflows(values: dict[str, Any]) -> None:
    # The section [celery] comes with the provider, which runs in the image alone.
    named = {(section, key) for section, keys in values["config"].items() for key in keys if section != "celery"}
    assert named
    assert {setting for setting in named if not conf.has_option(*setting)} == set()


@ALL
def test_no_secret_is_in_the_file_and_the_chart_makes_none_up(values: dict[str, Any]) -> None:
    for path, _ in leaves(values):
        key = path.rsplit(".", 1)[-1].lower()
        if any(word in key for word in ("pass", "token", "key", "connection")) and not key.endswith("secretkey"):
            assert key.endswith("secretname"), f"{path} looks like a secret"
    assert values["createUserJob"]["enabled"] is False
    assert values["postgresql"]["enabled"] is False
    for path in ("fernetKeySecretName", "apiSecretKeySecretName", "jwtSecretName"):
        assert values[path]
    assert values["data"]["metadataSecretName"]
    if values["redis"]["enabled"]:
        # The chart refuses the one without the other.
        assert values["redis"]["passwordSecretName"]
        assert values["data"]["brokerUrlSecretName"]
    if values["pgbouncer"]["enabled"]:
        # Without them, the chart would write PgBouncer's sign-ins from data.metadataConnection: postgres, postgres.
        assert values["pgbouncer"]["configSecretName"]
        assert values["pgbouncer"]["metricsExporterSidecar"]["statsSecretName"]


@ALL
def test_pods_have_what_the_dags_need(values: dict[str, Any], sync_datasets: ModuleType) -> None:
    tasks = sync_datasets.sync_dag(sync_datasets.datasets[0]).tasks
    used = {
        getattr(task, field)
        for task in tasks
        for field in ("databricks_conn_id", "snowflake_conn_id")
        if hasattr(task, field)
    }
    accounts = {f"AIRFLOW_CONN_{name.upper()}" for name in used}
    webhook = "AIRFLOW_CONN_DATA_SHARE_WEBHOOK"
    workers = values["workers"]
    given = {
        "workers": {variable["name"] for variable in workers["celery"]["env"]},
        "pods": {variable["name"] for variable in workers["kubernetes"]["env"]},
        "triggerer": {variable["name"] for variable in values["triggerer"]["env"]},
    }
    assert given == {
        "workers": accounts,
        "pods": accounts,
        "triggerer": {*accounts, webhook},
    }
    assert "env" not in values["dagProcessor"]
    # All of the chart's pods would have it.
    assert "secret" not in values
    assert yaml.safe_load(values["extraEnvFrom"]) == [{"configMapRef": {"name": "data-share-variables"}}]
    # The guide says what is in it.
    assert f"AIRFLOW_VAR_{Share().export_job_variable.upper()}" in (PROJECT / "docs" / "scaling.md").read_text()


@ALL
def test_the_guide_names_every_secret(values: dict[str, Any]) -> None:
    guide = (PROJECT / "docs" / "scaling.md").read_text()
    names = {value for path, value in leaves(values) if path.lower().endswith("secretname") and value}
    names |= {variable["valueFrom"]["secretKeyRef"]["name"] for variable in values["triggerer"]["env"]}
    assert len(names) > 5
    assert {name for name in names if f"`{name}`" not in guide} == set()
    assert f"version {CHART_VERSION}" in guide


@ALL
def test_the_versions_are_those_of_the_project(values: dict[str, Any]) -> None:
    assert values["airflowVersion"] == version("apache-airflow")
    assert f"--version {CHART_VERSION}" in (HELM / "values.yaml").read_text()
    # A moving tag would let two pods run two versions of a sync.
    assert values["images"]["airflow"]["tag"] not in ("", "latest", "main")


def test_workers_that_keda_may_start_are_no_more_than_the_schedulers_fill() -> None:
    workers = CELERY["workers"]["celery"]["keda"]["maxReplicaCount"]
    steps = CELERY["config"]["core"]["parallelism"] * CELERY["scheduler"]["replicas"]
    assert workers * CELERY["config"]["celery"]["worker_concurrency"] == steps


def test_one_pod_of_each_part_may_go() -> None:
    for name in ("scheduler", "apiServer", "dagProcessor", "triggerer", "pgbouncer"):
        assert CELERY[name]["replicas"] >= 2
        # With one replica, a budget would keep its node from being emptied.
        assert CELERY[name]["podDisruptionBudget"] == {"enabled": True, "config": {"maxUnavailable": 1}}


def test_a_worker_is_not_ended_before_its_step_may_end() -> None:
    workers = CELERY["workers"]["celery"]
    assert workers["keda"]["cooldownPeriod"] > workers["terminationGracePeriodSeconds"]


def test_the_kubernetes_executor_needs_neither_redis_nor_keda() -> None:
    assert KUBERNETES["executor"] == "KubernetesExecutor"
    assert KUBERNETES["redis"]["enabled"] is False
    assert KUBERNETES["workers"]["celery"]["keda"]["enabled"] is False
    assert KUBERNETES["workers"]["kubernetes"]["resources"]["requests"]["memory"]
