"""What importance weights say: log w = −u(x) − log q(x) − log_unit_volume, −∞ where the energy is not finite."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowgroup.boltzmann.estimators.arguments import check_tensor, vector
from flowgroup.boltzmann.estimators.estimate import Estimate, bootstrap, weighted_mean


def effective_sample_size(log_w: Tensor, of: str = "flow") -> Tensor:
    """ESS/n = (Σw)²/(n·Σw²) from samples of the flow, 1/(mean w · mean 1/w) from samples of the target.

    Both estimate 1/E_q[w²] for weights of mean 1. From samples of the flow it is blind to modes that the flow misses,
    from samples of the target it is not.

    Args:
        log_w: log-weights (..., n), up to a constant.
        of: what was sampled, "flow" or "target".

    Returns:
        Values (...) between 0 and 1; 0 where all weights are zero.

    Raises:
        ValueError: another `of`.

    Source: Survey Sampling, 1965 (Kish).

    Example:
        >>> effective_sample_size(torch.tensor([0.0, 0.0, -torch.inf, -torch.inf]))
        tensor(0.5000)
    """
    n = _check_log_weights(log_w)
    if of == "flow":
        return (1 / (n * log_w.softmax(-1).square().sum(-1))).nan_to_num(0.0)
    if of == "target":
        log_w = log_w - log_w.amax(-1, keepdim=True)
        return (2 * math.log(n) - log_w.logsumexp(-1) - (-log_w).logsumexp(-1)).exp().nan_to_num(0.0)
    raise ValueError(f"of must be 'flow' or 'target', got {of!r}")


def log_z(log_w: Tensor, resamples: int = 200, seed: int = 0) -> Estimate:
    """log Z = log mean w, with its bootstrap error: infinite where there is no telling, as of one sample.

    Args:
        log_w: log-weights (n,) of samples of the flow.
        resamples, seed: of the `bootstrap`.

    Example:
        >>> log_z(torch.zeros(100) + 2.0)
        Estimate(value=2.0, error=0.0)
    """
    log_w = vector("log_w", log_w)
    draws = bootstrap(_log_mean_exp, log_w, resamples=resamples, seed=seed)
    # one sample has no spread to resample; resamples without any weight make it NaN
    error = draws.std().item() if len(log_w) > 1 else math.inf
    return Estimate(_log_mean_exp(log_w).item(), math.inf if math.isnan(error) else error)


def mode_weights(mode: Tensor, modes: int, log_w: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """p_k = Σᵢ wᵢ[modeᵢ = k]/Σᵢ wᵢ, with standard errors √(Σᵢ wᵢ²([modeᵢ = k] − p_k)²)/Σᵢ wᵢ.

    Errors are infinite where there is no telling: where one sample has all the weight.

    Args:
        mode: the mode each sample belongs to (n,), from 0.
        modes: how many there are.
        log_w: log-weights (n,); equal ones by default.

    Returns:
        Weights and errors (modes,).

    Example:
        >>> mode_weights(torch.tensor([0, 0, 0, 2]), modes=3)[0]
        tensor([0.7500, 0.0000, 0.2500])
    """
    check_tensor("mode", mode)
    log_w = torch.zeros(len(mode), device=mode.device) if log_w is None else vector("log_w", log_w, len(mode))
    w = log_w.softmax(0)
    return weighted_mean(w, torch.nn.functional.one_hot(mode, modes).to(w))


def _log_mean_exp(x: Tensor) -> Tensor:
    return x.logsumexp(0) - math.log(len(x))


def _check_log_weights(log_w: Tensor) -> int:
    check_tensor("log_w", log_w)
    if log_w.dim() == 0 or log_w.shape[-1] == 0:
        raise ValueError(f"log_w must hold at least one log-weight, (..., n), got shape {tuple(log_w.shape)}")
    return log_w.shape[-1]
