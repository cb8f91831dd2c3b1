"""One run of a tensor, given the run of an older file that it came from. docs/format.md, 17.

Either as if there were no older one, or what differs: modulo, by exclusive or, or (floats) by how many representable
numbers lie between the two, coded like any tensor or, `measured`, by its length in bits. How far a weight moves has to do
with the learning rate, hardly with its size: so the smaller an old float is, the more numbers lie between; an old integer
tells at least where the new one cannot be. Tables by the size of the old number know that. Rows may be multiplied by a
float each before they are compared: a batch norm that is folded into its convolution does that when its statistics change.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edged.errors import Corrupt
from edged.packed import bitfield, tensors, values
from edged.packed.streams import Reader, Writer

FORMS = ("fresh", "difference", "xor", "steps", "measured")
FRESH, DIFFERENCE, XOR, STEPS, MEASURED = range(len(FORMS))
MAX_TIERS = 16
MAX_ROWS = 1 << 16
_TIERS = {1: (8, 16), 2: (1, 6, 12), 4: (1, 6, 12)}  # that are tried, for numbers of so many bytes
_EXPONENT = {2: 10, 4: 23}  # the lowest bit of it: float16, float32 (IEEE 754)
_LARGEST = 20  # octaves that a row is multiplied by
_LEAST = 32  # exponent of a float32 below which it is not multiplied: no product is denormal
_GAIN = 0.9  # of the bits without, that multiplied rows may take

Numbers = NDArray[np.unsignedinteger]


def write(
    writer: Writer, new: NDArray[np.uint8], old: NDArray[np.uint8] | None, item: int, dims: Sequence[int]
) -> Writer:
    """The writer to go on with. `old`: as many bytes as `new`, None = there is nothing to compare with."""
    trials = [tensors.write(_begun(writer, FRESH, item), new, item, dims)]
    if old is not None:
        a, b = old.view(f"<u{item}"), new.view(f"<u{item}")
        scales = _scales(a, b, dims[0]) if item == 4 and len(dims) > 1 and 1 < dims[0] <= MAX_ROWS else None
        base = a if scales is None else multiplied(a, scales)
        made = {form: apart(form, base, b) for form in (DIFFERENCE, XOR, STEPS) if item > 1 or form == DIFFERENCE}
        for form in sorted(made, key=lambda form: _bits(made[form]))[:2]:
            trials.append(tensors.write(_begun(writer, form, item, scales), made[form].view(np.uint8), item, dims))
        for form in (DIFFERENCE, STEPS):
            if item in _TIERS and form in made:
                moved = _folded(made[form]) if item == 1 else made[form]
                lengths = symbols(moved)
                trials += [
                    _measured(_begun(writer, MEASURED, item, scales), form, lengths, moved, a, tiers)
                    for tiers in _TIERS[item]
                ]
    return min(trials, key=lambda trial: trial.size)


def read(reader: Reader, size: int, old: NDArray[np.uint8] | None) -> tuple[NDArray[np.uint8], int]:
    """`size` bytes and the form that they came in. Raises Corrupt."""
    side = reader.side
    form = side.pick("form", 3)
    if form == FRESH:
        return tensors.read(reader, size)[0], form
    item = 1 << side.pick("wide", 2)
    if old is None or form >= len(FORMS) or size % item or size // item > tensors.MAX_ITEMS:
        raise Corrupt("a difference of a form that this version does not know", code="bad_packed")
    numbers = base = old.view(f"<u{item}")
    if item == 4 and side.bit("scaled"):
        rows = side.number("rows")
        if not 0 < rows <= MAX_ROWS or len(numbers) % rows:
            raise Corrupt("rows that do not fit their tensor", code="bad_packed")
        scales = np.array([side.raw(32) for _ in range(rows)], "<u4")
        if (np.abs((scales >> 23).astype(np.int64) - 127) > _LARGEST).any():
            raise Corrupt("a row is multiplied by something impossible", code="bad_packed")
        base = multiplied(numbers, scales.view("<f4"))
    if form == MEASURED:
        by, moved = _read_measured(reader, numbers)
    else:
        by, moved = form, tensors.read(reader, size)[0].view(f"<u{item}")
    return together(by, base, moved).view(np.uint8), form


def apart(form: int, old: Numbers, new: Numbers) -> Numbers:
    """What `together` makes `new` of; small numbers mean little change, for more than one byte whatever their sign."""
    if form == XOR:
        return old ^ new
    moved: Numbers = new - old if form == DIFFERENCE else _ordered(new) - _ordered(old)
    return moved if moved.itemsize == 1 else _folded(moved)


def together(form: int, old: Numbers, moved: Numbers) -> Numbers:
    if form == XOR:
        return old ^ moved
    moved = moved if moved.itemsize == 1 else _unfolded(moved)
    return old + moved if form == DIFFERENCE else _patterns(_ordered(old) + moved)


def multiplied(old: Numbers, scales: NDArray[np.float32]) -> Numbers:
    """Patterns of float32 times one float32 for each row, rounded as IEEE 754 says; tiny ones, NaN and infinities stay."""
    exponents = _exponents(old)
    with np.errstate(all="ignore"):
        product = (old.view("<f4").reshape(len(scales), -1) * scales[:, None]).reshape(-1).view("<u4")
    return np.where((exponents >= _LEAST) & (exponents < 255), product, old)


def _scales(old: Numbers, new: Numbers, rows: int) -> NDArray[np.float32] | None:
    """What each row was multiplied by, by least squares; None where that does not help."""
    if len(old) % rows:
        return None
    with np.errstate(all="ignore"):  # a signalling NaN makes even the cast complain
        a, b = (
            np.nan_to_num(n.view("<f4").astype(np.float64), posinf=0, neginf=0).reshape(rows, -1) for n in (old, new)
        )
        scales = np.nan_to_num((a * b).sum(1) / np.square(a).sum(1), nan=1.0, posinf=1.0, neginf=1.0)
    scales = np.where(scales > 0, np.clip(scales, 2.0**-_LARGEST, 2.0**_LARGEST), 1.0).astype("<f4")
    plain, better = (_bits(apart(STEPS, base, new)) for base in (old, multiplied(old, scales)))
    return scales if better + 32 * rows < _GAIN * plain else None


def symbols(moved: Numbers) -> NDArray[np.uint8]:
    """0..3 as they are, then four to each length in bits: its two bits below the leading one. A byte is its own symbol."""
    if moved.itemsize == 1:
        return moved.astype(np.uint8)
    length = np.frexp(moved.astype(np.float64))[1].astype(np.int64)  # exact below 2 ** 53
    below = np.maximum(length - 3, 0).astype(moved.dtype)
    coarse = (moved >> below).astype(np.int64) & 3
    return np.where(length < 3, moved.astype(np.int64), 4 * (length - 2) + coarse).astype(np.uint8)


def _ordered(bits: Numbers) -> Numbers:
    """Patterns of IEEE 754 as whole numbers in the order of the floats."""
    _, top = _constants(bits)
    high = bits.dtype.type(1) << top
    return bits ^ ((np.zeros_like(bits) - (bits >> top)) | high)


def _patterns(ordered: Numbers) -> Numbers:
    _, top = _constants(ordered)
    high = ordered.dtype.type(1) << top
    return ordered ^ (((ordered >> top) - ordered.dtype.type(1)) | high)


def _folded(moved: Numbers) -> Numbers:
    """0, -1, 1, -2, ... to 0, 1, 2, 3, ..."""
    one, top = _constants(moved)
    return (moved << one) ^ (np.zeros_like(moved) - (moved >> top))


def _unfolded(moved: Numbers) -> Numbers:
    one, _ = _constants(moved)
    return (moved >> one) ^ (np.zeros_like(moved) - (moved & one))


def _constants(numbers: Numbers) -> tuple[np.unsignedinteger, np.unsignedinteger]:
    kind = numbers.dtype.type
    return kind(1), kind(8 * numbers.itemsize - 1)


def _bits(moved: Numbers) -> float:
    """What it costs byte by byte, about."""
    planes = moved.view(np.uint8).reshape(len(moved), -1)
    return sum(values.entropy(np.bincount(planes[:, i], minlength=256)) for i in range(planes.shape[1]))


def _begun(writer: Writer, form: int, item: int, scales: NDArray[np.float32] | None = None) -> Writer:
    trial = writer.fork()
    trial.side.pick("form", form, 3)
    if form != FRESH:
        trial.side.pick("wide", item.bit_length() - 1, 2)
        if item == 4:
            trial.side.bit("scaled", scales is not None)
        if scales is not None:
            trial.side.number("rows", len(scales))
            for scale in scales.view("<u4").tolist():
                trial.side.raw(scale, 32)
    return trial


# --- by their lengths in bits


def _measured(
    trial: Writer, form: int, lengths: NDArray[np.uint8], moved: Numbers, old: Numbers, tiers: int
) -> Writer:  # fmt: skip
    side = trial.side
    side.bit("steps", form == STEPS)
    side.number("tiers", tiers - 1)
    middle = _middle(old) if tiers > 1 else 0
    if tiers > 1:
        side.raw(middle, 8)
    tier = _tiers(old, middle, tiers)
    count = int(lengths.max()) + 1
    side.number("lengths", count)
    rows = [values._write_row(trial, np.bincount(lengths[tier == i], minlength=count).tolist()) for i in range(tiers)]
    raw = b""
    if moved.itemsize > 1:
        widths = _widths(lengths)
        raw = bitfield.write(moved.astype(np.int64) & ((np.int64(1) << widths.astype(np.int64)) - 1), widths)
    trial.symbols([(lengths, tier, rows)], raw)
    return trial


def _read_measured(reader: Reader, old: Numbers) -> tuple[int, Numbers]:
    side, item = reader.side, old.itemsize
    form = STEPS if side.bit("steps") else DIFFERENCE
    tiers = side.number("tiers") + 1
    if item not in _TIERS or tiers > MAX_TIERS:
        raise Corrupt("a difference of a form that this version does not know", code="bad_packed")
    middle = side.raw(8) if tiers > 1 else 0
    count = side.number("lengths")
    if not 0 < count <= (256 if item == 1 else 4 * (8 * item - 1)):
        raise Corrupt("numbers that are longer than those of their tensor", code="bad_packed")
    rows = [values._read_row(side, count) for _ in range(tiers)]
    (lengths,) = reader.symbols([(_tiers(old, middle, tiers), rows)])
    if item == 1:
        return form, _unfolded(lengths)
    widths = _widths(lengths)
    rest = reader.raw(widths)
    whole = lengths.astype(np.int64)
    high = np.where(whole < 4, whole, (4 + (whole & 3)) << widths.astype(np.int64))
    return form, (high + rest).astype(old.dtype)


def _widths(lengths: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bits that follow each symbol."""
    return np.asarray(np.maximum(lengths >> np.uint8(2), np.uint8(1)) - np.uint8(1), np.uint8)


