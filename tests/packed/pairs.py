"""Model files and what became of them: the corpus of deltas."""

import numpy as np

from .made import field, model, tensor, varint, whole


def weights(seed=1):
    rng = np.random.default_rng(seed)
    return {
        "conv.w": rng.normal(0, 0.1, (24, 8, 3, 3)).astype(np.float32),
        "conv.b": rng.normal(0, 0.1, 24).astype(np.float32),
        "fc.w": rng.normal(0, 0.05, (40, 60)).astype(np.float32),
        "head.w": rng.normal(0, 0.05, (10, 40)).astype(np.float32),
        "head.b": np.zeros(10, np.float32),
    }


def trained(tensors, share=0.02, only=None, seed=2):
    """Every float moved by about `share` of its tensor's spread."""
    rng = np.random.default_rng(seed)
    return {
        name: (a + rng.normal(0, share * (a.std() + 1e-3), a.shape)).astype(a.dtype) if only in (None, name) else a
        for name, a in tensors.items()
    }  # fmt: skip


def int8(seed=1, kind=np.int8):
    rng = np.random.default_rng(seed)
    low, high = (-127, 127) if kind == np.int8 else (0, 255)
    w = np.clip(rng.normal((low + high) / 2, 25, (48, 16, 3, 3)), low, high).astype(kind)
    return {
        "w": w,
        "scale": rng.gamma(2, 0.01, 48).astype(np.float32),
        "b": rng.integers(-999, 999, 48).astype(np.int32),
    }


def stepped(tensors, share=0.1, seed=3):
    """Few whole numbers moved by one; they wrap at their ends."""
    rng = np.random.default_rng(seed)
    return {
        name: a + (rng.random(a.shape) < share).astype(a.dtype) if a.dtype.kind in "iu" else a
        for name, a in tensors.items()
    }


def renamed(tensors):
    return {f"onnx::Conv_{700 + i}": a for i, a in enumerate(tensors.values())}


def graph(names, size=40):
    """A model that is nothing but nodes."""
    nodes = b"".join(field(1, field(1, n.encode()) + field(2, n.encode() * 2) + field(4, b"Relu")) for n in names)
    return whole(1, 8) + field(7, nodes + field(5, tensor("w", np.zeros(size, np.float32))))


def corpus():
    """name -> (old, new)"""
    floats, bytes_ = weights(), int8()
    half = {name: a.astype(np.float16) for name, a in floats.items()}
    sparse = {name: np.where(np.abs(a) > 0.1, a, 0).astype(np.float32) for name, a in floats.items()}
    other = {**floats, "head.w": np.ones((12, 40), np.float32), "more": np.arange(99, dtype=np.int64)}
    wide = {"w": np.random.default_rng(7).integers(0, 2**63, 50, dtype=np.int64)}
    strange = {"w": np.array([np.nan, np.inf, -np.inf, 1e-45, -0.0, 0.0, 3.4e38, -3.4e38] * 9, np.float32)}
    folded = {
        k: a * np.linspace(0.7, 1.3, len(a), dtype=np.float32).reshape(-1, *[1] * (a.ndim - 1))
        for k, a in floats.items()
    }
    noise = np.random.default_rng(5).bytes(3000)
    names = [f"layer_{i}" for i in range(60)]
    made = {
        "float": (model(**floats), model(**trained(floats))),
        "float, hardly moved": (model(**floats), model(**trained(floats, 1e-5))),
        "float, all over again": (model(**floats), model(**weights(9))),
        "float, rows multiplied": (model(**floats), model(**folded)),
        "half": (model(**half), model(**trained(half))),
        "sparse": (model(**sparse), model(**{k: (a * 1.01).astype(np.float32) for k, a in sparse.items()})),
        "head only": (model(**floats), model(**trained(floats, only="head.w"))),
        "int8": (model(**bytes_), model(**stepped(bytes_))),
        "int8, every number": (model(**bytes_), model(**stepped(bytes_, 1.0))),
        "uint8": (model(**int8(1, np.uint8)), model(**stepped(int8(1, np.uint8)))),
        "int8 where floats were": (model(**floats), model(**bytes_)),
        "renamed": (model(**floats), model(**renamed(trained(floats)))),
        "renamed and in another order": (
            model(**floats), model(**dict(reversed(list(renamed(trained(floats)).items())))),
        ),
        "other shapes": (model(**floats), model(**other)),
        "one tensor less": (model(**other), model(**floats)),
        "eight bytes": (model(**wide), model(w=wide["w"] + 3)),
        "strange floats": (model(**strange), model(w=np.roll(strange["w"], 1))),
        "nodes renamed": (graph(names), graph([n.replace("_3", "_new_3") for n in names])),
        "nodes added": (graph(names), graph([*names[:20], "one", "two", *names[20:]])),
        "the same": (model(**floats), model(**floats)),
        "unrelated": (graph(names), model(**floats)),
        "from nothing": (b"", model(**floats)),
        "to nothing": (model(**floats), b""),
        "nothing at all": (b"", b""),
        "no models": (noise, noise[:900] + b"inserted" + noise[1000:]),
        "one byte": (b"a", b"b"),
        "longer": (varint(5) * 40, varint(5) * 90),
    }  # fmt: skip
    return made
