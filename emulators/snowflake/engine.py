"""The engine: executes Snowflake's SQL with fakesnow and DuckDB."""

from __future__ import annotations

import contextlib
import itertools
import uuid
import warnings
from collections import Counter
from typing import Any

import duckdb
import pyarrow as pa
import snowflake.connector.cursor
import snowflake.connector.errors
import sqlglot
from fakesnow.cursor import FakeSnowflakeCursor
from fakesnow.transforms.merge import operations as merge_operations
from sqlglot import exp

from emulators.snowflake import (
    account_statements,
    load_metadata,
    policies,
    privileges,
    stages,
    statements,
    translate,
)
from emulators.snowflake.account import Account, Statement
from emulators.snowflake.copy_into import copy_into
from emulators.snowflake.duckdb_names import quoted_for_duckdb, to_duckdb, to_snowflake
from emulators.snowflake.errors import SqlError, from_duckdb, from_parser, unsupported
from emulators.snowflake.locks import Mode
from emulators.snowflake.names import ObjectName, described_integration, key
from emulators.snowflake.session import Session
from emulators.snowflake.stop import Stop

# DuckDB warns of the method by which fakesnow fetches results.
warnings.filterwarnings("ignore", message="Arrow output on a DB-API result", category=UserWarning)

_numbers = itertools.count(1)


class Engine(Account):
    """An account that clients can connect to."""

    def connect(
        self,
        database: str | None = None,
        schema: str | None = None,
        nop_regexes: list[str] | None = None,
        **kwargs: Any,
    ) -> Connection:
        """Open a session. ``kwargs`` are passed to :class:`emulators.snowflake.session.Session`."""
        return Connection(self, database, schema, **kwargs)


class Connection(Session):
    """A session whose cursors execute statements."""

    def cursor(self, cursor_class: type[Any] = snowflake.connector.cursor.SnowflakeCursor) -> Cursor:
        """Return a cursor of this session."""
        return Cursor(self, self._duck_conn, use_dict_result=cursor_class == snowflake.connector.cursor.DictCursor)


