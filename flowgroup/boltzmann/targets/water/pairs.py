"""All pairs of molecules of a periodic box, each pair once, without a list of them.

Positions come as (3, N, S, B): in units of the box's edges, for S sites of each of N molecules, the batch last, so that
the innermost loops of all that follows run over neighbours in memory. Molecule i meets those at i + 1, …, i + N//2
around the ring of molecules: pairs are (shift, molecule, site of it, site of the other, batch).
"""

from __future__ import annotations

import torch
from torch import Tensor


def displacements(s: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
    """d = sⱼ − sᵢ to the nearest image, and r² = |box·d|².

    Args:
        s: positions (3, N, S, B) in units of the box's edges.
        box: edges (3,) of the orthorhombic box.

    Returns:
        d (3, N//2, N, S, S, B) and r² (N//2, N, S, S, B).

    Example:
        >>> d, r2 = displacements(torch.tensor([0.0, 0.9]).expand(3, 2).view(3, 2, 1, 1), torch.ones(3))
        >>> r2.flatten()  # across the border; both orders, each to count half
        tensor([0.0300, 0.0300])
    """
    n = s.shape[1]
    molecule = torch.arange(n, device=s.device)
    others = (molecule + molecule[1 : n // 2 + 1].unsqueeze(-1)) % n
    d = s.index_select(1, others.flatten()).unflatten(1, (-1, n)).unsqueeze(3) - s[:, None, :, :, None]
    d = d - d.round()
    x, y, z = d.unbind(0)
    a, b, c = box.square().unbind()
    return d, torch.addcmul(torch.addcmul(a * x * x, b * y, y), c * z, z)


def shift_weights(n: int, like: Tensor) -> Tensor:
    """(n//2,) ones, the last a half for even n: that shift meets every pair from both ends.

    Example:
        >>> shift_weights(4, torch.zeros(()))
        tensor([1.0000, 0.5000])
    """
    weights = like.new_ones(n // 2)
    if n % 2 == 0:
        weights[-1] = 0.5
    return weights


def gather_gradient(g: Tensor) -> Tensor:
    """The gradient with respect to s, from that with respect to d: the transpose of `displacements`.

    Args:
        g: (3, N//2, N, S, S, B).

    Returns:
        (3, N, S, B).
    """
    n, shifts = g.shape[2], g.shape[1]
    to_others = g.sum(3)
    ring = torch.nn.functional.pad(-g.sum(4).sum(1), (0, 0, 0, 0, 0, shifts))
    for shift in range(shifts):
        ring[:, shift + 1 : shift + 1 + n] += to_others[:, shift]
    ring[:, :shifts] += ring[:, n:]
    return ring[:, :n]
