"""Face Mesh: its networks, its triangles, and what follows from its 468 points: outline, mask, normals, depth.

The networks are Google's, small enough for a processor without graphics. They run here in plain torch: forty lines,
where LiteRT, their own runtime, would be a package of 10 MB for every platform. Weights and triangles are those of
``assets/face_mesh.npz`` (see ``assets/README.md``). :mod:`bioface.faces` finds where in a photo to look.

References
----------
Bazarevsky et al. (2019), "BlazeFace: sub-millisecond neural face detection on mobile GPUs", arXiv 1907.05047.
Kartynnik et al. (2019), "Real-time facial surface geometry from monocular video on mobile GPUs", arXiv 1907.06724.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from bioface import arrays, paths

ASSET = paths.ASSETS / "face_mesh.npz"
EYES = (33, 263)  #: points of the mesh, the outer corners of the right and the left eye


# --- the two networks --------------------------------------------------------------------------------------


class Network:
    """Layers as ``assets/build_faces.py`` writes them down."""

    def __init__(self, name: str, asset: dict[str, np.ndarray]):
        self.graph = json.loads(asset[f"{name}_layers"].tobytes())
        numbered = {key.removeprefix(f"{name}_"): v for key, v in asset.items()}
        self.weights = {int(k): torch.from_numpy(v.astype(np.float32)) for k, v in numbered.items() if k.isdigit()}

    def __call__(self, pictures: Tensor) -> list[Tensor]:
        """Outputs of pictures (N, 3, H, W)."""
        values = {self.graph["input"]: pictures.contiguous(memory_format=torch.channels_last)}
        for kind, inputs, output, settings in self.graph["layers"]:
            x = values[inputs[0]]
            if "padding" in settings:
                x = F.pad(x, settings["padding"])
            if kind in ("conv", "depthwise"):
                weight, bias = (self.weights[k] for k in inputs[1:])
                groups = x.shape[1] if kind == "depthwise" else 1
                x = F.conv2d(x, weight, bias, settings["stride"], settings.get("around", 0), groups=groups)
            elif kind == "add":
                x = x + values[inputs[1]]
            elif kind == "prelu":
                x = F.prelu(x, self.weights[inputs[1]])
            elif kind == "max_pool":
                x = F.max_pool2d(x, settings["kernel"], settings["stride"])
            elif kind == "reshape":  # cells one after the other
                x = x.permute(0, 2, 3, 1).reshape(len(x), -1, settings["channels"])
            elif kind == "concatenation":
                x = torch.cat([values[k] for k in inputs], 1)
            values[output] = x.relu() if kind == "relu" or settings.get("relu") else x
        return [values[k] for k in self.graph["outputs"]]


@functools.cache
def load() -> tuple[Network, Network, dict[str, np.ndarray]]:
    """Detector, Face Mesh, and the mesh: triangles (T, 3), the part that each belongs to (T,), the outline (36,).

    Raises DataError: the asset is missing, damaged or something else.
    """
    asset = arrays.read_npz(ASSET, None, "the face detector and Face Mesh")
    mesh = {name: asset[name].astype(int) for name in ("triangles", "part", "outline")}
    return Network("detector", asset), Network("mesh", asset), mesh


# --- a face ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Face:
    """A face of a photo.

    Attributes
    ----------
    score : Face Mesh's, 0–1
    points : (468, 3) x to the right and y down in pixels, from the photo's upper left corner; depth away from us
    shape : height and width of the photo that the points belong to
    """

    score: float
    points: np.ndarray
    shape: tuple[int, int]

    @property
    def angle(self) -> float:
        """By how much the face is turned clockwise in the photo's plane, in degrees; 0 upright, −180 to 180."""
        x, y = self.points[EYES[1], :2] - self.points[EYES[0], :2]
        return math.degrees(math.atan2(y, x))

    def mask(self, filled: bool = False) -> np.ndarray:
        """(H, W) bool: skin, which leaves out eyes, the open mouth and nostrils; the whole face when ``filled``."""
        place, triangle, times, _ = self._drawn()
        wanted = (triangle >= 0) & (filled | (load()[2]["part"][triangle] == 0))
        mask = np.zeros(self.shape, bool)
        mask[place] = _averaged(wanted, times) > 0.5
        return mask

    def normals(self) -> np.ndarray:
        """(H, W, 3) float32 unit normals of the whole face: x right, y up, z > 0 to us; zero elsewhere.

        From the mesh, and as smooth: on rendered heads they are 12° off (those of an ellipsoid 26°).
        """
        place, triangle, times, corners = self._drawn()
        normals = np.zeros((*self.shape, 3), np.float32)
        inside = _averaged(triangle >= 0, times) > 0.5
        for c, values in enumerate(_linear(corners, _vertex_normals(corners))):
            # never away from us, which on a shell that covers the front is what mistakes of the mesh look like
            pixels = _interpolated(triangle, values)
            normals[..., c][place] = _averaged(pixels.clip(0.05) if c == 2 else pixels, times) * inside
        normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
        return normals

    def depth(self) -> np.ndarray:
        """(H, W) float32: how far the surface is towards us, in pixels, the nearest point 0; NaN off the face."""
        place, triangle, times, corners = self._drawn()
        depth = np.full(self.shape, np.nan, np.float32)
        cover = _averaged(triangle >= 0, times)
        towards = corners[:, 2:] - corners[:, 2].max()
        total = _averaged(_interpolated(triangle, _linear(corners, towards)[0]), times)
        depth[place] = np.where(cover > 0.5, total / (times * cover.clip(0.5)), np.nan)
        return depth

    def _drawn(self) -> tuple[tuple[slice, slice], np.ndarray, int, np.ndarray]:
        """The mesh seen: which part of the photo, there the number of the triangle in front, −1 for none, at so many
        samples along a pixel's side; and the points (468, 3) in samples of that part, x right, y down, z to us."""
        (H, W), xy = self.shape, self.points[:, :2]
        low, high = np.floor(xy.min(0)), np.ceil(xy.max(0))
        x0, x1 = np.clip((low[0], high[0]), 0, W).astype(int).tolist()
        y0, y1 = np.clip((low[1], high[1]), 0, H).astype(int).tolist()
        times = max(1, min(4, round(512 / max(1, *(high - low)))))
        corners = (self.points - (x0, y0, 0.0)) * (times, times, -times)
        image = Image.new("I", ((x1 - x0) * times, (y1 - y0) * times), -1)
        pen, triangles = ImageDraw.Draw(image), load()[2]["triangles"]
        flat = corners[:, :2] - 0.5  # the pen's whole numbers are centres of pixels
        for k in np.argsort(corners[triangles, 2].mean(1)).tolist():  # the nearest last
            pen.polygon([tuple(xy) for xy in flat[triangles[k]].tolist()], fill=k)
        return (slice(y0, y1), slice(x0, x1)), np.array(image), times, corners


