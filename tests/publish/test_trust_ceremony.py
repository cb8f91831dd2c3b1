"""Root keys with a threshold, keys that come and go, and a camera of python-tuf's own that has to follow."""

import itertools
import json
import shutil

import pytest
from tuf.api import exceptions as tuf
from tuf.api.metadata import Metadata

from edged import durable
from edged.errors import Corrupt, EdgedError, Misconfigured, Refused
from edged.publish import ceremony, keyfiles, standing
from edged.publish.ceremony import Ceremony, Change
from edged.publish.keyfiles import ONLINE, NewRoot
from edged.publish.trust import Repository, make_keys
from tests.publish.conftest import CameraSide

MODEL = b"a model" * 1000
NEWER = b"a newer model" * 1000
DAY = 86400.0
KEYS, THRESHOLD = 3, 2


class Site:
    """A box whose root keys are on three sticks, two of which must sign."""

    def __init__(self, folder, clock):
        self.folder, self.clock = folder, clock
        self.tuf, self.keys = folder / "tuf", folder / "keys"
        self.sticks = [folder / f"stick-{n}" for n in range(1, KEYS + 1)]
        for stick in self.sticks:
            stick.mkdir(exist_ok=True)
        self.new = NewRoot.of(KEYS, THRESHOLD, self.sticks)

    def found(self):
        make_keys(self.keys, self.new)
        self.repo.init(self.new)
        return self

    @property
    def repo(self):
        return Repository(self.tuf, self.keys, self.clock)

    @property
    def box(self):
        return Ceremony(self.tuf, self.keys, self.clock)

    def key(self, n):
        return keyfiles.read(self.sticks[n - 1] / f"root-{n}.key")

    def signed(self, prepared, *numbers):
        """A copy of a prepared root with these root keys' signatures, as it comes back on a stick."""
        copy = ceremony.parse(prepared.to_bytes(), "copy")
        for n in numbers:
            ceremony.add_signature(copy, self.key(n), self.box.root().signed)
        return copy

    def change(self, *numbers, **what):
        prepared = self.box.prepare(Change(**what))
        self.box.take([self.signed(prepared, *(numbers or (1, 2)))])


@pytest.fixture(scope="module")
def founded(tmp_path_factory):
    from tests.publish.conftest import FakeClock

    return Site(tmp_path_factory.mktemp("founded"), FakeClock()).found()


@pytest.fixture
def site(tmp_path, founded, clock):
    shutil.copytree(founded.folder, tmp_path / "site")
    return Site(tmp_path / "site", clock)


@pytest.fixture
def camera(tmp_path, site, clock):
    side = CameraSide(tmp_path / "camera", (site.tuf / "1.root.json").read_bytes(), clock)
    side.sees(site.repo)
    return side


def online(site):
    """Whether what lies there is whole, and by whose keys."""
    current = site.box._folder.current()
    return {role: current.root.roles[role].keyids[0] for role in ONLINE}


# founding


def test_a_site_with_two_of_three_root_keys_keeps_none_of_them_and_releases(site, camera):
    assert {p.name for p in site.keys.glob("*.key")} == {f"{role}.key" for role in ONLINE}
    assert all(oct(p.stat().st_mode & 0o777) == "0o600" for s in site.sticks for p in s.glob("*.key"))
    site.repo.add_target("vehicle/1.onnx", MODEL, {"release": 1})
    camera.sees(site.repo, ("vehicle/1.onnx", MODEL))
    assert camera.take("vehicle/1.onnx") == MODEL
    found = standing.look(site.tuf, site.keys, site.clock.now())
    assert (found.roles[0].threshold, len(found.roles[0].keys)) == (2, 3)
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("keys", "threshold", "folders"), [(1, 2, 1), (3, 0, 1), (3, 4, 3), (3, 2, 2), (2, 2, 3), (1, 1, 0)]
)
def test_root_keys_that_cannot_be_are_refused(tmp_path, keys, threshold, folders):
    with pytest.raises(Refused):
        NewRoot.of(keys, threshold, [tmp_path] * folders)


