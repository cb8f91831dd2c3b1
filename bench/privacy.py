"""How much private content is hidden, and at what cost: edged against deface on the same pictures in the same run.

    python -m bench.privacy --data DIR --boxes CSV [--deface PROGRAM] [--yunet FILE] [--strict] [--check] ...

The CSV's form is in annotated.py, what counts as hidden in tally.py, night and pan in hard.py, how deface is treated in
deface.py, the targets in targets.py. Prints a table and, with --json OUT, writes the figures with machine and date (and
the table as OUT with .md in place of .json). With --check it ends with 3 if any target is missed.

Guarantees: every share stands with its number of boxes and Wilson's 95 % interval; all tools see the same pixels.
Does not guarantee: that a set is like your cameras; that wall times mean much on a busy machine (CPU and ratios do).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

if not __package__:  # started as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import cv2
import numpy as np

from bench import annotated, hard, targets
from bench.annotated import Frame, Picture
from bench.deface import Deface, Mask, Program, Recreated, spend
from bench.hard import Copy
from bench.machine import describe
from bench.scrubber import Edged, cost
from bench.tally import Count, Tally, keys, share
from edged.clock import stopwatch
from edged.errors import EXIT_FOUND_BAD, EdgedError, Unavailable
from edged.privacy.audit import HIDDEN_FROM
from edged.privacy.encoder import ffmpeg
from edged.privacy.scrub import ScrubOptions

BATCH = 16
COST_FRAMES = 12


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parse(arguments)
    try:
        measured = run(asked)
    except EdgedError as e:
        print(f"bench.privacy: {e}" + (f" ({e.hint})" if e.hint else ""), file=sys.stderr)
        return e.exit_code
    document = {"bench": "privacy", "machine": describe(), "measured": measured}
    verdicts = targets.judge(measured)
    table = targets.text(verdicts)
    print(table)
    print()
    print(targets.curves(measured))
    if asked.json:
        asked.json.write_text(json.dumps(document, indent=2) + "\n")
        asked.json.with_suffix(".md").write_text(_page(document, table))
    missed = [v for v in verdicts if v.verdict == targets.MISSED]
    if asked.check:
        for v in verdicts:
            print(f"{v.verdict}: {v.target}", file=sys.stderr)
    return EXIT_FOUND_BAD if asked.check and missed else 0


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """All figures; see the keys in targets.py. Raises Misconfigured, Unavailable."""
    found = annotated.read(asked.data, asked.boxes, asked.kinds)
    pictures = _spread(found.pictures, asked.limit)
    kinds = frozenset(kind for p in pictures for kind in p.kinds)
    deface: Deface = Program(asked.deface) if asked.deface else Recreated()
    tools = _tools(asked, kinds)
    measured: dict[str, Any] = {
        "command": " ".join(sys.argv[1:]), "deface": deface.name, "pictures": len(pictures),
        "kinds": sorted(kinds), "size": asked.size and f"{asked.size[0]}x{asked.size[1]}",
    }  # fmt: skip
    passed_over = found.passed_over
    measured["stills"] = _stills(pictures, tools, deface, asked.size, passed_over)
    measured["passed_over"] = dict(passed_over)
    faces = [p for p in pictures if any(b.kind == "face" for b in p.boxes)]
    if asked.night and faces:
        some = _spread(faces, asked.night)
        measured["night"] = _copies(some, hard.NIGHT, tools, deface, asked.size)
        measured["blur"] = _copies(some, hard.BLUR, tools, deface, asked.size)
    if asked.pan and faces:
        measured["pan"] = _pan(_spread(faces, asked.pan), tools, deface, asked.size)
    if not asked.no_cpu:
        _pin()
        measured["cpu"], measured["sse"] = _cpu(pictures, tools, deface, asked.sse)
    if asked.clip:
        _pin()
        measured["film"] = [_film(clip, deface) for clip in asked.clip]
    if asked.faults:
        measured["faults"] = _faults()
    return measured


def _tools(asked: argparse.Namespace, kinds: frozenset[str]) -> list[Edged]:
    wanted = {"faces": "face" in kinds, "plates": "plate" in kinds, "runtime": asked.runtime}
    tools = [Edged("edged", ScrubOptions(**wanted))]
    yunet = str(asked.yunet.resolve()) if asked.yunet else ""
    if yunet and "face" in kinds:
        tools.append(Edged("edged yunet", ScrubOptions(**wanted, face_model=yunet)))
    if asked.strict and "face" in kinds:
        tools.append(Edged("edged strict", ScrubOptions(**wanted, strict=True, face_model=yunet)))
    return tools


def _stills(
    pictures: Sequence[Picture], tools: Sequence[Edged], deface: Deface, size: tuple[int, int] | None, passed_over: Any
) -> dict[str, Any]:
    """Recall and false area of each tool by size and region."""
    tallies = {name: Tally() for name in (*(t.name for t in tools), "deface")}
    withheld = dict.fromkeys(tallies, 0)
    for batch in _batches(pictures, size, "stills", passed_over):
        for tool in tools:
            for frame in batch:
                covered = tool.covered(frame.image)
                withheld[tool.name] += bool(covered.unjudged)
                for kind in frame.picture.kinds:
                    _count(tallies[tool.name], kind, frame, covered.masks.get(kind))
        with_faces = [frame for frame in batch if "face" in frame.picture.kinds]
        if with_faces:
            for frame, mask in zip(with_faces, deface.covered([f.image for f in with_faces]), strict=True):
                _count(tallies["deface"], "face", frame, mask)
    return {name: tally.figures() | {"withheld": withheld[name]} for name, tally in tallies.items()}


def _copies(
    pictures: Sequence[Picture], copies: Mapping[str, Copy], tools: Sequence[Edged], deface: Deface,
    size: tuple[int, int] | None,
) -> dict[str, Any]:  # fmt: skip
    """By kind of copy, by tool: what was hidden in all of them, and in those that would be kept."""
    out: dict[str, dict[str, Any]] = {name: {} for name in copies}
    all_: dict[tuple[str, str], Tally] = {}
    kept: dict[tuple[str, str], Tally] = {}
    withheld: dict[tuple[str, str], int] = {}
    seen = 0
    for batch in _batches(pictures, size, next(iter(copies)), each=4):
        seen += len(batch)
        for name, copy in copies.items():
            images = [copy(f.image, np.random.default_rng(_seed(f))) for f in batch]
            for frame, mask in zip(batch, deface.covered(images), strict=True):
                _count(all_.setdefault((name, "deface"), Tally()), "face", frame, mask)
            for tool in tools:
                key = (name, tool.name)
                for frame, image in zip(batch, images, strict=True):
                    covered = tool.covered(image)
                    found = covered.masks.get("face")
                    _count(all_.setdefault(key, Tally()), "face", frame, found)
                    withheld[key] = withheld.get(key, 0) + bool(covered.unjudged)
                    if not covered.unjudged:
                        _count(kept.setdefault(key, Tally()), "face", frame, found)
    for (name, tool_name), tally in all_.items():
        out[name][tool_name] = tally.figures() | {
            "kept": kept.get((name, tool_name), Tally()).figures()["hidden"],
            "pictures": seen, "withheld": withheld.get((name, tool_name), 0),
        }  # fmt: skip
    return out


def _pan(
    pictures: Sequence[Picture], tools: Sequence[Edged], deface: Deface, size: tuple[int, int] | None
) -> dict[str, Any]:
    """By tool: faces that were hidden in every frame in which they were whole."""
    out: dict[str, dict[str, Any]] = {}
    for batch in _batches(pictures, size, "pan", each=1):
        for still in batch:
            faces = tuple(b for b in still.boxes if b.kind == "face")
            own = still.image[: still.height, : still.width]
            frames = list(hard.pan(own, faces, np.random.default_rng(_seed(still))))
            images = [frame for frame, _ in frames]
            masks = {"deface": (deface.covered(images), len(images))} | {t.name: t.film(images) for t in tools}
            for name, (covered, looks) in masks.items():
                figures = out.setdefault(name, {"frames": 0, "looks": 0, "counts": {}, "hidden_once": {}})
                figures["frames"] += len(images)
                figures["looks"] += looks
                for n, face in enumerate(faces):
                    hits = [
                        share(b[n], mask) >= HIDDEN_FROM for (_, b), mask in zip(frames, covered, strict=True) if n in b
                    ]
                    if hits:
                        for key in keys(face):
                            figures["counts"].setdefault(key, Count()).add(all(hits))
                            if any(hits):
                                figures["hidden_once"].setdefault(key, Count()).add(all(hits))
    for figures in out.values():
        figures["never_exposed"] = {key: count.figures() for key, count in sorted(figures.pop("counts").items())}
        figures["hidden_once"] = {key: count.figures() for key, count in sorted(figures["hidden_once"].items())}
    return out


def _cpu(
    pictures: Sequence[Picture], tools: Sequence[Edged], deface: Deface, sse: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """CPU of the face detectors per 720p frame: of single pictures, and per frame of a pan as the tool looks at it;
    and faces + plates with the SSE caps."""
    images = [f.image for batch in _batches(_spread(pictures, COST_FRAMES), (1280, 720), "cpu") for f in batch]
    larger = cv2.resize(images[0], (1708, 960), interpolation=cv2.INTER_CUBIC)
    moving = [np.array(larger[2 * i :, 6 * i :][:720, :1280], np.uint8) for i in range(50)]
    cpu: dict[str, Any] = {"deface": {"ms": deface.cost(images), "real": deface.real}}
    capped: dict[str, Any] = {}
    for tool in tools:
        options = ScrubOptions(faces=True, plates=False, strict=tool.options.strict, face_model=tool.options.face_model,
                               runtime=tool.options.runtime)  # fmt: skip
        both = ScrubOptions(faces=True, plates=True, strict=tool.options.strict, face_model=tool.options.face_model,
                            runtime=tool.options.runtime)  # fmt: skip
        film = cost(options, moving, film=True)
        cpu[tool.name] = {
            "look_cpu_ms": round(cost(options, images)["cpu_ms"], 1),
            "film_cpu_ms": round(film["cpu_ms"], 1),
            "looks_per_frame": round(film["looks_per_frame"], 3),
            "look_with_plates_cpu_ms": round(cost(both, images)["cpu_ms"], 1),
        }
        if sse:
            try:
                capped[tool.name] = {name: round(ms, 1) for name, ms in cost(both, images, sse=True).items()}
            except Unavailable as e:
                capped[tool.name] = {"failed": str(e)}
    return cpu, capped


def _film(clip: Path, deface: Deface) -> dict[str, Any]:
    """Frames per second of the whole tools on one clip, one core; of CPU time too, which neighbours disturb less.

    Ours hides faces and plates, deface faces. Both encode with the ffmpeg that they find, which says little of them.
    """
    reader = cv2.VideoCapture(str(clip))
    frames = 0
    while reader.grab():
        frames += 1
    reader.release()
    figures: dict[str, Any] = {"clip": clip.name, "frames": frames, "ffmpeg": ffmpeg() is not None}
    with tempfile.TemporaryDirectory() as folder:
        mine = spend([sys.executable, "-m", "edged", "privacy", "scrub", str(clip), "-o", f"{folder}/here.mp4"])
        figures |= {"edged_fps": frames / mine.wall, "edged_cpu_s": mine.cpu}
        if isinstance(deface, Program):
            theirs = deface.film(clip, Path(folder) / "deface.mp4")
            figures |= {"deface_fps": frames / theirs.wall, "deface_cpu_s": theirs.cpu,
                        "ratio": theirs.wall / mine.wall, "cpu_ratio": theirs.cpu / mine.cpu}  # fmt: skip
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in figures.items()}


def _faults() -> dict[str, Any]:
    """Runs tests/privacy/test_faults.py and reads the count that it prints."""
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "tests/privacy/test_faults.py"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    counted = re.search(r"(\d+) injected faults, (\d+) raw", done.stdout)
    if done.returncode or not counted:
        raise Unavailable("tests/privacy/test_faults.py did not pass, or printed no count")
    return {"injected": int(counted[1]), "raw": int(counted[2]), "test": "tests/privacy/test_faults.py"}


def _count(tally: Tally, kind: str, frame: Frame, mask: Mask | None) -> None:
    own = np.zeros(frame.image.shape[:2], bool) if mask is None else mask
    tally.picture(kind, frame.boxes, own[: frame.height, : frame.width], frame.picture.region)


def _seed(frame: Frame) -> list[int]:
    return [len(frame.boxes), int(frame.image.sum(dtype=np.int64)) & 0xFFFFFFFF]


def _pin() -> None:
    """This process and those that it starts stay on one core from here on."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _spread(pictures: Sequence[Picture], most: int) -> list[Picture]:
    """At most so many, evenly over the whole; 0 = all."""
    if not most or len(pictures) <= most:
        return list(pictures)
    return [pictures[int(i)] for i in np.linspace(0, len(pictures) - 1, most)]


