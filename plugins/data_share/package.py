"""
Where the package's own files are, in a checkout and in a wheel.

A checkout has ``include/`` and ``dags/`` beside the folder of the package. A wheel has them in the package, where its
build puts them (``pyproject.toml``). Where the package lies itself decides, and nothing else.
"""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent

IS_INSTALLED = (_PACKAGE / "include").is_dir()
"""Whether this copy of the package comes from a wheel."""

INCLUDE = _PACKAGE / "include" if IS_INSTALLED else _PACKAGE.parents[1] / "include"
"""SQL, templates and JSON Schemas of the package."""

DAGS = _PACKAGE / "dags" if IS_INSTALLED else _PACKAGE.parents[1] / "dags"
"""The wiring: the DAG files of the repository."""

PROJECT = (
    Path(os.environ.get("AIRFLOW_HOME") or "~/airflow").expanduser().absolute() if IS_INSTALLED else _PACKAGE.parents[1]
)
"""The folder in which a deployment has its own ``include/``: the checkout, or the home of the Airflow."""

ADVICE = (
    "data-share init writes it into the home of Airflow, and the variable DATA_SHARE_FILE names another place"
    if IS_INSTALLED
    else "deploy include/ beside dags/ and plugins/"
)
"""What helps when a file of the deployment is missing."""
