"""python-tuf's client on this camera: what it fetches from, one refresh, its errors in our words. The only import of python-tuf.

Loaded when there is something to verify: 4 MiB that a camera needs not hold meanwhile, and a slower start (docs/devices.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Root  # type: ignore[attr-defined]
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig  # type: ignore[attr-defined]

from edged.clock import day
from edged.errors import Misconfigured, Refused, Unavailable

META, TARGET = "mqtt://meta/", "mqtt://target/"


class Source(FetcherInterface):
    """Reads what came over the link: metadata by file name, and the one target that was assembled."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = dict(files)
        self.target = b""

    def _fetch(self, url: str) -> Iterator[bytes]:
        if url.startswith(TARGET):
            return iter((self.target,))
        name = url.removeprefix(META)
        if name not in self.files:
            raise DownloadHTTPError(f"{name} did not arrive", 404)
        return iter((self.files[name],))


def session(
    folder: Path, root: bytes, fetcher: FetcherInterface, at: float, *, metadata: str = META, targets: str = TARGET,
    into: Path | None = None, delegations: int = 0,
) -> Updater:  # fmt: skip
    """python-tuf's client for one refresh at time `at`, trusting `root` and what followed it in `folder`.

    `delegations`: how many delegated roles a look-up may visit; 0 = a target is vouched for by the top-level role only.
    Raises python-tuf's errors when `root` cannot be used.
    """
    config = UpdaterConfig(max_delegations=delegations)
    updater = Updater(str(folder), metadata, str(into or folder), targets, fetcher, config, bootstrap=root)
    # ngclient reads the machine's clock once; ours is injected, and has a floor.
    updater._trusted_set.reference_time = datetime.fromtimestamp(at, UTC)
    return updater


def check_root(root: bytes, source: str = "root.json") -> None:
    """Raises Misconfigured when these bytes are no root that the camera could start from."""
    try:
        metadata = Metadata[Root].from_bytes(root)
        if not isinstance(metadata.signed, Root):
            raise Misconfigured(f"{source} is not a root of trust", hint="copy keys or tuf/1.root.json from the box")
        metadata.signed.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    except RepositoryError as e:
        raise Misconfigured(
            f"{source} is not a root of trust: {e}", hint="copy tuf/1.root.json of the site's directory to the camera"
        ) from e


@contextmanager
def renamed(at: float | None = None) -> Iterator[None]:
    """python-tuf's errors as ours; `at` is the time that was reckoned with, for the sentence."""
    try:
        yield
    except DownloadHTTPError as e:
        raise Unavailable(str(e), code="incomplete") from e
    except ExpiredMetadataError as e:
        on = f" (it is {day(at)} here)" if at is not None else ""
        raise Refused(f"the signed metadata has expired: {e}{on}", code="untrusted") from e
    except BadVersionNumberError as e:
        raise Refused(f"the signed metadata is older than what was trusted before: {e}", code="untrusted") from e
    except UnsignedMetadataError as e:
        raise Refused(f"the metadata is not signed by the site's keys: {e}", code="untrusted") from e
    except LengthOrHashMismatchError as e:
        raise Refused(f"the bytes are not those that were signed: {e}", code="untrusted") from e
    except (RepositoryError, DownloadError, ValueError) as e:
        raise Refused(f"the signed metadata cannot be used: {str(e) or type(e).__name__}", code="untrusted") from e
