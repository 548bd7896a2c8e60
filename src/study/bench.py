"""What the work costs, as ratios measured in one process: each fast way against the plain one.

A time says little about another machine, a ratio of two times taken in turns says more. Every row of the table is such
a ratio: numerator and denominator are timed in alternating rounds, and the ratio of each round is what counts. Torch
has one thread unless the row says otherwise; files are decoded on as many as the loader takes. Beside the rows stand
how times grow with the size of the input, and what a training step costs at the paper's width, from which
:func:`fill_plan` derives what training on all faces takes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import matplotlib.pyplot as plt
import numpy as np
import scipy.optimize
import torch
from matplotlib.figure import Figure
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from bioface import camera, decomposition, image_formation, objective, recipes, skin, smith2019, spectra, training
from bioface.datasets import nfe, twin
from bioface.errors import BiofaceError, DataError
from study import experiments, notebook
from study.claims import number

BATCH = 64  #: faces a step, as in the paper
MAPS = ("melanin", "haemoglobin", "diffuse_shading", "specular_shading")
NOISE = 0.002  #: deviation of the noise of the fitted spectra, in units of a white surface's mean radiance
TITLE, DATA = "What the work costs", "twin (synthetic)"
ALT = (
    "Ratios of times on a logarithmic axis, each with its range over the rounds; below, how the time of images, fits, "
    "photos and training steps grows with pixels, bands and faces."
)


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes
    ----------
    rounds : of every ratio
    twin : the faces
    faces, width : of the training steps that are compared; ``full_width`` is the paper's
    copies : how often the twin's file is streamed in a pass, one after the other
    by_scipy : pixels that scipy fits, one at a time; sgd_steps : as in the report
    threads : of the rows that compare one thread with several; all processors
    sides, batches, bands : what growth is measured over; memory_batches : two sizes, for the memory of a face
    """

    rounds: int = 5
    twin: twin.TwinConfig = twin.TwinConfig()
    faces: int = 16
    width: int = 8
    full_width: int = 32
    copies: int = 4
    by_scipy: int = 100
    sgd_steps: int = 1000
    threads: int = notebook.processors()
    sides: tuple[int, ...] = (16, 32, 64, 128, 256)
    batches: tuple[int, ...] = (2, 4, 8, 16, 32)
    bands: tuple[int, ...] = (8, 16, 33)
    memory_batches: tuple[int, int] = (4, 16)


FULL = Scale()
#: Shows in seconds that everything can be measured; its numbers mean nothing.
QUICK = Scale(
    rounds=1,
    twin=twin.TwinConfig(train=8, validation=1, test=1, cubes=0),
    faces=2,
    width=2,
    full_width=2,
    copies=1,
    by_scipy=5,
    sgd_steps=5,
    threads=1,
    sides=(16, 32),
    batches=(2, 4),
    bands=(8, 16),
    memory_batches=(2, 8),
)


def _rounded(value: int | float | np.number) -> float:
    """To four digits, more than a clock is worth: the numbers of a file are those that were in memory."""
    return float(f"{float(value):.4g}")


@dataclass(frozen=True)
class Row:
    """One ratio.

    Attributes
    ----------
    name, what : short name, and what is divided by what in words
    numerator, denominator : seconds, medians over the rounds
    ratio, low, high : of numerator to denominator in the same round: median, lowest, highest
    rounds : how many there were
    """

    name: str
    what: str
    numerator: float
    denominator: float
    ratio: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, name: str, what: str, numerator: np.ndarray, denominator: np.ndarray) -> Row:
        """From the seconds (rounds,) of both."""
        ratios = numerator / denominator
        values = (np.median(numerator), np.median(denominator), np.median(ratios), ratios.min(), ratios.max())
        above, below, ratio, low, high = map(_rounded, values)
        return cls(name, what, above, below, ratio, low, high, len(ratios))


