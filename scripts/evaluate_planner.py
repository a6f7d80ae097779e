"""How well planners turn the object of a hand environment to its goal, and what compute they take."""

import dataclasses
import json
from pathlib import Path
from typing import Literal

from ebm_traj.atomic import write_atomically
from ebm_traj.cli import json_object, pick_device, require_seed, run
from ebm_traj.core.backends import SamplerBackend, set_backend
from ebm_traj.errors import InputError
from ebm_traj.output import require_file
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
    """Threads of torch, of the simulation and of the expert's plans; default: their own choice."""
    against: tuple[Literal["first", "trained", "expert", "random"], ...] = ()
    """Others for the same episodes, with paired differences and compute measured in turns. first: the first
    future of the joint model (--prior, else --model); the rest are policies as in `evaluate_policy.py`."""
    json: Path | None = None
    """Write the figures to this file, too."""
    overwrite: bool = False
    """Replace the file of --json."""
    device: str = "cpu"
    """Where to plan."""


def main(args: Args) -> None:
    """Run a planner, and others beside it, and print its success, with 95 % limits, and its compute."""
    set_backend(args.sampler_backend)
    if args.json is not None:
        require_file(args.json, "--json", overwrite=args.overwrite, endings=(".json",))
    require_seed("--seed", args.seed)
    if args.episodes < 1:
        raise InputError(f"--episodes {args.episodes}: accepted are 1 and more")
    if args.steps < 1:
        raise InputError(f"--steps {args.steps}: accepted are 1 and more")
    if args.threads is not None and args.threads < 1:
        raise InputError(f"--threads {args.threads}: accepted are 1 and more")
    if args.planner in args.against:
        raise InputError(f"--against {args.planner}: that is the planner itself; accepted are the others")

    import torch

    from ebm_traj.collect.environment import require_lockstep
    from ebm_traj.core.langevin import LangevinConfig
    from ebm_traj.envs.behaviour import Policy
    from ebm_traj.planning.cem import CEMPlanner
    from ebm_traj.planning.energies import goal
    from ebm_traj.planning.plan import Planner
    from ebm_traj.planning.policy import PlanningPolicy
    from ebm_traj.planning.sampling import SamplingPlanner
    from ebm_traj.policy.contest import contest, opponent, table
    from ebm_traj.trajectory.ebm import TrajectoryEBM
    from ebm_traj.trajectory.files import load
    from ebm_traj.trajectory.model import TrajectoryModel

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    env_kwargs = json_object("--env-kwargs", args.env_kwargs)
    require_lockstep(args.env, env_kwargs, args.steps)
    device = pick_device(args.device)
    model = load(args.model, device)
    if args.chain_steps is not None:
        if not (isinstance(model, TrajectoryEBM) and isinstance(model.sampler, LangevinConfig)):
            raise InputError(f"--chain-steps: a {model.kind} model has no Langevin chain")
        model.sampler = dataclasses.replace(model.sampler, steps=args.chain_steps)
    wish = goal(model.spec, position=args.position_weight, final=args.final_weight)
    one = PlannerConfig(futures=1, horizon=args.replan_every, method="shooting")
    prior = load(args.prior, device) if args.prior else None
    planner: Planner
    if args.planner == "cem":
        planner = CEMPlanner(model, args.cem, wish, prior)
    elif args.planner == "first":
        planner = SamplingPlanner(model, one)
    else:
        planner = SamplingPlanner(model, args.sampling, {"goal": wish})
    joint = prior or model
    if args.planner == "first" and model.conditioning != "joint":
        raise InputError("--planner first: needed is a joint model, as --model")
    if "first" in args.against and joint.conditioning != "joint":
        raise InputError("--against first: needed is a joint model, as --model or as --prior")

    def acting(planner: Planner, model: TrajectoryModel) -> Policy:
        return PlanningPolicy(planner, model.spec, model.action_centre.cpu().numpy(), args.replan_every)

    policies: dict[str, Policy] = {args.planner: acting(planner, model)}
    for name in args.against:
        if name == "first":
            policies[name] = acting(SamplingPlanner(joint, one), joint)
        else:
            policies[name] = opponent(name, args.env, env_kwargs, args.threads)
    entries = contest(
        policies,
        args.env,
        env_kwargs,
        episodes=args.episodes,
        seed=args.seed,
        steps=args.steps,
        block=25 if args.against else args.episodes,
        num_threads=args.threads,
    )
    found = entries[0].beside(entries[0])
    print(f"{args.planner} with {args.model}: {args.episodes} episodes from seed {args.seed}")
    print(table(entries))
    print(f"angle at the end {found['rotation_median']:.2f} rad (median)")
    if args.json is not None:
        told = json.loads(json.dumps(dataclasses.asdict(args), default=str))
        told["against"] = {entry.name: entry.beside(entries[0]) for entry in entries[1:]}
        write_atomically(args.json, json.dumps({**told, **found}, indent=1))


if __name__ == "__main__":
    run(main, Args)
