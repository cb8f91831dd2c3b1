"""Rows out of a damaged SQLite file and its WAL, page by page, without SQLite: it stops at what it cannot trust, this
goes on behind it. After https://www.sqlite.org/fileformat2.html (sections 1.6 "B-tree Pages", 2.1 "Record Format").

Guarantees: on a sound file of our own schema it finds exactly the rows that SQLite finds; on a damaged one every row
whose cell and record still parse and fit their table, wherever in the file, also where roots, the header or the way to
them are gone. Reads only. Does not guarantee that a value was not changed inside its field: SQLite has no checksums.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edged.storage import wal
from edged.storage.table import Row, Table, Value
from edged.storage.wal import PAGE_BYTES

_MAX_PAYLOAD = 1 << 30
_TABLE_LEAF, _TABLE_INNER, _INDEX_LEAF, _INDEX_INNER = 0x0D, 0x05, 0x0A, 0x02


@dataclass
class Found:
    """`rows` of each table by key; `damaged`: pages that a table or an index lacks, or that do not parse whole; `whole`:
    tables of which nothing is damaged (none of the large ones). Of tables too large to be held `each` gives the rows.
    """

    rows: dict[str, dict[Row, Row]] = field(default_factory=dict)
    damaged: set[int] = field(default_factory=set)
    whole: set[str] = field(default_factory=set)
    pages: int = 0
    wal_broken: int = 0
    reader: _Reader | None = None

    def each(self, name: str) -> Iterator[Row]:
        """The rows of a table, of two versions the later one first."""
        if self.reader is not None:
            yield from self.reader.each(name)


def read(
    path: Path, tables: Mapping[str, Table], *, append_only: frozenset[str] = frozenset(),
    unless_whole: frozenset[str] = frozenset(), large: frozenset[str] = frozenset(),
) -> Found:  # fmt: skip
    """Every row that can be read of the database at `path` with its `-wal`. Rows of tables in `append_only` are also
    taken from older images of a page in WAL and file: they are never deleted, so the union is what there was; of two
    versions of a row the later one is taken. Of tables in `unless_whole` only if something of the table is damaged.
    Rows of tables in `large` are not held: see `Found.each`.
    """
    return _Reader(_mapped(path), _mapped(path.with_name(path.name + "-wal")), tables).all(
        append_only, unless_whole, large
    )


def _mapped(path: Path) -> mmap.mmap | bytes:
    """The content of a file, without taking memory for it; empty if there is none."""
    if not path.exists() or not path.stat().st_size:
        return b""
    with path.open("rb") as f:
        return mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)


_SCHEMA = Table(
    "sqlite_schema",
    tuple((n, "INTEGER" if n == "rootpage" else "TEXT", n != "sql", None)
          for n in ("type", "name", "tbl_name", "rootpage", "sql")),
    tuple(range(5)), None, False, (1,), {0: frozenset({"table", "index", "view", "trigger"})},
)  # fmt: skip


class _Reader:
    def __init__(self, main: mmap.mmap | bytes, log: mmap.mmap | bytes, tables: Mapping[str, Table]) -> None:
        self._main, self._log, self._tables = main, log, tables
        self._wal = wal.read(log)
        self._images: dict[int, list[int]] = {}
        self._pages_of: dict[str, list[int]] = {}
        self._damaged: set[int] = set()
        self._reached: set[str] = set()  # tables whose every page was found
        for page, place in self._wal.frames:
            self._images.setdefault(page, []).append(place)
        self.count = max([len(main) // PAGE_BYTES, *self._images])

    def all(self, append_only: frozenset[str], unless_whole: frozenset[str], large: frozenset[str]) -> Found:
        found = Found({n: {} for n in self._tables}, pages=self.count, wal_broken=self._wal.broken, reader=self)
        self._damaged = found.damaged
        owner, seen = self._owners(found.damaged)
        for page in range(1, self.count + 1):
            if page not in seen and self.newest(page)[self._start(page)] in (_TABLE_LEAF, _INDEX_LEAF, _INDEX_INNER):
                guessed = self._guess(page)
                if guessed is not None:
                    owner[page] = {guessed}
        for page, names in owner.items():
            # The copy of another tree's page leads there, and that tree's own root may be gone.
            if not any(self._mostly(page, self._tables[name]) for name in names):
                guessed = self._guess(page)
                owner[page] = names if guessed is None else {*names, guessed}
        self._pages_of = {name: [p for p in sorted(owner) if name in owner[p]] for name in self._tables}
        if found.damaged:
            found.damaged |= self._blank(seen)
        broken: set[str] = set(self._tables) if self._wal.broken else set()
        newest: list[tuple[int, str, dict[Row, Row]]] = []
        for name in self._tables.keys() - large:
            for page in self._pages_of[name]:
                rows, whole = self._rows(self.newest(page), page, self._tables[name])
                if not whole:
                    found.damaged.add(page)
                    broken.add(name)
                newest.append((self.versions(page)[-1][0], name, rows))
        found.whole = self._reached - broken - large
        older = [
            (place, page, name, image)
            for name in append_only - large - (unless_whole & found.whole)
            for page in self._pages_of.get(name, ())
            for place, image in self.versions(page)[:-1]
        ]
        # A row may have moved from page to page: what was written last is taken last.
        for _, page, name, image in sorted(older, key=lambda o: o[:3]):
            found.rows[name].update(self._rows(image, page, self._tables[name])[0])
        for _, name, rows in sorted(newest, key=lambda n: n[:2]):
            found.rows[name].update(rows)
        return found

    def each(self, name: str) -> Iterator[Row]:
        """After `all`: the rows of a table's newest images, what was written last first; notes damaged pages, too."""
        for page in sorted(self._pages_of.get(name, ()), key=lambda p: self.versions(p)[-1][0], reverse=True):
            rows, whole = self._rows(self.newest(page), page, self._tables[name])
            if not whole:
                self._damaged.add(page)
            yield from rows.values()

    # pages

    def versions(self, page: int) -> list[tuple[int, bytes]]:
        """The images of a page with their place in the WAL (-1 = in the file), the oldest first."""
        start = (page - 1) * PAGE_BYTES
        images = [(-1, self._main[start : start + PAGE_BYTES])] if start + PAGE_BYTES <= len(self._main) else []
        images += [(place, self._log[place : place + PAGE_BYTES]) for place in self._images.get(page, ())]
        return images or [(-1, bytes(PAGE_BYTES))]

    def newest(self, page: int) -> bytes:
        places = self._images.get(page)
        if places:
            return self._log[places[-1] : places[-1] + PAGE_BYTES]
        return self.versions(page)[-1][1]

    @staticmethod
    def _start(page: int) -> int:
        return 100 if page == 1 else 0

    # who owns which page

    def _owners(self, damaged: set[int]) -> tuple[dict[int, set[str]], set[int]]:
        """Pages with rows by their table, and all that were reached from a table's root. A damaged page may lead into another
        tree, so a page may have several."""
        owner: dict[int, set[str]] = {}
        seen: set[int] = set()
        leaves = list(self._walk(1, False, seen, damaged))
        if damaged:  # the schema's other pages are known by their looks
            leaves += [p for p in range(2, self.count + 1) if p not in seen and self._is_schema(p)]
            seen.update(leaves)
        for leaf in leaves:
            rows, whole = self._rows(self.newest(leaf), leaf, _SCHEMA)
            if not whole:
                damaged.add(leaf)
            for kind, name, _, root, _ in rows.values():
                if not isinstance(root, int) or not 1 < root <= self.count:
                    continue
                table = self._tables.get(str(name)) if kind == "table" else None
                index = kind == "index" or (table is not None and table.without_rowid)
                missing: set[int] = set()
                # An index may lead to a table's pages, by a copy: what lies there is still known by its looks.
                for page in self._walk(root, index, seen if table is not None else set(), missing):
                    if table is not None:
                        owner.setdefault(page, set()).add(table.name)
                if table is not None and not missing:
                    self._reached.add(table.name)
                damaged |= missing
        return owner, seen

    def _blank(self, seen: set[int]) -> set[int]:
        """Pages of zeros that are neither free nor reached. (A free page is zeros, too: secure_delete.)"""
        head, free = self.newest(1), set[int]()
        trunk = struct.unpack_from(">I", head, 32)[0]
        while 1 < trunk <= self.count and trunk not in free:
            image = self.newest(trunk)
            free.add(trunk)
            n = min(struct.unpack_from(">I", image, 4)[0], PAGE_BYTES // 4 - 2)
            free.update(struct.unpack_from(f">{n}I", image, 8))
            trunk = struct.unpack_from(">I", image)[0]
        return {p for p in range(2, self.count + 1) if p not in seen and p not in free and not any(self.newest(p))}

    def _is_schema(self, page: int) -> bool:
        image = self.newest(page)
        if image[0] != _TABLE_LEAF:
            return False
        records = list(self._records(image, 0))
        return 0 < len(records) < 2 * sum(r is not None and _SCHEMA.row(r[1], r[0]) is not None for r in records)

    def _walk(self, root: int, index: bool, seen: set[int], damaged: set[int]) -> Iterator[int]:
        """The pages with rows under a root. What is no page of this kind of tree is damaged."""
        leaf, inner = (_INDEX_LEAF, _INDEX_INNER) if index else (_TABLE_LEAF, _TABLE_INNER)
        waiting, mine = [root], set[int]()
        while waiting:
            page = waiting.pop()
            if page in mine:
                continue
            mine.add(page)
            image = self.newest(page) if 1 <= page <= self.count else b""
            start = self._start(page)
            kind = image[start] if image else -1
            if kind not in (leaf, inner):
                damaged.add(page)  # not seen: what lies there may still be known by its looks
                continue
            seen.add(page)
            if kind == inner:
                below = [struct.unpack_from(">I", image, cell)[0] for cell in self._cells(image, start, 4)]
                waiting += [*below, struct.unpack_from(">I", image, start + 8)[0]]
            if kind == leaf or index:
                yield page

    def _guess(self, page: int) -> str | None:
        """The table that all records of a page fit, if there is one: of several the one with just so many columns."""
        image, start = self.newest(page), self._start(page)
        records = [r for r in self._records(image, start) if r is not None]
        if not records:
            return None
        by_rowid = image[start] == _TABLE_LEAF
        fits: list[tuple[int, int, str]] = []
        for table in self._tables.values():
            if table.without_rowid == by_rowid:
                continue
            # An index entry has four columns at most, and must not be taken for a row.
            rows = [table.row(record, rowid) for rowid, record in records if by_rowid or len(record) > 4]
            if len(rows) < len(records):
                continue
            good = sum(row is not None and table.likely(row) for row in rows)
            if good * 2 > len(rows):
                exact = sum(len(record) == len(table.stored) for _, record in records)
                fits.append((good * 2 + exact, len(table.words), table.name))
        return max(fits)[2] if fits else None

    def _mostly(self, page: int, table: Table) -> bool:
        """Whether half of the records of a page, or more, are rows of this table."""
        records = [r for r in self._records(self.newest(page), self._start(page)) if r is not None]
        return sum(table.row(record, rowid) is not None for rowid, record in records) * 2 >= len(records)

    # cells and records

    def _rows(self, image: bytes, page: int, table: Table) -> tuple[dict[Row, Row], bool]:
        """The rows of a page by their key, and whether all of its cells are rows."""
        start = self._start(page)
        kinds = (_INDEX_LEAF, _INDEX_INNER) if table.without_rowid else (_TABLE_LEAF,)
        if image[start] not in kinds:
            return {}, False
        rows: dict[Row, Row] = {}
        whole = True
        for record in self._records(image, start):
            row = None if record is None else table.row(record[1], record[0])
            if row is None:
                whole = False
            else:
                rows[tuple(row[i] for i in table.key) or row] = row
        return rows, whole

    def _cells(self, image: bytes, start: int, least: int) -> list[int]:
        """Where the cells begin; those outside the page are left out."""
        kind = image[start]
        n = struct.unpack_from(">H", image, start + 3)[0]
        first = start + (12 if kind in (_TABLE_INNER, _INDEX_INNER) else 8)
        n = min(n, (PAGE_BYTES - first) // 2)
        return [
            c for c in struct.unpack_from(f">{n}H", image, first) if first + 2 * n <= c <= PAGE_BYTES - least
        ]  # fmt: skip

    def _records(self, image: bytes, start: int) -> Iterator[tuple[int | None, list[Value]] | None]:
        """(rowid, values) of each cell, None for one that does not parse."""
        kind = image[start]
        cells = self._cells(image, start, 2)
        lost = struct.unpack_from(">H", image, start + 3)[0] - len(cells)
        for cell in cells:
            try:
                at = cell + (4 if kind == _INDEX_INNER else 0)
                size, at = _varint(image, at)
                rowid: int | None = None
                if kind == _TABLE_LEAF:
                    rowid, at = _varint(image, at)
                yield rowid, _record(self._payload(image, at, size, kind == _TABLE_LEAF))
            except (ValueError, IndexError, struct.error):
                yield None
        for _ in range(min(lost, PAGE_BYTES // 4)):
            yield None

    def _payload(self, image: bytes, at: int, size: int, table: bool) -> bytes:
        """The bytes of a record, gathered from its overflow pages (section 1.6, "cell payload")."""
        u = PAGE_BYTES
        most = u - 35 if table else (u - 12) * 64 // 255 - 23
        if not 0 < size <= _MAX_PAYLOAD:
            raise ValueError
        local = size
        if size > most:
            least = (u - 12) * 32 // 255 - 23
            local = least + (size - least) % (u - 4)
            local = local if local <= most else least
        if at + local + (4 if size > most else 0) > u:
            raise ValueError
        parts, have = [image[at : at + local]], local
        following = struct.unpack_from(">I", image, at + local)[0] if size > most else 0
        visited: set[int] = set()
        while have < size:
            if not 1 < following <= self.count or following in visited:
                raise ValueError
            visited.add(following)
            page = self.newest(following)
            if not any(page):
                raise ValueError
            part = page[4 : min(u, 4 + size - have)]
            parts.append(part)
            have += len(part)
            following = struct.unpack_from(">I", page)[0]
        return b"".join(parts)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A variable-length integer (64 bit, two's complement) and where it ends."""
    value = 0
    for i in range(8):
        byte = data[at + i]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + i + 1
    value = value << 8 | data[at + 8]
    return value - (1 << 64) if value >> 63 else value, at + 9


_INT_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


def _record(payload: bytes) -> list[Value]:
    """The values of a record; raises ValueError unless it is whole and used to its end."""
    head, at = _varint(payload, 0)
    if not at <= head <= len(payload):
        raise ValueError
    types: list[int] = []
    while at < head:
        kind = payload[at]
        if kind < 0x80:
            at += 1
        else:
            kind, at = _varint(payload, at)
        types.append(kind)
    if at != head:
        raise ValueError
    values: list[Value] = []
    for kind in types:
        if kind == 0:
            values.append(None)
            continue
        if kind in (8, 9):
            values.append(kind - 8)
            continue
        size = _INT_BYTES.get(kind) or (8 if kind == 7 else (kind - 12) // 2 if kind >= 12 else -1)
        if size < 0 or at + size > len(payload):
            raise ValueError
        part = payload[at : at + size]
        at += size
        if kind == 7:
            values.append(struct.unpack(">d", part)[0])
        elif kind < 7:
            values.append(int.from_bytes(part, "big", signed=True))
        elif kind % 2:
            values.append(part.decode("utf-8"))  # UnicodeDecodeError is a ValueError
        else:
            values.append(part)
    if at != len(payload):
        raise ValueError
    return values
