"""What is read off samples and their importance weights: effective sizes, free energies, structure; with error bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowgroup._checks import positive_integer
from flowgroup.training.randomness import seeded

# log w = −u(x) − log q(x) − log_unit_volume everywhere, −∞ where the energy is NaN or infinite


class Estimate(NamedTuple):
    """A number and its standard error.

    Example:
        >>> print(Estimate(3.60532, 0.00041))
        3.60532 ± 0.00041
        >>> f"{Estimate(3.60532, 0.00041):.2f}"
        '3.61 ± 0.00'
    """

    value: float
    error: float

    def __str__(self) -> str:
        known = 0 < self.error < math.inf
        places = min(max(1 - math.floor(math.log10(self.error)), 0), 12) if known else 4
        return format(self, f".{places}f")

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} ± {self.error:{spec}}" if spec else str(self)


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


def bootstrap(statistic: Callable[..., Tensor], *samples: Tensor, resamples: int = 200, seed: int = 0) -> Tensor:
    """The statistic of resamples of the rows, drawn with replacement: its spread is that of the statistic.

    Args:
        statistic: takes as many tensors as there are samples.
        samples: tensors (nᵢ, …), resampled independently of each other.
        resamples: how many times.
        seed: of the draws.

    Returns:
        Values (resamples, …).

    Source: Bootstrap Methods: Another Look at the Jackknife, 1979, doi 10.1214/aos/1176344552.

    Example:
        >>> x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
        >>> round(bootstrap(torch.mean, x).std().item(), 2)
        0.03
    """
    positive_integer("resamples", resamples)
    for x in samples:
        _check_tensor("samples", x)
    values = []
    with seeded(samples[0].device, seed):
        for _ in range(resamples):
            values.append(statistic(*(x[torch.randint(len(x), (len(x),), device=x.device)] for x in samples)))
    return torch.stack(values)


def log_z(log_w: Tensor, resamples: int = 200, seed: int = 0) -> Estimate:
    """log Z = log mean w, with its bootstrap error: infinite where there is no telling, as of one sample.

    Args:
        log_w: log-weights (n,) of samples of the flow.
        resamples, seed: of the `bootstrap`.

    Example:
        >>> log_z(torch.zeros(100) + 2.0)
        Estimate(value=2.0, error=0.0)
    """
    log_w = _vector("log_w", log_w)
    draws = bootstrap(_log_mean_exp, log_w, resamples=resamples, seed=seed)
    # one sample has no spread to resample; resamples without any weight make it NaN
    error = draws.std().item() if len(log_w) > 1 else math.inf
    return Estimate(_log_mean_exp(log_w).item(), math.inf if math.isnan(error) else error)


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
    value, error = log_z(-_vector("work", work), resamples, seed)
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
    forward, backward = _vector("work", work), _vector("reverse_work", reverse_work)
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
    _check_tensor("energies", energies)
    if energies.dim() != 2 or len(counts) != len(energies) or sum(counts) != energies.shape[1]:
        raise ValueError(
            f"counts must give the samples of each state, adding up to those of energies (states, n), "
            f"got {list(counts)} for {tuple(energies.shape)}"
        )
    states = _pymbar().MBAR(energies.detach().double().cpu().numpy(), np.array(counts), solver_protocol="robust")
    result = states.compute_free_energy_differences()
    return torch.from_numpy(result["Delta_f"][0]), torch.from_numpy(result["dDelta_f"][0])


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
    _check_tensor("mode", mode)
    log_w = torch.zeros(len(mode), device=mode.device) if log_w is None else _vector("log_w", log_w, len(mode))
    w = log_w.softmax(0)
    return weighted_mean(w, torch.nn.functional.one_hot(mode, modes).to(w))


def weighted_mean(w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Σᵢ wᵢxᵢ and its standard error √(Σᵢ wᵢ²(xᵢ − mean)²), infinite where one sample has all the weight.

    Args:
        w: weights (n,) that add up to one.
        x: values (n, …).

    Example:
        >>> weighted_mean(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 3.0]))
        (tensor(2.), tensor(0.7071))
    """
    mean = torch.tensordot(w, x, 1)
    error = torch.tensordot(w.square(), (x - mean).square(), 1).sqrt()
    return mean, torch.where((w > 0).sum() > 1, error, torch.inf)


def histogram_overlap(
    a: Tensor, b: Tensor, log_w_a: Tensor | None = None, log_w_b: Tensor | None = None, bins: int = 60
) -> float:
    """Σ_bins min(p_a, p_b): the overlap of two histograms, of energies for instance; 1 where they are the same.

    Args:
        a, b: samples (n,) and (m,); those that are NaN or infinite are in no bin.
        log_w_a, log_w_b: their log-weights.
        bins: bins of equal width over all but the outermost 0.1 % of either; what lies beyond is in the outer ones, so
            that one far value does not make them so wide that all the others are in one.

    Example:
        >>> histogram_overlap(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]), bins=3)
        0.5
    """
    positive_integer("bins", bins)
    samples = []
    for name, x, log_w in (("a", a, log_w_a), ("b", b, log_w_b)):
        x = _vector(name, x).cpu()
        w = (
            torch.full_like(x, 1 / len(x))
            if log_w is None
            else _vector(f"log_w_{name}", log_w, len(x)).cpu().softmax(0)
        )
        x, order = x.sort()
        samples.append((x, torch.where(x.isfinite(), w[order], 0).nan_to_num(0.0)))
    ranges = [_central(x, w) for x, w in samples if w.any()]
    if not ranges:
        return 0.0
    low, high = min(first for first, _ in ranges), max(last for _, last in ranges)
    p = []
    for x, w in samples:
        place = ((x - low) / max(high - low, 1e-300)).nan_to_num(0.0).clamp(0, 1)
        p.append(torch.zeros(bins, dtype=x.dtype).index_add_(0, (place * bins).long().clamp(max=bins - 1), w))
    return torch.minimum(*p).sum().item()


