"""Widgets for notebooks: scrub through samples, edit a photo, compare trainings.

Pictures and numbers go to the browser once, as bytes, and are drawn there (``assets/widgets.js``): only :func:`edit`
asks the kernel for every picture, and says so when none answers. Without a widget front end, as on GitHub, a cell shows
in words what the widget holds. They need the package's ``notebooks`` extra (anywidget).
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets  # type: ignore[import-untyped]
import numpy as np
import traitlets

from bioface import decomposition, paths, plotting, shading
from bioface.arrays import as_mask, extent
from bioface.datasets.nfe import Faces
from bioface.errors import BiofaceError, DataError, unknown_name
from bioface.identifiability import MAPS
from bioface.maps import Decomposition
from bioface.plotting import QUANTITIES, Quantity
from bioface.training import LOSSES, History

MOST_BYTES = 64_000_000  #: that a widget sends to the browser
PREVIEW = 128  #: pixels a side of what is edited; of larger photos every second, third ... pixel is taken
#: Bytes a second of pictures from kernel to browser: Jupyter's server drops messages beyond 1 000 000, its default.
BYTES_A_SECOND = 700_000
FRAMES_A_SECOND = 40  #: at most
AROUND = 0.25  #: of what is edited: sides of the mask that are shown around it
#: The lights that can be chosen, by what they are called; None is the photo's own.
LIGHTS: dict[str, str | int | None] = {
    "the photo's own": None,
    "A, tungsten": "A",
    **{f"daylight, {k // 1000} {k % 1000:03d} K": k for k in (4000, 5000, 6500, 8000, 12000, 25000)},
    **{f"F{k}, fluorescent": f"F{k}" for k in range(1, 13)},
}
# the colours of bioface.mplstyle, but for black, which a dark page hides
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#888888")
_EDITS = ("melanin", "haemoglobin", "specular", "illuminant", "camera", "white_balance")
_RUN = "(A widget: open the notebook in Jupyter and run this cell to use it.)"


class Widget(anywidget.AnyWidget):
    """What the three have in common: what is drawn, as a description and bytes, and a sentence for text outputs."""

    _esm = paths.ASSETS / "widgets.js"
    _css = paths.ASSETS / "widgets.css"
    spec = traitlets.Dict().tag(sync=True)
    data = traitlets.Bytes().tag(sync=True)

    def __init__(self, text: str, spec: Mapping[str, Any], data: bytes = b""):
        self._text = text
        super().__init__(spec=dict(spec), data=data)

    def __repr__(self) -> str:
        return self._text

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle: Any = super()._repr_mimebundle_(**kwargs)
        bundle[0]["text/plain"] = self._text  # the whole of it, where anywidget cuts after 110 characters
        return bundle


def _nothing(what: str) -> Widget:
    """A widget that says in words that there is nothing to show."""
    return Widget(what, {"kind": "nothing", "text": what})


def scrub(
    samples: Any,
    *,
    quantities: Mapping[str, str | Quantity] | None = None,
    mask: Any = None,
    names: Sequence[str] | None = None,
    scores: Any = None,
) -> Widget:
    """Leaf through samples, all maps of one at a time, with one crosshair and the values under it.

    A slider (arrow keys) chooses the sample, the pointer or the arrow keys on a map the pixel. Two more sliders show
    only samples whose score is within limits. No sample at all gives a widget that says so.

    Parameters
    ----------
    samples : ``nfe.Faces``, shown with the shading that their normals and lights make and, on the twin, with the true
        maps; or {name: (N, H, W) or (N, H, W, 3)}, the colour images of a range and colour space of their quantity
    quantities : of the maps of a mapping, by name, where the name is not itself one in ``plotting.QUANTITIES``
    mask : (N, H, W), true where the maps of a mapping hold; its "rgb" is shown whole
    names : of the samples; left out, those of the faces, or numbers
    scores : (N,) mismatch scores to filter and to sort by, NaN for none; left out, the mismatch score of faces

    Raises
    ------
    BiofaceError : samples of another type, an unknown quantity, shapes that do not agree, more than 64 MB
    """
    if quantities and not isinstance(samples, Mapping):
        raise BiofaceError("expected quantities with a mapping of arrays only, found them with other samples")
    maps, about = samples, None
    if isinstance(samples, Faces):
        mask = samples.mask if mask is None else mask
        names = samples.names if names is None else names
        scores = _mismatch(samples) if scores is None else scores
        maps, quantities, about = _of_faces(samples)
    elif not isinstance(samples, Mapping):
        found = type(samples).__name__
        raise BiofaceError(f"expected samples as Faces or {{name: (N, H, W) arrays}}, found {found}")
    maps, quantities = _checked(maps, quantities or {})
    shapes = {values.shape[:3] for values in maps.values()}
    if len(shapes) > 1:
        found = ", ".join(f"{name} {values.shape}" for name, values in maps.items())
        raise BiofaceError(f"expected maps of equally many samples and pixels, found {found}")
    N, H, W = shapes.pop() if shapes else (0, 0, 0)
    if N * H * W == 0:
        return _nothing("No sample to show.")
    mask = None if mask is None else as_mask(plotting.to_numpy(mask))
    scores = None if scores is None else plotting.to_numpy(scores).astype(float)
    names = [f"sample {k}" for k in range(N)] if names is None else [str(name) for name in names]
    for what, given, expected in (("mask", mask, (N, H, W)), ("scores", scores, (N,)), ("names", names, (N,))):
        if given is not None and np.shape(given) != expected:
            raise BiofaceError(f"{what}: expected shape {expected}, found {np.shape(given)}")
    described, data = _packed(maps, quantities, mask)
    labels = [m["label"] for m in described]
    spec = {
        "kind": "scrub",
        "size": [H, W],
        "maps": described,
        "names": names,
        "about": about or [""] * N,
        "scores": None if scores is None else [float(s) if math.isfinite(s) else None for s in scores],
    }
    scored = "" if scores is None else ", to be filtered by mismatch score"
    text = f"{N} sample{'s' * (N > 1)} to leaf through, {len(labels)} maps each{scored}: {'; '.join(labels)}. {_RUN}"
    return Widget(text, spec, data)


def _of_faces(faces: Faces) -> tuple[dict[str, Any], dict[str, Any], list[str] | None]:
    """Maps by name, the quantities of those whose name is none, and a word about each face."""
    stored, truth = shading.stored_shading(faces), faces.truth
    maps = {"rgb": faces.rgb, "normals": faces.normals, "coordinates": faces.coordinates, "stored shading": stored}
    quantities = {"stored shading": "diffuse_shading"}
    if truth is None:
        return maps, quantities, None
    maps |= {name: getattr(truth, name) for name in MAPS}
    maps["stored shading, error"] = stored - truth.diffuse_shading
    quantities["stored shading, error"] = "diffuse_shading_error"
    about = ["mouth and nose of the normals are wrong" if wrong else "normals fit" for wrong in truth.mismatch]
    return maps, quantities, about


def _mismatch(faces: Faces) -> np.ndarray:
    """(N,) mismatch scores, NaN for a face without a mask."""
    scores, some = np.full(len(faces), np.nan), faces.mask.any((1, 2))
    if some.any():
        scores[some] = shading.mismatch_score(faces[np.asarray(some)])
    return scores


def _checked(maps: Mapping[str, Any], quantities: Mapping[str, str | Quantity]) -> tuple[dict[str, Any], ...]:
    """The maps as arrays of the shape and dtype that their quantities ask for, and the quantities of all of them."""
    for name in quantities:
        if name not in maps:
            raise unknown_name("map in quantities", name, maps)
    arrays = {}
    for name, given in maps.items():
        values = plotting.to_numpy(given)
        colour = plotting.known_quantity(quantities.get(name, name)).cmap is None
        if values.ndim != 3 + colour or (colour and values.shape[-1] != 3) or values.dtype.kind not in "fiub":
            expected = "(N, H, W, 3)" if colour else "(N, H, W)"
            raise BiofaceError(f"{name}: expected numbers {expected}, found {values.dtype} of shape {values.shape}")
        arrays[name] = values / np.float32(255) if colour and values.dtype == np.uint8 else values
    return arrays, {name: quantities.get(name, name) for name in arrays}


def _packed(maps: Mapping[str, Any], quantities: Mapping[str, Any], mask: Any) -> tuple[list[dict[str, Any]], bytes]:
    """Descriptions of the panels, and the bytes they point into: all values (float32, NaN for none), all colours."""
    size = sum(4 * values.size + 3 * math.prod(values.shape[:3]) for values in maps.values())
    if size > MOST_BYTES:
        count = len(next(iter(maps.values())))
        raise BiofaceError(
            f"expected at most {MOST_BYTES / 1e6:.0f} MB of maps, found {size / 1e6:.0f} MB in {count} samples: "
            f"give fewer, such as the first {count * MOST_BYTES // size}, or smaller ones"
        )
    described: list[dict[str, Any]] = []
    values, colours = [], []
    for name, quantity in quantities.items():
        shown, where = plotting.known_quantity(quantity), None if name == "rgb" else mask
        v = maps[name].astype("<f4")
        if where is not None:
            v[~where] = np.nan
        values.append(v.tobytes())
        colours.append(plotting.painted(maps[name], quantity, mask=where).tobytes())
        label = shown.label if QUANTITIES.get(name) == shown else name
        one: dict[str, Any] = {"label": label, "unit": shown.unit, "letters": [""]}
        if v.ndim == 4:
            one["letters"] = list("xyz" if quantity in ("normals", "coordinates") else "RGB")
        else:
            ramp = plotting.painted(np.linspace(shown.low, shown.high, 16)[None], quantity)[0].tolist()
            one |= {"low": shown.low, "high": shown.high, "ramp": [f"rgb({r}, {g}, {b})" for r, g, b in ramp]}
        described.append(one)
    places = np.cumsum([0, *map(len, values), *map(len, colours)]).tolist()
    for k, one in enumerate(described):
        one |= {"values": places[k], "colours": places[len(values) + k]}
    return described, b"".join([*values, *colours])


def edit(decomposition: Any = None) -> Widget | Upload:
    """Change melanin, haemoglobin, highlights, light and camera of a photo with sliders, and see it change.

    Every picture is :func:`bioface.edit`'s, made in the kernel, of the face and a quarter of its sides around it; of
    more than 128 pixels a side every second, third ... one is taken. The widget says so when no kernel answers. Without
    the ``decomposition`` of a photo it takes one from the reader's disk.

    Raises BiofaceError: no decomposition, or one of several photos.
    """
    if decomposition is None:
        return Upload()
    if not isinstance(decomposition, Decomposition):
        raise BiofaceError(f"expected the Decomposition of a photo, found {type(decomposition).__name__}")
    shape = decomposition.melanin.shape
    if 0 in shape:
        return _nothing("No photo to edit.")
    if len(shape) != 2:
        raise BiofaceError(f"expected the decomposition of one photo, found maps of {shape}: choose one, as in maps[0]")
    return Editor(decomposition)


class Upload(ipywidgets.VBox):  # type: ignore[misc]  # untyped
    """What :func:`edit` gives without a photo: a button that takes one, what became of it, and an :class:`Editor`.

    A photo that cannot be taken apart, or has no face, is refused in words; an editor that is there stays.
    """

    def __init__(self) -> None:
        self.photo = ipywidgets.FileUpload(accept="image/*", description="Your photo")
        self._editor: tuple[Widget, ...] = ()
        said = _nothing("A photo with a face, of up to 10 MB. Only this notebook's kernel gets it.")
        super().__init__([self.photo, said])
        self.photo.observe(self._take, "value")

    def __repr__(self) -> str:
        return f"A photo of yours to edit. {_RUN}"

    def _say(self, text: str, *editor: Widget) -> None:
        self._editor = editor or self._editor
        self.children = (self.photo, _nothing(text), *self._editor)

    def _take(self, change: Any) -> None:
        """Take apart what was uploaded last."""
        for given in change["new"][-1:]:
            name = given["name"]
            self._say(f"{name}: looking for the face and taking it apart …")
            try:
                d, notes = _taken_apart(name, bytes(given["content"]))
                self._say(" ".join([f"{name}, {d.mask.shape[0]} × {d.mask.shape[1]} pixels.", *notes]), Editor(d))
            except BiofaceError as error:
                self._say(str(error))


def _taken_apart(name: str, content: bytes) -> tuple[Decomposition, list[str]]:
    """The largest face of the photo in a file's bytes, and what there is to say about it; a DataError without one."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("error", decomposition.NoMask)
        path = Path(folder) / f"photo{Path(name).suffix}"
        path.write_bytes(content)
        try:
            return decomposition.decompose(path), [str(warning.message) for warning in caught]
        except decomposition.NoMask:
            raise DataError(name, "a photo with a face", "none for certain") from None
        except DataError as error:
            raise DataError(name, error.expected, error.found) from error


