"""How well a behaviour policy turns the object of a hand environment, over many seeds."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from ebm_traj.atomic import write_atomically
from ebm_traj.cli import json_object, require_seed, run
from ebm_traj.envs.behaviour import NoiseSettings, RandomSettings, make_policy, policy_record
from ebm_traj.envs.expert import ExpertSettings
from ebm_traj.envs.trained import TrainedSettings
from ebm_traj.output import require_file


@dataclasses.dataclass
class Args:
    """Arguments of the evaluation."""

    policy: Literal["random", "expert", "trained"] = "trained"
    """The behaviour."""
    random: RandomSettings = RandomSettings()
    expert: ExpertSettings = ExpertSettings()
    trained: TrainedSettings = TrainedSettings()
    env: str = "ebm_traj/HandBlock-v0"
    """Gymnasium id of a hand environment."""
    env_kwargs: str = '{"target_rotation": "z", "target_position": "ignore"}'
    """Keyword arguments of the environment as JSON."""
    episodes: int = 100
    """Episodes."""
    steps: int = 100
    """Steps of an episode."""
    seed: int = 3_000_000
    """Seed of the first episode; the others follow."""
    noise_every: int = 0
    """Every so many steps the action is uniformly random; 0 for never."""
    workers: int | None = None
    """Threads; default: one per core."""
    json: Path | None = None
    """Write the figures to this file, too."""
    overwrite: bool = False
    """Replace the file of --json."""


def main(args: Args) -> None:
    """Run a policy and print its success, with 95 % limits, and its speed."""
    import numpy as np

    from ebm_traj.collect.environment import require_lockstep
    from ebm_traj.policy.evaluate import evaluate

    if args.json is not None:
        require_file(args.json, "--json", overwrite=args.overwrite, endings=(".json",))
    require_seed("--seed", args.seed)
    env_kwargs = json_object("--env-kwargs", args.env_kwargs)
    require_lockstep(args.env, env_kwargs, args.steps)
    record = policy_record(args.policy, getattr(args, args.policy), NoiseSettings(args.noise_every))
    policy = make_policy(record, -np.ones(20), np.ones(20), args.env, env_kwargs)
    found = evaluate(
        policy,
        args.env,
        env_kwargs,
        episodes=args.episodes,
        seed=args.seed,
        steps=args.steps,
        num_threads=args.workers,
    ).summary()
    print(table(args, found))
    if args.json is not None:
        write_atomically(args.json, json.dumps({"policy": record, "env": args.env, **found}, indent=1))


def table(args: Args, found: dict[str, Any]) -> str:
    """The figures in lines."""

    from ebm_traj.policy.evaluate import in_words

    return "\n".join(
        [
            f"{args.policy} in {args.env} {args.env_kwargs}, {args.episodes} episodes from seed {args.seed}",
            f"  goal met at some step    {in_words(found['reached'])}",
            f"  goal met at the last     {in_words(found['held'])}",
            f"  as gymnasium-robotics    {in_words(found['reached_original'])} at some step",
            f"  object dropped           {100 * found['dropped']:.0f} %",
            f"  angle left, mean/median  {found['rotation_mean']:.2f} / {found['rotation_median']:.2f} rad",
            f"  actions a second         {found['actions_per_second']:,.0f}, policy alone",
            f"  time                     {found['seconds_per_episode']:.1f} s an episode",
        ]
    )


if __name__ == "__main__":
    run(main, Args)
