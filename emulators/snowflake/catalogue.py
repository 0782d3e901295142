"""The account's objects that DuckDB has no place for, as they are kept in a file: rights, policies, stages' formats."""

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
    :param types: the kinds of their types
    :param body: the expression behind the arrow
    """

    kind: str
    arguments: list[str]
    types: list[str]
    body: str


@dataclass
class Policies:
    """The account's policies and tags, as they are kept in the catalogue's file. Objects are named by :func:`key`."""

    known: dict[str, Policy] = field(default_factory=dict)
    masks: dict[str, dict[str, str]] = field(default_factory=dict)
    """Table -> column -> the masking policy that is set on it directly."""
    filters: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    """Table -> its row access policy, and the columns that are its arguments."""
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    """Tag -> kind of a type -> the masking policy of the columns of this type."""
    tagged: dict[str, list[str]] = field(default_factory=dict)
    """Database, schema or table -> its tags."""

    @classmethod
    def read(cls, kept: dict[str, dict[str, Any]]) -> Policies:
        """The policies that the catalogue's file has."""
        made = cls(**kept)
        made.known = {name: Policy(**policy) for name, policy in kept.get("known", {}).items()}
        return made

    @property
    def _of_tables(self) -> tuple[dict[str, Any], ...]:
        return self.masks, self.tagged, self.filters

    def copy_to(self, table: str, like: str) -> None:
        """
        Give a new table what it has of the one that it is LIKE: tags, and masking policies of columns.

        A row access policy is not carried over. Of masking policies no page says it; here they are, as what a sync then
        stages is masked too.
        """
        for of_table in self._of_tables[:2]:
            if like in of_table:
                of_table[table] = of_table[like].copy()

    def forget(self, name: str) -> None:
        """Note that a table, schema or database is gone."""
        kind, _, path = name.partition(":")
        for of_table in self._of_tables:
            for other in list(of_table):
                is_inside = kind != "TABLE" and other.partition(":")[2].startswith(f"{path}.")
                if other == name or is_inside:
                    del of_table[other]

    def move(self, name: str, new: str) -> None:
        """Note a table's new name."""
        for of_table in self._of_tables:
            if name in of_table:
                of_table[new] = of_table.pop(name)

    def rename_column(self, table: str, column: str, new: str | None) -> None:
        """Note a column's new name; None for a column that is gone."""
        masks = self.masks.get(table, {})
        if (policy := masks.pop(column, None)) is not None and new is not None:
            masks[new] = policy

    def users_of(self, policy: str) -> list[str]:
        """The tables and tags that a policy is set on."""
        masked = [table for table, columns in self.masks.items() if policy in columns.values()]
        filtered = [table for table, (name, _) in self.filters.items() if name == policy]
        return [*masked, *filtered, *(tag for tag, by_kind in self.tags.items() if policy in by_kind.values())]


@dataclass
class Catalogue:
    """The account's objects that DuckDB has no place for. Names are upper case."""

    warehouses: list[str] = field(default_factory=list)
    integrations: dict[str, list[str]] = field(default_factory=dict)
    """Storage integration -> its allowed locations."""
    stage_formats: dict[str, dict[str, Any]] = field(default_factory=dict)
    """DATABASE.SCHEMA.STAGE -> the options of its file format."""
    rights: Rights = field(default_factory=Rights)
    policies: Policies = field(default_factory=Policies)

    @property
    def roles(self) -> Collection[str]:
        """All roles."""
        return self.rights.roles.keys()
