"""The tasks of a re-test over several hosts, by Dask distributed (the extra `cluster`): docs/retest.md.

A Dask worker starts `worker.py` processes of its own host, so that the device's instruction set and limits hold there as
here. They are sent what they need, model and crops: nothing else of the site leaves the box.

Guarantees: the answers are those of `crew.py`; speed is measured by one process of a host at a time, before any other task
of this re-test begins; what was running on a Dask worker that is lost runs again elsewhere. Does not guarantee secrecy on
the way: that is the scheduler's TLS, set by Dask's own configuration (distributed.comm.require-encryption, tls.ca-file ...).
Who can reach a Dask scheduler runs code on its hosts: `tcp://` is for one machine or a closed network.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

import edged
from edged.clock import Clock
from edged.errors import Corrupt, Misconfigured, Refused, Unavailable
from edged.retrain import device, source
from edged.retrain.crew import Board, Keep
from edged.retrain.hand import Died, Hand, environment
from edged.retrain.jobs import RetestJob
from edged.retrain.pictures import Crop
from edged.retrain.task import CALIBRATION, SLICE, Task
from edged.retrain.worker import Order, Reply, Sent

TIMEOUT_S = 20.0  # to reach the scheduler, and for a first worker to appear
RETRIES = 2  # of a task whose Dask worker was lost

_hands: dict[tuple[int, bytes], Hand] = {}  # on a Dask worker: by thread and job


def run(
    job: RetestJob, folder: Path, tasks: Iterable[Task], keep: Keep, *, clock: Clock, look: Callable[[], None]
) -> Board:
    """Do all tasks elsewhere; as `crew.run`. Raises Unavailable: no scheduler, no worker; Misconfigured: not installed."""
    try:
        from distributed import Client
    except ImportError as e:
        raise Misconfigured("Dask distributed is not installed", hint="pip install edged[cluster]") from e
    board = Board([], keep)
    try:
        client: Any = Client(  # type: ignore[no-untyped-call]
            job.scheduler, timeout=TIMEOUT_S, set_as_default=False, direct_to_workers=False
        )
    except (OSError, TimeoutError) as e:
        raise Unavailable(
            f"no Dask scheduler answers at {job.scheduler}: {e}", hint="[retest] scheduler = \"\" re-tests on this box",
            code="no_scheduler",
        ) from e  # fmt: skip
    with client, source.open_source(job) as store:
        _await_workers(client, clock, look)
        listed = list(tasks)
        for kinds in (("prepare",), ("speed",), ("answers", "pinned")):
            now = [t for t in listed if t.kind in kinds and t.sha256 not in board.refused]
            _phase(client, board, job, store, now, clock, look, spread=kinds == ("speed",))
    return board


def _phase(
    client: Any, board: Board, job: RetestJob, store: source.Source | Any, tasks: list[Task], clock: Clock,
    look: Callable[[], None], *, spread: bool,
) -> None:  # fmt: skip
    """One kind of tasks. `spread`: one at a time on each host."""
    plain = msgspec.msgpack.encode(msgspec.structs.replace(job, data_dir="", key_file="", scheduler=""))
    todo, running = list(tasks), dict[Any, tuple[Task, str, str]]()
    losses: dict[str, int] = {}
    while todo or running:
        look()
        hosts = _hosts(client)
        for future, (task, host, address) in list(running.items()):
            if spread and hosts.get(host) != address and not future.done():  # its worker is gone for good
                future.cancel()
                del running[future]
                losses[task.name] = losses.get(task.name, 0) + 1
                if losses[task.name] > RETRIES:
                    raise Unavailable(f"the Dask workers that timed {task.sha256[:12]} were lost", code="worker_lost")
                todo.insert(0, task)
        busy = {host for _, host, _ in running.values()}
        free = [(h, a) for h, a in hosts.items() if h not in busy] if spread else [("", "")] * max(
            0, 2 * len(_workers(client)) - len(running)
        )  # fmt: skip
        while todo and free:
            (host, address), task = free.pop(), todo.pop(0)
            if task.sha256 in board.refused:
                continue
            where: dict[str, Any] = {"workers": [address], "allow_other_workers": False} if spread else {}
            order = msgspec.msgpack.encode(_order(task, job, store))
            future = client.submit(
                there,
                plain,
                order,
                edged.__version__,
                pure=False,
                retries=0,
                key=f"edged-{task.name}-{clock.now()}",
                **where,
            )
            running[future] = task, host, address
        for future in [f for f in running if f.done()]:
            task, _, _ = running.pop(future)
            _note(board, task, future)
        if board.failed is not None:
            raise board.failed
        clock.sleep(0.02)


def _note(board: Board, task: Task, future: Any) -> None:
    """A future that is done: kept, refused, or to be raised."""
    if future.status == "cancelled":
        raise Unavailable(f"the Dask scheduler dropped {task.kind} of {task.sha256[:12]}", code="worker_lost")
    if future.status != "finished":
        e = future.exception()
        raise Unavailable(f"{task.kind} of {task.sha256[:12]} failed on the cluster: {e}", code="worker_lost") from e
    reply = msgspec.msgpack.decode(future.result(), type=Reply)
    board._busy[0] = task
    board.done(0, reply)


def there(plain: bytes, order: bytes, version: str) -> bytes:
    """Runs on a Dask worker: hands the order to a process of this host under the device's limits; returns its Reply."""
    if version != edged.__version__:
        told = f"this host runs edged {edged.__version__}, the box {version}"
        return msgspec.msgpack.encode(Reply(family="Misconfigured", code="other_version", message=told))
    job = msgspec.msgpack.decode(plain, type=RetestJob)
    asked = msgspec.msgpack.decode(order, type=Order)
    fresh = msgspec.json.decode(asked.task, type=Task).kind == "speed"
    key = threading.get_ident(), plain
    for old in [k for k in _hands if k[0] == key[0] and k != key]:  # of a re-test that is over
        _hands.pop(old).close()
    died: Died | None = None
    for _ in range(2):
        if fresh or key not in _hands:
            hand = Hand(job, Path("/"), timed=fresh, environment=environment(job))
            if not fresh:
                _hands[key] = hand
        else:
            hand = _hands[key]
        try:
            return msgspec.msgpack.encode(hand.ask(asked))
        except Died as e:
            died = e
            _hands.pop(key, None)
            hand.close()
        finally:
            if fresh:
                hand.close()
    return msgspec.msgpack.encode(Reply(family="Refused", code="crashed", message=f"its re-test ended {died} twice"))


