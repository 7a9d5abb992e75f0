"""Bonds, angles and torsions of a molecule in place of the positions of its atoms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flowgroup.flows.transform import Transform
from flowgroup.manifolds import Euclidean, Product, Torus
from flowgroup.manifolds.conformations import Conformations
from flowgroup.manifolds.constraints import wrap
from flowgroup.manifolds.torus import circular_mean


class InternalCoordinates(Transform):
    """y = (τ, 2 tan((τ − τ₀)/2) of stiff torsions, log tan(θ/2) of angles, log r of bonds); logdet = log(dy/dvol).

    Every atom i of the Z-matrix but the first three has a distance to atom j, an angle i–j–k and a torsion i–j–k–l,
    counted positive as chemists do, and dvol = Π r² dr · Π sin θ dθ · Π dτ. Position and orientation are taken out:
    any pose of x gives the same y, and the inverse gives x with the first atom at the origin, the second on the
    positive z-axis and the third in the half-plane y = 0, x > 0. The volume is that of positions, rigid motions taken
    out (`flowgroup.manifolds.conformations.Conformations`), so that e^{−u(x)} needs no correction.

    Angles, bond lengths and stiff torsions are taken to the whole line, so that every y is a molecule and every
    molecule a y. Bonds at an angle of 0 or π leave torsions without a meaning, and logdet is infinite there. The
    inverse places all atoms of one generation at once: those whose three references are there.

    Args:
        z_matrix: rows (i, j, k, l) of atoms, each atom once and after those it refers to; entries that the first three
            rows have no use for are ignored. `z_matrix` below makes one from bonds.
        stiff: the value τ₀ of the torsion of each atom i that stays near it, as `stiff_torsions` finds them: only the
            others are angles on circles, and the first of y.

    Attributes:
        atoms: number n of atoms; y has n − 3 torsions, n − 2 angles and n − 1 bonds, each in the order of the rows.
        torsions: how many of the torsions are angles on circles.
        manifold: the space of x.

    Raises:
        ValueError: rows that are no Z-matrix of at least three atoms, stiff torsions of atoms that have none.

    Source: Boltzmann Generators: Sampling Equilibrium States of Many-Body Systems with Deep Learning, 2019, arXiv
        1812.01729, for the use; Practical conversion from torsion space to Cartesian space for in silico protein
        synthesis, 2005, Parsons and others, for the placement of atoms.

    Example:
        >>> peroxide = InternalCoordinates([(1, -1, -1, -1), (2, 1, -1, -1), (0, 1, 2, -1), (3, 2, 1, 0)])
        >>> y, logdet = peroxide(torch.randn(5, 4, 3))
        >>> y.shape, logdet.shape, peroxide.inverse(y)[0].shape
        (torch.Size([5, 6]), torch.Size([5]), torch.Size([5, 4, 3]))
    """

    def __init__(self, z_matrix: Sequence[Sequence[int]] | Tensor, stiff: Mapping[int, float] | None = None):
        super().__init__()
        rows = [[int(entry) for entry in row] for row in z_matrix]
        _check_z_matrix(rows)
        n = self.atoms = len(rows)
        self.manifold = Conformations(n, [row[0] for row in rows[:3]])
        self.domain = self.manifold.constraint
        self.in_shape, self.out_shape = (n, 3), (3 * n - 6,)
        stiff = dict(stiff or {})
        if not {row[0] for row in rows[3:]}.issuperset(stiff):
            raise ValueError(f"stiff must name atoms that have a torsion, those of row 3 on, got {sorted(stiff)}")
        soft = self.torsions = n - 3 - len(stiff)
        line = Euclidean(3 * n - 6 - soft)
        self.codomain = Product(*([Torus(soft)] if soft else []), line).constraint
        self._sizes = (soft, n - 3 - soft, n - 2, n - 1)
        # soft torsions first
        sorting = sorted(range(n - 3), key=lambda m: (rows[3 + m][0] in stiff, m))
        self._register("_sorting", sorting)
        self._register("_unsorting", [sorting.index(m) for m in range(n - 3)])
        self._register("_centres", [float(stiff[rows[3 + m][0]]) for m in sorting[soft:]], torch.float64)

        # references by their place in the order of generations; the third atom is alone in having no torsion
        generation = dict.fromkeys((row[0] for row in rows[:3]), 0)
        for i, *references in rows[3:]:
            generation[i] = 1 + max(generation[r] for r in references)
        order = sorted(range(n), key=lambda m: (generation[rows[m][0]], m))
        place = {rows[m][0]: p for p, m in enumerate(order)}
        self._third_on_second = rows[2][1] == rows[1][0]
        self._counts = [
            sum(g == level for g in generation.values()) for level in range(1, max(generation.values()) + 1)
        ]
        self._register("_references", [[place[r] for r in rows[m][1:]] for m in order[3:]])
        self._register("_rows", order)
        self._register("_atoms", [place[atom] for atom in range(n)])
        self._register("_z_matrix", [row + [0] * (4 - len(row)) for row in rows])

    def _register(self, name: str, values: list, dtype: torch.dtype = torch.long) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self._checked("x", x, context)
        z = self._z_matrix
        i, j = _atoms(x, z[1:, 0]), _atoms(x, z[1:, 1])
        bond = i - j
        length = torch.linalg.vector_norm(bond, dim=-1)
        k = _atoms(x, z[2:, 2])
        axis = F.normalize(k - j[..., 1:, :], dim=-1)
        unit = bond[..., 1:, :] / length[..., 1:, None]
        # tan(θ/2) = |a − b|/|a + b| of unit vectors: digits are kept at both ends
        angle = (unit - axis).square().sum(-1).log() / 2 - (unit + axis).square().sum(-1).log() / 2
        v, axis = unit[..., 1:, :], axis[..., 1:, :]
        w = _atoms(x, z[3:, 3]) - k[..., 1:, :]
        normal = torch.linalg.cross(axis, v)
        torsion = torch.atan2((normal * w).sum(-1), (normal * torch.linalg.cross(axis, w)).sum(-1))
        log_length = length.log()
        soft, stiff = torsion.index_select(-1, self._sorting).split(self._sizes[:2], -1)
        stiff = 2 * ((stiff - self._centres.to(x.dtype)) / 2).tan()
        y = torch.cat((soft, stiff, angle, log_length), -1)
        return y, -_log_volume(stiff, angle, log_length)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self._checked("y", y, context, inverse=True)
        soft, stiff, angle, log_length = y.split(self._sizes, -1)
        torsion = torch.cat((soft, 2 * (stiff / 2).atan() + self._centres.to(y.dtype)), -1)
        torsion = torsion.index_select(-1, self._unsorting)
        r = log_length.exp()
        cosine, sine = -angle.tanh(), 1 / angle.cosh()
        x = self._first_three(r, cosine[..., 0], sine[..., 0])
        # (r cos θ, r sin θ cos φ, r sin θ sin φ) along the axes of each atom's references, in the order of generations
        outward = r[..., 2:] * sine[..., 1:]
        local = torch.stack((r[..., 2:] * cosine[..., 1:], outward * torsion.cos(), outward * torsion.sin()), -1)
        local = local.index_select(-2, self._rows[3:] - 3)
        for references, along in zip(self._references.split(self._counts), local.split(self._counts, -2)):
            j, k, far = (_atoms(x, index) for index in references.unbind(-1))
            e1 = F.normalize(k - j, dim=-1)
            out = far - k
            e2 = F.normalize(out - (out * e1).sum(-1, keepdim=True) * e1, dim=-1)
            axes = torch.stack((e1, e2, torch.linalg.cross(e2, e1)), -1)
            x = torch.cat((x, j + (axes @ along.unsqueeze(-1)).squeeze(-1)), -2)
        return _atoms(x, self._atoms), _log_volume(stiff, angle, log_length)

    def _first_three(self, r: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """The first at the origin, the second on the z-axis, the third in the plane y = 0."""
        height, zero = r[..., 0], torch.zeros_like(sine)
        third = height - r[..., 1] * cosine if self._third_on_second else r[..., 1] * cosine
        entries = (zero, zero, zero, zero, zero, height, r[..., 1] * sine, zero, third)
        return torch.stack(entries, -1).unflatten(-1, (3, 3))

    def extra_repr(self) -> str:
        return f"{self.atoms} atoms in {1 + len(self._counts)} generations, {self.torsions} torsions on circles"


def stiff_torsions(
    z_matrix: Sequence[Sequence[int]] | Tensor, x: Tensor, spread: float = math.pi / 2
) -> dict[int, float]:
    """{i: mean of the torsion of atom i}, of those torsions that never differ from it by more than `spread`.

    Args:
        z_matrix: as `InternalCoordinates` takes it.
        x: positions (samples, n, 3).
        spread: in radians, below π.

    Example:
        >>> rows = z_matrix([(0, 1), (1, 2), (2, 3)])
        >>> trans = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, -1.0, 0.0]])
        >>> {i: abs(round(tau, 2)) for i, tau in stiff_torsions(rows, trans + 0.01 * torch.randn(9, 4, 3)).items()}
        {3: 3.1...}
    """
    torsion = InternalCoordinates(z_matrix)(x)[0][..., : len(z_matrix) - 3]
    weights = torch.full_like(torsion[..., :1], 1 / len(torsion))
    mean = circular_mean(torsion, weights, 0)
    stiff = wrap(torsion - mean).abs().amax(0) <= spread
    return {int(row[0]): m for row, m, is_stiff in zip(z_matrix[3:], mean.tolist(), stiff.tolist()) if is_stiff}


def z_matrix(bonds: Iterable[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    """Rows (i, j, k, l) for `InternalCoordinates` along the bonds of one molecule, from its middle outwards.

    Of the atoms bonded to one atom j, and placed after it, the first has a torsion about the bond j–k. The others have
    their torsions relative to that first one, l: they tell the shape of a tetrahedron or a plane and hardly move, so
    that a rotation about j–k is one coordinate and not several that must agree.

    Args:
        bonds: pairs of bonded atoms, numbered from 0 without gaps. Bonds that close rings beyond a tree are left out.
            Those of an OpenMM topology are `[(a.index, b.index) for a, b in topology.bonds()]`.

    Returns:
        A row for every atom; −1 stands for what the first three have no use for.

    Raises:
        ValueError: fewer than three atoms, numbers with gaps, or bonds that do not connect them all.

    Example:
        >>> z_matrix([(0, 1), (1, 2), (2, 3)])
        [(1, -1, -1, -1), (2, 1, -1, -1), (0, 1, 2, -1), (3, 2, 1, 0)]
    """
    pairs = [(int(i), int(j)) for i, j in bonds]
    atoms = sorted({i for pair in pairs for i in pair})
    if len(atoms) < 3 or atoms != list(range(len(atoms))):
        raise ValueError(f"bonds must be among at least three atoms numbered from 0 without gaps, got atoms {atoms}")
    bonded: list[list[int]] = [[] for _ in atoms]
    for i, j in pairs:
        bonded[i].append(j)
        bonded[j].append(i)
    for near in bonded:  # the busiest first: chains before the hydrogen atoms on them
        near.sort(key=lambda i: (-len(bonded[i]), i))

    first = max(atoms, key=lambda i: (sum(len(bonded[j]) for j in bonded[i]), -i))
    second = bonded[first][0]
    rows = [(first, -1, -1, -1), (second, first, -1, -1)]
    parent = {first: second, second: first}  # k of the atoms placed on each
    children: dict[int, list[int]] = {i: [] for i in atoms}
    queue = [first, second]
    for j in queue:
        for i in bonded[j]:
            if i in parent:
                continue
            k = parent[j]
            far = [a for a in (*children[j], *children[k], parent[k]) if a not in (i, j, k)]
            rows.append((i, j, k, -1 if len(rows) == 2 else far[0]))
            parent[i] = j
            children[j].append(i)
            queue.append(i)
    if len(rows) < len(atoms):
        raise ValueError(f"bonds must connect all atoms, but {len(atoms) - len(rows)} of {len(atoms)} are apart")
    return rows


def _check_z_matrix(rows: list[list[int]]) -> None:
    if len(rows) < 3:
        raise ValueError(f"z_matrix must have at least three rows, got {len(rows)}")
    placed: set[int] = set()
    for m, row in enumerate(rows):
        used = min(m, 3)
        references = row[1 : 1 + used]
        if len(references) < used or len(set(references)) < used or not placed.issuperset(references):
            raise ValueError(
                f"z_matrix must refer to {used} different atoms of earlier rows in row {m}, got {tuple(row)}"
            )
        placed.add(row[0])
    if placed != set(range(len(rows))):
        raise ValueError(f"z_matrix must have every atom from 0 to {len(rows) - 1} once, got {[r[0] for r in rows]}")


def _atoms(x: Tensor, index: Tensor) -> Tensor:
    return x.index_select(-2, index)


def _log_volume(stiff: Tensor, angle: Tensor, log_length: Tensor) -> Tensor:
    """log(dvol/dy) = Σ log r³ + Σ log sin²θ + Σ log cos²((τ − τ₀)/2), where sin θ = 1/cosh(log tan(θ/2))."""
    size = angle.abs()
    log_cosh = size + F.softplus(-2 * size) - math.log(2)
    return 3 * log_length.sum(-1) - 2 * log_cosh.sum(-1) - (stiff / 2).square().log1p().sum(-1)
