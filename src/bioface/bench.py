"""What the work costs, as ratios measured in one process: each fast way against the plain one.

A time says little about another machine, a ratio of two times taken in turns says more. Every row of the table is
such a ratio: numerator and denominator are timed in alternating rounds, and the ratio of each round is what counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from bioface.datasets import nfe
from bioface.errors import BiofaceError

BATCH = 64  #: faces a step, as in the paper


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
        middle = (float(np.median(v)) for v in (numerator, denominator, ratios))
        return cls(name, what, *middle, float(ratios.min()), float(ratios.max()), len(ratios))


def in_turns(tasks: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds (rounds,) of each task; all once a round, every other round backwards, after one that warms up.

    Raises
    ------
    BiofaceError : less than one round
    """
    if rounds < 1:
        raise BiofaceError(f"expected at least 1 round, found {rounds}")
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(rounds + 1):
        for name in list(tasks)[:: 1 if turn % 2 else -1]:
            began = time.perf_counter()
            tasks[name]()
            seconds[name].append(time.perf_counter() - began)
    return {name: np.array(values[1:]) for name, values in seconds.items()}


def streaming(images: str | Path, lights: str | Path | None = None, rounds: int = 5, size: int = BATCH) -> list[Row]:
    """Faces streamed, checked and decoded, against h5py reading the same bytes in the same blocks and dropping them.

    Parameters
    ----------
    images, lights : a pair of files as :class:`bioface.datasets.nfe.NFE` takes them
    size : faces a batch

    Returns
    -------
    rows ``streaming_sequential`` and ``streaming_shuffled``, each of a pass over the whole file

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
        Row.of(f"streaming_{order}", f"{order} batches of a file / its raw HDF5 reads", seconds[order], seconds["raw"])
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
