"""Training a trajectory model on a recording: the parts put together."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from ebm_traj.core.checkpoint import save_json
from ebm_traj.core.distributed import even_share, from_first, make_fabric, start
from ebm_traj.core.objectives import Batch, Regression
from ebm_traj.core.recorded_step import RecordedStep, require_recordable
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.core.trainer import TRAINING_FILE, Trainer, TrainerConfig
from ebm_traj.datasets.recording import Recording
from ebm_traj.datasets.statistics import with_training_statistics
from ebm_traj.errors import InputError
from ebm_traj.output import require_new
from ebm_traj.trajectory.batches import WindowBatches
from ebm_traj.trajectory.curves import draw_curves
from ebm_traj.trajectory.files import model_class, weights_digest
from ebm_traj.trajectory.hindsight import Hindsight, HindsightWindows, frames_needed, require_goal
from ebm_traj.trajectory.model import CONFIG_FILE, Conditioning, TrajectoryModel
from ebm_traj.trajectory.networks import parameter_count
from ebm_traj.trajectory.prepared_condition import PreparedCondition
from ebm_traj.trajectory.rehearsal import (
    MixedWindows,
    Rehearsal,
    earlier_windows,
    require_same_kind,
    require_same_spaces,
    take_weights,
)
from ebm_traj.trajectory.shares import share_config, share_objective
from ebm_traj.trajectory.validation import make_joint_validation
from ebm_traj.trajectory.windows import Windows, open_windows

__all__ = ["TrainSettings", "make_fabric", "require_folder", "require_shares", "start", "train"]

INVERSE_FOLDER = "inverse"
SETTINGS_FILE = "settings.json"
WHITENING_ROWS = 10_000  # windows whose features tell the directions


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """What a training run needs beside the model's own settings."""

    trainer: TrainerConfig = dataclasses.field(default_factory=TrainerConfig)
    """Optimiser, schedule, logs, seed."""
    conditioning: Conditioning = "states"
    """What the model is told beside the context: nothing, or the actions."""
    use_given: bool | None = None
    """Whether given dimensions (the goal) are inputs; None: if the recorded behaviour looked at them."""
    hindsight: Hindsight = dataclasses.field(default_factory=Hindsight)
    """Windows that are told a goal reached later in place of the recorded one."""
    inverse_iterations: int = 2000
    """Optimiser steps of the inverse dynamics, with which a rollout acts; 0 for none."""
    inverse_batch_size: int = 512
    """Rows in such a step."""
    budget_gb: float = 4.0
    """Data up to this size live on the device; larger sets are streamed from their shards."""

    def __post_init__(self) -> None:
        if self.conditioning not in get_args(Conditioning):
            raise InputError(
                f"conditioning: {self.conditioning!r}; accepted are {', '.join(get_args(Conditioning))}"
            )
        if self.inverse_iterations < 0:
            raise InputError(f"inverse iterations: {self.inverse_iterations}; accepted are 0 and more")
        if self.inverse_batch_size < 1:
            raise InputError(f"inverse batch size: {self.inverse_batch_size}; accepted are 1 and more")
        if not self.budget_gb >= 0:
            raise InputError(f"budget gb: {self.budget_gb}; accepted are 0 and more")


