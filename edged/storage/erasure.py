"""Erasure: pictures that nobody can open any more, here or in a copy made before.

    promise   1. a row in `request`: from here on it is finished, whatever happens
    run       2. one transaction: the rows of single pictures go, the keys that sealed them are noted (`doomed_key`), and what
                 waits in the outbox does not leave. The rows of whole days go a batch at a time, so that frames come in
              3. what else the noted keys seal is sealed anew under fresh keys (clean.reseal)
              4. one transaction: when nothing is left under all these keys, they are condemned: from here on nobody uses them
              5. the keys are destroyed in both copies of the keyring; the WAL is overwritten
              6. one transaction: audit, and the request is answered

A death after 1 or 2 is made good by the next `run` of the same request: each step is there already or is done again.
Guarantees: once `run` returns, what was erased opens neither from this store nor from an earlier copy of it, unless that
copy holds a keyring and its site key; everything else opens. The audit log says how much, not what. Does not guarantee
that what left the box comes back, or that a model forgets: `Plan.left` and `Plan.models` name them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec

from edged.errors import Refused, Unavailable
from edged.storage import audit, clean, copies, counters, objects, overwrite, requests, retention
from edged.storage.store import Store

VERB = "erase"
BATCH = 500
ROUNDS = 20  # of sealing anew what came in under a noted key meanwhile

Progress = Callable[[float], None]


class What(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be erased. Either whole days: `camera` ("" = all) from `first` to `last` (YYYY-MM-DD by the box's clock at
    receipt, "" = open). Or single things: `samples` by id (the crop and the whole picture it was cut from), `frames` by
    (camera, id) with all their crops. `drop_labels`: the labels of erased samples go as well.
    """

    camera: str = ""
    first: str = ""
    last: str = ""
    samples: tuple[str, ...] = ()
    frames: tuple[tuple[str, str], ...] = ()
    drop_labels: bool = False

    @property
    def single(self) -> bool:
        return bool(self.samples or self.frames)

    @property
    def subject(self) -> str:
        """For the audit log: no id of a sample or a frame."""
        if self.single:
            return f"{len(self.samples)} samples, {len(self.frames)} frames"
        days = self.first if self.first == self.last else f"{self.first or 'begin'}..{self.last or 'end'}"
        return f"{self.camera or 'all cameras'}/{days or 'all days'}"

    @property
    def digest(self) -> str:
        """Proof of which ids were asked for, to whoever knows them."""
        document = [sorted(self.samples), sorted(self.frames)]
        return hashlib.sha256(json.dumps(document, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Model:
    """A model that was trained, tuned or tested on something of it."""

    candidate: int
    name: str
    sha256: str
    samples: int
    releases: tuple[int, ...]


@dataclass(frozen=True)
class Left:
    """What left the box before; erasing it there is for whoever has it."""

    kind: str
    key: str
    sent: float


@dataclass(frozen=True)
class Plan:
    """What would go: `objects` ids, their `bytes`, of how many frames and samples, how many of these with a human label;
    `keys` destroyed whole, `shared` keys whose other objects (`others`, `other_bytes`) are sealed anew.
    """

    objects: tuple[str, ...] = ()
    bytes: int = 0
    frames: int = 0
    samples: tuple[str, ...] = ()
    labelled: int = 0
    keys: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    others: int = 0
    other_bytes: int = 0
    models: tuple[Model, ...] = ()
    left: tuple[Left, ...] = ()


@dataclass(frozen=True)
class Erased:
    """What an erasure did. `resealed` bytes were sealed anew."""

    objects: int
    bytes: int
    keys: int
    resealed: int = 0
    models: tuple[str, ...] = field(default=())


def plan(store: Store, what: What) -> Plan:
    """What an erasure would do now; writes nothing. Raises Refused("nothing_named"), Refused("not_found") for a sample or
    a frame that never was.
    """
    keys = () if what.single else tuple(_keys(store, what))
    going = _of_single(store, what) if what.single else [i for k in keys for i in _column(store, _OF_KEY, k)]
    facts = _facts(store, going)
    sealed_by = {f["key_id"] for f in facts}
    others = size = 0
    for key in sealed_by - set(keys):
        row = store.row("select count(*), coalesce(sum(size), 0) from object where key_id = ?", (key,))
        mine = [f["size"] for f in facts if f["key_id"] == key]
        if row is not None:
            others += row[0] - len(mine)
            size += row[1] - sum(mine)
    samples = tuple(sorted({s for batch in _batches(going) for s in _in(store, _SAMPLES, batch)}))
    labelled = sum(len(_in(store, _LABELLED, batch)) for batch in _batches(samples))
    return Plan(
        tuple(going), sum(f["size"] for f in facts), sum(len(_in(store, _FRAMES, b)) for b in _batches(going)), samples,
        labelled, keys, tuple(sorted(sealed_by - set(keys))), others, size, tuple(_models(store, samples)),
        tuple(_left(store, going, samples)),
    )  # fmt: skip


def promise(store: Store, what: What, author: str) -> int:
    """Ask for it; returns the request's id. From here on it will be done. Raises as `plan`."""
    plan(store, what)
    return requests.add(store, VERB, msgspec.to_builtins(what), author)


def run(store: Store, request_id: int, progress: Progress = lambda _: None) -> Erased:
    """Do, or finish, what was promised; not inside a transaction. Raises Unavailable, Misconfigured without the site key;
    a second run of a finished one changes nothing.
    """
    row = store.row("select args, author, result, done from request where id = ? and verb = ?", (request_id, VERB))
    if row is None:
        raise Refused(f"there is no erasure {request_id}", code="not_found")
    if row["done"] is not None:
        return msgspec.convert(json.loads(row["result"]), Erased)
    store.seal  # noqa: B018  (without the site key nothing can be sealed anew)
    for earlier in [r.id for r in requests.pending(store) if r.verb == VERB and r.id < request_id]:
        with suppress(Refused):  # answered by whoever asked for it
            run(store, earlier)  # else it could seal anew, under another key, what this one takes
    try:
        what = msgspec.convert(json.loads(row["args"]), What)
    except msgspec.ValidationError as e:
        raise Refused(f"request {request_id} is no erasure: {e}", code="bad_request") from e
    state: dict[str, Any] = json.loads(row["result"]) if row["result"] else _forget(store, request_id, what)
    shared = [r[0] for r in store.rows("select id from doomed_key where request = ?", (request_id,))]
    gone = sorted({*state["keys"], *shared})
    resealed = 0

    def tell(share: float) -> None:
        progress(share)
        with store.transaction(durable=False):
            _note(store, request_id, {**state, "progress": round(share, 3)})

    for _ in range(ROUNDS):
        _forget_under(store, state["keys"])
        left = [i for k in shared for i in _column(store, _OF_KEY, k)]
        try:
            resealed += clean.reseal(store, left, tell) if left else 0
        except Unavailable as e:
            if e.code != "disk_full" or not clean.run(store).freed:
                raise
            continue
        # A frame whose camera was told has its rows now, and no other camera is told until the keys are condemned.
        with store.journal.settled(), store.transaction():
            if not any(store.value(_OF_KEY, (k,)) for k in gone):
                # Durable here is durable for the new places, too: they stand in the log before this.
                store.seal.condemn(store, gone)
                break
    else:
        raise Unavailable("more comes in under the keys than can be sealed anew", code="busy")
    store.seal.destroy(store, gone)
    done = Erased(state["objects"], state["bytes"], len(gone), resealed, tuple(state["models"]))
    if what.drop_labels:
        copies.drop(store.data_dir)  # they hold the labels; the next one is made without
    overwrite.log(store)  # rows that told of what was erased do not stay behind in the WAL, nor where it was
    with store.transaction():
        detail = {
            **msgspec.to_builtins(done),
            "labels": "dropped" if what.drop_labels else "kept",
            "left": state["left"],
        }
        audit.append(store, row["author"], VERB, what.subject, detail | ({"ids": what.digest} if what.single else {}))
        counters.bump(store, "erased_objects", done.objects)
        store.execute("delete from doomed_key where request = ?", (request_id,))
        kept = what if not what.single else What(drop_labels=what.drop_labels)
        store.execute(
            "update request set args = ?, result = ?, done = ? where id = ?",
            (
                json.dumps(msgspec.to_builtins(kept)),
                json.dumps(msgspec.to_builtins(done)),
                store.clock.now(),
                request_id,
            ),
        )
    return done


def now(store: Store, what: What, author: str, progress: Progress = lambda _: None) -> Erased:
    """Promise and do, in the process that writes."""
    return run(store, promise(store, what, author), progress)


def standing(store: Store, request_id: int) -> tuple[float, Erased | None]:
    """How far a promised erasure is, 0..1, and what it did once it is done."""
    row = store.row("select result, done from request where id = ? and verb = ?", (request_id, VERB))
    if row is None:
        raise Refused(f"there is no erasure {request_id}", code="not_found")
    if row["done"] is not None and not row["result"].startswith("{"):
        raise Refused(row["result"], code="refused")
    if row["done"] is not None:
        return 1.0, msgspec.convert(json.loads(row["result"]), Erased)
    return (float(json.loads(row["result"]).get("progress", 0)) if row["result"] else 0.0), None


def _forget(store: Store, request_id: int, what: What) -> dict[str, Any]:
    """Step 2; returns what the later steps need to know."""
    with store.transaction():
        found = plan(store, what)
        state = {
            "objects": len(found.objects), "bytes": found.bytes, "keys": list(found.keys),
            "models": sorted({m.sha256 for m in found.models}), "left": len(found.left),
        }  # fmt: skip
        store.execute_many(
            "update outbox set state = 'refused', detail = 'erased', body = null where source = ? and state = 'queued'",
            [(f"object:{i}",) for i in found.objects],
        )
        if what.single:
            objects.forget(store, found.objects)
        if what.drop_labels:
            for batch in _batches(found.samples):
                store.execute_many(
                    "update outbox set state = 'refused', detail = 'erased', body = null where key = ? and state = 'queued'",
                    [(f"labels/{i}.json",) for i in _in(store, "select id from label where sample in ({})", batch)],
                )
            store.execute_many("delete from label where sample = ?", [(s,) for s in found.samples])
        store.execute_many(
            "insert into doomed_key values (?, ?) on conflict do nothing", [(k, request_id) for k in found.shared]
        )
        _note(store, request_id, state)
    return state


def _forget_under(store: Store, keys: Collection[str]) -> None:
    for key in sorted(keys):
        while going := _column(store, f"{_OF_KEY} limit {retention.BATCH}", key):
            with store.transaction():
                objects.forget(store, going)
            if len(going) == retention.BATCH:
                store.clock.sleep(retention.PAUSE_S)


def _note(store: Store, request_id: int, state: dict[str, Any]) -> None:
    store.execute(
        "update request set result = ? where id = ? and done is null", (json.dumps(state, sort_keys=True), request_id)
    )


def _keys(store: Store, what: What) -> list[str]:
    if not (what.camera or what.first or what.last):
        raise Refused("name a camera, a day, samples or frames", code="nothing_named", exit_code=2)
    known = "select 1 from camera where id = ?1 union all select 1 from data_key where camera = ?1"
    if what.camera and store.value(known, (what.camera,)) is None:
        raise Refused(f"no camera {what.camera} ever sent anything", code="not_found", exit_code=4)
    return [
        r[0]
        for r in store.rows(
            "select id from data_key where destroyed is null and (?1 = '' or camera = ?1) and (?2 = '' or day >= ?2)"
            " and (?3 = '' or day <= ?3) order by camera, day, id",
            (what.camera, what.first, what.last),
        )
    ]


def _of_single(store: Store, what: What) -> list[str]:
    found: dict[str, None] = {}
    for sample in what.samples:
        row = store.row(
            "select s.object, f.object from sample s left join frame f on f.camera = s.camera and f.id = s.frame"
            " where s.id = ?",
            (sample,),
        )
        if row is None:
            raise Refused(f"no sample {sample[:200]}", code="not_found", exit_code=4)
        found |= dict.fromkeys(o for o in row if o is not None)
    for camera, frame in what.frames:
        row = store.row("select ts, object from frame where camera = ? and id = ?", (camera, frame))
        if row is None:
            raise Refused(f"no frame {frame[:200]} of {camera[:80]}", code="not_found", exit_code=4)
        crops = store.rows(
            "select object from sample where camera = ? and ts = ? and frame = ?", (camera, row["ts"], frame)
        )
        found |= dict.fromkeys(o for o in (row["object"], *(c[0] for c in crops)) if o is not None)
    return list(found)


def _facts(store: Store, ids: Sequence[str]) -> list[Any]:
    return [
        r
        for batch in _batches(ids)
        for r in store.rows(f"select id, key_id, size from object where id in ({_marks(batch)})", batch)
    ]


def _models(store: Store, samples: Sequence[str]) -> Iterator[Model]:
    mine = set(samples)
    hits: dict[str, int] = {}
    for row in store.rows("select id, body from snapshot where id in (select snapshot from candidate)"):
        body = json.loads(row["body"])
        hits[row["id"]] = sum(s in mine for part in ("train", "tune", "holdout") for s, _ in body[part])
    numbers: dict[str, list[int]] = {}
    for row in store.rows("select sha256, number from release order by number"):
        numbers.setdefault(row["sha256"], []).append(row["number"])
    for row in store.rows("select id, name, sha256, snapshot from candidate order by id"):
        if n := hits.get(row["snapshot"], 0):
            yield Model(row["id"], row["name"], row["sha256"], n, tuple(numbers.get(row["sha256"], ())))


def _left(store: Store, going: Sequence[str], samples: Sequence[str]) -> Iterator[Left]:
    mine = set(going)
    labels = {
        str(r)
        for batch in _batches(samples)
        for r in _in(store, "select id from label where source = 'human' and sample in ({})", batch)
    }
    for row in store.rows("select kind, key, source, sent from outbox where state = 'sent' order by id"):
        origin, _, name = row["source"].partition(":")
        label = row["key"].removeprefix("labels/").removesuffix(".json") if row["kind"] == "labels" else ""
        if (origin == "object" and name in mine) or label in labels:
            yield Left(row["kind"], row["key"], row["sent"] or 0.0)


_OF_KEY = "select id from object where key_id = ?"
_SAMPLES = "select id from sample where object in ({})"
_FRAMES = "select 1 from frame where object in ({})"
_LABELLED = "select distinct sample from label where source = 'human' and undone is null and sample in ({})"


def _column(store: Store, sql: str, *params: object) -> list[str]:
    return [r[0] for r in store.rows(sql, params)]


def _in(store: Store, sql: str, batch: Sequence[str]) -> list[Any]:
    return [r[0] for r in store.rows(sql.format(_marks(batch)), batch)]


def _batches(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def _marks(batch: Sequence[str]) -> str:
    return ", ".join("?" * len(batch))
