"""Train a Boltzmann generator for a tetrahedral molecule in a crystal field, and check it against exact numbers.

    python examples/tetrahedral_rotor.py            # about a minute
    python examples/tetrahedral_rotor.py --quick    # a few seconds, to see that everything works
    python examples/tetrahedral_rotor.py --beta 20 --steps 2000    # a field twice as strong, by another objective

The molecule turns in the field β·xyz at its four corners. Its 12 orientations of least energy are alike by symmetry,
and its partition function is known by quadrature: so the report can be checked, to the last mode.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from flowgroup import boltzmann, flows
from flowgroup.groups.rotations import quaternion_to_rotation_vector

STRONG = 15.0
"""Fields above this, in kT, are turned on by and by."""


def train(beta: float, steps: int, seed: int) -> tuple[boltzmann.BoltzmannGenerator, boltzmann.Report]:
    """By energies alone, no samples of the target are needed: by the reverse Kullback–Leibler divergence.

    In a strong field this would leave mass between the modes and give them unequal weights. There the field grows
    during the first half of the steps, and the objective is the spread of the weights.
    """
    torch.manual_seed(seed)
    target = boltzmann.TetrahedralRotor(beta=beta)
    if beta <= STRONG:
        generator = boltzmann.BoltzmannGenerator(flows.RotationFlow(transforms=8), target)
        generator.fit(steps=steps, batch_size=512, seed=seed)
    else:
        flow = flows.RotationFlow(transforms=8, hidden_features=(64, 64))
        generator = boltzmann.BoltzmannGenerator(flow, target)
        objective = boltzmann.Annealed(steps=max(steps // 2, 1), objective=boltzmann.weight_spread)
        generator.fit(steps=steps, batch_size=512, objective=objective, lr=1e-3, clip_grad_norm=2.0, seed=seed)
    return generator, generator.report(samples=10_000, seed=seed)


def check(report: boltzmann.Report) -> dict[str, bool]:
    """What must hold of the numbers."""
    value, error = report.log_z
    return {
        "log Z within 3σ of the exact value": abs(value - report.exact_log_z) < 3 * error,
        "error of log Z below 0.01": error < 0.01,
        "all 12 modes within 3σ of equal weight": report.covered == 12,
    }


def picture(path: Path, generator: boltzmann.BoltzmannGenerator, report: boltzmann.Report) -> None:
    """Axes of turns, coloured by their angles, before and after; weights; modes; training."""
    figure = Figure(figsize=(12, 6), dpi=110, layout="constrained")
    uniform = torch.nn.functional.normalize(torch.randn(3000, 4), dim=-1)
    clouds = {
        "uniform rotations": uniform,
        "samples of the flow": report.x[:3000],
        "the 12 modes": generator.target.modes,
    }
    for i, (title, q) in enumerate(clouds.items()):
        ax = figure.add_subplot(2, 3, i + 1, projection="3d")
        draw_rotations(ax, q, 2 if len(q) > 12 else 40)
        ax.set_title(title)

    ax = figure.add_subplot(2, 3, 4)
    log_w = report.log_w - report.log_z.value
    ax.hist(log_w.clamp(-1, 1).numpy(), bins=80)
    ax.set(title=f"log-weights: ESS {100 * report.ess:.1f} %", xlabel="log w − log Z", ylabel="samples")
    ax = figure.add_subplot(2, 3, 5)
    p, error = report.modes
    ax.errorbar(range(1, 13), p.numpy(), 3 * error.numpy(), fmt="o", markersize=4, capsize=3)
    ax.axhline(1 / 12, color="black", linewidth=0.8)
    ax.set(title="weights of the modes ± 3σ", xlabel="mode", ylim=(0, None))
    ax = figure.add_subplot(2, 3, 6)
    ess, steps = report.history.metrics["ESS"], report.history.steps
    ax.plot([steps * (i + 1) / len(ess) for i in range(len(ess))], [100 * v for v in ess])
    ax.set(title="training", xlabel="step", ylabel="ESS of a batch (%)", ylim=(0, 100))

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def draw_rotations(ax, q: Tensor, size: float) -> None:
    """Rotations as points of the ball of radius π: axis times angle."""
    v = quaternion_to_rotation_vector(q.float())
    angle = torch.linalg.vector_norm(v, dim=-1)
    ax.scatter(*v.T.numpy(), c=angle.numpy(), s=size, cmap="viridis", linewidths=0)
    ax.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), zlim=(-3.2, 3.2), xticks=(), yticks=(), zticks=(), aspect="equal")


def main(arguments: list[str] | None = None) -> boltzmann.Report:
    """Run it all; the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beta", type=float, default=10.0, help="strength of the field in kT (default: 10)")
    parser.add_argument("--steps", type=int, default=1500, help="optimizer steps (default: 1500)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, training and samples (default: 0)")
    parser.add_argument("--output", type=Path, default=Path("output/tetrahedral_rotor.png"), help="the picture")
    parser.add_argument("--quick", action="store_true", help="a few steps in a weaker field only")
    options = parser.parse_args(arguments)
    beta, steps = (2.0, 60) if options.quick else (options.beta, options.steps)

    generator, report = train(beta, steps, options.seed)
    print(report)
    for what, holds in check(report).items():
        print(f"{'yes' if holds else 'NO ':<4}{what}")
    picture(options.output, generator, report)
    print(f"\nPicture: {options.output}")
    return report


if __name__ == "__main__":
    torch.set_num_threads(1)  # the networks are small: a second thread is no gain
    main()
