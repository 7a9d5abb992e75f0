"""The free energy between ice at 250 K and at 100 K, by a flow that cools crystals.

    python examples/ice_xi.py                                   # a minute
    python examples/ice_xi.py --quick                           # some seconds, to see that everything works
    python examples/ice_xi.py --steps 2500 --chains 1000        # the figures of the documentation
    python examples/ice_xi.py --map rigid --lr 2e-3             # by the ready-made flow of rigid bodies

The crystal is ice XI, 16 rigid molecules of TIP4P-Ew water in a periodic box. Hamiltonian Monte Carlo samples it at
250 K, starting from the lattice, and a flow maps those samples to 100 K, trained by nothing but energies there (learned
free-energy perturbation). Most of what has to happen is linear: every motion of the lattice shrinks by about the
square root of 100/250. The flow works on displacements and turns of the molecules at their sites, along the principal
axes of their motion; what the lattice does beyond harmonic springs is left to couplings, whose shifts and scales are
quadratic in what they see, as the forces next to the linear ones are. `--map rigid` leaves it to `flows.RigidBodyFlow`
instead, which moves molecules by attention to the others and knows nothing of axes.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from flowgroup import boltzmann, flows
from flowgroup.groups import UnitQuaternions
from flowgroup.nn.mlp import start_near_

HOT, COLD = 250.0, 100.0
REFERENCE = -669.711  # ΔF in kT by MBAR over replicas, with an error of 0.054


def water(temperature: float) -> boltzmann.RigidWater:
    """Ice XI at a temperature; its energies are those of a converged Ewald sum to 0.003 kJ/mol for the box."""
    sites, box = boltzmann.ice_xi((2, 1, 1))
    return boltzmann.RigidWater(len(sites), box.tolist(), temperature=temperature, accuracy=1e-4)


# ------------------------------------------------------------------------------------------------------ samples to map


class Displaced(boltzmann.Target):
    """Another target in the coordinates of a crystal, displacements and turns along their principal axes.

    There all motions are about equally fast, which is what Hamiltonian Monte Carlo wants.
    """

    def __init__(self, target: boltzmann.Target, crystal: flows.CrystalTransform):
        super().__init__()
        self.target, self.crystal = target, crystal
        self.event_shape = torch.Size(crystal.transform.out_shape)

    def poses(self, v: Tensor) -> tuple[Tensor, Tensor]:
        v, along_axes = self.crystal.transform.inverse(v)
        x, logdet = self.crystal.poses(v)
        return x, along_axes + logdet

    def _energy(self, v: Tensor) -> Tensor:
        x, logdet = self.poses(v)
        return self.target.energy(x) - logdet


def sample(target: boltzmann.RigidWater, chains: int, steps: int, seed: int = 0) -> Tensor:
    """Equilibrium crystals (steps/2, chains, N, 7), from the lattice: the axes of a first run serve the second."""
    sites, box = boltzmann.ice_xi((2, 1, 1))
    lengths = torch.cat((torch.full((3 * len(sites) - 3,), 0.02), torch.full((3 * len(sites),), 0.12)))  # nm, radians
    axes = flows.Whitening(torch.zeros_like(lengths), lengths.square().diag())
    v = torch.zeros(1, chains, len(lengths))
    for phase, count in enumerate((max(20, steps // 2), steps)):
        displaced = Displaced(target, flows.CrystalTransform(axes, sites, box.tolist()))
        start = axes(v[-1])[0]
        kernel = boltzmann.HMC(leapfrog=8, step_size=0.15)
        chain = boltzmann.mcmc(
            displaced, start, kernel, steps=count, warmup=20, thin=2, seed=seed + phase, progress=False
        )
        v = axes.inverse(chain.x)[0]
        axes = flows.Whitening(*moments(v[len(v) // 2 :].flatten(0, 1)))
    return displaced.poses(chain.x)[0]


def frames(path: Path, blocks: int = 10) -> Tensor:
    """Crystals (steps, blocks, N, 7) at 250 K from a file of molecular dynamics, cut into blocks of time.

    Its arrays are `temperature_K` (T,) and `positions_nm` (T, frames, 4N, 3), the molecules whole, each as O, H, H, M.
    Molecules are put in the order of the sites, and so are their hydrogens.
    """
    with np.load(path) as file:
        temperature = np.abs(file["temperature_K"] - HOT).argmin()
        atoms = torch.from_numpy(file["positions_nm"][temperature]).float().unflatten(1, (-1, 4))
    sites, box = boltzmann.ice_xi((2, 1, 1))
    either = torch.stack([boltzmann.sites_to_bodies(atoms[:, :, order]) for order in ([0, 1, 2, 3], [0, 2, 1, 3])])
    d = either[0].mean(0)[:, None, :3] - sites[:, :3]
    nearest = (d - box * (d / box).round()).norm(dim=-1).argmin(0)
    either = either[:, :, nearest]
    alike = (either[..., 3:] * sites[:, 3:]).sum(-1).abs().mean(1)
    x = either[alike.argmax(0), :, torch.arange(len(sites))].movedim(0, 1)
    return x[len(x) % blocks :].unflatten(0, (blocks, -1)).movedim(0, 1)


def images(x: Tensor) -> Tensor:
    """Crystals (n, N, 7) and what the eight symmetries of the lattice make of them, (8n, N, 7), all as likely.

    The symmetries are turns by half about the axes of the cell and shifts that take molecules to sites of others.
    """
    sites, box = boltzmann.ice_xi((2, 1, 1))
    group, found = UnitQuaternions(), []
    for turn in torch.eye(4):
        turned = torch.cat((group.act(turn, sites[:, :3]), group.compose(turn, sites[:, 3:])), -1)
        for target in sites[:, :3]:
            d = turned[:, None, :3] + (target - turned[0, :3]) - sites[:, :3]
            distance, where = (d - box * (d / box).round()).norm(dim=-1).min(-1)
            alike = (turned[:, 3:] * sites[where, 3:]).sum(-1).abs()
            if distance.max() < 1e-3 and alike.min() > 0.999:
                moved = group.act(turn, x[..., :3] - sites[:, :3]) + sites[where, :3]
                image = torch.cat((moved, group.compose(turn, x[..., 3:])), -1)
                found.append(image[..., where.argsort(), :])
    return torch.cat(found)


def moments(v: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of rows, the latter certainly positive definite."""
    v = v.double()
    covariance = v.mT.cov()
    covariance = covariance + 1e-3 * covariance.diagonal().mean() * torch.eye(len(covariance)).to(v)
    return v.mean(0).float(), covariance.float()


