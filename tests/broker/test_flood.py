"""A camera that floods a real broker while honest ones send (SECURITY.md, row 9): its part of the box's queue is bounded,
its bytes stay in its own socket, the others' frames pass it."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
import threading
import time
from itertools import pairwise

import mqtt5
import pytest
from mqtt5 import ConnectPacket, PublishPacket, QoS, SubscribePacket, TopicFilter

from edged.broker.acl import Acl
from edged.broker.hub import PART, Hub, Limits
from edged.broker.session import INFLIGHT_BYTES
from tests.broker.test_hostile import broker, peak, publish, topic

HONEST = ("a", "b", "c")
FRAMES = 20  # of each honest camera
FRAME_BYTES = 50_000
FLOOD_BYTES = 10_000
TAKEN = 2000  # messages that the box takes in all
PEAK_BYTES = 128 * 2**20
FULL_S = 1.0  # a socket that takes nothing for so long is full
QUEUE = "max_inflight_messages 20\nmax_queued_messages 0\nmax_queued_bytes 67108864\n"  # as in our mosquitto.conf
# The control: no publisher is held or refused for its part, and none has a turn of its own.
ONE_QUEUE = "import edged.broker.hub as h; h.PART = 1e9; h.wrap = lambda *a, w=h.wrap: w(*a)._replace(origin='all'); "


class Sock:
    """An outlet that keeps what it was told to send."""

    def __init__(self):
        self.sent, self.open, self.held = [], True, False

    def send(self, packet):
        self.sent.append(mqtt5.read(memoryview(b"".join(packet)))[0])

    def ready(self):
        return self.open

    def end(self, reason):
        pass

    def hold(self, on):
        self.held = on


@pytest.fixture
def hub(clock):
    return Hub(Acl("site"), clock, Limits(session_bytes=1_000_000, total_bytes=2_000_000))


def join(hub, name, pattern="", **connect):
    sock = Sock()
    session, _ = hub.open(ConnectPacket(name, **connect), name, name, sock)
    if pattern:
        hub.subscribe(session, SubscribePacket(1, [TopicFilter(pattern)]))
    return session, sock


def say(hub, session, size=1000, to=""):
    packet = PublishPacket(to or topic(session.client_id), b"", qos=QoS.AT_LEAST_ONCE, packet_id=1)
    return int(hub.publish(session, packet, bytes(size)))


def box(hub, **connect):
    return join(hub, "server", "edged/1/site/cam/+/frame", receive_max=1, **connect)


def take(hub, session, sock, n=1):
    """The box acknowledges `n` messages; whose they were."""
    came = []
    for _ in range(n):
        packet = sock.sent[-1]
        came.append(packet.topic.split("/")[4])
        hub.acknowledge(session, packet.packet_id)
    return came


def flood(hub, session, sock):
    sent = 0
    while not sock.held:
        assert say(hub, session) == 0, "whoever is not held is taken"
        sent += 1
    return sent


def test_a_camera_that_fills_its_part_is_read_no_further_and_the_others_pass_it(hub):
    server, ear = box(hub)
    (evil, evil_sock), (gate, gate_sock) = join(hub, "evil"), join(hub, "gate")
    sent = flood(hub, evil, evil_sock)
    assert sent * 1000 < hub.limits.session_bytes * PART + 10_000
    assert [say(hub, gate) for _ in range(4)] == [0] * 4
    assert not gate_sock.held
    came = take(hub, server, ear, 9)
    assert came[1:].count("gate") == 4, came
    assert all(one != after for one, after in pairwise(came[1:])), "turn by turn"


def test_it_is_read_on_once_half_of_its_part_is_taken(hub):
    server, ear = box(hub)
    evil, sock = join(hub, "evil")
    sent = flood(hub, evil, sock)
    taken = 0
    while sock.held:
        taken += len(take(hub, server, ear))
    assert sent / 4 < taken < sent
    assert flood(hub, evil, sock) > 0
    while server.parts:
        take(hub, server, ear)
    assert not sock.held
    assert not server.holds
    assert not evil.held_by


def test_eight_that_flood_leave_room_for_others(hub):
    server, _ = box(hub)
    for n in range(8):
        session, sock = join(hub, f"evil-{n}")
        while not sock.held:
            assert say(hub, session) == 0
    assert hub.limits.session_bytes - server.bytes > hub.limits.session_bytes / 7
    gate, _ = join(hub, "gate")
    assert say(hub, gate, 50_000) == 0


def test_what_was_read_already_and_does_not_fit_is_refused_in_words(hub):
    box(hub)
    evil, sock = join(hub, "evil")
    flood(hub, evil, sock)
    answers = [say(hub, evil) for _ in range(300)]
    assert answers[-1] == mqtt5.PubAckReasonCode.QUOTA_EXCEEDED
    assert hub.counts["dropped"] > 0
    gate, _ = join(hub, "gate")
    assert say(hub, gate) == 0


def test_nobody_is_held_for_a_box_that_is_away(hub, clock):
    server, ear = box(hub, session_expiry_interval=60, clean_start=False)
    evil, sock = join(hub, "evil")
    flood(hub, evil, sock)
    hub.lost(server, ear, graceful=False)
    assert not sock.held
    while say(hub, evil) == 0:
        assert not sock.held
    gate, _ = join(hub, "gate")
    assert say(hub, gate) == 0, "a flood leaves room in the queue of a box that is away, too"


def test_whoever_connects_anew_is_held_anew(hub):
    server, ear = box(hub)
    evil, sock = join(hub, "evil")
    flood(hub, evil, sock)
    hub.lost(evil, sock, graceful=False)
    evil, sock = join(hub, "evil")
    assert not sock.held
    say(hub, evil)
    assert sock.held
    while server.parts:
        take(hub, server, ear)
    assert not sock.held


def test_the_box_itself_is_never_held_by_a_camera_that_does_not_read(hub):
    server, ear = box(hub)
    _, deaf = join(hub, "deaf", "edged/1/site/cam/deaf/receipt")
    _, heard = join(hub, "gate", "edged/1/site/cam/gate/receipt")
    deaf.open = False
    while say(hub, server, to=topic("deaf", "receipt")) == 0:
        assert not ear.held
    assert say(hub, server, to=topic("gate", "receipt")) == 0
    assert len(heard.sent) == 1


def test_what_is_unacknowledged_is_bounded_in_bytes_too(clock):
    hub = Hub(Acl("site"), clock)
    server, ear = join(hub, "server", "edged/1/site/cam/#")
    gate, _ = join(hub, "gate")
    for _ in range(12):
        assert say(hub, gate, 2**20) == 0
    assert len(ear.sent) == INFLIGHT_BYTES // 2**20 - 1
    while server.inflight:
        assert server.inflight_bytes <= INFLIGHT_BYTES
        hub.acknowledge(server, next(iter(server.inflight)))
    assert (server.inflight_bytes, server.bytes, len(ear.sent)) == (0, 0, 12)


def flooded(dial, before=""):
    """Honest cameras send while one floods and a box takes what comes, slowly at first.

    What each honest frame's PUBACK said, whose messages the box took in what order, peak of the broker's memory."""
    with broker(before) as (process, port), contextlib.ExitStack() as stack:
        ear = dial(port, "server", receive_max=20)
        ear.send(SubscribePacket(1, [TopicFilter("edged/1/site/cam/+/frame")]))
        assert isinstance(ear.read(), mqtt5.SubAckPacket)
        stop, full, order, codes = threading.Event(), threading.Event(), [], {name: [] for name in HONEST}
        evil = dial(port, "evil", keep_alive=0)
        evil.socket.setblocking(False)
        evil_data = publish(topic("evil"), bytes(FLOOD_BYTES)).write()

        def overrun():
            sent, rest = 0, b""
            while not stop.is_set():
                readable, writable, _ = select.select([evil.socket], [evil.socket], [], FULL_S)
                if readable:
                    evil.socket.recv(1 << 16)  # the answers are of no interest
                if writable:
                    rest = rest or evil_data
                    rest = rest[evil.socket.send(rest) :]
                    sent += 1
                if not (readable or writable) or sent * FLOOD_BYTES > 2 * Limits().session_bytes:
                    full.set()  # its socket, or what any broker may take of it

        def listen():
            full.wait(30)
            while len(order) < TAKEN:
                packet = ear.read()
                if packet is None:
                    break
                order.append(packet.topic.split("/")[4])
                ear.send(mqtt5.PubAckPacket(packet.packet_id))

        def send(name, raw):
            full.wait(30)
            for i in range(FRAMES):
                raw.send(publish(topic(name), bytes([i]) * FRAME_BYTES))
                codes[name].append(int(raw.read().reason_code))

        threads = [threading.Thread(target=send, args=(name, dial(port, name))) for name in HONEST]
        threads += [threading.Thread(target=listen)]
        flooding = threading.Thread(target=overrun)
        stack.callback(flooding.join, 10)
        stack.callback(stop.set)
        for thread in (*threads, flooding):
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        return codes, order, peak(process)


def test_honest_cameras_lose_nothing_to_a_flood_and_need_not_wait_for_it(dial):
    codes, order, most = flooded(dial)
    honest = {name: order.count(name) for name in HONEST}
    print(f"{honest} honest frames among {len(order)}, the last at {last(order)}, peak {most >> 20} MiB")
    assert codes == {name: [0] * FRAMES for name in HONEST}
    assert honest == dict.fromkeys(HONEST, FRAMES)
    assert order.count("evil") > TAKEN / 2, "the flood lasted"
    assert most <= PEAK_BYTES


def test_one_queue_for_all_would_starve_them(dial):
    codes, order, _ = flooded(dial, ONE_QUEUE)
    accepted = sum(code == 0 for told in codes.values() for code in told)
    came = sum(order.count(name) for name in HONEST)
    print(f"{accepted} of {FRAMES * len(HONEST)} honest frames accepted, {came} among the first {len(order)}")
    assert came < FRAMES * len(HONEST) / 2


def last(order):
    """Where in the order the last honest frame is."""
    return max((i for i, name in enumerate(order) if name in HONEST), default=len(order))


@pytest.mark.mosquitto
def test_mosquitto_delays_honest_frames_behind_a_flood_but_loses_none(dial, tmp_path):
    """It has one queue for the box, and neither holds a publisher nor takes turns: docs/ingest.md says what helps."""
    binary = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
    if binary is None:
        pytest.skip("mosquitto is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    conf = tmp_path / "mosquitto.conf"
    conf.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n{QUEUE}")
    with subprocess.Popen([binary, "-c", conf], stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(100):
                with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.1)
            ear = dial(port, "server", receive_max=20)
            ear.send(SubscribePacket(1, [TopicFilter("edged/1/site/cam/+/frame")]))
            assert isinstance(ear.read(), mqtt5.SubAckPacket)
            evil, sent = dial(port, "evil"), TAKEN
            for _ in range(sent):
                evil.send(publish(topic("evil"), bytes(FLOOD_BYTES)))
                assert int(evil.read().reason_code) == 0
            for name in HONEST:
                raw = dial(port, name)
                for i in range(FRAMES):
                    raw.send(publish(topic(name), bytes([i]) * FRAME_BYTES))
                    assert int(raw.read().reason_code) == 0
            order = []
            while len(order) < sent + len(HONEST) * FRAMES:
                packet = ear.read()
                order.append(packet.topic.split("/")[4])
                ear.send(mqtt5.PubAckPacket(packet.packet_id))
        finally:
            process.terminate()
    assert {name: order.count(name) for name in HONEST} == dict.fromkeys(HONEST, FRAMES)
    print(f"the first honest frame came after {order.index('a')} of {sent} frames of the flood")
