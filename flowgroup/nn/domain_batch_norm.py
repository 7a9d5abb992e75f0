"""Batch normalization with statistics for each domain."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from flowgroup._checks import values_readable
from flowgroup.manifolds import Manifold
from flowgroup.nn.precision import full_precision
from flowgroup.nn.riemannian_batch_norm import RiemannianBatchNorm


class DomainBatchNorm(nn.Module):
    """Points of every domain (session, subject, site) normalized by the statistics of their domain alone.

    Bias and scale are shared: all domains get the same mean and variance. A new domain is met by `adapt`, which needs
    no labels of classes. All domains go through the layer at once, whatever the labels are, so it compiles in full as
    the layer does. Under `torch.distributed` processes may bring different domains.

    Means are those of the layer, but for angles (`Torus`, `SO2`), where they take `karcher_steps` from the direction of
    the mean in place of a closed form: that differs where a domain is spread over more than half the circle.

    Args:
        layer: how a domain is normalized, a `LieBN` say; it is copied. A `training_momentum` of it is called with the
            counts of all domains in one tensor.
        domains: the integer labels of the domains.

    Shape: x (*batch, *more, *shape, *event) and domain (*batch) -> that of x; most often domain is (n,).

    Raises:
        ValueError: labels that are not known, or not one for each entry of x; and what the layer raises. No statistics
            are changed then. Where values are not looked at (`validate_args=False` in the layer, torch.compile, vmap),
            entries of unknown domains count for nothing and come back as NaN.

    Source: SPD domain-specific batch normalization to crack interpretable unsupervised domain adaptation in EEG, 2022,
        arXiv 2206.01323.

    Example:
        >>> from flowgroup.groups import SO2
        >>> from flowgroup.nn import LieBN
        >>> layer = DomainBatchNorm(LieBN(SO2()), domains=[0, 1])
        >>> domain = torch.arange(60) % 2
        >>> x = SO2().exp(0.1 * torch.rand(60, 1) + 3.0 * domain.unsqueeze(1))
        >>> angles = SO2().log(layer(x, domain))
        >>> bool(angles[domain == 0].mean().abs() < 1e-5), bool(angles[domain == 1].mean().abs() < 1e-5)
        (True, True)
    """

    def __init__(self, layer: RiemannianBatchNorm, domains: Iterable[int]):
        super().__init__()
        if not isinstance(layer, RiemannianBatchNorm):
            raise TypeError(f"layer must be a batch normalization such as LieBN, got {type(layer).__name__}")
        if not layer.track_running_stats:
            raise ValueError("layer must have running statistics, and its track_running_stats is False")
        domains = [_label(d) for d in domains]
        if not domains or len(set(domains)) < len(domains):
            raise ValueError(f"domains must be one or more different integers, got {domains}")
        self.layers = nn.ModuleDict()
        first = copy.deepcopy(layer)
        for domain in domains:
            self._add(domain, first)

    @property
    def domains(self) -> list[int]:
        """Labels of the domains that have statistics."""
        return [int(name) for name in self.layers]

    @property
    def shared(self) -> RiemannianBatchNorm:
        """The layer of the first domain, of which bias and scale are those of all."""
        return next(iter(self.layers.values()))

    @full_precision
    def forward(self, x: Tensor, domain: Tensor) -> Tensor:
        self._check(x, domain)
        layer, layers = self.shared, list(self.layers.values())
        batch = self._batch_shape(x)
        domain = domain.reshape(domain.shape + (1,) * (len(batch) - domain.dim())).expand(batch).reshape(-1)
        match = domain.unsqueeze(1) == torch.tensor(self.domains, device=domain.device)
        known = match.any(1)
        batches = DomainBatches(match.int().argmax(1), known.to(x.dtype), len(layers), layer._all_reduce)
        buffers = {
            name: torch.stack([d.get_buffer(name) for d in layers]) for name, _ in layer.named_buffers(recurse=False)
        }
        ones = [1] * len(layer.shape)
        buffers["num_batches_tracked"] = buffers["num_batches_tracked"].reshape(-1, *ones)
        points = x.reshape(-1, *x.shape[len(batch) :])
        out, new = layer._normalize(points, buffers, batches)
        for name, values in new.items():
            for d, value, count in zip(layers, values, batches.counts):
                buffer = d.get_buffer(name)
                buffer[...] = torch.where(count > 0, value.reshape(buffer.shape).to(buffer.dtype), buffer)
        return torch.where(known.reshape(-1, *[1] * (out.dim() - 1)), out, torch.nan).reshape(x.shape)

    @full_precision
    def adapt(self, x: Tensor, domain: Tensor) -> None:
        """Set the statistics of every domain in `domain` to those of its part of x, adding what is new."""
        self.shared._check(x)
        self._check_labels(x, domain)
        for label in domain.unique().tolist():
            if label not in self.domains:
                self._add(label, self.shared)
            self.layers[str(label)].adapt(x[domain == label])

    def _add(self, domain: int, like: RiemannianBatchNorm) -> None:
        """A layer of its own for the domain, with the bias and the scale of `like`."""
        layer = like
        if len(self.layers):
            layer = copy.deepcopy(like)
            layer.reset_running_stats()
            layer.log_scale = like.log_scale
            if hasattr(like, "parametrizations"):
                layer.parametrizations = like.parametrizations
            else:
                layer.bias = like.bias
        self.layers[str(domain)] = layer

    def _batch_shape(self, x: Tensor) -> torch.Size:
        return x.shape[: x.dim() - len(self.shared.shape) - self.shared.space.ndim]

    def _check(self, x: Tensor, domain: Tensor) -> None:
        self.shared._check(x)
        self._check_labels(x, domain)
        if not (self.shared.validate_args and values_readable(domain)):
            return
        unknown = ~torch.isin(domain, torch.tensor(self.domains, device=domain.device))
        if unknown.any():
            raise ValueError(
                f"domain holds {sorted(domain[unknown].unique().tolist())}, but there are statistics for "
                f"{self.domains} only; `adapt` adds a domain"
            )

    def _check_labels(self, x: Tensor, domain: Tensor) -> None:
        if not isinstance(domain, Tensor) or domain.is_floating_point() or domain.is_complex():
            got = getattr(domain, "dtype", type(domain).__name__)
            raise TypeError(f"domain must be a tensor of integers, got {got}")
        batch = self._batch_shape(x)
        if domain.dim() > len(batch) or domain.shape != batch[: domain.dim()]:
            raise ValueError(
                f"domain must hold one label for each entry of x, whose batch has shape {tuple(batch)}, "
                f"got shape {tuple(domain.shape)}"
            )


class DomainBatches:
    """Statistics over the points of every domain, on all processes: a `Batch` for each.

    To each other, the points of a domain are what processes are that bring one point each: their sum is that over all
    points of the domain, and every one of them gets it. So a mean is iterated for all domains at once, in as many
    operations on points as for one.

    Args:
        index: which domain every point belongs to (n,).
        weights: one for each point that counts, else zero (n,).
        number: of domains.
        all_reduce: the sum over processes, None where there is one.

    Attributes:
        counts: how many points every domain has on all processes (number,).

    Example:
        >>> batches = DomainBatches(torch.tensor([1, 0, 1]), torch.ones(3), 3, None)
        >>> mean = batches.average(torch.tensor([2.0, 5.0, 4.0]))
        >>> mean, batches.at(mean)
        (tensor([5., 3., 0.]), tensor([3., 5., 3.]))
    """

    def __init__(self, index: Tensor, weights: Tensor, number: int, all_reduce: Callable[[Tensor], Tensor] | None):
        self.index, self.weights, self.number, self.all_reduce = index, weights, number, all_reduce
        self.counts = self._sums(weights, index)

    def mean(self, manifold: Manifold, y: Tensor, steps: int | None) -> Tensor:
        """Fréchet means (number, *shape, *event) of points y (n, *shape, *event); the origin where there are none."""
        # one point more in every domain to read the mean from, which counts only where no other does
        origin = manifold.origin(self.number, *y.shape[1:], dtype=y.dtype, device=y.device)
        index = torch.cat([self.index, torch.arange(self.number, device=y.device)])
        weights = torch.cat([self.weights, (self.counts == 0).to(y.dtype)])
        means = manifold.frechet_mean(
            torch.cat([y, origin]).unsqueeze(1),
            weights.reshape(-1, *[1] * (y.dim() - manifold.ndim)),
            dim=1,
            steps=steps,
            all_reduce=lambda v: self._sums(v, index).index_select(0, index),
        )
        return means[len(y) :]

    def average(self, v: Tensor) -> Tensor:
        """Means (number, *shape) of numbers v (n, *shape); zero where there are none."""
        ones = [1] * (v.dim() - 1)
        return self._sums(self.weights.reshape(-1, *ones) * v, self.index) / self.counts.clamp(min=1).reshape(-1, *ones)

    def at(self, statistic: Tensor) -> Tensor:
        """The statistic (number, …) of the domain of every point (n, …)."""
        return statistic.index_select(0, self.index)

    def _sums(self, v: Tensor, index: Tensor) -> Tensor:
        """Sums over all entries of v with the same index, on all processes."""
        sums = v.new_zeros(self.number, *v.shape[1:]).index_add(0, index, v)
        return sums if self.all_reduce is None else self.all_reduce(sums)


def _label(domain: int) -> int:
    if isinstance(domain, bool) or not isinstance(domain, int):
        raise TypeError(f"domains must be integers, got {domain!r}")
    return domain
