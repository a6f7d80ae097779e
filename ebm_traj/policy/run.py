"""A whole training of a policy: its folder, its settings on disk, its evaluation on seeds of its own."""

import dataclasses
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ebm_traj.errors import InputError
from ebm_traj.policy.settings import PPOSettings

TEST_SEED = 2_000_000  # of the episodes whose success stands on the card; nothing is chosen by them
TEST_EPISODES = 100
PACKAGES = ("ebm_traj", "mujoco", "numpy", "stable-baselines3", "torch")


def train_policy(out: Path, settings: PPOSettings, *, num_threads: int | None = None) -> Path:
    """Train a policy in the folder `out`, or go on with it, and write `policy.safetensors` there.

    Raises InputError if Stable-Baselines3 is not installed, or if `out` holds a run of other settings.
    """
    try:
        from ebm_traj.policy.ppo import ENV_ID, train_ppo
    except ModuleNotFoundError as error:
        if error.name != "stable_baselines3":
            raise
        raise InputError('training a policy needs Stable-Baselines3: pip install "ebm_traj[sb3]"') from None
    from ebm_traj.envs.trained import TrainedPolicy, TrainedSettings
    from ebm_traj.policy.evaluate import evaluate

    wanted = json.loads(json.dumps(dataclasses.asdict(settings)))
    written = out / "settings.json"
    if written.is_file() and (found := json.loads(written.read_text())) != wanted:
        differs = next(name for name in wanted if found.get(name) != wanted[name])
        raise InputError(
            f"{out}: made with {differs} = {found.get(differs)}; asked for now is {wanted[differs]}"
        )
    out.mkdir(parents=True, exist_ok=True)
    written.write_text(json.dumps(wanted, indent=1))
    network = train_ppo(out, settings, num_threads=num_threads)
    path = out / "policy.safetensors"
    network.save(path)
    low, high = [-1.0] * 20, [1.0] * 20
    policy = TrainedPolicy(low, high, TrainedSettings(str(path)), env_id=ENV_ID, env_kwargs=settings.task)
    found = evaluate(policy, ENV_ID, settings.task, episodes=TEST_EPISODES, seed=TEST_SEED).summary()
    network.card |= {"test": found | {"first_seed": TEST_SEED}, "versions": _versions()}
    network.card["command"] = "python scripts/train_policy.py"
    network.save(path)
    (out / "card.json").write_text(json.dumps(network.card, indent=1))
    return path


def _versions() -> dict[str, Any]:
    return {package: version(package) for package in PACKAGES}
