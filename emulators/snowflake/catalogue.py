"""The account's objects that DuckDB cannot store, in a file of their own: rights, policies, file formats of stages."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from emulators.snowflake.rights import Rights


@dataclass
class Policy:
    """
    A policy.

    :param kind: ``MASKING POLICY`` or ``ROW ACCESS POLICY``
    :param arguments: the names of its arguments
    :param types: the arguments' types, as policies distinguish them
    :param body: the expression behind the arrow
    """

    kind: str
    arguments: list[str]
    types: list[str]
    body: str


@dataclass
class Policies:
    """The account's policies and tags, as stored in the catalogue's file. :func:`key` builds the names of objects."""

    known: dict[str, Policy] = field(default_factory=dict)
    masks: dict[str, dict[str, str]] = field(default_factory=dict)
    """Table -> column -> the masking policy that is set on the column directly."""
    filters: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    """Table -> its row access policy, and the columns that are its arguments."""
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    """Tag -> type -> the masking policy that the tag sets on columns of this type."""
    tagged: dict[str, list[str]] = field(default_factory=dict)
    """Database, schema or table -> its tags."""

    @classmethod
    def read(cls, kept: dict[str, dict[str, Any]]) -> Policies:
        """Build the policies from the content of the catalogue's file."""
        made = cls(**kept)
        made.known = {name: Policy(**policy) for name, policy in kept.get("known", {}).items()}
        return made

    @property
    def _by_table(self) -> tuple[dict[str, Any], ...]:
        return self.masks, self.tagged, self.filters

    def copy_to(self, table: str, like: str) -> None:
        """
        Copy tags and masking policies to a table that was created with CREATE TABLE ... LIKE.

        A row access policy is not copied. Snowflake's documentation does not say whether masking policies are. The
        emulator copies them, which is the harder case for a sync: its staging table is masked too.
        """
        for entries in self._by_table[:2]:
            if like in entries:
                entries[table] = entries[like].copy()

    def forget(self, name: str) -> None:
        """Remove the entries of a dropped table, schema or database, and of everything in it."""
        kind, _, path = name.partition(":")
        for entries in self._by_table:
            for other in list(entries):
                is_inside = kind != "TABLE" and other.partition(":")[2].startswith(f"{path}.")
                if other == name or is_inside:
                    del entries[other]

    def move(self, name: str, new: str) -> None:
        """Record a table's new name."""
        for entries in self._by_table:
            if name in entries:
                entries[new] = entries.pop(name)

    def rename_column(self, table: str, column: str, new: str | None) -> None:
        """Record a column's new name; None for a dropped column."""
        masks = self.masks.get(table, {})
        if (policy := masks.pop(column, None)) is not None and new is not None:
            masks[new] = policy

    def users_of(self, policy: str) -> list[str]:
        """Return the tables and tags that a policy is set on."""
        masked = [table for table, columns in self.masks.items() if policy in columns.values()]
        filtered = [table for table, (name, _) in self.filters.items() if name == policy]
        return [*masked, *filtered, *(tag for tag, by_kind in self.tags.items() if policy in by_kind.values())]


@dataclass
class Catalogue:
    """The account's objects that DuckDB cannot store. Names are upper case."""

    warehouses: list[str] = field(default_factory=list)
    integrations: dict[str, list[str]] = field(default_factory=dict)
    """Storage integration -> its allowed locations."""
    stage_formats: dict[str, dict[str, Any]] = field(default_factory=dict)
    """DATABASE.SCHEMA.STAGE -> the options of its file format."""
    rights: Rights = field(default_factory=Rights)
    policies: Policies = field(default_factory=Policies)

    @property
    def roles(self) -> Collection[str]:
        """The names of all roles."""
        return self.rights.roles.keys()
