"""Verbs that make or run a site: init, camera, run, web, broker, sync run, demo, replay."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edged.cli.ask import confirm, yes_option
from edged.cli.main import Context, main, verb
from edged.cli.model import AUTHOR
from edged.cli.ranges import Range
from edged.errors import EXIT_FAILED, EXIT_NOT_FOUND, Misconfigured, Refused

if TYPE_CHECKING:
    from edged.publish.keyfiles import NewRoot
    from edged.wire.messages import CameraInfo


@main.command()
@click.option("--data-dir", type=click.Path(path_type=Path), required=True, help="folder of the new site")
@click.option("--site", required=True, help="name of the site: a-z, 0-9 and '-'")
@click.option("--classes", required=True, help="what the cameras tell apart, e.g. free,busy")
@click.option("--camera", "cameras", multiple=True, help="id of a camera; may be given many times")
@click.option("--host", "hosts", multiple=True, help="name or address by which cameras reach this box")
@click.option("--key-dir", type=click.Path(path_type=Path), help="folder of the site key, better not on the same disk")
@click.option("--root-keys", type=click.IntRange(1, 20), default=1, show_default=True, help="keys of the root of trust")
@click.option(
    "--root-threshold", type=click.IntRange(1, 20), default=1, show_default=True, help="how many must sign a root"
)
@click.option(
    "--root-dir",
    "root_dirs",
    type=click.Path(path_type=Path),
    multiple=True,
    help="where root keys are written, better a stick; once for all, or once for each",
)
@click.option("--root-passphrase", is_flag=True, help="wrap the root keys by a passphrase, which is asked for")
@click.option("--mosquitto", is_flag=True, help="also write mosquitto.conf and its ACL (docs/broker.md)")
@verb
def init(
    context: Context, data_dir: Path, site: str, classes: str, cameras: tuple[str, ...], hosts: tuple[str, ...],
    key_dir: Path | None, root_keys: int, root_threshold: int, root_dirs: tuple[Path, ...], root_passphrase: bool,
    mosquitto: bool,
) -> None:  # fmt: skip
    """Make a site: its folder, keys, certificates and configuration."""
    from edged.clock import SystemClock
    from edged.config import check, load
    from edged.doctor import too_large
    from edged.serve import mosquitto as write_mosquitto
    from edged.site import NewSite, create
    from edged.wire.topics import check_level

    new = NewSite(
        site=site,
        classes=tuple(c.strip() for c in classes.split(",") if c.strip()),
        cameras=cameras,
        hosts=("localhost", "127.0.0.1", *hosts),
        bind="0.0.0.0" if hosts else "",
        key_dir=key_dir.resolve() if key_dir else None,
        root=_root(data_dir, root_keys, root_threshold, root_dirs, root_passphrase),
    )
    try:
        check_level(site, "--site")
        for camera_id in cameras:
            check_level(camera_id, "--camera")
        check(
            {"server": {"site": site}, "task": {"classes": list(new.classes)}, "camera": [{"id": c} for c in cameras]}
        )
    except (Misconfigured, Refused) as e:
        raise click.UsageError(str(e)) from e
    path = create(data_dir.resolve(), new, SystemClock())
    if warning := too_large(load(path)):
        click.echo(f"warning: {warning}", err=True)
    if mosquitto:
        write_mosquitto(data_dir.resolve(), site)
    roots = [str(file) for file in new.root.files] if new.root else []
    given = f"give mosquitto {path.parent / 'mosquitto.conf'} and what it names (docs/broker.md), restart it; then "
    broker = given if mosquitto else f"edged -c {path} broker & "
    context.out(
        {"config": str(path), "cameras": list(cameras), "root_keys": roots},
        f"made {path}\n  next: {broker}edged -c {path} run & edged -c {path} web\n"
        f"  each camera needs keys/ca.pem, keys/cam-<id>.pem, keys/cam-<id>.key and tuf/1.root.json"
        + (
            ""
            if new.key_dir
            else "\n  the site key lies beside the pictures: whoever takes the disk can open them."
            " Move it, or use systemd's credential: docs/keys.md"
        )
        + (
            f"\n  root keys: {', '.join(roots)}; keep them apart from each other and off this box"
            if root_dirs
            else f"\n  the root key of the releases lies in {data_dir.resolve() / 'keys' / 'tuf'}:"
            " carry it away, docs/trust.md"
        ),
    )


def _root(data_dir: Path, keys: int, threshold: int, folders: tuple[Path, ...], passphrase: bool) -> NewRoot:
    """The root keys that were asked for; in the site's own folder when no other is named."""
    from edged.cli.key import new_passphrase
    from edged.publish.keyfiles import NewRoot

    home = data_dir.resolve() / "keys" / "tuf"
    if lost := [folder for folder in folders if not folder.is_dir()]:
        raise Refused(
            f"there is no folder {lost[0]} for a root key: is the stick mounted?", code="not_found",
            exit_code=EXIT_NOT_FOUND,
        )  # fmt: skip
    try:
        root = NewRoot.of(keys, threshold, [folder.resolve() for folder in folders] or [home])
    except Refused as e:
        raise click.UsageError(str(e)) from e
    return replace(root, passphrase=new_passphrase()) if passphrase else root


