"""The contract of an objective, what a flow is trained on to become a Boltzmann generator."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from flowgroup.boltzmann.targets import Target
from flowgroup.flows import Flow

Loss = tuple[Tensor, dict[str, Tensor]]


class Objective(Protocol):
    """A function of a flow, a target, a number of samples and data (rows, *event), which some do without.

    It gives a loss and metrics: real ones, whose mean over steps tells something, and whole numbers, that add up. One
    that changes from call to call has `state_dict` and `load_state_dict`.
    """

    def __call__(self, flow: Flow, target: Target, n: int, data: Tensor | None = None) -> Loss: ...


def describe(objective: Objective) -> str:
    """An objective and its options in words, to tell runs apart."""
    options = getattr(objective, "keywords", None)
    if options is not None:  # a functools.partial
        told = ", ".join(f"{name}={value!r}" for name, value in sorted(options.items()))
        return f"{describe(objective.func)}({told})"
    if type(objective).__repr__ is object.__repr__:  # which tells where it is in memory
        return type(objective).__qualname__
    return getattr(objective, "__qualname__", None) or repr(objective)
