"""More than one figure counts: what is better then."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edged.retrain import pareto

points = st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=1, max_size=20)


def test_a_point_is_beaten_only_by_one_that_is_nowhere_worse():
    assert pareto.dominates((1, 2), (1, 1))
    assert not pareto.dominates((1, 1), (1, 1))
    assert not pareto.dominates((2, 0), (1, 1))


def test_fronts_lie_behind_one_another():
    assert pareto.fronts([(0, 3), (1, 1), (3, 0), (0, 0), (2, 2)]) == [[0, 2, 4], [1], [3]]


@given(points)
def test_every_point_is_in_one_front_and_none_in_the_first_is_beaten(rows):
    found = pareto.fronts(rows)
    assert sorted(i for front in found for i in front) == list(range(len(rows)))
    for i in found[0]:
        assert not any(pareto.dominates(other, rows[i]) for other in rows)
    for front, before in zip(found[1:], found, strict=False):
        for i in front:
            assert any(pareto.dominates(rows[j], rows[i]) for j in before)


@given(points, st.integers(1, 20))
def test_the_best_are_as_many_as_asked_and_of_the_first_fronts(rows, n):
    chosen = pareto.best(rows, n)
    assert len(chosen) == len(set(chosen)) == min(n, len(rows))
    rank = {i: k for k, front in enumerate(pareto.fronts(rows)) for i in front}
    assert max(rank[i] for i in chosen) <= min((rank[i] for i in range(len(rows)) if i not in chosen), default=99)


def test_of_a_front_that_is_cut_the_ends_and_the_lonely_stay():
    line = [(x, 10 - x) for x in (0, 4, 4.5, 5, 10)]
    assert sorted(pareto.best(line, 2)) == [0, 4]
    assert np.isinf(pareto.crowding(line)[0])
    assert pareto.crowding([(1.0, 1.0)] * 3)[1] in (0.0, float("inf"))
