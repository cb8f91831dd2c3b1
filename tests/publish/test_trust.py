"""The signed metadata, judged by python-tuf's client, and what a crash or a hand on the disk does to it."""

import json
import os
import shutil
import stat

import pytest
from tuf.api import exceptions as tuf

from edged import durable
from edged.errors import Corrupt, Misconfigured, Refused
from edged.publish.trust import Repository, make_keys

MODEL = b"a model" * 1000
NEWER = b"a newer model" * 1000
DAY = 86400.0


def test_a_camera_takes_what_was_signed(repo, camera):
    repo.add_target("vehicle/1.onnx", MODEL, {"release": 1, "classes": ["a", "b"]})
    camera.sees(repo, ("vehicle/1.onnx", MODEL))
    assert camera.take("vehicle/1.onnx") == MODEL
    assert repo.targets()["vehicle/1.onnx"].custom == {"release": 1, "classes": ["a", "b"]}


def test_a_new_target_takes_the_place_of_an_old_one_in_one_step(repo, camera):
    repo.add_target("vehicle/1.onnx", MODEL, {})
    before = json.loads(repo.files()["timestamp.json"])["signed"]["version"]
    repo.add_target("vehicle/2.onnx", NEWER, {}, remove=["vehicle/1.onnx"])
    camera.sees(repo, ("vehicle/1.onnx", MODEL), ("vehicle/2.onnx", NEWER))
    assert camera.take("vehicle/1.onnx") is None
    assert camera.take("vehicle/2.onnx") == NEWER
    assert json.loads(repo.files()["timestamp.json"])["signed"]["version"] == before + 1


def test_only_what_is_current_must_be_on_the_wire(repo):
    for n in range(1, 4):
        repo.add_target(f"vehicle/{n}.onnx", MODEL, {})
    assert sorted(repo.files()) == ["1.root.json", "4.snapshot.json", "4.targets.json", "timestamp.json"]


def test_adding_the_same_target_again_signs_nothing(repo):
    repo.add_target("vehicle/1.onnx", MODEL, {"release": 1})
    before = repo.files()
    repo.add_target("vehicle/1.onnx", MODEL, {"release": 1})
    assert repo.files() == before


def test_a_number_is_never_signed_for_other_bytes(repo):
    repo.add_target("vehicle/1.onnx", MODEL, {})
    with pytest.raises(Refused, match="never reused"):
        repo.add_target("vehicle/1.onnx", NEWER, {})


@pytest.mark.parametrize(
    "path", ["../1.onnx", "vehicle/1.pkl", "/vehicle/1.onnx", "vehicle/x/1.onnx", "Vehicle/1.onnx"]
)
def test_a_path_that_is_no_release_is_refused(repo, path):
    with pytest.raises(Refused, match="target path"):
        repo.add_target(path, MODEL, {})


def test_a_float_is_named_before_signing(repo):
    with pytest.raises(Refused, match=r"custom\.known\[1\]"):
        repo.add_target("vehicle/1.onnx", MODEL, {"known": [1, 0.5]})


# what a camera must refuse


def test_tampered_target_bytes_are_refused(repo, camera):
    repo.add_target("vehicle/1.onnx", MODEL, {})
    camera.sees(repo, ("vehicle/1.onnx", MODEL))
    for name, data in camera.wire.targets.items():
        camera.wire.targets[name] = data[:-1] + b"X"
    with pytest.raises(tuf.LengthOrHashMismatchError):
        camera.take("vehicle/1.onnx")


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_one_changed_byte_in_the_metadata_is_refused(repo, camera, role):
    repo.add_target("vehicle/1.onnx", MODEL, {"release": 1})
    camera.sees(repo, ("vehicle/1.onnx", MODEL))
    name = next(n for n in camera.wire.files if role in n)
    changed = camera.wire.files[name].replace(b'"expires":"20', b'"expires":"21')
    assert changed != camera.wire.files[name]
    camera.wire.files[name] = changed
    with pytest.raises(tuf.RepositoryError):
        camera.take("vehicle/1.onnx")


def test_an_older_state_is_refused_after_a_newer_one(repo, camera):
    repo.add_target("vehicle/1.onnx", MODEL, {})
    old = repo.files()
    repo.add_target("vehicle/2.onnx", NEWER, {})
    camera.sees(repo, ("vehicle/2.onnx", NEWER))
    camera.take("vehicle/2.onnx")
    camera.wire.files = old
    with pytest.raises(tuf.BadVersionNumberError):
        camera.take("vehicle/1.onnx")


def test_files_of_two_states_do_not_mix(repo, camera):
    repo.add_target("vehicle/1.onnx", MODEL, {})
    first = repo.files()
    repo.add_target("vehicle/2.onnx", NEWER, {})
    second = repo.files()
    stale = next(first[n] for n in first if n.endswith("snapshot.json"))
    name = next(n for n in second if n.endswith("snapshot.json"))
    camera.wire.files = second | {name: stale}
    with pytest.raises(tuf.RepositoryError):
        camera.take("vehicle/2.onnx")


