"""The attacks that the specification of The Update Framework names (1.5.2, "Goals to protect against specific attacks"),
each over the camera's own path: retained messages, the wish, its updater, python-tuf, its slots.

A thief holds some of the site's keys, or none. The control of each is the same move by who holds them all.
"""

import itertools
import re
from collections import Counter

import pytest
from msgspec.structs import replace
from securesystemslib.signer import CryptoSigner
from tuf.ngclient import UpdaterConfig

from agent.active import Probation
from edged.wire.messages import encode
from tests.agent.conftest import Site, classifier
from tests.attacks.conftest import MIB, sha

TALLY = Counter()
ONLINE = ("timestamp", "snapshot", "targets")


def ends(victim, job="job-66", seconds=0.1):
    """How the job ended, as the camera says."""
    victim.see(6)
    victim.until(lambda: victim.box.over(job), seconds=seconds)
    return victim.box.last


def refused(victim, word, job="job-66", status="REJECTED", seconds=0.1):
    """The camera says so in a sentence, and nothing got in."""
    last = ends(victim, job, seconds)
    accepted = victim.accepted()
    TALLY["tried"] += 1
    TALLY["accepted"] += bool(accepted)
    assert accepted == []
    assert last.status == status, last
    assert word in last.detail, last.detail
    assert victim.agent.active.slot.release == 1


def got_in(victim, number=66):
    """The control: the very same move, with the keys that it needs."""
    last = ends(victim, f"job-{number}")
    TALLY["controls"] += 1
    assert last.status == "SUCCEEDED", last
    assert victim.agent.active.slot.release == number


# --- arbitrary software installation


def test_arbitrary_software_is_not_installed(victim, thief):
    """Metadata for a file of the attacker's own, signed with keys of the attacker's own."""
    forger = thief()
    forger.add("parking/66.onnx", victim.evil)
    victim.metas(forger.publish())
    forger.wish()
    refused(victim, "not signed")
    victim.heal()


def test_arbitrary_software_in_the_place_of_a_signed_file_is_not_installed(victim):
    """The metadata is right, the bytes are not, and no chunk was compared: python-tuf stands alone."""
    victim.wait_for_chunks()
    part = victim.part
    part.path.write_bytes(victim.evil[: part.length].ljust(part.length, b"x"))
    part._missing.clear()
    refused(victim, "not those that were signed", job="job-2")
    victim.heal()


# --- endless data


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "root"])
def test_metadata_without_end_is_cut_off(victim, role):
    for name, data in victim.box.repository.files().items():
        victim.meta(name, data.ljust(MIB, b" ") if role in name else data)
    if role == "root":
        victim.meta("2.root.json", b" " * MIB)
    victim.says("model/desired", encode(victim.desired))
    refused(victim, "exceeding the maximum allowed length", job="job-2")
    victim.heal()


def test_a_file_that_is_longer_than_signed_is_cut_off(victim):
    victim.wait_for_chunks()
    length = victim.part.path.stat().st_size
    for sha256, data in victim.pieces:
        victim.chunk(sha256, data * 100)
    victim.run(3)
    assert victim.part.path.stat().st_size == length == len(victim.second)
    assert victim.accepted() == []
    TALLY["tried"] += 1
    victim.heal()


# --- extraneous dependencies


def test_nothing_is_fetched_that_the_signed_release_does_not_name(victim, thief):
    """An attacker cannot add a file to a release: what is not in its signed description is not asked for."""
    forger = thief("timestamp", "snapshot")
    forger.targets.targets["parking/2.onnx"].unrecognized_fields["custom"]["ways"] = [
        {"form": "packed", "sha256": sha(victim.evil), "bytes": 10, "chunks": [sha(victim.evil)]}
    ]
    victim.metas(forger.publish())
    victim.says("model/desired", encode(victim.desired))
    refused(victim, "not signed", job="job-2")


@pytest.mark.parametrize("followed", [False, True], ids=["", "control"])
def test_a_role_that_the_site_s_keys_delegate_to_is_not_followed(victim, thief, monkeypatch, followed):
    """No delegations: even who holds all the keys cannot let somebody else vouch for models."""
    from tuf.api.metadata import DelegatedRole, Delegations, MetaFile, Targets

    from agent import client, metadata

    if followed:
        monkeypatch.setattr(client, "UpdaterConfig", lambda **_: UpdaterConfig())
        monkeypatch.setattr(metadata, "_FILE", re.compile(".*"))
    owner = thief(*ONLINE)
    owner.add("parking/66.onnx", victim.evil, known_answer=_answer(victim.evil))
    helper = Targets(
        expires=owner.targets.expires, targets={"parking/66.onnx": owner.targets.targets.pop("parking/66.onnx")}
    )
    owner.signers["helper"] = CryptoSigner.generate_ed25519()
    owner.targets.delegations = Delegations({}, roles={"helper": DelegatedRole("helper", [], 1, False, ["parking/*"])})
    owner.targets.add_key(owner.signers["helper"].public_key, "helper")
    owner.snapshot.meta["helper.json"] = MetaFile(1)
    victim.metas(owner.publish() | {"1.helper.json": owner.signed(helper, "helper")})
    owner.wish()
    got_in(victim) if followed else refused(victim, "do not vouch")


