"""Samples of an EBGAN or GAN walked on by Langevin dynamics on its own discriminator: better or worse?"""

import dataclasses
from pathlib import Path

from ebm_traj.cli import run
from ebm_traj.ebgan.refinement import RefinementConfig
from ebm_traj.output import require_folder


@dataclasses.dataclass
class Args:
    """Arguments of the study."""

    model: Path
    """Folder of train_ebgan.py."""
    classifier: Path
    """Folder of train_classifier.py, of the same pictures."""
    out: Path
    """Folder for refinement.md, .json and .png; must not exist, unless --overwrite."""
    data: str = "digits"
    """The pictures that the model was trained on."""
    size: int | None = None
    """Pixels across that pictures are resized to, as in training."""
    config: RefinementConfig = dataclasses.field(default_factory=RefinementConfig)
    overwrite: bool = False
    """Replace the report in --out."""


def main(args: Args) -> None:
    """Choose a chain on validation pictures; score samples before and after it on test pictures."""
    from ebm_traj.datasets.pictures import open_pictures
    from ebm_traj.ebgan.energy_report import refinement_page
    from ebm_traj.ebgan.model import load_adversarial
    from ebm_traj.ebgan.refinement import study
    from ebm_traj.errors import InputError
    from ebm_traj.image.classifier import load_classifier

    require_folder(args.out, ("refinement.json",), overwrite=args.overwrite)
    model, classifier = load_adversarial(args.model), load_classifier(args.classifier)
    validation, test = (open_pictures(args.data, part, size=args.size) for part in ("validation", "test"))
    if model.shape != test.shape:
        raise InputError(f"--model {args.model}: of pictures {model.shape}; {args.data} has {test.shape}")
    found = study(model, validation, test, classifier, args.config)
    text, page = refinement_page(found, args.out, dataclasses.asdict(args))
    print(f"{text}\n\n{page}")


if __name__ == "__main__":
    run(main, Args)
