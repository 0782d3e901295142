"""Gives the DAG files of those who installed the wheel the DAGs of the repository's ``dags/``."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

from data_share.airflow_version import require_airflow
from data_share.package import DAGS

if TYPE_CHECKING:
    from airflow.sdk import DAG


def dags_of(name: str) -> dict[str, DAG]:
    """
    Execute a file of the wiring, and return its DAGs by the names of its variables.

    The caller puts them into its own namespace. There Airflow finds them, and takes the caller's file as theirs: it
    shows it as their code, and executes it again for each task.

    :param name: name of the file in ``dags/``, without ``.py``
    :raises AirflowTooOldError: this Airflow lacks what the DAGs need
    """
    require_airflow()
    from airflow.sdk import DAG

    # As Airflow loads a DAG file: executed anew each time, and known by a name that no other module has.
    module_name = f"data_share_dags_{name}"
    spec = importlib.util.spec_from_file_location(module_name, DAGS / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"There is no wiring {name} in {DAGS}")
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {variable: value for variable, value in vars(module).items() if isinstance(value, DAG)}
