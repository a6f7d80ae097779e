"""How a network does in the episodes that the best one of a training is chosen by."""

from pathlib import Path
from typing import Any

import numpy as np

from ebm_traj.envs.hand_model import ACTIONS
from ebm_traj.envs.trained import TrainedPolicy, TrainedSettings
from ebm_traj.policy.evaluate import evaluate
from ebm_traj.policy.settings import PolicySettings

VALIDATION_SEED = 1_000_000


def validate(
    path: Path, settings: PolicySettings, episodes: int, seed: int = VALIDATION_SEED
) -> dict[str, Any]:
    """Summary of `episodes` episodes in exact simulation."""
    low, high, task = -np.ones(ACTIONS), np.ones(ACTIONS), settings.task
    policy = TrainedPolicy(low, high, TrainedSettings(str(path)), env_id=settings.env_id, env_kwargs=task)
    found = evaluate(policy, settings.env_id, task, episodes=episodes, seed=seed, progress=False)
    return found.summary()


def score(found: dict[str, Any]) -> float:
    """What the best network of a training is chosen by: the mean of the shares reached and held."""
    return (found["reached"][0] + found["held"][0]) / 2
