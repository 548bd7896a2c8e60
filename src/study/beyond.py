"""The twin's test people as no usual face shows them, or as no image formation model does: notebook 05, section 10.

Every error stands beside its share of what a constant gets on the same faces: a share of 1 is no skill at all, and what
makes faces alike makes errors small without any.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from bioface import metrics
from bioface.datasets import twin
from bioface.datasets.nfe import Faces
from bioface.errors import BiofaceError
from bioface.maps import Decomposition, of_twin
from study import table1
from study.table1 import Predict, Row

USUAL = twin.BEYOND[0]
BRIGHTNESS = "brightness"  #: the column that Table 1 lacks, see :func:`brightness`
COLUMNS = (*metrics.TABLE1, BRIGHTNESS)


def faces(kind: str, count: int = 64) -> Faces:
    """Test faces "beyond" in one of :data:`bioface.datasets.twin.BEYOND`, the same people in each.

    Raises
    ------
    BiofaceError : unknown kind, not a number of faces
    """
    config = twin.TwinConfig(train=1, validation=1, test=count, cubes=0, beyond=kind)
    return twin.load("test", config=config, progress=False)


def truth(kind: str, count: int = 64) -> Decomposition:
    """What is true of :func:`faces`."""
    return of_twin(faces(kind, count))


def brightness(prediction: Decomposition, truth: Decomposition) -> np.ndarray:
    """(N,) octaves by which each face's mean diffuse shading is off; NaN where a method has no shading.

    So much of a face's brightness is taken for its light, and not for its skin: below 0, skin is taken for lighter.
    """
    said, true = (
        np.where(truth.mask, d.diffuse_shading, 0).sum((-2, -1)) / truth.mask.sum((-2, -1)) for d in (prediction, truth)
    )
    return np.log2(np.maximum(said, 1e-6) / true)


def rows(
    methods: Mapping[str, Predict | Sequence[Predict]], kinds: Iterable[str] = twin.BEYOND, faces: int = 64
) -> dict[str, dict[str, Row]]:
    """{kind: {method: row}}, with :func:`brightness` among the errors; seeds as in :func:`study.table1.row`."""
    found: dict[str, dict[str, Row]] = {}
    for kind in kinds:
        true = truth(kind, faces)
        found[kind] = {name: table1.row(method, true) for name, method in methods.items()}
        for row in found[kind].values():
            row.errors[BRIGHTNESS] = np.stack([brightness(p, true) for p in row.predictions])
    return found


def error(row: Row, column: str) -> float:
    """Of a method: the mean over faces and seeds; of brightness, which is signed, the root mean square in octaves."""
    return float(np.sqrt(np.mean(row.errors[column] ** 2))) if column == BRIGHTNESS else row.mean(column)


def share(found: Mapping[str, Row], method: str, constant: str, column: str) -> float:
    """A method's error as a share of the constant's on the same faces.

    Raises
    ------
    BiofaceError : a constant without an error, beside which nothing can be put
    """
    beside = error(found[constant], column)
    if not beside > 0:
        raise BiofaceError(f"expected a constant that is wrong in {column}, found an error of {beside:g}")
    return error(found[method], column) / beside


def beside(found: Mapping[str, Row], method: str, constant: str, column: str) -> tuple[float, str]:
    """:func:`share`, and in words the two errors that it is made of."""
    both = f"{column} {error(found[method], column):.3f}, {constant} {error(found[constant], column):.3f}"
    return share(found, method, constant, column), both


def as_text(found: Mapping[str, Mapping[str, Row]], constant: str, columns: Sequence[str] = COLUMNS) -> str:
    """A block a kind, a line a method: each error, and in brackets its share of the constant's."""
    width = max(len(name) for of_kind in found.values() for name in of_kind) + 2
    lines = [" " * width + "".join(f"{column:>16}" for column in columns)]
    for kind, of_kind in found.items():
        lines.append(kind or "usual")
        for name in of_kind:
            pairs = ((error(of_kind[name], c), share(of_kind, name, constant, c)) for c in columns)
            lines.append(f"  {name:{width - 2}}" + "".join(f"{f'{e:.3f} ({s:.2f})':>16}" for e, s in pairs))
    return "\n".join(lines)
