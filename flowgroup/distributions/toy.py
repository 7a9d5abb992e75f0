"""Two-dimensional test densities, exact to evaluate and to sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from flowgroup._checks import check_event_shape
from flowgroup.distributions.polar import GAUSS_LEGENDRE
from flowgroup.manifolds.constraints import Interval


class _Planar(Distribution):
    """A distribution on the plane without parameters."""

    arg_constraints: dict = {}
    support = constraints.real_vector

    def __init__(self, dtype: torch.dtype | None, device: torch.device | str | None):
        self._options = {"dtype": dtype or torch.get_default_dtype(), "device": device}
        super().__init__(event_shape=torch.Size((2,)), validate_args=False)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return self._draw(torch.Size(sample_shape))

    def _draw(self, shape: torch.Size) -> Tensor:
        raise NotImplementedError

    def _uniform(self, shape: torch.Size) -> Tensor:
        return torch.rand(shape, **self._options)

    def _index(self, n: int, shape: torch.Size) -> Tensor:
        return torch.randint(n, shape, device=self._options["device"])

    def _noise(self, shape: torch.Size) -> Tensor:
        return torch.randn((*shape, 2), **self._options)


class TwoMoons(_Planar):
    """Points uniform on two interleaved half circles of radius 1, plus N(0, noise² I): scikit-learn's moons.

    The density ½ Σ ∫₀^π N(x; c(θ), noise² I) dθ/π is integrated over the angle θ by Gauss–Legendre panels of length
    2·noise at most, which leaves a relative error below 1e-9 wherever the density is above 1e-30.

    Args:
        noise: standard deviation of the noise.
        dtype, device: of samples.

    Example:
        >>> TwoMoons(0.1).log_prob(torch.tensor([0.0, 1.0]))  # on the upper moon: about −log(2π·0.1·√(2π))
        tensor(-0.4530)
    """

    def __init__(self, noise: float = 0.1, dtype: torch.dtype | None = None, device=None):
        super().__init__(dtype, device)
        self.noise = _positive("noise", noise)

    def _arcs(self, theta: Tensor) -> Tensor:
        """Both moons (2, ..., 2) at angles (...)."""
        upper = torch.stack((theta.cos(), theta.sin()), -1)
        return torch.stack((upper, torch.stack((1 - theta.cos(), 0.5 - theta.sin()), -1)))

    def log_prob(self, value: Tensor) -> Tensor:
        check_event_shape("value", value, (2,))
        panels = math.ceil(math.pi / (2 * self.noise))
        half = math.pi / (2 * panels)
        rule = [(sign * x, w) for x, w in GAUSS_LEGENDRE for sign in (-1, 1)]
        middle = half * (2 * torch.arange(panels, dtype=value.dtype, device=value.device) + 1)
        theta = torch.cat([middle + half * x for x, _ in rule])
        log_weights = torch.cat([torch.full_like(middle, math.log(w * half / (2 * math.pi))) for _, w in rule])
        return _log_gaussians(value, self._arcs(theta).flatten(0, 1), self.noise, torch.cat((log_weights, log_weights)))

    def _draw(self, shape: torch.Size) -> Tensor:
        upper, lower = self._arcs(math.pi * self._uniform(shape))
        return torch.where(self._index(2, shape).bool().unsqueeze(-1), upper, lower) + self.noise * self._noise(shape)


class Rings(_Planar):
    """Points uniform on concentric circles, plus N(0, noise² I).

    With r = |x|: p(x) = (1/K) Σₖ exp(−(r − Rₖ)²/2σ²) I₀ₑ(rRₖ/σ²) / 2πσ², I₀ₑ(z) = e^{−z} I₀(z).

    Args:
        radii: R₁, …, R_K of the circles, all equally likely.
        noise: standard deviation σ of the noise.
        dtype, device: of samples.

    Example:
        >>> Rings().sample((5,)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        radii: Sequence[float] = (0.75, 1.5, 2.25, 3.0),
        noise: float = 0.08,
        dtype: torch.dtype | None = None,
        device=None,
    ):
        super().__init__(dtype, device)
        self.radii = tuple(_positive("radii", r) for r in radii)
        if not self.radii:
            raise ValueError("radii must name at least one circle, got none")
        self.noise = _positive("noise", noise)

    def _centres(self, like: Tensor) -> Tensor:
        return torch.stack([like.new_full((), r) for r in self.radii])

    def log_prob(self, value: Tensor) -> Tensor:
        check_event_shape("value", value, (2,))
        r = torch.linalg.vector_norm(value, dim=-1, keepdim=True)
        radii = self._centres(value)
        log_terms = torch.special.i0e(r * radii / self.noise**2).log() - 0.5 * ((r - radii) / self.noise).square()
        return log_terms.logsumexp(-1) - math.log(2 * math.pi * self.noise**2 * len(self.radii))

    def _draw(self, shape: torch.Size) -> Tensor:
        angle = 2 * math.pi * self._uniform(shape)
        radius = self._centres(angle)[self._index(len(self.radii), shape)].unsqueeze(-1)
        return radius * torch.stack((angle.cos(), angle.sin()), -1) + self.noise * self._noise(shape)


