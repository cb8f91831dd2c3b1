"""A tensor most of which is one value: where the others stand, by gaps within cells of alike density, and what they are.

Rows and columns have classes (classes.py), neighbours may be known (lattice.py); the places that are alike in all that are
a cell, in which the gaps between non-zeros are geometric (gaps.py), so that a cell needs no more than its number of
non-zeros. docs/format.md, 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.errors import Corrupt
from edged.packed import classes, gaps, lattice, tiers, values
from edged.packed.classes import MAX_CLASSES, MAX_LINES
from edged.packed.lattice import KNOWN, Canvas, Pass
from edged.packed.rangecoder import Decoder
from edged.packed.streams import Reader, Writer
from edged.packed.tiers import BY_SIGN, Counts, Places

MAX_CELLS = 256  # pairs of classes; a quarter where neighbours are known
_CELL_BITS = 9.0  # what the count of a cell costs, about
_TRIED = (1, 2, 3, 4, 6, 8, 12, 16)  # numbers of classes
_LOOKED_AT = 1 << 18  # places on which a width is judged
_SORTED = 1 << 13  # places that are counted, or put in the order of their cells, at once

Classes = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class Layout:
    """How a tensor is read: `columns` of its matrix, transposed if `turned`, `width` of a line of columns or 0."""

    rows: int
    columns: int
    turned: bool = False
    width: int = 0


@dataclass(frozen=True)
class Plan:
    bits: float  # of the places, about
    layout: Layout
    of_lines: Classes


@dataclass(frozen=True)
class Whole:
    """What an encoder knows of the tensor that a run is of: the non-zeros of each column, and the rows."""

    ones: NDArray[np.int64]
    rows: int


def plan(
    mask: NDArray[np.bool_], layout: Layout, widths: Sequence[int], last: Plan | None = None, whole: Whole | None = None
) -> Plan:
    """The cheapest classes, and the cheapest of the widths for them."""
    matrix = _shaped(mask, layout)
    plain, narrow = _classes(matrix, whole if whole is not None and len(whole.ones) == layout.columns else None)
    if last is not None and last.layout.columns == layout.columns and last.layout.turned == layout.turned:
        plain, narrow = (
            _again(matrix, found, last.of_lines[1], most)
            for found, most in ((plain, MAX_CELLS), (narrow, MAX_CELLS // KNOWN))
        )
    looked = matrix[: max(1, _LOOKED_AT // layout.columns)]
    few = (narrow[1][0][: len(looked)], narrow[1][1])
    before = _cost(looked, 0, few)
    best, width = before, 0
    for tried in widths if layout.rows > 1 and layout.columns <= MAX_LINES else ():
        if 1 < tried < layout.columns and (own := _cost(looked, tried, few)) < 0.99 * best:
            best, width = own, tried
    cost = narrow[0] + (best - before) * len(matrix) / len(looked)
    if not width or cost >= plain[0]:
        return Plan(plain[0], layout, plain[1])
    return Plan(cost, Layout(layout.rows, layout.columns, layout.turned, width), narrow[1])


def write(
    writer: Writer, items: NDArray[np.unsignedinteger], background: int, plan: Plan, befores: Sequence[int],
    last: Plan | None = None,
) -> None:  # fmt: skip
    """`items`: the whole tensor, flat. `last`: the plan of the run before it, whose column classes may be used again."""
    layout, of_lines = plan.layout, plan.of_lines
    side = writer.side
    side.bit("background", background != 0)
    if background:
        side.raw(background, items.itemsize * 8)
    side.bit("turned", layout.turned)
    side.number("columns", layout.columns)
    side.number("width", layout.width)
    _write_classes(writer, of_lines[0], befores, None)
    _write_classes(writer, of_lines[1], befores, last.of_lines[1] if last else None)
    matrix, side = _shaped(items, layout), writer.side
    passes: list[Pass] = []
    counts: list[Counts] = []
    where: list[Places] = []
    told: list[tuple[NDArray[np.int64], gaps.Shapes]] = []
    for one, cells, own in lattice.walk(matrix != background, layout.width, of_lines):
        order = np.argsort(cells, axis=None, kind="stable")
        places = np.bincount(cells.reshape(-1), minlength=_cells(of_lines))
        first = np.cumsum(places) - places
        at = np.flatnonzero(own.reshape(-1)[order])
        cell = cells.reshape(-1)[order[at]]
        ones = np.bincount(cell, minlength=len(places))
        before = np.empty(len(at), np.int64)
        before[:1], before[1:] = -1, at[:-1]
        passes.append(one)
        counts.append((places.tolist(), ones.tolist()))
        told.append((at - np.maximum(before, first[cell] - 1) - 1, gaps.shapes(*counts[-1])))
        row, column = np.divmod(order[at], len(one.columns))
        where.append((row, one.columns[column]))
        _write_ones(writer, *counts[-1])
        if layout.width:
            part, rest = gaps.symbols(*told[-1])
            writer.symbols([part], gaps.rest(part[0], rest, told[-1][1]))
    kept = [matrix[places] for places in where]
    every, signs = np.concatenate(kept), None
    if layout.width:
        canvas = Canvas(layout.rows, layout.columns, layout.width)
        signs = np.concatenate(list(tiers.signs(canvas, passes, where, kept)))
    kind, tier, many = tiers.best(every, counts, _wide(of_lines), signs)
    side.number("by", kind)
    parts, plain = values.write(writer, every, tier, many)
    if layout.width:
        ends = np.cumsum([len(k) for k in kept] if kind == BY_SIGN else [len(every)])[:-1]
        for i in range(len(ends) + 1):
            writer.symbols([(np.split(s, ends)[i], np.split(t, ends)[i], rows) for s, t, rows in parts])
    else:
        part, rest = gaps.symbols(*told[0])
        writer.symbols([part, *parts], gaps.rest(part[0], rest, told[0][1]))
    for data in plain:
        writer.bulk(data)


def read(reader: Reader, items: NDArray[np.unsignedinteger], last: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Fills `items`, flat; returns the classes of the columns for the next run. Raises Corrupt."""
    side, count, item = reader.side, len(items), items.itemsize
    background = side.raw(item * 8) if side.bit("background") else 0
    turned, columns, width = bool(side.bit("turned")), side.number("columns"), side.number("width")
    if not 0 < columns <= count or count % columns or (width and not 1 < width < columns <= MAX_LINES):
        raise Corrupt("a matrix that does not fit its tensor", code="bad_packed")
    layout = Layout(count // columns, columns, turned, width)
    of_lines = (_read_classes(side, layout.rows, None), _read_classes(side, columns, last))
    if _pairs(of_lines) > (MAX_CELLS // KNOWN if width else MAX_CELLS):
        raise Corrupt("too many classes", code="bad_packed")
    where, kept = (_read_lattice if width else _read_plain)(reader, item, layout, of_lines)
    items[:] = background
    out = items.reshape(columns, layout.rows).T if turned else items.reshape(layout.rows, columns)
    for (row, column), own in zip(where, kept, strict=True):
        out[row, column] = own
    return of_lines[1]


Read = tuple[list[Places], list[NDArray[np.unsignedinteger]]]


def _read_plain(reader: Reader, item: int, layout: Layout, of_lines: Classes) -> Read:
    """One pass; gaps and values are one list of symbols."""
    counts = _read_ones(reader.side, _plain(of_lines))
    kind, shapes = reader.side.number("by"), gaps.shapes(*counts)
    if kind == BY_SIGN:
        raise Corrupt("signs of neighbours that are not known", code="bad_packed")
    cells, many = tiers.of_cells(kind, [counts], _wide(of_lines))
    told = values.read(reader.side, sum(counts[1]), item, many)
    tier = tiers.of_values(cells, [counts])
    symbols, *found = reader.symbols([(shapes.table, shapes.shares), *told.parts(tier)])
    del tier
    steps = gaps.read_rest(reader, symbols, shapes)
    del symbols, shapes
    kept = values.fill(reader, told, found, len(steps), item)
    del found
    return [_places(steps, counts, None, lattice.passes(layout.columns, 0)[0], of_lines)], [kept]


def _read_lattice(reader: Reader, item: int, layout: Layout, of_lines: Classes) -> Read:
    canvas = Canvas(layout.rows, layout.columns, layout.width)
    passes = lattice.passes(layout.columns, layout.width)
    counts: list[Counts] = []
    where: list[Places] = []
    for one in passes:
        places, told = _read_pass(reader, canvas, one, of_lines)
        where.append(places)
        counts.append(told)
    kind = reader.side.number("by")
    of_cells, many = tiers.of_cells(kind, counts, _wide(of_lines))
    total = sum(sum(ones) for _, ones in counts)
    coded = values.read(reader.side, total, item, many)
    if kind != BY_SIGN:
        found = reader.symbols(coded.parts(tiers.of_values(of_cells, counts)))
        ends = np.cumsum([sum(ones) for _, ones in counts])[:-1]
        return where, np.split(values.fill(reader, coded, found, total, item), ends)
    if coded.book is None:
        raise Corrupt("signs of values without a codebook", code="bad_packed")
    canvas.clear()
    kept: list[NDArray[np.unsignedinteger]] = []
    for one, (row, column) in zip(passes, where, strict=True):
        found = reader.symbols(coded.parts(canvas.signs(one, row, column)))
        kept.append(values.fill(reader, coded, found, len(row), item))
        canvas.put(row, column, lattice.sign(kept[-1]))
    return where, kept


def _read_pass(reader: Reader, canvas: Canvas, one: Pass, of_lines: Classes) -> tuple[Places, Counts]:
    """Where the non-zeros of a pass stand; the canvas knows them from then on."""
    cells = canvas.cells(one, *of_lines)
    counts = _read_ones(reader.side, _counted(cells, _cells(of_lines)))
    shapes = gaps.shapes(*counts)
    (symbols,) = reader.symbols([(shapes.table, shapes.shares)])
    places = _places(gaps.read_rest(reader, symbols, shapes), counts, cells, one, of_lines)
    canvas.put(*places, np.ones(len(places[0]), np.int8))
    return places, counts


def _write_ones(writer: Writer, places: Sequence[int], ones: Sequence[int]) -> None:
    for p, n in zip(places, ones, strict=True):
        if p:
            writer.side.number(("ones", p.bit_length()), n)


def _read_ones(side: Decoder, of_cells: NDArray[np.int64]) -> Counts:
    places = of_cells.tolist()
    ones = [side.number(("ones", p.bit_length())) if p else 0 for p in places]
    if any(n > p for n, p in zip(ones, places, strict=True)):
        raise Corrupt("more non-zeros than places", code="bad_packed")
    return places, ones


# --- classes

Found = tuple[float, Classes]


def _classes(matrix: NDArray[np.bool_], whole: Whole | None) -> tuple[Found, Found]:
    """The cheapest, and the cheapest where neighbours are known."""
    rows, columns = matrix.shape
    of_row = np.count_nonzero(matrix, axis=1)
    of_column, height = (np.count_nonzero(matrix, axis=0), rows) if whole is None else (whole.ones, whole.rows)
    by_row, by_column = (
        _levels(own, other) if 1 < len(own) <= MAX_LINES and other > 1 else [np.zeros(len(own), np.uint8)]
        for own, other in ((of_row, columns), (of_column, height))
    )
    best = [(np.inf, (by_row[0], by_column[0]))] * 2
    for r in by_row:
        coarse = np.stack([np.count_nonzero(matrix[r == i], axis=0) for i in range(int(r.max()) + 1)])
        lines = np.bincount(r)
        for c in by_column:
            pairs = len(lines) * (int(c.max()) + 1)
            ones = np.stack([np.bincount(c, line).astype(np.float64) for line in coarse])
            places = np.outer(lines, np.bincount(c)).astype(np.float64)
            cost = classes.entropy(ones, places).sum() + _CELL_BITS * ones.size
            cost += _told(r) + _told(c) * rows / height
            for i, most in enumerate((MAX_CELLS, MAX_CELLS // KNOWN)):
                if pairs <= most and cost < best[i][0]:
                    best[i] = float(cost), (r, c)
    return best[0], best[1]


def _again(matrix: NDArray[np.bool_], found: Found, columns: NDArray[np.uint8], most: int) -> Found:
    """The same, or with the classes that columns had before, if those cost less."""
    again = (found[1][0], columns)
    cost = _cost(matrix, 0, again) + _told(again[0])
    return (cost, again) if cost < found[0] and _pairs(again) <= most else found


def _levels(counts: NDArray[np.int64], length: int) -> list[NDArray[np.uint8]]:
    return [f for i, f in enumerate(classes.fit(counts, length, MAX_CLASSES), 1) if i in _TRIED]


def _told(lines: NDArray[np.uint8]) -> float:
    """Bits of the classes themselves, about."""
    return values.entropy(np.bincount(lines))


def _cost(matrix: NDArray[np.bool_], width: int, of_lines: Classes) -> float:
    total = 0.0
    for _, cells, own in lattice.walk(matrix, width, of_lines):
        places = np.bincount(cells.reshape(-1))
        ones = np.bincount(cells[own], minlength=len(places))
        cost = classes.entropy(ones.astype(np.float64), places.astype(np.float64))
        total += float(cost.sum()) + _CELL_BITS * int(np.count_nonzero(places))
    return total


def _write_classes(
    writer: Writer, lines: NDArray[np.uint8], befores: Sequence[int], last: NDArray[np.uint8] | None
) -> None:
    same = last is not None and np.array_equal(last, lines)
    writer.side.bit("same", same)
    if same:
        return
    count, told = int(lines.max()) + 1, lines.tolist()
    writer.side.number("classes", count - 1)
    if count == 1:
        return
    best = None
    for mode, before in [(0, 1), (1, 1), *((2, b) for b in befores if 1 < b < len(told))]:
        trial = writer.side.fork()
        trial.number("mode", mode)
        if mode == 2:
            trial.number("before", before)
        classes.write(trial, told, count, before, mode)
        if best is None or trial.size < best.size:
            best = trial
    assert best is not None
    writer.side = best


def _read_classes(side: Decoder, lines: int, last: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    if side.bit("same"):
        if last is None or len(last) != lines:
            raise Corrupt("the classes of a run that was not there", code="bad_packed")
        return last
    count = side.number("classes") + 1
    if count == 1:
        return np.zeros(lines, np.uint8)
    mode = side.number("mode")
    before = side.number("before") if mode == 2 else 1
    if count > MAX_CLASSES or mode > 2 or before < 1 or lines > MAX_LINES:
        raise Corrupt("classes that cannot be", code="bad_packed")
    return classes.read(side, lines, count, before, mode)


def _pairs(of_lines: Classes) -> int:
    return (int(of_lines[0].max()) + 1) * (int(of_lines[1].max()) + 1)


def _wide(of_lines: Classes) -> int:
    return int(of_lines[1].max()) + 1


def _cells(of_lines: Classes) -> int:
    return _pairs(of_lines) * KNOWN


def _plain(of_lines: Classes) -> NDArray[np.int64]:
    """The places of each cell where no neighbour is known."""
    found = np.zeros(_cells(of_lines), np.int64)
    found[::KNOWN] = np.outer(*(np.bincount(lines) for lines in of_lines)).reshape(-1)
    return found


def _counted(cells: NDArray[np.integer], many: int) -> NDArray[np.int64]:
    """The places of each cell; some at once, which take eight bytes each."""
    flat, found = cells.reshape(-1), np.zeros(many, np.int64)
    for start in range(0, len(flat), _SORTED):
        found += np.bincount(flat[start : start + _SORTED], minlength=many)
    return found


# --- places


def _places(
    steps: NDArray[np.int64], counts: Counts, cells: NDArray[np.integer] | None, one: Pass, of_lines: Classes
) -> Places:
    """Rows and columns of the non-zeros, in the order in which they were sent."""
    places, ones = counts
    many = np.array(ones, np.int64)
    used = many > 0
    first = (np.cumsum(many) - many)[used]
    steps += 1
    steps[first] -= 1
    last = np.add.reduceat(steps, first) if len(first) else steps
    if (last >= np.array(places, np.int64)[used]).any():
        raise Corrupt("a non-zero outside of its tensor", code="bad_packed")
    steps[first[1:]] -= last[:-1]  # each cell counts its own places
    np.cumsum(steps, out=steps)
    if cells is not None:
        return _among(cells, steps, counts, one)
    row, end = np.empty(len(steps), np.int64), 0
    by_row, by_column = (_groups(lines) for lines in of_lines)
    for cell, n in enumerate(ones):
        if n:
            own = slice(end, end + n)
            rows, columns = by_row[cell // KNOWN // len(by_column)], by_column[cell // KNOWN % len(by_column)]
            np.floor_divide(steps[own], len(columns), out=row[own])
            steps[own] -= row[own] * len(columns)
            row[own], steps[own] = _pick(rows, row[own]), _pick(columns, steps[own])
            end += n
    return row, steps


def _among(cells: NDArray[np.integer], steps: NDArray[np.int64], counts: Counts, one: Pass) -> Places:
    """The same where cells are known place by place; `steps`: how many places of its cell come before each non-zero.

    Some rows at once: the order of their places by cell takes eight bytes of each.
    """
    places, ones = (np.array(each, np.int64) for each in counts)
    at = places.cumsum() - places  # where each cell goes on, all cells one after another
    steps += np.repeat(at, ones)
    first = ones.cumsum() - ones  # the non-zero that is next in each cell
    row, column = np.empty_like(steps), np.empty_like(steps)
    lines = max(1, _SORTED // len(one.columns))
    for top in range(0, len(cells), lines):
        block = cells[top : top + lines].reshape(-1)
        here = np.bincount(block, minlength=len(at))
        many = np.searchsorted(steps, at + here) - first
        own = np.repeat(first - (many.cumsum() - many), many) + np.arange(many.sum())
        inside = steps.take(own) + np.repeat(here.cumsum() - here - at, many)
        line, place = np.divmod(np.argsort(block, kind="stable").take(inside), len(one.columns))
        row[own], column[own] = line + top, one.columns.take(place)
        at += here
        first += many
    return row, column


Lines = NDArray[np.int64] | range  # numbers of rows or columns; a range for all of them


def _groups(lines: NDArray[np.uint8]) -> list[Lines]:
    top = int(lines.max())
    return [np.flatnonzero(lines == c) for c in range(top + 1)] if top else [range(len(lines))]


def _pick(lines: Lines, at: NDArray[np.int64]) -> NDArray[np.int64]:
    return at if isinstance(lines, range) else lines.take(at)


def _shaped(items: NDArray[Any], layout: Layout) -> NDArray[Any]:
    if layout.turned:
        return np.ascontiguousarray(items.reshape(layout.columns, layout.rows).T)
    return items.reshape(layout.rows, layout.columns)
