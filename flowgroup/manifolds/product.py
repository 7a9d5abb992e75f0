"""Products of manifolds and of Lie groups, with points as flat vectors."""
# ruff: noqa: N802  (Product is named like the spaces that it makes)

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from flowgroup.groups.base import LieGroup
from flowgroup.manifolds.base import Manifold, whole_shape


def Product(*factors: Manifold) -> ProductManifold:
    """M₁ × … × Mₖ with d² = Σᵢ dᵢ²; a Lie group where every factor is one.

    A point is a flat vector, the points of the factors flattened and joined: `split` takes it apart, `join` puts it
    together. Everything goes factor by factor, and closed forms stay closed.

    Args:
        factors: manifolds, at least one.

    Returns:
        A `ProductManifold`, or a `ProductGroup` where every factor is a `LieGroup`.

    Raises:
        TypeError: a factor that is no manifold of this library.
        ValueError: no factors.

    Example:
        >>> from flowgroup.groups import SO3
        >>> from flowgroup.manifolds import Euclidean, Sphere
        >>> poses = Product(Euclidean(3), SO3())
        >>> poses, poses.dim, poses.event_shape, isinstance(poses, LieGroup)
        (Product(Euclidean(3), SO3()), 6, torch.Size([12]), True)
        >>> position, rotation = poses.split(poses.identity())
        >>> rotation.shape, isinstance(Product(Euclidean(3), Sphere(2)), LieGroup)
        (torch.Size([3, 3]), False)
    """
    group = all(isinstance(factor, LieGroup) for factor in factors)
    return (ProductGroup if group else ProductManifold)(*factors)


