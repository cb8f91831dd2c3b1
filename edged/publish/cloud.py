"""What may leave the premises, and its leaving. Default deny: a kind leaves only if a rule names it and allows it.

    metrics          numbers of each re-test that was judged: accuracy, speed, memory, size; no names, no sentences
    labels           class, source and time of each human label whose crop is still here; the crop by its random id
    scrubbed_crops   the crops of those labels, unsealed here and sent; only what privacy.scrub let through is ever stored
    models           the files of releases that were not halted

Guarantees: whole pictures are no kind and cannot become one by configuration; the rules are asked again at the moment of
sending; every object that left is one audit row (name, kind, bytes, SHA-256), also when a kill came between the sending
and the row; nothing there is ever overwritten (`If-None-Match: *`). Does not guarantee: that the other side keeps it.
This is the only file that imports obstore; `edged sync` is the only process that calls `push`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from edged.clock import Clock
from edged.errors import Corrupt, Misconfigured, Refused, Unavailable
from edged.storage import audit, candidates, labels, models, objects, outbox, releases, reports, seal, verdicts
from edged.storage.outbox import Kind, Parcel
from edged.storage.store import Store

if TYPE_CHECKING:
    from obstore.store import S3Store

log = logging.getLogger(__name__)

KINDS: tuple[Kind, ...] = ("metrics", "labels", "scrubbed_crops", "models")
_NUMBERS = (
    "device", "sha256", "size", "runtime", "n", "skipped", "accuracy", "latency_ms_p50", "latency_ms_p95", "stages_ms",
    "fps_here", "fps_device", "memory_bytes", "power_w",
)  # fmt: skip
_ALL = 1_000_000_000


@dataclass(frozen=True)
class CloudTarget:
    """An S3-compatible bucket. `prefix` goes before every name (the site's name)."""

    endpoint: str
    bucket: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    region: str = "us-east-1"
    prefix: str = ""

    def name_of(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key


@dataclass(frozen=True)
class PreviewItem:
    """One object that would leave, or is held back; `size` in bytes as it would leave, `why` the rule."""

    kind: str
    key: str
    size: int
    allowed: bool
    why: str


@dataclass(frozen=True)
class Pushed:
    """What one push did: objects and bytes that left, objects that never will, objects still waiting, the time it took."""

    sent: int
    bytes: int
    refused: int
    waiting: int
    seconds: float


@dataclass(frozen=True)
class _Item:
    kind: Kind
    key: str
    source: str
    size: int
    body: bytes | None = None


def preview(store: Store, rules: Mapping[str, bool]) -> list[PreviewItem]:
    """Everything that has not left yet, allowed or not. Writes nothing; works on a readonly store without the key."""
    check_rules(rules)
    known = {p.key: p for p in outbox.all(store, _ALL)}
    waiting = [p for p in known.values() if p.state == "queued"]
    found = [PreviewItem(p.kind, p.key, p.size, *_verdict(p.kind, rules)) for p in sorted(waiting, key=lambda p: p.id)]
    new = (i for i in _wanted(store, KINDS) if i.key not in known)
    return found + [PreviewItem(i.kind, i.key, i.size, *_verdict(i.kind, rules)) for i in new]


def fill(store: Store, rules: Mapping[str, bool]) -> int:
    """Queue what the rules allow and is not queued yet; returns how many. Names are ids and hashes: no doubles."""
    check_rules(rules)
    allowed = [kind for kind in KINDS if rules.get(kind) is True]
    known = {p.key for p in outbox.all(store, _ALL)}
    added = 0
    with store.transaction():
        for i in _wanted(store, allowed):
            if i.key not in known:
                added += outbox.add(store, i.kind, i.key, i.source, i.size, i.body) is not None
    return added


def push(
    store: Store, target: CloudTarget, rules: Mapping[str, bool], clock: Clock, *, max_bytes: int | None = None
) -> Pushed:
    """Send what is queued and allowed, oldest first, at most `max_bytes`.

    Raises Unavailable when the cloud is away (what was sent so far is kept), Misconfigured when it does not know the
    bucket or the key, or the endpoint is not allowed. An object that the bucket holds with other content, or whose
    source was erased meanwhile, is marked refused and the rest goes on.
    """
    check_rules(rules)
    bucket, start = _open(target), clock.monotonic()
    due = [p for p in outbox.due(store, _ALL) if rules.get(p.kind) is True]
    sent = size = refused = 0
    for parcel in due:
        if max_bytes is not None and size + parcel.size > max_bytes:
            break
        try:
            data = _content(store, parcel)
            etag = _put(bucket, target, parcel, data)
        except Unavailable as e:
            outbox.mark(store, parcel.id, "queued", detail=str(e)[:200])
            raise
        except (Refused, Corrupt) as e:
            log.warning("%s does not leave: %s", parcel.key, e)
            outbox.mark(store, parcel.id, "refused", detail=str(e)[:200])
            refused += 1
            continue
        _note(store, target, parcel, data, etag)
        sent, size = sent + 1, size + len(data)
    return Pushed(sent, size, refused, len(due) - sent - refused, clock.monotonic() - start)


def run(
    store: Store,
    target: CloudTarget,
    rules: Mapping[str, bool],
    clock: Clock,
    interval_s: float,
    stop: Callable[[], bool],
    *,
    max_bytes: int | None = None,
) -> None:
    """`edged sync run`: fill and push every `interval_s` until `stop()`. A cloud that is away is waited for.

    Misconfigured comes out: a restart does not help and somebody must look.
    """
    check_rules(rules)
    _open(target)  # say at once what is wrong with the configuration
    while not stop():
        try:
            fill(store, rules)
            pushed = push(store, target, rules, clock, max_bytes=max_bytes)
            if pushed.sent or pushed.refused:
                said = "%d objects (%d bytes) left in %.1f s, %d refused"
                log.info(said, pushed.sent, pushed.bytes, pushed.seconds, pushed.refused)
        except Unavailable as e:
            log.warning("nothing leaves for now: %s", e)
        until = clock.monotonic() + interval_s
        while not stop() and (left := until - clock.monotonic()) > 0:
            clock.sleep(min(1.0, left))


def check_rules(rules: Mapping[str, bool]) -> None:
    """Raises Misconfigured for a kind that does not exist: a typing error must not look like a permission."""
    for kind in rules:
        if kind not in KINDS:
            raise Misconfigured(f"no kind {kind!r} can leave the box", hint=f"known kinds: {', '.join(KINDS)}")


def _verdict(kind: str, rules: Mapping[str, bool]) -> tuple[bool, str]:
    if kind not in rules:
        return False, f"no rule allows {kind}"
    if rules[kind] is True:
        return True, f"the rule for {kind} allows it"
    return False, f"the rule for {kind} forbids it"


# what could leave


def _wanted(store: Store, kinds: tuple[Kind, ...] | list[Kind]) -> Iterator[_Item]:
    sources: dict[Kind, Callable[[Store], Iterator[_Item]]] = {
        "metrics": _metrics,
        "labels": _labels,
        "scrubbed_crops": _crops,
        "models": _models,
    }
    for kind in kinds:
        yield from sources[kind](store)


def _metrics(store: Store) -> Iterator[_Item]:
    for candidate in candidates.all(store):
        verdict = verdicts.of(store, candidate.id)
        for report in reports.of(store, candidate.id):
            if verdict is None or verdict.report != report.id:
                continue
            body = json.loads(report.body)
            numbers: dict[str, Any] = {word: body[word] for word in _NUMBERS if word in body}
            numbers |= {"report": report.id, "model": candidate.name, "passed": verdict.passed}
            yield _inline("metrics", f"metrics/report-{report.id}.json", numbers)


def _labels(store: Store) -> Iterator[_Item]:
    for sample, class_ in labels.effective(store):
        if sample.object is None:
            continue
        label = next(x for x in labels.of(store, sample.id) if x.source == "human" and x.undone is None)
        document = {"id": label.id, "crop": sample.object, "class": class_, "source": "human", "ts": round(label.ts)}
        yield _inline("labels", f"labels/{label.id}.json", document)


def _crops(store: Store) -> Iterator[_Item]:
    for sample, _ in labels.effective(store):
        if sample.object is None:
            continue
        sealed = store.value("select size from object where id = ?", (sample.object,))
        if sealed is None:  # erased this moment
            continue
        size = sealed - seal.OVERHEAD
        yield _Item("scrubbed_crops", f"scrubbed_crops/{sample.object}.jpg", f"object:{sample.object}", size)


def _models(store: Store) -> Iterator[_Item]:
    seen = set()
    for release in releases.all(store):
        if release.state != "halted" and release.sha256 not in seen:
            seen.add(release.sha256)
            yield _Item("models", f"models/{release.sha256}.onnx", f"model:{release.sha256}", release.size)


def _inline(kind: Kind, key: str, document: Mapping[str, Any]) -> _Item:
    body = json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    return _Item(kind, key, "inline", len(body), body)


def _content(store: Store, parcel: Parcel) -> bytes:
    """The bytes that leave. Raises Refused if erased, Corrupt if damaged, Misconfigured without the site key."""
    origin, _, name = parcel.source.partition(":")
    if origin == "inline" and parcel.body is not None:
        return parcel.body
    if origin == "object" and parcel.kind == "scrubbed_crops":
        return objects.read(store, name)
    if origin == "model" and parcel.kind == "models":
        return models.read_model(store, name)
    raise Corrupt(f"outbox row {parcel.id} ({parcel.kind}) names the source {parcel.source[:80]!r}")


# the leaving


def _open(target: CloudTarget) -> S3Store:
    from obstore.store import S3Store

    url = urlsplit(target.endpoint)
    if url.scheme not in ("http", "https") or not url.hostname or not target.bucket:
        raise Misconfigured(
            "[sync] needs an endpoint (https://...) and a bucket", hint=f"endpoint is now {target.endpoint!r}"
        )
    if url.username or url.password:
        raise Misconfigured("[sync] endpoint must not hold a password", hint="use access_key_id and secret_file")
    plain = url.scheme == "http"
    if plain and not _is_loopback(url.hostname):
        raise Misconfigured(f"[sync] endpoint {target.endpoint} is not encrypted", hint="use https://")
    return S3Store(
        target.bucket,
        endpoint=target.endpoint,
        # The environment's AWS_ENDPOINT_URL_S3 would otherwise win over `endpoint`.
        aws_endpoint_url_s3=target.endpoint,
        region=target.region,
        access_key_id=target.access_key_id,
        secret_access_key=target.secret_access_key,
        virtual_hosted_style_request=False,
        skip_signature=False,
        # An upload at 1 Mb/s takes 50 s for the largest model: the limit on the whole request must be generous.
        client_options={"allow_http": plain, "connect_timeout": "10s", "timeout": "10m"},
        retry_config={
            "max_retries": 3,
            "retry_timeout": timedelta(seconds=60),
            "backoff": {
                "init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=5), "base": 2,
            },
        },
    )  # fmt: skip


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _put(bucket: S3Store, target: CloudTarget, parcel: Parcel, data: bytes) -> str:
    """Create the object; one that is there already with the same content is the same success. Returns the etag."""
    import obstore
    from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError

    name = target.name_of(parcel.key)
    try:
        try:
            return obstore.put(bucket, name, data, mode="create")["e_tag"] or ""
        except AlreadyExistsError:
            there = obstore.head(bucket, name)
            same = there["size"] == len(data)
            etag = there["e_tag"] or ""
            # The etag of a simple upload is its MD5, but not on every server: in doubt read it back.
            if same and etag.strip('"') != hashlib.md5(data, usedforsecurity=False).hexdigest():
                same = bytes(obstore.get(bucket, name).bytes()) == data
    except (PermissionDeniedError, UnauthenticatedError) as e:
        raise Misconfigured(
            f"{target.endpoint} does not let this key write to bucket {target.bucket}",
            hint="check [sync] access_key_id, secret_file and the bucket's policy",
        ) from e
    except FileNotFoundError as e:
        raise Misconfigured(
            f"{target.endpoint} has no bucket {target.bucket}", hint="create it, or correct [sync]"
        ) from e
    except BaseError as e:
        raise Unavailable(f"{target.endpoint} does not take objects now: {_first_line(e)}") from e
    if not same:
        raise Refused(f"{name} is there already with other content; nothing is overwritten", code="differs")
    return etag


def _note(store: Store, target: CloudTarget, parcel: Parcel, data: bytes, etag: str) -> None:
    """Mark and audit as one act: a kill before it makes the next push find the object there and come here again."""
    detail = {
        "kind": parcel.kind,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "bucket": target.bucket,
        "endpoint": target.endpoint,
    }
    with store.transaction():
        outbox.mark(store, parcel.id, "sent", etag=etag)
        audit.append(store, "sync", "left", target.name_of(parcel.key), detail)


def _first_line(e: Exception) -> str:
    return (str(e).splitlines() or [type(e).__name__])[0][:160]
