"""Make ``radiative_transfer.npz``: skin's reflectance by adding–doubling, the reference for Kubelka–Munk.

    python build_transfer.py

Two layers that scatter and absorb, as ``bioface.skin`` states them: an epidermis of 60 µm, a dermis of 3 mm, black
below. What the skin model gives as optical depth over its 0.02 cm of melanin is here spread over the 60 µm, so the
vertical depth is the same. Scattering is isotropic with the reduced coefficient in both layers. The surface is
Fresnel's between air and skin (n = 1.4), or none (n = 1), and there also with an epidermis that does not scatter, which
is what the Kubelka–Munk models assume. Needs ``iadpython`` (the extra ``test``); takes a minute.

Source: Prahl, van Gemert & Welch (1993), "Determining the optical properties of turbid media by using the
adding–doubling method", Applied Optics 32.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path

import iadpython as iad
import numpy as np

from bioface import paths, skin, spectra, transfer

MODEL = "layered"  #: whose constants are used
EPIDERMIS_CM = 0.006
INCIDENCE = math.cos(math.radians(8))  #: of the directed light, in air
QUADRATURE = 48  #: angles; what more of them change stands in README.md
CELLS = ((0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.43), (0.005, 0.01, 0.02, 0.04, 0.07))  #: kept beside the table


class Slab:
    """Layers under one surface, by adding–doubling.

    Parameters
    ----------
    index : refractive index of all layers; what lies below has it too
    angles : of the quadrature, a multiple of 6
    """

    def __init__(self, index: float, angles: int = QUADRATURE):
        self.sample = iad.Sample(n=index, quad_pts=angles)
        self.sample.nu_0 = INCIDENCE
        self.sample.update_quadrature()
        self.surface = iad.boundary_matrices(self.sample)

    def layer(self, absorption: float, scattering: float, thickness: float) -> tuple[np.ndarray, np.ndarray]:
        """Reflection and transmission matrix of a layer; coefficients in 1/cm, thickness in cm."""
        sample, extinction = copy.copy(self.sample), absorption + scattering
        sample.a, sample.b = scattering / extinction, extinction * thickness
        return iad.simple_layer_matrices(sample)

    def over(self, top: tuple[np.ndarray, np.ndarray], below: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Reflection matrix, from above, of one layer on another."""
        (R, T), (R_below, T_below) = top, below
        return iad.add_layers(self.sample, R, R, T, T, R_below, R_below, T_below, T_below)[0]

    def reflectance(self, inside: np.ndarray) -> tuple[float, float]:
        """Reflectance for light at 8° and for diffuse light, of what reflects by ``inside`` below the surface.

        All that leaves the skin counts, at any angle; what the surface itself reflects on the way in does not.
        """
        s = self.sample
        _, back, enter, leave = self.surface
        none = np.zeros_like(inside)
        seen = iad.add_layers(s, none, back, enter, leave, inside, none, none, none)[0]
        air = s.nu > s.nu_c()  # the others are totally reflected
        flux = (s.twonuw[air] @ seen[air])[air]
        directed = np.abs(s.nu[air] - iad.cos_snell(1.0, s.nu_0, s.n)).argmin()
        return flux[directed], s.n**2 * flux @ s.twonuw[air]


def table(
    melanin: np.ndarray, haemoglobin: np.ndarray, angles: int = QUADRATURE, bands: slice = slice(None)
) -> np.ndarray:
    """(layers, geometries, melanin, haemoglobin, D) reflectance of all pairs of fractions."""
    coefficients = skin.SkinModel(MODEL).coefficients.numpy()[:, bands]
    c = skin.constants(MODEL)
    spread = c.epidermis_melanin_cm / EPIDERMIS_CM
    cases = len(transfer.LAYERS), len(transfer.GEOMETRIES)
    out = np.empty((*cases, len(melanin), len(haemoglobin), coefficients.shape[1]))
    for i, (index, scatters) in enumerate(transfer.LAYERS.values()):
        slab = Slab(index, angles)
        for band, (base, pure, red, s) in enumerate(coefficients.T):
            above = [spread * m * pure + (1 - m) * base for m in melanin]
            below = [h * red + (1 - h) * base for h in haemoglobin]
            tops = [slab.layer(a, s * scatters, EPIDERMIS_CM) for a in above]
            belows = [slab.layer(a, s, c.dermis_cm) for a in below]
            for j, top in enumerate(tops):
                for k, bottom in enumerate(belows):
                    out[i, :, j, k, band] = slab.reflectance(slab.over(top, bottom))
    return out


def main(out: Path = transfer.FILE) -> None:
    """Make all of it and write the asset."""
    m, h = (np.array(fractions) for fractions in CELLS)
    melanin, haemoglobin = map(transfer.nodes, transfer.NODES, transfer.RANGE)
    with paths.whole_file(out) as partial:
        np.savez_compressed(
            partial,
            wavelengths=spectra.WAVELENGTHS.numpy(),
            coefficients=skin.SkinModel(MODEL).coefficients.numpy(),
            melanin=m,
            haemoglobin=h,
            cells=table(m, h).astype(np.float32),
            reflectance=table(melanin, haemoglobin).astype(np.float32),
        )
    print(f"{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
