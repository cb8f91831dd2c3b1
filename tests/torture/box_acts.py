"""The acts of the box that frames and models take: ingest, receipt, release, site key; and what must hold of any store.

Each is small and repeatable: played again after a kill to its end it must make everything right. `broken` names a defect that
is put in on purpose; the harness must notice.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edged.errors import EdgedError
from edged.ingest import take
from edged.publish import release, trust
from edged.storage import check, erasure, frames, models, objects, releases, requests, sitekey
from edged.storage.journal import Journal
from edged.storage.store import Store
from edged.wire.messages import Frame, FrameHeader, Region
from tests.torture.act import NOON, Act, Promise, Still
from tests.torture.scene import recover

SITE_KEY = bytes(range(32))
SEGMENT = 32 * 1024
CROPS = 2
CANARY = b"CANARY-OF-A-FACE"
PLAIN = (CANARY, b"JFIF\0\1", b"PRIVATE KEY-----")  # what nobody may find outside keys/

# pictures


def jpeg(name: str, size: int) -> bytes:
    """Bytes that would be known anywhere: the start of a JPEG, a canary, noise that is its own for each name."""
    head = b"\xff\xd8\xff\xe0\0\x10JFIF\0\1" + CANARY
    return head + hashlib.shake_128(name.encode()).digest(size)


def picture(camera: str, n: int, received: float = NOON) -> tuple[Frame, Any]:
    """Frame number n of a camera and what privacy would have made of it."""
    regions = tuple(Region(x=i, y=0, w=9, h=9, label="car", score=0.5, margin=0.1) for i in range(CROPS))
    header = FrameHeader(id=f"boot-{n}", ts=received, seq=n, boot="boot", w=640, h=480, regions=regions)
    crops = tuple(jpeg(f"crop {i} {camera} {n}", 300) for i in range(CROPS))
    scrubbed = SimpleNamespace(
        jpeg=jpeg(f"scrubbed {camera} {n}", 3000), width=640, height=480, crops=crops, regions={}, ms={}
    )
    return Frame(camera, header, jpeg(f"raw {camera} {n}", 2000), "frame", received), scrubbed


class Scrubber:
    """Stands in for the scrub child: knows what becomes of each frame."""

    def scrub(self, frame: Frame, spots: object = None, *, blank: bool = False) -> Any:
        return picture(frame.camera, frame.header.seq, frame.received)[1]


# the box


def open_store(folder: Path, at: float = NOON, **options: float) -> Store:
    """With segments that hold half a dozen frames; with the key that lies in the folder, if one does."""
    place = key_place(folder)
    site_key = sitekey.read(place) if place.path.exists() else SITE_KEY
    return Store.open(
        folder, clock=Still(at), site_key=site_key, **({"segment_bytes": SEGMENT, "linger_s": 0.05} | options)
    )


def key_place(folder: Path) -> sitekey.Place:
    return sitekey.Place.of(folder / "keys" / "storage.key")


def plaintext(folder: Path) -> list[str]:
    """Files of a site that hold what should be sealed."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and "keys" not in path.relative_to(folder).parts:
            content = path.read_bytes()
            found += [f"{path.name} holds {word!r}" for word in PLAIN if word in content]
    return found


def sound(folder: Path, look: Callable[[Store], Iterator[str]]) -> list[str]:
    """Everything that must hold of a box after a start, whatever happened before."""
    with open_store(folder) as store:
        recover.run(store)
        for asked in requests.pending(store):  # the daemon goes on with erasures
            erasure.run(store, asked.id)
        found = [str(f) for f in check.run(store)]
        found += _pictures(store)
        found += look(store)
    return found + plaintext(folder)


