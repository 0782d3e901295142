"""Snowflake's errors: how the real service reports what DuckDB and the parser refuse."""

from __future__ import annotations

import re

import duckdb
import snowflake.connector.errors
import sqlglot.errors
from sqlglot import exp

from emulators.snowflake.duckdb_names import to_snowflake


class SqlError(snowflake.connector.errors.ProgrammingError):
    """
    An error that the user's SQL caused.

    :param errno: Snowflake's error number, for example 2003.
    :param sqlstate: the SQL state, five characters.
    :param message: the real service's message.
    """

    def __init__(self, errno: int, sqlstate: str, message: str) -> None:
        super().__init__(msg=message, errno=errno, sqlstate=sqlstate)
        # The constructor prefixes the message with number and state. The SQL API sends them in fields of their own.
        self.msg = message


def does_not_exist(kind: str, name: str) -> SqlError:
    """Report that an object, stage, integration or role does not exist, or that the current role may not see it."""
    sqlstate = "42S02" if kind == "Object" else "02000"
    return SqlError(2003, sqlstate, f"SQL compilation error:\n{kind} '{name}' does not exist or not authorized.")


def already_exists(name: str) -> SqlError:
    """Report that the name is taken."""
    return SqlError(2002, "42710", f"SQL compilation error:\nObject '{name}' already exists.")


def exists_without_privileges(kind: str, name: str) -> SqlError:
    """Report that CREATE ... IF NOT EXISTS found an object on which the current role has no privileges."""
    return SqlError(
        3041,
        "42710",
        f"SQL compilation error:\n{kind} '{name}' already exists, but current role has no privileges on it. If this is "
        "unexpected and you cannot resolve this problem, contact your system administrator. ACCOUNTADMIN role may be "
        "required to manage the privileges on the object.",
    )


def insufficient(kind: str, name: str) -> SqlError:
    """Report that the role may see the object but lacks the privilege for this operation."""
    return SqlError(3001, "42501", f"SQL access control error:\nInsufficient privileges to operate on {kind} '{name}'")


def not_assigned(role: str) -> SqlError:
    """Report that USE ROLE names a role that is not granted to the user."""
    return SqlError(
        3013,
        "42501",
        f"SQL access control error:\nRequested role '{role}' is not assigned to the executing user. Specify another "
        "role to activate.",
    )


def cannot_use() -> SqlError:
    """Report that USE names an object that does not exist, or that the role may not use."""
    return SqlError(2043, "02000", "SQL compilation error:\nObject does not exist, or operation cannot be performed.")


def unsupported(what: str) -> SqlError:
    """Report a statement or an option that this emulator, or Snowflake itself, does not support."""
    return SqlError(2, "0A000", f"Unsupported feature '{what}'.")


def invalid_value(value: str, parameter: str) -> SqlError:
    """Report a value that an option or a session parameter does not accept."""
    return SqlError(1008, "22023", f"SQL compilation error:\ninvalid value [{value}] for parameter '{parameter}'")


def invalid_property(name: str, owner: str) -> SqlError:
    """Report a property that this kind of object does not have."""
    return SqlError(1420, "22023", f"SQL compilation error:\ninvalid property '{name}' for '{owner}'")


def syntax_error(line: int, position: int, unexpected: str) -> SqlError:
    """Report a statement that cannot be parsed, and where parsing failed."""
    at = f"syntax error line {line} at position {position} unexpected '{unexpected}'."
    return SqlError(1003, "42000", f"SQL compilation error:\n{at}")


def from_parser(error: sqlglot.errors.SqlglotError) -> SqlError:
    """Convert an error of the parser, sqlglot."""
    if isinstance(error, sqlglot.errors.ParseError) and error.errors:
        first = error.errors[0]
        line, column = int(first.get("line") or 1), int(first.get("col") or 0)
        unexpected = str(first.get("highlight") or "<EOF>")
        return syntax_error(line, max(0, column - len(unexpected)), unexpected)
    return SqlError(1003, "42000", f"SQL compilation error:\nparse error: {error}")


def from_duckdb(error: duckdb.Error, statement: exp.Expr | None = None) -> SqlError:
    """
    Convert an error of DuckDB.

    :param statement: the failed statement: the error spells the object as the statement spells it
    """
    text = to_snowflake(str(error).split("\n", 1)[0])
    plain = re.sub(r"^[A-Za-z ]+ Error: ", "", text)
    if isinstance(error, duckdb.CatalogException):
        return _catalog_error(plain, statement)
    if isinstance(error, duckdb.BinderException):
        return _binder_error(plain, statement)
    if isinstance(error, duckdb.ConstraintException) and "NOT NULL" in plain:
        return SqlError(100072, "22000", "NULL result in a non-nullable column")
    if m := re.search(r"\(Error: (String '.*' is too long and would be truncated)\)$", str(error), re.DOTALL):
        return SqlError(100078, "22000", m[1])
    if plain == "Division by zero":
        return SqlError(100051, "22012", plain)
    if "same target row more than once" in plain:
        return SqlError(100090, "42P18", "Duplicate row detected during DML action")
    if isinstance(error, duckdb.ParserException):
        return SqlError(1003, "42000", f"SQL compilation error:\n{plain}")
    if isinstance(error, duckdb.InvalidInputException) and (m := re.match(r"Malformed JSON at byte (\d+)", plain)):
        return SqlError(100069, "22P02", f"Error parsing JSON: {plain}, pos {m[1]}")
    if isinstance(error, (duckdb.ConversionException, duckdb.InvalidInputException, duckdb.OutOfRangeException)):
        return _conversion_error(plain)
    if isinstance(error, duckdb.NotImplementedException):
        return unsupported(plain)
    return SqlError(100183, "22000", plain)


