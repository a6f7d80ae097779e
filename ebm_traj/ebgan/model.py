"""A generator and its discriminator as one model: energy-based GAN or binary GAN, saved and loaded."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ebm_traj.core.checkpoint import load_json, load_tensors, save_json, save_tensors
from ebm_traj.core.seeding import seeded_generator
from ebm_traj.ebgan.convolutional import ConvAutoEncoder, ConvDiscriminator, ConvGenerator
from ebm_traj.ebgan.energies import AutoEncoderEnergy, DiscriminatorEnergy, Distance
from ebm_traj.ebgan.fully_connected import FCAutoEncoder, FCDiscriminator, FCGenerator
from ebm_traj.ebgan.layers import DISCRIMINATOR_STD, GENERATOR_STD, calibrate, first_weights
from ebm_traj.ebgan.losses import (
    Decay,
    MarginSchedule,
    binary_discriminator_loss,
    binary_generator_loss,
    margin_loss,
    pull_away,
)
from ebm_traj.errors import InputError

CONFIG_FILE, WEIGHTS_FILE = "ebgan.json", "weights.safetensors"
FORMAT, FORMAT_VERSION = "ebm_traj.ebgan", 1
MNIST_MARGIN, MNIST_PIXELS = 10.0, 784
CALIBRATION_ROWS = 256
CALIBRATION_BATCHES = 4
DRAWN_AT_ONCE = 500

Loss = Literal["ebgan", "gan"]
Networks = Literal["fc", "conv"]
Shape = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Generator and discriminator."""

    kind: Networks = "fc"
    """fc: fully connected, any size. conv: convolutional, squares of 8 to 256 pixels."""
    latent: int = 100
    """Normal numbers that the generator makes a picture of."""
    layers_generator: int = 3
    """Weight layers (fc)."""
    width_generator: int = 800
    """Units of its hidden layers (fc)."""
    layers_discriminator: int = 3
    """Weight layers (fc); of an auto-encoder, the last is the decoder and the others the encoder."""
    width_discriminator: int = 512
    """Units of its hidden layers (fc)."""
    channels: int = 64
    """Channels of the narrowest convolutional layers; 64 as published."""
    dropout: bool = False
    """Dropout of one half in the discriminator."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Networks):
            raise InputError(f"network kind: '{self.kind}'; accepted are {', '.join(get_args(Networks))}")
        for name in ("layers_generator", "layers_discriminator"):
            if getattr(self, name) < 2:
                raise InputError(f"{name.replace('_', ' ')}: {getattr(self, name)}; accepted are 2 and more")
        for name in ("latent", "width_generator", "width_discriminator", "channels"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', ' ')}: {getattr(self, name)}; accepted are 1 and more")


@dataclasses.dataclass(frozen=True)
class AdversarialConfig:
    """What is trained; the grid's middle by default."""

    loss: Loss = "ebgan"
    """ebgan: the discriminator is an auto-encoder whose error is the energy. gan: a binary classifier."""
    pull_away: float = 0.1
    """Weight of the pull-away term in the generator's loss (EBGAN-PT: 0.1; EBGAN: 0); not in a gan."""
    margin: float | None = None
    """Margin at the start. None: 10 for MNIST's 784 numbers (as published), else as the root of their count.
    Published for 64 px 80 (LSUN) and 20 (CelebA), for 128 px 40, for 256 px 80."""
    margin_decay: Decay = "constant"
    """constant, or linear to `margin_final`."""
    margin_over: float = 1.0
    """Share of the iterations after which the margin has fallen."""
    margin_final: float = 0.0
    """Where the margin falls to."""
    distance: Distance = "norm"
    """Of an auto-encoder's energy: Euclidean norm over all pixels (as published), or mean squared error."""
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)

    def __post_init__(self) -> None:
        if self.loss not in get_args(Loss):
            raise InputError(f"loss: '{self.loss}'; accepted are {', '.join(get_args(Loss))}")
        if not self.pull_away >= 0:
            raise InputError(f"pull-away: {self.pull_away}; accepted are 0 and more")
        if self.distance not in get_args(Distance):
            raise InputError(f"distance: '{self.distance}'; accepted are {', '.join(get_args(Distance))}")
        self.schedule((1, 28, 28))

    def schedule(self, shape: Shape) -> MarginSchedule:
        """The margin over the training, for pictures (C, H, W)."""
        margin = self.margin
        if margin is None and self.distance == "norm":
            margin = MNIST_MARGIN * math.sqrt(math.prod(shape) / MNIST_PIXELS)
        elif margin is None:
            margin = MNIST_MARGIN**2 / MNIST_PIXELS  # the same, of a pixel
        return MarginSchedule(margin, self.margin_decay, self.margin_over, self.margin_final)


