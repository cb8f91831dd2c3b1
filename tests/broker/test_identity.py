"""The site's certificates."""

from __future__ import annotations

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from edged.broker import identity
from edged.broker.connection import common_name
from edged.errors import Corrupt, Refused

NOW = 1_800_000_000.0


@pytest.fixture
def keys(tmp_path):
    directory = tmp_path / "deep" / "keys"
    identity.make_ca(directory, "plant-a", NOW)
    return directory


def test_keys_are_for_their_owner_only(keys):
    identity.issue(keys, "server", server=True, hosts=["127.0.0.1", "edge.local"], now=NOW)
    identity.issue(keys, "gate", server=False, now=NOW)
    assert keys.stat().st_mode & 0o777 == 0o700
    names = {path.name for path in keys.iterdir()}
    assert names == {"ca.pem", "ca.key", "server.pem", "server.key", "cam-gate.pem", "cam-gate.key"}
    assert {path.stat().st_mode & 0o777 for path in keys.iterdir()} == {0o600}


def test_nothing_is_overwritten(keys):
    identity.issue(keys, "gate", server=False, now=NOW)
    before = {path: path.read_bytes() for path in keys.iterdir()}
    with pytest.raises(Refused, match="exists already"):
        identity.make_ca(keys, "plant-a", NOW)
    with pytest.raises(Refused, match="exists already"):
        identity.issue(keys, "gate", server=False, now=NOW)
    (keys / "cam-gate.pem").unlink()
    with pytest.raises(Refused, match="exists already"):
        identity.issue(keys, "gate", server=False, now=NOW)
    del before[keys / "cam-gate.pem"]
    assert {path: path.read_bytes() for path in keys.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "server"), [("server", False), ("gate", True), ("../gate", False), ("GATE", False), ("", False)]
)
def test_no_camera_may_be_called_like_the_box_or_like_no_name(keys, name, server):
    with pytest.raises(Refused):
        identity.issue(keys, name, server=server, hosts=["127.0.0.1"], now=NOW)


def test_a_camera_that_woke_in_1970_may_come_in_and_time_still_ends_it(keys):
    tls = identity.issue(keys, "gate", server=False, now=NOW)
    certificate = x509.load_pem_x509_certificate((keys / "cam-gate.pem").read_bytes())
    assert certificate.not_valid_before_utc.timestamp() == 0
    assert identity.expires(keys / "cam-gate.pem") == NOW + identity.LEAF_DAYS * 86400
    assert identity.paths(keys, "gate") == tls
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.ExtendedKeyUsageOID.CLIENT_AUTH]  # a camera's certificate is no server's


def test_a_missing_or_damaged_ca_is_told_apart(keys, tmp_path):
    with pytest.raises(Refused, match="no certificate authority"):
        identity.issue(tmp_path, "gate", server=False, now=NOW)
    (keys / "ca.key").write_bytes(b"-----BEGIN")
    with pytest.raises(Corrupt):
        identity.issue(keys, "gate", server=False, now=NOW)


@given(st.text())
def test_only_a_name_that_can_be_a_level_is_an_identity(name):
    got = common_name({"subject": ((("commonName", name),),)})
    assert got is None or not set(got) - set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert common_name({"subject": ((("commonName", "gate"),), (("commonName", name),))}) is None
