"""Adroit, of gymnasium-robotics: 28 actuators, random motion, and a hand that reaches for the door handle."""

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

ENV = "gymnasium_robotics:AdroitHandDoor-v1"
PALM, HANDLE = slice(29, 32), slice(32, 35)  # metres, places in the observation


def reach(states: torch.Tensor) -> torch.Tensor:
    """(M, H, D) to (M,): metres between palm and handle, mean over the future."""
    return distance(states).mean(-1)


def distance(states: torch.Tensor) -> torch.Tensor:
    """Metres (...) between palm and handle in states (..., D)."""
    return (states[..., PALM] - states[..., HANDLE]).norm(dim=-1)


@dataclasses.dataclass
class Args:
    """Reach for a door handle with a model of random motion."""

    seed: int = 0
    episodes: int = 60
    """Recorded to learn from, 50 steps each."""
    iterations: int = 500
    """Of training."""
    steps: int = 40
    """Of each rollout."""
    rollouts: int = 4
    """With the energy, and as many without."""
    plot: Path = Path("adroit.png")


def main(args: Args) -> None:
    """Reach for a door handle with a model of random motion."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        recorded = CollectSettings(ENV, episodes=args.episodes, steps=50, seed=args.seed)
        collect(data, recorded, workers=1, progress=False)
        settings = ebm_traj.TrainSettings(
            TrainerConfig(args.iterations, seed=args.seed), conditioning="joint"
        )
        config = ebm_traj.EBMConfig(ebm_traj.NetworkConfig(width=128))
        model = ebm_traj.train(ebm_traj.Recording(data), "ebm", config, settings, Path(folder, "model"))

    env = gymnasium.make(ENV)
    for name, energies in (("without the energy", None), ("with the energy", {"reach": reach})):
        ends = []
        for seed in range(args.seed, args.seed + args.rollouts):
            result = ebm_traj.rollout(
                env, model, args.steps, futures=32, horizon=12, replan_every=4, seed=seed, energies=energies
            )
            last = torch.from_numpy(result.states[-1])
            ends.append(float(distance(last)))
        print(
            f"{name}: palm from the handle at the end {100 * np.median(ends):.1f} cm "
            f"(median of {len(ends)}; {', '.join(f'{100 * end:.1f}' for end in ends)})"
        )
    print(result.summary())
    result.plot(args.plot)
    print(args.plot)


if __name__ == "__main__":
    run(main, Args)
