"""Recipes: everything that a training run depends on besides faces, network and seed.

``paper_literal`` is the paper taken at its word, ``authors_code`` what the authors' public code does, and
``working`` what works here. Between them, each recipe differs from the one before by one field, so that every
step is one cause. ``FAULTS`` are known mistakes of re-implementations, each put alone into ``working``.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

from bioface import camera, losses, network, skin
from bioface.errors import BiofaceError, unknown_name

#: Decoders from maps to image: the table, the same with 33 bands for every pixel (slow), and known mistakes.
MISTAKES = ("no white balance", "transposed matrix", "rounded index", "mis-scaled index", "reshaped")
DECODERS = ("table", "spectral", *MISTAKES)
CHOICES = {
    "skin": tuple(skin.MODELS),
    "rows": tuple(camera.ROW_SUMS),
    "decoder": DECODERS,
    "normals": ("decoded", "undecoded"),
    "shading": network.SHADINGS,
    "batch_norm": ("train", "eval"),
    "reduction": (*losses.REDUCTIONS, "code"),
    "optimiser": ("sgd", "adam"),
    "schedule": ("constant", "cosine"),
    "start": ("random", "skin"),
}


@dataclass(frozen=True)
class Recipe:
    """One way to train. Raises BiofaceError: a choice that does not exist, a number out of its range."""

    name: str  #: what it is called
    skin: str = "layered"  #: or "published"
    rows: str = "d65"  #: or "code" or "paper", see :func:`bioface.camera.raw_to_xyz`
    decoder: str = "table"  #: or "spectral", or one of ``MISTAKES``
    normals: str = "decoded"  #: or "undecoded": the shading target from normals left as stored, (n + 1) / 2
    shading: str = "exp"  #: or "relu", the activation of both shadings
    batch_norm: str = "train"  #: or "eval": left in evaluation mode, with the statistics of an untrained network
    #: a factor: the diffuse shading is that many times the luminance of the input; or "fitted": the factor that fits
    #: each image best, in closed form
    copy_shading: float | str | None = None
    scale: float = 1.0  #: colours are in [0, scale] in the appearance loss: 1 or 255
    #: "mean" over the foreground, or "sum" over batch and pixels / 224², all losses alike; or "code": as the authors',
    #: where the appearance alone is divided, and highlights count raw and in the background too
    reduction: str = "mean"
    batch: int = 64  #: whose sum is meant by "sum" and "code"; that of a smaller batch is scaled up to it
    weights: losses.Weights = losses.Weights()  #: of the losses
    shares: losses.Shares = losses.Shares()  #: of the maps in the loss by the truth
    optimiser: str = "adam"  #: or "sgd"
    learning_rate: float = 2e-3  #: step size
    momentum: float = 0.0  #: of "sgd"
    weight_decay: float = 0.0
    schedule: str = "cosine"  #: the learning rate falls to 0 along half a cosine; or "constant"
    #: "skin": weights of output layers start at a tenth, their biases at 0, of highlights at −2: plain skin and light;
    #: "random": as any layer does, with highlights of about exp(0) = 1, the face under a white veil
    start: str = "skin"

    def __post_init__(self) -> None:
        for field, known in CHOICES.items():
            if getattr(self, field) not in known:
                raise unknown_name(field, getattr(self, field), known)
        copy = self.copy_shading
        if not (copy is None or copy == "fitted" or (isinstance(copy, int | float) and copy > 0)):
            raise BiofaceError(f"expected copy_shading to be None, 'fitted' or a factor > 0, found {copy!r}")
        if not self.learning_rate > 0:
            raise BiofaceError(f"expected learning_rate > 0, found {self.learning_rate!r}")

    def but(self, name: str, **changes: Any) -> Recipe:
        """This recipe under another name with some fields changed."""
        return dataclasses.replace(self, name=name, **changes)


_SLOW: dict[str, Any] = dict(optimiser="sgd", learning_rate=1e-5, schedule="constant")
PAPER_LITERAL = Recipe("paper_literal", skin="published", rows="paper", start="random", **_SLOW)
WORKING = Recipe("working", weights=losses.Weights(diffuse=1e-3))


def _chain(first: Recipe, *steps: tuple[str, dict[str, Any]]) -> tuple[Recipe, ...]:
    return tuple(itertools.accumulate(steps, lambda before, step: before.but(step[0], **step[1]), initial=first))


#: From the paper to what works, one field a step.
LADDER = _chain(
    PAPER_LITERAL,
    ("d65_rows", dict(rows="d65")),
    ("layered_skin", dict(skin="layered")),
    ("adam", dict(optimiser="adam")),
    ("adam_fast", dict(learning_rate=WORKING.learning_rate)),
    ("cosine", dict(schedule="cosine")),
    ("skin_start", dict(start="skin")),
    ("working", dict(weights=WORKING.weights)),
)
#: From the paper to the authors' code, one field a step.
CODE_LADDER = _chain(
    PAPER_LITERAL,
    ("scale_255", dict(scale=255.0)),
    ("summed", dict(reduction="sum")),
    ("momentum", dict(momentum=0.9)),
    ("weight_decay", dict(weight_decay=5e-4)),
    ("rows_of_the_code", dict(rows="code")),
    ("authors_code", dict(reduction="code")),
)
#: The paper with one field changed: which cause suffices alone?
SINGLE_CHANGES = (
    PAPER_LITERAL.but("only_summed", reduction="sum"),
    PAPER_LITERAL.but("only_momentum", momentum=0.9),
    PAPER_LITERAL.but("only_learning_rate_0.8", learning_rate=0.8),
    PAPER_LITERAL.but("only_adam", optimiser="adam"),
)
#: Known mistakes, each alone in ``working``.
FAULTS = (
    WORKING.but("no_white_balance", decoder="no white balance"),
    WORKING.but("transposed_matrix", decoder="transposed matrix"),
    WORKING.but("rounded_index", decoder="rounded index"),
    WORKING.but("misscaled_index", decoder="mis-scaled index"),
    WORKING.but("reshape_for_permute", decoder="reshaped"),
    WORKING.but("undecoded_normals", normals="undecoded"),
    WORKING.but("published_skin", skin="published"),
    WORKING.but("rows_sum_1", rows="paper"),
    WORKING.but("relu_for_exp", shading="relu"),
    WORKING.but("batch_norm_frozen", batch_norm="eval"),
)
_CODE: dict[str, Any] = dict(scale=255.0, reduction="sum", momentum=0.9)  # what makes the authors' steps large
#: Recipes without a fault, each on another way there: the control of every test that finds faults.
HEALTHY = (
    WORKING,
    WORKING.but("working_slower", learning_rate=1e-3, schedule="constant"),
    WORKING.but("working_sgd", optimiser="sgd", learning_rate=1e-4, schedule="constant", **_CODE),
)
#: For faces that are not in the training set (notebook 05): the paper's losses; and supervised by true maps.
PUBLISHED_LOSSES = WORKING.but("published_losses", weights=losses.Weights())
SUPERVISED = WORKING.but("supervised", weights=losses.Weights(0.0, 0.0, 0.0, 0.0, truth=1.0))

_EVERY = (*LADDER, *CODE_LADDER, *SINGLE_CHANGES, *FAULTS, *HEALTHY, PUBLISHED_LOSSES, SUPERVISED)
RECIPES = {recipe.name: recipe for recipe in _EVERY}


def get(recipe: str | Recipe) -> Recipe:
    """A recipe by its name; a recipe passes through. Raises BiofaceError: an unknown name, with the nearest known one.

    >>> get("working").optimiser
    'adam'
    """
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise unknown_name("recipe", recipe, RECIPES)
    return RECIPES[recipe]