class Checkerboard(_Planar):
    """Uniform on every second square of a board: p(x) = 2/(2·bound)² there, zero elsewhere.

    Args:
        squares: squares along a side, even.
        bound: the board is [−bound, bound]².
        dtype, device: of samples.

    Example:
        >>> Checkerboard().log_prob(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        tensor([-3.4657,    -inf])
    """

    def __init__(self, squares: int = 4, bound: float = 4.0, dtype: torch.dtype | None = None, device=None):
        super().__init__(dtype, device)
        if squares < 2 or squares % 2:
            raise ValueError(f"squares must be a positive even number, got {squares}")
        self.squares, self.bound = squares, _positive("bound", bound)

    @property
    def support(self):
        """The whole board, empty squares included."""
        return constraints.independent(Interval(-self.bound, self.bound), 1)

    def log_prob(self, value: Tensor) -> Tensor:
        check_event_shape("value", value, (2,))
        cell = ((value + self.bound) * (self.squares / (2 * self.bound))).floor()
        filled = (cell.sum(-1) % 2 == 0) & (value.abs() <= self.bound).all(-1)
        log_density = value.new_full((), -math.log(2 * self.bound**2))
        return torch.where(filled, log_density, -math.inf)

    def _draw(self, shape: torch.Size) -> Tensor:
        row = self._index(self.squares, shape)
        column = 2 * self._index(self.squares // 2, shape) + row % 2
        corner = torch.stack((column, row), -1)
        side = 2 * self.bound / self.squares
        return side * (corner + self._uniform((*shape, 2))) - self.bound


class EightGaussians(_Planar):
    """p(x) = ⅛ Σₖ N(x; cₖ, scale² I) with the means cₖ evenly spaced on a circle.

    Args:
        radius: of the circle.
        scale: standard deviation of each Gaussian.
        dtype, device: of samples.

    Example:
        >>> EightGaussians().log_prob(torch.tensor([2.0, 0.0]))  # −log(8·2π·0.2²)
        tensor(-0.6984)
    """

    def __init__(self, radius: float = 2.0, scale: float = 0.2, dtype: torch.dtype | None = None, device=None):
        super().__init__(dtype, device)
        self.radius, self.scale = _positive("radius", radius), _positive("scale", scale)

    def _centres(self, dtype: torch.dtype, device) -> Tensor:
        angle = math.pi / 4 * torch.arange(8, dtype=dtype, device=device)
        return self.radius * torch.stack((angle.cos(), angle.sin()), -1)

    def log_prob(self, value: Tensor) -> Tensor:
        check_event_shape("value", value, (2,))
        log_weights = value.new_full((8,), -math.log(8))
        return _log_gaussians(value, self._centres(value.dtype, value.device), self.scale, log_weights)

    def _draw(self, shape: torch.Size) -> Tensor:
        return self._centres(**self._options)[self._index(8, shape)] + self.scale * self._noise(shape)


def _log_gaussians(x: Tensor, centres: Tensor, scale: float, log_weights: Tensor) -> Tensor:
    """log Σₖ wₖ N(x; cₖ, scale² I) for x (..., 2), centres (K, 2)."""
    squares = (x.unsqueeze(-2) - centres).square().sum(-1)
    return (log_weights - squares / (2 * scale**2)).logsumexp(-1) - math.log(2 * math.pi * scale**2)


def _positive(name: str, value: float) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be positive and finite, got {value}")
    return value