# --- fast-forward


def test_versions_cannot_be_pushed_ahead_without_the_key(victim, thief):
    forger = thief()
    victim.metas(forger.publish(step=2**31))
    forger.wish()
    refused(victim, "not signed")
    victim.heal()


def test_versions_that_a_stolen_key_pushed_ahead_come_back_with_new_keys(victim, thief):
    """Specification 5.3.11: when the root names new keys for timestamp and snapshot, old versions of them are forgotten."""
    forger = thief(*ONLINE)
    victim.metas(forger.publish(step=10**6))
    victim.says("model/desired", encode(victim.desired), retain=True)
    got_in(victim, 2)
    owner = thief("root", "targets")  # new keys for the others; the versions are those of before
    for role in ("snapshot", "timestamp"):
        (keyid,) = owner.root.roles[role].keyids
        owner.root.revoke_key(keyid, role)
        owner.root.add_key(owner.signers[role].public_key, role)
    owner.root.version += 1
    owner.add("parking/5.onnx", victim.first, known_answer=_answer(victim.first))
    victim.metas(owner.publish() | {f"{owner.root.version}.root.json": owner.signed(owner.root)})
    owner.wish(5, victim.first)
    got_in(victim, 5)


# --- indefinite freeze


def test_a_site_that_is_frozen_is_noticed_when_its_timestamp_ends(victim):
    victim.box.publish_metadata()  # and from now on whoever sits in between lets nothing newer through
    victim.clock.t += 7.5 * 86400
    victim.says("model/desired", encode(victim.desired), retain=True)
    refused(victim, "expired", job="job-2")


def test_a_freeze_is_not_helped_by_turning_the_camera_s_clock_back(victim):
    victim.box.publish_metadata()
    victim.clock.t += 7.5 * 86400
    victim.see(1)
    victim.run(3)
    victim.box.receipt(victim.box.frames[-1], "stored")
    victim.see(1)
    victim.box.receipt_status = ""
    victim.run(3)
    victim.box.receipt(victim.box.frames[-1], "stored", ts=victim.clock.now())  # what the box says of the time
    victim.run(1)
    at, victim.agent.updater.trust._now = victim.clock.now(), lambda: 1000.0
    victim.time = at - victim.clock.now()
    victim.says("model/desired", encode(victim.desired), retain=True)
    victim.box.receipt_status = "stored"
    last = ends(victim, "job-2")
    TALLY["tried"] += 1
    assert (last.status, victim.agent.active.slot.release) == ("REJECTED", 1)
    assert "expired" in last.detail


# --- malicious mirrors


def test_a_mirror_that_lies_costs_time_only(victim):
    """What it holds back, changes or makes up; then an honest one is heard."""
    for name, data in victim.box.repository.files().items():
        victim.meta(name, data.replace(b"parking/2", b"parking/6"))
    victim.says("model/desired", encode(replace(victim.evil_wish(), target="parking/6.onnx")))
    refused(victim, "not those that were signed")
    victim.heal()


# --- mix and match


def test_parts_of_two_states_are_not_mixed(victim, thief):
    """A timestamp of now with the snapshot of another moment, and a snapshot with the targets of another."""
    now, forger = victim.box.repository.files(), thief(*ONLINE)
    forger.until(86400.0)
    other = forger.publish(step=0)  # the same versions, other content
    for role in ("snapshot", "targets"):
        mixed = {name: other.get(name, data) if f".{role}." in name else data for name, data in now.items()}
        assert mixed != now
        victim.metas(mixed)
        victim.says("model/desired", encode(replace(victim.desired, job=f"job-{role}")))
        refused(victim, "not those that were signed", job=f"job-{role}")
    victim.heal()


# --- rollback


@pytest.mark.parametrize("role", ONLINE)
def test_what_was_trusted_is_not_rolled_back(victim, thief, role):
    """Even with the key of the role stolen its version only grows; the control steps ahead instead."""
    victim.box.publish_metadata()
    victim.says("model/desired", encode(victim.evil_wish()), retain=True)
    ends(victim)  # the camera has now seen today's metadata
    forger = thief(*ONLINE)
    old = {"timestamp": forger.timestamp, "snapshot": forger.snapshot, "targets": forger.targets}[role]
    old.version -= 2
    files = forger.publish(step=1)
    assert old.version < {"timestamp": 99, "snapshot": 99, "targets": 99}[role]
    victim.metas(files)
    victim.says("model/desired", encode(replace(victim.desired, job="job-back")), retain=True)
    refused(victim, "older", job="job-back")


