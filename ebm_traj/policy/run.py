"""A whole training of a policy: imitation, reinforcement learning, and its test on seeds of its own."""

import dataclasses
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_traj.core.seeding import derive_seed
from ebm_traj.envs.hand_features import FEATURES, hand_features
from ebm_traj.envs.trained import PolicyNetwork, TrainedPolicy, TrainedSettings
from ebm_traj.envs.vector import HandVectorEnv
from ebm_traj.errors import InputError
from ebm_traj.policy.distill import distill
from ebm_traj.policy.evaluate import evaluate
from ebm_traj.policy.settings import PolicySettings

Array = NDArray[np.float64]

TEST_SEED = 2_000_000  # of the episodes whose success stands on the card; nothing is chosen by them
TEST_EPISODES = 100
LOWEST_STD = 0.05  # a feature that hardly varies is not blown up
PACKAGES = ("ebm_traj", "mujoco", "numpy", "stable-baselines3", "torch")


def train_policy(out: Path, settings: PolicySettings, *, num_threads: int | None = None) -> Path:
    """Train a policy in the folder `out`, or go on with it, and write `policy.safetensors` there.

    Raises InputError if Stable-Baselines3 is not installed, or if `out` holds a run of other settings.
    """
    try:
        from ebm_traj.policy.ppo import train_ppo
    except ModuleNotFoundError as error:
        if error.name != "stable_baselines3":
            raise
        raise InputError('training a policy needs Stable-Baselines3: pip install "ebm_traj[sb3]"') from None
    _claim(out, settings)
    mean, std = np.zeros(FEATURES), np.ones(FEATURES)
    if settings.ppo.scale:
        mean, std = feature_scale(settings, num_threads)
    start = PolicyNetwork.load(Path(settings.start)) if settings.start else None
    if settings.distill.rounds:
        start = distill(out, settings, mean, std, num_threads=num_threads)
    network = train_ppo(out, settings, mean, std, start, num_threads=num_threads)
    path = out / "policy.safetensors"
    network.save(path)
    network.card |= settings.card() | {
        "test": test(path, settings),
        "versions": {name: version(name) for name in PACKAGES},
    }
    network.save(path)
    (out / "card.json").write_text(json.dumps(network.card, indent=1))
    return path


def test(path: Path, settings: PolicySettings) -> dict[str, Any]:
    """How the network of a file does in episodes that nothing was chosen by."""
    low, high, task = -np.ones(20), np.ones(20), settings.task
    policy = TrainedPolicy(low, high, TrainedSettings(str(path)), env_id=settings.env_id, env_kwargs=task)
    found = evaluate(policy, settings.env_id, task, episodes=TEST_EPISODES, seed=TEST_SEED)
    return found.summary() | {"first_seed": TEST_SEED}


def feature_scale(settings: PolicySettings, num_threads: int | None) -> tuple[Array, Array]:
    """Mean and standard deviation (F,) of the features under smooth random actions."""
    rows, steps = 64, 100
    envs = HandVectorEnv(
        rows, num_threads, max_episode_steps=None, substeps=settings.ppo.substeps, **settings.task
    )
    rng = np.random.default_rng(derive_seed(settings.seed, "scale"))
    observation, _ = envs.reset(seed=derive_seed(settings.seed, "scale"))
    actions, seen = np.zeros((rows, 20)), []
    for _ in range(steps):
        actions = np.clip(actions + 0.2 * rng.standard_normal(actions.shape), -1, 1)
        observation, *_ = envs.step(actions)
        seen.append(hand_features(observation, actions))
    envs.close()
    found = np.concatenate(seen)
    return found.mean(axis=0), np.maximum(found.std(axis=0), LOWEST_STD)


def _claim(out: Path, settings: PolicySettings) -> None:
    """Write the settings to `out`; InputError if others are there."""
    wanted = json.loads(json.dumps(dataclasses.asdict(settings)))
    written = out / "settings.json"
    if written.is_file() and (found := json.loads(written.read_text())) != wanted:
        differs = next(name for name in wanted if found.get(name) != wanted[name])
        raise InputError(
            f"{out}: made with {differs} = {found.get(differs)}; asked for now is {wanted[differs]}"
        )
    out.mkdir(parents=True, exist_ok=True)
    written.write_text(json.dumps(wanted, indent=1))
