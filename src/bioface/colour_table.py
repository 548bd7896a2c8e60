"""A function of colour, tabulated where a photo has colours and looked up: a photo of any size costs little more."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bioface import image_formation, pictures, threads

STEPS = (0.075, 0.09, 0.18)  # of the table: log R/G, log B/G, mean log RGB: errors a tenth of the deviations
FEW = 512  # colours, for which there is no table
MOST_POINTS = 40_000  # of it; with more colours its steps become wider
DARKEST = 5e-4  # linear RGB that is taken for the least


def looked_up(colours: Tensor, function: Callable[[Tensor], Tensor], scale: float = 1.0) -> Tensor:
    """A function (n, C) of colours (n, 3), of many by way of a table, whose steps are so many times the usual ones."""
    if len(colours) <= FEW:
        return function(colours)
    table = Table.of(colours, function, scale)
    found = torch.empty(len(colours), table.values.shape[1])  # a list to join would take its memory twice
    strips = found.split(pictures.STRIP), threads.blocks(table, colours.split(pictures.STRIP))
    for strip, values in zip(*strips, strict=True):
        strip[:] = values
    return found


def straightened(colours: np.ndarray, tone: float) -> tuple[np.ndarray, np.ndarray]:
    """Linear RGB float32 as it was before a tone curve of that strength (:func:`bioface.degradation.tone_curve`).

    With how fast that grows with the given colours, 0.001 to 1, in both.
    """
    if tone == 0:
        return colours, np.ones_like(colours)
    display = np.linspace(0, 1, 4096)
    before, after = image_formation.srgb_decode(np.stack([display, display - tone * np.sin(2 * math.pi * display)]))
    inside = colours.clip(0, 1)
    straight, slope = (np.interp(inside, after, v) for v in (before, np.gradient(before, after)))
    return (straight + colours - inside).astype(np.float32), slope.astype(np.float32)


# of log RGB; brightness last, so that points side by side have much the same hue
_TURN = torch.tensor([[1.0, -1.0, 0.0], [0.0, -1.0, 1.0], [1 / 3, 1 / 3, 1 / 3]], device="cpu")
_CORNERS = torch.cartesian_prod(*[torch.arange(2, device="cpu")] * 3)


@dataclass(frozen=True)
class Table:
    """Values of a function of colour where a photo has colours, linear between the points of a grid in log RGB.

    low, shape : (3,) first point and number of points; row : of ``values``, for every point; scale : of the steps
    """

    low: Tensor
    shape: Tensor
    row: Tensor
    values: Tensor
    scale: float

    @classmethod
    def of(cls, colours: Tensor, function: Callable[[Tensor], Tensor], scale: float = 1.0) -> Table:
        """Of a function (n, C) of colours (n, 3), at the corners of every cell of the grid with some of the colours."""
        cells = _place(colours, scale).floor().int()
        low, high = cells.amin(0), cells.amax(0)
        shape = (high - low + 2).long()
        stride = _stride(shape)
        used = torch.zeros(int(shape.prod()), dtype=torch.bool)
        used[(cells - low).long() @ stride] = True
        first = used.nonzero()[:, 0]
        for corner in _CORNERS:
            used[first + corner @ stride] = True
        points = used.nonzero()[:, 0]
        if len(points) > MOST_POINTS:
            return cls.of(colours, function, 1.5 * scale)
        row = torch.zeros(len(used), dtype=torch.int32)
        row[points] = torch.arange(len(points), dtype=torch.int32)
        at = torch.stack([points // stride[0], points // stride[1] % shape[1], points % shape[2]], -1) + low
        logs = at * scale * torch.tensor(STEPS) @ torch.linalg.inv(_TURN).T
        return cls(low, shape, row, function(logs.exp()), scale)

    def __call__(self, colours: Tensor) -> Tensor:
        """(n, C) of colours (n, 3)."""
        place = _place(colours, self.scale) - self.low
        first = place.floor()
        share = (place - first)[:, None]
        index = (first.long() @ _stride(self.shape))[:, None] + _CORNERS @ _stride(self.shape)
        weight = torch.where(_CORNERS == 1, share, 1 - share).prod(-1)
        return torch.nn.functional.embedding_bag(self.row[index], self.values, per_sample_weights=weight, mode="sum")


def _place(colours: Tensor, scale: float) -> Tensor:
    return colours.clamp_min(DARKEST).log() @ _TURN.T / (scale * torch.tensor(STEPS))


def _stride(shape: Tensor) -> Tensor:
    return torch.stack([shape[1] * shape[2], shape[2], torch.ones_like(shape[0])])
