"""How the demo counts: cameras' own answers against the truth, with an honest interval."""

import pytest

from edged.demo.measure import Accuracy, read_truth
from edged.demo.tell import markdown


def test_an_interval_is_wilsons():
    # Wilson (1927) for 8 of 10 at 95 %: 0.490 to 0.943
    a = Accuracy(8, 10)
    assert (round(a.lower, 3), round(a.upper, 3)) == (0.490, 0.943)


def test_of_no_samples_nothing_is_known():
    a = Accuracy(0, 0)
    assert (a.ratio, a.lower, a.upper) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (3, 7)])
def test_the_interval_holds_the_ratio(right, n):
    a = Accuracy(right, n)
    assert -1e-9 <= a.lower <= a.ratio + 1e-9
    assert a.ratio - 1e-9 <= a.upper <= 1 + 1e-9


def test_a_truth_file_that_is_being_written_is_read_up_to_its_last_whole_line(tmp_path):
    (tmp_path / "truth-gate.csv").write_text("b.1,0,free\nb.1,1,busy\nb.2,0,fr")
    assert read_truth(tmp_path, ["gate", "absent"]) == {"gate:b.1:0": "free", "gate:b.1:1": "busy"}


def test_the_table_is_markdown():
    assert markdown(("a", "b"), [("1", "22")]) == "| a | b  |\n|---|----|\n| 1 | 22 |"
