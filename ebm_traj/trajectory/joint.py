"""Joint models of actions and states: first the actions, then the states that they lead to."""

from collections.abc import Callable, Hashable, Mapping

import torch
from torch import Tensor, nn

from ebm_traj.core.energy import UNCONDITIONAL, Condition, Energy
from ebm_traj.core.objectives import Batch, Objective
from ebm_traj.core.proposal import Proposal
from ebm_traj.trajectory.conditional import ConditionalNetwork

ACTIONS = "actions"  # in the condition of the states, as in an action-conditional model


class FrameParts(nn.Module):
    """Takes the x of a joint model apart: frame by frame the states' coordinates, then the action."""

    actions: Tensor
    states: Tensor

    def __init__(self, frames: int, state_size: int, action_size: int) -> None:
        super().__init__()
        places = torch.arange(frames * (state_size + action_size)).view(frames, -1)
        self.register_buffer("states", places[:, :state_size].flatten(), persistent=False)
        self.register_buffer("actions", places[:, state_size:].flatten(), persistent=False)

    def split(self, x: Tensor, condition: Condition) -> tuple[Tensor, Tensor, Condition]:
        """Actions (B, W A), states (B, W P), and the condition of the states, which names the actions."""
        actions = x[:, self.actions]
        return actions, x[:, self.states], {**condition, ACTIONS: actions}

    def join(self, actions: Tensor, states: Tensor) -> Tensor:
        """x (B, W (P + A)) of its parts."""
        x = states.new_empty(len(states), len(self.states) + len(self.actions))
        x[:, self.states] = states
        x[:, self.actions] = actions
        return x


class JointProposal(Proposal):
    """q(actions, states | c) = q(actions | c) q(states | actions, c), two mixtures of Gaussians.

    In a single mixture of diagonal Gaussians a state would not follow from the action it stands beside.
    """

    def __init__(self, actions: Proposal, states: Proposal, parts: FrameParts) -> None:
        super().__init__()
        self.actions = actions
        self.states = states
        self.parts = parts

    def sample(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        actions = self.actions.sample(condition, generator)
        if self.actions.clipped:
            actions = actions.clamp(-1, 1)
        return self.parts.join(actions, self.states.sample({**condition, ACTIONS: actions}, generator))

    def log_prob(self, x: Tensor, condition: Condition) -> Tensor:
        actions, states, known = self.parts.split(x, condition)
        return self.actions.log_prob(actions, condition) + self.states.log_prob(states, known)

    def loss(self, x: Tensor, condition: Condition) -> Tensor | None:
        return -self.log_prob(x, condition).mean()


class StagedEnergy(Energy):
    """E(actions, states | c) = E(actions | c) + E(states | actions, c), each sampled by a chain of its own.

    One chain over both would have to move an action and all that follows from it at once; for a chain of the
    states the actions stand still, and both have the scale of the component they were started in.
    """

    def __init__(self, actions: Energy, states: Energy, parts: FrameParts) -> None:
        super().__init__()
        self.actions = actions
        self.states = states
        self.parts = parts

    @property
    def needs_autograd(self) -> bool:
        return self.actions.needs_autograd or self.states.needs_autograd

    def forward(self, x: Tensor, condition: Condition = UNCONDITIONAL) -> Tensor:
        actions, states, known = self.parts.split(x, condition)
        return self.actions(actions, condition) + self.states(states, known)


class PartObjective(Objective):
    """An objective of the actions alone, or of the states under the actions, fed with whole rows."""

    def __init__(self, objective: Objective, read: Callable[[Batch], Batch]) -> None:
        super().__init__()
        self.objective = objective
        self.read = read
        self.new_rows, self.batch_size = objective.new_rows, objective.batch_size

    @property
    def gradients(self) -> int:
        return self.objective.gradients

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return self.objective(self.read(batch), generator)

    def replay_key(self) -> Hashable | None:
        return self.objective.replay_key()

    def replayed(self, steps: int) -> None:
        self.objective.replayed(steps)

    def memory(self) -> dict[str, Tensor]:
        return self.objective.memory()

    def load_memory(self, memory: Mapping[str, Tensor], device: torch.device) -> None:
        self.objective.load_memory(memory, device)

    def recover(self) -> str:
        return self.objective.recover()


class MixtureHead(nn.Module):
    """A condition to the numbers that a `MixtureProposal` reads."""

    def __init__(self, network: ConditionalNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, known: Tensor) -> Tensor:
        return self.network(self.network.encode(known))
