"""Flexible water molecules in a row of cages: a flow on their poses, beside one on their bonds and angles.

    python examples/flexible_water.py            # a minute or two of one core
    python examples/flexible_water.py --quick    # some seconds, to see that everything works

The channels of beryl, a mineral, hold single molecules of water in cages 0.46 nm apart, near enough to feel each
other's dipoles. Here the cages are harmonic wells. The flow sees atoms as poses and internal coordinates: splines move
bonds and angles, and a flow of rigid bodies moves positions and rotations under them. It learns from energies alone.
Its reference is plain Monte Carlo: molecules drawn at random as if they did not feel each other, and weighted.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from flowgroup import boltzmann, flows
from flowgroup.boltzmann.units import BOLTZMANN
from flowgroup.groups import quaternion_to_matrix
from flowgroup.manifolds import RigidBodies

BONDS = ((0, 1), (0, 2))  # of oxygen to the hydrogens
NAMES = ("energy between molecules, kT", "square of the polarisation", "length of an O–H bond, pm")


class WaterInCages(boltzmann.Target):
    """u = Σ ½k_r(r − r₀)² + ½k_θ(θ − θ₀)² + Lennard-Jones + Coulomb + harmonic wells for the oxygens, over kT.

    SPC/Fw: the poles of Coulomb's law lie where an oxygen would touch a hydrogen of another molecule, deep within the
    repulsion of the oxygens, and no sampler gets there.

    Args:
        cages: their centres (N, 3) in nm.
        width: standard deviation of an oxygen in its cage along each axis, in nm.
        temperature: in kelvin.

    Source: Flexible simple point-charge water model with improved liquid-state properties, 2006, doi 10.1063/1.2136877.
    """

    bond, bond_stiffness = 0.1012, 443153.3808  # nm, kJ/mol/nm²
    angle, angle_stiffness = math.radians(113.24), 317.5656  # radians, kJ/mol
    sigma, epsilon = 0.3165492, 0.6502994  # of two oxygens, in nm and kJ/mol
    charge = 0.41  # e of a hydrogen, −2 of them of an oxygen
    coulomb = 138.935457644382  # 1/4πε₀ in kJ/mol·nm/e²

    def __init__(self, cages: Tensor, width: float, temperature: float):
        super().__init__()
        self.molecules, self.width, self.temperature = len(cages), width, temperature
        self.event_shape = torch.Size((3 * len(cages), 3))
        self.kT = BOLTZMANN * temperature
        self.register_buffer("cages", cages)

    def alone(self, x: Tensor) -> Tensor:
        """The part of u that each molecule has in its cage."""
        o, r, angle = self.parts(x)
        stretch = 0.5 * self.bond_stiffness * (r - self.bond).square().sum((-2, -1))
        bend = 0.5 * self.angle_stiffness * (angle - self.angle).square().sum(-1)
        return (stretch + bend) / self.kT + 0.5 * ((o - self.cages) / self.width).square().sum((-2, -1))

    def together(self, x: Tensor) -> Tensor:
        """The part of u that molecules have between them."""
        atoms = x.unflatten(-2, (self.molecules, 3))
        i, j = torch.triu_indices(self.molecules, self.molecules, 1, device=x.device)
        squares = (atoms[..., i, :, None, :] - atoms[..., j, None, :, :]).square().sum(-1)
        q = self.charge * x.new_tensor([-2.0, 1.0, 1.0])
        six = (self.sigma**2 / squares[..., 0, 0]).pow(3)
        pairs = self.coulomb * (torch.outer(q, q) * squares.rsqrt()).sum((-2, -1)) + 4 * self.epsilon * six * (six - 1)
        return pairs.sum(-1) / self.kT

    def _energy(self, x: Tensor) -> Tensor:
        return self.alone(x) + self.together(x)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Oxygens (…, N, 3), lengths of bonds (…, N, 2), angles (…, N)."""
        atoms = x.unflatten(-2, (self.molecules, 3))
        bonds = atoms[..., 1:, :] - atoms[..., :1, :]
        a, b = bonds.unbind(-2)
        angle = torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(-1))
        return atoms[..., 0, :], bonds.norm(dim=-1), angle


