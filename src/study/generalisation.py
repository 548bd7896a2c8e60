"""BioFaceNet on faces that it has not seen: what notebook 05 and its appendix train, and the network that ships.

A plan is a few stages of training on the twin's training faces, one after the other. The weights are a function of
plan and seed and are kept, see :mod:`study.cache`.
"""

import dataclasses
import functools
import math
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bioface import by_bayes, by_network, identifiability, illumination, image_formation, recipes, threads, training
from bioface.bayes import Prior
from bioface.datasets import portrait, skin_spectra, twin
from bioface.datasets.nfe import Faces
from bioface.face_posterior import EXPOSURES, image_posterior
from bioface.maps import Decomposition, of_twin
from bioface.network import BioFaceNet
from bioface.paths import whole_file
from bioface.recipes import Recipe
from bioface.spectra import ILLUMINANTS
from study import augmentation, baselines, cache, plain_unet, readme, table1
from study.table1 import Predict, Row


@dataclass(frozen=True)
class Stage:
    """A part of a training."""

    recipe: Recipe
    steps: int
    batch: int = 16  #: faces a step
    recolour: bool = False  #: and expose and process (:mod:`study.augmentation`), half with :func:`unseen_spectra`
    maps: str = "true"  #: or "inverted": those of :func:`inverted`, for which no truth is needed; then with recolour
    halved: int = 0  #: how many times the faces are halved in size: a step takes a quarter of the time, or a half


@dataclass(frozen=True)
class Plan:
    """A training: its stages one after the other."""

    name: str
    stages: tuple[Stage, ...]
    width: int = 8  #: of the network
    faces: int | None = None  #: how many training faces; None is all
    skin_model: bool = True  #: False for a U-Net of the same size without one (:mod:`study.plain_unet`)

    @property
    def inverts(self) -> bool:
        """Whether it learns from maps that are :func:`inverted`."""
        return any(stage.maps == "inverted" for stage in self.stages)

    def but(self, name: str, **changes: Any) -> "Plan":
        """This plan under another name with some fields changed."""
        return dataclasses.replace(self, name=name, **changes)


def _halved_first(
    recipe: Recipe, small: int, large: int, maps: str = "true", recolour: bool = True, tiny: int = 0
) -> tuple[Stage, ...]:
    """Quick steps at a quarter of the size, where there are any, and at half the size, then some at full size."""
    quick = recipe.but(f"{recipe.name}_fast", learning_rate=3e-3)
    halves = [(quick, tiny, 32, 2), (quick, small, 32, 1), (recipe, large, 16, 0)]
    return tuple(Stage(r, steps, batch, recolour, maps, halved) for r, steps, batch, halved in halves if steps)


#: The networks of Table 1: without truth, as the paper trains; from photos inverted with the distribution of measured
#: skin; taught the truth of synthetic faces; and that without a skin model inside.
PUBLISHED = Plan("published", _halved_first(recipes.PUBLISHED_LOSSES, 450, 350, recolour=False))
MEASURED = Plan("published + measured skin", _halved_first(recipes.SUPERVISED, 150, 130, "inverted", tiny=300))
SYNTHETIC = Plan("synthetic truth", _halved_first(recipes.SUPERVISED, 200, 250, tiny=300))
PLAIN = SYNTHETIC.but("U-Net, no skin model", skin_model=False)
#: The first after a twelfth of its training, and the third on faces as they are.
VARIANTS = (
    Plan("published, short", (Stage(recipes.PUBLISHED_LOSSES, 110),)),
    SYNTHETIC.but("not recoloured", stages=_halved_first(recipes.SUPERVISED, 200, 250, recolour=False, tiny=300)),
)

#: What each part of the third is worth: short trainings of about the same time that differ in one thing.
_SHORT = Plan("short", _halved_first(recipes.SUPERVISED, 60, 40, tiny=150))
_EQUAL = recipes.SUPERVISED.but("supervised_equal", shares=recipes.SUPERVISED.shares._replace(haemoglobin=1.0))
_BOTH = recipes.SUPERVISED.but("supervised_both", weights=recipes.SUPERVISED.weights._replace(appearance=10.0))
_ALONE = recipes.PUBLISHED_LOSSES.but("alone", learning_rate=2e-4)
ABLATIONS = (
    _SHORT,
    _SHORT.but("at full size only", stages=(Stage(recipes.SUPERVISED, 110, 16, True),)),
    _SHORT.but("haemoglobin counts as melanin", stages=_halved_first(_EQUAL, 60, 40, tiny=150)),
    _SHORT.but("with the appearance loss", stages=_halved_first(_BOTH, 60, 40, tiny=150)),
    _SHORT.but("then self-supervised", stages=(*_SHORT.stages, Stage(_ALONE, 30))),
)

