"""Training on many devices: processes that step together, and what they must agree on.

Each rank is a process with a device, a random stream, a replay buffer and rows of its own. What is the same
on all ranks: weights, moments of the optimiser, averaged weights, step sizes, figures, and every decision
made from figures.

Gradients are averaged by one collective after the backward pass (`average_gradients`), not by the buckets of
DistributedDataParallel (Li et al. 2020, 2006.15704), which overlap the two: chains take most of a step, so
there is little backward pass to hide behind, and networks of a few MB fit into one bucket anyway. In return
parts that have not started, and second derivatives, need no search of the graph for unused parameters, and
parameters without a gradient stay without one, as on one device.
"""

import atexit
import dataclasses
import datetime
import math
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ebm_traj.core.contrastive import ContrastiveDivergence
from ebm_traj.errors import InputError

T = TypeVar("T")

TIMEOUT = datetime.timedelta(hours=2)  # all wait while rank 0 takes the statistics of the data
LARGEST = ("_max", "_largest")  # figures of which the ranks' largest is meant, not their mean
COUNTERS, BORN, ROW = "counters", "born", "row."  # names in `ReplayBuffer.state`


# --- processes ------------------------------------------------------------------------------------------


def make_fabric(
    accelerator: str = "auto",
    devices: int | None = None,
    precision: Any = "32-true",
    *,
    num_nodes: int | None = None,
    launch: bool = True,
) -> Any:
    """A Fabric for `devices` devices on each of `num_nodes` machines; TF32 matrix products on GPUs.

    Under `torchrun` or `fabric run` the numbers are those of the launcher and need not be given. Else they
    are 1 by default, and `launch` starts the script once more for each further device of this machine (gloo
    on CPUs, nccl on GPUs); of several machines each is told MASTER_ADDR, MASTER_PORT and NODE_RANK.

    Raises InputError if the machine has not so many devices, or if the launcher was told other numbers.
    """
    from lightning_fabric import Fabric  # takes two seconds to import
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    here, nodes = _processes(devices, num_nodes)
    # TF32 on GPUs; on the CPU products stay exact
    torch.set_float32_matmul_precision("high")
    strategy: Any = _data_parallel()() if here * nodes > 1 else "auto"
    # `fabric run --devices 2,3` names devices
    wanted: Any = os.environ.get("LT_DEVICES", here) if "LT_CLI_USED" in os.environ else here
    kind, _, number = accelerator.partition(":")
    if number and kind != "cpu":  # one GPU of several
        if here * nodes > 1 or not number.isdigit():
            raise InputError(f"device {accelerator}: accepted is a name such as cuda:1, for one process")
        wanted = [int(number)]
    try:
        fabric = Fabric(
            accelerator=kind, strategy=strategy, devices=wanted, num_nodes=nodes, precision=precision
        )
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{here} devices on {nodes} machines, accelerator {accelerator}: {reason}"
        ) from error
    if launch:
        start(fabric)
    return fabric


def start(fabric: Any) -> None:
    """Start the processes of a Fabric made with `launch=False`."""
    if "LT_CLI_USED" not in os.environ:  # `fabric run` has started them
        fabric.launch()
    if fabric.world_size > 1:
        atexit.register(_leave)


def _leave() -> None:
    """Close the group before the interpreter goes: threads of gloo that outlive it abort the process."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@cache
def _data_parallel() -> type:
    """Fabric's strategy for processes that average gradients, without the wrapper around the module."""
    from lightning_fabric.strategies import DDPStrategy

    class DataParallel(DDPStrategy):
        def __init__(self) -> None:
            super().__init__(timeout=TIMEOUT)

        def setup_module(self, module: nn.Module) -> Any:
            for tensor in module.state_dict().values():
                torch.distributed.broadcast(tensor, 0)
            return module

    return DataParallel


