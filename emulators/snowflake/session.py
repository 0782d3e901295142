"""The session of a client: role, current database and schema, transaction, and which versions of tables it reads."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

import duckdb
from fakesnow.conn import FakeSnowflakeConnection
from sqlglot import exp

from emulators.snowflake import load_metadata
from emulators.snowflake.account import Account
from emulators.snowflake.errors import SqlError, invalid_value
from emulators.snowflake.names import ObjectName, key, name_of
from emulators.snowflake.rights import ADMINISTRATOR

DEFAULT_TIME_ZONE = "America/Los_Angeles"
"""The session parameter TIMEZONE of an account where nobody has set it."""


class Session(FakeSnowflakeConnection):
    """
    One client's session: user, rights, current database and schema, and transaction.

    :param user: the user's name; by default the administrator's.
    :param role: the current role; if none is given, ACCOUNTADMIN for the administrator and PUBLIC for everybody else.
    :param warehouse: the current warehouse; as in the real service, an unknown name leaves the session without one.
    :param query_tag: the tag that the statements are recorded with.
    :param time_zone: the session parameter TIMEZONE; by default that of a new account.
    :param request_id: the SQL API request that the session belongs to.
    :param autocommit: the session parameter AUTOCOMMIT.
    """

    def __init__(
        self,
        account: Account,
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
            account.duck_conn.cursor(),
            account.results_cache,
            database,
            schema,
            create_database=False,
            create_schema=False,
            db_path=account.db_path,
            paramstyle="qmark",
            autocommit=autocommit,
        )
        self.account = account
        self.user = user
        self.role = role or ("ACCOUNTADMIN" if user == ADMINISTRATOR else "PUBLIC")
        self.warehouse = warehouse if warehouse in account.catalogue.warehouses else None
        self.query_tag = query_tag
        self.time_zone = DEFAULT_TIME_ZONE
        self.set_time_zone(time_zone or DEFAULT_TIME_ZONE)
        self.request_id = request_id
        self.in_transaction = False
        self.writes: list[tuple[exp.Expr, Any]] = []
        """The writing statements of the open transaction, with their parameters, so that they can be executed again."""
        self.snapshot: Counter[ObjectName] | None = None
        """The versions of the tables that DuckDB's open transaction sees; None before its first write."""
        self.copies: list[str] = []
        """Names in DuckDB of the copies that the last statement read in place of tables."""
        self._committed_tables: set[ObjectName] = set()
        """The tables to which this session has committed changes."""
        self._beginning: tuple[duckdb.DuckDBPyConnection, Counter[ObjectName]] | None = None
        if account.session_consistency:
            # Versions first: a commit in between then counts as late, and its table is read from the snapshot.
            versions, connection = account.locks.versions(), account.duck_conn.cursor()
            connection.begin()
            if self.database_set:
                # DuckDB takes the snapshot of a database when a transaction first reads from it, so read now.
                load_metadata.look_into(connection, str(self.database))
            self._beginning = connection, versions
        self.temporary: set[str] = set()
        """The session's temporary tables."""

    def close(self, retry: bool = True) -> None:
        """End the session: an open transaction is rolled back, its locks are released."""
        if not self._is_closed:
            with contextlib.suppress(duckdb.Error):
                self._duck_conn.rollback()
            super().close()
            if self._beginning is not None:
                self._beginning[0].close()
        self.account.locks.release(self, committed=False)

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
        """Set the session's time zone on a connection to DuckDB."""
        connection.execute(f"SET TimeZone = {exp.Literal.string(self.time_zone).sql('duckdb')}")

    def may(self, name: str, privilege: str | None = None) -> bool:
        """
        Return whether the current role has a privilege on an object. Every role may use an object without an owner.

        :param name: the object, as :func:`emulators.snowflake.names.key` writes it.
        :param privilege: the privilege; None stands for any privilege.
        """
        rights = self.account.catalogue.rights
        return rights.holds(self.role, name, privilege) or (name not in rights.owners and name != "ACCOUNT")

    def qualified(self, table: exp.Table) -> ObjectName:
        """
        Complete the name of a table or stage.

        :raises SqlError: 90105 or 90106 if there is no current database or schema to complete it.
        """
        database = name_of(table.args["catalog"]) if table.args.get("catalog") else self.current_database()
        schema = name_of(table.args["db"]) if table.args.get("db") else None
        if not schema:
            # A schema that the role may not use does not become current, even if the client named it at login.
            if not self.schema_set or not self.may(key("SCHEMA", database, str(self.schema)), "USAGE"):
                raise _no_current("schema", "Call 'USE SCHEMA'")
            schema = str(self.schema)
        return database, schema, name_of(table.this)

    def current_database(self) -> str:
        """
        Return the current database.

        :raises SqlError: 90105 if there is none, or the role may not use it.
        """
        if not self.database_set or not self.may(key("DATABASE", str(self.database)), "USAGE"):
            raise _no_current("database", "Call 'USE DATABASE'")
        return str(self.database)

    def end_transaction(self, action: str) -> None:
        """COMMIT or ROLLBACK the open transaction, if there is one."""
        if self.in_transaction or self._in_transaction:
            with contextlib.suppress(duckdb.TransactionException):  # nothing was written, so DuckDB has none
                self._duck_conn.execute(action)
            self.note_end(committed=action == "COMMIT")

    def note_end(self, *, committed: bool) -> None:
        """Reset the state of the transaction that has ended, and release its locks."""
        self.in_transaction = self._in_transaction = False
        self.snapshot = None
        self.writes.clear()
        if committed and self._beginning is not None:
            self._committed_tables |= self.account.locks.held_by(self)
        self.account.locks.release(self, committed=committed)

    def note_beginning(self) -> None:
        """Begin DuckDB's transaction at the first writing statement, after it has locked its table."""
        if self.in_transaction and self._autocommit and self.snapshot is None:
            self._duck_conn.begin()
        if (self.in_transaction or not self._autocommit) and self.snapshot is None:
            self.snapshot = self.account.locks.versions()

    @property
    def may_redirect_reads(self) -> bool:
        """Whether :meth:`connection_to_read` may return a connection for any table."""
        return self._beginning is not None or self.snapshot is not None

    def connection_to_read(self, table: ObjectName) -> duckdb.DuckDBPyConnection | None:
        """
        Return the connection that must read a table in place of the session's own; None if its own is right.

        DuckDB's transaction sees what was committed before the transaction began. Snowflake's statement sees what was
        committed before the statement began; with READ_CONSISTENCY_MODE = SESSION, before the session began. A table
        that the transaction writes to is read through the session's own connection.
        """
        if table in self._committed_tables or table in self.account.locks.held_by(self):
            return None
        now = self.account.locks.versions()
        if self._beginning is not None:
            connection, then = self._beginning
            return connection if now[table] != then[table] else None
        if self.snapshot is not None and now[table] != self.snapshot[table]:
            return self.account.duck_conn.cursor()
        return None


def _no_current(kind: str, advice: str) -> SqlError:
    number = 90105 if kind == "database" else 90106
    return SqlError(number, "22000", f"This session does not have a current {kind}. {advice}, or use a qualified name.")
