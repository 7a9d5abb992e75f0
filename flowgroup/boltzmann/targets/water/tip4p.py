"""Rigid four-site water in a periodic box."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowgroup._checks import check_event_shape, positive_integer, values_readable
from flowgroup.boltzmann.targets.base import Target
from flowgroup.boltzmann.targets.water.ewald import Ewald
from flowgroup.boltzmann.targets.water.geometry import bodies_to_sites
from flowgroup.boltzmann.targets.water.lennard_jones import SwitchedLennardJones
from flowgroup.boltzmann.targets.water.pairs import CACHED
from flowgroup.boltzmann.units import BOLTZMANN, LOG_ROTATIONS
from flowgroup.linalg._parallel import parallel
from flowgroup.manifolds import RigidBodies

OH, HOH = 0.09572, math.radians(104.52)  # nm; of all models here


class WaterModel(NamedTuple):
    """An oxygen with the Lennard-Jones energy, two charged hydrogens, and the opposite charge on their bisector."""

    sigma: float  # nm
    epsilon: float  # kJ/mol
    charge: float  # of a hydrogen, e
    bisector: float  # weight w of a hydrogen in the site of the negative charge, O + w(H − O) + w(H′ − O)


MODELS = {
    "tip4p-ew": WaterModel(sigma=0.316435, epsilon=0.680946, charge=0.52422, bisector=0.106676721),
    "tip4p-ice": WaterModel(sigma=0.31668, epsilon=0.88211, charge=0.5897, bisector=0.134583351),
}


class RigidWater(Target):
    """u(x) = (E_Coulomb + E_LJ + E_dispersion)/kT of rigid TIP4P water in a periodic orthorhombic box.

    x holds, for each molecule, the position of its oxygen in nm and a quaternion (w, x, y, z) that turns its `frame`
    into place; quaternions are taken at length one, so that gradients have no part along them. Molecules may lie in any
    image of the box. Oxygens have a Lennard-Jones energy that is switched off between `switch` and `cutoff`, with the
    isotropic correction for what that leaves out; charges have a converged Ewald sum.

    Args:
        molecules: N.
        box: edges (3,) of the box in nm.
        model: "tip4p-ew" or "tip4p-ice".
        temperature: T in kelvin.
        cutoff: of the Lennard-Jones energy in nm; None takes 1 nm or half the shortest edge, whichever is less.
        switch: where switching begins, in nm; None takes 0.9 of the cutoff.
        dispersion_correction: whether to add the mean of what the cutoff leaves out.
        accuracy: error of the Ewald sum in kJ/mol for each molecule, within a factor of five. 1e-5 is quicker, and less
            than float32 can tell.

    Attributes:
        frame: sites O, H, H, M (4, 3) of a molecule at rest, in nm: oxygen at zero, bisector along z, hydrogens in the
            xz plane.

    Raises:
        ValueError: an argument out of its range: an unknown model, a cutoff beyond half the shortest edge, a switch
            beyond the cutoff, an accuracy outside of [1e-12, 1].

    Source: Development of an improved four-site water model for biomolecular simulations: TIP4P-Ew, 2004, doi
        10.1063/1.1683075; A potential model for the study of ices and amorphous water: TIP4P/Ice, 2005, doi
        10.1063/1.1931662.

    Example:
        >>> target = RigidWater(2, (2.0, 2.0, 2.0), temperature=300.0)
        >>> x = torch.tensor([[0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0]])
        >>> round(target.energy(x).item(), 3)
        -6.255
    """

    validate_args = False  # quaternions need not have length one

    def __init__(
        self,
        molecules: int,
        box: Sequence[float] | Tensor,
        model: str = "tip4p-ew",
        *,
        temperature: float,
        cutoff: float | None = None,
        switch: float | None = None,
        dispersion_correction: bool = True,
        accuracy: float = 1e-8,
    ):
        super().__init__()
        n = positive_integer("molecules", molecules)
        edges = np.array(box.tolist() if isinstance(box, Tensor) else box, dtype=float)
        if edges.shape != (3,) or not all(0 < edge < math.inf for edge in edges):
            raise ValueError(f"box must be three positive edges in nm, got {box!r}")
        if model not in MODELS:
            raise ValueError(f"model must be one of {', '.join(map(repr, MODELS))}, got {model!r}")
        half = float(edges.min()) / 2
        cutoff = min(1.0, half) if cutoff is None else cutoff
        if not 0 < cutoff <= half:
            raise ValueError(f"cutoff must be positive and at most half the shortest edge, {half:g} nm, got {cutoff!r}")
        switch = 0.9 * cutoff if switch is None else switch
        if not 0 < switch < cutoff:
            raise ValueError(f"switch must lie between 0 and the cutoff, {cutoff:g} nm, got {switch!r}")
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, in kelvin, got {temperature!r}")
        if not 1e-12 <= accuracy <= 1:
            raise ValueError(f"accuracy must lie in [1e-12, 1], in kJ/mol, got {accuracy!r}")

        parameters = MODELS[model]
        self.molecules, self.model, self.temperature, self.accuracy = n, model, temperature, accuracy
        self.event_shape = torch.Size((n, 7))
        self.log_unit_volume = n * LOG_ROTATIONS
        self.support = RigidBodies(n, edges).constraint
        x, z = OH * math.sin(HOH / 2), OH * math.cos(HOH / 2)
        frame = [[0.0, 0.0, 0.0], [x, 0.0, z], [-x, 0.0, z], [0.0, 0.0, 2 * z * parameters.bisector]]
        self.register_buffer("frame", torch.tensor(frame, dtype=torch.float64))
        self.register_buffer("box", torch.as_tensor(edges))
        self.edges = edges.tolist()

        q = parameters.charge
        self.ewald = Ewald((q, q, -2 * q), frame[1:], edges, half, accuracy)
        self.lennard_jones = SwitchedLennardJones(parameters.sigma, parameters.epsilon, cutoff, switch)
        # the mean over all pairs of sites, an oxygen and its own image among them, as molecular dynamics codes take it
        pairs = 4 * n * n * (n + 1) / (4 * n + 1) / 2
        self.dispersion = pairs * self.lennard_jones.tail() / float(edges.prod()) if dispersion_correction else 0.0

    @property
    def kT(self) -> float:  # noqa: N802
        """In kJ/mol."""
        return BOLTZMANN * self.temperature

    def sites(self, x: Tensor) -> Tensor:
        """Sites O, H, H, M (..., N, 4, 3) in nm of bodies x (..., N, 7)."""
        check_event_shape("x", x, tuple(self.event_shape))
        return bodies_to_sites(x, self.frame.to(x))

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        """The energies "lennard_jones", "dispersion" and "coulomb" in kJ/mol, each of the batch shape."""
        (lennard_jones, _), (near, _), (far, _) = self._terms(self._scaled(x))
        energies = lennard_jones, torch.full_like(near, self.dispersion), near + far
        return {
            name: energy.reshape(x.shape[:-2])
            for name, energy in zip(("lennard_jones", "dispersion", "coulomb"), energies)
        }

    def potential(self, x: Tensor) -> Tensor:
        """The energy in kJ/mol, of the batch shape."""
        s = self._scaled(x)
        if values_readable(s) and torch.is_grad_enabled() and s.requires_grad:
            energy = _Energy.apply(s, self)[0]
        else:
            energy = sum(energy for energy, _ in self._terms(s))
        return (energy + self.dispersion).reshape(x.shape[:-2])

    def _energy(self, x: Tensor) -> Tensor:
        return self.potential(x) / self.kT

    def extra_repr(self) -> str:
        box, lj = "×".join(f"{edge:g}" for edge in self.edges), self.lennard_jones
        cut = f"cutoff={lj.cutoff:g}, switch={lj.switch:g}, accuracy={self.accuracy:g}"
        return f"{self.molecules} {self.model}, {box} nm, {cut}"

    def _scaled(self, x: Tensor) -> Tensor:
        """Sites (3, 4, N, B) in units of the box's edges, as `pairs` wants them."""
        sites = self.sites(x) / self.box.to(x)
        return sites.reshape(-1, *sites.shape[-3:]).permute(3, 2, 1, 0).contiguous()

    def _terms(self, s: Tensor, gradient: bool = False) -> list[tuple[Tensor, Tensor | None]]:
        """Energies (B,) in kJ/mol of Lennard-Jones, near and far charges, and derivatives with respect to their sites.

        A CPU takes as many boxes at a time as its cache holds (but enough for vectors), another device as many as keep
        it busy.
        """
        numbers = CACHED // s.element_size() if s.device.type == "cpu" else 2**25
        pairs, waves = max(1, self.molecules**2 // 2), 3 * self.molecules * len(self.ewald.weight)
        oxygens, charges = s[:, :1], s[:, 1:]
        return [
            _in_slices(lambda part: self.lennard_jones(part, self.edges, gradient), oxygens, max(32, numbers // pairs)),
            _in_slices(lambda part: self.ewald.near(part, gradient), charges, max(32, numbers // (9 * pairs))),
            _in_slices(lambda part: self.ewald.far(part, gradient), charges, max(1, 2 * numbers // waves)),
        ]


def _in_slices(term: Callable, s: Tensor, size: int) -> tuple[Tensor, Tensor | None]:
    """What a term gives for the batch, from `size` boxes at a time where the code runs as it stands."""
    if not values_readable(s):
        return term(s)
    energies, gradients = zip(*(term(part) for part in s.split(size, -1)))
    return torch.cat(energies), None if gradients[0] is None else torch.cat(gradients, -1)


class _Energy(torch.autograd.Function):
    """The energy with its gradient from one pass, which the backward pass then only scales."""

    @staticmethod
    def forward(ctx, s: Tensor, target: RigidWater) -> tuple[Tensor, Tensor]:
        def of_boxes(boxes: Tensor) -> tuple[Tensor, Tensor]:
            energy, gradient = _energy_and_gradient(boxes.movedim(0, -1).contiguous(), target)
            return energy, gradient.movedim(-1, 0)

        energy, gradient = parallel(of_boxes, s.movedim(-1, 0), least=2)
        gradient = gradient.movedim(0, -1)
        ctx.target = target
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(s, gradient)
        return energy, gradient

    @staticmethod
    def backward(ctx, by_energy: Tensor | None, by_gradient: Tensor | None):
        s, gradient = ctx.saved_tensors
        total = None if by_energy is None else by_energy * gradient
        if by_gradient is not None:  # of a derivative of the gradient: the Hessian is symmetric
            again = torch.is_grad_enabled()
            with torch.enable_grad():
                leaf = s if again else s.detach().requires_grad_()
                _, recomputed = _energy_and_gradient(leaf, ctx.target)
                (product,) = torch.autograd.grad(recomputed, leaf, by_gradient, create_graph=again)
            total = product if total is None else total + product
        return total, None


def _energy_and_gradient(s: Tensor, target: RigidWater) -> tuple[Tensor, Tensor]:
    (lennard_jones, by_oxygens), (near, by_near), (far, by_far) = target._terms(s, gradient=True)
    return lennard_jones + near + far, torch.cat([by_oxygens, by_near + by_far], 1)
