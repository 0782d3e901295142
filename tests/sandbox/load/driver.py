"""A sync without Airflow: the real operators of a dataset's DAG, one after the other, against the emulators."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import requests
import s3fs
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowSkipException

from data_share import share
from data_share.dag_defaults import SHARE
from data_share.databricks.follow import failed_run
from data_share.datasets import Dataset
from data_share.render import export_sql
from data_share.snowflake.sql_api import DataShareSnowflakeHook
from data_share.sql_text import column_name, quoted, written
from emulators.databricks.unity_catalog import write_table
from emulators.s3 import s3_filesystem
from tests.airflow_double import DagRun, with_templates_compiled_once
from tests.export_job import PLAN_SQL, UNPLANNED

PROJECT = Path(__file__).resolve().parents[3]
STEPS = ("copy_into_staging", "check_staging", "publish")
SCHEMA = pa.schema({"k": pa.int64(), "name": pa.string(), "amount": pa.float64()})
MANIFEST_SCHEMA = pa.schema(
    {
        "run_key": pa.string(),
        "dataset": pa.string(),
        "source_table": pa.string(),
        "row_count": pa.int64(),
        "file_count": pa.int64(),
        "column_types": pa.string(),
        "exported_at": pa.timestamp("us", "UTC"),
    }
)
HASH_KEY = "known to Databricks alone"
COLUMNS = {"k": "NUMBER(38, 0)", "name": "VARCHAR", "amount": "DOUBLE"}

Row = dict[str, Any]

_numbers = itertools.count(1)


def proofs_of(rows: Sequence[Row]) -> str:
    """Return what a manifest says of the columns of rows of :data:`SCHEMA`."""
    keys, names, amounts = ([row[name] for row in rows if row[name] is not None] for name in SCHEMA.names)
    columns = [
        {"name": "k", "type": "bigint", "filled": str(len(keys)), "checksum": checksum(map(str, keys))},
        {"name": "name", "type": "string", "filled": str(len(names)), "checksum": checksum(names)},
        {
            "name": "amount",
            "type": "double",
            **dict.fromkeys(("filled", "finite"), str(len(amounts))),
            **dict.fromkeys(("infinite", "negative_infinite"), "0"),
            **{name: str(of(amounts)) if amounts else None for name, of in (("minimum", min), ("maximum", max))},
            "total": str(math.fsum(amounts)) if amounts else None,
            "magnitude": str(math.fsum(map(abs, amounts))) if amounts else None,
        },
    ]
    return json.dumps(columns)


def checksum(texts: Iterable[str]) -> str | None:
    """Return the sum of 60 bits of the MD5 of each text, as a manifest says it."""
    sums = [int(hashlib.md5(text.encode()).hexdigest()[:15], 16) for text in texts]
    return str(sum(sums)) if sums else None


def unproven(run: Run) -> set[str]:
    """Return the columns, in lower case, whose values a sync that loaded them could not sum up."""
    return {column.lower() for column in run.xcoms["copy_into_staging", "return_value"]["unproven"]}


class ProcessDiedError(BaseException):
    """The task's process is gone: nothing in it can catch this."""


@dataclass
class Fault:
    """
    What goes wrong with one HTTP call of a task.

    :param call: which call, counted from 0
    :param kind: ``lost``: it never arrives. ``answer lost``: it arrives, its statement ends, the answer does not come.
        ``dead``, ``answer dead``: the same, and the process dies with it.
    """

    call: int
    kind: str

    @property
    def arrives(self) -> bool:
        """Whether Snowflake executes what the call asks for."""
        return self.kind.startswith("answer")

    @property
    def error(self) -> BaseException:
        """What the task's process meets."""
        return ProcessDiedError() if self.kind.endswith("dead") else requests.ConnectionError("lost on order")


