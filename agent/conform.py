"""The command line that the public suite tuf-conformance drives (its CLIENT-CLI.md), over the camera's own trust code.

    edged-agent-conform --metadata-dir DIR init ROOT
    edged-agent-conform --metadata-dir DIR --metadata-url URL refresh
    edged-agent-conform --metadata-dir DIR --metadata-url URL \\
        --target-name PATH [--target-name PATH ...] --target-base-url URL --target-dir DIR download

Guarantees: metadata goes through `agent.client.session`, as on a camera; a target's file lies in `--target-dir`,
whatever its path. Unlike a camera it fetches by HTTP, follows delegations, and reckons with the machine's clock without
a floor: that is what the suite measures. No camera runs it. Exit codes: 0 done, 1 not, 2 usage.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from tuf.ngclient import Updater  # type: ignore[attr-defined]
from tuf.ngclient.urllib3_fetcher import Urllib3Fetcher

from agent.client import check_root, renamed, session
from edged.clock import SystemClock
from edged.errors import EdgedError, Misconfigured, Refused

ENROLLED = "enrolled-root"  # no .json: the suite takes those for trusted metadata
MAX_DELEGATIONS = 32


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code; argparse itself leaves with 2."""
    args = _parser().parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.DEBUG, format="%(name)s: %(message)s")
    try:
        match args.verb:
            case "init":
                init(args.metadata_dir, _read(Path(args.root)))
            case "refresh":
                with renamed():
                    _session(args).refresh()
            case _:
                download(_session(args), args.target_name)
    except (EdgedError, OSError) as e:
        print(f"edged-agent-conform: {e}", file=sys.stderr)
        return 1
    return 0


def init(folder: Path, root: bytes) -> None:
    """Trust `root` from now on. Raises Misconfigured when it is none."""
    check_root(root)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (ENROLLED, "root.json"):
        (folder / name).write_bytes(root)


def download(updater: Updater, names: Sequence[str]) -> None:
    """Fetch targets in order into the updater's folder, those that are there already not again.

    Raises Refused at the first that is not vouched for or whose bytes are others, Unavailable, OSError.
    """
    for name in names:
        with renamed():
            target = updater.get_targetinfo(name)
            if target is None:
                raise Refused(f"nobody vouches for {name}", code="untrusted")
            if updater.find_cached_target(target) is None:
                updater.download_target(target)  # under its quoted path: "../x" is a file name there


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise Refused(f"cannot read {path}: {e.strerror}", code="not_found") from e


def _session(args: argparse.Namespace) -> Updater:
    needed = ["metadata_url"] + ["target_name", "target_base_url", "target_dir"] * (args.verb == "download")
    if missing := [name for name in needed if getattr(args, name) is None]:
        raise Misconfigured(f"{args.verb} needs " + ", ".join("--" + name.replace("_", "-") for name in missing))
    try:
        root = (args.metadata_dir / ENROLLED).read_bytes()
    except FileNotFoundError as e:
        raise Refused(f"{args.metadata_dir} trusts no root yet: init comes first", code="not_found") from e
    with renamed():
        return session(
            args.metadata_dir, root, Urllib3Fetcher(), SystemClock().now(), metadata=args.metadata_url,
            targets=args.target_base_url, into=args.target_dir, delegations=MAX_DELEGATIONS,
        )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edged-agent-conform", description="A TUF client for tuf-conformance.")
    parser.add_argument("--metadata-dir", type=Path, required=True, help="what is trusted is kept here")
    parser.add_argument("--metadata-url", help="of the repository's metadata")
    parser.add_argument("--target-name", action="append", help="path of a target; may be given several times")
    parser.add_argument("--target-base-url", help="of the repository's targets")
    parser.add_argument("--target-dir", type=Path, help="where verified targets go")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("init", help="trust a root").add_argument("root", help="file with the first root.json")
    verbs.add_parser("refresh", help="bring the metadata up to date")
    verbs.add_parser("download", help="fetch targets")
    return parser


if __name__ == "__main__":
    sys.exit(main())
