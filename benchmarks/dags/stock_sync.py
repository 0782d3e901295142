"""
The baseline: the same way from Databricks to Snowflake, made of the providers' own operators.

For each table in `stock_sync.json` a DAG: `DatabricksRunNowOperator` starts the same export job and waits in its
worker slot, `SQLExecuteQueryOperator` empties the target and loads the files with `COPY INTO`, `SnowflakeCheckOperator`
counts.
No checksums, no transaction, no ledger, no clean-up. The operators have their defaults, except for what the file says.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.providers.databricks.operators.databricks import DatabricksRunNowOperator
from airflow.providers.snowflake.operators.snowflake import SnowflakeCheckOperator
from airflow.sdk import DAG, chain

from data_share.dag_defaults import SHARE

HERE = Path(__file__).parent
PATH = "{table}/{{{{ dag_run.run_after.strftime('%Y%m%dT%H%M%S') }}}}_{{{{ dag_run.run_id[-8:] }}}}/1-00000000/"


def use_plain_http(_: Any) -> None:
    """Let the connector speak plain HTTP, as the emulators do: the provider's hook cannot be told to."""
    from snowflake.connector import connection

    connection.DEFAULT_CONFIGURATION["protocol"] = ("http", str)


def stock_dag(table: str, source: str, options: dict[str, Any]) -> DAG:
    """
    Return the DAG of one table.

    :param options: arguments of `DatabricksRunNowOperator` that are not its defaults
    """
    path = PATH.format(table=table)
    copy_into = (HERE / "copy_into.sql").read_text(encoding="utf-8")
    with DAG(f"stock_{table}", start_date=datetime(2026, 1, 1), schedule=None, doc_md=__doc__) as dag:
        export = DatabricksRunNowOperator(
            task_id="export",
            job_id=f"{{{{ var.value.{SHARE.export_job_variable} }}}}",
            job_parameters={
                "dataset": table,
                "source_table": source,
                "run_key": "{{ dag_run.run_id }}",
                "export_path": f"{SHARE.url}{path}",
                "proof": "checksums",
            },
            **options,
        )
        load = SQLExecuteQueryOperator(
            task_id="load",
            conn_id=SHARE.snowflake_conn_id,
            sql=[
                f"TRUNCATE TABLE {table}",
                copy_into.replace("{{ table }}", table).replace("{{ stage }}", SHARE.stage).replace("{{ path }}", path),
            ],
            pre_execute=use_plain_http,
        )
        check = SnowflakeCheckOperator(
            task_id="check",
            sql=f"SELECT COUNT(*) FROM {table}",  # noqa: S608 - a name of this benchmark
            snowflake_conn_id=SHARE.snowflake_conn_id,
            pre_execute=use_plain_http,
        )
        chain(export, load, check)
    return dag


for name, settings in json.loads((HERE / "stock_sync.json").read_text(encoding="utf-8")).items():
    globals()[f"stock_{name}"] = stock_dag(name, **settings)
