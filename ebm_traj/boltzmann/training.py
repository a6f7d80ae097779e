"""Training an RBM: a fast loop of `Learner` updates with log, checkpoints and resume."""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from tqdm import tqdm

from ebm_traj.boltzmann.ais import SHORT_AIS, AISConfig, ais, log_likelihood
from ebm_traj.boltzmann.data import Binarisation, binarise, held_out, require_binarisation
from ebm_traj.boltzmann.files import as_json, save_rbm
from ebm_traj.boltzmann.learning import Learner, LearningConfig
from ebm_traj.boltzmann.rbm import RBM, VisibleUnits, base_bias
from ebm_traj.core.checkpoint import load_tensors, require_same, save_tensors, under_prefix, with_prefix
from ebm_traj.core.logs import MetricLog
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.errors import InputError, RunError

TRAINING_FILE = "training.safetensors"
Schedule = Literal["linear", "exponential", "constant"]


@dataclasses.dataclass(frozen=True)
class RBMConfig:
    """An RBM and how it is trained."""

    hidden: int = 500
    """Hidden units."""
    units: VisibleUnits = "bernoulli"
    """Visible units; gaussian ones have scale 1, for standardised data."""
    binarisation: Binarisation = "stochastic"
    """How grey levels become visible states; none for gaussian units."""
    first_biases: Literal["data", "zero"] = "data"
    """Visible biases at the start: those that give the data's means, or 0 (scikit-learn's)."""
    learning: LearningConfig = dataclasses.field(default_factory=LearningConfig)
    """The update."""
    updates: int = 20_000
    """Updates in all."""
    batch_size: int = 100
    """Rows of data in an update, drawn with replacement."""
    learning_rate: float = 0.05
    """Step along the gradient of the mean log-likelihood, at the start."""
    schedule: Schedule = "linear"
    """How the learning rate falls."""
    final_learning_rate: float = 0.01
    """Learning rate at the end, as a share of the first."""
    log_every: int = 500
    """Updates between rows of the log."""
    checkpoint_every: int = 5000
    """Updates between training checkpoints."""
    evaluate_every: int = 0
    """Updates between estimates of the held-out log-likelihood by short AIS; 0 for none."""
    evaluation: AISConfig = SHORT_AIS
    """Their annealing schedule."""
    seed: int = 0
    """Seed of all random numbers of the run."""

    def __post_init__(self) -> None:
        for name in ("hidden", "updates", "batch_size", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', ' ')}: {getattr(self, name)}; accepted are 1 and more")
        if self.evaluate_every < 0:
            raise InputError(f"evaluate every: {self.evaluate_every}; accepted are 0 and more")
        require_binarisation(self.binarisation)
        if self.units == "gaussian" and self.binarisation != "none":
            raise InputError("binarisation: gaussian units take the values as they are; accepted is none")
        if self.first_biases not in ("data", "zero"):
            raise InputError(f"first biases '{self.first_biases}'; accepted are data, zero")
        if self.schedule not in get_args(Schedule):
            raise InputError(f"schedule '{self.schedule}'; accepted are {', '.join(get_args(Schedule))}")
        if not self.learning_rate > 0:
            raise InputError(f"learning rate: {self.learning_rate}; it must be above 0")
        if not 0 < self.final_learning_rate <= 1:
            raise InputError(f"final learning rate: {self.final_learning_rate}; accepted is above 0 to 1")

    def rate(self, update: int) -> float:
        """Learning rate of the update of this number, from 0."""
        if self.schedule == "constant":
            return self.learning_rate
        share = update / self.updates
        if self.schedule == "linear":
            return self.learning_rate * (1 - (1 - self.final_learning_rate) * share)
        return self.learning_rate * math.exp(math.log(self.final_learning_rate) * share)


class RBMTrainer:
    """Trains an RBM on rows of grey levels (or values) held on one device.

    All random numbers of an update come from a generator seeded by (seed, update), so that a resumed run
    takes the same steps as an uninterrupted one.
    """

    def __init__(
        self,
        config: RBMConfig,
        train: Tensor,
        folder: Path,
        *,
        validation: Tensor | None = None,
        identity: dict[str, Any] | None = None,
    ) -> None:
        """`train` (N, n), `validation` (V, n): grey levels in [0, 1] or values; `identity` of the data.

        Raises InputError if rows are no matrix, not finite, or outside [0, 1] for binary units.
        """
        for name, rows in (("train", train), ("validation", validation)):
            if rows is not None:
                require_rows(name, rows, config.units)
        self.config, self.train, self.folder = config, train, folder
        self.validation = None
        if validation is not None:
            self.validation = held_out(validation, config.binarisation)
            self._seen = held_out(train[: len(validation)], config.binarisation)
        self.identity = as_json({"config": dataclasses.asdict(config), **(identity or {})})
        threshold = config.binarisation == "threshold"  # else a unit's mean is its grey level's
        mean = (binarise(train, "threshold") if threshold else train).mean(0)
        self.base = base_bias(mean, config.units)
        """Biases (n,) of independent units with the data's means: where AIS begins."""
        self.rbm = RBM(train.shape[1], config.hidden, config.units).to(train.device)
        self.rbm.initialise(mean, seeded_generator(train.device, config.seed, "weights"))
        self.rbm.requires_grad_(False)
        if config.first_biases == "zero":
            self.rbm.visible_bias.zero_()
        self.learner = Learner(self.rbm, config.learning, config.batch_size, mean)
        self.update = 0
        self.seconds = 0.0
        """CPU seconds of the process in the loop (wall seconds say little on a shared machine)."""
        self._buffer = train.new_empty(config.batch_size, train.shape[1])

    def fit(self) -> RBM:
        """Train to `config.updates` from where the run stands; writes `rbm.safetensors` into the folder.

        Raises RunError if the machine's parameters are no longer finite.
        """
        config = self.config
        began = time.process_time() - self.seconds
        with (
            MetricLog(self.folder, self.update) as log,
            tqdm(total=config.updates, initial=self.update, unit="it", mininterval=1) as bar,
        ):
            while self.update < config.updates:
                self.step()
                last = self.update == config.updates
                look = config.evaluate_every and (last or self.update % config.evaluate_every == 0)
                if last or look or self.update % config.log_every == 0:
                    self.seconds = time.process_time() - began
                    figures = self.figures()
                    if look:
                        figures |= self.evaluate()
                    log.write(self.update, figures | {"cpu_seconds": self.seconds})
                    bar.set_postfix({k: f"{figures[k]:.4g}" for k in list(figures)[:3]}, refresh=False)
                    began = time.process_time() - self.seconds  # looks do not count
                bar.n = self.update
                bar.update(0)
                if last or self.update % config.checkpoint_every == 0:
                    self.seconds = time.process_time() - began
                    self.save()
        card = {"updates": self.update, "cpu_seconds": self.seconds, **self.identity}
        save_rbm(self.folder, self.rbm, self.base, card)
        return self.rbm

    def step(self) -> None:
        """One update."""
        config = self.config
        generator = seeded_generator(self.train.device, config.seed, self.update)
        rows = torch.randint(
            len(self.train), (config.batch_size,), generator=generator, device=self.train.device
        )
        torch.index_select(self.train, 0, rows, out=self._buffer)
        data = binarise(self._buffer, config.binarisation, generator)
        self.learner.update(data, config.rate(self.update), generator)
        self.update += 1

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """Cheap figures: free energies of held-out and training rows, whose gap grows with overfitting."""
        found = {"weight_scale": float(self.rbm.weights.square().mean().sqrt())}
        if not math.isfinite(found["weight_scale"]):
            raise RunError(
                f"training diverged before update {self.update}: weights are {found['weight_scale']}; "
                "try a lower learning rate"
            )
        if self.validation is not None:
            held, seen = self.validation, self._seen
            found["reconstruction_error"] = float((self.rbm.reconstruct(held) - held).square().mean())
            found["free_energy_gap"] = float(self.rbm(held).mean() - self.rbm(seen).mean())
        return found

    def evaluate(self) -> dict[str, float]:
        """Held-out and training log-likelihood by short AIS, nats a row."""
        generator = seeded_generator(self.train.device, self.config.seed, "evaluation", self.update)
        log_z = ais(self.rbm, self.base, self.config.evaluation, generator)
        found = {"log_z": log_z.value}
        if self.validation is not None:
            found["held_out_log_likelihood"] = log_likelihood(self.rbm, self.validation, log_z).value
            found["train_log_likelihood"] = log_likelihood(self.rbm, self._seen, log_z).value
        return found

    def save(self) -> None:
        """Write the training checkpoint."""
        tensors = {
            **with_prefix("rbm", self.rbm.state_dict()),
            **with_prefix("learner", self.learner.state()),
        }
        meta = {"identity": self.identity, "update": self.update, "seconds": self.seconds}
        save_tensors(self.folder / TRAINING_FILE, tensors, meta)

    def resume(self) -> None:
        """Go on from the folder's checkpoint. InputError if there is none or its settings differ."""
        tensors, meta = load_tensors(self.folder / TRAINING_FILE, self.train.device)
        require_same(self.folder, self.identity, meta["identity"])
        self.rbm.load_state_dict(under_prefix("rbm", tensors))
        self.learner.load_state(under_prefix("learner", tensors))
        self.update, self.seconds = meta["update"], meta["seconds"]


def require_rows(name: str, rows: Tensor, units: VisibleUnits) -> None:
    """InputError unless rows (N, n) can be visible states or their probabilities."""
    if rows.dim() != 2 or not len(rows):
        raise InputError(f"{name}: shape {tuple(rows.shape)}; accepted is (rows, visible units)")
    if not torch.isfinite(rows).all():
        raise InputError(f"{name}: holds NaN or infinite values")
    if units == "bernoulli" and (rows.min() < 0 or rows.max() > 1):
        low, high = float(rows.min()), float(rows.max())
        raise InputError(f"{name}: values from {low:.3g} to {high:.3g}; binary units accept 0 to 1")
