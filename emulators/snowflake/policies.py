"""
Masking policies, row access policies and tags: they change which values and rows of a table a role reads.

A policy applies wherever a column or a row is *read*: in the select list, in conditions, in the join of MERGE. It does
not restrict writing. Each statement is rewritten before DuckDB runs it, so that it reads only what its role may read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import sqlglot
from sqlglot import exp

from emulators.snowflake import privileges
from emulators.snowflake.catalogue import Policies, Policy
from emulators.snowflake.duckdb_names import to_duckdb, to_snowflake
from emulators.snowflake.errors import SqlError, already_exists, does_not_exist, syntax_error, unsupported
from emulators.snowflake.names import NAME, key, name_of, normal
from emulators.snowflake.session import Session

MASKING, ROW_ACCESS, TAG = "MASKING POLICY", "ROW ACCESS POLICY", "TAG"

_OPTIONS = re.IGNORECASE | re.DOTALL
_KIND = "(MASKING POLICY|ROW ACCESS POLICY)"


def _form(text: str) -> re.Pattern[str]:
    """Compile the pattern of a statement. A space in it matches any white space."""
    return re.compile(text.replace(" ", r"\s+"), _OPTIONS)


_CREATE = _form(
    rf"CREATE (OR REPLACE )?{_KIND} (IF NOT EXISTS )?{NAME} AS\s*\((.*?)\)\s*RETURNS ([\w ]+?(?:\([\d, ]+\))?)\s*->(.*)"
)
_CREATE_TAG = _form(rf"CREATE (OR REPLACE )?TAG (IF NOT EXISTS )?{NAME}")
_SET_BODY = _form(rf"ALTER {_KIND} {NAME} SET BODY\s*->(.*)")
_DROP = _form(rf"DROP (MASKING POLICY|ROW ACCESS POLICY|TAG) (IF EXISTS )?{NAME}")
_SET_MASK = _form(rf"ALTER TABLE {NAME} (?:MODIFY|ALTER) (?:COLUMN )?{NAME} SET MASKING POLICY {NAME}( FORCE)?")
_UNSET_MASK = _form(rf"ALTER TABLE {NAME} (?:MODIFY|ALTER) (?:COLUMN )?{NAME} UNSET MASKING POLICY")
_ADD_FILTER = _form(rf"ALTER TABLE {NAME} ADD ROW ACCESS POLICY {NAME} ON\s*\((.*)\)")
_DROP_FILTER = _form(rf"ALTER TABLE {NAME} DROP ROW ACCESS POLICY {NAME}")
_SET_TAG_MASK = _form(rf"ALTER TAG {NAME} SET MASKING POLICY {NAME}")
_UNSET_TAG_MASK = _form(rf"ALTER TAG {NAME} UNSET MASKING POLICY {NAME}")
_SET_TAG = _form(rf"ALTER (DATABASE|SCHEMA|TABLE) {NAME} SET TAG {NAME}\s*=\s*'[^']*'")
_UNSET_TAG = _form(rf"ALTER (DATABASE|SCHEMA|TABLE) {NAME} UNSET TAG {NAME}")
_ABOUT_POLICIES = re.compile(r"(CREATE|ALTER|DROP)\b.*\b(POLICY|TAG)\b.*", _OPTIONS)

# The types that policies distinguish -> the names of these types in sqlglot and DuckDB.
_KINDS = {
    "NUMBER": ("DECIMAL", "NUMBER", "INT", "BIGINT", "SMALLINT", "TINYINT", "INTEGER", "HUGEINT", "INT128"),
    "FLOAT": ("DOUBLE", "FLOAT", "REAL"),
    "VARCHAR": ("VARCHAR", "TEXT", "CHAR", "STRING", "NVARCHAR", "NCHAR"),
    "BINARY": ("BINARY", "VARBINARY", "BLOB"),
    "BOOLEAN": ("BOOLEAN",),
    "DATE": ("DATE",),
    "TIME": ("TIME",),
    "TIMESTAMP_NTZ": ("TIMESTAMP_NTZ", "TIMESTAMPNTZ", "TIMESTAMP", "DATETIME"),
    "TIMESTAMP_LTZ": ("TIMESTAMP_LTZ", "TIMESTAMPLTZ"),
    "TIMESTAMP_TZ": ("TIMESTAMP_TZ", "TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE"),
    "VARIANT": ("VARIANT", "JSON"),
    "OBJECT": ("OBJECT",),
    "ARRAY": ("ARRAY",),
}
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names}


def about_policies(sql: str) -> exp.Command | None:
    """Parse a statement about policies or tags, which sqlglot cannot parse; return None for any other statement."""
    text = sql.strip().rstrip(";").strip()
    if not _ABOUT_POLICIES.fullmatch(text) or not any(form.fullmatch(text) for form in _HANDLERS):
        return None
    word, _, rest = text.partition(" ")
    return exp.Command(this=word.upper(), expression=rest)


def execute(expression: exp.Expr, session: Session) -> str | None:
    """
    Execute a statement about policies or tags.

    :returns: the status message; None for any other statement.
    :raises SqlError: 3001 if the session's role lacks a privilege, 2003 if an object does not exist.
    """
    if not isinstance(expression, exp.Command):
        return None
    text = f"{expression.this} {expression.expression}"
    for form, handle in _HANDLERS.items():
        if match := form.fullmatch(text):
            return handle(match, session) or "Statement executed successfully."
    return None


# ---- creating and dropping policies and tags


def _create(match: re.Match[str], session: Session) -> str | None:
    replace, kind, exists, name, arguments, returns, body = match.groups()
    kind = " ".join(kind.upper().split())
    listed = [argument.strip().split(None, 1) for argument in arguments.split(",")]
    if kind == MASKING and len(listed) > 1:
        raise unsupported("masking policies with conditional columns")
    if any(len(argument) != 2 for argument in listed):
        raise syntax_error(1, 0, arguments)
    types = [_kind(type_) for _, type_ in listed]
    wanted = types[0] if kind == MASKING else "BOOLEAN"
    if _kind(returns) != wanted:
        words = f"{kind.capitalize()} function argument and return type mismatch: it must return {wanted}."
        raise SqlError(1023, "22023", f"SQL compilation error:\n{words}")
    _parsed(body)
    known = session.account.catalogue.policies.known
    full = _created(kind, name, session, replace=bool(replace))
    if full in known and not replace:
        if exists:
            return f"{name.upper()} already exists, statement succeeded."
        raise already_exists(name.upper())
    known[full] = Policy(kind, [normal(argument) for argument, _ in listed], types, body.strip())
    return f"{kind.capitalize()} {name.upper()} successfully created."


def _create_tag(match: re.Match[str], session: Session) -> str | None:
    replace, _, name = match.groups()
    tags = session.account.catalogue.policies.tags
    full = _created(TAG, name, session, replace=bool(replace))
    tags.setdefault(full, {})
    return f"Tag {name.upper()} successfully created."


def _created(kind: str, written: str, session: Session, *, replace: bool) -> str:
    """Check that the role may create a policy or tag, record its owner, and return its name."""
    parts = session.qualified(exp.to_table(written, dialect="snowflake"))
    privileges.check(session, "SCHEMA", parts[:2], f"CREATE {kind}")
    name = key(kind, *parts)
    rights = session.account.catalogue.rights
    if name not in rights.owners:
        rights.create(name, session.role)
    elif replace:
        privileges.check_owner(name, session)
    return name


def _set_body(match: re.Match[str], session: Session) -> str | None:
    kind, name, body = match.groups()
    full = _existing(" ".join(kind.upper().split()), name, session)
    privileges.check_owner(full, session)
    _parsed(body)
    session.account.catalogue.policies.known[full].body = body.strip()
    return None


def _drop(match: re.Match[str], session: Session) -> str | None:
    kind, exists, name = match.groups()
    kind = " ".join(kind.upper().split())
    policies = session.account.catalogue.policies
    try:
        full = _existing(kind, name, session)
    except SqlError:
        if exists:
            return f"Drop statement executed successfully ({name.upper()} already dropped)."
        raise
    privileges.check_owner(full, session)
    tagged = [thing for thing, tags in policies.tagged.items() if full in tags] if kind == TAG else []
    if policies.users_of(full) or policies.tags.get(full) or tagged:
        raise SqlError(
            3539,
            "23001",
            f"SQL compilation error:\n{kind.capitalize()} {name.upper()} cannot be dropped/replaced as it is "
            "associated with one or more entities.",
        )
    named: dict[str, Any] = policies.tags if kind == TAG else policies.known
    del named[full]
    session.account.catalogue.rights.forget(full)
    return f"{name.upper()} successfully dropped."


def _existing(kind: str, written: str, session: Session) -> str:
    parts = session.qualified(exp.to_table(written, dialect="snowflake"))
    name = key(kind, *parts)
    policies = session.account.catalogue.policies
    if name not in (policies.tags if kind == TAG else policies.known):
        raise does_not_exist(kind.capitalize(), ".".join(parts))
    return name


# ---- setting policies and tags on tables


def _set_mask(match: re.Match[str], session: Session) -> str | None:
    table, column, name, force = match.groups()
    full, kinds = _table(table, session, MASKING)
    column, policy = _column(column, kinds), _existing(MASKING, name, session)
    policies = session.account.catalogue.policies
    if column in policies.masks.get(full, {}) and not force:
        raise _in_use(column, "another masking policy")
    if full in policies.filters and column in policies.filters[full][1]:
        raise _in_use(column, "a row access policy")
    _check_type(policies.known[policy].types[0], column, kinds)
    policies.masks.setdefault(full, {})[column] = policy
    return None


def _unset_mask(match: re.Match[str], session: Session) -> str | None:
    full, kinds = _table(match[1], session, MASKING)
    session.account.catalogue.policies.masks.get(full, {}).pop(_column(match[2], kinds), None)
    return None


def _add_filter(match: re.Match[str], session: Session) -> str | None:
    full, kinds = _table(match[1], session, ROW_ACCESS)
    policy = _existing(ROW_ACCESS, match[2], session)
    columns = [_column(name.strip(), kinds) for name in match[3].split(",")]
    policies = session.account.catalogue.policies
    known = policies.known[policy]
    if full in policies.filters:
        raise _in_use(match[1].upper(), "another row access policy")
    if masked := [column for column in columns if column in policies.masks.get(full, {})]:
        raise _in_use(masked[0], "a masking policy")
    if len(columns) != len(known.arguments):
        raise syntax_error(1, 0, match[3])
    for column, kind in zip(columns, known.types, strict=True):
        _check_type(kind, column, kinds)
    policies.filters[full] = policy, columns
    return None


def _drop_filter(match: re.Match[str], session: Session) -> str | None:
    full, _ = _table(match[1], session, ROW_ACCESS)
    _existing(ROW_ACCESS, match[2], session)
    session.account.catalogue.policies.filters.pop(full, None)
    return None


def _set_tag_mask(match: re.Match[str], session: Session) -> str | None:
    privileges.check_account(session, f"APPLY {MASKING}")
    tag, policy = _existing(TAG, match[1], session), _existing(MASKING, match[2], session)
    policies = session.account.catalogue.policies
    kind = policies.known[policy].types[0]
    if kind in policies.tags[tag]:
        raise _in_use(match[1].upper(), f"a masking policy of the type {kind}")
    policies.tags[tag][kind] = policy
    return None


def _unset_tag_mask(match: re.Match[str], session: Session) -> str | None:
    privileges.check_account(session, f"APPLY {MASKING}")
    tag, policy = _existing(TAG, match[1], session), _existing(MASKING, match[2], session)
    by_kind = session.account.catalogue.policies.tags[tag]
    for kind in [kind for kind, other in by_kind.items() if other == policy]:
        del by_kind[kind]
    return None


def _set_tag(match: re.Match[str], session: Session) -> str | None:
    thing, tag = _taggable(match, session)
    tags = session.account.catalogue.policies.tagged.setdefault(thing, [])
    if tag not in tags:
        tags.append(tag)
    return None


def _unset_tag(match: re.Match[str], session: Session) -> str | None:
    thing, tag = _taggable(match, session)
    tagged = session.account.catalogue.policies.tagged
    tagged[thing] = [other for other in tagged.get(thing, []) if other != tag]
    return None


def _taggable(match: re.Match[str], session: Session) -> tuple[str, str]:
    """Return the object that a tag is set on, and the tag. The role needs APPLY TAG and APPLY MASKING POLICY."""
    privileges.check_account(session, "APPLY TAG")
    privileges.check_account(session, f"APPLY {MASKING}")
    return privileges.existing(match[1].upper(), match[2], session), _existing(TAG, match[3], session)


def _table(written: str, session: Session, kind: str) -> tuple[str, dict[str, str]]:
    """Return the name of the table that a policy is set on or removed from, and the types of its columns."""
    privileges.check_account(session, f"APPLY {kind}")
    parts = session.qualified(exp.to_table(written, dialect="snowflake"))
    kinds = _column_kinds(parts, session)
    if not kinds:
        raise does_not_exist("Object", written.upper())
    return key("TABLE", *parts), kinds


def _column(written: str, kinds: dict[str, str]) -> str:
    name = normal(written)
    if name not in kinds:
        where = "SQL compilation error: error line 1 at position 0"
        raise SqlError(904, "42000", f"{where}\ninvalid identifier '{written}'")
    return name


def _check_type(wanted: str, column: str, kinds: dict[str, str]) -> None:
    if kinds[column] != wanted:
        words = f"Column '{column}' is of type {kinds[column]}, the policy's is {wanted}."
        raise SqlError(3550, "42601", f"SQL compilation error:\n{words}")


def _in_use(name: str, by: str) -> SqlError:
    return SqlError(3570, "42601", f"SQL compilation error:\n{name} is already attached to {by}.")


_HANDLERS: dict[re.Pattern[str], Callable[[re.Match[str], Session], str | None]] = {
    _CREATE: _create,
    _CREATE_TAG: _create_tag,
    _SET_BODY: _set_body,
    _DROP: _drop,
    _SET_MASK: _set_mask,
    _UNSET_MASK: _unset_mask,
    _ADD_FILTER: _add_filter,
    _DROP_FILTER: _drop_filter,
    _SET_TAG_MASK: _set_tag_mask,
    _UNSET_TAG_MASK: _unset_tag_mask,
    _SET_TAG: _set_tag,
    _UNSET_TAG: _unset_tag,
}


def _kind(written: str) -> str:
    """Return the type as policies distinguish it, a key of `_KINDS`, for a type in Snowflake's SQL."""
    text = exp.DataType.build(written.strip(), dialect="snowflake").sql("snowflake").upper().partition("(")[0].strip()
    if text not in _KIND_OF:
        raise unsupported(f"policies of the type {written}")
    return _KIND_OF[text]


