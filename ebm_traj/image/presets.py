"""Settings by name: the project's own runs, and those of the literature, each saying its source."""

import dataclasses
from typing import Literal

from ebm_traj.core.annealing import AnnealConfig
from ebm_traj.core.contrastive import ContrastiveConfig
from ebm_traj.core.denoising import DenoisingConfig
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.trainer import TrainerConfig
from ebm_traj.errors import InputError
from ebm_traj.image.model import ImageConfig
from ebm_traj.image.networks import NetworkConfig

Change = Literal["shift", "flip", "blur"]
"""Augmentations by name."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """A run: what is trained, how, on what."""

    source: str
    """Where the settings come from, and what differs from there."""
    config: ImageConfig
    """Of the model."""
    trainer: TrainerConfig
    """Of the loop."""
    data: str = "digits"
    """What the run is on where no other data are named."""
    size: int | None = None
    """Side of the pictures; None: as they are."""
    augment: tuple[Change, ...] = ()
    """What is done to data, see `image.training`."""
    transitions: tuple[Change, ...] = ()
    """What is done to a share `config.augment` of the replayed chains."""


def published_chain(steps: int, step: float, clip: float | None, noise: float = 0.005) -> LangevinConfig:
    """The chain of a source whose pixels lie in [0, 1], for pixels in [-1, 1].

    With x = 2 z - 1: dE/dx = dE/dz / 2, dx = 2 dz, hence four times the step, half the clip, twice the noise.
    """
    half = None if clip is None else clip / 2
    return LangevinConfig(steps=steps, step_size=4 * step, noise=2 * noise, clip=half)


def published(
    network: NetworkConfig,
    chain: LangevinConfig,
    batch_size: int,
    *,
    conditional: bool = False,
    **more: object,
) -> ImageConfig:
    """Du & Mordatch 2019: buffer of 10,000, 5 % fresh chains, weight 1 of the energies' L2, no KL term."""
    contrastive = ContrastiveConfig(
        batch_size=batch_size,
        langevin=chain,
        buffer_size=10_000,
        replay_fraction=0.95,
        energy_regularisation=1.0,
    )
    return ImageConfig(
        network=network,
        training="contrastive",
        conditional=conditional,
        contrastive=dataclasses.replace(contrastive, **more),  # type: ignore[arg-type]
        generation=chain,
    )


def published_trainer(iterations: int) -> TrainerConfig:
    """Adam(0, 0.999) at 3e-4, each element of the gradient held to 3 sigma; averaged weights of 0.999."""
    return TrainerConfig(
        iterations=iterations,
        learning_rate=3e-4,
        warmup=1,
        final_learning_rate=1.0,
        betas=(0.0, 0.999),
        gradient_clip=1e6,
        element_clip=3.0,
        ema_decay=0.999,
        checkpoint_every=1000,
        validate_every=2000,
        keep="last",
    )


DENOISING = DenoisingConfig(
    batch_size=64, sigma_min=0.02, sigma_max=20.0, log_sigma_mean=-0.3, log_sigma_std=1.2
)
ANNEALING = AnnealConfig(steps=24, sigma_max=15.0, sigma_min=0.03, rho=5.0, solver="multistep")

DIGITS = Preset(
    source="ebm_traj: denoising score matching, the energy of an auto-encoder; two minutes on one core",
    config=ImageConfig(
        network=NetworkConfig(channels=(32, 48), patch=1, mixing=1),
        conditional=True,
        classification=0.1,
        denoising=DENOISING,
        annealing=ANNEALING,
    ),
    trainer=TrainerConfig(
        iterations=1200,
        learning_rate=3e-3,
        final_learning_rate=0.02,
        betas=(0.9, 0.99),
        gradient_clip=1.0,
        ema_decay=0.995,
        validate_every=300,
    ),
    data="digits",
)