def _central(x: Tensor, w: Tensor) -> tuple[float, float]:
    """Where 0.1 % of the weight lies below and above, of ascending x."""
    ends = torch.searchsorted(w.cumsum(0) / w.sum(), torch.tensor([1e-3, 1 - 1e-3], dtype=w.dtype))
    return tuple(x[ends.clamp(max=len(x) - 1)].tolist())


def radial_distribution(
    x: Tensor,
    box: Tensor | Sequence[float],
    y: Tensor | None = None,
    *,
    r_max: float | None = None,
    bins: int = 100,
    log_w: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """g(r) = V·⟨pairs with distance in the bin⟩/(pairs · volume of the bin's shell), with nearest images.

    Args:
        x: positions (frames, n, d) in a periodic box, d = 2 or 3. Pairs within one molecule count like all others: for
            molecules of several atoms give one site of each.
        box: edges (d,), in the unit of the positions.
        y: positions (frames, m, d) of another species, for g between the two; by default pairs within x.
        r_max: largest distance; half the shortest edge by default, which it must not exceed.
        bins: of equal width.
        log_w: log-weights (frames,); equal ones by default.

    Returns:
        Middles r (bins,) of the bins, and g (bins,).

    Raises:
        TypeError, ValueError: positions or weights that do not fit, an r_max beyond nearest images.

    Source: Understanding Molecular Simulation, 2002, Algorithm 7.

    Example:
        >>> x = torch.rand(20, 50, 3, generator=torch.Generator().manual_seed(0))
        >>> r, g = radial_distribution(x, (1.0, 1.0, 1.0), bins=5)
        >>> bool((g[1:] - 1).abs().max() < 0.1)  # an ideal gas
        True
    """
    for name, value in {"x": x, "y": x if y is None else y}.items():
        _check_tensor(name, value)
    positive_integer("bins", bins)
    box = torch.as_tensor(box, dtype=x.dtype, device=x.device)
    if x.dim() != 3 or x.shape[-1] not in (2, 3) or box.shape != x.shape[-1:]:
        raise ValueError(
            f"x must have shape (frames, n, d) with d = 2 or 3 and box d edges, "
            f"got {tuple(x.shape)} and {tuple(box.shape)}"
        )
    half = 0.5 * box.min().item()
    r_max = half if r_max is None else r_max
    if not 0 < r_max <= half * (1 + 1e-6):
        raise ValueError(f"r_max must be positive and at most half the shortest edge, {half:g}, got {r_max}")
    frames, n, d = x.shape
    other = x if y is None else y
    if other.dim() != 3 or other.shape[::2] != (frames, d) or frames == 0:
        raise ValueError(f"y must have as many frames as x {tuple(x.shape)}, at least one, got {tuple(other.shape)}")
    pairs = n * (n - 1) if y is None else n * other.shape[1]
    if pairs == 0:
        raise ValueError(f"x and y must have a pair of particles, got {tuple(x.shape)} and {tuple(other.shape)}")
    w = x.new_full((frames,), 1 / frames) if log_w is None else _vector("log_w", log_w, frames).to(x).softmax(0)
    counts = torch.zeros(bins, dtype=torch.float64, device=x.device)
    for i in range(frames):  # all distances of all frames would be much memory
        difference = x[i].unsqueeze(-2) - other[i]
        r = torch.linalg.vector_norm(difference - box * (difference / box).round(), dim=-1)
        if y is None:
            r = r.fill_diagonal_(torch.inf)
        counts += w[i] * torch.histc(r, bins, 0.0, r_max)
    edges = torch.linspace(0, r_max, bins + 1, dtype=torch.float64, device=x.device)
    shells = (math.pi if d == 2 else 4 * math.pi / 3) * edges.pow(d).diff()
    return ((edges[1:] + edges[:-1]) / 2).to(x), (counts * box.prod().double() / (pairs * shells)).to(x)


def _log_mean_exp(x: Tensor) -> Tensor:
    return x.logsumexp(0) - math.log(len(x))


def _check_log_weights(log_w: Tensor) -> int:
    _check_tensor("log_w", log_w)
    if log_w.dim() == 0 or log_w.shape[-1] == 0:
        raise ValueError(f"log_w must hold at least one log-weight, (..., n), got shape {tuple(log_w.shape)}")
    return log_w.shape[-1]


def _check_tensor(name: str, x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")


def _vector(name: str, x: Tensor, n: int | None = None) -> Tensor:
    """x (n,), n > 0, in float64 without gradient."""
    _check_tensor(name, x)
    if x.dim() != 1 or len(x) != (n or len(x)) or len(x) == 0:
        expected = "(n,), n > 0" if n is None else f"({n},)"
        raise ValueError(f"{name} must be a tensor of shape {expected}, got {tuple(x.shape)}")
    return x.detach().double()


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
