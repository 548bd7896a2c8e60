"""Reflectance of skin from the volume fractions of melanin and blood.

Two layers: light crosses the epidermis (melanin), is returned by the dermis (blood, scattering, Kubelka–Munk) and
crosses the epidermis again. Two sets of constants share the equations:

``published``
    what the authors' public code computes, R = T R_d, with T both ways through the epidermis. Its units do not agree:
    blood and baseline absorb over 1 cm of epidermis where melanin has 0.02 cm, the epidermis carries blood, saturation
    is applied twice, and the baseline's mm⁻¹ figures are added to absorptions in cm⁻¹.
``layered``
    the default: the same layers with consistent units, and Kubelka–Munk's pair complete, K = 2 μa, S = ¾ μs′. The
    epidermis scatters too, r = E + T R_d / (1 − E R_d). The surface throws a share k of what comes up down again, and
    that light runs at a slant, as through a second epidermis: r₂ = E + T r / (1 − E r),
    R = (1 − k₁)(1 − k) r / (1 − k r₂). Blood sits in vessels, which shade their own inside. Held to radiative transfer
    through the same layers, in diffuse light, it needs 1.03–1.22 times the true melanin (1–43 %) and 0.9–1.4 times the
    true haemoglobin (0.5–7 %): :data:`BIAS`.

References
----------
Alotaibi & Smith (2017), "A biophysical 3D morphable model of face appearance", ICCVW (github ssma502/SkinModel).
Krishnaswamy & Baranoski (2004), "A biophysically-based spectral model of light interaction with human skin".
Jacques (1998), "Skin optics", omlc.org: baseline absorption, dermal scattering.
Kubelka (1948), "New contributions to the optics of intensely light-scattering materials", JOSA 38.
Brinkworth (1972), "Interpretation of the Kubelka–Munk coefficients in reflection theory", Applied Optics 11: S = ¾ μs′.
Saunderson (1942), "Calculation of the color of pigmented plastics", JOSA 32: reflection at the surface.
van Veen, Verkruysse & Sterenborg (2002), "Diffuse-reflectance spectroscopy from 500 to 1060 nm by correction for
inhomogeneously distributed absorbers", Optics Letters 27: blood in vessels.
Zonios, Bykowski & Kollias (2001), "Skin melanin, hemoglobin, and light scattering properties can be quantitatively
assessed in vivo using diffuse reflectance spectroscopy", J. Invest. Dermatol. 117: oxygen saturation in skin.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bioface import spectra
from bioface.arrays import accepts_numpy, as_float
from bioface.errors import BiofaceError, unknown_name

#: Volume fractions that the paper allows (BioFaceNet, section 3.1), and its table's upper ends.
MELANIN_RANGE = (0.013, 0.43)
HAEMOGLOBIN_RANGE = (0.02, 0.07)

#: Least and largest ratio of fitted to true melanin, haemoglobin on spectra of radiative transfer (tests/test_skin.py).
BIAS = ((1.03, 1.22), (0.89, 1.40))

_BLOOD = 2.303 * 150  # ln 10 · g haemoglobin per litre of whole blood (Prahl 1999)


@dataclass(frozen=True)
class SkinConstants:
    """The constants of one skin model; fractions are of volume unless said otherwise."""

    epidermis_melanin_cm: float  #: path of melanin in the epidermis, one way
    epidermis_baseline_cm: float  #: path of the bloodless baseline in the epidermis, one way
    epidermal_blood: float  #: share of the dermal blood fraction found in the epidermis
    oxygen_saturation: float = 0.75  #: oxygenated share of the haemoglobin
    dermis_cm: float = 0.3  #: thickness of the dermis
    #: absorption of bloodless skin in units of 0.0244 + 8.53 exp(−(λ−154)/66.2), Jacques' in mm⁻¹: 10 gives his cm⁻¹
    baseline_scale: float = 1.0
    vessel_radius_cm: float = 0.0  #: blood absorbs as in cylinders, (1 − e^{−2aρ}) / 2aρ of its absorption a
    haemoglobin_g_mol: float = 66500.0  #: turns molar extinction into absorption; 64 500 goes with Prahl's tables
    #: Kubelka–Munk's K of the dermis in units of its absorption: 2, as diffuse light runs twice the way; the code has 1
    diffuse_path: float = 1.0
    scattering_share: float = 1.0  #: Kubelka–Munk's S of the dermis in units of its reduced scattering
    mie_cm: float = 2e5  #: reduced scattering, cm⁻¹, mie · λ^−power + rayleigh · λ^−4 with λ in nm: Jacques (1998)
    mie_power: float = 1.5
    rayleigh_cm: float = 2e12
    melanin_cm: float = 0.0  #: absorption of pure melanosomes, cm⁻¹, melanin · (λ/500)^−power; 0 takes the tables'
    melanin_power: float = 0.0
    band_cm: float = 0.0  #: height of a Gaussian in the bloodless absorption, with its middle and deviation
    band_nm: float = 500.0
    band_width_nm: float = 1.0
    bandpass: bool = False  #: absorption of blood averaged over a spectrometer's 10 nm
    #: Light at 8° loses k₁ = (n−1)² / (n+1)² on its way in, which is specular shading. Refraction narrows diffuse light
    #: to a cone with cosines above c = √(1 − 1/n²)
    refractive_index: float = 1.0
    internal_reflection: float = 0.0  #: k₂, the share of the light from below that the surface returns
    epidermal_path: float = 0.5  #: path in the epidermis in units of the mean path 2 / (1 + c) of that cone
    epidermal_scattering_cm: float = 0.0  #: depth of the epidermis times its scattering in units of the dermis'


MODELS = {
    "published": SkinConstants(epidermis_melanin_cm=0.02, epidermis_baseline_cm=1.0, epidermal_blood=0.25),
    # Given: K = 2 μa, S = ¾ μs′, n = 1.4, 60 µm of epidermis with the public code's 0.02 cm of melanin. Set to meet
    # radiative transfer: path and scattering (0.395 of the dermis') of the epidermis, internal reflection (0.53 were it
    # Lambertian). Fitted to the even subject numbers of ISSA's face spectra: saturation, vessels, melanin's power, the
    # Gaussian (nobody named its absorber; carotenoids lie there), scattering that no wavelength changes (Jacques' at
    # 500 nm; instruments lose red light beside their aperture, so it says little of tissue). See study.calibration.
    "layered": SkinConstants(
        epidermis_melanin_cm=0.02,
        epidermis_baseline_cm=0.006,
        epidermal_blood=0.0,
        oxygen_saturation=0.9,
        baseline_scale=0.1,
        vessel_radius_cm=0.0006,
        haemoglobin_g_mol=64500.0,
        diffuse_path=2.0,
        scattering_share=0.75,
        mie_cm=50.0,
        mie_power=0.0,
        rayleigh_cm=0.0,
        melanin_cm=405.0,
        melanin_power=3.2,
        band_cm=0.5,
        band_nm=486.0,
        band_width_nm=20.0,
        bandpass=True,
        refractive_index=1.4,
        internal_reflection=0.63,
        epidermal_path=0.87,
        epidermal_scattering_cm=0.00237,
    ),
}


def constants(model: str | SkinConstants) -> SkinConstants:
    """The constants of a named model; a :class:`SkinConstants` is handed back as it is."""
    if isinstance(model, SkinConstants):
        return model
    if model not in MODELS:
        raise unknown_name("skin model", model, MODELS)
    return MODELS[model]


class SkinModel:
    """One skin model on one wavelength grid: reflectance and its derivatives.

    Parameters
    ----------
    model : "layered", "published" or a :class:`SkinConstants`
    wavelengths : (D,) nm within 400–720
    dtype, device : of everything computed
    """

    def __init__(
        self,
        model: str | SkinConstants = "layered",
        wavelengths: object = spectra.WAVELENGTHS,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ):
        c = constants(model)
        nm = spectra.check_wavelengths(wavelengths)
        absorbers = spectra.chromophores(nm, c.bandpass)
        baseline = c.baseline_scale * (0.0244 + 8.53 * torch.exp(-(nm - 154) / 66.2))  # Jacques (1998)
        baseline = baseline + c.band_cm * torch.exp(-0.5 * ((nm - c.band_nm) / c.band_width_nm) ** 2)
        if c.melanin_cm:
            melanin = c.melanin_cm * (nm / 500) ** -c.melanin_power
        else:
            # 61 % is eumelanin, 80 mg/ml inside the melanosomes, the rest pheomelanin, 12 mg/ml (public code)
            melanin = 0.61 * 80 * absorbers.eumelanin
            melanin = melanin + (1 - 0.61) * 12 * absorbers.pheomelanin
        blood = _BLOOD / c.haemoglobin_g_mol  # cm⁻¹/M to cm⁻¹ of whole blood
        oxy = c.oxygen_saturation * blood * absorbers.oxyhaemoglobin
        deoxy = (1 - c.oxygen_saturation) * blood * absorbers.deoxyhaemoglobin
        if c.vessel_radius_cm > 0:
            path = 2 * c.vessel_radius_cm * (oxy + deoxy)
            oxy, deoxy = (absorption * -torch.expm1(-path) / path for absorption in (oxy, deoxy))
        # Saturation weighs the epidermis' blood a second time: so does the authors' code, kept for `published`.
        epidermal_blood = c.oxygen_saturation * oxy + (1 - c.oxygen_saturation) * deoxy
        scattering = c.mie_cm * nm**-c.mie_power + c.rayleigh_cm * nm**-4  # cm⁻¹, reduced

        def put(t: Tensor) -> Tensor:
            return t.to(dtype=dtype, device=device)

        path = c.epidermis_baseline_cm
        backwards = c.epidermal_scattering_cm * scattering
        # one-way epidermal depth of extinction: offset + melanin · per_melanin + haemoglobin · per_haemoglobin
        self.offset = put(path * baseline + backwards)
        self.per_melanin = put(c.epidermis_melanin_cm * melanin - path * baseline)
        self.per_haemoglobin = put(c.epidermal_blood * path * (epidermal_blood - baseline))
        # Kubelka–Munk absorption K of the dermis, cm⁻¹: without blood, and what a fraction 1 of blood adds; and S
        self.bloodless = put(c.diffuse_path * baseline)
        self.per_blood = put(c.diffuse_path * (oxy + deoxy - baseline))
        self.scattering = put(c.scattering_share * scattering)
        # (4, D) 1/cm: absorption of bloodless skin, of pure melanosomes and of blood, and reduced scattering
        self.coefficients = torch.stack([baseline, melanin, oxy + deoxy, scattering])
        self.dermis_cm = c.dermis_cm
        cosine = (1 - c.refractive_index**-2) ** 0.5
        self.both_ways = 4 * c.epidermal_path / (1 + cosine)  # there and back, in units of the vertical depth
        self.backwards = put(backwards / 2)
        self.internal = c.internal_reflection
        lost = ((c.refractive_index - 1) / (c.refractive_index + 1)) ** 2
        self.leaving = (1 - lost) * (1 - c.internal_reflection)
        self.plain = not (c.epidermal_scattering_cm or c.internal_reflection)

    def _dermis(self, haemoglobin: Tensor) -> Tensor:
        absorption = self.bloodless + haemoglobin[..., None] * self.per_blood  # cm⁻¹
        K = torch.sqrt(absorption * (absorption + 2 * self.scattering))
        decay = torch.exp(-2 * self.dermis_cm * K)  # underflows to 0 where nothing comes back: safe
        coth = (1 + decay) / (1 - decay)
        # Kubelka–Munk over a black backing; equal to (1−β²)(1−x) / ((1+β)² − (1−β)² x), x = e^{−2Kd}, β = a/K.
        return self.scattering / (absorption + self.scattering + K * coth)

    def reflectance(
        self, melanin: Float[Tensor, "*batch"], haemoglobin: Float[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch D"]:
        """Reflectance (..., D) in [0, 1) for volume fractions (...); differentiable, not range-checked."""
        depth = self.offset + melanin[..., None] * self.per_melanin
        if self.per_haemoglobin.any():
            depth = depth + haemoglobin[..., None] * self.per_haemoglobin
        T = torch.exp(-self.both_ways * depth)
        dermis = self._dermis(haemoglobin)
        if self.plain:
            return T * dermis
        E = self.backwards / depth * (1 - T)  # what the epidermis itself returns: scattered once, from all its depths
        r = E + T * dermis / (1 - E * dermis)
        returned = E + T * r / (1 - E * r)  # of what the surface throws back
        return self.leaving * r / (1 - self.internal * returned)

    def derivatives(
        self, melanin: Float[Tensor, "*batch"], haemoglobin: Float[Tensor, "*batch"]
    ) -> tuple[Float[Tensor, "*batch D"], Float[Tensor, "*batch D"], Float[Tensor, "*batch D"]]:
        """:meth:`reflectance`, and its derivatives by melanin and by haemoglobin, each (..., D).

        By hand and in place, in few passes over the bands, as fits spend their time here: not for autograd.
        """
        m, h = melanin[..., None], haemoglobin[..., None]
        dermis, of_dermis = self._dermis_slope(h)
        depth = torch.addcmul(self.offset, m, self.per_melanin)
        blood_above = bool(self.per_haemoglobin.any())
        if blood_above:
            depth.addcmul_(h, self.per_haemoglobin)
        T = torch.exp(-self.both_ways * depth)
        # slopes are by depth until the end
        T_slope = T * -self.both_ways
        if self.plain:
            R, by_depth = T * dermis, T_slope * dermis
            by_haemoglobin = of_dermis.mul_(R)
        else:
            E = torch.rsub(T, 1).div_(depth).mul_(self.backwards)
            E_slope = torch.addcmul(E, T_slope, self.backwards).div_(depth).neg_()
            r, r_slope, r_dermis = _over(E, E_slope, T, T_slope, dermis)
            returned, returned_slope, by_r = _over(E, E_slope, T, T_slope, r)
            gain = torch.rsub(returned.mul_(self.internal), 1).reciprocal_()
            R = r.mul_(self.leaving).mul_(gain)
            # R = leaving · r · gain, and the slope of gain is internal · gain² · that of returned
            by_r = by_r.mul_(R).mul_(self.internal).add_(self.leaving).mul_(gain)
            by_depth = r_slope.mul_(by_r).addcmul_(returned_slope, gain.mul_(R), value=self.internal)
            by_haemoglobin = r_dermis.mul_(by_r).mul_(of_dermis.mul_(dermis))
        if blood_above:
            by_haemoglobin = by_haemoglobin.addcmul_(by_depth, self.per_haemoglobin)
        return R, by_depth.mul_(self.per_melanin), by_haemoglobin

    def _dermis_slope(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Kubelka–Munk's R_d and ∂ log R_d/∂haemoglobin."""
        d, S = self.dermis_cm, self.scattering
        both = torch.addcmul(self.bloodless + S, h, self.per_blood)  # absorption + scattering
        K = torch.addcmul(-S * S, both, both).sqrt_()
        u = torch.rsub(torch.exp(-2 * d * K), 1).reciprocal_()
        coth = torch.add(-torch.ones_like(S), u, alpha=2)
        inverse = torch.addcmul(both, K, coth).reciprocal_()
        # d(K coth Kd)/da, with dK/da = (a + s) / K and d coth(Kd)/dK = d (1 − coth²) = 4 d u (1 − u)
        slope = both.mul_(coth.div_(K).add_(torch.addcmul(u, u, u, value=-1), alpha=4 * d))
        return inverse * S, slope.add_(1).mul_(inverse).mul_(-self.per_blood)


