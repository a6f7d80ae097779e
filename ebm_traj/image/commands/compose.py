"""Sums of energies of single factors, and what a probe reads in their samples."""

import dataclasses
import json
import shlex
import sys
from pathlib import Path

from ebm_traj.errors import InputError
from ebm_traj.image.composition import (
    SETTINGS,
    FactorTrainingConfig,
    SpriteModel,
    Telling,
    load_sprites,
    train_sprites,
)
from ebm_traj.image.composition_sampling import CompositionSampling
from ebm_traj.image.probe import SETTINGS as PROBE_SETTINGS
from ebm_traj.image.probe import ProbeConfig, load_probe, train_probe


@dataclasses.dataclass
class Args:
    """Arguments of the study of composition."""

    out: Path
    """Folder for composition.md, .json and .png, the two energies and the probe; must not exist, unless
    --resume."""
    samples: int = 200
    """Pictures of triples never shown, by each way."""
    other_samples: int = 100
    """Pictures of the pair never shown, and of seen combinations, by each way."""
    training: FactorTrainingConfig = dataclasses.field(default_factory=FactorTrainingConfig)
    probe: ProbeConfig = dataclasses.field(default_factory=ProbeConfig)
    sampling: CompositionSampling = dataclasses.field(default_factory=CompositionSampling)
    seed: int = 0
    """Seed of all random numbers."""
    resume: bool = False
    """Go on in --out: what is trained there is kept, what is half trained is finished."""


def main(args: Args) -> None:
    """Train an energy told one factor at a time, one told all, and a probe; compose; count what is right."""
    if args.out.exists() and not args.resume:
        raise InputError(f"{args.out}: exists; give another --out, or --resume to go on in it")
    if min(args.samples, args.other_samples) < 8:
        raise InputError(f"--samples {args.samples}, {args.other_samples}: accepted are 8 and more")
    if args.probe.pixels != args.training.network.pixels:
        raise InputError(
            f"--probe.pixels {args.probe.pixels}: the energies' pictures have {args.training.network.pixels}"
        )

    import numpy as np
    import torch

    from ebm_traj.core.seeding import derive_seed, seeded_generator
    from ebm_traj.image.composition_study import LEGEND, study, table, ways_of, write_report
    from ebm_traj.image.probe import probe_accuracy
    from ebm_traj.image.sprite_world import Kind, draw_factors

    trainer = dataclasses.replace(args.training.trainer, seed=args.seed)
    training = dataclasses.replace(args.training, trainer=trainer)
    probing = dataclasses.replace(args.probe, trainer=dataclasses.replace(args.probe.trainer, seed=args.seed))
    models: dict[str, SpriteModel] = {}
    order: tuple[Telling, ...] = ("all", "one")
    for telling in order:
        folder = args.out / telling
        done = (folder / SETTINGS).is_file()
        models[telling] = (
            load_sprites(folder)
            if done
            else train_sprites(training, telling, folder, start=models.get("all"), resume=folder.exists())
        )
    folder = args.out / "probe"
    done = (folder / PROBE_SETTINGS).is_file()
    probe = load_probe(folder) if done else train_probe(probing, folder, resume=folder.exists())
    pixels = training.network.pixels
    ceiling = probe_accuracy(probe, pixels)
    counts: dict[Kind, int] = {"triple": args.samples, "pair": args.other_samples, "seen": args.other_samples}
    rows = study(models["one"], models["all"], probe, ways_of(args.sampling), counts, args.seed)
    from ebm_traj.image.composition_sampling import sample_sprites

    asked = draw_factors(2, np.random.default_rng(derive_seed(args.seed, "walks")), "triple")
    _, path = sample_sprites(
        models["one"],
        torch.from_numpy(asked),
        "sum",
        args.sampling,
        generator=seeded_generator("cpu", args.seed, "walks"),
        record=True,
    )
    settings = json.loads(json.dumps(dataclasses.asdict(args), default=str))
    page = write_report(rows, ceiling, path, args.out, settings, "python " + shlex.join(sys.argv))
    print(f"\n{LEGEND}\n\n{table(rows)}\n\n{page}")