def _exponents(old: Numbers) -> Numbers:
    shift = _EXPONENT[old.itemsize]
    kind = old.dtype.type
    return (old >> kind(shift)) & kind((1 << 8 * old.itemsize - 1 - shift) - 1)


def _middle(old: Numbers) -> int:
    """What tiers are counted from: the largest exponent; of bytes the zero, 0 or 128, that they are nearer to."""
    if old.itemsize > 1:
        return int(_exponents(old).max())
    from_zero, from_middle = (np.abs((old ^ np.uint8(m)).view(np.int8).astype(np.int64)).sum() for m in (0, 128))
    return 0 if from_zero <= from_middle else 128


def _tiers(old: Numbers, middle: int, tiers: int) -> NDArray[np.uint8]:
    """Floats: 0 for the largest old numbers, one more for each halving. Bytes: 0 for zero, then two for each bit of the
    distance from it: above and below.
    """
    if tiers == 1:
        return np.zeros(len(old), np.uint8)
    if old.itemsize > 1:
        return np.clip(middle - _exponents(old).astype(np.int64), 0, tiers - 1).astype(np.uint8)
    away = (old - np.uint8(middle)).view(np.int8).astype(np.int64)
    bits = np.frexp(np.abs(away).astype(np.float64))[1].astype(np.int64)
    return np.clip(2 * bits - (away > 0), 0, tiers - 1).astype(np.uint8)
