"""Access control: GRANT and REVOKE, ownership, and the check of each statement against the current role."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from sqlglot import exp

from emulators.snowflake.errors import (
    SqlError,
    cannot_use,
    does_not_exist,
    exists_without_privileges,
    insufficient,
    syntax_error,
    unsupported,
)
from emulators.snowflake.names import (
    NAME,
    described_integration,
    key,
    name_of,
    normal,
    plain_kind,
    stage_and_path,
)
from emulators.snowflake.rights import APPLY, OWNERSHIP, Rights
from emulators.snowflake.session import Session

_PRIVILEGES = {
    "ACCOUNT": (
        *("MANAGE GRANTS", "CREATE DATABASE", "CREATE WAREHOUSE", "CREATE ROLE", "CREATE INTEGRATION"),
        *APPLY,
    ),
    "DATABASE": ("USAGE", "MODIFY", "MONITOR", "CREATE SCHEMA"),
    "SCHEMA": (
        *("USAGE", "MODIFY", "MONITOR", "CREATE TABLE", "CREATE VIEW", "CREATE STAGE"),
        *("CREATE MASKING POLICY", "CREATE ROW ACCESS POLICY", "CREATE TAG"),
    ),
    "TABLE": ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES"),
    "STAGE": ("USAGE",),
    "INTEGRATION": ("USAGE",),
    "WAREHOUSE": ("USAGE", "OPERATE", "MODIFY", "MONITOR"),
}
_IN_ACCOUNT = ("DATABASE", "WAREHOUSE", "ROLE", "INTEGRATION")

_CREATE_ROLE = re.compile(rf"ROLE\s+(IF\s+NOT\s+EXISTS\s+)?{NAME}\s*(?:COMMENT\s*=.*)?", re.IGNORECASE | re.DOTALL)

_GRANT_ROLE = re.compile(rf"(GRANT|REVOKE)\s+ROLE\s+{NAME}\s+(?:TO|FROM)\s+(ROLE|USER)\s+{NAME}", re.IGNORECASE)
_GRANT = re.compile(
    rf"(GRANT|REVOKE)\s+(.+?)\s+ON\s+(.+?)\s+(?:TO|FROM)\s+(?:ROLE\s+)?{NAME}"
    r"(\s+(?:COPY|REVOKE)\s+CURRENT\s+GRANTS)?",
    re.IGNORECASE | re.DOTALL,
)
_MANY = re.compile(rf"(ALL|FUTURE)\s+(TABLE|VIEW|STAGE|SCHEMA)S\s+IN\s+(DATABASE|SCHEMA)\s+{NAME}", re.IGNORECASE)
_ONE = re.compile(rf"(DATABASE|SCHEMA|TABLE|VIEW|STAGE|INTEGRATION|WAREHOUSE)\s+{NAME}", re.IGNORECASE)
_SHOWN = {
    "TABLES": "TABLE",
    "VIEWS": "TABLE",
    "OBJECTS": "TABLE",
    "SCHEMAS": "SCHEMA",
    "STAGES": "STAGE",
    "DATABASES": "DATABASE",
}


def authorize(expression: exp.Expr, session: Session) -> None:
    """
    Check that the session's role may execute the statement.

    :raises SqlError: 3001 if a privilege is missing; 2003 if an object does not exist or the role may not see it; 2043
        for USE and SHOW.
    """
    if created_role(expression):
        check_account(session, "CREATE ROLE")
    elif isinstance(expression, exp.Create):
        _authorize_create(expression, session)
    elif isinstance(expression, exp.Drop):
        for target in _targets(expression):
            _authorize_drop(expression, target, session)
    elif isinstance(expression, (exp.Alter, exp.Comment)):
        # SWAP WITH is not supported, so its rights need no check.
        if expression.args.get("kind") in {"TABLE", "VIEW"} and not expression.find(exp.SwapTable):
            _check_table(expression.this, session)
            check_owner(_object("TABLE", expression.this, session), session)
            if renamed := new_name(expression):
                database, schema, _ = session.qualified(renamed)
                check(session, "SCHEMA", (database, schema), "CREATE TABLE")
    elif isinstance(expression, exp.TruncateTable):
        for target in _targets(expression):
            _check_table(target, session, "TRUNCATE")
    elif isinstance(expression, exp.Copy):
        _authorize_copy(expression, session)
    elif isinstance(expression, (exp.Query, exp.Insert, exp.Update, exp.Delete, exp.Merge)):
        _authorize_dml(expression, session)
    elif isinstance(expression, exp.ListStage):
        _check_stage(expression, session)
    elif (integration := described_integration(expression)) is not None:
        name = key("INTEGRATION", integration)
        if name not in session.account.catalogue.rights.owners or not session.may(name, "USAGE"):
            raise does_not_exist("Integration", integration)
    elif isinstance(expression, exp.Describe) and isinstance(expression.this, exp.Table):
        if expression.args.get("kind") in {None, "TABLE", "VIEW"}:
            _check_table(expression.this, session)
    elif isinstance(expression, (exp.Use, exp.Show)):
        _authorize_scope(expression, session)


def _authorize_create(expression: exp.Create, session: Session) -> None:
    kind = str(expression.kind)
    if plain_kind(kind) in _IN_ACCOUNT:
        check_account(session, f"CREATE {plain_kind(kind)}")
        return
    target = table_of(expression.this)
    name = _object(kind, target, session)
    parts = _parts(kind, target, session)
    container = "DATABASE" if kind == "SCHEMA" else "SCHEMA"
    check(session, container, parts[:-1], f"CREATE {kind}")
    rights = session.account.catalogue.rights
    if name in rights.owners:
        if expression.args.get("replace"):
            check_owner(name, session)
        elif expression.args.get("exists") and not session.may(name):
            raise exists_without_privileges(kind.capitalize() if kind == "SCHEMA" else "Object", name_of(target))
    if kind in {"TABLE", "VIEW"}:
        for table in read_tables(expression, target):
            _check_table(table, session, "SELECT")
    integration = _integration(expression)
    if integration and not session.may(key("INTEGRATION", integration), "USAGE"):
        raise insufficient("integration", integration)


def _authorize_drop(expression: exp.Drop, target: exp.Table, session: Session) -> None:
    kind = str(expression.args.get("kind"))
    name = _object(kind, target, session)
    if name in session.account.catalogue.rights.owners:
        check_owner(name, session)


def _authorize_copy(expression: exp.Copy, session: Session) -> None:
    target = table_of(expression.this)
    _check_table(target, session, "INSERT")
    _check_stage(expression.args["files"][0], session)


def _check_stage(source: exp.Expr, session: Session) -> None:
    """Check the rights to read from the stage that COPY or LIST names."""
    if stage := stage_and_path(source):
        parts = session.qualified(stage[0])
        _check_schema(session, *parts[:2])
        if not session.may(key("STAGE", *parts), "USAGE"):
            raise does_not_exist("Stage", ".".join(parts))
        _check_integration(parts, session)


def _check_integration(stage: tuple[str, str, str], session: Session) -> None:
    """Check USAGE on a stage's storage integration: the role needs it in addition to USAGE on the stage."""
    for (integration,) in (
        session.account.duck_conn.cursor()
        .execute(
            "SELECT storage_integration FROM _fs_global._fs_information_schema._fs_stages"
            " WHERE database_name = ? AND schema_name = ? AND name = ? AND storage_integration IS NOT NULL",
            stage,
        )
        .fetchall()
    ):
        name = key("INTEGRATION", integration)
        if name not in session.account.catalogue.rights.owners:
            raise does_not_exist("Integration", integration)
        if not session.may(name, "USAGE"):
            raise insufficient("integration", integration)


