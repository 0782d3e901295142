"""Two shares at once in one Airflow, and two environments on one bucket: each loads its own and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_share.outcome.report import NotPublishedError
from data_share.render import set_up_files
from data_share.share import Share as Names
from data_share.share import shares
from data_share.share_file import share_file
from data_share.snowflake.sql_api import DataShareSnowflakeHook
from data_share.snowflake.target_lock import TargetTakenError
from data_share.sql_files import render_sql
from emulators.s3 import s3_filesystem
from tests.sandbox.load.driver import PROJECT, Row, Share

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

ROWS: list[Row] = [{"k": 1, "name": "a", "amount": 1.0}]
OTHERS: list[Row] = [{"k": 7, "name": "of emea", "amount": 7.0}, {"k": 8, "name": "of emea", "amount": 8.0}]
EMEA = {
    "url": "s3://acme-emea/out/",
    "snowflake_conn_id": "snowflake_emea",
    "database": "emea",
    "warehouse": "emea_wh",
    "staging_schema": "emea_staging",
    "ledger_table": "emea_history",
    "loader_role": "emea_loader",
    "reader_role": "emea_reader",
}


@pytest.fixture
def open_share(
    a_share: Share, administer: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Share]:
    """Set a further share up by its rendered scripts, and return the driver of its syncs."""

    def run(names: Names, *, by_scripts: bool = True) -> Share:
        base = os.environ["AIRFLOW_CONN_SNOWFLAKE_DEFAULT"]
        connection: dict[str, Any] = json.loads(base)
        connection["schema"] = names.target_schema.upper()
        connection["extra"] |= {
            "database": names.database.upper(),
            "warehouse": names.warehouse.upper(),
            "role": names.loader_role.upper(),
        }
        monkeypatch.setenv(f"AIRFLOW_CONN_{names.snowflake_conn_id.upper()}", json.dumps(connection))
        s3_filesystem(a_share.s3_url).makedirs(names.bucket, exist_ok=True)
        for path, script in set_up_files(names.name, share_file().shares).items() if by_scripts else ():
            # The stage is the loader's to create; users are not part of the emulator.
            if path.startswith("snowflake/") and not path.endswith(("05_service_user.sql", "07_stage.sql")):
                for statement in split(script):
                    if not statement.startswith("USE ROLE"):
                        administer(statement)
        administer(f'GRANT ROLE {names.loader_role} TO USER "{connection["login"]}"')
        made = Share(a_share.s3_url, a_share.snowflake_url, a_share._make_dag, a_share.wire, names)
        # As the DAG file wires it.
        made._make_dag = lambda dataset: a_share._make_dag(dataset, names)  # type: ignore[call-arg]
        for name in ("create_schemas", "create_stage", "create_ledger"):
            made.set_up(split(render_sql(name, share=names)))
        return made

    return run


def split(script: str) -> list[str]:
    return list(DataShareSnowflakeHook.split_sql_string(script, strip_semicolon=True))


@pytest.fixture
def shares_of(deploy: Callable[..., None], tmp_path: Path) -> Iterator[Callable[..., dict[str, Names]]]:
    """Read a share file with further shares."""

    def run(**further: dict[str, Any]) -> dict[str, Names]:
        content = yaml.safe_load((PROJECT / "include" / "share.yaml").read_text())
        path = tmp_path / "share.yaml"
        path.write_text(yaml.safe_dump({**content, "shares": further}))
        deploy(path)
        return shares()

    return run


def test_two_shares_sync_the_same_target_name_at_once(
    a_share: Share, open_share: Callable[..., Share], shares_of: Callable[..., dict[str, Names]]
) -> None:
    emea = open_share(shares_of(emea=EMEA)["emea"])
    own = a_share.dataset()
    other = emea.dataset(share="emea", target_table=own.target_table)
    a_share.write(own, ROWS)
    emea.write(other, OTHERS)
    # Step by step, the one between those of the other.
    runs = [(a_share, own, a_share.run(own)), (emea, other, emea.run(other))]
    for share, dataset, run in runs:
        share.export(dataset, run)
    for step in ("copy_into_staging", "check_staging", "publish", "finish_sync"):
        for share, _, run in runs:
            share.step(run, step)
    assert (a_share.target(own), emea.target(other)) == (ROWS, OTHERS)
    assert [row["EXPORT_PATH"].partition("load_")[0] for row in emea.ledger(other)] == [EMEA["url"]]
    assert a_share.ledger(own)[0]["EXPORT_PATH"].startswith(a_share.names.url)
    assert a_share.ledger(other) == emea.ledger(own) == []
    assert emea.query("SHOW TABLES IN SCHEMA emea_staging")[0]["name"].startswith("PUBLISH_LOCK__")


def test_environments_with_folders_of_their_own_load_their_own(
    a_share: Share, open_share: Callable[..., Share], deploy: Callable[..., None]
) -> None:
    """One bucket, two folders, two databases, one file: the environment of dev replaces what differs."""
    dataset = a_share.dataset()
    a_share.write(dataset, ROWS)
    in_prod = a_share.run(dataset)
    a_share.export(dataset, in_prod)
    deploy(
        URL="s3://databricks-snowflake-share/dev/",
        ENVIRONMENT="dev",
        DATABASE="dev_share",
        STORAGE_INTEGRATION="dev_int",
        SNOWFLAKE_CONN_ID="snowflake_dev",
    )
    dev = open_share(Names())
    in_dev = dev.run(dataset)
    # Both schedules started it at the same time.
    in_dev.run_id, in_dev.run_after = in_prod.run_id, in_prod.run_after
    dev.query(f"CREATE TABLE {dataset.target} (k NUMBER(38, 0), name VARCHAR, amount DOUBLE)")
    dev.write(dataset, OTHERS)
    dev.sync(dataset, in_dev)
    assert dev.target(dataset) == OTHERS
    assert a_share.target(dataset) == []
    deploy(URL="", ENVIRONMENT="", DATABASE="", STORAGE_INTEGRATION="", SNOWFLAKE_CONN_ID="")
    a_share.steps(in_prod)
    assert a_share.target(dataset) == ROWS
    [row] = dev.ledger(dataset)
    assert row["EXPORT_PATH"].startswith("s3://databricks-snowflake-share/dev/")
    assert row["RUN_KEY"] != a_share.ledger(dataset)[0]["RUN_KEY"]


def test_an_environment_with_the_tables_of_another_is_refused_before_it_loads_anything(
    a_share: Share, open_share: Callable[..., Share], deploy: Callable[..., None]
) -> None:
    """By mistake, dev has everything in common with prod: bucket, folder, account and database."""
    dataset = a_share.dataset()
    a_share.write(dataset, ROWS)
    in_prod = a_share.sync(dataset)
    staged = a_share.staged(dataset)
    deploy(ENVIRONMENT="dev")
    dev = open_share(Names(), by_scripts=False)
    in_dev = dev.run(dataset)
    in_dev.run_id, in_dev.run_after = staged.run_id, staged.run_after
    dev.export(dataset, in_dev)
    with pytest.raises(TargetTakenError, match=rf"is the target of the dataset {dataset.name}, whose sync"):
        dev.step(in_dev, "copy_into_staging")
    # Its end tidies up after itself, and leaves what the other has staged.
    with pytest.raises(NotPublishedError):
        dev.step(in_dev, "finish_sync")
    deploy(ENVIRONMENT="")
    a_share.step(staged, "publish")
    assert [row["RUN_KEY"] for row in a_share.ledger(dataset)] == [in_prod.key, staged.key]
