"""How far edits of photos are from edits of the truth, and whether their colours are those of measured skin.

Edits are judged where the truth is known: on the twin, by what the edited *true* maps render to under the true camera
and light.

References
----------
Alotaibi & Smith (2019), "BioFaceNet", BMVC, Fig. 4: the three edits.
CIE 015:2018, "Colorimetry": CIELAB.
Sharma, Wu & Dalal (2005), "The CIEDE2000 color-difference formula", Color Res. Appl. 30: ΔE₀₀.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from bioface import arrays, camera, illumination, image_formation, metrics, spectra
from bioface.decomposition import decompose, edit
from bioface.maps import Decomposition
from study import drawings, figures

Errors = dict[str, dict[str, np.ndarray]]  #: (N,) of N faces by edit, and by method

#: The edits of the paper's Fig. 4, as arguments of :func:`bioface.edit`.
PAPER_EDITS: dict[str, dict[str, Any]] = {
    "specular removed": {"specular": 0.0},
    "melanin + 0.6": {"melanin": 0.6},
    "haemoglobin × 0.5": {"haemoglobin": 0.5},
}


#: Ways to deal with what the maps do not explain, as :func:`bioface.edit` takes them.
WAYS: dict[str, dict[str, Any]] = {"edit": {}, "residual stays": {"rest": "stays"}, "maps alone": {"rest": "none"}}


def edited(decomposition: Decomposition, change: Mapping[str, Any]) -> np.ndarray:
    """The edited photos of N faces, (N, H, W, 3) display sRGB; ``change`` are arguments of :func:`bioface.edit`."""
    return np.stack([edit(decomposition[n], **change) for n in range(len(decomposition))]).astype(float)


def edit_errors(
    found: Decomposition,
    truth: Decomposition,
    change: Mapping[str, Any],
    ways: Sequence[str] = (*WAYS, "no edit"),
) -> dict[str, np.ndarray]:
    """Display RMSE (N,) of edits inside the masks, by way, against the rendering of the edited true maps.

    Parameters
    ----------
    found, truth : of the same N faces
    change : arguments of :func:`bioface.edit`
    ways : of :data:`WAYS`, and "no edit", the photo as it is
    """
    changes = {way: {**change, **how} for way, how in WAYS.items()} | {"no edit": {}}
    expected, errors = edited(truth, changes["maps alone"]), {}
    for way in ways:
        errors[way] = metrics.rmse(edited(found, changes[way]), expected, truth.mask)
    return errors


def decomposed(faces: Any) -> Decomposition:
    """What :func:`bioface.decompose` says of every face of the twin, one photo at a time."""
    found = [decompose(rgb, mask) for rgb, mask in zip(faces.rgb, faces.mask, strict=True)]
    return arrays.join([one[None] for one in found])


def compared(
    found: Mapping[str, Decomposition], truth: Decomposition, changes: Mapping[str, Mapping[str, Any]]
) -> Errors:
    """:func:`edit_errors` of each edit by each method, and by "no edit"."""
    errors: Errors = {}
    for name, change in changes.items():
        errors[name] = {who: edit_errors(maps, truth, change, ["edit"])["edit"] for who, maps in found.items()}
        errors[name] |= edit_errors(truth, truth, change, ["no edit"])
    return errors


def table(errors: Errors) -> None:
    """Print display RMSE (0 to 1), mean ± standard deviation over faces."""
    methods = list(next(iter(errors.values())))
    print(f"{'mean ± SD':20s}" + "".join(f"{name:>18s}" for name in methods))
    for edit_name, of_edit in errors.items():
        print(f"{edit_name:20s}" + "".join(f"{v.mean():10.3f} ± {v.std():.3f}" for v in of_edit.values()))


def shares(errors: Errors) -> dict[str, dict[str, float]]:
    """Mean error of each edit by each method as a share of that of no edit."""
    return {
        name: {who: float(v.mean() / of_edit["no edit"].mean()) for who, v in of_edit.items() if who != "no edit"}
        for name, of_edit in errors.items()
    }


def worst_group(of_edit: Mapping[str, np.ndarray], group: np.ndarray) -> dict[str, float]:
    """The share of the error of no edit in the group of faces where it is largest, by method."""
    parts = [shares({"": {who: v[group == g] for who, v in of_edit.items()}})[""] for g in np.unique(group)]
    return {who: max(part[who] for part in parts) for who in parts[0]}


def others(share: Mapping[str, float]) -> str:
    """All but the first, as a control in words."""
    return ", ".join(f"{who} {value:.2f}" for who, value in list(share.items())[1:])


def _hue(colour: np.ndarray) -> np.ndarray:
    """Degrees, of CIELAB colours (..., 3)."""
    return np.asarray(np.degrees(np.arctan2(colour[..., 2], colour[..., 1])))


def hues(maps: Decomposition, reflectance: np.ndarray) -> dict[str, Any]:
    """Hue angles (degrees, CIELAB) of a face with 0.6 more melanin, and of measured skin as light; printed.

    Parameters
    ----------
    maps : of one photo
    reflectance : (N, 31) measured skin, 400–700 nm

    Returns
    -------
    "the photo", "residual stays" and "edited": of the median colour of the face; "measured skin": 5th and 95th
    percentile of the spectra within 3 of its lightness once edited, seen by the mean camera in D65
    """
    archive = seen(reflectance)
    found: dict[str, Any] = {}
    for name, rest in (("the photo", ""), ("residual stays", "stays"), ("edited", "follows")):
        dark = (
            edit(maps, **PAPER_EDITS["melanin + 0.6"], rest=rest) if rest else image_formation.srgb_encode(maps.image)
        )
        middle = np.median(lab(image_formation.srgb_decode(np.float64(dark)))[maps.mask], 0)
        alike = archive[np.abs(archive[:, 0] - middle[0]) < 3]
        found[name] = float(_hue(middle))
        found["measured skin"] = tuple(np.percentile(_hue(alike), [5, 95]).round().tolist())
        print(f"{name:15s} L* {middle[0]:.0f}, hue {found[name]:.0f}°; {len(alike)} measured skins as light")
    return found


# --- figures -----------------------------------------------------------------------------------------------


def _cut(maps: Decomposition, *images: np.ndarray) -> list[np.ndarray]:
    """Images of the size of a photo, cut to a tenth around its face."""
    edges = [(side, (side.stop - side.start - 1) // 10) for side in arrays.extent(maps.mask)]
    return [image[tuple(slice(max(0, s.start - e), s.stop + e) for s, e in edges)] for image in images]


def show_maps(name: str, maps: Decomposition, *, data: str) -> None:
    """A photo, its reconstruction and its maps, saved; pigments on ranges that show this face."""
    kinds = ("linear_rgb", "linear_rgb", "diffuse_shading", "specular_shading", "melanin", "haemoglobin", "albedo")
    images = [maps.image, maps.reconstruction, *(getattr(maps, kind) for kind in kinds[2:])]
    mask, *shown = _cut(maps, maps.mask, *images)
    means = {kind: float(np.nanmean(getattr(maps, kind)[maps.mask])) for kind in kinds[2:6]}
    print(", ".join(f"{kind} {mean:.2g}" for kind, mean in means.items()) + " on average over the face")
    titles = ["photo", "reconstruction", "diffuse", "specular", "melanin", "haemoglobin", "albedo"]
    alt = "A face, its reconstruction, and its maps: diffuse shading, highlights, melanin, haemoglobin, albedo."
    numbers = means | {"camera_b": maps.camera_b}
    drawings.by_row(name, {"": shown}, kinds, mask, titles=titles, numbers=numbers, data=data, alt=alt)


def show_edits(name: str, maps: Decomposition, rows: Mapping[str, Mapping[str, np.ndarray]], *, data: str) -> None:
    """A photo and rows of edits of it, under each how far it changes the face's colours (ΔE₀₀), saved."""
    photo = image_formation.srgb_encode(maps.image).clip(0, 1)
    before = lab(image_formation.srgb_decode(np.float64(photo)))
    shown, below, means = {}, [], dict[str, float]()
    for label, edited in rows.items():
        after = (lab(image_formation.srgb_decode(np.float64(image))) for image in edited.values())
        changes = [float(difference(before, one)[maps.mask].mean()) for one in after]
        means |= {f"{title}, {label}".removesuffix(", "): d for title, d in zip(edited, changes, strict=True)}
        shown[label] = _cut(maps, photo, *edited.values())
        below.append(["", *(f"ΔE₀₀ {change:.1f}" for change in changes)])
    titles, numbers = ["photo", *edited], {"mean_difference": means}
    told = ", ".join(f"{what} by ΔE₀₀ {change:.0f}" for what, change in means.items())
    alt = f"A face and pictures of it that are changed: {told}."
    everywhere, kinds = np.ones(shown[label][0].shape[:2], bool), ["rgb"] * len(titles)
    drawings.by_row(
        name, shown, kinds, everywhere, titles=titles, below=below, numbers=numbers, data=data, alt=alt, panel=1.8
    )


