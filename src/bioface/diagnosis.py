"""Why does a training not work? The pipeline is tried like an instrument of unknown make: known light in, and a look.

No recipe is asked which mistakes it holds. Every verdict is a number, measured on what decoder, shading target, losses,
optimiser and network do, and held against exact spectra or against what is true of every sound choice: white stays
neutral, a pixel moves only itself, a step moves the image.
"""

from __future__ import annotations

import copy
import math
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bioface import camera, illumination, image_formation, objective, paths, skin
from bioface.errors import BiofaceError
from bioface.network import BioFaceNet, Output
from bioface.objective import Batch
from bioface.recipes import Recipe, get

Decode = Callable[[Output, Batch, Recipe], tuple[Tensor, Output]]

FACES = 16  #: of a batch that are looked at, so that a large one takes no longer
STEPS = 10  #: of the recipe's optimiser
#: The lights of the probes: (row of the illuminant in :func:`bioface.illumination.mix`, daylight temperature in K).
LIGHTS = {"A": (0, 6504.0), "D65": (1, 6504.0), "D40": (1, 4000.0), "D200": (1, 20000.0), "F2": (3, 6504.0)}
CAMERAS = ((0.0, 0.0), (2.0, -2.0), (-2.0, 2.0))  #: camera coefficients b of the probes
GRID = 16  #: pigments along each side of the table's probe

#: The sentences of ``findings.toml``, filled in with numbers: {name: {way to find it: sentence}}, the worst first.
SENTENCES: dict[str, dict[str, str]] = tomllib.loads((paths.TABLES / "findings.toml").read_text(encoding="utf-8"))
SEVERITY = {name: (20 - k) / 20 for k, name in enumerate(SENTENCES)}

# Bars, here and beside each verdict: what sound pipelines give | what the faults give.
_WHITE = 0.01  # relative change of white with light and camera: 1e-6 | 0.7; spread of its channels: 3e-3 | 0.25
_TABLE = 0.015  # root-mean-square distance to exact spectra: 6e-5 (5e-3 with rounded pigments) | 0.04
_MATRIX = 0.1  # largest entry of (exact → decoded) − identity: 8e-4 (0.04 with rounded pigments) | 1.5


