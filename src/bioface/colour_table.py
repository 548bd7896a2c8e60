"""A function of colour, tabulated where a photo has colours and looked up: a photo of any size costs little more."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bioface import image_formation, pictures, threads

STEPS = (0.075, 0.09, 0.18)  # of the table: log R/G, log B/G, mean log RGB: errors a tenth of the deviations
FEW = 512  # colours, for which there is no table
MOST_POINTS = 40_000  # of it; with more colours its steps become wider
DARKEST = 5e-4  # linear RGB that is taken for the least


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


def looked_up(colours: Tensor, function: Callable[[Tensor], Tensor], scale: float = 1.0) -> Tensor:
    """A function (n, C) of colours (n, 3), of many by way of a table.

    The table has the values at the corners of every cell of a grid in log RGB with some of the colours, and is linear
    in between. ``scale`` : of its steps, as shares of the usual ones
    """
    if len(colours) <= FEW:
        return function(colours)

    def place(some: Tensor) -> Tensor:
        return some.clamp_min(DARKEST).log() @ _TURN.T / (scale * torch.tensor(STEPS))

    cells = place(colours).floor().int()
    low, high = cells.amin(0), cells.amax(0)
    shape = (high - low + 2).long()
    stride = torch.stack([shape[1] * shape[2], shape[2], torch.ones_like(shape[0])])
    used = torch.zeros(int(shape.prod()), dtype=torch.bool)
    used[(cells - low).long() @ stride] = True
    points = (used.nonzero() + _CORNERS @ stride).unique()
    if len(points) > MOST_POINTS:
        return looked_up(colours, function, 1.5 * scale)
    row = torch.zeros(len(used), dtype=torch.int32)
    row[points] = torch.arange(len(points), dtype=torch.int32)
    at = torch.stack([points // stride[0], points // stride[1] % shape[1], points % shape[2]], -1) + low
    values = function((at * scale * torch.tensor(STEPS) @ torch.linalg.inv(_TURN).T).exp())

    def between(some: Tensor) -> Tensor:
        where = place(some) - low
        corner = where.floor()
        share = (where - corner)[:, None]
        index = (corner.long() @ stride)[:, None] + _CORNERS @ stride
        weight = torch.where(_CORNERS == 1, share, 1 - share).prod(-1)
        return torch.nn.functional.embedding_bag(row[index], values, per_sample_weights=weight, mode="sum")

    found = torch.empty(len(colours), values.shape[1])  # a list to join would take its memory twice
    strips = found.split(pictures.STRIP), threads.blocks(between, colours.split(pictures.STRIP))
    for strip, of_strip in zip(*strips, strict=True):
        strip[:] = of_strip
    return found
