"""Executes statements on the account's objects (roles, warehouses, stages, grants) and on the session's settings."""

from __future__ import annotations

import re

from sqlglot import exp

from emulators.snowflake import privileges
from emulators.snowflake.errors import (
    already_exists,
    cannot_use,
    does_not_exist,
    insufficient,
    not_assigned,
    unsupported,
)
from emulators.snowflake.names import key, name_of, normal
from emulators.snowflake.session import DEFAULT_TIME_ZONE, Session
from emulators.snowflake.stages import check_new_stage, found_stage_url, property_of

_READ_CONSISTENCY = re.compile(r"ALTER ACCOUNT SET READ_CONSISTENCY_MODE = '(SESSION|GLOBAL)'", re.IGNORECASE)


def execute(expression: exp.Expr, session: Session) -> str | None:
    """
    Execute a statement on roles, warehouses, integrations, stages, grants or the session's settings.

    :returns: the status message, or None if the engine must execute the statement.
    """
    done = "Statement executed successfully."
    if isinstance(expression, exp.Alter) and expression.args.get("kind") == "SESSION":
        return done if _alter_session(expression, session) else None
    if isinstance(expression, exp.Use):
        return done if _use(expression, session) else None
    if isinstance(expression, (exp.Grant, exp.Revoke)) or _is_command(expression, "GRANT", "REVOKE"):
        privileges.change_grants(expression.sql("snowflake"), session)
        return done
    is_alter = isinstance(expression, exp.Alter) or _is_command(expression, "ALTER")
    if is_alter and (match := _READ_CONSISTENCY.fullmatch(expression.sql("snowflake"))):
        # Only ACCOUNTADMIN may set a parameter of the account.
        if session.role != "ACCOUNTADMIN":
            raise insufficient("account", session.account.identifier)
        session.account.session_consistency = match[1].upper() == "SESSION"
        return done
    if match := privileges.created_role(expression):
        return _create_role(normal(match[2]), session, exists=bool(match[1]))
    if isinstance(expression, exp.Create):
        return _create_object(expression, session)
    if isinstance(expression, exp.Drop):
        return _drop_object(expression, session)
    return None


def _alter_session(expression: exp.Alter, session: Session) -> bool:
    for action in expression.args.get("actions") or ():
        for item in action.expressions:
            setting = item.this
            name = setting.this.name if isinstance(setting, exp.EQ) else setting.name
            value = setting.expression.name if isinstance(setting, exp.EQ) else ""
            if name.upper() == "TIMEZONE":
                session.set_time_zone(value or DEFAULT_TIME_ZONE)
            elif name.upper() == "QUERY_TAG":
                session.query_tag = value
            elif name.upper() == "LOCK_TIMEOUT":
                raise unsupported("LOCK_TIMEOUT")
            else:
                return False
    return True


def _use(expression: exp.Use, session: Session) -> bool:
    kind = expression.args["kind"].name.upper() if expression.args.get("kind") else ""
    if kind not in {"ROLE", "WAREHOUSE"}:
        return False
    name = name_of(expression.this)
    catalogue = session.account.catalogue
    if name not in (catalogue.roles if kind == "ROLE" else catalogue.warehouses):
        raise cannot_use()
    if kind == "ROLE" and not catalogue.rights.may_use(session.user, name):
        raise not_assigned(name)
    if kind == "WAREHOUSE" and not session.may(key("WAREHOUSE", name), "USAGE"):
        raise cannot_use()
    setattr(session, kind.lower(), name)
    return True


def _create_role(name: str, session: Session, *, exists: bool) -> str:
    status = _create(list(session.account.catalogue.roles), name, "Role", exists=exists)
    session.account.catalogue.rights.roles.setdefault(name, [])
    return status


def _create_object(expression: exp.Create, session: Session) -> str | None:
    catalogue = session.account.catalogue
    kind, exists, replace = expression.kind, bool(expression.args.get("exists")), bool(expression.args.get("replace"))
    if kind == "WAREHOUSE":
        return _create(catalogue.warehouses, name_of(expression.this), "Warehouse", exists=exists, replace=replace)
    if kind != "STORAGE INTEGRATION":
        if kind == "STAGE":
            check_new_stage(expression, session)
        return None
    name = name_of(expression.this)
    locations = [
        literal.name for literal in property_of(expression, "STORAGE_ALLOWED_LOCATIONS", exp.Tuple).expressions
    ]
    if not property_of(expression, "ENABLED", exp.Boolean).this:
        raise unsupported("STORAGE INTEGRATION with ENABLED = FALSE")
    names = list(catalogue.integrations)
    status = _create(names, name, "Integration", exists=exists, replace=replace)
    if name not in catalogue.integrations or replace:
        catalogue.integrations[name] = locations
    return status


def _create(names: list[str], name: str, kind: str, *, exists: bool = False, replace: bool = False) -> str:
    if name in names:
        if exists:
            return f"{name} already exists, statement succeeded."
        if not replace:
            raise already_exists(name)
    else:
        names.append(name)
    return f"{kind} {name} successfully created."


def _drop_object(expression: exp.Drop, session: Session) -> str | None:
    catalogue = session.account.catalogue
    targets = expression.args.get("tables") or [expression.this]
    kind = str(expression.args.get("kind") or "").upper()
    if kind == "STAGE":
        key = session.qualified(targets[0])
        name = key[2]
        found = found_stage_url(key, session) is not None
        session.account.duck_conn.cursor().execute(
            "DELETE FROM _fs_global._fs_information_schema._fs_stages"
            " WHERE database_name = ? AND schema_name = ? AND name = ?",
            key,
        )
        catalogue.stage_formats.pop(".".join(key), None)
    elif kind == "ROLE":
        name = name_of(targets[0])
        # privileges.note_end removes the role and gives its objects to the role that drops it.
        found = name in catalogue.roles
    elif kind == "WAREHOUSE":
        name = name_of(targets[0])
        if found := name in catalogue.warehouses:
            catalogue.warehouses.remove(name)
    elif kind in {"INTEGRATION", "STORAGE INTEGRATION"}:
        name = name_of(targets[0])
        found = catalogue.integrations.pop(name, None) is not None
    else:
        return None
    if not found and not expression.args.get("exists"):
        raise does_not_exist(kind.capitalize(), name)
    return (
        f"{name} successfully dropped." if found else f"Drop statement executed successfully ({name} already dropped)."
    )


def _is_command(expression: exp.Expr, *words: str) -> bool:
    return isinstance(expression, exp.Command) and str(expression.this).upper() in words
