"""What a measurement can tell: Jacobians of the four maps, and the standard deviations they allow.

References
----------
Kay (1993), "Fundamentals of Statistical Signal Processing: Estimation Theory": the Cramér–Rao bound (chapter 3),
Gaussian maps with a Gaussian prior (chapter 10).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bioface import skin, spectra
from bioface.arrays import accepts_numpy
from bioface.errors import BiofaceError

#: Order of the four unknowns wherever they are an axis.
MAPS = ("melanin", "haemoglobin", "diffuse_shading", "specular_shading")


@accepts_numpy
def jacobian(
    melanin: Float[Tensor, "*batch"],
    haemoglobin: Float[Tensor, "*batch"],
    diffuse: Float[Tensor, "*batch"],
    light: Float[Tensor, "D"] | Float[Tensor, "C D"],
    model: str | skin.SkinConstants = "layered",
    wavelengths: object = spectra.WAVELENGTHS,
) -> Float[Tensor, "*batch N 4"]:
    """Derivative (..., N, 4) of what is seen of i_d r(m, h) + i_s by the four maps, in the order of MAPS.

    ``light`` (D,) is an illuminant, and radiance is seen: N = D. A matrix (C, D) is a camera of C colours under light,
    such as :func:`bioface.camera.reflectance_to_rgb`: N = C. The specular shading, linear in both, plays no part.

    Raises BiofaceError: fractions outside 0–1, unknown model, wavelengths outside 400–720 nm.

    >>> J = jacobian(*torch.tensor([[0.1], [0.03], [1.0]]).double(), torch.ones(33).double())
    >>> tuple(J.shape)
    (1, 33, 4)
    """
    skin.check_fractions(melanin, haemoglobin)
    physics, one = skin.SkinModel(model, wavelengths, melanin.dtype), torch.ones(light.shape[-1:]).to(melanin)
    if light.ndim == 1:
        return columns(physics, melanin, haemoglobin, diffuse, light)
    return light.to(melanin) @ columns(physics, melanin, haemoglobin, diffuse, one)


def columns(model: skin.SkinModel, melanin: Tensor, haemoglobin: Tensor, diffuse: Tensor, illuminant: Tensor) -> Tensor:
    """:func:`jacobian` for a skin model that is there already, and without checks: what solvers call."""
    R, by_melanin, by_haemoglobin = model.derivatives(melanin, haemoglobin)
    illuminant = illuminant.to(R)
    light = diffuse[..., None] * illuminant
    # each column in one piece, which is what sums over wavelengths are quick with
    seen = [by_melanin * light, by_haemoglobin * light, R * illuminant, illuminant.expand(R.shape)]
    return torch.stack(seen, dim=-2).mT


_UNKNOWABLE = 1e12  # variance of a unit-length column beyond which double precision cannot tell it from infinity


@accepts_numpy
def standard_deviation(
    J: Float[Tensor, "*batch D 4"],
    sigma: Float[Tensor, "*#batch"] | float,
    free: Bool[Tensor, "*batch 4"] | None = None,
    noise: Float[Tensor, "D D"] | None = None,
) -> Float[Tensor, "*batch 4"]:
    """Standard deviation (..., 4) of the least-squares maps under noise: the Cramér–Rao bound where it is white.

    √diag(σ² G⁻¹ Jᵀ C J G⁻¹) with G = JᵀJ; infinite for a map that does not show in J or cannot be told from the others.

    Parameters
    ----------
    J : (..., D, 4) Jacobian
    sigma : (...) deviation of the noise
    free : (..., 4) a map that is not free (it sits at a bound) is taken as known; its own deviation is NaN
    noise : (D, D) covariance C of the noise in units of σ²; None is white

    >>> standard_deviation(torch.eye(4).double()[None], 0.5)
    tensor([[0.5000, 0.5000, 0.5000, 0.5000]], dtype=torch.float64)
    """
    J = J.to(torch.float64)
    return deviation_of(J.mT @ J, sigma, free, None if noise is None else J.mT @ noise.to(J) @ J, J.shape[-2])


def deviation_of(
    G: Tensor, sigma: Tensor | float, free: Tensor | None = None, noise: Tensor | None = None, bands: int = 4
) -> Tensor:
    """:func:`standard_deviation` from G = JᵀJ (..., 4, 4) and JᵀCJ of as many ``bands``, in double precision."""
    scale = G.diagonal(dim1=-2, dim2=-1).sqrt()
    seen = scale > 0
    use = seen if free is None else seen & free
    unit = torch.where(use, 1 / torch.where(seen, scale, 1.0), 0.0)
    units = unit[..., :, None] * unit[..., None, :]
    G = G * units
    G.diagonal(dim1=-2, dim2=-1).add_((~use).to(G) + 1e-14)  # a trace, so that every G has an inverse
    inverse = torch.linalg.inv_ex(G).inverse
    spread = inverse if noise is None else inverse @ (units * noise) @ inverse
    variance = spread.diagonal(dim1=-2, dim2=-1)
    told = (inverse.diagonal(dim1=-2, dim2=-1).abs() < _UNKNOWABLE) & (variance > 0)
    if bands < 4:  # something cannot be seen at all: a map with any share in it, however small, is not known
        values, vectors = torch.linalg.eigh(G)
        told &= (vectors.square() * (values < 1 / _UNKNOWABLE)[..., None, :]).sum(-1) < 1e-16
    sigma = torch.as_tensor(sigma, dtype=G.dtype, device=G.device)[..., None]
    deviation = torch.where(told & use, variance.clamp_min(0).sqrt() / scale * sigma, torch.inf)
    return deviation if free is None else deviation.masked_fill(~free, torch.nan)


def shadings(aa: Tensor, ab: Tensor, bb: Tensor, ay: Tensor, by: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares of y = i_d a + i_s b with both ≥ 0, from inner products that broadcast: (i_d, i_s)."""
    det = aa * bb - ab * ab
    both = det > 1e-12 * aa * bb
    det = torch.where(both, det, torch.ones_like(det))
    diffuse, specular = (bb * ay - ab * by) / det, (aa * by - ab * ay) / det
    inner = both & (diffuse >= 0) & (specular >= 0)
    only_diffuse = (ay / aa.clamp_min(torch.finfo(aa.dtype).tiny)).clamp_min(0)
    only_specular = (by / bb).clamp_min(0)
    # with one shading at zero, the better of the two single fits
    diffuse_wins = only_diffuse * ay >= only_specular * by
    diffuse = torch.where(inner, diffuse, torch.where(diffuse_wins, only_diffuse, 0.0))
    return diffuse, torch.where(inner, specular, torch.where(diffuse_wins, 0.0, only_specular))


