"""Memory and time told before training: against what was measured, and in the words a person gets."""

import json
import os
import resource
import subprocess
import sys

import pytest

from edged.errors import Refused
from edged.retrain import fits, nets, tables

GB = 10**9

# Steps of full training in a process of their own, two classes, AdamW, one thread: peak MB and CPU seconds of the
# fastest step, by bench.fits on an AMD EPYC with AVX-512, torch 2.13.
STEPS = [
    ("lenet-300-100", 28, 32, 332, 0.0034),
    ("lenet-5", 32, 32, 335, 0.0053),
    ("mobilenet-0.25", 64, 32, 383, 0.0336),
    ("mobilenet-0.25", 96, 32, 462, 0.0604),
    ("mobilenet-0.25", 224, 32, 988, 0.2584),
    ("mobilenet-0.5", 64, 32, 425, 0.0644),
    ("mobilenet-0.5", 96, 32, 518, 0.1188),
    ("mobilenet-0.5", 224, 32, 1351, 0.6669),
    ("mobilenet-1.0", 64, 32, 539, 0.1692),
    ("mobilenet-1.0", 96, 32, 770, 0.3545),
    ("mobilenet-1.0", 224, 16, 1290, 0.9878),
    ("squeezenet-1.1", 64, 32, 394, 0.0651),
    ("squeezenet-1.1", 96, 32, 458, 0.1548),
    ("squeezenet-1.1", 224, 32, 1011, 1.0715),
    ("alexnet", 64, 32, 824, 0.3163),
    ("alexnet", 96, 32, 889, 0.4195),
    ("alexnet", 224, 32, 1734, 1.7830),
    ("vgg-16", 32, 32, 1123, 0.9455),
    ("vgg-16", 64, 32, 1361, 2.7387),
    ("vgg-16", 96, 16, 1509, 3.3045),
    ("mobilenet-0.25", 64, 128, 548, 0.1062),
    ("mobilenet-0.5", 224, 8, 607, 0.1694),
    ("lenet-5", 32, 256, 356, 0.0289),
]

# Whole stages `train` on 200 pictures, two epochs of six steps: peak MB.
STAGES = [
    ("lenet-5", 32, 32, 488),
    ("mobilenet-0.25", 64, 32, 504),
    ("mobilenet-1.0", 96, 32, 875),
    ("squeezenet-1.1", 96, 32, 546),
    ("alexnet", 64, 32, 1496),
    ("mobilenet-0.5", 224, 32, 1497),
    ("alexnet", 224, 32, 3617),
    ("vgg-16", 64, 16, 2821),
]


@pytest.mark.parametrize(("name", "px", "batch", "peak", "cpu"), STEPS)
def test_a_step_is_foretold_within_thirty_per_cent_and_hardly_ever_too_low(name, px, batch, peak, cpu):
    told, seconds = fits.step(name, px, 2, batch=batch)
    assert 0.9 <= told / 1e6 / peak <= 1.3
    assert 0.5 <= seconds / cpu <= 1.5


@pytest.mark.parametrize(("name", "px", "batch", "peak"), STAGES)
def test_a_whole_stage_is_foretold_within_thirty_per_cent_and_hardly_ever_too_low(name, px, batch, peak):
    found = fits.estimate(name, px, 2, "scratch", batch=batch, pictures=200)
    assert 0.9 <= found.peak_bytes / 1e6 / peak <= 1.3
    assert found.how == "estimated"
    assert sum(size for _, size in found.parts) == found.peak_bytes


def test_the_comparison_would_notice_what_was_forgotten():
    """The control: weights without optimiser, or no activations, would be far too low for some network."""
    ratios = []
    for name, px, batch, peak, _ in STEPS:
        rows = nets.layers(name, 2, px)
        ratios.append((335e6 + 4 * tables.parameters(rows) + 4 * batch * tables.activations(rows)) / 1e6 / peak)
    assert min(ratios) < 0.75


# Maps all of torch's library, as a page cache of large folios does by and by.
RESIDENT = """
import importlib.util, mmap, pathlib, sys
where = pathlib.Path(importlib.util.find_spec("torch").origin).parent / "lib/libtorch_cpu.so"
with where.open("rb") as file:
    held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
assert sum(held[::4096]) > 0
from bench import fits
sys.exit(fits.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("program", [("-m", "bench.fits"), ("-c", RESIDENT)], ids=["as-it-is", "library-resident"])
def test_a_real_step_in_a_child_peaks_about_where_it_was_foretold(program):
    """Whatever of torch's file the page cache leaves mapped, and however large the process that starts the child."""
    env = dict(os.environ, OMP_NUM_THREADS="1")
    argv = [sys.executable, *program, "--step", "mobilenet-0.25", "64", "32"]
    held = bytes(range(256)) * (3 << 20)  # 768 MiB here
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
    assert len(held) == 768 << 20
    measured = json.loads(done.stdout.splitlines()[-1])
    told, _ = fits.step("mobilenet-0.25", 64, 2)
    assert 0.85 <= (told - fits.LIBRARIES) / measured["own_bytes"] <= 1.4


