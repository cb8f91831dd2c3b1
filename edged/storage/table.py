"""What rows of our tables look like, so that bytes can be told from rows.

Guarantees: a record that a table's own schema would not have taken (types, not null, `check (column in (...))`) is no row.
Does not guarantee that a record which fits belongs to it.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from edged.storage import schema

Value = int | float | str | bytes | None
Row = tuple[Value, ...]


@dataclass(frozen=True)
class Table:
    """What rows of a table look like. `columns` (name, type, not null, default) in the order of `create table`; `stored`:
    the places of the columns in the order of the record; `rowid`: the place of the integer key, None if there is none.
    """

    name: str
    columns: tuple[tuple[str, str, bool, Value], ...]
    stored: tuple[int, ...]
    rowid: int | None
    without_rowid: bool
    key: tuple[int, ...]
    words: Mapping[int, frozenset[str]] = field(default_factory=dict)  # `check (column in (...))` by place
    documents: frozenset[int] = frozenset()  # places of JSON, as the schema's comments say
    added: int = 0  # columns that later versions added: a record that was written before does not have them

    def row(self, record: Sequence[Value], rowid: int | None) -> Row | None:
        """The record as a row of this table, None if it cannot be one. Columns that were added later may be missing."""
        if not len(self.stored) - self.added <= len(record) <= len(self.stored):
            return None
        row = list(self._empty)
        for (place, kind, not_null, words), value in zip(self._plan, record, strict=False):
            if value is None:
                if place == self.rowid:
                    value = rowid
                elif not_null:
                    return None
            elif place == self.rowid:
                return None
            elif type(value) is not kind:
                if kind is not float or type(value) is not int:
                    return None
                value = float(value)  # SQLite stores a whole number in fewer bytes
            elif words and value not in words:
                return None
            row[place] = value
        return tuple(row)

    def likely(self, row: Row) -> bool:
        """Whether a row whose table is not known may be taken for one of this: what is to be JSON looks like it."""
        return all(str(row[p])[:1] + str(row[p])[-1:] in ("{}", "[]") for p in self.documents if row[p] is not None)

    @cached_property
    def _plan(self) -> tuple[tuple[int, type, bool, frozenset[str]], ...]:
        """Of each value of a record: its place, type, whether it must be there, the words it may be."""
        return tuple(
            (p, _TYPES[self.columns[p][1]], self.columns[p][2], self.words.get(p, frozenset())) for p in self.stored
        )

    @cached_property
    def _empty(self) -> tuple[Value, ...]:
        return tuple(c[3] for c in self.columns)


_TYPES: Mapping[str, type] = {"INTEGER": int, "REAL": float, "TEXT": str, "BLOB": bytes}
_ADD = re.compile(r"^alter table (\w+) add column", re.MULTILINE)
_CHECK = re.compile(r"check\s*\(\s*(\w+)\s+in\s*\(([^)]*)\)\s*\)", re.IGNORECASE)
_DOCUMENT = re.compile(r"^\s*(\w+) [^\n]*-- JSON", re.MULTILINE)


def of(conn: sqlite3.Connection) -> dict[str, Table]:
    """The tables of an open, sound database."""
    found: dict[str, Table] = {}
    added = Counter(_ADD.findall("\n".join(schema.script(file) for file in schema.STEPS.values())))
    for name, without_rowid, sql in conn.execute(
        "select l.name, l.wr, s.sql from pragma_table_list l join sqlite_schema s on s.name = l.name and s.type = 'table'"
        " where l.schema = 'main' and l.type = 'table' and l.name not like 'sqlite_%'"
    ).fetchall():
        info = conn.execute(f'pragma table_info("{name}")').fetchall()
        columns = tuple(
            (c[1], str(c[2]).upper(), bool(c[3]), conn.execute(f"select {c[4] or 'null'}").fetchone()[0]) for c in info
        )
        key = tuple(c[0] for c in sorted((c for c in info if c[5]), key=lambda c: c[5]))
        rowid = key[0] if not without_rowid and len(key) == 1 and columns[key[0]][1] == "INTEGER" else None
        rest = tuple(i for i in range(len(columns)) if i not in key)
        stored = (*key, *rest) if without_rowid else tuple(range(len(columns)))
        places = {c[0]: i for i, c in enumerate(columns)}
        words = {places[c]: frozenset(re.findall(r"'([^']*)'", list_)) for c, list_ in _CHECK.findall(sql)}
        documents = frozenset(places[c] for c in _DOCUMENT.findall(sql))
        found[name] = Table(name, columns, stored, rowid, bool(without_rowid), key, words, documents, added[name])
    return found
