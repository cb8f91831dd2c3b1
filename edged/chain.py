"""A chain of compression steps, as it is written in config.toml, on the command line and in a candidate's recipe. Pure, light.

    "none"    "int8"    "channels=0.4 int8"    "prune=0.92 share=16"

| step       | amount                                             | works on       | what it does                          |
| ---------- | -------------------------------------------------- | -------------- | ------------------------------------- |
| `lowrank`  | share of the multiply-adds that is kept, 0..1      | the network    | layers factored into two thinner ones |
| `channels` | share of the channels that goes, 0..0.95           | the network    | narrower layers, really smaller       |
| `prune`    | share of the weights that become zero, 0..0.999    | the network    | zeros, for the packed form            |
| `rate`     | weight of a file's size in the loss, 0..1          | the network    | zeros, few values: a small packed form  |
| `share`    | distinct values of a layer's weights, 2..256       | the network    | a codebook, for the packed form       |
| `qat`      | -                                                  | the network    | int8, weights retrained for it        |
| `int8`     | -                                                  | the ONNX file  | int8, calibrated, with accuracy control |
| `tune`     | -                                                  | the ONNX file  | convolutions the fastest way on the device |

Guarantees: a chain that parses has known steps with amounts in range, in the order of the table, each once, and one way to
int8 at most. `text` of a chain parses to the same chain.
"""

from __future__ import annotations

from msgspec import Struct

from edged.errors import Refused

# step -> (least, most, usual) amount; None = it takes none.
AMOUNTS: dict[str, tuple[float, float, float] | None] = {
    "lowrank": (0.05, 1, 0.5), "channels": (0, 0.95, 0.5), "prune": (0, 0.999, 0.9), "rate": (0, 1, 0.1),
    "share": (2, 256, 32), "qat": None, "int8": None, "tune": None,
}  # fmt: skip
STEPS = tuple(AMOUNTS)
OF_FILES = ("int8", "tune")  # need no weights that can be trained
TO_INT8 = ("qat", "int8")
NONE = "none"


class Step(Struct, frozen=True):
    """One step; `amount` 0 where it takes none."""

    name: str
    amount: float = 0.0

    def __str__(self) -> str:
        return self.name if AMOUNTS[self.name] is None else f"{self.name}={self.amount:g}"


Chain = tuple[Step, ...]


def parse(text: str) -> Chain:
    """A chain from its text; () from "none". Raises Refused (code bad_chain) with the word at fault."""
    words = text.split()
    if words == [NONE]:
        return ()
    if NONE in words:
        raise _bad(f"`{NONE}` stands alone", text)
    chain = tuple(_step(word) for word in words)
    names = [step.name for step in chain]
    if not names:
        raise _bad("no step is named", text)
    if len(set(names)) < len(names):
        raise _bad("a step stands there twice", text)
    if names != [name for name in STEPS if name in names]:
        raise _bad(f"steps go in this order: {', '.join(STEPS)}", text)
    if set(TO_INT8) <= set(names):
        raise _bad("`qat` makes int8 already", text)
    return chain


def text(chain: Chain) -> str:
    return " ".join(map(str, chain)) or NONE


def trains(chain: Chain) -> bool:
    """Whether it needs weights that can be trained, not only a file."""
    return any(step.name not in OF_FILES for step in chain)


def to_int8(chain: Chain) -> bool:
    return any(step.name in TO_INT8 for step in chain)


def _step(word: str) -> Step:
    name, equals, amount = word.partition("=")
    if name not in AMOUNTS:
        raise _bad(f"no compression step is called {name[:40]!r}; known: {NONE}, {', '.join(STEPS)}", word)
    limits = AMOUNTS[name]
    if limits is None:
        if equals:
            raise _bad(f"`{name}` takes no amount", word)
        return Step(name)
    least, most, usual = limits
    try:
        value = float(amount) if equals else usual
    except ValueError:
        raise _bad(f"{amount[:40]!r} is not a number", word) from None
    if not least <= value <= most or (name == "share" and value != int(value)):
        raise _bad(f"the amount of `{name}` is {least:g} to {most:g}", word)
    return Step(name, value)


def _bad(what: str, where: str) -> Refused:
    return Refused(f"{where[:80]!r}: {what}", code="bad_chain")
