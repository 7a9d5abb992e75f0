"""Monotone rational-quadratic splines, with derivatives in closed form."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from flowgroup._checks import values_readable
from flowgroup.bijections.base import Bijection, promoted
from flowgroup.manifolds.constraints import Circle, Interval, real, wrap

MIN_BIN = 1e-3
MIN_SLOPE = 1e-3
TAILS = ("linear", "circular", "bounded")


class RationalQuadraticSpline(Bijection):
    """y = y₀ + Δy (s z² + d₀ z(1−z)) / (s + (d₀+d₁−2s) z(1−z)) in each bin, z = (x−x₀)/Δx, s = Δy/Δx.

    The last dimension of the parameters holds, unnormalised, K widths, K heights and the slopes at the K−1 inner
    knots (at K knots when circular):  width = 2·bound·(m + (1−mK)·softmax), slope = m + softplus, m = 10⁻³.

    The inverse is free of cancellation; both directions compute in float32 at least and keep only their arguments for
    the backward pass.

    Args:
        bins: number K of bins, at least 2.
        bound: the spline maps [−bound, bound] to itself, with slope 1 at both ends unless circular.
        tails: "linear" is the identity outside; "bounded" knows no outside (layers refuse such points, here they count
            as the ends); "circular" has period 2·bound and equal slopes at the ends: follow it by a `CircularShift`,
            since it keeps the end where it is.

    Source: Neural Spline Flows, 2019, arXiv 1906.04032, Eqs. 4–8; circular: Normalizing Flows on Tori and Spheres,
        2020, arXiv 2002.02428.

    Example:
        >>> spline = RationalQuadraticSpline(bins=4, bound=2.0)
        >>> spline.param_shape
        (11,)
        >>> x, params = torch.randn(5), torch.randn(5, 11)
        >>> y, logdet = spline.forward(x, params)
        >>> torch.allclose(spline.inverse(y, params)[0], x, atol=1e-5)
        True
    """

    def __init__(self, bins: int = 8, bound: float = 4.0, tails: str = "linear"):
        if bins < 2 or bins * MIN_BIN >= 1:
            raise ValueError(f"bins must be at least 2 and below {1 / MIN_BIN:g}, got {bins}")
        if not 0 < bound < math.inf:
            raise ValueError(f"bound must be positive and finite, got {bound}")
        if tails not in TAILS:
            raise ValueError(f"tails must be one of {TAILS}, got {tails!r}")
        self.bins, self.bound, self.tails = bins, float(bound), tails
        self.domain = self.codomain = {
            "linear": real,
            "circular": Circle(self.bound),
            "bounded": Interval(-self.bound, self.bound),
        }[tails]

    @property
    def param_shape(self) -> tuple[int]:
        return (3 * self.bins - (self.tails != "circular"),)

    def initial_params(self) -> Tensor:
        params = torch.zeros(self.param_shape)
        params[2 * self.bins :] = math.log(math.expm1(1 - MIN_SLOPE))
        return params

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self._map(x, params, inverse=False)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self._map(y, params, inverse=True)

    def _map(self, x: Tensor, params: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        if params.shape[-1:] != self.param_shape:
            raise ValueError(f"params must have shape (..., {self.param_shape[0]}), got {tuple(params.shape)}")
        params = promoted(params, x)
        x = x.to(params.dtype)
        x = x.expand(torch.broadcast_shapes(x.shape, params.shape[:-1]))
        inside = x.abs() <= self.bound
        if self.tails == "circular":
            at = torch.where(inside, x, wrap(x, self.bound))
        else:
            at = x.clamp(-self.bound, self.bound)
        y, logdet = _Spline.apply(at, params, self.bound, self.tails == "circular", inverse)[:2]
        if self.tails == "linear":
            y, logdet = torch.where(inside, y, x), torch.where(inside, logdet, 0.0)
        elif self.tails == "bounded":
            y = y.clamp(-self.bound, self.bound)  # rounding must not lead out of the next one's domain
        return y, logdet


class _Bin(NamedTuple):
    """The bin that each x falls into, tensors (...)."""

    index: Tensor
    x0: Tensor  # left end
    x1: Tensor  # right end
    y0: Tensor  # lower end
    y1: Tensor  # upper end
    raw_slopes: Tensor  # unnormalised slopes at its two ends (..., 2)
    log_totals: Tensor  # logsumexp of all widths and of all heights (*params batch, 2)


def _bin_logits(params: Tensor, circular: bool) -> Tensor:
    """Unnormalised widths and heights (..., 2, K)."""
    bins = (params.shape[-1] + (not circular)) // 3
    return params[..., : 2 * bins].unflatten(-1, (2, bins))


def _may_overwrite(x: Tensor) -> bool:
    """Whether a temporary may be worked on in place, since fresh megabytes cost more than the arithmetic on them."""
    return not torch.is_grad_enabled() and values_readable(x)


def _find_bin(x: Tensor, params: Tensor, bound: float, circular: bool, axis: int) -> _Bin:
    """The bin of x among the widths (axis 0) or of y among the heights (axis 1)."""
    logits = _bin_logits(params, circular)
    bins = logits.shape[-1]
    # exp and division, not softmax: over a short last dimension softmax is many times slower on a CPU
    largest = logits.amax(-1, keepdim=True)
    e = (logits - largest).exp_()
    cumulative = e.cumsum_(-1) if _may_overwrite(e) else e.cumsum(-1)
    totals = cumulative[..., -1]
    units = 2 * bound * (1 - MIN_BIN * bins) / totals

    # bin k ends at step·(k+1) − bound + unit·cumulativeₖ
    step = 2 * bound * MIN_BIN
    steps = torch.arange(1, bins, dtype=x.dtype, device=x.device) * step - bound
    ends = torch.addcmul(steps, cumulative[..., axis, :-1], units[..., axis, None])
    index = (x.unsqueeze(-1) >= ends).sum(-1)
    first = index == 0
    pair = torch.stack(((index - 1).clamp(min=0), index), -1).unsqueeze(-2)
    near = cumulative.expand(*x.shape, 2, bins).gather(-1, pair.expand(*x.shape, 2, 2))
    offset = index.to(x.dtype) * step - bound
    x0, y0 = (torch.where(first, -bound, torch.addcmul(offset, near[..., i, 0], units[..., i])) for i in (0, 1))
    x1, y1 = (torch.addcmul(offset + step, near[..., i, 1], units[..., i]) for i in (0, 1))

    slopes = params[..., 2 * bins :]
    knots = torch.stack((index, (index + 1) % bins) if circular else (index - 1, index), -1)
    raw_slopes = slopes.expand(*x.shape, slopes.shape[-1]).gather(-1, knots.clamp(0, slopes.shape[-1] - 1))
    return _Bin(index, x0, x1, y0, y1, raw_slopes, largest.squeeze(-1) + totals.log())


def _slopes(bin: _Bin, bins: int, circular: bool) -> tuple[Tensor, Tensor]:
    d0, d1 = (F.softplus(bin.raw_slopes) + MIN_SLOPE).unbind(-1)
    if circular:
        return d0, d1
    return torch.where(bin.index == 0, 1.0, d0), torch.where(bin.index == bins - 1, 1.0, d1)


class _Spline(torch.autograd.Function):
    """y and log f′(x), or x = f⁻¹(y) and −log f′(x), and the bin for the backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, params: Tensor, bound: float, circular: bool, inverse: bool) -> tuple[Tensor, ...]:
        bin = _find_bin(x, params, bound, circular, axis=int(inverse))
        _, x0, x1, y0, y1, _, _ = bin
        d0, d1 = _slopes(bin, (params.shape[-1] + (not circular)) // 3, circular)
        width, height = x1 - x0, y1 - y0
        s = height / width
        # z and w = 1 − z each from the knot it vanishes at, and so the result: no cancellation
        if inverse:
            t, u = ((x - y0) / height).clamp(0, 1), ((y1 - x) / height).clamp(0, 1)
            e = d0 * u - d1 * t
            r = (e * e + 4 * s * s * t * u).sqrt()
            up, down, larger = 2 * s * t, 2 * s * u, r + e.abs()
            z = torch.where(e >= 0, up / (up + larger), larger / (larger + down))
            w = torch.where(e >= 0, larger / (up + larger), down / (larger + down))
            out = torch.where(z < 0.5, x0 + z * width, x1 - w * width)
        else:
            z, w = ((x - x0) / width).clamp(0, 1), ((x1 - x) / width).clamp(0, 1)
        v = z * w
        den = s * (z * z + w * w) + (d0 + d1) * v
        if not inverse:
            from_start, from_end = s * z * z + d0 * v, s * w * w + d1 * v
            out = torch.where(z < 0.5, y0 + height * from_start / den, y1 - height * from_end / den)
        slope = d1 * z * z + 2 * s * v + d0 * w * w
        logdet = ((s / den).square() * slope).log()
        return out, -logdet if inverse else logdet, *bin

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, params, ctx.bound, ctx.circular, ctx.inverse = inputs
        out, _, *bin = output
        ctx.mark_non_differentiable(*bin)
        ctx.save_for_backward(x, params, out, *bin)

    @staticmethod
    def backward(ctx, grad_out: Tensor, grad_logdet: Tensor, *_):
        x, params, out, *bin = ctx.saved_tensors
        if torch.is_grad_enabled():  # for second derivatives the bin has to depend on the parameters
            bin = _find_bin(x, params, ctx.bound, ctx.circular, axis=int(ctx.inverse))
        else:
            bin = _Bin(*bin)
        logits = _bin_logits(params, ctx.circular)
        bins = logits.shape[-1]
        if ctx.inverse:
            x, grad_logdet = out, -grad_logdet
        _, x0, x1, y0, y1, _, _ = bin
        d0, d1 = _slopes(bin, bins, ctx.circular)
        width, height = x1 - x0, y1 - y0
        s = height / width
        z, w = ((x - x0) / width).clamp(0, 1), ((x1 - x) / width).clamp(0, 1)
        zz, ww, v, tilt = z * z, w * w, z * w, w - z
        den = s * (zz + ww) + (d0 + d1) * v
        ratio = (s * zz + d0 * v) / den
        slope = d1 * zz + 2 * s * v + d0 * ww

        # derivatives of log f′ with respect to z, s, d0, d1
        gl_m, gl_d = grad_logdet / slope, 2 * grad_logdet / den
        log_z = 2 * gl_m * (d1 * z + s * tilt - d0 * w) - gl_d * (d0 + d1 - 2 * s) * tilt
        if ctx.inverse:
            # x = f⁻¹(y): dx = (dy − ∂f/∂θ dθ)/f′, and log f′ is seen at that x
            grad_x = (grad_out + log_z / width) / ((s / den).square() * slope)
            grad_y = -grad_x
        else:
            grad_y = grad_out
        a = grad_y * height / den
        grad_z = a * slope * s / den + log_z
        grad_s = a * (zz - ratio * (ww + zz)) + 2 * (grad_logdet / s + gl_m * v) - gl_d * (zz + ww)
        grad_d0 = a * v * (1 - ratio) + gl_m * ww - gl_d * v
        grad_d1 = -a * v * ratio + gl_m * zz - gl_d * v
        if not ctx.inverse:
            grad_x = grad_z / width
        # x₀ and x₁ enter through z and s, y₁ through height, and y₀ with y₁ moves y
        grad_x1 = -(grad_z * z + grad_s * s) / width
        grad_x0 = -grad_z / width - grad_x1
        grad_y1 = grad_y * ratio + grad_s / width

        # knots are cumulative sums of probabilities, those of a softmax; masks are numbers, quicker than `where`
        j = torch.arange(bins, device=x.device)
        index = bin.index.unsqueeze(-1)
        below, at = (j < index).to(x.dtype), (j == index).to(x.dtype)
        scale = 2 * ctx.bound * (1 - MIN_BIN * bins)
        end = scale * torch.stack((grad_x1, grad_y1), -1).unsqueeze(-1)
        both = scale * torch.stack((grad_x1 + grad_x0, grad_y), -1).unsqueeze(-1)
        probs = (logits - bin.log_totals.unsqueeze(-1)).exp_()
        g = both * below.unsqueeze(-2)
        if _may_overwrite(g):
            g = g.addcmul_(end, at.unsqueeze(-2)).mul_(probs)
            grad_bins = g.addcmul_(probs, g.sum(-1, keepdim=True), value=-1)
        else:
            g = torch.addcmul(g, end, at.unsqueeze(-2)) * probs
            grad_bins = torch.addcmul(g, probs, g.sum(-1, keepdim=True), value=-1)

        raw0, raw1 = (torch.stack((grad_d0, grad_d1), -1) * torch.sigmoid(bin.raw_slopes)).split(1, -1)
        if ctx.circular:
            grad_slopes = torch.addcmul(raw0 * at, raw1, at.roll(1, -1))
        else:
            grad_slopes = torch.addcmul(raw0 * at[..., 1:], raw1, at[..., :-1])
        grad_params = torch.cat((grad_bins.flatten(-2), grad_slopes), -1).sum_to_size(params.shape)
        return grad_x, grad_params, None, None, None
