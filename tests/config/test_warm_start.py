"""What a task or trigger would wait for: routes, which are made before the process says that it runs, and a loop."""

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


@pytest.mark.others_nightly
@pytest.mark.parametrize("command", ["scheduler", "dag-processor", "celery", "db"])
def test_other_processes_make_no_api(command: str) -> None:
    """They would wait, and forked tasks would keep the memory."""
    program = "import sys; sys.argv[1:] = [COMMAND]; import airflow; print('cadwyn.applications' in sys.modules)"
    result = run(program, command)
    assert (result.returncode, result.stdout.splitlines()[-1:]) == (0, ["False"]), result.stderr


# The loop of a triggerer with three triggers, and no supervisor. It prints how late their ends were reported.
LOOP = """
import asyncio, sys
from types import SimpleNamespace
sys.argv[1:] = [COMMAND]
import airflow
from airflow.jobs.triggerer_job_runner import TriggerRunner, Trigger
from airflow.triggers.base import BaseTrigger, TriggerEvent

ended, reported = {}, {}

class After(BaseTrigger):
    def serialize(self):
        return "After", {}

    async def run(self):
        await asyncio.sleep(self.trigger_id / 10)
        yield TriggerEvent(self.trigger_id)

    async def cleanup(self):
        ended[self.trigger_id] = asyncio.get_running_loop().time()

class Runner(TriggerRunner):
    async def init_comms(self):
        self.comms_decoder = SimpleNamespace(_reader_task=asyncio.create_task(asyncio.sleep(60)))
        for number in (0, 1, 5):
            self.to_create.append(SimpleNamespace(
                id=number, classpath="After", encrypted_kwargs="", ti=None, timeout_after=None, watched_assets=None
            ))

    def get_trigger_by_classpath(self, classpath):
        return After

    async def sync_state_to_supervisor(self, finished_ids):
        reported.update(dict.fromkeys(finished_ids, asyncio.get_running_loop().time()))
        if len(reported) == 3:
            self.stop = True
            self._stop_event.set()

Trigger._decrypt_kwargs = staticmethod(lambda kwargs: {})
asyncio.run(Runner().arun())
print(*(f"{reported[number] - ended[number]:.2f}" for number in (0, 1, 5)))
"""


@pytest.mark.tier("nightly")
def test_the_end_of_a_trigger_is_reported_at_once() -> None:
    result = run(LOOP, "triggerer")
    assert result.returncode == 0, result.stderr
    late = [float(word) for word in result.stdout.splitlines()[-1].split()]
    assert max(late) < 0.3, late


# A scheduler that pauses until a fork of it has told the api-server of a step's end, and pauses without such an end. It
# prints how long both pauses were.
PAUSE = """
import os, sys, time
from datetime import UTC, datetime
from unittest.mock import MagicMock
from uuid import uuid4
sys.argv[1:] = [COMMAND]
import airflow
from airflow.jobs import scheduler_job_runner
from airflow.sdk.api.client import TaskInstanceOperations

now = datetime.now(UTC)
if os.fork() == 0:
    time.sleep(0.2)
    TaskInstanceOperations(client=MagicMock()).END
    os._exit(0)
for seconds in (20, 0.5):
    began = time.monotonic()
    scheduler_job_runner.time.sleep(seconds)
    print(f"{time.monotonic() - began:.2f}", end=" ")
print()
"""


@pytest.mark.others_nightly
@pytest.mark.parametrize(
    "end",
    [
        "succeed(uuid4(), when=now, task_outlets=[], outlet_events=[], rendered_map_index=None)",
        "finish(uuid4(), state='failed', when=now, rendered_map_index=None)",
    ],
)
def test_the_end_of_a_step_ends_the_pause_of_the_scheduler(end: str) -> None:
    result = run(PAUSE.replace("END", end), "scheduler")
    assert result.returncode == 0, result.stderr
    until_end, without_end = (float(word) for word in result.stdout.splitlines()[-1].split())
    assert 0.1 < until_end < 10
    assert without_end >= 0.5


# What a step does first. It prints how many validators and templates were made for it, and whether listeners are known.
FIRST_MOMENTS = """
import sys
from types import SimpleNamespace
sys.argv[1:] = [COMMAND]
import airflow
import jinja2, pydantic
from airflow.sdk.execution_time import comms, task_runner
from airflow.sdk.listener import get_listener_manager
from data_share import sql_files
from data_share.share import Share
from data_share.sync import Sync

made = []

def counted(make):
    def count(*arguments, **options):
        made.append(make.__qualname__)
        return make(*arguments, **options)
    return count

pydantic.TypeAdapter.__init__ = counted(pydantic.TypeAdapter.__init__)
jinja2.Environment.compile = counted(jinja2.Environment.compile)
comms.CommsDecoder(log=None, socket=None)
step = SimpleNamespace(template_fields=("a", "b"), template_fields_renderers={}, a=1, b=2)
task_runner._serialize_rendered_fields(step)
assert "INSERT" in sql_files.render_sql("publish", share=Share(), sync=Sync.example())
print(len(made), get_listener_manager.cache_info().currsize)
"""


@pytest.mark.others_nightly
@pytest.mark.parametrize("command", ["scheduler", "celery"])
def test_a_process_that_forks_steps_has_made_what_they_need(command: str) -> None:
    result = run(FIRST_MOMENTS, command)
    assert (result.returncode, result.stdout.splitlines()[-1:]) == (0, ["0 1"]), result.stderr
