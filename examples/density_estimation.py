"""Fit flows to two data sets, compare held-out likelihoods with other estimators, and draw data beside samples.

    python examples/density_estimation.py            # little more than a minute
    python examples/density_estimation.py --quick    # a few seconds, to see that everything works

The data are two moons in the plane, whose true density is known, and scikit-learn's 1797 images of handwritten digits.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor

from flowgroup import flows
from flowgroup.distributions import TwoMoons
from flowgroup.nn import MLP
from flowgroup.training import fit_to_data


class Data(NamedTuple):
    """Training rows (n, d), validation rows (n, d), draws of the test set (draws, n, d), noise for training batches."""

    train: Tensor
    validation: Tensor
    test: Tensor
    augment: Callable[[Tensor], Tensor] | None = None


# ---------------------------------------------------------------------------------------------------------------- data


MOONS = TwoMoons(noise=0.05)


def moons() -> Data:
    """Two half circles with noise."""
    train, validation, test = MOONS.sample((12000,)).split((6000, 1000, 5000))
    return Data(train, validation, test[None])


def digits() -> Data:
    """Images of 8×8 pixels with levels 0, …, 16.

    A density of discrete levels would be infinite, so each pixel becomes x + u with u uniform on [0, 1): the density of
    that, in nats, bounds the log-probability of the levels. Training sees new noise in every batch; validation and test
    images come with three draws each.
    """
    levels = torch.tensor(load_digits().data, dtype=torch.float32)
    levels = levels[torch.randperm(len(levels))]
    train, validation, test = levels.split((1297, 250, 250))
    validation, test = (dequantise(x.expand(3, *x.shape)) for x in (validation, test))
    return Data(train, validation.flatten(0, 1), test, augment=dequantise)


def dequantise(levels: Tensor) -> Tensor:
    return levels + torch.rand_like(levels)


# --------------------------------------------------------------------------------------------------------------- flows


def moons_flow() -> flows.Flow:
    """A recipe."""
    return flows.NSF(features=2, transforms=5, bins=8, hidden_features=(64, 64))


def digits_flow() -> flows.Flow:
    """A flow of parts: couplings between pixels of other chequers, rows and columns; dropout against overfitting."""
    row, column = torch.arange(64) // 8, torch.arange(64) % 8
    patterns = (row + column) % 2, row % 2, column % 2
    masks = [pattern == side for pattern in patterns for side in (0, 1)]

    spline = flows.RationalQuadraticSpline(bins=8, bound=5.0)
    couplings = []
    for mask in masks + masks[:2]:
        net = MLP(32, 32 * spline.param_shape[0], hidden_features=(128, 128), dropout=0.3)
        couplings.append(flows.Coupling(spline, features=64, mask=mask, conditioner=net))
    return flows.Flow(flows.Sequential(flows.ActNorm(64), *couplings), base=flows.DiagonalNormal(64))


# ----------------------------------------------------------------------------------------------------------- baselines


def gaussian_log_prob(x: Tensor, train: Tensor, shrinkage: float) -> Tensor:
    """Of the normal distribution with mean and covariance of the training rows, correlations shrunk towards 0."""
    return torch.distributions.MultivariateNormal(train.mean(0), shrunk_covariance(train, shrinkage)).log_prob(x)


def kernel_log_prob(x: Tensor, train: Tensor, shrinkage: float, bandwidth: float) -> Tensor:
    """Of the mean of normal distributions at all training rows, covariance bandwidth² times that of the data."""
    tril = bandwidth * torch.linalg.cholesky(shrunk_covariance(train, shrinkage))
    x, train = (torch.linalg.solve_triangular(tril.mT, rows, upper=True, left=False) for rows in (x, train))
    log_kernel = -0.5 * torch.cdist(x, train).square() - 0.5 * x.shape[-1] * math.log(2 * math.pi)
    return log_kernel.logsumexp(-1) - math.log(len(train)) - tril.diagonal().log().sum()


def shrunk_covariance(x: Tensor, shrinkage: float) -> Tensor:
    covariance = x.mT.cov(correction=0)
    return torch.lerp(covariance, covariance.diag().diag(), shrinkage)


def best_on_validation(log_prob: Callable, data: Data, **choices: tuple[float, ...]) -> Tensor:
    """Log-densities of the test set under the choice of settings that is best on the validation set."""
    train = data.train if data.augment is None else torch.cat([data.augment(data.train) for _ in range(3)])
    train, validation, test = (x.double() for x in (train, data.validation, data.test))
    settings = [dict(zip(choices, values)) for values in product(*choices.values())]
    best = max(settings, key=lambda s: log_prob(validation, train, **s).mean())
    return log_prob(test, train, **best)


SHRINKAGES = (0.0, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0)
BANDWIDTHS = tuple(0.03 * 1.2**i for i in range(20))  # in standard deviations: 0.03 … 0.96


# ------------------------------------------------------------------------------------------------- table and picture


def table(scores: dict[str, dict[str, Tensor]]) -> str:
    """Negative log-likelihood per point ± standard error over test points, each point's noise draws averaged."""
    lines = [
        "| method | two moons, nats | digits, nats | digits, bits/dim |",
        "|---|---|---|---|",
    ]
    for method, log_probs in scores.items():
        cells = []
        for name, unit in (("moons", 1.0), ("digits", 1.0), ("digits", 64 * math.log(2))):
            if name not in log_probs:
                cells.append("")
                continue
            nll = -log_probs[name].double().mean(0) / unit
            places = 1 if name == "digits" and unit == 1 else 3
            cells.append(f"{nll.mean():.{places}f} ± {nll.std() / math.sqrt(len(nll)):.{places}f}")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(path: Path, plane: flows.Flow, points: Tensor, images: flows.Flow, levels: Tensor) -> None:
    """Data beside samples; for the plane also the density."""
    figure = Figure(figsize=(9, 5.3), dpi=120, layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.15))

    axes = above.subplots(1, 3, sharex=True, sharey=True)
    box = (-1.5, 2.5, -1.0, 1.5)
    x = torch.cartesian_prod(torch.linspace(*box[:2], 321), torch.linspace(*box[2:], 201))
    with torch.no_grad():
        density = plane.log_prob(x).exp().reshape(321, 201)
    axes[0].scatter(*points[:2000].T.numpy(), s=2, linewidths=0)
    axes[1].scatter(*plane.sample((2000,)).T.numpy(), s=2, linewidths=0, color="C1")
    axes[2].imshow(density.T.numpy(), origin="lower", extent=box)
    for ax, title in zip(axes, ("two moons: data", "samples of the flow", "density of the flow")):
        ax.set(title=title, aspect="equal", xlim=box[:2], ylim=box[2:])

    samples = images.sample((60,)).floor().clamp(0, 16)
    for ax, shown, title in zip(below.subplots(1, 2), (levels[:60], samples), ("digits: data", "samples of the flow")):
        tiles = torch.nn.functional.pad(shown.reshape(6, 10, 8, 8), (1, 1, 1, 1))
        ax.imshow(tiles.transpose(1, 2).reshape(60, 100).numpy(), cmap="gray", vmin=0, vmax=16)
        ax.set(title=title, xticks=(), yticks=())

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(arguments: list[str] | None = None) -> dict[str, dict[str, Tensor]]:
    """Run it all; log-densities of the test sets, by method and data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=75, help="passes over the training data (default: 75)")
    parser.add_argument("--seed", type=int, default=0, help="of initial weights and training (default: 0)")
    parser.add_argument("--output", type=Path, default=Path("output/density_estimation.png"), help="the picture")
    parser.add_argument("--quick", action="store_true", help="a few epochs only")
    options = parser.parse_args(arguments)
    epochs = 6 if options.quick else options.epochs

    torch.manual_seed(0)  # the same data and splits whatever the seed
    data = {"moons": moons(), "digits": digits()}
    torch.manual_seed(options.seed)
    fitted = {"moons": moons_flow(), "digits": digits_flow()}
    scores: dict[str, dict[str, Tensor]] = {"Gaussian": {}, "kernel density": {}, "flow": {}}
    for name, flow in fitted.items():
        d = data[name]
        print(f"{name}: {len(d.train)} training points of {d.train.shape[-1]} dimensions")
        history = fit_to_data(
            flow,
            d.train,
            validation=d.validation,
            augment=d.augment,
            epochs=epochs,
            batch_size=len(d.train) // 20,
            lr=2e-3,
            seed=options.seed,
        )
        print(history)
        with torch.no_grad():
            scores["flow"][name] = flow.log_prob(d.test)
        scores["Gaussian"][name] = best_on_validation(gaussian_log_prob, d, shrinkage=SHRINKAGES)
        scores["kernel density"][name] = best_on_validation(
            kernel_log_prob, d, shrinkage=(0.0, 0.1, 1.0), bandwidth=BANDWIDTHS
        )
    scores["true density"] = {"moons": MOONS.log_prob(data["moons"].test)}

    print("\nNegative log-likelihood of held-out data (lower is better)\n")
    print(table(scores))
    picture(options.output, fitted["moons"], data["moons"].test[0], fitted["digits"], data["digits"].train)
    print(f"\nData beside samples: {options.output}")
    return scores


if __name__ == "__main__":
    torch.set_num_threads(1)  # the networks are small: a second thread is no gain
    main()
