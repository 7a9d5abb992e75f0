"""Where batches come from: tensors, datasets and loaders, cut into joint batches and shared out among processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from flowgroup._checks import check_constraint
from flowgroup.flows import Flow
from flowgroup.training.parallel import Processes
from flowgroup.training.randomness import seeded

Rows = Sequence[int] | Tensor
Data = Tensor | tuple[Tensor, Tensor] | Dataset | DataLoader


class Batch(NamedTuple):
    """This process's rows of a joint batch.

    Attributes:
        x, context: the rows.
        joint: number of rows of the joint batch.
        own: how many of `x` count: all, or 0 where one row stands in for none at all.
    """

    x: Tensor
    context: Tensor | None
    joint: int
    own: int


@dataclass
class Source:
    """A data set as batches of row numbers and a way to fetch rows.

    Attributes:
        name: what the user calls it, for errors.
        plan: gives the row numbers of each batch of one epoch, drawn with torch's global generator. None for a stream,
            which has no row numbers.
        load: fetches planned rows, as x or (x, context).
        steps: batches per epoch, None where only iterating tells.
        generators: generators of the user's that `plan` draws from.
        checked: whether all values were looked at already.
    """

    name: str
    plan: Callable[[], list[Rows]] | None
    load: Callable[[list[Rows] | None], Iterable]
    steps: int | None
    generators: list[torch.Generator]
    checked: bool = False


def open_source(flow: Flow, name: str, data: Data, batch_size: int, shuffle: bool, group: Processes) -> Source:
    """A source of batches from whatever the user holds; tensors are checked here, all other data as it comes."""
    if isinstance(data, DataLoader):
        source = _from_loader(name, data)
    elif isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        source = _from_loader(name, DataLoader(data, batch_size, shuffle=shuffle))
    elif isinstance(data, Tensor | tuple | list):
        source = _from_tensors(flow, name, data, batch_size, shuffle)
    else:
        raise TypeError(
            f"{name} must be a torch.Tensor, a pair (x, context) of them, a map-style Dataset or a DataLoader, "
            f"got {type(data).__name__}"
        )
    if source.plan is None and group.world > 1:
        raise ValueError(
            f"{name} must be tensors, a map-style Dataset or a DataLoader that batches one when several processes "
            f"train: a stream has no rows to share out"
        )
    return source


def _from_tensors(flow: Flow, name: str, data, batch_size: int, shuffle: bool) -> Source:
    x, context = prepared(flow, name, data)

    def plan() -> list[Tensor]:
        order = torch.randperm(len(x)) if shuffle else torch.arange(len(x))
        return list(order.split(batch_size))

    def load(batches: list[Tensor]) -> Iterator[tuple[Tensor, ...]]:
        for rows in batches:
            rows = rows.to(x.device)
            yield (x[rows],) if context is None else (x[rows], context[rows.to(context.device)])

    return Source(name, plan, load, -(-len(x) // batch_size), [], checked=True)


def _from_loader(name: str, loader: DataLoader) -> Source:
    samplers = (loader, loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None))
    if any(isinstance(s, DistributedSampler) for s in samplers):
        raise ValueError(f"{name} must not have a DistributedSampler: rows are shared out among processes here")
    generators = {id(g): g for g in (getattr(s, "generator", None) for s in samplers) if g is not None}
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        try:
            steps = len(loader)
        except TypeError:
            steps = None
        return Source(name, None, lambda _: loader, steps, list(generators.values()))

    # The same loader, but told which rows to load: so that each process fetches its own rows only.
    planned: list[Rows] = []
    fetch = DataLoader(
        loader.dataset,
        batch_sampler=planned,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )

    def load(batches: list[Rows]) -> DataLoader:
        planned[:] = batches
        return fetch

    return Source(name, lambda: list(loader.batch_sampler), load, len(loader), list(generators.values()))


def prepared(flow: Flow, name: str, data, check: bool = True) -> tuple[Tensor, Tensor | None]:
    """x (n, *event) and its context (n, context_features) or None, in the dtype of the flow, checked for it."""
    parts = (data,) if isinstance(data, Tensor) else tuple(data) if isinstance(data, tuple | list) else ()
    if not 1 <= len(parts) <= 2 or not all(isinstance(p, Tensor) for p in parts):
        got = ", ".join(type(p).__name__ for p in parts) or type(data).__name__
        raise TypeError(f"{name} must give x or (x, context) as tensors, got {got}")
    dtype = next(flow.parameters()).dtype
    x, context = (*(p.to(dtype) if p.is_floating_point() else p for p in parts), None)[:2]
    if not check:
        return x, context
    try:
        flow.check(x, context)
        if flow.validate_args:
            check_constraint("x", x, flow.transform.domain)
        if x.dim() != len(flow.transform.in_shape) + 1 or len(x) == 0:
            raise ValueError(f"x must be n > 0 rows, (n, {_sizes(flow.transform.in_shape)}), got {tuple(x.shape)}")
        if context is not None and context.shape[:-1] != x.shape[:1]:
            raise ValueError(f"context must have a row for each of the {len(x)} of x, got {tuple(context.shape)}")
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None
    return x, context


def _sizes(shape: tuple[int | None, ...]) -> str:
    return ", ".join("any" if n is None else str(n) for n in shape)


def batches(flow: Flow, source: Source, group: Processes, seed: int, epoch: int) -> Iterator[Batch]:
    """This process's rows of each joint batch of an epoch: every world-th, on the flow's device and in its dtype.

    Which rows make a joint batch depends on (seed, epoch) alone, and on the user's generators where there are any.
    """
    if source.plan is None:
        plan = shards = None
    else:
        with seeded(group.device, seed, epoch):
            plan = source.plan()
        # A process without rows computes the first one at weight zero, so that all run the same graph.
        shards = [r if len(r) else rows[:1] for rows in plan for r in (rows[group.rank :: group.world],)]
    for i, loaded in enumerate(source.load(shards)):
        x, context = prepared(flow, source.name, loaded, check=not source.checked)
        joint = len(x) if plan is None else len(plan[i])
        own = len(x) if joint > group.rank else 0
        x = x.to(group.device, non_blocking=True)
        yield Batch(x, None if context is None else context.to(group.device, non_blocking=True), joint, own)
