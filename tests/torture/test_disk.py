"""What the model disk takes for durable."""

import random

import pytest

from tests.torture.disk import Disk
from tests.torture.medium import CUTS
from tests.torture.trace import Call, Fd, Unmodelled, read

NOTHING, EVERYTHING, DATA, NAMES, PAGES, TORN = CUTS
ROOT = "/disk"


class Program:
    """Calls in the words of a test; answers are as the kernel would give them."""

    def __init__(self):
        self.disk = Disk(ROOT)
        self.line = 0

    def start(self, name, *words, pid=1):
        self.line += 1
        self.disk.take(Call(self.line, pid, name, words, None))

    def end(self, name, *words, answer=0, pid=1):
        self.disk.take(Call(self.line, pid, name, words, answer))

    def __call__(self, name, *words, answer=0):
        self.start(name, *words)
        self.end(name, *words, answer=answer)

    def open(self, path, fd, flags="O_WRONLY|O_CREAT"):
        self("openat", Fd(-1, "/"), f"{ROOT}/{path}".encode(), flags, "0600", answer=fd)
        return Fd(fd, f"{ROOT}/{path}")

    def after(self, cut, seeds=1):
        trees = [self.disk.tree(cut, random.Random(s)) for s in range(seeds)]
        return trees[0] if seeds == 1 else trees


@pytest.fixture
def program():
    return Program()


@pytest.fixture
def top(program):
    return program.open("", 90, "O_RDONLY|O_DIRECTORY")


def test_a_file_that_was_synced_has_no_name_until_its_folder_was(program, top):
    a = program.open("a", 3)
    program("write", a, b"hello", "5", answer=5)
    assert program.after(NAMES) == {"a": b"\0" * 5} or program.after(NAMES) == {"a": b""}
    program("fsync", a)
    assert program.after(NOTHING) == {}
    assert program.after(NAMES) == {"a": b"hello"}
    program("fsync", top)
    assert program.after(NOTHING) == {"a": b"hello"}


def test_what_is_written_while_a_sync_runs_is_not_synced_by_it(program, top):
    a = program.open("a", 3)
    program("fsync", top)
    program("pwrite64", a, b"1", "1", "0", answer=1)
    program.start("fdatasync", a, pid=1)
    program("pwrite64", a, b"2", "1", "1", answer=1)
    program.end("fdatasync", a, pid=1)
    assert {t["a"] for t in program.after(NOTHING, 20)} == {b"1", b"1\0"}
    assert program.after(EVERYTHING) == {"a": b"12"}


