"""`python -m bench.drift --data DIR [--out FOLDER] [--seeds N]`: how often the watch for drift is wrong, and how late it is.

Streams of real pictures with a small network's real answers, in the order of time; what is random is seeded. Steady streams
give the false alarms: looks below the line, alarms, and camera-days with an alarm, with Wilson's 95 % intervals. Drifting ones
give the delay in samples from the drift's onset to the alarm, "-" where none came. The control counts samples as if they
were independent (KS with the asymptotic p-value, same line, every block): it must raise alarms on steady days, else the streams
are too easy to show anything.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.drifting import answers as a
from bench.drifting import plot
from bench.drifting.answers import Answers
from bench.drifting.streams import Stream, joined, replayed, shifted
from bench.drifting.tell import Told, markdown, run
from bench.machine import describe
from edged.clock import cpu_seconds

CONDITIONS = {
    "gain 0.8": a.gain(0.8), "gain 0.6": a.gain(0.6), "gain 0.4": a.gain(0.4), "gamma 1.8": a.gamma(1.8),
    "blur 1.5 px": a.blur(1.5), "blur 2.5 px": a.blur(2.5), "noise 25": a.noise(25),
}  # fmt: skip
WEATHER = {"gain 0.9": a.gain(0.9), "gain 1.1": a.gain(1.1), "gamma 0.9": a.gamma(0.9), "gamma 1.1": a.gamma(1.1)}
DAYS, AFTER = 8, 2  # replayed days before and after the onset


def car_parks(data: Path, scratch: Path, seeds: Sequence[int]) -> list[Stream]:
    """A network taught on every second parking space of camera A sees the others."""
    crops = a.cnrpark(data, "A", 64)
    spaces = np.unique(crops.group)
    taught = np.isin(crops.group, spaces[::2])
    net = a.Network(crops.take(taught), 2, "mobilenet-0.25", 10, scratch)
    rest = crops.take(~taught)
    own = net.answers(rest)
    other, lot = net.answers(a.cnrpark(data, "B", 64)), net.answers(a.pklot(data, 64))
    under = {name: net.answers(rest, change) for name, change in CONDITIONS.items()}
    weather = [own, *(net.answers(rest, change) for change in WEATHER.values())]
    streams = [
        Stream("car park A, its one real day", own, None),
        Stream("A (one day), then B", joined(own, other), len(own)),
    ]
    for seed in seeds:
        dice = np.random.default_rng([seed, 1])
        days = replayed([own], rest.group, DAYS, dice)
        far = DAYS + 3
        streams += [
            Stream("car park A, replayed days", replayed([own], rest.group, DAYS + AFTER, dice), None),
            Stream("car park A, days of unlike light (+-10 %)", replayed(weather, rest.group, DAYS + AFTER, dice), None),
            Stream("A, then camera B", joined(days, shifted(other, far)), len(days)),
            Stream("A, then another car park (PKLot)", joined(days, shifted(lot, far), shifted(lot, far + 1)), len(days)),
        ]  # fmt: skip
        for name, changed in under.items():
            later = shifted(replayed([changed], rest.group, AFTER, dice), DAYS)
            streams.append(Stream(f"A, then {name}", joined(days, later), len(days)))
        dusk = [replayed([under[n]], rest.group, 1, dice) for n in ("gain 0.8", "gain 0.6", "gain 0.4")]
        ramp = joined(days, *(shifted(d, DAYS + i) for i, d in enumerate(dusk)))
        streams.append(Stream("A, darker day by day (gain 0.8, 0.6, 0.4)", ramp, len(days)))
    return streams


def clothes(data: Path, scratch: Path, seeds: Sequence[int]) -> list[Stream]:
    """Fashion-MNIST in no order: independent samples, no days."""
    net = a.Network(a.fashion(data, "train", 0, 10_000), 10, "lenet-5", 8, scratch)
    crops = a.fashion(data, "train", 10_000, 60_000)
    plain = net.answers(crops)
    under = {
        name: net.answers(crops.take(np.arange(10_000)), CONDITIONS[name])
        for name in ("gain 0.8", "gain 0.6", "noise 25")
    }  # fmt: skip
    under["blur 1 px"] = net.answers(crops.take(np.arange(10_000)), a.blur(1.0))
    streams = []
    for seed in seeds:
        dice = np.random.default_rng([seed, 2])
        order = 10_000 + dice.permutation(40_000)
        steady, before = plain.take(order[:16_000]), plain.take(order[16_000:26_000])
        streams.append(Stream("Fashion-MNIST", _timed(steady), None))
        late = order[26_000:]
        mixed = late[(crops.labels[late] < 5) | (dice.random(len(late)) < 0.25)][:6000]
        streams.append(
            Stream("Fashion-MNIST, then another class mix", _timed(joined(before, plain.take(mixed))), 10_000)
        )
        for name, changed in under.items():
            some = changed.take(dice.permutation(10_000)[:6000])
            streams.append(Stream(f"Fashion-MNIST, then {name}", _timed(joined(before, some)), 10_000))
    return streams


def street(scratch: Path) -> list[Stream]:
    """The generated street by day, then by night, and with the night known."""
    net = a.Network(a.street(64, "day", 150, 3), 4, "mobilenet-0.25", 6, scratch)
    day, night = (net.answers(a.street(64, phase, 500, 7)) for phase in ("day", "night"))
    return [
        Stream("street by day", day, None),
        Stream("street, its first night", _timed(joined(day, night)), len(day)),
    ]


def _timed(x: Answers) -> Answers:
    """One every twenty seconds."""
    return Answers(x.predicted, x.margin, x.features, x.right, np.arange(len(x)) * 20.0)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.drift", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--window", type=int, nargs="+", default=[200, 500])
    parser.add_argument("--alert-p", type=float, default=0.001)
    options = parser.parse_args(arguments)
    seeds, machine = range(1, options.seeds + 1), describe()
    with TemporaryDirectory() as scratch:
        streams = [
            *car_parks(options.data, Path(scratch), seeds), *clothes(options.data, Path(scratch), seeds),
            *street(Path(scratch)),
        ]  # fmt: skip
    told: list[Told] = []
    for window in options.window:
        began = cpu_seconds()
        told += [run(s, window, options.alert_p) for s in streams]
        samples = sum(len(s.answers) for s in streams)
        print(f"window {window}: {samples} samples in {cpu_seconds() - began:.1f} CPU seconds", flush=True)
    text = markdown(told, options.alert_p, options.seeds)
    print(text)
    name = f"{machine['date']}-drift"
    options.out.mkdir(exist_ok=True)
    document = {"bench": "drift", "machine": machine, "seeds": list(seeds), "streams": [t.document() for t in told]}
    (options.out / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.out / f"{name}.md").write_text(text)
    (options.out / f"{name}.svg").write_text(plot.draw(told))
    control = sum(t.naive_below for t in told if t.onset is None)
    print(f"control: the rule that counts samples raised {control} alarms on steady streams")
    return 0 if control else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
