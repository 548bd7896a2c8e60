"""What the notebooks measure on real files that a reader may not have: a generator of numbers for each source of data.

A notebook hands them in (:func:`hand_in`), and :mod:`study.record` keeps them with date, data and commit.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from bioface import camera, illumination, image_formation, paths, smith2019
from bioface.datasets import registry, skin_spectra
from study import claims, nfe_photos, stage


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One number for a claim ("NN.name"); ``bar`` holds ``at_most=`` or ``at_least=`` where that is measured too."""

    id: str
    measured: float
    model: str = ""
    control: str = ""
    bar: dict[str, float] = field(default_factory=dict)


def issa() -> Iterator[Measured]:
    """How closely the skin model fits the face spectra of ISSA, left free."""
    spectra = skin_spectra.load("issa")
    rmse = smith2019.fit(spectra.reflectance, spectra.wavelengths, model="layered").residual
    by_group = [np.median(rmse[spectra.group == group]) for group in spectra.groups]
    told = ", ".join(f"{g} {v:.4f}" for g, v in zip(spectra.groups, by_group, strict=True))
    yield Measured(id="A1.issa_layered", measured=np.median(rmse), model="layered", control=told)
    yield Measured(id="A1.issa_layered_groups", measured=float(np.median(by_group)), model="layered", control=told)


def cheeks() -> Iterator[Measured]:
    """How closely the skin models fit ISET's cheeks, as a share of each spectrum's root mean square."""
    spectra = skin_spectra.load("iset")
    level, relative = np.sqrt(np.mean(spectra.reflectance**2, -1)), {}
    for model, bounds in (("published", "paper"), ("published", "free"), ("layered", "free")):
        fit = smith2019.fit(spectra.reflectance, spectra.wavelengths, model=model, bounds=bounds)
        relative[model, bounds] = float(np.median(fit.residual / level))
    free, bounded = relative["published", "free"], relative["published", "paper"]
    told = f"published free {free:.4f}, in the paper's bounds {bounded:.4f}"
    ours = relative["layered", "free"]
    yield Measured(id="04.cheeks_layered", measured=ours, model="layered", control=told, bar={"at_most": free})
    yield Measured(id="04.cheeks_relative", measured=ours, model="layered", control=told)


def cameras() -> Iterator[Measured]:
    """The shipped camera table made again from the raw data base, and our colours against the authors' MATLAB."""
    raw = registry.fetch("cameras")[0]
    shipped, again = camera.CameraModel.load(), camera.CameraModel.from_database(raw)
    pairs = ((getattr(again, k), getattr(shipped, k)) for k in ("mean", "components", "deviations"))
    worst, S = max(float((a - b).abs().max()) for a, b in pairs), camera.read_database(raw)[1].numpy()
    sizes = {
        "unit sum": S.sum(-1, keepdims=True),
        "unit peak": S.max(-1, keepdims=True),
        "unit length": np.linalg.norm(S, axis=-1, keepdims=True),
        "the camera's sum": S.sum((1, 2), keepdims=True),
        "the camera's peak": S.max((1, 2), keepdims=True),
        "as measured": np.ones(1),
    }
    shares = []
    for name, size in sizes.items():
        centred = (S / size).reshape(len(S), -1)
        variance = np.linalg.svd(centred - centred.mean(0), compute_uv=False) ** 2
        shares.append(f"{name} {variance[:2].sum() / variance.sum():.3f}")
    told = f"share of two components, centred, each channel scaled to {', '.join(shares)}"
    yield Measured(id="A1.camera_table", measured=worst, control=told)
    known = np.loadtxt(paths.TABLES / "reference_linear_rgb.csv", delimiter=",")
    m, h = known[:, :2].T[:, None]
    light, first = illumination.standard("A").numpy(), S[0] / S[0].sum(-1, keepdims=True)
    rgb = image_formation.render(m, h, np.ones_like(m), 0 * m, light, first, "published", "code", method="exact")
    yield Measured(id="A1.published_colour", measured=np.abs(rgb[0] - known[:, 2:]).max(), model="published")


def faces_of_a_light_stage() -> Iterator[Measured]:
    """What `decompose` makes of two real faces: the worse of the two, with each and its opponents beside it."""
    found = stage.compare()
    for name, values in found["Bayes"].items():
        beside = {method: ", ".join(f"{v:.3g}" for v in rows.get(name, ())) for method, rows in found.items()}
        told = "; ".join(f"{method} {text}" for method, text in beside.items() if text)
        worst = max(values) if name == "highlights_mean" else min(values)
        yield Measured(id=f"05.light_{name}", measured=worst, model="layered", control=told)


LIGHT = ("highlights_1", "highlights_2", "highlights_mean", "brows", "patch", "nose", "melanin", "haemoglobin")
#: What measures, by the name of its files in ``bioface.datasets.registry``, and the claims that it is for.
SOURCES: dict[str | registry.Entry, tuple[Callable[[], Iterator[Measured]], tuple[str, ...]]] = {
    "issa": (issa, ("issa_layered", "issa_layered_groups")),
    "cheeks": (cheeks, ("cheeks_layered", "cheeks_relative")),
    "cameras": (cameras, ("camera_table", "published_colour")),
    nfe_photos.FILES: (lambda: (Measured(id=i, measured=m, control=told) for i, m, told in nfe_photos.measure()), ()),
    "bioskin": (faces_of_a_light_stage, tuple(f"light_{name}" for name in LIGHT)),
}


def hand_in(to: claims.Claims, source: str) -> None:
    """Give a notebook's claims what is measured now, or was recorded, where the files of a source are absent."""
    measure, names = SOURCES[source]
    if registry.is_placed(source):
        for row in measure():
            to.check(row.id[3:], row.measured, control=row.control, **row.bar)
    else:
        for name in names:
            to.skip(name, reason=f"no {registry.ENTRIES[source].files[0]} in data/ (see data/README.md)")