@pytest.mark.parametrize("rung", fits.RUNGS)
def test_more_of_anything_never_costs_less(rung):
    def cost(name="mobilenet-0.5", px=96, batch=32, pictures=2000):
        found = fits.estimate(name, px, 2, rung, batch=batch, pictures=pictures)
        return found.peak_bytes, found.cpu_seconds

    for more in ({"name": "mobilenet-1.0"}, {"px": 128}, {"pictures": 6000}):
        assert all(a >= b for a, b in zip(cost(**more), cost(), strict=True)), more
    assert cost(batch=64)[0] >= cost()[0]


def test_cheaper_rungs_are_cheaper():
    by = {f.rung: f for f in fits.table(96, names=["mobilenet-1.0"])}
    assert by["head"].cpu_seconds < by["tail"].cpu_seconds < by["all"].cpu_seconds < by["scratch"].cpu_seconds
    assert by["head"].peak_bytes < by["tail"].peak_bytes < by["all"].peak_bytes


def test_a_slower_machine_needs_longer_and_no_more_memory():
    fast, slow = (fits.estimate("lenet-5", 32, 2, "all", speed=fits.Speed(f, "")) for f in (1.0, 0.1))
    assert slow.cpu_seconds == pytest.approx(10 * fast.cpu_seconds, rel=0.02)
    assert slow.peak_bytes == fast.peak_bytes
    assert fits.measure_speed().factor > 0


def test_all_of_vgg_16_in_4_gb_is_refused_in_words_and_a_server_is_offered():
    with pytest.raises(Refused, match=r"vgg-16 at 224 px, every layer, .* does not fit into 4.0 GB") as e:
        fits.require("vgg-16", 224, 2, "scratch", batch=32, pictures=2000, memory_bytes=4 * GB)
    assert e.value.code == "too_large"
    assert "(estimated)" in str(e.value)
    assert "the last layer alone needs about 4.8 GB" in e.value.hint
    assert "; at 192 px it would fit: about 3.9 GB" in e.value.hint
    assert "edged train" in e.value.hint
    assert "edged model import" in e.value.hint


def test_where_nothing_of_a_network_fits_no_smaller_side_is_promised():
    said = fits.advise("vgg-16", 224, 2, memory_bytes=GB // 2)
    assert not any("would" in line for line in said)
    assert "edged train" in said[-1]


def test_a_training_that_cannot_fit_is_refused_before_it_starts(filled, tmp_path, monkeypatch):
    from edged.retrain import jobs, train, zoo

    monkeypatch.setattr(fits, "box_memory", lambda: 2 * GB)
    monkeypatch.setattr(zoo, "build", None)  # nothing is built
    job = jobs.check("train", filled.job(arch={"name": "vgg-16", "input_px": 224}))
    with pytest.raises(Refused, match=r"vgg-16 at 224 px, .* does not fit into 2.0 GB") as e:
        train.run(job, tmp_path, clock=filled.clock, progress=lambda _: None)
    assert "edged model import" in e.value.hint


def test_the_last_layer_alone_is_offered_where_that_fits():
    said = fits.advise("mobilenet-1.0", 224, 2, memory_bytes=int(1.5 * GB))
    assert "does not fit into 1.5 GB" in said[0]
    assert said[1].startswith("the last layer alone would")
    assert any(line.startswith("128 px would") for line in said)


def test_what_fits_is_not_refused():
    found = fits.require("mobilenet-0.25", 64, 2, "scratch", batch=32, pictures=2000, memory_bytes=int(1.5 * GB))
    assert found.within(int(1.5 * GB)) == "yes"
    assert "it fits" in fits.advise("mobilenet-0.25", 64, 2, memory_bytes=int(1.5 * GB))[0]


def test_between_yes_and_no_it_says_perhaps_and_does_not_refuse():
    peak = fits.estimate("mobilenet-1.0", 96, 2, "scratch").peak_bytes
    assert fits.estimate("mobilenet-1.0", 96, 2, "scratch").within(int(peak * 0.9)) == "perhaps"
    assert fits.estimate("mobilenet-1.0", 96, 2, "scratch").within(int(peak * 0.7)) == "no"
    fits.require("mobilenet-1.0", 96, 2, "scratch", batch=32, pictures=2000, memory_bytes=int(peak * 0.9))
    assert "may not fit" in fits.advise("mobilenet-1.0", 96, 2, memory_bytes=int(peak * 0.9))[0]


def test_the_table_has_every_network_and_norms_only_where_there_are_any():
    rows = fits.table(64)
    assert {r.name for r in rows} == set(nets.LISTED)
    assert {r.name for r in rows if r.rung == "norms"} == {n for n in nets.LISTED if n.startswith("mobilenet")}
    assert {r.px for r in fits.table(224)} == {64, 224}  # LeNets take 64 at most


def test_alexnet_is_told_to_be_slow_without_avx():
    assert any("reference kernel" in line for line in fits.advise("alexnet", 64, 2, memory_bytes=8 * GB))
    assert fits.notes("mobilenet-1.0") == ()


def test_the_box_has_no_more_than_its_limits_leave(tmp_path):
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_DATA, (10**9, 10**9)); "
        "from edged.retrain import fits; import sys; sys.exit(fits.box_memory() != 10**9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert fits.box_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] != 10**9


def test_telling_whether_it_fits_loads_no_torch():
    code = (
        "import sys; from edged.retrain import fits; fits.table(); fits.measure_speed();"
        " sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (75, "75 s"), (600, "10 min"), (9000, "2.5 h")])
def test_times_are_told_as_people_say_them(seconds, words):
    assert fits.time_text(seconds) == words
