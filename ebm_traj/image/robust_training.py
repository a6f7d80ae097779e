"""What an energy classifier is held against: its own network, trained ordinarily or under attack."""

import dataclasses
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ebm_traj.core.seeding import derive_seed
from ebm_traj.datasets.pictures import PictureSet
from ebm_traj.errors import InputError
from ebm_traj.image.classifier import Augmentation, ClassifierConfig
from ebm_traj.image.classifier_training import TRAINER, accuracy, train_classifier
from ebm_traj.image.model import ImageModel
from ebm_traj.image.same_network import SameNetwork, training_attack


@dataclasses.dataclass(frozen=True)
class BaselineConfig:
    """How the two are trained."""

    iterations: int = 1500
    """Steps of the ordinary classifier."""
    adversarial_iterations: int = 1500
    """Steps of the adversarially trained one, each of which costs `steps` + 1 times as much."""
    batch_size: int = 128
    learning_rate: float = 2e-3
    augmentation: Augmentation = "none"
    """Of both; energies of `train_image.py` are trained without by default."""
    radius: float = 0.3
    """Of the l-inf attack trained on, in units of pixels in [0, 1]."""
    steps: int = 4
    """Of that attack; 1 is the fast kind (Wong et al. 2020)."""
    smaller: float = 0.5
    """Share of the pictures whose radius is drawn uniformly below `radius`. With 0 and a wide radius the
    training often stands still for long at the first step; a share of smaller ones is a gradient to go by."""
    bfloat16: bool = False
    """Multiply in that precision, in the search as in the step; validation is in full precision."""
    sigma: float | None = None
    """Noise level the network is told; None takes the model's lowest. No noise is added."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("iterations", "adversarial_iterations", "batch_size", "steps"):
            if getattr(self, name) < 1:
                raise InputError(f"baseline {name}: {getattr(self, name)}; accepted are 1 and more")
        if not self.radius > 0:
            raise InputError(f"baseline radius: {self.radius}; it must be above 0")
        if not 0 <= self.smaller <= 1:
            raise InputError(f"baseline smaller: {self.smaller}; accepted is 0 to 1")


def train_baseline(
    model: ImageModel,
    train: PictureSet,
    validation: PictureSet,
    out: Path,
    config: BaselineConfig,
    *,
    adversarial: bool,
    start: SameNetwork | None = None,
    device: str = "cpu",
) -> SameNetwork:
    """A classifier with the network of `model`, saved in `out`; an interrupted training there goes on.

    The weights kept are those of the best accuracy on `validation`, of clean pictures for the ordinary one;
    the adversarially trained one keeps its last ones, as clean accuracy would choose the least robust.
    Training begins at the weights of `start`, if given: under a wide attack from the first step on nothing is
    learnt for long.
    """
    if model.lowest_level is None:
        raise InputError("baseline: the model has no noise levels; accepted is one of training by denoising")
    sigma = model.lowest_level if config.sigma is None else config.sigma
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "baseline", int(adversarial)))
        network = SameNetwork(
            model.config.network,
            train.shape,
            train.num_classes,
            sigma,
            mean=cast(Tensor, model.energy.mean).cpu(),
            std=float(cast(Tensor, model.energy.std)),
        )
    if start is not None:
        network.load_state_dict(start.state_dict())
    iterations = config.adversarial_iterations if adversarial else config.iterations
    trainer = dataclasses.replace(
        TRAINER,
        iterations=iterations,
        learning_rate=config.learning_rate,
        warmup=min(100, iterations),
        validate_every=0 if adversarial else max(1, iterations // 6),
        checkpoint_every=200,
        keep="last" if adversarial else "best",
        seed=config.seed,
    )
    attack = training_attack(config.radius, config.steps, config.smaller, config.bfloat16)
    trained, report = train_classifier(
        *(train, validation, _settings(config), trainer, out),
        network=network,
        adversarial=attack if adversarial else None,
        bfloat16=config.bfloat16,
        identity={
            "baseline": dataclasses.asdict(config),
            "adversarial": adversarial,
            "start": start is not None,
        },
        device=device,
        resume=True,
    )
    card = {
        "adversarial": adversarial,
        "settings": dataclasses.asdict(config),
        "cpu_seconds": report.cpu_seconds,
        "iterations": report.iterations,
        "validation_accuracy": accuracy(trained, validation, device),
    }
    trained.save(out, card)
    return trained


def _settings(config: BaselineConfig) -> ClassifierConfig:
    return ClassifierConfig(augmentation=config.augmentation, batch_size=config.batch_size)
