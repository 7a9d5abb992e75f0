"""Maximum likelihood: fit a flow to data."""

from __future__ import annotations

import hashlib
import math
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flowgroup.flows import Flow
from flowgroup.training.checkpoint import RunState, load_checkpoint, save_checkpoint
from flowgroup.training.data import Batch, Data, Source, batches, open_source
from flowgroup.training.descent import SCHEDULES, Descent, DivergenceError, adamw
from flowgroup.training.history import History
from flowgroup.training.parallel import Processes, data_parallel, processes
from flowgroup.training.randomness import seeded


def fit_to_data(
    flow: Flow,
    data: Data,
    *,
    validation: Data | None = None,
    epochs: int = 100,
    batch_size: int = 256,
    lr: float = 1e-3,
    weight_decay: float = 1e-2,
    optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
    schedule: str = "cosine",
    clip_grad_norm: float | None = 5.0,
    patience: int | None = None,
    augment: Callable[..., Tensor | tuple[Tensor, Tensor]] | None = None,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int = 1,
    resume: bool = True,
    compile: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """min_θ −1/n Σᵢ log p_θ(xᵢ | cᵢ) by stochastic gradient descent on minibatches.

    The flow is trained in place, on the device and in the dtype of its own parameters, and left in eval mode: with the
    weights of the lowest validation loss where there is validation data, else with the last ones.

    Started by torchrun (or with torch.distributed initialised) the processes train together: each takes its rows of
    every joint batch, gradients are averaged by DistributedDataParallel so that they are those of the joint batch,
    the first process alone writes checkpoints and shows progress, and all return the same history and weights.

    Randomness inside (shuffling, dropout, `augment`) is a function of `seed`, epoch and process alone, through the
    global generators of torch, numpy and Python, which are as before afterwards. So a run that was interrupted and
    resumed ends bit for bit like one that was not, on the same machine with the same number of processes. Not covered:
    generators that `augment` or a Dataset holds itself, and noise made by persistent DataLoader workers.

    The finiteness of loss and gradient is read once a step, before the optimizer acts: on a GPU that is one
    synchronisation a step (layers on spheres and intervals add theirs, unless the flow has `validate_args=False`).

    Args:
        flow: what to train.
        data: x (n, *event), a pair (x, context) with context (n, context_features), a map-style Dataset of such rows,
            or a DataLoader of such batches, which keeps its own batch size and order. Tensors are checked before
            anything is updated, batches of the others as they come.
        validation: the same kinds; never shuffled by us, and not augmented.
        epochs: passes over the data.
        batch_size: rows of a (joint) batch.
        lr, weight_decay: of the default optimizer, AdamW.
        optimizer: makes another one from the list of trainable parameters, such as
            `lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)`.
        schedule: "cosine" takes the learning rates to zero over all steps, "constant" leaves them.
        clip_grad_norm: upper bound on the norm of the gradient; None for none.
        patience: stop after this many epochs without a lower validation loss.
        augment: called with each training batch as the flow is, `augment(x)` or `augment(x, context)`, gives what to
            train on instead: dequantisation noise, random rotations.
        checkpoint: file to write after every `checkpoint_every` epochs and after the last one, and to go on from.
        checkpoint_every: epochs from one checkpoint to the next.
        resume: whether to go on from `checkpoint` where that file exists; otherwise it is overwritten.
        compile: whether to run the flow through torch.compile.
        seed: see above.
        progress: whether to show a progress bar (tqdm).

    Returns:
        Losses per epoch and more.

    Raises:
        TypeError, ValueError: wrong arguments, data that the flow cannot take, a checkpoint of another run.
        DivergenceError: the loss or a gradient became NaN or infinite. The flow then has its best weights by validation
            if there are any, else the last ones whose loss and gradient were finite.

    Source: Decoupled Weight Decay Regularization, 2019, arXiv 1711.05101 (AdamW); SGDR: Stochastic Gradient Descent
        with Warm Restarts, 2017, arXiv 1608.03983, Eq. 5 (cosine, one cycle).

    Example:
        >>> import torch
        >>> from flowgroup import flows
        >>> flow = flows.Flow(flows.Elementwise(flows.Affine(), features=2), base=flows.DiagonalNormal(2))
        >>> x = 1.0 + 0.5 * torch.randn(512, 2, generator=torch.Generator().manual_seed(0))
        >>> history = fit_to_data(flow, x, epochs=20, batch_size=64, lr=0.1, progress=False)
        >>> bool(history.train[-1] < 1.55)  # the entropy of this normal is 1.45 nats
        True
    """
    _check_arguments(
        flow, epochs, batch_size, schedule, clip_grad_norm, patience, validation, checkpoint_every, augment, seed
    )
    path = None if checkpoint is None else Path(checkpoint)
    with processes(flow) as group:
        train = open_source(flow, "data", data, batch_size, True, group)
        valid = None if validation is None else open_source(flow, "validation", validation, batch_size, False, group)
        if train.steps is None and schedule != "constant":
            raise ValueError(f"schedule={schedule!r} needs data of known length; use schedule='constant'")
        params = [p for p in flow.parameters() if p.requires_grad]
        stepper = adamw(params, lr, weight_decay) if optimizer is None else optimizer(params)
        if not isinstance(stepper, Optimizer):
            raise TypeError(f"optimizer must give a torch.optim.Optimizer, got {type(stepper).__name__}")
        steps = None if train.steps is None else epochs * train.steps
        settings = {
            "flow": _fingerprint(flow),
            "optimizer": type(stepper).__name__,
            "lr": [float(g["lr"]) for g in stepper.param_groups],
            "weight_decay": [float(g.get("weight_decay", 0.0)) for g in stepper.param_groups],
            "schedule": schedule,
            "steps": steps if schedule != "constant" else None,
            "steps_per_epoch": train.steps,
            "batch_size": batch_size,
            "clip_grad_norm": clip_grad_norm,
            "augment": augment is not None,
            "validation": valid is not None,
            "seed": seed,
        }
        descent = Descent(flow, stepper, schedule, steps, clip_grad_norm, group)
        state = RunState(flow, stepper, train.generators + (valid.generators if valid else []))

        stored = group.from_first(path.read_bytes() if path and resume and group.first and path.exists() else b"")
        if stored:
            state.load(load_checkpoint(path, stored, settings))
        else:
            state.agree(group)
        history = state.history

        bar = _progress_bar(steps, history.steps) if progress and group.first else None
        try:
            descent.keep_()
            if not stored:
                _initialise(flow, train, augment, group, seed)
            model = torch.compile(flow) if compile else flow
            with data_parallel(model, group) as wrapped:
                while not _finished(history, epochs, patience):
                    start, epoch = time.perf_counter(), len(history.train)
                    with seeded(group.device, seed, epoch, 1 + group.rank):
                        flow.train()
                        total, rows = 0.0, 0
                        for batch in batches(flow, train, group, seed, epoch):
                            log_prob = wrapped(*_augmented(augment, batch))
                            loss = -log_prob.sum() * (min(batch.own, 1) / batch.joint)
                            total += descent.step(loss, epoch, history.steps) * batch.joint
                            rows += batch.joint
                            history.steps += 1
                            if bar is not None:
                                bar.update()
                        flow.eval()
                        group.share_(flow.buffers())  # running statistics: each process had its own until here
                        loss = None if valid is None else _mean_loss(model, flow, valid, group, seed, epoch)
                    if rows == 0:
                        raise ValueError("data gives no batches")
                    if loss is not None and math.isnan(loss):
                        raise DivergenceError("validation loss became nan", epoch, history.steps)
                    state.record(total / rows, loss, group.sum(_seconds_since(start, group)).item())
                    if bar is not None:
                        bar.set_postfix_str(f"epoch {epoch}, {history.losses()}", refresh=False)
                    due = (epoch + 1) % checkpoint_every == 0 or _finished(history, epochs, patience)
                    if path and group.first and due:
                        save_checkpoint(path, {"settings": settings, **state.content()})
        except DivergenceError:
            descent.restore_()
            state.restore_best_()
            raise
        finally:
            if bar is not None:
                bar.close()
            stepper.zero_grad(set_to_none=True)
            flow.eval()
        state.restore_best_()
        group.wait()
    return history


def _check_arguments(
    flow, epochs, batch_size, schedule, clip_grad_norm, patience, validation, checkpoint_every, augment, seed
) -> None:
    if not isinstance(flow, Flow):
        raise TypeError(f"flow must be a flowgroup.flows.Flow, got {type(flow).__name__}")
    if not any(p.requires_grad and p.numel() for p in flow.parameters()):
        raise ValueError("flow has no trainable parameters: nothing to fit")
    counts = {"epochs": epochs, "batch_size": batch_size, "checkpoint_every": checkpoint_every}
    if patience is not None:
        counts["patience"] = patience
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be an integer, 0 or larger, got {seed!r}")
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {sorted(SCHEDULES)}, got {schedule!r}")
    if clip_grad_norm is not None and not clip_grad_norm > 0:
        raise ValueError(f"clip_grad_norm must be positive or None, got {clip_grad_norm!r}")
    if patience is not None and validation is None:
        raise ValueError("patience needs validation data: without it there is no telling when to stop")
    if augment is not None and not callable(augment):
        raise TypeError(f"augment must be callable, got {type(augment).__name__}")


def _finished(history: History, epochs: int, patience: int | None) -> bool:
    best = -1 if history.best_epoch is None else history.best_epoch
    return len(history.train) >= epochs or (patience is not None and len(history.train) - 1 - best >= patience)


def _seconds_since(start: float, group: Processes) -> Tensor:
    """Of the first process; nothing on the others, so that the sum is the same on all."""
    return torch.tensor(time.perf_counter() - start if group.first else 0.0, device=group.device)


def _fingerprint(flow: Flow) -> str:
    """Which tensors the flow has: their number and a hash of names, shapes and dtypes."""
    tensors = [(k, tuple(v.shape), str(v.dtype)) for k, v in flow.state_dict().items() if isinstance(v, Tensor)]
    return f"{len(tensors)} tensors {hashlib.sha256(repr(tensors).encode()).hexdigest()[:12]}"


def _augmented(augment, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """x and context of a batch after `augment`, which must keep the number of rows."""
    x, context = batch.x, batch.context
    if augment is not None:
        out = augment(x) if context is None else augment(x, context)
        wanted = 1 if context is None else 2
        parts = (out,) if isinstance(out, Tensor) else tuple(out) if isinstance(out, tuple) else ()
        if len(parts) != wanted or not all(isinstance(p, Tensor) and len(p) == len(x) for p in parts):
            what = "x" if wanted == 1 else "(x, context)"
            raise ValueError(f"augment must give {what} with {len(x)} rows, got {[_shape(p) for p in parts] or out!r}")
        x, context = (*parts, None)[:2]
    return x, context


def _shape(x) -> tuple[int, ...] | str:
    return tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__


@torch.no_grad()
def _initialise(flow: Flow, train: Source, augment, group: Processes, seed: int) -> None:
    """Let layers that set themselves by data (ActNorm) see the first joint batch, the same on every process."""
    if all(b.all() for name, b in flow.named_buffers() if name.split(".")[-1] == "initialized"):
        return
    flow.train()
    with seeded(group.device, seed, 0):
        for batch in batches(flow, train, Processes(group.device), seed, 0):
            flow(*_augmented(augment, batch))
            break


@torch.no_grad()
def _mean_loss(model: Callable, flow: Flow, source: Source, group: Processes, seed: int, epoch: int) -> float:
    """Mean of −log p over all rows on all processes."""
    sums, rows = [], 0
    for batch in batches(flow, source, group, seed, epoch):
        if batch.own:
            sums.append(model(batch.x, batch.context).sum())
            rows += batch.own
    total = torch.stack(sums).cpu().double().sum() if sums else torch.zeros((), dtype=torch.float64)
    total, rows = group.sum(torch.stack((total, total.new_tensor(rows))).to(group.device)).tolist()
    if rows == 0:
        raise ValueError("validation gives no batches")
    return -total / rows


def _progress_bar(steps: int | None, done: int):
    try:
        from tqdm import tqdm
    except ImportError:
        warnings.warn(
            "the progress bar needs tqdm: pip install 'flowgroup[train]'; training goes on without", stacklevel=3
        )
        return None
    return tqdm(total=steps, initial=done, desc="fit", unit="step")
