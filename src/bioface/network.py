"""BioFaceNet: a photo in, four maps, a camera and a light out.

One encoder, four separate decoders (melanin, haemoglobin, diffuse and specular shading) with skips from the encoder,
and a fully connected branch from the lowest level for camera and light. What the network says is physical quantities.

Reference: Alotaibi & Smith (2019), "BioFaceNet: Deep Biophysical Face Image Interpretation", BMVC, section 3.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bioface import illumination, skin
from bioface import weights as weights_file
from bioface.errors import BiofaceError, DataError, unknown_name

LEVELS = 5  #: of the encoder; each but the last is followed by a 2 × 2 max-pool
MULTIPLE = 2 ** (LEVELS - 1)  #: height and width of an image must be multiples of it
ARCHITECTURE = "BioFaceNet"  #: what a weights file says it is
SHADINGS = ("exp", "relu")
#: Subtracted from the linear image: the authors' (129.19, 104.76, 93.59) / 255.
MEAN_RGB = (0.50663, 0.41082, 0.36702)


class Output(NamedTuple):
    """What the network says of a batch; maps are (B, H, W)."""

    melanin: Tensor  #: table coordinate g in (−1, 1), see :func:`bioface.skin.table_fraction`
    haemoglobin: Tensor  #: likewise
    diffuse: Tensor  #: shading, > 0 with "exp"
    specular: Tensor  #: likewise
    camera: Tensor  #: (B, 2) camera coefficients b in (−3, 3)
    weights: Tensor  #: (B, 14) shares of the illuminants A, D, F1 … F12, which sum to 1
    cct: Tensor  #: (B,) correlated colour temperature of the daylight, K

    @property
    def melanin_fraction(self) -> Tensor:
        """(B, H, W) melanin volume fraction."""
        return skin.table_fraction(self.melanin, skin.MELANIN_RANGE[1])

    @property
    def haemoglobin_fraction(self) -> Tensor:
        """(B, H, W) blood volume fraction."""
        return skin.table_fraction(self.haemoglobin, skin.HAEMOGLOBIN_RANGE[1])


def _level(channels_in: int, channels: int) -> nn.Sequential:
    """Three times (3 × 3 convolution, batch norm, ReLU): (B, channels_in, H, W) → (B, channels, H, W)."""
    layers: list[nn.Module] = []
    for _ in range(3):
        # no bias: the batch norm that follows has one
        layers += [nn.Conv2d(channels_in, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(True)]
        channels_in = channels
    return nn.Sequential(*layers)


class Decoder(nn.Module):
    """From the lowest level back to full size, one map out."""

    def __init__(self, filters: list[int], channels: int = 1):
        super().__init__()
        self.levels = nn.ModuleList(
            _level(below + skip, skip) for below, skip in zip(filters[:0:-1], filters[-2::-1], strict=True)
        )
        self.last = nn.Conv2d(filters[0], channels, 1)

    def forward(self, lowest: Tensor, skips: list[Tensor]) -> Tensor:
        """The map (B, H, W), before its scaling, from the encoder's lowest level and its skips, finest first."""
        x = lowest  # (B, 16w, H/16, W/16)
        for level, skip in zip(self.levels, reversed(skips), strict=True):
            x = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")  # twice the size
            x = level(torch.cat([x, skip], dim=1))  # (B, 8w, H/8, W/8) … (B, w, H, W)
        return self.last(x).squeeze(1)  # (B, H, W)


