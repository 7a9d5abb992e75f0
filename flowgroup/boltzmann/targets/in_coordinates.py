"""A target in other coordinates, in which it is easier to sample."""

from __future__ import annotations

import torch
from torch import Tensor

from flowgroup.boltzmann.targets.base import Target
from flowgroup.flows.transform import Transform


class InCoordinates(Target):
    """u′(y) = u(x) − log|det ∂x/∂y|, x = t⁻¹(y): a target in the coordinates y = t(x), with the same Z.

    Markov chains take longer steps where all motions are about equally fast, along bonds, angles and torsions
    (`flows.InternalCoordinates`) or principal axes (`flows.Whitening`); and a flow between two temperatures, on a
    `SampleBase`, need not learn what the coordinates know.

    Args:
        target: u.
        transform: t, without a context; its parameters are not to be trained.

    Raises:
        TypeError, ValueError: what is no target or transform; events that do not fit, a transform with a context.

    Source: Targeted free energy perturbation, 2002, arXiv cond-mat/0204426.

    Example:
        >>> from flowgroup import boltzmann, flows
        >>> target = InCoordinates(boltzmann.DW4(), flows.MeanFreeChart(4, 2))  # orthonormal coordinates
        >>> x = target.transform.inverse(y := torch.randn(5, 6))[0]
        >>> x.shape, torch.allclose(target.energy(y), target.target.energy(x))
        (torch.Size([5, 4, 2]), True)
    """

    def __init__(self, target: Target, transform: Transform):
        super().__init__()
        if not isinstance(target, Target):
            raise TypeError(f"target must be a flowgroup.boltzmann.Target, got {type(target).__name__}")
        if not isinstance(transform, Transform):
            raise TypeError(f"transform must be a flowgroup.flows.Transform, got {type(transform).__name__}")
        if tuple(transform.in_shape) != tuple(target.event_shape):
            raise ValueError(
                f"transform takes events of shape {tuple(transform.in_shape)}, "
                f"but target has those of {tuple(target.event_shape)}"
            )
        if transform.context_features:
            raise ValueError(f"transform must have no context, got one of size {transform.context_features}")
        self.target, self.transform = target, transform
        self.event_shape, self.support = torch.Size(transform.out_shape), transform.codomain
        self.temperature, self.log_unit_volume = target.temperature, target.log_unit_volume
        if getattr(target, "log_z", None) is not None:
            self.log_z = target.log_z

    def _energy(self, y: Tensor) -> Tensor:
        x, logdet = self.transform.inverse(y)
        return self.target.energy(x) - logdet

    def extra_repr(self) -> str:
        return f"{type(self.target).__name__}({self.target.extra_repr()}), {type(self.transform).__name__}"
