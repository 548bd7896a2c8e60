"""Where the faces of a photo are: a detector, Face Mesh, and what follows from its points: mask, outline, normals.

Both networks are Google's, small enough for a processor without graphics. They run here in plain torch: sixty lines,
where LiteRT, their own runtime, would be a package of 10 MB for every platform. The weights ship as
``assets/face_mesh.npz`` (see ``assets/README.md``).

The detector looks at 128 × 128 pixels and knows upright faces that fill a good part of them. So it looks at the whole
photo, turned by quarters too, and its best answer counts: Face Mesh is as sure of a face upside down. Where there is no
face, it looks at overlapping squares of half the photo's side in the same way, then at upright ones of a quarter. Where
the detector is taken in by something, Face Mesh's score says so.

References
----------
Bazarevsky et al. (2019), "BlazeFace: sub-millisecond neural face detection on mobile GPUs", arXiv 1907.05047.
Kartynnik et al. (2019), "Real-time facial surface geometry from monocular video on mobile GPUs", arXiv 1907.06724.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from bioface import arrays, image_formation, paths, pictures, threads
from bioface.datasets import photos
from bioface.errors import BiofaceError, DataError

ASSET = paths.ASSETS / "face_mesh.npz"
SCORE = 0.9  #: Face Mesh's score from which on something is taken for a face
LARGEST = 1024  #: pixels; a photo's longer side is shrunk to no more before anything looks at it
SMALLEST = 256  #: pixels; a photo's longer side is enlarged to no less, so that small faces are not lost between pixels
BATCH = 8  #: squares at a time
LEVEL = 0.1  #: what counts for an upright face when the detector is in doubt: most are
FIRST = 0.5  #: the detector's score from which on Face Mesh looks at a place
SIDES = (1.0, 0.5, 0.25)  #: of the squares that the detector looks at, in the photo's longer side
WIDER = 1.5  #: the square that Face Mesh looks at, in sides of the detector's box or of the mesh before
EYES = (33, 263)  #: points of the mesh, the outer corners of the right and the left eye

# The detector's answers are on two grids, of 16 × 16 cells with two of them each, and of 8 × 8 with six
_ANCHORS = np.concatenate(
    [
        np.stack(np.meshgrid(cells, cells), -1).reshape(-1, 2).repeat(count, 0)
        for cells, count in (((np.arange(16) + 0.5) / 16, 2), ((np.arange(8) + 0.5) / 8, 6))
    ]
)
_Square = tuple[float, float, float, float]  # centre x and y, side, and the angle by which it is turned (radians)


# --- the two networks --------------------------------------------------------------------------------------


class _Network:
    """Layers as ``assets/build_faces.py`` writes them down."""

    def __init__(self, name: str, asset: dict[str, np.ndarray]):
        self.graph = json.loads(asset[f"{name}_layers"].tobytes())
        prefix = f"{name}_"
        weights = {key.removeprefix(prefix): value for key, value in asset.items() if key.startswith(prefix)}
        self.weights = {int(key): torch.from_numpy(v.astype(np.float32)) for key, v in weights.items() if key.isdigit()}

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


@dataclass(frozen=True)
class _Mesh:
    """What the asset holds besides weights: triangles (T, 3), the part that each belongs to (T,), the outline (36,)."""

    triangles: np.ndarray
    part: np.ndarray
    outline: np.ndarray


@functools.cache
def _load(path: Path = ASSET) -> tuple[_Network, _Network, _Mesh]:
    """Detector, Face Mesh and the mesh.

    Raises
    ------
    DataError : the asset is missing, damaged or something else
    """
    expected = "the face detector and Face Mesh"
    asset = arrays.read_npz(path, None, expected)
    try:
        mesh = _Mesh(asset["triangles"].astype(int), asset["part"], asset["outline"].astype(int))
        return _Network("detector", asset), _Network("mesh", asset), mesh
    except KeyError as error:
        raise DataError(path, expected, f"one without {error.args[0]}") from error


# --- looking at squares of a photo -------------------------------------------------------------------------


def _halvings(rgb: np.ndarray) -> list[Tensor]:
    """The photo (H, W, 3) as (1, 3, H, W), and halved again and again by averaging."""
    levels = [torch.from_numpy(rgb).permute(2, 0, 1)[None]]
    while max(levels[-1].shape) > 128:
        levels.append(F.avg_pool2d(levels[-1], 2, ceil_mode=True, count_include_pad=False))
    return levels


def _axes(squares: np.ndarray) -> np.ndarray:
    """(N, 2, 3): from a place (u, v, 1) within each square (N, 4), 0–1, to pixels x and y of the photo."""
    x, y, side, angle = squares.T
    across, down = side * np.cos(angle), side * np.sin(angle)
    return np.stack(
        [np.stack([across, -down, x - (across - down) / 2], -1), np.stack([down, across, y - (down + across) / 2], -1)],
        1,
    )


def _cut(levels: list[Tensor], squares: np.ndarray, size: int) -> Tensor:
    """(N, 3, size, size) of squares (N, 4); black beyond the photo."""
    at = (np.arange(size) + 0.5) / size
    place = np.stack([*np.meshgrid(at, at), np.ones((size, size))], -1)  # (size, size, 3)
    found = []
    for axes, side in zip(_axes(squares), squares[:, 2], strict=True):
        halvings = int(np.clip(math.log2(side / size), 0, len(levels) - 1))
        level = levels[halvings]
        xy = (place @ axes.T / 2**halvings) * (2 / np.array(level.shape[:1:-1])) - 1
        grid = torch.from_numpy(xy.astype(np.float32))[None]
        found.append(F.grid_sample(level, grid, align_corners=False))
    return torch.cat(found)


def _detect(levels: list[Tensor], squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (K,) and squares (K, 4) of what may be faces, for Face Mesh to look at."""
    boxes, scores = sorted(_load()[0](_cut(levels, squares, 128) * 2 - 1), key=lambda v: -v.shape[-1])
    score = torch.sigmoid(scores[..., 0]).numpy()
    window, cell = np.nonzero(score > FIRST)
    # centre, width and height, then x and y of the right and the left eye and four other points, in the square
    box = boxes[window, cell].numpy() / 128
    axes, (x, y) = _axes(squares)[window], box[:, :2].T + _ANCHORS[cell].T
    centre = np.einsum("kij,kj->ki", axes, np.stack([x, y, np.ones_like(x)], -1))
    eyes = box[:, 6:8] - box[:, 4:6]
    angle = np.arctan2(eyes[:, 1], eyes[:, 0]) + squares[window, 3]
    side = WIDER * box[:, 2:4].max(1, initial=0) * squares[window, 2]
    return score[window, cell], np.column_stack([centre, side, angle])


