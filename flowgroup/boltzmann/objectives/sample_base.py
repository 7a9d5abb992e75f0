"""Samples of another target as the base of a flow, for learned free-energy perturbation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from flowgroup._checks import check_rows
from flowgroup.boltzmann.targets import Target


class SampleBase(nn.Module):
    """Equilibrium samples of another target as the base of a flow: q(z) = e^{−u₀(z) − log_unit_volume} = Z₀·p₀(z).

    `Flow(transform, SampleBase(target0, x))` maps samples of one target, or one temperature, to another. The density is
    not normalised: weights have the mean Z₁/Z₀, so log Z of such a flow is −ΔF. Rows are drawn with replacement; their
    energies are computed once. Keep some samples that are not among them for `BoltzmannGenerator.report(rows=...)`:
    from those that the flow was trained on ΔF comes out too low.

    Args:
        target: u₀.
        x: samples (rows, *event) of e^{−u₀}.

    Raises:
        ValueError: x of the wrong shape, or with energies that are not finite.

    Source: Learned free energy perturbation, 2020, arXiv 2002.04913.

    Example:
        >>> from flowgroup import boltzmann, flows
        >>> cold, warm = boltzmann.TetrahedralRotor(20.0), boltzmann.TetrahedralRotor(0.0)
        >>> x = torch.nn.functional.normalize(torch.randn(1000, 4), dim=-1)
        >>> flow = flows.Flow(flows.RotationFlow(transforms=2).transform, SampleBase(warm, x))
        >>> generator = boltzmann.BoltzmannGenerator(flow, cold)
    """

    def __init__(self, target: Target, x: Tensor):
        super().__init__()
        check_rows("x", x, tuple(target.event_shape))
        self.target = target
        self.event_shape = torch.Size(target.event_shape)
        with torch.no_grad():
            log_prob = torch.cat([-target.energy(rows) for rows in x.split(1000)]) - target.log_unit_volume
        if not log_prob.isfinite().all():
            raise ValueError(f"x must have finite energies, but {(~log_prob.isfinite()).sum()} of {len(x)} have not")
        self.register_buffer("x", x.detach().clone(), persistent=False)
        self.register_buffer("x_log_prob", log_prob, persistent=False)

    @property
    def support(self) -> constraints.Constraint:
        """Where the target lives."""
        return self.target.support

    def distribution(self) -> Distribution:
        """The rows as a distribution."""
        return _Rows(self)

    def log_prob(self, z: Tensor) -> Tensor:
        """−u₀(z) − log_unit_volume."""
        return -self.target.energy(z) - self.target.log_unit_volume

    def extra_repr(self) -> str:
        return f"{len(self.x)} rows"


class _Rows(Distribution):
    """Rows of a `SampleBase`, which remembers the energies of those it drew last."""

    arg_constraints: dict = {}
    has_rsample = True

    def __init__(self, base: SampleBase):
        super().__init__(event_shape=base.event_shape, validate_args=False)
        self.base = base
        self._drawn: tuple[Tensor, Tensor] | None = None

    @property
    def support(self):
        return self.base.support

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        i = torch.randint(len(self.base.x), tuple(sample_shape), device=self.base.x.device)
        self._drawn = self.base.x[i], self.base.x_log_prob[i]
        return self._drawn[0]

    sample = rsample

    def log_prob(self, value: Tensor) -> Tensor:
        if self._drawn is not None and value is self._drawn[0]:
            return self._drawn[1]
        return self.base.log_prob(value)
