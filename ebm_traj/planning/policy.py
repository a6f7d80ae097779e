"""`PlanningPolicy`: a planner as the behaviour policy of many environments at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ebm_traj.core.seeding import seeded_generator
from ebm_traj.errors import InputError
from ebm_traj.planning.plan import Plan, Planner
from ebm_traj.spec import StateSpec


class PlanningPolicy:
    """Acts on the plans of a planner; follows `envs.behaviour.Policy`.

    Args:
        planner: what plans; one that gives actions.
        spec: how states are read from observations.
        action_centre: (A,) what stands for actions before the first one.
        replan_every: steps of a plan that are acted on.
    """

    goal_conditioned = True
    needs_simulator = False
    markov = False  # it remembers frames and its last plan

    def __init__(
        self, planner: Planner, spec: StateSpec, action_centre: ArrayLike, replan_every: int = 1
    ) -> None:
        if replan_every < 1:
            raise InputError(f"replan_every: {replan_every}; accepted are 1 and more")
        horizon = getattr(planner, "horizon", None)
        if horizon is not None and replan_every > horizon:
            raise InputError(
                f"replan_every: {replan_every}; plans have {horizon} steps, more is not accepted"
            )
        self.planner = planner
        self.spec = spec
        self.centre = np.asarray(action_centre, np.float32)
        self.replan_every = replan_every
        self.plan: Plan | None = None
        self._frames: list[NDArray[np.float32]] = []
        self._actions: list[NDArray[np.float32]] = []
        self._step = 0
        self._device = planner.model.device
        self._generator = torch.Generator(self._device)

    def reset(self, seeds: Sequence[int], steps: ArrayLike = 0) -> None:
        """Begin episodes; random numbers of a batch follow from all its seeds."""
        self._generator = seeded_generator(self._device, "planning", *[int(seed) for seed in seeds])
        self._frames, self._actions, self._step = [], [], 0
        self.planner.reset()

    def act(
        self,
        observations: Any,
        previous_actions: NDArray[np.floating],
        simulator_states: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float32]:
        """Actions (N, A) within the box; see `Policy.act`."""
        done = np.where(np.isnan(previous_actions), self.centre, previous_actions).astype(np.float32)
        self._frames.append(self.spec.read(observations))
        self._actions.append(done)
        keep = self.planner.context_frames
        self._frames, self._actions = self._frames[-keep:], self._actions[-keep:]
        ahead = self._step % self.replan_every
        self._step += 1
        if ahead == 0 or self.plan is None:
            frames = [self._frames[0]] * (keep - len(self._frames)) + self._frames
            actions = [self._actions[0]] * (keep - len(self._actions)) + self._actions
            context = torch.from_numpy(self.spec.align(np.stack(frames, 1))).to(self._device)
            past = torch.from_numpy(np.stack(actions, 1)).to(self._device)
            self.plan = self.planner.plan(context, past, self._generator, ahead=self.replan_every)
            ahead = 0
        chosen = self.plan.chosen_actions()
        if chosen is None:
            raise InputError("planner: its plans have no actions; accepted are joint and action-conditional")
        return chosen[:, min(ahead, chosen.shape[1] - 1)].cpu().numpy().astype(np.float32)