#: The network that ships: trained longer than those of notebook 05, on one seed.
SHIPPED = Plan("shipped", _halved_first(recipes.SUPERVISED, 1000, 1000, tiny=1500))


def train(plan: Plan, seed: int = 0, progress: bool = False) -> BioFaceNet:
    """The network that a plan gives, on one thread, so that it does not depend on how many there are.

    Raises
    ------
    Diverged : see :func:`bioface.training.train`
    """
    faces = {"true": twin.load("train", plan.faces, progress=progress)}
    with threads.number(1):
        how: Any = training if plan.skin_model else plain_unet
        model: BioFaceNet = how.build(plan.stages[0].recipe, plan.width, seed)
        if plan.inverts:
            known = cache.kept(inverted, (faces["true"],), (plan.faces, twin.folder().name))
            faces["inverted"] = dataclasses.replace(faces["true"], truth=known)
        for number, stage in enumerate(plan.stages):
            painted = unseen_spectra() if stage.recolour else None
            seen = augmentation.Augmented(
                faces[stage.maps], seed * 100 + number, stage.recolour, stage.halved, painted=painted
            )
            how.train(model, seen, stage.recipe, stage.steps, stage.batch, seed * 100 + number, progress=progress)
    return model


@functools.cache
def unseen_spectra() -> dict[str, np.ndarray]:
    """Which of ISSA's face spectra, by group, training may paint faces with.

    All spectra of a person are left out when one of them is the skin of a validation or test face of the twin.
    """
    subject = skin_spectra.people()
    judged = np.concatenate([twin.load(split, progress=False).truth.spectrum for split in ("validation", "test")])
    known = np.unique(subject[judged])
    return {group: rows[~np.isin(subject[rows], known)] for group, rows in portrait.base_rows().items()}


def measured_prior(image: np.ndarray, mask: np.ndarray, of: np.ndarray | None = None) -> Prior:
    """What is known of faces without any truth: :meth:`bioface.bayes.Prior.measured` of ISSA's face spectra.

    Its shadings are those at the exposure of a photographer: photos are on average darker by what
    :data:`bioface.face_posterior.EXPOSURES` are.

    Parameters
    ----------
    image, mask : (N, H, W, 3) linear RGB, (N, H, W) bool, photos that tell how bright skin is lit
    of : bool for each of ISSA's spectra, the ones to learn from; None is all
    """
    some = slice(None) if of is None else of
    melanin, haemoglobin = (pigment[some] for pigment in skin_spectra.pigments())
    low, high = EXPOSURES
    mean_exposure = (2**high - 2**low) / ((high - low) * math.log(2))
    known = Prior.measured(melanin, haemoglobin, image, mask, skin_spectra.people()[some])
    return known.exposed(1 / mean_exposure)


def exposed_alike(faces: Faces) -> Decomposition:
    """What would be true of faces of the twin, had all been exposed alike; for laws that know of exposure."""
    truth, factor = of_twin(faces), faces.truth.exposure[:, None, None]
    diffuse, specular = truth.diffuse_shading / factor, truth.specular_shading / factor
    image = truth.image / factor[..., None]
    return dataclasses.replace(truth, image=image, diffuse_shading=diffuse, specular_shading=specular)


def inverted(faces: Faces) -> types.SimpleNamespace:
    """Maps to stand for the ``truth`` of faces, from their photos alone: the posterior under :func:`measured_prior`."""
    image = image_formation.srgb_decode(faces.rgb)
    draws = by_bayes.draw(64, np.random.default_rng(0))
    found = image_posterior(image, faces.mask, measured_prior(image, faces.mask), *draws)
    maps = {name: np.where(faces.mask, getattr(found, name), 0).astype(np.float32) for name in identifiability.MAPS}
    daylight = np.tile(np.array([name == "D" for name in ILLUMINANTS], np.float32), (len(faces), 1))
    d65 = np.full(len(faces), 6504, np.float32)  # K
    return types.SimpleNamespace(**maps, camera_b=found.camera_b, illuminant_weights=daylight, cct=d65)


