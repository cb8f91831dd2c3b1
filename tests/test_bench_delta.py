"""The bench of deltas: two worlds of the same pictures, and a table that divides by the right column."""

import numpy as np

from bench.compression import delta as bench
from tests.packed.pairs import corpus


def test_the_table_divides_the_delta_by_what_it_says():
    rows = [
        {"rung": "norms", "refused": "nothing learned"},
        {
            "rung": "head", "form": "int8", "accuracy": {"old": 0.5, "new": 0.25}, "bytes": 1000, "zstd19": 800, "patch": 90,
            "packed": 500, "delta": 50,
        },
    ]  # fmt: skip
    header, lines = bench.table(rows)
    assert all(len(line) == len(header) for line in lines)
    assert lines[1][-3:] == ["0.062", "0.100", "0.050"]


def test_the_new_world_has_the_same_things_in_another_light():
    classes, pictures = bench.given(None, 32, 60, seed=1)
    darker = bench._drifted(pictures)
    assert classes == ("box", "disc")
    assert np.array_equal(darker.labels, pictures.labels)
    assert darker.pixels[..., 0].std() < 0.7 * pictures.pixels[..., 0].std()
    train, judges = bench._split(pictures)
    assert (len(train), len(judges)) == (48, 12)


def test_sizes_are_of_a_delta_that_leads_to_the_file():
    old, new = corpus()["int8"]
    found = bench.sizes(old, new)
    assert found["exact"]
    assert found["delta"] < found["packed"] < found["bytes"] == len(new)
    assert found["patch"] <= found["zstd19"]
