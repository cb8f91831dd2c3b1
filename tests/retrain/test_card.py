"""Model cards: made of rows alone, the same each time, and readable."""

import json
import subprocess
import sys

import pytest

from edged.clock import iso
from edged.errors import Refused
from edged.retrain import card, report
from edged.storage import brought, candidates, cycles, models, reports, verdicts

ARCH = {"name": "mobilenet-0.25", "input_px": 64}
NUMBER = {"value": 31.4, "how": "estimated", "basis": "a factor"}


@pytest.fixture
def store(site):
    with site.fill(10).open() as opened:
        yield opened


@pytest.fixture
def made(store, site):
    """A candidate of these bytes, started from those weights."""

    def one(data, *, weights, start="", name="mobilenet-0.25-int8", steps=("int8",), epochs=9):
        cycle = cycles.start(store, "a test")
        recipe = {"arch": ARCH, "weights": weights, "seed": 4, "epochs": epochs, "start": start, "steps": list(steps)}
        sha = models.put_model(store, data)
        made = candidates.add(
            store, cycle, name=name, sha256=sha, size=len(data), snapshot=site.snapshot, recipe=recipe, parent=start
        )
        cycles.finish(store, cycle, "refused", "")
        return candidates.get(store, made)

    return one


def judge(store, candidate):
    body = {
        "device": "atom-x5-e3940", "sha256": candidate.sha256, "size": 4, "runtime": "openvino", "classes": ["disc", "box"],
        "n": 8, "skipped": 0, "accuracy": report.share(7, 8), "per_class": {"disc": report.share(4, 4)},
        "per_camera": {"gate": report.share(3, 4)}, "confusion": [[4, 0], [1, 3]], "latency_ms_p50": NUMBER,
        "latency_ms_p95": NUMBER, "stages_ms": {}, "fps_here": NUMBER, "fps_device": NUMBER, "memory_bytes": NUMBER,
        "power_w": None, "covered": [], "not_covered": [],
    }  # fmt: skip
    row = reports.add(store, candidate.id, "atom-x5-e3940", body)
    verdicts.add(store, candidate.id, row, False, ["refused for lack of evidence: 8 of 50 samples"])


def test_a_card_says_what_the_model_was_made_of_and_what_it_does(store, site, made):
    candidate = made(b"int8", weights="w" * 64)
    judge(store, candidate)
    found = card.of(store, candidate.sha256[:8])
    assert (found.seed, found.epochs, found.start, found.snapshot) == (4, 9, "", site.snapshot)
    assert (found.parameters, found.multiply_adds) == (213_586, 3_329_024)
    assert found.data["train"].n == sum(found.data["train"].classes.values())
    assert found.data["train"].cameras == {"gate": 12, "yard": 12}
    assert (found.accuracy.right, found.accuracy.n) == (7, 8)
    assert found.accuracy.lower < 7 / 8 < found.accuracy.upper
    told = card.text(found)
    assert "| all | 7 of 8 | 87.5% | 52.9% to 97.8% |" in told
    assert "31 frames/s on atom-x5-e3940 (estimated)" in told
    assert "gate 12, yard 12" in told
    assert "refused for lack of evidence" in told


def test_a_card_is_the_same_each_time_and_reads_back(store, made):
    candidate = made(b"int8", weights="w" * 64)
    found = card.of_candidate(store, candidate)
    assert card.to_json(found) == card.to_json(card.of(store, candidate.name))
    assert card.from_json(card.to_json(found)) == found
    with pytest.raises(Refused, match="not a model card"):
        card.from_json(b'{"sha256": 3}')


def test_no_card_names_a_picture(store, made):
    found = card.to_json(card.of_candidate(store, made(b"int8", weights="w" * 64)))
    assert b"gate:b-" not in found
    assert b'"gate"' in found


def test_lineage_goes_back_to_the_model_that_was_brought_here(store, made):
    sha, weights = models.put_model(store, b"from a server"), models.put_model(store, b"w0", ".safetensors")
    brought.add(store, "candidate", sha256=sha, name="server", classes=("disc", "box"), px=64, author="ann",
                weights=weights)  # fmt: skip
    first = made(b"float 1", weights="1" * 64, start=weights, steps=())
    second = made(b"float 2", weights="2" * 64, start="1" * 64, steps=())
    third = made(b"int8 3", weights="3" * 64, start="2" * 64)
    found = card.of_candidate(store, third).lineage
    assert [a.sha256 for a in found] == [second.sha256, first.sha256, sha]
    assert [a.how for a in found] == [f"cycle {second.cycle}", f"cycle {first.cycle}", "brought by ann"]


