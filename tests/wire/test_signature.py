"""What a camera said is known from what somebody else said in its name, or it on another topic."""

import base64

import pytest

from edged.broker import identity
from edged.broker.revocation import revoke
from edged.errors import Misconfigured, Refused
from edged.wire.signature import Signer, Verifier

NOW = 1_790_000_000.0
TOPIC = "edged/1/plant-a/cam/gate/model/reported"
SAID = b'{"job":"release-7","status":"SUCCEEDED"}'


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    identity.make_ca(folder, "plant-a", NOW)
    for name in ("gate", "yard"):
        identity.issue(folder, name, server=False, now=NOW)
    return folder


def signer(keys, name="gate"):
    return Signer((keys / f"cam-{name}.pem").read_bytes(), (keys / f"cam-{name}.key").read_bytes())


def signed(keys, name="gate", topic=TOPIC, payload=SAID):
    return list(signer(keys, name).properties(topic, payload).items())


@pytest.fixture
def verifier(keys):
    return Verifier((keys / "ca.pem").read_bytes())


def refused(verifier, properties, *, camera="gate", topic=TOPIC, payload=SAID, now=NOW):
    with pytest.raises(Refused) as e:
        verifier.check(camera, topic, payload, properties, now)
    return e.value.code


def test_what_a_camera_signed_passes_as_often_as_it_is_said(verifier, keys):
    properties = signed(keys)
    for _ in range(3):
        verifier.check("gate", TOPIC, SAID, properties, NOW)
    verifier.check("gate", TOPIC, SAID, [("other", "x"), *signed(keys)], NOW)


def test_another_payload_topic_or_camera_does_not_pass(verifier, keys):
    assert refused(verifier, []) == "unsigned"
    assert refused(verifier, signed(keys), payload=SAID.replace(b"7", b"8")) == "forged"
    yard = TOPIC.replace("gate", "yard")
    assert refused(verifier, signed(keys), camera="yard", topic=yard) == "foreign"
    assert refused(verifier, signed(keys, "yard")) == "foreign"
    assert refused(verifier, signed(keys, topic=yard)) == "forged"  # its own key, said elsewhere
    mixed = [("sig", dict(signed(keys, "yard"))["sig"]), ("cert", dict(signed(keys))["cert"])]
    assert refused(verifier, mixed) == "forged"


@pytest.mark.parametrize(
    "change",
    [
        lambda p: [x for x in p if x[0] == "cert"],
        lambda p: [x for x in p if x[0] == "sig"],
        lambda p: [*p, *p],
        lambda p: [("sig", "!!"), p[1]],
        lambda p: [("sig", ""), p[1]],
        lambda p: [p[0], ("cert", "A" * 9000)],
        lambda p: [p[0], ("cert", base64.b64encode(b"no certificate").decode())],
        lambda p: [("sig", base64.b64encode(b"\0" * 70).decode()), p[1]],
        lambda p: [("sig", "\ud800"), p[1]],
        lambda p: [p[0], ("cert", "é")],
    ],
)
def test_a_signature_that_is_not_whole_is_forged(verifier, keys, change):
    assert refused(verifier, change(signed(keys))) == "forged"


def test_a_certificate_of_another_authority_or_of_another_time_is_foreign(verifier, keys, tmp_path):
    identity.make_ca(tmp_path, "plant-a", NOW)  # the same names, another key
    identity.issue(tmp_path, "gate", server=False, now=NOW)
    assert refused(verifier, signed(tmp_path)) == "foreign"
    assert refused(verifier, signed(keys), now=NOW + 11 * 365 * 86400) == "foreign"
    verifier.check("gate", TOPIC, SAID, signed(keys), 86400.0)  # a box whose clock starts in 1970


def test_the_authority_itself_is_no_camera(verifier, keys):
    with pytest.raises(Misconfigured):
        Signer((keys / "cam-gate.pem").read_bytes(), (keys / "cam-yard.key").read_bytes())
    own = Signer((keys / "ca.pem").read_bytes(), (keys / "ca.key").read_bytes())
    assert refused(verifier, list(own.properties(TOPIC, SAID).items())) == "foreign"


def test_keys_that_do_not_read_are_said_at_once(keys):
    for cert, key in ((b"", b""), (b"x", (keys / "cam-gate.key").read_bytes())):
        with pytest.raises(Misconfigured):
            Signer(cert, key)
    with pytest.raises(Misconfigured):
        Verifier(b"nothing")


def test_what_a_revoked_certificate_signed_passes_no_more_and_a_new_one_does(tmp_path):
    identity.make_ca(tmp_path, "plant-a", NOW)
    for name in ("gate", "yard"):
        identity.issue(tmp_path, name, server=False, now=NOW)
    verifier = Verifier((tmp_path / "ca.pem").read_bytes(), tmp_path / "ca.crl")
    stolen = signed(tmp_path)
    verifier.check("gate", TOPIC, SAID, stolen, NOW)
    revoke(tmp_path, "gate", NOW)
    assert refused(verifier, stolen) == "revoked"
    identity.issue(tmp_path, "gate", server=False, now=NOW)
    verifier.check("gate", TOPIC, SAID, signed(tmp_path), NOW)
    assert refused(verifier, stolen) == "revoked"
    (tmp_path / "ca.crl").write_bytes(b"nonsense")  # the last one holds
    assert refused(verifier, stolen) == "revoked"
    with pytest.raises(Misconfigured, match="cannot be read"):
        Verifier((tmp_path / "ca.pem").read_bytes(), tmp_path / "ca.crl")


def test_a_list_of_another_authority_is_none(keys, tmp_path):
    identity.make_ca(tmp_path, "plant-a", NOW)
    identity.issue(tmp_path, "gate", server=False, now=NOW)
    revoke(tmp_path, "gate", NOW)
    with pytest.raises(Misconfigured, match="not of this site's authority"):
        Verifier((keys / "ca.pem").read_bytes(), tmp_path / "ca.crl")