def _catalog_error(plain: str, statement: exp.Expr | None) -> SqlError:
    if m := re.match(r'(?:Table|View) with name "?(.+?)"? already exists', plain):
        return already_exists(_as_written(m[1], statement))
    if m := re.match(r'(?:Table|View) with name "?(.+?)"? does not exist', plain):
        return does_not_exist("Object", _as_written(m[1], statement))
    if m := re.match(r'(?:Scalar|Aggregate|Table|Scalar Macro)?.*Function with name "?(.+?)"? does not exist', plain):
        return SqlError(2140, "42601", f"SQL compilation error:\nUnknown function {m[1].upper()}")
    if m := re.match(r'Schema with name "?(.+?)"? does not exist', plain):
        return does_not_exist("Schema", m[1].upper())
    if m := re.match(r'Schema with name "?(.+?)"? already exists', plain):
        return already_exists(m[1].upper())
    if plain.startswith("SET schema"):
        return cannot_use()
    return SqlError(2003, "42S02", f"SQL compilation error:\n{plain}")


def _binder_error(plain: str, statement: exp.Expr | None) -> SqlError:
    if m := re.search(r'Referenced column "(.+)" (?:was )?not found', plain):
        return _invalid_identifier(m[1], statement)
    if m := re.search(r'(?:Table|Values list) ".+" does not have a column (?:named|with name) "(.+)"', plain):
        return _invalid_identifier(m[1], statement)
    if m := re.search(r"Referenced update column (.+) not found in table", plain):
        return _invalid_identifier(m[1], statement)
    if m := re.search(r'Catalog "(.+?)" does not exist', plain):
        return does_not_exist("Database", m[1].upper())
    return SqlError(2043, "02000", f"SQL compilation error:\n{plain}")


def _invalid_identifier(name: str, statement: exp.Expr | None) -> SqlError:
    """Report that no such column exists. The name is quoted if the statement quotes it."""
    quoted = any(
        identifier.quoted and identifier.name == name
        for identifier in (statement.find_all(exp.Identifier) if statement is not None else ())
    )
    written = f'"{name}"' if quoted else name
    return SqlError(904, "42000", f"SQL compilation error: error line 1 at position 0\ninvalid identifier '{written}'")


def _conversion_error(plain: str) -> SqlError:
    """Convert the error of a failed cast."""
    number = re.match(
        r'(?:Could not (?:cast value|convert string)|Casting value) "?(.*?)"? to (?:type )?DECIMAL\((\d+),\s?(\d+)\)',
        plain,
    )
    if number and re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", number[1].strip()):
        return _out_of_range(number[1], int(number[2]), int(number[3]))
    if number:
        return SqlError(100038, "22018", f"Numeric value '{number[1]}' is not recognized")
    m = re.match(r"Could not convert string '(.*?)' to (\w+)", plain)
    if m and m[2] == "BOOL":
        return SqlError(100037, "22018", f"Boolean value '{m[1]}' is not recognized")
    if m:
        return SqlError(100038, "22018", f"Numeric value '{m[1]}' is not recognized")
    if m := re.match(r"invalid date field format: \"(.*?)\"|date field value out of range: \"(.*?)\"", plain):
        return SqlError(100040, "22007", f"Date '{m[1] or m[2]}' is not recognized")
    if m := re.match(r"invalid timestamp field format: \"(.*?)\"|timestamp field value out of range: \"(.*?)\"", plain):
        return SqlError(100035, "22007", f"Timestamp '{m[1] or m[2]}' is not recognized")
    if "out of range" in plain:
        return SqlError(100046, "22003", f"Number out of representable range: {plain}")
    return SqlError(100038, "22018", plain)


def _out_of_range(value: str, precision: int, scale: int) -> SqlError:
    """Report a number that has more digits than its type allows."""
    # Snowflake names the size of the stored number: SB2, SB4, SB8 or SB16 bytes.
    stored = next((f"SB{size}" for digits, size in ((4, 2), (9, 4), (18, 8)) if precision <= digits), "SB16")
    return SqlError(
        100046,
        "22003",
        f"Number out of representable range: type FIXED[{stored}]({precision},{scale}){{nullable}}, value {value}",
    )


def _as_written(name: str, statement: exp.Expr | None) -> str:
    """Return the table's name as the statement writes it: with database and schema if the statement gives them."""
    last = name.rsplit(".", 1)[-1].upper()
    for table in statement.find_all(exp.Table) if statement else ():
        if table.name.upper() == last:
            return ".".join(
                p.name if p.quoted else p.name.upper() for p in table.parts if isinstance(p, exp.Identifier)
            )
    return name.upper()
