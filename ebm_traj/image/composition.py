"""Composition: energies that are each told one factor are summed, to draw combinations never shown.

E(x, s) is learnt by denoising at all noise levels s, and f_i(x, s, c_i) = -log p(c_i | x, s) + log p(c_i), of
one factor i, by cross-entropy. E_i(x, s | c_i) = E(x, s) + f_i(x, s, c_i) is the energy of p(x, s | c_i): it
is told one factor alone. The sum

    E(x, s) + sum_i w (E_i(x, s | c_i) - E(x, s)) = E(x, s) + w sum_i f_i(x, s, c_i)

is, without noise and with w = 1, the energy of p(x) prod_i p(c_i | x). At a level it is not that of noisy
data, so that following it down the levels is not enough: Langevin steps at every level correct (Du et al.
2023, 2302.11552). As all parts are energies, the steps can be Metropolis-corrected.

The network of E(x, s) is given what the posteriors expect of the factors in x (`FactorEnergy`); in a share of
its training it is told all factors at once: that energy is for comparison.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ebm_traj.core.checkpoint import from_dict, load_json, load_tensors, save_json, save_tensors
from ebm_traj.core.denoising import DenoisingConfig, DenoisingScoreMatching
from ebm_traj.core.distributed import make_fabric
from ebm_traj.core.objectives import Batch, Objective
from ebm_traj.core.seeding import derive_seed
from ebm_traj.core.trainer import TRAINING_FILE, Trainer, TrainerConfig
from ebm_traj.errors import InputError
from ebm_traj.image.composition_posteriors import FactorPosteriors, PosteriorLoss, PosteriorNetConfig
from ebm_traj.image.factor_energy import TOLD, FactorEnergy, FactorNetConfig
from ebm_traj.image.sprite_world import draw_factors, draw_pictures

M = TypeVar("M", bound=nn.Module)
WEIGHTS, SETTINGS = "model.safetensors", "settings.json"
CENTRE, SPREAD = -0.716, 0.657
"""Mean and standard deviation of all pixels of the sprites, in [-1, 1]."""


def to_unit(x: Tensor) -> Tensor:
    """Pictures in [-1, 1] to coordinates of mean 0 and spread 1."""
    return (x - CENTRE) / SPREAD


def to_picture(z: Tensor) -> Tensor:
    """The way back, held to [-1, 1]."""
    return (z * SPREAD + CENTRE).clamp(-1, 1)


def _levels(batch_size: int, log_sigma_mean: float) -> DenoisingConfig:
    """Noise levels that energy and posteriors share, drawn around exp(log_sigma_mean)."""
    return DenoisingConfig(
        batch_size, sigma_min=0.05, sigma_max=30.0, log_sigma_mean=log_sigma_mean, log_sigma_std=1.3
    )


def _steps(iterations: int) -> TrainerConfig:
    """The loop of both."""
    return TrainerConfig(
        iterations=iterations,
        learning_rate=2e-3,
        warmup=200,
        gradient_clip=1.0,
        ema_decay=0.998,
        validate_every=0,
    )


@dataclasses.dataclass(frozen=True)
class EnergyTrainingConfig:
    """How the `FactorEnergy` is trained."""

    pictures: int = 40_000
    """Of seen combinations, drawn once."""
    network: FactorNetConfig = dataclasses.field(default_factory=FactorNetConfig)
    denoising: DenoisingConfig = dataclasses.field(default_factory=lambda: _levels(64, 0.3))
    refinement: DenoisingConfig | None = dataclasses.field(default_factory=lambda: _levels(64, -0.3))
    """Levels of a second round of as many steps, from the averaged weights of the first: lower ones, where
    edges are drawn."""
    untold: float = 0.5
    """Share of rows that are told nothing, where others are told all factors."""
    trainer: TrainerConfig = dataclasses.field(default_factory=lambda: _steps(1600))

    def __post_init__(self) -> None:
        if self.pictures < self.denoising.batch_size:
            raise InputError(f"pictures: {self.pictures}; accepted are a batch and more")
        if not 0 < self.untold < 1:
            raise InputError(f"untold: {self.untold}; accepted is between 0 and 1")


@dataclasses.dataclass(frozen=True)
class PosteriorTrainingConfig:
    """How the `FactorPosteriors` are trained."""

    pictures: int = 40_000
    """Of seen combinations, drawn once."""
    network: PosteriorNetConfig = dataclasses.field(default_factory=PosteriorNetConfig)
    levels: DenoisingConfig = dataclasses.field(default_factory=lambda: _levels(128, 0.3))
    """Noise levels and batch size, as for denoising."""
    trainer: TrainerConfig = dataclasses.field(default_factory=lambda: _steps(3000))

    def __post_init__(self) -> None:
        if self.pictures < self.levels.batch_size:
            raise InputError(f"pictures: {self.pictures}; accepted are a batch and more")


@dataclasses.dataclass(frozen=True)
class SpriteModel:
    """Energies of sprites, in coordinates of `to_unit`."""

    energy: FactorEnergy
    """E(x, s), and for comparison E(x, s | all factors)."""
    posteriors: FactorPosteriors
    """The f_i."""


def train_energy(
    config: EnergyTrainingConfig, out: Path, posteriors: FactorPosteriors, *, resume: bool = False
) -> FactorEnergy:
    """Train the energy on seen combinations and save it in `out`; `posteriors` stay as they are.

    Raises InputError if `out` exists and is not to be resumed, or holds another run's checkpoint.
    """
    _refuse(out, resume)
    energy = _seeded(
        lambda: FactorEnergy(config.network, posteriors.requires_grad_(False)), config.trainer.seed, "weights"
    )
    rows = SeenSprites(config.pictures, config.network.pixels, config.trainer.seed)

    def fit(levels: DenoisingConfig, folder: Path) -> None:
        def batches(iteration: int, generator: torch.Generator) -> Batch:
            x, factors = rows.draw(levels.batch_size, generator)
            told = torch.rand(len(x), generator=generator) >= config.untold
            return Batch(x, {"factors": factors, TOLD: told.float()})

        objective = DenoisingScoreMatching(energy, levels)
        _fit(objective, energy, batches, config.trainer, folder, _jsonable(config), resume)

    if config.refinement is not None:
        fit(config.denoising, out / "first")
    fit(config.refinement or config.denoising, out)
    return energy.eval().requires_grad_(False)


def train_posteriors(config: PosteriorTrainingConfig, out: Path, *, resume: bool = False) -> FactorPosteriors:
    """Train the posteriors of single factors on seen combinations; otherwise as `train_energy`."""
    _refuse(out, resume)
    posteriors = _seeded(lambda: FactorPosteriors(config.network), config.trainer.seed, "posteriors")
    rows = SeenSprites(config.pictures, config.network.pixels, config.trainer.seed)

    def batches(iteration: int, generator: torch.Generator) -> Batch:
        x, factors = rows.draw(config.levels.batch_size, generator)
        return Batch(x, {"factors": factors})

    objective = PosteriorLoss(posteriors, config.levels)
    _fit(objective, posteriors, batches, config.trainer, out, _jsonable(config), resume)
    return posteriors.eval().requires_grad_(False)


class SeenSprites:
    """Pictures of seen combinations and their factors."""

    def __init__(self, count: int, pixels: int, seed: int) -> None:
        factors = draw_factors(count, np.random.default_rng(derive_seed(seed, "sprites")), "seen")
        self.x = to_unit(torch.from_numpy(draw_pictures(factors, pixels)))
        self.factors = torch.from_numpy(factors).float()

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows with replacement."""
        pick = torch.randint(len(self.x), (count,), generator=generator)
        return self.x[pick], self.factors[pick]