@dataclass(frozen=True)
class Finding:
    """One cause: its name in :data:`SEVERITY`, one sentence with what was measured and expected, its severity 0–1."""

    name: str
    evidence: str
    severity: float


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a training, and everything that was measured to tell.

    Attributes
    ----------
    findings : the most harmful first
    measurements : every number by name. Of the decoder: ``white_…``, of a highlight; ``difference_to_…``, the largest
        to exact spectra, and ``residual_to_…``, RMS beside the best colour matrix; ``gradient_…``, of the squared
        colour error to each map; ``round_trip_…``, RMS error before and after 30 steps on the maps themselves. Of the
        training: ``image_change``, RMS over 10 steps, relative; ``pace``, the same over the distance to the faces;
        ``dead_…``, share of shadings without slope after them
    """

    findings: tuple[Finding, ...]
    measurements: dict[str, float]

    @property
    def cause(self) -> str:
        """Name of the first finding, or "none found"."""
        return self.findings[0].name if self.findings else "none found"

    def __str__(self) -> str:
        if not self.findings:
            return f"none found in {len(self.measurements)} measurements"
        width = max(len(f.name) for f in self.findings)
        rows = [f"{f.severity:8.2f}  {f.name:<{width}}  {f.evidence}" for f in self.findings]
        return "\n".join([f"severity  {'finding':<{width}}  evidence", *rows])


def diagnose(model: BioFaceNet, batch: Any, recipe: str | Recipe, *, decode: Decode | None = None) -> Diagnosis:
    """Look for the cause why a network would not train, in seconds.

    Parameters
    ----------
    model : as it would be trained; a copy is tried, the model itself stays as it is
    batch : a :class:`~bioface.objective.Batch` or faces of :mod:`bioface.datasets`; the first 16 are used
    recipe : a recipe or its name
    decode : (output, batch, recipe) → image (B, H, W, 3) and the maps that made it; None is
        :func:`bioface.objective.decode`

    Raises
    ------
    BiofaceError : an unknown recipe, bad faces, a decoder that gives no finite image of the batch's shape, one face
        of 16 × 16 pixels (batch norm needs more)
    """
    recipe, batch = get(recipe), Batch.of(batch[:FACES])
    if batch.mask.shape == (1, 16, 16):
        raise BiofaceError("expected more than one pixel at the network's lowest level, found one face of 16 × 16")
    bench = _Bench(objective.decode if decode is None else decode, recipe, batch)
    probes = (_locality, _white, _table, _channels, _copy, _round_trip, _shading, _batch_norm, _dead, _steps)
    with torch.enable_grad():
        for probe in probes:
            probe(bench, copy.deepcopy(model).train(recipe.batch_norm == "train"))  # as the recipe trains
    return Diagnosis(tuple(sorted(bench.findings, key=lambda f: -f.severity)), bench.numbers)


class _Bench:
    """The pipeline under test, and what was found so far."""

    def __init__(self, decode: Decode, recipe: Recipe, batch: Batch):
        self.decode, self.recipe, self.batch = decode, recipe, batch
        self.numbers: dict[str, float] = {}
        self.findings: list[Finding] = []
        self.is_scrambled = False  # (B, 3, H, W) read as (B, H, W, 3), which can be undone
        self.white = self.colours = torch.zeros(0)  # of highlights (3,) and of matt skin (N, 3), as decoded
        self.swapped = False  # red and blue, in the decoder

    def found(self, name: str, way: str = "text", **measured: Any) -> None:
        self.findings.append(Finding(name, SENTENCES[name][way].format(**measured), SEVERITY[name]))

    def __call__(self, output: Output, batch: Batch, known: bool = True) -> tuple[Tensor, Output]:
        """Decode, checked, with the pixels put back where they belong; colours of ``known`` maps must be finite."""
        answer: Any = self.decode(output, batch, self.recipe)
        image = answer[0] if isinstance(answer, tuple) and len(answer) == 2 else answer
        expected = tuple(batch.image.shape)
        if image is answer or not isinstance(image, Tensor) or tuple(image.shape) != expected:
            found = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise BiofaceError(f"expected decode to give an image of shape {expected} and its maps, found {found}")
        if known and not bool(torch.isfinite(image.detach()).all()):
            raise BiofaceError("expected decode to make finite colours of ordinary maps, found NaN or infinity")
        if self.is_scrambled:
            image = image.reshape(len(image), 3, *image.shape[1:3]).movedim(1, -1)
        return image, answer[1]

    def output(self, *maps: Tensor, light: str = "D65", b: tuple[float, float] = (0.0, 0.0)) -> Output:
        """Four maps (B, H, W) under one light and camera, as if a network had said them."""
        n, like = len(maps[0]), maps[0]
        row, cct = LIGHTS[light]
        weights = torch.eye(14).to(like)[row].expand(n, 14)
        return Output._make((*maps, like.new_tensor(b).expand(n, 2), weights, like.new_full((n,), cct)))

    def canvas(self, grey: float, n: int = 1, corner_only: bool = False) -> Batch:
        """A batch of n uniform pictures (GRID × GRID): what a copied shading copies.

        In a mask of the corner alone a fitted copy fits there, and stays away from the other pixels.
        """
        image = self.batch.image.new_full((n, GRID, GRID, 3), grey)
        mask = torch.full_like(image[..., 0], not corner_only, dtype=torch.bool)
        mask[:, 0, 0] = True
        return Batch(image, mask)


def _locality(bench: _Bench, net: BioFaceNet) -> None:
    """Change one pixel of each map in turn: only that pixel's colour may move."""
    canvas, y, x = bench.canvas(1.0, 4, corner_only=True), 5, 9
    before = canvas.image.new_tensor([0.0, 0.0, 1.0, 0.1])[:, None, None, None].expand(4, 4, GRID, GRID)
    after = before.clone()
    for k in range(4):  # picture k has map k changed
        after[k, k, y, x] += 0.5

    def least() -> float:
        images = [bench(bench.output(*maps), canvas)[0].double() for maps in (before, after)]
        moved = (images[1] - images[0]).square().sum(-1)  # (4, H, W)
        return min((float(m[y, x] / m.sum()) for m in moved if m.sum() > 1e-12), default=1.0)

    own = bench.numbers["locality"] = least()
    if own < 0.99:  # 1 | 0
        bench.is_scrambled = True  # if so, the other probes see through it
        bench.is_scrambled = least() >= 0.99
        how = "; read as (B, 3, H, W) the image is in order" if bench.is_scrambled else ""
        bench.found("reshape_for_permute", own=own, how=how)


