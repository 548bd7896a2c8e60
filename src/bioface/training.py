"""One training loop for every recipe: one process or many, interrupted or not.

Device, precision and processes come from `accelerate`: ``accelerate launch -m bioface train ...`` or ``torchrun``
run this same code on several of them, each with its share of every batch. A batch is a function of seed and step
alone, so that a run taken up from a checkpoint sees the faces that an undisturbed one would have seen.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor
from tqdm import tqdm

from bioface import losses, objective, paths
from bioface.datasets.nfe import Faces
from bioface.diagnosis import Diagnosis, diagnose
from bioface.errors import BiofaceError, DataError
from bioface.network import FLOATS, BioFaceNet, read_safetensors
from bioface.objective import Batch
from bioface.recipes import RECIPES, Recipe, get

__all__ = ["RECIPES", "Diagnosis", "Diverged", "History", "build", "diagnose", "learning_rate", "train"]

CHECKPOINT = "BioFaceNet checkpoint"
LOSSES = losses.Weights._fields
_COLUMNS = (*LOSSES, "gradient_norm", "output_change")


class Diverged(BiofaceError):
    """NaN or infinity in training; the message names where it came from."""


@dataclass(frozen=True)
class History:
    """What happened in a run; every array has an entry for each step.

    Attributes
    ----------
    losses : the losses before each step, with their weights: {name: (steps,)}
    gradient_norm : (steps,) Euclidean norm of the gradient of all weights
    output_change : (steps,) root-mean-square change of the decoded image, in linear RGB over the foreground, that
        the step made; NaN where it was not measured
    learning_rate : (steps,)
    seconds : of the steps of this call, without the look at the image that the last one made
    """

    losses: dict[str, np.ndarray]
    gradient_norm: np.ndarray
    output_change: np.ndarray
    learning_rate: np.ndarray
    seconds: float = 0.0

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


def train(
    model: BioFaceNet,
    dataset: Any,
    recipe: str | Recipe,
    steps: int,
    batch_size: int | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
    probe_every: int = 50,
    progress: bool = True,
) -> History:
    """Train a network in place.

    Parameters
    ----------
    model : changed in place; left in evaluation mode
    dataset : a :class:`~bioface.objective.Batch`, or faces that can be indexed by row numbers: ``nfe.Faces``, or a
        stream of ``nfe.open_split``, of which only the rows of a step are in memory
    recipe : a recipe or its name
    steps : how many, from the beginning of the run
    batch_size : faces a step, over all processes; None is all of them
    seed : of the order of the faces
    checkpoint : file to save to, and to go on from when it is there
    checkpoint_every : steps between two checkpoints; there is one after the last step
    probe_every : with small batches, how often ``output_change`` is measured; it takes a second look at the same
        faces. When a batch is all faces every step is measured, at no cost
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
    for name, value in (("steps", steps), ("checkpoint_every", checkpoint_every), ("probe_every", probe_every)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BiofaceError(f"expected {name} of at least 1, found {value!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise BiofaceError(f"expected a seed of at least 0, found {seed!r}")
    # then nothing reaches the decoder of the diffuse shading, or those of the pigments
    unused = recipe.copy_shading is not None or recipe.decoder == "rounded index"
    # accelerate takes processes without a graphics processor for a group only when it is told
    cpu = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available()
    accelerator = Accelerator(cpu=cpu, kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=unused)])
    feed = _Feed(dataset, batch_size, seed, accelerator)
    optimiser = objective.make_optimiser(model.parameters(), recipe)
    run = {
        "recipe": json.loads(json.dumps(dataclasses.asdict(recipe))),
        "config": model.config(),
        "faces": feed.faces,
        "batch_size": feed.batch_size,
        "seed": seed,
        "steps": steps if recipe.schedule == "cosine" else "any",
    }
    record = np.full((steps, len(_COLUMNS)), np.nan)
    first = _restore(Path(checkpoint), model, optimiser, run, record) if checkpoint is not None else 0
    net, stepper = accelerator.prepare(model, optimiser)
    model.train(recipe.batch_norm == "train")

    bar = tqdm(
        range(first, steps),
        recipe.name,
        total=steps,
        initial=first,
        unit="step",
        disable=not (progress and accelerator.is_main_process),
    )
    began, seconds, previous = time.perf_counter(), 0.0, None
    for step in bar:
        batch = feed(step)
        for group in stepper.param_groups:
            group["lr"] = learning_rate(recipe, step, steps)
        said = net(batch.image)
        if not all(bool(torch.isfinite(value).all()) for value in said):
            raise Diverged(f"step {step} of {recipe.name}: {_culprit(model, said, {})}; the weights are unchanged")
        rendered, maps = objective.decode(said, batch, recipe)
        count = accelerator.reduce(batch.mask.sum().float(), "mean")
        terms = objective.loss_terms(rendered, maps, batch, recipe, count)
        stepper.zero_grad()
        accelerator.backward(sum(terms.values()))
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        values = torch.stack([*(terms[name].detach() for name in LOSSES), norm])
        values = accelerator.reduce(values, "mean").tolist()
        record[step, :-1] = values
        if not np.isfinite(values).all():
            raise Diverged(f"step {step} of {recipe.name}: {_culprit(model, said, terms)}; the weights are unchanged")
        stepper.step()
        if feed.is_whole:  # the same faces again: the last step shows in this step's image
            if previous is not None:
                record[step - 1, -1] = _change(rendered, previous, batch, count, accelerator)
            previous = rendered.detach()
        if step == steps - 1:
            seconds = time.perf_counter() - began
        if step == steps - 1 or (not feed.is_whole and step % probe_every == 0):
            record[step, -1] = _change(_look_again(net, batch, recipe), rendered, batch, count, accelerator)
        if checkpoint is not None and ((step + 1) % checkpoint_every == 0 or step + 1 == steps):
            if accelerator.is_main_process:
                _save(Path(checkpoint), model, optimiser, run, record[: step + 1])
            accelerator.wait_for_everyone()
        bar.set_postfix(loss=f"{sum(values[:-1]):.3g}", refresh=False)
    accelerator.unwrap_model(net, keep_fp32_wrapper=False).eval()
    columns = dict(zip(_COLUMNS, record.T, strict=True))
    rates = np.array([learning_rate(recipe, step, steps) for step in range(steps)])
    terms = {name: columns[name] for name in LOSSES}
    return History(terms, columns["gradient_norm"], columns["output_change"], rates, seconds)


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The rate at a step of a run of ``steps``: constant, or falling to 0 along half a cosine.

    >>> learning_rate(get("paper_literal"), 10, 100)
    1e-05
    """
    if recipe.schedule == "constant":
        return recipe.learning_rate
    return recipe.learning_rate * 0.5 * (1 + float(np.cos(np.pi * step / steps)))


class _Feed:
    """Which faces a step sees, on this process: a function of seed and step alone."""

    def __init__(self, dataset: Any, batch_size: int | None, seed: int, accelerator: Accelerator):
        whole = isinstance(dataset, Batch | Faces)
        self.dataset = Batch.of(dataset) if whole else dataset
        self.faces = len(dataset)
        self.batch_size = self.faces if batch_size is None else batch_size
        self.rank, self.processes = accelerator.process_index, accelerator.num_processes
        self.seed, self.device = seed, accelerator.device
        if not 1 <= self.batch_size <= self.faces:
            raise BiofaceError(f"expected a batch of 1 to {self.faces} faces, found {self.batch_size}")
        if self.batch_size % self.processes:
            raise BiofaceError(f"expected a batch that {self.processes} processes share, found {self.batch_size}")
        self.is_whole = self.batch_size == self.faces
        self._all = self._take(np.arange(self.faces)) if self.is_whole else None
        self._epoch, self._order = -1, np.arange(0)

    def __call__(self, step: int) -> Batch:
        if self._all is not None:
            return self._all
        epoch, place = divmod(step, self.faces // self.batch_size)  # what is left over at the end waits for the next
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng((self.seed, epoch)).permutation(self.faces)
        return self._take(np.sort(self._order[place * self.batch_size : (place + 1) * self.batch_size]))

    def _take(self, rows: np.ndarray) -> Batch:
        return Batch.of(self.dataset[rows[self.rank :: self.processes]]).to(self.device)


def _change(now: Tensor, before: Tensor, batch: Batch, count: Tensor, accelerator: Accelerator) -> float:
    """Root-mean-square difference of two images over the foreground of all processes."""
    squared = (now.detach() - before.detach()).square().mean(-1)
    return float(accelerator.reduce(squared[batch.mask].sum() / count, "mean").sqrt())


@torch.no_grad()
def _look_again(net: torch.nn.Module, batch: Batch, recipe: Recipe) -> Tensor:
    """The image after a step, without a trace in the running statistics."""
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for m in norms:
        m.track_running_stats = False
    rendered, _ = objective.decode(net(batch.image), batch, recipe)
    for m in norms:
        m.track_running_stats = True
    return rendered


def _culprit(model: BioFaceNet, said: Any, terms: dict[str, Tensor]) -> str:
    """What turned to NaN or infinity first, in the order of the computation."""

    def bad(value: Tensor) -> bool:
        return not bool(torch.isfinite(value.detach()).all())

    for name, value in model.named_parameters():
        if bad(value):
            return f"the weights are not finite, first {name}"
    for name, value in said._asdict().items():
        if bad(value):
            return f"the network's {name} is not finite"
    for name, value in terms.items():
        if bad(value):
            return f"the {name} loss is not finite"
    names = [name for name, p in model.named_parameters() if p.grad is not None and bad(p.grad)]
    return f"the gradient is not finite, first of {names[0] if names else 'another process'}"


# --- checkpoints -------------------------------------------------------------------------------------------


def _save(
    path: Path, model: BioFaceNet, optimiser: torch.optim.Optimizer, run: dict[str, Any], record: np.ndarray
) -> None:
    """Everything that going on exactly takes, whole or not at all."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{key}": value for key, value in state.items() if value is not None}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    tensors["record"] = torch.from_numpy(record.copy())
    try:
        with paths.whole_file(path) as partial:
            safetensors.torch.save_file(tensors, partial, {"architecture": CHECKPOINT, "run": json.dumps(run)})
    except (OSError, safetensors.SafetensorError) as error:
        raise DataError(path, "room to write a checkpoint", str(error)) from error


