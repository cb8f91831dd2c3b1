"""The broker over real sockets: what it answers to those who break the rules, and that nobody else notices."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys

import mqtt5
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mqtt5 import ConnectPacket, PublishPacket, QoS, SubscribePacket, TopicFilter, Will

from edged.broker.acl import OpenDoor
from edged.broker.codec import NotMqtt, decode, packet_size
from edged.broker.server import BrokerThread
from edged.errors import Misconfigured, Unavailable

# A string that is no UTF-8 makes the codec panic, and pyo3 reports the lost UnicodeDecodeError as unraisable.
panics = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def broker():
    with BrokerThread(OpenDoor()) as running:
        yield running


def publish(topic, payload=b"x", **more):
    return PublishPacket(topic, payload, qos=QoS.AT_LEAST_ONCE, packet_id=7, **more)


def test_connack_says_what_the_broker_can_do(broker, dial):
    said = dial(broker.port, clean_start=True, keep_alive=0).connack
    assert int(said.max_qos) == 1
    assert said.max_packet_size == 2 * 1024 * 1024 + 64 * 1024
    assert not said.shared_subscription_available
    assert not said.subscription_id_available
    assert said.server_keep_alive == 300  # "never" is not accepted
    assert not said.session_present
    assert dial(broker.port, "other", session_expiry_interval=2**32 - 1).connack.session_expiry_interval == 7 * 86400


def test_an_empty_client_id_is_given_one(broker, dial):
    raw = dial(broker.port, "")
    raw.send(ConnectPacket("", clean_start=True))
    assert raw.read().assigned_client_id.startswith("anonymous-")


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (PublishPacket("t", b"x", qos=QoS.EXACTLY_ONCE, packet_id=1), 0x9B),
        (PublishPacket("t", b"x", topic_alias=1), 0x94),
        (PublishPacket("t", b"x", subscription_ids=[1]), 0x82),
        (b"\x32\x06\x00\x01t\x00\x00\x00", 0x82),  # packet id 0
        (SubscribePacket(1, [TopicFilter("t")], subscription_id=5), 0xA1),
        (ConnectPacket("raw"), 0x82),  # a second CONNECT
        (mqtt5.PubRelPacket(1), 0x82),
        (mqtt5.DisconnectPacket(session_expiry_interval=10), 0x82),
        (b"\x30\xff\xff\xff\x7f", 0x95),  # 256 MB announced
        (b"\x30\xff\xff\xff\xff", 0x81),
        (b"\x00\x00", 0x81),
        (b"\x30\x05\x00\x03a+b\x00", 0x81),  # a wildcard in a topic
        (b"\x30\x06\x00\x03a\xff\xfe\x00", 0x81),  # no UTF-8
    ],
)
@panics
def test_who_breaks_the_protocol_is_told_why_and_disconnected_and_its_will_is_sent(broker, dial, packet, code):
    watcher = dial(broker.port, "watcher")
    watcher.send(SubscribePacket(1, [TopicFilter("will")]))
    watcher.read()
    raw = dial(broker.port, will=Will("will", payload=b"gone"))
    raw.send(packet)
    said = raw.read()
    assert (type(said), int(said.reason_code)) == (mqtt5.DisconnectPacket, code)
    assert raw.read() is None
    assert watcher.read().payload == b"gone"


def test_many_user_properties_cost_the_message_not_the_connection(broker, dial):
    raw = dial(broker.port)
    raw.send(publish("t", user_properties=[("a", "b")] * 65))
    assert int(raw.read().reason_code) == 0x97
    raw.send(mqtt5.PingReqPacket())
    assert isinstance(raw.read(), mqtt5.PingRespPacket)


def test_before_connect_nothing_else_and_nothing_large_is_read(broker, dial):
    for packet in (mqtt5.PingReqPacket(), publish("t"), b"\x10\xff\xff\x7f" + bytes(1000)):
        raw = dial(broker.port, "")
        raw.send(packet)
        assert raw.read() is None


def test_a_client_of_mqtt_3_1_1_is_told_in_its_own_words(broker, dial):
    raw = dial(broker.port, "")
    raw.send(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a")
    assert raw.socket.recv(100) == b"\x20\x02\x00\x01"
    assert raw.socket.recv(100) == b""


def test_a_silent_client_is_disconnected_and_a_dripping_one_too(broker, dial):
    silent, dripping = dial(broker.port, "silent", keep_alive=1), dial(broker.port, "dripping", keep_alive=1)
    talking = dial(broker.port, "talking", keep_alive=1)
    frame = publish("t", bytes(1000)).write()
    ended = {}
    for i in range(len(frame)):  # a byte of a packet is no sign of life
        talking.send(mqtt5.PingReqPacket())
        assert isinstance(talking.read(), mqtt5.PingRespPacket)
        dripping.socket.settimeout(0.1)
        try:
            dripping.send(frame[i : i + 1])
            ended = dripping.read()
        except TimeoutError:
            continue
        break
    assert int(ended.reason_code) == 0x8D
    assert int(silent.read().reason_code) == 0x8D


def test_who_does_not_read_does_not_hold_up_the_others(broker, dial):
    deaf, ear, mouth = dial(broker.port, "deaf"), dial(broker.port, "ear"), dial(broker.port, "mouth")
    for listener in (deaf, ear):
        listener.send(SubscribePacket(1, [TopicFilter("t")]))
    assert isinstance(ear.read(), mqtt5.SubAckPacket)
    assert isinstance(deaf.read(), mqtt5.SubAckPacket)
    for i in range(60):  # 60 MB: more than sockets, deaf's queue and the broker's patience hold
        mouth.send(publish("t", bytes([i]) * 1_000_000))
        got = ear.read()
        assert got.payload[0] == i
        ear.send(mqtt5.PubAckPacket(got.packet_id))
        assert int(mouth.read().reason_code) == 0
    assert broker.counts()["dropped"] > 0


def test_the_broker_remembers_what_a_killed_client_had_not_acknowledged(broker, dial):
    raw = dial(broker.port, "keeper", session_expiry_interval=60)
    raw.send(SubscribePacket(1, [TopicFilter("t")]))
    raw.read()
    raw.send(publish("t", b"1"))
    first = raw.read()
    raw.close()
    raw = dial(broker.port, "keeper", session_expiry_interval=60)
    assert raw.connack.session_present
    again = raw.read()
    assert (again.payload, again.duplicate) == (b"1", True)
    assert isinstance(first, PublishPacket | mqtt5.PubAckPacket)


PACKETS = st.sampled_from(
    [
        ConnectPacket("x", clean_start=True, will=Will("w", payload=b"w")).write(),
        publish("fuzz", b"y" * 50, user_properties=[("a", "b")]).write(),
        SubscribePacket(1, [TopicFilter("fuzz/#"), TopicFilter("+")]).write(),
        mqtt5.UnsubscribePacket(1, ["fuzz/#"]).write(),
        mqtt5.PubAckPacket(1).write(),
        mqtt5.PingReqPacket().write(),
        mqtt5.DisconnectPacket().write(),
        mqtt5.AuthPacket().write(),
        b"\x30\xff\xff\xff\x7f",
    ]
)


@st.composite
def spoiled(draw):
    """A run of packets with a few bytes changed, cut out or cut off."""
    data = bytearray(b"".join(draw(st.lists(PACKETS, min_size=1, max_size=5))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data) - 1))
        if draw(st.booleans()):
            data[at] = draw(st.integers(0, 255))
        elif len(data) > 1:
            del data[at]
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@panics
def test_garbage_ends_its_own_connection_and_no_other(broker, dial, caplog):
    honest = dial(broker.port, "honest")
    honest.send(SubscribePacket(1, [TopicFilter("honest")]))
    honest.read()

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.one_of(st.binary(max_size=200), spoiled()), st.booleans())
    def attack(data, introduced):
        raw = dial(broker.port, "x" if introduced else "")
        raw.send(data)
        raw.close()
        honest.send(publish("honest", b"still here"))
        got = {type(packet): packet for packet in (honest.read(), honest.read())}
        honest.send(mqtt5.PubAckPacket(got[PublishPacket].packet_id))
        assert int(got[mqtt5.PubAckPacket].reason_code) == 0

    attack()
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


@given(st.binary(max_size=8))
def test_the_size_of_a_packet_is_told_from_its_first_bytes(data):
    try:
        size = packet_size(bytearray(b".." + data), 2, len(data) + 2)
    except NotMqtt:
        assert len(data) >= 5
        assert all(byte & 0x80 for byte in data[1:5])
    else:
        assert size is None or 2 <= size <= 5 + 268_435_455


@panics
@settings(max_examples=500, database=None)
@given(st.one_of(st.binary(min_size=2, max_size=100), spoiled()))
def test_the_codec_answers_with_a_packet_or_one_kind_of_refusal(data):
    with contextlib.suppress(NotMqtt):
        decode(memoryview(data))


def test_the_port_is_taken_or_the_world_could_listen(broker, tmp_path):
    with pytest.raises(Unavailable, match="cannot listen"):
        BrokerThread(OpenDoor(), port=broker.port).start()
    with pytest.raises(Misconfigured, match="without TLS"):
        BrokerThread(OpenDoor(), host="0.0.0.0").start()


def test_as_a_process_it_says_when_it_is_ready_and_ends_cleanly_when_told(dial):
    command = [sys.executable, "-m", "edged.broker", "--site", "site", "--port", "0", "--insecure"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        word, port = process.stdout.readline().split()
        assert word == "ready"
        raw = dial(int(port), "gate")
        raw.send(publish("edged/1/site/cam/other/frame"))
        assert int(raw.read().reason_code) == 0x87
        process.send_signal(signal.SIGTERM)
        assert int(raw.read().reason_code) == 0x8B  # shutting down
        assert process.wait(20) == 0
        assert process.stdout.read() == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--host", "0.0.0.0", "--insecure"], "without TLS"),
        ([], "give --ca, --cert and --key"),
        (["--insecure", "--ca", "x"], "give --ca, --cert and --key"),
        (["--ca", "x", "--cert", "y", "--key", "z"], "does not load"),
    ],
)
def test_what_cannot_work_is_exit_code_78_and_a_sentence(arguments, says):
    command = [sys.executable, "-m", "edged.broker", "--site", "site", "--port", "0", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78
    assert says in done.stderr
    assert done.stdout == ""
