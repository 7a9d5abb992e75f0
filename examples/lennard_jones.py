"""Free energy of a frozen cluster of 13 Lennard-Jones particles, by a flow that makes independent configurations of it.

    python examples/lennard_jones.py            # a minute of one core
    python examples/lennard_jones.py --quick    # a few seconds, to see that everything works

Below its melting point the cluster is an icosahedron around one particle. Short chains of Hamiltonian Monte Carlo are
the data; a flow in a frame that turns with the cluster learns them, then sees energies. Its samples, reweighted, give
log Z and the distances of pairs, which parallel tempering checks: chains that melt at high temperature and freeze anew.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from flowgroup import boltzmann, flows
from flowgroup.training import fit_to_data

LABELLINGS = math.lgamma(14) - math.log(60)
"""log of 13!/60: so many ways to number the particles that no rotation takes into each other."""


def icosahedron(target: boltzmann.LennardJones) -> Tensor:
    """The configuration (13, 3) of least energy: the centre first, then vertices, the first two of them neighbours."""
    golden = (1 + 5**0.5) / 2
    vertices = [(0.0, s, t * golden) for s in (1, -1) for t in (1, -1)]
    vertices = [(v[-i:] + v[:-i]) for v in vertices for i in range(3)]
    x = torch.tensor([(0.0, 0.0, 0.0), *vertices])
    x[1:] = 0.96 * torch.nn.functional.normalize(x[1:], dim=-1)
    near = (x[2:] - x[1]).norm(dim=-1).argmin() + 2
    x[2], x[near] = x[near].clone(), x[2].clone()
    for _ in range(500):
        x = x + 2e-3 / target.epsilon * target.force(x)[1]
    return target.manifold.projx(x)


def symmetries(x: Tensor) -> Tensor:
    """Orders (60, 13) of the particles of an icosahedron that its rotations bring about."""
    vertices = torch.nn.functional.normalize(x[1:] - x[0], dim=-1)
    near = (vertices @ vertices.mT - 5**-0.5).abs() < 0.1
    a, b = (vertices[i] for i in near.nonzero(as_tuple=True))  # 60 pairs of neighbours, one for each rotation
    frames = torch.stack((a, torch.nn.functional.normalize(b - (a * b).sum(-1, True) * a, dim=-1)), -2)
    frames = torch.cat((frames, torch.linalg.cross(frames[:, :1], frames[:, 1:])), -2)
    turned = vertices @ (frames[0].mT @ frames)
    order = (turned @ vertices.mT).argmax(-1) + 1
    return torch.nn.functional.pad(order, (1, 0))


def cluster_flow(transforms: int) -> flows.Flow:
    """Whitened coordinates in the frame of three particles, then splines; the orientation is uniform."""
    vectors = flows.NSF(33, transforms=transforms, hidden_features=(96, 96))
    first, *couplings = vectors.transform.transforms
    t = flows.Sequential(first, flows.LULinear(33), *couplings)
    return flows.Flow(flows.InFrame(t, 13, 3), flows.DiagonalNormal(36))


def distances(x: Tensor, log_w: Tensor | None = None, bins: int = 150) -> tuple[Tensor, Tensor]:
    """Density of the distance of a pair, from configurations and their log-weights."""
    weights = torch.full((len(x),), 1 / len(x)) if log_w is None else log_w.softmax(0).to(x)
    i, j = torch.triu_indices(13, 13, 1)
    r = (x[:, i] - x[:, j]).norm(dim=-1)
    density, edges = torch.histogram(r.flatten(), bins, range=(0.7, 2.7), weight=weights.repeat_interleave(78) / 78)
    return (edges[1:] + edges[:-1]) / 2, density / edges.diff()


def picture(path: Path, curves: dict[str, tuple[Tensor, Tensor]], energies: dict[str, tuple[Tensor, Tensor]]) -> None:
    figure = Figure(figsize=(9, 3.4), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = {"parallel tempering": {"color": "black"}, "flow": {"ls": ":"}, "flow, reweighted": {"ls": "--"}}
    for name, (r, density) in curves.items():
        left.plot(r, density, label=name, **styles[name])
    for name, (u, log_w) in energies.items():
        style = styles[name]
        right.hist(u, 40, density=True, weights=log_w.softmax(0), histtype="step", label=name, **style)
    left.set(xlabel="distance of a pair, r/r_min", ylabel="density")
    right.set(xlabel="energy, kT", ylabel="density")
    left.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epsilon", type=float, default=6.0, help="depth of a pair's well in kT (default 6)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    parser.add_argument("--output", type=Path, default=Path("output/lennard_jones.png"), help="the picture")
    parser.add_argument("--quick", action="store_true", help="less of everything")
    options = parser.parse_args(arguments)
    quick = options.quick

    torch.manual_seed(options.seed)
    target = boltzmann.LennardJones(13, "once", epsilon=options.epsilon)
    start = icosahedron(target)
    print(f"lowest energy {target.energy(start):.2f} kT")

    print("\nData: Hamiltonian Monte Carlo around the icosahedron")
    chains = 60 if quick else 400
    settings = {"warmup": 60 if quick else 150, "thin": 10, "seed": options.seed}
    data = boltzmann.mcmc(target, start.expand(chains, 13, 3), steps=100 if quick else 250, **settings)
    print(data, f"mean energy {data.energy.mean():.2f} kT")

    print("\nFlow: maximum likelihood on the data, then reverse KL")
    flow = cluster_flow(transforms=2 if quick else 4)
    rows = data.x.flatten(0, 1)
    orders = symmetries(start)

    def renumbered(x: Tensor) -> Tensor:  # 60 configurations for the energy of one
        order = orders[torch.randint(60, (len(x),))]
        return x.gather(1, order[..., None].expand_as(x))

    fit_to_data(flow, rows, epochs=8 if quick else 25, batch_size=250, lr=3e-3, augment=renumbered, seed=options.seed)
    generator = boltzmann.BoltzmannGenerator(flow, target)
    generator.fit(20 if quick else 100, 250, lr=5e-4, seed=options.seed)
    report = generator.report(samples=2000 if quick else 20_000, seed=options.seed)
    print(report)

    print("\nReference: parallel tempering through the melting point")
    betas = [0.88**i for i in range(5 if quick else 14)]
    tempered = boltzmann.parallel_tempering(
        target, start.expand(1, 8 if quick else 20, 13, 3), betas, steps=40 if quick else 500, **settings
    )
    print(tempered)

    # the flow knows one numbering of the particles
    log_z = report.log_z.value + LABELLINGS
    cold, energy = tempered.x[:, 0].flatten(0, 1), tempered.energy[:, 0]
    error = (energy.mean(0).std() / energy.shape[1] ** 0.5).item()
    print(
        f"\nlog Z = {log_z:.3f} ± {report.log_z.error:.3f}, of which {LABELLINGS:.3f} for numberings of the particles"
    )
    print(
        f"mean energy: {report.mean_energy} kT by the flow, reweighted; "
        f"{energy.mean():.2f} ± {error:.2f} kT by parallel tempering"
    )
    even = torch.zeros_like(report.log_w)
    picture(
        options.output,
        {
            "parallel tempering": distances(cold),
            "flow": distances(report.x),
            "flow, reweighted": distances(report.x, report.log_w),
        },
        {
            "parallel tempering": (energy.flatten(), torch.zeros(energy.numel())),
            "flow": (report.energy, even),
            "flow, reweighted": (report.energy, report.log_w),
        },
    )
    print(f"Distances and energies: {options.output}")
    return {"log Z": log_z, "ESS": report.ess, "energy": report.mean_energy.value, "reference": energy.mean().item()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
