"""One training loop for every recipe: one process or many, interrupted or not.

Device, precision and processes come from `accelerate`: under ``accelerate launch -m bioface train ...`` or ``torchrun``
each process has its share of every batch. Batch norm then looks at the faces of all graphics processors (torch's
``SyncBatchNorm``); processes without one look at their own share, and train a little differently from a single one. A
batch is a function of seed and step alone, so that a run taken up from a checkpoint sees the faces it would have seen.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast
from torch import Tensor, nn
from tqdm import tqdm

from bioface import losses, objective, weights
from bioface.arrays import torch_as_it_starts
from bioface.datasets.nfe import Faces
from bioface.diagnosis import Diagnosis, diagnose
from bioface.errors import BiofaceError
from bioface.network import BioFaceNet
from bioface.objective import Batch
from bioface.recipes import RECIPES, Recipe, get

__all__ = ["RECIPES", "Diagnosis", "Diverged", "History", "build", "diagnose", "learning_rate", "train"]

LOSSES = losses.Weights._fields
_SUMMED = (*(f"{name} loss" for name in LOSSES), "gradient norm")  # over all processes, at each step


class Diverged(BiofaceError):
    """NaN or infinity in training; the message names where it came from."""


@dataclass(frozen=True)
class History:
    """What happened in a run; every array has an entry for each step."""

    losses: dict[str, np.ndarray]  #: before each step, with their weights: {name: (steps,)}
    gradient_norm: np.ndarray  #: (steps,) Euclidean norm of the gradient of all weights
    learning_rate: np.ndarray  #: (steps,)
    seconds: float = 0.0  #: of the steps of this call

    def __len__(self) -> int:
        return len(self.gradient_norm)

    @property
    def total(self) -> np.ndarray:
        """(steps,) sum of the losses."""
        return np.sum([self.losses[name] for name in LOSSES], axis=0)


def build(recipe: str | Recipe, width: int = 32, seed: int = 0) -> BioFaceNet:
    """A network with random weights for a recipe; the weights depend on width and seed alone.

    >>> network = build("working", width=2, seed=3)
    >>> network.width
    2
    """
    recipe = get(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BioFaceNet(width, recipe.shading)
    if recipe.start == "skin":
        for decoder in (model.melanin, model.haemoglobin, model.diffuse, model.specular):
            decoder.last.weight.data.mul_(0.1)
            decoder.last.get_parameter("bias").data.zero_()
        # relu has no slope below 0, so highlights start above it
        model.specular.last.get_parameter("bias").data.fill_(-2.0 if recipe.shading == "exp" else 0.1)
        model.diffuse.last.get_parameter("bias").data.fill_(0.0 if recipe.shading == "exp" else 1.0)
    return model


@torch_as_it_starts()
def train(
    model: BioFaceNet,
    dataset: Any,
    recipe: str | Recipe,
    steps: int,
    batch_size: int | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
    progress: bool = True,
) -> History:
    """Train a network in place.

    Parameters
    ----------
    model : changed in place; left in evaluation mode, on the device where it was, when training ends well
    dataset : a :class:`~bioface.objective.Batch`, or faces that can be indexed by row numbers: ``nfe.Faces``, or a
        stream of ``nfe.open_split``, of which only the rows of a step are in memory
    recipe : a recipe or its name
    steps : how many, from the beginning of the run
    batch_size : faces a step, over all processes; None is all of them
    seed : of the order of the faces
    checkpoint : file to save to, and to go on from when it is there
    checkpoint_every : steps between two checkpoints; there is one after the last step
    progress : show a bar

    Returns
    -------
    the history from the first step on, also of the steps before the checkpoint

    Raises
    ------
    BiofaceError : an unknown recipe; a batch that is larger than the data set or not shared out evenly among the
        processes; bad faces, see :class:`~bioface.objective.Batch`
    DataError : a checkpoint of another run, or one that cannot be read or written
    Diverged : NaN or infinity, with the culprit; the last checkpoint stays
    """
    recipe = get(recipe)
    for name, value in {"steps": steps, "checkpoint_every": checkpoint_every, "seed": seed}.items():
        least = 0 if name == "seed" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise BiofaceError(f"expected {name} of at least {least}, found {value!r}")
    home, accelerator = next(model.parameters()).device, _processes(model, recipe)
    model.to(accelerator.device)  # accelerate leaves one that it has seen before where it is
    feed = _Feed(dataset, batch_size, seed, accelerator)
    optimiser = objective.make_optimiser(model.parameters(), recipe)
    run = _description(model, feed, recipe, steps)
    record = np.full((steps, len(_SUMMED)), np.nan)
    first = weights.restore_checkpoint(Path(checkpoint), model, optimiser, run, record) if checkpoint is not None else 0
    net, stepper = accelerator.prepare(model, optimiser)
    model.train(recipe.batch_norm == "train")

    is_silent = not (progress and accelerator.is_main_process)
    bar = tqdm(range(first, steps), recipe.name, total=steps, initial=first, unit="step", disable=is_silent)
    began = time.perf_counter()
    for step in bar:
        batch = feed(step)
        for group in stepper.param_groups:
            group["lr"] = learning_rate(recipe, step, steps)
        said = net(batch.image)
        _check(said._asdict(), f"step {step} of {recipe.name}: the network's")
        rendered, maps = objective.decode(said, batch, recipe)
        count = accelerator.reduce(batch.mask.sum().float(), "mean")
        terms = objective.loss_terms(rendered, maps, batch, recipe, count)
        stepper.zero_grad()
        accelerator.backward(sum(terms.values()))
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        values = accelerator.reduce(torch.stack([*(terms[name].detach() for name in LOSSES), norm]), "mean").cpu()
        _check(dict(zip(_SUMMED, values, strict=True)), f"step {step} of {recipe.name}: the")
        record[step] = values
        stepper.step()
        if checkpoint is not None and (step + 1 == steps or (step + 1) % checkpoint_every == 0):
            if accelerator.is_main_process:
                weights.save_checkpoint(Path(checkpoint), model, optimiser, run, record[: step + 1])
            accelerator.wait_for_everyone()
        bar.set_postfix(loss=f"{float(values[:-1].sum()):.3g}", refresh=False)
    seconds = time.perf_counter() - began
    broadcast(list(model.buffers()))  # where each process has statistics of its own, those of the first
    accelerator.unwrap_model(net, keep_fp32_wrapper=False).eval().to(home)
    rates = np.array([learning_rate(recipe, step, steps) for step in range(steps)])
    return History(dict(zip(LOSSES, record.T, strict=False)), record[:, -1], rates, seconds)


def _processes(model: nn.Module, recipe: Recipe) -> Accelerator:
    # then nothing reaches the decoder of the diffuse shading, or those of the pigments
    unused = recipe.copy_shading is not None or recipe.decoder == "rounded index"
    # accelerate takes processes without a graphics processor for a group only when it is told
    cpu = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available()
    accelerator = Accelerator(cpu=cpu, kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=unused)])
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":  # torch has it for these alone
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return accelerator


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The rate at a step of a run of ``steps``: constant, or falling to 0 along half a cosine.

    >>> learning_rate(get("paper_literal"), 10, 100)
    1e-05
    """
    if recipe.schedule == "constant":
        return recipe.learning_rate
    return recipe.learning_rate * 0.5 * (1 + float(np.cos(np.pi * step / steps)))