def _column_kinds(table: tuple[str, str, str], session: Session) -> dict[str, str]:
    """Return column -> type (a key of `_KINDS`) for a table's columns, in their order."""
    rows = (
        session.account.duck_conn.cursor()
        .execute(
            "SELECT column_name, COALESCE(comment, data_type) FROM duckdb_columns()"
            " WHERE database_name = ? AND schema_name = ? AND table_name = ? ORDER BY column_index",
            [*table[:2], to_duckdb(table[2])],
        )
        .fetchall()
    )
    return {to_snowflake(name): _KIND_OF.get(type_.partition("(")[0], type_) for name, type_ in rows}


# ---- applying policies to statements


@dataclass(frozen=True)
class _Protection:
    """The policies that apply to a table: the masking policies by column, and the row access policy."""

    columns: list[str]
    masks: dict[str, Policy]
    filter: tuple[Policy, list[str]] | None

    def masked(self, column: str, table: exp.Expr) -> exp.Expr:
        policy = self.masks[column]
        return exp.paren(_parsed(policy.body, {policy.arguments[0]: _raw(column, table)}))

    def visible(self, table: exp.Expr) -> exp.Expr | None:
        if self.filter is None:
            return None
        policy, columns = self.filter
        values = {name: _raw(column, table) for name, column in zip(policy.arguments, columns, strict=True)}
        return exp.paren(_parsed(policy.body, values))


