"""A detector's network, compiled once per input size.

Guarantees: no more sizes than asked for are kept; the one that was not used for longest goes before the new one takes its memory.
Does not guarantee threads: one detector is used by one.
"""

from __future__ import annotations

from edged import engine


class Compiled:
    """`data` the ONNX file, whose input is (1, channels, height, width); `most` sizes are kept."""

    def __init__(self, data: bytes, runtime: str, threads: int, *, most: int, channels: int = 3) -> None:
        self._data, self._runtime, self._threads = data, runtime, threads
        self._most, self._channels = most, channels
        self._engines: dict[tuple[int, int], engine.Engine] = {}  # last used, last in order

    def __len__(self) -> int:
        return len(self._engines)

    def at(self, width: int, height: int) -> engine.Engine:
        """The network for one input size. Raises Refused as `engine.load`."""
        loaded = self._engines.pop((width, height), None)
        if loaded is None:
            while len(self._engines) >= self._most:
                del self._engines[next(iter(self._engines))]
            shape = (1, self._channels, height, width)
            loaded = engine.load(self._data, runtime=self._runtime, threads=self._threads, input_shape=shape)
        self._engines[width, height] = loaded
        return loaded

    def clear(self) -> None:
        self._engines.clear()
