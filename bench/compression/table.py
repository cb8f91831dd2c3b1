"""The table of issue 6: every figure with its anchor and goal, and what the parts' documents in bench/results say of it.

Guarantees: a figure that nothing was measured of says "not run", one whose goal was missed says "no"; what stands here is read
from the documents, nothing is measured. Does not guarantee that two documents come from one machine: each row says its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edged.demo.tell import markdown

Document = Mapping[str, Any]
YES, NO, NOT_RUN, NOT_JUDGED = "yes", "no", "not run", "not judged"


@dataclass(frozen=True)
class Figure:
    """One row. `of` picks its rows in the document of `part`: a network, or a word of the row's name."""

    part: str
    of: str
    figure: str
    anchor: str
    goal: str
    measured: str = ""
    data: str = ""
    reached: str = NOT_RUN
    source: str = ""  # the document


FIGURES = (
    Figure("ratios", "lenet-300-100", "LeNet-300-100 packed, no accuracy loss", "Deep Compression 40x", ">= 60x"),
    Figure(
        "ratios", "lenet-5-caffe", "LeNet-5 (Caffe's) packed, no accuracy loss", "Deep Compression 39x, DeepCABAC 115x", ">= 120x"
    ),
    Figure("ratios", "alexnet", "AlexNet packed, within 1 point", "Deep Compression 35x", ">= 45x"),
    Figure("ratios", "vgg-16", "VGG-16 packed, within 1 point", "Deep Compression 49x, DeepCABAC 63.6x", ">= 64x"),
    Figure("codec", "csr", "entropy coder against CSR + Huffman, same weights", "1", ">= 1.15x smaller"),
    Figure("codec", "decode", "packed decode", "-", "bit-exact, >= 50 MB/s on one core, memory <= 2x the output"),
    Figure("int8", "", "int8 MobileNet, accuracy loss after retraining", "1 % (nncf's default budget)", "<= 0.5 point"),
    Figure(
        "atom", "", "x5-E3940: four regions x 30 frames/s on car parks", "specification",
        "<= 70 % of the CPU by the lower bound, <= 2 points lost, one candidate at least",
    ),
    Figure("zoo", "", "x5-E3940, four regions x 30 frames/s: the zoo", "specification", "which pass, which cannot, by how much"),
    Figure("predict", "", "predictor against Intel's published figures, x5-E3940", "-", "within 20 % for >= 5 networks"),
    Figure("retests", "", "candidates re-tested per minute, 2 cores against 1", "linear", ">= 1.8x"),
    Figure("tuning", "", "convolutions tuned per layer", "direct", "error <= 1e-4, never slower than 0.98x"),
)  # fmt: skip
PARTS = tuple(dict.fromkeys(f.part for f in FIGURES))


@dataclass(frozen=True)
class Said:
    """What one row of a document comes to."""

    of: str
    measured: str
    reached: bool | None  # None = it could not be judged
    data: str = ""
    name: str = ""  # in place of the figure's own


def documents(results: Path) -> dict[str, tuple[str, Document]]:
    """The newest document of each part with its file name."""
    found = {}
    for part in PARTS:
        for path in sorted(results.glob(f"????-??-??-compress-{part}.json")):
            found[part] = (path.name, json.loads(path.read_text()))
    return found


def table(found: Mapping[str, tuple[str, Document]]) -> list[Figure]:
    """Every figure of `FIGURES`, once per row that was measured of it, or once as not run."""
    rows: list[Figure] = []
    for figure in FIGURES:
        source, document = found.get(figure.part, ("", {}))
        said = [s for s in _said(figure.part, document) if not figure.of or s.of == figure.of]
        for s in said:
            reached = NOT_JUDGED if s.reached is None else YES if s.reached else NO
            told = {"measured": s.measured, "data": s.data, "reached": reached, "source": source}
            rows.append(replace(figure, figure=s.name or figure.figure, **told))
        if not said:
            rows.append(figure)
    return rows


def _said(part: str, document: Document) -> list[Said]:
    if not document:
        return []
    return list(READERS.get(part, _plain)(document.get("measured", document)))