def applied(expression: exp.Expr, session: Session) -> exp.Expr:
    """Rewrite a statement so that it reads only what the policies let the session's role read."""
    expression = _roles_resolved(expression, session)
    policies = session.account.catalogue.policies
    if not (policies.masks or policies.filters or policies.tagged):
        return expression
    read = expression.expression if isinstance(expression, exp.Create) else expression
    if not isinstance(read, (exp.Query, exp.Insert, exp.Update, exp.Delete, exp.Merge)):
        return expression
    expression = expression.copy()
    target = None if isinstance(expression, exp.Query) else privileges.table_of(expression.this)
    for table in list(privileges.read_tables(expression, target)):
        if (protection := _protection(table, session)) is not None:
            _replace(table, protection)
    if isinstance(expression, (exp.Update, exp.Delete, exp.Merge)) and target is not None:
        protection = _protection(target, session)
        if protection is not None:
            _protect_target(expression, target, protection)
    return _roles_resolved(expression, session)


def _protection(table: exp.Table, session: Session) -> _Protection | None:
    parts = session.qualified(table)
    name, policies = key("TABLE", *parts), session.account.catalogue.policies
    direct, tags = policies.masks.get(name, {}), _tags_of(parts, policies)
    filtered = policies.filters.get(name)
    if not (direct or tags or filtered):
        return None
    kinds = _column_kinds(parts, session)
    masks = {}
    for column, kind in kinds.items():
        # A masking policy that is set on the column itself takes precedence over one that a tag sets.
        found = direct.get(column) or next((by[kind] for tag in tags if kind in (by := policies.tags[tag])), None)
        if found:
            masks[column] = policies.known[found]
    return _Protection(
        list(kinds), masks, (policies.known[filtered[0]], list(filtered[1])) if filtered is not None else None
    )


