"""Model files: models/<sha256>.onnx, <sha256>.safetensors for weights, .epk and .epd for shorter ways to a file (packed, delta).
The name is the hash of the content.

Guarantees: a file appears whole and durable; `model_path` has read and hashed the file it names. Does not guarantee
that it stays the same after that: whoever must be sure reads with `read_model` and uses those bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from edged import durable
from edged.errors import EXIT_NOT_FOUND, Corrupt, Refused
from edged.storage import disk
from edged.storage.store import Store

MAX_BYTES = 1 << 30
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SUFFIXES = (".onnx", ".safetensors", ".epk", ".epd")
_SENT = (".onnx", ".epk", ".epd")  # what a camera may ask for: a file, its packed form, a delta


def put_model(store: Store, model: bytes | Path, suffix: str = ".onnx") -> str:
    """Put a model file; returns its sha256. Putting it again changes nothing. Works on a readonly store: no row is
    made.
    """
    if isinstance(model, Path):
        size = model.stat().st_size
        if size > MAX_BYTES:
            raise Refused(f"{model} has {size} bytes; {MAX_BYTES} at most", code="too_large")
        model = model.read_bytes()
    sha256 = hashlib.sha256(model).hexdigest()
    path = _path(store, sha256, suffix)
    try:
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            store.models_dir.mkdir(mode=0o700, exist_ok=True)
            durable.write(path, model, mode=0o600)
        else:
            os.utime(path)  # who puts it again is about to name it: keeping.py leaves young files alone
            durable.sync_folder(store.models_dir)  # whoever wrote it may have died before its name was durable
    except OSError as e:
        raise disk.renamed(e, path) from e
    return sha256


def model_path(store: Store, sha256: str, suffix: str = ".onnx") -> Path:
    """Where the file is; raises Refused("not_found"), Corrupt if its content does not hash to its name."""
    read_model(store, sha256, suffix)
    return _path(store, sha256, suffix)


def sent_path(store: Store, sha256: str) -> Path:
    """Where a file is that a camera may ask for, by its hash alone. Unread; the path of the .onnx when there is none."""
    paths = [_path(store, sha256, suffix) for suffix in _SENT]
    return next((path for path in paths if path.exists()), paths[0])


def read_model(store: Store, sha256: str, suffix: str = ".onnx") -> bytes:
    """The verified bytes; errors as `model_path`."""
    path = _path(store, sha256, suffix)
    try:
        content = path.read_bytes()
    except FileNotFoundError as e:
        raise Refused(f"no model file {path.name}", code="not_found", exit_code=EXIT_NOT_FOUND) from e
    except OSError as e:
        raise disk.renamed(e, path) from e
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Corrupt(f"model file {path} does not hash to its name", code="model_changed")
    return content


def _path(store: Store, sha256: str, suffix: str) -> Path:
    if not _SHA256.fullmatch(sha256) or suffix not in _SUFFIXES:
        raise Refused(f"{sha256[:80]!r}{suffix} names no model", code="bad_name")
    return store.models_dir / f"{sha256}{suffix}"
