"""An objective whose energies are turned on by and by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowgroup._checks import positive_integer
from flowgroup.boltzmann.objectives.kullback_leibler import reverse_kl
from flowgroup.boltzmann.objectives.objective import Loss, Objective, describe
from flowgroup.boltzmann.targets import Target
from flowgroup.boltzmann.targets.base import Altered
from flowgroup.flows import Flow


class Annealed:
    """The objective for β·u, β rising in equal steps from `start` to 1 over the first calls, then for u.

    Between modes a flow cannot move mass once they lie far apart in energy: it must divide it while they are close.

    Args:
        steps: calls until β = 1.
        start: the first β, in (0, 1].
        objective: what is trained on, `reverse_kl` say.

    Raises:
        ValueError: no steps, or a start outside (0, 1].

    Example:
        >>> from flowgroup import boltzmann, flows
        >>> flow, target = flows.RotationFlow(transforms=1), boltzmann.TetrahedralRotor(beta=20.0)
        >>> loss, metrics = Annealed(steps=1000)(flow, target, 64)  # as at beta=3
        >>> metrics["β"]
        tensor(0.1500)
    """

    def __init__(self, steps: int, start: float = 0.15, objective: Objective = reverse_kl):
        if not 0 < start <= 1:
            raise ValueError(f"start must lie in (0, 1], got {start}")
        self.steps, self.start, self.objective = positive_integer("steps", steps), start, objective
        self.calls = 0

    def __call__(self, flow: Flow, target: Target, n: int, data: Tensor | None = None) -> Loss:
        beta = min(self.start + (1 - self.start) * self.calls / self.steps, 1.0)
        self.calls += 1
        loss, metrics = self.objective(flow, _Tempered(target, beta), n, data)
        return loss, {**metrics, "β": torch.tensor(beta, device=loss.device)}

    def state_dict(self) -> dict[str, Any]:
        """Where β is, and what the objective has."""
        inner = {"objective": self.objective.state_dict()} if hasattr(self.objective, "state_dict") else {}
        return {"calls": self.calls, **inner}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Where β was, and what the objective had."""
        self.calls = state["calls"]
        if "objective" in state:
            self.objective.load_state_dict(state["objective"])

    def __repr__(self) -> str:
        return f"Annealed(steps={self.steps}, start={self.start:g}, objective={describe(self.objective)})"


class _Tempered(Altered):
    """β·u."""

    def __init__(self, target: Target, beta: float):
        super().__init__(target)
        self.beta = beta

    def _energy(self, x: Tensor) -> Tensor:
        return self.beta * self.target._energy(x)