@dataclass(frozen=True)
class Growth:
    """How a time grows: seconds (medians over the rounds) at some sizes ``along`` pixels, bands or faces.

    ``exponent`` is the slope of a line through log seconds over log size, median over the rounds, with the lowest and
    highest: 1 is in proportion; less where a part of the work does not depend on the size.
    """

    name: str
    what: str
    along: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    exponent: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, name: str, what: str, along: str, seconds: Mapping[int, np.ndarray]) -> Growth:
        """From the seconds (rounds,) at each size."""
        sizes, times = np.array(list(seconds)), np.stack(list(seconds.values()))  # (sizes, rounds)
        slopes = np.polyfit(np.log(sizes), np.log(times), 1)[0]
        medians = tuple(map(_rounded, np.median(times, 1)))
        exponent, low, high = map(_rounded, (np.median(slopes), slopes.min(), slopes.max()))
        return cls(name, what, along, tuple(sizes.tolist()), medians, exponent, low, high, times.shape[1])


@dataclass(frozen=True)
class Cost:
    """One number that is no ratio: what a training step takes, how well a fit fits."""

    what: str
    value: int | float
    unit: str


@dataclass(frozen=True)
class Results:
    """All that :func:`measure` found, and on which machine; ``quick`` marks numbers that mean nothing."""

    machine: dict[str, str | int]
    quick: bool
    rows: tuple[Row, ...]
    growth: tuple[Growth, ...]
    costs: dict[str, Cost]

    def to_json(self) -> str:
        """The text of ``bench.json``."""
        about = {"title": TITLE, "description": ALT, "data": DATA}
        return json.dumps(about | dataclasses.asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read(path: str | Path) -> Results:
    """The results of a ``bench.json``.

    Raises
    ------
    DataError : no such file, or another kind of file
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return Results(
            content["machine"],
            content["quick"],
            tuple(Row(**row) for row in content["rows"]),
            tuple(Growth(**row | {k: tuple(row[k]) for k in ("sizes", "seconds")}) for row in content["growth"]),
            {name: Cost(**cost) for name, cost in content["costs"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(path, "results of `make bench`", f"{type(error).__name__}: {error}") from error


# --- the clock ---------------------------------------------------------------------------------------------


def in_turns(tasks: Mapping[Any, Callable[[], object]], rounds: int) -> dict[Any, np.ndarray]:
    """Seconds (rounds,) of each task; all once a round, every other round backwards, after one that warms up.

    Raises
    ------
    BiofaceError : less than one round
    """
    if rounds < 1:
        raise BiofaceError(f"expected at least 1 round, found {rounds}")
    seconds: dict[Any, list[float]] = {name: [] for name in tasks}
    for turn in range(rounds + 1):
        for name in list(tasks)[:: 1 if turn % 2 else -1]:
            began = time.perf_counter()
            tasks[name]()
            seconds[name].append(time.perf_counter() - began)
    return {name: np.array(values[1:]) for name, values in seconds.items()}


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """So many torch threads, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- what is measured --------------------------------------------------------------------------------------


class _Work:
    """Pieces of work on faces of the twin that are timed, each a call without arguments.

    Pixels of skin are those inside the masks, over and over again where more are asked for.
    """

    def __init__(self, scale: Scale, progress: bool):
        self.scale = scale
        self.faces = twin.load("train", config=scale.twin, progress=progress)
        self.batch = objective.Batch.of(self.faces)
        truth, inside = self.faces.truth, self.faces.mask
        self.pixels = {name: getattr(truth, name)[inside] for name in MAPS}
        self.light, self.b = truth.illuminant[:1], truth.camera_b[:1]

    def image(self, side: int, count: int, method: str) -> Callable[[], object]:
        """Images (count, side, side) and their gradients to the maps, the light and the camera."""
        maps = [np.resize(values, (count, side, side)) for values in self.pixels.values()]
        sensitivity = camera.CameraModel.load().sensitivity(self.b)
        shared = [np.repeat(values, count, 0) for values in (self.light, sensitivity)]
        inputs = [torch.from_numpy(values).requires_grad_() for values in (*maps, *shared)]

        def work() -> object:
            return torch.autograd.grad(image_formation.render(*inputs, method=method).square().sum(), inputs)

        return work

    def cube(self, count: int, bands: int = 33) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Noisy radiance (count, bands), wavelengths and illuminant (bands,) of mean 1."""
        nm = np.linspace(400.0, 720.0, bands)
        light = np.interp(nm, spectra.WAVELENGTHS.numpy(), self.light[0].astype(float))
        light /= light.mean()
        maps = [np.resize(values.astype(float), (1, count)) for values in self.pixels.values()]
        clean = image_formation.render_spectral(*maps, light, wavelengths=nm)[0]
        return clean + np.random.default_rng(0).normal(0, NOISE, clean.shape), nm, light

    def fit(self, count: int, bands: int = 33) -> Callable[[], smith2019.FitResult]:
        cube, nm, light = self.cube(count, bands)
        return lambda: smith2019.fit(cube, nm, light)

    def photo(self, side: int) -> Callable[[], object]:
        """A photo (side, side) taken apart."""
        rows = np.arange(side) * nfe.SIZE // side
        photo, mask = (values[0][np.ix_(rows, rows)] for values in (self.faces.rgb, self.faces.mask))
        return lambda: decomposition.decompose(photo, mask)

    def step(self, count: int, width: int) -> Callable[[], None]:
        """Loss and gradient of a training step with ``count`` faces."""
        model = training.build(recipes.WORKING, width).train()
        batch = self.batch[np.resize(np.arange(len(self.batch)), count)]

        def work() -> None:
            model.zero_grad()
            rendered, maps = objective.decode(model(batch.image), batch, recipes.WORKING)
            terms = objective.loss_terms(rendered, maps, batch, recipes.WORKING)
            torch.stack(list(terms.values())).sum().backward()

        return work

    def files(self) -> tuple[list[Path], list[Path]]:
        """Image and light file of the training faces, each as often as ``scale.copies`` says."""
        folder = twin.make(self.scale.twin, progress=False)
        images, lights, _ = twin.file_names("train")
        return [folder / images] * self.scale.copies, [folder / lights] * self.scale.copies


def measure(quick: bool = False, progress: bool = False) -> Results:
    """Measure everything; some three minutes on two quiet processors.

    Parameters
    ----------
    quick : :data:`QUICK` in place of :data:`FULL`
    progress : show a bar
    """
    scale = QUICK if quick else FULL
    found: list[Row | Growth | dict[str, Cost]] = []
    with threads(1):
        work = _Work(scale, progress)
        parts: list[Callable[[_Work], Sequence[Any]]] = [_images, _fits, _steps, _twin, _files, _growth, _threads]
        parts += [_step_costs, _reading]
        bar = tqdm(parts, desc="bench", unit="part", disable=not progress)
        for part in bar:
            bar.set_postfix_str(part.__name__[1:])
            found += part(work)
    return Results(
        _machine(),
        quick,
        tuple(item for item in found if isinstance(item, Row)),
        tuple(item for item in found if isinstance(item, Growth)),
        {name: cost for item in found if isinstance(item, dict) for name, cost in item.items()},
    )


def _machine() -> dict[str, str | int]:
    cpu = Path("/proc/cpuinfo")  # Linux; what `platform` says there is nothing
    names = re.findall(r"^model name\s*: (.*)$", cpu.read_text(), re.M) if cpu.is_file() else []
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": notebook.processors(),
        "system": platform.system(),
        "torch": torch.__version__,
    }


def _images(work: _Work) -> list[Row]:
    tasks = {method: work.image(nfe.SIZE, work.scale.faces, method) for method in ("exact", "table")}
    seconds = in_turns(tasks, work.scale.rounds)
    what = "image and its gradient: 33 bands a pixel / table look-up"
    return [Row.of("table", what, seconds["exact"], seconds["table"])]


def _fits(work: _Work) -> list[Row | dict[str, Cost]]:
    """Variable projection against scipy, pixel by pixel, and against the report's gradient descent; per pixel."""
    scale = work.scale
    cube, nm, light = work.cube(int(work.faces.mask[0].sum()))
    few = np.random.default_rng(0).choice(len(cube), scale.by_scipy, replace=False)
    fits = {
        "varpro": lambda: smith2019.fit(cube, nm, light).residual,
        "scipy": lambda: scipy_residuals(cube[few], nm, light),
        "sgd": lambda: smith2019.fit(cube, nm, light, solver="sgd", steps=scale.sgd_steps).residual,
    }
    residual: dict[str, np.ndarray] = {}

    def run(name: str) -> None:
        residual[name] = fits[name]()

    seconds = in_turns({name: functools.partial(run, name) for name in fits}, scale.rounds)
    each = {name: values / len(residual[name]) for name, values in seconds.items()}
    residual |= {name: residual[name][few] for name in ("varpro", "sgd")}
    what = "root-mean-square residual, median of the same pixels"
    costs = {f"{n}_residual": Cost(f"{n}: {what}", _rounded(np.median(r)), "of white") for n, r in residual.items()}
    not_worse = np.mean(residual["varpro"] <= residual["scipy"] * (1 + 1e-6))
    costs["varpro_not_worse"] = Cost("pixels where varpro's residual is not above scipy's", float(not_worse), "share")
    return [
        Row.of("fit_scipy", "fit of a pixel: scipy's least squares / varpro", each["scipy"], each["varpro"]),
        Row.of("fit_sgd", f"fit of a pixel: {scale.sgd_steps} steps of SGD / varpro", each["sgd"], each["varpro"]),
        costs,
    ]


def scipy_residuals(cube: np.ndarray, wavelengths: np.ndarray, illuminant: np.ndarray) -> np.ndarray:
    """Root-mean-square residuals (n,) of the layered skin fitted to (n, D) pixels as one writes it with scipy.

    In NumPy, for torch would take longer to call than to compute. Of scipy's methods, scalings and differences those
    that were fastest, at its own tolerances.
    """
    model = skin.SkinModel("layered", wavelengths)
    names = ("offset", "per_melanin", "per_haemoglobin", "bloodless", "per_blood", "scattering")
    offset, per_melanin, per_haemoglobin, bloodless, per_blood, scattering = (getattr(model, n).numpy() for n in names)

    def misfit(x: np.ndarray, pixel: np.ndarray) -> np.ndarray:
        melanin, haemoglobin, diffuse, specular = x
        absorption = bloodless + haemoglobin * per_blood
        K = np.sqrt(absorption * (absorption + 2 * scattering))
        decay = np.exp(-2 * model.dermis_cm * K)
        dermis = scattering / (absorption + scattering + K * (1 + decay) / (1 - decay))
        depth = offset + melanin * per_melanin + haemoglobin * per_haemoglobin
        return illuminant * (diffuse * np.exp(-2 * depth) * dermis + specular) - pixel

    start, bounds = (0.1, 0.04, 1.0, 0.05), ((0, 0, 0, 0), (1, 1, np.inf, np.inf))
    fits = (
        scipy.optimize.least_squares(misfit, start, bounds=bounds, method="dogbox", x_scale="jac", args=(pixel,))
        for pixel in cube
    )
    return np.array([np.sqrt(np.mean(fit.fun**2)) for fit in fits])


def _steps(work: _Work) -> list[Row]:
    scale = work.scale
    batch = work.batch[: scale.faces]
    args = (batch, recipes.WORKING, scale.width)
    costs = [experiments.step_cost(*args, steps=2, rounds=1) for _ in range(scale.rounds)]
    seconds = {name: np.array([getattr(c, name) for c in costs]) for name in ("bare", "table", "spectral")}
    return [
        Row.of("step_table", "training step by table / its bare network", seconds["table"], seconds["bare"]),
        Row.of("step_spectral", "training step with 33 bands / its bare network", seconds["spectral"], seconds["bare"]),
    ]


def _twin(work: _Work) -> list[Row | dict[str, Cost]]:
    config, count = work.scale.twin, work.scale.faces
    todo = twin.plan(config, "train")[:count]
    tasks = {
        "made": lambda: [twin.make_face(config.seed, "train", *face) for face in todo],
        "read": lambda: twin.load("train", count, config, progress=False),
    }
    seconds = in_turns(tasks, work.scale.rounds)
    speed = _rounded(len(todo) / np.median(seconds["made"]))
    return [
        Row.of("twin", "faces of the twin: made / read back", seconds["made"], seconds["read"]),
        {"twin_speed": Cost("faces of the twin made", speed, "faces/s")},
    ]


def _files(work: _Work) -> list[Row]:
    return streaming(*work.files(), rounds=work.scale.rounds)


def streaming(
    images: str | Path | Sequence[str | Path],
    lights: str | Path | Sequence[str | Path] | None = None,
    rounds: int = 5,
    size: int = BATCH,
) -> list[Row]:
    """Faces streamed, checked and decoded, against h5py reading the same bytes in the same blocks and dropping them.

    Parameters
    ----------
    images, lights : pairs of files as :class:`bioface.datasets.nfe.NFE` takes them
    size : faces a batch

    Returns
    -------
    rows ``streaming_sequential`` and ``streaming_shuffled``, each of a pass over all files

    Raises
    ------
    BiofaceError : less than one round or face a batch; :class:`bioface.errors.DataError`: see ``nfe.NFE``
    """
    faces = nfe.NFE(images, lights)
    seconds = in_turns(
        {
            "raw": lambda: _exhaust(_raw_blocks(faces)),
            "sequential": lambda: _exhaust(faces.batches(size)),
            "shuffled": lambda: _exhaust(faces.batches(size, shuffle=True)),
        },
        rounds,
    )
    return [
        Row.of(f"streaming_{order}", f"{order} batches of files / raw HDF5 reads", seconds[order], seconds["raw"])
        for order in ("sequential", "shuffled")
    ]


def _raw_blocks(faces: nfe.NFE) -> Iterator[np.ndarray]:
    """The stored numbers of images and lights, block by block."""
    for path in (*faces.image_files, *faces.light_files):
        with h5py.File(path, "r") as file:
            stored = file[nfe.KEY]
            for first in range(0, len(stored), nfe.BLOCK):
                yield stored[first : first + nfe.BLOCK]


def _exhaust(items: Iterator[object]) -> None:
    for _ in items:
        pass


def _growth(work: _Work) -> list[Growth]:
    scale = work.scale
    squares = {side * side: side for side in scale.sides}
    pixels = scale.sides[-1] // 4  # a side whose fit takes longer than what does not depend on the bands
    kinds: list[tuple[str, str, str, dict[int, Callable[[], object]]]] = [
        ("image", "image and gradient", "pixels", {n: work.image(s, 1, "table") for n, s in squares.items()}),
        ("decompose", "photo taken apart", "pixels", {n: work.photo(s) for n, s in squares.items()}),
        ("fit", "fit (varpro)", "pixels", {n: work.fit(n) for n in squares}),
        ("fit_bands", "fit (varpro)", "bands", {n: work.fit(pixels * pixels, n) for n in scale.bands}),
        ("step", "training step", "faces", {n: work.step(n, scale.width) for n in scale.batches}),
        ("image_faces", "image and gradient", "faces", {n: work.image(64, n, "table") for n in scale.batches}),
    ]
    return [Growth.of(name, what, along, in_turns(todo, scale.rounds)) for name, what, along, todo in kinds]


def _threads(work: _Work) -> list[Row]:
    scale = work.scale
    kinds = {
        "step": ("training step", work.step(scale.faces, scale.width)),
        "image": ("image and its gradient by table", work.image(nfe.SIZE, scale.faces, "table")),
        "fit": ("fit (varpro)", work.fit(scale.sides[-1] ** 2 // 4)),
    }
    rows = []
    for name, (what, task) in kinds.items():
        counts = {"one": 1, "all": scale.threads}
        seconds = in_turns({key: functools.partial(_on, n, task) for key, n in counts.items()}, scale.rounds)
        what = f"{what}: 1 thread / {scale.threads}"
        rows.append(Row.of(f"threads_{name}", what, seconds["one"], seconds["all"]))
    return rows


def _on(count: int, task: Callable[[], object]) -> None:
    with threads(count):
        task()


class _Operations(TorchDispatchMode):
    """Counts what torch does that is not just another view of the same numbers."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def _step_costs(work: _Work) -> list[dict[str, Cost]]:
    """A training step at the paper's width: arithmetic, time on all processors, memory."""
    scale, width = work.scale, work.scale.full_width
    counter, operations = FlopCounterMode(display=False), _Operations()  # type: ignore[no-untyped-call] # torch's own
    task = work.step(2, width)
    with counter, operations:
        task()
    batch = work.batch[: scale.faces]
    with threads(scale.threads):
        step = experiments.step_cost(batch, recipes.WORKING, width, steps=1, rounds=min(2, scale.rounds))
    few, many = scale.memory_batches
    rows = {n: np.resize(np.arange(len(work.batch)), n) for n in (few, many)}
    peak = {n: experiments.peak_memory(work.batch[rows[n]], recipes.WORKING, width) for n in rows}
    model = training.build(recipes.WORKING, width)
    at = f"training step at width {width}"
    costs = {
        "width": Cost("filters of the first level, below", width, "filters"),
        "parameters": Cost("weights of the network", sum(p.numel() for p in model.parameters()) / 1e6, "million"),
        "norm_layers": Cost(
            "batch norms of the network",
            sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in model.modules()),
            "layers",
        ),
        "step_arithmetic": Cost(
            f"{at}: multiplications and additions", _rounded(counter.get_total_flops() / 2e9), "GFLOP/face"
        ),
        "step_operations": Cost(f"{at}: operations that torch starts", operations.count, "operations"),
        "step_seconds": Cost(f"{at}, on {scale.threads} threads", _rounded(step.table / len(batch)), "s/face"),
        "step_memory": Cost(f"{at}: peak memory", _rounded((peak[many] - peak[few]) / (many - few)), "MB/face"),
    }
    return [costs]


def _reading(work: _Work) -> list[dict[str, Cost]]:
    """Random batches as training reads them, in one process."""
    faces = nfe.NFE(*work.files())
    size = min(BATCH, len(faces))
    order = np.random.default_rng(0)
    batch = {"read": lambda: objective.Batch.of(faces[np.sort(order.permutation(len(faces))[:size])])}
    seconds = in_turns(batch, work.scale.rounds)["read"]
    stored = 0
    for path in (faces.image_files[0], faces.light_files[0]):
        with h5py.File(path, "r") as file:
            stored += file[nfe.KEY].nbytes // len(file[nfe.KEY])
    return [
        {
            "face_bytes": Cost("stored of a face and its light, in double precision", stored, "bytes"),
            "reading_speed": Cost(
                "random batches read, checked and decoded by one process, files in memory",
                _rounded(size / np.median(seconds)),
                "faces/s",
            ),
        }
    ]


# --- what is made of it ------------------------------------------------------------------------------------


def table(results: Results) -> str:
    """All results as plain text: the ratios, how times grow, and the costs."""
    lines = [["ratio", "lowest–highest", "seconds / seconds", "of what"]]
    for row in results.rows:
        seconds = f"{number(row.numerator)} / {number(row.denominator)}"
        lines.append([number(row.ratio), f"{number(row.low)}–{number(row.high)}", seconds, row.what])
    lines += [[], ["exponent", "lowest–highest", "seconds", "along"]]
    for g in results.growth:
        span = f"{number(g.seconds[0])} to {number(g.seconds[-1])}"
        sizes = f"{g.what}: {number(g.sizes[0], 6)} to {number(g.sizes[-1], 6)} {g.along}"
        lines.append([number(g.exponent), f"{number(g.low)}–{number(g.high)}", span, sizes])
    lines += [[], ["value", "unit", "", "cost"]]
    lines += [[number(cost.value, 4), cost.unit, "", cost.what] for cost in results.costs.values()]
    widths = [max(len(line[k]) for line in lines if line) for k in range(4)]
    text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=False)).rstrip() for line in lines]
    machine = "{processor}, {cores} cores, {system}, torch {torch}".format(**results.machine)
    return "\n".join([*text, "", machine + (" (quick: numbers mean nothing)" if results.quick else "")])


