"""Train a Boltzmann generator of alanine dipeptide in vacuum at 300 K, and read the free energy of φ off it.

    python examples/alanine_dipeptide.py            # some minutes
    python examples/alanine_dipeptide.py --quick    # to see that everything works

Two runs of molecular dynamics give configurations to start from, one on either side of the barrier in φ. They hardly
cross it, so they do not say how much of its time the molecule spends where. The flow knows the molecule by its bonds,
angles and torsions. It learns from these configurations, and from energies and forces of its own samples; and weights
make averages over its samples those of the molecule, whatever it has not learned. So it knows what the runs do not.
"""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from flowgroup import boltzmann, flows
from flowgroup.training import fit_to_data

TEMPERATURE = 300.0  # kelvin
BINS = 36

# F(φ) in kT in bins of 10° from −180°, by molecular dynamics of 10 ns with exchange of six temperatures, 300 to 916 K
REFERENCE = [
    *(3.21, 1.41, 0.31, 0.00, 0.33, 1.02, 1.67, 1.88, 1.34, 0.53, 0.16, 0.66),
    *(2.07, 4.27, 7.43, math.inf, math.inf, math.inf, math.inf, 9.04, math.inf, 7.43, 5.55, 4.15),
    *(4.12, 5.11, 7.10, 8.35, math.inf, math.inf, math.inf, math.inf, math.inf, math.inf, 7.94, 5.79),
]


def dynamics(molecule: boltzmann.Molecule, frames: int, seed: int, **torsions: float) -> Tensor:
    """Frames (frames, atoms, 3) 0.2 ps apart, of a run that starts with φ and ψ at these values."""
    rows = flows.z_matrix(molecule.bonds)
    internal = flows.InternalCoordinates(rows)
    y = internal(molecule.positions)[0]
    for name, value in torsions.items():
        atoms = getattr(molecule, name)
        y[[row in (atoms, atoms[::-1]) for row in rows[3:]].index(True)] = value
    run = boltzmann.openmm_trajectory(
        molecule.system,
        internal.inverse(y)[0],
        TEMPERATURE,
        frames=frames,
        stride=200,
        warmup=50,
        platform="Reference",
        seed=seed,
    )
    return run.x


def torsion(x: Tensor, atoms: tuple[int, int, int, int]) -> Tensor:
    """The torsion angle of four atoms (...), for positions x (..., n, 3)."""
    a, b, c, d = (x[..., i, :] for i in atoms)
    axis = torch.nn.functional.normalize(c - b, dim=-1)
    normal = torch.linalg.cross(axis, a - b)
    return torch.atan2((normal * (d - c)).sum(-1), (normal * torch.linalg.cross(axis, d - c)).sum(-1))


def molecule_flow(x: Tensor, bonds: tuple[tuple[int, int], ...], transforms: int = 6, width: int = 64) -> flows.Flow:
    """p(torsions)·p(the rest | torsions): circular splines on the torsions that turn, splines on the line for the rest.

    Args:
        x: configurations (n, atoms, 3) that tell which torsions turn, and where the others are.
        bonds: of the molecule.
        transforms: couplings of each of the two parts.
        width: of their networks.
    """
    rows = flows.z_matrix(bonds)
    molecule = flows.InternalCoordinates(rows, stiff=flows.stiff_torsions(rows, x))
    turning, rest = molecule.torsions, molecule.out_shape[0] - molecule.torsions
    torsions = flows.NCSF(turning, transforms=transforms, bins=10, hidden_features=(width, width))
    spline = flows.RationalQuadraticSpline(bins=8, bound=5.0)
    layers: list[flows.Transform] = [flows.ActNorm(rest), flows.LULinear(rest)]
    for i in range(transforms):
        if i % 2 == 0:
            mask = torch.randperm(rest) < rest // 2
        layers.append(flows.Coupling(spline, rest, mask, context=2 * turning, hidden_features=(width, width)))
        mask = ~mask
    parts = flows.ChainRule(torsions.transform, flows.Sequential(*layers))
    base = flows.Product(torsions.base, flows.DiagonalNormal(rest))
    return flows.Flow(flows.Sequential(molecule, parts), base, validate_args=False)


def free_energy(phi: Tensor, log_w: Tensor | None = None) -> Tensor:
    """F = −log p in kT (BINS,), the lowest bin at zero, of angles (n,) with log-weights (n,)."""
    weights = torch.ones_like(phi) if log_w is None else (log_w - log_w.max()).exp().to(phi)
    index = ((phi + math.pi) * (BINS / (2 * math.pi))).long().clamp(0, BINS - 1)
    p = torch.zeros(BINS, dtype=phi.dtype).index_add(0, index, weights)
    return (p.max() / p).log()


def table(phi: Tensor, F: Tensor, error: Tensor, reference: Tensor) -> str:
    """F(φ) beside the reference, where that is below 5 kT."""
    lines = ["| φ / ° | reference / kT | generator / kT | difference / kT |", "|---|---|---|---|"]
    for angle, value, sigma, true in zip(phi.rad2deg().tolist(), F.tolist(), error.tolist(), reference.tolist()):
        if true < 5:
            lines.append(f"| {angle:.0f} | {true:.2f} | {value:.2f} ± {sigma:.2f} | {value - true:+.2f} |")
    return "\n".join(lines)