class Wire:
    """
    Stands between the hook and the network, in the place of ``requests.Session.request``; faults are per thread.

    Two things make many syncs cheap: connections are kept, and Snowflake is asked to answer when a statement has ended
    and not before, so that the first look of the hook finds its end.
    """

    def __init__(self, request: Callable[..., requests.Response]) -> None:
        self._request = request
        self._thread = threading.local()

    def __call__(self, _: requests.Session, **call: Any) -> requests.Response:
        """Make one call, unless it is the one that goes wrong."""
        number = getattr(self._thread, "calls", 0)
        self._thread.calls = number + 1
        before = getattr(self._thread, "before", None)
        if before is not None:
            before(call)
        if call.get("params"):
            call["params"] = {name: value for name, value in call["params"].items() if name != "async"}
        fault: Fault | None = getattr(self._thread, "fault", None)
        if fault is None or fault.call != number:
            return self._request(self._session, **call)
        if fault.arrives:
            self._request(self._session, **call)
        raise fault.error

    @property
    def _session(self) -> requests.Session:
        if not hasattr(self._thread, "session"):
            self._thread.session = requests.Session()
            self._thread.session.trust_env = False  # it would look for a proxy and a .netrc at each call
        return cast("requests.Session", self._thread.session)

    @contextlib.contextmanager
    def faulty(self, fault: Fault | None, before: Callable[[dict[str, Any]], None] | None = None) -> Iterator[None]:
        """
        Let one call of this thread go wrong.

        :param before: called with each call before it is made, e.g. to hold it
        """
        self._thread.calls, self._thread.fault, self._thread.before = 0, fault, before
        try:
            yield
        finally:
            self._thread.fault = self._thread.before = None

    @property
    def calls(self) -> int:
        """Number of the calls since the last :meth:`faulty` began."""
        return cast("int", getattr(self._thread, "calls", 0))


@dataclass(kw_only=True, eq=False)
class Run(DagRun):
    """
    One run of a dataset's DAG, whose export is made by the driver.

    :param export_attempt: number of the last attempt to export
    """

    export_attempt: int = 0

    @property
    def export_path(self) -> str:
        """Path of the export that is loaded."""
        step = "copy_into_staging" if self.params["reload_run_key"] else "wait_for_export"
        export = self.xcoms[step, "return_value"]
        return cast("str", export["export_path"])

    @property
    def staging_table(self) -> str:
        """The staging table that ``copy_into_staging`` has filled."""
        return cast("str", self.xcoms["copy_into_staging", "return_value"]["staging_table"])

    @property
    def ledger_row(self) -> Row:
        """What ``publish`` returned."""
        return cast("Row", self.xcoms["publish", "return_value"])


