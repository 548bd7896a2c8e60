"""BioFaceNet on faces that it has not seen: what notebook 05 trains, and the network that ships.

A plan is a few stages of training on the twin's training faces, one after the other. The weights are a function of
plan and seed and are kept, see :mod:`study.cache`.
"""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bioface import (
    bayes,
    decomposition,
    identifiability,
    illumination,
    image_formation,
    maps,
    metrics,
    paths,
    recipes,
    smith2019,
    spectra,
    training,
)
from bioface.datasets import skin_spectra, twin
from bioface.datasets.nfe import Faces
from bioface.errors import BiofaceError, unknown_name
from bioface.maps import Decomposition
from bioface.network import BioFaceNet
from bioface.recipes import Recipe
from study import augmentation, baselines, cache, notebook

#: Cameras and lights that :func:`inverted` holds a face against. On the 64 validation faces of the twin 32 give errors
#: of .070 (melanin), .109 (haemoglobin), .075 (diffuse), .019 (specular); each pixel by itself gives .104, .169, .104,
#: .030, the mean of the training faces, which takes their truth, .191, .185, .224, .032.
TEACHER_DRAWS = 32


@dataclass(frozen=True)
class Stage:
    """A part of a training.

    Attributes
    ----------
    recipe : how
    steps : how long
    batch : faces a step
    recolour : whether the faces are recoloured, which takes their maps; they are always mirrored
    maps : "true", or "inverted": those of :func:`inverted`, for which no truth is needed
    halved : train on faces of half the size, a quarter of the time for a step

    Raises
    ------
    BiofaceError : unknown maps; inverted ones without ``recolour``
    """

    recipe: Recipe
    steps: int
    batch: int = 16
    recolour: bool = False
    maps: str = "true"
    halved: bool = False

    def __post_init__(self) -> None:
        if self.maps not in ("true", "inverted"):
            raise unknown_name("maps", self.maps, ("true", "inverted"))
        if self.maps == "inverted" and not self.recolour:
            raise BiofaceError("expected inverted maps to be recoloured: the light of their photos is not known")


@dataclass(frozen=True)
class Plan:
    """A training: its stages one after the other.

    Attributes
    ----------
    name : what tables call it
    stages : at least one
    width : of the network
    faces : how many training faces; None is all
    """

    name: str
    stages: tuple[Stage, ...]
    width: int = 8
    faces: int | None = None

    def __post_init__(self) -> None:
        if not self.stages:
            raise BiofaceError(f"expected a plan with at least one stage, found none in {self.name}")

    def but(self, name: str, **changes: Any) -> Plan:
        """This plan under another name with some fields changed."""
        return dataclasses.replace(self, name=name, **changes)


def _halved_first(
    recipe: Recipe, small: int, large: int, maps: str = "true", recolour: bool = True
) -> tuple[Stage, Stage]:
    """Many quick steps at half the size, then some at full size."""
    quick = recipe.but(f"{recipe.name}_fast", learning_rate=3e-3)
    return Stage(quick, small, 32, recolour, maps, halved=True), Stage(recipe, large, 16, recolour, maps)


#: The rows of Table 1: without any truth as the paper trains, which takes faces as they are; without truth, from photos
#: inverted under the law of measured skin; by the truth of synthetic faces.
PUBLISHED = Plan("published", _halved_first(recipes.PUBLISHED_LOSSES, 450, 350, recolour=False))
MEASURED = Plan("published + measured skin", _halved_first(recipes.SUPERVISED, 150, 130, "inverted"))
SYNTHETIC = Plan("synthetic truth", _halved_first(recipes.SUPERVISED, 450, 350))
ROWS = (PUBLISHED, MEASURED, SYNTHETIC)
#: The first row after a twelfth of its training: what looks like no skill at all is learnt slowly.
PUBLISHED_SHORT = Plan("published, short", (Stage(recipes.PUBLISHED_LOSSES, 110),))
#: What a prior of skin among the published losses does, with more weight on shading and highlights.
PRIOR_AS_LOSS = Plan("published, skin prior as a loss", _halved_first(recipes.MEASURED_SKIN, 450, 350, recolour=False))
#: The last row on the 256 training faces as they are.
NOT_RECOLOURED = SYNTHETIC.but("not recoloured", stages=_halved_first(recipes.SUPERVISED, 450, 350, recolour=False))