def test_keys_that_cannot_all_be_made_leave_none(tmp_path, site):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "root-2.key").write_text("somebody's")
    with pytest.raises(Refused, match=r"already holds root-2\.key"):
        make_keys(tmp_path / "keys", NewRoot.of(2, 2, [tmp_path / "other"]))
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["root-2.key"]


# thresholds


def test_every_subset_of_keys_below_the_threshold_is_refused_and_changes_nothing(site):
    """All subsets of the three root keys and the three online keys; only those with two root keys may be taken."""
    prepared = site.box.prepare(Change())
    names = [*(f"root-{n}" for n in range(1, KEYS + 1)), *ONLINE]
    signers = {f"root-{n}": site.key(n) for n in range(1, KEYS + 1)}
    signers |= {role: keyfiles.read(site.keys / f"{role}.key") for role in ONLINE}
    refused = 0
    for size in range(len(names) + 1):
        for subset in itertools.combinations(names, size):
            if sum(name.startswith("root") for name in subset) >= THRESHOLD:
                continue
            copy = ceremony.parse(prepared.to_bytes(), "copy")
            for name in subset:
                copy.sign(signers[name], append=True)
            with pytest.raises(Refused) as e:
                site.box.take([copy])
            assert e.value.code == "below_threshold"
            assert f"{sum(n.startswith('root') for n in subset)} of 2 signatures" in str(e.value)
            refused += 1
    print(f"{refused} subsets refused")
    assert refused == (1 + 3) * 2**3
    assert site.box._folder.root_versions() == [1]
    site.box.take([site.signed(prepared, 1, 3)])  # the control: two of three do
    assert site.box._folder.root_versions() == [1, 2]


def test_one_key_that_signs_under_two_names_counts_once(site):
    prepared = site.box.prepare(Change())
    copy = site.signed(prepared, 1)
    (keyid,) = copy.signatures
    twin = json.loads(copy.to_bytes())
    other = next(k for k in prepared.signed.roles["root"].keyids if k != keyid)
    twin["signatures"].append(twin["signatures"][0] | {"keyid": other})
    with pytest.raises(Refused, match="1 of 2"):
        site.box.take([ceremony.parse(json.dumps(twin).encode(), "twin")])


def test_a_root_that_lists_one_key_twice_is_never_taken(site):
    prepared = site.box.prepare(Change())
    key = site.key(1).public_key
    again = type(key)("f" * 64, key.keytype, key.scheme, dict(key.keyval))
    prepared.signed.add_key(again, "root")
    with pytest.raises(Refused, match="twice"):
        site.box.take([site.signed(prepared, 1, 2)])


def test_an_online_key_is_never_a_root_key(site):
    key = keyfiles.read(site.keys / "targets.key").public_key
    with pytest.raises(Refused, match="signs online as well"):
        site.box.prepare(Change(add=(key,)))


def test_copies_signed_in_two_places_are_put_together(site):
    prepared = site.box.prepare(Change())
    one, other = site.signed(prepared, 1), site.signed(prepared, 3)
    site.box.take([one, other])
    assert site.box.root().signed.version == 2


def test_copies_of_different_roots_are_not(site):
    one, other = site.box.prepare(Change()), site.box.prepare(Change(threshold=3))
    with pytest.raises(Refused, match="different roots"):
        site.box.take([site.signed(one, 1), site.signed(other, 2)])


def test_a_raised_threshold_must_be_met_by_the_new_root_too(site):
    prepared = site.box.prepare(Change(threshold=3))
    with pytest.raises(Refused, match="2 of 3 signatures that the new root asks for"):
        site.box.take([site.signed(prepared, 1, 2)])
    site.box.take([site.signed(prepared, 1, 2, 3)])