def _authorize_dml(expression: exp.Expr, session: Session) -> None:
    target: exp.Table | None = None
    needed: list[str] = []
    if isinstance(expression, exp.Insert):
        target = table_of(expression.this)
        needed = ["INSERT", *(["DELETE"] if expression.args.get("overwrite") else [])]
    elif isinstance(expression, (exp.Update, exp.Delete)):
        target = table_of(expression.this)
        # SELECT too: the documentation does not say whether UPDATE and DELETE need it, so the emulator is strict.
        needed = ["SELECT", "UPDATE" if isinstance(expression, exp.Update) else "DELETE"]
    elif isinstance(expression, exp.Merge):
        target = table_of(expression.this)
        actions = {type(when.args["then"]) for when in expression.find_all(exp.When)}
        kinds = {exp.Insert: "INSERT", exp.Update: "UPDATE", exp.Var: "DELETE"}
        needed = ["SELECT", *(privilege for kind, privilege in kinds.items() if kind in actions)]
    if target is not None:
        _check_table(target, session, *needed)
    for table in read_tables(expression, target):
        _check_table(table, session, "SELECT")


def _authorize_scope(expression: exp.Expr, session: Session) -> None:
    """Check the rights of USE DATABASE or SCHEMA, and of SHOW ... IN a database or schema."""
    if isinstance(expression, exp.Use):
        kind = expression.args["kind"].name.upper() if expression.args.get("kind") else ""
        scope = expression.this
    else:
        kind = str(expression.args.get("scope_kind") or "").upper()
        scope = expression.args.get("scope")
    if kind not in {"DATABASE", "SCHEMA"} or not isinstance(scope, exp.Table):
        return
    parts = _parts(kind, scope, session)
    if not all(session.may(name, "USAGE") for name in (key("DATABASE", parts[0]), key(kind, *parts))):
        raise cannot_use()