#: What each part of the last row is worth: short trainings of about the same time that differ in one thing.
_SHORT = Plan("short", _halved_first(recipes.SUPERVISED, 60, 40))
_EQUAL = recipes.SUPERVISED.but("supervised_equal", shares=recipes.SUPERVISED.shares._replace(haemoglobin=1.0))
_BOTH = recipes.SUPERVISED.but("supervised_both", weights=recipes.SUPERVISED.weights._replace(appearance=10.0))
_ALONE = recipes.PUBLISHED_LOSSES.but("alone", learning_rate=2e-4)
ABLATIONS = (
    _SHORT,
    _SHORT.but("at full size only", stages=(Stage(recipes.SUPERVISED, 78, 16, True),)),
    _SHORT.but("haemoglobin counts as melanin", stages=_halved_first(_EQUAL, 60, 40)),
    _SHORT.but("with the appearance loss", stages=_halved_first(_BOTH, 60, 40)),
    _SHORT.but("then self-supervised", stages=(*_SHORT.stages, Stage(_ALONE, 30))),
)

#: The network that ships: trained longer than those of notebook 05, on one seed.
SHIPPED = Plan("shipped", _halved_first(recipes.SUPERVISED, 1000, 1000))


def train(plan: Plan, seed: int = 0, progress: bool = False) -> BioFaceNet:
    """The network that a plan gives, on one thread, so that it does not depend on how many there are.

    Raises
    ------
    Diverged : see :func:`bioface.training.train`
    """
    faces = twin.load("train", plan.faces, progress=progress)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # they slow the skin model threefold
    try:
        model = training.build(plan.stages[0].recipe, plan.width, seed)
        told = {"true": faces}
        if _inverts(plan):
            told["inverted"] = _inverted(plan.faces)
        for number, stage in enumerate(plan.stages):
            seen = augmentation.Augmented(told[stage.maps], seed * 100 + number, stage.recolour, stage.halved)
            training.train(model, seen, stage.recipe, stage.steps, stage.batch, seed * 100 + number, progress=progress)
    finally:
        torch.set_num_threads(threads)
    return model


def measured_prior(image: np.ndarray, mask: np.ndarray, of: np.ndarray | None = None) -> bayes.Prior:
    """What is known of faces without any truth: :meth:`bioface.bayes.Prior.measured` of ISSA's face spectra.

    Parameters
    ----------
    image, mask : (N, H, W, 3) linear RGB, (N, H, W) bool, photos that tell how bright skin is lit
    of : bool for each of ISSA's spectra, the ones to learn from; None is all

    Raises
    ------
    BiofaceError : not as many as there are spectra; see :meth:`bioface.bayes.Prior.measured`
    """
    measured = skin_spectra.load("issa")
    fit = smith2019.fit(measured.reflectance, measured.wavelengths, model="layered")
    some = np.ones(len(fit.converged), bool) if of is None else np.asarray(of)
    if some.shape != fit.converged.shape or some.dtype != bool:
        raise BiofaceError(f"expected {len(fit.converged)} booleans, a spectrum each, found {some.dtype} {some.shape}")
    inside = fit.converged & some
    skins = fit.melanin[inside], fit.haemoglobin[inside]
    return bayes.Prior.measured(*skins, image, mask, measured.subject[inside])


