"""Whether rows that rollouts are decided on have changed since the last look, whoever changed them.

Guarantees: after a commit of this or any other process that changed such a row, the next look differs from the last one;
so does the first look of a process, and of a new connection. It costs two queries of one row. Does not guarantee that
anything has changed when it differs: what another process commits counts, whatever it was. Time that passes changes no
row.

How: triggers of this connection alone (temporary ones: the catalogue does not have them) count its own changes, and
SQLite's `data_version` moves when another connection commits. Frames, progress and counters, which this process writes
all the time, are not counted.
"""

from __future__ import annotations

import sqlite3

from edged.storage.store import Store

_RUNS = "iif(json_valid({0}.reported), json_extract({0}.reported, '$.sha256'), {0}.reported)"
_IS = "iif(json_valid({0}.info), json_extract({0}.info, '$.hw', '$.agent', '$.takes', '$.classes', '$.most_bytes'), 0)"
_COUNTED = {  # the table, and of an update what must differ
    "release": "1",
    "blocked": "1",
    "request": "1",
    "delivery": "(old.status, old.unwell, old.offered, old.canary) is not (new.status, new.unwell, new.offered, new.canary)",
    "camera": f"old.online is not new.online or {_RUNS.format('old')} is not {_RUNS.format('new')}"
    f" or {_IS.format('old')} is not {_IS.format('new')}",
}


class Stirred:
    """One observer; `look` it from one thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._connections = 0

    def look(self) -> tuple[int, int, int]:
        """To be compared with what it was. What is read after it is at least as new. Raises Unavailable, Corrupt."""
        try:
            own = self._own()
        except sqlite3.OperationalError:  # a new connection has no such table
            self._count()
            own = self._own()
        return self._connections, own, int(self._store.value("pragma data_version"))

    def _own(self) -> int:
        return int(self._store.value("select n from temp.stirred"))

    def _count(self) -> None:
        self._connections += 1
        # At once or not at all, on one connection: a trigger whose table stayed on the one before fails every later write.
        with self._store.transaction() as store:
            store.execute("create temp table stirred (n integer not null)")
            store.execute("insert into temp.stirred values (0)")
            for table, differs in _COUNTED.items():
                for act, when in (("insert", ""), ("delete", ""), ("update", f" when {differs}")):
                    # "of ...": the columns of a camera that frames and figures write are not even compared
                    of = " of online, reported, info" if (table, act) == ("camera", "update") else ""
                    store.execute(
                        f"create temp trigger stirred_{table}_{act} after {act}{of} on main.{table}{when}"
                        " begin update stirred set n = n + 1; end"
                    )
