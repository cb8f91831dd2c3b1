"""A camera that does its worst, while four honest ones send (SECURITY.md, row 8).

Nothing of theirs is lost, none of them is disconnected, and the broker stays small.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from pathlib import Path

import mqtt5
from mqtt5 import PublishPacket, QoS, SubscribePacket, TopicFilter, Will

from edged.broker.codec import length_bytes

HONEST = ("a", "b", "c", "d")
FRAMES = 40  # of each honest camera
ROUNDS = 3  # of all attacks
PEAK_BYTES = 128 * 2**20
START = "import sys; from edged.broker.__main__ import main; sys.exit(main({arguments}))"
# The control: a broker that takes what it is given.
BROKEN = "import functools, edged.broker.hub as h; h.Limits = functools.partial(h.Limits, packet_bytes=1 << 29); "


@contextlib.contextmanager
def broker(before=""):
    """A broker in a process of its own; (process, port)."""
    script = before + START.format(arguments=["--site", "site", "--port", "0", "--insecure"])
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            yield process, int(process.stdout.readline().split()[1])
        finally:
            process.terminate()


def peak(process):
    """Most bytes that were ever resident."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def topic(camera, leaf="frame"):
    return f"edged/1/site/cam/{camera}/{leaf}"


def publish(to, payload=b"x", **more):
    return PublishPacket(to, payload, qos=QoS.AT_LEAST_ONCE, packet_id=7, **more)


def huge(properties=b"", payload_bytes=0, announced=None):
    """A PUBLISH, written by hand, since the codec would not."""
    name = topic("evil").encode()
    body = len(name).to_bytes(2, "big") + name + b"\0\7" + length_bytes(len(properties)) + properties
    size = announced if announced is not None else len(body) + payload_bytes
    return b"\x32" + length_bytes(size) + body + bytes(payload_bytes)


# What is sent, and the reason code of the PUBACK or DISCONNECT that must answer it.
ATTACKS = {
    "retained picture": (publish(topic("evil"), bytes(1000), retain=True).write(), 0x87),
    "large retained state": (publish(topic("evil", "state"), bytes(5000), retain=True).write(), 0x87),
    "another's topic": (publish(topic("a"), bytes(1000)).write(), 0x87),
    "$CONTROL": (publish("$CONTROL/dynamic-security/v1", b"{}").write(), 0x87),
    "256 MB announced": (huge(announced=268_435_455), 0x95),
    "65k user properties": (huge(b"&\0\0\0\0" * 65_536), 0x95),
    "13k user properties": (huge(b"&\0\0\0\0" * 13_000), 0x97),
    "QoS 2 without PUBREL": (PublishPacket(topic("evil"), b"x", qos=QoS.EXACTLY_ONCE, packet_id=1).write(), 0x9B),
    "large packet that is no message": (b"\x82" + b"\x80\x80\x40" + bytes(1 << 20), 0x95),
}


def attack(dial, port):
    """Each attack in turn; {its name: the reason code that answered it, None = hung up without one}."""
    said = {}
    for name, (data, _) in ATTACKS.items():
        raw = dial(port, "evil", keep_alive=0)
        with contextlib.suppress(ConnectionError):
            raw.send(data)
        answer = raw.read()
        said[name] = None if answer is None else int(answer.reason_code)
        raw.close()
    will = dial(port, "evil", will=Will(topic("a", "state"), payload=b"offline", retain=True)).connack
    said["will on another's topic"] = int(will.reason_code)
    idle = dial(port, "evil", keep_alive=0).connack
    said["keepalive 0"] = idle.server_keep_alive
    endless = dial(port, "evil")
    with contextlib.suppress(ConnectionError):  # and this one means it
        endless.send(huge(announced=268_435_455))
        for _ in range(64):
            endless.send(bytes(1 << 20))
    endless.close()
    return said


def test_an_attacker_gets_refusals_and_four_honest_cameras_lose_nothing(dial):
    with broker() as (process, port):
        ear = dial(port, "server")
        ear.send(SubscribePacket(1, [TopicFilter("edged/1/site/cam/+/frame")]))
        assert isinstance(ear.read(), mqtt5.SubAckPacket)
        codes, heard = {name: [] for name in HONEST}, []

        def listen():
            for _ in range(FRAMES * len(HONEST)):
                packet = ear.read()
                heard.append((packet.topic, packet.payload[0]))
                ear.send(mqtt5.PubAckPacket(packet.packet_id))

        def send(name, raw):
            for i in range(FRAMES):
                raw.send(publish(topic(name), bytes([i]) * 100_000))
                codes[name].append(int(raw.read().reason_code))

        threads = [threading.Thread(target=listen)]
        threads += [threading.Thread(target=send, args=(name, dial(port, name))) for name in HONEST]
        for thread in threads:
            thread.start()
        answers = [attack(dial, port) for _ in range(ROUNDS)]
        for thread in threads:
            thread.join(60)
        wanted = {name: code for name, (_, code) in ATTACKS.items()} | {
            "will on another's topic": 0x87,
            "keepalive 0": 300,
        }
        assert answers == [wanted] * ROUNDS
        assert codes == {name: [0] * FRAMES for name in HONEST}
        assert sorted(heard) == sorted((topic(name), i) for name in HONEST for i in range(FRAMES))
        print(f"{ROUNDS} x {len(wanted) + 1} attacks, {len(heard)} honest frames, peak {peak(process) >> 20} MiB")
        assert peak(process) <= PEAK_BYTES


def test_a_broker_that_reads_whatever_it_is_sent_would_not_stay_small(dial):
    with broker(BROKEN) as (process, port):
        raw = dial(port, "evil")
        raw.send(huge(payload_bytes=160 << 20))
        assert int(raw.read().reason_code) == 0x10  # taken, though nobody wanted it
        assert peak(process) > PEAK_BYTES
