"""Training and scoring one point of the grid: the same budget and the same judge for all."""

import dataclasses
import math
import time
from typing import Any

import torch

from ebm_traj.core.seeding import derive_seed, seeded_generator
from ebm_traj.ebgan.class_scores import inception_score, log_probabilities, reversed_score
from ebm_traj.ebgan.grid import GridPoint
from ebm_traj.ebgan.model import AdversarialModel
from ebm_traj.ebgan.step import AdversarialStep
from ebm_traj.errors import InputError

LOOK_EVERY = 50  # updates between two looks at whether the losses are finite
SMALLEST_SCORE = 2.0


@dataclasses.dataclass(frozen=True)
class Budget:
    """What every configuration is given, and how it is judged."""

    data: str = "digits"
    """Pictures, as scripts/train_ebgan.py takes them."""
    classifier: str = ""
    """Folder of the classifier that scores all samples."""
    updates: int = 300
    """Of the discriminator and of the generator, each; the same for all configurations."""
    batch_size: int = 64
    """Pictures, and samples, in an update."""
    samples: int = 2000
    """Generated for the score."""
    kept: int = 20
    """Of these, kept as pictures beside the scores; 0 for none."""
    size: int | None = None
    """Pixels across that pictures are resized to."""
    seed: int = 0
    """Of weights, noise and data order."""

    def __post_init__(self) -> None:
        for name, least in (("updates", 1), ("batch_size", 2), ("samples", 2), ("kept", 0)):
            if getattr(self, name) < least:
                raise InputError(
                    f"{name.replace('_', ' ')}: {getattr(self, name)}; accepted are {least} and more"
                )


class Judge:
    """Data and classifier, read once in a process."""

    def __init__(self, budget: Budget) -> None:
        from ebm_traj.datasets.pictures import open_pictures
        from ebm_traj.image.classifier import load_classifier
        from ebm_traj.image.pictures import batches, to_tensor

        self.budget = budget
        train = open_pictures(budget.data, "train", size=budget.size)
        self.shape = train.shape
        self.batch = batches(train, budget.batch_size)
        self.classifier = load_classifier(budget.classifier)
        if tuple(self.classifier.shape) != train.shape:
            raise InputError(
                f"classifier {budget.classifier}: of pictures {tuple(self.classifier.shape)}; "
                f"{budget.data} has {train.shape}"
            )
        self._real = lambda: to_tensor(open_pictures(budget.data, "test", size=budget.size).x)

    def score(self, x: torch.Tensor) -> dict[str, float]:
        """I' and inception score of pictures (N, C, H, W)."""
        log_p = log_probabilities(self.classifier, x)
        return {"reversed_score": reversed_score(log_p), "inception_score": inception_score(log_p)}

    def reference(self) -> dict[str, float]:
        """The scores of as many test pictures."""
        return self.score(self._real()[: self.budget.samples])


def run_point(point: GridPoint, judge: Judge, repeat: int = 0) -> dict[str, Any]:
    """Train at one point and score its samples.

    A run whose losses or samples are not finite ends there, with scores of 0 and 1, what the same picture
    over and over would have. `repeat` 1, 2 ... are runs with other seeds.
    """
    budget = judge.budget
    began, wall = time.process_time(), time.perf_counter()
    seed = derive_seed("grid run", budget.seed, point.key, repeat)
    model = AdversarialModel(point.model_config(), judge.shape, seed)
    step = AdversarialStep(model, point.optimiser_config())
    margin = model.config.schedule(judge.shape).margin
    finite, figures = True, {}
    for update in range(budget.updates):
        generator = seeded_generator("cpu", seed, update)
        figures = step(judge.batch(update, generator).x, margin, generator)
        if update % LOOK_EVERY == LOOK_EVERY - 1 or update == budget.updates - 1:
            finite = all(math.isfinite(float(value)) for value in figures.values())
            if not finite:
                break
    generator = seeded_generator("cpu", seed, "samples")
    model.settle(None, generator)
    model.eval()
    x = model.sample(budget.samples, generator)
    finite = finite and bool(x.isfinite().all())
    scores = judge.score(x) if finite else {"reversed_score": 0.0, "inception_score": 1.0}
    return {
        "key": point.key if not repeat else f"{point.key}#{repeat}",
        "repeat": repeat,
        **dataclasses.asdict(point),
        **scores,
        "finite": finite,
        "failed": not finite or scores["inception_score"] < SMALLEST_SCORE,
        "updates": update + 1,
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": round(time.process_time() - began, 2),
        "wall_seconds": round(time.perf_counter() - wall, 2),
        "pixels": _small(x[: budget.kept]) if finite and budget.kept else None,
    }


def _small(x: torch.Tensor) -> str:
    """Pictures as text: the shape and zlib-packed bytes in base 64."""
    import base64
    import zlib

    from ebm_traj.image.pictures import to_uint8

    pixels = to_uint8(x)
    packed = base64.b64encode(zlib.compress(pixels.tobytes(), 9)).decode()
    return f"{'x'.join(map(str, pixels.shape))}:{packed}"


def unpacked(text: str) -> Any:
    """The bytes (N, H, W, C) that `run_point` kept."""
    import base64
    import zlib

    import numpy as np

    head, packed = text.split(":", 1)
    shape = [int(n) for n in head.split("x")]
    return np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.uint8).reshape(shape)
