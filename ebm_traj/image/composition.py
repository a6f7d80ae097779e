"""Composition: energies that are each told one factor are summed, to draw combinations never shown.

One network learns E(x, s), E(x, s | shape), E(x, s | size), E(x, s | position) and E(x, s | rotation) by
denoising at all noise levels s; a row of a batch is told one factor or none. The sum

    E(x, s) + sum_i w (E(x, s | c_i) - E(x, s))

is, without noise and with w = 1, the energy of p(x) prod_i p(c_i | x). At a level it is not that of noisy
data, so that following it down the levels is not enough: Langevin steps at every level correct (Du et al.
2023, 2302.11552). As all parts are energies, the steps can be Metropolis-corrected.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ebm_traj.core.checkpoint import load_json, load_tensors, save_json, save_tensors
from ebm_traj.core.denoising import DenoisingConfig, DenoisingScoreMatching
from ebm_traj.core.distributed import make_fabric
from ebm_traj.core.objectives import Batch
from ebm_traj.core.seeding import derive_seed
from ebm_traj.core.trainer import TRAINING_FILE, Trainer, TrainerConfig
from ebm_traj.errors import InputError
from ebm_traj.image.factor_energy import FACTORS, TOLD, FactorEnergy, FactorNetConfig
from ebm_traj.image.sprite_world import draw_factors, draw_pictures

Telling = Literal["one", "all"]
"""What a row of training is told: one factor or none, or all of them."""
WEIGHTS, SETTINGS = "model.safetensors", "settings.json"


@dataclasses.dataclass(frozen=True)
class FactorTrainingConfig:
    """How a `FactorEnergy` is trained."""

    pictures: int = 20_000
    """Of seen combinations, drawn once."""
    network: FactorNetConfig = dataclasses.field(default_factory=FactorNetConfig)
    denoising: DenoisingConfig = dataclasses.field(
        default_factory=lambda: DenoisingConfig(
            batch_size=64, sigma_min=0.05, sigma_max=30.0, log_sigma_mean=0.5, log_sigma_std=1.3
        )
    )
    untold: float = 0.2
    """Share of rows that are told nothing, where others are told one factor."""
    trainer: TrainerConfig = dataclasses.field(
        default_factory=lambda: TrainerConfig(
            iterations=6000,
            learning_rate=2e-3,
            warmup=200,
            gradient_clip=1.0,
            ema_decay=0.998,
            validate_every=0,
        )
    )

    def __post_init__(self) -> None:
        if self.pictures < self.denoising.batch_size:
            raise InputError(f"pictures: {self.pictures}; accepted are a batch and more")
        if not 0 < self.untold < 1:
            raise InputError(f"untold: {self.untold}; accepted is between 0 and 1")


@dataclasses.dataclass(frozen=True)
class SpriteModel:
    """An energy of sprites, and the scale it sees them in."""

    energy: FactorEnergy
    centre: float
    spread: float
    telling: Telling

    def to_unit(self, x: Tensor) -> Tensor:
        """Pictures in [-1, 1] to coordinates of mean 0 and spread 1."""
        return (x - self.centre) / self.spread

    def to_picture(self, z: Tensor) -> Tensor:
        """The way back, held to [-1, 1]."""
        return (z * self.spread + self.centre).clamp(-1, 1)


def train_sprites(
    config: FactorTrainingConfig,
    telling: Telling,
    out: Path,
    *,
    start: SpriteModel | None = None,
    resume: bool = False,
) -> SpriteModel:
    """Train one energy on the seen combinations and save it in `out`.

    `start` is a model whose weights it begins with: one told all factors soon learns what sprites look like,
    and one told a single factor goes on from there many times faster than from nothing.

    Raises InputError if `out` holds a finished model, or another run's checkpoint.
    """
    if telling not in get_args(Telling):
        raise InputError(f"telling: '{telling}'; accepted are {', '.join(get_args(Telling))}")
    if out.exists() and not resume:
        raise InputError(f"{out}: exists already; give another folder, or resume the run in it")
    seed = config.trainer.seed
    factors = draw_factors(config.pictures, np.random.default_rng(derive_seed(seed, "sprites")), "seen")
    pictures = torch.from_numpy(draw_pictures(factors, config.network.pixels))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        energy = FactorEnergy(config.network)
    if start is not None:
        if start.energy.config != config.network:
            raise InputError(f"start: its network is {start.energy.config}; needed is {config.network}")
        energy.load_state_dict(start.energy.state_dict())
    model = SpriteModel(energy, float(pictures.mean()), float(pictures.std()), telling)
    rows, told_of = model.to_unit(pictures), torch.from_numpy(factors).float()

    def batches(iteration: int, generator: torch.Generator) -> Batch:
        pick = torch.randint(len(rows), (config.denoising.batch_size,), generator=generator)
        told = told_mask(len(pick), telling, config.untold, generator)
        return Batch(rows[pick], {"factors": told_of[pick], TOLD: told})

    identity = {"telling": telling, "started": start is not None, **_jsonable(config)}
    objective = DenoisingScoreMatching(energy, config.denoising)
    trainer = Trainer(objective, batches, config.trainer, out, make_fabric("cpu"), identity)
    if resume and (out / TRAINING_FILE).is_file():
        trainer.resume()
    out.mkdir(parents=True, exist_ok=True)
    report = trainer.fit()
    trainer.raw.load_state_dict(trainer.ema.module.state_dict())
    save_tensors(out / WEIGHTS, energy.state_dict(), {"centre": model.centre, "spread": model.spread})
    save_json(out / SETTINGS, {**identity, "train_seconds": report.seconds, "figures": report.figures})
    energy.eval().requires_grad_(False)
    return model


def load_sprites(folder: Path) -> SpriteModel:
    """A model saved by `train_sprites`. Raises InputError if there is none."""
    settings = load_json(folder / SETTINGS)
    tensors, meta = load_tensors(folder / WEIGHTS)
    energy = FactorEnergy(FactorNetConfig(**settings["network"]))
    energy.load_state_dict(tensors)
    energy.eval().requires_grad_(False)
    return SpriteModel(energy, meta["centre"], meta["spread"], settings["telling"])


def told_mask(rows: int, telling: Telling, untold: float, generator: torch.Generator) -> Tensor:
    """(rows, 4) which factors each row of a batch is told."""
    if telling == "all":
        return torch.ones(rows, len(FACTORS))
    one = torch.nn.functional.one_hot(
        torch.randint(len(FACTORS), (rows,), generator=generator), len(FACTORS)
    ).float()
    return one * (torch.rand((rows, 1), generator=generator) >= untold)


def _jsonable(config: FactorTrainingConfig) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(config)))
