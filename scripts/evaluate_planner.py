"""How well planners turn the object of a hand environment to its goal, and what compute they take."""

import dataclasses
import json
from pathlib import Path
from typing import Literal

from ebm_traj.cli import json_object, run
from ebm_traj.core.backends import SamplerBackend, set_backend
from ebm_traj.errors import InputError
from ebm_traj.planning.cem import CEMConfig
from ebm_traj.planning.sampling import PlannerConfig


@dataclasses.dataclass
class Args:
    """Arguments of the evaluation."""

    model: str = "hand-block"
    """Folder of a trained model, or the name of a pretrained one."""
    planner: Literal["sampling", "cem", "first"] = "sampling"
    """sampling: `SamplingPlanner`. cem: `CEMPlanner` in the model's dynamics. first: act on the model's first
    future, as behaviour cloning does."""
    sampling: PlannerConfig = dataclasses.field(default_factory=PlannerConfig)
    cem: CEMConfig = dataclasses.field(default_factory=CEMConfig)
    prior: str | None = None
    """With cem: a joint model whose own actions are among the first; default: the model, if joint."""
    replan_every: int = 2
    """Steps acted on before planning anew."""
    chain_steps: int | None = None
    """Langevin steps of a window; default: the model's own."""
    position_weight: float = 0.0
    """Of the goal energy, radians per metre."""
    final_weight: float = 2.0
    """Of the goal energy: weight of the last step's angle."""
    env: str = "ebm_traj/HandBlock-v0"
    """Gymnasium id of a hand environment."""
    env_kwargs: str = '{"target_rotation": "z", "target_position": "ignore"}'
    """Keyword arguments of the environment as JSON."""
    episodes: int = 100
    """Episodes, run side by side."""
    steps: int = 100
    """Steps of an episode."""
    seed: int = 2_000_000
    """Seed of the first episode; the others follow."""
    sampler_backend: SamplerBackend = "auto"
    """How chains are computed, see `core.backends`; auto: the fastest here, autograd: the reference."""
    threads: int | None = None
    """Threads of torch; default: its own choice."""
    json: Path | None = None
    """Write the figures to this file, too."""


def main(args: Args) -> None:
    """Run a planner and print its success, with 95 % limits, and its compute."""
    set_backend(args.sampler_backend)
    import torch

    from ebm_traj.core.langevin import LangevinConfig
    from ebm_traj.planning.cem import CEMPlanner
    from ebm_traj.planning.energies import goal
    from ebm_traj.planning.plan import Planner
    from ebm_traj.planning.policy import PlanningPolicy
    from ebm_traj.planning.sampling import SamplingPlanner
    from ebm_traj.policy.evaluate import evaluate
    from ebm_traj.trajectory.ebm import TrajectoryEBM
    from ebm_traj.trajectory.files import load

    if args.threads:
        torch.set_num_threads(args.threads)
    env_kwargs = json_object("--env-kwargs", args.env_kwargs)
    model = load(args.model, "cpu")
    if args.chain_steps is not None:
        if not (isinstance(model, TrajectoryEBM) and isinstance(model.sampler, LangevinConfig)):
            raise InputError(f"--chain-steps: a {model.kind} model has no Langevin chain")
        model.sampler = dataclasses.replace(model.sampler, steps=args.chain_steps)
    wish = goal(model.spec, position=args.position_weight, final=args.final_weight)
    planner: Planner
    if args.planner == "cem":
        planner = CEMPlanner(model, args.cem, wish, load(args.prior, "cpu") if args.prior else None)
    elif args.planner == "first":
        one = PlannerConfig(futures=1, horizon=args.replan_every, method="shooting")
        planner = SamplingPlanner(model, one)
    else:
        planner = SamplingPlanner(model, args.sampling, {"goal": wish})
    centre = model.action_centre.numpy()
    policy = PlanningPolicy(planner, model.spec, centre, args.replan_every)
    found = evaluate(
        policy, args.env, env_kwargs, episodes=args.episodes, seed=args.seed, steps=args.steps
    ).summary()
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(
            json.dumps({**json.loads(json.dumps(dataclasses.asdict(args), default=str)), **found}, indent=1)
        )
    shares = {
        name: "{:.0f} % ({:.0f} to {:.0f})".format(*(100 * value for value in found[name]))
        for name in ("reached", "held")
    }
    print(f"{args.planner} with {args.model}: {args.episodes} episodes from seed {args.seed}")
    print(f"success at some step {shares['reached']}, at the last {shares['held']}")
    print(
        f"dropped {100 * found['dropped']:.0f} %, angle at the end {found['rotation_median']:.2f} rad "
        "(median)"
    )
    print(f"{1000 / found['actions_per_second']:.1f} ms an action, side by side")


if __name__ == "__main__":
    run(main, Args)
