"""Roles, users, owners and grants: who has which privilege on which object."""

from __future__ import annotations

from dataclasses import dataclass, field

ADMINISTRATOR = "ADMIN"
"""The user who set the account up; a session without a named user is theirs."""

OWNERSHIP = "OWNERSHIP"

# Setting a policy or a tag takes these, and not the ownership of the table.
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
    Everybody's rights, as they are kept in the catalogue's file.

    Objects are named by :func:`key`; an object exists for the access control when it has an owner.
    """

    owners: dict[str, str] = field(default_factory=dict)
    """Object -> the role with OWNERSHIP."""
    grants: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Object -> role -> privileges."""
    future: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Kind and container -> role -> privileges on what is made there."""
    roles: dict[str, list[str]] = field(default_factory=lambda: {role: list(of) for role, of in _SYSTEM_ROLES.items()})
    """Role -> the roles granted to it, whose rights it has too."""
    users: dict[str, list[str]] = field(default_factory=lambda: {ADMINISTRATOR: ["ACCOUNTADMIN"]})
    """User -> the roles granted to them."""

    def __post_init__(self) -> None:
        for role, privileges in _SYSTEM_GRANTS.items():
            self.grants.setdefault("ACCOUNT", {}).setdefault(role, list(privileges))

    def of(self, role: str) -> set[str]:
        """The role and all roles whose rights it has."""
        found, new = {"PUBLIC"}, [role]
        while new:
            one = new.pop()
            if one not in found:
                found.add(one)
                new.extend(self.roles.get(one, ()))
        return found

    def may_use(self, user: str, role: str) -> bool:
        """Whether the role is granted to the user, perhaps by another role."""
        return role == "PUBLIC" or any(role in self.of(granted) for granted in self.users.get(user, ()))

    def holds(self, role: str, name: str, privilege: str | None = None) -> bool:
        """Whether the role owns the object or has the privilege on it; without a privilege: whether it has any."""
        roles = self.of(role)
        if self.owners.get(name) in roles:
            return True
        return any(
            granted and (privilege is None or privilege in granted)
            # A copy: readers do not wait for who changes it.
            for grantee, granted in list(self.grants.get(name, {}).items())
            if grantee in roles
        )

    def create(self, name: str, role: str) -> None:
        """Note a new object: the role's own, with the grants that were made for the future."""
        self.forget(name)
        self.owners[name] = role
        kind, _, path = name.partition(":")
        schema, database = path.rpartition(".")[0], path.partition(".")[0]
        # Those on the schema take the place of those on the database.
        planned = self.future.get(f"{kind}S:SCHEMA:{schema}") or self.future.get(f"{kind}S:DATABASE:{database}") or {}
        for grantee, privileges in planned.items():
            if OWNERSHIP in privileges:
                self.owners[name] = grantee
            if kept := [privilege for privilege in privileges if privilege != OWNERSHIP]:
                self.grants.setdefault(name, {})[grantee] = kept

    def forget(self, name: str) -> None:
        """Note that an object is gone, with all that is in it."""
        path = name.partition(":")[2] + "."
        inside = name.startswith(("DATABASE:", "SCHEMA:"))
        for table in (self.owners, self.grants):
            for other in [
                other for other in table if other == name or (inside and other.partition(":")[2].startswith(path))
            ]:
                del table[other]

    def move(self, name: str, new: str) -> None:
        """Note an object's new name."""
        if name in self.owners:
            self.owners[new] = self.owners.pop(name)
        if name in self.grants:
            self.grants[new] = self.grants.pop(name)

    def drop_role(self, role: str, heir: str) -> None:
        """Note that a role is gone; what it owned belongs to the role that dropped it."""
        self.roles.pop(role, None)
        for granted in (*self.roles.values(), *self.users.values()):
            if role in granted:
                granted.remove(role)
        for by_role in (*self.grants.values(), *self.future.values()):
            by_role.pop(role, None)
        for name in [name for name, owner in self.owners.items() if owner == role]:
            self.owners[name] = heir