# ------------------------------------------------------------------------------------------------------------ the flow


class Bilinear(nn.Module):
    """W(Ax ⊙ Bx) + b: what to do with one half of the motions, quadratic in the other half."""

    def __init__(self, features: int, out_features: int, hidden_features: int):
        super().__init__()
        self.pairs = nn.Linear(features, 2 * hidden_features)
        self.output = nn.Linear(hidden_features, out_features)
        start_near_(self.output, torch.zeros(1), gain=0.01)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.pairs(x).chunk(2, -1)
        return self.output(a * b)


def principal_axes(x: Tensor) -> flows.Whitening:
    """Those of the motions of crystals (n, N, 7)."""
    sites, box = boltzmann.ice_xi((2, 1, 1))
    at_rest = flows.CrystalTransform(flows.LULinear(6 * len(sites) - 3), sites, box.tolist())
    return flows.Whitening(*moments(at_rest.coordinates(x)[0]))


def cooling(x: Tensor, layers: int = 4, hidden_features: int = 256) -> flows.CrystalTransform:
    """The map from crystals at 250 K, x (n, N, 7) being some, to 100 K; at first it shrinks all motions alike."""
    sites, box = boltzmann.ice_xi((2, 1, 1))
    size = 6 * len(sites) - 3
    axes = principal_axes(x)
    couplings = []
    mask = torch.zeros(size, dtype=torch.bool)
    for i in range(layers):
        mask = torch.randperm(size) < size // 2 if i % 2 == 0 else ~mask
        moved = int(mask.sum())
        bilinear = Bilinear(size - moved, 2 * moved, hidden_features)
        couplings.append(flows.Coupling(flows.Affine(max_log_scale=1.0), size, mask, conditioner=bilinear))
    t = flows.Sequential(axes, *couplings, flows.LULinear(size), axes.scaled(COLD / HOT).inv)
    return flows.CrystalTransform(t, sites, box.tolist())


