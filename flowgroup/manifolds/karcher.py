"""Fréchet means by iteration, on any manifold and over any number of processes, with an exact gradient."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from flowgroup.manifolds.base import Manifold

MEAN_ITERATIONS = 256
"""Most steps that an iterated Fréchet mean takes where none are asked for."""

PATIENCE = 32
"""Steps after which an iteration ends that has neither halved the gradient nor lowered the cost by a hundredth: what is
left is rounding."""

SOLVE_ITERATIONS = 128
"""Most steps that the gradient of a converged Fréchet mean takes."""

NEWTON_ITERATIONS = 16
"""Most products with the Hessian in one step of an iteration."""


class Expansion(NamedTuple):
    """½Σᵢ wᵢ d²(exp_m u, xᵢ) = cost − ⟨gradient, u⟩ + ½⟨u, hessian(u)⟩ + …, u being a vector of the chart at m.

    Attributes:
        cost: of the batch shape.
        gradient: Σᵢ wᵢ log_m xᵢ.
        inner: (u, v) ↦ ⟨u, v⟩ of the batch shape.
        hessian: u ↦ Hu, at least the identity, as it is where no curvature is positive; None where it is not known.
        curvature: the largest absolute value of sectional curvatures, for a known Hessian.
    """

    cost: Tensor
    gradient: Tensor
    inner: Callable[[Tensor, Tensor], Tensor]
    hessian: Callable[[Tensor], Tensor] | None = None
    curvature: float = 0.0


def karcher_mean(
    manifold: Manifold,
    x: Tensor,
    weights: Tensor,
    dim: int,
    steps: int | None,
    tol: float,
    total: Callable[[Tensor], Tensor],
    equal: bool,
) -> Tensor:
    """argmin_m Σᵢ wᵢ d²(m, xᵢ) by m ← exp_m(τ Σᵢ wᵢ log_m xᵢ); `Manifold.frechet_mean` says what it does.

    Args:
        manifold: gives `_mean_start`, where to start, `_chart`, exp and log at a point, and perhaps `_expansion`.
        x: points (*batch, *event).
        weights: of the batch shape, summing to one along `dim` and over all processes.
        dim: the batch dimension to average over, counted from the front.
        steps: how many steps exactly, their gradient going through all of them; or None to iterate to convergence,
            the gradient being that of the equation Σᵢ wᵢ log_m xᵢ = 0 that the mean solves.
        tol: converged when the gradient is shorter than tol·(1 + root mean square distance).
        total: the sum of a tensor over processes.
        equal: whether all weights are equal and there is one process, for which a sum takes less.

    Returns:
        Means, of the shape of `x` with size 1 at `dim`.
    """

    def average(v: Tensor) -> Tensor:
        if equal:
            return v.mean(dim, keepdim=True)
        return total((weights.reshape(weights.shape + (1,) * (v.dim() - weights.dim())) * v).sum(dim, keepdim=True))

    if steps is not None:
        return _descend(manifold, x, average, steps, tol)[0]
    with torch.no_grad():
        mean, gradient, scale = _descend(manifold, x, average, None, tol)
        enough = max(tol, torch.finfo(x.dtype).eps ** 0.5)
        if (gradient > enough * scale).any():
            # on a group with curves that are not shortest the equation has a solution that is not the least cost
            mean, gradient, scale = _descend(manifold, x, average, None, tol, start=mean, by_cost=False)
        if not (gradient <= enough * scale).all():
            warnings.warn(
                f"frechet_mean on {manifold} did not converge: the gradient has norm {gradient.max().item():.3g}",
                RuntimeWarning,
                stacklevel=3,
            )
    if not (torch.is_grad_enabled() and (x.requires_grad or weights.requires_grad)):
        return mean
    log, exp, _ = manifold._chart(mean)
    gradient = (manifold._over_event(weights) * log(x)).sum(dim, keepdim=True)
    return exp(_NewtonStep.apply(gradient, mean, x, weights, manifold, dim, total))


def _descend(
    manifold: Manifold,
    x: Tensor,
    average: Callable[[Tensor], Tensor],
    steps: int | None,
    tol: float,
    start: Tensor | None = None,
    by_cost: bool = True,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The iteration; it returns the mean and, without `steps`, the gradient's norm there and its scale.

    The step τ starts from 1 for every mean of a batch, is halved when the cost does not fall enough (or, not
    `by_cost`, when the gradient does not get shorter), and grows when progress is slow. Without `steps`, where the
    manifold knows the Hessian H, steps go along H⁻¹ Σᵢ wᵢ log_m xᵢ, and the last one is trusted to its bound: to look
    at what it leads to would cost as much as any step.
    """
    mean = manifold._mean_start(x, average) if start is None else start
    for i in range(MEAN_ITERATIONS if steps is None else steps):
        here = manifold._expansion(mean, x, average) if steps is None else None
        if here is None:
            log, exp, base = manifold._chart(mean)
            tangent = log(x)
            gradient = average(tangent)
            if steps == 1:
                return exp(gradient), None, None
            with torch.no_grad():  # costs and slopes are only compared
                cost = 0.5 * average(manifold.inner(base, tangent))
            here = Expansion(cost, gradient, functools.partial(manifold.inner, base))
        newton = here.hessian is not None
        with torch.no_grad():
            new = _iterate(manifold, mean, here, tol)
        if i == 0:
            best, step, idle = new, torch.ones_like(new.cost), torch.zeros_like(new.cost)
            last_cost, last_slope = new.cost, new.slope
        else:
            better = new.slope < best.slope
            if by_cost:
                # near the minimum the cost is flat up to rounding, and only the gradient tells better from worse
                eps = torch.finfo(x.dtype).eps
                falls = new.cost <= best.cost - 0.25 * step * best.descent - 8 * eps * (best.cost + best.cost.sqrt())
                better = falls | (better & (new.cost <= (1 + eps**0.5) * best.cost))
            slow = better & (new.slope > 0.25 * best.slope)
            longer = (2 * step).clamp(max=1) if newton else torch.where(slow, 1.5 * step, step)
            step = torch.where(better, longer, 0.5 * step)
            best = best.replaced(new, better, manifold._over_event(better))
            ahead = (best.slope < 0.5 * last_slope) | (best.cost < 0.99 * last_cost)
            idle = torch.where(ahead, 0, idle + 1)
            last_cost, last_slope = torch.where(ahead, best.cost, last_cost), torch.where(ahead, best.slope, last_slope)
        if newton or i > 0:
            exp = manifold._chart(best.mean)[1]
        if steps is None:
            size, scale = best.slope.sqrt(), 1 + (2 * best.cost).sqrt()
            there = (step == 1) & (best.bound < size) & (best.bound <= tol * scale)
            if (there | (size <= tol * scale) | (idle >= PATIENCE)).all():
                if newton:
                    best = best._replace(mean=exp(manifold._over_event(there) * best.direction))
                return best.mean, torch.where(there, best.bound, size), scale
        mean = exp(manifold._over_event(step) * best.direction)
    return (mean, None, None) if steps is not None else (best.mean, size, scale)


