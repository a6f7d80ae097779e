"""Pictures whose density is known in closed form, and small models in folders."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch


class GaussianPictures:
    """A model with p(x) = N(mean, covariance) of flattened pictures (C, H, W); at level s plus s^2."""

    num_classes = 0
    device = torch.device("cpu")

    def __init__(self, shape, mean, covariance, has_levels=True):
        self.shape, self.has_levels = shape, has_levels
        self.flat_mean, self.covariance = mean, covariance
        self.values, self.vectors = torch.linalg.eigh(covariance)

    def energy_at(self, sigma=None, labels=None):
        level = torch.zeros(1, dtype=self.flat_mean.dtype) if sigma is None else sigma.view(-1, 1)

        def energy(x):
            away = (x.flatten(1).double() - self.flat_mean) @ self.vectors
            return 0.5 * (away**2 / (self.values + level.view(-1, 1) ** 2)).sum(1)

        return energy

    def given(self, matrix, seen, noise):
        """Mean (n,) and covariance (n, n) of x given matrix @ x + noise = seen."""
        spread = matrix @ self.covariance @ matrix.T + noise**2 * torch.eye(len(matrix), dtype=matrix.dtype)
        gain = self.covariance @ matrix.T @ torch.linalg.inv(spread)
        mean = self.flat_mean + gain @ (seen - matrix @ self.flat_mean)
        return mean, self.covariance - gain @ matrix @ self.covariance


def make_smooth_pictures(shape=(1, 4, 4), length=1.5, spread=0.5, has_levels=True):
    """Gaussian pictures whose pixels are alike where they are near: exp(-d^2 / 2 length^2)."""
    channels, high, wide = shape
    rows, columns = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
    at = torch.stack([rows, columns], -1).view(-1, 2).double()
    near = torch.exp(-0.5 * torch.cdist(at, at) ** 2 / length**2)
    one = spread**2 * (near + 0.05 * torch.eye(high * wide).double())
    covariance = torch.block_diag(*[one] * channels)
    mean = torch.linspace(-0.3, 0.3, channels * high * wide).double()
    return GaussianPictures(shape, mean, covariance, has_levels)


@pytest.fixture(scope="session")
def smooth_pictures() -> Callable[..., GaussianPictures]:
    """Makes a model of Gaussian pictures: (shape, length, spread, has_levels)."""
    return make_smooth_pictures


class ClassPictures:
    """A model with classes: p(x | y) = N(means[y], spread^2) in each pixel, at level s plus s^2."""

    device = torch.device("cpu")

    def __init__(self, means, spread=0.2, has_levels=True):
        self.means, self.spread, self.has_levels = means, spread, has_levels
        self.shape, self.num_classes = tuple(means.shape[1:]), len(means)

    def energy_at(self, sigma=None, labels=None):
        level = torch.zeros(1) if sigma is None else sigma

        def energy(x):
            squares = (x[:, None] - self.means).square().flatten(2).sum(2)
            each = squares / (2 * (self.spread**2 + level.view(-1, 1) ** 2))
            if labels is None:
                return -torch.logsumexp(-each, 1)
            return each.gather(1, labels[:, None])[:, 0]

        return energy


@pytest.fixture(scope="session")
def class_pictures() -> Callable[..., ClassPictures]:
    """Makes a model of classes of pictures: (means (K, C, H, W), spread, has_levels)."""
    return ClassPictures


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of models of digits and of a classifier, all hardly or not trained."""
    from ebm_traj.core.annealing import AnnealConfig
    from ebm_traj.core.langevin import LangevinConfig
    from ebm_traj.image.classifier import Classifier, ClassifierConfig
    from ebm_traj.image.model import ImageConfig, ImageModel
    from ebm_traj.image.networks import NetworkConfig

    root = tmp_path_factory.mktemp("tiny")
    unet = NetworkConfig(channels=(4, 8), patch=2, embedding=8)
    annealing = AnnealConfig(steps=4, sigma_max=3.0, sigma_min=0.05, solver="multistep")
    config = ImageConfig(network=unet, annealing=annealing)
    conv = ImageConfig(
        network=NetworkConfig(kind="conv", channels=(4, 4), dense=4),
        training="contrastive",
        generation=LangevinConfig(steps=4, step_size=1.0, noise=0.01),
    )
    settings = {
        "conditional": dataclasses.replace(config, conditional=True),
        "other": dataclasses.replace(config, conditional=True),
        "unconditional": config,
        "chain": conv,
    }
    names = tuple("0123456789")
    for name, chosen in settings.items():
        torch.manual_seed(len(name))
        model = ImageModel(chosen, (1, 8, 8), 10, std=0.6, class_names=names)
        model.save(root / name)
    torch.manual_seed(0)
    Classifier((1, 8, 8), 10, ClassifierConfig(width=4, features=8), names).save(root / "classifier")
    return {name: root / name for name in (*settings, "classifier")}
