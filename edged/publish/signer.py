"""The process that reads the box's signing keys: `python -m edged.publish.signer --tuf DIR --keys DIR`. One request, one end.

It reads one request (request.py) from stdin to its end, signs by the policy of signing.py, answers on stdout, exits. The
daemon starts one for each signing and never reads a key itself; or systemd does, for each connection to a socket, under a
user of its own whose keys the daemon's user cannot read (systemd/edged-signer.socket, docs/trust.md).

Shut in before the request is looked at: no network, no other program, files of 1 MiB at most, limited memory and processor
time. Started by root for somebody else's keys, it becomes their owner first.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from socket import AF_UNIX, SHUT_WR, SOCK_STREAM, socket
from typing import TYPE_CHECKING, Protocol

import msgspec

from edged.errors import EdgedError, Unavailable
from edged.publish import request

if TYPE_CHECKING:
    from edged.publish.request import Reply, Request

SECONDS = 20.0  # for one signature, a start of Python on a slow box included; under [watchdog] loop_s
MEMORY = 512 * 2**20  # of address space; 45 MB are touched


class Ask(Protocol):
    """Whoever has the keys."""

    def ask(self, asked: Request) -> Reply:
        """Raises Unavailable when there is no answer."""
        ...


class Child:
    """A process of our own user for each request: works everywhere, but who is this user can read the keys as well."""

    def __init__(self, tuf_dir: Path, key_dir: Path) -> None:
        self._command = [
            sys.executable, "-P", "-m", "edged.publish.signer", "--tuf", str(tuf_dir.absolute()),
            "--keys", str(key_dir.absolute()),
        ]  # fmt: skip

    def ask(self, asked: Request) -> Reply:
        try:
            done = subprocess.run(
                self._command, input=msgspec.json.encode(asked), capture_output=True, timeout=SECONDS, cwd="/",
                env=environment(), check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as e:
            raise Unavailable(f"the signer did not answer within {SECONDS:.0f} s", code="signer_down") from e
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
            raise Unavailable(f"the signer ended with {how}: {(said or ['(silent)'])[-1][:300]}", code="signer_down")
        return _understood(done.stdout)


class Socket:
    """A signer of another user behind a socket, started by systemd for each connection."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ask(self, asked: Request) -> Reply:
        try:
            with socket(AF_UNIX, SOCK_STREAM) as line:
                line.settimeout(SECONDS)
                line.connect(str(self._path))
                line.sendall(msgspec.json.encode(asked))
                line.shutdown(SHUT_WR)
                said = b""
                while (part := line.recv(65536)) and len(said) <= request.MAX_BYTES:
                    said += part
        except OSError as e:
            raise Unavailable(
                f"the signer at {self._path} does not answer: {e.strerror or e}", code="signer_down",
                hint="systemctl status edged-signer.socket",
            ) from e  # fmt: skip
        return _understood(said)


def _understood(said: bytes) -> Reply:
    try:
        return msgspec.json.decode(said, type=request.Reply)
    except msgspec.DecodeError as e:
        raise Unavailable(f"the signer's answer cannot be read: {e}", code="signer_down") from e


def environment() -> dict[str, str]:
    """All that the child sees of ours: none of our secrets."""
    import edged

    return {
        "PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(Path(edged.__file__).resolve().parents[1]),
    }  # fmt: skip


def serve(tuf_dir: Path, key_dir: Path) -> None:
    """One request from stdin, its answer to stdout."""
    from edged.clock import SystemClock
    from edged.privacy import confine
    from edged.publish.folder import Folder
    from edged.publish.signing import Lifetimes, Signer

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    data = sys.stdin.buffer.read(request.MAX_BYTES + 1)
    become_owner(key_dir)
    confine.shut_in(MEMORY, file_bytes=request.MAX_BYTES)
    resource.setrlimit(resource.RLIMIT_CPU, (int(SECONDS), int(SECONDS)))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file that would grow too large is an error, not an end
    try:
        signer = Signer(Folder(tuf_dir), key_dir, SystemClock(), Lifetimes())
        reply = request.Reply(changed=signer.answer(request.read(data)))
    except (EdgedError, OSError) as e:
        reply = request.failed(e)
    sys.stdout.buffer.write(msgspec.json.encode(reply))
    sys.stdout.buffer.flush()


def become_owner(key_dir: Path) -> None:
    """Root signs for the owner of the keys as that owner: what it writes must be his."""
    with suppress(FileNotFoundError):
        owner = key_dir.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:
            os.setgroups([])
            os.setgid(owner.st_gid)
            os.setuid(owner.st_uid)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="edged.publish.signer", description="Answers one request to sign on stdin.")
    parser.add_argument("--tuf", type=Path, required=True, help="folder of the signed metadata")
    parser.add_argument("--keys", type=Path, required=True, help="folder of the online keys")
    options = parser.parse_args(arguments)
    serve(options.tuf, options.keys)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