def plot(results: Results) -> Figure:
    """The ratios with their ranges, and how times grow."""
    figure = plt.figure(figsize=(9, 7), layout="constrained")
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[0.3 * len(results.rows) + 0.5, 2.8]), dtype=object)
    top = above.subplots()
    axes = dict(zip(("pixels", "bands", "faces"), below.subplots(1, 3, sharey=True), strict=True))
    rows = results.rows[::-1]
    place, ratio = np.arange(len(rows)), np.array([row.ratio for row in rows])
    spread = np.abs(np.array([[row.low for row in rows], [row.high for row in rows]]) - ratio)
    top.errorbar(ratio, place, xerr=spread, fmt="o")
    for y, row in zip(place, rows, strict=True):
        top.annotate(number(row.ratio), (row.high, y), (6, 0), textcoords="offset points", va="center", fontsize=8)
    top.axvline(1, color="black", linewidth=0.8)
    top.set_xscale("log")
    top.set_xlim(min(0.5, 0.8 * min(row.low for row in rows)), 2.5 * max(row.high for row in rows))
    top.xaxis.set_major_formatter(lambda value, _: number(value))
    top.set_yticks(place, [row.what for row in rows])
    top.set_ylim(-0.6, len(rows) - 0.4)
    top.grid(axis="x")
    top.set_xlabel("ratio of the two times, median and range over the rounds")
    for along, ax in axes.items():
        for g in (g for g in results.growth if g.along == along):
            ax.loglog(g.sizes, g.seconds, "o-", label=f"{g.what}: exponent {number(g.exponent, 2)}")
            ax.set_xticks(g.sizes, [number(size, 6) for size in g.sizes])
        ax.minorticks_off()
        ax.grid(axis="y")
        ax.set_xlabel(along)
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1))
    axes["pixels"].set_ylabel("seconds")
    axes["pixels"].tick_params(axis="x", rotation=40)
    return figure


