"""A model and plain pictures, without a site: the place where `edged compress` and `edged retest` work. Light (no torch).

    OUT/models/   every file that was made here, by its hash
        job/      one folder a stage and chain: a killed run goes on with the same command

Guarantees: a model from outside is looked at in a confined child before anything else reads it (bring.py); the test part
of the pictures is only read by the re-test. Does not guarantee that pictures of a folder without a test part are new to
the model: the re-test says which pictures it took.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edged import chain, durable, packed
from edged.clock import Clock
from edged.errors import Misconfigured, Refused
from edged.retrain import bring, children, folder
from edged.retrain.jobs import Progress

MODELS, JOBS = "models", "job"


@dataclass(frozen=True)
class Model:
    """A file in OUT/models. `weights`: they are there too, so that it can be trained."""

    sha256: str
    classes: tuple[str, ...]
    px: int
    size: int
    weights: bool


@dataclass(frozen=True)
class Workbench:
    """`counts`: pictures by part and class. `tested_on`: which pictures a re-test takes, in words."""

    data: Path
    test: Path | None
    out: Path
    threads: int
    seed: int
    counts: dict[str, dict[str, int]]
    digest: str

    @classmethod
    def at(
        cls, data: Path, out: Path, classes: Sequence[str], *, test: Path | None = None, threads: int = 1, seed: int = 1
    ) -> Workbench:
        """Reads the data once, to know them. Raises Misconfigured (exit 4): no such data; Refused: see `folder.look`, a
        class of the model without pictures.
        """
        data, out = data.resolve(), out.resolve()
        test = test.resolve() if test else None
        for path in filter(None, (data, test)):
            if not folder.exists(path):
                raise Misconfigured(f"there is no folder or zip file {path}", exit_code=4, code="not_found")
            if out == path or out.is_relative_to(path) or path.is_relative_to(out):
                raise Refused(f"the data are in {path}, files would be written to {out}", code="in_the_way",
                              hint="choose a folder outside the data for -o")  # fmt: skip
        parts = folder.look(data, test, classes)
        counts = {str(part): {name: len(files) for name, files in sets.items()} for part, sets in parts.items()}
        return cls(data, test, out, threads, seed, counts, folder.digest(parts).sha256)

    @property
    def tested_on(self) -> str:
        n = sum(self.counts["test"].values())
        if n:
            return f"{n} pictures of the test part"
        return f"all {sum(sum(sets.values()) for sets in self.counts.values())} pictures: there is no test part"

    def run(
        self, stage: str, model: Model, name: str, progress: Callable[[Progress], None], clock: Clock, **fields: Any
    ) -> dict[str, Any]:
        """One stage on `model` with more fields of its job. Raises what children.run raises."""
        job = {
            "data_dir": str(self.out), "folder": str(self.data), "test": str(self.test or ""), "classes": list(model.classes),
            "sha256": model.sha256, "threads": self.threads, **fields,
        }  # fmt: skip
        if stage != "trial":
            job["seed"] = self.seed
        words = f"{stage} {name} {model.sha256} {self.digest}"
        place = self.out / JOBS / f"{stage}-{hashlib.sha256(words.encode()).hexdigest()[:12]}"
        place.mkdir(parents=True, exist_ok=True)
        return children.run(stage, job, place, clock=clock, progress=progress, nice=10)


def bring_in(path: Path, out: Path, classes: Sequence[str] = ()) -> Model:
    """Look at a model file, packed or not, or at the folder that `edged train` left, and put it into OUT/models. Raises what
    `bring.look` and `packed.unpack` raise.
    """
    place = out.resolve() / MODELS
    place.mkdir(parents=True, exist_ok=True)
    if _packed(path):
        plain = place / "unpacked.onnx"
        durable.write(plain, packed.unpack(path.read_bytes(), most=bring.MAX_BYTES))
        path = plain
    found = bring.look(path, classes=classes)
    durable.write(place / f"{found.sha256}.onnx", found.model)
    if found.weights:
        durable.write(place / f"{hashlib.sha256(found.weights).hexdigest()}.safetensors", found.weights)
    return Model(found.sha256, found.proven.classes, found.proven.px, len(found.model), bool(found.weights))


def bring_in_baseline(path: Path, out: Path, model: Model, classes: Sequence[str] = ()) -> Model:
    """As `bring_in`; `classes` are only its own if it names none itself. Answers are compared by name: Refused
    (other_classes) unless it knows the classes of `model`, in whatever order.
    """
    try:
        baseline = bring_in(path, out)
    except Refused as e:
        if e.code != "no_classes" or not classes:
            raise
        baseline = bring_in(path, out, classes)
    if set(baseline.classes) != set(model.classes):
        raise Refused(
            f"the model knows {_listed(model.classes)}, the baseline {_listed(baseline.classes)}: they cannot be compared",
            hint="choose a baseline for the same classes", code="other_classes",
        )  # fmt: skip
    return baseline


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _packed(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(packed.MAGIC)) == packed.MAGIC
    except OSError:  # a folder, or what `bring.look` has words for
        return False


def made(bench: Workbench, model: Model, result: dict[str, Any]) -> Model:
    """The file that a stage made of `model`."""
    return Model(result["sha256"], model.classes, model.px, result["size"], False)


def hand_over(bench: Workbench, sha256: str, path: Path) -> tuple[int, int]:
    """Write a file of OUT/models, and its packed form, beside one another; returns both sizes."""
    data = (bench.out / MODELS / f"{sha256}.onnx").read_bytes()
    small = packed.pack(data)
    durable.write(path, data)
    durable.write(path.with_suffix(".epk"), small)
    return len(data), len(small)


def file_name(method: str) -> str:
    """A chain as a file's name: `channels=0.5 int8` -> `channels0.5-int8`."""
    return chain.text(chain.parse(method)).replace("=", "").replace(" ", "-")


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Hold OUT. Raises Unavailable (busy), Refused (in_the_way): it is a file."""
    import fcntl

    from edged.errors import Unavailable

    if out.exists() and not out.is_dir():
        raise Refused(f"{out} is a file, and -o names a folder", code="in_the_way", hint="choose another name")
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".edged-compress.lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise Unavailable(f"another edged works in {out}", hint="wait for it", code="busy") from e
        yield
