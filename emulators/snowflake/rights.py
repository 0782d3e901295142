"""Roles, users, owners and grants: who has which privilege on which object."""

from __future__ import annotations

from dataclasses import dataclass, field

ADMINISTRATOR = "ADMIN"
"""The user who set the account up, and the user of a session that names no user."""

OWNERSHIP = "OWNERSHIP"

# Privileges on the account that setting a policy or a tag needs. Owning the table is not enough.
APPLY = ("APPLY MASKING POLICY", "APPLY ROW ACCESS POLICY", "APPLY TAG")

_SYSTEM_ROLES = {
    "ACCOUNTADMIN": ["SYSADMIN", "SECURITYADMIN"],
    "SECURITYADMIN": ["USERADMIN"],
    "USERADMIN": [],
    "SYSADMIN": [],
    "PUBLIC": [],
}

_SYSTEM_GRANTS = {
    "ACCOUNTADMIN": ["CREATE INTEGRATION", *APPLY],
    "SECURITYADMIN": ["MANAGE GRANTS"],
    "USERADMIN": ["CREATE ROLE"],
    "SYSADMIN": ["CREATE DATABASE", "CREATE WAREHOUSE"],
}


@dataclass
class Rights:
    """
    All users, roles, owners and grants of the account, as stored in the catalogue's file.

    :func:`key` builds the names of objects. To the access control, an object exists if it has an owner.
    """

    owners: dict[str, str] = field(default_factory=dict)
    """Object -> the role with OWNERSHIP."""
    grants: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Object -> role -> privileges."""
    future: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Kind and schema or database -> role -> privileges on each object of this kind that is created there."""
    roles: dict[str, list[str]] = field(
        default_factory=lambda: {role: list(granted) for role, granted in _SYSTEM_ROLES.items()}
    )
    """Role -> the roles granted to it; it has their rights too."""
    users: dict[str, list[str]] = field(default_factory=lambda: {ADMINISTRATOR: ["ACCOUNTADMIN"]})
    """User -> the roles granted to them."""

    def __post_init__(self) -> None:
        for role, privileges in _SYSTEM_GRANTS.items():
            self.grants.setdefault("ACCOUNT", {}).setdefault(role, list(privileges))

    def effective_roles(self, role: str) -> set[str]:
        """Return the role and all roles that it inherits rights from, PUBLIC included."""
        found, pending = {"PUBLIC"}, [role]
        while pending:
            current = pending.pop()
            if current not in found:
                found.add(current)
                pending.extend(self.roles.get(current, ()))
        return found

    def may_use(self, user: str, role: str) -> bool:
        """Return whether the role is granted to the user, directly or through another role."""
        return role == "PUBLIC" or any(role in self.effective_roles(granted) for granted in self.users.get(user, ()))

    def holds(self, role: str, name: str, privilege: str | None = None) -> bool:
        """Return whether the role owns the object or has the privilege on it; None stands for any privilege."""
        roles = self.effective_roles(role)
        if self.owners.get(name) in roles:
            return True
        return any(
            granted and (privilege is None or privilege in granted)
            # Iterate over a copy: another thread may change the grants meanwhile.
            for grantee, granted in list(self.grants.get(name, {}).items())
            if grantee in roles
        )

    def create(self, name: str, role: str) -> None:
        """Record a new object: the role owns it, and the future grants apply to it."""
        self.forget(name)
        self.owners[name] = role
        kind, _, path = name.partition(":")
        schema, database = path.rpartition(".")[0], path.partition(".")[0]
        # Future grants on the schema replace those on the database.
        planned = self.future.get(f"{kind}S:SCHEMA:{schema}") or self.future.get(f"{kind}S:DATABASE:{database}") or {}
        for grantee, privileges in planned.items():
            if OWNERSHIP in privileges:
                self.owners[name] = grantee
            if kept := [privilege for privilege in privileges if privilege != OWNERSHIP]:
                self.grants.setdefault(name, {})[grantee] = kept

    def forget(self, name: str) -> None:
        """Remove a dropped object and, for a database or schema, everything in it."""
        path = name.partition(":")[2] + "."
        inside = name.startswith(("DATABASE:", "SCHEMA:"))
        for table in (self.owners, self.grants):
            for other in [
                other for other in table if other == name or (inside and other.partition(":")[2].startswith(path))
            ]:
                del table[other]

    def move(self, name: str, new: str) -> None:
        """Record an object's new name."""
        if name in self.owners:
            self.owners[new] = self.owners.pop(name)
        if name in self.grants:
            self.grants[new] = self.grants.pop(name)

    def drop_role(self, role: str, heir: str) -> None:
        """Remove a role. The role that dropped it becomes the owner of its objects."""
        self.roles.pop(role, None)
        for granted in (*self.roles.values(), *self.users.values()):
            if role in granted:
                granted.remove(role)
        for by_role in (*self.grants.values(), *self.future.values()):
            by_role.pop(role, None)
        for name in [name for name, owner in self.owners.items() if owner == role]:
            self.owners[name] = heir
