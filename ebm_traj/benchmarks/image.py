"""A step of contrastive divergence on pictures, each library in its own way: ours, plain PyTorch, torchebm.

All have the tutorial's network with the same weights (`image.conv`). A step walks `batch` chains for the same
number of Langevin steps, 5 % of them from new noise (torchebm: with new noise on old chains) and the others
from a full replay buffer, writes their ends back, takes the energies of as many rows of data and of samples,
and makes one step of Adam. Ours is the objective as the trainer calls it: its chains also keep pixels within
bounds, and its figures for the log are computed.
"""

import dataclasses
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from ebm_traj.benchmarks.chain import OURS, PLAIN, TORCHEBM, torchebm_model, torchebm_sampler
from ebm_traj.benchmarks.paired import (
    Absent,
    Builder,
    Contender,
    Row,
    gather,
    markdown,
    measure,
    require_positive,
    rows_of,
)
from ebm_traj.benchmarks.train import LEARNING_RATE, NEW, Step, step_of
from ebm_traj.core import backends
from ebm_traj.core.contrastive import ContrastiveConfig
from ebm_traj.core.langevin import LangevinConfig
from ebm_traj.core.objectives import Batch
from ebm_traj.errors import InputError
from ebm_traj.image.conv import ConvEnergy
from ebm_traj.image.networks import NetworkConfig
from ebm_traj.image.objectives import PictureContrastive

REGULARISATION = 0.1

__all__ = ["LEARNING_RATE", "PictureResult", "PictureSettings", "benchmark_image", "image_builders"]


@dataclasses.dataclass(frozen=True)
class PictureSettings:
    """The step of training that is timed; the defaults are the tutorial's on MNIST."""

    batch: int = 128
    """Rows of data, and chains."""
    side: int = 28
    """Pixels of a side of the pictures, of one channel."""
    channels: tuple[int, ...] = (16, 32, 64, 64)
    """Of the convolutions."""
    dense: int = 64
    """Units of the hidden layer after them."""
    steps: int = 60
    """Steps of the chain."""
    step_size: float = 1e-4
    """Factor of the gradient; the noise belongs to it."""
    buffer: int = 8192
    """Slots of the replay buffer."""
    data: int = 10_000
    """Pictures of the data set."""

    def __post_init__(self) -> None:
        for name in ("batch", "side", "dense", "steps", "buffer", "data"):
            require_positive(name, getattr(self, name))
        if self.buffer < self.batch:
            raise InputError(f"--buffer {self.buffer}: it must hold a batch of {self.batch}")
        if not self.step_size > 0:
            raise InputError(f"--step-size {self.step_size}: it must be above 0")
        if not self.channels or min(self.channels) < 1:
            raise InputError(f"--channels {self.channels}: accepted are one or more, each 1 and more")


@dataclasses.dataclass(frozen=True)
class PictureResult:
    """What was found."""

    settings: PictureSettings
    rows: list[Row]
    absent: list[Absent]

    def text(self) -> str:
        """Markdown."""
        s = self.settings
        layers = "-".join(map(str, [*s.channels, s.dense, 1]))
        title = f"step on pictures {s.side}x{s.side}, batch {s.batch}, {s.steps} steps, convolutions {layers}"
        return markdown(self.rows, self.absent, title=title)


def benchmark_image(
    settings: PictureSettings,
    *,
    rounds: int = 10,
    device: torch.device | str = "cpu",
    block_seconds: float = 0.1,
    seed: int = 0,
) -> PictureResult:
    """All rows; see the module."""
    require_positive("rounds", rounds)
    contenders, absent = gather(list(image_builders(settings, device, seed).values()))
    times = measure(contenders, rounds=rounds, block_seconds=block_seconds, device=device, seed=seed)
    return PictureResult(settings, rows_of(times, contenders), absent)


def image_builders(settings: PictureSettings, device: torch.device | str, seed: int) -> dict[str, Builder]:
    """A builder for each step of training by its name, ours first; all read the same data."""
    generator = torch.Generator().manual_seed(seed)
    data = torch.rand(settings.data, 1, settings.side, settings.side, generator=generator)
    data = data.mul_(2).sub_(1).to(device)
    made: dict[str, tuple[Callable[[], Step], bool]] = {
        OURS: (lambda: our_step(settings, data, seed), False),
        f"{OURS}, autograd": (lambda: autograd_step(settings, data, seed), False),
        PLAIN: (lambda: plain_step(settings, data, seed), False),
        TORCHEBM: (lambda: torchebm_step(settings, data, seed), True),
    }

    def builder(name: str, make: Callable[[], Step], optional: bool) -> Builder:
        return Builder(name, lambda: Contender(name, make()), optional)

    return {name: builder(name, make, optional) for name, (make, optional) in made.items()}


