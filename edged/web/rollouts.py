"""The buttons of the page's Fleet section: start, pause, resume and give up a release, as `edged rollout` does.

Guarantees: a button names its release, so that one on an old page never acts on another; what the table of a release's states
(publish/rollout.py, ACTS) does not allow changes nothing and is 400 with the reason. Does not guarantee that the daemon is
there to tell the cameras: it reads the rows when it is.
"""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, redirect, request, url_for
from flask.typing import ResponseReturnValue

from edged.errors import Refused
from edged.publish import fleet
from edged.publish.rules import Rules
from edged.storage.releases import ReleaseRow
from edged.storage.store import Store


def steered(store: Store, by: Rules, author: str) -> Blueprint:
    """The routes. `by`: what a release that is started here is judged by."""
    routes = Blueprint("rollouts", __name__, url_prefix="/rollout")

    def act(do: Callable[[int], ReleaseRow]) -> ResponseReturnValue:
        named = request.form.get("release", "")
        if not (named.isascii() and named.isdigit() and len(named) <= 9):
            raise Refused("a button names its release by number", code="bad_release")
        do(int(named))
        if request.headers.get("X-Fragment") == "1":
            return "", 204
        return redirect(url_for("index", _anchor="fleet"), 303)

    @routes.post("/start")
    def start() -> ResponseReturnValue:
        instead = request.args.get("replace") == "1"  # of a button that has said what ends
        return act(lambda number: fleet.start(store, number, by, author, instead=instead))

    @routes.post("/pause")
    def pause() -> ResponseReturnValue:
        return act(lambda number: fleet.pause(store, number, author))

    @routes.post("/resume")
    def resume() -> ResponseReturnValue:
        return act(lambda number: fleet.resume(store, number, author))

    @routes.post("/abort")
    def abort() -> ResponseReturnValue:
        return act(lambda number: fleet.abort(store, number, author))

    return routes
