"""CPU that a broker spends on one 100 KB QoS-1 message in and out: the embedded broker against mosquitto, one run; and
what 1,000 idle TLS connections cost each of them in memory.

    python -m bench.broker [messages] [rounds]

Both brokers run as processes of their own on this machine, in turns, each round in a new process; what is read is the
time that the kernel's scheduler gave them (/proc, nanoseconds), so that a busy neighbour changes the wall time but
hardly the figure. The ratio is of the medians. Trust the ratio, not the microseconds.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import mqtt5

from bench import machine
from edged.broker import identity
from edged.broker.mosquitto import render_acl, render_conf
from edged.clock import SystemClock, iso
from edged.wire.link import Endpoint, Tls
from edged.wire.paho import PahoLink

CONNECTIONS = 1000
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
    messages = int(sys.argv[1]) if len(sys.argv) > 1 else 800
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    clock = SystemClock()
    print(iso(clock.now()), *(f"{name} {value}" for name, value in machine.describe().items()), sep=", ")
    print(f"{rounds} rounds of {messages} messages of {SIZE} bytes, QoS 1, one publisher, one subscriber")
    with tempfile.TemporaryDirectory() as directory:
        keys = Path(directory) / "keys"
        identity.make_ca(keys, "site", clock.now())
        identity.issue(keys, "server", server=True, hosts=["127.0.0.1"], now=clock.now())
        identity.issue(keys, "gate", server=False, now=clock.now())
        for tls in (False, True):
            seen: dict[str, list[float]] = {"mosquitto": [], "embedded": []}
            for _ in range(rounds):
                seen["mosquitto"].append(measure(mosquitto, keys, tls, messages))
                seen["embedded"].append(measure(embedded, keys, tls, messages))
            how = "TLS" if tls else "plain"
            for name, cpu in seen.items():
                each = " ".join(f"{one * 1e6:.0f}" for one in cpu)
                print(f"{name:10} {how:5} {median(cpu) * 1e6:5.0f} us CPU a message ({each})", flush=True)
            ratios = [own / other for own, other in zip(seen["embedded"], seen["mosquitto"], strict=True)]
            print(
                f"embedded / mosquitto, {how}: {median(seen['embedded']) / median(seen['mosquitto']):.2f}"
                f" (of single rounds {min(ratios):.2f} to {max(ratios):.2f})",
                flush=True,
            )
        for name, start in (("mosquitto", mosquitto), ("embedded", embedded)):
            before, after = crowd(start, keys)
            print(
                f"{name:10} TLS   RSS {before / 2**20:.0f} MiB alone, {after / 2**20:.0f} MiB with {CONNECTIONS} idle"
            )


def crowd(start, keys: Path) -> tuple[int, int]:
    """Resident bytes of a broker before and after a thousand cameras with certificates of their own have come in."""
    names = [f"cam-{i}" for i in range(CONNECTIONS)]
    for name in names:
        if not Path(identity.paths(keys, name).cert).exists():
            identity.issue(keys, name, server=False, now=SystemClock().now())
    process, port = start(keys, True)
    sockets = []
    try:
        await_port(port)
        before = resident(process.pid)
        for name in names:
            tls = identity.paths(keys, name)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(tls.ca)
            context.load_cert_chain(tls.cert, tls.key)
            raw = socket.create_connection(("127.0.0.1", port), 20)
            sockets.append(context.wrap_socket(raw, server_hostname="127.0.0.1"))
            sockets[-1].sendall(mqtt5.ConnectPacket(name, clean_start=True, keep_alive=300).write())
            if sockets[-1].recv(1) != b"\x20":
                raise SystemExit(f"{name} was not let in")
        return before, resident(process.pid)
    finally:
        for one in sockets:
            one.close()
        process.terminate()
        process.wait()


def await_port(port: int) -> None:
    clock = SystemClock()
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        clock.sleep(0.05)
    raise SystemExit("the broker does not listen")


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(start, keys: Path, tls: bool, messages: int) -> float:
    """Seconds of the broker's CPU per message."""
    process, port = start(keys, tls)
    await_port(port)
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
        before = cpu_of(process.pid)
        exchange(gate, server, messages)
        return (cpu_of(process.pid) - before) / messages
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
    """Seconds that all threads of a process have run."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


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
