"""`PlannedPolicy`: plan in a learned model and collect what comes of it (`collect.py --policy planner`).

What a model is planned in, it is asked about actions that its data never showed. Data of the planner itself
answer: collect, train on, plan again (Sutton 1991, Dyna; Ross & Bagnell 2012, 1203.1007; Chua et al. 2018,
1805.12114). PyTorch is imported when a policy is made, not before.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_traj.errors import InputError


@dataclasses.dataclass(frozen=True)
class PlannedSettings:
    """Settings of planning by CEM in a learned model, towards the goal of the episode."""

    model: str = ""
    """Folder of the model that predicts, or the name of a shipped one."""
    prior: str = ""
    """Folder or name of a joint model that draws `prior_share` of the first actions; empty: none."""
    prior_share: float = 0.5
    """Share of the first sequences that are the prior's."""
    futures: int = 64
    """Action sequences in a round."""
    horizon: int = 12
    """Steps of a sequence."""
    rounds: int = 4
    """Rounds of the cross-entropy method."""
    average: bool = False
    """Act on the mean of the last elites in place of the best sequence."""
    descent_steps: int = 0
    """Gradient steps from there, on the goal and the prior's energy; 0 for none."""
    descent_rate: float = 0.15
    """Their size, in half-widths of the action box."""
    descent_energy_weight: float = 0.01
    """Of the prior's energy, per nat of a window; 0 for the goal alone, which needs no prior."""
    final_weight: float = 1.0
    """Of the goal energy: weight of the last step's angle."""
    position_weight: float = 0.0
    """Of the goal energy, radians per metre."""
    replan_every: int = 2
    """Steps acted on before planning anew."""


class PlannedPolicy:
    """Acts by `CEMPlanner`; its draws follow from the seeds of the whole batch.

    Args:
        action_low, action_high: the action box (A,); the model has its own, which must be this one.
        settings: model and planner.

    Raises InputError without a model, for one that is not told actions or whose states have no goal pose,
    and if the action box is another.
    """

    goal_conditioned = True
    needs_simulator = False
    markov = False
    Settings: ClassVar = PlannedSettings

    def __init__(
        self,
        action_low: NDArray[np.floating],
        action_high: NDArray[np.floating],
        settings: PlannedSettings,
        *,
        env_id: str,
        env_kwargs: dict[str, Any],
    ) -> None:
        if not settings.model:
            raise InputError("policy 'planner': no model; give --planner.model, a folder of train_traj.py")
        from ebm_traj.planning.cem import CEMConfig, CEMPlanner
        from ebm_traj.planning.descent import DescentConfig
        from ebm_traj.planning.energies import goal
        from ebm_traj.planning.policy import PlanningPolicy
        from ebm_traj.planning.rollout import same_box
        from ebm_traj.trajectory.files import load, weights_digest

        model = load(settings.model)
        prior = load(settings.prior) if settings.prior else None
        low, high = (np.asarray(bound, np.float32) for bound in (action_low, action_high))
        centre = model.action_centre.numpy()
        if not same_box(model, low, high):
            raise InputError(
                f"policy 'planner': {settings.model} was trained with {centre.shape[0]} actions of another "
                f"box than the {low.shape[0]} of {env_id}"
            )
        config = CEMConfig(
            futures=settings.futures,
            horizon=settings.horizon,
            rounds=settings.rounds,
            elites=min(CEMConfig.elites, settings.futures),
            prior_share=settings.prior_share,
            average=settings.average,
            descent=DescentConfig(
                settings.descent_steps, settings.descent_rate, settings.descent_energy_weight
            ),
        )
        wish = goal(model.spec, position=settings.position_weight, final=settings.final_weight)
        planner = CEMPlanner(model, config, wish, prior)
        self._policy = PlanningPolicy(planner, model.spec, centre, settings.replan_every)
        self._low, self._high = low, high
        self.sha256 = "+".join(weights_digest(known) for known in (model, prior) if known is not None)

    def reset(self, seeds: Sequence[int], steps: ArrayLike = 0) -> None:
        """Begin episodes without a plan; see `PlanningPolicy.reset`."""
        self._policy.reset(seeds, steps)

    def act(
        self,
        observations: Any,
        previous_actions: NDArray[np.floating],
        simulator_states: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float32]:
        """Actions (N, A) within the box."""
        found = self._policy.act(observations, previous_actions, simulator_states)
        return np.clip(found, self._low, self._high)