def independent(target: WaterInCages, n: int) -> tuple[Tensor, Tensor]:
    """Molecules (n, 3N, 3) that do not feel each other, and log-weights (n,) that make them those of `target.alone`.

    Bonds and angles are drawn from normal distributions. With the volume r² dr for each bond, sin θ dθ for the angle
    and 8π² for the orientation, the mean weight is ∫ e^{−alone}.
    """
    size = (n, target.molecules)
    spread = [(target.kT / k) ** 0.5 for k in (target.bond_stiffness, target.angle_stiffness)]
    r = target.bond + spread[0] * torch.randn(*size, 2)
    angle = target.angle + spread[1] * torch.randn(size)
    zero = torch.zeros(size)
    first = torch.stack((zero, zero, r[..., 0]), -1)
    second = r[..., 1:] * torch.stack((angle.sin(), zero, angle.cos()), -1)
    still = torch.stack((torch.zeros_like(first), first, second), -2)
    R = quaternion_to_matrix(F.normalize(torch.randn(*size, 4), dim=-1))
    oxygens = target.cages + target.width * torch.randn(*size, 3)
    x = (oxygens.unsqueeze(-2) + still @ R.mT).flatten(1, 2)
    normal = math.log(2 * math.pi) / 2
    volume = 6 * normal + 3 * math.log(target.width) + 2 * math.log(spread[0]) + math.log(spread[1] * 8 * math.pi**2)
    return x, (2 * r.log().sum(-1) + angle.sin().log() + volume).sum(-1)


