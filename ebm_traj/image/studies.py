"""What the sub-commands on pictures share: opening a model, its data and a classifier, and the report."""

import dataclasses
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ebm_traj.atomic import write_atomically
from ebm_traj.core.hmc import ChainConfig
from ebm_traj.datasets.pictures import PictureSet, PictureSplit, open_pictures
from ebm_traj.errors import InputError
from ebm_traj.image.classifier import Classifier, load_classifier
from ebm_traj.image.model import ImageModel, load_image_model
from ebm_traj.image.pictures import to_uint8
from ebm_traj.image.reports import write_report
from ebm_traj.image.sampling import Samples


@dataclasses.dataclass
class Opened:
    """What a command works with."""

    model: ImageModel
    train: PictureSet
    test: PictureSet
    classifier: Classifier | None

    @property
    def chain(self) -> ChainConfig:
        """The chain of a model without levels."""
        return self.model.config.generation


def opened(
    folder: Path, data: str, device: str, classifier: Path | None = None, *, split: PictureSplit = "test"
) -> Opened:
    """Model, pictures of its shape and classifier, all checked to fit. Raises InputError if they do not.

    `split` is the part of the data that stands for the test pictures.
    """
    model = load_image_model(folder, device)
    channels, size, _ = model.shape
    sets = [open_pictures(data, part, size=size, channels=channels) for part in ("train", split)]
    for pictures in sets:
        if pictures.shape != tuple(model.shape):
            raise InputError(f"--data {data}: pictures {pictures.shape}; the model's are {model.shape}")
    reader = None
    if classifier is not None:
        reader = load_classifier(classifier, device)
        if tuple(reader.shape) != tuple(model.shape):
            raise InputError(f"--classifier {classifier}: for {reader.shape}; the model's are {model.shape}")
    trained_on = model.card.get("data")
    if trained_on and trained_on != sets[0].name:
        warnings.warn(
            f"--data {data}: '{sets[0].name}'; the model was trained on '{trained_on}'", stacklevel=2
        )
    return Opened(model, sets[0], sets[1], reader)


def write(
    args: Any,
    name: str,
    title: str,
    text: str,
    content: Mapping[str, Any],
    figures: Mapping[str, bytes],
) -> None:
    """Write the report of a command into its --out, and say what and where."""
    settings = dataclasses.asdict(args) | {"torch": str(torch.__version__)}
    page = write_report(args.out, name, title, text, content, figures, settings)
    print(f"{text}\n\n{page}")


def write_samples(out: Path, made: Samples) -> Path:
    """Write samples.npz: x (N, H, W, C) unsigned bytes, and y (N,) where classes were asked for."""
    buffer = io.BytesIO()
    arrays = {"x": to_uint8(made.x)}
    if made.labels is not None:
        arrays["y"] = made.labels.cpu().numpy()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(out / "samples.npz", buffer.getvalue())
    return out / "samples.npz"
