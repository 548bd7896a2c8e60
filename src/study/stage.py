"""What methods make of two real faces whose highlights were measured apart (:mod:`bioface.datasets.light_stage`).

Nobody knows the pigments of these people. Brows, a pigmented patch and a red nose say what maps should show; BioSkin's
encoder says it of the diffuse part alone, which no photo has by itself.

Reference: Aliaga et al. (2023), "A Hyperspectral Space of Skin Tones for Inverse Rendering of Biophysical Skin
Properties", Computer Graphics Forum 42; the weights `BioSkinAO.pt` (MIT).
"""

import pickle
import warnings

import numpy as np
import scipy.stats
import torch
from sklearn.preprocessing import PolynomialFeatures

from bioface import image_formation, paths
from bioface.datasets import light_stage, registry
from bioface.decomposition import decompose
from bioface.errors import DataError

Maps = tuple[np.ndarray, np.ndarray, np.ndarray | None]  #: melanin, haemoglobin, specular shading (H, W)


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


def compare() -> dict[str, dict[str, list[float]]]:
    """By method, by name of :func:`numbers`, those of both faces; Bayes first, then what stands beside it."""
    kept = dict[str, dict[str, list[float]]]()
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
                    kept.setdefault(method, {}).setdefault(name, []).append(value)
    return kept
