"""How fast a model would run on a device: from that device's own calibration, else from the profile's factor. Pure, light.

A calibration is a fit of a probe's times (engine/probe.py): milliseconds of a network = the sum over its layers of
multiply-adds x a number of their kind + bytes x a number of their kind + calls x one number, none of them negative, by least
squares on relative errors (C. L. Lawson, R. J. Hanson, Solving Least Squares Problems, 1974, chapter 23).

Guarantees: a calibration of another processor than the profile's is refused, never used. The error bar is the largest error
that the fit makes on a whole model that was left out of it; of n such models a further one of the same sort lies within it
with probability n / (n + 1) (Vovk et al., Algorithmic Learning in a Random World, 2005). Does not guarantee an estimate's
bounds for a network unlike the probe's, nor where there is no calibration: `device.Profile.estimate` says how those came
about.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from edged.clock import day
from edged.engine import probe
from edged.engine.cost import Cost
from edged.engine.probe import Probed
from edged.errors import Refused
from edged.retrain.device import Estimate, Profile

FRAME_REGIONS = 4
WORST = math.log(10)  # of a fit's error; beyond it the numbers say nothing
_LEAST = 10  # probes of one precision; with fewer nothing can be fitted
_GIGA = 1e9  # features are in thousand millions, so that the numbers of a fit are of one size

Finite = Annotated[float, Meta(ge=0, le=1e12)]


class Calibration(Struct, frozen=True, forbid_unknown_fields=True):
    """One fit. `ms`: "kind precision feature" -> milliseconds per thousand million of it (calls: per call). `error`: of the
    logarithm, per precision. `scaling`: all cores against one. `box`: the same of this box under the device's limits.
    """

    device: str
    processor: str
    runtime: str
    version: str
    suite: int
    cores: int
    scaling: Annotated[float, Meta(ge=0.5, le=1024)]
    ms: dict[str, Finite]
    error: dict[str, Finite]
    models: int  # whole models per precision that `error` comes from, at least
    author: str = ""
    made: float = 0.0
    box: Calibration | None = None


def encode(calibration: Calibration) -> str:
    return msgspec.json.encode(calibration).decode()


def decode(text: str | bytes) -> Calibration:
    """Raises Refused("bad_calibration")."""
    try:
        return msgspec.json.decode(text, type=Calibration)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as e:
        raise Refused(f"this is no calibration: {e}", code="bad_calibration") from e


def fit(
    probed: Probed,
    device: str,
    *,
    author: str = "",
    made: float = 0.0,
    box: Calibration | None = None,
    asked: Mapping[str, tuple[Cost, ...]] | None = None,
    whole: Iterable[str] | None = None,
) -> Calibration:
    """Fit one board's times. `asked`, `whole`: what each probe asks for and which are whole models, if not the suite's.

    Raises Refused: another suite (code "other_suite"), too few probes ("too_few"), times without sense ("no_fit").
    """
    if probed.suite != probe.SUITE:
        raise Refused(
            f"this was measured with probe suite {probed.suite}, and this version of edged knows suite {probe.SUITE}",
            code="other_suite", hint="run the probe of this version on the board",
        )  # fmt: skip
    asked = probe.costs() if asked is None else asked
    names = {p.name for p in probe.suite() if p.whole} if whole is None else set(whole)
    rows = [(t.name, asked[t.name], t.ms) for t in probed.probes if t.name in asked]
    ms: dict[str, float] = {}
    error: dict[str, float] = {}
    models = 0
    for precision in ("float32", "int8"):
        part = [r for r in rows if any(c.precision == precision and c.kind != "prepare" for c in r[1])]
        if len(part) < _LEAST:
            continue
        ms |= _coefficients(part)
        left = [r for r in part if r[0] in names]
        errors = [
            abs(math.log(_time(_coefficients([r for r in part if r[0] != n]), costs) / t)) for n, costs, t in left
        ]
        if errors:
            error[precision] = round(max(errors), 4)
            models = min(models, len(left)) if models else len(left)
    ms |= _coefficients([r for r in rows if all(c.kind == "prepare" for c in r[1])])
    if not error:
        raise Refused(
            f"{len(rows)} probes are too few for a fit: at least {_LEAST} of one precision, with whole models, are needed",
            code="too_few",
        )
    if max(error.values()) > WORST:
        raise Refused(
            f"its times contradict each other: a fit of them is off by {math.exp(max(error.values())):.2g} times on a model",
            code="no_fit", hint="run the probe again, with nothing else on the board",
        )  # fmt: skip
    return Calibration(
        device=device, processor=probed.processor, runtime=probed.runtime, version=probed.version, suite=probed.suite,
        cores=probed.cores, scaling=probed.scaling, ms={k: round(v, 6) for k, v in ms.items()}, error=error, models=models,
        author=author, made=made, box=box,
    )  # fmt: skip


def predict(calibration: Calibration, costs: Sequence[Cost]) -> Estimate:
    """Runs a second of something that asks for `costs`, on all cores. Raises Refused("not_fitted") for kinds it lacks."""
    ms = milliseconds(calibration, costs)
    off = max(calibration.error[p] for p in {c.precision for c in costs} if p in calibration.error)
    likely = calibration.scaling * 1000 / ms
    return Estimate(
        likely, likely * math.exp(-off), likely * math.exp(off), "estimated", _basis(calibration, off)
    )  # fmt: skip


def by_regions(calibration: Calibration, model: bytes) -> dict[int, Estimate]:
    """Frames a second with one to four regions; child side, since it reads the file with the onnx package."""
    from edged.retrain import costs as costing

    return {n: predict(calibration, costing.of_frame(model, n)) for n in range(1, FRAME_REGIONS + 1)}


def milliseconds(calibration: Calibration, costs: Sequence[Cost]) -> float:
    """Of one core."""
    lacking = sorted({c.precision for c in costs if c.kind != "prepare"} - set(calibration.error))
    if lacking or not costs:
        what = f"{' and '.join(lacking)} layers" if lacking else "a model without layers"
        raise Refused(f"the calibration of {calibration.device} says nothing about {what}", code="not_fitted")
    return max(_time(calibration.ms, costs), 1e-6)


def ratios(board: Calibration, box: Calibration, costs: Mapping[str, Sequence[Cost]]) -> dict[str, float]:
    """How many times as long the board takes, per name of `costs` (one kind of layers each, say)."""
    return {name: milliseconds(board, asked) / milliseconds(box, asked) for name, asked in costs.items()}


def there(profile: Profile, model: bytes, here_fps: float, runtime: str, calibration: str = "") -> Estimate:
    """Frames of four regions a second on the device, for `here_fps` measured here on one core under its limits.

    `calibration` is the JSON of its Calibration, "" = none is known. With a fit of this box too (`box`), what was measured here
    is carried over by the ratio of the two fits, so that what both get wrong about a network cancels out.

    Raises Refused: "other_processor", "bad_calibration".
    """
    plain = profile.estimate(here_fps, runtime)
    if not calibration or plain.how == "measured":
        return plain
    found = decode(calibration)
    check(profile, found)
    if found.runtime != runtime:
        return _instead(plain, f"its calibration is of {found.runtime}, the re-test ran {runtime}")
    from edged.retrain import costs as costing

    try:
        asked = costing.of_frame(model, FRAME_REGIONS)
        direct = predict(found, asked)
    except Refused as e:
        return _instead(plain, f"its calibration could not be used: {e}")
    if found.box is None or found.box.runtime != runtime or found.box.processor != _this():
        return direct
    ratio = milliseconds(found, asked) / milliseconds(found.box, asked)
    likely = here_fps * found.scaling / ratio
    off = math.log(direct.upper / direct.likely)
    basis = f"{direct.basis}; carried over from {here_fps:.1f} frames/s on one core of {found.box.processor}"
    return Estimate(likely, likely * math.exp(-off), likely * math.exp(off), "estimated", basis)


def _instead(plain: Estimate, why: str) -> Estimate:
    return Estimate(plain.likely, plain.lower, plain.upper, plain.how, f"{plain.basis}; {why}")


def check(profile: Profile, calibration: Calibration) -> None:
    """Raises Refused("other_processor") unless it was made on the profile's own processor."""
    if calibration.device != profile.id:
        raise Refused(
            f"a calibration of {calibration.device}, not of {profile.id}: refused", code="other_processor"
        )  # fmt: skip
    if profile.processor and profile.processor not in calibration.processor:
        raise Refused(
            f"a calibration from another CPU: refused. It was made on {calibration.processor or 'an unnamed processor'},"
            f" {profile.id} has {profile.processor}",
            code="other_processor", hint="run `edged-agent probe` on the device itself",
        )  # fmt: skip