def _call(plan: Plan, seed: int = 0) -> tuple[Any, ...]:
    """What :func:`study.cache.kept` takes; what makes weights are the values of a plan, not the names in it."""
    stages = [(dataclasses.astuple(s.recipe)[1:], *dataclasses.astuple(s)[1:]) for s in plan.stages]
    made_of = stages, plan.width, plan.faces, plan.skin_model, twin.folder().name, seed
    return train, (plan, seed), made_of


def weights(plan: Plan, seed: int = 0) -> BioFaceNet:
    """The trained network, kept or trained now."""
    found: BioFaceNet = cache.kept(*_call(plan, seed))
    return found.eval()


def networks(seeds: Mapping[Plan, Sequence[int]]) -> dict[str, list[Predict]]:
    """{name of a plan: what each of its networks says of photos and masks}, for the seeds of each.

    What is not kept yet is trained, as many networks at once as there are processors.
    """
    todo = cache.missing(_call(plan, seed) for plan, some in seeds.items() for seed in some)
    first = next((call for call in todo if call[1][0].inverts), None)
    todo.sort(key=lambda call: call is not first)  # its maps are made once, before the others need them
    if todo:
        twin.make(progress=sys.stderr.isatty())  # as is the twin
    cache.side_by_side(cache.kept, todo)
    return {
        plan.name: [functools.partial(predict, weights(plan, seed)) for seed in some] for plan, some in seeds.items()
    }


@torch.no_grad()
def predict(model: BioFaceNet, image: np.ndarray | Tensor, mask: np.ndarray | Tensor) -> Decomposition:
    """What a network says of faces (N, H, W, 3), linear RGB, with their masks (N, H, W); 32 at a time."""
    image, mask = torch.as_tensor(image), torch.as_tensor(mask)
    model.eval()
    parts = [model(image[i : i + 32]) for i in range(0, len(image), 32)]
    said = type(parts[0])(*(torch.cat(values) for values in zip(*parts, strict=True)))
    if isinstance(said, plain_unet.Maps):
        return plain_unet.decomposition(said, image, mask)
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


#: Test faces of a model card beside the usual ones, beyond them in one way, in words.
BEYOND = {
    "exposure": "0–1.5 octaves darker",
    "measured": "painted with measured spectra",
    "tone": "tone curve of ± 0.08",
    "jpeg": "JPEG of quality 75",
    "noise": "2 % noise",
}
NETWORK, CONSTANT = "all", "training mean"  #: rows of a model card: the network, and what it has to beat


def card_errors(model: BioFaceNet) -> dict[str, dict[str, Row]]:
    """{"", or a kind of :data:`BEYOND`: rows of :data:`NETWORK` and :data:`CONSTANT`} on the twin's test faces.

    The usual faces, "", have a row for each skin group before those.
    """
    prior = Prior.learn(of_twin(twin.load("train", progress=False)))
    methods = {
        NETWORK: functools.partial(predict, model),
        CONSTANT: functools.partial(baselines.training_mean, prior=prior),
    }
    found, group = table1.rows(methods, ["", *BEYOND]), table1.beyond("").truth.group
    found[""] = {str(name): found[""][NETWORK].of(group == name) for name in np.unique(group)} | found[""]
    return found


def model_card(model: BioFaceNet) -> str:
    """What the network is, where its errors are, and what it must not be used for, as Markdown."""
    found = card_errors(model)
    return readme.TEMPLATES.get_template("model_card.md.j2").render(
        width=model.width,
        faces=len(twin.load("train", progress=False)),
        plan=SHIPPED,
        columns=table1.COLUMNS,
        groups=found[""],
        beyond={words: found[kind] for kind, words in BEYOND.items()},
        error=table1.error,
        share=lambda rows, column: table1.share(rows, NETWORK, CONSTANT, column),
        network=NETWORK,
        constant=CONSTANT,
    )


if __name__ == "__main__":
    print(ship(by_network.WEIGHTS))