def rigid_cooling(x: Tensor, layers: int = 4) -> flows.Sequential:
    """Another one: a linear map, and for the rest a `RigidBodyFlow`, of which every round has four couplings."""
    sites, box = boltzmann.ice_xi((2, 1, 1))
    axes = principal_axes(x)
    linear = flows.Sequential(axes, flows.LULinear(6 * len(sites) - 3), axes.scaled(COLD / HOT).inv)
    rest = flows.RigidBodyFlow(
        len(sites), box.tolist(), transforms=max(1, layers // 4), sites=sites, spread=(0.02, 0.1)
    )
    return flows.Sequential(flows.CrystalTransform(linear, sites, box.tolist()), rest.transform)


# ------------------------------------------------------------------------------------------------------------- figures


class Result(NamedTuple):
    """Free-energy difference in kT with its error, effective sample size, and ⟨work⟩ − ΔF, which is KL(q‖p)."""

    difference: boltzmann.Estimate
    ess: float
    gap: float
    work: Tensor

    def __str__(self) -> str:
        d = self.difference
        return f"ΔF = {d.value:.3f} ± {d.error:.3f} kT, ESS {self.ess:.1%}, KL gap {self.gap:.3f} kT"


@torch.no_grad()
def evaluate(cool: flows.Transform, x: Tensor) -> Result:
    """By learned free-energy perturbation from crystals x (n, N, 7) at 250 K, energies being converged ones."""
    hot, cold = water(HOT), water(COLD)
    works = []
    for rows in x.split(500):
        y, logdet = cool(rows)
        works.append((cold.energy(y) - hot.energy(rows) - logdet).double())
    work = torch.cat(works)
    difference = boltzmann.free_energy_perturbation(work)
    return Result(
        difference, boltzmann.effective_sample_size(-work).item(), work.mean().item() - difference.value, work
    )


@torch.no_grad()
def evaluate_reverse(cool: flows.Transform, y: Tensor, result: Result) -> tuple[boltzmann.Estimate, float]:
    """ΔF by both directions (BAR) and the effective sample size as crystals y (n, N, 7) sampled at 100 K see it."""
    x, logdet = cool.inverse(y)
    work = (water(HOT).energy(x) - water(COLD).energy(y) - logdet).double()
    return boltzmann.bar(result.work, work), boltzmann.effective_sample_size(work, of="target").item()


@torch.no_grad()
def openmm_deviation(x: Tensor) -> Tensor:
    """Differences (n,) in kJ/mol between OpenMM's particle-mesh Ewald energies and ours, of crystals (n, N, 7)."""
    from openmm import app, unit

    target, topology = water(COLD), app.Topology()
    chain = topology.addChain()
    for _ in range(target.molecules):
        residue = topology.addResidue("HOH", chain)
        atoms = [topology.addAtom(name, app.Element.getBySymbol(name[0]), residue) for name in ("O", "H1", "H2")]
        topology.addAtom("M", None, residue)
        for hydrogen in atoms[1:]:
            topology.addBond(atoms[0], hydrogen)
    topology.setUnitCellDimensions(target.box.numpy() * unit.nanometer)
    cutoff = target.box.min().item() / 2 * (1 - 1e-6)
    system = app.ForceField("tip4pew.xml").createSystem(
        topology, app.PME, nonbondedCutoff=cutoff, switchDistance=0.9 * cutoff, ewaldErrorTolerance=1e-4
    )
    theirs = boltzmann.OpenMMTarget(system, COLD)
    sites = target.sites(x.double()).flatten(-3, -2)
    return theirs.energy(sites) * theirs.kT - target.potential(x.double())


def draw(path: Path, results: dict[str, Result]) -> None:
    """Histograms of the work: a narrow one is a good map."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    lowest = min(r.work.quantile(0.001) for r in results.values()).item()
    for name, result in results.items():
        axes.hist(result.work, bins=80, range=(lowest, lowest + 14), histtype="step", density=True, label=name)
    axes.axvline(REFERENCE, color="black", linewidth=1, label="ΔF of the reference")
    axes.set(xlabel="generalised work / kT", ylabel="density", title="Ice XI, 250 K to 100 K")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(arguments: list[str] | None = None) -> dict[str, Result]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="some seconds, to see that everything works")
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps, of 128 crystals each")
    parser.add_argument("--chains", type=int, default=300, help="Markov chains at 250 K; one in ten is for testing")
    parser.add_argument("--layers", type=int, default=4, help="couplings")
    parser.add_argument("--map", choices=("axes", "rigid"), default="axes", help="couplings of axes, or of molecules")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of sampling and training")
    parser.add_argument("--check", action="store_true", help="sample 100 K as well, and compare")
    parser.add_argument("--data", type=Path, help="frames of molecular dynamics (.npz) in place of Markov chains")
    parser.add_argument("--samples", type=Path, help="a file to keep the samples at 250 K in, and to take them from")
    parser.add_argument("--output", type=Path, default=Path("output/ice_xi.png"))
    options = parser.parse_args(arguments)
    steps, chains, mc_steps = (10, 100, 20) if options.quick else (options.steps, options.chains, 50)
    torch.manual_seed(options.seed)

    start = time.perf_counter()
    hot = water(HOT)
    if options.data is not None:
        x = frames(options.data)
    elif options.samples is not None and options.samples.exists():
        x = torch.load(options.samples, weights_only=True)
    else:
        x = sample(hot, chains, mc_steps, seed=2 * options.seed)
        if options.samples is not None:
            options.samples.parent.mkdir(parents=True, exist_ok=True)
            torch.save(x, options.samples)
    test = x.shape[1] // 10
    train, test = images(x[:, test:].flatten(0, 1)), x[:, :test].flatten(0, 1)
    print(f"{len(train)} crystals at {HOT:g} K to learn from, {len(test)} of other chains to test")
    print(f"{time.perf_counter() - start:.0f} s")

    cool = (cooling if options.map == "axes" else rigid_cooling)(train, options.layers)
    results = {"contraction": evaluate(cool, test)}
    print(f"contraction by √({COLD:g}/{HOT:g}): {results['contraction']}")
    flow = flows.Flow(cool.inv, boltzmann.SampleBase(hot, train), validate_args=False)
    generator = boltzmann.BoltzmannGenerator(flow, water(COLD))
    generator.fit(
        steps,
        batch_size=128,
        objective=partial(boltzmann.reverse_kl, path_gradient=True),
        lr=options.lr,
        clip_grad_norm=1.0,
        seed=options.seed,
    )
    results["flow"] = evaluate(cool, test)
    print(f"after {128 * steps} energies at {COLD:g} K: {results['flow']} (reference {REFERENCE} kT)")
    print(f"{time.perf_counter() - start:.0f} s")
    if find_spec("openmm"):
        deviation = openmm_deviation(cool(test[:200])[0].detach())
        print(f"OpenMM's energies of 200 of them differ by {deviation.mean():.3f} ± {deviation.std():.3f} kJ/mol")
    if options.check:
        cold = sample(water(COLD), len(test) // 20, 50, seed=10).flatten(0, 1)
        both, ess = evaluate_reverse(cool, cold, results["flow"])
        print(f"with {len(cold)} crystals sampled at {COLD:g} K: ΔF = {both.value:.3f} ± {both.error:.3f} kT by BAR,")
        print(f"    ESS {ess:.1%} as they see it")
    draw(options.output, results)
    print(f"picture in {options.output}")
    return results


if __name__ == "__main__":
    main()
