"""A suite of small networks whose times tell how fast this processor runs each kind of layer; run by box and camera alike.

Guarantees: runs on the engine alone, within about `seconds` after compiling, one small network in memory at a time (below
300 MB with either runtime); the suite of one SUITE number is the same everywhere, so a result names its probes and carries
their times only. Does not guarantee: an idle machine. Times are CPU time of one thread, so what else runs costs caches
and memory speed only; `spread` tells how quiet it was.

Each probe is a stem of 1x1 from three channels, a chain of one kind of layer, and a global average, since one layer alone
would mostly measure how a runtime turns pictures into its own layout. Whole models are for the error bar.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edged import engine
from edged.clock import Clock, cpu_seconds, stopwatch
from edged.engine import cost
from edged.engine.cost import Cost, Precision
from edged.engine.onnx_write import Net, Tensor
from edged.wire import messages
from edged.wire.messages import Probed, Timed

__all__ = ["SUITE", "Probe", "Probed", "Timed", "costs", "decode", "prepared", "run", "suite"]

SUITE = 1  # another number = other probes: results of one are of no use to the other
LEAST, MOST = 5, 200  # times that a probe is run
PREPARED = (224, 96)  # sides that four regions of a frame are brought to, by the camera's own code
REGIONS = ((40, 60, 224, 224), (420, 80, 300, 280), (760, 300, 180, 220), (960, 420, 260, 260))
CAPS = ("ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE", "NPY_DISABLE_CPU_FEATURES")


@dataclass(frozen=True)
class Probe:
    """One network of the suite; `whole` = a model of several kinds of layers, which the fit is judged on."""

    name: str
    precision: Precision
    whole: bool
    shape: tuple[int, ...]
    build: Callable[[Net], Tensor]

    def make(self) -> bytes:
        """The file."""
        net = Net(self.shape, precision=self.precision)
        return net.model(self.build(net))

    def asks(self) -> tuple[Cost, ...]:
        """What it asks for."""
        net = Net(self.shape, precision=self.precision, dry=True)
        net.model(self.build(net))
        return cost.by_kind(net.costs)


def suite() -> tuple[Probe, ...]:
    """All probes, float32 and int8."""
    found = []
    for precision in ("float32", "int8"):
        for name, px, build in _layers():
            found.append(Probe(f"{name} {precision}", precision, False, (3, px, px), build))
        for name, px, build in _models():
            if (name, precision) == ("dense", "int8"):
                continue  # batch norm after a concatenation in int8 kills OpenVINO 2026.3 on SSE4 (segmentation fault)
            found.append(Probe(f"{name} {precision}", precision, True, (3, px, px), build))
    return tuple(found)


def decode(payload: bytes) -> Probed:
    """What `run` found, from its JSON. Raises Refused with the field at fault."""
    return messages.decode(payload, Probed)


def prepared(px: int) -> tuple[str, Cost]:
    """The name and the cost of cutting four regions out of a frame and bringing them to px x px float32."""
    cut, made = 224 * 224 * 3, px * px * 3 * 4
    sized = 0 if px == 224 else cut  # each pixel is looked at once more, to be averaged
    return f"prepare {px}", Cost(
        "prepare", "float32", float(len(REGIONS) * sized), float(len(REGIONS) * (cut + 3 * made))
    )


def costs(probes: tuple[Probe, ...] | None = None) -> dict[str, tuple[Cost, ...]]:
    """What each probe of the suite asks for, by its name."""
    found = {probe.name: probe.asks() for probe in (suite() if probes is None else probes)}
    return found | {name: (asked,) for name, asked in map(prepared, PREPARED)}


def run(
    runtime: str,
    *,
    threads: int = 0,
    seconds: float = 60.0,
    progress: Callable[[float, str], None] = lambda _share, _name: None,
    clock: Clock,
    probes: tuple[Probe, ...] | None = None,
) -> Probed:
    """Run the suite. `threads` = cores for `scaling` (0 = all that this process may use); `seconds` is shared out evenly.

    Raises Misconfigured where no such runtime is installed.
    """
    chosen = suite() if probes is None else probes
    cores = threads or len(os.sched_getaffinity(0))
    found, used = [_prepare(px, seconds / (len(chosen) + 3), clock) for px in PREPARED], ""
    for i, probe in enumerate(chosen):
        progress(i / (len(chosen) + 1), probe.name)
        loaded = engine.load(probe.make(), runtime=runtime, threads=1)
        used = loaded.runtime
        found.append(_time(loaded, probe, seconds / (len(chosen) + 3), clock))
    progress(len(chosen) / (len(chosen) + 1), f"{cores} cores")
    whole = next((p for p in chosen if p.whole), chosen[-1])
    return Probed(
        suite=SUITE, processor=_cpuinfo("model name")[:120], machine=platform.machine(), cores=cores,
        runtime="openvino" if used == "openvino" else "onnxruntime", version=importlib.metadata.version(used)[:120],
        flags=isa(), caps={k: os.environ[k][:120] for k in CAPS if os.environ.get(k)},
        scaling=_scaling(whole, runtime, cores, clock), probes=tuple(found),
    )  # fmt: skip


def isa() -> tuple[str, ...]:
    """Those vector instruction sets that matter, as /proc/cpuinfo spells them."""
    told = set(f"{_cpuinfo('flags')} {_cpuinfo('Features')}".split())
    known = (
        "sse4_1", "sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "neon",
    )  # fmt: skip
    return tuple(flag for flag in known if flag in told)


def _prepare(px: int, seconds: float, clock: Clock) -> Timed:
    from edged.engine import patterns, preprocess  # OpenCV: not for a box that only reads what a probe found

    frame = np.ascontiguousarray(np.tile(patterns.picture(7, 720), (1, 2, 1))[:, :1280])

    def once() -> None:
        preprocess.marshal(preprocess.to_float([preprocess.cut(frame, *region) for region in REGIONS], px))

    return _timed(prepared(px)[0], once, seconds, clock)


def _time(loaded: engine.Engine, probe: Probe, seconds: float, clock: Clock) -> Timed:
    batch = _picture(probe.shape)
    return _timed(probe.name, lambda: loaded.run(batch), seconds, clock)


def _timed(name: str, once: Callable[[], object], seconds: float, clock: Clock) -> Timed:
    once()
    ms: list[float] = []
    until = clock.monotonic() + seconds
    while len(ms) < LEAST or (len(ms) < MOST and clock.monotonic() < until):
        before = cpu_seconds()
        once()
        ms.append(1000 * (cpu_seconds() - before))
    low, middle, high = (float(v) for v in np.percentile(ms, (25, 50, 75)))
    return Timed(name, max(middle, 1e-4), round((high - low) / 2 / max(middle, 1e-9), 4))


def _picture(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((1, *shape), np.float32)


def _scaling(probe: Probe, runtime: str, cores: int, clock: Clock) -> float:
    """By the wall, since that is what more cores shorten; 1 at least, for a busy machine says less."""
    if cores == 1:
        return 1.0
    data, batch = probe.make(), _picture(probe.shape)
    best = []
    for threads in (1, cores):
        loaded = engine.load(data, runtime=runtime, threads=threads)
        walls = []
        for _ in range(12):
            before = stopwatch()
            loaded.run(batch)
            walls.append(stopwatch() - before)
        best.append(min(walls[2:]))
    return round(min(max(best[0] / best[1], 1.0), float(cores)), 3)


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


# --- the probes

Built = tuple[str, int, Callable[[Net], Tensor]]


def _chain(channels: int, layers: Callable[[Net, Tensor], Tensor], net: Net) -> Tensor:
    return net.mean(layers(net, net.conv(net.x, channels, 1)))


def _layers() -> Iterator[Built]:
    """Name, side of the input, what is built on it: one kind of layer each, at the sizes that small networks have."""

    def kind(name: str, px: int, channels: int, layers: Callable[[Net, Tensor], Tensor]) -> Built:
        return f"{name} {channels}x{px}", px, partial(_chain, channels, layers)

    for channels, px in ((16, 112), (32, 56), (64, 56), (64, 28), (128, 28), (128, 14), (256, 14), (512, 7)):
        yield kind("conv3", px, channels, lambda n, x: _times(2, x, lambda y: n.conv(y, y.shape[0], 3)))
    for channels, px in ((16, 56), (32, 28), (64, 14)):
        yield kind("conv5", px, channels, lambda n, x: _times(2, x, lambda y: n.conv(y, y.shape[0], 5)))
    for channels, px in ((32, 56), (64, 28), (256, 14)):
        yield kind("conv3s2", px, channels, lambda n, x: n.conv(x, 2 * x.shape[0], 3, stride=2))
    for channels, px in ((16, 112), (64, 56), (128, 28), (256, 28), (256, 14), (512, 14), (512, 7), (1024, 7)):
        yield kind("conv1", px, channels, lambda n, x: _times(3, x, lambda y: n.conv(y, y.shape[0], 1)))
    for channels, px in ((24, 56), (64, 14)):  # wide and narrow in turn, as in MobileNetV2
        yield kind("conv1w", px, channels, lambda n, x: n.conv(n.conv(x, 6 * x.shape[0], 1), x.shape[0], 1, act=""))
    for channels, px in ((32, 112), (64, 56), (144, 56), (256, 28), (512, 14), (960, 7)):
        yield kind("depthwise3", px, channels, lambda n, x: _times(3, x, n.depthwise))
    for channels, px in ((64, 112), (256, 28)):
        yield kind("depthwise3s2", px, channels, lambda n, x: n.depthwise(x, stride=2))
    yield kind("depthwise5", 28, 128, lambda n, x: _times(2, x, lambda y: n.depthwise(y, 5)))
    for out, k, stride, px in ((32, 3, 2, 224), (16, 3, 1, 96), (64, 7, 2, 160)):
        yield f"stem{k} {out}x{px}", px, partial(_stem, out, k, stride)
    for wide in (256, 1024, 2048):
        yield f"full {wide}x8", 8, partial(_full, wide)
    yield kind("maxpool2", 56, 128, lambda n, x: n.pool(x, 2, 2))
    yield kind("maxpool3", 112, 64, lambda n, x: n.pool(x, 3, 2))
    yield kind("avgpool3", 28, 128, lambda n, x: n.pool(x, 3, 1, how="Average", pad=1))
    for channels, px in ((64, 56), (256, 28)):
        yield kind("add", px, channels, lambda n, x: n.add(x, n.add(x, x, "Relu"), "Relu"))
        yield kind("norm", px, channels, lambda n, x: n.norm(n.norm(x)))
        yield kind("concat", px, channels, lambda n, x: n.concat((x, n.conv(x, 16, 1))))
    yield kind("upsample", 28, 64, lambda n, x: n.upsample(x))


def _times(n: int, x: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
    for _ in range(n):
        x = layer(x)
    return x


def _full(wide: int, net: Net) -> Tensor:
    x = net.mean(net.conv(net.x, wide, 1))
    return net.full(net.full(x, wide), 1000)


def _stem(out: int, k: int, stride: int, net: Net) -> Tensor:
    return net.mean(net.conv(net.x, out, k, stride=stride))


def _models() -> Iterator[Built]:
    """Small ones of the families that cameras run; widths and depths after their papers, cut down."""
    yield "plain", 128, _plain
    yield "vgg", 64, _vgg
    yield "resnet", 112, _resnet
    yield "bottleneck", 96, _bottleneck
    yield "mobilenet", 112, _mobilenet
    yield "inverted", 128, _inverted
    yield "squeeze", 112, _squeeze
    yield "dense", 96, _dense


def _plain(n: Net) -> Tensor:
    x = n.x
    for channels in (16, 32, 64, 128, 256):
        x = n.pool(n.conv(x, channels, 3), 2, 2)
    return n.mean(n.conv(n.conv(n.conv(x, 256, 3), 128, 1), 64, 3))


def _vgg(n: Net) -> Tensor:
    x = n.x
    for channels, depth in ((32, 1), (64, 1), (128, 2), (256, 2)):
        x = n.pool(_times(depth, x, partial(n.conv, out=channels)), 2, 2)
    return n.full(n.full(x, 512, "Relu"), 10)


def _resnet(n: Net) -> Tensor:
    x = n.pool(n.conv(n.x, 32, 7, stride=2), 3, 2, pad=1)
    for stage, channels in enumerate((32, 64, 128, 256)):
        for block in range(2):
            stride = 2 if stage and not block else 1
            y = n.conv(n.conv(x, channels, 3, stride=stride), channels, 3, act="")
            x = n.add(y, n.conv(x, channels, 1, stride=stride, act="") if stride == 2 else x, "Relu")
    return n.full(n.mean(x), 100)


def _bottleneck(n: Net) -> Tensor:
    x = n.pool(n.conv(n.x, 64, 7, stride=2), 3, 2, pad=1)
    for stage, channels in enumerate((32, 64, 128)):
        for block in range(2):
            stride = 2 if stage and not block else 1
            y = n.conv(n.conv(n.conv(x, channels, 1), channels, 3, stride=stride), 4 * channels, 1, act="")
            x = n.add(y, x if block else n.conv(x, 4 * channels, 1, stride=stride, act=""), "Relu")
    return n.full(n.mean(x), 100)


def _mobilenet(n: Net) -> Tensor:
    x = n.conv(n.x, 16, 3, stride=2)
    for channels, stride in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (256, 1), (512, 2)):
        x = n.conv(n.depthwise(x, stride=stride), channels, 1)
    return n.full(n.mean(x), 100)


def _inverted(n: Net) -> Tensor:
    x = n.conv(n.x, 32, 3, stride=2, act="Clip")
    for channels, stride, repeats in ((24, 2, 2), (32, 2, 3), (64, 2, 3), (96, 1, 2), (160, 2, 2)):
        for i in range(repeats):
            y = n.conv(x, 6 * x.shape[0], 1, act="Clip")
            y = n.conv(n.depthwise(y, stride=1 if i else stride, act="Clip"), channels, 1, act="")
            x = n.add(x, y) if i else y
    return n.full(n.mean(n.conv(x, 640, 1, act="Clip")), 100)


def _squeeze(n: Net) -> Tensor:
    x = n.pool(n.conv(n.x, 64, 3, stride=2), 3, 2)
    for i, narrow in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
        s = n.conv(x, narrow, 1)
        x = n.concat((n.conv(s, 4 * narrow, 1), n.conv(s, 4 * narrow, 3)))
        x = n.pool(x, 3, 2) if i in (1, 3) else x
    return n.mean(n.conv(x, 100, 1))


def _dense(n: Net) -> Tensor:
    x = n.pool(n.conv(n.x, 32, 7, stride=2), 3, 2, pad=1)
    for stage in range(3):
        for _ in range(4):
            x = n.concat((x, n.conv(n.conv(n.norm(x), 64, 1), 16, 3, act="")))
        if stage < 2:
            x = n.pool(n.conv(x, x.shape[0] // 2, 1), 2, 2)
    return n.full(n.mean(n.norm(x)), 100)
