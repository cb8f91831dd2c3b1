"""The other processes of a site, each by one function: the page, the embedded broker, sync to the cloud."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from edged import site
from edged.clock import SystemClock
from edged.config import Config
from edged.errors import Misconfigured

if TYPE_CHECKING:
    from edged.publish.cloud import CloudTarget


class Started:
    """What a process read when it began. Nothing is read again by itself: it is said that it should be started anew.

    Of the configuration its bytes count, of the site key's file that it was replaced; that one is not opened for it.
    """

    def __init__(self, config: Config, path: Path) -> None:
        self._path, self._key = path, site.key_place(config).path
        self._was = self._look()

    def _look(self) -> tuple[bytes, tuple[int, int] | None]:
        try:
            text = self._path.read_bytes()
        except OSError:  # in the middle of an editor's save, or for another user alone
            text = b""
        try:
            stat = self._key.stat()
        except OSError:
            return text, None
        return text, (stat.st_ino, stat.st_mtime_ns)

    def outdated(self) -> str:
        """What has changed since, a sentence without its full stop; "" = nothing that could be seen."""
        (text, key), (was, before) = self._look(), self._was
        said = [f"the configuration ({self._path.name}) has changed"] if text and was and text != was else []
        said += ["the site key was replaced"] if key and before and key != before else []
        return f"{' and '.join(said)} since this page was started; start `edged web` again to go by it" if said else ""


def page(config: Config, path: Path) -> None:
    """Serve the page until SIGTERM. `path` is the file that `config` was read from."""
    import secrets

    from edged.config import size
    from edged.retrain import fits
    from edged.web.app import create_app
    from edged.web.questions import Asking
    from edged.web.serve import serve

    gate = config.retest.gate
    shown = {"max_loss": gate.max_loss, "min_fps": gate.min_fps}
    shown |= {"max_size": size(gate.max_size), "max_packed": size(gate.max_packed)}
    with site.open_store(config, key=True) as store:
        app = create_app(
            store, site=config.server.site, classes=config.task.classes,
            names={c.id: c.name or c.id for c in config.camera}, gate=shown,
            clock=SystemClock(), secret=secrets.token_hex(32), hosts=("127.0.0.1", "localhost", "[::1]"),
            fixed={c.id: [(m.name, m.polygon) for m in c.mask] for c in config.camera}, with_metrics=config.metrics.enabled,
            limits=site.upkeep_rules(config).retention, runs=lambda: site.daemon_runs(config.data_dir),
            when=site.when_rules(config),
            asking=Asking(config.label.random_audit, config.train.new_labels),
            fitting=fits.fitting(config.train.input_px, len(config.task.classes), size(config.train.max_memory)),
            rolled=site.rollout_rules(config), outdated=Started(config, path).outdated,
        )  # fmt: skip
        serve(app, config.web.listen, threads=config.web.threads, ready=_ready)


def _ready(address: str) -> None:
    print(f"edged: the page is at {address}", file=sys.stderr, flush=True)


def broker(config: Config, *, insecure: bool) -> None:
    """Run the embedded broker in this process until SIGTERM."""
    from edged.broker.__main__ import main

    host = config.mqtt.bind or config.mqtt.host
    arguments = ["--site", config.server.site, "--host", host, "--port", str(config.mqtt.port)]
    arguments += ["--discovery-prefix", config.homeassistant.discovery_prefix]
    if insecure:
        arguments += ["--insecure"]
    else:
        tls = site.tls_of(config)
        arguments += ["--ca", tls.ca, "--cert", tls.cert, "--key", tls.key]
    sys.exit(main(arguments))


def mosquitto(data_dir: Path, site_name: str) -> tuple[Path, Path]:
    """Write mosquitto.conf and its ACL for this site, for mosquitto as a user of its own (docs/broker.md); returns their
    paths. A list of revoked certificates is begun, if there is none.
    """
    from edged.broker import identity, revocation
    from edged.broker.mosquitto import DATA, FOLDER, render_acl, render_conf
    from edged.wire.tls import revocations

    revocation.begin(data_dir / "keys")
    conf, acl = data_dir / "mosquitto.conf", data_dir / "mosquitto.acl"
    tls, rules = identity.paths(FOLDER, "server"), FOLDER / acl.name
    crl = revocations(tls.ca)
    conf.write_text(render_conf(host="0.0.0.0", port=8883, tls=tls, acl_file=rules, data_dir=DATA, crl=crl))
    acl.write_text(render_acl(site_name))
    return conf, acl


def sync_target(config: Config) -> CloudTarget:
    """Where [sync] sends to; raises Misconfigured when it is not set up."""
    from edged.publish.cloud import CloudTarget

    sync = config.sync
    if not sync.endpoint or not sync.bucket:
        raise Misconfigured(
            "[sync] names no endpoint and bucket", hint="nothing leaves until both are set and a rule allows it"
        )
    secret = Path(sync.secret_file)
    try:
        if secret.stat().st_mode & 0o077:
            raise Misconfigured(f"{secret} can be read by others", hint=f"chmod 600 {secret}")
        text = secret.read_text().strip()
    except OSError as e:
        raise Misconfigured(f"[sync] secret_file {secret}: {e.strerror}") from e
    return CloudTarget(
        endpoint=sync.endpoint, bucket=sync.bucket, region=sync.region, access_key_id=sync.access_key_id,
        secret_access_key=text, prefix=config.server.site,
    )  # fmt: skip


def sync_once(config: Config) -> tuple[int, int]:
    """Fill the outbox by the rules and send what is due; returns how many objects left and how many were refused."""
    from edged.publish import cloud

    target, rules = sync_target(config), config.sync.rules()
    with site.open_store(config, key=True) as store:
        cloud.fill(store, rules)
        pushed = cloud.push(store, target, rules, SystemClock())
        return pushed.sent, pushed.refused


def sync_forever(config: Config) -> None:
    """Send what the rules permit, every interval_s, until SIGTERM."""
    from edged.publish import cloud

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    target, rules = sync_target(config), config.sync.rules()
    with site.open_store(config, key=True) as store:
        cloud.run(store, target, rules, SystemClock(), config.sync.interval_s, stop.is_set)