def shown_objects(expression: exp.Show, rows: list[dict[str, object]]) -> list[str] | None:
    """Return the object that each row of a SHOW describes; None if SHOW lists something else."""
    kind = _SHOWN.get(expression.name.upper())
    if kind is None:
        return None
    columns = {"DATABASE": ("name",), "SCHEMA": ("database_name", "name")}.get(
        kind, ("database_name", "schema_name", "name")
    )
    return [key(kind, *(str(row[column]) for column in columns)) for row in rows]


def check_account(session: Session, privilege: str) -> None:
    """Check a privilege on the account."""
    if not session.may("ACCOUNT", privilege):
        raise insufficient("account", session.account.identifier)


def check(session: Session, kind: str, parts: tuple[str, ...], privilege: str) -> None:
    """Check that the role may see a database or schema, and has a privilege on it."""
    if kind == "SCHEMA":
        _check_schema(session, *parts)
    elif not session.may(key(kind, *parts)):
        raise does_not_exist("Database", parts[0])
    if not session.may(key(kind, *parts), privilege):
        raise insufficient(kind.lower(), parts[-1])


def _check_schema(session: Session, database: str, schema: str) -> None:
    if not session.may(key("DATABASE", database), "USAGE"):
        raise does_not_exist("Database", database)
    if not session.may(key("SCHEMA", database, schema), "USAGE"):
        raise does_not_exist("Schema", f"{database}.{schema}")


def _check_table(table: exp.Table, session: Session, *privileges: str) -> None:
    """Check that the role may see a table, and has all of the privileges on it."""
    parts = session.qualified(table)
    _check_schema(session, *parts[:2])
    name = key("TABLE", *parts)
    if name in session.temporary:
        return
    owners = session.account.catalogue.rights.owners
    if not session.may(name) or (name not in owners and key("SCHEMA", *parts[:2]) in owners):
        raise does_not_exist("Object", name_of(table))
    if not all(session.may(name, privilege) for privilege in privileges):
        raise insufficient("table", parts[2])


def check_owner(name: str, session: Session) -> None:
    """Check that the role may see an object, and owns it."""
    kind, _, path = name.partition(":")
    if not session.may(name):
        raise does_not_exist("Object" if kind == "TABLE" else kind.capitalize(), path)
    if not session.may(name, OWNERSHIP):
        raise insufficient(kind.lower(), path.rpartition(".")[2])


def read_tables(expression: exp.Expr, target: exp.Table | None) -> Iterator[exp.Table]:
    """Yield the tables that a statement reads, without its target, its CTEs and INFORMATION_SCHEMA."""
    ctes = {name_of(cte.args["alias"].this) for cte in expression.find_all(exp.CTE) if cte.args.get("alias")}
    for table in expression.find_all(exp.Table):
        if table is target or not isinstance(table.this, exp.Identifier) or table.name.startswith("@"):
            continue
        if (not table.db and name_of(table.this) in ctes) or table.db.upper() == "INFORMATION_SCHEMA":
            continue
        yield table


def table_of(node: exp.Expr | None) -> exp.Table:
    """Return the table or other object that a node of the tree names."""
    if isinstance(node, exp.Identifier):
        return exp.Table(this=node.copy())
    found = node if isinstance(node, exp.Table) else node.find(exp.Table) if node is not None else None
    return found or exp.Table()