def _white(bench: _Bench, net: BioFaceNet) -> None:
    """A highlight and nothing else, under several lights and cameras: it must stay white."""
    canvas = bench.canvas(0.0, len(CAMERAS))  # black: nothing to copy
    one = torch.ones_like(canvas.image[..., 0])
    whites = {}  # (cameras, 3)
    for light in LIGHTS:
        output = bench.output(0 * one, 0 * one, 0 * one, one, light=light)
        output = output._replace(camera=one.new_tensor(CAMERAS))
        whites[light] = bench(output, canvas)[0].mean((1, 2)).double()
    a, bench.white = whites["A"][0], whites["D65"][0]
    for light, white in (("A", a), ("D65", bench.white)):
        bench.numbers |= {f"white_{light}_{c}": float(v) for c, v in zip(("red", "green", "blue"), white, strict=True)}
    every = torch.cat(list(whites.values()))
    mean = every.mean(0)
    size = float(mean.abs().max())
    spread, cast = (float(v) / max(size, 1e-12) for v in ((every - mean).abs().max(), mean.max() - mean.min()))
    bench.numbers |= {"white_spread": spread, "white_cast": cast}
    is_seen = size >= 1e-6  # which it is not where a decoder has no highlights
    if is_seen and spread > _WHITE:
        bench.found("no_white_balance", a=a.tolist(), d65=bench.white.tolist())
    elif is_seen and cast > _WHITE:
        pink = camera.XYZ_TO_SRGB.sum(1)
        if any(bool((mean / size - p / p.max()).abs().max() < _WHITE) for p in (pink, pink.flip(0))):
            bench.found("rows_sum_1", white=mean.tolist())
        else:
            transposed = (camera.XYZ_TO_SRGB.T @ camera.ROW_SUMS["d65"]).tolist()
            bench.found("transposed_matrix", "white", white=mean.tolist(), transposed=transposed)


