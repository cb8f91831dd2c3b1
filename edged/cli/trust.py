"""Verbs of the keys that cameras trust: trust show, renew, rotate, sign, take, cancel, new-key (docs/trust.md).

`sign` and `new-key` need no site: they run where the root keys are, on a machine without a network.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edged.cli.ask import confirm, yes_option
from edged.cli.main import Context, main, verb
from edged.cli.ranges import Range
from edged.errors import EXIT_FOUND_BAD, EXIT_NOT_FOUND, EXIT_NOT_PERMITTED, Refused

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, Root  # type: ignore[attr-defined]

    from edged.publish.ceremony import Ceremony, Change

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
TUF = click.option("--tuf", "tuf_dir", type=FOLDER, help="signed metadata; default: <data_dir>/tuf")
KEYS = click.option("--keys", "key_dir", type=FOLDER, help="online keys; default: <data_dir>/keys/tuf")
KEY = click.option(
    "--key", "keys", type=FILE, multiple=True, help="a root key that is at hand; may be given many times"
)
AUTHOR = click.option("--author", default="command line", show_default=True, help="who does it, for the audit log")
OUT = click.option("--out", type=FILE, help="where the prepared root goes; default: ./<n>.root.json")


@main.group()
def trust() -> None:
    """Who may say what the cameras run: root keys and signing keys (docs/trust.md)."""


@trust.command("show")
@TUF
@KEYS
@verb
def show(context: Context, tuf_dir: Path | None, key_dir: Path | None) -> None:
    """Roles, keys, thresholds, expiries, and what is wrong with them. Exit code 3: something is. Opens no key."""
    from edged.clock import SystemClock, iso
    from edged.publish import standing

    tuf_dir, key_dir = _places(context, tuf_dir, key_dir)
    found = standing.look(tuf_dir, key_dir, SystemClock().now())
    lines = [
        f"{r.role:9} {r.threshold} of {len(r.keys)} keys ({', '.join(k[:12] for k in r.keys)})"
        f"  {'root ' if r.role == 'root' else ''}{r.version}, until {iso(r.expires)[:10]}"
        f"  {', '.join(p.name for p in r.files) or 'no key file here'}"
        for r in found.roles
    ]
    lines += [f"{'wrong' if w.bad else 'note'}: {w.text}" + (f"\n  {w.hint}" if w.hint else "") for w in found.warnings]
    roles = {
        r.role: {
            "threshold": r.threshold, "keys": list(r.keys), "version": r.version, "expires": iso(r.expires),
            "files": [str(p) for p in r.files],
        } for r in found.roles
    }  # fmt: skip
    warnings = [{"code": w.code, "bad": w.bad, "message": w.text, "hint": w.hint} for w in found.warnings]
    document = {"roles": roles, "warnings": warnings, "fingerprint": found.fingerprint}
    context.out(document, "\n".join([*lines, f"first root (what cameras are given): sha256 {found.fingerprint}"]))
    if any(w.bad for w in found.warnings):
        sys.exit(EXIT_FOUND_BAD)


@trust.command("renew")
@click.option("--threshold", type=click.IntRange(min=1), help="how many root keys must sign from now on")
@click.option("--add-root", "added", type=FILE, multiple=True, help="public half (.pub) of a new root key")
@click.option("--drop-root", "dropped", multiple=True, help="id of a root key that leaves, or how it begins")
@click.option("--days", type=Range(min=1), help="how long the new root holds; default 365")
@KEY
@OUT
@TUF
@KEYS
@AUTHOR
@verb
def renew(
    context: Context, threshold: int | None, added: tuple[Path, ...], dropped: tuple[str, ...], days: float | None,
    keys: tuple[Path, ...], out: Path | None, tuf_dir: Path | None, key_dir: Path | None, author: str,
) -> None:  # fmt: skip
    """The next root: a new expiry, other root keys, another threshold. In force at once if enough keys are at hand."""
    from edged.publish import keyfiles
    from edged.publish.ceremony import Change

    change = Change(threshold, tuple(keyfiles.public_of(p) for p in added), dropped, (), days)
    _next_root(context, change, keys, out, tuf_dir, key_dir, author)


@trust.command("rotate")
@click.argument("roles", nargs=-1, required=True, type=click.Choice(["targets", "snapshot", "timestamp"]))
@KEY
@OUT
@TUF
@KEYS
@AUTHOR
@verb
def rotate(
    context: Context, roles: tuple[str, ...], keys: tuple[Path, ...], out: Path | None, tuf_dir: Path | None,
    key_dir: Path | None, author: str,
) -> None:  # fmt: skip
    """New keys for online roles, lost or stolen ones included. After a theft rotate all three."""
    from edged.publish.ceremony import Change

    _next_root(context, Change(rotate=tuple(dict.fromkeys(roles))), keys, out, tuf_dir, key_dir, author)


@trust.command("sign")
@click.argument("file", type=FILE)
@click.option("--key", "keys", type=FILE, multiple=True, required=True, help="a root key; may be given many times")
@yes_option("sign without asking")
@verb
def sign(context: Context, file: Path, keys: tuple[Path, ...], yes: bool) -> None:
    """Put a root key's signature on a prepared root. Needs no site and no network."""
    from edged.publish import ceremony, keyfiles

    prepared = ceremony.read_root(file)
    beside = file.with_name(f"{prepared.signed.version - 1}.root.json")
    old = ceremony.read_root(beside).signed if beside.exists() and beside != file else None
    said = ceremony.differences(old, prepared.signed) if old else ceremony.described(prepared.signed)
    if not context.as_json:
        click.echo("\n".join(said), err=True)
    if not yes:
        confirm(f"version {prepared.signed.version} of the root, as above, would be signed", "Sign this?")
    by = [ceremony.add_signature(prepared, keyfiles.given(key, _ask), old) for key in keys]
    ceremony.write_root(file, prepared)
    lacks = ceremony.missing(old or prepared.signed, prepared)
    text = f"{file} is signed by {', '.join(k[:12] for k in by)}"
    context.out(
        {"file": str(file), "signed_by": by, "version": prepared.signed.version, "missing": [str(m) for m in lacks],
         "changes": said},
        f"{text}; it has " + "; and ".join(map(str, lacks)) if lacks else f"{text}; now on the box: edged trust take FILE",
    )  # fmt: skip


