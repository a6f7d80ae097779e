"""`image.py attack`: accuracy of the energy classifier under adversarial attack."""

import dataclasses
import json
import shlex
import sys
from pathlib import Path

from ebm_traj.cli import pick_device
from ebm_traj.errors import InputError
from ebm_traj.image.refinement import RefinementConfig
from ebm_traj.image.robust_training import BaselineConfig
from ebm_traj.image.robustness import RobustnessConfig


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
    """Pictures attacked, drawn at random."""
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
    baselines: BaselineConfig = dataclasses.field(default_factory=BaselineConfig)
    device: str | None = None
    """cpu, cuda, ...; by default a GPU if there is one."""
    seed: int = 0
    """Seed of drawn pictures and attacks."""
    overwrite: bool = False
    """Replace the report in --out."""


def main(args: Args) -> None:
    """Attack the energy classifier, refined and not, beside an ordinary and an adversarially trained one."""
    from ebm_traj.image.other_sets import check_out

    check_out(args.out, args.overwrite)
    if args.count < 1:
        raise InputError(f"--count {args.count}: accepted are 1 and more")
    if args.split not in ("test", "validation"):
        raise InputError(f"--split {args.split}: accepted are test and validation")
    device = pick_device(args.device)

    import torch

    from ebm_traj.core.seeding import derive_seed
    from ebm_traj.datasets.pictures import open_pictures
    from ebm_traj.image.model import load_image_model
    from ebm_traj.image.pictures import to_tensor
    from ebm_traj.image.robust_training import train_baseline
    from ebm_traj.image.robustness import ORDINARY, TRAINED, Arm, curves, energy_arms, plain_logits
    from ebm_traj.image.robustness_report import LEGEND, parameters, tables, write_report
    from ebm_traj.image.same_network import SameNetwork, load_any_classifier, saved_in

    model = load_image_model(args.model, device)
    if not model.num_classes:
        raise InputError(f"--model {args.model}: an energy without classes; needed is a conditional one")
    channels, size, _ = model.shape

    def part(split):
        return open_pictures(
            args.data, split, size=size, channels=channels, validation=args.validation, seed=args.split_seed
        )

    arms, start, facts = {}, None, {"energy classifier": f"{parameters(model.energy)} parameters"}
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
        facts[name] = f"{parameters(classifier)} parameters"
    arms |= energy_arms(model, args.refinement, args.level)
    pictures = part(args.split)
    generator = torch.Generator().manual_seed(derive_seed(args.seed, "attacked"))
    rows = torch.randperm(len(pictures), generator=generator)[: args.count].sort().values.numpy()
    x, y = to_tensor(pictures.x[rows], device), torch.from_numpy(pictures.y[rows]).to(device)
    facts["pictures"] = f"{len(rows)} of the {args.split} part of {pictures.name}"
    found = curves(arms, x, y, args.robustness, seed=args.seed, progress=True)
    print(f"{LEGEND}\n\n{tables(found)}")
    settings = json.loads(json.dumps(dataclasses.asdict(args), default=str), parse_constant=str)
    page = write_report(found, facts, args.out, settings, "python " + shlex.join(sys.argv))
    print(f"\n{page}")
