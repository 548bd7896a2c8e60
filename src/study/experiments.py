"""Many short trainings side by side, each kept: what the ladders and grids of the notebooks are made of.

A run is a function of recipe, width, seed, steps and faces. It takes one thread, so that its numbers do not depend
on how many there are, and as many runs go on at once as there are processors; a graphics processor trains them where
there is one. What a run gave is kept, see :mod:`study.cache`.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from bioface import losses, metrics, objective, threads, training
from bioface.datasets.twin import Truth
from bioface.network import BioFaceNet, Output
from bioface.objective import Batch
from bioface.recipes import Recipe
from study import augmentation, cache


@dataclass(frozen=True)
class Run:
    """What one training gave. Images are linear RGB (B, H, W, 3); maps (B, H, W) as the network says them."""

    start: np.ndarray  #: before the first step
    image: np.ndarray  #: after the last step, as in training (batch norm sees the faces)
    image_eval: np.ndarray  #: the same in evaluation mode (batch norm with its running statistics)
    output: Output  #: what made ``image``; melanin and haemoglobin in table coordinates
    history: training.History


def run(batch: Batch, recipe: Recipe, width: int = 8, seed: int = 0, steps: int = 60) -> Run:
    """Train one network on all faces of a batch at once, on one thread.

    Raises
    ------
    Diverged : see :func:`bioface.training.train`
    """
    with threads.number(1):
        model = training.build(recipe, width, seed)
        mode = recipe.batch_norm == "train"
        start, _ = _look(model.train(mode), batch, recipe)
        model = training.build(recipe, width, seed)  # again: looking moved the running statistics
        history = training.train(model, batch, recipe, steps, seed=seed, progress=False)
        image_eval, _ = _look(model.eval(), batch, recipe)
        image, output = _look(model.train(mode), batch, recipe)
    return Run(start, image, image_eval, output, history)


@torch.no_grad()
def _look(model: torch.nn.Module, batch: Batch, recipe: Recipe) -> tuple[np.ndarray, Output]:
    image, output = objective.decode(model(batch.image), batch, recipe)
    return image.numpy(), output


@dataclass(frozen=True)
class Plan:
    """Every one of some recipes with every seed on one batch, whose faces are overfitted."""

    batch: Batch
    recipes: Sequence[Recipe]  #: with names that differ
    seeds: Sequence[int] = (0,)  #: of the networks' first weights
    width: int = 8  #: of the networks
    steps: int = 60  #: of each run


def run_all(*plans: Plan) -> dict[str, list[Run]]:
    """Every run of some plans, kept or run now: {name of the recipe: its runs, in the order of the seeds}.

    What is not kept yet runs together, so that no processor waits; see :func:`study.cache.side_by_side`.
    """
    # by the name of the recipe, as study.cache.kept takes them
    calls: dict[str, list[tuple[Any, ...]]] = {}
    for plan in plans:
        batch, width, steps = plan.batch, plan.width, plan.steps
        faces = batch.image, batch.mask, batch.normals, batch.lighting, *(batch.truth or ())
        values = [None if value is None else value.numpy() for value in faces]
        for recipe in plan.recipes:
            # not the names of faces and recipe
            made_of = values, dataclasses.astuple(recipe)[1:], width, steps
            calls[recipe.name] = [(run, (batch, recipe, width, s, steps), (*made_of, s)) for s in plan.seeds]
    todo = cache.missing(itertools.chain(*calls.values()))
    todo.sort(key=lambda call: -len(call[1][0]) * call[1][4])  # the longest first: none is left alone at the end
    cache.side_by_side(cache.kept, todo)
    return {name: [cache.kept(*call) for call in of_recipe] for name, of_recipe in calls.items()}


def reconstruction(image: np.ndarray, batch: Batch) -> float:
    """Root-mean-square error in linear RGB inside the mask, mean over the faces."""
    return float(metrics.rmse(torch.from_numpy(image), batch.image, batch.mask).mean())


def constant_colour(batch: Batch) -> np.ndarray:
    """(B, H, W, 3) every face in its own mean colour: what a network that says nothing can reach."""
    return augmentation.mean_colour(batch.image, batch.mask)[:, None, None].expand_as(batch.image).numpy()


def scores(found: Run, batch: Batch, truth: Truth | None = None) -> dict[str, float]:
    """How good the image is and, where the truth is known, each map; means over the faces.

    Returns
    -------
    ``rmse`` and ``luminance`` (correlation; NaN where it is constant) of the image; for melanin, haemoglobin (volume
    fractions) and specular shading the RMSE and the correlation inside the face, for the diffuse shading both after
    the best scale
    """
    grey = torch.from_numpy(found.image) @ torch.tensor(objective.LUMINANCE)
    together = metrics.correlation(grey, batch.luminance(), batch.mask)
    result = {"rmse": reconstruction(found.image, batch), "luminance": float(together.mean())}
    if truth is None:
        return result
    maps = {
        "melanin": (found.output.melanin_fraction, truth.melanin),
        "haemoglobin": (found.output.haemoglobin_fraction, truth.haemoglobin),
        "diffuse": (found.output.diffuse, truth.diffuse_shading),
        "specular": (found.output.specular, truth.specular_shading),
    }
    for name, (ours, true) in maps.items():
        error = metrics.scale_aligned_rmse if name == "diffuse" else metrics.rmse
        result[name] = float(error(ours, torch.from_numpy(true), batch.mask).mean())
        together = metrics.correlation(ours, torch.from_numpy(true), batch.mask)
        result[f"{name}_correlation"] = float(together.nan_to_num().mean())  # a flat map follows nothing
    return result


def summary(runs: dict[str, list[Run]], batch: Batch, truth: Truth | None = None) -> dict[str, dict[str, np.ndarray]]:
    """:func:`scores` of every run: {name of the recipe: {score: (seeds,)}}, with the RMSE at the ``start``."""
    table = {}
    for name, of_recipe in runs.items():
        rows = [scores(found, batch, truth) | {"start": reconstruction(found.start, batch)} for found in of_recipe]
        table[name] = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    return table


def displacement(batch: Batch, recipe: Recipe, steps: int, width: int = 8, seed: int = 0) -> float:
    """How far the weights go from where they start in some steps: Euclidean norm, in double precision."""
    exact = dataclasses.replace(batch, image=batch.image.double())
    first, last = _weights(training.build(recipe, width, seed).double(), exact, recipe, steps, seed)
    return float((last - first).square().sum().sqrt())


def moved_share(batch: Batch, recipe: Recipe, width: int = 8, seed: int = 0) -> float:
    """Share of the weights that the first step changes at all: in single precision a small step rounds to none."""
    first, last = _weights(training.build(recipe, width, seed), batch, recipe, 1, seed)
    return float((last != first).double().mean())


def _weights(model: BioFaceNet, batch: Batch, recipe: Recipe, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """All weights in a row, before and after some steps."""
    first = parameters_to_vector(model.parameters()).detach()
    training.train(model, batch, recipe, steps, seed=seed, progress=False)
    return first, parameters_to_vector(model.parameters()).detach()


def step_size_ratio(of: Recipe, to: Recipe, batch: Batch, steps: int) -> float:
    """How much larger the steps of one recipe of plain SGD are than another's, by arithmetic alone.

    Learning rate × colour scale² × reduction × what momentum adds up to over ``steps`` steps of one gradient. The
    appearance loss alone counts, which dwarfs the others.
    """

    def size(recipe: Recipe) -> float:
        pixels = float(batch.mask.sum()) / len(batch)
        area = recipe.batch * pixels / losses.CODE_AREA if recipe.reduction != "mean" else 1.0
        gain = np.mean([(1 - recipe.momentum**k) / (1 - recipe.momentum) for k in range(1, steps + 1)])
        return recipe.learning_rate * recipe.scale**2 * area * float(gain)

    return size(of) / size(to)
