"""Verbs of the site key: key show-fingerprint, check, rotate, phrase, recover, passphrase, backup.

No secret is taken from the command line: it is asked for on a terminal, else read as a line of stdin. Only `phrase` shows
one, and only to a terminal unless --yes is said.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edged.cli.ask import confirm, nobody, yes_option
from edged.cli.main import Context, main, verb
from edged.errors import EXIT_FOUND_BAD, EXIT_NOT_FOUND, EdgedError, Misconfigured, Refused

if TYPE_CHECKING:
    from edged.config import Config
    from edged.storage import sitekey
    from edged.storage.keyring import Keyring

AUTHOR = click.option("--author", default="command line", show_default=True, help="who does it, for the audit log")
KEY_FILE = click.option(
    "--key-file", type=click.Path(path_type=Path), help="use this key file instead of the configured one"
)


@main.group()
def key() -> None:
    """The key that opens every stored picture (docs/keys.md)."""


@key.command("show-fingerprint")
@KEY_FILE
@verb
def show_fingerprint(context: Context, key_file: Path | None) -> None:
    """Name the site key without telling it."""
    from edged import site
    from edged.storage import sitekey

    place = site.key_place(context.config(), key_file)
    name, wrapped = sitekey.fingerprint(sitekey.read(place, ask)), sitekey.is_wrapped(place)
    context.out(
        {"fingerprint": name, "files": [str(f) for f in place.files], "passphrase": wrapped},
        f"{name}  {' and '.join(map(str, place.files))}{', with a passphrase' if wrapped else ''}",
    )


@key.command("check")
@KEY_FILE
@verb
def check(context: Context, key_file: Path | None) -> None:
    """Look at the key, its copy and both copies of the keyring; change nothing. Exit code 3: something is wrong."""
    from edged import site
    from edged.storage import keyring, sitekey

    config = context.config()
    place, copies = site.key_place(config, key_file), site.keyring_copies(config)
    found: list[dict[str, str]] = [
        {"code": e.code, "message": str(e), "hint": e.hint} for e in sitekey.trouble(place)
    ]  # fmt: skip
    keys, said = 0, Said()
    try:
        opened = sitekey.read(place, said.once)
        found += [{"code": t.code, "message": t.text, "hint": t.hint} for t in keyring.trouble(copies, opened)]
        with site.open_store(config, readonly=True, key=True, file=key_file, ask=said.once) as store:
            keys = len(store.seal.keys(store))
            lost = store.seal.lost(store)
        if lost:
            found.append({"code": "key_lost", "message": f"{len(lost)} data keys are in no copy", "hint": ""})
    except EdgedError as e:
        if e.code not in {f["code"] for f in found}:
            found.append({"code": e.code, "message": str(e), "hint": e.hint})
    context.out(
        {"findings": found, "data_keys": keys},
        "\n".join(f["message"] + (f"\n  {f['hint']}" if f["hint"] else "") for f in found)
        or f"the site key and its copy are whole, both copies of the keyring open: {keys} data keys",
    )
    if found:
        sys.exit(EXIT_FOUND_BAD)


@key.command("rotate")
@KEY_FILE
@click.option("--to", type=click.Path(path_type=Path), help="write the new key here: for a credential of systemd")
@click.option("--finish", is_flag=True, help="keep the key that is in use now, drop the other one")
@AUTHOR
@verb
def rotate(context: Context, key_file: Path | None, to: Path | None, finish: bool, author: str) -> None:
    """Put a new site key in the place of the old one. Stop the daemon first; pictures need not be sealed anew."""
    from edged import site
    from edged.storage import rotate, sitekey

    if to is not None and finish:
        raise click.UsageError("--to begins a rotation, --finish ends one")
    config = context.config()
    place = site.key_place(config, key_file)
    said = Said()
    wrapped = sitekey.is_wrapped(place)
    with site.only_daemon(config.data_dir), site.open_store(config, key=True, file=key_file, ask=said.once) as store:
        if finish:
            opened = sitekey.read(place, said.once)
            is_new = rotate.finish(store, place, opened, author)
            name = sitekey.fingerprint(opened)
            text = "only the new key opens the store now" if is_new else "called off: only the old key opens the store"
            context.out({"fingerprint": name, "state": "finished" if is_new else "called_off"}, f"{name}: {text}")
            return
        passphrase = sitekey.passphrase_of(place.path, said.once) if wrapped else ""
        if to is not None:
            name = rotate.hand_over(store, to, passphrase).fingerprint
            context.out(
                {"fingerprint": name, "state": "handed_over", "file": str(to)},
                f"{to} is the new key {name}; until `edged key rotate --finish` either key opens the store.\n"
                "Now put it where the old one comes from (LoadCredential=storage-key:FILE), start edged, and say --finish.",
            )
            return
        if place.copy is None:
            raise Refused(
                f"{place.path} is a credential of systemd: it cannot be replaced from here", code="credential",
                hint="edged key rotate --to FILE",
            )  # fmt: skip
        done = rotate.run(store, place, author, passphrase=passphrase, ask=said.once)
    context.out(
        {"fingerprint": done.fingerprint, "state": "resumed" if done.resumed else "rotated"},
        f"{'the rotation that was cut off is done' if done.resumed else 'done'}: the site key is {done.fingerprint} now.\n"
        "Start `edged run`, `edged web` and `edged sync` again; write down the new 24 words (`edged key phrase`).",
    )


@key.command("phrase")
@KEY_FILE
@yes_option("show it without asking, and not only to a terminal")
@verb
def phrase(context: Context, key_file: Path | None, yes: bool) -> None:
    """Show the site key as 24 words, to be written on paper."""
    from edged import site
    from edged.storage import sitekey

    if not yes:
        what = "whoever sees these words can open every picture"
        if context.as_json or not sys.stdout.isatty():  # whoever answers could not see them go
            raise nobody(f"{what}, and what is not shown on a terminal stays where it is written")
        confirm(what, "Show them?")
    words = sitekey.phrase(sitekey.read(site.key_place(context.config(), key_file), ask))
    context.out({"words": words}, words)


@key.command("recover")
@KEY_FILE
@click.option("--with-passphrase", is_flag=True, help="wrap the new key file by a passphrase")
@AUTHOR
@verb
def recover(context: Context, key_file: Path | None, with_passphrase: bool, author: str) -> None:
    """Make a lost key file again from its 24 words, which are asked for or read from stdin.

    A file that is there and does not open the store is kept as NAME.wrong-TIME.
    """
    from edged import site
    from edged.clock import SystemClock
    from edged.storage import audit, disk, sitekey

    config = context.config()
    place = site.key_place(config, key_file)
    wrong = _do_not_open(config, place)
    found = _from_words()
    _require_opens(config, found)
    passphrase = new_passphrase() if with_passphrase else ""
    sitekey.put_aside(place)
    now = int(SystemClock().now())
    for file in wrong:
        with disk.explained(file):
            file.rename(file.with_name(f"{file.name}.wrong-{now}"))
    sitekey.put_new(place, found, passphrase)
    name = sitekey.fingerprint(found)
    if (config.data_dir / "edged.db").is_file():
        with context.store() as store:
            audit.append(store, author, "key.recovered", "site key", {"fingerprint": name})
    context.out(
        {"fingerprint": name, "files": [str(f) for f in place.files]},
        f"{' and '.join(map(str, place.files))} hold the key {name} again; it opens the keyring",
    )


@key.command("passphrase")
@KEY_FILE
@click.option("--remove", is_flag=True, help="from now on the file alone opens the store")
@AUTHOR
@verb
def passphrase(context: Context, key_file: Path | None, remove: bool, author: str) -> None:
    """Set, change or remove the passphrase of the key file. The key stays the same."""
    from edged import site
    from edged.storage import audit, sitekey

    config = context.config()
    place = site.key_place(config, key_file)
    said = Said()
    with site.open_store(config, key=True, file=key_file, ask=said.once) as store:
        opened = sitekey.read(place, said.once)
        new = "" if remove else new_passphrase()
        with store.seal.ring.locked():
            sitekey.rewrite(place, opened, new)
        audit.append(store, author, "key.passphrase", "site key", {"set": bool(new)})
    where = f"systemd's credential {sitekey.PASSPHRASE_CREDENTIAL}, or a file that {sitekey.PASSPHRASE_VARIABLE} names"
    context.out(
        {"passphrase": bool(new), "files": [str(f) for f in place.files]},
        f"done. The daemon takes the passphrase from {where}." if new else "done: the file needs no passphrase now",
    )


@key.command("backup")
@click.argument("file", type=click.Path(path_type=Path))
@KEY_FILE
@verb
def backup(context: Context, file: Path, key_file: Path | None) -> None:
    """Write one more copy of the keyring. It needs the site key to be of use, and it does not forget."""
    from edged import durable, site
    from edged.storage import sitekey
    from edged.storage.keyring import Keyring

    config = context.config()
    opened = sitekey.read(site.key_place(config, key_file), ask)
    ring: Keyring = Keyring(opened, site.keyring_copies(config))
    data, keys = ring.newest_bytes(), len(ring.ring().keys)
    try:
        durable.write(file, data, mode=0o600, replace=False)
    except FileExistsError as e:
        raise Refused(f"{file} is there already", code="exists", hint="choose another name") from e
    context.out(
        {"file": str(file), "data_keys": keys, "generation": ring.ring().generation},
        f"{file} holds {keys} data keys. What is erased from now on can still be opened with it and the site key:\n"
        "replace it after an erasure, or rotate the site key and destroy the old one.",
    )


def ask() -> str:
    """The passphrase of the key file, from whoever sits there."""
    return secret("passphrase of the key file")


def secret(what: str) -> str:
    """Ask for it without showing it; read a line of stdin where that is no terminal. Raises Refused when that has ended."""
    if sys.stdin.isatty():
        said: Any = click.prompt(what, hide_input=True, err=True)
        return str(said)
    line = sys.stdin.readline()
    if not line:  # an end is no empty answer: a key would be left open that was to be wrapped
        raise Refused(
            f"nobody is there to ask for the {what}",
            code="not_asked",
            hint="run it in a terminal, or give it as a line of stdin",
        )
    return line.rstrip("\r\n")


class Said:
    """A passphrase that is asked for once in a run."""

    def __init__(self) -> None:
        self._said: str | None = None

    def once(self) -> str:
        if self._said is None:
            self._said = ask()
        return self._said


def new_passphrase() -> str:
    """A passphrase that is to be, asked for twice. Raises Refused: it is empty, or the two differ."""
    new = secret("new passphrase")
    if not new:
        raise Refused("an empty passphrase protects nothing", code="empty")
    if secret("again") != new:
        raise Refused("the two are not the same", code="not_the_same")
    return new


def _from_words() -> bytes:
    """The key that somebody's words say; what he says wrong is no fault of the configuration."""
    from edged.storage import sitekey

    try:
        return sitekey.from_phrase(secret("24 words"))
    except Misconfigured as e:
        raise Refused(str(e), code=e.code, hint=e.hint) from e


