"""The loop of a training run, whatever its loss: epochs of optimizer steps, progress, checkpoints, resume."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flowgroup.flows import Flow
from flowgroup.training.checkpoint import RunState, load_checkpoint, save_checkpoint
from flowgroup.training.descent import SCHEDULES, Descent, DivergenceError, adamw
from flowgroup.training.history import History
from flowgroup.training.parallel import Processes
from flowgroup.training.progress import progress_bar
from flowgroup.training.randomness import seeded


class Part(NamedTuple):
    """This process's part of one optimizer step.

    Attributes:
        loss: its part of the joint loss.
        rows: what the step counts in the mean over the epoch, the same on all processes.
        metrics: more scalars for the history. Whole numbers add up over steps and processes, others are averaged.
    """

    loss: Tensor
    rows: int = 1
    metrics: dict[str, Tensor] = {}


@dataclass
class Run:
    """What a run goes by.

    Attributes:
        flow: what is trained.
        state: what changes, to be saved.
        descent: moves the parameters.
        group: the processes.
        settings: what must be the same for a checkpoint to fit.
        seed: an epoch's randomness is a function of it, the epoch and the process.
        steps: steps of the whole run, None where they are not known.
        path: of the checkpoint, None for none.
        checkpoint_every: epochs from one checkpoint to the next.
        progress: whether to show a progress bar.
    """

    flow: Flow
    state: RunState
    descent: Descent
    group: Processes
    settings: dict[str, Any]
    seed: int
    steps: int | None
    path: Path | None
    checkpoint_every: int
    progress: bool
    _sums: dict[str, Tensor] = field(default_factory=dict)

    def start(self, resume: bool) -> None:
        """Go on from the checkpoint where there is one, if so wanted."""
        path, group = self.path, self.group
        stored = group.from_first(path.read_bytes() if path and resume and group.first and path.exists() else b"")
        if stored:
            self.state.load(load_checkpoint(path, stored, self.settings))
        else:
            self.state.agree(group)
        self.descent.keep_()

    def epochs(
        self,
        parts: Callable[[int], Iterable[Part]],
        finished: Callable[[History], bool],
        validate: Callable[[int], float] | None = None,
    ) -> None:
        """Take the steps of one epoch after the other, until `finished`.

        Args:
            parts: gives those of an epoch, by its number.
            finished: tells from the history.
            validate: gives the validation loss after an epoch.

        Raises:
            DivergenceError: the flow then has its best weights, or the last good ones.
        """
        flow, state, group, history = self.flow, self.state, self.group, self.state.history
        bar = progress_bar("fit", self.steps, history.steps) if self.progress and group.first else None
        try:
            while not finished(history):
                start, epoch = time.perf_counter(), len(history.train)
                with seeded(group.device, self.seed, epoch, 1 + group.rank):
                    flow.train()
                    total, rows, steps = 0.0, 0, 0
                    for part in parts(epoch):
                        total += self.descent.step(part.loss, epoch, history.steps) * part.rows
                        rows, steps = rows + part.rows, steps + 1
                        self._add(part.metrics)
                        history.steps += 1
                        if bar is not None:
                            bar.update()
                    flow.eval()
                    group.share_(flow.buffers())  # running statistics: each process had its own until here
                    loss = None if validate is None else validate(epoch)
                if rows == 0:
                    raise ValueError("data gives no batches")
                if loss is not None and math.isnan(loss):
                    raise DivergenceError("validation loss became nan", epoch, history.steps)
                state.record(total / rows, loss, group.sum(_seconds_since(start, group)).item(), self._collected(steps))
                if bar is not None:
                    bar.set_postfix_str(f"epoch {epoch}, {history.losses()}", refresh=False)
                due = (epoch + 1) % self.checkpoint_every == 0 or finished(history)
                if self.path and group.first and due:
                    save_checkpoint(self.path, {"settings": self.settings, **state.content()})
        except DivergenceError:
            self.descent.restore_()
            state.restore_best_()
            raise
        finally:
            if bar is not None:
                bar.close()
            self.descent.optimizer.zero_grad(set_to_none=True)
            flow.eval()
        state.restore_best_()
        group.wait()

    def _add(self, metrics: dict[str, Tensor]) -> None:
        for name, value in metrics.items():
            value = value.detach()
            self._sums[name] = value + self._sums[name] if name in self._sums else value

    def _collected(self, steps: int) -> dict[str, float]:
        """The metrics of the epoch; one look at the device for all."""
        names = sorted(self._sums)
        values = {name: self._sums.pop(name) for name in names}
        if not names:
            return {}
        sums = self.group.sum(torch.stack([values[name].double() for name in names])).tolist()
        mean = 1 / (steps * self.group.world)
        return {n: s * mean if values[n].is_floating_point() else s for n, s in zip(names, sums)}


def make_optimizer(
    flow: Flow, optimizer: Callable[[list[nn.Parameter]], Optimizer] | None, lr: float, weight_decay: float
) -> Optimizer:
    """Of the trainable parameters: AdamW, or what `optimizer` makes."""
    params = [p for p in flow.parameters() if p.requires_grad]
    made = adamw(params, lr, weight_decay) if optimizer is None else optimizer(params)
    if not isinstance(made, Optimizer):
        raise TypeError(f"optimizer must give a torch.optim.Optimizer, got {type(made).__name__}")
    return made


def common_settings(flow: Flow, optimizer: Optimizer, schedule: str, steps: int | None, **others: Any) -> dict:
    """What tells one run from another."""
    return {
        "flow": _fingerprint(flow),
        "optimizer": type(optimizer).__name__,
        "lr": [float(g["lr"]) for g in optimizer.param_groups],
        "weight_decay": [float(g.get("weight_decay", 0.0)) for g in optimizer.param_groups],
        "schedule": schedule,
        "steps": steps if schedule != "constant" else None,
        **others,
    }


def check_common_arguments(
    flow: Flow, schedule: str, clip_grad_norm: float | None, seed: int, **counts: int | None
) -> None:
    """Raise for arguments that no run takes; counts are positive integers, or None."""
    if not isinstance(flow, Flow):
        raise TypeError(f"flow must be a flowgroup.flows.Flow, got {type(flow).__name__}")
    if not any(p.requires_grad and p.numel() for p in flow.parameters()):
        raise ValueError("flow has no trainable parameters: nothing to fit")
    for name, value in counts.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be an integer, 0 or larger, got {seed!r}")
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {sorted(SCHEDULES)}, got {schedule!r}")
    if clip_grad_norm is not None and not clip_grad_norm > 0:
        raise ValueError(f"clip_grad_norm must be positive or None, got {clip_grad_norm!r}")


def awaits_data(flow: Flow) -> bool:
    """Whether there are layers that set themselves by the first batch they see (ActNorm), and did not yet."""
    return not all(b.all() for name, b in flow.named_buffers() if name.split(".")[-1] == "initialized")


def _seconds_since(start: float, group: Processes) -> Tensor:
    """Of the first process; nothing on the others, so that the sum is the same on all."""
    return torch.tensor(time.perf_counter() - start if group.first else 0.0, device=group.device)


def _fingerprint(flow: Flow) -> str:
    """Which tensors the flow has: their number and a hash of names, shapes and dtypes."""
    tensors = [(k, tuple(v.shape), str(v.dtype)) for k, v in flow.state_dict().items() if isinstance(v, Tensor)]
    return f"{len(tensors)} tensors {hashlib.sha256(repr(tensors).encode()).hexdigest()[:12]}"