def _over(E: Tensor, E_slope: Tensor, T: Tensor, T_slope: Tensor, R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An epidermis over what reflects R, r = E + T R / (1 − E R): r, its slope with R held, and ∂r/∂R."""
    inner = torch.rsub(E * R, 1).reciprocal_()
    by_R = T * inner
    through = by_R * R
    r, by_R, seen = E + through, by_R.mul_(inner), inner.mul_(R)
    return r, torch.addcmul(E_slope, through.mul_(seen), E_slope).addcmul_(T_slope, seen), by_R


def check_fractions(melanin: Tensor, haemoglobin: Tensor, tops: Sequence[float] = (1.0, 1.0), hint: str = "") -> None:
    """Raise :class:`BiofaceError` unless both are volume fractions from 0 to ``tops``; the ``hint`` follows those."""
    for name, value, top in zip(("melanin", "haemoglobin"), (melanin, haemoglobin), tops, strict=True):
        slack = 1e-5 * top if top < 1 else 0.0  # of a fraction that was a table coordinate in single precision
        if not bool(((value >= 0) & (value <= top + slack)).all()):
            found = f"{float(value.detach().min()):.3g} to {float(value.detach().max()):.3g}"
            raise BiofaceError(f"expected {name} as volume fraction between 0 and {top:g}{hint}, found {found}")


@accepts_numpy
def reflectance(
    melanin: Tensor | float,
    haemoglobin: Tensor | float,
    model: str | SkinConstants = "layered",
    wavelengths: object = spectra.WAVELENGTHS,
) -> Tensor:
    """Reflectance of skin, of the light that enters it; what the surface itself reflects is specular shading.

    Parameters
    ----------
    melanin, haemoglobin : (...) volume fractions, 0–1, broadcast together; the paper uses 0.013–0.43, 0.02–0.07
    model : "layered", "published" or a :class:`SkinConstants`
    wavelengths : (D,) nm within 400–720

    Returns
    -------
    (..., D) diffuse reflectance in [0, 1); differentiable

    Raises
    ------
    BiofaceError : fractions outside 0–1, unknown model, wavelengths outside the tables

    >>> R = reflectance(torch.tensor(0.013).double(), torch.tensor(0.02).double(), model="published")
    >>> round(float(R[-1]), 8)  # 720 nm; the authors' MATLAB says 0.7320830065
    0.73208301
    """
    melanin, haemoglobin = as_float(melanin), as_float(haemoglobin)
    check_fractions(melanin, haemoglobin)
    dtype = torch.promote_types(melanin.dtype, haemoglobin.dtype)
    m, h = torch.broadcast_tensors(melanin.to(dtype), haemoglobin.to(dtype))
    nm = tuple(torch.as_tensor(wavelengths, dtype=torch.float64).flatten().tolist())
    return _model(model, nm, dtype, str(m.device)).reflectance(m, h)


@functools.lru_cache(maxsize=32)
def _model(model: str | SkinConstants, nm: tuple[float, ...], dtype: torch.dtype, device: str) -> SkinModel:
    return SkinModel(model, torch.tensor(nm, dtype=torch.float64), dtype, device)


# The authors' table is spaced evenly in u, fraction = maximum · u³ with u from 0.01 to 1, and indexed by
# g = −1 … 1: skin's colour changes fastest where there is little pigment.
_U_MIN = 0.01


@accepts_numpy
def table_fraction(coordinate: Float[Tensor, "*batch"], maximum: float) -> Float[Tensor, "*batch"]:
    """Volume fraction from the authors' table coordinate g in [−1, 1]: maximum · (0.01 + 0.99 (g + 1)/2)³.

    >>> table_fraction(torch.tensor([-1.0, 1.0]), 0.43)
    tensor([4.3000e-07, 4.3000e-01])
    """
    return maximum * (_U_MIN + (1 - _U_MIN) * (coordinate + 1) / 2) ** 3


@accepts_numpy
def table_coordinate(fraction: Float[Tensor, "*batch"], maximum: float) -> Float[Tensor, "*batch"]:
    """Table coordinate g in [−1, 1] of a volume fraction; outside the table it is the table's edge.

    >>> table_coordinate(torch.tensor([0.0, 0.43]), 0.43)
    tensor([-1.,  1.])
    """
    u = (fraction / maximum).clamp(_U_MIN**3, 1.0) ** (1 / 3)
    return (u - _U_MIN) / (1 - _U_MIN) * 2 - 1


def reflectance_table(
    model: str | SkinConstants = "layered", size: int = 64, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "K K 33"]:
    """(K, K, 33) reflectance over (melanin, haemoglobin), even in the authors' table coordinate g."""
    g = torch.linspace(-1, 1, size, dtype=torch.float64, device="cpu")  # where the model is worked out
    melanin = table_fraction(g, MELANIN_RANGE[1])[:, None].expand(size, size)
    haemoglobin = table_fraction(g, HAEMOGLOBIN_RANGE[1])[None, :].expand(size, size)
    return SkinModel(model).reflectance(melanin, haemoglobin).to(dtype)