class InCages(flows.Transform):
    """Positions of bodies (N, 7) from the centres of their cages, in units of the width of these."""

    def __init__(self, cages: Tensor, width: float):
        super().__init__()
        self.in_shape = self.out_shape = (len(cages), 7)
        self.domain = self.codomain = RigidBodies(len(cages)).constraint
        self.register_buffer("cages", cages)
        self.width = width
        self.log_volume = 3 * len(cages) * math.log(width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        moved = (x[..., :3] - self.cages) / self.width
        return torch.cat((moved, x[..., 3:]), -1), x.new_full(x.shape[:-2], -self.log_volume)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        moved = y[..., :3] * self.width + self.cages
        return torch.cat((moved, y[..., 3:]), -1), y.new_full(y.shape[:-2], self.log_volume)


def water_flow(target: WaterInCages, transforms: int, width: int = 32) -> flows.Flow:
    """p(bonds and angles)·p(poses | bonds and angles): splines for the first, rigid-body flows for the second."""
    n = target.molecules
    atoms = flows.FlexibleMolecules(n, flows.z_matrix(BONDS))
    y = atoms(independent(target, 4000)[0])[0]
    internal = atoms.space.split(y)[0]
    spline = flows.RationalQuadraticSpline(bins=8, bound=5.0)
    vibrations = flows.Sequential(
        flows.Whitening(internal.mean(0), internal.var(0).diag()),
        flows.Coupling(spline, 3 * n, "checkerboard", hidden_features=(width,)),
        flows.Coupling(spline, 3 * n, "checkerboard-flipped", hidden_features=(width,)),
    )
    bodies = flows.RigidBodyFlow(n, transforms=transforms, context=3 * n, width=width, blocks=1)
    poses = flows.Sequential(InCages(target.cages, target.width), *bodies.transform.transforms)
    base = flows.Product(flows.DiagonalNormal(3 * n), bodies.base)
    return flows.Flow(flows.Sequential(atoms, flows.ChainRule(vibrations, poses)), base, validate_args=False)


def polarisation(x: Tensor) -> Tensor:
    """Mean over molecules of the cosine of dipole and row, (…): 1 where all point along it."""
    o, first, second = x.unflatten(-2, (-1, 3)).unbind(-2)
    return F.normalize(first + second - 2 * o, dim=-1)[..., 2].mean(-1)


def observables(target: WaterInCages, x: Tensor) -> Tensor:
    """What `NAMES` says, of configurations (…, 3N, 3): (…, 3)."""
    lengths = target.parts(x)[1].mean((-2, -1))
    return torch.stack((target.together(x), polarisation(x).square(), 1000 * lengths), -1)


def weighted(values: Tensor, log_w: Tensor) -> list[boltzmann.Estimate]:
    """Means of values (n, k) under log-weights (n,), with errors."""
    mean, error = boltzmann.weighted_mean(log_w.double().softmax(0), values.double())
    return [boltzmann.Estimate(*pair) for pair in zip(mean.tolist(), error.tolist())]


def picture(path: Path, samples: dict[str, tuple[Tensor, Tensor, Tensor]]) -> None:
    """Histograms of polarisations and energies with log-weights."""
    figure = Figure(figsize=(9, 3.4), dpi=120, layout="constrained")
    panels = figure.subplots(1, 2)
    styles = {"no interaction": {"color": "0.7"}, "plain Monte Carlo": {"color": "black"}, "flow": {"ls": ":"}}
    for name, (polarisations, energies, log_w) in samples.items():
        line = {"histtype": "step", "density": True, "label": name, **styles.get(name, {"ls": "--"})}
        for panel, values, ends in zip(panels, (polarisations, energies), ((-1, 1), (-12, 4))):
            panel.hist(values, 50, range=ends, weights=log_w.softmax(0), **line)
    panels[0].set(xlabel="polarisation along the row", ylabel="density")
    panels[1].set(xlabel="energy between molecules, kT", ylabel="density")
    panels[1].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> dict[str, boltzmann.Estimate | boltzmann.Report]:
    """Run it all; the report of the flow, log Z by both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecules", type=int, default=4, help="in the row (default 4)")
    parser.add_argument("--temperature", type=float, default=300.0, help="in kelvin (default 300)")
    parser.add_argument("--spacing", type=float, default=0.46, help="of the cages in nm (default 0.46)")
    parser.add_argument("--steps", type=int, default=500, help="of training (default 500)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    parser.add_argument("--output", type=Path, default=Path("output/flexible_water.png"), help="the picture")
    parser.add_argument("--quick", action="store_true", help="two molecules, and less of everything")
    options = parser.parse_args(arguments)
    quick = options.quick
    if quick:
        options.molecules, options.steps = 2, 60

    torch.manual_seed(options.seed)
    row = (torch.arange(options.molecules) - (options.molecules - 1) / 2) * options.spacing
    target = WaterInCages(F.pad(row[:, None], (2, 0)), width=0.02, temperature=options.temperature)

    print("Plain Monte Carlo: molecules that do not feel each other, weighted by what they would")
    draws = [independent(target, 20_000) for _ in range(2 if quick else 40)]
    x, log_w0 = (torch.cat(parts) for parts in zip(*draws))
    seen = observables(target, x)
    log_w = log_w0 - seen[:, 0]
    ess = boltzmann.effective_sample_size(log_w)
    reference = boltzmann.log_z(log_w, 20)
    print(f"log Z = {reference:.3f} from {len(x)} samples, effective sample size {100 * ess:.2f} %")

    print("\nFlow: reverse KL with path gradients")
    generator = boltzmann.BoltzmannGenerator(water_flow(target, transforms=1 if quick else 2), target)
    generator.fit(
        steps=options.steps,
        batch_size=256,
        objective=partial(boltzmann.reverse_kl, path_gradient=True, cap=1e4),
        lr=3e-3,
        clip_grad_norm=10.0,
        seed=options.seed,
    )
    report = generator.report(4000 if quick else 50_000, seed=options.seed)
    print(report)

    learned = observables(target, report.x)
    rows = (weighted(seen, log_w0), weighted(seen, log_w), weighted(learned, report.log_w))
    print("\n| | no interaction | plain Monte Carlo | flow, reweighted |\n|---|---|---|---|")
    print(f"| log Z | {boltzmann.log_z(log_w0, 20)} | {reference} | {report.log_z} |")
    for name, *values in zip(NAMES, *rows):
        print(f"| {name} | {' | '.join(map(str, values))} |")
    drawn, fresh = (polarisation(x), seen[:, 0]), (polarisation(report.x), learned[:, 0])
    picture(
        options.output,
        {
            "no interaction": (*drawn, log_w0),
            "plain Monte Carlo": (*drawn, log_w),
            "flow": (*fresh, torch.zeros_like(report.log_w)),
            "flow, reweighted": (*fresh, report.log_w),
        },
    )
    print(f"Polarisations and energies: {options.output}")
    return {"report": report, "reference": reference, "flow": rows[2], "Monte Carlo": rows[1]}


if __name__ == "__main__":
    torch.set_num_threads(1)  # the networks are small: a second thread is no gain
    main()
