"""Simulator branches: what could have followed a recorded moment, for scoring predictions against."""

from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ebm_traj.collect.environment import has_lockstep, open_environment, open_lockstep
from ebm_traj.collect.shards import policy_of
from ebm_traj.datasets.branches import BRANCHES_FILE, Branches
from ebm_traj.datasets.manifest import Manifest
from ebm_traj.datasets.recording import Recording
from ebm_traj.datasets.splits import Split
from ebm_traj.envs.behaviour import Policy
from ebm_traj.errors import InputError, RunError

__all__ = ["BRANCHES_FILE", "Branches", "simulate_branches"]

BRANCH_STREAM = 3  # keeps the seeds of branches apart from those of episodes
VERIFIED = 8  # contexts at which a branch is run with the recorded noise and compared
ROWS = 256  # environments stepped together; bounds memory, does not change the numbers


def simulate_branches(
    recording: Recording,
    *,
    contexts: int,
    branches: int,
    horizon: int,
    context_frames: int,
    seed: int,
    split: Split = "test",
    num_threads: int | None = None,
    progress: bool = False,
) -> Branches:
    """Re-run the simulator from recorded moments under the recorded policy with fresh noise.

    `contexts` moments are drawn among the stored simulator states of the split that have `context_frames`
    frames before them (their own included); from each, `branches` runs of `horizon` steps with the goal as
    it was. A branch depends on `seed`, its episode, its step and its number only. A run that diverges stays
    at its last good frame.

    First, from a few of the contexts spread over the episodes, a branch with the recorded noise must
    reproduce the recording to the bit; see `verify_branches`.

    Raises InputError if the recording has too few such states, if its environment cannot be set to a state,
    if its policy keeps a memory of its own, or if MuJoCo has another version than at recording (the same
    state would go on differently); RunError if the recording is not reproduced.
    """
    for name, value in (
        ("contexts", contexts),
        ("branches", branches),
        ("horizon", horizon),
        ("context frames", context_frames),
    ):
        if value < 1:
            raise InputError(f"{name}: {value}; needs 1 or more")
    if seed < 0:
        raise InputError(f"branches: seed {seed}; accepted are 0 and more")
    moments = _draw_moments(recording, contexts, context_frames, seed, split)
    _require_same_simulator(recording)
    verify_branches(recording, _spread(recording, moments), horizon, num_threads=num_threads)
    rows, steps = recording.sim_index[moments].T
    starts = recording.offsets[rows] + steps
    past, _ = recording.read_windows(starts - context_frames + 1, context_frames)
    previous = _previous_actions(recording, starts, steps)
    episodes = recording.episode[rows]
    seeds = [
        _branch_seed(seed, int(episode), int(step), branch)
        for episode, step in zip(episodes, steps, strict=True)
        for branch in range(branches)
    ]
    sim_states = recording.read_sim_states(moments)
    policy = policy_of(recording.manifest)

    total = contexts * branches
    futures = np.empty((total, horizon, recording.spec.size), dtype=np.float32)
    actions = np.empty((total, horizon, recording.action_size), dtype=np.float32)
    of_branch = np.repeat(np.arange(contexts), branches)
    envs: Any = None
    with tqdm(total=total, desc="branches", disable=not progress) as bar:
        for begin in range(0, total, ROWS):
            part = slice(begin, min(begin + ROWS, total))
            context = of_branch[part]
            if envs is None or envs.num_envs != len(context):
                if envs is not None:
                    envs.close()
                envs = open_lockstep(recording.env_id, recording.env_kwargs, len(context), num_threads)
            futures[part], actions[part] = continue_from(
                envs,
                policy,
                recording.manifest,
                sim_states[context],
                past[context, -1],
                previous[context],
                steps[context],
                seeds[part],
                horizon,
            )
            bar.update(len(context))
    envs.close()
    shape = (contexts, branches, horizon)
    return Branches(
        contexts=past,
        futures=futures.reshape(*shape, -1),
        actions=actions.reshape(*shape, -1),
        episode=episodes,
        t=steps,
        spec=recording.spec,
        settings={
            "seed": seed,
            "split": split,
            "env_id": recording.env_id,
            "run_seed": recording.manifest.run_seed,
            "mujoco": version("mujoco"),
        },
    )


