"""Where the sandbox keeps its state, and on which ports it listens."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"

SNOWFLAKE_ACCOUNT = "SANDBOX-DATASHARE"
SNOWFLAKE_USER = "DATA_SHARE_LOADER"
SNOWFLAKE_ROLE = "DATA_SHARE_LOADER"
SNOWFLAKE_WAREHOUSE = "LOAD_WH"
SNOWFLAKE_DATABASE = "DATA_SHARE"
SNOWFLAKE_SCHEMA = "PUBLIC"

AIRFLOW_USER = "admin"

PREFERRED_PORTS = {"airflow": 8080, "s3": 9000, "databricks": 8443, "snowflake": 8444}


class SettingsError(ValueError):
    """A setting of the sandbox cannot be used; the message names it."""


@dataclass(frozen=True)
class Settings:
    """
    The sandbox's settings, from the environment.

    :param state: ``SANDBOX_HOME``, the folder of everything that the sandbox writes; ``.sandbox`` in the project
    :param places: ``SANDBOX_PLACES``, places of the source table: it has 1,461 rows for each
    :param ports: ``SANDBOX_AIRFLOW_PORT`` and so on, the ports that were asked for
    :param host: ``SANDBOX_HOST``, the address that the emulators of Databricks and Snowflake listen on
    :param databricks_token: ``SANDBOX_WORKSPACE_TOKEN``, what the workspace accepts; else one of the state folder
    :param snowflake_public_key: ``SANDBOX_LOADER_PUBLIC_KEY``, the loader's key as ``ALTER USER`` takes it (base64,
        one line); else one of the state folder
    """

    state: Path
    places: int
    ports: dict[str, int]
    host: str = HOST
    databricks_token: str | None = None
    snowflake_public_key: str | None = None

    @classmethod
    def from_environment(cls) -> Settings:
        """
        Read the settings.

        :raises SettingsError: for a value that is no whole number or out of range
        """
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
        )

    def choose_ports(self) -> dict[str, int]:
        """
        Return a free port for each server: the one that was asked for, else the usual one, else any.

        :raises SettingsError: when a port that was asked for is taken
        """
        chosen = {}
        for name, preferred in PREFERRED_PORTS.items():
            if name in self.ports:
                if not _is_free(self.ports[name]):
                    raise SettingsError(f"SANDBOX_{name.upper()}_PORT: port {self.ports[name]} is taken")
                chosen[name] = self.ports[name]
            else:
                chosen[name] = preferred if _is_free(preferred) else _any_free_port()
        return chosen


def _number(name: str, lowest: int, highest: int) -> int:
    text = os.environ[name]
    if not text.isdecimal() or not lowest <= int(text) <= highest:
        raise SettingsError(f"{name} must be a whole number from {lowest} to {highest}; it is {text!r}")
    return int(text)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _any_free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
