"""
Measures what the checksums of a sync cost, in seconds of processor time for a million rows of five columns.

The rows have a BIGINT, a DECIMAL(18, 4), a STRING, a TIMESTAMP and a DOUBLE. Measured are the export on the emulator of
Databricks, with ``proof`` checksums and counts, and the query of ``check_values.sql`` on the emulator of Snowflake. The
emulators compute with DuckDB: the figures say what the sandbox pays, and how the two compare.

    python -m benchmarks.checksums --rows 1000000
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
from moto.server import ThreadedMotoServer

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "plugins")]

from data_share.share import Share  # noqa: E402
from data_share.sql_files import render_sql  # noqa: E402
from emulators.databricks.export import Session as ExportSession  # noqa: E402
from emulators.databricks.unity_catalog import LAKE_BUCKET, write_table  # noqa: E402
from emulators.s3 import SHARE_BUCKET, s3_filesystem  # noqa: E402
from emulators.snowflake.engine import Connection, Engine  # noqa: E402

SQL = PROJECT / "include" / "sql"
ROWS = """
    SELECT i AS id, CAST(i % 1000003 * 0.0625 AS DECIMAL(18, 4)) AS price, 'observation ' || i AS label,
      TIMESTAMPTZ '2026-01-01 00:00:00+00' + INTERVAL 1 SECOND * i AS at, i / 7 AS ratio
    FROM range({rows}) AS t (i)
"""
FORMS = {"id": "number", "price": "number", "label": "text", "at": "timestamp", "ratio": "fraction"}


def seconds(work: Callable[[], Any]) -> float:
    """Return the processor time of a piece of work, that of all threads."""
    began = time.process_time()
    work()
    return time.process_time() - began


def export(url: str, files: Any, proof: str) -> None:
    """Export the source table as the job does."""
    session = ExportSession(url, files)
    share = f"s3://{SHARE_BUCKET}/benchmark/{proof}/"
    parameters = {"source_table": "main.benchmark.rows", "run_key": "key", "dataset": "rows", "proof": proof}
    paths = {"source": "", "mode": "", "data_path": f"{share}data/", "manifest_path": f"{share}manifest/"}
    session.execute((SQL / "databricks" / "export_dataset.sql").read_text(), parameters | paths)
    session.close()


def check_query() -> str:
    """Return the query of the check."""
    proofs = [
        {"column": name.upper(), "form": form, "scale": 4 if name == "price" else 0} for name, form in FORMS.items()
    ]
    sync = SimpleNamespace(loaded={"proofs": proofs}, staging_table="staged")
    return render_sql("check_values", share=Share(), sync=sync).rstrip(";\n")


def main() -> None:
    """Measure, and print seconds for a million rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    files = s3_filesystem(url)
    for bucket in (LAKE_BUCKET, SHARE_BUCKET):
        files.makedirs(bucket, exist_ok=True)
    write_table(url, "main.benchmark.rows", duckdb.connect().execute(ROWS.format(rows=rows)).to_arrow_table())
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(Path(folder), files, identifier="BENCHMARK")
        for setup in ("CREATE DATABASE d", "CREATE SCHEMA IF NOT EXISTS d.public", "CREATE WAREHOUSE w"):
            Connection(engine).cursor().execute(setup)
        session = Connection(engine, "D", "PUBLIC", warehouse="W")
        session.cursor().execute(
            "CREATE TABLE staged (id NUMBER(18, 0), price NUMBER(18, 4), label VARCHAR, at TIMESTAMP_LTZ, ratio FLOAT)"
        )
        engine.duck_conn.cursor().execute(f"INSERT INTO d.public.staged {ROWS.format(rows=rows)}")
        query = check_query()
        measured = {
            "export, proof: counts": lambda: export(url, files, "counts"),
            "export, proof: checksums": lambda: export(url, files, "checksums"),
            "check: rows counted": lambda: session.cursor().execute("SELECT COUNT(*) FROM staged"),
            "check: values summed up": lambda: session.cursor().execute(query),
        }
        for name, work in measured.items():
            print(f"{name:28}{seconds(work) * 1_000_000 / rows:8.2f} s for a million rows", flush=True)
    os._exit(0)  # the server's threads do not end by themselves


if __name__ == "__main__":
    main()
