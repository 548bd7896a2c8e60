"""Rebuild ``face_mesh.npz`` from the wheel of the PyPI package ``mediapipe`` 0.10.21.

    python build_faces.py mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl face_mesh.npz

The wheel carries two networks as TensorFlow Lite files (Apache-2.0): a detector (BlazeFace, short range) and Face Mesh.
Their weights are taken as they are, in half precision, and their layers written down as ``bioface.face_mesh`` runs
them: channels first, paddings as numbers. Mediapipe itself is not needed. The mesh is the wheel's list of edges, three
to a triangle, and strips of triangles that close eyes and mouth.

Sources: https://github.com/google-ai-edge/mediapipe; the layout of TensorFlow Lite files: its ``schema.fbs``.
"""

from __future__ import annotations

import ast
import functools
import json
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from bioface.assets import build_head

MODELS = {
    "detector": "mediapipe/modules/face_detection/face_detection_short_range.tflite",
    "mesh": "mediapipe/modules/face_landmark/face_landmark.tflite",
}
EDGES = "mediapipe/python/solutions/face_mesh_connections.py"
STARTS = (10, 33, 362, 78)  #: points of the outline (its top), and corners of the right eye, the left eye and the mouth
SKIN, NOSTRILS = 0, 4  #: parts of the face; 1 and 2 are the eyes, 3 is the mouth
NOSTRIL_POINTS = {20, 59, 60, 75, 79, 99, 166, 237, 238, 239, 240, 241, 242}  #: the right one, then the left
NOSTRIL_POINTS |= {250, 289, 290, 305, 309, 328, 392, 457, 458, 459, 460, 461, 462}
TYPES = {0: "<f4", 1: "<f2", 2: "<i4"}  #: of tensors
KINDS = {0: "add", 2: "concatenation", 3: "conv", 4: "depthwise", 6: "dequantize", 17: "max_pool"}
KINDS |= {19: "relu", 22: "reshape", 34: "pad", 54: "prelu"}


class Table:
    """A table of a FlatBuffer: fields by their number in the schema; what is not there is 0 or empty."""

    def __init__(self, data: bytes, at: int):
        self.data, self.at = data, at

    def number(self, field: int, form: str = "i", start: bool = False) -> int:
        """A number of a ``struct`` format, or where what a field leads to starts."""
        fields = self.at - struct.unpack_from("<i", self.data, self.at)[0]
        inside, size = 4 + 2 * field, struct.unpack_from("<H", self.data, fields)[0]
        offset = struct.unpack_from("<H", self.data, fields + inside)[0] if inside < size else 0
        found = struct.unpack_from("<" + form, self.data, self.at + offset)[0] if offset else 0
        return found + self.at + offset if found and start else found

    def array(self, field: int, dtype: str = "<i4") -> np.ndarray:
        """A vector of numbers."""
        start = self.number(field, "I", True)
        count = struct.unpack_from("<I", self.data, start)[0] if start else 0
        return np.frombuffer(self.data, dtype, count, start + 4)

    def tables(self, field: int) -> list[Table]:
        """A vector of tables."""
        first = self.number(field, "I", True) + 4
        return [Table(self.data, first + 4 * k + int(at)) for k, at in enumerate(self.array(field, "<u4"))]


