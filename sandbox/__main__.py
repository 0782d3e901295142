"""The commands of the sandbox; ``make`` lists them."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import threading
import time
from dataclasses import fields
from typing import Any

from examples.backend.airflow_client import Sync, SyncError
from examples.backend.view import CHANGES, as_of, changed_rows, cost_of, export_of, rows_of
from sandbox.airflow import Airflow, task_name
from sandbox.settings import PREFERRED_PORTS, PROJECT, Settings, SettingsError
from sandbox.stack import STOPPED_BY_ANOTHER, Endpoints, Stack, StackError

_SYNC_SECONDS = 900
_SET_UP_SECONDS = 900
_DAG_SECONDS = 120
_SHOWN_STATES = {
    "queued": "queued",
    "running": "running",
    "deferred": "waiting for Databricks",
    "success": "done",
    "failed": "FAILED",
    "up_for_retry": "failed, will be tried again",
    "upstream_failed": "not run: an earlier step failed",
    "skipped": "skipped",
}


def main() -> int:
    """Run one command and return its exit code."""
    sys.path.insert(0, str(PROJECT / "plugins"))
    parser = argparse.ArgumentParser(prog="python -m sandbox")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in {
        "demo": "one whole sync, on a stack of its own if none is running",
        "up": "start a stack and leave it running",
        "down": "stop the stack",
        "env": "print export lines for the running stack",
        "set-up": "run the DAG set_up_snowflake on the running stack",
        "first-sync": "make the Airflow of the compose file ready, and sync once",
    }.items():
        commands.add_parser(name, help=text)
    for name, text in {
        "status": "what is running",
        "doctor": "check the running stack, or the deployment whose connections are in the environment",
    }.items():
        with_json = commands.add_parser(name, help=text)
        with_json.add_argument("--json", action="store_true", help="print one JSON object, for programs")
        if name == "doctor":
            with_json.add_argument(
                "--sources", action="store_true", help="also compare each source with its target, by the export job"
            )
    plan = commands.add_parser("plan", help="say what the next sync of a dataset would do, and what is in its way")
    plan.add_argument("dataset")
    plan.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    sync = commands.add_parser("sync", help="sync a dataset on the running stack")
    sync.add_argument("dataset")
    sync.add_argument("--dry-run", action="store_true", help="do every step except publish")
    sync.add_argument("--full-refresh", action="store_true", help="replace everything in the target")
    sync.add_argument("--verify", action="store_true", help="compare the target with what was published last")
    serve = commands.add_parser("serve", help="run the emulators in this process")
    serve.add_argument("ports", type=json.loads, nargs="?")
    arguments = parser.parse_args()
    # End in the same orderly way after `kill` as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        stack = Stack(Settings.from_environment())
        given = dict(os.environ)
        # Set these before data_share imports Airflow. Otherwise the import would create a home folder elsewhere, and
        # Airflow's log lines would mix with the command's output.
        os.environ |= {"AIRFLOW_HOME": str(stack.airflow_home), "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL"}
        if arguments.command == "demo":
            return demo(stack)
        if arguments.command == "up":
            return up(stack)
        if arguments.command == "down":
            return down(stack)
        if arguments.command == "status":
            return status(stack, arguments.json)
        if arguments.command == "env":
            for name, value in stack.endpoints().as_environment().items():
                print(f"export {name}={shlex.quote(value)}")
            return 0
        if arguments.command == "doctor":
            options = [f"--{name}" for name in ("json", "sources") if getattr(arguments, name)]
            return stack.check("data_share.doctor", given, *options)
        if arguments.command == "plan":
            return stack.check("data_share.plan", given, arguments.dataset, *(["--json"] if arguments.json else []))
        if arguments.command == "serve":
            stack.serve(arguments.ports or {**PREFERRED_PORTS, **stack.options.ports})
            return 0
        if arguments.command == "set-up":
            return set_up(stack)
        if arguments.command == "first-sync":
            return first_sync()
        conf = {name: getattr(arguments, name) for name in ("dry_run", "full_refresh", "verify")}
        return show_sync(stack, arguments.dataset, {key: True for key, is_on in conf.items() if is_on})
    except (StackError, SettingsError, SyncError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        goes_on = {
            "sync": "The sync goes on; make status shows its state.",
            "set-up": "The DAG set_up_snowflake goes on; Airflow shows its state.",
        }
        print(goes_on.get(arguments.command, "Stopped."), file=sys.stderr)
        return 130


def demo(stack: Stack) -> int:
    """Show one sync from the REST call to the rows in Snowflake, on a stack that is stopped afterwards if it is new."""
    started = not stack.processes()
    try:
        if started:
            stack.start(_print_step, "make demo")
        return show_sync(stack, "shared_forecasts")
    except Exception as error:
        if started and stack.is_stopped_by_another():
            raise StackError(STOPPED_BY_ANOTHER) from error
        raise
    finally:
        # If somebody stopped our stack, another one may run in this folder by now: leave it alone.
        if started and not stack.is_stopped_by_another():
            stack.stop()


def down(stack: Stack) -> int:
    """Stop the stack, and print which command and which runs end with it."""
    if starter := stack.starter():
        _print_step(f"Ending {starter}, which needs this stack")
    for run in stack.unfinished_runs():
        _print_step(f"Ending a run of {run}")
    print(f"Stopped {stack.stop()} processes.")
    return 0


def up(stack: Stack) -> int:
    """Start a stack."""
    endpoints = stack.start(_print_step)
    print(f"\nAirflow:   {endpoints.airflow_url}")
    print(f"User:      {endpoints.airflow_user}")
    print(f"Password:  {endpoints.airflow_password}")
    print("\nmake sync DATASET=shared_forecasts   starts a sync, make env prints the addresses, make down stops it all")
    return 0


def set_up(stack: Stack) -> int:
    """Run the DAG ``set_up_snowflake`` and show each step; exit code 0 only on success."""
    airflow = stack.airflow()
    dag_id = "set_up_snowflake"
    try:
        run_id = airflow.trigger(dag_id)
        print(f"\nSet-up: POST /api/v2/dags/{dag_id}/dagRuns -> {run_id}\n")
        began = time.monotonic()

        def show(task: dict[str, Any]) -> None:
            # Do not show a mapped task before it has ended: its readable name is only known then.
            if task["map_index"] < 0 or task["state"] not in ("queued", "running"):
                _show_state(began, task_name(task), task["state"])

        if airflow.wait(dag_id, run_id, _SET_UP_SECONDS, show) == "success":
            print("\nSet-up Complete: what was missing is created, what was there is as it was.")
            return 0
        print("\nThe set-up failed. What it has created stays. Run it again to create the rest.")
        for step, reason in airflow.failures(dag_id, run_id).items():
            print(f"  {step}: {reason}")
        return 1
    finally:
        airflow.close()


def first_sync() -> int:
    """
    Set up an Airflow that something else started, for example the compose file, and show one sync on it.

    The environment contains its address, in the variables that ``make env`` prints.
    """
    endpoints = Endpoints(
        **{
            field.name: os.environ.get(field.name.upper()) or os.environ.get(f"SANDBOX_{field.name.upper()}", "")
            for field in fields(Endpoints)
        }
    )
    airflow = endpoints.airflow()
    try:
        deadline = time.monotonic() + _DAG_SECONDS
        while airflow.ask("GET", "/dags/set_up_snowflake") is None:
            if time.monotonic() > deadline:
                raise SyncError(f"{airflow.url} has no DAG set_up_snowflake after {_DAG_SECONDS} seconds")
            time.sleep(1)
        _print_step("Setting up: the export job's id, the Snowflake tables")
        Stack.set_up(endpoints)
        return _show_sync(airflow, endpoints, "shared_forecasts", {})
    finally:
        airflow.close()


def status(stack: Stack, as_json: bool) -> int:
    """Print what is running; exit code 0 when a sync can be started."""
    found = _status_of(stack)
    if as_json:
        print(json.dumps(found))
    elif found["state"] == "stopped":
        print("No stack is running.")
    elif found["state"] == "starting":
        print("A stack is starting. Wait for it, or stop it: make down")
    else:
        print(f"Airflow at {found['airflow_url']}, {found['processes']} processes, state in {found['state_folder']}")
        for name, state in found["parts"].items():
            print(f"  {name:15} {state}")
        for sync in found["datasets"]:
            last = sync["last_run"]
            print(f"  {sync['dag_id']:30} last run: {last['state'] + ' ' + last['run_after'] if last else 'none'}")
        if found["state"] == "broken":
            print("No sync can run like this. Start everything again: make down, then make up.")
    return 0 if found["state"] == "ready" else 1


def _status_of(stack: Stack) -> dict[str, Any]:
    """Return what is running. The keys are public: sandbox/README.md documents them."""
    found: dict[str, Any] = {
        "state": "stopped",
        "airflow_url": None,
        "state_folder": str(stack.state),
        "processes": len(stack.processes()),
        "parts": {},
        "datasets": [],
    }
    if not found["processes"]:
        return found
    if not stack.is_started():
        return found | {"state": "starting"}
    parts = stack.health()
    is_well = all(state == "healthy" for state in parts.values())
    airflow = stack.airflow()
    found |= {"state": "ready" if is_well else "broken", "airflow_url": airflow.url, "parts": parts}
    try:
        # Do not ask an Airflow that cannot answer: each attempt waits for its timeout.
        can_answer = "api_server" not in parts and parts["metadatabase"] == "healthy"
        syncs = airflow.syncs() if can_answer else []
        last = airflow.last_runs(dag["dag_id"] for dag in syncs)
    finally:
        airflow.close()
    for dag in syncs:
        run = last.get(dag["dag_id"])
        found["datasets"].append(
            {
                "dataset": dag["dag_id"].removeprefix("sync_"),
                "dag_id": dag["dag_id"],
                "is_paused": dag["is_paused"],
                "last_run": run and {key: run[key] for key in ("dag_run_id", "state", "run_after")},
            }
        )
    return found


def show_sync(stack: Stack, dataset: str, conf: dict[str, bool] | None = None) -> int:
    """Sync a dataset through the REST API and show each step; exit code 0 only on success."""
    endpoints = stack.endpoints()
    # Import the connector while the sync runs: the import takes seconds.
    importing = threading.Thread(target=lambda: __import__("snowflake.connector"), daemon=True)
    importing.start()
    airflow = stack.airflow()
    try:
        return _show_sync(airflow, endpoints, dataset, conf or {})
    finally:
        airflow.close()


def _show_sync(airflow: Airflow, endpoints: Endpoints, dataset: str, conf: dict[str, bool]) -> int:
    began = time.monotonic()
    sync = airflow.start(dataset, {"requested_by": "sandbox", **conf})
    print(f"\nSync of {dataset}: POST /api/v2/dags/sync_{dataset}/dagRuns -> {sync.run_id}\n")
    shown: dict[str, str | None] = {}
    for sync in airflow.follow(sync, _SYNC_SECONDS):  # noqa: B020 (each item is a newer state of the same sync)
        for step in sync.steps:
            if step.state != shown.get(step.name):
                shown[step.name] = step.state
                _show_state(began, step.name, step.state)
    seconds = round(time.monotonic() - began, 1)
    row = sync.result or {}
    if sync.complete and row.get("unchanged"):
        print(
            f"\nUp to date. {as_of(row)}; {row['rows_in_target']:,} rows in {row['target_table']}.\n"
            f"To load it all the same: make sync DATASET={dataset} FULL_REFRESH=1\n"
        )
    elif sync.complete and row.get("verified"):
        names = ", ".join(row["not_compared"])
        print(
            f"\nVerified: {row['rows']:,} rows of {row['target_table']} are those of {row['source_table']}. "
            f"{as_of(row)}.{f' Not compared: {names}.' if names else ''}\n"
        )
    elif sync.complete and conf.get("dry_run"):
        print(
            f"\nDry run complete: nothing was published. A sync would insert {row['rows_inserted']:,} rows into "
            f"{dataset}, update {row['rows_updated']:,} and delete {row['rows_deleted']:,}.\n"
        )
    elif sync.complete:
        _show_summary(endpoints, sync, row)
    else:
        print("\nThe sync failed. The target is as it was.")
        if sync.failure:
            print(f"  {sync.failure.sentence} {sync.failure.what_to_do}")
        print(f"  {sync.airflow_url}")
    counts = ("rows_exported", "rows_loaded", "rows_in_target", "rows_inserted", "rows_updated", "rows_deleted")
    print(
        json.dumps(
            {
                "dataset": dataset,
                "state": sync.state,
                "unchanged": row.get("unchanged", False),
                "dry_run": conf.get("dry_run", False),
                "verified": row.get("verified", False),
                "full_refresh": conf.get("full_refresh", False),
                "run_key": row.get("run_key"),
                "dag_run_id": sync.run_id,
                **{name: row.get(name) for name in counts},
                "source_version": row.get("source_version"),
                **{name: row.get(name) for name in ("export_mode", "export_reason", "bytes_exported")},
                "statement_seconds": row.get("statement_seconds"),
                "seconds": seconds,
            }
        ),
        flush=True,
    )
    return 0 if sync.complete else 1


def _show_state(began: float, name: str, state: str | None) -> None:
    if shown := _SHOWN_STATES.get(state or ""):
        print(f"  {time.monotonic() - began:6.1f} s  {name:18} {shown}", flush=True)


def _show_summary(endpoints: Endpoints, sync: Sync, row: dict[str, Any]) -> None:
    if (changed := changed_rows(row)) is None:
        done = f"{row['rows_exported']:,} rows exported, {row['rows_loaded']:,} loaded"
    else:
        parts = ", ".join(f"{row[column]:,} {words}" for column, words in CHANGES[:3])
        done = f"{rows_of(changed)} changed ({parts})"
    print(f"\nSync Complete: {done}, {row['rows_in_target']:,} in {row['target_table']}\n")
    version = as_of(row)
    for sentence in filter(None, (version and f"{version}.", export_of(row), cost_of(row))):
        print(sentence)
    print()
    print("Seconds per step")
    for step in sync.steps:
        if step.started and step.ended:
            print(f"  {step.name:18} {(step.ended - step.started).total_seconds():5.2f}")
    if endpoints.snowflake_private_key_file:
        table = row["target_table"]
        print(f"\nFive rows of {table}")
        for values in endpoints.query(f"SELECT * FROM {table} ORDER BY 1, 2 LIMIT 5"):
            print("  " + "  ".join(str(value) for value in values))
    print("\nThe ledger's row")
    for name, value in row.items():
        print(f"  {name:18} {value}")
    print()


def _print_step(line: str) -> None:
    print(f"- {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
