"""Any robot behind the Gymnasium interface: an arm of two links with delay and noise, written in numpy here.

No simulator, and nothing of ebm_traj but the spec, which says what the numbers of an observation are (without
it they would all be plain positions). A real robot would talk to its driver in `reset` and `step`.
"""

import dataclasses
import tempfile
from pathlib import Path

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

import ebm_traj
from ebm_traj.cli import run
from ebm_traj.collect.run import CollectSettings, collect
from ebm_traj.core.trainer import TrainerConfig

LINKS, STEP_SECONDS, DAMPING = np.array([0.5, 0.4]), 0.05, 0.9  # metres, damping of the speed in a step
DELAY, NOISE = 2, 0.002  # steps until a command arrives, standard deviation of what the encoders read (rad)
ANGLES = ("shoulder", "elbow")


class Arm(gymnasium.Env):
    """Observation: angles, tip; action: acceleration in [-1, 1]. Commands arrive late, encoders are noisy."""

    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float64)
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    state_spec = ebm_traj.StateSpec(
        (*ANGLES, "tip_x", "tip_y"), ("angle", "angle", "position", "position"), (0, 1, 2, 3), 4
    )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.angles, self.speed = self.np_random.uniform(-1, 1, 2), np.zeros(2)
        self.waiting = [np.zeros(2)] * DELAY
        return self.observe(), {}

    def step(self, action):
        self.waiting.append(np.asarray(action, np.float64))
        self.speed = DAMPING * self.speed + 10 * STEP_SECONDS * self.waiting.pop(0)
        self.angles = self.angles + STEP_SECONDS * self.speed
        return self.observe(), 0.0, False, False, {}

    def observe(self):
        read = self.angles + NOISE * self.np_random.normal(size=2)
        along = np.cumsum(read)
        return np.array([*read, LINKS @ np.cos(along), LINKS @ np.sin(along)])


gymnasium.register("Arm-v0", entry_point=Arm)


@dataclasses.dataclass
class Args:
    """Reach a point with an arm that only implements the Gymnasium interface."""

    seed: int = 0
    episodes: int = 100
    """Recorded to learn from."""
    iterations: int = 600
    """Of training."""
    steps: int = 50
    """Of each rollout."""
    rollouts: int = 4
    """With the energy, and as many without."""
    plot: Path = Path("plain_env.png")


def main(args: Args) -> None:
    """Reach a point with an arm that only implements the Gymnasium interface."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        collect(
            data, CollectSettings("Arm-v0", episodes=args.episodes, seed=args.seed), workers=1, progress=False
        )
        settings = ebm_traj.TrainSettings(
            TrainerConfig(args.iterations, seed=args.seed), conditioning="joint"
        )
        config = ebm_traj.EBMConfig(ebm_traj.NetworkConfig(width=128))
        model = ebm_traj.train(ebm_traj.Recording(data), "ebm", config, settings, Path(folder, "model"))

    tip, target = [model.spec.names.index(name) for name in ("tip_x", "tip_y")], torch.tensor([0.3, 0.5])

    def reach(futures: torch.Tensor) -> torch.Tensor:
        return (futures[..., tip] - target).norm(dim=-1).mean(-1)  # (M, H, D) to (M,)

    for name, energies in (("without the energy", None), ("with the energy", {"reach": reach})):
        ends = []
        for seed in range(args.seed, args.seed + args.rollouts):
            result = ebm_traj.rollout(
                Arm(), model, args.steps, futures=32, horizon=12, replan_every=4, seed=seed, energies=energies
            )
            ends.append(np.linalg.norm(result.states[-1, tip] - target.numpy()))
        print(f"{name}: tip from the target at the end {np.median(ends):.3f} m (median of {len(ends)})")
    print(result.summary())
    result.plot(args.plot)
    print(args.plot)


if __name__ == "__main__":
    run(main, Args)
