"""The bench on which faults are tried: real ingest, real store, real scrub child, and a look at what was stored.

`Bench.complaints` is empty when a fault did no harm: nothing stored shows anything planted or belongs to another frame,
the frame ended as it should and was counted, and the next good frame is served.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np

from edged.ingest import Line
from edged.privacy import jpeg
from edged.privacy.pool import ScrubChild
from edged.privacy.scrub import ScrubOptions
from edged.privacy.track import Rules
from edged.storage import counters, objects
from edged.storage.store import Store
from edged.wire.messages import Frame, FrameHeader, FrameReceipt, Region
from tests.privacy import signed
from tests.site import FakeClock

CHILD = Path(__file__).with_name("fault_child.py")
DEADLINE_S = 20.0  # of the child whose faults are not of time
SHORT_S = 2.0  # of the one whose are
OPTIONS = ScrubOptions()

ERRORS = {
    "valueerror": "child_error", "runtimeerror": "child_error", "cv2error": "child_error", "memoryerror": "memory",
    "oserror": "child_error", "assertion": "child_error", "stopiteration": "child_error", "withheld": "detector",
    "floatingpoint": "child_error", "importerror": "child_error", "refused": "bad_jpeg", "recursion": "child_error",
    "keyboardinterrupt": "child_died", "systemexit": "child_died", "generatorexit": "child_died",
}  # fmt: skip
DEATHS = {
    name: "child_died" for name in ("exit0", "exit3", "sigkill", "sigsegv", "sigabrt", "sigterm", "no-output")
} | {"oom": "memory"}
LATE = {"hang": "timeout", "late": "timeout", "sigstop": "timeout"}


@dataclass(frozen=True)
class Case:
    """`spec` as in fault_child.py. `code` is that of the counter, "" = it is stored, scrubbed; "*" = any counter;
    "?" = either, for faults that race with the next question."""

    spec: str
    code: str
    delayed: bool = False

    @property
    def of_time(self) -> bool:
        return self.code == "timeout"

    def __str__(self) -> str:
        return f"{'delayed' if self.delayed else 'direct'}:{self.spec}"


def command(detect: str, *orders: str) -> tuple[str, ...]:
    return (sys.executable, "-P", str(CHILD), detect, *orders)


def jpeg_of(image: np.ndarray, quality: int = 92) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def pixels_of(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


@dataclass
class Bench:
    store: Store
    child: ScrubChild
    clock: FakeClock
    seen: set[str] = field(default_factory=set)  # objects that were looked at
    sent: dict[str, signed.Signed] = field(default_factory=dict)  # by frame id
    ended: Counter[str] = field(default_factory=Counter)
    ts: float = 0.0

    def __post_init__(self) -> None:
        self.direct = Line(self.store, self.child, Rules(), 0.0, self.clock)
        self.delayed = Line(self.store, self.child, Rules(), 5.0, self.clock)

    def frame(self, camera: str) -> Frame:
        """A frame with a face and a plate and three regions: one on each and one beside them."""
        n = len(self.sent)
        made = signed.picture(n)
        x, y, w, h = made.face
        boxes = ((max(0, x - 10), max(0, y - 10), w + 20, h + 20), made.plate, (140, 10, 60, 50))
        self.ts += 0.1
        regions = tuple(Region(*box) for box in boxes)
        header = FrameHeader(f"f-{n}", self.ts, n, "b", signed.WIDTH, signed.HEIGHT, regions=regions)
        self.sent[header.id] = made
        return Frame(camera, header, jpeg_of(made.image))

    def complaints(self, case: Case) -> list[str]:
        """Try one fault."""
        line = self.delayed if case.delayed else self.direct
        # A child that was started for the case before has no earlier answer to give in place of this one.
        found = self.next_is_served(line) if any(w in case.spec for w in ("replayed", "earlier", "another")) else []
        before = counters.all(self.store)
        frame = self.frame(case.spec)
        receipts = [*line.put(frame), *line.finish()]
        found += self.ending(frame, receipts, case.code, before)
        self.ended[receipts[0][1].status if receipts else "none"] += 1
        return (
            found
            + self.stored_wrongly()
            + self.next_is_served(line, dying=".answer.after." in case.spec or case.of_time)
        )

    def ending(
        self, frame: Frame, receipts: list[tuple[Frame, FrameReceipt]], code: str, before: dict[str, int]
    ) -> list[str]:
        """What is wrong with how the frame ended."""
        if [f.header.id for f, _ in receipts] != [frame.header.id]:
            return [f"{len(receipts)} receipts for one frame"]
        status, now = receipts[0][1].status, counters.all(self.store)
        if not code:
            return [] if status == "stored" else [f"{status} ({receipts[0][1].detail}), not stored"]
        if code == "?" and status in ("stored", "retry"):
            return []
        counted = [name for name in now if now[name] > before.get(name, 0) and name.partition(":")[0] == status]
        if code in "*?" and status in ("withheld", "refused") and counted:
            return []
        return [] if f"{status}:{code}" in counted else [f"{status} ({receipts[0][1].detail}), {counted}, not {code}"]

    def stored_wrongly(self) -> list[str]:
        """What is wrong with any object that was not looked at before."""
        found: list[str] = []
        rows = self.store.rows("select object, id from frame where object is not null")
        rows += self.store.rows("select object, frame as id from sample where object is not null")
        frame_of = {row["object"]: row["id"] for row in rows}
        for row in self.store.rows("select id, kind from object"):
            if row["id"] in self.seen:
                continue
            self.seen.add(row["id"])
            data = objects.read(self.store, row["id"])
            sent = self.sent.get(frame_of.get(row["id"], ""))
            found += [f"{row['kind']}: {what}" for what in self._wrong(data, row["kind"], sent)]
        return found

    def _wrong(self, data: bytes, kind: str, sent: signed.Signed | None) -> Iterator[str]:
        if sent is None:
            yield "belongs to no frame"
            return
        image = pixels_of(data)
        if image is None:
            yield "does not decode"
            return
        for thing in signed.shows(image):
            yield f"shows a {thing}"
        if jpeg.metadata(data) or jpeg.check(data).width != image.shape[1]:
            yield "carries more than a picture"
        if kind == "frame" and not signed.same_scene(image, sent.image):
            yield "is not this frame's picture"

    def next_is_served(self, line: Line, *, dying: bool = False) -> list[str]:
        """A good frame of another camera, sent once more if it is told to, or met a child that was ending or slow."""
        for tries in (1, 2):
            frame = self.frame("good")
            receipts = [*line.put(frame), *line.finish()]
            if [r.status for _, r in receipts] == ["stored"]:
                return self.stored_wrongly()
            again = ["retry"], ["withheld"] if dying else ["retry"]
            if [r.status for _, r in receipts] not in again or tries == 2:
                return [f"the next good frame: {[(r.status, r.detail) for _, r in receipts]}"]
        return []


def cases() -> list[Case]:
    """Every fault in the middle of a child's life."""
    looking = ("decode", "burn", "judge", "see", "face", "plate")
    covering = ("decode", "burn", "cover", "fill", "crop", "encode", "attest")
    made = [
        *_everywhere("scrub", (*looking, *covering[2:], "work", "reply"), False),
        *_everywhere("look", (*looking, "reply"), True),
        *_everywhere("scrub", (*covering, "reply"), True),
    ]
    for i, (spec, code) in enumerate(_wrong_results()):
        stage = spec.partition(".")[0]
        made.append(Case(f"scrub.{spec}", code))
        if i % 3:
            continue
        if stage in ("face", "judge", "see"):
            made.append(Case(f"look.{spec}", "bad_answer" if spec.endswith(".huge") else code, True))
        elif stage in ("fill", "attest", "encode") and not code.startswith("bad_"):
            made.append(Case(f"scrub.{spec}", code, True))
    made += [Case("scrub.encode.instead.earlier-region", "*", delayed) for delayed in (False, True)]
    for fault in ("hang", "late", "sigstop", "half-then-hang", "drip"):
        spec = f"answer.{'before' if fault in LATE else 'instead'}.{fault}"
        made.append(Case(f"scrub.{spec}", "timeout"))
        if fault in LATE:
            made.append(Case(f"look.{spec}", "timeout", True))
    for fault, code in _wrong_answers().items():
        made.append(
            Case(f"scrub.answer.instead.{fault}", code, fault in ("raw", "replayed-seq", "bit", "nothing-hidden"))
        )
    for fault in ("no-boxes", "a-box-less", "boxes-moved", "none-sure", "dark", "seq-before", "replayed-seq", "hello",
                  "planted", "declined-other", "another-word", "garbage", "raw-jpeg-alone", "done"):  # fmt: skip
        made.append(Case(f"look.answer.instead.{fault}", "bad_answer", True))
    for moment in ("before", "after"):
        for fault in ("sigkill", "exit0", "no-output"):
            code = "child_died" if moment == "before" else ""
            made.append(Case(f"scrub.answer.{moment}.{fault}", code))
            made.append(Case(f"look.answer.{moment}.{fault}", code or "?", True))
        for fault in ("stderr", "no-input", *(["slow"] if moment == "before" else [])):
            made.append(Case(f"scrub.answer.{moment}.{fault}", ""))
            made.append(Case(f"look.answer.{moment}.{fault}", "?" if fault == "no-input" else "", True))
    return made


