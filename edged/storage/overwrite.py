"""What was deleted from the catalogue leaves nothing in its log, nor on the blocks that the log gives back.

SQLite zeroes deleted rows in the database (secure_delete), but its log holds pages as they were, and a log that is cut
gives its blocks back to the file system as they are. So the log is written over from its beginning, by SQLite itself,
with pages of zeros, before it is cut.

Guarantees: when `log` returns True, neither database nor log hold what was deleted before, nor do the blocks that the
log had. A death at any moment leaves a sound catalogue. Does not guarantee that: on flash, on file systems that copy on
write or journal data; nor (it returns False) on a full disk, or while another process holds on to an old state.
"""

from __future__ import annotations

import logging

from edged.errors import Unavailable
from edged.storage import disk
from edged.storage.store import Store
from edged.storage.wal import PAGE_BYTES

logger = logging.getLogger(__name__)

MOST = 64 * 2**20  # bytes of a log that is written over; the database grows by as much, once
_NAME = "overwriting"


def log(store: Store) -> bool:
    """Overwrite and empty the log of the catalogue; not inside a transaction. Whether it was."""
    path = store.path.with_name(f"{store.path.name}-wal")
    size = path.stat().st_size if path.exists() else 0
    written = not size
    # "restart": all is in the database, and whoever writes next begins the log anew.
    if size and size <= MOST and disk.free(store.data_dir) > 2 * size and not _busy(store, "restart"):
        try:
            with store.transaction():
                store.execute(f"create table {_NAME} (zeros blob)")
                # A page that a row overflows to holds four bytes less: as many pages as the log had, and all are written.
                store.execute(f"insert into {_NAME} values (zeroblob(?))", (size // PAGE_BYTES * (PAGE_BYTES - 4),))
                store.execute(f"drop table {_NAME}")
            written = True
        except Unavailable as e:
            logger.warning("the log of the catalogue is not written over: %s", e)
    cut = not _busy(store, "truncate")
    if not (written and cut):
        logger.warning("the log of the catalogue, or the blocks that it had, may still hold what was deleted")
    return written and cut


def _busy(store: Store, mode: str) -> bool:
    row = store.row(f"pragma wal_checkpoint({mode})")
    return row is None or bool(row[0])
