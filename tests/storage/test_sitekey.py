"""The key file and its copy: never a wrong key, never a new one over an old one, never a secret where others see it."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import Misconfigured
from edged.storage import sitekey
from edged.storage.sitekey import Place

PASSPHRASE = "a long enough passphrase"

# Trezor's published vectors of BIP-39 (vectors.json, English, 256 bits).
VECTORS = [
    ("00" * 32, "abandon " * 23 + "art"),
    ("7f" * 32, "legal winner thank year wave sausage worth useful " * 2
     + "legal winner thank year wave sausage worth title"),
    ("ff" * 32, "zoo " * 23 + "vote"),
    ("f585c11aec520db57dd353c69554b21a89b20fb0650966fa0a9d6f74fd989d8f",
     "void come effort suffer camp survey warrior heavy shoot primary clutch crush open amazing screen patrol group "
     "space point ten exist slush involve unfold"),
]  # fmt: skip


@pytest.fixture
def place(tmp_path):
    made = Place.of(tmp_path / "storage.key")
    sitekey.make_key(made.path)
    return made


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """scrypt at its real cost takes half a second: only the test that measures it pays that."""
    monkeypatch.setattr(sitekey, "_N", 2**4)


def damages(content):
    for at in range(len(content)):
        for bit in (1, 0x80):
            yield content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]
        yield content[:at]


def test_a_key_file_and_its_copy_are_made_once_with_mode_0600(tmp_path):
    path = tmp_path / "storage.key"
    key = sitekey.make_key(path)
    assert len(key) == 32
    assert sitekey.read_key(path) == key
    assert sitekey.trouble(Place.of(path)) == []
    for gone in ([], [path], [tmp_path / "storage.key.copy"]):
        for file in gone:
            file.rename(tmp_path / "aside")
        with pytest.raises(Misconfigured, match="exists") as e:
            sitekey.make_key(path)
        assert e.value.code == "key_exists"
        for file in gone:
            (tmp_path / "aside").rename(file)
    assert sitekey.read_key(path) == key
    assert sorted(p.name for p in tmp_path.iterdir()) == ["storage.key", "storage.key.copy"]
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o610])
@pytest.mark.parametrize("which", [0, 1])
def test_a_key_that_others_can_reach_is_refused(place, mode, which):
    place.files[which].chmod(mode)
    if which:
        place.path.unlink()
    with pytest.raises(Misconfigured, match="others") as e:
        sitekey.read(place)
    assert e.value.code == "key_mode"


@pytest.mark.parametrize("passphrase", ["", PASSPHRASE])
def test_each_byte_of_the_key_file_changed_or_cut_is_noticed_and_the_copy_is_used(tmp_path, passphrase, caplog):
    """Threat 28. The control: without the copy each of them stops the start."""
    place, key, n = Place.of(tmp_path / "storage.key"), bytes(range(32)), 0
    sitekey.put_new(place, key, passphrase)
    good = place.path.read_bytes()
    for bad in damages(good):
        place.path.write_bytes(bad)
        caplog.clear()
        assert sitekey.read(place, lambda: PASSPHRASE) == key
        assert f"its copy {place.copy} is used" in caplog.text
        assert [e.code for e in sitekey.trouble(place)] == ["bad_key"]
        with pytest.raises(Misconfigured) as e:
            sitekey.read(Place(place.path, None), lambda: PASSPHRASE)
        assert e.value.code == "bad_key"
        assert place.path.read_bytes() == bad  # reading repairs nothing
        n += 1
    assert n == 3 * len(good)
    print(f"{n} damages of {len(good)} bytes")


def test_with_both_damaged_the_start_stops_and_says_what_to_do(place):
    for file in place.files:
        file.write_bytes(b"x")
    with pytest.raises(Misconfigured, match="and so is its copy") as e:
        sitekey.read(place)
    assert "recover" in e.value.hint
    assert sitekey.mend(place) == []
    assert {f.read_bytes() for f in place.files} == {b"x"}


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("damage", [lambda f: f.unlink(), lambda f: f.write_bytes(f.read_bytes()[:-9])])
def test_what_is_damaged_or_gone_is_written_again_from_the_other(place, which, damage):
    good = place.path.read_bytes()
    damage(place.files[which])
    assert sitekey.mend(place) == [place.files[which]]
    assert [f.read_bytes() for f in place.files] == [good, good]
    assert sitekey.mend(place) == []
    assert {f.stat().st_mode & 0o777 for f in place.files} == {0o600}


def test_two_good_files_that_differ_are_left_to_the_operator(place, tmp_path):
    place.copy.write_bytes(sitekey.pack(bytes(32)))
    before = place.path.read_bytes()
    assert sitekey.mend(place) == []
    assert [e.code for e in sitekey.trouble(place)] == ["key_copies_differ"]
    assert place.path.read_bytes() == before
    assert sitekey.read(place) != bytes(32)


@given(st.one_of(
    st.binary(max_size=200),
    st.lists(st.text("0123456789abcdef-edgky \t_x", max_size=70), max_size=9).map(lambda w: " ".join(w).encode()),
    st.lists(st.integers(-9, 2**70), min_size=3, max_size=3).map(
        lambda n: (line := f"edged-key-2 {n[0]} {n[1]} {n[2]} 00 00 00") + f" {sitekey._checksum(line.encode())}\n"
    ).map(str.encode),
))  # fmt: skip
def test_whatever_lies_in_the_place_of_a_key_file_is_refused_by_name(content):
    with pytest.raises(Misconfigured) as e:
        sitekey.unpack(content, Path("storage.key"), lambda: PASSPHRASE)
    assert e.value.code in ("bad_key", "wrong_passphrase")


def test_a_missing_key_file_is_named(tmp_path):
    with pytest.raises(Misconfigured, match=r"nowhere\.key"):
        sitekey.read_key(tmp_path / "nowhere.key")


# -- passphrase


def test_with_a_passphrase_the_files_alone_open_nothing(tmp_path):
    place, key = Place.of(tmp_path / "storage.key"), bytes(range(32))
    sitekey.put_new(place, key, PASSPHRASE)
    content = place.path.read_bytes()
    assert key.hex().encode() not in content
    assert key not in content
    assert sitekey.is_wrapped(place)
    assert sitekey.read(place, lambda: PASSPHRASE) == key
    with pytest.raises(Misconfigured) as e:
        sitekey.read(place, lambda: PASSPHRASE + "x")
    assert e.value.code == "wrong_passphrase"
    assert PASSPHRASE not in str(e.value) + e.value.hint
    with pytest.raises(Misconfigured) as e:
        sitekey.read(place)
    assert e.value.code == "no_passphrase"
    assert sitekey.pack(key, PASSPHRASE) != content  # salt and nonce are new each time


def test_the_passphrase_comes_from_a_file_or_a_credential_never_from_the_command_line(tmp_path, monkeypatch):
    place, key = Place.of(tmp_path / "storage.key"), bytes(range(32))
    sitekey.put_new(place, key, PASSPHRASE)
    (tmp_path / "phrase").write_text(PASSPHRASE + "\n")
    monkeypatch.setenv(sitekey.PASSPHRASE_VARIABLE, str(tmp_path / "phrase"))
    assert sitekey.read(place) == key
    (tmp_path / "phrase").unlink()
    with pytest.raises(Misconfigured) as e:
        sitekey.read(place)
    assert e.value.code == "no_passphrase"
    (tmp_path / sitekey.PASSPHRASE_CREDENTIAL).write_text(PASSPHRASE)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert sitekey.read(place) == key


def test_a_short_passphrase_is_refused():
    with pytest.raises(Misconfigured) as e:
        sitekey.pack(bytes(32), "short")
    assert e.value.code == "short_passphrase"


def test_the_cost_is_written_in_the_file_and_one_that_would_take_all_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.undo()
    place = Place.of(tmp_path / "storage.key")
    sitekey.put_new(place, bytes(32), PASSPHRASE)
    words = place.path.read_text().split()
    assert words[:4] == ["edged-key-2", str(2**17), "8", "1"]
    assert sitekey.read(place, lambda: PASSPHRASE) == bytes(32)
    line = " ".join([words[0], str(2**30), *words[2:7]])
    forged = f"{line} {sitekey._checksum(line.encode())}\n"
    for file in place.files:
        file.write_text(forged)
    with pytest.raises(Misconfigured) as e:
        sitekey.read(place, lambda: PASSPHRASE)
    assert e.value.code == "bad_key"


# -- words


@pytest.mark.parametrize(("entropy", "words"), VECTORS)
def test_the_words_are_those_of_bip_39(entropy, words):
    assert sitekey.phrase(bytes.fromhex(entropy)) == words
    assert sitekey.from_phrase(f"  {words.upper()} ") == bytes.fromhex(entropy)


def test_a_key_comes_back_from_its_words(place):
    key = sitekey.read(place)
    assert sitekey.from_phrase(sitekey.phrase(key)) == key


def test_wrong_words_are_told_by_their_place_not_repeated():
    said = VECTORS[3][1].split()
    for words, code in (
        (["qwxyz", *said[1:]], "word 1"),
        (said[:23], "24 words, not 23"),
        (said[1:] + said[:1], "fit"),
    ):
        with pytest.raises(Misconfigured, match=code) as e:
            sitekey.from_phrase(" ".join(words))
        assert e.value.code == "bad_phrase"
        assert "qwxyz" not in str(e.value)


def test_one_word_changed_is_noticed_in_255_of_256(place):
    """The checksum of 24 words has 8 bits: what passes it is caught by the keyring."""
    key = sitekey.read(place)
    said, missed = sitekey.phrase(key).split(), 0
    for at in range(24):
        other = [*said[:at], "zoo" if said[at] != "zoo" else "abandon", *said[at + 1 :]]
        try:
            assert sitekey.from_phrase(" ".join(other)) != key
            missed += 1
        except Misconfigured:
            pass
    assert missed <= 3


def test_a_fingerprint_names_a_key_and_is_no_part_of_it(place):
    key = sitekey.read(place)
    name = sitekey.fingerprint(key)
    assert name != sitekey.fingerprint(os.urandom(32))
    assert len(name) == 19
    assert name.replace("-", "") not in key.hex()
