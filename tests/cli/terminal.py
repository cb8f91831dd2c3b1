"""A person at a terminal, for commands that are processes of their own."""

import os
import pty
import subprocess


def typed(answer, command):
    """Run it with a terminal for stdin, on which `answer` is typed."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        return subprocess.run(
            list(map(str, command)), stdin=theirs, capture_output=True, text=True, timeout=60, check=False
        )
    finally:
        os.close(ours)
        os.close(theirs)
