"""What number plates look like: sizes, rows, bands and tones by region, for drawing them. Nobody issued any of these.

A row is a pattern: L a letter, D a digit, C a Chinese or Japanese sign, Y a Cyrillic letter, X either letter or digit,
everything else as it stands ("." a small gap). Tones: light, grey, yellow (a little darker than light), dark, mid (a
coloured ground that is grey in luma), scene (a printed picture).
"""

from __future__ import annotations

from typing import NamedTuple


class Layout(NamedTuple):
    """`mm` is width and height; `rows` hold (pattern, share of the height); `band` is where a coloured band lies."""

    name: str
    mm: tuple[int, int]
    rows: tuple[tuple[tuple[str, ...], float], ...]
    tones: tuple[str, ...] = ("light",)
    band: str = ""  # left, right, both, top, bottom
    small_top: float = 0.0  # how likely small words above and below the number are
    small_bottom: float = 0.0
    bike: bool = False
    often: int = 1


def _one(*patterns: str) -> tuple[tuple[tuple[str, ...], float], ...]:
    return ((patterns, 0.68),)


def _two(
    first: tuple[str, ...], second: tuple[str, ...], high: float = 0.38
) -> tuple[tuple[tuple[str, ...], float], ...]:
    return ((first, high), (second, high))


LAYOUTS = (
    Layout("eu", (520, 110), _one("L DD LLL", "LL DDD LL", "LLL LDDDD", "LL-DDD-LL", "DDDD LLL", "LLL DDD", "LL LDDD",
           "DDD-DD-DDD", "L-DDDDD"), ("light", "light", "light", "yellow"), band="left", often=10),
    Layout("eu both bands", (520, 110), _one("LL DDD LL", "LL-DDD-LL", "DD-LL-DD"), ("light",), band="both", often=2),
    Layout("eu short", (360, 110), _one("LL DDD", "LLL DD", "DDDDD", "LL DDDD"), ("light", "yellow"), band="left",
           often=2),
    Layout("plain long", (520, 112), _one("LLL DDD", "LDDD LLL", "DDDD LL", "DD-LL-DD", "LL DD DDD", "LLDD LLL",
           "DDD LL DD"), ("light", "light", "yellow", "grey", "dark"), often=6),
    Layout("uk", (520, 111), _one("LLDD LLL", "LDDD LLL"), ("light", "yellow"), often=3),
    Layout("eu square", (340, 200), _two(("LL", "LLL", "L DD", "LL DD"), ("DDD", "L DDDD", "DDD LL", "LLL")),
           ("light", "yellow"), band="left", often=2),
    Layout("square", (285, 200), _two(("LL DD", "LLD", "DDD"), ("DDDD", "LL DD", "DDD")), ("light", "yellow", "dark")),
    Layout("eu bike", (220, 200), _two(("LL", "LLL", "L LL", "DD LL"), ("DDD", "DDDD", "L DD")), ("light", "yellow"),
           band="left", bike=True, often=2),
    Layout("bike", (190, 160), _two(("LLL", "LL", "DDL"), ("DDDD", "DDD", "LDDD")), ("light", "grey", "yellow"),
           bike=True, often=2),
    Layout("small bike", (180, 130), _two(("LL DD", "LLL"), ("DDDD", "LL DD")), ("light", "yellow", "dark"), bike=True),
    Layout("br", (400, 130), ((("LLL-DDDD", "LLL.DDDD", "LLL DDDD"), 0.56),), ("grey", "grey", "grey", "mid", "light"),
           small_top=0.95, often=6),
    Layout("br bike", (187, 136), _two(("LLL",), ("DDDD",), 0.35), ("grey", "grey", "mid", "light"), small_top=0.9,
           bike=True, often=4),
    Layout("mercosur", (400, 130), ((("LLLDLDD", "LL DDD LL", "LLL DLDD"), 0.55),), ("light",), band="top", often=3),
    Layout("mercosur bike", (200, 170), _two(("LLL", "LDD"), ("DLDD", "LLL"), 0.34), ("light",), band="top", bike=True,
           often=2),
    Layout("south american dark", (294, 129), _one("LLL DDD", "LLL.DDD"), ("dark",)),
    Layout("south american yellow", (330, 160), ((("LLL.DDD", "LLL-DDDD", "LL.LL.DD"), 0.55),), ("yellow", "light"),
           small_bottom=0.9, often=2),
    Layout("us", (305, 152), ((("LLL DDDD", "DLLLDDD", "DDD LLL", "LLLDDDD", "LLL DDD", "DDDDDD", "XXX XXX", "XXXXXXX",
           "DDD.LLL", "LL DDDDD"), 0.46),), ("light", "light", "scene", "scene", "mid", "yellow"), small_top=0.95,
           small_bottom=0.7, often=10),
    Layout("us bike", (178, 102), ((("DDDDD", "LDDDD", "XXXXX"), 0.5),), ("light", "scene"), small_top=0.8, bike=True),
    Layout("north american old", (305, 152), _one("LLL DDD", "DDDDDDD", "LLLDDD"), ("dark", "mid", "yellow"),
           small_top=0.5, small_bottom=0.5, often=2),
    Layout("japan", (330, 165), ((("CC DDD", "CC DD"), 0.26), (("DD-DD", "DDD", "DDDD", "C DD-DD"), 0.52)),
           ("light", "light", "yellow", "mid"), often=3),
    Layout("china", (440, 140), _one("CL.DDDDD", "CL.XXXXX", "CL.LDDDD"), ("mid", "dark", "light", "yellow"), often=3),
    Layout("china lorry", (440, 220), ((("CL",), 0.27), (("DDDDD", "XXXXX"), 0.5)), ("yellow", "dark"), often=1),
    Layout("korea", (520, 110), _one("DDC DDDD", "DDDC DDDD"), ("light", "light", "yellow"), band="left"),
    Layout("taiwan", (320, 150), _one("LLL-DDDD", "LL-DDDD", "DDDD-LL"), ("light", "yellow")),
    Layout("india", (500, 120), _one("LL DD LL DDDD", "LLDDLLDDDD", "LL-DD-L-DDDD"), ("light", "yellow"), often=2),
    Layout("india two rows", (300, 180), _two(("LL DD", "LLDD", "LL-DD-L"), ("LL DDDD", "DDDD", "L DDDD")),
           ("light", "yellow", "dark"), often=2),
    Layout("russia", (520, 112), _one("YDDDYY DD", "YDDDYY DDD"), ("light",), band="right", often=2),
    Layout("gulf", (335, 155), ((("DDDDD", "L DDDDD", "D DDDDD"), 0.5),), ("light", "yellow"), small_top=0.6,
           small_bottom=0.3),
    Layout("gulf long", (520, 110), _one("DDDDD", "DDDD LLL", "L.CC.DDDDD"), ("light", "yellow"), band="right"),
    Layout("french dark", (520, 110), _one("DDDD LL DD", "DDD LL DD"), ("dark",)),
    Layout("indonesia", (430, 135), ((("L DDDD LL", "LL DDDD LL"), 0.5),), ("dark", "light"), small_bottom=0.9),
    Layout("israel", (520, 110), _one("DD-DDD-DD", "DDD-DD-DDD"), ("yellow",), band="left"),
)  # fmt: skip

