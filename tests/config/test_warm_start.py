"""What the first task or trigger after a start would wait for is done before the process says that it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.tier("full")

PROJECT = Path(__file__).resolve().parents[2]

# Each program makes one request, and prints the status and how often routes were generated for it.
COUNT = """
import cadwyn.applications

generated = []
generate = cadwyn.applications.generate_versioned_routers

def count(*arguments, **options):
    generated.append(arguments)
    return generate(*arguments, **options)

cadwyn.applications.generate_versioned_routers = count
"""

TRIGGERER = f"""
import sys
sys.argv[1:] = [COMMAND]
import airflow
from airflow.jobs.triggerer_job_runner import TriggerRunnerSupervisor
{COUNT}
client = TriggerRunnerSupervisor.make_client(None)
print(client.get("health").status_code, len(generated))
"""

API_SERVER = f"""
import asyncio, sys
sys.argv[1:] = [COMMAND]
import airflow
import httpx
from airflow.api_fastapi.execution_api.app import create_task_execution_api_app
app = create_task_execution_api_app()
{COUNT}

async def ask():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api-server") as client:
        return await client.get("/health")

print(asyncio.run(ask()).status_code, len(generated))
"""


def run(program: str, command: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process whose command line begins as that of an Airflow command."""
    environment = os.environ | {
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "PYTHONPATH": os.pathsep.join(map(str, (PROJECT / "config", PROJECT / "plugins"))),
    }
    return subprocess.run(
        [sys.executable, "-c", program.replace("COMMAND", repr(command))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.mark.parametrize(("program", "command"), [(TRIGGERER, "triggerer"), (API_SERVER, "api-server")])
def test_the_first_request_of_a_task_or_trigger_is_answered_at_once(program: str, command: str) -> None:
    result = run(program, command)
    assert (result.returncode, result.stdout.splitlines()[-1:]) == (0, ["200 0"]), result.stderr


@pytest.mark.parametrize("command", ["scheduler", "dag-processor", "celery", "db"])
def test_other_processes_make_no_api(command: str) -> None:
    """They would wait, and forked tasks would keep the memory."""
    program = "import sys; sys.argv[1:] = [COMMAND]; import airflow; print('cadwyn.applications' in sys.modules)"
    result = run(program, command)
    assert (result.returncode, result.stdout.splitlines()[-1:]) == (0, ["False"]), result.stderr
