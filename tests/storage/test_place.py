"""Where the store may lie, by what the kernel says of the mounts, and by trying."""

from __future__ import annotations

import fcntl
import os

import pytest

from edged.errors import Misconfigured, Unavailable
from edged.storage import place

LOCAL = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"


def mounts(tmp_path, *lines):
    file = tmp_path / "mountinfo"
    file.write_text(LOCAL + "".join(f"{line}\n" for line in lines))
    return file


@pytest.mark.parametrize(
    "kind",
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "9p",
        "virtiofs",
        "ceph",
        "glusterfs",
        "fuse",
        "fuse.sshfs",
        "fuse.s3fs",
        "fuse.rclone",
        "afs",
        "lustre",
    ],
)
def test_a_store_on_the_network_is_refused_with_what_to_do(tmp_path, kind):
    table = mounts(tmp_path, f"40 22 0:50 / {tmp_path} rw - {kind} nas:/vol rw")
    with pytest.raises(Misconfigured) as e:
        place.require(tmp_path / "site", mounts=table)
    assert e.value.code == "network_disk"
    assert e.value.exit_code == 78
    assert kind in str(e.value)
    assert "edged db backup" in e.value.hint
    assert place.require(tmp_path / "site", allow_network=True, mounts=table).network


@pytest.mark.parametrize(
    "kind",
    [
        "ext4",
        "xfs",
        "btrfs",
        "f2fs",
        "zfs",
        "bcachefs",
        "overlay",
        "tmpfs",
        "ext3",
        "vfat",
        "fuseblk",
        "fuse.fuse-overlayfs",
    ],
)
def test_disks_of_this_machine_and_containers_overlays_pass(tmp_path, kind):
    found = place.require(tmp_path, mounts=mounts(tmp_path, f"40 22 0:50 / {tmp_path} rw - {kind} none rw"))
    assert (found.kind, found.network, found.memory) == (kind, False, kind == "tmpfs")


def test_the_innermost_and_latest_mount_decides(tmp_path):
    inner = tmp_path / "a b" / "data"
    inner.mkdir(parents=True)
    escaped = str(tmp_path / "a b").replace(" ", "\\040")
    table = mounts(
        tmp_path,
        f"40 22 0:50 / {tmp_path} rw - nfs4 nas:/vol rw",
        f"41 40 0:51 / {escaped} rw shared:1 master:2 - cifs //nas/x rw",
        f"42 40 0:52 / {escaped} rw - ext4 /dev/sdb1 rw,nobarrier",
        f"43 40 0:53 / {tmp_path}/a rw - tmpfs tmpfs rw",
        "44 rubbish",
    )
    found = place.look(inner / "not" / "there", table)
    assert (found.kind, found.mount, found.unsafe) == ("ext4", str(tmp_path / "a b"), ("nobarrier",))


def test_a_link_to_the_network_is_followed(tmp_path):
    (tmp_path / "nas").mkdir()
    (tmp_path / "site").symlink_to(tmp_path / "nas")
    table = mounts(tmp_path, f"40 22 0:50 / {tmp_path}/nas rw - nfs4 nas:/vol rw")
    with pytest.raises(Misconfigured):
        place.require(tmp_path / "site", mounts=table)


def test_a_kernel_that_does_not_say_stops_nobody(tmp_path):
    assert place.require(tmp_path, mounts=tmp_path / "absent") is None


def test_this_machine_passes_and_a_probe_leaves_nothing(tmp_path):
    assert place.look(tmp_path).inodes_free is None or place.look(tmp_path).inodes_free > 0
    place.probe(tmp_path)
    assert list(tmp_path.iterdir()) == []


def failing(code):
    def fail(*_args, **_options):
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("os.fsync", "flushing a file"), ("os.fdatasync", "flushing a file"), ("os.link", "linking"),
        ("mmap.mmap", "sharing memory"), ("fcntl.flock", "locking"), ("fcntl.fcntl", "locking"),
    ],
)  # fmt: skip
def test_a_file_system_without_a_call_that_is_relied_on_is_unfit(tmp_path, monkeypatch, call, words):
    monkeypatch.setattr(call, failing(95))  # EOPNOTSUPP
    with pytest.raises(Misconfigured, match=words) as e:
        place.probe(tmp_path)
    assert e.value.code == "unfit_disk"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["flock", "fcntl"])
def test_locks_that_lock_nobody_out_are_unfit(tmp_path, monkeypatch, call):
    monkeypatch.setattr(fcntl, call, lambda *_: 0)
    with pytest.raises(Misconfigured, match="two holders"):
        place.probe(tmp_path)


def test_a_full_disk_is_not_called_unfit(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", failing(28))
    with pytest.raises(Unavailable) as e:
        place.probe(tmp_path)
    assert e.value.code == "disk_full"