def same_padding(size: int, kernel: int, stride: int) -> list[int]:
    """Pixels before and after, so that a line of ``size`` becomes one of ⌈size / stride⌉.

    >>> same_padding(128, 5, 2)
    [1, 2]
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return [total // 2, total - total // 2]


def convert(data: bytes) -> tuple[dict[str, Any], dict[int, np.ndarray]]:
    """Input, outputs and layers of a network, and its weights by the number of their tensor.

    A layer is (kind, numbers of its inputs, number of its output, settings).
    """
    model = Table(data, struct.unpack_from("<I", data)[0])
    graph, buffers = model.tables(2)[0], model.tables(4)
    tensors = graph.tables(0)
    shapes = [t.array(0).tolist() for t in tensors]
    codes = [max(c.number(0, "b"), c.number(3)) for c in model.tables(1)]
    constant = {}
    for k, tensor in enumerate(tensors):
        raw = buffers[tensor.number(2, "I")].array(0, "u1")
        if len(raw):
            constant[k] = raw.view(TYPES[tensor.number(1, "b")]).reshape(shapes[k])
    layers: list[tuple[str, list[int], int, dict[str, Any]]] = []
    weights: dict[int, np.ndarray] = {}
    alias: dict[int, int] = {}
    for operator in graph.tables(3):
        kind = KINDS[codes[operator.number(0, "I")]]
        inputs = [alias.get(k, k) for k in operator.array(1).tolist()]
        output = operator.array(2).tolist()[0]
        options = Table(data, operator.number(4, "I", True))
        settings: dict[str, Any] = {}
        if kind == "dequantize":  # weights in half precision, stretched when they are used
            alias[output] = inputs[0]
            continue
        if kind in ("conv", "depthwise", "max_pool"):
            W = constant.get(inputs[-2 if len(inputs) == 3 else -1])
            settings["stride"] = stride = [options.number(2), options.number(1)]
            size = W.shape[1:3] if W is not None else (options.number(4), options.number(3))
            if options.number(0, "b") == 0:  # "same"
                rows, columns = (same_padding(shapes[inputs[0]][1 + k], size[k], stride[k]) for k in (0, 1))
                if kind != "max_pool" and rows == rows[::-1] and columns == columns[::-1]:
                    settings["around"] = [rows[0], columns[0]] if rows[0] + columns[0] else []
                else:
                    settings["padding"] = columns + rows if any(columns + rows) else []
            if W is None:
                settings["kernel"] = list(size)
            else:  # (out, rows, columns, in), of depthwise ones (1, rows, columns, out)
                weights[inputs[1]] = W.transpose((0, 3, 1, 2) if kind == "conv" else (3, 0, 1, 2))
                weights[inputs[2]] = constant[inputs[2]]
                settings["relu"] = options.number(3 if kind == "conv" else 4, "b") == 1
        elif kind == "add":
            settings["relu"] = options.number(0, "b") == 1
        elif kind == "pad":  # pairs of batch, rows, columns, channels
            pairs = constant[inputs[1]].tolist()
            settings["padding"] = [*pairs[2], *pairs[1], *pairs[3]]
            inputs = inputs[:1]
        elif kind == "reshape":
            settings["channels"], inputs = shapes[output][-1], inputs[:1]
        elif kind == "prelu":
            weights[inputs[1]] = constant[inputs[1]].reshape(-1)
        settings = {name: value for name, value in settings.items() if value}
        layers.append((kind, inputs, output, settings))
    ends = {"input": graph.array(1).tolist()[0], "outputs": graph.array(2).tolist()}
    return {**ends, "layers": layers}, weights


def mesh(source: str) -> dict[str, np.ndarray]:
    """Triangles (898, 3), the part (898,) that each belongs to, and the numbers of the points (36,) around the face.

    The list of edges makes 852 triangles. What it leaves open, eyes and mouth, is closed by strips from one lid or lip
    to the other.
    """
    listed = source.partition("FACEMESH_TESSELATION = frozenset(")[2].partition("])")[0] + "]"
    triangles = np.array(ast.literal_eval(listed)).reshape(-1, 3, 2)[..., 0].tolist()  # in order, unlike a frozenset's
    sides = {(t[k], t[k - 2]) for t in triangles for k in range(3)}
    after = {b: a for a, b in sides if (b, a) not in sides}  # along the edge of a hole, the other way round
    part = [NOSTRILS if NOSTRIL_POINTS.issuperset(t) else SKIN for t in triangles]
    loops = []
    for start in STARTS:
        loop = [start]
        while after[loop[-1]] != start:
            loop.append(after[loop[-1]])
        loops.append(loop)
    for number, loop in enumerate(loops[1:], start=1):
        low, high = 0, len(loop) - 1
        while high - low > 1:
            third = low + 1 if (low + high) % 2 else high - 1
            triangles.append([loop[low], loop[third], loop[high]])
            part.append(number)
            low, high = (third, high) if third == low + 1 else (low, third)
    return {
        "triangles": np.array(triangles, np.int16),
        "part": np.array(part, np.int8),
        "outline": np.array(loops[0], np.int16),
    }


def build(wheel_path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of the asset, in the order of the file (see ``README.md`` for what each one is)."""
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(wheel_path) as wheel:
        arrays |= mesh(wheel.read(EDGES).decode())
        for name, file in MODELS.items():
            graph, weights = convert(wheel.read(file))
            arrays[f"{name}_layers"] = np.frombuffer(json.dumps(graph).encode(), np.uint8)
            for number, values in weights.items():
                arrays[f"{name}_{number}"] = np.ascontiguousarray(values, np.float16)
    return arrays


main = functools.partial(build_head.main, build=build, usage=__doc__)

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