def test_keys_of_the_new_root_alone_are_not_enough(site, tmp_path):
    """Whoever makes two keys of his own cannot name them."""
    own = [keyfiles.make(tmp_path / f"own-{n}.key") for n in range(2)]
    drop = tuple(site.box.root().signed.roles["root"].keyids)
    prepared = site.box.prepare(Change(add=tuple(own), drop=drop))
    for n in range(2):
        ceremony.add_signature(prepared, keyfiles.read(tmp_path / f"own-{n}.key"))
    with pytest.raises(Refused, match="0 of 2 signatures that the root in force asks for"):
        site.box.take([prepared])


@pytest.mark.parametrize("what", ["skips", "repeats", "past", "online", "wants_two", "no_snapshots"])
def test_a_root_that_does_not_follow_is_refused_however_well_it_is_signed(site, what, tmp_path):
    prepared = site.box.prepare(Change())
    root = prepared.signed
    if what == "skips":
        root.version = 3
    if what == "repeats":
        root.version, root.roles["root"].threshold = 1, 1
    if what == "past":
        site.clock.time += 400 * DAY
    if what == "online":
        root.revoke_key(root.roles["targets"].keyids[0], "targets")
        root.add_key(keyfiles.make(tmp_path / "foreign.key"), "targets")
    if what == "no_snapshots":
        root.consistent_snapshot = False
    if what == "wants_two":
        root.roles["targets"].threshold = 2
    with pytest.raises((Refused, Misconfigured)):
        site.box.take([site.signed(prepared, 1, 2)])
    assert site.box._folder.root_versions() == [1]


# a camera follows


def test_a_camera_with_root_1_walks_to_root_5_through_every_kind_of_change(site, camera, tmp_path):
    site.repo.add_target("vehicle/1.onnx", MODEL, {"release": 1})
    before = online(site)
    spare = keyfiles.make(tmp_path / "root-4.key")
    site.change(1, 2, rotate=("targets", "snapshot", "timestamp"))
    site.change(2, 3, add=(spare,))
    site.change(1, 3, threshold=1, drop=(site.key(2).public_key.keyid[:12],))
    site.change(3, rotate=("timestamp",))
    assert site.box.root().signed.version == 5
    assert set(online(site).values()).isdisjoint(before.values())
    camera.sees(site.repo, ("vehicle/1.onnx", MODEL))
    assert camera.take("vehicle/1.onnx") == MODEL
    with pytest.raises(Refused, match="would not count"):
        site.signed(site.box.prepare(Change()), 2)  # the key that was dropped


def test_a_camera_that_was_there_all_along_follows_each_step(site, camera):
    for n in range(1, 4):
        site.repo.add_target(f"vehicle/{n}.onnx", MODEL, {"release": n})
        camera.sees(site.repo, (f"vehicle/{n}.onnx", MODEL))
        assert camera.take(f"vehicle/{n}.onnx") == MODEL
        site.change(rotate=("targets", "snapshot", "timestamp"))


def test_a_gap_in_the_chain_of_roots_leaves_the_camera_where_it_was(site, camera):
    site.change()
    site.change(rotate=("timestamp", "snapshot", "targets"))
    site.repo.add_target("vehicle/1.onnx", MODEL, {})
    camera.sees(site.repo, ("vehicle/1.onnx", MODEL))
    del camera.wire.files["2.root.json"]
    with pytest.raises(tuf.UnsignedMetadataError):
        camera.take("vehicle/1.onnx")


@pytest.mark.parametrize("role", ONLINE)
def test_what_a_stolen_key_signed_is_no_longer_taken_after_its_rotation(site, camera, role, clock):
    """The thief has the old key, signs the newest metadata with it, also with a version far ahead (fast forward)."""
    site.repo.add_target("vehicle/1.onnx", MODEL, {})
    stolen = keyfiles.read(site.keys / f"{role}.key")
    site.change(rotate=ONLINE)
    site.repo.add_target("vehicle/2.onnx", NEWER, {})
    camera.sees(site.repo, ("vehicle/2.onnx", NEWER))
    name = next(n for n in camera.wire.files if role in n)
    forged = Metadata.from_bytes(camera.wire.files[name])
    forged.sign(stolen)
    good = camera.wire.files[name]
    camera.wire.files[name] = forged.to_bytes()
    with pytest.raises(tuf.RepositoryError):
        camera.take("vehicle/2.onnx")
    camera.wire.files[name] = good
    assert camera.take("vehicle/2.onnx") == NEWER


