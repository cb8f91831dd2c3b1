"""A camera signs what it says of itself and its models with the key that it connects by; a broker hands that on as it came."""

import pytest

from agent import cli
from agent.settings import Settings
from edged.broker import identity
from edged.broker.acl import Acl
from edged.broker.server import BrokerThread
from edged.errors import Misconfigured
from edged.wire import topics
from edged.wire.link import Endpoint
from edged.wire.paho import PahoLink
from edged.wire.signature import Signer, Verifier


@pytest.fixture
def keys(tmp_path, make):
    folder = tmp_path / "keys"
    identity.make_ca(folder, make.SITE, 1_790_000_000.0)
    identity.issue(folder, make.CAMERA, server=False, now=1_790_000_000.0)
    return folder


def settings(keys, make, **more):
    files = {"ca": "ca.pem", "cert": f"cam-{make.CAMERA}.pem", "key": f"cam-{make.CAMERA}.key"}
    given = {"site": make.SITE, "camera": make.CAMERA, "broker": "127.0.0.1:1", "root": "r", "state": "s"}
    return Settings(**(given | {name: str(keys / file) for name, file in files.items()} | more))


def test_what_it_is_and_every_report_of_an_update_is_signed_and_nothing_else_is(site, keys, make):
    agent = site.start()
    agent._signer = cli._signer(settings(keys, make))
    site.install()
    verifier = Verifier((keys / "ca.pem").read_bytes())
    said = [m for name, m in site.broker.log if name == make.CAMERA]
    signing = {topics.cam(make.SITE, make.CAMERA, leaf) for leaf in ("info", "model/reported")}
    for topic in signing:
        words = [m for m in said if m.topic == topic]
        assert len(words) >= 2, topic
        for m in words:
            verifier.check(make.CAMERA, m.topic, m.payload, m.properties, site.clock.now())
    assert not [m for m in said if m.topic not in signing and "sig" in dict(m.properties)]


def test_without_a_key_nothing_is_signed_and_one_that_cannot_be_read_is_named(keys, make, tmp_path):
    assert cli._signer(settings(keys, make, ca="", cert="", key="")) is None
    with pytest.raises(Misconfigured, match="nowhere"):
        cli._signer(settings(keys, make, key=str(tmp_path / "nowhere")))


def test_a_retained_report_still_verifies_for_who_asks_later(keys, make):
    topic = topics.cam(make.SITE, make.CAMERA, "model/reported")
    signer = Signer(*((keys / f"cam-{make.CAMERA}{end}").read_bytes() for end in (".pem", ".key")))
    with BrokerThread(Acl(make.SITE)) as broker:
        camera = PahoLink(Endpoint("127.0.0.1", broker.port, make.CAMERA))
        assert camera.wait_connected(10)
        camera.publish(topic, b"{}", properties=signer.properties(topic, b"{}"), retain=True)
        while camera.backlog():
            camera.receive(0.01)
        camera.close()
        box = PahoLink(Endpoint("127.0.0.1", broker.port, "server"))
        box.subscribe(topic)
        heard = box.receive(10)
        box.close()
    Verifier((keys / "ca.pem").read_bytes()).check(make.CAMERA, topic, heard.payload, heard.properties, 1_790_000_000.0)
