"""Spline flows on four densities of the plane that are known exactly: likelihood, reverse check, distance on a grid.

python benchmarks/density_quality.py [--seeds N] [--picture FILE]
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from _tables import header, mean_se, parser, table
from sklearn.mixture import GaussianMixture
from torch import Tensor

from flowgroup import flows
from flowgroup.distributions import toy
from flowgroup.training import fit_to_data

TRAIN, VALIDATION, TEST = 10_000, 5_000, 20_000
COMPONENTS = (8, 24, 64)
TARGETS = {
    "two moons": (toy.TwoMoons(), (-1.6, 2.6, -1.1, 1.6)),
    "rings": (toy.Rings(), (-3.5, 3.5, -3.5, 3.5)),
    "checkerboard": (toy.Checkerboard(), (-4.5, 4.5, -4.5, 4.5)),
    "eight Gaussians": (toy.EightGaussians(), (-3.2, 3.2, -3.2, 3.2)),
}
COLUMNS = ("density", "model", "NLL", "KL(p‖q)", "KL(q‖p)", "outside, %", "total variation, %")


def fit_flow(x: Tensor, validation: Tensor, seed: int) -> flows.Flow:
    torch.manual_seed(seed)
    flow = flows.NSF(features=2, transforms=6, bins=16, hidden_features=(64, 64))
    fit_to_data(flow, x, validation=validation, epochs=50, batch_size=512, lr=5e-3, seed=seed, progress=False)
    return flow


class Gaussians:
    """A mixture of full Gaussians, as many as the validation points like best."""

    def __init__(self, x: Tensor, validation: Tensor, seed: int):
        fits = [GaussianMixture(k, random_state=seed, reg_covar=1e-5).fit(x.numpy()) for k in COMPONENTS]
        self.best = max(fits, key=lambda fit: fit.score(validation.numpy()))

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.best.score_samples(x.numpy()))

    def sample(self, shape: tuple[int]) -> Tensor:
        return torch.from_numpy(self.best.sample(shape[0])[0]).float()


@torch.no_grad()
def scores(target, model, bounds) -> list[float]:
    """The columns of the table: by points of the target, by points of the model, by a grid."""
    x, y = target.sample((TEST,)), model.sample((TEST,))
    log_p, log_q = target.log_prob(x).double(), model.log_prob(x).double()
    own_p, own_q = target.log_prob(y).double(), model.log_prob(y).double()
    # outside: where the density is below that of all but one in a thousand of the target's own points
    outside = (own_p < log_p.quantile(1e-3) - 1e-6).double().mean()
    grid, area = cells(bounds)
    off = (target.log_prob(grid).double().exp() - model.log_prob(grid).double().exp()).abs().sum() * area / 2
    values = -log_q.mean(), (log_p - log_q).mean(), (own_q - own_p).mean(), 100 * outside, 100 * off
    return [v.item() for v in values]


def cells(bounds: tuple[float, float, float, float], n: int = 500) -> tuple[Tensor, float]:
    """Middles of n × n cells that fill the frame, and the area of a cell."""
    left, right, low, high = bounds
    at = (torch.arange(n) + 0.5) / n
    x, y = torch.meshgrid(left + (right - left) * at, low + (high - low) * at, indexing="xy")
    return torch.stack((x, y), -1).reshape(-1, 2), (right - left) * (high - low) / n**2


def draw(path: Path, panels: dict[str, flows.Flow]) -> None:
    """True density, density of the flow and samples of the flow: a row for each target."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(3, len(panels), figsize=(2.4 * len(panels), 7.2), layout="constrained")
    for column, (name, flow) in zip(axes.T, panels.items()):
        target, bounds = TARGETS[name]
        grid, _ = cells(bounds, 200)
        with torch.no_grad():
            maps = [d.log_prob(grid).exp().reshape(200, 200).numpy() for d in (target, flow)]
            points = flow.sample((4000,)).numpy()
        for axis, density in zip(column, maps):
            axis.imshow(density, extent=bounds, origin="lower", vmin=0, vmax=maps[0].max(), cmap="magma")
        column[2].plot(*points.T, ".", markersize=0.8, alpha=0.5, color="black", rasterized=True)
        column[2].set(xlim=bounds[:2], ylim=bounds[2:], aspect="equal")
        column[0].set_title(name)
        for axis in column:
            axis.set(xticks=[], yticks=[])
    for axis, label in zip(axes[:, 0], ("true density", "density of the flow", "samples of the flow")):
        axis.set_ylabel(label)
    figure.savefig(path, dpi=80)


def main() -> None:
    arguments = parser(__doc__.splitlines()[0], data=False).parse_args()
    rows, panels = [], {}
    for name, (target, bounds) in TARGETS.items():
        found: dict[str, list[list[float]]] = {"NSF": [], "Gaussian mixture": []}
        for seed in range(arguments.seeds):
            torch.manual_seed(1000 + seed)
            x, validation = target.sample((TRAIN,)), target.sample((VALIDATION,))
            models = {"NSF": fit_flow(x, validation, seed), "Gaussian mixture": Gaussians(x, validation, seed)}
            panels.setdefault(name, models["NSF"])
            for model in models:
                found[model].append(scores(target, models[model], bounds))
        for model, values in found.items():
            columns = zip(np.array(values).T, (3, 3, 3, 2, 1))
            rows.append((name, model, *(mean_se(c, k) if np.isfinite(c).all() else "∞" for c, k in columns)))
        nll, forward = np.array(found["NSF"]).T[:2]  # the true density on the same points
        rows.append(
            (name, "truth", mean_se(nll - forward, 3), "0", "0", "0" if name == "checkerboard" else "0.10", "0")
        )
    print(header() + "\n")
    print(table(COLUMNS, rows))
    if arguments.picture:
        draw(arguments.picture, panels)


if __name__ == "__main__":
    main()
