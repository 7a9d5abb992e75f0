"""Boltzmann generators of DW4 and of Many Well in 32 dimensions, beside the exact partition sums.

DW4: maximum likelihood on chains of Hamiltonian Monte Carlo. Many Well: reverse KL and likelihood of a parallel
tempering run, half and half; and by energies alone, FAB beside reverse KL. Then log Z by importance sampling from the
flow.

python benchmarks/boltzmann_targets.py [--seeds N] [--only dw4 manywell fab kl]
"""

from __future__ import annotations

import math
import time

import torch
from _tables import header, mean_se, parser, table
from torch import Tensor

from flowgroup import boltzmann, flows
from flowgroup.boltzmann import DW4, HMC, ManyWell, effective_sample_size, log_z, maximum_likelihood, reverse_kl
from flowgroup.boltzmann.objectives import Objective
from flowgroup.training import fit_to_data

SAMPLES = 50_000


def relabelled(x: Tensor) -> Tensor:
    """The same configurations with particles in random order, half of them reflected."""
    n = len(x)
    mirror = torch.stack((torch.ones(n), torch.randint(2, (n,)) * 2.0 - 1), -1)
    order = torch.rand(n, 4).argsort(-1)
    return (x * mirror[:, None]).gather(1, order[..., None].expand_as(x))


def dw4(seed: int) -> dict[str, float]:
    """Splines in a frame that turns with the particles, fitted to 28800 configurations of 800 chains."""
    target = DW4()
    torch.manual_seed(seed)
    start = 2 * target.manifold.random(1000, 4, 2)
    chain = boltzmann.mcmc(target, start, HMC(15), steps=400, warmup=200, thin=10, seed=seed, progress=False)
    # whole chains are held out
    train, test = chain.x[4:, 200:].flatten(0, 1), chain.x[4:, :200].flatten(0, 1)
    vectors = flows.NSF(5, transforms=4, bins=16, hidden_features=(128, 128), autoregressive=True)
    flow = flows.Flow(flows.InFrame(vectors.transform, 4, 2), flows.DiagonalNormal(6))
    settings = {"lr": 4e-3, "weight_decay": 1e-3, "augment": relabelled, "seed": seed, "progress": False}
    begun = time.perf_counter()
    fit_to_data(flow, train, epochs=40, batch_size=512, **settings)
    seconds = time.perf_counter() - begun
    with torch.no_grad():
        nll = -flow.log_prob(relabelled(test)).mean().item()
        x, log_q = flow.rsample_and_log_prob((SAMPLES,))
        log_w = -target.energy(x) - log_q
    estimate = log_z(log_w)
    return {
        "NLL": nll,
        "log Z": estimate.value,
        "error": estimate.error,
        "ESS, %": 100 * effective_sample_size(log_w).item(),
        "seconds": seconds,
    }


def many_well(seed: int) -> dict[str, float]:
    """Half by samples of chains that all start in right wells."""
    target = ManyWell(32)
    start = torch.tensor([target.wells[1], 0.0]).repeat(16).expand(1, 200, 32)
    betas = [0.75**i for i in range(9)]
    chain = boltzmann.parallel_tempering(
        target, start, betas, HMC(8), steps=600, warmup=200, thin=10, seed=seed, progress=False
    )
    data = chain.x[10:, 0].flatten(0, 1)
    return learn_many_well(boltzmann.Mixture((0.5, reverse_kl), (0.5, maximum_likelihood)), seed, data)


def many_well_fab(seed: int) -> dict[str, float]:
    """The same flow by energies alone: eight steps for each run of annealed importance sampling."""
    return learn_many_well(boltzmann.FAB(levels=2, kernel=HMC(5), buffer=64 * 256, updates=8), seed)


def many_well_kl(seed: int) -> dict[str, float]:
    """The same flow by reverse KL alone."""
    return learn_many_well(reverse_kl, seed)


