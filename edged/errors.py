"""Four families of errors, told apart by what the catcher does about them.

    EdgedError
    |- Refused         their fault (bad frame, bad model, bad request): drop it, note it, go on
    |- Unavailable     the world's fault (broker away, disk busy): wait, try again
    |- Corrupt         ours or the disk's fault: stop this part, raise the alarm
    '- Misconfigured   the operator's fault: say what and where, exit 78, do not restart

Anything else that escapes is a bug. The message of an error is the sentence that the operator reads: what happened
and why; `hint` says what to do about it. `code` is a short stable word for machines (receipts, JSON, metrics).
"""

from __future__ import annotations


class EdgedError(Exception):
    """Something that edged expected to be possible went wrong."""

    code = "error"
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", code: str | None = None, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        if code is not None:
            self.code = code
        if exit_code is not None:
            self.exit_code = exit_code


class Refused(EdgedError):
    """What came in does not meet the rules; it was dropped and counted, everything else goes on."""

    code = "refused"


class Unavailable(EdgedError):
    """Something outside is away or busy; trying again later can succeed."""

    code = "unavailable"
    exit_code = 75


class Corrupt(EdgedError):
    """What we wrote ourselves does not read back as written; this part stops before it makes things worse."""

    code = "corrupt"


class Misconfigured(EdgedError):
    """The configuration or the installation cannot work; a restart will not help."""

    code = "misconfigured"
    exit_code = 78


# Exit codes of the command line; see README.md. 0 and 2 are click's own.
EXIT_FAILED = 1
EXIT_FOUND_BAD = 3
EXIT_NOT_FOUND = 4
EXIT_UNREACHABLE = 5
EXIT_TRY_LATER = 75
EXIT_NOT_PERMITTED = 77
EXIT_CONFIG = 78