def test_a_camera_that_a_thief_drove_far_ahead_comes_back_with_the_rotation(site, camera):
    """The timestamp key is stolen: version 10^9 on the camera. After the rotation lower numbers are taken again."""
    stolen = keyfiles.read(site.keys / "timestamp.key")
    ahead = Metadata.from_bytes(site.repo.files()["timestamp.json"])
    ahead.signed.version = 10**9
    ahead.sign(stolen)
    camera.wire.files["timestamp.json"] = ahead.to_bytes()
    assert camera.take("vehicle/1.onnx") is None
    camera.sees(site.repo)
    with pytest.raises(tuf.BadVersionNumberError):
        camera.take("vehicle/1.onnx")
    site.change(rotate=("timestamp",))
    site.repo.refresh_timestamp()
    site.repo.add_target("vehicle/1.onnx", MODEL, {})
    camera.sees(site.repo, ("vehicle/1.onnx", MODEL))
    assert camera.take("vehicle/1.onnx") == MODEL


# lost, wrong, swapped


def test_one_lost_root_key_of_three_is_replaced_by_the_other_two(site, camera, tmp_path):
    lost = site.key(2).public_key.keyid
    site.change(1, 3, drop=(lost,), add=(keyfiles.make(tmp_path / "root-4.key"),))
    assert lost not in site.box.root().signed.roles["root"].keyids
    camera.sees(site.repo)
    camera.take("vehicle/1.onnx")


def test_two_lost_root_keys_of_three_leave_nothing_to_sign_with(site):
    with pytest.raises(Refused, match="1 of 2"):
        site.change(1, drop=(site.key(2).public_key.keyid,), threshold=2)


@pytest.mark.parametrize("role", ONLINE)
def test_a_lost_online_key_stops_releases_and_a_rotation_starts_them_again(site, camera, role):
    site.repo.add_target("vehicle/1.onnx", MODEL, {})
    (site.keys / f"{role}.key").unlink()
    before = site.repo.files()
    with pytest.raises(Misconfigured, match=rf"{role}\.key"):
        site.repo.add_target("vehicle/2.onnx", NEWER, {})
    assert site.repo.files() == before
    assert ("key_missing", True) in {
        (w.code, w.bad) for w in standing.look(site.tuf, site.keys, site.clock.now()).warnings
    }
    site.change(rotate=(role,))
    site.repo.add_target("vehicle/2.onnx", NEWER, {})
    camera.sees(site.repo, ("vehicle/2.onnx", NEWER))
    assert camera.take("vehicle/2.onnx") == NEWER


def test_keys_that_were_swapped_between_two_roles_sign_nothing(site):
    a, b = site.keys / "targets.key", site.keys / "timestamp.key"
    one, other = a.read_bytes(), b.read_bytes()
    a.write_bytes(other)
    b.write_bytes(one)
    before = site.repo.files()
    with pytest.raises(Misconfigured, match="not the key that the cameras trust"):
        site.repo.add_target("vehicle/1.onnx", MODEL, {})
    assert site.repo.files() == before


def test_a_key_of_the_same_id_with_another_value_signs_nothing(site):
    """The id is only a name: what counts is the key itself."""
    own = keyfiles.make(site.folder / "own.key")
    mine = keyfiles.read(site.folder / "own.key")
    named = site.box.root().signed
    own.keyid = named.roles["root"].keyids[0]
    mine._public_key = own
    with pytest.raises(Refused, match="would not count"):
        ceremony.add_signature(site.box.prepare(Change()), mine, named)


