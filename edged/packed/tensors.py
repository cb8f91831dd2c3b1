"""One run of a tensor's bytes: which coder makes it smallest. docs/format.md, 3."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edged.errors import Corrupt
from edged.packed import csr, dense, sparse
from edged.packed.classes import MAX_LINES
from edged.packed.streams import Reader, Writer

CODERS = ("stored", "deflate", "csr", "sparse", "dense")
STORED, DEFLATE, CSR, SPARSE, DENSE = range(len(CODERS))
MAX_ITEMS = 1 << 22  # of one run; larger tensors are several
ITEM_SIZES = (1, 2, 4, 8)
_WIDTHS = (3, 4, 5, 6, 7, 8)  # sides of feature maps and kernels, whatever the dimensions say
_SMALL = 1 << 14  # numbers of a tensor that is also tried as one row
_DENSEST = 0.75  # share of non-zeros up to which the sparse coder is worth a try
_DEFLATED = 1 << 20  # bytes up to which deflate is worth a try
_HUFFMAN = 0.25  # share of non-zeros up to which Huffman's decoder is quick enough, in larger tensors


def write(
    writer: Writer, data: NDArray[np.uint8], item: int, dims: Sequence[int], only: int | None = None,
    whole: sparse.Whole | None = None,
) -> Writer:  # fmt: skip
    """The writer to go on with. `dims`: of the tensor as far as this run goes; `only`: the one coder that is wanted;
    `whole`: what is known of the tensor of which this is one run.
    """
    items = data.view(f"<u{item}")
    trials = []
    for coder in (SPARSE, DENSE, CSR, DEFLATE, STORED) if only is None else (only, STORED):
        trial = writer.fork()
        trial.side.number("coder", coder)
        if coder not in (STORED, DEFLATE):
            trial.side.number("item", item.bit_length() - 1)
        if _tried(trial, coder, data, items, dims, only is not None, whole):
            if only is not None:
                return trial
            trials.append(trial)
    return min(trials, key=lambda t: t.size)


def _tried(
    trial: Writer, coder: int, data: NDArray[np.uint8], items: NDArray[np.unsignedinteger], dims: Sequence[int],
    wanted: bool, whole: sparse.Whole | None,
) -> bool:  # fmt: skip
    """Whether the coder took the tensor."""
    if coder == STORED:
        trial.bulk(data.tobytes())
        return True
    if coder == DEFLATE:
        if len(data) > _DEFLATED and not wanted:
            return False
        packed = zlib.compress(data.tobytes(), 9, -15)
        if len(packed) >= len(data):
            return False
        trial.side.number("bytes", len(packed))
        trial.bulk(packed)
        return True
    if coder == DENSE:
        rows = [int(np.prod(dims[:i])) for i in range(1, len(dims))]
        dense.write(trial, items, rows)
        return True
    ones = int(np.count_nonzero(items))
    if coder == CSR:
        few = len(items) <= 1 << 14 or ones <= _HUFFMAN * len(items)
        return (few or wanted) and csr.write(trial, items)
    background = 0
    if ones > _DENSEST * len(items):
        seen, counts = np.unique(items[: 1 << 16], return_counts=True)
        background = int(seen[counts.argmax()])
        ones = int(np.count_nonzero(items != background))
        if ones > _DENSEST * len(items) or background == 0:
            return False
    mask = items != background
    products = {int(np.prod(dims[i:])) for i in range(1, len(dims))}
    layouts = _layouts(dims, len(items))
    widths = sorted({*products, *_WIDTHS, *(_side(lay.columns) for lay in layouts)} - {0, 1})
    last = trial.last if isinstance(trial.last, sparse.Plan) else None
    best = min((sparse.plan(mask, lay, widths, last, whole) for lay in layouts), key=lambda found: found.bits)
    sparse.write(trial, items, background, best, widths, last)
    trial.last = best
    return True


def read(
    reader: Reader, size: int, room: Callable[[int], NDArray[np.uint8]] = lambda size: np.empty(size, np.uint8)
) -> tuple[NDArray[np.uint8], int]:
    """`size` bytes and the coder that they came by. `room` gives bytes to decode to, where a coder can. Raises Corrupt."""
    coder = reader.side.number("coder")
    if coder == STORED:
        return np.frombuffer(reader.bulk(size), np.uint8), coder
    if coder == DEFLATE:
        packed = zlib.decompressobj(-15)
        try:
            data = packed.decompress(reader.bulk(reader.side.number("bytes")), size)
        except zlib.error as e:
            raise Corrupt("deflated bytes do not inflate", code="bad_packed") from e
        if len(data) != size:
            raise Corrupt("deflated bytes of another length", code="bad_packed")
        return np.frombuffer(data, np.uint8), coder
    item = 1 << reader.side.number("item")
    if coder not in (CSR, SPARSE, DENSE) or item not in ITEM_SIZES or size % item or size // item > MAX_ITEMS:
        raise Corrupt("a coder that this version does not know", code="bad_packed")
    count = size // item
    if coder == SPARSE:
        found = room(size)
        reader.last = sparse.read(reader, found.view(f"<u{item}"), reader.last)
        return found, coder
    return (csr.read if coder == CSR else dense.read)(reader, count, item).view(np.uint8), coder


def _layouts(dims: Sequence[int], count: int) -> list[sparse.Layout]:
    """Matrices worth trying: the first dimension against the rest, and the last against the rest, turned."""
    found = []
    for i, turned in ((1, False), (len(dims) - 1, True)):
        rows = int(np.prod(dims[:i]))
        if 0 < i < len(dims) and rows and count % rows == 0 and rows + count // rows <= MAX_LINES:
            lines = (count // rows, rows) if turned else (rows, count // rows)
            found.append(sparse.Layout(lines[0], lines[1], turned))
    if not found or count <= _SMALL:
        found.append(sparse.Layout(1, count))
    return found


def _side(n: int) -> int:
    """The side of a square of n places, 0 where there is none: pictures are often that."""
    side = round(n**0.5)
    return side if side * side == n else 0
