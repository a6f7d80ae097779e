"""Making one shard: many environments in lock step, or one environment, episode after episode.

A shard is a pure function of the manifest and its number, whichever way, and on whatever machine of the
same package versions, it is made.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from ebm_traj.datasets.manifest import Manifest
from ebm_traj.datasets.shard import ShardData
from ebm_traj.datasets.splits import SPLITS, episode_seed, split_codes
from ebm_traj.envs.behaviour import Policy, make_policy
from ebm_traj.envs.success import succeeded

Report = Callable[[float, int], None]
"""Called with episodes (fractions count) and steps made since the last call."""


def policy_of(manifest: Manifest) -> Policy:
    """The behaviour that a recording is made with."""
    return make_policy(
        manifest.policy, manifest.action_low, manifest.action_high, manifest.env_id, manifest.env_kwargs
    )


class ShardBuilder:
    """Gathers the episodes of a shard in any order of steps and joins them to its arrays."""

    def __init__(self, manifest: Manifest, shard: int):
        self.manifest = manifest
        self.episodes = manifest.episodes_of(shard)
        self.seeds = [episode_seed(manifest.run_seed, episode) for episode in self.episodes]
        self.split = split_codes(
            manifest.run_seed, self.episodes, manifest.test_fraction, manifest.validation_fraction
        )
        rows, steps = len(self.episodes), manifest.steps
        self.states = np.empty((rows, steps + 1, manifest.spec.size), dtype=np.float32)
        self.actions = np.empty((rows, steps, len(manifest.action_low)), dtype=np.float32)
        self.rewards = np.empty((rows, steps), dtype=np.float32)
        self.lengths = np.full(rows, steps)
        self.terminated = np.zeros(rows, dtype=bool)
        self.success = np.zeros(rows, dtype=bool)
        self._sim: list[tuple[int, int, NDArray[np.float64]]] = []

    @property
    def held_out(self) -> NDArray[np.intp]:
        """Rows of the validation and test episodes, whose simulator states are kept."""
        return np.flatnonzero(self.split != SPLITS.index("train"))

    def keeps_sim_states_at(self, step: int) -> bool:
        """Whether simulator states are kept at a step."""
        every = self.manifest.sim_state_every
        return every > 0 and step % every == 0

    def add_sim_state(self, row: int, step: int, state: NDArray[np.float64]) -> None:
        """Keep the simulator state (Z,) of an episode before its action at `step`."""
        self._sim.append((row, step, state))

    def build(self) -> ShardData:
        """The arrays of the shard."""
        longest = int(self.lengths.max())  # far less than allowed, where episodes end early
        frames = np.arange(longest + 1) <= self.lengths[:, None]
        steps = np.arange(longest) < self.lengths[:, None]
        spec = self.manifest.spec
        # Rows past an episode's end are never written; they are dropped below and must not hold NaN.
        aligned = spec.align(np.where(frames[..., None], self.states[:, : longest + 1], 0))
        self._sim.sort(key=lambda entry: entry[:2])
        sim_index = np.array([entry[:2] for entry in self._sim], dtype=np.int64).reshape(-1, 2)
        sim_states = np.stack([entry[2] for entry in self._sim]) if self._sim else np.empty((0, 0))
        return ShardData(
            states=aligned[frames],
            actions=self.actions[:, :longest][steps],
            rewards=self.rewards[:, :longest][steps],
            offsets=np.concatenate([[0], np.cumsum(self.lengths + 1)]),
            episode=np.asarray(self.episodes, dtype=np.int64),
            seed=np.asarray(self.seeds, dtype=np.int64),
            split=self.split,
            terminated=self.terminated,
            success=self.success,
            sim_states=sim_states,
            sim_index=sim_index,
        )


def collect_lockstep(envs: Any, policy: Policy, manifest: Manifest, shard: int, report: Report) -> ShardData:
    """All episodes of a shard at once on a vector environment of as many, without autoreset."""
    builder = ShardBuilder(manifest, shard)
    rows, spec = len(builder.episodes), manifest.spec
    held_out = builder.held_out
    observation, _ = envs.reset(seed=builder.seeds)
    policy.reset(builder.seeds)
    builder.states[:, 0] = spec.read(observation)
    actions = np.full((rows, len(manifest.action_low)), np.nan, dtype=np.float32)
    running = np.ones(rows, dtype=bool)
    for step in range(manifest.steps):
        keep = builder.keeps_sim_states_at(step)
        sim_states = envs.get_state() if keep or policy.needs_simulator else None
        if keep:
            assert sim_states is not None
            for row in held_out[running[held_out]]:
                builder.add_sim_state(int(row), step, sim_states[row])
        actions = manifest.round_actions(policy.act(observation, actions, sim_states))
        builder.actions[:, step] = actions
        observation, rewards, terminated, _, info = envs.step(actions)
        builder.states[:, step + 1] = spec.read(observation)
        builder.rewards[:, step] = rewards
        success = np.asarray(info.get("is_success", np.zeros(rows))) > 0
        builder.success[running] = success[running]
        report(rows / manifest.steps, int(running.sum()))
        ended = terminated & running
        builder.lengths[ended] = step + 1
        builder.terminated[ended] = True
        running &= ~terminated
        if terminated.any() and step + 1 < manifest.steps:
            if not running.any():
                break
            envs.reset(options={"reset_mask": terminated})  # only so that the others can go on
    return builder.build()


def collect_one_by_one(
    env: gymnasium.Env, policy: Policy, manifest: Manifest, shard: int, report: Report
) -> ShardData:
    """The episodes of a shard one after the other; they may end early."""
    builder = ShardBuilder(manifest, shard)
    spec = manifest.spec
    get_state = getattr(env.unwrapped, "get_state", None) if manifest.sim_state_every else None
    for row, seed in enumerate(builder.seeds):
        observation, _ = env.reset(seed=seed)
        policy.reset([seed])
        builder.states[row, 0] = spec.read(observation)
        actions = np.full((1, len(manifest.action_low)), np.nan, dtype=np.float32)
        for step in range(manifest.steps):
            if get_state and row in builder.held_out and builder.keeps_sim_states_at(step):
                builder.add_sim_state(row, step, get_state())
            actions = manifest.round_actions(policy.act(batch_of_one(observation), actions))
            builder.actions[row, step] = actions[0]
            observation, reward, terminated, truncated, info = env.step(actions[0])
            builder.states[row, step + 1] = spec.read(observation)
            builder.rewards[row, step] = reward
            if terminated or truncated:
                break
        builder.lengths[row] = step + 1
        builder.terminated[row] = terminated
        builder.success[row] = succeeded(info)
        report(1, step + 1)
    return builder.build()


def batch_of_one(observation: Any) -> Any:
    """The observation (Box or Dict) as a batch with one row."""
    if isinstance(observation, dict):
        return {key: batch_of_one(value) for key, value in observation.items()}
    return np.asarray(observation)[None]