def _table(bench: _Bench, net: BioFaceNet) -> None:
    """All pigments in even light, against exact spectra."""
    canvas = bench.canvas(1.0)
    side = torch.linspace(-0.95, 0.95, GRID).to(canvas.image)  # no node of the table among them
    g = side[None, :, None].repeat(1, 1, GRID).requires_grad_()
    k = side[None, None, :].repeat(1, GRID, 1).requires_grad_()
    one = torch.ones_like(g)
    # the rows whose white is nearest to the one measured
    white, sensor = bench.white.cpu(), camera.CameraModel.load()
    rows = min(camera.ROW_SUMS, key=lambda r: float((camera.XYZ_TO_SRGB @ camera.ROW_SUMS[r] - white).norm()))

    asked = [bench.output(g, k, one, 0 * one, light=e, b=b) for e, b in zip(("D65", "A", "F2"), CAMERAS, strict=True)]
    answers = [bench(said, canvas) for said in asked]
    flat = [float((slope == 0).double().mean()) for slope in _gradient(answers[0][0].square().sum(), (g, k))]
    # (GRID², 3) for each of the lights and cameras; a copied shading has a brightness of its own
    decoded = [(image / used.diffuse[..., None]).detach().double().reshape(-1, 3) for image, used in answers]
    bench.colours = torch.cat(decoded)

    def compare(name: str, asked: list[Output]) -> tuple[float, float, Tensor]:
        """Largest difference; what remains of it (RMS) beside the best colour matrix, right or wrong; the matrix."""
        found = []
        for colours, said in zip(decoded, asked, strict=True):
            said = Output(*(value.detach().double() for value in said))
            e, S = illumination.mix(said.weights[0], said.cct[0]), sensor.sensitivity(said.camera[0])
            maps = said.melanin_fraction, said.haemoglobin_fraction, said.diffuse, said.specular
            # 33 bands a pixel, with the rows found and with those that the matrix starts from
            images = [image_formation.render(*maps, e, S, name, r, "exact") for r in (rows, "d65")]
            alike, exact = (image.reshape(-1, 3).to(colours) for image in images)
            matrix = torch.linalg.lstsq(exact, colours).solution.T
            brightness = float(colours.norm() / exact.norm())
            residual = float((exact @ matrix.T - colours).square().mean().sqrt()) / max(brightness, 1e-12)
            found.append((float((alike - colours).abs().max()), residual, matrix))
        return max(f[0] for f in found), max(f[1] for f in found), found[0][2]

    compared = {name: compare(name, asked) for name in skin.MODELS}
    image = decoded[0].reshape(GRID, GRID, 3)
    steps = torch.cat([image.diff(dim=0).reshape(-1, 3), image.diff(dim=1).reshape(-1, 3)])
    stuck = float((steps.abs().amax(-1) <= 1e-6 * image.abs().max()).double().mean())
    for name, (difference, residual, _) in compared.items():
        bench.numbers |= {f"difference_to_{name}": difference, f"residual_to_{name}": residual}
    bench.numbers |= {"pigment_steps_stuck": stuck, "flat_melanin": flat[0], "flat_haemoglobin": flat[1]}
    nearest = min(compared, key=lambda name: compared[name][1])
    _, residual, matrix = compared[nearest]
    layered = compared["layered"][1]

    # another model's colours? Or those of half the table, indexed by 0 … 1 instead of −1 … 1?
    halves = [said._replace(melanin=(g + 1) / 2, haemoglobin=(k + 1) / 2) for said in asked]
    half = min(compare(name, halves)[1] for name in skin.MODELS) if residual > _TABLE else residual
    if stuck > 0.5 or half < residual / 4:  # 0 | 1
        way = "edge" if stuck > 0.5 else "half"
        bench.found("misscaled_index", way, stuck=stuck, residual=residual, half=half, bar=_TABLE)
        return
    if max(flat) > 0.5:  # 0 | 1
        bench.found("rounded_index", melanin=flat[0], haemoglobin=flat[1], residual=residual)
    if nearest == "published" and layered > _TABLE:
        bench.found("published_skin", residual=residual, layered=layered)
    # a matrix that keeps white, but nothing else
    matrix = matrix / matrix.sum(1).mean()
    one = torch.eye(3).to(matrix)
    error = bench.numbers["matrix_error"] = float((matrix - one).abs().max())
    bench.swapped = float((matrix.flip(0) - one).abs().max()) < _MATRIX
    is_neutral = max(bench.numbers["white_spread"], bench.numbers["white_cast"]) < _WHITE
    if error > _MATRIX and is_neutral and residual < _TABLE and not bench.swapped:
        bench.found("transposed_matrix", "colours", error=error)