def nnls(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """x >= 0 that minimises |a x - b|: a [m, n], b [m] -> x [n]. Lawson & Hanson's algorithm (1974, 23.10)."""
    n = a.shape[1]
    x, free = np.zeros(n), np.zeros(n, bool)
    gradient = a.T @ b
    tolerance = 10 * np.finfo(float).eps * max(a.shape) * float(np.abs(a).sum(axis=0).max(initial=1.0))
    for _ in range(10 * n):
        if free.all() or float(gradient[~free].max()) <= tolerance:
            break
        free[int(np.argmax(np.where(free, -np.inf, gradient)))] = True
        while True:
            trial = np.zeros(n)
            trial[free] = np.linalg.lstsq(a[:, free], b, rcond=None)[0]
            negative = free & (trial <= 0)
            if not negative.any():
                break
            step = float(np.min(x[negative] / np.maximum(x[negative] - trial[negative], 1e-300)))
            x = x + step * (trial - x)
            free &= x > 1e-14 * max(1.0, float(x.max()))
            x[~free] = 0
        x = trial
        gradient = a.T @ (b - a @ x)
    return x


def _features(costs: Sequence[Cost]) -> dict[str, float]:
    found: dict[str, float] = {}
    for c in costs:
        at = f"{c.kind} {c.precision}"
        parts = [(f"{at} bytes", c.bytes / _GIGA), (f"calls {c.precision}", float(c.calls))]
        if c.macs and c.kind != "elementwise":
            parts.append((f"{at} macs", c.macs / _GIGA))
        for key, value in parts if c.kind != "prepare" else parts[::2]:
            found[key] = found.get(key, 0) + value
    return found


def _coefficients(rows: Sequence[tuple[str, tuple[Cost, ...], float]]) -> dict[str, float]:
    """A row is (name, costs, milliseconds); each is divided by its time, so that errors count as shares."""
    if not rows:
        return {}
    found = [_features(costs) for _, costs, _ in rows]
    keys = sorted({key for features in found for key in features})
    a = np.array(
        [[features.get(key, 0) / ms for key in keys] for features, (_, _, ms) in zip(found, rows, strict=True)]
    )
    size = np.maximum(np.abs(a).max(axis=0), 1e-300)
    x = nnls(a / size, np.ones(len(rows))) / size
    return dict(zip(keys, (float(v) for v in x), strict=True))


def _time(ms: Mapping[str, float], costs: Sequence[Cost]) -> float:
    return max(sum(ms.get(key, 0.0) * value for key, value in _features(costs).items()), 1e-9)


def _basis(c: Calibration, off: float) -> str:
    who = f" by {c.author}" if c.author else ""
    when = f" on {day(c.made)}" if c.made else ""
    return (
        f"predicted from the device's own calibration{who}{when}: {c.processor}, {c.runtime} {c.version}, one core x"
        f" {c.scaling:g}; off by at most {math.expm1(off):.0%} on each of {c.models} models that it was not fitted to"
    )


def _this() -> str:
    from edged.retrain import device

    return device.processor()
