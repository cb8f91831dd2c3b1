"""What a child reads from and puts into the store: the snapshot's crops, model files with their weights and ancestry.

Opened read-only: a child leaves files in models/ and its result, the rows are the daemon's to write.
An ONNX file made here names its weights in its metadata (`edged.weights`), so that training can start from any
released file, also from its int8 descendant; weights name their network, size and classes in their header.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from edged.clock import SystemClock
from edged.errors import Refused
from edged.retrain.folder import Folder
from edged.retrain.jobs import Job
from edged.retrain.pictures import Crop
from edged.storage import models, samples, seal, snapshots
from edged.storage.store import Store

WEIGHTS, CLASSES = "edged.weights", "edged.classes"  # keys of an ONNX file's metadata_props

Part = Literal["train", "tune", "holdout"]


class Source:
    """A job's view of the store."""

    def __init__(self, store: Store, snapshot: str) -> None:
        self.store = store
        self._snapshot = snapshot

    @cached_property
    def body(self) -> snapshots.Body:
        """The job's snapshot. Raises Refused when it has none."""
        return snapshots.get(self.store, self._snapshot)

    def crops(self, part: Part) -> list[Crop]:
        """The labelled crops of one part of the snapshot, in its order."""
        return self.named([(sample, label) for sample, label in self.body[part]])

    def named(self, pairs: Sequence[tuple[str, str]]) -> list[Crop]:
        """Crops of (sample, class), whichever part they are of."""
        return [
            Crop(sample, sample.split(":", 1)[0], label, partial(samples.crop, self.store, sample))
            for sample, label in pairs
        ]

    def ids(self, snapshot: str) -> frozenset[str]:
        """Samples of the train and tune parts of another snapshot, less those that the job's own has under another class:
        what was learned of them is wrong now.
        """
        body = snapshots.get(self.store, snapshot)
        now = {s: c for part in snapshots.PARTS for s, c in self.body[part]}
        return frozenset(s for s, c in (*body["train"], *body["tune"]) if now.get(s, c) == c)

    def model(self, sha256: str) -> bytes:
        """The verified bytes of an ONNX file; Refused if there is none, Corrupt if it was changed."""
        return models.read_model(self.store, sha256)

    def weights(self, sha256: str) -> bytes:
        """Weights by their own sha256 or by that of an ONNX file made from them. Raises Refused when there are none."""
        try:
            data = models.read_model(self.store, sha256)
        except Refused:
            return models.read_model(self.store, sha256, ".safetensors")
        named = metadata(data).get(WEIGHTS, "")
        if not named:
            raise Refused(
                f"model {sha256[:12]} does not say which weights it was made from: train from scratch",
                code="no_weights",
            )
        return models.read_model(self.store, named, ".safetensors")

    def put(self, onnx: bytes) -> str:
        return models.put_model(self.store, onnx)

    def put_weights(self, data: bytes) -> str:
        return models.put_model(self.store, data, ".safetensors")


@contextmanager
def open_source(job: Job) -> Iterator[Source | Folder]:
    """The site's store, or a plain folder."""
    if job.folder:
        test = getattr(job, "test", "")
        yield Folder(Path(job.folder), Path(job.data_dir), getattr(job, "classes", ()), Path(test) if test else None)
        return
    key = seal.read_key(Path(job.key_file))
    with Store.open(Path(job.data_dir), clock=SystemClock(), site_key=key, readonly=True) as store:
        yield Source(store, job.snapshot)


def parse(data: bytes) -> Any:
    """ONNX bytes -> onnx.ModelProto; raises Refused for anything else."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load_model_from_string(data)
    except DecodeError as e:
        raise Refused("not an ONNX file", code="bad_model") from e


def metadata(data: bytes) -> dict[str, str]:
    """metadata_props of an ONNX file."""
    return {p.key: p.value for p in parse(data).metadata_props}


def with_metadata(data: bytes, values: dict[str, str]) -> bytes:
    """The same model with these metadata_props, in order of their names."""
    model = parse(data)
    merged = {p.key: p.value for p in model.metadata_props} | values
    del model.metadata_props[:]
    for key in sorted(merged):
        model.metadata_props.add(key=key, value=merged[key])
    return bytes(model.SerializeToString(deterministic=True))
