"""What the notebooks measure on real files that a reader may not have: a generator of numbers for each source of data.

A notebook hands them in (:func:`hand_in`), and :mod:`study.record` keeps them with date, data and commit.

Two faces of a light stage have their highlights measured apart (:mod:`bioface.datasets.light_stage`). Nobody knows the
pigments of these people: brows, a pigmented patch and a red nose say what maps should show, and BioSkin's encoder says
it of the diffuse part alone, which no photo has by itself.

Reference: Aliaga et al. (2023), "A Hyperspectral Space of Skin Tones for Inverse Rendering of Biophysical Skin
Properties", Computer Graphics Forum 42; the weights `BioSkinAO.pt` (MIT).
"""

import pickle
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import scipy.stats
import torch
from sklearn.preprocessing import PolynomialFeatures

from bioface import camera, illumination, image_formation, paths, smith2019
from bioface.datasets import light_stage, registry, skin_spectra
from bioface.decomposition import decompose
from bioface.errors import DataError
from study import claims, nfe_photos

Maps = tuple[np.ndarray, np.ndarray, np.ndarray | None]  #: melanin, haemoglobin, specular shading (H, W)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One number for a claim ("NN.name"); ``bar`` holds ``at_most=`` or ``at_least=`` where that is measured too."""

    id: str
    measured: float
    model: str = ""
    control: str = ""
    bar: dict[str, float] = field(default_factory=dict)


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


def bioskin(albedo: np.ndarray) -> Maps:
    """Volume fractions (H, W) that BioSkin's encoder finds in linear RGB albedo (H, W, 3); it knows no highlights.

    Raises
    ------
    DataError : its weights are not in the data folder, or others
    """
    file = paths.data() / "bioskin" / "BioSkinAO.pt"
    x = torch.from_numpy(np.asarray(albedo, np.float32))
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        for layer, squash in (("in", torch.tanh), ("", torch.tanh), ("out", torch.sigmoid)):
            name = f"module.fc_enc_{layer}".rstrip("_")
            x = squash(torch.nn.functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"]))
        return x[..., 0].numpy() ** 3, x[..., 1].numpy() ** 4, None
    except (OSError, EOFError, LookupError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
        found = str(error).partition("\n")[0] if file.is_file() else "no such file"
        raise DataError(file, f"BioSkin's encoder. {registry.ENTRIES['bioskin'].instructions}", found) from error


def decomposed(face: light_stage.StageFace, method: str) -> Maps:
    """What :func:`bioface.decompose` makes of the photo by "bayes" or "network", its mask the ellipse of the face."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some colours, the brows', are no skin's
        found = decompose(image_formation.srgb_encode(face.photo), face.regions["face"], method=method)
    return found.melanin, found.haemoglobin, found.specular_shading


def by_colour(face: light_stage.StageFace, target: np.ndarray) -> np.ndarray:
    """The best that a pixel's colour alone says of a map (H, W): a quadratic in linear RGB, fitted to that very map.

    It has seen its answers, which no method has; NaN outside the face.
    """
    where = face.regions["face"]
    A = PolynomialFeatures(2).fit_transform(face.photo[where])
    fitted = np.full(where.shape, np.nan)
    fitted[where] = A @ np.linalg.lstsq(A, target[where], rcond=None)[0]
    return fitted


def numbers(face: light_stage.StageFace, maps: Maps, peer: Maps) -> dict[str, float]:
    """What is measured of maps of one face, as far as they say something and the face has such a region.

    ============================== =================================================================
    ``highlights_1``, ``_2``       correlation with the measured ones over the face of that name
    ``highlights_mean``            factor by which their mean is off, ≥ 1
    ``brows``, ``patch``           median melanin over the forehead's, over that of the ring around it
    ``nose``                       median haemoglobin over the forehead's
    ``melanin``, ``haemoglobin``   rank correlation with ``peer``'s over the face
    ============================== =================================================================
    """
    melanin, haemoglobin, specular = maps
    where, found = face.regions["face"] & np.isfinite(melanin), dict[str, float]()
    compared = {"brows": (melanin, "forehead"), "patch": (melanin, "ring"), "nose": (haemoglobin, "forehead")}
    for name, (values, other) in compared.items():
        if name in face.regions:
            there, beside = (np.nanmedian(values[face.regions[region]]) for region in (name, other))
            found[name] = float(there / beside)
    if specular is not None:
        said, measured = specular[where], face.specular[where]
        found[f"highlights_{face.name}"] = float(np.corrcoef(said, measured)[0, 1]) if np.ptp(said) else 0.0
        found["highlights_mean"] = float(np.exp(abs(np.log(max(said.mean(), 1e-9) / measured.mean()))))
    for name, said, other in zip(("melanin", "haemoglobin"), maps[:2], peer[:2], strict=True):
        same = not np.ptp(said[where])  # a constant goes with nothing
        found[name] = 0.0 if same else float(scipy.stats.spearmanr(said[where], other[where]).statistic)
    return found


def faces_of_a_light_stage() -> Iterator[Measured]:
    """What `decompose` makes of two real faces: the worse of the two, with each and its opponents beside it."""
    found = dict[str, dict[str, list[float]]]()  # by method, by name, those of both faces
    no_news = {
        "colour alone, fitted to the answers": ("brows", "patch", "nose", "highlights_mean"),  # of ranks, and its own
        "BioSkin of the diffuse part": ("melanin", "haemoglobin"),  # with itself
    }
    for face in light_stage.load():
        peer = bioskin(face.diffuse)
        ranks = (by_colour(face, scipy.stats.rankdata(pigment).reshape(pigment.shape)) for pigment in peer[:2])
        maps: dict[str, Maps] = {
            "Bayes": decomposed(face, "bayes"),
            "network": decomposed(face, "network"),
            "colour alone, fitted to the answers": (*ranks, by_colour(face, face.specular)),  # type: ignore[dict-item]
            "BioSkin of the photo": bioskin(face.photo),
            "BioSkin of the diffuse part": peer,
        }
        for method, of_method in maps.items():
            for name, value in numbers(face, of_method, peer).items():
                if name not in no_news.get(method, ()):
                    found.setdefault(method, {}).setdefault(name, []).append(value)
    for name, values in found["Bayes"].items():
        beside = {method: ", ".join(f"{v:.3g}" for v in rows.get(name, ())) for method, rows in found.items()}
        told = "; ".join(f"{method} {text}" for method, text in beside.items() if text)
        worst = max(values) if name == "highlights_mean" else min(values)
        yield Measured(id=f"05.light_{name}", measured=worst, model="layered", control=told)


LIGHT = ("highlights_1", "highlights_2", "highlights_mean", "brows", "patch", "nose", "melanin", "haemoglobin")
#: What measures, by the name of its files in ``bioface.datasets.registry``, and the claims that it is for.
SOURCES: dict[str | registry.Entry, tuple[Callable[[], Iterator[Measured]], tuple[str, ...]]] = {
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
