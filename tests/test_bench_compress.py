"""The table of compression's figures: what was measured, what missed its goal, and what was not run."""

import json

import pytest

from bench import compress
from bench.compression import table


def share(right, n):
    return {"right": right, "n": n, "accuracy": right / n, "lower": right / n - 0.01, "upper": right / n + 0.01}


def ratio(network, found, met, loss=0.0):
    return {
        "network": network, "px": 28, "data": "digits", "chain": "rate=0.1", "ratio": found, "packed_bytes": 1000,
        "float_bytes": 60_000, "packed": share(95, 100), "float": share(94, 100), "loss": loss, "mcnemar_p": 0.4, "met": met,
    }  # fmt: skip


def keep(results, part, measured, date="2026-11-22"):
    document = {"machine": {"cpu": "a cpu", "cores": 2}, "command": f"python -m bench.{part}", "measured": measured}
    (results / f"{date}-compress-{part}.json").write_text(json.dumps(document))


def reached(results):
    return {(r.figure, r.reached) for r in table.table(table.documents(results))}


def test_every_figure_is_there_even_when_nothing_was_run(tmp_path):
    rows = table.table(table.documents(tmp_path))
    assert len(rows) == len(table.FIGURES)
    assert {r.reached for r in rows} == {"not run"}


def test_a_goal_that_was_missed_says_no(tmp_path):
    measured = [ratio("lenet-300-100", 61.0, True), ratio("lenet-5-caffe", 80.0, False, loss=0.01)]
    keep(tmp_path, "ratios", measured)
    told = {r.of: r for r in table.table(table.documents(tmp_path)) if r.part == "ratios"}
    assert told["lenet-300-100"].reached == "yes"
    assert told["lenet-5-caffe"].reached == "no"
    assert "1.00 points lost" in told["lenet-5-caffe"].measured
    assert "n = 100" in told["lenet-5-caffe"].measured
    assert told["alexnet"].reached == "not run"
    measured[0]["met"] = False  # negative control: the same row, missed
    keep(tmp_path, "ratios", measured)
    assert ("LeNet-300-100 packed, no accuracy loss", "no") in reached(tmp_path)


@pytest.mark.parametrize(("within", "told"), [(5, "yes"), (4, "no")])
def test_the_predictor_needs_five_networks(tmp_path, within, told):
    one = {"networks": 7, "within_goal": within, "median_error": 0.1, "largest_error": 0.4}
    keep(tmp_path, "predict", {"goal": 0.2, "summary": {"model int8": one, "model float32": one}})
    assert {r.reached for r in table.table(table.documents(tmp_path)) if r.part == "predict"} == {told}


@pytest.mark.parametrize(("loss", "told"), [(0.005, "yes"), (0.0051, "no")])
def test_int8_may_lose_half_a_point(tmp_path, loss, told):
    file = {"accuracy": 0.95, "loss": loss, "lost": 5, "won": 1, "loss_upper": 0.01, "wilson": [0.94, 0.96]}
    row = {"net": "mobilenet-0.25", "px": 64, "seed": 1, "held": 1000, "float": file, "int8": file, "qat": file}
    keep(tmp_path, "int8", {"sets": ["photos"], "goal": 0.005, "met": True, "rows": [row]})
    assert {r.reached for r in table.table(table.documents(tmp_path)) if r.part == "int8"} == {told}


def test_each_candidate_for_the_atom_says_whether_it_passed(tmp_path):
    one = {
        "net": "mobilenet-0.25", "px": 64, "chain": "qat", "fps": 60.0, "fps_lower": 50.0, "how": "estimated", "held": 100,
        "share_with_decode": 0.6, "accuracy": 0.9, "wilson": [0.8, 0.95], "loss": 0.01, "lost": 2, "won": 1, "passed": True,
    }  # fmt: skip
    goal = {"share": 0.7, "loss": 0.02, "fps": 30}
    found = [one, one, one | {"chain": "int8", "share_with_decode": 0.8, "passed": False}]
    keep(tmp_path, "atom", {"sets": ["photos"], "goal": goal, "met": True, "candidates": found})
    rows = [r for r in table.table(table.documents(tmp_path)) if r.part == "atom"]
    assert [r.reached for r in rows] == ["yes", "no"]  # the first candidate is the baseline


def test_the_zoo_says_of_each_network_whether_it_passes_and_by_how_much_not(tmp_path):
    shares = {("small", "float"): 0.7, ("small", "int8"): 0.3, ("large", "float"): 1.4, ("large", "int8"): 0.75}
    found = [{"net": n, "px": 64, "precision": p, "share_with_decode": s} for (n, p), s in shares.items()]
    keep(tmp_path, "zoo", {"goal": {"share": 0.7, "fps": 30}, "zoo": found})
    rows = [r for r in table.table(table.documents(tmp_path)) if r.part == "zoo"]
    assert [r.reached for r in rows] == ["not judged"] * 2
    assert "small at 64 px (70%); cannot: large at 64 px (2.0 times too slow)" in rows[0].measured
    assert "small at 64 px (30%); cannot: large at 64 px (1.1 times too slow)" in rows[1].measured