def _pictures(store: Store) -> Iterator[str]:
    """Every picture that is there is that of its frame."""
    for row in store.rows("select camera, id, seq, object from frame where status = 'stored'"):
        camera, n = row["camera"], row["seq"]
        _, scrubbed = picture(camera, n)
        yield from _same(store, f"frame {camera} {n}", row["object"], scrubbed.jpeg)
        crops = store.rows("select id, object from sample where camera = ? and frame = ?", (camera, row["id"]))
        if len(crops) != CROPS:
            yield f"frame {camera} {n} has {len(crops)} samples"
        for crop in crops:
            yield from _same(store, crop["id"], crop["object"], scrubbed.crops[int(crop["id"].rpartition(":")[2])])


def _same(store: Store, name: str, object_id: str | None, wanted: bytes) -> Iterator[str]:
    try:
        if object_id is not None and objects.read(store, object_id) != wanted:
            yield f"{name} has another picture"
    except EdgedError as e:
        yield f"{name}: {e}"


def kept(store: Store, promises: Sequence[str], final: bool, wanted: int, per_frame: int = 1 + CROPS) -> Iterator[str]:
    """`stored CAMERA N` and `withheld CAMERA N` hold; in the end there is just what was wanted, once."""
    for word, camera, n in (p.split() for p in promises if p.split()[0] in ("stored", "withheld")):
        receipt = frames.find_receipt(store, camera, f"boot-{n}")
        if receipt is None or receipt.status != word:
            yield f"frame {camera} {n} was receipted as {word} and is {receipt.status if receipt else 'lost'}"
        elif word == "stored" and picture_lost(store, camera, int(n)):
            yield f"the picture of frame {camera} {n} is lost"
    if final:
        stored = frames.count(store)
        there = int(store.value("select count(*) from object"))
        if stored != wanted or there != stored * per_frame:
            yield f"{stored} frames with {there} objects, wanted {wanted} with {wanted * per_frame}"


def picture_lost(store: Store, camera: str, n: int) -> bool:
    """Whether a frame has no picture any more, or a crop of it is gone."""
    return store.value(
        "select f.object is null or exists (select 1 from sample s where (s.camera, s.frame) = (f.camera, f.id)"
        " and s.object is null) from frame f where f.camera = ? and f.seq = ?", (camera, n),
    ) != 0  # fmt: skip


def empty(folder: Path) -> None:
    open_store(folder).close()


def fill(folder: Path, per_camera: int, cameras: Sequence[str] = ("gate", "yard"), at: float = NOON) -> None:
    with open_store(folder, at) as store:
        for n in range(per_camera):
            for camera in cameras:
                frames.add(store, *picture(camera, n, at + n))


# ingest: two frames one after another, then threads that share a flush; new cameras, so new data keys

THREADS = 3


