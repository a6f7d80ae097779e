"""Scores of sets of samples, measured by a small classifier that the project trained on the same data set.

Names say so: `classifier_fd` is the Frechet distance in its features and no FID, `classifier_is` no Inception
score. Beside each figure stands the floor: the same figure of truth against other truth, the same N.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebm_traj.datasets.pictures import PictureSet
from ebm_traj.errors import InputError
from ebm_traj.image.classifier import Classifier
from ebm_traj.image.distances import (
    COVERAGE_NEIGHBOURS,
    Manifolds,
    frechet,
    inception_score,
    kernel_distance,
    manifolds,
)
from ebm_traj.image.neighbours import Library, memorising
from ebm_traj.image.pictures import to_tensor

__all__ = [
    "CONFIDENT",
    "Manifolds",
    "Reference",
    "frechet",
    "inception_score",
    "kernel_distance",
    "manifolds",
]
__all__ += ["class_scores", "score_samples", "table"]

CONFIDENT = 0.9
FEWEST = 2 * (COVERAGE_NEIGHBOURS + 1)
MOST = 5000  # pictures a side, unless more are asked for


def class_scores(probabilities: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
    """What a classifier reads, from its probabilities (N, K).

    `confident` is the share with a probability above 0.9, `class_shares` the share read as each class,
    `classes_lowest` and `classes_highest` the extremes of these, `read_right` the share read as the class
    that was asked for (where `labels` (N,) were), `classifier_is` the Inception score's formula.
    """
    highest, read = probabilities.max(1)
    shares = torch.bincount(read, minlength=probabilities.shape[1]).double() / len(read)
    score, spread = inception_score(probabilities)
    found: dict[str, Any] = {
        "confident": float((highest > CONFIDENT).double().mean()),
        "classifier_is": score,
        "classifier_is_std": spread,
        "classes_lowest": float(shares.min()),
        "classes_highest": float(shares.max()),
        "class_shares": shares.tolist(),
    }
    if labels is not None:
        found["read_right"] = float((read == labels.cpu()).double().mean())
    return found


@dataclasses.dataclass
class Reference:
    """Real pictures to score against, read once: n of them, and n others for the floor."""

    classifier: Classifier
    count: int
    features: Tensor
    """(n, d)."""
    other_features: Tensor
    """(n, d), of the others."""
    other_probabilities: Tensor
    others: PictureSet
    seed: int
    _floor: dict[str, Any] | None = None

    @classmethod
    def of(cls, real: PictureSet, classifier: Classifier, count: int = MOST, seed: int = 0) -> "Reference":
        """At most `count` pictures and as many others, drawn without replacement; half of all if fewer.

        Raises InputError if the classifier reads pictures of another shape, or there are too few.
        """
        if classifier.shape != real.shape:
            raise InputError(f"classifier: trained on {classifier.shape}; {real.name} has {real.shape}")
        count = min(count, len(real) // 2)
        if count < FEWEST:
            raise InputError(f"{real.name}: {len(real)} real pictures; needed are {2 * FEWEST} and more")
        rows = np.random.default_rng(np.random.SeedSequence([seed, 81])).permutation(len(real))
        features, _ = classifier.read(to_tensor(real.x[rows[:count]]))
        others = real.take(rows[count : 2 * count])
        other_features, other_probabilities = classifier.read(to_tensor(others.x))
        return cls(classifier, count, features, other_features, other_probabilities, others, seed)

    def score(self, samples: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        """Figures of the first n samples (N, C, H, W) in [-1, 1]; InputError if they are fewer than n."""
        if len(samples) < self.count:
            raise InputError(f"samples: {len(samples)}; this reference has {self.count} pictures a side")
        features, probabilities = self.classifier.read(samples[: self.count])
        return self._figures(features, probabilities, None if labels is None else labels[: self.count])

    def floor(self) -> dict[str, Any]:
        """The same figures of the other real pictures."""
        if self._floor is None:
            labels = torch.from_numpy(self.others.y) if self.others.num_classes else None
            self._floor = self._figures(self.other_features, self.other_probabilities, labels)
        return self._floor

    def _figures(self, features: Tensor, probabilities: Tensor, labels: Tensor | None) -> dict[str, Any]:
        scale = self.features.square().mean().sqrt()  # the kernel is made for features of about 1
        kernel, error = kernel_distance(features / scale, self.features / scale, seed=self.seed)
        return {
            "classifier_fd": frechet(features, self.features),
            "classifier_kd": kernel,
            "classifier_kd_error": error,
            **dataclasses.asdict(manifolds(self.features, features)),
            **class_scores(probabilities, labels),
        }


def score_samples(
    samples: Tensor,
    real: PictureSet,
    classifier: Classifier,
    *,
    labels: Tensor | None = None,
    train: PictureSet | Library | None = None,
    most: int = MOST,
    seed: int = 0,
) -> dict[str, Any]:
    """All figures of samples (N, C, H, W) in [-1, 1] against real pictures, and the floor.

    `count` pictures a side: as many as there are samples, at most half the real ones, at most `most`. `real`
    are best pictures that the classifier was not trained on, as it reads those it was trained on too well.
    With `train`, distances to the nearest training pictures, too, against those of the real ones.
    `labels` (N,) are the classes that were asked for.

    Returns count, `samples` and `floor` (dictionaries of figures), and `memory` with `train`, unless `real`
    are training pictures themselves: their distances to these are 0, which is no measure. Raises InputError
    if shapes differ, samples are not finite, or there are too few.
    """
    check_samples(samples, real.shape)
    if labels is not None and len(labels) != len(samples):
        raise InputError(f"labels: {len(labels)} for {len(samples)} samples")
    reference = Reference.of(real, classifier, min(len(samples), most), seed)
    report: dict[str, Any] = {
        "count": reference.count,
        "real": f"{real.name}, {real.split}",
        "class_names": list(classifier.class_names),
        "samples": reference.score(samples, labels),
        "floor": reference.floor(),
    }
    if train is not None and real.split not in ("train", "all"):
        library = train if isinstance(train, Library) else Library.of(train, classifier)
        some = min(reference.count, 1000)
        truth = library.nearest(to_tensor(reference.others.x[:some]))
        report["memory"] = memorising(library.nearest(samples[:some]), truth)
    return report


def matching(names: Sequence[str], known: Sequence[str]) -> list[int]:
    """The numbers that classes of these names have among the `known` ones; a name may be a number itself.

    Raises InputError for a name that is neither.
    """
    numbers = []
    for name in names:
        if name in known:
            numbers.append(list(known).index(name))
        elif name.isdigit() and int(name) < len(known):
            numbers.append(int(name))
        else:
            raise InputError(f"samples of class '{name}': the classifier knows {', '.join(known)}")
    return numbers


def check_samples(samples: Tensor, shape: tuple[int, int, int]) -> None:
    """InputError unless samples are finite pictures of the shape, and enough to score."""
    if samples.ndim != 4 or tuple(samples.shape[1:]) != tuple(shape):
        raise InputError(f"samples {tuple(samples.shape)}; the data are pictures {tuple(shape)}")
    if len(samples) < FEWEST:
        raise InputError(f"samples: {len(samples)}; needed are {FEWEST} and more")
    if not samples.isfinite().all():
        raise InputError("samples: not all pixels are finite; the chains have diverged")


ROWS = {
    "classifier_fd": ("Frechet distance, classifier features", "lower is better"),
    "classifier_kd": ("kernel distance, classifier features", "0 is right"),
    "precision": ("precision", "as the floor"),
    "recall": ("recall", "as the floor"),
    "density": ("density", "as the floor"),
    "coverage": ("coverage", "as the floor"),
    "classifier_is": ("classifier IS", "as the floor"),
    "confident": (f"read with confidence > {CONFIDENT:g}", "as the floor"),
    "read_right": ("read as the class asked for", "as the floor"),
    "classes_lowest": ("rarest class, share", "as the floor"),
    "classes_highest": ("most frequent class, share", "as the floor"),
}
MEMORY_ROWS = {
    "pixel_distance": "median distance to the nearest training picture, pixels",
    "feature_distance": "the same, classifier features",
    "copies_pixel": "nearer than the nearest 1 % of truth, pixels",
    "copies_feature": "the same, classifier features",
}


def table(report: Mapping[str, Any]) -> str:
    """The report in Markdown: each figure of the samples beside the floor."""
    lines = [["figure", "samples", "truth against truth", "reading"], ["---", "---:", "---:", "---"]]
    for key, (name, reading) in ROWS.items():
        if key in report["samples"]:
            floor = report["floor"].get(key)
            lines.append([name, _number(report["samples"][key]), _number(floor), reading])
    if "memory" in report:
        memory = report["memory"]
        for key, name in MEMORY_ROWS.items():
            floor = memory.get(f"{key}_truth", 0.01)
            reading = "not lower" if key.endswith("distance") else "not much higher"
            lines.append([name, _number(memory[key]), _number(floor), reading])
    for key, value in report.get("inception", {}).items():
        lines.append([f"{key.upper()}, Inception network", _number(value), "", ""])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def save_report(report: Mapping[str, Any], path: Path) -> None:
    """Write the report as JSON, whole or not at all."""
    from ebm_traj.atomic import write_atomically

    write_atomically(path, json.dumps(report, indent=1) + "\n")
