"""Density of the seven backbone torsions of RNA on the 7-torus: held-out likelihood of flows and of mixtures.

Splits 80/10/10 at random, one for every seed.

python benchmarks/rna_torus.py [--data DIR] [--seeds N]
"""

from __future__ import annotations

import math

import numpy as np
import torch
from _mixtures import best, fit_mixture, mean_log_prob
from _tables import header, load, mean_se, parser, table
from torch import Tensor

from flowgroup import flows
from flowgroup.training import fit_to_data

COMPONENTS, MOST = (1, 64, 256, 512), 1e3


def fit_flow(x: Tensor, validation: Tensor, seed: int, autoregressive: bool) -> flows.Flow:
    torch.manual_seed(seed)
    flow = flows.NCSF(7, transforms=5, bins=8, hidden_features=(64, 64), autoregressive=autoregressive)
    settings = {"lr": 5e-3, "weight_decay": 0.1, "seed": seed, "progress": False}
    fit_to_data(flow, x.float(), validation=validation.float(), epochs=60, batch_size=256, **settings)
    return flow


def main() -> None:
    arguments = parser(__doc__.splitlines()[0], picture=False).parse_args()
    angles = torch.as_tensor(load(arguments.data, "rna_torus7.npz")["angles"])
    circle = torch.stack((angles.cos(), angles.sin()), -1)
    found: dict[str, list[float]] = {"NCSF, autoregressive": [], "NCSF, coupling": [], "von Mises mixture": []}
    for seed in range(arguments.seeds):
        n, order = len(angles), torch.as_tensor(np.random.default_rng(seed).permutation(len(angles)))
        parts = order[: int(0.8 * n)], order[int(0.8 * n) : int(0.9 * n)], order[int(0.9 * n) :]
        train, validation, test = (angles[part] for part in parts)
        for key in ("NCSF, autoregressive", "NCSF, coupling"):
            flow = fit_flow(train, validation, seed, autoregressive="auto" in key)
            with torch.no_grad():
                found[key].append(-flow.log_prob(test.float()).mean().item())
        train, validation, test = (circle[part] for part in parts)
        mixtures = ((f"{k} components", fit_mixture(train, k, MOST, seed=seed)) for k in COMPONENTS)
        chosen, mixture = best(mixtures, validation)
        found["von Mises mixture"].append(-mean_log_prob(mixture, test))
        print(f"seed {seed}: {chosen}; " + ", ".join(f"{k} {v[-1]:.2f}" for k, v in found.items()), flush=True)
    rows = [(key, mean_se(values)) for key, values in found.items()]
    rows.append(("uniform", f"{7 * math.log(2 * math.pi):.2f}"))
    print(header() + "\n")
    print(table(("model", "NLL"), rows))


if __name__ == "__main__":
    main()
