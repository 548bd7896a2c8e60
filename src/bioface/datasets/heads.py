"""Heads: MakeHuman's morphable mesh, people drawn from it, and rays cast at it.

A head is the neutral mesh plus a weighted sum of macro morphs (ancestry, sex, age, build) and local morphs (a longer
nose). It is turned, framed like an aligned portrait and seen by parallel rays, several to a pixel. Each ray brings back
the smooth normal and the point of the *neutral* head that it hit: paint that depends on it moves with person and pose.

Units are MakeHuman's decimetres; x right, y up, z towards the viewer. In the neutral head the eyes are at
(±0.31, 7.28, 1.25), the tip of the nose at (0, 6.95, 1.66), the chin at (0, 6.22, 1.33).

References
----------
MakeHuman base mesh hm08 and targets, CC0, http://www.makehumancommunity.org (see ``assets/README.md``).
Wald et al. (2014), "Embree: a kernel framework for efficient CPU ray tracing".
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import trimesh
from trimesh.ray.ray_pyembree import RayMeshIntersector

from bioface import arrays, paths

ASSET = paths.ASSETS / "makehuman_head.npz"
ANCESTRIES = ("african", "asian", "caucasian")
LOCAL_DEVIATION = 0.15  #: standard deviation of a local morph's weight
CHIN = (0.0, 6.22, 1.33)  #: point of the chin on the neutral head

EYE_ROW, CHIN_ROW = 0.36, 0.95  #: where eyes and chin come to lie, as a share of the image's height
PIVOT = 0.45  #: the head turns about a point this far behind the eyes, which stays in the middle column


@dataclass(frozen=True)
class Head:
    """The morphable mesh (4 448 vertices, 8 828 triangles)."""

    vertices: np.ndarray  #: (V, 3) of the neutral head
    triangles: np.ndarray  #: (F, 3)
    is_eye: np.ndarray  #: (F,) True where a triangle belongs to an eyeball
    local_names: tuple[str, ...]  #: what the morphs are called, such as "nose/nose-hump-incr"
    macro_names: tuple[str, ...]
    local: scipy.sparse.csr_matrix  #: (3 V, morphs): displacements
    macro: scipy.sparse.csr_matrix  #: the same
    partner: np.ndarray  #: (locals,) number of the morph whose weight a morph shares: "r-…" shares that of "l-…"

    @classmethod
    @functools.cache
    def load(cls) -> Head:
        """Read the asset, whose arrays ``assets/README.md`` lists; DataError if it is missing or damaged."""
        a = arrays.read_npz(ASSET, ("V", "F", "eye", "names", "D", "mnames", "M"), "the MakeHuman head")
        names, macro_names = (tuple(map(str, a[key])) for key in ("names", "mnames"))
        place = {name: k for k, name in enumerate(names)}
        partner = np.array([place.get(n.replace("/r-", "/l-"), k) for k, n in enumerate(names)])

        def columns(morphs: np.ndarray) -> scipy.sparse.csr_matrix:
            return scipy.sparse.csr_matrix(morphs.reshape(len(morphs), -1).astype(np.float64).T)

        return cls(
            vertices=a["V"].astype(np.float64),
            triangles=a["F"].astype(np.int64),
            is_eye=a["eye"],
            local_names=names,
            macro_names=macro_names,
            local=columns(a["D"]),
            macro=columns(a["M"]),
            partner=partner,
        )

    def shaped(self, macro: np.ndarray, local: np.ndarray) -> np.ndarray:
        """Vertices (V, 3) of the head with morph weights ``macro`` (36,) and ``local`` (270,)."""
        # sparse products sum in a fixed order, whatever the number of threads
        return self.vertices + (self.macro @ macro + self.local @ local).reshape(-1, 3)

    @functools.cached_property
    def eye_vertices(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the vertices of the eyeball at x < 0 and of the one at x > 0."""
        both = np.unique(self.triangles[self.is_eye])
        left = self.vertices[both, 0] < 0
        return both[left], both[~left]

    @functools.cached_property
    def around(self) -> scipy.sparse.csr_matrix:
        """(V, F) 1 where a triangle touches a vertex."""
        corners = self.triangles.reshape(-1)
        triangle = np.arange(len(corners)) // 3
        shape = (len(self.vertices), len(self.triangles))
        return scipy.sparse.csr_matrix((np.ones(len(corners)), (corners, triangle)), shape)

    @functools.cached_property
    def chin_vertex(self) -> int:
        """Number of the vertex nearest to :data:`CHIN`."""
        return int(((self.vertices - CHIN) ** 2).sum(-1).argmin())


