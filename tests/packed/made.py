"""ONNX files around given tensors, written without the onnx package, and tensors of many kinds by seed."""

import numpy as np

KINDS = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11}


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def whole(number, value):
    return varint(number << 3) + varint(value)


def tensor(name, array, *, as_floats=False):
    data = np.ascontiguousarray(array).tobytes()
    dims = b"".join(whole(1, n) for n in array.shape)
    return dims + whole(2, KINDS[str(array.dtype)]) + field(8, name.encode()) + field(4 if as_floats else 9, data)


def model(domain=b"", /, **tensors):
    """A graph of one Relu, of ONNX's own or of another domain, and these constants."""
    node = field(1, b"x") + field(2, b"y") + field(4, b"Relu") + (field(7, domain) if domain else b"")
    shape = field(2, field(1, whole(1, 1)) + field(1, whole(1, 3)))
    value = field(2, field(1, whole(1, 1) + shape))
    graph = field(1, node) + field(2, b"g")
    graph += b"".join(field(5, tensor(name, array)) for name, array in tensors.items())
    graph += field(11, field(1, b"x") + value) + field(12, field(1, b"y") + value)
    return whole(1, 8) + field(7, graph) + field(8, field(1, b"") + whole(2, 17))


def pictures(seed=1, rows=120, side=14, share=0.1, levels=8):
    """A first layer as pruning leaves it: blobs of one sign, dead borders, few values."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    out = np.zeros((rows, side, side), np.float32)
    for i in range(rows):
        for _ in range(3):
            cy, cx = rng.normal(side / 2, side / 5, 2)
            out[i] += rng.choice((-1, 1)) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 3)
        out[i] += rng.normal(0, 0.25, (side, side))
    return quantised(out.reshape(rows, -1), share, levels)


def quantised(weights, share, levels):
    """The largest `share` of the weights on `levels` evenly spaced values, the others 0."""
    size = np.abs(weights)
    limit = np.quantile(size, 1 - share)
    step = (weights.max() - weights.min()) / levels
    kept = np.where(size >= limit, (np.floor(weights / step) + np.float32(0.5)) * step, 0)
    return (kept + 0.0).astype(np.float32)


def samples(seed=1):
    """Tensors of every coder, by name."""
    rng = np.random.default_rng(seed)
    lines = rng.gamma(0.5, 1, 90)[:, None] * rng.gamma(0.5, 1, 160)[None, :]
    return {
        "pictures": pictures(seed),
        "turned": np.ascontiguousarray(pictures(seed + 1, rows=60).T),
        "rows_and_columns": quantised((rng.normal(size=lines.shape) * lines).astype(np.float32), 0.07, 16),
        "kernels": quantised(rng.normal(size=(24, 12, 5, 5)).astype(np.float32), 0.15, 6),
        "weights": rng.normal(size=(40, 30)).astype(np.float32),
        "sparse_weights": np.where(rng.random((60, 70)) < 0.2, rng.normal(size=(60, 70)), 0).astype(np.float32),
        "int8": np.clip(rng.normal(0, 1, (32, 40)) * rng.gamma(2, 10, (32, 1)), -127, 127).astype(np.int8),
        "uint8": np.clip(rng.normal(128, 5, (30, 50)), 0, 255).astype(np.uint8),
        "zero_point": np.where(rng.random((50, 60)) < 0.9, 128, rng.integers(100, 150, (50, 60))).astype(np.uint8),
        "minus_zero": np.where(rng.random((40, 40)) < 0.5, -0.0, 0.0).astype(np.float32),
        "strange": np.array([np.nan, np.inf, -np.inf, 1e-45, -0.0, 0.0, 1.0, 2.0] * 9, np.float32),
        "one": np.ones((30, 30), np.float32),
        "shape": np.array([-1, 3, 224, 224, 5, 6], np.int64),
        "steps": np.arange(500, dtype=np.int32),
        "halves": rng.normal(size=(20, 25)).astype(np.float16),
        "doubles": rng.normal(size=(20, 10)),
        "empty_rows": np.zeros((33, 44), np.float32),
        "lone": (np.arange(3000) == 1234).astype(np.float32),
        "mask": rng.random((40, 33)) < 0.3,
    }
