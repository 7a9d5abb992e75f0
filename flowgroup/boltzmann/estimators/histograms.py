"""Histograms of samples: of their values, and of distances between particles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from flowgroup._checks import positive_integer
from flowgroup.boltzmann.estimators.arguments import check_tensor, vector


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
        x = vector(name, x).cpu()
        w = torch.full_like(x, 1 / len(x)) if log_w is None else vector(f"log_w_{name}", log_w, len(x)).cpu().softmax(0)
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
        check_tensor(name, value)
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
    w = x.new_full((frames,), 1 / frames) if log_w is None else vector("log_w", log_w, frames).to(x).softmax(0)
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
