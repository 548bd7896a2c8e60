"""Where the faces of a photo are: a detector looks for them, and Face Mesh (:mod:`bioface.face_mesh`) at what it finds.

The detector looks at 128 × 128 pixels and knows upright faces that fill a good part of them. So it looks at the whole
photo, turned by quarters too, and its best answer counts: Face Mesh is as sure of a face upside down. Where there is no
face, it looks at overlapping squares of half the photo's side in the same way, then at upright ones of a quarter and of
an eighth. Where the detector is taken in by something, Face Mesh's score says so.

Reference: Bazarevsky et al. (2019), "BlazeFace: sub-millisecond neural face detection on mobile GPUs", arXiv
1907.05047.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from bioface import image_formation, threads
from bioface.arrays import torch_as_it_starts
from bioface.errors import BiofaceError
from bioface.face_mesh import EYES, load
from bioface.face_mesh import Face as Face

SCORE = 0.9  #: Face Mesh's score from which on something is taken for a face
LARGEST = 1024  #: pixels; a photo's longer side is shrunk to no more before anything looks at it
SMALLEST = 256  #: pixels; a photo's longer side is enlarged to no less, so that small faces are not lost between pixels
BATCH = 8  #: squares at a time
LEVEL = 0.1  #: what counts for an upright face when the detector is in doubt: most are
FIRST = 0.5  #: the detector's score from which on Face Mesh looks at a place
SIDES = (1.0, 0.5, 0.25, 0.125)  #: of the squares that the detector looks at, in the photo's longer side
TURNED = 0.5  #: the least of these that it looks at in all four quarter turns
LEAST = 64  #: pixels; smaller squares show only what is too small for a face
WIDER = 1.5  #: the square that Face Mesh looks at, in sides of the detector's box or of the mesh before
STRANGE = 3.0  #: standard deviations from the skin's colour beyond which it is hair or a hand
DARK = 0.004  # linear RGB, below which colours are noise
FEW = 100  # pixels, too few to tell what is usual

# The detector's answers are on two grids, of 16 × 16 cells with two of them each, and of 8 × 8 with six
_ANCHORS = np.concatenate(
    [
        np.stack(np.meshgrid(cells, cells), -1).reshape(-1, 2).repeat(count, 0)
        for cells, count in (((np.arange(16) + 0.5) / 16, 2), ((np.arange(8) + 0.5) / 8, 6))
    ]
)


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
    axes = [[across, -down, x - (across - down) / 2], [down, across, y - (down + across) / 2]]
    return np.moveaxis(np.array(axes), -1, 0)


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
    boxes, scores = sorted(load()[0](_cut(levels, squares, 128) * 2 - 1), key=lambda v: -v.shape[-1])
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
    turn = _axes(np.column_stack([0 * points[:, 0, :2], 0 * angle + 1, angle]))[..., :2]  # from level to the photo
    level = points[..., :2] @ turn
    low, high = level.min(1), level.max(1)
    centre = (turn @ (low + high)[..., None] / 2)[..., 0]
    return np.column_stack([centre, WIDER * (high - low).max(1), angle])


def _fit(levels: list[Tensor], squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N,) and points (N, 468, 3) in pixels of the photo that Face Mesh finds in squares (N, 4)."""
    points, scores = sorted(load()[1](_cut(levels, squares, 192)), key=lambda v: -v.numel())
    found = points.reshape(len(squares), 468, 3).numpy() / 192
    flat = np.concatenate([found[..., :2], np.ones_like(found[..., :1])], -1)
    xy = np.einsum("nij,nkj->nki", _axes(squares), flat)
    depth = found[..., 2:] * squares[:, 2, None, None]
    return torch.sigmoid(scores).reshape(-1).numpy(), np.concatenate([xy, depth], -1)


def _search(levels: list[Tensor], squares: np.ndarray) -> list[tuple[float, np.ndarray]]:
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
        if scores[0] >= SCORE:
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


