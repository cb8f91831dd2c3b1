"""`edged`: the command line. Thin: each verb reads the configuration, calls one function, says what happened.

Exit codes: 0 ok, 1 failed, 2 usage, 3 checked and found bad, 4 not found, 5 unreachable, 75 try later, 77 not permitted,
78 bad configuration, 130 interrupted. With --json one document on stdout; errors are one document on
stderr. Imports stay inside the verbs so that `edged --help` answers at once.
"""

from __future__ import annotations

import errno
import functools
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from edged import __version__
from edged.errors import EXIT_NOT_FOUND, EXIT_NOT_PERMITTED, EdgedError, Misconfigured, Refused

if TYPE_CHECKING:
    from edged.config import Config
    from edged.storage.store import Store

SCHEMA_VERSION = 1

log = logging.getLogger(__name__)


class Context:
    """What the global options said."""

    def __init__(self, config_path: Path, as_json: bool, verbose: bool, quiet: bool) -> None:
        self.config_path, self.as_json, self.verbose, self.quiet = config_path, as_json, verbose, quiet
        self.data_dir: Path | None = None  # once the configuration is read

    def config(self) -> Config:
        from edged.config import load

        config = load(self.config_path)
        self.data_dir = config.data_dir
        return config

    def store(self, *, readonly: bool = False, key: bool = False) -> Store:
        """The site's store; with `key` it can unseal pictures: a passphrase is asked for on a terminal."""
        from edged.cli.key import ask
        from edged.site import open_store

        return open_store(self.config(), readonly=readonly, key=key, ask=ask if sys.stdin.isatty() else None)

    def out(self, document: dict[str, Any], text: str) -> None:
        """One JSON document, or the text for people."""
        if self.as_json:
            click.echo(json.dumps({"schema_version": SCHEMA_VERSION, **document}, sort_keys=True, default=str))
        elif text and not self.quiet:
            click.echo(text)


def _default_config() -> Path:
    for path in (Path("config.toml"), Path("/etc/edged/config.toml")):
        if path.exists():
            return path
    return Path("/etc/edged/config.toml")


class Verbs(click.Group):
    """The one outermost edge: a family error becomes one sentence, a hint and its exit code.

    `--json` may stand anywhere; with it a usage error is one document on stderr too.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--json" in args:
            args = ["--json", *(a for a in args if a != "--json")]
        return super().parse_args(ctx, args)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        try:
            sys.exit(cast(Any, super()).main(*args, **kwargs) or 0)
        except click.ClickException as e:
            if "--json" in sys.argv:
                error = {"code": "usage", "message": e.format_message(), "hint": "edged --help"}
                click.echo(json.dumps({"error": error}, sort_keys=True), err=True)
            else:
                e.show()
            sys.exit(e.exit_code)
        except click.Abort:
            sys.exit(130)  # 128 + SIGINT, as shells say it

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (EdgedError, OSError) as raised:
            e = raised if isinstance(raised, EdgedError) else in_words(raised, ctx.obj and ctx.obj.data_dir)
            if e is None:
                raise
            log.debug("where it was raised", exc_info=raised)
            if ctx.params.get("as_json"):
                error = {"code": e.code, "message": str(e), "hint": e.hint}
                click.echo(json.dumps({"error": error}, sort_keys=True), err=True)
            else:
                click.echo(f"edged: {e}" + (f"\n  {e.hint}" if e.hint else ""), err=True)
            ctx.exit(e.exit_code)


_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_IN_THE_WAY = (errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY, errno.ELOOP, errno.EXDEV)


def in_words(e: OSError, data_dir: Path | None) -> EdgedError | None:
    """An error of the operating system that nothing below has named; None for one that only a bug explains.

    Within the site it is the installation's fault (78), elsewhere that of a path somebody gave: 77, 4 or 1.
    """
    from edged.storage import disk

    if not isinstance(e.filename, str | bytes) and e.errno not in _OF_THE_DISK:
        return None
    path = Path(e.filename.decode() if isinstance(e.filename, bytes) else e.filename or data_dir or ".")
    if e.errno in _IN_THE_WAY:
        return Refused(f"{path}: {e.strerror}", code="in_the_way", hint="choose another name, or move it away")
    named = disk.renamed(e, path)
    if not isinstance(named, Misconfigured) or (data_dir is not None and path.is_relative_to(data_dir)):
        return named
    if e.errno in (errno.EACCES, errno.EPERM):
        hint = "choose another place, or let the user who runs this write there"
        return Refused(str(named), code="not_permitted", hint=hint, exit_code=EXIT_NOT_PERMITTED)
    return Refused(str(named), code="not_found", hint="make its folder first", exit_code=EXIT_NOT_FOUND)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edged")
@click.option("-c", "--config", "config_path", type=click.Path(path_type=Path), help="config.toml of the site")
@click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
@click.option("-v", "--verbose", is_flag=True, help="log what happens")
@click.option("-q", "--quiet", is_flag=True, help="say nothing but errors")
@click.pass_context
def main(ctx: click.Context, config_path: Path | None, as_json: bool, verbose: bool, quiet: bool) -> None:
    """Keeps the models of smart cameras good, on the premises."""
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    for noisy in ("sqlite_utils", "waitress", "tuf", "werkzeug", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    ctx.obj = Context(config_path or _default_config(), as_json, verbose, quiet)


def verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """Pass our Context as first argument."""

    @click.pass_context
    @functools.wraps(function)
    def wrapped(ctx: click.Context, /, *args: Any, **kwargs: Any) -> Any:
        return function(ctx.obj, *args, **kwargs)

    return wrapped