def show_errors(name: str, of_edit: Mapping[str, np.ndarray], group: np.ndarray, *, data: str) -> None:
    """The errors of one edit by group of faces, means and single faces, saved."""
    groups = list(np.unique(group))
    figure, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
    for k, (who, values) in enumerate(of_edit.items()):
        place = 0.12 * (k - 0.5 * (len(of_edit) - 1))  # beside the other methods
        ax.plot(values, [groups.index(g) + place for g in group], ".", color=f"C{k}", ms=3, alpha=0.4)
        middle = [values[group == g].mean() for g in groups]
        ax.plot(middle, place + np.arange(len(groups)), "o", ms=5, color=f"C{k}", label=who)
    ax.set_yticks(range(len(groups)), groups)
    ax.set(xlabel="display RMSE", xlim=(0, None))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    alt = "Errors of an edit by group of faces: decompose and the network have the least, each pixel alone and a "
    alt += "constant face twice to three times as much, no edit far more."
    figures.save(figure, name, numbers={"error": of_edit, "group": list(group)}, data=data, alt=alt)


# --- spectra and colours -----------------------------------------------------------------------------------


def lab(linear: np.ndarray) -> np.ndarray:
    """CIELAB (..., 3) of linear sRGB (..., 3) beside a white of (1, 1, 1), which is D65's.

    >>> lab(np.array([1.0, 1.0, 1.0])).round(2).tolist()
    [100.0, 0.0, 0.0]
    """
    to_xyz = np.linalg.inv(camera.XYZ_TO_SRGB.numpy())
    white = to_xyz.sum(-1)
    return _colour().XYZ_to_Lab(np.asarray(linear, float) @ to_xyz.T, white[:2] / white.sum())


def _colour() -> Any:
    """colour-science, imported late, and by :mod:`bioface.spectra` first, which keeps NumPy's style of printing."""
    spectra.colour_matching_functions()
    return importlib.import_module("colour")


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """ΔE₀₀ of CIELAB colours (..., 3), broadcast.

    >>> round(float(difference(np.array([50.0, 2.6772, -79.7751]), np.array([50.0, 0.0, -82.7485]))), 4)
    2.0425
    """
    return np.asarray(_colour().delta_E(*np.broadcast_arrays(a, b), method="CIE 2000"))


def seen(reflectance: np.ndarray) -> np.ndarray:
    """CIELAB (N, 3) of spectra (N, 31), 400–700 nm, as the mean camera sees them in D65, white balanced.

    Their last value goes on to 720 nm: beyond 700 nm is a thousandth of what the camera answers to.
    """
    R = np.concatenate([reflectance, np.repeat(reflectance[:, -1:], 2, 1)], 1).astype(float)
    S = camera.CameraModel.load().sensitivity(torch.zeros(2).double())
    return lab(R @ camera.reflectance_to_rgb(illumination.standard("D65").double(), S).numpy().T)