def _processes(devices: int | None, num_nodes: int | None) -> tuple[int, int]:
    """Processes on this machine, and machines: those of the launcher, else those asked for."""
    for name, value in (("devices", devices), ("num nodes", num_nodes)):
        if value is not None and value < 1:
            raise InputError(f"{name}: {value}; accepted are 1 and more")
    if not (torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()):
        return devices or 1, num_nodes or 1
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    nodes = int(os.environ["WORLD_SIZE"]) // here
    for name, value, launched in (("devices", devices, here), ("num nodes", num_nodes, nodes)):
        if value not in (None, launched):
            raise InputError(f"{name}: {value}; the launcher started {launched}; leave the option out")
    return here, nodes


def gather(fabric: Any, value: T) -> list[T]:
    """The values of all ranks, in their order, on every rank. A wait for all of them."""
    if fabric.world_size == 1:
        return [value]
    found: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(found, value)
    return found


def gather_on_first(fabric: Any, value: T) -> list[T]:
    """The values of all ranks on rank 0; nothing on the others. A wait for all of them."""
    if fabric.world_size == 1:
        return [value]
    first = fabric.global_rank == 0
    found: list[Any] | None = [None] * fabric.world_size if first else None
    torch.distributed.gather_object(value, found)
    return found or []


def from_first(fabric: Any, make: Callable[[], T]) -> T:
    """What `make` gives on rank 0, the same on every rank; only rank 0 calls it. A wait for all of them.

    An InputError is raised on every rank: none is left waiting for the others.
    """
    if fabric.world_size == 1:
        return make()
    value: Any = None
    message: str | None = None
    if fabric.global_rank == 0:
        try:
            value = make()
        except InputError as error:
            message = str(error)
    value, message = fabric.broadcast((value, message))
    if message is not None:
        raise InputError(message)
    return value


# --- shares ---------------------------------------------------------------------------------------------


def share_of(total: int, rank: int, world: int) -> int:
    """The share of one rank in `total` things, dealt one by one: shares differ by one at most."""
    return total // world + (rank < total % world)


def even_share(name: str, total: int, world: int) -> int:
    """The share of each rank; InputError if there is none that is the same for all."""
    if total % world:
        raise InputError(f"{name}: {total} on {world} devices; accepted are multiples of {world}")
    return total // world


