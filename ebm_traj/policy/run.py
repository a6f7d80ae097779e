"""A whole training of a policy: what the expert shows, reinforcement learning, a test on seeds of its own."""

import dataclasses
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ebm_traj.core.seeding import derive_seed
from ebm_traj.envs.hand_features import FEATURES, hand_features
from ebm_traj.envs.trained import PolicyNetwork
from ebm_traj.envs.vector import HandVectorEnv
from ebm_traj.errors import InputError
from ebm_traj.policy.curves import draw_curves
from ebm_traj.policy.settings import PolicySettings
from ebm_traj.policy.validation import validate

Array = NDArray[np.float64]

TEST_SEED = 2_000_000  # of the episodes whose success stands on the card; nothing is chosen by them
TEST_EPISODES = 100
LOWEST_STD = 0.05  # a feature that hardly varies is not blown up
PACKAGES = ("ebm_traj", "mujoco", "numpy", "torch")


def train_policy(out: Path, settings: PolicySettings, *, num_threads: int | None = None) -> Path:
    """Train a policy in the folder `out`, or go on with it; writes `policy.safetensors` and `curves.png`.

    Raises InputError if PPO is asked for and Stable-Baselines3 is not installed, or if `out` holds a run of
    other settings.
    """
    learn = by_td3 if settings.method == "td3" else by_ppo
    extra = ["stable-baselines3"] if settings.method == "ppo" else []
    if settings.method == "ppo":
        try:
            import stable_baselines3  # noqa: F401
        except ModuleNotFoundError:
            raise InputError('PPO needs Stable-Baselines3: pip install "ebm_traj[sb3]"') from None
    elif settings.start:
        from ebm_traj.policy.td3 import CHECKPOINT, begun

        if not (out / CHECKPOINT).is_file():
            begun(settings, settings.seed)  # refuses a start that does not fit, before the expert's long work
    _claim(out, settings)
    network = learn(out, settings, num_threads)
    path = out / "policy.safetensors"
    network.save(path)
    network.card |= settings.card() | {
        "test": validate(path, settings, TEST_EPISODES, TEST_SEED) | {"first_seed": TEST_SEED},
        "versions": {name: version(name) for name in (*PACKAGES, *extra)},
    }
    network.save(path)
    draw_curves(out)
    (out / "card.json").write_text(json.dumps(network.card, indent=1))
    return path


def by_td3(out: Path, settings: PolicySettings, num_threads: int | None) -> PolicyNetwork:
    """Demonstrations of the expert, then TD3."""
    from ebm_traj.policy.demos import record_demos
    from ebm_traj.policy.td3 import train_td3

    demos = record_demos(out, settings, num_threads)
    return train_td3(out, settings, demos, num_threads=num_threads)


def by_ppo(out: Path, settings: PolicySettings, num_threads: int | None) -> PolicyNetwork:
    """Imitation of the expert, if asked for, then PPO."""
    from ebm_traj.policy.distill import distill
    from ebm_traj.policy.ppo import train_ppo

    count = FEATURES[settings.form]
    mean, std = np.zeros(count), np.ones(count)
    if settings.ppo.scale:
        mean, std = feature_scale(settings, num_threads)
    start = PolicyNetwork.load(Path(settings.start)) if settings.start else None
    if settings.distill.rounds:
        start = distill(out, settings, mean, std, num_threads=num_threads)
    return train_ppo(out, settings, mean, std, start, num_threads=num_threads)


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
        seen.append(hand_features(observation, actions, settings.form))
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
