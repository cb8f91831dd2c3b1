"""Labels as files: CSV and JSON lines, read with every fault named by its line, written so that reading them gives the same.

    CSV           sample,class[,score]; with a header the columns may stand in any order, `source` is compared, others are left
    JSON lines    {"sample": ..., "class": ..., "score": ...} a line; `source` is compared, other keys are left

`-` stands for "cannot say / bad crop", unless the task has a class of that name. A score is how sure a teacher was, 0..1;
people have none. Empty lines are left out, and lines that begin with #, but not below a header.

Guarantees: what `read` and `check` name no fault of can be added whole (labels.add_many). Does not guarantee anything of
who made the labels: the importer says that.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from edged.clock import iso
from edged.errors import Refused
from edged.storage import labels
from edged.storage.store import Store

Format = Literal["csv", "jsonl"]

CANNOT_SAY = "-"
MAX_BYTES = 64 * 2**20
OVERTURNED, OVERTURNED_SHARE = 20, 0.1  # other people's labels that a file may contradict, one of both
_BATCH = 500


@dataclass(frozen=True)
class Line:
    """One label of a file: `n` the line it stands on, from 1; `class_` as it stands there; `score` 0..1 or None."""

    n: int
    sample: str
    class_: str
    score: float | None = None
    source: str = ""


NO_SAMPLE = "there is no sample"


@dataclass(frozen=True)
class Fault:
    line: int
    reason: str


@dataclass(frozen=True)
class Report:
    """What an import would do: `new` samples that had no label of this source, `changed` ones that had another, `same`
    that are labelled so already: by this teacher, or by any person. `overturned`: by author, how many labels of other
    people the file contradicts; `touched` samples it speaks of. `gone` have no picture any more, `audit` belong to
    the audit set. `classes` counts the first two. With any fault nothing is imported.
    """

    labels: tuple[labels.Pair, ...]
    new: int
    changed: int
    same: int
    gone: int
    audit: int
    classes: Mapping[str, int]
    faults: tuple[Fault, ...]
    overturned: Mapping[str, int] = field(default_factory=dict)
    touched: int = 0

    @property
    def overturns(self) -> str:
        """What speaks against taking it unasked, a sentence; "" = nothing."""
        n = sum(self.overturned.values())
        if n < OVERTURNED or n <= OVERTURNED_SHARE * self.touched:
            return ""
        whose = ", ".join(
            f"{k} of {author}" for author, k in sorted(self.overturned.items(), key=lambda p: (-p[1], p[0]))
        )
        return f"{n} of {self.touched} labels overturn what another person said: {whose}"


@dataclass(frozen=True)
class Kept:
    """A label of the store, the newest of its source on its sample; `class_` "" = cannot say."""

    sample: str
    class_: str
    score: float | None
    source: str
    author: str
    ts: float


def format_of(name: str, data: bytes = b"") -> Format:
    """By the end of the name; where that says nothing (standard input), a first `{` says JSON lines."""
    if name.lower().endswith((".jsonl", ".ndjson", ".json")):
        return "jsonl"
    return "jsonl" if not name.lower().endswith(".csv") and data.lstrip().startswith(b"{") else "csv"


def read(data: bytes, format: Format) -> tuple[list[Line], list[Fault]]:
    """The labels of a file and what is wrong with its lines. Raises Refused for what is no text, or too large."""
    if len(data) > MAX_BYTES:
        raise Refused(f"{len(data)} bytes of labels; {MAX_BYTES} at most", code="too_large", hint="import it in parts")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data[: e.start].count(b"\n") + 1
        raise Refused(f"line {line} is not UTF-8", code="not_text") from e
    lines: list[Line] = []
    faults: list[Fault] = []
    for n, found in _csv(text) if format == "csv" else _jsonl(text):
        made = found if isinstance(found, str) else _line(n, found)
        if isinstance(made, str):
            faults.append(Fault(n, made))
        else:
            lines.append(made)
    return lines, faults


def check(
    store: Store, lines: Sequence[Line], classes: Sequence[str], source: str, author: str, share: float = labels.AUDIT_SHARE
) -> Report:  # fmt: skip
    """What importing these lines would do, faults of content among it."""
    known = _known(store, lines, source)
    first: dict[str, Line] = {}
    faults, pairs = [], []
    counts: Counter[str] = Counter()
    overturned: Counter[str] = Counter()
    for x in lines:
        class_ = "" if x.class_ == CANNOT_SAY and CANNOT_SAY not in classes else x.class_
        fault = ""
        if class_ not in classes and not (class_ == "" and x.class_ == CANNOT_SAY):
            fault = f"{x.class_[:100]!r} is no class of the task: {', '.join(classes)}, or {CANNOT_SAY} for a bad crop"
        elif x.sample not in known:
            fault = f"{NO_SAMPLE} {x.sample[:100]!r}"
        elif x.source and x.source != source:
            fault = f"is a label of source {x.source[:40]!r}, imported as {source}"
        elif source == "human" and x.score is not None:
            fault = "has a score: only a teacher's label does"
        elif x.sample in first and (first[x.sample].class_, first[x.sample].score) != (x.class_, x.score):
            fault = f"says other than line {first[x.sample].n} of {x.sample[:100]!r}"
        if fault:
            faults.append(Fault(x.n, fault))
            continue
        if x.sample in first:
            counts["repeated"] += 1
            continue
        first[x.sample] = x
        picture, was = known[x.sample]
        counts["gone"] += not picture
        counts["audit"] += labels.is_audit(x.sample, share)
        if was is not None and (was == (class_, x.score, author) or (source == "human" and was[0] == class_)):
            counts["same"] += 1
            continue
        if was is not None and source == "human" and was[2] != author:
            overturned[was[2]] += 1
        counts["new" if was is None else "changed"] += 1
        pairs.append((x.sample, class_, x.score))
    return Report(
        tuple(pairs), counts["new"], counts["changed"], counts["same"] + counts["repeated"], counts["gone"],
        counts["audit"], dict(sorted(Counter(p[1] or CANNOT_SAY for p in pairs).items())), tuple(faults),
        dict(overturned), len(first),
    )  # fmt: skip


def kept(store: Store, source: str | None = None) -> list[Kept]:
    """The labels of the store that count, by sample; of one source or of all."""
    rows = store.rows(
        "select sample, class, score, source, author, ts from label where id in (select max(id) from label"
        " where undone is null and (?1 is null or source = ?1) group by source, sample) order by sample, source",
        (source,),
    )
    return [Kept(*r) for r in rows]


def write(rows: Sequence[Kept], format: Format) -> str:
    """A file that `read` takes."""
    out = io.StringIO()
    if format == "jsonl":
        for r in rows:
            document: dict[str, Any] = {"sample": r.sample, "class": r.class_ or CANNOT_SAY, "source": r.source}
            document |= {"author": r.author, "ts": iso(r.ts)} | ({} if r.score is None else {"score": r.score})
            out.write(json.dumps(document, ensure_ascii=False) + "\n")
        return out.getvalue()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("sample", "class", "score", "source", "author", "ts"))
    for r in rows:
        score = "" if r.score is None else repr(r.score)
        writer.writerow((r.sample, r.class_ or CANNOT_SAY, score, r.source, r.author, iso(r.ts)))
    return out.getvalue()


def _csv(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    reader = csv.reader(io.StringIO(text, newline=""))
    columns: list[str] | None = None
    titled = False
    try:
        for row in reader:
            if not any(row) or (not titled and row[0].startswith("#")):
                continue
            if columns is None:
                titles = [c.strip().lower() for c in row]
                if "sample" in titles:
                    columns, titled = titles, True
                    if "class" not in titles:
                        yield reader.line_num, "the header names no column class"
                        return
                    continue
                columns = ["sample", "class", "score"]
            if not 2 <= len(row) <= len(columns):
                yield reader.line_num, f"{','.join(row)[:100]!r} is not sample,class or sample,class,score"
                continue
            yield reader.line_num, dict(zip(columns, row, strict=False))
    except csv.Error as e:
        yield reader.line_num, str(e)


def _jsonl(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for n, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            document = json.loads(line)
        except (ValueError, RecursionError):
            yield n, "is no JSON"
            continue
        yield n, document if isinstance(document, dict) else "is no JSON object"


def _line(n: int, found: Mapping[str, Any]) -> Line | str:
    sample, class_, score = found.get("sample"), found.get("class"), found.get("score")
    source = found.get("source") or ""
    if not isinstance(sample, str) or not isinstance(class_, str) or not isinstance(source, str):
        return "sample and class are text"
    if not sample.strip() or not class_.strip():
        return "lacks a sample or a class"
    if score is None or score == "":
        return Line(n, sample.strip(), class_.strip(), None, source.strip())
    try:
        value = math.nan if isinstance(score, bool) else float(score)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value <= 1:
        return f"the score {str(score)[:40]!r} is not between 0 and 1"
    return Line(n, sample.strip(), class_.strip(), value, source.strip())


def _known(
    store: Store, lines: Sequence[Line], source: str
) -> dict[str, tuple[bool, tuple[str, float | None, str] | None]]:
    """Of each sample that there is: whether it has a picture, and its newest label of this source."""
    found = {}
    ids = sorted({x.sample for x in lines})
    for start in range(0, len(ids), _BATCH):
        for r in store.rows(
            "select s.id, s.object is not null, l.class, l.score, l.author from sample s left join label l on l.id ="
            " (select max(id) from label where sample = s.id and source = ?2 and undone is null)"
            " where s.id in (select value from json_each(?1))",
            (json.dumps(ids[start : start + _BATCH]), source),
        ):
            found[r[0]] = bool(r[1]), None if r[2] is None else (r[2], r[3], r[4])
    return found
