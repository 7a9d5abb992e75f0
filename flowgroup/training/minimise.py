"""Minimise any loss of a flow that draws its own batches: the distance to a known energy, for instance."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from flowgroup.flows import Flow
from flowgroup.training.checkpoint import RunState
from flowgroup.training.compiled import compiled
from flowgroup.training.descent import Descent
from flowgroup.training.history import History
from flowgroup.training.loop import Part, Run, check_common_arguments, common_settings, make_optimizer
from flowgroup.training.parallel import data_parallel, processes

Objective = Callable[[Flow], tuple[Tensor, dict[str, Tensor]]]


def minimise(
    flow: Flow,
    objective: Objective,
    *,
    steps: int = 1000,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
    schedule: str = "cosine",
    clip_grad_norm: float | None = 5.0,
    steps_per_epoch: int = 20,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int = 1,
    resume: bool = True,
    compile: bool = False,
    seed: int = 0,
    progress: bool = True,
    settings: dict[str, Any] | None = None,
) -> History:
    """min_θ E[loss(θ)] by stochastic gradient descent on an objective that draws its own batches.

    Everything is as in `fit_to_data`, with epochs of `steps_per_epoch` steps: the flow is trained in place and left in
    eval mode, an interrupted run goes on bit for bit from its checkpoint, processes average their gradients (and each
    draws its own batches), and the global generators of random numbers are as before afterwards.

    Args:
        flow: what to train.
        objective: takes the flow, draws with the global generators, and gives the loss and other scalars for the
            history by name: means over an epoch, totals of those of integer dtype. One that changes from call to call
            has `state_dict` and `load_state_dict`, for the checkpoint.
        steps: optimizer steps.
        lr, weight_decay, optimizer, schedule, clip_grad_norm: as in `fit_to_data`.
        steps_per_epoch: steps from one entry of the history to the next.
        checkpoint, checkpoint_every, resume, compile, seed, progress: as in `fit_to_data`.
        settings: plain values that tell this objective from others, so that no checkpoint of another one is taken.

    Returns:
        Losses and metrics per epoch.

    Raises:
        TypeError, ValueError: wrong arguments, a checkpoint of another run.
        DivergenceError: the loss or a gradient became NaN or infinite. The flow then has the last weights for which
            both were finite.

    Example:
        >>> from flowgroup import flows
        >>> flow = flows.Flow(flows.Elementwise(flows.Affine(), features=2), base=flows.DiagonalNormal(2))
        >>> def objective(flow):  # the cross-entropy with a normal distribution of spread ½
        ...     x, log_q = flow.rsample_and_log_prob((64,))
        ...     loss = (log_q + 2 * x.square().sum(-1)).mean()
        ...     return loss, {"spread": x.std()}
        >>> history = minimise(flow, objective, steps=200, lr=0.05, progress=False)
        >>> bool(abs(history.metrics["spread"][-1] - 0.5) < 0.05)
        True
    """
    check_common_arguments(
        flow, schedule, clip_grad_norm, seed, steps=steps, steps_per_epoch=steps_per_epoch,
        checkpoint_every=checkpoint_every,
    )  # fmt: skip
    with processes(flow) as group:
        stepper = make_optimizer(flow, optimizer, lr, weight_decay)
        told = common_settings(
            flow,
            stepper,
            schedule,
            steps,
            steps_per_epoch=steps_per_epoch,
            clip_grad_norm=clip_grad_norm,
            seed=seed,
            **(settings or {}),
        )
        others = [objective] if hasattr(objective, "state_dict") else []
        descent = Descent(flow, stepper, schedule, steps, clip_grad_norm, group)
        state = RunState(flow, stepper, [], others)
        path = None if checkpoint is None else Path(checkpoint)
        run = Run(flow, state, descent, group, told, seed, steps, path, checkpoint_every, progress)
        run.start(resume)

        with compiled(flow, compile), data_parallel(_Loss(flow, objective), group) as loss:

            def parts(epoch: int) -> Iterator[Part]:
                for _ in range(min(steps_per_epoch, steps - state.history.steps)):
                    value, metrics = loss()
                    yield Part(value / group.world, 1, metrics)

            run.epochs(parts, lambda history: history.steps >= steps)
    return state.history


class _Loss(nn.Module):
    """The objective as a module without arguments, the form that several processes can train."""

    def __init__(self, flow: Flow, objective: Objective):
        super().__init__()
        self.flow = flow
        self._objective = (objective,)  # in a tuple, so that it is no part of the module

    def forward(self) -> tuple[Tensor, dict[str, Tensor]]:
        return self._objective[0](self.flow)
