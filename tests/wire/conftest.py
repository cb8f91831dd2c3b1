"""Brokers of every kind behind one face, for the one behavioural suite."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edged.broker import identity
from edged.broker.acl import Access, Acl, OpenDoor
from edged.broker.mosquitto import render_acl, render_conf
from edged.broker.server import BrokerThread
from edged.clock import SystemClock
from edged.wire.link import Endpoint, Link, Tls, Will
from edged.wire.paho import PahoLink

CLIENTS = ("alice", "bob", "carol")
QUICK = (0.05, 0.2)  # reconnect delays: a test should not wait a second for what production may
LIMIT = 2 * 1024 * 1024 + 64 * 1024


def memory_link_module():
    """tests/memory_link.py; tests are no package, so it is loaded by its path."""
    if "memory_link" not in sys.modules:
        spec = importlib.util.spec_from_file_location("memory_link", Path(__file__).parent.parent / "memory_link.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["memory_link"] = module
        spec.loader.exec_module(module)
    return sys.modules["memory_link"]


class MemorySite:
    kind = "memory"

    def __init__(self, _keys: Path, _directory: Path) -> None:
        self.broker = memory_link_module().MemoryBroker(max_packet_bytes=LIMIT)

    def link(self, name: str, will: Will | None = None, session_expiry_s: int = 0) -> Link:
        return self.broker.link(name, will, session_expiry_s=session_expiry_s)

    def vanish(self, link) -> None:
        link.drop()

    def crash(self) -> None:
        self.broker.stop()

    def restart(self) -> None:
        self.broker.start()

    def close(self) -> None:
        pass


class RealSite:
    """What the sites with sockets share: links are PahoLinks, a vanished client is a socket shut from outside."""

    tls = False

    def __init__(self, keys: Path, directory: Path) -> None:
        self.keys, self.directory = keys, directory
        self.port = 0
        self.links: list[PahoLink] = []

    def link(self, name: str, will: Will | None = None, session_expiry_s: int = 0) -> PahoLink:
        tls = identity.paths(self.keys, name) if self.tls else None
        end = Endpoint("127.0.0.1", self.port, name, tls, session_expiry_s=session_expiry_s)
        link = PahoLink(end, will, reconnect_s=QUICK)
        self.links.append(link)
        assert link.wait_connected(10), link.disconnect_reason
        return link

    def vanish(self, link: PahoLink) -> None:
        """As if the power were cut: the client never says goodbye and never comes back."""
        link._closing.set()  # so that it does not reconnect
        link._client.socket().shutdown(socket.SHUT_RDWR)
        link._thread.join(10)

    def close(self) -> None:
        for link in self.links:
            link.close()


class EmbeddedSite(RealSite):
    kind = "embedded"
    access: Access = OpenDoor()

    def __init__(self, keys: Path, directory: Path) -> None:
        super().__init__(keys, directory)
        self.restart()

    def server_tls(self) -> Tls | None:
        return identity.paths(self.keys, "server") if self.tls else None

    def restart(self) -> None:
        self.broker = BrokerThread(self.access, port=self.port, tls=self.server_tls())
        self.port = self.broker.start()

    def crash(self) -> None:
        self.broker.stop(abruptly=True)

    def close(self) -> None:
        super().close()
        self.broker.stop()


class EmbeddedTlsSite(EmbeddedSite):
    tls = True


class EmbeddedRuledSite(EmbeddedTlsSite):
    """With the house rules, as `python -m edged.broker` runs it."""

    access = Acl("site")


class MosquittoSite(RealSite):
    kind = "mosquitto"

    def __init__(self, keys: Path, directory: Path) -> None:
        super().__init__(keys, directory)
        self.binary = mosquitto_binary()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.restart()

    def configuration(self) -> str:
        return (
            f"user root\nlistener {self.port} 127.0.0.1\nallow_anonymous true\nmax_packet_size {LIMIT}\n"
            "max_queued_messages 0\nset_tcp_nodelay true\n"
        )

    def restart(self) -> None:
        file = self.directory / "mosquitto.conf"
        file.write_text(self.configuration())
        with (self.directory / "mosquitto.log").open("ab") as log:
            self.process = subprocess.Popen([self.binary, "-c", str(file)], stderr=log)
        while not answers(self.port):
            if self.process.poll() is not None:
                pytest.fail("mosquitto did not start:\n" + (self.directory / "mosquitto.log").read_text())
            SystemClock().sleep(0.02)

    def crash(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        super().close()
        self.crash()


class MosquittoTlsSite(MosquittoSite):
    tls = True

    def configuration(self) -> str:
        server = identity.paths(self.keys, "server")
        return super().configuration().replace("allow_anonymous true", "allow_anonymous false") + (
            f"cafile {server.ca}\ncertfile {server.cert}\nkeyfile {server.key}\n"
            "require_certificate true\nuse_identity_as_username true\nuse_username_as_clientid true\n"
        )


class MosquittoRuledSite(MosquittoSite):
    """With the two files that edged writes for production."""

    tls = True

    def configuration(self) -> str:
        acl, data = self.directory / "acl", self.directory / "data"
        acl.write_text(render_acl("site"))
        acl.chmod(0o600)
        data.mkdir(exist_ok=True)
        server = identity.paths(self.keys, "server")
        # root: mosquitto would otherwise become another user before it reads the key of this test
        return render_conf(host="127.0.0.1", port=self.port, tls=server, acl_file=acl, data_dir=data, user="root")


def mosquitto_binary() -> str:
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("mosquitto is not installed")
    return found


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def keys(tmp_path_factory) -> Path:
    """A site's keys, with a certificate for everyone."""
    directory = tmp_path_factory.mktemp("site") / "keys"
    now = SystemClock().now()
    identity.make_ca(directory, "site", now)
    identity.issue(directory, "server", server=True, hosts=["127.0.0.1", "localhost"], now=now)
    for name in (*CLIENTS, "probe", "homeassistant"):
        identity.issue(directory, name, server=False, now=now)
    return directory


KINDS = [
    pytest.param(MemorySite, id="memory"),
    pytest.param(EmbeddedSite, id="embedded"),
    pytest.param(EmbeddedTlsSite, id="embedded-tls"),
    pytest.param(MosquittoSite, id="mosquitto", marks=pytest.mark.mosquitto),
    pytest.param(MosquittoTlsSite, id="mosquitto-tls", marks=pytest.mark.mosquitto),
]


@pytest.fixture(params=KINDS)
def site(request, keys, tmp_path):
    made = request.param(keys, tmp_path)
    yield made
    made.close()


@pytest.fixture(
    params=[
        pytest.param(EmbeddedRuledSite, id="embedded"),
        pytest.param(MosquittoRuledSite, id="mosquitto", marks=pytest.mark.mosquitto),
    ]
)
def ruled(request, keys, tmp_path):
    """A site with the house rules."""
    made = request.param(keys, tmp_path)
    yield made
    made.close()