def _channels(bench: _Bench, net: BioFaceNet) -> None:
    """Can the decoder's skin, from matt to shiny, make the hues of the faces? Or only with red and blue swapped?"""
    pixels = bench.batch.image[bench.batch.mask].double()
    pixels = pixels[(pixels > 0.01).all(-1) & (pixels < 0.98).all(-1)]  # neither black nor clipped
    pixels = pixels[:: max(1, len(pixels) // 400)]
    if not len(pixels) or not bool((bench.white > 0).all()):
        return

    unit = nn.functional.normalize
    matt, shine = unit(bench.colours), unit(bench.white[None])
    made = unit(torch.cat([(1 - s) * matt + s * shine for s in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]))
    nearest = [(unit(colours) @ made.T).amax(-1).clamp(-1, 1) for colours in (pixels, pixels.flip(-1))]
    as_is, swapped = (math.degrees(float(cosine.acos().mean())) for cosine in nearest)
    bench.numbers |= {"hue_error": as_is, "hue_error_swapped": swapped}
    if as_is > 3 and swapped < as_is / 2 and bench.numbers["white_spread"] < _WHITE:
        where = "in the decoder" if bench.swapped else "in the images"
        bench.found("wrong_channel_order", as_is=as_is, swapped=swapped, where=where)


def _copy(bench: _Bench, net: BioFaceNet) -> None:
    """Where the diffuse shading is copied: can the brightest skin under it be as bright as the image?"""
    batch, one = bench.batch, torch.ones_like(bench.batch.image[..., 0])
    skins = [bench.output(-one, -one, shading, 0 * one) for shading in (one, 2 * one)]
    brightest = [bench(said, batch)[0][batch.mask] for said in skins]
    if not torch.equal(*brightest):
        return  # the network's own shading is used
    luminance = brightest[0] @ batch.image.new_tensor(objective.LUMINANCE)
    ceiling = float((luminance / batch.luminance()[batch.mask].clamp_min(1e-3)).median())
    bench.numbers["copy_ceiling"] = ceiling
    if ceiling < 0.9:  # 1.03 | 0.78
        bench.found("copy_shading_too_dark", ceiling=ceiling)


def _round_trip(bench: _Bench, net: BioFaceNet) -> None:
    """No network: the maps themselves descend through the decoder. Gradients at the start, error before and after."""
    batch = bench.batch[:4]
    n, image = len(batch), batch.image
    leaves = [*image.new_zeros(4, *batch.mask.shape), image.new_zeros(n, 2), image.new_zeros(n, 14)]
    leaves[3] -= 3.0
    cct = image.new_full((n,), 6504.0)
    leaves = [value.requires_grad_() for value in leaves]
    optimiser = torch.optim.Adam(leaves, lr=0.1)

    def error() -> tuple[Tensor, Output]:
        g, k, d, s, b, w = leaves
        maps = Output(g.tanh(), k.tanh(), d.exp(), s.exp(), 3 * b.tanh(), w.softmax(-1), cct)
        return (bench(maps, batch, known=False)[0] - image)[batch.mask].square().mean(), maps

    for step in range(30):
        loss, maps = error()
        if step == 0:
            bench.numbers["round_trip_before"] = float(loss.detach().sqrt())
            for name, slope in zip(Output._fields, _gradient(loss, maps[:6]), strict=False):
                bench.numbers[f"gradient_{name}"] = float(slope.norm())
        for leaf, slope in zip(leaves, _gradient(loss, leaves), strict=True):
            leaf.grad = slope
        optimiser.step()
    bench.numbers["round_trip_after"] = float(error()[0].detach().sqrt())


def _shading(bench: _Bench, net: BioFaceNet) -> None:
    """The shading that supervises, against the one that unit normals under the same light have."""
    batch = bench.batch
    target = objective.shading_target(batch, bench.recipe)
    if target is None or batch.normals is None or batch.lighting is None:
        return
    stored = batch.normals[batch.mask]
    length, decoded = (float((n.norm(dim=-1) - 1).abs().median()) for n in (stored, 2 * stored - 1))
    both = batch.normals, (batch.normals + 1) / 2
    shadings = [illumination.sh_shading(n, batch.lighting)[batch.mask] for n in both]
    size = shadings[0].norm().clamp_min(1e-12)
    expected, undecoded = (float((target[batch.mask] - shading).norm() / size) for shading in shadings)
    bench.numbers |= {"normals_off_unit_length": length, "shading_target_error": expected}
    if length > 0.05 and decoded < length / 2:  # 1e-7 | 0.2
        bench.found("undecoded_normals", "length", length=length, decoded=decoded)
    elif expected > 1e-3:  # 0 | 0.3
        bench.found("undecoded_normals", "target", expected=expected, undecoded=undecoded)


@torch.no_grad()
def _batch_norm(bench: _Bench, net: BioFaceNet) -> None:
    """Does normalisation follow the faces, or does it divide by what an untrained network was born with?"""
    image = bench.batch.image
    layers = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d | nn.SyncBatchNorm)]

    def statistics() -> tuple[Tensor, Tensor]:
        mean, variance = (torch.cat([getattr(m, name) for m in layers]) for name in ("running_mean", "running_var"))
        return mean, (variance + layers[0].eps).sqrt()

    mean, deviation = statistics()
    alone = net(image).diffuse
    moved = float(((statistics()[0] - mean) / deviation).square().mean().sqrt())
    company = net(torch.cat([image, 1 - image])).diffuse[: len(image)]
    dependence = float((company - alone).norm() / alone.norm().clamp_min(1e-12))
    for m in layers:
        m.train().momentum = 1.0  # after one more look the running statistics are those of these faces
    net(image)
    off = float((statistics()[1] / deviation).log().abs().median().exp())
    bench.numbers |= {"statistics_moved": moved, "batch_dependence": dependence, "statistics_factor": off}
    if moved == 0 and dependence < 1e-4 and off > 1.5:  # 1.1 | 3
        bench.found("batch_norm_frozen", moved=moved, off=off)


