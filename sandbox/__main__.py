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

from sandbox.airflow_client import AirflowClient, AirflowError
from sandbox.settings import PREFERRED_PORTS, PROJECT, Settings, SettingsError
from sandbox.stack import STOPPED_BY_ANOTHER, Endpoints, Stack, StackError

_SYNC_SECONDS = 900
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
        "status": "what is running",
        "env": "print export lines for the running stack",
        "doctor": "check the running stack, or the deployment whose connections are in the environment",
    }.items():
        commands.add_parser(name, help=text)
    sync = commands.add_parser("sync", help="sync a dataset on the running stack")
    sync.add_argument("dataset")
    commands.add_parser("set-up", help="make the Airflow of the compose file ready, and sync once")
    serve = commands.add_parser("serve", help="be the process of the stand-ins")
    serve.add_argument("ports", type=json.loads, nargs="?")
    arguments = parser.parse_args()
    # The same orderly end for `kill` as for Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        stack = Stack(Settings.from_environment())
        given = dict(os.environ)
        # Importing the package imports Airflow, which makes its home folder where it is imported.
        os.environ["AIRFLOW_HOME"] = str(stack.airflow_home)
        if arguments.command == "demo":
            return demo(stack)
        if arguments.command == "up":
            return up(stack)
        if arguments.command == "down":
            return down(stack)
        if arguments.command == "status":
            return status(stack)
        if arguments.command == "env":
            for name, value in stack.endpoints().as_environment().items():
                print(f"export {name}={shlex.quote(value)}")
            return 0
        if arguments.command == "doctor":
            return stack.check(given)
        if arguments.command == "serve":
            stack.serve(arguments.ports or {**PREFERRED_PORTS, **stack.options.ports})
            return 0
        if arguments.command == "set-up":
            return set_up_elsewhere()
        return show_sync(stack, arguments.dataset)
    except (StackError, SettingsError, AirflowError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        followed = arguments.command == "sync"
        print("The sync goes on; make status shows its state." if followed else "Stopped.", file=sys.stderr)
        return 130


def demo(stack: Stack) -> int:
    """Show one sync from the REST call to the rows in Snowflake, and stop what was started for it."""
    started = not stack.processes()
    try:
        if started:
            stack.start(_say, "make demo")
        return show_sync(stack, "shared_forecasts")
    except Exception as error:
        if started and stack.is_stopped_by_another():
            raise StackError(STOPPED_BY_ANOTHER) from error
        raise
    finally:
        # After somebody stopped it, the stack of this folder may be another one, which others need.
        if started and not stack.is_stopped_by_another():
            stack.stop()


def down(stack: Stack) -> int:
    """Stop the stack, and say what ends with it."""
    if starter := stack.starter():
        _say(f"Ending {starter}, which needs this stack")
    for run in stack.unfinished_runs():
        _say(f"Ending a run of {run}")
    print(f"Stopped {stack.stop()} processes.")
    return 0


def up(stack: Stack) -> int:
    """Start a stack."""
    endpoints = stack.start(_say)
    print(f"\nAirflow:   {endpoints.airflow_url}")
    print(f"User:      {endpoints.airflow_user}")
    print(f"Password:  {endpoints.airflow_password}")
    print("\nmake sync DATASET=shared_forecasts   starts a sync, make env prints the addresses, make down stops it all")
    return 0


def set_up_elsewhere() -> int:
    """
    Make an Airflow ready that others started, and show one sync on it.

    The environment says where it is, in the variables that ``make env`` prints.
    """
    endpoints = Endpoints(
        **{
            field.name: os.environ.get(field.name.upper()) or os.environ.get(f"SANDBOX_{field.name.upper()}", "")
            for field in fields(Endpoints)
        }
    )
    client = AirflowClient(endpoints.airflow_url, endpoints.airflow_user, endpoints.airflow_password)
    try:
        deadline = time.monotonic() + _DAG_SECONDS
        while client.call("GET", "/dags/set_up_snowflake").is_error:
            if time.monotonic() > deadline:
                raise AirflowError(f"{client.url} has no DAG set_up_snowflake after {_DAG_SECONDS} seconds")
            time.sleep(1)
        _say("Setting up: the export job's id, the Snowflake tables")
        Stack.set_up(endpoints)
        return _show_sync(client, endpoints, "shared_forecasts")
    finally:
        client.close()


def status(stack: Stack) -> int:
    """Print what is running; exit code 0 when a sync can be started."""
    processes = stack.processes()
    if not processes:
        print("No stack is running.")
        return 1
    client = stack.client()
    parts = stack.health()
    try:
        print(f"Airflow at {client.url}, {len(processes)} processes, state in {stack.state}")
        for name, state in parts.items():
            print(f"  {name:15} {state}")
        for dag in client.ask("GET", "/dags", params={"tags": ["sync"]})["dags"]:
            runs = client.ask("GET", f"/dags/{dag['dag_id']}/dagRuns", params={"order_by": "-run_after", "limit": 1})
            last = runs["dag_runs"][0] if runs["dag_runs"] else None
            print(f"  {dag['dag_id']:30} last run: {last['state'] + ' ' + last['run_after'] if last else 'none'}")
    finally:
        client.close()
    if any(state != "healthy" for state in parts.values()):
        print("No sync can run like this. Start everything again: make down, then make up.")
        return 1
    return 0


def show_sync(stack: Stack, dataset: str) -> int:
    """Sync a dataset through the REST API and show each step; exit code 0 only on success."""
    endpoints = stack.endpoints()
    # The connector takes seconds to import; the sync goes on meanwhile.
    importing = threading.Thread(target=lambda: __import__("snowflake.connector"), daemon=True)
    importing.start()
    client = stack.client()
    try:
        return _show_sync(client, endpoints, dataset)
    finally:
        client.close()


def _show_sync(client: AirflowClient, endpoints: Endpoints, dataset: str) -> int:
    dag_id = f"sync_{dataset}"
    began = time.monotonic()
    run_id = client.trigger(dag_id, conf={"requested_by": "sandbox"})
    print(f"\nSync of {dataset}: POST /api/v2/dags/{dag_id}/dagRuns -> {run_id}\n")

    def show(task: dict[str, Any]) -> None:
        if task["state"] in _SHOWN_STATES:
            print(
                f"  {time.monotonic() - began:6.1f} s  {task['task_id']:18} {_SHOWN_STATES[task['state']]}", flush=True
            )

    run = client.wait(dag_id, run_id, _SYNC_SECONDS, show)
    seconds = round(time.monotonic() - began, 1)
    ledger = client.xcom(dag_id, run_id, "publish") if run["state"] == "success" else None
    if ledger:
        _show_summary(client, endpoints, run, ledger)
    else:
        print("\nThe sync failed. The target is as it was.")
        for step, reason in client.failures(dag_id, run_id).items():
            print(f"  {step}: {reason}")
        print(f"  {endpoints.airflow_url}/dags/{dag_id}/runs/{run_id}")
    ledger = ledger or {}
    print(
        json.dumps(
            {
                "dataset": dataset,
                "state": run["state"],
                "run_key": ledger.get("run_key"),
                "dag_run_id": run_id,
                "rows_exported": ledger.get("rows_exported"),
                "rows_loaded": ledger.get("rows_loaded"),
                "rows_in_target": ledger.get("rows_in_target"),
                "seconds": seconds,
            }
        ),
        flush=True,
    )
    return 0 if run["state"] == "success" else 1


def _show_summary(client: AirflowClient, endpoints: Endpoints, run: dict[str, Any], ledger: dict[str, Any]) -> None:
    print(
        f"\nSync Complete: {ledger['rows_exported']:,} rows exported, {ledger['rows_loaded']:,} loaded, "
        f"{ledger['rows_in_target']:,} in {ledger['target_table']}\n"
    )
    print("Seconds per step")
    for task in sorted(client.tasks(run["dag_id"], run["dag_run_id"]).values(), key=lambda t: t["start_date"] or ""):
        print(f"  {task['task_id']:18} {task['duration'] or 0:5.2f}")
    if endpoints.snowflake_private_key_file:
        table = ledger["target_table"]
        print(f"\nFive rows of {table}")
        for row in endpoints.query(f"SELECT * FROM {table} ORDER BY 1, 2 LIMIT 5"):
            print("  " + "  ".join(str(value) for value in row))
    print("\nThe ledger's row")
    for name, value in ledger.items():
        print(f"  {name:18} {value}")
    print()


def _say(line: str) -> None:
    print(f"- {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