def train(
    recording: Recording,
    kind: str,
    config: Any,
    settings: TrainSettings,
    out: str | Path,
    *,
    fabric: Any = None,
    resume: bool = False,
    start_from: TrajectoryModel | None = None,
    earlier: Sequence[Recording] = (),
    rehearsal: Rehearsal | None = None,
    recorded: bool = False,
) -> TrajectoryModel:
    """Train a model of `kind` ("ebm", "fc") with its `config` and save it in `out`.

    `fabric` is a lightning Fabric, by default one on a GPU if there is one, else on the CPU. With `resume`
    an interrupted run goes on from its last checkpoint to the same weights as an uninterrupted one.

    With a Fabric of many devices (`make_fabric`) every rank calls this, with the same arguments: batch sizes
    and replay buffer are those of all ranks together. Only rank 0 needs to see `out`; the data every rank
    reads for itself. A run may be resumed on another number of devices, though not to the same weights.

    `start_from` goes on from the weights, spec and normalisation of a trained model of this kind and config;
    `earlier` recordings are rehearsed beside the new one (`rehearsal`, by default half of every batch), and
    held-out scores are then means over all.

    `recorded` replays whole steps as CUDA graphs (`core.recorded_step`), on one GPU.

    Raises InputError, before anything is written, if `out` exists (without `resume`), if the data do not
    fit the settings or the model to go on from, if a batch does not divide over the devices, if steps cannot
    be recorded here, or if the run to resume had other settings.
    """
    out = Path(out)
    cls = model_class(kind)
    fabric = fabric or make_fabric()
    rank, world = fabric.global_rank, fabric.world_size
    require_shares(config, settings, world)
    recorder = RecordedStep(fabric.device) if recorded else None
    if recorder is not None:
        require_recordable(world, settings.trainer.element_clip)
    from_first(fabric, lambda: require_folder(out, resume))
    # one rank takes them: a long pass over the data is made once, and all have the same numbers
    if rehearsal is not None and rehearsal.dreams and earlier and start_from is None:
        raise InputError("rehearsal: dreams, but no model to start from; accepted are those of a trained one")
    if start_from is not None:
        require_same_kind(start_from, kind, settings.conditioning)
        if rehearsal is not None and rehearsal.dreams and settings.inverse_iterations:
            _require_dreamt_actions(settings, start_from)
        if settings.use_given not in (None, start_from.use_given):
            raise InputError(
                f"use given: {settings.use_given}; the model to go on from has {start_from.use_given}, "
                "accepted is the same, or none"
            )
        require_same_spaces(start_from, [recording, *earlier])
        spec = start_from.spec
    else:
        require_same_spaces(recording, earlier)
        spec = from_first(fabric, lambda: with_training_statistics(recording))
    use_given = settings.use_given if start_from is None else start_from.use_given
    if use_given is None:
        use_given = bool(recording.policy["goal_conditioned"])
    hindsight = settings.hindsight
    if hindsight.share:
        require_goal(spec, use_given)
    if hasattr(config, "for_run"):
        config = config.for_run(settings.trainer.iterations)
    torch.manual_seed(settings.trainer.seed)  # of the initial weights
    model = cls(config, spec, recording.action_low, recording.action_high, settings.conditioning, use_given)
    if start_from is not None:
        take_weights(model, start_from)
    model.to(fabric.device)
    length = frames_needed(model.context_frames, model.window_frames, hindsight)
    windows: Windows = open_windows(
        recording,
        "train",
        length,
        fabric.device,
        budget_gb=settings.budget_gb,
        seed=settings.trainer.seed,
        rank=rank,
        world=world,
    )
    if earlier:
        rehearsal = rehearsal or Rehearsal()
        teacher = start_from or model
        sources = [
            earlier_windows(past, teacher, rehearsal, length, fabric.device, settings.trainer.seed)
            for past in earlier
        ]
        windows = MixedWindows(windows, sources, rehearsal.share)
    if hindsight.share:
        windows = HindsightWindows(windows, spec, model.context_frames, model.window_frames, hindsight)
    if start_from is None:
        _fit_whitening(model, windows, settings.trainer.seed, fabric)
    identity = {
        "kind": kind,
        "settings": dataclasses.asdict(settings),  # first, as config may follow from them
        "config": dataclasses.asdict(config),
        "env_id": recording.env_id,
        "episodes": recording.num_episodes,
        "steps": recording.num_steps,
        "spec": json.loads(spec.to_json()),
    }
    if start_from is not None:
        identity["start_from"] = weights_digest(start_from)
    if earlier:
        identity["rehearsal"] = dataclasses.asdict(rehearsal or Rehearsal())
        identity["earlier"] = [[past.env_id, past.num_episodes, past.num_steps] for past in earlier]
    identity = json.loads(json.dumps(identity))  # tuples become lists, as they are when read back
    objective = share_objective(model, rank, world)
    batches = WindowBatches(model, windows, objective.new_rows)
    validate = (
        make_joint_validation(model, [recording, *earlier]) if settings.trainer.validate_every else None
    )
    if recorder is not None:
        recorder.inside = batches.resident
    trainer = Trainer(
        objective, batches, settings.trainer, out, fabric, identity, validate=validate, recorder=recorder
    )
    # a run killed before its first checkpoint starts anew
    if resume and from_first(fabric, (out / TRAINING_FILE).is_file):
        trainer.resume()
    if rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        save_json(out / SETTINGS_FILE, identity)
    report = trainer.fit()
    trainer.raw.load_state_dict(trainer.ema.module.state_dict())

    if settings.inverse_iterations and model.inverse is not None:
        _train_inverse(model, windows, settings, out, fabric, identity)
    model.card = {
        "iterations": report.iterations,
        "batch_size": model.objective().batch_size,
        "gradients_per_iteration": objective.gradients,
        "train_seconds": round(report.seconds, 1),
        "validation_seconds": round(report.validation_seconds, 1),
        "kept_iteration": report.kept_iteration,
        "validation_energy_score": report.kept_score,
        "restarts": report.restarts,
        "inverse_iterations": _inverse_iterations(model, settings, start_from),
        "parameters": parameter_count(trainer.raw),
        "device": _device_name(fabric.device),
        "seed": settings.trainer.seed,
        "env_id": recording.env_id,
        "env_kwargs": recording.env_kwargs,
        "train_episodes": len(recording.episode_rows("train")),
        "policy": recording.policy["name"],
        "torch": str(torch.__version__),
    }
    if earlier:
        model.card["rehearsed"] = [past.env_id for past in earlier]
    if world > 1:
        model.card["devices"] = world
    if rank == 0:
        model.save(out)
        draw_curves(out)
    fabric.barrier()  # the run is complete for every rank
    return model.eval().requires_grad_(False)