def _batches(
    pictures: Sequence[Picture], size: tuple[int, int] | None, what: str, passed_over: Any = None, each: int = BATCH
) -> Iterator[list[Frame]]:
    """Loaded pictures, a few at a time, telling on standard error how long it will take."""
    began = told = stopwatch()
    for first in range(0, len(pictures), each):
        batch = []
        for picture in pictures[first : first + each]:
            loaded = annotated.load(picture, size)
            if loaded is not None:
                batch.append(loaded)
            elif passed_over is not None:
                passed_over["files that are no picture"] += 1
        if batch:
            yield batch
        done, now = min(first + each, len(pictures)), stopwatch()
        if now - told > 5 or done == len(pictures):
            left = (now - began) / done * (len(pictures) - done)
            print(f"{what}: {done} of {len(pictures)} pictures, {left / 60:.1f} min to go", file=sys.stderr, flush=True)
            told = now


def _page(document: dict[str, Any], table: str) -> str:
    machine, measured = document["machine"], document["measured"]
    return (
        f"# Privacy, measured on {machine['date']}\n\n{machine['cpu']}, {machine['cores']} cores, Python {machine['python']};"
        f" against {measured['deface']}; {measured['pictures']} pictures.\n\n"
        f"    python -m bench.privacy {measured['command']}\n\n{table}\n\n"
        f"{targets.curves(measured)}\n"
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="bench.privacy", description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--data", type=Path, required=True, help="folder of the pictures")
    p.add_argument("--boxes", action="append", required=True, metavar="[REGION=]CSV", help="may be given again")
    p.add_argument(
        "--deface", type=Path, metavar="PROGRAM", help="the real deface; without it its settings, re-created"
    )
    p.add_argument("--yunet", type=Path, metavar="FILE", help="measure with this YuNet file too")
    p.add_argument("--strict", action="store_true", help="measure the strict mode too")
    p.add_argument(
        "--kinds", type=lambda s: tuple(s.split(",")), default=(), help="face,plate; otherwise what the CSV has"
    )
    p.add_argument(
        "--size",
        type=_size,
        default=(1280, 720),
        metavar="WxH",
        help="of the frames into which pictures are shrunk; 0x0 = as they are",
    )
    p.add_argument("--runtime", default="auto", choices=("auto", "openvino", "onnxruntime"))
    p.add_argument("--limit", type=int, default=0, metavar="N", help="at most N pictures, evenly chosen; 0 = all")
    p.add_argument(
        "--night",
        type=int,
        nargs="?",
        const=200,
        default=200,
        metavar="N",
        help="pictures darkened and blurred; 0 = none",
    )
    p.add_argument(
        "--pan", type=int, nargs="?", const=60, default=60, metavar="N", help="pictures panned over; 0 = none"
    )
    p.add_argument("--no-cpu", action="store_true", help="leave out what the detectors cost")
    p.add_argument("--clip", type=Path, action="append", metavar="VIDEO", help="a film for frames/s of the whole tools")
    p.add_argument("--sse", action="store_true", help="what looking costs with the SSE caps, too")
    p.add_argument("--faults", action="store_true", help="run the test that injects faults, and count")
    p.add_argument("--json", type=Path, metavar="OUT")
    p.add_argument("--check", action="store_true", help="end with 3 if a target is missed")
    return p.parse_args(arguments)


def _size(text: str) -> tuple[int, int] | None:
    width, _, height = text.partition("x")
    return (int(width), int(height)) if int(width) and int(height) else None


if __name__ == "__main__":
    sys.exit(main())
