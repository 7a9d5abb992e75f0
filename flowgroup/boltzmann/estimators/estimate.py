"""Numbers with standard errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from flowgroup._checks import positive_integer
from flowgroup.boltzmann.estimators.arguments import check_tensor
from flowgroup.training.randomness import seeded


class Estimate(NamedTuple):
    """A number and its standard error.

    Example:
        >>> print(Estimate(3.60532, 0.00041))
        3.60532 ± 0.00041
        >>> f"{Estimate(3.60532, 0.00041):.2f}"
        '3.61 ± 0.00'
    """

    value: float
    error: float

    def __str__(self) -> str:
        known = 0 < self.error < math.inf
        places = min(max(1 - math.floor(math.log10(self.error)), 0), 12) if known else 4
        return format(self, f".{places}f")

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} ± {self.error:{spec}}" if spec else str(self)


def bootstrap(statistic: Callable[..., Tensor], *samples: Tensor, resamples: int = 200, seed: int = 0) -> Tensor:
    """The statistic of resamples of the rows, drawn with replacement: its spread is that of the statistic.

    Args:
        statistic: takes as many tensors as there are samples.
        samples: tensors (nᵢ, …), resampled independently of each other.
        resamples: how many times.
        seed: of the draws.

    Returns:
        Values (resamples, …).

    Source: Bootstrap Methods: Another Look at the Jackknife, 1979, doi 10.1214/aos/1176344552.

    Example:
        >>> x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
        >>> round(bootstrap(torch.mean, x).std().item(), 2)
        0.03
    """
    positive_integer("resamples", resamples)
    for x in samples:
        check_tensor("samples", x)
    values = []
    with seeded(samples[0].device, seed):
        for _ in range(resamples):
            values.append(statistic(*(x[torch.randint(len(x), (len(x),), device=x.device)] for x in samples)))
    return torch.stack(values)


def weighted_mean(w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Σᵢ wᵢxᵢ and its standard error √(Σᵢ wᵢ²(xᵢ − mean)²), infinite where one sample has all the weight.

    Args:
        w: weights (n,) that add up to one.
        x: values (n, …).

    Example:
        >>> weighted_mean(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 3.0]))
        (tensor(2.), tensor(0.7071))
    """
    mean = torch.tensordot(w, x, 1)
    error = torch.tensordot(w.square(), (x - mean).square(), 1).sqrt()
    return mean, torch.where((w > 0).sum() > 1, error, torch.inf)
