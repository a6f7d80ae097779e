"""Where the chains of a joint model start: first the actions, then the states that they lead to."""

import torch
from torch import Tensor, nn

from ebm_traj.core.energy import Condition
from ebm_traj.core.proposal import BOXED, CENTRE, SCALE, MixtureProposal, Proposal, Start
from ebm_traj.trajectory.networks import ConditionalNetwork

ACTIONS = "sampled_actions"  # name, in a condition, of the actions that states are drawn for


class JointProposal(Proposal):
    """q(actions, states | c) = q(actions | c) q(states | actions, c), two mixtures of Gaussians.

    In a single mixture of diagonal Gaussians a state would not follow from the action it stands beside. x
    holds frame by frame the states' coordinates, then the action.
    """

    action_places: Tensor
    state_places: Tensor

    def __init__(
        self, actions: MixtureProposal, states: MixtureProposal, frames: int, sizes: tuple[int, int]
    ):
        """`sizes` are the numbers of states and of actions in the x of one frame."""
        super().__init__()
        self.actions = actions
        self.states = states
        places = torch.arange(frames * sum(sizes)).view(frames, -1)
        self.register_buffer("state_places", places[:, : sizes[0]].flatten(), persistent=False)
        self.register_buffer("action_places", places[:, sizes[0] :].flatten(), persistent=False)

    @torch.no_grad()
    def start(self, condition: Condition, generator: torch.Generator | None = None) -> Start:
        first = self.actions.start(condition, generator)
        second = self.states.start({**condition, ACTIONS: first.x}, generator)
        component = {
            name: self._together(second.component[name], first.component[name])
            for name in (CENTRE, SCALE, BOXED)
        }
        return Start(self._together(second.x, first.x), component)

    def sample(self, condition: Condition, generator: torch.Generator | None = None) -> Tensor:
        return self.start(condition, generator).x

    def log_prob(self, x: Tensor, condition: Condition) -> Tensor:
        actions, states = x[:, self.action_places], x[:, self.state_places]
        log_actions = self.actions.log_prob(actions, condition)
        return log_actions + self.states.log_prob(states, {**condition, ACTIONS: actions})

    def scale(self, condition: Condition) -> Tensor | None:
        """The scale of the chain's own components; None if the condition does not name them."""
        return condition.get(SCALE)

    def loss(self, x: Tensor, condition: Condition) -> Tensor | None:
        return -self.log_prob(x, condition).mean()

    def _together(self, states: Tensor, actions: Tensor) -> Tensor:
        x = states.new_empty(len(states), len(self.state_places) + len(self.action_places))
        x[:, self.state_places] = states
        x[:, self.action_places] = actions
        return x


class MixtureHead(nn.Module):
    """A condition, and perhaps actions already drawn, to the numbers that a `MixtureProposal` reads."""

    def __init__(self, network: ConditionalNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: tuple[Tensor, Tensor | None]) -> Tensor:
        known, actions = inputs
        return self.network(self.network.encode(known), actions)
