"""How many frames may be under way without a receipt: additive increase, multiplicative decrease.

As TCP avoids congestion (RFC 5681, section 3.1): every receipt widens the window by its reciprocal, a full window of them
by one frame; a `retry` halves it, once for all that was sent before that halving. Until the time that the box named
nothing is sent at all, so that frames keep their order. Guarantees: never wider than `most`, never narrower than one.
"""

from __future__ import annotations


class Window:
    """`now` and `sent_at` are monotonic seconds."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._width = float(most)
        self._halved_at = self._closed_until = float("-inf")

    @property
    def width(self) -> int:
        """Frames that may be under way at once."""
        return int(self._width)

    def room(self, under_way: int, now: float) -> int:
        """How many more may be sent now."""
        return 0 if now < self._closed_until else max(0, self.width - under_way)

    def receipted(self) -> None:
        """A frame was settled for good."""
        self._width = min(float(self.most), self._width + 1 / self._width)

    def retry(self, sent_at: float | None, after_s: float, now: float) -> None:
        """The box had no room for a frame that was sent at `sent_at`; None = before the link was cut."""
        if sent_at is not None and sent_at >= self._halved_at:
            self._width = max(1.0, self._width / 2)
            self._halved_at = now
        self._closed_until = max(self._closed_until, now + after_s)