def test_a_ring_of_ancestors_ends(store, made):
    """Rows that name each other, as only damage or a hand could leave them."""
    made(b"a", weights="a" * 64, start="b" * 64)
    b = made(b"b", weights="b" * 64, start="a" * 64)
    assert len(card.of_candidate(store, b).lineage) <= 2


def test_a_model_from_outside_has_a_card_that_says_it_was_not_checked(store):
    sha = models.put_model(store, b"foreign")
    brought.add(store, "teacher", sha256=sha, name="big", classes=("a", "b"), px=96, author="ann",
                card={"licence": "CC0-1.0", "tune_accuracy": 0.99, "<script>": "*bold*"})  # fmt: skip
    found = card.of(store, "big")
    assert found.licence == "CC0-1.0"
    assert found.accuracy is None  # what it claims is no measurement of ours
    told = card.text(found)
    assert "was not checked" in told
    assert "tune\\_accuracy: 0.99" in told
    assert "<script>" not in told.replace("\\<", "")
    assert json.loads(card.to_json(found))["claimed"]["tune_accuracy"] == 0.99


def server(store, data, **more):
    given = {"name": "server", "classes": ("disc", "box"), "px": 64, "author": "ann"} | more
    return brought.add(store, "candidate", sha256=models.put_model(store, data),
                       card={"epochs": 20, "snapshot": "5" * 64, "tune_accuracy": 0.9}, **given)  # fmt: skip


def test_a_model_from_outside_that_was_tested_here_keeps_its_origin(store, made):
    """Its row as a candidate says zero epochs: it was not trained here."""
    server(store, b"net")
    candidate = made(b"net", weights="", steps=(), epochs=0, name="mobilenet-0.25")
    judge(store, candidate)
    for word in (candidate.sha256[:8], "server", str(candidate.id)):
        found = card.of(store, word)
        assert found.origin == (
            f"model brought here by ann; what came with it was not checked; tested here in cycle {candidate.cycle}"
        )
        assert (found.claimed["epochs"], found.claimed["snapshot"], found.snapshot) == (20, "5" * 64, "")
        assert (found.accuracy.right, found.passed, found.epochs, found.data) == (7, False, None, {})
        (measured,) = reports.of(store, candidate.id)
        assert found.tested == iso(measured.created)
    store.execute("update brought set created = created + 86400")  # it was brought once more, the day after
    again = card.of(store, "server")
    assert (again.tested, again.made != found.made) == (found.tested, True)
    assert f"tested here in cycle {candidate.cycle}, {found.tested}." in card.text(again)
    told = card.text(found)
    assert "from scratch" not in told
    assert "of this site only" not in told
    assert "epochs: 20" in told


def test_what_was_compressed_of_a_model_from_outside_names_it(store, made):
    weights = models.put_model(store, b"w", ".safetensors")
    other = server(store, b"net", weights=weights)
    candidate = made(b"net int8", weights=weights, epochs=0)
    found = card.of(store, candidate.sha256)
    assert found.origin.endswith(f"compressed here in cycle {candidate.cycle}")
    assert ([a.sha256 for a in found.lineage], found.steps) == ([other.sha256], ("int8",))
    assert (found.claimed["epochs"], "from scratch" in card.text(found)) == (20, False)


def test_a_model_made_here_that_is_tested_or_brought_again_keeps_its_lineage(store, site, made):
    first = made(b"own", weights="w" * 64)
    again = made(b"own", weights="w" * 64, epochs=0)
    judge(store, again)
    found = card.of(store, str(again.id))
    assert found.origin == f"made here in cycle {first.cycle}; tested here in cycle {again.cycle}"
    assert (found.epochs, found.snapshot, found.accuracy.right) == (9, site.snapshot, 7)
    server(store, b"own", name="own again")
    found = card.of(store, "own again")
    assert (found.epochs, found.snapshot, found.claimed) == (9, site.snapshot, {})


def test_a_share_of_nothing_is_no_percentage(store, made):
    candidate = made(b"int8", weights="w" * 64)
    judge(store, candidate)
    none = report.Share(0, 0, 0.0, 0.0, 1.0)
    found = card.msgspec.structs.replace(card.of_candidate(store, candidate), accuracy=none)
    assert "| all | 0 of 0 | - | - |" in card.text(found)


def test_a_name_cannot_break_out_of_its_line():
    assert card.plain("a\nb\x1b[0m|`") == "a?b?\\[0m\\|\\`"


def test_what_no_model_is_called_is_not_found(store):
    with pytest.raises(Refused, match="no model is called") as e:
        card.of(store, "nobody")
    assert e.value.exit_code == 4


def test_making_a_card_loads_no_torch():
    code = "import sys, edged.retrain.card; sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