def rows_of_step(step: int, faces: int, batch_size: int, seed: int) -> np.ndarray:
    """Which of so many faces a step sees, (batch_size,) in ascending order: a function of seed and step alone."""
    epoch, place = divmod(step, faces // batch_size)  # what is left over at the end waits for the next
    order = np.random.default_rng((seed, epoch)).permutation(faces)
    return np.sort(order[place * batch_size : (place + 1) * batch_size])


class _Feed:
    """Which faces a step sees, on this process: a function of seed and step alone."""

    def __init__(self, dataset: Any, batch_size: int | None, seed: int, accelerator: Accelerator):
        self.dataset = Batch.of(dataset) if isinstance(dataset, Batch | Faces) else dataset
        self.faces, self.seed, self.accelerator = len(dataset), seed, accelerator
        self.batch_size, processes = batch_size if batch_size is not None else self.faces, accelerator.num_processes
        if not 1 <= self.batch_size <= self.faces:
            raise BiofaceError(f"expected a batch of 1 to {self.faces} faces, found {self.batch_size}")
        if self.batch_size % processes:
            raise BiofaceError(f"expected a batch that {processes} processes share, found {self.batch_size}")
        self.seen: Batch | None = None

    def __call__(self, step: int) -> Batch:
        if self.seen is None or self.batch_size < self.faces:  # else every step sees the same
            rows = rows_of_step(step, self.faces, self.batch_size, self.seed)
            own = rows[self.accelerator.process_index :: self.accelerator.num_processes]
            self.seen = Batch.of(self.dataset[own]).to(self.accelerator.device)
        return self.seen


def _check(values: Mapping[str, Tensor], where: str) -> None:
    """Raise :class:`Diverged`, with the name of the first value that is not finite."""
    for name, value in values.items():
        if not bool(torch.isfinite(value).all()):
            raise Diverged(f"{where} {name} is not finite; the weights are unchanged")


def _description(model: BioFaceNet, feed: _Feed, recipe: Recipe, steps: int) -> dict[str, Any]:
    """What a run must have in common with the one that wrote its checkpoint, as JSON gives it back."""
    run = {f"recipe {name}": value for name, value in dataclasses.asdict(recipe).items()}
    run |= {f"network {name}": value for name, value in model.config().items()}
    run |= {"faces": feed.faces, "batch_size": feed.batch_size, "seed": feed.seed}
    run["steps"] = steps if recipe.schedule == "cosine" else "any"
    return json.loads(json.dumps(run))
