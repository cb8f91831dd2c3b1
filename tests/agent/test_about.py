"""What a camera says about how it came up."""

import json

import msgspec

from agent import about, cli, vitals
from edged.wire.messages import CameraInfo


def infos(site):
    return [msgspec.json.decode(payload, type=CameraInfo) for leaf, payload in site.box.said if leaf == "info"]


def test_after_its_first_picture_a_camera_says_how_long_that_took_and_how_large_it_is(site):
    site.start()
    site.run(2)
    assert infos(site)[-1].start_s == 0.0  # not yet
    site.see(1)
    site.run(2)
    told = infos(site)[-1]
    assert 0 < told.start_s <= vitals.running_s() + 1
    assert told.rss_bytes > 10 * 2**20
    before = len(infos(site))
    site.see(3)
    site.run(4)
    assert len(infos(site)) == before  # once


def test_status_shows_it(site, capsys):
    site.start()
    site.see(1)
    site.run(2)
    state = str(site.folder / "state")
    assert cli.main(["status", "--state", state]) == 0
    assert "to the first picture" in capsys.readouterr().out
    assert cli.main(["status", "--state", state, "--json"]) == 0
    start = json.loads(capsys.readouterr().out)["start"]
    assert start["rss_bytes"] == about.last_start(site.folder / "state").rss_bytes > 0


def test_where_the_kernel_says_nothing_nothing_is_claimed(monkeypatch, tmp_path):
    monkeypatch.setattr(vitals, "Path", lambda *_: tmp_path / "none")
    assert (vitals.running_s(), vitals.memory_available(), vitals.memory_bytes()) == (0.0, 0, 0)


def test_a_camera_says_which_releases_it_takes_so_that_it_is_offered_no_other(site):
    site.options = {"hardware": "atom", "model": "vehicle", "classes": ("car", "van")}
    site.start()
    site.run(2)
    told = infos(site)[-1]
    assert (told.hw, told.takes, told.classes, told.most_bytes) == ("atom", "vehicle", ("car", "van"), 64 * 2**20)
