"""The bench of the predictor: what it leaves out, what its summary counts, and networks of the sizes of their papers."""

import pytest

from bench.compression import known_nets, predict, table
from edged.engine.cost import by_kind
from edged.engine.onnx_write import Net


def test_the_network_that_is_judged_has_no_part_in_its_own_factor():
    predicted = {"a": 10.0, "b": 20.0, "c": 30.0}
    published = {"a": 7.0, "b": 14.0, "c": 21.0}
    for there, error in predict.left_out(predicted, published).values():
        assert error == pytest.approx(0)
        assert there > 0
    odd = predict.left_out(predicted, published | {"c": 42.0})
    assert odd["c"][1] == pytest.approx(-0.5)  # its own figure would have pulled the factor up
    assert odd["a"][1] > 0.3


def doubled(error):
    """A row as `figures` makes it, whose four kinds of prediction are all off by so much."""
    return {f"{how}_error": error for how in ("model", "run", "macs", "control")}


def test_the_summary_counts_networks_within_the_goal_and_says_when_the_control_is_no_worse():
    networks = {f"net-{i} {p}": doubled(0.1 * i) for i in range(4) for p in predict.PRECISIONS}
    found = predict._summary(networks)
    assert found["summary"]["model int8"]["within_goal"] == 3  # 0, 10 and 20 %
    assert not found["negative_control_is_worse"]
    worse = {k: v | {"control_error": 0.9} for k, v in networks.items()}
    assert predict._summary(worse)["negative_control_is_worse"]
    rows = predict.rows({"summary": found["summary"]})
    assert [r["passed"] for r in rows] == [False, False]
    assert len(list(table._predict({"summary": found["summary"], "goal": predict.GOAL}))) == 2


# Thousand million multiply-adds as the Open Model Zoo states them (half of its FLOPs).
@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("mobilenet-v2", 0.308), ("resnet-18", 1.82), ("resnet-50", 4.1), ("densenet-121", 2.86), ("inception-v4", 12.29),
        ("mobilenet-ssd", 1.16), ("yolo-v3-tiny", 2.79),
    ],
)  # fmt: skip
def test_each_network_asks_for_the_multiply_adds_of_its_paper(name, macs):
    px, build = known_nets.NETS[name]
    net = Net((3, px, px), dry=True)
    build(net)
    found = sum(c.macs for c in by_kind(net.costs) if c.kind in ("stem", "conv", "pointwise", "depthwise", "full"))
    assert found / 1e9 == pytest.approx(macs, rel=0.03)
    assert set(predict.PUBLISHED) == set(known_nets.NETS)