class AdversarialModel(nn.Module):
    """Generator and discriminator; `energy` is the discriminator as an energy of the core."""

    energy: AutoEncoderEnergy | DiscriminatorEnergy

    def __init__(self, config: AdversarialConfig, shape: Shape, seed: int = 0) -> None:
        """`shape` (C, H, W) of the pictures; the first weights are drawn by `seed`."""
        super().__init__()
        self.config, self.shape = config, shape
        self.card: dict[str, Any] = {}
        """What is known of the training."""
        net = config.network
        auto_encoder = config.loss == "ebgan"
        discriminator: nn.Module
        if net.kind == "conv":
            self.generator: nn.Module = ConvGenerator(shape, net.latent, net.channels)
            kind = ConvAutoEncoder if auto_encoder else ConvDiscriminator
            discriminator = kind(shape, net.channels, net.dropout)
        else:
            self.generator = FCGenerator(shape, net.latent, net.layers_generator, net.width_generator)
            fc = FCAutoEncoder if auto_encoder else FCDiscriminator
            discriminator = fc(shape, net.layers_discriminator, net.width_discriminator, net.dropout)
        self.energy = (
            AutoEncoderEnergy(discriminator, config.distance)
            if auto_encoder
            else DiscriminatorEnergy(discriminator)
        )
        first_weights(self.generator, GENERATOR_STD, seeded_generator("cpu", seed, "generator"))
        first_weights(self.energy, DISCRIMINATOR_STD, seeded_generator("cpu", seed, "discriminator"))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.parameters()).device

    def noise(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """(count, latent) what pictures are made of."""
        z = torch.empty(count, self.config.network.latent, device=self.device)
        return z.normal_(generator=generator)

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """(count, C, H, W) generated pictures in [-1, 1]."""
        sizes = [min(DRAWN_AT_ONCE, count - at) for at in range(0, count, DRAWN_AT_ONCE)]
        return torch.cat([self.generator(self.noise(size, generator)) for size in sizes])

    def discriminator_loss(
        self, real: Tensor, fake: Tensor, margin: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's loss on data and detached samples (B, C, H, W); figures to log."""
        # apart, as batch norm would mix their statistics
        energy_real, energy_fake = self.energy(real), self.energy(fake)
        figures = {"energy_data": energy_real.detach().mean(), "energy_samples": energy_fake.detach().mean()}
        if self.config.loss == "gan":
            return binary_discriminator_loss(energy_real, energy_fake), figures
        figures["within_margin"] = (energy_fake.detach() < margin).float().mean()
        return margin_loss(energy_real, energy_fake, margin), figures

    def generator_loss(self, fake: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's loss on its samples, not detached; figures to log."""
        if isinstance(self.energy, DiscriminatorEnergy):
            return binary_generator_loss(self.energy(fake)), {}
        energy, codes = self.energy.with_codes(fake)
        if not self.config.pull_away:
            return energy.mean(), {}
        alike = pull_away(codes)
        return energy.mean() + self.config.pull_away * alike, {"pull_away": alike.detach()}

    def settle(self, data: Tensor | None, generator: torch.Generator) -> None:
        """Set the running statistics of both networks for evaluation, see `layers.calibrate`.

        The discriminator's to those of `data` (N, C, H, W): its energy is then that of the data's side.
        """
        calibrate(
            self.generator, (self.noise(CALIBRATION_ROWS, generator) for _ in range(CALIBRATION_BATCHES))
        )
        if data is not None:
            calibrate(self.energy, data.split(CALIBRATION_ROWS))

    def save(self, folder: Path) -> None:
        """Write the model to `folder`: JSON and safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / WEIGHTS_FILE, self.state_dict(), {})
        content = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "config": dataclasses.asdict(self.config),
            "shape": list(self.shape),
            "card": self.card,
        }
        save_json(folder / CONFIG_FILE, json.loads(json.dumps(content)))


def load_adversarial(folder: str | Path, device: torch.device | str = "cpu") -> AdversarialModel:
    """The model saved in `folder`, in evaluation mode; InputError if there is none or it is damaged."""
    folder = Path(folder)
    saved = load_json(folder / CONFIG_FILE)
    if not isinstance(saved, dict) or saved.get("format") != FORMAT or saved["version"] != FORMAT_VERSION:
        raise InputError(
            f"{folder / CONFIG_FILE}: not an EBGAN of this package, format {FORMAT} {FORMAT_VERSION}"
        )
    config = config_from(saved["config"])
    channels, height, width = saved["shape"]
    model = AdversarialModel(config, (channels, height, width))
    weights, _ = load_tensors(folder / WEIGHTS_FILE)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{folder / WEIGHTS_FILE}: weights do not fit {CONFIG_FILE} ({str(error).splitlines()[0]})"
        ) from error
    model.card = saved["card"]
    return model.to(device).eval().requires_grad_(False)


def config_from(saved: dict[str, Any]) -> AdversarialConfig:
    """The configuration that `dataclasses.asdict` gave, after a trip through JSON."""
    return AdversarialConfig(**{**saved, "network": NetworkConfig(**saved["network"])})
