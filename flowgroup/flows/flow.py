"""A flow: a transform from data to latent and a base distribution there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from flowgroup._checks import check_context, check_event_shape, check_finite
from flowgroup.distributions import DiagonalNormal, MultivariateNormal
from flowgroup.flows.bases import Base
from flowgroup.flows.transform import Transform
from flowgroup.manifolds.constraints import joins


class Flow(nn.Module):
    """log p(x | c) = log p_base(t(x, c)) + log|det ∂t/∂x|, the density of x = t⁻¹(z, c) with z from the base.

    Densities are taken with respect to the volume of the manifold x lives on.

    Args:
        transform: t, from data to latent.
        base: distribution of the latent.
        validate_args: whether to look at values (NaN, points off the domain) and raise; if not, the transform is told
            to look at none either.

    Raises:
        ValueError: when event shapes or spaces do not fit.

    Source: Normalizing Flows for Probabilistic Modeling and Inference, 2021, arXiv 1912.02762.

    Example:
        >>> from flowgroup import flows
        >>> flow = flows.Flow(flows.Sequential(flows.ActNorm(2), flows.LULinear(2)), base=flows.DiagonalNormal(2))
        >>> flow.log_prob(torch.randn(5, 2)).shape, flow.sample((3,)).shape
        (torch.Size([5]), torch.Size([3, 2]))
    """

    def __init__(self, transform: Transform, base: Base, validate_args: bool = True):
        super().__init__()
        if len(transform.out_shape) != len(base.event_shape) or any(
            t is not None and t != b for t, b in zip(transform.out_shape, base.event_shape)
        ):
            raise ValueError(
                f"base has events of shape {tuple(base.event_shape)}, but transform gives {transform.out_shape}"
            )
        if not joins(transform.codomain, base.support):
            raise ValueError(f"base lives on {base.support!r}, but transform gives values in {transform.codomain!r}")
        self.transform = transform
        self.base = base
        self.validate_args = validate_args
        if not validate_args:
            for m in transform.modules():
                if isinstance(m, Transform):
                    m.validate_args = False

    @property
    def context_features(self) -> int:
        """Size of the context, 0 for none."""
        return self.transform.context_features

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one data point."""
        shape = self.transform.in_shape
        return torch.Size(self.base.event_shape if None in shape else shape)

    @property
    def _like(self) -> Tensor:
        """A tensor that tells the flow's dtype and device."""
        tensors = itertools.chain(self.parameters(), self.buffers())
        return next((t for t in tensors if t.is_floating_point()), torch.empty(0))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`log_prob` without a look at finiteness: what to compile, and what DDP and FSDP wrap.

        Layers on an interval or a sphere still look whether points are there, unless compiled or built into a flow with
        `validate_args=False`.
        """
        z, logdet = self.transform(x, context)
        return self.base.log_prob(z) + logdet

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density at x.

        Args:
            x: data (*batch, *event).
            context: conditions (*batch, context_features); batch shapes broadcast.

        Returns:
            Log-densities in nats, of the joint batch shape.

        Raises:
            ValueError: wrong shape, context missing or unexpected, NaN or infinite values, points off the domain.
        """
        self.check(x, context)
        return self(x, context)

    def check(self, x: Tensor, context: Tensor | None = None) -> None:
        """Raise what `log_prob` would raise for these arguments."""
        check_event_shape("x", x, self.transform.in_shape)
        check_context(context, self.context_features)
        self._check_values("x", x)
        self._check_values("context", context)

    def _check_values(self, name: str, value: Tensor | None) -> None:
        if value is None:
            return
        dtype = self._like.dtype
        if value.dtype != dtype and not torch.is_autocast_enabled(value.device.type):
            raise TypeError(f"{name} must have the flow's dtype {dtype}, got {value.dtype}")
        if self.validate_args:
            check_finite(name, value)

    @torch.no_grad()
    def sample(self, shape: Sequence[int] = (), context: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Independent samples (*shape, *context batch, *event), without gradient.

        Args:
            shape: how many for each context.
            context: conditions (*batch, context_features).
            temperature: positive factor on the standard deviation of a normal base; below 1 samples are more typical
                and less diverse (Glow, 2018, arXiv 1807.03039, Section 6).

        Raises:
            ValueError: context missing or unexpected, a temperature that is not positive, one other than 1 where the
                base is not normal.
        """
        base = self.base.distribution()
        z = base.sample(self._sample_shape(shape, context))
        if temperature != 1:
            if not 0 < temperature < math.inf:
                raise ValueError(f"temperature must be positive and finite, got {temperature}")
            if not isinstance(base, DiagonalNormal | MultivariateNormal):
                raise ValueError(f"temperature {temperature} needs a normal base, got {type(base).__name__}")
            z = base.mean + temperature * (z - base.mean)
        return self.transform.inverse(z, context)[0]

    def rsample_and_log_prob(self, shape: Sequence[int] = (), context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Samples, differentiable in the parameters, and their log-densities: one pass for both.

        Raises:
            NotImplementedError: when the base cannot be sampled by reparametrization (a mixture).
        """
        base = self.base.distribution()
        z = base.rsample(self._sample_shape(shape, context))
        x, logdet = self.transform.inverse(z, context)
        return x, base.log_prob(z) - logdet

    def _sample_shape(self, shape: Sequence[int], context: Tensor | None) -> torch.Size:
        if isinstance(shape, int):
            raise TypeError(f"shape must be a sequence of integers such as ({shape},), got {shape}")
        check_context(context, self.context_features)
        self._check_values("context", context)
        return torch.Size(shape) + (torch.Size() if context is None else context.shape[:-1])

    def distribution(self, context: Tensor | None = None) -> FlowDistribution:
        """The flow under one (batch of) context as a torch.distributions.Distribution."""
        return FlowDistribution(self, context)


class FlowDistribution(Distribution):
    """A flow with its context filled in, seen as a torch.distributions.Distribution."""

    arg_constraints: dict = {}

    def __init__(self, flow: Flow, context: Tensor | None = None):
        check_context(context, flow.context_features)
        self.flow, self.context = flow, context
        self.has_rsample = flow.base.distribution().has_rsample
        batch_shape = torch.Size() if context is None else context.shape[:-1]
        super().__init__(batch_shape, flow.event_shape, validate_args=False)

    @property
    def support(self):
        domain = self.flow.transform.domain
        scalars = len(self.event_shape) - domain.event_dim
        return constraints.independent(domain, scalars) if scalars else domain

    def log_prob(self, value: Tensor) -> Tensor:
        return self.flow.log_prob(value, self.context)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.flow.sample(sample_shape, self.context)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.flow.rsample_and_log_prob(sample_shape, self.context)[0]