def test_a_torn_write_leaves_old_and_new_sectors_and_nothing_else(program, top):
    a = program.open("a", 3)
    program("fsync", top)
    program("pwrite64", a, b"o" * 2048, "2048", "0", answer=2048)
    program("fsync", a)
    program("pwrite64", a, b"n" * 2048, "2048", "0", answer=2048)
    for cut, whole in ((TORN, 512), (PAGES, 2048)):
        found = {t["a"] for t in program.after(cut, 200)}
        blocks = {c[i : i + whole] for c in found for i in range(0, 2048, whole)}
        assert blocks == {b"o" * whole, b"n" * whole}
        assert len(found) == 2 ** (2048 // whole)


def test_a_block_that_was_written_twice_is_found_in_any_of_its_versions(program, top):
    a = program.open("a", 3)
    program("fsync", top)
    for version in (b"1", b"2", b"3"):
        program("pwrite64", a, version, "1", "0", answer=1)
        program("fsync", a) if version == b"1" else None
    assert {t["a"] for t in program.after(PAGES, 100)} == {b"1", b"2", b"3"}


def test_a_file_that_shrank_and_grew_is_found_with_its_old_content_or_with_new(program, top):
    a = program.open("a", 3)
    program("fsync", top)
    program("pwrite64", a, b"old!", "4", "0", answer=4)
    program("fsync", a)
    program("ftruncate", a, "0")
    program("pwrite64", a, b"new", "3", "0", answer=3)
    found = {t["a"] for t in program.after(PAGES, 300)}
    assert {b"old!", b"", b"new", b"\0\0\0"} <= found
    assert all(c == b"old!" or len(c) <= 3 for c in found)
    program("fdatasync", a)
    assert program.after(NOTHING) == {"a": b"new"}


def test_a_rename_over_a_file_shows_the_old_or_the_new_and_never_none(program, top):
    for name, content in (("a", b"old"), ("a.tmp", b"new")):
        a = program.open(name, 3)
        program("write", a, content, "3", answer=3)
        program("fsync", a)
        program("close", a)
    program("fsync", top)
    program("rename", b"/disk/a.tmp", b"/disk/a")
    found = [t["a"] for t in program.after(TORN, 50)]
    assert set(found) == {b"old", b"new"}


def test_names_come_in_order_or_each_by_itself(program, top):
    for n in range(3):
        program("mkdir", f"/disk/{n}".encode(), "0700")
    assert {"".join(t) for t in program.after(PAGES, 100)} == {"", "0", "01", "012"}
    assert len({"".join(t) for t in program.after(TORN, 300)}) == 8


def test_a_folder_without_a_name_takes_its_files_with_it(program, top):
    program("mkdir", b"/disk/f", "0700")
    f = program.open("f", 4, "O_RDONLY|O_DIRECTORY")
    program("fsync", program.open("f/a", 3))
    program("fsync", f)
    assert program.after(NOTHING) == {}
    program("fsync", top)
    assert program.after(NOTHING) == {"f": None, "f/a": b""}


def test_what_a_killed_process_wrote_is_there_and_not_durable(program, top):
    program("fsync", top)
    program.open("a", 3)
    program.disk.died({"a": b"seen", "b": b""})
    assert program.after(EVERYTHING) == {"a": b"seen", "b": b""}
    assert program.after(NOTHING) == {}


def test_a_promise_counts_from_the_moment_it_is_made(program):
    program.start("write", Fd(9, "/told"), b"receipt gate s0-1 ab stored\n", "28")
    assert program.disk.told == ["receipt gate s0-1 ab stored"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mmap", ("NULL", "4096", "PROT_READ|PROT_WRITE", "MAP_SHARED", Fd(3, "/disk/a"), "0")),
        ("copy_file_range", (Fd(3, "/disk/a"), "NULL", Fd(4, "/disk/a"), "NULL", "9", "0")),
        ("rename", (b"/disk/a", b"/elsewhere")),
        ("truncate", (b"/disk/a", "0")),
        ("sync", ()),
    ],
)
def test_what_was_not_modelled_is_not_passed_over(program, name, words):
    program.open("a", 3)
    with pytest.raises(Unmodelled):
        program(name, *words)


def test_a_sync_that_failed_is_not_modelled(program):
    a = program.open("a", 3)
    with pytest.raises(Unmodelled):
        program("fsync", a, answer=-1)


def test_calls_of_two_threads_are_told_apart_and_a_killed_one_never_ends(tmp_path):
    (tmp_path / "calls").write_text(
        '7 fdatasync(3<\\x2f\\x61> <unfinished ...>\n8 pwrite64(3<\\x2f\\x61>, "\\x00\\x22", 2, 5 <unfinished ...>\n'
        "7 <... fdatasync resumed>) = 0\n8 <... pwrite64 resumed>) = 2\n"
        "7 close(3<\\x2f\\x61>(deleted)) = -1 EBADF (Bad file descriptor)\n"
        "8 fsync(3<\\x2f\\x61>) = ?\n9 ???( <unfinished ...>\n8 +++ killed by SIGKILL +++\n"
    )
    calls = [(c.pid, c.name, c.words[1:], c.answer) for c in read(tmp_path / "calls")]
    assert calls == [
        (7, "fdatasync", (), None),
        (8, "pwrite64", (b'\0"', "2", "5"), None),
        (7, "fdatasync", (), 0),
        (8, "pwrite64", (b'\0"', "2", "5"), 2),
        (7, "close", (), None),
        (7, "close", (), -1),
        (8, "fsync", (), None),
    ]
