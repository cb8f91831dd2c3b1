"""Joules that this machine uses over a span of time, read from its own sensors: RAPL of an x86 processor, INA3221 of a board.

Guarantees: what comes out was read from a sensor and is sane: positive, and at most 1.2 times the thermal design power
where that is known; else there is no number but a reason in words. Does not guarantee: that RAPL holds more than the
processor (it does not see disk, camera and supply), or that nothing else ran meanwhile: the sensors know no processes.

RAPL: https://docs.kernel.org/power/powercap/powercap.html (energy_uj in microjoules, wraps after max_energy_range_uj).
INA3221: milliwatts in L4T's iio files; millivolts and milliamperes in the kernel's hwmon files
(https://docs.kernel.org/hwmon/ina3221.html).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edged.clock import Clock, SystemClock

SYS = Path("/sys")
ABOVE_TDP = 1.2  # Intel lets a package exceed its thermal design power for seconds, not by more than this on average
NO_CPU_W = 1000.0  # where no design power is known: no single board or package is above this
SAMPLE_S = 0.05  # an INA averages for milliseconds; energy is the mean of many readings times the time
_RAILS = ("VDD_IN", "POM_5V_IN", "VIN_SYS_5V0")  # what L4T calls the supply of the whole board (TX2, Nano, Orin)


@dataclass(frozen=True)
class Energy:
    """One span. `joules` None = not known, and `why` says why not."""

    sensor: str
    seconds: float
    joules: float | None
    why: str = ""

    @property
    def watts(self) -> float | None:
        return None if self.joules is None or self.seconds <= 0 else self.joules / self.seconds


class Span:
    """Filled when its `with` block has ended."""

    energy: Energy | None = None


class Meter:
    """One sensor. `sensor` says which; `tdp_w` 0 = not known. Not thread-safe."""

    def __init__(self, sensor: str, read: Callable[[], _Reading], *, tdp_w: float, clock: Clock) -> None:
        self.sensor = sensor
        self._read, self._tdp_w, self._clock = read, tdp_w, clock

    @contextmanager
    def span(self) -> Iterator[Span]:
        """Measure what happens inside; nothing is raised for a sensor that fails meanwhile."""
        found = Span()
        began = self._clock.monotonic()
        reading = self._read()
        with reading.going():
            yield found
        seconds = self._clock.monotonic() - began
        joules, why = reading.end(seconds)
        found.energy = self._sane(seconds, joules, why)

    def _sane(self, seconds: float, joules: float | None, why: str) -> Energy:
        most = ABOVE_TDP * self._tdp_w or NO_CPU_W
        if joules is None or seconds <= 0:
            return Energy(self.sensor, seconds, None, why or "no time passed")
        watts = joules / seconds
        if watts <= 0:
            return Energy(self.sensor, seconds, None, f"{self.sensor} stood still for {seconds:.1f} s")
        if watts > most:
            limit = f"1.2 times the design power of {self._tdp_w:g} W" if self._tdp_w else f"{NO_CPU_W:g} W"
            return Energy(
                self.sensor, seconds, None, f"{self.sensor} said {watts:.1f} W, more than {limit}: not believed"
            )
        return Energy(self.sensor, seconds, joules)


class Watts:
    """Mean watts since the last call, over and over; None where there is no sane sensor. Close it at the end."""

    def __init__(self, meter: Meter | None) -> None:
        self._meter = meter
        self._open = ExitStack()
        self._span: Span | None = None

    def since_last(self) -> float | None:
        """None the first time."""
        self.close()
        watts = self._span.energy.watts if self._span is not None and self._span.energy is not None else None
        if self._meter is not None:
            self._span = self._open.enter_context(self._meter.span())
        return None if watts is None else round(watts, 3)

    def close(self) -> None:
        self._open.close()


def find(
    *, tdp_w: float = 0.0, sys: Path = SYS, clock: Clock | None = None, every_s: float = SAMPLE_S
) -> tuple[Meter | None, str]:
    """The best sensor of this machine and "", or None and why there is none. A board's own comes before the processor's.
    `every_s`: how often a rail is looked at during a span.
    """
    clock = clock or SystemClock()
    reasons: list[str] = []
    for look in (partial(_ina, every_s=every_s), _rapl):
        name, read, why = look(sys)
        if read is not None:
            return Meter(name, read, tdp_w=tdp_w, clock=clock), ""
        reasons.append(why)
    return None, "; ".join(reasons)


class _Reading:
    """One span of one sensor: `going` while it lasts, `end` -> joules or None and why."""

    @contextmanager
    def going(self) -> Iterator[None]:
        yield

    def end(self, seconds: float) -> tuple[float | None, str]:
        raise NotImplementedError


class _Counters(_Reading):
    """RAPL packages: counters of microjoules that wrap around."""

    def __init__(self, packages: tuple[Path, ...]) -> None:
        self._packages = packages
        self._began = [_integer(p / "energy_uj") for p in packages]

    def end(self, seconds: float) -> tuple[float | None, str]:
        total = 0
        for package, before in zip(self._packages, self._began, strict=True):
            after, size = _integer(package / "energy_uj"), _integer(package / "max_energy_range_uj")
            if before is None or after is None:
                return None, f"RAPL: {package.name} could not be read"
            if after < before:
                if not size or before > size:
                    return None, f"RAPL: {package.name} went back from {before} to {after}"
                after += size + 1
            total += after - before
        return total / 1e6, ""


class _Samples(_Reading):
    """Milliwatts of a rail, read over and over while the span lasts."""

    def __init__(self, milliwatts: Callable[[], float | None], every_s: float) -> None:
        self._milliwatts, self._every_s = milliwatts, every_s
        self._seen: list[float | None] = [milliwatts()]
        self._stop = threading.Event()

    @contextmanager
    def going(self) -> Iterator[None]:
        thread = threading.Thread(target=self._sample, name="power", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(self._every_s):
            self._seen.append(self._milliwatts())

    def end(self, seconds: float) -> tuple[float | None, str]:
        values = [v for v in (*self._seen, self._milliwatts()) if v is not None]
        if len(values) < len(self._seen) + 1:
            return None, "the rail could not be read all the time"
        return sum(values) / len(values) / 1000 * seconds, ""


_Found = tuple[str, Callable[[], _Reading] | None, str]


def _rapl(sys: Path) -> _Found:
    zones = sorted(sys.glob("class/powercap/intel-rapl:*"))
    packages = tuple(z for z in zones if z.name.count(":") == 1 and _text(z / "name").startswith("package"))
    if not packages:
        return "", None, "no RAPL"
    for package in packages:
        if _integer(package / "energy_uj") is None:
            return "", None, f"RAPL: {package.name}/energy_uj cannot be read (only root may, since kernel 5.10)"
    return "RAPL " + "+".join(_text(p / "name") for p in packages), partial(_Counters, packages), ""


def _ina(sys: Path, every_s: float) -> _Found:
    for name in sorted(sys.glob("bus/i2c/drivers/ina3221x/*/iio*/rail_name_*")):
        if _text(name) in _RAILS:
            watts = name.with_name(f"in_power{name.name.removeprefix('rail_name_')}_input")
            if _integer(watts) is not None:
                return f"INA3221 {_text(name)}", partial(_Samples, partial(_number, watts), every_s), ""
    for label in sorted(sys.glob("bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in*_label")):
        if _text(label) in _RAILS:
            n = label.name.removeprefix("in").removesuffix("_label")
            volts, amperes = label.with_name(f"in{n}_input"), label.with_name(f"curr{n}_input")
            if _integer(volts) is not None and _integer(amperes) is not None:
                return f"INA3221 {_text(label)}", partial(_Samples, partial(_product, volts, amperes), every_s), ""
    return "", None, "no INA3221 with a rail of the whole board"


def _product(volts: Path, amperes: Path) -> float | None:
    v, a = _integer(volts), _integer(amperes)
    return None if v is None or a is None else v * a / 1000


def _number(path: Path) -> float | None:
    return _integer(path)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _integer(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