MNIST = Preset(
    source=(
        "ebm_traj: denoising score matching of the energy of an auto-encoder, with and without the class; "
        "levels are drawn mostly where the strokes of a digit are decided, 1 to 5; samples are sharpened "
        "(--sharpness 1 gives the density as it is), by a factor chosen on held-out pictures"
    ),
    config=ImageConfig(
        network=NetworkConfig(channels=(32, 128), mixing=2, middle=1),
        conditional=True,
        label_dropout=0.9,
        classification=0.1,
        denoising=dataclasses.replace(DENOISING, batch_size=32, log_sigma_mean=0.5, log_sigma_std=1.1),
        bfloat16=True,
        annealing=dataclasses.replace(ANNEALING, sharpness=1.4, sharp_below=3.0),
    ),
    trainer=TrainerConfig(
        iterations=8000,
        learning_rate=2e-3,
        warmup=200,
        final_learning_rate=0.01,
        betas=(0.9, 0.99),
        gradient_clip=1.0,
        ema_decay=0.999,
        checkpoint_every=250,
        validate_every=2000,
        keep="last",
    ),
    data="mnist",
)

CIFAR10_ANNEALED = Preset(
    source=(
        "ebm_traj: the energy of `mnist` at 32 x 32 in colour, for about 20 minutes of one recent GPU; by "
        "arithmetic, not yet run at length"
    ),
    config=ImageConfig(
        network=NetworkConfig(channels=(128, 256, 256), patch=1, blocks=2, mixing=2, middle=1, embedding=256),
        conditional=True,
        label_dropout=0.5,
        denoising=dataclasses.replace(
            DENOISING, batch_size=256, sigma_max=40.0, log_sigma_mean=-0.8, log_sigma_std=1.2
        ),
        bfloat16=True,
        annealing=AnnealConfig(steps=36, sigma_max=30.0, sigma_min=0.02, rho=7.0, solver="heun"),
    ),
    trainer=TrainerConfig(
        iterations=24_000,
        learning_rate=1e-3,
        warmup=500,
        final_learning_rate=0.01,
        betas=(0.9, 0.99),
        gradient_clip=1.0,
        ema_decay=0.9995,
        checkpoint_every=1000,
        validate_every=4000,
        keep="last",
    ),
    data="cifar10",
    augment=("flip",),
)

TUTORIAL_CHAIN = LangevinConfig(steps=60, step_size=10.0, noise=0.005, clip=0.03)
TUTORIAL = Preset(
    source=(
        "P. Lippe, UvA deep learning tutorial 8 (deep energy-based models), also of PyTorch Lightning; there "
        "the noise of a step comes before its gradient"
    ),
    config=ImageConfig(
        network=NetworkConfig(kind="conv", channels=(16, 32, 64, 64), dense=64),
        training="contrastive",
        contrastive=ContrastiveConfig(
            batch_size=128,
            langevin=TUTORIAL_CHAIN,
            buffer_size=8192,
            replay_fraction=0.95,
            energy_regularisation=0.1,
        ),
        generation=dataclasses.replace(TUTORIAL_CHAIN, steps=256),
        data_noise=0.005,
    ),
    trainer=TrainerConfig(
        iterations=28_080,  # 60 epochs of 468 whole batches
        learning_rate=1e-4,
        warmup=1,
        final_learning_rate=0.97**60,
        schedule="exponential",
        betas=(0.0, 0.999),
        gradient_clip=0.1,
        ema_decay=0.0,
        checkpoint_every=468,
        validate_every=468 * 2,
        keep="last",
    ),
    data="mnist",
)

