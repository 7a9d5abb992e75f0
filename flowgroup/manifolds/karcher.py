"""Fréchet means by iteration, on any manifold and over any number of processes, with an exact gradient."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

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
        manifold: gives `_mean_start`, where to start, and `_chart`, exp and log at a point.
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
    `by_cost`, when the gradient does not get shorter), and grows when progress is slow.
    """
    mean = manifold._mean_start(x, average) if start is None else start
    for i in range(MEAN_ITERATIONS if steps is None else steps):
        log, exp, base = manifold._chart(mean)
        tangent = log(x)
        gradient = average(tangent)
        if steps == 1:
            return exp(gradient), None, None
        with torch.no_grad():  # costs and slopes are only compared
            cost = 0.5 * average(manifold.inner(base, tangent))
            slope = manifold.inner(base, gradient)
        if i == 0:
            step, idle = torch.ones_like(cost), torch.zeros_like(cost)
            last_cost, last_slope = cost, slope
            best, best_gradient, best_cost, best_slope = mean, gradient, cost, slope
        else:
            better = slope < best_slope
            if by_cost:
                # near the minimum the cost is flat up to rounding, and only the gradient tells better from worse
                eps = torch.finfo(x.dtype).eps
                falls = cost <= best_cost - 0.25 * step * best_slope - 8 * eps * (best_cost + best_cost.sqrt())
                better = falls | (better & (cost <= (1 + eps**0.5) * best_cost))
            slow = better & (slope > 0.25 * best_slope)
            step = torch.where(better, torch.where(slow, 1.5 * step, step), 0.5 * step)
            best, best_gradient = (
                torch.where(manifold._over_event(better), a, b) for a, b in ((mean, best), (gradient, best_gradient))
            )
            best_cost, best_slope = torch.where(better, cost, best_cost), torch.where(better, slope, best_slope)
            ahead = (best_slope < 0.5 * last_slope) | (best_cost < 0.99 * last_cost)
            idle = torch.where(ahead, 0, idle + 1)
            last_cost, last_slope = torch.where(ahead, best_cost, last_cost), torch.where(ahead, best_slope, last_slope)
            exp = manifold._chart(best)[1]
        if steps is None:
            size, scale = best_slope.sqrt(), 1 + (2 * best_cost).sqrt()
            if ((size <= tol * scale) | (idle >= PATIENCE)).all():
                break
        mean = exp(manifold._over_event(step) * best_gradient)
    return (mean, None, None) if steps is not None else (best, size, scale)


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
            target = manifold.egrad2rgrad(base, total(cotangent))
            solution = _solve(transposed, target, lambda a, b: manifold.inner(base, a, b, keepdim=True))
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


def _solve(operator: Callable[[Tensor], Tensor], target: Tensor, inner: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """v with operator(v) = target: generalized conjugate residuals, for a batch of systems that need no symmetry.

    Source: Variational Iterative Methods for Nonsymmetric Systems of Linear Equations, 1983, Eisenstat, Elman and
    Schultz.
    """
    solution, residual = torch.zeros_like(target), target
    allowed = (8 * torch.finfo(target.dtype).eps) ** 2 * inner(target, target)
    pairs: list[tuple[Tensor, Tensor]] = []  # directions and their images, the images orthonormal
    for _ in range(SOLVE_ITERATIONS):
        left = inner(residual, residual)
        if (left <= allowed).all():
            return solution
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
    warnings.warn(
        f"the gradient of a Fréchet mean is left with a relative residual of "
        f"{(left / inner(target, target)).max().sqrt().item():.3g}",
        RuntimeWarning,
        stacklevel=2,
    )
    return solution
