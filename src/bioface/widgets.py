"""Widgets for notebooks: scrub through samples, edit a photo, compare trainings.

Pictures and numbers go to the browser once, as bytes, and are drawn there (``assets/widgets.js``): scrubbing and
comparing need no kernel any more once they are shown. Only :func:`edit` asks the kernel for every picture, and says so
when none answers. Without a widget front end, as on GitHub, a cell shows what the widget holds in words.

They need the package's ``notebooks`` extra (anywidget).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anywidget
import numpy as np
import traitlets

from bioface import decomposition, paths, plotting, shading
from bioface.datasets.nfe import Faces
from bioface.errors import BiofaceError, unknown_name
from bioface.identifiability import MAPS
from bioface.maps import Decomposition
from bioface.plotting import QUANTITIES, Quantity
from bioface.training import LOSSES, History

MOST_BYTES = 64_000_000  #: that a widget sends to the browser
PREVIEW = 128  #: pixels a side of what is edited; of larger photos every second, third ... pixel is taken
#: Bytes a second of pictures from kernel to browser: Jupyter's server drops messages beyond 1 000 000, its default.
BYTES_A_SECOND = 700_000
FRAMES_A_SECOND = 40  #: at most
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
_COORDINATES = Quantity("coordinate map", None)


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


# --- samples -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Map:
    """One panel: ``values`` (N, H, W) or (N, H, W, 3); outside the mask they are grey and unsaid if ``masked``."""

    values: np.ndarray
    quantity: str | Quantity
    label: str = ""
    masked: bool = True


def scrub(
    samples: Any,
    *,
    quantities: Mapping[str, str | Quantity] | None = None,
    mask: Any = None,
    names: Sequence[str] | None = None,
    scores: Any = None,
    score_name: str = "mismatch score",
) -> Widget:
    """Leaf through samples, all maps of one at a time, with one crosshair and the values under it.

    A slider (arrow keys) chooses the sample, the pointer or the arrow keys on a map the pixel. Two more sliders show
    only samples whose score is within limits. No sample at all gives a widget that says so.

    Parameters
    ----------
    samples : ``nfe.Faces``, shown with the shading that their normals and lights make and, on the twin, with the true
        maps; a :class:`~bioface.maps.Decomposition` of one photo or of several; or {name: (N, H, W) or
        (N, H, W, 3)}, the colour images of a range and colour space that their quantity says
    quantities : of the maps of a mapping, by name, where the name is not itself one in ``plotting.QUANTITIES``
    mask : (N, H, W), true where the maps of a mapping hold; its "rgb" is shown whole. Faces and decompositions have
        their own
    names : of the samples; left out, those of the faces, or numbers
    scores : (N,) to filter and to sort by, NaN for none; left out, the mismatch score of faces
    score_name : what it is called

    Raises
    ------
    BiofaceError : samples of another type, an unknown quantity, shapes that do not agree, more than 64 MB
    """
    if isinstance(samples, Faces):
        maps, mask, names, about = _of_faces(samples, mask, names)
        if scores is None and len(samples):
            scores = _mismatch(samples)
    elif isinstance(samples, Decomposition):
        maps, mask, about = _of_decomposition(samples, mask)
    elif isinstance(samples, Mapping):
        maps, about = _of_mapping(samples, quantities or {}), None
    else:
        raise BiofaceError(
            f"expected samples as Faces, a Decomposition or {{name: (N, H, W) arrays}}, found {type(samples).__name__}"
        )
    if quantities and not isinstance(samples, Mapping):
        raise BiofaceError("expected quantities with a mapping of arrays only, found them with other samples")
    shapes = {m.values.shape[:3] for m in maps.values()}
    if len(shapes) > 1:
        found = ", ".join(f"{name} {m.values.shape}" for name, m in maps.items())
        raise BiofaceError(f"expected maps of equally many samples and pixels, found {found}")
    N, H, W = shapes.pop() if shapes else (0, 0, 0)
    if N == 0 or H * W == 0:
        return _nothing("No sample to show.")
    mask = None if mask is None else plotting.to_numpy(mask) > 0.5
    scores = None if scores is None else plotting.to_numpy(scores).astype(float)
    names = [f"sample {k}" for k in range(N)] if names is None else [str(name) for name in names]
    for what, found, expected in (
        ("mask", None if mask is None else mask.shape, (N, H, W)),
        ("scores", None if scores is None else scores.shape, (N,)),
        ("names", (len(names),), (N,)),
    ):
        if found is not None and found != expected:
            raise BiofaceError(f"{what}: expected shape {expected}, found {found}")
    described, data = _packed(maps, mask)
    labels = [m["label"] for m in described]
    scored = "" if scores is None else f", to be filtered by {score_name}"
    spec = {
        "kind": "scrub",
        "size": [H, W],
        "maps": described,
        "names": names,
        "about": about or [""] * N,
        "scores": None if scores is None else [float(s) if math.isfinite(s) else None for s in scores],
        "score_name": score_name,
    }
    samples_text = "1 sample" if N == 1 else f"{N} samples"
    text = f"{samples_text} to leaf through, {len(labels)} maps each{scored}: {'; '.join(labels)}. {_RUN}"
    return Widget(text, spec, data)


def _of_faces(faces: Faces, mask: Any, names: Any) -> tuple[dict[str, _Map], Any, Sequence[str], list[str] | None]:
    stored = shading.stored_shading(faces)
    maps = {
        "rgb": _Map(faces.rgb, "rgb", masked=False),
        "normals": _Map(faces.normals, "normals"),
        "coordinate map": _Map(faces.coordinates, _COORDINATES),
        "stored shading": _Map(stored, "diffuse_shading", "stored shading"),
    }
    about, truth = None, faces.truth
    if truth is not None:
        maps |= {name: _Map(getattr(truth, name), name) for name in MAPS}
        maps["error"] = _Map(stored - truth.diffuse_shading, "diffuse_shading_error", "stored shading, error")
        about = ["mouth and nose of the normals are wrong" if wrong else "normals fit" for wrong in truth.mismatch]
    return maps, faces.mask if mask is None else mask, faces.names if names is None else names, about


def _mismatch(faces: Faces) -> np.ndarray:
    """(N,) mismatch scores, NaN for a face without a mask."""
    scores, some = np.full(len(faces), np.nan), faces.mask.any((1, 2))
    if some.any():
        scores[some] = shading.mismatch_score(faces[np.asarray(some)])
    return scores


def _of_decomposition(d: Decomposition, mask: Any) -> tuple[dict[str, _Map], Any, None]:
    if d.melanin.ndim == 2:
        d = d[None]
    error = np.sqrt(((d.reconstruction - d.image) ** 2).mean(-1))
    maps = {
        "image": _Map(d.image, "linear_rgb", "photo, linear RGB", masked=False),
        "reconstruction": _Map(d.reconstruction, "linear_rgb", "reconstruction, linear RGB"),
        "rgb_error": _Map(error, "rgb_error"),
        "albedo": _Map(d.albedo, "albedo"),
        **{name: _Map(getattr(d, name), name) for name in MAPS},
    }
    return maps, d.mask if mask is None else mask, None


def _of_mapping(samples: Mapping[str, Any], quantities: Mapping[str, str | Quantity]) -> dict[str, _Map]:
    for name in quantities:
        if name not in samples:
            raise unknown_name("map in quantities", name, samples)
    maps = {}
    for name, values in samples.items():
        quantity, values = quantities.get(name, name), plotting.to_numpy(values)
        colour = _known(quantity).cmap is None
        if values.ndim != 3 + colour or (colour and values.shape[-1] != 3) or values.dtype.kind not in "fiub":
            expected = "(N, H, W, 3)" if colour else "(N, H, W)"
            raise BiofaceError(f"{name}: expected numbers {expected}, found {values.dtype} of shape {values.shape}")
        if colour and values.dtype == np.uint8:
            values = values / np.float32(255)
        maps[name] = _Map(values, quantity, masked=name != "rgb")
    return maps


def _label(name: str, shown: Quantity) -> str:
    return shown.label if QUANTITIES.get(name) == shown else name


def _known(quantity: str | Quantity) -> Quantity:
    if isinstance(quantity, str) and quantity not in QUANTITIES:
        raise unknown_name("quantity", quantity, QUANTITIES)
    return QUANTITIES[quantity] if isinstance(quantity, str) else quantity


def _packed(maps: Mapping[str, _Map], mask: np.ndarray | None) -> tuple[list[dict[str, Any]], bytes]:
    """Descriptions of the panels, and the bytes they point into: all values (float32, NaN for none), all colours."""
    size = sum(4 * m.values.size + 3 * math.prod(m.values.shape[:3]) for m in maps.values())
    if size > MOST_BYTES:
        count = len(next(iter(maps.values())).values)
        raise BiofaceError(
            f"expected at most {MOST_BYTES / 1e6:.0f} MB of maps, found {size / 1e6:.0f} MB in {count} samples: "
            f"give fewer, such as the first {count * MOST_BYTES // size}, or smaller ones"
        )
    described: list[dict[str, Any]] = []
    values, colours, place = [], [], 0
    for name, m in maps.items():
        shown, where = _known(m.quantity), mask if m.masked else None
        v = m.values.astype("<f4")
        if where is not None:
            v[~where] = np.nan
        values.append(v.tobytes())
        colours.append(plotting.painted(m.values, m.quantity, mask=where).tobytes())
        one: dict[str, Any] = {"label": m.label or _label(name, shown), "unit": shown.unit}
        if m.values.ndim == 4:
            one["letters"] = list("xyz" if m.quantity == "normals" or shown is _COORDINATES else "RGB")
        else:
            ramp = np.linspace(shown.low, shown.high, 16)[None]
            one |= {"letters": [""], "low": shown.low, "high": shown.high}
            one["ramp"] = [f"rgb({r}, {g}, {b})" for r, g, b in plotting.painted(ramp, m.quantity)[0].tolist()]
        described.append(one | {"values": place})
        place += len(values[-1])
    for one, painted in zip(described, colours, strict=True):
        one["colours"] = place
        place += len(painted)
    return described, b"".join([*values, *colours])


# --- editing -----------------------------------------------------------------------------------------------


def edit(decomposition: Any) -> Widget:
    """Change melanin, haemoglobin, highlights, light and camera of a photo with sliders, and see it change.

    Every picture is :func:`bioface.edit`'s, made in the kernel; of photos with more than 128 pixels a side every
    second, third ... pixel is taken. The widget says so when no kernel answers.

    Parameters
    ----------
    decomposition : of one photo, or of several with just one in them

    Raises
    ------
    BiofaceError : no decomposition, or one of several photos
    """
    if not isinstance(decomposition, Decomposition):
        raise BiofaceError(f"expected the Decomposition of a photo, found {type(decomposition).__name__}")
    d = decomposition
    if d.melanin.size == 0:
        return _nothing("No photo to edit.")
    if d.melanin.ndim == 3 and len(d) == 1:
        d = d[0]
    if d.melanin.ndim != 2:
        shape = d.melanin.shape
        raise BiofaceError(f"expected the decomposition of one photo, found maps of {shape}: choose one, as in maps[0]")
    return Editor(d)


class Editor(Widget):
    """What :func:`edit` gives."""

    def __init__(self, d: Decomposition):
        H, W = d.mask.shape
        step = math.ceil(max(H, W) / PREVIEW)
        thin = {
            f.name: v[::step, ::step] if (v := getattr(d, f.name)).shape[:2] == (H, W) else v
            for f in dataclasses.fields(d)
        }
        self._shown = Decomposition(**thin)
        size = list(self._shown.mask.shape)
        photo = self.picture()
        spec = {
            "kind": "edit",
            "size": size,
            "note": "" if step == 1 else f"One pixel of every {step} × {step} of the photo's {H} × {W} is shown.",
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
            picture = self.picture(**{name: content[name] for name in _EDITS if name in content})
        except BiofaceError as error:
            self.send({"id": content["id"], "error": str(error)})
        else:
            self.send({"id": content["id"], "error": ""}, [picture])


# --- trainings ---------------------------------------------------------------------------------------------


def compare(runs: Any) -> Widget:
    """Curves of trainings over their steps, each to be switched on and off, with the values at a step.

    Parameters
    ----------
    runs : {name: runs}, where runs are a :class:`~bioface.training.History`, an :class:`~study.experiments.Run`, or
        several of them (seeds), drawn in one colour; their median, lowest and highest value are said

    Raises
    ------
    BiofaceError : something else
    """
    if not isinstance(runs, Mapping):
        raise BiofaceError(f"expected runs by name, as in {{name: [run, ...]}}, found {type(runs).__name__}")
    found: dict[str, list[History]] = {}
    for name, given in runs.items():
        several: Any = [given] if isinstance(given, History) or hasattr(given, "history") else given
        if not isinstance(several, Sequence) or isinstance(several, str):
            raise BiofaceError(f"{name}: expected a History, a Run or a list of them, found {type(given).__name__}")
        histories: list[Any] = [getattr(run, "history", run) for run in several]
        for run, history in zip(several, histories, strict=True):
            if not isinstance(history, History):
                raise BiofaceError(f"{name}: expected a History or a Run, found {type(run).__name__}")
        if histories := [history for history in histories if len(history)]:
            found[str(name)] = histories
    if not found:
        return _nothing("No training to compare.")
    curves = {name: [_curves(history) for history in histories] for name, histories in found.items()}
    every = [seed for seeds in curves.values() for seed in seeds]
    shown = [name for name in every[0] if any(np.nan_to_num(seed[name]).any() for seed in every)]  # not a loss unused
    described: list[dict[str, Any]] = []
    columns, place = [], 0
    for k, (name, seeds) in enumerate(curves.items()):
        described.append({"name": name, "colour": COLOURS[k % len(COLOURS)], "seeds": []})
        for seed in seeds:
            columns.append(np.stack([seed[curve] for curve in shown]).astype("<f4").tobytes())  # (curves, steps)
            described[-1]["seeds"].append({"steps": len(seed[shown[0]]), "values": place})
            place += len(columns[-1])
    spec = {"kind": "compare", "runs": described, "curves": shown}
    text = f"Training curves of {len(found)} run{'s' * (len(found) > 1)} to compare: {', '.join(found)}. {_RUN}"
    return Widget(text, spec, b"".join(columns))


def _curves(history: History) -> dict[str, np.ndarray]:
    """Every curve of a training, (steps,) each, by the name it is shown with."""
    return {
        "sum of the losses": history.total,
        **{f"{name} loss": history.losses[name] for name in LOSSES},
        "gradient norm": history.gradient_norm,
        "change of the image, linear RGB": history.output_change,
        "learning rate": history.learning_rate,
    }
