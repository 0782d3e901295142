"""What the package adds to Airflow itself. Airflow runs this file in every process, so it imports next to nothing."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from data_share import notes


class DataSharePlugin(AirflowPlugin):
    """The notes of the runs."""

    name = "data_share"
    listeners = [notes]  # noqa: RUF012 - the form that Airflow asks for
