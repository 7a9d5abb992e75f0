"""Mixtures fitted by expectation maximisation: the baselines on spheres and tori."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from scipy.special import ive
from torch import Tensor

from flowgroup import distributions


def fit_mixture(
    x: Tensor, components: int, max_concentration: float, steps: int = 200, seed: int = 0
) -> distributions.Mixture:
    """Maximum likelihood of Σₖ wₖ Πⱼ vMF(xⱼ; μₖⱼ, κₖⱼ), with a uniform component for what lies far from all others.

    Args:
        x: unit vectors (n, m, d+1): m points on S^d a row. One on S² is a point of the earth, seven on S¹ a torus.
        components: K; the uniform one comes on top.
        max_concentration: bound on κ, without which a component on a repeated point has no maximum.
        steps: of expectation maximisation, at most.
        seed: of the start, at random points of x.

    Returns:
        The mixture, of distributions of events (m, d+1).
    """
    rng = np.random.default_rng(seed)
    n, m, p = x.shape
    loc = x[torch.as_tensor(rng.choice(n, components, replace=components > n))]
    kappa = torch.full((components, m), min(10.0, max_concentration), dtype=x.dtype)
    loc, kappa = torch.cat((x[:1], loc)), torch.cat((torch.zeros(1, m, dtype=x.dtype), kappa))
    log_weights, last = torch.full((components + 1,), -math.log(components + 1), dtype=x.dtype), -math.inf
    for _ in range(steps):
        # log p(x) − log p(μ) = Σⱼ κⱼ(⟨μⱼ, xⱼ⟩ − 1) for all points and components as one product of matrices
        top = log_weights + _components(loc, kappa).log_prob(loc) - kappa.sum(-1)
        joint = top + x.flatten(1) @ (kappa.unsqueeze(-1) * loc).flatten(1).T
        evidence = joint.logsumexp(-1, keepdim=True)
        share = (joint - evidence).exp()
        mass = share.sum(0)
        # one pseudo-count a component: no weight becomes zero, so no point is impossible
        log_weights = ((mass + 1) / (n + components + 1)).log()
        sums = torch.einsum("nk,nmp->kmp", share, x)[1:]
        length = torch.linalg.vector_norm(sums, dim=-1)
        loc[1:] = torch.where(length.unsqueeze(-1) > 1e-9, sums / length.clamp(min=1e-9).unsqueeze(-1), loc[1:])
        kappa[1:] = _concentration(length / mass[1:].clamp(min=1e-9).unsqueeze(-1), p, max_concentration)
        now = evidence.mean().item()
        if now - last < 1e-4:
            break
        last = now
    return distributions.Mixture(log_weights, _components(loc, kappa))


def kernel_density(x: Tensor, concentration: float, background: float = 0.02) -> distributions.Mixture:
    """Equal vMF kernels on all points x (n, m, d+1), and a uniform component of weight `background`."""
    kappa = torch.full(x.shape[:2], concentration, dtype=x.dtype)
    log_weights = torch.full((len(x) + 1,), math.log((1 - background) / len(x)), dtype=x.dtype)
    log_weights[0] = math.log(background)
    return distributions.Mixture(
        log_weights, _components(torch.cat((x[:1], x)), torch.cat((torch.zeros_like(kappa[:1]), kappa)))
    )


def best(models: Iterable[tuple[str, distributions.Mixture]], validation: Tensor) -> tuple[str, distributions.Mixture]:
    """The model with the highest likelihood of the validation points, and its name."""
    return max(models, key=lambda item: mean_log_prob(item[1], validation))


def mean_log_prob(model: distributions.Mixture, x: Tensor) -> float:
    return torch.cat([model.log_prob(chunk) for chunk in x.split(256)]).mean().item()


def _components(loc: Tensor, kappa: Tensor) -> torch.distributions.Independent:
    return torch.distributions.Independent(distributions.VonMisesFisher(loc, kappa, validate_args=False), 1)


def _concentration(length: Tensor, p: int, limit: float) -> Tensor:
    """κ with A(κ) = I_{p/2}(κ)/I_{p/2−1}(κ) = mean resultant length, by Newton's method; at most `limit`."""
    r = length.numpy().clip(1e-6, 1 - 1e-12)
    kappa = np.minimum(r * (p - r**2) / (1 - r**2), limit)
    for _ in range(10):
        a = ive(p / 2, kappa) / ive(p / 2 - 1, kappa)
        kappa = np.clip(kappa - (a - r) / np.maximum(1 - a**2 - (p - 1) / kappa * a, 1e-12), 1e-3, limit)
    return torch.as_tensor(kappa, dtype=length.dtype)
