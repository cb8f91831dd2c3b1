"""CPU that a broker spends on one 100 KB QoS-1 message in and out: the embedded broker against mosquitto, one run.

    python bench/broker.py [messages]

Both brokers run as processes of their own on this machine; what is read is their user + system time from /proc, so a
busy neighbour changes the wall time but hardly the figure. Trust the ratio, not the microseconds.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from edged.broker import identity
from edged.broker.mosquitto import render_acl, render_conf
from edged.clock import SystemClock, iso, stopwatch
from edged.wire.link import Endpoint, Tls
from edged.wire.paho import PahoLink

SIZE = 100_000
PROPERTIES = {
    "id": "boot-1",
    "ts": "1800000000.123",
    "seq": "1",
    "boot": "boot",
    "w": "1280",
    "h": "720",
    "regions": "[]",
}


def main() -> None:
    messages = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    clock = SystemClock()
    print(f"{iso(clock.now())}  {cpu_model()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{messages} messages of {SIZE} bytes, QoS 1, one publisher, one subscriber")
    with tempfile.TemporaryDirectory() as directory:
        keys = Path(directory) / "keys"
        identity.make_ca(keys, "site", clock.now())
        identity.issue(keys, "server", server=True, hosts=["127.0.0.1"], now=clock.now())
        identity.issue(keys, "gate", server=False, now=clock.now())
        figures = {}
        for tls in (False, True):
            for name, start in (("embedded", embedded), ("mosquitto", mosquitto)):
                cpu, wall = measure(start, keys, tls, messages)
                figures[name, tls] = cpu
                print(
                    f"{name:10} {'TLS  ' if tls else 'plain'} {cpu * 1e6:7.0f} us CPU a message, {wall * 1e6:7.0f} us wall"
                )
        for tls in (False, True):
            ratio = figures["embedded", tls] / figures["mosquitto", tls]
            print(f"embedded / mosquitto, {'TLS' if tls else 'plain'}: {ratio:.2f}")


def measure(start, keys: Path, tls: bool, messages: int) -> tuple[float, float]:
    """Seconds of the broker's CPU and of wall time per message."""
    process, port = start(keys, tls)
    ends = {name: identity.paths(keys, name) if tls else None for name in ("server", "gate")}
    links = [PahoLink(Endpoint("127.0.0.1", port, name, end), reconnect_s=(0.1, 0.2)) for name, end in ends.items()]
    server, gate = links
    try:
        if not all(link.wait_connected(20) for link in links):
            raise SystemExit(f"no connection: {server.disconnect_reason} {gate.disconnect_reason}")
        server.subscribe("edged/1/site/#")
        while server.receive(0.1) is None:  # until the subscription holds
            gate.publish("edged/1/site/cam/gate/phase", b"")
        while server.receive(0.5) is not None:
            pass
        exchange(gate, server, 50)
        before, began = cpu_of(process.pid), stopwatch()
        exchange(gate, server, messages)
        return (cpu_of(process.pid) - before) / messages, (stopwatch() - began) / messages
    finally:
        for link in links:
            link.close()
        process.terminate()
        process.wait()


def exchange(source: PahoLink, sink: PahoLink, messages: int) -> None:
    """At most 8 under way, as a few cameras would have."""
    payload = os.urandom(SIZE)
    sent = 0
    for received in range(messages):
        while sent < messages and sent - received < 8:
            source.publish("edged/1/site/cam/gate/frame", payload, properties=PROPERTIES)
            sent += 1
        if sink.receive(20) is None:
            raise SystemExit("a message did not arrive")


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def embedded(keys: Path, tls: bool) -> tuple[subprocess.Popen[bytes], int]:
    files = identity.paths(keys, "server")
    access = ["--ca", files.ca, "--cert", files.cert, "--key", files.key] if tls else ["--insecure"]
    command = [sys.executable, "-m", "edged.broker", "--site", "site", "--port", "0", *access]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, int(process.stdout.readline().split()[1])


def mosquitto(keys: Path, tls: bool) -> tuple[subprocess.Popen[bytes], int]:
    binary = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
    if binary is None:
        raise SystemExit("mosquitto is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    acl, file, data = keys / "acl", keys / "mosquitto.conf", keys / "data"
    data.mkdir(exist_ok=True)
    acl.write_text(render_acl("site"))
    acl.chmod(0o600)
    files: Tls = identity.paths(keys, "server")
    text = render_conf(host="127.0.0.1", port=port, tls=files, acl_file=acl, data_dir=data, user="root")
    if not tls:
        text = f"user root\nlistener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n"
    file.write_text(text)
    return subprocess.Popen([binary, "-c", str(file)], stderr=subprocess.DEVNULL), port


if __name__ == "__main__":
    main()
