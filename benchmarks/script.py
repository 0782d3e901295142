"""
The baseline: a warm script, which is the least that the way from Databricks to Snowflake can take.

One process, signed in to both services before the clock starts: it starts the same export job, looks at the run every
0.2 s, then empties the target, loads the files and counts the rows, in one session of Snowflake's connector.
"""

from __future__ import annotations

import logging
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from benchmarks.results import BenchmarkError
from benchmarks.running import SOURCE, Running
from sandbox.settings import PROJECT

_LOOK_SECONDS = 0.2
_COPY = PROJECT / "benchmarks" / "dags" / "copy_into.sql"


class WarmScript:
    """
    The script, signed in.

    :param running: the stack whose Databricks and Snowflake it uses
    :param table: its target, which must exist
    """

    def __init__(self, running: Running, table: str) -> None:
        import snowflake.connector

        # On the path since the stack runs.
        from data_share.dag_defaults import SHARE

        self._share = SHARE
        logging.getLogger("snowflake.connector").setLevel(logging.WARNING)
        self._running = running
        self._table = table
        [job] = running.databricks("GET", "/api/2.2/jobs/list", name="export_dataset")["jobs"]
        self._job_id = job["job_id"]
        login = {
            name.removeprefix("SNOWFLAKE_").lower(): value
            for name, value in running.endpoints.as_environment().items()
            if name.startswith("SNOWFLAKE_")
        }
        self._connection = snowflake.connector.connect(**login)

    def run(self, source_table: str = SOURCE) -> dict[str, float]:
        """
        Export, empty, load and count once; return the seconds of each, and of all.

        :raises BenchmarkError: if the export fails, or no row was loaded
        """
        key = f"{datetime.now(UTC):%Y%m%dT%H%M%S}_{uuid.uuid4().hex[:8]}"
        path = f"{self._table}/{key}/1-00000000/"
        parameters = {
            "dataset": self._table,
            "source_table": source_table,
            "run_key": key,
            "export_path": f"{self._share.url}{path}",
            "proof": "checksums",
        }
        copy = _COPY.read_text(encoding="utf-8").replace("{{ table }}", self._table)
        copy = copy.replace("{{ stage }}", self._share.stage).replace("{{ path }}", path)
        steps: dict[str, float] = {}
        began = before = time.perf_counter()

        def note(step: str) -> None:
            nonlocal before
            now = time.perf_counter()
            steps[step], before = now - before, now

        self._export(parameters)
        note("export")
        cursor = self._connection.cursor()
        cursor.execute(f"TRUNCATE TABLE {self._table}")
        note("truncate")
        cursor.execute(copy)
        note("copy")
        cursor.execute(f"SELECT COUNT(*) FROM {self._table}")  # noqa: S608 - this benchmark's table
        counted = cursor.fetchone()
        note("count")
        if not counted or not counted[0]:
            raise BenchmarkError("The script loaded no row")
        return steps | {"all": time.perf_counter() - began}

    def _export(self, parameters: dict[str, Any]) -> None:
        run = self._running.databricks("POST", "/api/2.2/jobs/run-now", job_id=self._job_id, job_parameters=parameters)
        while True:
            state = self._running.databricks("GET", "/api/2.2/jobs/runs/get", run_id=run["run_id"])["state"]
            if state.get("result_state"):
                break
            time.sleep(_LOOK_SECONDS)
        if state["result_state"] != "SUCCESS":
            raise BenchmarkError(f"The script's export ended {state}")

    def close(self) -> None:
        """Sign out."""
        self._connection.close()
