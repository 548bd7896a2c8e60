"""Whether the files of a face data set hold what they should: lines of the audit, each with its verdict."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import NamedTuple

import numpy as np

from bioface import metrics, shading
from bioface.datasets import nfe
from study import audit


class Check(NamedTuple):
    """One line of the audit: what was looked at, what was found, and "ok", "look" (a reader should) or "wrong"."""

    check: str
    found: str
    verdict: str


def _verdict(good: bool | np.bool_, otherwise: str = "wrong") -> str:
    return "ok" if good else otherwise


def check_files(source: audit.Source) -> list[Check]:
    """Layout and value ranges of the files as they are stored, from the first 64 faces of each."""
    counts = ", ".join(f"{name} {len(stream)}" for name, stream in source.streams.items())
    raw = np.concatenate([stream.raw(slice(64)) for stream in source.streams.values()])
    last = np.moveaxis(raw, 1, -1)
    mask = last[..., 6]
    inside = last[mask > 0.5]  # (pixels, 10)
    rgb, normals = inside[:, :3], inside[:, 3:6]
    lengths = [np.quantile(np.linalg.norm(v, axis=-1), [0.01, 0.5, 0.99]) for v in (normals, 2 * normals - 1)]
    undecoded, decoded = ("length {1:.3f} ({0:.3f} to {2:.3f} for 98 %)".format(*v) for v in lengths)
    is_unit = abs(lengths[1] - 1).max() < 0.02
    clipped = ((rgb >= 1) | (rgb <= 0)).any(1).mean()
    levels = np.abs(255 * rgb - np.rint(255 * rgb)).max()
    part = ((mask > 0) & (mask < 1)).mean()
    masks = f"{part:.1%} neither 0 nor 1; {(mask > 0.5).mean():.0%} is face"
    few = f"{source.left_out} of {source.left_out + len(source.faces)}"
    return [
        Check("faces (N, 10, 64, 64), lights (N, 3, 9)", counts, "ok"),  # the reader refuses anything else
        Check("RGB, channels 0–2", f"{rgb.min():.3g} to {rgb.max():.3g}", _verdict(rgb.max() > 0.5, "look")),
        Check("  on 8-bit levels", f"furthest off {levels:.3f} of a level", _verdict(levels < 1e-3, "look")),
        Check("  clipped at 0 or 1, inside the mask", f"{clipped:.1%} of pixels", _verdict(clipped < 0.05, "look")),
        Check("normals, channels 3–5, as stored", undecoded, "look"),
        Check("  decoded by 2x − 1", decoded, _verdict(is_unit)),
        Check("mask, channel 6", masks, _verdict(part < 0.01)),
        Check("  hardly a face, left out below", few, _verdict(source.left_out == 0, "look")),
    ]


def check_coordinates(faces: nfe.Faces) -> list[Check]:
    """What channels 7–9 are: how each goes along with column, height and shading, inside the mask."""
    row, column = (np.broadcast_to(g, faces.mask.shape).astype(np.float32) for g in np.mgrid[:64, :64])
    found = []
    for number, channel in enumerate(np.moveaxis(faces.coordinates, -1, 0), start=7):
        others = (column, -row, shading.stored_shading(faces))
        x, y, light = (np.median(np.nan_to_num(metrics.correlation(channel, o, faces.mask))) for o in others)
        text = f"column {x:+.2f}, height {y:+.2f}, shading {light:+.2f}"
        found.append(Check(f"channel {number}: correlation with", text, _verdict(abs(light) < 0.7, "look")))
    return found


def own_light(faces: nfe.Faces, rng: np.random.Generator) -> float:
    """How often a face's own light explains its photo better than another face's: 1 always, 0.5 by chance.

    Explains: correlation of luminance with nᵀMn. Files whose lights are out of step come out at 0.5.
    """
    photo = shading.luminance(faces)

    def fit(light: np.ndarray) -> np.ndarray:
        shown = shading.stored_shading(dataclasses.replace(faces, lighting=light))
        return np.nan_to_num(metrics.correlation(photo, shown, faces.mask), nan=-1)

    own = fit(faces.lighting)
    return float(np.mean([own > fit(faces.lighting[audit.other_faces(len(faces), rng)]) for _ in range(8)]))


def exponent(faces: nfe.Faces) -> np.ndarray:
    """(N,) slope of the photo's log luminance (linear light) on log stored shading over the face.

    1 when the shading multiplies albedo in linear light, about 2.2 when it was made for display values.
    """
    x = np.log(np.maximum(shading.stored_shading(faces), shading.DARKEST_SHADING))
    y = np.log(np.maximum(shading.luminance(faces), shading.DARKEST))
    covariance = [np.cov(a[inside], b[inside]) for a, b, inside in zip(x, y, faces.mask, strict=True)]
    return np.array([c[0, 1] / max(c[0, 0], 1e-9) for c in covariance])


def check_shading(faces: nfe.Faces, rng: np.random.Generator) -> list[Check]:
    """Whether normals, lights and photos agree with one another."""
    positive = float((shading.stored_shading(faces)[faces.mask] > 0).mean())
    wins = own_light(faces, rng)
    low, median, high = np.quantile(exponent(faces), [0.25, 0.5, 0.75])
    slope = f"median {median:.2f}, quartiles {low:.2f} to {high:.2f}"
    return [
        Check("nᵀMn positive, inside the mask", f"{positive:.2%} of pixels", _verdict(positive > 0.99, "look")),
        Check("own light beats a stranger's", f"{wins:.1%} of pairs", _verdict(wins > 0.8)),
        # 1 in linear light; display values would show 2.2
        Check("log photo against log shading, slope", slope, _verdict(0.6 < median < 1.6, "look")),
    ]


def check_duplicates(source: audit.Source) -> list[Check]:
    """The same photo twice among the faces under audit, and the same person in two splits where that is known."""
    digests = {hashlib.sha256(photo.tobytes()).digest() for photo in source.faces.rgb}
    twice = len(source.faces) - len(digests)
    found = [Check("photos that occur twice", f"{twice} of {len(source.faces)}", _verdict(twice == 0))]
    if source.is_real:
        return [*found, Check("people in more than one split", "not known: files name no people", "look")]
    files = np.array([name.split(":")[0] for name in source.faces.names])
    people = [set(source.faces.truth.identity[files == file].tolist()) for file in np.unique(files)]
    shared = sum(map(len, people)) - len(set().union(*people))
    return [*found, Check("people in more than one split", f"{shared}", _verdict(shared == 0))]
