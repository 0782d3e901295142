"""A whole stack on this machine: the emulators and Airflow's processes, started, watched and stopped."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import httpx
import psutil

from examples.backend.airflow_client import SyncError
from sandbox import settings
from sandbox.airflow import Airflow
from sandbox.database import NoPostgresError, Postgres
from sandbox.settings import HOST, PROJECT, Settings, any_free_port

# Do not serve logs: they are read from files, and the log servers would listen on fixed ports.
_AIRFLOW_PROCESSES = {
    "api-server": ["airflow", "api-server", "--host", HOST, "--port", "{port}"],
    "scheduler": ["airflow", "scheduler", "--skip-serve-logs"],
    "dag-processor": ["airflow", "dag-processor"],
    "triggerer": ["airflow", "triggerer", "--skip-serve-logs"],
}
# As Airflow calls its database in its health.
_DATABASE = "metadatabase"
_CONNECTION = "AIRFLOW_CONN_"
# Airflow's settings that say how it is watched: docs/observability.md.
_WATCHED = ("AIRFLOW__METRICS__", "AIRFLOW__OPENLINEAGE__", "AIRFLOW__LOGGING__JSON_LOGS")
_SHARE_CONNECTIONS = (settings.DATABRICKS_CONN_ID.upper(), settings.SNOWFLAKE_CONN_ID.upper())
_START_SECONDS = 300
_HEALTH_SECONDS = 15
_STOP_SECONDS = 15

STOPPED_BY_ANOTHER = "The stack was stopped by another command, for example make down."


class StackError(RuntimeError):
    """The stack cannot be started or used; the message says what to do."""


@dataclass(frozen=True)
class Endpoints:
    """Addresses and credentials of a running stack. The credentials are only valid on this machine."""

    airflow_url: str
    airflow_user: str
    airflow_password: str
    s3_url: str
    databricks_url: str
    databricks_token: str
    snowflake_url: str
    snowflake_private_key_file: str
    # For Airflow's own processes alone: it contains the password.
    database_url: str = ""

    def as_environment(self) -> dict[str, str]:
        """Return the variables that ``make env`` prints."""
        host, port = self.snowflake_url.removeprefix("http://").split(":")
        return {
            "AIRFLOW_URL": self.airflow_url,
            "AIRFLOW_USER": self.airflow_user,
            "AIRFLOW_PASSWORD": self.airflow_password,
            "SANDBOX_S3_URL": self.s3_url,
            "SANDBOX_DATABRICKS_URL": self.databricks_url,
            "SANDBOX_DATABRICKS_TOKEN": self.databricks_token,
            "SANDBOX_SNOWFLAKE_URL": self.snowflake_url,
            "SNOWFLAKE_PROTOCOL": "http",
            "SNOWFLAKE_HOST": host,
            "SNOWFLAKE_PORT": port,
            "SNOWFLAKE_ACCOUNT": settings.SNOWFLAKE_ACCOUNT,
            "SNOWFLAKE_USER": settings.SNOWFLAKE_USER,
            "SNOWFLAKE_PRIVATE_KEY_FILE": self.snowflake_private_key_file,
            "SNOWFLAKE_ROLE": settings.SNOWFLAKE_ROLE,
            "SNOWFLAKE_WAREHOUSE": settings.SNOWFLAKE_WAREHOUSE,
            "SNOWFLAKE_DATABASE": settings.SNOWFLAKE_DATABASE,
            "SNOWFLAKE_SCHEMA": settings.SNOWFLAKE_SCHEMA,
        }

    def airflow(self, **options: Any) -> Airflow:
        """Return a client of Airflow, signed in as administrator. ``options`` are passed to :class:`Airflow`."""
        return Airflow(self.airflow_url, self.airflow_user, self.airflow_password, **options)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Query the emulator of Snowflake with Snowflake's own connector."""
        # Import here: the import takes seconds, and most commands do not need it.
        import snowflake.connector

        logging.getLogger("snowflake.connector").setLevel(logging.WARNING)
        login = {
            name.removeprefix("SNOWFLAKE_").lower(): value
            for name, value in self.as_environment().items()
            if name.startswith("SNOWFLAKE_")
        }
        with snowflake.connector.connect(**login) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return [tuple(row) for row in cursor.fetchall()]