class BioFaceNet(nn.Module):
    """The network of the paper.

    Parameters
    ----------
    width : filters of the first level; 32 is the paper's (26 million weights), 16 and 8 are quick
    shading : "exp" as published, or "relu": how raw values become shadings ≥ 0
    """

    def __init__(self, width: int = 32, shading: str = "exp"):
        super().__init__()
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise BiofaceError(f"expected a width of at least 1 filter, found {width!r}")
        if shading not in SHADINGS:
            raise unknown_name("shading activation", shading, SHADINGS)
        self.width, self.shading = width, shading
        filters = [width * 2**level for level in range(LEVELS)]  # 32, 64, 128, 256, 512
        self.encoder = nn.ModuleList(_level(i, o) for i, o in zip([3, *filters[:-1]], filters, strict=True))
        self.melanin, self.haemoglobin, self.diffuse, self.specular = (Decoder(filters) for _ in range(4))
        self.vector = nn.Sequential(  # (B, 16w, 4, 4) → (B, 17, 1, 1)
            nn.Conv2d(filters[-1], filters[-1], 4),
            nn.ReLU(True),
            nn.Conv2d(filters[-1], filters[-1], 1),
            nn.ReLU(True),
            nn.Conv2d(filters[-1], 2 + 14 + 1, 1),
        )

    def forward(self, image: Float[Tensor, "B H W 3"]) -> Output:
        """Decompose linear RGB images (B, H, W, 3), about 0–1; H and W are multiples of 16.

        Raises
        ------
        BiofaceError : colours that are not last, a size that is not a multiple of 16, or, in training, one image of
            16 × 16, of which batch norm sees a single pixel at the lowest level
        """
        lowest, skips = self.encode(image)
        # 64 × 64 images arrive here as 4 × 4, which the pooling leaves as it is; others are brought to it
        vector = self.vector(nn.functional.adaptive_avg_pool2d(lowest, 4)).flatten(1)  # (B, 17)
        b, weights, t = vector.split([2, 14, 1], dim=1)
        low, high = illumination.CCT_RANGE
        shade = torch.exp if self.shading == "exp" else torch.relu
        return Output(
            melanin=2 * self.melanin(lowest, skips).sigmoid() - 1,
            haemoglobin=2 * self.haemoglobin(lowest, skips).sigmoid() - 1,
            diffuse=shade(self.diffuse(lowest, skips)),
            specular=shade(self.specular(lowest, skips)),
            camera=6 * b.sigmoid() - 3,
            weights=weights.softmax(1),
            cct=low + (high - low) * t.squeeze(1).sigmoid(),
        )

    def encode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The encoder's lowest level and its skips, finest first, as every decoder takes them.

        Raises BiofaceError: see :meth:`forward`.
        """
        check_image(image)
        if self.training and image.shape[:3].numel() == MULTIPLE**2:
            raise BiofaceError("expected images that batch norm can compare, found a batch of one of 16 × 16")
        x = image.movedim(-1, 1).to(self.melanin.last.weight)  # (B, 3, H, W)
        x = x - x.new_tensor(MEAN_RGB)[:, None, None]
        skips = []
        for convolutions in self.encoder[:-1]:
            x = convolutions(x)  # (B, w, H, W), (B, 2w, H/2, W/2), (B, 4w, H/4, W/4), (B, 8w, H/8, W/8)
            skips.append(x)
            x = nn.functional.max_pool2d(x, 2)
        return self.encoder[-1](x), skips  # (B, 16w, H/16, W/16)

    def config(self) -> dict[str, int | str]:
        """What it takes to build this network again."""
        return {"width": self.width, "shading": self.shading}

    def save(self, path: str | Path, half: bool = False, **notes: str) -> None:
        """Write the weights as safetensors with the configuration and ``notes`` inside, whole or not at all.

        With ``half`` they are in half precision, for a file of half the size.

        Raises
        ------
        BiofaceError : weights that are not finite, or not in half precision
        DataError : a file that cannot be written
        """
        tensors = dict(self.state_dict())
        if half:
            tensors = {name: v.half() if v.is_floating_point() else v for name, v in tensors.items()}
        for name, value in tensors.items():
            if not bool(torch.isfinite(value).all()):
                raise BiofaceError(f"expected finite weights to save, found NaN or infinity in {name}")
        metadata = {**notes, "architecture": ARCHITECTURE, "config": json.dumps(self.config())}
        weights_file.write(path, tensors, metadata, "a file that can be written")

    @classmethod
    def from_file(cls, path: str | Path) -> BioFaceNet:
        """The network of a weights file, ready for inference (``eval``), in single precision.

        Raises DataError: missing, not safetensors (a pickle is never opened), of another architecture, damaged.
        """
        tensors, metadata = weights_file.read(path, ARCHITECTURE)
        try:
            config = json.loads(metadata["config"])
            with torch.device("meta"):  # the shapes alone: a damaged width must not take the memory
                sketch = cls(**config)
        # RuntimeError, OverflowError: too wide to count; RecursionError, a RuntimeError: nested without end
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise DataError(path, f"a {ARCHITECTURE} configuration inside", f"{error!r}") from error
        weights_file.check_tensors(
            path, tensors, sketch.state_dict(), f"weights of {ARCHITECTURE} of width {sketch.width}"
        )
        network = cls(**config)
        network.load_state_dict(tensors)
        return network.eval()


def check_image(image: Tensor) -> None:
    """Refuse what is not (B, H, W, 3), B at least 1, floating-point, with H and W multiples of 16.

    Raises BiofaceError: says what was expected and found.
    """
    shape = tuple(image.shape)
    if image.ndim != 4 or shape[-1] != 3:
        hint = "; the colours are in another place: move them last" if image.ndim == 4 and shape[1] == 3 else ""
        raise BiofaceError(f"expected images of shape (B, H, W, 3), found {shape}{hint}")
    if not image.is_floating_point():
        raise BiofaceError(f"expected floating-point colours, about 0–1, found {image.dtype}")
    B, H, W, _ = shape
    if not B:
        raise BiofaceError("expected at least one image, found none")
    if not H or not W or H % MULTIPLE or W % MULTIPLE:
        raise BiofaceError(f"expected a height and width that are multiples of {MULTIPLE}, found {H} × {W}")
