"""Solvers of the per-pixel fit of :mod:`bioface.smith2019`: min ‖y − e ⊙ (i_d r(m, h) + i_s)‖² for many pixels y.

``varpro``
    variable projection: for given pigments the two shadings have a closed form, so a table of pigments is scanned in
    one matrix product and the best entry refined by projected Gauss–Newton steps in two unknowns.
``lm``
    scipy's bounded ``least_squares``, one pixel at a time: slow, independent, the reference.
``adam``, ``sgd``
    first-order descent over raw, clamped parameters, as a first-time implementer writes it, for as many steps as it is
    given; ``sgd`` is what the report used.

References
----------
Golub & Pereyra (1973), "The differentiation of pseudo-inverses and nonlinear least squares problems whose
variables separate", SIAM J. Numer. Anal. 10; Kaufman (1975), BIT 15: the approximation of the Jacobian.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import OptimizeResult, least_squares
from torch import Tensor

from bioface import identifiability, skin


class Status(enum.IntEnum):
    """How the fit of a pixel ended."""

    OUTSIDE = 0  #: not in the mask, not fitted
    CONVERGED = 1  #: no step improves it
    AT_BOUND = 2  #: converged with at least one map at a bound
    STOPPED = 3  #: the step limit was reached first
    NO_SKIN = 4  #: fitted without any diffuse light, so that the pigments mean nothing


@dataclass(frozen=True)
class Problem:
    """What is fitted to every pixel; whatever a cube is measured in, the numbers here are of order 1."""

    constants: str | skin.SkinConstants  #: of the skin
    e: Tensor  #: (D,) illuminant of mean 1
    box: Tensor  #: (2, 2) lowest and highest melanin, haemoglobin
    grid: Tensor  #: (D,) nm
    to_grid: Tensor  #: (D, S) brings radiance in the cube's bands and unit to the grid, in units of ``unit``
    unit: float  #: the illuminant's mean

    @functools.cached_property
    def model(self) -> skin.SkinModel:
        """The skin on the grid, in the precision of the illuminant."""
        return skin.SkinModel(self.constants, self.grid, self.e.dtype)

    @functools.cached_property
    def single(self) -> Problem:
        """The same in single precision."""
        return Problem(self.constants, self.e.float(), self.box.float(), self.grid, self.to_grid, self.unit)

    @functools.cached_property
    def table(self) -> _Table:
        """Where the solver starts."""
        return _Table(self)

    def pixels(self, radiance: Tensor) -> Tensor:
        """(n, S) radiance of the cube to (n, D)."""
        return radiance @ self.to_grid.T

    def radiance(self, x: Tensor) -> Tensor:
        """(n, 4) maps to (n, D) radiance."""
        return self.e * (x[:, 2:3] * self.model.reflectance(x[:, 0], x[:, 1]) + x[:, 3:4])


def unit_length(y: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (n, D) scaled to length 1, and their length (n, 1), 1 for a black one: solvers see no dim pixels."""
    length = y.norm(dim=-1, keepdim=True)
    length = torch.where(length > 0, length, 1.0)
    return y / length, length


# --- varpro

_SCAN = (24, 20)  # melanin × haemoglobin entries of the scanned table
_FINER = 4  # times as many intervals has the table from which the first steps are made
_RANK = 12  # dimensions that hold all but a thousandth of its spectra
_SLICE = 2048  # pixels at a time where arrays have a number for each band