def require_shares(config: Any, settings: TrainSettings, world: int) -> None:
    """InputError, naming the batch, unless each of so many devices gets the same share of every batch."""
    share_config(config, 0, world)
    if settings.inverse_iterations and settings.conditioning == "states":
        even_share("inverse batch size", settings.inverse_batch_size, world)


def require_folder(out: Path, resume: bool) -> None:
    """InputError unless a run can be started, or resumed, in this folder."""
    require_new(out, resume)
    if resume and (out / CONFIG_FILE).is_file():
        raise InputError(f"{out}: this run is finished ({CONFIG_FILE} is there); nothing to resume")
    if resume and not (out / SETTINGS_FILE).is_file():
        raise InputError(f"{out}: no run to resume ({SETTINGS_FILE} is missing); start without --resume")


def _fit_whitening(model: TrajectoryModel, windows: Windows, seed: int, fabric: Any) -> None:
    """Set the whitening of the model's networks by windows of the training split; the same on all ranks."""
    floor = model.network_config.whitening
    whitened = [each for each in model.modules() if isinstance(each, PreparedCondition)]
    if floor is None or not whitened:
        return

    @torch.no_grad()
    def rows() -> Tensor:
        generator = seeded_generator(fabric.device, "whitening", seed)
        frames, actions = windows.draw(WHITENING_ROWS, 0, generator)
        taken, before = model.told_actions(actions)
        told = [model.condition(frames[:, : model.context_frames], taken, before)["context"]]
        # told to the networks, or to those of the later stage
        return torch.cat(told if taken is None else [*told, model.scale_actions(taken).flatten(1)], 1).cpu()

    found = from_first(fabric, rows).to(fabric.device)
    for network in whitened:
        network.fit_whitening(found, floor)


def _train_inverse(
    model: TrajectoryModel,
    windows: Windows,
    settings: TrainSettings,
    out: Path,
    fabric: Any,
    identity: dict[str, Any],
) -> None:
    """Fit the model's inverse dynamics by squared error on the scaled action."""
    assert model.inverse is not None
    past, frame = model.context_frames, model.codec.predicted_size
    rows = even_share("inverse batch size", settings.inverse_batch_size, fabric.world_size)

    @torch.no_grad()
    def batch(iteration: int, generator: torch.Generator) -> Batch:
        frames, actions = windows.draw(rows, iteration, generator)
        context, future = frames[:, :past], frames[:, past:]
        condition = {
            "context": model.codec.features(context),
            "next": model.codec.encode(context, future)[:, :frame],
        }
        return Batch(model.scale_actions(actions[:, past - 1]), condition)

    config = dataclasses.replace(settings.trainer, iterations=settings.inverse_iterations, ema_decay=0.99)
    folder = out / INVERSE_FOLDER
    objective = Regression(model.inverse, rows)
    trainer = Trainer(objective, batch, config, folder, fabric, identity)
    if from_first(fabric, (folder / TRAINING_FILE).is_file):
        trainer.resume()
    if fabric.global_rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
    trainer.fit()
    trainer.raw.load_state_dict(trainer.ema.module.state_dict())


def _require_dreamt_actions(settings: TrainSettings, teacher: TrajectoryModel) -> None:
    """InputError if inverse dynamics are to be trained on dreams that hold no actions."""
    if teacher.conditioning == "states" and not teacher.can_act:
        raise InputError(
            f"inverse iterations: {settings.inverse_iterations}; the model to go on from has none, so that "
            "its dreams hold no actions; accepted is 0"
        )


def _inverse_iterations(
    model: TrajectoryModel, settings: TrainSettings, start_from: TrajectoryModel | None
) -> int:
    """How long the inverse dynamics were trained: in this run, or else in the one whose weights it took."""
    if model.inverse is None or settings.inverse_iterations or start_from is None:
        return settings.inverse_iterations if model.inverse is not None else 0
    return int(start_from.card.get("inverse_iterations", 0))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
