"""`python -m edged.packed`: the packed form of a model and deltas to it, made in a process of its own.

stdin: the new file, then old ones; stdout: the packed form, then a delta from each old one; each behind its length in eight
bytes, little-endian, 0 for one that could not be made, which a line on stderr names. Each comes as soon as it is made.
"""

from __future__ import annotations

import os
import resource
import sys

from edged.errors import EdgedError

NICE = 5
MEMORY = 3 << 30  # of address space
_LENGTH = 8


def files_in(stream: bytes) -> list[bytes]:
    """The whole files that are in a stream; one that is cut short at its end is left out."""
    found, at = [], 0
    while at + _LENGTH <= len(stream):
        size = int.from_bytes(stream[at : at + _LENGTH], "little")
        at += _LENGTH
        if at + size > len(stream):
            break
        found.append(stream[at : at + size])
        at += size
    return found


def main() -> None:
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    from edged import packed
    from edged.packed import delta

    new, *olds = files_in(sys.stdin.buffer.read())
    for i in range(1 + len(olds)):
        try:
            made = delta.make(olds[i - 1], new) if i else packed.pack(new)
        except (EdgedError, MemoryError) as e:
            print(f"{f'delta {i}' if i else 'the packed form'} is left out: {e or 'no memory'}", file=sys.stderr)
            made = b""
        sys.stdout.buffer.write(len(made).to_bytes(_LENGTH, "little") + made)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
