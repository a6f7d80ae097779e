"""Train the network that turns the object of a hand environment to its goal."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from ebm_traj.cli import run
from ebm_traj.output import require_new
from ebm_traj.policy.settings import PolicySettings


@dataclasses.dataclass
class Args:
    """Arguments of the training."""

    out: Path
    """Folder of the run; it must not exist yet, unless --resume."""
    resume: bool = False
    """Go on with an interrupted run."""
    workers: int | None = None
    """Threads of the simulation; default: one per core."""
    policy: Annotated[PolicySettings, tyro.conf.arg(name="")] = PolicySettings()


def main(args: Args) -> None:
    """Learn from the planning expert and by reinforcement: TD3, or PPO of Stable-Baselines3."""
    require_new(args.out, args.resume)
    from ebm_traj.policy.run import train_policy

    path = train_policy(args.out, args.policy, num_threads=args.workers)
    print(f"policy: {path}")


if __name__ == "__main__":
    run(main, Args)
