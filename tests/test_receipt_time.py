"""The box says the time in its receipts, and a camera without a clock reckons with it: both ends, over a cable."""

from tests.site import SimulatedSite, shots


def test_a_camera_without_a_clock_hears_the_time_from_the_box(tmp_path):
    site = SimulatedSite(tmp_path / "site", {"gate": shots(6, 3)})
    try:
        trust = site.agents["gate"].updater.trust
        trust._now = lambda: 100.0  # 1970
        before = trust._time()
        site.turn(4)
        assert site.answered
        assert before < site.clock.now() - 86400
        assert site.clock.now() - 10 < trust._time() <= site.clock.now()
    finally:
        site.close()
