"""The two directions of the Kullback–Leibler divergence: by energies, or by samples of the target."""

from __future__ import annotations

import torch
from torch import Tensor

from flowgroup.boltzmann.estimators import effective_sample_size
from flowgroup.boltzmann.objectives.energies import safe_energy
from flowgroup.boltzmann.objectives.objective import Loss
from flowgroup.boltzmann.targets import Target
from flowgroup.flows import Flow


def reverse_kl(
    flow: Flow,
    target: Target,
    n: int,
    data: Tensor | None = None,
    *,
    path_gradient: bool = False,
    cap: float | None = None,
) -> Loss:
    """KL(q‖p) − log Z = E_q[log q(x) + u(x) + log_unit_volume], the mean over n samples of the flow.

    Samples whose energy or force is not finite are left out of the mean and counted. A flow with a `SampleBase` is so
    trained for learned free-energy perturbation: its loss is the mean generalised work u₁(f(x)) − u₀(x) − log|det|.

    Args:
        flow: q; its base must have `rsample`.
        target: u.
        n: samples.
        data: not used.
        path_gradient: whether to leave out the gradient of log q(x) in the parameters at fixed x, whose mean is zero.
            The noise of what remains vanishes where q = p ("sticking the landing"), for one pass more, from data to
            latent.
        cap: energies in kT above which the loss grows like a logarithm (`smooth_cap`).

    Returns:
        The loss, and of its samples the "ESS" and how many were "nonfinite".

    Source: Boltzmann Generators, 2019, arXiv 1812.01729; Sticking the Landing, 2017, arXiv 1703.09194; Gradients should
        stay on Path, 2022, arXiv 2207.08219.

    Example:
        >>> from flowgroup import boltzmann, flows
        >>> loss, metrics = reverse_kl(flows.RotationFlow(transforms=1), boltzmann.TetrahedralRotor(), 64)
        >>> loss.shape, sorted(metrics)
        (torch.Size([]), ['ESS', 'nonfinite'])
    """
    x, log_q = flow.rsample_and_log_prob((n,))
    u = safe_energy(target, x, cap)
    good = u.good & log_q.isfinite()
    if path_gradient:
        leaf = x.detach().requires_grad_()
        (score,) = torch.autograd.grad(flow(leaf).sum(), leaf)
        log_q = log_q.detach() + ((x - leaf.detach()) * score).flatten(1).sum(-1)
    work = torch.where(good, log_q + u.capped + target.log_unit_volume, 0)
    log_w = torch.where(good, -u.energy - log_q.detach() - target.log_unit_volume, -torch.inf)
    return work.sum() / good.sum().clamp(min=1), {"ESS": effective_sample_size(log_w), "nonfinite": (~good).sum()}


def maximum_likelihood(flow: Flow, target: Target, n: int, data: Tensor | None = None) -> Loss:
    """−E_p[log q(x)] = KL(p‖q) + const, the mean over n rows of the data, drawn anew every time.

    Args:
        flow: q.
        target: not used.
        n: rows to draw.
        data: equilibrium samples (rows, *event).

    Returns:
        The loss, which is its only metric, as "NLL".

    Raises:
        ValueError: without data.

    Example:
        >>> from flowgroup import boltzmann, flows
        >>> target = boltzmann.DoubleWell()
        >>> flow = flows.NSF(2, transforms=1)
        >>> loss, metrics = maximum_likelihood(flow, target, 64, target.sample((1000,)))
        >>> sorted(metrics)
        ['NLL']
    """
    if data is None:
        raise ValueError("data must be given: maximum likelihood needs samples of the target")
    loss = -flow(data[torch.randint(len(data), (n,), device=data.device)]).mean()
    return loss, {"NLL": loss.detach()}