def test_a_root_file_that_was_swapped_on_the_disk_is_noticed(site, tmp_path):
    foreign = Site(tmp_path / "foreign", site.clock) if (tmp_path / "foreign").mkdir() is None else None
    foreign.found().change()
    site.change()
    shutil.copy(foreign.tuf / "2.root.json", site.tuf / "2.root.json")
    with pytest.raises(Corrupt, match="changed by something else"):
        site.repo.files()
    with pytest.raises(Corrupt):
        site.box.prepare(Change())


def test_delegations_are_neither_written_nor_accepted(site):
    """A targets file that delegates, signed by the right keys all the same: a thief's, or a mistake's."""
    from tuf.api.metadata import DelegatedRole, Delegations, MetaFile, Targets

    folder, keys = site.box._folder, site.keys
    root, timestamp, snapshot, targets = folder.current()
    key = keyfiles.read(keys / "targets.key").public_key
    targets.delegations = Delegations({key.keyid: key}, {"x": DelegatedRole("x", [key.keyid], 1, True, ["*"])})
    with pytest.raises(AssertionError):
        folder.signed(root, targets, keyfiles.signers(keys, root, "targets"))

    def signed(content):
        metadata = Metadata(content)
        metadata.sign(keyfiles.read(keys / f"{content.type}.key"))
        return metadata.to_bytes()

    assert isinstance(targets, Targets)
    folder.write("1.targets.json", data := signed(targets))
    snapshot.meta["targets.json"] = MetaFile.from_data(1, data, ["sha256"])
    folder.write("1.snapshot.json", data := signed(snapshot))
    timestamp.snapshot_meta = MetaFile.from_data(1, data, ["sha256"])
    folder.write("timestamp.json", signed(timestamp))
    with pytest.raises(Corrupt, match="delegate"):
        site.repo.targets()
    with pytest.raises(Corrupt, match="delegate"):
        site.repo.add_target("vehicle/1.onnx", MODEL, {})


# kills


