"""The contracts of groups: what every group does, what a Lie group adds, and what matrices give for nothing."""

from __future__ import annotations

import abc
from collections.abc import Callable

import torch
from torch import Tensor

from flowgroup.linalg import matrix_exp
from flowgroup.manifolds.base import Manifold, whole_shape


class Group(abc.ABC):
    """A group whose elements are tensors (*batch, *event) and which moves points.

    It holds no elements; everything broadcasts over batch dimensions. Sizes are whole shapes (*batch, *event), as for
    manifolds; none at all means one element.

    Attributes:
        event_shape: shape of one element.
        abelian: whether gh = hg throughout.
    """

    event_shape: torch.Size
    abelian: bool = False

    @abc.abstractmethod
    def identity(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        """The neutral element e, repeated to shape `size` = (*batch, *event)."""

    @abc.abstractmethod
    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        """The product gh: first h, then g."""

    @abc.abstractmethod
    def inverse(self, g: Tensor) -> Tensor:
        """g⁻¹."""

    @abc.abstractmethod
    def random(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        """Random elements of shape `size`: by Haar measure where the group is compact."""

    @abc.abstractmethod
    def act(self, g: Tensor, x: Tensor) -> Tensor:
        """The point gx; (gh)x = g(hx)."""


class LieGroup(Group, Manifold):
    """A group that is a manifold, with a metric that left translation keeps.

    Coordinates v (..., dim) in the Lie algebra refer to a basis that is orthonormal at the identity, and
    `tangent(g, v)` is the tangent vector at g that is d/dt g·exp(tv) at t = 0. From `exp`, `log`, `tangent` and
    `coordinates` follow the manifold's methods: curves g·exp(tv) are its geodesics, `transp` is left translation and
    the volume is left Haar measure. The curves are those of the metric when it is right-invariant as well, as on
    abelian groups and SO(3); a group of which that is not true says so, or overrides them.

    A subclass gives `identity, compose, inverse, act, exp, log, hat, vee, projx`, on a group that is not abelian also
    `adjoint` and `bracket`, and `tangent` and `coordinates` (which `MatrixLieGroup` has).
    """

    random = Manifold.random

    @abc.abstractmethod
    def exp(self, v: Tensor) -> Tensor:
        """The element at time one of the one-parameter subgroup with velocity v (..., dim)."""

    @abc.abstractmethod
    def log(self, g: Tensor) -> Tensor:
        """The shortest v (..., dim) with exp(v) = g."""

    @abc.abstractmethod
    def hat(self, v: Tensor) -> Tensor:
        """The matrix (..., m, m) of v (..., dim) in a faithful representation of the Lie algebra."""

    @abc.abstractmethod
    def vee(self, X: Tensor) -> Tensor:
        """v with hat(v) = X; the part of X that is orthogonal to the algebra is left out."""

    @abc.abstractmethod
    def tangent(self, g: Tensor, v: Tensor) -> Tensor:
        """d/dt g·exp(tv) at t = 0: coordinates (..., dim) to a tangent vector at g (..., *event)."""

    @abc.abstractmethod
    def coordinates(self, g: Tensor, u: Tensor) -> Tensor:
        """v with tangent(g, v) = u; of a u that is not tangent, the part that is."""

    @property
    def model(self) -> LieGroup:
        """A group that is isomorphic and isometric to this one and in which arithmetic is cheap: this group itself,
        where no other is known. `to_model` and `from_model` take elements there and back."""
        return self

    def to_model(self, g: Tensor) -> Tensor:
        """The element of `model` that stands for g."""
        return g

    def from_model(self, g: Tensor) -> Tensor:
        """The element that g of `model` stands for."""
        return g

    def left_divide(self, g: Tensor, h: Tensor) -> Tensor:
        """g⁻¹h, the translation that takes g to the identity."""
        return self.compose(self.inverse(g), h)

    def dilation(self, g: Tensor) -> tuple[Tensor, Callable[[Tensor | float], Tensor]]:
        """d²(e, g), and t ↦ exp_e(t·log_e g) in the sense of the metric; both from one decomposition of g.

        Args:
            g: elements (*batch, *event).

        Returns:
            Squared distances of the batch shape, and a function of times: numbers, or tensors that broadcast to it.

        Example:
            >>> from flowgroup.groups import SO2
            >>> squared, dilate = SO2().dilation(SO2().exp(torch.tensor([0.5])))
            >>> torch.allclose(squared, torch.tensor(0.25)), torch.allclose(
            ...     dilate(torch.tensor(2.0)), SO2().exp(torch.tensor([1.0]))
            ... )
            (True, True)
        """
        e = self.identity(*self.event_shape, dtype=g.dtype, device=g.device)
        u = self.logmap(e, g)
        return self.inner(e, u), lambda t: self.expmap(e, (self._over_event(t) if isinstance(t, Tensor) else t) * u)

    def adjoint(self, g: Tensor) -> Tensor:
        """Ad_g (..., dim, dim): g·exp(v)·g⁻¹ = exp(Ad_g v)."""
        if not self.abelian:
            raise NotImplementedError(f"{self} has no adjoint")
        return self._eye(g, g.shape[: g.dim() - self.ndim])

    def bracket(self, v: Tensor, w: Tensor) -> Tensor:
        """[v, w] in coordinates: hat([v, w]) = hat(v)hat(w) − hat(w)hat(v)."""
        if not self.abelian:
            raise NotImplementedError(f"{self} has no bracket")
        return torch.zeros_like(v + w)

    def left_jacobian(self, v: Tensor) -> Tensor:
        """J(v) = Σₖ ad(v)ᵏ/(k+1)!: exp(v + δ) = exp(J(v)δ)·exp(v) to first order.

        Args:
            v: coordinates (..., dim).

        Returns:
            Matrices (..., dim, dim). The right Jacobian, exp(v + δ) = exp(v)·exp(Jᵣ(v)δ), is J(−v).

        Source: A micro Lie theory for state estimation in robotics, 2018, arXiv 1812.01537.
        """
        if self.abelian:
            return self._eye(v, v.shape[:-1])
        # the integral of exp(s·ad v) over s in [0, 1] is a block of one larger exponential
        eye = self._eye(v, v.shape[:-1])
        ad = self.bracket(v.unsqueeze(-2), eye).mT
        top = torch.cat([ad, eye], -1)
        block = torch.cat([top, torch.zeros_like(top)], -2)
        return matrix_exp(block)[..., : self.dim, self.dim :]

    def log_abs_det_exp(self, v: Tensor) -> Tensor:
        """log|det J(−v)|, by which v ↦ exp(v) changes volume: from dv to left Haar measure, the two equal at v = 0.

        Args:
            v: coordinates (..., dim).

        Returns:
            Tensor of the batch shape. The manifold's `log_abs_det_expmap(x, u)` is the same for u = tangent(x, v).
        """
        if self.abelian:
            return v.new_zeros(()).expand(v.shape[:-1])
        return torch.linalg.slogdet(self.left_jacobian(-v)).logabsdet

    def origin(self, *size: int, dtype: torch.dtype | None = None, device=None, seed: int | None = None) -> Tensor:
        """The identity; `seed` is there for geoopt and has no effect."""
        return self.identity(*size, dtype=dtype, device=device)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """x·exp(v), u = tangent(x, v)."""
        return self.compose(x, self.exp(self.coordinates(x, u)))

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """tangent(x, log(x⁻¹y))."""
        return self.tangent(x, self.log(self.compose(self.inverse(x), y)))

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """|log(x⁻¹y)|."""
        distance = torch.linalg.vector_norm(self.log(self.compose(self.inverse(x), y)), dim=-1)
        return self._over_event(distance) if keepdim else distance

    def _chart(self, m: Tensor) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Tensor]:
        """Those of the identity, moved to m by translation: vectors stay at the identity."""
        e = self.identity(*self.event_shape, dtype=m.dtype, device=m.device)
        return lambda x: self.logmap(e, self.left_divide(m, x)), lambda u: self.compose(m, self.expmap(e, u)), e

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Left translation by yx⁻¹, an isometry."""
        return self.tangent(y, self.coordinates(x, v))

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        """The dot product of coordinates."""
        a = self.coordinates(x, u)
        product = (a * (a if v is None else self.coordinates(x, v))).sum(-1)
        return self._over_event(product) if keepdim else product

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """The part of an ambient vector that is tangent at x."""
        return self.tangent(x, self.coordinates(x, u))

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """The tangent vector whose coordinate i is ⟨u, tangent(x, eᵢ)⟩, for an ambient gradient u."""
        before_event = -self.ndim - 1
        basis = self.tangent(x.unsqueeze(before_event), torch.eye(self.dim, dtype=x.dtype, device=x.device))
        return self.tangent(x, (u.unsqueeze(before_event) * basis).sum(self._event_dims()))

    def log_abs_det_expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """`log_abs_det_exp` of the coordinates of u."""
        return self.log_abs_det_exp(self.coordinates(x, u))

    def _eye(self, like: Tensor, batch: torch.Size) -> Tensor:
        return torch.eye(self.dim, dtype=like.dtype, device=like.device).expand(*batch, -1, -1)


class MatrixLieGroup(LieGroup):
    """A group of matrices (..., n, n) under multiplication, acting on column vectors.

    A subclass gives `log, hat, vee, projx`, and better ways for what it knows more about.
    """

    def identity(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        shape = whole_shape(size, self.event_shape)
        return torch.eye(shape[-1], dtype=dtype, device=device).expand(shape).clone()

    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        return g @ h

    def inverse(self, g: Tensor) -> Tensor:
        return torch.linalg.inv(g)

    def act(self, g: Tensor, x: Tensor) -> Tensor:
        """g·x for column vectors x (..., n)."""
        return (g @ x.unsqueeze(-1)).squeeze(-1)

    def exp(self, v: Tensor) -> Tensor:
        return matrix_exp(self.hat(v))

    def tangent(self, g: Tensor, v: Tensor) -> Tensor:
        """g·hat(v)."""
        return g @ self.hat(v)

    def coordinates(self, g: Tensor, u: Tensor) -> Tensor:
        """vee(g⁻¹u)."""
        return self.vee(self.inverse(g) @ u)

    def adjoint(self, g: Tensor) -> Tensor:
        """Columns vee(g·hat(eᵢ)·g⁻¹)."""
        g = g.unsqueeze(-3)
        basis = self.hat(torch.eye(self.dim, dtype=g.dtype, device=g.device))
        return self.vee(g @ basis @ self.inverse(g)).mT

    def bracket(self, v: Tensor, w: Tensor) -> Tensor:
        v, w = self.hat(v), self.hat(w)
        return self.vee(v @ w - w @ v)
