"""A disk that is full: a small file system of its own, a real site on it, ballast at random moments.

Each point: frames come in, then everything that is free is taken (bytes, or inodes), for some time. Checked: the daemon
stays up, cameras hear "retry" and nothing worse, an audit row and a rollback are written while the disk is full (from the
reserve), and when the ballast goes every camera has a frame stored within RESUME_S. At the end every receipted frame is
there. As root also: an ext4 that turns read-only by an error in the middle; checked and mounted again, it has all.

    python -m tests.torture.full --points 50 --seed 1
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edged import site
from edged.clock import SystemClock
from edged.config import load
from edged.errors import EdgedError
from edged.publish import release
from edged.storage import audit, releases
from tests.publish.conftest import KNOWN_ANSWER, Rows
from tests.torture.live import LiveSite

RESUME_S = 30.0
MEBI = 2**20
SIZE = 96 * MEBI
RESERVE = 16_000_000
# With a limit of their own frames stop early; without one they meet the end of the disk.
LIMITS = {
    "limit": '[storage]\nmax_bytes = "32MB"\nmin_free = "20MB"\n',
    "none": '[storage]\nmax_bytes = "1GB"\nmin_free = 0\n',
}


def unable() -> str:
    """Why a file system of its own cannot be had here, "" if it can."""
    mount = "mount -t tmpfs -o size=1m none /mnt"
    try:
        probe = subprocess.run([*_apart(), "sh", "-c", mount], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unshare is not installed"
    return "" if probe.returncode == 0 else f"no mount namespace: {probe.stderr.strip()[:200]}"


def _apart() -> list[str]:
    return ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]


@dataclass
class Told:
    points: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    audited: int = 0
    rolled_back: int = 0
    receipted: int = 0
    resumed_s: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        points = ", ".join(f"{k} {n}" for k, n in sorted(self.points.items()))
        answers = ", ".join(f"{k} {n}" for k, n in sorted(self.answers.items()))
        return (
            f"{self.points.total()} points ({points}); answers: {answers}; on the full disk {self.audited} audit rows and "
            f"{self.rolled_back} rollbacks; {self.receipted} receipted frames looked for; "
            f"slowest to resume {max(self.resumed_s, default=0):.1f} s; {len(self.faults)} faults"
        )


class Ballast:
    """Takes all that is left of a file system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, what: str) -> None:
        self.folder.mkdir(exist_ok=True)
        if what == "inodes":
            with contextlib.suppress(OSError):
                for n in range(1_000_000):
                    (self.folder / str(n)).touch()
            return
        with (self.folder / "bytes").open("wb", buffering=0) as f, contextlib.suppress(OSError):
            size = MEBI
            while size >= 512:
                try:
                    f.write(bytes(size))
                except OSError:
                    size //= 2

    def drop(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()


def prepare(folder: Path, limit: str, aside: Path) -> LiveSite:
    """A site with two releases."""
    made = LiveSite(folder, aside, extra=LIMITS[limit])
    config = load(made.config)
    with site.open_store(config, key=True) as store:
        rows, repo = Rows(store), site.open_repository(config, SystemClock())
        description = release.Description("vehicle", ("a", "b"), 32, KNOWN_ANSWER, ("generic",))
        for content in (b"one", b"two"):
            candidate = rows.candidate(content * 1000)
            number = release.publish(store, repo, candidate=candidate, description=description, author="Ada")
            releases.set_state(store, number, "complete")
    return made


def roll_back(live: LiveSite) -> None:
    """To the release before the newest."""
    config = load(live.config)
    with site.open_store(config) as store:
        newest = releases.latest(store)
        assert newest is not None
        releases.set_state(store, newest.number, "complete")
        release.go_back(store, site.open_repository(config, SystemClock()), to=newest.number - 1, author="Ada")


def note(live: LiveSite) -> None:
    with site.open_store(load(live.config)) as store:
        audit.append(store, "Ada", "looked", "disk")


def run(wanted: int, seed: int, stop_s: float) -> Told:
    rng, told, began = random.Random(seed), Told(), time.monotonic()
    for limit, share in (("limit", wanted - wanted // 2), ("none", wanted // 2)):
        with (
            tempfile.TemporaryDirectory() as aside,
            _mounted("tmpfs", f"size={SIZE},nr_inodes=1000") as disk,
            prepare(disk / "site", limit, Path(aside)) as live,
        ):
            live.play(60, until=lambda live=live: live.stored_since(0))
            ballast = Ballast(disk / "ballast")
            for n in range(share):
                if time.monotonic() - began > stop_s or not live.up():
                    break
                _point(live, ballast, "inodes" if n % 5 == 1 else "bytes", f"{limit}, point {n}", rng, told)
            _end(live, limit, told)
    return told


def _end(live: LiveSite, where: str, told: Told) -> None:
    """Stop, and look for everything that was receipted."""
    if live.up():
        live.stop()
    else:
        told.faults.append(f"{where}: the daemon ended:\n{live.said()}")
    told.answers += live.answers()
    told.receipted += len(list(live.receipted()))
    told.faults += [f"{where}: {f}" for f in live.faults()]


def _point(live: LiveSite, ballast: Ballast, what: str, where: str, rng: random.Random, told: Told) -> None:
    reserve = live.folder / "reserve"
    live.play(RESUME_S, until=lambda: reserve.exists() and reserve.stat().st_size == RESERVE)
    live.play(rng.random(), every_s=0.05)
    before = live.answers()["retry"]
    ballast.fill(what)
    told.points[what] += 1
    if what == "bytes":
        live.play(10, every_s=0.05, until=lambda: live.answers()["retry"] > before)
        if live.answers()["retry"] == before:
            told.faults.append(f"{where}: nobody was told to wait")
    else:
        live.play(2, every_s=0.05)
    live.play(rng.random(), every_s=0.05)
    acts = [("audit", note), ("rollback", roll_back)]
    rng.shuffle(acts)
    for act, do in acts:
        try:
            do(live)
            told.audited += act == "audit"
            told.rolled_back += act == "rollback"
        except (EdgedError, OSError) as e:
            told.faults.append(f"{where}: {act} on a disk without {what}: {type(e).__name__}: {e}")
    ballast.drop()
    then = time.monotonic()
    if live.play(RESUME_S, until=lambda: live.stored_since(then)):
        told.resumed_s.append(time.monotonic() - then)
    else:
        told.faults.append(f"{where}: no frames {RESUME_S:g} s after there was room again\n{live.said(8)}")


def turned_readonly(told: Told) -> str:
    """An ext4 that meets an error: everything on it is read-only from then on. Returns why it was not tried, or ""."""
    if os.geteuid() != 0:
        return "not root"
    with tempfile.TemporaryDirectory() as aside:
        image = Path(aside) / "image"
        with image.open("wb") as f:
            f.truncate(SIZE)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
        try:
            mounted = _mounted(str(image), "loop,errors=remount-ro")
            disk = mounted.__enter__()
        except subprocess.CalledProcessError as e:
            return f"no loop device: {e}"
        with mounted_until(mounted), prepare(disk / "site", "none", Path(aside)) as live:
            live.play(60, until=lambda: live.stored_since(0))
            device = Path(_said("findmnt", "-no", "SOURCE", str(disk))).name
            before = live.answers()["retry"]
            Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("torture")
            told.points["read-only"] += 1
            if not live.play(20, until=lambda: live.answers()["retry"] > before) or not live.up():
                told.faults.append(f"read-only: nobody was told to wait, or the daemon ended:\n{live.said()}")
            if live.up():
                live.stop()
            subprocess.run(["umount", str(disk)], check=True)
            subprocess.run(["fsck.ext4", "-p", str(image)], check=False, capture_output=True)
            subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=True)
            then = time.monotonic()
            live.start_daemon()
            if live.play(RESUME_S, until=lambda: live.stored_since(then)):
                told.resumed_s.append(time.monotonic() - then)
            else:
                told.faults.append(f"read-only: no frames {RESUME_S:g} s after it was mended\n{live.said(8)}")
            _end(live, "read-only", told)
    return ""


@contextlib.contextmanager
def mounted_until(mounted: contextlib.AbstractContextManager[Path]) -> Iterator[None]:
    """The end of a mount that was begun before."""
    try:
        yield
    finally:
        mounted.__exit__(None, None, None)


@contextlib.contextmanager
def _mounted(what: str, options: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        kind = ["-t", "tmpfs"] if what == "tmpfs" else []
        subprocess.run(["mount", *kind, "-o", options, what, folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def _said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="full", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stop-s", type=float, default=1e9)
    parser.add_argument("--apart", action="store_true", help="this process has a mount namespace of its own")
    args = parser.parse_args(argv)
    if not args.apart:
        if reason := unable():
            print(f"full: not run: {reason}")
            return 0
        given = ["--points", str(args.points), "--seed", str(args.seed), "--stop-s", str(args.stop_s), "--apart"]
        return subprocess.run([*_apart(), sys.executable, "-m", "tests.torture.full", *given], check=False).returncode
    told = run(args.points, args.seed, args.stop_s)
    not_tried = turned_readonly(told)
    print(f"full: seed {args.seed}: {told}{f'; read-only not tried: {not_tried}' if not_tried else ''}")
    for fault in told.faults[:30]:
        print(f"  {fault}")
    return 1 if told.faults else 0


if __name__ == "__main__":
    sys.exit(main())