class Kill(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("lost", [(), ("targets",), ("targets", "snapshot", "timestamp")], ids=["none", "one", "all"])
def test_a_ceremony_that_is_killed_at_any_write_can_be_ended(tmp_path, founded, clock, monkeypatch, lost):
    """Rotation of all online keys, killed before each write, rename and unlink; then `take` again."""
    real_write, real_destroy, real_rename = durable.write, keyfiles.destroy, keyfiles.os.rename
    ended = 0
    for survived in range(40):
        folder = tmp_path / f"kill-{survived}"
        shutil.copytree(founded.folder, folder)
        site = Site(folder, clock)
        site.repo.add_target("vehicle/1.onnx", MODEL, {})
        for role in lost:
            (site.keys / f"{role}.key").unlink()
        left = [survived]

        def step(real, left=left):
            def act(*a, **k):
                if not left[0]:
                    raise Kill
                left[0] -= 1
                return real(*a, **k)

            return act

        prepared = site.signed(site.box.prepare(Change(rotate=ONLINE)), 1, 2)
        with monkeypatch.context() as m:
            m.setattr(durable, "write", step(real_write))
            m.setattr(keyfiles, "destroy", step(real_destroy))
            m.setattr(keyfiles.os, "rename", step(real_rename))
            try:
                site.box.take([prepared])
            except Kill:
                ended += 1
            else:
                assert survived > 3
                break
        if not lost:
            assert "vehicle/1.onnx" in site.repo.targets()  # whole at every moment
            site.repo.add_target("vehicle/2.onnx", NEWER, {})  # and the daemon may sign meanwhile
        site.box.take([prepared])
        side = CameraSide(folder / "camera", (site.tuf / "1.root.json").read_bytes(), clock)
        side.sees(site.repo, ("vehicle/1.onnx", MODEL))
        assert side.take("vehicle/1.onnx") == MODEL
        site.repo.add_target("vehicle/3.onnx", NEWER, {})
        assert {p.name for p in site.keys.glob("*.key")} == {f"{role}.key" for role in ONLINE}
    print(f"{ended} kills, lost keys: {lost or 'none'}")
    assert ended >= 8


def test_the_control_a_build_that_drops_the_old_keys_first_is_caught(site, monkeypatch):
    """The harness above would see a ceremony in the wrong order: killed in it, the box can sign nothing."""
    prepared = site.signed(site.box.prepare(Change(rotate=ONLINE)), 1, 2)
    keyfiles.promote(site.keys, prepared.signed)

    def dying(*_, **__):
        raise Kill

    with monkeypatch.context() as m:
        m.setattr(durable, "write", dying)
        with pytest.raises(Kill):
            site.box.take([prepared])
    with pytest.raises(Misconfigured):
        site.repo.add_target("vehicle/1.onnx", MODEL, {})


# passphrases


def test_a_root_key_with_a_passphrase_signs_with_it_and_not_without(tmp_path, site):
    path = tmp_path / "locked.key"
    keyfiles.make(path, "correct horse")
    assert b"ENCRYPTED PRIVATE KEY" in path.read_bytes()
    assert keyfiles.read(path, lambda _: "correct horse").public_key
    with pytest.raises(Refused, match="does not open"):
        keyfiles.read(path, lambda _: "battery staple")
    with pytest.raises(Misconfigured, match="wants a passphrase"):
        keyfiles.read(path)


def test_a_site_founded_with_passphrases_is_renewed_with_them(tmp_path, clock):
    new = NewRoot.of(2, 2, [tmp_path / "stick"], "open sesame")
    make_keys(tmp_path / "keys", new)
    repo = Repository(tmp_path / "tuf", tmp_path / "keys", clock)
    repo.init(new)
    box = Ceremony(tmp_path / "tuf", tmp_path / "keys", clock)
    prepared = box.prepare(Change())
    for path in new.files:
        ceremony.add_signature(prepared, keyfiles.read(path, lambda _: "open sesame"))
    box.take([prepared])
    assert box.root().signed.version == 2


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_is_no_key_is_said_in_words(tmp_path, content):
    path = tmp_path / "x.key"
    path.write_bytes(content)
    with pytest.raises(EdgedError, match=r"not a private key|cannot sign"):
        keyfiles.read(path)


def test_a_private_key_given_as_a_public_one_is_refused(tmp_path):
    keyfiles.make(tmp_path / "x.key")
    with pytest.raises(Refused, match="is not to come here"):
        keyfiles.public_of(tmp_path / "x.key")


def test_what_is_put_away_is_overwritten_first(tmp_path, monkeypatch):
    path = tmp_path / "x.key"
    keyfiles.make(path)
    before = path.read_bytes()
    kept = tmp_path / "same blocks"
    kept.hardlink_to(path)
    keyfiles.destroy(path)
    assert not path.exists()
    assert kept.read_bytes() == bytes(len(before))


# how it stands


def test_warnings_come_before_the_end_and_say_what_to_do(site):
    now = site.clock.now()

    def codes(at):
        return {(w.code, w.bad) for w in standing.look(site.tuf, site.keys, at).warnings}

    assert codes(now) == set()
    assert codes(now + 5 * DAY) == {("timestamp_expires", True)}
    assert ("root_expires", False) in codes(now + 310 * DAY)
    assert ("root_expires", True) in codes(now + 366 * DAY)
    for w in standing.look(site.tuf, site.keys, now + 310 * DAY).warnings:
        assert w.hint


def test_a_root_key_that_stayed_and_a_file_that_others_read_are_said(site, clock, tmp_path):
    (site.keys / "root-1.key").write_bytes(b"x")
    (site.keys / "targets.key").chmod(0o644)
    said = {w.code: w for w in standing.look(site.tuf, site.keys, clock.now()).warnings}
    assert not said["root_here"].bad
    assert said["key_open"].bad
    assert "chmod 600" in said["key_open"].hint
