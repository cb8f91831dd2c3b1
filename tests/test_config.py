"""The configuration is checked whole, and says what is wrong where."""

import pytest

from edged import config, site
from edged.admit import Limits
from edged.daemon import ingest_limits
from edged.errors import Misconfigured
from edged.wire.messages import MAX_FRAME_BYTES

GOOD = {"server": {"site": "plant-a"}, "task": {"classes": ["free", "busy"]}}


def test_the_least_that_must_be_said_is_a_site_and_its_classes():
    c = config.check(GOOD)
    assert (c.server.site, c.task.classes, c.retest.gate.max_loss) == ("plant-a", ("free", "busy"), 0.02)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"retest": {"gate": {"min_fsp": 3}}}, "did you mean `min_fps`?"),
        ({"camera": [{"id": "gate", "nmae": "Gate"}]}, "did you mean `name`?"),
        ({"sevrer": {}}, "did you mean `server`?"),
        ({"mqtt": {"tls": {"certt": ""}}}, "did you mean `cert`?"),
        ({"web": {"zzz": 1}}, "known here: listen, threads"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(wrong, hint):
    with pytest.raises(Misconfigured) as e:
        config.check(GOOD | wrong)
    assert e.value.hint == hint
    assert e.value.exit_code == 78


@pytest.mark.parametrize(
    "wrong",
    [
        {"server": {"site": "Plant A"}},
        {"task": {"classes": ["one"]}},
        {"task": {"classes": ["a", "a"]}},
        {"storage": {"max_bytes": "40 parsecs"}},
        {"storage": {"per_camera_max_bytes": "a lot"}},
        {"storage": {"low_water": 0.3}},
        {"storage": {"keep_last": ["labelled", "everything"]}},
        {"storage": {"reserve": "1GB"}},
        {"camera": [{"id": "gate", "max_bytes": "much"}]},
        {"camera": [{"id": "gate", "max_age_days": -1}]},
        {"server": {"site": "plant-a\n"}},
        {"ingest": {"bytes_per_s": "0"}},
        {"ingest": {"queue_bytes": "1MB"}},
        {"ingest": {"frames_per_s": 0}},
        {"camera": [{"id": "gate"}, {"id": "gate"}]},
        {"camera": [{"id": "gate", "mask": [{"name": "line", "polygon": [[0, 0], [1, 1]]}]}]},
        {"compress": {"methods": ["magic"]}},
        {"mqtt": {"port": 70000}},
        {"privacy": {"children": 0}},
        {"task": {"classes": ["a", "b"], "holdout": 0.9}},
    ],
)
def test_what_cannot_work_is_refused(wrong):
    with pytest.raises(Misconfigured):
        config.check(GOOD | wrong)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("storage", "max_bytes", "1KB"),
        ("storage", "max_bytes", "40XB"),
        ("storage", "per_camera_max_bytes", 5),
        ("storage", "reserve", "1"),
        ("storage", "keyring_copy", "/srv/edged/../edged/keyring"),
        ("storage", "key_copy", "/srv/edged/keys/storage.key"),
        ("ingest", "bytes_per_s", "1"),
        ("ingest", "queue_bytes", "64GB"),
        ("rollout", "rate_bytes_per_s", 0),
        ("watchdog", "every_s", 0),
        ("watchdog", "every_s", 3600),
        ("watchdog", "loop_s", 0.001),
        ("watchdog", "patience_s", 0.1),
    ],
)
def test_a_value_out_of_range_is_refused_by_the_name_of_its_key(section, key, value):
    server = {"site": "plant-a", "data_dir": "/srv/edged"}
    with pytest.raises(Misconfigured, match=rf"{section}\.{key}"):
        config.check(GOOD | {"server": server, section: {key: value}})


def test_the_defaults_and_the_zeros_that_mean_something_are_in_range():
    storage = {"max_bytes": 0, "per_camera_max_bytes": 0, "min_free": 0, "reserve": 0}
    config.check(GOOD | {"storage": storage, "watchdog": {"loop_s": 0}, "camera": [{"id": "gate", "max_bytes": 0}]})


