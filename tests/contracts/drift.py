"""
Where `databricks.yaml` and the `databricks-sdk` of this environment differ: ``make contracts`` prints it.

The SDK's data classes are made from the published API. What is in the SDK alone is a field or a value that an answer
may have and the contract refuses; what is in the contract alone is older than the SDK, newer, or not published.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from types import ModuleType
from typing import Any

from tests.contracts.contract import Contract

CLASSES = {
    "Run": "Run",
    "RunOutput": "RunOutput",
    "RunState": "RunState",
    "RunStatus": "RunStatus",
    "RunTask": "RunTask",
    "SqlTask": "SqlTask",
}
"""Schema of the contract -> data class of the SDK."""

ENUMERATIONS = {
    ("Run", "run_type"): "RunType",
    ("Run", "trigger"): "TriggerType",
    ("RunState", "life_cycle_state"): "RunLifeCycleState",
    ("RunState", "result_state"): "RunResultState",
    ("RunStatus", "state"): "RunLifecycleStateV2State",
    ("RunStatus", "queue_details.code"): "QueueDetailsCodeCode",
    ("RunStatus", "termination_details.code"): "TerminationCodeCode",
    ("RunStatus", "termination_details.type"): "TerminationTypeType",
    ("RunTask", "run_if"): "RunIf",
}
"""Schema and property of the contract -> enumeration of the SDK."""

# Fields of other kinds of tasks, of their output, and of compute that is no SQL warehouse.
_OF_OTHERS = re.compile(
    r"(?!sql_).*_(task|output)|compute|environment_variables_key|existing_cluster_id|job_cluster_key|new_cluster"
)
# The output of a task run has the task in place of the run; the rest is marked as undocumented.
_OF_THE_CONTRACT_ALONE = {
    "Run": {"depends_on", "format", "run_as_user_name", "run_if", "sql_task", "task_key", "timeout_seconds"}
}


def drift(jobs: ModuleType) -> Iterator[str]:
    """
    Return a line for each difference.

    :param jobs: ``databricks.sdk.service.jobs``
    """
    schemas = Contract("databricks").document["components"]["schemas"]
    for schema, name in CLASSES.items():
        known = {field.name for field in dataclasses.fields(getattr(jobs, name))}
        ours = set(schemas[schema]["properties"])
        yield from _lines(
            schema,
            "the field",
            (field for field in known - ours if not _OF_OTHERS.fullmatch(field)),
            ours - known - _OF_THE_CONTRACT_ALONE.get(schema, set()),
        )
    for (schema, path), name in ENUMERATIONS.items():
        node: Any = schemas[schema]
        for step in path.split("."):
            node = node["properties"][step]
        known, ours = {member.value for member in getattr(jobs, name)}, set(node["enum"])
        yield from _lines(f"{schema}.{path}", "the value", known - ours, ours - known)


def _lines(place: str, kind: str, missing: Iterable[str], surplus: Iterable[str]) -> Iterator[str]:
    yield from (f"{place}: {kind} {name} is in the SDK alone" for name in sorted(missing))
    yield from (f"{place}: {kind} {name} is in the contract alone" for name in sorted(surplus))


def main() -> int:
    """Print the differences, and return the exit code: 1 if an answer may have something that the contract refuses."""
    from databricks.sdk.service import jobs

    lines = list(drift(jobs))
    told = [f"tests/contracts/databricks.yaml and databricks-sdk {version('databricks-sdk')}:", *lines]
    sys.stdout.write("\n".join(told if lines else [*told, "no difference"]) + "\n")
    return 1 if any(line.endswith("SDK alone") for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
