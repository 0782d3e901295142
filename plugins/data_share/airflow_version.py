"""Refuses an Airflow that is too old in words, before an import of what it does not have yet fails."""

from __future__ import annotations

import re

from data_share import __version__

OLDEST_AIRFLOW = (3, 3)
"""``dependencies`` in ``pyproject.toml`` says the same to those who install a wheel."""


class AirflowTooOldError(ImportError):
    """The Airflow of this process lacks what the package is made of."""


def require_airflow() -> None:
    """
    Refuse an Airflow that is too old.

    :raises AirflowTooOldError: it is
    """
    from airflow import __version__ as found

    if tuple(map(int, re.findall(r"\d+", found)[:2])) < OLDEST_AIRFLOW:
        oldest = ".".join(map(str, OLDEST_AIRFLOW))
        raise AirflowTooOldError(
            f"data_share {__version__} needs Airflow {oldest} or a later 3.x, and this is Airflow {found}. Upgrade "
            "Airflow, or remove data_share."
        )
