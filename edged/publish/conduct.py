"""One turn of all rollouts: what is due is taken, what was asked for is done, what was halted is taken back.

Guarantees: everything that matters between two turns stands in rows, so a daemon that dies goes on with the next turn; a key
that is not there holds up what has to be signed, and nothing else. Does not guarantee: that a camera hears of it; box.py
publishes what `fleet.standing` says.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edged.errors import Corrupt, Misconfigured, Refused, Unavailable
from edged.publish import fleet, release, rules
from edged.publish.rules import Rules
from edged.storage import alarms, deliveries, releases, requests
from edged.storage.stirred import Stirred
from edged.storage.store import Store

if TYPE_CHECKING:
    from edged.publish.trust import Repository

ROLLBACK = "rollback"  # a request's verb; `args` {"to": release number, "cameras": ids, not there = all}
REFUSED = "refused: "  # how the answer to a request begins that was not done
AGAIN_S = 30.0  # after something could not be signed
LOOK_S = 5.0  # at the latest after which rows are looked at again, since time passes for them too


@dataclass(frozen=True)
class Turn:
    """Sentences on what happened, and releases that were halted since the last turn, each with why.

    `looked`: something may have changed; without it nothing can have that cameras should be told.
    """

    said: tuple[str, ...] = ()
    halted: tuple[tuple[int, str], ...] = ()
    looked: bool = True


@dataclass
class Conductor:
    """`rules` and `auto` as they are configured; a release keeps those it was started by."""

    store: Store
    repo: Repository
    rules: Rules
    auto: bool = True
    presence: fleet.Presence = field(default_factory=fleet.Presence)

    def __post_init__(self) -> None:
        self._halted = {r.number for r in releases.all(self.store) if r.state == "halted"}
        self._owed = True  # signatures to be taken back, of before this process too
        self._sign_at = 0.0
        self._stirred = Stirred(self.store)
        self._stamp: tuple[int, ...] = ()  # of the last turn that looked, () = look in any case
        self._looked, self._look_at = 0.0, 0.0
        self._pool: ThreadPoolExecutor | None = None
        self._signing: Future[list[str]] | None = None

    def beside(self) -> None:
        """From now on what has to be signed is signed on a thread of its own: a signer takes seconds on a busy box, and
        messages are not to wait for it. What comes of it is told by a later turn.
        """
        self._pool = ThreadPoolExecutor(1, "rollouts")

    def close(self) -> None:
        """Wait for what is being signed."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def turn(self, now: float) -> Turn:
        """Take every step that is due. Raises Corrupt.

        Rows are looked at when one may have changed, and for the sake of time every LOOK_S, or as often as the shortest
        wait of a release that is under way.
        """
        stamp = self._stirred.look()  # before the rows: what changes meanwhile is looked at by the next turn
        signed = self._signing is not None and self._signing.done()
        if stamp == self._stamp and self._looked <= now < self._look_at and not signed:
            return Turn(looked=False)
        self._stamp = ()
        turn = self._look(now)
        self._stamp, self._looked, self._look_at = stamp, now, now + self._patience()
        return turn

    def _patience(self) -> float:
        """Seconds."""
        open_ = deliveries.open_releases(self.store)
        under_way = [r for r in releases.all(self.store) if r.state in ("rolling", "paused") or r.number in open_]
        by = [rules.of_row(r.rules, self.rules) for r in under_way]
        return min([LOOK_S, *(s for r in by for s in (r.wait_s, r.timeout_s) if s > 0)])

    def _look(self, now: float) -> Turn:
        said = fleet.advance(self.store, self.presence, self.rules, now, auto=self.auto)
        halted = {r.number: r.detail for r in releases.all(self.store) if r.state == "halted"}
        new = tuple((number, why) for number, why in halted.items() if number not in self._halted)
        self._halted |= halted.keys()
        self._owed |= bool(new)
        if self._signing is not None:
            if self._signing.done():
                done, self._signing = self._signing, None
                said += done.result()
        elif now >= self._sign_at and self._due(bool(halted)):
            if self._pool is None:
                said += self._try_to_sign(now, bool(halted))
            else:
                self._signing = self._pool.submit(self._try_to_sign, now, bool(halted))
        return Turn(tuple(said), new)

    def _due(self, any_halted: bool) -> bool:
        asked = any(r.verb == ROLLBACK for r in requests.pending(self.store))
        stray = any_halted and (fleet.astray(self.store) or alarms.stands(self.store, alarms.NO_WAY_BACK))
        return self._owed or asked or bool(stray)

    def _try_to_sign(self, now: float, any_halted: bool) -> list[str]:
        try:
            return self._sign(any_halted)
        except (Unavailable, Misconfigured) as e:
            self._sign_at = now + AGAIN_S
            return [f"a rollout waits, since nothing can be signed: {e}"]

    def _sign(self, any_halted: bool) -> list[str]:
        said = []
        if self._owed:
            said += [f"{path} is no longer signed" for path in release.withdraw(self.store, self.repo)]
            self._owed = False
        said += self._asked()
        return said + (self._rescue() if any_halted else [])

    def _asked(self) -> list[str]:
        said = []
        for request in requests.pending(self.store):
            if request.verb != ROLLBACK:
                continue
            try:
                to, only = request.args.get("to"), request.args.get("cameras") or ()
                number = release.go_back(
                    self.store, self.repo, to=to if isinstance(to, int) else 0, author=request.author,
                    cameras=tuple(map(str, only)),
                )  # fmt: skip
                answer = f"release {number}"
            except (Refused, Corrupt) as e:  # damaged metadata shows elsewhere; a damaged model is no reason to stop
                answer = f"{REFUSED}{e}"
            requests.done(self.store, request.id, answer)
            said.append(f"rollback to {request.args.get('to')}, asked by {request.author}: {answer}")
        return said

    def _rescue(self) -> list[str]:
        try:
            made = release.rescue(self.store, self.repo)
        except Refused as e:
            if e.code != "no_way_back":
                raise
            return [str(e)] if alarms.sound(self.store, alarms.NO_WAY_BACK, str(e)) else []
        if not fleet.astray(self.store):
            alarms.clear(self.store, alarms.NO_WAY_BACK)
        return [f"release {n} brings cameras back from one that was halted" for n in made]