@trust.command("take")
@click.argument("files", type=FILE, nargs=-1, required=True)
@TUF
@KEYS
@AUTHOR
@verb
def take(
    context: Context, files: tuple[Path, ...], tuf_dir: Path | None, key_dir: Path | None, author: str
) -> None:  # fmt: skip
    """Put a signed root in force; several copies of one root are put together. Can be repeated."""
    from edged.publish import ceremony

    made = _ceremony(context, tuf_dir, key_dir)
    signed = [ceremony.read_root(file) for file in files]
    before = made.root().signed.version
    rotated = made.take(signed)
    if tuf_dir is None and signed[0].signed.version != before:
        _note(context, author, signed[0].signed, rotated)
    _told(context, signed[0], rotated, made)


@trust.command("cancel")
@TUF
@KEYS
@AUTHOR
@verb
def cancel(context: Context, tuf_dir: Path | None, key_dir: Path | None, author: str) -> None:
    """Destroy the keys of a rotation that is not to be."""
    gone = _ceremony(context, tuf_dir, key_dir).cancel()
    if tuf_dir is None and gone:
        _audit(context, author, "trust.cancelled", "keys", {"files": [p.name for p in gone]})
    context.out({"destroyed": [str(p) for p in gone]}, "\n".join(f"destroyed {p}" for p in gone) or "no rotation waits")


@trust.command("new-key")
@click.argument("file", type=FILE)
@click.option("--passphrase", is_flag=True, help="wrap the key by a passphrase, which is asked for")
@verb
def new_key(context: Context, file: Path, passphrase: bool) -> None:
    """Make a root key at FILE and its public half beside it (.pub), for `edged trust renew --add-root`."""
    from edged.cli.key import new_passphrase
    from edged.publish import keyfiles

    if not file.parent.is_dir():
        raise Refused(f"there is no folder {file.parent}", code="not_found", exit_code=EXIT_NOT_FOUND)
    key = keyfiles.make(file, new_passphrase() if passphrase else "")
    public = keyfiles.write_public(file, key)
    context.out(
        {"key": str(file), "public": str(public), "id": key.keyid},
        f"{file} is a new root key, {key.keyid[:12]}: keep it off the box. Carry {public} there, then\n"
        f"  edged trust renew --add-root {public.name}",
    )


@trust.command("signer", hidden=True)
@click.option("--tuf", "tuf_dir", type=FOLDER, required=True)
@click.option("--keys", "key_dir", type=FOLDER, required=True)
@verb
def signer(context: Context, tuf_dir: Path, key_dir: Path) -> None:
    """Answer one request to sign on stdin (what systemd starts for each connection to the signer's socket)."""
    from edged.publish.signer import serve

    serve(tuf_dir, key_dir)