def _tags_of(parts: tuple[str, str, str], policies: Policies) -> list[str]:
    """Return the tags of a table, then those of its schema, then those of its database."""
    above = (key("TABLE", *parts), key("SCHEMA", *parts[:2]), key("DATABASE", parts[0]))
    return [tag for thing in above for tag in policies.tagged.get(thing, [])]


def _replace(table: exp.Table, protection: _Protection) -> None:
    """Replace a table by a subquery that applies its policies."""
    name = exp.to_identifier("_PROTECTED", quoted=True)
    items = [
        exp.alias_(protection.masked(column, name), column, quoted=True)
        if column in protection.masks
        else _raw(column, name)
        for column in protection.columns
    ]
    plain = exp.Table(**{part: table.args.get(part) for part in ("this", "db", "catalog")}).copy()
    plain.set("alias", exp.TableAlias(this=name.copy()))
    query = exp.select(*items).from_(plain)
    if (visible := protection.visible(name)) is not None:
        query = query.where(visible)
    alias = table.args.get("alias") or exp.TableAlias(this=table.this.copy())
    table.replace(exp.Subquery(this=query, alias=alias.copy(), joins=table.args.get("joins")))


def _protect_target(statement: exp.Expr, target: exp.Table, protection: _Protection) -> None:
    """Apply the target's policies to UPDATE, DELETE or MERGE: rows that the role does not see are not changed."""
    alias = target.args.get("alias")
    name = alias.this if alias else target.this
    for column in list(_columns_of_target(statement, name)):
        if name_of(column.this) in protection.masks:
            column.replace(protection.masked(name_of(column.this), name))
    visible = protection.visible(name)
    if visible is None:
        return
    if isinstance(statement, exp.Merge):
        statement.set("on", exp.and_(exp.paren(statement.args["on"]), visible))
    else:
        where = statement.args.get("where")
        statement.set("where", exp.Where(this=exp.and_(exp.paren(where.this), visible) if where else visible))