def _near(square: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) whether squares (N, 4) are about the same face as one (4,)."""
    return np.hypot(*(others[:, :2] - square[:2]).T) < np.maximum(others[:, 2], square[2]) / 3


def _around(points: np.ndarray) -> np.ndarray:
    """The squares (N, 4) around meshes (N, 468, 3), level with their eyes."""
    eyes = points[:, EYES[1], :2] - points[:, EYES[0], :2]
    angle = np.arctan2(eyes[:, 1], eyes[:, 0])
    turn = np.stack([np.stack([np.cos(angle), np.sin(angle)], -1), np.stack([-np.sin(angle), np.cos(angle)], -1)], 1)
    level = np.einsum("nij,nkj->nki", turn, points[..., :2])
    low, high = level.min(1), level.max(1)
    centre = np.einsum("nji,nj->ni", turn, (low + high) / 2)
    return np.column_stack([centre, WIDER * (high - low).max(1), angle])


def _fit(levels: list[Tensor], squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N,) and points (N, 468, 3) in pixels of the photo that Face Mesh finds in squares (N, 4)."""
    points, scores = sorted(_load()[1](_cut(levels, squares, 192)), key=lambda v: -v.numel())
    found = points.reshape(len(squares), 468, 3).numpy() / 192
    flat = np.concatenate([found[..., :2], np.ones_like(found[..., :1])], -1)
    xy = np.einsum("nij,nkj->nki", _axes(squares), flat)
    depth = found[..., 2:] * squares[:, 2, None, None]
    return torch.sigmoid(scores).reshape(-1).numpy(), np.concatenate([xy, depth], -1)


def _search(levels: list[Tensor], squares: np.ndarray, least: float) -> list[tuple[float, np.ndarray]]:
    """(score, points) of the faces in squares (N, 4)."""
    found: list[tuple[float, np.ndarray]] = []
    seen = [_detect(levels, squares[k : k + BATCH]) for k in range(0, len(squares), BATCH)]
    score, places = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    looked = faces = np.empty((0, 4))
    for place in places[np.argsort(-score - LEVEL * (np.cos(places[:, 3]) > 0.7), kind="stable")]:
        if _near(place, faces).any() or (_near(place, looked) & (np.cos(place[3] - looked[:, 3]) > 0.7)).any():
            continue
        # a second look from where the first one found the face, as a tracker would
        _, points = _fit(levels, place[None])
        scores, points = _fit(levels, _around(points))
        looked = np.append(looked, place[None], 0)
        if scores[0] >= least:
            found.append((float(scores[0]), points[0]))
            faces = np.append(faces, _around(points), 0)
    return found


