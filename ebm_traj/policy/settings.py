"""Settings of `scripts/train_policy.py`; apart from what needs Stable-Baselines3, so that --help does not."""

import dataclasses

from ebm_traj.errors import InputError


@dataclasses.dataclass(frozen=True)
class PPOSettings:
    """What a trained policy is a function of."""

    object: str = "block"
    """block, egg or pen."""
    target_rotation: str = "z"
    """z, parallel or xyz."""
    steps: int = 12_000_000
    """Environment steps in coarse simulation."""
    fine_steps: int = 1_000_000
    """Environment steps in the simulation as it is, after those."""
    substeps: int = 5
    """Simulator steps of a coarse environment step."""
    noise: float = 0.02
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
    """First log standard deviation of the exploration."""
    width: int = 256
    """Units in each of two hidden layers."""
    evaluate_every: int = 200
    """Updates between evaluations; the best network is kept."""
    evaluation_episodes: int = 100
    """Episodes of each evaluation, of exact simulation."""
    seed: int = 0
    """Seed of everything."""

    def __post_init__(self) -> None:
        for name in ("steps", "envs", "rollout", "batch", "epochs", "evaluate_every", "evaluation_episodes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', ' ')}: {getattr(self, name)}; needs 1 or more")
        if not 0 <= self.noise < 1 or not 0 < self.discount <= 1:
            raise InputError("noise must be from 0 to below 1, discount above 0 and at most 1")

    @property
    def task(self) -> dict[str, str]:
        """Settings of the environment."""
        return {
            "object": self.object,
            "target_rotation": self.target_rotation,
            "target_position": "ignore",
        }