def learn_many_well(objective: Objective, seed: int, data: Tensor | None = None) -> dict[str, float]:
    """A spline for each coordinate and three couplings, trained by the objective."""
    target = ManyWell(32)
    torch.manual_seed(seed)
    couplings = flows.NSF(32, transforms=3, hidden_features=(64, 64))
    spline = flows.Elementwise(flows.RationalQuadraticSpline(bins=16, bound=4.0), 32)
    flow = flows.Flow(flows.Sequential(spline, *couplings.transform.transforms[1:]), couplings.base)
    generator = boltzmann.BoltzmannGenerator(flow, target)
    begun = time.perf_counter()
    history = generator.fit(800, 256, objective=objective, data=data, lr=5e-3, seed=seed, progress=False)
    seconds = time.perf_counter() - begun
    with torch.no_grad():
        x, log_q = flow.rsample_and_log_prob((SAMPLES,))
        log_w = -target.energy(x) - log_q
        exact = target.sample((SAMPLES,))
        exact_log_q = flow.log_prob(exact)
    left = 1 - target.in_right_well(x).double().mean(0)
    estimate = log_z(log_w)
    of_exact = effective_sample_size((-target.energy(exact) - exact_log_q).double(), of="target")
    return {
        "NLL": -exact_log_q.mean().item(),
        "log Z": estimate.value,
        "error": estimate.error,
        "ESS, %": 100 * effective_sample_size(log_w).item(),
        "ESS of exact samples, %": 100 * of_exact.item(),
        "rarest left well, %": 100 * left.min().item(),
        "commonest left well, %": 100 * left.max().item(),
        "energies": sum(history.metrics["energies"]),
        "seconds": seconds,
    }


def main() -> None:
    p = parser(__doc__.splitlines()[0], data=False, picture=False)
    p.add_argument("--only", choices=("dw4", "manywell", "fab", "kl"), nargs="+", help="some of them")
    arguments = p.parse_args()
    many = ManyWell(32)
    # entropy = log Z + ⟨u⟩, of each pair by quadrature
    u, p_u = many._position, torch.diff(many._probability)
    middle = (u[1:] + u[:-1]) / 2
    mean = 16 * ((many.a * middle + many.b * middle**2 + many.c * middle**4) * p_u).sum().item() + 8
    studies = {
        "dw4": ("DW4", dw4, DW4().entropy, DW4().log_z),
        "manywell": ("Many Well, 32", many_well, many.log_z + mean, many.log_z),
        "fab": ("Many Well, 32, FAB", many_well_fab, many.log_z + mean, many.log_z),
        "kl": ("Many Well, 32, reverse KL", many_well_kl, many.log_z + mean, many.log_z),
    }
    rows, notes = [], []
    for key, (name, study, entropy, exact) in studies.items():
        if arguments.only and key not in arguments.only:
            continue
        found = []
        for seed in range(arguments.seeds):
            found.append(study(seed))
            print(f"{name}, seed {seed}: " + ", ".join(f"{k} {v:.3f}" for k, v in found[-1].items()), flush=True)
        merged = {k: [f[k] for f in found] for k in found[0]}
        error = math.sqrt(sum(e * e for e in merged["error"])) / len(found)
        rows.append(
            (
                name,
                mean_se(merged["NLL"], 3),
                f"{entropy:.3f}",
                f"{sum(merged['log Z']) / len(found):.3f} ± {error:.3f}",
                f"{exact:.3f}",
                mean_se(merged["ESS, %"], 1),
                f"{sum(merged['seconds']) / len(found):.0f}",
            )
        )
        if key != "dw4":
            left = " to ".join(
                f"{v:.1f} %" for v in (min(merged["rarest left well, %"]), max(merged["commonest left well, %"]))
            )
            notes.append(
                f"{name}: of the 16 pairs in samples of the flow {left} are in their left wells, exact "
                f"{100 * (1 - many.right_probability):.1f} %; effective sample size from exact samples "
                f"{mean_se(merged['ESS of exact samples, %'], 1)} %; {max(merged['energies']):,.0f} energies of the "
                f"target in training."
            )
    columns = ("target", "NLL", "entropy", "log Z", "exact", "ESS, %", "training, s")
    print(header() + "\n")
    print(table(columns, rows))
    print("\n".join(["", *notes]))


if __name__ == "__main__":
    main()