def _do_not_open(config: Config, place: sitekey.Place) -> list[Path]:
    """The key files that are whole and open no copy of the keyring; raises Refused if one does, or might."""
    from edged import site
    from edged.storage import keyring, sitekey
    from edged.storage.sheet import SiteKey

    whole = [f for f in place.files if f.exists() and not sitekey.is_damaged(f)]
    for file in whole:
        one = sitekey.Place(file, None)
        states: set[str] = set()
        if not sitekey.is_wrapped(one):
            found = keyring.look(site.keyring_copies(config), SiteKey(sitekey.read(one)))
            states = {c.state for c in found}
        if "good" in states or "foreign" not in states:
            raise Refused(
                f"{file} is there and whole: nothing to recover", code="key_exists",
                hint="to take another key all the same, move it and its copy away",
            )  # fmt: skip
    return whole


def _require_opens(config: Config, found: bytes) -> None:
    """Raises Refused unless this key opens a copy of the keyring: words that fit together may still be another key's."""
    from edged import site
    from edged.storage import keyring
    from edged.storage.sheet import SiteKey

    states = {c.state for c in keyring.look(site.keyring_copies(config), SiteKey(found))}
    if "good" not in states:
        if "foreign" in states:
            raise Refused("these are the words of another key: the keyring does not open", code="wrong_key")
        raise Refused(
            "there is no keyring to try the key on", code="keyring_lost", exit_code=EXIT_NOT_FOUND,
            hint="bring back a copy of it first: without it the key opens nothing",
        )  # fmt: skip
