"""Training by energies alone for weights that are all alike."""

from __future__ import annotations

import torch
from torch import Tensor

from flowgroup.boltzmann.estimators import effective_sample_size
from flowgroup.boltzmann.objectives.energies import safe_energy
from flowgroup.boltzmann.objectives.objective import Loss
from flowgroup.boltzmann.targets import Target
from flowgroup.flows import Flow


def weight_spread(flow: Flow, target: Target, n: int, data: Tensor | None = None, *, cap: float | None = None) -> Loss:
    """½·log E_q[w²] − E_q[log w] = KL(q‖p) + ½·log E_q[(p/q)²] ≥ 0, w = e^{−u − log_unit_volume}/q: 0 where q = p.

    The first term is −½·log of the effective sample size, up to log Z: it lets q have the tails of p, and modes their
    weights, where `reverse_kl` alone, the second term, is content to leave out what is rare; this one keeps q out of
    where p is not. The largest weights of a batch make most of the first term, so start from a flow that knows the
    target roughly, or let `Annealed` turn the energy on.

    Args:
        flow: q; its base must have `rsample`.
        target: u.
        n: samples; those whose energy or force is not finite are left out and counted.
        data: not used.
        cap: energies in kT above which the loss grows like a logarithm, as in `reverse_kl`.

    Returns:
        The loss, and of its samples the "ESS" and how many were "nonfinite".

    Source: Rényi Divergence Variational Inference, 2016, arXiv 1602.02311; Variational Inference via χ Upper Bound
        Minimization, 2017, arXiv 1611.00328 (the first term).

    Example:
        >>> from flowgroup import boltzmann, flows
        >>> loss, metrics = weight_spread(flows.RotationFlow(transforms=1), boltzmann.TetrahedralRotor(), 64)
        >>> bool(loss > 0), sorted(metrics)
        (True, ['ESS', 'nonfinite'])
    """
    x, log_q = flow.rsample_and_log_prob((n,))
    u = safe_energy(target, x, cap)
    good = u.good & log_q.isfinite()
    log_w = torch.where(good, -log_q - u.capped, 0)
    count = good.sum().clamp(min=1).to(log_w)
    # a mean of w², not of those left out: they have the weight 0, and the finite lowest number keeps gradients finite
    squares = torch.where(good, 2 * log_w, torch.finfo(log_w.dtype).min)
    loss = 0.5 * (squares.logsumexp(0) - count.log()) - log_w.sum() / count
    loss = torch.where(good.any(), loss, 0)
    plain = torch.where(good, -u.energy - log_q.detach() - target.log_unit_volume, -torch.inf)
    return loss, {"ESS": effective_sample_size(plain), "nonfinite": (~good).sum()}