# --- agreement ------------------------------------------------------------------------------------------


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter], fabric: Any) -> None:
    """Replace the gradients of all ranks by their mean. A wait for all of them; nothing on one device.

    Which parameters have a gradient must be the same on all ranks; it is, where it depends on the iteration.
    """
    if fabric.world_size == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= fabric.world_size
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def joint_figures(ranks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Figures of all ranks as one: their mean, of `..._max` and `..._largest` the largest."""
    if len(ranks) == 1:
        return dict(ranks[0])
    joint = {}
    for name in dict.fromkeys(name for figures in ranks for name in figures):
        values = [figures[name] for figures in ranks if name in figures]
        joint[name] = max(values) if name.endswith(LARGEST) else statistics.fmean(values)
    return joint


class AgreedStepSizes:
    """Holds step sizes that adapt during training (`ContrastiveConfig.adapt`) equal on all ranks.

    Each rank adapts to the acceptance of its own chains; that is linear in log step size, so the geometric
    mean over ranks is the step size that the acceptance of all chains would have given.
    """

    def __init__(self, objective: nn.Module, fabric: Any) -> None:
        self.fabric = fabric
        self.adapting = [
            part
            for part in objective.modules()
            if isinstance(part, ContrastiveDivergence) and part.config.adapt
        ]
        if fabric.world_size == 1:
            self.adapting = []
        self.known = [part.langevin for part in self.adapting]

    def update(self) -> None:
        """After a step of all ranks; they wait for each other if a step size was adapted."""
        # an adaptation makes a new config, on all ranks in the same step, whatever the numbers are
        changed = [i for i, part in enumerate(self.adapting) if part.langevin is not self.known[i]]
        if not changed:
            return
        mine = [self.adapting[i].langevin.step_size for i in changed]
        for i, sizes in zip(changed, zip(*gather(self.fabric, mine), strict=True), strict=True):
            agreed = math.exp(statistics.fmean(map(math.log, sizes)))
            self.known[i] = dataclasses.replace(self.adapting[i].langevin, step_size=agreed)
            self.adapting[i].langevin = self.known[i]


# --- the memory of objectives ---------------------------------------------------------------------------


def merge_memory(ranks: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The memory (`Objective.memory`) of all ranks as one that a single process can go on from, on the CPU.

    Replay buffers are joined, rows in the order of their age. Of other floating-point tensors the mean is
    taken, which for sums over chains is what one process would hold; the rest is the same on all ranks.
    """
    merged: dict[str, Tensor] = {}
    buffers = _buffers(ranks[0])
    for prefix in buffers:
        states = [_under(prefix, memory) for memory in ranks]
        merged |= {prefix + name: values for name, values in _merge_buffers(states).items()}
    for name, first in ranks[0].items():
        if name.startswith(tuple(buffers)):
            continue
        values = [memory[name].cpu() for memory in ranks]
        same = all(torch.equal(value, values[0]) for value in values)
        merged[name] = first.cpu() if same or not first.is_floating_point() else torch.stack(values).mean(0)
    return merged


def split_memory(memory: Mapping[str, Tensor], rank: int, world: int) -> dict[str, Tensor]:
    """The share of one rank in a memory that `merge_memory` or a single process gave.

    Rows of a replay buffer are dealt out one by one in the order of their age, so that each rank gets young
    and old ones, and every row goes to one rank.
    """
    share: dict[str, Tensor] = dict(memory)
    for prefix in _buffers(memory):
        state = _split_buffer(_under(prefix, memory), rank, world)
        share |= {prefix + name: values for name, values in state.items()}
    return share


def _buffers(memory: Mapping[str, Tensor]) -> list[str]:
    """What stands before the names of each replay buffer's state."""
    prefixes = [name.removesuffix(COUNTERS) for name in memory if name.endswith("." + COUNTERS)]
    return [prefix for prefix in prefixes if prefix + BORN in memory]


def _under(prefix: str, memory: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in memory.items() if name.startswith(prefix)}


def _merge_buffers(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    clock = max(int(state[COUNTERS][2]) for state in states)
    capacity = sum(len(state[BORN]) for state in states)
    filled = [_by_age(state) for state in states]
    born = torch.cat([state[BORN].cpu()[slots] for state, slots in zip(states, filled, strict=True)])
    order = born.argsort(stable=True)
    tensors = {BORN: born[order]}
    for name in states[0]:
        if name.startswith(ROW):
            rows = [state[name].cpu()[slots] for state, slots in zip(states, filled, strict=True)]
            tensors[name] = torch.cat(rows)[order]
    return _buffer_state(tensors, capacity, clock)


def _split_buffer(state: Mapping[str, Tensor], rank: int, world: int) -> dict[str, Tensor]:
    slots = _by_age(state)[rank::world]
    tensors = {name: values.cpu()[slots] for name, values in state.items() if name != COUNTERS}
    return _buffer_state(tensors, share_of(len(state[BORN]), rank, world), int(state[COUNTERS][2]))


def _by_age(state: Mapping[str, Tensor]) -> Tensor:
    """The filled slots of a replay buffer, the oldest row first."""
    size, oldest, _ = (int(value) for value in state[COUNTERS])
    slots = torch.arange(size)
    return (slots + oldest) % size if size == len(state[BORN]) and size else slots


def _buffer_state(tensors: Mapping[str, Tensor], capacity: int, clock: int) -> dict[str, Tensor]:
    """The state of a replay buffer whose first slots hold these rows, the oldest first."""
    size = len(tensors[BORN])
    state = {COUNTERS: torch.tensor([size, size % capacity if capacity else 0, clock])}
    for name, values in tensors.items():
        state[name] = values.new_zeros((capacity, *values.shape[1:]))
        state[name][:size] = values
    return state