class Share:
    """
    The emulators, and the syncs on them.

    :param s3_url: S3
    :param snowflake_url: Snowflake
    :param make_dag: makes the DAG of a dataset
    :param wire: see there
    :param names: the names of the share
    """

    def __init__(
        self,
        s3_url: str,
        snowflake_url: str,
        make_dag: Callable[[Dataset], DAG],
        wire: Wire,
        names: share.Share = SHARE,
    ) -> None:
        self.names = names
        self.s3_url = s3_url
        self.snowflake_url = snowflake_url
        self.wire = wire
        self.files: s3fs.S3FileSystem = s3_filesystem(s3_url)
        self._make_dag = make_dag
        self._dags: dict[str, DAG] = {}
        # By dataset: what Airflow knows of assets. The runs of other datasets share nothing, so they find all new.
        self._remembered: dict[str, dict[str, dict[str, Any]]] = {}
        self._making_a_dag = threading.Lock()
        self._hook = DataShareSnowflakeHook(names.snowflake_conn_id)

    # ---- around a sync

    def query(self, sql: str) -> list[Row]:
        """Run one statement and return its rows."""
        return self._hook.run_statement(sql).rows

    def transaction(self, statements: Sequence[str]) -> None:
        """Run statements in one request."""
        self._hook.run_statements(statements)

    def set_up(self, statements: Sequence[str]) -> None:
        """Run statements as ``set_up_snowflake`` does."""
        for statement in statements:
            self.query(statement)

    def dataset(self, columns: dict[str, str] | None = None, **fields: Any) -> Dataset:
        """
        Make a dataset that no other test uses, and its empty target.

        :param columns: the target's columns as a dataset file names them; by default :data:`COLUMNS`
        """
        name = f"load_{next(_numbers)}"
        dataset = Dataset.model_validate(
            {
                "name": name,
                "description": "Made by a test.",
                "source_table": f"main.load.{name}",
                "target_table": name,
                "load_mode": "replace",
                "required_columns": ("k",),
                **fields,
            }
        )
        if dataset.create_table is None:
            listed = ", ".join(f"{quoted(column_name(column))} {kind}" for column, kind in (columns or COLUMNS).items())
            self.query(f"CREATE TABLE {dataset.target} ({listed})")
        return dataset

    def remember(self, dataset: Dataset) -> None:
        """Let the runs of a dataset share what Airflow remembers between them."""
        self._remembered[dataset.name] = {}

    def edit(self, dataset: Dataset, **fields: Any) -> Dataset:
        """Change fields in a dataset's file."""
        self._dags.pop(dataset.name, None)
        known = dataset.model_dump()
        for field in ("merge_keys", "required_columns", "casts", "target_defaults"):
            known[field] = [written(name) for name in known[field]]
        known["columns"] = {written(name): kind for name, kind in known["columns"].items()}
        return Dataset.model_validate({**known, **fields})

    def write(self, dataset: Dataset, rows: Sequence[Row], schema: pa.Schema = SCHEMA) -> None:
        """Make the source table hold these rows."""
        write_table(self.s3_url, dataset.source_table, pa.Table.from_pylist(list(rows), schema=schema))

    def insert(self, dataset: Dataset, rows: Sequence[Row]) -> None:
        """Put rows into the target, past every sync."""
        for row in rows:
            self.query(f"INSERT INTO {dataset.target} SELECT {', '.join(map(share.sql_string, row.values()))}")

    def target(self, dataset: Dataset, order: str = "k, name, amount") -> list[Row]:
        """Return the target's rows, with column names in lower case."""
        rows = self.query(f"SELECT * FROM {dataset.target} ORDER BY {order}")
        return [{name.lower(): value for name, value in row.items()} for row in rows]

    def ledger(self, dataset: Dataset) -> list[Row]:
        """Return the dataset's ledger rows, the oldest first."""
        return self.query(
            f"SELECT * FROM {self.names.ledger_table} WHERE dataset = '{dataset.name}' ORDER BY published_at"
        )

    def manifests(self, dataset: Dataset) -> list[Row]:
        """Return the manifests of the dataset's published syncs."""
        return self.query(
            f"SELECT * FROM {self.names.manifest_table} WHERE dataset = '{dataset.name}' ORDER BY run_key"
        )

    def lock(self, dataset: Dataset) -> list[Row]:
        """Return what decides on the target's publishes; before the first copy, there is no table of it."""
        schema, _, table = self.names.lock_table(dataset.target_table).partition(".")
        there = self.query(f"SHOW TABLES LIKE '{table}' IN SCHEMA {schema}")
        return self.query(f"SELECT * FROM {schema}.{table}") if there else []

    def everything(self, dataset: Dataset) -> tuple[list[Row], ...]:
        """Return all that a publish may change; a row of the lock is made by the copy, and says nothing before that."""
        published = [row for row in self.lock(dataset) if row["RUN_KEY"]]
        return self.target(dataset), self.ledger(dataset), self.manifests(dataset), published

    # ---- a sync

    def run(self, dataset: Dataset, **params: Any) -> Run:
        """Begin a DAG run."""
        with self._making_a_dag:  # Airflow notes the DAG that is being made in one place for all threads
            if dataset.name not in self._dags:
                self._dags[dataset.name] = with_templates_compiled_once(self._make_dag(dataset))
        return Run(
            dag=self._dags[dataset.name],
            conf=params,
            triggering_user_name="DOMAIN\\grace",
            asset_states=self._remembered.get(dataset.name, {}),
        )

    def export(self, dataset: Dataset, run: Run) -> None:
        """Export the source as the next attempt of ``export_to_s3``, and hand on what ``wait_for_export`` would."""
        run.export_attempt += 1
        path = self.names.export_path(dataset.name, run.key, run.export_attempt, uuid.uuid4())
        step, context = run.prepared("export_to_s3")
        # It takes long to import, and collecting the tests does without it.
        from emulators.databricks.export import Session, StatementError

        session = Session(
            self.s3_url, self.files, {(self.names.hash_secret_scope, self.names.hash_secret_key): HASH_KEY}
        )
        try:
            parameters = {
                "source_table": dataset.source_table,
                "data_path": f"{path}data/",
                "manifest_path": f"{path}manifest/",
                "run_key": run.key,
                "dataset": dataset.name,
                "mode": "",
                **step.known_parameters(context),
            }
            # To plan takes as long as to export: what a plan changes is tested with datasets that remember.
            plan = session.execute(PLAN_SQL, parameters) if dataset.name in self._remembered else UNPLANNED
            if plan["export_mode"] != "nothing":
                session.execute(export_sql([dataset], self.names), {**parameters, **plan})
        except StatementError as error:
            # The error with which wait_for_export fails.
            page, published = "https://databricks.example/run", parameters["published"]
            raise failed_run(f"Task export: {error}", "FAILED", page, published=published) from error
        finally:
            session.close()
        self.hand_on(run, path, known=step.known, unchanged=plan["export_mode"] == "nothing")

    def put_export(self, dataset: Dataset, run: Run, rows: Sequence[Row]) -> None:
        """Do what :meth:`export` does for rows of :data:`SCHEMA`, without the engine that most of its time goes to."""
        run.export_attempt += 1
        path = self.names.export_path(dataset.name, run.key, run.export_attempt, uuid.uuid4())
        manifest = {
            "run_key": run.key,
            "dataset": dataset.name,
            "source_table": dataset.source_table,
            "row_count": len(rows),
            "file_count": min(1, len(rows)),
            "column_types": proofs_of(rows),
            "exported_at": datetime.now(UTC),
        }
        for place, table in (
            ("data", pa.Table.from_pylist(list(rows), schema=SCHEMA)),
            ("manifest", pa.Table.from_pylist([manifest], schema=MANIFEST_SCHEMA)),
        ):
            file = pa.BufferOutputStream()
            pq.write_table(table, file)
            self.files.pipe_file(f"{path}{place}/part-00000.snappy.parquet", file.getvalue().to_pybytes())
        self.hand_on(run, path)

    def hand_on(self, run: Run, path: str, *, known: Row | None = None, unchanged: bool = False) -> None:
        """Hand on an export's path, and whether anything was new, as ``export_to_s3`` and ``wait_for_export`` do."""
        run_id = 70_000 + run.export_attempt
        run.states.update(dict.fromkeys(("export_to_s3", "wait_for_export"), "success"))
        of_attempt = {"run_id": run_id, "clear_number": run.clear_number}
        run.xcoms["export_to_s3", "export"] = {**of_attempt, **(known or {"published": None})}
        run.xcoms["wait_for_export", "return_value"] = {
            "run_id": run_id,
            "run_page_url": "https://databricks.example/run",
            "export_path": path,
            "unchanged": unchanged,
        }

    def step(
        self,
        run: Run,
        task_id: str,
        fault: Fault | None = None,
        before: Callable[[dict[str, Any]], None] | None = None,
    ) -> Any:
        """
        Try a task once, as Airflow does: a copy of it, its fields rendered, then executed.

        :param fault: what goes wrong on the way
        :param before: called before each HTTP call
        :return: what the task returns, which is its XCom too; None if nothing was new to copy
        """
        with self.wire.faulty(fault, before):
            try:
                return run.execute(*run.prepared(task_id))
            except AirflowSkipException:
                if task_id != "copy_into_staging":
                    raise
                return None

    def sync(self, dataset: Dataset, run: Run | None = None, **params: Any) -> Run:
        """Do a whole sync where nothing goes wrong."""
        run = run or self.run(dataset, **params)
        if run.params["reload_run_key"] is None:
            self.export(dataset, run)
        self.steps(run)
        self.step(run, "finish_sync")
        return run

    def steps(self, run: Run) -> None:
        """Load, check and publish what was exported; of a sync without anything new, as Airflow does it."""
        for task_id in STEPS:
            if task_id == "check_staging" and run.states["copy_into_staging"] == "skipped":
                run.states[task_id] = "skipped"
                continue
            self.step(run, task_id)

    def staged(self, dataset: Dataset, **params: Any) -> Run:
        """Do a sync up to its publish."""
        run = self.run(dataset, **params)
        self.export(dataset, run)
        for task_id in STEPS[:2]:
            self.step(run, task_id)
        return run


