"""How soon monitors see that something has gone wrong with a hand: faults injected in mid-episode."""

import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import Any, Literal

from ebm_traj.cli import json_object, require_seed, run
from ebm_traj.errors import InputError
from ebm_traj.output import require_folder

FaultName = Literal["heavier", "jammed", "dropped", "friction", "object", "egg"]


@dataclasses.dataclass
class Args:
    """Arguments of the study."""

    out: Path
    """Folder for monitor.md, monitor.json and monitor.png; must not exist, unless --overwrite."""
    model: Path = Path("hand-block")
    """Folder, or shipped name, of an energy model (or a mixture) that is told or samples actions."""
    fc: Path | None = None
    """Folder of a model whose prediction error is a baseline; action-conditional, to be fair."""
    ensemble: Path | None = None
    """Folder of a Gaussian ensemble: its errors, variance and likelihood are baselines."""
    faults: tuple[FaultName, ...] = ("heavier", "jammed", "dropped", "friction", "object")
    """heavier: object's mass times 3. jammed: one finger, another in each episode. dropped: object out of the
    hand. friction: times 0.3. object: smaller by 0.8. egg: an ellipsoid in the block's place."""
    env_kwargs: str = '{"target_rotation": "z", "target_position": "ignore"}'
    """Settings of the hand environment as JSON."""
    policy: str = "block-z"
    """File, or shipped name, of the trained policy that acts; hand-block learnt from this one's data."""
    noise: float = 0.25
    """Probability of a random action instead of the trained policy's."""
    episodes: int = 60
    """Test episodes; each is run once without a fault and once with each."""
    calibration_episodes: int = 80
    """Fault-free validation episodes, which set scales and thresholds."""
    steps: int = 100
    """Steps of an episode."""
    earliest: int = 30
    """The fault sets in at a random step, from this one on ..."""
    latest: int = 60
    """... to this one."""
    within: int = 10
    """Steps after the fault in which it should be seen."""
    false_alarm_rate: float = 0.05
    """Share of fault-free episodes that may raise an alarm."""
    usual: float | None = None
    """Share of fault-free steps whose surprise accumulates to nothing. Default: 0.9."""
    draws: int = 16
    """Of the model's own in each step, whose energies an observation is held against."""
    seed: int = 8_000_000
    """Seed of the first test episode; the others follow."""
    calibration_seed: int = 7_500_000
    """Seed of the first validation episode."""
    workers: int | None = None
    """Threads of the simulator; default: one per core."""
    overwrite: bool = False
    """Replace the report in --out."""


def main(args: Args) -> None:
    """Measure AUROC and delay with which an energy model and baselines detect faults."""
    from ebm_traj.planning.fault_report import tables, write_report

    require_folder(args.out, ("monitor.json",), overwrite=args.overwrite)
    check(args)
    task = json_object("--env-kwargs", args.env_kwargs)

    import numpy as np
    from tqdm import tqdm

    from ebm_traj.envs.behaviour import NoiseSettings, make_policy, policy_record
    from ebm_traj.envs.fault_episodes import paired_episodes
    from ebm_traj.envs.hand_model import ACTIONS, state_spec
    from ebm_traj.envs.trained import TrainedSettings
    from ebm_traj.planning.fault_study import study
    from ebm_traj.planning.monitor import require_calibration

    require_calibration(args.calibration_episodes, args.false_alarm_rate)
    monitors = make_monitors(args)
    for name, monitor in monitors.items():
        if difference := state_spec().difference(monitor.model.spec):
            raise InputError(f"model of '{name}': not of the states of ebm_traj/HandBlock-v0: {difference}")
    record = policy_record("trained", TrainedSettings(args.policy), NoiseSettings(probability=args.noise))
    policy = make_policy(record, -np.ones(ACTIONS), np.ones(ACTIONS), "ebm_traj/HandBlock-v0", task)
    rng = np.random.default_rng(args.seed)
    at = rng.integers(args.earliest, args.latest + 1, args.episodes)
    chosen: dict[str, list[Any]] = {name: faults_of(name, args.episodes, rng) for name in args.faults}
    common: dict[str, Any] = {"steps": args.steps, "task": task, "num_threads": args.workers}

    count = args.calibration_episodes
    seeds = list(range(args.calibration_seed, args.calibration_seed + count))
    validation, _ = paired_episodes(policy, seeds, [0] * count, {}, **common)
    seeds = list(range(args.seed, args.seed + args.episodes))
    free, faulty = paired_episodes(policy, seeds, at, chosen, **common)
    total = len(monitors) * (count + args.episodes * (1 + len(chosen)))
    with tqdm(total=total, desc="monitors", unit="episode", file=sys.stderr) as bar:
        for monitor in monitors.values():
            monitor.calibrate(validation.states, validation.actions, args.false_alarm_rate)
            bar.update(count)
        found = study(
            monitors,
            free,
            faulty,
            at,
            within=args.within,
            watched=args.steps - args.latest,
            false_alarm_rate=args.false_alarm_rate,
            report=lambda episodes: bar.update(episodes) and None,
        )
    print(tables(found))
    settings = {key: value for key, value in dataclasses.asdict(args).items() if key != "overwrite"}
    page = write_report(found, args.out, json.loads(json.dumps(settings, default=str)), command())
    print(f"\n{page}")


