"""Power: what a fake sysfs tree says, believed only where it is sane."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edged.engine import power as sensors
from edged.retrain import device, power
from edged.retrain.device import Profile

ATOM = Profile(
    id="atom", name="an Atom", cores=4, ghz=1.6, memory_bytes=0, isa="SSE4.2", power_w=9.5, factor=0.7, processor="E3940"
)  # fmt: skip
HERE = "Intel(R) Atom(TM) Processor E3940 @ 1.60GHz"


class Ticking:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.t = 100.0

    def now(self) -> float:
        return self.t

    def monotonic(self) -> float:
        return self.t

    def sleep(self, seconds: float) -> None:
        self.t += seconds


def rapl(sys: Path, energy: int | None, *, size: int = 262_143_328_850, n: int = 0) -> Path:
    zone = sys / f"class/powercap/intel-rapl:{n}"
    (sys / f"class/powercap/intel-rapl:{n}:0").mkdir(parents=True, exist_ok=True)
    (sys / f"class/powercap/intel-rapl:{n}:0/name").write_text("core\n")
    zone.mkdir(exist_ok=True)
    (zone / "name").write_text(f"package-{n}\n")
    (zone / "max_energy_range_uj").write_text(f"{size}\n")
    if energy is not None:
        (zone / "energy_uj").write_text(f"{energy}\n")
    return zone / "energy_uj"


def spend(sys: Path, seconds: float, during: Callable[[], object], tdp_w: float = 9.5) -> sensors.Energy:
    clock = Ticking()
    meter, why = sensors.find(tdp_w=tdp_w, sys=sys, clock=clock)
    assert meter is not None, why
    with meter.span() as span:
        clock.sleep(seconds)
        during()
    assert span.energy is not None
    return span.energy


def test_a_package_counter_gives_joules_over_the_span(tmp_path: Path) -> None:
    counter = rapl(tmp_path, 1_000_000)
    found = spend(tmp_path, 2.0, lambda: counter.write_text("13000000"))
    assert found.joules == 12.0
    assert found.watts == 6.0
    assert found.sensor == "RAPL package-0"


def test_a_counter_that_wraps_around_goes_on(tmp_path: Path) -> None:
    counter = rapl(tmp_path, 9_000_000, size=9_999_999)
    assert spend(tmp_path, 1.0, lambda: counter.write_text("4000000")).joules == 5.0


def test_two_packages_are_added_and_their_parts_are_not(tmp_path: Path) -> None:
    one, two = rapl(tmp_path, 0), rapl(tmp_path, 0, n=1)
    found = spend(tmp_path, 1.0, lambda: (one.write_text("2000000"), two.write_text("3000000")))
    assert found.joules == 5.0


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ("1000000", "stood still"),
        ("21000000", "more than 1.2 times the design power"),
        ("rubbish", "could not be read"),
    ],
)
def test_a_counter_that_makes_no_sense_gives_no_number_but_a_reason(tmp_path: Path, after: str, words: str) -> None:
    counter = rapl(tmp_path, 1_000_000)
    found = spend(tmp_path, 1.0, lambda: counter.write_text(after))
    assert found.joules is None
    assert found.watts is None
    assert words in found.why


def test_a_counter_that_goes_back_beyond_its_range_is_not_believed(tmp_path: Path) -> None:
    counter = rapl(tmp_path, 5_000_000, size=1000)
    found = spend(tmp_path, 1.0, lambda: counter.write_text("1"))
    assert found.joules is None
    assert "went back" in found.why


def test_only_root_may_read_it_and_that_is_said(tmp_path: Path) -> None:
    rapl(tmp_path, None)
    meter, why = sensors.find(sys=tmp_path)
    assert meter is None
    assert "only root" in why
    assert "no INA3221" in why


def test_a_tx2_is_read_by_its_supply_rail(tmp_path: Path) -> None:
    chip = tmp_path / "bus/i2c/drivers/ina3221x/0-0041/iio:device1"
    chip.mkdir(parents=True)
    for n, (rail, milliwatts) in enumerate((("VDD_IN", 7300), ("VDD_SYS_CPU", 900))):
        (chip / f"rail_name_{n}").write_text(f"{rail}\n")
        (chip / f"in_power{n}_input").write_text(f"{milliwatts}\n")
    found = spend(tmp_path, 3.0, lambda: None, tdp_w=15)
    assert found.sensor == "INA3221 VDD_IN"
    assert found.watts == pytest.approx(7.3)


def test_a_newer_board_is_read_by_volts_and_amperes(tmp_path: Path) -> None:
    chip = tmp_path / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    chip.mkdir(parents=True)
    for name, text in (("in1_label", "VDD_IN"), ("in1_input", "5000"), ("curr1_input", "1500")):
        (chip / name).write_text(text)
    assert spend(tmp_path, 2.0, lambda: None).watts == pytest.approx(7.5)


def test_a_rail_that_fails_halfway_gives_no_number(tmp_path: Path) -> None:
    chip = tmp_path / "bus/i2c/drivers/ina3221x/0-0041/iio:device1"
    chip.mkdir(parents=True)
    (chip / "rail_name_0").write_text("VDD_IN")
    (chip / "in_power0_input").write_text("7300")
    found = spend(tmp_path, 1.0, (chip / "in_power0_input").unlink)
    assert found.joules is None
    assert "could not be read" in found.why


def test_another_devices_watts_are_never_measured_here(tmp_path: Path) -> None:
    rapl(tmp_path, 0)
    assert power.meter(ATOM, sys=tmp_path, processor="AMD EPYC 9B14") is None
    assert "another device" in power.why_not(ATOM, sys=tmp_path, processor="AMD EPYC 9B14")
    assert power.meter(ATOM, sys=tmp_path, processor=HERE) is not None
    assert power.why_not(ATOM, sys=tmp_path, processor=HERE) == ""
    assert power.meter(device.find("this-machine"), sys=tmp_path) is not None


def test_a_report_says_measured_only_of_a_sane_sensor(tmp_path: Path) -> None:
    idle, load = sensors.Energy("RAPL package-0", 2.0, 4.0), sensors.Energy("RAPL package-0", 5.0, 31.0)
    found = power.number(ATOM, load, idle)
    assert found is not None
    assert found.how == "measured"
    assert found.value == 6.2
    assert "2.00 W idle" in found.basis
    odd = power.number(ATOM, sensors.Energy("RAPL package-0", 5.0, None, "RAPL package-0 stood still for 5.0 s"))
    assert odd is not None
    assert odd.how == "estimated"
    assert odd.value == 9.5
    assert "stood still" in odd.basis
    assert power.number(device.find("this-machine"), None) is None


def test_watts_since_the_last_call_over_and_over(tmp_path: Path) -> None:
    counter, clock = rapl(tmp_path, 0), Ticking()
    watts = sensors.Watts(sensors.find(sys=tmp_path, clock=clock)[0])
    assert watts.since_last() is None
    for joules in (5, 8):
        clock.sleep(1)
        counter.write_text(str(joules * 1_000_000))
        assert watts.since_last() == pytest.approx(5 if joules == 5 else 3)
    watts.close()
    assert sensors.Watts(None).since_last() is None