class Reader:
    """
    Reads with a connection of its own, again and again, from another thread.

    :param share: the emulators
    :param sql: a query with one row of whole numbers
    """

    def __init__(self, share: Share, sql: str) -> None:
        self.seen: list[tuple[int | None, ...]] = []
        self._sql = sql
        self._url = f"{share.snowflake_url}/api/v2/statements"
        self._hook = share._hook
        self._stop = threading.Event()
        self._looked = threading.Condition()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Reader:
        self._thread.start()
        self.look()
        return self

    def __exit__(self, *_: object) -> None:
        self.look()
        self._stop.set()
        self._thread.join(30)
        if self._error is not None:
            raise self._error

    def look(self) -> None:
        """Return after at least one look that began later than now."""
        with self._looked:
            enough = len(self.seen) + 2
            assert self._looked.wait_for(lambda: len(self.seen) >= enough or self._error, 30)

    def _read(self) -> None:
        body = {
            "statement": self._sql,
            "database": SHARE.database.upper(),
            "schema": SHARE.target_schema.upper(),
            "warehouse": SHARE.warehouse.upper(),
            "role": SHARE.loader_role.upper(),
        }
        try:
            with httpx.Client(headers=self._hook.get_headers(), timeout=30) as client:
                while not self._stop.is_set():
                    answer = client.post(self._url, json=body)
                    assert answer.is_success, answer.text
                    [row] = answer.json()["data"]
                    with self._looked:
                        self.seen.append(tuple(None if value is None else int(value) for value in row))
                        self._looked.notify_all()
        except BaseException as error:
            with self._looked:
                self._error = error
                self._looked.notify_all()