@main.group()
def camera() -> None:
    """The cameras of this site."""


@camera.command("add")
@click.argument("camera_id")
@verb
def camera_add(context: Context, camera_id: str) -> None:
    """Issue a certificate for a camera."""
    from edged.clock import SystemClock
    from edged.site import issue_camera
    from edged.wire.topics import check_level

    config = context.config()
    certificate, key = issue_camera(config.data_dir, check_level(camera_id, "camera id"), SystemClock())
    ca, root = config.keys_dir / "ca.pem", config.data_dir / "tuf" / "1.root.json"
    known = any(c.id == camera_id for c in config.camera)
    then = "start edged-agent there anew" if known else f'add [[camera]] id = "{camera_id}" to the configuration'
    context.out(
        {"certificate": str(certificate), "key": str(key), "ca": str(ca), "root": str(root)},
        f"carry {certificate}, {key}, {ca} and {root} to the camera, then remove the key here;\n{then}",
    )


@camera.command("revoke")
@click.argument("camera_id")
@click.option(
    "--certificate", type=click.Path(path_type=Path), help="its file, where it is not in the keys folder of the site"
)
@click.option("--new", "anew", is_flag=True, help="issue another one at once, for what takes its place")
@click.option("--reason", default="", help="for the audit log")
@yes_option()
@AUTHOR
@verb
def camera_revoke(
    context: Context, camera_id: str, certificate: Path | None, anew: bool, reason: str, yes: bool, author: str
) -> None:
    """Take the certificate of a stolen or replaced camera back: it does not come in any more, and what it signs does not
    count. It cannot be undone; the camera's pictures and its past stay.
    """
    from edged.broker.mosquitto import FOLDER
    from edged.broker.revocation import listed, revoke
    from edged.clock import SystemClock, iso
    from edged.site import issue_camera, tls_of
    from edged.storage import audit, cameras
    from edged.wire.tls import revocations
    from edged.wire.topics import check_level

    config, clock = context.config(), SystemClock()
    check_level(camera_id, "camera id")
    if not yes:
        confirm(f"the certificate of {camera_id} would be taken back for good", "Take it back?")
    before = {f"{e.serial_number:x}": e.revocation_date_utc.timestamp() for e in listed(config.keys_dir)}
    serial = revoke(config.keys_dir, camera_id, clock.now(), certificate)
    already = serial in before
    with context.store() as store, store.transaction():
        if cameras.get(store, camera_id) is not None:
            cameras.set_online(store, camera_id, False)
        if not already:
            audit.append(store, author, "camera.revoked", camera_id, {"serial": serial, "reason": reason})
    crl = revocations(config.keys_dir / "ca.pem")
    mosquitto = f"install -m 640 -g mosquitto {crl} {FOLDER}/ && systemctl restart mosquitto"
    document = {"camera": camera_id, "serial": serial, "list": str(crl), "already": already, "mosquitto": mosquitto}
    text = f"the certificate {serial} of {camera_id} is revoked"
    text += f" already, since {iso(before[serial])}" if already else ""
    text += "; the embedded broker and the daemon know it in a second"
    if anew:
        document |= dict(
            zip(("certificate", "key"), map(str, issue_camera(config.data_dir, camera_id, clock)), strict=True)
        )
        text += f"\n  carry {document['certificate']} and {document['key']} to the new one, then remove the key here"
    if revocations(tls_of(config).ca) != crl:
        document["copy_to"] = str(revocations(tls_of(config).ca))
        text += f"\n  [mqtt.tls] ca lies elsewhere: copy {crl} to {document['copy_to']}"
    text += f"\n  mosquitto: {mosquitto}"
    context.out(document, text)


@camera.command("list")
@verb
def camera_list(context: Context) -> None:
    """Cameras that have spoken, what they run, and those of the configuration that have not."""
    import msgspec

    from edged import health
    from edged.clock import iso
    from edged.storage import cameras, views

    configured = [c.id for c in context.config().camera]
    with context.store(readonly=True) as store:
        rows = cameras.all(store)
        revoked = health.revoked(store)
    document = [
        {
            "id": c.id, "spoke": True, "online": c.online, "last_seen": iso(c.last_seen),
            "reported": msgspec.to_builtins(c.reported), "info": msgspec.to_builtins(c.info),
            "revoked": iso(revoked[c.id]) if c.id in revoked else None,
        } for c in rows
    ]  # fmt: skip
    lines = [
        f"{c.id:20} {'online' if c.online else 'offline':8} last seen {iso(c.last_seen)}{_said(c.info)}"
        + (f", certificate revoked {iso(revoked[c.id])}" if c.id in revoked else "")
        for c in rows
    ]
    silent = views.silent([c.id for c in rows], configured)
    nothing = {"last_seen": None, "reported": None, "info": None, "revoked": None}
    document += [{"id": c, "spoke": False, "online": False} | nothing for c in silent]
    lines += [f"{c}: has not spoken yet" for c in silent]
    context.out({"cameras": document}, "\n".join(lines) or "no camera has spoken yet")


