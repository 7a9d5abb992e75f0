"""Optimizer steps that never use a bad gradient and remember the last good weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from flowgroup.training.parallel import Processes

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0))),
}


class DivergenceError(RuntimeError):
    """The loss or its gradient became NaN or infinite.

    Attributes:
        epoch: index of the epoch.
        step: index of the optimizer step, counted over the whole run.
    """

    def __init__(self, what: str, epoch: int, step: int):
        super().__init__(
            f"{what} at epoch {epoch}, step {step} of the run (both counted from 0); the flow was set back to its last "
            f"good weights. A lower lr, a lower clip_grad_norm or float64 may help; look for outliers in the data."
        )
        self.epoch, self.step = epoch, step


def adamw(params: list[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
    """AdamW, in one kernel where there is one."""
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda", "mps", "xpu") for p in params)
    return AdamW(params, lr=lr, weight_decay=weight_decay, fused=fused)


class Descent:
    """θ ← θ − lr(step)·optimizer(clip(∇loss)), as long as loss and gradient are finite.

    Args:
        module: what is trained; the last of its states whose loss and gradient were finite is kept.
        optimizer: of its trainable parameters.
        schedule: "cosine" or "constant".
        steps: length of the schedule; None where it is not known.
        clip_grad_norm: bound on the norm of the gradient, None for none.
        group: the processes that hold a part of the loss each.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        schedule: str,
        steps: int | None,
        clip_grad_norm: float | None,
        group: Processes,
    ):
        self.optimizer, self.schedule, self.steps = optimizer, SCHEDULES[schedule], steps
        self.clip_grad_norm, self.group = clip_grad_norm, group
        self.base_lrs = [float(g["lr"]) for g in optimizer.param_groups]
        self.params = [p for g in optimizer.param_groups for p in g["params"]]
        self.module = module
        now, self._good = module.state_dict(), copy.deepcopy(module.state_dict())
        names = [k for k, v in now.items() if isinstance(v, Tensor)]
        self._pairs = [self._good[k] for k in names], [now[k] for k in names]

    def step(self, loss: Tensor, epoch: int, step: int) -> float:
        """Move against the gradient of the joint loss, of which `loss` is this process's part, and return its value.

        Raises:
            DivergenceError: NaN or infinity; nothing has moved then.
        """
        self.optimizer.zero_grad(set_to_none=True)
        (loss * self.group.world).backward()  # DistributedDataParallel gives the mean of gradients: of the joint loss
        norm = nn.utils.get_total_norm([p.grad for p in self.params if p.grad is not None])
        value, size = torch.stack((self.group.sum(loss.detach().clone()), norm.to(loss))).tolist()
        for what, v in (("training loss", value), ("norm of the gradient", size)):
            if not math.isfinite(v):
                raise DivergenceError(f"{what} became {v}", epoch, step)
        self.keep_()
        if self.clip_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(self.params, self.clip_grad_norm, norm)
        factor = self.schedule(step / self.steps if self.steps else 0.0)
        for g, base in zip(self.optimizer.param_groups, self.base_lrs):
            g["lr"] = base * factor
        self.optimizer.step()
        return value

    def keep_(self) -> None:
        """Take the module's state of now for good."""
        with torch.no_grad():
            torch._foreach_copy_(*self._pairs)

    def restore_(self) -> None:
        """Set the module back to the last good state."""
        self.module.load_state_dict(self._good)
