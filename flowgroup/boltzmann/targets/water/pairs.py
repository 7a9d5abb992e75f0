"""Sums over all pairs of molecules of a periodic box, without a list of them, and their gradients.

Positions come as (3, S, N, B): in units of the box's edges, for S sites of each of N molecules, the batch last, so that
the innermost loops of all that follows run over neighbours in memory. Molecule i meets those at i + 1, …, i + N//2
around the ring of molecules; what belongs to pairs is (site of it, site of the other, shift, molecule, batch).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from flowgroup._checks import values_readable

CACHED = 2**19  # bytes of a tensor that a CPU works on: several stay in its cache, none is new memory at every turn


def sum_over_pairs(
    function: Callable[[Tensor], tuple[Tensor, Tensor | None]],
    s: Tensor,
    factors: Tensor,
    edges: Sequence[float],
    reach: float,
) -> tuple[Tensor, Tensor | None]:
    """Σ factor·f(r²) over the sites of all pairs of molecules, r to the nearest image, and its gradient.

    Where a CPU may look at the values, f is asked only for pairs of sites that are within `reach` in one of the boxes.

    Args:
        function: of r² (P, B), gives f and f′, or None for no gradient.
        s: positions (3, S, N, B) in units of the edges.
        factors: of pairs of sites (S, S).
        edges: of the orthorhombic box (3,).
        reach: beyond which f is zero, in the unit of the edges.

    Returns:
        The sum (B,) and the gradient with respect to s (3, S, N, B).

    Example:
        >>> s = torch.tensor([0.1, 0.9]).view(2, 1).expand(3, 1, 2, 1)
        >>> sum_over_pairs(lambda r2: (r2, None), s, torch.ones(1, 1), (1.0, 1.0, 1.0), 0.5)[0]  # over the border
        tensor([0.1200])
    """
    sites, n, batch = s.shape[1:]
    half, looks = n // 2, s.device.type == "cpu" and values_readable(s) and s.numel() > 0
    size = max(1, CACHED // (s.element_size() * sites**2 * n * batch) if looks else half)
    ring = torch.cat([s, s[:, :, :half]], 2)
    total, gradient = s.new_zeros(batch), torch.zeros_like(ring)
    for start in range(1, half + 1, size):
        shifts = range(start, min(start + size, half + 1))
        others = torch.stack([ring[:, :, shift : shift + n] for shift in shifts], 2)
        d, r2 = _displacements(s, others, edges)
        # the shift by half the ring meets every pair from both ends
        ends = factors.new_tensor([0.5 if 2 * shift == n else 1.0 for shift in shifts])
        weights, shape, r2 = (factors.unsqueeze(-1) * ends).flatten(), r2.shape, r2.flatten(0, 3)
        if looks:  # also at positions that are NaN
            near = (~(r2.detach().amin(-1) > reach * reach)).nonzero().squeeze(-1)
            r2, weights = r2.index_select(0, near), weights.index_select(0, near // n)
        else:
            weights = weights.repeat_interleave(n)
        value, slope = function(r2)
        total = total + weights @ value
        if slope is None:
            continue
        slope = slope * weights.unsqueeze(-1)
        if looks:
            slope = slope.new_zeros(shape).flatten(0, 3).index_copy(0, near, slope)
        by_d = [x * slope.view(shape) for x in d]
        gradient[:, :, :n] -= torch.stack([g.sum((1, 2)) for g in by_d])
        for shift, g in zip(shifts, torch.stack([g.sum(0) for g in by_d]).unbind(2)):
            gradient[:, :, shift : shift + n] += g
    gradient[:, :, :half] += gradient[:, :, n:]
    return total, gradient[:, :, :n] * (2 * s.new_tensor(edges) ** 2).view(3, 1, 1, 1)


def _displacements(s: Tensor, others: Tensor, edges: Sequence[float]) -> tuple[list[Tensor], Tensor]:
    """To the nearest image of the others (3, S, K, N, B): three times (S, S, K, N, B), and the squared length."""
    d, r2 = [], 0
    for mine, other, edge in zip(s, others, edges):
        x = other.unsqueeze(0) - mine[:, None, None]
        x -= x.round()
        d.append(x)
        r2 = torch.addcmul(r2, x, x, value=edge**2) if d[1:] else edge**2 * x.square()
    return d, r2
