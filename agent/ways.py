"""Which way a camera takes to the bytes of a release, and the bytes that it leads to.

Guarantees: `rebuild` returns a file of exactly the signed length, made of bytes with the way's signed hash, or raises; no
forged length inside makes it allocate more than that length (edged.packed). Does not guarantee that it is the release:
python-tuf compares its hash afterwards, as that of any other bytes. The whole file is always there to fall back to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from edged import packed
from edged.errors import Corrupt, Refused
from edged.packed import delta
from edged.wire.messages import Way


def choose(ways: Iterable[Way], whole: int, have: str) -> Way | None:
    """The way of the fewest bytes that this camera can go; None = the whole file, of `whole` bytes.

    `have`: SHA-256 of the file that runs, "" = none. One that is not shorter than the whole file is not gone.
    """
    usable = [way for way in ways if way.form == "packed" or (way.source and way.source == have)]
    best = min(usable, key=lambda way: (way.bytes, way.form == "delta"), default=None)
    return best if best is not None and best.bytes < whole else None


def rebuild(way: Way, data: bytes, old: bytes | None, length: int) -> bytes:
    """The release's file of `length` bytes; `data`: what came, `old`: the file that a delta starts from.

    Raises Corrupt or Refused when there is no such file, Refused too when memory does not suffice: then take the whole
    one.
    """
    if hashlib.sha256(data).hexdigest() != way.sha256:
        raise Corrupt("what came is not what was signed", code="bad_way")
    try:
        if way.form == "packed":
            found = packed.unpack(data, most=length)
        elif old is None:
            raise Refused("the file that the delta starts from is not here", code="wrong_source")
        else:
            found = delta.rebuild(old, data, most=length)
    except MemoryError as e:
        raise Refused(f"there is no memory to rebuild {length} bytes", code="no_memory") from e
    if len(found) != length:
        raise Corrupt(f"{len(found)} bytes were rebuilt where {length} are signed", code="bad_way")
    return found