def _restore(
    path: Path, model: BioFaceNet, optimiser: torch.optim.Optimizer, run: dict[str, Any], record: np.ndarray
) -> int:
    """Go on where a checkpoint left off; the number of steps done, 0 without a file."""
    if not path.exists():
        return 0
    tensors, metadata = read_safetensors(path, CHECKPOINT)
    try:
        saved, done = json.loads(metadata["run"]), tensors.pop("record").numpy()
        if not isinstance(saved, dict):
            raise TypeError(f"a run that is {type(saved).__name__}")
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise DataError(path, "a checkpoint's run and record inside", repr(error)) from error
    for name, wanted in run.items():
        found = saved.get(name)
        if wanted != found:
            if isinstance(wanted, dict) and isinstance(found, dict):  # many fields, of which one or two differ
                different = [field for field in wanted if wanted[field] != found.get(field)]
                wanted, found = ({field: both.get(field) for field in different} for both in (wanted, found))
            raise DataError(path, f"a checkpoint of a run with {name} {wanted}", f"{found}")
    if done.ndim != 2 or done.shape[1] != len(_COLUMNS) or done.dtype != record.dtype:
        raise DataError(path, f"a record of {len(_COLUMNS)} numbers a step", f"{done.dtype} of shape {done.shape}")
    if len(done) > len(record):
        raise DataError(path, f"a checkpoint of at most {len(record)} steps", f"one of {len(done)}")
    weights = {n.removeprefix("model."): v for n, v in tensors.items() if n.startswith("model.")}
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if part := re.fullmatch(r"optimiser\.([0-9]{1,6})\.([a-z_]+)", name):
            state.setdefault(int(part[1]), {})[part[2]] = value
        elif not name.startswith("model."):
            raise DataError(path, "a checkpoint's weights, optimiser and record", f"{name} left over")
    parameters = list(model.parameters())
    for index, values in state.items():
        fits = index < len(parameters) and all(
            (not v.ndim or v.shape == parameters[index].shape) and v.dtype in FLOATS and bool(torch.isfinite(v).all())
            for v in values.values()
        )
        if not fits or set(values) != set(next(iter(state.values()))):
            raise DataError(path, "what the optimiser keeps of each weight", f"something else for weight {index}")
    model.load(weights, path)
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    record[: len(done)] = done
    return len(done)