def play_ingest(folder: Path, promise: Promise, broken: str) -> None:
    if broken == "rows first":
        _rows_first()
    with open_store(folder, **({"linger_s": 0.0} if broken == "rows first" else {})) as store:
        recover.run(store)
        put = partial(_put, store, promise, broken)
        put("gate", 0)
        frames.settle(store, picture("gate", 1)[0], "withheld", "too dark")
        promise("withheld gate 1")
        threads = [threading.Thread(target=_put_all, args=(put, f"cam{i}")) for i in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _rows_first() -> None:
    """Defect: a group's rows are committed, and then its records written."""
    flush, record = Journal._flush, Journal._record
    late: list[Any] = []

    def recorded_then_flushed(journal: Journal, *args: Any) -> None:
        record(journal, *args)
        flush(journal, *late.pop())

    Journal._flush = lambda journal, *args: late.append(args)  # type: ignore[method-assign]
    Journal._record = recorded_then_flushed  # type: ignore[method-assign]


def _put_all(put: Callable[[str, int], None], camera: str) -> None:
    for n in range(2):
        put(camera, n)


def _put(store: Store, promise: Promise, broken: str, camera: str, n: int) -> None:
    if broken == "receipt first":
        promise(f"stored {camera} {n}")
    frame, scrubbed = picture(camera, n)
    if broken == "plaintext":
        temporary = store.data_dir / f".{camera}-{n}.jpg"
        temporary.write_bytes(scrubbed.jpeg)
    frames.add(store, frame, scrubbed)
    if broken == "plaintext":
        temporary.unlink()
    promise(f"stored {camera} {n}")


def check_ingest(folder: Path, promises: Sequence[str], final: bool) -> list[str]:
    return sound(folder, lambda store: kept(store, promises, final, 1 + 2 * THREADS))


# receipt: the whole of WALK 1 but the children; every frame comes twice


def play_receipt(folder: Path, promise: Promise, broken: str) -> None:
    with open_store(folder) as store:
        recover.run(store)
        for n in (0, 1, 0, 1):
            receipt = take(store, Scrubber(), picture("gate", n)[0])  # type: ignore[arg-type]
            promise(f"{receipt.status} gate {n}")


def check_receipt(folder: Path, promises: Sequence[str], final: bool) -> list[str]:
    return sound(folder, lambda store: kept(store, promises, final, 2))


# a model becomes a release, is rolled out, and is taken back


def prepare_release(folder: Path) -> None:
    from tests.publish.conftest import Rows

    empty(folder)
    (folder / "keys").mkdir(mode=0o700, exist_ok=True)
    trust.make_keys(folder / "keys" / "tuf")
    repository(folder).init()
    with open_store(folder) as store:
        made = [Rows(store).candidate(b"model %d" % i * 3000) for i in range(2)]
        description = _description()
        release.publish(store, repository(folder), candidate=made[0], description=description, author="Ada")


def repository(folder: Path) -> trust.Repository:
    return trust.Repository(folder / "tuf", folder / "keys" / "tuf", Still())


def _description() -> release.Description:
    from tests.publish.conftest import KNOWN_ANSWER

    return release.Description(name="vehicle", classes=("a", "b"), px=32, known_answer=KNOWN_ANSWER, hardware=("x",))


def play_release(folder: Path, promise: Promise, broken: str) -> None:
    with open_store(folder) as store:
        recover.run(store)
        repo = repository(folder)
        release.withdraw(store, repo)
        content = b"a third model" * 3000
        promise(f"model {models.put_model(store, content)}")
        number = release.publish(store, repo, candidate=2, description=_description(), author="Ada")
        promise(f"release {number} vehicle/{number}.onnx")
        number = release.go_back(store, repo, to=1, author="Ada")
        promise(f"release {number} vehicle/{number}.onnx")


def check_release(folder: Path, promises: Sequence[str], final: bool) -> list[str]:
    def look(store: Store) -> Iterator[str]:
        signed = repository(folder).targets()
        for row in releases.all(store):
            if row.target not in signed and row.state == "rolling":
                yield f"release {row.number} rolls out and is not signed"
            models.read_model(store, row.sha256)
        numbers = [r.number for r in releases.all(store)]
        for words in (p.split() for p in promises):
            if words[0] == "model":
                models.read_model(store, words[1])
            elif int(words[1]) not in numbers:
                yield f"release {words[1]} is lost"
        if final and numbers != [1, 2, 3]:
            yield f"the releases are {numbers}"

    return sound(folder, look)


# a site key is made; nothing ever stands in its place


def play_site_key(folder: Path, promise: Promise, broken: str) -> None:
    path = folder / "storage.key"
    if not path.exists():
        promise(f"key {sitekey.make_key(path).hex()}")


def check_site_key(folder: Path, promises: Sequence[str], final: bool) -> list[str]:
    path = folder / "storage.key"
    if not path.exists():
        return ["the key is lost"] if promises else []
    key = sitekey.read_key(path)
    return [p for p in promises if p != f"key {key.hex()}"]


BOX = {
    "ingest": Act(empty, play_ingest, check_ingest),
    "receipt": Act(empty, play_receipt, check_receipt),
    "release": Act(prepare_release, play_release, check_release),
    "site key": Act(lambda folder: folder.mkdir(), play_site_key, check_site_key),
}
