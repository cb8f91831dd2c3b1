"""Verbs that make or run a site: init, camera, run, web, broker, sync run, demo, replay."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edged.cli.main import Context, main, verb
from edged.errors import EXIT_FAILED, EXIT_NOT_FOUND, Misconfigured, Refused


@main.command()
@click.option("--data-dir", type=click.Path(path_type=Path), required=True, help="folder of the new site")
@click.option("--site", required=True, help="name of the site: a-z, 0-9 and '-'")
@click.option("--classes", required=True, help="what the cameras tell apart, e.g. free,busy")
@click.option("--camera", "cameras", multiple=True, help="id of a camera; may be given many times")
@click.option("--host", "hosts", multiple=True, help="name or address by which cameras reach this box")
@click.option("--key-dir", type=click.Path(path_type=Path), help="folder of the site key, better not on the same disk")
@click.option("--mosquitto", is_flag=True, help="also write mosquitto.conf and its ACL into the folder")
@verb
def init(
    context: Context, data_dir: Path, site: str, classes: str, cameras: tuple[str, ...], hosts: tuple[str, ...],
    key_dir: Path | None, mosquitto: bool,
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
    context.out(
        {"config": str(path), "cameras": list(cameras)},
        f"made {path}\n  next: edged -c {path} broker & edged -c {path} run & edged -c {path} web\n"
        f"  each camera needs keys/ca.pem, keys/cam-<id>.pem, keys/cam-<id>.key and tuf/1.root.json"
        + (
            ""
            if new.key_dir
            else "\n  the site key lies beside the pictures: whoever takes the disk can open them."
            " Move it, or use systemd's credential: docs/keys.md"
        ),
    )


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
    context.out(
        {"certificate": str(certificate), "key": str(key)},
        f"carry {certificate}, {key}, {config.keys_dir / 'ca.pem'} and {config.data_dir / 'tuf' / '1.root.json'}"
        f" to the camera, then remove the key here;\nadd [[camera]] id = \"{camera_id}\" to the configuration",
    )  # fmt: skip


@camera.command("list")
@verb
def camera_list(context: Context) -> None:
    """Cameras that have spoken, and what they run."""
    from edged.clock import iso
    from edged.storage import cameras

    with context.store(readonly=True) as store:
        rows = cameras.all(store)
    document = [
        {"id": c.id, "online": c.online, "last_seen": iso(c.last_seen), "reported": c.reported} for c in rows
    ]  # fmt: skip
    lines = [f"{c.id:20} {'online' if c.online else 'offline':8} last seen {iso(c.last_seen)}" for c in rows]
    context.out({"cameras": document}, "\n".join(lines) or "no camera has spoken yet")


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

    page(context.config())


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
@click.option(
    "--fps", type=click.FloatRange(min=0), default=2.0, show_default=True, help="0 = as fast as they are taken"
)
@click.option("--wait", type=click.FloatRange(min=1), default=60.0, show_default=True, help="seconds without a receipt")
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


def _pass_on_signals(pid: int) -> None:
    """SIGTERM goes to the child, SIGINT of a terminal reached it already; this process waits for its end."""
    import os
    import signal

    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
    signal.signal(signal.SIGINT, lambda *_: None)