def _columns_of_target(statement: exp.Expr, name: exp.Expr) -> Iterator[exp.Column]:
    """Yield the columns of its target that a statement reads, without the columns that it only assigns to."""
    for column in statement.find_all(exp.Column):
        assignment = column.parent
        is_assigned = (
            isinstance(assignment, exp.EQ) and assignment.this is column and isinstance(assignment.parent, exp.Update)
        )
        if is_assigned or isinstance(assignment, exp.Schema) or column.find_ancestor(exp.Insert):
            continue
        qualifier = column.args.get("table")
        if (qualifier is None and column.find_ancestor(exp.Select) is None) or (
            qualifier is not None and name_of(qualifier) == name_of(name)
        ):
            yield column


def _raw(column: str, table: exp.Expr) -> exp.Column:
    return exp.Column(this=exp.to_identifier(column, quoted=True), table=table.copy())


def _parsed(body: str, values: dict[str, exp.Column] | None = None) -> exp.Expr:
    """Parse a policy's body and replace its arguments by columns."""
    tree = sqlglot.parse_one(body, read="snowflake")

    def replaced(node: exp.Expr) -> exp.Expr:
        if values and isinstance(node, exp.Column) and not node.table and name_of(node.this) in values:
            return values[name_of(node.this)].copy()
        return node

    return tree.transform(replaced)


