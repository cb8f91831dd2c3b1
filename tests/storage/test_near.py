from hypothesis import given
from hypothesis import strategies as st

from edged.storage import near

signed = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(signed, max_size=60), signed, st.sampled_from([0, 2, 6, 12]))
def test_the_index_finds_what_comparing_with_each_finds(hashes, asked, most):
    near_by = [h ^ (1 << (i % 63)) for i, h in enumerate(hashes)] + [asked ^ 0b1011, asked, asked]
    index = near.Index(most)
    for i, h in enumerate([*hashes, *near_by]):
        index.add(h, i)
    every = sorted((near.distance(asked, h), i) for i, h in enumerate([*hashes, *near_by]))
    assert sorted(index.find(asked)) == [x for x in every if x[0] <= most]
    assert len(index) == len(hashes) + len(near_by)


def test_distances_of_signed_numbers_are_those_of_their_bits():
    assert near.distance(-1, 0) == 64
    assert near.distance(-(2**63), 2**62) == 2
    assert near.distance(5, 5) == 0