@torch.no_grad()
def _slopeless(net: BioFaceNet, image: Tensor, shift: float) -> dict[str, float]:
    """Share of the pixels where a shading is 0, so that exp or relu has no slope; its raw values shifted for good."""
    for decoder in (net.diffuse, net.specular):
        decoder.last.register_forward_hook(lambda layer, given, answer: answer + shift)
    said = net(image)
    return {name: float((getattr(said, name) == 0).double().mean()) for name in ("diffuse", "specular")}


def _dead(bench: _Bench, net: BioFaceNet) -> None:
    """Push both shadings far down: can they come back?"""
    share = _slopeless(net, bench.batch.image, -20.0)
    bench.numbers |= {f"pushed_down_dead_{name}": value for name, value in share.items()}
    if max(share.values()) > 0.5:  # 0 | 1
        bench.found("relu_for_exp", diffuse=share["diffuse"], specular=share["specular"])


def _steps(bench: _Bench, net: BioFaceNet) -> None:
    """A few steps of the recipe's own optimiser: how far does the image move, and where does the loss go?"""
    batch, recipe = bench.batch, bench.recipe
    optimiser = objective.make_optimiser(net.parameters(), recipe)

    def look() -> tuple[Tensor, Tensor]:
        said = net(batch.image)
        if not all(bool(torch.isfinite(value).all()) for value in said):  # nothing that could be decoded
            return batch.image, batch.image.new_tensor(math.inf)
        image, maps = bench.decode(said, batch, recipe)
        return image, sum(objective.loss_terms(image, maps, batch, recipe).values(), image.new_zeros(()))

    images, losses = [], []
    for _ in range(STEPS):
        image, loss = look()
        images.append(image.detach())
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        image, loss = look()
    losses.append(float(loss))
    parts = (images[0], image, batch.image, image - images[0], batch.image - images[0])
    first, last, faces, moved, distance = (float(v[batch.mask].square().mean().sqrt()) for v in parts)
    faces = max(faces, 1e-12)
    change, pace, far = moved / max(first, 1e-12), moved / max(distance, 1e-12), distance / faces
    bench.numbers |= {"loss_before": losses[0], "loss_after": losses[-1], "brightness_after": last / faces}
    bench.numbers |= {"image_change": change, "pace": pace, "distance_over_black": far}
    bench.numbers |= {f"dead_{name}": value for name, value in _slopeless(net, batch.image, 0.0).items()}
    grown = losses[-1] / max(losses[0], 1e-30)
    if not math.isfinite(grown) or grown > 100:  # 7 | infinite
        bench.found("step_too_large", "loss", steps=len(losses) - 1, before=losses[0], after=losses[-1])
    elif last < 0.05 * faces and last < first / 10:  # 0.35 | 0.04
        bench.found("step_too_large", "image", steps=STEPS, first=first / faces, last=last / faces)
    # 0.02 | 5e-5; in the white veil that the paper's step starts in (far 1.1 | 8) a few glaring pixels move 0.25 | 0.09
    elif pace < 5e-3 or (far > 1.5 and pace < 0.1 and grown > 1 - 0.08):  # 0.13 | 0.065
        bench.found("step_too_small", steps=STEPS, change=change, fall=1 - grown, far=far)


def _gradient(value: Tensor, leaves: Sequence[Tensor]) -> Sequence[Tensor]:
    """Gradients of ``value``, zeros where nothing leads back to a leaf."""
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return torch.autograd.grad(value, leaves, materialize_grads=True, retain_graph=True)
