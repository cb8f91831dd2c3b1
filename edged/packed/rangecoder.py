"""Numbers one after another in as few bits as they are surprising: an adaptive binary range coder (docs/format.md, 4).

For what is little and must be small: shapes, classes, tables, codebooks, and the symbols of small tensors. After G. N. N.
Martin, Range encoding, 1979, with the carry of LZMA's coder; a context's probability starts at one half and moves by
1 / (n + 1.5) after its n-th bit, never by less than 1 / 64. Guarantees: reading beyond the end raises Corrupt, and every
read ends. Does not guarantee that what was read is what was written: the file's hash does.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import log2

from edged.errors import Corrupt

TOP = 1 << 24
ONE = 1 << 16  # of a probability
HALF = ONE >> 1 << 8  # packed: probability << 8 | bits seen
SLOW = 62  # bits after which a context adapts no more slowly
RATE = [2 * ONE // (2 * n + 3) for n in range(SLOW + 1)]
AGED = [min(n + 1, SLOW) for n in range(SLOW + 1)]  # bits seen after one more
LEAST = 64  # probability that is never gone below
SPARE = 8  # zero bytes that may be read after the end: trailing zeros are not stored
MAX_BITS = 64  # of one number


class Encoder:
    """`fork` tries something out: what was written to a fork counts only if it is kept in place of the original."""

    def __init__(self) -> None:
        self._low, self._range, self._cache, self._waiting = 0, 0xFFFFFFFF, 0, 0
        self._out: list[bytes] = []
        self._contexts: dict[Hashable, int] = {}
        self.size = 0  # bytes so far, about

    @property
    def bits(self) -> float:
        """The same to a fraction of a bit."""
        return 8 * self.size + 32 - log2(self._range)

    def fork(self) -> Encoder:
        other = Encoder()
        other.__dict__.update(self.__dict__)
        other._out, other._contexts = list(self._out), dict(self._contexts)
        return other

    def bit(self, context: Hashable, value: int) -> None:
        packed = self._contexts.get(context, HALF)
        zero, seen = packed >> 8, packed & 0xFF
        bound = (self._range >> 16) * zero
        if value:
            self._low += bound
            self._range -= bound
        else:
            self._range = bound
        self._contexts[context] = _moved(zero, seen, value)
        self._normalise()

    def raw(self, value: int, width: int) -> None:
        """`width` bits that nothing is known of, the high ones first."""
        while width > 0:
            step = min(width, 8)
            width -= step
            self._range >>= step
            self._low += (value >> width & (1 << step) - 1) * self._range
            self._normalise()

    def share(self, start: int, size: int, scale_bits: int) -> None:
        """One symbol that takes [start, start + size) of 2 ** scale_bits."""
        self._range >>= scale_bits
        self._low += start * self._range
        self._range *= size
        self._normalise()

    def number(self, context: Hashable, value: int) -> None:
        """Elias gamma of value + 1 with adaptive length and adaptive first two bits after the leading one."""
        width = (value + 1).bit_length() - 1
        for i in range(width):
            self.bit((context, i), 1)
        self.bit((context, width), 0)
        rest = value + 1 - (1 << width)
        known = min(2, width)
        node = 1
        for i in range(width - 1, width - 1 - known, -1):
            bit = rest >> i & 1
            self.bit((context, width, node), bit)
            node = node << 1 | bit
        self.raw(rest & (1 << width - known) - 1, width - known)

    def pick(self, context: Hashable, value: int, width: int) -> None:
        """One of 2 ** width by a tree of adaptive bits."""
        node = 1
        for i in range(width - 1, -1, -1):
            bit = value >> i & 1
            self.bit((context, node), bit)
            node = node << 1 | bit

    def finish(self) -> bytes:
        """All bytes; those zero bytes that the decoder supplies itself are left out."""
        end = self._low + self._range - 1  # any number from low to end will do: the one with the most trailing zeros
        for shift in range(32, -1, -8):
            value = end >> shift << shift
            if value >= self._low:
                self._low = value
                break
        for _ in range(5):
            self._shift()
        return b"".join(self._out)[1:].rstrip(b"\0")

    def _normalise(self) -> None:
        while self._range < TOP:
            self._range <<= 8
            self._shift()

    def _shift(self) -> None:
        low = self._low
        if low < 0xFF000000 or low > 0xFFFFFFFF:
            carry = low >> 32
            self._out.append(bytes(((self._cache + carry) & 0xFF,)))
            if self._waiting:
                self._out.append(bytes(((0xFF + carry) & 0xFF,)) * self._waiting)
                self._waiting = 0
            self._cache = low >> 24 & 0xFF
        else:
            self._waiting += 1
        self.size += 1
        self._low = (low & 0x00FFFFFF) << 8


class Decoder:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data + bytes(SPARE), 4
        self._range = 0xFFFFFFFF
        self._code = int.from_bytes(self._data[:4])
        self._contexts: dict[Hashable, list[int]] = {}

    @property
    def taken(self) -> int:
        """Bytes so far."""
        return self._at - 4

    def bit(self, context: Hashable) -> int:
        return self._bit(self._known(context, 1), 0)

    def _known(self, context: Hashable, size: int) -> list[int]:
        """What is known of the bits of a context."""
        found = self._contexts.get(context)
        if found is None:
            found = self._contexts[context] = [HALF] * size
        elif len(found) < size:
            found += [HALF] * (size - len(found))
        return found

    def _bit(self, known: list[int], i: int) -> int:
        packed, code, span = known[i], self._code, self._range
        zero, seen = packed >> 8, packed & 0xFF
        bound = (span >> 16) * zero
        if code < bound:
            value, span = 0, bound
            zero += (ONE - zero) * RATE[seen] >> 16
            if zero > ONE - LEAST:
                zero = ONE - LEAST
        else:
            value = 1
            self._code = code - bound
            span -= bound
            zero -= zero * RATE[seen] >> 16
            if zero < LEAST:
                zero = LEAST
        known[i] = zero << 8 | (seen + 1 if seen < SLOW else SLOW)
        self._range = span
        if span < TOP:
            self._normalise()
        return value

    def raw(self, width: int) -> int:
        value = 0
        while width > 0:
            step = min(width, 8)
            width -= step
            self._range >>= step
            found = min(self._code // self._range, (1 << step) - 1)
            self._code -= found * self._range
            value = value << step | found
            self._normalise()
        return value

    def number(self, context: Hashable) -> int:
        known = self._known(context, 48)  # at 4 w: is it wider than w; the next three: the tree of the high two bits
        width = 0
        while self._bit(known, 4 * width):
            width += 1
            if width > MAX_BITS:
                raise Corrupt(f"a number of more than {MAX_BITS} bits", code="bad_packed")
            if 4 * width >= len(known):
                known += [HALF] * 16
        high, node = min(2, width), 1
        for _ in range(high):
            node = node << 1 | self._bit(known, 4 * width + node)
        rest = (node - (1 << high)) << width - high | self.raw(width - high)
        return (1 << width) + rest - 1

    def pick(self, context: Hashable, width: int) -> int:
        return self.branch(self.tree(context, width), width)

    def tree(self, context: Hashable, width: int) -> list[int]:
        """What is known of a context of `pick`, for `branch`."""
        return self._known(context, 1 << width)

    def branch(self, tree: list[int], width: int) -> int:
        """`pick` where its tree is at hand."""
        node, code, span = 1, self._code, self._range
        for _ in range(width):
            packed = tree[node]
            zero, rate = packed >> 8, RATE[packed & 0xFF]
            bound = (span >> 16) * zero
            if code < bound:
                span = bound
                zero += (ONE - zero) * rate >> 16
                if zero > ONE - LEAST:
                    zero = ONE - LEAST
                tree[node] = zero << 8 | AGED[packed & 0xFF]
                node <<= 1
            else:
                code -= bound
                span -= bound
                zero -= zero * rate >> 16
                if zero < LEAST:
                    zero = LEAST
                tree[node] = zero << 8 | AGED[packed & 0xFF]
                node = node << 1 | 1
            if span < TOP:
                self._code, self._range = code, span
                self._normalise()
                code, span = self._code, self._range
        self._code, self._range = code, span
        return node - (1 << width)

    def shares(
        self, tables: Sequence[tuple[bytes, list[int], Sequence[int]]], which: Sequence[int], bits: int, coarse: int
    ) -> bytes:
        """One symbol by each table named in `which`; a table is (symbol of every 2 ** coarse-th slot, starts of the symbols and
        where the last one ends, sizes). A slot may be a little beyond 2 ** bits: what the shift cuts off of the range.
        """
        out: list[int] = []
        data, code, span, at = self._data, self._code, self._range, self._at
        try:
            for symbols, starts, sizes in map(tables.__getitem__, which):
                span >>= bits
                slot = code // span
                symbol = symbols[slot >> coarse]
                while slot >= starts[symbol + 1]:
                    symbol += 1
                out.append(symbol)
                code -= starts[symbol] * span
                span *= sizes[symbol]
                while span < TOP:
                    span <<= 8
                    code = code << 8 | data[at]
                    at += 1
        except IndexError as e:
            raise _ended() from e
        self._code, self._range, self._at = code, span, at
        return bytes(out)

    def _normalise(self) -> None:
        while self._range < TOP:
            if self._at >= len(self._data):
                raise _ended()
            self._range <<= 8
            self._code = self._code << 8 | self._data[self._at]
            self._at += 1


def _moved(zero: int, seen: int, value: int) -> int:
    """A context's probability of a zero after one more bit, packed."""
    if value:
        zero -= zero * RATE[seen] >> 16
        if zero < LEAST:
            zero = LEAST
    else:
        zero += (ONE - zero) * RATE[seen] >> 16
        if zero > ONE - LEAST:
            zero = ONE - LEAST
    return zero << 8 | (seen + 1 if seen < SLOW else SLOW)


def _ended() -> Corrupt:
    return Corrupt("the packed model ends in the middle of a number", code="bad_packed")
