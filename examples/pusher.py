"""Gymnasium's Pusher: learn from random motion, then act towards a goal that no data were collected for.

The energy is written here: fingertip to the object, object to the goal.
"""

import dataclasses
import tempfile
from pathlib import Path

import gymnasium
import numpy as np
import torch

import ebm_traj
from ebm_traj.cli import run
from ebm_traj.collect.run import CollectSettings, collect
from ebm_traj.core.trainer import TrainerConfig

ENV = "Pusher-v5"
TIP, OBJECT, GOAL = slice(14, 17), slice(17, 20), slice(20, 23)  # metres, places in the observation


def push(futures: torch.Tensor) -> torch.Tensor:
    """(M, H, D) to (M,): distances of tip and object, and of object and goal, mean over the future."""
    return (distance(futures, TIP, OBJECT) + 2 * distance(futures, OBJECT, GOAL)).mean(-1)


def distance(states: torch.Tensor, one: slice, other: slice) -> torch.Tensor:
    """Metres (...) between two points of states (..., D)."""
    return (states[..., one] - states[..., other]).norm(dim=-1)


@dataclasses.dataclass
class Args:
    """Push an object to a goal with a model of random motion."""

    seed: int = 0
    episodes: int = 100
    """Recorded to learn from, 100 steps each."""
    iterations: int = 500
    """Of training."""
    steps: int = 60
    """Of each rollout."""
    rollouts: int = 4
    """With the energy, and as many without."""
    plot: Path = Path("pusher.png")


def main(args: Args) -> None:
    """Push an object to a goal with a model of random motion."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        recorded = CollectSettings(ENV, episodes=args.episodes, steps=100, seed=args.seed)
        collect(data, recorded, workers=1, progress=False)
        settings = ebm_traj.TrainSettings(
            TrainerConfig(args.iterations, seed=args.seed), conditioning="joint"
        )
        config = ebm_traj.EBMConfig(ebm_traj.NetworkConfig(width=128))
        model = ebm_traj.train(ebm_traj.Recording(data), "ebm", config, settings, Path(folder, "model"))

    env = gymnasium.make(ENV)
    for name, energies in (("without the energy", None), ("with the energy", {"push": push})):
        ends = []
        for seed in range(args.seed, args.seed + args.rollouts):
            result = ebm_traj.rollout(
                env, model, args.steps, futures=32, horizon=12, replan_every=4, seed=seed, energies=energies
            )
            last = torch.from_numpy(result.states[-1])
            ends.append((float(distance(last, TIP, OBJECT)), float(distance(last, OBJECT, GOAL))))
        tip, moved = np.median(ends, axis=0)
        print(
            f"{name}: at the end tip from object {tip:.3f} m, object from goal {moved:.3f} m "
            f"(medians of {len(ends)})"
        )
    print(result.summary())
    result.plot(args.plot)
    print(args.plot)


if __name__ == "__main__":
    run(main, Args)
