"""
Measures how many syncs one triggerer process can wait for.

A fresh process runs as many real triggers (`DatabricksRunTrigger`) as there are waiting syncs, in one event loop, as
the triggerer does. A server in another process speaks `runs/get` of the Jobs API; it knows when each run ended, so it
knows how late the trigger asks. Two cases for each number of syncs:

- together: all syncs begin in the same second and last as long as given, which is the densest that triggers can ask
- steady: all have waited for minutes, and each asks every 30 s

The figures are processor time and memory of the triggers' process alone. The event loop's delay, which tells when one
process is no longer enough, also holds what other work on the machine took. Not in the figures: Airflow's own work for
each trigger, and TLS, as the server speaks plain HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
SIZES = (1, 200, 1000)
LOOP_PROBE_SECONDS = 0.05


async def serve(port: int, seconds: float) -> None:
    """Answer `runs/get`: a run lasts so many seconds from the first time that it is asked for."""
    from aiohttp import web

    began: dict[str, float] = {}
    lags: dict[str, float] = {}
    requests = 0

    async def get_run(request: web.Request) -> web.Response:
        nonlocal requests
        requests += 1
        run_id = str((await request.json())["run_id"])
        start = began.setdefault(run_id, time.time())
        lag = time.time() - start - seconds
        state = {"life_cycle_state": "RUNNING", "state_message": "In run"}
        if lag >= 0:
            lags.setdefault(run_id, lag)
            state = {"life_cycle_state": "TERMINATED", "result_state": "SUCCESS", "state_message": ""}
        return web.json_response(
            {
                "run_id": int(run_id),
                "run_page_url": f"http://{HOST}/run/{run_id}",
                "start_time": int(start * 1000),
                "state": state,
                "job_parameters": [{"name": "export_path", "value": "s3://share/x/"}],
            }
        )

    async def figures(_: web.Request) -> web.Response:
        return web.json_response({"requests": requests, "lags": list(lags.values())})

    application = web.Application()
    application.add_routes([web.get("/api/2.1/jobs/runs/get", get_run), web.get("/api/2.2/jobs/runs/get", get_run)])
    application.add_routes([web.get("/figures", figures)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, port, backlog=4096).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


async def follow(case: str, size: int, port: int, seconds: float) -> dict[str, Any]:
    """Run the triggers in this process and return the figures."""
    import aiohttp
    import psutil
    from airflow.sdk.execution_time.xcom import XCom

    from data_share.databricks import follow as run_follower

    async def push(*_: Any, **__: Any) -> None:
        """Take the place of the API server, which is not what is measured."""

    XCom.aset = push
    if case == "steady":
        run_follower._MIN_POLL_SECONDS = run_follower._MAX_POLL_SECONDS

    ended = 0

    async def run(number: int, delay: float) -> None:
        nonlocal ended
        await asyncio.sleep(delay)
        trigger = run_follower.DatabricksRunTrigger("databricks_default", str(number), 3600)
        trigger.task_instance = SimpleNamespace(  # type: ignore[assignment]
            dag_id=f"sync_{number}", run_id=str(number), task_id="wait_for_export"
        )
        async for _ in trigger.run():
            ended += 1

    delays: list[float] = []

    async def probe() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(LOOP_PROBE_SECONDS)
            delays.append(time.perf_counter() - before - LOOP_PROBE_SECONDS)

    async def figures() -> dict[str, Any]:
        async with aiohttp.ClientSession() as session, session.get(f"http://{HOST}:{port}/figures") as response:
            answer: dict[str, Any] = await response.json()
            return answer

    process = psutil.Process()
    # What a first trigger brings in is not counted to the others.
    await follow_one_to_its_end(run_follower, port)
    memory, before = process.memory_info().rss, await figures()
    spread = run_follower._MAX_POLL_SECONDS if case == "steady" else 1.0
    chance = random.Random(size)  # noqa: S311 - not a secret
    tasks = [asyncio.create_task(run(number, chance.uniform(0, spread))) for number in range(size)]
    if case == "steady":
        # Each has asked once and waits for its second time.
        await asyncio.sleep(spread)
        before = await figures()
    watching = asyncio.create_task(probe())
    processor, clock = time.process_time(), time.perf_counter()
    if case == "steady":
        await asyncio.sleep(run_follower._MAX_POLL_SECONDS)
    else:
        await asyncio.gather(*tasks)
    processor, clock = time.process_time() - processor, time.perf_counter() - clock
    most_memory = process.memory_info().rss
    watching.cancel()
    after = await figures()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if case == "together" and ended != size:
        raise RuntimeError(f"{ended} of {size} triggers ended")
    return {
        "requests": after["requests"] - before["requests"],
        "lags": after["lags"],
        "processor": processor,
        "clock": clock,
        "memory": most_memory - memory,
        "delays": delays,
    }


async def follow_one_to_its_end(run_follower: Any, port: int) -> None:
    """Import and cache what the first trigger of a process needs."""
    from airflow.providers.databricks.hooks.databricks import DatabricksHook

    async with DatabricksHook("databricks_default") as hook:
        await hook.a_get_run(10**9)
    if run_follower.DatabricksHook is not DatabricksHook:
        raise RuntimeError(f"The server at {port} was asked by another hook than the triggers'")


def measure(case: str, size: int, seconds: float) -> dict[str, Any]:
    """Start the server and the process of the triggers."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    connection = {"conn_type": "databricks", "host": HOST, "port": port, "schema": "http", "password": "dapi0"}
    # A steady run is still there at the end.
    lasts = seconds if case == "together" else 3600
    with tempfile.TemporaryDirectory(prefix="waiting-syncs-") as home:
        environment = {
            **os.environ,
            "AIRFLOW_HOME": home,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
            "AIRFLOW_CONN_DATABRICKS_DEFAULT": json.dumps(connection),
            "PYTHONPATH": str(PROJECT / "plugins"),
        }
        own = [sys.executable, "-m", "benchmarks.waiting_syncs"]
        server = subprocess.Popen(  # noqa: S603
            [*own, "--serve", str(port), "--seconds", str(lasts)],
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            if server.stdout is None or server.stdout.readline().strip() != "ready":
                raise RuntimeError("the server did not start")
            done = subprocess.run(  # noqa: S603
                [*own, "--follow", case, str(size), str(port), str(lasts)],
                cwd=PROJECT,
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
        finally:
            server.terminate()
            server.wait(timeout=10)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Measure in processes of their own and print a table."""
    parser = argparse.ArgumentParser(description="Measure how many syncs one triggerer process can wait for.")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of waiting syncs")
    parser.add_argument("--seconds", type=float, default=20, help="how long an export lasts, when all begin together")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--follow", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve(arguments.serve, arguments.seconds))
    elif arguments.follow:
        case, size, port, lasts = arguments.follow
        print(json.dumps(asyncio.run(follow(case, int(size), int(port), float(lasts)))))
    else:
        print(f"Python {sys.version.split()[0]}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}\n")
        print(
            "case      syncs  requests  CPU s/min  CPU ms/request  MiB  KiB/sync  loop delay ms p50/p99  "
            "noticed after s"
        )
        for case in ("together", "steady"):
            for size in arguments.sizes:
                report(case, size, measure(case, size, arguments.seconds))


def report(case: str, size: int, figures: dict[str, Any]) -> None:
    """Print one row."""
    delays = sorted(seconds * 1000 for seconds in figures["delays"])
    lags = f"{statistics.median(figures['lags']):.2f}, at most {max(figures['lags']):.2f}" if figures["lags"] else "-"
    per_request = figures["processor"] / figures["requests"] * 1000 if figures["requests"] else 0
    print(
        f"{case:8} {size:6} {figures['requests']:9} {figures['processor'] / figures['clock'] * 60:10.2f} "
        f"{per_request:15.2f} {figures['memory'] / 2**20:4.0f} {figures['memory'] / 2**10 / size:9.0f} "
        f"{delays[len(delays) // 2]:14.1f}/{delays[int(len(delays) * 0.99)]:<6.1f} {lags}",
        flush=True,
    )


if __name__ == "__main__":
    main()