def _order(task: Task, job: RetestJob, store: Any) -> Order:
    """The task with all it needs."""
    crops: list[Crop] = []
    if task.kind == "answers":
        crops = store.crops("holdout")[task.slice * SLICE : (task.slice + 1) * SLICE]
    elif task.kind == "pinned":
        crops = store.named(job.pinned)
    train: list[Crop] = []
    if device.find(job.device).numbers == "int8" and crops:
        every = store.crops("train")
        train = every[:: max(1, len(every) // CALIBRATION)][:CALIBRATION]
    return Order(msgspec.json.encode(task), store.model(task.sha256), _sent(crops), _sent(train))


def _sent(crops: Iterable[Crop]) -> tuple[Sent, ...]:
    """One that is gone or damaged goes as an empty one: the other end counts it as not read."""
    found = []
    for crop in crops:
        try:
            jpeg = crop.jpeg()
        except (Refused, Corrupt):
            jpeg = b""
        found.append(Sent(crop.id, crop.camera, crop.label, jpeg))
    return tuple(found)


def _workers(client: Any) -> dict[str, Any]:
    found: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    return found


def _hosts(client: Any) -> dict[str, str]:
    """One Dask worker's address for each host, the same one as long as it is there."""
    found: dict[str, str] = {}
    for address, facts in sorted(_workers(client).items()):
        found.setdefault(str(facts.get("host")), address)
    return found


def _await_workers(client: Any, clock: Clock, look: Callable[[], None]) -> None:
    until = clock.monotonic() + TIMEOUT_S
    while not _workers(client):
        look()
        if clock.monotonic() > until:
            raise Unavailable("the Dask scheduler has no workers", code="no_worker")
        clock.sleep(0.1)
