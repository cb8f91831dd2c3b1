"""WALK 3: rows -> page; labels, masks and requests -> rows. One server-rendered page whose fragments are polled.

Guarantees: a picture leaves this process only scrubbed (it reads what privacy passed, there is nothing else in the
store), never cached; every form carries a CSRF token; a foreign Host header is 400 (DNS rebinding); every answer carries
a strict Content-Security-Policy. An unchanged fragment is 304. Does not guarantee who is looking: there is no login, and
`serve` therefore listens on the loopback only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, abort, make_response, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFError, CSRFProtect

from edged import due, health
from edged.clock import Clock, iso
from edged.errors import Corrupt, EdgedError, Refused, Unavailable
from edged.privacy import sizes
from edged.publish import rules
from edged.retrain.fits import Fitting
from edged.storage import brought, cycles, drift_views, forecast, frames, leaks, requests, samples, trend, views
from edged.storage.retention import Rules
from edged.storage.store import Store
from edged.web import driftplot, ladder, masks, metrics, outlook, paretoplot, plot, retested, rollouts, words
from edged.web.outlook import SHOWN_CAMERAS
from edged.web.questions import Asking, Questions, Queues
from edged.web.verdict import judge, without

CSP = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; frame-src 'none'; object-src 'none'"
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
SECTIONS = ("now", "cameras", "privacy", "drift", "cycle", "models", "fleet")
AUTHOR = "page"  # of labels and requests, until there are users
_AGES = re.compile(rb"(<time\b[^>]*>)[^<]*")  # a text that the browser keeps up to date by itself


def create_app(
    store: Store,
    *,
    site: str,
    classes: Sequence[str],
    names: Mapping[str, str],
    gate: Mapping[str, Any],
    clock: Clock,
    secret: str | bytes,
    hosts: Sequence[str],
    fixed: masks.Fixed = MappingProxyType({}),
    limits: Rules | None = None,
    with_metrics: bool = True,
    runs: Callable[[], bool] | None = None,
    when: due.Rules | None = None,
    asking: Asking | None = None,
    fitting: Fitting | None = None,
    rolled: rules.Rules = rules.DEFAULTS,
    outdated: Callable[[], str] = lambda: "",
) -> Flask:
    """The page of one site. `names` are what people call the cameras, `gate` the limits to show ("max_loss" 0..1, "min_fps",
    "max_size" and "max_packed" in bytes; 0 or absent = none),
    `fixed` the masks that the configuration sets, `limits` what retention goes by, `hosts` the names, without port, that a
    request may be addressed to, `secret` signs the session cookie, `runs` says whether the
    daemon runs now (None = its figures alone tell, a minute late), `asking` how labels are asked for, `when` a cycle starts,
    `fitting` what it takes to train each network, `rolled` by what a release that is started here is judged,
    `outdated` what has changed since this process read it, a sentence without its full stop.
    """
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY=secret, SESSION_COOKIE_NAME="edged", SESSION_COOKIE_SAMESITE="Strict", SESSION_COOKIE_HTTPONLY=True,
        WTF_CSRF_TIME_LIMIT=None, MAX_CONTENT_LENGTH=64 * 1024,
    )  # fmt: skip
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.globals.update(words=words, site=site, iso=iso, name_of=lambda camera: names.get(camera, camera))
    app.jinja_env.filters.update(percent=words.percent, size=words.size, duration=words.duration, points=words.points)
    CSRFProtect(app)
    asking = asking or Asking()
    queues = Queues(store, classes, asking)
    counted = metrics.Figures(store, runs, asking.share)

    def ask() -> Questions:
        return Questions(store, queues, session, classes)

    _guard(app, frozenset(h.strip("[]").lower() for h in hosts))

    def facts(section: str) -> dict[str, Any]:
        """What a fragment's template is given."""
        now = clock.now()
        if section == "now":
            known = without(views.now(store, now, names), health.revoked(store))
            found = health.judge(health.look(store, now, runs=runs and runs())).reasons
            stored = forecast.of(store, limits, now) if limits is not None else []
            verdict = judge(known, names, found)
            return {"now": now, "facts": known, "verdict": verdict, "stored": stored, "outdated": outdated()}
        if section == "cameras":
            heard = views.cameras(store, now)
            silent = views.silent([c.id for c in heard], names)
            return {
                "now": now,
                "cameras": heard,
                "silent": silent,
                "masked": masks.counted(store, fixed),
                "revoked": health.revoked(store),
            }
        if section == "privacy":
            return {"now": now, "privacy": leaks.measure(store), "sizes": sizes.SIZES, "expected": sizes.EXPECTED}
        if section == "drift":
            cameras = [driftplot.drawn(d) for d in drift_views.drift(store)]
            return {"now": now, "drift": cameras, "words_of": driftplot.NAMES}
        if section == "cycle":
            return {"now": now, "ladder": ladder.of(store, when, now, daemon=runs is None or runs())}
        if section == "models":
            series = trend.accuracy(store, now)
            charts = {"wide": plot.chart(series, names, 860, 280), "narrow": plot.chart(series, names, 350, 240)}
            made = views.models(store)
            shown = {"models": made, "brought": brought.all(store), "fitting": fitting}
            unfolded = {m.id for m in (*made[:3], *[m for m in made if m.release][:1])}
            shown["retested"] = retested.of(store, unfolded, gate)
            fronts = paretoplot.fronts(store, gate)
            return {"now": now, **shown, "series": series, "charts": charts, "gate": gate, "fronts": fronts}
        return {
            "now": now,
            "fleet": outlook.all(store, now, rolled, configured=names),
            "shown": SHOWN_CAMERAS,
            "health_of": outlook.health,
        }

    def show(section: str) -> Callable[[], Response]:
        return lambda: _conditional(render_template(f"_{section}.html", **facts(section)))

    @app.get("/")
    def index() -> str:
        given: dict[str, Any] = {}
        for section in SECTIONS:
            given |= facts(section)
        return render_template("page.html", **given, question=ask().next(request.args.get("ask", "")))

    for section in SECTIONS:
        app.add_url_rule(f"/{section}", section, show(section), methods=["GET"])

    app.register_blueprint(masks.painter(store, names, fixed, AUTHOR))
    app.register_blueprint(rollouts.steered(store, rolled, AUTHOR))

    def asked(sample: str = "") -> ResponseReturnValue:
        """The next question: as a fragment for the script, by way of the page without it."""
        if request.headers.get("X-Fragment") == "1":
            return render_template("_label.html", question=ask().next(sample))
        return redirect(url_for("index", _anchor="label"), 303)

    @app.get("/label")
    def label() -> ResponseReturnValue:
        return asked(request.args.get("ask", ""))

    @app.post("/label")
    def label_add() -> ResponseReturnValue:
        class_ = request.form.get("class")
        if class_ is None or (class_ and class_ not in classes):
            abort(400, "A label is one of the task's classes, or empty for a bad crop.")
        ask().answer(request.form.get("sample", ""), class_, AUTHOR)
        return asked()

    @app.post("/label/skip")
    def label_skip() -> ResponseReturnValue:
        ask().skip(request.form.get("sample", ""))
        return asked()

    @app.post("/label/undo")
    def label_undo() -> ResponseReturnValue:
        return asked(ask().undo(AUTHOR))

    @app.post("/request/cycle")
    def request_cycle() -> ResponseReturnValue:
        """Ask the daemon for a cycle; asking twice before it has begun is asking once. `overturn=1`: one that learns also
        from labels that contradict much of what was learned.
        """
        args = {"overturn": True} if request.args.get("overturn") == "1" else {}
        if not any(r.verb == "cycle" and args.items() <= r.args.items() for r in requests.pending(store)):
            requests.add(store, "cycle", args, AUTHOR)
        if request.headers.get("X-Fragment") == "1":
            return "", 204
        return redirect(url_for("index", _anchor="cycle"), 303)

    @app.post("/request/cancel")
    def request_cancel() -> ResponseReturnValue:
        """End the cycle that runs; where none does, or it is ending already, take back what was asked for."""
        pending = requests.pending(store)
        if cycles.running(store) is not None and not any(r.verb == "cancel" for r in pending):
            requests.add(store, "cancel", {}, AUTHOR)
        else:
            for asked_for in (r for r in pending if r.verb == "cycle"):
                requests.done(store, asked_for.id, f"taken back by {AUTHOR}")
        if request.headers.get("X-Fragment") == "1":
            return "", 204
        return redirect(url_for("index", _anchor="cycle"), 303)

    @app.get("/picture/<camera>.jpg")
    def picture(camera: str) -> Response:
        return _jpeg(frames.last_picture(store, camera))

    @app.get("/crop/<sample>.jpg")
    def crop(sample: str) -> Response:
        return _jpeg(samples.crop(store, sample))

    @app.get("/metrics")
    def figures() -> Response:
        if not with_metrics:
            abort(404, "[metrics] enabled is false.")
        return Response(counted.text(), content_type=metrics.CONTENT_TYPE)

    @app.get("/healthz")
    def healthz() -> ResponseReturnValue:
        """For load balancers and supervisors: 200 unless the verdict is "failed", which is 503."""
        found = health.judge(health.look(store, clock.now(), runs=runs and runs()))
        return found.document(), 503 if found.verdict == "failed" else 200

    return app