def _roles_resolved(expression: exp.Expr, session: Session) -> exp.Expr:
    """Replace each IS_ROLE_IN_SESSION(role): true if the current role is that role or inherits its rights."""
    calls = [call for call in expression.find_all(exp.Anonymous) if str(call.this).upper() == "IS_ROLE_IN_SESSION"]
    if not calls:
        return expression
    expression = expression.copy()
    for call in list(expression.find_all(exp.Anonymous)):
        if str(call.this).upper() != "IS_ROLE_IN_SESSION":
            continue
        if len(call.expressions) != 1 or not isinstance(call.expressions[0], exp.Literal):
            raise unsupported("IS_ROLE_IN_SESSION of anything but a literal")
        roles = session.account.catalogue.rights.effective_roles(session.role)
        call.replace(exp.Boolean(this=call.expressions[0].name in roles))
    return expression


def described(table: exp.Table, session: Session) -> dict[str, str]:
    """
    Return column -> full name of its masking policy, for DESCRIBE TABLE.

    As in the service, policies that are set by a tag are left out.
    """
    masks = session.account.catalogue.policies.masks.get(key("TABLE", *session.qualified(table)), {})
    return {column: policy.partition(":")[2] for column, policy in masks.items()}


def plan(expression: exp.Expr, session: Session) -> str | None:
    """
    Answer EXPLAIN of a query: the plan shows for each table whether it has a row access policy.

    :returns: a query in DuckDB's SQL whose result is the plan; None for any other statement.
    """
    if not isinstance(expression, exp.Command) or str(expression.this).upper() != "EXPLAIN":
        return None
    query = sqlglot.parse_one(expression.expression.name, read="snowflake")
    if not isinstance(query, exp.Query):
        raise unsupported("EXPLAIN of anything but a query, in the tabular form")
    privileges.authorize(query, session)
    rows: list[tuple[str, str | None]] = [("GlobalStats", None), ("Result", None)]
    for table in privileges.read_tables(query, None):
        parts = session.qualified(table)
        filtered = key("TABLE", *parts) in session.account.catalogue.policies.filters
        rows.append(
            ("DynamicSecureView", f"{parts[2]} (+ RowAccessPolicy)") if filtered else ("TableScan", ".".join(parts))
        )
    listed = ", ".join(
        f"({number}::BIGINT, {exp.Literal.string(operation)}, "
        f"{'NULL' if objects is None else exp.Literal.string(objects).sql('duckdb')})"
        for number, (operation, objects) in enumerate(rows)
    )
    return f"SELECT * FROM (VALUES {listed}) AS plan(id, operation, objects)"


def note_end(expression: exp.Expr, session: Session) -> None:
    """Update the policies after a statement that created, dropped or renamed tables or columns."""
    policies = session.account.catalogue.policies
    if isinstance(expression, exp.Create) and expression.kind == "TABLE":
        properties = expression.args.get("properties")
        like = properties.find(exp.LikeProperty) if properties else None
        table = expression.find(exp.Table)
        if table is not None and not expression.args.get("exists"):
            name = key("TABLE", *session.qualified(table))
            policies.forget(name)
            if like is not None:
                policies.copy_to(name, key("TABLE", *session.qualified(like.this)))
    elif isinstance(expression, exp.Drop):
        for name in privileges.dropped(expression, session):
            policies.forget(name)
    elif isinstance(expression, exp.Alter):
        name = key("TABLE", *session.qualified(expression.this)) if isinstance(expression.this, exp.Table) else ""
        if (renamed := privileges.new_name(expression)) is not None:
            policies.move(name, key("TABLE", *session.qualified(renamed)))
        for action in expression.args.get("actions") or ():
            if isinstance(action, exp.RenameColumn):
                policies.rename_column(name, name_of(action.this.this), name_of(action.args["to"].this))
            elif isinstance(action, exp.Drop):
                for column in action.args.get("tables") or ():
                    policies.rename_column(name, name_of(column.this), None)