def draw_cameras(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (count, 2) and illuminants (count, 33) by the law of the twin: what a photo may be taken with."""
    b, weights, cct = twin.draw_cameras(count, rng)
    return b, illumination.mix(weights, cct)


def inverted(faces: Faces) -> Faces:
    """Faces with maps that nobody told: their photos, each under the law of measured skin.

    Their ``truth`` is :func:`bioface.bayes.image_posterior` with :func:`measured_prior`, under cameras and lights
    of the twin's law. Whatever is true of the faces is left out.
    """
    image = image_formation.srgb_decode(faces.rgb)
    draws = draw_cameras(TEACHER_DRAWS, np.random.default_rng(0))
    found = bayes.image_posterior(image, faces.mask, measured_prior(image, faces.mask), *draws)
    daylight = np.zeros((len(faces), len(spectra.ILLUMINANTS)), np.float32)
    daylight[:, spectra.ILLUMINANTS.index("D")] = 1
    maps = {name: np.where(faces.mask, getattr(found, name), 0).astype(np.float32) for name in identifiability.MAPS}
    return dataclasses.replace(
        faces,
        truth=types.SimpleNamespace(
            **maps,
            camera_b=found.camera_b,
            illuminant_weights=daylight,
            cct=np.full(len(faces), 6504, np.float32),  # K, of D65
        ),
    )


def _inverts(plan: Plan) -> bool:
    return any(stage.maps == "inverted" for stage in plan.stages)


def _inverted(count: int | None) -> Faces:
    """:func:`inverted` of the first ``count`` training faces of the twin, kept or made now."""
    faces = twin.load("train", count, progress=False)
    maps = cache.kept(_inverted_maps, ignore=["faces"])(faces, (count, twin.folder().name))
    return dataclasses.replace(faces, truth=types.SimpleNamespace(**maps))


def _inverted_maps(faces: Faces, made_of: tuple[Any, ...]) -> dict[str, np.ndarray]:
    return vars(inverted(faces).truth)


def weights(plan: Plan, seed: int = 0) -> BioFaceNet:
    """The trained network, kept or trained now."""
    found: BioFaceNet = _kept()(*_call(plan, seed))
    return found.eval()


def fill(jobs: Iterable[tuple[Plan, int]], progress: bool | None = None) -> None:
    """Train what is not kept yet, as many (plan, seed) at once as there are processors."""
    todo = [job for job in jobs if not _kept().check_call_in_cache(*_call(*job))]
    todo.sort(key=lambda job: -sum(s.steps * s.batch * (0.25 if s.halved else 1) for s in job[0].stages))
    if first := [job for job in todo if _inverts(job[0])][:1]:  # its maps are made once, before the others need them
        todo.remove(first[0])
        todo = first + todo
    if todo:
        twin.make(progress=sys.stderr.isatty() if progress is None else progress)  # once, before the others need it
    cache.side_by_side(_keep, todo, min(len(todo), notebook.processors()), progress)


def _keep(plan: Plan, seed: int) -> None:
    _kept()(*_call(plan, seed))


def _kept() -> Any:
    return cache.kept(_of_call, ignore=["plan"])


def _call(plan: Plan, seed: int) -> tuple[Any, ...]:
    """The arguments of :func:`_of_call`; what makes weights are the values of a plan, not the names in it."""
    stages = [(dataclasses.astuple(s.recipe)[1:], *dataclasses.astuple(s)[1:]) for s in plan.stages]
    return plan, seed, (stages, plan.width, plan.faces, twin.folder().name)


def _of_call(plan: Plan, seed: int, made_of: tuple[Any, ...]) -> BioFaceNet:
    return train(plan, seed)


@torch.no_grad()
def predict(model: BioFaceNet, image: np.ndarray | Tensor, mask: np.ndarray | Tensor) -> Decomposition:
    """What a network says of faces (N, H, W, 3), linear RGB, with their masks (N, H, W); 32 at a time."""
    image, mask = torch.as_tensor(image), torch.as_tensor(mask)
    model.eval()
    parts = [model(image[i : i + 32]) for i in range(0, len(image), 32)]
    said = type(parts[0])(*(torch.cat(values) for values in zip(*parts, strict=True)))
    illuminant = illumination.mix(said.weights, said.cct)
    maps = said.melanin_fraction, said.haemoglobin_fraction, said.diffuse, said.specular
    return Decomposition.of_maps(*maps, said.camera, illuminant, image, mask)


# --- the network that ships --------------------------------------------------------------------------------

_CARD = """# Model card: the BioFaceNet that ships

Weights of `bioface.network.BioFaceNet` (width {width}, half precision) for `bioface.decompose`, made by `make weights`.

**Trained on** the {faces} training faces of the twin, which are **synthetic**: rendered heads under the study's own
image formation model, with skins drawn from fits to ISSA's measured face spectra. Supervised by the true maps (recipe
`supervised`), mirrored and recoloured: {steps}; one seed.