def _ratios(rows: Sequence[Mapping[str, Any]]) -> Iterator[Said]:
    for r in rows:
        low, high = (f"{100 * r['packed'][end]:.2f}" for end in ("lower", "upper"))
        lost = 100 * r["loss"]
        p = f"p = {r['mcnemar_p']:.2g}" if r["mcnemar_p"] else "p < 0.0001"  # as it was rounded
        yield Said(
            r["network"],
            f"{r['ratio']:.1f}x ({r['packed_bytes']:,} of {r['float_bytes']:,} bytes) by `{r['chain']}`; the unpacked file has "
            f"{r['packed']['accuracy']:.2%} ({low} to {high}, n = {r['packed']['n']:,}), float {r['float']['accuracy']:.2%}: "
            f"{abs(lost):.2f} points {'lost' if lost > 0 else 'won'}, {p}",
            bool(r["met"]), f"{r['data']}, {r['px']} px",
        )  # fmt: skip


def _codec(measured: Document) -> Iterator[Said]:
    for r in measured["rows"]:
        where = f"{r['name']}, {r['weights']} weights"
        sizes = f"{r['own']:,} of {r['csr_huffman']:,} bytes ({r['bytes']:,} in ONNX)"
        control = "no order" in r["name"]  # on which no coder can gain from places
        yield Said("csr", f"{r['smaller']:.3f}x: {sizes}", None if control else r["smaller"] >= 1.15, where)
    for r in measured["rows"]:
        yield Said(
            "decode",
            f"{'bit-exact' if r['exact'] else 'not exact'}, {r['unpack_mb_per_s']:.0f} MB/s, memory {_memory(r)}, "
            f"{r['bytes'] / 1e6:.1f} MB",
            bool(r["exact"]) and r["unpack_mb_per_s"] >= 50 and r["unpack_memory_over_output"] <= 2,
            f"{r['name']}, {r['weights']} weights",
        )  # fmt: skip


def _memory(row: Mapping[str, Any]) -> str:
    """All that becomes resident is judged; what of it is no code that was first touched is told beside it."""
    told = (
        f"{row['unpack_memory_over_output']:.2f}x the output resident ({row['stream_memory_over_output']:.2f}x streamed"
    )
    if "unpack_own_over_output" in row:
        told += f"; without code that was first touched {row['unpack_own_over_output']:.2f}x"
    allocated = row.get("unpack_allocated_over_output")
    return told + ("" if allocated is None else f"; allocated {allocated:.2f}x") + ")"


def _tuning(document: Document) -> Iterator[Said]:
    """Whole networks are judged; the table of single layers is in the document."""
    for r in document["whole"]:
        t = r["tuned"]
        ratio = t["before_ms"] / t["after_ms"] if t["kept"] and t["after_ms"] else 1.0
        told = f"{ratio:.2f}x as fast, error {t['error']:.1e}" if t["kept"] else "left as it is"
        yield Said(
            "", f"{told}: {t['note']}", ratio >= 0.98 and t["error"] <= 1e-4, f"random weights; {t['on']}",
            f"{r['network']} at {r['px']} px, tuned per layer",
        )  # fmt: skip


def _retests(measured: Document) -> Iterator[Said]:
    yield Said(
        "",
        f"{measured['speedup_cpu']}x by CPU time, {measured['speedup_wall']}x by the wall beside other work "
        f"({measured['per_minute_2']} against {measured['per_minute_1']} a minute); the answers are equal",
        measured["speedup_cpu"] >= 1.8,
        measured["data"],
    )


def _predict(measured: Document) -> Iterator[Said]:
    for precision in ("int8", "float32"):
        s = measured["summary"][f"model {precision}"]
        yield Said(
            "",
            f"{s['within_goal']} of {s['networks']} networks within {measured['goal']:.0%}, median error "
            f"{s['median_error']:.0%}, largest {s['largest_error']:.0%}; each network's own figure was left out of the fit",
            s["within_goal"] >= 5,
            "Intel's table for OpenVINO 2022.3", f"predictor against Intel's published figures, x5-E3940, {precision}",
        )  # fmt: skip


