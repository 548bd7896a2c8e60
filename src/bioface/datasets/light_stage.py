"""Two real faces of a light stage whose diffuse and specular reflection were photographed apart: BioSkin's test images.

1 is a pale woman with a red nose and freckles; 2 a brown-skinned man with a pigmented patch on his temple. The parts'
sum is a photo in unpolarised light. Limits: uniform light, no sharp highlights (6 and 14 % of the photo); 8-bit JPEG;
no truth for pigments; the specular pictures, of unstated encoding, are read as sRGB. ``make data`` brings them (MIT).

Reference: Aliaga et al. (2023), "A Hyperspectral Space of Skin Tones for Inverse Rendering of Biophysical Skin
Properties", Computer Graphics Forum 42; github.com/facebookresearch/BioSkin.
"""

import dataclasses
import tomllib
from pathlib import Path

import numpy as np
from PIL import Image

from bioface import image_formation, paths
from bioface.datasets import registry
from bioface.errors import DataError

SIZE = (257, 410)  #: of a face as it is handed out, columns and rows
FULL = (4121, 6561)  #: of the files
REGIONS = paths.TABLES / "light_stage.toml"


@dataclasses.dataclass(frozen=True)
class StageFace:
    """One face in linear light, red, green and blue as sRGB's."""

    diffuse: np.ndarray  #: (410, 257, 3) float32, from under the surface
    specular: np.ndarray  #: (410, 257) float32, from the surface, on the same scale
    #: (410, 257) bool: "face", "forehead", "brows", "nose" or "patch" and "ring" around it
    regions: dict[str, np.ndarray]
    name: str  #: "1" or "2"

    @property
    def photo(self) -> np.ndarray:
        """(410, 257, 3) linear, both parts together, cut at 1."""
        return np.minimum(self.diffuse + self.specular[..., None], 1)


def load() -> list[StageFace]:
    """Both faces, shrunk by area in linear light; DataError on a file that is absent, damaged, or of another size."""
    folder, faces = paths.data() / "bioskin", []
    for name, regions in tomllib.loads(REGIONS.read_text(encoding="utf-8")).items():
        diffuse, specular = (_shrunk(folder / f"{name}{part}.jpg") for part in ("", "_spec"))
        where = {region: _inside(region, ellipses) for region, ellipses in regions.items()}
        faces.append(StageFace(diffuse, specular.mean(-1), where, name))
    return faces


def _shrunk(file: Path) -> np.ndarray:
    if not file.is_file():
        raise DataError(file, "a face of the light stage", f"no such file. {registry.ENTRIES['bioskin'].instructions}")
    to_linear = image_formation.srgb_decode(np.arange(256) / 255).astype(np.float32)
    try:
        with Image.open(file) as picture:
            if picture.size != FULL:
                raise DataError(file, f"{FULL[0]} × {FULL[1]} pixels", f"{picture.size[0]} × {picture.size[1]}")
            channels = [np.asarray(channel) for channel in picture.convert("RGB").split()]
    except OSError as error:
        raise DataError(file, "a picture", str(error)) from error
    small = [Image.fromarray(to_linear[values]).resize(SIZE, Image.Resampling.BOX) for values in channels]
    return np.stack([np.asarray(channel) for channel in small], -1)


def _inside(region: str, ellipses: list[list[int]]) -> np.ndarray:
    row, column = np.mgrid[: SIZE[1], : SIZE[0]]
    inside = [((column - x) / rx) ** 2 + ((row - y) / ry) ** 2 < 1 for x, y, rx, ry in ellipses]
    return inside[0] & ~inside[1] if region == "ring" else np.any(inside, 0)
