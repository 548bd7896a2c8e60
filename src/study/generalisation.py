"""BioFaceNet on faces that it has not seen: what notebook 05 trains, and the network that ships.

A plan is a few stages of training on the twin's training faces, one after the other. The weights are a function of
plan and seed and are kept, see :mod:`study.cache`.
"""

import collections
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

from bioface import decomposition, identifiability, illumination, image_formation, metrics, recipes, threads, training
from bioface.bayes import Prior, image_posterior
from bioface.datasets import skin_spectra, twin
from bioface.datasets.nfe import Faces
from bioface.errors import BiofaceError, unknown_name
from bioface.maps import Decomposition, of_twin
from bioface.network import BioFaceNet
from bioface.paths import whole_file
from bioface.recipes import Recipe
from bioface.spectra import ILLUMINANTS
from study import augmentation, baselines, cache, readme

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

    def but(self, name: str, **changes: Any) -> "Plan":
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
    faces = {"true": twin.load("train", plan.faces, progress=progress)}
    torch.set_flush_denormal(True)  # they slow the skin model threefold
    with threads.number(1):
        model = training.build(plan.stages[0].recipe, plan.width, seed)
        if _inverts(plan):
            faces["inverted"] = _inverted(plan.faces)
        for number, stage in enumerate(plan.stages):
            seen = augmentation.Augmented(faces[stage.maps], seed * 100 + number, stage.recolour, stage.halved)
            training.train(model, seen, stage.recipe, stage.steps, stage.batch, seed * 100 + number, progress=progress)
    return model


def measured_prior(image: np.ndarray, mask: np.ndarray, of: np.ndarray | None = None) -> Prior:
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
    melanin, haemoglobin = skin_spectra.pigments()
    some = np.ones(len(melanin), bool) if of is None else np.asarray(of)
    if some.shape != melanin.shape or some.dtype != bool:
        raise BiofaceError(f"expected {len(melanin)} booleans, one a spectrum, found {some.dtype} {some.shape}")
    inside = np.isfinite(melanin) & some
    return Prior.measured(melanin[inside], haemoglobin[inside], image, mask, measured.subject[inside])


def draw_cameras(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (count, 2) and illuminants (count, 33) by the law of the twin: what a photo may be taken with."""
    b, weights, cct = twin.draw_cameras(count, rng)
    return b, illumination.mix(weights, cct)


def inverted(faces: Faces) -> types.SimpleNamespace:
    """Maps of faces that nobody told, to stand for their ``truth``: their photos, each under the law of measured skin.

    They are those of :func:`bioface.bayes.image_posterior` with :func:`measured_prior`, under cameras and lights of
    the twin's law. Whatever is true of the faces is left out.
    """
    image = image_formation.srgb_decode(faces.rgb)
    draws = draw_cameras(TEACHER_DRAWS, np.random.default_rng(0))
    found = image_posterior(image, faces.mask, measured_prior(image, faces.mask), *draws)
    maps = {name: np.where(faces.mask, getattr(found, name), 0).astype(np.float32) for name in identifiability.MAPS}
    daylight = np.tile(np.array([name == "D" for name in ILLUMINANTS], np.float32), (len(faces), 1))
    d65 = np.full(len(faces), 6504, np.float32)  # K
    return types.SimpleNamespace(**maps, camera_b=found.camera_b, illuminant_weights=daylight, cct=d65)


def _inverted(count: int | None) -> Faces:
    """The first ``count`` training faces of the twin with maps that are :func:`inverted`, kept or made now."""
    faces = twin.load("train", count, progress=False)
    return dataclasses.replace(faces, truth=cache.kept(inverted, (faces,), (count, twin.folder().name)))


def _inverts(plan: Plan) -> bool:
    return any(stage.maps == "inverted" for stage in plan.stages)


def _call(plan: Plan, seed: int = 0) -> tuple[Any, ...]:
    """What :func:`study.cache.kept` takes; what makes weights are the values of a plan, not the names in it."""
    stages = [(dataclasses.astuple(s.recipe)[1:], *dataclasses.astuple(s)[1:]) for s in plan.stages]
    return train, (plan, seed), (stages, plan.width, plan.faces, twin.folder().name, seed)


def weights(plan: Plan, seed: int = 0) -> BioFaceNet:
    """The trained network, kept or trained now."""
    found: BioFaceNet = cache.kept(*_call(plan, seed))
    return found.eval()


def fill(jobs: Iterable[tuple[Plan, int]], progress: bool | None = None) -> None:
    """Train what is not kept yet, as many (plan, seed) at once as there are processors."""

    def pixels(plan: Plan, seed: int) -> float:
        return sum(stage.steps * stage.batch * (0.25 if stage.halved else 1) for stage in plan.stages)

    todo = cache.missing(_call(*job) for job in jobs)
    todo.sort(key=lambda call: -pixels(*call[1]))
    first = next((call for call in todo if _inverts(call[1][0])), None)
    todo.sort(key=lambda call: call is not first)  # its maps are made once, before the others need them
    if todo:
        twin.make(progress=sys.stderr.isatty() if progress is None else progress)  # as is the twin
    cache.side_by_side(cache.kept, todo, progress=progress)


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


def ship(weights_file: Path, progress: bool = True) -> str:
    """Train the network that ships, write its weights in half precision and its model card beside them; the card."""
    model = train(SHIPPED, progress=progress)
    model.save(weights_file, half=True, plan=SHIPPED.name, trained_on="synthetic faces only")
    card = model_card(BioFaceNet.from_file(weights_file))  # as it ships, rounded
    with whole_file(weights_file.with_suffix(".md")) as partial:
        partial.write_text(card, encoding="utf-8")
    return card


def errors_by_group(model: BioFaceNet) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """Mean errors of a network on the twin's test faces: {skin group or "all": {column: mean}}, and how many faces.

    The row "training mean" is that of the mean of the training faces' maps, on all test faces.
    """
    faces = twin.load("test", progress=False)
    truth = of_twin(faces)
    row = metrics.table1_row(predict(model, truth.image, truth.mask), truth)
    prior = Prior.learn(of_twin(twin.load("train", progress=False)))
    mean = metrics.table1_row(baselines.training_mean(truth.image, truth.mask, prior), truth)
    table = metrics.group_means(row, faces.truth.group)
    for name, of_all in (("all", row), ("training mean", mean)):
        table |= metrics.group_means(of_all, [name] * len(faces))
    counts = collections.Counter(map(str, faces.truth.group))
    return table, counts | {"all": len(faces), "training mean": len(faces)}


def model_card(model: BioFaceNet) -> str:
    """What the network is, where its errors are, and what it must not be used for, as Markdown."""
    table, counts = errors_by_group(model)
    faces = len(twin.load("train", progress=False))
    template = readme.TEMPLATES.get_template("model_card.md.j2")
    return template.render(
        width=model.width, faces=faces, plan=SHIPPED, columns=metrics.TABLE1, table=table, counts=counts
    )


if __name__ == "__main__":
    print(ship(decomposition.WEIGHTS))
