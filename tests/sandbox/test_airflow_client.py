"""What the sandbox's commands say when Airflow does not do what they ask for."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from sandbox.airflow_client import AirflowClient, AirflowError
from sandbox.stack import Endpoints, Stack, StackError

pytestmark = pytest.mark.sandbox


@pytest.fixture
def nobody() -> Iterator[str]:
    """The address of a port at which nobody listens, and cannot begin to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_an_airflow_that_does_not_answer_is_told_in_a_sentence(nobody: str) -> None:
    client = AirflowClient(nobody, "admin", "secret-of-admin")
    with pytest.raises(AirflowError, match=f"^{nobody} does not answer POST /auth/token: ") as told:
        client.run("sync_tides", "run")
    client.close()
    assert "secret-of-admin" not in str(told.value)


def test_a_stack_that_cannot_be_set_up_is_told_in_a_sentence(nobody: str) -> None:
    endpoints = Endpoints(nobody, "admin", "password", nobody, nobody, "token", nobody, "no file")
    with pytest.raises(StackError, match=r"^Airflow could not be set up: "):
        Stack.set_up(endpoints)
