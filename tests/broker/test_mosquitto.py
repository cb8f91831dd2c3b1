"""What docs/broker.md tells an operator of mosquitto to do, done: its files installed for a user of its own, a camera
revoked, mosquitto told."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import mqtt5
import pytest
from click.testing import CliRunner

from edged.broker import identity, mosquitto
from edged.cli.main import main
from edged.clock import SystemClock
from edged.wire.link import Endpoint, Tls
from edged.wire.paho import PahoLink
from edged.wire.tls import client_context

WAIT = 20
CONNACK = b"\x20"
QUICK = (0.05, 0.2)
CLOCK = SystemClock()
ROOT = os.geteuid() == 0  # only root can give mosquitto a user of its own


class Installed:
    """mosquitto with the files of `edged init --mosquitto`, copied as docs/broker.md says."""

    def __init__(self, site: Path, home: Path) -> None:
        found = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin")
        if found is None:
            pytest.skip("mosquitto is not installed")
        self.binary, self.site, self.home = found, site, home
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        keys = site / "keys"
        self.install(
            *(keys / name for name in ("ca.pem", "ca.crl", "server.pem", "server.key")), site / "mosquitto.acl"
        )
        conf = (site / "mosquitto.conf").read_text()
        (home / "mosquitto.conf").write_text(conf.replace("listener 8883 0.0.0.0", f"listener {self.port} 127.0.0.1"))
        self.start()

    def install(self, *files: Path) -> None:
        group = ["-g", "mosquitto"] if ROOT else []
        subprocess.run(["install", "-m", "640", *group, *map(str, files), f"{self.home}/"], check=True)

    def start(self) -> None:
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen([self.binary, "-c", str(self.home / "mosquitto.conf")], stderr=log)
        ends = CLOCK.monotonic() + WAIT
        while not self._answers():
            assert self.process.poll() is None, self.said()
            assert CLOCK.monotonic() < ends, self.said()
            CLOCK.sleep(0.02)

    def reload(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    def restart(self) -> None:
        self.stop()
        self.start()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(WAIT)

    def said(self) -> str:
        return (self.home / "log").read_text()

    def link(self, camera: str, tls: Tls) -> PahoLink:
        return PahoLink(Endpoint("127.0.0.1", self.port, camera, tls), reconnect_s=QUICK)

    def enters(self, tls: Tls) -> bool:
        """Whether a CONNECT with this certificate is answered: by a CONNACK, or by the end of the connection."""
        try:
            raw = socket.create_connection(("127.0.0.1", self.port), WAIT)
            with raw, client_context(tls).wrap_socket(raw, server_hostname="127.0.0.1") as secured:
                secured.sendall(mqtt5.ConnectPacket("raw", clean_start=True).write())
                return secured.recv(1000)[:1] == CONNACK
        except TimeoutError:
            raise
        except OSError:
            return False

    def refuses_soon(self, tls: Tls) -> None:
        ends = CLOCK.monotonic() + WAIT
        while self.enters(tls):
            assert CLOCK.monotonic() < ends, self.said()

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def home(monkeypatch):
    """A folder that mosquitto's user can get to, in the place of /etc/mosquitto/edged."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        made.chmod(0o755)
        data = made / "data"
        data.mkdir()
        if ROOT and shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin"):
            shutil.chown(data, "mosquitto")
        monkeypatch.setattr(mosquitto, "FOLDER", made)
        monkeypatch.setattr(mosquitto, "DATA", data)
        yield made


@pytest.fixture
def site(home, tmp_path):
    folder = tmp_path / "site"
    say(None, "init", "--data-dir", str(folder), "--site", "plant-a", "--classes", "free,busy", "--mosquitto",
        "--camera", "gate", "--camera", "yard", "--camera", "barn")  # fmt: skip
    return folder


def say(site, *words):
    config = ["-c", str(site / "config.toml")] if site else []
    done = CliRunner().invoke(main, [*config, *words])
    assert done.exit_code == 0, done.output
    return done.output


def carried(site, camera, to) -> Tls:
    """What lies on a camera: copies of its certificate and key, which `revoke` cannot take from there."""
    own = identity.paths(site / "keys", camera)
    to.mkdir(exist_ok=True)
    return Tls(own.ca, shutil.copy(own.cert, to), shutil.copy(own.key, to))


@pytest.mark.mosquitto
def test_who_is_revoked_stays_out_of_mosquitto_once_it_was_told_and_others_come_in(site, home, tmp_path):
    broker = Installed(site, home)
    try:
        gate, yard, barn = (carried(site, name, tmp_path / name) for name in ("gate", "yard", "barn"))
        with (
            contextlib.closing(broker.link("gate", gate)) as inside,
            contextlib.closing(broker.link("barn", barn)) as other,
        ):
            assert inside.wait_connected(WAIT), broker.said()
            assert other.wait_connected(WAIT), broker.said()

            said = say(site, "camera", "revoke", "yard", "--yes")  # one that is not there just now: reloading is enough
            assert (
                f"install -m 640 -g mosquitto {site / 'keys' / 'ca.crl'} {home}/ && systemctl restart mosquitto" in said
            )
            assert broker.enters(yard), "the control: until mosquitto is told it knows nothing of it"
            broker.install(site / "keys" / "ca.crl")
            broker.reload()
            broker.refuses_soon(yard)
            assert other.connected()
            assert other.connects() == 1, "nobody else was sent away"

            say(site, "camera", "revoke", "gate", "--yes", "--new")  # one that is in: it has to be sent away
            broker.install(site / "keys" / "ca.crl")
            broker.restart()
            assert other.wait_connected(WAIT), broker.said()
            assert not broker.enters(gate)
            assert not inside.connected()
            assert not broker.enters(yard), "the list only grows"
            assert broker.enters(identity.paths(site / "keys", "gate")), "its successor"
    finally:
        broker.stop()


@pytest.mark.mosquitto
def test_after_each_reload_the_newest_list_holds(site, home, tmp_path):
    """mosquitto adds a list to those that it has; which of them counts is OpenSSL's choice, by their dates."""
    broker = Installed(site, home)
    try:
        kept = {name: carried(site, name, tmp_path / name) for name in ("gate", "yard", "barn")}
        for name in ("gate", "yard"):
            say(site, "camera", "revoke", name, "--yes")
            broker.install(site / "keys" / "ca.crl")
            broker.reload()
            broker.refuses_soon(kept[name])
        assert not broker.enters(kept["gate"])
        assert broker.enters(kept["barn"])
    finally:
        broker.stop()
