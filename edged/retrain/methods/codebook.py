"""A codebook for each layer's weights: k-means in one dimension, and the `Hold` that trains the centroids.

Han et al., Deep Compression, arXiv 1510.00149, section 3: a centroid's gradient is the sum of its weights' gradients.
Zeros are no part of it: zero stays zero. With `bits_weigh` the assignment also counts what a value costs to write (entropy-
constrained quantisation, Chou, Lookabaugh & Gray 1989): rare values are dropped.

Guarantees: fast on 1e8 weights, which are counted into BINS bins first (off by a 4096th of a layer's range at most before
the centroids are trained; layers of fewer weights are exact); the same input gives the same codebook.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

BINS = 4096
LLOYD = 40  # rounds at most

Floats = NDArray[np.float64]


def kmeans(values: Floats, k: int, *, start: Floats | None = None, bits_weigh: float = 0.0) -> Floats:
    """Centroids in rising order, at most `k` and at most as many as there are values. `values` float64 [n], n >= 1.

    `bits_weigh` is how much squared distance one bit is worth.
    """
    points, sizes = np.unique(values, return_counts=True)
    if len(points) <= k and not bits_weigh:
        return points
    if len(points) > BINS:
        low, high = points[0], points[-1]
        places = np.minimum(((values - low) * (BINS / (high - low))).astype(np.int64), BINS - 1)
        sizes = np.bincount(places, minlength=BINS)
        sums = np.bincount(places, values, minlength=BINS)
        points, sizes = sums[sizes > 0] / sizes[sizes > 0], sizes[sizes > 0]
    centres = spread(points, sizes, k) if start is None else np.sort(start)
    cost = np.zeros(len(centres))
    for _ in range(LLOYD):
        nearest = _assign(points, centres, cost)
        counts = np.bincount(nearest, sizes, minlength=len(centres))
        sums = np.bincount(nearest, sizes * points, minlength=len(centres))
        used = counts > 0
        moved = sums[used] / counts[used]
        cost = bits_weigh * -np.log2(counts[used] / counts.sum())
        if len(moved) == len(centres) and np.abs(moved - centres).max() <= 1e-7 * np.abs(centres).max():
            break
        centres = moved
    return centres


def spread(points: Floats, sizes: NDArray[np.int64], k: int) -> Floats:
    """Where k centroids start: by the cube root of the values' density (Panter & Dite 1951: where the best quantiser has
    them). Between a line, which leaves entries without weights where one weight is far out, and quantiles, which have
    none for the few large weights.
    """
    edges = np.linspace(points[0], points[-1], 257)
    heights = np.cbrt(np.histogram(points, edges, weights=sizes)[0])
    reached = np.concatenate([[0.0], heights.cumsum() / heights.sum()])
    centres: Floats = np.interp((np.arange(k) + 0.5) / k, reached, edges)
    return centres


def _assign(points: Floats, centres: Floats, cost: Floats) -> NDArray[np.int64]:
    """The cheapest centre of each point."""
    if not cost.any():
        return np.asarray(np.searchsorted((centres[1:] + centres[:-1]) / 2, points), np.int64)
    return np.asarray(((points[:, None] - centres) ** 2 + cost).argmin(1), np.int64)


@dataclass(frozen=True)
class Shared:
    """A `Hold`: weights of one layer with the same index have the same value, the others are zero.

    `places` are flat indices of the weights that are not zero, `index` the codebook entry of each, both int64 [n] by name.
    """

    places: Mapping[str, Tensor]
    index: Mapping[str, Tensor]

    def after_backward(self, net: nn.Module) -> None:
        """Each weight's gradient becomes the sum over its entry's weights."""
        for name, places in self.places.items():
            gradient = net.get_parameter(name).grad
            if gradient is None:
                continue
            index, flat = self.index[name], gradient.reshape(-1)
            sums = torch.zeros(_entries(index)).index_add_(0, index, flat[places])
            cleared = torch.zeros_like(flat)
            cleared[places] = sums[index]
            gradient.copy_(cleared.view_as(gradient))

    def after_step(self, net: nn.Module) -> None:
        """Each entry's mean for all its weights (they are the same but for rounding), zero for the others."""
        with torch.no_grad():
            for name, places in self.places.items():
                index, weights = self.index[name], net.get_parameter(name)
                flat = weights.reshape(-1)
                sums = torch.zeros(_entries(index), dtype=torch.float64).index_add_(0, index, flat[places].double())
                means = (sums / torch.bincount(index, minlength=_entries(index)).clamp(min=1)).float()
                cleared = torch.zeros_like(flat)
                cleared[places] = means[index]
                weights.copy_(cleared.view_as(weights))


class Books:
    """The codebooks of a network while assignments may still change: what forward and backward see is the nearest entry,
    what is trained are the weights behind it (straight-through, Bengio et al., arXiv 1308.3432).
    """

    def __init__(self, net: nn.Module, sizes: Mapping[str, int], bits_weigh: Mapping[str, float] | None = None) -> None:
        self._sizes = sizes
        self._weigh = bits_weigh or {}
        self._places = {name: net.get_parameter(name).detach().reshape(-1).nonzero()[:, 0] for name in sizes}
        self._books: dict[str, Tensor] = {}
        self._costs: dict[str, Tensor] = {}
        self.refit(net)

    def refit(self, net: nn.Module) -> None:
        """New centroids for the weights as they are."""
        for name, places in self._places.items():
            if len(places):
                values = net.get_parameter(name).detach().reshape(-1)[places].double().numpy()
                old = self._books.get(name)
                start = None if old is None else old.double().numpy()
                weigh = self._weigh.get(name, 0.0)
                book = kmeans(values, self._sizes[name], start=start, bits_weigh=weigh)
                self._books[name] = torch.from_numpy(book).float()
                counts = np.bincount(_assign(values, book, np.zeros(len(book))), minlength=len(book)) + 0.5
                self._costs[name] = torch.from_numpy(weigh * -np.log2(counts / counts.sum())).float()

    @contextmanager
    def seen(self, net: nn.Module) -> Iterator[None]:
        """The network with each weight at its entry, and back again."""
        before = {name: net.get_parameter(name).data for name in self._books}
        for name, weights in before.items():
            flat = torch.zeros(weights.numel())
            flat[self._places[name]] = self._books[name][self._index(name, weights)]
            net.get_parameter(name).data = flat.view_as(weights)
        try:
            yield
        finally:
            for name, weights in before.items():
                net.get_parameter(name).data = weights

    def settled(self, net: nn.Module) -> Shared:
        """Assignments are final; the network's weights become their entries."""
        index = {name: self._index(name, net.get_parameter(name).detach()) for name in self._books}
        with torch.no_grad():
            for name, chosen in index.items():
                flat = torch.zeros(net.get_parameter(name).numel())
                flat[self._places[name]] = self._books[name][chosen]
                net.get_parameter(name).copy_(flat.view_as(net.get_parameter(name)))
        empty = {name: torch.empty(0, dtype=torch.int64) for name in self._places if name not in index}
        places = {name: self._places[name] for name in (*index, *empty)}
        return Shared(places, index | empty)

    def _index(self, name: str, weights: Tensor) -> Tensor:
        values, book, cost = weights.reshape(-1)[self._places[name]], self._books[name], self._costs[name]
        if bool(cost.any()):
            # Nearest by distance + cost: between neighbours in rising order the border moves away from the dearer.
            return ((values[:, None] - book) ** 2 + cost).argmin(1)
        return torch.bucketize(values, (book[1:] + book[:-1]) / 2)


def _entries(index: Tensor) -> int:
    return int(index.max()) + 1 if len(index) else 0
