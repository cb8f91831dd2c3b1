"""Verbs of the masks painted for a camera: camera mask list, add, remove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edged.cli.ask import confirm, yes_option
from edged.cli.main import Context, verb
from edged.cli.serve import camera
from edged.errors import EXIT_NOT_FOUND, Refused

if TYPE_CHECKING:
    from edged.storage.store import Store

AUTHOR = click.option("--author", default="command line", show_default=True)


@camera.group()
def mask() -> None:
    """Areas that are covered in every picture of a camera before anything is looked for."""


@mask.command("list")
@click.argument("camera_id", required=False)
@verb
def mask_list(context: Context, camera_id: str | None) -> None:
    """The masks that hold, those of config.toml too."""
    from edged.clock import iso
    from edged.storage import masks

    fixed: list[dict[str, Any]] = [
        {"id": None, "camera": c.id, "name": m.name, "polygon": m.polygon, "area": round(masks.area(m.polygon), 4),
         "from": "config.toml", "author": None, "created": None}
        for c in context.config().camera if camera_id in (None, c.id) for m in c.mask
    ]  # fmt: skip
    with context.store(readonly=True) as store:
        painted: list[dict[str, Any]] = [
            {"id": m.id, "camera": m.camera, "name": m.name, "polygon": m.polygon, "area": round(m.area, 4),
             "from": "painted", "author": m.author, "created": iso(m.created)}
            for m in masks.holding(store, camera_id)
        ]  # fmt: skip
    lines = [
        f"{m['camera']:20} {m['id'] or '-':>4}  {m['area']:7.1%}  {m['name']}"
        + (f"  ({m['author']}, {m['created']})" if m["id"] else "  (config.toml)")
        for m in (*fixed, *painted)
    ]
    context.out({"masks": [*fixed, *painted]}, "\n".join(lines) or "nothing is masked")


@mask.command("add")
@click.argument("camera_id")
@click.argument("corners", nargs=-1, required=True)
@click.option("--name", required=True, help="what it covers, e.g. street")
@AUTHOR
@verb
def mask_add(context: Context, camera_id: str, corners: tuple[str, ...], name: str, author: str) -> None:
    """Paint a mask. CORNERS are 3 to 32 of ACROSS,DOWN in shares of the picture, e.g. 0,0.4 0.3,0.4 0.3,1 0,1."""
    from edged.storage import masks

    polygon = masks.parse_polygon(" ".join(corners))
    with context.store() as store:
        _known(context, store, camera_id)
        made = masks.paint(store, camera_id, name, polygon, author)
    context.out(
        {"id": made.id, "camera": made.camera, "name": made.name, "polygon": made.polygon, "area": round(made.area, 4)},
        f"mask {made.id} covers {made.area:.1%} of every picture of {camera_id} from now on",
    )


@mask.command("remove")
@click.argument("camera_id")
@click.argument("mask_id", type=int)
@AUTHOR
@yes_option()
@verb
def mask_remove(context: Context, camera_id: str, mask_id: int, author: str, yes: bool) -> None:
    """Take a painted mask away: later pictures show what it hid, stored ones stay masked."""
    from edged.storage import masks

    with context.store() as store:
        found = masks.get(store, camera_id, mask_id)
        if not yes:
            confirm(
                f"later pictures of {camera_id} will show what “{found.name}” hides; stored ones stay masked",
                "Take the mask away?",
            )
        masks.remove(store, camera_id, mask_id, author)
    context.out(
        {"removed": mask_id, "camera": camera_id},
        f"mask {mask_id} is gone; pictures stored until now stay masked",
    )


def _known(context: Context, store: Store, camera_id: str) -> None:
    """Raises Refused for a camera that is neither configured nor has ever spoken."""
    from edged.storage import cameras

    if camera_id not in {c.id for c in context.config().camera} and cameras.get(store, camera_id) is None:
        raise Refused(
            f"there is no camera {camera_id!r}", code="not_found", exit_code=EXIT_NOT_FOUND,
            hint="`edged camera list` and the [[camera]] tables of the configuration name them",
        )  # fmt: skip
