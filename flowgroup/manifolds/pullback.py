"""Manifolds that are another manifold in other clothes."""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from flowgroup.linalg import jvp
from flowgroup.manifolds.base import Manifold, whole_shape


class Pullback(Manifold):
    """A manifold isometric to a `model` through a diffeomorphism φ: d(x, y) = d(φ(x), φ(y)).

    Everything follows from the model: exp, log, means, transport. A subclass gives `to_model`, `from_model`, `projx`
    and `proju`, and `push` and `pull` where it knows them better than autograd does.

    Args:
        model: the other manifold.
        event_shape: shape of one point.
    """

    def __init__(self, model: Manifold, event_shape: tuple[int, ...]):
        super().__init__(model.dim, event_shape)
        self._model = model
        self.volume, self.injectivity_radius = model.volume, model.injectivity_radius
        self.reversible = model.reversible

    @property
    def model(self) -> Manifold:
        """The manifold that this one is isometric to."""
        return self._model

    @abc.abstractmethod
    def to_model(self, x: Tensor) -> Tensor:
        """φ(x)."""

    @abc.abstractmethod
    def from_model(self, y: Tensor) -> Tensor:
        """φ⁻¹(y)."""

    def push(self, x: Tensor, u: Tensor) -> Tensor:
        """dφ(x)[u], a tangent vector of the model at φ(x)."""
        return jvp(self.to_model, *torch.broadcast_tensors(x, u))

    def pull(self, y: Tensor, w: Tensor) -> Tensor:
        """dφ⁻¹(y)[w], the tangent vector here that `push` takes to w."""
        return jvp(self.from_model, *torch.broadcast_tensors(y, w))

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return self.from_model(self.model.expmap(self.to_model(x), self.push(x, u)))

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = self.to_model(x), self.to_model(y)
        return self.pull(a, self.model.logmap(a, b))

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        distance = self.model.dist(self.to_model(x), self.to_model(y))
        return self._over_event(distance) if keepdim else distance

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        a, b = self.to_model(x), self.to_model(y)
        return self.pull(b, self.model.transp(a, b, self.push(x, v)))

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        a = self.push(x, u)
        product = self.model.inner(self.to_model(x), a, a if v is None else self.push(x, v))
        return self._over_event(product) if keepdim else product

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        x, u = torch.broadcast_tensors(x, u)
        y = self.to_model(x)
        _, gradient = torch.func.vjp(self.from_model, y)
        return self.pull(y, self.model.egrad2rgrad(y, gradient(u)[0]))

    def geodesic(self, x: Tensor, y: Tensor, t: Tensor | float) -> Tensor:
        return self.from_model(self.model.geodesic(self.to_model(x), self.to_model(y), t))

    def frechet_mean(self, x: Tensor, *args, **kwargs) -> Tensor:
        """φ⁻¹ of the mean in the model; see `Manifold.frechet_mean`."""
        self._assert_check_shape(x.shape, "x")
        return self.from_model(self.model.frechet_mean(self.to_model(x), *args, **kwargs))

    def log_abs_det_expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return self.model.log_abs_det_expmap(self.to_model(x), self.push(x, u))

    def random(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        """φ⁻¹ of random points of the model."""
        return self.from_model(self.model.random(*self._model_size(size), dtype=dtype, device=device))

    def random_uniform(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        return self.from_model(self.model.random_uniform(*self._model_size(size), dtype=dtype, device=device))

    def origin(self, *size: int, dtype: torch.dtype | None = None, device=None, seed: int | None = None) -> Tensor:
        """φ⁻¹ of the model's origin; `seed` is there for geoopt and has no effect."""
        return self.from_model(self.model.origin(*self._model_size(size), dtype=dtype, device=device, seed=seed))

    def _model_size(self, size: tuple[int, ...]) -> torch.Size:
        shape = whole_shape(size, self.event_shape)
        return shape[: len(shape) - self.ndim] + self.model.event_shape