class Cursor(FakeSnowflakeCursor):
    """Executes statements. The statements of both protocols are translated, locked and recorded here."""

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
        parsed: exp.Expr | None = None,
        **kwargs: Any,
    ) -> Cursor:
        """
        Execute one statement.

        :param command: the statement.
        :param params: the values of its placeholders.
        :param stop: ends the statement early; by default only after the default timeout.
        :param handle: the statement's handle; by default a new one.
        :param parsed: the statement as :func:`statements.parse_one` returns it, if the caller has parsed it already.
        :raises SqlError: for every error that the statement itself caused.
        """
        session = self._conn
        stop = stop or Stop()
        record = Statement(handle or str(uuid.uuid4()), session.request_id, command, session.query_tag, session.user)
        session.account.history.append(record)
        expression: exp.Expr | None = None
        is_done = False
        self._sqlstate = None
        try:
            params = kwargs.get("binding_params") or params
            inlined = self._inline_variables(command)
            expression = parsed if parsed is not None and inlined == command else statements.parse_one(inlined)
            with stop.watch(self._duck_conn):
                try:
                    self._run(expression, list(params) if isinstance(params, tuple) else params, stop, record.handle)
                except (duckdb.Error, snowflake.connector.errors.Error) as error:
                    # An interrupt surfaces as some error of DuckDB. Report its reason, a timeout or a cancel, instead.
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
        return self

    def answer(self, sql: str, expression: exp.Expr) -> None:
        """Use the result of a query in DuckDB's SQL as the statement's result."""
        self._execute(sqlglot.parse_one(sql, read="duckdb"))
        self._last_transformed = expression  # type: ignore[assignment]  # fakesnow declares it as None

    def _execute(self, transformed: exp.Expr, params: Any = None) -> None:
        """Execute in DuckDB, and keep the names and types of the columns, which DuckDB forgets with the next query."""
        if transformed.args.get("result_scan_sfqid"):
            raise unsupported("RESULT_SCAN")
        if lengths := transformed.args.get("text_lengths"):
            # Escape the names: fakesnow inserts them into SQL unescaped.
            transformed.set("text_lengths", [(name.replace("'", "''"), length) for name, length in lengths])
        self._redirect_reads(transformed)
        super()._execute(transformed, params)
        if self._arrow_table is not None:
            self._arrow_table = self._arrow_table.rename_columns(
                list(map(to_snowflake, self._arrow_table.column_names))
            )
            # Return instants in UTC: the session's time zone only affects how statements are computed.
            instants = [
                column.with_type(pa.timestamp(column.type.unit, "UTC"))
                if pa.types.is_timestamp(column.type) and column.type.tz is not None
                else column
                for column in self._arrow_table.schema
            ]
            self._arrow_table = self._arrow_table.cast(pa.schema(instants))
        self.columns = tuple((to_snowflake(name), str(type_)) for name, type_, *_ in self._duck_conn.description or ())

    def _redirect_reads(self, transformed: exp.Expr) -> None:
        """Replace tables that DuckDB's transaction sees in a wrong version: see :meth:`Session.connection_to_read`."""
        session = self._conn
        for table in list(transformed.find_all(exp.Table)) if session.may_redirect_reads else ():
            if not isinstance(table.this, exp.Identifier):
                continue
            database, schema = table.catalog or session.database, table.db or session.schema
            name = to_snowflake(table.name) if table.this.quoted else table.name.upper()
            key = (str(database).upper(), str(schema).upper(), name)
            if (source := session.connection_to_read(key)) is not None:
                # A unique name per copy: fakesnow describes the query again later, and may keep its result.
                copy = f"_read_elsewhere_{next(_numbers)}"
                self._duck_conn.register(copy, source.sql(f"SELECT * FROM {quoted_for_duckdb(*key)}").to_arrow_table())
                session.copies.append(copy)
                table.replace(exp.alias_(exp.to_table(copy), table.alias_or_name, table=True, quoted=True))

    def _describe_last_sql(self) -> list[Any]:
        return [(to_snowflake(name), *rest) for name, *rest in super()._describe_last_sql()]

    def _run(self, expression: exp.Expr, params: Any, stop: Stop, handle: str) -> None:
        session = self._conn
        stop.check()
        while session.copies:
            self._duck_conn.unregister(session.copies.pop())
        privileges.authorize(expression, session)
        warehouse = session.warehouse
        if statements.needs_warehouse(expression) and not (
            warehouse and session.may(key("WAREHOUSE", warehouse), "USAGE")
        ):
            raise SqlError(
                606,
                "57P03",
                "No active warehouse selected in the current session.  "
                "Select an active warehouse with the 'use warehouse' command.",
            )
        if statements.is_ddl(expression):
            # As in Snowflake, DDL commits the open transaction and runs in a transaction of its own.
            session.end_transaction("COMMIT")
        locked = statements.locked_tables(expression, session)
        for table, mode in locked.items():
            session.account.locks.acquire(session, table, mode, handle, stop)
        if locked and not statements.is_ddl(expression):
            self._restart_if_outdated(locked)
            session.note_beginning()
        with privileges.ownership_noted(expression, session):
            self._perform(expression, params, stop)
        if locked and session.snapshot is not None:
            session.writes.append((expression, params))

    def _restart_if_outdated(self, locked: dict[ObjectName, Mode]) -> None:
        """
        Restart DuckDB's transaction if others have committed changes to the statement's table since it began.

        DuckDB would refuse to change such a table. The transaction's earlier statements are executed again. The
        tables that they wrote to are still locked.
        """
        session = self._conn
        if session.snapshot is None or not session.writes:
            return
        now = session.account.locks.versions()
        # Leave out tables with INSERT only: an INSERT does not lock its table against changes by others.
        locked_before = {
            table
            for expression, _ in session.writes
            for table, mode in statements.locked_tables(expression, session).items()
            if mode is Mode.CHANGES
        }
        changed = {table for table in locked.keys() - locked_before if now[table] != session.snapshot[table]}
        if not any(locked[table] is Mode.CHANGES for table in changed):
            return
        writes, session.writes = session.writes, []
        self._duck_conn.rollback()
        self._duck_conn.begin()
        session.snapshot = now
        for expression, params in writes:
            self._perform(expression, params, Stop())
        session.writes = writes

    def _perform(self, expression: exp.Expr, params: Any, stop: Stop) -> None:
        session = self._conn
        if (seconds := statements.wait_seconds(expression)) is not None:
            stop.cancelled.wait(min(seconds, stop.remaining()))
            stop.check()
            self.answer(f"SELECT 'waited {seconds:g} seconds' AS \"SYSTEM$WAIT\"", expression)
        elif (plan := policies.plan(expression, session)) is not None:
            self.answer(plan, expression)
        elif (
            status := policies.execute(expression, session) or account_statements.execute(expression, session)
        ) is not None:
            if statements.is_ddl(expression):
                privileges.note_end(expression, session)
                session.account.save()
            self.answer(f'SELECT {exp.Literal.string(status).sql("duckdb")} AS "status"', expression)
        elif statements.needs_transaction(expression) and not session.in_transaction and session._autocommit:
            self._atomically(expression, params, stop)
        else:
            self._run_translated(expression, params, stop)

    def _atomically(self, expression: exp.Expr, params: Any, stop: Stop) -> None:
        """Run a statement that becomes several statements in DuckDB in one transaction."""
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
            self.answer(copy_into(expression, session, stop), expression)
            return
        if isinstance(expression, exp.ListStage):
            self.answer(stages.list_stage(expression, session), expression)
            return
        if isinstance(expression, exp.Transaction):
            # Only note it: DuckDB's transaction begins with the first write. A second BEGIN is ignored.
            session.in_transaction = True
            self.answer("SELECT 'Statement executed successfully.' AS \"status\"", expression)
            return
        if (integration := described_integration(expression)) is not None:
            self.answer(stages.describe_integration(integration, session), expression)
            return
        # Check the types first: an unsupported type must fail before anything is changed.
        declared = translate.declared_columns(expression, session)
        translated = translate.translate(policies.applied(expression, session), session)
        self.check_db_and_schema(translated)
        if isinstance(expression, (exp.Create, exp.Drop)) and (expression.args.get("replace") or declared is None):
            # Delete the lengths of the columns: fakesnow would apply them to the next table of the same name.
            for table in statements.changed_tables(expression):
                database, schema, name = session.qualified(table)
                session.account.duck_conn.cursor().execute(
                    "DELETE FROM _fs_global._fs_information_schema._fs_columns_ext"
                    " WHERE (ext_table_catalog, ext_table_schema, ext_table_name) = (?, ?, ?)",
                    [database, schema, to_duckdb(name)],
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
                self._duck_conn.execute(
                    f"COMMENT ON COLUMN {quoted_for_duckdb(*declared[0])}.{quoted_for_duckdb(column)} IS '{kind}'"
                )
        self._after(expression)

    def _merge(self, merge: exp.Merge, params: Any) -> None:
        """Run MERGE as one MERGE of DuckDB: fakesnow splits it into several statements, which fail in a transaction."""
        transformed = self._transform(merge, params)
        self._redirect_reads(transformed)
        sql = transformed.sql(dialect="duckdb") + " RETURNING merge_action"
        actions = Counter(action for (action,) in self._duck_conn.execute(sql, params or None).fetchall())
        counts = [
            f'{actions[action]}::BIGINT AS "number of rows {changed}"'
            for action, changed in (("INSERT", "inserted"), ("UPDATE", "updated"), ("DELETE", "deleted"))
            if changed in {operation for operation, clauses in merge_operations(merge).items() if clauses}
        ]
        self.answer(f"SELECT {', '.join(counts)}", merge)
        self._rowcount = actions.total()  # type: ignore[assignment]

    def _after(self, expression: exp.Expr) -> None:
        """Do what fakesnow leaves out after a statement: load metadata, stages, policies, rights and names."""
        session = self._conn
        if isinstance(expression, exp.Create) and expression.kind == "DATABASE":
            session.account.prepare_database(expression.this.name.upper())
        if statements.is_ddl(expression) or isinstance(expression, exp.TruncateTable):
            for table in statements.changed_tables(expression):
                load_metadata.forget(self._duck_conn, session.qualified(table))
        if (renamed := privileges.new_name(expression)) is not None:
            load_metadata.move(self._duck_conn, session.qualified(expression.this), session.qualified(renamed))
        if statements.is_ddl(expression):
            stages.complete_stage(expression, session)
            policies.note_end(expression, session)
            privileges.note_end(expression, session)
            session.account.save()
        if isinstance(expression, (exp.Describe, exp.Show)) or any(
            table.db.upper() == "INFORMATION_SCHEMA" for table in expression.find_all(exp.Table)
        ):
            self._show_names()
        if isinstance(expression, exp.Show):
            self._hide(expression)
        if isinstance(expression, exp.Describe):
            self._restore_declared_types(expression)

    def _restore_declared_types(self, describe: exp.Describe) -> None:
        """Fill in Snowflake's types and the masking policies in the result of DESCRIBE TABLE."""
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
        """Convert the names in a result from DuckDB's to Snowflake's."""
        if (table := self._arrow_table) is None:
            return
        for number, column in enumerate(table.schema):
            if pa.types.is_string(column.type):
                names = [None if name is None else to_snowflake(name) for name in table.column(number).to_pylist()]
                table = table.set_column(number, column, pa.array(names, column.type))
        self._arrow_table = table

    def _hide(self, show: exp.Show) -> None:
        """Remove what the role may not see from the result of SHOW, and fill in owners and numbers of rows."""
        session, table = self._conn, self._arrow_table
        objects = privileges.shown_objects(show, table.to_pylist()) if table is not None else None
        if table is None or objects is None:
            return
        if "owner" in table.column_names:
            owners = [session.account.catalogue.rights.owners.get(name, "") for name in objects]
            table = table.set_column(table.column_names.index("owner"), "owner", pa.array(owners, pa.string()))
        table = table.filter(pa.array([session.may(name) for name in objects], pa.bool_()))
        if "rows" in table.column_names:
            place = table.column_names.index("rows")
            counts = pa.array(list(map(self._count_rows, table.to_pylist())), table.schema.field("rows").type)
            table = table.set_column(place, "rows", counts)
        self._arrow_table = table
        self._rowcount = table.num_rows

    def _count_rows(self, shown: dict[str, Any]) -> int:
        """Count the committed rows of a table that SHOW lists. Policies do not apply to this count."""
        name = quoted_for_duckdb(shown["database_name"], shown["schema_name"], shown["name"])
        with contextlib.suppress(duckdb.CatalogException):  # another session may drop the table meanwhile
            answer = self._conn.account.duck_conn.cursor().execute(f"SELECT COUNT(*) FROM {name}").fetchone()
            return int(answer[0]) if answer else 0
        return 0


def _as_sql_error(error: Exception, expression: exp.Expr | None) -> Exception:
    """Convert an error to the one that Snowflake reports. An error of the emulator itself is not converted."""
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
