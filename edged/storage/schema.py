"""The steps from an empty database to the present schema. `pragma user_version` says how many were taken.

Guarantees: each step happens whole or not at all, and once, whichever of several processes comes first. Does not
guarantee a way back: a database of a newer edged is refused, not downgraded.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING

from edged.errors import Misconfigured

if TYPE_CHECKING:
    from sqlite_utils import Database

# What was taken anywhere is never edited.
STEPS = {
    "0001_first": "schema.sql",
    "0002_masks": "schema-2.sql",
    "0003_planted": "schema-3.sql",
    "0004_segments": "schema-4.sql",
    "0005_learning": "schema-5.sql",
    "0006_devices": "schema-6.sql",
    "0007_rollout": "schema-7.sql",
    "0008_aim": "schema-8.sql",
    "0009_fit": "schema-9.sql",
    "0010_label_source": "schema-10.sql",
}
VERSION = len(STEPS)


def version_of(conn: sqlite3.Connection) -> int:
    """The schema version of an open database, 0 = empty. Raises Misconfigured for one newer than this program."""
    version = int(conn.execute("pragma user_version").fetchone()[0])
    if version > VERSION:
        raise Misconfigured(
            f"the store has schema version {version}, this edged knows {VERSION}",
            code="newer_schema",
            hint="install the edged that last ran here, or a newer one",
        )
    return version


def migrate(conn: sqlite3.Connection) -> None:
    """Bring the database up to VERSION. `conn` must be in autocommit mode with no transaction open."""
    if version_of(conn) == VERSION:
        return
    # sqlite-utils takes 0.4 s to import: only whoever makes or upgrades a store pays for it.
    from sqlite_utils import Database, Migrations

    steps = Migrations("edged")
    for name, file in STEPS.items():
        steps(name=name)(_step(file))

    conn.execute("begin immediate")  # a second process waits here and then finds nothing left to do
    try:
        if version_of(conn) < VERSION:
            steps.apply(Database(conn, execute_plugins=False))
            conn.execute(f"pragma user_version = {VERSION}")
        conn.execute("commit")
    except BaseException:
        if conn.in_transaction:
            conn.execute("rollback")
        raise


def _step(file: str) -> Callable[[Database], None]:
    def take(db: Database) -> None:
        db.executescript(script(file))

    return take


def script(file: str) -> str:
    """The SQL of a step."""
    return resources.files("edged.storage").joinpath(file).read_text(encoding="utf-8")
