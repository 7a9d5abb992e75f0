"""Densities of volcanic eruptions and earthquakes on the sphere: held-out likelihood of a flow, mixtures and kernels.

Two kinds of splits, 80/10/10 each, one for every seed: `events` at random, as in the literature, and `places`, by
distinct point, so that no place of a test event has been seen in training.

python benchmarks/earth.py [--data DIR] [--seeds N] [--picture FILE]
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from _mixtures import best, fit_mixture, kernel_density, mean_log_prob
from _tables import header, load, mean_se, parser, table
from torch import Tensor

from flowgroup import flows
from flowgroup.training import fit_to_data

EPOCHS = {"volcano": (300, 1024), "earthquake": (60, 512)}  # and batch size
COMPONENTS, MOST = (20, 60, 180), (1e2, 1e3, 1e4)
KERNELS = (30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5)


def labels(places: np.ndarray, seed: int, by_place: bool) -> np.ndarray:
    """0 train, 1 validation, 2 test for each event, given which place it is at."""
    n = places.max() + 1 if by_place else len(places)
    label = np.full(n, 2)
    order = np.random.default_rng(seed).permutation(n)
    label[order[: int(0.8 * n)]] = 0
    label[order[int(0.8 * n) : int(0.9 * n)]] = 1
    return label[places] if by_place else label


def fit_flow(x: Tensor, validation: Tensor, name: str, seed: int) -> flows.Flow:
    torch.manual_seed(seed)
    flow = flows.SphereFlow(dim=2, transforms=8, bins=32, hidden_features=(64, 64))
    epochs, batch = EPOCHS[name]
    settings = {"lr": 3e-3, "weight_decay": 0.1, "seed": seed, "progress": False}
    fit_to_data(flow, x.float(), validation=validation.float(), epochs=epochs, batch_size=batch, **settings)
    return flow


def study(name: str, x: Tensor, places: np.ndarray, by_place: bool, seeds: int):
    """NLL of each model for each seed, the share of test events at places of the training set; the first flow."""
    found: dict[str, list[float]] = {"SphereFlow": [], "von Mises–Fisher mixture": [], "von Mises–Fisher kernels": []}
    seen, first = [], None
    for seed in range(seeds):
        label = labels(places, seed, by_place)
        seen.append(np.isin(places[label == 2], places[label == 0]).mean())
        train, validation, test = (x[torch.as_tensor(label == k)] for k in range(3))
        flow = fit_flow(train, validation, name, seed)
        first = first or (flow, test)
        with torch.no_grad():
            found["SphereFlow"].append(-flow.log_prob(test.float()).mean().item())
        train, validation, test = (points.unsqueeze(1) for points in (train, validation, test))
        mixtures = ((f"{k}, {c:g}", fit_mixture(train, k, c, 60, seed)) for k in COMPONENTS for c in MOST)
        kernels = ((f"{c:g}", kernel_density(train, c)) for c in KERNELS)
        for key, models in (("von Mises–Fisher mixture", mixtures), ("von Mises–Fisher kernels", kernels)):
            chosen, model = best(models, validation)
            found[key].append(-mean_log_prob(model, test))
            print(f"{name} by_place={by_place} seed {seed}: {key} {chosen}", flush=True)
    return found, float(np.mean(seen)), first


def draw(path: Path, panels: dict[str, tuple[flows.Flow, Tensor]]) -> None:
    """Density of the flow, on a map that keeps areas, beside the test events."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    lon = (torch.arange(360) + 0.5) * math.pi / 180 - math.pi
    lat = (torch.arange(180) + 0.5) * math.pi / 180 - math.pi / 2
    lat, lon = torch.meshgrid(lat, lon, indexing="ij")
    grid = torch.stack((lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()), -1)
    figure, axes = plt.subplots(
        len(panels), 2, figsize=(10, 2.7 * len(panels)), subplot_kw={"projection": "mollweide"}, layout="constrained"
    )
    for row, (name, (flow, test)) in zip(axes, panels.items()):
        with torch.no_grad():
            log_density = flow.log_prob(grid.flatten(0, 1)).reshape(180, 360) / math.log(10)
        mesh = row[0].pcolormesh(lon, lat, log_density, vmin=-3, vmax=1.5, cmap="magma", rasterized=True)
        figure.colorbar(mesh, ax=row[0], shrink=0.7, label="log₁₀ density / sr⁻¹")
        row[1].plot(torch.atan2(test[:, 1], test[:, 0]), test[:, 2].clamp(-1, 1).asin(), ".", markersize=2.5)
        row[0].set_title(f"{name}: density of the flow", fontsize=10)
        row[1].set_title("test events", fontsize=10)
        for axis in row:
            axis.set(xticklabels=[], yticklabels=[])
            axis.grid(alpha=0.2)
    figure.savefig(path, dpi=80)


def main() -> None:
    arguments = parser(__doc__.splitlines()[0]).parse_args()
    rows, panels = [], {}
    for name in EPOCHS:
        data = load(arguments.data, f"earth_{name}.npz")
        x = torch.as_tensor(data["x"])
        places = np.unique(data["latlon_deg"], axis=0, return_inverse=True)[1].reshape(-1)
        for by_place in (False, True):
            found, seen, first = study(name, x, places, by_place, arguments.seeds)
            if by_place:
                panels[name] = first
            split = "places" if by_place else "events"
            rows += [(name, split, f"{100 * seen:.0f}", key, mean_se(values)) for key, values in found.items()]
            rows.append((name, split, f"{100 * seen:.0f}", "uniform", f"{math.log(4 * math.pi):.2f}"))
    print(header() + "\n")
    print(table(("data", "split by", "test places seen, %", "model", "NLL"), rows))
    if arguments.picture:
        draw(arguments.picture, panels)


if __name__ == "__main__":
    main()