def _next_root(
    context: Context, change: Change, keys: tuple[Path, ...], out: Path | None, tuf_dir: Path | None,
    key_dir: Path | None, author: str,
) -> None:  # fmt: skip
    """Prepare it, sign it with what is at hand, and put it in force or write it to a file to carry."""
    from edged.publish import ceremony, keyfiles

    made = _ceremony(context, tuf_dir, key_dir)
    at_hand = [*keys, *(p for p in made.root_keys_here() if p.resolve() not in {k.resolve() for k in keys})]
    signers = [keyfiles.given(path, _ask) for path in at_hand]  # a wrong passphrase is said before anything is made
    old = made.root()
    prepared = made.prepare(change)
    for one in signers:
        if one.public_key.keyid in {*old.signed.roles["root"].keyids, *prepared.signed.roles["root"].keyids}:
            ceremony.add_signature(prepared, one, old.signed)
    lacks = made.missing(prepared)
    if not lacks:
        rotated = made.take([prepared])
        if tuf_dir is None:
            _note(context, author, prepared.signed, rotated)
        _told(context, prepared, rotated, made)
        return
    file = out or Path(f"{prepared.signed.version}.root.json")
    if file.exists():
        raise Refused(f"{file} is there already", code="exists", hint="choose another name with --out")
    ceremony.write_root(file, prepared)
    beside = file.with_name(f"{old.signed.version}.root.json")
    if not beside.exists():
        ceremony.write_root(beside, old)  # so that who signs sees what changes, and a key that leaves can sign
    said = ceremony.differences(old.signed, prepared.signed)
    context.out(
        {"file": str(file), "version": prepared.signed.version, "in_force": False, "missing": [str(m) for m in lacks],
         "changes": said},
        "\n".join(said) + f"\n{file} has " + "; and ".join(map(str, lacks))
        + f"\nCarry {file} and {beside.name} to the root keys:  edged trust sign {file.name} --key KEYFILE"
        f"\nthen back here:  edged trust take {file.name}",
    )  # fmt: skip


def _told(context: Context, root: Metadata[Root], rotated: list[str], made: Ceremony) -> None:
    here = made.root_keys_here()
    text = f"root {root.signed.version} is in force until {root.signed.expires:%Y-%m-%d}"
    text += f"; new keys for {', '.join(rotated)}, the old ones are gone" if rotated else ""
    text += f"\n  {', '.join(p.name for p in here)} lies on this box: carry it away (docs/trust.md)" if here else ""
    context.out({"version": root.signed.version, "in_force": True, "rotated": rotated}, text)


def _note(context: Context, author: str, root: Root, rotated: list[str]) -> None:
    """A root that is in force now, in the audit log of the site."""
    asked = root.roles["root"]
    facts = {"threshold": asked.threshold, "root_keys": [k[:12] for k in asked.keyids], "rotated": rotated}
    _audit(context, author, "trust.root", str(root.version), facts)


def _audit(context: Context, author: str, act: str, subject: str, facts: dict[str, Any]) -> None:
    from edged.storage import audit

    with context.store() as store:
        audit.append(store, author, act, subject, facts)


def _ceremony(context: Context, tuf_dir: Path | None, key_dir: Path | None) -> Ceremony:
    """Only as the owner of the folders: what root writes there, the owner could not replace."""
    from edged.clock import SystemClock
    from edged.publish.ceremony import Ceremony

    tuf_dir, key_dir = _places(context, tuf_dir, key_dir)
    for folder in (tuf_dir, key_dir):
        if folder.exists() and folder.stat().st_uid != os.geteuid():
            raise Refused(
                f"{folder} belongs to {_owner(folder)}", code="not_permitted", exit_code=EXIT_NOT_PERMITTED,
                hint=f"sudo -u {_owner(folder)} edged trust ... --tuf {tuf_dir} --keys {key_dir}",
            )  # fmt: skip
    return Ceremony(tuf_dir, key_dir, SystemClock())


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except KeyError:
        return str(path.stat().st_uid)


def _places(context: Context, tuf_dir: Path | None, key_dir: Path | None) -> tuple[Path, Path]:
    if tuf_dir is not None and key_dir is not None:
        return tuf_dir.resolve(), key_dir.resolve()
    config = context.config()
    return (tuf_dir or config.data_dir / "tuf").resolve(), (key_dir or config.keys_dir / "tuf").resolve()


def _ask(path: Path) -> str:
    from edged.cli.key import secret

    said: Any = secret(f"passphrase of {path}")
    return str(said)