def _integration(expression: exp.Create) -> str | None:
    """Return the storage integration that CREATE STAGE names."""
    properties = expression.args.get("properties")
    for item in properties.expressions if properties else ():
        if isinstance(item, exp.Property) and item.name.upper() == "STORAGE_INTEGRATION":
            return name_of(item.args["value"])
    return None


def _targets(expression: exp.Expr) -> list[exp.Table]:
    targets = expression.args.get("tables") or expression.args.get("expressions") or [expression.this]
    return [table_of(target) for target in targets]


def _parts(kind: str, target: exp.Table, session: Session) -> tuple[str, ...]:
    """Return the parts of the full name of the object that a statement creates, drops or uses."""
    kind = plain_kind(kind)
    given = tuple(name_of(part) for part in target.parts)
    if kind in _IN_ACCOUNT:
        return given[-1:]
    if kind == "SCHEMA":
        return given if len(given) > 1 else (session.current_database(), *given)
    return session.qualified(target)


def _object(kind: str, target: exp.Table, session: Session) -> str:
    return key(kind, *_parts(kind, target, session))


def new_name(expression: exp.Expr) -> exp.Table | None:
    """Return the new name if the statement renames a table, else None."""
    for action in expression.args.get("actions") or ():
        if isinstance(action, exp.AlterRename):
            return table_of(action.this)
    return None


@contextlib.contextmanager
def ownership_noted(expression: exp.Expr, session: Session) -> Iterator[None]:
    """
    Record the owner of the object that a statement creates, before the statement runs.

    Otherwise a process that is killed in between would leave an object without an owner. If the statement fails, the
    owners and grants from before it are restored.
    """
    rights = session.account.catalogue.rights
    name = _created(expression, session)
    properties = expression.args.get("properties")
    if name is not None and properties and properties.find(exp.TemporaryProperty):
        yield
        session.temporary.add(name)
        return
    if name is None or (name in rights.owners and not expression.args.get("replace")):
        yield
        return
    before = dict(rights.owners), dict(rights.grants)
    rights.create(name, session.role)
    if (rights.owners, rights.grants) != before:
        session.account.save()
    try:
        yield
    except BaseException:
        rights.owners, rights.grants = before
        raise


def created_role(expression: exp.Expr) -> re.Match[str] | None:
    """Match CREATE ROLE: group 1 is IF NOT EXISTS, group 2 the name. None for any other statement."""
    if not isinstance(expression, exp.Command) or str(expression.this).upper() != "CREATE":
        return None
    return _CREATE_ROLE.fullmatch(str(expression.expression).strip())


def _created(expression: exp.Expr, session: Session) -> str | None:
    if role := created_role(expression):
        return key("ROLE", normal(role[2]))
    if not isinstance(expression, exp.Create):
        return None
    kind = plain_kind(str(expression.kind))
    if kind not in _PRIVILEGES:
        return None
    return _object(kind, table_of(expression.this), session)


def dropped(expression: exp.Drop, session: Session) -> list[str]:
    """Return the objects that a statement drops."""
    return [_object(str(expression.args.get("kind")), target, session) for target in _targets(expression)]


def note_end(expression: exp.Expr, session: Session) -> None:
    """Update owners and grants after a statement that dropped or renamed objects."""
    rights = session.account.catalogue.rights
    if isinstance(expression, exp.Drop):
        for target, name in zip(_targets(expression), dropped(expression, session), strict=True):
            if expression.args.get("kind") == "ROLE":
                rights.drop_role(name_of(target), session.role)
            rights.forget(name)
    elif (renamed := new_name(expression)) is not None:
        rights.move(_object("TABLE", expression.this, session), _object("TABLE", renamed, session))


def change_grants(sql: str, session: Session) -> None:
    """
    Execute GRANT or REVOKE.

    :raises SqlError: 2003 for an unknown object or role, 3001 if the session's role may not grant the privilege.
    """
    rights = session.account.catalogue.rights
    sql = sql.strip()
    if match := _GRANT_ROLE.fullmatch(sql):
        _change_role(rights, session, match)
        return
    match = _GRANT.fullmatch(sql)
    if match is None:
        raise unsupported(sql.split("\n", 1)[0])
    is_grant, listed, where, role = match[1].upper() == "GRANT", match[2], match[3], normal(match[4])
    if role not in rights.roles:
        raise does_not_exist("Role", role)
    for kind, names, table in _granted_on(where, session):
        privileges = _privileges(listed, kind)
        for name in names:
            _check_may_grant(name, table, session)
            if privileges == [OWNERSHIP] and table is not rights.future:
                _change_owner(rights, name, role, match[5], is_grant=is_grant)
                continue
            by_role = table.setdefault(name, {})
            kept = [privilege for privilege in by_role.get(role, ()) if privilege not in privileges]
            by_role[role] = kept + (privileges if is_grant else [])
            if not by_role[role]:
                del by_role[role]


