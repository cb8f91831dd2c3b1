"""The acts of the camera: frames into the spool and out of it, a new model from the cable into the other slot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent.run import Agent
from agent.spool import Spool
from edged.errors import Corrupt
from edged.wire import messages
from edged.wire.messages import Desired, FrameHeader, FrameReceipt
from tests.agent.conftest import Site, classifier
from tests.torture.act import Act, Promise

JPEG = b"\xff\xd8" + b"seen" * 500


# spool: frames are kept, one is receipted, one is pushed out


def play_spool(folder: Path, promise: Promise, broken: str) -> None:
    spool = Spool(folder, max_frames=4)
    for _ in range(3):
        seq = spool.next_seq()
        promise(f"number {seq}")
        spool.add(FrameHeader(id=f"b-{seq}", ts=1.0, seq=seq, boot="b", w=9, h=9), b"%d" % seq + JPEG)
        promise(f"kept {seq}")
    oldest = spool.due(0.0)[0]
    promise(f"going {int(oldest.path.stem)}")
    spool.receipt(FrameReceipt(oldest.id, oldest.sha256, "stored"), 0.0)


def check_spool(folder: Path, promises: Sequence[str], final: bool) -> list[str]:
    numbers, kept, going = (
        [int(p.split()[1]) for p in promises if p.startswith(word)] for word in ("number", "kept", "go")
    )
    found = [f"number {n} was given twice" for n in numbers if numbers.count(n) > 1]
    spool = Spool(folder, max_frames=4)
    there = []
    for entry in spool.due(0.0):
        try:
            head, jpeg = spool.read(entry)
        except Corrupt as e:
            found.append(str(e))
            continue
        there.append(head.header.seq)
        if jpeg != b"%d" % head.header.seq + JPEG:
            found.append(f"frame {head.header.seq} has another picture")
    # A frame that a kill kept from being promised counts for the bound, too.
    owed = [n for n in kept if n not in going][-3:]
    found += [f"frame {n} is lost" for n in owed if n not in there]
    return found + [f"{p.name} was left" for p in folder.iterdir() if p.suffix == ".tmp"]


# update: release 1 runs; release 2 is offered, downloaded, tested, switched to, committed


def prepare_update(folder: Path) -> None:
    folder.mkdir()
    site = Site(folder)
    site.start()
    site.install(1)
    desired = site.box.release(2, classifier(seed=2))
    (folder / "desired.json").write_bytes(messages.encode(desired))
    (folder / "model").write_bytes(site.box.models[desired.sha256])
    assert site.agent is not None
    site.agent.close()


def play_update(folder: Path, promise: Promise, broken: str) -> None:
    site, desired = _site(folder)
    agent = site.start()
    promise(f"boots {_running(agent)}")
    site.box.offer(desired)
    site.see(6)
    site.until(lambda: site.box.over("job-2"))
    if site.box.last.status != "SUCCEEDED":
        promise(f"raised {site.box.last}")
    site.see(2)
    site.run(4)
    promise("runs 2")
    assert site.agent is not None
    site.agent.close()


def _site(folder: Path) -> tuple[Site, Desired]:
    site = Site(folder)
    desired = messages.decode((folder / "desired.json").read_bytes(), Desired)
    site.box.models[desired.sha256] = (folder / "model").read_bytes()
    return site, desired


def _running(agent: Agent) -> int:
    return agent.active.slot.release if agent.active.slot else 0


def check_update(folder: Path, promises: Sequence[str], final: bool) -> list[str]:
    site, _ = _site(folder)
    agent = site.start()
    running = _running(agent)
    site.see()
    site.run(2)
    found = []
    if running not in (1, 2) or (running == 1 and ("runs 2" in promises or final)):
        found.append(f"release {running} runs")
    if not site.box.frames or not site.box.frames[-1].header.regions[0].label:
        found.append("the camera does not label")
    if final and agent.active.slots.pointer.probation:
        found.append("release 2 is still on probation")
    agent.close()
    return found


CAMERA = {
    "spool": Act(lambda folder: folder.mkdir(), play_spool, check_spool),
    "update": Act(prepare_update, play_update, check_update),
}
