"""A site: its folder, keys and configuration; made by `edged init`, opened by every process of it.

Guarantees: no key is ever made over an existing one, nor beside a store that another one opens; an `init` that fails
leaves nothing behind, one that was killed begins anew; private keys are 0600 in a folder of 0700. Does not guarantee that
a key stays secret once it is carried to a camera: hand over `keys/cam-<id>.*` by a way that you trust, then remove it here.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edged import due, durable
from edged.clock import Clock, SystemClock
from edged.config import PLANTED, Config, size
from edged.errors import Misconfigured, Refused, Unavailable
from edged.storage import audit, copies, repair, restore, retention, salvage, sitekey, upkeep
from edged.storage import place as disk_place
from edged.storage.ageing import DAY
from edged.storage.keyring import copies_of
from edged.storage.store import CATALOGUE, Store
from edged.wire.link import Endpoint, Link, Tls, Will

if TYPE_CHECKING:
    from edged.publish.keyfiles import NewRoot
    from edged.publish.rules import Rules
    from edged.publish.trust import Repository

log = logging.getLogger(__name__)

LINGER_S = (
    2.0  # in the daemon, that rows of pictures may follow their receipts: flash is spared a fifth of what it would take
)
CREDENTIAL = "storage-key"  # systemd LoadCredential= name
# What `create` makes in the data directory. UNFINISHED becomes config.toml when all else stands.
UNFINISHED = "config.toml.unfinished"
MADE = (
    "keys", "tuf", "segments", "models", "keyring", ".keyring.lock", "edged.db", "edged.db-wal", "edged.db-shm", UNFINISHED,
)  # fmt: skip


@dataclass(frozen=True)
class NewSite:
    """What a new site is told at birth; the rest of config.toml are defaults."""

    site: str
    classes: tuple[str, ...]
    cameras: tuple[str, ...]
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1")  # names in the broker's certificate
    task: str = "task"
    block_s: float = 900
    holdout: float = 0.2
    mqtt_port: int = 8883
    web_listen: str = "127.0.0.1:8480"
    bind: str = ""  # address of the embedded broker, "" = the loopback only
    extra: str = ""  # TOML text appended as it is
    key_dir: Path | None = None  # of the site key, None = <data_dir>/keys: then whoever has the disk can open it
    root: NewRoot | None = None  # root keys of the releases, None = one, <data_dir>/keys/tuf/root.key


def create(data_dir: Path, new: NewSite, clock: Clock) -> Path:
    """Make the folder, every key and config.toml; returns the path of the latter.

    Raises Misconfigured when a site, or what is left of one, is there already.
    """
    config, unfinished = data_dir / "config.toml", data_dir / UNFINISHED
    place = sitekey.Place.of((new.key_dir or data_dir / "keys") / "storage.key")
    if config.exists():
        raise Misconfigured(f"{config} is there already", hint="choose another folder, or `edged camera add`")
    _clear_unfinished(data_dir)
    _require_no_remains(data_dir, place)
    roots = new.root.files if new.root else ()
    if there := [path for path in roots if os.path.lexists(path)]:
        raise Misconfigured(f"{there[0]} is there already: a root key that cameras may trust",
                            code="key_exists", hint="choose another --root-dir, or move it away")  # fmt: skip
    disk_place.require(data_dir, allow_network="allow_network = true" in new.extra)
    is_new = not data_dir.exists()
    data_dir.mkdir(parents=True, exist_ok=True)
    try:
        disk_place.probe(data_dir)
        durable.write(unfinished, render(data_dir, new).encode())
        _make(data_dir, place, new, clock)
        os.rename(unfinished, config)
        durable.sync_folder(data_dir)
    except BaseException:
        _clear(data_dir, place)
        for path in roots:
            path.unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):
                data_dir.rmdir()
        raise
    return config


def _make(data_dir: Path, place: sitekey.Place, new: NewSite, clock: Clock) -> None:
    from edged.broker import identity
    from edged.publish import trust

    keys = data_dir / "keys"
    keys.mkdir(mode=0o700)
    identity.make_ca(keys, new.site, clock.now())
    identity.issue(keys, "server", server=True, hosts=new.hosts, now=clock.now())
    place.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = sitekey.make_key(place.path)
    with Store.open(data_dir, clock=clock, site_key=key) as store:
        audit.append(store, "edged init", "key.created", "site key", {"fingerprint": sitekey.fingerprint(key)})
    trust.make_keys(keys / "tuf", new.root)
    trust.Repository(data_dir / "tuf", keys / "tuf", clock).init(new.root)
    for camera in new.cameras:
        issue_camera(data_dir, camera, clock)


def _require_no_remains(data_dir: Path, place: sitekey.Place) -> None:
    """Raises Misconfigured for a store or keys without config.toml: a new key would not open what the old one sealed."""
    for file in place.files:
        if os.path.lexists(file):
            raise Misconfigured(f"{file} is there already: a key that something may have been sealed with",
                                code="key_exists", hint="choose another --key-dir, or move it away")  # fmt: skip
    sealed = [data_dir / CATALOGUE, *copies_of(data_dir), *sorted(data_dir.glob("segments/*.seg"))[:1]]
    found = next((path for path in sealed if path.exists()), None)
    if found is not None:
        raise Misconfigured(
            f"{found} is there, of a store without its key and config.toml; no new key is made, it could not open it",
            code="store_without_key",
            hint="bring config.toml back (server, task and cameras are enough), then `edged key recover` with the 24 words",
        )
    for path in (data_dir / name for name in MADE):
        if path.exists() and not (path.is_dir() and path.name != "keys" and not any(path.iterdir())):
            raise Misconfigured(
                f"{path} is there already, without config.toml",
                hint="look at it, then remove it and try again; keys that something was sealed with are not to be lost",
            )


def _clear_unfinished(data_dir: Path) -> None:
    """What an `init` that was killed has left: before config.toml has its name nothing can have been sealed."""
    try:
        text = (data_dir / UNFINISHED).read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    if any(data_dir.glob("segments/*.seg")):
        return  # somebody ran it all the same
    named = tomllib.loads(text).get("storage", {}).get("key_file")
    _clear(data_dir, sitekey.Place.of(Path(named) if named else data_dir / "keys" / "storage.key"))


def _clear(data_dir: Path, place: sitekey.Place) -> None:
    """UNFINISHED last: until then this can be done again."""
    for path in (*place.files, *(data_dir / name for name in MADE)):
        with suppress(FileNotFoundError):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def issue_camera(data_dir: Path, camera: str, clock: Clock) -> tuple[Path, Path]:
    """Certificate and key for one camera, signed by the site's CA; returns their paths."""
    from edged.broker import identity

    if camera == PLANTED:
        raise Refused(f'no camera may be called "{PLANTED}": that is where planted pictures come from', code="bad_name")
    tls = identity.issue(data_dir / "keys", camera, server=False, now=clock.now())
    return Path(tls.cert), Path(tls.key)


