"""A second reader of deltas, written from docs/format.md alone, upon that of packed models: no numpy."""

import hashlib
import math
import struct
import zlib

from edged.packed.dictionary import GRAPH_WORDS

from .reference import File, Side


def signed(n):
    return n // 2 if n % 2 == 0 else -(n + 1) // 2


def order(x, bits):
    return x ^ (2**bits - 1) if x >> bits - 1 else x ^ 1 << bits - 1


def times(x, scale):
    exponent = x >> 23 & 255
    if exponent < 32 or exponent == 255:
        return x
    # exact in double precision, as both have 24 bits: one rounding
    product = struct.unpack("<f", struct.pack("<I", x))[0] * scale
    try:
        return struct.unpack("<I", struct.pack("<f", product))[0]
    except OverflowError:
        return 0x7F800000 | (product < 0) << 31


class Delta(File):
    def __init__(self, old, data):
        assert data[:4] in (b"EPD\x01", b"EPD\x02")
        self.version = data[3]
        assert data[36:68] == hashlib.sha256(old).digest()
        place, lengths = 68, []
        for _ in range(5):
            value = shift = 0
            while True:
                byte = data[place]
                place += 1
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
            lengths.append(value)
        size, inserts, inserts_packed, side, body = lengths
        head, rest = data[:place], data[place + 4 :]
        assert int.from_bytes(data[place : place + 4], "little") == zlib.crc32(head + rest[: inserts_packed + side])
        self.inserts = b""
        if inserts_packed:
            self.inserts = zlib.decompressobj(-15, zdict=GRAPH_WORDS).decompress(rest[:inserts_packed])
        assert len(self.inserts) == inserts
        self.side, self.body = Side(rest[inserts_packed : inserts_packed + side]), rest[inserts_packed + side :]
        assert len(self.body) == body
        self.old, self.at, self.taken, self.last = old, 0, 0, None
        out = b""
        for _ in range(self.side.number("runs")):
            gap, length = self.side.number("gap"), self.side.number("size")
            out += self.pieces(gap)
            self.at += signed(self.side.number("base"))
            out += self.beside(length, old[self.at : self.at + length])
            self.at += length
        self.new = out + self.pieces(size - len(out))
        assert not self.inserts
        assert self.taken == body
        assert len(self.new) == size
        assert hashlib.sha256(self.new).digest() == data[4:36]

    def pieces(self, wanted):
        out = b""
        while len(out) < wanted:
            n = self.side.number("insert")
            out, self.inserts, self.at = out + self.inserts[:n], self.inserts[n:], self.at + n
            if len(out) < wanted and (n := self.side.number("copy")):
                self.at += signed(self.side.number("from"))
                out += self.old[self.at : self.at + n]
                self.at += n
        return out

    def beside(self, length, old):
        form = self.side.pick("form", 3)
        if form == 0:
            return self.run(length)
        item = 1 << self.side.pick("wide", 2)
        bits = 8 * item
        plain = [int.from_bytes(old[i : i + item], "little") for i in range(0, length, item)]
        base = plain
        if item == 4 and self.side.bit("scaled"):
            rows = self.side.number("rows")
            scales = [struct.unpack("<f", struct.pack("<I", self.side.raw(32)))[0] for _ in range(rows)]
            base = [times(x, scales[i * rows // len(plain)]) for i, x in enumerate(plain)]
        if form == 4:
            form = 3 if self.side.bit("steps") else 1
            moved = [signed(n) for n in self.measured(plain, item)]
        else:
            data = self.run(length)
            moved = [int.from_bytes(data[i : i + item], "little") for i in range(0, length, item)]
            moved = [signed(n) for n in moved] if form != 2 and item > 1 else moved
        out = []
        for x, d in zip(base, moved, strict=True):
            y = x ^ d if form == 2 else (x if form == 1 else order(x, bits)) + d
            y %= 2**bits
            if form == 3:
                y = y ^ 1 << bits - 1 if y >> bits - 1 else y ^ (2**bits - 1)
            out.append(y.to_bytes(item, "little"))
        return b"".join(out)

    def measured(self, old, item):
        m = self.side.number("tiers") + 1
        c = self.side.raw(8) if m > 1 else 0
        s = self.side.number("lengths")
        tables = [self.table(s) for _ in range(m)]
        tier = [0] * len(old)
        if m > 1 and item == 1:
            away = [(x - c + 128) % 256 - 128 for x in old]
            tier = [2 * abs(v).bit_length() - (v > 0) for v in away]
        elif m > 1:
            tier = [c - (x >> 10 & 31 if item == 2 else x >> 23 & 255) for x in old]
        found = self.symbols([tables[max(0, min(m - 1, t))] for t in tier])
        if item == 1:
            return found
        widths = [max(0, math.floor(y / 4) - 1) for y in found]
        rest = self.raw_bits(widths)
        return [y if y < 4 else (4 + y % 4 << w) + r for y, w, r in zip(found, widths, rest, strict=True)]
