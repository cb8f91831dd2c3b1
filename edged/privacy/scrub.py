"""`Scrubbed`, and the only way to one: `vouch` looks at what a scrub child answered before anyone may keep it.

Guarantees: a `Scrubbed` holds pictures of the promised number and sizes, each a plain JPEG without metadata and without
a byte behind its end, answered for this very request and these very bytes, with something covered of every kind that
was to be. Does not guarantee: that every face and plate was found; how many
are is measured, see docs. Does not decode any picture: this module runs in the daemon.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from hmac import compare_digest
from types import MappingProxyType

from edged.errors import EdgedError, Refused
from edged.privacy import jpeg
from edged.privacy.talk import Done, Look, Polygon, Request, ScrubOptions, Seen, word, word_of_look
from edged.wire.messages import REGION_PX

__all__ = ["Polygon", "ScrubOptions", "Scrubbed", "Withheld", "believe", "vouch"]

_OURS = object()


class Withheld(EdgedError):
    """Privacy could not vouch for a frame, so nothing of it was kept; `code` says why.

    timeout     the child did not answer within its deadline
    child_died  the child ended in the middle of the frame
    selftest    the child did not hide what was planted for it
    bad_answer  what it answered does not hold together
    bad_places  the places that were to be covered are none
    uncovered   what was to be hidden can still be seen in what the child encoded
    other_picture  what the child encoded is not the picture that it was to encode
    detector    a detector failed or gave numbers that are none
    memory      the frame needed more memory than the child may have
    child_error any other error in the child
    too_dark    no detector can be trusted in so little light (judge.py)
    too_blurred no detector can be trusted on so blurred a picture
    closed      the child was closed
    """

    code = "withheld"


@dataclass(frozen=True)
class Scrubbed:
    """A picture without private content. Made by `vouch` only.

    `crops` are JPEGs of 224x224, one per region of the frame's header, or the whole picture for the kind "roi".
    `regions` counts the areas hidden by kind: {"face": n, "plate": n}. `ms` are the child's milliseconds per stage.
    """

    jpeg: bytes
    width: int
    height: int
    crops: tuple[bytes, ...]
    regions: Mapping[str, int]
    ms: Mapping[str, float]
    made_by: InitVar[object] = None

    def __post_init__(self, made_by: object) -> None:
        if made_by is not _OURS:
            raise TypeError("a Scrubbed is made by edged.privacy.scrub only, from a scrub child's answer")
        object.__setattr__(self, "regions", MappingProxyType(dict(self.regions)))
        object.__setattr__(self, "ms", MappingProxyType(dict(self.ms)))


def vouch(request: Request, answer: Done) -> Scrubbed:
    """The answer as a Scrubbed; raises Withheld (code bad_answer) if it is not what the request asked for."""
    if answer.seq != request.seq:
        raise _bad(f"it answers request {answer.seq}, not {request.seq}")
    _check(answer.jpeg, "the picture", answer.width, answer.height)
    if request.kind != "roi" and (answer.width, answer.height) != (request.width, request.height):
        raise _bad(f"a {request.width}x{request.height} picture came back as {answer.width}x{answer.height}")
    wanted = 1 if request.kind == "roi" else len(request.regions)
    if len(answer.crops) != wanted:
        raise _bad(f"{len(answer.crops)} regions came back for {wanted}")
    for i, crop in enumerate(answer.crops):
        _check(crop, f"region {i}", REGION_PX, REGION_PX)
    if not all(math.isfinite(ms) for ms in answer.ms.values()):
        raise _bad("a time that is no number")
    if not compare_digest(answer.word, word(request, answer.jpeg, *answer.crops)):
        raise _bad("its word is for something else")
    for kind in _kinds_inside(request):
        if not answer.hidden.get(kind):
            raise _bad(f"nothing was covered for a {kind}")
    return Scrubbed(answer.jpeg, answer.width, answer.height, answer.crops, answer.hidden, dict(answer.ms), _OURS)


def believe(question: Look, answer: Seen) -> Seen:
    """The answer, if its word is for this very question; raises Withheld (code bad_answer)."""
    if not compare_digest(answer.word, word_of_look(question, answer.spots, answer.unjudged)):
        raise _bad("its word is for something else")
    return answer


def _kinds_inside(request: Request) -> set[str]:
    """Of the boxes that were to be covered, as far as they lie in the picture."""
    if request.blank or request.kind == "roi":  # the size of a roi is not known before it is decoded
        return set()
    width, height = request.width, request.height
    return {
        spot.kind for spot in request.spots or ()
        if spot.w > 0 and spot.h > 0 and -spot.w < spot.x < width and -spot.h < spot.y < height
    }  # fmt: skip


def _check(data: bytes, what: str, width: int, height: int) -> None:
    try:
        header = jpeg.check(data)
        more = jpeg.metadata(data)
    except Refused as e:
        raise _bad(f"{what}: {e}") from e
    if (header.width, header.height) != (width, height):
        raise _bad(f"{what} is {header.width}x{header.height}, not {width}x{height}")
    if more:
        raise _bad(f"{what} carries {', '.join(more)}")


def _bad(why: str) -> Withheld:
    return Withheld(f"the scrub child's answer does not hold: {why}", code="bad_answer")