# --- the plan of training at full size ---------------------------------------------------------------------

FACES, EPOCHS = 50_765, 200  # the paper's files, as counted by those who have them; the authors' code


@dataclass(frozen=True)
class Assumed:
    """What graphics processors are taken to do, the fast end and the slow one: nothing here was measured."""

    teraflops: tuple[float, float] = (60.0, 10.0)  #: sustained by one processor on this network, TF32
    launch_us: tuple[float, float] = (5.0, 10.0)  #: to start one operation
    link_gb: tuple[float, float] = (100.0, 10.0)  #: GB/s of each processor to its neighbour
    exchange_us: tuple[float, float] = (20.0, 50.0)  #: of a small exchange among all processors


@dataclass(frozen=True)
class Plan:
    """What training takes on some graphics processors; pairs are (fast end, slow end) of :class:`Assumed`.

    Attributes
    ----------
    faces : a step on each processor
    arithmetic, launching, reducing, norms, reading : milliseconds of a step: its arithmetic, starting its operations
        (which goes on beside it), adding up gradients, the exchanges of batch norm, reading its share of the batch
    memory : GB on each processor
    speed : faces a second, all together, reading left out
    loaders : processes that read as fast as that, all together
    hours, hours_reading : of the whole training, with reading beside the rest, and between the steps
    """

    faces: int
    arithmetic: tuple[float, float]
    launching: tuple[float, float]
    reducing: tuple[float, float]
    norms: tuple[float, float]
    reading: float
    memory: float
    speed: tuple[float, float]
    loaders: tuple[int, int]
    hours: tuple[float, float]
    hours_reading: tuple[float, float]