def continue_from(
    envs: Any,
    policy: Policy,
    manifest: Manifest,
    sim_states: NDArray[np.float64],
    now: NDArray[np.float32],
    previous: NDArray[np.float32],
    steps: NDArray[np.int64],
    seeds: list[int],
    horizon: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Run a policy from simulator states (N, Z): the frames (N, H, D) that follow and the actions (N, H, A).

    `now` (N, D) are the frames at these states, `previous` (N, A) the actions before them (NaN: none) and
    `steps` (N,) the steps of the episodes so far. Quaternions keep the sign they have in `now`.
    """
    spec = manifest.spec
    envs.set_state(sim_states)
    policy.reset(seeds, steps)
    observation, frames, taken = envs.observe(), [now], []
    alive = np.ones(len(now), dtype=bool)
    action = previous
    for _ in range(horizon):
        action = manifest.round_actions(policy.act(observation, action))
        observation, _, terminated, _, _ = envs.step(action)
        frames.append(np.where(alive[:, None], spec.read(observation), frames[-1]))
        taken.append(action)
        alive &= ~terminated
        if terminated.any():  # a diverged row is set back only so that the others can go on
            envs.set_state(sim_states[terminated], np.flatnonzero(terminated))
    trajectory = np.stack(frames, axis=1)
    aligned = spec.align(trajectory)
    for dims in spec.quaternions:
        flipped = (aligned[:, 0, dims] * now[:, dims]).sum(-1) < 0
        aligned[np.ix_(flipped, np.arange(aligned.shape[1]), dims)] *= -1
    return manifest.round_states(aligned[:, 1:]), np.stack(taken, axis=1)


def verify_branches(
    recording: Recording, moments: NDArray[np.intp], horizon: int, *, num_threads: int | None = None
) -> None:
    """Run the simulator from `moments` (K,), rows of `sim_index`, with the very noise of the recording.

    What follows, up to `horizon` steps or the end of the episode, must equal the recording to the bit.
    Raises RunError, naming the first frame that does not, and InputError if the policy has a memory.
    """
    if not recording.policy.get("markov", True):
        raise InputError(
            f"{recording.folder}: its policy '{recording.policy['name']}' keeps a "
            "plan from step to step, which simulator states do not hold; branches need a policy without one, "
            "such as 'trained' or 'random'"
        )
    rows, steps = recording.sim_index[moments].T
    starts = recording.offsets[rows] + steps
    envs = open_lockstep(recording.env_id, recording.env_kwargs, len(moments), num_threads)
    now, _ = recording.read_windows(starts, 1)
    frames, actions = continue_from(
        envs,
        policy_of(recording.manifest),
        recording.manifest,
        recording.read_sim_states(moments),
        now[:, 0],
        _previous_actions(recording, starts, steps),
        steps,
        recording.seed[rows].tolist(),
        horizon,
    )
    envs.close()
    for i, row in enumerate(rows):
        length = min(horizon, int(recording.offsets[row + 1] - starts[i]) - 1)
        if length < 1:
            continue
        recorded, taken = (part[0] for part in recording.read_windows(starts[i : i + 1], length + 1))
        same = (frames[i, :length] == recorded[1:]).all(-1) & (actions[i, :length] == taken[:-1]).all(-1)
        if not same.all():
            raise RunError(
                f"{recording.folder}: re-run from step {steps[i]} of episode {recording.episode[row]} "
                "with the recorded noise, the simulator differs from the recording after "
                f"{int(np.argmin(same)) + 1} steps; was it made on another kind of machine?"
            )


def _previous_actions(
    recording: Recording, starts: NDArray[np.int64], steps: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The actions (K, A) before frames `starts`, the `steps`-th of their episodes; NaN before the first."""
    previous = np.full((len(starts), recording.action_size), np.nan, dtype=np.float32)
    if np.any(steps > 0):
        previous[steps > 0] = recording.read_windows(starts[steps > 0] - 1, 2)[1][:, 0]
    return previous


def _draw_moments(
    recording: Recording, contexts: int, context_frames: int, seed: int, split: Split
) -> NDArray[np.intp]:
    """Rows of `sim_index` to branch from, in ascending order."""
    if not len(recording.sim_index):
        raise InputError(
            f"{recording.folder}: holds no simulator states to branch from; needed is an environment with "
            "get_state() and set_state(), such as ebm_traj/HandBlock-v0, collected with --sim-state-every"
        )
    in_split = np.isin(recording.sim_index[:, 0], recording.episode_rows(split))
    usable = np.flatnonzero(in_split & (recording.sim_index[:, 1] >= context_frames - 1))
    if len(usable) < contexts:
        raise InputError(
            f"{recording.folder}: {contexts} contexts asked for; its {split} split holds {len(usable)} "
            f"simulator states with {context_frames} frames before them"
        )
    rng = np.random.default_rng(np.random.SeedSequence([seed, BRANCH_STREAM]))
    return np.sort(rng.choice(usable, contexts, replace=False))


def _spread(recording: Recording, moments: NDArray[np.intp]) -> NDArray[np.intp]:
    """VERIFIED of the moments or all, evenly from first to last: shards may come from several machines.

    Those at the end of an episode, which nothing follows, are left out where there are others.
    """
    rows, steps = recording.sim_index[moments].T
    followed = moments[steps + 1 < np.diff(recording.offsets)[rows]]
    among = followed if len(followed) else moments
    return among[np.linspace(0, len(among) - 1, min(VERIFIED, len(among))).astype(int)]


def _require_same_simulator(recording: Recording) -> None:
    env = open_environment(recording.env_id, recording.env_kwargs, 1)
    lockstep = has_lockstep(env)
    env.close()
    if not lockstep:
        raise InputError(
            f"environment '{recording.env_id}': branches need a vector environment with set_state(), such as "
            "that of ebm_traj/HandBlock-v0"
        )
    recorded = {versions.get("mujoco") for versions in recording.versions}
    if recorded != {version("mujoco")}:
        raise InputError(
            f"{recording.folder}: recorded with mujoco {', '.join(sorted(map(str, recorded)))}, installed is "
            f"{version('mujoco')}; branches need the same"
        )


def _branch_seed(seed: int, episode: int, step: int, branch: int) -> int:
    sequence = np.random.SeedSequence([seed, BRANCH_STREAM, episode, step, branch])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