@dataclass(frozen=True)
class Shape:
    """The shape of one person."""

    macro: np.ndarray  #: (36,) weights of morphs
    local: np.ndarray  #: (270,) weights of morphs
    ancestry: np.ndarray  #: (3,) shares of :data:`ANCESTRIES`, sum 1
    male: float  #: 0–1
    old: float  #: 0–1


def draw_shape(rng: np.random.Generator, ancestry: np.ndarray) -> Shape:
    """A random person; ``ancestry`` (3,) concentrates a Dirichlet distribution over :data:`ANCESTRIES`."""
    head = Head.load()
    shares = rng.dirichlet(ancestry)
    male = float(rng.integers(2))
    male += (0.5 - male) * rng.beta(1.2, 5)  # nobody is the average of all men or of all women
    old = rng.beta(1.0, 1.8)
    build = {"minmuscle": rng.beta(1.5, 2.5)}
    build["averagemuscle"] = 1 - build["minmuscle"]
    heavy = rng.beta(2.2, 2.2) * 2 - 1  # −1 thin … 1 heavy
    weight = {"minweight": max(-heavy, 0), "averageweight": 1 - abs(heavy), "maxweight": max(heavy, 0)}
    macro = np.zeros(len(head.macro_names))
    for k, name in enumerate(head.macro_names):
        kind, sex, age, *rest = name.split("-")
        share = (male if sex == "male" else 1 - male) * (old if age == "old" else 1 - old)
        if kind == "universal":
            macro[k] = share * build[rest[0]] * weight[rest[1]]
        else:
            macro[k] = share * shares[ANCESTRIES.index(kind)]
    local = rng.normal(0, LOCAL_DEVIATION, len(head.local_names))[head.partner]
    return Shape(macro, local, shares, male, old)


#: Morphs that a fitted face model gets wrong where it has not seen the true shape (place, size and form of mouth and
#: nose), each with the range of its weight. Their order is that of the draws.
WRONG = {
    f"{part}/{part}-{name}": size
    for part, names, size in (
        ("mouth", "trans-up trans-down scale-horiz-incr scale-horiz-decr", (0.6, 1.1)),
        ("mouth", "scale-vert-incr", (0.7, 1.3)),
        ("mouth", "trans-forward", (0.6, 1.1)),
        ("mouth", "lowerlip-height-incr lowerlip-volume-incr upperlip-volume-incr laugh-lines-in", (0.7, 1.3)),
        ("nose", "scale-horiz-incr scale-horiz-decr scale-vert-incr trans-up trans-down", (0.6, 1.1)),
        ("nose", "volume-incr hump-incr point-up point-down", (0.7, 1.3)),
    )
    for name in names.split()
}


def draw_wrong_geometry(rng: np.random.Generator, shape: Shape) -> Shape:
    """``shape`` with another mouth and another nose: three to five mouth morphs and three to four nose morphs."""
    head = Head.load()
    local = shape.local.copy()
    for part, most in (("mouth", 5), ("nose", 4)):
        morphs = [name for name in WRONG if name.startswith(part)]
        for name in rng.choice(morphs, rng.integers(3, most + 1), replace=False):
            local[head.local_names.index(name)] += rng.uniform(*WRONG[name])
    return dataclasses.replace(shape, local=local)