# --- three numbers for four unknowns ------------------------------------------------------------------------


@accepts_numpy
def explain(
    colour: Float[Tensor, "P 3"],
    table: Float[Tensor, "3 K K"],
    white: Float[Tensor, "3"],
    diffuse: Float[Tensor, "P"] | None = None,
    specular: bool = True,
) -> tuple[Float[Tensor, "P K K"], Float[Tensor, "P K K"], Float[Tensor, "P K K"]]:
    """How well each skin of a table explains each colour, with the best shadings: an oracle without a network.

    Parameters
    ----------
    colour, white : (P, 3) and (3,) linear RGB, of pixels and of highlights
    table : (3, K, K) linear RGB over (melanin, haemoglobin), :func:`bioface.image_formation.colour_table`
    diffuse : (P,) the diffuse shading where it is given; left out, the best one ≥ 0
    specular : whether there may be a highlight ≥ 0

    Returns
    -------
    (P, K, K) root-mean-square error of the colour, diffuse shading, specular shading
    """
    skin_colour = table.to(colour).permute(1, 2, 0)  # (K, K, 3)
    y, w = colour[:, None, None, :], white.to(colour)
    ty, wy = torch.einsum("pc,khc->pkh", colour, skin_colour), (colour @ w)[:, None, None]
    tt, tw = skin_colour.square().sum(-1), skin_colour @ w  # (K, K)
    if diffuse is None and specular:
        d, s = shadings(tt, tw, w @ w, ty, wy)
    else:
        d = (ty / tt).clamp_min(0) if diffuse is None else diffuse.to(colour)[:, None, None].expand(ty.shape)
        s = ((wy - d * tw) / (w @ w)).clamp_min(0) if specular else torch.zeros_like(d)
    error = y - d[..., None] * skin_colour - s[..., None] * w
    return error.square().mean(-1).sqrt(), d, s


