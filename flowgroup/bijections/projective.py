"""Odd maps of spheres, f(−x) = −f(x): an invertible map of the space around, followed by projection to unit vectors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._higher_order_ops import while_loop

from flowgroup._checks import positive_integer
from flowgroup.bijections.base import Bijection, promoted
from flowgroup.bijections.linear import LULinear
from flowgroup.linalg import matvec
from flowgroup.manifolds import Sphere, constraints

NEWTON_STEPS = 25
STEP_SIZES = tuple(2.0**-k for k in range(10))
LONGEST = 30.0


class _Projective(Bijection):
    event_dim = 1

    def __init__(self, dim: int):
        self.dim = positive_integer("dim", dim)
        self.domain = self.codomain = constraints.OnManifold(Sphere(dim))


class ProjectiveMoebius(_Projective):
    """y = unit(((1+r²)I − 2qqᵀ)x) on the sphere S^dim, q = u/√(1+|u|²), r = |q|, params = u.

    This is the sum of the Möbius maps with q and with −q, projected to the sphere: it moves mass away from the axis ±q,
    and its inverse unit(((1−r²)I + 2qqᵀ)y) moves mass towards it. u = 0 is the identity.
    log|det| = log(1−r²) + dim·log(1+r²) − (dim+1)/2·log((1+r²)² − 4(q·x)²).

    Near r = 1 the products with q lose digits where they cancel; they are formed in float64, so that in float32 the
    error of a value is one rounding.

    Args:
        dim: dimension of the sphere; points are unit vectors (..., dim+1).

    Source: Rigid Body Flows for Sampling Molecular Crystal Structures, 2023, arXiv 2301.11355.

    Example:
        >>> f = ProjectiveMoebius(dim=3)
        >>> x, u = torch.tensor([0.6, 0.8, 0.0, 0.0]), torch.tensor([2.0, 0.0, 0.0, 0.0])
        >>> y, logdet = f.forward(x, u)
        >>> y, f.inverse(y, u)[0]
        (tensor([0.0830, 0.9965, 0.0000, 0.0000]), tensor([0.6000, 0.8000, 0.0000, 0.0000]))
    """

    @property
    def param_shape(self) -> tuple[int]:
        return (self.dim + 1,)

    # all multiplied by 1 + |u|²: then 1 + r² is 1 + 2|u|², 1 − r² is 1, and qqᵀ is uuᵀ

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        x, u, dtype = _double(x, params)
        squared = u.square().sum(-1, keepdim=True)
        y = x + 2 * (squared * x - (u * x).sum(-1, keepdim=True) * u)
        return _project(y, self.dim * torch.log1p(2 * squared.squeeze(-1)), dtype)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y, u, dtype = _double(y, params)
        x = y + 2 * (u * y).sum(-1, keepdim=True) * u
        return _project(x, torch.log1p(2 * u.square().sum(-1)), dtype)


class ProjectiveLinear(_Projective):
    """y = unit(Ax) on the sphere S^dim, A = LU with unit lower triangular L and exp(diag M) on the diagonal of U.

    log|det| = log det A − (dim+1)·log|Ax|. params = M: L and U below and above its diagonal; zeros are the identity.
    Several of these with parameters of their own are together one of them.

    Args:
        dim: dimension of the sphere; points are unit vectors (..., dim+1).

    Source: Rigid Body Flows for Sampling Molecular Crystal Structures, 2023, arXiv 2301.11355.

    Example:
        >>> f = ProjectiveLinear(dim=1)
        >>> params = torch.tensor([0.0, 0.0, 1.0, 0.0])  # A = [1 0; 1 1]
        >>> y, logdet = f.forward(torch.tensor([1.0, 0.0]), params)
        >>> y, logdet
        (tensor([0.7071, 0.7071]), tensor(-0.6931))
    """

    def __init__(self, dim: int):
        super().__init__(dim)
        self._linear = LULinear(dim + 1, bias=False)

    @property
    def param_shape(self) -> tuple[int]:
        return self._linear.param_shape

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return _project(*self._linear.forward(x, params))

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return _project(*self._linear.inverse(y, params))


class ProjectiveConvexGradient(_Projective):
    """y = ∇N(x)/|∇N(x)| on the sphere S^dim, N(x) = Σₖ wₖ √(|x|² + ⟨cₖ,x⟩²), w = softmax(logits).

    With tₖ = ⟨cₖ,x⟩ this is unit(Σₖ wₖ (x + tₖcₖ)/√(1+tₖ²)): it draws mass towards all ±cₖ, each as an inverse
    `ProjectiveMoebius` does. log|det| = log N + log det(Hess N + xxᵀ) − (dim+1)·log|∇N|; all cₖ = 0 is the identity.
    params = (u, logits), cₖ = uₖ/√(1+|uₖ|²/900), shorter than 30: within that Newton's method is sure to end.

    N is an even norm, so ½N² is strictly convex with a gradient that takes rays to rays, and f is invertible whatever
    the parameters are; gradients of even convex functions that are not homogeneous, such as Σ wₖ log cosh⟨cₖ,x⟩, need
    not be. The inverse, the direction of the maximum of ⟨x,y⟩/N(x), is found by Newton's method and has exact gradients
    by the implicit function theorem.

    Args:
        dim: dimension of the sphere; points are unit vectors (..., dim+1).
        components: number of cₖ.

    Source: Rigid Body Flows for Sampling Molecular Crystal Structures, 2023, arXiv 2301.11355, for the projection of
        convex gradients.

    Example:
        >>> f = ProjectiveConvexGradient(dim=3, components=8)
        >>> x = torch.tensor([0.6, 0.8, 0.0, 0.0])
        >>> y, logdet = f.forward(x, torch.linspace(-1, 1, 40))
        >>> torch.allclose(f.inverse(y, torch.linspace(-1, 1, 40))[0], x, atol=1e-6)
        True
    """

    def __init__(self, dim: int, components: int):
        super().__init__(dim)
        self.components = positive_integer("components", components)

    @property
    def param_shape(self) -> tuple[int]:
        return (self.components * (self.dim + 2),)

    def initial_params(self) -> Tensor:
        # near the identity, but no two alike, which training could not tell apart
        c = 0.3 * torch.arange(1.0, self.components * (self.dim + 1) + 1).square().cos()
        return torch.cat((c, torch.zeros(self.components)))

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        c, weight = self._controls(promoted(params, x))
        x = x.to(c.dtype)
        norm, gradient, hessian = _norm(x, c, weight)
        factor = torch.linalg.cholesky_ex(hessian + _outer(x, x))[0]
        log_det = norm.log() + 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return _project(gradient, log_det)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        params = promoted(params, y)
        y = y.to(params.dtype).expand(*torch.broadcast_shapes(y.shape[:-1], params.shape[:-1]), -1)
        x = self._solve(y.detach(), params.detach())
        c, weight = self._controls(params)
        # from the root, each of Newton's steps doubles the order to which derivatives are right
        for _ in range(2):
            norm, gradient, hessian = _norm(x, c, weight)
            length = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
            image = gradient / length
            residual = (image - image.detach()) - (y - y.detach())
            x = x - norm.unsqueeze(-1) * length * _newton(residual, norm, gradient, hessian)
            x = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x, -self.forward(x, params)[1]

    def _controls(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """c (..., K, dim+1) and w (..., K)."""
        u = params[..., : -self.components].unflatten(-1, (self.components, self.dim + 1))
        c = u * (1 + u.square().sum(-1, keepdim=True) / LONGEST**2).rsqrt()
        return c, params[..., -self.components :].softmax(-1)

    def _solve(self, y: Tensor, params: Tensor) -> Tensor:
        """The unit x that maximizes ⟨x,y⟩/N(x), without gradient."""
        c, weight = self._controls(params)
        steps = y.new_tensor(STEP_SIZES).reshape(-1, *(1,) * y.dim())

        def improve(i, x: Tensor):
            norm, gradient, hessian = _norm(x, c, weight)
            # ½N²(x) − ⟨x,y⟩ is least along the ray of x at λx; Newton's step from there leads to (Hess ½N²)⁻¹y
            scale = (x * y).sum(-1, keepdim=True) / norm.square().unsqueeze(-1)
            whole = _newton(y, norm, gradient, hessian)
            tried = scale * x + steps * (whole - scale * x)
            tried = tried / torch.linalg.vector_norm(tried, dim=-1, keepdim=True)
            value = (tried * y).sum(-1) / (weight * (1 + matvec(c, tried).square()).sqrt()).sum(-1)
            # the value tells steps apart to the square root of rounding only: whole ones to end with
            best = torch.where(i < NEWTON_STEPS - 3, value.argmax(0, keepdim=True), 0).unsqueeze(-1)
            return i + 1, torch.take_along_dim(tried, best, 0).squeeze(0)

        i, x = torch.zeros((), dtype=torch.int64, device=y.device), y.clone()
        if torch.compiler.is_compiling():
            return while_loop(lambda i, x: i < NEWTON_STEPS, improve, (i, x))[1]
        for _ in range(NEWTON_STEPS):
            i, x = improve(i, x)
        return x


def _norm(x: Tensor, c: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """N, ∇N and Hess N at unit x."""
    t = matvec(c, x)
    n = (1 + t.square()).sqrt()
    a = weight / n
    across = c - t.unsqueeze(-1) * x.unsqueeze(-2)
    total = a.sum(-1)
    gradient = total.unsqueeze(-1) * x + ((a * t).unsqueeze(-1) * c).sum(-2)
    plane = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device) - _outer(x, x)
    bend = across.mT @ ((a / n.square()).unsqueeze(-1) * across)
    return (weight * n).sum(-1), gradient, bend + total[..., None, None] * plane


def _newton(v: Tensor, norm: Tensor, gradient: Tensor, hessian: Tensor) -> Tensor:
    """(Hess ½N²)⁻¹v."""
    whole = norm[..., None, None] * hessian + _outer(gradient, gradient)
    return torch.linalg.solve_ex(whole, v.unsqueeze(-1))[0].squeeze(-1)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a.unsqueeze(-1) * b.unsqueeze(-2)


def _double(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor, torch.dtype]:
    """Both in float64, and the dtype that they have together."""
    params = promoted(params, x)
    return x.double(), params.double(), params.dtype


def _project(y: Tensor, log_det: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """y/|y|, and log|det| on the sphere of x ↦ y/|y| for a linear x ↦ y of the given log|det|."""
    length = torch.linalg.vector_norm(y, dim=-1)
    log_det = log_det - y.shape[-1] * length.log()
    y = y / length.unsqueeze(-1)
    return y.to(dtype or y.dtype), log_det.to(dtype or y.dtype)