def load_energy(folder: Path, posteriors: FactorPosteriors) -> FactorEnergy:
    """An energy saved by `train_energy` with these posteriors. Raises InputError if there is none."""
    network = from_dict(FactorNetConfig, load_json(folder / SETTINGS)["network"])
    return _loaded(FactorEnergy(network, posteriors), folder)


def load_posteriors(folder: Path) -> FactorPosteriors:
    """Posteriors saved by `train_posteriors`. Raises InputError if there are none."""
    network = from_dict(PosteriorNetConfig, load_json(folder / SETTINGS)["network"])
    return _loaded(FactorPosteriors(network), folder)


def _refuse(out: Path, resume: bool) -> None:
    if out.exists() and not resume:
        raise InputError(f"{out}: exists already; give another folder, or resume the run in it")


def _seeded(make: Callable[[], M], seed: int, name: str) -> M:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, name))
        return make()


def _fit(
    objective: Objective,
    network: nn.Module,
    batches: Callable[[int, torch.Generator], Batch],
    config: TrainerConfig,
    out: Path,
    identity: dict[str, Any],
    resume: bool,
) -> None:
    trainer = Trainer(objective, batches, config, out, make_fabric("cpu"), identity)
    if resume and (out / TRAINING_FILE).is_file():
        trainer.resume()
    out.mkdir(parents=True, exist_ok=True)
    report = trainer.fit()
    trainer.raw.load_state_dict(trainer.ema.module.state_dict())
    save_tensors(out / WEIGHTS, network.state_dict(), {})
    save_json(out / SETTINGS, {**identity, "train_seconds": report.seconds, "figures": report.figures})


def _loaded(network: M, folder: Path) -> M:
    network.load_state_dict(load_tensors(folder / WEIGHTS)[0])
    return network.eval().requires_grad_(False)


def _jsonable(config: Any) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(config)))