class Editor(Widget):
    """What :func:`edit` gives for a photo."""

    def __init__(self, d: Decomposition):
        H, W = d.mask.shape
        box = _with_surroundings(d.mask)
        step = math.ceil(max(d.mask[box].shape) / PREVIEW)
        shown = tuple(slice(n.start, n.stop, step) for n in box)
        fields = {f.name: getattr(d, f.name) for f in dataclasses.fields(d)}
        self._shown = Decomposition(**{name: v[shown] if v.shape[:2] == (H, W) else v for name, v in fields.items()})
        photo = self.picture()
        note = f"The face in the photo of {H} × {W} pixels, one pixel of every {step} × {step}."
        spec = {
            "kind": "edit",
            "size": list(self._shown.mask.shape),
            "note": "" if self._shown.mask.shape == (H, W) else note,
            "lights": list(LIGHTS.items()),
            "camera": [round(float(b), 2) for b in np.nan_to_num(d.camera_b)],
            "pause": max(1000 / FRAMES_A_SECOND, 1000 * len(photo) / BYTES_A_SECOND),  # ms from one picture to the next
        }
        text = f"A photo of {H} × {W} pixels to edit: melanin, haemoglobin, highlights, light, camera. {_RUN}"
        super().__init__(text, spec, photo)
        self.on_msg(self._answer)

    def picture(self, **edits: Any) -> bytes:
        """The edited photo, (H, W, 3) uint8 display sRGB, as bytes; the arguments are those of :func:`bioface.edit`."""
        return np.rint(255 * decomposition.edit(self._shown, **edits)).astype(np.uint8).tobytes()

    def _answer(self, widget: Any, content: Any, buffers: Any) -> None:
        """Send the picture that the browser asked for, or why there is none, under the number of its question."""
        try:
            answer, pictures = "", [self.picture(**{name: content[name] for name in _EDITS if name in content})]
        except BiofaceError as error:
            answer, pictures = str(error), []
        self.send({"id": content["id"], "error": answer}, pictures)


