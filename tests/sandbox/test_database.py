"""Airflow's database in the sandbox: PostgreSQL that survives what a laptop does to it, or SQLite and the reason."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg2
import pytest

from sandbox import database
from sandbox.database import Postgres
from sandbox.settings import Settings, any_free_port
from sandbox.stack import Stack, StackError
from tests.e2e.share import wait_for

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

PASSWORD = "secret-of-the-database"


@contextmanager
def serving(postgres: Postgres) -> Iterator[tuple[int, psutil.Popen]]:
    """Serve a data folder, and end the server in the orderly way if it still runs."""
    port = any_free_port()
    with psutil.Popen(postgres.command(port), stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(lambda: postgres.is_ready(port) or server.poll() is not None, "the server has started")
            yield port, server
        finally:
            if server.poll() is None:
                server.send_signal(signal.SIGINT)


def rows(postgres: Postgres, port: int, *statements: str) -> list[tuple[object, ...]]:
    # psycopg2's own block would leave the connection open.
    connection = psycopg2.connect(postgres.url(port).replace("+psycopg2", ""))
    try:
        connection.autocommit = True
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


@pytest.fixture
def postgres(tmp_path: Path) -> Postgres:
    # Longer than the path of a socket may be, and below a folder that is open to its owner alone.
    folder = tmp_path / ("long" * 30) / "state"
    folder.mkdir(parents=True, mode=0o700)
    made = Postgres(folder / "postgres", PASSWORD)
    made.make()
    return made


def test_only_the_owner_of_the_folder_gets_in(postgres: Postgres) -> None:
    assert [path.name for path in postgres.folder.parent.iterdir()] == ["postgres"]
    assert postgres.folder.stat().st_mode & 0o777 == 0o700
    with serving(postgres) as (port, server):
        assert server.uids().effective != 0
        assert {address.laddr.ip for address in server.net_connections()} == {"127.0.0.1"}
        assert rows(postgres, port, "SELECT 1") == [(1,)]
        for stranger in (Postgres(postgres.folder, "another"), Postgres(postgres.folder, "")):
            with pytest.raises(psycopg2.OperationalError, match="password"):
                rows(stranger, port, "SELECT 1")
    assert PASSWORD not in " ".join(postgres.command(port))


@pytest.mark.parametrize("whole", [True, False], ids=["all processes", "the server alone"])
def test_what_was_committed_is_there_after_a_kill(postgres: Postgres, whole: bool) -> None:
    with serving(postgres) as (port, server):
        rows(postgres, port, "CREATE TABLE run (id INT)", "INSERT INTO run SELECT generate_series(1, 1000)")
        processes = [server, *server.children(recursive=True)]
        for process in processes if whole else [server]:
            process.kill()
        # Without their server, the others end by themselves.
        psutil.wait_procs(processes, timeout=30)
    # By now, the id of the killed server belongs to another process of its user.
    with subprocess.Popen([*database._as_user(), "sleep", "600"]) as another:
        try:
            note = postgres.folder / "postmaster.pid"
            note.write_text("\n".join([str(another.pid), *note.read_text().splitlines()[1:]]))

            postgres.forget_killed_server()
            with serving(postgres) as (port, _):
                assert rows(postgres, port, "SELECT COUNT(*) FROM run") == [(1000,)]
        finally:
            another.kill()


def test_a_folder_has_one_server(postgres: Postgres) -> None:
    with serving(postgres) as (port, server):
        postgres.forget_killed_server()
        assert (postgres.folder / "postmaster.pid").exists()
        with serving(postgres) as (second_port, second):
            assert not postgres.is_ready(second_port)
            assert second.poll() == 1
        assert server.poll() is None
        assert rows(postgres, port, "SELECT 1") == [(1,)]


def test_an_orderly_end_leaves_nothing_behind(postgres: Postgres) -> None:
    with serving(postgres) as (port, server):
        rows(postgres, port, "CREATE TABLE run (id INT)")
        processes = [server, *server.children(recursive=True)]
        segments = Path("/proc/sysvipc/shm")
        ours = (postgres.folder / "postmaster.pid").read_text().splitlines()[6].split()[1]
        assert not segments.exists() or ours in segments.read_text().split()
    assert not (postgres.folder / "postmaster.pid").exists()
    assert not [process for process in processes if process.is_running()]
    assert not segments.exists() or ours not in segments.read_text().split()


# Where PostgreSQL cannot run


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[str, list[str]]]:
    """Start the database of a stack; return its address and what was told."""
    monkeypatch.setattr(Stack, "_spawn", lambda *_: None)
    monkeypatch.setattr(Postgres, "is_ready", lambda *_: True)
    stack = Stack(Settings(state=tmp_path, places=1, ports={}))

    def start() -> tuple[str, list[str]]:
        told: list[str] = []
        return stack._start_database(PASSWORD, told.append), told

    return start


def without_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setattr(database.importlib.util, "find_spec", lambda _: None)
    return "there is no package of PostgreSQL for this platform"


def without_setpriv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setattr(database.os, "geteuid", lambda: 0)
    monkeypatch.setattr(database.shutil, "which", lambda _: None)
    return "PostgreSQL refuses to run as root, and the program setpriv is missing"


def without_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setattr(database.os, "geteuid", lambda: 0)
    monkeypatch.setattr(database, "_UNPRIVILEGED", "there is no such user")
    return "PostgreSQL refuses to run as root, and there is no user there is no such user"


def with_programs_that_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    program = tmp_path / "programs" / "initdb"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho first >&2\necho 'GLIBC_2.99 not found' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(database, "_programs", lambda: program.parent)
    return "PostgreSQL cannot run here (GLIBC_2.99 not found)"


def with_programs_of_another_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    program = tmp_path / "programs" / "initdb"
    program.parent.mkdir()
    program.write_bytes(b"\x7fELF of another processor")
    program.chmod(0o755)
    monkeypatch.setattr(database, "_programs", lambda: program.parent)
    return "PostgreSQL cannot run here ("


OBSTACLES = [
    *(without_package, without_setpriv, without_nobody),
    *(with_programs_that_end, with_programs_of_another_machine),
]


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_where_postgresql_cannot_run_it_is_sqlite_and_the_reason(
    started: Callable[[], tuple[str, list[str]]],
    obstacle: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    reason = obstacle(monkeypatch, tmp_path)
    url, [told] = started()
    assert url == f"sqlite:///{tmp_path}/airflow/airflow.db"
    assert told.startswith(f"Airflow's database is SQLite, as {reason}")
    assert not list(tmp_path.glob("postgres*"))


def test_runs_in_postgresql_are_not_left_for_an_empty_sqlite(
    started: Callable[[], tuple[str, list[str]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "postgres").mkdir()
    reason = without_package(monkeypatch, tmp_path)
    with pytest.raises(StackError, match=f"^The runs of this state folder are in PostgreSQL, but {reason}$"):
        started()


def test_a_state_folder_keeps_the_database_that_it_has(
    started: Callable[[], tuple[str, list[str]]], tmp_path: Path
) -> None:
    home = tmp_path / "airflow"
    home.mkdir()
    (home / "airflow.db").touch()
    (home / "migrated-to-3.3.2").touch()
    assert started() == (
        f"sqlite:///{home}/airflow.db",
        ["Airflow's database stays SQLite, with its runs; after make clean it is PostgreSQL"],
    )
    assert (home / "migrated-to-3.3.2").exists()

    # A new database has no tables yet, whatever was there before.
    (home / "airflow.db").unlink()
    url, told = started()
    assert url.startswith("postgresql+psycopg2://airflow:")
    assert told == []
    assert not (home / "migrated-to-3.3.2").exists()

    # The rest of an interrupted start is no database.
    shutil.rmtree(tmp_path / "postgres")
    (tmp_path / "postgres.draft").mkdir()
    (tmp_path / "postgres.draft" / "PG_VERSION").touch()
    assert started()[0].startswith("postgresql+psycopg2://airflow:")
    assert not (tmp_path / "postgres.draft").exists()


def test_the_secrets_of_an_earlier_version_get_a_password(tmp_path: Path) -> None:
    stack = Stack(Settings(state=tmp_path, places=1, ports={}))
    made = stack._secrets()
    file = tmp_path / "keys" / "secrets.json"
    earlier = {name: value for name, value in made.items() if name != "database_password"}
    file.write_text(str(earlier).replace("'", '"'))

    added = stack._secrets()
    assert added.items() >= earlier.items()
    assert len(added["database_password"]) > 30
    assert stack._secrets() == added
    assert file.stat().st_mode & 0o077 == 0


def test_the_shell_does_not_change_how_the_database_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "require")
    monkeypatch.setenv("PATH", "/of/the/shell")
    environment = Stack(Settings(state=tmp_path, places=1, ports={}))._base_environment()
    assert "PGSSLMODE" not in environment
    assert environment["PATH"].endswith("/of/the/shell")
