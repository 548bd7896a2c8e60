"""BioFaceNet, revisited: spectra → skin, illumination, camera → image formation → network, fits → metrics → plots.

Modules are imported when they are first used: ``import bioface`` alone is quick and loads no torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

_MODULES = {module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")}


def __getattr__(name: str) -> ModuleType:
    if name not in _MODULES:
        raise AttributeError(f"module 'bioface' has no attribute {name!r}")
    return importlib.import_module(f"bioface.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