def _change_role(rights: Rights, session: Session, match: re.Match[str]) -> None:
    role, grantee = normal(match[2]), normal(match[4])
    table, kind = (rights.roles, "Role") if match[3].upper() == "ROLE" else (rights.users, "User")
    if role not in rights.roles:
        raise does_not_exist("Role", role)
    if grantee not in table:
        raise does_not_exist(kind, grantee)
    if not (session.may(key("ROLE", role), OWNERSHIP) or session.may("ACCOUNT", "MANAGE GRANTS")):
        raise insufficient("role", role)
    if kind == "Role" and grantee in rights.effective_roles(role) - {"PUBLIC"}:
        raise SqlError(3025, "0A000", f"Role '{grantee}' cannot be granted to itself, directly or by another role.")
    granted = [other for other in table[grantee] if other != role]
    table[grantee] = granted + ([role] if match[1].upper() == "GRANT" else [])


def _granted_on(where: str, session: Session) -> Iterator[tuple[str, list[str], dict[str, dict[str, list[str]]]]]:
    """Yield what the ON clause of a GRANT names: the objects' kind, their names, and the dict with their grants."""
    rights = session.account.catalogue.rights
    if where.upper() == "ACCOUNT":
        yield "ACCOUNT", ["ACCOUNT"], rights.grants
    elif match := _MANY.fullmatch(where):
        kind = plain_kind(match[2].upper())
        container = existing(match[3].upper(), match[4], session)
        if match[1].upper() == "FUTURE":
            yield kind, [f"{kind}S:{container}"], rights.future
        else:
            start = f"{kind}:{container.partition(':')[2]}."
            yield kind, [name for name in rights.owners if name.startswith(start)], rights.grants
    elif match := _ONE.fullmatch(where):
        kind = plain_kind(match[1].upper())
        yield kind, [existing(kind, match[2], session)], rights.grants
    else:
        raise unsupported(f"GRANT ON {where}")


def existing(kind: str, written: str, session: Session) -> str:
    """Return the full name of an object, or raise SqlError 2003 if the object does not exist."""
    name = _object(kind, exp.to_table(written, dialect="snowflake"), session)
    if name not in session.account.catalogue.rights.owners:
        raise does_not_exist(kind.capitalize(), name.partition(":")[2])
    return name


def _privileges(listed: str, kind: str) -> list[str]:
    words = [" ".join(word.upper().split()) for word in listed.split(",")]
    if words in (["ALL"], ["ALL PRIVILEGES"]):
        return list(_PRIVILEGES[kind])
    for word in words:
        if word not in _PRIVILEGES[kind] and (words != [OWNERSHIP] or kind == "ACCOUNT"):
            raise syntax_error(1, 6, word)
    return words


def _check_may_grant(name: str, table: dict[str, dict[str, list[str]]], session: Session) -> None:
    rights = session.account.catalogue.rights
    if rights.holds(session.role, "ACCOUNT", "MANAGE GRANTS"):
        return
    kind, _, path = name.partition(":")
    # Future grants need MANAGE GRANTS: owning the schema or database is not enough.
    if table is rights.future or not rights.holds(session.role, name, OWNERSHIP):
        raise insufficient(kind.lower(), path.rpartition(".")[2] or session.account.identifier)


def _change_owner(rights: Rights, name: str, role: str, current_grants: str | None, *, is_grant: bool) -> None:
    if not is_grant:
        raise unsupported("REVOKE OWNERSHIP")
    if rights.grants.get(name):
        if current_grants is None:
            raise unsupported("GRANT OWNERSHIP of an object with grants, without COPY or REVOKE CURRENT GRANTS")
        if "REVOKE" in current_grants.upper():
            del rights.grants[name]
    rights.owners[name] = role
