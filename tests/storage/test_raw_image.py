"""What a raw image of the disk still holds of destroyed data keys, for somebody who has the site key, and of what models saw
in pictures that were erased: nothing.
"""

import hashlib
import os
import shutil
import subprocess

import pytest

from edged import durable
from edged.clock import SystemClock
from edged.storage import Store, copies, erasure, insights, overwrite, recover, sheet, supersede
from edged.storage.insights import Insight

SITE = bytes(range(32))
N = 100

pytestmark = pytest.mark.torture


@pytest.fixture
def disk(tmp_path):
    """An ext4 image and where it is mounted."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("needs root and mkfs.ext4")
    image, folder = tmp_path / "image", tmp_path / "mounted"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(48 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, folder], check=False, capture_output=True).returncode:
        pytest.skip("no loop device here")
    yield image, folder
    subprocess.run(["umount", folder], check=True)


def keys_in(image):
    """Every data key of every whole keyring that begins anywhere in the image, and how many those are."""
    os.sync()
    raw, site = image.read_bytes(), sheet.SiteKey(SITE)
    ids, sheets, at = set(), 0, -1
    while (at := raw.find(sheet._MAGIC, at + 1)) >= 0:
        try:
            count = sheet._HEAD.unpack_from(raw, at)[2]
            body = at + sheet._HEAD.size + count * sheet._SLOT.size
            end = body + sheet._BODY.size + sheet._BODY.unpack_from(raw, body)[1] + sheet._SUM
            ids |= {k.id for k in sheet.unlock(sheet.parse(raw[at:end]), site).ring.keys}
            sheets += 1
        except ValueError:
            continue
    return ids, sheets


@pytest.mark.parametrize("broken", [False, True])
def test_no_destroyed_key_is_found_in_the_raw_image(disk, monkeypatch, broken):
    """`broken` is the negative control: the old file is only unlinked."""
    image, folder = disk
    if broken:
        monkeypatch.setattr(supersede, "write", lambda path, data: durable.write(path, data, mode=0o600))
    with Store.open(folder / "site", clock=SystemClock(), site_key=SITE) as store:
        doomed = {store.seal.key_for(store, f"cam-{n}", "2026-11-21").id for n in range(N)}
        kept = {store.seal.key_for(store, f"cam-{n}", "2026-11-22").id for n in range(N)}
        assert doomed | kept <= keys_in(image)[0]
        store.seal.destroy(store, sorted(doomed))
        ids, sheets = keys_in(image)
        print(f"{len(ids & doomed)} of {N} destroyed keys, {len(ids & kept)} of {N} others, in {sheets} keyrings")
        assert kept <= ids
        assert bool(ids & doomed) == broken


def seen_in(image, ids):
    """Samples whose features stand anywhere in the image."""
    os.sync()
    raw = image.read_bytes()
    return {i for i in ids if hashlib.sha256(i.encode()).digest() * 2 in raw}


@pytest.mark.parametrize("broken", ["", "log", "rows"])
def test_nothing_that_was_seen_of_an_erased_crop_is_found_in_the_raw_image(disk, monkeypatch, broken, add):
    """Negative controls: the log is only cut; the rows stay."""
    image, folder = disk
    if broken == "log":
        monkeypatch.setattr(overwrite, "log", lambda store: store.rows("pragma wal_checkpoint(truncate)"))
    with Store.open(folder / "site", clock=SystemClock(), site_key=SITE) as store:
        recover.run(store)
        for n in range(N):
            add(store, n, regions=2)
        gone, kept = ([f"gate:boot-{n}:{i}" for n in range(N)] for i in range(2))
        for start in range(0, N, 10):  # as surveys come: in several transactions, with the log moved in between
            both = [*gone[start : start + 10], *kept[start : start + 10]]
            insights.add_many(store, [Insight(i, 1, features=hashlib.sha256(i.encode()).digest() * 2) for i in both])
            if start == N // 2:
                store.rows("pragma wal_checkpoint(passive)")
        copies.make(store.data_dir, store.clock)
        assert seen_in(image, gone) == set(gone)
        if broken == "rows":
            store.execute("drop trigger insight_out")
        erasure.run(store, erasure.promise(store, erasure.What(samples=tuple(gone)), "ada"))
        left, others = seen_in(image, gone), seen_in(image, kept)
        print(f"{broken or 'as built'}: of {N} erased {len(left)}, of {N} others {len(others)} in the image")
        assert len(others) == N
        assert bool(left) == bool(broken)
