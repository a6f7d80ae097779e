"""Frechet distance, precision and recall, classes and nearest neighbours of samples, beside the floor."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Literal

from ebm_traj.cli import pick_device
from ebm_traj.errors import InputError
from ebm_traj.output import require_folder


@dataclasses.dataclass
class Args:
    """Arguments of scoring; either a model or pictures made before."""

    classifier: Path
    """Folder of a classifier of the same data set (scripts/train_classifier.py)."""
    out: Path
    """Folder for score.md, .json and .png, samples.png, samples.npz; must not exist, unless --overwrite."""
    model: Path | None = None
    """Folder of an image model, from which samples are drawn."""
    samples: Path | None = None
    """An .npz (x, perhaps y), folder or .zip of samples instead."""
    data: str = "digits"
    """The data set, as for training."""
    split: Literal["train", "validation", "test"] = "test"
    """Part of it that samples are compared with; the classifier reads its training part too well."""
    count: int = 2000
    """Samples; at most half the pictures of the split are compared with."""
    batch: int = 250
    """Samples drawn at a time."""
    steps: int | None = None
    """Steps of the sampler; by default the model's own."""
    sharpness: float | None = None
    """Factor on the energy while sampling: above 1 more typical pictures and less varied ones, 1 the model's
    density as it is; default: the model's own."""
    sharp_below: float | None = None
    """Noise level at and below which it holds; default: the model's own."""
    unconditional: bool = False
    """Draw from a conditional model's energy without a class."""
    inception: Path | None = None
    """torch-fidelity's Inception weights, for FID and IS, too, against the training part."""
    size: int | None = None
    """Side in pixels to resize the data to, as for training."""
    channels: int | None = None
    """1: grey. 3: colour."""
    device: str | None = None
    """cpu or cuda; by default a GPU if there is one."""
    seed: int = 0
    """Seed of samples and of the pictures they are compared with."""
    overwrite: bool = False
    """Replace the report in --out."""


def main(args: Args) -> None:
    """Score samples of a model, or given ones, against the data; print the table."""
    if (args.model is None) == (args.samples is None):
        raise InputError("needed is either --model or --samples")
    require_folder(args.out, ("score.json", "samples.npz"), overwrite=args.overwrite)
    for name in ("count", "batch"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: accepted are 1 and more")
    device = pick_device(args.device)

    import torch

    from ebm_traj.datasets.pictures import open_pictures
    from ebm_traj.image.classifier import load_classifier
    from ebm_traj.image.neighbours import Library
    from ebm_traj.image.pictures import to_tensor, to_uint8
    from ebm_traj.image.score_report import save_samples, write_score
    from ebm_traj.image.scores import FEWEST, Reference, check_samples, matching, score_samples, table

    if args.inception is not None:
        from ebm_traj.image.inception import check_weights

        check_weights(args.inception)
    classifier = load_classifier(args.classifier, device)
    real = open_pictures(args.data, args.split, size=args.size, channels=args.channels)
    train = open_pictures(args.data, "train", size=args.size, channels=args.channels)
    Reference.of(real, classifier, FEWEST)  # what does not fit is told before sampling
    made = None
    if args.model is not None:
        from ebm_traj.image.model import load_image_model
        from ebm_traj.image.sampling import even_labels, own_sampler, sample, sharpened

        model = load_image_model(args.model, device)
        if tuple(model.shape) != real.shape:
            raise InputError(
                f"--model {args.model}: makes pictures {model.shape}; the data have {real.shape}"
            )
        if args.unconditional:
            model = model.unconditional()
        sampler = sharpened(own_sampler(model), args.sharpness, args.sharp_below)
        if args.steps is not None:
            sampler = dataclasses.replace(sampler, steps=args.steps)
        labels = even_labels(model, args.count)
        made = sample(
            model, args.count, labels, sampler=sampler, batch=args.batch, seed=args.seed, progress="samples"
        )
        check_samples(made.x, real.shape)
        save_samples(args.out / "samples.npz", made.x, labels)
        x = to_tensor(to_uint8(made.x))  # the same bytes whether scored now or from the file
    else:
        given = open_pictures(str(args.samples), "all", channels=args.channels, limit=args.count)
        x, labels = to_tensor(given.x), None
        if given.num_classes:
            numbers = torch.tensor([*matching(given.class_names, classifier.class_names), -1])
            labels = numbers[torch.from_numpy(given.y)]  # -1, a class that is not known, is the last one
    library = Library.of(train, classifier)
    report = score_samples(
        *(x, real, classifier), labels=labels, train=library, most=args.count, seed=args.seed
    )
    report["command"] = "python " + shlex.join(sys.argv)
    report["settings"] = {name: str(value) for name, value in dataclasses.asdict(args).items()}
    if made is not None:
        report |= {"gradients_per_sample": made.gradients, "sampling_cpu_seconds": made.seconds}
    if args.inception is not None:
        from ebm_traj.image.inception import inception_scores

        report["inception"] = inception_scores(x, train.x, args.inception, cuda=device == "cuda")
    page = write_score(report, x, library, args.out)
    print(f"{table(report)}\n\n{page}")