def _said(info: CameraInfo | None) -> str:
    """What a camera said of its process."""
    if info is None:
        return ""
    told = [f"{info.model_name} {info.model_version}" if info.model_version else "no model"]
    told += [f"{info.rss_bytes / 1e6:.0f} MB"] if info.rss_bytes else []
    told += [f"started in {info.start_s:.1f} s"] if info.start_s else []
    return f"  {', '.join(told)}"


@main.command()
@verb
def run(context: Context) -> None:
    """The daemon (what systemd starts)."""
    from edged.daemon import run

    run(context.config())


@main.command()
@verb
def web(context: Context) -> None:
    """The page, on [web] listen."""
    from edged.serve import page

    page(context.config(), context.config_path)


@main.command()
@click.option("--insecure", is_flag=True, help="no TLS: for tests on the loopback only")
@verb
def broker(context: Context, insecure: bool) -> None:
    """The embedded MQTT broker, for a demo or one small site; use mosquitto in production."""
    from edged import serve

    serve.broker(context.config(), insecure=insecure)


@main.command()
@click.option("--dir", "directory", type=click.Path(path_type=Path), default=Path("demo-site"), show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="folder of real data with cnrpark/ in it")
@click.option("--source", type=click.Path(path_type=Path), help="a video clip that one more camera plays")
@click.option("--port", default=8480, show_default=True, help="of the page; 0 = any free one")
@click.option("--small", is_flag=True, help="fewer pictures: quicker, less accurate (what the tests use)")
@click.option("--report", type=click.Path(path_type=Path), help="write the summary table to this file")
@verb
def demo(
    context: Context, directory: Path, data: Path | None, source: Path | None, port: int, small: bool,
    report: Path | None,
) -> None:  # fmt: skip
    """The whole loop on this machine: cameras, drift, labels, retrain, gate, rollout. DEMO_EXIT=1 ends it by itself."""
    import os

    from edged.demo.story import DemoOptions, play

    options = DemoOptions(
        directory=directory.resolve(), data=data, source=source, port=port, small=small, report=report,
        stay=os.environ.get("DEMO_EXIT") != "1",
    )  # fmt: skip
    sys.exit(play(options))


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--camera", "camera_id", required=True, help="as which camera; its keys must be in this site's folder")
@click.option("--fps", type=Range(min=0), default=2.0, show_default=True, help="0 = as fast as they are taken")
@click.option("--wait", type=Range(min=1), default=60.0, show_default=True, help="seconds without a receipt")
@verb
def replay(context: Context, path: Path, camera_id: str, fps: float, wait: float) -> None:
    """Play a video or a folder of pictures as if a camera saw it (a fake camera); ends when the box has them all.

    Pictures that the box did not take are removed again: here they lie as they are, with all faces.
    """
    import subprocess

    from edged.site import agent_command

    config = context.config()
    if not path.exists():
        raise Refused(f"there is nothing at {path}", code="not_found", exit_code=EXIT_NOT_FOUND)
    if not (config.keys_dir / f"cam-{camera_id}.key").exists():
        raise Misconfigured(f"this site has no keys for a camera {camera_id!r}", hint="`edged camera add` makes them")
    spec = f"folder:{path}" if path.is_dir() else f"file:{path}"
    command = agent_command(config.data_dir, config.server.site, config.mqtt.host, config.mqtt.port, camera_id)
    child = subprocess.Popen([*command, "--source", spec, "--fps", str(fps), "--once", "--wait", str(wait)])
    _pass_on_signals(child.pid)
    code = child.wait()
    left = list((config.data_dir / "cameras" / camera_id / "spool").glob("*.frame"))
    for frame in left:
        frame.unlink(missing_ok=True)
    if left:
        click.echo(f"edged: {len(left)} pictures were not taken by the box, and removed", err=True)
    if code:
        sys.exit(EXIT_FAILED)  # it has said why; 78 of its own is no fault of this site's configuration
    document = {"camera": camera_id, "source": str(path), "not_taken": len(left)}
    context.out(document, f"{path} was played as camera {camera_id}; `edged status` says what is kept")


def _pass_on_signals(pid: int) -> None:
    """SIGTERM goes to the child, SIGINT of a terminal reached it already; this process waits for its end."""
    import os
    import signal

    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
    signal.signal(signal.SIGINT, lambda *_: None)
