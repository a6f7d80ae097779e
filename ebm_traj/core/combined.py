"""Several objectives minimised together, each with its weight and its start."""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ebm_traj.core.checkpoint import under_prefix, with_prefix
from ebm_traj.core.objectives import Batch, Objective
from ebm_traj.errors import InputError


@dataclasses.dataclass(frozen=True)
class Part:
    """One objective of a combined one."""

    name: str
    """Stands before the part's figures, `name/figure`, and in its checkpoints."""
    objective: Objective
    weight: float = 1.0
    """Factor of its loss, the loss of its proposal included."""
    start: int = 0
    """Iteration at which it joins in; before, it costs nothing and its memory stays empty."""

    def __post_init__(self) -> None:
        if not self.name or not self.name.replace("_", "").isalnum():
            raise InputError(f"objective name: '{self.name}'; accepted are letters, digits and _")
        if not self.weight > 0:
            raise InputError(f"weight of {self.name}: {self.weight}; it must be above 0")
        if self.start < 0:
            raise InputError(f"start of {self.name}: {self.start}; accepted are 0 and more")


class CombinedObjective(Objective):
    """loss = sum of weight * loss over the parts that have started.

    The parts may share modules (an energy, a proposal): parameters, averages and checkpoints hold these once.
    A step takes as many new rows as the part that wants most; each part sees the first `new_rows` of them,
    which is fair because rows are drawn independently. Parts draw their random numbers one after another, in
    the order given. Iterations are counted here, one per call, and resumed from `memory`; steps that a
    divergence threw away count too, so that a restart does not put off a part's start.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        """Raises InputError if two parts have one name, or if none starts at iteration 0."""
        super().__init__()
        names = [part.name for part in parts]
        if len(set(names)) != len(names):
            raise InputError(f"objective names: {names}; they must differ")
        if not any(part.start == 0 for part in parts):
            raise InputError(f"starts: {[part.start for part in parts]}; one objective must start at 0")
        self.parts = list(parts)
        self.objectives = nn.ModuleList(part.objective for part in parts)
        self.iteration = 0
        """Calls of `forward` so far."""
        self.new_rows = max(part.objective.new_rows for part in parts)
        replayed = sum(part.objective.batch_size - part.objective.new_rows for part in parts)
        self.batch_size = self.new_rows + replayed
        self.register_state_dict_post_hook(_drop_shared)
        self.register_load_state_dict_pre_hook(_restore_shared)

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        active = [part for part in self.parts if part.start <= self.iteration]
        self.iteration += 1
        loss: Tensor | None = None
        losses: dict[str, Tensor] = {}
        figures: dict[str, Tensor] = {}
        for part in active:
            rows = part.objective.new_rows
            own = Batch(batch.x[:rows], {name: values[:rows] for name, values in batch.condition.items()})
            part_loss, part_figures = part.objective(own, generator)
            weighted = part_loss if part.weight == 1 else part.weight * part_loss
            loss = weighted if loss is None else loss + weighted
            losses[f"{part.name}/loss"] = part_loss.detach()
            figures.update({f"{part.name}/{name}": value for name, value in part_figures.items()})
        energies = [value.abs() for name, value in figures.items() if "/energy_" in name]
        if energies:  # under a name that the guard against divergence looks at
            losses["energy_largest"] = torch.stack(energies).max()
        return cast(Tensor, loss), {**losses, **figures}

    @property
    def gradients(self) -> int:
        """Of a step in which all parts take part."""
        return sum(part.objective.gradients for part in self.parts)

    def replay_key(self) -> Hashable | None:
        started = [part for part in self.parts if part.start <= self.iteration]
        keys = [part.objective.replay_key() for part in started]
        return None if None in keys else tuple(zip([part.name for part in started], keys, strict=True))

    def replayed(self, steps: int) -> None:
        for part in self.parts:
            if part.start <= self.iteration:
                part.objective.replayed(steps)
        self.iteration += steps

    def memory(self) -> dict[str, Tensor]:
        memory = {"iteration": torch.tensor(self.iteration)}
        for part in self.parts:
            memory.update(with_prefix(f"part.{part.name}", part.objective.memory()))
        return memory

    def load_memory(self, memory: Mapping[str, Tensor], device: torch.device) -> None:
        self.iteration = int(memory["iteration"])
        for part in self.parts:
            part.objective.load_memory(under_prefix(f"part.{part.name}", dict(memory)), device)

    def recover(self) -> str:
        started = [part for part in self.parts if part.start < self.iteration]
        return "; ".join(f"{part.name}: {part.objective.recover()}" for part in started)


def _shared(module: nn.Module, prefix: str) -> dict[str, str]:
    """For each further name of a shared tensor, its first name."""
    first: dict[int, str] = {}
    shared: dict[str, str] = {}
    named: list[tuple[str, Any]] = [
        *module.named_parameters(prefix.rstrip("."), remove_duplicate=False),
        *module.named_buffers(prefix.rstrip("."), remove_duplicate=False),
    ]
    for name, tensor in named:
        known = first.setdefault(id(tensor), name)
        if known != name:
            shared[name] = known
    return shared


def _drop_shared(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """A checkpoint file holds no tensor under two names."""
    for name in _shared(module, prefix):
        state.pop(name, None)


def _restore_shared(
    module: nn.Module,
    state: dict[str, Any],
    prefix: str,
    metadata: Any,
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    for name, known in _shared(module, prefix).items():
        if name not in state and known in state:
            state[name] = state[known]
