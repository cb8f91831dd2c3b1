"""Let a process die at the K-th step that touches the disk, and look at what it left.

A step is the edge before or after a call of the operating system that changes files, or of a statement of SQLite that
writes. The process is a fork, so nothing of it is tidied up after its death but what the kernel closes.
"""

import os
import sys
import traceback

from edged.storage.store import Store

CALLS = ("open", "fsync", "replace", "rename", "link", "unlink", "write", "pwrite", "mkdir")
DIED, BROKE = 137, 1


def steps_of(act, every=1, limit=10_000):
    """Call `act` in forks that die at step 1, 1 + every, ... until one comes to its end; yields each number of a death."""
    for step in range(1, limit, every):
        ended = _fork(act, step)
        yield step
        if ended:
            return
    raise AssertionError("it never came to an end")


def _fork(act, step):
    child = os.fork()
    if child == 0:
        try:
            _count(step)
            act()
        except BaseException:  # noqa: BLE001 a fork of pytest must not come back
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(BROKE)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, DIED), f"step {step}: the act itself failed"
    return code == 0


def _count(left):
    def edge():
        nonlocal left
        left -= 1
        if left == 0:
            os._exit(DIED)

    def around(real):
        def call(*args, **kwargs):
            edge()
            result = real(*args, **kwargs)
            edge()
            return result

        return call

    for name in CALLS:
        setattr(os, name, around(getattr(os, name)))
    real_run = Store._run

    def run(self, sql, params=()):
        if sql.split()[0] not in ("commit", "insert", "update", "delete", "begin"):
            return real_run(self, sql, params)
        edge()
        result = real_run(self, sql, params)
        edge()
        return result

    Store._run = run
