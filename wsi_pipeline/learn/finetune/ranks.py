"""Several processes, each with a device of its own, as ``torchrun`` starts them; or just one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import distributed, nn

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those that train together; ``rank`` 0 writes and speaks."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def device(self, asked: torch.device) -> torch.device:
        """Return this process's own device: the GPU of its local rank, where GPUs are asked for."""
        if asked.type == "cuda" and self.world > 1:
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return asked

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return the network with gradients averaged over all processes."""
        if self.world == 1:
            return network
        return nn.parallel.DistributedDataParallel(network)

    def gather(self, item: Item) -> list[Item]:
        """Return every process's ``item``, by rank, in every process."""
        if self.world == 1:
            return [item]
        found: list[Item | None] = [None] * self.world
        distributed.all_gather_object(found, item)
        return cast("list[Item]", found)

    def from_leader(self, item: Item) -> Item:
        """Return the item of rank 0 in every process."""
        return self.gather(item)[0]


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started; alone where it did not."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks(rank=distributed.get_rank(), world=world)
    finally:
        distributed.destroy_process_group()
