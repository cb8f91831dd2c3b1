"""Shuts the scrub child in: memory, files, sockets, programs. Linux; every step that the system forbids is reported.

Guarantees: what `Walls` says. Does not guarantee: a sandbox against code execution in a decoder; it takes away what
such code would want first (network, keys in the environment, other programs, core dumps with pixels).
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
from dataclasses import dataclass

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_BPF_LOAD, _BPF_EQUAL, _BPF_RETURN = 0x20, 0x15, 0x06  # LD|W|ABS, JMP|JEQ|K, RET|K
_ALLOW, _EPERM = 0x7FFF0000, 0x00050001

# AUDIT_ARCH and the numbers of socket, connect, bind, listen, execve, execveat, ptrace (from asm/unistd.h).
_CALLS = {
    "x86_64": (0xC000003E, (41, 42, 49, 50, 59, 322, 101)),
    "aarch64": (0xC00000B7, (198, 203, 200, 201, 221, 281, 117)),
}


@dataclass(frozen=True)
class Walls:
    """What holds."""

    no_network: bool
    no_sockets: bool
    memory_limit: int


def shut_in(memory_bytes: int, *, nice: int = 5, file_bytes: int = 0) -> Walls:
    """Call before any thread starts: a new user namespace is for single-threaded processes only.

    `file_bytes` is the size that a file may grow to; 0 = none can be written.
    """
    os.nice(nice)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))  # 0: no file can be written, wherever
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    libc = ctypes.CDLL(None, use_errno=True)
    no_network = libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0
    return Walls(no_network, _refuse_calls(libc), memory_bytes)


def _refuse_calls(libc: ctypes.CDLL) -> bool:
    """A seccomp filter (Documentation/userspace-api/seccomp_filter.rst): listed calls fail with EPERM."""
    known = _CALLS.get(platform.machine())
    if known is None or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    arch, numbers = known
    code = [(_BPF_LOAD, 0, 0, 4), (_BPF_EQUAL, 1, 0, arch), (_BPF_RETURN, 0, 0, _EPERM), (_BPF_LOAD, 0, 0, 0)]
    for i, number in enumerate(numbers):
        code.append((_BPF_EQUAL, len(numbers) - i, 0, number))
    code += [(_BPF_RETURN, 0, 0, _ALLOW), (_BPF_RETURN, 0, 0, _EPERM)]
    packed = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(packed))
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0) == 0)
