"""Serve the page by waitress until SIGTERM or SIGINT.

Guarantees: listens on the loopback only, since this page has no login; anything else is Misconfigured. To look at it
from elsewhere, carry the port by ssh: `ssh -L 8480:127.0.0.1:8480 box`.
"""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

from flask import Flask
from waitress.server import create_server

from edged.errors import Misconfigured, Unavailable


def serve(app: Flask, listen: str, threads: int = 8, ready: Callable[[str], None] = lambda _: None) -> None:
    """Blocks until the process is told to end. `listen` is host:port; `ready` is told the address once it is taken. Raises
    Misconfigured, Unavailable.
    """
    server = bound(app, listen, threads)
    host = loopback(listen)[0]
    ready(f"http://{f'[{host}]' if ':' in host else host}:{server.effective_port}/")
    previous = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run()
    finally:
        server.close()
        for number, handler in previous.items():
            signal.signal(number, handler)


def bound(app: Flask, listen: str, threads: int = 8) -> Any:
    """A waitress server that is bound and not yet running (port 0 = any: see its `effective_port`)."""
    host, port = loopback(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:  # not by waitress, which leaks its socket when the port is taken
        listening = socket.create_server((host, port), family=family)
    except OSError as e:
        raise Unavailable(f"the page cannot listen on {listen}: {e.strerror}", code="port_taken") from e
    return create_server(
        app, sockets=[listening], threads=threads, ident=None, max_request_body_size=64 * 1024,
        clear_untrusted_proxy_headers=True,
    )  # fmt: skip


def loopback(listen: str) -> tuple[str, int]:
    """The host and port of `listen`; raises Misconfigured unless it is host:port on the loopback."""
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise Misconfigured(f"[web] listen = {listen!r} is not host:port", hint='for instance "127.0.0.1:8480"')
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise Misconfigured(
            f"[web] listen = {listen!r} is not on the loopback, and this page has no login yet",
            code="not_loopback",
            hint='listen on "127.0.0.1:8480" and carry the port by ssh: ssh -L 8480:127.0.0.1:8480 <this box>',
        )
    return ("127.0.0.1" if host == "localhost" else host), int(port)


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
