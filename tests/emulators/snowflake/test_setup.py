"""From nothing to a loader that can load: the set-up scripts on an empty account, then what the DAGs send."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs
import sqlparse
from airflow.dag_processing.dagbag import DagBag

from data_share.render import set_up_files
from data_share.share import Share
from data_share.share_file import DEFAULT, share_file
from data_share.snowflake.policies import Samples
from data_share.sql_files import render_sql
from emulators.snowflake.engine import Connection, Engine
from tests.airflow_double import DagRun

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox]

PROJECT = Path(__file__).resolve().parents[3]
# Users are not part of the emulator.
NAMES = Share()
UNKNOWN = re.compile(r"CREATE USER |GRANT ROLE \w+ TO USER ")
SYSTEM_ROLES = ("ACCOUNTADMIN", "SECURITYADMIN", "USERADMIN", "SYSADMIN")


def statements(text: str) -> list[str]:
    bare = sqlparse.format(text, strip_comments=True)
    return [one.rstrip(";") for one in sqlparse.split(bare) if one.strip(" ;\n")]


def run_scripts(session: Connection) -> None:
    for path, script in set_up_files(DEFAULT, share_file().shares).items():
        for statement in statements(script) if path.startswith("snowflake/") else ():
            if not UNKNOWN.match(statement):
                session.cursor().execute(statement)


def as_loader(engine: Engine, statement: str) -> list[Any]:
    """Run a statement as the syncs do: in a session of its own, as a CREATE SCHEMA changes the session's schema."""
    with contextlib.closing(
        engine.connect(
            NAMES.database.upper(),
            NAMES.target_schema.upper(),
            role=NAMES.loader_role.upper(),
            warehouse=NAMES.warehouse.upper(),
        )
    ) as session:
        return list(session.cursor().execute(statement).fetchall())


@pytest.fixture
def engine(s3: tuple[str, s3fs.S3FileSystem], tmp_path: Path) -> Iterator[Engine]:
    """An account in which nobody has done anything yet."""
    account = Engine(tmp_path, s3[1], identifier="MYORG-SHARE")
    for role in SYSTEM_ROLES:
        if role not in account.catalogue.roles:
            account.catalogue.roles.append(role)
    with contextlib.closing(account):
        yield account


@pytest.fixture
def files_of(rendered: Callable[..., Any]) -> Callable[..., list[str]]:
    """The SQL file of a DAG's task, rendered; of a mapped task, that of each instance."""

    def render(dag_id: str, task_id: str) -> list[str]:
        dag = DagBag(PROJECT / "dags" / f"{dag_id}.py", bundle_path=PROJECT).dags[dag_id]
        if dag.get_task(task_id).is_mapped:
            run = DagRun(dag=dag)
            run.run("list_targets")
            instances = [task for task, _ in run.instances(task_id)]
        else:
            instances = [rendered(dag, task_id)]
        return [instance.sql for instance in instances]

    return render


def test_the_scripts_make_all_that_the_syncs_ask_for(
    engine: Engine, files_of: Callable[..., list[str]], rendered: Callable[..., Any]
) -> None:
    with contextlib.closing(engine.connect(role="ACCOUNTADMIN")) as administrator:
        run_scripts(administrator)
    set_up = [
        statement
        for task in ("create_schemas", "create_stage", "create_ledger", "create_target")
        for file in files_of("set_up_snowflake", task)
        for statement in statements(file)
    ]
    dag = DagBag(PROJECT / "dags" / "sync_datasets.py", bundle_path=PROJECT).dags["sync_shared_forecasts"]
    load = rendered(dag, "copy_into_staging")
    prepare = render_sql("prepare_staging", share=Share(), sync=load.sync, samples=Samples({"DATE": "DATE"}))
    files = [load.sql["describe_target"], load.sql["explain_target"], load.sql["count_visible"], prepare]
    create = [f"CREATE TABLE {load.sync.new_staging_table} (date DATE)", load.sql["insert_lock_row"]]
    for statement in [*set_up, *(one for file in [*files, *create] for one in statements(file))]:
        as_loader(engine, statement)
    # Nothing was exported, and so says the COPY, which has found the stage and the place that it is on.
    [data] = statements(load.sql["copy_into_staging"])
    assert as_loader(engine, data) == [("Copy executed with 0 files processed.",)]


def test_the_scripts_can_be_run_again_and_keep_what_is_there(engine: Engine) -> None:
    with contextlib.closing(engine.connect(role="ACCOUNTADMIN")) as administrator:
        run_scripts(administrator)
        execute = administrator.cursor().execute
        execute(f"CREATE TABLE {NAMES.database}.{NAMES.target_schema}.{NAMES.ledger_table} (run_key VARCHAR)")
        execute(f"USE WAREHOUSE {NAMES.warehouse}")
        execute(f"INSERT INTO {NAMES.database}.{NAMES.target_schema}.{NAMES.ledger_table} VALUES ('a sync')")
        before = copy.deepcopy(vars(engine.catalogue))
        run_scripts(administrator)
        assert vars(engine.catalogue) == before
        rows = (
            administrator.cursor()
            .execute(f"SELECT * FROM {NAMES.database}.{NAMES.target_schema}.{NAMES.ledger_table}")
            .fetchall()
        )
        assert rows == [("a sync",)]