**Measured on** the {tested} test faces of the twin, other people, **synthetic** too. Mean RMSE over faces; pigments in
table coordinates [−1, 1], albedo and reconstruction in linear RGB. The last row is what the mean of the training
faces' maps would get.

| skin | faces | {columns} |
|---|---|{rules}|
{rows}

**Weakest** is haemoglobin, which camera and light hide: its error is {haemoglobin:.0%} of the training mean's.

**Not for**: medical use of any kind, telling health, ancestry or identity of a person, comparing people, or any
decision about one. On real photos nothing of this has been measured: nobody knows the truth there. A photo does not
hold enough to tell skin from light, so that maps look plausible when they are wrong. Faces are expected upright, from
the front, without glasses or hats, and filling most of a square picture.
"""


def ship(weights_file: Path, progress: bool = True) -> str:
    """Train the network that ships, write its weights in half precision and its model card beside them; the card."""
    model = train(SHIPPED, progress=progress)
    model.save(weights_file, half=True, plan=SHIPPED.name, trained_on="synthetic faces only")
    card = model_card(BioFaceNet.from_file(weights_file))  # as it ships, rounded
    with paths.whole_file(weights_file.with_suffix(".md")) as partial:
        partial.write_text(card)
    return card


def errors_by_group(model: BioFaceNet) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """Mean errors of a network on the twin's test faces: {skin group or "all": {column: mean}}, and how many faces.

    The row "training mean" is that of the mean of the training faces' maps, on all test faces.
    """
    faces = twin.load("test", progress=False)
    truth = maps.of_twin(faces)
    row = metrics.table1_row(predict(model, truth.image, truth.mask), truth)
    prior = bayes.Prior.learn(maps.of_twin(twin.load("train", progress=False)))
    mean = metrics.table1_row(baselines.training_mean(truth.image, truth.mask, prior), truth)
    groups, everyone = np.asarray(faces.truth.group), np.full(len(faces), "all")
    table = metrics.group_means(row, groups) | metrics.group_means(row, everyone)
    table["training mean"] = metrics.group_means(mean, everyone)["all"]
    counts = {str(g): int((groups == g).sum()) for g in np.unique(groups)}
    return table, counts | {"all": len(faces), "training mean": len(faces)}


def model_card(model: BioFaceNet) -> str:
    """What the network is, where its errors are, and what it must not be used for, as Markdown."""
    table, counts = errors_by_group(model)
    rows = [
        f"| {name} | {counts[name]} | " + " | ".join(f"{errors[column]:.3f}" for column in metrics.TABLE1) + " |"
        for name, errors in table.items()
    ]
    steps = ", then ".join(f"{s.steps} steps of {s.batch} faces{' at half size' * s.halved}" for s in SHIPPED.stages)
    return _CARD.format(
        width=model.width,
        faces=len(twin.load("train", progress=False)),
        tested=counts["all"],
        steps=steps,
        columns=" | ".join(metrics.TABLE1),
        haemoglobin=table["all"]["haemoglobin"] / table["training mean"]["haemoglobin"],
        rules="|".join(["---"] * len(metrics.TABLE1)),
        rows="\n".join(rows),
    )


if __name__ == "__main__":
    print(ship(decomposition.WEIGHTS))
