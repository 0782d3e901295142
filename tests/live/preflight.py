"""
Before anything is tested: each right that the suite takes, by a look or by a trial.

Looks come first and change nothing. Trials make what the tests will make, each thing once, and remove it; they are made
only when every look came out well, so that a missing right is named before anything is made. The table of rights in
docs/live-tests.md is made from the checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from data_share.doctor import databricks, snowflake
from data_share.doctor.deployment import Answer, Deployment, State, error_text, ok, verdict, wrong
from data_share.doctor.run import Finding
from data_share.share import Share
from data_share.snowflake.sql_api import DataShareSnowflakeHook
from tests.live.accounts import (
    ACCOUNT_CONN,
    COPY_OPTIONS,
    DATABRICKS_CONN,
    SNOWFLAKE_CONN,
    LiveSettings,
    Scratch,
    confined,
    signed_in,
)

STAGE = "PREFLIGHT_STAGE"
TABLE = "PREFLIGHT_TABLE"
WRITTEN_BY_DATABRICKS = "preflight_databricks"
WRITTEN_HERE = "preflight_here/part-1.parquet"


class Place(Deployment):
    """What the checks look at: the two connections, and a scratch place of their own."""

    def __init__(self, scratch: Scratch, versions: dict[str, str]) -> None:
        super().__init__(Share(databricks_conn_id=DATABRICKS_CONN, snowflake_conn_id=ACCOUNT_CONN))
        self.scratch = scratch
        self.versions = versions


@dataclass(frozen=True)
class Check:
    """
    One check.

    :param right: what is needed; the name of the check
    :param look: what it does to find out
    :param is_ground: whether later looks of its side find nothing without it
    """

    side: str
    right: str
    look: str
    answer: Callable[[Place], Answer]
    is_ground: bool = False


# ---- looks


def _all_of(*answers: Callable[[Any], Answer]) -> Callable[[Place], Answer]:
    """Make a check of several, of which the first one that is wrong is the answer."""

    def answer(place: Place) -> Answer:
        for one in answers:
            found = one(place)
            if found.state is State.WRONG:
                return found
        return found

    return answer


def _snowflake_connection(_: Place) -> Answer:
    return snowflake.snowflake_connection(Deployment(Share(snowflake_conn_id=SNOWFLAKE_CONN)))


def _database(place: Place) -> Answer:
    [row] = place.rows("SELECT CURRENT_DATABASE() AS name, CURRENT_VERSION() AS version")
    place.versions["Snowflake"] = str(row["VERSION"])
    if row["NAME"] is None:
        return wrong(
            "The database of the connection does not exist, or the role may not use it. The API minds its case."
        )
    return ok(f"{row['NAME']}.")


def _job(place: Place) -> Answer:
    job = place.scratch.databricks("GET", "jobs/get", job_id=place.scratch.settings.job_id)["settings"]
    if not any("file" in task.get("sql_task", {}) for task in job.get("tasks", [])):
        return wrong("The job has no SQL task with a file. Is it the export job of the bundle?")
    return ok(f"{job.get('name')}.")


def _warehouse_type(place: Place) -> Answer:
    told = place.scratch.warehouse()
    kind = str(told.get("warehouse_type"))
    form = "serverless" if told.get("enable_serverless_compute") else kind.lower()
    release = (told.get("channel") or {}).get("dbsql_version") or "version not told"
    place.versions["Databricks SQL warehouse"] = f"{form}, {(told.get('channel') or {}).get('name')}, {release}"
    if kind != "PRO" and form != "serverless":
        return wrong(f"The warehouse is of the type {kind}: a SQL task runs on a pro or a serverless one only.")
    return ok(f"{form}.")


def _statement(make: Callable[[Scratch], str], place: Place) -> Answer:
    rows = place.scratch.sql(make(place.scratch))
    return ok(f"{len(rows)} row(s).")


def _file(place: Place) -> Answer:
    return ok(f"{', '.join(status['object_type'] for status in place.scratch.file_statuses())}.")


def _list(place: Place) -> Answer:
    bucket, _, prefix = place.scratch.settings.s3_prefix.removeprefix("s3://").partition("/")
    # Of a prefix where nothing lies yet, it is an empty list.
    listed = place.scratch.files().call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
    return ok(f"{listed.get('KeyCount', 0)} of its files was asked for.")


LOOKS = (
    Check(
        "Snowflake",
        "a user that signs in, with a network policy where it uses a token",
        "the connection, and a SELECT",
        _all_of(
            _snowflake_connection,
            snowflake.snowflake_key,
            snowflake.snowflake_reachable,
            snowflake.snowflake_sign_in,
            snowflake.snowflake_clock,
        ),
        is_ground=True,
    ),
    Check(
        "Snowflake",
        "the role, granted to the user",
        "CURRENT_ROLE()",
        snowflake.snowflake_role,
        is_ground=True,
    ),
    Check(
        "Snowflake",
        "USAGE on the database",
        "CURRENT_DATABASE()",
        _database,
        is_ground=True,
    ),
    Check("Snowflake", "USAGE on the warehouse", "a query", snowflake.snowflake_warehouse),
    Check(
        "Snowflake",
        "USAGE on the storage integration, which allows the prefix",
        "DESCRIBE INTEGRATION",
        snowflake.storage_integration,
    ),
    Check(
        "Databricks",
        "a user or service principal that signs in",
        "the connection, and jobs/list",
        _all_of(
            databricks.databricks_connection,
            databricks.databricks_reachable,
            databricks.databricks_sign_in,
            databricks.databricks_clock,
        ),
        is_ground=True,
    ),
    Check(
        "Databricks",
        "CAN VIEW on the export job",
        "jobs/get",
        _job,
        is_ground=True,
    ),
    Check("Databricks", "a SQL warehouse of the job that is pro or serverless", "warehouses/get", _warehouse_type),
    Check(
        "Databricks",
        "CAN USE on the job's SQL warehouse, with the entitlement Databricks SQL access",
        "SELECT 1",
        partial(_statement, lambda scratch: "SELECT 1 AS n"),
        is_ground=True,
    ),
    Check(
        "Databricks",
        "CAN READ on the bundle's folder: the copy of the job runs as you, and reads its SQL file there",
        "workspace/get-status",
        _file,
    ),
    Check(
        "Databricks",
        "USE CATALOG, USE SCHEMA and SELECT for the source table of the dataset",
        "SELECT",
        partial(_statement, lambda scratch: f"SELECT * FROM {scratch.settings.dataset.source_table} LIMIT 0"),
    ),
    Check("AWS", "ListBucket on the prefix", "a list", _list),
)


# ---- trials


def _schema(place: Place) -> Answer:
    place.scratch.make_schema()
    return ok("made.")


def _create_job(place: Place) -> Answer:
    place.scratch.make_job()
    return ok("made.")


def _snowflake_reads(place: Place) -> Answer:
    # In the scratch schema, as there is one now.
    hook = DataShareSnowflakeHook(SNOWFLAKE_CONN, statement_timeout=120)
    hook.run_statement(
        f"CREATE STAGE {STAGE} URL = '{place.scratch.url}' "
        f"STORAGE_INTEGRATION = {place.scratch.share.storage_integration} FILE_FORMAT = (TYPE = PARQUET)"
    )
    problems = []
    hook.run_statement(f"CREATE TABLE {TABLE} (n NUMBER(38, 0))")
    for side, folder in (("Databricks", WRITTEN_BY_DATABRICKS), ("this machine", WRITTEN_HERE.partition("/")[0])):
        listed = hook.run_statement(f"LIST @{STAGE}/{folder}/").rows
        hook.run_statement(f"COPY INTO {TABLE} FROM @{STAGE}/{folder}/ PATTERN = '.*[.]parquet' {COPY_OPTIONS}")
        if not listed:
            problems.append(f"Snowflake does not see the file that {side} has written.")
    rows = [row["N"] for row in hook.run_statement(f"SELECT n FROM {TABLE} ORDER BY n").rows]
    if rows != [1, 2] and not problems:
        problems.append(f"Snowflake reads {rows} from the files in place of [1, 2].")
    return verdict(problems, "the files of both sides are listed and read.")


def _source(place: Place) -> Answer:
    table = place.scratch.make_source(pa.table({"n": [1]}))
    return verdict([] if len(place.scratch.sql(f"SELECT * FROM {table}")) == 1 else ["It has no row."], f"{table}.")


def _put(place: Place) -> Answer:
    place.scratch.put(WRITTEN_HERE, pa.table({"n": [2]}))
    return ok("written.")


def _get(place: Place) -> Answer:
    path = f"{place.scratch.url}{WRITTEN_HERE}".removeprefix("s3://")
    return verdict([] if place.scratch.files().cat_file(path) else ["It is empty."], "read.")


def _delete(place: Place) -> Answer:
    place.scratch.remove_file(WRITTEN_HERE)
    return ok("deleted.")


TRIALS = (
    Check("AWS", "PutObject below the prefix", "a file is written", _put),
    Check("AWS", "GetObject below the prefix", "it is read", _get),
    Check(
        "Databricks",
        "WRITE FILES on the external location of the prefix",
        "INSERT OVERWRITE DIRECTORY",
        partial(
            _statement,
            lambda scratch: (
                f"INSERT OVERWRITE DIRECTORY '{scratch.url}{WRITTEN_BY_DATABRICKS}/' USING PARQUET SELECT 1 AS n"
            ),
        ),
    ),
    Check(
        "Databricks",
        "READ FILES on the external location of the prefix",
        "SELECT",
        partial(_statement, lambda scratch: f"SELECT * FROM parquet.`{scratch.url}{WRITTEN_BY_DATABRICKS}/`"),
    ),
    Check(
        "Databricks",
        "USE CATALOG, USE SCHEMA and CREATE TABLE for the schema of scratch source tables",
        "CREATE TABLE ... AS",
        _source,
    ),
    Check(
        "Databricks", "the entitlement Workspace access, which is the one to create jobs", "jobs/create", _create_job
    ),
    Check("Snowflake", "CREATE SCHEMA on the database", "CREATE SCHEMA", _schema),
    Check(
        "Snowflake",
        "an AWS role of the integration that lists and reads the prefix",
        "LIST, COPY INTO",
        _snowflake_reads,
    ),
    Check("AWS", "DeleteObject below the prefix", "the file is deleted", _delete),
)
CHECKS = (*LOOKS, *TRIALS)


def preflight(settings: LiveSettings, versions: dict[str, str]) -> Iterator[Finding]:
    """
    Make the checks, and remove what they made.

    :param versions: what the services say of themselves is noted here
    :return: a finding for each check, those not made among them
    """
    scratch = Scratch(settings)
    with signed_in(scratch):
        place = Place(scratch, versions)
        missing: list[str] = []
        without: dict[str, str] = {}
        for check in LOOKS:
            if check.side in without:
                yield _not_made(check, [without[check.side]])
                continue
            found = _finding(check, place)
            if found.state is State.WRONG:
                missing.append(check.right)
                without |= {check.side: check.right} if check.is_ground else {}
            yield found
        trials = []
        try:
            for check in TRIALS:
                if missing:
                    trials.append(_not_made(check, missing))
                    continue
                with confined(scratch):
                    trials.append(_finding(check, place))
                missing += [finding.name for finding in trials[-1:] if finding.state is State.WRONG]
        finally:
            if any(finding.state is not State.UNKNOWN for finding in trials):
                trials.append(
                    _finding(Check("", "what the trials made is removed", "", partial(_remove, scratch)), place)
                )
        yield from trials


def _not_made(check: Check, missing: list[str]) -> Finding:
    reason = f"because this is missing: {'; '.join(missing)}."
    return Finding(check.side, check.right, check.look, State.UNKNOWN, reason)


def _remove(scratch: Scratch, _: Place) -> Answer:
    with confined(scratch):
        scratch.remove()
    return ok("removed.")


def _finding(check: Check, place: Place) -> Finding:
    try:
        answer = check.answer(place)
    except Exception as error:
        notes = " ".join(getattr(error, "__notes__", []))
        inner = "; ".join(map(error_text, getattr(error, "exceptions", [])))
        answer = wrong(f"{error_text(error)}. {inner} {notes}".strip())
    return Finding(check.side, check.right, check.look, answer.state, place.without_secrets(answer.text))


def as_table() -> str:
    """Return the rights as the table of docs/live-tests.md."""
    rows = [f"| {check.side} | {check.right} | {check.look} |" for check in CHECKS]
    return "\n".join(["| Where | Right | How the preflight finds out |", "| --- | --- | --- |", *rows])