def plan(costs: Mapping[str, Cost], processors: int, assumed: Assumed = Assumed()) -> Plan:  # noqa: B008 - frozen
    """Derive what training at full size takes from measured costs.

    Parameters
    ----------
    costs : of :func:`measure`
    processors : graphics processors that share every batch of :data:`BATCH`

    Raises
    ------
    BiofaceError : processors that do not share a batch evenly
    """
    if processors < 1 or BATCH % processors:
        raise BiofaceError(f"expected processors that share a batch of {BATCH} evenly, found {processors}")
    of = {name: cost.value for name, cost in costs.items()}
    faces, steps = BATCH // processors, EPOCHS * (FACES // BATCH)
    alone = processors == 1
    weights = 4e6 * of["parameters"]  # bytes in single precision

    def both(function: Callable[[int], float]) -> tuple[float, float]:
        return function(0), function(1)

    arithmetic = both(lambda k: faces * of["step_arithmetic"] / assumed.teraflops[k])
    launching = both(lambda k: of["step_operations"] * assumed.launch_us[k] / 1e3)
    # a ring sends every number (n − 1) / n times, once to add up and once to hand out
    sent = 2 * (processors - 1) / processors * weights
    reducing = both(lambda k: sent / assumed.link_gb[k] / 1e6)
    norms = both(lambda k: 0.0 if alone else 2 * of["norm_layers"] * assumed.exchange_us[k] / 1e3)
    step = both(lambda k: max(arithmetic[k], launching[k]) + reducing[k] + norms[k])
    reading = 1e3 * faces / of["reading_speed"]
    speed = both(lambda k: 1e3 * BATCH / step[k])
    return Plan(
        faces,
        arithmetic,
        launching,
        reducing,
        norms,
        reading,
        (faces * of["step_memory"] * 1e6 + 4 * weights) / 1e9,  # weights, gradients and two moments of Adam
        speed,
        (math.ceil(speed[0] / of["reading_speed"]), math.ceil(speed[1] / of["reading_speed"])),
        both(lambda k: steps * step[k] / 3.6e6),
        both(lambda k: steps * (step[k] + reading) / 3.6e6),
    )