@accepts_numpy
def feasible_range(
    error: Float[Tensor, "P K L"], values: Float[Tensor, "K"], tolerance: float
) -> tuple[Float[Tensor, "P"], Float[Tensor, "P"]]:
    """Lowest and highest melanin (the first pigment of :func:`explain`) that explain each colour.

    ``error`` (P, K, L) is :func:`explain`'s, ``values`` (K,) the melanin along its axis, and ``tolerance`` the largest
    error that counts as explained. Where nothing explains the colour both are NaN.
    """
    inside, values = error.amin(2) <= tolerance, values.to(error)  # with the best of the other pigment
    low, high = torch.where(inside, values, torch.inf).amin(1), torch.where(inside, values, -torch.inf).amax(1)
    return low.masked_fill(~inside.any(1), torch.nan), high.masked_fill(~inside.any(1), torch.nan)


@accepts_numpy
def same_colour(
    maps: Float[Tensor, "*batch 4"],
    melanin: Float[Tensor, "*batch"],
    to_rgb: Float[Tensor, "3 33"],
) -> Float[Tensor, "*batch 4"]:
    """Other maps (..., 4), in the order of MAPS, of the same colour and a given melanin: as good an answer to a photo.

    ``layered`` skin; Newton's method on the three that are left, each step at most 0.02 in haemoglobin. NaN where there
    is no such answer with shadings ≥ 0 and a haemoglobin of 0 to 0.07.
    """
    maps, to_rgb, physics = maps.double(), to_rgb.double(), skin.SkinModel()
    white = torch.ones_like(to_rgb[0])

    def seen(x: Tensor) -> tuple[Tensor, Tensor]:
        J = to_rgb @ columns(physics, x[..., 0], x[..., 1], x[..., 2], white)
        return J, (J[..., 2:] @ x[..., 2:, None])[..., 0]

    goal, x = seen(maps)[1], maps.clone()
    x[..., 0] = melanin
    for _ in range(20):
        J, colour = seen(x)
        step = torch.linalg.lstsq(J[..., 1:], (goal - colour)[..., None]).solution[..., 0]
        shorten = (0.02 / step[..., :1].abs().clamp_min(1e-12)).clamp_max(1)
        x[..., 1:] += shorten * step
        x[..., 1] = x[..., 1].clamp(0, skin.HAEMOGLOBIN_RANGE[1])
    wrong = (goal - seen(x)[1]).abs().amax(-1) > 1e-4
    wrong |= (x[..., 2:] < 0).any(-1)
    return x.masked_fill(wrong[..., None], torch.nan)


# --- what is known beforehand -------------------------------------------------------------------------------


