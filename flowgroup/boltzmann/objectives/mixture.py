"""Objectives added up."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from flowgroup.boltzmann.objectives.objective import Loss, Objective, describe
from flowgroup.boltzmann.targets import Target
from flowgroup.flows import Flow


class Mixture:
    """Σᵢ λᵢ·lossᵢ: reverse KL for the shape of the modes and likelihood so that none is lost, for instance.

    Args:
        terms: pairs (λᵢ, objective), λᵢ ≥ 0. Metrics of one name are told apart by the number of their term.

    Raises:
        ValueError: no terms, weights that are negative or not finite.

    Source: Boltzmann Generators, 2019, arXiv 1812.01729.

    Example:
        >>> from flowgroup import boltzmann
        >>> objective = boltzmann.Mixture((0.5, boltzmann.reverse_kl), (0.5, boltzmann.maximum_likelihood))
    """

    def __init__(self, *terms: tuple[float, Objective]):
        if not terms or not all(0 <= weight < float("inf") for weight, _ in terms):
            raise ValueError(f"terms must be pairs of a weight, 0 or larger, and an objective, got {terms!r}")
        self.terms = terms

    def __call__(self, flow: Flow, target: Target, n: int, data: Tensor | None = None) -> Loss:
        total: Tensor | float = 0.0
        metrics: dict[str, Tensor] = {}
        for i, (weight, objective) in enumerate(self.terms):
            loss, told = objective(flow, target, n, data)
            total = total + weight * loss
            metrics |= {f"{name} {i}" if name in metrics else name: value for name, value in told.items()}
        return total, metrics

    def state_dict(self) -> dict[str, Any]:
        """Those of the terms that have one."""
        return {str(i): f.state_dict() for i, (_, f) in enumerate(self.terms) if hasattr(f, "state_dict")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Those of the terms, back."""
        for i, content in state.items():
            self.terms[int(i)][1].load_state_dict(content)

    def __repr__(self) -> str:
        return f"Mixture({', '.join(f'{weight:g}·{describe(f)}' for weight, f in self.terms)})"