def _tiles(H: int, W: int, share: float, turns: int) -> np.ndarray:
    """Squares (N, 4) of a share of the longer side that cover a photo, half over one another, in quarter turns."""
    side = share * max(H, W)

    def centres(length: int) -> np.ndarray:
        if length <= side:
            return np.array([length / 2])
        return np.linspace(side / 2, length - side / 2, math.ceil(2 * (length - side) / side) + 1)

    return np.array([(x, y, side, math.pi / 2 * turn) for turn in range(turns) for y in centres(H) for x in centres(W)])


# --- what is found -----------------------------------------------------------------------------------------


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
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom in pixels."""
        return (*map(float, self.points[:, :2].min(0)), *map(float, self.points[:, :2].max(0)))

    @property
    def outline(self) -> np.ndarray:
        """(36, 2) points around the face, in pixels."""
        return self.points[_load()[2].outline, :2]

    @property
    def angle(self) -> float:
        """By how much the face is turned clockwise in the photo's plane, in degrees; 0 upright, −180 to 180."""
        x, y = self.points[EYES[1], :2] - self.points[EYES[0], :2]
        return math.degrees(math.atan2(y, x))

    def mask(self, shape: tuple[int, int] | None = None, filled: bool = False) -> np.ndarray:
        """(H, W) bool: skin, which leaves out eyes, the open mouth and nostrils; the whole face when ``filled``.

        Parameters
        ----------
        shape : of another size of the same photo
        """
        part = _load()[2].part
        place, triangle, times, _ = self._drawn(shape)
        wanted = (triangle >= 0) & (filled | (part[triangle] == 0))
        mask = np.zeros(shape or self.shape, bool)
        mask[place] = _averaged(wanted, times) > 0.5
        return mask

    def normals(self, shape: tuple[int, int] | None = None) -> np.ndarray:
        """(H, W, 3) float32 unit normals of the whole face: x right, y up, z > 0 to us; zero elsewhere.

        From the mesh, and as smooth: on rendered heads they are 12° off (those of an ellipsoid 26°).

        Parameters
        ----------
        shape : of another size of the same photo
        """
        place, triangle, times, corners = self._drawn(shape)
        normals = np.zeros((*(shape or self.shape), 3), np.float32)
        inside = _averaged(triangle >= 0, times) > 0.5
        for c, values in enumerate(_linear(corners, _vertex_normals(corners))):
            # never away from us, which on a shell that covers the front is what mistakes of the mesh look like
            pixels = _interpolated(triangle, values)
            normals[..., c][place] = _averaged(pixels.clip(0.05) if c == 2 else pixels, times) * inside
        normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
        return normals

    def depth(self, shape: tuple[int, int] | None = None) -> np.ndarray:
        """(H, W) float32: how far the surface is towards us, in pixels, the nearest point 0; NaN off the face."""
        place, triangle, times, corners = self._drawn(shape)
        depth = np.full(shape or self.shape, np.nan, np.float32)
        cover = _averaged(triangle >= 0, times)
        towards = corners[:, 2:] - corners[:, 2].max()
        total = _averaged(_interpolated(triangle, _linear(corners, towards)[0]), times)
        depth[place] = np.where(cover > 0.5, total / (times * cover.clip(0.5)), np.nan)
        return depth

    def _drawn(self, shape: tuple[int, int] | None) -> tuple[tuple[slice, slice], np.ndarray, int, np.ndarray]:
        """The mesh seen: which part of the photo, there the number of the triangle in front, −1 for none, at so many
        samples along a pixel's side; and the points (468, 3) in samples of that part, x right, y down, z to us."""
        H, W = shape or self.shape
        points = self.points * (W / self.shape[1], H / self.shape[0], W / self.shape[1])
        low, high = np.floor(points[:, :2].min(0)), np.ceil(points[:, :2].max(0))
        x0, x1 = np.clip((low[0], high[0]), 0, W).astype(int).tolist()
        y0, y1 = np.clip((low[1], high[1]), 0, H).astype(int).tolist()
        times = max(1, min(4, round(512 / max(1, *(high - low)))))
        corners = (points - (x0, y0, 0)) * (times, times, -times)
        image = Image.new("I", ((x1 - x0) * times, (y1 - y0) * times), -1)
        pen, triangles = ImageDraw.Draw(image), _load()[2].triangles
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
    triangles = _load()[2].triangles
    a, b, c = (corners[triangles[:, k]] * (1, -1, 1) for k in range(3))
    flat, normals = np.cross(b - a, c - a), np.zeros_like(corners)
    for k in range(3):
        np.add.at(normals, triangles[:, k], flat)
    return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)