def test_the_control_of_rollback_the_same_keys_may_step_ahead(victim, thief):
    victim.box.publish_metadata()
    victim.says("model/desired", encode(victim.evil_wish()), retain=True)
    ends(victim)
    victim.metas(thief(*ONLINE).publish())
    victim.says("model/desired", encode(victim.desired), retain=True)
    got_in(victim, 2)


# --- slow retrieval: tests/attacks/test_transport.py::test_who_sends_just_enough_to_be_waited_for_is_given_up


# --- vulnerability to key compromises


@pytest.mark.parametrize(
    "stolen", [s for n in range(3) for s in itertools.combinations(ONLINE, n)], ids=lambda s: " and ".join(s) or "none"
)
def test_with_some_of_the_keys_no_model_can_be_published(victim, thief, stolen):
    forger = thief(*stolen)
    forger.add("parking/66.onnx", victim.evil)
    victim.metas(forger.publish())
    forger.wish()
    refused(victim, "not signed")


def test_the_control_of_key_compromises_with_all_three_a_model_can_be_published(victim, thief):
    forger = thief(*ONLINE)
    forger.add("parking/66.onnx", victim.evil, known_answer=_answer(victim.evil))
    victim.metas(forger.publish())
    forger.wish()
    got_in(victim)
    assert victim.accepted()


def _answer(model):
    from tests.agent.conftest import known_answer

    return known_answer(model)


def _two_of_two(forger):
    """A root that wants two signatures; returns its file and the second key's signer."""
    second = CryptoSigner.generate_ed25519()
    forger.signers["second"] = second
    forger.root.add_key(second.public_key, "root")
    forger.root.roles["root"].threshold = 2
    forger.root.version += 1
    return {f"{forger.root.version}.root.json": forger.signed(forger.root, "root", "second")}


@pytest.mark.parametrize("signers", [("root",), ("second",), ("root", "second")], ids=" and ".join)
def test_with_one_of_two_root_keys_nobody_takes_the_site_over(victim, thief, signers):
    """The thief's next root names the thief's keys for all that is online. Both root keys are the control."""
    owner = thief("root", *ONLINE)
    victim.metas(_two_of_two(owner) | owner.publish())
    victim.says("model/desired", encode(replace(victim.desired, job="job-2")), retain=True)
    got_in(victim, 2)
    forger = thief("root")
    forger.root, forger.signers["second"] = owner.root, owner.signers["second"]
    for role in ONLINE:
        (keyid,) = forger.root.roles[role].keyids
        forger.root.revoke_key(keyid, role)
        forger.root.add_key(forger.signers[role].public_key, role)
    forger.root.version += 1
    for mine, theirs in ((forger.timestamp, owner.timestamp), (forger.snapshot, owner.snapshot)):
        mine.version = theirs.version
    forger.targets.version = owner.targets.version
    forger.add("parking/66.onnx", victim.evil, known_answer=_answer(victim.evil))
    victim.metas(forger.publish() | {f"{forger.root.version}.root.json": forger.signed(forger.root, *signers)})
    forger.wish()
    if len(signers) == 2:
        got_in(victim)
        return
    last = ends(victim)
    TALLY["tried"] += 1
    assert (last.status, victim.agent.active.slot.release) == ("REJECTED", 2)
    assert "not signed" in last.detail
    assert victim.accepted() == []


# --- wrong software installation


@pytest.mark.parametrize(
    ("custom", "word"),
    [({"hardware": ["other-cam"]}, "other-cam"), ({"min_agent": "99"}, "99"), ({"name": "gate"}, "describes itself")],
    ids=["of other hardware", "of a later agent", "of another name"],
)
def test_signed_software_that_is_not_for_this_camera_is_not_installed(victim, thief, custom, word):
    everybody = thief(*ONLINE)
    everybody.add("parking/66.onnx", victim.second, **custom)
    victim.metas(everybody.publish())
    everybody.wish(66, victim.second)
    refused(victim, word)


def test_a_signed_file_under_the_number_of_another_is_not_installed(victim):
    victim.box.publish_metadata()
    victim.says("model/desired", encode(replace(victim.desired, job="job-66", target="parking/1.onnx")))
    refused(victim, "not what the site's keys vouch for")


def test_another_site_s_signed_software_is_not_installed(victim, tmp_path):
    (folder := tmp_path / "other").mkdir()
    stranger = Site(folder)
    stranger.options = {"probation": Probation(frames=3, seconds=30.0, shadow=0.0)}
    desired = stranger.box.release(66, classifier(66))
    victim.metas(stranger.box.repository.files())
    victim.files_before = victim.outside()
    victim.says("model/desired", encode(desired), retain=True)
    refused(victim, "not signed")


def test_the_count_of_attacks(capsys):
    with capsys.disabled():
        print(f"\nattacks on the framework: {TALLY['tried']} tried, {TALLY['accepted']} accepted; ", end="")
        print(f"controls: {TALLY['controls']} got in, as they must")
    assert TALLY["accepted"] == 0
