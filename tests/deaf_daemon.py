"""`edged run`, which stops hearing on SIGUSR1: python deaf_daemon.py CONFIG FAULT [old] [quick].

`old` = the watchdog that was here before: fed as long as the threads of ingest live. `quick` = shorter patience.
"""

import os
import signal
import sys
import threading

from edged import cli, daemon, pulse, site
from edged.privacy import pool
from edged.workers import Workers

HELD = {}


def keep(name, function):
    def wrapped(*args, **kwargs):
        HELD[name] = function(*args, **kwargs)
        return HELD[name]

    return wrapped


def for_ever(*_args, **_kwargs):
    threading.Event().wait()


def ends(*_args, **_kwargs):
    raise SystemExit


def take_lock(lock):
    def run():
        lock.acquire()
        for_ever()

    threading.Thread(target=run, daemon=True).start()


def link_dies():
    HELD["link"]._hang_up = lambda: None  # so that it goes on to say that it is connected
    HELD["link"]._client.loop = ends


def link_hangs():
    HELD["link"]._client.loop = for_ever


def link_is_deaf():
    HELD["link"]._client.on_publication = lambda *_: None


def store_is_locked():
    take_lock(HELD["store"]._lock)


def journal_is_locked():
    take_lock(HELD["store"].journal._turn)


def flush_hangs():
    os.fdatasync = for_ever


def child_is_not_heard():
    pool._Child.exchange = for_ever


def worker_dies():
    Workers._next = ends


def loop_hangs():
    daemon.Box._tick = for_ever


def nothing():
    pass


def main():
    config, fault, *how = sys.argv[1:]
    site.connect = keep("link", site.connect)
    site.open_store = keep("store", site.open_store)
    if "quick" in how:
        pulse.CABLE_S, pulse.AGAIN_S, pulse.CHILD_S, pulse.START_S = 4.0, 4.0, 3.0, 20.0
    if "old" in how:
        daemon.Workers = keep("workers", Workers)
        daemon.Pulse.step = lambda _: "" if HELD["workers"].alive() else "a thread has ended"
    signal.signal(signal.SIGUSR1, lambda *_: globals()[fault]())
    sys.argv = ["edged", "-c", config, "run"]
    cli.main()


if __name__ == "__main__":
    main()
