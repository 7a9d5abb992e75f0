"""Free-energy differences from the work of maps, or from energies in several states."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from flowgroup.boltzmann.estimators.arguments import check_tensor, vector
from flowgroup.boltzmann.estimators.estimate import Estimate
from flowgroup.boltzmann.estimators.weights import log_z


def free_energy_perturbation(work: Tensor, resamples: int = 200, seed: int = 0) -> Estimate:
    """ΔF = −log mean e^{−w}, with its bootstrap error, of works w = u₁(f(x)) − u₀(x) − log|det ∂f/∂x|, x from e^{−u₀}.

    f is the identity in Zwanzig's formula and a flow in learned free-energy perturbation.

    Args:
        work: w (n,) in kT.
        resamples, seed: of the `bootstrap`.

    Source: Targeted free energy perturbation, 2002, arXiv cond-mat/0204426; Learned free energy perturbation, 2020,
        arXiv 2002.04913.

    Example:
        >>> free_energy_perturbation(torch.full((10,), 3.0))
        Estimate(value=3.0, error=0.0)
    """
    value, error = log_z(-vector("work", work), resamples, seed)
    return Estimate(-value, error)


def bar(work: Tensor, reverse_work: Tensor) -> Estimate:
    """ΔF = F₁ − F₀ from works in both directions, by Bennett's acceptance ratio, with its asymptotic error.

    It solves Σᵢ f(m + wᵢ − ΔF) = Σⱼ f(−m + w′ⱼ + ΔF), f(x) = 1/(1 + eˣ), m = log(n₀/n₁). Works may be infinite, as
    where atoms lie on each other; there is no estimate, but NaN, where all of one direction are.

    Args:
        work: u₁(f(x)) − u₀(x) − log|det ∂f/∂x| (n₀,) in kT, for x from e^{−u₀}.
        reverse_work: u₀(f⁻¹(y)) − u₁(y) − log|det ∂f⁻¹/∂y| (n₁,), for y from e^{−u₁}.

    Source: Efficient estimation of free energy differences from Monte Carlo data, 1976, doi
        10.1016/0021-9991(76)90078-4.

    Example:
        >>> x = torch.randn(2000, generator=torch.Generator().manual_seed(0))
        >>> print(bar(1.5 * x[:1000] + 3.125, -1.5 * x[1000:] - 0.875))  # normal, of variance 1.5² and ΔF = 2
        2.016 ± 0.035
    """
    forward, backward = vector("work", work), vector("reverse_work", reverse_work)
    m = math.log(len(forward) / len(backward))
    least = forward.min().item(), -backward.min().item()
    if not all(map(math.isfinite, least)):
        return Estimate(math.nan, math.inf)

    def log_acceptance(delta: float) -> tuple[Tensor, Tensor]:
        return torch.nn.functional.logsigmoid(delta - m - forward), torch.nn.functional.logsigmoid(m - delta - backward)

    # the left side grows with ΔF and the right side falls: this far off the least works one term decides
    beyond = abs(m) + math.log(max(len(forward), len(backward))) + 1
    low, high = min(least) - beyond, max(least) + beyond
    for _ in range(100):
        middle = (low + high) / 2
        left, right = (a.logsumexp(0).item() for a in log_acceptance(middle))
        low, high = (middle, high) if left < right else (low, middle)
    variance = sum(_relative_variance(a) for a in log_acceptance(middle))
    return Estimate(middle, math.sqrt(variance))


def _relative_variance(log_f: Tensor) -> float:
    """Of the mean of f, over its square; infinite for one sample."""
    n = len(log_f)
    if n == 1:
        return math.inf
    return max((2 * (log_f - log_f.logsumexp(0))).logsumexp(0).exp().item() * n - 1, 0.0) / (n - 1)


def mbar(energies: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Fᵢ − F₀ from samples of all states, by the multistate Bennett acceptance ratio, with its asymptotic error.

    Args:
        energies: uᵢ(xₙ) (states, n) in kT, of every sample in every state; samples of state 0 first, then of state 1, …
        counts: samples drawn from each state.

    Returns:
        Free energies (states,) in kT and their errors, both 0 for state 0; float64 on the CPU.

    Raises:
        ModuleNotFoundError: without pymbar.
        ValueError: counts that do not fit.

    Source: Statistically optimal analysis of samples from multiple equilibrium states, 2008, arXiv 0801.1426.

    Example:
        >>> x = torch.randn(2000, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0]).repeat_interleave(1000)
        >>> F, error = mbar(torch.stack((x.square() / 2, x.square() / 8)), (1000, 1000))
        >>> bool((F[1] + math.log(2)).abs() < 4 * error[1])
        True
    """  # noqa: E501
    check_tensor("energies", energies)
    if energies.dim() != 2 or len(counts) != len(energies) or sum(counts) != energies.shape[1]:
        raise ValueError(
            f"counts must give the samples of each state, adding up to those of energies (states, n), "
            f"got {list(counts)} for {tuple(energies.shape)}"
        )
    states = _pymbar().MBAR(energies.detach().double().cpu().numpy(), np.array(counts), solver_protocol="robust")
    result = states.compute_free_energy_differences()
    return torch.from_numpy(result["Delta_f"][0]), torch.from_numpy(result["dDelta_f"][0])


def _pymbar():
    try:
        import logging

        # it advertises on import, and warns of a module that is not used here
        logger = logging.getLogger("pymbar")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            import pymbar
        finally:
            logger.setLevel(level)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("mbar needs pymbar: pip install 'flowgroup[boltzmann]'") from error
    return pymbar
