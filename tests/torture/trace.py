"""What a program asked of the file system, in order: run it under strace, read the calls back.

A call that another thread's call interrupted has two moments, its start and its end; `read` gives both in the order in
which the kernel's answers came. What depends on an answer therefore never stands before it. Calls that change files in
ways that nobody modelled here raise `Unmodelled`: better no result than a wrong one.
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CALLS = (
    "open,openat,openat2,creat,close,dup,dup2,dup3,fcntl,lseek,write,writev,pwrite64,pwritev,pwritev2,truncate,ftruncate,"
    "fallocate,fsync,fdatasync,sync,syncfs,sync_file_range,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,"
    "unlinkat,mkdir,mkdirat,rmdir,mmap,copy_file_range,sendfile,splice,io_uring_setup"
)


class Unmodelled(Exception):
    """A call that the model disk does not know; teach it, or the result would be worth nothing."""


@dataclass(frozen=True)
class Call:
    """One moment of a call. At its start `answer` is None; at its end the number that the kernel gave (-1 =
    failed). One that a kill interrupted has no end.

    `words` are its arguments: bytes for strings and buffers, `Fd` for descriptors, text for the rest.
    """

    line: int
    pid: int
    name: str
    words: tuple[object, ...]
    answer: int | None


@dataclass(frozen=True)
class Fd:
    """A descriptor and what strace says it stands for."""

    number: int
    path: str


def record(command: Sequence[str], output: Path, *, tell: Path, cwd: Path, timeout_s: float = 600.0) -> None:
    """Run `command` with descriptor 9 open for writing on `tell`; its calls are in `output`.

    Raises if it fails; to be killed by SIGKILL is no failure.
    """
    strace = ["strace", "-f", "-y", "-xx", "-s", "16777216", "-o", str(output), "-e", f"trace={CALLS}"]
    shell = ["sh", "-c", 'exec 9>"$0" "$@"', str(tell), *strace, *command]
    ran = subprocess.run(shell, capture_output=True, text=True, cwd=cwd, timeout=timeout_s)
    if ran.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the workload failed ({ran.returncode}): {ran.stderr[-2000:]}")


_WHOLE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+|\?|0x[0-9a-f]+)")
_START = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
_END = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (-?\d+|\?|0x[0-9a-f]+)")
_WORD = re.compile(
    r'\s*(?:"(?P<text>[^"]*)"(?P<cut>\.\.\.)?|(?P<fd>-?\d+|AT_FDCWD)<(?P<path>[^>]*)>(?:\(deleted\))?'
    r"|(?P<list>\[.*\])|(?P<other>[^,\[\"<]+(?:\{[^}]*\})?|\{[^}]*\}))(?:,|$)"
)
_PART = re.compile(r'iov_base="([^"]*)"')


def read(output: Path) -> Iterator[Call]:
    """The moments of all calls, in order."""
    open_: dict[int, tuple[str, str]] = {}
    with output.open() as lines:
        for number, line in enumerate(lines, 1):
            line = line.rstrip("\n")
            if " ???(" in line:  # a thread that was killed before strace knew what it called
                continue
            if " <unfinished ...>" in line[-20:]:
                found = _START.fullmatch(line)
                if found is None:
                    raise Unmodelled(f"line {number}: {line[:200]}")
                pid, name, arguments = int(found[1]), found[2], found[3]
                open_[pid] = (name, arguments)
                yield Call(number, pid, name, _words(name, arguments, number), None)
            elif (found := _END.match(line)) is not None:
                pid, name = int(found[1]), found[2]
                started, arguments = open_.pop(pid)
                if started != name:
                    raise Unmodelled(f"line {number}: {started} ends as {name}")
                if found[4] != "?":  # killed: nobody knows whether it was done
                    yield Call(number, pid, name, _words(name, arguments + found[3], number), int(found[4], 0))
            elif (found := _WHOLE.match(line)) is not None:
                pid, name = int(found[1]), found[2]
                words = _words(name, found[3], number)
                yield Call(number, pid, name, words, None)
                if found[4] != "?":
                    yield Call(number, pid, name, words, int(found[4], 0))
            elif "+++" not in line and "---" not in line:
                raise Unmodelled(f"line {number}: {line[:200]}")


def _words(name: str, arguments: str, line: int) -> tuple[object, ...]:
    if name in ("fcntl", "mmap"):  # structs; only the plain words are wanted
        arguments = re.sub(r"\{[^}]*\}", "", arguments)
    words: list[object] = []
    at = 0
    while at < len(arguments):
        found = _WORD.match(arguments, at)
        if found is None or found.end() == at:
            raise Unmodelled(f"line {line}: {name}({arguments[:200]}) at {at}")
        at = found.end()
        if found["cut"]:
            raise Unmodelled(f"line {line}: a buffer was cut short by strace")
        if found["text"] is not None:
            words.append(_bytes(found["text"]))
        elif found["fd"] is not None:
            number = -1 if found["fd"] == "AT_FDCWD" else int(found["fd"])
            words.append(Fd(number, _bytes(found["path"]).decode(errors="replace")))
        elif found["list"] is not None:
            words.append(b"".join(_bytes(p) for p in _PART.findall(found["list"])))
        else:
            words.append(found["other"].strip())
    return tuple(words)


def _bytes(text: str) -> bytes:
    if not text.startswith("\\x"):
        return text.encode()  # such as pipe:[123]
    return bytes.fromhex(text.replace("\\x", ""))
