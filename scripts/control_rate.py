"""Whether a model keeps pace with the control rate: closed-loop rollouts that replan at every step, timed."""

import dataclasses

from ebm_traj.cli import json_object, pick_device, run
from ebm_traj.errors import InputError
from ebm_traj.planning.sampling import Method


@dataclasses.dataclass
class Args:
    """Arguments of the timing."""

    model: str = "hand-block-fast"
    """Folder of a trained model, or the name of a pretrained one."""
    env: str = "ebm_traj/HandBlock-v0"
    """Gymnasium id of a hand environment."""
    env_kwargs: str = '{"target_rotation": "z", "target_position": "ignore"}'
    """Keyword arguments of the environment as JSON."""
    method: Method = "shooting"
    """How candidates are found."""
    futures: int = 64
    """Candidates of a planning."""
    horizon: int = 12
    """Steps of a candidate."""
    deadline_ms: float | None = None
    """Milliseconds after which the best plan so far is taken."""
    steps: int = 100
    """Steps of a rollout."""
    rollouts: int = 3
    """Rollouts, with seeds from 0."""
    warm: int = 3
    """First steps of each that do not count."""
    device: str = "cpu"
    """Where to plan."""


def main(args: Args) -> None:
    """Time closed-loop control and print p50 and p99."""
    if args.rollouts < 1:
        raise InputError(f"--rollouts {args.rollouts}: accepted are 1 and more")
    if not 0 <= args.warm < args.steps:
        raise InputError(f"--warm {args.warm}: accepted are 0 to below --steps {args.steps}")

    import numpy as np

    from ebm_traj.planning.energies import goal
    from ebm_traj.planning.rollout import open_env, rollout
    from ebm_traj.trajectory.files import load

    model = load(args.model, pick_device(args.device))
    env = open_env(args.env, **json_object("--env-kwargs", args.env_kwargs))
    plan, whole = [], []
    for seed in range(args.rollouts):
        result = rollout(
            env,
            model,
            args.steps,
            futures=args.futures,
            horizon=args.horizon,
            method=args.method,
            deadline_ms=args.deadline_ms,
            energies={"goal": goal(model.spec)},
            seed=seed,
        )
        plan.append(result.plan_ms[args.warm :])
        whole.append(result.plan_ms[args.warm :] + result.step_ms[args.warm :])
    env.close()
    if not sum(map(len, plan)):
        raise InputError(f"--warm {args.warm}: no episode has more steps; accepted are fewer")
    for name, parts in (("planning", plan), ("planning and environment", whole)):
        p50, p99 = np.percentile(np.concatenate(parts), (50, 99))
        print(f"{name}: {p50:.1f} ms (p50), {p99:.1f} ms (p99)")


if __name__ == "__main__":
    run(main, Args)
