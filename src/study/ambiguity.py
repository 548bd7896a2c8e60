"""How bright skin is, or its light: what the paper's losses leave open between the two.

A colour is c = i_d a + i_s w. Multiply i_d by k and divide the albedo a by it: the photo is the same, as long as some
skin has that albedo, and the paper's shading loss, after the best scale for each face, sees nothing.
"""

import numpy as np
import torch
from torch import Tensor

from bioface import illumination, objective, recipes
from bioface.network import Output
from study import augmentation

RECIPE = recipes.PUBLISHED_LOSSES


def minimised(batch: objective.Batch, start: int | float, steps: int = 800) -> np.ndarray:
    """Where the paper's losses end when the maps themselves are what is minimised over, without a network.

    Maps, camera and light are scaled as the network's outputs are and start at mean skin under a mean camera and
    daylight, with the pattern of the stored shading at a mean of 2 to the ``start`` times the truth.

    Parameters
    ----------
    batch : N faces with their truth, normals and lights
    start : octaves by which the mean shading of each face is off at first
    steps : of Adam, the rate falling from 0.1 to 0 along half a cosine

    Returns
    -------
    (N,) octaves by which the mean shading is off in the end
    """
    true, target = batch.truth, objective.shading_target(batch, RECIPE)
    assert true is not None and target is not None  # as the twin's faces have

    def mean(value: Tensor) -> Tensor:
        return augmentation.mean_colour(value[..., None], batch.mask)[:, 0]

    pattern = target.clamp_min(0.02)
    shading = pattern * (mean(true.diffuse) / mean(pattern) * 2**start)[:, None, None]
    n, low, high = len(batch), *illumination.CCT_RANGE
    zeros = torch.zeros_like(shading)
    daylight = zeros.new_tensor([0.0, 2.0, *[0.0] * 12]).expand(n, 14)
    mean_skin = [zeros + float(g[batch.mask].mean().atanh()) for g in (true.melanin, true.haemoglobin)]
    raw = [*mean_skin, shading.log(), zeros - 4, zeros[:, 0, :2], daylight, zeros[:, 0, 0] - 2]
    raw = [value.clone().requires_grad_() for value in raw]
    optimiser = torch.optim.Adam(raw, lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)

    def decoded() -> tuple[Tensor, Output]:
        g, k, diffuse, specular, b, weights, t = raw
        maps = g.tanh(), k.tanh(), diffuse.exp(), specular.exp()
        said = Output(*maps, 3 * b.tanh(), weights.softmax(1), low + (high - low) * t.sigmoid())
        return objective.decode(said, batch, RECIPE)

    for _ in range(steps):
        optimiser.zero_grad()
        terms = objective.loss_terms(*decoded(), batch, RECIPE)
        sum(terms.values(), start=zeros.new_zeros(())).backward()
        optimiser.step()
        schedule.step()
    _, said = decoded()
    off = (mean(said.diffuse) / mean(true.diffuse)).log2()
    return np.asarray(off.detach().numpy())