def _guard(app: Flask, hosts: frozenset[str]) -> None:
    """What holds for every request and every answer."""

    @app.before_request
    def _host() -> None:
        try:
            name = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
        except ValueError:
            name = ""
        if name not in hosts:
            abort(400, "This page is not served under that name.")

    @app.after_request
    def _headers(response: Response) -> Response:
        for key, value in HEADERS.items():
            response.headers.setdefault(key, value)
        if request.endpoint != "static":
            response.headers.setdefault("Cache-Control", "no-store")
        return response

    @app.errorhandler(CSRFError)
    def _csrf(error: CSRFError) -> ResponseReturnValue:
        return "This form is too old or not from this page. Reload the page and try again.", 400, PLAIN

    @app.errorhandler(EdgedError)
    def _edged(error: EdgedError) -> ResponseReturnValue:
        if isinstance(error, Refused):
            return str(error), 404 if error.code in ("not_found", "gone", "no_object") else 400, PLAIN
        app.logger.warning("%s %s: %s", request.method, request.path, error)
        if not isinstance(error, Unavailable | Corrupt):
            return str(error), 500, PLAIN
        if request.path == "/healthz":
            return health.unreadable(error).document(), 503
        if request.path == "/metrics":
            return metrics.FAILED, 503, {"Content-Type": metrics.CONTENT_TYPE}
        return f"{error}\n{error.hint}".strip() + "\n", 503, PLAIN


PLAIN = {"Content-Type": "text/plain; charset=utf-8"}


def _conditional(html: str) -> Response:
    """With an ETag that does not change while only ages grow; 304 when the browser has this one."""
    response = make_response(html)
    response.set_etag(hashlib.sha256(_AGES.sub(rb"\1", html.encode())).hexdigest()[:24])
    response.headers["Cache-Control"] = "no-cache, private"
    response.make_conditional(request)
    return response


def _jpeg(data: bytes | None) -> Response:
    if data is None:
        abort(404, "There is no picture.")
    return Response(data, mimetype="image/jpeg", headers={"Cache-Control": "no-store"})
