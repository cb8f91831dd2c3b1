"""What a signer may be asked for, and what it answers: JSON, both ways. Public facts only; no key is ever in one.

Three requests: there is none to sign a root, to delegate, to choose a version or an expiry.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from edged.errors import Corrupt, EdgedError, Misconfigured, Refused, Unavailable

MAX_BYTES = 1024 * 1024  # of a request; cameras take no larger metadata file either

Path = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}/[0-9]{1,15}\.onnx$(?!\n)")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]


class Add(Struct, tag="add", frozen=True, forbid_unknown_fields=True):
    """Vouch for `length` bytes under `path`, and no longer for the paths in `remove`, in one change."""

    path: Path
    length: Annotated[int, Meta(ge=0, le=2**40)]
    sha256: Sha256
    custom: dict[str, Any]
    remove: tuple[Path, ...] = ()


class Remove(Struct, tag="remove", frozen=True, forbid_unknown_fields=True):
    """Stop vouching for a path."""

    path: Path


class Refresh(Struct, tag="refresh", frozen=True, forbid_unknown_fields=True):
    """Sign again what has less than half of its life left."""


Request = Add | Remove | Refresh


class Reply(Struct, frozen=True, forbid_unknown_fields=True):
    """`changed`: whether anything was signed. `family` "" = it went well."""

    changed: bool = False
    family: Literal["", "refused", "unavailable", "corrupt", "misconfigured", "system"] = ""
    message: str = ""
    hint: str = ""
    code: str = ""
    errno: int = 0  # of family "system"
    file: str = ""


_FAMILIES: dict[str, type[EdgedError]] = {
    "refused": Refused, "unavailable": Unavailable, "corrupt": Corrupt, "misconfigured": Misconfigured,
}  # fmt: skip


def read(data: bytes) -> Request:
    """Raises Refused for what is no request."""
    if len(data) > MAX_BYTES:
        raise Refused(f"a request to the signer of {len(data)} bytes; {MAX_BYTES} are the most", code="bad_request")
    try:
        asked: Request = msgspec.json.decode(data, type=Request)
        return asked
    except (msgspec.DecodeError, RecursionError) as e:
        raise Refused(f"the signer does not do that: {e}", code="bad_request") from e


def failed(e: EdgedError | OSError) -> Reply:
    """An error as an answer."""
    if isinstance(e, OSError):
        return Reply(family="system", message=e.strerror or str(e), errno=e.errno or 0, file=str(e.filename or ""))
    family = next((name for name, kind in _FAMILIES.items() if isinstance(e, kind)), "corrupt")
    return Reply(family=family, message=str(e), hint=e.hint, code=e.code)  # type: ignore[arg-type]


def outcome(reply: Reply) -> bool:
    """Whether anything was signed; raises here what the signer met there."""
    if reply.family == "":
        return reply.changed
    if reply.family == "system":
        raise OSError(reply.errno, reply.message, *([reply.file] if reply.file else []))
    raise _FAMILIES[reply.family](reply.message, hint=reply.hint, code=reply.code)
