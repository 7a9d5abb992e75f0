"""One process or several: who we are, sums over all, bytes from the first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

_group_numbers = count()


@dataclass(frozen=True)
class Processes:
    """The processes that train together; with one of them every method gives back what it got.

    Attributes:
        device: where this process computes, and where its tensors must lie to be sent.
        rank, world: number of this process, and how many there are.
    """

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and shows things."""
        return self.rank == 0

    def sum(self, x: Tensor) -> Tensor:
        """The sum of `x` over all processes, the same bits on each; `x` itself is overwritten."""
        if self.world > 1:
            dist.all_reduce(x)
        return x

    def from_first(self, data: bytes) -> bytes:
        """The first process's `data`, on all."""
        if self.world == 1:
            return data
        size = torch.tensor([len(data)], device=self.device)
        dist.broadcast(size, 0)
        content = torch.empty(int(size), dtype=torch.uint8, device=self.device)
        if self.first and data:
            content.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(content, 0)
        return content.cpu().numpy().tobytes()

    def share_(self, tensors: Iterator[Tensor]) -> None:
        """Overwrite each tensor by the first process's."""
        if self.world > 1:
            for x in tensors:
                dist.broadcast(x, 0)

    def wait(self) -> None:
        """Go on when all processes have come here."""
        self.sum(torch.zeros((), device=self.device))


@contextmanager
def processes(module: nn.Module) -> Iterator[Processes]:
    """The processes of the default group, which is made here, and ended here, if torchrun started us without one.

    Then a module on a GPU moves to the GPU that torchrun gave this process.
    """
    device = next(module.parameters()).device
    create = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
    if create:
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
            module.to(device)
        # Keys of their own for each group: those of an earlier one are still in torchrun's store.
        store, rank, world = next(dist.rendezvous("env://"))
        store = dist.PrefixStore(f"flowgroup.training/{next(_group_numbers)}", store)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=store, rank=rank, world_size=world)
    try:
        if dist.is_available() and dist.is_initialized():
            yield Processes(device, dist.get_rank(), dist.get_world_size())
        else:
            yield Processes(device)
    finally:
        if create:
            dist.destroy_process_group()


@contextmanager
def data_parallel(model: nn.Module, group: Processes) -> Iterator[nn.Module]:
    """`model` such that gradients are averaged over the processes; `model` itself where there is one."""
    if group.world == 1:
        yield model
        return
    # static_graph: parameters that the loss never reaches are allowed, at no cost per step.
    wrapped = DistributedDataParallel(model, static_graph=True)
    try:
        yield wrapped
    finally:
        # The reducer must not outlive the process group: as its last owner it would wait for threads that wait for us.
        wrapped.reducer = wrapped.logger = None