def test_the_coder_is_judged_on_weights_that_have_an_order_and_decoding_by_all_three_goals(tmp_path):
    one = {
        "name": "a", "weights": "made", "own": 100, "csr_huffman": 120, "bytes": 1000, "smaller": 1.2, "exact": True,
        "unpack_mb_per_s": 60.0, "unpack_memory_over_output": 1.5, "stream_memory_over_output": 0.4,
    }  # fmt: skip
    others = [{"smaller": 1.1}, {"name": "no order", "smaller": 1.01}, {"exact": False}, {"unpack_mb_per_s": 40.0}]
    keep(tmp_path, "codec", {"rows": [one, *(one | other for other in others)]})
    rows = [r for r in table.table(table.documents(tmp_path)) if r.part == "codec"]
    assert [r.reached for r in rows if r.of == "csr"] == ["yes", "no", "not judged", "yes", "yes"]
    assert [r.reached for r in rows if r.of == "decode"] == ["yes", "yes", "yes", "no", "no"]


@pytest.mark.parametrize(("resident", "told"), [(1.95, "yes"), (2.1, "no")])
def test_all_memory_of_decoding_is_judged_and_the_share_of_code_told_beside_it(tmp_path, resident, told):
    one = {
        "name": "a", "weights": "made", "own": 100, "csr_huffman": 120, "bytes": 1000, "smaller": 1.2, "exact": True,
        "unpack_mb_per_s": 60.0, "unpack_memory_over_output": resident, "stream_memory_over_output": 1.9,
        "unpack_own_over_output": 1.4, "stream_own_over_output": 1.7, "unpack_allocated_over_output": 1.8,
    }  # fmt: skip
    keep(tmp_path, "codec", {"rows": [one]})
    (row,) = (r for r in table.table(table.documents(tmp_path)) if r.of == "decode")
    assert row.reached == told
    assert f"memory {resident:.2f}x the output resident (1.90x streamed" in row.measured
    assert "without code that was first touched 1.40x" in row.measured
    assert "allocated 1.80x" in row.measured


@pytest.mark.parametrize(
    ("after", "error", "told"), [(50.0, 1e-6, "yes"), (103.0, 1e-6, "no"), (50.0, 2e-4, "no"), (0.0, 0.0, "yes")]
)
def test_a_tuned_network_is_neither_slower_nor_wrong(tmp_path, after, error, told):
    found = {"on": "a cpu", "before_ms": 100.0, "after_ms": after, "error": error, "kept": after > 0, "note": "so"}
    document = {
        "machine": {},
        "command": "x",
        "whole": [{"network": "alexnet", "px": 224, "tuned": found}],
        "layers": [],
    }
    (tmp_path / "2026-11-22-compress-tuning.json").write_text(json.dumps(document))
    assert {r.reached for r in table.table(table.documents(tmp_path)) if r.part == "tuning"} == {told}


def test_the_newest_document_counts(tmp_path):
    keep(tmp_path, "ratios", [ratio("alexnet", 50, True)], "2026-11-21")
    keep(tmp_path, "ratios", [ratio("alexnet", 30, False)], "2026-11-22")
    assert ("AlexNet packed, within 1 point", "no") in reached(tmp_path)


def test_each_part_gets_the_data_that_it_can_take(tmp_path):
    digits, photos = tmp_path / "digits", tmp_path / "photos"
    digits.mkdir()
    photos.mkdir()
    (digits / "train-images-idx3-ubyte.gz").touch()
    small, large = compress.commands("ratios", [digits, photos])
    assert small[:2] == ["--data", str(digits)]
    assert large == ["--data", str(photos), "--model", "alexnet", "vgg-16"]
    assert compress.commands("int8", [digits]) == []
    assert compress.commands("predict", []) == [[]]


def test_one_command_runs_the_parts_and_writes_the_table_without_paths(tmp_path, monkeypatch, capsys):
    ran = []

    def run(part, arguments, results):
        ran.append(part)
        keep(results, "ratios", [ratio("lenet-300-100", 61.0, True)])
        return 0

    monkeypatch.setattr(compress, "run", run)
    (tmp_path / "x-idx3-ubyte").touch()
    assert compress.main(["--data", str(tmp_path), "--only", "ratios,predict", "--results", str(tmp_path / "out")]) == 0
    assert ran == ["ratios", "predict"]
    (written,) = (tmp_path / "out").glob("*-compress.md")
    text = written.read_text()
    assert "1 of 1 rows reached their goal, 11 were not run" in text
    assert str(tmp_path) not in text + written.with_suffix(".json").read_text()
    assert text.strip() in capsys.readouterr().out


def test_a_part_that_fails_is_named_and_the_exit_code_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compress, "run", lambda *_: 3)
    assert compress.main(["--only", "predict", "--results", str(tmp_path)]) == 1
    assert "failed: predict" in capsys.readouterr().err


def test_a_part_that_is_not_known_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        compress.main(["--only", "speed", "--results", str(tmp_path)])
    assert "no part is called speed" in capsys.readouterr().err
