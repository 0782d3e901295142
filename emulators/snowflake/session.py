"""The session of a client: its role, its current database and schema, its transaction and what it sees."""

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
    One client's session: who it is, what it may, its current database and schema, and its transaction.

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
        self.done: list[tuple[exp.Expr, Any]] = []
        """What the open transaction has written with, while DuckDB has one too; BEGIN alone takes no snapshot there."""
        self.snapshot: Counter[ObjectName] | None = None
        """The versions of the tables as the open transaction of DuckDB sees them."""
        self.copies: list[str] = []
        """Tables that its last statement has read elsewhere, as DuckDB knows them."""
        self._own: set[ObjectName] = set()
        self._beginning: tuple[duckdb.DuckDBPyConnection, Counter[ObjectName]] | None = None
        if account.session_consistency:
            # In this order: what is committed in between is taken for late, and read as it is in the snapshot.
            versions, connection = account.locks.versions(), account.duck_conn.cursor()
            connection.begin()
            if self.database_set:
                # A transaction of DuckDB has its snapshot of a database from the first look into it.
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
        """Let a connection to DuckDB have the session's time zone."""
        connection.execute(f"SET TimeZone = {exp.Literal.string(self.time_zone).sql('duckdb')}")

    def may(self, name: str, privilege: str | None = None) -> bool:
        """
        Whether the current role has a right.

        :param name: the object, as :func:`emulators.snowflake.names.key` writes it; without an owner, everybody has it.
        :param privilege: the privilege; without it, any will do.
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
            # A schema that the role may not use is not the session's, though a client asked for it.
            if not self.schema_set or not self.may(key("SCHEMA", database, str(self.schema)), "USAGE"):
                raise _no_current("schema", "Call 'USE SCHEMA'")
            schema = str(self.schema)
        return database, schema, name_of(table.this)

    def current_database(self) -> str:
        """
        Return the current database.

        :raises SqlError: 90105 if there is none, or none that the role may use.
        """
        if not self.database_set or not self.may(key("DATABASE", str(self.database)), "USAGE"):
            raise _no_current("database", "Call 'USE DATABASE'")
        return str(self.database)

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
            self._own |= self.account.locks.held_by(self)
        self.account.locks.release(self, committed=committed)

    def note_beginning(self) -> None:
        """Let DuckDB's transaction begin with the first statement that writes, when it holds its table."""
        if self.in_transaction and self._autocommit and self.snapshot is None:
            self._duck_conn.begin()
        if (self.in_transaction or not self._autocommit) and self.snapshot is None:
            self.snapshot = self.account.locks.versions()

    @property
    def may_redirect_reads(self) -> bool:
        """Whether :meth:`connection_to_read` may name another place for any table."""
        return self._beginning is not None or self.snapshot is not None

    def connection_to_read(self, table: ObjectName) -> duckdb.DuckDBPyConnection | None:
        """
        Where a table must be read that the statement does not write to, or None for where it is.

        A transaction of DuckDB sees what was there when it began. Snowflake's statement sees what was committed before
        the statement began; or, in the mode SESSION, perhaps no more than before the session began.
        """
        if table in self._own or table in self.account.locks.held_by(self):
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