def picture(path: Path, centres: Tensor, F: Tensor, error: Tensor, reference: Tensor, maps: dict[str, tuple]) -> None:
    """The profile of φ, and maps of φ and ψ."""
    figure = Figure(figsize=(12, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots(1, 1 + len(maps), width_ratios=[1.3] + [1] * len(maps))
    axes[0].plot(centres.rad2deg(), reference, color="black", label="molecular dynamics with exchange")
    axes[0].errorbar(centres.rad2deg(), F, error, fmt="o", ms=3, label="Boltzmann generator, reweighted")
    axes[0].set(xlabel="φ / °", ylabel="F / kT", ylim=(-0.3, 9), xticks=range(-180, 181, 90))
    axes[0].legend(fontsize=8)
    for ax, (title, (phi, psi, weights)) in zip(axes[1:], maps.items()):
        ax.hist2d(
            phi.rad2deg().numpy(),
            psi.rad2deg().numpy(),
            weights=None if weights is None else weights.numpy(),
            bins=72,
            range=[(-180, 180)] * 2,
            norm="log",
            cmin=1,
        )
        ax.set(title=title, xlabel="φ / °", ylabel="ψ / °", xticks=range(-180, 181, 90), yticks=range(-180, 181, 90))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(arguments: list[str] | None = None) -> dict[str, Tensor | boltzmann.Report]:
    """Run it all; the report, the profile with its error, and the reference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=16_000, help="of molecular dynamics, 0.2 ps apart")
    parser.add_argument("--epochs", type=int, default=3, help="of maximum likelihood on them")
    parser.add_argument("--steps", type=int, default=3000, help="with energies")
    parser.add_argument("--samples", type=int, default=100_000, help="to reweight")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, help="file to resume the training with energies from")
    parser.add_argument("--output", type=Path, default=Path("output/alanine_dipeptide.png"), help="the picture")
    parser.add_argument("--quick", action="store_true", help="hardly any dynamics and training")
    options = parser.parse_args(arguments)
    if options.quick:
        options.frames, options.epochs, options.steps, options.samples = 200, 3, 3, 500

    torch.manual_seed(options.seed)
    molecule = boltzmann.alanine_dipeptide()
    target = boltzmann.OpenMMTarget(molecule.system, TEMPERATURE, platform="Reference")
    left = dynamics(molecule, options.frames, options.seed)
    right = dynamics(molecule, options.frames // 4, options.seed + 1, phi=1.0, psi=-0.7)
    for name, x in (("left", left), ("right", right)):
        share = (torsion(x, molecule.phi) > 0).float().mean()
        print(f"{2e-4 * len(x):g} ns of molecular dynamics on the {name}: {100 * share:.1f} % of frames have φ > 0")
    x = torch.cat((left, right))
    flow = molecule_flow(x, molecule.bonds)
    data = flow.transform[0].manifold.projx(x[torch.randperm(len(x))])  # in one pose
    train, validation = data[: -len(x) // 20], data[-len(x) // 20 :]

    print(fit_to_data(flow, train, validation=validation, epochs=options.epochs, batch_size=256, lr=2e-3))
    generator = boltzmann.BoltzmannGenerator(flow, target)
    by_energy = partial(boltzmann.reverse_kl, path_gradient=True, cap=100.0)
    generator.fit(
        steps=options.steps,
        batch_size=256,
        objective=boltzmann.Mixture((0.9, by_energy), (0.1, boltzmann.maximum_likelihood)),
        data=train,
        lr=1e-3,
        clip_grad_norm=100.0,
        checkpoint=options.checkpoint,
    )
    report = generator.report(options.samples)
    print(report)

    centres = (torch.arange(BINS) + 0.5) * (2 * math.pi / BINS) - math.pi
    phi = torsion(report.x, molecule.phi)
    F = free_energy(phi, report.log_w)
    error = boltzmann.bootstrap(free_energy, phi, report.log_w, resamples=50).std(0)
    reference = torch.tensor(REFERENCE)
    print("\nFree energy of φ where it is below 5 kT\n")
    print(table(centres, F, error, reference))
    low = reference < 5
    print(f"\nLargest difference there: {(F - reference)[low].abs().max():.2f} kT; P(φ > 0) = ", end="")
    print(f"{(report.log_w.softmax(0) * (phi > 0)).sum():.4f}")
    maps = {
        "two runs of molecular dynamics": (torsion(x, molecule.phi), torsion(x, molecule.psi), None),
        "flow, reweighted": (phi, torsion(report.x, molecule.psi), report.log_w.softmax(0) * len(phi)),
    }
    picture(options.output, centres, F, error, reference, maps)
    print(f"Profile and maps: {options.output}")
    return {"report": report, "F": F, "error": error, "reference": reference}


if __name__ == "__main__":
    torch.set_num_threads(1)  # the networks are small: a second thread is no gain
    main()
