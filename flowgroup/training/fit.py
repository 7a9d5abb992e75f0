"""Maximum likelihood: fit a flow to data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flowgroup.flows import Flow
from flowgroup.training.checkpoint import RunState
from flowgroup.training.compiled import compiled
from flowgroup.training.data import Batch, Data, Source, batches, open_source
from flowgroup.training.descent import Descent
from flowgroup.training.history import History
from flowgroup.training.loop import Part, Run, awaits_data, check_common_arguments, common_settings, make_optimizer
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
        compile: whether to run the flow's transform through torch.compile.
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
    check_common_arguments(
        flow,
        schedule,
        clip_grad_norm,
        seed,
        epochs=epochs,
        batch_size=batch_size,
        checkpoint_every=checkpoint_every,
        patience=patience,
    )
    if patience is not None and validation is None:
        raise ValueError("patience needs validation data: without it there is no telling when to stop")
    if augment is not None and not callable(augment):
        raise TypeError(f"augment must be callable, got {type(augment).__name__}")
    with processes(flow) as group:
        train = open_source(flow, "data", data, batch_size, True, group)
        valid = None if validation is None else open_source(flow, "validation", validation, batch_size, False, group)
        if train.steps is None and schedule != "constant":
            raise ValueError(f"schedule={schedule!r} needs data of known length; use schedule='constant'")
        stepper = make_optimizer(flow, optimizer, lr, weight_decay)
        steps = None if train.steps is None else epochs * train.steps
        settings = common_settings(
            flow,
            stepper,
            schedule,
            steps,
            steps_per_epoch=train.steps,
            batch_size=batch_size,
            clip_grad_norm=clip_grad_norm,
            augment=augment is not None,
            validation=valid is not None,
            seed=seed,
        )
        descent = Descent(flow, stepper, schedule, steps, clip_grad_norm, group)
        state = RunState(flow, stepper, train.generators + (valid.generators if valid else []))
        path = None if checkpoint is None else Path(checkpoint)
        run = Run(flow, state, descent, group, settings, seed, steps, path, checkpoint_every, progress)
        run.start(resume)

        with compiled(flow, compile), data_parallel(flow, group) as wrapped:

            def parts(epoch: int) -> Iterator[Part]:
                if epoch == 0:
                    _initialise(flow, train, augment, group, seed)
                for batch in batches(flow, train, group, seed, epoch):
                    log_prob = wrapped(*_augmented(augment, batch))
                    yield Part(-log_prob.sum() * (min(batch.own, 1) / batch.joint), batch.joint)

            def validate(epoch: int) -> float:
                return _mean_loss(flow, valid, group, seed, epoch)

            run.epochs(parts, lambda h: _finished(h, epochs, patience), None if valid is None else validate)
    return state.history


def _finished(history: History, epochs: int, patience: int | None) -> bool:
    best = -1 if history.best_epoch is None else history.best_epoch
    return len(history.train) >= epochs or (patience is not None and len(history.train) - 1 - best >= patience)


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
    if not awaits_data(flow):
        return
    flow.train()
    with seeded(group.device, seed, 0):
        for batch in batches(flow, train, Processes(group.device), seed, 0):
            flow(*_augmented(augment, batch))
            break


@torch.no_grad()
def _mean_loss(flow: Flow, source: Source, group: Processes, seed: int, epoch: int) -> float:
    """Mean of −log p over all rows on all processes."""
    sums, rows = [], 0
    for batch in batches(flow, source, group, seed, epoch):
        if batch.own:
            sums.append(flow(batch.x, batch.context).sum())
            rows += batch.own
    total = torch.stack(sums).cpu().double().sum() if sums else torch.zeros((), dtype=torch.float64)
    total, rows = group.sum(torch.stack((total, total.new_tensor(rows))).to(group.device)).tolist()
    if rows == 0:
        raise ValueError("validation gives no batches")
    return -total / rows