def render(data_dir: Path, new: NewSite) -> str:
    """The text of config.toml."""
    return f"""\
# edged's configuration. Every key is optional but these; `edged config show` prints them all with their values.
[server]
site = "{new.site}"
data_dir = "{data_dir}"

[task]
name = "{new.task}"
classes = [{_quoted(new.classes)}]
holdout = {new.holdout:g}  # share of the blocks of time that are only ever tested on
block_s = {new.block_s:g}  # pictures of one camera within so many seconds never part over training and hold-out

[mqtt]
port = {new.mqtt_port}
bind = "{new.bind}"  # where the embedded broker listens; "" = this machine only

[web]
listen = "{new.web_listen}"

{f'[storage]{chr(10)}key_file = "{new.key_dir / "storage.key"}"{chr(10)}{chr(10)}' if new.key_dir else ""}\
{"".join(f'[[camera]]{chr(10)}id = "{c}"{chr(10)}{chr(10)}' for c in new.cameras)}{new.extra}"""


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def key_file(config: Config) -> Path:
    """Where the site key is: [storage] key_file, systemd's credential, or the site's own folder."""
    if config.storage.key_file:
        return Path(config.storage.key_file)
    credential = Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent")) / CREDENTIAL
    return credential if credential.exists() else config.keys_dir / "storage.key"


