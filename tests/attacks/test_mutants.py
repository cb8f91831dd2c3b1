"""Signed metadata changed anywhere, in any manner: taken only as it was signed, or refused; never anything else."""

import json
import random
from collections import Counter

import pytest
from tuf.api.metadata import Root

from agent.metadata import Inbox, Trust
from edged.errors import Refused, Unavailable
from edged.publish import trust
from tests.agent.conftest import FakeClock

SEED, MUTANTS = 20261122, 400
NUMBERS = (b"0", b"-1", b"1e999", b"99999999999999999999", b"null", b'"x"', b"[]", b"true")


def mutant(data: bytes, rng: random.Random) -> bytes:
    """`data` with one thing changed."""
    i, j = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    match rng.randrange(7):
        case 0:
            i = rng.randrange(len(data))
            return data[:i] + bytes([data[i] ^ (1 << rng.randrange(8))]) + data[i + 1 :]
        case 1:
            return data[:i] + data[j:]
        case 2:
            return data[:j] + data[i:]
        case 3:
            return data[:i]
        case 4:
            return data[:i] + rng.randbytes(rng.randrange(1, 9)) + data[i:]
        case 5:  # a number or a text becomes another
            words = [k for k in range(1, len(data)) if data[k - 1 : k] == b":" and data[k : k + 1] not in b"{["]
            k = rng.choice(words)
            end = min(n for n in (data.find(c, k + 1) for c in (b",", b"}", b"]")) if n > 0)
            return data[:k] + rng.choice(NUMBERS) + data[end:]
        case _:
            return data[:i] + b"[" * rng.randrange(1, 50_000) + data[i:]


@pytest.mark.parametrize("broken", [False, True], ids=["", "control: nobody looks at signatures"])
def test_no_mutant_of_signed_metadata_is_anything_but_taken_as_signed_or_refused(tmp_path, capsys, monkeypatch, broken):
    clock = FakeClock()
    trust.make_keys(tmp_path / "keys")
    repo = trust.Repository(tmp_path / "tuf", tmp_path / "keys", clock)
    repo.init()
    repo.add_target("cars/1.onnx", b"model", {"release": 1, "name": "cars"})
    repo.renew_root()
    files, root = repo.files(), (tmp_path / "tuf" / "1.root.json").read_bytes()
    signed = {name.split(".")[-2]: json.loads(data)["signed"] for name, data in files.items() if name != "1.root.json"}
    if broken:
        monkeypatch.setattr(Root, "verify_delegate", lambda *_: None)
    rng, ends, changed = random.Random(SEED), Counter(), 0
    for n in range(MUTANTS):
        name = rng.choice(sorted(set(files) - {"1.root.json"}))
        inbox, side = Inbox(), Trust(tmp_path / "camera" / str(n), root, clock.now)
        for other, data in files.items():
            inbox.put(other, mutant(data, rng) if other == name else data)
        try:
            assert side.verify(inbox, "cars/1.onnx").target.length == 5
        except (Refused, Unavailable) as e:
            ends[e.code] += 1
            continue
        ends["taken"] += 1
        here = {role: json.loads((side.folder / f"{role}.json").read_bytes())["signed"] for role in signed}
        changed += any(here[role] != signed[role] for role in here if role != "root")
        changed += here["root"]["version"] == 2 and here["root"] != signed["root"]
    with capsys.disabled():
        refused, taken = MUTANTS - ends["taken"], ends["taken"]
        print(f"\nmutants of signed metadata: seed {SEED}, {refused} refused, {taken} taken, ", end="")
        print(f"{changed} taken that were not signed so")
    assert ends["untrusted"] > MUTANTS / 2 or broken
    assert (changed > 0) == broken