# Never drawn for training: the look-alike test asks about what the network has not seen.
HELD_OUT = (
    Layout("malaysia", (480, 130), _one("LLL DDDD", "LL DDDD"), ("dark",)),
    Layout("thailand", (340, 150), ((("DCC DDDD", "CC DDD"), 0.5),), ("light",), small_bottom=1.0),
    Layout("south africa", (440, 120), _one("LL DD LL LL", "LLL DDD LL"), ("light", "scene"), small_bottom=0.6),
    Layout("australia", (372, 134), ((("LLL-DDL", "DLL DLL", "LLL DDD"), 0.55),), ("light", "yellow", "dark", "mid"),
           small_bottom=0.8, small_top=0.3, often=2),
    Layout("us west", (305, 152), ((("DLLLDDD", "LLL.DDDD", "LLDDLLL"), 0.5),), ("scene", "light"), band="bottom",
           small_top=1.0, small_bottom=0.5, often=2),
    Layout("eu west", (520, 120), _one("DD-LLL-D", "L-DDD-LL", "DL-DDDDD", "DDDLL"), ("light", "yellow"), band="left",
           often=2),
    Layout("bike east", (240, 130), _two(("LLL", "LL D"), ("LDDD", "DD DD")), ("light", "yellow"), bike=True),
    Layout("br lorry", (400, 130), ((("LLL DDDD",), 0.6),), ("mid", "grey"), small_top=1.0),
)  # fmt: skip