def _linear(corners: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(C, 3, T) what makes ``values`` (468, C) linear on each triangle: those of x, y and 1.

    A triangle that is seen edge on, less than a sample wide, has their mean.
    """
    triangles = _load()[2].triangles
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


def find(photo: str | Path | photos.Photo | np.ndarray, everyone: bool = False, least: float = SCORE) -> list[Face]:
    """The faces of a photo, the largest first.

    Parameters
    ----------
    photo : as :func:`bioface.decompose` takes it; one of more than 4 million pixels is shrunk to that first
    everyone : go on looking for small faces when a large one is found
    least : the score (0–1) from which on something is a face

    Raises
    ------
    DataError, BiofaceError : a photo that is none; see :func:`bioface.decompose`
    """
    return search(pictures.read(photo, None)[0], everyone, least)


def search(linear: np.ndarray, everyone: bool = False, least: float = SCORE) -> list[Face]:
    """The same in linear RGB (H, W, 3) float32."""
    H, W = linear.shape[:2]
    longest = max(H, W)
    scale = min(1.0, LARGEST / longest)
    rows, columns = (pictures.windows(n, 0, 1 / scale, max(1, round(n * scale))) for n in (H, W))
    small = linear if scale == 1 else pictures.resample(linear, rows, columns)
    rgb = np.asarray(image_formation.srgb_encode(small.clip(0, 1)), np.float32)
    if longest < SMALLEST:
        scale = SMALLEST / longest
        size = max(1, round(H * scale)), max(1, round(W * scale))
        x = torch.from_numpy(rgb).permute(2, 0, 1)[None]
        rgb = F.interpolate(x, size, mode="bicubic", antialias=True)[0].clamp(0, 1).permute(1, 2, 0).numpy()
    height, width = rgb.shape[:2]
    levels, found = _halvings(np.ascontiguousarray(rgb)), list[tuple[float, np.ndarray]]()
    with threads.number(1), torch.inference_mode():
        for share in SIDES:
            if everyone or not found:
                found += _search(levels, _tiles(height, width, share, 4 if share > SIDES[-1] else 1), least)
    kept: list[tuple[float, np.ndarray]] = []
    for score, points in sorted(found, key=lambda one: -one[0]):
        if not any(_near(_around(points[None])[0], _around(other[None])).any() for _, other in kept):
            kept.append((score, points))
    stretch = np.array([W / width, H / height, longest / max(height, width)])
    faces = [Face(score, (points * stretch).astype(np.float32), (H, W)) for score, points in kept]
    inside = [face for face in faces if (face.points[:, :2].mean(0) > 0).all() and face.mask().any()]
    return sorted(inside, key=lambda face: -math.prod(np.ptp(face.points[:, :2], 0).tolist()))


def masks(linear: np.ndarray, face: int | str | None = None) -> list[np.ndarray]:
    """Where the skin (H, W) of the wanted faces of linear RGB (H, W, 3) is.

    Parameters
    ----------
    face : the number of a face, 1 for the largest, or "all"; None for the largest if there is one

    Raises
    ------
    BiofaceError : there is no such face, or no such number
    """
    number = 1 if face is None else face
    if number != "all" and (not isinstance(number, int) or number < 1):
        raise BiofaceError(f"expected the number of a face, from 1 on, or 'all', found {face!r}")
    found = [one.mask() for one in search(linear, everyone=number != 1)]
    wanted = found if number == "all" else found[number - 1 : number]
    if face is not None and not wanted:
        counted = {0: "none was found", 1: "one was found"}.get(len(found), f"{len(found)} were found")
        raise BiofaceError(f"expected a face{'' if number == 'all' else f' number {number}'} in the photo: {counted}")
    return wanted


def picture(photo: str | Path | photos.Photo | np.ndarray, faces: Sequence[Face]) -> np.ndarray:
    """(H, W, 3) uint8: the photo with what was found in it: outlines, what is not skin inside them, and numbers."""
    linear, _ = pictures.read(photo, None)
    image = Image.fromarray(np.rint(255 * np.asarray(image_formation.srgb_encode(linear))).astype(np.uint8))
    pen, size = ImageDraw.Draw(image), max(image.size)
    for number, face in enumerate(faces, start=1):
        other = face.mask(filled=True) & ~face.mask()
        image.paste((0, 0, 0), mask=Image.fromarray(other))
        outline = [(float(x), float(y)) for x, y in face.outline]
        pen.line([*outline, outline[0]], fill=(255, 255, 255), width=1 + size // 400)
        x, y = face.outline[0]
        pen.text(
            (x, y),
            str(number),
            fill="white",
            anchor="md",
            font_size=10 + size // 40,
            stroke_width=2,
            stroke_fill="black",
        )
    return np.array(image)
