"""Threads that step many simulator states of one hand.

Each thread owns one `MjData`; it takes the next environment from a shared queue, loads its state, runs all
substeps in one `mujoco.mj_step(..., nstep=20)`, and writes the state back. `mj_step` releases the GIL, so the
threads run in parallel, and Python is entered once per environment and step, not once per substep.

Why not `mujoco.rollout` over the whole batch: it is hardly faster (1 to 2 per cent on two threads), and it
does not give back the warm start of the constraint solver, without which a run cannot be continued exactly.
It serves `HandWorkers.rollout`, where all actions are known beforehand.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import mujoco
import mujoco.rollout
import numpy as np
from numpy.typing import NDArray

from ebm_traj.envs.hand_model import HandModel
from ebm_traj.envs.hand_task import HandTask
from ebm_traj.processes import ctrl_c_only_where_asked

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

ROLLOUT_BYTES = 64 * 2**20  # of substep states held at a time in `rollout`


def usable_cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class HandWorkers:
    """`num_threads` threads over states (N, S) of `hand`; results do not depend on their number."""

    def __init__(self, hand: HandModel, num_threads: int) -> None:
        self.hand = hand
        self.num_threads = num_threads
        self._datas = [mujoco.MjData(hand.mj) for _ in range(num_threads)]
        self._pool = ThreadPoolExecutor(num_threads, "hand") if num_threads > 1 else None
        self._rollout: mujoco.rollout.Rollout | None = None

    def step(self, states: Array, control: Array, indices: Indices) -> NDArray[np.bool_]:
        """Step the rows of `indices` in place under joint targets (N, 20).

        Returns which of all N rows diverged (N,); these keep their last good state.
        """
        hand = self.hand
        physics = states[:, : hand.simulator_size]
        diverged = np.zeros(len(states), dtype=bool)

        def advance(data: mujoco.MjData, i: int) -> None:
            hand.set_state(data, physics[i])
            if hand.step(data, control[i]):
                hand.get_state(data, physics[i])
            else:
                diverged[i] = True

        self._each(advance, indices)
        states[indices, hand.elapsed] += 1
        return diverged

    def reset(
        self, states: Array, task: HandTask, rngs: Sequence[np.random.Generator], indices: Indices
    ) -> None:
        """Start an episode in each row of `indices`, with the generator of that row."""
        hand = self.hand

        def start(data: mujoco.MjData, i: int) -> None:
            states[i, hand.goal] = hand.reset(data, task, rngs[i])
            states[i, hand.elapsed] = 0
            states[i, hand.goal_seed] = task.draw_goal_seed(rngs[i])
            hand.get_state(data, states[i, : hand.simulator_size])

        self._each(start, indices)

    def rollout(self, states: Array, control: Array) -> Array:
        """Physics (B, H, P) after each step from states (B, S) under joint targets (B, H, 20)."""
        batch, steps, _ = control.shape
        size, per_step = self.hand.physics_size, self.hand.substeps
        physics = states[:, :size]
        warmstart = states[:, size : self.hand.simulator_size]
        result = np.empty((batch, steps, size))
        if self._rollout is None:
            self._rollout = mujoco.rollout.Rollout(nthread=self.num_threads)
        rows = max(self.num_threads, ROLLOUT_BYTES // (8 * per_step * max(steps, 1) * size))
        for first in range(0, batch if steps else 0, rows):
            part = slice(first, first + rows)
            substeps, _ = self._rollout.rollout(
                self.hand.mj,
                self._datas,
                np.ascontiguousarray(physics[part]),
                np.repeat(control[part], per_step, axis=1),
                initial_warmstart=np.ascontiguousarray(warmstart[part]),
            )
            result[part] = substeps[:, per_step - 1 :: per_step]
        for data in self._datas:
            data.warning.number[:] = 0  # a divergence here says nothing of the next step
        return result

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
        if self._rollout is not None:
            self._rollout.close()
            self._rollout = None

    def _each(self, work: Callable[[mujoco.MjData, int], None], indices: Indices) -> None:
        """Call `work(data, i)` for every i, on all threads; each thread has a `data` of its own."""
        queue = iter(indices.tolist())  # taking the next item is atomic, so the threads may share it

        def drain(data: mujoco.MjData) -> None:
            for i in queue:
                work(data, i)

        if self._pool is None or len(indices) < 2:
            drain(self._datas[0])
            return
        with ctrl_c_only_where_asked() as ask:
            futures = [self._pool.submit(drain, data) for data in self._datas]
            wait(futures)
            ask()
        for future in futures:
            future.result()