def _everywhere(question: str, stages: tuple[str, ...], delayed: bool) -> Iterator[Case]:
    """Exceptions and deaths in turn before and after every stage."""
    turn = cycle([*ERRORS.items(), *DEATHS.items()])
    for stage in stages:
        for moment in ("before", "after"):
            fault, code = next(turn)
            yield Case(f"{question}.{stage}.{moment}.{fault}", code, delayed)


def _wrong_results() -> Iterator[tuple[str, str]]:
    """A stage that raises nothing and does something else."""
    wrong = {
        "face": {
            **dict.fromkeys(("nan", "nan-width", "inf", "score-nan", "negative", "no-height", "thousands"), "detector"),
            **dict.fromkeys(("none", "number", "tuples", "text"), "child_error"),
            "huge": "", "other-kind": "bad_answer", "numpy": "",
        },
        "judge": {"nan": "detector", "none": "child_error"},
        "decode": {"none": "child_error", "grey": "*", "float": "*", "smaller": "*", "read-only": "*"},
        "see": {"none": "child_error", "no-boxes": "*"},
        "cover": dict.fromkeys(("skipped", "pretended", "no-plates", "moved", "shrunk", "no-margin"), "uncovered"),
        "fill": {**dict.fromkeys(("skipped", "first-block", "black", "copy", "noise"), "uncovered")},
        "crop": {"raw": "uncovered", "whole": "*", "none": "*"},
        "encode": {
            **dict.fromkeys(("raw", "unfilled", "raw-always", "empty", "none"), "*"),
            "earlier": "*", "png": "*", "exif": "bad_answer", "raw-behind": "bad_answer", "cut-short": "*",
            "smaller": "*",
        },
        "attest": dict.fromkeys(("none", "empty", "zeros", "earlier"), "bad_answer"),
        "work": {
            **dict.fromkeys(("raw", "raw-other-word", "raw-regions", "raw-exif", "another-frame"), "bad_answer"),
            "nothing-looked-for": "bad_answer", "regions-swapped": "bad_answer", "none": "*",
        },
    }  # fmt: skip
    for stage, faults in wrong.items():
        for fault, code in faults.items():
            yield f"{stage}.instead.{fault}", code


def _wrong_answers() -> dict[str, str]:
    names = (
        "seq-before seq-after replayed replayed-seq hello seen planted inspected declined-other declined-code raw"
        " raw-jpeg-alone raw-no-length raw-region raw-regions-too exif trailing truncated no-jpeg no-crop more-crops"
        " crop-size size lying-size nan minus nothing-hidden another-word short-word bit garbage json nested endless"
        " no-length"
    )
    # What stands behind a whole answer is thrown away with the child before the next question.
    return dict.fromkeys(names.split(), "bad_answer") | {
        "half-then-exit": "child_died",
        "twice": "",
        "another-behind": "",
    }
