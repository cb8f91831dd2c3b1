"""What is played while somebody kills: by name, and as a program.

`python -m tests.torture.acts` is a fork server: on stdin it reads lines of JSON {"act", "folder", "said", "broken"}; for each it
forks, prints the child's pid, lets the child wait for one more line (by then strace holds it), and prints the child's status when
it has ended. The act says what it promises, line by line, into the file `said`.
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

from tests.torture.box_acts import BOX
from tests.torture.camera_acts import CAMERA
from tests.torture.endure_act import ENDURE
from tests.torture.house_acts import HOUSE
from tests.torture.load_act import LOAD

SMALL = BOX | HOUSE | CAMERA  # what ends by itself
ACTS = SMALL | LOAD | ENDURE


def serve() -> None:
    """Until stdin ends."""
    while line := _line():
        wanted = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(**wanted)
        os.write(1, b"%d\n" % pid)
        os.write(1, b"%d\n" % os.waitpid(pid, 0)[1])


def _child(act: str, folder: str, said: str, broken: str) -> None:
    told = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    _line()  # "go"
    try:
        ACTS[act].play(Path(folder), partial(_say, told), broken)
    except BaseException as e:  # noqa: BLE001 the outermost edge of the child
        _say(told, f"raised {type(e).__name__}: {e}")
        os._exit(1)
    os._exit(0)


def _say(told: int, promise: str) -> None:
    os.writev(told, [f"{promise}\n".encode()])  # no kind of call that faults.py injects into


def _line() -> bytes:
    """One line from stdin, unbuffered: the child reads the same pipe."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line


if __name__ == "__main__":
    serve()