def _int8(measured: Document) -> Iterator[Said]:
    for r in measured["rows"]:
        float_, qat, after = r["float"], r["qat"], r["int8"]
        low, high = (f"{100 * end:.2f}" for end in qat["wilson"])
        yield Said(
            "",
            f"{100 * qat['loss']:+.2f} points lost ({qat['lost']} lost, {qat['won']} won of {r['held']:,}; at most "
            f"{100 * qat['loss_upper']:.2f}): {qat['accuracy']:.2%} ({low} to {high}) after {float_['accuracy']:.2%} in float, "
            f"by `qat`; by `int8` without retraining {100 * after['loss']:+.2f} points",
            qat["loss"] <= measured["goal"], " + ".join(measured["sets"]),
            f"int8 {r['net']} at {r['px']} px, seed {r['seed']}, accuracy loss after retraining",
        )  # fmt: skip


def _atom(measured: Document) -> Iterator[Said]:
    for r in measured["candidates"][1:]:
        low, high = (f"{100 * end:.2f}" for end in r["wilson"])
        yield Said(
            "",
            f"{r['fps']:.0f} frames/s (at least {r['fps_lower']:.0f}, {r['how']}), {r['share_with_decode']:.0%} of the four "
            f"cores at 30, JPEG included; {r['accuracy']:.2%} ({low} to {high}, n = {r['held']:,}), "
            f"{100 * r['loss']:+.2f} points lost ({r['lost']} lost, {r['won']} won)",
            bool(r["passed"]), " + ".join(measured["sets"]),
            f"x5-E3940, four regions x 30 frames/s: {r['net']} at {r['px']} px, `{r['chain']}`",
        )  # fmt: skip


def _zoo(measured: Document) -> Iterator[Said]:
    """One row for each precision: which networks pass, and how much the others are short of it."""
    most = measured["goal"]["share"]
    for precision in dict.fromkeys(r["precision"] for r in measured["zoo"]):
        rows = [r for r in measured["zoo"] if r["precision"] == precision]
        shares = {f"{r['net']} at {r['px']} px": r["share_with_decode"] for r in rows}
        good = ", ".join(f"{net} ({share:.0%})" for net, share in shares.items() if share <= most)
        slow = ", ".join(f"{net} ({share / most:.1f} times too slow)" for net, share in shares.items() if share > most)
        told = f"pass, with so much of the four cores at 30, JPEG included: {good or 'none'}; cannot: {slow or 'none'}"
        yield Said(
            "",
            told,
            None,
            "random weights",
            f"x5-E3940, four regions x 30 frames/s: networks of the zoo in {precision}",
        )


def _plain(measured: Any) -> Iterator[Said]:
    """Rows that say themselves what they are: of, measured, reached, data, figure."""
    for r in measured["rows"] if isinstance(measured, Mapping) else measured:
        yield Said(
            str(r.get("of", "")), str(r["measured"]), None if r["reached"] is None else bool(r["reached"]),
            str(r.get("data", "")), str(r.get("figure", "")),
        )  # fmt: skip


READERS: Mapping[str, Callable[[Any], Iterator[Said]]] = {
    "ratios": _ratios, "codec": _codec, "int8": _int8, "atom": _atom, "zoo": _zoo, "predict": _predict, "retests": _retests,
    "tuning": _tuning,
}  # fmt: skip


def text(rows: Sequence[Figure], found: Mapping[str, tuple[str, Document]]) -> str:
    """Markdown: the table, then on which machine each part ran, and by which command."""
    lines = [
        markdown(
            ("figure", "anchor", "goal", "measured", "on", "reached"),
            [(r.figure, r.anchor, r.goal, r.measured or "-", r.data or "-", r.reached) for r in rows],
        ),
        "",
    ]
    for part, (name, document) in found.items():
        m = document.get("machine", {})
        where = f"{m.get('cpu', '?')}, {m.get('cores', '?')} cores, Python {m.get('python', '?')}, {m.get('date', '?')}"
        lines.append(f"- {part}: `{document.get('command', '?')}`, {where} ({name})")
    return "\n".join(lines)


def as_json(rows: Sequence[Figure]) -> list[dict[str, str]]:
    return [asdict(r) for r in rows]