class ProductManifold(Manifold):
    """What `Product` makes of manifolds.

    Attributes:
        factors: the manifolds, in order.
    """

    def __init__(self, *factors: Manifold):
        if not factors:
            raise ValueError("factors must be at least one manifold, got none")
        for factor in factors:
            if not isinstance(factor, Manifold):
                raise TypeError(f"factors must be manifolds of flowgroup, got {type(factor).__name__}")
        self._sizes = [factor.event_shape.numel() for factor in factors]
        super().__init__(sum(factor.dim for factor in factors), (sum(self._sizes),))
        self.factors = factors
        self.volume = math.prod(factor.volume for factor in factors)
        self.injectivity_radius = min(factor.injectivity_radius for factor in factors)
        self.reversible = all(factor.reversible for factor in factors)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The parts (..., *event) of points or vectors (..., total), one for each factor."""
        parts = x.split(self._sizes, -1)
        return tuple(part.unflatten(-1, factor.event_shape) for factor, part in zip(self.factors, parts))

    def join(self, *parts: Tensor) -> Tensor:
        """Points or vectors (..., total) from their parts (..., *event), whose batch shapes broadcast."""
        return _join(part.flatten(-factor.ndim) for factor, part in zip(self.factors, parts, strict=True))

    def _each(self, name: str, *points: Tensor) -> list:
        """Results of one method of the factors, of parts of points."""
        parts = zip(*(self.split(x) for x in points))
        return [getattr(factor, name)(*part) for factor, part in zip(self.factors, parts)]

    def _joined(self, name: str, *points: Tensor) -> Tensor:
        return self.join(*self._each(name, *points))

    def _filled(self, name: str, size: Sequence, **options) -> Tensor:
        batch = whole_shape(size, self.event_shape)[:-1]
        return self.join(*(getattr(factor, name)(*batch, *factor.event_shape, **options) for factor in self.factors))

    def contains(self, x: Tensor) -> Tensor:
        """Whether every factor contains its part."""
        return torch.stack(self._each("contains", x)).all(0)

    def _fault(self, x: Tensor) -> str:
        parts = zip(self.factors, self.split(x))
        return next(factor._fault(part) for factor, part in parts if not factor.contains(part))

    def projx(self, x: Tensor) -> Tensor:
        return self._joined("projx", x)

    def settled(self, x: Tensor) -> Tensor:
        return self._joined("settled", x)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return self._joined("proju", x, u)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self._joined("egrad2rgrad", x, u)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return self._joined("expmap", x, u)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        return self._joined("retr", x, u)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return self._joined("logmap", x, y)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self._joined("transp", x, y, v)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """√Σᵢ dᵢ², with gradient zero at x = y."""
        return torch.linalg.vector_norm(_stack(self._each("dist", x, y)), dim=-1, keepdim=keepdim)

    def dist2(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        return _stack(self._each("dist2", x, y)).sum(-1, keepdim=keepdim)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        """The sum of the factors' inner products."""
        return _stack(self._each("inner", x, u, u if v is None else v)).sum(-1, keepdim=keepdim)

    def component_inner(self, x: Tensor, u: Tensor, v: Tensor | None = None) -> Tensor:
        """Factor by factor, for optimizers."""
        products = self._each("component_inner", x, u, u if v is None else v)
        return self.join(*(torch.broadcast_tensors(*pair)[0] for pair in zip(products, self.split(u))))

    def log_abs_det_expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """The sum of those of the factors."""
        return _stack(self._each("log_abs_det_expmap", x, u)).sum(-1)

    def origin(self, *size: int, dtype: torch.dtype | None = None, device=None, seed: int | None = None) -> Tensor:
        return self._filled("origin", size, dtype=dtype, device=device, seed=seed)

    def random_uniform(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        return self._filled("random_uniform", size, dtype=dtype, device=device)

    def random(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        return self._filled("random", size, dtype=dtype, device=device)

    def frechet_mean(
        self,
        x: Tensor,
        weights: Tensor | None = None,
        dim: int = 0,
        steps: int | None = None,
        tol: float | None = None,
        all_reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The means of the parts; see `Manifold.frechet_mean`."""
        self._assert_check_shape(x.shape, "x")
        means = (
            factor.frechet_mean(part, weights, dim, steps, tol, all_reduce)
            for factor, part in zip(self.factors, self.split(x))
        )
        return self.join(*means)

    def _check_point_on_manifold(self, x: Tensor, *, atol=1e-5, rtol=1e-5) -> tuple[bool, str | None]:
        for factor, part in zip(self.factors, self.split(x)):
            ok, reason = factor._check_point_on_manifold(part, atol=atol, rtol=rtol)
            if not ok:
                return False, reason
        return True, None

    def extra_repr(self) -> str:
        return ", ".join(map(repr, self.factors))

    def __repr__(self) -> str:
        return f"Product({self.extra_repr()})"


class ProductGroup(ProductManifold, LieGroup):
    """What `Product` makes of Lie groups: a group that moves itself by translation from the left.

    Coordinates are those of the factors, joined; matrices have one block for each factor.
    """

    def __init__(self, *factors: LieGroup):
        super().__init__(*factors)
        self.abelian = all(factor.abelian for factor in factors)
        self._dims = [factor.dim for factor in factors]
        models = [factor.model for factor in factors]
        same = all(model is factor for model, factor in zip(models, factors))
        self._model = None if same else ProductGroup(*models)

    def _each_coordinates(self, name: str, *vectors: Tensor) -> list[Tensor]:
        """Results of one method of the factors, of parts of coordinates."""
        parts = zip(*(v.split(self._dims, -1) for v in vectors))
        return [getattr(factor, name)(*part) for factor, part in zip(self.factors, parts)]

    @property
    def model(self) -> LieGroup:
        """The product of the factors' models."""
        return self if self._model is None else self._model

    def to_model(self, g: Tensor) -> Tensor:
        return g if self._model is None else self._model.join(*self._each("to_model", g))

    def from_model(self, g: Tensor) -> Tensor:
        if self._model is None:
            return g
        parts = zip(self.factors, self._model.split(g))
        return self.join(*(factor.from_model(part) for factor, part in parts))

    def identity(self, *size: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        return self._filled("identity", size, dtype=dtype, device=device)

    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        return self._joined("compose", g, h)

    def inverse(self, g: Tensor) -> Tensor:
        return self._joined("inverse", g)

    def left_divide(self, g: Tensor, h: Tensor) -> Tensor:
        return self._joined("left_divide", g, h)

    def act(self, g: Tensor, x: Tensor) -> Tensor:
        """The product gx, for elements x."""
        return self.compose(g, x)

    def dilation(self, g: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        squares, dilations = zip(*self._each("dilation", g))
        return _stack(squares).sum(-1), lambda t: self.join(*(dilate(t) for dilate in dilations))

    def exp(self, v: Tensor) -> Tensor:
        return self.join(*self._each_coordinates("exp", v))

    def log(self, g: Tensor) -> Tensor:
        return _join(self._each("log", g))

    def hat(self, v: Tensor) -> Tensor:
        return _block_diagonal(self._each_coordinates("hat", v))

    def vee(self, X: Tensor) -> Tensor:
        sizes = [factor.hat(X.new_zeros(factor.dim)).shape[-1] for factor in self.factors]
        return _join(factor.vee(block) for factor, block in zip(self.factors, _blocks(X, sizes)))

    def tangent(self, g: Tensor, v: Tensor) -> Tensor:
        parts = zip(self.factors, self.split(g), v.split(self._dims, -1))
        return self.join(*(factor.tangent(*part) for factor, *part in parts))

    def coordinates(self, g: Tensor, u: Tensor) -> Tensor:
        return _join(self._each("coordinates", g, u))

    def adjoint(self, g: Tensor) -> Tensor:
        return _block_diagonal(self._each("adjoint", g))

    def bracket(self, v: Tensor, w: Tensor) -> Tensor:
        return _join(self._each_coordinates("bracket", v, w))

    def left_jacobian(self, v: Tensor) -> Tensor:
        return _block_diagonal(self._each_coordinates("left_jacobian", v))

    def log_abs_det_exp(self, v: Tensor) -> Tensor:
        """The sum of those of the factors."""
        return _stack(self._each_coordinates("log_abs_det_exp", v)).sum(-1)


def _join(vectors: Iterable[Tensor]) -> Tensor:
    vectors = list(vectors)
    batch = torch.broadcast_shapes(*(v.shape[:-1] for v in vectors))
    return torch.cat([v.expand(*batch, -1) for v in vectors], -1)


def _stack(scalars: Sequence[Tensor]) -> Tensor:
    return torch.stack(torch.broadcast_tensors(*scalars), -1)


def _block_diagonal(blocks: Sequence[Tensor]) -> Tensor:
    total = sum(block.shape[-1] for block in blocks)
    batch = torch.broadcast_shapes(*(block.shape[:-2] for block in blocks))
    rows, before = [], 0
    for block in blocks:
        n = block.shape[-1]
        row = torch.nn.functional.pad(block, (before, total - before - n))
        rows.append(row.expand(*batch, n, total))
        before += n
    return torch.cat(rows, -2)


def _blocks(X: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    rows = X.split(sizes, -2)
    return [row.split(sizes, -1)[i] for i, row in enumerate(rows)]
