"""`python -m edged.broker`: the embedded broker as a process.

Prints `ready <port>` on stdout once it accepts connections, so that whoever started it need not guess; ends with exit
code 0 on SIGTERM or SIGINT, 78 when the configuration cannot work, 75 when the port is taken.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys

from edged.broker.acl import DISCOVERY, Acl
from edged.broker.server import Broker, serve
from edged.errors import EdgedError, Misconfigured
from edged.wire.link import Tls
from edged.wire.topics import check_level

RETAINED_HEAP_BYTES = 4 * 1024 * 1024


def main(argv: list[str] | None = None) -> int:
    options = _options().parse_args(argv)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(levelname)s %(message)s")
    try:
        asyncio.run(_run(options))
    except EdgedError as e:
        print(f"edged.broker: {e}" + (f" ({e.hint})" if e.hint else ""), file=sys.stderr)
        return e.exit_code
    return 0


async def _run(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # glibc hands freed blocks of a picture's size back to the kernel at once, and the next picture takes them again page by
    # page: a tenth of all CPU. Freeing one large block raises its threshold (mallopt(3), M_MMAP_THRESHOLD).
    bytearray(RETAINED_HEAP_BYTES)
    broker = Broker(Acl(check_level(options.site, "site"), options.discovery_prefix))
    await serve(broker, options.host, options.port, _tls(options), stop=stop, ready=_ready)


def _ready(port: int) -> None:
    print(f"ready {port}", flush=True)


def _tls(options: argparse.Namespace) -> Tls | None:
    files = (options.ca, options.cert, options.key)
    if options.insecure and not any(files):
        return None
    if options.insecure or not all(files):
        raise Misconfigured("give --ca, --cert and --key; or --insecure alone, for tests on the loopback")
    return Tls(*files)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m edged.broker", description="The embedded MQTT v5 broker of one site."
    )
    parser.add_argument("--site", required=True, help="name of the site; the rules allow nothing outside edged/1/SITE")
    parser.add_argument("--discovery-prefix", default=DISCOVERY, help="where Home Assistant looks for devices")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8883, help="0 = any free one; it is printed as `ready PORT`")
    parser.add_argument("--ca", help="PEM file of the CA whose clients may come in")
    parser.add_argument("--cert", help="PEM file of the broker's certificate")
    parser.add_argument("--key", help="PEM file of its key")
    parser.add_argument("--insecure", action="store_true", help="no TLS and any client id is believed; loopback only")
    parser.add_argument("-v", "--verbose", action="store_true", help="also log who is disconnected and why")
    return parser


if __name__ == "__main__":
    sys.exit(main())