class Stack:
    """
    The stack of one state folder.

    :param options: the sandbox's settings
    :param project: folder with the dags, plugins and include that Airflow runs
    """

    def __init__(self, options: Settings, project: Path = PROJECT) -> None:
        self.options = options
        self.project = project
        self.state = options.state
        self.logs = self.state / "logs"
        self.airflow_home = self.state / "airflow"
        self._database_folder = self.state / "postgres"
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def endpoints(self) -> Endpoints:
        """
        Return the addresses and credentials of the running stack.

        :raises StackError: when no stack runs
        """
        if not self.processes():
            raise StackError("No stack is running. Start one: make up")
        try:
            return Endpoints(**json.loads(self._endpoints_file.read_text()))
        except FileNotFoundError:
            raise StackError("A stack is starting. Wait for it, or stop it: make down") from None

    def is_started(self) -> bool:
        """Return whether the stack has started completely, so that a sync can be started on it."""
        return self._endpoints_file.exists()

    def airflow(self) -> Airflow:
        """Return the running stack's Airflow."""
        return self.endpoints().airflow()

    def unfinished_runs(self) -> list[str]:
        """Return the DAG runs that have not ended; an empty list if Airflow does not answer within 5 seconds."""
        try:
            airflow = self.endpoints().airflow(timeout_seconds=5, back_off=())
        except StackError:
            return []
        try:
            found = airflow.ask("GET", "/dags/~/dagRuns", params={"state": ["queued", "running"]})
        except SyncError:
            return []
        finally:
            airflow.close()
        return [f"{run['dag_id']} ({run['dag_run_id']})" for run in found["dag_runs"]]

    def processes(self) -> list[psutil.Process]:
        """Return every living process of this stack, including processes whose parent has died."""
        return [process for process, _ in self._living()]

    def processes_of(self, name: str) -> list[psutil.Process]:
        """Return the living processes of one part of the stack, for example of the scheduler."""
        return [process for process, part in self._living() if part == name]

    def _living(self) -> list[tuple[psutil.Process, str]]:
        """Return every living process of this stack, with the name of its part."""
        sessions = self._sessions()
        found = []
        for process in psutil.process_iter():
            try:
                began, name = sessions.get(os.getsid(process.pid), (None, ""))
                if self._serves_database(process):
                    began, name = 0, _DATABASE
                # The id of an ended session may be reused, so compare the start: only later processes belong to ours.
                is_ours = began is not None and process.create_time() >= began
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append((process, name))
            except (psutil.Error, OSError):
                continue
        return found

    def _serves_database(self, process: psutil.Process) -> bool:
        # Each process of PostgreSQL starts a session of its own, and works in the data folder.
        return process.name() == "postgres" and Path(process.cwd()) == self._database_folder.resolve()

    def health(self) -> dict[str, str]:
        """Return the health of each part of the running stack; ``has ended`` for a part without a process."""
        endpoints = self.endpoints()
        services = {"databricks": endpoints.databricks_url, "snowflake": endpoints.snowflake_url}
        try:
            parts = {name: str(part["status"]) for name, part in _health(endpoints).items()}
        except httpx.HTTPError:
            parts = {"api_server": "does not answer"}
        for name, url in services.items():
            parts[name] = "healthy" if _answers(url) else "does not answer"
        # Look at the processes too: Airflow reports a dead process only after half a minute.
        living = {process.pid for process in self.processes()}
        for number, (_, name) in self._sessions().items():
            if number not in living:
                parts[name.replace("-", "_")] = "has ended"
        return parts

    def start(self, report: Callable[[str], None] = lambda _: None, command: str = "make up") -> Endpoints:
        """
        Start everything and return when a sync can be started.

        :param report: called with a line for each step
        :param command: the command that starts the stack; make down prints it when it stops the stack
        :raises StackError: if a part does not start; everything is stopped again
        """
        self.state.mkdir(parents=True, exist_ok=True)
        with (self.state / "start.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StackError("A stack is being started already. Wait for it, or stop it: make down") from None
            if self.processes():
                raise StackError("A stack is running already. Stop it: make down")
            _write_atomically(self._starter_file, json.dumps([os.getpid(), psutil.Process().create_time(), command]))
            return self._start(report)

    def starter(self) -> str | None:
        """Return the command that started this stack, with its process id, if it still runs; else None."""
        known = self._read_starter()
        if known is None:
            return None
        number, began, command = known
        try:
            lives = psutil.Process(number).create_time() == began
        except psutil.Error:
            return None
        return f"{command} (process {number})" if lives else None

    def is_stopped_by_another(self) -> bool:
        """Return whether another process has stopped the stack that this process started, or started a new one."""
        known = self._read_starter()
        return known is None or known[:2] != (os.getpid(), psutil.Process().create_time())

    def _read_starter(self) -> tuple[int, float, str] | None:
        try:
            number, began, command = json.loads(self._starter_file.read_text())
        except FileNotFoundError:
            return None
        return number, began, command

    def _start(self, report: Callable[[str], None]) -> Endpoints:
        self.logs.mkdir(exist_ok=True)
        self._endpoints_file.unlink(missing_ok=True)
        ports = self.options.choose_ports()
        try:
            secrets_ = self._secrets()
            # The emulators take seconds to start, so start them first.
            report("Starting the emulators of S3, Databricks and Snowflake")
            self._spawn(
                "emulators", [sys.executable, "-m", "sandbox", "serve", json.dumps(ports)], self._base_environment()
            )
            database_url = self._start_database(secrets_["database_password"], report)
            endpoints = Endpoints(
                airflow_url=f"http://{HOST}:{ports['airflow']}",
                airflow_user=settings.AIRFLOW_USER,
                airflow_password=secrets_["airflow_password"],
                s3_url=f"http://{HOST}:{ports['s3']}",
                databricks_url=f"http://{HOST}:{ports['databricks']}",
                databricks_token=secrets_["databricks_token"],
                snowflake_url=f"http://{HOST}:{ports['snowflake']}",
                snowflake_private_key_file=str(self.state / "keys" / "loader.p8"),
                database_url=database_url,
            )
            self._migrate(self._airflow_environment(endpoints, secrets_), report)
            report("Starting Airflow: api-server, scheduler, dag-processor, triggerer")
            for name in _AIRFLOW_PROCESSES:
                self.start_airflow(name, endpoints)
            self._await_ready(endpoints)
            report("Setting up: the export job's id, the Snowflake tables")
            self.set_up(endpoints)
        except BaseException as error:
            by_another = self.is_stopped_by_another()
            self.stop()
            if by_another and isinstance(error, StackError):
                raise StackError(STOPPED_BY_ANOTHER) from None
            raise
        _write_atomically(self._endpoints_file, json.dumps(asdict(endpoints)))
        return endpoints

    def start_airflow(self, name: str, endpoints: Endpoints) -> None:
        """
        Start one of Airflow's processes for the first time, or after it has ended.

        :param name: ``api-server``, ``scheduler``, ``dag-processor`` or ``triggerer``
        :param endpoints: the stack's endpoints
        """
        database = endpoints.database_url
        if database.startswith("sqlite:"):
            # How long to wait for a locked SQLite. It is short in the api-server, which answers nobody meanwhile. It is
            # long in the others, because a scheduler that gives up ends.
            database += f"?timeout={5 if name == 'api-server' else 60}"
        environment = self._airflow_environment(endpoints, self._secrets())
        port = endpoints.airflow_url.rsplit(":", 1)[1]
        # Forget the ended process, so that health() no longer reports it.
        if not self.processes_of(name):
            left = {number: known for number, known in self._sessions().items() if known[1] != name}
            _write_atomically(self._sessions_file, json.dumps(left))
        self._spawn(
            name,
            [part.format(port=port) for part in _AIRFLOW_PROCESSES[name]],
            environment | {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database},
        )

    def stop(self) -> int:
        """Stop every process of this stack and return how many there were."""
        count = len(self.processes())
        _end(lambda: [process for process, name in self._living() if name != _DATABASE], signal.SIGTERM)
        # PostgreSQL is last, because the others write to it while they end. Its server ends its other processes, in
        # their order; SIGINT closes the connections that are left.
        started = self._sessions()
        _signal([process for process in self.processes_of(_DATABASE) if process.pid in started], signal.SIGINT)
        _end(lambda: self.processes_of(_DATABASE))
        self._endpoints_file.unlink(missing_ok=True)
        self._sessions_file.unlink(missing_ok=True)
        self._starter_file.unlink(missing_ok=True)
        self._started.clear()
        return count

    def check(self, module: str, given: Mapping[str, str], *options: str) -> NoReturn:
        """
        Run a module that looks at a deployment, in the place of this process: it gets Ctrl-C and other signals itself.

        :param module: :mod:`data_share.doctor` or another one with its options
        :param given: the environment. If it holds connections of the share, their deployment is checked, else the
            running stack.
        :param options: its command-line options
        :raises StackError: if the environment holds no connections and no stack is running
        """
        environment = dict(given)
        if not any(f"{_CONNECTION}{name}" in given for name in _SHARE_CONNECTIONS):
            environment = self._airflow_environment(self.endpoints(), self._secrets()) | self._job_variable()
        path = [str(self.project / "plugins"), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(path)
        # Airflow logs to the same place as the module prints. A person may want the log; a program must get JSON only.
        level = given.get("AIRFLOW__LOGGING__LOGGING_LEVEL", "CRITICAL")
        environment["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "CRITICAL" if "--json" in options else level
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, "-m", module, *options], environment)

    def serve(self, ports: dict[str, int]) -> None:
        """
        Run the emulators in this process.

        :raises StackError: if other machines could reach the emulators but no credentials are configured
        """
        from sandbox.emulator_process import serve

        token, public_key = self.options.databricks_token, self.options.snowflake_public_key
        if not (token and public_key):
            if self.options.host != HOST:
                raise StackError(
                    f"SANDBOX_HOST is {self.options.host}: SANDBOX_WORKSPACE_TOKEN and SANDBOX_LOADER_PUBLIC_KEY must "
                    "say which keys are accepted. python3 deploy/make_env.py --sandbox makes them."
                )
            token = self._secrets()["databricks_token"]
            public_key = (self.state / "keys" / "loader.pub").read_text()
        if not public_key.startswith("-----"):
            public_key = f"-----BEGIN PUBLIC KEY-----\n{public_key}\n-----END PUBLIC KEY-----\n"
        self.state.mkdir(parents=True, exist_ok=True)
        serve(
            self.state,
            ports,
            databricks_token=token,
            snowflake_public_key=public_key,
            places=self.options.places,
            host=self.options.host,
        )

    def _start_database(self, password: str, report: Callable[[str], None]) -> str:
        """
        Start Airflow's database, if it is a server, and return its address.

        A state folder keeps the database that it was made with: the runs of its syncs are in it.
        """
        postgres = Postgres(self._database_folder, password)
        sqlite = self.airflow_home / "airflow.db"
        port = any_free_port()
        try:
            command = postgres.command(port)
            if not postgres.exists():
                if sqlite.exists():
                    report("Airflow's database stays SQLite, with its runs; after make clean it is PostgreSQL")
                    return f"sqlite:///{sqlite}"
                postgres.make()
                for done in self.airflow_home.glob("migrated-to-*"):
                    done.unlink()
        except NoPostgresError as error:
            if postgres.exists():
                raise StackError(f"The runs of this state folder are in PostgreSQL, but {error}") from error
            report(f"Airflow's database is SQLite, as {error}; many syncs at once are slow")
            return f"sqlite:///{sqlite}"
        postgres.forget_killed_server()
        self._spawn(_DATABASE, command, self._base_environment())
        deadline = time.monotonic() + _START_SECONDS
        while not postgres.is_ready(port):
            self._check_alive()
            if time.monotonic() > deadline:
                log = self.logs / f"{_DATABASE}.log"
                raise StackError(f"PostgreSQL is not ready after {_START_SECONDS} seconds:\n{_tail(log)}")
            time.sleep(0.05)
        return postgres.url(port)

    def _job_variable(self) -> dict[str, str]:
        """Return Airflow's variable with the export job's id as an environment variable, where the doctor reads it."""
        from data_share.dag_defaults import SHARE

        airflow = self.airflow()
        try:
            variable = airflow.ask("GET", f"/variables/{SHARE.export_job_variable}")
        finally:
            airflow.close()
        return {f"AIRFLOW_VAR_{SHARE.export_job_variable.upper()}": variable["value"]} if variable else {}

    @property
    def _endpoints_file(self) -> Path:
        return self.state / "endpoints.json"

    def _sessions(self) -> dict[int, tuple[float, str]]:
        """Return session id -> (start time, name) of each process that this stack started."""
        try:
            return {int(number): tuple(known) for number, known in json.loads(self._sessions_file.read_text()).items()}
        except FileNotFoundError:
            return {}

    @property
    def _starter_file(self) -> Path:
        return self.state / "starter.json"

    @property
    def _sessions_file(self) -> Path:
        return self.state / "sessions.json"

    def _secrets(self) -> dict[str, str]:
        """Return the secrets of this state folder, which are created at its first use."""
        file = self.state / "keys" / "secrets.json"
        if not file.exists():
            # Import here: only the first start in a state folder needs it, and every command would wait for the import.
            from cryptography.fernet import Fernet
            from cryptography.hazmat.primitives import serialization
            from cryptography.hazmat.primitives.asymmetric import rsa

            file.parent.mkdir(exist_ok=True)
            file.parent.chmod(0o700)
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            (file.parent / "loader.p8").write_bytes(
                key.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                )
            )
            (file.parent / "loader.pub").write_bytes(
                key.public_key().public_bytes(
                    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
                )
            )
            file.write_text(
                json.dumps(
                    {
                        "airflow_password": secrets.token_urlsafe(12),
                        "airflow_secret": secrets.token_urlsafe(32),
                        "database_password": secrets.token_urlsafe(32),
                        "databricks_token": f"dapi{secrets.token_hex(16)}",
                        "fernet_key": Fernet.generate_key().decode(),
                    }
                )
            )
        values: dict[str, str] = json.loads(file.read_text())
        if "database_password" not in values:
            # An earlier version has made the folder, and needed no such password.
            values["database_password"] = secrets.token_urlsafe(32)
            _write_atomically(file, json.dumps(values))
        return values

    def _base_environment(self) -> dict[str, str]:
        # Variables of PostgreSQL's clients, for example PGSSLMODE, would change how Airflow reaches its database.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PG"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
        return {
            **kept,
            "SANDBOX_HOME": str(self.state),
            "PATH": path,
            "PYTHONUNBUFFERED": "1",
            # No proxy: a task process would inherit it and send the emulators' requests to it.
            "NO_PROXY": HOST,
            "no_proxy": HOST,
        }

    def _airflow_environment(self, endpoints: Endpoints, secrets_: dict[str, str]) -> dict[str, str]:
        home = self.airflow_home
        home.mkdir(exist_ok=True)
        passwords = home / "passwords.json"
        passwords.write_text(json.dumps({endpoints.airflow_user: endpoints.airflow_password}))
        passwords.chmod(0o600)
        databricks_port = int(endpoints.databricks_url.rsplit(":", 1)[1])
        connections = {
            settings.DATABRICKS_CONN_ID.upper(): {
                "conn_type": "databricks",
                "host": HOST,
                "port": databricks_port,
                "schema": "http",
                "password": endpoints.databricks_token,
            },
            settings.SNOWFLAKE_CONN_ID.upper(): {
                "conn_type": "snowflake",
                "login": settings.SNOWFLAKE_USER,
                "schema": settings.SNOWFLAKE_SCHEMA,
                "extra": {
                    "account": settings.SNOWFLAKE_ACCOUNT,
                    "warehouse": settings.SNOWFLAKE_WAREHOUSE,
                    "database": settings.SNOWFLAKE_DATABASE,
                    "role": settings.SNOWFLAKE_ROLE,
                    "private_key_file": endpoints.snowflake_private_key_file,
                    "protocol": "http",
                    "host": HOST,
                    "port": int(endpoints.snowflake_url.rsplit(":", 1)[1]),
                },
            },
        }
        return {
            **self._base_environment(),
            # Pass on connections from the shell, such as the webhook's, and how Airflow is watched. The share's two
            # connections, set below, win.
            **{name: value for name, value in os.environ.items() if name.startswith((_CONNECTION, *_WATCHED))},
            "AIRFLOW_HOME": str(home),
            "PYTHONPATH": str(PROJECT / "config"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.project / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(self.project / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__FERNET_KEY": secrets_["fernet_key"],
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{endpoints.airflow_user}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{endpoints.airflow_url}/execution/",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": endpoints.database_url,
            # No limit: while all connections are taken, the api-server stands still (docs/performance.md).
            "AIRFLOW__DATABASE__SQL_ALCHEMY_MAX_OVERFLOW": "-1",
            "AIRFLOW__API__BASE_URL": endpoints.airflow_url,
            "AIRFLOW__API__SECRET_KEY": secrets_["airflow_secret"],
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets_["airflow_secret"],
            **settings.PROFILES[self.options.profile],
            "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
            # No sync fails if the api-server is down for five minutes: docs/deploy.md explains each number.
            "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "101",
            "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MIN": "3",
            "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "6",
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "30",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "420",
            "AIRFLOW__EXECUTION_API__JWT_EXPIRATION_TIME": "1800",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.logs / "tasks"),
            "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(self.logs / "dag-processor"),
            **{f"{_CONNECTION}{name}": json.dumps(value) for name, value in connections.items()},
        }

    def _migrate(self, environment: dict[str, str], report: Callable[[str], None]) -> None:
        done = self.airflow_home / f"migrated-to-{version('apache-airflow')}"
        if done.exists():
            return
        report("Making Airflow's database")
        log = self.logs / "migrate.log"
        with log.open("w") as out:
            result = subprocess.run(
                ["airflow", "db", "migrate"],
                env=environment,
                cwd=PROJECT,
                stdout=out,
                stderr=out,
                timeout=_START_SECONDS,
                check=False,
            )
        if result.returncode:
            raise StackError(f"airflow db migrate failed:\n{_tail(log)}")
        done.touch()

    def _spawn(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        with (self.logs / f"{name}.log").open("w") as out, _interrupts_deferred():
            # Start a new session: then Ctrl-C only reaches this command, which stops the process in an orderly way.
            process = self._started[name] = subprocess.Popen(
                command,
                env=environment,
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
            # Save the session: processes that this process starts stay in it and are found by it.
            sessions = self._sessions() | {process.pid: (psutil.Process(process.pid).create_time(), name)}
            _write_atomically(self._sessions_file, json.dumps(sessions))

    def _await_ready(self, endpoints: Endpoints) -> None:
        airflow = endpoints.airflow(back_off=())
        checks: dict[str, Callable[[], bool]] = {
            "emulators": lambda: all(_answers(url) for url in (endpoints.databricks_url, endpoints.snowflake_url)),
            "api-server": lambda: bool(_health(endpoints)),
            "scheduler": lambda: _health(endpoints)["scheduler"]["status"] == "healthy",
            "triggerer": lambda: _health(endpoints)["triggerer"]["status"] == "healthy",
            "dag-processor": lambda: airflow.ask("GET", "/dags")["total_entries"] > 1,
        }
        deadline = time.monotonic() + _START_SECONDS
        try:
            for name, is_ready in checks.items():
                while not _succeeds(is_ready):
                    log = self.logs / f"{name}.log"
                    if time.monotonic() > deadline:
                        raise StackError(f"{name} is not ready after {_START_SECONDS} seconds:\n{_tail(log)}")
                    self._check_alive()
                    time.sleep(0.2)
        finally:
            airflow.close()

    def _check_alive(self) -> None:
        """Raise StackError, with the last lines of the log, if a process has ended."""
        for name, process in self._started.items():
            if process.poll() is not None:
                raise StackError(f"{name} has ended with {process.returncode}:\n{_tail(self.logs / f'{name}.log')}")

    @staticmethod
    def set_up(endpoints: Endpoints) -> None:
        """
        Prepare a new Airflow for syncs: set the export job's id, and create the tables in Snowflake.

        :raises StackError: if Airflow refuses, or ``set_up_snowflake`` fails
        """
        from data_share.dag_defaults import SHARE

        airflow = endpoints.airflow()
        try:
            jobs = httpx.get(
                f"{endpoints.databricks_url}/api/2.2/jobs/list",
                params={"name": "export_dataset"},
                headers={"Authorization": f"Bearer {endpoints.databricks_token}"},
                timeout=30,
            )
            airflow.set_variable(SHARE.export_job_variable, str(jobs.raise_for_status().json()["jobs"][0]["job_id"]))
            run_id = airflow.trigger("set_up_snowflake")
            if airflow.wait("set_up_snowflake", run_id, 120) != "success":
                raise StackError(f"set_up_snowflake failed: {airflow.failures('set_up_snowflake', run_id)}")
        except (SyncError, httpx.HTTPError) as error:
            raise StackError(f"Airflow could not be set up: {str(error) or type(error).__name__}") from error
        finally:
            airflow.close()


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Defer Ctrl-C and SIGTERM, so that no process is started without being recorded."""
    received: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt


def _health(endpoints: Endpoints) -> dict[str, dict[str, Any]]:
    """Return the health of scheduler, triggerer, dag-processor and database. The endpoint needs no authentication."""
    url = f"{endpoints.airflow_url}/api/v2/monitor/health"
    found: dict[str, dict[str, Any]] = _look(url).raise_for_status().json()
    return found


def _answers(url: str) -> bool:
    """Return whether an emulator answers."""
    return _succeeds(lambda: _look(f"{url}/healthz").is_success)


def _look(url: str) -> httpx.Response:
    # The addresses have no TLS. Loading its certificates would make each look ten times as expensive.
    return httpx.get(url, timeout=_HEALTH_SECONDS, verify=False)


def _succeeds(check: Callable[[], Any]) -> bool:
    try:
        return bool(check())
    except (httpx.HTTPError, SyncError, KeyError):
        return False


def _end(living: Callable[[], list[psutil.Process]], number: int | None = None) -> None:
    """Send a signal to processes, and SIGKILL to those that have not ended in time."""
    found = living()
    if number is not None:
        _signal(found, number)
    deadline = time.monotonic() + _STOP_SECONDS
    while found and time.monotonic() < deadline:
        # Look for processes again each time: Airflow's processes start others while they end.
        psutil.wait_procs(found, timeout=0.2)
        found = living()
    while found:
        _signal(found, signal.SIGKILL)
        psutil.wait_procs(found, timeout=2)
        found = living()


def _signal(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.Error:
            continue


def _write_atomically(file: Path, text: str) -> None:
    """Write a file atomically, because others read it at any time. Only the owner can read it."""
    draft = file.with_suffix(".draft")
    draft.touch(mode=0o600)
    draft.write_text(text)
    draft.replace(file)


def _tail(log: Path, lines: int = 25) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "(no log)"