def key_is_with_the_pictures(config: Config) -> bool:
    """Whether whoever takes the data directory has the site key as well, and no passphrase stops him."""
    home = config.data_dir.resolve()
    files = {*key_place(config).files, *sitekey.Place.of(config.keys_dir / "storage.key").files}
    here = [f for f in files if f.exists() and f.resolve().is_relative_to(home) and not sitekey.is_damaged(f)]
    return any(not sitekey.is_wrapped(sitekey.Place(f, None)) for f in here)


def key_place(config: Config, file: Path | None = None) -> sitekey.Place:
    """The files of the site key; `file` instead of the one that is configured."""
    path = file or key_file(config)
    if config.storage.key_copy:
        return sitekey.Place(path, Path(config.storage.key_copy))
    if path.parent == Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent")):
        return sitekey.Place(path, None)
    return sitekey.Place.of(path)


def keyring_copies(config: Config) -> tuple[Path, Path]:
    """Where both copies of the data keys are."""
    copy = config.storage.keyring_copy
    first, second = copies_of(config.data_dir, Path(copy) if copy else None)
    if first.resolve() == second.resolve():
        raise Misconfigured(f"storage.keyring_copy names {first}, which is the first copy", hint="name another disk")
    return first, second


def open_store(
    config: Config,
    *,
    readonly: bool = False,
    key: bool = False,
    file: Path | None = None,
    ask: sitekey.Ask | None = None,
    catalogue: str = CATALOGUE,
    accept_catalogue: bool = False,
    linger_s: float = 0.0,
) -> Store:
    """The site's store; with `key` it can seal and unseal pictures. Raises Misconfigured, also for a network file system.

    `file` is used as the key file instead of the configured one, `ask` is asked for its passphrase. A key file or copy
    that is damaged or gone is written again, once the other one has opened the store for writing.
    """
    if not readonly:
        disk_place.require(config.data_dir, allow_network=config.storage.allow_network)
    place = key_place(config, file)
    store = Store.open(
        config.data_dir, clock=SystemClock(), site_key=sitekey.read(place, ask) if key else None,
        readonly=readonly, linger_s=linger_s, min_free=size(config.storage.min_free), max_bytes=size(config.storage.max_bytes),
        keyring_copy=keyring_copies(config)[1], catalogue=catalogue, accept_catalogue=accept_catalogue,
    )  # fmt: skip
    if key and not readonly:
        try:
            with store.seal.ring.locked():
                sitekey.mend(place)
        except OSError as e:
            log.warning("the second copy of the site key cannot be written: %s", e)
    return store


def mend_store(config: Config, clock: Clock, progress: repair.Progress = lambda *_: None) -> salvage.Rebuilt | None:
    """Before the daemon opens its store: finish a restore, make a damaged catalogue anew; None if nothing was wrong."""
    disk_place.require(config.data_dir, allow_network=config.storage.allow_network)
    restore.finish(config.data_dir)
    return repair.start(config.data_dir, partial(open_store, config, key=True), clock, progress)


def daily_copy(config: Config, clock: Clock) -> copies.Daily | None:
    """The box's own daily copy of its catalogue; None if it is switched off."""
    at = config.schedule.backup.removeprefix("daily ")
    if not at:
        return None
    return copies.Daily(config.data_dir, clock, at, config.storage.keep_backups, size(config.storage.min_free))


