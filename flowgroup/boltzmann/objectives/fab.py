"""Training by annealed importance sampling, which finds modes that the flow misses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowgroup._checks import positive_integer
from flowgroup.boltzmann.estimators import effective_sample_size
from flowgroup.boltzmann.objectives.energies import over_event
from flowgroup.boltzmann.objectives.objective import Loss
from flowgroup.boltzmann.objectives.replay_buffer import ReplayBuffer
from flowgroup.boltzmann.samplers import ais
from flowgroup.boltzmann.samplers.hmc import HMC
from flowgroup.boltzmann.samplers.kernels import Kernel
from flowgroup.boltzmann.targets import Target
from flowgroup.flows import Flow

LARGEST_RATIO = 10.0
"""Of densities then and now: no old sample outweighs the rest of its batch."""


class FAB:
    """∫p²/q, minimal for q = p and infinite where a mode is missed, by −Σ w̄ᵢ·log q(xᵢ) with (x, w) from AIS to p²/q.

    Annealed importance sampling carries samples of the flow to where p²/q is large, so that modes which the flow knows
    little of are found and learned; no gradient goes through it.

    With a buffer, samples of AIS are kept and serve for several steps: a step draws rows in proportion to w, and takes
    −mean(r·log q) with r = q_then/q the change of the flow since w was right, at most 10; then w becomes r·w. AIS, the
    costly part, is run for one step out of `updates`.

    Args:
        levels: intermediate densities of `ais`.
        kernel: its Markov kernel, whose step size is tuned on the way; `HMC(leapfrog=5)` by default.
        steps: steps at every level.
        buffer: samples to keep, at least `updates` batches; 0 for none.
        updates: steps for each run of AIS; 1 without a buffer. Before the first there are that many runs.

    Raises:
        ValueError: several updates without a buffer; and when called, a buffer that does not hold `updates` batches.

    Source: Flow Annealed Importance Sampling Bootstrap, 2023, arXiv 2208.01893, Section 3 and Algorithm 1.

    Example:
        >>> from flowgroup import boltzmann, flows
        >>> loss, metrics = FAB(levels=2)(flows.NSF(2, transforms=1), boltzmann.DoubleWell(), 64)
        >>> sorted(metrics)
        ['ESS of AIS', 'nonfinite']
        >>> objective = FAB(buffer=1000, updates=4)
        >>> loss, metrics = objective(flows.NSF(2, transforms=1), boltzmann.DoubleWell(), 64)
        >>> sorted(metrics)
        ['ESS of buffer', 'nonfinite']
    """

    def __init__(
        self, levels: int = 4, kernel: Kernel | None = None, steps: int = 1, buffer: int = 0, updates: int = 1
    ):
        self.levels, self.steps = levels, steps
        self.kernel = HMC(leapfrog=5) if kernel is None else kernel
        self.updates = positive_integer("updates", updates)
        self.buffer = ReplayBuffer(positive_integer("buffer", buffer)) if buffer else None
        if self.buffer is None and updates > 1:
            raise ValueError(f"updates must be 1 without a buffer, got {updates}")
        self.calls = 0

    def __call__(self, flow: Flow, target: Target, n: int, data: Tensor | None = None) -> Loss:
        if self.buffer is not None:
            return self._replay(self.buffer, flow, target, n)
        x, log_w, bad = self._annealed(flow, target, n)
        loss = -(log_w.softmax(0).nan_to_num(0.0) * flow(x)).sum()
        return loss, {"ESS of AIS": effective_sample_size(log_w), "nonfinite": bad}

    def _replay(self, buffer: ReplayBuffer, flow: Flow, target: Target, n: int) -> Loss:
        if buffer.size < n * self.updates:
            raise ValueError(f"buffer must hold {self.updates} batches of {n}, got {buffer.size}")
        like = next(flow.parameters())
        buffer.to(like)
        nonfinite = torch.zeros((), dtype=torch.int64, device=like.device)
        runs = 0 if self.calls % self.updates else 1 if len(buffer) else self.updates
        for _ in range(runs):
            x, log_w, bad = self._annealed(flow, target, n)
            with torch.no_grad():
                buffer.add(x, log_w, flow(x))
            nonfinite = nonfinite + bad
        self.calls += 1

        rows = buffer.draw(n)
        good = buffer.log_w[rows] > -torch.inf
        log_q = flow(buffer.x[rows])
        ratio = buffer.update_(rows, log_q.detach())
        loss = -(torch.where(good, ratio.exp().clamp(max=LARGEST_RATIO), 0) * log_q).sum() / n
        return loss, {"ESS of buffer": effective_sample_size(buffer.log_w), "nonfinite": nonfinite}

    def _annealed(self, flow: Flow, target: Target, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Samples of p²/q, their log-weights, and how many are bad: these have no weight, and a good one's place."""
        x, log_w = ais(target, flow, (n,), levels=self.levels, kernel=self.kernel, steps=self.steps, alpha=2.0)
        good = log_w > -torch.inf
        return torch.where(over_event(good, x), x, x[good.int().argmax()]), log_w, (~good).sum()

    def state_dict(self) -> dict[str, Any]:
        """What was tuned and kept."""
        kept = {} if self.buffer is None else {"calls": self.calls, "buffer": self.buffer.state_dict()}
        return {"step_size": self.kernel.step_size, **kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What was tuned and kept, back."""
        self.kernel.step_size = state["step_size"]
        if self.buffer is not None:
            self.calls = state["calls"]
            self.buffer.load_state_dict(state["buffer"])

    def __repr__(self) -> str:
        kept = "" if self.buffer is None else f", buffer={self.buffer.size}, updates={self.updates}"
        return f"FAB(levels={self.levels}, steps={self.steps}, kernel={type(self.kernel).__name__}{kept})"