@torch_as_it_starts()
def search(linear: np.ndarray, everyone: bool = False) -> list[Face]:
    """The faces of a photo, the largest first.

    A face of 20 pixels, or of a fortieth of the photo's longer side where that is more, is found; one of less than an
    eighth of it only upright. A profile is not. A drawing in the colours of skin is: Face Mesh is as sure of it.

    Parameters
    ----------
    linear : (H, W, 3) float32 linear RGB, as :func:`bioface.pictures.read` gives it
    everyone : go on looking for small faces when a large one is found
    """
    H, W = linear.shape[:2]
    longest = max(H, W)
    scale = min(1, LARGEST / longest) * max(1, SMALLEST / longest)
    image = Image.fromarray(_display(linear)).resize((max(1, round(W * scale)), max(1, round(H * scale))))
    rgb = np.asarray(image, np.float32) / 255
    height, width = rgb.shape[:2]
    levels, found = _halvings(np.ascontiguousarray(rgb)), list[tuple[float, np.ndarray]]()
    with threads.number(1), torch.inference_mode():
        for share in SIDES:
            if (everyone or not found) and share * max(height, width) >= LEAST:
                found += _search(levels, _tiles(height, width, share, 4 if share >= TURNED else 1))
    kept: list[tuple[float, np.ndarray]] = []
    for score, points in sorted(found, key=lambda one: -one[0]):
        if not any(_near(_around(points[None])[0], _around(other[None])).any() for _, other in kept):
            kept.append((score, points))
    stretch = np.array([W / width, H / height, longest / max(height, width)])
    faces = [Face(score, (points * stretch).astype(np.float32), (H, W)) for score, points in kept]
    inside = [face for face in faces if (face.points[:, :2].mean(0) > 0).all() and face.mask().any()]
    return sorted(inside, key=lambda face: -math.prod(np.ptp(face.points[:, :2], 0).tolist()))


def _display(linear: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 sRGB of linear RGB."""
    return np.rint(255 * np.asarray(image_formation.srgb_encode(linear.clip(0, 1)))).astype(np.uint8)


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
    if not (isinstance(number, int) and number > 0) and number != "all":
        raise BiofaceError(f"expected the number of a face, from 1 on, or 'all', found {face!r}")
    found = [skin(linear, one) for one in search(linear, everyone=face is not None)]  # as their picture is drawn
    wanted = found[number - 1 : number] if isinstance(number, int) else found
    if face is not None and not wanted:
        counted = {0: "none was found", 1: "one was found"}.get(len(found), f"{len(found)} were found")
        raise BiofaceError(f"expected a face{'' if number == 'all' else f' number {number}'} in the photo: {counted}")
    return wanted


def skin(linear: np.ndarray, face: Face) -> np.ndarray:
    """(H, W) bool: the mask of a face without the fringe, hair or hand that reaches into it from outside.

    That is what hangs together with the rim and is more than :data:`STRANGE` standard deviations from the median of the
    skin's log R/G and log B/G, both of what is nearer; a patch of more than a tenth of the skin never is. On 13 photos
    the maps of melanin, haemoglobin and diffuse shading correlate by .98 with those under given masks.
    """
    mask = face.mask()
    log = np.log(linear[mask].clip(0) + DARK)
    if len(log) < FEW:
        return mask
    colour, like = log[:, ::2] - log[:, 1:2], mask.copy()
    for _ in range(4):
        usual = colour[like[mask]]
        away = colour - np.median(usual, 0)
        like[mask] = ((away @ np.linalg.pinv(np.cov(usual.T), hermitian=True)) * away).sum(-1) < STRANGE**2
    outside = ~scipy.ndimage.binary_fill_holes(mask)
    strange = mask & ~scipy.ndimage.binary_opening(like, np.ones((3, 3), bool))
    patches, count = scipy.ndimage.label(mask & ~scipy.ndimage.binary_propagation(outside, mask=outside | strange))
    sizes = np.bincount(patches.ravel())[1:]
    return patches == 1 + sizes.argmax() if count else mask  # crumbs between strands of hair go, too


def picture(linear: np.ndarray, faces: Sequence[Face]) -> np.ndarray:
    """(H, W, 3) uint8 sRGB of linear RGB, with what was found in it: outlines, inside what is not skin, numbers."""
    image = Image.fromarray(_display(linear))
    pen, size = ImageDraw.Draw(image), max(image.size)
    style: Any = dict(anchor="md", font_size=10 + size // 40, fill="white", stroke_width=2, stroke_fill="black")
    for number, face in enumerate(faces, start=1):
        image.paste((0, 0, 0), mask=Image.fromarray(face.mask(filled=True) & ~skin(linear, face)))
        outline = [tuple(point) for point in face.points[load()[2]["outline"], :2].tolist()]
        pen.line([*outline, outline[0]], fill="white", width=1 + size // 400)
        pen.text(outline[0], str(number), **style)
    return np.array(image)