def _with_surroundings(mask: np.ndarray) -> tuple[slice, ...]:
    """The part of a picture (H, W) that holds the mask, and :data:`AROUND` of its longer side on each of its own."""
    box = extent(mask if mask.any() else ~mask)
    reach = math.ceil(AROUND * (max(mask[box].shape) - 1))
    return tuple(slice(max(0, side.start - reach), side.stop + reach) for side in box)


def compare(runs: Any) -> Widget:
    """Curves of trainings over their steps, each to be switched on and off, with the values at a step.

    ``runs`` are {name: runs}: a :class:`~bioface.training.History`, an :class:`~study.experiments.Run`, or several of
    them (seeds), drawn in one colour; their median, lowest and highest value are said.

    Raises BiofaceError: something else.
    """
    if not isinstance(runs, Mapping):
        raise BiofaceError(f"expected runs by name, as in {{name: [run, ...]}}, found {type(runs).__name__}")
    curves = {str(name): [_curves(h) for h in _histories(name, given) if len(h)] for name, given in runs.items()}
    curves = {name: seeds for name, seeds in curves.items() if seeds}
    if not curves:
        return _nothing("No training to compare.")
    every = [seed for seeds in curves.values() for seed in seeds]
    shown = [name for name in every[0] if any(np.nan_to_num(seed[name]).any() for seed in every)]  # not a loss unused
    described: list[dict[str, Any]] = []
    data = bytearray()
    for k, (name, seeds) in enumerate(curves.items()):
        described.append({"name": name, "colour": COLOURS[k % len(COLOURS)], "seeds": []})
        for seed in seeds:
            described[-1]["seeds"].append({"steps": len(seed[shown[0]]), "values": len(data)})
            data += np.stack([seed[curve] for curve in shown]).astype("<f4").tobytes()  # (curves, steps)
    spec = {"kind": "compare", "runs": described, "curves": shown}
    text = f"Training curves of {len(curves)} run{'s' * (len(curves) > 1)} to compare: {', '.join(curves)}. {_RUN}"
    return Widget(text, spec, bytes(data))


def _histories(name: str, given: Any) -> list[History]:
    several = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    histories: list[Any] = [getattr(run, "history", run) for run in several]
    for run, history in zip(several, histories, strict=True):
        if not isinstance(history, History):
            raise BiofaceError(f"{name}: expected a History, a Run or a list of them, found {type(run).__name__}")
    return histories


def _curves(history: History) -> dict[str, np.ndarray]:
    """Every curve of a training, (steps,) each, by the name it is shown with."""
    return {
        "sum of the losses": history.total,
        **{f"{name} loss": history.losses[name] for name in LOSSES},
        "gradient norm": history.gradient_norm,
        "learning rate": history.learning_rate,
    }
