"""The painter: masks of one camera over its newest scrubbed picture. Works without the script, by a field of numbers.

Guarantees: what is painted holds from the next picture on (storage.masks.Painted); a mask of config.toml is shown and has
no button; removing one is asked for twice. Does not guarantee that the picture under the brush is of this minute: it is
the last one that was kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from edged.errors import Refused
from edged.storage import cameras, masks, views
from edged.storage.store import Store

Polygon = Sequence[Sequence[float]]
Fixed = Mapping[str, Sequence[tuple[str, Polygon]]]  # camera -> (name, corners as shares) of config.toml's masks

WIDTH = 1280  # of the drawing, whatever the picture's is, so that lines and numbers have one size
NEUTRAL = 720  # its height when there is no picture yet
EDGE = 52.0


@dataclass(frozen=True)
class Outline:
    """A mask as it is drawn and listed. `mask` None: it is config.toml's. `points` for SVG; `x`, `y` of its number."""

    number: int
    name: str
    mask: masks.Mask | None
    area: float
    points: str
    x: float
    y: float


def painter(store: Store, names: Mapping[str, str], fixed: Fixed, author: str) -> Blueprint:
    """The routes. `names` are the configured cameras: one that has never sent anything can be masked before it does."""
    routes = Blueprint("masks", __name__)

    def page(camera: str, *, wrong: str = "", removing: masks.Mask | None = None) -> str:
        picture = views.picture(store, camera)
        height = round(WIDTH * picture.height / picture.width) if picture else NEUTRAL
        painted = masks.holding(store, camera)
        outlines = _outlines(fixed.get(camera, ()), painted, WIDTH, height)
        form = request.form if wrong else {}
        return render_template(
            "mask.html", camera=camera, picture=picture, width=WIDTH, height=height, outlines=outlines, wrong=wrong,
            removing=removing, full=len(painted) >= masks.MOST, most=masks.MOST, now=store.clock.now(),
            name=form.get("name", ""), corners=form.get("corners", ""), name_length=masks.NAME_LENGTH,
        )  # fmt: skip

    @routes.before_request
    def _known() -> None:
        camera = (request.view_args or {}).get("camera", "")
        if camera not in names and cameras.get(store, camera) is None and not masks.holding(store, camera):
            abort(404, "There is no such camera.")

    @routes.get("/camera/<camera>/mask")
    def show(camera: str) -> ResponseReturnValue:
        asked = request.args.get("remove", "")
        return page(camera, removing=masks.get(store, camera, _number(asked)) if asked else None)

    @routes.post("/camera/<camera>/mask")
    def paint(camera: str) -> ResponseReturnValue:
        try:
            polygon = masks.parse_polygon(request.form.get("corners", ""))
            made = masks.paint(store, camera, request.form.get("name", ""), polygon, author)
        except Refused as e:
            return page(camera, wrong=str(e)), 400
        flash(f"“{made.name}” covers its place in every picture from now on. Those stored before stay as they are.")
        return redirect(url_for("masks.show", camera=camera), 303)

    @routes.post("/camera/<camera>/mask/<mask>/remove")
    def remove(camera: str, mask: str) -> ResponseReturnValue:
        if request.form.get("sure") != "yes":  # asked once only
            return redirect(url_for("masks.show", camera=camera, remove=mask), 303)
        gone = masks.remove(store, camera, _number(mask), author)
        flash(f"“{gone.name}” is gone. Pictures that were stored under it stay masked.")
        return redirect(url_for("masks.show", camera=camera), 303)

    return routes


def counted(store: Store, fixed: Fixed) -> dict[str, int]:
    """Masks that hold, by camera."""
    found = {camera: len(of) for camera, of in fixed.items()}
    for mask in masks.holding(store):
        found[mask.camera] = found.get(mask.camera, 0) + 1
    return found


def _outlines(
    fixed: Sequence[tuple[str, Polygon]], painted: Sequence[masks.Mask], width: int, height: int
) -> list[Outline]:
    every = [(name, polygon, None) for name, polygon in fixed] + [(m.name, m.polygon, m) for m in painted]
    return [
        Outline(
            number, name, mask, masks.area([(x, y) for x, y in polygon]),
            " ".join(f"{x * width:.1f},{y * height:.1f}" for x, y in polygon),
            _inside(width * sum(x for x, _ in polygon) / len(polygon), width),
            _inside(height * sum(y for _, y in polygon) / len(polygon), height),
        )
        for number, (name, polygon, mask) in enumerate(every, 1)
    ]  # fmt: skip


def _inside(at: float, length: int) -> float:
    """Far enough from the edge for a number to be read."""
    return round(min(max(at, EDGE), length - EDGE), 1)


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise Refused("there is no such mask", code="not_found")
    return int(text)
