"""Annealed importance sampling, from a flow or another distribution to a target."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from flowgroup._checks import positive_integer
from flowgroup.boltzmann.samplers.hmc import HMC
from flowgroup.boltzmann.samplers.kernels import Kernel, Potential, check_kernel
from flowgroup.boltzmann.targets import Target
from flowgroup.flows import Flow


def ais(
    target: Target,
    base: Flow | Distribution,
    shape: Sequence[int],
    *,
    levels: int = 8,
    kernel: Kernel | None = None,
    steps: int = 1,
    alpha: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Samples of q taken by Markov steps through q^{1−t}p^t, t from 0 to alpha, and log w = Σₖ (tₖ₊₁−tₖ)·log(p/q)(xₖ).

    p(x) = e^{−u(x) − log_unit_volume} and q is the base, so without levels between log w is the importance weight
    −u(x) − log q(x) − log_unit_volume. For any step size the mean of w has the expectation Z, with alpha = 1; with
    alpha = 2 it is ∫p²/q, and the weighted samples are those of p²/q, of which flows learn the modes that they miss.

    After the call `kernel.step_size` has moved a little towards the kernel's `target_acceptance`, so that calls in a
    loop tune it, and none is biased by that. Randomness is that of torch's global generator.

    Args:
        target: u.
        base: q: a flow or a torch distribution where the target lives, with `sample` and a differentiable `log_prob`.
        shape: how many.
        levels: intermediate densities, at equal distances of t; 0 for plain importance sampling.
        kernel: `HMC` (default), or another that needs no memory of its own.
        steps: steps of it at every level.
        alpha: the last t.

    Returns:
        x (*shape, *event) and log w of the shape. A weight is −∞ where the energy of a sample was NaN or infinite.

    Raises:
        TypeError, ValueError: arguments of the wrong kind.

    Source: Annealed Importance Sampling, 2001, arXiv physics/9803008; Flow Annealed Importance Sampling Bootstrap,
        2023, arXiv 2208.01893 (alpha = 2).

    Example:
        >>> from flowgroup import boltzmann, distributions
        >>> torch.manual_seed(0)
        <torch._C.Generator object at ...>
        >>> base = distributions.DiagonalNormal(torch.zeros(2), 2 * torch.ones(2))
        >>> x, log_w = ais(boltzmann.DoubleWell(), base, (2000,))
        >>> log_z = log_w.logsumexp(0) - math.log(2000)
        >>> bool((log_z - boltzmann.DoubleWell().log_z).abs() < 0.1)
        True
    """
    if not isinstance(target, Target):
        raise TypeError(f"target must be a flowgroup.boltzmann.Target, got {type(target).__name__}")
    if not isinstance(levels, int) or levels < 0:
        raise ValueError(f"levels must be an integer, 0 or larger, got {levels!r}")
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha must be positive and finite, got {alpha}")
    positive_integer("steps", steps)
    if isinstance(shape, int):
        raise TypeError(f"shape must be a sequence of integers such as ({shape},), got {shape}")
    kernel = HMC(leapfrog=5) if kernel is None else check_kernel(kernel)

    def log_ratio(x: Tensor) -> Tensor:
        return -target.energy(x) - target.log_unit_volume - base.log_prob(x)

    with torch.no_grad():
        x = base.sample(torch.Size(shape))
        ratio = log_ratio(x)
    t = alpha / (levels + 1)
    log_w = t * ratio
    accepted = []
    for k in range(1, levels + 1):
        bridge = Potential.of(target, lambda x, t=k * t: -base.log_prob(x) - t * log_ratio(x))
        state = bridge.at(x, kernel.uses_gradient)
        for _ in range(steps):
            move = kernel.step(bridge, state, kernel.step_size, 1.0)
            state = move.state
            accepted.append(move.acceptance.mean())
        x = state.x
        with torch.no_grad():
            log_w = log_w + t * log_ratio(x)
    if accepted and kernel.target_acceptance is not None:
        error = torch.stack(accepted).mean().item() - kernel.target_acceptance
        kernel.step_size = kernel.step_size * math.exp(0.3 * error)
    return x, torch.where(log_w.isfinite(), log_w, -torch.inf)
