"""Episodes with and without faults, alike to the bit until the fault sets in."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ebm_traj.envs.behaviour import Policy
from ebm_traj.envs.faults import Fault, break_all
from ebm_traj.envs.hand_model import ACTIONS
from ebm_traj.envs.vector import HandVectorEnv
from ebm_traj.errors import InputError
from ebm_traj.spec import StateSpec


@dataclasses.dataclass(frozen=True)
class Episodes:
    """N episodes of T steps."""

    states: NDArray[np.float32]
    """(N, T + 1, D)"""
    actions: NDArray[np.float32]
    """(N, T, A)"""


def paired_episodes(
    policy: Policy,
    seeds: Sequence[int],
    at: Sequence[int] | NDArray[np.integer],
    faults: Mapping[str, Sequence[Fault]],
    steps: int,
    *,
    task: Mapping[str, Any] | None = None,
    num_threads: int | None = None,
    progress: bool = True,
) -> tuple[Episodes, dict[str, Episodes]]:
    """Fault-free episodes, and for each name the same ones with a fault from step `at` (N,) on.

    `faults[name]` has one fault for each episode. Behaviour's own draws depend on seed and step alone, so an
    episode and its faulty twin differ by what the fault does, and by what the policy then does about it.
    `task` are settings of `HandVectorEnv`. Raises InputError for lists that do not fit.
    """
    places = np.asarray(at, dtype=np.int64)
    rows = len(seeds)
    if rows < 1 or places.shape != (rows,) or places.min() < 0 or places.max() >= steps:
        raise InputError(
            f"fault episodes: {rows} seeds, faults at steps {places.tolist()}; accepted is a step from 0 to "
            f"{steps - 1} for each seed"
        )
    for name, chosen in faults.items():
        if len(chosen) != rows:
            raise InputError(f"fault '{name}': {len(chosen)} faults for {rows} episodes")
    runner = _Runner(policy, list(seeds), steps, dict(task or {}), num_threads)
    total = rows * steps + len(faults) * int((steps - places).sum())
    with tqdm(
        total=total,
        desc="episodes",
        disable=not progress,
        file=sys.stderr,
        bar_format="{desc}: {percentage:3.0f}% |{bar}| {elapsed}<{remaining}",
    ) as bar:
        free, starts = runner.free(places, bar)
        found = {name: runner.faulty(free, starts, places, chosen, bar) for name, chosen in faults.items()}
    return free, found


@dataclasses.dataclass(frozen=True)
class _Starts:
    """Where each episode stands when its fault sets in."""

    sim: NDArray[np.float64]
    """(N, S) simulator states."""
    previous: NDArray[np.float32]
    """(N, A) the last actions."""


class _Runner:
    def __init__(
        self, policy: Policy, seeds: list[int], steps: int, task: dict[str, Any], num_threads: int | None
    ) -> None:
        self.policy, self.seeds, self.steps = policy, seeds, steps
        self.task, self.num_threads = task, num_threads

    def open(self, count: int) -> HandVectorEnv:
        return HandVectorEnv(count, self.num_threads, max_episode_steps=None, **self.task)

    def free(self, at: NDArray[np.int64], bar: Any) -> tuple[Episodes, _Starts]:
        envs = self.open(len(self.seeds))
        spec: StateSpec = envs.state_spec
        size = ACTIONS
        states = np.empty((len(at), self.steps + 1, spec.size), np.float32)
        actions = np.empty((len(at), self.steps, size), np.float32)
        observation, _ = envs.reset(seed=self.seeds)
        self.policy.reset(self.seeds)
        states[:, 0] = spec.read(observation)
        previous = np.full((len(at), size), np.nan, np.float32)
        starts = _Starts(envs.get_state(), previous.copy())
        for t in range(self.steps):
            now = at == t
            sim = envs.get_state()
            starts.sim[now], starts.previous[now] = sim[now], previous[now]
            actions[:, t] = previous = self.policy.act(observation, previous, self._given(sim))
            observation = envs.step(previous)[0]
            states[:, t + 1] = spec.read(observation)
            bar.update(len(at))
        envs.close()
        return Episodes(_aligned(spec, states), actions), starts

    def faulty(
        self,
        free: Episodes,
        starts: _Starts,
        at: NDArray[np.int64],
        faults: Sequence[Fault],
        bar: Any,
    ) -> Episodes:
        states, actions = free.states.copy(), free.actions.copy()
        for fault in dict.fromkeys(faults):
            rows = np.array([i for i, other in enumerate(faults) if other == fault])
            envs = self.open(len(rows))
            envs.set_state(starts.sim[rows])
            break_all(envs, fault)
            self.policy.reset([self.seeds[i] for i in rows], at[rows])
            observation, previous = envs.observe(), starts.previous[rows]
            for k in range(self.steps - int(at[rows].min())):
                previous = self.policy.act(observation, previous, self._given(envs.get_state()))
                observation = envs.step(previous)[0]
                inside = np.flatnonzero(at[rows] + k < self.steps)
                n, t = rows[inside], at[rows][inside] + k
                actions[n, t] = previous[inside]
                states[n, t + 1] = envs.state_spec.read(observation)[inside]
                bar.update(len(inside))
            spec = envs.state_spec
            envs.close()
        return Episodes(_aligned(spec, states), actions)

    def _given(self, sim: NDArray[np.float64]) -> NDArray[np.float64] | None:
        return sim if self.policy.needs_simulator else None


def _aligned(spec: StateSpec, states: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack([spec.align(episode) for episode in states])
