"""A process that goes by what it read at its start says so when that has changed; it does not read half of it anew."""

import json
import os

import pytest
from click.testing import CliRunner

from edged import config as configs
from edged import serve
from edged.cli import main
from edged.clock import SystemClock
from edged.site import NewSite, create, only_daemon


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outdated") / "site"
    create(folder, NewSite("plant-a", ("free", "busy"), ("gate",)), SystemClock())
    return folder


@pytest.fixture
def started(made):
    path = made / "config.toml"
    return serve.Started(configs.load(path), path)


def test_the_page_says_that_the_configuration_has_changed_since_and_nothing_for_a_touch(made, started):
    path = made / "config.toml"
    text = path.read_bytes()
    assert started.outdated() == ""
    path.write_bytes(text)
    assert started.outdated() == ""
    path.write_bytes(text + b"\n[web]\nthreads = 4\n")
    assert started.outdated().startswith("the configuration (config.toml) has changed since this page was started")
    path.write_bytes(text)
    assert started.outdated() == ""


def test_the_page_says_that_the_site_key_was_replaced(made, started):
    key = made / "keys" / "storage.key"
    (made / "keys" / "new").write_bytes(key.read_bytes())
    os.replace(made / "keys" / "new", key)
    assert started.outdated().startswith("the site key was replaced since")


def test_a_configuration_that_cannot_be_read_for_a_moment_is_no_change(made, started):
    path = made / "config.toml"
    path.rename(made / "config.away")
    assert started.outdated() == ""
    (made / "config.away").rename(path)


def test_status_says_that_the_daemon_is_older_than_its_configuration(made):
    path, at = made / "config.toml", SystemClock().now()

    def status():
        found = CliRunner().invoke(main, ["-c", str(path), "--json", "status"])
        return json.loads(found.stdout)["config_newer"]

    with only_daemon(made):
        os.utime(path, (at - 100, at - 100))
        assert status() is False
        os.utime(path, (at + 100, at + 100))
        assert status() is True
    assert status() is False  # nobody goes by it