@accepts_numpy
def in_table_coordinates(
    J: Float[Tensor, "*batch C 4"], melanin: Float[Tensor, "*batch"], haemoglobin: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch C 4"]:
    """A Jacobian by volume fractions turned into one by table coordinates g ∈ [−1, 1], in which networks speak.

    >>> J = in_table_coordinates(torch.ones(1, 1, 4), torch.tensor([0.43]), torch.tensor([0.07]))
    >>> J[0, 0, 0] / 0.43  # 3 u² du/dg at u = 1
    tensor(1.4850)
    """
    slopes: list[Tensor] = []
    for fraction, top in ((melanin, skin.MELANIN_RANGE[1]), (haemoglobin, skin.HAEMOGLOBIN_RANGE[1])):
        g = skin.table_coordinate(fraction, top).detach().requires_grad_()
        slopes += torch.autograd.grad(skin.table_fraction(g, top).sum(), g)
    one = torch.ones_like(slopes[0])
    return J * torch.stack([*slopes, one, one], -1)[..., None, :].to(J)


def _white_noise(sigma: float, J: Tensor) -> Tensor:
    """Its covariance (C, C) on the C colours of J."""
    if not sigma > 0:
        raise BiofaceError(f"expected a deviation of the noise above 0, found {sigma!r}")
    return sigma**2 * torch.eye(J.shape[-2], dtype=J.dtype)


@accepts_numpy
def posterior_deviation(
    J: Float[Tensor, "*batch C 4"],
    sigma: float,
    prior: Float[Tensor, "*#batch 4 4"],
    nuisance: Float[Tensor, "*#batch C C"] | None = None,
) -> Float[Tensor, "*batch 4"]:
    """Standard deviation (..., 4) of the maps given the colour, where both are Gaussian and the model is linear.

    Maps x ~ N(μ, Σ) are seen as c = J x + v with v ~ N(0, R), R = σ² 1 + N: noise, and what disturbs every pixel by
    itself, such as an unknown camera. The square root of the diagonal of

        cov(x | c) = Σ − Σ Jᵀ (J Σ Jᵀ + R)⁻¹ J Σ = (Jᵀ R⁻¹ J + Σ⁻¹)⁻¹

    is the least error of an estimator that looks at one pixel. Where J changes within the prior's reach it is no bound:
    three colours leave one direction to the prior alone, along which skin is far from linear.

    Parameters
    ----------
    J : (..., C, 4) derivative of C colours
    sigma : deviation of white noise, > 0
    prior : (..., 4, 4) covariance Σ of the maps, in the units of J's columns
    nuisance : (..., C, C) covariance N, such as A Aᵀ of :func:`nuisance_factor`

    Raises
    ------
    BiofaceError : a sigma that is not above 0

    >>> J = torch.eye(4, dtype=torch.float64)[None]
    >>> posterior_deviation(J, 1.0, torch.eye(4, dtype=torch.float64))  # √(1 − 1/2)
    tensor([[0.7071, 0.7071, 0.7071, 0.7071]], dtype=torch.float64)
    """
    J, prior = J.double(), prior.double()
    R = _white_noise(sigma, J) + (0 if nuisance is None else nuisance.double())
    across = J @ prior  # (..., C, 4)
    told = across.mT @ torch.linalg.solve(across @ J.mT + R, across)
    return (prior - told).diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()


@accepts_numpy
def nuisance_factor(
    melanin: Float[Tensor, "*batch"],
    haemoglobin: Float[Tensor, "*batch"],
    diffuse: Float[Tensor, "*batch"],
    specular: Float[Tensor, "*batch"],
    to_rgbs: Float[Tensor, "n 3 33"],
    model: str | skin.SkinConstants = "layered",
) -> Float[Tensor, "*batch 3 n"]:
    """How camera and light change each pixel's colour: A (..., 3, n), by the same n numbers of variance 1 for all.

    A column is how far a draw is from the mean of the draws, over √(n − 1), so that A_a A_bᵀ is the covariance of the
    linear RGB of two pixels a and b.

    Parameters
    ----------
    melanin, haemoglobin, diffuse, specular : (...) the maps, of ``model``'s skin
    to_rgbs : (n, 3, 33) at least two draws of camera and light, :func:`bioface.camera.reflectance_to_rgb`

    Raises
    ------
    BiofaceError : fewer than two draws; fractions outside 0–1
    """
    if len(to_rgbs) < 2:
        raise BiofaceError(f"expected at least two cameras and lights, found {len(to_rgbs)}")
    R = skin.reflectance(melanin.double(), haemoglobin.double(), model)
    seen = diffuse.double()[..., None] * R + specular.double()[..., None]
    colour = torch.einsum("ncd,...d->...cn", to_rgbs.double(), seen)
    return (colour - colour.mean(-1, keepdim=True)) / (len(to_rgbs) - 1) ** 0.5


@accepts_numpy
def face_deviation(
    J: Float[Tensor, "P C 4"],
    sigma: float,
    within: Float[Tensor, "4 4"],
    between: Float[Tensor, "4 4"] | None = None,
    nuisance: Float[Tensor, "P C k"] | None = None,
) -> Float[Tensor, "P 4"]:
    """:func:`posterior_deviation` (P, 4) of each pixel's maps where all P pixels of a face are seen together.

    A pixel's maps are x_p = μ + B^½ s + y_p, with s ~ N(0, 1) of the face and y_p ~ N(0, W) of the pixel alone, and its
    colours J_p x_p + A_p z + v_p, with z ~ N(0, 1) of the face's camera and light, and white noise v_p. All pixels
    together tell θ = (s, z): with H_p = (J_p B^½, A_p) and R_p = J_p W J_pᵀ + σ² 1,

        cov θ = P = (1 + Σ_p H_pᵀ R_p⁻¹ H_p)⁻¹,
        cov x_p = W − K_p J_p W + M_p P M_pᵀ,   K_p = W J_pᵀ R_p⁻¹,   M_p = (B^½, 0) − K_p H_p.

    The square root of the latter's diagonal is the least error of an estimator that does not know where in the face a
    pixel is: no bound for smooth maps, for longer than Gaussian tails, nor where :func:`posterior_deviation` is none.

    Parameters
    ----------
    J : (P, C, 4) derivative of each pixel's colours
    sigma : deviation of white noise, > 0
    within, between : (4, 4) covariances W and B of the maps, in the units of J's columns; None takes the face's mean
        for known
    nuisance : (P, C, k) colour changes A_p, :func:`nuisance_factor`; None is a camera and a light that are known

    Raises
    ------
    BiofaceError : a sigma that is not above 0, a covariance between faces that has a negative variance

    >>> one = torch.eye(4, dtype=torch.float64)
    >>> face_deviation(one.expand(2, 4, 4), 1.0, 0 * one, one)[0]  # two looks at the same: √(1 / (1 + 2))
    tensor([0.5774, 0.5774, 0.5774, 0.5774], dtype=torch.float64)
    """
    J, W = J.double(), within.double()
    pixels, colours, _ = J.shape
    values, vectors = torch.linalg.eigh(torch.zeros_like(W) if between is None else between.double())
    if values[0] < -1e-9 * values[-1].abs():
        raise BiofaceError(f"expected a covariance between faces, found a variance of {float(values[0]):.3g}")
    root = vectors * values.clamp_min(0).sqrt()
    A = J.new_zeros(pixels, colours, 0) if nuisance is None else nuisance.double()
    H = torch.cat([J @ root, A], -1)  # (P, C, 4 + k)
    R = J @ W @ J.mT + _white_noise(sigma, J)
    gain = torch.linalg.solve(R, J @ W).mT  # (P, 4, C)
    information = H.flatten(0, 1).T @ torch.linalg.solve(R, H).flatten(0, 1)  # the sum over p
    factor = torch.linalg.cholesky(torch.eye(len(information), dtype=J.dtype) + information)
    through = torch.cat([root.expand(pixels, 4, 4), J.new_zeros(pixels, 4, A.shape[-1])], -1) - gain @ H
    shared = torch.linalg.solve_triangular(factor, through.mT, upper=False).square().sum(-2)  # (P, 4)
    own = (W - gain @ J @ W).diagonal(dim1=-2, dim2=-1)
    return (own + shared).clamp_min(0).sqrt()