class _Iterate(NamedTuple):
    """A point of the iteration and the direction to go on from it, with the numbers to judge them by.

    Attributes:
        cost, slope, descent: ½Σᵢ wᵢ d²(mean, xᵢ), |gradient|² and ⟨gradient, direction⟩.
        bound: of the gradient's norm after a step along the whole direction.
    """

    mean: Tensor
    direction: Tensor
    cost: Tensor
    slope: Tensor
    descent: Tensor
    bound: Tensor

    def replaced(self, other: _Iterate, where: Tensor, over_event: Tensor) -> _Iterate:
        """`other` where the mask, of the batch shape and over events, is true."""
        masks = (over_event, over_event, where, where, where, where)
        return _Iterate(*(torch.where(mask, a, b) for mask, a, b in zip(masks, other, self)))


def _iterate(manifold: Manifold, mean: Tensor, here: Expansion, tol: float) -> _Iterate:
    """The direction is the gradient, or with a Hessian H⁻¹·gradient, as exactly as a step can make use of.

    A step u leaves the gradient's part that the solution leaves, and what the Hessian changes on the way, which is at
    most curvature · root mean square distance · |u|².
    """
    gradient, cost = here.gradient, here.cost
    slope = here.inner(gradient, gradient)
    if here.hessian is None:
        return _Iterate(mean, gradient, cost, slope, slope, torch.full_like(slope, torch.inf))
    spread = (2 * cost).sqrt()
    bend = here.curvature * spread
    allowed = torch.maximum(0.1 * torch.minimum(slope.sqrt(), bend * slope), 0.5 * tol * (1 + spread))

    def inner(u: Tensor, v: Tensor) -> Tensor:
        return manifold._over_event(here.inner(u, v))

    direction, left = _solve(here.hessian, gradient, inner, manifold._over_event(allowed), NEWTON_ITERATIONS)
    bound = left.reshape(slope.shape) + bend * here.inner(direction, direction)
    return _Iterate(mean, direction, cost, slope, here.inner(gradient, direction), bound)


