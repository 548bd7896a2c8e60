"""The twin's test people as no usual face shows them, or as no image formation model does.

Every error stands beside its share of what a constant gets on the same faces: a share of 1 is no skill at all, and what
makes faces alike makes errors small without any.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from bioface import metrics
from bioface.datasets import twin
from bioface.datasets.nfe import Faces
from bioface.maps import Decomposition, of_twin
from study import table1
from study.table1 import Predict, Row

BRIGHTNESS = "brightness"  #: the column that Table 1 lacks, see :func:`brightness`
COLUMNS = (*metrics.TABLE1, BRIGHTNESS)


def faces(kind: str, count: int = 64) -> Faces:
    """Test faces "beyond" in one of :data:`bioface.datasets.twin.BEYOND`, the same people in each."""
    config = twin.TwinConfig(train=1, validation=1, test=count, cubes=0, beyond=kind)
    return twin.load("test", config=config, progress=False)


def brightness(prediction: Decomposition, truth: Decomposition) -> np.ndarray:
    """(N,) octaves by which each face's mean diffuse shading is off; NaN where a method has no shading.

    So much of a face's brightness is taken for its light, and not for its skin: below 0, skin is taken for lighter.
    """
    both = prediction.diffuse_shading, truth.diffuse_shading
    said, true = (np.where(truth.mask, shading, 0).sum((-2, -1)) for shading in both)
    return np.log2(np.maximum(said, 1e-6) / true)


def rows(
    methods: Mapping[str, Predict | Sequence[Predict]], kinds: Iterable[str], count: int = 64
) -> dict[str, dict[str, Row]]:
    """{kind: {method: row}}, with :func:`brightness` among the errors; seeds as in :func:`study.table1.row`."""
    found: dict[str, dict[str, Row]] = {}
    for kind in kinds:
        true = of_twin(faces(kind, count))
        found[kind] = {name: table1.row(method, true) for name, method in methods.items()}
        for row in found[kind].values():
            row.errors[BRIGHTNESS] = np.stack([brightness(p, true) for p in row.predictions])
    return found


def error(row: Row, column: str) -> float:
    """Of a method: the mean over faces and seeds; of brightness, which is signed, the root mean square in octaves."""
    return float(np.sqrt(np.mean(row.errors[column] ** 2))) if column == BRIGHTNESS else row.mean(column)


def share(found: Mapping[str, Row], method: str, constant: str, column: str) -> float:
    """A method's error as a share of the constant's on the same faces."""
    return error(found[method], column) / error(found[constant], column)


def beside(found: Mapping[str, Row], column: str) -> str:
    """The error of each method, in words, for a claim to be read against."""
    return f"{column}: " + ", ".join(f"{name} {error(row, column):.3f}" for name, row in found.items())
