"""`image.py attack`: accuracy of the energy classifier under adversarial attack."""

import dataclasses
import json
import shlex
import sys
import time
from pathlib import Path

from ebm_traj.cli import pick_device
from ebm_traj.errors import InputError
from ebm_traj.image.attack_checks import ChecksConfig
from ebm_traj.image.refinement import RefinementConfig
from ebm_traj.image.robust_training import BaselineConfig
from ebm_traj.image.robustness import RobustnessConfig
from ebm_traj.output import require_folder


@dataclasses.dataclass
class Args:
    """Arguments of the attack."""

    model: Path
    """Folder of a conditional image model."""
    out: Path
    """Folder for attack.md, .json and .png; must not exist, unless --overwrite."""
    data: str = "digits"
    """digits, sprites, or a path; pictures of its test part are attacked."""
    ordinary: Path | None = None
    """Folder of an ordinary classifier; if it is not there, one with the model's network is trained."""
    adversarial: Path | None = None
    """Folder of an adversarially trained classifier; the same, from the weights of the ordinary one on."""
    count: int = 200
    """Pictures attacked, drawn at random; 0 for checks of the attack alone."""
    split: str = "test"
    """test, or validation: pictures to choose settings by."""
    level: float | None = None
    """Noise level at which the energy classifier reads a picture; None takes the model's lowest."""
    validation: float = 0.05
    """Share of the training pictures held out when the model was trained."""
    split_seed: int = 0
    """Seed by which they were drawn."""
    refinement: RefinementConfig = dataclasses.field(default_factory=RefinementConfig)
    robustness: RobustnessConfig = dataclasses.field(default_factory=RobustnessConfig)
    checks: ChecksConfig = dataclasses.field(default_factory=ChecksConfig)
    baselines: BaselineConfig = dataclasses.field(default_factory=BaselineConfig)
    device: str | None = None
    """cpu, cuda, ...; by default a GPU if there is one."""
    seed: int = 0
    """Seed of drawn pictures and attacks."""
    overwrite: bool = False
    """Replace the report in --out."""


def main(args: Args) -> None:
    """Attack the energy classifier, refined and not, beside an ordinary and an adversarially trained one."""

    require_folder(args.out, ("attack.json",), overwrite=args.overwrite)
    if args.count < (0 if args.checks.count else 1):
        raise InputError(f"--count {args.count}: accepted are 1 and more, and 0 with --checks.count")
    if args.split not in ("test", "validation"):
        raise InputError(f"--split {args.split}: accepted are test and validation")
    device = pick_device(args.device)

    import torch

    from ebm_traj.core.memory import keep_freed_memory
    from ebm_traj.core.seeding import derive_seed
    from ebm_traj.datasets.pictures import open_pictures
    from ebm_traj.image.attack_checks import check_attack, straight_through, table
    from ebm_traj.image.model import load_image_model
    from ebm_traj.image.pictures import to_tensor
    from ebm_traj.image.robust_training import train_baseline
    from ebm_traj.image.robustness import (
        ORDINARY,
        REFINED,
        TRAINED,
        Arm,
        curves,
        energy_arms,
        energy_logits,
        plain_logits,
        refinement_of,
    )  # fmt: skip
    from ebm_traj.image.robustness_report import LEGEND, described, tables, write_report
    from ebm_traj.image.same_network import SameNetwork, load_any_classifier, saved_in

    keep_freed_memory()
    model = load_image_model(args.model, device)
    if not model.num_classes:
        raise InputError(f"--model {args.model}: an energy without classes; needed is a conditional one")
    channels, size, _ = model.shape

    def part(split):
        return open_pictures(
            args.data, split, size=size, channels=channels, validation=args.validation, seed=args.split_seed
        )

    arms, start, facts = {}, None, {"energy classifier": described(model.energy, model.card)}
    for name, folder in ((ORDINARY, args.ordinary), (TRAINED, args.adversarial)):
        if folder is None:
            continue
        if not saved_in(folder):
            train_baseline(
                *(model, part("train"), part("validation"), folder, args.baselines),
                adversarial=name == TRAINED,
                start=start,
                device=device,
            )
        classifier = load_any_classifier(folder, device)
        start = classifier if isinstance(classifier, SameNetwork) else None
        arms[name] = Arm(plain_logits(classifier))
        facts[name] = described(classifier, getattr(classifier, "card", {}))
    arms |= energy_arms(model, args.refinement, args.level)

    def drawn(split, count):
        pictures = part(split)
        generator = torch.Generator().manual_seed(derive_seed(args.seed, "attacked"))
        rows = torch.randperm(len(pictures), generator=generator)[:count].sort().values.numpy()
        x, y = to_tensor(pictures.x[rows], device), torch.from_numpy(pictures.y[rows]).to(device)
        return x, y, f"{len(rows)} of the {split} part of {pictures.name}"

    found, checks, checked, began = {}, [], "", time.process_time()
    if args.checks.count:
        x, y, _ = drawn("validation", args.checks.count)
        identity = straight_through(energy_logits(model, args.level), refinement_of(model, args.refinement))
        checks = check_attack(
            *(arms, REFINED, x, y, args.robustness, args.checks),
            surrogates={"gradient of refinement taken for the identity": identity}, seed=args.seed,
        )  # fmt: skip
        checked = table(checks, args.checks.radius, len(x))
        print(f"{checked}\n")
    if args.count:
        x, y, facts["pictures"] = drawn(args.split, args.count)
        found = curves(arms, x, y, args.robustness, seed=args.seed, progress=True)
        print(f"{LEGEND}\n\n{tables(found)}")
    facts["attacks"] = f"{time.process_time() - began:.0f} CPU seconds"
    settings = json.loads(json.dumps(dataclasses.asdict(args), default=str), parse_constant=str)
    command = "python " + shlex.join(sys.argv)
    page = write_report(found, facts, args.out, settings, command, checked, checks)
    print(f"\n{page}")