class _NewtonStep(torch.autograd.Function):
    """δ = H⁻¹ Σᵢ wᵢ log_m xᵢ at the mean m, where it is zero, H the derivative of −Σᵢ wᵢ log_m xᵢ in m.

    By the implicit function theorem exp_m(δ), m held fixed, has the gradient of the mean. The backward pass solves one
    system with the transpose of H, which is applied by one backward pass through one evaluation of the sum.
    """

    @staticmethod
    def forward(ctx, gradient, mean, x, weights, manifold, dim, total):
        ctx.save_for_backward(mean, x, weights)
        ctx.rest = manifold, dim, total
        return torch.zeros_like(gradient)

    @staticmethod
    def backward(ctx, cotangent):
        mean, x, weights = ctx.saved_tensors
        manifold, dim, total = ctx.rest
        with torch.no_grad():
            _, exp, base = manifold._chart(mean)
        with torch.enable_grad():
            u = torch.zeros_like(mean, requires_grad=True)
            log = manifold._chart(exp(u))[0]
            field = (manifold._over_event(weights.detach()) * log(x.detach())).sum(dim, keepdim=True)

        def transposed(v: Tensor) -> Tensor:
            with torch.enable_grad():
                product = manifold.inner(base, v, field).sum()
            (row,) = torch.autograd.grad(product, u, retain_graph=True)
            return -manifold.egrad2rgrad(base, total(row))

        with torch.no_grad():
            inner = functools.partial(manifold.inner, base, keepdim=True)
            target = manifold.egrad2rgrad(base, total(cotangent))
            size = inner(target, target).sqrt()
            allowed = 8 * torch.finfo(x.dtype).eps * size
            solution, left = _solve(transposed, target, inner, allowed, SOLVE_ITERATIONS)
            if not (left <= allowed).all():
                part = (left / size).max().item()
                warnings.warn(
                    f"the gradient of a Fréchet mean is left with a relative residual of {part:.3g}",
                    RuntimeWarning,
                    stacklevel=2,
                )
        with torch.enable_grad():
            zero = torch.zeros_like(solution, requires_grad=True)
            product = manifold.inner(base, solution, zero).sum()
        (row,) = torch.autograd.grad(product, zero)  # ⟨solution, ·⟩ as an ambient cotangent
        return _OnlyOnce.apply(row, cotangent, x, weights), None, None, None, None, None, None


class _OnlyOnce(torch.autograd.Function):
    """The identity in its first argument; an error where a second derivative is asked for."""

    @staticmethod
    def forward(ctx, row, *inputs):
        return row.view_as(row)

    @staticmethod
    def backward(ctx, *cotangents):
        raise NotImplementedError(
            "a converged Fréchet mean has first derivatives only; ask frechet_mean for a number of steps"
        )


def _solve(
    operator: Callable[[Tensor], Tensor],
    target: Tensor,
    inner: Callable[[Tensor, Tensor], Tensor],
    allowed: Tensor,
    iterations: int,
) -> tuple[Tensor, Tensor]:
    """v with operator(v) = target up to a residual of norm `allowed`, and the norm of what is left of it.

    Generalized conjugate residuals, for a batch of systems that need no symmetry.

    Source: Variational Iterative Methods for Nonsymmetric Systems of Linear Equations, 1983, Eisenstat, Elman and
    Schultz.
    """
    solution, residual = torch.zeros_like(target), target
    pairs: list[tuple[Tensor, Tensor]] = []  # directions and their images, the images orthonormal
    left = inner(residual, residual).sqrt()
    while len(pairs) < iterations and not (left <= allowed).all():
        direction = residual
        image = operator(direction)
        for p, q in pairs:
            share = inner(image, q)
            direction, image = direction - share * p, image - share * q
        square = inner(image, image)
        size = torch.where(square > 0, square, 1).sqrt()
        direction, image = direction / size, image / size
        pairs.append((direction, image))
        share = inner(residual, image)
        solution, residual = solution + share * direction, residual - share * image
        left = inner(residual, residual).sqrt()
    return solution, left
