"""
### Check the data share

Checks the deployment step by step, with Airflow's own connections, secrets and network: Airflow itself, Databricks
and the export job, Snowflake with its stage, tables and rights. Says what is wrong and how to fix it. It changes
nothing: it drops or rolls back what it writes.

**To start it**, press *Trigger*, or send `POST /api/v2/dags/doctor/dagRuns` with
`{"logical_date": null, "conf": {}}`. There is no conf, and no schedule: run it after the set-up, after a change of
credentials or rights, and when syncs fail. Each further share of `include/share.yaml` has a DAG of its own:
`doctor_<share>`.

**The answer** is the XCom `return_value` of each task, a list of findings; it is in the log too. A task fails when one
of its checks fails: the `message` of its XCom `failure` describes the failed checks, its XCom `findings` is the whole
list.

**A retry** of a task makes its checks again.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from data_share.dag_defaults import DEFAULT_ARGS, SHARES, START_DATE, dag_id_of
from data_share.doctor.run import DoctorOperator

for share in SHARES.values():
    with DAG(
        dag_id=dag_id_of("doctor", share),
        description="Says what is wrong with the deployment, and how to fix it.",
        doc_md=__doc__,
        schedule=None,
        start_date=START_DATE,
        catchup=False,
        max_active_runs=1,
        dagrun_timeout=timedelta(hours=1),
        default_args={**DEFAULT_ARGS, "execution_timeout": timedelta(minutes=15)},
        tags=["data-share", "housekeeping"],
    ):
        # No dependencies: a failed check of one system must not stop the checks of the others.
        DoctorOperator(task_id="check_airflow", group="Airflow", share=share)
        DoctorOperator(task_id="check_databricks", group="Databricks", share=share)
        DoctorOperator(task_id="check_snowflake", group="Snowflake", share=share)
