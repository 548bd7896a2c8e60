"""The first and the last lines of every notebook: seeds and style, and the versions it ran with."""

import importlib.metadata
import os
import platform
import random
from typing import Any

import joblib
import numpy as np

from bioface.errors import BiofaceError, unknown_name


def start(seed: Any) -> np.random.Generator:
    """Seed everything random, set the number of threads and the plot style.

    ``BIOFACE_THREADS`` sets the number of threads, else torch uses every processor that this process may.

    Parameters
    ----------
    seed : whole number, at least 0

    Returns
    -------
    a NumPy generator, to hand to whatever draws random numbers

    Raises
    ------
    BiofaceError : a seed or a number of threads that is not such a number
    """
    import torch

    from bioface import plotting

    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise BiofaceError(f"seed: expected a whole number, at least 0, found {seed!r}")
    threads = os.environ.get("BIOFACE_THREADS", str(processors()))
    if not threads.isdigit() or int(threads) < 1:
        raise BiofaceError(f"BIOFACE_THREADS: expected a whole number, at least 1, found {threads!r}")
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries without a generator argument draw from here
    torch.manual_seed(seed)
    torch.set_num_threads(int(threads))
    plotting.use_style()
    return np.random.default_rng(seed)


def processors() -> int:
    """How many processors this process may use."""
    return int(joblib.cpu_count())


def pick(profile: str, **choices: Any) -> Any:
    """What the profile calls for.

    >>> pick("default", default=500, full=5000)
    500
    """
    if profile not in choices:
        raise unknown_name("profile", profile, choices)
    return choices[profile]


def versions() -> None:
    """Print what the notebook ran with; its last cell, tagged ``nbval-ignore-output``."""
    print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    names = ("bioface", "torch", "numpy", "scipy", "matplotlib", "colour-science", "trimesh", "embreex")
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in names))
