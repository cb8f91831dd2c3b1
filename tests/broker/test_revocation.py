"""A certificate that was taken back: nobody comes in with it, and nothing it signed counts."""

import contextlib
import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from edged.broker import identity, revocation
from edged.broker.acl import OpenDoor
from edged.broker.revocation import begin, listed, revoke, shut_out
from edged.broker.server import SWEEP_S, BrokerThread
from edged.errors import Corrupt, Refused
from edged.wire.tls import client_context

NOW = 1_800_000_000.0


@pytest.fixture
def keys(tmp_path):
    identity.make_ca(tmp_path, "plant-a", NOW)
    identity.issue(tmp_path, "server", server=True, hosts=("127.0.0.1",), now=NOW)
    for name in ("gate", "yard"):
        identity.issue(tmp_path, name, server=False, now=NOW)
    return tmp_path


def serial_of(path):
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


def enters(broker, tls):
    """Whether a client gets past the handshake (TLS 1.3 tells it with the first bytes that it reads)."""
    context = client_context(tls)
    try:
        raw = socket.create_connection(("127.0.0.1", broker.port), 5)
        with raw, context.wrap_socket(raw, server_hostname="127.0.0.1") as wrapped:
            wrapped.settimeout(0.5)
            return wrapped.recv(1) != b""
    except TimeoutError:  # it waits for our CONNECT
        return True
    except (ssl.SSLError, ConnectionError):
        return False


def test_who_was_revoked_is_sent_away_and_does_not_come_in_again_while_others_and_its_new_certificate_do(keys):
    old = keys / "old"
    old.mkdir()
    for end in ("pem", "key"):
        (old / f"cam-gate.{end}").write_bytes((keys / f"cam-gate.{end}").read_bytes())
    stolen = type(identity.paths(keys, "gate"))(
        str(keys / "ca.pem"), str(old / "cam-gate.pem"), str(old / "cam-gate.key")
    )
    with BrokerThread(OpenDoor(), tls=identity.paths(keys, "server")) as broker:
        assert enters(broker, stolen)
        raw = socket.create_connection(("127.0.0.1", broker.port), 5)
        with client_context(stolen).wrap_socket(raw, server_hostname="127.0.0.1") as inside:
            revoke(keys, "gate", NOW)
            inside.settimeout(20 * SWEEP_S)
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                assert inside.recv(100) is not None  # a word of farewell, or nothing
        assert not enters(broker, stolen)
        assert enters(broker, identity.paths(keys, "yard"))
        identity.issue(keys, "gate", server=False, now=NOW)
        assert enters(broker, identity.paths(keys, "gate"))


def test_a_broker_that_starts_with_the_list_obeys_it(keys):
    stolen = identity.paths(keys, "yard")
    kept = {path: Path(path).read_bytes() for path in (stolen.cert, stolen.key)}
    revoke(keys, "yard", NOW)
    for path, data in kept.items():
        Path(path).write_bytes(data)
    with BrokerThread(OpenDoor(), tls=identity.paths(keys, "server")) as broker:
        assert not enters(broker, stolen)
        assert enters(broker, identity.paths(keys, "gate"))


def test_the_list_grows_and_doing_it_twice_is_doing_it_once(keys):
    first, second = serial_of(keys / "cam-gate.pem"), serial_of(keys / "cam-yard.pem")
    assert listed(keys) == []
    assert revoke(keys, "gate", NOW) == f"{first:x}"
    assert not (keys / "cam-gate.key").exists()
    [moved] = keys.glob("cam-gate.*.revoked.pem")
    assert serial_of(moved) == first
    revoke(keys, "gate", NOW + 5, moved)
    revoke(keys, "yard", NOW + 9)
    assert [e.serial_number for e in listed(keys)] == [first, second]
    crl = x509.load_pem_x509_crl((keys / "ca.crl").read_bytes())
    assert crl.is_signature_valid(x509.load_pem_x509_certificate((keys / "ca.pem").read_bytes()).public_key())


def test_each_list_is_newer_than_the_one_before_and_valid_for_a_box_that_wakes_in_1970(keys):
    begin(keys)
    empty = x509.load_pem_x509_crl((keys / "ca.crl").read_bytes())
    assert list(empty) == []
    revoke(keys, "gate", NOW)
    begin(keys)  # what is there stays
    one = x509.load_pem_x509_crl((keys / "ca.crl").read_bytes())
    revoke(keys, "yard", NOW)
    two = x509.load_pem_x509_crl((keys / "ca.crl").read_bytes())
    assert empty.last_update_utc < one.last_update_utc < two.last_update_utc < datetime(1970, 1, 1, 0, 1, tzinfo=UTC)
    assert [len(crl) for crl in (empty, one, two)] == [0, 1, 2]


def test_what_cannot_be_revoked_is_said_and_the_list_stays(keys, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    identity.make_ca(other, "plant-a", NOW)
    identity.issue(other, "gate", server=False, now=NOW)
    for name, path, words in (
        ("door", None, "there is no certificate of door"),
        ("gate", keys / "cam-yard.pem", "is the certificate of yard, not of gate"),
        ("gate", other / "cam-gate.pem", "was not issued by this site's authority"),
    ):
        with pytest.raises(Refused, match=words):
            revoke(keys, name, NOW, path)
    assert listed(keys) == []
    (keys / "ca.crl").write_bytes(b"nonsense")
    with pytest.raises(Corrupt):
        revoke(keys, "gate", NOW)
    assert (keys / "cam-gate.key").exists()


def test_a_list_of_nobody_keeps_nobody_out(keys):
    begin(keys)
    with BrokerThread(OpenDoor(), tls=identity.paths(keys, "server")) as broker:
        assert enters(broker, identity.paths(keys, "gate"))


def test_who_has_but_revoked_certificates_is_shut_out_until_another_is_issued(keys, tmp_path_factory):
    away = tmp_path_factory.mktemp("away") / "gate.pem"
    (keys / "cam-gate.pem").rename(away)
    assert dict(shut_out(keys)) == {}
    revoke(keys, "gate", NOW, away)
    revoke(keys, "yard", NOW + 9)
    assert dict(shut_out(keys)) == {"gate": NOW, "yard": NOW + 9}
    assert not (keys / "cam-gate.pem").exists()
    (keys / "cam-gate.key").unlink()
    identity.issue(keys, "gate", server=False, now=NOW)
    assert dict(shut_out(keys)) == {"yard": NOW + 9}


def test_who_was_revoked_and_has_no_other_is_named_again_and_stands_once_in_the_list(keys):
    serial = revoke(keys, "yard", NOW)
    assert revoke(keys, "yard", NOW + 5) == serial
    assert [e.revocation_date_utc.timestamp() for e in listed(keys)] == [NOW]


def test_what_is_shut_out_is_read_again_only_when_something_changed(keys, monkeypatch):
    revoke(keys, "yard", NOW)
    assert dict(shut_out(keys)) == {"yard": NOW}
    read = []
    monkeypatch.setattr(revocation, "listed", lambda keys: read.append(keys) or [])
    for _ in range(100):
        assert dict(shut_out(keys)) == {"yard": NOW}
    assert read == []
