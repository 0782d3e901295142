"""The database: fakesnow's DuckDB, with Snowflake's transactions, locks and account objects, kept in a directory."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import threading
import time
import uuid
import warnings
from collections import Counter, deque
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import s3fs
import snowflake.connector.cursor
import snowflake.connector.errors
import sqlglot
from fakesnow import info_schema, macros
from fakesnow.conn import FakeSnowflakeConnection
from fakesnow.cursor import FakeSnowflakeCursor
from fakesnow.instance import FakeSnow
from fakesnow.transforms.merge import operations as merge_operations
from fakesnow.transforms.stage import LOCAL_BUCKET_PATH
from sqlglot import exp

from emulators.snowflake import policies, privileges, translate
from emulators.snowflake.copy_into import CREATE_LOADS_TABLE, copy_into, forget_loads, list_stage, move_loads
from emulators.snowflake.duckdb_names import in_duckdb, inner, outer
from emulators.snowflake.errors import SqlError, from_duckdb, from_parser, invalid_value
from emulators.snowflake.locks import DEFAULT_LOCK_TIMEOUT, Locks, Mode, Table
from emulators.snowflake.names import described_integration, key, qualified
from emulators.snowflake.policies import Policies
from emulators.snowflake.privileges import ADMINISTRATOR, Rights

# fakesnow's way to fetch a result, which DuckDB 2 would like to be another.
warnings.filterwarnings("ignore", message="Arrow output on a DB-API result", category=UserWarning)

# fakesnow makes it for internal stages when it is imported, and never removes it. There are no such stages here.
Path(LOCAL_BUCKET_PATH).rmdir()

DEFAULT_STATEMENT_TIMEOUT = 600.0
"""Seconds after which a statement is cancelled, its wait for a lock included."""

_HISTORY_LENGTH = 10_000
_numbers = itertools.count(1)
_KEPT_RESULTS = 200

# What fakesnow keeps in memory about the databases in files, and we keep in the catalogue's file.
_KEPT_TABLES = ("_fs_stages", "_fs_columns_ext", "_fs_tables_ext")


@dataclass
class Statement:
    """One executed statement, as the tests of this project read it."""

    handle: str
    request_id: str | None
    sql: str
    query_tag: str
    user: str
    status: str = "running"
    error: str | None = None


class Stop:
    """
    The wish to end a statement early, and its reason.

    :param timeout: seconds until the statement is ended by itself.
    """

    def __init__(self, timeout: float = DEFAULT_STATEMENT_TIMEOUT) -> None:
        self.timeout = timeout
        self.deadline = time.monotonic() + timeout
        self.cancelled = threading.Event()

    def remaining(self) -> float:
        """Seconds until the timeout, at least 0."""
        return max(0.0, self.deadline - time.monotonic())

    def error(self) -> SqlError | None:
        """The error that the statement must end with now, or None if it may go on."""
        if self.cancelled.is_set():
            return SqlError(604, "57014", "SQL execution canceled")
        if self.remaining() == 0:
            return SqlError(
                630,
                "57014",
                f"Statement reached its statement or warehouse timeout of {self.timeout:g} second(s) and was canceled.",
            )
        return None

    def check(self) -> None:
        """Raise :meth:`error` if there is one."""
        if error := self.error():
            raise error

    @contextlib.contextmanager
    def watch(self, duck_conn: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Interrupt what ``duck_conn`` runs as soon as the statement must end."""
        done = threading.Event()

        def interrupt() -> None:
            # Again and again: an interrupt between two of the queries that a statement becomes would be lost.
            while not done.wait(0.02):
                if self.error():
                    duck_conn.interrupt()

        watcher = threading.Thread(target=interrupt, name="statement-watch", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


@dataclass
class Catalogue:
    """The account's objects that DuckDB has no place for. Names are upper case."""

    warehouses: list[str] = field(default_factory=list)
    integrations: dict[str, list[str]] = field(default_factory=dict)
    """Storage integration -> its allowed locations."""
    stage_formats: dict[str, dict[str, Any]] = field(default_factory=dict)
    """DATABASE.SCHEMA.STAGE -> the options of its file format."""
    rights: Rights = field(default_factory=Rights)
    policies: Policies = field(default_factory=Policies)

    @property
    def roles(self) -> Collection[str]:
        """All roles."""
        return self.rights.roles.keys()


class _RecentResults(dict[str, tuple[Any, ...]]):
    """The latest results for RESULT_SCAN; fakesnow would keep all of them."""

    def __setitem__(self, key: str, value: tuple[Any, ...]) -> None:
        super().__setitem__(key, value)
        while len(self) > _KEPT_RESULTS:
            self.pop(next(iter(self)))


class Engine(FakeSnow):
    """
    The account: its databases, its other objects, and its sessions.

    :param state_dir: the directory of the database files and of ``catalogue.json``; created if missing.
    :param filesystem: how the external stages' files are read.

    ``sees_late`` is the account parameter READ_CONSISTENCY_MODE: with SESSION, sessions that begin from then on do not
    see what others commit after they began, but in the tables that they write to. That is the worst that Snowflake
    allows; with GLOBAL, the value at the beginning, each statement sees all that was committed before it began.
    """

    def __init__(self, state_dir: Path, filesystem: s3fs.S3FileSystem, *, account: str) -> None:
        state_dir.mkdir(parents=True, exist_ok=True)
        super().__init__(create_database_on_connect=False, create_schema_on_connect=False, db_path=state_dir)
        self.state_dir = state_dir
        self.account = account
        self.filesystem = filesystem
        self.results_cache = _RecentResults()
        self.locks = Locks()
        self.sees_late = False
        self.catalogue = Catalogue()
        self.history: deque[Statement] = deque(maxlen=_HISTORY_LENGTH)
        self.duck_conn.register_filesystem(filesystem)
        # A file may be written again at the same place; and a table's name must never find a Python variable.
        self.duck_conn.execute("SET GLOBAL enable_external_file_cache = false")
        self.duck_conn.execute("SET GLOBAL python_enable_replacements = false")
        self._file = state_dir / "catalogue.json"
        for database in sorted(state_dir.glob("*.db")):
            self._attach(database.stem)
        self._load()

    def connect(
        self,
        database: str | None = None,
        schema: str | None = None,
        nop_regexes: list[str] | None = None,
        **kwargs: Any,
    ) -> Session:
        """A new session. ``kwargs`` are those of :class:`Session`."""
        return Session(self, database, schema, **kwargs)

    def close(self) -> None:
        """Close the database files."""
        self.duck_conn.close()

    def prepare_database(self, name: str) -> None:
        """Give a new database the table of the load metadata."""
        self.duck_conn.execute(CREATE_LOADS_TABLE.format(database=name))

    def save(self) -> None:
        """Write the catalogue to its file, whole or not at all."""
        tables = {
            name: [
                [None if value is None else str(value) for value in row]
                for row in self.duck_conn.cursor()
                .execute(f"SELECT * FROM _fs_global._fs_information_schema.{name}")
                .fetchall()
            ]
            for name in _KEPT_TABLES
        }
        partial = self._file.with_suffix(".partial")
        with partial.open("w") as target:
            json.dump({"catalogue": asdict(self.catalogue), "tables": tables}, target)
            target.flush()
            os.fsync(target.fileno())
        partial.replace(self._file)

    def _attach(self, database: str) -> None:
        self.duck_conn.execute(f"ATTACH DATABASE '{self.state_dir / database}.db' AS \"{database}\"")
        self.duck_conn.execute(info_schema.per_db_creation_sql(database))
        self.duck_conn.execute(macros.creation_sql(database))
        self.prepare_database(database)

    def _load(self) -> None:
        if not self._file.exists():
            return
        content = json.loads(self._file.read_text())
        kept = content["catalogue"]
        if "rights" not in kept:
            raise RuntimeError(f"{self._file} was written by an older version of this emulator: delete its folder")
        objects = {"rights": Rights(**kept["rights"]), "policies": Policies.read(kept.get("policies", {}))}
        self.catalogue = Catalogue(**{**kept, **objects})
        for name, rows in content["tables"].items():
            for row in rows:
                marks = ", ".join("?" for _ in row)
                self.duck_conn.execute(f"INSERT INTO _fs_global._fs_information_schema.{name} VALUES ({marks})", row)


class Session(FakeSnowflakeConnection):
    """
    One client's session.

    :param user: the user's name; by default the administrator's.
    :param role: the current role; if none is given, ACCOUNTADMIN for the administrator and PUBLIC for everybody else.
    :param warehouse: the current warehouse; one that does not exist counts as none, as in the real service.
    :param query_tag: the tag that the statements are recorded with.
    :param time_zone: as the session parameter TIMEZONE; by default that of a new account.
    :param request_id: the SQL API request that the session belongs to.
    :param autocommit: as the session parameter AUTOCOMMIT.
    """

    def __init__(
        self,
        engine: Engine,
        database: str | None = None,
        schema: str | None = None,
        *,
        user: str = ADMINISTRATOR,
        role: str | None = None,
        warehouse: str | None = None,
        query_tag: str = "",
        time_zone: str | None = None,
        request_id: str | None = None,
        autocommit: bool = True,
    ) -> None:
        super().__init__(
            engine.duck_conn.cursor(),
            engine.results_cache,
            database,
            schema,
            create_database=False,
            create_schema=False,
            db_path=engine.db_path,
            paramstyle="qmark",
            autocommit=autocommit,
        )
        self.engine = engine
        self.user = user
        self.role = role or ("ACCOUNTADMIN" if user == ADMINISTRATOR else "PUBLIC")
        self.warehouse = warehouse if warehouse in engine.catalogue.warehouses else None
        self.query_tag = query_tag
        self.time_zone = translate.DEFAULT_TIME_ZONE
        self.set_time_zone(time_zone or translate.DEFAULT_TIME_ZONE)
        self.request_id = request_id
        self.in_transaction = False
        self.lock_timeout = DEFAULT_LOCK_TIMEOUT
        self.done: list[tuple[exp.Expr, Any]] = []
        """What the open transaction has written with, while DuckDB has one too; BEGIN alone takes no snapshot there."""
        self.snapshot: Counter[Table] | None = None
        """The versions of the tables as the open transaction of DuckDB sees them."""
        self.copies: list[str] = []
        """Tables that its last statement has read elsewhere, as DuckDB knows them."""
        self._own: set[Table] = set()
        self._beginning: tuple[duckdb.DuckDBPyConnection, Counter[Table]] | None = None
        if engine.sees_late:
            # In this order: what is committed in between is taken for late, and read as it is in the snapshot.
            versions, connection = engine.locks.versions(), engine.duck_conn.cursor()
            connection.begin()
            if self.database_set:
                # A transaction of DuckDB has its snapshot of a database from the first look into it.
                loads = f'"{self.database}"._fs_information_schema._sandbox_loads'
                connection.execute(f"SELECT COUNT(*) FROM {loads}").fetchall()
            self._beginning = connection, versions
        self.temporary: set[str] = set()
        """The session's temporary tables."""

    def cursor(self, cursor_class: type[Any] = snowflake.connector.cursor.SnowflakeCursor) -> Cursor:
        """A cursor of this session."""
        return Cursor(self, self._duck_conn, use_dict_result=cursor_class == snowflake.connector.cursor.DictCursor)

    def close(self, retry: bool = True) -> None:
        """End the session: an open transaction is rolled back, its locks are released."""
        if not self._is_closed:
            with contextlib.suppress(duckdb.Error):
                self._duck_conn.rollback()
            super().close()
            if self._beginning is not None:
                self._beginning[0].close()
        self.engine.locks.release(self, committed=False)

    def set_time_zone(self, name: str) -> None:
        """
        Set the session parameter TIMEZONE.

        :raises SqlError: 1008 if there is no such zone.
        """
        before, self.time_zone = self.time_zone, name
        try:
            self.use_time_zone(self._duck_conn)
        except duckdb.Error:
            self.time_zone = before
            raise invalid_value(name, "TIMEZONE") from None

    def use_time_zone(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let a connection to DuckDB have the session's time zone."""
        connection.execute(f"SET TimeZone = {exp.Literal.string(self.time_zone).sql('duckdb')}")

    def may(self, name: str, privilege: str | None = None) -> bool:
        """
        Whether the current role has a right.

        :param name: the object, as :func:`emulators.snowflake.names.key` writes it; without an owner, everybody has it.
        :param privilege: the privilege; without it, any will do.
        """
        rights = self.engine.catalogue.rights
        return rights.holds(self.role, name, privilege) or (name not in rights.owners and name != "ACCOUNT")

    def end_transaction(self, action: str) -> None:
        """COMMIT or ROLLBACK the open transaction, if there is one."""
        if self.in_transaction or self._in_transaction:
            with contextlib.suppress(duckdb.TransactionException):  # one that has written nothing
                self._duck_conn.execute(action)
            self.note_end(committed=action == "COMMIT")

    def note_end(self, *, committed: bool) -> None:
        """Let go of what belonged to the transaction that has ended."""
        self.in_transaction = self._in_transaction = False
        self.snapshot = None
        self.done.clear()
        if committed and self._beginning is not None:
            self._own |= self.engine.locks.held_by(self)
        self.engine.locks.release(self, committed=committed)

    def note_beginning(self) -> None:
        """Let DuckDB's transaction begin with the first statement that writes, when it holds its table."""
        if self.in_transaction and self._autocommit and self.snapshot is None:
            self._duck_conn.begin()
        if (self.in_transaction or not self._autocommit) and self.snapshot is None:
            self.snapshot = self.engine.locks.versions()

    @property
    def may_read_elsewhere(self) -> bool:
        """Whether :meth:`source_of` may name another place for any table."""
        return self._beginning is not None or self.snapshot is not None

    def source_of(self, table: Table) -> duckdb.DuckDBPyConnection | None:
        """
        Where a table must be read that the statement does not write to, or None for where it is.

        A transaction of DuckDB sees what was there when it began. Snowflake's statement sees what was committed before
        the statement began; or, in the mode SESSION, perhaps no more than before the session began.
        """
        if table in self._own or table in self.engine.locks.held_by(self):
            return None
        now = self.engine.locks.versions()
        if self._beginning is not None:
            connection, then = self._beginning
            return connection if now[table] != then[table] else None
        if self.snapshot is not None and now[table] != self.snapshot[table]:
            return self.engine.duck_conn.cursor()
        return None


class Cursor(FakeSnowflakeCursor):
    """Executes statements: the one place where both protocols' statements are translated, locked and recorded."""

    _conn: Session

    columns: tuple[tuple[str, str], ...] = ()
    """Name and DuckDB type of the last result's columns."""

    def execute(
        self,
        command: str,
        params: Any = None,
        *args: Any,
        stop: Stop | None = None,
        handle: str | None = None,
        **kwargs: Any,
    ) -> Cursor:
        """
        Execute one statement.

        :param command: the statement.
        :param params: the values of its placeholders.
        :param stop: how it is ended early; by default by a timeout only.
        :param handle: the statement's handle; by default a new one.
        :raises SqlError: for everything that the statement itself caused.
        """
        session = self._conn
        stop = stop or Stop()
        record = Statement(handle or str(uuid.uuid4()), session.request_id, command, session.query_tag, session.user)
        session.engine.history.append(record)
        expression: exp.Expr | None = None
        is_done = False
        self._sqlstate = None
        try:
            params = kwargs.get("binding_params") or params
            command = self._inline_variables(command)
            expression = translate.parse_one(command)
            with stop.watch(self._duck_conn):
                try:
                    self._run(expression, list(params) if isinstance(params, tuple) else params, stop, record.handle)
                except (duckdb.Error, snowflake.connector.errors.Error) as error:
                    # Whatever the interrupt made of it, the client must hear the reason.
                    if reason := stop.error():
                        raise reason from error
                    raise
            is_done = True
        except Exception as error:
            reported = _as_sql_error(error, expression)
            record.status, record.error = "failed", getattr(reported, "msg", None) or str(reported)
            self._sqlstate = getattr(reported, "sqlstate", None)
            raise reported from error
        finally:
            if not (session.in_transaction or session._in_transaction):
                session.note_end(committed=is_done)
        record.status = "success"
        self._sfqid = record.handle  # type: ignore[assignment]
        if self._arrow_table is not None:
            session.results_cache[record.handle] = (
                self._arrow_table, self._rowcount, self._last_sql, self._last_params, self._last_transformed
            )  # fmt: skip
        return self

    def answer(self, sql: str, expression: exp.Expr) -> None:
        """Take the result of a query in DuckDB's SQL for the statement's result."""
        self._execute(sqlglot.parse_one(sql, read="duckdb"))
        self._last_transformed = expression  # type: ignore[assignment]  # fakesnow declares it as None

    def _execute(self, transformed: exp.Expr, params: Any = None) -> None:
        """Execute in DuckDB, and note the columns while it remembers them."""
        if lengths := transformed.args.get("text_lengths"):
            # fakesnow writes these names into SQL as they are.
            transformed.set("text_lengths", [(name.replace("'", "''"), length) for name, length in lengths])
        self._read_where_it_must_be(transformed)
        super()._execute(transformed, params)
        if self._arrow_table is not None:
            self._arrow_table = self._arrow_table.rename_columns(list(map(outer, self._arrow_table.column_names)))
            # The session's zone is for its statements: results are instants.
            instants = [
                column.with_type(pa.timestamp(column.type.unit, "UTC"))
                if pa.types.is_timestamp(column.type) and column.type.tz is not None
                else column
                for column in self._arrow_table.schema
            ]
            self._arrow_table = self._arrow_table.cast(pa.schema(instants))
        if transformed.args.get("result_scan_sfqid"):
            self.columns = tuple((name, type_) for name, type_, *_ in self._describe_last_sql())
        else:
            self.columns = tuple((outer(name), str(type_)) for name, type_, *_ in self._duck_conn.description or ())

    def _read_where_it_must_be(self, transformed: exp.Expr) -> None:
        """Put what :meth:`Session.source_of` says in the place of tables that are read."""
        session = self._conn
        for table in list(transformed.find_all(exp.Table)) if session.may_read_elsewhere else ():
            if not isinstance(table.this, exp.Identifier):
                continue
            database, schema = table.catalog or session.database, table.db or session.schema
            name = outer(table.name) if table.this.quoted else table.name.upper()
            key = (str(database).upper(), str(schema).upper(), name)
            if (source := session.source_of(key)) is not None:
                # Under a name of its own: the result is described later, and may be kept.
                copy = f"_read_elsewhere_{next(_numbers)}"
                self._duck_conn.register(copy, source.sql(f"SELECT * FROM {in_duckdb(*key)}").to_arrow_table())
                session.copies.append(copy)
                table.replace(exp.alias_(exp.to_table(copy), table.alias_or_name, table=True, quoted=True))

    def _describe_last_sql(self) -> list[Any]:
        return [(outer(name), *rest) for name, *rest in super()._describe_last_sql()]

    def _run(self, expression: exp.Expr, params: Any, stop: Stop, handle: str) -> None:
        session = self._conn
        stop.check()
        while session.copies:
            self._duck_conn.unregister(session.copies.pop())
        privileges.authorize(expression, session)
        warehouse = session.warehouse
        if translate.needs_warehouse(expression) and not (
            warehouse and session.may(key("WAREHOUSE", warehouse), "USAGE")
        ):
            raise SqlError(
                606,
                "57P03",
                "No active warehouse selected in the current session.  "
                "Select an active warehouse with the 'use warehouse' command.",
            )
        if translate.is_ddl(expression):
            # As in Snowflake, DDL commits what is open, and is a transaction of its own.
            session.end_transaction("COMMIT")
        locked = translate.locked_tables(expression, session)
        for table, mode in locked.items():
            session.engine.locks.acquire(session, table, mode, handle, stop)
        if locked and not translate.is_ddl(expression):
            self._begin_anew_if_late(locked)
            session.note_beginning()
        with privileges.claimed(expression, session):
            self._perform(expression, params, stop)
        if locked and session.snapshot is not None:
            session.done.append((expression, params))

    def _begin_anew_if_late(self, locked: dict[Table, Mode]) -> None:
        """
        Let a statement change what others have committed to its table since the transaction began.

        DuckDB would have it fail. The statements before it are done again; the tables that they wrote are locked.
        """
        session = self._conn
        if session.snapshot is None or not session.done:
            return
        now = session.engine.locks.versions()
        # What an INSERT has written to, others may change.
        locked_before = {
            table
            for expression, _ in session.done
            for table, mode in translate.locked_tables(expression, session).items()
            if mode is Mode.CHANGES
        }
        changed = {table for table in locked.keys() - locked_before if now[table] != session.snapshot[table]}
        if not any(locked[table] is Mode.CHANGES for table in changed):
            return
        done, session.done = session.done, []
        self._duck_conn.rollback()
        self._duck_conn.begin()
        session.snapshot = now
        for expression, params in done:
            self._perform(expression, params, Stop())
        session.done = done

    def _perform(self, expression: exp.Expr, params: Any, stop: Stop) -> None:
        session = self._conn
        if (seconds := translate.wait_seconds(expression)) is not None:
            stop.cancelled.wait(min(seconds, stop.remaining()))
            stop.check()
            self.answer(f"SELECT 'waited {seconds:g} seconds' AS \"SYSTEM$WAIT\"", expression)
        elif (plan := policies.plan(expression, session)) is not None:
            self.answer(plan, expression)
        elif (
            status := policies.execute(expression, session) or translate.account_statement(expression, session)
        ) is not None:
            if translate.is_ddl(expression):
                privileges.note_end(expression, session)
                session.engine.save()
            self.answer(f'SELECT {exp.Literal.string(status).sql("duckdb")} AS "status"', expression)
        elif translate.needs_transaction(expression) and not session.in_transaction and session._autocommit:
            self._atomically(expression, params, stop)
        else:
            self._run_translated(expression, params, stop)

    def _atomically(self, expression: exp.Expr, params: Any, stop: Stop) -> None:
        """Run a statement that becomes several in DuckDB as one."""
        self._duck_conn.begin()
        try:
            self._run_translated(expression, params, stop)
            stop.check()
        except BaseException:
            with contextlib.suppress(duckdb.Error):
                self._duck_conn.rollback()
            raise
        self._duck_conn.commit()

    def _run_translated(self, expression: exp.Expr, params: Any, stop: Stop) -> None:
        session = self._conn
        if isinstance(expression, exp.Copy):
            copy_into(self, expression, stop)
            return
        if isinstance(expression, exp.ListStage):
            list_stage(self, expression)
            return
        if isinstance(expression, exp.Transaction):
            # DuckDB's begins later. A second BEGIN is ignored.
            session.in_transaction = True
            self.answer("SELECT 'Statement executed successfully.' AS \"status\"", expression)
            return
        if (integration := described_integration(expression)) is not None:
            self.answer(translate.describe_integration(integration, session), expression)
            return
        # Before anything is done, as it refuses what is no type here.
        declared = translate.declared_columns(expression, session)
        translated = translate.translate(policies.applied(expression, session), session)
        self.check_db_and_schema(translated)
        if isinstance(expression, (exp.Create, exp.Drop)) and (expression.args.get("replace") or declared is None):
            # fakesnow keeps the lengths of a table's columns for the next table of its name.
            for table in translate.changed_tables(expression):
                database, schema, name = qualified(table, session)
                session.engine.duck_conn.cursor().execute(
                    "DELETE FROM _fs_global._fs_information_schema._fs_columns_ext"
                    " WHERE (ext_table_catalog, ext_table_schema, ext_table_name) = (?, ?, ?)",
                    [database, schema, inner(name)],
                )
        if isinstance(translated, exp.Merge):
            self._merge(translated, params)
            return
        for statement in self._transform_explode(translated):
            stop.check()
            transformed = self._transform(statement, params)
            self._execute(transformed, params if transformed.find(exp.Placeholder) else None)
        if isinstance(expression, (exp.Commit, exp.Rollback)):
            session.note_end(committed=isinstance(expression, exp.Commit))
        if declared is not None and declared[1]:
            for column, kind in declared[1].items():
                self._duck_conn.execute(f"COMMENT ON COLUMN {in_duckdb(*declared[0])}.{in_duckdb(column)} IS '{kind}'")
        self._after(expression)

    def _merge(self, merge: exp.Merge, params: Any) -> None:
        """Run a MERGE by DuckDB's own: fakesnow's, of several statements, fails inside a transaction."""
        transformed = self._transform(merge, params)
        self._read_where_it_must_be(transformed)
        sql = transformed.sql(dialect="duckdb") + " RETURNING merge_action"
        actions = Counter(action for (action,) in self._duck_conn.execute(sql, params or None).fetchall())
        counts = [
            f'{actions[action]}::BIGINT AS "number of rows {done}"'
            for action, done in (("INSERT", "inserted"), ("UPDATE", "updated"), ("DELETE", "deleted"))
            if done in {operation for operation, clauses in merge_operations(merge).items() if clauses}
        ]
        self.answer(f"SELECT {', '.join(counts)}", merge)
        self._rowcount = actions.total()  # type: ignore[assignment]

    def _after(self, expression: exp.Expr) -> None:
        """Keep what fakesnow forgets."""
        session = self._conn
        if isinstance(expression, exp.Create) and expression.kind == "DATABASE":
            session.engine.prepare_database(expression.this.name.upper())
        if translate.is_ddl(expression) or isinstance(expression, exp.TruncateTable):
            for table in translate.changed_tables(expression):
                forget_loads(self, table)
        if (renamed := privileges.new_name(expression)) is not None:
            move_loads(self, expression.this, renamed)
        if translate.is_ddl(expression):
            translate.complete_stage(expression, session)
            policies.note_end(expression, session)
            privileges.note_end(expression, session)
            session.engine.save()
        if isinstance(expression, (exp.Describe, exp.Show)) or any(
            table.db.upper() == "INFORMATION_SCHEMA" for table in expression.find_all(exp.Table)
        ):
            self._show_names()
        if isinstance(expression, exp.Show):
            self._hide(expression)
        if isinstance(expression, exp.Describe):
            self._tell_types_apart(expression)

    def _tell_types_apart(self, describe: exp.Describe) -> None:
        """Put Snowflake's types, and masking policies, into the result of DESCRIBE TABLE."""
        table = self._arrow_table
        if table is None or not {"name", "type"} <= set(table.column_names):
            return
        declared = translate.described_types(describe, self._conn)
        types = [declared.get(row["name"], row["type"]) for row in table.to_pylist()]
        table = table.set_column(table.column_names.index("type"), "type", pa.array(types, pa.string()))
        if (described := describe.find(exp.Table)) is not None and "policy name" in table.column_names:
            masks = policies.described(described, self._conn)
            names = pa.array([masks.get(row["name"]) for row in table.to_pylist()], pa.string())
            table = table.set_column(table.column_names.index("policy name"), "policy name", names)
        self._arrow_table = table

    def _show_names(self) -> None:
        """Put Snowflake's names into a result that holds names."""
        if (table := self._arrow_table) is None:
            return
        for number, column in enumerate(table.schema):
            if pa.types.is_string(column.type):
                names = [None if name is None else outer(name) for name in table.column(number).to_pylist()]
                table = table.set_column(number, column, pa.array(names, column.type))
        self._arrow_table = table

    def _hide(self, show: exp.Show) -> None:
        """Take out of the result of SHOW what the role may not know of, and fill in owners and rows of the rest."""
        session, table = self._conn, self._arrow_table
        objects = privileges.shown_objects(show, table.to_pylist()) if table is not None else None
        if table is None or objects is None:
            return
        if "owner" in table.column_names:
            owners = [session.engine.catalogue.rights.owners.get(name, "") for name in objects]
            table = table.set_column(table.column_names.index("owner"), "owner", pa.array(owners, pa.string()))
        table = table.filter(pa.array([session.may(name) for name in objects], pa.bool_()))
        if "rows" in table.column_names:
            place = table.column_names.index("rows")
            counts = pa.array(list(map(self._count_rows, table.to_pylist())), table.schema.field("rows").type)
            table = table.set_column(place, "rows", counts)
        self._arrow_table = table
        self._rowcount = table.num_rows

    def _count_rows(self, shown: dict[str, Any]) -> int:
        """Count the committed rows of a table that SHOW lists: no policy hides any."""
        name = in_duckdb(shown["database_name"], shown["schema_name"], shown["name"])
        with contextlib.suppress(duckdb.CatalogException):  # another session may drop it meanwhile
            answer = self._conn.engine.duck_conn.cursor().execute(f"SELECT COUNT(*) FROM {name}").fetchone()
            return int(answer[0]) if answer else 0
        return 0


def _as_sql_error(error: Exception, expression: exp.Expr | None) -> Exception:
    """The error as Snowflake reports it; an error of the emulator itself stays what it is."""
    if isinstance(error, SqlError):
        return error
    if isinstance(error, duckdb.Error):
        return from_duckdb(error, expression)
    if isinstance(error, sqlglot.errors.SqlglotError):
        return from_parser(error)
    if isinstance(error, snowflake.connector.errors.Error):
        cause = error.__cause__
        if isinstance(cause, duckdb.Error):
            return from_duckdb(cause, expression)
        if isinstance(cause, sqlglot.errors.SqlglotError):
            return from_parser(cause)
        return SqlError(error.errno or 2, error.sqlstate or "0A000", error.raw_msg or str(error))
    if isinstance(error, NotImplementedError):
        return SqlError(2, "0A000", f"Unsupported feature '{error}'.")
    return error