def check(args: Args) -> None:
    """InputError for numbers that do not fit together, before any work."""
    for name, least in (("episodes", 2), ("calibration_episodes", 2), ("within", 1), ("draws", 2)):
        if getattr(args, name) < least:
            option = name.replace("_", "-")
            raise InputError(f"--{option} {getattr(args, name)}: accepted are {least} and more")
    if not 0 <= args.earliest <= args.latest <= args.steps - args.within:
        raise InputError(
            f"--earliest {args.earliest} --latest {args.latest}: accepted are steps from 0 to "
            f"{args.steps - args.within}, so that {args.within} of {args.steps} steps remain"
        )
    require_seed("--seed", args.seed)
    require_seed("--calibration-seed", args.calibration_seed)
    test = range(args.seed, args.seed + args.episodes)
    validation = range(args.calibration_seed, args.calibration_seed + args.calibration_episodes)
    if max(test.start, validation.start) < min(test.stop, validation.stop):
        raise InputError(
            f"--seed {args.seed} --calibration-seed {args.calibration_seed}: test and validation episodes "
            "have seeds in common"
        )


def make_monitors(args: Args) -> dict[str, Any]:
    """The monitors by their names, the energy's first."""
    from ebm_traj.planning.monitor import Monitor
    from ebm_traj.planning.surprise import (
        EnergyScore,
        ErrorScore,
        LikelihoodScore,
        Score,
        VarianceScore,
        mixture_known,
    )
    from ebm_traj.trajectory.files import load

    model = load(args.model)
    scores: dict[str, Score] = {
        "energy": EnergyScore(model, draws=args.draws),
        "energy, whole state": EnergyScore(model, draws=args.draws, parts=False),
    }
    if mixture_known(model):
        scores["-log q"] = LikelihoodScore(model)
    if args.fc is not None:
        fc = load(args.fc)
        scores |= {"fc error": ErrorScore(fc, parts=False), "fc error, parts": ErrorScore(fc)}
    if args.ensemble is not None:
        ensemble = load(args.ensemble)
        scores |= {
            "ensemble error": ErrorScore(ensemble, parts=False),
            "ensemble variance": VarianceScore(ensemble),
            "ensemble -log p, parts": EnergyScore(ensemble, draws=args.draws),
        }
    return {
        name: Monitor(score.model, score, usual=args.usual)  # type: ignore[attr-defined]
        for name, score in scores.items()
    }


def faults_of(name: FaultName, episodes: int, rng: Any) -> list[Any]:
    """One fault of this name for each episode."""
    from ebm_traj.envs.faults import FINGERS, JammedFinger, OtherObject, make_fault

    if name == "jammed":
        return [JammedFinger(FINGERS[i]) for i in rng.integers(0, len(FINGERS), episodes)]
    if name == "egg":
        return [OtherObject(1.0, "ellipsoid")] * episodes
    return [make_fault(name)] * episodes


def command() -> str:
    """What was typed."""
    return "python " + shlex.join(sys.argv)


if __name__ == "__main__":
    run(main, Args)
