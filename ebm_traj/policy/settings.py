"""Settings of `scripts/train_policy.py`; apart from what needs Stable-Baselines3, so that --help does not."""

import dataclasses
from typing import Any

from ebm_traj.envs.expert import ExpertSettings
from ebm_traj.errors import InputError

CHANGE = 0.3  # of an action in a step, at most, in half-widths of the action box
ENV_ID = "ebm_traj/HandBlock-v0"


@dataclasses.dataclass(frozen=True)
class DistillSettings:
    """The first part of a training: imitating the expert."""

    rounds: int = 0
    """Rounds; 0 leaves this part out (one round gave what two minutes of PPO give, and took seven)."""
    episodes: int = 128
    """Episodes of 100 steps in a round."""
    expert: ExpertSettings = ExpertSettings(samples=40, horizon=10, knots=4)
    """Cheaper than the best: the network averages over its noise."""
    expert_share: float = 0.3
    """Share of the time that the expert drives, after the first round."""
    fit_steps: int = 4000
    """Steps of Adam in a round."""
    fit_batch: int = 512
    """States in a gradient."""
    learning_rate: float = 1e-3
    """First learning rate; it falls to 0 in each round."""


@dataclasses.dataclass(frozen=True)
class PPOSettings:
    """The second part: reinforcement learning."""

    steps: int = 2_457_600
    """Environment steps in coarse simulation."""
    fine_steps: int = 0
    """Environment steps in the simulation as it is, after those."""
    substeps: int = 5
    """Simulator steps of a coarse environment step."""
    noise: float = 0.0
    """Share of the steps at which a uniformly random action is taken instead."""
    envs: int = 128
    """Environments stepped together."""
    rollout: int = 32
    """Steps of each environment between updates."""
    batch: int = 1024
    """Steps in a gradient."""
    epochs: int = 5
    """Times each step is used."""
    discount: float = 0.93
    """Weight of the next step's return."""
    trace: float = 0.95
    """Lambda of the generalised advantage estimate."""
    learning_rate: float = 3e-4
    """First learning rate of Adam; it follows `divergence`."""
    divergence: float = 0.06
    """Change of the policy (KL) in an update that the learning rate aims at."""
    log_std: float = -0.5
    """First log standard deviation of the exploration, in units of the largest change."""
    warm_up: int = 30
    """Updates of the value function alone, at first."""
    scale: bool = False
    """z-score the features by their spread under random actions; learning was slower with it."""
    width: int = 256
    """Units in each of two hidden layers."""
    evaluate_every: int = 200
    """Updates between evaluations; the best network is kept."""
    evaluation_episodes: int = 100
    """Episodes of each evaluation, of exact simulation."""

    def __post_init__(self) -> None:
        for name in ("envs", "rollout", "batch", "epochs", "width", "evaluate_every", "evaluation_episodes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', ' ')}: {getattr(self, name)}; needs 1 or more")
        if not 0 <= self.noise < 1 or not 0 < self.discount <= 1:
            raise InputError("noise must be from 0 to below 1, discount above 0 and at most 1")


@dataclasses.dataclass(frozen=True)
class PolicySettings:
    """What a trained policy is a function of."""

    object: str = "block"
    """block, egg or pen."""
    target_rotation: str = "z"
    """z, parallel or xyz."""
    start: str = ""
    """File of a network to begin with, such as another run's policy.safetensors; empty: none."""
    seed: int = 0
    """Seed of everything."""
    distill: DistillSettings = DistillSettings()
    ppo: PPOSettings = PPOSettings()

    @property
    def env_id(self) -> str:
        """The environment; its object is among the settings of the task."""
        return ENV_ID

    @property
    def task(self) -> dict[str, Any]:
        """Settings of the environment."""
        return {
            "object": self.object,
            "target_rotation": self.target_rotation,
            "target_position": "ignore",
        }

    def card(self) -> dict[str, Any]:
        """What goes with a network: its task and these settings."""
        return self.task | {"settings": dataclasses.asdict(self)}