def test_another_site_s_keys_are_refused(tmp_path, repo, camera, clock):
    make_keys(tmp_path / "foreign")
    foreign = Repository(tmp_path / "foreign-tuf", tmp_path / "foreign", clock)
    foreign.init()
    foreign.add_target("vehicle/1.onnx", NEWER, {})
    camera.sees(foreign, ("vehicle/1.onnx", NEWER))
    with pytest.raises(tuf.UnsignedMetadataError):
        camera.take("vehicle/1.onnx")


def test_a_frozen_timestamp_is_refused_when_it_expires(repo, camera, clock):
    repo.add_target("vehicle/1.onnx", MODEL, {})
    camera.sees(repo, ("vehicle/1.onnx", MODEL))
    clock.time += 8 * DAY
    with pytest.raises(tuf.ExpiredMetadataError):
        camera.take("vehicle/1.onnx")
    assert repo.refresh_timestamp()
    camera.sees(repo)
    assert camera.take("vehicle/1.onnx") == MODEL


# time


def test_the_timestamp_is_signed_again_at_half_its_life_and_not_before(repo, clock):
    assert not repo.refresh_timestamp()
    clock.time += 3.4 * DAY
    assert not repo.refresh_timestamp()
    clock.time += 0.2 * DAY
    before = repo.files()
    assert repo.refresh_timestamp()
    changed = {name for name, data in repo.files().items() if before.get(name) != data}
    assert changed == {"timestamp.json"}


def test_a_box_that_was_off_for_a_year_is_trusted_again_after_one_refresh(repo, camera, clock):
    repo.add_target("vehicle/1.onnx", MODEL, {})
    clock.time += 200 * DAY
    assert repo.refresh_timestamp()
    assert not repo.refresh_timestamp()
    camera.sees(repo, ("vehicle/1.onnx", MODEL))
    assert camera.take("vehicle/1.onnx") == MODEL


def test_a_renewed_root_is_followed_from_the_first(repo, camera, clock):
    repo.add_target("vehicle/1.onnx", MODEL, {})
    clock.time += 300 * DAY
    assert repo.renew_root() == 2
    assert repo.root_expires() == pytest.approx(clock.time + 365 * DAY, abs=1)
    clock.time += 100 * DAY  # the first root has expired
    repo.refresh_timestamp()
    camera.sees(repo, ("vehicle/1.onnx", MODEL))
    assert camera.take("vehicle/1.onnx") == MODEL


# keys


def test_keys_are_private_and_never_overwritten(tmp_path):
    paths = make_keys(tmp_path / "keys")
    before = {role: path.read_bytes() for role, path in paths.items()}
    assert set(paths) == {"root", "targets", "snapshot", "timestamp"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in paths.values())
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    with pytest.raises(Refused, match="never overwritten"):
        make_keys(tmp_path / "keys")
    assert {role: path.read_bytes() for role, path in paths.items()} == before


def test_releases_need_no_root_key(tmp_path, key_dir, clock):
    shutil.copytree(key_dir, tmp_path / "keys")
    repository = Repository(tmp_path / "tuf", tmp_path / "keys", clock)
    repository.init()
    (tmp_path / "keys" / "root.key").unlink()
    repository.add_target("vehicle/1.onnx", MODEL, {})
    with pytest.raises(Misconfigured, match=r"root\.key"):
        repository.renew_root()


def test_the_wrong_key_signs_nothing(tmp_path, key_dir, clock):
    shutil.copytree(key_dir, tmp_path / "keys")
    repository = Repository(tmp_path / "tuf", tmp_path / "keys", clock)
    repository.init()
    before = repository.files()
    shutil.copy(tmp_path / "keys" / "snapshot.key", tmp_path / "keys" / "targets.key")
    with pytest.raises(Misconfigured, match=r"targets\.key is not the key that the cameras trust"):
        repository.add_target("vehicle/1.onnx", MODEL, {})
    assert repository.files() == before


def test_no_repository_is_said_in_words(tmp_path, key_dir, clock):
    with pytest.raises(Misconfigured) as raised:
        Repository(tmp_path / "nowhere", key_dir, clock).targets()
    assert "edged init" in raised.value.hint


def test_init_happens_once(repo):
    before = repo.files()
    with pytest.raises(Refused):
        repo.init()
    assert repo.files() == before


# the disk


def test_nothing_is_signed_on_top_of_a_planted_file(repo, tmp_path):
    repo.add_target("vehicle/1.onnx", MODEL, {})
    path = next((tmp_path / "tuf").glob("*.targets.json"))
    document = json.loads(path.read_bytes())
    document["signed"]["targets"]["vehicle/9.onnx"] = document["signed"]["targets"]["vehicle/1.onnx"]
    path.write_text(json.dumps(document))
    with pytest.raises(Corrupt, match="changed by something else"):
        repo.add_target("vehicle/2.onnx", NEWER, {})
    with pytest.raises(Corrupt):
        repo.refresh_timestamp()