@dataclass(frozen=True)
class Pose:
    """How a head is held and framed: angles in degrees, shift in shares of the image, zoom around 1.

    Positive yaw turns the face to the viewer's right, positive pitch lifts the chin, positive roll leans the
    head to the viewer's left.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    zoom: float = 1.0


def draw_pose(rng: np.random.Generator, beyond: bool = False) -> Pose:
    """A portrait's pose: mostly frontal, yaw within ±25°, pitch ±12°, roll ±5°.

    With ``beyond`` no portrait's: a yaw of 30–50° to either side, a pitch of 14–22° up or down, a roll of 7–15°.
    """
    if beyond:
        side = rng.choice([-1, 1], 3)
        yaw, pitch, roll = side * rng.uniform((30, 14, 7), (50, 22, 15))
    else:
        yaw, pitch, roll = np.clip(rng.normal(0, (11, 5, 2.2)), (-25, -12, -5), (25, 12, 5))
    return Pose(yaw, pitch, roll, tuple(rng.uniform(-0.015, 0.015, 2)), rng.uniform(0.97, 1.05))


def posed(vertices: np.ndarray, pose: Pose, like: np.ndarray | None = None) -> np.ndarray:
    """Vertices (V, 3) turned and framed: the image is the square x, y ∈ [−1, 1].

    ``like`` gives the vertices of the head that sets position and scale, so that two shapes of one person
    come to lie on one another; it is the head itself when left out.
    """
    head = Head.load()
    yaw, pitch, roll = np.deg2rad((pose.yaw, -pose.pitch, pose.roll))
    turn_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    turn_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    frame = vertices if like is None else like
    eyes = np.mean([frame[numbers].mean(0) for numbers in head.eye_vertices], axis=0)
    scale = pose.zoom * 2 * (CHIN_ROW - EYE_ROW) / (eyes[1] - frame[head.chin_vertex, 1])
    pivot = eyes - (0, 0, PIVOT)
    placed = np.array([2 * pose.shift[0], 1 - 2 * EYE_ROW + 2 * pose.shift[1], 0.0])
    rotation = turn_z @ turn_x @ turn_y
    # a sum of three products per coordinate, in a fixed order: a matrix product's order depends on threads
    turned = sum((vertices[:, k, None] - pivot[k]) * rotation[None, :, k] for k in range(3))
    return scale * turned + placed


@dataclass(frozen=True)
class Hits:
    """What S × S rays per pixel see of a head, over a grid of n² = (size · S)²; 0 or False where none hits it."""

    hit: np.ndarray  #: (n, n) True where a ray meets the head
    eye: np.ndarray  #: (n, n) True on an eyeball
    normals: np.ndarray  #: (n, n, 3) unit, interpolated between vertex normals
    neutral: np.ndarray  #: (n, n, 3) the same point of the surface on the neutral head
    lit: np.ndarray  #: (n, n) True where the surface sees the key light


def cast(vertices: np.ndarray, key_direction: np.ndarray | None, size: int = 64, samples: int = 2) -> Hits:
    """Cast parallel rays at a posed head, and shadow rays from what they hit to the key light.

    Parameters
    ----------
    vertices : (V, 3), as :func:`posed` gives them
    key_direction : (3,) unit vector towards the light; None leaves ``lit`` False everywhere
    size : pixels along the image's side
    samples : rays along a pixel's side
    """
    head = Head.load()
    triangles = head.triangles
    mesh = trimesh.Trimesh(vertices, triangles, process=False, validate=False)
    scene = RayMeshIntersector(mesh)
    n = size * samples
    at = (np.arange(n) + 0.5) * (2 / n) - 1
    x, y = np.meshgrid(at, -at)  # row 0 on top
    origins = np.stack([x, y, np.full_like(x, vertices[:, 2].max() + 1)], -1).reshape(-1, 3)
    towards_head = np.broadcast_to([0.0, 0.0, -1.0], origins.shape)
    first = scene.intersects_first(origins, towards_head)
    hit = first >= 0
    number = first[hit]
    corners = triangles[number]  # (h, 3)

    # barycentric coordinates in the image plane: the rays are parallel to z
    a, b, c = (vertices[corners[:, k]] for k in range(3))
    ab, ac, ap = b - a, c - a, origins[hit] - a
    area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    v = (ap[:, 0] * ac[:, 1] - ap[:, 1] * ac[:, 0]) / area
    w = (ab[:, 0] * ap[:, 1] - ab[:, 1] * ap[:, 0]) / area
    weights = np.stack([1 - v - w, v, w]).clip(0, 1)

    at_vertices = np.concatenate([vertices, vertex_normals(vertices), head.vertices], axis=1)
    at_hits = sum(at_vertices[corners[:, k]] * weights[k, :, None] for k in range(3))
    position, normals, neutral = at_hits[:, :3], at_hits[:, 3:6], at_hits[:, 6:]
    normals = normals / np.linalg.norm(normals, axis=-1, keepdims=True).clip(1e-9)
    lit = np.zeros(len(number), bool)
    if key_direction is not None:
        flat = np.cross(ab, ac)
        # in single sums rather than a matrix product, whose order of summation depends on threads
        facing = (sum(flat[:, k] * key_direction[k] for k in range(3)) > 0) & (
            sum(normals[:, k] * key_direction[k] for k in range(3)) > 0
        )
        outside = flat[facing] / np.linalg.norm(flat[facing], axis=-1, keepdims=True).clip(1e-12)
        start = position[facing] + 2e-3 * outside
        lit[facing] = ~scene.intersects_any(start, np.broadcast_to(key_direction, start.shape))

    def image(values: np.ndarray) -> np.ndarray:
        out = np.zeros((n * n, *values.shape[1:]), values.dtype)
        out[hit] = values
        return out.reshape(n, n, *values.shape[1:])

    return Hits(hit.reshape(n, n), *map(image, (head.is_eye[number], normals, neutral, lit)))


def vertex_normals(vertices: np.ndarray) -> np.ndarray:
    """(V, 3) unit normals: means over the triangles around each vertex, weighted by area."""
    head = Head.load()
    a, b, c = (vertices[head.triangles[:, k]] for k in range(3))
    normals = head.around @ np.cross(b - a, c - a)
    return normals / np.linalg.norm(normals, axis=-1, keepdims=True).clip(1e-12)
