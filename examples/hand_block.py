"""The shipped model turns a block in a Shadow hand: its futures, chosen by a goal energy."""

import dataclasses
from pathlib import Path

import gymnasium
import numpy as np
import torch

import ebm_traj
from ebm_traj.cli import run
from ebm_traj.planning.energies import goal, quaternion_angle


@dataclasses.dataclass
class Args:
    """Turn the block about the vertical, with and without a goal energy."""

    seed: int = 0
    steps: int = 100
    """Of each rollout."""
    rollouts: int = 3
    """With the energy, and as many without."""
    futures: int = 32
    horizon: int = 12
    plot: Path = Path("hand_block.png")


def main(args: Args) -> None:
    """Turn the block about the vertical, with and without a goal energy."""
    env = gymnasium.make("ebm_traj/HandBlock-v0", target_rotation="z", target_position="ignore")
    model = ebm_traj.load("hand-block")
    block, target = model.spec.quaternions[0], model.spec.given_quaternions[0]
    for name, energies in (("without the energy", None), ("with the energy", {"goal": goal(model.spec)})):
        reached, turned, plan_ms = [], [], []
        for seed in range(args.seed, args.seed + args.rollouts):
            result = ebm_traj.rollout(
                env,
                model,
                args.steps,
                futures=args.futures,
                horizon=args.horizon,
                replan_every=2,
                seed=seed,
                energies=energies,
            )
            states = torch.from_numpy(result.states)
            angles = quaternion_angle(states[:, block], states[:, target])
            reached.append(result.success.any())
            turned.append((float(angles[0]), float(angles.min())))
            plan_ms.extend(result.plan_ms)
        first, least = np.median(turned, axis=0)
        p50, p99 = np.percentile(plan_ms, (50, 99))
        print(
            f"{name}: reached the goal in {sum(reached)} of {len(reached)}; angle to it {first:.2f} rad at "
            f"first, {least:.2f} at best (medians); a planning {p50:.0f} ms (p50), {p99:.0f} ms (p99)"
        )
    print(result.summary())
    result.plot(args.plot)
    print(args.plot)


if __name__ == "__main__":
    run(main, Args)
