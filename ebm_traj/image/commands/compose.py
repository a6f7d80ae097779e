"""Sums of energies of single factors, and what a probe reads in their samples."""

import dataclasses
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ebm_traj.core.checkpoint import load_json, require_same
from ebm_traj.errors import InputError
from ebm_traj.image.composition import (
    SETTINGS,
    EnergyTrainingConfig,
    PosteriorTrainingConfig,
    SpriteModel,
    load_energy,
    load_posteriors,
    train_energy,
    train_posteriors,
)
from ebm_traj.image.composition_sampling import CompositionSampling
from ebm_traj.image.probe import SETTINGS as PROBE_SETTINGS
from ebm_traj.image.probe import ProbeConfig, load_probe, train_probe
from ebm_traj.output import require_new

M = TypeVar("M")


@dataclasses.dataclass
class Args:
    """Arguments of the study of composition."""

    out: Path
    """Folder for composition.md, .json and .png, the energy, the posteriors and the probe; must not exist,
    unless --resume."""
    samples: int = 200
    """Pictures of triples never shown, by each way."""
    other_samples: int = 100
    """Pictures of the pair never shown, and of seen combinations, by each way."""
    energy: EnergyTrainingConfig = dataclasses.field(default_factory=EnergyTrainingConfig)
    posteriors: PosteriorTrainingConfig = dataclasses.field(default_factory=PosteriorTrainingConfig)
    probe: ProbeConfig = dataclasses.field(default_factory=ProbeConfig)
    sampling: CompositionSampling = dataclasses.field(default_factory=CompositionSampling)
    seed: int = 0
    """Seed of all random numbers."""
    resume: bool = False
    """Go on in --out by the same settings: what is trained there is kept, what is half trained finished."""


def main(args: Args) -> None:
    """Train an energy, posteriors of single factors and a probe; compose; count what is right."""
    require_new(args.out, args.resume)
    if min(args.samples, args.other_samples) < 8:
        raise InputError(f"--samples {args.samples}, {args.other_samples}: accepted are 8 and more")
    pixels = args.energy.network.pixels
    for name, found in (("probe", args.probe.pixels), ("posteriors.network", args.posteriors.network.pixels)):
        if found != pixels:
            raise InputError(f"--{name}.pixels {found}: the energy's pictures have {pixels}")

    import numpy as np
    import torch

    from ebm_traj.core.seeding import derive_seed, seeded_generator
    from ebm_traj.image.composition_sampling import sample_sprites
    from ebm_traj.image.composition_study import LEGEND, study, table, ways_of, write_report
    from ebm_traj.image.probe import probe_accuracy
    from ebm_traj.image.sprite_world import Kind, draw_factors

    out, seed = args.out, args.seed
    posteriors = _made(load_posteriors, train_posteriors, args.posteriors, seed, out / "posteriors", SETTINGS)
    energy = _made(
        lambda folder: load_energy(folder, posteriors),
        lambda config, folder, resume: train_energy(config, folder, posteriors, resume=resume),
        args.energy,
        seed,
        out / "energy",
        SETTINGS,
    )
    model = SpriteModel(energy, posteriors)
    probe = _made(load_probe, train_probe, args.probe, seed, out / "probe", PROBE_SETTINGS)
    ceiling = probe_accuracy(probe, pixels)
    counts: dict[Kind, int] = {"triple": args.samples, "pair": args.other_samples, "seen": args.other_samples}
    rows = study(model, probe, ways_of(args.sampling), counts, args.seed)
    asked = draw_factors(2, np.random.default_rng(derive_seed(args.seed, "walks")), "triple")
    _, path = sample_sprites(
        model,
        torch.from_numpy(asked),
        "sum",
        args.sampling,
        generator=seeded_generator("cpu", args.seed, "walks"),
        record=True,
    )
    settings = json.loads(json.dumps(dataclasses.asdict(args), default=str))
    page = write_report(rows, ceiling, path, args.out, settings, "python " + shlex.join(sys.argv))
    print(f"\n{LEGEND}\n\n{table(rows)}\n\n{page}")


def _made(
    load: Callable[[Path], M], train: Callable[..., M], config: Any, seed: int, folder: Path, settings: str
) -> M:
    """What `folder` holds, trained there first if it is not finished; InputError if by other settings."""
    seeded = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, seed=seed))
    if (folder / settings).is_file():
        saved, now = load_json(folder / settings), json.loads(json.dumps(dataclasses.asdict(seeded)))
        told = now.keys() & saved.keys()  # an older probe's are not all written down
        require_same(folder, {name: now[name] for name in told}, {name: saved[name] for name in told})
        return load(folder)
    return train(seeded, folder, resume=folder.exists())
