"""The leak rate on the page and in /metrics."""

import re

from prometheus_client.parser import text_string_to_metric_families

from edged.privacy.sizes import SIZES
from edged.storage import alarms, counters, leaks


def figures(client):
    """{(name, labels): value} of /metrics, by Prometheus' own parser."""
    answer = client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return {
        (s.name, *s.labels.values()): s.value for f in text_string_to_metric_families(answer.text) for s in f.samples
    }


def test_before_anything_was_planted_the_page_claims_nothing(client):
    text = client.get("/privacy").text
    assert "Nothing has been measured yet" in text
    assert "as it should be" not in text
    assert "<table" not in text


def test_recall_of_every_kind_and_size_stands_there_as_numbers(client, past):
    past.plant(40)
    text = re.sub(r"\s+", " ", client.get("/privacy").text)
    assert text.count("<tr>") == 1 + 6
    assert "Small face" in text
    assert "180 to 300 px wide" in text
    assert len(re.findall(r"\d+ of 40", text)) == 6
    assert "as it should be" in text


def test_an_alarm_is_shown_in_words_until_it_is_cleared(client, past, store):
    past.plant(20, leaking=("face small",))
    alarms.sound(store, "privacy_leak", "10 of the last 20 small planted faces hidden, 83 % should be")
    for path in ("/privacy", "/now"):
        assert "10 of the last 20 small planted faces hidden" in client.get(path).text
    assert "as it should be" not in client.get("/privacy").text
    assert "Leaking." in client.get("/now").text
    alarms.clear(store, "privacy_leak")
    assert "as it should be" in client.get("/privacy").text
    assert "Leaking" not in client.get("/now").text


def test_what_was_planted_shows_in_metrics(client, past, store):
    past.plant(40, leaking=("plate large",))
    leaks.add_unjudged(store, 40, "timeout")
    counters.bump(store, "scrubbed:face", 7)
    counters.bump(store, "withheld:too_dark", 3)
    found = figures(client)
    assert found["edged_scrub_regions_total", "face"] == 7
    assert found["edged_frames_dropped_total", "withheld:too_dark"] == 3
    assert found["edged_privacy_planted_unjudged_total", "timeout"] == 1
    assert found["edged_privacy_planted_last_timestamp_seconds",] == store.clock.now()
    for kind, sizes in SIZES.items():
        for size in sizes:
            assert found["edged_privacy_planted_total", kind, size] == 40
            hidden = found["edged_privacy_planted_hidden_total", kind, size]
            ratio = found["edged_privacy_recall_ratio", kind, size]
            assert ratio == hidden / 40
            lower, upper = (found[f"edged_privacy_recall_{end}_ratio", kind, size] for end in ("lower", "upper"))
            assert lower < ratio < upper
    assert found["edged_privacy_recall_ratio", "plate", "large"] == 0.5


def test_alarms_are_0_or_1_in_metrics_and_an_empty_store_has_them_too(client, store):
    before = figures(client)
    assert (before["edged_privacy_alarm", "privacy_leak"], before["edged_privacy_alarm", "privacy_unmeasured"]) == (
        0,
        0,
    )
    assert not [name for name, *_ in before if "recall" in name]
    alarms.sound(store, "privacy_leak", "a face")
    assert figures(client)["edged_privacy_alarm", "privacy_leak"] == 1


def test_names_of_counters_cannot_break_the_format(client, store):
    counters.bump(store, 'refused:a"b\\c\nd')
    assert figures(client)["edged_frames_dropped_total", 'refused:a"b\\c\nd'] == 1