_BLOCK = re.compile(r"<!-- bench: plan -->\n.*?<!-- /bench -->", re.DOTALL)


def has_plan(text: str) -> bool:
    """Whether a page has the block that :func:`fill_plan` renews."""
    return _BLOCK.search(text) is not None


def fill_plan(text: str, results: Results, assumed: Assumed = Assumed()) -> str:  # noqa: B008 - frozen
    """A page with its plan of training at full size renewed: the block ``<!-- bench: plan --> … <!-- /bench -->``.

    Raises
    ------
    BiofaceError : no such block, or results of a quick run
    """
    if results.quick:
        raise BiofaceError("expected results of a whole run, found those of a quick one, whose numbers mean nothing")
    if not has_plan(text):
        raise BiofaceError("expected a page with a block <!-- bench: plan --> … <!-- /bench -->, found none")
    block = "\n".join(["<!-- bench: plan -->", *_plan_lines(results, assumed), "<!-- /bench -->"])
    return _BLOCK.sub(lambda _: block, text)


def _plan_lines(results: Results, assumed: Assumed) -> list[str]:
    costs, machine = results.costs, results.machine
    names = ("parameters", "norm_layers", "step_arithmetic", "step_operations", "step_memory", "step_seconds")
    measured = [costs[name] for name in (*names, "face_bytes", "reading_speed")]
    gigabytes = FACES * costs["face_bytes"].value / 1e9
    days = FACES // BATCH * BATCH * EPOCHS * costs["step_seconds"].value / 86400
    one, eight = (plan(costs, n, assumed) for n in (1, 8))

    def span(pair: Sequence[int | float], unit: str = "") -> str:
        low, high = (number(value, 2) for value in sorted(pair))
        return f"{low if low == high else f'{low} to {high}'} {unit}".strip()

    def row(what: str, value: Callable[[Plan], str]) -> str:
        return f"| {what} | {value(one)} | {value(eight)} |"

    return [
        f"Measured on {machine['cores']} cores of {machine['processor']} with torch {machine['torch']}:",
        "",
        "| what | measured | unit |",
        "|---|---|---|",
        *(f"| {cost.what} | {number(cost.value)} | {cost.unit} |" for cost in measured),
        "",
        f"At that pace the {EPOCHS} epochs take {number(days, 2)} days on that processor, reading left out.",
        "",
        "Assumed, none of it measured:",
        "",
        f"- {number(FACES, 5)} faces (as others counted), {EPOCHS} epochs, batches of {BATCH} as in the authors' code;",
        f"- a graphics processor that sustains {span(assumed.teraflops)} TFLOP/s on this network in TF32, and beside "
        f"the arithmetic starts an operation in {span(assumed.launch_us)} µs;",
        f"- between eight of them links of {span(assumed.link_gb)} GB/s, over which gradients are added up in a ring, "
        f"not beside the backward pass, and {span(assumed.exchange_us)} µs for each of the two exchanges that batch "
        "norm makes in every layer;",
        "- loaders as fast as the one measured here, and activations as large as there.",
        "",
        "| derived | 1 GPU | 8 GPUs |",
        "|---|---|---|",
        row("faces a step on each", lambda p: str(p.faces)),
        row("arithmetic of a step", lambda p: span(p.arithmetic, "ms")),
        row("starting its operations", lambda p: span(p.launching, "ms")),
        row("adding up gradients", lambda p: span(p.reducing, "ms")),
        row("exchanges of batch norm", lambda p: span(p.norms, "ms")),
        row("memory on each: activations, weights, gradients, Adam", lambda p: f"{number(p.memory, 2)} GB"),
        row("speed of all together", lambda p: span(p.speed, "faces/s")),
        row("processes that read as fast", lambda p: span(p.loaders)),
        row("**hours, with such loaders**", lambda p: span(p.hours)),
        row("reading of its share by one process", lambda p: f"{number(p.reading, 2)} ms a step"),
        row("**hours, as `training.train` reads today**", lambda p: span(p.hours_reading)),
        "",
        f"All faces are {number(gigabytes)} GB on disk, so they stay in the page cache of a machine with more memory "
        "than that, and only the first epoch waits for the disk.",
    ]
