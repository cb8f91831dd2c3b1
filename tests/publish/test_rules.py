"""When a camera that runs a new model is not well, and that a release keeps the rules that it started by."""

import json
from dataclasses import replace

import pytest

from edged.publish.rules import DEFAULTS, Rules, of_row
from edged.wire.messages import Health


@pytest.mark.parametrize(
    ("health", "words"),
    [
        (None, ""),
        (Health(20, 8.0), ""),  # nothing to compare with: the first model
        (Health(20, 8.0, 8.0, 0.9, 0.2, 40), ""),
        (Health(20, 4.0, 8.0, 0.3, 0.7, 40), ""),  # on the line is within it
        (Health(20, 3.9, 8.0), "3.9 frames/s, the model before made 8.0 (at most 50% slower)"),
        (Health(20, 8.0, 8.0, 0.29, 0.2, 40), "agrees with the model before on 29% of 40 regions (at least 30%)"),
        (Health(20, 8.0, 8.0, 0.9, 0.81, 40), "0.81 away"),
        (Health(20, 8.0, 8.0, 0.0, 1.0, 19), ""),  # too few regions to tell
        (Health(20, 0.0, 0.0, None, None, 40), ""),
        (Health(20, 1536.2, 3168.2), ""),  # as measured of two models of the same size: the first look is the cold one
        (Health(20, 29.0, 3168.2), "29.0 frames/s"),
    ],
)
def test_what_is_beyond_the_limits_is_said_with_its_numbers(health, words):
    said = DEFAULTS.unwell(health)
    assert (words in said) if words else said == ""


def test_everything_that_is_wrong_is_said():
    said = DEFAULTS.unwell(Health(20, 1.0, 8.0, 0.1, 0.9, 40))
    assert said.count(";") == 2


def test_a_way_back_is_not_compared_with_what_it_replaces():
    bad = Health(20, 0.1, 8.0, 0.0, 1.0, 400)
    assert DEFAULTS.unwell(bad)
    assert DEFAULTS.returning().unwell(bad) == DEFAULTS.rescuing().unwell(bad) == ""
    assert (DEFAULTS.returning().canary, DEFAULTS.rescuing().canary) == (1, 0)


def test_rules_come_back_from_a_row_as_they_were():
    made = Rules(2, 10.0, 20.0, (0.1, 1.0), 0.2, 5, 0.6, 0.3, 0.4, 7, 12.0)
    row = json.loads(json.dumps(made.to_row()))
    assert of_row(row, DEFAULTS) == made
    assert of_row(row | {"of a newer edged": 1}, DEFAULTS) == made
    assert of_row({"canary": 3}, made) == Rules(3, 10.0, 20.0, (0.1, 1.0), 0.2, 5, 0.6, 0.3, 0.4, 7, 12.0)
    assert of_row({}, made) == of_row(None, made) == made


def test_where_the_model_before_was_mostly_wrong_less_agreement_is_asked_for():
    assert DEFAULTS.expecting(0.95).min_agreement == 0.3
    assert DEFAULTS.expecting(0.25).min_agreement == pytest.approx(0.15)
    assert DEFAULTS.expecting(0.05).min_agreement == 0.0
    assert replace(DEFAULTS, min_agreement=0.0).expecting(0.9).min_agreement == 0.0
