"""A second reader of packed models, written from docs/format.md alone: no numpy, one number after another.

It trusts its input: what is not as the document says ends in any exception. It shares no code with edged.packed but the
dictionary, which is data of the format.
"""

import hashlib
import struct
import zlib
from math import isqrt

from edged.packed.dictionary import GRAPH_WORDS


class Side:
    def __init__(self, data):
        self.data, self.at = data + bytes(8), 4
        self.range, self.code = 2**32 - 1, int.from_bytes(self.data[:4], "big")
        self.seen = {}

    def normalise(self):
        while self.range < 2**24:
            self.range <<= 8
            self.code = self.code << 8 | self.data[self.at]
            self.at += 1

    def bit(self, *context):
        z, n = self.seen.get(context, (32768, 0))
        bound = (self.range >> 16) * z
        rate = 131072 // (2 * n + 3)
        if self.code < bound:
            bit, self.range = 0, bound
            z = min(65472, z + ((65536 - z) * rate >> 16))
        else:
            bit = 1
            self.code -= bound
            self.range -= bound
            z = max(64, z - (z * rate >> 16))
        self.seen[context] = z, min(n + 1, 62)
        self.normalise()
        return bit

    def raw(self, width):
        value = 0
        while width:
            step = min(8, width)
            width -= step
            self.range >>= step
            part = min(self.code // self.range, 2**step - 1)
            self.code -= part * self.range
            self.normalise()
            value = value << step | part
        return value

    def number(self, name):
        w = 0
        while self.bit("number", name, w):
            w += 1
        node = 1
        for _ in range(min(2, w)):
            node = 2 * node + self.bit("number", name, w, node)
        low = w - min(2, w)
        return (node << low) + self.raw(low) - 1

    def pick(self, name, width):
        node = 1
        for _ in range(width):
            node = 2 * node + self.bit("pick", name, node)
        return node - 2**width

    def symbol(self, sizes):
        self.range >>= 14
        slot = min(self.code // self.range, 16383)
        s, start = found(sizes, slot)
        self.code -= start * self.range
        self.range *= sizes[s]
        self.normalise()
        return s


def found(sizes, slot):
    start = 0
    for s, size in enumerate(sizes):
        if slot < start + size:
            return s, start
        start += size
    raise ValueError("no such slot")


def shares(counts):
    total, before, sizes = sum(counts), 0, []
    for c in counts:
        sizes.append(max(1, (before + c) * 16384 // total - before * 16384 // total) if c else 0)
        before += c
    sizes[sizes.index(max(sizes))] += 16384 - sum(sizes)
    return sizes


def gap_shares(t):
    r = 2**61
    for _ in range(5):
        r = isqrt(r << 60)
    q = 2**60
    for _ in range(2 * (t if t < 48 else t - 16) + 1):
        q = q * r >> 60
    stay = 2**60 - 2**120 // q // (1 if t < 48 else 16)
    if t >= 48:
        for _ in range(4):
            stay = stay * stay >> 60
    power = stay
    for _ in range(5):
        power = power * power >> 60
    tail, counts = 2**60, []
    for s in range(56):
        before = tail
        tail = tail * (stay if s < 32 else power) >> 60
        if s >= 32:
            power = power * power >> 60
        counts.append(max(1, (before - tail) >> 20))
    return shares(counts)


class File:
    def __init__(self, data):
        assert data[:4] in (b"EPK\x01", b"EPK\x02")
        self.version = data[3]
        self.at, lengths = 36, []
        for _ in range(5):
            value = shift = 0
            while True:
                byte = data[self.at]
                self.at += 1
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
            lengths.append(value)
        size, graph, graph_packed, side, body = lengths
        head = data[: self.at]
        crc = int.from_bytes(data[self.at : self.at + 4], "little")
        rest = data[self.at + 4 :]
        assert crc == zlib.crc32(head + rest[: graph_packed + side])
        self.graph = zlib.decompressobj(-15, zdict=GRAPH_WORDS).decompress(rest[:graph_packed])
        assert len(self.graph) == graph
        self.side = Side(rest[graph_packed : graph_packed + side])
        self.body = rest[graph_packed + side :]
        assert len(self.body) == body
        self.taken, self.last = 0, None
        out, at = b"", 0
        for _ in range(self.side.number("runs")):
            gap, length = self.side.number("gap"), self.side.number("size")
            out += self.graph[at : at + gap] + self.run(length)
            at += gap
        self.onnx = out + self.graph[at:]
        assert self.taken == body
        assert len(self.onnx) == size
        assert hashlib.sha256(self.onnx).digest() == data[4:36]

    def bulk(self, n):
        self.taken += n
        return self.body[self.taken - n : self.taken]

    def run(self, length):
        coder = self.side.number("coder")
        if coder == 0:
            return self.bulk(length)
        if coder == 1:
            return zlib.decompress(self.bulk(self.side.number("bytes")), -15)
        item = 1 << self.side.number("item")
        values = [self.csr, self.sparse, self.dense][coder - 2](length // item, item)
        return b"".join(v.to_bytes(item, "little") for v in values)

    def symbols(self, tables):
        """`tables`: the sizes of each symbol's table."""
        self.held = b""
        if len(tables) <= 16384:
            return [self.side.symbol(sizes) for sizes in tables]
        if self.version == 1:
            lanes = min(4096, max(min(128, len(tables) // 1024), len(tables) // 2048))
        else:
            lanes = self.side.number("lanes") + 1
        words = self.bulk(2 * self.side.number("words"))
        x = list(struct.unpack_from(f"<{lanes}I", words))
        at, out, known = 4 * lanes, [], {}
        for begin in range(0, len(tables), lanes):
            here = range(min(lanes, len(tables) - begin))
            for i in here:
                sizes, slot = tables[begin + i], x[i] & 16383
                key = id(sizes), slot
                if key not in known:
                    known[key] = found(sizes, slot)
                s, start = known[key]
                x[i] = sizes[s] * (x[i] >> 14) + slot - start
                out.append(s)
            for i in here:
                if x[i] < 65536:
                    x[i] = x[i] << 16 | int.from_bytes(words[at : at + 2], "little")
                    at += 2
        assert at == len(words)
        assert {state >> 16 for state in x} == {1}
        if self.version > 1:
            self.held = b"".join(struct.pack("<H", state & 65535) for state in x)
        return out

    def raw_bits(self, widths):
        size = (sum(widths) + 7) // 8
        held = self.held[:size]
        word, at, out = int.from_bytes(held + self.bulk(size - len(held)), "little"), 0, []
        bits = bin(word)[2:].rjust(sum(widths) + 8, "0")[::-1]
        for width in widths:
            out.append(int(bits[at : at + width][::-1] or "0", 2))
            at += width
        return out

    def table(self, symbols):
        if self.side.bit("empty"):
            return shares([1] * symbols)
        counts, last = [], 0
        for _ in range(symbols):
            last = self.side.number(("count", last.bit_length()))
            counts.append(last)
        return shares(counts)

    def codebook(self, m, item):
        if item == 4 and self.side.bit("grid"):
            step = struct.unpack("<f", struct.pack("<I", self.side.raw(32)))[0]
            level, values = -128, []
            for _ in range(m):
                level += self.side.number("level") + 1
                # The product of a float32 and a small whole number is exact in double precision: one rounding.
                values.append(struct.unpack("<I", struct.pack("<f", level * step))[0])
            return values
        z, v, values = self.side.number("zeros"), -1, []
        for _ in range(m):
            v += self.side.number(("step", item * 8 - z)) + 1
            values.append(v << z)
        return values

    def values_head(self, item, tiers):
        if self.side.bit("planes"):
            return None, [self.table(256) if self.side.bit("coded") else None for _ in range(item)]
        book = self.codebook(self.side.number("book"), item)
        return book, [self.table(len(book)) for _ in range(tiers)] if len(book) > 1 else []

    def values(self, head, tier):
        return self.values_tail(head, self.symbols(self.asked(head, tier)), len(tier))

    def asked(self, head, tier):
        book, tables = head
        if book is not None:
            return [tables[t] for t in tier] if len(book) > 1 else []
        return [t for t in tables if t for _ in tier]

    def values_tail(self, head, symbols, n):
        book, tables = head
        if book is not None:
            return [book[s] for s in symbols] if len(book) > 1 else book * n
        planes = []
        for t in tables:
            if t:
                planes.append(symbols[:n])
                symbols = symbols[n:]
            else:
                planes.append(None)
        planes = [list(self.bulk(n)) if p is None else p for p in planes]
        return [sum(p[i] << 8 * b for b, p in enumerate(planes)) for i in range(n)]

    def classes(self, lines, last):
        if self.side.bit("same"):
            return last
        c = self.side.number("classes") + 1
        if c == 1:
            return [0] * lines
        mode = self.side.number("mode")
        d = self.side.number("before") if mode == 2 else 0
        out = []
        for i in range(lines):
            known = ()
            if mode:
                before = out[-1] if out else 0
                known = (before + (out[i - d] if mode == 2 and i >= d else 0),)
            out.append(self.side.pick(("class", c, *known), (c - 1).bit_length()))
        return out

    def sparse(self, count, item):
        side = self.side
        background = side.raw(8 * item) if side.bit("background") else 0
        turned, columns, width = side.bit("turned"), side.number("columns"), side.number("width")
        rows = count // columns
        of_row, of_column = self.classes(rows, None), self.classes(columns, self.last)
        self.last = of_column
        wide = max(of_column) + 1
        cells = (max(of_row) + 1) * wide * 4
        passes = [(list(range(columns)), [])]
        if width:
            parity = [(c // width % 2, c % width % 2) for c in range(columns)]
            diagonal = [-width - 1, -width + 1, width - 1, width + 1]
            kinds = [({(0, 0)}, []), ({(1, 1)}, diagonal), ({(0, 1), (1, 0)}, [-1, 1, -width, width])]
            passes = [([c for c in range(columns) if parity[c] in kind], near) for kind, near in kinds]
            passes = [p for p in passes if p[0]]
        sign, order, ends, density = {}, [], [], []
        for own, near in passes:
            places = [[] for _ in range(cells)]
            for row in range(rows):
                for column in own:
                    known = min(3, sum((row, column + o) in sign for o in near))
                    places[(of_row[row] * wide + of_column[column]) * 4 + known].append((row, column))
            ones = [side.number(("ones", len(p).bit_length())) if p else 0 for p in places]
            shapes = []
            for p, n in zip(places, ones, strict=True):
                o = (len(p) ** 16 // n**16).bit_length() - 1 if n else 0
                density += [min(15, o // 8)] * n
                if 0 < n < len(p):
                    k = max(0, o // 16 - 2)
                    shapes += [(k, gap_shares(o - 16 * k + (16 if k else 0)))] * n
            asked = [sizes for _, sizes in shapes]
            if not width:
                pairs = [(cell // 4 // wide, cell // 4 % wide) for cell, n in enumerate(ones) for _ in range(n)]
                head, tier = self.tiers(item, pairs, density, max(of_row) + 1, wide)
                asked += self.asked(head, tier)
            symbols = self.symbols(asked)
            bits = self.raw_bits(
                [k + (s - 27 if s >= 32 else 0) for s, (k, _) in zip(symbols[: len(shapes)], shapes, strict=True)]
            )
            gaps = [
                (s << k if s < 32 else 1 << s - 32 + 5 + k) + more
                for s, (k, _), more in zip(symbols[: len(shapes)], shapes, bits, strict=True)
            ]
            gap = iter(gaps)
            for p, n in zip(places, ones, strict=True):
                at = -1
                for _ in range(n):
                    at += 1 + (next(gap) if n < len(p) else 0)
                    order.append((p[at], (of_row[p[at][0]], of_column[p[at][1]])))
            ends.append(len(order))
            sign |= dict.fromkeys((place for place, _ in order), 0)
        found = {}
        if width:
            head, tier = self.tiers(item, [pair for _, pair in order], density, max(of_row) + 1, wide)
        if not width:
            values = self.values_tail(head, symbols[len(shapes) :], len(order))
            found = dict(zip((place for place, _ in order), values, strict=True))
        elif tier is not None:
            found = dict(zip((place for place, _ in order), self.values(head, tier), strict=True))
        else:
            for (_, near), begin, end in zip(passes, [0, *ends], ends, strict=False):
                tier = []
                for (row, column), _ in order[begin:end]:
                    known = [found[row, column + o] for o in near if (row, column + o) in found]
                    tier.append(max(-2, min(2, sum(-1 if v >> 8 * item - 1 else 1 for v in known))) + 2)
                own = self.values(head, tier)
                found |= dict(zip((place for place, _ in order[begin:end]), own, strict=True))
        out = [background] * count
        for (row, column), value in found.items():
            out[column * rows + row if turned else row * columns + column] = value
        return out

    def tiers(self, item, pairs, density, high, wide):
        by = self.side.number("by")
        if by == 3:
            return self.values_head(item, 5), None
        tier = [[0] * len(pairs), [r for r, _ in pairs], [c for _, c in pairs], None, density][by]
        return self.values_head(item, [1, high, wide, None, max([0, *tier]) + 1][by]), tier

    def csr(self, count, item):
        side = self.side
        m = side.number("book")
        book = self.codebook(m, item)
        g = side.number("gap bits")
        lengths = [side.raw(4) for _ in range(2**g + 1 + m)]
        e, data = side.number("entries"), self.bulk(side.number("bytes"))
        gaps, used = huffman(data, e, lengths[: 2**g])
        index, _ = huffman(data[used:], e, lengths[2**g :])
        out, at = [0] * count, -1
        for gap, i in zip(gaps, index, strict=True):
            at += gap + 1
            out[at] = book[i - 1] if i else 0
        return out

    def dense(self, count, item):
        m, tier = self.side.number("tiers") + 1, [0] * count
        if m > 1:
            r = self.side.number("rows")
            own = [self.side.pick("row", (m - 1).bit_length()) for _ in range(r)]
            tier = [t for t in own for _ in range(count // r)]
        return self.values(self.values_head(item, m), tier)


def huffman(data, count, lengths):
    codes, code = {}, 0
    for length in range(1, 16):
        for symbol, n in enumerate(lengths):
            if n == length:
                codes[length, code] = symbol
                code += 1
        code <<= 1
    out, at = [], 0
    for _ in range(count):
        code = length = 0
        while (length, code) not in codes:
            code = code << 1 | data[at >> 3] >> (at & 7) & 1
            length += 1
            at += 1
        out.append(codes[length, code])
    return out, (at + 7) // 8
