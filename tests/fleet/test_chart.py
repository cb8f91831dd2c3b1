"""The plot of the fleet's bench: every bad model and broker is in it."""

from xml.etree import ElementTree

from bench.fleets import chart


def test_each_bad_model_has_a_bar_for_each_broker_that_measured_it():
    told = [{"name": "nan-service", "gap": 1.1}, {"name": "sleep-service", "gap": 53.5}]
    svg = chart.draw({"embedded": told, "mosquitto": told[:1]}, "20 cameras & a note")
    root = ElementTree.fromstring(svg)
    words = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("1.1") == 2
    assert words.count("53.5") == 1
    assert "60 s" in words


def test_each_release_has_its_copies_seconds_and_cpu_for_each_broker_that_measured_them():
    def told(step, copies, last, cpu):
        return {"step": step, "copies_published": copies, "last": last, "broker_cpu_ms_per_mb": cpu}

    svg = chart.crowd(
        {
            "embedded": [told("late", 3.0, 48.8, 27.4), told("head", 2.01, 16.3, None)],
            "mosquitto": [told("late", 3.0, 85, 13.4)],
        },
        "1,000 cameras & a note",
    )
    words = [t.text for t in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("3") == 2
    for word in ("48.8", "27.4", "13.4", "2.01", "late", "head", "mosquitto"):
        assert words.count(word) == 1, word
