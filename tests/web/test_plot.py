"""Where the points of the accuracy plot go."""

from edged.storage.trend import Point, Series
from edged.web.plot import chart
from edged.web.words import ago, count, duration, listed, points, size


def series(**cameras):
    lines = {
        c: tuple(Point(100.0 + 10 * i, r, n, 0.0, 1.0) for i, (r, n) in enumerate(line)) for c, line in cameras.items()
    }
    return Series(95.0, 135.0, 10.0, lines, ((110.0, 2, "complete"), (134.0, 3, "halted")))


def test_every_point_lies_inside_the_frame():
    drawn = chart(series(a=[(20, 20), (3, 20), (0, 20)], b=[(11, 11)]), {}, 860, 280)
    for line in drawn.lines:
        for m in line.marks:
            assert drawn.left <= m.x <= drawn.right
            assert drawn.top <= m.y <= drawn.bottom


def test_better_is_higher_and_later_is_further_right():
    first, second, _ = chart(series(a=[(20, 20), (15, 20), (18, 20)]), {}, 860, 280).lines[0].marks
    assert first.y < second.y
    assert first.x < second.x


def test_the_scale_begins_at_the_decade_below_the_worst():
    drawn = chart(series(a=[(20, 20), (13, 20)]), {}, 860, 280)
    assert [t.text for t in drawn.y_ticks] == ["100", "90", "80", "70", "60"]


def test_few_labels_are_no_point_and_cameras_differ_by_shape():
    drawn = chart(series(a=[(20, 20), (0, 9)], b=[(10, 10)], c=[(0, 1)]), {"a": "Gate"}, 860, 280)
    a, b = drawn.lines
    assert (len(a.marks), len(b.marks)) == (1, 1)
    assert drawn.y_ticks[-1].text == "80"
    assert chart(series(c=[(0, 9)]), {}, 860, 280) is None
    assert a.name == "Gate"
    assert a.shape != b.shape


def test_a_release_near_the_right_edge_is_written_to_its_left():
    first, last = chart(series(a=[(10, 20)]), {}, 860, 280).releases
    assert (first.text, first.anchor) == ("release 2", "start")
    assert (last.text, last.anchor) == ("release 3 halted", "end")


def test_nothing_labelled_draws_nothing():
    assert chart(Series(0, 0, 0, {}, ()), {}, 860, 280) is None


def test_numbers_as_one_would_say_them():
    assert [duration(s) for s in (0, 0.24, 3, 59.6, 200, 8000, 400_000)] == [
        "0 s", "0.2 s", "3 s", "60 s", "3 min", "2 h", "5 days",
    ]  # fmt: skip
    assert [ago(s) for s in (0.4, 9.7)] == ["just now", "10 s ago"]
    assert [size(n) for n in (678, 276_113, 12_911_000, 4e9)] == ["678 B", "276 kB", "12.9 MB", "4.0 GB"]
    assert (count(1, "camera"), count(1200, "camera")) == ("1 camera", "1\u202f200 cameras")
    assert [listed(list(n)) for n in ("a", "ab", "abc", "abcde")] == [
        "a",
        "a and b",
        "a, b and c",
        "a, b, c and 2 more",
    ]
    assert points(-0.023) == "−2.3"
