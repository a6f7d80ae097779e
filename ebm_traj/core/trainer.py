"""The training loop: any objective, any batches, on one device or many; guarded, validated, resumable."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ebm_traj.core.checkpoint import (
    load_optimizer_tensors,
    load_tensors,
    optimizer_tensors,
    require_same,
    save_tensors,
    under_prefix,
    with_prefix,
)
from ebm_traj.core.distributed import (
    AgreedStepSizes,
    average_gradients,
    from_first,
    gather,
    gather_on_first,
    joint_figures,
    merge_memory,
    split_memory,
)
from ebm_traj.core.ema import EMA
from ebm_traj.core.guard import DivergenceGuard
from ebm_traj.core.logs import MetricLog
from ebm_traj.core.objectives import Batch, Objective
from ebm_traj.core.recorded_step import RecordedStep, require_recordable
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.errors import InputError, RunError

TRAINING_FILE = "training.safetensors"
VALIDATION = "validation/"
"""Stands before the figures of validation in the log."""
SCORE = VALIDATION + "energy_score"
"""The figure that decides which weights are best; lower is better."""

Validate = Callable[[nn.Module], Mapping[str, float]]
"""The objective with averaged weights to figures, the score among them; no random state of its own."""
Keep = Literal["best", "last"]
Schedule = Literal["linear", "exponential", "cosine"]


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
    """Settings of the loop; what is minimised is the objective's business."""

    iterations: int = 4000
    """Optimiser steps in all."""
    learning_rate: float = 1e-3
    """Peak learning rate of Adam."""
    warmup: int = 100
    """Iterations over which the learning rate rises from 0."""
    final_learning_rate: float = 0.05
    """Learning rate at the end, as a share of the peak."""
    schedule: Schedule = "linear"
    """The way there: linear, exponential (the same factor at each iteration) or half a cosine."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates of the two moments."""
    gradient_clip: float = 10.0
    """Bound on the norm of the gradient of all parameters."""
    element_clip: float = 0.0
    """Bound on each element of the gradient, in units of the root of Adam's running mean of its square
    (1903.08689 clips to 3); 0 for none."""
    ema_decay: float = 0.99
    """Decay of the averaged weights, which are the ones kept."""
    log_every: int = 50
    """Iterations between rows of the log and looks of the guard."""
    checkpoint_every: int = 500
    """Iterations between training checkpoints."""
    validate_every: int = 500
    """Iterations between looks at held-out data, where there are any; 0 for none."""
    keep: Keep = "best"
    """best: end with the averaged weights of the lowest held-out energy score. last: with the last ones, as
    also where nothing was validated."""
    keep_margin: float = 0.01
    """Later weights are preferred while their held-out score is at most this share above the lowest: a few
    hundred contexts cannot tell less apart."""
    energy_limit: float = 1e4
    """Mean energies beyond +- this count as a divergence."""
    max_restarts: int = 5
    """Divergences after which training gives up."""
    seed: int = 0
    """Seed of all random numbers of the run."""

    def __post_init__(self) -> None:
        for name in ("iterations", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', ' ')}: {getattr(self, name)}; accepted are 1 and more")
        for name in ("validate_every", "warmup", "max_restarts", "final_learning_rate", "element_clip"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name.replace('_', ' ')}: {getattr(self, name)}; accepted are 0 and more")
        for name in ("gradient_clip", "energy_limit", "learning_rate"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name.replace('_', ' ')}: {getattr(self, name)}; it must be above 0")
        for name, values in (("ema decay", (self.ema_decay,)), ("betas", self.betas)):
            if not all(0 <= value < 1 for value in values):
                found = " ".join(map(str, values))
                raise InputError(f"{name}: {found}; accepted are 0 and more, below 1")
        if self.keep not in get_args(Keep):
            raise InputError(f"keep: '{self.keep}'; accepted are {', '.join(get_args(Keep))}")
        if self.schedule not in get_args(Schedule):
            raise InputError(f"schedule: '{self.schedule}'; accepted are {', '.join(get_args(Schedule))}")
        if self.schedule == "exponential" and not self.final_learning_rate > 0:
            raise InputError(
                f"final learning rate: {self.final_learning_rate}; with the exponential schedule it must be "
                "above 0"
            )

    def learning_rate_at(self, iteration: int) -> float:
        """Warm-up, then the decay of the schedule."""
        last, done = self.final_learning_rate, iteration / self.iterations
        if self.schedule == "linear":
            decay = 1 - (1 - last) * done
        elif self.schedule == "exponential":
            decay = last**done
        else:
            decay = last + (1 - last) * 0.5 * (1 + math.cos(math.pi * done))
        return self.learning_rate * min(1.0, (iteration + 1) / max(1, self.warmup)) * decay


@dataclasses.dataclass
class TrainReport:
    """What a finished run cost."""

    iterations: int
    seconds: float
    """Seconds in the loop, over all sittings of a resumed run, without those of validation."""
    restarts: int
    figures: dict[str, float]
    """The last row of the log."""
    validation_seconds: float = 0.0
    """Seconds that validation took."""
    kept_iteration: int = 0
    """The iteration whose averaged weights `ema.module` holds."""
    kept_score: float | None = None
    """Their held-out score; None if they were not chosen by it."""
    cpu_seconds: float = 0.0
    """Seconds of processor time, of all threads of this process, that `seconds` took: where others share a
    machine, they say more."""


@dataclasses.dataclass
class Best:
    """The averaged weights to keep so far: the latest whose held-out energy score is near the lowest."""

    score: float
    iteration: int
    weights: dict[str, Tensor]
    lowest: float


class Trainer:
    """Minimises an objective; keeps the averaged weights in `ema.module`, after `fit` the chosen ones.

    `batches(iteration, generator)` gives the rows of one step. All random numbers of a step come from a
    generator seeded by (seed, restarts, iteration, rank): a resumed run needs no generator state and takes
    the same steps as an uninterrupted one.

    On many devices (`core.distributed`) every rank has a trainer of its own, with its share of the rows and
    of the memory, and all step together: a gradient is the mean of the ranks' gradients, figures are the mean
    of their figures, a divergence on one sends all back. Rank 0 alone reads and writes files. A run may be
    resumed on another number of devices.
    """

    def __init__(
        self,
        objective: Objective,
        batches: Callable[[int, torch.Generator], Batch],
        config: TrainerConfig,
        folder: Path,
        fabric: Any,
        identity: dict[str, Any],
        validate: Validate | None = None,
        score: str = "energy_score",
        recorder: RecordedStep | None = None,
    ) -> None:
        """`identity` is what must be the same for a run to be resumed: settings, data, spec.

        With a `recorder` steps are replays of a recorded one as soon as the objective allows it; the same
        steps but for rounding. Raises InputError where `require_recordable` does.

        `objective` and `batches` are of the rank's share of the rows. `validate` is called every
        `config.validate_every` iterations and at the end, by rank 0, whose figures all ranks go by. `score`
        is the one of its figures that decides which weights are best; lower is better.
        """
        self.raw = objective.to(fabric.device)
        self.batches = batches
        self.config = config
        self.folder = folder
        self.fabric = fabric
        self.identity = identity
        self.recorder = recorder
        fused: dict[str, Any] = {"fused": True} if fabric.device.type == "cuda" else {}
        rate: float | Tensor = config.learning_rate
        if recorder is not None:
            require_recordable(fabric.world_size, config.element_clip)
            # what a recorded step reads must be on the device
            rate = torch.tensor(config.learning_rate, device=fabric.device)
            fused = {"fused": True, "capturable": fabric.device.type == "cuda"}
        optimizer = torch.optim.Adam(self.raw.parameters(), lr=rate, betas=config.betas, **fused)
        self.objective, self.optimizer = fabric.setup(self.raw, optimizer)
        self.ema = EMA(self.raw, config.ema_decay)  # of the weights that all ranks have since `setup`
        if recorder is not None:
            self.ema.on_device = torch.zeros((), device=fabric.device)
        self.step_sizes = AgreedStepSizes(self.raw, fabric)
        self.guard = DivergenceGuard(config.energy_limit, config.max_restarts)
        self.validate = validate if config.validate_every else None
        self.score = VALIDATION + score
        self.best: Best | None = None
        self.iteration = 0
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.validation_seconds = 0.0

    def fit(self) -> TrainReport:
        """Train to `config.iterations`, from where the run stands.

        Raises RunError if the objective diverged more than `max_restarts` times.
        """
        config = self.config
        figures: dict[str, float] = {}
        began = time.perf_counter() - self.seconds
        cpu_began = time.process_time() - self.cpu_seconds
        self.objective.train()
        self.guard.keep(self.iteration, self.raw, self.optimizer, self.ema.module)
        log = MetricLog(self.folder, self.iteration) if self.main else None
        bar = tqdm(
            total=config.iterations,
            initial=self.iteration,
            desc=self.folder.name,
            unit="it",
            disable=not self.main,
            mininterval=1,
        )
        try:
            while self.iteration < config.iterations:
                tensors = self.step()
                last = self.iteration == config.iterations
                look = self.validate is not None and (last or self.iteration % config.validate_every == 0)
                logged = last or look or self.iteration % config.log_every == 0
                saved = last or self.iteration % config.checkpoint_every == 0
                if logged or saved:  # what is saved is looked at: a resumed run could not go back before it
                    ranks = gather(self.fabric, {name: float(value) for name, value in tensors.items()})
                    figures = joint_figures(ranks)
                    trouble = self._trouble(ranks)
                    if trouble:
                        self._go_back(trouble, bar)
                        continue
                    self.guard.keep(self.iteration, self.raw, self.optimizer, self.ema.module)
                if logged:
                    self.seconds = time.perf_counter() - began
                    self.cpu_seconds = time.process_time() - cpu_began
                    if look:  # of weights that the guard has passed
                        cpu_before = time.process_time()
                        took, found = self._look()
                        self.validation_seconds += took
                        began += took
                        cpu_began += time.process_time() - cpu_before
                        figures |= found
                    if log:
                        log.write(self.iteration, figures)
                    bar.set_postfix(
                        {name: f"{figures[name]:.3g}" for name in list(figures)[:3]}, refresh=False
                    )
                bar.n = self.iteration
                bar.update(0)
                if saved:
                    self.seconds = time.perf_counter() - began
                    self.cpu_seconds = time.process_time() - cpu_began
                    self.save()
        finally:
            bar.close()
            if log:
                log.close()
        report = TrainReport(
            self.iteration,
            self.seconds,
            self.guard.restarts,
            figures,
            self.validation_seconds,
            kept_iteration=self.iteration,
            cpu_seconds=self.cpu_seconds,
        )
        if config.keep == "best" and self.best is not None:
            self.ema.module.load_state_dict(self.best.weights)
            report.kept_iteration, report.kept_score = self.best.iteration, self.best.score
        return report

    def _look(self) -> tuple[float, dict[str, float]]:
        """Validate the averaged weights and remember the best: seconds it took, figures for the log."""
        assert self.validate is not None
        validate, began = self.validate, time.perf_counter()
        # ranks may compute on unlike devices: all choose by the figures of one
        figures = from_first(self.fabric, lambda: dict(validate(self.ema.module)))
        found = {VALIDATION + name: float(value) for name, value in figures.items()}
        score = found.get(self.score, math.nan)
        if math.isfinite(score):
            lowest = score if self.best is None else min(score, self.best.lowest)
            if self.best is None or score <= lowest * (1 + self.config.keep_margin):
                weights = {
                    name: value.detach().clone() for name, value in self.ema.module.state_dict().items()
                }
                self.best = Best(score, self.iteration, weights, lowest)
        return time.perf_counter() - began, found

    def step(self) -> dict[str, torch.Tensor]:
        """One optimiser step; figures as 0-d tensors, not waited for."""
        config = self.config
        generator = seeded_generator(
            self.fabric.device, config.seed, self.guard.restarts, self.iteration, self.fabric.global_rank
        )
        rate = config.learning_rate_at(self.iteration)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self.ema.count()
        if self.recorder is None:
            figures = self._advance(self._draw(generator), generator)
        else:
            key, replayed = self.raw.replay_key(), self.raw.replayed
            figures = self.recorder(self._advance, self._draw, generator, key, replayed)
        self.iteration += 1
        return {**figures, "learning_rate": torch.tensor(rate)}

    def _draw(self, generator: torch.Generator) -> Batch:
        return self.batches(self.iteration, generator)

    def _advance(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """All of a step that happens on the device: what a recorded step replays."""
        config = self.config
        loss, figures = self.objective(batch, generator)
        self.step_sizes.update()
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        average_gradients(self.raw.parameters(), self.fabric)
        if config.element_clip:
            self._clip_elements()
        norm = torch.nn.utils.clip_grad_norm_(self.raw.parameters(), config.gradient_clip)
        self.optimizer.step()
        self.ema.follow(self.raw)
        return {**figures, "loss": loss.detach(), "gradient_norm": norm}

    @torch.no_grad()
    def _clip_elements(self) -> None:
        """Hold each element of the gradient near its usual size, as far as Adam knows that."""
        beta = self.config.betas[1]
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                state = self.optimizer.state.get(parameter)
                if parameter.grad is None or not state:
                    continue
                seen = 1 - beta ** float(state["step"])  # the running mean began at 0
                bound = self.config.element_clip * (state["exp_avg_sq"] / max(seen, 1e-12)).sqrt()
                # nothing is known of an element that never had a gradient (a class not yet seen)
                bound = bound.masked_fill(bound == 0, math.inf)
                parameter.grad.clamp_(-bound, bound)

    @property
    def main(self) -> bool:
        """Whether this rank is the one that reads and writes files."""
        return self.fabric.global_rank == 0

    def _trouble(self, ranks: Sequence[Mapping[str, float]]) -> str | None:
        """What is wrong with the figures of any rank, the same words on every rank."""
        for rank, figures in enumerate(ranks):
            trouble = self.guard.trouble(figures)
            if trouble:
                return trouble if len(ranks) == 1 else f"rank {rank}: {trouble}"
        return None

    def _go_back(self, trouble: str, bar: tqdm) -> None:
        at = self.iteration
        self.iteration = self.guard.restore(self.raw, self.optimizer, self.ema.module)
        if self.recorder is not None:
            self.recorder.forget()  # the optimiser's moments are other tensors now
        if self.guard.restarts > self.config.max_restarts:
            raise RunError(
                f"training diverged {self.guard.restarts} times, last at iteration {at} ({trouble}); "
                "try a lower learning rate or a smaller Langevin step"
            )
        changed = self.raw.recover()
        if not self.main:
            return
        message = f"iteration {at}: {trouble}; back to {self.iteration} with a new seed, {changed}"
        bar.write(message)
        with (self.folder / "restarts.log").open("a") as file:
            file.write(message + "\n")

    def save(self) -> None:
        """Write the training checkpoint: weights, average, best, optimiser, memory, counters.

        Called by all ranks: the one file holds the memory of all, as if of a single process.
        """
        ranks = gather_on_first(self.fabric, self._memory())
        if not self.main:
            return
        tensors = {
            **with_prefix("weights", self.raw.state_dict()),
            **with_prefix("ema", self.ema.module.state_dict()),
            **with_prefix("optimizer", optimizer_tensors(self.optimizer)),
            **with_prefix("memory", ranks[0] if len(ranks) == 1 else merge_memory(ranks)),
        }
        meta: dict[str, Any] = {
            "identity": self.identity,
            "iteration": self.iteration,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "validation_seconds": self.validation_seconds,
            "restarts": self.guard.restarts,
            "ema_updates": self.ema.updates,
        }
        if self.best is not None:
            tensors |= with_prefix("best", self.best.weights)
            meta["best"] = {
                "score": self.best.score,
                "iteration": self.best.iteration,
                "lowest": self.best.lowest,
            }
        save_tensors(self.folder / TRAINING_FILE, tensors, meta)

    def _memory(self) -> dict[str, Tensor]:
        """The objective's memory, on the CPU if it is to travel to another rank."""
        memory = self.raw.memory()
        if self.fabric.world_size == 1:
            return memory
        return {name: values.cpu() for name, values in memory.items()}

    def resume(self) -> None:
        """Go on from the folder's training checkpoint, made on however many devices.

        Raises InputError if there is none, or if it was made with other settings (and says which).
        """
        tensors, meta = from_first(self.fabric, self._read_checkpoint)
        self.raw.load_state_dict(under_prefix("weights", tensors))
        self.ema.module.load_state_dict(under_prefix("ema", tensors))
        memory = under_prefix("memory", tensors)
        if self.fabric.world_size > 1:
            memory = split_memory(memory, self.fabric.global_rank, self.fabric.world_size)
        self.raw.load_memory(memory, self.fabric.device)
        self.step_sizes = AgreedStepSizes(self.raw, self.fabric)
        load_optimizer_tensors(self.optimizer, under_prefix("optimizer", tensors))
        self.iteration = meta["iteration"]
        self.seconds = meta["seconds"]
        self.cpu_seconds = meta.get("cpu_seconds", 0.0)
        self.validation_seconds = meta.get("validation_seconds", 0.0)
        if "best" in meta:
            weights = {
                name: value.to(self.fabric.device) for name, value in under_prefix("best", tensors).items()
            }
            self.best = Best(
                meta["best"]["score"], meta["best"]["iteration"], weights, meta["best"]["lowest"]
            )
        self.guard.restarts = meta["restarts"]
        self.ema.updates = meta["ema_updates"]

    def _read_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, meta = load_tensors(self.folder / TRAINING_FILE)
        require_same(self.folder, self.identity, meta["identity"])
        return tensors, meta
