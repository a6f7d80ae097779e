"""A world whose futures are known, s' = A s + B a + noise, and models perfect or wrong in one way."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ebm_traj.datasets.branches import Branches
from ebm_traj.datasets.recording import Recording
from ebm_traj.datasets.shard import Manifest, ShardData, write_shard
from ebm_traj.datasets.splits import split_codes
from ebm_traj.datasets.statistics import with_training_statistics
from ebm_traj.spec import StateSpec

EPISODES, STEPS = 600, 30
KINDS = ("position", "angle", "position", "angle", "given")
TURN = 0.3
A = 0.97 * np.kron(np.eye(2), [[np.cos(TURN), -np.sin(TURN)], [np.sin(TURN), np.cos(TURN)]])
B = np.array([[0.2, 0.0], [0.0, 0.1], [0.3, 0.1], [0.0, 0.2]])
NOISE = 0.05


def roll(present: torch.Tensor, actions: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """(N, 5) and (N, H, 2) -> (N, H, 5); the fifth dimension is given and stays."""
    state, frames = present[:, :4], []
    for action in actions.unbind(1):
        noise = NOISE * torch.randn(state.shape, generator=generator)
        state = state @ torch.tensor(A.T).float() + action @ torch.tensor(B.T).float() + noise
        frames.append(torch.cat([state, present[:, 4:]], 1))
    return torch.stack(frames, 1)


@dataclasses.dataclass
class Model:
    """Perfect, or `frozen`, `collapsed` (to the mean), `shuffled` (of other presents), `diverging`."""

    spec: StateSpec
    flaw: str = ""
    kind: str = "ebm"
    conditioning: str = "states"
    context_frames: int = 2
    card: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {"iterations": 100, "train_seconds": 2.0, "parameters": 10}
    )

    def sample(self, context, horizon, num_samples, *, actions=None, generator=None):
        assert context.shape[1] == self.context_frames
        present = context[:, -1]
        if self.flaw == "shuffled":
            present = present.roll(1, 0)
        rows = present.repeat_interleave(num_samples, 0)
        if self.flaw == "frozen":
            return rows[:, None].expand(-1, horizon, -1).reshape(len(context), num_samples, horizon, -1)
        assert actions is not None or self.conditioning != "actions"
        if actions is not None:
            assert actions.shape[0] == len(context)
            assert actions.shape[1] in (1, num_samples)
            taken = actions.expand(-1, num_samples, -1, -1).flatten(0, 1)
        else:
            taken = 2 * torch.rand(len(rows), horizon, 2, generator=generator) - 1
        if self.flaw == "collapsed":
            frames = [rows[:, :4]]
            for _ in range(horizon):
                frames.append(frames[-1] @ torch.tensor(A.T).float())
            future = torch.stack(frames[1:], 1)
            future = torch.cat([future, rows[:, None, 4:].expand(-1, horizon, -1)], 2)
        else:
            future = roll(rows, taken, generator)
        if self.flaw == "diverging":
            future = future * torch.inf
        return future.view(len(context), num_samples, horizon, -1)


@dataclasses.dataclass
class World:
    """A recording of the world, its spec with statistics, and branches of 120 moments, 64 each."""

    recording: Recording
    spec: StateSpec
    branches: Branches

    def model(self, flaw: str = "", **fields: Any) -> Model:
        return Model(self.spec, flaw, **fields)


def write_world(folder: Path, split_fractions: tuple[float, float] = (0.4, 0.2)) -> Recording:
    generator = torch.Generator().manual_seed(1)
    actions = 2 * torch.rand(EPISODES, STEPS + 40, 2, generator=generator) - 1
    present = torch.cat([torch.zeros(EPISODES, 4), torch.randn(EPISODES, 1, generator=generator)], 1)
    states = roll(present, actions, generator)[:, 39:]  # forgotten where it began
    spec = StateSpec(("x", "turn", "y", "bend", "goal"), KINDS, (0, 1, 2, 3, 4), 5)
    manifest = Manifest(
        env_id="Linear-v0",
        env_kwargs={},
        policy={"name": "random", "settings": {}, "goal_conditioned": False},
        spec=spec,
        action_low=-np.ones(2, np.float32),
        action_high=np.ones(2, np.float32),
        run_seed=0,
        episodes=EPISODES,
        steps=STEPS,
        episodes_per_shard=EPISODES,
        test_fraction=split_fractions[0],
        validation_fraction=split_fractions[1],
        sim_state_every=0,
        versions={},
    )
    folder.mkdir(parents=True, exist_ok=True)
    data = ShardData(
        states=states.flatten(0, 1).numpy(),
        actions=actions[:, 40:].flatten(0, 1).numpy(),
        rewards=np.zeros(EPISODES * STEPS),
        offsets=np.arange(EPISODES + 1) * (STEPS + 1),
        episode=np.arange(EPISODES),
        seed=np.arange(EPISODES),
        split=split_codes(0, range(EPISODES), *split_fractions),
        terminated=np.zeros(EPISODES, bool),
        success=np.zeros(EPISODES, bool),
        sim_states=np.zeros((0, 1)),
        sim_index=np.zeros((0, 2), np.int64),
    )
    write_shard(folder, 0, manifest, data)
    return Recording(folder)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    recording = write_world(tmp_path_factory.mktemp("world"))
    generator = torch.Generator().manual_seed(2)
    test = recording.load("test")
    contexts = torch.as_tensor(test.states[test.offsets[:120, None] + np.arange(6, 9)])
    actions = 2 * torch.rand(120 * 64, 20, 2, generator=generator) - 1
    futures = roll(contexts[:, -1].repeat_interleave(64, 0), actions, generator)
    branches = Branches(
        contexts=contexts.numpy(),
        futures=futures.view(120, 64, 20, 5).numpy(),
        actions=actions.view(120, 64, 20, 2).numpy(),
        episode=test.episode[:120],
        t=np.full(120, 8),
        spec=recording.spec,
        settings={},
    )
    return World(recording, with_training_statistics(recording), branches)


@pytest.fixture(scope="session", name="write_world")
def write_world_fixture():
    return write_world
