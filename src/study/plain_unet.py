"""A U-Net of the size of BioFaceNet that knows of no skin, camera or light: what the model inside is worth.

The encoder, the decoders, the faces and their order, the recolouring and the steps are those of the network that is
supervised by true maps. What differs: a fifth decoder for the albedo takes the place of the branch for camera and
light, every output is a plain number that may be anything, and nothing ties albedo, pigments and photo to one another.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from bioface import losses, network, objective, skin, training
from bioface.bayes import mean_camera_d65
from bioface.maps import Decomposition
from bioface.network import BioFaceNet
from bioface.recipes import Recipe


class Maps(NamedTuple):
    """What it says of a batch: pigments in table coordinates and shadings (B, H, W), albedo (B, H, W, 3) linear RGB."""

    melanin: Tensor
    haemoglobin: Tensor
    diffuse: Tensor
    specular: Tensor
    albedo: Tensor


class PlainUNet(BioFaceNet):
    """BioFaceNet, with a decoder for the albedo instead of camera and light: 2 % fewer weights."""

    def __init__(self, width: int = 8):
        super().__init__(width)
        self.albedo = network.Decoder([width * 2**level for level in range(network.LEVELS)], 3)
        del self.vector

    def forward(self, image: Float[Tensor, "B H W 3"]) -> Maps:  # type: ignore[override]
        """The maps of linear RGB images (B, H, W, 3); errors as of BioFaceNet."""
        features = self.encode(image)
        decoders = self.melanin, self.haemoglobin, self.diffuse, self.specular
        m, h, diffuse, specular = (decoder(*features) for decoder in decoders)
        return Maps(m, h, diffuse, specular, self.albedo(*features).movedim(1, -1))


def build(recipe: Recipe, width: int, seed: int) -> PlainUNet:
    """With random weights, which depend on width and seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PlainUNet(width)


def train(
    model: PlainUNet, faces: Any, recipe: Recipe, steps: int, batch_size: int, seed: int, progress: bool = False
) -> None:
    """Train in place on the faces of :func:`bioface.training.train`, by squared errors."""
    optimiser = objective.make_optimiser(model.parameters(), recipe)
    model.train()
    for step in tqdm(range(steps), f"{recipe.name}, no skin model", unit="step", disable=not progress):
        batch = faces[training.rows_of_step(step, len(faces), batch_size, seed)]
        for group in optimiser.param_groups:
            group["lr"] = training.learning_rate(recipe, step, steps)
        errors = _squared_errors(model(batch.image), batch, recipe)
        optimiser.zero_grad()
        losses.reduce(errors, batch.mask, recipe.reduction).backward()
        optimiser.step()
    model.eval()


def _squared_errors(said: Maps, batch: objective.Batch, recipe: Recipe) -> Tensor:
    """(B, H, W) Σ share · (said − true)²."""
    assert batch.truth is not None  # as recoloured faces have
    colours = (said.albedo - objective.albedo(batch.truth, recipe)).square().sum(-1)
    maps = [(a - b).square() for a, b in zip(said[:4], batch.truth[:4], strict=True)]
    return sum((s * e for s, e in zip(losses.Shares(), (*maps, colours), strict=False)), start=torch.zeros(()))


def decomposition(said: Maps, image: Any, mask: Any) -> Decomposition:
    """What it said of photos, with pigments cut to their range; a mean camera and D65 stand for what it knows not."""
    tops = skin.MELANIN_RANGE[1], skin.HAEMOGLOBIN_RANGE[1]
    m, h = (skin.table_fraction(g.clamp(-1, 1), top).numpy() for g, top in zip(said[:2], tops, strict=True))
    made = said.diffuse[..., None] * said.albedo + said.specular[..., None]  # white is (1, 1, 1)
    diffuse, specular, albedo, made = (v.numpy() for v in (said.diffuse, said.specular, said.albedo, made))
    photo = np.asarray(image, np.float32), np.asarray(mask, bool)
    return Decomposition(m, h, diffuse, specular, albedo, made, *photo, *mean_camera_d65(len(image)))