def our_step(settings: PictureSettings, data: Tensor, seed: int) -> Step:
    """`PictureContrastive` as the trainer calls it, its figures for the log included."""
    energy = _energy(settings, data, seed)
    objective = PictureContrastive(
        energy,
        energy.shape,
        ContrastiveConfig(
            batch_size=settings.batch,
            langevin=LangevinConfig(steps=settings.steps, step_size=settings.step_size),
            buffer_size=settings.buffer,
            replay_fraction=1 - _new(settings) / settings.batch,
            energy_regularisation=REGULARISATION,
        ),
    ).to(data.device)
    objective.buffer.add({"chain": _noise(settings, data, settings.buffer)})
    generator = torch.Generator(data.device).manual_seed(seed)
    return step_of(lambda: objective(Batch(_rows(settings, data), {}), generator)[0], energy)


def autograd_step(settings: PictureSettings, data: Tensor, seed: int) -> Step:
    """The same without the written-out gradient."""
    step = our_step(settings, data, seed)

    def run() -> Tensor:
        with backends.use("autograd"):
            return step()

    return run


def plain_step(settings: PictureSettings, data: Tensor, seed: int) -> Step:
    """The loop of the tutorial, with a buffer that is a tensor."""
    net = _plain(settings, data, seed)
    buffer = _noise(settings, data, settings.buffer)
    new, spread = _new(settings), (2 * settings.step_size) ** 0.5

    def loss() -> Tensor:
        slots = torch.randint(settings.buffer, (settings.batch,), device=data.device)
        x = buffer[slots]
        x[:new] = _noise(settings, data, new)
        for _ in range(settings.steps):
            x.requires_grad_(True)
            (gradient,) = torch.autograd.grad(net(x).sum(), x)
            x = x.detach() - settings.step_size * gradient + spread * torch.randn_like(x)
            x = x.clamp(-1, 1)
        buffer[slots] = x
        positive, negative = net(_rows(settings, data)), net(x)
        size = (positive**2).mean() + (negative**2).mean()
        return positive.mean() - negative.mean() + REGULARISATION * size

    return step_of(loss, net)


def torchebm_step(settings: PictureSettings, data: Tensor, seed: int) -> Step:
    """torchebm's persistent contrastive divergence. It has no chains that start anew: to 5 % of the replayed
    ones it adds noise."""
    from torchebm.losses import ContrastiveDivergence

    model = torchebm_model(_plain(settings, data, seed), data.device)
    objective = ContrastiveDivergence(
        model,
        torchebm_sampler(model, settings.step_size, data.device),
        k_steps=settings.steps,
        persistent=True,
        buffer_size=settings.buffer,
        init_steps=0,
        new_sample_ratio=NEW,
        energy_reg_weight=REGULARISATION,
        device=data.device,
    )
    return step_of(lambda: objective(_rows(settings, data))[0], model)


def _energy(settings: PictureSettings, data: Tensor, seed: int) -> ConvEnergy:
    config = NetworkConfig(kind="conv", channels=settings.channels, dense=settings.dense)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConvEnergy(config, (1, settings.side, settings.side)).to(data.device)


def _plain(settings: PictureSettings, data: Tensor, seed: int) -> nn.Module:
    """The same network and weights as a user would write it."""
    energy = _energy(settings, data, seed)
    layers: list[nn.Module] = []
    for conv in energy.convs:
        theirs = cast(nn.Conv2d, conv)
        size = (theirs.in_channels, theirs.out_channels, theirs.kernel_size[0])
        mine = nn.Conv2d(*size, stride=2, padding=cast(tuple[int, int], theirs.padding))
        mine.load_state_dict(theirs.state_dict())
        layers += [mine, nn.SiLU()]
    layers += [nn.Flatten(), energy.dense, nn.SiLU(), energy.last, nn.Flatten(0)]
    return nn.Sequential(*layers).to(data.device)


def _new(settings: PictureSettings) -> int:
    return max(1, round(NEW * settings.batch))


def _noise(settings: PictureSettings, data: Tensor, rows: int) -> Tensor:
    return torch.rand(rows, 1, settings.side, settings.side, device=data.device).mul_(2).sub_(1)


def _rows(settings: PictureSettings, data: Tensor) -> Tensor:
    return data[torch.randint(len(data), (settings.batch,), device=data.device)]
