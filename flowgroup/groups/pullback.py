"""Lie groups that are another Lie group in other clothes."""

from __future__ import annotations

import torch
from torch import Tensor

from flowgroup.groups.base import LieGroup
from flowgroup.manifolds.pullback import Pullback


class PullbackGroup(Pullback, LieGroup):
    """A Lie group isomorphic and isometric to a `model` through φ: gh = φ⁻¹(φ(g)φ(h)).

    A subclass gives `to_model`, `from_model`, `projx` and `proju`. The group of symmetric positive-definite matrices
    that adds their logarithms, for one, is ℝᵈ seen through the matrix exponential.
    """

    @property
    def abelian(self) -> bool:
        return self.model.abelian

    def identity(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        return self.from_model(self.model.identity(*self._model_size(size), dtype=dtype, device=device))

    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        return self.from_model(self.model.compose(self.to_model(g), self.to_model(h)))

    def inverse(self, g: Tensor) -> Tensor:
        return self.from_model(self.model.inverse(self.to_model(g)))

    def left_divide(self, g: Tensor, h: Tensor) -> Tensor:
        return self.from_model(self.model.left_divide(self.to_model(g), self.to_model(h)))

    def dilation(self, g: Tensor):
        squared, dilate = self.model.dilation(self.to_model(g))
        return squared, lambda t: self.from_model(dilate(t))

    def act(self, g: Tensor, x: Tensor) -> Tensor:
        """The group moves itself: the product gx."""
        return self.compose(g, x)

    def exp(self, v: Tensor) -> Tensor:
        return self.from_model(self.model.exp(v))

    def log(self, g: Tensor) -> Tensor:
        return self.model.log(self.to_model(g))

    def hat(self, v: Tensor) -> Tensor:
        return self.model.hat(v)

    def vee(self, X: Tensor) -> Tensor:
        return self.model.vee(X)

    def tangent(self, g: Tensor, v: Tensor) -> Tensor:
        y = self.to_model(g)
        return self.pull(y, self.model.tangent(y, v))

    def coordinates(self, g: Tensor, u: Tensor) -> Tensor:
        return self.model.coordinates(self.to_model(g), self.push(g, u))

    def adjoint(self, g: Tensor) -> Tensor:
        return self.model.adjoint(self.to_model(g))

    def bracket(self, v: Tensor, w: Tensor) -> Tensor:
        return self.model.bracket(v, w)

    def left_jacobian(self, v: Tensor) -> Tensor:
        return self.model.left_jacobian(v)

    def log_abs_det_exp(self, v: Tensor) -> Tensor:
        return self.model.log_abs_det_exp(v)
