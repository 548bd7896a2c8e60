"""The camera: spectral sensitivities from a statistical model, white balance, raw to XYZ.

References
----------
Jiang, Liu, Gu & Süsstrunk (2013), "What is the space of spectral sensitivity functions for digital color
cameras?", WACV: the 28 measured cameras.
Alotaibi & Smith (2019), "BioFaceNet", BMVC, sections 3.2 and 3.4: two principal components, camera to XYZ.
IEC 61966-2-1:1999: XYZ to linear sRGB.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bioface import paths, spectra
from bioface.arrays import accepts_numpy, as_float
from bioface.errors import BiofaceError, DataError, unknown_name

#: XYZ to linear sRGB (IEC 61966-2-1:1999, four digits as in the standard)
XYZ_TO_SRGB = torch.tensor(
    [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]],
    dtype=torch.float64,
    device="cpu",
)

#: What the rows of the raw-to-XYZ matrix sum to, that is the XYZ of a white-balanced white.
ROW_SUMS = {
    # white is linear sRGB (1, 1, 1), to the last digit of the matrix above; Y = 1
    "d65": torch.linalg.solve(XYZ_TO_SRGB, torch.ones(3, dtype=torch.float64, device="cpu")),
    # D65's chromaticity, as the authors' code has it: white is neutral at 0.342
    "code": torch.tensor([0.3253, 0.3425, 0.3723], dtype=torch.float64, device="cpu"),
    # as the paper's text says: white becomes (1.205, 0.948, 0.909)
    "paper": torch.ones(3, dtype=torch.float64, device="cpu"),
}


@dataclass(frozen=True)
class CameraModel:
    """Two-component statistical model of camera sensitivity: max(0, mean + Σ_k b_k σ_k component_k)."""

    mean: Tensor  #: (3, 33) mean of the unit-sum channels R, G, B
    components: Tensor  #: (2, 3, 33) orthonormal principal components of the centred, stacked channels
    deviations: Tensor  #: (2,) standard deviation σ of the 28 cameras along each component
    explained_variance: float  #: share of the centred variance that the two components explain
    explained_uncentred: float  #: the same share when the mean counts as variance too

    @classmethod
    @functools.cache
    def load(cls) -> CameraModel:
        """The model of the 28 cameras (float64), from the table that ships with the package; it names its source."""
        lines = (paths.TABLES / "camera_model.csv").read_text(encoding="utf-8").splitlines()
        values = dict(x[1:].split(":", 1) for x in lines if x.startswith("#") and ":" in x)
        columns = torch.from_numpy(np.loadtxt(lines, delimiter=",", comments="#").T[1:].reshape(3, 3, 33).copy())
        deviations = torch.from_numpy(np.array(values[" deviations"].split(), float))
        shares = [float(values[f" {k}"]) for k in ("explained centred", "explained uncentred")]
        return cls(columns[0], columns[1:], deviations, *shares)

    @classmethod
    def from_database(cls, path: str | Path) -> CameraModel:
        """Derive the model from the raw data base of 28 cameras (Jiang 2013, text form).

        Raises DataError: see :func:`read_database`.
        """
        _, sensitivities = read_database(path)
        X = sensitivities / sensitivities.sum(-1, keepdim=True)
        X = X.reshape(len(X), -1)  # (28, 99)
        mean = X.mean(0)
        _, s, V = torch.linalg.svd(X - mean, full_matrices=False)
        s_uncentred = torch.linalg.svdvals(X)
        V = V[:2] * V[:2].gather(1, V[:2].abs().argmax(1, keepdim=True)).sign()  # a sign that can be told
        return cls(
            mean.reshape(3, 33),
            V.reshape(2, 3, 33),
            s[:2] / (len(X) - 1) ** 0.5,
            float((s[:2] ** 2).sum() / (s**2).sum()),
            float((s_uncentred[:2] ** 2).sum() / (s_uncentred**2).sum()),
        )

    @accepts_numpy
    def sensitivity(self, b: Float[Tensor, "*batch 2"] | None = None) -> Float[Tensor, "*batch 3 33"]:
        """Sensitivities (..., 3, 33) of cameras with coefficients b (..., 2), in [−3, 3]; None is the mean.

        Differentiable; NumPy in, NumPy out.

        >>> S = CameraModel.load().sensitivity(torch.zeros(5, 2))
        >>> tuple(S.shape), round(float(S[0, 0].sum()), 4)
        ((5, 3, 33), 1.0)
        """
        if b is None:
            return self.mean.clamp_min(0)
        b = as_float(b)
        weights = b * self.deviations.to(b)
        return (self.mean.to(b) + torch.einsum("...k,kcd->...cd", weights, self.components.to(b))).clamp_min(0)


def read_database(path: str | Path) -> tuple[list[str], Float[Tensor, "cameras 3 33"]]:
    """Names and sensitivities (28, 3, 33) of the cameras in the text data base of Jiang 2013.

    Each camera is a line with its name and three lines (R, G, B) of 33 values at 400:10:720 nm.

    Raises DataError: missing file, a camera with other than 3 rows of 33 finite numbers, a channel without response.
    """
    expected = "blocks of a camera's name and three rows (R, G, B) of 33 sensitivities, 400:10:720 nm"
    try:
        lines = [x.strip() for x in Path(path).read_text(encoding="utf-8").splitlines() if x.strip() and x[0] != "#"]
        names, rows = lines[::4], [line.split() for k, line in enumerate(lines) if k % 4]
        table = np.array(rows, np.float64).reshape(len(names), 3, 33)
    except (OSError, ValueError) as fault:
        raise DataError(path, expected, f"{type(fault).__name__}: {fault}") from fault
    for name, channels in zip(names, table, strict=True):
        if not (np.isfinite(channels).all() and (channels.sum(-1) > 0).all()):
            raise DataError(path, expected, f"camera {name!r} with rows that sum to {channels.sum(-1)}")
    return names, torch.from_numpy(table)


@accepts_numpy
def raw_to_xyz(S: Float[Tensor, "*batch 3 33"], rows: str = "d65") -> Float[Tensor, "*batch 3 3"]:
    """Matrix (..., 3, 3) from white-balanced raw to CIE 1931 XYZ: T = C S⁺, with its rows rescaled.

    ``rows`` says what the rows sum to. "d65": the XYZ of D65 with Y = 1, white stays white; "code": the authors'
    0.3253, 0.3425, 0.3723; "paper": 1, which turns white pink. Raises BiofaceError: unknown ``rows``.
    """
    if rows not in ROW_SUMS:
        raise unknown_name("row scaling", rows, ROW_SUMS)
    C = spectra.colour_matching_functions().to(S)
    T = C @ torch.linalg.pinv(S)
    return T / T.sum(-1, keepdim=True) * ROW_SUMS[rows].to(S)[:, None]


@accepts_numpy
def white_balance(
    raw: Float[Tensor, "*pixels 3"], S: Float[Tensor, "*batch 3 33"], e: Float[Tensor, "*batch 33"]
) -> Float[Tensor, "*pixels 3"]:
    """Divide raw (..., 3) by the camera's answer S e to the illuminant: a white surface becomes (1, 1, 1).

    Batch axes come first in all three: raw (B, H, W, 3) goes with S (B, 3, 33) and e (B, 33).

    Raises BiofaceError: when the camera does not see the illuminant in some channel.
    """
    white = _seen(torch.einsum("...cd,...d->...c", S.to(raw), e.to(raw)))
    return raw / white.reshape(*white.shape[:-1], *(1,) * (raw.ndim - white.ndim), 3)


def _seen(white: Tensor) -> Tensor:
    """What the channels say of white (..., 3), once it is something."""
    if not bool((white > 0).all()):
        raise BiofaceError("expected an illuminant that every camera channel answers to, found an answer of 0")
    return white


@accepts_numpy
def reflectance_to_rgb(
    illuminant: Float[Tensor, "*batch 33"],
    S: Float[Tensor, "*batch 3 33"],
    rows: str = "d65",
    balanced_for: Float[Tensor, "*batch 33"] | None = None,
) -> Float[Tensor, "*batch 3 33"]:
    """The whole camera as one matrix (..., 3, 33): from a reflectance factor (..., 33) to linear sRGB (..., 3).

    Light, sensitivity, white balance, raw → XYZ → sRGB are all linear in the reflectance, so they multiply out. The
    balance is for the light that shines, or another one.
    """
    raw = S * illuminant.to(S)[..., None, :]
    white = raw if balanced_for is None else S * balanced_for.to(S)[..., None, :]
    return XYZ_TO_SRGB.to(S) @ raw_to_xyz(S, rows) @ (raw / _seen(white.sum(-1))[..., None])
