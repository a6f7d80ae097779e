"""A made-up robot whose next state is known in closed form, recorded like any other."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from ebm_traj.cli import run
from ebm_traj.datasets.recording import Recording
from ebm_traj.datasets.shard import Manifest, ShardData, write_shard
from ebm_traj.datasets.splits import episode_seed, split_codes
from ebm_traj.spec import StateSpec

SCRIPTS = Path(__file__).parents[1] / "scripts"
PULL, PUSH, SHAKE = 0.9, 0.2, 0.05
STEPS, EPISODES, PER_SHARD = 20, 120, 40

TOY_SPEC = StateSpec(
    names=("x", "y", "qw", "qx", "qy", "qz", "goal"),
    kinds=("position", "position", *["quaternion"] * 4, "given"),
    indices=tuple(range(7)),
    observation_size=7,
)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests run side by side; more threads than cores only wait for each other."""
    torch.set_num_threads(1)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load_script() -> Callable[[str], ModuleType]:
    """scripts/NAME.py as a module."""
    return script


@pytest.fixture(scope="session")
def call_script() -> Callable[..., None]:
    """`python scripts/NAME.py ARGV`, in this process."""
    return lambda name, *argv: run((module := script(name)).main, module.Args, list(argv))


def toy_episode(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """s' = 0.9 s + 0.2 a + 0.05 n in x and y, a turn about z by 0.1 n radians, a goal that stays."""
    actions = rng.uniform(-1, 1, (STEPS, 2))
    place, angle, goal = rng.normal(size=2), rng.uniform(-np.pi, np.pi), rng.normal()
    states = []
    for action in [*actions, None]:
        states.append([*place, np.cos(angle / 2), 0, 0, np.sin(angle / 2), goal])
        if action is not None:
            place = PULL * place + PUSH * action + SHAKE * rng.normal(size=2)
            angle += 0.1 * rng.normal()
    return TOY_SPEC.align(np.array(states)), actions.astype(np.float32)


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of 40 episodes of 20 steps; state 7 (x, y, quaternion, given goal), action 2."""
    folder = tmp_path_factory.mktemp("toy")
    manifest = Manifest(
        env_id="Toy-v0",
        env_kwargs={},
        policy={"name": "random", "settings": {}, "goal_conditioned": False},
        spec=TOY_SPEC,
        action_low=np.full(2, -1, np.float32),
        action_high=np.full(2, 1, np.float32),
        run_seed=0,
        episodes=EPISODES,
        steps=STEPS,
        episodes_per_shard=PER_SHARD,
        test_fraction=0.2,
        validation_fraction=0.1,
        sim_state_every=0,
        versions={},
    )
    for shard in range(EPISODES // PER_SHARD):
        numbers = manifest.episodes_of(shard)
        pairs = [toy_episode(np.random.default_rng(number)) for number in numbers]
        data = ShardData(
            states=np.concatenate([states for states, _ in pairs]),
            actions=np.concatenate([actions for _, actions in pairs]),
            rewards=np.zeros(PER_SHARD * STEPS, np.float32),
            offsets=np.arange(PER_SHARD + 1) * (STEPS + 1),
            episode=np.array(numbers),
            seed=np.array([episode_seed(0, number) for number in numbers]),
            split=split_codes(0, numbers, 0.2, 0.1),
            terminated=np.zeros(PER_SHARD, bool),
            success=np.zeros(PER_SHARD, bool),
            sim_states=np.zeros((0, 0)),
            sim_index=np.zeros((0, 2), np.int64),
        )
        write_shard(folder, shard, manifest, data)
    return folder


@pytest.fixture(scope="session")
def toy(toy_folder: Path) -> Recording:
    """The recording of `toy_folder`."""
    return Recording(toy_folder)
