"""What belongs to a backup, with the SHA-256 of everything and of itself: manifest.json.

Guarantees: `read` gives only what `write` wrote, whole, of a version we know, and naming nothing outside of the site.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
from msgspec import Struct

from edged import durable
from edged.errors import Corrupt, Misconfigured
from edged.storage import schema

FILE = "manifest.json"
FORMAT = 1


class Kept(Struct, frozen=True):
    """A file of a backup; `name` is its path under the site's folder."""

    name: str
    bytes: int
    sha256: str


class Part(Struct, frozen=True):
    """The first `bytes` of a segment. `damaged`: pictures and stretches in it that were not whole when it was copied."""

    number: int
    generation: int
    bytes: int
    sha256: str
    damaged: int = 0

    @property
    def file(self) -> str:
        return f"{self.number:08d}.{self.generation}.seg"


class Manifest(Struct, frozen=True):
    """`starts`: how often the site had been started (the keyring's number of the catalogue)."""

    format: int
    site: str
    made: str
    edged: str
    schema: int
    starts: int
    catalogue: Kept
    segments: tuple[Part, ...] = ()
    models: tuple[Kept, ...] = ()
    files: tuple[Kept, ...] = ()

    @property
    def damaged(self) -> int:
        return sum(s.damaged for s in self.segments)

    @property
    def total(self) -> int:
        return (
            self.catalogue.bytes
            + sum(s.bytes for s in self.segments)
            + sum(f.bytes for f in (*self.models, *self.files))
        )


class _Signed(Struct, frozen=True):
    sha256: str
    manifest: msgspec.Raw


def write(folder: Path, manifest: Manifest) -> None:
    """Durably; what is in `folder` is a whole backup from then on."""
    raw = msgspec.json.encode(manifest)
    signed = {"sha256": hashlib.sha256(raw).hexdigest(), "manifest": msgspec.Raw(raw)}
    durable.write(folder / FILE, msgspec.json.encode(signed), mode=0o600)


def read(folder: Path) -> Manifest:
    try:
        signed = msgspec.json.decode((folder / FILE).read_bytes(), type=_Signed)
        if hashlib.sha256(bytes(signed.manifest)).hexdigest() != signed.sha256:
            raise Corrupt(f"{folder / FILE} is damaged", code="bad_manifest")
        found = msgspec.json.decode(bytes(signed.manifest), type=Manifest)
    except (OSError, msgspec.DecodeError) as e:
        raise Corrupt(f"{folder / FILE} cannot be read: {e}", code="bad_manifest") from e
    if found.format > FORMAT or found.schema > schema.VERSION:
        raise Misconfigured(
            f"{folder} was made by edged {found.edged}",
            code="newer_schema",
            hint="install that version, or a newer one",
        )
    if any(not _inside(f.name) for f in (*found.models, *found.files)):
        raise Corrupt(f"{folder / FILE} names a file outside of the site", code="bad_manifest")
    return found


def _inside(name: str) -> bool:
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts and path.parts[0] in ("models", "tuf", "config.toml")