def upkeep_rules(config: Config) -> upkeep.Rules:
    """What retention and the rest of the store's upkeep go by."""
    s = config.storage
    cameras = {
        c.id: retention.Limits(size(c.max_bytes), c.max_age_days * DAY)
        for c in config.camera
        if c.max_age_days or size(c.max_bytes)
    }
    rules = retention.Rules(
        retention.within(size(s.max_bytes)), s.max_age_days * DAY, size(s.per_camera_max_bytes), cameras, s.low_water,
        s.keep_last, s.row_max_age_days * DAY,
    )  # fmt: skip
    rows = max(10**9, size(s.max_bytes) // 10) if size(s.max_bytes) else 0
    return upkeep.Rules(rules, rows, size(s.reserve))


def when_rules(config: Config) -> due.Rules:
    """When a cycle starts by itself."""
    t = config.train
    return due.Rules(t.new_labels, t.on_drift, t.every_hours * 3600, t.quiet_hours)


def rollout_rules(config: Config) -> Rules:
    """By what a release that starts now is rolled out."""
    from edged.publish.rules import Rules

    r = config.rollout
    return Rules(
        r.canary, r.wait_s, r.timeout_s, r.steps, r.abort_failed, r.abort_min_executed, r.min_agreement, r.max_slowdown,
        r.max_shift, r.min_regions, config.retest.gate.min_fps,
    )  # fmt: skip


@contextmanager
def only_daemon(data_dir: Path) -> Iterator[None]:
    """Hold the site's lock; raises Unavailable when another daemon does."""
    with (data_dir / "daemon.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise Unavailable(f"another daemon runs on {data_dir}", hint="stop it first") from e
        os.utime(file.fileno())  # since when it runs
        yield


def daemon_runs(data_dir: Path) -> bool:
    """Whether a daemon holds the site's lock now; a shared lock is tried, and given back at once."""
    try:
        with (data_dir / "daemon.lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def daemon_outdated(data_dir: Path, config_path: Path) -> bool:
    """Whether a daemon runs that began before the configuration was last written."""
    try:
        return daemon_runs(data_dir) and config_path.stat().st_mtime > (data_dir / "daemon.lock").stat().st_mtime
    except OSError:
        return False


def open_repository(config: Config, clock: Clock) -> Repository:
    """The signed metadata of this site's models; who signs is another process, in which alone the keys are read."""
    from edged.publish.signer import Child, Socket
    from edged.publish.trust import Repository

    tuf_dir, key_dir = config.data_dir / "tuf", config.keys_dir / "tuf"
    signer = Socket(Path(config.signing.socket)) if config.signing.socket else Child(tuf_dir, key_dir)
    return Repository(tuf_dir, key_dir, clock, signer=signer)


def connect(config: Config, will: Will) -> Link:
    """The box's link, by mutual TLS with the keys of the site unless the configuration names others."""
    from edged.wire.paho import PahoLink

    return PahoLink(
        Endpoint(config.mqtt.host, config.mqtt.port, client_id="server", tls=tls_of(config)),
        will,
        reconnect_s=(0.5, 5.0),
    )


def tls_of(config: Config) -> Tls:
    """The box's certificates: those of [mqtt.tls], else the site's own."""
    tls, keys = config.mqtt.tls, config.keys_dir
    return Tls(
        tls.ca or str(keys / "ca.pem"), tls.cert or str(keys / "server.pem"), tls.key_file or str(keys / "server.key")
    )


def agent_command(data_dir: Path, site: str, host: str, port: int, camera: str) -> list[str]:
    """The camera's program as a process of this machine, with the keys that lie in the site's folder."""
    keys = data_dir / "keys"
    return [
        sys.executable, "-P", "-m", "agent", "run", "--site", site, "--camera", camera, "--broker", f"{host}:{port}",
        "--ca", str(keys / "ca.pem"), "--cert", str(keys / f"cam-{camera}.pem"), "--key", str(keys / f"cam-{camera}.key"),
        "--root", str(data_dir / "tuf" / "1.root.json"), "--state", str(data_dir / "cameras" / camera),
    ]  # fmt: skip
