"""The packed form of a model: for storage and transport, not for speed (docs/format.md).

    pack(onnx) -> bytes          the smallest of several coders for each tensor; unpacked once to be sure
    unpack(packed) -> bytes      the very file that was packed, or an error
    stream(file) -> pieces       the same in bounded memory; nothing of it is good before it has ended
    look(packed) -> Facts        sizes, tensor by tensor

numpy and the standard library are all that it needs: a camera unpacks what a box has packed.
"""

from edged.packed.container import MAGIC, MOST, Run, pack, stream, unpack
from edged.packed.facts import Facts, Part, look

__all__ = ["MAGIC", "MOST", "Facts", "Part", "Run", "look", "pack", "stream", "unpack"]
