"""Mixtures of distributions of one family."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, constraints

from flowgroup._checks import check_event_shape
from flowgroup.distributions._validate import may_validate


class Mixture(MixtureSameFamily):
    """p(x) = Σₖ wₖ pₖ(x), w = softmax(logits).

    Args:
        logits: log-weights (..., K) up to a constant.
        components: a distribution whose last batch dimension is K.
        validate_args: whether to look at the arguments' values.

    Raises:
        ValueError: a wrong shape, `logits` not numbers.

    Example:
        >>> from flowgroup.distributions import DiagonalNormal
        >>> two = DiagonalNormal(torch.tensor([[-3.0], [3.0]]), torch.ones(2, 1))
        >>> Mixture(torch.zeros(2), two).log_prob(torch.zeros(1))
        tensor(-5.4189)
    """

    arg_constraints = {"logits": constraints.real_vector}

    def __init__(self, logits: Tensor, components: Distribution, validate_args: bool = True):
        if not isinstance(components, Distribution):
            raise TypeError(f"components must be a torch.distributions.Distribution, got {type(components).__name__}")
        if not components.batch_shape:
            raise ValueError(f"components must have a batch dimension for the K components, got {components}")
        check_event_shape("logits", logits, components.batch_shape[-1:])
        if may_validate(validate_args, logits) and not logits.isfinite().all():
            raise ValueError(f"logits must be finite, got {logits}")
        shape = torch.broadcast_shapes(logits.shape, components.batch_shape)
        self.logits = logits.expand(shape)
        components = components if components.batch_shape == shape else components.expand(shape)
        super().__init__(Categorical(logits=self.logits, validate_args=False), components, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance=None) -> Mixture:
        shape = torch.Size(batch_shape) + self.logits.shape[-1:]
        return Mixture(self.logits.expand(shape), self.component_distribution.expand(shape), validate_args=False)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        raise NotImplementedError(
            "a mixture cannot be sampled by reparametrization, since the choice of a component has no derivative; "
            "sample() draws without gradient"
        )
