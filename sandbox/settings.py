"""The sandbox's settings: folder of its state, ports, and accepted credentials."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from emulators.share_names import default_names, default_share

PROJECT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"

SNOWFLAKE_ACCOUNT = "SANDBOX-DATASHARE"
SNOWFLAKE_USER = default_names()["loader_user"].upper()
SNOWFLAKE_ROLE = default_share().role
SNOWFLAKE_WAREHOUSE = default_share().warehouse
SNOWFLAKE_DATABASE = default_share().database
SNOWFLAKE_SCHEMA = default_share().schema
DATABRICKS_CONN_ID = default_names()["databricks_conn_id"]
SNOWFLAKE_CONN_ID = default_names()["snowflake_conn_id"]

AIRFLOW_USER = "admin"

# Settings of Airflow by profile. docs/performance.md says what each gains and costs.
PROFILES = {
    "latency": {
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
    },
    "economy": {
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "1",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "60",
    },
}

PREFERRED_PORTS = {"airflow": 8080, "s3": 9000, "databricks": 8443, "snowflake": 8444}


class SettingsError(ValueError):
    """A setting of the sandbox cannot be used; the message names it."""


@dataclass(frozen=True)
class Settings:
    """
    The sandbox's settings, from the environment.

    :param state: ``SANDBOX_HOME``, the folder that the sandbox writes to; by default ``.sandbox`` in the project
    :param places: ``SANDBOX_PLACES``, number of places in the source table, which has 1,461 rows per place
    :param ports: ``SANDBOX_AIRFLOW_PORT`` and so on, the configured ports
    :param host: ``SANDBOX_HOST``, the address that the emulators of Databricks and Snowflake listen on
    :param profile: ``SANDBOX_PROFILE``, a key of :data:`PROFILES`: ``latency`` or ``economy``
    :param databricks_token: ``SANDBOX_WORKSPACE_TOKEN``, the token that the workspace accepts; by default the state
        folder's
    :param snowflake_public_key: ``SANDBOX_LOADER_PUBLIC_KEY``, the loader's key as ``ALTER USER`` takes it (base64,
        one line); by default the state folder's
    """

    state: Path
    places: int
    ports: dict[str, int]
    host: str = HOST
    databricks_token: str | None = None
    snowflake_public_key: str | None = None
    profile: str = "latency"

    @classmethod
    def from_environment(cls) -> Settings:
        """
        Read the settings.

        :raises SettingsError: if a value is not a whole number, out of range or unknown
        """
        profile = os.environ.get("SANDBOX_PROFILE") or "latency"
        if profile not in PROFILES:
            raise SettingsError(f"SANDBOX_PROFILE must be one of {', '.join(PROFILES)}; it is {profile!r}")
        ports = {
            name: _number(f"SANDBOX_{name.upper()}_PORT", 1, 65535)
            for name in PREFERRED_PORTS
            if f"SANDBOX_{name.upper()}_PORT" in os.environ
        }
        return cls(
            state=Path(os.environ.get("SANDBOX_HOME", PROJECT / ".sandbox")).resolve(),
            places=_number("SANDBOX_PLACES", 1, 10_000) if "SANDBOX_PLACES" in os.environ else 1,
            ports=ports,
            host=os.environ.get("SANDBOX_HOST", HOST),
            databricks_token=os.environ.get("SANDBOX_WORKSPACE_TOKEN") or None,
            snowflake_public_key=os.environ.get("SANDBOX_LOADER_PUBLIC_KEY") or None,
            profile=profile,
        )

    def choose_ports(self) -> dict[str, int]:
        """
        Return a port for each server: the configured one, else the preferred one if it is free, else any free port.

        :raises SettingsError: if a configured port is taken
        """
        chosen = {}
        for name, preferred in PREFERRED_PORTS.items():
            if name in self.ports:
                if not _is_free(self.ports[name]):
                    raise SettingsError(f"SANDBOX_{name.upper()}_PORT: port {self.ports[name]} is taken")
                chosen[name] = self.ports[name]
            else:
                chosen[name] = preferred if _is_free(preferred) else any_free_port()
        return chosen


def _number(name: str, min_value: int, max_value: int) -> int:
    text = os.environ[name]
    if not text.isdecimal() or not min_value <= int(text) <= max_value:
        raise SettingsError(f"{name} must be a whole number from {min_value} to {max_value}; it is {text!r}")
    return int(text)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def any_free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    return free_ports(1)[0]


def free_ports(count: int = len(PREFERRED_PORTS)) -> list[int]:
    """Return different ports of loopback that nobody listens on; by default one for each server of a stack."""
    with contextlib.ExitStack() as probes:
        found = []
        for _ in range(count):
            probe = probes.enter_context(socket.socket())
            probe.bind((HOST, 0))
            found.append(int(probe.getsockname()[1]))
        return found
