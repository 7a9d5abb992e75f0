"""Crystals of water."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowgroup._checks import positive_integer
from flowgroup.boltzmann.targets.water.geometry import sites_to_bodies

# Fractions of the cell. The oxygens of two molecules, the bonds that their hydrogens lie on, and what makes the other
# six of them: x ↦ signs·x + shift
_OXYGENS = [[1 / 2, 0, 1 / 8], [1 / 2, 1 / 3, 0]]
_BONDS = [[[1 / 2, -1 / 6, -1 / 8], [0, 1 / 3, -1 / 8]], [[1 / 2, 1 / 6, 1 / 8], [0, 0, -3 / 8]]]
_SIGNS = [[1, 1, 1], [-1, -1, 1], [1, -1, -1], [-1, 1, -1]]
_SHIFTS = [[0, 0, 0], [1, 1 / 3, 1 / 2], [1 / 2, 5 / 6, 1 / 8], [1 / 2, 1 / 2, 5 / 8]]


def ice_xi(
    cells: Sequence[int] = (2, 1, 1),
    edges: Sequence[float] = (0.44923, 0.77808, 0.73358),
    *,
    dtype: torch.dtype | None = None,
    device=None,
) -> tuple[Tensor, Tensor]:
    """A crystal of proton-ordered ice: oxygens where those of ice Ih are, hydrogens on the bonds between them.

    The cell of eight molecules has the symmetry P2₁2₁2₁ and no dipole: hydrogens are in the antiferroelectric order
    that simulations of ice XI often start from. Molecules are near the energy minimum of a water model, not at it.

    Args:
        cells: how many cells along each edge: (2, 1, 1) makes 16 molecules and (4, 2, 2) makes 128.
        edges: edges of the cell in nm, by default those of TIP4P-Ew ice.
        dtype, device: of the results.

    Returns:
        Bodies (N, 7), N = 8 × the number of cells, and the edges of the box (3,) in nm.

    Raises:
        ValueError: cells that are not three positive integers, edges that are not three positive numbers.

    Example:
        >>> from flowgroup.boltzmann import RigidWater
        >>> bodies, box = ice_xi((2, 1, 1))
        >>> bodies.shape, box
        (torch.Size([16, 7]), tensor([0.8985, 0.7781, 0.7336]))
        >>> round(RigidWater(16, box, temperature=100.0).potential(bodies).item() / 16, 1)  # kJ/mol per molecule
        -61.7
    """
    cells = [positive_integer("cells", count) for count in cells]
    if len(cells) != 3 or len(edges) != 3 or not all(edge > 0 for edge in edges):
        raise ValueError(f"cells and edges must be three positive numbers each, got {cells} and {tuple(edges)}")
    oxygens, bonds, signs, shifts, edge = (
        torch.tensor(rows, dtype=torch.float64) for rows in (_OXYGENS, _BONDS, _SIGNS, _SHIFTS, list(edges))
    )
    sites = torch.cat([oxygens.unsqueeze(1), oxygens.unsqueeze(1) + bonds], 1)
    molecules = (signs[:, None, None] * sites + shifts[:, None, None]).flatten(0, 1)
    molecules = molecules - molecules[:, :1].floor()  # oxygens in the cell, molecules whole
    corners = torch.cartesian_prod(*(torch.arange(count, dtype=torch.float64) for count in cells))
    molecules = (corners[:, None, None] + molecules).flatten(0, 1)
    box = edge * torch.tensor(cells, dtype=torch.float64)
    bodies = sites_to_bodies(molecules * edge)
    like = {"dtype": dtype or torch.get_default_dtype(), "device": device}
    return bodies.to(**like), box.to(**like)
