"""A disk that knows what a power cut would leave: fed with the calls of `trace.py`, it gives the trees that may be found.

What is durable: the data and the size of a file up to the start of an fsync or fdatasync of that file that succeeded;
a name (create, rename, link, unlink, mkdir) once its folder was synced. Nothing else is, not the name of a file that
was synced, so it promises less than ext4 or XFS do. `medium.py` says what may be left of the rest.

Not modelled: a disk that lies about a flush; an fsync that fails and renames between folders (both raise Unmodelled).
SQLite's `-shm` is left out: the next opener makes it anew.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from tests.torture.medium import EVERYTHING, Cut, File, Folder
from tests.torture.trace import Call, Fd, Unmodelled


@dataclass
class _Open:
    node: File | Folder
    path: str
    at: int | None  # None: not known, since it may have been read from
    append: bool
    sync: bool


class Disk:
    """Everything under `root`, an absolute path; other files do not exist. Promises come by descriptor `tell`."""

    def __init__(self, root: str, *, tell: int = 9, tree: Mapping[str, bytes | None] | None = None) -> None:
        self.root = PurePosixPath(root)
        self.top = Folder()
        self.told: list[str] = []
        self._tell = tell
        self._fds: dict[int, _Open] = {}
        self._syncing: dict[int, tuple[File | Folder, int]] = {}
        self._afloat: dict[str, File] = {}  # what was written to, by its name then
        for path, content in sorted((tree or {}).items()):
            node: File | Folder = Folder() if content is None else File(bytearray(content), size=len(content))
            folder, name = self._folder(self.root / path)
            folder.change((name, node))
            folder.sync(folder.synced + 1)

    def take(self, call: Call) -> bool:
        """Take one moment in; True if a power cut right after it may differ from one right before."""
        start = call.answer is None
        name, words = call.name, call.words
        if start:
            if name == "write" and self._fd(words) == self._tell:
                self.told += words[1].decode().splitlines()
                return True
            if name == "close":  # its number is free before its end is seen
                self._fds.pop(self._fd(words), None)
            elif name in ("fsync", "fdatasync") and (opened := self._opened(words)) is not None:
                self._syncing[call.pid] = (opened.node, opened.node.synced + len(opened.node.pending))
            return False
        syncing = self._syncing.pop(call.pid, None) if name in ("fsync", "fdatasync") else None
        if call.answer < 0:
            if syncing is not None:
                raise Unmodelled(f"line {call.line}: a sync failed")
            return False
        if syncing is not None:
            before = syncing[0].synced
            syncing[0].sync(syncing[1])
            return syncing[0].synced != before
        action = getattr(self, f"_{name}", None)
        if action is not None:
            return bool(action(call, words))
        self._require_harmless(call)
        return False

    def afloat(self, suffix: str) -> bool:
        """Whether a file with such a name holds data that are not synced."""
        self._afloat = {path: file for path, file in self._afloat.items() if file.pending}
        return any(path.endswith(suffix) for path in self._afloat)

    def died(self, live: Mapping[str, bytes | None]) -> None:
        """The process was killed and left `live`: what calls that never ended did is seen, and not durable."""
        self._fds.clear()
        self._syncing.clear()
        seen = self.tree(EVERYTHING, random.Random(0))
        for path in sorted(seen.keys() - live.keys(), reverse=True):
            self._place(str(self.root / path).encode(), None)
        for path, content in sorted(live.items()):
            if path not in seen:
                self._place(str(self.root / path).encode(), Folder() if content is None else File())
            folder, name = self._folder(self.root / path)
            node = folder.live[name]
            if isinstance(node, File) and content != seen.get(path, b""):
                assert content is not None
                node.resize(len(content))
                node.write(0, content)

    def tree(self, cut: Cut, rng: random.Random) -> dict[str, bytes | None]:
        """A tree that may be found after a power cut now: path below the root -> content, None for a folder."""
        found: dict[str, bytes | None] = {}
        self._walk(self.top, "", cut, rng, found)
        return found

    def _walk(self, folder: Folder, path: str, cut: Cut, rng: random.Random, found: dict[str, bytes | None]) -> None:
        for name, node in sorted(folder.after(cut, rng).items()):
            if isinstance(node, Folder):
                found[path + name] = None
                self._walk(node, f"{path}{name}/", cut, rng, found)
            elif not name.endswith("-shm"):
                found[path + name] = node.after(cut, rng)

    # --- calls, by their names; each returns whether it changed anything ----------------------------------------------

    def _openat(self, call: Call, words: tuple) -> bool:
        return self._open(call, (self._join(words[0], words[1]), *words[2:]))

    def _open(self, call: Call, words: tuple) -> bool:
        path, flags = self._path(words[0]), words[1].split("|")
        if path is None:
            self._fds.pop(call.answer, None)
            return False
        folder, name = self._folder(path) if path != self.root else (None, "")
        node = self.top if folder is None else folder.live.get(name)
        changed = False
        if node is None:
            if "O_CREAT" not in flags or folder is None:
                raise Unmodelled(f"line {call.line}: {path} was opened and never made")
            node = File()
            folder.change((name, node))
            changed = True
        elif "O_TRUNC" in flags and isinstance(node, File) and node.size:
            node.resize(0)
            changed = True
        readable = "O_RDWR" in flags
        sync = "O_SYNC" in flags or "O_DSYNC" in flags
        self._fds[call.answer] = _Open(node, str(path), None if readable else 0, "O_APPEND" in flags, sync)
        return changed

    def _dup(self, call: Call, words: tuple) -> bool:
        opened = self._opened(words)
        if opened is not None:
            self._fds[call.answer] = opened
        return False

    _dup2 = _dup3 = _dup

    def _fcntl(self, call: Call, words: tuple) -> bool:
        return self._dup(call, words) if str(words[1]).startswith("F_DUPFD") else False

    def _lseek(self, call: Call, words: tuple) -> bool:
        opened = self._opened(words)
        if opened is not None:
            opened.at = call.answer
        return False

    def _write(self, call: Call, words: tuple) -> bool:
        opened = self._opened(words)
        if opened is None:
            return False
        offset = opened.node.size if opened.append else opened.at
        if offset is None:
            raise Unmodelled(f"line {call.line}: where a write to a file opened for reading goes is not known")
        opened.at = offset + call.answer
        return self._put(opened, offset, words[1][: call.answer])

    _writev = _write

    def _pwrite64(self, call: Call, words: tuple) -> bool:
        opened = self._opened(words)
        return opened is not None and self._put(opened, int(words[3]), words[1][: call.answer])

    _pwritev = _pwritev2 = _pwrite64

    def _put(self, opened: _Open, offset: int, data: bytes) -> bool:
        opened.node.write(offset, data)
        self._afloat[opened.path] = opened.node
        if opened.sync:
            opened.node.sync(opened.node.synced + len(opened.node.pending))
        return True

    def _ftruncate(self, call: Call, words: tuple) -> bool:
        opened = self._opened(words)
        if opened is not None:
            opened.node.resize(int(words[1]))
        return opened is not None

    def _fallocate(self, call: Call, words: tuple) -> bool:
        opened = self._opened(words)
        if opened is None:
            return False
        if words[1] not in ("0", "FALLOC_FL_KEEP_SIZE"):
            raise Unmodelled(f"line {call.line}: fallocate {words[1]}")
        if words[1] == "0":
            opened.node.resize(max(opened.node.size, int(words[2]) + int(words[3])))
        return True

    def _mkdir(self, call: Call, words: tuple) -> bool:
        return self._place(words[0], Folder())

    def _mkdirat(self, call: Call, words: tuple) -> bool:
        return self._place(self._join(words[0], words[1]), Folder())

    def _unlink(self, call: Call, words: tuple) -> bool:
        return self._place(words[0], None)

    _rmdir = _unlink

    def _unlinkat(self, call: Call, words: tuple) -> bool:
        return self._place(self._join(words[0], words[1]), None)

    def _rename(self, call: Call, words: tuple) -> bool:
        return self._move(call, words[0], words[1], keep=False)

    def _renameat(self, call: Call, words: tuple) -> bool:
        if len(words) > 4 and words[4] not in ("0", "RENAME_NOREPLACE"):
            raise Unmodelled(f"line {call.line}: renameat2 {words[4]}")
        return self._move(call, self._join(words[0], words[1]), self._join(words[2], words[3]), keep=False)

    _renameat2 = _renameat

    def _link(self, call: Call, words: tuple) -> bool:
        return self._move(call, words[0], words[1], keep=True)

    def _linkat(self, call: Call, words: tuple) -> bool:
        return self._move(call, self._join(words[0], words[1]), self._join(words[2], words[3]), keep=True)

    def _mmap(self, call: Call, words: tuple) -> bool:
        opened = words[4] if len(words) > 4 else None
        if isinstance(opened, Fd) and "MAP_SHARED" in str(words[3]) and "PROT_WRITE" in str(words[2]):
            path = self._path(opened.path.encode())
            if path is not None and not path.name.endswith("-shm"):
                raise Unmodelled(f"line {call.line}: {path} is written through memory")
        return False

    # --- names ---------------------------------------------------------------------------------------------------------

    def _place(self, name: bytes, node: File | Folder | None) -> bool:
        path = self._path(name)
        if path is None:
            return False
        folder, last = self._folder(path)
        folder.change((last, node))
        return True

    def _move(self, call: Call, old: bytes, new: bytes, *, keep: bool) -> bool:
        a, b = self._path(old), self._path(new)
        if a is None and b is None:
            return False
        if a is None or b is None or a.parent != b.parent:
            raise Unmodelled(f"line {call.line}: {old!r} goes to another folder, {new!r}")
        folder, _ = self._folder(a)
        node = folder.live[a.name]
        folder.change((b.name, node)) if keep else folder.change((a.name, None), (b.name, node))
        return True

    def _folder(self, path: PurePosixPath) -> tuple[Folder, str]:
        *parents, last = path.relative_to(self.root).parts
        folder = self.top
        for name in parents:
            below = folder.live[name]
            assert isinstance(below, Folder), path
            folder = below
        return folder, last

    def _join(self, base: object, name: bytes) -> bytes:
        assert isinstance(base, Fd)
        return name if name.startswith(b"/") else f"{base.path}/".encode() + name

    def _path(self, name: bytes) -> PurePosixPath | None:
        """The path if it is on this disk. Relative ones are not: the workload is given an absolute folder."""
        path = PurePosixPath(name.decode(errors="replace"))
        return path if path.is_relative_to(self.root) else None

    def _fd(self, words: tuple) -> int:
        return words[0].number if words and isinstance(words[0], Fd) else -1

    def _opened(self, words: tuple) -> _Open | None:
        opened = self._fds.get(self._fd(words))
        if opened is None and isinstance(words[0], Fd) and self._path(words[0].path.encode()) is not None:
            raise Unmodelled(f"{words[0]} is on the disk but was never opened")
        return opened

    def _require_harmless(self, call: Call) -> None:
        if call.name in ("close", "fsync", "fdatasync", "sync_file_range", "creat", "sync", "syncfs"):
            if call.name in ("creat", "sync", "syncfs"):
                raise Unmodelled(f"line {call.line}: {call.name}")
            return
        for word in call.words:
            path = (
                word.path if isinstance(word, Fd) else word.decode(errors="replace") if isinstance(word, bytes) else ""
            )
            if path and self._path(path.encode()) is not None:
                raise Unmodelled(f"line {call.line}: {call.name} on {path}")
