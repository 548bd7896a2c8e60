"""BioFaceNet, revisited: spectra → skin, illumination, camera → image formation → network, fits → metrics → plots.

Modules are imported when they are first used: ``import bioface`` alone is quick and loads no torch. So are
:func:`bioface.decomposition.decompose` and :func:`bioface.decomposition.edit`, which are ``bioface.decompose`` and
``bioface.edit`` as well.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

_MODULES = {module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")}
_FUNCTIONS = {"decompose", "edit"}  # of bioface.decomposition


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module("bioface.decomposition"), name)
    if name not in _MODULES:
        raise AttributeError(f"module 'bioface' has no attribute {name!r}")
    return importlib.import_module(f"bioface.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_FUNCTIONS})