def test_nothing_is_signed_on_top_of_another_site_s_metadata(repo, tmp_path, clock):
    make_keys(tmp_path / "foreign")
    foreign = Repository(tmp_path / "foreign-tuf", tmp_path / "foreign", clock)
    foreign.init()
    foreign.add_target("vehicle/1.onnx", NEWER, {})
    for name, data in foreign.files().items():
        if not name.endswith("root.json"):
            (tmp_path / "tuf" / name).write_bytes(data)
    with pytest.raises(Corrupt, match="signed by 0/1 keys"):
        repo.add_target("vehicle/2.onnx", MODEL, {})


def test_nothing_is_signed_on_top_of_an_older_file_under_a_newer_name(repo, tmp_path):
    repo.add_target("vehicle/1.onnx", MODEL, {})
    old = (tmp_path / "tuf" / "2.targets.json").read_bytes()
    repo.add_target("vehicle/2.onnx", NEWER, {})
    (tmp_path / "tuf" / "3.targets.json").write_bytes(old)
    with pytest.raises(Corrupt, match="changed by something else"):
        repo.add_target("vehicle/3.onnx", NEWER, {})


def test_what_another_process_signed_is_seen_at_once(repo, tmp_path, key_dir, clock):
    before = repo.files()
    Repository(tmp_path / "tuf", key_dir, clock).add_target("vehicle/1.onnx", MODEL, {})
    assert repo.files() != before
    assert repo.files() == Repository(tmp_path / "tuf", key_dir, clock).files()
    assert Repository(tmp_path / "tuf", key_dir, clock).renew_root() == 2
    assert "2.root.json" in repo.files()


def test_damaged_metadata_is_corrupt_not_a_bug(repo, tmp_path):
    repo.add_target("vehicle/1.onnx", MODEL, {})
    for path in (tmp_path / "tuf").glob("*.json"):
        whole = path.read_bytes()
        for damaged in (b"", whole[: len(whole) // 2], b"\xff" + whole[1:], b"[]"):
            path.write_bytes(damaged)
            with pytest.raises(Corrupt):
                repo.targets()
        path.write_bytes(whole)
    assert "vehicle/1.onnx" in repo.targets()


class Kill(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("survived", range(4))
@pytest.mark.parametrize("half", [False, True])
def test_a_crash_at_any_write_leaves_the_old_state_or_the_new_one(
    repo, camera, clock, key_dir, tmp_path, monkeypatch, survived, half
):
    repo.add_target("vehicle/1.onnx", MODEL, {})
    old = repo.files()
    real, writes = durable.write, []

    def dying(path, data, **how):
        if len(writes) == survived:
            if half:  # the temporary file was begun
                (path.parent / f".{path.name}.1.tmp").write_bytes(data[: len(data) // 2])
            raise Kill
        writes.append(path.name)
        real(path, data, **how)

    monkeypatch.setattr(durable, "write", dying)
    if survived < 3:
        with pytest.raises(Kill):
            repo.add_target("vehicle/2.onnx", NEWER, {})
    else:
        repo.add_target("vehicle/2.onnx", NEWER, {})
        assert writes[-1] == "timestamp.json"
    monkeypatch.undo()

    after = Repository(tmp_path / "tuf", key_dir, clock)  # a new process
    assert ("vehicle/2.onnx" in after.targets()) == (survived == 3)
    if survived < 3:
        assert after.files() == old
    camera.sees(after, ("vehicle/1.onnx", MODEL))
    assert camera.take("vehicle/1.onnx") == MODEL
    after.add_target("vehicle/2.onnx", NEWER, {})
    camera.sees(after, ("vehicle/2.onnx", NEWER))
    assert camera.take("vehicle/2.onnx") == NEWER
    left = {p.name for p in (tmp_path / "tuf").iterdir()} - set(after.files()) - {".lock"}
    assert left == set()


def test_a_crash_while_the_site_is_made_can_be_repeated(tmp_path, key_dir, clock, monkeypatch):
    repository = Repository(tmp_path / "tuf", key_dir, clock)
    real = durable.write

    def dying(path, data, **how):
        if path.name == "timestamp.json":
            raise Kill
        real(path, data, **how)

    monkeypatch.setattr(durable, "write", dying)
    with pytest.raises(Kill):
        repository.init()
    assert not repository.exists()
    monkeypatch.undo()
    repository.init()
    assert repository.targets() == {}


def test_two_processes_sign_one_after_the_other(tmp_path, repo, key_dir, clock):
    """Eight children add a target each at the same moment: none is lost."""
    children = []
    for n in range(1, 9):
        pid = os.fork()
        if pid == 0:
            try:
                Repository(tmp_path / "tuf", key_dir, clock).add_target(f"vehicle/{n}.onnx", MODEL, {})
            finally:
                os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    assert set(repo.targets()) == {f"vehicle/{n}.onnx" for n in range(1, 9)}