class _Table:
    """Skin at the nodes of two grids, in few dimensions: for starts without a look at all bands.

    Attributes
    ----------
    spectra : (K, scanned nodes) e r once e is projected out, of length 1
    basis : (D, K) orthonormal
    nodes : (2, all) pigments of the finer grid
    gram : (9, all) inner products of a = e r, its slopes and e, as in :func:`_products`
    parts : (all, 3, K) a and its slopes
    """

    def __init__(self, problem: Problem):
        e = problem.e
        self.box = problem.box.float()
        self.sides = [_FINER * (k - 1) + 1 for k in _SCAN]
        u = [torch.linspace(0, 1, k, dtype=torch.float64) ** 3 for k in self.sides]  # closer where there is little
        pigments = [low + (high - low) * v for (low, high), v in zip(problem.box, u, strict=True)]
        m, h = self.nodes = torch.cartesian_prod(*pigments).T
        parts = torch.stack([part * e for part in problem.model.derivatives(m, h)])
        scanned = torch.arange(len(m)).reshape(self.sides)[::_FINER, ::_FINER].flatten()
        a, b = parts[0, scanned], e / e.norm()
        a = a - (a @ b)[:, None] * b
        a = a / a.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        basis = torch.linalg.svd(a, full_matrices=False).Vh[:_RANK].T
        pairs = [(parts[j] * parts[k]).sum(-1) for j, k in _PAIRS]
        self.gram = torch.stack([*pairs, *(parts @ e)]).float()
        basis = torch.cat([b[:, None], basis], 1)
        self.spectra, self.scanned = (a @ basis[:, 1:]).float().T, scanned
        self.basis = basis.float()
        self.parts = (parts @ basis).float().movedim(0, 1).contiguous()

    def scan(self, y: Tensor) -> Tensor:
        """Number (n,) of each pixel's best scanned node: the largest correlation. ``y`` (n, 1 + K) in the basis."""
        # NumPy finds the largest ten times as fast as torch
        best = [(some[:, 1:] @ self.spectra).numpy().argmax(-1) for some in y.split(_SLICE)]
        return self.scanned[torch.from_numpy(np.concatenate(best))]

    def nearest(self, p: Tensor) -> Tensor:
        """Number (n,) of the node nearest to pigments (2, n)."""
        low, high = self.box[:, :1], self.box[:, 1:]
        sides = torch.tensor(self.sides)[:, None] - 1
        m, h = (((p - low) / (high - low)).clamp(0, 1).pow(1 / 3) * sides).round().long()
        return m * self.sides[1] + h

    def around(self, node: Tensor, cells: int) -> Tensor:
        """Lowest and highest pigments (2, 2, n) so many cells around nodes (n,)."""
        (m, h), (last_m, last_h) = (node // self.sides[1], node % self.sides[1]), (k - 1 for k in self.sides)
        ends = [(m + k).clamp(0, last_m) * self.sides[1] + (h + k).clamp(0, last_h) for k in (-cells, cells)]
        return self.nodes[:, torch.stack(ends)].float().movedim(1, 0)

    def products(self, node: Tensor, y: Tensor, by: Tensor) -> Tensor:
        """:func:`_products` of unit pixels (n, 1 + K) in the basis at nodes (n,)."""
        of_y = (self.parts[node] * y[:, None]).sum(-1).T
        return torch.cat([self.gram[:, node], by[None], of_y, torch.ones_like(by)[None]])


_PAIRS = ((0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 2))  # of a, ∂a/∂m, ∂a/∂h


def _products(problem: Problem, p: Tensor, y: Tensor, near: Tensor) -> Tensor:
    """Inner products (14, n) of a = e r at pigments p, a's slopes, e, and y less ``near`` (2, n) of a and e.

    All else follows from them. Some pixels at a time: the processor's cache is small.
    """
    e, one = problem.e, torch.ones_like(problem.e)
    white = bool((e == 1).all())
    rows = []
    for m, h, i_d, i_s, some in zip(*(part.split(_SLICE) for part in (*p, *near, y)), strict=True):
        parts = problem.model.derivatives(m, h)
        for part in () if white else parts:
            part.mul_(e)
        sums = [(parts[j] * parts[k]) @ one for j, k in _PAIRS]
        residual = torch.addcmul(some, parts[0], i_d[:, None], value=-1).addcmul_(i_s[:, None], e, value=-1)
        of_e = [part @ e for part in (*parts, residual)]
        rows.append(torch.stack([*sums, *of_e, *((part * residual) @ one for part in (*parts, residual))]))
    return torch.cat(rows, 1)


def error_and_products(problem: Problem, x: Tensor, y: Tensor) -> Tensor:
    """Squared error of maps x (n, 4), then inner products of a = e r, its slopes and e, (10, n)."""
    products = _products(problem, x[:, :2].T, y, x[:, 2:].T)
    return torch.cat([products[13:], products[:9]])


def _normal_equations(products: Tensor, near: Tensor, bb: Tensor) -> Tensor:
    """Rows (12, n) of which the next step is made, from :func:`_products`.

    Cost, both shadings, reduced normal equations g (2) and H (mm, mh, hh), and how each shading follows the pigments.
    """
    aa, ab, by, y_a, yy = (products[k] for k in (0, 6, 9, 10, 13))
    i_d, i_s = identifiability.shadings(aa, ab, bb, y_a + near[0] * aa + near[1] * ab, by + near[0] * ab + near[1] * bb)
    more_d, more_s = i_d - near[0], i_s - near[1]
    cost = yy - 2 * (more_d * y_a + more_s * by)
    cost = cost + more_d * more_d * aa + 2 * more_d * more_s * ab + more_s * more_s * bb
    # columns of the pigments are i_d ∂a; Kaufman: the active linear columns (a, and e when i_s > 0) projected out
    specular = i_s > 0
    det = torch.where(specular, aa * bb - ab * ab, aa)
    w_aa, w_ab, w_bb = torch.where(specular, bb, 1.0) / det, specular * -ab / det, specular * aa / det
    c, d = products[[1, 3]], products[[7, 8]]  # of ∂a/∂m and ∂a/∂h: with a, with e
    g = i_d * (products[11:13] - more_d * c - more_s * d)
    ca, cb = c * w_aa + d * w_ab, c * w_ab + d * w_bb
    H = i_d * i_d * (products[[2, 4, 5]] - ca[[0, 0, 1]] * c[[0, 1, 1]] - cb[[0, 0, 1]] * d[[0, 1, 1]])
    return torch.cat([torch.stack([cost, i_d, i_s]), g, H, -i_d * ca, -i_d * cb])


def _step(now: Tensor, p: Tensor, ends: Tensor, damping: Tensor | float) -> tuple[Tensor, Tensor]:
    """A damped Gauss–Newton step from pigments p (2, n) between ``ends`` (2, 2, n), and the gain (n,) it promises."""
    low, high = ends
    g, (mm, mh, hh) = now[3:5], now[5:8]
    # A pigment at its bound with the descent direction pointing outwards stays there.
    held = ((p <= low) & (g < 0)) | ((p >= high) & (g > 0))
    a, d = torch.where(held, 1.0, torch.stack([mm, hh]) * (1 + damping) + 1e-30)
    b = torch.where(held[0] | held[1], 0.0, mh)
    gm, gh = g.masked_fill(held, 0.0)
    step = torch.stack([d * gm - b * gh, a * gh - b * gm]) / (a * d - b * b).clamp_min(torch.finfo(g.dtype).tiny)
    return torch.minimum(torch.maximum(p + step, low), high), gm * step[0] + gh * step[1]


def _shadings_after(now: Tensor, step: Tensor) -> Tensor:
    """Both shadings (2, n), as they follow the pigments to first order."""
    return (now[1:3] + now[8::2] * step[0] + now[9::2] * step[1]).clamp_min(0)


def _gauss_newton(problem: Problem, x: Tensor, y: Tensor, steps: int, gain: float) -> tuple[Tensor, Tensor, Tensor]:
    """Damped steps from maps x (4, n), until one promises or gave no more than a share ``gain`` of the cost.

    That one is taken without another look. Returns maps (4, n), status (n,) and, from the last look, the cost after
    that step and the first nine of :func:`_products`, (10, n).
    """
    bb, ends = problem.e @ problem.e, problem.box.T[:, :, None]

    def look(x: Tensor) -> tuple[Tensor, Tensor]:
        products = _products(problem, x[:2], y, x[2:])
        return products, _normal_equations(products, x[2:], bb)

    products, now = look(x)
    damping = torch.full_like(now[0], 1e-3)
    found = torch.cat([x[:2], now[1:3]])
    seen = torch.cat([now[:1], products[:9]])
    status = torch.full(now[0].shape, int(Status.STOPPED))
    settled = torch.zeros(len(y), dtype=torch.bool)
    p, pixel = x[:2], torch.arange(len(y))
    for _ in range(steps):
        trial, promise = _step(now, p, ends, damping)
        moved = ((trial - p).abs() / (p.abs() + 1e-4)).amax(0)
        done = settled | (moved < 1e-7) | (promise <= gain * now[0])
        x = torch.cat([trial, _shadings_after(now, trial - p)])
        ended = pixel[done]
        status[ended] = int(Status.CONVERGED)
        found[:, ended] = x[:, done]
        seen[0, ended] = (now[0] - promise)[done]
        left = (~done).nonzero()[:, 0]
        if len(left) == 0:
            break
        if len(left) < len(pixel):
            pixel, y, damping = pixel[left], y[left], damping[left]
            p, x, now = p[:, left], x[:, left], now[:, left]
        products, new = look(x)
        better, settled = new[0] <= (1 + gain) * now[0], (new[0] - now[0]).abs() <= gain * now[0]
        p, now = torch.where(better, x[:2], p), torch.where(better, new, now)
        damping = torch.where(better, damping * 0.1, damping * 8).clamp(1e-12, 1e12)
        found[:, pixel] = torch.cat([p, now[1:3]])
        seen[0, pixel], seen[1:, pixel] = now[0], torch.where(better, products[:9], seen[1:, pixel])
    return found, status, seen


def _varpro(problem: Problem, y: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Table scan, then steps in (m, h) with both shadings projected out: two from tables, few in single precision."""
    y, length = unit_length(y)
    single, table = y.float(), problem.table
    bb = problem.single.e @ problem.single.e
    low, by = single @ table.basis, single @ problem.single.e
    node, still = table.scan(low), torch.zeros(2, len(y))
    for cells in (_FINER, 1):
        p = table.nodes[:, node].float()
        now = _normal_equations(table.products(node, low, by), still, bb)
        trial, _ = _step(now, p, table.around(node, cells), 1e-3)
        x = torch.cat([trial, _shadings_after(now, trial - p)])
        node = table.nearest(trial)
    x = _gauss_newton(problem.single, x, single, 4, 1e-4)[0].double()
    x[:2] = torch.minimum(torch.maximum(x[:2], problem.box[:, :1]), problem.box[:, 1:])
    found, status, seen = _gauss_newton(problem, x, y, 76, 1e-7)
    found[2:] *= length[:, 0]
    seen[0] *= length[:, 0] ** 2
    return found.T, status, seen


# --- lm


def _lm(problem: Problem, y: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """scipy's bounded trust-region least squares for one pixel after the other, from the middle of the box."""
    y, length = unit_length(y)
    results = [bounded_least_squares(problem, pixel, np.full(4, 0.5)) for pixel in y]
    x = torch.from_numpy(np.stack([r.x for r in results]))
    x[:, 2:] *= length
    status = [int(Status.CONVERGED if r.status > 0 else Status.STOPPED) for r in results]
    return x, torch.tensor(status), error_and_products(problem, x, y * length)


def bounded_least_squares(problem: Problem, y: Tensor, u: np.ndarray) -> OptimizeResult:
    """scipy's, on one pixel (D,) of length 1, from a place in the box that u (4,) within 0–1 says."""
    low = np.array([*problem.box[:, 0], 0.0, 0.0])
    high = np.array([*problem.box[:, 1], np.inf, np.inf])
    brightness = max(float((y / problem.e).max()), 1e-3)
    pigments = low[:2] + (high[:2] - low[:2]) * u[:2] ** 3  # cubed: most skin has little of both
    start = np.concatenate([pigments, np.array([2.0, 0.5]) * brightness * (u[2:] + 1e-6)])
    start = np.clip(start, low + 1e-9, high - 1e-9)

    def residual(x: np.ndarray) -> np.ndarray:
        return problem.radiance(torch.from_numpy(x[None]))[0].numpy() - y.numpy()

    def jacobian(x: np.ndarray) -> np.ndarray:
        m, h, diffuse, _ = torch.from_numpy(x)
        return identifiability.columns(problem.model, m, h, diffuse, problem.e).numpy()

    limits: dict[str, Any] = dict(xtol=1e-10, ftol=1e-12, gtol=1e-12, max_nfev=200)
    return least_squares(residual, start, jacobian, (low, high), x_scale="jac", **limits)


# --- adam and sgd


def _descend(problem: Problem, y: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Plain gradient descent on the maps themselves, clamped into their box after every step."""
    low = problem.box.new_tensor([*problem.box[:, 0], 0.0, 0.0])
    high = problem.box.new_tensor([*problem.box[:, 1], torch.inf, torch.inf])
    # what one starts from without knowing better: the middle of the paper's pigments, shading 1, no highlight
    middle = [sum(r) / 2 for r in (skin.MELANIN_RANGE, skin.HAEMOGLOBIN_RANGE)]
    x = low.new_tensor([*middle, 1.0, 0.0]).repeat(len(y), 1)
    x = x.clamp(low, high).requires_grad_()
    kind = torch.optim.SGD if options["name"] == "sgd" else torch.optim.Adam
    optimiser = kind([x], lr=options["rate"] or {"sgd": 1e-3, "adam": 0.01}[options["name"]])
    for _ in range(options["steps"] or 1000):
        optimiser.zero_grad()
        loss = (y - problem.radiance(x)).square().sum()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            x.clamp_(low, high)
    x = x.detach()
    return x, torch.full((len(y),), int(Status.STOPPED)), error_and_products(problem, x, y)


#: From pixels (n, D), in units of the illuminant's mean, and the options of :func:`fit`: maps (n, 4), inside the box,
#: their :class:`Status` (n,), and what :func:`error_and_products` gives there.
SOLVERS: dict[str, Callable[[Problem, Tensor, dict[str, Any]], tuple[Tensor, Tensor, Tensor]]] = {
    "varpro": _varpro,
    "lm": _lm,
    "adam": _descend,
    "sgd": _descend,
}