LARGE = NetworkConfig(
    kind="residual",
    channels=(128,) * 3 + (256,) * 3 + (512,) * 3,
    downsample=(0, 3, 6),
    activation="leaky_relu",
    spectral_norm=True,
)
CIFAR10 = Preset(
    source="1903.08689 and its code, --large_model: unconditional, nine blocks of 128, 256, 512",
    config=published(LARGE, published_chain(60, 10.0, 0.01), 128),
    trainer=published_trainer(121_200),
    data="cifar10",
)
CIFAR10_COND = Preset(
    source="1903.08689 and its code, --cclass: six blocks of 128 and 256",
    config=published(
        dataclasses.replace(LARGE, channels=(128,) * 2 + (256,) * 4, downsample=(0, 2, 4)),
        published_chain(60, 10.0, 0.01),
        128,
        conditional=True,
    ),
    trainer=published_trainer(74_700),
    data="cifar10",
)
CIFAR10_IMPROVED = Preset(
    source=(
        "2012.01316 and its code (Improved Contrastive Divergence): KL through the last step, entropy, "
        "augmentation as buffer transitions (here shift, flip, blur), three scales, attention"
    ),
    config=dataclasses.replace(
        published(
            dataclasses.replace(
                LARGE,
                channels=(128, 128, 256, 256, 256, 256),
                downsample=(0, 2, 4),
                activation="silu",
                attention=(1,),
                scales=3,
                spectral_norm=False,
            ),
            published_chain(40, 100.0, None, noise=0.001),
            128,
            kl=1.0,
            entropy=0.3,
            replay_fraction=0.98,  # 0.1 % fresh in the source: less than one of 128 rows
        ),
        augment=0.3,
    ),
    trainer=dataclasses.replace(
        published_trainer(100_000),
        learning_rate=2e-4,
        betas=(0.0, 0.9),
        gradient_clip=0.5,
        element_clip=0.0,
        ema_decay=0.99,
        energy_limit=10.0,
    ),
    data="cifar10",
    augment=("flip",),
    transitions=("shift", "flip", "blur"),
)
IMAGENET32_COND = Preset(
    source="1903.08689 and its code, --wider_model --cclass: nine blocks of 256, 512, 1024",
    config=published(
        dataclasses.replace(LARGE, channels=(256,) * 3 + (512,) * 3 + (1024,) * 3, stem=128),
        published_chain(60, 10.0, 0.01),
        32,
        conditional=True,
    ),
    trainer=published_trainer(1_000_000),
    data="imagenet32",
    size=32,
)
IMAGENET128_COND = Preset(
    source="1903.08689 and its code, --swish_act --cclass: blocks of 64 to 1024; no clip of the gradient",
    config=published(
        dataclasses.replace(
            LARGE,
            channels=(64, 128, 256, 512, 1024, 1024),
            downsample=(0, 1, 2, 3, 4),
            stem=64,
            activation="silu",
        ),
        published_chain(50, 100.0, None),
        16,
        conditional=True,
    ),
    trainer=published_trainer(2_238_000),
    data="imagenet128",
    size=128,
)
DSPRITES = Preset(
    source=(
        "1903.08689 and its code, dSprites: swish, four convolutions of stride 2, dense 128; here the first "
        "convolution has stride 2 as well"
    ),
    config=published(
        NetworkConfig(kind="conv", channels=(64, 128, 128, 128), dense=128),
        published_chain(20, 500.0, None),
        256,
    ),
    trainer=published_trainer(100_000),
    data="sprites",
    size=64,
)

PRESETS: dict[str, Preset] = {
    "digits": DIGITS,
    "mnist": MNIST,
    "mnist-tutorial": TUTORIAL,
    "cifar10-annealed": CIFAR10_ANNEALED,
    "cifar10": CIFAR10,
    "cifar10-cond": CIFAR10_COND,
    "cifar10-improved": CIFAR10_IMPROVED,
    "imagenet32-cond": IMAGENET32_COND,
    "imagenet128-cond": IMAGENET128_COND,
    "dsprites": DSPRITES,
}


def preset(name: str) -> Preset:
    """The preset of this name; InputError names those there are."""
    if name not in PRESETS:
        raise InputError(f"preset: '{name}'; accepted are {', '.join(PRESETS)}")
    return PRESETS[name]