def _averaged(values: np.ndarray, times: int) -> np.ndarray:
    """(H, W) means over ``times`` × ``times`` samples."""
    H, W = (n // times for n in values.shape)
    return values.reshape(H, times, W, times).mean((1, 3), dtype=np.float32)


def _vertex_normals(corners: np.ndarray) -> np.ndarray:
    """(468, 3) unit normals, x right, y up, z to us: means over the triangles around each point, weighted by area."""
    triangles = load()[2]["triangles"]
    a, b, c = (corners[triangles[:, k]] * (1, -1, 1) for k in range(3))
    flat, normals = np.cross(b - a, c - a), np.zeros_like(corners)
    for k in range(3):
        np.add.at(normals, triangles[:, k], flat)
    return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)


def _linear(corners: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(C, 3, T) what makes ``values`` (468, C) linear on each triangle: those of x, y and 1.

    A triangle that is seen edge on, less than a sample wide, has their mean.
    """
    triangles = load()[2]["triangles"]
    flat, at = corners[triangles, :2], values[triangles]  # (T, 3, 2), (T, 3, C)
    sides = flat[:, 1:] - flat[:, :1]
    area = np.abs(np.linalg.det(sides))
    longest = np.linalg.norm(flat - np.roll(flat, 1, 1), axis=-1).max(1)
    wide = area > longest
    slope = np.zeros((len(triangles), 2, values.shape[1]))
    slope[wide] = np.linalg.solve(sides[wide], at[wide, 1:] - at[wide, :1])
    start = at.mean(1) - np.einsum("tk,tkc->tc", flat.mean(1), slope)
    return np.concatenate([slope, start[:, None]], 1).transpose(2, 1, 0)


def _interpolated(triangle: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """(h, w) float32 at the centres of samples whose triangles are known; 0 where there is none."""
    across, down, start = np.append(linear, np.zeros((3, 1)), 1).astype(np.float32)  # number −1 is the last
    y, x = (np.arange(n, dtype=np.float32) + 0.5 for n in triangle.shape)
    return across[triangle] * x + down[triangle] * y[:, None] + start[triangle]
