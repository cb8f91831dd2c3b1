"""What is found is a place, never what it says or whose it is: in no answer, no row, no object, no log."""

from __future__ import annotations

import logging
import sqlite3
import typing

import cv2
import msgspec
import numpy as np
import pytest

from edged.ingest import Line
from edged.privacy import detect, scrub, selftest, talk
from edged.privacy.pool import ScrubChild
from edged.privacy.scrub import ScrubOptions
from edged.privacy.track import Rules
from edged.storage import objects
from edged.storage.store import Store
from edged.wire.messages import Frame, FrameHeader, Region
from tests.privacy import signed
from tests.privacy.faults import command, jpeg_of
from tests.site import FakeClock

NUMBER = "EDG 0000"  # what selftest.draw_plate writes on a plate
SPELT = (NUMBER, "EDG0000", "EDG-0000", "EDG_0000")
WORDS = {"kind", "unjudged", "runtime", "code", "family", "message", "hint", "key", "weights", "name"}
PIXELS = {"jpeg", "crops"}
NUMBERS = {"word"}  # SHA-256 over an answer that is thrown away


def leaves(kind: object, name: str) -> list[tuple[str, type]]:
    """(field, type) of every str, bytes or array that an answer can hold."""
    if isinstance(kind, typing.TypeAliasType if hasattr(typing, "TypeAliasType") else ()):
        kind = kind.__value__
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind)
        return [leaf for field in kind.__struct_fields__ for leaf in leaves(hints[field], field)]
    inner = [a for a in typing.get_args(kind) if not isinstance(a, msgspec.Meta) and a is not Ellipsis]
    if inner and typing.get_origin(kind) is not typing.Literal:
        return [leaf for a in inner for leaf in leaves(a, name)]
    return [(name, kind)] if kind in (str, bytes) else []


def test_no_answer_of_the_child_has_room_for_a_text_or_an_embedding():
    for answer in typing.get_args(talk.Answer):
        for field, kind in leaves(answer, ""):
            assert field in (PIXELS | NUMBERS if kind is bytes else WORDS | {"ms", "hidden"}), (answer.__name__, field)


def test_a_place_is_a_kind_and_five_numbers():
    assert detect.Found._fields == ("kind", "x", "y", "w", "h", "score")
    assert talk.Spot.__struct_fields__ == ("kind", "x", "y", "w", "h", "sure")
    # A kind is one plain word of at most 16 letters and digits that the owner chose; neither spelling of a number fits.
    for text in (NUMBER, "EDG0000", "EDG-0000"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(msgspec.msgpack.encode(talk.Spot(text, 1, 2, 3, 4)), type=talk.Spot)
    assert set(scrub.Scrubbed.__dataclass_fields__) - {"made_by"} == {
        "jpeg", "width", "height", "crops", "regions", "ms",
    }  # fmt: skip


def everything_kept(store: Store) -> bytes:
    """All rows of all tables as text, and every object unsealed."""
    with sqlite3.connect(store.data_dir / "edged.db") as raw:
        dump = "\n".join(raw.iterdump()).encode()
    raw.close()
    return dump + b"".join(objects.read(store, row["id"]) for row in store.rows("select id from object"))


@pytest.mark.parametrize("delay_s", [0.0, 5.0])
def test_a_plate_that_is_covered_is_written_nowhere(tmp_path, caplog, capfd, delay_s):
    caplog.set_level(logging.DEBUG)
    clock = FakeClock()
    image, face, plate = selftest.planted(640, 360)
    with (
        Store.open(tmp_path / "site", clock=clock, site_key=bytes(32)) as store,
        ScrubChild(ScrubOptions(), 60) as child,
    ):
        line = Line(store, child, Rules(), delay_s, clock)
        for n in range(3):
            regions = (Region(*plate), Region(*face))
            header = FrameHeader(f"f-{n}", n / 10, n, "b", 640, 360, regions=regions)
            data = jpeg_of(image)
            commented = data[:2] + b"\xff\xfe\x00\x0a" + NUMBER.encode() + data[2:]
            list(line.put(Frame("gate", header, commented)))
        list(line.finish())
        assert store.value("select count(*) from frame where status = 'stored'") == 3
        kept = everything_kept(store)
        crop = objects.read(store, store.value("select object from sample where y = ? limit 1", (plate[1],)))
    said = caplog.text + "".join(capfd.readouterr())
    for text in SPELT:
        assert text.encode() not in kept
        assert text not in said
    pixels = cv2.imdecode(np.frombuffer(crop, np.uint8), cv2.IMREAD_COLOR)
    assert selftest.hidden(np.asarray(pixels, np.uint8), (0, 0, 224, 224))


def test_what_a_broken_child_says_of_a_plate_is_neither_kept_nor_logged(tmp_path, caplog, capfd):
    """Its exception names the number that it read; of an exception only its kind goes on."""
    caplog.set_level(logging.DEBUG)
    clock = FakeClock()
    made = signed.picture(1)
    with (
        Store.open(tmp_path / "site", clock=clock, site_key=bytes(32)) as store,
        ScrubChild(ScrubOptions(), 60, command=command("colour")) as child,
    ):
        line = Line(store, child, Rules(), 0.0, clock)
        for n, fault in enumerate(("plate.before.valueerror", "plate.instead.other-kind", "answer.before.stderr",
                                   "plate.before.last-words")):  # fmt: skip
            header = FrameHeader(f"f-{n}", n / 10, n, "b", signed.WIDTH, signed.HEIGHT)
            list(line.put(Frame(f"scrub.{fault}", header, jpeg_of(made.image))))
        kept = everything_kept(store)
        assert store.value("select count(*) from frame where status = 'withheld'") == 3
    said = caplog.text + "".join(capfd.readouterr())
    for text in SPELT:
        assert text.encode() not in kept
        assert text not in said