@pytest.mark.parametrize(
    ("text", "size"), [("40GB", 40 * 10**9), ("1.5 MB", 1_500_000), (12, 12), ("7", 7), ("3kb", 3000)]
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert config.size(text) == size


def test_a_file_that_is_not_there_or_not_toml_is_said_with_its_path(tmp_path):
    with pytest.raises(Misconfigured, match=r"absent\.toml"):
        config.load(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("[server\n")
    with pytest.raises(Misconfigured, match=r"bad\.toml is not valid TOML"):
        config.load(tmp_path / "bad.toml")


def test_the_defaults_of_ingest_are_those_of_the_room_itself():
    assert ingest_limits(config.check(GOOD)) == Limits()


def test_the_largest_frame_fits_into_the_smallest_room_that_may_be_configured():
    limits = ingest_limits(config.check(GOOD | {"ingest": {"queue_frames": 1, "queue_bytes": 2 * 2**20}}))
    assert (limits.camera_frames, limits.camera_bytes, limits.bytes) == (1, MAX_FRAME_BYTES, MAX_FRAME_BYTES)


def test_what_retention_goes_by_is_of_the_site_and_of_each_camera():
    made = config.check(
        GOOD
        | {
            "storage": {"max_bytes": "40GB", "max_age_days": 30, "per_camera_max_bytes": "8GB", "row_max_age_days": 90},
            "camera": [{"id": "gate", "max_age_days": 2}, {"id": "yard", "max_bytes": "1GB"}, {"id": "barn"}],
        }
    )
    rules = site.upkeep_rules(made).retention
    assert [rules.age_of(c) / 86400 for c in ("gate", "yard", "barn")] == [2, 30, 30]
    assert [rules.bytes_of(c) for c in ("gate", "yard", "barn")] == [8 * 10**9, 10**9, 8 * 10**9]
    assert rules.longest == 90 * 86400
    assert 37 * 10**9 < rules.max_bytes < 38 * 10**9  # the rest is padding and segments that are written to
    assert site.upkeep_rules(config.check(GOOD | {"storage": {"max_bytes": 0}})).retention.max_bytes == 0


@pytest.mark.parametrize(
    ("section", "key", "words"),
    [
        ("train", "quiet_hours", 'two times of day, "22:00-05:00"'),
        ("schedule", "backup", '"daily 03:30"'),
        ("retest", "scheduler", '"tls://host:8786"'),
    ],
)
def test_a_value_of_another_shape_is_answered_in_words_and_not_with_a_pattern(section, key, words):
    raw = {"server": {"site": "a", "data_dir": "/x"}, "task": {"classes": ["a", "b"]}, section: {key: "night"}}
    with pytest.raises(Misconfigured) as said:
        config.check(raw)
    assert f"{section}.{key} must be " in str(said.value)
    assert words in str(said.value)
    assert "regex" not in str(said.value)


def test_the_gates_limits_reach_the_gate():
    from edged.daemon import loop_rules

    gate = {
        "sure": 0.8,
        "max_class_bound": 0.3,
        "pinned": "kept",
        "max_packed": "1MB",
        "max_power": 6.5,
        "min_group": 20,
    }
    rules = loop_rules(config.check(GOOD | {"retest": {"gate": gate, "workers": 3, "seconds": 2}}))
    limits = rules.limits
    assert (limits.sure, limits.max_class_bound, limits.pinned) == (0.8, 0.3, "kept")
    assert (limits.max_packed_bytes, limits.max_power_w, limits.min_group) == (10**6, 6.5, 20)
    assert (rules.workers, rules.seconds, rules.scheduler) == (3, 2, "")


@pytest.mark.parametrize("n", [1, 10])
def test_the_number_of_classes_is_said_in_words(n):
    with pytest.raises(Misconfigured) as e:
        config.check({"task": {"classes": [f"c{i}" for i in range(n)]}})
    assert "2 to 9 classes" in e.value.hint
